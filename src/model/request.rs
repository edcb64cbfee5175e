//! Refresh requests, from the mailbox or made by the worker.

use std::time::Duration;

use super::{ObjectId, Priority};
use crate::clock::Timestamp;

/// A request time further in the future means "not before". A nearer one comes from a clock that is slightly ahead.
pub const MAX_CLOCK_LEAD: Duration = Duration::from_secs(60);

/// Bounds the wait of a request with wrong times.
pub const MAX_REQUEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A request to refresh one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshRequest {
    pub object: ObjectId,
    pub priority: Priority,
    /// The time of the request. A refresh must be newer, and the order within a priority follows it.
    pub asked: Timestamp,
    /// The earliest time at which it may be leased.
    pub due: Timestamp,
    /// Failed attempts, as counted by the producer.
    pub attempts: u32,
    /// The time at which a reader asked; `None` for requests of operators, events and responses. Unlike `asked` it is never in
    /// the future.
    pub reader_asked: Option<Timestamp>,
}

impl RefreshRequest {
    /// A request as of now, due at once.
    #[must_use]
    pub const fn now(object: ObjectId, priority: Priority, now: Timestamp) -> Self {
        Self { object, priority, asked: now, due: now, attempts: 0, reader_asked: None }
    }

    /// A request from the mailbox. It is due when the data that the producer knows of is outdated, and not before a request
    /// time in the future. All times are clamped to [epoch, now + 24 h].
    #[must_use]
    pub fn from_mail(
        object: ObjectId,
        priority: Priority,
        requested_at: Timestamp,
        last_updated: Option<Timestamp>,
        retry_count: u32,
        now: Timestamp,
    ) -> Self {
        // A wrong year must neither hide a request for ever nor overflow a sum.
        let clamp = |time: Timestamp| time.clamp(Timestamp::EPOCH, now + MAX_REQUEST_DELAY);
        let asked = clamp(requested_at);
        let stale_at = last_updated.map_or(Timestamp::EPOCH, |updated| clamp(clamp(updated) + priority.staleness()));
        // Producers write the time from which they want the refresh.
        let not_before = if asked > now + MAX_CLOCK_LEAD { asked } else { Timestamp::EPOCH };
        let due = stale_at.max(not_before);
        // A due request keeps its place in the order of request times.
        let due = if due > now { due } else { asked.min(now) };
        Self { object, priority, asked, due, attempts: retry_count, reader_asked: Some(asked.min(now)) }
    }
}

/// A request that the worker makes because of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowUp {
    pub request: RefreshRequest,
    /// Queued only while there is spare capacity: not when the object is queued already, nor when more requests are ready than
    /// a run can do.
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
    fn request_is_due_when_data_is_outdated() {
        let updated = NOW - Duration::from_secs(10 * 60);
        assert!(mail(NOW, Some(updated), Priority::Critical).due <= NOW);
        assert_eq!(mail(NOW, Some(updated), Priority::High).due, updated + Duration::from_secs(30 * 60));
    }

    #[test]
    fn future_request_waits_unless_clock_is_ahead() {
        let later = NOW + Duration::from_secs(120);
        assert_eq!(mail(later, None, Priority::Low).due, later);
        assert!(mail(NOW + Duration::from_secs(59), None, Priority::Low).due <= NOW);
    }

    #[test]
    fn reader_asked_is_never_in_future() {
        let minute = Duration::from_secs(60);
        assert_eq!(mail(NOW - minute, Some(NOW), Priority::Low).reader_asked, Some(NOW - minute));
        assert_eq!(mail(NOW + minute * 2, None, Priority::Low).reader_asked, Some(NOW));
        assert_eq!(RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::Low, NOW).reader_asked, None);
    }

    #[test]
    fn wild_times_are_clamped() {
        let wild = mail(Timestamp::from_millis(i64::MAX), Some(Timestamp::from_millis(i64::MAX)), Priority::Low);
        assert_eq!((wild.asked, wild.due), (NOW + MAX_REQUEST_DELAY, NOW + MAX_REQUEST_DELAY));
        let ancient = mail(Timestamp::from_millis(i64::MIN), Some(Timestamp::from_millis(i64::MIN)), Priority::Low);
        assert_eq!((ancient.asked, ancient.due), (Timestamp::EPOCH, Timestamp::EPOCH));
    }
}
