//! Who may not come in, and who may not speak: bans and mutes in force.
//!
//! The book of them, and nothing else: what follows from an entry is decided where somebody
//! connects, says hello or speaks. Saving it is the caller's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use super::id::{RoomName, UserId};

/// The most sanctions that may be in force at once. About 300 bytes each.
pub const MAX_SANCTIONS: usize = 10_000;
/// The most bytes of a reason: it must fit into a close frame (RFC 6455, section 5.5).
pub const REASON_MAX: usize = 123;

/// A ban or a mute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sanction {
    /// Never used twice while any sanction is remembered.
    pub id: u64,
    pub measure: Measure,
    /// At most [`REASON_MAX`] bytes; may be empty.
    pub reason: String,
    /// Who ordered it.
    pub by: String,
    pub since: SystemTime,
    /// Absent: until it is ended.
    pub until: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    Ban(BanTarget),
    /// `room` absent: everywhere.
    Mute {
        user: UserId,
        room: Option<RoomName>,
    },
}

/// Who is banned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BanTarget {
    Net(IpNet),
    User(UserId),
}

impl std::fmt::Display for BanTarget {
    /// As `wschatctl ban add` takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BanTarget::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "ip:{}", net.addr()),
            BanTarget::Net(net) => write!(f, "ip:{net}"),
            BanTarget::User(user) => write!(f, "user:{user}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SanctionKind {
    Ban,
    Mute,
}

impl SanctionKind {
    pub fn as_str(self) -> &'static str {
        match self {
            SanctionKind::Ban => "ban",
            SanctionKind::Mute => "mute",
        }
    }
}

impl Sanction {
    pub fn kind(&self) -> SanctionKind {
        match self.measure {
            Measure::Ban(_) => SanctionKind::Ban,
            Measure::Mute { .. } => SanctionKind::Mute,
        }
    }

    pub fn is_over(&self, wall: SystemTime) -> bool {
        self.until.is_some_and(|until| until <= wall)
    }
}

/// All sanctions in force. What has run out is not found, and goes when the book is next changed.
#[derive(Default)]
pub struct Sanctions {
    by_id: BTreeMap<u64, Arc<Sanction>>,
    banned_users: HashMap<UserId, u64>,
    banned_nets: HashMap<IpNet, u64>,
    /// Lengths of the prefixes in `banned_nets`, longest last, and whether of IPv6.
    lengths: BTreeSet<(bool, u8)>,
    /// A user's mutes; a handful each.
    mutes: HashMap<UserId, Vec<u64>>,
    last: u64,
}

impl Sanctions {
    /// The book as it was saved.
    pub fn restore(sanctions: Vec<Sanction>) -> Self {
        let mut book = Sanctions::default();
        for sanction in sanctions {
            book.last = book.last.max(sanction.id);
            book.insert(Arc::new(sanction));
        }
        book
    }

    /// Puts a new sanction in force; one of the same measure is replaced. `None`: there are
    /// [`MAX_SANCTIONS`] already.
    pub fn add(
        &mut self,
        measure: Measure,
        reason: String,
        by: String,
        since: SystemTime,
        until: Option<SystemTime>,
    ) -> Option<Arc<Sanction>> {
        self.prune(since);
        let same = self.by_id.values().find(|known| known.measure == measure).map(|known| known.id);
        if let Some(id) = same {
            self.remove(id);
        }
        if self.by_id.len() >= MAX_SANCTIONS {
            return None;
        }
        self.last += 1;
        let sanction = Arc::new(Sanction { id: self.last, measure, reason, by, since, until });
        self.insert(sanction.clone());
        Some(sanction)
    }

    /// Ends a sanction of that kind and number.
    pub fn lift(&mut self, kind: SanctionKind, id: u64, wall: SystemTime) -> Option<Arc<Sanction>> {
        self.prune(wall);
        self.by_id.get(&id).filter(|known| known.kind() == kind)?;
        self.remove(id)
    }

    /// The ban that keeps out this user or this address, if any: of several the narrowest.
    pub fn ban(&self, user: Option<&UserId>, addr: Option<IpAddr>, wall: SystemTime) -> Option<&Arc<Sanction>> {
        let user = user.and_then(|user| self.banned_users.get(user)).and_then(|id| self.by_id.get(id));
        if let Some(ban) = user.filter(|ban| !ban.is_over(wall)) {
            return Some(ban);
        }
        let addr = addr?.to_canonical();
        let nets = self.lengths.iter().rev().filter(|(v6, _)| *v6 == addr.is_ipv6()).filter_map(|(_, length)| {
            let net = IpNet::new(addr, *length).ok()?.trunc();
            self.by_id.get(self.banned_nets.get(&net)?)
        });
        nets.into_iter().find(|ban| !ban.is_over(wall))
    }

    /// The mute that keeps the user from speaking in the room (`None`: to another user): of several
    /// the one that lasts longest.
    pub fn mute(&self, user: &UserId, room: Option<&RoomName>, wall: SystemTime) -> Option<&Arc<Sanction>> {
        let mutes = self.mutes.get(user)?.iter().filter_map(|id| self.by_id.get(id));
        let concerns = |mute: &&Arc<Sanction>| match &mute.measure {
            Measure::Mute { room: None, .. } => true,
            Measure::Mute { room: muted, .. } => muted.as_ref() == room,
            Measure::Ban(_) => false,
        };
        // No end is the latest end.
        mutes.filter(concerns).filter(|mute| !mute.is_over(wall)).max_by_key(|mute| (mute.until.is_none(), mute.until))
    }

    /// Those in force, in the order of their numbers.
    pub fn list(&self, wall: SystemTime) -> impl Iterator<Item = &Arc<Sanction>> {
        self.by_id.values().filter(move |sanction| !sanction.is_over(wall))
    }

    fn insert(&mut self, sanction: Arc<Sanction>) {
        match &sanction.measure {
            Measure::Ban(BanTarget::User(user)) => drop(self.banned_users.insert(user.clone(), sanction.id)),
            Measure::Ban(BanTarget::Net(net)) => {
                let net = net.trunc();
                self.lengths.insert((net.addr().is_ipv6(), net.prefix_len()));
                self.banned_nets.insert(net, sanction.id);
            }
            Measure::Mute { user, .. } => self.mutes.entry(user.clone()).or_default().push(sanction.id),
        }
        self.by_id.insert(sanction.id, sanction);
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Sanction>> {
        let sanction = self.by_id.remove(&id)?;
        match &sanction.measure {
            Measure::Ban(BanTarget::User(user)) => drop(self.banned_users.remove(user)),
            Measure::Ban(BanTarget::Net(net)) => {
                self.banned_nets.remove(&net.trunc());
                self.lengths = self.banned_nets.keys().map(|net| (net.addr().is_ipv6(), net.prefix_len())).collect();
            }
            Measure::Mute { user, .. } => {
                if let Some(mutes) = self.mutes.get_mut(user) {
                    mutes.retain(|known| *known != id);
                    if mutes.is_empty() {
                        self.mutes.remove(user);
                    }
                }
            }
        }
        Some(sanction)
    }

    fn prune(&mut self, wall: SystemTime) {
        let over: Vec<u64> = self.by_id.values().filter(|known| known.is_over(wall)).map(|known| known.id).collect();
        for id in over {
            self.remove(id);
        }
    }
}
