//! Leases: what a run requests, what it gets, and how a lease ends.

use std::{fmt, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{record::State, repaired::Repaired};
use crate::{
    clock::Timestamp,
    model::{FollowUp, Kind, ObjectId, Priority, Reason, text::hex},
};

/// Lapses after which an object becomes a dead letter (`lapsed`). From [`SUSPECT_LAPSES`] on only those count whose run is
/// known to have received the lease.
pub const MAX_LAPSES: u32 = 5;

/// Lapses from which on an object is a suspect, leased with nothing else in flight but others like it.
pub const SUSPECT_LAPSES: u32 = 2;

/// The most suspects with this number of lapses that may be leased together. When one of them kills its worker, all of them
/// lapse once more and the next group is smaller: before the last lapse each is alone, so that none is condemned for another.
#[must_use]
pub const fn suspects_together(lapses: u32) -> usize {
    match lapses {
        SUSPECT_LAPSES => 16,
        // Each next group is a quarter of the one before.
        3 => 4,
        // The fifth lapse buries: the suspect before it must be alone.
        _ => 1,
    }
}

/// Requests of one kind that are not leased for now, because the endpoint that would serve them fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    pub kind: Kind,
    /// Each request that is met in order is delayed until then; nothing else about it changes.
    pub until: Timestamp,
    /// At most this many are leased all the same, to find out whether the endpoint works again.
    pub probes: usize,
}

/// A call for leases.
#[derive(Clone, Debug, Default)]
pub struct LeaseRequest {
    /// At most this many.
    pub max: usize,
    /// The duration of each lease.
    pub duration: Duration,
    /// Only these priorities; empty means all.
    pub priorities: Vec<Priority>,
    /// The caller has nothing in flight: suspects may be leased (and then only with each other).
    pub alone: bool,
    /// Seeds the draw that gives the lower priorities their floor.
    pub seed: u64,
    /// The name of the run, a part of the lease tokens.
    pub run: String,
    /// Distinguishes the leases of this call from those of other calls of the run; a part of their tokens.
    pub nonce: String,
    /// Nonces of calls of the run whose replies were lost: nobody received these leases, and they are released first.
    pub lost: Vec<String>,
    /// Objects that come before all others when they are ready, whatever their priority.
    pub first: Vec<ObjectId>,
    /// Kinds whose circuit is open.
    pub set_aside: Vec<SetAside>,
    /// When nothing is ready, lease the held request whose hold ends first: one call has to show whether the API works again,
    /// and a request that waits is worth more than one that nobody made.
    pub probe: bool,
}

/// The result of a call for leases.
#[derive(Clone, Debug, Default)]
pub struct Leased {
    pub leases: Vec<Lease>,
    /// The next in order is a suspect: finish what is in flight and call again with [`LeaseRequest::alone`].
    pub suspect_waits: bool,
    /// True when `max` cut the batch short, so that more is ready.
    pub more: bool,
    /// Leases of dead runs that lapsed in this call.
    pub lapsed: usize,
    /// Lapsed objects that became dead letters.
    pub lapsed_dead: usize,
    /// Records that had to be repaired on the way.
    pub repaired: Repaired,
}

/// A call to claim objects for planned looks: calls that no request asked for, made with what is left of the budget.
///
/// The caller leaves out kinds whose circuit is open, and claims nothing while it tries suspects.
#[derive(Clone, Debug, Default)]
pub struct ClaimRequest {
    pub objects: Vec<ObjectId>,
    /// The duration of each lease.
    pub duration: Duration,
    /// The name of the run, a part of the lease tokens.
    pub run: String,
    /// Like [`LeaseRequest::nonce`]: a later lease call that names it in [`LeaseRequest::lost`] ends these looks.
    pub nonce: String,
}

/// The result of a call to claim objects.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// In the order of the objects.
    pub leases: Vec<Lease>,
    /// Objects that have a record already, with its state.
    pub refused: Vec<(ObjectId, State)>,
    /// A request is ready, or would be for a lease call. Nothing was claimed, since a planned look never stands before a request.
    pub work_waits: bool,
    /// Records that had to be repaired on the way.
    pub repaired: Repaired,
}

