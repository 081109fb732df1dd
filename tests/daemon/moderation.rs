//! Throwing out, muting, banning, deleting: what operators order, and what it does to those who are
//! there, to those who come, and after a restart.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::support::client::Closed;
use crate::support::{Chat, Daemon, Stream, until};

/// Somebody from another of this machine's own addresses.
fn from(daemon: &Daemon, address: &str) -> Stream {
    Stream::tcp_from(address.parse::<IpAddr>().expect("an address"), daemon.address())
}

/// Says hello, and is not let in.
#[track_caller]
fn turned_away(mut chat: Chat, hello: Value) -> Closed {
    chat.send("hello", hello);
    chat.closing().join().unwrap().1
}

/// The numbers and texts of the room's messages, as operators see them; a deleted one is `null`.
fn history(daemon: &Daemon, room: &str) -> Vec<(u64, Value)> {
    let shown = daemon.json(&["history", room]);
    let messages = shown["messages"].as_array().expect("a list").iter();
    messages
        .filter(|frame| frame["type"] == "message")
        .map(|frame| (frame["seq"].as_u64().expect("a number"), frame["payload"]["text"].clone()))
        .collect()
}

#[test]
fn a_banned_network_is_closed_and_kept_out_also_after_a_restart() {
    let daemon = Daemon::plain("");
    let mut witness = daemon.chat("witness");
    let ann = Chat::enter(from(&daemon, "127.0.0.7"), "ann").closing();
    let report = daemon.json(&["ban", "add", "ip:127.0.0.7", "--yes", "--reason", "spam"]);
    assert_eq!((&report["matched"], &report["done"]), (&json!(1), &json!(1)));
    assert_eq!(ann.join().unwrap().1, Closed { code: 4004, reason: "spam".into() });
    let refused = Closed { code: 4004, reason: "banned: spam".into() };
    let again = |daemon: &Daemon| Chat::open(from(daemon, "127.0.0.7"), "/chat", "").closing().join().unwrap().1;
    assert_eq!(again(&daemon), refused);
    witness.say("who was that?");

    let daemon = daemon.stop().start();
    assert_eq!(again(&daemon), refused, "bans outlast the daemon");
    assert_eq!(daemon.json(&["ban", "list"])["bans"][0]["ip"], "127.0.0.7");
    let id = report["id"].to_string();
    daemon.json(&["ban", "del", &id]);
    Chat::enter(from(&daemon, "127.0.0.7"), "ann").say("I am sorry");
    let daemon = daemon.stop().start();
    assert_eq!(daemon.json(&["ban", "list"]), json!({"bans": []}), "and so does their end");
}

#[test]
fn a_ban_ends_by_itself() {
    let daemon = Daemon::plain("");
    daemon.json(&["ban", "add", "ip:127.0.0.8", "--yes", "--for", "1s"]);
    until("it has run out", || (daemon.json(&["ban", "list"]) == json!({"bans": []})).then_some(()));
    Chat::enter(from(&daemon, "127.0.0.8"), "ann").say("here again");
}

/// Changed while it is in force: later, without end, sooner. The number and who ordered it stay.
#[test]
fn a_ban_is_changed_and_outlasts_a_restart_so() {
    let daemon = Daemon::plain("");
    let mut events = daemon.caller().watch(&["ban", "mute", "unban"]);
    let id = daemon.json(&["ban", "add", "ip:127.0.0.9", "--yes", "--for", "1h", "--reason", "spam"])["id"].to_string();
    daemon.json(&["ban", "edit", &id, "--for", "forever", "--reason", "much spam"]);
    assert!(!events.next()["detail"].as_str().expect("a text").contains("changed"));
    let told = events.next();
    assert_eq!(told["type"], "ban");
    let detail = told["detail"].as_str().expect("a text");
    assert!(detail.starts_with("changed: ") && detail.contains("much spam"), "{told}");
    let daemon = daemon.stop().start();
    let listed = daemon.json(&["ban", "list"])["bans"][0].clone();
    assert_eq!((&listed["id"].to_string(), &listed["until"], &listed["left"]), (&id, &Value::Null, &Value::Null));
    let refused = |daemon: &Daemon| Chat::open(from(daemon, "127.0.0.9"), "/chat", "").closing().join().unwrap().1;
    assert_eq!(refused(&daemon), Closed { code: 4004, reason: "banned: much spam".into() });
    daemon.json(&["ban", "edit", &id, "--for", "1s"]);
    until("it has run out", || (daemon.json(&["ban", "list"]) == json!({"bans": []})).then_some(()));
    Chat::enter(from(&daemon, "127.0.0.9"), "ann").say("here again");
    assert_eq!(daemon.ctl(&["ban", "edit", &id, "--for", "1h"]).status, 65, "what is over is not changed");
}

