//! The one who decides: takes an [`Input`], keeps the books, gives [`Effect`]s.
//!
//! Here are the books and the way of an input through them; hello is in `greet`, joining in `join`,
//! messages in `speak`, backlogs in `pager`, presence in `presence`. What the session owns is not here: bytes,
//! tokens, rates, pings, queues of bytes, and closing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cid::CidWindow;
use super::event::{
    ClientFrame, Close, Dialect, Effect, ErrorCode, ErrorFrame, Hello, Input, Level, LogReply, LogRequest, Now,
    ServerFrame, Settings, Target, Ticket,
};
use super::id::{ConnId, RoomGlob, RoomId, RoomName, UserId};
use super::moderate::{Moderation, refuse};
use super::nick::NickBook;
use super::pager::Pager;
use super::people::People;
use super::room::{Ask, Room, Stream, Waiter};
use super::sanction::{Sanction, Sanctions};

/// The most frames of one connection that wait for a room to be opened.
pub const MAX_HELD: usize = 16;
/// Told to those who must try again because something of theirs is still under way.
pub const SOON: Duration = Duration::from_millis(500);
/// How long a room that nobody uses is kept open, so that a reload of a page costs no opening.
/// The default rooms stay open: what strangers do in others cannot make the log forget them.
const IDLE_ROOM: Duration = Duration::from_secs(60);
/// The most rooms that are kept open although nobody uses them.
const MAX_IDLE_ROOMS: usize = 1024;

/// The chat. See the module's documentation.
pub struct Hub {
    pub(super) settings: Settings,
    pub(super) rng: StdRng,
    pub(super) clients: BTreeMap<ConnId, Client>,
    pub(super) people: People,
    pub(super) nicks: NickBook,
    pub(super) rooms: HashMap<RoomId, Room>,
    pub(super) names: BTreeMap<RoomName, RoomId>,
    pub(super) cids: CidWindow,
    pub(super) sanctions: Sanctions,
    pub(super) moderation: Moderation,
    /// Reads that the log has not answered yet, and for whom.
    pub(super) reads: HashMap<Ticket, ConnId>,
    pub(super) timers: BTreeSet<(Duration, Timer)>,
    idle: BTreeSet<(Duration, RoomId)>,
    last_room: u32,
    last_ticket: u64,
    pub(super) committed: u64,
}

/// One connection.
pub(super) struct Client {
    pub dialect: Dialect,
    pub addr: IpAddr,
    pub phase: Phase,
    pub resumed: bool,
    /// The rooms it is in, in the order of joining.
    pub rooms: Vec<RoomId>,
    /// Rooms that the log has still to open for it: joins, or while greeting those of `resume`.
    pub waits_for: Vec<RoomId>,
    /// Pages of stored frames that it has asked for; absent most of the time.
    pub pager: Option<Box<Pager>>,
    /// What its token allows; absent for guests.
    pub grant: Option<Box<Grant>>,
}

/// What a token allows its connection, besides being its user.
pub(super) struct Grant {
    /// The rooms it may join; all where absent.
    pub rooms: Option<Arc<[RoomGlob]>>,
    pub moderator: bool,
    /// When the token ends, by the time of day.
    pub expires: SystemTime,
    /// When that is looked at next.
    pub look_at: Duration,
}

pub(super) enum Phase {
    /// It has not said hello.
    New,
    /// It has, and its rooms are being opened.
    Greeting(Box<Greeting>),
    Welcomed(UserId),
    /// It has been told to go, and is in nothing any more; who it was.
    Closed(Option<UserId>),
}

/// A hello that cannot be answered yet.
pub(super) struct Greeting {
    pub re: u64,
    pub hello: Hello,
    pub held: Vec<Held>,
}

/// A frame that waits, with the client's own number for it.
pub struct Held {
    pub seq: u64,
    pub frame: ClientFrame,
}

/// What is to be done at a time. In the order in which things of one moment are done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A dropped user counts as gone from a room.
    Leave(RoomId, UserId),
    /// A dropped user is no longer waited for.
    Release(UserId),
    /// A large room is told how many are in it.
    Tell(RoomId),
    /// A token may have ended.
    Expire(ConnId),
}

