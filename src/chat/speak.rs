//! Messages: into the room's log, and from there to everyone.
//!
//! Deleting a message is one more entry of the room, so it goes the same way.
//! A message is told to nobody before the log has kept it. What it costs here does not depend on
//! how many are in the room.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;

use super::cid::{self, CidKey, Said};
use super::event::{
    Body, By, Dialect, Direct, Effect, Entry, ErrorCode, ErrorFrame, Happening, Kept, LogFailure, LogRequest, Member,
    MessageTo, Record, ServerFrame, Ticket,
};
use super::hub::{Hub, Turn, base32};
use super::id::{ConnId, RoomId, RoomName, Seq, UserId};
use super::room::{MAX_PENDING, Pending};
use super::sanction::Measure;

/// The most messages of one client that wait for their place in its backlog.
const MAX_WAITING_ACKS: usize = 64;

impl Hub {
    /// The room that a message is for, where it is for a room.
    pub(super) fn room_meant(&self, conn: ConnId, to: &MessageTo) -> Option<RoomName> {
        match to {
            MessageTo::Room(room) => Some(room.clone()),
            MessageTo::DefaultRoom => self.default_room(conn).cloned(),
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
            to => match self.room_meant(conn, &to) {
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
        if self.is_owed_acks(conn, re, id, name, turn) {
            return;
        }
        let key = cid.as_deref().map(|cid| CidKey { room: name.clone(), user: from.user.clone(), cid: cid.into() });
        if let Some(key) = &key
            && self.said_before(conn, re, id, key, turn)
        {
            return;
        }
        // Only now: what was kept before the mute may still be acknowledged again.
        if self.is_muted(conn, re, &from.user, Some(name), turn) {
            return;
        }
        let body = Body::Message { from: from.clone(), text: Some(text), cid, dialect };
        let Some((ticket, record)) = self.pend(conn, re, id, from, body, key.clone(), turn) else { return };
        if let Some(key) = key {
            self.cids.begin(key, ticket, turn.now.mono);
        }
        turn.log(LogRequest::Append { room: name.clone(), ticket, record });
    }

    /// A message is to be taken away: any by a moderator, its own by everybody.
    pub(super) fn delete(&mut self, conn: ConnId, re: u64, name: &RoomName, target: Seq, turn: &mut Turn) {
        let Some(id) = self.room_joined(conn, re, name, turn) else { return };
        let Some(from) = self.author(conn) else { return };
        if self.is_owed_acks(conn, re, id, name, turn) {
            return;
        }
        let only_of = (!self.is_moderator(conn)).then(|| from.user.clone());
        let Some((ticket, record)) = self.pend(conn, re, id, from, Body::Deleted { target }, None, turn) else {
            return;
        };
        turn.log(LogRequest::Delete { room: name.clone(), ticket, target, only_of, record });
    }

    /// Has one that still reads what it missed as many acks to come as may wait? It is told so.
    fn is_owed_acks(&self, conn: ConnId, re: u64, id: RoomId, name: &RoomName, turn: &mut Turn) -> bool {
        let catching_up = self.rooms.get(&id).is_some_and(|room| room.catching_up.contains(&conn));
        let owed = catching_up && self.waiting_acks(conn, id) >= MAX_WAITING_ACKS;
        if owed {
            let message = format!("you are still reading what you missed in room {name}");
            turn.retry(conn, re, ErrorCode::RateLimited, message);
        }
        owed
    }

    /// Notes a record as on its way into the log, where there is room for one more.
    #[expect(clippy::too_many_arguments)]
    fn pend(
        &mut self,
        conn: ConnId,
        re: u64,
        id: RoomId,
        from: Member,
        body: Body,
        cid: Option<CidKey>,
        turn: &mut Turn,
    ) -> Option<(Ticket, Arc<Record>)> {
        let record = Arc::new(self.record(body, turn.now.wall));
        let ticket = self.new_ticket();
        let room = self.rooms.get_mut(&id)?;
        if room.pending.len() >= MAX_PENDING {
            let message = format!("room {} has more to store than its log can take; try again", room.name);
            turn.retry(conn, re, ErrorCode::Unavailable, message);
            return None;
        }
        let kept = record.clone();
        room.pending.push_back(Pending { ticket, conn, re, from, record: kept, cid, again: Vec::new() });
        Some((ticket, record))
    }

    /// May the user not speak in the room (`None`: to another user)? Then it is told why.
    fn is_muted(&self, conn: ConnId, re: u64, user: &UserId, room: Option<&RoomName>, turn: &mut Turn) -> bool {
        let wall = turn.now.wall;
        let Some(mute) = self.sanctions.mute(user, room, wall) else { return false };
        let what = match &mute.measure {
            Measure::Mute { room: Some(room), .. } => format!("you are muted in room {room}"),
            _ => "you are muted".to_owned(),
        };
        let (code, message) = (ErrorCode::Muted, mute.in_words(&what));
        let retry = mute.until.and_then(|until| until.duration_since(wall).ok());
        turn.send(conn, ServerFrame::Error(ErrorFrame { re, code, message, retry }));
        true
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
        if self.is_closed(conn) {
            return;
        }
        if let Some(kept) = self.ack_in_backlog(conn, id, re, kept) {
            turn.send(conn, ServerFrame::Ack { re, kept: Some(kept), delivered: None });
        }
    }

    /// The log has kept what a client said: now it is told. `first`: the oldest that it still keeps.
    pub(super) fn kept(&mut self, name: &RoomName, ticket: Ticket, seq: Seq, first: Seq, turn: &mut Turn) {
        let Some(id) = self.names.get(name).copied() else { return };
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let Some(pending) = take_pending(&mut room.pending, ticket) else { return };
        let Some(stream) = &mut room.stream else { return };
        stream.head = stream.head.max(seq);
        // What has made room for it cannot be resumed from any more.
        stream.first = stream.first.max(first);
        let Pending { conn, re, from, record, cid, again, .. } = pending;
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
        let (Member { user, nick }, room) = (from, name.clone());
        match &record.body {
            Body::Deleted { target } => {
                let (by, target) = (By::Client { conn, user, nick }, Some(*target));
                turn.push(Effect::Happened(Happening::Deleted { by, room, target, seq }));
                self.read_again(id);
            }
            Body::Message { text, .. } => {
                self.committed += 1;
                let bytes = text.as_ref().map_or(0, String::len);
                turn.push(Effect::Happened(Happening::Message { conn, user, nick, room, seq, bytes }));
            }
            Body::Event { .. } | Body::Purged => {}
        }
        self.review(id, turn);
    }

    /// The log could not do what a client wanted.
    pub(super) fn not_kept(&mut self, name: &RoomName, ticket: Ticket, failure: &LogFailure, turn: &mut Turn) {
        let Some(id) = self.names.get(name).copied() else { return };
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let Some(pending) = take_pending(&mut room.pending, ticket) else { return };
        for (conn, re) in std::iter::once((pending.conn, pending.re)).chain(pending.again) {
            if self.is_closed(conn) {
                continue;
            }
            match (&pending.record.body, failure) {
                (Body::Deleted { target }, LogFailure::NotTheirs) => {
                    let message = format!("message {target} in room {name} is not yours to delete");
                    turn.error(conn, re, ErrorCode::Forbidden, message);
                }
                (Body::Deleted { target }, LogFailure::NoSuchMessage | LogFailure::NoSuchRoom) => {
                    let message = format!("room {name} keeps no message {target}, or it has been deleted already");
                    turn.error(conn, re, ErrorCode::BadRequest, message);
                }
                (Body::Deleted { target }, why) => {
                    let message = format!("message {target} in room {name} was not deleted: {why}");
                    turn.retry(conn, re, ErrorCode::Unavailable, message);
                }
                (_, why) => {
                    let message = format!("the message to room {name} was not stored: {why}");
                    turn.retry(conn, re, ErrorCode::Unavailable, message);
                }
            }
        }
        self.review(id, turn);
    }

    /// A message from user to user: to every connection of the one, and to the other connections
    /// of the sender. Not stored.
    fn direct(&mut self, conn: ConnId, re: u64, to: UserId, text: String, cid: Option<String>, turn: &mut Turn) {
        let Some(from) = self.author(conn) else { return };
        if self.is_muted(conn, re, &from.user, None, turn) {
            return;
        }
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

    pub(super) fn author(&self, conn: ConnId) -> Option<Member> {
        let user = self.user_of(conn)?;
        let nick = self.people.find(&user)?.nick.clone();
        Some(Member { user, nick })
    }

    pub(super) fn record(&mut self, body: Body, time: SystemTime) -> Record {
        Record { id: self.record_id(time), time, body }
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
