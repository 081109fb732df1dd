//! SIGTERM: everybody is told, everything is closed in order, and nobody is waited for for ever.

use std::net::Shutdown;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::frame::CLOSE;
use crate::support::{Client, Daemon, Fin, Frame, NO_RATE};

/// The bye and the close frame have come, in this order.
#[track_caller]
fn told(client: &mut Client) {
    let bye = client.skip_to("bye");
    assert_eq!((&bye["code"], &bye["reconnect"], &bye["after_ms"]), (&json!(1001), &json!(true), &json!(7000)));
    let close = client.frame().unwrap();
    assert_eq!((close.opcode, &close.payload[..2]), (CLOSE, &1001_u16.to_be_bytes()[..]));
}

/// The daemon has closed its end in order; then the client closes its own.
#[track_caller]
fn ended(mut client: Client) -> Client {
    assert_eq!(client.frame(), Err(Fin::Orderly));
    client.stream.tcp().shutdown(Shutdown::Write).expect("no reset so far");
    client
}

/// To be asked when the daemon is no more: a reset after FIN shows in no read, only here.
#[track_caller]
fn never_reset(client: &Client) {
    assert!(client.stream.tcp().take_error().expect("a state").is_none(), "reset");
}

#[test]
fn two_hundred_clients_are_closed_in_order() {
    let daemon = Daemon::start("[shutdown]\nspread = \"7s\"\ngrace = \"30s\"\n");
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let dial = if n % 2 == 0 { daemon.dial() } else { daemon.dial_tls() };
            let mut client = dial.open("/chat");
            client.hello(json!({}));
            client
        })
        .collect();
    daemon.signal(Signal::SIGTERM);
    let clients: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                told(&mut client);
                // Not yet: the daemon waits for the answer, and reads what comes before it.
                client.text(r#"{"type":"message","payload":{"text":"too late"}}"#);
                client.send(&Frame::close(1001, b""));
                ended(client)
            })
        })
        .collect();
    let clients: Vec<Client> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let log = daemon.ends();
    assert!(log.contains("stopped: 200 connections closed in order, 0 cut"), "{log}");
    clients.iter().for_each(never_reset);
}

#[test]
fn what_a_client_still_sends_and_has_not_read_costs_it_nothing() {
    let daemon = Daemon::start(&format!("{NO_RATE}[shutdown]\ngrace = \"30s\"\nspread = \"7s\"\n"));
    let mut clients: Vec<_> = [daemon.dial(), daemon.dial_tls()].iter().map(|dial| dial.open("/chat")).collect();
    for client in &mut clients {
        client.hello(json!({}));
        for n in 0..100 {
            client.say("message", json!({"text": format!("{n} {}", "x".repeat(2000))}));
        }
    }
    daemon.signal(Signal::SIGTERM);
    daemon.logged("stopping: closing ");
    for client in &mut clients {
        // It has not looked yet, and goes on.
        for n in 0..50 {
            client.say("message", json!({"text": format!("late {n} {}", "x".repeat(2000))}));
        }
        told(client);
        // The answer, and behind it what should not be there: a reset would be the price.
        client.raw(&[Frame::close(1001, b"").masked(), vec![0; 50_000]].concat());
    }
    let clients: Vec<Client> = clients.into_iter().map(ended).collect();
    assert!(daemon.ends().contains("stopped: 2 connections closed in order, 0 cut"));
    clients.iter().for_each(never_reset);
}

#[test]
fn the_text_dialect_is_closed_too_and_newcomers_are_not_let_in() {
    let daemon = Daemon::start("[shutdown]\ngrace = \"30s\"\nspread = \"7s\"\n");
    let mut text = daemon.text();
    let mut json = daemon.guest("Ann");
    let mut silent = daemon.json();
    daemon.signal(Signal::SIGTERM);
    told(&mut json);
    // While one is waited for, operators may look.
    assert_eq!(daemon.ctl_json(&["status"])["state"], "stopping");
    let (end, said) = text.end_and_said();
    assert_eq!(end.code(), 1001);
    assert!(said.iter().all(|line| line.starts_with("System: ")), "{said:?}");
    told(&mut silent);
    for mut client in [json, silent] {
        client.send(&Frame::close(1001, b""));
        assert_eq!(client.frame(), Err(Fin::Orderly));
    }
    drop(text);
    daemon.ends();
}

#[test]
fn who_does_not_answer_is_cut_after_the_grace_and_counted() {
    let daemon = Daemon::start("[shutdown]\ngrace = \"500ms\"\nspread = \"7s\"\n");
    let mut polite = daemon.guest("Polite");
    let mut silent: Vec<_> = (0..3).map(|_| daemon.json()).collect();
    for client in &mut silent {
        client.hello(json!({}));
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(polite.end_and_said().0.code(), 1001);
    drop(polite);
    for client in &mut silent {
        told(client);
        assert!(client.frame().is_err());
    }
    let log = daemon.ends();
    assert!(log.contains("stopped: 1 connection closed in order, 3 cut"), "{log}");
}

#[test]
fn a_second_signal_cuts_at_once() {
    let daemon = Daemon::start("[shutdown]\ngrace = \"10m\"\nspread = \"7s\"\n");
    let mut silent = daemon.guest("Silent");
    daemon.signal(Signal::SIGTERM);
    told(&mut silent);
    daemon.signal(Signal::SIGTERM);
    let log = daemon.ends();
    assert!(log.lines().any(|line| line.contains("second signal: 1 connection cut")), "{log}");
    assert!(silent.frame().is_err());
}

#[test]
fn nobody_there_is_nobody_waited_for() {
    let daemon = Daemon::start("[shutdown]\ngrace = \"10m\"\n");
    let log = daemon.stop();
    assert!(log.contains("stopped: 0 connections closed in order, 0 cut"), "{log}");
}
