//! The record of one object, and every change it can go through. Values only: the memory queue calls these functions,
//! and `lua/prelude.lua` is the same rules for Redis. Whoever changes one changes the other; the model test compares
//! them after every step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Lease, LeaseToken, MAX_LAPSES, SUSPECT_LAPSES, Settlement, mailbox::digest};
use crate::{
    clock::Timestamp,
    model::{ObjectId, Priority, RefreshRequest},
};

/// No time in a record is later than this from now.
pub use crate::model::MAX_REQUEST_DELAY;

/// The score of a ready object is its class times this, plus when it was first asked for in milliseconds.
pub const CLASS_WIDTH: i64 = 10_000_000_000_000;

/// The code of a dead letter that new mail does not revive.
pub const LAPSED: &str = "lapsed";

/// The code of what waits because its endpoint fails: it was not tried.
pub const CIRCUIT: &str = "circuit";

/// The most objects that one lease call sets aside.
pub const MOST_SET_ASIDE: usize = 1000;

/// The code of what waits because it would have become a dead letter, and there is no room.
pub const DEAD_LETTERS_FULL: &str = "dead_letters_full";

/// For how long the answer to a settlement is remembered: sent again within it, since its answer was lost, it is told the same and
/// changes nothing.
pub const ANSWER_LIFETIME: Duration = Duration::from_secs(60);

/// How long that waits.
const NO_ROOM_HOLD: Duration = Duration::from_secs(10 * 60);

/// How long an object is held that was returned with a hold, the first time; it doubles with every further time in a row for the
/// same reason …
pub const FIRST_HOLD: Duration = Duration::from_secs(30);

/// … up to this.
pub const LONGEST_HOLD: Duration = Duration::from_secs(10 * 60);

/// How many requests of each class of the mailbox, and of those that are due and not yet moved, are looked at for the oldest.
pub const LOOKED_AT_FOR_OLDEST: usize = 10;

/// Mail with a larger value is not looked at for that.
pub const LARGEST_LOOKED_AT: usize = 4096;

/// The most bytes of an answer or of mail that a dead letter shows.
pub const MAX_BODY_BYTES: usize = 500;

/// The most leases one call takes back, and the most due objects it moves to ready, of each class.
pub const SWEEP: usize = 200;

/// What a queue may keep, and how it reads counts that others wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// `MAX_ATTEMPTS`. Mail that claims to have used them up still gets one.
    pub max_attempts: u32,
    /// The most objects among the dead letters; beyond, an object is returned and waits instead of becoming one.
    pub dead_letters: usize,
    /// The most unreadable mail among the dead letters; the oldest gives way and is counted.
    pub unreadable_letters: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { max_attempts: 3, dead_letters: 10_000, unreadable_letters: 1_000 }
    }
}

/// What is wanted of an object: one request, or several merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    #[serde(with = "class_number")]
    pub priority: Priority,
    /// When it was first asked for: its place among its class.
    pub first: Timestamp,
    /// When it was last asked for: what an answer must satisfy.
    pub last: Timestamp,
    /// Not before. The earliest of the merged requests.
    pub due: Timestamp,
    /// Attempts that failed.
    pub attempts: u32,
}

impl Wanted {
    /// A request with its times brought into [epoch, now + 24 h].
    #[must_use]
    pub fn of(request: &RefreshRequest, now: Timestamp) -> Self {
        let asked = clamp(request.asked, now);
        Self {
            priority: request.priority,
            first: asked,
            last: asked,
            due: clamp(request.due, now),
            attempts: request.attempts,
        }
    }

    /// Best class, earliest place, latest asked, earliest due, highest count of attempts.
    pub fn merge(&mut self, other: &Self) {
        self.priority = self.priority.min(other.priority);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.due = self.due.min(other.due);
        self.attempts = self.attempts.max(other.attempts);
    }
}

/// Where an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ready,
    Delayed,
    Leased,
    Dead,
}

