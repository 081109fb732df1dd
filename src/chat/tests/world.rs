//! Workers, clients and a room log, in memory and under the test's command.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::event::*;
use super::super::hub::Hub;
use super::super::id::{ConnId, Nick, RoomGlob, RoomId, RoomName, UserId};
use super::super::sanction::{BanTarget, Measure, Sanction};
pub use super::fake_log::FakeLog;
use super::peer::Peer;

pub fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

pub struct World {
    pub hub: Hub,
    pub log: FakeLog,
    /// The log answers at once.
    pub prompt: bool,
    /// Sockets take a page at once.
    pub fast: bool,
    pub mono: Duration,
    /// The time of day when the daemon was started, less what its clock began with.
    pub born: Duration,
    pub peers: BTreeMap<ConnId, Peer>,
    pub members: BTreeMap<RoomId, BTreeSet<ConnId>>,
    pub happened: Vec<Happening>,
    pub publishes: usize,
    /// Check after every input what must hold; too slow for crowds.
    pub watchful: bool,
    /// Books to be saved, and the last that was.
    pub saves: VecDeque<(u64, Vec<Arc<Sanction>>)>,
    pub saved: Vec<Arc<Sanction>>,
    /// Bans and mutes, by what operators who watch are told.
    pub in_force: BTreeMap<u64, Arc<Sanction>>,
    /// What operators have asked and not been answered; and the answers.
    pub asked: BTreeSet<u64>,
    pub moderated: BTreeMap<u64, Result<Outcome, ActionError>>,
    /// What has come about, and how often: that a schedule reaches what it is there for.
    pub tally: BTreeMap<String, u64>,
    last_conn: u64,
    last_action: u64,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        World::seeded(settings, 1)
    }

    pub fn seeded(settings: Settings, seed: u64) -> Self {
        World {
            hub: Hub::new(settings, seed, Vec::new()),
            log: FakeLog::default(),
            prompt: true,
            fast: true,
            mono: Duration::from_secs(1000),
            born: Duration::ZERO,
            peers: BTreeMap::new(),
            members: BTreeMap::new(),
            happened: Vec::new(),
            publishes: 0,
            watchful: true,
            saves: VecDeque::new(),
            saved: Vec::new(),
            in_force: BTreeMap::new(),
            asked: BTreeSet::new(),
            moderated: BTreeMap::new(),
            tally: BTreeMap::new(),
            last_conn: 0,
            last_action: 0,
        }
    }

    // What may happen.

    pub fn connect(&mut self, dialect: Dialect) -> ConnId {
        self.connect_as(dialect, IpAddr::V4(Ipv4Addr::LOCALHOST), Ok(Identity::NewGuest))
    }

    pub fn connect_as(&mut self, dialect: Dialect, addr: IpAddr, admission: Result<Identity, Close>) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let rooms = match &admission {
            Ok(Identity::User(claims)) => claims.rooms.clone(),
            _ => None,
        };
        let mut peer = Peer::default();
        peer.rooms = rooms;
        self.peers.insert(conn, peer);
        self.input(Input::Connected { conn, dialect, addr, admission });
        conn
    }

    pub fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.born + self.mono
    }

    /// A JSON client that has said hello with this nick, and is in the default rooms.
    pub fn client(&mut self, nick: &str) -> ConnId {
        let conn = self.connect(Dialect::Json);
        self.hello(conn, Hello { nick: Some(nick.to_owned()), ..Hello::default() });
        conn
    }

    /// A client of a user that a token named.
    pub fn user(&mut self, user: &str) -> ConnId {
        let conn = self.connect(Dialect::Json);
        let identity = named(user, Some(user));
        self.hello(conn, Hello { identity, ..Hello::default() });
        conn
    }

    pub fn hello(&mut self, conn: ConnId, hello: Hello) -> u64 {
        self.say(conn, ClientFrame::Hello(hello))
    }

    /// A JSON client of a user whom a token names so.
    pub fn bearer(&mut self, claims: Claims) -> ConnId {
        let conn = self.connect(Dialect::Json);
        self.hello(conn, Hello { identity: Identity::User(Box::new(claims)), ..Hello::default() });
        conn
    }

    /// Sends a frame; the client's number for it.
    pub fn say(&mut self, conn: ConnId, frame: ClientFrame) -> u64 {
        let default_rooms = self.hub.settings().default_rooms.clone();
        let seq = self.peers.get_mut(&conn).unwrap().says(&frame, &default_rooms);
        self.input(Input::Frame { conn, seq, frame });
        seq
    }

    /// An operator orders something; its number.
    pub fn order(&mut self, action: Action) -> u64 {
        self.last_action += 1;
        let id = self.last_action;
        self.asked.insert(id);
        self.input(Input::Moderate { id, by: "operator".to_owned(), action });
        id
    }

    /// The same, and the answer, which is there at once where everything is prompt.
    pub fn ordered(&mut self, action: Action) -> Result<Outcome, ActionError> {
        let id = self.order(action);
        self.moderated.remove(&id).expect("an answer")
    }

    /// The book that was given last is saved, and with it all before it; or it cannot be.
    pub fn save(&mut self, fail: bool) {
        let Some((version, sanctions)) = self.saves.pop_back() else { return };
        self.saves.clear();
        let result = if fail { Err("the disk is full".to_owned()) } else { Ok(()) };
        if !fail {
            self.saved = sanctions;
        }
        self.input(Input::SanctionsSaved { version, result });
    }

    /// The daemon is killed and started again over the same log and the book as it was saved; it
    /// takes `pause`.
    pub fn restart(&mut self, pause: Duration, seed: u64) {
        // The new daemon's clock begins anew, the time of day goes on.
        let wall = self.born + self.mono + pause;
        self.mono = Duration::from_secs(seed % 700);
        self.born = wall - self.mono;
        self.peers.clear();
        self.members.clear();
        self.saves.clear();
        self.asked.clear();
        self.log.restart();
        let sanctions: Vec<Sanction> = self.saved.iter().map(|sanction| Sanction::clone(sanction)).collect();
        self.in_force = self.saved.iter().map(|sanction| (sanction.id, sanction.clone())).collect();
        self.hub = Hub::new(self.hub.settings().clone(), seed, sanctions);
    }

    pub fn join(&mut self, conn: ConnId, name: &str, history: u32) -> u64 {
        self.say(conn, ClientFrame::Join { room: room(name), history })
    }

    pub fn leave(&mut self, conn: ConnId, name: &str) -> u64 {
        self.say(conn, ClientFrame::Leave { room: room(name) })
    }

    pub fn message(&mut self, conn: ConnId, name: &str, text: &str, cid: Option<&str>) -> u64 {
        let (to, text, cid) = (MessageTo::Room(room(name)), text.to_owned(), cid.map(str::to_owned));
        self.say(conn, ClientFrame::Message { to, text, cid })
    }

    pub fn drop_conn(&mut self, conn: ConnId, clean: bool) {
        let peer = self.peers.get_mut(&conn).unwrap();
        peer.views.clear();
        peer.page_under_way = false;
        self.input(Input::Disconnected { conn, clean });
        self.peers.remove(&conn).unwrap();
        assert!(self.members.values().all(|members| !members.contains(&conn)), "Enter and Exit of {conn} do not match");
    }

    pub fn advance(&mut self, by: Duration) {
        let until = self.mono + by;
        while let Some(at) = self.hub.next_deadline().filter(|at| *at <= until) {
            self.mono = self.mono.max(at);
            self.input(Input::Timer);
        }
        self.mono = until;
    }

    /// The log tells the next of a room: what it has done already, or else what it does now.
    pub fn answer_log(&mut self, name: &RoomName, fail: bool) {
        self.log.wall = self.wall();
        if let Some(reply) = self.log.tell(name).or_else(|| self.log.answer(name, fail)) {
            self.input(Input::Log(reply));
        }
    }

    /// The log does something that it does not tell yet; `page`: it reads one before all else.
    pub fn work_ahead(&mut self, name: &RoomName, page: bool) {
        self.log.wall = self.wall();
        if page { self.log.read_ahead(name) } else { self.log.work_ahead(name) }
    }

    /// The log answers all it has been asked, and what is asked on that.
    pub fn settle(&mut self) {
        loop {
            if let Some(page) = self.log.pages.pop_front() {
                self.input(Input::Log(page));
            } else if let Some(name) = self.log.done.keys().chain(self.log.queues.keys()).next().cloned() {
                self.answer_log(&name, false);
            } else {
                return;
            }
        }
    }

    pub fn drain(&mut self, conn: ConnId) {
        if std::mem::take(&mut self.peers.get_mut(&conn).unwrap().page_under_way) {
            self.input(Input::Drained { conn });
        }
    }

    pub fn input(&mut self, input: Input) {
        self.step(input);
        loop {
            if self.prompt
                && let Some(name) = self.log.done.keys().chain(self.log.queues.keys()).next().cloned()
            {
                self.log.wall = self.wall();
                if let Some(reply) = self.log.tell(&name).or_else(|| self.log.answer(&name, false)) {
                    self.step(Input::Log(reply));
                }
            } else if self.prompt
                && let Some((version, sanctions)) = self.saves.pop_front()
            {
                self.saved = sanctions;
                self.step(Input::SanctionsSaved { version, result: Ok(()) });
            } else if self.fast
                && let Some((conn, peer)) = self.peers.iter_mut().find(|(_, peer)| peer.page_under_way)
            {
                peer.page_under_way = false;
                let conn = *conn;
                self.step(Input::Drained { conn });
            } else {
                return;
            }
        }
    }

    fn step(&mut self, input: Input) {
        let leaving = match input {
            Input::Disconnected { conn, .. } => Some(conn),
            _ => None,
        };
        let now = Now { mono: self.mono, wall: self.wall() };
        let mut out = Vec::new();
        self.hub.handle(input, now, &mut out);
        for effect in out {
            self.perform(effect, leaving);
        }
        if self.watchful {
            self.check();
        }
    }

    fn perform(&mut self, effect: Effect, leaving: Option<ConnId>) {
        match effect {
            Effect::Send { conn, frame } => {
                assert_ne!(Some(conn), leaving, "{frame:?} to one who is gone");
                self.deliver(conn, frame);
            }
            Effect::SendPage { conn, frames } => {
                assert!(!frames.is_empty());
                let peer = self.peers.get_mut(&conn).expect("a page for one who is gone");
                assert!(!std::mem::replace(&mut peer.page_under_way, true), "two pages under way");
                frames.into_iter().for_each(|frame| self.deliver(conn, frame));
            }
            Effect::Publish { room, frame, instead } => {
                self.publishes += 1;
                let members = self.members.get(&room).cloned().unwrap_or_default();
                if let Some((conn, _)) = &instead {
                    assert!(members.contains(conn), "instead of one who is not a member");
                }
                for conn in members {
                    assert_ne!(Some(conn), leaving, "{frame:?} to one who is gone");
                    match &instead {
                        Some((one, Some(other))) if *one == conn => self.deliver(conn, other.clone()),
                        Some((one, None)) if *one == conn => self.peers.get_mut(&conn).unwrap().is_spared(&frame),
                        _ => self.deliver(conn, frame.clone()),
                    }
                }
            }
            Effect::SendAll { frame } => {
                // Workers say nothing to those who are on their way out.
                let here = |peer: &Peer| peer.user.is_some() && peer.closed.is_none();
                let welcomed = self.peers.iter().filter(|(_, peer)| here(peer)).map(|(conn, _)| *conn);
                for conn in welcomed.collect::<Vec<_>>() {
                    self.deliver(conn, frame.clone());
                }
            }
            Effect::Enter { conn, room } => {
                assert!(self.peers.contains_key(&conn) && leaving != Some(conn));
                assert!(self.members.entry(room).or_default().insert(conn), "entered twice");
            }
            Effect::Exit { conn, room } => {
                assert!(self.members.get_mut(&room).is_some_and(|members| members.remove(&conn)), "exit without enter");
            }
            Effect::Forget { room } => {
                assert!(self.members.remove(&room).is_none_or(|members| members.is_empty()), "forgotten with members");
            }
            Effect::Close { conn, close } => {
                assert_ne!(Some(conn), leaving);
                assert!(close.reason.len() <= 123, "{close:?}");
                assert!(self.members.values().all(|members| !members.contains(&conn)), "{conn} is closed and a member");
                let peer = self.peers.get_mut(&conn).unwrap();
                peer.page_under_way = false;
                *self.tally.entry(format!("close {}", close.code)).or_default() += 1;
                assert_eq!(peer.closed.replace(close), None, "closed twice");
            }
            Effect::Moderated { id, result } => {
                assert!(self.asked.remove(&id), "an answer that nobody waits for");
                let words = format!("{result:?}");
                let kind = words.split([' ', '(', '{']).take(2).collect::<Vec<_>>().join(" ");
                *self.tally.entry(kind).or_default() += 1;
                self.moderated.insert(id, result);
            }
            Effect::SaveSanctions { version, sanctions } => {
                assert!(self.saves.back().is_none_or(|(last, _)| *last < version));
                self.saves.push_back((version, sanctions));
            }
            Effect::Log(request) => {
                if let LogRequest::Append { room, record, .. } = &request
                    && let Body::Message { from, .. } = &record.body
                {
                    assert!(!self.is_muted(&from.user, room), "{} is muted and speaks in {room}", from.user);
                }
                self.log.ask(request);
            }
            Effect::Happened(happening) => {
                match &happening {
                    Happening::Sanctioned { sanction, .. } => {
                        self.in_force.retain(|_, known| known.measure != sanction.measure);
                        self.in_force.insert(sanction.id, sanction.clone());
                    }
                    Happening::Amended { sanction, .. } => drop(self.in_force.insert(sanction.id, sanction.clone())),
                    Happening::Lifted { sanction, .. } => drop(self.in_force.remove(&sanction.id)),
                    _ => {}
                }
                self.happened.push(happening);
            }
        }
    }

    fn is_muted(&self, user: &UserId, room: &RoomName) -> bool {
        let in_force = self.in_force.values().filter(|sanction| !sanction.is_over(self.wall()));
        let mut mutes = in_force.filter_map(|sanction| match &sanction.measure {
            Measure::Mute { user, room } => Some((user, room)),
            Measure::Ban(_) => None,
        });
        mutes.any(|(muted, place)| muted == user && place.as_ref().is_none_or(|place| place == room))
    }

    fn is_banned(&self, user: &UserId, addr: IpAddr) -> bool {
        let mut in_force = self.in_force.values().filter(|sanction| !sanction.is_over(self.wall()));
        in_force.any(|sanction| match &sanction.measure {
            Measure::Ban(BanTarget::User(banned)) => banned == user,
            Measure::Ban(BanTarget::Net(net)) => net.contains(&addr),
            Measure::Mute { .. } => false,
        })
    }

    fn deliver(&mut self, conn: ConnId, frame: ServerFrame) {
        if let ServerFrame::Welcome(welcome) = &frame {
            let row = self.hub.client(conn).unwrap();
            assert!(!self.is_banned(&welcome.user, row.addr), "{} is banned and welcome", welcome.user);
            assert!(row.token_exp.is_none_or(|end| end > self.wall()), "welcomed with a token that has ended");
        }
        *self.tally.entry(kind(&frame)).or_default() += 1;
        let small = self.hub.settings().presence_limit > 100;
        let peer = self.peers.get_mut(&conn).unwrap_or_else(|| panic!("{frame:?} to {conn}, which is gone"));
        peer.hears(frame, &self.log, small);
    }

    /// What must hold between any two inputs.
    fn check(&self) {
        let due = self.hub.next_deadline().is_some_and(|at| at <= self.mono);
        let mut views = 0;
        for (conn, peer) in self.peers.iter().filter(|(_, peer)| peer.closed.is_none()) {
            let token_exp = self.hub.client(*conn).and_then(|client| client.token_exp);
            assert!(due || token_exp.is_none_or(|end| end > self.wall()), "the token of {conn} has ended");
            views += peer.views.len();
        }
        let none = BTreeSet::new();
        for row in self.hub.rooms() {
            let name = row.name;
            let conns: BTreeSet<ConnId> = self.hub.members(name).collect();
            let users: Vec<_> = self.hub.users_in(name).collect();
            let of_users: BTreeSet<ConnId> = users.iter().flat_map(|user| &user.conns).copied().collect();
            assert_eq!(conns, of_users, "connections and users of {name} do not match");
            let entered = self.members.get(&row.id).unwrap_or(&none);
            assert!(entered.is_subset(&conns), "members of {name} at the workers");
            for conn in conns {
                let peer = &self.peers[&conn];
                let view = peer.views.get(name).expect("a member knows that it is one");
                views -= 1;
                // Who hears the room knows all of it; who catches up knows no more than there is.
                assert!(view.next <= row.head + 1);
                let hears = entered.contains(&conn);
                assert!(!hears || view.next == row.head + 1, "{conn} hears {name} and misses something");
                if let Some(members) = &view.members {
                    // Its own new nick it knows by the ack, not by presence.
                    let own = peer.user.as_ref();
                    let here = users.iter().map(|row| (row.user, row.nick)).filter(|(user, _)| Some(*user) != own);
                    let told = members.iter().filter(|(user, _)| Some(*user) != own);
                    assert!(told.eq(here), "what {conn} knows of {name}: {members:?} of {users:?}");
                    assert!(own.is_none_or(|own| members.contains_key(own)));
                }
            }
        }
        assert_eq!(views, 0, "somebody sees a room that it is not in");
    }

    // What is seen.

    /// What has come for a client since the last look.
    pub fn take(&mut self, conn: ConnId) -> Vec<ServerFrame> {
        std::mem::take(&mut self.peers.get_mut(&conn).unwrap().inbox)
    }

    /// The same in short, one word a frame.
    pub fn seen(&mut self, conn: ConnId) -> Vec<String> {
        self.take(conn).iter().map(short).collect()
    }

    pub fn forget_inboxes(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.inbox.clear());
    }
}

