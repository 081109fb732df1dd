//! Operators look and speak: status, list, show, notice, rooms, events; what they are refused.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::daemon::{PLAIN, Ran, TLS};
use crate::support::{Chat, Daemon, Setup, Stream, left_out_unless_root, until};

const CALM: &str = "[timeouts]\npresence = \"0s\"\n";

/// Ann and Bob by TLS in the JSON dialect, and somebody who speaks the text dialect.
fn three(daemon: &Daemon) -> (Chat, Chat, Chat) {
    let mut ann = Chat::open(daemon.connect(), "/chat", "User-Agent: Ann/1.0\nOrigin: https://chat.example");
    ann.hello(json!({"v": 1, "nick": "Ann", "rooms": ["lobby", "tea"]}));
    ann.frame("joined");
    ann.frame("joined");
    let bob = daemon.chat("Bob");
    let text = daemon.text();
    until("all three are known", || (daemon.clients(&["--room", "lobby"]).len() == 3).then_some(()));
    (ann, bob, text)
}

fn ids(clients: &[Value]) -> Vec<u64> {
    clients.iter().map(|client| client["id"].as_u64().unwrap()).collect()
}

#[test]
fn status_tells_what_is() {
    let daemon = Daemon::tls(CALM);
    let (mut ann, bob, text) = three(&daemon);
    ann.say("one");
    ann.say("two");
    let status = daemon.json(&["status"]);
    for (name, value) in [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("pid", json!(daemon.pid())),
        ("state", json!("serving")),
        ("clients", json!(3)),
        ("users", json!(3)),
        ("rooms", json!(2)),
        ("messages", json!(2)),
        ("listen", json!(daemon.listen())),
        ("config", json!(daemon.config_file())),
    ] {
        assert_eq!(status[name], value, "{name}");
    }
    assert!(status["messages_per_second"].as_f64().unwrap() > 0.0 && status["clients_max"].as_u64().unwrap() > 100);
    for time in ["since", "certificate_until"] {
        humantime::parse_rfc3339(status[time].as_str().unwrap()).unwrap();
    }
    let plain = daemon.ctl(&["status"]);
    assert!(plain.stdout.contains("state\tserving\n") && plain.stdout.contains("clients\t3\n"), "{plain:?}");
    for chat in [ann, bob, text] {
        chat.leave();
    }
    until("nobody is left", || (daemon.json(&["status"])["users"] == 0).then_some(()));
}

