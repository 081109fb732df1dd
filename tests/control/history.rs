//! What has been said in a room: in pages, in every form, and followed as it grows.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};
use wschat::admin::{EventKind, HISTORY_PAGE};
use wschat::chat::event::{Action, Body, Dialect, Member};
use wschat::chat::id::{Nick, UserId};

use crate::commands::{ends, on_terminal};
use crate::fake::{Daemon, EVENTS, Raw, some, until};
use crate::socket::event;
use crate::store::{Stream, room_name};

fn with(room: &str, stream: Stream) -> Daemon {
    let daemon = Daemon::start(some());
    daemon.world.lock().unwrap().stored.insert(room_name(room), stream);
    daemon
}

fn seqs(messages: &Value) -> Vec<u64> {
    messages.as_array().unwrap().iter().map(|frame| frame["seq"].as_u64().unwrap()).collect()
}

/// All pages of one call: the numbers of their entries, and what the last one says of more.
fn pages(raw: &mut Raw, parameters: Value) -> (Vec<u64>, bool) {
    raw.send(json!({"method": "org.wschat.Control.History", "more": true, "parameters": parameters}));
    let mut all = Vec::new();
    loop {
        let reply = raw.reply().unwrap();
        assert_eq!(reply.get("error"), None, "{reply}");
        all.extend(seqs(&reply["parameters"]["entries"]));
        if reply.get("continues").is_none() {
            return (all, reply["parameters"]["more"].as_bool().unwrap());
        }
    }
}

#[test]
fn every_kind_of_entry_in_every_form() {
    let mut stream = Stream::default();
    stream.say("hello \u{1b}[2J\tthere\n大厅\u{202e}");
    stream.say("regretted");
    let data = RawValue::from_string("{\"price\":1.10}".into()).unwrap();
    stream.push(Body::Event { name: "order".into(), data: Some(Arc::from(data)) });
    let daemon = with("lobby", stream);
    assert_eq!(daemon.ctl(&["delete", "lobby", "2"]).status, 0);

    let shown = daemon.json(&["history", "lobby"]);
    assert_eq!((&shown["room"], &shown["epoch"], &shown["more"]), (&json!("lobby"), &json!("e1"), &json!(false)));
    assert_eq!(seqs(&shown["messages"]), [1, 2, 3, 4]);
    let first = json!({"room": "lobby", "id": "m1", "from": {"user": "u1", "nick": "Ann"},
        "text": "hello \u{1b}[2J\tthere\n大厅\u{202e}", "time": "2023-11-14T22:13:21.000Z"});
    assert_eq!(shown["messages"][0], json!({"type": "message", "payload": first, "seq": 1}));
    let second = &shown["messages"][1]["payload"];
    assert_eq!((&second["deleted"], second.get("text")), (&json!(true), None));
    assert_eq!(shown["messages"][3]["payload"], json!({"room": "lobby", "target": 2}));
    let raw = daemon.ctl(&["--json", "history", "lobby"]);
    assert!(!raw.stdout.trim_end().chars().any(char::is_control), "{raw:?}");

    let plain = daemon.ctl(&["history", "lobby"]);
    let rows: Vec<&str> = plain.stdout.lines().collect();
    assert_eq!(
        rows,
        [
            "2023-11-14T22:13:21.000Z\t1\tmessage\tu1\tAnn\thello \\u{1b}[2J\\tthere\\n大厅\\u{202e}",
            "2023-11-14T22:13:22.000Z\t2\tmessage\tu1\tAnn\t(deleted)",
            "2023-11-14T22:13:23.000Z\t3\tevent\t\torder\t{\"price\":1.1}",
            "\t4\tdeleted\t\t\t2",
        ]
    );
    let seen = on_terminal(&daemon, "history lobby", "").stdout;
    assert!(seen.contains("     1 Ann: hello \\u{1b}[2J\\tthere\\n大厅\\u{202e}\r\n"), "{seen}");
    assert!(seen.contains("     2 Ann: (deleted)\r\n") && seen.contains("     4 deleted: 2\r\n"), "{seen}");

    assert_eq!(daemon.ctl(&["room", "purge", "lobby", "--yes"]).status, 0);
    assert_eq!(daemon.ctl(&["history", "lobby"]).stdout, "\t5\tdeleted\t\t\teverything up to 4\n");
}

