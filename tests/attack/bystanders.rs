//! Two who talk while others attack: each message is acknowledged to the one and reaches the other,
//! in order, or the test fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use crate::support::{Chat, Daemon, until};

/// Between two messages, so that their own rate is no flood.
const PACE: Duration = Duration::from_millis(50);

pub struct Bystanders {
    exchanged: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
    talk: JoinHandle<()>,
}

impl Bystanders {
    /// Meet in `room` and begin to talk.
    #[track_caller]
    pub fn meet(daemon: &Daemon, room: &str) -> Self {
        let enter = |nick: &str| {
            let mut chat = Chat::open(daemon.connect(), "/chat", "");
            chat.hello(json!({"v": 1, "nick": nick, "rooms": [room]}));
            chat.frame("joined");
            chat
        };
        let (ann, bob) = (enter("ann"), enter("bob"));
        let (exchanged, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop, room) = (exchanged.clone(), enough.clone(), room.to_owned());
        let talk = thread::spawn(move || converse(ann, bob, &room, &count, &stop));
        let here = Bystanders { exchanged, enough, talk };
        here.go_on(3);
        here
    }

    /// Waits until so many more messages have gone their way.
    #[track_caller]
    pub fn go_on(&self, more: u64) {
        let before = self.exchanged.load(Relaxed);
        until("the bystanders go on", || {
            assert!(!self.talk.is_finished(), "the bystanders were cut off");
            (self.exchanged.load(Relaxed) >= before + more).then_some(())
        });
    }

    /// They part; how many messages they have exchanged, each acknowledged and received.
    #[track_caller]
    pub fn part(self) -> u64 {
        self.go_on(3);
        self.enough.store(true, Relaxed);
        self.talk.join().expect("they parted in peace");
        self.exchanged.load(Relaxed)
    }
}

fn converse(mut ann: Chat, mut bob: Chat, room: &str, count: &AtomicU64, stop: &AtomicBool) {
    let mut last = 0;
    while !stop.load(Relaxed) {
        let text = format!("message {} of the bystanders", count.load(Relaxed));
        let seq = ann.send("message", json!({"room": room, "text": text}));
        let ack = loop {
            let ack = ann.frame("ack");
            if ack["payload"]["re"] == seq {
                break ack["payload"]["seq"].as_u64().expect("a number");
            }
        };
        // What bob hears has no hole: in this room only others' messages stand between two of ann's.
        loop {
            let heard = bob.frame("message");
            let number = heard["seq"].as_u64().expect("a number");
            assert!(last == 0 || number == last + 1, "{number} after {last}");
            last = number;
            if heard["payload"]["text"] == text {
                assert_eq!(number, ack);
                break;
            }
        }
        count.fetch_add(1, Relaxed);
        thread::sleep(PACE);
    }
    ann.leave();
    bob.leave();
}
