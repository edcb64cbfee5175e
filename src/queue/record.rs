//! The record of one object, and every change it can go through.
//!
//! Values only. The memory queue calls these functions, and `lua/prelude.lua` has the same rules for Redis: a change of one is
//! a change of the other, and the model test compares the two after every step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Lease, LeaseToken, MAX_LAPSES, SUSPECT_LAPSES, Settlement};
use crate::{
    clock::Timestamp,
    model::{ObjectId, Priority, RefreshRequest},
};

/// No time in a record is later than this from now.
pub use crate::model::MAX_REQUEST_DELAY;

/// The score of a ready object is its priority times this, plus the time of its first request in milliseconds. The product is
/// far enough apart for times until the year 2286, and exact in a double.
pub const CLASS_WIDTH: i64 = 10_000_000_000_000;

/// The code of a dead letter that new mail does not revive.
pub const LAPSED: &str = "lapsed";

/// The code of a request that waits, untried, because its endpoint fails.
pub const CIRCUIT: &str = "circuit";

/// The code of an object that waits because there is no room for another dead letter.
pub const DEAD_LETTERS_FULL: &str = "dead_letters_full";

/// The most objects that one lease call sets aside.
pub const MAX_SET_ASIDE: usize = 1000;

/// The most leases that one call takes back, and the most due objects of each priority that it moves to ready.
pub const MAX_SWEPT: usize = 200;

/// The reply to a settlement is remembered this long: the same batch sent again gets the same reply and changes nothing.
pub const REPLY_LIFETIME: Duration = Duration::from_secs(60);

/// The hold of an object for which there is no room among the dead letters.
const NO_ROOM_HOLD: Duration = Duration::from_secs(10 * 60);

/// The first hold of an object that was returned with a hold. Each further one in a row for the same reason is twice as long …
pub const FIRST_HOLD: Duration = Duration::from_secs(30);

/// … up to this.
pub const MAX_HOLD: Duration = Duration::from_secs(10 * 60);

/// The sample for the oldest request: this many of each priority of the mailbox, and of those that are due and not yet moved.
pub const OLDEST_SAMPLE: usize = 10;

/// Mail with a larger value is not part of that sample.
pub const MAX_SAMPLED_BYTES: usize = 4096;

/// A dead letter shows at most this many bytes of a response or of mail.
pub const MAX_BODY_BYTES: usize = 500;

/// Bounds of what a queue keeps, and the cap for counts that others wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// `MAX_ATTEMPTS`. Mail that claims to have used them up still gets one.
    pub max_attempts: u32,
    /// The most objects among the dead letters; beyond, an object is returned and waits instead of becoming one.
    pub dead_letters: usize,
    /// The most invalid entries among the dead letters; beyond, the oldest is evicted and counted.
    pub dead_entries: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { max_attempts: 3, dead_letters: 10_000, dead_entries: 1_000 }
    }
}

/// One request for an object, or several merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    #[serde(with = "class_number")]
    pub priority: Priority,
    /// The time of the first request: its place among its priority.
    pub first: Timestamp,
    /// The time of the last request: a refresh has to be newer.
    pub last: Timestamp,
    /// Not before this time: the earliest of the merged requests.
    pub due: Timestamp,
    /// Failed attempts.
    pub attempts: u32,
    /// The time of the first reader's request among them. Readers write to the mailbox; no other request sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
}

impl Wanted {
    /// Takes a request and brings its times into [epoch, now + 24 h].
    #[must_use]
    pub fn of(request: &RefreshRequest, now: Timestamp) -> Self {
        let asked = clamp(request.asked, now);
        Self {
            priority: request.priority,
            first: asked,
            last: asked,
            due: clamp(request.due, now),
            attempts: request.attempts,
            asked: request.reader_asked.map(|asked| clamp(asked, now)),
        }
    }

    /// Keeps the best priority, first request, last request, earliest due time, highest count of attempts, and the first reader's
    /// request.
    pub fn merge(&mut self, other: &Self) {
        self.priority = self.priority.min(other.priority);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.due = self.due.min(other.due);
        self.attempts = self.attempts.max(other.attempts);
        self.asked = self.asked.into_iter().chain(other.asked).min();
    }
}

/// The state of an object, which is also the set that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ready,
    Delayed,
    Leased,
    Dead,
}

