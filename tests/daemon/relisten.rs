//! Listeners that come, go and change by a reload, while people chat.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::certificate::{Certificate, INSTALLED};
use crate::support::daemon::{PLAIN, TLS};
use crate::support::manager::Manager;
use crate::support::{Chat, Daemon, Http, Setup, Stream, left_out, until};

/// A port that nobody has.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn plain_at(address: impl std::fmt::Display) -> String {
    format!("[[listen]]\naddress = \"{address}\"\ntls = false\n")
}

#[track_caller]
fn reload(daemon: &Daemon, config: &str) -> Value {
    daemon.write_config(config);
    daemon.json(&["reload"])
}

fn listening(daemon: &Daemon) -> Vec<String> {
    let status = daemon.json(&["status"]);
    status["listen"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect()
}

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_refused(address: SocketAddr) -> bool {
    matches!(TcpStream::connect(address), Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_listener_comes_and_goes_and_nobody_who_is_there_does() {
    let manager = Manager::new();
    let daemon = Setup::new(PLAIN).env("NOTIFY_SOCKET", manager.path()).start();
    assert_eq!(manager.with("FDSTORE").variables["FDNAME"], format!("127.0.0.1_{}", daemon.address().port()));
    let mut ann = daemon.chat("ann");
    let added = free();
    let report = reload(&daemon, &format!("{PLAIN}{}", plain_at(added)));
    assert_eq!(report, json!({"changed": ["listen"], "needs_restart": [], "certificate": false}));
    assert_eq!(listening(&daemon), [format!("{} plain", daemon.address()), format!("{added} plain")]);
    let name = format!("127.0.0.1_{}", added.port());
    // The manager holds an end of it from now on.
    let stored = manager.with("FDSTORE");
    assert_eq!((stored.variables["FDNAME"].as_str(), stored.descriptors.len()), (name.as_str(), 1));
    let mut bob = Chat::enter(Stream::tcp(added), "bob");
    bob.say("through the new door");
    ann.hears("through the new door");

    let report = reload(&daemon, PLAIN);
    assert_eq!(report["changed"], json!(["listen"]));
    assert_eq!(listening(&daemon), [format!("{} plain", daemon.address())]);
    assert_eq!(manager.with("FDSTOREREMOVE").variables["FDNAME"], name);
    assert!(is_refused(added), "though the manager still has an end of it");
    bob.say("still here");
    ann.hears("still here");
    daemon.chat("cat").leave();
    assert!(daemon.log().contains(&format!("no longer listening on {added}")), "{}", daemon.log());
}

#[test]
fn one_that_cannot_be_bound_refuses_the_whole_reload() {
    let daemon = Daemon::plain("");
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, added) = (foreign.local_addr().unwrap(), free());
    let path = daemon.folder().join("web");
    // What can be had comes before what cannot, and is given back.
    daemon.write_config(&format!(
        "{}{}[[listen]]\naddress = \"FOLDER/web\"\n[limits]\nclients = 1\n[[listen]]\naddress = \"{taken}\"\n",
        PLAIN,
        plain_at(added)
    ));
    let ran = daemon.ctl(&["reload"]);
    ran.ends(78, &format!("{taken} is taken by another program"));
    assert!(is_refused(added));
    assert!(!path.exists());
    assert_eq!(listening(&daemon), [format!("{} plain", daemon.address())]);
    assert_ne!(daemon.json(&["status"])["clients_max"], 1);
    daemon.chat("ann").leave();
    drop(foreign);
    assert_eq!(daemon.ctl(&["reload"]).status, 0);
    assert_eq!(listening(&daemon).len(), 4);
    assert!(path.exists());
    assert_eq!(daemon.json(&["status"])["clients_max"], 1);
}

#[test]
fn a_metrics_port_that_is_taken_refuses_it_too() {
    let daemon = Daemon::plain("");
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, added) = (foreign.local_addr().unwrap(), free());
    daemon.write_config(&format!("{PLAIN}{}[metrics]\nlisten = \"{taken}\"\n", plain_at(added)));
    daemon.ctl(&["reload"]).ends(78, &format!("metrics.listen: cannot listen on {taken}"));
    assert!(is_refused(added));
    assert_eq!(listening(&daemon).len(), 1);
}

#[test]
fn metrics_come_move_and_go() {
    let daemon = Daemon::plain("");
    let (first, second) = (free(), free());
    let served = |at: SocketAddr| Http::new(Stream::tcp(at)).get("/metrics").status == 200;
    assert_eq!(
        reload(&daemon, &format!("{PLAIN}[metrics]\nlisten = \"{first}\"\n"))["changed"],
        json!(["metrics.listen"])
    );
    assert!(served(first));
    reload(&daemon, &format!("{PLAIN}[metrics]\nlisten = \"{first}\"\n[limits]\nclients = 9\n"));
    assert!(served(first));
    reload(&daemon, &format!("{PLAIN}[metrics]\nlisten = \"{second}\"\n"));
    assert!(served(second) && is_refused(first));
    // A chat's port becomes theirs, and theirs the chat's.
    reload(&daemon, &format!("{}[metrics]\nlisten = \"{first}\"\n", plain_at(second)));
    assert!(served(first));
    Chat::enter(Stream::tcp(second), "ann").leave();
    assert_eq!(reload(&daemon, &plain_at(second))["changed"], json!(["metrics.listen"]));
    assert!(is_refused(first));
}

#[test]
fn an_address_grows_to_all_of_the_machine_and_no_attempt_is_refused() {
    let Ok(_) = TcpListener::bind("[::1]:0") else {
        return left_out("an address that grows to [::]: this machine has no IPv6");
    };
    let narrow = free();
    let daemon = Daemon::start(&plain_at(narrow));
    let mut ann = Chat::enter(Stream::tcp(narrow), "ann");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            let mut answered = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(Http::new(Stream::tcp(narrow)).get("/healthz").status, 200);
                answered += 1;
            }
            answered
        });
        // Also where this fails, or the other would go on for ever.
        let ended = Over(&over);
        for _ in 0..5 {
            let wide = format!("[::]:{}", narrow.port());
            assert_eq!(reload(&daemon, &plain_at(&wide))["changed"], json!(["listen"]));
            assert_eq!(listening(&daemon), [format!("{wide} plain")]);
            let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, narrow.port()));
            assert_eq!(Http::new(Stream::tcp(six)).get("/healthz").status, 200);
            assert_eq!(reload(&daemon, &plain_at(narrow))["changed"], json!(["listen"]));
            assert!(is_refused(six), "and back");
        }
        drop(ended);
        assert!(knocking.join().unwrap() > 0);
    });
    ann.say("all the while");
    // For that moment alone the port was shared: a second daemon does not get it.
    assert!(TcpListener::bind(narrow).is_err());
    Setup::new(&plain_at(narrow)).fails().ends(1, "is taken by another program");
}

