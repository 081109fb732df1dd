//! The one state of the daemon: starting, serving, draining, stopping, stopped.
//!
//! Everything that tells or asks how the daemon is — systemd, `/healthz`, `wschatctl status`, the
//! accept loop — reads it here.

use tokio::sync::watch;

/// Where the daemon is in its life. It only ever moves downwards, but for an operator who takes a
/// drain back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Starting,
    Serving,
    /// An operator's wish: newcomers are refused with 503, those who are there are asked to go.
    Draining,
    /// The end: nobody is accepted any more, and everybody is told goodbye.
    Stopping,
    Stopped,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Stopping => "stopping",
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

    /// An operator takes the drain back; elsewhere in its life the state stays. Whether it was draining.
    pub fn resume(&self) -> bool {
        self.0.send_if_modified(|now| {
            let draining = *now == Phase::Draining;
            if draining {
                *now = Phase::Serving;
            }
            draining
        })
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

    #[test]
    fn only_a_drain_is_taken_back() {
        let state = State::default();
        assert!(!state.resume());
        state.advance(Phase::Draining);
        assert!(state.resume());
        assert_eq!(state.phase(), Phase::Serving);
        state.advance(Phase::Stopping);
        assert!(!state.resume());
        assert_eq!(state.phase(), Phase::Stopping);
    }
}
