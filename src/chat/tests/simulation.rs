//! Random schedules of everything that can happen, with a log that is late and sometimes fails.
//!
//! What must hold is checked by the world after every input, and here at the end. A failing seed
//! is printed; `WSCHAT_SEED=<seed> cargo test --lib simulation` replays it alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::super::event::*;
use super::super::id::{ConnId, RoomName, UserId};
use super::world::{World, named, room};

/// In a plain run; `WSCHAT_SCHEDULES` asks for more.
const SCHEDULES: u64 = 600;
const STEPS: u32 = 150;
const ROOMS: [&str; 4] = ["lobby", "a", "b", "c"];

#[test]
fn simulation() {
    if let Ok(seed) = std::env::var("WSCHAT_SEED") {
        return schedule(seed.parse().expect("WSCHAT_SEED is a number"));
    }
    let schedules = std::env::var("WSCHAT_SCHEDULES").map_or(SCHEDULES, |count| count.parse().expect("a number"));
    for seed in 0..schedules {
        if let Err(failure) = catch_unwind(AssertUnwindSafe(|| schedule(seed))) {
            eprintln!("failing seed: {seed}");
            std::panic::resume_unwind(failure);
        }
    }
}

struct Sim {
    world: World,
    rng: StdRng,
    /// Where connections stopped reading, to be resumed: user, room, cursor.
    left_at: Vec<(UserId, RoomName, Cursor)>,
    said: u32,
    failing: f64,
}

fn schedule(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let settings = Settings {
        presence_limit: if rng.random_bool(0.3) { 2 } else { 1000 },
        rooms_per_client: rng.random_range(1..5),
        presence_grace: Duration::from_secs(rng.random_range(0..3) * 10),
        create_rooms: rng.random_bool(0.9),
        ..Settings::default()
    };
    let mut world = World::seeded(settings, seed);
    world.prompt = rng.random_bool(0.1);
    world.fast = rng.random_bool(0.3);
    world.log.page = rng.random_range(0..4);
    let failing = if rng.random_bool(0.5) { 0.0 } else { 0.1 };
    let mut sim = Sim { world, rng, left_at: Vec::new(), said: 0, failing };
    for _ in 0..STEPS {
        sim.step();
    }
    sim.finish();
}

impl Sim {
    fn conn(&mut self) -> Option<ConnId> {
        let conns: Vec<ConnId> = self.world.peers.keys().copied().collect();
        conns.choose(&mut self.rng).copied()
    }

    fn is_text(&self, conn: ConnId) -> bool {
        self.world.hub.client(conn).is_some_and(|client| client.dialect == Dialect::Text)
    }

