//! Messages: into the room's log, and from there to everyone.
//!
//! A message is told to nobody before the log has kept it. What it costs here does not depend on
//! how many are in the room.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;

use super::cid::{self, CidKey, Said};
use super::event::{
    Body, Dialect, Direct, Effect, Entry, ErrorCode, Happening, Kept, LogRequest, Member, MessageTo, Record,
    ServerFrame, Ticket,
};
use super::hub::{Hub, Turn, base32};
use super::id::{ConnId, RoomId, RoomName, Seq, UserId};
use super::room::{MAX_PENDING, Pending};

/// The most messages of one client that wait for their place in its backlog.
const MAX_WAITING_ACKS: usize = 64;

impl Hub {
    /// The room that a message is for, where it is for a room.
    pub(super) fn room_meant(&self, to: &MessageTo) -> Option<RoomName> {
        match to {
            MessageTo::Room(room) => Some(room.clone()),
            MessageTo::DefaultRoom => self.settings.default_rooms.first().cloned(),
            MessageTo::User(_) => None,
        }
    }

    pub(super) fn message(
        &mut self,
        conn: ConnId,
        re: u64,
        to: MessageTo,
        text: String,
        cid: Option<String>,
        turn: &mut Turn,
    ) {
        if text.len() > self.settings.limits.text {
            return self.too_long(conn, re, text.len(), turn);
        }
        if cid.as_ref().is_some_and(|cid| cid.len() > cid::MAX_BYTES) {
            let message = format!("a cid has at most {} bytes", cid::MAX_BYTES);
            return turn.error(conn, re, ErrorCode::BadRequest, message);
        }
        match to {
            MessageTo::User(user) => self.direct(conn, re, user, text, cid, turn),
            to => match self.room_meant(&to) {
                Some(room) => self.say(conn, re, &room, text, cid, turn),
                None => turn.error(conn, re, ErrorCode::NotJoined, "there is no default room; name a room"),
            },
        }
    }

    pub(super) fn too_long(&self, conn: ConnId, re: u64, bytes: usize, turn: &mut Turn) {
        let most = self.settings.limits.text;
        let message = format!("the text has {bytes} bytes; at most {most} are allowed");
        turn.error(conn, re, ErrorCode::TooLong, message);
    }

    /// A message to a room is on its way.
    fn say(&mut self, conn: ConnId, re: u64, name: &RoomName, text: String, cid: Option<String>, turn: &mut Turn) {
        let Some(id) = self.room_joined(conn, re, name, turn) else { return };
        let Some(from) = self.author(conn) else { return };
        let Some(dialect) = self.clients.get(&conn).map(|client| client.dialect) else { return };
        let catching_up = self.rooms.get(&id).is_some_and(|room| room.catching_up.contains(&conn));
        if catching_up && self.waiting_acks(conn, id) >= MAX_WAITING_ACKS {
            let message = format!("you are still reading what you missed in room {name}");
            return turn.retry(conn, re, ErrorCode::RateLimited, message);
        }
        let key = cid.as_deref().map(|cid| CidKey { room: name.clone(), user: from.user.clone(), cid: cid.into() });
        if let Some(key) = &key
            && self.said_before(conn, re, id, key, turn)
        {
            return;
        }
        let record_id = self.record_id(turn.now.wall);
        let ticket = self.new_ticket();
        let Some(room) = self.rooms.get_mut(&id) else { return };
        if room.pending.len() >= MAX_PENDING {
            let message = format!("room {name} has more to store than its log can take; try again");
            return turn.retry(conn, re, ErrorCode::Unavailable, message);
        }
        let user = from.user.clone();
        let record =
            Record { id: record_id, time: turn.now.wall, body: Body::Message { from, text: Some(text), cid, dialect } };
        let record = Arc::new(record);
        let kept = record.clone();
        if let Some(key) = &key {
            self.cids.begin(key.clone(), ticket, turn.now.mono);
        }
        room.pending.push_back(Pending { ticket, conn, re, user, record, cid: key, again: Vec::new() });
        turn.log(LogRequest::Append { room: name.clone(), ticket, record: kept });
    }

    /// Has this very message been sent before? Then it is acknowledged again, now or with the first.
    fn said_before(&mut self, conn: ConnId, re: u64, id: RoomId, key: &CidKey, turn: &mut Turn) -> bool {
        let Some(room) = self.rooms.get_mut(&id) else { return false };
        match self.cids.find(key, turn.now.mono) {
            Some(Said::Pending(ticket)) => {
                // Not under way any more and not kept: the log refused it, and it may be said anew.
                let Some(pending) = room.pending.iter_mut().find(|pending| pending.ticket == *ticket) else {
                    return false;
                };
                if pending.again.len() < MAX_WAITING_ACKS {
                    pending.again.push((conn, re));
                } else {
                    turn.retry(conn, re, ErrorCode::RateLimited, "this message is still being stored");
                }
                true
            }
            // Where the stream has begun anew, the message is not in it.
            Some(Said::Kept { epoch, seq, id: record }) if room.stream.as_ref().is_some_and(|s| s.epoch == *epoch) => {
                let kept = Kept { id: record.clone(), seq: *seq, room: key.room.clone() };
                self.acknowledge(conn, re, id, kept, turn);
                true
            }
            _ => false,
        }
    }

