//! One law for every log: random requests, answered as [`LogRequest`] says, checked against a model
//! that is too simple to be wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{Log, Retention, wire_size};
use crate::chat::event::{
    Body, Dialect, Entry, HistoryRange, LogFailure, LogReply, LogRequest, Member, Record, Ticket,
};
use crate::chat::id::{Nick, RoomName, Seq, UserId};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// One moment for all requests. It is of today: a log that sweeps before anybody has told it the time
/// goes by the machine's clock.
pub(super) fn now() -> SystemTime {
    static NOW: LazyLock<SystemTime> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that has been set");
        UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64)
    });
    *NOW
}

/// A log that is tested, and what it can do besides.
pub(super) trait Subject {
    fn log(&mut self) -> &mut dyn Log;
    /// Ends it and starts it again; whether it kept everything.
    fn reopen(&mut self) -> bool;
    /// Everything that happens in the background has happened.
    fn settle(&mut self);
    /// It tells what earlier processes have stored.
    fn tells_said(&self) -> bool;
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The next answer, waited for.
pub(super) fn reply(log: &mut dyn Log) -> LogReply {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match log.poll_reply(&mut Context::from_waker(&waker)) {
            Poll::Ready(reply) => return reply,
            Poll::Pending => std::thread::park(),
        }
    }
}

pub(super) fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

pub(super) fn message(user: &str, text: &str, time: SystemTime) -> Record {
    let from = Member { user: UserId::parse(user).unwrap(), nick: Nick::parse("Nick").unwrap() };
    let body = Body::Message { from, text: Some(text.into()), cid: None, dialect: Dialect::Json };
    Record { id: "id".into(), time, body }
}

pub(super) fn append(log: &mut dyn Log, name: &RoomName, record: Record) -> LogReply {
    let request = LogRequest::Append { room: name.clone(), ticket: Ticket(1), record: record.into() };
    log.submit(request, now());
    reply(log)
}

pub(super) fn open(log: &mut dyn Log, name: &RoomName) -> (String, Seq, Seq) {
    log.submit(LogRequest::Open { room: name.clone() }, now());
    match reply(log) {
        LogReply::Opened { epoch, head, first, .. } => (epoch.to_string(), head, first),
        other => panic!("{other:?}"),
    }
}

/// The page's seqs, whether there is more, and the room's ends.
pub(super) fn read(
    log: &mut dyn Log,
    name: &RoomName,
    range: HistoryRange,
    limit: u32,
) -> Result<(Vec<Entry>, bool, Seq, Seq), LogFailure> {
    let request = LogRequest::Read { room: name.clone(), ticket: Ticket(2), range, limit, max_bytes: usize::MAX };
    log.submit(request, now());
    match reply(log) {
        LogReply::Page { entries, more, first, head, .. } => Ok((entries, more, first, head)),
        LogReply::Failed { failure, .. } => Err(failure),
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Open(usize),
    Close(usize),
    /// Written without waiting for answers in between.
    Write(Vec<(usize, Write)>),
    Read(usize, HistoryRange, u32, usize),
    List(Option<usize>, u32),
    Keep(u64),
    Reopen,
}

#[derive(Clone, Debug)]
pub(super) enum Write {
    Message { user: u8, text: String, cid: Option<String> },
    Event { data: Option<String> },
    Delete { back: u64, only_of: Option<u8> },
    Purge,
}

const ROOMS: [&str; 4] = ["a", "b", "大厅", "é"];

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        6 => (0u8..3, ".{0,40}", proptest::option::of("[a-z]{1,3}"))
            .prop_map(|(user, text, cid)| Write::Message { user, text, cid }),
        1 => Just(Write::Message { user: 0, text: "x\0y".repeat(3000), cid: None }),
        1 => proptest::option::of(".{0,20}").prop_map(|data| Write::Event { data }),
        3 => (0u64..8, proptest::option::of(0u8..3)).prop_map(|(back, only_of)| Write::Delete { back, only_of }),
        1 => Just(Write::Purge),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0..ROOMS.len();
    let range = prop_oneof![
        Just(HistoryRange::Latest),
        (0u64..30).prop_map(HistoryRange::Before),
        (0u64..30).prop_map(HistoryRange::After),
        Just(HistoryRange::After(u64::MAX)),
        Just(HistoryRange::Before(u64::MAX)),
    ];
    let step = prop_oneof![
        3 => at.clone().prop_map(Step::Open),
        1 => at.clone().prop_map(Step::Close),
        8 => proptest::collection::vec((at.clone(), write()), 1..8).prop_map(Step::Write),
        6 => (at.clone(), range, 0u32..12, prop_oneof![Just(usize::MAX), 1usize..1500])
            .prop_map(|(room, range, limit, bytes)| Step::Read(room, range, limit, bytes)),
        1 => (proptest::option::of(at), 0u32..5).prop_map(|(after, limit)| Step::List(after, limit)),
        1 => (1u64..12).prop_map(Step::Keep),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Default)]
