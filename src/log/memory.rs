//! The log that keeps rooms in memory until the daemon stops. It commits at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::{Health, Log, LogCounts, Retention};
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
        let stream = self.rooms.get_mut(room).ok_or(LogFailure::NoSuchRoom)?;
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

    fn list(&mut self, ticket: Ticket, after: Option<&RoomName>, limit: u32) {
        let mut names: Vec<&RoomName> = self.rooms.keys().filter(|name| after.is_none_or(|a| *name > a)).collect();
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

/// The most that each of `sizes` may be so that together they are no more than `goal`: the largest
/// comes down to the second, then both to the third, and so on.
fn level(sizes: &mut [usize], goal: usize) -> usize {
    sizes.sort_unstable();
    let mut left = goal;
    for (i, size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - i);
        if *size > share {
            return share;
        }
        left -= size;
    }
    usize::MAX
}

impl Stream {
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
            let size = size(entry);
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

/// About what an entry takes on the wire.
fn size(entry: &Entry) -> usize {
    200 + match &entry.record.body {
        Body::Message { text, .. } => text.as_ref().map_or(0, String::len),
        Body::Event { name, data } => name.len() + data.as_ref().map_or(0, |data| data.get().len()),
        Body::Deleted { .. } | Body::Purged => 0,
    }
}

/// About what a record takes in memory, in bytes.
fn kept_size(record: &Record) -> usize {
    // The record, its place in the queue, its id, and what the allocator adds.
    300 + match &record.body {
        Body::Message { from, text, cid, .. } => {
            let names = from.user.as_str().len() + from.nick.as_str().len();
            let text = text.as_ref().map_or(0, String::capacity);
            names + text + cid.as_ref().map_or(0, String::capacity)
        }
        Body::Event { name, data } => name.capacity() + data.as_ref().map_or(0, |data| data.get().len()),
        Body::Deleted { .. } | Body::Purged => 0,
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
                if !self.rooms.contains_key(&room) {
                    return self.fail(room, ticket, LogFailure::NoSuchRoom);
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
                let Some(stream) = self.rooms.get_mut(&room) else {
                    return self.fail(room, ticket, LogFailure::NoSuchRoom);
                };
                let removed = stream.entries.len() as u64;
                self.bytes -= stream.shorten(0);
                self.append(room, ticket, record, removed, now);
            }
            LogRequest::Read { room, ticket, range, limit, max_bytes } => {
                let Some(stream) = self.rooms.get_mut(&room) else {
                    return self.fail(room, ticket, LogFailure::NoSuchRoom);
                };
                self.bytes -= stream.trim(retention, now);
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

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn counts(&self) -> LogCounts {
        LogCounts { commits: self.appended, entries: self.appended, ..LogCounts::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::chat::event::Ticket;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn log(keep: u64) -> MemoryLog {
        let mut log = MemoryLog::new(Retention { keep, keep_for: DAY }, StdRng::seed_from_u64(1));
        log.submit(LogRequest::Open { room: room() }, SystemTime::UNIX_EPOCH);
        assert!(matches!(reply(&mut log), LogReply::Opened { head: 0, first: 1, .. }));
        log
    }

    fn kept(log: &MemoryLog, room: &RoomName) -> u64 {
        log.rooms.get(room).map_or(0, |stream| stream.entries.len() as u64)
    }

    fn room() -> RoomName {
        RoomName::parse("r").unwrap()
    }

    fn reply(log: &mut MemoryLog) -> LogReply {
        match log.poll_reply(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => reply,
            Poll::Pending => panic!("no reply"),
        }
    }

    fn append(log: &mut MemoryLog, now: SystemTime) -> Seq {
        let record = Arc::new(Record { id: "x".into(), time: now, body: Body::Deleted { target: 0 } });
        log.submit(LogRequest::Append { room: room(), ticket: Ticket(1), record }, now);
        let LogReply::Committed { seq, .. } = reply(log) else { panic!("not committed") };
        seq
    }

    fn read(log: &mut MemoryLog, range: HistoryRange, limit: u32, now: SystemTime) -> (Vec<Seq>, bool) {
        let request = LogRequest::Read { room: room(), ticket: Ticket(2), range, limit, max_bytes: usize::MAX };
        log.submit(request, now);
        let LogReply::Page { entries, more, .. } = reply(log) else { panic!("no page") };
        (entries.iter().map(|e| e.seq).collect(), more)
    }

    #[test]
    fn old_entries_go_and_numbers_stay() {
        let mut log = log(100);
        let start = SystemTime::UNIX_EPOCH + DAY;
        append(&mut log, start);
        append(&mut log, start + DAY / 2);
        assert_eq!(read(&mut log, HistoryRange::Latest, 9, start + DAY + DAY / 4).0, [2]);
        assert_eq!(append(&mut log, start + 2 * DAY), 3);
        assert_eq!(kept(&log, &room()), 1);
    }

    #[test]
    fn keeping_nothing_still_numbers() {
        let mut log = log(0);
        assert_eq!(append(&mut log, SystemTime::UNIX_EPOCH), 1);
        assert_eq!(append(&mut log, SystemTime::UNIX_EPOCH), 2);
        assert_eq!(read(&mut log, HistoryRange::Latest, 9, SystemTime::UNIX_EPOCH), (vec![], false));
    }

    #[test]
    fn a_page_is_bounded_in_bytes_but_never_empty() {
        let mut log = log(10);
        for _ in 0..3 {
            append(&mut log, SystemTime::UNIX_EPOCH);
        }
        let range = HistoryRange::After(0);
        log.submit(
            LogRequest::Read { room: room(), ticket: Ticket(3), range, limit: 9, max_bytes: 1 },
            SystemTime::UNIX_EPOCH,
        );
        assert!(matches!(reply(&mut log), LogReply::Page { entries, more: true, .. } if entries.len() == 1));
    }

    #[test]
    fn unused_rooms_are_forgotten_and_used_ones_kept() {
        let mut log = log(10);
        for i in 0..MemoryLog::ROOMS + 10 {
            let name = RoomName::parse(&format!("n{i}")).unwrap();
            log.submit(LogRequest::Open { room: name.clone() }, SystemTime::UNIX_EPOCH);
            log.submit(LogRequest::Close { room: name }, SystemTime::UNIX_EPOCH);
            reply(&mut log);
        }
        assert_eq!(log.rooms.len(), MemoryLog::ROOMS + 1);
        assert!(log.rooms.contains_key(&room()), "the one in use stays");
        assert!(!log.rooms.contains_key(&named("n9")), "the one closed first goes first");
        assert!(log.rooms.contains_key(&named("n10")));
    }

    fn named(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn open(log: &mut MemoryLog, name: &RoomName) -> (String, Seq) {
        log.submit(LogRequest::Open { room: name.clone() }, SystemTime::UNIX_EPOCH);
        let LogReply::Opened { epoch, head, .. } = reply(log) else { panic!("not opened") };
        (epoch.to_string(), head)
    }

    fn close(log: &mut MemoryLog, name: &RoomName) {
        log.submit(LogRequest::Close { room: name.clone() }, SystemTime::UNIX_EPOCH);
    }

    /// An event that [`kept_size`] takes for `size` bytes, which are 304 at least.
    fn event(log: &mut MemoryLog, name: &RoomName, size: usize, now: SystemTime) -> Seq {
        let data = serde_json::value::RawValue::from_string(format!("\"{}\"", "x".repeat(size - 303))).unwrap();
        let body = Body::Event { name: "e".into(), data: Some(data.into()) };
        let record = Arc::new(Record { id: "x".into(), time: now, body });
        assert_eq!(kept_size(&record), size);
        log.submit(LogRequest::Append { room: name.clone(), ticket: Ticket(1), record }, now);
        let LogReply::Committed { seq, .. } = reply(log) else { panic!("not committed") };
        seq
    }

    #[test]
    fn beyond_the_bound_unused_rooms_lose_all_in_the_order_of_closing() {
        let now = SystemTime::UNIX_EPOCH;
        let mut log = log(1000);
        log.bound = 8000;
        let [a, b] = ["a", "b"].map(named);
        for name in [&a, &b] {
            open(&mut log, name);
            event(&mut log, name, 2000, now);
        }
        let (epoch, _) = open(&mut log, &b);
        close(&mut log, &b);
        close(&mut log, &a);
        for _ in 0..4 {
            event(&mut log, &room(), 1000, now);
        }
        assert_eq!((kept(&log, &a), kept(&log, &b), log.bytes), (1, 1, 8000), "all that fits stays");
        event(&mut log, &room(), 1000, now);
        assert_eq!((kept(&log, &a), kept(&log, &b), kept(&log, &room())), (1, 0, 5));
        assert_eq!(open(&mut log, &b), (epoch, 1), "the numbers stay");
        assert_eq!(event(&mut log, &b, 1000, now), 2);
    }

    #[test]
    fn beyond_the_bound_the_largest_room_loses_its_oldest() {
        let now = SystemTime::UNIX_EPOCH;
        let mut log = log(1000);
        log.bound = 8000;
        let small = named("small");
        open(&mut log, &small);
        event(&mut log, &small, 1000, now);
        for _ in 0..7 {
            event(&mut log, &room(), 1000, now);
        }
        assert_eq!(read(&mut log, HistoryRange::Latest, 9, now).0, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(event(&mut log, &room(), 1000, now), 8);
        assert_eq!(read(&mut log, HistoryRange::Latest, 9, now).0, [3, 4, 5, 6, 7, 8]);
        assert_eq!((kept(&log, &small), log.bytes), (1, 7000));
        // One that cannot be kept still has its number.
        assert_eq!(event(&mut log, &room(), 9000, now), 9);
        assert_eq!((kept(&log, &small), log.bytes), (1, 1000));
        assert_eq!(read(&mut log, HistoryRange::Latest, 9, now), (vec![], false));
    }

    #[test]
    fn the_level_takes_from_the_largest() {
        assert_eq!(level(&mut [10, 100, 20], 130), usize::MAX);
        assert_eq!(level(&mut [10, 100, 20], 100), 70);
        assert_eq!(level(&mut [10, 100, 90], 100), 45);
        assert_eq!(level(&mut [10, 10, 10], 10), 3);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(usize),
        Close(usize),
        Append(usize, usize),
        Later(u32),
        Keep(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0usize..5).prop_map(Step::Open),
            2 => (0usize..5).prop_map(Step::Close),
            12 => (0usize..5, 304usize..3000).prop_map(|(room, size)| Step::Append(room, size)),
            1 => (1u32..30).prop_map(Step::Later),
            1 => (0u64..20).prop_map(Step::Keep),
        ]
    }

    proptest! {
        /// Whatever comes: no more bytes than allowed, every number once, and no hole in what is kept.
        #[test]
        fn bytes_stay_within_the_bound(steps in proptest::collection::vec(step(), 1..150), bound in 0usize..12_000) {
            let mut now = SystemTime::UNIX_EPOCH;
            let mut log = log(20);
            log.bound = bound;
            let names = ["a", "b", "c", "d", "e"].map(named);
            let mut heads = [0; 5];
            for name in &names {
                open(&mut log, name);
            }
            for step in steps {
                match step {
                    Step::Open(i) => prop_assert_eq!(open(&mut log, &names[i]).1, heads[i]),
                    Step::Close(i) => close(&mut log, &names[i]),
                    Step::Append(i, size) => {
                        heads[i] += 1;
                        prop_assert_eq!(event(&mut log, &names[i], size, now), heads[i]);
                    }
                    Step::Later(hours) => now += hours * DAY / 24,
                    Step::Keep(keep) => log.retain(Retention { keep, keep_for: DAY }),
                }
                let mut sum = 0;
                for stream in log.rooms.values() {
                    let bytes: usize = stream.entries.iter().map(|e| kept_size(&e.record)).sum();
                    prop_assert_eq!(bytes, stream.bytes);
                    sum += bytes;
                    let seqs: Vec<Seq> = stream.entries.iter().map(|e| e.seq).collect();
                    prop_assert_eq!(seqs, (stream.first()..=stream.head).collect::<Vec<Seq>>());
                }
                prop_assert_eq!(sum, log.bytes);
                prop_assert!(sum <= bound, "{} of {}", sum, bound);
                let unused: Vec<&RoomName> = names.iter().filter(|name| log.rooms[*name].closed.is_some()).collect();
                let mut known: Vec<&RoomName> = log.unused.values().collect();
                known.sort();
                prop_assert_eq!(known, unused);
            }
        }

        /// Paging in either direction with any page size visits exactly what is kept, once, in order.
        #[test]
        fn pages_have_no_hole_and_no_double(count in 0u64..60, keep in 0u64..40, limit in 1u32..20) {
            let now = SystemTime::UNIX_EPOCH;
            let mut log = log(keep);
            for expected in 1..=count {
                prop_assert_eq!(append(&mut log, now), expected);
            }
            let kept: Vec<Seq> = (count.saturating_sub(keep) + 1..=count).collect();
            let (mut forward, mut at) = (Vec::new(), 0);
            loop {
                let (page, more) = read(&mut log, HistoryRange::After(at), limit, now);
                at = page.last().copied().unwrap_or(at);
                forward.extend(page);
                if !more { break }
            }
            prop_assert_eq!(&forward, &kept);
            let (mut backward, mut range) = (Vec::new(), HistoryRange::Latest);
            loop {
                let (page, more) = read(&mut log, range, limit, now);
                if let Some(first) = page.first() { range = HistoryRange::Before(*first) }
                backward.splice(0..0, page);
                if !more { break }
            }
            prop_assert_eq!(&backward, &kept);
        }
    }
}
