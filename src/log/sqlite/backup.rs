//! A copy of the database while it is written to: made on a thread of its own, from one snapshot, into a
//! file that has no name any more, and given out in pieces.
//!
//! Reading needs no lock that the writer waits for. What it costs the writer is that the journal cannot
//! begin anew until the snapshot is copied: so that is done first, whole, and the pieces are given out
//! from the copy, as slowly as they are taken.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sys::statvfs::statvfs;
use rusqlite::backup::{Backup as Copying, StepResult};
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;
use tokio::sync::mpsc;

use super::schema::BACKUP;
use super::{failure, open};

/// Pages that are copied at a time: half a MiB.
const PAGES: i32 = 128;
/// Between two steps as long as the step took, so that half of the disk's time is the writer's; at least
/// and at most this.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// How often it is told how far the copy is.
const TELL: Duration = Duration::from_secs(1);
/// Bytes of a piece.
const CHUNK: usize = 48 << 10;
/// Pieces that wait to be taken.
const CHUNKS: usize = 4;
/// What a copy leaves free of the disk: the journal's bound, so that messages find their place.
const SPARE: u64 = 32 << 20;
/// Bytes of the journal at which a copy is given up, because too much is written meanwhile.
const JOURNAL: u64 = 1 << 30;
/// Where a database's header has its application's number, and before it twice whether it is used with a
/// journal of the newer kind (SQLite's "Database File Format", 1.3).
const APPLICATION_AT: u64 = 68;
const JOURNAL_KIND_AT: u64 = 18;

/// Why there is no backup.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackupError {
    #[error("another backup is under way")]
    Busy,
    #[error("nothing is kept on disk: history.store is {0:?}")]
    NotKept(&'static str),
    #[error("{0}")]
    Failed(String),
}

/// What comes of one, in this order: how far it is, its bytes, what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes that are copied, of so many.
    Copied { bytes: u64, of: u64 },
    /// The next bytes, in Base64 (RFC 4648, section 4).
    Chunk(String),
    /// The last part.
    Done(Summary),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of the whole.
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
    pub rooms: u64,
    /// Stored entries of all rooms.
    pub entries: u64,
}

/// Makes copies of one database, one at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backups {
    path: PathBuf,
    running: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
}

/// A copy under way. Dropping it ends it, and its thread.
#[derive(Debug)]
pub struct Backup {
    parts: mpsc::Receiver<Result<Part, BackupError>>,
}

impl Backup {
    /// The next part; `None` after the last one, or where the daemon ends.
    pub async fn next(&mut self) -> Option<Result<Part, BackupError>> {
        self.parts.recv().await
    }
}

impl Backups {
    pub(super) fn new(path: &Path) -> Self {
        Backups { path: path.to_owned(), running: Arc::default(), stopping: Arc::default() }
    }

    /// Begins one, of what is committed now.
    pub fn begin(&self) -> Result<Backup, BackupError> {
        if self.running.swap(true, Ordering::AcqRel) {
            return Err(BackupError::Busy);
        }
        let running = Running(self.running.clone());
        let (sender, parts) = mpsc::channel(CHUNKS);
        let work = Work { path: self.path.clone(), parts: sender, stopping: self.stopping.clone() };
        let run = move || {
            let last = match work.run() {
                Ok(summary) => Ok(Part::Done(summary)),
                Err(End::Failed(why)) => Err(BackupError::Failed(why)),
                Err(End::Unwanted) => return,
            };
            // Another may begin as soon as the end of this one is heard.
            drop(running);
            // Whoever wanted it may have gone.
            let _ = work.parts.blocking_send(last);
        };
        match std::thread::Builder::new().name("wschat-backup".into()).spawn(run) {
            Ok(_) => Ok(Backup { parts }),
            Err(error) => Err(BackupError::Failed(format!("it has no thread: {error}"))),
        }
    }

    /// Those under way end soon.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

/// Says by its end that another one may begin.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

struct Work {
    path: PathBuf,
    parts: mpsc::Sender<Result<Part, BackupError>>,
    stopping: Arc<AtomicBool>,
}

/// Why it ends before its end.
enum End {
    /// Whoever wanted it has gone, or the daemon stops.
    Unwanted,
    Failed(String),
}

impl Work {
    fn run(&self) -> Result<Summary, End> {
        let (file, rooms, entries) = self.copy()?;
        self.give_out(&file, rooms, entries)
    }

    fn sqlite(&self, error: &rusqlite::Error) -> End {
        End::Failed(failure::in_words(error, &self.path))
    }

    fn io(&self, what: &str, error: &io::Error) -> End {
        End::Failed(format!("{what} beside {}: {error}", self.path.display()))
    }

