//! The daily quota (`COC_REQS_PER_DAY`): a run takes blocks of calls from a count that all runs share, and returns what is left. Talks to
//! the queue's [`SharedState`] and to the run's count.

use std::time::Duration;

use tracing::{info, warn};

use crate::{
    api::{budget::DailyQuota, budget::KeyPool},
    clock::Timestamp,
    queue::{CallsGranted, QueueError, SharedState},
};

// Short, since the run makes no call without a block; long enough not to hammer a queue that is down.
const BLOCK_RETRY_DELAY: Duration = Duration::from_millis(500);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes one block. Returns true when a call is left to this run.
///
/// # Errors
/// When the queue does not respond. Calls that it may have granted meanwhile are lost to the day.
pub async fn take_block(queue: &impl SharedState, quota: &DailyQuota, keys: &KeyPool) -> Result<bool, QueueError> {
    let day = quota.today();
    let wanted = quota.block(keys.cap_per_second());
    let CallsGranted { granted, taken } = queue.take_calls(day, wanted, quota.per_day()).await?;
    quota.record_taken(day, taken);
    quota.grant(day, granted);
    if granted == 0 {
        info!(taken, per_day = quota.per_day(), "COC_REQS_PER_DAY: all calls of this day are taken");
    }
    Ok(!quota.is_exhausted())
}

/// Takes block after block as they are spent. Never returns.
pub async fn keep_up(queue: &impl SharedState, keys: &KeyPool) {
    let Some(quota) = keys.daily_quota() else { return std::future::pending().await };
    loop {
        quota.runs_low().await;
        if let Err(error) = take_block(queue, quota, keys).await {
            warn!(error = %error, "could not take calls of the day; will try again");
            tokio::time::sleep(BLOCK_RETRY_DELAY).await;
        }
    }
}

/// Returns what is left of the run's blocks.
///
/// # Errors
/// When the queue does not respond; then the rest is lost to the day.
pub async fn return_rest(queue: &impl SharedState, keys: &KeyPool) -> Result<(), QueueError> {
    let Some(quota) = keys.daily_quota() else { return Ok(()) };
    match quota.take_leftover() {
        (_, 0) => Ok(()),
        (day, calls) => queue.return_calls(day, calls).await,
    }
}

/// The beginning of the next day.
#[must_use]
pub fn resets_at(now: Timestamp) -> Timestamp {
    now.midnight() + DAY
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::{
        api::budget::Spend,
        clock::{ManualClock, ServerTime},
        queue::memory::MemoryQueue,
    };

    #[tokio::test]
    async fn clock_back_over_midnight_takes_one_block() {
        let evening = Timestamp::from_millis(1_772_668_790_000);
        let clock = ManualClock::at(evening);
        let time = ServerTime::new(clock.clone(), evening);
        let (queue, keys) = (MemoryQueue::new(clock.clone()), KeyPool::new(clock.clone(), 30));
        keys.set_daily_quota(DailyQuota::new(NonZeroU64::new(1000).unwrap(), time.clone()));
        let quota = keys.daily_quota().unwrap();
        assert!(take_block(&queue, quota, &keys).await.unwrap());
        clock.advance(Duration::from_secs(20));
        assert_eq!(quota.spend(), Spend::Pending);
        time.reset(evening);
        let kept = async {
            assert_eq!(quota.is_ready().await, Spend::Granted);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = keep_up(&queue, &keys) => {}
            () = kept => {}
        }
        let block = quota.block(keys.cap_per_second());
        for day in [evening.midnight(), evening.midnight() + DAY] {
            assert_eq!(queue.calls_taken(day).await.unwrap(), block, "one block of each day");
        }
    }
}
