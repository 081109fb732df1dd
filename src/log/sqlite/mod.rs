//! The log that keeps rooms in a SQLite database: what it has committed outlasts the process and,
//! as far as the disk keeps its word, a power cut.
//!
//! One thread writes: what arrives while a commit is under way, or within `commit_every` of the last
//! one, becomes one transaction. Two threads read, each page from a snapshot of its own. The caller
//! only puts requests into channels and takes answers out of them; it never waits for the disk.
//!
//! A room has a row from its first entry on. Until then, and once it has lost its row because nobody
//! uses it and nothing of it is kept, its epoch is made of the store's name and of a generation that
//! goes up in the transaction that forgets rooms. So an epoch never comes again with other entries.

mod backup;
mod failure;
mod keep;
mod open;
mod reader;
mod rewrite;
mod run;
mod said;
mod schema;
#[cfg(test)]
mod tests;
mod work;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc as blocking};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

pub use backup::{Backup, BackupError, Backups, Part, Summary};
pub use open::OpenError;

use super::{Health, Log, LogCounts, Retention, kept_size};
use crate::chat::event::{LogReply, LogRequest};
use crate::chat::id::RoomName;
use crate::stats::cell::Histogram;
use reader::Ask;
use writer::{Op, Order, Writer};

/// Bytes of requests that wait to be committed, in all rooms; beyond, they are refused at once.
const WAITING_BYTES: usize = 64 << 20;
/// Threads that read.
const READERS: usize = 2;
/// Pages that are read and not yet taken; beyond, the readers wait.
const PAGES: usize = 16;

/// Where the database is and how it is written.
#[derive(Clone, Debug)]
pub struct Options {
    pub path: PathBuf,
    pub retention: Retention,
    /// The least time between two commits of a busy log; a quiet one commits at once.
    pub commit_every: Duration,
}

/// A log in a SQLite database. Dropping it commits what is queued and leaves one clean file.
pub struct SqliteLog {
    shared: Arc<Shared>,
    backups: Backups,
    /// Absent only while it is dropped, like the other ends.
    orders: Option<blocking::Sender<Order>>,
    asks: Option<blocking::Sender<Ask>>,
    /// One for each commit; as many answers as requests are under way.
    answers: mpsc::UnboundedReceiver<Vec<LogReply>>,
    answered: VecDeque<LogReply>,
    pages: Option<mpsc::Receiver<LogReply>>,
    writer: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

/// What the threads tell each other.
struct Shared {
    path: PathBuf,
    health: watch::Sender<Health>,
    /// Why the database cannot be trusted: nothing is written to it any more.
    damage: OnceLock<String>,
    /// Rooms that are open, for readers who find no row, with their epochs. Held only for a look.
    open: Mutex<HashMap<RoomName, Arc<str>>>,
    waiting_bytes: AtomicUsize,
    waiting: AtomicU64,
    commits: AtomicU64,
    entries: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
    commit_time: Histogram,
}

impl Shared {
    fn new(path: &Path) -> Self {
        Shared {
            path: path.to_owned(),
            health: watch::Sender::new(Health::Good),
            damage: OnceLock::new(),
            open: Mutex::default(),
            waiting_bytes: AtomicUsize::new(0),
            waiting: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            commit_time: Histogram::default(),
        }
    }

    fn open_rooms(&self) -> MutexGuard<'_, HashMap<RoomName, Arc<str>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log fails from now on, unless it does already: then `since` stays.
    fn failing(&self, why: String) {
        self.health.send_if_modified(|health| match health {
            Health::Failing { why: known, .. } if *known == why => false,
            Health::Failing { why: known, .. } => {
                *known = why;
                true
            }
            Health::Good => {
                *health = Health::Failing { why, since: SystemTime::now() };
                true
            }
        });
    }

    /// From which there is no way back without a person.
    fn damaged(&self, error: &rusqlite::Error) {
        let why = self.damage.get_or_init(|| failure::in_words(error, &self.path));
        self.failing(why.clone());
    }
}

/// Every statement that is used again and again; a database in which one cannot be prepared is none.
fn statements() -> impl Iterator<Item = &'static str> {
    let read = [reader::ROOM, reader::AFTER, reader::BEFORE, reader::LIST];
    read.into_iter()
        .chain(work::STATEMENTS.iter().copied())
        .chain(keep::STATEMENTS.iter().copied())
        .chain(rewrite::STATEMENTS.iter().copied())
        .chain(said::STATEMENTS.iter().copied())
}

