//! One connection as its client sees it, and what no client may ever see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::event::*;
use super::super::id::{Nick, RoomGlob, RoomName, Seq, UserId};
use super::fake_log::FakeLog;

/// What one client knows of a room.
pub struct View {
    /// The seq that must come next.
    pub next: Seq,
    /// Until the first entry: it may also begin earlier, from here.
    earliest: Option<Seq>,
    /// Who is there, by what it was told; absent in large rooms.
    pub members: Option<BTreeMap<UserId, Nick>>,
    /// What it has been told is gone: these, and all before that.
    deleted: BTreeSet<Seq>,
    purged: Seq,
}

impl View {
    /// The last seq that it has seen; absent while that is not yet settled.
    pub fn cursor(&self) -> Option<Seq> {
        self.earliest.is_none().then_some(self.next - 1)
    }

    fn gone(&mut self, entry: &Entry) {
        match entry.record.body {
            Body::Deleted { target } => drop(self.deleted.insert(target)),
            Body::Purged => self.purged = entry.seq,
            _ => {}
        }
    }

    /// Nothing comes back.
    fn check(&self, room: &RoomName, entry: &Entry) {
        let hidden = matches!(entry.record.body, Body::Message { text: None, .. });
        let seq = entry.seq;
        assert!(hidden || !self.deleted.contains(&seq), "{room} {seq} was deleted and came back");
        assert!(seq >= self.purged, "{room} {seq} was purged and came back");
    }
}

#[derive(Default)]
pub struct Peer {
    pub user: Option<UserId>,
    pub inbox: Vec<ServerFrame>,
    pub views: BTreeMap<RoomName, View>,
    /// Asked for and not yet answered.
    pub open: BTreeSet<u64>,
    /// Of those the ones that are answered exactly once: all but what joins rooms, which is answered
    /// anew where a backlog breaks off.
    once: BTreeSet<u64>,
    last: u64,
    resume: BTreeMap<RoomName, Cursor>,
    /// What each of its requests asked for, by its number.
    history: BTreeMap<RoomName, Vec<(u64, u32)>>,
    deletes: BTreeMap<u64, (RoomName, Seq)>,
    /// What its token lets it into.
    pub rooms: Option<Arc<[RoomGlob]>>,
    pub page_under_way: bool,
    pub closed: Option<Close>,
}

impl Peer {
    /// Notes what is going to be said; its number.
    pub fn says(&mut self, frame: &ClientFrame, default_rooms: &[RoomName]) -> u64 {
        self.last += 1;
        let seq = self.last;
        match frame {
            ClientFrame::Typing { .. } => return seq,
            ClientFrame::Hello(hello) => {
                self.resume = hello.resume.iter().cloned().collect();
                if let Identity::User(claims) = &hello.identity {
                    self.rooms = claims.rooms.clone();
                }
                // A room that is resumed and cannot be recovered is joined like the others.
                let resumed = hello.resume.iter().map(|(room, _)| room);
                for room in hello.rooms.iter().flatten().chain(default_rooms).chain(resumed) {
                    self.history.entry(room.clone()).or_default().push((seq, hello.history));
                }
            }
            ClientFrame::Join { room, history } => {
                if !self.views.contains_key(room) || self.user.is_none() {
                    // Another join of the room may be under way, and it is not known which one will count.
                    self.history.entry(room.clone()).or_default().push((seq, *history));
                }
            }
            ClientFrame::Delete { room, target } => {
                self.deletes.insert(seq, (room.clone(), *target));
                self.once.insert(seq);
            }
            _ => drop(self.once.insert(seq)),
        }
        self.open.insert(seq);
        seq
    }

    fn answered(&mut self, re: u64) {
        let open = self.open.remove(&re);
        assert!(open || !self.once.contains(&re), "two answers to {re}");
    }

