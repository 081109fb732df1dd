//! Counts to how many connections something was really written.
//!
//! A receipt travels with a frame to every connection that the frame is for. Who writes it counts;
//! once the last copy is gone (written, or dropped with its connection), the total is sent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::oneshot;

use crate::admin::Delivery;

#[derive(Debug)]
pub struct Receipt {
    matched: AtomicU64,
    delivered: AtomicU64,
    done: Option<oneshot::Sender<Delivery>>,
}

impl Receipt {
    pub fn new(done: oneshot::Sender<Delivery>) -> Self {
        Receipt { matched: AtomicU64::new(0), delivered: AtomicU64::new(0), done: Some(done) }
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

impl Drop for Receipt {
    fn drop(&mut self) {
        let delivery = Delivery { matched: *self.matched.get_mut(), delivered: *self.delivered.get_mut() };
        if let Some(done) = self.done.take() {
            // Whoever asked may have stopped waiting.
            let _ = done.send(delivery);
        }
    }
}
