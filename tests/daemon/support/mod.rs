//! What the tests of the whole daemon stand on: a daemon in a folder of its own, clients of its
//! sockets, certificates, and a service manager that is none.

pub mod ca;
pub mod certificate;
pub mod client;
pub mod control;
pub mod daemon;
pub mod manager;
pub mod site;
#[path = "../../support/wait.rs"]
pub mod wait;

pub use client::{Chat, Http, Stream};
pub use daemon::{Daemon, Setup};
pub use wait::{PATIENCE, Wait, until};

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
