//! Telling: the journal, and those who watch what happens.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::HubTask;
use crate::admin::{Event, EventKind};
use crate::chat::event::{By, Happening};
use crate::chat::id::{RoomName, UserId};
use crate::chat::sanction::{Measure, Sanction, SanctionKind};
use crate::peer::Peer;

/// Messages of the last ten seconds.
#[derive(Default)]
pub(super) struct Rate {
    seconds: [u64; 10],
    second: u64,
}

impl HubTask {
    pub(super) fn happened(&mut self, happening: Happening) {
        let (kind, conn, user, nick, room, detail) = match happening {
            Happening::Welcomed { conn, user, nick } => {
                if let Some(client) = self.clients.get(&conn) {
                    // A connection is welcomed once.
                    let _ = client.peer.user.set(user.clone());
                    tracing::debug!(client = conn.0, user = user.as_str(), address = %client.peer.address, "client {conn} is {nick} ({user})");
                }
                return;
            }
            Happening::Joined { conn, user, nick, room } => {
                (EventKind::Join, conn, user, nick, Some(room), String::new())
            }
            Happening::Left { conn, user, nick, room } => {
                (EventKind::Leave, conn, user, nick, Some(room), String::new())
            }
            Happening::Message { conn, user, nick, room, seq, bytes } => {
                self.rate.count(self.started.elapsed().as_secs());
                if self.events.receiver_count() == 0 {
                    return;
                }
                (EventKind::Message, conn, user, nick, Some(room), format!("seq {seq}, {bytes} bytes"))
            }
            Happening::NickChanged { conn, user, from, to } => {
                (EventKind::Nick, conn, user, to, None, format!("was {from}"))
            }
            Happening::Refused { conn, sanction } => {
                let address = self.clients.get(&conn).map(|c| c.peer.address.to_string()).unwrap_or_default();
                let ban = sanction.id;
                // As many as strangers like, so it is never above debug.
                return tracing::debug!(
                    client = conn.0,
                    address,
                    ban,
                    "client {conn} ({address}) was refused: ban {ban}"
                );
            }
            moderated => return self.moderated(moderated),
        };
        let peer = self.clients.get(&conn).map(|c| &c.peer);
        if let (EventKind::Join | EventKind::Leave, Some(peer), Some(room)) = (kind, peer, &room) {
            let does = if kind == EventKind::Join { "has joined" } else { "has left" };
            tracing::debug!(client = conn.0, user = user.as_str(), address = %peer.address, room = room.as_str(), "client {conn} ({nick}) {does} {room}");
        }
        if self.events.receiver_count() > 0 {
            self.tell_event(Event {
                time: SystemTime::now(),
                kind,
                client: Some(conn),
                user: Some(user),
                nick: Some(nick),
                address: peer.map(|p| p.address),
                room,
                dialect: peer.map(|p| p.dialect),
                detail,
            });
        }
    }

