//! Counts to how many connections something was really written.
//!
//! A receipt travels with a frame to every connection that the frame is for. Who writes it counts;
//! once the last copy is gone (written, or dropped with its connection), the total is sent. Whoever
//! will not wait for the slowest reader has [`Receipt::report`] send what is counted so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::admin::Delivery;

#[derive(Debug)]
pub struct Receipt {
    matched: AtomicU64,
    delivered: AtomicU64,
    /// Taken once, by `report`; nobody holds the lock for longer.
    done: Mutex<Option<oneshot::Sender<Delivery>>>,
}

impl Receipt {
    pub fn new(done: oneshot::Sender<Delivery>) -> Self {
        Receipt { matched: AtomicU64::new(0), delivered: AtomicU64::new(0), done: Mutex::new(Some(done)) }
    }

    /// One more connection that the frame is for.
    pub fn matched(&self) {
        self.matched.fetch_add(1, Relaxed);
    }

    /// The whole frame has gone to one connection's socket.
    pub fn delivered(&self) {
        self.delivered.fetch_add(1, Relaxed);
    }
}

impl Receipt {
    /// Sends what is counted so far, the first time it is called.
    pub fn report(&self) {
        let delivery = Delivery { matched: self.matched.load(Relaxed), delivered: self.delivered.load(Relaxed) };
        if let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Whoever asked may have stopped waiting.
            let _ = done.send(delivery);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.report();
    }
}
