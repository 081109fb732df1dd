//! A stretch of load: when messages are sent, when all is delivered, and what the server spent on it.

use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::load::{self, Load, Pings};
use super::server::Server;
use super::{BenchError, machine};

/// After the last message at most so long is waited for what is under way.
const DRAIN: Duration = Duration::from_secs(15);
/// Nothing delivered for this long: what is missing is lost.
const STALL: Duration = Duration::from_secs(3);
/// Length of a message's text.
pub const TEXT: usize = 100;

#[derive(Clone, Copy)]
pub enum Pace {
    /// So many messages under way at once: the next is sent when all deliveries of one have come back.
    Window(u64),
    /// So many messages a second, whether or not the server keeps up.
    Rate(f64),
}

pub struct Plan {
    pub pace: Pace,
    /// How many clients take turns in sending.
    pub senders: usize,
    /// Length of what is sent as text.
    pub text: usize,
    pub length: Duration,
    /// Between two pings on the average, where pings are timed.
    pub ping_every: Option<Duration>,
}

/// What one stretch came to.
pub struct Stretch {
    pub sent: u64,
    pub expected: u64,
    pub received: u64,
    /// Deliveries that did not come.
    pub lost: u64,
    /// Deliveries that came more than once, or to the wrong one, or out of an earlier stretch.
    pub extra: u64,
    pub pings_lost: u64,
    pub elapsed: Duration,
    /// CPU time of the server.
    pub cpu: Duration,
    /// Share of the load's processor that was at work; near 1 the load itself is the limit.
    pub load_busy: f64,
    /// Share of the time in which the server was ready to run and something else ran on its processor.
    pub server_waited: f64,
    pub latency: Histogram,
    /// Mean payload of a delivery in bytes.
    pub payload: f64,
    /// Deliveries that one read of a client brings.
    pub per_read: f64,
    pub pings: Pings,
    pub acks: Histogram,
}

impl Stretch {
    /// CPU seconds of the server for a million deliveries, which is also microseconds for one.
    pub fn cpu_per_million(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.received.max(1) as f64
    }

    /// Did every client get every message exactly once; figures of anything else are worth nothing.
    pub fn is_sound(&self) -> bool {
        self.received > 0 && self.lost == 0 && self.extra == 0 && self.pings_lost == 0
    }

    /// Did something else take more of the server's processor than figures can bear.
    pub fn is_disturbed(&self) -> bool {
        self.server_waited > 0.05
    }

    pub fn deliveries_per_second(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64()
    }
}

/// A server under load, and the numbers of its messages.
pub struct Session {
    pub load: Load,
    /// As many as were opened; what one who left does not get is lost.
    clients: usize,
    next: u32,
}

impl Session {
    pub fn open(server: &Server, clients: usize) -> Result<Self, BenchError> {
        let mut load = Load::new(server)?;
        load.open(clients)?;
        Ok(Session { load, clients, next: 0 })
    }

