//! Backups: taken while people talk, put back in every way that somebody may choose at night. Nobody who
//! comes back is given other messages under numbers that he has seen.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use aws_lc_rs::digest;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::daemon::{PLAIN, Ran};
use crate::support::{Chat, Daemon, Setup, until};
use crate::{FAST, database};

/// Said before the copy is made, and after it.
const BEFORE: u64 = 80;
const AFTER: u64 = 20;

fn config() -> String {
    format!("{PLAIN}{FAST}[history]\nstore = \"sqlite\"\n")
}

/// In the lobby, or back in it from a cursor; with what `joined` says.
fn enter(daemon: &Daemon, hello: Value) -> (Chat, Value) {
    let mut chat = Chat::open(daemon.connect(), "/chat", "");
    chat.hello(hello);
    let joined = chat.frame("joined")["payload"].take();
    (chat, joined)
}

fn texts(chat: &mut Chat) -> Vec<(u64, String)> {
    let mut texts = Vec::new();
    loop {
        let after = texts.last().map_or(0, |(seq, _)| *seq);
        chat.send("history", json!({"room": "lobby", "after": after, "limit": 100}));
        let page = chat.frame("history")["payload"].take();
        for message in page["messages"].as_array().expect("a list") {
            let text = message["payload"]["text"].as_str().expect("a text").to_owned();
            texts.push((message["seq"].as_u64().expect("a number"), text));
        }
        if page["more"] != true {
            return texts;
        }
    }
}

/// A copy of the running daemon's history, in this file.
type Copying = fn(&Daemon, &Path);
/// It is put back: the daemon has stopped.
type PutBack = fn(&Setup, &Path);

fn by_ctl(daemon: &Daemon, to: &Path) {
    let report = daemon.json(&["backup", to.to_str().expect("a plain path")]);
    let bytes = fs::read(to).expect("it is there");
    let sha256: String =
        digest::digest(&digest::SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report["file"], to.to_str().expect("a plain path"));
    assert_eq!((&report["bytes"], &report["sha256"]), (&json!(bytes.len()), &json!(sha256)));
    assert_eq!((&report["rooms"], &report["entries"]), (&json!(1), &json!(BEFORE)));
    assert_eq!(fs::metadata(to).expect("it is there").permissions().mode() & 0o777, 0o600);
}

/// As `sqlite3 wschat.db ".backup FILE"` does it: through another connection, page by page.
fn by_sqlite(daemon: &Daemon, to: &Path) {
    let from = Connection::open(database::path(daemon)).expect("it can be read");
    from.backup(rusqlite::MAIN_DB, to, None::<fn(rusqlite::backup::Progress)>).expect("it can be copied");
}

/// As the documents have it.
fn as_documented(setup: &Setup, copy: &Path) {
    for file in fs::read_dir(setup.state_folder()).expect("there is one") {
        let file = file.expect("our own").path();
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wschat.db")) {
            fs::remove_file(file).expect("our own");
        }
    }
    fs::copy(copy, database::path(setup)).expect("our own");
}

/// In haste.
fn over_it(setup: &Setup, copy: &Path) {
    fs::copy(copy, database::path(setup)).expect("our own");
}

