//! Groups of requests that are committed and settled together.

use std::time::Duration;

use super::hand_over::{Ended, How};
use crate::{
    clock::Timestamp,
    model::{Fetched, FollowUp, OutboxEntry, Outcome, Reason},
    queue::{Lease, Settlement},
};

// A larger group saves round trips, but holds its row locks longer and delays its first response.
const MAX_GROUP_SIZE: usize = 64;

// A commit has each document in memory several times.
const MAX_GROUP_BYTES: usize = 2 * 1024 * 1024;

// Doubled after every further failed attempt. The first retry comes with the next run, when a short trouble has passed.
const FIRST_ATTEMPT_DELAY: Duration = Duration::from_secs(2 * 60);

const MAX_ATTEMPT_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Requests that are stored and settled together.
#[derive(Debug, Default)]
pub struct Group {
    pub answered: Vec<(Lease, Fetched)>,
    /// The size of all documents.
    bytes: usize,
    pub settlements: Vec<(Lease, Settlement)>,
    pub outcomes: Vec<Outcome>,
    pub follow_ups: Vec<FollowUp>,
    /// The outbox entries of the commit, to be published with the settlements.
    pub entries: Vec<OutboxEntry>,
}

impl Group {
    pub const fn len(&self) -> usize {
        self.answered.len() + self.settlements.len()
    }

    pub const fn is_full(&self) -> bool {
        self.len() >= MAX_GROUP_SIZE || self.bytes >= MAX_GROUP_BYTES
    }

    /// Adds a request: with its response, to be stored, or with the settlement of its end.
    pub fn add(&mut self, ended: Ended, max_attempts: u32, now: Timestamp) {
        let Ended { lease, how } = ended;
        match how {
            How::Fresh(next_poll) => {
                self.follow_ups.extend(next_poll);
                self.settle(lease, Settlement::Done, Outcome::Fresh);
            }
            How::Later(until, next_poll) => {
                self.follow_ups.extend(next_poll);
                self.settle(lease, Settlement::Later { until }, Outcome::Fresh);
            }
            How::Answered(mut fetched) => {
                fetched.asked = lease.asked;
                self.bytes += fetched.bytes();
                self.answered.push((lease, *fetched));
            }
            // Nobody waits for a planned look, so a failed one is only put off, in the plan. Polls of a war that goes on are not lost.
            How::Dead { .. } if lease.planned => self.settle(lease, Settlement::Release, Outcome::Released),
            How::Failed(_, next_poll) if lease.planned => {
                self.follow_ups.extend(next_poll);
                self.settle(lease, Settlement::Release, Outcome::Released);
            }
            How::Dead { reason, body } => {
                self.settle(lease, Settlement::Dead { reason, body }, Outcome::DeadLetter);
            }
            How::Failed(reason, next_poll) => self.settle_failure(lease, reason, next_poll, max_attempts, now),
            How::Held(reason) => {
                tracing::debug!(object = %lease.object, reason = %reason, "a request is returned to the queue, and held");
                self.settle(lease, Settlement::Held { reason }, Outcome::Released);
            }
            How::Released => self.settle(lease, Settlement::Release, Outcome::Released),
        }
    }

    pub fn settle(&mut self, lease: Lease, settlement: Settlement, outcome: Outcome) {
        self.settlements.push((lease, settlement));
        self.outcomes.push(outcome);
    }

    /// Delays a request after a failed attempt, or ends it as a dead letter after the last one. A war that goes on is polled again
    /// whatever failed: a dead letter would stop its polls, and nobody would see how it ends.
    fn settle_failure(
        &mut self,
        lease: Lease,
        reason: Reason,
        next_poll: Option<FollowUp>,
        max_attempts: u32,
        now: Timestamp,
    ) {
        let attempts = lease.attempts + 1;
        if attempts < max_attempts {
            let until = now + delay_after(lease.attempts, fastrand::f64());
            return self.settle(lease, Settlement::Failed { until, reason }, Outcome::Delayed);
        }
        if let Some(next_poll) = next_poll {
            let until = next_poll.request.due;
            self.follow_ups.push(next_poll);
            return self.settle(lease, Settlement::Later { until }, Outcome::Delayed);
        }
        let detail = format!("{attempts} attempts failed, the last with {reason}");
        let reason = Reason::new("attempts_used_up", detail);
        self.settle(lease, Settlement::Dead { reason, body: None }, Outcome::DeadLetter);
    }
}

/// The delay after the attempt that follows `attempts` earlier failures: 2, 4, 8 … minutes, at most a day. `draw` from [0, 1) picks a
/// point in its second half, so that what failed together is not tried again together.
fn delay_after(attempts: u32, draw: f64) -> Duration {
    let full = FIRST_ATTEMPT_DELAY.saturating_mul(1 << attempts.min(10)).min(MAX_ATTEMPT_DELAY);
    full.mul_f64(0.5 + draw / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_within_their_second_half() {
        assert_eq!(delay_after(0, 0.0), Duration::from_secs(60));
        assert_eq!(delay_after(0, 0.999_999).as_secs(), 119);
        assert_eq!(delay_after(1, 0.0), Duration::from_secs(120));
        assert_eq!(delay_after(2, 0.0), Duration::from_secs(240));
        assert!(delay_after(4_000_000, 0.5) <= Duration::from_secs(24 * 60 * 60));
    }
}