struct Model {
    rooms: BTreeMap<RoomName, Stream>,
    keep: u64,
    ids: u64,
}

#[derive(Default)]
struct Stream {
    open: bool,
    epoch: Option<String>,
    head: Seq,
    entries: BTreeMap<Seq, Record>,
    /// All there ever was: a `cid` counts longer than its message is kept.
    ever: BTreeMap<Seq, Record>,
}

impl Stream {
    fn first(&self) -> Seq {
        self.entries.keys().next().copied().unwrap_or(self.head + 1)
    }

    fn known(&self) -> bool {
        self.open || self.head > 0
    }

    fn trim(&mut self, keep: u64) {
        while self.entries.len() as u64 > keep {
            self.entries.pop_first();
        }
    }

    fn append(&mut self, record: Record, removed: u64, keep: u64) -> (Seq, Seq, u64) {
        self.head += 1;
        self.entries.insert(self.head, record.clone());
        self.ever.insert(self.head, record);
        self.trim(keep);
        (self.head, self.first(), removed)
    }

    fn delete(&mut self, target: Seq, only_of: Option<&UserId>) -> Result<(), LogFailure> {
        match self.entries.get_mut(&target).map(|record| &mut record.body) {
            Some(Body::Message { from, text, .. }) if text.is_some() => {
                if only_of.is_some_and(|user| *user != from.user) {
                    return Err(LogFailure::NotTheirs);
                }
                *text = None;
            }
            Some(Body::Event { data, .. }) if data.is_some() => {
                if only_of.is_some() {
                    return Err(LogFailure::NotTheirs);
                }
                *data = None;
            }
            _ => return Err(LogFailure::NoSuchMessage),
        }
        Ok(())
    }
}

fn user(number: u8) -> UserId {
    UserId::parse(&format!("u{number}")).unwrap()
}

impl Model {
    fn stream(&mut self, name: &RoomName) -> &mut Stream {
        self.rooms.entry(name.clone()).or_default()
    }

    fn record(&mut self, write: &Write, head: Seq) -> Record {
        self.ids += 1;
        let body = match write {
            Write::Message { user: by, text, cid } => Body::Message {
                from: Member { user: user(*by), nick: Nick::parse("Ann Ø").unwrap() },
                text: Some(text.clone()),
                cid: cid.clone(),
                dialect: if *by == 0 { Dialect::Text } else { Dialect::Json },
            },
            Write::Event { data } => {
                let json = data.as_ref().map(|data| serde_json::to_string(data).unwrap());
                let data = json.map(|json| Arc::from(RawValue::from_string(json).unwrap()));
                Body::Event { name: "n".into(), data }
            }
            Write::Delete { back, .. } => Body::Deleted { target: head.saturating_sub(*back) },
            Write::Purge => Body::Purged,
        };
        Record { id: format!("i{}", self.ids), time: now(), body }
    }

