//! The room log: where a room's stored events live, and who gives them their numbers.
//!
//! An event is appended, the log answers "committed as seq n", and only then is it delivered and
//! acknowledged. The chat core speaks to every log by the same requests and replies
//! ([`LogRequest`], [`LogReply`]); what differs is how firmly a log keeps what it was given.

#[cfg(test)]
mod conformance;
mod memory;
mod sqlite;

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

pub use memory::MemoryLog;
pub use sqlite::{Backup, BackupError, Backups, OpenError, Options, Part, SqliteLog, Summary};

use tokio::sync::watch;

use crate::chat::event::{Body, LogReply, LogRequest, Record};
use crate::stats::cell::Reading;

/// How much a log keeps of each room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Entries a room.
    pub keep: u64,
    /// Age of an entry.
    pub keep_for: Duration,
    /// Bytes of a database, for all rooms; 0 for any number. A log in memory has a bound of its own.
    pub max_bytes: u64,
}

/// Whether a log can store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// What is given to it is refused until it can store again, which it tries by itself; reading
    /// goes on. `why`, for people; `since` when.
    Failing {
        why: String,
        since: SystemTime,
    },
}

/// What a log has done since the start, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Commits, each of one or more entries.
    pub commits: u64,
    /// Entries committed.
    pub entries: u64,
    /// Requests refused because the log could not store.
    pub refused: u64,
    /// Entries waiting to be committed now.
    pub waiting: u64,
    /// About what those take in memory, in bytes.
    pub waiting_bytes: u64,
    /// Bytes of the store on disk; 0 in memory.
    pub bytes: u64,
    /// How long commits took, failed ones too; empty in memory.
    pub commit_time: Reading,
}

/// A room log. How requests are answered is said at [`LogRequest`]; every request is answered once,
/// but for `Close`, which has no answer.
pub trait Log: Send {
    fn submit(&mut self, request: LogRequest, now: SystemTime);

    /// The next answer. Where there is none yet, the context is woken once there is.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<LogReply>;

    /// From now on this much is kept.
    fn retain(&mut self, retention: Retention);

    /// From now on two commits are at least this far apart. A log that commits nothing has no pace.
    fn pace(&mut self, commit_every: Duration);

    /// Whether it can store; changes are seen as they happen.
    fn health(&self) -> watch::Receiver<Health>;

    fn counts(&self) -> LogCounts;
}

/// About what a record takes on the wire, in bytes.
fn wire_size(record: &Record) -> usize {
    200 + match &record.body {
        Body::Message { text, .. } => text.as_ref().map_or(0, String::len),
        Body::Event { name, data } => name.len() + data.as_ref().map_or(0, |data| data.get().len()),
        Body::Deleted { .. } | Body::Purged => 0,
    }
}

/// About what a record takes in memory, in bytes.
fn kept_size(record: &Record) -> usize {
    // The record, its place in the queue, its id, and what the allocator adds.
    300 + match &record.body {
        Body::Message { from, text, cid, .. } => {
            let names = from.user.as_str().len() + from.nick.as_str().len();
            let text = text.as_ref().map_or(0, String::capacity);
            names + text + cid.as_ref().map_or(0, String::capacity)
        }
        Body::Event { name, data } => name.capacity() + data.as_ref().map_or(0, |data| data.get().len()),
        Body::Deleted { .. } | Body::Purged => 0,
    }
}

/// The most that each of `sizes` may be so that together they are no more than `goal`: the largest
/// comes down to the second, then both to the third, and so on.
fn level(sizes: &mut [usize], goal: usize) -> usize {
    sizes.sort_unstable();
    let mut left = goal;
    for (i, size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - i);
        if *size > share {
            return share;
        }
        left -= size;
    }
    usize::MAX
}
