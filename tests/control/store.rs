//! What the stand-in remembers: rooms that are stored, bans and mutes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wschat::admin::{HistoryPage, StoredRooms};
use wschat::chat::event::{
    Action, ActionError, Body, Dialect, Entry, HistoryRange, LogFailure, Member, Outcome, Record, StoredRoom,
};
use wschat::chat::id::{ConnId, Nick, RoomName, Seq, UserId};
use wschat::chat::sanction::{BanTarget, Measure, SanctionKind};

use crate::fake::World;

/// A room's stored entries.
pub struct Stream {
    pub epoch: Arc<str>,
    pub entries: Vec<Entry>,
    pub head: Seq,
}

impl Default for Stream {
    fn default() -> Self {
        Stream { epoch: "e1".into(), entries: Vec::new(), head: 0 }
    }
}

pub fn room_name(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

impl Stream {
    pub fn push(&mut self, body: Body) -> Seq {
        self.head += 1;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + self.head);
        let record = Record { id: format!("m{}", self.head), time, body };
        self.entries.push(Entry { seq: self.head, record: record.into() });
        self.head
    }

    pub fn say(&mut self, text: &str) -> Seq {
        let from = Member { user: UserId::parse("u1").unwrap(), nick: Nick::parse("Ann").unwrap() };
        self.push(Body::Message { from, text: Some(text.into()), cid: None, dialect: Dialect::Json })
    }

    /// As a room that has had so many messages.
    pub fn of(count: u64) -> Self {
        let mut stream = Stream::default();
        for n in 1..=count {
            stream.say(&format!("text {n}"));
        }
        stream
    }

    fn first(&self) -> Seq {
        self.entries.first().map_or(self.head + 1, |entry| entry.seq)
    }

    fn delete(&mut self, target: Seq) -> Option<(Seq, u64)> {
        let entry = self.entries.iter_mut().find(|entry| entry.seq == target)?;
        let body = match &entry.record.body {
            Body::Message { from, text: Some(_), cid, dialect } => {
                Body::Message { from: from.clone(), text: None, cid: cid.clone(), dialect: *dialect }
            }
            _ => return None,
        };
        entry.record = Record { id: entry.record.id.clone(), time: entry.record.time, body }.into();
        Some((self.push(Body::Deleted { target }), 1))
    }

    fn purge(&mut self) -> (Seq, u64) {
        let removed = self.entries.len() as u64;
        self.entries.clear();
        (self.push(Body::Purged), removed)
    }
}

impl World {
    pub fn count(&self, kind: SanctionKind) -> usize {
        self.sanctions.list(SystemTime::now()).filter(|sanction| sanction.kind() == kind).count()
    }

    pub fn room(&mut self, name: &str) -> &mut Stream {
        self.stored.entry(room_name(name)).or_default()
    }

    pub fn history(&self, room: &RoomName, range: HistoryRange, limit: u32) -> Result<HistoryPage, LogFailure> {
        if let Some(why) = &self.broken {
            return Err(LogFailure::Unavailable(why.clone()));
        }
        let stream = self.stored.get(room).ok_or(LogFailure::NoSuchRoom)?;
        let all = &stream.entries;
        let limit = limit as usize;
        let found: Vec<&Entry> = match range {
            HistoryRange::Latest => all.iter().collect(),
            HistoryRange::Before(before) => all.iter().filter(|entry| entry.seq < before).collect(),
            HistoryRange::After(after) => all.iter().filter(|entry| entry.seq > after).collect(),
        };
        let more = found.len() > limit;
        let entries = match range {
            HistoryRange::After(_) => found.into_iter().take(limit).cloned().collect(),
            _ => found[found.len().saturating_sub(limit)..].iter().copied().cloned().collect(),
        };
        Ok(HistoryPage { epoch: stream.epoch.clone(), entries, more, first: stream.first(), head: stream.head })
    }

