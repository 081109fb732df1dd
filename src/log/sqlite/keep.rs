//! What keeps the database within its bounds: the journal's size, entries that are too many or too
//! old, rooms of which nothing is left, and the size of the whole.
//!
//! Each step is a transaction of at most [`STEP`] rows, between commits. What goes frees pages that
//! new entries take, so the file finds a size and keeps it without being rewritten.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use super::failure;
use super::open::BUSY;
use super::work::Row;
use super::writer::{Writer, epoch};
use super::{said, schema};
use crate::chat::id::{RoomName, Seq};
use crate::log::{Retention, level};

/// Rows that one step looks at, or takes away.
const STEP: u64 = 500;
/// While others write, a step comes no more often than this.
const BETWEEN: Duration = Duration::from_millis(20);
/// `cid`s that count no more, and that one walk takes away.
const OLD_SAID: i64 = 2000;
/// Rooms are looked through this often.
const SWEEP: Duration = Duration::from_secs(60);
/// The journal is taken into the database after so many commits, or bytes of requests.
const COMMITS: u32 = 256;
const BYTES: usize = 2 << 20;
/// Pages of a journal beyond which readers are waited for, so that it can begin anew.
const JOURNAL_PAGES: i64 = 8192;
/// How long they are waited for. Ours read a page in less.
const READERS: Duration = Duration::from_millis(20);
/// When a journal that could not be emptied is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Rooms that lose entries before the size of the whole is looked at anew.
const LARGEST: i64 = 1000;

const WALK: &str = "SELECT number, epoch, head, count, bytes, oldest, name FROM room \
    WHERE number > ?1 ORDER BY number LIMIT ?2";
const ROW: &str = "SELECT number, epoch, head, count, bytes, oldest, name FROM room WHERE number = ?1";
const YOUNG: &str = "SELECT seq FROM entry WHERE room = ?1 AND seq < ?2 AND time >= ?3 ORDER BY seq LIMIT 1";
const FORGET: &str = "DELETE FROM room WHERE number = ?1";

pub(super) const STATEMENTS: &[&str] = &[WALK, ROW, YOUNG, FORGET];

/// What is due.
pub(super) struct Keeper {
    pub(super) retention: Retention,
    /// The room after which the walk goes on; `None` between walks.
    walk: Option<i64>,
    next_walk: Instant,
    last_step: Option<Instant>,
    /// Since the last checkpoint.
    commits: u32,
    bytes: usize,
    /// Texts that were deleted are still in the journal; when to empty it.
    scrub: Option<Instant>,
    /// Pages beyond which the journal waits for its readers; more while a foreign one stays.
    patience: i64,
    /// Too large a whole: these rooms come down to that many bytes each.
    shrink: Option<(VecDeque<i64>, u64)>,
    /// The size of the whole is to be looked at.
    weigh: bool,
    told: bool,
}

impl Keeper {
    pub(super) fn new(retention: Retention, now: Instant) -> Self {
        Keeper {
            retention,
            walk: Some(0),
            next_walk: now + SWEEP,
            last_step: None,
            commits: 0,
            bytes: 0,
            scrub: None,
            patience: JOURNAL_PAGES,
            shrink: None,
            weigh: true,
            told: false,
        }
    }

    pub(super) fn retain(&mut self, retention: Retention) {
        self.retention = retention;
        self.begin();
    }

    /// Looks at everything anew.
    pub(super) fn begin(&mut self) {
        self.walk = Some(0);
        self.weigh = true;
        self.shrink = None;
    }

    /// A group of so many bytes is committed. `left`: a room has more than it may keep.
    pub(super) fn committed(&mut self, bytes: usize, left: bool) {
        self.commits += 1;
        self.bytes += bytes;
        if left && self.walk.is_none() {
            self.walk = Some(0);
        }
    }

    pub(super) fn scrub(&mut self, now: Instant) {
        self.scrub.get_or_insert(now);
    }

    /// When there is something to do.
    pub(super) fn due(&self, now: Instant) -> Instant {
        if self.is_busy() || self.full() {
            return now;
        }
        self.scrub.map_or(self.next_walk, |at| at.min(self.next_walk))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.walk.is_some() || self.weigh || self.shrink.is_some()
    }

    fn full(&self) -> bool {
        self.commits >= COMMITS || self.bytes >= BYTES
    }
}

/// What one step has done to the rooms' rows.
#[derive(Default)]
struct Step {
    changed: Vec<(RoomName, Row)>,
    forgotten: bool,
}

