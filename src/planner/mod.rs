//! The freshness planner: which object a spare call refreshes next. Pure: no clock, no I/O; time and level are handed in.
//!
//! A reader leaves a trace only when it meets data older than the readers' maximum age, and a call shows only whether an object has
//! changed, not when. [`Knowledge`] learns reads and changes from these traces ([`Knowledge::learn`]). [`Knowledge::next_look`] says
//! when a call is worth as much as the last one that the budget pays for: the [`Level`]. `docs/design/freshness.md` has the reasons.
//!
//! May touch the model and the clock's types only.

mod estimate;
mod index;
mod knowledge;
mod level;
pub mod replay;
mod strategy;
#[cfg(test)]
mod tests;
mod trial;
mod why;

use std::time::Duration;

use crate::model::Kind;

pub use self::{
    estimate::Reads,
    index::Index,
    knowledge::{Knowledge, Look, Rates},
    level::{Level, Round, lateness},
    strategy::{Strategy, UnknownStrategy},
    trial::{Arm, MAX_BUCKET, Teaching, Trial},
    why::{PlannedLook, Why},
};

/// Candidates may be called this long before their time, so that the budget is used while the level still falls.
pub const EARLY: Duration = Duration::from_secs(5 * 60);

/// From this lateness on, candidates are weighed again at the present level. Otherwise a rate that was halved would leave the looks
/// that were planned at the old level in front for as long as it takes to make them all.
pub const LATE: Duration = Duration::from_secs(30);

/// A candidate that is weighed again is put off when its new time is further away than this.
pub const PUT_OFF: Duration = Duration::from_secs(6 * 60);

/// The settings of the planner: the readers' maximum age, and the longest time without a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Readers request a refresh of data that is older (`SNAPSHOT_MAX_AGE`).
    pub max_age: Duration,
    /// No known object is older than this, while there are spare calls (`PLANNED_AT_LEAST_EVERY`).
    pub longest: Duration,
}

/// The largest share of the planned calls for looking at each object within the longest time.
const LONGEST_SHARE: f64 = 1.0 / 3.0;

impl Policy {
    /// With the longest time stretched where keeping it would take more than a third of so many planned calls a second. Else every call
    /// would go to what is oldest, and none to what is read.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a number of objects, far below 2^52")]
    pub fn stretched(self, objects: u64, calls_per_second: f64) -> Self {
        let seconds = objects as f64 / (calls_per_second.max(0.1) * LONGEST_SHARE);
        let needed = Duration::try_from_secs_f64(seconds).unwrap_or(self.longest);
        Self { longest: self.longest.max(needed), ..self }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(600), longest: Duration::from_secs(24 * 60 * 60) }
    }
}

/// The rates of an object of which nothing is known yet, a second. They are high on purpose: an object counts as the best until its
/// looks show otherwise. Rates that are too low cost up to 4 points of fresh reads, rates that are too high cost nothing.
const fn prior(kind: Kind) -> Rates {
    match kind {
        Kind::Clan => Rates { reads: 1.0 / 600.0, changes: 1.0 / 120.0 },
        Kind::Player => Rates { reads: 1.0 / 20_000.0, changes: 1.0 / 3600.0 },
        Kind::War => Rates { reads: 1.0 / 7200.0, changes: 1.0 / 43_200.0 },
    }
}

/// The time for which the API gives the same response again, where no look has told it.
#[must_use]
pub const fn usual_floor(kind: Kind) -> Duration {
    match kind {
        Kind::Clan | Kind::War => Duration::from_secs(120),
        Kind::Player => Duration::from_secs(60),
    }
}
