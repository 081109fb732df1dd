//! Hello, rooms, messages and everything else that people say to each other in the JSON dialect.

use serde_json::{Value, json};

use crate::support::client::refused;
use crate::support::{Daemon, Frame, NO_RATE, until};

#[test]
fn a_hello_is_welcomed_with_what_holds_here() {
    let daemon = Daemon::start(
        "[limits]\ntext = \"1000B\"\nframe = \"8KiB\"\nrate = \"5/s\"\nburst = 7\n[timeouts]\nping = \"40s\"\n",
    );
    let mut ann = daemon.dial_tls().open("/chat");
    let re = ann.say("hello", json!({"v": 1, "nick": "Ann", "agent": "test", "unknown": {"a": [1]}}));
    let welcome = ann.expect("welcome");
    assert_eq!(welcome["seq"], 0);
    let welcome = &welcome["payload"];
    assert_eq!((&welcome["re"], &welcome["nick"]), (&json!(re), &json!("Ann")));
    assert_eq!(welcome["limits"], json!({"text": 1000, "frame": 8192, "rate": 5.0, "burst": 7}));
    assert_eq!((&welcome["ping_ms"], &welcome["resumed"]), (&json!(40_000), &json!(false)));
    assert_eq!(welcome["server"], concat!("wschat/", env!("CARGO_PKG_VERSION")));
    let user = welcome["user"].as_str().unwrap();
    assert!(user.starts_with("guest-") && welcome["client"].is_u64() && welcome["guest"].is_string(), "{welcome}");

    let joined = &ann.expect("joined")["payload"];
    assert_eq!((&joined["re"], &joined["room"], &joined["seq"]), (&json!(re), &json!("lobby"), &json!(0)));
    assert_eq!((&joined["online"], &joined["recovered"]), (&json!(1), &json!(false)));
    assert_eq!(joined["members"], json!([{"user": user, "nick": "Ann"}]));
    assert!(joined["epoch"].as_str().is_some_and(|epoch| !epoch.is_empty()));
    assert_eq!(ann.said(), [] as [Value; 0], "nothing about its own joining");
    daemon.stop();
}

#[test]
fn the_guest_string_makes_the_same_user_again() {
    let daemon = Daemon::start("");
    let mut ann = daemon.json();
    let (first, _) = ann.hello(json!({"nick": "Ann"}));
    ann.say("bye", json!({}));
    assert_eq!(ann.end().code(), 1000);

    let mut again = daemon.json();
    let (second, _) = again.hello(json!({"nick": "Ann", "guest": first["guest"]}));
    assert_eq!((&second["user"], &second["nick"]), (&first["user"], &json!("Ann")));
    assert_ne!(second["client"], first["client"]);

    // One that we did not sign makes a newcomer.
    let forged = first["guest"].as_str().unwrap().replacen('.', "x.", 1);
    let mut other = daemon.json();
    let (third, _) = other.hello(json!({"guest": forged}));
    assert_ne!(third["user"], first["user"]);
    daemon.stop();
}

