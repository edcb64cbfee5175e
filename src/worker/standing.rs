//! Whether a request needs a call at all, and whether an answer is the one that was asked for. Pure functions of values.

use std::time::Duration;

use crate::{clock::Timestamp, queue::Lease, store::Freshness};

/// A call that began this long after a request was made answers it, whatever the producer's clock is off by.
pub const CLOCKS_APART: Duration = Duration::from_secs(60);

/// What the API's `max-age` is believed at most.
pub const LONGEST_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Where a leased request stands before any call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It needs a call.
    Call,
    /// What is stored answers it.
    Fresh,
    /// The API would give what is stored until after this time, and somebody asked for then.
    Later(Timestamp),
}

/// Compares what was asked for with what is stored.
#[must_use]
pub fn standing(lease: &Lease, stored: Option<&Freshness>, now: Timestamp) -> Standing {
    let Some(stored) = stored.filter(|stored| stored.fetched_at <= now + CLOCKS_APART) else {
        return Standing::Call;
    };
    if stored.fetched_at >= lease.last_asked + CLOCKS_APART {
        return Standing::Fresh;
    }
    let fresh_until = stored.fresh_until.min(stored.fetched_at + LONGEST_MAX_AGE);
    if now >= fresh_until {
        return Standing::Call;
    }
    if lease.last_asked > fresh_until { Standing::Later(lease.last_asked) } else { Standing::Fresh }
}

/// After a call: whether its answer is what was asked for, or until when the newest request has to wait.
#[must_use]
pub fn still_wanted_at(lease: &Lease, began: Timestamp, fresh_until: Timestamp) -> Option<Timestamp> {
    (lease.last_asked > began + CLOCKS_APART && lease.last_asked > fresh_until).then_some(lease.last_asked)
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

    fn lease(last_asked: Timestamp) -> Lease {
        Lease {
            object: "clan:2PP".parse().unwrap(),
            token: LeaseToken("t".to_owned()),
            merges: 1,
            priority: Priority::High,
            first_asked: last_asked,
            last_asked,
            attempts: 0,
            lapses: 0,
            held: 0,
            held_for: None,
            expires: NOW + seconds(15),
        }
    }

    fn stored(fetched_at: Timestamp, fresh_until: Timestamp) -> Freshness {
        Freshness { fetched_at, fresh_until, league: None }
    }

    #[test]
    fn an_object_never_fetched_needs_a_call() {
        assert_eq!(standing(&lease(NOW), None, NOW), Standing::Call);
    }

    #[test]
    fn a_call_that_began_a_minute_after_the_request_satisfies_it() {
        let asked = NOW - seconds(600);
        let just = stored(asked + seconds(60), asked + seconds(61));
        assert_eq!(standing(&lease(asked), Some(&just), NOW), Standing::Fresh);
        let too_early = stored(asked + seconds(59), asked + seconds(61));
        assert_eq!(standing(&lease(asked), Some(&too_early), NOW), Standing::Call);
    }

    #[test]
    fn inside_max_age_no_call_is_spent() {
        let fresh = stored(NOW - seconds(30), NOW + seconds(30));
        assert_eq!(standing(&lease(NOW), Some(&fresh), NOW), Standing::Fresh);
        assert_eq!(standing(&lease(NOW), Some(&stored(NOW - seconds(30), NOW)), NOW), Standing::Call);
    }

    #[test]
    fn max_age_is_believed_for_an_hour_at_most() {
        let eternal = stored(NOW - seconds(3601), NOW + seconds(999_999));
        assert_eq!(standing(&lease(NOW), Some(&eternal), NOW), Standing::Call);
    }

    #[test]
    fn a_request_for_later_than_max_age_is_delayed_until_then_and_never_answered_early() {
        let fresh = stored(NOW - seconds(30), NOW + seconds(30));
        let later = NOW + seconds(120);
        assert_eq!(standing(&lease(later), Some(&fresh), NOW), Standing::Later(later));
        assert_eq!(still_wanted_at(&lease(later), NOW, NOW + seconds(30)), Some(later));
        assert_eq!(still_wanted_at(&lease(NOW + seconds(59)), NOW, NOW), None);
    }

    #[test]
    fn a_stored_time_far_in_the_future_is_not_believed() {
        let future = stored(NOW + seconds(61), NOW + seconds(100));
        assert_eq!(standing(&lease(NOW - seconds(600)), Some(&future), NOW), Standing::Call);
    }
}
