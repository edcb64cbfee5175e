//! The limit of a day (`COC_REQS_PER_DAY`): blocks of calls are taken where all runs agree, and what is left is given
//! back. Talks to the queue's [`Slots`] and to the run's count.

use std::time::Duration;

use tracing::{info, warn};

use crate::{
    api::{budget::DailyQuota, budget::KeyPool},
    clock::Timestamp,
    queue::{CallsGranted, QueueError, Slots},
};

/// How soon a block is asked for again when the queue did not answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A day in UTC.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes one block. Answers whether any call is left to this run.
///
/// # Errors
/// When the queue does not answer. What it may have granted meanwhile is lost to the day.
pub async fn take_block(slots: &impl Slots, allowance: &DailyQuota, keys: &KeyPool) -> Result<bool, QueueError> {
    let day = allowance.today();
    let wanted = allowance.block(keys.cap_per_second());
    let CallsGranted { granted, taken } = slots.take_calls(day, wanted, allowance.per_day()).await?;
    allowance.record_taken(day, taken);
    allowance.grant(day, granted);
    if granted == 0 {
        info!(taken, per_day = allowance.per_day(), "COC_REQS_PER_DAY: all calls of this day are taken");
    }
    Ok(!allowance.is_exhausted())
}

/// Takes block after block as they are spent. For a run without a limit it never returns.
pub async fn keep_up(slots: &impl Slots, keys: &KeyPool) {
    let Some(allowance) = keys.daily_quota() else { return std::future::pending().await };
    loop {
        allowance.runs_low().await;
        if let Err(error) = take_block(slots, allowance, keys).await {
            warn!(error = %error, "could not take calls of the day; will try again");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// Gives back what is left of the run's blocks.
///
/// # Errors
/// When the queue does not answer; then it is lost to the day.
pub async fn give_back(slots: &impl Slots, keys: &KeyPool) -> Result<(), QueueError> {
    let Some(allowance) = keys.daily_quota() else { return Ok(()) };
    match allowance.take_leftover() {
        (_, 0) => Ok(()),
        (day, calls) => slots.give_back_calls(day, calls).await,
    }
}

/// When the next day begins.
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
    async fn a_clock_that_goes_back_over_midnight_takes_one_block() {
        let evening = Timestamp::from_millis(1_772_668_790_000);
        let clock = ManualClock::at(evening);
        let time = ServerTime::new(clock.clone(), evening);
        let (queue, keys) = (MemoryQueue::new(clock.clone()), KeyPool::new(clock.clone(), 30));
        keys.set_daily_quota(DailyQuota::new(NonZeroU64::new(1000).unwrap(), time.clone()));
        let allowance = keys.daily_quota().unwrap();
        assert!(take_block(&queue, allowance, &keys).await.unwrap());
        clock.advance(Duration::from_secs(20));
        assert_eq!(allowance.spend(), Spend::Pending);
        time.reset(evening);
        let kept = async {
            assert_eq!(allowance.is_ready().await, Spend::Granted);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = keep_up(&queue, &keys) => {}
            () = kept => {}
        }
        let block = allowance.block(keys.cap_per_second());
        for day in [evening.midnight(), evening.midnight() + DAY] {
            assert_eq!(queue.calls_taken(day).await.unwrap(), block, "one block of each day");
        }
    }
}
