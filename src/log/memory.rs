//! The log that keeps rooms in memory until the daemon stops. It commits at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::{Health, Log, LogCounts, Retention, kept_size, level, wire_size};
use crate::chat::event::{Body, Entry, HistoryRange, LogFailure, LogReply, LogRequest, Record, StoredRoom, Ticket};
use crate::chat::id::{RoomName, Seq, UserId};

/// Old entries of rooms in which nobody writes are looked for this often.
const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// A log without a disk.
///
/// Its memory is bounded by `retention.keep` entries a room, by [`MemoryLog::BYTES`] for the entries
/// of all rooms, and by [`MemoryLog::ROOMS`] unused rooms: where rooms may be made by clients, one
/// beyond that number is forgotten, oldest use first, and comes back under a new epoch.
pub struct MemoryLog {
    rooms: HashMap<RoomName, Stream>,
    /// The rooms that are not open, by when they were closed. Every one of them is in `rooms`.
    unused: BTreeMap<u64, RoomName>,
    retention: Retention,
    /// What the entries of all rooms take together, by [`kept_size`].
    bytes: usize,
    /// The most that they may take.
    bound: usize,
    replies: VecDeque<LogReply>,
    rng: StdRng,
    /// Counts requests, to know which stream was closed first.
    clock: u64,
    health: watch::Sender<Health>,
    appended: u64,
    swept: SystemTime,
}

struct Stream {
    epoch: Arc<str>,
    head: Seq,
    entries: VecDeque<Entry>,
    /// What the entries take, by [`kept_size`].
    bytes: usize,
    /// When it was closed, by the log's clock; absent while it is open.
    closed: Option<u64>,
}

impl MemoryLog {
    /// Streams of rooms that nobody uses which are still kept.
    pub const ROOMS: usize = 10_000;
    /// The most bytes that the entries of all rooms may take together. When they would take more,
    /// rooms that nobody uses lose their entries, then the largest rooms their oldest ones.
    pub const BYTES: usize = 256 << 20;

    /// `rng` makes the epochs' names; `retention.keep` of 0 keeps nothing.
    pub fn new(retention: Retention, rng: StdRng) -> Self {
        MemoryLog {
            rooms: HashMap::new(),
            unused: BTreeMap::new(),
            retention,
            bytes: 0,
            bound: Self::BYTES,
            replies: VecDeque::new(),
            rng,
            clock: 0,
            health: watch::Sender::new(Health::Good),
            appended: 0,
            swept: SystemTime::UNIX_EPOCH,
        }
    }

    fn open(&mut self, room: RoomName) {
        let rng = &mut self.rng;
        let stream = self.rooms.entry(room.clone()).or_insert_with(|| Stream {
            epoch: format!("{:016x}", rng.random::<u64>()).into(),
            head: 0,
            entries: VecDeque::new(),
            bytes: 0,
            closed: None,
        });
        if let Some(closed) = stream.closed.take() {
            self.unused.remove(&closed);
        }
        let (epoch, head, first) = (stream.epoch.clone(), stream.head, stream.first());
        self.replies.push_back(LogReply::Opened { room, epoch, head, first, said: Vec::new() });
    }

    fn close(&mut self, room: RoomName) {
        let Some(stream) = self.rooms.get_mut(&room) else { return };
        if stream.closed.is_some() {
            return;
        }
        stream.closed = Some(self.clock);
        self.unused.insert(self.clock, room);
        while self.unused.len() > Self::ROOMS
            && let Some((_, oldest)) = self.unused.pop_first()
        {
            if let Some(stream) = self.rooms.remove(&oldest) {
                self.bytes -= stream.bytes;
            }
        }
    }

    /// Goes down to seven eighths of the bound once it is passed, so that the walk over the rooms is
    /// paid once for the many appends that fill the last eighth again.
    fn keep_bound(&mut self) {
        if self.bytes <= self.bound {
            return;
        }
        let goal = self.bound - self.bound / 8;
        for name in self.unused.values() {
            if self.bytes <= goal {
                return;
            }
            // Its numbers stay: who reads on from its head has missed nothing.
            if let Some(stream) = self.rooms.get_mut(name) {
                self.bytes -= stream.shorten(0);
            }
        }
        if self.bytes <= goal {
            return;
        }
        let mut sizes: Vec<usize> = self.rooms.values().map(|s| s.bytes).filter(|bytes| *bytes > 0).collect();
        let level = level(&mut sizes, goal);
        for stream in self.rooms.values_mut() {
            self.bytes -= stream.shorten(level);
        }
    }

