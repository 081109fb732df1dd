//! Drains and kicks at a pace, as they are said on the wire and shown by `wschatctl`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::commands::{ends, on_terminal};
use crate::fake::{Daemon, Raw, STUBBORN, World, client, some, until};

const UNTIL: &str = "2023-11-14T22:14:20.000Z";

fn drain(raw: &mut Raw, parameters: Value, more: bool) -> Value {
    raw.send(json!({"method": "org.wschat.Control.Drain", "parameters": parameters, "more": more}));
    raw.reply().unwrap()
}

/// So many of the fake's clients are left.
fn left(daemon: &Daemon, left: u64) {
    daemon.world.lock().unwrap().drain.as_ref().unwrap().send_modify(|view| view.left = left);
}

#[test]
fn one_answer_at_once_or_many_until_nobody_is_left() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    let begun = json!({"matched": 3, "done": 0, "left": 3, "until": UNTIL, "state": "draining"});
    assert_eq!(drain(&mut raw, json!({}), false), json!({"parameters": begun}));
    let answer = drain(&mut raw, json!({"over": 0.5}), true);
    assert_eq!(answer, json!({"parameters": begun, "continues": true}));
    // It says that it lives while nothing happens, and what has happened.
    assert_eq!(raw.reply().unwrap(), answer);
    left(&daemon, 1);
    until("it is told", || raw.reply().unwrap()["parameters"]["done"] == 2);
    left(&daemon, 0);
    let last = json!({"matched": 3, "done": 3, "left": 0, "until": UNTIL, "state": "draining"});
    until("the last one", || raw.reply().unwrap() == json!({"parameters": last}));
    let world = daemon.world.lock().unwrap();
    assert_eq!(world.drains, [(Duration::from_secs(60), None), (Duration::from_millis(500), None)]);
    let audit = world.log.iter().filter(|line| line.contains(" drains the daemon: 3 of 3 connections")).count();
    assert_eq!(audit, 2, "{:?}", world.log);
}

#[test]
fn taken_back_while_somebody_waits() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    let mut other = daemon.raw();
    let none = other.call("org.wschat.Control.Resume", json!({}));
    assert_eq!(none["error"], "org.wschat.Control.NotDraining");
    drain(&mut raw, json!({}), true);
    left(&daemon, 2);
    let resumed = other.call("org.wschat.Control.Resume", json!({}));
    assert_eq!(resumed["parameters"], json!({"matched": 3, "done": 1, "left": 2}));
    let mut last = Value::Null;
    until("the last one", || {
        last = raw.reply().unwrap();
        last.get("continues").is_none()
    });
    assert_eq!((&last["parameters"]["state"], &last["parameters"]["left"]), (&json!("serving"), &json!(2)));
    // One who hangs up changes nothing.
    drain(&mut raw, json!({}), true);
    drop(raw);
    assert_eq!(other.call("org.wschat.Control.Status", json!({}))["parameters"]["state"], "draining");
}

#[test]
fn the_notice_comes_first_and_what_fits_of_it_goes_with_the_closes() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    let long = "大".repeat(50);
    drain(&mut raw, json!({"notice": long}), false);
    drain(&mut raw, json!({"notice": " a\nb "}), false);
    {
        let world = daemon.world.lock().unwrap();
        let reasons: Vec<_> = world.drains.iter().map(|(_, reason)| reason.as_deref().unwrap()).collect();
        assert_eq!(reasons, ["大".repeat(41).as_str(), "a b"]);
        assert_eq!(world.notices.len(), 2);
    }
    for bad in
        [json!({"over": -1}), json!({"over": 86401}), json!({"notice": " "}), json!({"notice": "x".repeat(4097)})]
    {
        assert_eq!(drain(&mut raw, bad.clone(), false)["error"], "org.wschat.Control.BadValue", "{bad}");
    }
    assert_eq!(daemon.world.lock().unwrap().drains.len(), 2);
}

