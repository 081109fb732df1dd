//! The database log on real files: what it answers, what it keeps, what it survives.

mod bounds;
mod conformity;
mod copies;
mod failures;
mod opening;
mod storing;

use std::fs;
use std::path::Path;
use std::sync::mpsc;

use rusqlite::Connection;

use super::*;
use crate::chat::event::{Entry, HistoryRange, LogFailure, Record, Ticket};
use crate::log::conformance::{DAY, append, message, now, open, read, reply, room};

/// The longest wait for anything: who waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

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

    /// Holds the writer until what is given back is dropped: until then everything waits.
    fn hold(&self) -> mpsc::Sender<()> {
        let (release, held) = mpsc::channel::<()>();
        let (done, _) = mpsc::channel();
        self.order(Order::Test(
            Box::new(move |_| assert!(held.recv().is_err(), "nothing is sent, it is dropped")),
            done,
        ));
        release
    }

    /// Waits until the log's health is as it should be.
    fn wait_for(&self, wanted: impl Fn(&Health) -> bool) -> Health {
        let mut health = Log::health(self);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let reached = runtime.block_on(async { tokio::time::timeout(PATIENCE, health.wait_for(wanted)).await.is_ok() });
        let health = health.borrow().clone();
        assert!(reached, "it stays as it is: {health:?}");
        health
    }
}

/// What was said in a room, oldest first.
fn texts(log: &mut SqliteLog, name: &RoomName) -> Vec<String> {
    let (mut texts, mut at) = (Vec::new(), 0);
    loop {
        let (entries, more, ..) = read(log, name, HistoryRange::After(at), 100).unwrap();
        at = entries.last().map_or(at, |entry| entry.seq);
        texts.extend(entries.iter().map(text));
        if !more {
            return texts;
        }
    }
}

fn text(entry: &Entry) -> String {
    match &entry.record.body {
        crate::chat::event::Body::Message { text, .. } => text.clone().unwrap_or_default(),
        other => format!("{other:?}"),
    }
}

fn say(log: &mut SqliteLog, name: &RoomName, text: &str) -> LogReply {
    append(log, name, message("ann", text, now()))
}

/// Submits without waiting for the answer.
fn submit(log: &mut SqliteLog, name: &RoomName, ticket: u64, record: Record) {
    log.submit(LogRequest::Append { room: name.clone(), ticket: Ticket(ticket), record: record.into() }, now());
}

fn delete(log: &mut SqliteLog, name: &RoomName, target: u64) -> LogReply {
    let record = Record { id: "d".into(), time: now(), body: crate::chat::event::Body::Deleted { target } };
    let (room, ticket, record) = (name.clone(), Ticket(7), Arc::new(record));
    log.submit(LogRequest::Delete { room, ticket, target, only_of: None, record }, now());
    reply(log)
}

fn purge(log: &mut SqliteLog, name: &RoomName) -> LogReply {
    let record = Arc::new(Record { id: "p".into(), time: now(), body: crate::chat::event::Body::Purged });
    log.submit(LogRequest::Purge { room: name.clone(), ticket: Ticket(7), record }, now());
    reply(log)
}

fn close(log: &mut SqliteLog, name: &RoomName) {
    log.submit(LogRequest::Close { room: name.clone() }, now());
}

fn is_committed(reply: &LogReply, wanted: u64) -> bool {
    matches!(reply, LogReply::Committed { seq, .. } if *seq == wanted)
}

fn why(reply: LogReply) -> String {
    match reply {
        LogReply::Failed { failure: LogFailure::Unavailable(why), .. } => why,
        other => panic!("{other:?}"),
    }
}

/// Whether any file of the database has these bytes.
fn on_disk(folder: &Path, needle: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|file| {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}
