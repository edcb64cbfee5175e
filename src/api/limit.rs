//! The rate of one key: a governor (GCRA) in fine cells, with a rate that gives way to refusals and recovers.
//!
//! The API counts calls per second and key. A limiter with burst 1 at exactly that rate shows one call too many as soon
//! as one call travels a millisecond faster than an earlier one, so we stay at [`HEADROOM`] of it. Timers fire late, and
//! with burst exactly 1 each lateness is lost for ever; so a call is not one cell but many of about a millisecond, and
//! `SLACK_CELLS` more may be saved up: lateness up to that is made up for, and the long-run rate is exact.
//!
//! What is let through on time may still begin late, and then crowd the calls behind it. So a call is taken first
//! ([`RateLimit::take`]) and begun later ([`RateLimit::begin`]), and no more than the cap begin in any [`WINDOW`], which
//! leaves 10 ms for calls that overtake each other on the way. Rates are calls a second.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

/// How much of a rate is used. The rest is for calls that overtake each other on the way.
pub const HEADROOM: f64 = 0.985;

/// The slowest that refusals can make a key: one call a second.
pub const SLOWEST: f64 = 1.0;

/// How long without a refusal until a lowered rate rises by one step, a thirtieth of the cap.
pub const RECOVERY: Duration = Duration::from_secs(20);

/// A cell is at most this long.
const LONGEST_CELL: Duration = Duration::from_millis(1);

/// Cells that lateness may save up: at most 10 ms.
const SLACK_CELLS: u32 = 10;

/// In any window as long as this no more calls begin than the cap allows in a second.
pub const WINDOW: Duration = Duration::from_millis(1010);

/// The clock of the runtime's timers, which limiters wait by.
#[derive(Clone, Debug)]
pub struct TimerClock {
    start: Instant,
}

impl Default for TimerClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for TimerClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The limiter of one key.
#[derive(Debug)]
pub struct RateLimit<C: Clock = TimerClock> {
    clock: C,
    cap_per_second: u32,
    rate: f64,
    pace: Pace,
    governor: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    /// Since when there was neither a refusal nor a change of the rate.
    steady_since: C::Instant,
    /// When the last calls began, as many as the cap at most.
    begun: VecDeque<C::Instant>,
}

impl<C: Clock + Clone> RateLimit<C> {
    /// A limiter whose first call is free at once. `learned` is what an earlier run came down to.
    pub fn new(clock: C, cap_per_second: u32, learned: Option<f64>) -> Self {
        let cap_per_second = cap_per_second.max(1);
        let cap = f64::from(cap_per_second);
        let rate = learned.filter(|rate| rate.is_finite()).map_or(cap, |rate| rate.clamp(SLOWEST, cap));
        let pace = Pace::of(rate);
        let governor = RateLimiter::direct_with_clock(pace.quota, clock.clone());
        let steady_since = clock.now();
        Self { clock, cap_per_second, rate, pace, governor, steady_since, begun: VecDeque::new() }
    }

    /// The most this key is ever used.
    pub fn cap(&self) -> f64 {
        self.cap_per_second.into()
    }

    /// What it is used now.
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// The time from one call to the next.
    pub const fn interval(&self) -> Duration {
        self.pace.interval
    }

    /// Takes one call, or says how long to wait for one.
    pub fn take(&mut self) -> Result<(), Duration> {
        let now = self.clock.now();
        match self.governor.check_n(self.pace.cells_per_call) {
            Ok(Ok(())) => {
                self.recover(now);
                Ok(())
            }
            Ok(Err(not_until)) => Err(not_until.wait_time_from(now)),
            // The burst is larger than a call by construction.
            Err(_) => Err(self.pace.interval),
        }
    }

    /// Begins a call that was taken, or says how long it has to wait for the calls begun before it.
    pub fn begin(&mut self) -> Result<(), Duration> {
        let now = self.clock.now();
        let most = usize::try_from(self.cap_per_second).unwrap_or(usize::MAX);
        if self.begun.len() >= most
            && let Some(oldest) = self.begun.front()
        {
            let wait = WINDOW.saturating_sub(now.duration_since(*oldest).into());
            if !wait.is_zero() {
                return Err(wait);
            }
            self.begun.pop_front();
        }
        self.begun.push_back(now);
        Ok(())
    }

