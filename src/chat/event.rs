//! What goes into the chat and what comes out of it.
//!
//! `Hub::handle(Input, Now)` turns one [`Input`] into [`Effect`]s, which the caller performs in
//! their order. Nothing here does I/O, asks a clock or draws a random number of its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

pub use super::frame::*;
use super::id::{ConnId, Nick, RoomId, RoomName, Seq, UserId};
use super::sanction::{BanTarget, Sanction, SanctionKind};

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
    /// A WebSocket is open. Text clients are at once greeted as whom `admission` names and put into
    /// the first default room; JSON clients say [`ClientFrame::Hello`] first. Whose credentials
    /// were refused before that, or who is banned, is closed.
    Connected { conn: ConnId, dialect: Dialect, addr: IpAddr, admission: Result<Identity, Close> },
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
    /// An operator moderates; [`Effect::Moderated`] answers with the same `id`. `by`: who it is.
    Moderate { id: u64, by: String, action: Action },
    /// The sanctions of [`Effect::SaveSanctions`] have been saved, or why not.
    SanctionsSaved { version: u64, result: Result<(), String> },
    /// The settings have changed.
    Settings(Box<Settings>),
}

/// What an operator does to rooms and users.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Takes the text of a stored message (or the data of an event) away; members see `deleted`.
    Delete {
        room: RoomName,
        target: Seq,
    },
    /// Takes everything stored away; members see one `deleted` for all of it. Numbers go on.
    Purge {
        room: RoomName,
    },
    /// Puts everybody out of the room; its history stays.
    CloseRoom {
        room: RoomName,
        reason: String,
    },
    Ban {
        target: BanTarget,
        until: Option<SystemTime>,
        reason: String,
    },
    /// `room` absent: everywhere, direct messages too.
    Mute {
        user: UserId,
        room: Option<RoomName>,
        until: Option<SystemTime>,
        reason: String,
    },
    /// Ends a ban or a mute early.
    Lift {
        kind: SanctionKind,
        id: u64,
    },
    /// Changes a ban or a mute that is in force; what is absent stays. Its number does too.
    Amend {
        kind: SanctionKind,
        id: u64,
        /// `Some(None)`: it lasts until it is ended.
        until: Option<Option<SystemTime>>,
        reason: Option<String>,
    },
}

/// What came of an [`Action`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of `Delete` and `Purge`: the seq of the `deleted` entry, and how many entries it took.
    Removed { seq: Seq, removed: u64 },
    /// Of `CloseRoom`: connections that were put out.
    Emptied { conns: u64 },
    /// Of `Ban` and `Mute`, once saved: the connections it concerns now. Closing those of a ban is
    /// left to who asked, so that it can be told when they are closed.
    Sanctioned { sanction: Arc<Sanction>, conns: Vec<ConnId> },
    /// Of `Lift`, once saved.
    Lifted { sanction: Arc<Sanction> },
    /// Of `Amend`, once saved: as it is now.
    Amended { sanction: Arc<Sanction> },
}

/// Why an [`Action`] was not, or not wholly, carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    #[error("there is no room {0}, neither open nor stored")]
    NoSuchRoom(RoomName),
    #[error("there is no message {target} in {room} that could be deleted: it may have been deleted already")]
    NoSuchMessage { room: RoomName, target: Seq },
    #[error("there is no {} {id}", .kind.as_str())]
    NoSuchSanction { kind: SanctionKind, id: u64 },
    #[error("there are {most} bans and mutes already; end some first")]
    TooMany { most: usize },
    #[error("it is done, but could not be saved, so a restart now would undo it: {0}")]
    NotSaved(String),
    #[error("the room's log cannot do it now: {0}")]
    Unavailable(String),
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
    /// The answer to [`Input::Moderate`].
    Moderated { id: u64, result: Result<Outcome, ActionError> },
    /// All sanctions in force are to be saved, in place of those saved before;
    /// [`Input::SanctionsSaved`] answers. Of several the newest is enough.
    SaveSanctions { version: u64, sanctions: Vec<Arc<Sanction>> },
}

/// A close frame to be sent: one of the codes of `wire::close`, and at most 123 bytes of reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: String,
}

/// The codes with which the chat itself closes.
impl Close {
    pub const BANNED: u16 = 4004;
    pub const TOKEN_EXPIRED: u16 = 4202;
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
        /// Absent where it has been deleted.
        text: Option<String>,
        cid: Option<String>,
        dialect: Dialect,
    },
    /// Pushed by a backend; `data` is any JSON value, absent where it has been deleted.
    Event { name: String, data: Option<Arc<RawValue>> },
    /// The text of the message (or the data of the event) `target` was taken away.
    Deleted { target: Seq },
    /// Everything before this entry was taken away.
    Purged,
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

