//! The room log: where a room's stored events live, and who gives them their numbers.
//!
//! An event is appended, the log answers "committed as seq n", and only then is it delivered and
//! acknowledged. The chat core speaks to every log by the same requests and replies
//! ([`LogRequest`], [`LogReply`]); what differs is how firmly a log keeps what it was given.

mod memory;

use std::task::{Context, Poll};
use std::time::SystemTime;

pub use memory::MemoryLog;

use crate::chat::event::{LogReply, LogRequest};
use crate::chat::id::RoomName;

/// How much a log keeps of each room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Entries a room.
    pub keep: u64,
    /// Age of an entry.
    pub keep_for: std::time::Duration,
}

/// A room log. Requests of one room are answered in their order; every request is answered once,
/// but for `Close`, which has no answer.
pub trait Log: Send {
    fn submit(&mut self, request: LogRequest, now: SystemTime);

    /// The next answer. Where there is none yet, the context is woken once there is.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<LogReply>;

    /// From now on this much is kept.
    fn retain(&mut self, retention: Retention);

    /// Stored entries of a room that are kept now.
    fn kept(&self, room: &RoomName) -> u64;
}