#[test]
fn what_is_not_there_and_what_cannot_be_read() {
    let daemon = with("empty", Stream::default());
    assert_eq!(
        daemon.json(&["history", "empty"]),
        json!({"room": "empty", "epoch": "e1", "messages": [], "more": false})
    );
    assert_eq!(daemon.ctl(&["history", "empty"]).stdout, "");
    ends(&daemon.ctl(&["history", "attic"]), 65, "wschatctl rooms");
    ends(&daemon.ctl(&["history", "attic", "--follow"]), 65, "\"attic\"");
    ends(&daemon.ctl(&["history", "a b"]), 64, "1 to 64");
    ends(&daemon.ctl(&["history", "empty", "--before", "x"]), 64, "--before");
    ends(&daemon.ctl(&["history", "empty", "--after", "1", "--limit", "2", "--follow"]), 64, "--limit");
    let mut raw = daemon.raw();
    let (bad, odd) = ("org.wschat.Control.BadValue", "org.varlink.service.InvalidParameter");
    for (parameters, more, error) in [
        (json!({"room": "empty"}), false, "org.varlink.service.ExpectedMore"),
        (json!({"room": "empty", "follow": true}), false, "org.varlink.service.ExpectedMore"),
        (json!({"room": "empty", "before": 3, "after": 1}), true, bad),
        (json!({"room": "empty", "before": 3, "follow": true}), true, bad),
        (json!({"room": "empty", "after": 3, "limit": 1, "follow": true}), true, bad),
        (json!({"room": "", "limit": 1}), true, bad),
        (json!({}), true, odd),
        (json!({"room": "empty", "limit": -1}), true, odd),
        (json!({"room": "empty", "since": 1}), true, odd),
        (json!({"room": "attic"}), true, "org.wschat.Control.NoSuchRoom"),
    ] {
        raw.send(json!({"method": "org.wschat.Control.History", "more": more, "parameters": parameters}));
        assert_eq!(raw.reply().unwrap()["error"], error, "{parameters}");
    }
    daemon.world.lock().unwrap().broken = Some("the disk is full".into());
    for arguments in [
        &["history", "empty"][..],
        &["history", "empty", "--follow"],
        &["rooms", "--stored"],
        &["room", "show", "empty"],
    ] {
        ends(&daemon.ctl(arguments), 75, "the disk is full");
    }
}

