//! Moderation: deleting, muting and banning, by moderators in their rooms and by operators anywhere.
//!
//! What is ordered is in force at once; it is answered when it has been kept: by the room's log, or
//! in the book of sanctions. Closing the connections of the banned is left to the one who banned them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::event::{
    Action, ActionError, Body, By, Effect, Entry, ErrorCode, Happening, LogFailure, LogRequest, Outcome, Record,
    ServerFrame, Ticket,
};
use super::hub::{Hub, Timer, Turn};
use super::id::{ConnId, RoomName, Seq, UserId};
use super::join::answered;
use super::room::Waiter;
use super::sanction::{BanTarget, MAX_SANCTIONS, Measure, Sanction, SanctionKind};

/// The most sanctions in force while moderators may add to them: what they do must leave room for
/// the operators.
const MODERATORS_MOST: usize = MAX_SANCTIONS / 2;
/// The most that moderators may wait for to be saved.
const MAX_UNSAVED: usize = 1024;

/// What has been ordered and is not answered yet.
#[derive(Default)]
pub(super) struct Moderation {
    /// Operators' orders to the room log. As many as operators may ask.
    orders: HashMap<Ticket, Order>,
    /// Who waits for which version of the book to be saved; ascending.
    unsaved: VecDeque<(u64, Waiting)>,
    version: u64,
}

/// An operator's order to the room log.
pub(super) struct Order {
    id: u64,
    by: String,
    room: RoomName,
    /// Absent: everything.
    target: Option<Seq>,
    record: Arc<Record>,
}

enum Waiting {
    Operator { id: u64, outcome: Outcome },
    Moderator { conn: ConnId, re: u64 },
}

impl Moderation {
    /// The order that the log has answered.
    pub fn ordered(&mut self, ticket: Ticket) -> Option<Order> {
        self.orders.remove(&ticket)
    }

    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.orders.is_empty() && self.unsaved.is_empty()
    }
}

/// The log could not carry out an operator's order.
pub(super) fn refuse(order: Order, failure: LogFailure, turn: &mut Turn) {
    let Order { id, room, target, .. } = order;
    let error = match (failure, target) {
        (LogFailure::Unavailable(why), _) => ActionError::Unavailable(why),
        (LogFailure::NoSuchMessage | LogFailure::NotTheirs, Some(target)) => {
            ActionError::NoSuchMessage { room, target }
        }
        (LogFailure::NoSuchRoom | LogFailure::NoSuchMessage | LogFailure::NotTheirs, _) => {
            ActionError::NoSuchRoom(room)
        }
    };
    turn.push(Effect::Moderated { id, result: Err(error) });
}

impl Hub {
    /// An operator's order, which is answered exactly once.
    pub(super) fn moderate(&mut self, id: u64, by: String, action: Action, turn: &mut Turn) {
        match action {
            Action::Delete { room, target } => self.order(id, by, room, Some(target), turn),
            Action::Purge { room } => self.order(id, by, room, None, turn),
            Action::CloseRoom { room, reason } => {
                let result = self.put_out(&room, by, &reason, turn).ok_or(ActionError::NoSuchRoom(room));
                turn.push(Effect::Moderated { id, result: result.map(|conns| Outcome::Emptied { conns }) });
            }
            Action::Ban { target, until, reason } => {
                let measure = Measure::Ban(target);
                self.sanction_ordered(id, by, measure, until, reason, turn);
            }
            Action::Mute { user, room, until, reason } => {
                let measure = Measure::Mute { user, room };
                self.sanction_ordered(id, by, measure, until, reason, turn);
            }
            Action::Amend { kind, id: number, until, reason } => {
                let Some(sanction) = self.sanctions.amend(kind, number, until, reason, turn.now.wall) else {
                    let error = ActionError::NoSuchSanction { kind, id: number };
                    return turn.push(Effect::Moderated { id, result: Err(error) });
                };
                self.tell_muted(&sanction, turn);
                turn.push(Effect::Happened(Happening::Amended { by: By::Operator(by), sanction: sanction.clone() }));
                self.save(Waiting::Operator { id, outcome: Outcome::Amended { sanction } }, turn);
            }
            Action::Lift { kind, id: number } => match self.sanctions.lift(kind, number, turn.now.wall) {
                None => {
                    let error = ActionError::NoSuchSanction { kind, id: number };
                    turn.push(Effect::Moderated { id, result: Err(error) });
                }
                Some(sanction) => {
                    self.lifted(By::Operator(by), &sanction, turn);
                    self.save(Waiting::Operator { id, outcome: Outcome::Lifted { sanction } }, turn);
                }
            },
        }
    }

