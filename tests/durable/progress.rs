//! How far all who chat have come together, so that a kill can be tied to it.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A hello has been written, and perhaps not been read.
    Hello,
    Welcome,
    /// A room's `joined` has been read; what was missed comes after it.
    Joined,
    /// A message has been written, and perhaps not been read.
    Sent,
    Acked,
    /// Somebody else's message has been read.
    Heard,
    /// Somebody who will say no more has every message acknowledged.
    Settled,
}

#[derive(Default)]
pub struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    counts: [u64; 7],
    wrong: Option<String>,
    last: bool,
}

impl Progress {
    pub fn count(&self, step: Step) {
        self.state.lock().expect("nobody panics with it").counts[step as usize] += 1;
        self.changed.notify_all();
    }

    pub fn counted(&self, step: Step) -> u64 {
        self.state.lock().expect("nobody panics with it").counts[step as usize]
    }

    /// Somebody saw what must not be.
    pub fn wrong(&self, what: String) {
        self.state.lock().expect("nobody panics with it").wrong.get_or_insert(what);
        self.changed.notify_all();
    }

    /// From now on nobody says anything new.
    pub fn come_to_an_end(&self) {
        self.state.lock().expect("nobody panics with it").last = true;
        self.changed.notify_all();
    }

    pub fn ends(&self) -> bool {
        self.state.lock().expect("nobody panics with it").last
    }

    /// Waits until that many have been counted, or until the end.
    pub fn sit_out(&self, step: Step, count: u64) {
        let mut state = self.state.lock().expect("nobody panics with it");
        while !state.last && state.wrong.is_none() && state.counts[step as usize] < count {
            state = self.changed.wait(state).expect("nobody panics with it");
        }
    }

    /// Waits until that many have been counted; `look` is asked now and then.
    pub fn wait(&self, step: Step, count: u64, mut look: impl FnMut()) {
        let begun = Instant::now();
        let mut state = self.state.lock().expect("nobody panics with it");
        loop {
            let wrong = state.wrong.clone();
            if wrong.is_none() && state.counts[step as usize] >= count {
                return;
            }
            let counts = state.counts;
            drop(state);
            if let Some(wrong) = wrong {
                panic!("{wrong}");
            }
            look();
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {step:?} {count}: {counts:?}");
            state = self.state.lock().expect("nobody panics with it");
            state = self.changed.wait_timeout(state, Duration::from_millis(100)).expect("nobody panics with it").0;
        }
    }
}
