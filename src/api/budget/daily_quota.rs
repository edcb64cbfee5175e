//! The calls of a day, when they are limited: the part of them that this run may still make.
//!
//! All runs share one count in Redis. A run takes calls from it in blocks, spends them here without asking anybody, and
//! returns what is left. The worker does the taking and returning; this file talks to nobody.
//!
//! **Invariant: no call begins that was not granted for its day.** A block of yesterday is worth nothing today. A block that
//! a crash takes with it is lost to the day; none is made twice.

use std::{num::NonZeroU64, time::Duration};

use crate::{
    clock::{ServerTime, Timestamp},
    signal::Signal,
};

/// The time for which a block lasts at the full rate.
const BLOCK_TIME: Duration = Duration::from_secs(5);

/// Planned looks may use so much of a day's calls, of which requests have used a part already.
const PLANNED_SHARE: f64 = 0.9;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The fewest blocks of a day, so that a crash loses little of it.
const MIN_BLOCKS_PER_DAY: u64 = 50;

/// The daily quota of all runs, as this run sees it.
#[derive(Debug)]
pub struct DailyQuota {
    per_day: NonZeroU64,
    time: ServerTime,
    state: Signal<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    day: Timestamp,
    left: u64,
    /// A block is wanted when no more than this is left.
    low: u64,
    /// The calls that no run had taken when the last block was requested.
    not_taken: u64,
    /// The last block was not granted: other runs have the rest of the day, or have made the calls.
    is_exhausted: bool,
}

/// The quota's decision about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spend {
    /// The call may begin, and is counted.
    Granted,
    /// A block is on its way.
    Pending,
    /// Nothing is left of this day.
    Exhausted,
}

impl DailyQuota {
    #[must_use]
    pub fn new(per_day: NonZeroU64, time: ServerTime) -> Self {
        let state = State { day: time.now().midnight(), not_taken: per_day.get(), ..State::default() };
        Self { per_day, time, state: Signal::new(state) }
    }

    #[must_use]
    pub const fn per_day(&self) -> u64 {
        self.per_day.get()
    }

    /// The midnight in UTC with which today began, by the queue's clock. A day that has begun is never left for an earlier
    /// one: blocks of that day would be worth nothing, and be requested again and again.
    #[must_use]
    pub fn today(&self) -> Timestamp {
        self.state_of_today().day
    }

    /// The number of calls to request at once, at this many calls a second.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
    pub fn block(&self, rate: f64) -> u64 {
        let most = (self.per_day() / MIN_BLOCKS_PER_DAY).max(1);
        ((rate * BLOCK_TIME.as_secs_f64()).ceil() as u64).clamp(1, most)
    }

    /// Counts a call that is about to begin.
    pub fn spend(&self) -> Spend {
        let mut spent = Spend::Pending;
        self.update_today(|state| {
            if state.left > 0 {
                state.left -= 1;
                spent = Spend::Granted;
                // The task that fetches blocks is woken once a block, not once a call.
                return state.left == state.low;
            }
            if state.is_exhausted {
                spent = Spend::Exhausted;
            }
            false
        });
        spent
    }

    /// Adds a block of that day; 0 when none was granted.
    pub fn grant(&self, day: Timestamp, granted: u64) {
        self.update_today(|state| {
            if state.day == day {
                state.left += granted;
                // The next block is fetched while half of this one is left, so that calls do not wait for it.
                state.low = state.left / 2;
                state.is_exhausted = granted == 0;
            }
            true
        });
    }

    /// Records the calls of that day that all runs together have taken, the last block of this run included.
    pub fn record_taken(&self, day: Timestamp, taken: u64) {
        self.update_today(|state| {
            if state.day == day {
                state.not_taken = self.per_day().saturating_sub(taken);
            }
            false
        });
    }

    /// The number of calls that this run may still make today, if no other run takes any.
    pub fn left(&self) -> u64 {
        let state = self.state_of_today();
        state.left.saturating_add(state.not_taken)
    }

