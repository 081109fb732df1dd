//! One transaction: what is to be written, in its order, and what is answered once it is committed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::schema::{self, INSERT_ENTRY, Target};
use super::writer::{Op, Room};
use super::{rewrite, said};
use crate::chat::event::{LogFailure, LogReply, Record, Ticket};
use crate::chat::id::{RoomName, Seq, UserId};

pub(super) const LOAD: &str = "SELECT number, epoch, head, count, bytes, oldest FROM room WHERE name = ?1";
const NEW_ROOM: &str = "INSERT INTO room (name, epoch, head, count, bytes) VALUES (?1, ?2, 0, 0, 0)";
const SAVE: &str = "UPDATE room SET head = ?2, count = ?3, bytes = ?4, oldest = ?5 WHERE number = ?1";
const LOOK: &str = "SELECT kind, user, octet_length(body) FROM entry WHERE room = ?1 AND seq = ?2";
const TAKE: &str = "UPDATE entry SET body = NULL, size = size - ?3 WHERE room = ?1 AND seq = ?2";
const CLEAR: &str = "DELETE FROM entry WHERE room = ?1";
const SIZE: &str = "SELECT coalesce(sum(size), 0) FROM entry WHERE room = ?1 AND seq < ?2";
const TRIM: &str = "DELETE FROM entry WHERE room = ?1 AND seq < ?2";
const TIME: &str = "SELECT time FROM entry WHERE room = ?1 AND seq = ?2";

pub(super) const STATEMENTS: &[&str] = &[LOAD, NEW_ROOM, SAVE, LOOK, TAKE, CLEAR, SIZE, TRIM, TIME, INSERT_ENTRY];

/// Entries beyond its own number that a transaction may take away from the rooms that it writes to,
/// so that a room over its bound comes back to it.
const SPARE: u64 = 64;

/// Texts so near to each other were taken away at one place.
const TOGETHER: i64 = 16;

/// A room's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) number: i64,
    pub(super) epoch: Arc<str>,
    pub(super) head: Seq,
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// In milliseconds since 1970.
    pub(super) oldest: Option<i64>,
}

impl Row {
    pub(super) fn load(db: &Connection, room: &RoomName) -> rusqlite::Result<Option<Row>> {
        db.prepare_cached(LOAD)?.query_row([room.as_str()], Row::read).optional()
    }

    /// Of the columns that [`LOAD`] names.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
        let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
        Ok(Row {
            number: row.get(0)?,
            epoch: row.get::<_, String>(1)?.into(),
            head: number(2)?,
            count: number(3)?,
            bytes: number(4)?,
            oldest: row.get(5)?,
        })
    }

    pub(super) fn first(&self) -> Seq {
        (self.head + 1).saturating_sub(self.count)
    }

    /// The oldest that is kept where no more than `keep` are.
    fn first_of(&self, keep: u64) -> Seq {
        self.first().max((self.head + 1).saturating_sub(keep))
    }

    pub(super) fn save(&self, db: &Connection) -> rusqlite::Result<()> {
        let (head, count, bytes) = (self.head as i64, self.count as i64, self.bytes as i64);
        db.prepare_cached(SAVE)?.execute(params![self.number, head, count, bytes, self.oldest])?;
        Ok(())
    }

    /// Takes the entries before `first` away; of those said `since` then, the `cid`s stay.
    pub(super) fn trim(&mut self, db: &Connection, first: Seq, since: i64) -> rusqlite::Result<()> {
        let bound = params![self.number, first as i64];
        let size: i64 = db.prepare_cached(SIZE)?.query_row(bound, |row| row.get(0))?;
        said::keep(db, self.number, first as i64, since)?;
        db.prepare_cached(TRIM)?.execute(bound)?;
        self.count = (self.head + 1).saturating_sub(first);
        self.bytes = self.bytes.saturating_sub(size as u64);
        self.oldest = db.prepare_cached(TIME)?.query_row(bound, |row| row.get(0)).optional()?;
        Ok(())
    }
}

