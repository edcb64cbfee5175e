//! The limiter of one key: a governor (GCRA), and behind it an exact log of the last calls.
//!
//! **The governor sets the pace.** The API counts calls per second and key. At exactly that rate, one call that travels a
//! millisecond faster than an earlier one is a call too many, so the pace is [`USED_SHARE`] of the rate. Timers fire late,
//! and a burst of 1 would lose each lateness for ever. So the governor saves up as many calls as fit into `SLACK`, and the
//! long-run rate is exact. A fresh limiter has nothing saved up, since another run may have used the key until a moment ago.
//!
//! **The log keeps the cap.** A call that the governor lets through on time may still begin late, and crowd the calls
//! behind it. So a call is taken first ([`RateLimit::take`]) and begun later ([`RateLimit::begin`]), and no more than the cap
//! begin in any [`CALL_WINDOW`]. A call counts from the moment at which it has left ([`RateLimit::left`]). Until that is
//! known the call may leave at any time, and counts as if it left now.
//!
//! Rates are calls a second.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

/// The share of a rate that is used. The rest is for calls that overtake each other on the way.
pub const USED_SHARE: f64 = 0.983;

/// The lateness of timers that is made up for, rounded up to whole calls. A busy machine stops a process for longer than
/// 10 ms now and then, which costs half a percent of the budget otherwise.
const SLACK: Duration = Duration::from_millis(30);

/// No more calls begin in any window of this length than the cap allows in a second. The 14 ms beyond the second are for
/// calls that overtake each other on the way.
pub const CALL_WINDOW: Duration = Duration::from_millis(1014);

/// The clock of the runtime's timers, by which limiters wait.
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

/// The number of a call, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallNumber(u64);

impl CallNumber {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// A call in the log.
#[derive(Clone, Copy, Debug)]
struct Begun<I> {
    number: CallNumber,
    /// The moment at which it left; `None` while it may still be here.
    left: Option<I>,
}

/// The limiter of one key.
#[derive(Debug)]
pub struct RateLimit<C: Clock = TimerClock> {
    clock: C,
    cap_per_second: u32,
    rate: f64,
    pace: Pace,
    governor: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    /// The moment at which the last call was taken, or the rate was set.
    last: Option<C::Instant>,
    /// The log: the calls of the last [`CALL_WINDOW`] in the order in which they left, then those that may still be here.
    begun: VecDeque<Begun<C::Instant>>,
}

impl<C: Clock + Clone> RateLimit<C> {
    /// A limiter at the cap, whose first call is free at once.
    pub fn new(clock: C, cap_per_second: u32) -> Self {
        Self::at_rate(clock, cap_per_second, cap_per_second.max(1).into())
    }

    /// A limiter at a lower rate, above 0, whose first call is free at once.
    pub fn at_rate(clock: C, cap_per_second: u32, rate: f64) -> Self {
        let cap_per_second = cap_per_second.max(1);
        let pace = Pace::of(rate);
        let governor = RateLimiter::direct_with_clock(pace.quota, clock.clone());
        let _nothing_saved_up = governor.check_n(pace.slack);
        Self { clock, cap_per_second, rate, pace, governor, last: None, begun: VecDeque::new() }
    }

    /// The highest rate at which this key is ever used.
    pub fn cap(&self) -> f64 {
        self.cap_per_second.into()
    }

    /// The present rate.
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// The time from one call to the next.
    pub const fn interval(&self) -> Duration {
        self.pace.interval
    }

    /// Takes one call, or returns the time to wait for one.
    ///
    /// No call is taken before it could begin. Such calls would wait together and begin together, again in every window that
    /// follows.
    pub fn take(&mut self) -> Result<(), Duration> {
        let now = self.clock.now();
        // The log comes first: a permit of the governor that cannot be used yet would be lost.
        self.check_window(now)?;
        self.governor.check().map_err(|not_until| not_until.wait_time_from(now))?;
        self.last = Some(now);
        Ok(())
    }