/// Everything the queue knows about one object. In Redis it is one JSON text, with these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(flatten)]
    pub wanted: Wanted,
    /// The delay after a failure. Mail never shortens it.
    pub hold: Timestamp,
    /// How often in a row it was returned with a hold for the same reason.
    #[serde(default, skip_serializing_if = "is_none")]
    pub held: u32,
    /// The code of that reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<String>,
    /// Leases that ran out unsettled since the last time a worker survived the object.
    pub lapses: u32,
    /// Requests merged so far; a lease hands it out, so that the holder can tell whether something newer came.
    pub merges: u64,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the lease runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether the run is known to have received the lease: it renewed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub received: bool,
    /// What was requested while it was leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Wanted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died: Option<Timestamp>,
    /// Of a dead letter, or of the latest failure or hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Record {
    fn fresh(wanted: Wanted, merges: u64, now: Timestamp) -> Self {
        let mut record = Self {
            wanted,
            hold: Timestamp::EPOCH,
            held: 0,
            held_for: None,
            lapses: 0,
            merges,
            state: State::Ready,
            token: None,
            expires: None,
            received: false,
            next: None,
            died: None,
            code: None,
            reason: None,
            body: None,
        };
        record.place(now);
        record
    }

    /// The record after a request for its object arrived.
    #[must_use]
    pub fn with_request(record: Option<Self>, request: &RefreshRequest, now: Timestamp) -> Self {
        let wanted = Wanted::of(request, now);
        let Some(mut record) = record else { return Self::fresh(wanted, 1, now) };
        let merges = record.merges + 1;
        match record.state {
            State::Dead if !record.has_lapsed() => {
                return Self::fresh(Wanted { attempts: 0, ..wanted }, merges, now);
            }
            State::Dead => record.wanted.merge(&wanted),
            State::Leased => match &mut record.next {
                Some(next) => next.merge(&wanted),
                None => record.next = Some(wanted),
            },
            State::Ready | State::Delayed => {
                record.wanted.merge(&wanted);
                record.place(now);
            }
        }
        record.merges = merges;
        record
    }

    /// From when on it may be leased.
    #[must_use]
    pub fn ready_at(&self) -> Timestamp {
        self.wanted.due.max(self.hold)
    }

    /// With what was requested while it was leased.
    #[must_use]
    pub fn wanted_in_all(&self) -> Wanted {
        let mut wanted = self.wanted.clone();
        if let Some(next) = &self.next {
            wanted.merge(next);
        }
        wanted
    }

    /// Its place in the set of its state.
    #[must_use]
    pub fn score(&self) -> i64 {
        match self.state {
            State::Ready => i64::from(self.wanted.priority.as_number()) * CLASS_WIDTH + self.wanted.first.as_millis(),
            State::Delayed => self.ready_at().as_millis(),
            State::Leased => self.expires.unwrap_or_default().as_millis(),
            State::Dead => self.died.unwrap_or_default().as_millis(),
        }
    }

    pub fn place(&mut self, now: Timestamp) {
        self.state = if self.ready_at() <= now { State::Ready } else { State::Delayed };
    }

    fn has_lapsed(&self) -> bool {
        self.code.as_deref() == Some(LAPSED)
    }

    /// Hands the object out.
    pub fn lease(&mut self, object: ObjectId, token: String, expires: Timestamp) -> Lease {
        self.state = State::Leased;
        self.token = Some(token.clone());
        self.expires = Some(expires);
        Lease {
            object,
            token: LeaseToken(token),
            merges: self.merges,
            priority: self.wanted.priority,
            first_asked: self.wanted.first,
            last_asked: self.wanted.last,
            attempts: self.wanted.attempts,
            lapses: self.lapses,
            held: self.held,
            held_for: self.held_for.clone(),
            expires,
        }
    }

    /// Gives back a lease that nobody received, since the answer was lost. It is no lapse.
    pub fn take_back(&mut self, now: Timestamp) {
        self.end_lease();
        self.place(now);
    }

    /// Takes a lease back that ran out. The object is free again at once, however often it happened: most objects lapse
    /// because of another's fault or none at all. What guards the others is that suspects are leased in ever smaller groups,
    /// at last alone, and that the fifth lapse buries the one that is to blame, when there is room among the dead letters. A
    /// lease of which nobody knows whether a run received it may make a suspect, and no more: nothing ends as `lapsed` that no
    /// worker ever saw.
    pub fn lapse(&mut self, has_room: bool, now: Timestamp) {
        let is_counted = self.received || self.lapses < SUSPECT_LAPSES;
        self.end_lease();
        if !is_counted {
            self.place(now);
            return;
        }
        if self.lapses + 1 >= MAX_LAPSES && !has_room {
            self.wait_for_room(now);
            return;
        }
        self.lapses += 1;
        if self.lapses >= MAX_LAPSES {
            self.bury(now, LAPSED, &format!("{} leases in a row ran out unsettled", self.lapses), None);
            return;
        }
        self.place(now);
    }

    /// Forgets the lease, and merges what was requested meanwhile.
    fn end_lease(&mut self) {
        self.token = None;
        self.expires = None;
        self.received = false;
        if let Some(next) = self.next.take() {
            self.wanted.merge(&next);
        }
    }

    /// It would have become a dead letter, and there is no room: it waits, and nothing is counted.
    fn wait_for_room(&mut self, now: Timestamp) {
        self.hold = now + NO_ROOM_HOLD;
        self.held = 0;
        self.held_for = Some(DEAD_LETTERS_FULL.to_owned());
        self.place(now);
    }

    /// Whether it waits because there was no room among the dead letters.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.held_for.as_deref() == Some(DEAD_LETTERS_FULL)
    }

    /// Ends a lease. `None`: the record is deleted. `has_room` says whether one more object can become a dead letter.
    #[must_use]
    pub fn settle(mut self, settlement: &Settlement, has_room: bool, now: Timestamp) -> Option<Self> {
        if matches!(settlement, Settlement::Done | Settlement::Dead { .. })
            && let Some(next) = self.next
        {
            return Some(Self::fresh(Wanted { attempts: 0, ..next }, self.merges, now));
        }
        match settlement {
            Settlement::Done => return None,
            Settlement::Later { until } => {
                self.wanted.due = clamp(*until, now);
                self.end_lease();
                self.hold = Timestamp::EPOCH;
                self.wanted.attempts = 0;
                self.lapses = 0;
                self.end_holds();
                self.place(now);
            }
            Settlement::Failed { until, reason } => {
                self.wanted.attempts += 1;
                self.end_lease();
                self.hold = clamp(*until, now);
                self.lapses = 0;
                self.code = Some(reason.code.to_owned());
                self.reason = Some(reason.detail.clone());
                self.end_holds();
                self.place(now);
            }
            Settlement::Release => {
                self.end_lease();
                self.place(now);
            }
            Settlement::Held { reason } => {
                self.end_lease();
                self.held = if self.held_for.as_deref() == Some(reason.code) { self.held + 1 } else { 1 };
                self.held_for = Some(reason.code.to_owned());
                self.hold = now + hold_of(self.held);
                self.code = Some(reason.code.to_owned());
                self.reason = Some(reason.detail.clone());
                self.place(now);
            }
            Settlement::Dead { reason, body } => {
                self.end_lease();
                if !has_room {
                    self.code = Some(reason.code.to_owned());
                    self.reason = Some(reason.detail.clone());
                    self.wait_for_room(now);
                    return Some(self);
                }
                self.bury(now, reason.code, &reason.detail, body.as_deref());
            }
        }
        Some(self)
    }

    fn bury(&mut self, now: Timestamp, code: &str, reason: &str, body: Option<&str>) {
        self.state = State::Dead;
        self.died = Some(now);
        self.code = Some(code.to_owned());
        self.reason = Some(reason.to_owned());
        self.body = body.map(|body| clip(body).to_owned());
        self.end_holds();
    }

    /// The row of holds for one reason is over.
    fn end_holds(&mut self) {
        self.held = 0;
        self.held_for = None;
    }

    /// Whether it waits because it was returned with a hold, and is known as such: its reason may be gone sooner.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state == State::Delayed && self.held > 0
    }

    /// Frees what is held, since the reason is gone.
    pub fn lift_hold(&mut self, now: Timestamp) {
        self.hold = Timestamp::EPOCH;
        self.end_holds();
        self.place(now);
    }

    /// Frees what was set aside. A row of holds of its own goes on.
    pub fn return_set_aside(&mut self, now: Timestamp) {
        if self.held_for.as_deref() == Some(CIRCUIT) {
            return self.lift_hold(now);
        }
        self.hold = Timestamp::EPOCH;
        self.place(now);
    }

    /// Delays an object whose endpoint fails. It is not counted: nothing was tried.
    pub fn set_aside(&mut self, until: Timestamp, now: Timestamp) {
        self.hold = self.hold.max(until);
        // A row of holds of its own goes on: it comes behind those that did not fail.
        if self.held == 0 {
            self.held_for = Some(CIRCUIT.to_owned());
        }
        self.place(now);
    }

    /// Brings a dead object back, ready at once, in its old place.
    pub fn redrive(&mut self, now: Timestamp) {
        let wanted = Wanted { attempts: 0, due: self.wanted.due.min(now), ..self.wanted.clone() };
        *self = Self::fresh(wanted, self.merges, now);
    }
}

