//! What the daemon said at one moment, and how fast its counters went up between two of them.

use std::collections::HashMap;
use std::time::Duration;

use crate::control::protocol as api;

/// Rates are of at least so long: of less they would jump with each message.
const SHORTEST: Duration = Duration::from_millis(400);

/// One look at the daemon.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// On a clock that only goes forward.
    pub at: Duration,
    pub status: api::Status,
    /// Where the daemon knows them.
    pub totals: Option<Totals>,
    pub rooms: Vec<api::Room>,
    pub clients: Vec<api::Client>,
    /// How many clients match the filter.
    pub matched: u64,
    /// The chosen one, if it is not among `clients`; and whether it is there at all.
    pub watched: Option<(u64, Option<api::Client>)>,
}

/// Counters of the daemon as a whole, since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    pub deliveries: Option<f64>,
    pub received_bytes: Option<f64>,
    pub sent_bytes: Option<f64>,
    /// Seconds that each worker has been busy.
    pub workers: Vec<(String, f64)>,
}

impl Totals {
    pub fn of(stats: &api::Stats) -> Self {
        let total = |name: &str| stats.metric(name).map(api::Metric::total);
        let busy = stats.metric("wschat_worker_busy_seconds_total").map_or(&[][..], |metric| &metric.samples);
        let mut workers: Vec<(String, f64)> = busy
            .iter()
            .filter_map(|sample| Some((sample.labels.get("worker").cloned().unwrap_or_default(), sample.value?)))
            .collect();
        workers.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
        Totals {
            deliveries: total("wschat_deliveries_total"),
            received_bytes: total("wschat_received_bytes_total"),
            sent_bytes: total("wschat_sent_bytes_total"),
            workers,
        }
    }
}

/// All a second; absent where they are not known (yet).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    pub messages: Option<f64>,
    pub commits: Option<f64>,
    pub deliveries: Option<f64>,
    pub received_bytes: Option<f64>,
    pub sent_bytes: Option<f64>,
    /// Of each worker's time, from 0 to 1.
    pub workers: Vec<f64>,
    pub rooms: HashMap<String, f64>,
    /// Messages in and out.
    pub clients: HashMap<u64, (f64, f64)>,
}

/// Compares each snapshot with the one before. Holds what the last of them listed.
#[derive(Debug, Default)]
pub struct Meter {
    before: Option<Before>,
    pub rates: Rates,
}

#[derive(Debug)]
struct Before {
    at: Duration,
    daemon: (u32, String),
    messages: u64,
    commits: u64,
    totals: Totals,
    rooms: HashMap<String, u64>,
    clients: HashMap<u64, (u64, u64)>,
}

impl Meter {
    pub fn take(&mut self, snapshot: &Snapshot) {
        let now = Before::of(snapshot);
        match &self.before {
            // Another daemon counts from 0.
            Some(before) if before.daemon == now.daemon => {
                let passed = now.at.saturating_sub(before.at);
                if passed < SHORTEST {
                    return;
                }
                self.rates = before.rates(&now, passed.as_secs_f64());
            }
            _ => self.rates = Rates::default(),
        }
        self.before = Some(now);
    }
}

impl Before {
    fn of(snapshot: &Snapshot) -> Self {
        let status = &snapshot.status;
        let clients = snapshot.clients.iter().chain(snapshot.watched.iter().filter_map(|(_, client)| client.as_ref()));
        Before {
            at: snapshot.at,
            daemon: (status.pid, status.since.clone()),
            messages: status.messages,
            commits: status.history.commits,
            totals: snapshot.totals.clone().unwrap_or_default(),
            rooms: snapshot.rooms.iter().map(|room| (room.name.clone(), room.seq)).collect(),
            clients: clients.map(|client| (client.id, (client.messages_in, client.messages_out))).collect(),
        }
    }

    fn rates(&self, now: &Before, seconds: f64) -> Rates {
        let count = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let total = |before: Option<f64>, now: Option<f64>| Some(((now? - before?) / seconds).max(0.0));
        let busy: HashMap<&str, f64> = self.totals.workers.iter().map(|(name, busy)| (name.as_str(), *busy)).collect();
        let load = |(name, now): &(String, f64)| Some(((now - busy.get(name.as_str())?) / seconds).clamp(0.0, 1.0));
        Rates {
            messages: Some(count(self.messages, now.messages)),
            commits: Some(count(self.commits, now.commits)),
            deliveries: total(self.totals.deliveries, now.totals.deliveries),
            received_bytes: total(self.totals.received_bytes, now.totals.received_bytes),
            sent_bytes: total(self.totals.sent_bytes, now.totals.sent_bytes),
            workers: now.totals.workers.iter().filter_map(load).collect(),
            rooms: (now.rooms.iter())
                .filter_map(|(name, seq)| Some((name.clone(), count(*self.rooms.get(name)?, *seq))))
                .collect(),
            clients: (now.clients.iter())
                .filter_map(|(id, (to, from))| {
                    let (to_before, from_before) = self.clients.get(id)?;
                    Some((*id, (count(*to_before, *to), count(*from_before, *from))))
                })
                .collect(),
        }
    }
}
