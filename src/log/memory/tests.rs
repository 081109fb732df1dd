use std::task::Waker;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::chat::event::Ticket;
use crate::log::conformance;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn log(keep: u64) -> MemoryLog {
    let mut log = MemoryLog::new(Retention { keep, keep_for: DAY, max_bytes: 0 }, StdRng::seed_from_u64(1));
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

struct Subject(MemoryLog);

impl conformance::Subject for Subject {
    fn log(&mut self) -> &mut dyn Log {
        &mut self.0
    }

    fn reopen(&mut self) -> bool {
        let retention = Retention { keep: 10, keep_for: 36_500 * DAY, max_bytes: 0 };
        self.0 = MemoryLog::new(retention, StdRng::seed_from_u64(2));
        false
    }

    fn settle(&mut self) {
        // Any request does it.
        self.0.submit(LogRequest::Close { room: named("nobody") }, conformance::now());
    }

    fn tells_said(&self) -> bool {
        false
    }
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
    #![proptest_config(conformance::cases(256))]

    #[test]
    fn answers_as_every_log(steps in conformance::steps(), keep in 1u64..20) {
        let retention = Retention { keep, keep_for: 36_500 * DAY, max_bytes: 0 };
        let mut subject = Subject(MemoryLog::new(retention, StdRng::seed_from_u64(1)));
        conformance::check(&mut subject, steps, keep)?;
    }

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
                    if heads[i] == 0 {
                        // What was closed before anything was said in it is not known any more.
                        open(&mut log, &names[i]);
                    }
                    heads[i] += 1;
                    prop_assert_eq!(event(&mut log, &names[i], size, now), heads[i]);
                }
                Step::Later(hours) => now += hours * DAY / 24,
                Step::Keep(keep) => log.retain(Retention { keep, keep_for: DAY, max_bytes: 0 }),
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
