//! Floods: of frames, of pings, of joins, of what is no hello.

use std::thread;

use serde_json::json;

use crate::bound::{Bound, KIB, MIB, Memory};
use crate::bystanders::Bystanders;
use crate::support::{Daemon, until};
use crate::{Attacker, PING, TEXT, closed_with, frame};

/// Little comes back while an attack lasts, so that it meets its end also where all is slow.
const LIMITS: &str = "[limits]\nrate = \"25/s\"\nburst = 40\nrooms_per_client = 20\nframe = \"16KiB\"\ntext = \"4KiB\"\n\
                      [log]\nlevel = \"debug\"\n";
const FLOODERS: usize = 50;
/// More than the burst, five bursts of refusals, and what comes back meanwhile.
const FRAMES: usize = 1000;

fn daemon(tls: bool) -> Daemon {
    if tls { Daemon::tls(LIMITS) } else { Daemon::plain(LIMITS) }
}

/// Fifty connections, each in a room of its own, send at once what `say` makes for them, and read when
/// they have sent it. Each is closed as flooding; what those have heard who were told so.
#[track_caller]
fn flood(daemon: &Daemon, say: impl Fn(usize, usize) -> Vec<u8> + Sync) -> Vec<String> {
    let before = closed_with(daemon, 4101);
    let enter = |n: usize| Attacker::enter(daemon.connect(), &format!("arena-{n}"));
    let attackers: Vec<Attacker> = (0..FLOODERS).map(enter).collect();
    let one = |who: usize, mut attacker: Attacker| {
        for part in 0..10 {
            let burst: Vec<u8> = (0..FRAMES / 10).flat_map(|n| say(who, part * FRAMES / 10 + n)).collect();
            attacker.send(&burst);
        }
        let code = attacker.ended_with()?;
        assert_eq!(code, 4101, "{}", attacker.transcript());
        Some(String::from_utf8_lossy(&attacker.heard).into_owned())
    };
    let told: Vec<String> = thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> =
            attackers.into_iter().enumerate().map(|(who, it)| scope.spawn(move || one(who, it))).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("closed as flooding")).collect()
    });
    until("all are closed", || (closed_with(daemon, 4101) == before + FLOODERS).then_some(()));
    assert!(!told.is_empty(), "all were cut off");
    told
}

#[test]
fn frames() {
    for tls in [false, true] {
        let daemon = daemon(tls);
        let bystanders = Bystanders::meet(&daemon, "corner");
        let memory = Memory::before(&daemon);
        let text = "x".repeat(200);
        let told = flood(&daemon, |who, n| {
            let said =
                json!({"type": "message", "payload": {"room": format!("arena-{who}"), "text": text}, "seq": n + 2});
            frame(TEXT, said.to_string().as_bytes())
        });
        for heard in &told {
            assert!(heard.contains("rate_limited") && heard.contains("bye"), "{heard}");
        }
        bystanders.go_on(10);
        // All of their first bursts, and what their rate let through before they were closed.
        let kept = FLOODERS as u64 * FRAMES as u64 * (text.len() as u64 + 300);
        let clients = FLOODERS as u64;
        let (frame, outbox) = (16 * KIB, 256 * KIB);
        memory.stayed_within(
            &daemon,
            &Bound { busy: true, clients, slow: clients, frame, outbox, kept, ..Bound::default() },
        );
        bystanders.part();
    }
}