    /// The API refused a call: half the rate from now on, and no step up until [`RECOVERY`] after the rest.
    pub fn refused(&mut self, rest: Duration) {
        self.steady_since = self.clock.now() + Nanos::from(rest);
        self.change_rate((self.rate / 2.0).max(SLOWEST.min(self.cap())));
    }

    /// One step up when it has been quiet for long enough. Called as a call is taken, which the new limiter counts.
    fn recover(&mut self, now: C::Instant) {
        let quiet: Duration = now.duration_since(self.steady_since).into();
        if self.rate < self.cap() && quiet >= RECOVERY {
            self.steady_since = now;
            self.change_rate((self.rate + (self.cap() / 30.0).max(1.0)).min(self.cap()));
        }
    }

    /// A fresh governor has a call to give away at once. Emptying it first makes the next call wait a whole interval.
    fn change_rate(&mut self, rate: f64) {
        self.rate = rate;
        self.pace = Pace::of(rate);
        self.governor = RateLimiter::direct_with_clock(self.pace.quota, self.clock.clone());
        let _emptied = self.governor.check_n(self.pace.quota.burst_size());
    }
}

/// A rate in governor's terms.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    cells_per_call: NonZeroU32,
    quota: Quota,
}

impl Pace {
    fn of(rate: f64) -> Self {
        let interval = Duration::from_secs_f64(1.0 / (rate * HEADROOM));
        let cells = u32::try_from(interval.as_nanos().div_ceil(LONGEST_CELL.as_nanos())).unwrap_or(u32::MAX);
        let cells_per_call = NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN);
        // Rounded up, so that the rate is never above what was asked for.
        let cell = interval.div_f64(f64::from(cells_per_call.get())) + Duration::from_nanos(1);
        let quota = Quota::with_period(cell).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
        Self { interval, cells_per_call, quota: quota.allow_burst(cells_per_call.saturating_add(SLACK_CELLS)) }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    /// Calls in a closed window of one second: at the server, the first and the last of them both count.
    struct Window {
        calls: VecDeque<Duration>,
        most: usize,
    }

    impl Window {
        fn call(&mut self, at: Duration) {
            self.calls.push_back(at);
            while self.calls.front().is_some_and(|first| at.saturating_sub(*first) > Duration::from_secs(1)) {
                self.calls.pop_front();
            }
            self.most = self.most.max(self.calls.len());
        }
    }

    /// Calls as soon as allowed, late by what `lateness` says, for `duration`. Answers (calls, most in a second).
    fn greedy(
        limit: &mut RateLimit<FakeRelativeClock>,
        clock: &FakeRelativeClock,
        duration: Duration,
        mut lateness: impl FnMut() -> Duration,
    ) -> (usize, usize) {
        let mut window = Window { calls: VecDeque::new(), most: 0 };
        let mut calls = 0;
        let start = Duration::from(clock.now());
        loop {
            let now = Duration::from(clock.now()).saturating_sub(start);
            if now >= duration {
                return (calls, window.most);
            }
            match limit.take() {
                Ok(()) => {
                    calls += 1;
                    window.call(now);
                }
                Err(wait) => clock.advance(wait + lateness()),
            }
        }
    }

