//! Coming back: what was missed, at every place around the edge of what is kept, in this life of the
//! daemon and in the next.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::support::daemon::PLAIN;
use crate::support::{Chat, Daemon, Setup, until};
use crate::{FAST, database};

const KEEP: u64 = 7;
const HEAD: u64 = 19;
/// The oldest that is kept then.
const FIRST: u64 = HEAD - KEEP + 1;

fn start(keep: u64) -> Daemon {
    Setup::new(&config(keep)).start()
}

fn config(keep: u64) -> String {
    format!("{PLAIN}{FAST}[history]\nstore = \"sqlite\"\nkeep = {keep}\n")
}

/// Somebody in no room.
fn newcomer(daemon: &Daemon) -> Chat {
    let mut chat = Chat::open(daemon.connect(), "/chat", "");
    chat.hello(json!({"rooms": []}));
    chat
}

/// In the lobby, or back in it from a cursor; with what `joined` says.
fn enter(daemon: &Daemon, hello: Value) -> (Chat, Value) {
    let mut chat = Chat::open(daemon.connect(), "/chat", "");
    chat.hello(hello);
    let joined = chat.frame("joined")["payload"].take();
    (chat, joined)
}

fn resume(epoch: &Value, seq: u64) -> Value {
    json!({"rooms": [], "resume": {"rooms": {"lobby": {"epoch": epoch, "seq": seq}}}})
}

/// A page of the history, and the frames that came before it.
fn page(chat: &mut Chat, ask: Value) -> (Vec<Value>, Value) {
    let re = chat.send("history", ask);
    let mut before = Vec::new();
    loop {
        let mut frame = chat.any(&["message", "history", "error"]);
        match frame["type"].as_str() {
            Some("message") => before.push(frame),
            Some("history") if frame["payload"]["re"] == re => return (before, frame["payload"].take()),
            _ => panic!("{frame}"),
        }
    }
}

fn seqs(frames: &[Value]) -> Vec<u64> {
    frames.iter().map(|frame| frame["seq"].as_u64().expect("a number")).collect()
}

fn messages(page: &Value) -> &Vec<Value> {
    page["messages"].as_array().expect("a list")
}

/// Says `m1` to `mHEAD` in the lobby, and waits until the oldest of them are gone. The epoch, and
/// every message as another client got it.
fn fill(daemon: &Daemon, keep: u64) -> (Value, Vec<Value>) {
    let (mut bob, joined) = enter(daemon, json!({"nick": "bob"}));
    let mut ann = daemon.chat("ann");
    let heard = (1..=HEAD)
        .map(|n| {
            ann.say(&format!("m{n}"));
            bob.hears(&format!("m{n}"))
        })
        .collect();
    begins_with(daemon, HEAD - keep + 1);
    (joined["epoch"].clone(), heard)
}

/// Old messages go in the background.
fn begins_with(daemon: &Daemon, first: u64) {
    let (mut chat, _) = enter(daemon, json!({}));
    until("the oldest have gone", || {
        let (_, page) = page(&mut chat, json!({"room": "lobby", "after": 0, "limit": 1}));
        (seqs(messages(&page)) == [first]).then_some(())
    });
}

/// Comes back at every number around the edge and around the head.
fn every_offset(daemon: &Daemon, epoch: &Value, heard: &[Value], kept: RangeInclusive<u64>) {
    let (first, head) = (*kept.start(), *kept.end());
    for seq in first.saturating_sub(4)..=head + 3 {
        let (mut chat, joined) = enter(daemon, resume(epoch, seq));
        // The event after `seq` is kept, or there is none after it.
        let recovered = (first - 1..=head).contains(&seq);
        assert_eq!(joined["recovered"], recovered, "{seq} of {kept:?}: {joined}");
        assert_eq!((&joined["epoch"], &joined["seq"]), (epoch, &json!(head)));
        let (missed, _) = page(&mut chat, json!({"room": "lobby", "limit": 1}));
        let missing = if recovered { &heard[usize::try_from(seq).unwrap()..] } else { &[] };
        assert_eq!(missed, missing, "after {seq}");
    }
    for other in ["", "0123456789abcdef"] {
        for seq in [0, first, head] {
            let (mut chat, joined) = enter(daemon, resume(&json!(other), seq));
            assert_eq!((&joined["recovered"], &joined["epoch"]), (&json!(false), epoch));
            assert!(page(&mut chat, json!({"room": "lobby", "limit": 1})).0.is_empty());
        }
    }
}

