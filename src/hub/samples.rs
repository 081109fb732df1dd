//! How fast counters go up, from two looks at them. Nothing is kept before somebody asks.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// A rate is of at least so long: of less it would jump with each message.
const SHORTEST: Duration = Duration::from_millis(900);

/// The last look at each counter. Whoever owns it forgets those that are no more.
pub(super) struct Samples<K>(HashMap<K, Sample>);

struct Sample {
    at: Duration,
    count: u64,
    /// In thousandths a second.
    rate: u64,
}

impl<K> Default for Samples<K> {
    fn default() -> Self {
        Samples(HashMap::new())
    }
}

impl<K: Eq + Hash> Samples<K> {
    /// Thousandths a second since the last look; at the first one since `begun`, when the counter
    /// was 0, or nothing where that is not known. Looks that follow quickly share one answer.
    pub(super) fn rate(&mut self, key: K, count: u64, begun: Option<Duration>, now: Duration) -> u64 {
        let sample = self.0.entry(key).or_insert_with(|| {
            let rate = begun.map_or(0, |begun| per_second(count, now.saturating_sub(begun).max(SHORTEST)));
            Sample { at: now, count, rate }
        });
        let passed = now.saturating_sub(sample.at);
        if passed >= SHORTEST {
            let rate = per_second(count.saturating_sub(sample.count), passed);
            *sample = Sample { at: now, count, rate };
        }
        sample.rate
    }

    pub(super) fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    pub(super) fn keep(&mut self, is_there: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| is_there(key));
        self.0.shrink_to(self.0.len() * 2);
    }
}

fn per_second(count: u64, passed: Duration) -> u64 {
    let thousandths = u128::from(count) * 1_000_000 / passed.as_millis().max(1);
    u64::try_from(thousandths).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_what_came_since_the_last_look() {
        let at = Duration::from_millis;
        let mut samples = Samples::default();
        assert_eq!(samples.rate("a", 100, Some(at(0)), at(10_000)), 10_000);
        // A second operator looks at once.
        assert_eq!(samples.rate("a", 150, Some(at(0)), at(10_100)), 10_000);
        assert_eq!(samples.rate("a", 150, Some(at(0)), at(12_000)), 25_000);
        assert_eq!(samples.rate("a", 150, Some(at(0)), at(13_000)), 0);
        assert_eq!(samples.rate("b", 7, None, at(13_000)), 0);
        // One that has just come is not a thousand times as fast as it is.
        assert_eq!(samples.rate("c", 9, Some(at(13_000)), at(13_001)), 10_000);
        samples.keep(|key| *key == "b");
        assert_eq!(samples.0.len(), 1);
        samples.forget(&"b");
        assert!(samples.0.is_empty());
    }
}
