//! The disk is full: a file system of a few megabytes in mounts of the test's own, and no room left
//! on it. Saying is refused; everything else goes on, and saying too once there is room.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::PLAIN;
use crate::support::manager::Manager;
use crate::support::{Chat, Daemon, Setup, left_out_unless_root, until};
use crate::{FAST, database};

/// Says to the test that it has mounts of its own.
const INSIDE: &str = "WSCHAT_OWN_MOUNTS";

/// Whether the test is to go on here. It is not where this has run it again with mounts of its own,
/// or has noted that none can be had.
fn own_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // Who is not root becomes it in a namespace of users, where the machine allows that.
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("--mount").args((!nix::unistd::geteuid().is_root()).then_some("--map-root-user"));
        command
    };
    match unshare().arg("true").output() {
        Ok(tried) if tried.status.success() => {}
        tried => {
            left_out_unless_root(&format!("{test}: mounts of its own cannot be had ({tried:?})"));
            return false;
        }
    }
    let program = std::env::current_exe().expect("a test is a program");
    let status = unshare().arg(program).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
    assert!(status.expect("it could be run a moment ago").success(), "{test} failed with mounts of its own");
    false
}

/// The file system that holds the state folder.
struct Disk(PathBuf);

impl Disk {
    fn mount(setup: &Setup) -> Self {
        let folder = setup.folder().join("state");
        fs::create_dir(&folder).expect("our own folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=6m,mode=700", "none"]).arg(&folder);
        assert!(mount.status().expect("mount can be run").success());
        Disk(folder)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Until the last byte.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("our own folder");
        let full = std::iter::repeat_with(|| filler.write_all(&[0; 4096])).find_map(Result::err);
        assert_eq!(full.map(|e| e.kind()), Some(ErrorKind::StorageFull));
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("it is full");
    }

    fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &how]).arg(&self.0).status().expect("mount can be run").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What was acknowledged and what was refused.
#[derive(Default)]
struct Books {
    /// In the order of their numbers, which start at 1.
    acked: Vec<(String, Value)>,
    refused: Vec<String>,
    said: u64,
    /// Hears everything as it comes, without a hole.
    listener: Option<Chat>,
}

impl Books {
    /// Says it and enters what comes of it; whether it was kept.
    fn say(&mut self, chat: &mut Chat, cid: &str) -> bool {
        let text = format!("{cid} {}", "x".repeat(3000));
        let re = chat.send("message", json!({"room": "lobby", "text": text, "cid": cid}));
        let answer = loop {
            let answer = chat.any(&["ack", "error"]);
            if answer["payload"]["re"] == re {
                break answer;
            }
        };
        let payload = &answer["payload"];
        if answer["type"] == "ack" {
            self.acked.push((cid.to_owned(), payload["id"].clone()));
            assert_eq!(payload["seq"], self.acked.len(), "no number is left out: {payload}");
            if let Some(listener) = &mut self.listener {
                let heard = listener.frame("message");
                assert_eq!((&heard["seq"], &heard["payload"]["id"]), (&payload["seq"], &payload["id"]));
            }
            return true;
        }
        assert_eq!((&payload["code"], &payload["temporary"]), (&json!("unavailable"), &json!(true)), "{payload}");
        assert!(payload["retry_ms"].as_u64().is_some_and(|ms| ms > 0), "{payload}");
        self.refused.push(cid.to_owned());
        false
    }

    fn say_new(&mut self, chat: &mut Chat) -> bool {
        self.said += 1;
        let cid = format!("c{}", self.said);
        self.say(chat, &cid)
    }

    /// Until one is refused: what was set aside for the database before is used up.
    fn say_until_refused(&mut self, chat: &mut Chat) {
        let most = 6 * 1024 * 1024 / 3000;
        assert!((0..most).any(|_| !self.say_new(chat)), "nothing is ever refused");
    }

    /// Says what was refused last again and again, until it is kept.
    fn say_until_kept(&mut self, chat: &mut Chat) {
        let cid = self.refused.pop().expect("something was refused");
        let others = self.refused.len();
        until("there is room again", || self.say(chat, &cid).then_some(()));
        self.refused.truncate(others);
    }

