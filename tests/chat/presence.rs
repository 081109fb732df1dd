//! Presence is about users: many tabs are one, and a dropped one is waited for.

use serde_json::{Value, json};

use crate::support::{Client, Daemon};

/// Ends without a close frame, as a lost network does.
fn drop_dead(client: Client) {
    drop(client);
}

#[test]
fn many_tabs_are_one_user() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    let mut first = daemon.json();
    let (is, _) = first.hello(json!({"nick": "Ann"}));
    let join = &watch.expect("presence")["payload"];
    assert_eq!((&join["user"], &join["state"], &join["online"]), (&is["user"], &json!("join"), &json!(2)));
    let mut second = daemon.json();
    let (_, joined) = second.hello(json!({"guest": is["guest"]}));
    assert_eq!(joined["online"], 2);
    let third = daemon.dial_tls().open("/chat");
    let mut third = third;
    third.hello(json!({"guest": is["guest"]}));
    assert_eq!(watch.said(), [] as [Value; 0], "tabs are nobody new");

    first.say("bye", json!({}));
    assert_eq!(first.end().code(), 1000);
    second.say("leave", json!({"room": "lobby"}));
    second.expect("left");
    assert_eq!(watch.said(), [] as [Value; 0], "one tab is still there");
    third.say("bye", json!({}));
    assert_eq!(third.end().code(), 1000);
    let leave = &watch.expect("presence")["payload"];
    assert_eq!((&leave["user"], &leave["state"], &leave["online"]), (&is["user"], &json!("leave"), &json!(1)));
    daemon.stop();
}

#[test]
fn a_dropped_user_who_comes_back_makes_no_noise() {
    let daemon = Daemon::start("[timeouts]\npresence = \"10m\"\n");
    let mut watch = daemon.guest("Watch");
    let mut ann = daemon.json();
    let (is, _) = ann.hello(json!({"nick": "Ann"}));
    watch.expect("presence");
    drop_dead(ann);
    let id = is["client"].to_string();
    crate::support::until("the daemon has noticed", || (!daemon.ctl(&["show", &id]).status.success()).then_some(()));
    let mut back = daemon.json();
    let (again, joined) = back.hello(json!({"guest": is["guest"]}));
    assert_eq!((&again["nick"], &joined["online"]), (&json!("Ann"), &json!(2)));
    assert_eq!(watch.said(), [] as [Value; 0]);
    // Going by itself is heard at once, whatever the time for drops.
    back.say("bye", json!({}));
    assert_eq!(back.end().code(), 1000);
    assert_eq!(watch.expect("presence")["payload"]["state"], "leave");
    daemon.stop();
}

#[test]
fn a_dropped_user_is_gone_after_a_while() {
    let daemon = Daemon::start("[timeouts]\npresence = \"200ms\"\n");
    let mut watch = daemon.guest("Watch");
    for tls in [false, true] {
        let mut ann = if tls { daemon.dial_tls().open("/chat") } else { daemon.json() };
        ann.hello(json!({"nick": "Ann"}));
        assert_eq!(watch.expect("presence")["payload"]["state"], "join");
        drop_dead(ann);
        let leave = &watch.expect("presence")["payload"];
        assert_eq!((&leave["state"], &leave["nick"]), (&json!("leave"), &json!("Ann")));
    }
    // And the nick with it.
    let mut other = daemon.json();
    assert_eq!(other.hello(json!({"nick": "Ann"})).0["nick"], "Ann");
    daemon.stop();
}

#[test]
fn in_a_large_room_only_the_number_is_told() {
    let daemon = Daemon::start("[chat]\npresence_limit = 2\n");
    let mut watch = daemon.guest("Watch");
    let mut text = daemon.text();
    assert_eq!(watch.expect("presence")["payload"]["online"], 2);
    let mut crowd = Vec::new();
    for n in 3..=6 {
        let mut one = daemon.json();
        let (_, joined) = one.hello(json!({}));
        assert_eq!(joined["online"], n);
        assert!(joined.get("members").is_none(), "{joined}");
        crowd.push(one);
    }
    loop {
        let payload = watch.expect("presence")["payload"].take();
        assert_eq!(payload.as_object().unwrap().len(), 2, "room and online alone: {payload}");
        if payload["online"] == 6 {
            break;
        }
    }
    while text.line() != "System: 6 online" {}
    daemon.stop();
}
