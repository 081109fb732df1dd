//! The thread that writes: it gathers what arrives, commits it in groups, and answers.
//!
//! It alone holds a connection that can write, and the rows of the open rooms. When nothing waits
//! it does what `keep` has for it, in steps of a few milliseconds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB};
use tokio::sync::mpsc::UnboundedSender;

use super::keep::Keeper;
use super::open::Lock;
use super::work::{Row, Work};
use super::{Options, Shared, failure, open, run, said};
use crate::chat::event::{LogFailure, LogReply, Record, Ticket};
use crate::chat::id::{RoomName, Seq, UserId};
use crate::log::{Health, Retention};

/// The most requests of one transaction, and about the most bytes.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 8 << 20;
/// A log that fails tries what it is given no more often than this, and refuses the rest at once.
const RETRY: Duration = Duration::from_millis(200);
/// Where nobody writes, it tries by itself.
const PROBE: Duration = Duration::from_secs(1);
/// Bytes that a disk must take before a log that has failed counts as good again.
const PROBE_BYTES: i64 = 256 << 10;
/// How often it is looked whether the file is still in its place, where nobody writes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the file's size is looked at.
const SIZE_EVERY: Duration = Duration::from_secs(1);

/// What the writer is told.
pub(super) enum Order {
    Op {
        op: Op,
        bytes: usize,
        now: SystemTime,
    },
    Retain(Retention),
    Pace(Duration),
    /// For tests: does something with the connection, and answers once nothing is left to be tidied.
    #[cfg(test)]
    Test(Box<dyn FnOnce(&Connection) + Send>, std::sync::mpsc::Sender<()>),
}

/// What is answered in the order in which it was asked.
pub(super) enum Op {
    Open { room: RoomName },
    Close { room: RoomName },
    Append { room: RoomName, ticket: Ticket, record: Arc<Record> },
    Delete { room: RoomName, ticket: Ticket, target: Seq, only_of: Option<UserId>, record: Arc<Record> },
    Purge { room: RoomName, ticket: Ticket, record: Arc<Record> },
    Refused { room: RoomName, ticket: Ticket, failure: LogFailure },
}

impl Op {
    fn room(&self) -> &RoomName {
        match self {
            Op::Open { room }
            | Op::Close { room }
            | Op::Append { room, .. }
            | Op::Delete { room, .. }
            | Op::Purge { room, .. }
            | Op::Refused { room, .. } => room,
        }
    }

    /// The answer that it gets where too much waits already.
    pub(super) fn refused(self) -> Op {
        match self {
            Op::Append { room, ticket, .. } | Op::Delete { room, ticket, .. } | Op::Purge { room, ticket, .. } => {
                let why = "the disk is slower than what is written; try again".into();
                Op::Refused { room, ticket, failure: LogFailure::Unavailable(why) }
            }
            op => op,
        }
    }

    fn takes_away(&self) -> bool {
        matches!(self, Op::Delete { .. } | Op::Purge { .. })
    }

    fn is_write(&self) -> bool {
        !matches!(self, Op::Open { .. } | Op::Close { .. })
    }
}

/// An open room.
pub(super) struct Room {
    pub(super) epoch: Arc<str>,
    /// As it is in the database; `None` while nothing has been said in it.
    pub(super) row: Option<Row>,
}

struct Failing {
    why: String,
    tried: Instant,
}

type Waiting = (Op, usize);

pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) shared: Arc<Shared>,
    orders: Receiver<Order>,
    answers: UnboundedSender<Vec<LogReply>>,
    pub(super) rooms: HashMap<RoomName, Room>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    commit_every: Duration,
    pub(super) last_commit: Option<Instant>,
    failing: Option<Failing>,
    pub(super) started: SystemTime,
    /// The time of day, as last told, and when.
    clock: (SystemTime, Instant),
    /// The store's name and generation: epochs of rooms without a row.
    pub(super) epoch: Arc<str>,
    pub(super) keeper: Keeper,
    measured: Instant,
    /// The file that is open, as device and number.
    file: Option<(u64, u64)>,
    looked: Instant,
    /// The connection cannot write, and will not by itself.
    read_only: bool,
    /// What is damaged is not known by its run any more: whatever comes in its place is another.
    forgotten: bool,
    /// Dropped after the connection.
    lock: Lock,
}

