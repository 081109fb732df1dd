//! Into a room and out of it: opening its log, waiting for that, entering, leaving.

use super::event::{
    ClientFrame, Cursor, Dialect, Effect, ErrorCode, Happening, Joined, LogRequest, Member, MessageTo, SaidBefore,
    ServerFrame,
};
use super::hub::{Held, Hub, Turn};
use super::id::{ConnId, RoomId, RoomName, Seq};
use super::pager::{CatchUp, PAGE_ENTRIES};
use super::room::{Ask, Room, Stream, Waiter};

impl Hub {
    /// The rooms that a hello names, or the default ones; then those it resumes.
    pub(super) fn join_at_hello(
        &mut self,
        conn: ConnId,
        re: u64,
        rooms: Option<Vec<RoomName>>,
        mut resume: Vec<(RoomName, Cursor)>,
        history: u32,
        turn: &mut Turn,
    ) {
        // Of the default rooms those that it may be in; what it names itself is refused one by one.
        let rooms = rooms.unwrap_or_else(|| {
            self.settings.default_rooms.iter().filter(|room| self.allows(conn, room)).cloned().collect()
        });
        let mut asks: Vec<(RoomName, Ask)> = Vec::new();
        // One more than allowed, so that one error tells of all that are too many.
        let most = self.settings.rooms_per_client + 1;
        for room in rooms.into_iter().take(most) {
            if asks.iter().any(|(known, _)| *known == room) {
                continue;
            }
            let cursor = resume.iter().position(|(known, _)| *known == room).map(|at| resume.remove(at).1);
            asks.push((room, cursor.map_or(Ask::Last(history), Ask::Since)));
        }
        asks.extend(resume.into_iter().map(|(room, cursor)| (room, Ask::Since(cursor))));
        asks.truncate(most);
        for (room, ask) in asks {
            self.join(conn, re, room, ask, turn);
        }
    }

    pub(super) fn join(&mut self, conn: ConnId, re: u64, name: RoomName, ask: Ask, turn: &mut Turn) {
        if !self.allows(conn, &name) {
            turn.error(conn, re, ErrorCode::Forbidden, format!("your token does not let you into room {name}"));
            return;
        }
        let Some(client) = self.clients.get(&conn) else { return };
        let in_use = client.rooms.len() + client.waits_for.len();
        if let Some(room) = self.names.get(&name).and_then(|id| self.rooms.get(id)) {
            if room.waiting.contains_key(&conn) || room.catching_up.contains(&conn) {
                turn.error(conn, re, ErrorCode::BadRequest, format!("room {name} is being joined already"));
                return;
            }
            if room.members.contains(&conn) {
                // It hears everything, so nothing was missed.
                let joined = self.joined_frame(room, re, true);
                turn.send(conn, joined);
                return;
            }
        }
        if in_use >= self.settings.rooms_per_client {
            let most = self.settings.rooms_per_client;
            turn.error(
                conn,
                re,
                ErrorCode::Forbidden,
                format!("a client may be in {most} rooms at once; leave one to join {name}"),
            );
            return;
        }
        if !self.may_open(&name) {
            turn.error(conn, re, ErrorCode::NoSuchRoom, format!("there is no room {name}, and none may be made here"));
            return;
        }
        let Some(id) = self.open(&name, turn) else {
            turn.error(conn, re, ErrorCode::Unavailable, format!("room {name} cannot be opened: no numbers left"));
            return;
        };
        match self.rooms.get_mut(&id) {
            Some(room) if room.stream.is_none() => {
                room.waiting.insert(conn, Waiter::Join { re, ask, held: Vec::new() });
                if let Some(client) = self.clients.get_mut(&conn) {
                    client.waits_for.push(id);
                }
            }
            _ => self.enter(conn, re, id, ask, turn),
        }
        self.review(id, turn);
    }

    fn may_open(&self, name: &RoomName) -> bool {
        self.settings.create_rooms || self.names.contains_key(name) || self.settings.default_rooms.contains(name)
    }

    /// The room of that name, which the log is asked to open where it is not known; `None` where
    /// that may not or cannot be.
    pub(super) fn open(&mut self, name: &RoomName, turn: &mut Turn) -> Option<RoomId> {
        if let Some(id) = self.names.get(name) {
            return Some(*id);
        }
        if !self.may_open(name) {
            return None;
        }
        let id = self.new_room()?;
        self.names.insert(name.clone(), id);
        self.rooms.insert(id, Room::new(id, name.clone()));
        turn.log(LogRequest::Open { room: name.clone() });
        Some(id)
    }

