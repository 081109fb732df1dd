//! An operator empties the daemon, takes that back, or kicks at a pace of his own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::numbers::Numbers;
use crate::support::client::{Closed, UPGRADE};
use crate::support::daemon::Ran;
use crate::support::manager::Manager;
use crate::support::{Chat, Daemon, Http, Setup, until};

const ECHO: &str = "[paths]\necho = \"/echo\"\n";

type Leaving = JoinHandle<(Option<Value>, Closed)>;

/// So many people, who go when they are told to.
fn crowd(daemon: &Daemon, count: usize) -> Vec<Leaving> {
    (0..count).map(|n| daemon.chat(&format!("n{n}")).closing()).collect()
}

fn drain_of(daemon: &Daemon) -> Value {
    daemon.json(&["status"])["drain"].clone()
}

/// Waits until so many have gone; how far it is then.
#[track_caller]
fn gone(daemon: &Daemon, many: u64) -> Value {
    until("some have gone", || Some(drain_of(daemon)).filter(|drain| drain["done"].as_u64() >= Some(many)))
}

#[track_caller]
fn is_refused(daemon: &Daemon) {
    let answer = daemon.http().ask("GET /chat", &UPGRADE);
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{answer:?}");
}

#[track_caller]
fn all_were_asked(crowd: Vec<Leaving>, reason: &str) -> Vec<u64> {
    let mut told = Vec::new();
    for one in crowd {
        let (bye, closed) = one.join().unwrap();
        assert_eq!(closed, Closed { code: 1012, reason: reason.into() });
        let bye = bye.expect("a bye")["payload"].take();
        assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(1012), &json!(true)));
        told.push(bye["after_ms"].as_u64().expect("a number"));
    }
    told
}

#[test]
fn everybody_is_asked_away_and_nobody_comes_in_until_a_resume() {
    let daemon = Daemon::plain(&format!("{ECHO}[shutdown]\nspread = \"7s\"\n"));
    let mut early = daemon.http();
    assert_eq!(early.get("/healthz").status, 200);
    let mut events = daemon.caller().watch(&["disconnect", "drain", "resume"]);
    let crowd = crowd(&daemon, 200);
    let others: Vec<Leaving> = (0..4)
        .map(|n| if n % 2 == 0 { daemon.text() } else { Chat::open(daemon.connect(), "/echo", "") })
        .map(Chat::closing)
        .collect();
    let mut reader = daemon.chat("reader");
    until("all are known", || (daemon.clients(&[]).len() == 203).then_some(()));

    let waiting = daemon.ctl_command(&["drain", "--over", "3s", "--notice", "Back\nat 4.", "--wait", "--json"]);
    let waiting = std::thread::spawn(move || {
        let mut waiting = waiting;
        Ran::of(&mut waiting)
    });
    let notice = reader.frame("notice");
    assert_eq!(notice["payload"]["text"], "Back\nat 4.");
    let reader = reader.closing();
    let drain = until("the drain has begun", || Some(drain_of(&daemon)).filter(|drain| !drain.is_null()));
    assert_eq!(drain["matched"], 205, "echoes too");
    is_refused(&daemon);
    let answer = early.get("/healthz");
    assert_eq!((answer.status, answer.text().as_str()), (503, "draining\n"));
    assert_eq!(early.get("/").status, 200, "the page is there");
    // Those who have gone are more and more, and never all at once.
    let mut seen = BTreeSet::new();
    until("all have gone", || {
        let drain = drain_of(&daemon);
        let (done, left) = (drain["done"].as_u64().unwrap(), drain["left"].as_u64().unwrap());
        assert_eq!(done + left, 205);
        assert!(seen.last().is_none_or(|last| *last <= done), "{done} after {seen:?}");
        seen.insert(done);
        (left == 0).then_some(())
    });
    assert!(seen.len() > 3, "a steady stream: {seen:?}");
    let told = all_were_asked(crowd, "Back at 4.");
    assert!(told.iter().all(|after| *after <= 7000), "{told:?}");
    assert!(told.iter().collect::<BTreeSet<_>>().len() > 150, "each has a time of its own: {told:?}");
    all_were_asked(vec![reader], "Back at 4.");
    for other in others {
        assert_eq!(other.join().unwrap().1, Closed { code: 1012, reason: "Back at 4.".into() });
    }
    let ran = waiting.join().unwrap();
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let until = &report["until"];
    let whole = json!({"matched": 205, "done": 205, "left": 0, "until": until, "state": "draining", "failed": []});
    assert_eq!(report, whole);

    // In no order.
    assert_eq!(events.next()["type"], "drain");
    let order: Vec<u64> = (0..20).map(|_| events.of("disconnect")["client"].as_u64().unwrap()).collect();
    assert!(!order.is_sorted(), "{order:?}");
    assert!(order.iter().max() > Some(&100), "not the oldest first: {order:?}");

    // It stays up, empty.
    let status = daemon.ctl(&["status"]);
    assert!(status.stdout.contains("state\tdraining\n"), "{status:?}");
    assert!(status.stdout.contains("drain_matched\t205\ndrain_left\t0\n"), "{status:?}");
    is_refused(&daemon);
    assert_eq!(daemon.json(&["resume"]), json!({"matched": 205, "done": 205, "left": 0, "failed": []}));
    assert_eq!(events.of("resume")["detail"], "205 of 205 connections had gone");
    assert_eq!(early.get("/healthz").status, 200);
    daemon.chat("new").say("hello");
    assert_eq!(daemon.json(&["status"])["drain"], Value::Null);
    daemon.ctl(&["resume"]).ends(65, "not draining");
    let log = daemon.log();
    for part in [
        " drains the daemon: 205 of 205 connections are asked to go, over 3s, with the notice \"Back\\nat 4.\"",
        "drained: nobody is left",
        " took the drain back: 205 of 205 connections had gone",
    ] {
        assert!(log.contains(part), "{part} in {log}");
    }
}