#[test]
fn at_every_offset_in_every_life() {
    let daemon = start(KEEP);
    let (epoch, heard) = fill(&daemon, KEEP);
    every_offset(&daemon, &epoch, &heard, FIRST..=HEAD);

    let daemon = daemon.stop().start();
    every_offset(&daemon, &epoch, &heard, FIRST..=HEAD);
    let setup = daemon.crash();

    // Less is to be kept than before.
    setup.write_config(&config(3));
    let daemon = setup.start();
    begins_with(&daemon, HEAD - 2);
    every_offset(&daemon, &epoch, &heard, HEAD - 2..=HEAD);
    let setup = daemon.crash();

    // More again: what is gone is gone, and the numbers go on.
    setup.write_config(&config(100));
    let daemon = setup.start();
    every_offset(&daemon, &epoch, &heard, HEAD - 2..=HEAD);
    assert_eq!(daemon.chat("eve").say("more")["seq"], HEAD + 1);
}

#[test]
fn a_room_without_messages_keeps_its_epoch() {
    let daemon = start(KEEP);
    let (_, joined) = enter(&daemon, json!({}));
    let epoch = joined["epoch"].clone();
    let empty = RangeInclusive::new(1, 0);
    let daemon = daemon.crash().start();
    every_offset(&daemon, &epoch, &[], empty.clone());
    let daemon = daemon.stop().start();
    every_offset(&daemon, &epoch, &[], empty.clone());
}

#[test]
fn what_is_said_after_a_crash_follows_what_was_missed() {
    let daemon = start(1000);
    let (mut bob, joined) = enter(&daemon, json!({"nick": "bob"}));
    let mut ann = daemon.chat("ann");
    // Several pages.
    for n in 1..=350 {
        ann.say(&format!("m{n}"));
    }
    bob.hears("m10");
    let daemon = daemon.crash().start();
    let mut ann = daemon.chat("ann");
    let (mut bob, joined) = enter(&daemon, resume(&joined["epoch"], 10));
    assert_eq!(joined["recovered"], true);
    // While the backlog is on its way.
    for n in 351..=360 {
        ann.say(&format!("m{n}"));
    }
    for n in 11..=360 {
        let message = bob.frame("message");
        assert_eq!((&message["seq"], &message["payload"]["text"]), (&json!(n), &json!(format!("m{n}"))));
    }
}

/// What a page must hold: the entries of `kept` that fit, and whether there are more on that side.
fn expected(kept: &[Value], ask: &Value, limit: usize) -> (Vec<Value>, bool) {
    let seq = |message: &&Value| message["seq"].as_u64().expect("a number");
    let mut fits: Vec<Value> = match (ask["after"].as_u64(), ask["before"].as_u64()) {
        (Some(after), _) => kept.iter().filter(|m| seq(m) > after).cloned().collect(),
        (_, Some(before)) => kept.iter().filter(|m| seq(m) < before).cloned().collect(),
        _ => kept.to_vec(),
    };
    let more = fits.len() > limit;
    match ask["after"].is_u64() {
        true => fits.truncate(limit),
        false => drop(fits.drain(..fits.len().saturating_sub(limit))),
    }
    (fits, more)
}

