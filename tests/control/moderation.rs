//! Bans, mutes, closed and emptied rooms, deletions, tokens: each command, what it does and how it
//! ends, and the calls underneath with what strangers to the interface may send.

use std::time::Duration;

use serde_json::{Value, json};
use wschat::admin::TokenWish;
use wschat::chat::event::Action;
use wschat::chat::id::{ConnId, Nick, UserId};
use wschat::chat::sanction::SanctionKind;

use crate::commands::{ends, on_terminal};
use crate::fake::{Daemon, STUBBORN, World, client, some, until};
use crate::store::{Stream, room_name};

/// Who was closed, with which code and which words.
fn closed(daemon: &Daemon) -> Vec<(u64, u16, String)> {
    let mut closed: Vec<_> =
        daemon.world.lock().unwrap().closed.drain(..).map(|(id, c)| (id.0, c.code, c.reason)).collect();
    closed.sort();
    closed
}

/// Whom the bans in force are for.
fn banned(daemon: &Daemon) -> Vec<String> {
    let list = daemon.json(&["ban", "list"]);
    let whom = |ban: &Value| match (&ban["ip"], &ban["user"]) {
        (Value::String(ip), Value::Null) => format!("ip:{ip}"),
        (Value::Null, Value::String(user)) => format!("user:{user}"),
        odd => panic!("{odd:?}"),
    };
    list["bans"].as_array().unwrap().iter().map(whom).collect()
}

fn me() -> String {
    let uid = nix::unistd::geteuid();
    format!("{} (uid {uid})", nix::unistd::User::from_uid(uid).unwrap().unwrap().name)
}

#[test]
fn a_ban_is_in_force_before_it_closes_and_is_listed_until_it_is_ended() {
    let daemon = Daemon::start(some());
    assert_eq!(daemon.json(&["ban", "list"]), json!({"bans": []}));
    assert_eq!(daemon.ctl(&["ban", "list"]).stdout, "");
    assert_eq!(
        daemon.json(&["ban", "add", "ip:192.0.2.77/24", "--for", "2h", "--reason", "spam"]),
        json!({"id": 1, "matched": 2, "done": 2, "failed": []})
    );
    assert_eq!(closed(&daemon), [(1, 4004, "spam".into()), (2, 4004, "spam".into())]);
    assert_eq!(daemon.ctl(&["ban", "add", "user:nobody yet"]).stdout, "ban 2 is in force; closed 0 of 0 connections\n");
    let list = daemon.json(&["ban", "list"]);
    let (net, user) = (&list["bans"][0], &list["bans"][1]);
    assert_eq!((&net["ip"], &net["user"], &net["by"]), (&json!("192.0.2.0/24"), &Value::Null, &json!(me())));
    let left = net["left"].as_f64().unwrap();
    assert!((7000.0..=7200.0).contains(&left) && net["until"].as_str().unwrap().ends_with('Z'), "{net}");
    assert_eq!((&user["user"], &user["until"], &user["left"]), (&json!("nobody yet"), &Value::Null, &Value::Null));
    let plain = daemon.ctl(&["ban", "list"]).stdout;
    let rows: Vec<Vec<&str>> = plain.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((rows[0][1], rows[0][4]), ("ip:192.0.2.0/24", "spam"));
    assert_eq!(rows[1], ["2", "user:nobody yet", "", &me(), ""]);
    let seen = on_terminal(&daemon, "ban list", "");
    assert!(seen.stdout.contains("WHOM") && seen.stdout.contains("1h59m"), "{seen:?}");

    // Ended one by one; what is not there is told and keeps nobody from the rest.
    let ran = daemon.ctl(&["--json", "ban", "del", "1", "99", "1"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["matched"], &report["done"], &report["failed"][0]["id"]), (&json!(1), &json!(1), &json!(99)));
    assert_eq!(daemon.ctl(&["ban", "del", "2"]).stdout, "ended 1 ban\n");
    let ran = daemon.ctl(&["ban", "del", "2"]);
    assert!(ran.status == 65 && ran.stderr.contains("wschatctl ban list"), "{ran:?}");
    assert_eq!(daemon.json(&["ban", "list"]), json!({"bans": []}));
    let status = daemon.json(&["status"]);
    assert_eq!((&status["bans"], &status["mutes"]), (&json!(0), &json!(0)));
}

