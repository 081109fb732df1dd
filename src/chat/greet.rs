//! Coming in: who is kept out, hello and welcome, the nick that comes with them or later, and the end
//! of a token.
//!
//! Whether credentials are good is settled before: the session has checked them.

use std::net::IpAddr;
use std::time::Duration;

use super::event::{
    Close, Cursor, Dialect, Effect, ErrorCode, Happening, Hello, Identity, PresenceChange, PresenceState, ServerFrame,
    Welcome,
};
use super::hub::{Client, Grant, Greeting, Held, Hub, Phase, Timer, Turn};
use super::id::{ConnId, Nick, RoomId, RoomName, UserId};
use super::room::{Ask, Waiter};
use super::sanction;

/// How often the end of a token is looked at: deadlines are counted on a clock that never jumps, and
/// a token ends by the time of day, which may be set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

impl Hub {
    pub(super) fn connected(
        &mut self,
        conn: ConnId,
        dialect: Dialect,
        addr: IpAddr,
        admission: Result<Identity, Close>,
        turn: &mut Turn,
    ) {
        let phase = Phase::New;
        let client = Client {
            dialect,
            addr,
            phase,
            resumed: false,
            rooms: Vec::new(),
            waits_for: Vec::new(),
            pager: None,
            grant: None,
        };
        self.clients.insert(conn, client);
        if self.keep_out(conn, None, turn) {
            return;
        }
        match admission {
            Err(close) => self.close(conn, close, turn),
            Ok(identity) if dialect == Dialect::Text => {
                self.hello(conn, 0, Hello { identity, rooms: Some(Vec::new()), ..Hello::default() }, turn);
                if let Some(room) = self.default_room(conn).cloned()
                    && !self.is_closed(conn)
                {
                    self.join(conn, 0, room, Ask::Last(0), turn);
                }
            }
            Ok(_) => {}
        }
    }

    /// One who is banned, as this user or by its address, is closed and told why.
    fn keep_out(&mut self, conn: ConnId, user: Option<&UserId>, turn: &mut Turn) -> bool {
        let Some(client) = self.clients.get(&conn) else { return true };
        let Some(ban) = self.sanctions.ban(user, Some(client.addr), turn.now.wall).cloned() else { return false };
        let close = Close { code: Close::BANNED, reason: sanction::cut(&ban.in_words("banned")) };
        turn.push(Effect::Happened(Happening::Refused { conn, sanction: ban }));
        self.close(conn, close, turn);
        true
    }

    /// Closes a connection whose token has ended; otherwise this is looked at again.
    pub(super) fn watch_token(&mut self, conn: ConnId, turn: &mut Turn) {
        let Some(grant) = self.clients.get_mut(&conn).and_then(|client| client.grant.as_deref_mut()) else { return };
        match grant.expires.duration_since(turn.now.wall) {
            Ok(left) if !left.is_zero() => {
                grant.look_at = turn.now.mono.saturating_add(left.min(LOOK_EVERY));
                self.timers.insert((grant.look_at, Timer::Expire(conn)));
            }
            _ => {
                let close = Close { code: Close::TOKEN_EXPIRED, reason: "the token has expired".to_owned() };
                self.close(conn, close, turn);
            }
        }
    }

