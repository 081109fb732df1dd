//! What the tests are written in: a daemon of one's own, and clients of it.

pub mod client;
pub mod daemon;
pub mod frame;
pub mod stream;

pub use client::{Client, Dial};
pub use daemon::Daemon;
pub use frame::Frame;
pub use stream::Fin;

use std::time::{Duration, Instant};

/// The longest wait for anything. No test means it: who waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A rate that no test passes by accident.
pub const NO_RATE: &str = "[limits]\nrate = \"1000000/s\"\nburst = 1000000\n";

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

/// Waits until `found` finds something.
#[track_caller]
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
