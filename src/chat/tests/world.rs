//! Workers, clients and a room log, in memory and under the test's command.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::event::*;
use super::super::hub::Hub;
use super::super::id::{ConnId, Nick, RoomId, RoomName, Seq, UserId};

pub fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

/// A room log that answers when it is told to.
#[derive(Default)]
pub struct FakeLog {
    pub streams: BTreeMap<RoomName, FakeStream>,
    /// Asked and not answered; each room in its order.
    pub queues: BTreeMap<RoomName, VecDeque<LogRequest>>,
    /// The most entries of a page, whatever is asked for; 0 for as many as are asked for.
    pub page: Seq,
    epochs: u32,
}

pub struct FakeStream {
    pub epoch: Arc<str>,
    /// Everything ever kept: seq 1 is the first.
    pub records: Vec<Arc<Record>>,
    /// The oldest that can still be read.
    pub first: Seq,
}

impl FakeLog {
    /// Answers the oldest request of a room; `fail`: that it cannot.
    pub fn answer(&mut self, name: &RoomName, fail: bool) -> Option<LogReply> {
        let request = self.queues.get_mut(name)?.pop_front()?;
        if self.queues[name].is_empty() {
            self.queues.remove(name);
        }
        let failure = LogFailure::Unavailable("the disk is full".to_owned());
        let epochs = &mut self.epochs;
        let stream = self.streams.entry(name.clone()).or_insert_with(|| {
            *epochs += 1;
            FakeStream { epoch: format!("e{epochs}").into(), records: Vec::new(), first: 1 }
        });
        let head = stream.records.len() as Seq;
        let first = stream.first;
        Some(match request {
            LogRequest::Close { .. } => return self.answer(name, fail),
            LogRequest::Open { room } if fail => LogReply::Failed { room: Some(room), ticket: None, failure },
            LogRequest::Append { room, ticket, .. } | LogRequest::Read { room, ticket, .. } if fail => {
                LogReply::Failed { room: Some(room), ticket: Some(ticket), failure }
            }
            LogRequest::Open { room } => {
                LogReply::Opened { room, epoch: stream.epoch.clone(), head, first, said: Vec::new() }
            }
            LogRequest::Append { room, ticket, record } => {
                stream.records.push(record);
                LogReply::Committed { room, ticket, seq: head + 1, first, removed: 0 }
            }
            LogRequest::Read { room, ticket, range, limit, .. } => {
                let limit = if self.page > 0 { self.page.min(Seq::from(limit)) } else { Seq::from(limit) };
                let (from, to) = match range {
                    HistoryRange::After(seq) => ((seq + 1).max(first), (seq.max(first - 1) + limit).min(head)),
                    HistoryRange::Latest => ((head + 1).saturating_sub(limit).max(first), head),
                    HistoryRange::Before(seq) => {
                        let to = seq.saturating_sub(1).min(head);
                        ((to + 1).saturating_sub(limit).max(first), to)
                    }
                };
                let entry = |seq| Entry { seq, record: stream.records[seq as usize - 1].clone() };
                let entries: Vec<Entry> = (from..=to).map(entry).collect();
                let more = match range {
                    HistoryRange::After(_) => to < head,
                    _ => from > first,
                };
                LogReply::Page { room, ticket, epoch: stream.epoch.clone(), entries, more, first, head }
            }
            LogRequest::Delete { .. } | LogRequest::Purge { .. } | LogRequest::List { .. } => return None,
        })
    }
}

/// What one client knows of a room.
pub struct View {
    /// The seq that must come next.
    next: Seq,
    /// Until the first entry: it may also begin earlier, from here.
    earliest: Option<Seq>,
    /// Who is there, by what it was told; absent in large rooms.
    pub members: Option<BTreeMap<UserId, Nick>>,
}

impl View {
    /// The last seq that it has seen; absent while that is not yet settled.
    pub fn cursor(&self) -> Option<Seq> {
        self.earliest.is_none().then_some(self.next - 1)
    }
}

