//! The rate of a key: what it gives way to, and how it finds back. Values and decisions only; the time is passed in.
//!
//! Additive increase, multiplicative decrease, with a memory. A refusal (429) out of the blue halves the rate; one that
//! follows a step up, or comes near the rate that was too much before, takes it one step back, for the rate below was
//! good; a second one right after it a little more, and only a third halves it. What was too much is the ceiling. Up to it the rate rises a step, a thirtieth of the cap, every [`RECOVERY`]; to
//! try the ceiling itself it waits longer after every try in vain, up to [`LONGEST_PROBE_WAIT`], so that a hidden limit
//! costs a handful of refusals an hour. Without a ceiling, as after maintenance, it rises every [`QUICK_RECOVERY`].
//!
//! Slow answers lower the rate too, less, and only while that helps: [`Learner::restore`] takes it back. Rates are calls a
//! second.

use std::time::Duration;

use crate::{clock::Timestamp, model::AimdState};

/// The slowest that a key becomes: one call a second.
pub const SLOWEST: f64 = 1.0;

/// Between two steps up below a ceiling, and how long a rate must hold to be a good one.
pub const RECOVERY: Duration = Duration::from_secs(20);

/// Between two steps up when no ceiling is known: after maintenance a key is back at its cap within ten seconds.
pub const QUICK_RECOVERY: Duration = Duration::from_millis(500);

/// Between two steps up while it is not known yet whether giving way made the answers quicker: long enough that it is known
/// before ([`super::latency`]).
const PATIENCE: Duration = Duration::from_secs(40);

/// How long after its first try in vain a ceiling is tried again; it doubles with every further one.
pub const FIRST_PROBE_WAIT: Duration = Duration::from_secs(2 * 60);

/// See [`FIRST_PROBE_WAIT`].
pub const LONGEST_PROBE_WAIT: Duration = Duration::from_secs(30 * 60);

/// From this share of a ceiling on, a refusal is about that ceiling.
const NEAR: f64 = 0.85;

/// What a second refusal in a row, near a ceiling, leaves of a rate.
const AFTER_SECOND: f64 = 0.85;

/// What slow answers leave of a rate.
const AFTER_SLOW_ANSWERS: f64 = 0.7;

/// Why a rate gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// 429.
    Throttled,
    /// Answers take far longer than they used to.
    SlowAnswers,
    /// 503.
    Maintenance,
}

/// What became of a rate that was looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// It stays.
    Stay,
    /// A step up.
    Up,
    /// The step that led back to the cap.
    Back,
}

/// The rate of one key.
#[derive(Clone, Debug)]
pub struct Learner {
    cap: f64,
    rate: f64,
    ceiling: Option<f64>,
    failed_probes: u32,
    /// Since when the rate is what it is; in the future while the key rests after a refusal.
    changed: Timestamp,
    refused_until: Timestamp,
    /// The last change was a step up.
    stepped: bool,
    /// Refusals since the rate held for the last time, the last one not counted.
    in_a_row: u32,
    /// Something was learned before, so that other runs have to hear of the end of it, too.
    was_told: bool,
    /// Rate, ceiling and failed probes before the answers became slow.
    before_slow_answers: Option<(f64, Option<f64>, u32)>,
}

impl Learner {
    /// `learned` is what earlier runs came to, within the cap of today.
    #[must_use]
    pub fn new(cap: f64, learned: Option<AimdState>, now: Timestamp) -> Self {
        let told = learned.filter(|learned| learned.rate.is_finite());
        let AimdState { rate, ceiling, failed_probes, changed, refused_until } =
            told.unwrap_or(AimdState::plain(cap));
        let rate = rate.clamp(SLOWEST.min(cap), cap);
        Self {
            cap,
            rate,
            ceiling: ceiling.filter(|ceiling| (SLOWEST..=cap).contains(ceiling)),
            failed_probes,
            // Other machines' clocks may be ahead of ours.
            changed: changed.min(now),
            refused_until: refused_until.min(now),
            stepped: false,
            in_a_row: 0,
            was_told: told.is_some(),
            before_slow_answers: None,
        }
    }

    /// Calls a second, the headroom not yet taken off.
    #[must_use]
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// The rate that was too much the last time.
    #[must_use]
    pub const fn ceiling(&self) -> Option<f64> {
        self.ceiling
    }

