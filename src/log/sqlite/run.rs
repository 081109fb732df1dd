//! Whether the database is the one that was left here, or an older copy that was put in its place.
//!
//! A client that comes back names the epoch and the number up to which it has seen a room. In an older
//! copy the same numbers would be given to other messages, and the client would never see those. So the
//! database and the lock file beside it have a random text in common, which is drawn anew at each start
//! and each stop: where they differ the database is a copy, and its rooms begin new epochs. So are those
//! of a backup that the daemon has made, whatever lies beside it. In doubt they do: that costs clients
//! one page, and the opposite messages.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::open::Lock;
use super::schema::{APPLICATION, BACKUP};

/// Bytes of the text.
pub(super) const LENGTH: usize = 16;
/// In its place, where the database has none yet.
pub(super) const NONE: &str = "----------------";

const SET: &str = "UPDATE store SET run = ?1";

fn draw() -> String {
    format!("{:0LENGTH$x}", rand::random::<u64>())
}

/// Finds out, and acts on it, when the database is opened and nobody uses it yet.
pub(super) fn begin(db: &mut Connection, lock: &Lock, path: &Path) -> rusqlite::Result<()> {
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let known: Option<String> = db.query_row("SELECT run FROM store", [], |row| row.get(0))?;
    if application != BACKUP && lock.fits(known.as_deref()) {
        // Where the disk takes nothing this is the same as before, and that is told when it matters.
        end(db, lock);
        return Ok(());
    }
    let change = Transaction::new(db, TransactionBehavior::Immediate)?;
    let rooms = change.execute("UPDATE room SET epoch = lower(hex(randomblob(8)))", [])?;
    change.execute("UPDATE store SET name = lower(hex(randomblob(8)))", [])?;
    change.pragma_update(None, "application_id", APPLICATION)?;
    let run = draw();
    change.execute(SET, [&run])?;
    change.commit()?;
    written(lock, &run, &run);
    if rooms > 0 {
        tracing::warn!(
            "{} is a backup or another copy: its rooms ({rooms}) begin anew for their clients, which load them from \
             the start",
            path.display()
        );
    }
    Ok(())
}

/// Draws the text anew in both. Until the database has the new one the lock file has both, so that a
/// crash at any moment leaves two that fit.
pub(super) fn end(db: &Connection, lock: &Lock) {
    let drawn = draw();
    let known = db.query_row("SELECT run FROM store", [], |row| row.get::<_, Option<String>>(0));
    let changed = known.and_then(|known| {
        written(lock, known.as_deref().unwrap_or(NONE), &drawn);
        db.execute(SET, [&drawn])
    });
    match changed {
        Ok(_) => written(lock, &drawn, &drawn),
        Err(error) => tracing::debug!("the history's run is not drawn anew: {error}"),
    }
}

/// Whatever is opened next is another.
pub(super) fn forget(lock: &Lock) {
    let other = draw();
    written(lock, &other, &other);
}

/// Where this fails the database counts as a copy at the next start, which is safe.
fn written(lock: &Lock, old: &str, new: &str) {
    if let Err(error) = lock.set_runs(&format!("{old}{new}")) {
        tracing::debug!("the history's run is not written beside it: {error}");
    }
}