#[test]
fn who_has_seen_more_than_a_restored_history_is_given_it_anew() {
    let ways: [(Copying, PutBack); 4] =
        [(by_ctl, as_documented), (by_ctl, over_it), (by_sqlite, as_documented), (by_sqlite, over_it)];
    for (n, (copy, put_back)) in ways.into_iter().enumerate() {
        let daemon = Setup::new(&config()).start();
        let (mut bob, joined) = enter(&daemon, json!({"nick": "bob"}));
        let mut ann = daemon.chat("ann");
        for n in 1..=BEFORE {
            ann.say(&format!("m{n}"));
        }
        let file = daemon.folder().join("copy.db");
        copy(&daemon, &file);
        for n in BEFORE + 1..=BEFORE + AFTER {
            ann.say(&format!("m{n}"));
        }
        bob.hears(&format!("m{}", BEFORE + AFTER));
        let setup = daemon.stop();
        put_back(&setup, &file);
        let daemon = setup.start();

        // Others talk before bob is back, past the numbers that he has seen.
        let mut ann = daemon.chat("ann");
        for n in BEFORE + 1..=BEFORE + AFTER + 5 {
            assert_eq!(ann.say(&format!("another m{n}"))["seq"], n);
        }
        let seen = BEFORE + AFTER;
        let resume = json!({"rooms": [], "resume": {"rooms": {"lobby": {"epoch": joined["epoch"], "seq": seen}}}});
        let (mut bob, back) = enter(&daemon, resume);
        assert_eq!((&back["recovered"], back["epoch"] == joined["epoch"]), (&json!(false), false), "way {n}: {back}");
        let all = texts(&mut bob);
        assert_eq!(all.len() as u64, BEFORE + AFTER + 5, "way {n}");
        assert_eq!(all[79..81], [(80, "m80".to_owned()), (81, "another m81".to_owned())], "way {n}");
        // From then on it is a history like any other.
        let epoch = back["epoch"].clone();
        let daemon = daemon.crash().start();
        let resume = json!({"rooms": [], "resume": {"rooms": {"lobby": {"epoch": epoch, "seq": seen}}}});
        assert_eq!(enter(&daemon, resume).1["recovered"], true, "way {n}");
    }
}

#[test]
fn a_copy_that_was_made_while_nothing_ran_is_an_older_one_as_well() {
    let daemon = Setup::new(&config()).start();
    daemon.chat("ann").say("m1");
    let setup = daemon.stop();
    let cold = setup.folder().join("cold.db");
    fs::copy(database::path(&setup), &cold).expect("there is one");
    let daemon = setup.start();
    let (_, joined) = enter(&daemon, json!({}));
    daemon.chat("ann").say("m2");
    let setup = daemon.crash();
    // What a daemon that was killed leaves: its journal belongs to another file now.
    as_documented(&setup, &cold);
    let daemon = setup.start();
    daemon.chat("ann").say("another m2");
    let resume = json!({"rooms": [], "resume": {"rooms": {"lobby": {"epoch": joined["epoch"], "seq": 2}}}});
    assert_eq!(enter(&daemon, resume).1["recovered"], false);
}

