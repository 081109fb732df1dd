//! Each of the daemon's numbers moves with what it counts, and by as much.

use std::io::{Read, Write};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::client::UPGRADE;
use crate::support::daemon::TLS;
use crate::support::site::Site;
use crate::support::{Chat, Daemon, Http, Setup, Stream, until};

/// What `wschatctl stats` says at one time.
pub struct Numbers(Vec<Value>);

impl Numbers {
    pub fn of(daemon: &Daemon) -> Self {
        let Value::Array(metrics) = daemon.json(&["stats"])["metrics"].take() else { panic!("no list of metrics") };
        Numbers(metrics)
    }

    #[track_caller]
    fn samples(&self, name: &str) -> &Vec<Value> {
        let metric = self.0.iter().find(|metric| metric["name"] == name);
        metric.unwrap_or_else(|| panic!("no {name}"))["samples"].as_array().expect("a list of samples")
    }

    /// The value of the sample with these labels, among others perhaps; of several their sum.
    #[track_caller]
    pub fn with(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = |sample: &&Value| labels.iter().all(|(label, value)| sample["labels"][*label] == **value);
        let found: Vec<f64> = self
            .samples(name)
            .iter()
            .filter(wanted)
            .map(|sample| sample["value"].as_f64().or(sample["count"].as_f64()).expect("a value or a count"))
            .collect();
        assert!(!found.is_empty(), "no {name} with {labels:?}");
        found.iter().sum()
    }

    /// The value, or the number of values of a histogram.
    #[track_caller]
    pub fn get(&self, name: &str) -> f64 {
        self.with(name, &[])
    }

    fn failures(&self, reason: &str) -> f64 {
        self.with("wschat_handshake_failures_total", &[("reason", reason)])
    }

    fn closes(&self, code: &str, by: &str) -> f64 {
        self.with("wschat_closed_connections_total", &[("code", code), ("by", by)])
    }
}

/// What asks for a WebSocket, and one line more.
fn with(more: &str) -> Vec<&str> {
    UPGRADE.into_iter().chain([more]).collect()
}

/// Waits until the numbers are so.
#[track_caller]
fn numbers(daemon: &Daemon, what: &str, are: impl Fn(&Numbers) -> bool) -> Numbers {
    until(what, || Some(Numbers::of(daemon)).filter(|numbers| are(numbers)))
}

#[test]
fn messages_are_counted_once_for_each_way_they_go() {
    let daemon = Daemon::plain("");
    let (mut ann, mut ben, mut text) = (daemon.chat("ann"), daemon.chat("ben"), daemon.text());
    for n in 0..5 {
        ann.say(&format!("message {n}"));
    }
    ben.hears("message 4");
    while !text.text().contains("message 4") {}
    text.send_text("one more");
    ann.hears("one more");
    ben.hears("one more");
    // What each connection says of itself adds up to what the workers say.
    let sum = |field: &str| daemon.clients(&[]).iter().map(|client| client[field].as_f64().unwrap()).sum::<f64>();
    let found = numbers(&daemon, "all is counted", |numbers| {
        numbers.get("wschat_deliveries_total") == sum("out")
            && numbers.get("wschat_sent_bytes_total") == sum("out_bytes")
            && numbers.get("wschat_received_messages_total") == sum("in")
            && numbers.get("wschat_received_bytes_total") == sum("in_bytes")
    });
    assert!(found.get("wschat_deliveries_total") >= 18.0);
    assert_eq!(found.get("wschat_messages_total"), 6.0);
    assert_eq!(found.get("wschat_ack_latency_seconds"), 6.0, "one for each message that was kept");
    assert!(found.get("wschat_fanout_latency_seconds") >= 6.0);
    assert_eq!(found.get("wschat_log_commit_duration_seconds"), found.get("wschat_log_commits_total"));
    let histogram = &found.samples("wschat_ack_latency_seconds")[0];
    let buckets = histogram["buckets"].as_array().unwrap();
    assert_eq!(buckets.last(), Some(&json!({"le": null, "count": 6})));
    assert!(buckets.is_sorted_by_key(|bucket| bucket["count"].as_u64()));
    let sum = histogram["sum"].as_f64().unwrap();
    assert!(sum > 0.0 && sum < 600.0, "{sum}");

    let connections = |dialect| found.with("wschat_connections", &[("dialect", dialect)]);
    assert_eq!((connections("json"), connections("text"), connections("echo")), (2.0, 1.0, 0.0));
    assert_eq!(found.with("wschat_connections_opened_total", &[("dialect", "json")]), 2.0);
    assert_eq!(found.get("wschat_outbox_bytes"), 0.0);
    assert_eq!(found.with("wschat_http_responses_total", &[("code", "101")]), 3.0);
    for name in ["wschat_worker_busy_seconds_total", "wschat_hub_busy_seconds_total", "process_cpu_seconds_total"] {
        assert!(found.get(name) > 0.0, "{name}");
    }
    assert!(found.get("process_open_fds") >= 3.0 && found.get("process_resident_memory_bytes") > 1e6);
    assert_eq!(found.with("wschat_queue_capacity", &[("queue", "hub")]), 4096.0);
    // And the words for people and programs are of the same numbers.
    let piped = daemon.ctl(&["stats", "messages_total"]);
    assert_eq!((piped.status, piped.stdout.as_str()), (0, "wschat_messages_total\t6\n"), "{piped:?}");
    daemon.ctl(&["stats", "nonsense"]).ends(64, "there is no metric of that name");
}

