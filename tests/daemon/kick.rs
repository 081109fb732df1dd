//! Operators close connections: whom, with which words, and what the answer means.

use serde_json::{Value, json};

use crate::support::client::Closed;
use crate::support::{Chat, Daemon, Stream, until};

fn id(daemon: &Daemon, nick: &str) -> String {
    daemon.clients(&["--nick", nick])[0]["id"].to_string()
}

fn done(matched: u64) -> Value {
    json!({"matched": matched, "done": matched, "failed": []})
}

#[test]
fn by_number_with_the_reason_shown() {
    let daemon = Daemon::tls("");
    let (ann, mut bob) = (daemon.chat("ann").closing(), daemon.chat("bob"));
    let eve = daemon.chat("eve").closing();
    let (ann_id, eve_id) = (id(&daemon, "ann"), id(&daemon, "eve"));
    assert_eq!(daemon.json(&["kick", &ann_id, "--reason", "按规定"]), done(1));
    assert_eq!(daemon.ctl(&["show", &ann_id]).status, 65, "when the answer comes it is gone");
    let (bye, closed) = ann.join().unwrap();
    assert_eq!(closed, Closed { code: 4003, reason: "按规定".into() });
    let bye = bye.expect("a bye")["payload"].take();
    assert_eq!((&bye["code"], &bye["reason"], &bye["reconnect"]), (&json!(4003), &json!("按规定"), &json!(false)));
    bob.say("where is ann?");

    // Twice the same, one that is gone, one that never was: told apart.
    let ran = daemon.ctl(&["kick", &eve_id, &eve_id, &ann_id, "999999", "--json"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["matched"], &report["done"]), (&json!(1), &json!(1)));
    let failed: Vec<&Value> = report["failed"].as_array().unwrap().iter().map(|failed| &failed["id"]).collect();
    assert_eq!(failed, [&json!(ann_id.parse::<u64>().unwrap()), &json!(999_999)]);
    assert_eq!(eve.join().unwrap().1, Closed { code: 4003, reason: "kicked by an operator".into() });
    daemon.ctl(&["kick", &ann_id]).ends(65, "nobody matched");
    assert_eq!(daemon.ctl(&["kick", &ann_id, "--allow-empty"]).status, 0);
    assert_eq!(daemon.clients(&[]).len(), 1);
}

#[test]
fn by_filter_and_only_those() {
    let daemon = Daemon::plain("[timeouts]\npresence = \"0s\"\n");
    let mut stays = daemon.chat("stays");
    let texts: Vec<Chat> = (0..3).map(|_| daemon.text()).collect();
    let mut tea = Chat::open(daemon.connect(), "/chat", "");
    tea.hello(json!({"v": 1, "nick": "tea", "rooms": ["tea"]}));
    until("all are known", || (daemon.clients(&[]).len() == 5).then_some(()));
    let texts: Vec<_> = texts.into_iter().map(Chat::closing).collect();
    assert_eq!(daemon.json(&["kick", "--dialect", "text"]), done(3));
    for text in texts {
        assert_eq!(text.join().unwrap().1.code, 4003);
    }
    let tea = tea.closing();
    assert_eq!(daemon.json(&["kick", "--room", "tea"]), done(1));
    assert_eq!(tea.join().unwrap().1.code, 4003);
    let user = daemon.chat("user");
    let name = user.user.clone();
    let user = user.closing();
    assert_eq!(daemon.json(&["kick", "--user", &name]), done(1));
    user.join().unwrap();
    assert_eq!(daemon.clients(&[]).len(), 1);
    stays.say("still here");
    daemon.ctl(&["kick", "--ip", "192.0.2.0/24"]).ends(65, "nobody matched");
}

#[test]
fn everyone_only_when_it_is_meant() {
    let daemon = Daemon::plain("");
    let crowd: Vec<Chat> = (0..20).map(|_| daemon.text()).collect();
    until("all are known", || (daemon.clients(&[]).len() == 20).then_some(()));
    daemon.ctl(&["kick"]).ends(64, "whom?");
    daemon.ctl(&["kick", "--all"]).ends(64, "--yes");
    assert_eq!(daemon.clients(&[]).len(), 20);
    let dry = daemon.json(&["kick", "--all", "--dry-run"]);
    assert_eq!(dry, json!({"matched": 20, "done": 0, "failed": [], "dry_run": true}));
    assert_eq!(daemon.ctl(&["kick", "--all", "--dry-run"]).stdout, "would close 20 connections\n");
    assert_eq!(daemon.clients(&[]).len(), 20);
    let crowd: Vec<_> = crowd.into_iter().map(Chat::closing).collect();
    let ran = daemon.ctl(&["kick", "--all", "--yes"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "closed 20 of 20 connections\n"));
    for chat in crowd {
        chat.join().unwrap();
    }
    // And whoever comes afterwards is let in.
    daemon.chat("new").say("hello");
}

