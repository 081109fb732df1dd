//! What an operator can ask of the running daemon, as plain typed calls.
//!
//! [`Admin`] is a handle; its calls travel as [`HubRequest`] to the hub's task (everything about
//! clients and rooms) or as [`DaemonRequest`] to the daemon (reload, certificates, life). Both
//! queues are bounded, and every answer comes under a deadline: a caller never waits for ever, and
//! one caller never holds up another. The control server translates Varlink calls into these; it
//! is the only way in.

mod event;
pub mod order;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::chat::event::{
    Action, ActionError, Close, Dialect, Entry, HistoryRange, Level, LogFailure, Outcome, StoredRoom, Target,
};
use crate::chat::id::{ConnId, Nick, RoomName, Seq, UserId};
use crate::chat::sanction::{Sanction, SanctionKind};
use crate::config::Level as LogLevel;
pub use crate::log::{Backup, BackupError, Part as BackupPart};
use crate::log::{Health, LogCounts};
use crate::peer::Peer;
use crate::state::{Phase, State};
use crate::stats::Stats;
use crate::stats::cell::Queue;
pub use crate::tls::CertificateView;
pub use event::{Event, EventKind};
use order::{ClientKey, First, FirstPage, Place, RoomKey};

/// The longest a call waits for its answer.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Connections that are closed at once, and the pause behind them: however many are to be closed,
/// what is delivered meanwhile waits for no more than these. About 6,000 a second.
pub const PORTION: usize = 64;
pub const PORTION_PAUSE: Duration = Duration::from_millis(10);

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    #[error("the daemon is busy: its operators' queue is full; try again in a moment")]
    Busy,
    #[error("the daemon did not answer within {} s", DEADLINE.as_secs())]
    TimedOut,
    #[error("the daemon is stopping")]
    Stopping,
}

/// A handle to the running daemon. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    hub: mpsc::Sender<HubRequest>,
    daemon: mpsc::Sender<DaemonRequest>,
    events: broadcast::Sender<Arc<Event>>,
    state: State,
    stats: Arc<Stats>,
}

/// Answered by the hub's task.
#[derive(Debug)]
pub enum HubRequest {
    Counts(oneshot::Sender<Counts>),
    /// A page of clients with ids above `after` that match, ascending. The hub looks at no more
    /// than `scan` of them before it answers, so that nobody's message waits for a list.
    Clients {
        filter: Box<Filter>,
        after: ConnId,
        scan: usize,
        reply: oneshot::Sender<ClientPage>,
    },
    /// Those of a page of clients that match and come first in an order, and before `bar`.
    FirstClients {
        filter: Box<Filter>,
        order: First<ClientKey>,
        bar: Option<Place>,
        after: ConnId,
        scan: usize,
        reply: oneshot::Sender<FirstPage<ClientView, ConnId>>,
    },
    /// As [`HubRequest::FirstClients`], of rooms by name.
    FirstRooms {
        order: First<RoomKey>,
        bar: Option<Place>,
        after: Option<RoomName>,
        scan: usize,
        reply: oneshot::Sender<FirstPage<RoomView, RoomName>>,
    },
    Client {
        id: ConnId,
        reply: oneshot::Sender<Option<ClientView>>,
    },
    /// Closes these connections; each answer is sent when that socket is closed (or was not there).
    Close {
        ids: Vec<ConnId>,
        close: Close,
        reply: mpsc::Sender<Closed>,
        /// Answered when the orders are on their way.
        taken: oneshot::Sender<()>,
    },
    Notice {
        target: Target,
        text: String,
        level: Level,
        reply: oneshot::Sender<Delivery>,
    },
    Rooms(oneshot::Sender<Vec<RoomView>>),
    Room {
        name: RoomName,
        reply: oneshot::Sender<Option<RoomDetail>>,
    },
    /// Deletes, purges, bans, mutes. `by` names the operator, for the audit and in the lists.
    Moderate {
        by: String,
        action: Action,
        reply: oneshot::Sender<Result<Outcome, ActionError>>,
    },
    /// Bans or mutes in force.
    Sanctions {
        kind: SanctionKind,
        reply: oneshot::Sender<Vec<Arc<Sanction>>>,
    },
    /// A page of a room's stored entries, at most [`HISTORY_PAGE`] of them.
    History {
        room: RoomName,
        range: HistoryRange,
        limit: u32,
        reply: oneshot::Sender<Result<HistoryPage, LogFailure>>,
    },
    /// A page of the rooms that the log knows, open or not, by name.
    StoredRooms {
        after: Option<RoomName>,
        limit: u32,
        reply: oneshot::Sender<Result<StoredRooms, LogFailure>>,
    },
    Ping(oneshot::Sender<()>),
}