/// Proof of a lease. A settlement whose token is no longer the object's has lost its lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken(pub String);

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One object, ours to refresh until the lease expires.
#[derive(Clone, Debug)]
pub struct Lease {
    pub object: ObjectId,
    pub token: LeaseToken,
    /// The record's merge counter at the time; if it grew by the settlement, a newer request came.
    pub merges: u64,
    pub priority: Priority,
    /// Determines the object's place among its priority.
    pub first_requested: Timestamp,
    /// The refresh has to be newer than this.
    pub last_requested: Timestamp,
    /// Failed attempts so far.
    pub attempts: u32,
    /// Leases that ran out so far.
    pub lapses: u32,
    /// Holds in a row for the same reason.
    pub held: u32,
    /// The code of that reason.
    pub held_for: Option<String>,
    /// The time of the first reader's request that it answers; `None` when only the worker, an event or an operator asked.
    pub asked: Option<Timestamp>,
    /// A planned look: no request asked for it. Whatever its settlement, it leaves nothing in the queue.
    pub planned: bool,
    pub expires: Timestamp,
}

impl Lease {
    /// The priority of the request; `None` for a planned look, which nobody requested.
    #[must_use]
    pub fn requested_as(&self) -> Option<Priority> {
        (!self.planned).then_some(self.priority)
    }

    /// True when this object has outlived enough of its workers to be treated with care.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.lapses >= SUSPECT_LAPSES
    }
}

/// The end of a lease. Anything else (a crash) lets it lapse.
///
/// A planned look ends alike with each of them: its record is deleted, or the request that came meanwhile becomes the record. It
/// counts no attempt, leaves no hold, and is never a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Refreshed: the record is deleted, or the request that came meanwhile becomes the record with attempts and lapses 0.
    Done,
    /// Refreshed for now, but requested as of a later time: it waits until then, with attempts and lapses 0.
    Later { until: Timestamp },
    /// Failed: an attempt is counted and the object is held until then.
    Failed { until: Timestamp, reason: Reason },
    /// Returned to the queue as it was, nothing counted.
    Release,
    /// Returned to the queue with nothing counted, and held for 30 s, doubling to 10 min with each further time for the same
    /// reason, so that the next run or probe takes another object.
    Held { reason: Reason },
    /// Buried: a dead letter with the reason and the first 500 bytes of the response.
    Dead { reason: Reason, body: Option<String> },
}

impl Settlement {
    /// Its name in the scripts' arguments.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Later { .. } => "later",
            Self::Failed { .. } => "failed",
            Self::Release => "release",
            Self::Held { .. } => "held",
            Self::Dead { .. } => "dead",
        }
    }
}

/// The result of one settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Settled,
    /// The lease had run out and the object is no longer ours; nothing changed. Not an error.
    LeaseLost,
    /// It would have become a dead letter, and there is no room for one: it was returned, and held for ten minutes.
    NoRoom,
}

/// The follow-ups of a batch of settlements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Following<'a> {
    pub follow_ups: &'a [FollowUp],
    /// Spare follow-ups are left out while this many requests are ready.
    pub most_ready: usize,
}

/// A name for a batch of settlements that stays the same when the batch is sent again.
#[must_use]
pub(super) fn name_of_batch(settlements: &[(Lease, Settlement)]) -> String {
    let ends = settlements.iter().map(|(lease, how)| format!("{} {} {};", lease.object, lease.token, how.word()));
    hex(Sha256::digest(ends.collect::<String>()))
}

/// The random draws that give the lower priorities their floor: a small generator that Lua computes exactly, too.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Draw {
    /// 2^31 - 1, the prime of the minimal standard generator; its products stay below 2^53, which a Lua number holds exactly.
    const MODULUS: u64 = 2_147_483_647;

    #[must_use]
    pub const fn from_seed(seed: u64) -> Self {
        // The generator maps 0 to 0, so 0 is not a possible state.
        Self(seed % (Self::MODULUS - 1) + 1)
    }

    #[must_use]
    pub const fn state(self) -> u64 {
        self.0
    }

    /// Draws the priority whose oldest request comes next: LOW in 5 % of the draws, MEDIUM in 5 %, HIGH in 10 %. `None` keeps the
    /// strict order.
    pub fn favoured(&mut self) -> Option<Priority> {
        self.0 = self.0 * 16_807 % Self::MODULUS;
        match self.0 % 100 {
            // The lowest priority first: with the same draw it would never win a later range.
            0..5 => Some(Priority::Low),
            5..10 => Some(Priority::Medium),
            10..20 => Some(Priority::High),
            _ => None,
        }
    }
}