impl SqliteLog {
    /// Opens the database, or makes it where there is none, in a folder that is there.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let (db, lock) = open::open(&options.path)?;
        let shared = Arc::new(Shared::new(&options.path));
        shared.bytes.store(open::bytes(&options.path), Ordering::Relaxed);
        let (orders, ordered) = blocking::channel();
        let (asks, asked) = blocking::channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let (page, pages) = mpsc::channel(PAGES);
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let failed = |source| OpenError::Io { path: options.path.clone(), what: "it has no thread", source };
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(failed)
        };
        let asked = Arc::new(Mutex::new(asked));
        let mut readers = Vec::new();
        for index in 0..READERS {
            let db = open::open_reader(&options.path)?;
            let (shared, asked, page) = (shared.clone(), asked.clone(), page.clone());
            let work = Box::new(move || reader::run(&db, &shared, &asked, &page));
            readers.push(thread(&format!("wschat-read{index}"), work)?);
        }
        let writer = Writer::new(db, lock, shared.clone(), &options, ordered, answer);
        let writer = writer.map_err(|error| open::told(&error, &options.path))?;
        let writer = Some(thread("wschat-write", Box::new(move || writer.run()))?);
        let (orders, asks, pages) = (Some(orders), Some(asks), Some(pages));
        let backups = Backups::new(&options.path);
        Ok(SqliteLog { shared, backups, orders, asks, answers, answered: VecDeque::new(), pages, writer, readers })
    }

    /// By which copies of the database can be had while it is written to.
    pub fn backups(&self) -> Backups {
        self.backups.clone()
    }

    fn order(&self, order: Order) {
        // The thread ends only with us.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }

    fn ask(&self, ask: Ask) {
        // As above.
        let _ = self.asks.as_ref().map(|asks| asks.send(ask));
    }

    fn write(&self, op: Op, bytes: usize, now: SystemTime) {
        let shared = &self.shared;
        let waiting = shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting > 0 && waiting + bytes > WAITING_BYTES {
            shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            // Through the queue, so that it does not overtake what came before it.
            return self.order(Order::Op { op: op.refused(), bytes: 0, now });
        }
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        self.order(Order::Op { op, bytes, now });
    }
}

impl Log for SqliteLog {
    fn submit(&mut self, request: LogRequest, now: SystemTime) {
        match request {
            LogRequest::Open { room } => self.order(Order::Op { op: Op::Open { room }, bytes: 0, now }),
            LogRequest::Close { room } => {
                // At once, so that a later read does not find it open; again in its turn, where it is
                // still to be opened.
                self.shared.open_rooms().remove(&room);
                self.order(Order::Op { op: Op::Close { room }, bytes: 0, now });
            }
            LogRequest::Append { room, ticket, record } => {
                let bytes = kept_size(&record);
                self.write(Op::Append { room, ticket, record }, bytes, now);
            }
            LogRequest::Delete { room, ticket, target, only_of, record } => {
                let bytes = kept_size(&record);
                self.write(Op::Delete { room, ticket, target, only_of, record }, bytes, now);
            }
            LogRequest::Purge { room, ticket, record } => {
                let bytes = kept_size(&record);
                self.write(Op::Purge { room, ticket, record }, bytes, now);
            }
            LogRequest::Read { room, ticket, range, limit, max_bytes } => {
                self.ask(Ask::Page { room, ticket, range, limit, max_bytes });
            }
            LogRequest::List { ticket, after, limit } => self.ask(Ask::List { ticket, after, limit }),
        }
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<LogReply> {
        loop {
            if let Some(reply) = self.answered.pop_front() {
                return Poll::Ready(reply);
            }
            match self.answers.poll_recv(cx) {
                Poll::Ready(Some(replies)) => self.answered.extend(replies),
                // The thread ends only with us.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        match self.pages.as_mut().map(|pages| pages.poll_recv(cx)) {
            Some(Poll::Ready(Some(page))) => Poll::Ready(page),
            _ => Poll::Pending,
        }
    }

    fn retain(&mut self, retention: Retention) {
        self.order(Order::Retain(retention));
    }

    fn pace(&mut self, commit_every: Duration) {
        self.order(Order::Pace(commit_every));
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    fn counts(&self) -> LogCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.shared;
        LogCounts {
            commits: of(&shared.commits),
            entries: of(&shared.entries),
            refused: of(&shared.refused),
            waiting: of(&shared.waiting),
            waiting_bytes: shared.waiting_bytes.load(Ordering::Relaxed) as u64,
            bytes: of(&shared.bytes),
            commit_time: shared.commit_time.read(),
        }
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        self.backups.stop();
        // A reader that waits for its page to be taken waits no longer.
        self.pages = None;
        self.asks = None;
        for reader in self.readers.drain(..) {
            // A panic ends the process (see Cargo.toml).
            let _ = reader.join();
        }
        // Last, so that it is alone with the database and leaves one file.
        self.orders = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}