#[test]
fn list_has_every_column_and_takes_every_filter() {
    let daemon = Daemon::tls(CALM);
    let (mut ann, bob, _text) = three(&daemon);
    ann.say("x");
    let all = daemon.clients(&[]);
    assert_eq!(all.len(), 3);
    let row = daemon.clients(&["--nick", "aNN"]).pop().expect("nicks are found whatever their case");
    for (name, value) in [
        ("id", json!(ids(&all)[0])),
        ("user", json!(ann.user)),
        ("nick", json!("Ann")),
        ("address", json!("127.0.0.1")),
        ("rooms", json!(["lobby", "tea"])),
        ("sendq", json!(0)),
        ("tls", json!("TLSv1.3")),
        ("alpn", json!("http/1.1")),
        ("origin", json!("https://chat.example")),
        ("agent", json!("Ann/1.0")),
        ("dialect", json!("json")),
        ("in", json!(2)),
        ("resumed", json!(false)),
    ] {
        assert_eq!(row[name], value, "{name}: {row}");
    }
    for positive in ["out", "in_bytes", "out_bytes", "port"] {
        assert!(row[positive].as_u64().unwrap() > 0, "{positive}: {row}");
    }
    for seconds in ["age", "idle"] {
        assert!(row[seconds].is_number(), "{seconds}: {row}");
    }
    humantime::parse_rfc3339(row["since"].as_str().unwrap()).unwrap();

    let nicks = |filter: &[&str]| -> Vec<String> {
        let mut nicks: Vec<String> =
            daemon.clients(filter).iter().map(|c| c["nick"].as_str().unwrap_or("").to_owned()).collect();
        nicks.sort();
        nicks
    };
    let text_nick = daemon.clients(&["--dialect", "text"])[0]["nick"].as_str().unwrap().to_owned();
    let mut everyone = vec!["Ann".to_owned(), "Bob".to_owned(), text_nick.clone()];
    everyone.sort();
    for (filter, found) in [
        (&["--user", ann.user.as_str()][..], vec!["Ann".to_owned()]),
        (&["--nick", "bob"], vec!["Bob".into()]),
        (&["--nick", "nobody"], vec![]),
        (&["--ip", "127.0.0.1"], everyone.clone()),
        (&["--ip", "127.0.0.0/8"], everyone.clone()),
        (&["--ip", "192.0.2.0/24"], vec![]),
        (&["--room", "tea"], vec!["Ann".into()]),
        (&["--room", "lobby"], everyone.clone()),
        (&["--dialect", "text"], vec![text_nick]),
        (&["--dialect", "json"], vec!["Ann".into(), "Bob".into()]),
        (&["--older", "0s"], everyone.clone()),
        (&["--older", "1h"], vec![]),
        (&["--idle", "1h"], vec![]),
        (&["--sendq-over", "1K"], vec![]),
        (&["--room", "lobby", "--nick", "bob", "--dialect", "json"], vec!["Bob".into()]),
        (&["--room", "tea", "--nick", "bob"], vec![]),
    ] {
        assert_eq!(nicks(filter), found, "{filter:?}");
        let count = daemon.json(&[&["list", "--count"], filter].concat());
        assert_eq!(count["count"], found.len(), "{filter:?}");
    }
    assert_eq!(daemon.ctl(&["list", "--nick", "nobody"]).status, 0, "an empty list is no error");

    let sorted = |sort: &str| ids(&daemon.clients(&["--sort", sort]));
    let ascending = ids(&all);
    let mut descending = ascending.clone();
    descending.reverse();
    assert_eq!(sorted("id"), ascending);
    assert_eq!(sorted("-id"), descending);
    assert_eq!(sorted("-age"), ascending, "the oldest first");
    assert_eq!(ids(&daemon.clients(&["--sort", "-id", "--limit", "2"])), descending[..2]);
    assert_eq!(ids(&daemon.clients(&["--limit", "1"])), ascending[..1]);

    let chosen = daemon.json(&["list", "-o", "nick,rooms,tls", "--nick", "bob"]);
    assert_eq!(chosen, json!({"clients": [{"nick": "Bob", "rooms": ["lobby"], "tls": "TLSv1.3"}]}));
    let piped = daemon.ctl(&["list", "-o", "nick,rooms", "--nick", "ann"]);
    assert_eq!(piped.stdout, "Ann\tlobby,tea\n");

    let id = ids(&daemon.clients(&["--nick", "bob"]))[0].to_string();
    let shown = daemon.json(&["show", &id]);
    assert_eq!((&shown["client"]["nick"], &shown["client"]["user"]), (&json!("Bob"), &json!(bob.user)));
    assert!(daemon.ctl(&["show", &id]).stdout.contains("nick\tBob\n"));
    daemon.ctl(&["show", "999999"]).ends(65, "there is no connection 999999");
}

