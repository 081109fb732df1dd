//! Copies of the database: how they are made while it is written to, and that the rooms of one that is
//! put in its place begin new epochs, because the old ones have been given to other entries.

use std::os::unix::fs::PermissionsExt;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::log::sqlite::schema::{APPLICATION, BACKUP, MIGRATIONS};
use crate::log::{BackupError, Part, Summary};

fn file(folder: &Path) -> PathBuf {
    folder.join("wschat.db")
}

fn lock(folder: &Path) -> PathBuf {
    folder.join("wschat.db.lock")
}

/// The epoch of room a and how far it is; the log is closed in order.
fn look(folder: &Path) -> (String, u64) {
    let mut log = open_log(folder);
    let (epoch, head, _) = open(&mut log, &room("a"));
    (epoch, head)
}

/// One history with so many messages in room a.
fn history(folder: &Path, messages: usize) -> String {
    let mut log = open_log(folder);
    let (epoch, ..) = open(&mut log, &room("a"));
    for n in 1..=messages {
        say(&mut log, &room("a"), &format!("m{n}"));
    }
    epoch
}

/// All that comes of a backup.
fn all_of(mut backup: Backup) -> (Vec<u8>, Result<Summary, BackupError>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut bytes = Vec::new();
    loop {
        match runtime.block_on(backup.next()).expect("there is an end") {
            Ok(Part::Copied { bytes, of }) => assert!(bytes <= of),
            Ok(Part::Chunk(text)) => bytes.extend(BASE64_STANDARD.decode(text).unwrap()),
            Ok(Part::Done(summary)) => return (bytes, Ok(summary)),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// A backup, once no other is under way.
fn begin(backups: &Backups) -> Backup {
    let begun = std::time::Instant::now();
    loop {
        match backups.begin() {
            Err(BackupError::Busy) => assert!(begun.elapsed() < PATIENCE),
            other => return other.unwrap(),
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_restart_and_a_crash_keep_the_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let epoch = history(folder.path(), 3);
    assert_eq!(look(folder.path()), (epoch.clone(), 3));
    let mut log = open_log(folder.path());
    open(&mut log, &room("a"));
    say(&mut log, &room("a"), "m4");
    let crashed = tempfile::tempdir().unwrap();
    for name in ["wschat.db", "wschat.db-wal", "wschat.db.lock"] {
        fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
    }
    assert_eq!(look(crashed.path()), (epoch, 4));
}

#[test]
fn an_older_copy_in_the_place_of_the_database_begins_new_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let (epoch, ..) = open(&mut log, &room("a"));
    let (empty, ..) = open(&mut log, &room("empty"));
    say(&mut log, &room("a"), "m1");
    // As `sqlite3 .backup` makes one: nothing in it says that it is a copy.
    let copy = folder.path().join("copy");
    let to = copy.clone();
    log.with(move |db| db.execute_batch(&format!("VACUUM INTO '{}'", to.display())).unwrap());
    say(&mut log, &room("a"), "m2");
    drop(log);
    fs::copy(&copy, file(folder.path())).unwrap();
    let mut log = open_log(folder.path());
    let (restored, head, _) = open(&mut log, &room("a"));
    assert_eq!((head, restored == epoch), (1, false), "m2 had the number that comes next");
    assert_ne!(open(&mut log, &room("empty")).0, empty);
    say(&mut log, &room("a"), "another m2");
    drop(log);
    assert_eq!(look(folder.path()), (restored.clone(), 2), "from then on it is the database");
    // A copy with nothing beside it is one as well.
    fs::remove_file(lock(folder.path())).unwrap();
    assert_ne!(look(folder.path()).0, restored);
}

#[test]
fn what_is_put_in_the_place_of_a_damaged_one_begins_new_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let epoch = history(folder.path(), 2);
    // The same run: beside a daemon that was killed, the lock file would fit to it.
    let good = fs::read(file(folder.path())).unwrap();
    fs::write(file(folder.path()), "garbage").unwrap();
    assert!(SqliteLog::open(options(folder.path())).is_err());
    fs::write(file(folder.path()), good).unwrap();
    assert_ne!(look(folder.path()).0, epoch);
}

#[test]
fn a_database_from_before_there_were_runs_keeps_its_epochs_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path());
    let mut db = Connection::open(&path).unwrap();
    schema::migrate(&mut db, 0, &MIGRATIONS[..1]).unwrap();
    // With an entry, so that the room is not forgotten meanwhile.
    db.execute_batch(
        "INSERT INTO room VALUES (1, 'a', 'the first', 7, 1, 50, 1700000000000);
         INSERT INTO entry VALUES (1, 7, 1700000000000, 0, 50, 'id', 'ann', 'ann', NULL, 0, NULL, NULL, 'hello')",
    )
    .unwrap();
    drop(db);
    fs::write(lock(folder.path()), "").unwrap();
    let old = fs::read(&path).unwrap();
    let mut log = open_log(folder.path());
    assert_eq!(open(&mut log, &room("a")), ("the first".to_owned(), 7, 7));
    drop(log);
    // A backup of that time, put back.
    fs::write(&path, old).unwrap();
    let (epoch, head) = look(folder.path());
    assert_eq!((head, &epoch == "the first"), (7, false));
}

#[test]
fn a_backup_is_of_one_moment_whole_and_known_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let (epoch, ..) = open(&mut log, &room("a"));
    let text = "x".repeat(4000);
    for _ in 0..500 {
        say(&mut log, &room("a"), &text);
    }
    let backup = begin(&log.backups());
    assert_eq!(log.backups().begin().err(), Some(BackupError::Busy));
    // Written meanwhile, until it is done.
    let taking = std::thread::spawn(move || all_of(backup));
    let mut said = 500;
    while !taking.is_finished() || said == 500 {
        said += 1;
        assert!(is_committed(&say(&mut log, &room("a"), &text), said));
    }
    let (bytes, summary) = taking.join().unwrap();
    let summary = summary.unwrap();
    assert_eq!((summary.bytes, summary.rooms), (bytes.len() as u64, 1));
    assert!((500..=said).contains(&summary.entries), "{summary:?}");
    let hash = digest::digest(&digest::SHA256, &bytes);
    assert_eq!(summary.sha256, hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    drop(log);

    // With the lock file of the same run beside it: it says itself that it is a backup.
    let restored = tempfile::tempdir().unwrap();
    fs::write(file(restored.path()), &bytes).unwrap();
    let db = Connection::open_with_flags(file(restored.path()), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let look = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).unwrap();
    assert_eq!(look("application_id"), BACKUP);
    let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let run: String = db.query_row("SELECT run FROM store", [], |row| row.get(0)).unwrap();
    drop(db);
    fs::write(lock(restored.path()), run.repeat(2)).unwrap();
    let mut log = open_log(restored.path());
    let (new, head, _) = open(&mut log, &room("a"));
    assert_eq!((head, new == epoch), (summary.entries, false));
    assert_eq!(texts(&mut log, &room("a")).len() as u64, head);
    log.with(|db| {
        let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0)).unwrap();
        assert_eq!(application, APPLICATION);
    });
}