    /// An ack takes its message's place in the order of the room: who is still reading what it
    /// missed gets it there.
    fn acknowledge(&mut self, conn: ConnId, re: u64, id: RoomId, kept: Kept, turn: &mut Turn) {
        if !self.clients.contains_key(&conn) {
            return;
        }
        if let Some(kept) = self.ack_in_backlog(conn, id, re, kept) {
            turn.send(conn, ServerFrame::Ack { re, kept: Some(kept), delivered: None });
        }
    }

    /// The log has kept a message: now it is told. `first`: the oldest that it still keeps.
    pub(super) fn kept(&mut self, name: &RoomName, ticket: Ticket, seq: Seq, first: Seq, turn: &mut Turn) {
        let Some(id) = self.names.get(name).copied() else { return };
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let Some(pending) = take_pending(&mut room.pending, ticket) else { return };
        let Some(stream) = &mut room.stream else { return };
        stream.head = stream.head.max(seq);
        // What has made room for it cannot be resumed from any more.
        stream.first = stream.first.max(first);
        self.committed += 1;
        let Pending { conn, re, user, record, cid, again, .. } = pending;
        if let Some(key) = cid {
            self.cids.keep(&key, ticket, stream.epoch.clone(), seq, record.id.clone());
        }
        let kept = Kept { id: record.id.clone(), seq, room: name.clone() };
        let frame = ServerFrame::Entry { room: name.clone(), entry: Entry { seq, record: record.clone() } };
        // Its connection may have gone, or left, or be reading its backlog meanwhile.
        let sender = self.clients.get(&conn).map(|client| client.dialect);
        let ack = |kept| ServerFrame::Ack { re, kept: Some(kept), delivered: None };
        let instead = match sender {
            Some(Dialect::Json) if room.hears(conn) => Some((conn, Some(ack(kept.clone())))),
            Some(Dialect::Text) if room.hears(conn) => Some((conn, None)),
            _ => None,
        };
        let told = instead.is_some();
        turn.push(Effect::Publish { room: id, frame, instead });
        if sender == Some(Dialect::Json) && !told {
            self.acknowledge(conn, re, id, kept.clone(), turn);
        }
        for (conn, re) in again {
            self.acknowledge(conn, re, id, kept.clone(), turn);
        }
        if let Body::Message { from, text: Some(text), .. } = &record.body {
            let (nick, bytes, room) = (from.nick.clone(), text.len(), name.clone());
            turn.push(Effect::Happened(Happening::Message { conn, user, nick, room, seq, bytes }));
        }
        self.review(id, turn);
    }

    /// The log could not keep a message.
    pub(super) fn not_kept(&mut self, name: &RoomName, ticket: Ticket, why: &str, turn: &mut Turn) {
        let Some(id) = self.names.get(name).copied() else { return };
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let Some(pending) = take_pending(&mut room.pending, ticket) else { return };
        for (conn, re) in std::iter::once((pending.conn, pending.re)).chain(pending.again) {
            if self.clients.contains_key(&conn) {
                let message = format!("the message to room {name} was not stored: {why}");
                turn.retry(conn, re, ErrorCode::Unavailable, message);
            }
        }
        self.review(id, turn);
    }

    /// A message from user to user: to every connection of the one, and to the other connections
    /// of the sender. Not stored.
    fn direct(&mut self, conn: ConnId, re: u64, to: UserId, text: String, cid: Option<String>, turn: &mut Turn) {
        let Some(from) = self.author(conn) else { return };
        let to_self = to == from.user;
        let conns = |user: &UserId| self.people.find(user).map_or(&[][..], |user| &user.conns);
        let receivers: Vec<ConnId> = conns(&to).iter().copied().filter(|receiver| *receiver != conn).collect();
        if receivers.is_empty() {
            turn.error(conn, re, ErrorCode::NotOnline, format!("user {to} is not connected"));
            return;
        }
        let mut others = Vec::new();
        if !to_self {
            others.extend(conns(&from.user).iter().copied().filter(|other| *other != conn));
        }
        let time = turn.now.wall;
        let id = self.record_id(time);
        let direct = Direct { to, id, from, text, time, cid };
        let delivered = receivers.len();
        for receiver in receivers.into_iter().chain(others) {
            turn.send(receiver, ServerFrame::Direct(Box::new(direct.clone())));
        }
        turn.send(conn, ServerFrame::Ack { re, kept: None, delivered: Some(delivered) });
    }

    fn author(&self, conn: ConnId) -> Option<Member> {
        let user = self.user_of(conn)?;
        let nick = self.people.find(&user)?.nick.clone();
        Some(Member { user, nick })
    }

    /// Ascending with the time, and 80 random bits: unique without asking anyone.
    fn record_id(&mut self, time: SystemTime) -> String {
        let ms = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let random: u128 = self.rng.random();
        base32((ms << 80) | (random >> 48), 26)
    }
}

/// The log answers in order, so it is nearly always the first.
fn take_pending(pending: &mut std::collections::VecDeque<Pending>, ticket: Ticket) -> Option<Pending> {
    let at = pending.iter().position(|pending| pending.ticket == ticket)?;
    pending.remove(at)
}
