//! The one state of the daemon: starting, serving, draining, stopped.
//!
//! Everything that tells or asks how the daemon is — systemd, `/healthz`, `wschatctl status`, the
//! accept loop — reads it here.

use tokio::sync::watch;

/// Where the daemon is in its life. It only ever moves downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Starting,
    Serving,
    /// No new connections; those that are there are asked to go.
    Draining,
    Stopped,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
        }
    }
}

/// A handle to the state; cheap to clone, to read and to wait on.
#[derive(Clone, Debug)]
pub struct State(watch::Sender<Phase>);

impl Default for State {
    fn default() -> Self {
        State(watch::Sender::new(Phase::Starting))
    }
}

impl State {
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Moves on to `phase`; a state that is further already stays.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let further = phase > *now;
            if further {
                *now = phase;
            }
            further
        });
    }

    /// Returns once the state is `phase` or further.
    pub async fn reached(&self, phase: Phase) {
        let mut seen = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = seen.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let state = State::default();
        state.advance(Phase::Draining);
        state.advance(Phase::Serving);
        assert_eq!(state.phase(), Phase::Draining);
    }
}