#[test]
fn who_says_no_hello_has_said_an_empty_one() {
    let daemon = Daemon::start("");
    // The tutorials' ping, and nothing but that.
    let mut bare = daemon.json();
    bare.text(r#"{"type":"ping"}"#);
    assert_eq!(bare.expect("pong"), json!({"type": "pong", "payload": {}, "seq": 0}));
    bare.expect("welcome");
    assert_eq!(bare.expect("joined")["payload"]["room"], "lobby");

    let mut terminal = daemon.json();
    terminal.text(r#"{"type":"message","payload":{"text":"hi"}}"#);
    terminal.expect("welcome");
    terminal.expect("joined");
    let ack = &terminal.expect("ack")["payload"];
    assert_eq!((&ack["re"], &ack["seq"], &ack["room"]), (&json!(0), &json!(1), &json!("lobby")));
    assert_eq!(bare.expect("presence")["payload"]["state"], "join");
    assert_eq!(bare.expect("message")["payload"]["text"], "hi");

    // Too late for another.
    let error = refused(&mut terminal, "hello", json!({"nick": "Terry"}));
    assert_eq!((&error["code"], &error["temporary"]), (&json!("bad_request"), &json!(false)));
    terminal.message("still here");
    daemon.stop();
}

#[test]
fn frames_that_come_with_the_handshake_are_heard() {
    let daemon = Daemon::start("");
    let hello = Frame::text(r#"{"type":"hello","payload":{"nick":"Early"},"seq":3}"#);
    let ping = Frame::text(r#"{"type":"ping","payload":{"deep":[[1]]},"seq":4}"#);
    let early = [hello.masked(), ping.masked()].concat();
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut client = dial.early(early.clone()).open("/chat");
        assert_eq!(client.skip_to("pong"), json!({"deep": [[1]]}));
        client.say("bye", json!({}));
        assert_eq!(client.end().code(), 1000);
    }
    // More than a head may be long, and cut anywhere.
    let long: Vec<u8> = (0..15)
        .flat_map(|n| {
            Frame::text(&json!({"type": "ping", "payload": {"n": n, "x": "x".repeat(3000)}}).to_string()).masked()
        })
        .collect();
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut client = dial.early(long.clone()).open("/chat");
        for n in 0..15 {
            assert_eq!(client.skip_to("pong")["n"], n);
        }
    }
    // Broken ones are as broken as later.
    for (bytes, code) in [(vec![0x88, 0x02, 0x03, 0xe8], 1002), (Frame::close(4000, b"").masked(), 4000)] {
        for dial in [daemon.dial(), daemon.dial_tls()] {
            assert_eq!(dial.early(bytes.clone()).open("/chat").end().code(), code);
        }
    }
    daemon.stop();
}

#[test]
fn a_hello_of_another_version_is_refused_and_may_be_said_again() {
    let daemon = Daemon::start("");
    let mut client = daemon.json();
    assert_eq!(refused(&mut client, "hello", json!({"v": 2}))["code"], "bad_request");
    client.hello(json!({"v": 1}));
    daemon.stop();
}

#[test]
fn a_token_that_nobody_can_check_is_refused() {
    let daemon = Daemon::start("");
    let mut client = daemon.json();
    client.say("hello", json!({"token": "a.b.c"}));
    assert_eq!(client.end().code(), 4001);
    daemon.stop();
}

#[test]
fn a_taken_nick_is_told_and_another_given() {
    let daemon = Daemon::start("");
    let mut ann = daemon.guest("Ann");
    let mut other = daemon.json();
    let re = other.say("hello", json!({"nick": " ANN "}));
    let error = other.expect("error")["payload"].clone();
    assert_eq!((&error["code"], &error["re"]), (&json!("nick_taken"), &json!(re)));
    let welcome = other.expect("welcome")["payload"].clone();
    let given = welcome["nick"].as_str().unwrap();
    assert!(given.starts_with("ANN-"), "{given}");
    other.expect("joined");
    ann.expect("presence");

    let mut third = daemon.json();
    third.say("hello", json!({"nick": "a\u{202e}b"}));
    assert_eq!(third.expect("error")["payload"]["code"], "nick_invalid");
    third.expect("welcome");
    third.expect("joined");
    ann.expect("presence");
    other.expect("presence");

    // Later the same holds.
    assert_eq!(refused(&mut other, "nick", json!({"nick": "ann"}))["code"], "nick_taken");
    assert_eq!(refused(&mut other, "nick", json!({"nick": ""}))["code"], "nick_invalid");
    let re = other.say("nick", json!({"nick": "Bob"}));
    assert_eq!(other.expect("ack")["payload"], json!({"re": re}));
    let presence = &ann.expect("presence")["payload"];
    assert_eq!((&presence["state"], &presence["nick"]), (&json!("nick"), &json!("Bob")));
    assert_eq!((&presence["user"], &presence["online"]), (&welcome["user"], &json!(3)));
    assert_eq!(other.said(), [] as [Value; 0], "the one who did it knows");

    // What nobody holds any more is free again.
    let mut heir = daemon.json();
    let (welcome, _) = heir.hello(json!({"nick": given}));
    assert_eq!(welcome["nick"], given);
    daemon.stop();
}

#[test]
fn default_rooms_are_those_of_the_configuration() {
    let daemon = Daemon::start("[chat]\ndefault_rooms = [\"大厅\", \"tea\"]\n");
    let mut client = daemon.json();
    client.say("hello", json!({}));
    client.expect("welcome");
    assert_eq!(client.expect("joined")["payload"]["room"], "大厅");
    assert_eq!(client.expect("joined")["payload"]["room"], "tea");
    client.say("message", json!({"text": "to the first"}));
    assert_eq!(client.expect("ack")["payload"]["room"], "大厅");

    // Rooms that a hello names are instead of them.
    let mut other = daemon.json();
    other.say("hello", json!({"rooms": ["x.y_z-1"]}));
    other.expect("welcome");
    assert_eq!(other.expect("joined")["payload"]["room"], "x.y_z-1");
    assert_eq!(refused(&mut other, "message", json!({"text": "?"}))["code"], "not_joined");
    daemon.stop();
}

#[test]
fn joining_and_leaving_is_heard_in_the_room_alone() {
    let daemon = Daemon::start("");
    let (mut ann, mut bob, mut eve) = (daemon.guest("Ann"), daemon.guest("Bob"), daemon.guest("Eve"));
    let re = ann.say("join", json!({"room": "tea"}));
    let joined = ann.skip_to("joined");
    assert_eq!((&joined["re"], &joined["room"], &joined["online"]), (&json!(re), &json!("tea"), &json!(1)));
    bob.say("join", json!({"room": "tea"}));
    bob.skip_to("joined");
    let presence = ann.skip_to("presence");
    assert_eq!((&presence["room"], &presence["nick"]), (&json!("tea"), &json!("Bob")));
    assert_eq!((&presence["state"], &presence["online"]), (&json!("join"), &json!(2)));

    let re = bob.say("who", json!({"room": "tea"}));
    let who = bob.skip_to("who");
    let mut nicks: Vec<&str> = who["members"].as_array().unwrap().iter().map(|m| m["nick"].as_str().unwrap()).collect();
    nicks.sort_unstable();
    assert_eq!((nicks, &who["room"], &who["re"]), (vec!["Ann", "Bob"], &json!("tea"), &json!(re)));

    // A second join is answered like a first, and nobody hears of it.
    ann.say("join", json!({"room": "tea"}));
    assert_eq!(ann.expect("joined")["payload"]["recovered"], true);
    assert_eq!(bob.said(), [] as [Value; 0]);

    let re = bob.say("leave", json!({"room": "tea"}));
    assert_eq!(bob.expect("left")["payload"], json!({"re": re, "room": "tea"}));
    let presence = ann.skip_to("presence");
    assert_eq!((&presence["state"], &presence["online"]), (&json!("leave"), &json!(1)));
    for (kind, payload) in [
        ("leave", json!({"room": "tea"})),
        ("message", json!({"room": "tea", "text": "x"})),
        ("who", json!({"room": "tea"})),
        ("typing", json!({"room": "tea", "on": true})),
        ("history", json!({"room": "tea"})),
        ("message", json!({"room": "never", "text": "x"})),
    ] {
        assert_eq!(refused(&mut bob, kind, payload)["code"], "not_joined", "{kind}");
    }
    assert!(eve.said().iter().all(|value| value["payload"]["room"] == "lobby"));
    daemon.stop();
}

#[test]
fn rooms_are_made_only_where_they_may_be() {
    let daemon = Daemon::start("[chat]\ncreate_rooms = false\ndefault_rooms = [\"lobby\", \"tea\"]\n");
    let mut client = daemon.json();
    client.hello(json!({"rooms": ["tea"]}));
    assert_eq!(refused(&mut client, "join", json!({"room": "new"}))["code"], "no_such_room");
    client.say("join", json!({"room": "lobby"}));
    client.expect("joined");
    daemon.stop();
}

#[test]
fn three_people_see_one_order() {
    let daemon = Daemon::start(NO_RATE);
    const EACH: usize = 100;
    let mut people: Vec<_> = ["Ann", "Bob", "Eve"].into_iter().map(|nick| daemon.guest(nick)).collect();
    let clients: Vec<_> = people
        .drain(..)
        .enumerate()
        .map(|(n, mut client)| {
            std::thread::spawn(move || {
                for i in 0..EACH {
                    client.say("message", json!({"room": "lobby", "text": format!("{n}:{i}"), "cid": format!("c{i}")}));
                }
                // What it sees: its own messages as acks, those of others as messages.
                let mut seen = Vec::new();
                while seen.len() < 3 * EACH {
                    let frame = client.json();
                    match frame["type"].as_str().unwrap() {
                        "ack" => seen.push((frame["payload"]["seq"].as_u64().unwrap(), None, frame)),
                        "message" => {
                            let text = frame["payload"]["text"].as_str().unwrap().to_owned();
                            seen.push((frame["seq"].as_u64().unwrap(), Some(text), frame));
                        }
                        _ => {}
                    }
                }
                seen
            })
        })
        .collect();
    let seen: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    for (n, seen) in seen.iter().enumerate() {
        let order: Vec<u64> = seen.iter().map(|(seq, ..)| *seq).collect();
        assert_eq!(order, (1..=3 * EACH as u64).collect::<Vec<_>>(), "client {n}");
        assert_eq!(seen.iter().filter(|(_, text, _)| text.is_none()).count(), EACH, "acks of {n}");
    }
    for at in 0..3 * EACH {
        let texts: Vec<&String> = seen.iter().filter_map(|seen| seen[at].1.as_ref()).collect();
        assert_eq!(texts.len(), 2, "two hear it, one said it");
        assert_eq!(texts[0], texts[1]);
        let ids: Vec<&Value> = seen.iter().map(|seen| &seen[at].2["payload"]["id"]).collect();
        assert!(ids[0].is_string() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    daemon.stop();
}

#[test]
fn ones_own_message_goes_to_ones_other_connections() {
    let daemon = Daemon::start("");
    let mut ann = daemon.json();
    let (welcome, _) = ann.hello(json!({"nick": "Ann"}));
    let mut tab = daemon.json();
    tab.hello(json!({"guest": welcome["guest"]}));
    let ack = ann.message("hello");
    let message = tab.expect("message");
    assert_eq!(message["seq"], ack["seq"]);
    let payload = &message["payload"];
    assert_eq!((&payload["text"], &payload["id"]), (&json!("hello"), &ack["id"]));
    assert_eq!(payload["from"], json!({"user": welcome["user"], "nick": "Ann"}));
    let time = payload["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "RFC 3339 in UTC with milliseconds: {time}");
    assert_eq!(ann.said(), [] as [Value; 0], "it got its ack, not its message");
    daemon.stop();
}

#[test]
fn a_message_to_a_user_goes_to_all_their_connections() {
    let daemon = Daemon::start("");
    let mut ann = daemon.json();
    let (ann_is, _) = ann.hello(json!({"nick": "Ann"}));
    let mut bob = daemon.json();
    let (bob_is, _) = bob.hello(json!({"nick": "Bob", "rooms": ["elsewhere"]}));
    let mut bobs_tab = daemon.json();
    bobs_tab.hello(json!({"guest": bob_is["guest"], "rooms": ["elsewhere"]}));
    let mut anns_tab = daemon.json();
    anns_tab.hello(json!({"guest": ann_is["guest"]}));

    let re = ann.say("message", json!({"to": bob_is["user"], "text": "psst", "cid": "c1"}));
    assert_eq!(ann.expect("ack")["payload"], json!({"re": re, "delivered": 2}));
    for client in [&mut bob, &mut bobs_tab, &mut anns_tab] {
        let message = client.expect("message");
        assert_eq!(message["seq"], 0, "not stored");
        let payload = &message["payload"];
        assert_eq!((&payload["to"], &payload["text"]), (&bob_is["user"], &json!("psst")));
        assert_eq!((&payload["from"]["nick"], &payload["cid"]), (&json!("Ann"), &json!("c1")));
        assert!(payload.get("room").is_none());
    }
    let error = refused(&mut ann, "message", json!({"to": "guest-nobody", "text": "x"}));
    assert_eq!(error["code"], "not_online");
    let both = json!({"to": bob_is["user"], "room": "lobby", "text": "x"});
    assert_eq!(refused(&mut ann, "message", both)["code"], "bad_request");
    daemon.stop();
}

#[test]
fn typing_is_told_to_the_others() {
    let daemon = Daemon::start("");
    let (mut ann, mut bob) = (daemon.guest("Ann"), daemon.guest("Bob"));
    bob.said();
    ann.say("typing", json!({"room": "lobby", "on": true}));
    let typing = bob.expect("typing");
    assert_eq!((&typing["payload"]["nick"], &typing["payload"]["on"]), (&json!("Ann"), &json!(true)));
    ann.say("typing", json!({"room": "lobby", "on": false}));
    assert_eq!(bob.expect("typing")["payload"]["on"], false);
    assert!(ann.said().iter().all(|value| value["type"] == "presence"), "no answer and no echo");
    daemon.stop();
}

#[test]
fn the_operators_notices_reach_whom_they_are_for() {
    let daemon = Daemon::start("");
    let mut ann = daemon.json();
    let (ann_is, _) = ann.hello(json!({"nick": "Ann"}));
    let mut tea = daemon.json();
    tea.hello(json!({"rooms": ["tea"]}));
    let mut text = daemon.text();
    until("all three are there", || (daemon.clients() == 3).then_some(()));
    ann.skip_to("presence");

    assert!(daemon.ctl(&["notice", "to all 你好"]).status.success());
    for client in [&mut ann, &mut tea] {
        assert_eq!(client.expect("notice")["payload"], json!({"text": "to all 你好", "level": "info"}));
    }
    assert_eq!(text.line(), "System: to all 你好");

    assert!(daemon.ctl(&["notice", "to tea", "--room", "tea", "--level", "warn"]).status.success());
    assert_eq!(tea.expect("notice")["payload"], json!({"text": "to tea", "level": "warn", "room": "tea"}));
    assert!(daemon.ctl(&["notice", "to Ann", "--user", ann_is["user"].as_str().unwrap()]).status.success());
    assert_eq!(ann.expect("notice")["payload"]["text"], "to Ann");
    let one = ann_is["client"].to_string();
    assert!(daemon.ctl(&["notice", "to one", "--client", &one]).status.success());
    assert_eq!(ann.expect("notice")["payload"]["text"], "to one");
    assert_eq!(ann.said(), [] as [Value; 0]);
    daemon.stop();
}

#[test]
fn pings_are_answered_at_once_with_what_they_carried() {
    let daemon = Daemon::start("");
    let mut client = daemon.guest("Ann");
    // Numbers and spacing that a parser would have changed.
    client.text("{\"type\":\"ping\",\"payload\":{\"n\": 12345678901234567890123, \"e\":1e400},\"seq\":9}");
    assert_eq!(
        client.line(),
        "{\"type\":\"pong\",\"payload\":{\"n\": 12345678901234567890123, \"e\":1e400},\"seq\":0}"
    );
    client.say("pong", json!({}));
    assert_eq!(client.said(), [] as [Value; 0]);
    daemon.stop();
}