#[test]
fn the_file_is_replaced_only_if_that_is_wanted_and_only_by_a_whole_one() {
    let daemon = Setup::new(&config()).start();
    daemon.chat("ann").say("m1");
    let file = daemon.folder().join("copy.db");
    let name = file.to_str().expect("a plain path");
    fs::write(&file, "precious").expect("our own");
    daemon.ctl(&["backup", name]).ends(73, "--force");
    assert_eq!(fs::read(&file).expect("still there"), b"precious");
    // What one that was killed has left does not stand in the way.
    fs::write(daemon.folder().join("copy.db.partial"), "half of it").expect("our own");
    let ran = daemon.ctl(&["backup", name, "--force"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stdout.starts_with("1 entry of 1 room, "), "{ran:?}");
    database::check(&file);
    for (bad, words) in [("gone/copy.db", "gone/copy.db"), ("/dev/null", "something else"), (".", "something else")] {
        daemon.ctl(&["backup", bad, "--force"]).ends(73, words);
    }
    daemon.ctl(&["backup", "-", "--json"]).ends(64, "--json");
    let left: Vec<PathBuf> = fs::read_dir(daemon.folder()).expect("our own").map(|file| file.unwrap().path()).collect();
    assert!(!left.iter().any(|path| path.extension().is_some_and(|kind| kind == "partial")), "{left:?}");

    // Through a pipe it is the same.
    let mut ctl = daemon.ctl_command(&["backup", "-"]);
    let ran = ctl.output().expect("it can be run");
    assert!(ran.status.success(), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("1 entry of 1 room"), "{ran:?}");
    fs::write(&file, ran.stdout).expect("our own");
    database::check(&file);
    assert!(daemon.log().contains("took a backup of the history: 1 entries"), "{}", daemon.log());
}

#[test]
fn what_is_kept_in_memory_cannot_be_copied() {
    for store in ["memory", "none"] {
        let daemon = Daemon::plain(&format!("[history]\nstore = \"{store}\"\n"));
        daemon.ctl(&["backup", "copy.db"]).ends(78, store);
        assert!(!daemon.folder().join("copy.db").exists());
    }
}

/// One who takes a backup and does not take it, and those who want one meanwhile; nobody who talks is
/// held up.
#[test]
fn one_at_a_time_and_who_goes_makes_room() {
    let daemon = Setup::new(&config()).start();
    let mut ann = daemon.chat("ann");
    let text = "x".repeat(4000);
    let mut said = 0;
    for _ in 0..800 {
        said += 1;
        ann.say(&text);
    }
    let mut slow = daemon.caller();
    slow.call("Backup", json!({}), true).expect("the daemon listens");
    let first = slow.reply().expect("it begins");
    assert!(first["error"].is_null(), "{first}");
    daemon.ctl(&["backup", "copy.db"]).ends(75, "another backup is under way");
    for _ in 0..20 {
        said += 1;
        assert_eq!(ann.say(&text)["seq"], said);
    }
    let left = |setup: &Setup| -> Vec<String> {
        let names = fs::read_dir(setup.state_folder()).expect("there is one").map(|file| file.unwrap().file_name());
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(".copy")).collect()
    };
    drop(slow);
    let whole = |what: &str| {
        until(what, || {
            let ran = daemon.ctl(&["backup", "copy.db", "--force"]);
            assert!([0, 75].contains(&ran.status), "{ran:?}");
            (ran.status == 0).then_some(())
        });
    };
    whole("who has gone makes room");
    // A ctl that is killed half-way does, too.
    let mut killed = daemon.ctl_command(&["backup", "-"]).stdout(Stdio::piped()).spawn().expect("it can be run");
    let mut first = [0];
    let taken = killed.stdout.as_mut().expect("it is piped").read(&mut first).expect("it gives some");
    assert_eq!(taken, 1, "it has begun, and stands: nobody takes the rest");
    daemon.ctl(&["backup", "other.db", "--force"]).ends(75, "another backup is under way");
    killed.kill().expect("our own child");
    killed.wait().expect("our own child");
    whole("who was killed makes room");
    database::check(&daemon.folder().join("copy.db"));
    assert_eq!(left(&daemon), [""; 0]);
    // And a daemon that is to stop does not wait for one.
    let mut slow = daemon.caller();
    slow.call("Backup", json!({}), true).expect("the daemon listens");
    slow.reply().expect("it begins");
    let setup = daemon.stop();
    assert_eq!(left(&setup), [""; 0]);
    let daemon = setup.start();
    assert_eq!(daemon.chat("ann").say("on")["seq"], said + 1);
}

/// What an operator who pipes it into something that fails is told.
#[test]
fn a_reader_that_goes_has_no_backup_and_is_told_so() {
    let daemon = Setup::new(&config()).start();
    daemon.chat("ann").say("m1");
    let mut ctl = daemon.ctl_command(&["backup", "-"]);
    let mut child = ctl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
    drop(child.stdout.take());
    let ran = Ran::of_child(child);
    assert_eq!(ran.status, 70, "{ran:?}");
    assert!(ran.stderr.contains("not taken whole"), "{ran:?}");
    daemon.json(&["backup", "copy.db"]);
}

/// It is killed while somebody takes a copy: he is told so, and nothing of it is there afterwards.
#[test]
fn a_daemon_that_is_killed_leaves_no_half_a_copy() {
    let daemon = Setup::new(&config()).start();
    let mut ann = daemon.chat("ann");
    let text = "x".repeat(4000);
    for _ in 0..400 {
        ann.say(&text);
    }
    let mut ctl = daemon.ctl_command(&["backup", "-"]);
    let mut child = ctl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
    // It has begun, and stands: nobody takes the rest.
    let taken = child.stdout.as_mut().expect("it is piped").read(&mut [0]).expect("it gives some");
    assert_eq!(taken, 1);
    let setup = daemon.crash();
    let ran = child.wait_with_output().expect("our own child");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(69), "{told}");
    assert!(told.contains("closed the connection before it had answered"), "{told}");
    let copies = |setup: &Setup| {
        let names = fs::read_dir(setup.state_folder()).expect("there is one").map(|file| file.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains(".copy")).count()
    };
    assert_eq!(copies(&setup), 0);
    let daemon = setup.start();
    assert_eq!(daemon.json(&["backup", "copy.db"])["entries"], 400);
    database::check(&daemon.folder().join("copy.db"));
}
