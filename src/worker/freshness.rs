//! Decides whether a request needs a call at all, and whether a response is recent enough for it. Pure functions of values.

use std::time::Duration;

use crate::{clock::Timestamp, queue::Lease, store::Freshness};

/// The most by which a producer's clock may differ from ours: a call that began this long after a request serves it for certain.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The longest `max-age` of the API that is believed.
pub const MAX_TRUSTED_AGE: Duration = Duration::from_secs(60 * 60);

/// The freshness decision about a leased request, before any call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request needs a call.
    Call,
    /// The stored copy is fresh enough.
    Fresh,
    /// The API would repeat the stored copy now, and the request is for later: it waits until this time.
    Later(Timestamp),
}

/// Compares a request with the stored copy.
#[must_use]
pub fn decide(lease: &Lease, stored: Option<&Freshness>, now: Timestamp) -> Decision {
    // A row from the future is a wrong clock, not a fresh copy.
    let Some(stored) = stored.filter(|stored| stored.fetched_at <= now + MAX_CLOCK_SKEW) else {
        return Decision::Call;
    };
    if stored.fetched_at >= lease.last_requested + MAX_CLOCK_SKEW {
        return Decision::Fresh;
    }
    let fresh_until = believed(stored);
    if now >= fresh_until {
        return Decision::Call;
    }
    if lease.last_requested > fresh_until { Decision::Later(lease.last_requested) } else { Decision::Fresh }
}

/// The end of a stored copy's `max-age`, as far as it is believed.
#[must_use]
pub fn believed(stored: &Freshness) -> Timestamp {
    stored.fresh_until.min(stored.fetched_at + MAX_TRUSTED_AGE)
}

/// After a call: the time until which the newest request for the object still has to wait, if its response is too early for it.
#[must_use]
pub fn still_wanted_at(lease: &Lease, began: Timestamp, fresh_until: Timestamp) -> Option<Timestamp> {
    (lease.last_requested > began + MAX_CLOCK_SKEW && lease.last_requested > fresh_until)
        .then_some(lease.last_requested)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Priority,
        queue::{Lease, LeaseToken},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn lease(last_requested: Timestamp) -> Lease {
        Lease {
            object: "clan:2PP".parse().unwrap(),
            token: LeaseToken("t".to_owned()),
            merges: 1,
            priority: Priority::High,
            first_requested: last_requested,
            last_requested,
            attempts: 0,
            lapses: 0,
            held: 0,
            held_for: None,
            asked: None,
            planned: false,
            expires: NOW + seconds(15),
        }
    }

    fn stored(fetched_at: Timestamp, fresh_until: Timestamp) -> Freshness {
        Freshness { fetched_at, fresh_until, league: None }
    }

    #[test]
    fn object_never_fetched_needs_call() {
        assert_eq!(decide(&lease(NOW), None, NOW), Decision::Call);
    }

    #[test]
    fn call_a_minute_after_request_is_fresh() {
        let asked = NOW - seconds(600);
        let just = stored(asked + seconds(60), asked + seconds(61));
        assert_eq!(decide(&lease(asked), Some(&just), NOW), Decision::Fresh);
        let too_early = stored(asked + seconds(59), asked + seconds(61));
        assert_eq!(decide(&lease(asked), Some(&too_early), NOW), Decision::Call);
    }

    #[test]
    fn copy_within_max_age_is_fresh() {
        let fresh = stored(NOW - seconds(30), NOW + seconds(30));
        assert_eq!(decide(&lease(NOW), Some(&fresh), NOW), Decision::Fresh);
        assert_eq!(decide(&lease(NOW), Some(&stored(NOW - seconds(30), NOW)), NOW), Decision::Call);
    }

    #[test]
    fn max_age_is_believed_for_an_hour() {
        let eternal = stored(NOW - seconds(3601), NOW + seconds(999_999));
        assert_eq!(decide(&lease(NOW), Some(&eternal), NOW), Decision::Call);
    }

    #[test]
    fn request_beyond_max_age_waits_until_then() {
        let fresh = stored(NOW - seconds(30), NOW + seconds(30));
        let later = NOW + seconds(120);
        assert_eq!(decide(&lease(later), Some(&fresh), NOW), Decision::Later(later));
        assert_eq!(still_wanted_at(&lease(later), NOW, NOW + seconds(30)), Some(later));
        assert_eq!(still_wanted_at(&lease(NOW + seconds(59)), NOW, NOW), None);
    }

    #[test]
    fn stored_time_in_future_is_not_believed() {
        let future = stored(NOW + seconds(61), NOW + seconds(100));
        assert_eq!(decide(&lease(NOW - seconds(600)), Some(&future), NOW), Decision::Call);
    }
}