#[test]
fn a_filter_for_bytes_that_wait_finds_who_does_not_read() {
    let daemon = Daemon::plain("[limits]\noutbox = \"64MiB\"\nburst = 100000\nrate = \"1000000/s\"\n");
    let mut ann = daemon.chat("ann");
    let _lazy = daemon.chat("lazy");
    let text = "x".repeat(4000);
    until("somebody is behind", || {
        for _ in 0..200 {
            ann.say(&text);
        }
        let behind = daemon.clients(&["--sendq-over", "64K"]);
        (!behind.is_empty()).then(|| assert_eq!((behind.len(), &behind[0]["nick"]), (1, &json!("lazy"))))
    });
    let first = daemon.clients(&["--sort", "-sendq", "--limit", "1"]);
    assert_eq!(first[0]["nick"], "lazy");
    // Even one that does not read can be closed, and that is waited for.
    assert_eq!(daemon.json(&["kick", "--nick", "lazy"]), json!({"matched": 1, "done": 1, "failed": []}));
}

#[test]
fn idle_and_age_grow_and_are_filtered_by() {
    let daemon = Daemon::plain("");
    let mut ann = daemon.chat("ann");
    let _bob = daemon.chat("bob");
    until("both are idle", || (daemon.clients(&["--idle", "200ms"]).len() == 2).then_some(()));
    ann.say("I am not");
    let idle = |nick: &str| daemon.clients(&["--nick", nick])[0]["idle"].as_f64().unwrap();
    assert!(idle("ann") < idle("bob"));
    assert_eq!(ids(&daemon.clients(&["--sort", "-idle", "--limit", "1"])), ids(&daemon.clients(&["--nick", "bob"])));
    assert_eq!(daemon.clients(&["--older", "200ms"]).len(), 2);
}

#[test]
fn a_long_list_comes_whole() {
    let daemon = Daemon::plain("");
    // More than the hub looks at for one page.
    let crowd: Vec<Chat> = (0..600).map(|_| daemon.text()).collect();
    until("all are known", || (daemon.json(&["list", "--count"])["count"] == 600).then_some(()));
    let mut all = ids(&daemon.clients(&[]));
    assert_eq!(all.len(), 600);
    assert!(all.is_sorted());
    all.reverse();
    assert_eq!(ids(&daemon.clients(&["--sort", "-id", "--limit", "555"])), all[..555]);
    assert_eq!(daemon.ctl(&["list"]).stdout.lines().count(), 600);
    drop(crowd);
    until("all are gone", || daemon.clients(&[]).is_empty().then_some(()));
}

#[test]
fn a_notice_reaches_whom_it_is_for_and_counts_them_truly() {
    let daemon = Daemon::tls(CALM);
    let (mut ann, mut bob, mut text) = three(&daemon);
    let heard = |chat: &mut Chat, words: &str| {
        let notice = chat.frame("notice")["payload"].take();
        assert_eq!(notice["text"], words);
        (notice["level"].as_str().unwrap().to_owned(), notice["room"].clone())
    };
    let all = json!({"matched": 3, "done": 3, "failed": []});
    assert_eq!(daemon.json(&["notice", "to all"]), all);
    for chat in [&mut ann, &mut bob] {
        assert_eq!(heard(chat, "to all"), ("info".into(), Value::Null));
    }
    until("a line", || text.text().contains("to all").then_some(()));

    let one = json!({"matched": 1, "done": 1, "failed": []});
    assert_eq!(daemon.json(&["notice", "tea is ready", "--room", "tea", "--level", "warn"]), one);
    assert_eq!(heard(&mut ann, "tea is ready"), ("warn".into(), json!("tea")));
    assert_eq!(daemon.json(&["broadcast", "to the lobby", "--room", "lobby"]), all);
    assert_eq!(heard(&mut bob, "to the lobby").1, json!("lobby"));
    assert_eq!(heard(&mut ann, "to the lobby").1, json!("lobby"));
    assert_eq!(daemon.json(&["notice", "to Bob", "--user", &bob.user]), one);
    assert_eq!(heard(&mut bob, "to Bob"), ("info".into(), Value::Null));
    let id = ids(&daemon.clients(&["--nick", "ann"]))[0].to_string();
    assert_eq!(daemon.json(&["notice", "to this one", "--client", &id]), one);
    heard(&mut ann, "to this one");
    until("a line", || text.text().contains("to the lobby").then_some(()));

    for absent in [&["--room", "nowhere"][..], &["--user", "nobody"], &["--client", "999999"]] {
        let command = [&["notice", "x", "--json"], absent].concat();
        let ran = daemon.ctl(&command);
        ran.ends(65, "nobody it is for is here");
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report, json!({"matched": 0, "done": 0, "failed": []}));
        assert_eq!(daemon.ctl(&[&command[..], &["--allow-empty"]].concat()).status, 0);
    }
    // Whoever is in two rooms is told once.
    assert_eq!(daemon.json(&["notice", "last"])["matched"], 3);
    heard(&mut ann, "last");
    assert!(
        daemon.log().lines().any(|line| {
            line.contains(" INFO ")
                && line.contains("sent a notice to ")
                && line.contains("\"tea is ready\"")
                && line.contains("written to 1 of 1 ")
        }),
        "{}",
        daemon.log()
    );
    for bad in ["", " ", &"x".repeat(4097)] {
        assert_eq!(daemon.ctl(&["notice", bad]).status, 64);
    }
    assert_eq!(daemon.ctl(&["notice", "x", "--room", "no such name"]).status, 64);
}

