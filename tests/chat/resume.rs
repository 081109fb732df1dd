//! What was said while one was away: history, resume, and messages that are sent twice.

use serde_json::{Value, json};

use crate::support::client::refused;
use crate::support::{Client, Daemon, NO_RATE};

fn texts(history: &Value) -> Vec<(u64, String)> {
    let messages = history["messages"].as_array().unwrap();
    let text = |m: &Value| (m["seq"].as_u64().unwrap(), m["payload"]["text"].as_str().unwrap().to_owned());
    messages.iter().map(text).collect()
}

fn history(client: &mut Client, payload: Value) -> Value {
    let re = client.say("history", payload);
    let history = client.skip_to("history");
    assert_eq!(history["re"], re);
    history
}

/// Says these, and waits for their acks every so often: only so many may be on their way to the store.
fn pour(client: &mut Client, range: std::ops::RangeInclusive<u64>, text: impl Fn(u64) -> String) {
    let last = *range.end();
    for n in range {
        client.say("message", json!({"text": text(n)}));
        if n % 500 == 0 || n == last {
            while client.skip_to("ack")["seq"] != n {}
        }
    }
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
    range.map(|n| (n, format!("m{n}"))).collect()
}

#[test]
fn history_before_and_after() {
    let daemon = Daemon::start(NO_RATE);
    let mut ann = daemon.json();
    let (_, joined) = ann.hello(json!({"nick": "Ann"}));
    for n in 1..=20 {
        ann.message(&format!("m{n}"));
    }
    let mut bob = daemon.guest("Bob");
    let latest = history(&mut bob, json!({"room": "lobby", "limit": 5}));
    assert_eq!((texts(&latest), &latest["more"]), (numbered(16..=20), &json!(true)));
    assert_eq!((&latest["epoch"], &latest["room"]), (&joined["epoch"], &json!("lobby")));
    let first = &latest["messages"][0];
    assert_eq!((&first["type"], &first["payload"]["from"]["nick"]), (&json!("message"), &json!("Ann")));

    let before = history(&mut bob, json!({"room": "lobby", "before": 16, "limit": 10}));
    assert_eq!((texts(&before), &before["more"]), (numbered(6..=15), &json!(true)));
    let rest = history(&mut bob, json!({"room": "lobby", "before": 6, "limit": 10}));
    assert_eq!((texts(&rest), &rest["more"]), (numbered(1..=5), &json!(false)));
    let after = history(&mut bob, json!({"room": "lobby", "after": 3, "limit": 4}));
    assert_eq!((texts(&after), &after["more"]), (numbered(4..=7), &json!(true)));
    let end = history(&mut bob, json!({"room": "lobby", "after": 18, "limit": 4}));
    assert_eq!((texts(&end), &end["more"]), (numbered(19..=20), &json!(false)));
    for nothing in [json!({"room": "lobby", "after": 20}), json!({"room": "lobby", "before": 1})] {
        let nothing = history(&mut bob, nothing);
        assert_eq!((texts(&nothing), &nothing["more"]), (vec![], &json!(false)));
    }
    let both = json!({"room": "lobby", "after": 1, "before": 3});
    assert_eq!(refused(&mut bob, "history", both)["code"], "bad_request");

    // Joining may bring the last few along, as ordinary frames.
    let mut eve = daemon.json();
    eve.hello(json!({"rooms": ["tea"]}));
    eve.say("join", json!({"room": "lobby", "history": 3}));
    assert_eq!(eve.expect("joined")["payload"]["seq"], 20);
    let missed: Vec<Value> = (0..3).map(|_| eve.expect("message")).collect();
    assert_eq!(texts(&json!({"messages": missed})), numbered(18..=20));
    daemon.stop();
}

#[test]
fn a_resume_brings_what_was_missed_and_then_what_comes() {
    let daemon = Daemon::start(NO_RATE);
    let mut ann = daemon.json();
    let (is, joined) = ann.hello(json!({"nick": "Ann"}));
    let mut bob = daemon.guest("Bob");
    for n in 1..=3 {
        bob.message(&format!("m{n}"));
    }
    while ann.skip_to("message")["text"] != "m3" {}
    drop(ann);
    // More than a page of the log holds.
    pour(&mut bob, 4..=1200, |n| format!("m{n}"));
    let mut ann = daemon.json();
    let resume = json!({"rooms": {"lobby": {"epoch": joined["epoch"], "seq": 3}}});
    let (again, joined) = ann.hello(json!({"guest": is["guest"], "rooms": [], "resume": resume}));
    assert_eq!((&again["resumed"], &again["user"]), (&json!(true), &is["user"]));
    assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(true), &json!(1200)));
    // What is said meanwhile waits for its turn.
    for n in 1201..=1210 {
        bob.say("message", json!({"text": format!("m{n}")}));
    }
    for n in 4..=1210 {
        let message = ann.expect("message");
        assert_eq!((&message["seq"], &message["payload"]["text"]), (&json!(n), &json!(format!("m{n}"))));
    }
    daemon.stop();
}