#[test]
fn a_resume_leaves_those_who_are_left_alone() {
    let daemon = Daemon::plain("[timeouts]\npresence = \"0s\"\n");
    let crowd = crowd(&daemon, 60);
    let mut stays = daemon.http();
    let begun = daemon.json(&["drain", "--over", "60s"]);
    assert_eq!((&begun["matched"], &begun["left"], &begun["state"]), (&json!(60), &json!(60), &json!("draining")));
    gone(&daemon, 2);
    let mut waiting = daemon.caller();
    waiting.call("Drain", json!({"over": 120.0}), true).unwrap();
    let first = waiting.reply().unwrap();
    assert_eq!((&first["continues"], &first["parameters"]["matched"]), (&json!(true), &json!(60)), "one drain");
    let resumed = daemon.json(&["resume"]);
    // Those who wait for it learn that it is no more.
    let last = until("the last answer", || Some(waiting.reply().unwrap()).filter(|a| a.get("continues").is_none()));
    assert_eq!(last["parameters"]["state"], "serving");
    // Whoever had been asked by then goes; nobody else is asked, however long we look.
    let done = resumed["done"].as_u64().unwrap();
    assert!((2..60).contains(&done), "{resumed}");
    assert_eq!(stays.get("/healthz").status, 200);
    let mut new = daemon.chat("new");
    for n in 0..20 {
        new.say(&format!("line {n}"));
    }
    let asked = crowd.iter().filter(|one| one.is_finished()).count() as u64;
    assert!(asked <= done + 1, "{asked} of {done}");
    assert_eq!(daemon.clients(&[]).len() as u64, 61 - asked);
    assert_eq!(daemon.json(&["kick", "--all", "--yes"])["done"], json!(61 - asked));
    for one in crowd {
        one.join().unwrap();
    }
}

#[test]
fn a_second_drain_gives_what_is_left_another_time() {
    let daemon = Daemon::plain("");
    let crowd = crowd(&daemon, 100);
    let mut slow = daemon.caller();
    slow.call("Drain", json!({"over": 86400.0}), true).unwrap();
    assert_eq!(slow.reply().unwrap()["parameters"]["left"], 100);
    let ran = daemon.ctl(&["drain", "--over", "0s", "--wait"]);
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (0, "100 of 100 connections have gone\n", ""));
    all_were_asked(crowd, "the server is being drained");
    // Who waited for the first one waited for this, too.
    let last = until("the last answer", || Some(slow.reply().unwrap()).filter(|a| a.get("continues").is_none()));
    assert_eq!((&last["parameters"]["left"], &last["parameters"]["state"]), (&json!(0), &json!("draining")));
    // A drain of nobody is one as well.
    assert_eq!(daemon.json(&["drain", "--wait"])["left"], 0);
    daemon.json(&["resume"]);
    assert_eq!(daemon.json(&["drain", "--wait"])["matched"], 0);
}