#[test]
fn a_ban_answers_when_the_last_socket_is_closed() {
    let mut world = some();
    world.clients.insert(ConnId(STUBBORN), client(STUBBORN, "u1", "Mule", "192.0.2.8", &[]));
    let daemon = Daemon::start(world);
    let mut raw = daemon.raw();
    raw.send(json!({"method": "org.wschat.Control.AddBan", "parameters": {"user": "u1"}}));
    until("two are closed", || daemon.world.lock().unwrap().closed.len() == 2);
    assert_eq!(daemon.world.lock().unwrap().count(SanctionKind::Ban), 1, "it is in force already");
    daemon.raw().call("org.wschat.Control.Ping", json!({}));
    assert_eq!(raw.reply().unwrap()["parameters"], json!({"id": 1, "matched": 2, "done": 2, "failed": []}));
    assert_eq!(closed(&daemon)[0], (1, 4004, "you are banned".into()));
}

#[test]
fn who_is_banned_must_be_said_and_cannot_be_everybody() {
    let daemon = Daemon::start(some());
    for (arguments, words) in [
        (&["ban", "add", "ann"][..], "ip:ADDRESS"),
        (&["ban", "add", "ip:1.2.3"], "192.0.2.0/24"),
        (&["ban", "add", "ip:0.0.0.0/0"], "whole internet"),
        (&["ban", "add", "ip:::/0"], "whole internet"),
        (&["ban", "add", "ip:::ffff:0:0/96"], "whole internet"),
        (&["kick", "--ip", "0.0.0.0/0", "--ban", "1h"], "whole internet"),
        (&["ban", "add", "user:u1", "--for", "0s"], "--for"),
        (&["ban", "add", "user:u1", "--for", "1"], "wants a unit"),
        (&["mute", "add", "user:u1", "--for", "1"], "wants a unit"),
        (&["ban", "add", "user:u1", "--for", "500years"], "100 years"),
        (&["ban", "add", "user:u1", "--reason", &"x".repeat(124)], "123 bytes"),
        (&["ban", "add", "ip:0.0.0.0/1"], "wants --yes"),
        (&["ban", "add", "ip:127.0.0.1"], "behind a proxy"),
        (&["kick", "--ip", "127.0.0.0/8", "--ban", "1h"], "behind a proxy"),
        (&["ban", "add", "user:u1", "--reason", "a\u{1b}[2J"], "one line of plain text, without U+001B"),
        (&["mute", "add", "user:u1", "--reason", "a\u{202e}b"], "without U+202E"),
        (&["room", "close", "lobby", "--reason", "a\nb"], "one line of plain text"),
        (&["ban", "del"], "<N>"),
        (&["ban", "del", "one"], "one"),
        (&["mute", "add", "ip:192.0.2.1"], "user:USER"),
        (&["mute", "add", "user:u1", "--room", "a b"], "--room"),
    ] {
        ends(&daemon.ctl(arguments), 64, words);
    }
    let world = daemon.world.lock().unwrap();
    assert!(world.actions.is_empty() && world.closed.is_empty());
    drop(world);
    let asked = on_terminal(&daemon, "ban add ip:127.0.0.1", "n\n");
    assert!(asked.status == 1 && asked.stdout.contains("behind a proxy") && banned(&daemon).is_empty(), "{asked:?}");
    daemon.json(&["ban", "add", "ip:127.0.0.1", "--yes"]);
    daemon.json(&["ban", "del", "1"]);
    // As the peers are compared with it: without what is beside the prefix, and IPv4 as itself.
    daemon.json(&["ban", "add", "ip:::ffff:192.0.2.1"]);
    daemon.json(&["ban", "add", "ip:2001:db8::3"]);
    daemon.json(&["ban", "add", "ip:2001:db8:1:2:3::/64"]);
    assert_eq!(banned(&daemon), ["ip:192.0.2.1", "ip:2001:db8::3", "ip:2001:db8:1:2::/64"]);
    assert_eq!(closed(&daemon).len(), 2);
}

