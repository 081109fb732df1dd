//! Hello and welcome, and the nick that comes with them or later.
//!
//! Whether one may say hello is settled before: the session has checked the credentials.

use super::event::{Cursor, Effect, ErrorCode, Happening, Hello, Identity, PresenceState, ServerFrame, Welcome};
use super::hub::{Greeting, Held, Hub, Phase, Turn};
use super::id::{ConnId, Nick, RoomId, RoomName, UserId};
use super::room::Waiter;

impl Hub {
    /// Who says hello is known; where it asks to resume, the welcome waits until its rooms are open.
    pub(super) fn hello(&mut self, conn: ConnId, re: u64, mut hello: Hello, turn: &mut Turn) {
        // One room twice is one room.
        hello.resume.sort_by(|a, b| a.0.cmp(&b.0));
        hello.resume.dedup_by(|a, b| a.0 == b.0);
        // More than it may be in need not be opened; it is told so when they are joined.
        let most = self.settings.rooms_per_client;
        let wanted: Vec<RoomName> = hello.resume.iter().take(most).map(|(room, _)| room.clone()).collect();
        let mut opening = Vec::new();
        for room in wanted {
            if let Some(id) = self.open(&room, turn)
                && let Some(room) = self.rooms.get_mut(&id)
            {
                room.waiting.insert(conn, Waiter::Hello);
                if room.stream.is_none() {
                    opening.push(id);
                }
                self.review(id, turn);
            }
        }
        let Some(client) = self.clients.get_mut(&conn) else { return };
        client.phase = Phase::Greeting(Box::new(Greeting { re, hello, held: Vec::new() }));
        client.waits_for = opening;
        self.welcome_when_ready(conn, turn);
    }

    /// Answers a hello once each of its rooms has been opened, or cannot be.
    pub(super) fn welcome_when_ready(&mut self, conn: ConnId, turn: &mut Turn) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        if !client.waits_for.is_empty() || !matches!(client.phase, Phase::Greeting(_)) {
            return;
        }
        let Phase::Greeting(greeting) = std::mem::replace(&mut client.phase, Phase::New) else { return };
        let Greeting { re, hello, held } = *greeting;
        let (user, guest, named) = match hello.identity {
            Identity::NewGuest => {
                let id = self.new_id();
                (UserId::guest(&id), Some(id), None)
            }
            Identity::Guest(id) => (UserId::guest(&id), Some(id), None),
            Identity::User(claims) => (claims.user, None, claims.nick),
        };
        let nick = self.nick_at_hello(conn, re, &user, hello.nick.as_deref(), named, turn);
        let resumed = !hello.resume.is_empty()
            && hello.resume.iter().all(|(room, cursor)| {
                let stream = self.names.get(room).and_then(|id| self.rooms.get(id)?.stream.as_ref());
                stream.is_some_and(|stream| stream.can_resume(cursor))
            });
        if let Some(client) = self.clients.get_mut(&conn) {
            client.phase = Phase::Welcomed(user.clone());
            client.resumed = resumed;
        }
        self.people.arrive(&user, nick.clone(), conn);
        let (limits, ping) = (self.settings.limits.clone(), self.settings.ping);
        let (client, known_as) = (conn, nick.clone());
        let welcome =
            Welcome { re, client, user: user.clone(), nick: known_as, guest, resumed, moderator: false, limits, ping };
        turn.send(conn, ServerFrame::Welcome(Box::new(welcome)));
        turn.push(Effect::Happened(Happening::Welcomed { conn, user, nick }));
        let opened = self.stop_holding(conn, &hello.resume);
        self.join_at_hello(conn, re, hello.rooms, hello.resume, hello.history, turn);
        for id in opened {
            self.review(id, turn);
        }
        for Held { seq, frame } in held {
            self.frame(conn, seq, frame, turn);
        }
    }

    /// A hello no longer keeps the rooms open that it resumes; they are to be reviewed.
    pub(super) fn stop_holding(&mut self, conn: ConnId, resume: &[(RoomName, Cursor)]) -> Vec<RoomId> {
        let ids: Vec<RoomId> = resume.iter().filter_map(|(room, _)| self.names.get(room).copied()).collect();
        for id in &ids {
            if let Some(room) = self.rooms.get_mut(id)
                && let Some(Waiter::Hello) = room.waiting.get(&conn)
            {
                room.waiting.remove(&conn);
            }
        }
        ids
    }

    /// The nick that a client gets, now its user's. A wish that cannot be granted is answered with
    /// an error, and the client gets another one.
    fn nick_at_hello(
        &mut self,
        conn: ConnId,
        re: u64,
        user: &UserId,
        wish: Option<&str>,
        named: Option<Nick>,
        turn: &mut Turn,
    ) -> Nick {
        let wish = match wish.map(Nick::parse) {
            Some(Ok(nick)) => Some(nick),
            Some(Err(e)) => {
                turn.error(conn, re, ErrorCode::NickInvalid, e.to_string());
                None
            }
            None => None,
        };
        let asked = wish.is_some();
        let known = self.people.find(user).map(|user| user.nick.clone());
        let wish = wish.or_else(|| if known.is_some() { None } else { named });
        if let Some(nick) = &wish
            && !self.nicks.is_free(nick, user)
            && asked
        {
            turn.error(conn, re, ErrorCode::NickTaken, format!("the nick {nick} is taken"));
        }
        match (wish, known) {
            (Some(nick), Some(known)) => {
                if nick != known && self.nicks.is_free(&nick, user) {
                    self.rename(conn, user, &nick, turn);
                    return nick;
                }
                known
            }
            (Some(nick), None) if self.nicks.take(&nick, user) => nick,
            (wish, None) => {
                let nick = self.nicks.free_like(wish.as_ref(), &mut self.rng);
                self.nicks.take(&nick, user);
                nick
            }
            (None, Some(known)) => known,
        }
    }

    pub(super) fn nick(&mut self, conn: ConnId, re: u64, wish: &str, turn: &mut Turn) {
        let Some(user) = self.user_of(conn) else { return };
        match Nick::parse(wish) {
            Err(e) => turn.error(conn, re, ErrorCode::NickInvalid, e.to_string()),
            Ok(nick) if !self.nicks.is_free(&nick, &user) => {
                turn.error(conn, re, ErrorCode::NickTaken, format!("the nick {nick} is taken"));
            }
            Ok(nick) => {
                self.rename(conn, &user, &nick, turn);
                turn.send(conn, ServerFrame::Ack { re, kept: None, delivered: None });
            }
        }
    }

    /// `nick` is free for the user, who has another one.
    fn rename(&mut self, conn: ConnId, user: &UserId, nick: &Nick, turn: &mut Turn) {
        let Some(known) = self.people.find_mut(user) else { return };
        let from = std::mem::replace(&mut known.nick, nick.clone());
        if from == *nick {
            return;
        }
        self.nicks.release(&from, user);
        self.nicks.take(nick, user);
        let happening = Happening::NickChanged { conn, user: user.clone(), from, to: nick.clone() };
        turn.push(Effect::Happened(happening));
        for room in self.rooms_of_user(user) {
            self.tell_change(room, user, nick, PresenceState::Nick, Some(conn), turn);
        }
    }
}
