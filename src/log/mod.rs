//! The room log: where a room's stored events live, and who gives them their numbers.
//!
//! An event is appended, the log answers "committed as seq n", and only then is it delivered and
//! acknowledged. The chat core speaks to every log by the same requests and replies
//! ([`LogRequest`], [`LogReply`]); what differs is how firmly a log keeps what it was given.

mod memory;

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

pub use memory::MemoryLog;

use tokio::sync::watch;

use crate::chat::event::{LogReply, LogRequest};

/// How much a log keeps of each room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Entries a room.
    pub keep: u64,
    /// Age of an entry.
    pub keep_for: Duration,
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
    /// Bytes of the store on disk; 0 in memory.
    pub bytes: u64,
}

/// A room log. How requests are answered is said at [`LogRequest`]; every request is answered once,
/// but for `Close`, which has no answer.
pub trait Log: Send {
    fn submit(&mut self, request: LogRequest, now: SystemTime);

    /// The next answer. Where there is none yet, the context is woken once there is.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<LogReply>;

    /// From now on this much is kept.
    fn retain(&mut self, retention: Retention);

    /// Whether it can store; changes are seen as they happen.
    fn health(&self) -> watch::Receiver<Health>;

    fn counts(&self) -> LogCounts;
}