    pub(super) fn opened(&mut self, name: &RoomName, stream: Stream, said: Vec<SaidBefore>, turn: &mut Turn) {
        let Some(id) = self.names.get(name).copied() else { return };
        let Some(room) = self.rooms.get_mut(&id) else { return };
        if room.stream.is_some() {
            return;
        }
        for said in said {
            self.cids.restore(name, &stream.epoch, said, turn.now.mono);
        }
        room.stream = Some(stream);
        let waiting: Vec<ConnId> = room.waiting.keys().copied().collect();
        for conn in waiting {
            let Some(room) = self.rooms.get_mut(&id) else { return };
            // A hello keeps its place until it is answered, so that the room stays open for it; a
            // join leaves it now. While others still wait, nobody's leaving closes the room.
            let joins = matches!(room.waiting.get(&conn), Some(Waiter::Join { .. }));
            let waiter = if joins { room.waiting.remove(&conn) } else { None };
            self.stop_waiting(conn, id);
            match waiter {
                Some(Waiter::Join { re, ask, held }) => {
                    self.enter(conn, re, id, ask, turn);
                    for Held { seq, frame } in held {
                        self.frame(conn, seq, frame, turn);
                    }
                }
                _ => self.welcome_when_ready(conn, turn),
            }
        }
        self.review(id, turn);
    }

    /// The log cannot open the room. The next join tries again.
    pub(super) fn not_opened(&mut self, name: &RoomName, why: &str, turn: &mut Turn) {
        let Some(id) = self.names.get(name).copied() else { return };
        if self.rooms.get(&id).is_none_or(|room| room.stream.is_some()) {
            return;
        }
        let Some(room) = self.drop_room(id) else { return };
        for (conn, waiter) in room.waiting {
            self.stop_waiting(conn, id);
            match waiter {
                Waiter::Hello => self.welcome_when_ready(conn, turn),
                Waiter::Join { re, held, .. } => {
                    let message = format!("room {name} cannot be opened now: {why}");
                    for re in std::iter::once(re).chain(held.iter().filter_map(answered)) {
                        turn.retry(conn, re, ErrorCode::Unavailable, message.clone());
                    }
                }
            }
        }
    }

