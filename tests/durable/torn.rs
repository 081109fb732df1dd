//! The log alone when the power fails: the daemon's own kill leaves the kernel's memory, this does
//! not.

use std::collections::BTreeMap;
use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use wschat::chat::event::{Body, Dialect, Entry, HistoryRange, LogReply, LogRequest, Member, Record, Ticket};
use wschat::chat::id::{Nick, RoomName, Seq, UserId};
use wschat::log::{Log, Options, Retention, SqliteLog};

use crate::support::PATIENCE;
use crate::{database, seed, volatile};

const ROOMS: [&str; 3] = ["lobby", "tea", "coffee"];
const KEEP: u64 = 300;

fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a good name")
}

/// A log, and the time in which its answers are waited for.
struct Store {
    log: SqliteLog,
    runtime: Runtime,
    /// Each room's epoch and what the log said of its ends.
    opened: BTreeMap<&'static str, (Arc<str>, Seq, Seq)>,
}

impl Store {
    fn open(folder: &Path) -> Self {
        let options = Options {
            path: folder.join("wschat.db"),
            retention: Retention { keep: KEEP, keep_for: Duration::from_secs(3600), max_bytes: u64::MAX },
            commit_every: Duration::from_millis(1),
        };
        let log = SqliteLog::open(options).unwrap_or_else(|e| panic!("{e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("tokio");
        let mut store = Store { log, runtime, opened: BTreeMap::new() };
        for name in ROOMS {
            store.submit(LogRequest::Open { room: room(name) });
            let LogReply::Opened { epoch, head, first, .. } = store.reply() else { panic!("not opened") };
            store.opened.insert(name, (epoch, head, first));
        }
        store
    }

    fn submit(&mut self, request: LogRequest) {
        self.log.submit(request, SystemTime::now());
    }

    fn reply(&mut self) -> LogReply {
        let log = &mut self.log;
        let reply = async { tokio::time::timeout(PATIENCE, poll_fn(|cx| log.poll_reply(cx))).await };
        self.runtime.block_on(reply).expect("the log answers")
    }

    /// All entries of a room.
    fn entries(&mut self, name: &str) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let range = HistoryRange::After(all.last().map_or(0, |entry| entry.seq));
            self.submit(LogRequest::Read {
                room: room(name),
                ticket: Ticket(0),
                range,
                limit: 100,
                max_bytes: 1 << 20,
            });
            let LogReply::Page { entries, more, .. } = self.reply() else { panic!("no page") };
            all.extend(entries);
            if !more {
                return all;
            }
        }
    }
}

/// What was given to the log, and what of it was said to be kept.
#[derive(Default)]
struct Books {
    /// The id of each room's entries, in the order in which they were given.
    given: BTreeMap<&'static str, Vec<String>>,
    committed: BTreeMap<&'static str, u64>,
    epochs: BTreeMap<&'static str, Arc<str>>,
}

impl Books {
    fn give(&mut self, store: &mut Store, rng: &mut StdRng) {
        let name = ROOMS[rng.random_range(0..ROOMS.len())];
        let given = self.given.entry(name).or_default();
        let id = format!("{name}{}", given.len() + 1);
        given.push(id.clone());
        let longest = if rng.random_bool(0.5) { 4000 } else { 200 };
        let from = Member { user: UserId::guest("g"), nick: Nick::parse("g").expect("a good nick") };
        let text = Some("x".repeat(rng.random_range(0..longest)));
        let body = Body::Message { from, text, cid: Some(id.clone()), dialect: Dialect::Json };
        let record = Arc::new(Record { id, time: SystemTime::now(), body });
        store.submit(LogRequest::Append { room: room(name), ticket: Ticket(given.len() as u64), record });
    }

    fn enter(&mut self, reply: &LogReply) {
        let LogReply::Committed { room, ticket, seq, .. } = reply else { panic!("{reply:?}") };
        assert_eq!(ticket.0, *seq);
        let name = ROOMS.into_iter().find(|name| room.as_str() == *name).expect("one of ours");
        let committed = self.committed.entry(name).or_default();
        assert_eq!(*seq, *committed + 1, "no number is left out");
        *committed = *seq;
    }

