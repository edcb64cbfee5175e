//! The calls of a day, when they are limited: what this run may still make of them, taken in blocks from all runs' count.
//!
//! Talks to nobody: the worker takes blocks where the runs agree, and gives back what is left. Calls are counted here
//! without asking anybody. **Invariant: no call begins that was not granted for its day**; a block of yesterday is
//! worth nothing today, and a block that a crashed run had is lost, never made twice.

use std::{num::NonZeroU64, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::clock::{ServerTime, Timestamp};

/// A block lasts about so long at the full rate.
const BLOCK_LASTS: Duration = Duration::from_secs(5);

/// A block is at most this share of a day, so that little is lost with a run that crashes.
const BLOCKS_A_DAY: u64 = 50;

/// The limit of a day, shared by all runs.
#[derive(Debug)]
pub struct DailyQuota {
    per_day: NonZeroU64,
    time: ServerTime,
    state: watch::Sender<State>,
    /// So that two calls do not both take the last one; held for a moment only.
    spending: Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    day: Timestamp,
    left: u64,
    /// A block is wanted when no more than this is left.
    low: u64,
    /// What nobody had taken when the last block was asked for.
    not_taken: u64,
    /// The last block asked for was not given: others have the rest of the day, or have made the calls.
    is_exhausted: bool,
}

/// How a call stands to the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// It may begin, and is counted.
    One,
    /// A block is on its way.
    NotYet,
    /// Nothing is left of this day.
    UsedUp,
}

impl DailyQuota {
    #[must_use]
    pub fn new(per_day: NonZeroU64, time: ServerTime) -> Self {
        let state = State { day: time.now().midnight(), not_taken: per_day.get(), ..State::default() };
        Self { per_day, time, state: watch::Sender::new(state), spending: Mutex::default() }
    }

    #[must_use]
    pub const fn per_day(&self) -> u64 {
        self.per_day.get()
    }

    /// Today, by the queue's clock: the midnight in UTC that it began with. A day that has begun is never left for an earlier
    /// one: blocks of that would be worth nothing, and be asked for again and again.
    #[must_use]
    pub fn today(&self) -> Timestamp {
        let _one_at_a_time = self.lock();
        self.turn_page();
        self.state.borrow().day
    }

    /// How many calls to ask for at once, at so many calls a second.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
    pub fn block(&self, rate: f64) -> u64 {
        let most = (self.per_day() / BLOCKS_A_DAY).max(1);
        ((rate * BLOCK_LASTS.as_secs_f64()).ceil() as u64).clamp(1, most)
    }

    /// Counts a call that is about to begin.
    pub fn spend(&self) -> Spent {
        let _one_at_a_time = self.lock();
        self.turn_page();
        let State { left, low, is_exhausted, .. } = *self.state.borrow();
        match left {
            0 if is_exhausted => Spend::Exhausted,
            0 => Spend::Pending,
            _ => {
                // Whoever brings blocks is woken once a block, not once a call.
                self.state.send_if_modified(|state| {
                    state.left -= 1;
                    state.left == low
                });
                Spend::Granted
            }
        }
    }

    /// A block of that day was asked for, and this is what was given.
    pub fn grant(&self, day: Timestamp, granted: u64) {
        let _one_at_a_time = self.lock();
        self.turn_page();
        self.state.send_modify(|state| {
            if state.day == day {
                state.left += granted;
                state.low = state.left / 2;
                state.is_exhausted = granted == 0;
            }
        });
    }

    /// All runs together have taken so many calls of that day, the last block of this one included.
    pub fn taken(&self, day: Timestamp, taken: u64) {
        let _one_at_a_time = self.lock();
        self.turn_page();
        self.state.send_if_modified(|state| {
            if state.day == day {
                state.not_taken = self.per_day().saturating_sub(taken);
            }
            false
        });
    }

    /// How many calls this run may still make of this day, if no other run takes any.
    pub fn left(&self) -> u64 {
        let _one_at_a_time = self.lock();
        self.turn_page();
        let state = *self.state.borrow();
        state.left.saturating_add(state.not_taken)
    }

