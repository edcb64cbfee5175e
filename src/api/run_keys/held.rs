//! One key of a run: its limiter, what its rate has learned, its health and the proof of its slot. Talks to nobody.

use std::{collections::BTreeMap, time::Duration};

use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use tracing::{debug, info};

use super::super::{
    key::ApiKey,
    learn::{Cause, Learner, Step},
    limit::{RateLimit, TimerClock},
};
use crate::{
    clock::{Clock, Timestamp},
    model::{Fingerprint, ObjectId},
};

/// A slot counts as ours only until this long before it may end: a call takes time to arrive.
pub const SLOT_MARGIN: Duration = Duration::from_millis(500);

/// Both clocks, read before a slot is asked for: the earliest moment its life can have begun.
#[derive(Clone, Copy, Debug)]
pub struct SlotStart {
    wall: Timestamp,
    boot: Duration,
}

impl SlotStart {
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        Self { wall: clock.wall(), boot: clock.boot() }
    }

    /// The longest that either clock says has passed since.
    fn elapsed(self, clock: &dyn Clock) -> Duration {
        clock.boot().saturating_sub(self.boot).max(clock.wall().since(self.wall))
    }
}

#[derive(Default)]
pub(super) struct Held {
    pub(super) keys: Vec<HeldKey>,
    /// Where the search for a free key begins, so that all are used alike.
    pub(super) next: usize,
    /// Of each key, the last object that met a 429 with it; kept while the key cools down and is not held.
    pub(super) throttled: BTreeMap<Fingerprint, ObjectId>,
    /// The last refusal, by boot time.
    pub(super) last_refused: Option<(Fingerprint, ObjectId, Duration)>,
}

pub(super) struct HeldKey {
    pub(super) key: ApiKey,
    pub(super) bearer: HeaderValue,
    pub(super) limit: RateLimit,
    pub(super) learner: Learner,
    slot_start: SlotStart,
    slot_lifetime: Duration,
    pub(super) health: Health,
}

pub(super) enum Health {
    Well,
    /// Until a boot time.
    Resting {
        until: Duration,
        reason: String,
        /// Its rate was lowered for that.
        gave_way: bool,
    },
    Benched {
        reason: String,
    },
}

impl Held {
    pub(super) fn get(&mut self, fingerprint: &Fingerprint) -> Option<&mut HeldKey> {
        self.keys.iter_mut().find(|key| key.key.fingerprint() == fingerprint)
    }
}

impl HeldKey {
    pub(super) fn new(
        key: ApiKey,
        cap_per_second: u32,
        learner: Learner,
        slot_start: SlotStart,
        slot_lifetime: Duration,
    ) -> Self {
        let (bearer, health) = match bearer(&key) {
            Some(bearer) => (bearer, Health::Well),
            None => (
                HeaderValue::from_static(""),
                Health::Benched { reason: "the token has characters that a header cannot carry".to_owned() },
            ),
        };
        let limit = RateLimit::at_rate(TimerClock::default(), cap_per_second, learner.rate());
        Self { key, bearer, limit, learner, slot_start, slot_lifetime, health }
    }

    /// The slot was renewed.
    pub(super) const fn confirm(&mut self, start: SlotStart, lifetime: Duration) {
        (self.slot_start, self.slot_lifetime) = (start, lifetime);
    }

    pub(super) fn is_usable(&self, clock: &dyn Clock) -> bool {
        let well = match self.health {
            Health::Well => true,
            Health::Resting { until, .. } => clock.boot() >= until,
            Health::Benched { .. } => false,
        };
        well && self.slot_start.elapsed(clock) + SLOT_MARGIN < self.slot_lifetime
    }

    pub(super) fn give_way(&mut self, cause: Cause, rest: Duration, now: Timestamp) {
        self.learner.give_way(cause, rest, now);
        self.limit.set_rate(self.learner.rate());
    }

    /// A lowered rate rises when it is time.
    pub(super) fn step(&mut self, now: Timestamp) {
        let step = self.learner.step(now);
        if step == Step::Stay {
            return;
        }
        let (key, rate) = (self.key.fingerprint(), self.learner.rate());
        match step {
            Step::Back => info!(key.fingerprint = %key, rate, "a key is back at its full rate"),
            Step::Stay | Step::Up => debug!(key.fingerprint = %key, rate, "a key is a step faster"),
        }
        if rate.to_bits() != self.limit.rate().to_bits() {
            self.limit.set_rate(rate);
        }
    }

    pub(super) fn rest(&mut self, until: Duration, reason: &str, gave_way: bool) {
        match &mut self.health {
            Health::Benched { .. } => {}
            Health::Resting { until: so_far, gave_way: was, .. } if *so_far >= until => *was |= gave_way,
            health => *health = Health::Resting { until, reason: reason.to_owned(), gave_way },
        }
    }
}

fn bearer(key: &ApiKey) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.token().expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}