    /// The planned calls that may be made now. Over the day they get at most nine tenths of the part that has passed, so that
    /// requests are still served when the day ends.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of the calls of a day, and never negative"
    )]
    pub fn left_for_planned(&self) -> u64 {
        let passed = self.time.now().since(self.today()).as_secs_f64() / DAY.as_secs_f64();
        let share = self.per_day() as f64 * PLANNED_SHARE * passed.min(1.0);
        (share as u64).saturating_sub(self.per_day().saturating_sub(self.left()))
    }

    /// Returns when another block is wanted.
    pub async fn runs_low(&self) {
        self.state_of_today();
        self.state.wait_for(|state| state.left <= state.low && !state.is_exhausted).await;
    }

    /// Returns when a call can be counted, or nothing is left of the day.
    pub async fn is_ready(&self) -> Spend {
        self.state_of_today();
        let state = self.state.wait_for(|state| state.left > 0 || state.is_exhausted).await;
        if state.left > 0 { Spend::Granted } else { Spend::Exhausted }
    }

    /// True when nothing is left of this day.
    pub fn is_exhausted(&self) -> bool {
        let state = self.state_of_today();
        state.left == 0 && state.is_exhausted
    }

    /// Takes what is left of the blocks of this run, to be returned, with their day.
    pub fn take_leftover(&self) -> (Timestamp, u64) {
        let mut leftover = (Timestamp::EPOCH, 0);
        // Not `update_today`: what is left of a past day is returned to that day.
        self.state.update(|state| leftover = (state.day, std::mem::take(&mut state.left)));
        leftover
    }

    fn state_of_today(&self) -> State {
        self.update_today(|_| false);
        self.state.get()
    }

    /// Changes the state of today, in one step for all callers. Begins a new day first when it is time; what is left of the
    /// old day is worth nothing. Waiters are woken when the day is new, or `change` returns true.
    fn update_today(&self, change: impl FnOnce(&mut State) -> bool) {
        let today = self.time.now().midnight();
        self.state.update_if(|state| {
            let is_new = today > state.day;
            if is_new {
                *state = State { day: today, not_taken: self.per_day(), ..State::default() };
            }
            change(state) | is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    /// Ten seconds before midnight.
    fn evening() -> (Arc<ManualClock>, ServerTime) {
        let now = Timestamp::from_millis(1_772_668_790_000);
        let clock = ManualClock::at(now);
        (clock.clone(), ServerTime::new(clock, now))
    }

    fn quota(per_day: u64) -> (Arc<ManualClock>, DailyQuota) {
        let (clock, time) = evening();
        (clock, DailyQuota::new(NonZeroU64::new(per_day).unwrap(), time))
    }

    #[test]
    fn clock_set_back_over_midnight_keeps_day() {
        let (clock, time) = evening();
        let (before, quota) = (time.now(), DailyQuota::new(NonZeroU64::new(1000).unwrap(), time.clone()));
        clock.advance(Duration::from_secs(20));
        let next = quota.today();
        time.reset(before);
        assert_eq!((quota.today(), quota.spend()), (next, Spend::Pending));
        quota.grant(quota.today(), 5);
        assert_eq!(quota.spend(), Spend::Granted);
    }

    #[test]
    fn planned_calls_leave_a_tenth_of_the_day() {
        let (clock, quota) = quota(1000);
        assert_eq!(quota.left_for_planned(), 899, "ten seconds before midnight");
        quota.record_taken(quota.today(), 850);
        assert_eq!(quota.left_for_planned(), 49);
        // What this run has taken in advance is not made yet.
        quota.grant(quota.today(), 20);
        assert_eq!(quota.left_for_planned(), 69);
        quota.record_taken(quota.today(), 1000);
        assert_eq!(quota.left_for_planned(), 0);
        clock.advance(Duration::from_secs(10 + 12 * 3600));
        assert_eq!(quota.left_for_planned(), 450, "noon of the next day");
    }

    #[tokio::test]
    async fn spend_needs_a_grant() {
        let (_, quota) = quota(1000);
        assert_eq!(quota.spend(), Spend::Pending);
        quota.grant(quota.today(), 2);
        let spent = [(); 3].map(|()| quota.spend());
        assert_eq!(spent, [Spend::Granted, Spend::Granted, Spend::Pending]);
        quota.grant(quota.today(), 0);
        assert_eq!((quota.spend(), quota.is_ready().await), (Spend::Exhausted, Spend::Exhausted));
        assert!(quota.is_exhausted());
    }

    #[tokio::test]
    async fn block_is_wanted_at_start_and_half_spent() {
        let (_, quota) = quota(1000);
        quota.runs_low().await;
        quota.grant(quota.today(), 10);
        for _ in 0..4 {
            quota.spend();
        }
        assert!(tokio::time::timeout(Duration::from_millis(20), quota.runs_low()).await.is_err());
        quota.spend();
        quota.runs_low().await;
        quota.grant(quota.today(), 0);
        assert!(!quota.is_exhausted(), "what was granted may still be spent");
    }

    #[tokio::test]
    async fn midnight_voids_old_block() {
        let (clock, quota) = quota(1000);
        let yesterday = quota.today();
        quota.grant(yesterday, 10);
        quota.grant(yesterday, 0);
        clock.advance(Duration::from_secs(11));
        assert_eq!(quota.spend(), Spend::Pending);
        quota.grant(yesterday, 10);
        assert_eq!(quota.spend(), Spend::Pending, "a grant that comes late is of its own day");
        quota.runs_low().await;
        quota.grant(quota.today(), 1);
        assert_eq!(quota.spend(), Spend::Granted);
        assert_eq!(quota.today(), yesterday + Duration::from_secs(24 * 60 * 60));
    }

    #[test]
    fn left_counts_own_block_and_untaken_calls() {
        let (clock, quota) = quota(1000);
        let today = quota.today();
        assert_eq!(quota.left(), 1000);
        quota.record_taken(today, 990);
        quota.grant(today, 20);
        assert_eq!(quota.left(), 30);
        quota.spend();
        assert_eq!(quota.left(), 29);
        quota.record_taken(today, 1000);
        assert_eq!(quota.left(), 19);
        clock.advance(Duration::from_secs(11));
        quota.record_taken(today, 1000);
        assert_eq!(quota.left(), 1000, "another day");
    }

    #[test]
    fn leftover_is_returned_once() {
        let (_, quota) = quota(1000);
        quota.grant(quota.today(), 10);
        quota.spend();
        assert_eq!(quota.take_leftover(), (quota.today(), 9));
        assert_eq!(quota.take_leftover().1, 0);
        assert_eq!(quota.spend(), Spend::Pending);
    }

    #[test]
    fn block_lasts_five_seconds() {
        let (_, large) = quota(1_000_000);
        assert_eq!((large.block(30.0), large.block(150.0), large.block(0.1)), (150, 750, 1));
        let (_, small) = quota(500);
        assert_eq!((small.block(30.0), quota(3).1.block(30.0)), (10, 1));
    }
}
