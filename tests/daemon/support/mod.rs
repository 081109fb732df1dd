//! What the tests of the whole daemon stand on: a daemon in a folder of its own, clients of its
//! sockets, certificates, and a service manager that is none.

pub mod certificate;
pub mod client;
pub mod control;
pub mod daemon;
pub mod manager;
pub mod site;

use std::time::{Duration, Instant};

pub use client::{Chat, Http, Stream};
pub use daemon::{Daemon, Setup};

/// How long anything is waited for before the test fails. Nothing takes this long on a machine that
/// works, and nothing here says how long it should take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a state that can only be asked for.
const LOOK: Duration = Duration::from_millis(10);

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

/// Notes that a test cannot run here. `tests/run` names the file whose lines it counts; by itself a
/// test that is left out looks like one that has passed.
pub fn left_out(why: &str) {
    eprintln!("left out: {why}");
    if let Some(list) = std::env::var_os("WSCHAT_LEFT_OUT") {
        let mut list = std::fs::OpenOptions::new().append(true).open(list).expect("the list of tests/run");
        // In one write, so that the lines of several tests do not mix.
        std::io::Write::write_all(&mut list, format!("{why}\n").as_bytes()).expect("the list of tests/run");
    }
}

/// As [`left_out`], where only root is able to; for root itself that is a failure.
#[track_caller]
pub fn left_out_unless_root(why: &str) {
    assert!(!nix::unistd::geteuid().is_root(), "root must be able to: {why}");
    left_out(why);
}