    /// `removed`: what the same step has taken away.
    fn append(&mut self, room: RoomName, ticket: Ticket, record: Arc<Record>, removed: u64, now: SystemTime) {
        let Some(stream) = self.rooms.get_mut(&room) else { return };
        stream.head += 1;
        let seq = stream.head;
        self.bytes += stream.push(record);
        self.bytes -= stream.trim(self.retention, now);
        self.appended += 1;
        self.keep_bound();
        let first = self.rooms.get(&room).map_or(seq + 1, Stream::first);
        self.replies.push_back(LogReply::Committed { room, ticket, seq, first, removed });
    }

    fn take_text(&mut self, room: &RoomName, target: Seq, only_of: Option<&UserId>) -> Result<(), LogFailure> {
        let stream = self.known(room)?;
        let at = target.checked_sub(stream.first()).ok_or(LogFailure::NoSuchMessage)?;
        let at = usize::try_from(at).map_err(|_| LogFailure::NoSuchMessage)?;
        let entry = stream.entries.get_mut(at).ok_or(LogFailure::NoSuchMessage)?;
        let body = match &entry.record.body {
            Body::Message { from, text: Some(_), cid, dialect } => {
                if only_of.is_some_and(|user| from.user != *user) {
                    return Err(LogFailure::NotTheirs);
                }
                Body::Message { from: from.clone(), text: None, cid: cid.clone(), dialect: *dialect }
            }
            Body::Event { name, data: Some(_) } if only_of.is_none() => Body::Event { name: name.clone(), data: None },
            Body::Event { data: Some(_), .. } => return Err(LogFailure::NotTheirs),
            _ => return Err(LogFailure::NoSuchMessage),
        };
        let before = kept_size(&entry.record);
        entry.record = Arc::new(Record { id: entry.record.id.clone(), time: entry.record.time, body });
        let gone = before - kept_size(&entry.record);
        stream.bytes -= gone;
        self.bytes -= gone;
        Ok(())
    }

    /// Opened, or with entries: a room in which nothing was said is forgotten with its closing, though
    /// its stream waits to be opened again.
    fn known(&mut self, room: &RoomName) -> Result<&mut Stream, LogFailure> {
        self.rooms.get_mut(room).filter(|stream| stream.is_known()).ok_or(LogFailure::NoSuchRoom)
    }

    fn list(&mut self, ticket: Ticket, after: Option<&RoomName>, limit: u32) {
        let stored = self.rooms.iter().filter(|(_, stream)| stream.head > 0).map(|(name, _)| name);
        let mut names: Vec<&RoomName> = stored.filter(|name| after.is_none_or(|a| *name > a)).collect();
        names.sort_unstable();
        let more = names.len() > limit as usize;
        names.truncate(limit as usize);
        let row = |name: &RoomName| {
            let stream = self.rooms.get(name)?;
            Some(StoredRoom { name: name.clone(), head: stream.head, first: stream.first() })
        };
        let rooms = names.into_iter().filter_map(row).collect();
        self.replies.push_back(LogReply::Rooms { ticket, rooms, more });
    }

    fn fail(&mut self, room: RoomName, ticket: Ticket, failure: LogFailure) {
        self.replies.push_back(LogReply::Failed { room: Some(room), ticket: Some(ticket), failure });
    }

    fn sweep(&mut self, now: SystemTime) {
        if now.duration_since(self.swept).is_ok_and(|since| since < SWEEP_EVERY) {
            return;
        }
        self.swept = now;
        let retention = self.retention;
        for stream in self.rooms.values_mut() {
            self.bytes -= stream.trim(retention, now);
        }
    }
}

impl Stream {
    fn is_known(&self) -> bool {
        self.closed.is_none() || self.head > 0
    }

    fn first(&self) -> Seq {
        self.entries.front().map_or(self.head + 1, |e| e.seq)
    }

    fn push(&mut self, record: Arc<Record>) -> usize {
        let size = kept_size(&record);
        self.entries.push_back(Entry { seq: self.head, record });
        self.bytes += size;
        size
    }

    /// Drops what is too old or too much; gives the bytes that went.
    fn trim(&mut self, retention: Retention, now: SystemTime) -> usize {
        self.drop_while(|stream, oldest| {
            let old = now.duration_since(oldest.record.time).is_ok_and(|age| age > retention.keep_for);
            old || stream.entries.len() as u64 > retention.keep
        })
    }

