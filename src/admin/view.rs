//! What the answers say, and what some questions hold.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use thiserror::Error;

use crate::chat::event::{Dialect, Entry, StoredRoom};
use crate::chat::id::{ConnId, Nick, RoomName, Seq, UserId};
use crate::config::Level as LogLevel;
use crate::log::{Health, LogCounts};
use crate::peer::Peer;

/// The longest that a drain may take.
pub const DRAIN_MOST: Duration = Duration::from_secs(24 * 3600);

/// How far a drain is.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainView {
    /// WebSockets that were open when it began, echoes included.
    pub matched: u64,
    /// Those that still are.
    pub left: u64,
    /// When the last of them is asked to go.
    pub until: SystemTime,
}

impl DrainView {
    pub fn done(&self) -> u64 {
        self.matched.saturating_sub(self.left)
    }
}

/// The most entries of a page of history.
pub const HISTORY_PAGE: u32 = 500;

/// The longest that a token made here lasts.
pub const TOKEN_LASTS_MOST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a token is to say (PROTOCOL.md, "Tokens").
#[derive(Clone, Debug, PartialEq)]
pub struct TokenWish {
    pub user: UserId,
    pub nick: Option<Nick>,
    /// Names or globs; absent: all rooms.
    pub rooms: Option<Vec<String>>,
    pub moderator: bool,
    pub lasts: Duration,
}

#[derive(Clone, Debug)]
pub struct HistoryPage {
    pub epoch: Arc<str>,
    /// Ascending.
    pub entries: Vec<Entry>,
    /// More of the range is kept.
    pub more: bool,
    pub first: Seq,
    pub head: Seq,
}

#[derive(Clone, Debug)]
pub struct StoredRooms {
    pub rooms: Vec<StoredRoom>,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    /// Open WebSockets, echoes aside.
    pub clients: usize,
    pub users: usize,
    pub rooms: usize,
    /// Messages committed since the start.
    pub messages: u64,
    /// Messages a second over the last ten seconds.
    pub rate: f64,
    /// Bans and mutes in force.
    pub bans: usize,
    pub mutes: usize,
    /// Whether the log can store, and what it has done.
    pub health: Health,
    pub log: LogCounts,
}

#[derive(Clone, Debug)]
pub struct Info {
    pub version: &'static str,
    pub pid: u32,
    pub since: SystemTime,
    /// The addresses that are listened on, as text.
    pub listen: Vec<String>,
    pub config: Option<String>,
    /// The end of the certificate in force.
    pub certificate_until: Option<SystemTime>,
    /// The most WebSockets that are let in.
    pub clients_max: usize,
    /// Where rooms are kept, by the name that the configuration gives it.
    pub store: &'static str,
    /// Its file.
    pub store_path: Option<String>,
    /// Present while draining.
    pub drain: Option<DrainView>,
    /// The most bytes that it is to have; absent where nothing bounds it.
    pub store_max: Option<u64>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reloaded {
    /// Keys that have their new value now, as `table.key`.
    pub changed: Vec<String>,
    /// Keys whose new value waits for a restart.
    pub needs_restart: Vec<String>,
    /// A new certificate is in force.
    pub certificate: bool,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevels {
    /// In force, perhaps by an operator's hand.
    pub level: LogLevel,
    /// What the configuration says.
    pub configured: LogLevel,
}

/// Which clients; all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    pub user: Option<UserId>,
    pub nick: Option<Nick>,
    pub ip: Option<IpNet>,
    pub room: Option<RoomName>,
    pub dialect: Option<Dialect>,
    /// Connected for longer.
    pub older: Option<Duration>,
    /// Silent for longer.
    pub idle: Option<Duration>,
    /// More bytes waiting.
    pub sendq_over: Option<usize>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Nicks are compared by their folded key.
    pub fn matches(&self, client: &ClientView, now: SystemTime) -> bool {
        self.user.as_ref().is_none_or(|u| client.user.as_ref() == Some(u))
            && self.nick.as_ref().is_none_or(|n| client.nick.as_ref().is_some_and(|c| c.key() == n.key()))
            && self.room.as_ref().is_none_or(|r| client.rooms.contains(r))
            && self.matches_peer(&client.peer, now)
    }

    /// What is asked of the connection itself, not of whose it is or where that is.
    pub fn matches_peer(&self, peer: &Peer, now: SystemTime) -> bool {
        self.ip.is_none_or(|net| net.contains(&peer.address))
            && self.dialect.is_none_or(|d| peer.dialect == d)
            && self.older.is_none_or(|limit| peer.age(now) > limit)
            && self.idle.is_none_or(|limit| peer.idle(now) > limit)
            && self.sendq_over.is_none_or(|limit| peer.counters.sendq.load(Relaxed) > limit)
    }
}

/// As `wschatctl`'s options say it.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = |name: &str, value: Option<String>| value.map(|value| format!("--{name} {value}"));
        let duration = |d: Option<Duration>| d.map(|d| humantime::format_duration(d).to_string());
        let parts = [
            set("user", self.user.as_ref().map(ToString::to_string)),
            set("nick", self.nick.as_ref().map(ToString::to_string)),
            set("ip", self.ip.map(|net| net.to_string())),
            set("room", self.room.as_ref().map(ToString::to_string)),
            set("dialect", self.dialect.map(|d| d.as_str().to_owned())),
            set("older", duration(self.older)),
            set("idle", duration(self.idle)),
            set("sendq-over", self.sendq_over.map(|bytes| bytes.to_string())),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// One connection. `user` and `nick` are absent until it has said hello.
#[derive(Clone, Debug)]
pub struct ClientView {
    pub peer: Arc<Peer>,
    pub user: Option<UserId>,
    pub nick: Option<Nick>,
    pub rooms: Vec<RoomName>,
    pub resumed: bool,
    /// When its token ends.
    pub token_exp: Option<SystemTime>,
    pub moderator: bool,
}

#[derive(Clone, Debug)]
pub struct ClientPage {
    pub clients: Vec<ClientView>,
    /// The `after` of the next page: the last id that was looked at; absent: that was all.
    pub next: Option<ConnId>,
}

#[derive(Clone, Debug)]
pub struct RoomView {
    pub name: RoomName,
    pub users: usize,
    pub clients: usize,
    /// The seq of its newest stored event.
    pub seq: Seq,
}

#[derive(Clone, Debug)]
pub struct RoomDetail {
    pub view: RoomView,
    pub epoch: String,
    /// Stored events that are kept.
    pub kept: u64,
    pub members: Vec<RoomMember>,
}

#[derive(Clone, Debug)]
pub struct RoomMember {
    pub user: UserId,
    pub nick: Nick,
    /// Empty while a dropped user is waited for.
    pub clients: Vec<ConnId>,
}

/// What became of one connection that was to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub id: ConnId,
    pub result: Result<(), CloseError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CloseError {
    #[error("no such connection")]
    NotFound,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Connections it was for.
    pub matched: u64,
    /// Connections to whose sockets it has been written.
    pub delivered: u64,
}