    /// The request, and its answer.
    fn write(&mut self, name: &RoomName, write: &Write) -> (LogRequest, Result<(Seq, Seq, u64), LogFailure>) {
        let head = self.stream(name).head;
        let record = self.record(write, head);
        let (keep, ticket, room) = (self.keep, Ticket(self.ids), name.clone());
        let shared = Arc::new(record.clone());
        let stream = self.stream(name);
        let request = match write {
            Write::Message { .. } | Write::Event { .. } => LogRequest::Append { room, ticket, record: shared },
            Write::Delete { back, only_of } => {
                let (target, only_of) = (head.saturating_sub(*back), only_of.map(user));
                LogRequest::Delete { room, ticket, target, only_of, record: shared }
            }
            Write::Purge => LogRequest::Purge { room, ticket, record: shared },
        };
        if !stream.known() {
            return (request, Err(LogFailure::NoSuchRoom));
        }
        let answer = match &request {
            LogRequest::Delete { target, only_of, .. } => {
                stream.delete(*target, only_of.as_ref()).map(|()| stream.append(record, 1, keep))
            }
            LogRequest::Purge { .. } => {
                let removed = stream.entries.len() as u64;
                stream.entries.clear();
                Ok(stream.append(record, removed, keep))
            }
            _ => Ok(stream.append(record, 0, keep)),
        };
        (request, answer)
    }
}

/// What is to be read of a range, by the words of [`LogRequest::Read`].
fn page(stream: &Stream, range: HistoryRange, limit: u32, max_bytes: usize) -> (Vec<Seq>, bool) {
    let all: Vec<Seq> = match range {
        HistoryRange::After(seq) => stream.entries.keys().filter(|s| **s > seq).copied().collect(),
        HistoryRange::Before(seq) => stream.entries.keys().rev().filter(|s| **s < seq).copied().collect(),
        HistoryRange::Latest => stream.entries.keys().rev().copied().collect(),
    };
    let mut bytes = 0;
    let mut taken: Vec<Seq> = Vec::new();
    for seq in &all {
        bytes += wire_size(&stream.entries[seq]);
        if taken.len() == limit as usize || (!taken.is_empty() && bytes > max_bytes) {
            break;
        }
        taken.push(*seq);
    }
    let more = taken.len() < all.len();
    taken.sort_unstable();
    (taken, more)
}

