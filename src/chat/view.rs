//! What operators may see: read-only, cheap, in pages.

use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use super::event::{Dialect, Settings};
use super::hub::{Client, Hub, Phase};
use super::id::{ConnId, Nick, RoomId, RoomName, Seq, UserId};
use super::room::Room;
use super::sanction::Sanction;

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientRow<'a> {
    pub conn: ConnId,
    pub dialect: Dialect,
    pub addr: IpAddr,
    /// Absent until it has been welcomed.
    pub user: Option<&'a UserId>,
    pub nick: Option<&'a Nick>,
    /// It asked to resume, and every room it named was recovered.
    pub resumed: bool,
    /// In how many rooms it is.
    pub rooms: usize,
    /// When its token ends.
    pub token_exp: Option<SystemTime>,
    pub moderator: bool,
}

/// One room.
#[derive(Clone, Copy, Debug)]
pub struct RoomRow<'a> {
    pub id: RoomId,
    pub name: &'a RoomName,
    /// Connections in it.
    pub members: usize,
    /// Users who count as here.
    pub online: usize,
    /// The newest seq; 0 where there is none or the log has not opened the room yet.
    pub head: Seq,
    /// The oldest seq that was kept when the log last said so.
    pub first: Seq,
    /// Absent while the log opens the room.
    pub epoch: Option<&'a Arc<str>>,
}

/// One user in a room.
#[derive(Clone, Debug)]
pub struct MemberRow<'a> {
    pub user: &'a UserId,
    pub nick: &'a Nick,
    /// The user's connections in this room; empty while a dropped user is waited for.
    pub conns: Vec<ConnId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections, welcomed or not.
    pub clients: usize,
    /// Users, also those who dropped a moment ago.
    pub users: usize,
    pub rooms: usize,
    /// Messages that the log has kept since the start.
    pub committed: u64,
}

impl Hub {
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn counts(&self) -> Counts {
        let (clients, users) = (self.clients.len(), self.people.len());
        Counts { clients, users, rooms: self.rooms.len(), committed: self.committed }
    }

    /// Connections above `after`, ascending. Take as many as you want; the next page begins after
    /// the last one.
    pub fn clients(&self, after: ConnId) -> impl Iterator<Item = ClientRow<'_>> {
        let range = (Bound::Excluded(after), Bound::Unbounded);
        self.clients.range(range).map(|(conn, client)| self.client_row(*conn, client))
    }

    pub fn client(&self, conn: ConnId) -> Option<ClientRow<'_>> {
        self.clients.get(&conn).map(|client| self.client_row(conn, client))
    }

    fn client_row<'a>(&'a self, conn: ConnId, client: &'a Client) -> ClientRow<'a> {
        let user = match &client.phase {
            Phase::Welcomed(user) => Some(user),
            Phase::Closed(user) => user.as_ref(),
            Phase::New | Phase::Greeting(_) => None,
        };
        let nick = user.and_then(|user| self.people.find(user)).map(|user| &user.nick);
        let Client { dialect, addr, resumed, .. } = *client;
        let grant = client.grant.as_deref();
        let (token_exp, moderator) = (grant.map(|grant| grant.expires), grant.is_some_and(|grant| grant.moderator));
        ClientRow { conn, dialect, addr, user, nick, resumed, rooms: client.rooms.len(), token_exp, moderator }
    }

    /// Who has this nick, in whatever spelling.
    pub fn nick_holder(&self, nick: &Nick) -> Option<&UserId> {
        self.nicks.holder(nick)
    }

    /// Bans and mutes in force, by their numbers.
    pub fn sanctions(&self, wall: SystemTime) -> impl Iterator<Item = &Arc<Sanction>> {
        self.sanctions.list(wall)
    }

    /// The rooms that a connection is in, in the order of its joining.
    pub fn rooms_of(&self, conn: ConnId) -> impl Iterator<Item = &RoomName> {
        let rooms = self.clients.get(&conn).map_or(&[][..], |client| &client.rooms);
        rooms.iter().filter_map(|id| self.room_name(*id))
    }

    /// The connections of a user, oldest first.
    pub fn conns_of(&self, user: &UserId) -> &[ConnId] {
        self.people.find(user).map_or(&[], |user| &user.conns)
    }

    /// All rooms that are open, by name; also those that nobody is in at the moment.
    pub fn rooms(&self) -> impl Iterator<Item = RoomRow<'_>> {
        self.names.values().filter_map(|id| self.rooms.get(id)).map(room_row)
    }

    /// The open rooms whose names come after this one, by name; take as many as you want.
    pub fn rooms_after(&self, after: Option<&RoomName>) -> impl Iterator<Item = RoomRow<'_>> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.names.range((begin, Bound::Unbounded));
        range.filter_map(|(_, id)| self.rooms.get(id)).map(room_row)
    }

    pub fn room(&self, name: &RoomName) -> Option<RoomRow<'_>> {
        self.find(name).map(room_row)
    }

    pub fn room_name(&self, id: RoomId) -> Option<&RoomName> {
        self.rooms.get(&id).map(|room| &room.name)
    }

    /// The connections in a room, ascending.
    pub fn members(&self, name: &RoomName) -> impl Iterator<Item = ConnId> {
        self.find(name).into_iter().flat_map(|room| room.members.iter().copied())
    }

    /// The users in a room, by their id.
    pub fn users_in(&self, name: &RoomName) -> impl Iterator<Item = MemberRow<'_>> {
        self.find(name).into_iter().flat_map(move |room| {
            room.users.keys().filter_map(move |user| {
                let known = self.people.find(user)?;
                let conns = known.conns.iter().copied().filter(|conn| room.members.contains(conn)).collect();
                Some(MemberRow { user, nick: &known.nick, conns })
            })
        })
    }

    fn find(&self, name: &RoomName) -> Option<&Room> {
        self.rooms.get(self.names.get(name)?)
    }
}

fn room_row(room: &Room) -> RoomRow<'_> {
    let stream = room.stream.as_ref();
    RoomRow {
        id: room.id,
        name: &room.name,
        members: room.members.len(),
        online: room.online(),
        head: room.head(),
        first: stream.map_or(0, |stream| stream.first),
        epoch: stream.map(|stream| &stream.epoch),
    }
}