    /// Drops the oldest entries until the rest takes no more than `most` bytes; gives those that went.
    fn shorten(&mut self, most: usize) -> usize {
        self.drop_while(|stream, _| stream.bytes > most)
    }

    fn drop_while(&mut self, goes: impl Fn(&Stream, &Entry) -> bool) -> usize {
        let before = self.bytes;
        while let Some(oldest) = self.entries.front()
            && goes(self, oldest)
        {
            self.bytes -= kept_size(&oldest.record);
            self.entries.pop_front();
        }
        // The places of what went are memory too.
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        before - self.bytes
    }

    /// The entries of `range`, at most `limit` and about `max_bytes`, ascending; and whether more of
    /// the range is kept.
    fn read(&self, range: HistoryRange, limit: u32, max_bytes: usize) -> (Vec<Entry>, bool) {
        let first = self.first();
        let index = |seq: Seq| (seq.saturating_sub(first) as usize).min(self.entries.len());
        let mut bytes = 0;
        let mut taken = 0;
        let mut fits = |entry: &Entry| {
            let size = wire_size(&entry.record);
            let fits = taken < limit && (taken == 0 || bytes + size <= max_bytes);
            (bytes, taken) = (bytes + size, taken + 1);
            fits
        };
        match range {
            HistoryRange::After(seq) => {
                let from = index(seq.saturating_add(1));
                let found: Vec<Entry> = self.entries.range(from..).take_while(|e| fits(e)).cloned().collect();
                let more = from + found.len() < self.entries.len();
                (found, more)
            }
            HistoryRange::Before(_) | HistoryRange::Latest => {
                let to = if let HistoryRange::Before(seq) = range { index(seq) } else { self.entries.len() };
                let mut found: Vec<Entry> = self.entries.range(..to).rev().take_while(|e| fits(e)).cloned().collect();
                let more = found.len() < to;
                found.reverse();
                (found, more)
            }
        }
    }
}

impl Log for MemoryLog {
    fn submit(&mut self, request: LogRequest, now: SystemTime) {
        self.clock += 1;
        self.sweep(now);
        let retention = self.retention;
        match request {
            LogRequest::Open { room } => self.open(room),
            LogRequest::Append { room, ticket, record } => {
                if let Err(failure) = self.known(&room) {
                    return self.fail(room, ticket, failure);
                }
                self.append(room, ticket, record, 0, now);
            }
            LogRequest::Delete { room, ticket, target, only_of, record } => {
                match self.take_text(&room, target, only_of.as_ref()) {
                    Ok(()) => self.append(room, ticket, record, 1, now),
                    Err(failure) => self.fail(room, ticket, failure),
                }
            }
            LogRequest::Purge { room, ticket, record } => {
                let (removed, bytes) = match self.known(&room) {
                    Ok(stream) => (stream.entries.len() as u64, stream.shorten(0)),
                    Err(failure) => return self.fail(room, ticket, failure),
                };
                self.bytes -= bytes;
                self.append(room, ticket, record, removed, now);
            }
            LogRequest::Read { room, ticket, range, limit, max_bytes } => {
                let bytes = match self.known(&room) {
                    Ok(stream) => stream.trim(retention, now),
                    Err(failure) => return self.fail(room, ticket, failure),
                };
                self.bytes -= bytes;
                let Some(stream) = self.rooms.get(&room) else { return };
                let (entries, more) = stream.read(range, limit, max_bytes);
                let (epoch, first, head) = (stream.epoch.clone(), stream.first(), stream.head);
                self.replies.push_back(LogReply::Page { room, ticket, epoch, entries, more, first, head });
            }
            LogRequest::List { ticket, after, limit } => self.list(ticket, after.as_ref(), limit),
            LogRequest::Close { room } => self.close(room),
        }
    }

    fn poll_reply(&mut self, _: &mut Context<'_>) -> Poll<LogReply> {
        // Nobody needs to be woken: replies are made by `submit`, on the caller's own thread.
        self.replies.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn retain(&mut self, retention: Retention) {
        self.retention = retention;
        self.swept = SystemTime::UNIX_EPOCH;
    }

    fn pace(&mut self, _commit_every: Duration) {}

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn counts(&self) -> LogCounts {
        LogCounts { commits: self.appended, entries: self.appended, ..LogCounts::default() }
    }
}

#[cfg(test)]
mod tests;