    /// The history is what was acknowledged, and nothing else.
    fn agree(&self, daemon: &Daemon) {
        let mut chat = Chat::open(daemon.connect(), "/chat", "");
        chat.hello(json!({}));
        let mut found = Vec::new();
        loop {
            chat.send("history", json!({"room": "lobby", "after": found.len(), "limit": 100}));
            let page = chat.frame("history")["payload"].take();
            for message in page["messages"].as_array().expect("a list") {
                let payload = &message["payload"];
                found.push((payload["cid"].as_str().expect("a name").to_owned(), payload["id"].clone()));
                assert_eq!(message["seq"], found.len());
                let text = payload["text"].as_str().expect("a text");
                assert!(text.len() > 3000 && text.starts_with(&found[found.len() - 1].0), "{text}");
            }
            if page["more"] == false {
                break;
            }
        }
        assert_eq!(found, self.acked);
        assert!(self.refused.iter().all(|cid| found.iter().all(|(kept, _)| kept != cid)));
    }
}

fn config() -> String {
    format!("{PLAIN}{FAST}[history]\nstore = \"sqlite\"\n")
}

/// What the daemon has told about its history.
fn history_state(daemon: &Daemon) -> Value {
    daemon.json(&["status"])["history"]["state"].clone()
}

/// Everything but saying something that is to be kept.
fn all_else_works(daemon: &Daemon, ann: &mut Chat, bob: &mut Chat, newcomer: &str) {
    let mut eve = daemon.chat(newcomer);
    is_told(ann, newcomer, "join");
    eve.send("join", json!({"room": "tea"}));
    assert_eq!(eve.frame("joined")["payload"]["seq"], 1);
    let fresh = format!("new-{newcomer}");
    eve.send("join", json!({"room": fresh}));
    assert_eq!(eve.frame("joined")["payload"]["seq"], 0);
    eve.send("history", json!({"room": "tea"}));
    assert_eq!(eve.frame("history")["payload"]["messages"][0]["payload"]["text"], "tea");

    eve.send("typing", json!({"room": "lobby", "on": true}));
    assert_eq!(ann.frame("typing")["payload"]["user"], eve.user);
    bob.send("message", json!({"to": ann.user, "text": "directly"}));
    assert_eq!(bob.frame("ack")["payload"]["delivered"], 1);
    assert_eq!(ann.frame("message")["payload"]["text"], "directly");
    daemon.json(&["notice", "hold on"]);
    assert_eq!(ann.frame("notice")["payload"]["text"], "hold on");
    assert_eq!(daemon.http().get("/healthz").status, 200);
    eve.leave();
    is_told(ann, newcomer, "leave");
}

fn is_told(chat: &mut Chat, nick: &str, state: &str) {
    loop {
        let presence = chat.frame("presence")["payload"].take();
        if presence["nick"] == nick && presence["state"] == state {
            return;
        }
    }
}

#[test]
fn only_saying_is_refused_until_there_is_room() {
    if !own_mounts("disk_full::only_saying_is_refused_until_there_is_room") {
        return;
    }
    let manager = Manager::new();
    let setup = Setup::new(&config()).env("NOTIFY_SOCKET", manager.path());
    let disk = Disk::mount(&setup);
    let daemon = setup.start();
    let mut tea = Chat::open(daemon.connect(), "/chat", "");
    tea.hello(json!({"rooms": ["tea"]}));
    tea.send("message", json!({"room": "tea", "text": "tea"}));
    tea.frame("ack");
    tea.leave();
    let (mut ann, mut bob) = (daemon.chat("ann"), Chat::open(daemon.connect(), "/chat", ""));
    bob.hello(json!({"nick": "bob", "rooms": ["tea"]}));
    let mut books = Books { listener: Some(daemon.chat("eva")), ..Books::default() };
    for _ in 0..20 {
        assert!(books.say_new(&mut ann));
    }
    assert_eq!(history_state(&daemon), "good");

    for round in 0..3 {
        disk.fill();
        books.say_until_refused(&mut ann);
        assert_eq!(history_state(&daemon), "failing");
        told(&manager, true);
        all_else_works(&daemon, &mut ann, &mut bob, &format!("eve{round}"));
        books.agree(&daemon);
        for _ in 0..5 {
            books.say_new(&mut ann);
        }
        disk.make_room();
        books.say_until_kept(&mut ann);
        until("it says that all is well", || (history_state(&daemon) == "good").then_some(()));
        told(&manager, false);
        // Refused while it was full, and said again now; others are not.
        let again = books.refused.pop().expect("some were refused");
        assert!(books.say(&mut ann, &again));
        for _ in 0..20 {
            assert!(books.say_new(&mut ann));
        }
        books.agree(&daemon);
    }
    let setup = daemon.stop();
    database::is_sound(&setup);
    drop(disk);
}