/// Answered by the daemon itself.
#[derive(Debug)]
pub enum DaemonRequest {
    /// What the daemon knows of itself.
    Info(oneshot::Sender<Info>),
    /// The configuration (and with it the certificate), or the certificate alone.
    Reload {
        tls_only: bool,
        reply: oneshot::Sender<Result<Reloaded, String>>,
    },
    Certificate(oneshot::Sender<Option<CertificateView>>),
    /// Refuses newcomers and asks everybody away, evenly over a time; `reason` is what they are told.
    /// Where a drain is under way, what is left of it goes by the new time.
    Drain {
        over: Duration,
        reason: Option<String>,
        reply: oneshot::Sender<watch::Receiver<DrainView>>,
    },
    /// Takes a drain back: how far it had come; `None`: there was none.
    Resume(oneshot::Sender<Option<DrainView>>),
    /// How much is logged, and from now on this much where a level is given.
    LogLevel {
        set: Option<LogLevel>,
        reply: oneshot::Sender<LogLevels>,
    },
    /// A copy of the history is begun; it comes in parts.
    Backup(oneshot::Sender<Result<Backup, BackupError>>),
    /// A token made with the configured secret, for trying out; the error says why there is none.
    Token {
        wish: Box<TokenWish>,
        reply: oneshot::Sender<Result<String, String>>,
    },
}

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

impl Admin {
    pub fn new(
        hub: mpsc::Sender<HubRequest>,
        daemon: mpsc::Sender<DaemonRequest>,
        events: broadcast::Sender<Arc<Event>>,
        state: State,
        stats: Arc<Stats>,
    ) -> Self {
        Admin { hub, daemon, events, state, stats }
    }

    /// What the daemon counts of itself; read at once, nobody is asked.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The requests that wait for the hub.
    pub fn waiting(&self) -> Queue {
        let queue = Queue::default();
        queue.set(self.hub.max_capacity() - self.hub.capacity(), self.hub.max_capacity());
        queue
    }

    /// Who watches events now.
    pub fn watchers(&self) -> usize {
        self.events.receiver_count()
    }

    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Returns once the daemon stops.
    pub async fn stopping(&self) {
        self.state.reached(Phase::Stopping).await;
    }

