//! Opening the database: who may, which versions, and what is refused.
//!
//! A file that is not wholly ours and sound is named and left exactly as it is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use thiserror::Error;

use super::schema::{self, APPLICATION, BACKUP, MIGRATIONS};
use super::{backup, failure, run};

/// How long a statement waits for another program's lock.
pub(super) const BUSY: Duration = Duration::from_secs(2);
/// What the journal may keep of the disk after it has been taken into the database.
const JOURNAL_BYTES: i64 = 16 << 20;
/// Statements that are kept prepared: more than there are.
const STATEMENTS: usize = 96;

/// Why the history cannot be opened. Nothing has been changed then.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the history {} is in use by another wschat; stop that one, or set another history.path", .path.display())]
    InUse { path: PathBuf },
    #[error(
        "the history {} was written by a newer wschat: it has version {found}, and this one knows {known}; \
         install the newer wschat again, or move the file away to begin a new history",
        .path.display()
    )]
    Newer { path: PathBuf, found: i64, known: usize },
    #[error(
        "{} is another program's database; set history.path to a file of wschat's own, or to one that does not exist",
        .path.display()
    )]
    NotOurs { path: PathBuf },
    #[error(
        "the history {} is damaged ({why}) and is left as it is; restore a backup, or move it away together with \
         its -wal file to begin a new history",
        .path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error(
        "the history {} is missing or empty, but its journal {} has messages: put the file back that belongs to \
         it; or, to begin a new history, move the journal away",
        .path.display(), .journal.display()
    )]
    Orphan { path: PathBuf, journal: PathBuf },
    #[error("the history cannot be opened: {0}")]
    Sqlite(String),
    #[error("the history {}: {what}: {source}", .path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

impl OpenError {
    /// Whether it will be so again until somebody does something about the file.
    pub fn stays(&self) -> bool {
        use OpenError::{Damaged, Newer, NotOurs, Orphan};
        matches!(self, Newer { .. } | NotOurs { .. } | Damaged { .. } | Orphan { .. })
    }
}

/// The side file whose lock says that the database has its daemon. SQLite's own locks leave the
/// database readable for others, which is wanted, and writable, which is not.
pub(super) struct Lock {
    /// Held for life; the kernel lets go of it with the process, whatever becomes of that.
    file: File,
}

impl Lock {
    /// Whether a database with this run is the one that the last daemon has left: one of the two that it
    /// wrote here, or none on either side.
    pub(super) fn fits(&self, known: Option<&str>) -> bool {
        let mut runs = [0; 2 * run::LENGTH];
        match self.file.read_exact_at(&mut runs, 0) {
            Ok(()) => runs.chunks(run::LENGTH).any(|one| one == known.unwrap_or(run::NONE).as_bytes()),
            // Of a daemon that knew no runs, or of none.
            Err(_) => known.is_none(),
        }
    }

    /// Overwrites what is there, so that a full disk does not keep it from being written.
    pub(super) fn set_runs(&self, runs: &str) -> io::Result<()> {
        self.file.write_all_at(runs.as_bytes(), 0)?;
        self.file.sync_data()
    }
}

/// The database, of the newest version, and its lock.
pub(super) fn open(path: &Path) -> Result<(Connection, Lock), OpenError> {
    let lock = lock(path)?;
    // Of a daemon that was killed while it made one: nobody else makes any.
    let _ = fs::remove_file(backup::temporary(path));
    let opened = open_database(path, &lock);
    if let Err(OpenError::Damaged { .. } | OpenError::NotOurs { .. } | OpenError::Orphan { .. }) = opened {
        // What comes in its place is another, whatever the two have in common.
        run::forget(&lock);
    }
    opened.map(|db| (db, lock))
}

fn open_database(path: &Path, lock: &Lock) -> Result<Connection, OpenError> {
    let io = |what| move |source| OpenError::Io { path: path.to_owned(), what, source };
    let journal = beside(path, "-wal");
    let size = |path: &Path| fs::metadata(path).map(|file| file.len()).ok();
    let before = size(path);
    if before.unwrap_or(0) == 0 && size(&journal).unwrap_or(0) > 0 {
        // SQLite would delete the journal.
        return Err(OpenError::Orphan { path: path.to_owned(), journal });
    }
    if before == Some(0) {
        tracing::warn!("{} is an empty file: a new history begins in it", path.display());
    }
    let made = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // SQLite gives its side files the mode of this one.
        Ok(_) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(io("it cannot be made")(e)),
    };
    let mut db = prepare(path)?;
    if made && let Some(folder) = path.parent() {
        // The file's name must outlast a power cut, like what is in it.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("its folder cannot be synced"))?;
    }
    check(&mut db, path, MIGRATIONS)?;
    run::begin(&mut db, lock, path).map_err(|e| told(&e, path))?;
    Ok(db)
}