    // What goes into a room's log.

    fn order(&mut self, id: u64, by: String, room: RoomName, target: Option<Seq>, turn: &mut Turn) {
        let body = target.map_or(Body::Purged, |target| Body::Deleted { target });
        let record = Arc::new(self.record(body, turn.now.wall));
        let ticket = self.new_ticket();
        let (name, kept) = (room.clone(), record.clone());
        turn.log(match target {
            Some(target) => LogRequest::Delete { room: name, ticket, target, only_of: None, record: kept },
            None => LogRequest::Purge { room: name, ticket, record: kept },
        });
        self.moderation.orders.insert(ticket, Order { id, by, room, target, record });
    }

    /// The log has done what an operator wanted. Where the room is open its members are told; where
    /// it is still being opened, the log's answer to that has counted it already or will.
    pub(super) fn carried_out(&mut self, order: Order, seq: Seq, first: Seq, removed: u64, turn: &mut Turn) {
        let Order { id, by, room: name, target, record } = order;
        if let Some(room) = self.names.get(&name).copied()
            && let Some(stream) = self.rooms.get_mut(&room).and_then(|room| room.stream.as_mut())
        {
            stream.head = stream.head.max(seq);
            stream.first = stream.first.max(first);
            let frame = ServerFrame::Entry { room: name.clone(), entry: Entry { seq, record } };
            turn.push(Effect::Publish { room, frame, instead: None });
            self.read_again(room);
        }
        let by = By::Operator(by);
        turn.push(Effect::Happened(Happening::Deleted { by, room: name, target, seq }));
        turn.push(Effect::Moderated { id, result: Ok(Outcome::Removed { seq, removed }) });
    }

    // Rooms.

    /// Puts everybody out of an open room, and those away who wait to come in; how many were in it.
    fn put_out(&mut self, name: &RoomName, by: String, reason: &str, turn: &mut Turn) -> Option<u64> {
        let id = self.names.get(name).copied()?;
        let room = self.rooms.get_mut(&id)?;
        let members = std::mem::take(&mut room.members);
        let catching_up = std::mem::take(&mut room.catching_up);
        let users = std::mem::take(&mut room.users);
        let joining = room.waiting.extract_if(.., |_, waiter| matches!(waiter, Waiter::Join { .. }));
        let joining: Vec<(ConnId, Waiter)> = joining.collect();
        for conn in &members {
            // First, as when leaving: so that acks which waited for their place need none any more.
            turn.send(*conn, ServerFrame::Left { re: 0, room: name.clone(), reason: Some(reason.to_owned()) });
            if !catching_up.contains(conn) {
                turn.push(Effect::Exit { conn: *conn, room: id });
            }
            self.cancel_pages(*conn, id, turn);
            if let Some(client) = self.clients.get_mut(conn) {
                client.rooms.retain(|room| *room != id);
            }
            if let Some(who) = self.author(*conn) {
                let left = Happening::Left { conn: *conn, user: who.user, nick: who.nick, room: name.clone() };
                turn.push(Effect::Happened(left));
            }
        }
        // Nobody is left to be told that they went.
        for (user, here) in users {
            if let Some(at) = here.until {
                self.timers.remove(&(at, Timer::Leave(id, user.clone())));
                if let Some(known) = self.people.find_mut(&user) {
                    known.waited_for_in.retain(|room| *room != id);
                }
            }
        }
        for (conn, waiter) in joining {
            self.stop_waiting(conn, id);
            if let Waiter::Join { re, held, .. } = waiter {
                let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                let message = format!("room {name} has just been closed by an operator{why}");
                for re in std::iter::once(re).chain(held.iter().filter_map(answered)) {
                    turn.error(conn, re, ErrorCode::Forbidden, message.clone());
                }
            }
        }
        let conns = members.len() as u64;
        turn.push(Effect::Happened(Happening::RoomClosed { by: By::Operator(by), room: name.clone(), conns }));
        self.review(id, turn);
        Some(conns)
    }

