//! The log that keeps rooms in memory until the daemon stops. It commits at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rand::RngExt;
use rand::rngs::StdRng;

use super::{Log, Retention};
use crate::chat::event::{Body, Entry, HistoryRange, LogReply, LogRequest};
use crate::chat::id::{RoomName, Seq};

/// Old entries of rooms in which nobody writes are looked for this often.
const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// A log without a disk.
///
/// Its memory is bounded by `retention.keep` entries a room and by [`MemoryLog::ROOMS`] rooms: where
/// rooms may be made by clients, an unused one beyond that number is forgotten, oldest use first,
/// and comes back under a new epoch.
pub struct MemoryLog {
    rooms: HashMap<RoomName, Stream>,
    retention: Retention,
    replies: VecDeque<LogReply>,
    rng: StdRng,
    /// Counts requests, to know which stream was used last.
    clock: u64,
    swept: SystemTime,
}

struct Stream {
    epoch: Arc<str>,
    head: Seq,
    entries: VecDeque<Entry>,
    used: u64,
    open: bool,
}

impl MemoryLog {
    /// Streams of rooms that nobody uses which are still kept.
    pub const ROOMS: usize = 10_000;

    /// `rng` makes the epochs' names; `retention.keep` of 0 keeps nothing.
    pub fn new(retention: Retention, rng: StdRng) -> Self {
        MemoryLog {
            rooms: HashMap::new(),
            retention,
            replies: VecDeque::new(),
            rng,
            clock: 0,
            swept: SystemTime::UNIX_EPOCH,
        }
    }

    fn open(&mut self, room: RoomName) {
        self.forget_unused();
        let used = self.clock;
        let rng = &mut self.rng;
        let stream = self.rooms.entry(room.clone()).or_insert_with(|| Stream {
            epoch: format!("{:016x}", rng.random::<u64>()).into(),
            head: 0,
            entries: VecDeque::new(),
            used,
            open: true,
        });
        (stream.used, stream.open) = (used, true);
        let (epoch, head, first) = (stream.epoch.clone(), stream.head, stream.first());
        self.replies.push_back(LogReply::Opened { room, epoch, head, first });
    }

    fn forget_unused(&mut self) {
        if self.rooms.len() < Self::ROOMS {
            return;
        }
        // Half at a time, so that the sort is paid once for many.
        let mut unused: Vec<(u64, RoomName)> =
            self.rooms.iter().filter(|(_, s)| !s.open).map(|(name, s)| (s.used, name.clone())).collect();
        unused.sort_unstable_by_key(|(used, _)| *used);
        for (_, name) in unused.iter().take(unused.len().div_ceil(2)) {
            self.rooms.remove(name);
        }
    }

    fn sweep(&mut self, now: SystemTime) {
        if now.duration_since(self.swept).is_ok_and(|since| since < SWEEP_EVERY) {
            return;
        }
        self.swept = now;
        let retention = self.retention;
        for stream in self.rooms.values_mut() {
            stream.trim(retention, now);
        }
    }
}

impl Stream {
    fn first(&self) -> Seq {
        self.entries.front().map_or(self.head + 1, |e| e.seq)
    }

    fn trim(&mut self, retention: Retention, now: SystemTime) {
        while let Some(oldest) = self.entries.front() {
            let old = now.duration_since(oldest.record.time).is_ok_and(|age| age > retention.keep_for);
            if !old && self.entries.len() as u64 <= retention.keep {
                break;
            }
            self.entries.pop_front();
        }
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
        Body::Message { text, .. } => text.len(),
        Body::Event { name, data } => name.len() + data.get().len(),
        Body::Deleted { .. } => 0,
    }
}

impl Log for MemoryLog {
    fn submit(&mut self, request: LogRequest, now: SystemTime) {
        self.clock += 1;
        self.sweep(now);
        let (clock, retention) = (self.clock, self.retention);
        match request {
            LogRequest::Open { room } => self.open(room),
            LogRequest::Append { room, ticket, record } => {
                let Some(stream) = self.rooms.get_mut(&room) else {
                    return self.replies.push_back(not_open(room, ticket));
                };
                stream.used = clock;
                stream.head += 1;
                let seq = stream.head;
                if retention.keep > 0 {
                    stream.entries.push_back(Entry { seq, record });
                    stream.trim(retention, now);
                }
                let first = stream.first();
                self.replies.push_back(LogReply::Committed { room, ticket, seq, first });
            }
            LogRequest::Read { room, ticket, range, limit, max_bytes } => {
                let Some(stream) = self.rooms.get_mut(&room) else {
                    return self.replies.push_back(not_open(room, ticket));
                };
                stream.used = clock;
                stream.trim(retention, now);
                let (entries, more) = stream.read(range, limit, max_bytes);
                let (first, head) = (stream.first(), stream.head);
                self.replies.push_back(LogReply::Page { room, ticket, entries, more, first, head });
            }
            LogRequest::Close { room } => {
                if let Some(stream) = self.rooms.get_mut(&room) {
                    stream.open = false;
                }
            }
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

    fn kept(&self, room: &RoomName) -> u64 {
        self.rooms.get(room).map_or(0, |s| s.entries.len() as u64)
    }
}

fn not_open(room: RoomName, ticket: crate::chat::event::Ticket) -> LogReply {
    LogReply::Failed { room, ticket: Some(ticket), why: "the room's log is not open".into() }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::chat::event::{Record, Ticket};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn log(keep: u64) -> MemoryLog {
        let mut log = MemoryLog::new(Retention { keep, keep_for: DAY }, StdRng::seed_from_u64(1));
        log.submit(LogRequest::Open { room: room() }, SystemTime::UNIX_EPOCH);
        assert!(matches!(reply(&mut log), LogReply::Opened { head: 0, first: 1, .. }));
        log
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
        assert_eq!(log.kept(&room()), 1);
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
        assert!(log.rooms.len() < MemoryLog::ROOMS);
        assert!(log.rooms.contains_key(&room()), "the one in use stays");
    }

    proptest! {
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