#[test]
fn it_does_not_need_the_one_who_ordered_it() {
    let daemon = Daemon::tls("");
    let crowd = crowd(&daemon, 50);
    let mut ctl = daemon.ctl_command(&["drain", "--over", "2s", "--wait"]).stdout(Stdio::null()).spawn().unwrap();
    gone(&daemon, 1);
    ctl.kill().unwrap();
    ctl.wait().unwrap();
    gone(&daemon, 50);
    all_were_asked(crowd, "the server is being drained");
}

#[test]
fn a_stop_during_a_drain_stops_as_always() {
    let daemon = Daemon::plain("");
    let crowd = crowd(&daemon, 20);
    let waiting = daemon.ctl_command(&["drain", "--over", "24h", "--wait"]);
    let waiting = std::thread::spawn(move || {
        let mut waiting = waiting;
        Ran::of(&mut waiting)
    });
    until("the drain has begun", || (!drain_of(&daemon).is_null()).then_some(()));
    let setup = daemon.stop();
    for one in crowd {
        assert_eq!(one.join().unwrap().1.code, 1001);
    }
    // It was not cut off, but told.
    let ran = waiting.join().unwrap();
    assert_eq!(ran.status, 69, "{ran:?}");
    assert!(ran.stderr.contains("the daemon is stopping"), "{ran:?}");
    assert!(setup.log().contains("stopped: 20 connections closed in order, 0 cut"), "{}", setup.log());
}

#[test]
fn a_reload_does_not_end_it_and_systemd_is_told_of_it() {
    let manager = Manager::new();
    let config = format!("{}[metrics]\nlisten = \"127.0.0.1:0\"\n", crate::support::daemon::PLAIN);
    let mut daemon = Setup::new(&config).env("NOTIFY_SOCKET", manager.path()).launch();
    daemon.serves();
    let status = |wanted: &str| {
        until(wanted, || Some(manager.next().variables.get("STATUS")?.clone()).filter(|text| text.contains(wanted)))
    };
    let crowd = crowd(&daemon, 10);
    daemon.json(&["drain", "--over", "24h"]);
    status("draining: 10 of 10 left, until ");
    daemon.json(&["reload"]);
    assert_eq!(drain_of(&daemon)["left"], 10);
    is_refused(&daemon);
    assert!(status("draining").contains("10 of 10 left"), "said again by the reload");
    daemon.json(&["drain", "--over", "0s", "--wait"]);
    status("drained: all 10 have gone");
    daemon.json(&["resume"]);
    status("serving 0 clients");
    all_were_asked(crowd, "the server is being drained");
}

#[test]
fn whoever_is_on_the_way_in_when_it_begins_is_asked_out() {
    let daemon = Daemon::plain(ECHO);
    let coming: Vec<JoinHandle<u32>> = (0..4)
        .map(|n| {
            let address = daemon.address();
            let path = if n % 2 == 0 { "GET /wss" } else { "GET /echo" };
            std::thread::spawn(move || {
                let mut inside = 0;
                loop {
                    let mut http = Http::new(crate::support::Stream::tcp(address));
                    match http.ask(path, &UPGRADE).status {
                        101 => drop(Chat::over(http).closing()),
                        503 => return inside,
                        status => panic!("{status}"),
                    }
                    inside += 1;
                }
            })
        })
        .collect();
    until("they come", || (daemon.clients(&[]).len() >= 20).then_some(()));
    let drained = daemon.json(&["drain", "--over", "0s", "--wait"]);
    assert_eq!((&drained["left"], &drained["done"]), (&json!(0), &drained["matched"]));
    let inside: u32 = coming.into_iter().map(|one| one.join().unwrap()).sum();
    // One that was turned away at the last moment may have been counted.
    let matched = drained["matched"].as_u64().unwrap();
    assert!((inside.into()..=u64::from(inside) + 4).contains(&matched), "{matched} of {inside} have gone");
    assert_eq!(daemon.json(&["status"])["clients"], 0);
}