#[test]
fn a_door_changes_and_its_socket_stays() {
    let address = free();
    let daemon = Daemon::start(&plain_at(address));
    let mut ann = Chat::enter(Stream::tcp(address), "ann");
    // The first that speaks TLS: until now there was no certificate.
    assert_eq!(daemon.json(&["tls"])["certificate"], Value::Null);
    let report = reload(&daemon, &format!("[[listen]]\naddress = \"{address}\"\n"));
    assert_eq!(report, json!({"changed": ["listen"], "needs_restart": [], "certificate": true}));
    assert_eq!(listening(&daemon), [format!("{address} tls")]);
    assert!(daemon.json(&["tls"])["certificate"]["source"].as_str().unwrap().starts_with("self-signed"));
    let mut bob = Chat::enter(Stream::tls(address), "bob");
    bob.say("over TLS");
    ann.hears("over TLS");

    let proxied = format!("{}trusted_proxies = [\"127.0.0.1\"]\n", plain_at(address));
    reload(&daemon, &proxied);
    assert_eq!(daemon.json(&["tls"])["certificate"], Value::Null);
    let mut cat = Chat::open(Stream::tcp(address), "/chat", "X-Forwarded-For: 203.0.113.9");
    cat.hello(json!({"v": 1, "nick": "cat"}));
    assert_eq!(daemon.clients(&["--nick", "cat"])[0]["address"], "203.0.113.9");
    bob.say("still over TLS");
    // And TLS once more, by a certificate made anew or kept.
    assert_eq!(reload(&daemon, &format!("[[listen]]\naddress = \"{address}\"\n"))["certificate"], true);
    Chat::enter(Stream::tls(address), "dan").leave();
}

#[test]
fn a_connection_that_waits_in_the_queue_is_let_in_through_a_door_that_closes() {
    let daemon = Daemon::start(&format!("{PLAIN}{}", plain_at("127.0.0.1:0")));
    let leaving = daemon.address_of(1);
    daemon.write_config(PLAIN);
    let mut caller = daemon.caller();
    caller.ask("Ping", json!({})).unwrap();
    // All of it at once for a daemon that stands still: it cannot have accepted so many when it reloads.
    daemon.signal(Signal::SIGSTOP);
    caller.call("Reload", json!({}), false).unwrap();
    let waiting: Vec<Stream> = (0..800).map(|_| Stream::tcp(leaving)).collect();
    daemon.signal(Signal::SIGCONT);
    caller.reply().unwrap();
    assert!(is_refused(leaving));
    for stream in waiting {
        assert_eq!(Http::new(stream).get("/healthz").status, 200);
    }
}

