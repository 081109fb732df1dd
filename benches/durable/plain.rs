//! The floor: a table of the daemon's form, one thread, nothing but inserts and commits.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::support::BenchError;
use super::support::histogram::Histogram;

/// Of one commit.
pub struct Commits {
    pub latency: Histogram,
    pub batch: usize,
    pub elapsed: Duration,
}

impl Commits {
    pub fn rows_per_second(&self) -> f64 {
        (self.latency.count() * self.batch as u64) as f64 / self.elapsed.as_secs_f64()
    }
}

/// Commits groups of `batch` rows, one for each of as many rooms, for `length`.
pub fn run(batch: usize, text: &str, length: Duration) -> Result<Commits, BenchError> {
    let folder =
        tempfile::TempDir::with_prefix("wschat-bench-").map_err(BenchError::io("making a temporary folder"))?;
    let db = Connection::open(folder.path().join("plain.db"))?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.execute_batch(
        "CREATE TABLE entry (room INTEGER NOT NULL, seq INTEGER NOT NULL, time INTEGER NOT NULL, kind INTEGER NOT NULL,
             size INTEGER NOT NULL, id TEXT NOT NULL, user TEXT, nick TEXT, cid TEXT, dialect INTEGER, name TEXT,
             target INTEGER, body TEXT, PRIMARY KEY (room, seq)) STRICT, WITHOUT ROWID",
    )?;
    let mut insert = db.prepare(
        "INSERT INTO entry (room, seq, time, kind, size, id, user, nick, cid, dialect, body)
         VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, NULL, 0, ?8)",
    )?;
    let mut latency = Histogram::new();
    let begin = Instant::now();
    let mut seq = 0i64;
    while begin.elapsed() < length {
        let start = Instant::now();
        seq += 1;
        db.execute_batch("BEGIN IMMEDIATE")?;
        for room in 0..batch as i64 {
            let (time, size) = (1_700_000_000_000 + seq, 200);
            let (id, user, nick) = ("0123456789abcdefghij", "guest-0123456789abcdef", "guest-01234");
            insert.execute(params![room, seq, time, size, id, user, nick, text])?;
        }
        db.execute_batch("COMMIT")?;
        latency.record(start.elapsed().as_nanos() as u64);
    }
    Ok(Commits { latency, batch, elapsed: begin.elapsed() })
}
