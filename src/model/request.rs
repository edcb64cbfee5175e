//! A request for one object, read out of the mailbox or made by ourselves.

use std::time::Duration;

use super::{ObjectId, Priority};
use crate::clock::Timestamp;

/// A request made this much in the future is meant "not before"; nearer ones are a clock that is a little ahead.
pub const NOT_BEFORE: Duration = Duration::from_secs(60);

/// No request waits longer than this, whatever times it carries.
pub const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// "Somebody wants this object to be fresh."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshRequest {
    pub object: ObjectId,
    pub priority: Priority,
    /// When it was asked for. This is what a refresh must satisfy, and what gives the request its place.
    pub asked: Timestamp,
    /// Not before this time.
    pub due: Timestamp,
    /// Attempts that failed already, by the count of whoever wrote it.
    pub attempts: u32,
}

impl RefreshRequest {
    /// A request as of now, due at once.
    #[must_use]
    pub const fn now(object: ObjectId, priority: Priority, now: Timestamp) -> Self {
        Self { object, priority, asked: now, due: now, attempts: 0 }
    }

    /// A request out of the mailbox: when it is due follows from how fresh the producer says the data is, and from a
    /// request time in the future. All times are brought into [epoch, now + 24 h].
    #[must_use]
    pub fn from_mail(
        object: ObjectId,
        priority: Priority,
        requested_at: Timestamp,
        last_updated: Option<Timestamp>,
        retry_count: u32,
        now: Timestamp,
    ) -> Self {
        let clamp = |time: Timestamp| time.clamp(Timestamp::EPOCH, now + LONGEST_WAIT);
        let asked = clamp(requested_at);
        let stale_at = last_updated.map_or(Timestamp::EPOCH, |updated| clamp(clamp(updated) + priority.staleness()));
        let not_before = if asked > now + NOT_BEFORE { asked } else { Timestamp::EPOCH };
        let due = stale_at.max(not_before);
        Self { object, priority, asked, due: if due > now { due } else { asked.min(now) }, attempts: retry_count }
    }
}

/// A request that follows from what an answer said; nobody asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowUp {
    pub request: RefreshRequest,
    /// Only while there is capacity to spare: left out when the object waits already, and while more is ready than a run
    /// can do.
    pub is_spare: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    fn mail(requested_at: Timestamp, last_updated: Option<Timestamp>, priority: Priority) -> RefreshRequest {
        RefreshRequest::from_mail("clan:2PP".parse().unwrap(), priority, requested_at, last_updated, 0, NOW)
    }

    #[test]
    fn a_request_is_due_when_the_data_is_older_than_its_class_allows() {
        let updated = NOW - Duration::from_secs(10 * 60);
        assert!(mail(NOW, Some(updated), Priority::Critical).due <= NOW);
        assert_eq!(mail(NOW, Some(updated), Priority::High).due, updated + Duration::from_secs(30 * 60));
    }

    #[test]
    fn a_request_in_the_future_waits_unless_it_is_only_a_clock_ahead() {
        let later = NOW + Duration::from_secs(120);
        assert_eq!(mail(later, None, Priority::Low).due, later);
        assert!(mail(NOW + Duration::from_secs(59), None, Priority::Low).due <= NOW);
    }

    #[test]
    fn no_time_escapes_the_day_ahead() {
        let wild = mail(Timestamp::from_millis(i64::MAX), Some(Timestamp::from_millis(i64::MAX)), Priority::Low);
        assert_eq!((wild.asked, wild.due), (NOW + LONGEST_WAIT, NOW + LONGEST_WAIT));
        let ancient = mail(Timestamp::from_millis(i64::MIN), Some(Timestamp::from_millis(i64::MIN)), Priority::Low);
        assert_eq!((ancient.asked, ancient.due), (Timestamp::EPOCH, Timestamp::EPOCH));
    }
}