    /// The number of calls that the present rate lets through in this time from now.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a year of calls")]
    pub fn calls_within(&self, time: Duration) -> usize {
        let since = self.last.map(|last| Duration::from(self.clock.now().duration_since(last)));
        let first = since.map_or(Duration::ZERO, |since| self.pace.interval.saturating_sub(since));
        time.checked_sub(first).map_or(0, |rest| 1 + rest.div_duration_f64(self.pace.interval) as usize)
    }

    /// Begins a call that was taken, or returns the time that it has to wait for earlier calls. While one of those may still
    /// be here, it is worth asking again as soon as that call has left.
    pub fn begin(&mut self) -> Result<CallNumber, Duration> {
        self.check_window(self.clock.now())?;
        let number = CallNumber::next();
        self.begun.push_back(Begun { number, left: None });
        Ok(number)
    }

    /// Returns at once when one more call fits into the [`CALL_WINDOW`] that ends now; otherwise the time until one may.
    fn check_window(&mut self, now: C::Instant) -> Result<(), Duration> {
        let age = |left: C::Instant| Duration::from(now.duration_since(left));
        while self.begun.front().and_then(|call| call.left).is_some_and(|left| age(left) >= CALL_WINDOW) {
            self.begun.pop_front();
        }
        match self.begun.len().checked_sub(self.most_in_window()).and_then(|at| self.begun.get(at)) {
            Some(earliest) => Err(CALL_WINDOW.saturating_sub(earliest.left.map_or(Duration::ZERO, age))),
            None => Ok(()),
        }
    }

    /// The call leaves now, whatever was believed before.
    pub fn left(&mut self, call: CallNumber) {
        self.record_departure(call, |_, now| now);
    }

    /// The call has left by now, if it was not known to have left earlier.
    pub fn left_at_the_latest(&mut self, call: CallNumber) {
        self.record_departure(call, Option::unwrap_or);
    }

    /// Moves the call to its place in the order of the log.
    fn record_departure(&mut self, number: CallNumber, when: impl Fn(Option<C::Instant>, C::Instant) -> C::Instant) {
        let now = self.clock.now();
        let found = self.begun.iter().rposition(|call| call.number == number);
        let Some(call) = found.and_then(|place| self.begun.remove(place)) else { return };
        let left = when(call.left, now);
        // Most calls leave in order, so the search begins at the end.
        let behind = self.begun.iter().rposition(|other| other.left.is_some_and(|other| other <= left));
        self.begun.insert(behind.map_or(0, |place| place + 1), Begun { left: Some(left), ..call });
    }

    /// The time for which no other run may use the key, so that these calls and those of a fresh limiter stay within the cap
    /// together: as long as the last calls would have taken at an even pace, and no longer than they count.
    pub fn release_cooldown(&self) -> Duration {
        let now = self.clock.now();
        let age = |call: &Begun<C::Instant>| call.left.map_or(Duration::ZERO, |left| now.duration_since(left).into());
        let paced = (1..).map(|calls| CALL_WINDOW.min(self.pace.interval * calls));
        let left = self.begun.iter().rev().zip(paced).map(|(call, paced)| paced.saturating_sub(age(call)));
        left.max().unwrap_or_default()
    }

    /// The most calls that may begin in a [`CALL_WINDOW`]. A hidden limit below the cap is a limit of such windows, too.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
    fn most_in_window(&self) -> usize {
        // Rounded up: a rate of 17.5 needs windows of 18 now and then.
        (self.rate.ceil() as usize).clamp(1, usize::try_from(self.cap_per_second).unwrap_or(usize::MAX))
    }

    /// Changes the rate.
    ///
    /// A fresh governor would let a call through at once. Emptied first, it makes the next call wait a whole interval.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
        self.last = Some(self.clock.now());
        self.pace = Pace::of(rate);
        self.governor = RateLimiter::direct_with_clock(self.pace.quota, self.clock.clone());
        let _emptied = self.governor.check_n(self.pace.quota.burst_size());
    }
}

