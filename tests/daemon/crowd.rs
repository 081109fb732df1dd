//! Callers of the control socket who are many, slow, stuck or talk nonsense hold up nobody.

use serde_json::{Value, json};

use crate::numbers::Numbers;
use crate::support::client::UPGRADE;
use crate::support::control::Caller;
use crate::support::daemon::PLAIN;
use crate::support::{Chat, Daemon, Http, Setup, Stream, until};

const FREE: &str = "[limits]\nburst = 1000000\nrate = \"1000000/s\"\n";

fn talk(ann: &mut Chat, bob: &mut Chat, text: &str) {
    ann.say(text);
    bob.hears(text);
}

#[test]
fn a_watcher_that_does_not_read_holds_up_nobody() {
    let daemon = Daemon::plain(FREE);
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let mut stuck = daemon.caller().watch(&[]);
    // More than its socket and its queue take.
    for n in 0..3000 {
        talk(&mut ann, &mut bob, &n.to_string());
    }
    assert_eq!(daemon.json(&["ping"])["ok"], true);
    assert_eq!(daemon.json(&["status"])["messages"], 3000);
    let mut watching = daemon.caller().watch(&["notice"]);
    assert_eq!(daemon.json(&["notice", "still here"])["done"], 2);
    assert_eq!(watching.next()["detail"], "still here");
    // In the end it reads, and is told how many it missed: none is left out of both counts.
    let (mut seen, mut missed) = (0, 0);
    loop {
        let reply = stuck.reply();
        missed += reply["missed"].as_u64().unwrap_or(0);
        match reply["event"]["type"].as_str() {
            Some("message") => seen += 1,
            Some("notice") => break,
            _ => {}
        }
    }
    assert!(missed > 0 && seen > 0, "{seen} {missed}");
    assert_eq!(seen + missed, 3000);
    assert_eq!(Numbers::of(&daemon).get("wschat_events_missed_total"), missed as f64);
}

#[test]
fn callers_that_stop_half_way_hold_up_nobody() {
    let daemon = Daemon::plain(FREE);
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let crowd: Vec<Chat> = (0..600).map(|_| daemon.text()).collect();
    until("all are known", || (daemon.json(&["list", "--count"])["count"] == 602).then_some(()));
    let mut stuck = Vec::new();
    for n in 0..40 {
        let mut caller = daemon.caller();
        match n % 4 {
            // Half a call.
            0 => caller.send(b"{\"method\":\"org.wschat.Control.Sta").unwrap(),
            // Nothing at all.
            1 => {}
            // Calls whose answers are never read.
            2 => {
                for _ in 0..20 {
                    caller.call("ListClients", json!({}), true).unwrap();
                }
            }
            _ => caller.call("Events", json!({}), true).unwrap(),
        }
        stuck.push(caller);
    }
    for n in 0..50 {
        talk(&mut ann, &mut bob, &n.to_string());
        assert!(daemon.caller().ask("Status", Value::Null).is_ok());
    }
    assert_eq!(daemon.json(&["notice", "hello", "--room", "lobby"])["matched"], 602);
    let kick = daemon.json(&["kick", "--dialect", "text", "--dry-run"]);
    assert_eq!(kick["matched"], 600);
    drop(crowd);
}

#[test]
fn a_thousand_callers_are_bounded_and_leave_nothing() {
    let daemon = Daemon::plain(FREE);
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let log = daemon.log();
    let mut callers = Vec::new();
    for n in 0..1000 {
        let mut caller = daemon.caller();
        // Who is turned away may be gone before it has spoken.
        let _ = match n % 3 {
            0 => caller.send(b"{\"method\":"),
            1 => caller.call("Ping", Value::Null, false),
            _ => Ok(()),
        };
        callers.push(caller);
        if n % 50 == 0 {
            talk(&mut ann, &mut bob, &n.to_string());
        }
    }
    // Those beyond the bound are told so.
    let refusal = until("one is turned away", || {
        let mut caller = daemon.caller();
        caller.reply().ok().filter(|reply| reply["error"] == "org.wschat.Control.TooManyConnections")
    });
    assert_eq!(refusal["parameters"], json!({"limit": 64}));
    daemon.ctl(&["ping"]).ends(75, "64 others hold this socket open already");
    talk(&mut ann, &mut bob, "we do not care");
    drop(callers);
    until("it recovers", || (daemon.ctl(&["ping"]).status == 0).then_some(()));
    assert_eq!(daemon.json(&["status"])["clients"], 2);
    assert_eq!(daemon.log(), log, "strangers to nobody, and no noise");
}