    /// What the next run has to know, if anything.
    #[must_use]
    pub fn learned(&self) -> Option<AimdState> {
        let Self { rate, ceiling, failed_probes, changed, refused_until, .. } = *self;
        let is_news = self.was_told || rate < self.cap || ceiling.is_some();
        is_news.then_some(AimdState { rate, ceiling, failed_probes, changed, refused_until })
    }

    /// Gives way. Nothing rises until the key has rested.
    pub fn give_way(&mut self, cause: Cause, rest: Duration, now: Timestamp) {
        let at = self.rate;
        let has_held = now.since(self.refused_until) >= RECOVERY;
        self.in_a_row = if has_held { 0 } else { self.in_a_row + 1 };
        let lowered = match (cause, self.in_a_row) {
            (Cause::Maintenance, _) => at.min(self.cap / 2.0),
            (_, 0) if self.is_about_a_ceiling(now) => {
                self.failed_probes += 1;
                at - self.step_size()
            }
            (Cause::Throttled, 1) if self.is_about_a_ceiling(now) => at * AFTER_SECOND,
            (Cause::Throttled, _) => at / 2.0,
            (Cause::SlowAnswers, _) => at * AFTER_SLOW_ANSWERS,
        };
        match cause {
            Cause::SlowAnswers => {
                let before = (at, self.ceiling, self.failed_probes);
                self.before_slow_answers.get_or_insert(before);
            }
            Cause::Throttled | Cause::Maintenance => self.before_slow_answers = None,
        }
        if cause != Cause::Maintenance {
            self.ceiling = Some(at);
            self.refused_until = now + rest;
        }
        self.change(lowered.clamp(SLOWEST.min(self.cap), self.cap), now + rest);
        self.stepped = false;
    }

    /// Whether being refused now says that this rate is a little too much, rather than that everything has changed.
    fn is_about_a_ceiling(&self, now: Timestamp) -> bool {
        let is_near = self.ceiling.is_some_and(|ceiling| self.rate >= ceiling * NEAR);
        let has_just_stepped = self.stepped && now.since(self.changed) <= RECOVERY;
        is_near || has_just_stepped
    }

    /// Slower did not make the answers quicker: it was not us, and everything is as it was before.
    pub fn restore(&mut self, now: Timestamp) {
        if let Some((rate, ceiling, failed_probes)) = self.before_slow_answers.take() {
            (self.ceiling, self.failed_probes) = (ceiling, failed_probes);
            self.change(rate, now);
            self.stepped = false;
        }
    }

    /// Answers are as quick as they used to be: what was learned stays.
    pub fn settle(&mut self) {
        self.before_slow_answers = None;
    }

    /// One step up when it is time. To be called whenever the key is used.
    pub fn step(&mut self, now: Timestamp) -> Step {
        if self.rate >= self.cap && self.ceiling.is_none() {
            return Step::Stay;
        }
        // A clock that was set back must not hold the rate down; a rest has an end of its own.
        self.changed = self.changed.min(now + super::verdict::LONGEST_REST);
        let held = now.since(self.changed);
        if self.ceiling.is_some_and(|ceiling| self.rate >= ceiling) {
            if held < RECOVERY {
                return Step::Stay;
            }
            // It holds where it was refused before.
            (self.ceiling, self.failed_probes) = (None, 0);
            if self.rate >= self.cap {
                return Step::Back;
            }
        }
        if held < self.wait() {
            return Step::Stay;
        }
        self.change((self.rate + self.step_size()).min(self.ceiling.unwrap_or(self.cap)), now);
        self.stepped = true;
        if self.rate >= self.cap && self.ceiling.is_none() { Step::Back } else { Step::Up }
    }

    /// How long the present rate must have held before the next step.
    fn wait(&self) -> Duration {
        let Some(ceiling) = self.ceiling else { return QUICK_RECOVERY };
        if self.before_slow_answers.is_some() {
            return PATIENCE;
        }
        let is_probe = self.rate + self.step_size() >= ceiling;
        match self.failed_probes {
            failed @ 1.. if is_probe => {
                FIRST_PROBE_WAIT.saturating_mul(1 << (failed - 1).min(10)).min(LONGEST_PROBE_WAIT)
            }
            _ => RECOVERY,
        }
    }

    fn step_size(&self) -> f64 {
        (self.cap / 30.0).max(1.0)
    }

