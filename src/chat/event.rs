//! What goes into the chat and what comes out of it.
//!
//! `Hub::handle(Input, Now)` turns one [`Input`] into [`Effect`]s, which the caller performs in
//! their order. Nothing here does I/O, asks a clock or draws a random number of its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use super::id::{ConnId, Nick, RoomId, RoomName, Seq, UserId};

/// The moment at which an input is handled.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time since the daemon started; never goes back. All deadlines are counted in it.
    pub mono: Duration,
    /// The time of day, for the `time` of messages.
    pub wall: SystemTime,
}

/// How a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Json,
    Text,
}

impl Dialect {
    /// The name that operators see and filter by.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Json => "json",
            Dialect::Text => "text",
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A WebSocket is open. Text clients are at once greeted as guests and put into the first
    /// default room; JSON clients say [`ClientFrame::Hello`] first.
    Connected { conn: ConnId, dialect: Dialect, addr: IpAddr },
    /// A frame of the JSON dialect, parsed, inside the limits of its bytes and its rate.
    /// `seq` is the client's own number for it.
    Frame { conn: ConnId, seq: u64, frame: ClientFrame },
    /// A message of the text dialect.
    Text { conn: ConnId, text: String },
    /// The connection is gone. `clean`: by a close handshake (whoever began it), so that nobody
    /// waits for the user to return.
    Disconnected { conn: ConnId, clean: bool },
    /// The last [`Effect::SendPage`] of this connection has been written to its socket.
    Drained { conn: ConnId },
    /// The room log answers.
    Log(LogReply),
    /// `Hub::next_deadline` has passed.
    Timer,
    /// An operator's notice.
    Notice { target: Target, text: String, level: Level },
    /// The settings have changed.
    Settings(Box<Settings>),
}

/// Whom an operator or a backend speaks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Everyone,
    Room(RoomName),
    User(UserId),
    Conn(ConnId),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Everyone => f.write_str("everyone"),
            Target::Room(room) => write!(f, "room {room}"),
            Target::User(user) => write!(f, "user {user}"),
            Target::Conn(id) => write!(f, "client {id}"),
        }
    }
}

/// How loud a notice is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    #[default]
    Info,
    Warn,
}

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
    User { user: UserId, nick: Option<Nick> },
}

/// Where a client stopped reading a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: String,
    pub seq: Seq,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// One frame to one connection.
    Send { conn: ConnId, frame: ServerFrame },
    /// A page of stored frames to one connection (backlog after a resume, an answer to `history`).
    /// It does not count against the outbox limit; when it is written, [`Input::Drained`] says so.
    /// A connection has at most one of these under way.
    SendPage { conn: ConnId, frames: Vec<ServerFrame> },
    /// One frame to all members of a room. `instead`: this one member gets the other frame in its
    /// place, or nothing (the sender of a message gets its ack; a text client nothing).
    Publish { room: RoomId, frame: ServerFrame, instead: Option<(ConnId, Option<ServerFrame>)> },
    /// One frame to every connection that has been welcomed.
    SendAll { frame: ServerFrame },
    /// The connection belongs to the room from the next `Publish` on.
    Enter { conn: ConnId, room: RoomId },
    /// The connection does not belong to the room from the next `Publish` on.
    Exit { conn: ConnId, room: RoomId },
    /// The room is gone; its number will not come again.
    Forget { room: RoomId },
    /// The connection is to be closed; [`Input::Disconnected`] follows.
    Close { conn: ConnId, close: Close },
    /// To the room log.
    Log(LogRequest),
    /// For operators who watch.
    Happened(Happening),
}

/// A close frame to be sent: one of the codes of `wire::close`, and at most 123 bytes of reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: String,
}

