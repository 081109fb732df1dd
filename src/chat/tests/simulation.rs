//! Random schedules of everything that can happen: clients of every kind, tokens that end, bans, mutes,
//! deletes, purges, rooms that are closed, a log that is late and sometimes fails, a book that cannot
//! be saved, retention, and the daemon killed and started anew.
//!
//! What must hold is checked by the world after every input, and here at the end. A failing seed is
//! printed; `WSCHAT_SEED=<seed> cargo test --lib simulation` replays it alone, and
//! `WSCHAT_SCHEDULES=<n>` runs more of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::super::event::*;
use super::super::id::{ConnId, RoomName, Seq, UserId};
use super::super::sanction::{BanTarget, SanctionKind};
use super::world::{World, claims, globs, room};

/// In a plain run; `WSCHAT_SCHEDULES` asks for more.
const SCHEDULES: u64 = 2000;
const STEPS: u32 = 150;
const ROOMS: [&str; 4] = ["lobby", "a", "b", "c"];
const USERS: [&str; 4] = ["u1", "u2", "u3", "u4"];
const SECOND: Duration = Duration::from_secs(1);

/// What schedules must come to, or they show nothing.
const REACHED: [&str; 29] = [
    "ack",
    "deleted message",
    "deletes",
    "direct",
    "error forbidden",
    "error internal",
    "error muted",
    "error nick_invalid",
    "error nick_taken",
    "error not_joined",
    "error unavailable",
    "error unrecoverable",
    "history",
    "left",
    "message",
    "muted",
    "nick",
    "purges",
    "recovered",
    "unmuted",
    "close 4004",
    "close 4202",
    "Ok Removed",
    "Ok Emptied",
    "Ok Sanctioned",
    "Ok Lifted",
    "Ok Amended",
    "Err NotSaved",
    "Err NoSuchMessage",
];

#[test]
fn simulation() {
    if let Ok(seed) = std::env::var("WSCHAT_SEED") {
        return schedule(seed.parse().expect("WSCHAT_SEED is a number"), &mut BTreeMap::new());
    }
    let schedules = std::env::var("WSCHAT_SCHEDULES").map_or(SCHEDULES, |count| count.parse().expect("a number"));
    let mut tally = BTreeMap::new();
    for seed in 0..schedules {
        if let Err(failure) = catch_unwind(AssertUnwindSafe(|| schedule(seed, &mut tally))) {
            eprintln!("failing seed: {seed}");
            std::panic::resume_unwind(failure);
        }
    }
    let missing: Vec<&str> = REACHED.into_iter().filter(|kind| !tally.contains_key(*kind)).collect();
    assert!(missing.is_empty() || schedules < SCHEDULES, "no schedule came to {missing:?}: {tally:?}");
    if std::env::var("WSCHAT_TALLY").is_ok() {
        eprintln!("{tally:#?}");
    }
}

struct Sim {
    world: World,
    rng: StdRng,
    /// Where connections stopped reading, to be resumed: user, room, cursor.
    left_at: Vec<(UserId, RoomName, Cursor)>,
    said: u32,
    failing: f64,
    /// Whether moderators and operators are at work, whether tokens end, and whether the daemon dies.
    strict: bool,
    ending: bool,
    dying: bool,
}

fn schedule(seed: u64, tally: &mut BTreeMap<String, u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let settings = Settings {
        presence_limit: if rng.random_bool(0.3) { 2 } else { 1000 },
        rooms_per_client: rng.random_range(1..5),
        presence_grace: rng.random_range(0..3) * 10 * SECOND,
        create_rooms: rng.random_bool(0.9),
        ..Settings::default()
    };
    let mut world = World::seeded(settings, seed);
    world.prompt = rng.random_bool(0.1);
    world.fast = rng.random_bool(0.3);
    world.log.page = rng.random_range(0..4);
    let failing = if rng.random_bool(0.5) { 0.0 } else { 0.1 };
    let [strict, ending, dying] = [0.7, 0.5, 0.5].map(|chance| rng.random_bool(chance));
    let mut sim = Sim { world, rng, left_at: Vec::new(), said: 0, failing, strict, ending, dying };
    for _ in 0..STEPS {
        sim.step();
    }
    sim.finish();
    for (kind, count) in &sim.world.tally {
        *tally.entry(kind.clone()).or_default() += count;
    }
}

impl Sim {
    fn conn(&mut self) -> Option<ConnId> {
        let conns: Vec<ConnId> = self.world.peers.keys().copied().collect();
        conns.choose(&mut self.rng).copied()
    }

