//! What the daemon counts of itself, while it works.
//!
//! Each worker has a place of its own, which it alone writes and which shares no cache line with
//! another's; so has the hub. Nothing here is read on the path of a message: `metrics` does when
//! somebody asks. What the numbers are called is in [`table`].

pub mod cell;
pub mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::wire::close;
use cell::{Counter, Histogram, Level, Queue, Reading};

/// All of it; shared by everyone.
#[derive(Debug)]
pub struct Stats {
    pub workers: Box<[Arc<WorkerStats>]>,
    pub hub: HubStats,
    pub door: DoorStats,
    pub config: ConfigStats,
    /// Messages refused because their connection sent too many.
    pub rate_limited: Counter,
    /// Events that watchers were too slow for.
    pub events_missed: Counter,
}

impl Stats {
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Stats {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            hub: HubStats::default(),
            door: DoorStats::default(),
            config: ConfigStats::default(),
            rate_limited: Counter::default(),
            events_missed: Counter::default(),
        })
    }

    /// The sum of all workers' counts of something.
    pub fn sum(&self, of: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(worker)).sum()
    }

    /// Fan-out on all workers.
    pub fn fanout(&self) -> Reading {
        self.workers.iter().fold(Reading::default(), |all, worker| all.and(worker.fanout.read()))
    }
}

/// One worker's, written by that worker alone. Two cache lines are fetched together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    pub thread: ThreadClock,
    /// WebSocket frames given to connections, and their bytes.
    pub deliveries: Counter,
    pub sent_bytes: Counter,
    /// WebSocket messages heard, and their bytes.
    pub received: Counter,
    pub received_bytes: Counter,
    /// From the hub's order to the last member's turn.
    pub fanout: Histogram,
    /// Bytes that wait for sockets, all connections.
    pub outbox_bytes: Level,
    /// Batches of the hub; as of when the hub was last asked for its counts.
    pub inbox: Queue,
    opened: [Counter; Speaks::ALL.len()],
    gone: [Counter; Speaks::ALL.len()],
    closes: [[Counter; Closer::ALL.len()]; CODES],
    failures: [Counter; Failure::ALL.len()],
    answers: [Counter; STATUSES.len() + 1],
}

impl WorkerStats {
    pub fn opened(&self, speaks: Speaks) {
        self.opened[speaks as usize].count(1);
    }

    /// A WebSocket has gone, closed with `code` by `closer`.
    pub fn closed(&self, speaks: Speaks, code: u16, closer: Closer) {
        self.gone[speaks as usize].count(1);
        let at = codes().position(|known| known == Some(code)).unwrap_or(CODES - 1);
        self.closes[at][closer as usize].count(1);
        // No HTTP status can say these to a browser, so the WebSocket was opened for it.
        match (closer, code) {
            (Closer::Server, code) if code == close::UNAUTHORIZED.code => self.failed(Failure::Token),
            (Closer::Server, code) if code == close::NO_HELLO.code => self.failed(Failure::NoHello),
            _ => {}
        }
    }

    pub fn failed(&self, failure: Failure) {
        self.failures[failure as usize].count(1);
    }

    /// An HTTP request has been answered.
    pub fn answered(&self, status: u16) {
        let at = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len());
        self.answers[at].count(1);
    }

    pub fn opened_so_far(&self, speaks: Speaks) -> u64 {
        self.opened[speaks as usize].get()
    }

    /// WebSockets that are open.
    pub fn open(&self, speaks: Speaks) -> u64 {
        // In this order, since one that ends in between has been counted as opened before.
        let gone = self.gone[speaks as usize].get();
        self.opened[speaks as usize].get().saturating_sub(gone)
    }

    /// How many were closed with the code at this place of [`codes`].
    pub fn closes(&self, place: usize, closer: Closer) -> u64 {
        self.closes[place][closer as usize].get()
    }

    pub fn failures(&self, failure: Failure) -> u64 {
        self.failures[failure as usize].get()
    }

    /// How many were answered with the status at this place of [`statuses`].
    pub fn answers(&self, place: usize) -> u64 {
        self.answers[place].get()
    }
}

/// The hub's, written by its thread alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct HubStats {
    pub thread: ThreadClock,
    /// From hearing a message to giving its acknowledgement to the worker.
    pub ack: Histogram,
    /// Messages of workers; as of when an operator last asked for something.
    pub inbox: Queue,
    /// Connections that operators had closed, and notices that they sent.
    pub kicks: Counter,
    pub notices: Counter,
}

/// The accept loops'.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DoorStats {
    pub accepted: Counter,
    /// Closed unread, by a reset.
    pub reset: Counter,
}

/// What came of reading the configuration again.
#[derive(Debug, Default)]
pub struct ConfigStats {
    pub reloads: Counter,
    pub failed: Counter,
    last_failed: AtomicBool,
    /// Microseconds since 1970; 0: not since the start.
    succeeded: AtomicU64,
}

