//! Doing many things evenly over a time: how many should be done by now, and when the next is due.
//!
//! A law without a clock: whoever does the things hands in how much time has passed.

use std::time::Duration;

/// So many things, evenly over so much time: the last of them is due when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    count: u64,
    over: Duration,
}

impl Pace {
    /// `over` nothing at all: everything is due at once.
    pub fn new(count: u64, over: Duration) -> Self {
        Pace { count, over }
    }

    /// So many each second; `None` where the last would come later than a clock can tell. The rate is
    /// more than 0.
    pub fn at_rate(count: u64, each_second: f64) -> Option<Self> {
        let over = Duration::try_from_secs_f64(count as f64 / each_second).ok()?;
        Some(Pace { count, over })
    }

    /// How many should be done after so long.
    pub fn due(&self, elapsed: Duration) -> u64 {
        if elapsed >= self.over {
            return self.count;
        }
        let share = u128::from(self.count).saturating_mul(elapsed.as_nanos()) / self.over.as_nanos();
        // Less than `count`, as less than the whole time has passed.
        u64::try_from(share).unwrap_or(self.count)
    }

    /// When the `nth` (from 1) becomes due.
    pub fn moment(&self, nth: u64) -> Duration {
        if nth >= self.count {
            return self.over;
        }
        let nanos = u128::from(nth).saturating_mul(self.over.as_nanos()).div_ceil(u128::from(self.count));
        Duration::from_nanos_u128(nanos.min(self.over.as_nanos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_at_first_and_all_in_the_end() {
        let pace = Pace::new(4, Duration::from_secs(60));
        let due = |seconds| pace.due(Duration::from_secs(seconds));
        assert_eq!([0, 14, 15, 30, 59, 60, 61].map(due), [0, 0, 1, 2, 3, 4, 4]);
        assert_eq!(pace.moment(1), Duration::from_secs(15));
        assert_eq!(Pace::new(7, Duration::ZERO).due(Duration::ZERO), 7);
        assert_eq!(Pace::new(0, Duration::from_secs(1)).due(Duration::from_millis(1)), 0);
        assert_eq!(Pace::at_rate(100, 50.0), Some(Pace::new(100, Duration::from_secs(2))));
        assert_eq!(Pace::at_rate(u64::MAX, f64::MIN_POSITIVE), None);
    }

    proptest! {
        #[test]
        fn it_never_goes_back_never_runs_ahead_and_comes_to_its_end(
            count in 0_u64..100_000_000,
            over in 0_u64..=200_000_000_000_000,
            mut moments in prop::collection::vec(0_u64..=250_000_000_000_000, 2..20),
        ) {
            let pace = Pace::new(count, Duration::from_nanos(over));
            moments.sort_unstable();
            let due: Vec<u64> = moments.iter().map(|at| pace.due(Duration::from_nanos(*at))).collect();
            prop_assert!(due.is_sorted());
            for (at, due) in moments.iter().zip(due) {
                prop_assert!(u128::from(due) * u128::from(over) <= u128::from(count) * u128::from(*at) || *at >= over);
                // Nor is it one too late.
                prop_assert!(u128::from(due + 1) * u128::from(over) > u128::from(count) * u128::from(*at) || due == count);
            }
            prop_assert_eq!(pace.due(Duration::from_nanos(over)), count);
        }

        #[test]
        fn each_is_due_at_its_moment_and_not_before(
            count in 1_u64..1_000_000,
            over in 1_u64..=100_000_000_000_000,
            nth in 1_u64..1_000_000,
        ) {
            let pace = Pace::new(count, Duration::from_nanos(over));
            let nth = nth.min(count);
            let moment = pace.moment(nth);
            prop_assert!(pace.due(moment) >= nth);
            if let Some(before) = moment.checked_sub(Duration::from_nanos(1)) {
                prop_assert!(pace.due(before) < nth);
            }
        }
    }
}