#[test]
fn rooms_are_shown_with_their_people() {
    let daemon = Daemon::tls(CALM);
    let (mut ann, bob, _text) = three(&daemon);
    ann.say("one");
    bob.leave();
    until("Bob is gone", || (daemon.clients(&[]).len() == 2).then_some(()));
    assert_eq!(
        daemon.json(&["rooms"]),
        json!({"rooms": [
            {"name": "lobby", "users": 2, "clients": 2, "seq": 1, "first": null, "kept": null},
            {"name": "tea", "users": 1, "clients": 1, "seq": 0, "first": null, "kept": null},
        ]})
    );
    assert_eq!(daemon.ctl(&["rooms"]).stdout, "lobby\t2\t2\t1\ntea\t1\t1\t0\n");
    let mut lobby = daemon.json(&["room", "show", "lobby"])["room"].take();
    assert!(!lobby["epoch"].take().as_str().unwrap().is_empty());
    assert_eq!((&lobby["kept"], &lobby["seq"], &lobby["users"]), (&json!(1), &json!(1), &json!(2)));
    let id = ids(&daemon.clients(&["--nick", "ann"]))[0];
    let members = lobby["members"].as_array().unwrap();
    assert!(members.contains(&json!({"user": ann.user, "nick": "Ann", "clients": [id]})), "{members:?}");
    assert!(daemon.ctl(&["room", "show", "tea"]).stdout.contains(&format!("{}\tAnn\t{id}\n", ann.user)));
    daemon.ctl(&["room", "show", "nowhere"]).ends(65, "there is no room \"nowhere\"");
}