#[test]
fn the_commands() {
    let daemon = Daemon::start(some());
    ends(&daemon.ctl(&["resume"]), 65, "not draining");
    let ran = daemon.ctl(&["drain", "--over", "10m"]);
    let words = format!("draining: 3 connections asked to go until {UNTIL}; `wschatctl resume` takes it back\n");
    assert_eq!((ran.status, ran.stdout, ran.stderr.as_str()), (0, words, ""));
    let state = json!({"matched": 3, "done": 0, "left": 3, "until": UNTIL});
    assert_eq!(daemon.json(&["status"])["drain"], state);
    let status = daemon.ctl(&["status"]).stdout;
    let lines = format!("drain_matched\t3\ndrain_left\t3\ndrain_until\t{UNTIL}\n");
    assert!(status.contains(&lines), "{status}");
    let seen = on_terminal(&daemon, "status", "").stdout;
    assert!(seen.contains(&format!("draining: 3 of 3 left, until {UNTIL}")), "{seen}");
    let whole = json!({"matched": 3, "done": 0, "left": 3, "until": UNTIL, "state": "draining", "failed": []});
    assert_eq!(daemon.json(&["drain"]), whole);
    assert_eq!(daemon.json(&["resume"]), json!({"matched": 3, "done": 0, "left": 3, "failed": []}));
    daemon.ctl(&["drain"]);
    assert_eq!(daemon.ctl(&["resume"]).stdout, "serving again; 0 of 3 connections had gone\n");
    daemon.world.lock().unwrap().clients.clear();
    let seen = on_terminal(&daemon, "drain --wait", "").stdout;
    assert!(seen.contains("Ctrl-C ends the waiting and not the drain"), "{seen}");
    assert!(seen.contains("0 of 0 connections left") && seen.contains("0 of 0 connections have gone"), "{seen}");
}

#[test]
fn a_wait_that_does_not_end_as_it_should() {
    let mut daemon = Daemon::start(some());
    let wait = |daemon: &Daemon| {
        let mut command = daemon.command(&["drain", "--wait"]);
        std::thread::spawn(move || {
            let output = command.output().unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
        })
    };
    let waiting = wait(&daemon);
    until("it is under way", || daemon.world.lock().unwrap().drain.is_some());
    left(&daemon, 2);
    daemon.json(&["resume"]);
    let (status, words) = waiting.join().unwrap();
    assert_eq!((status, words.as_str()), (1, "wschatctl: the drain was taken back when 1 of 3 had gone\n"));

    let waiting = wait(&daemon);
    until("it is under way", || daemon.world.lock().unwrap().drain.is_some());
    daemon.world.lock().unwrap().state.advance(wschat::state::Phase::Stopping);
    let (status, words) = waiting.join().unwrap();
    assert!(status == 69 && words.contains("the daemon is stopping"), "{status}: {words}");
    daemon.stop();
}

#[test]
fn a_kick_at_a_pace_tells_how_far_it_is() {
    let clients = (1..=STUBBORN).map(|id| client(id, &format!("u{id}"), &format!("n{id}"), "192.0.2.1", &[]));
    let clients = clients.map(|view| (view.peer.id, view)).collect();
    let daemon = Daemon::start(World { clients, ..World::default() });
    let mut raw = daemon.raw();
    let kick = |rate: f64, more: bool| {
        let parameters = json!({"all": true, "rate": rate});
        json!({"method": "org.wschat.Control.Kick", "parameters": parameters, "more": more})
    };
    raw.send(kick(10.0, false));
    assert_eq!(raw.reply().unwrap()["error"], "org.varlink.service.ExpectedMore");
    for bad in [0.0, -1.0, 100_001.0] {
        raw.send(kick(bad, true));
        assert_eq!(raw.reply().unwrap()["error"], "org.wschat.Control.BadValue", "{bad}");
    }
    assert_eq!(daemon.world.lock().unwrap().clients.len(), 8, "nobody was kicked for that");
    raw.send(kick(20.0, true));
    let mut done = Vec::new();
    let last = loop {
        let reply = raw.reply().unwrap();
        assert_eq!(reply["parameters"]["matched"], 8);
        done.push(reply["parameters"]["done"].as_u64().unwrap());
        if reply.get("continues").is_none() {
            break reply;
        }
        // The one that will not close is waited for, and told of all the while.
        if done.iter().filter(|done| **done == 7).count() == 2 {
            daemon.raw().call("org.wschat.Control.Ping", json!({}));
        }
    };
    assert_eq!(last["parameters"]["done"], 8);
    assert!(done.is_sorted() && done[0] < 8, "{done:?}");
    // With wschatctl.
    daemon.world.lock().unwrap().clients = some().clients;
    let seen = on_terminal(&daemon, "kick --all --yes --rate 5/s", "").stdout;
    assert!(seen.contains("Ctrl-C leaves the others alone"), "{seen}");
    assert!(seen.contains("of 3 connections closed") && seen.contains("closed 3 of 3 connections"), "{seen}");
    ends(&daemon.ctl(&["kick", "--user", "nobody", "--rate", "5"]), 65, "nobody matched");
    // Asked about first, and only counted.
    daemon.world.lock().unwrap().clients = some().clients;
    assert_eq!(daemon.ctl(&["kick", "--all", "--rate", "5", "--dry-run"]).stdout, "would close 3 connections\n");
    let seen = on_terminal(&daemon, "kick --all --rate 50", "y\n").stdout;
    assert!(seen.contains("Close 3 connections?") && seen.contains("closed 3 of 3 connections"), "{seen}");
}