#[test]
fn pings_and_pongs() {
    for tls in [false, true] {
        let daemon = daemon(tls);
        let bystanders = Bystanders::meet(&daemon, "corner");
        let memory = Memory::before(&daemon);
        for opcode in [PING, PING + 1] {
            flood(&daemon, |_, _| frame(opcode, &[b'x'; 125]));
        }
        // The dialect's own pong, which takes nothing from the rate of messages.
        let pong = frame(TEXT, br#"{"type":"pong","payload":{},"seq":0}"#);
        flood(&daemon, |_, _| pong.clone());
        bystanders.go_on(10);
        let clients = FLOODERS as u64;
        let bound =
            Bound { busy: true, clients, slow: clients, frame: 16 * KIB, outbox: 256 * KIB, ..Bound::default() };
        memory.stayed_within(&daemon, &bound);
        bystanders.part();
    }
}

/// What cannot be understood costs as much as what can.
#[test]
fn nonsense() {
    let daemon = daemon(false);
    let bystanders = Bystanders::meet(&daemon, "corner");
    for nonsense in [&b"{"[..], b"[[[[[[[[", br#"{"type":"no such type"}"#, br#"{"type":"hello","payload":{"v":1}}"#] {
        flood(&daemon, |_, _| frame(TEXT, nonsense));
    }
    bystanders.part();
}

/// Joins of ever new rooms: refused by their number, then by their rate; nothing of the rooms stays.
#[test]
fn joins() {
    let daemon = daemon(false);
    let bystanders = Bystanders::meet(&daemon, "corner");
    let told = flood(&daemon, |who, n| {
        let said = json!({"type": "join", "payload": {"room": format!("room-{who}-{n}")}, "seq": n + 2});
        frame(TEXT, said.to_string().as_bytes())
    });
    for heard in &told {
        assert!(heard.contains("forbidden") && heard.contains("rate_limited"), "{heard}");
    }
    only_the_bystanders_room_is_left(&daemon);
    bystanders.part();
}

/// Tens of thousands of rooms, one after the other, by those whose rate allows it: each is forgotten
/// with its last member, since nothing was said in it.
#[test]
fn rooms_without_a_word() {
    let daemon = Daemon::plain("[limits]\nrate = \"1000000/s\"\nburst = 1000000\n");
    let bystanders = Bystanders::meet(&daemon, "corner");
    let memory = Memory::before(&daemon);
    let mut attackers: Vec<Attacker> = (0..10).map(|_| Attacker::enter(daemon.connect(), "arena")).collect();
    let (mut rooms, rounds) = (0, 200);
    for round in 1..=rounds {
        for attacker in &mut attackers {
            let mut said = Vec::new();
            for _ in 0..20 {
                rooms += 1;
                let room = format!("{}-{rooms}", "long-name".repeat(5));
                for kind in ["join", "leave"] {
                    let frame_of = json!({"type": kind, "payload": {"room": room}, "seq": 2});
                    said.extend(frame(TEXT, frame_of.to_string().as_bytes()));
                }
            }
            let ping = json!({"type": "who", "payload": {"room": "arena"}, "seq": 1_000_000 + round});
            said.extend(frame(TEXT, ping.to_string().as_bytes()));
            attacker.send(&said);
        }
        for attacker in &mut attackers {
            attacker.until_heard(&format!("\"re\":{}", 1_000_000 + round));
            attacker.heard.clear();
        }
    }
    bystanders.go_on(10);
    assert_eq!(rooms, 10 * 20 * rounds);
    memory.stayed_within(
        &daemon,
        &Bound { busy: true, clients: 10, slow: 10, outbox: 256 * KIB, kept: MIB, ..Bound::default() },
    );
    drop(attackers);
    only_the_bystanders_room_is_left(&daemon);
    bystanders.part();
}

#[track_caller]
fn only_the_bystanders_room_is_left(daemon: &Daemon) {
    until("all rooms but two are gone", || {
        let rooms = daemon.json(&["rooms"]);
        let names: Vec<&str> = rooms["rooms"].as_array()?.iter().filter_map(|room| room["room"].as_str()).collect();
        (names.iter().all(|name| ["corner", "lobby"].contains(name))).then_some(())
    });
}

/// A hello is free of the rate, so it is answered in proportion: once, however many rooms it names.
#[test]
fn hellos_that_name_thousands_of_rooms() {
    let daemon = Daemon::plain("");
    let bystanders = Bystanders::meet(&daemon, "corner");
    let memory = Memory::before(&daemon);
    let names: Vec<String> = (0..4500).map(|n| format!("room-{n}")).collect();
    let resume: serde_json::Map<String, serde_json::Value> =
        names.iter().take(1400).map(|name| (name.clone(), json!({"epoch": "e", "seq": 7}))).collect();
    for payload in [json!({"v": 1, "rooms": names}), json!({"v": 1, "resume": {"rooms": resume}})] {
        let hello = json!({"type": "hello", "payload": payload, "seq": 1}).to_string();
        assert!(hello.len() <= 64 * 1024, "{}", hello.len());
        let mut attackers: Vec<Attacker> =
            (0..20).map(|_| Attacker::open(daemon.connect(), "/chat", "", &frame(TEXT, hello.as_bytes()))).collect();
        for attacker in &mut attackers {
            attacker.until_heard("forbidden");
            assert!(attacker.heard.len() < 2 * hello.len(), "{}", attacker.heard.len());
        }
        bystanders.go_on(10);
    }
    only_the_bystanders_room_is_left(&daemon);
    let bound = Bound { busy: true, clients: 20, slow: 20, frame: 64 * KIB, outbox: 256 * KIB, ..Bound::default() };
    memory.stayed_within(&daemon, &bound);
    bystanders.part();
}