#[test]
fn a_long_backlog_is_no_slow_reading() {
    let daemon = Daemon::start(&NO_RATE.replace("[limits]\n", "[limits]\noutbox = \"64KiB\"\n"));
    let mut bob = daemon.json();
    let (_, joined) = bob.hello(json!({"nick": "Bob"}));
    // Many times the outbox, and more than the kernel holds for a narrow reader.
    let long = "x".repeat(3900);
    pour(&mut bob, 1..=2000, |n| format!("{n} {long}"));
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut late = dial.narrow().open("/chat");
        let resume = json!({"rooms": {"lobby": {"epoch": joined["epoch"], "seq": 0}}});
        let (welcome, joined) = late.hello(json!({"resume": resume}));
        assert_eq!((&welcome["resumed"], &joined["recovered"]), (&json!(true), &json!(true)));
        let head = joined["seq"].as_u64().unwrap();
        // It does not look for a while, and more is said meanwhile.
        for n in 1..=20 {
            bob.message(&format!("live {n}"));
        }
        for seq in 1..=head + 20 {
            let message = late.expect("message");
            assert_eq!(message["seq"], seq);
        }
        late.message("here");
        late.say("bye", json!({}));
        assert_eq!(late.end().code(), 1000);
    }
    daemon.stop();
}

#[test]
fn a_cursor_of_another_stream_or_of_what_is_gone_is_told_so() {
    let daemon = Daemon::start(&format!("{NO_RATE}[history]\nkeep = 5\n"));
    let mut bob = daemon.json();
    let (_, joined) = bob.hello(json!({"nick": "Bob"}));
    let epoch = &joined["epoch"];
    for n in 1..=10 {
        bob.message(&format!("m{n}"));
    }
    let another = json!("another");
    // The epoch and how far the cursor is behind what is said last; what is missed, if that is known.
    let rows = [(&another, 2, None), (epoch, 6, None), (epoch, -1, None), (epoch, 5, Some(5)), (epoch, 0, Some(0))];
    for (head, (epoch, behind, missed)) in (10u64..).zip(rows) {
        let seq = head.checked_add_signed(-behind).unwrap();
        let mut client = daemon.json();
        let resume = json!({"rooms": {"lobby": {"epoch": epoch, "seq": seq}}});
        let (welcome, joined) = client.hello(json!({"resume": resume}));
        let recovered = json!(missed.is_some());
        assert_eq!((&welcome["resumed"], &joined["recovered"]), (&recovered, &recovered), "{seq}");
        assert_eq!(joined["seq"], head);
        let mut said = Vec::new();
        let mut hear_to = |last: u64| {
            while said.last() != Some(&last) {
                let frame = client.json();
                assert_ne!(frame["type"], "error", "{frame}");
                if frame["type"] == "message" {
                    said.push(frame["seq"].as_u64().unwrap());
                }
            }
        };
        // What is said next drives out the oldest that is kept, so what is missed has to be here by then.
        if missed.is_some_and(|missed| missed > 0) {
            hear_to(head);
        }
        // And it comes behind all that was missed.
        bob.message(&format!("m{}", head + 1));
        hear_to(head + 1);
        let wanted: Vec<u64> = (head + 1 - missed.unwrap_or(0)..=head + 1).collect();
        assert_eq!(said, wanted, "{seq}");
        let all = history(&mut client, json!({"room": "lobby"}));
        assert_eq!(texts(&all), numbered(head - 3..=head + 1));
        client.say("bye", json!({}));
        assert_eq!(client.end().code(), 1000);
    }
    daemon.stop();
}

#[test]
fn without_a_store_nothing_is_recovered() {
    let daemon = Daemon::start("[history]\nstore = \"none\"\n");
    let mut bob = daemon.json();
    let (_, joined) = bob.hello(json!({"nick": "Bob"}));
    assert_eq!((bob.message("m1")["seq"].clone(), bob.message("m2")["seq"].clone()), (json!(1), json!(2)));
    let mut client = daemon.json();
    let resume = json!({"rooms": {"lobby": {"epoch": joined["epoch"], "seq": 1}}});
    let (_, joined) = client.hello(json!({"resume": resume}));
    assert_eq!(joined["recovered"], false);
    assert_eq!(texts(&history(&mut client, json!({"room": "lobby"}))), []);
    daemon.stop();
}

#[test]
fn a_message_sent_again_after_a_reconnect_is_stored_once() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    let mut ann = daemon.json();
    let (is, _) = ann.hello(json!({"nick": "Ann"}));
    ann.say("message", json!({"text": "once", "cid": "a1"}));
    let first = ann.expect("ack")["payload"].clone();
    drop(ann);
    let mut ann = daemon.json();
    ann.hello(json!({"guest": is["guest"]}));
    let re = ann.say("message", json!({"text": "once", "cid": "a1"}));
    let second = ann.expect("ack")["payload"].clone();
    assert_eq!(second["re"], re);
    for member in ["seq", "id", "room"] {
        assert_eq!(second[member], first[member]);
    }
    // The same name by somebody else, in another room, or another name is another message.
    watch.say("message", json!({"text": "mine", "cid": "a1"}));
    assert_eq!(watch.skip_to("ack")["seq"], 2);
    ann.say("message", json!({"text": "next", "cid": "a2"}));
    assert_eq!(ann.skip_to("ack")["seq"], 3);
    ann.say("join", json!({"room": "tea"}));
    ann.skip_to("joined");
    ann.say("message", json!({"room": "tea", "text": "tea", "cid": "a1"}));
    assert_eq!(ann.skip_to("ack")["seq"], 1);
    let all = history(&mut watch, json!({"room": "lobby"}));
    let texts: Vec<String> = texts(&all).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["once", "mine", "next"]);
    daemon.stop();
}