/// One connection, as its client and its worker see it.
#[derive(Default)]
pub struct Peer {
    pub user: Option<UserId>,
    pub inbox: Vec<ServerFrame>,
    pub views: BTreeMap<RoomName, View>,
    /// Asked for and not yet answered.
    pub open: BTreeSet<u64>,
    messages: BTreeSet<u64>,
    last: u64,
    resume: BTreeMap<RoomName, Cursor>,
    /// What each of its requests asked for, by its number.
    history: BTreeMap<RoomName, Vec<(u64, u32)>>,
    pub page_under_way: bool,
}

pub struct World {
    pub hub: Hub,
    pub log: FakeLog,
    /// The log answers at once.
    pub prompt: bool,
    /// Sockets take a page at once.
    pub fast: bool,
    pub mono: Duration,
    pub peers: BTreeMap<ConnId, Peer>,
    pub members: BTreeMap<RoomId, BTreeSet<ConnId>>,
    pub happened: Vec<Happening>,
    pub publishes: usize,
    /// Check after every input what must hold; too slow for crowds.
    pub watchful: bool,
    last_conn: u64,
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
            peers: BTreeMap::new(),
            members: BTreeMap::new(),
            happened: Vec::new(),
            publishes: 0,
            watchful: true,
            last_conn: 0,
        }
    }

    // What may happen.

    pub fn connect(&mut self, dialect: Dialect) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.peers.insert(conn, Peer::default());
        self.input(Input::Connected {
            conn,
            dialect,
            addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            admission: Ok(Identity::NewGuest),
        });
        conn
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
        let peer = self.peers.get_mut(&conn).unwrap();
        peer.resume = hello.resume.iter().cloned().collect();
        // A room that is resumed and cannot be recovered is joined like the others.
        let resumed = hello.resume.iter().map(|(room, _)| room);
        for room in hello.rooms.iter().flatten().chain(&self.hub.settings().default_rooms).chain(resumed) {
            peer.history.entry(room.clone()).or_default().push((peer.last + 1, hello.history));
        }
        self.say(conn, ClientFrame::Hello(hello))
    }

    /// Sends a frame; the client's number for it.
    pub fn say(&mut self, conn: ConnId, frame: ClientFrame) -> u64 {
        let peer = self.peers.get_mut(&conn).unwrap();
        peer.last += 1;
        let seq = peer.last;
        match &frame {
            ClientFrame::Typing { .. } => {}
            ClientFrame::Message { .. } => {
                peer.messages.insert(seq);
                peer.open.insert(seq);
            }
            _ => {
                peer.open.insert(seq);
            }
        }
        if let ClientFrame::Join { room, history } = &frame
            && (!peer.views.contains_key(room) || peer.user.is_none())
        {
            // Another join of the room may be under way, and it is not known which one will count.
            peer.history.entry(room.clone()).or_default().push((seq, *history));
        }
        self.input(Input::Frame { conn, seq, frame });
        seq
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

    pub fn answer_log(&mut self, name: &RoomName, fail: bool) {
        if let Some(reply) = self.log.answer(name, fail) {
            self.input(Input::Log(reply));
        }
    }

    /// The log answers all it has been asked, and what is asked on that.
    pub fn settle(&mut self) {
        while let Some(name) = self.log.queues.keys().next().cloned() {
            self.answer_log(&name, false);
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
                && let Some(name) = self.log.queues.keys().next().cloned()
            {
                if let Some(reply) = self.log.answer(&name, false) {
                    self.step(Input::Log(reply));
                }
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
        let now = Now { mono: self.mono, wall: SystemTime::UNIX_EPOCH + self.mono };
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
                        Some((one, None)) if *one == conn => self.spare(conn, &frame),
                        _ => self.deliver(conn, frame.clone()),
                    }
                }
            }
            Effect::SendAll { frame } => {
                let welcomed = self.peers.iter().filter(|(_, peer)| peer.user.is_some()).map(|(conn, _)| *conn);
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
            Effect::Close { .. } | Effect::Moderated { .. } | Effect::SaveSanctions { .. } => unreachable!("not yet"),
            Effect::Log(request) => {
                let room = match &request {
                    LogRequest::Open { room } | LogRequest::Close { room } => room,
                    LogRequest::Append { room, .. } | LogRequest::Read { room, .. } => room,
                    LogRequest::Delete { .. } | LogRequest::Purge { .. } | LogRequest::List { .. } => {
                        unreachable!("not yet")
                    }
                };
                self.log.queues.entry(room.clone()).or_default().push_back(request);
            }
            Effect::Happened(happening) => self.happened.push(happening),
        }
    }

    /// A client of the text dialect is spared its own message.
    fn spare(&mut self, conn: ConnId, frame: &ServerFrame) {
        if let ServerFrame::Entry { room, entry } = frame {
            let view = self.peers.get_mut(&conn).and_then(|peer| peer.views.get_mut(room)).expect("it is a member");
            assert_eq!(entry.seq, view.next);
            view.next += 1;
        }
    }

    /// A frame reaches a client, which checks that it makes sense.
    fn deliver(&mut self, conn: ConnId, frame: ServerFrame) {
        let peer = self.peers.get_mut(&conn).unwrap_or_else(|| panic!("{frame:?} to {conn}, which is gone"));
        let log = &self.log;
        let kept = |room: &RoomName, seq: Seq, id: &str| {
            let stream = &log.streams[room];
            assert_eq!(stream.records[seq as usize - 1].id, id, "{room} {seq} is not what the log kept");
        };
        match &frame {
            ServerFrame::Welcome(welcome) => {
                assert!(peer.user.replace(welcome.user.clone()).is_none(), "welcomed twice");
                peer.open.remove(&welcome.re);
            }
            ServerFrame::Error(error) => {
                peer.open.remove(&error.re);
                if peer.messages.contains(&error.re) {
                    assert!(peer.messages.remove(&error.re));
                }
            }
            _ => assert!(peer.user.is_some(), "{frame:?} before welcome"),
        }
        match &frame {
            ServerFrame::Joined(joined) => {
                peer.open.remove(&joined.re);
                let tell = |members: &Vec<Member>| members.iter().map(|m| (m.user.clone(), m.nick.clone())).collect();
                // Where rooms grow over the limit, lists go stale until the number is told.
                let told = joined.members.as_ref().filter(|_| self.hub.settings().presence_limit > 100);
                let members = told.map(tell);
                let asked = peer.history.entry(joined.room.clone()).or_default();
                let history = Seq::from(asked.iter().map(|(_, history)| *history).max().unwrap_or(0));
                // Requests that wait behind a leave are still to be answered.
                asked.retain(|(re, _)| *re > joined.re);
                let mut view = View { next: joined.seq + 1, earliest: None, members };
                if joined.recovered {
                    match (peer.views.get(&joined.room), peer.resume.remove(&joined.room)) {
                        (Some(old), _) => assert_eq!(old.next, view.next, "joined again"),
                        (None, cursor) => view.next = cursor.expect("recovered unasked").seq + 1,
                    }
                } else {
                    peer.resume.remove(&joined.room);
                    view.earliest = (history > 0).then(|| view.next.saturating_sub(history.min(100)).max(1));
                }
                peer.views.insert(joined.room.clone(), view);
            }
            ServerFrame::Left { re, room, .. } => {
                peer.open.remove(re);
                peer.views.remove(room);
            }
            ServerFrame::Entry { room, entry } => {
                kept(room, entry.seq, &entry.record.id);
                let view = peer.views.get_mut(room).expect("an entry of a room that it is not in");
                match view.earliest.take() {
                    Some(earliest) => assert!((earliest..=view.next).contains(&entry.seq), "{room} {}", entry.seq),
                    None => assert_eq!(entry.seq, view.next, "hole or double in {room} at {conn}"),
                }
                view.next = entry.seq + 1;
            }
            ServerFrame::Ack { re, kept: what, .. } => {
                peer.open.remove(re);
                if let Some(Kept { id, seq, room }) = what {
                    kept(room, *seq, id);
                    assert!(peer.messages.remove(re), "two answers to a message");
                    if let Some(view) = peer.views.get_mut(room) {
                        assert!(*seq <= view.next, "an ack ahead of its place: {seq} of {}", view.next);
                        match view.earliest {
                            Some(earliest) if *seq < view.next => view.earliest = Some(earliest.max(seq + 1)),
                            _ if *seq == view.next => (view.next, view.earliest) = (seq + 1, None),
                            _ => {}
                        }
                    }
                }
            }
            ServerFrame::Presence { room, change, online } => {
                let own = peer.user.clone();
                let view = peer.views.get_mut(room).expect("presence of a room that it is not in");
                match (change, &mut view.members) {
                    (Some(change), Some(members)) => {
                        let nick = change.nick.clone();
                        match change.state {
                            PresenceState::Join => {
                                assert_ne!(Some(&change.user), own.as_ref(), "told of its own joining");
                                assert!(members.insert(change.user.clone(), nick).is_none(), "joined twice");
                            }
                            PresenceState::Leave => assert!(members.remove(&change.user).is_some(), "left twice"),
                            PresenceState::Nick => assert!(members.insert(change.user.clone(), nick).is_some()),
                        }
                        assert_eq!(members.len(), *online);
                    }
                    _ => view.members = None,
                }
            }
            ServerFrame::History(page) => {
                peer.open.remove(&page.re);
                assert!(page.entries.is_sorted_by(|a, b| a.seq + 1 == b.seq));
                page.entries.iter().for_each(|entry| kept(&page.room, entry.seq, &entry.record.id));
            }
            ServerFrame::Who { re, .. } => {
                peer.open.remove(re);
            }
            _ => {}
        }
        peer.inbox.push(frame);
    }

    /// What must hold between any two inputs.
    fn check(&self) {
        for (conn, peer) in &self.peers {
            for (name, view) in &peer.views {
                let row = self.hub.room(name).expect("a room that one is in");
                assert!(self.hub.members(name).any(|member| member == *conn));
                // Who hears the room knows all of it; who catches up knows no more than there is.
                let hears = self.members.get(&row.id).is_some_and(|members| members.contains(conn));
                assert!(view.next <= row.head + 1);
                assert!(!hears || view.next == row.head + 1, "{conn} hears {name} and misses something");
                if let Some(members) = &view.members {
                    // Its own new nick it knows by the ack, not by presence.
                    let own = peer.user.as_ref();
                    let here = self.hub.users_in(name).filter(|row| Some(row.user) != own);
                    let here: Vec<_> = here.map(|row| (row.user, row.nick)).collect();
                    let told: Vec<_> = members.iter().filter(|(user, _)| Some(*user) != own).collect();
                    assert_eq!(told, here, "what {conn} knows of {name}");
                    assert!(own.is_none_or(|own| members.contains_key(own)));
                }
            }
        }
        for row in self.hub.rooms() {
            let conns: BTreeSet<ConnId> = self.hub.members(row.name).collect();
            let of_users: BTreeSet<ConnId> = self.hub.users_in(row.name).flat_map(|user| user.conns).collect();
            assert_eq!(conns, of_users, "connections and users of {} do not match", row.name);
            let entered = self.members.get(&row.id).cloned().unwrap_or_default();
            assert!(entered.is_subset(&conns), "members of {} at the workers", row.name);
        }
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

/// A frame in a few words, for assertions that are easy to read.
pub fn short(frame: &ServerFrame) -> String {
    match frame {
        ServerFrame::Welcome(w) => format!("welcome {}{}", w.nick, if w.resumed { " resumed" } else { "" }),
        ServerFrame::Joined(j) => {
            format!("joined {} {}{} of {}", j.room, j.seq, if j.recovered { " recovered" } else { "" }, j.online)
        }
        ServerFrame::Left { room, .. } => format!("left {room}"),
        ServerFrame::Muted { room, on, .. } => format!("muted {room:?} {on}"),
        ServerFrame::Entry { room, entry } => match &entry.record.body {
            Body::Message { from, text: Some(text), .. } => format!("{room} {} {}: {text}", entry.seq, from.nick),
            Body::Message { from, text: None, .. } => format!("{room} {} {}: (deleted)", entry.seq, from.nick),
            body => format!("{room} {} {body:?}", entry.seq),
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
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    let (user, nick) = (UserId::parse(user).unwrap(), nick.map(|nick| Nick::parse(nick).unwrap()));
    Identity::User(Box::new(Claims { user, nick, rooms: None, moderator: false, expires }))
}