    /// Who says hello is known; where it asks to resume, the welcome waits until its rooms are open.
    pub(super) fn hello(&mut self, conn: ConnId, re: u64, mut hello: Hello, turn: &mut Turn) {
        if self.keep_out(conn, user_of(&hello.identity).as_ref(), turn) {
            return;
        }
        if let Identity::User(claims) = &hello.identity
            && let Some(client) = self.clients.get_mut(&conn)
        {
            let (rooms, moderator, expires) = (claims.rooms.clone(), claims.moderator, claims.expires);
            client.grant = Some(Box::new(Grant { rooms, moderator, expires, look_at: Duration::ZERO }));
            self.watch_token(conn, turn);
            if self.is_closed(conn) {
                return;
            }
        }
        // One room twice is one room.
        hello.resume.sort_by(|a, b| a.0.cmp(&b.0));
        hello.resume.dedup_by(|a, b| a.0 == b.0);
        // More than it may be in need not be opened; it is told so when they are joined.
        let most = self.settings.rooms_per_client;
        let wanted = hello.resume.iter().take(most).map(|(room, _)| room).filter(|room| self.allows(conn, room));
        let wanted: Vec<RoomName> = wanted.cloned().collect();
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
        let Phase::Greeting(greeting) = &client.phase else { return };
        let user = user_of(&greeting.hello.identity);
        // A ban may have come while the rooms were opened.
        if !client.waits_for.is_empty() || self.keep_out(conn, user.as_ref(), turn) {
            return;
        }
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let Phase::Greeting(greeting) = std::mem::replace(&mut client.phase, Phase::New) else { return };
        let Greeting { re, hello, held } = *greeting;
        let (user, guest, given) = match hello.identity {
            Identity::NewGuest => {
                let id = self.new_id();
                (UserId::guest(&id), Some(id), None)
            }
            Identity::Guest(id) => (UserId::guest(&id), Some(id), None),
            Identity::User(claims) => (claims.user, None, claims.nick),
        };
        let nick = self.nick_at_hello(conn, re, &user, hello.nick.as_deref(), given.as_ref(), turn);
        let resumed = !hello.resume.is_empty()
            && hello.resume.iter().all(|(room, cursor)| {
                let stream = self.names.get(room).and_then(|id| self.rooms.get(id)?.stream.as_ref());
                self.allows(conn, room) && stream.is_some_and(|stream| stream.can_resume(cursor))
            });
        let mut moderator = false;
        if let Some(client) = self.clients.get_mut(&conn) {
            client.phase = Phase::Welcomed(user.clone());
            client.resumed = resumed;
            moderator = client.grant.as_ref().is_some_and(|grant| grant.moderator);
        }
        self.people.arrive(&user, nick.clone(), given, conn);
        let (limits, ping) = (self.settings.limits.clone(), self.settings.ping);
        let (client, known_as) = (conn, nick.clone());
        let welcome =
            Welcome { re, client, user: user.clone(), nick: known_as, guest, resumed, moderator, limits, ping };
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
        given: Option<&Nick>,
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
        let known = self.people.find(user).map(|user| (user.nick.clone(), user.given.clone()));
        let given = given.or(known.as_ref().and_then(|(_, given)| given.as_ref()));
        if let Some(given) = given {
            let nick = self.take_given(user, given, turn);
            if wish.is_some_and(|wish| wish != nick) {
                turn.error(conn, re, ErrorCode::Forbidden, given_by_site(&nick));
            }
            return nick;
        }
        if let Some(nick) = &wish
            && !self.nicks.is_free(nick, user)
        {
            turn.error(conn, re, ErrorCode::NickTaken, format!("the nick {nick} is taken"));
        }
        match (wish, known) {
            (Some(nick), Some((known, _))) => {
                if nick != known && self.nicks.is_free(&nick, user) {
                    self.rename(Some(conn), user, &nick, turn);
                    return nick;
                }
                known
            }
            (None, Some((known, _))) => known,
            (wish, None) => {
                // A site's users are best known by their ids.
                let by_token = self.clients.get(&conn).is_some_and(|client| client.grant.is_some());
                let wish = wish.or_else(|| by_token.then(|| Nick::parse(user.as_str()).ok()).flatten());
                self.take_or_like(user, wish.as_ref())
            }
        }
    }

    /// The nick for a user whom the site names: that very name, from whoever has merely chosen it;
    /// where the site gives it to another user too, one like it.
    fn take_given(&mut self, user: &UserId, given: &Nick, turn: &mut Turn) -> Nick {
        if let Some(holder) = self.nicks.holder(given).filter(|holder| *holder != user).cloned()
            && self.people.find(&holder).is_some_and(|holder| holder.given.is_none())
        {
            let other = self.nicks.free_like(Some(given), &mut self.rng);
            self.rename(None, &holder, &other, turn);
        }
        match self.people.find(user).map(|known| (known.nick.clone(), known.given.as_ref() == Some(given))) {
            None => self.take_or_like(user, Some(given)),
            Some((nick, true)) if !self.nicks.is_free(given, user) => nick,
            Some(_) => {
                let free = self.nicks.is_free(given, user);
                let nick = if free { given.clone() } else { self.nicks.free_like(Some(given), &mut self.rng) };
                self.rename(None, user, &nick, turn);
                nick
            }
        }
    }