#[test]
fn an_end_is_counted_by_its_code_and_by_who_began_it() {
    let daemon = Daemon::plain("");
    daemon.chat("ann").leave();
    let ben = daemon.chat("ben");
    let (id, ben) = (ben.id.to_string(), ben.closing());
    daemon.ctl(&["kick", &id]).ends(0, "");
    assert_eq!(ben.join().unwrap().1.code, 4003);
    let mut own = daemon.chat("own");
    own.send_close(3999);
    let lost = daemon.chat("lost");
    drop(lost);
    let found = numbers(&daemon, "all ends are counted", |numbers| {
        numbers.closes("1005", "client") == 1.0
            && numbers.closes("4003", "server") == 1.0
            && numbers.closes("other", "client") == 1.0
            && numbers.closes("1006", "nobody") == 1.0
    });
    assert_eq!(found.with("wschat_closed_connections_total", &[]), 4.0);
    assert_eq!((found.get("wschat_kicks_total"), found.get("wschat_connections")), (1.0, 0.0));
    daemon.ctl(&["notice", "hello", "--allow-empty"]).ends(0, "");
    assert_eq!(Numbers::of(&daemon).get("wschat_notices_total"), 1.0);
}

#[test]
fn a_handshake_that_fails_is_counted_by_its_reason() {
    let config = "[timeouts]\ntls = \"2s\"\nrequest = \"2s\"\nhello = \"2s\"\n[auth]\nmode = \"token\"\n\
        secret_file = \"FOLDER/secret\"\n[chat]\nallowed_origins = [\"https://site.example\"]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\ntrusted_proxies = [\"127.0.0.1\"]\n\
        [limits]\nclients_per_ip = 1\nhandshakes_per_ip = \"2/s\"\n";
    let setup = Setup::new(&format!("{TLS}{config}"));
    Site::with_secret("0123456789abcdef0123456789abcdef").install(setup.folder());
    let daemon = setup.start();
    let failed = |reason: &str, times: f64| {
        numbers(&daemon, reason, |numbers| numbers.failures(reason) == times);
    };
    let mut silent = Stream::tcp(daemon.address());
    let mut mute = daemon.http();
    let mut garbage = Stream::tcp(daemon.address());
    garbage.write_all(b"\x16garbage, garbage, garbage").unwrap();
    garbage.rest();
    failed("tls", 1.0);
    assert_eq!(Http::new(Stream::tcp(daemon.address())).get("/").status, 308);
    failed("plain_http", 1.0);
    assert_eq!(daemon.http().ask("GET /chat", &with("Origin: https://evil.example")).status, 403);
    failed("origin", 1.0);
    assert_eq!(daemon.http().ask("GET /chat", &UPGRADE[..2]).status, 426);
    let mut nonsense = daemon.http();
    nonsense.send("no HTTP at all\r\n\r\n");
    assert_eq!(nonsense.answer(false).status, 400);
    failed("bad_request", 2.0);

    let proxied = |header: &str| {
        let mut http = Http::new(Stream::tcp(daemon.address_of(1)));
        (http.ask("GET /chat", &with(header)).status, http)
    };
    assert_eq!(proxied("X-Forwarded-For: nonsense").0, 400);
    failed("forwarded", 1.0);
    let first = proxied("X-Forwarded-For: 203.0.113.9");
    let statuses = [proxied("X-Forwarded-For: 203.0.113.9").0, proxied("X-Forwarded-For: 203.0.113.9").0];
    assert_eq!((first.0, statuses), (101, [429, 429]));
    let found = Numbers::of(&daemon);
    assert_eq!(found.failures("rate") + found.failures("address"), 2.0);
    assert!(found.failures("address") >= 1.0);
    assert_eq!(found.with("wschat_http_responses_total", &[("code", "429")]), 2.0);

    let mut chat = Chat::open(daemon.connect(), "/chat", "Origin: https://site.example");
    chat.send("hello", json!({"v": 1}));
    assert_eq!(chat.closed().1.code, 4001);
    failed("token", 1.0);
    // Each of these says nothing for as long as it may.
    let mut nothing = Vec::new();
    let _ = silent.read_to_end(&mut nothing);
    failed("tls_timeout", 1.0);
    assert_eq!(mute.answer(false).status, 408);
    failed("request_timeout", 1.0);
    assert_eq!(Chat::over(first.1).closed().1.code, 4002);
    failed("no_hello", 1.0);
    let found = Numbers::of(&daemon);
    assert!(found.get("wschat_sockets_accepted_total") >= 12.0);
    assert_eq!(found.get("wschat_sockets_reset_total"), 0.0);
}

