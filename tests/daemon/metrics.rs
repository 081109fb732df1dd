//! What Prometheus reads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;

use crate::support::{Daemon, Setup, until};

fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("metrics are served");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_ascii_lowercase(), body.to_owned())
}

/// The value of a metric that has no labels.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

fn metrics_address(log: &str) -> Option<SocketAddr> {
    log.split_once("metrics are at http://")?.1.split_once("/metrics")?.0.parse().ok()
}

#[test]
fn prometheus_reads_what_status_says() {
    let daemon = Daemon::plain("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let address = until("the log says where", || metrics_address(&daemon.log()));
    let mut ann = daemon.chat("ann");
    ann.say("one");
    ann.say("two");
    let text = until("two messages are counted", || {
        let (head, text) = ask(address, "GET /metrics");
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
        (value(&text, "wschat_messages_total") == 2.0).then_some(text)
    });
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(value(&text, "wschat_clients"), 1.0);
    assert_eq!(value(&text, "wschat_log_healthy"), 1.0);
    assert_eq!(value(&text, "wschat_serving"), 1.0);
    assert_eq!(value(&text, "wschat_log_entries_total"), 2.0);
    assert!(value(&text, "wschat_start_time_seconds") > 1.7e9);
    // They are those of status, also where two could be taken for each other.
    for words in [&["ban", "add", "user:x"][..], &["ban", "add", "user:y"], &["mute", "add", "user:z"]] {
        daemon.ctl(words).ends(0, "");
    }
    let (_, text) = ask(address, "GET /metrics");
    let status = daemon.json(&["status"]);
    let history = &status["history"];
    for (name, told) in [
        ("wschat_clients", &status["clients"]),
        ("wschat_clients_max", &status["clients_max"]),
        ("wschat_users", &status["users"]),
        ("wschat_rooms", &status["rooms"]),
        ("wschat_bans", &status["bans"]),
        ("wschat_mutes", &status["mutes"]),
        ("wschat_log_commits_total", &history["commits"]),
        ("wschat_log_size_bytes", &history["bytes"]),
    ] {
        assert_eq!(Some(value(&text, name)), told.as_f64(), "{name}");
    }
    assert_eq!((value(&text, "wschat_bans"), value(&text, "wschat_mutes")), (2.0, 1.0));
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is explained");
        assert!(name.starts_with("wschat"), "{name}");
    }
}

#[test]
fn a_log_that_cannot_store_is_no_secret() {
    let daemon = Daemon::plain("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let address = until("the log says where", || metrics_address(&daemon.log()));
    let mut ann = daemon.chat("ann");
    ann.say("before");
    // Another program that keeps the database to itself stands for any disk that refuses.
    let foreign = rusqlite::Connection::open(daemon.state_folder().join("wschat.db")).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    ann.send("message", json!({"room": "lobby", "text": "refused"}));
    assert_eq!(ann.any(&["error", "ack"])["payload"]["code"], "unavailable");
    let healthy = |wanted| {
        until("the metrics say so", || {
            let (_, text) = ask(address, "GET /metrics");
            (value(&text, "wschat_log_healthy") == wanted).then_some(text)
        })
    };
    let text = healthy(0.0);
    assert!(value(&text, "wschat_log_refused_total") >= 1.0, "{text}");
    foreign.execute_batch("COMMIT").unwrap();
    let text = healthy(1.0);
    assert_eq!(value(&text, "wschat_log_entries_total"), 1.0, "what was refused is not counted as stored");
}

#[test]
fn there_is_nothing_else_on_that_port_and_nothing_without_it() {
    let daemon = Daemon::plain("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let address = until("the log says where", || metrics_address(&daemon.log()));
    let (head, body) = ask(address, "GET /");
    assert!(head.starts_with("http/1.1 404 ") && body.contains("/metrics"), "{head}\n{body}");
    let (head, _) = ask(address, "POST /metrics");
    assert!(head.starts_with("http/1.1 405 ") && head.contains("allow: get, head"), "{head}");
    assert!(metrics_address(&Daemon::plain("").log()).is_none());
    // A port that is taken is named by the key that asks for it.
    let taken = format!("[[listen]]\naddress = \"127.0.0.1:0\"\n[metrics]\nlisten = \"{address}\"\n");
    Setup::new(&taken).fails().ends(1, "metrics.listen: cannot listen on");
}

#[test]
fn a_drain_is_no_serving() {
    let daemon = Daemon::plain("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let address = until("the log says where", || metrics_address(&daemon.log()));
    let serving = || value(&ask(address, "GET /metrics").1, "wschat_serving");
    assert_eq!(serving(), 1.0);
    daemon.json(&["drain"]);
    assert_eq!(serving(), 0.0);
    daemon.json(&["resume"]);
    assert_eq!(serving(), 1.0);
}