    /// For a user who has no nick yet.
    fn take_or_like(&mut self, user: &UserId, wish: Option<&Nick>) -> Nick {
        if let Some(nick) = wish
            && self.nicks.take(nick, user)
        {
            return nick.clone();
        }
        let nick = self.nicks.free_like(wish, &mut self.rng);
        self.nicks.take(&nick, user);
        nick
    }

    fn is_muted_where_it_is(&self, user: &UserId, turn: &Turn) -> bool {
        let rooms = self.rooms_of_user(user);
        let mut names = rooms.iter().filter_map(|id| self.rooms.get(id)).map(|room| &room.name);
        names.any(|name| self.sanctions.mute(user, Some(name), turn.now.wall).is_some())
    }

    pub(super) fn nick(&mut self, conn: ConnId, re: u64, wish: &str, turn: &mut Turn) {
        let Some(user) = self.user_of(conn) else { return };
        let Some(known) = self.people.find(&user) else { return };
        match Nick::parse(wish) {
            Err(e) => turn.error(conn, re, ErrorCode::NickInvalid, e.to_string()),
            Ok(nick) if known.given.is_some() && nick != known.nick => {
                turn.error(conn, re, ErrorCode::Forbidden, given_by_site(&known.nick));
            }
            Ok(nick) if !self.nicks.is_free(&nick, &user) => {
                turn.error(conn, re, ErrorCode::NickTaken, format!("the nick {nick} is taken"));
            }
            // A nick is said to everybody in the room, too.
            Ok(nick) if nick != known.nick && self.is_muted_where_it_is(&user, turn) => {
                let message = "you are muted in a room that would hear of your new nick";
                turn.error(conn, re, ErrorCode::Muted, message);
            }
            Ok(nick) => {
                self.rename(Some(conn), &user, &nick, turn);
                turn.send(conn, ServerFrame::Ack { re, kept: None, delivered: None });
            }
        }
    }

    /// `nick` is free for the user, who has another one. `quiet`: the connection that is told by the
    /// answer to what it asked for; where nobody asked, each connection of the user is told for sure.
    fn rename(&mut self, quiet: Option<ConnId>, user: &UserId, nick: &Nick, turn: &mut Turn) {
        let Some(known) = self.people.find_mut(user) else { return };
        let from = std::mem::replace(&mut known.nick, nick.clone());
        if from == *nick {
            return;
        }
        let conns = known.conns.clone();
        self.nicks.release(&from, user);
        self.nicks.take(nick, user);
        // One who is only waited for has no connection to tell of.
        if let Some(conn) = quiet.or(conns.first().copied()) {
            let happening = Happening::NickChanged { conn, user: user.clone(), from, to: nick.clone() };
            turn.push(Effect::Happened(happening));
        }
        for id in self.rooms_of_user(user) {
            self.tell_change(id, user, nick, PresenceState::Nick, quiet, turn);
            // A large room is not told of nicks.
            if quiet.is_none()
                && let Some(room) = self.rooms.get(&id)
                && room.online() > self.settings.presence_limit
            {
                let change =
                    Some(PresenceChange { user: user.clone(), nick: nick.clone(), state: PresenceState::Nick });
                let (name, online) = (room.name.clone(), room.online());
                for conn in conns.iter().filter(|conn| room.members.contains(conn)) {
                    let (room, change) = (name.clone(), change.clone());
                    turn.send(*conn, ServerFrame::Presence { room, change, online });
                }
            }
        }
    }
}

fn given_by_site(nick: &Nick) -> String {
    format!("this site names its users: you are {nick}")
}

/// The user whom an identity names; a guest who is new has no name yet.
fn user_of(identity: &Identity) -> Option<UserId> {
    match identity {
        Identity::NewGuest => None,
        Identity::Guest(id) => Some(UserId::guest(id)),
        Identity::User(claims) => Some(claims.user.clone()),
    }
}
