//! `wschatctl reload` and SIGHUP: what is in force at once, what waits, and what is refused whole.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::certificate::{Certificate, INSTALLED};
use crate::support::client::{Closed, UPGRADE};
use crate::support::daemon::{PLAIN, TLS};
use crate::support::{Chat, Daemon, Setup, until};

/// The daemon has this configuration from now on; what the reload reported as changed.
fn change(daemon: &Daemon, config: &str) -> Value {
    daemon.write_config(&format!("{PLAIN}{config}"));
    let report = daemon.json(&["reload"]);
    assert_eq!((&report["needs_restart"], &report["certificate"]), (&json!([]), &json!(false)), "{report}");
    report["changed"].clone()
}

fn refused_by(daemon: &Daemon) -> u16 {
    daemon.http().ask("GET /chat", &UPGRADE).status
}

#[test]
fn nothing_new_changes_nothing() {
    let daemon = Daemon::plain("");
    let nothing = json!({"changed": [], "needs_restart": [], "certificate": false});
    let mut events = daemon.caller().watch(&["reload"]);
    assert_eq!(daemon.json(&["reload"]), nothing);
    assert_eq!(daemon.ctl(&["reload"]).stdout, "read again; nothing has changed\n");
    // The same said in other words.
    daemon.write_config(&format!("# a comment\n{PLAIN}[limits]\nframe = \"65536B\"\n"));
    assert_eq!(daemon.json(&["reload"]), nothing);
    // Those who watch are told of each all the same.
    for _ in 0..3 {
        assert_eq!(events.next()["detail"], "nothing has changed");
    }
}

#[test]
fn limits_are_in_force_at_once() {
    let daemon = Daemon::plain("");
    let mut ann = daemon.chat("ann");
    assert_eq!(change(&daemon, "[limits]\nclients = 1\n"), json!(["limits.clients"]));
    let full = daemon.http().ask("GET /chat", &UPGRADE);
    assert_eq!((full.status, full.header("retry-after").is_some()), (503, true));
    ann.say("who is in stays in");
    assert_eq!(daemon.json(&["status"])["clients_max"], 1);

    let changed = change(&daemon, "[limits]\ntext = \"10B\"\nframe = \"200B\"\nrate = \"1/h\"\nburst = 3\n");
    for key in ["limits.clients", "limits.text", "limits.frame", "limits.rate", "limits.burst"] {
        assert!(changed.as_array().unwrap().contains(&json!(key)), "{key} in {changed}");
    }
    let mut bob = Chat::open(daemon.connect(), "/chat", "");
    let welcome = bob.hello(json!({"v": 1, "nick": "bob"}));
    let limits = &welcome["limits"];
    assert_eq!(
        (&limits["text"], &limits["frame"], &limits["burst"]),
        (&json!(10), &json!(200), &json!(3)),
        "{welcome}"
    );
    let error = |chat: &mut Chat, text: &str| {
        chat.send("message", json!({"text": text}));
        chat.any(&["ack", "error"])["payload"]["code"].clone()
    };
    assert_eq!(error(&mut bob, "12345678901"), "too_long");
    assert_eq!(error(&mut ann, "12345678901"), "too_long", "for those who were here before, too");
    assert_eq!(error(&mut bob, "short"), Value::Null);
    assert_eq!(error(&mut bob, "short"), Value::Null);
    assert_eq!(error(&mut bob, "short"), "rate_limited");
    bob.send_text(&"x".repeat(201));
    assert_eq!(bob.closed().1.code, 1009);

    change(&daemon, "[limits]\nrooms_per_client = 1\n");
    ann.send("join", json!({"room": "tea"}));
    assert_eq!(ann.any(&["joined", "error"])["type"], "error");
}

