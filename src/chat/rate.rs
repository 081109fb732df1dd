//! A token bucket fed with the time: so many at once, so many a second for ever.
//!
//! Pure arithmetic. What to do with one who asks too often is the caller's affair.

use std::time::Duration;

/// The longest that anybody is told to wait, also where the rate is zero.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Starts full.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: f64,
    rate_per_s: f64,
    /// When `tokens` was right, in nanoseconds; every connection has a few of these, so they are small.
    at: u64,
    burst: u32,
}

impl TokenBucket {
    /// `rate_per_s`: tokens that come back each second; `burst`: how many there can be, at least one.
    pub fn new(rate_per_s: f64, burst: u32) -> Self {
        let burst = burst.max(1);
        TokenBucket { tokens: f64::from(burst), rate_per_s: rate_per_s.max(0.0), at: 0, burst }
    }

    /// Takes one token. `now` is any clock that does not go back; where it does, no token comes.
    ///
    /// # Errors
    ///
    /// How long until there is one. Nothing is taken then.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.tokens = (self.tokens + self.gained(now)).min(f64::from(self.burst));
        self.at = self.at.max(nanos(now));
        // A hair below one is one: rounding must not cost a client that waited as it was told.
        if self.tokens >= 0.999_999 {
            self.tokens = (self.tokens - 1.0).max(0.0);
            return Ok(());
        }
        let missing = 1.0 - self.tokens;
        Err(Duration::try_from_secs_f64(missing / self.rate_per_s).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT))
    }

    /// Has everything come back that was ever taken?
    pub fn is_full(&self, now: Duration) -> bool {
        self.tokens + self.gained(now) >= f64::from(self.burst)
    }

    fn gained(&self, now: Duration) -> f64 {
        Duration::from_nanos(nanos(now).saturating_sub(self.at)).as_secs_f64() * self.rate_per_s
    }
}

/// Enough for 584 years.
fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(2.0, 3);
        let now = Duration::from_secs(100);
        assert!((0..3).all(|_| bucket.take(now).is_ok()));
        let wait = bucket.take(now).unwrap_err();
        assert!(wait > Duration::from_millis(490) && wait <= Duration::from_millis(501), "{wait:?}");
        assert!(bucket.take(now + wait).is_ok());
    }

    #[test]
    fn a_rate_of_nothing_waits_but_does_not_panic() {
        let mut bucket = TokenBucket::new(0.0, 0);
        assert!(bucket.take(Duration::ZERO).is_ok());
        assert_eq!(bucket.take(Duration::from_secs(9)), Err(LONGEST_WAIT));
    }

    proptest! {
        /// In any stretch of time no more come through than the burst and what the rate gives.
        #[test]
        fn never_more_than_burst_and_rate(
            rate in 0.1f64..200.0,
            burst in 1u32..50,
            steps in prop::collection::vec(0u64..500, 1..400),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut now, mut taken) = (Duration::ZERO, 0u32);
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => prop_assert!(bucket.clone().take(now + wait).is_ok()),
                }
            }
            let most = f64::from(burst) + now.as_secs_f64() * rate;
            prop_assert!(f64::from(taken) <= most * 1.01 + 1.0, "{taken} > {most}");
        }
    }
}