#[test]
fn everything_that_happens_is_seen_as_it_happens() {
    let daemon = Daemon::tls(CALM);
    let mut events = daemon.caller().watch(&[]);
    let mut ann = Chat::open(daemon.connect(), "/chat", "");
    let connect = events.of("connect");
    assert_eq!((&connect["address"], &connect["dialect"]), (&json!("127.0.0.1"), &json!("json")));
    let id = &connect["client"];
    ann.hello(json!({"v": 1, "nick": "Ann"}));
    let join = events.of("join");
    assert_eq!(
        (&join["client"], &join["user"], &join["nick"], &join["room"]),
        (id, &json!(ann.user), &json!("Ann"), &json!("lobby"))
    );
    ann.say("secret words");
    let message = events.of("message");
    assert_eq!((&message["client"], &message["room"]), (id, &json!("lobby")));
    assert!(!message.to_string().contains("secret words"), "operators see that, not what: {message}");
    humantime::parse_rfc3339(message["time"].as_str().unwrap()).unwrap();
    ann.send("nick", json!({"nick": "Anna"}));
    assert_eq!(events.of("nick")["nick"], "Anna");
    ann.send("join", json!({"room": "tea"}));
    assert_eq!(events.of("join")["room"], "tea");
    ann.send("leave", json!({"room": "tea"}));
    assert_eq!(events.of("leave")["room"], "tea");
    daemon.ctl(&["notice", "hear, hear", "--room", "lobby"]);
    let notice = events.of("notice");
    assert_eq!((&notice["room"], &notice["detail"]), (&json!("lobby"), &json!("hear, hear")));
    daemon.write_config(&format!("{TLS}{CALM}[log]\nlevel = \"debug\"\n"));
    daemon.ctl(&["reload"]);
    events.of("reload");
    let ann_user = ann.user.clone();
    let ann = ann.closing();
    daemon.ctl(&["kick", "--nick", "anna", "--reason", "enough"]);
    let kick = events.of("kick");
    assert_eq!((&kick["client"], &kick["detail"]), (id, &json!("4003 enough")));
    let disconnect = events.of("disconnect");
    assert_eq!((&disconnect["client"], &disconnect["user"]), (id, &json!(ann_user)));
    ann.join().unwrap();
    assert!(disconnect["detail"].as_str().unwrap().starts_with("4003"), "{disconnect}");

    // By type and by filter, nothing else comes.
    let mut joins = daemon.caller().watch(&["join"]);
    let bob = daemon.chat("Bob");
    assert_eq!(joins.next()["nick"], "Bob");
    bob.leave();
    let _eve = daemon.chat("Eve");
    assert_eq!(joins.next()["nick"], "Eve");
}

#[test]
fn who_is_closed_for_reading_too_slowly_is_seen() {
    let daemon = Daemon::plain("[limits]\noutbox = \"64KiB\"\nburst = 100000\nrate = \"1000000/s\"\n");
    let mut events = daemon.caller().watch(&["slow"]);
    let mut ann = daemon.chat("ann");
    let lazy = daemon.chat("lazy");
    let text = "x".repeat(4000);
    until("it is closed", || {
        for _ in 0..200 {
            ann.say(&text);
        }
        (daemon.clients(&[]).len() == 1).then_some(())
    });
    let slow = events.next();
    assert_eq!((&slow["nick"], &slow["address"]), (&json!("lazy"), &json!("127.0.0.1")), "{slow}");
    drop(lazy);
}

#[test]
fn the_command_prints_events_live_and_ends_with_the_daemon() {
    let daemon = Daemon::plain("");
    let mut watching = daemon
        .ctl_command(&["events", "--json", "--type", "notice,join"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, told) = std::sync::mpsc::channel();
    let stdout = BufReader::new(watching.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in stdout.lines() {
            let _ = lines.send(line.unwrap());
        }
    });
    // It says nothing until something happens, so something happens until it does.
    let first = until("it watches", || {
        daemon.ctl(&["notice", "ping", "--allow-empty"]);
        told.try_recv().ok()
    });
    let event: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&event["type"], &event["detail"]), (&json!("notice"), &json!("ping")));
    let chat = daemon.chat("Ann");
    let join = told.iter().map(|line| serde_json::from_str::<Value>(&line).unwrap()).find(|e| e["type"] == "join");
    assert_eq!(join.unwrap()["nick"], "Ann");
    chat.leave();
    drop(daemon);
    let ended = Ran::of_child(watching);
    ended.ends(69, "the daemon has ended the watch");
    reader.join().unwrap();
}