    #[test]
    fn no_sliding_second_has_more_calls_than_the_cap_however_late_the_timers_are() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in 1..=300u32 {
            for worst_lateness_us in [0, 1, 900, 2_000, 5_000, 40_000, 1_200_000] {
                let clock = FakeRelativeClock::default();
                let mut limit = RateLimit::new(clock.clone(), rate, None);
                // Mostly punctual, now and then as late as it gets: what saves up the most.
                let (_, most) = greedy(&mut limit, &clock, Duration::from_secs(4), || {
                    Duration::from_micros(if random.u8(..) < 40 { worst_lateness_us } else { 0 })
                });
                assert!(most <= rate as usize, "{most} calls in a second at {rate}/s, late by {worst_lateness_us} us");
            }
        }
    }

    #[test]
    fn calls_that_begin_late_do_not_crowd_the_ones_behind_them() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in (1..=300u32).step_by(13) {
            let clock = FakeRelativeClock::default();
            let mut limit = RateLimit::new(clock.clone(), rate, None);
            let mut window = Window { calls: VecDeque::new(), most: 0 };
            let mut waiting = 0;
            for _ in 0..20_000 {
                clock.advance(Duration::from_micros(random.u64(0..400)));
                waiting += u32::from(limit.take().is_ok());
                // Now and then everything that was let through begins in one rush.
                while waiting > 0 && random.u8(..) < 8 && limit.begin().is_ok() {
                    waiting -= 1;
                    window.call(Duration::from(clock.now()));
                }
            }
            assert!(window.most <= rate as usize, "{} calls begun in a second at {rate}/s", window.most);
        }
    }

    #[test]
    fn lateness_of_a_timer_is_made_up_for() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in [10, 30, 100] {
            let clock = FakeRelativeClock::default();
            let mut limit = RateLimit::new(clock.clone(), rate, None);
            let (calls, _) =
                greedy(&mut limit, &clock, Duration::from_secs(100), || Duration::from_micros(random.u64(0..8_000)));
            let allowed = f64::from(rate) * 100.0;
            let used = f64::from(u32::try_from(calls).unwrap()) / allowed;
            assert!((0.984..0.9862).contains(&used), "{calls} calls of {allowed}");
        }
    }

    #[test]
    fn the_first_call_of_a_fresh_limiter_is_free_and_the_second_waits() {
        let mut limit = RateLimit::new(FakeRelativeClock::default(), 30, None);
        assert_eq!(limit.take(), Ok(()));
        let wait = limit.take().unwrap_err();
        assert!((Duration::from_millis(23)..Duration::from_millis(34)).contains(&wait), "{wait:?}");
    }

    #[test]
    fn a_refusal_halves_the_rate_down_to_one_a_second_and_gives_no_extra_call() {
        let mut limit = RateLimit::new(FakeRelativeClock::default(), 30, None);
        let mut rates = Vec::new();
        for _ in 0..6 {
            limit.refused(Duration::ZERO);
            assert!(limit.take().unwrap_err() >= limit.interval(), "a changed limiter gave a call away");
            rates.push(limit.rate());
        }
        assert_eq!(rates, [15.0, 7.5, 3.75, 1.875, 1.0, 1.0]);
    }

    #[test]
    fn a_lowered_rate_recovers_step_by_step_after_the_rest_and_stays_within_the_cap() {
        let clock = FakeRelativeClock::default();
        let mut limit = RateLimit::new(clock.clone(), 30, Some(12.0));
        limit.refused(Duration::from_secs(30));
        greedy(&mut limit, &clock, Duration::from_secs(49), || Duration::ZERO);
        assert!((limit.rate() - 6.0).abs() < 1e-9, "no step up while it rests: {}", limit.rate());
        greedy(&mut limit, &clock, Duration::from_secs(2), || Duration::ZERO);
        assert!((limit.rate() - 7.0).abs() < 1e-9, "{}", limit.rate());
        let (_, most) = greedy(&mut limit, &clock, Duration::from_secs(24 * 20), || Duration::ZERO);
        assert!((limit.rate() - 30.0).abs() < 1e-9, "{}", limit.rate());
        assert!(most <= 30, "{most}");
    }

    #[test]
    fn a_learned_rate_is_taken_within_its_bounds() {
        let rate = |learned| RateLimit::new(FakeRelativeClock::default(), 30, Some(learned)).rate();
        assert_eq!(format!("{:?}", [7.5, 0.0, 99.0, f64::NAN].map(rate)), "[7.5, 1.0, 30.0, 30.0]");
    }
}
