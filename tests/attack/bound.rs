//! What the daemon may hold, added up from its configuration: the table "Queues and bounds" of
//! docs/ARCHITECTURE.md in bytes. Held against the most that the process ever had resident.

use std::fs;

use crate::support::Daemon;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// The processors, hence workers, of this machine.
fn workers() -> u64 {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get) as u64
}

/// What an attack may bring the daemon to hold, beyond what it held before.
#[derive(Clone, Copy, Default)]
pub struct Bound {
    /// Sockets open at once that are no WebSockets: TLS or HTTP under way.
    pub sockets: u64,
    /// WebSockets open at once.
    pub clients: u64,
    /// Of those, how many send messages that are never whole.
    pub unfinished: u64,
    /// Of those, how many do not read what is for them alone.
    pub slow: u64,
    /// `limits.frame` and `limits.outbox`.
    pub frame: u64,
    pub outbox: u64,
    /// Do they say anything that concerns others?
    pub busy: bool,
    /// Bytes of messages that rooms keep.
    pub kept: u64,
    /// Are pages of history asked for?
    pub pages: bool,
}

impl Bound {
    pub fn bytes(&self) -> u64 {
        // A TLS handshake or a request: rustls' buffers, 16 KiB of head, and the future that holds
        // both, which a debug build makes larger.
        let sockets = self.sockets * 64 * KIB;
        // A WebSocket at rest: 11 KiB in a release build (benches/idle); twice that in a debug build,
        // and the hub's books on it.
        let clients = self.clients * 24 * KIB;
        // A message in its fragments, in a buffer that grows by doubling.
        let unfinished = self.unfinished * 2 * self.frame;
        // An outbox, the answer that it goes over its limit with, and one TLS record on its way.
        let slow = self.slow * (self.outbox + 64 * KIB);
        // Addresses, their rates and counts: 16,384 entries, while the table doubles.
        let gate = 16_384 * 128 * 2;
        // 4096 messages on their way to the hub, few of them long; 16 batches on their way to each
        // worker and one in the making, each past its 1 MiB by no more than one answer.
        let queues = if self.busy { 4096 * KIB + workers() * 17 * (MIB + 128 * KIB) } else { 0 };
        // 64 MiB being written, and 32 reads, of which each may come to six times 128 KiB.
        let pages = if self.pages { (64 + 32 * 6 / 8) * MIB } else { 0 };
        // Entries with their texts, ids and names, and cids.
        let kept = 2 * self.kept;
        // What the allocator keeps of all this in pieces that nobody can use: a fifth.
        (sockets + clients + unfinished + slow + gate + queues + pages + kept) * 6 / 5
    }
}

/// The memory of a daemon from now on.
pub struct Memory {
    before: u64,
}

impl Memory {
    pub fn before(daemon: &Daemon) -> Self {
        Memory { before: peak(daemon) }
    }

    /// The most that was resident at any moment so far is what there was before, and the bound.
    #[track_caller]
    pub fn stayed_within(&self, daemon: &Daemon, bound: &Bound) {
        let (peak, bound) = (peak(daemon), bound.bytes());
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let grown = peak.saturating_sub(self.before);
        eprintln!(
            "memory: {:.1} MiB before, at most {:.1} more; bound {:.1}",
            mib(self.before),
            mib(grown),
            mib(bound)
        );
        assert!(grown <= bound, "{:.1} MiB more than before; all bounds add up to {:.1}", mib(grown), mib(bound));
    }
}

/// The most that has been resident (proc(5), VmHWM).
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * KIB
}
