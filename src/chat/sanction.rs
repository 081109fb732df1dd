//! Who may not come in, and who may not speak: bans and mutes in force.
//!
//! The book of them, and nothing else: what follows from an entry is decided where somebody
//! connects, says hello or speaks. Saving it is the caller's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use super::id::{RoomName, UserId};

/// The most sanctions that may be in force at once. About 300 bytes each.
pub const MAX_SANCTIONS: usize = 10_000;
/// The most bytes of a reason: it must fit into a close frame (RFC 6455, section 5.5).
pub const REASON_MAX: usize = 123;

/// The end of the year 9999, which is as far as RFC 3339 goes.
const LAST: Duration = Duration::from_secs(253_402_300_800);

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

    /// For the one it concerns: `what`, until when, and why.
    pub fn in_words(&self, what: &str) -> String {
        let until = self.until.map(|until| format!(" until {}", humantime::format_rfc3339_seconds(until)));
        let why = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        format!("{what}{}{why}", until.unwrap_or_default())
    }
}

/// As much of a reason as fits into [`REASON_MAX`] bytes, cut between two characters.
pub fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(REASON_MAX)].to_owned()
}

/// Two ways to write one network are one measure, and an IPv4 address is one however it is written.
fn canonical(measure: Measure) -> Measure {
    match measure {
        Measure::Ban(BanTarget::Net(IpNet::V6(net))) => {
            let v4 = net.addr().to_ipv4_mapped().zip(net.prefix_len().checked_sub(96));
            let v4 = v4.and_then(|(addr, length)| IpNet::new(addr.into(), length).ok());
            Measure::Ban(BanTarget::Net(v4.unwrap_or(net.into()).trunc()))
        }
        Measure::Ban(BanTarget::Net(net)) => Measure::Ban(BanTarget::Net(net.trunc())),
        other => other,
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
    /// The book as it was saved; also where a hand has been in it: of two that are the same the later
    /// counts.
    pub fn restore(sanctions: Vec<Sanction>) -> Self {
        let mut book = Sanctions::default();
        for mut sanction in sanctions {
            sanction.measure = canonical(sanction.measure);
            sanction.reason = cut(&sanction.reason);
            book.last = book.last.max(sanction.id);
            let same = book.same(&sanction.measure).map(|known| known.id);
            for id in same.into_iter().chain([sanction.id]) {
                book.remove(id);
            }
            book.insert(Arc::new(sanction));
        }
        book
    }

    /// How many there are, with those that have run out since the last change.
    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    /// The sanction of this very measure.
    pub fn same(&self, measure: &Measure) -> Option<&Arc<Sanction>> {
        let id = match measure {
            Measure::Ban(BanTarget::User(user)) => self.banned_users.get(user),
            Measure::Ban(BanTarget::Net(net)) => self.banned_nets.get(net),
            Measure::Mute { user, .. } => {
                let known = self.mutes.get(user).into_iter().flatten();
                let mut known = known.filter_map(|id| self.by_id.get(id));
                return known.find(|known| known.measure == *measure);
            }
        };
        self.by_id.get(id?)
    }

    /// Puts a new sanction in force; one of the same measure is replaced. `None`: there are
    /// [`MAX_SANCTIONS`] already. A reason is cut to [`REASON_MAX`] bytes; an end that no date can be
    /// written for is none.
    pub fn add(
        &mut self,
        measure: Measure,
        reason: String,
        by: String,
        since: SystemTime,
        until: Option<SystemTime>,
    ) -> Option<Arc<Sanction>> {
        self.prune(since);
        let measure = canonical(measure);
        match self.same(&measure).map(|known| known.id) {
            Some(id) => drop(self.remove(id)),
            None if self.by_id.len() >= MAX_SANCTIONS => return None,
            None => {}
        }
        self.last += 1;
        let reason = cut(&reason);
        // A clock before 1970 has no date either; what ended then is over all the same.
        let until = until.map(|until| until.max(UNIX_EPOCH)).filter(|until| *until < UNIX_EPOCH + LAST);
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
                self.lengths.insert((net.addr().is_ipv6(), net.prefix_len()));
                self.banned_nets.insert(*net, sanction.id);
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
                self.banned_nets.remove(net);
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