#[test]
fn a_unix_socket_goes_with_its_file_and_never_with_anothers() {
    let web = "[[listen]]\naddress = \"FOLDER/web\"\n";
    let daemon = Daemon::start(&format!("{PLAIN}{web}"));
    let path = daemon.folder().join("web");
    let mut ann = Chat::enter(Stream::unix(&path), "ann");
    reload(&daemon, PLAIN);
    assert!(!path.exists());
    ann.say("still here");
    reload(&daemon, &format!("{PLAIN}{web}"));
    Chat::enter(Stream::unix(&path), "bob").leave();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    reload(&daemon, PLAIN);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn files_of_a_certificate_that_nobody_is_shown_are_not_read_and_that_is_told() {
    let daemon = Daemon::plain("");
    daemon.write_config(&format!("{PLAIN}{INSTALLED}"));
    assert_eq!(daemon.json(&["reload"])["changed"], json!(["tls.certificate", "tls.key"]));
    let told = "no listener speaks TLS, so the certificate ";
    assert!(daemon.log().contains(told), "{}", daemon.log());
    // With a listener that needs them they must be there, before anything is changed.
    let tls = free();
    daemon.write_config(&format!("{PLAIN}[[listen]]\naddress = \"{tls}\"\n{INSTALLED}"));
    daemon.ctl(&["reload"]).ends(78, "cannot read the certificate");
    assert!(is_refused(tls));
    let certificate = Certificate::for_name("one.example");
    certificate.install(daemon.folder());
    assert_eq!(daemon.json(&["reload"])["certificate"], true);
    assert_eq!(Stream::tls(tls).fingerprint(), certificate.fingerprint);
}

#[test]
fn the_pace_of_commits_changes_with_a_reload() {
    let daemon = Daemon::plain("[history]\ncommit_every = \"0s\"\n");
    let mut ann = daemon.chat("ann");
    let commits = |daemon: &Daemon| daemon.json(&["status"])["history"]["commits"].as_u64().unwrap();
    let report = reload(&daemon, &format!("{PLAIN}[history]\ncommit_every = \"1s\"\n"));
    assert_eq!(report["changed"], json!(["history.commit_every"]));
    let before = commits(&daemon);
    let mut caller = daemon.caller();
    for _ in 0..15 {
        ann.send("message", json!({"room": "lobby", "text": "x"}));
        // Each is with the log before the next is said.
        for _ in 0..10 {
            caller.ask("Ping", json!({})).unwrap();
        }
    }
    for _ in 0..15 {
        ann.frame("ack");
    }
    // The first at once; the others, which came within the second, together.
    assert!(commits(&daemon) - before < 10, "{} commits", commits(&daemon) - before);
}

#[test]
fn a_kept_socket_that_is_in_the_way_of_a_wider_one_is_let_go_at_a_start() {
    let manager = Manager::new();
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = kept.local_addr().unwrap().port();
    // The manager keeps an end of it until it is told to forget.
    let _end = kept.try_clone().unwrap();
    let setup = Setup::new(&plain_at(format!("0.0.0.0:{port}")))
        .env("NOTIFY_SOCKET", manager.path())
        .hand_over(kept.into(), &format!("127.0.0.1_{port}"));
    let daemon = setup.start();
    assert_eq!(manager.with("FDSTOREREMOVE").variables["FDNAME"], format!("127.0.0.1_{port}"));
    assert_eq!(Http::new(Stream::tcp(([127, 0, 0, 1], port).into())).get("/healthz").status, 200);
    drop(daemon);
}

#[test]
fn a_stop_behind_a_reload_ends_everything() {
    let daemon = Daemon::start(&format!("{TLS}{}", plain_at("127.0.0.1:0")));
    let added = free();
    reload(&daemon, &format!("{TLS}{}[metrics]\nlisten = \"127.0.0.1:0\"\n", plain_at(added)));
    let ann = Chat::enter(Stream::tcp(added), "ann");
    let mut early = Stream::tcp(added);
    early.write_all(b"GET ").unwrap();
    until("both are there", || (daemon.clients(&[]).len() == 1).then_some(()));
    let waiting = std::thread::spawn(move || ann.closed().1.code);
    drop(early);
    daemon.stop();
    assert_eq!(waiting.join().unwrap(), 1001);
}