impl Writer {
    pub(super) fn new(
        db: Connection,
        lock: Lock,
        shared: Arc<Shared>,
        options: &Options,
        orders: Receiver<Order>,
        answers: UnboundedSender<Vec<LogReply>>,
    ) -> rusqlite::Result<Self> {
        let (now, started) = (Instant::now(), SystemTime::now());
        Ok(Writer {
            epoch: epoch(&db)?,
            db,
            shared,
            orders,
            answers,
            rooms: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            commit_every: options.commit_every,
            last_commit: None,
            failing: None,
            started,
            clock: (started, now),
            keeper: Keeper::new(options.retention, now),
            measured: now,
            file: open::identity(&options.path),
            looked: now,
            read_only: false,
            forgotten: false,
            lock,
        })
    }

    /// Until nobody orders any more and all that was ordered is done.
    pub(super) fn run(mut self) {
        let mut over = false;
        if self.db.is_readonly(MAIN_DB).unwrap_or(false) {
            self.read_only = true;
            self.stand(format!("{} cannot be written to: give it to the daemon's user", self.shared.path.display()));
        }
        while !over || !self.waiting.is_empty() {
            let now = Instant::now();
            let heard = match self.wake_at(now) {
                at if at <= now => self.orders.try_recv().map_err(|e| e == TryRecvError::Disconnected),
                at => self.orders.recv_timeout(at - now).map_err(|e| e == RecvTimeoutError::Disconnected),
            };
            match heard {
                Ok(order) => self.take(order),
                Err(disconnected) => over |= disconnected,
            }
            while !self.is_full() {
                match self.orders.try_recv() {
                    Ok(order) => self.take(order),
                    Err(error) => {
                        over |= error == TryRecvError::Disconnected;
                        break;
                    }
                }
            }
            let now = Instant::now();
            if !self.waiting.is_empty() && (over || now >= self.commit_at(now)) {
                self.commit(now);
            }
            if !over {
                self.tend();
            }
            if !self.forgotten && self.shared.damage.get().is_some() {
                self.forgotten = true;
                run::forget(&self.lock);
            }
        }
        if !self.forgotten && self.failing.is_none() {
            // So that a copy made until now is told from what is left here.
            run::end(&self.db, &self.lock);
        }
        // Nothing is lost without it: the journal stays beside the database.
        let _ = match self.shared.damage.get() {
            None => self.checkpoint("TRUNCATE").map(drop),
            // What is damaged is left as it is, for whoever looks at it.
            Some(_) => self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop),
        };
    }

    fn wake_at(&self, now: Instant) -> Instant {
        if !self.waiting.is_empty() {
            return self.commit_at(now);
        }
        match &self.failing {
            Some(failing) => failing.tried + PROBE,
            None => self.keeper.due(now).min(self.looked + LOOK_EVERY),
        }
    }

    fn commit_at(&self, now: Instant) -> Instant {
        match self.last_commit {
            Some(last) if !self.is_full() && self.failing.is_none() => last + self.commit_every,
            _ => now,
        }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= BATCH || self.waiting_bytes >= BATCH_BYTES
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Op { op, bytes, now } => {
                self.clock = (now, Instant::now());
                // What needs no commit waits for none, unless something of its room waits.
                if op.is_write() || self.waiting.iter().any(|(other, _)| other.room() == op.room()) {
                    self.waiting_bytes += bytes;
                    self.waiting.push_back((op, bytes));
                } else {
                    self.open_or_close(op);
                }
            }
            Order::Retain(retention) => self.keeper.retain(retention),
            Order::Pace(commit_every) => self.commit_every = commit_every,
            #[cfg(test)]
            Order::Test(act, done) => {
                act(&self.db);
                if !self.waiting.is_empty() {
                    self.commit(Instant::now());
                }
                self.keeper.begin();
                while self.failing.is_none() && self.keeper.is_busy() {
                    self.tend();
                }
                let _ = done.send(());
            }
        }
    }

    pub(super) fn wall(&self) -> SystemTime {
        self.clock.0 + self.clock.1.elapsed()
    }

    fn answer(&self, replies: Vec<LogReply>) {
        // Nobody hears it any more where the log is being dropped.
        let _ = self.answers.send(replies);
    }

    fn open_or_close(&mut self, op: Op) {
        match op {
            Op::Open { room } => {
                let reply = match self.open(&room) {
                    Ok(reply) => reply,
                    Err(error) => {
                        if failure::is_damage(&error) {
                            self.fail(&error);
                        }
                        let failure = LogFailure::Unavailable(failure::in_words(&error, &self.shared.path));
                        LogReply::Failed { room: Some(room), ticket: None, failure }
                    }
                };
                self.answer(vec![reply]);
            }
            Op::Close { room } => {
                self.rooms.remove(&room);
                self.shared.open_rooms().remove(&room);
            }
            _ => {}
        }
    }

    fn open(&mut self, name: &RoomName) -> rusqlite::Result<LogReply> {
        if !self.rooms.contains_key(name) {
            let row = Row::load(&self.db, name)?;
            let epoch = row.as_ref().map_or(&self.epoch, |row| &row.epoch).clone();
            self.shared.open_rooms().insert(name.clone(), epoch.clone());
            self.rooms.insert(name.clone(), Room { epoch, row });
        }
        let room = &self.rooms[name];
        let (epoch, room_name) = (room.epoch.clone(), name.clone());
        let (head, first) = room.row.as_ref().map_or((0, 1), |row| (row.head, row.first()));
        let said = match &room.row {
            Some(row) => self.said(row)?,
            None => Vec::new(),
        };
        Ok(LogReply::Opened { room: room_name, epoch, head, first, said })
    }

    /// Commits what waits, up to the first that has to wait for that.
    fn commit(&mut self, now: Instant) {
        let mut batch = Vec::new();
        while batch.len() < BATCH && self.waiting.front().is_some_and(|(op, _)| op.is_write()) {
            batch.extend(self.waiting.pop_front());
        }
        if !batch.is_empty() {
            self.last_commit = Some(now);
            let replies = self.carry_out(&batch, now);
            let bytes: usize = batch.iter().map(|(_, bytes)| bytes).sum();
            let counted = batch.iter().filter(|(op, _)| !matches!(op, Op::Refused { .. })).count();
            self.waiting_bytes -= bytes;
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.waiting.fetch_sub(counted as u64, Ordering::Relaxed);
            self.answer(replies);
            if now.duration_since(self.measured) >= SIZE_EVERY {
                self.measure(now);
            }
        }
        while self.waiting.front().is_some_and(|(op, _)| !op.is_write()) {
            if let Some((op, _)) = self.waiting.pop_front() {
                self.open_or_close(op);
            }
        }
    }

    pub(super) fn measure(&mut self, now: Instant) {
        self.measured = now;
        self.shared.bytes.store(open::bytes(&self.shared.path), Ordering::Relaxed);
    }

    fn carry_out(&mut self, batch: &[Waiting], now: Instant) -> Vec<LogReply> {
        let why = match self.able(now) {
            Ok(()) => {
                let begun = Instant::now();
                let done = self.transact(batch);
                self.shared.commit_time.observe(begun.elapsed());
                match done {
                    Ok(replies) => return replies,
                    Err(error) => self.fail(&error),
                }
            }
            Err(why) => why,
        };
        self.shared.refused.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let refuse = |(op, _): &Waiting| {
            let (room, ticket, failure) = match op {
                Op::Refused { room, ticket, failure } => (room, *ticket, failure.clone()),
                Op::Append { room, ticket, .. } | Op::Delete { room, ticket, .. } | Op::Purge { room, ticket, .. } => {
                    (room, *ticket, LogFailure::Unavailable(why.clone()))
                }
                // They are not part of a batch.
                Op::Open { .. } | Op::Close { .. } => return None,
            };
            Some(LogReply::Failed { room: Some(room.clone()), ticket: Some(ticket), failure })
        };
        batch.iter().filter_map(refuse).collect()
    }

    fn transact(&mut self, batch: &[Waiting]) -> rusqlite::Result<Vec<LogReply>> {
        let takes_away = batch.iter().any(|(op, _)| op.takes_away());
        let written = write(&self.db, &self.rooms, batch, self.keeper.retention.keep, said::since(self.wall()));
        let Written { rows, replies, entries, left } = written?;
        for (name, row) in rows {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.row = Some(row);
            }
        }
        self.keeper.committed(batch.iter().map(|(_, bytes)| bytes).sum(), left);
        self.shared.commits.fetch_add(u64::from(entries > 0), Ordering::Relaxed);
        self.shared.entries.fetch_add(entries, Ordering::Relaxed);
        let refused = batch.iter().filter(|(op, _)| matches!(op, Op::Refused { .. })).count();
        self.shared.refused.fetch_add(refused as u64, Ordering::Relaxed);
        if takes_away && entries > 0 {
            // What was taken away is in the journal still, and overwritten before it is said to be gone.
            // Who reads is waited for a little; then it is done as soon as it can be.
            match self.checkpoint_soon() {
                Ok(true) => {}
                Ok(false) => self.keeper.scrub(Instant::now()),
                // What is committed is committed.
                Err(error) => drop(self.fail(&error)),
            }
        }
        Ok(replies)
    }

    /// Whether there is a point in trying; if not, why.
    fn able(&mut self, now: Instant) -> Result<(), String> {
        self.hear_of_damage(now);
        self.look(now);
        match &self.failing {
            None => Ok(()),
            Some(failing) if now < failing.tried + RETRY => Err(failing.why.clone()),
            Some(_) => self.try_again(),
        }
    }

    /// Fails where the file has been moved or removed: what is written to it then is found by nobody.
    fn look(&mut self, now: Instant) {
        self.looked = now;
        if let (Err(why), None) = (self.in_place(), &self.failing) {
            self.stand(why);
        }
    }

    fn in_place(&self) -> Result<(), String> {
        let path = &self.shared.path;
        if open::identity(path) == self.file {
            return Ok(());
        }
        Err(format!("{} is not the file that is open any more: put that back, or restart", path.display()))
    }

    /// Fails for this reason until a probe finds that it is gone.
    fn stand(&mut self, why: String) {
        self.shared.failing(why.clone());
        self.failing = Some(Failing { why, tried: Instant::now() });
    }

    /// A reader may have met it.
    fn hear_of_damage(&mut self, now: Instant) {
        if let (Some(why), None) = (self.shared.damage.get(), &self.failing) {
            self.failing = Some(Failing { why: why.clone(), tried: now });
        }
    }

    /// Does what keeps the house, or tries whether the disk takes something again.
    fn tend(&mut self) {
        let now = Instant::now();
        self.hear_of_damage(now);
        if now >= self.looked + LOOK_EVERY {
            self.look(now);
        }
        match &self.failing {
            Some(failing) if now >= failing.tried + PROBE => drop(self.try_again()),
            Some(_) => {}
            None => {
                if let Err(error) = self.keep(now, !self.waiting.is_empty()) {
                    self.fail(&error);
                }
            }
        }
    }

    /// From here on nothing is tried but now and then. Why, in words.
    fn fail(&mut self, error: &rusqlite::Error) -> String {
        let why = failure::in_words(error, &self.shared.path);
        self.read_only |= failure::code(error) == Some(ErrorCode::ReadOnly);
        if failure::is_damage(error) {
            self.shared.damaged(error);
        } else {
            self.shared.failing(why.clone());
        }
        self.failing = Some(Failing { why: why.clone(), tried: Instant::now() });
        if failure::code(error) == Some(ErrorCode::SystemIoFailure) {
            // A commit whose sync failed lies in the journal, and a later start would find it. This
            // writes over it, where the disk takes anything at all.
            let _ = self.try_again();
        }
        why
    }

    fn try_again(&mut self) -> Result<(), String> {
        let now = Instant::now();
        if let Some(why) = self.shared.damage.get() {
            self.failing = Some(Failing { why: why.clone(), tried: now });
            return Err(why.clone());
        }
        if let Err(why) = self.in_place() {
            self.stand(why.clone());
            return Err(why);
        }
        match self.probe() {
            Ok(()) => {
                self.failing = None;
                self.shared.health.send_replace(Health::Good);
                Ok(())
            }
            Err(error) => {
                let why = failure::in_words(&error, &self.shared.path);
                self.read_only |= failure::code(&error) == Some(ErrorCode::ReadOnly);
                if failure::is_damage(&error) {
                    self.shared.damaged(&error);
                } else {
                    self.shared.failing(why.clone());
                }
                self.failing = Some(Failing { why: why.clone(), tried: now });
                Err(why)
            }
        }
    }

    /// Writes more than most messages need, and looks up what is really stored.
    fn probe(&mut self) -> rusqlite::Result<()> {
        if self.read_only {
            // A connection that could not write when it was made never can.
            self.db = open::again(&self.shared.path)?;
        }
        if !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK")?;
        }
        self.checkpoint("TRUNCATE")?;
        self.db.execute("UPDATE store SET probe = zeroblob(?1)", [PROBE_BYTES])?;
        self.db.execute("UPDATE store SET probe = NULL", [])?;
        self.read_only = false;
        self.epoch = epoch(&self.db)?;
        for (name, room) in &mut self.rooms {
            room.row = Row::load(&self.db, name)?;
        }
        Ok(())
    }
}