    pub(super) fn stop_waiting(&mut self, conn: ConnId, id: RoomId) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.waits_for.retain(|room| *room != id);
        }
    }

    /// A client leaves a room that it was still waiting for.
    pub(super) fn give_up_join(&mut self, conn: ConnId, id: RoomId, re: u64, turn: &mut Turn) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let name = room.name.clone();
        if let Some(Waiter::Join { re, held, .. }) = room.waiting.remove(&conn) {
            for re in std::iter::once(re).chain(held.iter().filter_map(answered)) {
                turn.error(conn, re, ErrorCode::NotJoined, format!("you left room {name} before it was open"));
            }
        }
        self.stop_waiting(conn, id);
        turn.send(conn, ServerFrame::Left { re, room: name, reason: None });
        self.review(id, turn);
    }

    /// The connection becomes a member of an open room.
    fn enter(&mut self, conn: ConnId, re: u64, id: RoomId, ask: Ask, turn: &mut Turn) {
        let Some(user) = self.user_of(conn) else { return };
        let Some(nick) = self.people.find(&user).map(|user| user.nick.clone()) else { return };
        // The others hear of it before it is a member, so it hears nothing about itself.
        self.user_came(id, &user, &nick, turn);
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let Some(stream) = &room.stream else { return };
        let (recovered, from) = match &ask {
            Ask::Since(cursor) if stream.can_resume(cursor) => (true, cursor.seq),
            Ask::Since(_) => (false, stream.head),
            Ask::Last(count) => {
                let count = Seq::from((*count).min(PAGE_ENTRIES));
                (false, stream.head.saturating_sub(count).max(stream.first.saturating_sub(1)))
            }
        };
        let (head, name) = (stream.head, room.name.clone());
        room.members.insert(conn);
        let catch_up = from < head;
        if catch_up {
            room.catching_up.insert(conn);
        }
        if let Some(client) = self.clients.get_mut(&conn) {
            if client.rooms.is_empty() {
                // Most clients are in one room: room for exactly that.
                client.rooms.reserve_exact(1);
            }
            client.rooms.push(id);
        }
        if let Some(room) = self.rooms.get(&id) {
            let joined = self.joined_frame(room, re, recovered);
            turn.send(conn, joined);
        }
        if let Some(mute) = self.sanctions.mute(&user, Some(&name), turn.now.wall) {
            let (until, reason) = (mute.until, mute.reason.clone());
            turn.send(conn, ServerFrame::Muted { room: Some(name.clone()), on: true, until, reason });
        }
        if catch_up {
            // What a resuming client missed must be there; of "the last ten" there may be fewer.
            let bound = if recovered { from } else { head };
            self.catch_up(conn, CatchUp::new(id, re, from, bound), turn);
        } else {
            turn.push(Effect::Enter { conn, room: id });
        }
        turn.push(Effect::Happened(Happening::Joined { conn, user, nick, room: name }));
    }

    pub(super) fn joined_frame(&self, room: &Room, re: u64, recovered: bool) -> ServerFrame {
        let online = room.online();
        let members = (online <= self.settings.presence_limit).then(|| self.members_of(room, online));
        let (epoch, seq) = match &room.stream {
            Some(stream) => (stream.epoch.clone(), stream.head),
            None => ("".into(), 0),
        };
        ServerFrame::Joined(Box::new(Joined { re, room: room.name.clone(), epoch, seq, recovered, online, members }))
    }

    /// The first `most` users who are here.
    pub(super) fn members_of(&self, room: &Room, most: usize) -> Vec<Member> {
        let member = |user| Some(Member { user: Clone::clone(user), nick: self.people.find(user)?.nick.clone() });
        room.users.keys().take(most).filter_map(member).collect()
    }

    pub(super) fn leave(&mut self, conn: ConnId, re: u64, name: &RoomName, turn: &mut Turn) {
        let Some(id) = self.room_joined(conn, re, name, turn) else { return };
        // First, so that acks which waited for their place in a backlog need none any more.
        turn.send(conn, ServerFrame::Left { re, room: name.clone(), reason: None });
        self.part(conn, id, true, turn);
    }

    /// The connection is a member no longer. `clean`: nobody needs to wait for its return.
    pub(super) fn part(&mut self, conn: ConnId, id: RoomId, clean: bool, turn: &mut Turn) {
        let Some(user) = self.user_of(conn) else { return };
        let Some(nick) = self.people.find(&user).map(|user| user.nick.clone()) else { return };
        let Some(room) = self.rooms.get_mut(&id) else { return };
        if !room.members.remove(&conn) {
            return;
        }
        let name = room.name.clone();
        if !room.catching_up.remove(&conn) {
            turn.push(Effect::Exit { conn, room: id });
        }
        self.cancel_pages(conn, id, turn);
        if let Some(client) = self.clients.get_mut(&conn) {
            client.rooms.retain(|room| *room != id);
        }
        let (known, known_as) = (user.clone(), nick.clone());
        turn.push(Effect::Happened(Happening::Left { conn, user: known, nick: known_as, room: name }));
        self.connection_left(id, &user, &nick, clean, turn);
        self.review(id, turn);
    }

    /// The first default room, which a client of the text dialect is in, or is put into again.
    pub(super) fn text(&mut self, conn: ConnId, text: String, turn: &mut Turn) {
        let Some(client) = self.clients.get(&conn) else { return };
        if client.dialect != Dialect::Text || self.is_closed(conn) {
            return;
        }
        let room = match client.rooms.first() {
            Some(id) => self.rooms.get(id).map(|room| room.name.clone()),
            None => self.default_room(conn).cloned(),
        };
        let to = room.clone().map_or(MessageTo::DefaultRoom, MessageTo::Room);
        // Its room could not be opened before: perhaps it can now.
        if let Some(room) = room
            && client.rooms.is_empty()
            && client.waits_for.is_empty()
        {
            self.join(conn, 0, room, Ask::Last(0), turn);
        }
        self.frame(conn, 0, ClientFrame::Message { to, text, cid: None }, turn);
    }
}

/// The number under which a frame that cannot be handled is answered; `typing` never is.
pub(super) fn answered(held: &Held) -> Option<u64> {
    (!matches!(held.frame, ClientFrame::Typing { .. })).then_some(held.seq)
}