/// The service manager is told whether there is trouble with the history.
fn told(manager: &Manager, trouble: bool) {
    manager.until("STATUS", |status| status.contains("refused") == trouble);
}

#[test]
fn a_daemon_that_starts_on_a_full_disk_serves_what_there_is() {
    if !own_mounts("disk_full::a_daemon_that_starts_on_a_full_disk_serves_what_there_is") {
        return;
    }
    let setup = Setup::new(&config());
    let disk = Disk::mount(&setup);
    let mut daemon = setup.start();
    let mut books = Books::default();
    let mut guest = Value::Null;
    for life in 0..4 {
        let mut ann = Chat::open(daemon.connect(), "/chat", "");
        let hello = if guest.is_null() { json!({"nick": "ann"}) } else { json!({"guest": guest}) };
        guest = ann.hello(hello)["guest"].clone();
        if life > 0 {
            books.agree(&daemon);
            books.say_until_refused(&mut ann);
            books.agree(&daemon);
            disk.make_room();
            books.say_until_kept(&mut ann);
        }
        for _ in 0..20 {
            assert!(books.say_new(&mut ann));
        }
        disk.fill();
        books.say_until_refused(&mut ann);
        books.agree(&daemon);
        drop(ann);
        daemon = if life % 2 == 0 { daemon.crash() } else { daemon.stop() }.start();
    }
    books.agree(&daemon);
    let setup = daemon.stop();
    database::is_sound(&setup);
    drop(disk);
}

/// A copy must not be what fills the disk.
#[test]
fn a_backup_that_has_no_room_is_refused_and_messages_are_not() {
    if !own_mounts("disk_full::a_backup_that_has_no_room_is_refused_and_messages_are_not") {
        return;
    }
    let setup = Setup::new(&config());
    let disk = Disk::mount(&setup);
    let daemon = setup.start();
    let mut ann = daemon.chat("ann");
    ann.say("before");
    let ran = daemon.ctl(&["backup", "copy.db"]);
    ran.ends(75, "MiB free in");
    assert!(!daemon.folder().join("copy.db").exists());
    assert_eq!(ann.say("after")["seq"], 2);
    let copies = fs::read_dir(daemon.state_folder()).expect("there is one").map(|file| file.unwrap().file_name());
    assert!(!copies.into_iter().any(|name| name == "wschat.db.copy"));
    drop(daemon);
    drop(disk);
}

#[test]
fn nothing_is_begun_where_nothing_can_be_kept() {
    if !own_mounts("disk_full::nothing_is_begun_where_nothing_can_be_kept") {
        return;
    }
    // The state folder is there, and there is no room for a database in it.
    let setup = Setup::new(&config());
    let disk = Disk::mount(&setup);
    let setup = setup.start().stop();
    let database = database::path(&setup);
    fs::remove_file(&database).expect("there is a database");
    disk.fill();
    refused_naming(&setup, &database);
    disk.make_room();
    let setup = setup.start().stop();

    // It is there, and cannot be written to.
    disk.remount("ro");
    let before = fs::read(&database).expect("there is a database");
    refused_naming(&setup, &database);
    disk.remount("rw");
    assert!(fs::read(&database).expect("there is a database") == before);
    let daemon = setup.start();
    daemon.chat("ann").say("all is well");
    drop(daemon);
    drop(disk);
}

#[track_caller]
fn refused_naming(setup: &Setup, file: &Path) {
    let ran = setup.fails();
    assert_ne!(ran.status, 0, "{ran:?}");
    let name = file.to_str().expect("a plain path");
    assert!(ran.stderr.contains(name), "{name} in {ran:?}");
}