#[test]
fn the_chats_own_settings_are_in_force_at_once() {
    let daemon = Daemon::plain("[timeouts]\npresence = \"0s\"\n");
    let mut text = daemon.text();
    // Its WebSocket is open; that it is in the room is not said to a text client.
    until("the text client is in the room", || {
        (daemon.json(&["list", "--room", "lobby"])["clients"].as_array()?.len() == 1).then_some(())
    });
    let english = daemon.chat("one");
    assert!(text.text().is_ascii());
    let calm = "[timeouts]\npresence = \"0s\"\n";
    let config =
        format!("{calm}[chat]\nlocale = \"zh-CN\"\ndefault_rooms = [\"lobby\", \"大厅\"]\ncreate_rooms = false\n");
    assert_eq!(change(&daemon, &config), json!(["chat.default_rooms", "chat.create_rooms", "chat.locale"]));
    let mut chinese = Chat::open(daemon.connect(), "/chat", "");
    chinese.hello(json!({"v": 1, "nick": "two"}));
    let rooms = [chinese.frame("joined"), chinese.frame("joined")].map(|joined| joined["payload"]["room"].clone());
    assert_eq!(rooms, [json!("lobby"), json!("大厅")]);
    assert_eq!(text.text(), "系统通知: 新用户加入,当前在线3人");
    chinese.send("join", json!({"room": "nowhere"}));
    assert_eq!(chinese.any(&["joined", "error"])["payload"]["code"], "no_such_room");
    english.leave();

    assert_eq!(change(&daemon, &format!("{config}presence_limit = 0\n")), json!(["chat.presence_limit"]));
    let _three = daemon.chat("three");
    let presence = chinese.any(&["presence"]);
    until("only a number", || {
        let told = chinese.any(&["presence"]);
        (told["payload"]["nick"].is_null() && told["payload"]["online"].is_number()).then_some(())
    });
    drop(presence);
}

#[test]
fn timeouts_are_in_force_at_once() {
    let daemon = Daemon::plain("");
    let changed = change(&daemon, "[timeouts]\nping = \"1s\"\nhello = \"100ms\"\nrequest = \"500ms\"\n");
    assert_eq!(changed, json!(["timeouts.request", "timeouts.hello", "timeouts.ping"]));
    let mut ann = Chat::open(daemon.connect(), "/chat", "");
    assert_eq!(ann.hello(json!({"v": 1, "nick": "ann"}))["ping_ms"], 1000);
    ann.frame("ping");
    // Somebody who says nothing, and somebody who does not even ask.
    let silent = Chat::open(daemon.connect(), "/chat", "");
    assert_eq!(silent.closed().1.code, 4002);
    let mut late = daemon.http();
    late.send("GET /");
    assert_eq!(late.answer(false).status, 408);
    // Who does not answer pings is not kept.
    assert_eq!(ann.closed().1.code, 4201);
}

#[test]
fn how_it_stops_can_be_changed_while_it_runs() {
    let daemon = Daemon::plain("[shutdown]\ngrace = \"10m\"\n");
    assert_eq!(
        change(&daemon, "[shutdown]\ngrace = \"100ms\"\nspread = \"3s\"\n"),
        json!(["shutdown.grace", "shutdown.spread"])
    );
    let (_stubborn, polite) = (daemon.chat("stubborn"), daemon.chat("polite"));
    daemon.signal(Signal::SIGTERM);
    let (bye, Closed { code, .. }) = polite.closed();
    assert_eq!((code, &bye.unwrap()["payload"]["after_ms"]), (1001, &json!(3000)));
    daemon.stop_again();
}

#[test]
fn the_log_says_more_and_less() {
    let daemon = Daemon::plain("");
    daemon.chat("ann").leave();
    assert!(!daemon.log().contains(" DEBUG "));
    assert_eq!(change(&daemon, "[log]\nlevel = \"debug\"\n"), json!(["log.level"]));
    daemon.chat("bob").leave();
    until("a connection is told of", || daemon.log().contains(" has gone, closed by ").then_some(()));
    assert!(
        daemon.log().lines().any(|l| l.contains(" DEBUG ") && l.contains("has connected from")),
        "{}",
        daemon.log()
    );
    change(&daemon, "[log]\nlevel = \"error\"\n");
    let log = daemon.log();
    daemon.ctl(&["notice", "unheard", "--allow-empty"]);
    let new = daemon.log()[log.len()..].to_owned();
    assert_eq!(new, "");
}