    /// Sends as planned, waits for what is under way, and counts.
    pub fn run(&mut self, server: &Server, plan: &Plan) -> Result<Stretch, BenchError> {
        let first = self.next;
        let clients = self.clients;
        let each = (clients - 1) as u64;
        self.load.restart(first);
        let (idle, own, cpu) = (self.load.idle_time(), machine::own_cpu_time(), machine::cpu_time(server.pid())?);
        let waited = machine::waiting_time(server.pid());
        let begin = self.load.now();
        let end = begin + nanos(plan.length);
        let mut pinging = plan.ping_every.map(|every| Pinging::new(nanos(every), begin));
        let mut sent = 0;
        let mut active = begin;
        loop {
            let now = self.load.now();
            let missing = (sent * each).saturating_sub(self.load.tally.received);
            let mut wait = Duration::from_millis(5);
            if now < end {
                let due = match plan.pace {
                    Pace::Window(window) => (missing <= (window - 1) * each).then_some(now),
                    Pace::Rate(rate) => {
                        let due = begin + (sent as f64 / rate * 1e9) as u64;
                        wait = wait.min(Duration::from_nanos(due.saturating_sub(now)));
                        (due <= now).then_some(due)
                    }
                };
                if let Some(due) = due {
                    self.say(sent as usize % plan.senders, due, plan.text);
                    sent += 1;
                    active = now;
                    continue;
                }
                if let Some(pinging) = &mut pinging {
                    if pinging.due <= now {
                        self.load.ping(pinging.due, missing > 0);
                        pinging.next();
                    }
                    wait = wait.min(Duration::from_nanos(pinging.due.saturating_sub(now)));
                }
            }
            let pings = &self.load.tally.pings;
            let unanswered = pings.sent - pings.during.count() - pings.otherwise.count();
            if now >= end && (missing == 0 && unanswered == 0 || now > end + nanos(DRAIN)) {
                break;
            }
            self.load.poll(wait)?;
            if now.saturating_sub(active.max(self.load.tally.last)) > nanos(STALL) {
                break;
            }
        }
        let cpu = machine::cpu_time(server.pid())?.saturating_sub(cpu);
        let busy = (machine::own_cpu_time() - own).saturating_sub(self.load.idle_time() - idle);
        let waited = machine::waiting_time(server.pid()).saturating_sub(waited);
        let took = (self.load.now() - begin) as f64 / 1e9;
        let tally = &self.load.tally;
        let last = match plan.pace {
            Pace::Window(_) => tally.last,
            Pace::Rate(_) => tally.last.max(end),
        };
        let elapsed = Duration::from_nanos(last.saturating_sub(begin).max(1));
        let counted = tally.of_message.iter().map(|&count| u64::from(count));
        let lost = counted.clone().map(|count| each.saturating_sub(count)).sum();
        let extra: u64 = counted.map(|count| count.saturating_sub(each)).sum();
        // Every client gets every message but its own; together with the counts by message this leaves no room for
        // one client's double to stand for another's loss, short of a conspiracy.
        let wrong_share: u64 = (0..clients)
            .map(|client| {
                let own = if client < plan.senders { turns(sent, plan.senders, client) } else { 0 };
                self.load.received_by(client).saturating_sub(sent - own)
            })
            .sum();
        Ok(Stretch {
            sent,
            expected: sent * each,
            received: tally.received,
            lost,
            extra: extra.max(wrong_share) + tally.stray,
            pings_lost: tally.pings.sent - tally.pings.during.count() - tally.pings.otherwise.count(),
            elapsed,
            cpu,
            load_busy: busy.as_secs_f64() / took,
            server_waited: waited.as_secs_f64() / took,
            latency: tally.latency.clone(),
            payload: tally.bytes as f64 / tally.received.max(1) as f64,
            per_read: tally.received as f64 / tally.reads.max(1) as f64,
            pings: tally.pings.clone(),
            acks: tally.acks.clone(),
        })
    }

    fn say(&mut self, sender: usize, due: u64, len: usize) {
        let number = self.next;
        self.next += 1;
        self.load.tally.of_message.push(0);
        self.load.tally.due.push(due);
        // Where the sender is gone, its message counts as lost.
        self.load.say(sender, number, &load::text(due, number, len));
    }

    /// Serves the clients for a while without sending.
    pub fn idle(&mut self, length: Duration) -> Result<(), BenchError> {
        let begin = Instant::now();
        while let Some(left) = length.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
            self.load.poll(left.max(Duration::from_millis(1)))?;
        }
        Ok(())
    }
}

/// How many of `sent` messages client `client` said, when `senders` take turns.
fn turns(sent: u64, senders: usize, client: usize) -> u64 {
    let (senders, client) = (senders as u64, client as u64);
    sent / senders + u64::from(client < sent % senders)
}

/// When pings are due: at uneven distances, so that they fall into every part of a fan-out.
struct Pinging {
    every: u64,
    due: u64,
    state: u32,
}

impl Pinging {
    fn new(every: u64, begin: u64) -> Self {
        Pinging { every, due: begin + every, state: 0x9e37_79b9 }
    }

    /// Half to one and a half times the distance.
    fn next(&mut self) {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        self.due += self.every / 2 + u64::from(self.state) * self.every / u64::from(u32::MAX);
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