#[test]
fn who_finds_no_place_is_counted() {
    let daemon = Daemon::plain("[limits]\nclients = 1\n[shutdown]\ngrace = \"5m\"\n");
    let only = daemon.chat("only");
    assert_eq!(daemon.http().ask("GET /chat", &UPGRADE).status, 503);
    numbers(&daemon, "it was full", |numbers| numbers.failures("full") == 1.0);
    let mut early = daemon.http();
    early.send("GET /chat HTTP/1.1\r\nHost: h\r\n");
    assert_eq!(daemon.http().get("/healthz").status, 200, "the request before is under way");
    daemon.signal(Signal::SIGTERM);
    until("stopping", || (daemon.json(&["status"])["state"] == "stopping").then_some(()));
    early.send(UPGRADE.join("\r\n") + "\r\n\r\n");
    assert_eq!(early.answer(false).status, 503);
    let found = numbers(&daemon, "it was stopping", |numbers| numbers.failures("stopping") == 1.0);
    assert_eq!(found.get("wschat_serving"), 0.0);
    let state = |state| found.with("wschat_state", &[("state", state)]);
    assert_eq!((state("stopping"), state("serving")), (1.0, 0.0));
    drop(only);
}

#[test]
fn sockets_that_are_reset_unread_are_counted() {
    let daemon = Setup::new(crate::support::daemon::PLAIN).most_files(400).start();
    let mut held = Vec::new();
    let found = until("there is no place left", || {
        held.extend((0..100).map(|_| Stream::tcp(daemon.address())));
        Some(Numbers::of(&daemon)).filter(|numbers| numbers.get("wschat_sockets_reset_total") > 0.0)
    });
    assert!(found.get("wschat_sockets_accepted_total") >= 200.0);
    assert!(found.get("process_open_fds") <= found.get("process_max_fds"));
}