#[test]
fn failures_say_what_to_do_and_end_as_they_should() {
    let nobody = Setup::new(PLAIN);
    nobody.ctl(&["status"]).ends(69, "start it");
    nobody.ctl(&["list", "--no-such"]).ends(64, "--no-such");
    nobody.ctl(&["list", "-o", "colour"]).ends(64, "colour");
    nobody.ctl(&["list", "--ip", "300.0.0.1"]).ends(64, "expected an address");
    nobody.ctl(&[]).ends(64, "Usage");
    let version = nobody.ctl(&["version", "--json"]);
    assert_eq!(version.status, 0, "{version:?}");
    assert_eq!(
        serde_json::from_str::<Value>(&version.stdout).unwrap(),
        json!({"wschatctl": env!("CARGO_PKG_VERSION"), "wschat": null})
    );
    let daemon = nobody.start();
    let version = daemon.json(&["version"]);
    assert_eq!(version["wschat"], env!("CARGO_PKG_VERSION"));
    let ping = daemon.json(&["ping"]);
    assert!(ping["ok"] == true && ping["seconds"].as_f64().unwrap() > 0.0, "{ping}");
    // Without the variable the command finds the daemon of its own user.
    let found = Ran::of(daemon.command(env!("CARGO_BIN_EXE_wschatctl")).arg("ping"));
    assert!(found.status == 0 || std::path::Path::new("/run/wschat/control").exists(), "{found:?}");
}

#[test]
fn another_user_is_told_which_group_to_join() {
    if !nix::unistd::geteuid().is_root() {
        return left_out_unless_root("another user is told which group to join: only root can become somebody else");
    }
    let setup = Setup::new(&format!("{PLAIN}[control]\nsocket = \"FOLDER/control\"\npush_socket = \"FOLDER/push\"\n"));
    // Where nobody else may look into the folder of the build.
    let command = setup.folder().join("wschatctl");
    std::fs::copy(env!("CARGO_BIN_EXE_wschatctl"), &command).unwrap();
    let socket = setup.folder().join("control");
    let config = std::fs::read_to_string(setup.config_file()).unwrap();
    std::fs::create_dir(setup.folder().join("run/wschat")).unwrap();
    std::os::unix::fs::symlink(&socket, setup.control_socket()).unwrap();
    assert!(config.contains("push_socket"));
    let daemon = setup.start();
    let mut as_nobody = daemon.command(&command);
    as_nobody.args(["status", "--socket"]).arg(&socket).uid(65_534).gid(65_534);
    let ran = Ran::of(&mut as_nobody);
    ran.ends(77, "you may not open");
    assert!(ran.stderr.contains("wschat-admin") || ran.stderr.contains("sudo"), "{ran:?}");
    assert_eq!(daemon.ctl(&["ping"]).status, 0);
}

#[test]
fn the_push_socket_takes_nothing_that_is_the_operators() {
    let daemon = Daemon::plain("");
    let _ann = daemon.chat("ann");
    let push = daemon.folder().join("run/wschat/push");
    let mut caller = crate::support::control::Caller::connect(&push).unwrap();
    for method in ["Status", "Kick", "Reload", "ListClients"] {
        let refused = caller.ask(method, json!({"all": true})).unwrap_err();
        assert!(refused.to_string().contains("InterfaceNotFound"), "{method}: {refused}");
    }
    let call = json!({"method": "org.wschat.Push.Notice", "parameters": {"target": {"room": "lobby"}, "text": "hi"}});
    caller.send(format!("{call}\0").as_bytes()).unwrap();
    assert_eq!(caller.reply().unwrap()["parameters"], json!({"matched": 1, "delivered": 1}));
    assert_eq!(daemon.clients(&[]).len(), 1);
}

#[test]
fn by_which_listener_somebody_came_does_not_matter() {
    let daemon = Daemon::start(&format!("{PLAIN}{TLS}"));
    let mut plain = Chat::enter(Stream::tcp(daemon.address_of(0)), "plain");
    let mut tls = Chat::enter(Stream::tls(daemon.address_of(1)), "tls");
    assert_eq!(daemon.json(&["notice", "both"])["done"], 2);
    for chat in [&mut plain, &mut tls] {
        assert_eq!(chat.frame("notice")["payload"]["text"], "both");
    }
}