#[test]
fn long_rooms_come_in_pages() {
    let daemon = with("long", Stream::of(1234));
    let mut raw = daemon.raw();
    assert_eq!(pages(&mut raw, json!({"room": "long"})), ((1185..=1234).collect(), true));
    assert_eq!(pages(&mut raw, json!({"room": "long", "limit": 1234})), ((1..=1234).collect(), false));
    assert_eq!(pages(&mut raw, json!({"room": "long", "limit": 1_000_000})), ((1..=1234).collect(), false));
    assert_eq!(pages(&mut raw, json!({"room": "long", "limit": 1233})), ((2..=1234).collect(), true));
    assert_eq!(pages(&mut raw, json!({"room": "long", "after": 0, "limit": 1000})), ((1..=1000).collect(), true));
    assert_eq!(pages(&mut raw, json!({"room": "long", "before": 700, "limit": 600})), ((100..=699).collect(), true));
    assert_eq!(pages(&mut raw, json!({"room": "long", "limit": 0})), (vec![], true));
    assert_eq!(pages(&mut raw, json!({"room": "long", "after": 0, "limit": 0})), (vec![], true));
    let shown = daemon.json(&["history", "long", "--after", "0", "--limit", "5000"]);
    assert_eq!(seqs(&shown["messages"]), (1..=1234).collect::<Vec<_>>());
    assert_eq!(daemon.ctl(&["history", "long", "--limit", "600"]).stdout.lines().count(), 600);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Against the plain meaning of each option, at every edge of what is kept.
    #[test]
    fn any_range_is_what_it_says(
        gone in 0u64..8, kept in 0u64..8, range in prop_oneof![Just(None), (0u64..20).prop_map(|n| Some((true, n))), (0u64..20).prop_map(|n| Some((false, n)))],
        limit in 0u64..10,
    ) {
        thread_local!(static DAEMON: Daemon = Daemon::start(some()));
        let mut stream = Stream::of(gone + kept);
        stream.entries.drain(..gone as usize);
        let all: Vec<u64> = (gone + 1..=gone + kept).collect();
        let (wanted, more) = match range {
            Some((true, after)) => {
                let all: Vec<u64> = all.into_iter().filter(|seq| *seq > after).collect();
                (all.iter().copied().take(limit as usize).collect::<Vec<_>>(), all.len() > limit as usize)
            }
            other => {
                let before = other.map_or(u64::MAX, |(_, before)| before);
                let all: Vec<u64> = all.into_iter().filter(|seq| *seq < before).collect();
                (all[all.len().saturating_sub(limit as usize)..].to_vec(), all.len() > limit as usize)
            }
        };
        let mut parameters = json!({"room": "r", "limit": limit});
        if let Some((after, n)) = range {
            parameters[if after { "after" } else { "before" }] = n.into();
        }
        let found = DAEMON.with(|daemon| {
            daemon.world.lock().unwrap().stored.insert(room_name("r"), stream);
            pages(&mut daemon.raw(), parameters)
        });
        prop_assert_eq!(found, (wanted, more));
    }
}

#[test]
fn an_open_room_that_is_the_last_of_a_page_is_listed_once() {
    let daemon = with("lobby", Stream::of(5));
    {
        let mut world = daemon.world.lock().unwrap();
        for n in 1..HISTORY_PAGE {
            world.stored.insert(room_name(&format!("a-{n:04}")), Stream::default());
        }
        world.stored.insert(room_name("zoo"), Stream::of(1));
    }
    let mut raw = daemon.raw();
    raw.send(json!({"method": "org.wschat.Control.ListRooms", "more": true, "parameters": {"stored": true}}));
    let first = raw.reply().unwrap();
    assert_eq!((&first["continues"], raw.reply().unwrap()["continues"].as_bool()), (&json!(true), None));
    assert_eq!(first["parameters"]["rooms"].as_array().unwrap().last().unwrap()["name"], "lobby");
    let document = daemon.json(&["rooms", "--stored"]);
    let rooms = document["rooms"].as_array().unwrap();
    let tail: Vec<_> = rooms[rooms.len() - 3..].iter().map(|room| (&room["name"], &room["users"])).collect();
    assert_eq!(rooms.len(), HISTORY_PAGE as usize + 2);
    assert_eq!(tail, [(&json!("lobby"), &json!(2)), (&json!("tea"), &json!(1)), (&json!("zoo"), &json!(0))]);
    assert_eq!(rooms[rooms.len() - 3]["kept"], 5);
}