/// What the daemon says to a JSON client. `wire::json` gives each its bytes, and `wire::text` says
/// which of them a text client sees.
#[derive(Clone, Debug)]
pub enum ServerFrame {
    Welcome(Box<Welcome>),
    Joined(Box<Joined>),
    Left {
        re: u64,
        room: RoomName,
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

    /// May the same request succeed later, unchanged?
    pub fn is_temporary(self) -> bool {
        matches!(self, ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::NotOnline)
    }
}

/// What a stored entry says. Shared, never changed once it is made.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unique in the whole store.
    pub id: String,
    pub time: SystemTime,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Message {
        from: Member,
        text: String,
        cid: Option<String>,
        dialect: Dialect,
    },
    /// Pushed by a backend; `data` is any JSON value.
    Event {
        name: String,
        data: Arc<RawValue>,
    },
    /// A moderator removed the message `target`.
    Deleted {
        target: Seq,
    },
}

/// A record at its place in a room's stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: Seq,
    pub record: Arc<Record>,
}

/// Matches a [`LogReply`] to its [`LogRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// To the room log. Requests of one room are answered in their order.
#[derive(Debug)]
pub enum LogRequest {
    /// Names the stream and its ends; makes an empty stream where there is none.
    Open { room: RoomName },
    /// Answered once the record is kept as firmly as the log keeps anything.
    Append { room: RoomName, ticket: Ticket, record: Arc<Record> },
    /// At most `limit` entries and about `max_bytes` of them.
    Read { room: RoomName, ticket: Ticket, range: HistoryRange, limit: u32, max_bytes: usize },
    /// Nobody uses the room any more: what is held in memory for it beyond the stored stream may go.
    Close { room: RoomName },
}

#[derive(Debug)]
pub enum LogReply {
    /// `first` is the oldest seq that is kept (`head + 1` where none is).
    Opened {
        room: RoomName,
        epoch: Arc<str>,
        head: Seq,
        first: Seq,
    },
    /// `first` is the oldest seq that is kept now (`seq + 1` where none is).
    Committed {
        room: RoomName,
        ticket: Ticket,
        seq: Seq,
        first: Seq,
    },
    Page {
        room: RoomName,
        ticket: Ticket,
        entries: Vec<Entry>,
        more: bool,
        first: Seq,
        head: Seq,
    },
    /// The request had no effect; why, for the log and for `unavailable`.
    Failed {
        room: RoomName,
        ticket: Option<Ticket>,
        why: String,
    },
}

/// What an operator who watches is told. The hub's task adds time and address.
#[derive(Clone, Debug)]
pub enum Happening {
    Welcomed { conn: ConnId, user: UserId, nick: Nick },
    Joined { conn: ConnId, user: UserId, nick: Nick, room: RoomName },
    Left { conn: ConnId, user: UserId, nick: Nick, room: RoomName },
    Message { conn: ConnId, user: UserId, nick: Nick, room: RoomName, seq: Seq, bytes: usize },
    NickChanged { conn: ConnId, user: UserId, from: Nick, to: Nick },
}

/// What clients are told of their limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a message's text.
    pub text: usize,
    /// Bytes of a WebSocket message.
    pub frame: usize,
    /// Messages a second, sustained.
    pub rate: f64,
    pub burst: u32,
}

/// What the pure core needs of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub default_rooms: Vec<RoomName>,
    pub create_rooms: bool,
    /// Users in a room up to which each join and leave is told.
    pub presence_limit: usize,
    pub rooms_per_client: usize,
    /// How long a user who dropped uncleanly still counts as here.
    pub presence_grace: Duration,
    pub limits: Limits,
    /// Told in `welcome` as `ping_ms`.
    pub ping: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            default_rooms: vec![RoomName::parse("lobby").expect("a literal that fits the rule")],
            create_rooms: true,
            presence_limit: 200,
            rooms_per_client: 50,
            presence_grace: Duration::from_secs(15),
            limits: Limits { text: 4096, frame: 65536, rate: 10.0, burst: 20 },
            ping: Duration::from_secs(25),
        }
    }
}