    // Bans and mutes.

    fn sanction_ordered(
        &mut self,
        id: u64,
        by: String,
        measure: Measure,
        until: Option<SystemTime>,
        reason: String,
        turn: &mut Turn,
    ) {
        let Some(sanction) = self.sanctions.add(measure, reason, by.clone(), turn.now.wall, until) else {
            let error = ActionError::TooMany { most: MAX_SANCTIONS };
            return turn.push(Effect::Moderated { id, result: Err(error) });
        };
        self.sanctioned(By::Operator(by), &sanction, turn);
        let conns = match &sanction.measure {
            Measure::Ban(BanTarget::Net(net)) => {
                let inside = self.clients.iter().filter(|(_, client)| net.contains(&client.addr.to_canonical()));
                inside.map(|(conn, _)| *conn).filter(|conn| !self.is_closed(*conn)).collect()
            }
            Measure::Ban(BanTarget::User(user)) | Measure::Mute { user, .. } => self.conns_of(user).to_vec(),
        };
        self.save(Waiting::Operator { id, outcome: Outcome::Sanctioned { sanction, conns } }, turn);
    }

    /// A sanction is in force: operators who watch are told, and one who is muted.
    fn sanctioned(&mut self, by: By, sanction: &Arc<Sanction>, turn: &mut Turn) {
        self.tell_muted(sanction, turn);
        turn.push(Effect::Happened(Happening::Sanctioned { by, sanction: sanction.clone() }));
    }

    fn tell_muted(&self, sanction: &Sanction, turn: &mut Turn) {
        if let Measure::Mute { user, room } = &sanction.measure {
            let (until, reason) = (sanction.until, sanction.reason.clone());
            let frame = ServerFrame::Muted { room: room.clone(), on: true, until, reason };
            self.tell_user(user, &frame, turn);
        }
    }

    fn lifted(&mut self, by: By, sanction: &Arc<Sanction>, turn: &mut Turn) {
        if let Measure::Mute { user, room } = &sanction.measure {
            let frame = ServerFrame::Muted { room: room.clone(), on: false, until: None, reason: String::new() };
            self.tell_user(user, &frame, turn);
        }
        turn.push(Effect::Happened(Happening::Lifted { by, sanction: sanction.clone() }));
    }

    fn tell_user(&self, user: &UserId, frame: &ServerFrame, turn: &mut Turn) {
        for conn in self.conns_of(user) {
            turn.send(*conn, frame.clone());
        }
    }

    /// The book has changed and is to be saved; `waiting` is answered when it has been.
    fn save(&mut self, waiting: Waiting, turn: &mut Turn) {
        self.moderation.version += 1;
        let version = self.moderation.version;
        self.moderation.unsaved.push_back((version, waiting));
        let sanctions = self.sanctions.list(turn.now.wall).cloned().collect();
        turn.push(Effect::SaveSanctions { version, sanctions });
    }

    /// The book has been saved as it was at `version`, and with it all that came before; or not.
    pub(super) fn sanctions_saved(&mut self, version: u64, result: Result<(), String>, turn: &mut Turn) {
        while let Some((of, _)) = self.moderation.unsaved.front()
            && *of <= version
            && let Some((_, waiting)) = self.moderation.unsaved.pop_front()
        {
            match (waiting, &result) {
                (Waiting::Operator { id, outcome }, Ok(())) => turn.push(Effect::Moderated { id, result: Ok(outcome) }),
                (Waiting::Operator { id, .. }, Err(why)) => {
                    turn.push(Effect::Moderated { id, result: Err(ActionError::NotSaved(why.clone())) });
                }
                (Waiting::Moderator { conn, .. }, _) if self.is_closed(conn) => {}
                (Waiting::Moderator { conn, re }, Ok(())) => {
                    turn.send(conn, ServerFrame::Ack { re, kept: None, delivered: None });
                }
                // Why is for the operators, who find it in the journal.
                (Waiting::Moderator { conn, re }, Err(_)) => {
                    let message = "it is in force, but could not be saved and ends when the server stops";
                    turn.error(conn, re, ErrorCode::Internal, message);
                }
            }
        }
    }