#[test]
fn too_many_and_not_saved_are_told_apart() {
    let daemon = Daemon::start(World { most: Some(0), ..some() });
    ends(&daemon.ctl(&["ban", "add", "user:u1"]), 75, "there are 0 bans and mutes already");
    ends(&daemon.ctl(&["kick", "--user", "u1", "--ban", "1h"]), 75, "end some first");
    assert_eq!(closed(&daemon), [], "nobody is closed whose ban is not in force");
    let ran = daemon.ctl(&["--json", "kick", "1", "--ban", "1h"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.status, &report["matched"], &report["done"], &report["bans"]),
        (1, &json!(1), &json!(0), &json!([]))
    );
    assert!(report["failed"][0]["error"].as_str().unwrap().contains("already"), "{report}");

    // A connection whose user could be banned and whose address could not stays open, and that is
    // told; the user's others go.
    let mut world = World { no_nets: true, ..some() };
    world.clients.insert(ConnId(4), client(4, "u1", "Ann", "192.0.2.4", &["lobby"]));
    let daemon = Daemon::start(world);
    let ran = daemon.ctl(&["--json", "kick", "1", "--ban", "1h"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["matched"], &report["done"], &report["bans"]), (&json!(2), &json!(1), &json!([1])));
    assert_eq!((&report["failed"][0]["id"], report["failed"].as_array().unwrap().len()), (&json!(1), 1));
    let gone: Vec<u64> = closed(&daemon).into_iter().map(|(id, ..)| id).collect();
    assert_eq!((gone, banned(&daemon)), (vec![4], vec!["user:u1".to_owned()]));

    let daemon = Daemon::start(World { unsaved: Some("/var/lib/wschat is full".into()), ..some() });
    ends(&daemon.ctl(&["ban", "add", "user:u1"]), 1, "/var/lib/wschat is full");
    assert_eq!(closed(&daemon), [(1, 4004, "you are banned".into())], "in force all the same");
    ends(&daemon.ctl(&["kick", "--user", "u2", "--ban", "forever"]), 1, "could not be saved");
    assert_eq!(closed(&daemon).len(), 1);
    ends(&daemon.ctl(&["mute", "add", "user:u3"]), 1, "could not be saved");
    assert_eq!(banned(&daemon), ["user:u1", "user:u2"]);
    let reply = daemon.raw().call("org.wschat.Control.AddMute", json!({"user": "u3"}));
    assert_eq!(reply["error"], "org.wschat.Control.NotSaved");
    assert_eq!(reply["parameters"], json!({"ids": [4], "reason": "/var/lib/wschat is full"}));
    let ran = daemon.ctl(&["ban", "del", "1"]);
    assert!(ran.status == 1 && ran.stdout == "ended 1 ban\n" && ran.stderr.contains("not be saved"), "{ran:?}");
}

#[test]
fn a_kick_with_a_ban_bans_whom_it_names() {
    let mut world = some();
    world.clients.insert(ConnId(4), client(4, "u1", "Ann2", "192.0.2.4", &[]));
    let daemon = Daemon::start(world);
    // A filter with a user: the user, wherever it is.
    assert_eq!(
        daemon.json(&["kick", "--user", "u1", "--room", "lobby", "--ban", "1h", "--reason", "enough"]),
        json!({"matched": 2, "done": 2, "failed": [], "bans": [1]})
    );
    assert_eq!(closed(&daemon), [(1, 4004, "enough".into()), (4, 4004, "enough".into())]);
    // One with a network: that network.
    let ran = daemon.ctl(&["kick", "--ip", "2001:db8::/32", "--ban", "forever", "--code", "4999"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "closed 1 of 1 connection\nin force: ban 2\n"));
    assert_eq!(closed(&daemon), [(3, 4999, "you are banned".into())]);
    assert_eq!(banned(&daemon), ["user:u1", "ip:2001:db8::/32"]);
    let world = daemon.world.lock().unwrap();
    assert!(matches!(&world.actions[0].1, Action::Ban { reason, until: Some(_), .. } if reason == "enough"));
    assert!(matches!(&world.actions[1].1, Action::Ban { reason, until: None, .. } if reason.is_empty()));
    drop(world);
    // Nobody there: nobody is banned by the way.
    ends(&daemon.ctl(&["kick", "--user", "u2", "--room", "attic", "--ban", "1h"]), 65, "wschatctl ban add");
    let dry = daemon.json(&["kick", "--user", "u2", "--ban", "1h", "--dry-run"]);
    assert_eq!((&dry["matched"], &dry["bans"]), (&json!(1), &json!([])));
    assert_eq!(banned(&daemon).len(), 2);
    ends(&daemon.ctl(&["kick", "--all", "--yes", "--ban", "1h"]), 64, "cannot be used with");
    let asked = on_terminal(&daemon, "kick --dialect text --ban 1h", "n\n");
    assert_eq!((asked.status, banned(&daemon).len()), (0, 4), "one needs no question: {asked:?}");
}

