//! The rate of a key: additive increase, multiplicative decrease, with a memory. Values and decisions only; the time is passed in.
//!
//! | what happens | what the rate does |
//! |---|---|
//! | a 429 out of the blue | half |
//! | a 429 after a step up, or near the ceiling | one step down: the rate below was good |
//! | a second such 429 in a row | times `SECOND_REFUSAL_FACTOR` |
//! | a third one | half |
//! | slow responses | times `SLOW_RESPONSES_FACTOR`; [`Aimd::restore`] takes it back when that does not help |
//! | maintenance (503) | at most half of the cap, and no ceiling |
//! | nothing, below a ceiling | one step up every [`STEP_INTERVAL`] |
//! | nothing, just below a ceiling | the ceiling is probed after 2, 4, 8 … 30 minutes |
//! | nothing, without a ceiling | one step up every [`QUICK_STEP_INTERVAL`] |
//!
//! The ceiling is the rate that was too much the last time. A hidden limit therefore costs a handful of refusals an hour. A
//! step is a thirtieth of the cap. Rates are calls a second.

use std::time::Duration;

use crate::{clock::Timestamp, model::AimdState};

/// The lowest rate of a key, in calls a second.
const MIN_RATE: f64 = 1.0;

/// The time between two steps up below a ceiling. A rate that has held this long is a good one.
pub const STEP_INTERVAL: Duration = Duration::from_secs(20);

/// The time between two steps up without a ceiling. After maintenance a key is back at its cap within ten seconds.
pub const QUICK_STEP_INTERVAL: Duration = Duration::from_millis(500);

/// The time between two steps up while responses are slow. It is longer than `latency` needs to find out whether
/// the lower rate made them quicker.
const SLOW_RESPONSES_STEP_INTERVAL: Duration = Duration::from_secs(40);

/// The time after which a ceiling is probed for the first time. Every probe in vain doubles it.
pub const FIRST_PROBE_DELAY: Duration = Duration::from_secs(2 * 60);

/// The longest time between two probes of a ceiling.
pub const MAX_PROBE_DELAY: Duration = Duration::from_secs(30 * 60);

/// A refusal at this share of the ceiling or above is about the ceiling.
const NEAR_CEILING_SHARE: f64 = 0.85;

/// The part of a rate that a second refusal in a row leaves, near a ceiling.
const SECOND_REFUSAL_FACTOR: f64 = 0.85;

/// The part of a rate that slow responses leave.
const SLOW_RESPONSES_FACTOR: f64 = 0.7;

/// The reason for which a rate is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// 429.
    Throttled,
    /// Responses take far longer than they used to.
    SlowResponses,
    /// 503.
    Maintenance,
}

/// The result of [`Aimd::step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// The rate stays.
    Stay,
    /// The rate is a step higher.
    Up,
    /// The rate is back at the cap.
    Back,
}

/// The rate of one key.
#[derive(Clone, Debug)]
pub struct Aimd {
    cap: f64,
    /// The part that outlives the run. `changed` lies in the future while the key is cooling down.
    state: AimdState,
    /// The last change was a step up.
    stepped: bool,
    /// Refusals since the rate held for the last time, without the last one.
    in_a_row: u32,
    /// An earlier run left a state, so that later runs have to know of its end, too.
    was_known: bool,
    /// Rate, ceiling and failed probes before responses became slow.
    before_slow_responses: Option<(f64, Option<f64>, u32)>,
}

impl Aimd {
    /// Continues from the state that earlier runs left, within the cap of today.
    #[must_use]
    pub fn new(cap: f64, known: Option<AimdState>, now: Timestamp) -> Self {
        let known = known.filter(|known| known.rate.is_finite());
        let AimdState { rate, ceiling, failed_probes, changed, refused_until } = known.unwrap_or(AimdState::plain(cap));
        let state = AimdState {
            rate: rate.clamp(MIN_RATE.min(cap), cap),
            ceiling: ceiling.filter(|ceiling| (MIN_RATE..=cap).contains(ceiling)),
            failed_probes,
            // The clocks of other machines may be ahead of ours.
            changed: changed.min(now),
            refused_until: refused_until.min(now),
        };
        Self { cap, state, stepped: false, in_a_row: 0, was_known: known.is_some(), before_slow_responses: None }
    }

    /// Calls a second, before the limiter's reserve is taken off.
    #[must_use]
    pub const fn rate(&self) -> f64 {
        self.state.rate
    }

    /// The rate that was too much the last time.
    #[must_use]
    pub const fn ceiling(&self) -> Option<f64> {
        self.state.ceiling
    }