#[test]
fn stored_rooms_stand_beside_open_ones() {
    let daemon = with("lobby", Stream::of(9));
    let mut old = Stream::of(6);
    old.entries.drain(..2);
    daemon.world.lock().unwrap().stored.insert(room_name("attic"), old);
    assert_eq!(daemon.ctl(&["rooms"]).stdout, "lobby\t2\t2\t7\ntea\t1\t1\t7\n");
    assert_eq!(
        daemon.ctl(&["rooms", "--stored"]).stdout,
        "attic\t0\t0\t6\t3\t4\nlobby\t2\t2\t7\t1\t9\ntea\t1\t1\t7\t\t\n"
    );
    let rooms = daemon.json(&["rooms", "--stored"]);
    assert_eq!(rooms["rooms"][0], json!({"name": "attic", "users": 0, "clients": 0, "seq": 6, "first": 3, "kept": 4}));
    assert_eq!(
        daemon.json(&["room", "show", "attic"]),
        json!({"room": {"name": "attic", "users": 0, "clients": 0, "seq": 6, "epoch": "e1", "kept": 4, "members": []}})
    );
    let reply = daemon.raw().call("org.wschat.Control.ListRooms", json!({"stored": true}));
    assert_eq!(reply["error"], "org.varlink.service.ExpectedMore");
    // More than a page of them, the open ones among them in their place.
    for n in 0..1300 {
        daemon.world.lock().unwrap().stored.insert(room_name(&format!("room-{n:04}")), Stream::default());
    }
    let listed = daemon.ctl(&["rooms", "--stored"]).stdout;
    let names: Vec<&str> = listed.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(names.len(), 1303);
    assert!(names.is_sorted() && names.contains(&"tea") && names[0] == "attic");
    let document = daemon.json(&["rooms", "--stored"]);
    assert_eq!(document["rooms"].as_array().unwrap().len(), 1303);
}

/// `history --follow` of a room, line by line.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn of(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut all = vec!["history", "lobby", "--follow"];
        all.extend(arguments);
        let mut child = daemon.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Follower { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn frame(&mut self) -> (u64, String) {
        let frame: Value = serde_json::from_str(&self.line()).unwrap();
        (frame["seq"].as_u64().unwrap(), frame["type"].as_str().unwrap().to_owned())
    }

    fn ends(mut self) -> (i32, String) {
        let mut told = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        (self.child.wait().unwrap().code().unwrap(), told)
    }
}

#[test]
fn a_follower_misses_nothing_and_sees_nothing_twice() {
    let mut daemon = with("lobby", Stream::of(60));
    let mut follower = Follower::of(&daemon, &["--json", "--limit", "3"]);
    for seq in 58..=60 {
        assert_eq!(follower.frame(), (seq, "message".into()));
    }
    // Told of by an event, or by nobody at all; one by one or many at once; deletions too.
    let mut expected = Vec::new();
    for round in 0..30 {
        let mut world = daemon.world.lock().unwrap();
        for n in 0..=round {
            let stream = world.room("lobby");
            expected.push((stream.say(&format!("{round} {n}")), "message".to_owned()));
            if n % 7 == 6 {
                let target = stream.head - 1;
                world.moderate(String::new(), Action::Delete { room: room_name("lobby"), target }).unwrap();
                let stream = world.room("lobby");
                expected.push((stream.head, "deleted".to_owned()));
            }
        }
        drop(world);
        match round % 3 {
            0 => drop(daemon.events.send(event(EventKind::Message))),
            // More than the channel holds: what is missed says that there is something.
            1 => (0..EVENTS * 3).for_each(|_| drop(daemon.events.send(event(EventKind::Join)))),
            _ => {}
        }
        if round % 5 == 0 {
            for wanted in expected.drain(..) {
                assert_eq!(follower.frame(), wanted);
            }
        }
    }
    for wanted in expected.drain(..) {
        assert_eq!(follower.frame(), wanted);
    }
    daemon.stop();
    let (status, told) = follower.ends();
    assert!(status == 69 && told.contains("it is stopping"), "{status} {told}");
}