#[test]
fn otherwise_the_people_behind_the_connections_are_banned() {
    let mut world = World::default();
    let mut add = |id: u64, user: &str, address: &str, token: bool| {
        let mut view = client(id, user, &format!("n{id}"), address, &["lobby"]);
        view.token_exp = token.then(|| std::time::SystemTime::now() + Duration::from_secs(60));
        world.clients.insert(ConnId(id), view);
    };
    add(1, "ann", "192.0.2.1", true);
    add(2, "guest-b", "192.0.2.2", false);
    add(3, "guest-c", "2001:db8:1:2:3:4:5:6", false);
    add(4, "guest-d", "127.0.0.1", false);
    add(5, "guest-e", "::1", false);
    add(6, "guest-f", "::ffff:192.0.2.6", false);
    // Another guest behind the same address, and another tab of a banned guest.
    add(7, "guest-g", "192.0.2.2", false);
    add(9, "guest-b", "192.0.2.99", false);
    // Somebody from a proxy who has not said hello yet.
    add(10, "x", "127.0.0.1", false);
    world.clients.get_mut(&ConnId(10)).unwrap().user = None;
    let daemon = Daemon::start(world);
    let ran = daemon.ctl(&["--json", "kick", "1", "2", "3", "4", "5", "6", "10", "77", "--ban", "1d"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let failed: Vec<u64> = report["failed"].as_array().unwrap().iter().map(|f| f["id"].as_u64().unwrap()).collect();
    assert_eq!(failed, [77, 10], "{report}");
    assert_eq!((&report["matched"], &report["done"]), (&json!(8), &json!(7)), "{report}");
    let ids: Vec<u64> = closed(&daemon).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 9], "and not the other guest of that address");
    let mut whom = banned(&daemon);
    whom.sort();
    assert_eq!(
        whom,
        [
            "ip:192.0.2.2",
            "ip:192.0.2.6",
            "ip:2001:db8:1:2::/64",
            "user:ann",
            "user:guest-b",
            "user:guest-c",
            "user:guest-d",
            "user:guest-e",
            "user:guest-f"
        ]
    );
    assert_eq!(report["bans"].as_array().unwrap().len(), 9);
}

#[test]
fn a_kick_with_a_ban_has_its_bound() {
    let mut world = World::default();
    // Numbers that the stand-in does nothing special about.
    for id in 2001..=3001 {
        world.clients.insert(ConnId(id), client(id, &format!("u{id}"), "n", "127.0.0.1", &["lobby"]));
    }
    let daemon = Daemon::start(world);
    ends(&daemon.ctl(&["kick", "--room", "lobby", "--ban", "1h"]), 64, "at most 1000");
    assert_eq!((closed(&daemon).len(), banned(&daemon).len()), (0, 0));
    daemon.world.lock().unwrap().clients.remove(&ConnId(3001));
    let report = daemon.json(&["kick", "--room", "lobby", "--ban", "1h"]);
    assert_eq!((&report["done"], report["bans"].as_array().unwrap().len()), (&json!(1000), 1000));
}

#[test]
fn mutes() {
    let daemon = Daemon::start(some());
    assert_eq!(
        daemon.json(&["mute", "add", "user:u1", "--room", "lobby", "--for", "10m", "--reason", "calm"]),
        json!({"id": 1, "matched": 1, "done": 1, "failed": []})
    );
    assert_eq!(daemon.ctl(&["mute", "add", "user:u2"]).stdout, "mute 2 is in force; it concerns 1 connection now\n");
    let list = daemon.json(&["mute", "list"]);
    let (one, two) = (&list["mutes"][0], &list["mutes"][1]);
    assert_eq!((&one["room"], &one["reason"], &two["room"]), (&json!("lobby"), &json!("calm"), &Value::Null));
    assert_eq!(daemon.ctl(&["mute", "list"]).stdout.lines().nth(1).unwrap(), format!("2\tuser:u2\t\t\t{}\t", me()));
    assert_eq!(daemon.json(&["status"])["mutes"], 2);
    assert_eq!(daemon.ctl(&["ban", "del", "1"]).status, 65, "it is no ban");
    assert_eq!(daemon.ctl(&["mute", "del", "1", "2"]).stdout, "ended 2 mutes\n");
    assert_eq!(daemon.ctl(&["mute", "del", "1"]).status, 65);
    assert_eq!(closed(&daemon), [], "who is muted stays");
}

