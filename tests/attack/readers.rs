//! Those who ask, or stay, and do not read.

use serde_json::json;

use crate::bound::{Bound, KIB, MIB, Memory};
use crate::bystanders::Bystanders;
use crate::support::{Chat, Daemon, Stream, until};
use crate::{Attacker, PROXIED, TEXT, allow_descriptors, closed_with, frame, narrow};

const LIMITS: &str = "[log]\nlevel = \"debug\"\n[limits]\nrate = \"1000/s\"\nburst = 1000\noutbox = \"64KiB\"\n";
const SLOW: usize = 300;

/// Says it, and waits until it is kept.
#[track_caller]
fn say(speaker: &mut Chat, room: &str, text: &str) {
    let seq = speaker.send("message", json!({"room": room, "text": text}));
    while speaker.frame("ack")["payload"]["re"] != seq {}
}

/// Who has filled the room `archive` so that [`ASK`] brings the largest page there is.
fn fill_archive(daemon: &Daemon) -> Chat {
    let mut speaker = Chat::open(daemon.connect(), "/chat", "");
    speaker.hello(json!({"v": 1, "rooms": ["archive"]}));
    // In JSON each of these characters takes six bytes.
    let text = "\u{1}".repeat(4000);
    for _ in 0..40 {
        say(&mut speaker, "archive", &text);
    }
    speaker
}

const ASK: &[u8] = br#"{"type":"history","payload":{"room":"archive","limit":100},"seq":9}"#;

/// Three hundred members of a busy room who do not read: each is closed as too slow, and told so
/// when it reads in the end; who reads misses nothing.
#[test]
fn members_of_a_busy_room() {
    let daemon = Daemon::plain(LIMITS);
    let bystanders = Bystanders::meet(&daemon, "arena");
    let memory = Memory::before(&daemon);
    let slow: Vec<Attacker> = (0..SLOW).map(|_| Attacker::enter(narrow(daemon.address()), "arena")).collect();
    let mut speaker = Chat::open(daemon.connect(), "/chat", "");
    speaker.hello(json!({"v": 1, "rooms": ["arena"]}));
    let (text, mut said) = ("x".repeat(3000), 0u64);
    // Until nobody but the three who read is left.
    while daemon.json(&["status"])["clients"] != 3 {
        for _ in 0..10 {
            say(&mut speaker, "arena", &text);
            said += 1;
        }
        bystanders.go_on(1);
    }
    bystanders.go_on(10);
    let bound = Bound { busy: true, clients: 303, slow: 300, outbox: 64 * KIB, kept: said * 3500, ..Bound::default() };
    memory.stayed_within(&daemon, &bound);
    for mut attacker in slow {
        assert_eq!(attacker.ended_with(), Some(4102), "{}", attacker.transcript());
    }
    bystanders.part();
}

/// Answers are for their asker alone, so nothing of them is shared: each holds an outbox, no more.
#[test]
fn askers_who_do_not_read() {
    let daemon = Daemon::plain(LIMITS);
    let bystanders = Bystanders::meet(&daemon, "corner");
    let memory = Memory::before(&daemon);
    let mut slow: Vec<Attacker> = (0..SLOW).map(|_| Attacker::enter(narrow(daemon.address()), "arena")).collect();
    let who: Vec<u8> = (0..20)
        .flat_map(|n| {
            frame(TEXT, json!({"type": "who", "payload": {"room": "arena"}, "seq": n}).to_string().as_bytes())
        })
        .collect();
    for attacker in &mut slow {
        attacker.send(&who);
    }
    until("all are closed", || (closed_with(&daemon, 4102) == SLOW).then_some(()));
    bystanders.go_on(10);
    let bound = Bound { busy: true, clients: 302, slow: 300, frame: 64 * KIB, outbox: 64 * KIB, ..Bound::default() };
    memory.stayed_within(&daemon, &bound);
    bystanders.part();
}

/// Pages of history are outside the outbox. Those who ask for one each and do not read it hold no more
/// than the bound of all pages, and do not keep another from its page: not one at another address,
/// who has it at once, and not one at their own, for whom somebody has to make room.
#[test]
fn pages_that_nobody_takes() {
    allow_descriptors();
    let daemon = Daemon::start(&format!("{PROXIED}{LIMITS}"));
    let bystanders = Bystanders::meet(&daemon, "corner");
    let _speaker = fill_archive(&daemon);
    let memory = Memory::before(&daemon);
    let ask = frame(TEXT, ASK);
    let slow: Vec<Attacker> = (0..80)
        .map(|_| {
            let mut attacker = Attacker::enter(narrow(daemon.address()), "archive");
            attacker.send(&ask);
            attacker
        })
        .collect();
    let clients = || daemon.json(&["status"])["clients"].as_u64().expect("a number");
    let proxy = Stream::tcp_from([127, 0, 0, 2].into(), daemon.address());
    let hello = br#"{"type":"hello","payload":{"v":1,"rooms":["archive"]},"seq":1}"#;
    let header = "X-Forwarded-For: 198.51.100.7\r\n";
    let mut other = Attacker::open(proxy, "/chat", header, &[frame(TEXT, hello), ask.clone()].concat());
    other.until_heard(r#""type":"history""#);
    assert_eq!(clients(), 84, "nobody had to go for it");
    let mut same = Attacker::enter(daemon.connect(), "archive");
    same.send(&ask);
    same.until_heard(r#""type":"history""#);
    bystanders.go_on(10);
    memory.stayed_within(&daemon, &Bound { busy: true, clients: 85, pages: true, kept: MIB, ..Bound::default() });
    until("somebody had to go", || (clients() < 85).then_some(()));
    drop(slow);
    bystanders.part();
}

/// Each time as many ask for a page and begin to read it as there is room for pages of one address;
/// then they are gone, and those who come after them find the same room.
#[test]
fn pages_of_those_who_have_gone() {
    let daemon = Daemon::plain(LIMITS);
    let _speaker = fill_archive(&daemon);
    for _ in 0..3 {
        let readers: Vec<Attacker> = (0..50)
            .map(|_| {
                let mut attacker = Attacker::enter(narrow(daemon.address()), "archive");
                attacker.send(&frame(TEXT, ASK));
                attacker.until_heard(r#""type":"history""#);
                attacker
            })
            .collect();
        drop(readers);
        until("they are gone", || (daemon.json(&["status"])["clients"] == 1).then_some(()));
    }
    assert_eq!(closed_with(&daemon, 4102), 0, "nobody had to make room");
}
