//! The caches of readers while a run goes on: what changed is told to their application every few seconds, and the rest at
//! the end. Talks to that application only, beside the drain and never in its way. Also keeps the books of the notes of
//! commits: which of them are told to everybody and may be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::drain::lock;
use crate::{
    derive::invalidate::{Invalidated, Invalidator, Told, request_id},
    model::{ObjectId, OutboxEntry},
};

/// Between two times of telling.
const EVERY: Duration = Duration::from_secs(2);

/// How long an application that could not be told is left alone.
const REST: Duration = Duration::from_secs(30);

/// How long telling may take at one time.
const TIME: Duration = Duration::from_secs(10);

/// What changed in a run and has to be told.
#[derive(Debug, Default)]
pub struct Caches<'a> {
    invalidator: Option<&'a Invalidator>,
    /// Tags, and how often each has become stale: one that does so while it is told is told again.
    pending: Mutex<BTreeMap<String, u32>>,
    told: Mutex<Invalidated>,
    /// Notes of which everything is told but the tags.
    waiting_notes: Mutex<BTreeSet<i64>>,
    told_notes: Mutex<BTreeSet<i64>>,
}

impl<'a> Caches<'a> {
    pub fn new(invalidator: Option<&'a Invalidator>) -> Self {
        Self { invalidator, ..Self::default() }
    }

    /// Notes that new content of this object is stored: `clan:TAG`, `player:TAG` or `war:TAG` is stale.
    pub fn changed(&self, object: &ObjectId) {
        if self.invalidator.is_some() {
            *lock(&self.pending).entry(object.to_string()).or_default() += 1;
        }
    }

    /// Whether an application is told.
    pub const fn are_told(&self) -> bool {
        self.invalidator.is_some()
    }

    /// Notes that everybody but the application has been told of this. Its objects were named to [`Self::changed`] before.
    pub fn all_else_told(&self, note: &OutboxEntry) {
        let waits = self.are_told() && !note.changed.is_empty();
        lock(if waits { &self.waiting_notes } else { &self.told_notes }).insert(note.id);
    }

    /// Whether this note has been told already, or will be.
    pub fn knows(&self, note: &OutboxEntry) -> bool {
        lock(&self.waiting_notes).contains(&note.id) || lock(&self.told_notes).contains(&note.id)
    }

    /// The notes that may be forgotten.
    pub fn told_notes(&self) -> Vec<i64> {
        lock(&self.told_notes).iter().copied().collect()
    }

    /// These notes are forgotten.
    pub fn forgotten(&self, ids: &[i64]) {
        lock(&self.told_notes).retain(|id| !ids.contains(id));
    }

    /// Tells what changed, again and again. Never ends; nothing is lost when it is dropped between two times.
    pub async fn keep(&self) {
        let Some(invalidator) = self.invalidator else { return std::future::pending().await };
        loop {
            sleep(EVERY).await;
            if !self.tell(invalidator, Instant::now() + TIME, true).await {
                sleep(REST).await;
            }
        }
    }

    /// Tells the rest, and answers what was told in all; `None` when there is nobody to tell.
    pub async fn finish(&self, until: Instant) -> Option<Invalidated> {
        self.tell(self.invalidator?, until, false).await;
        let told = lock(&self.told).clone();
        if let Some(failure) = &told.failure {
            warn!(tags.told = told.tags, tags.lost = told.lost, "caches: {failure}");
        }
        Some(told)
    }

    /// Tells what is pending. What could not be told is pending again when it may be tried later.
    async fn tell(&self, invalidator: &Invalidator, until: Instant, again: bool) -> bool {
        // Taken off only when it is told: being dropped in between must lose nothing.
        let tags = lock(&self.pending).clone();
        // Their objects are among these tags, or were told before.
        let notes = lock(&self.waiting_notes).clone();
        if tags.is_empty() {
            self.tags_told(&notes);
            return true;
        }
        let names = tags.keys().cloned().collect();
        let Told { mut sum, lost } = invalidator.tell(&names, &request_id(), until).await;
        let well = sum.failure.is_none();
        let waits = |tag: &String| again && lost.contains(tag);
        lock(&self.pending).retain(|tag, times| tags.get(tag) != Some(times) || waits(tag));
        if well || !again {
            self.tags_told(&notes);
        } else {
            sum.lost = 0;
        }
        lock(&self.told).add(sum);
        well
    }

    fn tags_told(&self, notes: &BTreeSet<i64>) {
        lock(&self.waiting_notes).retain(|id| !notes.contains(id));
        lock(&self.told_notes).extend(notes);
    }
}
