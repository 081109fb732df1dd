//! What is opened, what is refused, and that what is refused is left alone.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::log::sqlite::schema::{APPLICATION, MIGRATIONS};

fn refused(path: &Path) -> OpenError {
    let before = fs::read(path).unwrap();
    let error = SqliteLog::open(options(path.parent().unwrap())).err().expect("it is refused");
    assert!(fs::read(path).unwrap() == before, "the file is left as it was: {error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    error
}

#[test]
fn the_file_is_for_its_owner_alone_and_is_one_file_after_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    open(&mut log, &room("a"));
    say(&mut log, &room("a"), "hello");
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    drop(log);
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["wschat.db", "wschat.db.lock"]);
}

#[test]
fn a_second_one_is_refused_until_the_first_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let error = SqliteLog::open(options(folder.path())).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(log);
    open_log(folder.path());
}

#[test]
fn a_newer_version_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    drop(open_log(folder.path()));
    let path = folder.path().join("wschat.db");
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 7).unwrap();
    drop(db);
    let error = refused(&path).to_string();
    assert!(error.contains("version 7") && error.contains("knows 2"), "{error}");
}

#[test]
fn an_older_version_is_brought_up_to_date_in_order() {
    let mut db = Connection::open_in_memory().unwrap();
    let steps = ["CREATE TABLE a (x); INSERT INTO a VALUES (1)", "ALTER TABLE a ADD y", "UPDATE a SET y = x + 1"];
    let version = |db: &Connection| db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap();
    schema::migrate(&mut db, 0, &steps[..1]).unwrap();
    assert_eq!(version(&db), 1);
    schema::migrate(&mut db, 1, &steps).unwrap();
    assert_eq!(version(&db), 3);
    let row = db.query_row("SELECT x, y FROM a", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    assert_eq!(row.unwrap(), (1, 2));
    // A step that fails takes its own changes back, and leaves the version before it.
    let bad = [steps[0], steps[1], steps[2], "CREATE TABLE b (x); SELECT * FROM nowhere"];
    assert!(schema::migrate(&mut db, 3, &bad).is_err());
    assert_eq!(version(&db), 3);
    assert!(db.prepare("SELECT * FROM b").is_err());
}

#[test]
fn the_tables_are_those_that_were_released() {
    // Who changes it changes databases that are out there into ones that cannot be read.
    assert_eq!(MIGRATIONS.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    drop(open_log(folder.path()));
    let db = Connection::open(folder.path().join("wschat.db")).unwrap();
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0)).unwrap();
    assert_eq!((application, &application.to_be_bytes()), (APPLICATION, b"wsch"));
    let mut columns = db.prepare("SELECT m.name, t.name FROM sqlite_schema m, pragma_table_info(m.name) t").unwrap();
    let columns = columns.query_map([], |row| Ok(format!("{}.{}", row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let columns: Vec<String> = columns.unwrap().map(Result::unwrap).filter(|c| !c.starts_with("sqlite_")).collect();
    assert_eq!(
        columns.join(" "),
        "store.one store.name store.generation store.probe store.run room.number room.name room.epoch room.head room.count \
         room.bytes room.oldest entry.room entry.seq entry.time entry.kind entry.size entry.id entry.user entry.nick \
         entry.cid entry.dialect entry.name entry.target entry.body said.room said.seq said.time said.id said.user \
         said.cid"
    );
}

#[test]
fn another_programs_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wschat.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(refused(&path), OpenError::NotOurs { .. }));
    let db = Connection::open(&path).unwrap();
    db.execute_batch("DROP TABLE theirs; PRAGMA application_id = 5").unwrap();
    drop(db);
    assert!(matches!(refused(&path), OpenError::NotOurs { .. }));
}

#[test]
fn what_is_no_database_is_refused_as_damaged() {
    for bytes in [b"not a database, but long enough to have a header of one hundred bytes".repeat(100), vec![1; 5000]] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wschat.db");
        fs::write(&path, bytes).unwrap();
        assert!(matches!(refused(&path), OpenError::Damaged { .. }));
    }
}

#[test]
fn a_database_without_its_tables_is_refused_as_damaged() {
    for harm in ["DROP TABLE entry", "ALTER TABLE room DROP COLUMN bytes", "DELETE FROM store"] {
        let folder = tempfile::tempdir().unwrap();
        drop(open_log(folder.path()));
        let path = folder.path().join("wschat.db");
        Connection::open(&path).unwrap().execute_batch(harm).unwrap();
        let error = refused(&path);
        assert!(matches!(error, OpenError::Damaged { .. }), "{harm}: {error}");
    }
}

#[test]
fn a_start_that_was_cut_off_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wschat.db"), "").unwrap();
    let mut log = open_log(folder.path());
    open(&mut log, &room("a"));
    assert!(is_committed(&say(&mut log, &room("a"), "hello"), 1));
}

#[test]
fn a_folder_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = SqliteLog::open(options(&folder.path().join("gone"))).err().unwrap().to_string();
    assert!(error.contains("gone/wschat.db"), "{error}");
}

#[test]
fn a_journal_without_its_database_is_refused_and_left() {
    for empty in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wschat.db");
        let journal = folder.path().join("wschat.db-wal");
        fs::write(&journal, "messages").unwrap();
        if empty {
            fs::write(&path, "").unwrap();
        }
        let error = SqliteLog::open(options(folder.path())).err().expect("it is refused").to_string();
        assert!(error.contains("wschat.db is missing") && error.contains(journal.to_str().unwrap()), "{error}");
        assert_eq!((fs::read(&journal).unwrap().as_slice(), path.exists()), (&b"messages"[..], empty));
    }
}

#[test]
fn a_journal_that_cannot_be_opened_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    drop(open_log(folder.path()));
    // What nobody can open as a file, whoever asks.
    fs::create_dir(folder.path().join("wschat.db-wal")).unwrap();
    let error = SqliteLog::open(options(folder.path())).err().expect("it is refused").to_string();
    assert!(error.contains("wschat.db-wal") && error.contains("chown"), "{error}");
}