    /// The state for the next run, if there is anything that run has to know.
    #[must_use]
    pub fn state(&self) -> Option<AimdState> {
        let is_news = self.was_known || self.state.rate < self.cap || self.state.ceiling.is_some();
        is_news.then_some(self.state)
    }

    /// Lowers the rate. It does not rise again before the cooldown is over.
    pub fn back_off(&mut self, cause: Cause, cooldown: Duration, now: Timestamp) {
        let at = self.state.rate;
        let has_held = now.since(self.state.refused_until) >= STEP_INTERVAL;
        self.in_a_row = if has_held { 0 } else { self.in_a_row + 1 };
        let lowered = match (cause, self.in_a_row) {
            (Cause::Maintenance, _) => at.min(self.cap / 2.0),
            (_, 0) if self.is_about_a_ceiling(now) => {
                self.state.failed_probes += 1;
                at - self.step_size()
            }
            (Cause::Throttled, 1) if self.is_about_a_ceiling(now) => at * SECOND_REFUSAL_FACTOR,
            (Cause::Throttled, _) => at / 2.0,
            (Cause::SlowResponses, _) => at * SLOW_RESPONSES_FACTOR,
        };
        match cause {
            Cause::SlowResponses => {
                let before = (at, self.state.ceiling, self.state.failed_probes);
                // Of several slowdowns in a row the first one counts: the state before it is the one to restore.
                self.before_slow_responses.get_or_insert(before);
            }
            Cause::Throttled | Cause::Maintenance => self.before_slow_responses = None,
        }
        // Maintenance says nothing about the rate.
        if cause != Cause::Maintenance {
            self.state.ceiling = Some(at);
            self.state.refused_until = now + cooldown;
        }
        self.change(lowered.clamp(MIN_RATE.min(self.cap), self.cap), now + cooldown);
        self.stepped = false;
    }

    /// True when a refusal now means that the rate is a little too high, rather than that everything has changed.
    fn is_about_a_ceiling(&self, now: Timestamp) -> bool {
        let is_near = self.state.ceiling.is_some_and(|ceiling| self.state.rate >= ceiling * NEAR_CEILING_SHARE);
        let has_just_stepped = self.stepped && now.since(self.state.changed) <= STEP_INTERVAL;
        is_near || has_just_stepped
    }

    /// The lower rate did not make responses quicker: everything is as it was before.
    pub fn restore(&mut self, now: Timestamp) {
        if let Some((rate, ceiling, failed_probes)) = self.before_slow_responses.take() {
            (self.state.ceiling, self.state.failed_probes) = (ceiling, failed_probes);
            self.change(rate, now);
            self.stepped = false;
        }
    }

    /// Responses are as quick as before: the lower rate is kept.
    pub fn keep(&mut self) {
        self.before_slow_responses = None;
    }

    /// Raises the rate by one step when it is time. To be called whenever the key is used.
    pub fn step(&mut self, now: Timestamp) -> Step {
        if self.state.rate >= self.cap && self.state.ceiling.is_none() {
            return Step::Stay;
        }
        // A clock that was set back must not hold the rate down. A cooldown ends by itself.
        self.state.changed = self.state.changed.min(now + crate::api::response::MAX_COOLDOWN);
        let held = now.since(self.state.changed);
        if self.state.ceiling.is_some_and(|ceiling| self.state.rate >= ceiling) {
            if held < STEP_INTERVAL {
                return Step::Stay;
            }
            // The rate has now held at the ceiling, so the ceiling is forgotten.
            (self.state.ceiling, self.state.failed_probes) = (None, 0);
            if self.state.rate >= self.cap {
                return Step::Back;
            }
        }
        // This also covers a cooldown: while it lasts, `changed` lies in the future.
        if held < self.next_step_after() {
            return Step::Stay;
        }
        self.change((self.state.rate + self.step_size()).min(self.state.ceiling.unwrap_or(self.cap)), now);
        self.stepped = true;
        if self.state.rate >= self.cap && self.state.ceiling.is_none() { Step::Back } else { Step::Up }
    }

    /// The time for which the present rate must have held before the next step.
    fn next_step_after(&self) -> Duration {
        let Some(ceiling) = self.state.ceiling else { return QUICK_STEP_INTERVAL };
        if self.before_slow_responses.is_some() {
            return SLOW_RESPONSES_STEP_INTERVAL;
        }
        let is_probe = self.state.rate + self.step_size() >= ceiling;
        match self.state.failed_probes {
            failed @ 1.. if is_probe => {
                // The shift is bounded: beyond 2^10 the maximum applies anyway.
                FIRST_PROBE_DELAY.saturating_mul(1 << (failed - 1).min(10)).min(MAX_PROBE_DELAY)
            }
            _ => STEP_INTERVAL,
        }
    }

