//! The database log on real files: what it answers, what it keeps, what it survives.

mod conformity;

use std::path::Path;
use std::sync::mpsc;

use rusqlite::Connection;

use super::*;
use crate::log::conformance::DAY;

fn options(folder: &Path) -> Options {
    let retention = Retention { keep: 1000, keep_for: 36_500 * DAY, max_bytes: 0 };
    Options { path: folder.join("wschat.db"), retention, commit_every: Duration::ZERO }
}

fn open_log(folder: &Path) -> SqliteLog {
    SqliteLog::open(options(folder)).unwrap()
}

impl SqliteLog {
    /// Has the writer do something with its connection, and returns once it has nothing to tidy.
    fn with(&self, act: impl FnOnce(&Connection) + Send + 'static) {
        let (done, wait) = mpsc::channel();
        self.order(Order::Test(Box::new(act), done));
        wait.recv().unwrap();
    }
}
