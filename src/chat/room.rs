//! One room: who is in it, what its stream has come to, and what is on its way into the log.
//!
//! Only the room's own books. Who is told of a change is decided where the change is made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cid::CidKey;
use super::event::{Cursor, Member, Record, Ticket};
use super::hub::Held;
use super::id::{ConnId, RoomId, RoomName, Seq, UserId};

/// The most messages of one room that may be on their way into the log. A group commit takes a few
/// hundred at once; a log that is further behind is better told about than waited for.
pub const MAX_PENDING: usize = 1024;

pub struct Room {
    pub id: RoomId,
    pub name: RoomName,
    /// Absent while the log opens it.
    pub stream: Option<Stream>,
    /// Every connection that is in the room.
    pub members: BTreeSet<ConnId>,
    /// Those of the members that still read what they missed: no `Publish` reaches them yet.
    pub catching_up: BTreeSet<ConnId>,
    /// Every user who counts as here.
    pub users: BTreeMap<UserId, Here>,
    /// Connections for which the room is kept open: they wait for the log to open it, or for the
    /// answer to their hello.
    pub waiting: BTreeMap<ConnId, Waiter>,
    /// In the order of the log.
    pub pending: VecDeque<Pending>,
    /// When the number of users was last told, where the room is too large to tell each change.
    pub told_at: Option<Duration>,
    /// When it will be told again.
    pub tell_at: Option<Duration>,
    /// Set while nobody uses the room and it is no default one: when it is to be forgotten.
    pub forget_at: Option<Duration>,
}

/// What the log said of the room's stream, kept up to date by every commit.
pub struct Stream {
    pub epoch: Arc<str>,
    pub head: Seq,
    pub first: Seq,
}

/// A user's presence in a room.
#[derive(Default)]
pub struct Here {
    /// Connections of the user in the room.
    pub conns: u32,
    /// Set when the last of them dropped: when the user counts as gone.
    pub until: Option<Duration>,
}

/// A message, or the taking away of one, on its way into the log.
pub struct Pending {
    pub ticket: Ticket,
    pub conn: ConnId,
    pub re: u64,
    pub from: Member,
    pub record: Arc<Record>,
    pub cid: Option<CidKey>,
    /// Who sent the same message again meanwhile and waits for the same answer.
    pub again: Vec<(ConnId, u64)>,
}

/// One for which the room is kept open although it is no member yet.
pub enum Waiter {
    /// Its welcome says whether it was recovered, so it needs to know all its rooms first. Stays
    /// until it is welcomed.
    Hello,
    Join {
        re: u64,
        ask: Ask,
        /// What it said to the room meanwhile.
        held: Vec<Held>,
    },
}

/// What of the stream a joining client wants to see.
#[derive(Clone, Debug)]
pub enum Ask {
    /// The last so many messages; 0 for none.
    Last(u32),
    /// All since it stopped reading.
    Since(Cursor),
}

impl Room {
    pub fn new(id: RoomId, name: RoomName) -> Self {
        Room {
            id,
            name,
            stream: None,
            members: BTreeSet::new(),
            catching_up: BTreeSet::new(),
            users: BTreeMap::new(),
            waiting: BTreeMap::new(),
            pending: VecDeque::new(),
            told_at: None,
            tell_at: None,
            forget_at: None,
        }
    }

    pub fn head(&self) -> Seq {
        self.stream.as_ref().map_or(0, |stream| stream.head)
    }

    pub fn online(&self) -> usize {
        self.users.len()
    }

    /// Does every `Publish` reach this connection?
    pub fn hears(&self, conn: ConnId) -> bool {
        self.members.contains(&conn) && !self.catching_up.contains(&conn)
    }

    pub fn is_unused(&self) -> bool {
        self.members.is_empty() && self.users.is_empty() && self.waiting.is_empty() && self.pending.is_empty()
    }
}

impl Stream {
    /// Is everything after the cursor still there?
    pub fn can_resume(&self, cursor: &Cursor) -> bool {
        *cursor.epoch == *self.epoch && cursor.seq <= self.head && cursor.seq >= self.first.saturating_sub(1)
    }
}
