//! Waits with a limit, for servers that may be silent.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// The limit of each act that opens or closes a run; after a thaw a dead connection must not hang a run.
pub const ACT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Asks a server a second time when it was silent, while the run has time.
pub async fn twice<T, W: Future<Output = T>>(until: Instant, ask: impl Fn() -> W) -> Option<T> {
    match within(ACT_TIMEOUT, ask()).await {
        None if Instant::now() < until => within(ACT_TIMEOUT, ask()).await,
        result => result,
    }
}

/// The result, unless it takes longer than the limit.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

/// The error text of a server that was silent.
pub fn no_answer(who: &str, within: Duration) -> String {
    format!("{who} did not answer within {} ms", within.as_millis())
}
