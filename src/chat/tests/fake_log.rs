//! A room log in memory that does what it is asked, and says so, when it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::cid::WINDOW;
use super::super::event::*;
use super::super::id::{RoomName, Seq, UserId};

/// See the module's documentation. What it has done stays when the daemon is started anew.
pub struct FakeLog {
    pub streams: BTreeMap<RoomName, FakeStream>,
    /// Asked and not done; each room in its order.
    pub queues: BTreeMap<RoomName, VecDeque<LogRequest>>,
    /// Done and not told; each room in its order.
    pub done: BTreeMap<RoomName, VecDeque<LogReply>>,
    /// Pages that have been read and are still on their way. Nothing says when they arrive.
    pub pages: VecDeque<LogReply>,
    /// The most entries of a page, whatever is asked for; 0 for as many as are asked for.
    pub page: Seq,
    pub wall: SystemTime,
    epochs: u32,
    /// Every message that was ever stored with a cid: when, and as what.
    said: BTreeMap<(RoomName, UserId, String), (SystemTime, Seq)>,
    /// Deletes and purges that took something away.
    pub removals: u64,
}

impl Default for FakeLog {
    fn default() -> Self {
        FakeLog {
            streams: BTreeMap::new(),
            queues: BTreeMap::new(),
            done: BTreeMap::new(),
            pages: VecDeque::new(),
            page: 0,
            wall: SystemTime::UNIX_EPOCH,
            epochs: 0,
            said: BTreeMap::new(),
            removals: 0,
        }
    }
}

pub struct FakeStream {
    pub epoch: Arc<str>,
    /// Everything ever kept: seq 1 is the first.
    pub records: Vec<Arc<Record>>,
    /// The oldest that can still be read.
    pub first: Seq,
}

impl FakeLog {
    pub fn ask(&mut self, request: LogRequest) {
        let room = match &request {
            LogRequest::Open { room } | LogRequest::Close { room } => room,
            LogRequest::Append { room, .. } | LogRequest::Read { room, .. } => room,
            LogRequest::Delete { room, .. } | LogRequest::Purge { room, .. } => room,
            LogRequest::List { .. } => unreachable!("the chat asks for no lists"),
        };
        self.queues.entry(room.clone()).or_default().push_back(request);
    }

    /// Does the oldest request of a room, or fails at it; how it is to be answered.
    pub fn answer(&mut self, name: &RoomName, fail: bool) -> Option<LogReply> {
        loop {
            let request = self.queues.get_mut(name)?.pop_front()?;
            if self.queues[name].is_empty() {
                self.queues.remove(name);
            }
            if let Some(reply) = self.perform(request, fail) {
                return Some(reply);
            }
        }
    }

    /// Does the oldest request of a room, and tells it later.
    pub fn work_ahead(&mut self, name: &RoomName) {
        match self.answer(name, false) {
            Some(page @ LogReply::Page { .. }) => self.pages.push_back(page),
            Some(reply) => self.done.entry(name.clone()).or_default().push_back(reply),
            None => {}
        }
    }