impl State {
    /// Reads its name in a record.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "ready" => Self::Ready,
            "delayed" => Self::Delayed,
            "leased" => Self::Leased,
            "dead" => Self::Dead,
            _ => return None,
        })
    }
}

/// Everything the queue knows about one object. In Redis it is one JSON text, with these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(flatten)]
    pub wanted: Wanted,
    /// Not before this time, after a failure or a hold. Mail never shortens it.
    pub hold: Timestamp,
    /// Holds in a row for the same reason.
    #[serde(default, skip_serializing_if = "is_none")]
    pub held: u32,
    /// The code of that reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<String>,
    /// Leases that ran out unsettled since a worker last survived the object.
    pub lapses: u32,
    /// Requests merged so far. A lease carries it, so that its holder notices a newer request.
    pub merges: u64,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The time at which the lease runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// True when the run is known to have received the lease, because it renewed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub received: bool,
    /// A planned look: a lease that no request asked for. However it ends, the record goes, and `next` takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub planned: bool,
    /// Requests that came while it was leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Wanted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died: Option<Timestamp>,
    /// The code of the dead letter, or of the latest failure or hold.
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
            planned: false,
            next: None,
            died: None,
            code: None,
            reason: None,
            body: None,
        };
        record.place(now);
        record
    }

    /// The record of a planned look, before it is leased: no request is merged into it.
    #[must_use]
    pub fn planned(now: Timestamp) -> Self {
        let wanted = Wanted { priority: Priority::Low, first: now, last: now, due: now, attempts: 0, asked: None };
        Self { planned: true, ..Self::fresh(wanted, 0, now) }
    }

    /// True for a planned look for whose object no request has come: nothing that waits, so nothing to keep.
    #[must_use]
    pub const fn is_only_planned(&self) -> bool {
        self.planned && matches!(self.state, State::Leased) && self.next.is_none()
    }

    /// The record after a request for its object arrived.
    #[must_use]
    pub fn with_request(record: Option<Self>, request: &RefreshRequest, now: Timestamp) -> Self {
        let wanted = Wanted::of(request, now);
        let Some(mut record) = record else { return Self::fresh(wanted, 1, now) };
        let merges = record.merges + 1;
        match record.state {
            // A new request revives a dead letter: its reason may be gone.
            State::Dead if !record.has_lapsed() => {
                return Self::fresh(Wanted { attempts: 0, ..wanted }, merges, now);
            }
            // An object that killed its workers waits for an operator.
            State::Dead => record.wanted.merge(&wanted),
            // The lease may serve an older response: the new request comes after it.
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

    /// The time from which on it may be leased.
    #[must_use]
    pub fn ready_at(&self) -> Timestamp {
        self.wanted.due.max(self.hold)
    }

    /// All requests merged, including those that came while it was leased.
    #[must_use]
    pub fn wanted_in_all(&self) -> Wanted {
        let mut record = self.clone();
        record.take_next();
        record.wanted
    }

    /// Merges the requests that came during the lease. A planned look stands for no request, so they take its place.
    fn take_next(&mut self) {
        match self.next.take() {
            Some(next) if self.planned => self.wanted = next,
            Some(next) => self.wanted.merge(&next),
            None => {}
        }
    }

    /// Its score in the set of its state.
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

    /// Leases the object.
    pub fn lease(&mut self, object: ObjectId, token: String, expires: Timestamp) -> Lease {
        self.state = State::Leased;
        self.token = Some(token.clone());
        self.expires = Some(expires);
        Lease {
            object,
            token: LeaseToken(token),
            merges: self.merges,
            priority: self.wanted.priority,
            first_requested: self.wanted.first,
            last_requested: self.wanted.last,
            attempts: self.wanted.attempts,
            lapses: self.lapses,
            held: self.held,
            held_for: self.held_for.clone(),
            asked: self.wanted.asked,
            planned: self.planned,
            expires,
        }
    }

    /// Takes back a lease that ran out. The object is ready again at once, however often it lapsed: most objects lapse by the
    /// fault of another or of none. The others are protected because suspects are leased in ever smaller groups, at last
    /// alone, and because the fifth lapse buries the object, when there is room among the dead letters. A lease that no run is
    /// known to have received may make a suspect, and no more: nothing ends as `lapsed` that no worker ever saw.
    ///
    /// A planned look becomes an ordinary request of priority LOW, so that the same rules hold for an object that kills its worker.
    pub fn lapse(&mut self, has_room: bool, now: Timestamp) {
        // The first lapses cost little, so each counts. A suspect may be buried, so its lapse counts only if a run had the lease.
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

    /// Forgets the lease, and merges the requests that came meanwhile.
    pub(super) fn end_lease(&mut self) {
        self.token = None;
        self.expires = None;
        self.received = false;
        self.take_next();
        self.planned = false;
    }

    /// Holds an object that would have become a dead letter, since there is no room. Nothing is counted.
    fn wait_for_room(&mut self, now: Timestamp) {
        self.hold = now + NO_ROOM_HOLD;
        self.held = 0;
        self.held_for = Some(DEAD_LETTERS_FULL.to_owned());
        self.place(now);
    }

    /// True when it waits because there was no room among the dead letters.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.held_for.as_deref() == Some(DEAD_LETTERS_FULL)
    }

    /// Ends a lease; `None` deletes the record. `has_room`: one more object can become a dead letter.
    #[must_use]
    pub fn settle(mut self, settlement: &Settlement, has_room: bool, now: Timestamp) -> Option<Self> {
        let is_over = matches!(settlement, Settlement::Done | Settlement::Dead { .. });
        // A request that came during the lease deserves its own attempt, whatever became of the last one.
        if (is_over || self.planned)
            && let Some(next) = self.next
        {
            let is_answered = is_over || matches!(settlement, Settlement::Later { .. });
            let attempts = if is_answered { 0 } else { next.attempts };
            return Some(Self::fresh(Wanted { attempts, ..next }, self.merges, now));
        }
        // Nobody asked for it, so nobody waits for another try.
        if self.planned {
            return None;
        }
        match settlement {
            Settlement::Done => return None,
            // The object was refreshed, so all counts begin anew.
            Settlement::Later { until } => {
                self.wanted.due = clamp(*until, now);
                // The readers who asked have their answer.
                self.wanted.asked = None;
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
                // Set first: `place` reads it to choose between ready and delayed.
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

    /// Ends the row of holds for one reason.
    fn end_holds(&mut self) {
        self.held = 0;
        self.held_for = None;
    }

    /// True when it waits because it was returned with a hold, which ends early when its reason is gone.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state == State::Delayed && self.held > 0
    }

    /// Ends the hold, since its reason is gone.
    pub fn lift_hold(&mut self, now: Timestamp) {
        self.hold = Timestamp::EPOCH;
        self.end_holds();
        self.place(now);
    }

    /// Frees an object that was set aside. A row of holds of its own goes on.
    pub fn return_set_aside(&mut self, now: Timestamp) {
        if self.held_for.as_deref() == Some(CIRCUIT) {
            return self.lift_hold(now);
        }
        self.hold = Timestamp::EPOCH;
        self.place(now);
    }

    /// Delays an object whose endpoint fails. Nothing is counted, since nothing was tried.
    pub fn set_aside(&mut self, until: Timestamp, now: Timestamp) {
        self.hold = self.hold.max(until);
        // Earlier holds of this object stay: it failed itself, so it comes behind objects that did not.
        if self.held == 0 {
            self.held_for = Some(CIRCUIT.to_owned());
        }
        self.place(now);
    }

    /// Returns a dead object to the queue, ready at once, in its old place.
    pub fn redrive(&mut self, now: Timestamp) {
        // The first request keeps its time, so the object does not go to the end of the queue.
        let wanted = Wanted { attempts: 0, due: self.wanted.due.min(now), ..self.wanted.clone() };
        *self = Self::fresh(wanted, self.merges, now);
    }
}

/// The hold after this many in a row.
fn hold_of(times: u32) -> Duration {
    // Ten doublings are far beyond the maximum, and cannot overflow.
    (FIRST_HOLD * (1 << (times - 1).min(10))).min(MAX_HOLD)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_none(count: &u32) -> bool {
    *count == 0
}

/// Brings a time into [epoch, now + 24 h].
#[must_use]
pub fn clamp(time: Timestamp, now: Timestamp) -> Timestamp {
    // The maximum guards against a clock before the epoch.
    time.clamp(Timestamp::EPOCH, (now + MAX_REQUEST_DELAY).max(Timestamp::EPOCH))
}

/// The start of a text, at most [`MAX_BODY_BYTES`].
#[must_use]
pub fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_BODY_BYTES)]
}

/// Serializes a priority as the number it has in the mailbox and in our keys.
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