    fn change(&mut self, rate: f64, since: Timestamp) {
        self.rate = rate;
        self.changed = since;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const REST: Duration = Duration::from_secs(30);

    /// What the API did with a key, minute by minute.
    #[derive(Debug, Default)]
    struct Story {
        calls: u64,
        refused: u64,
        /// The rate whenever the key could be used, once a second.
        rates: Vec<f64>,
    }

    impl Story {
        fn lowest(&self) -> f64 {
            self.rates.iter().copied().fold(f64::INFINITY, f64::min)
        }

        fn highest(&self) -> f64 {
            self.rates.iter().copied().fold(0.0, f64::max)
        }
    }

    /// Uses a key to the full for so many seconds under a hidden limit, with so many calls on their way before the first
    /// refusal is heard. The limit may change with the second.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
    fn live(learner: &mut Learner, now: &mut Timestamp, seconds: u64, limit: impl Fn(u64) -> f64) -> Story {
        let mut story = Story::default();
        let mut second = 0;
        while second < seconds {
            learner.step(*now);
            let limit = limit(second);
            let sent = learner.rate() * crate::api::limit::HEADROOM;
            story.rates.push(learner.rate());
            if sent > limit {
                // Refused from the first call too many on, until that is heard 150 ms later.
                story.calls += limit as u64 + (sent * 0.15).ceil() as u64;
                story.refused += (sent * 0.15).ceil() as u64;
                learner.give_way(Cause::Throttled, REST, *now);
                *now = *now + REST;
                second += REST.as_secs();
            } else {
                story.calls += sent as u64;
            }
            *now = *now + Duration::from_secs(1);
            second += 1;
        }
        story
    }

    fn fresh(cap: f64) -> (Learner, Timestamp) {
        (Learner::new(cap, None, START), START)
    }

    #[test]
    fn it_settles_within_ten_percent_below_a_hidden_limit_and_under_two_percent_are_refused() {
        for limit in [3.0, 7.0, 11.0, 17.0, 23.0, 29.0] {
            let (mut learner, mut now) = fresh(30.0);
            let found = live(&mut learner, &mut now, 20 * 60, |_| limit);
            let settled = live(&mut learner, &mut now, 60 * 60, |_| limit);
            assert!(
                settled.lowest() > limit - 1.01 && settled.highest() <= limit / 0.983 + 1.0,
                "{limit}: {settled:?}"
            );
            let below = settled.rates.iter().filter(|rate| **rate > limit / 0.983).count();
            assert!(below <= 5, "{limit}: tried {below} times an hour");
            let (calls, refused) = (found.calls + settled.calls, found.refused + settled.refused);
            assert!(refused * 50 < calls, "{limit}: {refused} of {calls} refused");
        }
        let (mut learner, mut now) = fresh(30.0);
        live(&mut learner, &mut now, 5 * 60, |_| 17.0);
        assert!((learner.rate() - 17.0).abs() < 1e-9, "{learner:?}");
    }

    #[test]
    fn refusals_out_of_the_blue_halve_it_down_to_one_a_second() {
        let (mut learner, now) = fresh(30.0);
        let mut rates = Vec::new();
        for _ in 0..6 {
            learner.give_way(Cause::Throttled, Duration::ZERO, now);
            rates.push(learner.rate());
        }
        assert_eq!(rates, [15.0, 7.5, 3.75, 1.875, 1.0, 1.0]);
    }

    #[test]
    fn after_one_refusal_that_stays_the_only_one_it_is_back_at_the_cap_within_minutes() {
        let (mut learner, mut now) = fresh(30.0);
        learner.give_way(Cause::Throttled, REST, now);
        assert_eq!(
            learner.step(now + REST + RECOVERY - Duration::from_millis(1)),
            Step::Stay,
            "no step up while it rests"
        );
        let mut back = None;
        for second in 0..600 {
            if learner.step(now) == Step::Back {
                back = Some(second);
                break;
            }
            now = now + Duration::from_secs(1);
        }
        assert!(matches!(back, Some(300..=400)), "{back:?} {learner:?}");
        assert_eq!((learner.rate(), learner.ceiling()), (30.0, None));
        assert_eq!(learner.step(now + REST), Step::Stay, "it is said once");
    }

    #[test]
    fn when_the_hidden_limit_goes_away_the_cap_is_found_again() {
        let (mut learner, mut now) = fresh(30.0);
        live(&mut learner, &mut now, 600, |_| 17.0);
        let story = live(&mut learner, &mut now, 40 * 60, |_| 1000.0);
        assert_eq!((story.refused, learner.rate()), (0, 30.0), "{learner:?}");
    }

    #[test]
    fn when_the_hidden_limit_falls_far_it_is_found_quickly() {
        let (mut learner, mut now) = fresh(30.0);
        live(&mut learner, &mut now, 600, |_| 23.0);
        let story = live(&mut learner, &mut now, 600, |_| 4.0);
        assert!(learner.rate() <= 4.1 && story.refused < 25, "{learner:?}, {} refused", story.refused);
    }

    #[test]
    fn a_refusal_or_two_by_chance_near_the_ceiling_cost_little_and_more_of_them_much() {
        let (mut learner, mut now) = fresh(30.0);
        live(&mut learner, &mut now, 600, |_| 17.0);
        let mut rates = Vec::new();
        for _ in 0..4 {
            learner.give_way(Cause::Throttled, REST, now);
            now = now + REST;
            rates.push(learner.rate());
        }
        assert_eq!(rates, [16.0, 13.6, 6.8, 3.4]);
    }

    #[test]
    fn runs_that_follow_one_another_learn_as_one() {
        let (mut learner, mut now) = fresh(30.0);
        let mut refused = 0;
        for _ in 0..60 {
            refused += live(&mut learner, &mut now, 40, |_| 17.0).refused;
            now = now + Duration::from_secs(80);
            learner = Learner::new(30.0, learner.learned(), now);
        }
        assert!((15.9..=18.1).contains(&learner.rate()) && refused < 40, "{learner:?}, {refused} refused");
    }

    #[test]
    fn a_key_at_its_cap_that_has_learned_nothing_passes_nothing_on_but_one_that_is_back_does() {
        assert_eq!(fresh(30.0).0.learned(), None);
        let back = Learner::new(30.0, Some(AimdState::plain(30.0)), START);
        assert_eq!(back.learned().map(|learned| learned.rate), Some(30.0));
    }

    #[test]
    fn what_was_learned_is_taken_within_the_bounds_of_today() {
        let rate = |rate| Learner::new(30.0, Some(AimdState::plain(rate)), START).rate();
        assert_eq!(format!("{:?}", [7.5, 0.0, 99.0, f64::NAN].map(rate)), "[7.5, 1.0, 30.0, 30.0]");
        let above = AimdState { ceiling: Some(44.0), ..AimdState::plain(40.0) };
        assert_eq!(Learner::new(30.0, Some(above), START).ceiling(), None);
        let ahead = AimdState { changed: START + Duration::from_secs(3600), ..AimdState::plain(15.0) };
        let mut learner = Learner::new(30.0, Some(ahead), START);
        assert_eq!(learner.step(START + QUICK_RECOVERY), Step::Up, "a clock that was ahead holds nothing down");
    }

    #[test]
    fn maintenance_halves_it_once_however_long_it_lasts_and_it_comes_back_within_two_minutes() {
        let (mut learner, mut now) = fresh(30.0);
        for _ in 0..100 {
            learner.give_way(Cause::Maintenance, Duration::ZERO, now);
            now = now + REST;
            learner = Learner::new(30.0, learner.learned(), now);
        }
        assert_eq!((learner.rate(), learner.ceiling()), (15.0, None));
        let story = live(&mut learner, &mut now, 120, |_| 1000.0);
        assert_eq!((learner.rate(), story.lowest()), (30.0, 16.0), "{learner:?}");
    }

    #[test]
    fn slowing_that_does_not_help_is_taken_back_whole() {
        let (mut learner, now) = fresh(30.0);
        learner.give_way(Cause::SlowAnswers, Duration::ZERO, now);
        assert!((learner.rate() - 21.0).abs() < 1e-9, "{learner:?}");
        learner.give_way(Cause::SlowAnswers, Duration::ZERO, now);
        learner.restore(now);
        assert_eq!((learner.rate(), learner.ceiling()), (30.0, None));
        learner.give_way(Cause::SlowAnswers, Duration::ZERO, now);
        learner.settle();
        learner.restore(now);
        assert!((learner.rate() - 21.0).abs() < 1e-9, "what helped stays: {learner:?}");
    }

    #[test]
    fn it_does_not_rise_while_it_is_being_found_out_whether_slowing_helps() {
        let (mut learner, now) = fresh(30.0);
        learner.give_way(Cause::SlowAnswers, Duration::ZERO, now);
        let second = now + RECOVERY + Duration::from_secs(2);
        assert_eq!(learner.step(second), Step::Stay);
        learner.give_way(Cause::SlowAnswers, Duration::ZERO, second);
        assert!((learner.rate() - 14.7).abs() < 1e-9, "{learner:?}");
        learner.settle();
        assert_eq!(learner.step(second + RECOVERY), Step::Up, "what is known to help is built on as ever");
    }
}