impl Writer {
    /// One step of what is due. `others`: somebody waits for a commit.
    pub(super) fn keep(&mut self, now: Instant, others: bool) -> rusqlite::Result<()> {
        if self.keeper.full() {
            self.empty_journal()?;
            self.keeper.weigh = true;
        }
        if self.keeper.scrub.is_some_and(|at| at <= now) {
            let done = self.checkpoint_soon()?;
            self.keeper.scrub = (!done).then_some(now + AGAIN);
        }
        if now >= self.keeper.next_walk {
            self.keeper.next_walk = now + SWEEP;
            self.keeper.walk.get_or_insert(0);
        }
        if others && self.keeper.last_step.is_some_and(|last| now < last + BETWEEN) {
            return Ok(());
        }
        if self.keeper.is_busy() {
            self.keeper.last_step = Some(now);
        }
        if std::mem::take(&mut self.keeper.weigh) {
            self.weigh()
        } else if self.keeper.shrink.is_some() {
            self.shrink()
        } else if self.keeper.walk.is_some() {
            self.walk()
        } else {
            Ok(())
        }
    }

    /// (whether somebody was in the way, pages of the journal, pages of it that are in the database)
    pub(super) fn checkpoint(&self, mode: &str) -> rusqlite::Result<(bool, i64, i64)> {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        self.db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], row)
    }

    /// Whether the journal is empty now. Foreign readers are not waited for long.
    pub(super) fn checkpoint_soon(&mut self) -> rusqlite::Result<bool> {
        self.db.busy_timeout(READERS)?;
        let done = self.checkpoint("TRUNCATE");
        self.db.busy_timeout(BUSY)?;
        self.bearable(done).map(|done| done.is_some_and(|(busy, ..)| !busy))
    }

    /// A checkpoint that fails loses nothing: the journal grows, and where it cannot, commits fail.
    fn bearable<T>(&mut self, done: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
        match done {
            Ok(done) => {
                self.keeper.told = false;
                Ok(Some(done))
            }
            Err(error) if failure::is_damage(&error) => Err(error),
            Err(error) => {
                if !std::mem::replace(&mut self.keeper.told, true) {
                    let why = failure::in_words(&error, &self.shared.path);
                    tracing::warn!("the journal of the history grows, because it cannot be emptied: {why}");
                }
                Ok(None)
            }
        }
    }

    /// Takes the journal into the database, so that it begins anew.
    fn empty_journal(&mut self) -> rusqlite::Result<()> {
        (self.keeper.commits, self.keeper.bytes) = (0, 0);
        let done = self.checkpoint("PASSIVE");
        let Some((_, pages, _)) = self.bearable(done)? else { return Ok(()) };
        if pages > self.keeper.patience {
            let emptied = self.checkpoint_soon()?;
            self.keeper.patience = if emptied { JOURNAL_PAGES } else { pages.saturating_mul(2) };
        }
        Ok(())
    }

    /// Bytes of pages in use.
    fn used(&self) -> rusqlite::Result<u64> {
        let number = |name| self.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = number("page_count")? - number("freelist_count")?;
        Ok((pages * number("page_size")?).try_into().unwrap_or(0))
    }

    /// Above the bound, finds the rooms that have to come down so that a sixteenth below it is left:
    /// then the look at all rooms is paid once for all that is written until the bound is met again.
    fn weigh(&mut self) -> rusqlite::Result<()> {
        let most = self.keeper.retention.max_bytes;
        let used = self.used()?;
        if most == 0 || used <= most {
            self.keeper.shrink = None;
            return Ok(());
        }
        let mut sizes = self.db.prepare("SELECT bytes FROM room WHERE bytes > 0")?;
        let sizes = sizes.query_map([], |row| row.get::<_, i64>(0));
        let mut sizes = sizes?.map(|bytes| bytes.map(|bytes| bytes as usize)).collect::<rusqlite::Result<Vec<_>>>()?;
        let sum: usize = sizes.iter().sum();
        let goal = (sum as u128 * u128::from(most - most / 16) / u128::from(used)) as usize;
        let level = level(&mut sizes, goal) as u64;
        let mut rooms = self.db.prepare("SELECT number FROM room WHERE bytes > ?1 ORDER BY bytes DESC LIMIT ?2")?;
        let rooms = rooms.query_map(params![i64::try_from(level).unwrap_or(i64::MAX), LARGEST], |row| row.get(0));
        let rooms = rooms?.collect::<rusqlite::Result<VecDeque<i64>>>()?;
        self.keeper.shrink = (!rooms.is_empty()).then_some((rooms, level));
        Ok(())
    }

    /// The oldest entries of the first of the largest rooms.
    fn shrink(&mut self) -> rusqlite::Result<()> {
        let Some((rooms, level)) = &mut self.keeper.shrink else { return Ok(()) };
        let level = *level;
        let Some(number) = rooms.front().copied() else {
            // Perhaps this was not all.
            (self.keeper.shrink, self.keeper.weigh) = (None, true);
            return Ok(());
        };
        let found = self.db.prepare_cached(ROW)?.query_row([number], named).optional()?;
        let Some((Some(name), mut row)) = found.filter(|(_, row)| row.bytes > level && row.count > 0) else {
            rooms.pop_front();
            return Ok(());
        };
        let since = said::since(self.wall());
        let each = (row.bytes / row.count).max(1);
        let takes = ((row.bytes - level) / each + 1).clamp(1, STEP).min(row.count);
        self.step(|db, step| {
            row.trim(db, row.first() + takes, since)?;
            row.save(db)?;
            step.changed.push((name, row));
            Ok(())
        })
    }

    /// The next rooms of a walk: what is too old or too much goes, and rooms of which nothing is left.
    fn walk(&mut self) -> rusqlite::Result<()> {
        let Some(after) = self.keeper.walk else { return Ok(()) };
        let since = said::since(self.wall());
        if after == 0 && self.last_commit.is_some() {
            // Not before somebody has told the time. The rest goes with what is written.
            said::prune(&self.db, since, OLD_SAID)?;
        }
        let mut statement = self.db.prepare_cached(WALK)?;
        let rows = statement.query_map(params![after, STEP as i64], named)?;
        let rows = rows.collect::<rusqlite::Result<Vec<(Option<RoomName>, Row)>>>()?;
        drop(statement);
        let Retention { keep, keep_for, .. } = self.keeper.retention;
        let oldest = self.wall().checked_sub(keep_for).map_or(0, schema::millis);
        let mut next = rows.last().map(|(_, row)| row.number);
        let concerned = |(name, row): (Option<RoomName>, Row)| {
            // A room with another program's name is not ours to touch.
            let name = name?;
            let old = row.count > 0 && row.oldest.is_some_and(|time| time < oldest);
            let dead = row.count == 0 && !self.rooms.contains_key(&name);
            (old || dead || row.count > keep).then_some((name, row))
        };
        let concerned: Vec<(RoomName, Row)> = rows.into_iter().filter_map(concerned).collect();
        if concerned.is_empty() {
            self.keeper.walk = next;
            return Ok(());
        }
        let open: Vec<bool> = concerned.iter().map(|(name, _)| self.rooms.contains_key(name)).collect();
        self.step(|db, step| {
            let mut left = STEP;
            for ((name, mut row), open) in concerned.into_iter().zip(open) {
                if left == 0 {
                    next = Some(row.number - 1);
                    break;
                }
                let from = row.first();
                let most = (from + left).min(row.head + 1);
                let place = params![row.number, most as i64, oldest];
                let young: Option<i64> = db.prepare_cached(YOUNG)?.query_row(place, |row| row.get(0)).optional()?;
                let young = young.map_or(most, |seq| seq as Seq);
                let first = (row.head + 1).saturating_sub(keep).max(young).clamp(from, most);
                if first > from {
                    row.trim(db, first, since)?;
                    row.save(db)?;
                    left -= first - from;
                }
                if left == 0 && row.count > 0 {
                    // It may have more.
                    next = Some(row.number - 1);
                }
                if row.count == 0 && !open {
                    db.prepare_cached(FORGET)?.execute([row.number])?;
                    said::forget(db, row.number)?;
                    step.forgotten = true;
                } else if first > from {
                    step.changed.push((name, row));
                }
                if left == 0 {
                    break;
                }
            }
            Ok(())
        })?;
        self.keeper.walk = next;
        Ok(())
    }

    /// One transaction of our own.
    fn step(&mut self, act: impl FnOnce(&Connection, &mut Step) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        let mut step = Step::default();
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let done = act(&self.db, &mut step).and_then(|()| {
            if step.forgotten {
                // So that a room that comes again begins under another name.
                self.db.execute("UPDATE store SET generation = generation + 1", [])?;
            }
            self.db.prepare_cached("COMMIT")?.execute([])
        });
        if let Err(error) = done {
            if !self.db.is_autocommit() {
                // The rows are read again before anything else is written (see `probe`).
                let _ = self.db.execute_batch("ROLLBACK");
            }
            return Err(error);
        }
        self.keeper.commits += 1;
        if step.forgotten {
            self.epoch = epoch(&self.db)?;
        }
        for (name, row) in step.changed {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.row = Some(row);
            }
        }
        Ok(())
    }
}

/// Of [`WALK`] and [`ROW`].
fn named(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Option<RoomName>, Row)> {
    Ok((RoomName::parse(row.get_ref(6)?.as_str()?).ok(), Row::read(row)?))
}