    pub fn stored_rooms(&self, after: Option<RoomName>, limit: u32) -> Result<StoredRooms, LogFailure> {
        if let Some(why) = &self.broken {
            return Err(LogFailure::Unavailable(why.clone()));
        }
        let rooms = self.stored.iter().filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
        let one = |(name, stream): (&RoomName, &Stream)| StoredRoom {
            name: name.clone(),
            head: stream.head,
            first: stream.first(),
        };
        let mut rooms: Vec<StoredRoom> = rooms.map(one).collect();
        let more = rooms.len() > limit as usize;
        rooms.truncate(limit as usize);
        Ok(StoredRooms { rooms, more })
    }

    pub fn moderate(&mut self, by: String, action: Action) -> Result<Outcome, ActionError> {
        self.actions.push((by.clone(), action.clone()));
        match action {
            Action::Delete { room, target } => {
                self.can_store()?;
                let stream = self.stored.get_mut(&room).ok_or_else(|| ActionError::NoSuchRoom(room.clone()))?;
                let (seq, removed) = stream.delete(target).ok_or(ActionError::NoSuchMessage { room, target })?;
                Ok(Outcome::Removed { seq, removed })
            }
            Action::Purge { room } => {
                self.can_store()?;
                let stream = self.stored.get_mut(&room).ok_or(ActionError::NoSuchRoom(room))?;
                let (seq, removed) = stream.purge();
                Ok(Outcome::Removed { seq, removed })
            }
            Action::CloseRoom { room, .. } => {
                let mut conns = 0;
                for view in self.clients.values_mut() {
                    conns += u64::from(view.rooms.contains(&room));
                    view.rooms.retain(|known| *known != room);
                }
                if conns == 0 && !self.stored.contains_key(&room) {
                    return Err(ActionError::NoSuchRoom(room));
                }
                Ok(Outcome::Emptied { conns })
            }
            Action::Ban { target, until, reason } => self.sanction(Measure::Ban(target), reason, by, until),
            Action::Mute { user, room, until, reason } => {
                self.sanction(Measure::Mute { user, room }, reason, by, until)
            }
            Action::Amend { kind, id, until, reason } => {
                let amended = self.sanctions.amend(kind, id, until, reason, SystemTime::now());
                let sanction = amended.ok_or(ActionError::NoSuchSanction { kind, id })?;
                self.saved()?;
                Ok(Outcome::Amended { sanction })
            }
            Action::Lift { kind, id } => {
                let lifted = self.sanctions.lift(kind, id, SystemTime::now());
                let sanction = lifted.ok_or(ActionError::NoSuchSanction { kind, id })?;
                self.saved()?;
                Ok(Outcome::Lifted { sanction })
            }
        }
    }

    fn sanction(
        &mut self,
        measure: Measure,
        reason: String,
        by: String,
        until: Option<SystemTime>,
    ) -> Result<Outcome, ActionError> {
        let now = SystemTime::now();
        if let Some(most) = self.most.filter(|most| self.sanctions.list(now).count() >= *most) {
            return Err(ActionError::TooMany { most });
        }
        if self.no_nets && matches!(measure, Measure::Ban(BanTarget::Net(_))) {
            return Err(ActionError::TooMany { most: 0 });
        }
        let conns = self.concerned(&measure);
        let sanction = self.sanctions.add(measure, reason, by, now, until).expect("far fewer than there may be");
        self.saved()?;
        Ok(Outcome::Sanctioned { sanction, conns })
    }

    fn concerned(&self, measure: &Measure) -> Vec<ConnId> {
        let views = self.clients.values().filter(|view| match measure {
            Measure::Ban(BanTarget::User(user)) | Measure::Mute { user, .. } => view.user.as_ref() == Some(user),
            Measure::Ban(BanTarget::Net(net)) => net.contains(&view.peer.address),
        });
        views.map(|view| view.peer.id).collect()
    }

    fn can_store(&self) -> Result<(), ActionError> {
        self.broken.clone().map_or(Ok(()), |why| Err(ActionError::Unavailable(why)))
    }

    fn saved(&self) -> Result<(), ActionError> {
        self.unsaved.clone().map_or(Ok(()), |why| Err(ActionError::NotSaved(why)))
    }
}