/// Those who were let in before it began, and whose WebSocket opens only after everybody was asked: they
/// have not read what they asked for before, so the answer that opens it waits behind that.
#[test]
fn whoever_is_let_in_and_not_there_yet_is_asked_out_on_arrival() {
    let daemon = Daemon::plain("[[listen]]\naddress = \"FOLDER/web\"\n[shutdown]\ngrace = \"100ms\"\n");
    let path = daemon.folder().join("web");
    let page = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let upgrade = format!("GET /chat HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", UPGRADE.join("\r\n"));
    // How much the kernel takes for one who does not read is its own affair: each has asked for more.
    let coming: Vec<(usize, Http)> = (2..90)
        .step_by(2)
        .map(|pages| {
            let mut http = Http::new(crate::support::Stream::unix(&path));
            http.send(page.repeat(pages) + &upgrade);
            (pages, http)
        })
        .collect();
    let let_in = |before: u64| {
        let let_in = Numbers::of(&daemon).with("wschat_http_responses_total", &[("code", "101")]) as u64;
        let there = daemon.clients(&[]).len() as u64;
        (let_in > there && there > 0 && let_in == before).then_some(let_in).ok_or(let_in)
    };
    let mut before = 0;
    let let_in = until("some are let in and not there", || let_in(before).map_err(|now| before = now).ok());
    let drained = daemon.json(&["drain", "--over", "0s"]);
    assert_eq!(drained["matched"], let_in);
    until("those who are there have been asked", || daemon.clients(&[]).is_empty().then_some(()));
    let mut opened = 0;
    for (pages, mut http) in coming {
        for _ in 0..pages {
            assert_eq!(http.answer(false).status, 200);
        }
        match http.answer(false).status {
            101 => {
                opened += 1;
                assert_eq!(Chat::over(http).last_words().code, 1012);
            }
            status => assert_eq!(status, 503),
        }
    }
    assert_eq!(opened, let_in);
    until("nobody is left", || (drain_of(&daemon)["left"] == 0).then_some(()));
}

#[test]
fn a_kick_at_a_pace_ends_with_its_caller() {
    let daemon = Daemon::plain("");
    let fast = crowd(&daemon, 30);
    assert_eq!(
        daemon.json(&["kick", "--all", "--yes", "--rate", "500"]),
        json!({"matched": 30, "done": 30, "failed": []})
    );
    for one in fast {
        assert_eq!(one.join().unwrap().1.code, 4003);
    }
    let crowd = crowd(&daemon, 40);
    let mut ctl = daemon
        .ctl_command(&["kick", "--all", "--yes", "--rate", "4/s", "--reason", "slowly"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("some are closed", || crowd.iter().filter(|one| one.is_finished()).nth(2).map(drop));
    kill(Pid::from_raw(ctl.id().cast_signed()), Signal::SIGINT).unwrap();
    ctl.wait().unwrap();
    let audit = until("the log says so", || {
        daemon
            .log()
            .lines()
            .find(|line| line.contains("the caller has gone, and the others were left alone"))
            .map(str::to_owned)
    });
    let left = daemon.clients(&[]).len();
    assert!((1..=37).contains(&left), "{left}: {audit}");
    assert!(audit.contains(&format!(" kicked everyone: {} of 40 connections closed", 40 - left)), "{audit}");
    let mut new = daemon.chat("new");
    for n in 0..20 {
        new.say(&format!("line {n}"));
    }
    assert_eq!(daemon.clients(&[]).len(), left + 1, "nobody else");
    daemon.json(&["kick", "--all", "--yes"]);
    for one in crowd {
        one.join().unwrap();
    }
}

#[test]
fn a_kick_of_many_lets_others_be_heard_meanwhile() {
    let daemon = Daemon::plain("[timeouts]\npresence = \"0s\"\n");
    let crowd: Vec<Leaving> = (0..300).map(|_| daemon.text().closing()).collect();
    until("all are known", || (daemon.clients(&[]).len() == 300).then_some(()));
    let mut ctl =
        daemon.ctl_command(&["kick", "--dialect", "text", "--rate", "100"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut ann = daemon.chat("ann");
    until("some are gone, others not", || {
        ann.say("still here");
        let finished = crowd.iter().filter(|one| one.is_finished()).count();
        (finished > 0).then_some(())
    });
    let mut told = String::new();
    BufReader::new(ctl.stdout.take().unwrap()).read_line(&mut told).unwrap();
    assert_eq!(told, "closed 300 of 300 connections\n");
    assert!(ctl.wait().unwrap().success());
    for one in crowd {
        assert_eq!(one.join().unwrap().1.code, 4003);
    }
    ann.say("and now");
}
