//! The database as a file that others may read.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::support::Setup;

pub fn path(setup: &Setup) -> PathBuf {
    setup.state_folder().join("wschat.db")
}

/// A copy of the database and of what belongs to it, so that looking changes nothing.
pub fn copy(from: &Path, folder: &Path) -> PathBuf {
    let to = folder.join("wschat.db");
    fs::copy(from, &to).expect("there is a database");
    for suffix in ["-wal", "-journal"] {
        let beside = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        match fs::copy(beside(from), beside(&to)) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => panic!("{e}"),
        }
    }
    to
}

/// SQLite finds nothing wrong with what a dead daemon has left.
pub fn is_sound(setup: &Setup) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&copy(&path(setup), folder.path()));
}

#[track_caller]
pub fn check(path: &Path) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).expect("a database");
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a database");
    assert_eq!(verdict, "ok", "{}", path.display());
}