/// The moment of an input, and what comes of it.
pub(super) struct Turn<'a> {
    pub now: Now,
    pub out: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    pub fn push(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    pub fn send(&mut self, conn: ConnId, frame: ServerFrame) {
        self.out.push(Effect::Send { conn, frame });
    }

    pub fn log(&mut self, request: LogRequest) {
        self.out.push(Effect::Log(request));
    }

    pub fn error(&mut self, conn: ConnId, re: u64, code: ErrorCode, message: impl Into<String>) {
        self.send(conn, ServerFrame::Error(ErrorFrame { re, code, message: message.into(), retry: None }));
    }

    /// An error that passes by itself.
    pub fn retry(&mut self, conn: ConnId, re: u64, code: ErrorCode, message: impl Into<String>) {
        self.send(conn, ServerFrame::Error(ErrorFrame { re, code, message: message.into(), retry: Some(SOON) }));
    }
}

impl Hub {
    /// An empty chat. All that it draws by lot (ids of guests and messages) comes from `seed`.
    /// `sanctions`: those that were in force before.
    pub fn new(settings: Settings, seed: u64, sanctions: Vec<Sanction>) -> Self {
        Hub {
            settings,
            rng: StdRng::seed_from_u64(seed),
            clients: BTreeMap::new(),
            people: People::default(),
            nicks: NickBook::default(),
            rooms: HashMap::new(),
            names: BTreeMap::new(),
            cids: CidWindow::default(),
            sanctions: Sanctions::restore(sanctions),
            moderation: Moderation::default(),
            reads: HashMap::new(),
            timers: BTreeSet::new(),
            idle: BTreeSet::new(),
            last_room: 0,
            last_ticket: 0,
            committed: 0,
        }
    }

    /// Handles one input; what is to be done is appended to `out`, to be performed in that order.
    /// Inputs about connections that are not there have no effect.
    pub fn handle(&mut self, input: Input, now: Now, out: &mut Vec<Effect>) {
        let turn = &mut Turn { now, out };
        match input {
            Input::Connected { conn, dialect, addr, admission } => self.connected(conn, dialect, addr, admission, turn),
            Input::Frame { conn, seq, frame } => self.frame(conn, seq, frame, turn),
            Input::Text { conn, text } => self.text(conn, text, turn),
            Input::Disconnected { conn, clean } => self.disconnected(conn, clean, turn),
            Input::Drained { conn } => self.drained(conn, turn),
            Input::Log(reply) => self.log(reply, turn),
            Input::Timer => self.timer(turn),
            Input::Notice { target, text, level } => self.notice(target, text, level, turn),
            Input::Settings(settings) => self.set(*settings, turn),
            Input::Moderate { id, by, action } => self.moderate(id, by, action, turn),
            Input::SanctionsSaved { version, result } => self.sanctions_saved(version, result, turn),
        }
        self.trim_idle(turn);
    }

    /// Rooms that are no default any more are closed when unused, like all others; the new ones stay.
    fn set(&mut self, settings: Settings, turn: &mut Turn) {
        let before = std::mem::replace(&mut self.settings, settings).default_rooms;
        let concerned = before.iter().chain(&self.settings.default_rooms);
        let concerned: Vec<RoomId> = concerned.filter_map(|name| self.names.get(name).copied()).collect();
        for id in concerned {
            self.review(id, turn);
        }
    }