    /// Returns when another block is wanted.
    pub async fn runs_low(&self) {
        loop {
            let mut seen = self.state.subscribe();
            {
                let _one_at_a_time = self.lock();
                self.turn_page();
            }
            let State { left, low, is_exhausted, .. } = *seen.borrow_and_update();
            if left <= low && !is_exhausted {
                return;
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = seen.changed().await;
        }
    }

    /// Returns when a call can be counted, or nothing is left of the day.
    pub async fn is_ready(&self) -> Spent {
        loop {
            let mut seen = self.state.subscribe();
            {
                let _one_at_a_time = self.lock();
                self.turn_page();
            }
            match *seen.borrow_and_update() {
                State { left: 1.., .. } => return Spend::Granted,
                State { is_exhausted: true, .. } => return Spend::Exhausted,
                State { .. } => {}
            }
            let _ = seen.changed().await;
        }
    }

    /// Whether nothing is left of this day.
    pub fn is_exhausted(&self) -> bool {
        let _one_at_a_time = self.lock();
        self.turn_page();
        let state = *self.state.borrow();
        state.left == 0 && state.is_exhausted
    }

    /// Takes what is left of the blocks of this run, to be given back, with the day they are of.
    pub fn take_leftover(&self) -> (Timestamp, u64) {
        let _one_at_a_time = self.lock();
        let state = *self.state.borrow();
        self.state.send_modify(|state| state.left = 0);
        (state.day, state.left)
    }

    /// A new day: what is left of the old one is worth nothing.
    fn turn_page(&self) {
        let today = self.time.now().midnight();
        self.state.send_if_modified(|state| {
            let is_new = today > state.day;
            if is_new {
                *state = State { day: today, not_taken: self.per_day(), ..State::default() };
            }
            is_new
        });
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.spending.lock()
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

    fn allowance(per_day: u64) -> (Arc<ManualClock>, DailyQuota) {
        let (clock, time) = evening();
        (clock, DailyQuota::new(NonZeroU64::new(per_day).unwrap(), time))
    }

    #[test]
    fn a_clock_that_goes_back_over_midnight_leaves_the_day() {
        let (clock, time) = evening();
        let (before, allowance) = (time.now(), DailyQuota::new(NonZeroU64::new(1000).unwrap(), time.clone()));
        clock.advance(Duration::from_secs(20));
        let next = allowance.today();
        time.reset(before);
        assert_eq!((allowance.today(), allowance.spend()), (next, Spend::Pending));
        allowance.grant(allowance.today(), 5);
        assert_eq!(allowance.spend(), Spend::Granted);
    }

    #[tokio::test]
    async fn no_call_begins_that_was_not_granted() {
        let (_, allowance) = allowance(1000);
        assert_eq!(allowance.spend(), Spend::Pending);
        allowance.grant(allowance.today(), 2);
        let spent = [(); 3].map(|()| allowance.spend());
        assert_eq!(spent, [Spend::Granted, Spend::Granted, Spend::Pending]);
        allowance.grant(allowance.today(), 0);
        assert_eq!((allowance.spend(), allowance.is_ready().await), (Spend::Exhausted, Spend::Exhausted));
        assert!(allowance.is_exhausted());
    }

    #[tokio::test]
    async fn a_block_is_wanted_at_the_start_and_when_half_of_the_last_one_is_spent() {
        let (_, allowance) = allowance(1000);
        allowance.runs_low().await;
        allowance.grant(allowance.today(), 10);
        for _ in 0..4 {
            allowance.spend();
        }
        assert!(tokio::time::timeout(Duration::from_millis(20), allowance.runs_low()).await.is_err());
        allowance.spend();
        allowance.runs_low().await;
        allowance.grant(allowance.today(), 0);
        assert!(!allowance.is_exhausted(), "what was granted may still be spent");
    }

    #[tokio::test]
    async fn at_midnight_the_old_block_is_worth_nothing_and_the_new_day_begins() {
        let (clock, allowance) = allowance(1000);
        let yesterday = allowance.today();
        allowance.grant(yesterday, 10);
        allowance.grant(yesterday, 0);
        clock.advance(Duration::from_secs(11));
        assert_eq!(allowance.spend(), Spend::Pending);
        allowance.grant(yesterday, 10);
        assert_eq!(allowance.spend(), Spend::Pending, "a grant that comes late is of its own day");
        allowance.runs_low().await;
        allowance.grant(allowance.today(), 1);
        assert_eq!(allowance.spend(), Spend::Granted);
        assert_eq!(allowance.today(), yesterday + Duration::from_secs(24 * 60 * 60));
    }

    #[test]
    fn what_is_left_counts_the_own_block_and_what_nobody_has_taken() {
        let (clock, allowance) = allowance(1000);
        let today = allowance.today();
        assert_eq!(allowance.left(), 1000);
        allowance.record_taken(today, 990);
        allowance.grant(today, 20);
        assert_eq!(allowance.left(), 30);
        allowance.spend();
        assert_eq!(allowance.left(), 29);
        allowance.record_taken(today, 1000);
        assert_eq!(allowance.left(), 19);
        clock.advance(Duration::from_secs(11));
        allowance.record_taken(today, 1000);
        assert_eq!(allowance.left(), 1000, "another day");
    }

    #[test]
    fn what_is_left_is_given_back_once() {
        let (_, allowance) = allowance(1000);
        allowance.grant(allowance.today(), 10);
        allowance.spend();
        assert_eq!(allowance.take_leftover(), (allowance.today(), 9));
        assert_eq!(allowance.take_leftover().1, 0);
        assert_eq!(allowance.spend(), Spend::Pending);
    }

    #[test]
    fn a_block_lasts_five_seconds_and_is_a_small_part_of_a_day() {
        let (_, large) = allowance(1_000_000);
        assert_eq!((large.block(30.0), large.block(150.0), large.block(0.1)), (150, 750, 1));
        let (_, small) = allowance(500);
        assert_eq!((small.block(30.0), allowance(3).1.block(30.0)), (10, 1));
    }
}
