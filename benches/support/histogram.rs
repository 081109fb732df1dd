//! Latencies in buckets of less than 1 % width, so that millions of them cost a few kilobytes.

use std::time::Duration;

/// Each power of two is divided into this many buckets.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();

#[derive(Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Histogram { buckets: vec![0; (64 - STEP_BITS as usize + 1) * STEPS as usize], count: 0, max: 0 }
    }

    #[inline]
    pub fn record(&mut self, nanos: u64) {
        let index = if nanos < STEPS {
            nanos
        } else {
            let shift = nanos.ilog2() - STEP_BITS;
            (u64::from(shift) + 1) * STEPS + (nanos >> shift) - STEPS
        };
        self.buckets[index as usize] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    pub fn merge(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The value that `share` (0 to 1) of all values do not exceed, to the bucket's upper edge.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(upper_edge(index as u64).min(self.max));
            }
        }
        self.max()
    }
}

fn upper_edge(index: u64) -> u64 {
    let (group, step) = (index / STEPS, index % STEPS);
    match group.checked_sub(1) {
        None => step,
        Some(shift) => ((u128::from(STEPS + step + 1) << shift) - 1).min(u128::from(u64::MAX)) as u64,
    }
}