#[test]
fn a_backup_that_nobody_wants_any_more_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    open(&mut log, &room("a"));
    say(&mut log, &room("a"), &"x".repeat(4000));
    let backups = log.backups();
    drop(begin(&backups));
    let (_, done) = all_of(begin(&backups));
    assert_eq!(done.unwrap().entries, 1, "another one may begin");
    let names = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["wschat.db", "wschat.db-shm", "wschat.db-wal", "wschat.db.lock"]);
    // Nor does one that is under way keep the log from ending in order.
    let under_way = begin(&backups);
    drop(log);
    drop(under_way);
    let gone = || names() == ["wschat.db", "wschat.db.lock"];
    let begun = std::time::Instant::now();
    while !gone() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", names());
        std::thread::yield_now();
    }
    // What a daemon that was killed leaves of one goes at the next start.
    fs::write(folder.path().join("wschat.db.copy"), "half of it").unwrap();
    drop(open_log(folder.path()));
    assert!(gone(), "{:?}", names());
}

/// Ends a backup that has begun, and waits until another could begin.
fn end(backups: &Backups, backup: Backup) {
    drop(backup);
    drop(begin(backups));
}

#[test]
fn nobody_else_may_read_a_copy_while_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    open(&mut log, &room("a"));
    // More than the pieces that wait, so that it stays open until it is taken.
    for _ in 0..200 {
        say(&mut log, &room("a"), &"x".repeat(4000));
    }
    let backups = log.backups();
    let mut backup = begin(&backups);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(backup.next()).unwrap().unwrap();
    let name = format!("{} (deleted)", folder.path().join("wschat.db.copy").display());
    let held = || {
        let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| Some(fd.ok()?.path()));
        let ours = open.filter(|fd| fs::read_link(fd).is_ok_and(|to| to.as_os_str() == name.as_str()));
        ours.filter_map(|fd| Some(fs::metadata(fd).ok()?.permissions().mode() & 0o777)).next()
    };
    let begun = std::time::Instant::now();
    let mode = loop {
        if let Some(mode) = held() {
            break mode;
        }
        assert!(begun.elapsed() < PATIENCE, "it is open while it is given out");
        std::thread::yield_now();
    };
    assert_eq!(mode, 0o600);
    end(&backups, backup);
}

#[test]
fn a_copy_is_given_up_when_too_much_is_written_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    open(&mut log, &room("a"));
    say(&mut log, &room("a"), "m1");
    // A hole behind the journal's end, where SQLite does not look.
    let journal = fs::File::options().write(true).open(folder.path().join("wschat.db-wal")).unwrap();
    let length = journal.metadata().unwrap().len();
    journal.set_len((1 << 30) + 1).unwrap();
    let (bytes, ended) = all_of(begin(&log.backups()));
    let Err(BackupError::Failed(why)) = ended else { panic!("{ended:?}") };
    assert!(why.contains("more than 1024 MiB were written while it was made"), "{why}");
    assert!(bytes.is_empty());
    journal.set_len(length).unwrap();
    assert!(is_committed(&say(&mut log, &room("a"), "m2"), 2));
    assert_eq!(all_of(begin(&log.backups())).1.unwrap().entries, 2);
}

#[test]
fn a_copy_can_be_looked_at_where_nothing_can_be_written_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    history(folder.path(), 1);
    let log = open_log(folder.path());
    let (bytes, _) = all_of(begin(&log.backups()));
    // SQLite's "Database File Format", 1.3: 1 and 1 are a rollback journal's, 2 and 2 the newer kind's.
    assert_eq!(bytes[18..20], [1, 1]);
}