    /// A log that opens this has everything that was committed, what more it has was given, and it
    /// goes on from there.
    fn hold(&self, folder: &Path, what: &str) {
        database::check(&folder.join("wschat.db"));
        let mut store = Store::open(folder);
        for name in ROOMS {
            let (epoch, head, first) = store.opened[name].clone();
            let committed = self.committed.get(name).copied().unwrap_or(0);
            let given = self.given.get(name).map_or(&[][..], Vec::as_slice);
            assert!((committed..=given.len() as u64).contains(&head), "{what}: {name} ends at {head}, not {committed}");
            assert_eq!(epoch, self.epochs[name], "{what}");
            let found: Vec<(Seq, String)> =
                store.entries(name).iter().map(|entry| (entry.seq, entry.record.id.clone())).collect();
            let kept = (first..=head).map(|seq| (seq, given[usize::try_from(seq - 1).expect("few")].clone()));
            assert_eq!(found, kept.collect::<Vec<_>>(), "{what}: {name}");
            assert!(found.len() as u64 >= head.min(KEEP), "{what}: {name} keeps {}", found.len());
        }
        // It goes on where it has stopped.
        let mut rng = StdRng::seed_from_u64(0);
        let mut books = Books::default();
        for (name, (_, head, _)) in &store.opened {
            books.given.insert(name, vec![String::new(); usize::try_from(*head).expect("few")]);
            books.committed.insert(name, *head);
        }
        for _ in 0..5 {
            books.give(&mut store, &mut rng);
            books.enter(&store.reply());
        }
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_committed() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    volatile::install();
    for round in 0..4 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = Store::open(folder.path());
        let epochs = store.opened.iter().map(|(name, (epoch, ..))| (*name, epoch.clone())).collect();
        let mut books = Books { epochs, ..Books::default() };
        let mut checkpoints = 0;
        // Making the database is none.
        volatile::cut_in_checkpoint(folder.path(), &mut rng, tempfile::tempdir().expect("a temporary folder").path());
        for nth in 0..25 {
            let before = books.committed.clone();
            let burst = rng.random_range(1..300);
            for _ in 0..burst {
                books.give(&mut store, &mut rng);
            }
            let answers = rng.random_range(1..=burst);
            for _ in 0..answers {
                books.enter(&store.reply());
            }
            let after = tempfile::tempdir().expect("a temporary folder");
            volatile::cut(folder.path(), &mut rng, after.path());
            keep_lock(folder.path(), after.path());
            books.hold(after.path(), &format!("cut {nth} of round {round}"));
            volatile::forget(after.path());
            for _ in answers..burst {
                books.enter(&store.reply());
            }
            // Of a cut in the past it is only known what was committed before that.
            let after = tempfile::tempdir().expect("a temporary folder");
            if volatile::cut_in_checkpoint(folder.path(), &mut rng, after.path()) {
                checkpoints += 1;
                keep_lock(folder.path(), after.path());
                let now = std::mem::replace(&mut books.committed, before);
                books.hold(after.path(), &format!("checkpoint in burst {nth} of round {round}"));
                books.committed = now;
                volatile::forget(after.path());
            }
        }
        assert!(checkpoints > 0, "there was a checkpoint among the cuts");
        drop(store);
        volatile::forget(folder.path());
    }
}

/// The journal ends at any byte, or in garbage from there on.
#[test]
fn a_torn_journal_keeps_what_is_before_the_tear() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut store = Store::open(folder.path());
    let epochs = store.opened.iter().map(|(name, (epoch, ..))| (*name, epoch.clone())).collect();
    let mut books = Books { epochs, ..Books::default() };
    let commit = |books: &mut Books, store: &mut Store, rng: &mut StdRng, count: usize| {
        for _ in 0..count {
            books.give(store, rng);
        }
        for _ in 0..count {
            books.enter(&store.reply());
        }
    };
    commit(&mut books, &mut store, &mut rng, 50);
    let before = journal(folder.path());
    let committed = books.committed.clone();
    commit(&mut books, &mut store, &mut rng, 50);
    let after = journal(folder.path());
    assert!(!before.is_empty() && after.starts_with(&before), "the second half stands behind the first");
    books.committed = committed;
    for _ in 0..60 {
        let at = rng.random_range(before.len()..=after.len());
        let mut torn = after[..at].to_vec();
        if rng.random_bool(0.5) {
            let garbage = rng.random_range(0..20_000);
            torn.extend(std::iter::repeat_with(|| rng.random::<u8>()).take(garbage));
        }
        let copy = copy_with(folder.path(), &torn);
        books.hold(copy.path(), &format!("torn at {at} of {}..{}", before.len(), after.len()));
    }
}

/// The lock file is not SQLite's, and is synced as it is written: a power cut leaves it.
fn keep_lock(from: &Path, to: &Path) {
    fs::copy(from.join("wschat.db.lock"), to.join("wschat.db.lock")).expect("there is one");
}

fn journal(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("wschat.db-wal")).expect("there is a journal")
}

fn copy_with(from: &Path, journal: &[u8]) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for file in ["wschat.db", "wschat.db.lock"] {
        fs::copy(from.join(file), copy.path().join(file)).expect("there is a database");
    }
    fs::write(copy.path().join("wschat.db-wal"), journal).expect("our own folder");
    copy
}