/// So many cases, and no file in the source tree of those that fail: they are printed.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Carries the steps out and compares every answer.
pub(super) fn check(subject: &mut dyn Subject, steps: Vec<Step>, keep: u64) -> Result<(), TestCaseError> {
    let mut model = Model { keep, ..Model::default() };
    let names = ROOMS.map(room);
    for step in steps {
        match step {
            Step::Open(i) => {
                subject.log().submit(LogRequest::Open { room: names[i].clone() }, now());
                let stream = model.rooms.entry(names[i].clone()).or_default();
                stream.open = true;
                let LogReply::Opened { room, epoch, head, first, said } = reply(subject.log()) else {
                    return Err(TestCaseError::fail("not opened"));
                };
                prop_assert_eq!((&room, head, first), (&names[i], stream.head, stream.first()));
                prop_assert_eq!(stream.epoch.get_or_insert(epoch.to_string()), &*epoch);
                let mut wanted = Vec::new();
                for (seq, record) in &stream.ever {
                    if let Body::Message { from, cid: Some(cid), .. } = &record.body
                        && subject.tells_said()
                    {
                        wanted.push((from.user.clone(), cid.as_str().into(), *seq, record.id.clone()));
                    }
                }
                // An age is told from the record's own time; how fast this machine is changes it little.
                prop_assert!(said.iter().all(|s| s.age < DAY), "{:?}", said.iter().map(|s| s.age).max());
                let said: Vec<_> = said.into_iter().map(|s| (s.user, s.cid, s.seq, s.id)).collect();
                prop_assert_eq!(said, wanted);
            }
            Step::Close(i) => {
                subject.log().submit(LogRequest::Close { room: names[i].clone() }, now());
                let stream = model.stream(&names[i]);
                stream.open = false;
                if stream.head == 0 {
                    stream.epoch = None;
                }
            }
            Step::Write(writes) => {
                let mut wanted = Vec::new();
                for (i, write) in writes {
                    let (request, answer) = model.write(&names[i], &write);
                    subject.log().submit(request, now());
                    wanted.push((names[i].clone(), Ticket(model.ids), answer));
                }
                for (room, ticket, answer) in wanted {
                    let found = match reply(subject.log()) {
                        LogReply::Committed { room, ticket, seq, first, removed } => {
                            (Some(room), Some(ticket), Ok((seq, first, removed)))
                        }
                        LogReply::Failed { room, ticket, failure } => (room, ticket, Err(failure)),
                        other => return Err(TestCaseError::fail(format!("{other:?}"))),
                    };
                    prop_assert_eq!(found, (Some(room), Some(ticket), answer));
                }
            }
            Step::Read(i, range, limit, max_bytes) => {
                let request = LogRequest::Read { room: names[i].clone(), ticket: Ticket(9), range, limit, max_bytes };
                subject.log().submit(request, now());
                let stream = model.stream(&names[i]);
                match reply(subject.log()) {
                    LogReply::Page { room, ticket: Ticket(9), epoch, entries, more, first, head } => {
                        prop_assert!(stream.known());
                        prop_assert_eq!((&room, first, head), (&names[i], stream.first(), stream.head));
                        prop_assert_eq!(stream.epoch.get_or_insert(epoch.to_string()), &*epoch);
                        let (wanted, has_more) = page(stream, range, limit, max_bytes);
                        prop_assert_eq!(entries.iter().map(|e| e.seq).collect::<Vec<_>>(), wanted);
                        prop_assert_eq!(more, has_more);
                        for entry in entries {
                            let wanted = &stream.entries[&entry.seq];
                            prop_assert_eq!(format!("{:?}", entry.record), format!("{:?}", Arc::new(wanted)));
                        }
                    }
                    LogReply::Failed { room, ticket: Some(Ticket(9)), failure: LogFailure::NoSuchRoom } => {
                        prop_assert!(!stream.known());
                        prop_assert_eq!(room.as_ref(), Some(&names[i]));
                    }
                    other => return Err(TestCaseError::fail(format!("{other:?}"))),
                }
            }
            Step::List(after, limit) => {
                let after = after.map(|i| names[i].clone());
                subject.log().submit(LogRequest::List { ticket: Ticket(8), after: after.clone(), limit }, now());
                let LogReply::Rooms { ticket: Ticket(8), rooms, more } = reply(subject.log()) else {
                    return Err(TestCaseError::fail("no list"));
                };
                let stored = model
                    .rooms
                    .iter()
                    .filter(|(name, stream)| stream.head > 0 && after.as_ref().is_none_or(|after| *name > after));
                let all: Vec<_> = stored.map(|(name, s)| (name.clone(), s.head, s.first())).collect();
                prop_assert_eq!(more, all.len() > limit as usize);
                let rooms: Vec<_> = rooms.into_iter().map(|r| (r.name, r.head, r.first)).collect();
                prop_assert_eq!(rooms, all.into_iter().take(limit as usize).collect::<Vec<_>>());
            }
            Step::Keep(keep) => {
                model.keep = keep;
                model.rooms.values_mut().for_each(|stream| stream.trim(keep));
                subject.log().retain(Retention { keep, keep_for: 36_500 * DAY, max_bytes: 0 });
                subject.settle();
            }
            Step::Reopen => {
                if !subject.reopen() {
                    model.rooms.clear();
                }
                for stream in model.rooms.values_mut() {
                    stream.open = false;
                    if stream.head == 0 {
                        stream.epoch = None;
                    }
                }
                subject.log().retain(Retention { keep: model.keep, keep_for: 36_500 * DAY, max_bytes: 0 });
            }
        }
    }
    Ok(())
}
