//! The pace of planned looks (`PLANNED_CALLS_PER_SEC`). Time is handed in.

use std::time::Duration;

use tokio::time::Instant;

/// What was not used does not add up: the most that may be claimed at once is what this much time allows.
const MOST_AT_ONCE: Duration = Duration::from_millis(500);

/// Allows so many calls a second.
#[derive(Debug)]
pub struct Pace {
    /// The calls that may begin now. Negative after looks that took more calls than one.
    left: f64,
    since: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        // As much as is allowed at once.
        Self { left: f64::MAX, since: None }
    }
}

impl Pace {
    /// The calls that may begin now, at so many a second.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are small, and negative is none"
    )]
    pub fn allowed(&mut self, per_second: f64, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(*self.since.get_or_insert(now));
        self.since = Some(now);
        let most = (per_second * MOST_AT_ONCE.as_secs_f64()).max(1.0);
        self.left = (self.left + per_second * elapsed.as_secs_f64()).min(most);
        self.left as usize
    }

    /// Counts calls, or gives back those that were not made.
    pub fn count(&mut self, calls: i64) {
        #[expect(clippy::cast_precision_loss, reason = "a few calls")]
        let calls = calls as f64;
        self.left -= calls;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_kept_over_a_minute() {
        for per_second in [0.5, 2.0, 15.0, 30.0] {
            let (mut pace, start) = (Pace::default(), Instant::now());
            let mut calls = 0;
            for step in 0..600_u64 {
                let now = start + Duration::from_millis(100 * step);
                let allowed = pace.allowed(per_second, now);
                pace.count(i64::try_from(allowed).unwrap());
                calls += allowed;
            }
            #[expect(clippy::cast_precision_loss, reason = "a few calls")]
            let rate = calls as f64 / 60.0;
            assert!(
                rate <= per_second + (per_second / 2.0).max(1.0) / 60.0 + 1e-9 && rate > per_second * 0.97,
                "{per_second}: {rate}"
            );
        }
    }

    #[test]
    fn unused_calls_do_not_add_up() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.allowed(10.0, start);
        assert_eq!(pace.allowed(10.0, start + Duration::from_secs(3600)), 5);
        pace.count(8);
        assert_eq!(pace.allowed(10.0, start + Duration::from_secs(3600)), 0, "a war took more calls than one");
        assert_eq!(pace.allowed(10.0, start + Duration::from_millis(3_600_400)), 1);
    }
}