/// Who is muted is told what has changed.
#[test]
fn a_mute_is_changed_and_its_user_told() {
    let daemon = Daemon::plain("");
    let mut ann = Chat::open(daemon.connect(), "/chat", "");
    let user = ann.hello(json!({"nick": "ann"}))["user"].as_str().expect("a user").to_owned();
    let id = daemon.json(&["mute", "add", &format!("user:{user}"), "--for", "1h"])["id"].to_string();
    let first = ann.frame("muted")["payload"].take();
    daemon.json(&["mute", "edit", &id, "--for", "2h", "--reason", "still"]);
    let second = ann.frame("muted")["payload"].take();
    assert_eq!((&second["on"], &second["reason"]), (&json!(true), &json!("still")), "{second}");
    assert_ne!(first["until"], second["until"]);
    daemon.json(&["mute", "edit", &id, "--for", "1s"]);
    until("it has run out", || (daemon.json(&["mute", "list"]) == json!({"mutes": []})).then_some(()));
    ann.say("thank you");
}

#[test]
fn a_banned_guest_is_known_by_the_signed_string() {
    let daemon = Daemon::plain("[timeouts]\npresence = \"0s\"\n");
    let mut ann = Chat::open(daemon.connect(), "/chat", "");
    let welcome = ann.hello(json!({"v": 1, "nick": "ann"}));
    let (user, guest) = (ann.user.clone(), welcome["guest"].clone());
    let ann = ann.closing();
    // From loopback, where proxies stand: the user alone.
    let report = daemon.json(&["kick", "--nick", "ann", "--ban", "1h", "--reason", "enough"]);
    assert_eq!(
        (&report["matched"], &report["done"], report["bans"].as_array().map(Vec::len)),
        (&json!(1), &json!(1), Some(1))
    );
    assert_eq!(ann.join().unwrap().1, Closed { code: 4004, reason: "enough".into() });
    assert_eq!(daemon.json(&["ban", "list"])["bans"][0]["user"], json!(user));
    let hello = json!({"v": 1, "nick": "ann", "guest": guest});
    let back = turned_away(Chat::open(daemon.connect(), "/chat", ""), hello);
    assert!(back.code == 4004 && back.reason.ends_with(": enough"), "{back:?}");
    daemon.chat("bob").say("others come in");
}

#[test]
fn a_muted_user_is_told_and_cannot_speak_until_it_may_again() {
    let daemon = Daemon::plain("");
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let whom = format!("user:{}", ann.user);
    let report = daemon.json(&["mute", "add", &whom, "--room", "lobby", "--for", "1h", "--reason", "calm down"]);
    assert_eq!((&report["matched"], &report["failed"]), (&json!(1), &json!([])));
    let told = ann.frame("muted")["payload"].take();
    assert_eq!((&told["on"], &told["room"], &told["reason"]), (&json!(true), &json!("lobby"), &json!("calm down")));
    ann.send("message", json!({"room": "lobby", "text": "but"}));
    assert_eq!(ann.any(&["ack", "error"])["payload"]["code"], "muted");
    let id = report["id"].to_string();
    daemon.json(&["mute", "del", &id]);
    assert_eq!(ann.frame("muted")["payload"]["on"], false);
    ann.say("thank you");
    bob.hears("thank you");
    assert_eq!(daemon.json(&["mute", "list"]), json!({"mutes": []}));
}

#[test]
fn deleted_purged_and_closed_is_seen_by_those_who_are_there() {
    let daemon = Daemon::plain("");
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let first = ann.say("one")["seq"].as_u64().expect("a number");
    ann.say("two");
    let report = daemon.json(&["delete", "lobby", &first.to_string()]);
    assert_eq!((&report["removed"], &report["seq"]), (&json!(1), &json!(first + 2)));
    let seen = bob.frame("deleted");
    assert_eq!((&seen["payload"]["target"], &seen["seq"]), (&json!(first), &report["seq"]));
    assert_eq!(history(&daemon, "lobby"), [(first, Value::Null), (first + 1, json!("two"))]);
    assert_eq!(daemon.json(&["history", "lobby"])["messages"][0]["payload"]["deleted"], true);
    daemon
        .ctl(&["delete", "lobby", &first.to_string()])
        .ends(65, "in lobby that could be deleted: it may have been deleted already");
    daemon.ctl(&["delete", "lobby", "999"]).ends(65, "no message 999 in lobby that could be deleted");
    daemon.ctl(&["delete", "nowhere", "1"]).ends(65, "nowhere");

    let report = daemon.json(&["room", "purge", "lobby", "--yes"]);
    assert_eq!((&report["removed"], &report["seq"]), (&json!(3), &json!(first + 3)));
    assert_eq!(bob.frame("deleted")["payload"]["all"], true);
    assert_eq!(history(&daemon, "lobby"), []);
    ann.say("three");
    assert_eq!(history(&daemon, "lobby"), [(first + 4, json!("three"))], "numbers go on");

    let closed = daemon.json(&["room", "close", "lobby", "--reason", "moved to tea"]);
    assert_eq!((&closed["matched"], &closed["done"]), (&json!(2), &json!(2)));
    for chat in [&mut ann, &mut bob] {
        let left = chat.frame("left")["payload"].take();
        assert_eq!((&left["room"], &left["reason"]), (&json!("lobby"), &json!("moved to tea")));
    }
    assert_eq!(daemon.json(&["room", "show", "lobby"])["room"]["members"], json!([]));
    assert_eq!(history(&daemon, "lobby").len(), 1, "what is stored stays");
    ann.send("join", json!({"room": "lobby"}));
    ann.frame("joined");
}

