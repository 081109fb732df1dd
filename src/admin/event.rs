//! What happens in the daemon, as those who watch it are told.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::chat::event::Dialect;
use crate::chat::id::{ConnId, Nick, RoomName, UserId};

/// What happens, for those who watch; `client` etc. are absent where they have no meaning.
#[derive(Clone, Debug)]
pub struct Event {
    pub time: SystemTime,
    pub kind: EventKind,
    pub client: Option<ConnId>,
    pub user: Option<UserId>,
    pub nick: Option<Nick>,
    pub address: Option<IpAddr>,
    pub room: Option<RoomName>,
    pub dialect: Option<Dialect>,
    /// The rest in words: a close code and reason, a notice's text, what a reload changed.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Connect,
    Disconnect,
    Join,
    Leave,
    Message,
    Nick,
    Kick,
    Notice,
    Reload,
    /// Closed because it read too slowly.
    Slow,
    /// A message was deleted, or a room purged.
    Delete,
    /// A room was closed: everybody was put out of it.
    Close,
    Ban,
    Unban,
    Mute,
    Unmute,
    /// An operator empties the daemon of its connections.
    Drain,
    /// A drain was taken back.
    Resume,
}

impl EventKind {
    pub const ALL: [EventKind; 18] = [
        EventKind::Connect,
        EventKind::Disconnect,
        EventKind::Join,
        EventKind::Leave,
        EventKind::Message,
        EventKind::Nick,
        EventKind::Kick,
        EventKind::Notice,
        EventKind::Reload,
        EventKind::Slow,
        EventKind::Delete,
        EventKind::Close,
        EventKind::Ban,
        EventKind::Unban,
        EventKind::Mute,
        EventKind::Unmute,
        EventKind::Drain,
        EventKind::Resume,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Connect => "connect",
            EventKind::Disconnect => "disconnect",
            EventKind::Join => "join",
            EventKind::Leave => "leave",
            EventKind::Message => "message",
            EventKind::Nick => "nick",
            EventKind::Kick => "kick",
            EventKind::Notice => "notice",
            EventKind::Reload => "reload",
            EventKind::Slow => "slow",
            EventKind::Delete => "delete",
            EventKind::Close => "close",
            EventKind::Ban => "ban",
            EventKind::Unban => "unban",
            EventKind::Mute => "mute",
            EventKind::Unmute => "unmute",
            EventKind::Drain => "drain",
            EventKind::Resume => "resume",
        }
    }
}