#[test]
fn with_another_code_or_to_come_back() {
    let daemon = Daemon::plain("");
    let ann = daemon.chat("ann").closing();
    assert_eq!(daemon.json(&["kick", "--nick", "ann", "--reconnect", "--reason", "moved"]), done(1));
    let (bye, closed) = ann.join().unwrap();
    assert_eq!(closed, Closed { code: 4200, reason: "moved".into() });
    assert_eq!(bye.unwrap()["payload"]["reconnect"], true);
    let bob = daemon.chat("bob").closing();
    assert_eq!(daemon.json(&["kick", "--nick", "bob", "--code", "1012"]), done(1));
    assert_eq!(bob.join().unwrap().1.code, 1012);
    let eve = daemon.chat("eve").closing();
    assert_eq!(daemon.json(&["kick", "--nick", "eve", "--code", "4999", "--reason", ""]), done(1));
    assert_eq!(eve.join().unwrap().1.code, 4999);
    let _zoe = daemon.chat("zoe");
    for bad in
        [&["--code", "999"][..], &["--code", "5000"], &["--code", "1005"], &["--code", "1006"], &["--code", "1015"]]
    {
        let ran = daemon.ctl(&[&["kick", "--nick", "zoe"], bad].concat());
        assert_eq!(ran.status, 64, "{bad:?}: {ran:?}");
    }
    assert_eq!(daemon.ctl(&["kick", "--nick", "zoe", "--reason", &"x".repeat(124)]).status, 64);
    assert_eq!(daemon.clients(&["--nick", "zoe"]).len(), 1);
}

#[test]
fn done_means_closed_even_of_those_who_do_not_answer() {
    let daemon = Daemon::start(&format!("{}{}", crate::support::daemon::PLAIN, crate::support::daemon::TLS));
    let mut witness = daemon.text();
    until("it is known", || (daemon.clients(&[]).len() == 1).then_some(()));
    let before = daemon.descriptors();
    // They read nothing, so they answer no close frame.
    let silent: Vec<Chat> = (0..6)
        .map(|n| match n % 2 {
            0 => Chat::enter(Stream::tcp(daemon.address_of(0)), &format!("n{n}")),
            _ => Chat::enter(Stream::tls(daemon.address_of(1)), &format!("n{n}")),
        })
        .collect();
    assert_eq!(daemon.descriptors(), before + 6);
    assert_eq!(daemon.json(&["kick", "--dialect", "json"]), done(6));
    assert_eq!(daemon.descriptors(), before, "every socket is closed");
    witness.send_text("quiet here");
    // Too late for an answer, but not for reading why: the frame was not eaten by a reset.
    for chat in silent {
        assert_eq!(chat.last_words().code, 4003);
    }
}

#[test]
fn who_what_and_how_many_is_in_the_log() {
    let daemon = Daemon::plain("");
    let ann = daemon.chat("ann").closing();
    let ann_id = id(&daemon, "ann");
    daemon.json(&["kick", "--nick", "ann", "--reason", "spam"]);
    let log = daemon.log();
    assert!(log.contains(&format!(" INFO kicked client {ann_id} (ann, 127.0.0.1): 4003 spam\n")), "{log}");
    let audit = log.lines().find(|line| line.contains(") kicked ")).expect("a line for the call");
    let uid = nix::unistd::geteuid();
    let what = " kicked --nick ann: 1 of 1 connections closed with 4003 spam";
    for part in [" INFO ", &format!("(uid {uid}, pid "), what] {
        assert!(audit.contains(part), "{part} in {audit}");
    }
    ann.join().unwrap();
    // A dry run changes nothing, so there is nothing to tell.
    daemon.json(&["kick", "--all", "--dry-run", "--allow-empty"]);
    assert_eq!(daemon.log().matches(") kicked ").count(), 1);
}
