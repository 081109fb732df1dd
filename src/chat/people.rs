//! Users: their nick, their connections, and how long a dropped one is remembered.

use std::collections::HashMap;
use std::time::Duration;

use super::id::{ConnId, Nick, RoomId, UserId};

pub struct User {
    pub nick: Nick,
    /// The name that the site gives it: nobody can choose another, and everybody else makes room.
    pub given: Option<Nick>,
    /// Ascending in time. Welcomed connections only.
    pub conns: Vec<ConnId>,
    /// A connection dropped: until then nick and presence wait for it to return.
    pub held_until: Option<Duration>,
    /// Rooms in which only this waiting keeps it present.
    pub waited_for_in: Vec<RoomId>,
}

/// Everybody who is here or is waited for. Never iterated, so the order of a hash map does not
/// show anywhere.
#[derive(Default)]
pub struct People {
    users: HashMap<UserId, User>,
}

impl People {
    pub fn find(&self, user: &UserId) -> Option<&User> {
        self.users.get(user)
    }

    pub fn find_mut(&mut self, user: &UserId) -> Option<&mut User> {
        self.users.get_mut(user)
    }

    /// A connection of the user has been welcomed. `nick` counts only where the user is new;
    /// `given`: the name that the site gives it this time.
    pub fn arrive(&mut self, user: &UserId, nick: Nick, given: Option<Nick>, conn: ConnId) {
        match self.users.get_mut(user) {
            Some(known) => {
                known.conns.push(conn);
                known.given = given.or(known.given.take());
            }
            None => {
                let new = User { nick, given, conns: vec![conn], held_until: None, waited_for_in: Vec::new() };
                self.users.insert(user.clone(), new);
            }
        }
    }

    pub fn remove(&mut self, user: &UserId) -> Option<User> {
        self.users.remove(user)
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }
}
