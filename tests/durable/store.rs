//! The database as a file: of another version, damaged, in use by another daemon, read by another
//! program, and closed in good order.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::support::daemon::PLAIN;
use crate::support::{Chat, Setup, until};
use crate::{FAST, database};

fn config() -> String {
    format!("{PLAIN}{FAST}[history]\nstore = \"sqlite\"\n")
}

const MESSAGES: u64 = 300;

/// A state folder with a history in it, and no daemon.
fn with_history() -> Setup {
    let daemon = Setup::new(&config()).start();
    let mut ann = daemon.chat("ann");
    for n in 1..=MESSAGES {
        ann.send("message", json!({"room": "lobby", "text": text(n)}));
    }
    while ann.frame("ack")["payload"]["seq"] != MESSAGES {}
    daemon.stop()
}

fn text(n: u64) -> String {
    format!("m{n} {}", "x".repeat(500))
}

/// Everything in the state folder, so that a change shows.
fn contents(setup: &Setup) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(setup.state_folder()).expect("there is one").map(|file| file.expect("our own").path());
    let mut all: Vec<(PathBuf, Vec<u8>)> =
        files.map(|path| (path.clone(), fs::read(&path).expect("a plain file"))).collect();
    all.sort();
    all
}

/// Everything but the lock file, in which is noted that what comes next is another database.
fn history(setup: &Setup) -> Vec<(PathBuf, Vec<u8>)> {
    contents(setup).into_iter().filter(|(path, _)| path.extension().is_none_or(|kind| kind != "lock")).collect()
}

/// The daemon does not start, names the file and says all of `words`; nothing has changed.
#[track_caller]
fn refused(setup: &Setup, words: &[&str]) {
    let before = history(setup);
    let ran = setup.fails();
    assert_ne!(ran.status, 0, "{ran:?}");
    let path = database::path(setup);
    for word in [&[path.to_str().expect("a plain path")], words].concat() {
        assert!(ran.stderr.contains(word), "{word:?} in {ran:?}");
    }
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    assert!(history(setup) == before, "the state folder is as it was");
}

fn open(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("a database")
}

#[test]
fn one_of_a_newer_version_is_left_alone() {
    let setup = with_history();
    let path = database::path(&setup);
    let version: i64 =
        open(&path).pragma_query_value(None, "user_version", |row| row.get(0)).expect("every database has one");
    assert!(version > 0, "the version is in the database");
    for newer in [version + 1, i64::from(i32::MAX)] {
        open(&path).pragma_update(None, "user_version", newer).expect("our own");
        refused(&setup, &[&newer.to_string(), &version.to_string()]);
    }
    open(&path).pragma_update(None, "user_version", version).expect("our own");
    let daemon = setup.start();
    assert_eq!(daemon.chat("ann").say("still here")["seq"], MESSAGES + 1);
}

#[test]
fn another_programs_database_is_left_alone() {
    let setup = with_history();
    let path = database::path(&setup);
    fs::remove_file(&path).expect("our own");
    Connection::open(&path).expect("our own folder").execute_batch("CREATE TABLE notes (text)").expect("our own");
    refused(&setup, &[]);
}

#[test]
fn a_damaged_one_is_left_alone() {
    let setup = with_history();
    let path = database::path(&setup);
    let good = fs::read(&path).expect("there is a database");
    let half = good.len() / 2;
    let damages: [(&str, Vec<u8>); 5] = [
        ("garbage", b"this is no database\n".repeat(1000)),
        ("a few bytes", b"SQLite".to_vec()),
        ("no header", [&[0; 100], &good[100..]].concat()),
        ("half of it", good[..half].to_vec()),
        ("a piece in the midst is missing", [&good[..half], &good[half + 4096..]].concat()),
    ];
    for (damage, bytes) in damages {
        eprintln!("{damage}");
        fs::write(&path, &bytes).expect("our own");
        refused(&setup, &[]);
    }
    fs::write(&path, &good).expect("our own");
    let daemon = setup.start();
    assert_eq!(daemon.chat("ann").say("whole again")["seq"], MESSAGES + 1);
}