    fn room(&mut self) -> RoomName {
        room(ROOMS.choose(&mut self.rng).expect("there are rooms"))
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
        match (self.rng.random_range(0..100), some) {
            (0..8, _) | (_, None) => self.arrive(),
            (8..13, Some(conn)) => self.depart(conn),
            // The rest of the frames is not for those who know only text.
            (13..59, Some(conn)) if self.is_text(conn) => {}
            (13..23, Some(conn)) => {
                let (room, history) = (self.room(), [0, 0, 3, 500].choose(&mut self.rng).copied().unwrap_or(0));
                self.world.say(conn, ClientFrame::Join { room, history });
            }
            (23..27, Some(conn)) => {
                let room = self.room();
                self.world.say(conn, ClientFrame::Leave { room });
            }
            (27..50, Some(conn)) => self.speak(conn),
            (50..54, Some(conn)) => {
                let seq = self.rng.random_range(0..20);
                let ranges = [HistoryRange::Latest, HistoryRange::Before(seq), HistoryRange::After(seq)];
                let range = ranges.choose(&mut self.rng).copied().unwrap_or(HistoryRange::Latest);
                let (room, limit) = (self.room(), self.rng.random_range(0..8));
                self.world.say(conn, ClientFrame::History { room, range, limit });
            }
            (54..57, Some(conn)) => {
                let nick = ["Ann", "ann", "Bob", "", "x"].choose(&mut self.rng).copied().unwrap_or("y").to_owned();
                self.world.say(conn, ClientFrame::Nick { nick });
            }
            (57..59, Some(conn)) => {
                let room = self.room();
                let frame =
                    if self.rng.random() { ClientFrame::Who { room } } else { ClientFrame::Typing { room, on: true } };
                self.world.say(conn, frame);
            }
            (59..61, Some(conn)) => {
                let name = self.room();
                let target = [Target::Everyone, Target::Room(name), Target::Conn(conn)].choose(&mut self.rng).cloned();
                let (target, text) = (target.unwrap_or(Target::Everyone), "n".to_owned());
                self.world.input(Input::Notice { target, text, level: Level::Info });
            }
            (61..68, Some(conn)) => self.world.drain(conn),
            (68..72, _) => {
                let by = Duration::from_millis(self.rng.random_range(0..30_000));
                self.world.advance(by);
            }
            (72..74, _) => {
                // What is old is no longer kept.
                let name = self.room();
                if let Some(stream) = self.world.log.streams.get_mut(&name) {
                    let most = stream.records.len() as u64 + 1;
                    stream.first = self.rng.random_range(stream.first..=most);
                }
            }
            (74..76, _) => {
                let default_rooms = ROOMS.iter().filter(|_| self.rng.random_bool(0.4)).map(|name| room(name)).collect();
                let settings = Settings { default_rooms, ..self.world.hub.settings().clone() };
                self.world.input(Input::Settings(Box::new(settings)));
            }
            _ => {
                let rooms: Vec<RoomName> = self.world.log.queues.keys().cloned().collect();
                if let Some(name) = rooms.choose(&mut self.rng) {
                    let fail = self.rng.random_bool(self.failing);
                    self.world.answer_log(name, fail);
                }
            }
        }
    }

    fn arrive(&mut self) {
        if self.world.peers.len() > 12 {
            return;
        }
        if self.rng.random_bool(0.2) {
            self.world.connect(Dialect::Text);
            return;
        }
        let conn = self.world.connect(Dialect::Json);
        let mut hello = Hello::default();
        let mut user = None;
        if self.rng.random_bool(0.7) {
            let names = ["u1", "u2", "u3", "u4"];
            let name = names.choose(&mut self.rng).copied().unwrap_or("u1");
            let id = UserId::parse(name).expect("a good user");
            hello.identity = named(name, Some(name));
            user = Some(id);
        }
        if self.rng.random_bool(0.3) {
            hello.nick = Some(["Ann", "bob", " "].choose(&mut self.rng).copied().unwrap_or("z").to_owned());
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

    fn depart(&mut self, conn: ConnId) {
        let clean = self.rng.random();
        let peer = &self.world.peers[&conn];
        if let Some(user) = peer.user.clone() {
            for (room, view) in &peer.views {
                if let (Some(seq), Some(stream)) = (view.cursor(), self.world.log.streams.get(room)) {
                    let cursor = Cursor { epoch: stream.epoch.to_string(), seq };
                    self.left_at.push((user.clone(), room.clone(), cursor));
                }
            }
        }
        self.world.drop_conn(conn, clean);
    }

    fn speak(&mut self, conn: ConnId) {
        self.said += 1;
        let text = format!("message {}", self.said);
        let user = ["u1", "u2", "u3"].choose(&mut self.rng).copied().unwrap_or("u1");
        let to = match self.rng.random_range(0..10) {
            0 => MessageTo::DefaultRoom,
            1 => MessageTo::User(UserId::parse(user).expect("a good user")),
            _ => MessageTo::Room(self.room()),
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
        world.settle();
        for (conn, peer) in &world.peers {
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
        world.advance(Duration::from_secs(1000));
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
