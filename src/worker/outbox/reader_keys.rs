//! Target: the readers' copies in Redis, deleted when they are outdated.

use tracing::warn;

use crate::{
    queue::{Queue, Slots},
    store::Store,
    worker::{context::RunContext, lock},
};

/// Deletes keys, and empties the list when that is done or was refused.
pub async fn delete<Q: Queue + Slots, S: Store>(ctx: &RunContext<'_, Q, S>, keys: &mut Vec<String>) {
    if keys.is_empty() {
        return;
    }
    match ctx.worker.queue.forget_keys(keys).await {
        Ok(deleted) => {
            keys.clear();
            lock(ctx.tally).report.cache_keys_deleted += deleted as u64;
        }
        Err(error) if error.is_transient() => {
            warn!(error = %error, keys = keys.len(), "could not delete outdated keys of readers; will try again");
        }
        // A retry would be refused again, and append the events beside it again each time.
        Err(error) => {
            warn!(error = %error, keys = keys.len(), "could not delete outdated keys of readers; they are left");
            lock(ctx.tally).error(format!("{} keys of readers could not be deleted: {error}", keys.len()));
            keys.clear();
        }
    }
}
