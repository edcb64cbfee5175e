//! The level: the stale reads that the last planned call still saves. It is the price of a call.

use std::time::Duration;

use super::EARLY;
use crate::clock::Timestamp;

// The logarithm moves by at most this much a second. Freshness is the same from 0.0005 to 0.003; the highest follows a change of the
// rate within a quarter of an hour.
const GAIN_PER_SECOND: f64 = 0.003;

// From this lateness on the level rises at full speed.
const FULL_SPEED_SECONDS: f64 = 300.0;

// e^15 times more or less than one read: no world is so quiet or so busy.
const MAX_LOGARITHM: f64 = 15.0;

// A worker that was away for longer learns nothing about the price from the time in between.
const LONGEST_ROUND: Duration = Duration::from_secs(60);

/// The present price of a call, kept as its natural logarithm, since runs add to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Level {
    pub logarithm: f64,
}

/// One round of choosing candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The time since the last round.
    pub since_last: Duration,
    /// The time of the earliest next look, before anything was chosen; `None` when nothing is known.
    pub head: Option<Timestamp>,
    /// Fewer candidates were found than there was room for.
    pub room_was_left: bool,
}

impl Level {
    /// Stale reads.
    #[must_use]
    pub fn reads(self) -> f64 {
        self.logarithm.exp()
    }

    /// The step that this round adds to the logarithm: down while calls are left over, up while due looks wait.
    #[must_use]
    pub fn step(round: Round, now: Timestamp) -> f64 {
        let seconds = round.since_last.min(LONGEST_ROUND).as_secs_f64();
        let direction =
            if round.room_was_left { -1.0 } else { (lateness(round.head, now) / FULL_SPEED_SECONDS).clamp(-1.0, 1.0) };
        GAIN_PER_SECOND * seconds * direction
    }

    #[must_use]
    pub fn moved(self, step: f64) -> Self {
        Self { logarithm: (self.logarithm + step).clamp(-MAX_LOGARITHM, MAX_LOGARITHM) }
    }
}

/// The seconds by which the head of the index is late; negative when it is early.
#[must_use]
pub fn lateness(head: Option<Timestamp>, now: Timestamp) -> f64 {
    head.map_or(-EARLY.as_secs_f64(), |head| now.as_seconds_f64() - head.as_seconds_f64())
}
