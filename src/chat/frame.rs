//! What clients and the daemon say to each other, as types. Their bytes are `wire`'s.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::event::{Entry, Level, Limits};
use super::id::{ConnId, Nick, RoomGlob, RoomName, Seq, UserId};

/// What a client of the JSON dialect says. `ping`, `pong` and `bye` end in the session and never
/// come this far.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    Hello(Hello),
    Join {
        room: RoomName,
        history: u32,
    },
    Leave {
        room: RoomName,
    },
    /// To a room, to a user, or (neither) to the client's first default room.
    Message {
        to: MessageTo,
        text: String,
        cid: Option<String>,
    },
    History {
        room: RoomName,
        range: HistoryRange,
        limit: u32,
    },
    Typing {
        room: RoomName,
        on: bool,
    },
    Nick {
        nick: String,
    },
    Who {
        room: RoomName,
    },
    /// A moderator, or its author, takes a message away.
    Delete {
        room: RoomName,
        target: Seq,
    },
    /// A moderator mutes a user in a room, for a time or until unmuted.
    Mute {
        room: RoomName,
        user: UserId,
        lasts: Option<Duration>,
        reason: String,
    },
    /// A moderator ends the mutes of a user in a room.
    Unmute {
        room: RoomName,
        user: UserId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageTo {
    DefaultRoom,
    Room(RoomName),
    User(UserId),
}

/// Which part of a room's stream; both ends exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryRange {
    /// The newest ones.
    Latest,
    Before(Seq),
    After(Seq),
}

/// A hello whose credentials the session has already checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hello {
    pub identity: Identity,
    pub nick: Option<String>,
    /// `None`: the default rooms.
    pub rooms: Option<Vec<RoomName>>,
    pub resume: Vec<(RoomName, Cursor)>,
    /// `rooms` are joined with this many of their last messages.
    pub history: u32,
}

/// Who says hello.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Identity {
    /// A guest never seen before: the hub makes an id.
    #[default]
    NewGuest,
    /// A guest whose signed string was good: the id in it.
    Guest(String),
    /// A user named by a token.
    User(Box<Claims>),
}

/// What a good token says of its user.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub user: UserId,
    /// The name that the site gives; its user cannot change it.
    pub nick: Option<Nick>,
    /// The rooms it may join; all where absent.
    pub rooms: Option<Arc<[RoomGlob]>>,
    /// May delete messages and mute users in the rooms it is in.
    pub moderator: bool,
    /// When the token ends, and the connection with it (4202).
    pub expires: SystemTime,
}

/// Where a client stopped reading a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: String,
    pub seq: Seq,
}

/// What the daemon says to a JSON client. `wire::json` gives each its bytes, and `wire::text` says
/// which of them a text client sees.
#[derive(Clone, Debug)]
pub enum ServerFrame {
    Welcome(Box<Welcome>),
    Joined(Box<Joined>),
    /// `reason`: where an operator has closed the room; `re` is 0 then.
    Left {
        re: u64,
        room: RoomName,
        reason: Option<String>,
    },
    /// A stored entry of a room: `message`, `event` or `deleted`, by what the record holds.
    Entry {
        room: RoomName,
        entry: Entry,
    },
    /// A message from user to user; not stored.
    Direct(Box<Direct>),
    Presence {
        room: RoomName,
        change: Option<PresenceChange>,
        online: usize,
    },
    Typing {
        room: RoomName,
        user: UserId,
        nick: Nick,
        on: bool,
    },
    Notice {
        text: String,
        level: Level,
        room: Option<RoomName>,
    },
    History(Box<HistoryPage>),
    Who {
        re: u64,
        room: RoomName,
        /// No more than `presence_limit` of them.
        members: Vec<Member>,
        /// How many there are.
        online: usize,
    },
    Ack {
        re: u64,
        kept: Option<Kept>,
        delivered: Option<usize>,
    },
    /// To a user's own connections: it may not speak in `room` (absent: anywhere), or may again.
    Muted {
        room: Option<RoomName>,
        on: bool,
        until: Option<SystemTime>,
        reason: String,
    },
    Error(ErrorFrame),
}

#[derive(Clone, Debug)]
pub struct Welcome {
    pub re: u64,
    pub client: ConnId,
    pub user: UserId,
    pub nick: Nick,
    /// A guest's bare id, for the session to sign and send along as `guest`.
    pub guest: Option<String>,
    /// The client asked to resume, and every room it named was recovered.
    pub resumed: bool,
    /// It may delete messages and mute users in the rooms it is in.
    pub moderator: bool,
    pub limits: Limits,
    pub ping: Duration,
}

#[derive(Clone, Debug)]
pub struct Joined {
    pub re: u64,
    pub room: RoomName,
    pub epoch: Arc<str>,
    /// The room's head.
    pub seq: Seq,
    pub recovered: bool,
    pub online: usize,
    /// Absent above `presence_limit`.
    pub members: Option<Vec<Member>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub user: UserId,
    pub nick: Nick,
}

#[derive(Clone, Debug)]
pub struct Direct {
    pub to: UserId,
    pub id: String,
    pub from: Member,
    pub text: String,
    pub time: SystemTime,
    pub cid: Option<String>,
}

#[derive(Clone, Debug)]
pub struct PresenceChange {
    pub user: UserId,
    pub nick: Nick,
    pub state: PresenceState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceState {
    Join,
    Leave,
    Nick,
}

#[derive(Clone, Debug)]
pub struct HistoryPage {
    pub re: u64,
    pub room: RoomName,
    pub epoch: Arc<str>,
    /// Ascending.
    pub entries: Vec<Entry>,
    pub more: bool,
}

/// What an ack says of a stored message.
#[derive(Clone, Debug)]
pub struct Kept {
    pub id: String,
    pub seq: Seq,
    pub room: RoomName,
}

#[derive(Clone, Debug)]
pub struct ErrorFrame {
    pub re: u64,
    pub code: ErrorCode,
    pub message: String,
    pub retry: Option<Duration>,
}

impl ErrorFrame {
    /// May the same request succeed later, unchanged? A mute that ends passes, one without end does
    /// not.
    pub fn is_temporary(&self) -> bool {
        self.code.is_temporary() || self.retry.is_some()
    }
}

/// The error codes of PROTOCOL.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadRequest,
    UnknownType,
    Unauthorized,
    Forbidden,
    NotJoined,
    NoSuchRoom,
    NickTaken,
    NickInvalid,
    TooLong,
    RateLimited,
    Muted,
    NotOnline,
    Unrecoverable,
    Unavailable,
    Internal,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::UnknownType => "unknown_type",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotJoined => "not_joined",
            ErrorCode::NoSuchRoom => "no_such_room",
            ErrorCode::NickTaken => "nick_taken",
            ErrorCode::NickInvalid => "nick_invalid",
            ErrorCode::TooLong => "too_long",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Muted => "muted",
            ErrorCode::NotOnline => "not_online",
            ErrorCode::Unrecoverable => "unrecoverable",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Internal => "internal",
        }
    }

    /// Does it always pass by itself?
    pub fn is_temporary(self) -> bool {
        matches!(self, ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::NotOnline)
    }
}
