//! When a certificate is renewed, and how long is waited after a failure.
//!
//! A moment is kept by two clocks: the wall's, which goes on while the machine sleeps and may be set,
//! and the steady one, which is neither. The one that comes first counts, and each moment counts once,
//! so a clock that jumps brings one attempt forward and never a storm of them.

use std::time::{Duration, SystemTime};

use rand::RngExt;
use tokio::time::Instant;

/// The first wait after the CA could not be reached; nobody counts such attempts.
const UNREACHED: Duration = Duration::from_secs(1);
/// The first wait after the CA has refused; CAs count those, and shut out who comes too often.
const REFUSED: Duration = Duration::from_secs(60);
/// The longest waits after either.
const UNREACHED_MOST: Duration = Duration::from_secs(3600);
const REFUSED_MOST: Duration = Duration::from_secs(12 * 3600);
/// How long the wall clock's jumps may go unseen.
const LOOK: Duration = Duration::from_secs(5 * 60);
/// What is left of a long-lived certificate when a failure to renew it becomes an alarm.
const ALARM: Duration = Duration::from_secs(7 * 24 * 3600);
/// Failures to reach the CA that are no alarm while nothing but a self-signed certificate serves: a
/// machine that starts may have no network yet.
const EARLY_FAILURES: u32 = 5;
/// Further ahead nothing is planned.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A moment to wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    wall: SystemTime,
    steady: Instant,
}

impl Due {
    pub(super) fn at(wall: SystemTime) -> Self {
        let ahead = wall.duration_since(SystemTime::now()).unwrap_or_default();
        Due { wall, steady: Instant::now() + ahead.min(FAR) }
    }

    pub(super) fn after(delay: Duration) -> Self {
        let delay = delay.min(FAR);
        Due { wall: SystemTime::now() + delay, steady: Instant::now() + delay }
    }

    /// As people are told.
    pub(super) fn wall(&self) -> SystemTime {
        self.wall
    }

    pub(super) async fn reached(&self) {
        while let Ok(ahead) = self.wall.duration_since(SystemTime::now()) {
            let steady = self.steady.saturating_duration_since(Instant::now());
            if ahead.is_zero() || steady.is_zero() {
                return;
            }
            tokio::time::sleep(ahead.min(steady).min(LOOK)).await;
        }
    }
}

/// When a third of the certificate's life is left, or up to a tenth of that third sooner, so that those
/// who began together do not all come back together.
pub(super) fn renew_at(from: SystemTime, until: SystemTime) -> SystemTime {
    let third = until.duration_since(from).unwrap_or_default() / 3;
    let sooner = third.mul_f64(rand::rng().random_range(0.0..0.1));
    until.checked_sub(third + sooner).unwrap_or(until)
}

/// How long is waited after the `failures`th failure in a row. `reached`: it was the CA that refused.
/// `left`: of the certificate in force; there are several attempts before it ends.
pub(super) fn backoff(failures: u32, reached: bool, left: Option<Duration>) -> Duration {
    let (first, most) = if reached { (REFUSED, REFUSED_MOST) } else { (UNREACHED, UNREACHED_MOST) };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let bound = left.map_or(most, |left| (left / 4).clamp(first, most));
    doubled.min(bound).mul_f64(rand::rng().random_range(0.8..1.2))
}

/// What is left of a certificate's life when a failure to renew it becomes an alarm: a week, or a tenth
/// of a short life.
pub(super) fn alarm_at(from: SystemTime, until: SystemTime) -> Duration {
    ALARM.min(until.duration_since(from).unwrap_or_default() / 10)
}

/// Whether a failure at `now` is an alarm. `in_force`: from when until when a certificate of the CA lasts
/// that serves meanwhile; one that has ended is an alarm however new the failures are. `reached`: the
/// CA has answered.
pub(super) fn is_alarm(
    in_force: Option<(SystemTime, SystemTime)>,
    now: SystemTime,
    reached: bool,
    failures: u32,
) -> bool {
    match in_force {
        Some((from, until)) => !until.duration_since(now).is_ok_and(|left| left >= alarm_at(from, until)),
        None => reached || failures > EARLY_FAILURES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn waits_double_up_to_their_bound() {
        for (failures, least, most) in [(1, 48, 72), (2, 96, 144), (5, 768, 1152)] {
            let waited = backoff(failures, true, None).as_secs();
            assert!((least..=most).contains(&waited), "{failures}: {waited}");
        }
        for failures in [20, u32::MAX] {
            assert!(backoff(failures, true, None) >= REFUSED_MOST.mul_f64(0.8));
            assert!(backoff(failures, true, None) <= REFUSED_MOST.mul_f64(1.2));
            assert!(backoff(failures, false, None) <= UNREACHED_MOST.mul_f64(1.2));
            // A certificate that ends soon is tried for several times more, but a CA is not besieged.
            assert!(backoff(failures, true, Some(4 * REFUSED * 10)) <= REFUSED.mul_f64(12.0));
            assert!(backoff(failures, true, Some(Duration::ZERO)) >= REFUSED.mul_f64(0.8));
        }
        assert!(backoff(1, false, None) < Duration::from_secs(2));
    }

    #[test]
    fn an_alarm_is_a_week_or_a_tenth() {
        assert_eq!(alarm_at(UNIX_EPOCH, UNIX_EPOCH + 90 * DAY), 7 * DAY);
        assert_eq!(alarm_at(UNIX_EPOCH, UNIX_EPOCH + 10 * DAY), DAY);
        assert_eq!(alarm_at(UNIX_EPOCH + DAY, UNIX_EPOCH), Duration::ZERO);
    }

    #[test]
    fn what_serves_decides_whether_a_failure_is_an_alarm() {
        let lasting = Some((UNIX_EPOCH, UNIX_EPOCH + 90 * DAY));
        for (reached, failures) in [(false, 1), (true, 1), (false, 1000), (true, 1000)] {
            let at = |left: Duration| is_alarm(lasting, UNIX_EPOCH + 90 * DAY - left, reached, failures);
            assert!(!at(30 * DAY) && !at(7 * DAY), "there is time");
            assert!(at(7 * DAY - Duration::from_secs(1)) && at(Duration::ZERO));
            assert!(is_alarm(lasting, UNIX_EPOCH + 91 * DAY, reached, failures), "what serves has ended");
        }
        // Nothing of a CA's serves: what it refuses is an alarm at once, a network that comes late is none.
        for (reached, failures, alarm) in [(true, 1, true), (false, 1, false), (false, 5, false), (false, 6, true)] {
            assert_eq!(is_alarm(None, UNIX_EPOCH, reached, failures), alarm, "{reached} {failures}");
        }
    }

    proptest! {
        #[test]
        fn it_is_renewed_with_a_third_left_or_a_little_more(from in 0u64..4_000_000_000, life in 3u64..400_000_000) {
            let (from, life) = (UNIX_EPOCH + Duration::from_secs(from), Duration::from_secs(life));
            let at = renew_at(from, from + life);
            let left = (from + life).duration_since(at).unwrap();
            prop_assert!(left >= life / 3 && left <= life.mul_f64(0.3667), "{left:?} of {life:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_clock_counts() {
        // Tokio's clock is moved here and the wall's is not, as if that had been set back.
        let begun = Instant::now();
        Due::after(DAY).reached().await;
        assert!(begun.elapsed() >= DAY && begun.elapsed() < DAY + LOOK);
        // And as if it had been set forward.
        let begun = Instant::now();
        Due { wall: SystemTime::now() - DAY, steady: begun + DAY }.reached().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