/// A name for a batch of settlements that is the same whenever it is sent again: which leases end, and how.
#[must_use]
pub fn name_of_batch(settlements: &[(Lease, Settlement)]) -> String {
    let ends = settlements.iter().map(|(lease, how)| format!("{} {} {};", lease.object, lease.token, how.word()));
    digest(ends.collect::<String>().as_bytes())
}

/// How long an object is held that was returned with a hold so many times in a row.
fn hold_of(times: u32) -> Duration {
    (FIRST_HOLD * (1 << (times - 1).min(10))).min(LONGEST_HOLD)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_none(count: &u32) -> bool {
    *count == 0
}

/// Brings a time into [epoch, now + 24 h].
#[must_use]
pub fn clamp(time: Timestamp, now: Timestamp) -> Timestamp {
    time.clamp(Timestamp::EPOCH, (now + MAX_REQUEST_DELAY).max(Timestamp::EPOCH))
}

/// The start of a text, at most [`MAX_BODY_BYTES`].
#[must_use]
pub fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_BODY_BYTES)]
}

/// Mail that could not be read, kept for a person. In Redis it lies beside the records, under `mail:<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub state: State,
    pub died: Timestamp,
    pub code: String,
    pub reason: String,
    /// The score it had in the mailbox, as Redis writes it.
    pub score: String,
    /// The whole value, escaped, when it is short enough to be kept and brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Else its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The draws that give the lower classes their floor: a small generator that Lua computes exactly too.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Draw {
    const MODULUS: u64 = 2_147_483_647;

    #[must_use]
    pub const fn from_seed(seed: u64) -> Self {
        Self(seed % (Self::MODULUS - 1) + 1)
    }

    #[must_use]
    pub const fn state(self) -> u64 {
        self.0
    }

    /// Below 5 % the place is for the oldest LOW, below 10 % for MEDIUM, below 20 % for HIGH; else order is strict.
    pub fn favoured(&mut self) -> Option<Priority> {
        self.0 = self.0 * 16_807 % Self::MODULUS;
        match self.0 % 100 {
            0..5 => Some(Priority::Low),
            5..10 => Some(Priority::Medium),
            10..20 => Some(Priority::High),
            _ => None,
        }
    }
}

/// A class as the number it has in the mailbox and in our keys.
mod class_number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Priority;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(class: &Priority, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(class.as_number())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Priority, D::Error> {
        i64::deserialize(deserializer).map(Priority::nearest)
    }
}
