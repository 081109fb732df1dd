//! SIGTERM, and what is said and counted until the process has ended.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::client::Closed;
use crate::support::{Chat, Daemon, until};

#[test]
fn everybody_is_told_and_closed_in_order() {
    let daemon = Daemon::tls("");
    let (ann, bob) = (daemon.chat("ann"), daemon.text());
    until("both are known", || (daemon.clients(&[]).len() == 2).then_some(()));
    daemon.signal(Signal::SIGTERM);
    let (bye, closed) = ann.closed();
    assert_eq!(closed.code, 1001);
    let bye = bye.expect("a bye before the close frame");
    assert_eq!((&bye["payload"]["code"], &bye["payload"]["reconnect"]), (&1001.into(), &true.into()));
    assert_eq!(bye["payload"]["after_ms"], 10_000);
    assert_eq!(bob.closed().1, Closed { code: 1001, reason: closed.reason });
    let setup = daemon.stop_again();
    assert!(setup.log().contains("stopped: 2 connections closed in order, 0 cut"), "{}", setup.log());
}

#[test]
fn who_does_not_answer_is_cut_and_counted() {
    let daemon = Daemon::plain("[shutdown]\ngrace = \"300ms\"\n");
    let polite = daemon.chat("polite");
    let stubborn: Vec<Chat> = (0..3).map(|n| daemon.chat(&format!("stubborn{n}"))).collect();
    daemon.signal(Signal::SIGTERM);
    polite.closed();
    let setup = daemon.stop_again();
    assert!(setup.log().contains("stopped: 1 connection closed in order, 3 cut"), "{}", setup.log());
    drop(stubborn);
}

#[test]
fn a_second_signal_cuts_at_once() {
    let daemon = Daemon::plain("[shutdown]\ngrace = \"10m\"\n");
    let _stubborn = daemon.chat("stubborn");
    daemon.signal(Signal::SIGTERM);
    until("stopping", || (daemon.json(&["status"])["state"] == "stopping").then_some(()));
    let setup = daemon.stop();
    assert!(setup.log().contains("stopped at once by a second signal: 1 connection cut"), "{}", setup.log());
    assert!(!setup.control_socket().exists());
}

#[test]
fn while_it_drains_nobody_comes_in_and_operators_may_look() {
    let daemon = Daemon::plain("[shutdown]\ngrace = \"10m\"\n");
    let _stubborn = daemon.chat("stubborn");
    // Accepted before, and asking only now.
    let mut early = daemon.http();
    assert_eq!(early.get("/healthz").status, 200);
    let mut half = daemon.http();
    half.send("GET /chat HTTP/1.1\r\nHost: h\r\n");
    assert_eq!(daemon.http().get("/healthz").status, 200, "the ones before are accepted");
    daemon.signal(Signal::SIGINT);
    until("stopping", || (daemon.json(&["status"])["state"] == "stopping").then_some(()));
    early.ends();
    half.send([&crate::support::client::UPGRADE.join("\r\n"), "\r\n\r\n"].concat());
    let answer = half.answer(false);
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
    assert_eq!(daemon.json(&["status"])["clients"], 1);
    assert_eq!(daemon.clients(&[])[0]["nick"], "stubborn");
    daemon.json(&["tls"]);
    daemon.json(&["ping"]);
    let refused = daemon.ctl(&["reload"]);
    assert_ne!(refused.status, 0);
    assert!(refused.stderr.contains("stopping"), "{refused:?}");
    // A listener that nobody accepts from any more may keep who comes waiting, but serves nobody.
    if let Ok(stream) = std::net::TcpStream::connect(daemon.address()) {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(!matches!(std::io::Read::read(&mut &stream, &mut [0]), Ok(read) if read > 0));
    }
}
