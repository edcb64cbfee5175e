//! The reason for the time of a next look, for people.

use super::{Knowledge, PUT_OFF, Policy, Strategy, knowledge::LISTENING_WINDOW};
use crate::{clock::Timestamp, model::Kind};

/// The rule that decided the time of a next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was never fetched, so its first look has a place by chance.
    NeverLooked,
    /// A member list has shown a change, and a call is worth it.
    Hinted,
    /// A call is worth it then, at the present level.
    Value,
    /// Its readers are not known, so that they get the chance to be heard first.
    Listening,
    /// A call would be worth it earlier, but the API would only repeat itself.
    FreshUntil,
    /// A call is not worth it, but nothing known gets older than this.
    AtLeastEvery,
    /// It is later than by any of these: a call failed, a request had it, or calls were worth more when it was planned.
    PutOff,
    /// The fixed tiers by the last request, on the other side of a trial.
    Tiers,
    /// The oldest copy first, on the other side of a trial.
    Age,
}

impl Why {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverLooked => "never_looked",
            Self::Hinted => "hinted",
            Self::Value => "value",
            Self::Listening => "listening",
            Self::FreshUntil => "fresh_until",
            Self::AtLeastEvery => "at_least_every",
            Self::PutOff => "put_off",
            Self::Tiers => "tiers",
            Self::Age => "age",
        }
    }
}

/// A planned look: its object, and what decides its time.
#[derive(Clone, Copy, Debug)]
pub struct PlannedLook {
    pub kind: Kind,
    pub next_look: Timestamp,
    pub fresh_until: Timestamp,
    /// The present level, in stale reads.
    pub level: f64,
    pub strategy: Strategy,
}

impl Knowledge {
    /// The reason for the time of a next look, as far as the present shows it.
    #[must_use]
    pub fn why(&self, look: PlannedLook, now: Timestamp, policy: Policy) -> Why {
        let PlannedLook { kind, next_look, fresh_until, level, strategy } = look;
        let due = strategy.next_look(kind, self, fresh_until, level, now, policy);
        let (Some(looked_at), Some(due)) = (self.looked_at, due) else { return Why::NeverLooked };
        // A hint is due at once, whenever now is.
        let is_hint = strategy == Strategy::Value && self.hinted && self.rates(kind).most() >= level;
        if next_look > due + PUT_OFF && !is_hint || next_look > looked_at + policy.longest + PUT_OFF {
            return Why::PutOff;
        }
        match strategy {
            Strategy::Tiers => return Why::Tiers,
            Strategy::Age => return Why::Age,
            Strategy::Value => {}
        }
        let (floor, longest) = (fresh_until.max(looked_at), looked_at + policy.longest);
        if !self.is_heard(now) && due <= looked_at + policy.max_age + LISTENING_WINDOW {
            Why::Listening
        } else if is_hint {
            Why::Hinted
        } else if due >= longest {
            Why::AtLeastEvery
        } else if due <= floor {
            Why::FreshUntil
        } else {
            Why::Value
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn known() -> Knowledge {
        Knowledge {
            looked_at: Some(NOW - MINUTE),
            heard_at: Some(NOW - MINUTE * 30),
            changes: 30.0,
            watched: 86_400.0,
            mails: 20.0,
            exposed: 36_000.0,
            hinted: false,
        }
    }

    fn look(known: &Knowledge, level: f64) -> PlannedLook {
        let (kind, fresh_until) = (Kind::Clan, NOW + MINUTE);
        let next_look = known.next_look(kind, fresh_until, level, NOW, Policy::default()).unwrap_or(NOW);
        PlannedLook { kind, next_look, fresh_until, level, strategy: Strategy::Value }
    }

    fn why(known: &Knowledge, level: f64) -> Why {
        known.why(look(known, level), NOW, Policy::default())
    }

    #[test]
    fn every_rule_has_its_reason() {
        let known = known();
        let unheard = Knowledge { heard_at: None, ..known };
        let cases = [
            (Knowledge { looked_at: None, ..known }, 0.1, Why::NeverLooked),
            (Knowledge { hinted: true, ..known }, 0.1, Why::Hinted),
            (known, 0.1, Why::Value),
            (unheard, 1e-6, Why::Listening),
            (Knowledge { hinted: true, ..unheard }, 0.1, Why::Listening),
            (known, 1e-6, Why::FreshUntil),
            (known, 1e6, Why::AtLeastEvery),
        ];
        for (known, level, expected) in cases {
            assert_eq!(why(&known, level), expected, "{known:?} at {level}");
        }
    }

    #[test]
    fn later_than_any_rule_is_put_off() {
        let known = known();
        let (policy, planned) = (Policy::default(), look(&known, 0.1));
        let later = PlannedLook { next_look: planned.next_look + PUT_OFF * 2, ..planned };
        assert_eq!(known.why(later, NOW, policy), Why::PutOff);
        let hinted = Knowledge { hinted: true, ..known };
        let gone = PlannedLook { next_look: NOW + policy.longest * 7, ..planned };
        assert_eq!(hinted.why(gone, NOW, policy), Why::PutOff);
    }

    #[test]
    fn other_side_of_trial_is_named() {
        let known = known();
        for (strategy, expected) in [(Strategy::Tiers, Why::Tiers), (Strategy::Age, Why::Age)] {
            let next_look = strategy.next_look(Kind::Clan, &known, NOW, 0.1, NOW, Policy::default()).unwrap();
            let look = PlannedLook { strategy, next_look, fresh_until: NOW, ..look(&known, 0.1) };
            assert_eq!(known.why(look, NOW, Policy::default()), expected);
        }
    }
}