#[test]
fn pages_in_both_directions_with_every_limit_in_every_life() {
    let mut daemon = start(KEEP);
    let (epoch, heard) = fill(&daemon, KEEP);
    let kept = &heard[usize::try_from(FIRST - 1).unwrap()..];
    for life in 0..3 {
        let (mut chat, _) = enter(&daemon, json!({}));
        for limit in 1..=usize::try_from(KEEP).unwrap() + 2 {
            let around = FIRST.saturating_sub(3)..=HEAD + 3;
            let before = around.clone().map(|seq| json!({"room": "lobby", "before": seq, "limit": limit}));
            let after = around.map(|seq| json!({"room": "lobby", "after": seq, "limit": limit}));
            let ends = [json!({"room": "lobby", "limit": limit}), json!({"room": "lobby", "after": 0, "limit": limit})];
            for ask in before.chain(after).chain(ends) {
                let (_, page) = page(&mut chat, ask.clone());
                let (messages, more) = expected(kept, &ask, limit);
                assert_eq!(page["messages"], json!(messages), "{ask} in life {life}");
                assert_eq!((&page["more"], &page["epoch"]), (&json!(more), &epoch), "{ask} in life {life}");
            }
        }
        drop(chat);
        daemon = if life == 0 { daemon.crash() } else { daemon.stop() }.start();
    }
}

/// Says it under this name for it; its number and id.
fn say(chat: &mut Chat, room: &str, cid: &str) -> (Value, Value) {
    let re = chat.send("message", json!({"room": room, "text": "once", "cid": cid}));
    loop {
        let ack = chat.frame("ack")["payload"].take();
        if ack["re"] == re {
            return (ack["seq"].clone(), ack["id"].clone());
        }
    }
}

#[test]
fn what_is_sent_again_in_another_life_is_kept_once() {
    let mut daemon = start(1000);
    let rooms = ["lobby", "tea"];
    let mut ann = newcomer(&daemon);
    let mut guests = Vec::new();
    let mut first = Vec::new();
    for nick in ["ann", "bob"] {
        let mut chat = Chat::open(daemon.connect(), "/chat", "");
        let welcome = chat.hello(json!({"nick": nick, "rooms": rooms}));
        guests.push(welcome["guest"].clone());
        for room in rooms {
            first.push(say(&mut chat, room, "same"));
        }
    }
    let seqs: Vec<u64> = first.iter().map(|(seq, _)| seq.as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 1, 2, 2], "another user's and another room's are their own");
    for life in 0..4 {
        let mut again = Vec::new();
        for guest in &guests {
            let mut chat = Chat::open(daemon.connect(), "/chat", "");
            chat.hello(json!({"guest": guest, "rooms": rooms}));
            for room in rooms {
                again.push(say(&mut chat, room, "same"));
            }
        }
        assert_eq!(again, first, "life {life}");
        daemon = if life % 2 == 0 { daemon.crash() } else { daemon.stop() }.start();
        ann = newcomer(&daemon);
    }
    for room in rooms {
        ann.send("join", json!({"room": room}));
        assert_eq!(ann.frame("joined")["payload"]["seq"], 2);
    }
}

/// The ten minutes are counted over a restart. They are made to pass by dating what is stored back.
#[test]
fn a_name_for_a_message_counts_ten_minutes_in_the_next_life_too() {
    let daemon = start(1000);
    let mut ann = Chat::open(daemon.connect(), "/chat", "");
    let guest = ann.hello(json!({"nick": "ann"}))["guest"].clone();
    let first = say(&mut ann, "lobby", "old");
    say(&mut ann, "lobby", "other");
    let mut setup = daemon.crash();
    for (minutes, seq) in [(9, 1), (1, 3), (9, 3), (1, 4)] {
        let database = rusqlite::Connection::open(database::path(&setup)).expect("there is one");
        database.execute("UPDATE entry SET time = time - ?1", [minutes * 60_000]).expect("our own");
        drop(database);
        let daemon = setup.start();
        let mut ann = Chat::open(daemon.connect(), "/chat", "");
        ann.hello(json!({"guest": guest}));
        let (again, id) = say(&mut ann, "lobby", "old");
        assert_eq!((again, id == first.1), (json!(seq), seq == 1), "{minutes} minutes later");
        setup = daemon.crash();
    }
}
