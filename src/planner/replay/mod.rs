//! A replay of recorded looks: the same objects, readers and changes under another strategy or budget. Pure: values and a seed in,
//! numbers out.
//!
//! Records say when an object was looked at, whether it had changed, and when a reader requested it. [`World::rebuild`] draws what
//! they do not say: the moments of changes between two looks, and the reads of young copies, as [`super::Reads`] estimates them.
//! [`World::play`] lets the planner spend a budget in that world.

mod play;
mod rebuild;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{Policy, Reads};
use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId},
};

pub use self::play::{Played, bracket};

/// The budget follows the calls that were recorded, in steps of this length: runs have gaps, and so has a replay.
const SLOT: Duration = Duration::from_secs(600);

/// A time without any record that is longer than this is a pause of the planner: nothing is known of it.
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// Records that are older than the newest by more than this are left out: the time of a replay has a bound.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A replay of less would say more about chance, and about what the planner has yet to learn, than about the strategy.
pub const LEAST_COVERED: Duration = Duration::from_secs(6 * 60 * 60);
pub const LEAST_CYCLES: u64 = 300;
pub const LEAST_REQUESTS: u64 = 50;

/// A record: what was seen of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub at: Timestamp,
    pub object: ObjectId,
    pub sight: Sight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A response, and the first request of a reader that it answered.
    Response { changed: bool, asked: Option<Timestamp> },
    /// A change in a clan's member list.
    ActiveMember,
}

/// The amount of what was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// The time with records, without pauses.
    pub covered: Duration,
    pub objects: u64,
    pub responses: u64,
    /// Responses with an earlier one of the same object.
    pub cycles: u64,
    /// Responses that a reader had requested.
    pub requests: u64,
}

/// The reason for which a replay would say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    Everything,
    Time,
    Cycles,
    Requests,
}

impl Amount {
    /// The first thing of which too little was recorded.
    #[must_use]
    pub fn lacking(&self) -> Option<Lacking> {
        if self.responses == 0 {
            Some(Lacking::Everything)
        } else if self.covered < LEAST_COVERED {
            Some(Lacking::Time)
        } else if self.cycles < LEAST_CYCLES {
            Some(Lacking::Cycles)
        } else {
            (self.requests < LEAST_REQUESTS).then_some(Lacking::Requests)
        }
    }
}

/// The calls that a replay may make, demand included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// This many times the recorded calls.
    Times(f64),
    /// The recorded requests of readers, and so many other calls a second of the sample.
    Planned(f64),
}

/// A rebuilt world.
#[derive(Clone, Debug)]
pub struct World {
    policy: Policy,
    /// From the first record until the last one. Reads count from `counted_from` on: before, the planner learns.
    from: Timestamp,
    counted_from: Timestamp,
    until: Timestamp,
    /// The identity of an object is its place here.
    objects: Vec<Object>,
    /// In order of time.
    reads: Vec<(Timestamp, usize)>,
    slots: Vec<Slot>,
    amount: Amount,
    as_recorded: Reads,
}

#[derive(Clone, Debug)]
struct Object {
    id: ObjectId,
    /// In order of time.
    changes: Vec<Timestamp>,
    /// Of a clan: the changes of members that its list shows, in order of time.
    shown: Vec<(Timestamp, usize)>,
}

impl Object {
    const fn kind(&self) -> Kind {
        self.id.kind
    }

    /// True when it changed after `from`, up to `until`.
    fn has_changed(&self, from: Timestamp, until: Timestamp) -> bool {
        let next = self.changes.partition_point(|&at| at <= from);
        self.changes.get(next).is_some_and(|&at| at <= until)
    }
}

/// The recorded calls of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Slot {
    calls: f64,
    requests: f64,
}

impl World {
    #[must_use]
    pub const fn amount(&self) -> Amount {
        self.amount
    }

    /// The time in which reads are counted.
    #[must_use]
    pub const fn counted(&self) -> (Timestamp, Timestamp) {
        (self.counted_from, self.until)
    }

    /// The reads as the runs estimated them from the same looks.
    #[must_use]
    pub const fn as_recorded(&self) -> Reads {
        self.as_recorded
    }

    /// The recorded calls a second, over the time with records.
    #[must_use]
    pub fn calls_per_second(&self) -> f64 {
        self.slots.iter().map(|slot| slot.calls).sum::<f64>() / self.amount.covered.as_secs_f64().max(1.0)
    }
}

/// The place of a moment among the slots.
fn slot_of(at: Timestamp, from: Timestamp) -> usize {
    usize::try_from(at.since(from).as_secs() / SLOT.as_secs()).unwrap_or(usize::MAX)
}
