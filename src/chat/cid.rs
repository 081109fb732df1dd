//! Which messages have been said already: a client may resend after a reconnect, and a message is
//! stored once.
//!
//! One window for all rooms, in time and in number. It knows nothing of messages but their names.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::event::Ticket;
use super::id::{RoomName, Seq, UserId};

/// How long a `cid` is remembered (PROTOCOL.md).
pub const WINDOW: Duration = Duration::from_secs(600);
/// The most bytes of a `cid`.
pub const MAX_BYTES: usize = 128;
/// The most that are remembered in all rooms together; beyond it the oldest are forgotten early.
/// About 200 bytes each.
const CAPACITY: usize = 200_000;

/// Names one message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CidKey {
    pub room: RoomName,
    pub user: UserId,
    pub cid: Arc<str>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// On its way into the log; or, where the log has no such message under way, refused by it.
    Pending(Ticket),
    /// In the room's stream of this epoch.
    Kept { epoch: Arc<str>, seq: Seq, id: String },
}

struct Slot {
    said: Said,
    since: Duration,
}

#[derive(Default)]
pub struct CidWindow {
    slots: HashMap<CidKey, Slot>,
    /// In the order of `since`. A key that was begun again is in it twice; `since`
    /// tells which one counts.
    order: VecDeque<(Duration, CidKey)>,
}

impl CidWindow {
    pub fn find(&self, key: &CidKey, now: Duration) -> Option<&Said> {
        let slot = self.slots.get(key)?;
        (now.saturating_sub(slot.since) < WINDOW).then_some(&slot.said)
    }

    /// A message has been sent to the log. The window counts from here.
    pub fn begin(&mut self, key: CidKey, ticket: Ticket, now: Duration) {
        self.expire(now);
        self.slots.insert(key.clone(), Slot { said: Said::Pending(ticket), since: now });
        self.order.push_back((now, key));
    }

    /// The log has kept it.
    pub fn keep(&mut self, key: &CidKey, ticket: Ticket, epoch: Arc<str>, seq: Seq, id: String) {
        if let Some(slot) = self.slots.get_mut(key)
            && slot.said == Said::Pending(ticket)
        {
            slot.said = Said::Kept { epoch, seq, id };
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some((since, key)) = self.order.front() {
            if now.saturating_sub(*since) < WINDOW && self.order.len() < CAPACITY {
                break;
            }
            if self.slots.get(key).is_some_and(|slot| slot.since == *since) {
                self.slots.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cid: &str) -> CidKey {
        CidKey { room: RoomName::parse("r").unwrap(), user: UserId::guest("g"), cid: cid.into() }
    }

    #[test]
    fn remembered_for_the_window_and_no_longer() {
        let mut window = CidWindow::default();
        let start = Duration::from_secs(5);
        window.begin(key("a"), Ticket(1), start);
        window.keep(&key("a"), Ticket(9), "e".into(), 3, "id".into());
        assert_eq!(window.find(&key("a"), start), Some(&Said::Pending(Ticket(1))), "another's ticket keeps nothing");
        window.keep(&key("a"), Ticket(1), "e".into(), 3, "id".into());
        let kept = Said::Kept { epoch: "e".into(), seq: 3, id: "id".into() };
        assert_eq!(window.find(&key("a"), start + WINDOW - Duration::from_millis(1)), Some(&kept));
        assert_eq!(window.find(&key("a"), start + WINDOW), None);
    }

    #[test]
    fn what_is_said_anew_counts_from_then() {
        let mut window = CidWindow::default();
        window.begin(key("a"), Ticket(1), Duration::ZERO);
        window.begin(key("a"), Ticket(2), Duration::from_secs(300));
        window.begin(key("b"), Ticket(3), Duration::from_secs(700));
        assert_eq!(window.find(&key("a"), Duration::from_secs(700)), Some(&Said::Pending(Ticket(2))));
    }

    #[test]
    fn bounded_in_number() {
        let mut window = CidWindow::default();
        for n in 0..CAPACITY + 1000 {
            window.begin(key(&n.to_string()), Ticket(n as u64), Duration::ZERO);
        }
        assert!(window.slots.len() <= CAPACITY && window.order.len() <= CAPACITY);
        assert!(window.find(&key("0"), Duration::ZERO).is_none());
    }
}