impl ConfigStats {
    pub fn reloaded(&self, good: bool, now: SystemTime) {
        if good {
            self.reloads.add(1);
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.succeeded.store(u64::try_from(since.as_micros()).unwrap_or(u64::MAX), Relaxed);
        } else {
            self.failed.add(1);
        }
        self.last_failed.store(!good, Relaxed);
    }

    /// The last time that it was read went well.
    pub fn is_good(&self) -> bool {
        !self.last_failed.load(Relaxed)
    }

    /// When it was last taken over; `None`: at the start.
    pub fn succeeded(&self) -> Option<SystemTime> {
        let micros = self.succeeded.load(Relaxed);
        (micros > 0).then(|| UNIX_EPOCH + Duration::from_micros(micros))
    }
}

/// How long a thread has been on a processor: the kernel counts, so it costs the thread nothing.
#[derive(Debug, Default)]
pub struct ThreadClock {
    id: AtomicI32,
    /// Nanoseconds, as last read: the clock ends with its thread.
    read: AtomicU64,
}

impl ThreadClock {
    /// To be called by the thread that is meant.
    pub fn begin(&self) {
        self.id.store(nix::unistd::gettid().as_raw(), Relaxed);
    }

    pub fn busy(&self) -> Duration {
        let id = self.id.load(Relaxed);
        if id > 0 {
            // The number of a thread's CPU clock, as the kernel defines it and
            // pthread_getcpuclockid(3) makes it: the complement of its id, shifted by the three bits
            // that say what kind of clock, here 4 (of a thread) + 2 (time on a processor).
            let clock = ClockId::from_raw((!id << 3) | 0b110);
            if let Ok(now) = clock_gettime(clock) {
                let nanos = u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX);
                self.read.fetch_max(nanos, Relaxed);
            }
        }
        Duration::from_nanos(self.read.load(Relaxed))
    }
}

/// A label's values: an enum, its words, and the list of all.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $value:ident $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$what])* $value,)* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$value),*];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$value => $word,)* }
            }
        }
    };
}

label! {
    /// What a WebSocket speaks.
    Speaks {
        Json "json",
        Text "text",
        Echo "echo",
    }
}

label! {
    /// Who began to close a WebSocket.
    Closer {
        Server "server",
        Client "client",
        /// It was lost: no close frame came.
        Nobody "nobody",
    }
}

label! {
    /// Why a socket that was accepted did not become a client.
    Failure {
        /// What came was no TLS, or none that is spoken here.
        Tls "tls",
        TlsTimeout "tls_timeout",
        PlainHttp "plain_http",
        RequestTimeout "request_timeout",
        BadRequest "bad_request",
        /// Reads no answers.
        Stalled "stalled",
        Origin "origin",
        Forwarded "forwarded",
        Rate "rate",
        Address "address",
        Full "full",
        Draining "draining",
        Stopping "stopping",
        Token "token",
        NoHello "no_hello",
    }
}

/// Close codes that are counted each for itself: ours, no code, no close frame; and one for the rest.
const CODES: usize = close::ALL.len() + 3;

/// The codes by their places; `None` is every other one.
pub fn codes() -> impl Iterator<Item = Option<u16>> {
    close::ALL.iter().map(|row| Some(row.code)).chain([Some(1005), Some(1006), None])
}

/// HTTP statuses that are counted each for itself.
const STATUSES: [u16; 14] = [101, 200, 304, 308, 400, 403, 404, 405, 408, 414, 426, 429, 431, 503];

/// The statuses by their places; `None` is every other one.
pub fn statuses() -> impl Iterator<Item = Option<u16>> {
    STATUSES.into_iter().map(Some).chain([None])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_a_client_made_up_is_counted_with_the_others() {
        let worker = WorkerStats::default();
        for code in [1000, 3999, 4999, 4102] {
            worker.opened(Speaks::Json);
            worker.closed(Speaks::Json, code, Closer::Client);
        }
        let counted: Vec<_> = codes()
            .enumerate()
            .map(|(at, code)| (code, worker.closes(at, Closer::Client)))
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(counted, [(Some(1000), 1), (Some(4102), 1), (None, 2)]);
        assert_eq!(worker.open(Speaks::Json), 0);
    }

    #[test]
    fn a_threads_time_on_a_processor_is_its_own_and_outlasts_it() {
        let clock = Arc::new(ThreadClock::default());
        assert_eq!(clock.busy(), Duration::ZERO);
        let worked = clock.clone();
        let thread = std::thread::spawn(move || {
            worked.begin();
            while worked.busy() < Duration::from_millis(5) {}
        });
        thread.join().unwrap();
        assert!(clock.busy() >= Duration::from_millis(5));
    }

    #[test]
    fn a_reload_that_fails_keeps_the_time_of_the_last_good_one() {
        let config = ConfigStats::default();
        assert!(config.is_good() && config.succeeded().is_none());
        let at = UNIX_EPOCH + Duration::from_secs(7);
        config.reloaded(true, at);
        config.reloaded(false, at + Duration::from_secs(1));
        assert_eq!((config.is_good(), config.succeeded()), (false, Some(at)));
        assert_eq!((config.reloads.get(), config.failed.get()), (1, 1));
    }
}
