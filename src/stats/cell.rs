//! A counter, a level and a histogram: plain relaxed atomics, no lock, no allocation.
//!
//! Where one thread alone writes, a load and a store do, without a locked instruction; whoever reads
//! sees each number whole, and several of them a moment apart.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// For those that several threads write.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// For those that one thread writes.
    pub fn count(&self, count: u64) {
        self.0.store(self.0.load(Relaxed) + count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What goes up and down; written by one thread.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    pub fn set(&self, level: u64) {
        self.0.store(level, Relaxed);
    }

    /// One of the parts that it is the sum of has changed.
    pub fn change(&self, from: u64, to: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(from).wrapping_add(to), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How full a bounded queue is; written by one thread, now and then.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Level,
    most: Level,
}

impl Queue {
    pub fn set(&self, waiting: usize, most: usize) {
        self.waiting.set(waiting as u64);
        self.most.set(most as u64);
    }

    pub fn waiting(&self) -> u64 {
        self.waiting.get()
    }

    /// The most that can wait; 0 where nobody has looked yet.
    pub fn most(&self) -> u64 {
        self.most.get()
    }
}

/// The bounds of all histograms, in seconds: from what one small room costs to what nobody waits for.
pub const BOUNDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same in nanoseconds.
const NANOS: [u64; 16] = {
    let mut nanos = [0; 16];
    let mut at = 0;
    while at < 16 {
        // Rounded: 0.00025 s is no whole number of nanoseconds in floating point.
        nanos[at] = (BOUNDS[at] * 1e9 + 0.5) as u64;
        at += 1;
    }
    nanos
};

/// How long something took, how often; written by one thread.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one has what is over all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// What a histogram said at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    buckets: [u64; BOUNDS.len() + 1],
    nanos: u64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = &self.buckets[NANOS.partition_point(|bound| *bound < nanos)];
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
        self.nanos.store(self.nanos.load(Relaxed).wrapping_add(nanos), Relaxed);
    }

    pub fn read(&self) -> Reading {
        Reading { buckets: std::array::from_fn(|at| self.buckets[at].load(Relaxed)), nanos: self.nanos.load(Relaxed) }
    }
}

impl Reading {
    /// Two threads' histograms as one.
    pub fn and(self, other: Reading) -> Reading {
        Reading {
            buckets: std::array::from_fn(|at| self.buckets[at] + other.buckets[at]),
            nanos: self.nanos.wrapping_add(other.nanos),
        }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// In seconds.
    pub fn sum(&self) -> f64 {
        self.nanos as f64 / 1e9
    }

    /// How many were at most each bound, in seconds; the last one, without a bound, has all.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<f64>, u64)> + '_ {
        let bounds = BOUNDS.iter().copied().map(Some).chain([None]);
        bounds.zip(self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_on_a_bound_is_within_it() {
        for bound in BOUNDS {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_nanos((bound * 1e9).round() as u64));
            let first = histogram.read().cumulative().find(|(_, count)| *count == 1).unwrap();
            assert_eq!(first.0, Some(bound));
            histogram.observe(Duration::from_nanos((bound * 1e9).round() as u64 + 1));
            assert_eq!(histogram.read().cumulative().find(|(le, _)| *le == Some(bound)).unwrap().1, 1);
        }
    }

    #[test]
    fn a_level_is_the_sum_of_its_parts() {
        let level = Level::default();
        level.change(0, 10);
        level.change(0, 5);
        level.change(10, 3);
        assert_eq!(level.get(), 8);
        level.change(3, 0);
        level.change(5, 0);
        assert_eq!(level.get(), 0);
    }

    proptest! {
        #[test]
        fn buckets_count_what_was_observed(micros in prop::collection::vec(0u64..20_000_000, 0..60), cut in 0usize..60) {
            let (one, two) = (Histogram::default(), Histogram::default());
            for (at, micros) in micros.iter().enumerate() {
                if at < cut { &one } else { &two }.observe(Duration::from_micros(*micros));
            }
            let both = one.read().and(two.read());
            prop_assert_eq!(both.count(), micros.len() as u64);
            let sum: u64 = micros.iter().sum();
            prop_assert!((both.sum() - sum as f64 / 1e6).abs() < 1e-6);
            for (le, count) in both.cumulative() {
                let within = micros.iter().filter(|m| le.is_none_or(|le| **m as f64 <= (le * 1e6).round())).count();
                prop_assert_eq!(count, within as u64, "{:?}", le);
            }
        }
    }
}