#[test]
fn a_follower_begins_where_it_is_told_and_hears_of_gaps() {
    let mut daemon = with("lobby", Stream::of(700));
    let mut all = Follower::of(&daemon, &["--json", "--after", "0"]);
    for seq in 1..=700 {
        assert_eq!(all.frame().0, seq);
    }
    let follow = |parameters: Value| {
        let mut raw = daemon.raw();
        raw.send(json!({"method": "org.wschat.Control.History", "more": true, "parameters": parameters}));
        assert_eq!(raw.reply().unwrap()["parameters"]["entries"], json!([]));
        raw
    };
    let mut late = follow(json!({"room": "lobby", "after": 5000, "follow": true}));
    let mut none = follow(json!({"room": "lobby", "limit": 0, "follow": true}));
    let tell = |daemon: &Daemon| drop(daemon.events.send(event(EventKind::Delete)));
    daemon.world.lock().unwrap().room("lobby").say("next");
    tell(&daemon);
    assert_eq!(all.frame().0, 701);
    for raw in [&mut late, &mut none] {
        assert_eq!(seqs(&raw.reply().unwrap()["parameters"]["entries"]), [701]);
    }
    drop((late, none));
    // What is gone before anybody could see it.
    {
        let mut world = daemon.world.lock().unwrap();
        let stream = world.room("lobby");
        for _ in 0..5 {
            stream.say("never seen");
        }
        world.moderate(String::new(), Action::Purge { room: room_name("lobby") }).unwrap();
    }
    tell(&daemon);
    assert_eq!(all.frame(), (707, "deleted".into()));
    // The room's numbers start again, and are further by now than they were.
    let mut anew = Stream { epoch: "e2".into(), ..Stream::default() };
    for n in 1..=800 {
        let from = Member { user: UserId::parse("u2").unwrap(), nick: Nick::parse("Bob").unwrap() };
        anew.push(Body::Message { from, text: Some(n.to_string()), cid: None, dialect: Dialect::Text });
    }
    daemon.world.lock().unwrap().stored.insert(room_name("lobby"), anew);
    tell(&daemon);
    for seq in 1..=800 {
        assert_eq!(all.frame().0, seq);
    }
    daemon.stop();
    let (_, told) = all.ends();
    assert!(told.contains("702 to 706 were removed") && told.contains("numbers start again"), "{told}");
}

#[test]
fn a_follower_waits_out_a_history_that_cannot_be_read() {
    let daemon = with("lobby", Stream::of(1));
    let mut follower = Follower::of(&daemon, &["--json"]);
    assert_eq!(follower.frame().0, 1);
    let break_it = |why: Option<&str>| daemon.world.lock().unwrap().broken = why.map(str::to_owned);
    break_it(Some("the disk has gone"));
    let before = daemon.world.lock().unwrap().reads;
    until("it has tried", || daemon.world.lock().unwrap().reads > before + 1);
    daemon.world.lock().unwrap().room("lobby").say("meanwhile");
    break_it(None);
    assert_eq!(follower.frame().0, 2);
    follower.child.kill().unwrap();
    follower.child.wait().unwrap();
    until("its place is free", || daemon.events.receiver_count() == 0);
}

#[test]
fn a_follower_that_does_not_read_holds_up_nobody() {
    let daemon = with("lobby", Stream::default());
    let mut slow = daemon.raw();
    slow.send(json!({"method": "org.wschat.Control.History", "more": true,
        "parameters": {"room": "lobby", "follow": true}}));
    let first = slow.reply().unwrap();
    assert_eq!((&first["continues"], &first["parameters"]["entries"]), (&json!(true), &json!([])));
    // Far more than a socket's buffer holds.
    let text = "x".repeat(4000);
    for _ in 0..2000 {
        daemon.world.lock().unwrap().room("lobby").say(&text);
        let _ = daemon.events.send(event(EventKind::Message));
    }
    let mut other = daemon.raw();
    for _ in 0..100 {
        other.call("org.wschat.Control.Ping", json!({}));
    }
    let reads = daemon.world.lock().unwrap().reads;
    assert!(reads < 100, "it is not read for: {reads}");
    // And once it reads, all of it is there.
    let mut seen = 0;
    while seen < 2000 {
        let reply = slow.reply().unwrap();
        for seq in seqs(&reply["parameters"]["entries"]) {
            assert_eq!(seq, seen + 1);
            seen = seq;
        }
    }
    drop(slow);
    until("no follower", || daemon.events.receiver_count() == 0);
}
