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