    /// Reads the first page that is asked for, before what was to be done first.
    pub fn read_ahead(&mut self, name: &RoomName) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let Some(at) = queue.iter().position(|request| matches!(request, LogRequest::Read { .. })) else { return };
        let request = queue.remove(at);
        if queue.is_empty() {
            self.queues.remove(name);
        }
        let page = request.and_then(|request| self.perform(request, false));
        self.pages.extend(page);
    }

    /// The next that it has done and not told of a room.
    pub fn tell(&mut self, name: &RoomName) -> Option<LogReply> {
        let reply = self.done.get_mut(name)?.pop_front();
        if self.done[name].is_empty() {
            self.done.remove(name);
        }
        reply
    }

    /// The daemon has ended: what it was not told, and what was not done, is lost.
    pub fn restart(&mut self) {
        self.queues.clear();
        self.done.clear();
        self.pages.clear();
    }

    fn perform(&mut self, request: LogRequest, fail: bool) -> Option<LogReply> {
        let failed = |room, ticket, failure| Some(LogReply::Failed { room: Some(room), ticket, failure });
        let full = LogFailure::Unavailable("the disk is full".to_owned());
        let (room, ticket) = match &request {
            LogRequest::Close { .. } => return None,
            LogRequest::Open { room } => (room.clone(), None),
            LogRequest::Append { room, ticket, .. } | LogRequest::Read { room, ticket, .. } => {
                (room.clone(), Some(*ticket))
            }
            LogRequest::Delete { room, ticket, .. } | LogRequest::Purge { room, ticket, .. } => {
                (room.clone(), Some(*ticket))
            }
            LogRequest::List { .. } => return None,
        };
        if fail {
            return failed(room, ticket, full);
        }
        if let LogRequest::Open { .. } = request {
            let epochs = &mut self.epochs;
            self.streams.entry(room.clone()).or_insert_with(|| {
                *epochs += 1;
                FakeStream { epoch: format!("e{epochs}").into(), records: Vec::new(), first: 1 }
            });
        }
        let wall = self.wall;
        let Some(stream) = self.streams.get_mut(&room) else { return failed(room, ticket, LogFailure::NoSuchRoom) };
        let head = stream.records.len() as Seq;
        let first = stream.first;
        Some(match request {
            LogRequest::Open { room } => {
                let (epoch, said) = (stream.epoch.clone(), stream.said(wall));
                LogReply::Opened { room, epoch, head, first, said }
            }
            LogRequest::Append { room, ticket, record } => {
                if let Body::Message { from, cid: Some(cid), .. } = &record.body {
                    let key = (room.clone(), from.user.clone(), cid.clone());
                    if let Some((time, seq)) = self.said.insert(key, (record.time, head + 1)) {
                        let later = record.time.duration_since(time).unwrap();
                        assert!(later >= WINDOW || seq < first, "{room} {} is {seq} said again", head + 1);
                    }
                }
                stream.records.push(record);
                LogReply::Committed { room, ticket, seq: head + 1, first, removed: 0 }
            }
            LogRequest::Delete { room, ticket, target, only_of, record } => {
                if let Err(failure) = stream.take_text(target, only_of.as_ref()) {
                    return failed(room, Some(ticket), failure);
                }
                self.removals += 1;
                stream.records.push(record);
                LogReply::Committed { room, ticket, seq: head + 1, first, removed: 1 }
            }
            LogRequest::Purge { room, ticket, record } => {
                self.removals += 1;
                let removed = head + 1 - first;
                stream.records.push(record);
                stream.first = head + 1;
                LogReply::Committed { room, ticket, seq: head + 1, first: head + 1, removed }
            }
            LogRequest::Read { room, ticket, range, limit, .. } => {
                let limit = if self.page > 0 { self.page.min(Seq::from(limit)) } else { Seq::from(limit) };
                let (from, to) = match range {
                    HistoryRange::After(seq) => ((seq + 1).max(first), (seq.max(first - 1) + limit).min(head)),
                    HistoryRange::Latest => ((head + 1).saturating_sub(limit).max(first), head),
                    HistoryRange::Before(seq) => {
                        let to = seq.saturating_sub(1).min(head);
                        ((to + 1).saturating_sub(limit).max(first), to)
                    }
                };
                let entry = |seq| Entry { seq, record: stream.records[seq as usize - 1].clone() };
                let entries: Vec<Entry> = (from..=to).map(entry).collect();
                let more = match range {
                    HistoryRange::After(_) => to < head,
                    _ => from > first,
                };
                LogReply::Page { room, ticket, epoch: stream.epoch.clone(), entries, more, first, head }
            }
            LogRequest::List { .. } | LogRequest::Close { .. } => return None,
        })
    }
}

impl FakeStream {
    /// What is kept of the last ten minutes and has a cid.
    fn said(&self, wall: SystemTime) -> Vec<SaidBefore> {
        let kept = self.records.iter().zip(1..).filter(|(_, seq)| *seq >= self.first);
        let said = kept.filter_map(|(record, seq)| match &record.body {
            Body::Message { from, cid: Some(cid), .. } => {
                let (user, cid, id) = (from.user.clone(), cid.as_str().into(), record.id.clone());
                let age = wall.duration_since(record.time).unwrap_or(Duration::ZERO);
                (age < WINDOW).then_some(SaidBefore { user, cid, seq, id, age })
            }
            _ => None,
        });
        said.collect()
    }

    fn take_text(&mut self, target: Seq, only_of: Option<&UserId>) -> Result<(), LogFailure> {
        let at = (target as usize).checked_sub(1).filter(|_| target >= self.first);
        let record = at.and_then(|at| self.records.get_mut(at)).ok_or(LogFailure::NoSuchMessage)?;
        let Body::Message { from, text: Some(_), cid, dialect } = &record.body else {
            return Err(LogFailure::NoSuchMessage);
        };
        if only_of.is_some_and(|user| from.user != *user) {
            return Err(LogFailure::NotTheirs);
        }
        let body = Body::Message { from: from.clone(), text: None, cid: cid.clone(), dialect: *dialect };
        *record = Arc::new(Record { id: record.id.clone(), time: record.time, body });
        Ok(())
    }
}