/// Whatever page is destroyed: the daemon does not start, or what it serves is true, and what it
/// cannot serve it says so. It never makes a new database of it.
#[test]
fn one_with_a_destroyed_page_tells_no_lies() {
    let setup = with_history();
    let path = database::path(&setup);
    let good = fs::read(&path).expect("there is a database");
    let page = usize::from(u16::from_be_bytes([good[16], good[17]]));
    let mut setup = Some(setup);
    // Every page is a run of the daemon; some of each part of the file are enough.
    for at in (1..good.len() / page).step_by((good.len() / page / 12).max(1)) {
        let mut bytes = good.clone();
        for byte in &mut bytes[at * page..(at + 1) * page] {
            *byte ^= 0xa5;
        }
        fs::write(&path, &bytes).expect("our own");
        let here = setup.take().expect("given back each time");
        let ran = serves_truth(here, at);
        setup = Some(ran);
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
}

fn serves_truth(setup: Setup, page: usize) -> Setup {
    let before = fs::read(database::path(&setup)).expect("there is a database");
    let mut daemon = setup.launch();
    if !daemon.comes_up() {
        let setup = daemon.crash();
        assert!(setup.log().contains("wschat.db"), "page {page}: {}", setup.log());
        assert!(!setup.log().contains("panicked"), "page {page}: {}", setup.log());
        assert!(fs::read(database::path(&setup)).expect("still there") == before, "page {page}");
        return setup;
    }
    let mut chat = Chat::open(daemon.connect(), "/chat", "");
    chat.hello(json!({"rooms": []}));
    chat.send("join", json!({"room": "lobby"}));
    let joined = chat.any(&["joined", "error"]);
    if joined["type"] == "joined" {
        assert_eq!(joined["payload"]["seq"], MESSAGES, "page {page}");
        chat.send("history", json!({"room": "lobby", "after": 0, "limit": 100}));
        let history = chat.any(&["history", "error"]);
        if history["type"] == "history" {
            for (n, message) in (1..).zip(history["payload"]["messages"].as_array().expect("a list")) {
                assert_eq!((&message["seq"], &message["payload"]["text"]), (&json!(n), &json!(text(n))), "page {page}");
            }
        }
    }
    daemon.crash()
}

#[test]
fn two_daemons_do_not_share_one() {
    let daemon = Setup::new(&config()).start();
    daemon.chat("ann").say("mine");
    let other = Setup::new(&config()).env("XDG_STATE_HOME", daemon.folder().join("state"));
    let ran = other.fails();
    assert_ne!(ran.status, 0, "{ran:?}");
    let folder = daemon.state_folder();
    assert!(ran.stderr.contains(folder.to_str().expect("a plain path")), "{ran:?}");
    assert_eq!(daemon.chat("bob").say("still mine")["seq"], 2);
    // Not by something that outlives a crash.
    let daemon = daemon.crash().start();
    assert_eq!(daemon.chat("bob").say("mine again")["seq"], 3);
}

#[test]
fn others_may_read_it_while_the_daemon_runs() {
    let daemon = with_history().start();
    let path = database::path(&daemon);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(&path, flags).expect("it can be read");
    let verdict: String = reader.query_row("PRAGMA quick_check", [], |row| row.get(0)).expect("it can be read");
    assert_eq!(verdict, "ok");
    // One who reads for long holds nobody up.
    reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").expect("it can be read");
    let mut ann = daemon.chat("ann");
    for n in 1..=20 {
        assert_eq!(ann.say("meanwhile")["seq"], MESSAGES + n);
    }
    reader.execute_batch("COMMIT").expect("it can be read");
}

/// Whether any file of the state folder holds it.
fn on_disk(setup: &Setup, text: &str) -> bool {
    contents(setup).iter().any(|(_, bytes)| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[test]
fn what_is_deleted_or_purged_leaves_the_disk() {
    let daemon = Setup::new(&config()).start();
    let mut ann = daemon.chat("ann");
    let secrets = ["the first secret that somebody tells", "the second secret that somebody tells"];
    for secret in secrets {
        ann.say(secret);
        ann.say("and something else");
    }
    assert!(secrets.iter().all(|secret| on_disk(&daemon, secret)));
    daemon.json(&["delete", "lobby", "1"]);
    until("the text is gone", || (!on_disk(&daemon, secrets[0])).then_some(()));
    assert!(on_disk(&daemon, secrets[1]));

    let daemon = daemon.crash().start();
    let mut ann = daemon.chat("ann");
    ann.send("history", json!({"room": "lobby"}));
    let page = ann.frame("history")["payload"].take();
    let first = &page["messages"][0];
    assert_eq!((&first["seq"], &first["payload"]["deleted"]), (&json!(1), &json!(true)), "{page}");
    assert!(first["payload"]["text"].is_null(), "{page}");
    let last = &page["messages"][4];
    assert_eq!((&last["type"], &last["seq"], &last["payload"]["target"]), (&json!("deleted"), &json!(5), &json!(1)));

    daemon.json(&["room", "purge", "lobby", "--yes"]);
    until("all texts are gone", || (!on_disk(&daemon, secrets[1]) && !on_disk(&daemon, "something")).then_some(()));
    let daemon = daemon.crash().start();
    let mut ann = daemon.chat("ann");
    ann.send("history", json!({"room": "lobby"}));
    let page = ann.frame("history")["payload"].take();
    let purged = &page["messages"][0];
    assert_eq!(
        (&purged["type"], &purged["seq"], &purged["payload"]["all"]),
        (&json!("deleted"), &json!(6), &json!(true))
    );
    assert_eq!(ann.say("anew")["seq"], 7, "the numbers go on");
}

/// Told to stop in the midst of talk: everything that anybody was told of is kept.
#[test]
fn a_stop_keeps_what_was_said() {
    let daemon = Setup::new(&config()).start();
    let mut bob = daemon.chat("bob");
    let mut ann = daemon.chat("ann");
    for n in 1..=MESSAGES {
        ann.send("message", json!({"room": "lobby", "text": text(n)}));
    }
    ann.frame("ack");
    bob.frame("message");
    daemon.signal(Signal::SIGTERM);
    let (acked, heard) = (until_the_end(ann, "ack"), until_the_end(bob, "message"));
    let daemon = daemon.stop_again().start();
    let mut chat = Chat::open(daemon.connect(), "/chat", "");
    chat.hello(json!({"rooms": []}));
    chat.send("join", json!({"room": "lobby"}));
    let head = chat.frame("joined")["payload"]["seq"].as_u64().expect("a number");
    assert!(head >= acked && head >= heard, "{acked} acknowledged, {heard} heard, {head} kept");
    let mut seen = 0;
    while seen < head {
        chat.send("history", json!({"room": "lobby", "after": seen, "limit": 100}));
        let page = chat.frame("history")["payload"].take();
        for message in page["messages"].as_array().expect("a list") {
            seen += 1;
            assert_eq!((&message["seq"], &message["payload"]["text"]), (&json!(seen), &json!(text(seen))));
        }
    }
}

/// The number of the last frame of that type before the daemon closes.
fn until_the_end(mut chat: Chat, kind: &str) -> u64 {
    let mut last = 1;
    loop {
        let frame: Value = chat.any(&[kind, "bye"]);
        if frame["type"] == "bye" {
            chat.closed();
            return last;
        }
        last = frame["seq"].as_u64().filter(|seq| *seq > 0).or(frame["payload"]["seq"].as_u64()).expect("a number");
    }
}