    /// The copy of one snapshot, and how many rooms and entries it has.
    fn copy(&self) -> Result<(File, u64, u64), End> {
        let told = |error| self.sqlite(&error);
        let source = open::open_reader(&self.path).map_err(|error| End::Failed(error.to_string()))?;
        let (file, mut target) = self.target()?;
        source.execute_batch("BEGIN").map_err(told)?;
        // The snapshot begins with the first look. As long as it is open the copy is of it alone, whatever
        // is written meanwhile.
        let counts = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let (rooms, entries) =
            source.query_row("SELECT count(*), coalesce(sum(count), 0) FROM room", [], counts).map_err(told)?;
        let page = source.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0)).map_err(told)?;
        let pages = source.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).map_err(told)?;
        let bytes = |pages: i64| u64::try_from(pages.saturating_mul(page)).unwrap_or(0);
        self.look(bytes(pages))?;
        let copying = Copying::new(&source, &mut target).map_err(told)?;
        let mut last_told = None;
        loop {
            let begun = Instant::now();
            if last_told.is_none_or(|last| begun >= last + TELL) {
                last_told = Some(begun);
                let progress = copying.progress();
                let (all, left) = (i64::from(progress.pagecount), i64::from(progress.remaining));
                let of = if all > 0 { all } else { pages };
                // Who is slow to hear of it does not hold it up.
                let _ = self.parts.try_send(Ok(Part::Copied { bytes: bytes(all - left), of: bytes(of) }));
            }
            match copying.step(PAGES).map_err(told)? {
                StepResult::Done => break,
                // Another program holds it for a moment.
                StepResult::Busy | StepResult::Locked => std::thread::sleep(PAUSE.1),
                _ => {}
            }
            if self.parts.is_closed() || self.stopping.load(Ordering::Acquire) {
                return Err(End::Unwanted);
            }
            self.look(bytes(copying.progress().remaining.into()))?;
            std::thread::sleep(begun.elapsed().clamp(PAUSE.0, PAUSE.1));
        }
        drop(copying);
        target.close().map_err(|(_, error)| self.sqlite(&error))?;
        let marked = file
            .write_all_at(&BACKUP.to_be_bytes(), APPLICATION_AT)
            // So that it can be looked at where nothing can be written beside it.
            .and_then(|()| file.write_all_at(&[1, 1], JOURNAL_KIND_AT));
        marked.map_err(|error| self.io("the copy cannot be written", &error))?;
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok((file, count(rooms), count(entries)))
    }

    /// The file to copy into, and a connection to it. It has no name any more, so that whatever ends, it
    /// goes.
    fn target(&self) -> Result<(File, Connection), End> {
        let path = temporary(&self.path);
        let make = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).to_owned();
        let file = make.open(&path).map_err(|error| self.io("no file can be made", &error))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connected = Connection::open_with_flags(&path, flags).and_then(|db| {
            // It is all or nothing without them: who does not get the whole gets none of it.
            let _: String = db.pragma_update_and_check(None, "journal_mode", "off", |row| row.get(0))?;
            db.pragma_update(None, "synchronous", "off")?;
            Ok(db)
        });
        let removed = fs::remove_file(&path);
        let connection = connected.map_err(|error| self.sqlite(&error))?;
        removed.map_err(|error| self.io("the copy's name cannot be removed", &error))?;
        Ok((file, connection))
    }

    /// Whether there is room for so many bytes more, and the journal bears it.
    fn look(&self, left: u64) -> Result<(), End> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if let Ok(disk) = statvfs(folder) {
            let free = disk.blocks_available().saturating_mul(disk.fragment_size());
            if free < left.saturating_add(SPARE) {
                let need = left.saturating_add(SPARE) >> 20;
                let (folder, free) = (folder.display(), free >> 20);
                let why = format!("the copy needs {need} MiB free in {folder} for a while, and there are {free}");
                return Err(End::Failed(why));
            }
        }
        let journal = fs::metadata(open::beside(&self.path, "-wal")).map_or(0, |file| file.len());
        if journal > JOURNAL {
            let why = format!("more than {} MiB were written while it was made", JOURNAL >> 20);
            return Err(End::Failed(why));
        }
        Ok(())
    }

    fn give_out(&self, file: &File, rooms: u64, entries: u64) -> Result<Summary, End> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut bytes = 0;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read_at(&mut chunk, bytes).map_err(|error| self.io("the copy cannot be read", &error))?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            hash.update(&chunk[..read]);
            let text = BASE64_STANDARD.encode(&chunk[..read]);
            self.parts.blocking_send(Ok(Part::Chunk(text))).map_err(|_| End::Unwanted)?;
        }
        let sha256 = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Summary { bytes, sha256, rooms, entries })
    }
}

/// The copy's name, as long as it has one.
pub(super) fn temporary(path: &Path) -> PathBuf {
    open::beside(path, ".copy")
}
