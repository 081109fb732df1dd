//! The network: listeners, HTTP, WebSockets, and the workers that own the connections.
//!
//! Nothing here knows rooms or users beyond the lists that the hub has it keep.

mod access;
mod conn;
pub mod gate;
mod gather;
mod handed;
mod headers;
mod http;
pub mod incoming;
mod io;
pub mod listen;
pub mod page;
mod session;
mod socket;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc;

use crate::acme::Challenges;
use crate::config::Config;
use crate::guest::GuestKey;
use crate::hub::link::ToHub;
use crate::state::State;
use crate::stats::Stats;
use crate::token::Tokens;
pub use access::AccessLog;
use gate::Gate;
use page::Page;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// In force now; replaced whole by a reload.
    pub config: ArcSwap<Config>,
    pub page: ArcSwap<Page>,
    pub gate: Arc<Gate>,
    pub guests: GuestKey,
    /// What tokens are checked with; replaced whole by a reload.
    pub tokens: ArcSwap<Tokens>,
    pub state: State,
    pub access: AccessLog,
    pub stats: Arc<Stats>,
    /// Absent until a listener speaks TLS.
    pub tls: ArcSwapOption<rustls::ServerConfig>,
    /// Names that a CA checks just now.
    pub challenges: Arc<Challenges>,
    pub hub: mpsc::Sender<ToHub>,
    /// The next connection's number.
    pub next_id: AtomicU64,
    /// All times of sessions are counted from here.
    pub started: Instant,
}
