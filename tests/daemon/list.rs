//! The list of all connections while people come and go, and what it costs those who do not read it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::support::control::Caller;
use crate::support::{Chat, Daemon, until};

/// More than one page.
const STAY: usize = 700;

/// All rows of one list; how many replies they came in.
fn list(caller: &mut Caller, parameters: Value) -> (Vec<Value>, usize) {
    caller.call("ListClients", parameters, true).expect("the daemon listens");
    let (mut rows, mut replies) = (Vec::new(), 0);
    loop {
        let mut reply = caller.reply().expect("a page");
        rows.append(reply["parameters"]["clients"].as_array_mut().expect("rows"));
        replies += 1;
        if reply["continues"] != true {
            return (rows, replies);
        }
    }
}

#[test]
fn who_stays_is_listed_once_whoever_comes_and_goes() {
    let daemon = Daemon::plain("");
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let stay: Vec<Chat> = (0..STAY).map(|_| daemon.text()).collect();
    until("all are known", || (daemon.json(&["list", "--count"])["count"] == STAY as u64 + 2).then_some(()));
    let before: Vec<u64> = daemon.clients(&[]).iter().filter_map(|row| row["id"].as_u64()).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                drop([daemon.text(), daemon.text(), daemon.text()]);
            }
        });
        let mut caller = daemon.caller();
        for n in 0..20 {
            let (rows, replies) = list(&mut caller, json!({}));
            assert!(replies > 1);
            let mut times: HashMap<u64, usize> = HashMap::new();
            for row in &rows {
                *times.entry(row["id"].as_u64().expect("a number")).or_default() += 1;
            }
            assert!(times.values().all(|times| *times == 1), "nobody twice");
            assert!(before.iter().all(|id| times.contains_key(id)), "everybody who stays");
            // In an order, nobody is twice either, and those who are first are.
            let (first, _) = list(&mut caller, json!({"sort": "id", "limit": STAY}));
            let ids: Vec<u64> = first.iter().filter_map(|row| row["id"].as_u64()).collect();
            assert_eq!(ids, before[..STAY]);
            ann.say(&n.to_string());
            bob.hears(&n.to_string());
        }
        over.store(true, Relaxed);
    });
    drop(stay);
}

#[test]
fn a_room_and_a_nick_are_found_among_many() {
    let daemon = Daemon::plain("[limits]\nburst = 1000000\nrate = \"1000000/s\"\n");
    let _crowd: Vec<Chat> = (0..20).map(|_| daemon.text()).collect();
    let mut tea = Chat::open(daemon.connect(), "/chat", "");
    tea.hello(json!({"v": 1, "nick": "Tea-Drinker", "rooms": ["tea"]}));
    tea.frame("joined");
    for filter in [&["--room", "tea"][..], &["--nick", "tea-drinker"], &["--user", &tea.user], &["--dialect", "json"]] {
        let found = daemon.clients(filter);
        assert_eq!(found.len(), 1, "{filter:?}");
        assert_eq!(found[0]["nick"], "Tea-Drinker");
    }
    for filter in [&["--room", "coffee"][..], &["--nick", "coffee"], &["--nick", "tea-drinker", "--room", "lobby"]] {
        assert_eq!(daemon.clients(filter).len(), 0, "{filter:?}");
    }
    // The busiest room is where something is said, wherever more people are.
    let mut caller = daemon.caller();
    let mut busiest = || {
        let order = json!({"sort": "rate", "descending": true, "limit": 1});
        caller.ask("ListRooms", order).expect("an answer")["rooms"][0]["name"].clone()
    };
    assert_eq!(busiest(), "lobby", "nothing has been said");
    until("something is said in tea", || {
        tea.send("message", json!({"room": "tea", "text": "hot"}));
        tea.frame("ack");
        (busiest() == "tea").then_some(())
    });
    // And who says it comes first.
    until("it says the most", || {
        tea.send("message", json!({"room": "tea", "text": "hot"}));
        tea.frame("ack");
        let (rows, _) = list(&mut daemon.caller(), json!({"sort": "in_rate", "descending": true, "limit": 1}));
        (rows[0]["nick"] == "Tea-Drinker").then_some(())
    });
}