#[test]
fn a_level_set_by_hand_holds_until_the_files_value_changes() {
    let daemon = Daemon::plain("");
    assert_eq!(daemon.json(&["log-level"]), json!({"level": "info", "configured": "info"}));
    assert_eq!(daemon.json(&["log-level", "debug"]), json!({"level": "debug", "configured": "info"}));
    daemon.chat("ann").leave();
    until("a connection is told of", || daemon.log().contains(" DEBUG ").then_some(()));
    let ran = daemon.ctl(&["log-level"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "debug\n"));
    assert!(ran.stderr.contains("the configuration says info"), "{ran:?}");
    let line = daemon.log().lines().find(|line| line.contains("set the log's level")).unwrap().to_owned();
    let uid = format!("(uid {}, pid ", nix::unistd::geteuid());
    assert!(line.contains(" INFO ") && line.contains(&uid) && line.ends_with("from info to debug"), "{line}");

    // Something else is changed: not the level.
    change(&daemon, "[limits]\nclients = 9\n");
    assert_eq!(daemon.json(&["log-level"])["level"], "debug");
    // The file says another, and then the same as before.
    assert_eq!(change(&daemon, "[log]\nlevel = \"warn\"\n"), json!(["limits.clients", "log.level"]));
    assert_eq!(daemon.json(&["log-level"]), json!({"level": "warn", "configured": "warn"}));
    daemon.json(&["log-level", "trace"]);
    change(&daemon, "[log]\nlevel = \"info\"\n");
    assert_eq!(daemon.json(&["log-level"]), json!({"level": "info", "configured": "info"}));
    // What was set by hand is not for the next run.
    daemon.json(&["log-level", "trace"]);
    let daemon = daemon.stop().start();
    assert_eq!(daemon.json(&["log-level"]), json!({"level": "info", "configured": "info"}));
    // Who makes it quiet is the last who is heard.
    daemon.json(&["log-level", "error"]);
    assert!(daemon.log().trim_end().ends_with("set the log's level from info to error"), "{}", daemon.log());
    daemon.ctl(&["log-level", "loud"]).ends(64, "loud");
    let refused = daemon.caller().ask("LogLevel", json!({"level": "loud"})).unwrap_err();
    assert!(format!("{refused:?}").contains("BadValue"), "{refused:?}");
}

#[test]
fn the_signal_does_the_same() {
    let daemon = Daemon::plain("");
    let mut events = daemon.caller().watch(&["reload"]);
    daemon.write_config(&format!("{PLAIN}[limits]\nclients = 0\n[paths]\nhealth = \"/alive\"\n"));
    daemon.signal(Signal::SIGHUP);
    let event = events.next();
    assert_eq!((&event["type"], event["detail"].as_str().unwrap().starts_with("changed ")), (&json!("reload"), true));
    assert_eq!(until("it is moved", || Some(daemon.http().get("/alive").status).filter(|s| *s == 200)), 200);
    until("the log tells it", || {
        daemon.log().lines().any(|line| line.contains("reloaded: changed paths.health")).then_some(())
    });
}

#[test]
fn what_needs_a_restart_is_named_and_waits_for_it() {
    let daemon = Daemon::plain("");
    let address = daemon.address();
    daemon.write_config(&format!(
        "{PLAIN}[history]\nstore = \"none\"\nkeep = 7\n\
         [control]\nsocket = \"FOLDER/elsewhere\"\n"
    ));
    for _ in 0..2 {
        let report = daemon.json(&["reload"]);
        let waiting = report["needs_restart"].as_array().unwrap();
        for key in ["history.store", "control.socket"] {
            assert!(waiting.contains(&json!(key)), "{key} in {report}");
        }
        assert!(report["changed"] == json!(["history.keep"]) || report["changed"] == json!([]), "{report}");
    }
    let ran = daemon.ctl(&["reload"]);
    assert!(ran.stdout.contains("needs a restart: history.store\n"), "{ran:?}");
    assert_eq!(daemon.address(), address);
    let mut ann = daemon.chat("ann");
    ann.say("kept");
    assert_eq!(daemon.json(&["room", "show", "lobby"])["room"]["kept"], 1);
    assert!(!daemon.folder().join("elsewhere").exists());
}

