//! The knowledge of one object, what a look teaches, and the time of the next look.

use std::time::Duration;

use super::{EARLY, Policy, prior};
use crate::{clock::Timestamp, model::Kind};

// The prior counts as much as a tenth of a read, and as one change.
const READ_WEIGHT: f64 = 0.1;
const CHANGE_WEIGHT: f64 = 1.0;

// Older reads and changes count less: by the factor e after this many seconds. Readers move on faster than objects change their habits.
const READ_MEMORY_SECONDS: f64 = 3.0 * 86_400.0;
const CHANGE_MEMORY_SECONDS: f64 = 7.0 * 86_400.0;

// An object is refreshed ahead of its readers only while they are known: after this many reads, the last one not longer ago than this.
// Otherwise its readers get the chance to be heard, for this long after their maximum age.
const READS_HEARD: f64 = 5.0;
const HEARD_WITHIN: Duration = Duration::from_secs(6 * 60 * 60);
pub(super) const LISTENING_WINDOW: Duration = Duration::from_secs(600);

/// Enough for a time to the second: a day halves 20 times down to a tenth of a second.
const BISECTIONS: u32 = 20;

/// Everything that the planner knows of one object.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Knowledge {
    /// The beginning of the last call whose response counted; `None` before the first look.
    pub looked_at: Option<Timestamp>,
    /// The last request of a reader.
    pub heard_at: Option<Timestamp>,
    /// Changes seen, as an expected number.
    pub changes: f64,
    /// Seconds between looks, in which they were seen.
    pub watched: f64,
    /// Reads that left a request.
    pub mails: f64,
    /// Seconds in which a read would have left a request.
    pub exposed: f64,
    /// A member list has shown a change since the last look.
    pub hinted: bool,
}

/// Reads and changes a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub reads: f64,
    pub changes: f64,
}

impl Rates {
    /// The stale reads that a call saves `after` seconds from the last one: each change makes all later reads stale.
    #[must_use]
    pub fn value(self, after: f64) -> f64 {
        let expected = self.changes * after;
        // The difference of two nearly equal numbers would have no digits left.
        if expected < 1e-4 {
            self.reads * after * expected / 2.0
        } else {
            self.reads / self.changes * (1.0 - (-expected).exp() * (1.0 + expected))
        }
    }

    /// The limit of [`Self::value`], and the value of a call for an object that has certainly changed.
    #[must_use]
    pub fn most(self) -> f64 {
        self.reads / self.changes
    }
}

/// A response that counted: stored or unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The beginning of the call.
    pub at: Timestamp,
    pub changed: bool,
    /// The first request of a reader that this call answered; `None` for a planned look.
    pub asked: Option<Timestamp>,
}

impl Knowledge {
    #[must_use]
    pub fn rates(&self, kind: Kind) -> Rates {
        let prior = prior(kind);
        Rates {
            reads: (READ_WEIGHT + self.mails) / (READ_WEIGHT / prior.reads + self.exposed),
            changes: (CHANGE_WEIGHT + self.changes) / (CHANGE_WEIGHT / prior.changes + self.watched),
        }
    }

    /// The knowledge after a look. The first look teaches nothing, since nobody knows since when readers could have asked.
    ///
    /// Reads count only within the time in which they leave a request: from `max_age` after the last look, and not before
    /// `listening_since`, if the planner began later.
    #[must_use]
    pub fn learn(&self, kind: Kind, look: Look, listening_since: Option<Timestamp>, policy: Policy) -> Self {
        let heard_at = look.asked.or(self.heard_at);
        let mut after = Self { looked_at: Some(look.at), heard_at, hinted: false, ..*self };
        let Some(before) = self.looked_at else { return after };
        let span = look.at.since(before).as_secs_f64();

        let keep = (-span / READ_MEMORY_SECONDS).exp();
        let opened = listening_since.map_or(before + policy.max_age, |since| since.max(before + policy.max_age));
        after.mails = self.mails * keep + f64::from(u8::from(look.asked.is_some()));
        after.exposed = self.exposed * keep + look.asked.unwrap_or(look.at).since(opened).as_secs_f64();

        // Two responses of the same moment say nothing about changes.
        if span > 0.0 {
            let expected = self.rates(kind).changes * span;
            let keep = (-span / CHANGE_MEMORY_SECONDS).exp();
            after.changes = self.changes * keep + if look.changed { expected_changes(expected) } else { 0.0 };
            after.watched = self.watched * keep + span;
        }
        after
    }

    /// The knowledge after a member list has shown a change.
    #[must_use]
    pub fn hint(&self) -> Self {
        Self { hinted: true, ..*self }
    }

    /// The time of the next look: when a call is worth `level` stale reads. Not before `fresh_until`, since the API would only repeat
    /// itself. `None` before the first look.
    #[must_use]
    pub fn next_look(
        &self,
        kind: Kind,
        fresh_until: Timestamp,
        level: f64,
        now: Timestamp,
        policy: Policy,
    ) -> Option<Timestamp> {
        let looked_at = self.looked_at?;
        let fresh_until = fresh_until.max(looked_at);
        let rates = self.rates(kind);
        let due = if self.hinted && rates.most() >= level {
            now.max(fresh_until)
        } else {
            let (floor, longest) = (fresh_until.since(looked_at).as_secs_f64(), policy.longest.as_secs_f64());
            looked_at + Duration::from_secs_f64(worth_after(rates, level, floor, longest))
        };
        Some(if self.is_heard(now) { due } else { due.max(looked_at + policy.max_age + LISTENING_WINDOW) })
    }

    /// True when a look that is planned for `due` may be made now: the API has news, and a look ahead of its time leaves readers that
    /// are not known yet the chance to be heard.
    #[must_use]
    pub fn may_be_called(&self, due: Timestamp, fresh_until: Timestamp, now: Timestamp, policy: Policy) -> bool {
        let Some(looked_at) = self.looked_at else { return true };
        let is_ahead = due > now + EARLY;
        now >= fresh_until
            && (!is_ahead || self.is_heard(now) || now + EARLY >= looked_at + policy.max_age + LISTENING_WINDOW)
    }

    /// True while the readers of this object are known well enough to be served ahead.
    #[must_use]
    pub fn is_heard(&self, now: Timestamp) -> bool {
        self.mails >= READS_HEARD && self.heard_at.is_some_and(|heard| now.since(heard) < HEARD_WITHIN)
    }
}

/// The expected number of changes, given that there was at least one and that `expected` were expected.
fn expected_changes(expected: f64) -> f64 {
    if expected > 1e-6 { expected / (1.0 - (-expected).exp()) } else { 1.0 }
}

/// The seconds after which a call is worth `level`, from `floor` to `longest`.
fn worth_after(rates: Rates, level: f64, floor: f64, longest: f64) -> f64 {
    if floor >= longest || rates.value(floor) >= level {
        return floor;
    }
    if rates.value(longest) < level {
        return longest;
    }
    // The value grows with time, and its scale is unknown: half of the *ratio* is left after each step.
    let (mut low, mut high) = (floor.max(1.0), longest);
    for _ in 0..BISECTIONS {
        let middle = (low * high).sqrt();
        if rates.value(middle) >= level { high = middle } else { low = middle }
    }
    high
}