    /// A frame reaches the client, which checks that it makes sense. `small`: rooms are told of each
    /// one who comes and goes.
    pub fn hears(&mut self, frame: ServerFrame, log: &FakeLog, small: bool) {
        let kept = |room: &RoomName, seq: Seq, id: &str| {
            let stream = &log.streams[room];
            assert_eq!(stream.records[seq as usize - 1].id, id, "{room} {seq} is not what the log kept");
        };
        assert!(self.closed.is_none(), "{frame:?} after close");
        match &frame {
            ServerFrame::Welcome(welcome) => {
                assert!(self.user.replace(welcome.user.clone()).is_none(), "welcomed twice");
                self.answered(welcome.re);
            }
            ServerFrame::Error(error) => self.answered(error.re),
            _ => assert!(self.user.is_some(), "{frame:?} before welcome"),
        }
        match &frame {
            ServerFrame::Joined(joined) => self.joined(joined, small),
            ServerFrame::Left { re, room, .. } => {
                self.answered(*re);
                assert!(self.views.remove(room).is_some() || *re != 0, "put out of a room that it is not in");
            }
            ServerFrame::Entry { room, entry } => {
                kept(room, entry.seq, &entry.record.id);
                let view = self.views.get_mut(room).expect("an entry of a room that it is not in");
                view.check(room, entry);
                let purged = matches!(entry.record.body, Body::Purged);
                // What a purge has taken is no hole: it says so itself.
                let expected = match view.earliest.take() {
                    Some(earliest) => earliest..=if purged { Seq::MAX } else { view.next },
                    None => view.next..=if purged { Seq::MAX } else { view.next },
                };
                assert!(expected.contains(&entry.seq), "hole or double in {room}: {} of {expected:?}", entry.seq);
                assert!(!purged || entry.seq > view.purged, "purged twice");
                view.next = entry.seq + 1;
                view.gone(entry);
            }
            ServerFrame::Ack { re, kept: what, .. } => {
                self.answered(*re);
                let deleted = self.deletes.remove(re);
                if let Some(Kept { id, seq, room }) = what {
                    kept(room, *seq, id);
                    if let Some(view) = self.views.get_mut(room) {
                        assert!(*seq <= view.next || view.purged > *seq, "an ack ahead of its place: {seq}");
                        match view.earliest {
                            Some(earliest) if *seq < view.next => view.earliest = Some(earliest.max(seq + 1)),
                            _ if *seq == view.next => (view.next, view.earliest) = (seq + 1, None),
                            _ => {}
                        }
                        view.deleted.extend(deleted.map(|(_, target)| target));
                    }
                }
            }
            ServerFrame::Presence { room, change, online } => {
                let own = self.user.clone();
                let view = self.views.get_mut(room).expect("presence of a room that it is not in");
                match (change, &mut view.members) {
                    (Some(change), Some(members)) => {
                        let nick = change.nick.clone();
                        match change.state {
                            PresenceState::Join => {
                                assert_ne!(Some(&change.user), own.as_ref(), "told of its own joining");
                                assert!(members.insert(change.user.clone(), nick).is_none(), "joined twice");
                            }
                            PresenceState::Leave => assert!(members.remove(&change.user).is_some(), "left twice"),
                            PresenceState::Nick => assert!(members.insert(change.user.clone(), nick).is_some()),
                        }
                        assert_eq!(members.len(), *online);
                    }
                    _ => view.members = None,
                }
            }
            ServerFrame::History(page) => {
                self.answered(page.re);
                assert!(page.entries.is_sorted_by(|a, b| a.seq + 1 == b.seq));
                for entry in &page.entries {
                    kept(&page.room, entry.seq, &entry.record.id);
                    self.views[&page.room].check(&page.room, entry);
                }
            }
            ServerFrame::Who { re, .. } => self.answered(*re),
            _ => {}
        }
        self.inbox.push(frame);
    }

    fn joined(&mut self, joined: &Joined, small: bool) {
        self.answered(joined.re);
        let allowed = self.rooms.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(&joined.room)));
        assert!(allowed, "let into {} against its token", joined.room);
        let tell = |members: &Vec<Member>| members.iter().map(|m| (m.user.clone(), m.nick.clone())).collect();
        // Where rooms grow over the limit, lists go stale until the number is told.
        let members = joined.members.as_ref().filter(|_| small).map(tell);
        let asked = self.history.entry(joined.room.clone()).or_default();
        let history = Seq::from(asked.iter().map(|(_, history)| *history).max().unwrap_or(0));
        // Requests that wait behind a leave are still to be answered.
        asked.retain(|(re, _)| *re > joined.re);
        let next = joined.seq + 1;
        let mut view = View { next, earliest: None, members, deleted: BTreeSet::new(), purged: 0 };
        if joined.recovered {
            match (self.views.get(&joined.room), self.resume.remove(&joined.room)) {
                (Some(old), _) => assert_eq!(old.next, view.next, "joined again"),
                (None, cursor) => view.next = cursor.expect("recovered unasked").seq + 1,
            }
        } else {
            self.resume.remove(&joined.room);
            view.earliest = (history > 0).then(|| view.next.saturating_sub(history.min(100)).max(1));
        }
        self.views.insert(joined.room.clone(), view);
    }

    /// A client of the text dialect is spared its own message.
    pub fn is_spared(&mut self, frame: &ServerFrame) {
        if let ServerFrame::Entry { room, entry } = frame {
            let view = self.views.get_mut(room).expect("it is a member");
            assert_eq!(entry.seq, view.next);
            view.next += 1;
        }
    }
}
