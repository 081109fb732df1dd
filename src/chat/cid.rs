//! Which messages have been said already: a client may resend after a reconnect, and a message is
//! stored once.
//!
//! One window for all rooms, in time and in number. It knows nothing of messages but their names.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::event::{SaidBefore, Ticket};
use super::id::{RoomName, Seq, UserId};

/// How long a `cid` is remembered (PROTOCOL.md).
pub const WINDOW: Duration = Duration::from_secs(600);
/// The most bytes of a `cid`.
pub const MAX_BYTES: usize = 128;
/// The most that are remembered in all rooms together; beyond it the oldest are forgotten early.
/// About 200 bytes each.
const CAPACITY: usize = 200_000;

/// Names one message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// When it is forgotten.
    until: Duration,
}

#[derive(Default)]
pub struct CidWindow {
    slots: HashMap<CidKey, Slot>,
    /// What was said to us, in the order of `until`. A key that was begun again is in it twice;
    /// `until` tells which one counts.
    order: VecDeque<(Duration, CidKey)>,
    /// What the log remembers from before: some is older than all of `order`, some is not.
    restored: BinaryHeap<Reverse<(Duration, CidKey)>>,
}

impl CidWindow {
    pub fn find(&self, key: &CidKey, now: Duration) -> Option<&Said> {
        let slot = self.slots.get(key)?;
        (now < slot.until).then_some(&slot.said)
    }

    /// A message has been sent to the log. The window counts from here.
    pub fn begin(&mut self, key: CidKey, ticket: Ticket, now: Duration) {
        self.expire(now);
        let until = now + WINDOW;
        self.slots.insert(key.clone(), Slot { said: Said::Pending(ticket), until });
        self.order.push_back((until, key));
    }

    /// The log has kept it.
    pub fn keep(&mut self, key: &CidKey, ticket: Ticket, epoch: Arc<str>, seq: Seq, id: String) {
        if let Some(slot) = self.slots.get_mut(key)
            && slot.said == Said::Pending(ticket)
        {
            slot.said = Said::Kept { epoch, seq, id };
        }
    }

    /// A message that the log remembers, as it opens the room. What is known of the same stream goes
    /// before it; nothing of a room that is only now opened can be on its way, so what is noted as that
    /// was refused.
    pub fn restore(&mut self, room: &RoomName, epoch: &Arc<str>, said: SaidBefore, now: Duration) {
        let SaidBefore { user, cid, seq, id, age } = said;
        // Said before our clock began, it still ends on time.
        let until = (now + WINDOW).saturating_sub(age);
        if until <= now {
            return;
        }
        self.expire(now);
        let key = CidKey { room: room.clone(), user, cid };
        if let Some(Said::Kept { epoch: known, .. }) = self.find(&key, now)
            && known == epoch
        {
            return;
        }
        let said = Said::Kept { epoch: epoch.clone(), seq, id };
        self.slots.insert(key.clone(), Slot { said, until });
        self.restored.push(Reverse((until, key)));
    }

    /// Forgets what is over, and where there is too much the oldest.
    fn expire(&mut self, now: Duration) {
        loop {
            let (ours, theirs) = (self.order.front(), self.restored.peek());
            let from_log = match (ours, theirs) {
                (None, None) => return,
                (Some((ours, _)), Some(Reverse((theirs, _)))) => theirs < ours,
                (ours, _) => ours.is_none(),
            };
            let until = if from_log { theirs.map(|Reverse((until, _))| *until) } else { ours.map(|(until, _)| *until) };
            if until.is_some_and(|until| now < until) && self.order.len() + self.restored.len() < CAPACITY {
                return;
            }
            let oldest = if from_log { self.restored.pop().map(|Reverse(it)| it) } else { self.order.pop_front() };
            if let Some((until, key)) = oldest
                && self.slots.get(&key).is_some_and(|slot| slot.until == until)
            {
                self.slots.remove(&key);
            }
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
        for n in 0..CAPACITY + 1000 {
            window.restore(&key("").room, &"e".into(), before(&n.to_string(), 1), Duration::ZERO);
        }
        assert!(window.slots.len() <= CAPACITY && window.order.len() + window.restored.len() <= CAPACITY);
    }

    fn before(cid: &str, age: u64) -> SaidBefore {
        let user = UserId::guest("g");
        SaidBefore { user, cid: cid.into(), seq: age, id: "id".into(), age: Duration::from_secs(age) }
    }

    #[test]
    fn what_the_log_remembers_ends_ten_minutes_after_it_was_said() {
        let mut window = CidWindow::default();
        let epoch: Arc<str> = "e".into();
        // The daemon has run for five seconds; the message is nearly ten minutes old.
        let start = Duration::from_secs(5);
        window.begin(key("own"), Ticket(1), start);
        for (cid, age) in [("old", 595), ("over", 600), ("young", 1), ("ahead", 0)] {
            window.restore(&key("").room, &epoch, before(cid, age), start);
        }
        let found = |window: &CidWindow, cid: &str, at| window.find(&key(cid), Duration::from_secs(at)).is_some();
        assert!(!found(&window, "over", 5));
        assert!(found(&window, "old", 9) && !found(&window, "old", 10));
        assert!(found(&window, "young", 603) && !found(&window, "young", 604));
        window.begin(key("later"), Ticket(2), Duration::from_secs(604));
        let mut left: Vec<&str> = window.slots.keys().map(|key| &*key.cid).collect();
        left.sort_unstable();
        assert_eq!(left, ["ahead", "later", "own"], "memory is given back in the order of the ends");
        assert_eq!((window.order.len(), window.restored.len()), (2, 1));
    }

    #[test]
    fn what_is_known_goes_before_what_the_log_remembers() {
        let mut window = CidWindow::default();
        let (epoch, now): (Arc<str>, _) = ("e".into(), Duration::from_secs(100));
        for (ticket, cid) in ["kept", "refused"].into_iter().enumerate() {
            window.begin(key(cid), Ticket(ticket as u64), now);
        }
        window.keep(&key("kept"), Ticket(0), epoch.clone(), 77, "id".into());
        for cid in ["kept", "refused"] {
            window.restore(&key("").room, &epoch, before(cid, 1), now);
        }
        let seq = |window: &CidWindow, cid| match window.find(&key(cid), now) {
            Some(Said::Kept { seq, .. }) => *seq,
            other => panic!("{other:?}"),
        };
        assert_eq!((seq(&window, "kept"), seq(&window, "refused")), (77, 1));
        window.restore(&key("").room, &"f".into(), before("kept", 2), now);
        assert_eq!(seq(&window, "kept"), 2, "the stream has begun anew");
    }
}