#[test]
fn slow_readers_and_those_who_say_too_much_are_counted() {
    let daemon =
        Daemon::plain("[limits]\nrate = \"2000/s\"\nburst = 2000\noutbox = \"1MiB\"\n[history]\nstore = \"memory\"\n");
    let mut speaker = daemon.chat("speaker");
    let text = "x".repeat(4000);
    let mut says_until = |what: &str, holds: &dyn Fn(&Numbers) -> bool| {
        until(what, || {
            for _ in 0..50 {
                speaker.say(&text);
            }
            holds(&Numbers::of(&daemon)).then_some(())
        });
    };
    let absent = daemon.chat("absent");
    says_until("something waits", &|numbers| numbers.get("wschat_outbox_bytes") > 0.0);
    drop(absent);
    numbers(&daemon, "nothing waits for one who has gone", |numbers| numbers.get("wschat_outbox_bytes") == 0.0);
    let slow = daemon.chat("slow");
    says_until("the one who does not read is closed", &|numbers| numbers.get("wschat_slow_readers_total") == 1.0);
    drop(slow);
    numbers(&daemon, "nothing waits for one who was closed", |numbers| numbers.get("wschat_outbox_bytes") == 0.0);

    let strict = Daemon::plain("[limits]\nrate = \"1/s\"\nburst = 1\n");
    let mut fast = strict.chat("fast");
    for n in 0..3 {
        fast.send("message", json!({"room": "lobby", "text": n.to_string()}));
    }
    assert_eq!(fast.any(&["error"])["payload"]["code"], "rate_limited");
    numbers(&strict, "it was too much", |numbers| numbers.get("wschat_rate_limited_messages_total") >= 1.0);
}

#[test]
fn a_reload_and_a_watcher_leave_their_trace() {
    let daemon = Daemon::plain("");
    let before = Numbers::of(&daemon);
    assert_eq!(before.get("wschat_config_last_reload_successful"), 1.0, "the start took it over");
    let reloads = |numbers: &Numbers, result| numbers.with("wschat_config_reloads_total", &[("result", result)]);
    daemon.write_config("[limits]\nburst = 0\n");
    daemon.ctl(&["reload"]).ends(78, "");
    let bad = Numbers::of(&daemon);
    assert_eq!(bad.get("wschat_config_last_reload_successful"), 0.0);
    let time = "wschat_config_last_reload_success_timestamp_seconds";
    assert_eq!((reloads(&bad, "failed"), bad.get(time)), (1.0, before.get(time)));
    daemon.write_config(crate::support::daemon::PLAIN);
    daemon.ctl(&["reload"]).ends(0, "");
    let good = Numbers::of(&daemon);
    assert_eq!((good.get("wschat_config_last_reload_successful"), reloads(&good, "ok")), (1.0, 1.0));
    assert!(good.get(time) > before.get(time));

    assert_eq!(good.get("wschat_events_watchers"), 0.0);
    let watcher = daemon.caller().watch(&["message"]);
    assert_eq!(Numbers::of(&daemon).get("wschat_events_watchers"), 1.0);
    drop(watcher);
    numbers(&daemon, "the watcher has gone", |numbers| numbers.get("wschat_events_watchers") == 0.0);
}

/// A number in a file of the kernel's about the daemon: the first one of the line that begins so.
#[track_caller]
fn kernels(daemon: &Daemon, file: &str, line: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", daemon.pid())).expect("it runs");
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    let found = found.unwrap_or_else(|| panic!("no {line} in {text}"));
    found.split_whitespace().next().expect("a value").parse().expect("a number")
}