/// The epoch of rooms that have no row.
pub(super) fn epoch(db: &Connection) -> rusqlite::Result<Arc<str>> {
    db.query_row("SELECT name || '.' || generation FROM store", [], |row| Ok(row.get::<_, String>(0)?.into()))
}

struct Written {
    rows: HashMap<RoomName, Row>,
    replies: Vec<LogReply>,
    entries: u64,
    /// A room is left with more than it may keep.
    left: bool,
}

/// All of the batch in one transaction, or nothing of it.
fn write(
    db: &Connection,
    rooms: &HashMap<RoomName, Room>,
    batch: &[Waiting],
    keep: u64,
    since: i64,
) -> rusqlite::Result<Written> {
    let mut work = Work::begin(db, rooms, keep, since)?;
    let done = batch.iter().try_for_each(|(op, _)| work.apply(op)).and_then(|()| work.finish());
    let committed = done.and_then(|left| db.prepare_cached("COMMIT")?.execute([]).map(|_| left));
    let left = match committed {
        Ok(left) => left,
        Err(error) => {
            if !db.is_autocommit() {
                // Where even this fails, the next transaction cannot begin, and tells so.
                let _ = db.execute_batch("ROLLBACK");
            }
            // What matters is what is stored, not what the last call said.
            let stored = !work.rows.is_empty()
                && work
                    .rows
                    .iter()
                    .all(|(name, row)| Row::load(db, name).is_ok_and(|found| found.as_ref() == Some(row)));
            if !stored {
                return Err(error);
            }
            false
        }
    };
    let entries = work.entries();
    let (rows, replies) = work.committed();
    Ok(Written { rows, replies, entries, left })
}
