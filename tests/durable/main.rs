//! That nothing acknowledged is lost: the real daemon is killed, its disk is filled, its database is
//! damaged, and those who chat look at what became of what they said. One file for each way to fail.

mod actor;
mod backup;
mod crash;
mod database;
mod disk_full;
mod line;
mod progress;
mod resume;
mod store;
#[path = "../daemon/support/mod.rs"]
#[expect(dead_code, reason = "what the tests of the daemon need is not all needed here")]
mod support;
mod torn;
mod volatile;

/// Nobody is cut for speaking fast, or for coming often; who does not answer a stop is not waited for
/// for long.
const FAST: &str = "[shutdown]\ngrace = \"200ms\"\n\
[limits]\nrate = \"1000000/s\"\nburst = 1000000\nhandshakes_per_ip = \"1000000/s\"\nclients_per_ip = 1000000\n";

/// The number that all of a test's choices come from: that of `WSCHAT_SEED`, or a new one. It is
/// printed, and seen where the test fails.
fn seed() -> u64 {
    let seed = match std::env::var("WSCHAT_SEED") {
        Ok(seed) => seed.parse().expect("WSCHAT_SEED is a number"),
        Err(_) => rand::random(),
    };
    eprintln!("the same again: WSCHAT_SEED={seed}");
    seed
}
