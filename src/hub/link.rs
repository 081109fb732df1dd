//! What the hub's task and the workers say to each other.
//!
//! Both ways are bounded. A worker whose message the hub cannot take stops reading that client; a
//! worker always takes what the hub sends, so the two can never wait for each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::chat::event::{Close, Identity, Input};
use crate::chat::id::{ConnId, RoomId};
use crate::peer::Peer;
use crate::receipt::Receipt;

/// Messages from all workers that may wait for the hub.
pub const TO_HUB: usize = 4096;
/// Batches that may wait for one worker, and what a batch holds at most.
pub const TO_WORKER: usize = 16;
pub const BATCH_INPUTS: usize = 256;
pub const BATCH_BYTES: usize = 1024 * 1024;

/// From a worker.
#[derive(Debug)]
pub enum ToHub {
    /// A WebSocket is open; everything else about it comes after this.
    /// `admission`: whom its credentials name, or the close that refuses them.
    Open { peer: Arc<Peer>, worker: usize, admission: Result<Identity, Close> },
    /// `Frame`, `Text` or `Drained` of an open one.
    Input(Input),
    /// For the connection's own worker, behind everything that the hub has said to it so far: what a
    /// session decides by itself keeps its place among the answers.
    Pass { id: ConnId, order: ToWorker },
    /// It is gone and its socket closed; nothing about it comes after this.
    Gone { id: ConnId, end: End },
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// A close frame went each way.
    pub clean: bool,
    /// Of the close frame that began it; 1006 where there was none (RFC 6455, 7.1.5).
    pub code: u16,
    pub reason: String,
    /// We began it.
    pub ours: bool,
}

/// To a worker; carried out in order.
#[derive(Debug)]
pub enum ToWorker {
    /// To all of a room's members here; `instead` gets its own bytes, or none.
    Publish {
        room: RoomId,
        frame: Encoded,
        instead: Option<(ConnId, Option<Bytes>)>,
        /// When the hub decided it, since the start of the daemon.
        at: Duration,
        receipt: Option<Arc<Receipt>>,
    },
    /// To all that have been welcomed.
    PublishAll {
        frame: Encoded,
        receipt: Option<Arc<Receipt>>,
    },
    /// To one. `welcome`: it is welcomed by this.
    Send {
        id: ConnId,
        bytes: Bytes,
        welcome: bool,
        receipt: Option<Arc<Receipt>>,
    },
    /// Frames to one, outside its outbox limit; `Input::Drained` follows.
    SendPage {
        id: ConnId,
        bytes: Bytes,
    },
    Enter {
        id: ConnId,
        room: RoomId,
    },
    Exit {
        id: ConnId,
        room: RoomId,
    },
    Forget {
        room: RoomId,
    },
    /// `ToHub::Gone` follows once the socket is closed.
    Close {
        id: ConnId,
        close: Close,
    },
    /// Answered with everyone who is open here, those that the hub does not know as well.
    WhoIsHere(oneshot::Sender<Vec<ConnId>>),
    /// Some are to be closed with this, each with an `after_ms` of its own.
    Dismiss {
        ids: Vec<ConnId>,
        close: Close,
    },
    /// Answered between two deliveries: the worker is alive.
    Alive(oneshot::Sender<()>),
    /// New settings are to be read.
    Reload,
    /// Everybody is to be closed with this; then the worker ends. After `grace` the rest is cut, and
    /// how many that were is told.
    Stop {
        close: Close,
        grace: Duration,
        cut: oneshot::Sender<usize>,
    },
}

/// A frame ready for the socket, in each dialect that has it.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub json: Bytes,
    pub text: Option<Bytes>,
}

impl ToWorker {
    /// Bytes that wait with it.
    pub fn bytes(&self) -> usize {
        match self {
            ToWorker::Publish { frame, .. } | ToWorker::PublishAll { frame, .. } => {
                frame.json.len() + frame.text.as_ref().map_or(0, Bytes::len)
            }
            ToWorker::Send { bytes, .. } | ToWorker::SendPage { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}
