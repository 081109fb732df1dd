//! What Prometheus reads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;

use crate::monitoring::{PARSER, promtool, python};
use crate::support::{Daemon, Setup, until};

fn ask(address: SocketAddr, request: &str) -> (String, String) {
    ask_for(address, request, "")
}

/// With these lines of headers besides.
fn ask_for(address: SocketAddr, request: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("metrics are served");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n").unwrap();
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

/// A daemon that has metrics, with something in every histogram, and where they are.
fn measured() -> (Daemon, SocketAddr) {
    let daemon = Daemon::plain("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let address = until("the log says where", || metrics_address(&daemon.log()));
    let mut ann = daemon.chat("ann");
    ann.say("one");
    ann.leave();
    (daemon, address)
}

#[test]
fn what_reads_openmetrics_strictly_reads_it() {
    let (daemon, address) = measured();
    let (_, scraped) = ask(address, "GET /metrics");
    let printed = daemon.ctl(&["stats", "--prometheus"]);
    assert_eq!((printed.status, printed.stderr.as_str()), (0, ""));
    for text in [&scraped, &printed.stdout] {
        let Some(read) = python(PARSER, text) else { return };
        assert!(read.starts_with("families: ") && !read.starts_with("families: 0"), "{read}");
    }
    // Both are the same series; the values go on.
    let series = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.rsplit_once(' ').filter(|_| !line.starts_with('#')).map_or(line, |(n, _)| n).to_owned())
            .collect()
    };
    assert_eq!(series(&scraped), series(&printed.stdout));
    // Neither goes where there is no listener.
    let without = Daemon::plain("").ctl(&["stats", "--prometheus"]);
    assert!(without.stdout.ends_with("# EOF\n"), "{without:?}");
}

#[test]
fn a_scraper_that_asks_for_the_old_format_gets_it() {
    let (_daemon, address) = measured();
    let (head, text) = ask_for(address, "GET /metrics", "Accept: text/plain;version=0.0.4\r\n");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(text.contains("# TYPE wschat_messages_total counter\n") && !text.contains("# EOF"), "{text}");
    promtool(&["check", "metrics"], &text);
    let both = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
    assert!(ask_for(address, "GET /metrics", both).1.ends_with("# EOF\n"));
}

#[test]
fn scrapes_while_everybody_talks_agree_with_themselves() {
    let daemon = Daemon::plain(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[limits]\nrate = \"1000/s\"\nburst = 1000\n[history]\nstore = \"memory\"\n",
    );
    let address = until("the log says where", || metrics_address(&daemon.log()));
    const SAID: usize = 150;
    std::thread::scope(|scope| {
        for nick in ["ann", "ben", "cem"] {
            let mut chat = daemon.chat(nick);
            scope.spawn(move || {
                for n in 0..SAID {
                    chat.say(&n.to_string());
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let mut before = 0.0;
                while before < 3.0 * SAID as f64 {
                    let (_, text) = ask(address, "GET /metrics");
                    let now = value(&text, "wschat_ack_latency_seconds_count");
                    assert!(now >= before, "{now} after {before}");
                    let last = value(&text, "wschat_ack_latency_seconds_bucket{le=\"+Inf\"}");
                    assert_eq!(last, now, "the last bucket has all");
                    before = now;
                }
            });
        }
    });
    let (_, text) = ask(address, "GET /metrics");
    assert_eq!(value(&text, "wschat_messages_total"), 3.0 * SAID as f64);
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
        assert!(name.starts_with("wschat") || name.starts_with("process_"), "{name}");
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
