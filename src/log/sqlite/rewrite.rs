//! Overwriting what SQLite leaves of a text that was taken away.
//!
//! `secure_delete` overwrites a row where it lies. But where a page was split or joined with another
//! before, a copy of the row may lie in the unused middle of a page, which SQLite does not clear. Such
//! pages are next to the row: so its neighbours are taken out, which frees their pages, and freed pages
//! are overwritten; then they are put back.

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::schema::INSERT_ENTRY;

/// Neighbours on either side, in rows and about in bytes.
const ROWS: i64 = 48;
const BYTES: i64 = 256 << 10;
/// Rows that fill a tree that has become empty, so that its root is written anew, and their length.
const FILL: i64 = 24;
const FILL_BYTES: usize = 900;

const COLUMNS: usize = 13;
const BELOW: &str = "SELECT room, seq, time, kind, size, id, user, nick, cid, dialect, name, target, body FROM entry \
    WHERE (room, seq) < (?1, ?2) ORDER BY room DESC, seq DESC LIMIT ?3";
const ABOVE: &str = "SELECT room, seq, time, kind, size, id, user, nick, cid, dialect, name, target, body FROM entry \
    WHERE (room, seq) >= (?1, ?2) ORDER BY room, seq LIMIT ?3";
const OUT: &str = "DELETE FROM entry WHERE room = ?1 AND seq = ?2";
const FILLED: &str = "DELETE FROM entry WHERE room = ?1 AND seq < 0";

pub(super) const STATEMENTS: &[&str] = &[BELOW, ABOVE, OUT, FILLED];

/// Writes the rows around this place anew, in the transaction that is under way.
pub(super) fn around(db: &Connection, room: i64, seq: i64) -> rusqlite::Result<()> {
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for side in [BELOW, ABOVE] {
        let mut statement = db.prepare_cached(side)?;
        let mut found = statement.query(params![room, seq, ROWS])?;
        let mut bytes = 0;
        while let Some(row) = found.next()? {
            bytes += row.get::<_, i64>(4)?;
            rows.push((0..COLUMNS).map(|column| row.get(column)).collect::<rusqlite::Result<_>>()?);
            if bytes > BYTES {
                break;
            }
        }
    }
    let mut out = db.prepare_cached(OUT)?;
    for row in &rows {
        out.execute(params_from_iter(&row[..2]))?;
    }
    let mut insert = db.prepare_cached(INSERT_ENTRY)?;
    let filler = "-".repeat(FILL_BYTES);
    for n in 1..=FILL {
        let (no, none) = (0, None::<String>);
        insert.execute(params![room, -n, no, no, no, "", none, none, none, None::<i64>, none, None::<i64>, filler])?;
    }
    db.prepare_cached(FILLED)?.execute([room])?;
    for row in &rows {
        insert.execute(params_from_iter(row))?;
    }
    Ok(())
}
