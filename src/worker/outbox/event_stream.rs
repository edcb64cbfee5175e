//! Target: the stream of events in Redis.

use tracing::warn;

use crate::{
    model::Event,
    queue::{Queue, Slots},
    store::Store,
    worker::{context::RunContext, lock},
};

/// Appends events, and empties the list when the stream has them. Returns true when the stream refused them: they would be refused
/// again.
pub async fn append<Q: Queue + Slots, S: Store>(ctx: &RunContext<'_, Q, S>, events: &mut Vec<Event>) -> bool {
    let Some(config) = ctx.worker.config.events.as_ref().filter(|_| !events.is_empty()) else {
        events.clear();
        return false;
    };
    match ctx.worker.queue.append_events(&config.stream, config.most, events).await {
        Ok(appended) => {
            events.clear();
            lock(ctx.tally).report.events += appended as u64;
            false
        }
        Err(error) => {
            warn!(error = %error, events = events.len(), "could not append to the stream of events");
            !error.is_transient()
        }
    }
}
