//! What the database holds: its tables, their versions, and records as rows.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Row, Statement, Transaction, TransactionBehavior};
use serde_json::value::RawValue;

use crate::chat::event::{Body, Dialect, Entry, Member, Record};
use crate::chat::id::{Nick, Seq, UserId};

/// Marks a database as ours, as `file`(1) and SQLite's `application_id` have it: "wsch".
pub(super) const APPLICATION: i32 = 0x7773_6368;
/// The same of a backup that the daemon has made: "wscb". It becomes a history where it is started with.
pub(super) const BACKUP: i32 = 0x7773_6362;

/// What makes a database of version n into one of version n + 1, where n is the index. What has been
/// released is never changed here; a new version is a new line.
pub(super) const MIGRATIONS: &[&str] = &[V1, V2];

/// The tables, with what a person who opens the file has to know.
const V1: &str = "
CREATE TABLE store (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    name       TEXT NOT NULL,    -- random, made with the database
    generation INTEGER NOT NULL, -- goes up when rooms without entries are forgotten
    probe      BLOB              -- written to find out whether the disk takes anything
) STRICT;
CREATE TABLE room (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE,
    epoch  TEXT NOT NULL,        -- names the room's stream, for good
    head   INTEGER NOT NULL,     -- the newest entry's seq
    count  INTEGER NOT NULL,     -- entries kept: those after head - count
    bytes  INTEGER NOT NULL,     -- their sizes
    oldest INTEGER               -- time of the oldest that is kept
) STRICT;
CREATE TABLE entry (
    room    INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL,    -- milliseconds since 1970
    kind    INTEGER NOT NULL,    -- 0 message, 1 event, 2 deleted, 3 purged
    size    INTEGER NOT NULL,    -- about what it takes, in bytes
    id      TEXT NOT NULL,
    user    TEXT,                -- of a message: who said it,
    nick    TEXT,                --     under which name,
    cid     TEXT,                --     the client's own id for it,
    dialect INTEGER,             --     and how: 0 JSON, 1 text
    name    TEXT,                -- of an event
    target  INTEGER,             -- of a deleted: which seq
    body    TEXT,                -- text of a message, JSON of an event; NULL once deleted
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE said (              -- of messages that went within ten minutes: not to be said again
    room INTEGER NOT NULL,
    seq  INTEGER NOT NULL,
    time INTEGER NOT NULL,
    id   TEXT NOT NULL,
    user TEXT NOT NULL,
    cid  TEXT NOT NULL,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX said_time ON said (time);
INSERT INTO store VALUES (1, lower(hex(randomblob(8))), 0, NULL);
";

/// By what an older copy that is put in the database's place is known (see `run`).
const V2: &str = "ALTER TABLE store ADD run TEXT /* drawn at each start and stop; the lock file has the same */";

/// Brings the database from `version` to the newest, each step in one transaction with its number.
pub(super) fn migrate(db: &mut Connection, version: usize, steps: &[&str]) -> rusqlite::Result<()> {
    for (from, step) in steps.iter().enumerate().skip(version) {
        let change = Transaction::new(db, TransactionBehavior::Exclusive)?;
        change.execute_batch(step)?;
        if from == 0 {
            // Not later: a backup stays one until its rooms have new epochs.
            change.pragma_update(None, "application_id", APPLICATION)?;
        }
        change.pragma_update(None, "user_version", (from + 1) as i64)?;
        change.commit()?;
    }
    Ok(())
}

pub(super) const INSERT_ENTRY: &str = "INSERT INTO entry \
    (room, seq, time, kind, size, id, user, nick, cid, dialect, name, target, body) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// The columns that [`entry`] reads, in its order.
macro_rules! entry_columns {
    () => {
        "seq, time, kind, id, user, nick, cid, dialect, name, target, body"
    };
}
pub(super) use entry_columns;

const MESSAGE: i64 = 0;
const EVENT: i64 = 1;
const DELETED: i64 = 2;
const PURGED: i64 = 3;

pub(super) fn insert_entry(insert: &mut Statement<'_>, room: i64, seq: Seq, record: &Record) -> rusqlite::Result<()> {
    let (mut user, mut nick, mut cid, mut dialect, mut name, mut target) = (None, None, None, None, None, None);
    let (kind, body) = match &record.body {
        Body::Message { from, text, cid: own, dialect: how } => {
            (user, nick, cid) = (Some(from.user.as_str()), Some(from.nick.as_str()), own.as_deref());
            dialect = Some(i64::from(*how == Dialect::Text));
            (MESSAGE, text.as_deref())
        }
        Body::Event { name: own, data } => {
            name = Some(own.as_str());
            (EVENT, data.as_ref().map(|data| data.get()))
        }
        Body::Deleted { target: seq } => {
            target = Some(*seq as i64);
            (DELETED, None)
        }
        Body::Purged => (PURGED, None),
    };
    let time = millis(record.time);
    insert.execute(rusqlite::params![
        room,
        seq as i64,
        time,
        kind,
        size(record) as i64,
        record.id,
        user,
        nick,
        cid,
        dialect,
        name,
        target,
        body
    ])?;
    Ok(())
}

/// `None`: the row is none that we have written.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let text = |column| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
    let seq: i64 = row.get(0)?;
    let kind: i64 = row.get(2)?;
    let body = match kind {
        MESSAGE => {
            let (Some(user), Some(nick)) = (text(4)?.map(UserId::parse), text(5)?.map(Nick::parse)) else {
                return Ok(None);
            };
            let (Ok(user), Ok(nick)) = (user, nick) else { return Ok(None) };
            let dialect = if row.get(7)? { Dialect::Text } else { Dialect::Json };
            let (cid, text) = (text(6)?.map(str::to_owned), text(10)?.map(str::to_owned));
            Some(Body::Message { from: Member { user, nick }, text, cid, dialect })
        }
        EVENT => {
            let Ok(data) = text(10)?.map(|json| RawValue::from_string(json.to_owned())).transpose() else {
                return Ok(None);
            };
            Some(Body::Event { name: row.get(8)?, data: data.map(Arc::from) })
        }
        DELETED => Some(Body::Deleted { target: row.get::<_, i64>(9)? as Seq }),
        PURGED => Some(Body::Purged),
        _ => None,
    };
    let Some(body) = body else { return Ok(None) };
    let record = Record { id: row.get(3)?, time: time(row.get(1)?), body };
    Ok(Some(Entry { seq: seq as Seq, record: Arc::new(record) }))
}

/// What an entry is to somebody who wants to delete it.
pub(super) enum Target {
    /// A message of this user, with its text.
    Message(String),
    /// An event with its data.
    Event,
    Nothing,
}

/// Of a row with `kind, user, octet_length(body)`; and how many bytes would go.
pub(super) fn target(row: &Row<'_>) -> rusqlite::Result<(Target, i64)> {
    let (kind, bytes): (i64, Option<i64>) = (row.get(0)?, row.get(2)?);
    let target = match kind {
        MESSAGE if bytes.is_some() => Target::Message(row.get(1)?),
        EVENT if bytes.is_some() => Target::Event,
        _ => Target::Nothing,
    };
    Ok((target, bytes.unwrap_or(0)))
}

/// About what a record takes in the database, in bytes. What is shared with others (the pages' own
/// frame, the index above them) is in the constant.
pub(super) fn size(record: &Record) -> u64 {
    let texts = match &record.body {
        Body::Message { from, text, cid, .. } => {
            let names = from.user.as_str().len() + from.nick.as_str().len();
            names + text.as_ref().map_or(0, String::len) + cid.as_ref().map_or(0, String::len)
        }
        Body::Event { name, data } => name.len() + data.as_ref().map_or(0, |data| data.get().len()),
        Body::Deleted { .. } | Body::Purged => 0,
    };
    (40 + record.id.len() + texts) as u64
}

/// Since 1970, as the rows have it; what is before that counts as then.
pub(super) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time(millis: i64) -> SystemTime {
    let since = Duration::from_millis(millis.try_into().unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}