fn lock(path: &Path) -> Result<Lock, OpenError> {
    let io = |what, source| OpenError::Io { path: path.to_owned(), what, source };
    let name = path.file_name().ok_or_else(|| io("it is no file", io::ErrorKind::IsADirectory.into()))?;
    let mut side = name.to_owned();
    side.push(".lock");
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).to_owned();
    let file = options.open(path.with_file_name(side)).map_err(|e| io("its lock file cannot be opened", e))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { file }),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(io("it cannot be locked", e)),
    }
}

/// The connection that writes, anew. Nothing is made, and nothing is brought up to date.
pub(super) fn again(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY)?;
    settle(&db)?;
    Ok(db)
}

/// Which file is at the path, as device and number; `None` where there is none.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn prepare(path: &Path) -> Result<Connection, OpenError> {
    let told = |e: rusqlite::Error| told(&e, path);
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(told)?;
    db.busy_timeout(BUSY).map_err(told)?;
    // Before anything is written: is this ours?
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(told)?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(told)?;
    let version = version(&db).map_err(told)?;
    // A start that was cut off leaves an empty file.
    if ![APPLICATION, BACKUP].contains(&application) && (application != 0 || tables != 0 || version != 0) {
        return Err(OpenError::NotOurs { path: path.to_owned() });
    }
    refuse_newer(version, path, MIGRATIONS.len())?;
    let journal: String = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(told)?;
    if journal != "wal" {
        let file = path.display();
        return Err(OpenError::Sqlite(format!("{file}: the file system has no shared memory, which WAL needs")));
    }
    settle(&db).map_err(told)?;
    Ok(db)
}

fn settle(db: &Connection) -> rusqlite::Result<()> {
    // Committed is on disk.
    db.pragma_update(None, "synchronous", "full")?;
    // The writer says when; it has acknowledged then.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    let _: i64 = db.pragma_update_and_check(None, "journal_size_limit", JOURNAL_BYTES, |row| row.get(0))?;
    // What goes is overwritten, also in pages that are freed.
    let _: i64 = db.pragma_update_and_check(None, "secure_delete", "on", |row| row.get(0))?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn refuse_newer(found: i64, path: &Path, known: usize) -> Result<(), OpenError> {
    if usize::try_from(found).is_ok_and(|found| found <= known) {
        return Ok(());
    }
    Err(OpenError::Newer { path: path.to_owned(), found, known })
}

/// Brings an older version up to date, and looks whether what we read and write is there. The whole
/// file is not read: a large one takes minutes.
fn check(db: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), OpenError> {
    let found = version(db).map_err(|e| told(&e, path))?;
    refuse_newer(found, path, migrations.len())?;
    schema::migrate(db, usize::try_from(found).unwrap_or(0), migrations).map_err(|e| told(&e, path))?;
    let damaged = |why: String| OpenError::Damaged { path: path.to_owned(), why };
    for statement in super::statements() {
        match db.prepare_cached(statement) {
            Ok(_) => {}
            Err(e) if failure::code(&e) == Some(ErrorCode::Unknown) => return Err(damaged(e.to_string())),
            Err(e) => return Err(told(&e, path)),
        }
    }
    let stores: i64 = db.query_row("SELECT count(*) FROM store", [], |row| row.get(0)).map_err(|e| told(&e, path))?;
    if stores != 1 { Err(damaged("its table store is empty".into())) } else { Ok(()) }
}

pub(super) fn told(error: &rusqlite::Error, path: &Path) -> OpenError {
    if failure::is_damage(error) {
        return OpenError::Damaged { path: path.to_owned(), why: error.to_string() };
    }
    OpenError::Sqlite(failure::in_words(error, path))
}

/// A connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let told = |e: rusqlite::Error| told(&e, path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(told)?;
    db.busy_timeout(BUSY).map_err(told)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

/// Bytes of the database and its journal on the disk.
pub(super) fn bytes(path: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    size(path) + size(&beside(path, "-wal"))
}

/// The path of a file that SQLite keeps beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