    fn step_size(&self) -> f64 {
        (self.cap / 30.0).max(1.0)
    }

    fn change(&mut self, rate: f64, since: Timestamp) {
        self.state.rate = rate;
        self.state.changed = since;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const COOLDOWN: Duration = Duration::from_secs(30);

    /// The calls of a key over a time.
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

    /// Uses a key to the full for this many seconds under a hidden limit, which may change with the second. Calls that are on
    /// their way before the first refusal arrives are refused, too.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
    fn live(aimd: &mut Aimd, now: &mut Timestamp, seconds: u64, limit: impl Fn(u64) -> f64) -> Story {
        let mut story = Story::default();
        let mut second = 0;
        while second < seconds {
            aimd.step(*now);
            let limit = limit(second);
            let sent = aimd.rate() * super::super::limiter::USED_SHARE;
            story.rates.push(aimd.rate());
            if sent > limit {
                // Every call is refused from the first one too many until its response arrives, 150 ms later.
                story.calls += limit as u64 + (sent * 0.15).ceil() as u64;
                story.refused += (sent * 0.15).ceil() as u64;
                aimd.back_off(Cause::Throttled, COOLDOWN, *now);
                *now = *now + COOLDOWN;
                second += COOLDOWN.as_secs();
            } else {
                story.calls += sent as u64;
            }
            *now = *now + Duration::from_secs(1);
            second += 1;
        }
        story
    }

    fn fresh(cap: f64) -> (Aimd, Timestamp) {
        (Aimd::new(cap, None, START), START)
    }

    /// The rate settles within ten percent below a hidden limit, and under two percent of the calls are refused.
    #[test]
    fn rate_settles_just_below_hidden_limit() {
        for limit in [3.0, 7.0, 11.0, 17.0, 23.0, 29.0] {
            let (mut aimd, mut now) = fresh(30.0);
            let found = live(&mut aimd, &mut now, 20 * 60, |_| limit);
            let settled = live(&mut aimd, &mut now, 60 * 60, |_| limit);
            assert!(
                settled.lowest() > limit - 1.01 && settled.highest() <= limit / 0.983 + 1.0,
                "{limit}: {settled:?}"
            );
            let below = settled.rates.iter().filter(|rate| **rate > limit / 0.983).count();
            assert!(below <= 5, "{limit}: tried {below} times an hour");
            let (calls, refused) = (found.calls + settled.calls, found.refused + settled.refused);
            assert!(refused * 50 < calls, "{limit}: {refused} of {calls} refused");
        }
        let (mut aimd, mut now) = fresh(30.0);
        live(&mut aimd, &mut now, 5 * 60, |_| 17.0);
        assert!((aimd.rate() - 17.0).abs() < 1e-9, "{aimd:?}");
    }

    #[test]
    fn unexpected_refusals_halve_rate_down_to_one() {
        let (mut aimd, now) = fresh(30.0);
        let mut rates = Vec::new();
        for _ in 0..6 {
            aimd.back_off(Cause::Throttled, Duration::ZERO, now);
            rates.push(aimd.rate());
        }
        assert_eq!(rates, [15.0, 7.5, 3.75, 1.875, 1.0, 1.0]);
    }

    #[test]
    fn single_refusal_is_forgotten_within_minutes() {
        let (mut aimd, mut now) = fresh(30.0);
        aimd.back_off(Cause::Throttled, COOLDOWN, now);
        assert_eq!(
            aimd.step(now + COOLDOWN + STEP_INTERVAL - Duration::from_millis(1)),
            Step::Stay,
            "no step up while the key cools down"
        );
        let mut back = None;
        for second in 0..600 {
            if aimd.step(now) == Step::Back {
                back = Some(second);
                break;
            }
            now = now + Duration::from_secs(1);
        }
        assert!(matches!(back, Some(300..=400)), "{back:?} {aimd:?}");
        assert_eq!((aimd.rate(), aimd.ceiling()), (30.0, None));
        assert_eq!(aimd.step(now + COOLDOWN), Step::Stay, "it is said once");
    }

    #[test]
    fn cap_is_found_again_without_hidden_limit() {
        let (mut aimd, mut now) = fresh(30.0);
        live(&mut aimd, &mut now, 600, |_| 17.0);
        let story = live(&mut aimd, &mut now, 40 * 60, |_| 1000.0);
        assert_eq!((story.refused, aimd.rate()), (0, 30.0), "{aimd:?}");
    }

    #[test]
    fn fallen_hidden_limit_is_found_quickly() {
        let (mut aimd, mut now) = fresh(30.0);
        live(&mut aimd, &mut now, 600, |_| 23.0);
        let story = live(&mut aimd, &mut now, 600, |_| 4.0);
        assert!(aimd.rate() <= 4.1 && story.refused < 25, "{aimd:?}, {} refused", story.refused);
    }

    /// One or two refusals by chance near the ceiling cost little; more of them cost much.
    #[test]
    fn refusals_near_ceiling_cost_little_at_first() {
        let (mut aimd, mut now) = fresh(30.0);
        live(&mut aimd, &mut now, 600, |_| 17.0);
        let mut rates = Vec::new();
        for _ in 0..4 {
            aimd.back_off(Cause::Throttled, COOLDOWN, now);
            now = now + COOLDOWN;
            rates.push(aimd.rate());
        }
        assert_eq!(rates, [16.0, 13.6, 6.8, 3.4]);
    }

    #[test]
    fn consecutive_runs_share_aimd_state() {
        let (mut aimd, mut now) = fresh(30.0);
        let mut refused = 0;
        for _ in 0..60 {
            refused += live(&mut aimd, &mut now, 40, |_| 17.0).refused;
            now = now + Duration::from_secs(80);
            aimd = Aimd::new(30.0, aimd.state(), now);
        }
        assert!((15.9..=18.1).contains(&aimd.rate()) && refused < 40, "{aimd:?}, {refused} refused");
    }

    /// A key that was always at its cap has no state to hand on. A key that came back to its cap has one.
    #[test]
    fn state_at_cap_is_kept_only_after_recovery() {
        assert_eq!(fresh(30.0).0.state(), None);
        let back = Aimd::new(30.0, Some(AimdState::plain(30.0)), START);
        assert_eq!(back.state().map(|state| state.rate), Some(30.0));
    }

    #[test]
    fn known_state_is_clamped_to_cap() {
        let rate = |rate| Aimd::new(30.0, Some(AimdState::plain(rate)), START).rate();
        assert_eq!(format!("{:?}", [7.5, 0.0, 99.0, f64::NAN].map(rate)), "[7.5, 1.0, 30.0, 30.0]");
        let above = AimdState { ceiling: Some(44.0), ..AimdState::plain(40.0) };
        assert_eq!(Aimd::new(30.0, Some(above), START).ceiling(), None);
        let ahead = AimdState { changed: START + Duration::from_secs(3600), ..AimdState::plain(15.0) };
        let mut aimd = Aimd::new(30.0, Some(ahead), START);
        assert_eq!(aimd.step(START + QUICK_STEP_INTERVAL), Step::Up, "a clock that was ahead holds nothing down");
    }

    /// However long maintenance lasts, the rate is halved once, and is back within two minutes.
    #[test]
    fn maintenance_halves_rate_once() {
        let (mut aimd, mut now) = fresh(30.0);
        for _ in 0..100 {
            aimd.back_off(Cause::Maintenance, Duration::ZERO, now);
            now = now + COOLDOWN;
            aimd = Aimd::new(30.0, aimd.state(), now);
        }
        assert_eq!((aimd.rate(), aimd.ceiling()), (15.0, None));
        let story = live(&mut aimd, &mut now, 120, |_| 1000.0);
        assert_eq!((aimd.rate(), story.lowest()), (30.0, 16.0), "{aimd:?}");
    }

    #[test]
    fn useless_slowdown_is_restored() {
        let (mut aimd, now) = fresh(30.0);
        aimd.back_off(Cause::SlowResponses, Duration::ZERO, now);
        assert!((aimd.rate() - 21.0).abs() < 1e-9, "{aimd:?}");
        aimd.back_off(Cause::SlowResponses, Duration::ZERO, now);
        aimd.restore(now);
        assert_eq!((aimd.rate(), aimd.ceiling()), (30.0, None));
        aimd.back_off(Cause::SlowResponses, Duration::ZERO, now);
        aimd.keep();
        aimd.restore(now);
        assert!((aimd.rate() - 21.0).abs() < 1e-9, "what helped stays: {aimd:?}");
    }

    #[test]
    fn rate_stays_while_slowdown_is_tried() {
        let (mut aimd, now) = fresh(30.0);
        aimd.back_off(Cause::SlowResponses, Duration::ZERO, now);
        let second = now + STEP_INTERVAL + Duration::from_secs(2);
        assert_eq!(aimd.step(second), Step::Stay);
        aimd.back_off(Cause::SlowResponses, Duration::ZERO, second);
        assert!((aimd.rate() - 14.7).abs() < 1e-9, "{aimd:?}");
        aimd.keep();
        assert_eq!(aimd.step(second + STEP_INTERVAL), Step::Up, "what is known to help is built on as ever");
    }
}