    fn is_text(&self, conn: ConnId) -> bool {
        self.world.hub.client(conn).is_some_and(|client| client.dialect == Dialect::Text)
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.rng).expect("there are some").clone()
    }

    fn room(&mut self) -> RoomName {
        room(self.one_of(&ROOMS))
    }

    /// Mostly one that the client is in.
    fn room_of(&mut self, conn: ConnId) -> RoomName {
        let rooms: Vec<RoomName> = self.world.peers[&conn].views.keys().cloned().collect();
        match rooms.choose(&mut self.rng) {
            Some(room) if self.rng.random_bool(0.7) => room.clone(),
            _ => self.room(),
        }
    }

    fn user(&mut self) -> UserId {
        UserId::parse(self.one_of(&USERS)).expect("a good user")
    }

    fn step(&mut self) {
        let some = self.conn();
        if let Some(conn) = some
            && self.is_text(conn)
            && self.rng.random_bool(0.3)
        {
            self.said += 1;
            return self.world.input(Input::Text { conn, text: format!("message {}", self.said) });
        }
        let some = some.filter(|conn| !self.is_text(*conn) || self.rng.random_bool(0.1));
        match (self.rng.random_range(0..110), some) {
            (0..8, _) | (_, None) => self.arrive(),
            (8..13, Some(conn)) => self.depart(conn),
            // The rest of the frames is not for those who know only text.
            (13..59, Some(conn)) if self.is_text(conn) => {}
            (13..23, Some(conn)) => {
                let (room, history) = (self.room(), self.one_of(&[0, 0, 3, 500]));
                self.world.say(conn, ClientFrame::Join { room, history });
            }
            (23..27, Some(conn)) => {
                let room = self.room();
                self.world.say(conn, ClientFrame::Leave { room });
            }
            (27..48, Some(conn)) => self.speak(conn),
            (48..50, Some(conn)) => {
                let room = self.room_of(conn);
                let target = self.target(&room);
                self.world.say(conn, ClientFrame::Delete { room, target });
            }
            (50..54, Some(conn)) => {
                let room = self.room_of(conn);
                let seq = self.target(&room);
                let range = self.one_of(&[HistoryRange::Latest, HistoryRange::Before(seq), HistoryRange::After(seq)]);
                let limit = self.rng.random_range(0..8);
                self.world.say(conn, ClientFrame::History { room, range, limit });
            }
            (54..57, Some(conn)) => {
                let nick = self.one_of(&["Ann", "ann", "Bob", "", "x", "u1", "System"]).to_owned();
                self.world.say(conn, ClientFrame::Nick { nick });
            }
            (57..59, Some(conn)) => {
                let room = self.room_of(conn);
                let frame =
                    if self.rng.random() { ClientFrame::Who { room } } else { ClientFrame::Typing { room, on: true } };
                self.world.say(conn, frame);
            }
            (59..61, Some(conn)) => {
                let name = self.room();
                let target = self.one_of(&[Target::Everyone, Target::Room(name), Target::Conn(conn)]);
                self.world.input(Input::Notice { target, text: "n".to_owned(), level: Level::Info });
            }
            (61..68, Some(conn)) => self.world.drain(conn),
            (68..72, _) => {
                let most = if self.rng.random_bool(0.1) { 700_000 } else { 30_000 };
                let by = Duration::from_millis(self.rng.random_range(0..most));
                self.world.advance(by);
            }
            (72..74, _) => self.retain(),
            (74..76, _) => {
                let default_rooms = ROOMS.iter().filter(|_| self.rng.random_bool(0.4)).map(|name| room(name)).collect();
                let settings = Settings { default_rooms, ..self.world.hub.settings().clone() };
                self.world.input(Input::Settings(Box::new(settings)));
            }
            (76..81, Some(conn)) if self.strict && !self.is_text(conn) => self.moderate(conn),
            (81..85, _) if self.strict => self.operate(),
            (85..86, _) if self.dying && self.rng.random_bool(0.5) => self.die(),
            (86..89, _) => {
                let fail = self.rng.random_bool(self.failing);
                self.world.save(fail);
            }
            _ => self.log_works(),
        }
    }

    fn log_works(&mut self) {
        let log = &self.world.log;
        if !log.pages.is_empty() && self.rng.random_bool(0.3) {
            let at = self.rng.random_range(0..log.pages.len());
            let page = self.world.log.pages.remove(at).expect("one of them");
            return self.world.input(Input::Log(page));
        }
        let rooms: Vec<RoomName> = log.queues.keys().chain(log.done.keys()).cloned().collect();
        let Some(name) = rooms.choose(&mut self.rng) else { return };
        match self.rng.random_range(0..10) {
            0..2 => self.world.work_ahead(name, true),
            2..4 => self.world.work_ahead(name, false),
            _ => {
                let fail = self.rng.random_bool(self.failing);
                self.world.answer_log(name, fail);
            }
        }
    }

    /// What is old is no longer kept; a room that nobody uses may be forgotten altogether.
    fn retain(&mut self) {
        let name = self.room();
        if self.world.hub.room(&name).is_none() && self.rng.random_bool(0.3) {
            self.world.log.forget(&name);
        }
        if let Some(stream) = self.world.log.streams.get_mut(&name) {
            let most = stream.records.len() as u64 + 1;
            stream.first = self.rng.random_range(stream.first..=most);
        }
    }

    /// Mostly a number that there is.
    fn target(&mut self, room: &RoomName) -> Seq {
        let head = self.world.log.streams.get(room).map_or(0, |stream| stream.records.len() as Seq);
        self.rng.random_range(0..head + 2)
    }

    fn until(&mut self) -> Option<SystemTime> {
        let lasts = self.rng.random_range(0..60) * SECOND;
        self.rng.random_bool(0.8).then(|| self.world.wall() + lasts)
    }

    fn moderate(&mut self, conn: ConnId) {
        let (room, user) = (self.room_of(conn), self.user());
        let lasts = self.rng.random_bool(0.7).then(|| self.rng.random_range(1..60) * SECOND);
        let frame = match self.rng.random_range(0..10) {
            0..6 => ClientFrame::Mute { room, user, lasts, reason: String::new() },
            6..8 => ClientFrame::Unmute { room, user },
            _ => {
                let target = self.target(&room);
                ClientFrame::Delete { room, target }
            }
        };
        self.world.say(conn, frame);
    }

    fn operate(&mut self) {
        let (room, user, until) = (self.room(), self.user(), self.until());
        let (target, reason) = (self.target(&room), "because".to_owned());
        let net = self.one_of(&["192.0.2.1/32", "192.0.2.0/24", "2001:db8::/32"]).parse().expect("a network");
        let action = match self.rng.random_range(0..12) {
            0..3 => Action::Delete { room, target },
            3..5 => Action::Purge { room },
            5 => Action::CloseRoom { room, reason },
            6 => Action::Ban { target: BanTarget::User(user), until, reason },
            7 => Action::Ban { target: BanTarget::Net(net), until, reason },
            8 => Action::Mute { user, room: Some(room), until, reason },
            9 => Action::Mute { user, room: None, until, reason },
            _ => {
                let known: Vec<(u64, SanctionKind)> =
                    self.world.in_force.values().map(|sanction| (sanction.id, sanction.kind())).collect();
                let (id, kind) = known.choose(&mut self.rng).copied().unwrap_or((99, SanctionKind::Ban));
                match self.rng.random_bool(0.4) {
                    true => Action::Amend { kind, id, until: Some(until), reason: None },
                    false => Action::Lift { kind, id },
                }
            }
        };
        self.world.order(action);
        // Whoever banned somebody closes the connections that it was told of.
        let answers = std::mem::take(&mut self.world.moderated);
        for answer in answers.into_values() {
            if let Ok(Outcome::Sanctioned { sanction, conns }) = answer
                && sanction.kind() == SanctionKind::Ban
            {
                for conn in conns.into_iter().filter(|_| self.rng.random_bool(0.8)).collect::<Vec<_>>() {
                    if self.world.peers.contains_key(&conn) {
                        self.depart(conn);
                    }
                }
            }
        }
    }

    /// The daemon is killed: everybody comes back to another one over the same log.
    fn die(&mut self) {
        for conn in self.world.peers.keys().copied().collect::<Vec<_>>() {
            self.remember(conn);
        }
        let (pause, seed) = (Duration::from_millis(self.rng.random_range(0..200_000)), self.rng.random());
        self.world.restart(pause, seed);
    }

    fn identity(&mut self) -> (Identity, Option<UserId>) {
        if self.rng.random_bool(0.3) {
            let guest = self.one_of(&["g1", "g2"]);
            return match self.rng.random() {
                true => (Identity::NewGuest, None),
                false => (Identity::Guest(guest.to_owned()), Some(UserId::guest(guest))),
            };
        }
        let name = self.one_of(&USERS);
        let given = match self.rng.random_range(0..10) {
            0..5 => Some(name),
            5..7 => Some("Ann"),
            _ => None,
        };
        let mut claims = claims(name, given);
        if self.rng.random_bool(0.3) {
            claims.rooms = self.one_of(&[globs(&["lobby"]), globs(&["a", "b"]), globs(&["?"]), globs(&["none"])]);
        }
        claims.moderator = self.strict && self.rng.random_bool(0.3);
        if self.ending && self.rng.random_bool(0.4) {
            claims.expires = self.world.wall() + self.rng.random_range(0..90) * SECOND;
        }
        let user = claims.user.clone();
        (Identity::User(Box::new(claims)), Some(user))
    }

    fn arrive(&mut self) {
        if self.world.peers.len() > 12 {
            return;
        }
        let addr: IpAddr =
            self.one_of(&["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"]).parse().expect("one");
        let (identity, user) = self.identity();
        if self.rng.random_bool(0.2) {
            self.world.connect_as(Dialect::Text, addr, Ok(identity));
            return;
        }
        let conn = self.world.connect_as(Dialect::Json, addr, Ok(Identity::NewGuest));
        let mut hello = Hello { identity, ..Hello::default() };
        if self.rng.random_bool(0.3) {
            hello.nick = Some(self.one_of(&["Ann", "bob", " ", "系统"]).to_owned());
        }
        if self.rng.random_bool(0.5) {
            hello.rooms = Some((0..self.rng.random_range(0..3)).map(|_| self.room()).collect());
            hello.history = self.rng.random_range(0..4);
        }
        // A user that was here before goes on where it stopped.
        let (mine, rest) =
            std::mem::take(&mut self.left_at).into_iter().partition(|(who, ..)| Some(who) == user.as_ref());
        self.left_at = rest;
        let mine: Vec<(UserId, RoomName, Cursor)> = mine;
        hello.resume = mine.into_iter().map(|(_, room, cursor)| (room, cursor)).collect();
        hello.resume.sort_by(|a, b| a.0.cmp(&b.0));
        hello.resume.dedup_by(|a, b| a.0 == b.0);
        if self.rng.random_bool(0.1) {
            let epoch = if self.rng.random() { "e1" } else { "never" }.to_owned();
            let seq = self.rng.random_range(0..30);
            let room = self.room();
            if hello.resume.iter().all(|(known, _)| *known != room) {
                hello.resume.push((room, Cursor { epoch, seq }));
            }
        }
        self.world.hello(conn, hello);
    }

    fn remember(&mut self, conn: ConnId) {
        let peer = &self.world.peers[&conn];
        let Some(user) = peer.user.clone() else { return };
        for (room, view) in &peer.views {
            if let Some(seq) = view.cursor() {
                let cursor = Cursor { epoch: view.epoch.to_string(), seq };
                self.left_at.push((user.clone(), room.clone(), cursor));
            }
        }
    }

    fn depart(&mut self, conn: ConnId) {
        let clean = self.rng.random();
        self.remember(conn);
        self.world.drop_conn(conn, clean);
    }

    fn speak(&mut self, conn: ConnId) {
        self.said += 1;
        let text = format!("message {}", self.said);
        let to = match self.rng.random_range(0..10) {
            0 => MessageTo::DefaultRoom,
            1 => MessageTo::User(self.user()),
            _ => MessageTo::Room(self.room_of(conn)),
        };
        let cid = self.rng.random_bool(0.4).then(|| format!("c{}", self.rng.random_range(0..10)));
        self.world.say(conn, ClientFrame::Message { to, text, cid });
    }

    /// The log answers, the sockets take everything, all go away: nothing is left over.
    fn finish(&mut self) {
        let world = &mut self.world;
        world.fast = true;
        world.prompt = true;
        let conns: Vec<ConnId> = world.peers.keys().copied().collect();
        for conn in &conns {
            world.drain(*conn);
        }
        world.save(false);
        world.settle();
        assert!(world.asked.is_empty(), "operators wait for an answer");
        for (conn, peer) in world.peers.iter().filter(|(_, peer)| peer.closed.is_none()) {
            let said_hello = peer.user.is_some();
            assert!(!said_hello || peer.open.is_empty(), "{conn} has no answer to {:?}", peer.open);
            for name in peer.views.keys() {
                let row = world.hub.room(name).expect("a room that one is in");
                assert!(world.members[&row.id].contains(conn), "{conn} never came to hear {name}");
            }
        }
        for conn in conns {
            world.drop_conn(conn, conn.0 % 2 == 0);
        }
        world.advance(Duration::from_secs(10_000));
        let counts = world.hub.counts();
        assert_eq!((counts.clients, counts.users), (0, 0));
        assert_eq!(world.hub.next_deadline(), None);
        assert!(world.hub.is_empty(), "something was not given back");
        // The default rooms are kept for nothing else than being that.
        let settings = world.hub.settings().clone();
        world.input(Input::Settings(Box::new(Settings { default_rooms: Vec::new(), ..settings })));
        world.advance(Duration::from_secs(1000));
        assert_eq!((world.hub.next_deadline(), world.hub.counts().rooms), (None, 0));
        assert!(world.hub.is_empty(), "a default room was not given back");
        assert!(world.members.values().all(|members| members.is_empty()));
    }
}