    // Moderators.

    pub(super) fn is_moderator(&self, conn: ConnId) -> bool {
        self.clients.get(&conn).and_then(|client| client.grant.as_ref()).is_some_and(|grant| grant.moderator)
    }

    #[expect(clippy::too_many_arguments)]
    pub(super) fn mute(
        &mut self,
        conn: ConnId,
        re: u64,
        name: &RoomName,
        user: UserId,
        lasts: Option<Duration>,
        reason: String,
        turn: &mut Turn,
    ) {
        let Some(by) = self.moderator_of(conn, re, name, turn) else { return };
        if self.conns_of(&user).iter().any(|conn| self.is_moderator(*conn)) {
            return turn.error(conn, re, ErrorCode::Forbidden, format!("user {user} is a moderator too"));
        }
        let measure = Measure::Mute { user, room: Some(name.clone()) };
        // One that is there already takes no more room.
        let full = self.sanctions.count() >= MODERATORS_MOST && self.sanctions.same(&measure).is_none();
        let until = lasts.and_then(|lasts| turn.now.wall.checked_add(lasts));
        let sanction =
            if full { None } else { self.sanctions.add(measure, reason, in_words(&by), turn.now.wall, until) };
        let Some(sanction) = sanction else {
            let message = "there are too many bans and mutes already; an operator must end some first";
            return turn.error(conn, re, ErrorCode::Unavailable, message);
        };
        self.sanctioned(by, &sanction, turn);
        self.save(Waiting::Moderator { conn, re }, turn);
    }

    pub(super) fn unmute(&mut self, conn: ConnId, re: u64, name: &RoomName, user: &UserId, turn: &mut Turn) {
        let Some(by) = self.moderator_of(conn, re, name, turn) else { return };
        let wall = turn.now.wall;
        let measure = Measure::Mute { user: user.clone(), room: Some(name.clone()) };
        let known = self.sanctions.same(&measure).map(|mute| mute.id);
        let Some(sanction) = known.and_then(|id| self.sanctions.lift(SanctionKind::Mute, id, wall)) else {
            return match self.sanctions.mute(user, None, wall) {
                Some(_) => {
                    let message = format!("user {user} is muted in all rooms, which only an operator can end");
                    turn.error(conn, re, ErrorCode::Forbidden, message);
                }
                None => turn.error(conn, re, ErrorCode::BadRequest, format!("user {user} is not muted in room {name}")),
            };
        };
        self.lifted(by, &sanction, turn);
        self.save(Waiting::Moderator { conn, re }, turn);
    }

    /// Who it is, if it may moderate the room; otherwise it is told that it may not.
    fn moderator_of(&mut self, conn: ConnId, re: u64, name: &RoomName, turn: &mut Turn) -> Option<By> {
        if !self.is_moderator(conn) {
            turn.error(conn, re, ErrorCode::Forbidden, "only moderators may do that");
            return None;
        }
        self.room_joined(conn, re, name, turn)?;
        if self.moderation.unsaved.len() >= MAX_UNSAVED {
            turn.retry(conn, re, ErrorCode::Unavailable, "bans and mutes cannot be saved fast enough; try again");
            return None;
        }
        let who = self.author(conn)?;
        Some(By::Client { conn, user: who.user, nick: who.nick })
    }
}

/// As it is written into the book.
fn in_words(by: &By) -> String {
    match by {
        By::Client { user, nick, .. } => format!("{nick} ({user})"),
        By::Operator(name) => name.clone(),
    }
}