    /// Events from now on. A receiver that falls behind is told how many it missed.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    pub async fn counts(&self) -> Result<Counts, AdminError> {
        ask(&self.hub, HubRequest::Counts).await
    }

    pub async fn clients(&self, filter: Filter, after: ConnId, scan: usize) -> Result<ClientPage, AdminError> {
        let filter = Box::new(filter);
        ask(&self.hub, |reply| HubRequest::Clients { filter, after, scan, reply }).await
    }

    pub async fn first_clients(
        &self,
        filter: Filter,
        order: First<ClientKey>,
        bar: Option<Place>,
        after: ConnId,
        scan: usize,
    ) -> Result<FirstPage<ClientView, ConnId>, AdminError> {
        let filter = Box::new(filter);
        ask(&self.hub, |reply| HubRequest::FirstClients { filter, order, bar, after, scan, reply }).await
    }

    pub async fn first_rooms(
        &self,
        order: First<RoomKey>,
        bar: Option<Place>,
        after: Option<RoomName>,
        scan: usize,
    ) -> Result<FirstPage<RoomView, RoomName>, AdminError> {
        ask(&self.hub, |reply| HubRequest::FirstRooms { order, bar, after, scan, reply }).await
    }

    pub async fn client(&self, id: ConnId) -> Result<Option<ClientView>, AdminError> {
        ask(&self.hub, |reply| HubRequest::Client { id, reply }).await
    }

    /// Begins to close; `reply`, which must have room for as many, gets one [`Closed`] for each id, in
    /// the order they end. No more than [`PORTION`] at once; the hub has taken them when this returns.
    pub async fn close(&self, ids: Vec<ConnId>, close: Close, reply: mpsc::Sender<Closed>) -> Result<(), AdminError> {
        ask(&self.hub, |taken| HubRequest::Close { ids, close, reply, taken }).await
    }

    pub async fn notice(&self, target: Target, text: String, level: Level) -> Result<Delivery, AdminError> {
        ask(&self.hub, |reply| HubRequest::Notice { target, text, level, reply }).await
    }

    pub async fn rooms(&self) -> Result<Vec<RoomView>, AdminError> {
        ask(&self.hub, HubRequest::Rooms).await
    }

    pub async fn room(&self, name: RoomName) -> Result<Option<RoomDetail>, AdminError> {
        ask(&self.hub, |reply| HubRequest::Room { name, reply }).await
    }

    pub async fn moderate(&self, by: String, action: Action) -> Result<Result<Outcome, ActionError>, AdminError> {
        ask(&self.hub, |reply| HubRequest::Moderate { by, action, reply }).await
    }

    pub async fn sanctions(&self, kind: SanctionKind) -> Result<Vec<Arc<Sanction>>, AdminError> {
        ask(&self.hub, |reply| HubRequest::Sanctions { kind, reply }).await
    }

    pub async fn history(
        &self,
        room: RoomName,
        range: HistoryRange,
        limit: u32,
    ) -> Result<Result<HistoryPage, LogFailure>, AdminError> {
        ask(&self.hub, |reply| HubRequest::History { room, range, limit, reply }).await
    }

    pub async fn stored_rooms(
        &self,
        after: Option<RoomName>,
        limit: u32,
    ) -> Result<Result<StoredRooms, LogFailure>, AdminError> {
        ask(&self.hub, |reply| HubRequest::StoredRooms { after, limit, reply }).await
    }

    pub async fn token(&self, wish: TokenWish) -> Result<Result<String, String>, AdminError> {
        let wish = Box::new(wish);
        ask(&self.daemon, |reply| DaemonRequest::Token { wish, reply }).await
    }

    /// Has the hub answer; how long it took.
    pub async fn ping(&self) -> Result<(), AdminError> {
        ask(&self.hub, HubRequest::Ping).await
    }

    pub async fn info(&self) -> Result<Info, AdminError> {
        ask(&self.daemon, DaemonRequest::Info).await
    }

    /// The error is what was wrong; nothing has changed then.
    pub async fn reload(&self, tls_only: bool) -> Result<Result<Reloaded, String>, AdminError> {
        ask(&self.daemon, |reply| DaemonRequest::Reload { tls_only, reply }).await
    }

    /// Begins a drain, or gives the one under way another time. The receiver sees each change of how
    /// far it is; its sender is gone once the drain is taken back.
    pub async fn drain(
        &self,
        over: Duration,
        reason: Option<String>,
    ) -> Result<watch::Receiver<DrainView>, AdminError> {
        ask(&self.daemon, |reply| DaemonRequest::Drain { over, reason, reply }).await
    }

    /// How far the drain had come; `None`: there was none.
    pub async fn resume(&self) -> Result<Option<DrainView>, AdminError> {
        ask(&self.daemon, DaemonRequest::Resume).await
    }

    /// How much is logged; with a level, from now on that much.
    pub async fn log_level(&self, set: Option<LogLevel>) -> Result<LogLevels, AdminError> {
        ask(&self.daemon, |reply| DaemonRequest::LogLevel { set, reply }).await
    }

    pub async fn backup(&self) -> Result<Result<Backup, BackupError>, AdminError> {
        ask(&self.daemon, DaemonRequest::Backup).await
    }

    pub async fn certificate(&self) -> Result<Option<CertificateView>, AdminError> {
        ask(&self.daemon, DaemonRequest::Certificate).await
    }
}

async fn send<T>(queue: &mpsc::Sender<T>, request: T) -> Result<(), AdminError> {
    queue.try_send(request).map_err(|e| match e {
        mpsc::error::TrySendError::Full(_) => AdminError::Busy,
        mpsc::error::TrySendError::Closed(_) => AdminError::Stopping,
    })
}

async fn ask<Q, A>(queue: &mpsc::Sender<Q>, request: impl FnOnce(oneshot::Sender<A>) -> Q) -> Result<A, AdminError> {
    let (reply, answer) = oneshot::channel();
    send(queue, request(reply)).await?;
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(AdminError::Stopping),
        Err(_) => Err(AdminError::TimedOut),
    }
}