#[test]
fn roots_of_a_ca_that_are_not_there_are_refused() {
    let daemon = Daemon::start(TLS);
    daemon.write_config(&format!("{TLS}[tls]\nacme = [\"a.example\"]\nacme_ca_file = \"none.pem\"\n"));
    let ran = daemon.ctl(&["reload"]);
    ran.ends(78, "nothing has changed");
    assert!(ran.stderr.contains("tls.acme_ca_file") && ran.stderr.contains("none.pem"), "{ran:?}");
    assert_eq!(daemon.json(&["tls"])["certificate"]["renewal"], Value::Null);
}

#[test]
fn another_place_for_the_history_waits_for_a_restart() {
    let daemon = Daemon::plain("");
    daemon.chat("ann").say("kept");
    let old = daemon.json(&["status"])["history"]["path"].clone();
    daemon.write_config(&format!("{PLAIN}[history]\npath = \"elsewhere.db\"\n[limits]\nclients = 9\n"));
    // It waits however often it is asked for, also beside what is in force at once.
    for changed in [json!(["limits.clients"]), json!([])] {
        let report = daemon.json(&["reload"]);
        assert_eq!((&report["needs_restart"], &report["changed"]), (&json!(["history.path"]), &changed));
        assert_eq!(daemon.json(&["status"])["history"]["path"], old);
    }
    let elsewhere = daemon.folder().join("elsewhere.db");
    assert!(!elsewhere.exists());
    let copy = daemon.json(&["backup", "copy.db"]);
    assert_eq!(copy["entries"], 1);
    let daemon = daemon.stop().start();
    assert!(elsewhere.exists());
    assert_eq!(daemon.chat("ann").say("first")["seq"], 1);
}

#[test]
fn a_bad_file_is_refused_whole() {
    let daemon = Daemon::plain("");
    let mut ann = daemon.chat("ann");
    // Two mistakes beside a change that would be right by itself.
    daemon.write_config(&format!("{PLAIN}[limits]\nclients = 1\nburst = \"many\"\n[chat]\nlocal = \"en\"\n"));
    let ran = daemon.ctl(&["reload"]);
    ran.ends(78, "nothing has changed");
    assert_eq!(ran.stdout, "");
    let file = daemon.config_file();
    for mistake in ["limits.burst", "chat has no key \"local\"", "2 mistakes"] {
        assert!(ran.stderr.contains(mistake), "{mistake} in {}", ran.stderr);
    }
    // As --check-config tells it: with the line, and the place pointed at.
    assert!(ran.stderr.contains("\n  6 | burst = \"many\"\n    |         ^^^^^^\n"), "{}", ran.stderr);
    assert!(ran.stderr.lines().any(|line| line.starts_with(&format!("{}:8:1: ", file.display()))), "{}", ran.stderr);
    let json = daemon.ctl(&["reload", "--json"]);
    assert_eq!((json.status, json.stdout.as_str()), (78, ""));
    assert_eq!(refused_by(&daemon), 101, "none of it is in force");
    ann.say("nobody noticed");

    let before = daemon.log().len();
    daemon.signal(Signal::SIGHUP);
    until("the log tells it", || {
        let new = daemon.log()[before..].to_owned();
        (new.contains("ERROR") && new.contains("limits.burst") && new.contains("local")).then_some(())
    });
    std::fs::remove_file(&file).unwrap();
    daemon.ctl(&["reload"]).ends(78, "cannot read the configuration file");
    // A mistake elsewhere does not keep a new certificate waiting.
    assert_eq!(daemon.ctl(&["reload", "--tls"]).status, 0);
    daemon.write_config(PLAIN);
    assert_eq!(daemon.ctl(&["reload"]).status, 0);
}