#[test]
fn stored_rooms_are_known_after_a_restart() {
    let daemon = Daemon::plain("");
    let mut ann = daemon.chat("ann");
    ann.say("remember me");
    drop(ann);
    let status = daemon.json(&["status"]);
    assert_eq!((&status["history"]["store"], &status["history"]["state"]), (&json!("sqlite"), &json!("good")));
    let path = status["history"]["path"].as_str().expect("a path");
    assert!(std::path::Path::new(path).starts_with(daemon.state_folder()), "{path}");
    assert!(
        status["history"]["entries"].as_u64() >= Some(1) && status["history"]["bytes"].as_u64() > Some(0),
        "{status}"
    );
    let daemon = daemon.stop().start();
    let rooms = daemon.json(&["rooms", "--stored"]);
    let lobby =
        rooms["rooms"].as_array().expect("a list").iter().find(|room| room["name"] == "lobby").expect("the lobby");
    assert_eq!((&lobby["seq"], &lobby["kept"]), (&json!(1), &json!(1)));
    assert_eq!(daemon.json(&["room", "show", "lobby"])["room"]["kept"], 1);
    assert_eq!(history(&daemon, "lobby"), [(1, json!("remember me"))]);
    daemon.ctl(&["history", "nowhere"]).ends(65, "nowhere");
}

/// `wschatctl history lobby --follow`, frame by frame.
struct Follower(Child, BufReader<ChildStdout>);

impl Follower {
    fn of(daemon: &Daemon, arguments: &[&str]) -> Self {
        let all = [&["history", "lobby", "--follow", "--json"], arguments].concat();
        let mut child =
            daemon.ctl_command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Follower(child, lines)
    }

    fn frame(&mut self) -> Value {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

#[test]
fn a_follower_sees_every_entry_once() {
    let daemon = Daemon::plain("[limits]\nrate = \"1000/s\"\nburst = 1000\n");
    let mut ann = daemon.chat("ann");
    for n in 1..=5 {
        ann.say(&format!("old {n}"));
    }
    let mut follower = Follower::of(&daemon, &["--limit", "2"]);
    assert_eq!((follower.frame()["seq"].clone(), follower.frame()["seq"].clone()), (json!(4), json!(5)));
    // Two who speak at once, and an operator who deletes meanwhile.
    let mut bob = daemon.chat("bob");
    let talk = std::thread::spawn(move || {
        for n in 1..=100 {
            bob.say(&format!("bob {n}"));
        }
    });
    for n in 1..=100 {
        let said = ann.say(&format!("ann {n}"));
        if n % 20 == 0 {
            daemon.json(&["delete", "lobby", &said["seq"].to_string()]);
        }
    }
    talk.join().expect("bob speaks");
    let mut kinds = std::collections::BTreeMap::new();
    for seq in 6..=5 + 200 + 5 {
        let frame = follower.frame();
        assert_eq!(frame["seq"], json!(seq));
        *kinds.entry(frame["type"].as_str().expect("a type").to_owned()).or_insert(0) += 1;
    }
    assert_eq!((kinds["message"], kinds["deleted"]), (200, 5));
    drop(ann);
    daemon.stop();
    let ended = follower.0.wait().expect("our own child");
    assert_eq!(ended.code(), Some(69));
}

#[test]
fn the_log_says_who_has_ordered_what() {
    let daemon = Daemon::plain("");
    let mut ann = daemon.chat("ann");
    ann.say("one");
    let mut events = daemon.caller().watch(&["ban", "unban", "mute", "unmute", "delete", "close"]);
    for arguments in [
        &["ban", "add", "user:eve", "--for", "1h"][..],
        &["ban", "del", "1"],
        &["mute", "add", "user:eve"],
        &["mute", "del", "2"],
        &["delete", "lobby", "1"],
        &["room", "close", "lobby"],
    ] {
        let ran = daemon.ctl(arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
    }
    let uid = nix::unistd::geteuid();
    for kind in ["ban", "unban", "mute", "unmute", "delete", "close"] {
        let event = events.next();
        assert_eq!(event["type"], kind);
        let detail = event["detail"].as_str().expect("words");
        assert!(detail.contains(&format!("(uid {uid})")), "{detail}");
    }
    let log = daemon.log();
    for what in [
        "put ban 1 in force: ban of user:eve for 1h",
        "ended mute 2",
        "deletion of message 1 in room lobby",
        "closed room lobby: 1",
    ] {
        let line = log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} in {log}"));
        assert!(line.contains(&format!("(uid {uid}, pid ")), "{line}");
    }
}