/// A transaction under way.
pub(super) struct Work<'a> {
    db: &'a Connection,
    open: &'a HashMap<RoomName, Room>,
    /// The rows of rooms that it has changed.
    pub(super) rows: HashMap<RoomName, Row>,
    answers: Vec<Answer>,
    insert: CachedStatement<'a>,
    entries: u64,
    /// Where texts were taken away: room and seq.
    taken: BTreeSet<(i64, i64)>,
    /// Entries that a room may keep. What is beyond that counts as gone, though it goes at the end.
    keep: u64,
    /// In milliseconds since 1970: what was said since then is not to be said again.
    since: i64,
}

/// What is answered if it is committed.
struct Answer {
    room: RoomName,
    ticket: Ticket,
    result: Result<Appended, LogFailure>,
}

struct Appended {
    seq: Seq,
    first: Seq,
    /// How many entries were taken away with it.
    removed: u64,
}

impl<'a> Work<'a> {
    pub(super) fn begin(
        db: &'a Connection,
        open: &'a HashMap<RoomName, Room>,
        keep: u64,
        since: i64,
    ) -> rusqlite::Result<Self> {
        let insert = db.prepare_cached(INSERT_ENTRY)?;
        db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Work {
            db,
            open,
            rows: HashMap::new(),
            answers: Vec::new(),
            insert,
            entries: 0,
            taken: BTreeSet::new(),
            keep,
            since,
        })
    }

    pub(super) fn apply(&mut self, op: &Op) -> rusqlite::Result<()> {
        let (room, ticket, result) = match op {
            Op::Append { room, ticket, record } => (room, ticket, self.append(room, record, 0)?),
            Op::Delete { room, ticket, target, only_of, record } => {
                let result = match self.delete(room, *target, only_of.as_ref())? {
                    Ok(()) => self.append(room, record, 1)?,
                    Err(failure) => Err(failure),
                };
                (room, ticket, result)
            }
            Op::Purge { room, ticket, record } => {
                let removed = self.purge(room)?;
                (room, ticket, self.append(room, record, removed)?)
            }
            Op::Refused { room, ticket, failure } => (room, ticket, Err(failure.clone())),
            // They are not part of a transaction.
            Op::Open { .. } | Op::Close { .. } => return Ok(()),
        };
        self.answers.push(Answer { room: room.clone(), ticket: *ticket, result });
        Ok(())
    }

    /// The room's row as this transaction has it; `None` where there is none.
    fn row(&mut self, room: &RoomName) -> rusqlite::Result<Option<&mut Row>> {
        if !self.rows.contains_key(room) {
            let row = match self.open.get(room) {
                Some(open) => open.row.clone(),
                None => Row::load(self.db, room)?,
            };
            let Some(row) = row else { return Ok(None) };
            self.rows.insert(room.clone(), row);
        }
        Ok(self.rows.get_mut(room))
    }

    /// Where the room has no row, it gets one if it is open.
    fn row_to_write(&mut self, room: &RoomName) -> rusqlite::Result<Option<&mut Row>> {
        if self.row(room)?.is_none() {
            let Some(open) = self.open.get(room) else { return Ok(None) };
            let epoch = open.epoch.clone();
            self.db.prepare_cached(NEW_ROOM)?.execute(params![room.as_str(), &*epoch])?;
            let number = self.db.last_insert_rowid();
            self.rows.insert(room.clone(), Row { number, epoch, head: 0, count: 0, bytes: 0, oldest: None });
        }
        Ok(self.rows.get_mut(room))
    }

    fn append(
        &mut self,
        room: &RoomName,
        record: &Record,
        removed: u64,
    ) -> rusqlite::Result<Result<Appended, LogFailure>> {
        let keep = self.keep;
        let Some(row) = self.row_to_write(room)? else { return Ok(Err(LogFailure::NoSuchRoom)) };
        let size = schema::size(record);
        row.head += 1;
        row.count += 1;
        row.bytes += size;
        row.oldest.get_or_insert(schema::millis(record.time));
        let (number, seq, first) = (row.number, row.head, row.first_of(keep));
        schema::insert_entry(&mut self.insert, number, seq, record)?;
        self.entries += 1;
        Ok(Ok(Appended { seq, first, removed }))
    }

    fn delete(
        &mut self,
        room: &RoomName,
        target: Seq,
        only_of: Option<&UserId>,
    ) -> rusqlite::Result<Result<(), LogFailure>> {
        let (is_open, keep) = (self.open.contains_key(room), self.keep);
        let Some(row) = self.row(room)? else {
            return Ok(Err(if is_open { LogFailure::NoSuchMessage } else { LogFailure::NoSuchRoom }));
        };
        if !(row.first_of(keep)..=row.head).contains(&target) {
            return Ok(Err(LogFailure::NoSuchMessage));
        }
        let number = row.number;
        let place = params![number, target as i64];
        let found = self.db.prepare_cached(LOOK)?.query_row(place, schema::target).optional()?;
        let freed = match found {
            Some((Target::Message(by), _)) if only_of.is_some_and(|user| user.as_str() != by) => {
                return Ok(Err(LogFailure::NotTheirs));
            }
            Some((Target::Event, _)) if only_of.is_some() => return Ok(Err(LogFailure::NotTheirs)),
            Some((Target::Nothing, _)) | None => return Ok(Err(LogFailure::NoSuchMessage)),
            Some((_, freed)) => freed,
        };
        self.db.prepare_cached(TAKE)?.execute(params![number, target as i64, freed])?;
        self.taken.insert((number, target as i64));
        if let Some(row) = self.row(room)? {
            row.bytes = row.bytes.saturating_sub(freed as u64);
        }
        Ok(Ok(()))
    }

    /// How many entries went.
    fn purge(&mut self, room: &RoomName) -> rusqlite::Result<u64> {
        let (db, keep, since) = (self.db, self.keep, self.since);
        let Some(row) = self.row(room)? else { return Ok(0) };
        let removed = row.count.min(keep);
        said::keep(db, row.number, i64::MAX, since)?;
        db.prepare_cached(CLEAR)?.execute([row.number])?;
        (row.count, row.bytes, row.oldest) = (0, 0, None);
        let place = (row.number, 0);
        self.taken.insert(place);
        Ok(removed)
    }

    /// Takes what is beyond the bound away, as far as that costs no more than the work itself, and
    /// writes the rooms' rows. Whether something is left to take away.
    pub(super) fn finish(&mut self) -> rusqlite::Result<bool> {
        let mut spare = self.entries + SPARE;
        let mut left = false;
        for row in self.rows.values_mut() {
            let beyond = row.count.saturating_sub(self.keep);
            let takes = beyond.min(spare);
            if takes > 0 {
                row.trim(self.db, row.first() + takes, self.since)?;
                spare -= takes;
            }
            left |= takes < beyond;
            row.save(self.db)?;
        }
        if left || self.entries > 0 {
            said::prune(self.db, self.since, 2 * self.entries as i64)?;
        }
        let mut last = None;
        for &(room, seq) in &self.taken {
            // Texts that lay together are neighbours of each other.
            if last.is_none_or(|(other, at)| other != room || seq > at + TOGETHER) {
                rewrite::around(self.db, room, seq)?;
                last = Some((room, seq));
            }
        }
        Ok(left)
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// The rows to be remembered, and the answers, once it is committed.
    pub(super) fn committed(self) -> (HashMap<RoomName, Row>, Vec<LogReply>) {
        let Work { rows, answers, .. } = self;
        let reply = |Answer { room, ticket, result }| match result {
            Ok(Appended { seq, first, removed }) => {
                // Not all may have gone that is too much.
                let first = rows.get(&room).map_or(first, |row| row.first().min(first));
                LogReply::Committed { room, ticket, seq, first, removed }
            }
            Err(failure) => LogReply::Failed { room: Some(room), ticket: Some(ticket), failure },
        };
        let replies = answers.into_iter().map(reply).collect();
        (rows, replies)
    }
}