#[test]
fn bans_and_mutes_are_changed_in_place() {
    let daemon = Daemon::start(some());
    daemon.json(&["ban", "add", "user:u1", "--for", "2h", "--reason", "spam"]);
    daemon.json(&["mute", "add", "user:u2", "--room", "lobby"]);
    let before = daemon.json(&["ban", "list"])["bans"][0].clone();
    let after = daemon.json(&["ban", "edit", "1", "--for", "1d"])["ban"].clone();
    for same in ["id", "user", "ip", "reason", "by", "since"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert!(after["left"].as_f64().unwrap() > 86_000.0 && after["until"] != before["until"], "{after}");
    assert_eq!(daemon.json(&["ban", "list"])["bans"][0]["until"], after["until"], "it is the one that is listed");
    assert_eq!(daemon.ctl(&["ban", "edit", "1", "--for", "forever"]).stdout, "ban 1 is in force until it is ended\n");
    let now = daemon.json(&["ban", "edit", "1", "--reason", "really spam"])["ban"].clone();
    assert_eq!((&now["until"], &now["reason"]), (&Value::Null, &json!("really spam")));
    assert_eq!(daemon.json(&["ban", "edit", "1", "--reason", ""])["ban"]["reason"], "");
    let mute = daemon.json(&["mute", "edit", "2", "--for", "90s", "--reason", "calm"])["mute"].clone();
    assert_eq!((&mute["room"], &mute["reason"]), (&json!("lobby"), &json!("calm")));
    assert!(daemon.ctl(&["mute", "edit", "2", "--for", "1h"]).stdout.starts_with("mute 2 is in force until 2"));
    for (wrong, status) in [
        (&["ban", "edit", "2", "--for", "1h"][..], 65),
        (&["mute", "edit", "1", "--for", "1h"], 65),
        (&["ban", "edit", "1"], 64),
        (&["ban", "edit", "1", "--for", "0s"], 64),
        (&["mute", "edit", "2", "--reason", "two\nlines"], 64),
    ] {
        assert_eq!(daemon.ctl(wrong).status, status, "{wrong:?}");
    }
    let mut raw = daemon.raw();
    for (wrong, parameter) in [
        (json!({"id": 1}), "seconds"),
        (json!({"id": 1, "seconds": 5.0, "forever": true}), "forever"),
        (json!({"id": 1, "forever": false}), "seconds"),
    ] {
        let reply = raw.call("org.wschat.Control.EditBan", wrong);
        assert_eq!(reply["error"], "org.wschat.Control.BadValue");
        assert_eq!(reply["parameters"]["parameter"], parameter);
    }
    daemon.world.lock().unwrap().unsaved = Some("the disk is full".into());
    let unsaved = daemon.ctl(&["ban", "edit", "1", "--for", "3h"]);
    assert!(unsaved.status == 1 && unsaved.stderr.contains("the disk is full"), "{unsaved:?}");
    let log = daemon.world.lock().unwrap().log.clone();
    assert!(log[2].contains("changed ban 1: ban of user:u1 for 1day") && log[2].contains("done=1"), "{log:#?}");
    assert!(log[3].contains("changed ban 1: ban of user:u1, until it is ended"), "{log:#?}");
    assert!(log.last().unwrap().contains("changed ban 1 for 3h; not saved: the disk is full"), "{log:#?}");
    assert_eq!(closed(&daemon).len(), 1, "a change closes nobody");
}

#[test]
fn rooms_are_closed_and_purged_and_messages_deleted() {
    let daemon = Daemon::start(some());
    daemon.world.lock().unwrap().stored.insert(room_name("lobby"), Stream::of(5));
    assert_eq!(
        daemon.json(&["delete", "lobby", "3"]),
        json!({"matched": 1, "done": 1, "failed": [], "seq": 6, "removed": 1})
    );
    ends(&daemon.ctl(&["delete", "lobby", "3"]), 65, "it may have been deleted already");
    ends(&daemon.ctl(&["delete", "attic", "1"]), 65, "\"attic\"");
    assert_eq!(daemon.ctl(&["delete", "lobby", "4"]).stdout, "deleted message 4 of lobby; the room sees it as 7\n");

    ends(&daemon.ctl(&["room", "purge", "lobby"]), 64, "--yes");
    let asked = on_terminal(&daemon, "room purge lobby", "n\n");
    assert_eq!(asked.status, 1, "{asked:?}");
    assert!(asked.stdout.contains("Remove the 5 stored entries of room lobby for ever? [y/N]"), "{asked:?}");
    assert_eq!(on_terminal(&daemon, "room purge attic", "y\n").status, 65, "nothing to ask about");
    ends(&daemon.ctl(&["room", "purge", "attic", "--yes"]), 65, "\"attic\"");
    assert_eq!(
        daemon.json(&["room", "purge", "lobby", "--yes"]),
        json!({"matched": 7, "done": 7, "failed": [], "seq": 8, "removed": 7})
    );
    let asked = on_terminal(&daemon, "room purge lobby", "yes\n");
    assert!(asked.status == 0 && asked.stdout.contains("removed 1 entries of lobby"), "{asked:?}");

    assert_eq!(
        daemon.json(&["room", "close", "lobby", "--reason", "moved"]),
        json!({"matched": 2, "done": 2, "failed": []})
    );
    assert_eq!(daemon.ctl(&["room", "close", "tea"]).stdout, "put 1 connection out of tea\n");
    ends(&daemon.ctl(&["room", "close", "attic"]), 65, "\"attic\"");
    assert_eq!(daemon.ctl(&["room", "close", "lobby"]).status, 0, "it is there, and nobody was in it");
    let world = daemon.world.lock().unwrap();
    let closes: Vec<&Action> =
        world.actions.iter().map(|(_, action)| action).filter(|a| matches!(a, Action::CloseRoom { .. })).collect();
    assert_eq!(closes[0], &Action::CloseRoom { room: room_name("lobby"), reason: "moved".into() });
    drop(world);

    daemon.world.lock().unwrap().broken = Some("the disk is full".into());
    for arguments in [&["room", "purge", "lobby", "--yes"][..], &["delete", "lobby", "1"]] {
        ends(&daemon.ctl(arguments), 75, "the disk is full");
    }
    let status = daemon.json(&["status"]);
    assert_eq!(
        (&status["history"]["state"], &status["history"]["why"]),
        (&json!("failing"), &json!("the disk is full"))
    );
    let seen = on_terminal(&daemon, "status", "");
    assert!(seen.stdout.contains("messages are refused") && seen.stdout.contains("the disk is full"), "{seen:?}");
}

#[test]
fn tokens() {
    let daemon = Daemon::start(some());
    assert_eq!(daemon.ctl(&["token", "ann"]).stdout, "token.of.ann\n");
    let before = std::time::SystemTime::now();
    let minted = daemon.json(&[
        "token",
        "bob",
        "--name",
        "Bob",
        "--room",
        "team-*",
        "--room",
        "大厅",
        "--moderator",
        "--for",
        "90s",
    ]);
    assert_eq!(minted["token"], "token.of.bob");
    let expires = humantime::parse_rfc3339(minted["expires"].as_str().unwrap()).unwrap();
    assert!(expires >= before + Duration::from_secs(89), "{minted}");
    let wish = |user: &str| TokenWish {
        user: UserId::parse(user).unwrap(),
        nick: None,
        rooms: None,
        moderator: false,
        lasts: Duration::from_secs(3600),
    };
    let bob = TokenWish {
        nick: Nick::parse("Bob").ok(),
        rooms: Some(vec!["team-*".into(), "大厅".into()]),
        moderator: true,
        lasts: Duration::from_secs(90),
        ..wish("bob")
    };
    assert_eq!(daemon.world.lock().unwrap().wishes, [wish("ann"), bob]);
    for (arguments, words) in [
        (&["token", ""][..], "USER"),
        (&["token", "ann", "--room", ""], "--room"),
        (&["token", "ann", "--name", "\u{202e}x"], "--name"),
        (&["token", "ann", "--for", "0s"], "--for"),
        (&["token", "guest-x"], "guest-"),
        (&["token", "ann", "--for", "500ms"], "366d"),
        (&["token", "ann", "--for", "367d"], "366d"),
        (&["token", "ann", "--for", "99999d"], "366d"),
        (&["token", "ann", "--room", "a b"], "no room's name can match it"),
    ] {
        ends(&daemon.ctl(arguments), 64, words);
    }
    let log = daemon.world.lock().unwrap().log.join("\n");
    assert!(log.contains("made a token for user:bob as a moderator") && !log.contains("token.of"), "{log}");
    daemon.world.lock().unwrap().no_secret = Some("no secret is configured: set auth.secret".into());
    ends(&daemon.ctl(&["token", "ann"]), 78, "set auth.secret");
}

#[test]
fn what_is_wrong_with_a_call_is_said_and_nothing_is_done() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    let long = "x".repeat(124);
    let huge = "y".repeat(500_000);
    let (bad, odd) = ("org.wschat.Control.BadValue", "org.varlink.service.InvalidParameter");
    for (method, parameters, error) in [
        ("AddBan", json!({}), bad),
        ("AddBan", json!({"ip": "192.0.2.1", "user": "u1"}), bad),
        ("AddBan", json!({"target": "user:u1"}), bad),
        ("AddBan", json!({"user": "u1", "room": "lobby"}), odd),
        ("AddBan", json!({"user": 7}), odd),
        ("AddBan", json!({"user": ["u1"]}), odd),
        ("AddBan", json!({"user": huge}), bad),
        ("AddBan", json!({"user": "a\u{0}b"}), bad),
        ("AddBan", json!({"ip": "300.1.1.1"}), bad),
        ("AddBan", json!({"ip": "192.0.2.1/33"}), bad),
        ("AddBan", json!({"user": "u1", "seconds": 0}), bad),
        ("AddBan", json!({"user": "u1", "seconds": -1.5}), bad),
        ("AddBan", json!({"user": "u1", "seconds": 1e300}), bad),
        ("AddBan", json!({"user": "u1", "seconds": "1h"}), odd),
        ("AddBan", json!({"user": "u1", "reason": long}), bad),
        ("AddBan", json!({"user": "u1", "reason": huge}), bad),
        ("AddBan", json!({"user": "u1", "reason": {}}), odd),
        ("AddBan", json!({"user": "u1", "reason": "a\u{1b}[2J"}), bad),
        ("AddMute", json!({"user": "u1", "reason": "a\nb"}), bad),
        ("CloseRoom", json!({"room": "lobby", "reason": "a\u{202e}b"}), bad),
        ("Kick", json!({"filter": {"user": "u1"}, "reason": "a\u{2067}b"}), bad),
        ("Kick", json!({"filter": {"user": "u1"}, "reason": "a\r", "ban": true}), bad),
        ("DeleteBan", json!({}), odd),
        ("DeleteBan", json!({"id": -1}), odd),
        ("DeleteBan", json!({"id": 1}), "org.wschat.Control.NoSuchBan"),
        ("DeleteMute", json!({"id": 18_446_744_073_709_551_615_u64}), "org.wschat.Control.NoSuchMute"),
        ("ListBans", json!({"all": true}), odd),
        ("ListMutes", json!([]), odd),
        ("AddMute", json!({"room": "lobby"}), odd),
        ("AddMute", json!({"user": "u1", "room": "a b"}), bad),
        ("AddMute", json!({"user": "", "room": "lobby"}), bad),
        ("CloseRoom", json!({"room": "lobby", "reason": long}), bad),
        ("CloseRoom", json!({"room": huge}), bad),
        ("PurgeRoom", json!({}), odd),
        ("PurgeRoom", json!({"room": "attic"}), "org.wschat.Control.NoSuchRoom"),
        ("PurgeRoom", json!({"room": "lobby", "yes": true}), odd),
        ("DeleteMessage", json!({"room": "lobby"}), odd),
        ("DeleteMessage", json!({"room": "lobby", "seq": 1.5}), odd),
        ("DeleteMessage", json!({"room": "lobby", "seq": "1"}), odd),
        ("Kick", json!({"filter": {"user": "u1"}, "ban": 3600}), odd),
        ("Kick", json!({"filter": {"user": "u1"}, "seconds": 3600}), bad),
        ("Kick", json!({"filter": {"user": "u1"}, "ban": true, "seconds": 0}), bad),
        ("Kick", json!({"filter": {"user": "u1"}, "ban": true, "reconnect": true}), bad),
        ("Kick", json!({"filter": {"ip": "::/0"}, "ban": true}), bad),
        ("Kick", json!({"all": true, "ban": true}), bad),
        ("Kick", json!({"ban": true}), "org.wschat.Control.EmptyFilter"),
        ("MintToken", json!({}), odd),
        ("MintToken", json!({"user": "u1", "roles": ["king"]}), bad),
        ("MintToken", json!({"user": "u1", "roles": "moderator"}), odd),
        ("MintToken", json!({"user": "u1", "rooms": [""]}), bad),
        ("MintToken", json!({"user": "u1", "rooms": vec!["r"; 101]}), bad),
        ("MintToken", json!({"user": "u1", "rooms": vec!["r".repeat(60); 80]}), bad),
        ("MintToken", json!({"user": "u1", "rooms": ["a b"]}), bad),
        ("MintToken", json!({"user": "guest-x"}), bad),
        ("MintToken", json!({"user": "u1", "seconds": 0.5}), bad),
        ("MintToken", json!({"user": "u1", "seconds": 400 * 86400}), bad),
        ("MintToken", json!({"user": "u1", "seconds": 1e18}), bad),
        ("MintToken", json!({"user": "u1", "name": "\u{1b}[2J"}), bad),
    ] {
        let reply = raw.call(&format!("org.wschat.Control.{method}"), parameters.clone());
        let told = reply.to_string();
        assert_eq!(reply["error"], error, "{method}: {told}");
        assert!(told.len() < 2000, "what a stranger sent is quoted briefly: {} bytes", told.len());
    }
    let world = daemon.world.lock().unwrap();
    let done = world.actions.iter().filter(|(_, action)| !matches!(action, Action::Lift { .. } | Action::Purge { .. }));
    assert_eq!(done.count(), 0);
    assert!(world.closed.is_empty() && world.wishes.is_empty() && world.log.is_empty(), "{:?}", world.log);
    drop(world);
    let mut push = crate::fake::Raw::connect(&daemon.push());
    for method in ["Control.AddBan", "Push.AddBan", "Control.History", "Push.MintToken"] {
        let reply = push.call(&format!("org.wschat.{method}"), json!({"user": "u1"}));
        assert!(reply["error"].as_str().unwrap().ends_with("NotFound"), "{reply}");
    }
}

