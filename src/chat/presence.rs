//! Who is here: users, not connections.
//!
//! A user comes with the first connection and goes with the last; one that dropped is waited for.
//! In a large room only the number is told, at most once a second.

use std::time::Duration;

use super::event::{Effect, PresenceChange, PresenceState, ServerFrame};
use super::hub::{Hub, Timer, Turn, publish};
use super::id::{ConnId, Nick, RoomId, RoomName, UserId};

/// How often a large room is told the number of its users.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl Hub {
    /// One more connection of the user is in the room.
    pub(super) fn user_came(&mut self, id: RoomId, user: &UserId, nick: &Nick, turn: &mut Turn) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        if let Some(here) = room.users.get_mut(user) {
            here.conns += 1;
            // It is back: nobody has noticed.
            if let Some(at) = here.until.take() {
                self.timers.remove(&(at, Timer::Leave(id, user.clone())));
                if let Some(known) = self.people.find_mut(user) {
                    known.waited_for_in.retain(|room| *room != id);
                }
            }
            return;
        }
        room.users.entry(user.clone()).or_default().conns = 1;
        self.tell_change(id, user, nick, PresenceState::Join, None, turn);
    }

    /// One connection of the user is no longer in the room.
    pub(super) fn connection_left(&mut self, id: RoomId, user: &UserId, nick: &Nick, clean: bool, turn: &mut Turn) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let Some(here) = room.users.get_mut(user) else { return };
        here.conns -= 1;
        if here.conns > 0 {
            return;
        }
        if clean || self.settings.presence_grace.is_zero() {
            room.users.remove(user);
            self.tell_change(id, user, nick, PresenceState::Leave, None, turn);
        } else {
            let until = turn.now.mono + self.settings.presence_grace;
            here.until = Some(until);
            self.timers.insert((until, Timer::Leave(id, user.clone())));
            if let Some(known) = self.people.find_mut(user) {
                known.waited_for_in.push(id);
            }
        }
    }

    /// The user did not return to the room in time.
    pub(super) fn waited_long_enough(&mut self, id: RoomId, user: &UserId, at: Duration, turn: &mut Turn) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        if room.users.get(user).is_some_and(|here| here.until == Some(at)) {
            room.users.remove(user);
            if let Some(known) = self.people.find_mut(user) {
                known.waited_for_in.retain(|room| *room != id);
                let nick = known.nick.clone();
                self.tell_change(id, user, &nick, PresenceState::Leave, None, turn);
            }
            self.review(id, turn);
        }
    }

    /// A welcomed connection is gone; with the last one the user goes, at once or after a while.
    pub(super) fn connection_gone(&mut self, user: &UserId, conn: ConnId, clean: bool, turn: &mut Turn) {
        let grace = self.settings.presence_grace;
        let Some(known) = self.people.find_mut(user) else { return };
        known.conns.retain(|known| *known != conn);
        if !clean && !grace.is_zero() {
            // Its presence in rooms ends no later than this.
            let until = known.held_until.unwrap_or_default().max(turn.now.mono + grace);
            if let Some(old) = known.held_until.replace(until) {
                self.timers.remove(&(old, Timer::Release(user.clone())));
            }
            self.timers.insert((until, Timer::Release(user.clone())));
        } else if known.conns.is_empty() && known.held_until.is_none() {
            self.forget_user(user);
        }
    }

    /// The user was waited for until now.
    pub(super) fn release(&mut self, user: &UserId, at: Duration) {
        let Some(known) = self.people.find_mut(user) else { return };
        if known.held_until == Some(at) {
            known.held_until = None;
            if known.conns.is_empty() {
                self.forget_user(user);
            }
        }
    }

    fn forget_user(&mut self, user: &UserId) {
        if let Some(known) = self.people.remove(user) {
            self.nicks.release(&known.nick, user);
        }
    }

    /// The rooms that the user counts as being in, each once.
    pub(super) fn rooms_of_user(&self, user: &UserId) -> Vec<RoomId> {
        let conns = self.people.find(user).map_or(&[][..], |user| &user.conns);
        let mut rooms: Vec<RoomId> =
            conns.iter().filter_map(|conn| self.clients.get(conn)).flat_map(|client| client.rooms.clone()).collect();
        // Where it is only waited for, its name is shown as well.
        rooms.extend(self.people.find(user).into_iter().flat_map(|user| &user.waited_for_in));
        rooms.sort_unstable();
        rooms.dedup();
        rooms
    }

    /// Tells a room of one user, or in a large room that the number has changed. `quiet`: the
    /// connection that knows already.
    pub(super) fn tell_change(
        &mut self,
        id: RoomId,
        user: &UserId,
        nick: &Nick,
        state: PresenceState,
        quiet: Option<ConnId>,
        turn: &mut Turn,
    ) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        let online = room.online();
        if online <= self.settings.presence_limit {
            let change = Some(PresenceChange { user: user.clone(), nick: nick.clone(), state });
            let frame = ServerFrame::Presence { room: room.name.clone(), change, online };
            publish(room, frame, quiet, turn);
        } else if state != PresenceState::Nick && room.tell_at.is_none() {
            let now = turn.now.mono;
            let at = room.told_at.map_or(now, |told| now.max(told + TELL_EVERY));
            if at == now {
                self.tell_online(id, turn);
            } else {
                room.tell_at = Some(at);
                self.timers.insert((at, Timer::Tell(id)));
            }
        }
    }

    pub(super) fn tell_online(&mut self, id: RoomId, turn: &mut Turn) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        room.tell_at = None;
        room.told_at = Some(turn.now.mono);
        let frame = ServerFrame::Presence { room: room.name.clone(), change: None, online: room.online() };
        publish(room, frame, None, turn);
    }

    pub(super) fn typing(&mut self, conn: ConnId, re: u64, name: &RoomName, on: bool, turn: &mut Turn) {
        let Some(id) = self.room_joined(conn, re, name, turn) else { return };
        let Some(user) = self.user_of(conn) else { return };
        // Nobody waits for words that will not come; an error would tell nothing that is not known.
        if self.sanctions.mute(&user, Some(name), turn.now.wall).is_some() {
            return;
        }
        let Some(nick) = self.people.find(&user).map(|user| user.nick.clone()) else { return };
        let Some(room) = self.rooms.get(&id) else { return };
        let instead = room.hears(conn).then_some((conn, None));
        let frame = ServerFrame::Typing { room: name.clone(), user, nick, on };
        turn.push(Effect::Publish { room: id, frame, instead });
    }

    pub(super) fn who(&mut self, conn: ConnId, re: u64, name: &RoomName, turn: &mut Turn) {
        let Some(id) = self.room_joined(conn, re, name, turn) else { return };
        let Some(room) = self.rooms.get(&id) else { return };
        // A list of ten thousand would cost the asker its connection: so many, and how many there are.
        let members = self.members_of(room, self.settings.presence_limit);
        turn.send(conn, ServerFrame::Who { re, room: name.clone(), members, online: room.online() });
    }
}
