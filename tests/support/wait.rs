//! Waiting, for the tests of every suite.

use std::time::{Duration, Instant};

/// How long anything is waited for before the test fails. Nothing takes this long on a machine that
/// works, and nothing here says how long it should take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a state that can only be asked for.
const LOOK: Duration = Duration::from_millis(10);

/// Asks until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A wait for one thing among others: what comes meanwhile, pings above all, does not prolong it.
pub struct Wait(Instant);

impl Wait {
    pub fn begin() -> Self {
        Wait(Instant::now())
    }

    /// To be called before each look at what comes next.
    #[track_caller]
    pub fn goes_on(&self, what: impl std::fmt::Display) {
        assert!(self.0.elapsed() < PATIENCE, "other things came, but never: {what}");
    }
}
