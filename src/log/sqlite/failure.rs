//! Why SQLite could not do it, in words for the person who has to act.

use std::path::Path;

use rusqlite::ErrorCode;

/// The database cannot be trusted any more: nothing is written to it until somebody has looked.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(code(error), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

pub(super) fn in_words(error: &rusqlite::Error, path: &Path) -> String {
    let file = path.display();
    match code(error) {
        Some(ErrorCode::DiskFull) => format!("the disk with {file} is full"),
        Some(ErrorCode::SystemIoFailure) => format!("the disk with {file} fails: {error}"),
        Some(ErrorCode::ReadOnly) => format!("{file} cannot be written to: {error}"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program holds {file} and does not let go of it")
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => format!(
            "{file}, {file}-wal or {file}-shm cannot be opened ({error}): give all three and their folder to the \
             daemon's user (chown)"
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("{file} is damaged ({error}): stop, restore a backup or move it away, and start again")
        }
        _ => format!("{file}: {error}"),
    }
}

pub(super) fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => Some(failure.code),
        rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        _ => None,
    }
}
