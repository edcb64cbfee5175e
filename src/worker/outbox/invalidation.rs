//! Target: the application whose cached pages are invalidated by HTTP. It has its own pace, beside the drain and never in its way.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    maintenance::invalidate::{Invalidated, Invalidator, request_id},
    model::ObjectId,
};

/// The tags that a run has to invalidate, and the result so far.
#[derive(Debug)]
pub struct Invalidation<'a> {
    invalidator: Option<&'a Invalidator>,
    /// Each tag, with a count of its changes: a tag that changes while it is sent is sent again.
    pending: Mutex<BTreeMap<String, u32>>,
    sum: Mutex<Invalidated>,
}

impl<'a> Invalidation<'a> {
    pub(super) fn new(invalidator: Option<&'a Invalidator>) -> Self {
        Self { invalidator, pending: Mutex::default(), sum: Mutex::default() }
    }

    /// True when an application is configured.
    pub const fn is_enabled(&self) -> bool {
        self.invalidator.is_some()
    }

    /// Adds the tag of an object with new content: `clan:TAG`, `player:TAG` or `war:TAG`.
    pub fn add(&self, object: &ObjectId) {
        if self.is_enabled() {
            *self.pending.lock().entry(object.to_string()).or_default() += 1;
        }
    }

    /// The result of all requests so far.
    pub(super) fn sum(&self) -> Invalidated {
        self.sum.lock().clone()
    }

    /// Sends the pending tags. With `again`, tags that were not taken are pending again. Returns true when all were taken.
    pub(super) async fn send(&self, until: Instant, again: bool) -> bool {
        // Tags are removed only after the application has taken them, because this future may be dropped at any await.
        let tags = self.pending.lock().clone();
        let Some(invalidator) = self.invalidator.filter(|_| !tags.is_empty()) else { return true };
        let names = tags.keys().cloned().collect();
        let result = invalidator.deliver(&names, &request_id(), until).await;
        let (mut sum, lost) = (result.sum, result.lost);
        let all_taken = sum.failure.is_none();
        let is_tried_again = |tag: &String| again && lost.contains(tag);
        self.pending.lock().retain(|tag, changes| tags.get(tag) != Some(changes) || is_tried_again(tag));
        if again && !all_taken {
            // These tags are tried again, so they are not lost yet; a later try counts them if they are.
            sum.lost = 0;
        }
        self.sum.lock().add(sum);
        all_taken
    }
}
