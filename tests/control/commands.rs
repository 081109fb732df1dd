//! Every command of `wschatctl`: what it prints, what it exits with.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use wschat::admin::{CertificateView, EventKind, Reloaded};
use wschat::chat::event::{Level, Target};
use wschat::chat::id::ConnId;

use crate::fake::{Daemon, Ran, World, client, ctl_command, run, some, until};
use crate::socket::event;

fn certificate() -> CertificateView {
    CertificateView {
        names: vec!["localhost".into(), "example.org".into()],
        issuer: "CN=wschat".into(),
        from: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        until: SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000),
        fingerprint: "ab12".into(),
        source: "/etc/wschat/cert.pem".into(),
    }
}

/// The command on a terminal of its own, with `input` typed into it.
pub fn on_terminal(daemon: &Daemon, arguments: &str, input: &str) -> Ran {
    let mut command = Command::new("script");
    command
        .args(["-qefc", &format!("{} {arguments}", env!("CARGO_BIN_EXE_wschatctl")), "/dev/null"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .env("WSCHAT_SOCKET", daemon.control());
    run(command, input.as_bytes())
}

#[track_caller]
pub fn ends(ran: &Ran, status: i32, words: &str) {
    assert_eq!(ran.status, status, "{ran:?}");
    assert!(ran.stderr.contains(words), "{words:?} in {ran:?}");
    assert!(ran.stderr.lines().count() <= 1 || status == 64, "one line: {ran:?}");
}

#[test]
fn status_on_one_screen() {
    let daemon = Daemon::start(World { certificate: Some(certificate()), ..some() });
    let status = daemon.json(&["status"]);
    assert_eq!(
        status,
        json!({"version": "9.9.9", "pid": 77, "state": "serving", "since": "2023-11-14T22:13:20.000Z", "clients": 3,
            "clients_max": 100, "users": 3, "rooms": 2, "messages": 42, "messages_per_second": 1.5,
            "certificate_until": "2096-10-02T07:06:40.000Z", "listen": ["https://127.0.0.1:9501"], "config": null,
            "bans": 0, "mutes": 0, "history": {"store": "sqlite", "path": "/var/lib/wschat/history.db", "state": "good",
                "why": null, "since": null, "commits": 3, "entries": 5, "refused": 1, "waiting": 2, "bytes": 4096}})
    );
    let ran = daemon.ctl(&["status"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("state\tserving\n") && ran.stdout.contains("clients\t3\n"), "{ran:?}");
    let seen = on_terminal(&daemon, "status", "");
    for part in [
        "9.9.9",
        "serving",
        "3 of at most 100",
        "2096-10-02",
        "https://127.0.0.1:9501",
        "sqlite, /var/lib/wschat/history.db, 4.0K",
        "0 bans, 0 mutes",
        "\u{1b}[32m",
    ] {
        assert!(seen.stdout.contains(part), "{part} in {seen:?}");
    }
    assert!(seen.stdout.lines().count() <= 24);
}

#[test]
fn list_in_its_forms() {
    let daemon = Daemon::start(some());
    let ran = daemon.ctl(&["list"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[1][..5], ["2", "u2", "大厅", "192.0.2.2", "lobby,tea"]);
    assert!(rows[1][5].parse::<f64>().unwrap() >= 2000.0);
    assert_eq!(rows[1][7..], ["2000", "0.0125"]);

    let all = daemon.json(&["list"]);
    let first = all["clients"][0].as_object().unwrap();
    assert_eq!(first["rooms"], json!(["lobby"]));
    assert_eq!((&first["id"], &first["in"], &first["dialect"]), (&json!(1), &json!(3), &json!("json")));
    assert_eq!(
        daemon.json(&["list", "-o", "id,in", "--limit", "2"]),
        json!({"clients": [{"id": 1, "in": 3}, {"id": 2, "in": 3}]})
    );
    let ids = |arguments: &[&str]| -> String {
        let mut all = vec!["list", "-o", "id"];
        all.extend(arguments);
        let ran = daemon.ctl(&all);
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(&["--sort=-sendq"]), "3 2 1");
    assert_eq!(ids(&["--sort", "-sendq", "--limit", "1"]), "3");
    assert_eq!(ids(&["--sort", "nick"]), "1 3 2");
    assert_eq!(ids(&["--user", "u2"]), "2");
    assert_eq!(ids(&["--nick", "ANN"]), "1");
    assert_eq!(ids(&["--ip", "192.0.2.0/24"]), "1 2");
    assert_eq!(ids(&["--ip", "2001:db8::3"]), "3");
    assert_eq!(ids(&["--room", "lobby", "--dialect", "text"]), "2");
    assert_eq!(ids(&["--older", "25m"]), "2 3");
    assert_eq!(ids(&["--idle", "1s"]), "");
    assert_eq!(ids(&["--sendq-over", "2K"]), "3");
    assert_eq!(daemon.json(&["list", "--user", "nobody"]), json!({"clients": []}));
    assert_eq!(daemon.json(&["list", "--count"]), json!({"count": 3}));
    assert_eq!(daemon.ctl(&["list", "--count", "--room", "tea"]).stdout, "1\n");

    let seen = on_terminal(&daemon, "list -o id,nick,agent", "");
    let lines: Vec<&str> = seen.stdout.lines().collect();
    assert!(lines[0].contains("ID  NICK  AGENT"), "{seen:?}");
    assert!(lines[2].contains(" 2  大厅  Evil\\u{1b}[31m\\tAgent\\u{9b}2J"), "{seen:?}");
    let mut plain = Command::new("script");
    plain.args(["-qefc", &format!("{} list", env!("CARGO_BIN_EXE_wschatctl")), "/dev/null"]);
    plain.env("WSCHAT_SOCKET", daemon.control()).env("NO_COLOR", "1").env("TERM", "xterm");
    assert!(!run(plain, b"").stdout.contains('\u{1b}'));
}

#[test]
fn strangers_words_are_harmless_in_json_too() {
    let daemon = Daemon::start(some());
    let ran = daemon.ctl(&["--json", "show", "1"]);
    assert!(!ran.stdout.chars().any(|c| c.is_control() && c != '\n'), "{ran:?}");
    let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(shown["client"]["agent"], "Evil\u{1b}[31m\tAgent\u{9b}2J");
    let ran = daemon.ctl(&["show", "1"]);
    assert!(ran.stdout.contains("agent\tEvil\\u{1b}[31m\\tAgent\\u{9b}2J\n"), "{ran:?}");
    assert!(ran.stdout.contains("tls\tTLSv1.3\n"), "{ran:?}");
}

#[test]
fn whoever_is_not_there_is_named() {
    let daemon = Daemon::start(some());
    ends(&daemon.ctl(&["show", "77"]), 65, "no connection 77");
    ends(&daemon.ctl(&["room", "show", "attic"]), 65, "\"attic\"");
    let ran = daemon.ctl(&["kick", "77", "78"]);
    assert!(ran.status == 65 && ran.stderr.contains("connection 78: no such connection"), "{ran:?}");
    let ran = daemon.ctl(&["--json", "kick", "77"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap(),
        json!({"matched": 0, "done": 0, "failed": [{"id": 77, "error": "no such connection"}]})
    );
    assert_eq!(ran.status, 65);
    assert_eq!(daemon.ctl(&["kick", "77", "--allow-empty"]).status, 0);
    ends(&daemon.ctl(&["kick", "--user", "nobody"]), 65, "nobody matched");
    ends(&daemon.ctl(&["notice", "hello", "--user", "nobody"]), 65, "nobody");
    assert_eq!(daemon.ctl(&["notice", "hello", "--user", "nobody", "--allow-empty"]).status, 0);
}

#[test]
fn kicks() {
    let daemon = Daemon::start(some());
    let closed = || {
        daemon
            .world
            .lock()
            .unwrap()
            .closed
            .drain(..)
            .map(|(id, close)| (id.0, close.code, close.reason))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        daemon.json(&["kick", "--room", "lobby", "--dry-run"]),
        json!({"matched": 2, "done": 0, "failed": [], "dry_run": true})
    );
    assert_eq!(closed(), []);
    let ran = daemon.ctl(&["--json", "kick", "1", "1", "77", "--reason", "enough"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap(),
        json!({"matched": 1, "done": 1, "failed": [{"id": 77, "error": "no such connection"}]})
    );
    assert_eq!(closed(), [(1, 4003, "enough".into())]);
    assert_eq!(daemon.ctl(&["kick", "--user", "u2", "--reconnect"]).stdout, "closed 1 of 1 connection\n");
    assert_eq!(closed()[0].1, 4200);
    assert_eq!(daemon.ctl(&["kick", "--ip", "2001:db8::/32", "--code", "4999"]).status, 0);
    assert_eq!(closed()[0].1, 4999);
}

#[test]
fn nobody_kicks_everyone_by_accident() {
    let daemon = Daemon::start(some());
    for (arguments, words) in [
        (&["kick"][..], "--all"),
        (&["kick", "--reason", "x"], "--all"),
        (&["kick", "--all"], "--yes"),
        (&["kick", "--all", "--room", "lobby", "--yes"], "cannot be used with"),
        (&["kick", "--all", "1", "--yes"], "cannot be used with"),
        (&["kick", "--nick", ""], "--nick"),
        (&["kick", "--all", "--yes", "--code", "1006"], "1006"),
        (&["kick", "1", "--reason", &"x".repeat(124)], "123 bytes"),
    ] {
        ends(&daemon.ctl(arguments), 64, words);
    }
    let asked = on_terminal(&daemon, "kick --all", "n\n");
    assert_eq!(asked.status, 1, "{asked:?}");
    assert!(asked.stdout.contains("Close 3 connections? [y/N]"), "{asked:?}");
    let asked = on_terminal(&daemon, "kick --room lobby", "\n");
    assert_eq!(asked.status, 1, "{asked:?}");
    assert!(asked.stdout.contains("Close 2 connections?"), "{asked:?}");
    assert!(daemon.world.lock().unwrap().closed.is_empty());
    let asked = on_terminal(&daemon, "kick --room lobby", "y\n");
    assert_eq!(asked.status, 0, "{asked:?}");
    assert_eq!(daemon.json(&["kick", "--all", "--yes"]), json!({"matched": 1, "done": 1, "failed": []}));
    assert_eq!(daemon.world.lock().unwrap().closed.len(), 3);
}

#[test]
fn notices() {
    let daemon = Daemon::start(some());
    assert_eq!(daemon.ctl(&["notice", "hello there"]).stdout, "shown to 3 of 3 connections\n");
    assert_eq!(
        daemon.json(&["broadcast", "--room", "lobby", "--level", "warn", "x"]),
        json!({"matched": 2, "done": 2, "failed": []})
    );
    assert_eq!(run(daemon.command(&["notice", "-", "--user", "u1"]), "two\nlines\n".as_bytes()).status, 0);
    assert_eq!(daemon.ctl(&["notice", "x", "--client", "3"]).status, 0);
    let notices = std::mem::take(&mut daemon.world.lock().unwrap().notices);
    assert_eq!(notices[0], (Target::Everyone, "hello there".into(), Level::Info));
    assert!(matches!(&notices[1], (Target::Room(room), _, Level::Warn) if room.as_str() == "lobby"));
    assert!(matches!(&notices[2], (Target::User(user), text, _) if user.as_str() == "u1" && text == "two\nlines"));
    assert!(matches!(&notices[3], (Target::Conn(ConnId(3)), _, _)));
    ends(&daemon.ctl(&["notice", "mumble"]), 1, "only 2 of 3");
    ends(&daemon.ctl(&["notice", "  "]), 64, "4096 bytes");
    ends(&run(daemon.command(&["notice", "-"]), "大".repeat(2000).as_bytes()), 64, "4096 bytes");
    ends(&run(daemon.command(&["notice", "-"]), b"caf\xe9\n"), 64, "UTF-8");
    ends(&daemon.ctl(&["notice", "x", "--room", "a b"]), 64, "--room");
}

#[test]
fn rooms_and_one_room() {
    let daemon = Daemon::start(some());
    assert_eq!(daemon.ctl(&["rooms"]).stdout, "lobby\t2\t2\t7\ntea\t1\t1\t7\n");
    assert_eq!(
        daemon.json(&["rooms"])["rooms"][0],
        json!({"name": "lobby", "users": 2, "clients": 2, "seq": 7, "first": null, "kept": null})
    );
    assert_eq!(
        daemon.json(&["room", "show", "lobby"]),
        json!({"room": {"name": "lobby", "users": 2, "clients": 2, "seq": 7, "epoch": "e1", "kept": 5,
            "members": [{"user": "u1", "nick": "Ann", "clients": [1]}]}})
    );
    let ran = daemon.ctl(&["room", "show", "lobby"]);
    assert!(ran.stdout.contains("epoch\te1\n") && ran.stdout.ends_with("u1\tAnn\t1\n"), "{ran:?}");
}

#[test]
fn reloads() {
    let daemon = Daemon::start(some());
    assert_eq!(daemon.ctl(&["reload"]).stdout, "read again; nothing has changed\n");
    daemon.world.lock().unwrap().reload = Some(Ok(Reloaded {
        changed: vec!["limits.rate".into()],
        needs_restart: vec!["listen.address".into()],
        certificate: true,
    }));
    assert_eq!(
        daemon.ctl(&["reload", "--tls"]).stdout,
        "changed: limits.rate\nchanged: a new certificate is in force\nneeds a restart: listen.address\n"
    );
    assert_eq!(
        daemon.json(&["reload"]),
        json!({"changed": ["limits.rate"], "needs_restart": ["listen.address"], "certificate": true})
    );
    assert_eq!(daemon.world.lock().unwrap().reloads, [false, true, false]);
    daemon.world.lock().unwrap().reload = Some(Err("/etc/wschat/wschat.toml:3:1: unknown key".into()));
    let ran = daemon.ctl(&["reload"]);
    ends(&ran, 78, "wschat.toml:3:1");
    assert_eq!(ran.stdout, "");
}

#[test]
fn certificates() {
    let daemon = Daemon::start(World { certificate: Some(certificate()), ..some() });
    let tls = daemon.json(&["tls"]);
    assert_eq!(tls["certificate"]["names"], json!(["localhost", "example.org"]));
    assert_eq!(tls["certificate"]["until"], "2096-10-02T07:06:40.000Z");
    assert!(daemon.ctl(&["tls"]).stdout.contains("fingerprint\tab12\n"));
    let without = Daemon::start(some());
    assert_eq!(without.json(&["tls"]), json!({"certificate": null}));
    ends(&without.ctl(&["tls"]), 0, "no listener uses TLS");
}

#[test]
fn the_small_ones() {
    let daemon = Daemon::start(some());
    assert!(daemon.ctl(&["ping"]).stdout.starts_with("ok"));
    assert_eq!(daemon.json(&["ping"])["ok"], true);
    let ours = env!("CARGO_PKG_VERSION");
    assert_eq!(daemon.json(&["version"]), json!({"wschatctl": ours, "wschat": ours}));
    let alone = run(ctl_command(&["--json", "version", "--socket", "/nonexistent"]), b"");
    assert_eq!(alone.stdout, format!("{{\"wschat\":null,\"wschatctl\":\"{ours}\"}}\n"));
    assert_eq!(alone.status, 0);
    for shell in ["bash", "zsh", "fish"] {
        let ran = daemon.ctl(&["completions", shell]);
        assert!(ran.status == 0 && ran.stdout.contains("sendq-over"), "{shell}");
    }
    let man = daemon.ctl(&["man"]);
    assert!(man.status == 0 && man.stdout.contains(".TH WSCHATCTL 1"));
    assert_eq!(daemon.ctl(&["--help"]).status, 0);
    assert_eq!(daemon.ctl(&["--version"]).stdout, format!("wschatctl {ours}\n"));
    for wrong in [
        &["frobnicate"][..],
        &[],
        &["list", "--older", "soon"],
        &["list", "--older", "60"],
        &["list", "--idle", "1"],
        &["kick", "1", "--ban", "1"],
        &["ping", "--timeout", "5"],
        &["show", "x"],
        &["ping", "--timeout", "0"],
        &["list", "--limit", "0"],
        &["history", "lobby", "--limit", "0"],
    ] {
        let ran = daemon.ctl(wrong);
        assert_eq!((ran.status, ran.stdout.as_str()), (64, ""), "{wrong:?}");
    }
}

#[test]
fn events_flow_until_the_daemon_stops() {
    let mut daemon = Daemon::start(some());
    let mut watch = daemon
        .command(&["events", "--json", "--type", "kick,slow", "--user", "u1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("a watcher", || daemon.events.receiver_count() == 1);
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    for kind in [EventKind::Message, EventKind::Kick] {
        daemon.events.send(event(kind)).unwrap();
    }
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let seen: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&seen["type"], &seen["client"], &seen["room"]), (&json!("kick"), &json!(1), &json!("lobby")));
    assert!(!line.trim_end().chars().any(char::is_control));
    daemon.stop();
    let mut told = String::new();
    watch.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(69));
    assert!(told.contains("it is stopping"), "{told}");
}

#[test]
fn event_filters_and_words() {
    let daemon = Daemon::start(some());
    for filter in ["--user=u1", "--nick=ANN", "--ip=192.0.2.0/24", "--room=lobby", "--dialect=json"] {
        let mut watch = daemon.command(&["events", filter]).stdout(Stdio::piped()).spawn().unwrap();
        until("a watcher", || daemon.events.receiver_count() == 1);
        let mut other = (*event(EventKind::Join)).clone();
        (other.user, other.nick, other.address, other.room, other.dialect) = (None, None, None, None, None);
        daemon.events.send(other.into()).unwrap();
        daemon.events.send(event(EventKind::Leave)).unwrap();
        let mut line = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, rest) = line.split_once('\t').unwrap();
        assert_eq!(rest, "leave\t1\tu1\tAnn\t192.0.2.1\tlobby\tjson\tsome\\u{1b}[2Jwords\n", "{filter}");
        // Its reader is gone: that is the end, and a good one.
        until("its end", || {
            let _ = daemon.events.send(event(EventKind::Leave));
            watch.try_wait().unwrap().is_some()
        });
        assert_eq!(watch.wait().unwrap().code(), Some(0), "{filter}");
        until("no watcher", || daemon.events.receiver_count() == 0);
    }
    ends(&daemon.ctl(&["events", "--type", "flood"]), 64, "flood");
    ends(&daemon.ctl(&["events", "--idle", "1m"]), 64, "--idle");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut world = World::default();
    for id in 1..=5000 {
        world.clients.insert(ConnId(id), client(id, &format!("u{id}"), &format!("n{id}"), "192.0.2.1", &["lobby"]));
    }
    let daemon = Daemon::start(world);
    for json in [false, true] {
        let mut command = daemon.command(if json { &["--json", "list"] } else { &["list"] });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The first rows are there while most are still to come.
        let mut first = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!((child.wait().unwrap().code(), told.as_str()), (Some(0), ""));
    }
    assert_eq!(daemon.ctl(&["list"]).stdout.lines().count(), 5000);
    let list = daemon.json(&["list"]);
    assert_eq!(list["clients"].as_array().unwrap().len(), 5000);
}

#[test]
fn two_at_once() {
    let daemon = Daemon::start(some());
    let children: Vec<_> =
        (0..4).map(|_| daemon.command(&["--json", "list"]).stdout(Stdio::piped()).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(list["clients"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn no_daemon_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let place = path.to_str().unwrap();
    ends(&run(ctl_command(&["status", "--socket", place]), b""), 69, "systemctl start wschat");
    drop(UnixListener::bind(&path).unwrap());
    ends(&run(ctl_command(&["status", "--socket", place]), b""), 69, "systemctl start wschat");
    let ran = run(ctl_command(&["--json", "list", "--socket", place]), b"");
    ends(&ran, 69, place);
    assert_eq!(ran.stdout, "");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    ends(&run(ctl_command(&["status", "--socket", place]), b""), 69, place);
    ends(&run(ctl_command(&["status", "--socket", &"x".repeat(200)]), b""), 69, "--socket");
}

#[test]
fn the_users_own_daemon_is_found() {
    let daemon = Daemon::start(some());
    let own = daemon.folder().join("wschat");
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::symlink(daemon.control(), own.join("control")).unwrap();
    if std::path::Path::new("/run/wschat/control").exists() {
        // The packaged daemon's comes first.
        return;
    }
    let mut command = ctl_command(&["ping"]);
    command.env("XDG_RUNTIME_DIR", daemon.folder());
    let ran = run(command, b"");
    assert_eq!(ran.status, 0, "{ran:?}");
}

#[test]
fn who_may_not_is_told_which_group_to_join() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // Where a stranger can run it.
    let program = folder.path().join("wschatctl");
    std::fs::copy(env!("CARGO_BIN_EXE_wschatctl"), &program).unwrap();
    let path = folder.path().join("control");
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let ask = || {
        let mut command = Command::new(&program);
        command.args(["list", "--socket"]).arg(&path);
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        run(command, b"")
    };
    ends(&ask(), 77, "use sudo");
    // A folder that is closed to us hides whose group it is.
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let hidden = closed.join("control");
    let _other = UnixListener::bind(&hidden).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
    let mut command = Command::new(&program);
    command.args(["list", "--socket"]).arg(&hidden);
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let ran = run(command, b"");
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    ends(&ran, 77, "wschat-admin");
    assert!(ran.stderr.contains("log in again"), "{ran:?}");
}

#[test]
fn who_does_not_answer_is_given_up_on() {
    let daemon = Daemon::start(World { hung: true, ..some() });
    ends(&daemon.ctl(&["ping", "--timeout", "100ms"]), 75, "100ms");
    // Nor one that does not even accept.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let _listener = UnixListener::bind(&path).unwrap();
    ends(
        &run(ctl_command(&["status", "--timeout", "100ms", "--socket", path.to_str().unwrap()]), b""),
        75,
        "systemctl status",
    );
}

#[test]
fn who_answers_nonsense_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let place = path.to_str().unwrap().to_owned();
    for (answer, status) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n\0"[..], 70),
        (b"{\"parameters\": {\"version\": 3}}\0", 70),
        (b"{\"error\": \"org.example.\\u001b[31mOdd\"}\0", 70),
        (b"{\"error\": \"org.varlink.service.MethodNotFound\", \"parameters\": {\"method\": \"x\"}}\0", 70),
        (b"", 69),
        (b"{\"parameters\"", 69),
    ] {
        let child = std::thread::spawn({
            let place = place.clone();
            move || run(ctl_command(&["status", "--socket", &place]), b"")
        });
        let (mut stream, _) = listener.accept().unwrap();
        // The call first, or closing would take the answer away.
        let mut byte = [1];
        while byte[0] != 0 {
            stream.read_exact(&mut byte).unwrap();
        }
        stream.write_all(answer).unwrap();
        drop(stream);
        let ran = child.join().unwrap();
        ends(&ran, status, "");
        assert!(!ran.stderr.contains('\u{1b}') && ran.stdout.is_empty(), "{ran:?}");
    }
}