#[test]
fn what_is_said_of_the_process_is_what_the_kernel_says() {
    // The daemon takes all that it may have, so one that has less of both is no test of which is told.
    let daemon = Setup::new(crate::support::daemon::PLAIN).most_files(700).start();
    let _held: Vec<Stream> = (0..20).map(|_| Stream::tcp(daemon.address())).collect();
    let kib = |line: &str| kernels(&daemon, "status", line) * 1024.0;
    until("both say the same of memory", || {
        let (all, found, again) = (kib("VmSize:"), Numbers::of(&daemon), kib("VmSize:"));
        (all == again && found.get("process_virtual_memory_bytes") == all).then_some(())
    });
    // The kernel adds up what is resident now and then only.
    let (resident, told) = (kib("VmRSS:"), Numbers::of(&daemon).get("process_resident_memory_bytes"));
    assert!(told > resident / 2.0 && told < resident * 2.0, "{told} of {resident}");
    let files = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count() as f64;
    until("both say the same of files, but for who asks", || {
        let (open, told) = (files(), Numbers::of(&daemon).get("process_open_fds"));
        (told == open + 1.0 && open > 20.0).then_some(())
    });
    let most = kernels(&daemon, "limits", "Max open files");
    assert_eq!(Numbers::of(&daemon).get("process_max_fds"), most);
    // In hundredths of a second, of user and system, behind the name in parentheses (proc_pid_stat(5)).
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("it runs");
        let fields: Vec<f64> =
            stat.rsplit(") ").next().expect("a name").split(' ').skip(11).take(2).map(|n| n.parse().unwrap()).collect();
        fields.iter().sum::<f64>() / 100.0
    };
    let (before, found, after) = (cpu(), Numbers::of(&daemon), cpu());
    let told = found.get("process_cpu_seconds_total");
    assert!(told >= before - 0.02 && told <= after + 0.02, "{told}, and the kernel says {before} to {after}");
    // A part of it, for each thread its own.
    let threads = found.get("wschat_hub_busy_seconds_total") + found.get("wschat_worker_busy_seconds_total");
    assert!(threads <= told, "{threads} of {told}");
}

#[test]
fn a_latency_begins_when_the_message_is_heard_and_ends_with_its_answer() {
    let daemon = Daemon::plain("");
    let sum = |numbers: &Numbers, name: &str| numbers.samples(name)[0]["sum"].as_f64().expect("a histogram");
    let (mut ann, mut ben) = (daemon.chat("ann"), daemon.chat("ben"));
    ann.say("warm");
    ben.hears("warm");
    // Long enough after the start that a time since then could not be taken for a latency.
    until("it is a second old", || {
        let up = numbers_age(&daemon);
        (up > 1.0).then_some(())
    });
    let before = Numbers::of(&daemon);
    // Another program keeps the database for a while: for no longer than the daemon waits for it.
    let foreign = rusqlite::Connection::open(daemon.state_folder().join("wschat.db")).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sent = std::time::Instant::now();
    ann.send("message", json!({"room": "lobby", "text": "held"}));
    let received = before.get("wschat_received_messages_total") + 1.0;
    numbers(&daemon, "it is heard", |numbers| numbers.get("wschat_received_messages_total") == received);
    let heard = std::time::Instant::now();
    assert_eq!(Numbers::of(&daemon).get("wschat_ack_latency_seconds"), before.get("wschat_ack_latency_seconds"));
    let held = heard.elapsed();
    foreign.execute_batch("COMMIT").unwrap();
    ann.frame("ack");
    ben.hears("held");
    let events = before.get("wschat_fanout_latency_seconds") + 1.0;
    let after = numbers(&daemon, "both are counted", |numbers| {
        numbers.get("wschat_fanout_latency_seconds") >= events
            && numbers.get("wschat_ack_latency_seconds") == before.get("wschat_ack_latency_seconds") + 1.0
    });
    let most = sent.elapsed().as_secs_f64();
    // It waited while the database was held, and no longer than it was on its way.
    let acked = sum(&after, "wschat_ack_latency_seconds") - sum(&before, "wschat_ack_latency_seconds");
    assert!(acked >= held.as_secs_f64() && acked <= most, "{acked}: {held:?} to {most}");
    // The wait is over when it is decided that it goes to all; what a member's turn costs is not nothing.
    let given = sum(&after, "wschat_fanout_latency_seconds") - sum(&before, "wschat_fanout_latency_seconds");
    let count = after.get("wschat_fanout_latency_seconds") - before.get("wschat_fanout_latency_seconds");
    assert!(given > count * 1e-8 && given <= count * (most - held.as_secs_f64()), "{given} of {count}: {most}");
}

/// Seconds since the daemon's start.
fn numbers_age(daemon: &Daemon) -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_secs_f64() - Numbers::of(daemon).get("wschat_start_time_seconds")
}