    /// When [`Input::Timer`] is wanted next, in [`Now::mono`].
    pub fn next_deadline(&self) -> Option<Duration> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let idle = self.idle.first().map(|(at, _)| *at);
        [timer, idle].into_iter().flatten().min()
    }

    pub(super) fn frame(&mut self, conn: ConnId, seq: u64, frame: ClientFrame, turn: &mut Turn) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        match (&mut client.phase, frame) {
            (Phase::New, ClientFrame::Hello(hello)) => self.hello(conn, seq, hello, turn),
            (Phase::New, _) => turn.error(conn, seq, ErrorCode::BadRequest, "say hello first"),
            (Phase::Greeting(_) | Phase::Welcomed(_), ClientFrame::Hello(_)) => {
                turn.error(conn, seq, ErrorCode::BadRequest, "hello has been said already; it comes once, first");
            }
            (Phase::Greeting(greeting), frame) => {
                if greeting.held.len() < MAX_HELD {
                    greeting.held.push(Held { seq, frame });
                } else {
                    turn.retry(conn, seq, ErrorCode::RateLimited, "hello is still being answered");
                }
            }
            (Phase::Welcomed(_), frame) => self.said(conn, seq, frame, turn),
            (Phase::Closed(_), _) => {}
        }
    }

    /// A frame of one who is welcome.
    fn said(&mut self, conn: ConnId, seq: u64, frame: ClientFrame, turn: &mut Turn) {
        let room = match &frame {
            ClientFrame::Message { to, .. } => self.room_meant(conn, to),
            ClientFrame::Leave { room } => Some(room.clone()),
            ClientFrame::History { room, .. }
            | ClientFrame::Typing { room, .. }
            | ClientFrame::Who { room }
            | ClientFrame::Delete { room, .. }
            | ClientFrame::Mute { room, .. }
            | ClientFrame::Unmute { room, .. } => Some(room.clone()),
            ClientFrame::Hello(_) | ClientFrame::Join { .. } | ClientFrame::Nick { .. } => None,
        };
        // What is said to a room that is being joined waits for the room.
        if let Some(room) = &room
            && let Some(id) = self.names.get(room)
            && let Some(Waiter::Join { held, .. }) = self.rooms.get_mut(id).and_then(|room| room.waiting.get_mut(&conn))
        {
            match frame {
                ClientFrame::Leave { .. } => self.give_up_join(conn, *id, seq, turn),
                ClientFrame::Message { ref text, .. } if text.len() > self.settings.limits.text => {
                    self.too_long(conn, seq, text.len(), turn);
                }
                frame if held.len() < MAX_HELD => held.push(Held { seq, frame }),
                _ => turn.retry(conn, seq, ErrorCode::RateLimited, format!("room {room} is still being joined")),
            }
            return;
        }
        match frame {
            // Answered in `frame`.
            ClientFrame::Hello(_) => {}
            ClientFrame::Join { room, history } => self.join(conn, seq, room, Ask::Last(history), turn),
            ClientFrame::Leave { room } => self.leave(conn, seq, &room, turn),
            ClientFrame::Message { to, text, cid } => self.message(conn, seq, to, text, cid, turn),
            ClientFrame::History { room, range, limit } => self.history(conn, seq, &room, range, limit, turn),
            ClientFrame::Typing { room, on } => self.typing(conn, seq, &room, on, turn),
            ClientFrame::Nick { nick } => self.nick(conn, seq, &nick, turn),
            ClientFrame::Who { room } => self.who(conn, seq, &room, turn),
            ClientFrame::Delete { room, target } => self.delete(conn, seq, &room, target, turn),
            ClientFrame::Mute { room, user, lasts, reason } => self.mute(conn, seq, &room, user, lasts, reason, turn),
            ClientFrame::Unmute { room, user } => self.unmute(conn, seq, &room, &user, turn),
        }
    }

    fn disconnected(&mut self, conn: ConnId, clean: bool, turn: &mut Turn) {
        self.detach(conn, clean, turn);
        self.clients.remove(&conn);
    }

    /// Tells a connection to go. From here on it is in nothing, and nothing more is said to it; its
    /// user is waited for as after a drop, since some of those who are closed come back at once.
    pub(super) fn close(&mut self, conn: ConnId, close: Close, turn: &mut Turn) {
        self.detach(conn, false, turn);
        turn.push(Effect::Close { conn, close });
    }

    /// Takes a connection out of all that it is in.
    fn detach(&mut self, conn: ConnId, clean: bool, turn: &mut Turn) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        // Nothing more is to be said to it, not even that a job of its pager is over.
        client.pager = None;
        if let Some(grant) = &client.grant {
            self.timers.remove(&(grant.look_at, Timer::Expire(conn)));
        }
        let (rooms, mut waits_for) = (client.rooms.clone(), std::mem::take(&mut client.waits_for));
        let resume = match &mut client.phase {
            Phase::Greeting(greeting) => std::mem::take(&mut greeting.hello.resume),
            Phase::New | Phase::Welcomed(_) | Phase::Closed(_) => Vec::new(),
        };
        let user = self.user_of(conn);
        for room in rooms {
            self.part(conn, room, clean, turn);
        }
        waits_for.extend(self.stop_holding(conn, &resume));
        for id in waits_for {
            if let Some(room) = self.rooms.get_mut(&id) {
                room.waiting.remove(&conn);
            }
            self.review(id, turn);
        }
        if let Some(client) = self.clients.get_mut(&conn)
            && !matches!(client.phase, Phase::Closed(_))
        {
            client.phase = Phase::Closed(user.clone());
        }
        if let Some(user) = user {
            self.connection_gone(&user, conn, clean, turn);
        }
    }

    fn log(&mut self, reply: LogReply, turn: &mut Turn) {
        match reply {
            LogReply::Opened { room, epoch, head, first, said } => {
                self.opened(&room, Stream { epoch, head, first }, said, turn);
            }
            LogReply::Committed { room, ticket, seq, first, removed } => match self.moderation.ordered(ticket) {
                Some(order) => self.carried_out(order, seq, first, removed, turn),
                None => self.kept(&room, ticket, seq, first, turn),
            },
            LogReply::Page { room, ticket, epoch, entries, more, first, .. } => {
                self.page(&room, ticket, &epoch, entries, more, first, turn);
            }
            LogReply::Failed { room: Some(room), ticket: None, failure } => {
                self.not_opened(&room, &failure.to_string(), turn);
            }
            LogReply::Failed { room: Some(room), ticket: Some(ticket), failure } => {
                if self.reads.contains_key(&ticket) {
                    self.no_page(ticket, &failure.to_string(), turn);
                } else if let Some(order) = self.moderation.ordered(ticket) {
                    refuse(order, failure, turn);
                } else {
                    self.not_kept(&room, ticket, &failure, turn);
                }
            }
            // Lists are asked for by operators alone, and answered to them.
            LogReply::Failed { room: None, .. } | LogReply::Rooms { .. } => {}
        }
    }

    fn timer(&mut self, turn: &mut Turn) {
        while let Some((at, _)) = self.timers.first()
            && *at <= turn.now.mono
            && let Some((at, timer)) = self.timers.pop_first()
        {
            match timer {
                Timer::Leave(room, user) => self.waited_long_enough(room, &user, at, turn),
                Timer::Release(user) => self.release(&user, at),
                Timer::Tell(room) => self.tell_online(room, turn),
                Timer::Expire(conn) => self.watch_token(conn, turn),
            }
        }
        while let Some((at, room)) = self.idle.first().copied()
            && at <= turn.now.mono
        {
            self.close_room(room, turn);
        }
    }

    fn notice(&mut self, target: Target, text: String, level: Level, turn: &mut Turn) {
        let frame = |room| ServerFrame::Notice { text: text.clone(), level, room };
        match target {
            Target::Everyone => turn.push(Effect::SendAll { frame: frame(None) }),
            Target::Room(name) => {
                if let Some(room) = self.names.get(&name).and_then(|id| self.rooms.get(id)) {
                    publish(room, frame(Some(name)), None, turn);
                }
            }
            Target::User(user) => {
                for conn in self.people.find(&user).map_or(&[][..], |user| &user.conns) {
                    turn.send(*conn, frame(None));
                }
            }
            Target::Conn(conn) => {
                if self.user_of(conn).is_some() {
                    turn.send(conn, frame(None));
                }
            }
        }
    }

    /// Does it hold nothing for anyone? Default rooms stay, with nobody in them; what is remembered
    /// of messages goes with time.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
            && self.people.len() == 0
            && self.nicks.len() == 0
            && self.rooms.values().all(|room| room.is_unused() && self.settings.default_rooms.contains(&room.name))
            && self.names.len() == self.rooms.len()
            && self.reads.is_empty()
            && self.moderation.is_idle()
            && self.timers.is_empty()
            && self.idle.is_empty()
    }

    /// The user of a connection that has been welcomed.
    pub(super) fn user_of(&self, conn: ConnId) -> Option<UserId> {
        match &self.clients.get(&conn)?.phase {
            Phase::Welcomed(user) => Some(user.clone()),
            _ => None,
        }
    }

    pub(super) fn is_closed(&self, conn: ConnId) -> bool {
        self.clients.get(&conn).is_none_or(|client| matches!(client.phase, Phase::Closed(_)))
    }

    /// Does its token let the connection into the room? Guests may go anywhere.
    pub(super) fn allows(&self, conn: ConnId, room: &RoomName) -> bool {
        let grant = self.clients.get(&conn).and_then(|client| client.grant.as_deref());
        let globs = grant.and_then(|grant| grant.rooms.as_deref());
        globs.is_none_or(|globs| globs.iter().any(|glob| glob.matches(room)))
    }

    /// The room that is meant where none is named: the first default one that it may be in.
    pub(super) fn default_room(&self, conn: ConnId) -> Option<&RoomName> {
        self.settings.default_rooms.iter().find(|room| self.allows(conn, room))
    }

    /// The room of that name, if the connection is in it; otherwise it is told that it is not.
    pub(super) fn room_joined(&mut self, conn: ConnId, re: u64, name: &RoomName, turn: &mut Turn) -> Option<RoomId> {
        let id = self.names.get(name).copied();
        let id = id.filter(|id| self.rooms.get(id).is_some_and(|room| room.members.contains(&conn)));
        if id.is_none() {
            turn.error(conn, re, ErrorCode::NotJoined, format!("you are not in room {name}; join it first"));
        }
        id
    }

    /// 128 random bits in 26 characters.
    pub(super) fn new_id(&mut self) -> String {
        base32(self.rng.random(), 26)
    }

    pub(super) fn new_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// A number for a new room; `None` when all four thousand million have been used.
    pub(super) fn new_room(&mut self) -> Option<RoomId> {
        self.last_room = self.last_room.checked_add(1)?;
        Some(RoomId(self.last_room))
    }

    /// To be called wherever a room may have become used or unused, or a default room or none.
    pub(super) fn review(&mut self, id: RoomId, turn: &mut Turn) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let unused = room.is_unused() && !self.settings.default_rooms.contains(&room.name);
        match room.forget_at {
            Some(at) if !unused => {
                self.idle.remove(&(at, id));
                room.forget_at = None;
            }
            // Made by a join, left without a word: not worth a minute's memory.
            None if unused && room.stream.as_ref().is_some_and(|stream| stream.head == 0) => self.close_room(id, turn),
            None if unused && room.stream.is_some() => {
                let at = turn.now.mono + IDLE_ROOM;
                room.forget_at = Some(at);
                self.idle.insert((at, id));
            }
            _ => {}
        }
    }

    fn trim_idle(&mut self, turn: &mut Turn) {
        while self.idle.len() > MAX_IDLE_ROOMS
            && let Some((_, room)) = self.idle.first().copied()
        {
            self.close_room(room, turn);
        }
    }

    /// Nobody uses the room.
    fn close_room(&mut self, id: RoomId, turn: &mut Turn) {
        if let Some(room) = self.drop_room(id) {
            turn.log(LogRequest::Close { room: room.name });
            turn.push(Effect::Forget { room: id });
        }
    }

    pub(super) fn drop_room(&mut self, id: RoomId) -> Option<Room> {
        let room = self.rooms.remove(&id)?;
        self.names.remove(&room.name);
        if let Some(at) = room.forget_at {
            self.idle.remove(&(at, id));
        }
        if let Some(at) = room.tell_at {
            self.timers.remove(&(at, Timer::Tell(id)));
        }
        Some(room)
    }
}

/// One frame to everyone in a room who is to be told although it may still be catching up.
/// Messages do not come this way: those who catch up read them from the log.
pub(super) fn publish(room: &Room, frame: ServerFrame, except: Option<ConnId>, turn: &mut Turn) {
    for conn in room.catching_up.iter().filter(|conn| Some(**conn) != except) {
        turn.send(*conn, frame.clone());
    }
    let instead = except.filter(|conn| room.hears(*conn)).map(|conn| (conn, None));
    turn.push(Effect::Publish { room: room.id, frame, instead });
}

/// The low bits of `value` in Crockford's alphabet, in lower case, `digits` long.
pub(super) fn base32(value: u128, digits: u32) -> String {
    let digit = |n| b"0123456789abcdefghjkmnpqrstvwxyz"[(value >> (5 * n) & 31) as usize] as char;
    (0..digits).rev().map(digit).collect()
}