#[test]
fn nonsense_is_answered_by_an_error_or_a_closed_connection() {
    let daemon = Daemon::plain("");
    let huge = vec![b'x'; 4 << 20];
    let deep = [vec![b'['; 100_000], vec![0]].concat();
    for (nonsense, error) in [
        (&b"\0"[..], "Malformed"),
        (b"hello\0", "Malformed"),
        (b"[]\0", "Malformed"),
        (b"{\"method\":7}\0", "Malformed"),
        (b"{\"method\":\"\xff\"}\0", "Malformed"),
        (b"GET / HTTP/1.1\r\n\r\n\0", "Malformed"),
        (&deep, "Malformed"),
        (b"{\"method\":\"Status\"}\0", "InterfaceNotFound"),
        (b"{\"method\":\"org.example.Other.Call\"}\0", "InterfaceNotFound"),
        (b"{\"method\":\"org.wschat.Control.Nonsense\"}\0", "MethodNotFound"),
        (b"{\"method\":\"org.wschat.Control.Status\",\"parameters\":[]}\0", "InvalidParameter"),
        (b"{\"method\":\"org.wschat.Control.Kick\",\"parameters\":{\"ids\":\"all\"}}\0", "InvalidParameter"),
        (b"{\"method\":\"org.wschat.Control.Kick\",\"parameters\":{\"idz\":[1]}}\0", "InvalidParameter"),
        (b"{\"method\":\"org.wschat.Control.Kick\"}\0", "EmptyFilter"),
        (b"{\"method\":\"org.wschat.Control.ListClients\"}\0", "ExpectedMore"),
        (&huge, "CallTooLarge"),
    ] {
        let mut caller: Caller = daemon.caller();
        // Whoever says too much is cut off while it speaks.
        let _ = caller.send(nonsense);
        let shown = String::from_utf8_lossy(&nonsense[..nonsense.len().min(60)]).into_owned();
        match caller.reply() {
            Ok(reply) => {
                let told = reply["error"].as_str().unwrap_or_else(|| panic!("{shown}: {reply}"));
                assert!(told.ends_with(&format!(".{error}")), "{shown}: {reply}");
            }
            Err(closed) => assert_eq!(error, "CallTooLarge", "{shown}: {closed}"),
        }
        assert!(daemon.caller().ask("Ping", Value::Null).is_ok(), "{shown}");
    }
    assert_eq!(daemon.log().matches(" WARN ").count() + daemon.log().matches(" ERROR ").count(), 0);
}

#[test]
fn more_clients_than_files_are_told_so_and_operators_still_get_in() {
    let daemon = Setup::new(&format!("{PLAIN}{FREE}")).most_files(200).start();
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let most = daemon.json(&["status"])["clients_max"].as_u64().unwrap();
    assert!((50..200).contains(&most), "{most}");
    let mut inside = Vec::new();
    let mut told = 0;
    for _ in 2..most + 10 {
        let mut http = daemon.http();
        match http.ask("GET /wss", &UPGRADE).status {
            101 => inside.push(http),
            503 => told += 1,
            status => panic!("{status}"),
        }
    }
    assert_eq!((inside.len() as u64 + 2, told), (most, 10));
    // Many more who say nothing at all: for some there is no descriptor, not even for an answer.
    let silent: Vec<Stream> = (0..300).map(|_| Stream::tcp(daemon.address())).collect();
    talk(&mut ann, &mut bob, "we are inside");
    assert_eq!(daemon.json(&["list", "--count"])["count"], most);
    assert_eq!(daemon.json(&["notice", "full house", "--user", &ann.user])["done"], 1);
    drop(silent);
    drop(inside);
    until("there is room again", || (daemon.json(&["status"])["clients"] == 2).then_some(()));
    until("somebody comes in", || {
        let mut http = Http::new(daemon.connect());
        (http.ask("GET /wss", &UPGRADE).status == 101).then_some(())
    });
    assert!(!daemon.log().contains(" ERROR "), "{}", daemon.log());
}
