//! What the tests are written in: a daemon of one's own, and clients of it.

pub mod client;
pub mod daemon;
pub mod frame;
pub mod stream;
#[path = "../../support/wait.rs"]
pub mod wait;

pub use client::{Client, Dial};
pub use daemon::Daemon;
pub use frame::Frame;
pub use stream::Fin;
pub use wait::{PATIENCE, Wait, until};

/// A rate that no test passes by accident.
pub const NO_RATE: &str = "[limits]\nrate = \"1000000/s\"\nburst = 1000000\n";
