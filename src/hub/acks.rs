//! How long messages wait for their acknowledgement, from being heard through their commit.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::chat::event::{Body, LogReply, LogRequest, Ticket};
use crate::stats::cell::Histogram;

/// The messages that the log has been asked to keep. Bounded like those requests themselves.
#[derive(Default)]
pub(super) struct Acks {
    /// Ascending, as the chat numbers them.
    asked: VecDeque<(Ticket, Duration)>,
    /// Committed; their acknowledgements are in the batches that are about to go.
    committed: Vec<Duration>,
}

impl Acks {
    pub(super) fn appended(&mut self, request: &LogRequest, now: Duration) {
        if let LogRequest::Append { ticket, record, .. } = request
            && matches!(record.body, Body::Message { .. })
        {
            self.asked.push_back((*ticket, now));
        }
    }

    pub(super) fn answered(&mut self, reply: &LogReply) {
        let (ticket, kept) = match reply {
            LogReply::Committed { ticket, .. } => (*ticket, true),
            LogReply::Failed { ticket: Some(ticket), .. } => (*ticket, false),
            _ => return,
        };
        // Logs answer in order, so it is the first one nearly always.
        let found = match self.asked.front() {
            Some((first, _)) if *first == ticket => Some(0),
            _ => self.asked.binary_search_by_key(&ticket, |(asked, _)| *asked).ok(),
        };
        let began = found.and_then(|at| self.asked.remove(at));
        if let Some((_, began)) = began.filter(|_| kept) {
            self.committed.push(began);
        }
    }

    /// The batches have gone.
    pub(super) fn gone(&mut self, started: Instant, into: &Histogram) {
        if self.committed.is_empty() {
            return;
        }
        let now = started.elapsed();
        for began in self.committed.drain(..) {
            into.observe(now.saturating_sub(began));
        }
    }
}
