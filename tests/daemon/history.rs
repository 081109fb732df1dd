//! What rooms remember, on disk: across restarts and crashes, refused files, and a database that
//! cannot be written for a while.

use std::fs;

use rusqlite::Connection;
use serde_json::json;

use crate::support::daemon::PLAIN;
use crate::support::manager::Manager;
use crate::support::{Chat, Daemon, Setup, until};

/// What the room has, as somebody sees it who asks for it.
fn history(chat: &mut Chat) -> (String, Vec<(u64, String)>) {
    chat.send("history", json!({"room": "lobby", "limit": 100}));
    let page = chat.frame("history")["payload"].take();
    let entry = |frame: &serde_json::Value| {
        (frame["seq"].as_u64().unwrap(), frame["payload"]["text"].as_str().unwrap_or_default().to_owned())
    };
    let epoch = page["epoch"].as_str().unwrap().to_owned();
    (epoch, page["messages"].as_array().unwrap().iter().map(entry).collect())
}

#[test]
fn what_was_said_is_there_after_a_stop_and_after_a_crash() {
    let daemon = Daemon::plain("");
    let mut chat = daemon.chat("ann");
    chat.say("one");
    let (epoch, _) = history(&mut chat);
    let daemon = daemon.stop().start();
    let mut chat = daemon.chat("ann");
    chat.say("two");
    let daemon = daemon.crash().start();
    let mut chat = daemon.chat("ann");
    assert_eq!(chat.say("three")["seq"], 3);
    let wanted = [(1, "one".to_owned()), (2, "two".to_owned()), (3, "three".to_owned())];
    assert_eq!(history(&mut chat), (epoch, wanted.into()));
    chat.leave();
    let setup = daemon.stop();
    assert!(setup.log().contains("messages are kept in "), "{}", setup.log());
    let files: Vec<_> = fs::read_dir(setup.state_folder()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(files.iter().any(|name| name == "wschat.db"), "{files:?}");
    assert!(!files.iter().any(|name| name == "wschat.db-wal"), "a stop leaves one file: {files:?}");
}

#[test]
fn in_memory_no_file_is_made() {
    let daemon = Daemon::plain("[history]\nstore = \"memory\"\n");
    daemon.chat("ann").say("one");
    let setup = daemon.crash();
    assert!(!setup.state_folder().join("wschat.db").exists());
    let daemon = setup.start();
    assert_eq!(daemon.chat("ann").say("one")["seq"], 1);
}

#[test]
fn the_database_may_lie_elsewhere_and_belongs_to_one_daemon() {
    let daemon = Daemon::plain("[history]\npath = \"elsewhere.db\"\n");
    daemon.chat("ann").say("one");
    let path = daemon.folder().join("elsewhere.db");
    assert!(path.exists() && !daemon.state_folder().join("wschat.db").exists());
    let other = Setup::new(&format!("{PLAIN}[history]\npath = {path:?}\n"));
    other.fails().ends(1, "in use by another wschat");
    // A reload tells that another place waits for a restart.
    daemon.write_config(&format!("{PLAIN}[history]\npath = \"third.db\"\nkeep = 5\n"));
    let reloaded = daemon.json(&["reload"]);
    assert_eq!(reloaded["needs_restart"], json!(["history.path"]), "{reloaded}");
    assert_eq!(reloaded["changed"], json!(["history.keep"]), "{reloaded}");
    assert!(!daemon.folder().join("third.db").exists());
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_left_alone() {
    let setup = Daemon::plain("").stop();
    let path = setup.state_folder().join("wschat.db");
    let name = path.to_str().unwrap();
    let sound = fs::read(&path).unwrap();
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let newer = fs::read(&path).unwrap();
    let ran = setup.fails();
    ran.ends(65, "version 99");
    ran.ends(65, name);
    assert!(fs::read(&path).unwrap() == newer);
    fs::write(&path, "this was a database once").unwrap();
    let ran = setup.fails();
    ran.ends(65, "damaged");
    ran.ends(65, name);
    assert_eq!(fs::read(&path).unwrap(), b"this was a database once");
    fs::write(&path, sound).unwrap();
    setup.start().chat("ann").say("as if nothing had happened");
}

#[test]
fn bans_that_cannot_be_read_keep_the_daemon_from_starting() {
    let daemon = Daemon::plain("");
    daemon.ctl(&["ban", "add", "user:troll"]).ends(0, "");
    let setup = daemon.crash();
    let path = setup.state_folder().join("sanctions.json");
    let sound = fs::read(&path).unwrap();
    fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let ran = setup.fails();
    ran.ends(1, path.to_str().unwrap());
    ran.ends(1, "move it away to start without bans");
    assert_eq!(fs::read(&path).unwrap(), sound[..sound.len() / 2], "it is left as it was");
    fs::write(&path, sound).unwrap();
    let daemon = setup.start();
    assert_eq!(daemon.json(&["ban", "list"])["bans"][0]["user"], "troll");
}

#[test]
fn while_nothing_can_be_stored_it_is_told_everywhere_and_reading_goes_on() {
    let manager = Manager::new();
    let daemon = Setup::new(PLAIN).env("NOTIFY_SOCKET", manager.path()).start();
    let mut chat = daemon.chat("ann");
    chat.say("before");
    // Another program that keeps the database to itself stands for any disk that refuses.
    let foreign = Connection::open(daemon.state_folder().join("wschat.db")).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    chat.send("message", json!({"room": "lobby", "text": "refused"}));
    let error = chat.any(&["error", "ack"])["payload"].take();
    assert_eq!((&error["code"], &error["temporary"]), (&json!("unavailable"), &json!(true)), "{error}");
    manager.until("STATUS", |status| status.contains("messages are refused"));
    // Who comes now is let in and reads.
    let mut other = daemon.chat("bob");
    assert_eq!(history(&mut other).1, [(1, "before".to_owned())]);
    foreign.execute_batch("COMMIT").unwrap();
    manager.until("STATUS", |status| !status.contains("messages are refused"));
    assert_eq!(chat.say("after")["seq"], 2);
    other.hears("after");
    let once = |words: &str| until(words, || (daemon.log().matches(words).count() == 1).then_some(()));
    once("messages are refused until they can be stored again");
    once("messages are stored again");
}