/// A rate in governor's terms.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    /// The calls that lateness may save up.
    slack: NonZeroU32,
    quota: Quota,
}

impl Pace {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a few calls")]
    fn of(rate: f64) -> Self {
        let interval = Duration::from_secs_f64(1.0 / (rate * USED_SHARE));
        let slack = NonZeroU32::new(SLACK.div_duration_f64(interval).ceil() as u32).unwrap_or(NonZeroU32::MIN);
        // `None` is a rate beyond a thousand million calls a second.
        let quota = Quota::with_period(interval).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
        Self { interval, slack, quota: quota.allow_burst(slack.saturating_add(1)) }
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

    /// Calls as soon as allowed, but late by `lateness`, for `duration`. Returns (calls, most in a second).
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
            if let Err(wait) = limit.take() {
                clock.advance(wait + lateness());
                continue;
            }
            let begun = loop {
                match limit.begin() {
                    Ok(begun) => break begun,
                    Err(wait) => clock.advance(wait + lateness()),
                }
            };
            limit.left(begun);
            calls += 1;
            window.call(Duration::from(clock.now()).saturating_sub(start));
        }
    }

    #[test]
    fn late_timers_never_exceed_cap() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in 1..=300u32 {
            for worst_lateness_us in [0, 1, 900, 2_000, 5_000, 40_000, 1_200_000] {
                let clock = FakeRelativeClock::default();
                let mut limit = RateLimit::new(clock.clone(), rate);
                // Mostly punctual, now and then as late as possible: that saves up the most.
                let (_, most) = greedy(&mut limit, &clock, Duration::from_secs(4), || {
                    Duration::from_micros(if random.u8(..) < 40 { worst_lateness_us } else { 0 })
                });
                assert!(most <= rate as usize, "{most} calls in a second at {rate}/s, late by {worst_lateness_us} us");
            }
        }
    }

    #[test]
    fn late_calls_do_not_crowd_later_ones() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in (1..=300u32).step_by(13) {
            let clock = FakeRelativeClock::default();
            let mut limit = RateLimit::new(clock.clone(), rate);
            let mut window = Window { calls: VecDeque::new(), most: 0 };
            let mut waiting = 0;
            for _ in 0..20_000 {
                clock.advance(Duration::from_micros(random.u64(0..400)));
                waiting += u32::from(limit.take().is_ok());
                // Now and then everything that was let through begins in one rush.
                while waiting > 0 && random.u8(..) < 8 {
                    let Ok(begun) = limit.begin() else { break };
                    limit.left(begun);
                    waiting -= 1;
                    window.call(Duration::from(clock.now()));
                }
            }
            assert!(window.most <= rate as usize, "{} calls begun in a second at {rate}/s", window.most);
        }
    }

    /// The most of these moments in a second.
    fn most_in_a_second(came: &[Duration]) -> usize {
        let in_second_from = |from: &Duration| {
            came.iter()
                .filter(|at| *at >= from && Duration::saturating_sub(**at, *from) < Duration::from_secs(1))
                .count()
        };
        came.iter().map(in_second_from).max().unwrap_or_default()
    }

    #[test]
    fn slow_first_calls_do_not_crowd_later_ones() {
        for rate in [2, 10, 30, 100] {
            for connecting in [1, 30, 150, 600, 1_300, 4_000].map(Duration::from_millis) {
                let clock = FakeRelativeClock::default();
                let mut limit = RateLimit::new(clock.clone(), rate);
                let (mut waiting, mut came) = (Vec::new(), Vec::new());
                let mut taken = 0;
                while came.len() < rate as usize * 3 {
                    clock.advance(Duration::from_micros(500));
                    let now = Duration::from(clock.now());
                    taken += usize::from(limit.take().is_ok());
                    if taken > 0
                        && let Ok(begun) = limit.begin()
                    {
                        taken -= 1;
                        waiting.push(begun);
                    }
                    // Until the first connection stands, calls wait for one.
                    while now >= connecting
                        && let Some(begun) = waiting.pop()
                    {
                        limit.left(begun);
                        came.push(now);
                    }
                }
                let most = most_in_a_second(&came);
                assert!(most <= rate as usize, "{most} calls in a second at {rate}/s, connecting for {connecting:?}");
            }
        }
    }

    #[test]
    fn calls_after_bunch_are_evenly_paced() {
        let clock = FakeRelativeClock::default();
        let mut limit = RateLimit::new(clock.clone(), 30);
        let (mut taken, mut waiting, mut came) = (0, Vec::new(), Vec::new());
        while came.len() < 150 {
            let now = Duration::from(clock.now());
            taken += usize::from(limit.take().is_ok());
            if taken > 0
                && let Ok(begun) = limit.begin()
            {
                taken -= 1;
                waiting.push(begun);
            }
            // A connection that takes half a second to open lets fifteen calls go at once.
            while now >= Duration::from_millis(500)
                && let Some(begun) = waiting.pop()
            {
                limit.left(begun);
                came.push(now);
            }
            clock.advance(Duration::from_millis(1));
        }
        let after = came.iter().position(|at| *at >= Duration::from_millis(1_600)).unwrap();
        let calls_within_100_ms = |from: &Duration| {
            came.iter().filter(|at| (*from..*from + Duration::from_millis(100)).contains(*at)).count()
        };
        // 100 ms have three calls at an even pace of 30/s, one more at the edge, and one that lateness has saved up.
        assert!(came[after..].iter().map(calls_within_100_ms).max().unwrap() <= 5, "{:?}", &came[after..]);
        let span = came.last().unwrap().checked_sub(came[after]).unwrap();
        assert!(
            span.div_f64(f64::from(u32::try_from(149 - after).unwrap())) < limit.interval() + Duration::from_millis(1)
        );
    }

    #[test]
    fn undeparted_call_counts_until_it_leaves() {
        let clock = FakeRelativeClock::default();
        let mut limit = RateLimit::new(clock.clone(), 1);
        let begun = limit.begin().unwrap();
        clock.advance(Duration::from_secs(5));
        assert_eq!(limit.begin().unwrap_err(), CALL_WINDOW);
        limit.left_at_the_latest(begun);
        clock.advance(Duration::from_millis(14));
        limit.left_at_the_latest(begun);
        assert_eq!(limit.begin().unwrap_err(), Duration::from_secs(1), "what was known stays known");
        limit.left(begun);
        assert_eq!(limit.begin().unwrap_err(), CALL_WINDOW, "it opened another connection");
        clock.advance(CALL_WINDOW);
        limit.begin().unwrap();
    }

    #[test]
    fn consecutive_holders_share_cap() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..400 {
            let rate = random.u32(1..=100);
            let clock = FakeRelativeClock::default();
            let mut came = Vec::new();
            for _ in 0..4 {
                let mut limit = RateLimit::new(clock.clone(), rate);
                for _ in 0..random.u32(1..=rate * 2) {
                    let begun = loop {
                        match limit.take().and_then(|()| limit.begin()) {
                            Ok(begun) => break begun,
                            Err(wait) => clock.advance(wait),
                        }
                    };
                    // Some hang on the way out, and the calls behind them come in a bunch.
                    clock.advance(Duration::from_millis(if random.u8(..) < 8 { random.u64(0..1_500) } else { 0 }));
                    limit.left(begun);
                    came.push(Duration::from(clock.now()));
                }
                if random.bool() {
                    limit.set_rate(1.0);
                }
                let release_cooldown = limit.release_cooldown();
                assert!(release_cooldown <= CALL_WINDOW, "{release_cooldown:?}");
                clock.advance(release_cooldown);
            }
            let most = most_in_a_second(&came);
            assert!(most <= rate as usize, "round {round}: {most} calls in a second at {rate}/s");
        }
    }

    #[test]
    fn timer_lateness_is_made_up() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in [10, 30, 100] {
            let clock = FakeRelativeClock::default();
            let mut limit = RateLimit::new(clock.clone(), rate);
            // Mostly a few milliseconds, and about once a second as late as on a busy machine.
            let (calls, _) = greedy(&mut limit, &clock, Duration::from_secs(100), || {
                Duration::from_micros(if random.u8(..) < 8 { 18_000 } else { random.u64(0..8_000) })
            });
            let allowed = f64::from(rate) * 100.0;
            let used = f64::from(u32::try_from(calls).unwrap()) / allowed;
            assert!((0.9805..0.9842).contains(&used), "{calls} calls of {allowed}");
        }
    }

    #[test]
    fn fresh_limiter_lets_one_call_through() {
        let mut limit = RateLimit::new(FakeRelativeClock::default(), 30);
        assert_eq!(limit.take(), Ok(()));
        let wait = limit.take().unwrap_err();
        assert!((Duration::from_millis(23)..Duration::from_millis(34)).contains(&wait), "{wait:?}");
    }

    #[test]
    fn changed_rate_gives_no_extra_call() {
        let mut limit = RateLimit::new(FakeRelativeClock::default(), 30);
        for rate in [15.0, 7.5, 1.0, 8.0, 30.0] {
            limit.set_rate(rate);
            assert!(limit.take().unwrap_err() >= limit.interval(), "a changed limiter gave a call away at {rate}/s");
        }
    }

    /// Below the cap no sliding second has more calls than the rate, and nearly all of the rate is used.
    #[test]
    fn lowered_rate_is_kept_and_nearly_used() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in [1.0, 2.5, 9.0, 17.0, 29.3] {
            let clock = FakeRelativeClock::default();
            let mut limit = RateLimit::at_rate(clock.clone(), 30, rate);
            let (calls, most) = greedy(&mut limit, &clock, Duration::from_secs(100), || {
                Duration::from_micros(if random.u8(..) < 8 { 18_000 } else { random.u64(0..8_000) })
            });
            let number = |count: usize| f64::from(u32::try_from(count).unwrap());
            assert!(number(most) <= rate.ceil(), "{most} calls in a second at {rate}/s");
            let share = number(calls) / (rate * 100.0);
            assert!((0.97..1.0).contains(&share), "{calls} calls at {rate}/s");
        }
    }

    #[test]
    fn calls_within_matches_limiter() {
        for rate in [1.0, 2.5, 9.0, 29.3] {
            let clock = FakeRelativeClock::default();
            let mut limit = RateLimit::at_rate(clock.clone(), 30, rate);
            for milliseconds in [0, 40, 350, 1000, 4000, 9000] {
                let time = Duration::from_millis(milliseconds);
                let predicted = limit.calls_within(time);
                let (calls, _) = greedy(&mut limit, &clock, time, || Duration::ZERO);
                // Lateness may have saved up a call, and one may fall on the very end.
                assert!(
                    predicted.abs_diff(calls) <= 1,
                    "{calls} calls, predicted {predicted}, at {rate}/s in {time:?}"
                );
            }
        }
    }

    #[test]
    fn lowered_rate_counts_earlier_calls() {
        let clock = FakeRelativeClock::default();
        let mut limit = RateLimit::new(clock.clone(), 30);
        greedy(&mut limit, &clock, Duration::from_secs(2), || Duration::ZERO);
        limit.set_rate(5.0);
        let (calls, _) = greedy(&mut limit, &clock, Duration::from_millis(800), || Duration::ZERO);
        assert!(calls <= 1, "the last second has more than five already, and {calls} more begin");
        let (calls, most) = greedy(&mut limit, &clock, Duration::from_secs(10), || Duration::ZERO);
        assert!(most <= 5 && calls >= 45, "{calls} calls, {most} in a second");
    }
}
