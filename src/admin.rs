//! What an operator can ask of the running daemon, as plain typed calls.
//!
//! [`Admin`] is a handle; its calls travel as [`HubRequest`] to the hub's task (everything about
//! clients and rooms) or as [`DaemonRequest`] to the daemon (reload, certificates, life). Both
//! queues are bounded, and every answer comes under a deadline: a caller never waits for ever, and
//! one caller never holds up another. The control server translates Varlink calls into these; it
//! is the only way in.

mod event;
pub mod order;
mod view;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::chat::event::{Action, ActionError, Close, HistoryRange, Level, LogFailure, Outcome, Target};
use crate::chat::id::{ConnId, RoomName};
use crate::chat::sanction::{Sanction, SanctionKind};
use crate::config::Level as LogLevel;
pub use crate::log::{Backup, BackupError, Part as BackupPart};
use crate::state::{Phase, State};
use crate::stats::Stats;
use crate::stats::cell::Queue;
pub use crate::tls::CertificateView;
pub use event::{Event, EventKind};
use order::{ClientKey, First, FirstPage, Place, RoomKey};
pub use view::{
    ClientPage, ClientView, CloseError, Closed, Counts, DRAIN_MOST, Delivery, DrainView, Filter, HISTORY_PAGE,
    HistoryPage, Info, LogLevels, Reloaded, RoomDetail, RoomMember, RoomView, StoredRooms, TOKEN_LASTS_MOST, TokenWish,
};

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