#[test]
fn every_change_is_written_down_with_who_what_and_how_many() {
    let daemon = Daemon::start(some());
    daemon.world.lock().unwrap().stored.insert(room_name("tea"), Stream::of(3));
    for arguments in [
        &["ban", "add", "user:u1", "--for", "2h", "--reason", "a \"b\""][..],
        &["mute", "add", "user:u2", "--room", "tea"],
        &["ban", "del", "1"],
        &["mute", "del", "2"],
        &["kick", "--user", "u2", "--ban", "1h"],
        &["delete", "tea", "2"],
        &["room", "close", "tea"],
        &["room", "purge", "tea", "--yes"],
        &["token", "ann"],
        // These change nothing.
        &["ban", "list"],
        &["mute", "list"],
        &["history", "tea"],
        &["rooms", "--stored"],
    ] {
        assert_eq!(daemon.ctl(arguments).status, 0, "{arguments:?}");
    }
    let log = daemon.world.lock().unwrap().log.clone();
    let (uid, name) = (nix::unistd::geteuid(), me());
    for (line, parts) in log.iter().zip([
        &["ban 1 in force: ban of user:u1 for 2h, \"a \\\"b\\\"\"; 1 of 1 connections", "matched=1 done=1"][..],
        &["mute 2 in force: mute of user:u2 in room tea", "what=\"mute of user:u2 in room tea\"", "matched=1"],
        &["ended ban 1: ban of user:u1"],
        &["ended mute 2: mute of user:u2 in room tea"],
        &["kicked --user u2: 1 of 1 connections closed with 4004 you are banned; bans [3] for 1h"],
        &["deletion of message 2 in room tea: 1 removed, as seq 4", "done=1"],
        &["closed room tea: 0 connections put out", "what=\"close of room tea\""],
        &["purge of room tea: 4 removed, as seq 5", "matched=4 done=4"],
        &["made a token for user:ann, until "],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part} in {line}");
        }
        let who = name.split(' ').next().unwrap();
        assert!(line.contains(&format!(" uid={uid} pid=")) && line.contains(&format!("user_name=\"{who}\"")), "{line}");
    }
    assert_eq!(log.len(), 9, "{log:#?}");
    // In the lists and to those who watch it is a person, not a process.
    assert!(daemon.world.lock().unwrap().actions.iter().all(|(by, _)| *by == name));
}
