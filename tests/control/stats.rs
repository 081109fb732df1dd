//! `wschatctl stats`: for people, for programs, for Prometheus.

use serde_json::Value;

use crate::commands::on_terminal;
use crate::fake::{Daemon, Raw, some};

#[test]
fn on_a_terminal_numbers_stand_in_groups_and_fit_the_screen() {
    let daemon = Daemon::start(some());
    let shown = on_terminal(&daemon, "stats", "");
    assert_eq!(shown.status, 0, "{shown:?}");
    let text = shown.stdout.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "").replace('\r', "");
    for heading in ["DAEMON\n", "\n\nMESSAGES\n", "\n\nLATENCY\n", "\n\nPROCESS\n"] {
        assert!(text.contains(heading), "{heading:?} in {text}");
    }
    let line = |name: &str| {
        let found = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        found.unwrap_or_else(|| panic!("no {name} in {text}")).split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((line("clients"), line("messages")), ("3".into(), "42".into()));
    assert_eq!((line("log_size_bytes"), line("ack_latency")), ("4.0K".into(), "none yet".into()));
    assert_eq!(line("start_time"), "2023-11-14T22:13:20Z");
    // A counter with labels shows those that have counted; here none has.
    assert_eq!(line("handshake_failures"), "0");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn piped_it_is_one_series_a_line_and_names_choose() {
    let daemon = Daemon::start(some());
    let all = daemon.ctl(&["stats"]).stdout;
    assert!(all.contains("wschat_log_size_bytes\t4096\n"), "{all}");
    assert!(
        all.contains("wschat_state{state=\"serving\"}\t1\n") && all.contains("wschat_ack_latency_seconds_count\t0\n")
    );
    assert!(all.lines().all(|line| line.split('\t').count() == 2));
    let some = daemon.ctl(&["stats", "log_c", "wschat_users"]).stdout;
    let lines: Vec<&str> = some.lines().collect();
    let expected = [
        "wschat_users\t3",
        "wschat_log_commits_total\t3",
        "wschat_log_commit_duration_seconds_sum\t0",
        "wschat_log_commit_duration_seconds_count\t0",
    ];
    assert_eq!(lines, expected);
    let json = daemon.json(&["stats", "users"]);
    assert_eq!(json["metrics"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&json["metrics"][0]["type"], &json["metrics"][0]["samples"][0]["value"]),
        (&"gauge".into(), &3.0.into())
    );
}

#[test]
fn what_does_not_go_together_is_refused() {
    let daemon = Daemon::start(some());
    for wrong in [&["stats", "--prometheus", "--json"][..], &["stats", "--prometheus", "users"], &["stats", "nonsense"]]
    {
        let ran = daemon.ctl(wrong);
        assert_eq!((ran.status, ran.stdout.as_str()), (64, ""), "{wrong:?}: {ran:?}");
    }
    let text = daemon.ctl(&["stats", "--prometheus"]);
    assert!(text.status == 0 && text.stdout.ends_with("# EOF\n"), "{text:?}");
    let mut raw = Raw::connect(&daemon.control());
    let refused: Value = raw.call("org.wschat.Control.Stats", serde_json::json!({"prometheus": true}));
    assert_eq!(refused["error"], "org.varlink.service.InvalidParameter");
}