/// What sort of frame it is.
fn kind(frame: &ServerFrame) -> String {
    match frame {
        ServerFrame::Joined(joined) if joined.recovered => "recovered".to_owned(),
        ServerFrame::Entry { entry, .. } => match &entry.record.body {
            Body::Message { text: Some(_), .. } => "message".to_owned(),
            Body::Message { text: None, .. } => "deleted message".to_owned(),
            Body::Deleted { .. } => "deletes".to_owned(),
            Body::Purged => "purges".to_owned(),
            Body::Event { .. } => "event".to_owned(),
        },
        ServerFrame::Error(error) => format!("error {}", error.code.as_str()),
        other => short(other).split(' ').next().unwrap_or_default().to_owned(),
    }
}

/// A frame in a few words, for assertions that are easy to read.
pub fn short(frame: &ServerFrame) -> String {
    match frame {
        ServerFrame::Welcome(w) => format!("welcome {}{}", w.nick, if w.resumed { " resumed" } else { "" }),
        ServerFrame::Joined(j) => {
            format!("joined {} {}{} of {}", j.room, j.seq, if j.recovered { " recovered" } else { "" }, j.online)
        }
        ServerFrame::Left { room, .. } => format!("left {room}"),
        ServerFrame::Muted { room, on, .. } => {
            let place = room.as_ref().map_or("everywhere", RoomName::as_str);
            format!("{} {place}", if *on { "muted" } else { "unmuted" })
        }
        ServerFrame::Entry { room, entry } => match &entry.record.body {
            Body::Message { from, text: Some(text), .. } => format!("{room} {} {}: {text}", entry.seq, from.nick),
            Body::Message { from, text: None, .. } => format!("{room} {} {}: (deleted)", entry.seq, from.nick),
            Body::Deleted { target } => format!("{room} {} deletes {target}", entry.seq),
            Body::Purged => format!("{room} {} purges", entry.seq),
            Body::Event { name, .. } => format!("{room} {} event {name}", entry.seq),
        },
        ServerFrame::Direct(d) => format!("direct {}: {}", d.from.nick, d.text),
        ServerFrame::Presence { room, change: Some(c), online } => {
            let state = match c.state {
                PresenceState::Join => "join",
                PresenceState::Leave => "leave",
                PresenceState::Nick => "nick",
            };
            format!("{state} {room} {} of {online}", c.nick)
        }
        ServerFrame::Presence { room, change: None, online } => format!("online {room} {online}"),
        ServerFrame::Typing { room, nick, on, .. } => format!("typing {room} {nick} {on}"),
        ServerFrame::Notice { text, room, .. } => match room {
            Some(room) => format!("notice {room} {text}"),
            None => format!("notice {text}"),
        },
        ServerFrame::History(page) => {
            let seqs: Vec<String> = page.entries.iter().map(|entry| entry.seq.to_string()).collect();
            format!("history {}{}", seqs.join(","), if page.more { " more" } else { "" })
        }
        ServerFrame::Who { members, online, .. } => {
            let nicks: Vec<&str> = members.iter().map(|member| member.nick.as_str()).collect();
            format!("who {} of {online}", nicks.join(","))
        }
        ServerFrame::Ack { kept: Some(kept), .. } => format!("ack {} {}", kept.room, kept.seq),
        ServerFrame::Ack { delivered: Some(count), .. } => format!("ack delivered {count}"),
        ServerFrame::Ack { .. } => "ack".to_owned(),
        ServerFrame::Error(error) => format!("error {}", error.code.as_str()),
    }
}

/// Whom a token names, without end or bounds.
pub fn named(user: &str, nick: Option<&str>) -> Identity {
    Identity::User(Box::new(claims(user, nick)))
}

pub fn claims(user: &str, nick: Option<&str>) -> Claims {
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    let (user, nick) = (UserId::parse(user).unwrap(), nick.map(|nick| Nick::parse(nick).unwrap()));
    Claims { user, nick, rooms: None, moderator: false, expires }
}

pub fn moderator(user: &str) -> Claims {
    Claims { moderator: true, ..claims(user, Some(user)) }
}

pub fn globs(texts: &[&str]) -> Option<Arc<[RoomGlob]>> {
    Some(texts.iter().map(|text| RoomGlob::parse(text).unwrap()).collect())
}
