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

/// An end that no date can be written for is none. A clock before 1970 has no date either; what ended
/// then is over all the same.
fn dated(until: Option<SystemTime>) -> Option<SystemTime> {
    until.map(|until| until.max(UNIX_EPOCH)).filter(|until| *until < UNIX_EPOCH + LAST)
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
        let (reason, until) = (cut(&reason), dated(until));
        let sanction = Arc::new(Sanction { id: self.last, measure, reason, by, since, until });
        self.insert(sanction.clone());
        Some(sanction)
    }

    /// Changes the end and the reason of a sanction of that kind and number; what is absent stays, and
    /// so does all else. Reason and end are cut as [`Sanctions::add`] cuts them.
    pub fn amend(
        &mut self,
        kind: SanctionKind,
        id: u64,
        until: Option<Option<SystemTime>>,
        reason: Option<String>,
        wall: SystemTime,
    ) -> Option<Arc<Sanction>> {
        self.prune(wall);
        let known = self.by_id.get_mut(&id).filter(|known| known.kind() == kind)?;
        let mut changed = Sanction::clone(known);
        if let Some(until) = until {
            changed.until = dated(until);
        }
        if let Some(reason) = reason {
            changed.reason = cut(&reason);
        }
        *known = Arc::new(changed);
        Some(known.clone())
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn net(text: &str) -> Measure {
        Measure::Ban(BanTarget::Net(text.parse().unwrap()))
    }

    fn mute(name: &str, place: Option<&str>) -> Measure {
        Measure::Mute { user: user(name), room: place.map(room) }
    }

    fn add(book: &mut Sanctions, measure: Measure, until: Option<u64>) -> u64 {
        book.add(measure, "r".into(), "by".into(), at(0), until.map(at)).unwrap().id
    }

    fn banned(book: &Sanctions, addr: &str, now: u64) -> Option<u64> {
        book.ban(None, Some(addr.parse().unwrap()), at(now)).map(|ban| ban.id)
    }

    #[test]
    fn the_narrowest_ban_is_named_and_a_wider_one_holds_after_it() {
        let mut book = Sanctions::default();
        let wide = add(&mut book, net("192.0.2.0/24"), None);
        let narrow = add(&mut book, net("192.0.2.7/32"), Some(10));
        let v6 = add(&mut book, net("2001:db8::/32"), None);
        assert_eq!(banned(&book, "192.0.2.7", 9), Some(narrow));
        assert_eq!(banned(&book, "192.0.2.7", 10), Some(wide), "to the second at which it ends");
        assert_eq!(banned(&book, "::ffff:192.0.2.8", 0), Some(wide));
        assert_eq!(banned(&book, "2001:db8::1", 0), Some(v6));
        assert_eq!((banned(&book, "192.0.3.1", 0), banned(&book, "::1", 0)), (None, None));
        let by_name = add(&mut book, Measure::Ban(BanTarget::User(user("ann"))), Some(5));
        let both = |now| book.ban(Some(&user("ann")), Some("192.0.2.9".parse().unwrap()), at(now)).unwrap().id;
        assert_eq!((both(4), both(5)), (by_name, wide));
    }

    #[test]
    fn of_several_mutes_the_longest_counts() {
        let mut book = Sanctions::default();
        let here = add(&mut book, mute("ann", Some("a")), Some(20));
        let everywhere = add(&mut book, mute("ann", None), Some(10));
        let muted = |book: &Sanctions, place: Option<&str>, now| {
            book.mute(&user("ann"), place.map(room).as_ref(), at(now)).map(|mute| mute.id)
        };
        assert_eq!(muted(&book, Some("a"), 0), Some(here));
        assert_eq!((muted(&book, Some("b"), 9), muted(&book, Some("b"), 10)), (Some(everywhere), None));
        assert_eq!((muted(&book, None, 9), muted(&book, Some("a"), 20)), (Some(everywhere), None));
        let endless = add(&mut book, mute("ann", None), None);
        assert_eq!(muted(&book, Some("a"), 0), Some(endless));
        assert_eq!(book.mute(&user("bob"), None, at(0)), None);
    }

    #[test]
    fn the_same_measure_is_replaced_however_it_is_written() {
        let mut book = Sanctions::default();
        for text in ["192.0.2.0/24", "192.0.2.77/24", "::ffff:192.0.2.0/120"] {
            add(&mut book, net(text), None);
        }
        let last = add(&mut book, mute("ann", Some("a")), None);
        add(&mut book, mute("ann", Some("a")), Some(9));
        assert_eq!(book.list(at(0)).map(|known| known.id).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(book.lift(SanctionKind::Mute, last, at(0)), None);
        assert_eq!(book.lift(SanctionKind::Ban, 5, at(0)), None, "of another kind");
        assert!(book.lift(SanctionKind::Ban, 3, at(0)).is_some());
        assert_eq!(banned(&book, "192.0.2.1", 0), None);
    }

    #[test]
    fn a_book_in_which_a_hand_has_been_is_read_by_its_last_line() {
        let line =
            |id, measure| Sanction { id, measure, reason: "é".repeat(99), by: "b".into(), since: at(0), until: None };
        let lines = vec![line(7, net("192.0.2.9/24")), line(9, net("192.0.2.0/24")), line(9, mute("ann", None))];
        let mut book = Sanctions::restore(lines);
        assert_eq!(book.list(at(0)).map(|known| known.id).collect::<Vec<_>>(), [9]);
        assert_eq!(banned(&book, "192.0.2.1", 0), None);
        assert_eq!(book.list(at(0)).next().unwrap().reason.len(), 122);
        assert_eq!(add(&mut book, mute("bob", None), None), 10, "numbers go on");
    }

    #[test]
    fn there_are_so_many_at_most() {
        let mut book = Sanctions::default();
        for n in 0..MAX_SANCTIONS {
            add(&mut book, mute(&n.to_string(), None), Some(if n == 5 { 10 } else { 100 }));
        }
        let more = |book: &mut Sanctions, name: &str, now| {
            book.add(mute(name, None), String::new(), String::new(), at(now), None).map(|mute| mute.id)
        };
        assert_eq!(more(&mut book, "new", 9), None);
        assert!(more(&mut book, "7", 9).is_some(), "one that is there is replaced");
        assert!(more(&mut book, "new", 10).is_some(), "what is over makes room");
        assert_eq!(book.count(), MAX_SANCTIONS);
    }

    #[test]
    fn words_dates_and_lengths() {
        let mut book = Sanctions::default();
        let mut words = |until: Option<SystemTime>, reason: &str| {
            let sanction = book.add(mute("ann", None), reason.to_owned(), String::new(), at(0), until).unwrap();
            sanction.in_words("muted")
        };
        assert_eq!(words(None, ""), "muted");
        assert_eq!(words(Some(at(0)), "spam"), "muted until 1970-01-01T00:00:00Z: spam");
        assert_eq!(words(Some(at(253_402_300_799)), ""), "muted until 9999-12-31T23:59:59Z");
        assert_eq!(words(Some(at(253_402_300_800)), "x"), "muted: x", "there is no date for it");
        assert_eq!(words(Some(UNIX_EPOCH - Duration::from_secs(9)), ""), "muted until 1970-01-01T00:00:00Z");
        assert_eq!(words(None, &"x".repeat(200)).len(), "muted: ".len() + REASON_MAX);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(Measure, Option<u64>),
        Lift(bool, u64),
        Amend(bool, u64, Option<Option<u64>>, bool),
        Later(u64),
        Restart,
    }

    fn measure() -> impl Strategy<Value = Measure> {
        let name = || prop_oneof![Just("ann"), Just("bob"), Just("cat")];
        let nets = ["192.0.2.0/24", "192.0.2.1/32", "192.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "::/0"];
        prop_oneof![
            name().prop_map(|name| Measure::Ban(BanTarget::User(user(name)))),
            proptest::sample::select(nets.to_vec()).prop_map(net),
            (name(), proptest::option::of(prop_oneof![Just("a"), Just("b")]))
                .prop_map(|(name, place)| mute(name, place)),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (measure(), proptest::option::of(0u64..50)).prop_map(|(measure, lasts)| Step::Add(measure, lasts)),
            2 => (any::<bool>(), 1u64..20).prop_map(|(ban, id)| Step::Lift(ban, id)),
            2 => (any::<bool>(), 1u64..20, proptest::option::of(proptest::option::of(0u64..50)), any::<bool>())
                .prop_map(|(ban, id, lasts, reason)| Step::Amend(ban, id, lasts, reason)),
            2 => (0u64..20).prop_map(Step::Later),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// The indexes say what a plain list would say.
        #[test]
        fn a_book_is_as_good_as_a_list(steps in proptest::collection::vec(step(), 1..60)) {
            let mut book = Sanctions::default();
            let (mut list, mut now): (Vec<Arc<Sanction>>, u64) = (Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Add(measure, lasts) => {
                        list.retain(|known| known.measure != measure);
                        let until = lasts.map(|lasts| at(now + lasts));
                        list.extend(book.add(measure, String::new(), String::new(), at(now), until));
                    }
                    Step::Lift(ban, id) => {
                        let kind = if ban { SanctionKind::Ban } else { SanctionKind::Mute };
                        let known = list.iter().position(|known| known.id == id && known.kind() == kind && !known.is_over(at(now)));
                        prop_assert_eq!(book.lift(kind, id, at(now)), known.map(|known| list.remove(known)));
                    }
                    Step::Amend(ban, id, lasts, reason) => {
                        let kind = if ban { SanctionKind::Ban } else { SanctionKind::Mute };
                        let known = list.iter_mut().find(|known| known.id == id && known.kind() == kind && !known.is_over(at(now)));
                        let until = lasts.map(|lasts| lasts.map(|lasts| at(now + lasts)));
                        let reason = reason.then(|| "another".to_owned());
                        let changed = known.map(|known| {
                            let mut changed = Sanction::clone(known);
                            changed.until = until.unwrap_or(changed.until);
                            changed.reason = reason.clone().unwrap_or(changed.reason);
                            *known = Arc::new(changed);
                            known.clone()
                        });
                        prop_assert_eq!(book.amend(kind, id, until, reason, at(now)), changed);
                    }
                    Step::Later(seconds) => now += seconds,
                    Step::Restart => {
                        let saved: Vec<Sanction> = book.list(at(now)).map(|known| Sanction::clone(known)).collect();
                        book = Sanctions::restore(saved);
                    }
                }
                list.retain(|known| !known.is_over(at(now)));
                prop_assert_eq!(book.list(at(now)).cloned().collect::<Vec<_>>(), list.clone());
                for name in ["ann", "bob", "cat"] {
                    let name = user(name);
                    let mut bans = list.iter().filter(|known| known.measure == Measure::Ban(BanTarget::User(name.clone())));
                    prop_assert_eq!(book.ban(Some(&name), None, at(now)), bans.next_back());
                    for place in [None, Some(room("a")), Some(room("b"))] {
                        let concerns = |known: &&Arc<Sanction>| matches!(&known.measure,
                            Measure::Mute { user, room } if *user == name && (room.is_none() || *room == place));
                        let longest = list.iter().filter(concerns).map(|known| (known.until.is_none(), known.until)).max();
                        let found = book.mute(&name, place.as_ref(), at(now));
                        prop_assert_eq!(found.map(|mute| (mute.until.is_none(), mute.until)), longest);
                    }
                }
                for addr in ["192.0.2.1", "192.0.2.9", "192.9.9.9", "9.9.9.9", "2001:db8::1", "::1"] {
                    let addr: IpAddr = addr.parse().unwrap();
                    let holds = |known: &&Arc<Sanction>| matches!(&known.measure, Measure::Ban(BanTarget::Net(net)) if net.contains(&addr));
                    let narrow = |known: &&Arc<Sanction>| match &known.measure {
                        Measure::Ban(BanTarget::Net(net)) => net.prefix_len(),
                        _ => 0,
                    };
                    prop_assert_eq!(book.ban(None, Some(addr), at(now)), list.iter().filter(holds).max_by_key(narrow));
                }
            }
        }
    }
}
