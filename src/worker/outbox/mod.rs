//! The transactional outbox: a commit stores what others have to learn of it in the same transaction, as one entry.
//!
//! ```text
//! commit ──entry──> publish: event stream, readers' keys ──> invalidate tags by HTTP ──> delivered ──> delete
//!                      ↑                                                                          (next commit)
//!               relay: entries that an earlier run left
//! ```
//!
//! **Invariant: what is stored is published.** An entry is deleted only when each target has it. A run that dies before leaves
//! the entry to the relay of another run: at least once, however late. Nothing here fails a request; what cannot be published is
//! reported, and tried again.

mod invalidation;
mod publisher;

use std::{collections::BTreeSet, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tracing::warn;

use self::invalidation::Invalidation;
pub use self::publisher::{Publisher, Unpublished};
use crate::{
    maintenance::invalidate::{Invalidated, Invalidator},
    model::OutboxEntry,
};

// The tags of all commits within this interval share one HTTP request.
const INVALIDATE_INTERVAL: Duration = Duration::from_secs(2);

// After a failed invalidation the application gets time to recover; its tags are kept meanwhile.
const INVALIDATE_COOLDOWN: Duration = Duration::from_secs(30);

// An application that does not respond must not keep tags of later commits waiting for ever.
const INVALIDATE_TIMEOUT: Duration = Duration::from_secs(10);

/// The outbox of one run: the tags to invalidate, and the entries on their way to be deleted.
#[derive(Debug)]
pub struct Outbox<'a> {
    pub invalidation: Invalidation<'a>,
    /// Entries that every target has but the application whose tags are invalidated.
    awaiting: Mutex<BTreeSet<i64>>,
    /// Entries that every target has.
    delivered: Mutex<BTreeSet<i64>>,
}

impl<'a> Outbox<'a> {
    pub fn new(invalidator: Option<&'a Invalidator>) -> Self {
        let invalidation = Invalidation::new(invalidator);
        Self { invalidation, awaiting: Mutex::default(), delivered: Mutex::default() }
    }

    /// Records that the event stream and the readers' keys have an entry. Its objects were added to the invalidation before.
    pub fn published(&self, entry: &OutboxEntry) {
        let awaits = self.invalidation.is_enabled() && !entry.changed.is_empty();
        (if awaits { &self.awaiting } else { &self.delivered }).lock().insert(entry.id);
    }

    /// True when this run has published the entry already.
    pub fn knows(&self, entry: &OutboxEntry) -> bool {
        self.awaiting.lock().contains(&entry.id) || self.delivered.lock().contains(&entry.id)
    }

    /// The entries to delete.
    pub fn delivered(&self) -> Vec<i64> {
        self.delivered.lock().iter().copied().collect()
    }

    /// Records that these entries are deleted.
    pub fn deleted(&self, ids: &[i64]) {
        self.delivered.lock().retain(|id| !ids.contains(id));
    }

    /// Invalidates tags again and again. Never returns; nothing is lost when it is dropped between two times.
    pub async fn keep_invalidating(&self) {
        if !self.invalidation.is_enabled() {
            return std::future::pending().await;
        }
        loop {
            sleep(INVALIDATE_INTERVAL).await;
            if !self.invalidate(Instant::now() + INVALIDATE_TIMEOUT, true).await {
                sleep(INVALIDATE_COOLDOWN).await;
            }
        }
    }

    /// Invalidates the rest, and returns the sum of the run; `None` without an application.
    pub async fn finish(&self, until: Instant) -> Option<Invalidated> {
        if !self.invalidation.is_enabled() {
            return None;
        }
        self.invalidate(until, false).await;
        let sum = self.invalidation.sum();
        if let Some(failure) = &sum.failure {
            warn!(tags.invalidated = sum.tags, tags.lost = sum.lost, "caches: {failure}");
        }
        Some(sum)
    }

    /// Invalidates the pending tags. `again`: tags that were not taken are tried later. Returns false when some were not taken.
    async fn invalidate(&self, until: Instant, again: bool) -> bool {
        // The tags of these entries are among the pending ones, or were taken before.
        let entries = self.awaiting.lock().clone();
        let all_taken = self.invalidation.send(until, again).await;
        if all_taken || !again {
            self.awaiting.lock().retain(|id| !entries.contains(id));
            self.delivered.lock().extend(entries);
        }
        all_taken
    }
}
