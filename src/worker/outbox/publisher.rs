//! Publishes outbox entries: those of this run's commits at once, those that another run left by the relay.

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::Outbox;
use crate::{
    follow::cache_keys,
    model::{Event, OutboxEntry},
    queue::{Queue, SharedState},
    store::{MAX_OUTBOX_ENTRIES, Store, StoreError},
    worker::context::RunContext,
};

// An entry that the stream has refused for this long is given up. One that only met a queue without a response never is: it may be
// old because no run took place.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The payloads of entries that the event stream or the readers' keys do not have yet.
#[derive(Clone, Debug, Default)]
pub struct Unpublished {
    events: Vec<Event>,
    /// Readers' keys that are outdated now.
    cache_keys: Vec<String>,
    /// The stream refused the events: it would refuse them again.
    is_refused: bool,
}

impl Unpublished {
    const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.cache_keys.is_empty()
    }
}

/// Publishes entries to the event stream and the readers' keys.
#[derive(Debug)]
pub struct Publisher<'a, Q, S> {
    pub ctx: &'a RunContext<'a, Q, S>,
    pub outbox: &'a Outbox<'a>,
}

// By hand: a derive would want queue and store to be `Copy` as well.
impl<Q, S> Copy for Publisher<'_, Q, S> {}
impl<Q, S> Clone for Publisher<'_, Q, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: Queue + SharedState, S: Store> Publisher<'_, Q, S> {
    /// The payloads of entries, to be published.
    pub fn of(&self, entries: &[OutboxEntry]) -> Unpublished {
        let templates = &self.ctx.worker.config.cache_key_templates;
        Unpublished {
            events: entries.iter().flat_map(|entry| entry.events.iter().cloned()).collect(),
            cache_keys: cache_keys::of(templates, entries.iter().flat_map(|entry| &entry.renewed)),
            is_refused: false,
        }
    }

    /// Publishes payloads. What was published is removed, so that a retry does not publish it twice.
    pub async fn publish(&self, unpublished: &mut Unpublished) {
        let Unpublished { events, cache_keys, is_refused } = unpublished;
        // Sent one after the other on one connection: one round trip.
        (*is_refused, ()) = tokio::join!(self.publish_events(events), self.delete_reader_keys(cache_keys));
    }

    /// Target: the stream of events in Redis. Appends events, and empties the list when the stream has them. Returns true when the
    /// stream refused them: they would be refused again.
    async fn publish_events(&self, events: &mut Vec<Event>) -> bool {
        let Self { ctx, .. } = self;
        let Some(config) = ctx.worker.config.events.as_ref().filter(|_| !events.is_empty()) else {
            events.clear();
            return false;
        };
        match ctx.worker.queue.publish_events(&config.stream, config.max_len, events).await {
            Ok(appended) => {
                events.clear();
                ctx.tally.lock().report.events += appended as u64;
                false
            }
            Err(error) => {
                warn!(error = %error, events = events.len(), "could not append to the stream of events");
                !error.is_transient()
            }
        }
    }

    /// Target: the readers' copies in Redis. Deletes outdated keys, and empties the list when that is done or was refused.
    async fn delete_reader_keys(&self, keys: &mut Vec<String>) {
        let Self { ctx, .. } = self;
        if keys.is_empty() {
            return;
        }
        match ctx.worker.queue.delete_cache_keys(keys).await {
            Ok(deleted) => {
                keys.clear();
                ctx.tally.lock().report.cache_keys_deleted += deleted as u64;
            }
            Err(error) if error.is_transient() => {
                warn!(error = %error, keys = keys.len(), "could not delete outdated keys of readers; will try again");
            }
            // A retry would be refused again, and would append the events of the same entry once more.
            Err(error) => {
                warn!(error = %error, keys = keys.len(), "could not delete outdated keys of readers; they are left");
                ctx.tally.lock().error(format!("{} keys of readers could not be deleted: {error}", keys.len()));
                keys.clear();
            }
        }
    }

    /// Closes entries that were published. The others are left to the relay, of this run or another.
    pub fn close(&self, entries: &[OutboxEntry], unpublished: &Unpublished) {
        if unpublished.is_empty() {
            for entry in entries {
                self.outbox.published(entry);
            }
        }
        let mut tally = self.ctx.tally.lock();
        if let events @ 1.. = unpublished.events.len() {
            tally.error(format!("{events} events could not be appended to the stream yet"));
        }
        if let keys @ 1.. = unpublished.cache_keys.len() {
            tally.error(format!("{keys} keys of readers could not be deleted yet"));
        }
    }

    /// Relays again and again. Never returns.
    pub async fn keep_relaying(&self) {
        loop {
            sleep(self.ctx.worker.config.lease).await;
            self.relay().await;
        }
    }

    /// Publishes the entries of runs that died, or met a queue without a response. Entries that are younger than a lease are left to
    /// their own run.
    pub async fn relay(&self) {
        let config = &self.ctx.worker.config;
        let has_target =
            config.events.is_some() || !config.cache_key_templates.is_empty() || self.outbox.invalidation.is_enabled();
        if !has_target {
            return;
        }
        let mut are_more = true;
        while are_more {
            are_more = match self.relay_oldest().await {
                Ok(are_more) => are_more,
                Err(error) => return warn!(error = %error, "could not read the outbox, or delete from it"),
            }
        }
    }

    /// Publishes the oldest entries. Returns true when there may be more.
    async fn relay_oldest(&self) -> Result<bool, StoreError> {
        let Self { ctx, outbox } = self;
        let now = ctx.time.now();
        let mut entries = ctx.worker.store.outbox(now - ctx.worker.config.lease).await?;
        let was_full = entries.len() == MAX_OUTBOX_ENTRIES;
        entries.retain(|entry| !outbox.knows(entry));
        if entries.is_empty() {
            return Ok(false);
        }
        let mut unpublished = self.of(&entries);
        let (count, events) = (entries.len(), unpublished.events.len());
        warn!(entries = count, events, "the outbox has {count} entries that another run left; publishing them now");
        self.publish(&mut unpublished).await;
        let all_published = unpublished.is_empty();
        if !all_published {
            entries.retain(|entry| unpublished.is_refused && now.since(entry.stored_at) > GIVE_UP_AFTER);
            if let given_up @ 1.. = entries.len() {
                ctx.tally.lock().error(format!("{given_up} outbox entries are given up: they were refused for a day"));
            }
        }
        for entry in &entries {
            for object in &entry.changed {
                outbox.invalidation.add(object);
            }
            outbox.published(entry);
        }
        let delivered = outbox.delivered();
        if !delivered.is_empty() {
            ctx.worker.store.delete_from_outbox(&delivered).await?;
            outbox.deleted(&delivered);
        }
        Ok(was_full && all_published)
    }
}