/// To the room log. `Open`, `Append`, `Delete` and `Purge` of one room are answered in their order;
/// a `Read` sees at least what was answered before it was asked.
#[derive(Debug)]
pub enum LogRequest {
    /// Names the stream and its ends; an unknown room begins one. The room stays open until `Close`.
    Open { room: RoomName },
    /// Answered once the record is kept as firmly as the log keeps anything. The room is open.
    Append { room: RoomName, ticket: Ticket, record: Arc<Record> },
    /// Takes the text of the entry `target` away and appends `record`, a [`Body::Deleted`], in one
    /// step. `only_of`: only where the target is a message of this user. The room need not be open.
    Delete { room: RoomName, ticket: Ticket, target: Seq, only_of: Option<UserId>, record: Arc<Record> },
    /// Takes all entries away and appends `record`, a [`Body::Purged`], in one step. The room need
    /// not be open.
    Purge { room: RoomName, ticket: Ticket, record: Arc<Record> },
    /// At most `limit` entries and about `max_bytes` of them. The room need not be open.
    Read { room: RoomName, ticket: Ticket, range: HistoryRange, limit: u32, max_bytes: usize },
    /// The stored rooms whose names come after `after`, in the order of their names' bytes.
    List { ticket: Ticket, after: Option<RoomName>, limit: u32 },
    /// Nobody uses the room any more: what is held in memory for it beyond the stored stream may go.
    /// Not answered.
    Close { room: RoomName },
}

#[derive(Debug)]
pub enum LogReply {
    /// `first` is the oldest seq that is kept (`head + 1` where none is). `said`: messages with a
    /// `cid` of the last ten minutes that this process may not know, oldest first.
    Opened {
        room: RoomName,
        epoch: Arc<str>,
        head: Seq,
        first: Seq,
        said: Vec<SaidBefore>,
    },
    /// Of `Append`, `Delete` and `Purge`. `first` is the oldest seq that is kept now (`seq + 1`
    /// where none is); `removed`: how many entries a delete or a purge took away.
    Committed {
        room: RoomName,
        ticket: Ticket,
        seq: Seq,
        first: Seq,
        removed: u64,
    },
    Page {
        room: RoomName,
        ticket: Ticket,
        epoch: Arc<str>,
        entries: Vec<Entry>,
        more: bool,
        first: Seq,
        head: Seq,
    },
    Rooms {
        ticket: Ticket,
        rooms: Vec<StoredRoom>,
        more: bool,
    },
    /// The request had no effect. `room` is absent for `List`, `ticket` for `Open`.
    Failed {
        room: Option<RoomName>,
        ticket: Option<Ticket>,
        failure: LogFailure,
    },
}

/// Why a request to the log had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFailure {
    /// Perhaps later; why, for people.
    #[error("{0}")]
    Unavailable(String),
    /// `Delete`, `Purge` or `Read` of a room that is neither open nor stored.
    #[error("there is no such room")]
    NoSuchRoom,
    /// `Delete`: there is no entry of that number that could be deleted, or it has been already.
    #[error("there is no such message")]
    NoSuchMessage,
    /// `Delete`: the message is another user's.
    #[error("the message is another user's")]
    NotTheirs,
}

/// A message that may be sent again after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct SaidBefore {
    pub user: UserId,
    pub cid: Arc<str>,
    pub seq: Seq,
    pub id: String,
    /// How long ago, by the time of day.
    pub age: Duration,
}

/// A room that the log knows.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRoom {
    pub name: RoomName,
    pub head: Seq,
    pub first: Seq,
}

/// What an operator who watches is told. The hub's task adds time and address.
#[derive(Clone, Debug)]
pub enum Happening {
    Welcomed {
        conn: ConnId,
        user: UserId,
        nick: Nick,
    },
    Joined {
        conn: ConnId,
        user: UserId,
        nick: Nick,
        room: RoomName,
    },
    Left {
        conn: ConnId,
        user: UserId,
        nick: Nick,
        room: RoomName,
    },
    Message {
        conn: ConnId,
        user: UserId,
        nick: Nick,
        room: RoomName,
        seq: Seq,
        bytes: usize,
    },
    NickChanged {
        conn: ConnId,
        user: UserId,
        from: Nick,
        to: Nick,
    },
    /// `target` absent: the whole room was purged.
    Deleted {
        by: By,
        room: RoomName,
        target: Option<Seq>,
        seq: Seq,
    },
    RoomClosed {
        by: By,
        room: RoomName,
        conns: u64,
    },
    Sanctioned {
        by: By,
        sanction: Arc<Sanction>,
    },
    /// Its end or its reason has been changed.
    Amended {
        by: By,
        sanction: Arc<Sanction>,
    },
    Lifted {
        by: By,
        sanction: Arc<Sanction>,
    },
    /// A banned connection was turned away.
    Refused {
        conn: ConnId,
        sanction: Arc<Sanction>,
    },
}

/// Who did it.
#[derive(Clone, Debug, PartialEq)]
pub enum By {
    Client {
        conn: ConnId,
        user: UserId,
        nick: Nick,
    },
    /// As the control socket names its caller.
    Operator(String),
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
