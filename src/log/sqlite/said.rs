//! Which `cid`s were said in the last ten minutes, also where their messages are gone.
//!
//! A client that heard no answer sends its message again, and must not be taken to say it anew: not
//! after a restart, and not where retention or a purge has taken the message away meanwhile. What is
//! taken away so early leaves its `cid` in a table of its own, without its text.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use super::schema;
use super::work::Row;
use super::writer::Writer;
use crate::chat::event::SaidBefore;
use crate::chat::id::{Seq, UserId};

/// How long a `cid` counts, and the most of them that one room tells.
const SAID_WINDOW: Duration = Duration::from_secs(600);
const SAID: i64 = 20_000;

const STORED: &str = "SELECT time, cid, user, id, seq FROM entry WHERE room = ?1 AND seq > ?2 AND seq <= ?3 \
    ORDER BY seq DESC";
const GONE: &str = "SELECT time, cid, user, id, seq FROM said WHERE room = ?1 AND seq > ?2 AND seq <= ?3 \
    ORDER BY seq DESC";
const KEEP: &str = "INSERT OR REPLACE INTO said SELECT room, seq, time, id, user, cid FROM entry \
    WHERE room = ?1 AND seq < ?2 AND time >= ?3 AND cid IS NOT NULL AND user IS NOT NULL";
const OLD: &str = "DELETE FROM said WHERE (room, seq) IN \
    (SELECT room, seq FROM said WHERE time < ?1 ORDER BY time LIMIT ?2)";
const FORGET: &str = "DELETE FROM said WHERE room = ?1";

pub(super) const STATEMENTS: &[&str] = &[STORED, GONE, KEEP, OLD, FORGET];

/// What was said before that counts no more.
pub(super) fn since(now: SystemTime) -> i64 {
    schema::millis(now).saturating_sub(SAID_WINDOW.as_millis() as i64)
}

/// Keeps the `cid`s of the entries before `first`, which are about to go.
pub(super) fn keep(db: &Connection, room: i64, first: i64, since: i64) -> rusqlite::Result<()> {
    db.prepare_cached(KEEP)?.execute(params![room, first, since]).map(drop)
}

/// Takes some of those away that count no more.
pub(super) fn prune(db: &Connection, since: i64, most: i64) -> rusqlite::Result<()> {
    db.prepare_cached(OLD)?.execute(params![since, most]).map(drop)
}

/// The room is forgotten, and its numbers begin anew.
pub(super) fn forget(db: &Connection, room: i64) -> rusqlite::Result<()> {
    db.prepare_cached(FORGET)?.execute([room]).map(drop)
}

impl Writer {
    /// Messages that a process before this one may have stored and that may be sent again.
    pub(super) fn said(&self, row: &Row) -> rusqlite::Result<Vec<SaidBefore>> {
        let now = self.wall();
        if now.duration_since(self.started).is_ok_and(|age| age >= SAID_WINDOW) {
            return Ok(Vec::new());
        }
        let (now, since) = (schema::millis(now), since(now));
        let head = row.head as i64;
        let mut said = Vec::new();
        // What is kept is newer than what is gone.
        for from in [STORED, GONE] {
            let mut statement = self.db.prepare_cached(from)?;
            let mut rows = statement.query(params![row.number, head.saturating_sub(SAID), head])?;
            while let Some(row) = rows.next()? {
                let time: i64 = row.get(0)?;
                if time < since {
                    break;
                }
                let (cid, user) = (row.get_ref(1)?.as_str_or_null()?, row.get_ref(2)?.as_str_or_null()?);
                // What this process has stored itself is known already; told by the clock, which may have
                // been set back, it could not be.
                if let (Some(cid), Some(Ok(user))) = (cid, user.map(UserId::parse)) {
                    // What comes from a clock that went ahead is new.
                    let age = Duration::from_millis((now - time).try_into().unwrap_or(0));
                    let (seq, id) = (row.get::<_, i64>(4)? as Seq, row.get(3)?);
                    said.push(SaidBefore { user, cid: cid.into(), seq, id, age });
                }
            }
        }
        said.reverse();
        Ok(said)
    }
}