    /// Tells those who watch about a connection.
    pub(super) fn tell(&self, kind: EventKind, peer: &Peer, detail: impl FnOnce() -> String) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let row = self.chat.client(peer.id);
        self.tell_event(Event {
            time: SystemTime::now(),
            kind,
            client: Some(peer.id),
            user: row.and_then(|r| r.user).cloned(),
            nick: row.and_then(|r| r.nick).cloned(),
            address: Some(peer.address),
            room: None,
            dialect: Some(peer.dialect),
            detail: detail(),
        });
    }

    /// Tells those who watch of the daemon as a whole.
    pub(super) fn tell_of_daemon(&self, kind: EventKind, detail: String) {
        self.tell_event(Event {
            time: SystemTime::now(),
            kind,
            client: None,
            user: None,
            nick: None,
            address: None,
            room: None,
            dialect: None,
            detail,
        });
    }

    pub(super) fn tell_event(&self, event: Event) {
        // Nobody watching is no error.
        let _ = self.events.send(Arc::new(event));
    }

    /// What moderators and operators have changed, into the journal and to those who watch.
    fn moderated(&mut self, happening: Happening) {
        let (kind, by, user, room, detail) = match happening {
            Happening::Deleted { by, room, target: Some(target), seq } => {
                (EventKind::Delete, by, None, Some(room), format!("message {target}, as seq {seq}"))
            }
            Happening::Deleted { by, room, target: None, seq } => {
                (EventKind::Delete, by, None, Some(room), format!("everything before seq {seq}"))
            }
            Happening::RoomClosed { by, room, conns } => {
                (EventKind::Close, by, None, Some(room), format!("{conns} put out"))
            }
            Happening::Sanctioned { by, sanction } => {
                let (user, room) = concerned(&sanction);
                let kind = if sanction.kind() == SanctionKind::Ban { EventKind::Ban } else { EventKind::Mute };
                (kind, by, user, room, in_words(&sanction))
            }
            Happening::Amended { by, sanction } => {
                let (user, room) = concerned(&sanction);
                let kind = if sanction.kind() == SanctionKind::Ban { EventKind::Ban } else { EventKind::Mute };
                (kind, by, user, room, format!("changed: {}", in_words(&sanction)))
            }
            Happening::Lifted { by, sanction } => {
                let (user, room) = concerned(&sanction);
                let kind = if sanction.kind() == SanctionKind::Ban { EventKind::Unban } else { EventKind::Unmute };
                (kind, by, user, room, in_words(&sanction))
            }
            Happening::Welcomed { .. }
            | Happening::Joined { .. }
            | Happening::Left { .. }
            | Happening::Message { .. }
            | Happening::NickChanged { .. }
            | Happening::Refused { .. } => return,
        };
        // Everybody may take away what is their own.
        let moderates = match &by {
            By::Client { conn, .. } => self.chat.client(*conn).is_some_and(|client| client.moderator),
            By::Operator(_) => true,
        };
        let who = match &by {
            By::Client { conn, user, nick } if moderates => format!("moderator {nick} ({user}, client {conn})"),
            By::Client { conn, user, nick } => format!("{nick} ({user}, client {conn})"),
            By::Operator(name) => name.clone(),
        };
        // What operators do is written down where their calls are answered.
        if let By::Client { .. } = &by {
            let does = match kind {
                EventKind::Delete => "deleted",
                EventKind::Mute => "put in force:",
                _ => "ended",
            };
            let place = room.as_ref().map(|room| format!(" in room {room}")).unwrap_or_default();
            let (room, user) = (room.as_ref().map_or("", RoomName::as_str), user.as_ref().map_or("", UserId::as_str));
            let detail = detail.escape_debug();
            if moderates {
                tracing::info!(room, user, by = who, "{who} {does} {detail}{place}");
            } else {
                tracing::debug!(room, user, by = who, "{who} {does} {detail}{place}, an own one");
            }
        }
        let (client, address, nick) = match &by {
            By::Client { conn, nick, .. } => {
                (Some(*conn), self.clients.get(conn).map(|c| c.peer.address), Some(nick.clone()))
            }
            By::Operator(_) => (None, None, None),
        };
        let detail = format!("{detail}, by {who}");
        let event = Event { time: SystemTime::now(), kind, client, user, nick, address, room, dialect: None, detail };
        self.tell_event(event);
    }
}

/// The user and the room that a sanction is about.
fn concerned(sanction: &Sanction) -> (Option<UserId>, Option<RoomName>) {
    match &sanction.measure {
        Measure::Ban(crate::chat::sanction::BanTarget::User(user)) => (Some(user.clone()), None),
        Measure::Ban(crate::chat::sanction::BanTarget::Net(_)) => (None, None),
        Measure::Mute { user, room } => (Some(user.clone()), room.clone()),
    }
}

fn in_words(sanction: &Sanction) -> String {
    let what = match &sanction.measure {
        Measure::Ban(target) => format!("ban {} of {target}", sanction.id),
        Measure::Mute { user, .. } => format!("mute {} of user:{user}", sanction.id),
    };
    let until = match sanction.until {
        Some(until) => format!(" until {}", humantime::format_rfc3339_seconds(until)),
        None => String::new(),
    };
    let reason = if sanction.reason.is_empty() { String::new() } else { format!(" ({})", sanction.reason) };
    format!("{what}{until}{reason}")
}

impl Rate {
    pub(super) fn count(&mut self, second: u64) {
        self.advance(second);
        self.seconds[(second % 10) as usize] += 1;
    }

    fn advance(&mut self, second: u64) {
        for passed in (self.second + 1..=second).take(10) {
            self.seconds[(passed % 10) as usize] = 0;
        }
        if second > self.second + 10 {
            self.seconds = [0; 10];
        }
        self.second = self.second.max(second);
    }

    pub(super) fn per_second(&mut self, now: Duration) -> f64 {
        self.advance(now.as_secs());
        self.seconds.iter().sum::<u64>() as f64 / now.as_secs_f64().clamp(1.0, 10.0)
    }
}
