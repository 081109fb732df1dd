//! Brings all numbers together, in the order of the table.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::process::Process;
use crate::admin::{Admin, AdminError, Counts, Info};
use crate::control::protocol::{Bucket, Metric, Sample};
use crate::log::Health;
use crate::state::Phase;
use crate::stats::cell::{Queue, Reading};
use crate::stats::table::{self, Definition};
use crate::stats::{Closer, Failure, Speaks, Stats, codes, statuses};
use crate::wire::close;

/// Every metric of the table, with its samples. Asks the hub and the daemon once.
pub async fn gather(admin: &Admin) -> Result<Vec<Metric>, AdminError> {
    // First: they bring what the hub tells of queues up to date.
    let (counts, info) = tokio::join!(admin.counts(), admin.info());
    let mut found = Found::default();
    found.daemon(admin.phase(), &counts?, &info?);
    found.counted(admin.stats());
    found.queue("operators", &admin.waiting());
    found.put(table::WATCHERS, admin.watchers() as f64);
    found.process(&Process::read());
    Ok(found.metrics())
}

/// Samples by the names of their metrics.
#[derive(Default)]
struct Found(BTreeMap<&'static str, Vec<Sample>>);

impl Found {
    fn sample(&mut self, row: Definition, values: &[&str], sample: Sample) {
        debug_assert_eq!(row.labels.len(), values.len(), "{}", row.name);
        let labels = row.labels.iter().zip(values).map(|(name, value)| (name.to_string(), value.to_string()));
        self.0.entry(row.name).or_default().push(Sample { labels: labels.collect(), ..sample });
    }

    fn with(&mut self, row: Definition, values: &[&str], value: f64) {
        self.sample(row, values, Sample { value: Some(value), ..Sample::default() });
    }

    fn put(&mut self, row: Definition, value: f64) {
        self.with(row, &[], value);
    }

    fn histogram(&mut self, row: Definition, reading: Reading) {
        let buckets = reading.cumulative().map(|(le, count)| Bucket { le, count }).collect();
        let (count, sum) = (Some(reading.count()), Some(reading.sum()));
        self.sample(row, &[], Sample { count, sum, buckets: Some(buckets), ..Sample::default() });
    }

    fn queue(&mut self, name: &str, queue: &Queue) {
        self.with(table::QUEUE, &[name], queue.waiting() as f64);
        self.with(table::QUEUE_MAX, &[name], queue.most() as f64);
    }

    fn daemon(&mut self, phase: Phase, counts: &Counts, info: &Info) {
        self.with(table::INFO, &[info.version], 1.0);
        self.put(table::START, since_1970(info.since));
        self.put(table::PROCESS_START, since_1970(info.since));
        self.put(table::SERVING, truth(phase == Phase::Serving));
        for state in [Phase::Starting, Phase::Serving, Phase::Draining, Phase::Stopping, Phase::Stopped] {
            self.with(table::STATE, &[state.as_str()], truth(phase == state));
        }
        if let Some(until) = info.certificate_until {
            self.put(table::CERTIFICATE, since_1970(until));
        }
        self.put(table::CLIENTS, counts.clients as f64);
        self.put(table::CLIENTS_MAX, info.clients_max as f64);
        self.put(table::USERS, counts.users as f64);
        self.put(table::ROOMS, counts.rooms as f64);
        self.put(table::BANS, counts.bans as f64);
        self.put(table::MUTES, counts.mutes as f64);
        self.put(table::MESSAGES, counts.messages as f64);
        let log = &counts.log;
        self.put(table::LOG_HEALTHY, truth(counts.health == Health::Good));
        self.put(table::LOG_COMMITS, log.commits as f64);
        self.histogram(table::LOG_TIME, log.commit_time);
        self.put(table::LOG_ENTRIES, log.entries as f64);
        self.put(table::LOG_REFUSED, log.refused as f64);
        self.put(table::LOG_WAITING, log.waiting as f64);
        self.put(table::LOG_WAITING_BYTES, log.waiting_bytes as f64);
        self.put(table::LOG_SIZE, log.bytes as f64);
        if let Some(most) = info.store_max {
            self.put(table::LOG_SIZE_MAX, most as f64);
        }
        self.put(table::RELOAD_TIME, since_1970(info.since));
    }

    fn counted(&mut self, stats: &Stats) {
        self.put(table::RELOAD_GOOD, truth(stats.config.is_good()));
        if let Some(at) = stats.config.succeeded() {
            self.0.remove(table::RELOAD_TIME.name);
            self.put(table::RELOAD_TIME, since_1970(at));
        }
        self.with(table::RELOADS, &["ok"], stats.config.reloads.get() as f64);
        self.with(table::RELOADS, &["failed"], stats.config.failed.get() as f64);

        self.put(table::RECEIVED, stats.sum(|worker| worker.received.get()) as f64);
        self.put(table::RECEIVED_BYTES, stats.sum(|worker| worker.received_bytes.get()) as f64);
        self.put(table::DELIVERIES, stats.sum(|worker| worker.deliveries.get()) as f64);
        self.put(table::SENT_BYTES, stats.sum(|worker| worker.sent_bytes.get()) as f64);
        self.put(table::RATE_LIMITED, stats.rate_limited.get() as f64);
        self.histogram(table::ACK, stats.hub.ack.read());
        self.histogram(table::FANOUT, stats.fanout());

        self.put(table::ACCEPTED, stats.door.accepted.get() as f64);
        self.put(table::RESET, stats.door.reset.get() as f64);
        for failure in Failure::ALL {
            let count = stats.sum(|worker| worker.failures(*failure));
            self.with(table::FAILURES, &[failure.as_str()], count as f64);
        }
        for (place, status) in statuses().enumerate() {
            let code = status.map_or("other".to_owned(), |status| status.to_string());
            self.with(table::ANSWERS, &[&code], stats.sum(|worker| worker.answers(place)) as f64);
        }
        for (place, code) in codes().enumerate() {
            let name = code.map_or("other".to_owned(), |code| code.to_string());
            for closer in Closer::ALL {
                let count = stats.sum(|worker| worker.closes(place, *closer));
                // Those that cannot be would be most of them.
                if count > 0 || may_be(code, *closer) {
                    self.with(table::CLOSES, &[&name, closer.as_str()], count as f64);
                }
                if code == Some(close::SLOW.code) && *closer == Closer::Server {
                    self.put(table::SLOW, count as f64);
                }
            }
        }
        for speaks in Speaks::ALL {
            let opened = stats.sum(|worker| worker.opened_so_far(*speaks));
            self.with(table::OPENED, &[speaks.as_str()], opened as f64);
        }
        self.queue("hub", &stats.hub.inbox);
        self.put(table::HUB_BUSY, stats.hub.thread.busy().as_secs_f64());
        for (index, worker) in stats.workers.iter().enumerate() {
            let index = index.to_string();
            for speaks in Speaks::ALL {
                self.with(table::CONNECTIONS, &[&index, speaks.as_str()], worker.open(*speaks) as f64);
            }
            self.with(table::BUSY, &[&index], worker.thread.busy().as_secs_f64());
            self.with(table::OUTBOX, &[&index], worker.outbox_bytes.get() as f64);
            self.queue(&format!("worker{index}"), &worker.inbox);
        }
        self.put(table::KICKS, stats.hub.kicks.get() as f64);
        self.put(table::NOTICES, stats.hub.notices.get() as f64);
        self.put(table::MISSED, stats.events_missed.get() as f64);
    }

    fn process(&mut self, process: &Process) {
        let count = |count: u64| count as f64;
        let found = [
            (table::CPU, process.cpu.map(|cpu| cpu.as_secs_f64())),
            (table::RESIDENT, process.resident.map(count)),
            (table::VIRTUAL, process.virtual_memory.map(count)),
            (table::FDS, process.open_fds.map(count)),
            (table::FDS_MAX, process.max_fds.map(count)),
        ];
        for (row, value) in found {
            if let Some(value) = value {
                self.put(row, value);
            }
        }
    }

    fn metrics(mut self) -> Vec<Metric> {
        let metric = |row: &Definition| Metric {
            name: row.name.into(),
            kind: row.kind,
            unit: row.unit().map(str::to_owned),
            help: row.help.into(),
            labels: row.labels.iter().map(|label| label.to_string()).collect(),
            samples: self.0.remove(row.name).unwrap_or_default(),
        };
        table::ALL.iter().map(metric).collect()
    }
}

/// Is it to be expected that somebody closes with this code? What comes unexpected is shown, too.
fn may_be(code: Option<u16>, closer: Closer) -> bool {
    match (code, closer) {
        (Some(1006), closer) => closer == Closer::Nobody,
        (_, Closer::Nobody) => false,
        (Some(1005) | None, closer) => closer == Closer::Client,
        (Some(1000 | 1001), Closer::Client) => true,
        (Some(_), closer) => closer == Closer::Server,
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogCounts;
    use crate::stats::table::ALL;

    #[test]
    fn every_row_of_the_table_gets_samples() {
        let stats = Stats::new(2);
        let counts = Counts {
            clients: 1,
            users: 1,
            rooms: 1,
            messages: 1,
            rate: 1.0,
            bans: 0,
            mutes: 0,
            health: Health::Good,
            log: LogCounts::default(),
        };
        let info = Info {
            version: "1",
            pid: 1,
            since: SystemTime::now(),
            listen: Vec::new(),
            config: None,
            certificate_until: Some(SystemTime::now()),
            clients_max: 1,
            store: "sqlite",
            store_path: None,
            drain: None,
            store_max: Some(1),
        };
        let mut found = Found::default();
        found.daemon(Phase::Serving, &counts, &info);
        found.counted(&stats);
        found.put(table::WATCHERS, 0.0);
        found.process(&Process::read());
        for name in found.0.keys() {
            assert!(table::find(name).is_some(), "{name} is not in the table");
        }
        let metrics = found.metrics();
        assert_eq!(metrics.len(), ALL.len());
        for metric in metrics {
            assert!(!metric.samples.is_empty(), "{}", metric.name);
            let mut series: Vec<_> = metric.samples.iter().map(|sample| &sample.labels).collect();
            series.sort();
            series.dedup();
            assert_eq!(series.len(), metric.samples.len(), "{}: a series stands twice", metric.name);
        }
    }
}
