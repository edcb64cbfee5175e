//! The record of one object, and every change it can go through. Values only: the memory queue calls these functions,
//! and `lua/prelude.lua` is the same rules for Redis. Whoever changes one changes the other; the model test compares
//! them after every step.

use serde::{Deserialize, Serialize};

use super::{Lease, LeaseToken, MAX_LAPSES, Settlement};
use crate::{
    clock::Timestamp,
    model::{ObjectId, Priority, Wish},
};

/// No time in a record is later than this from now.
pub use crate::model::LONGEST_WAIT;

/// The score of a ready object is its class times this, plus when it was first asked for in milliseconds.
pub const CLASS_WIDTH: i64 = 10_000_000_000_000;

/// The code of a dead letter that new mail does not revive.
pub const LAPSED: &str = "lapsed";

/// The most bytes of an answer or of mail that a dead letter shows.
pub const MAX_BODY_BYTES: usize = 500;

/// The most leases one call takes back, and the most due objects it moves to ready, of each class.
pub const SWEEP: usize = 200;

/// What a queue may keep, and how it reads counts that others wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// `MAX_ATTEMPTS`. Mail that claims to have used them up still gets one.
    pub max_attempts: u32,
    /// The most objects among the dead letters; the oldest gives way and is counted.
    pub dead_letters: usize,
    /// The most unreadable mail among the dead letters.
    pub unreadable_letters: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { max_attempts: 3, dead_letters: 10_000, unreadable_letters: 1_000 }
    }
}

/// What is wanted of an object: one wish, or several merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    #[serde(with = "class_number")]
    pub priority: Priority,
    /// When it was first asked for: its place among its class.
    pub first: Timestamp,
    /// When it was last asked for: what an answer must satisfy.
    pub last: Timestamp,
    /// Not before. The earliest of the merged wishes.
    pub due: Timestamp,
    /// Attempts that failed.
    pub attempts: u32,
}

impl Wanted {
    /// A wish with its times brought into [epoch, now + 24 h].
    #[must_use]
    pub fn of(wish: &Wish, now: Timestamp) -> Self {
        let asked = clamp(wish.asked, now);
        Self { priority: wish.priority, first: asked, last: asked, due: clamp(wish.due, now), attempts: wish.attempts }
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
    /// Leases that ran out unsettled since the last time a worker survived the object.
    pub lapses: u32,
    /// Wishes merged so far; a lease hands it out, so that the holder can tell whether something newer came.
    pub merges: u64,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the lease runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What was wished for while it was leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Wanted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died: Option<Timestamp>,
    /// Of a dead letter, or of the latest failure.
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
            lapses: 0,
            merges,
            state: State::Ready,
            token: None,
            expires: None,
            next: None,
            died: None,
            code: None,
            reason: None,
            body: None,
        };
        record.place(now);
        record
    }

    /// The record after a wish for its object arrived.
    #[must_use]
    pub fn with_wish(record: Option<Self>, wish: &Wish, now: Timestamp) -> Self {
        let wanted = Wanted::of(wish, now);
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

    /// With what was wished for while it was leased.
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
            held: 0,
            held_for: None,
            expires,
        }
    }

    /// Takes a lease back that ran out. The object is free again at once, however often it happened: most objects lapse
    /// because of another's fault or none at all. What guards the others is that suspects are leased in ever smaller
    /// groups, at last alone, and that the fifth lapse buries the one that is to blame.
    pub fn lapse(&mut self, now: Timestamp) {
        self.end_lease();
        self.lapses += 1;
        if self.lapses >= MAX_LAPSES {
            self.bury(now, LAPSED, &format!("{} leases in a row ran out unsettled", self.lapses), None);
            return;
        }
        self.place(now);
    }

    /// Forgets the lease, and merges what was wished for meanwhile.
    fn end_lease(&mut self) {
        self.token = None;
        self.expires = None;
        if let Some(next) = self.next.take() {
            self.wanted.merge(&next);
        }
    }

    /// Ends a lease. `None`: the record is deleted.
    #[must_use]
    pub fn settle(mut self, settlement: &Settlement, now: Timestamp) -> Option<Self> {
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
                self.place(now);
            }
            Settlement::Failed { until, reason } => {
                self.wanted.attempts += 1;
                self.end_lease();
                self.hold = clamp(*until, now);
                self.lapses = 0;
                self.code = Some(reason.code.to_owned());
                self.reason = Some(reason.detail.clone());
                self.place(now);
            }
            Settlement::Release | Settlement::Held { .. } => {
                self.end_lease();
                self.place(now);
            }
            Settlement::Dead { reason, body } => {
                self.end_lease();
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
    }

    /// Brings a dead object back, ready at once, in its old place.
    pub fn redrive(&mut self, now: Timestamp) {
        let wanted = Wanted { attempts: 0, due: self.wanted.due.min(now), ..self.wanted.clone() };
        *self = Self::fresh(wanted, self.merges, now);
    }
}

/// Brings a time into [epoch, now + 24 h].
#[must_use]
pub fn clamp(time: Timestamp, now: Timestamp) -> Timestamp {
    time.clamp(Timestamp::EPOCH, (now + LONGEST_WAIT).max(Timestamp::EPOCH))
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
