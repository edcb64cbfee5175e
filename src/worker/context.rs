//! The values that all stages of one run share, and the ways in which any of them ends the run.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::{
    Worker,
    deadline::Deadline,
    flow::Flow,
    halt::{Force, Halt},
    in_hand::InHand,
    keys::KeySlots,
    planned::PlannedLooks,
    report::{StopReason, Tally},
};
use crate::{
    api::budget::KeyPool,
    clock::ServerTime,
    model::Reason,
    queue::{Lease, Queue, QueueError, SharedState},
    store::{Store, StoreError},
};

// When a run ends, a database without a response for this long counts as down. A shorter silence may just be a slow statement.
const DATABASE_SILENCE_TIMEOUT: Duration = Duration::from_secs(4);

/// The queue's time is read again before any lease when the clocks have moved apart by more than this.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// The shared state of a run.
#[derive(Debug)]
pub struct RunContext<'a, Q, S> {
    pub worker: &'a Worker<Q, S>,
    pub time: &'a ServerTime,
    pub deadline: &'a Deadline,
    pub halt: &'a Halt,
    pub tally: &'a Mutex<Tally>,
    pub slots: &'a KeySlots<'a, Q>,
    pub flow: Flow,
    /// Every request that this run has leased and not settled.
    pub in_hand: InHand,
    /// What to do with calls to spare; `None` in a run that ends with the queue.
    pub planned: Option<PlannedLooks>,
}

impl<Q: Queue + SharedState, S: Store> RunContext<'_, Q, S> {
    /// The keys of this run.
    pub const fn pool(&self) -> &KeyPool {
        self.slots.keys()
    }

    /// The number of keys of this deployment, whichever run holds them.
    pub fn all_keys(&self) -> usize {
        // A key that was just rejected may still be held.
        self.worker.api.key_store.keys().len().max(self.pool().fingerprints().len())
    }

    /// `LEASE_SECONDS`, but never past the end of the run plus a margin.
    pub fn lease_duration(&self) -> Duration {
        let lease = self.worker.config.lease;
        let left = self.deadline.end().saturating_duration_since(Instant::now());
        lease.min(left + lease / 2)
    }

    /// Shares with other runs which keys cool down, whichever call met the 429.
    pub async fn share_cooldowns(&self) {
        if self.pool().cooldowns().is_empty() {
            return;
        }
        if let Err(error) = self.slots.share_cooldowns().await {
            warn!(error = %error, "could not share the cooldown of a key with other runs");
        }
    }

    /// Records the failure of one request.
    pub fn request_failed(&self, lease: &Lease, reason: &Reason) {
        tracing::debug!(object = %lease.object, attempts = lease.attempts, reason = %reason, "a request failed");
        self.tally.lock().error(format!("{}: {reason}", lease.object));
    }

    /// Ends the run because all calls of this day are made. Requests that were not started are released.
    pub fn day_used_up(&self) {
        self.halt.end(Force::StartNothing, StopReason::DailyQuotaExhausted, None);
    }

    /// Ends the run because the queue cannot be used.
    pub fn queue_down(&self, error: &QueueError) {
        self.halt.end(Force::StartNothing, StopReason::QueueDown, Some(error.to_string()));
    }

    /// Ends the run because the database could not be used; it was asked at `asked`. Returns false when the run was over before the
    /// database had its time to answer, which says nothing about the database.
    pub fn store_failed(&self, error: &StoreError, asked: Instant) -> bool {
        let is_over = matches!(error, StoreError::Locked { .. }) && Instant::now() >= self.deadline.end();
        let waited = if is_over { "; no time was left to wait for it" } else { "" };
        let failure = format!("{error}{waited}");
        if (is_over || matches!(error, StoreError::OutOfTime { .. })) && asked.elapsed() < DATABASE_SILENCE_TIMEOUT {
            warn!(error = %error, "the database was too slow for the end of this run; the rest is returned to the queue");
            self.tally.lock().error(failure);
            self.halt.end(Force::StartNothing, StopReason::Deadline, None);
            return false;
        }
        self.halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(failure));
        true
    }
}