#[test]
fn a_bad_certificate_holds_back_the_settings_beside_it() {
    let certificate = Certificate::for_name("one.example");
    let setup = Setup::new(&format!("{TLS}{INSTALLED}"));
    certificate.install(setup.folder());
    let daemon = setup.start();
    let mut ann = daemon.chat("ann");
    std::fs::write(daemon.folder().join("crt.pem"), "garbage").unwrap();
    daemon.write_config(&format!("{TLS}{INSTALLED}[limits]\nclients = 1\n[log]\nlevel = \"debug\"\n"));
    let before = daemon.json(&["status"])["clients_max"].clone();
    let nothing_new = |by: &str| {
        assert_eq!(daemon.json(&["status"])["clients_max"], before, "{by}");
        daemon.chat("bob").leave();
        until("bob has gone", || (daemon.clients(&[]).len() == 1).then_some(()));
        assert!(!daemon.log().contains(" DEBUG "), "{by}: {}", daemon.log());
        assert_eq!(daemon.connect().fingerprint(), certificate.fingerprint, "{by}");
    };

    daemon.ctl(&["reload"]).ends(78, "holds no PEM certificate");
    nothing_new("the command");
    let told = || daemon.log().matches("nothing was reloaded").count();
    let told_before = told();
    daemon.signal(Signal::SIGHUP);
    until("the log tells it", || (told() > told_before).then_some(()));
    nothing_new("the signal");
    ann.say("nobody noticed");

    // With the certificate put right, both are in force.
    certificate.install(daemon.folder());
    assert_eq!(daemon.json(&["reload"])["changed"], json!(["limits.clients", "log.level"]));
    assert_eq!(daemon.json(&["status"])["clients_max"], 1);
}

#[test]
fn how_much_is_kept_is_in_force_at_once() {
    let memory = "[history]\nstore = \"memory\"\n";
    let daemon = Daemon::plain(memory);
    let mut ann = daemon.chat("ann");
    for text in ["1", "2", "3", "4", "5"] {
        ann.say(text);
    }
    assert_eq!(kept(&mut ann), ["1", "2", "3", "4", "5"]);
    assert_eq!(change(&daemon, &format!("{memory}keep = 2\n")), json!(["history.keep"]));
    ann.say("6");
    assert_eq!(kept(&mut ann), ["5", "6"]);
    assert_eq!(daemon.json(&["room", "show", "lobby"])["room"]["kept"], 2);
    assert_eq!(change(&daemon, &format!("{memory}keep = 3\n")), json!(["history.keep"]));
    ann.say("7");
    ann.say("8");
    assert_eq!(kept(&mut ann), ["6", "7", "8"]);
}

/// The texts that the lobby's history has.
fn kept(chat: &mut Chat) -> Vec<String> {
    chat.send("history", json!({"room": "lobby", "limit": 50}));
    let history = chat.frame("history");
    let messages = history["payload"]["messages"].as_array().unwrap();
    messages.iter().map(|message| message["payload"]["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_new_rate_is_for_those_who_are_here_too() {
    let daemon = Daemon::plain("[limits]\nrate = \"10000/s\"\nburst = 10000\n");
    let mut ann = daemon.chat("ann");
    let mut refused = |text: &str| {
        ann.send("message", json!({"room": "lobby", "text": text}));
        ann.any(&["ack", "error"])["payload"]["code"] == "rate_limited"
    };
    assert!((0..20).all(|_| !refused("as fast as it goes")));
    assert_eq!(change(&daemon, "[limits]\nrate = \"1/h\"\nburst = 3\n"), json!(["limits.rate", "limits.burst"]));
    // The bucket was full to the brim, and holds three from now on.
    let answers: Vec<bool> = (0..5).map(|_| refused("slower")).collect();
    assert_eq!(answers, [false, false, false, true, true]);
    change(&daemon, "[limits]\nrate = \"10000/s\"\nburst = 3\n");
    until("it fills again", || (!refused("faster")).then_some(()));
}

#[test]
fn who_reloaded_is_in_the_log() {
    let daemon = Daemon::plain("");
    daemon.json(&["reload"]);
    daemon.write_config("nonsense");
    daemon.ctl(&["reload"]).ends(78, "nonsense");
    let log = daemon.log();
    let uid = format!("(uid {}, pid ", nix::unistd::geteuid());
    for words in [" reloaded the configuration", " could not reload the configuration"] {
        let line = log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words} in {log}"));
        assert!(line.contains(&uid) && line.contains(" INFO "), "{line}");
    }
}

#[test]
fn a_daemon_without_a_file_reads_none() {
    let setup = Setup::new(PLAIN);
    // By the folder, as the unit does it.
    let folder = setup.folder().display().to_string();
    let daemon = setup.env("CONFIGURATION_DIRECTORY", folder).start();
    assert_eq!(daemon.json(&["reload"])["changed"], json!([]));
    assert_eq!(daemon.json(&["status"])["config"], json!(daemon.config_file()));
}
