//! A key of the pool: its limiter, its AIMD rate, its health and the proof of its slot. Touches nothing else.

use std::time::Duration;

use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use tracing::{debug, info};

use super::{
    aimd::{Aimd, Cause, Step},
    limiter::{RateLimit, TimerClock},
};
use crate::{
    api::keys::ApiKey,
    clock::{Clock, Timestamp},
};

/// A slot counts as ours only until this long before its end: a call takes time to arrive.
pub(super) const SLOT_MARGIN: Duration = Duration::from_millis(500);

/// Both clocks, read before a slot is asked for: the earliest moment at which its lifetime can have begun.
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

    /// The time since then, by the clock that shows more of it: a frozen sandbox stops some clocks.
    fn elapsed(self, clock: &dyn Clock) -> Duration {
        clock.boot().saturating_sub(self.boot).max(clock.wall().since(self.wall))
    }
}

/// A key whose slot this run holds.
pub(super) struct PooledKey {
    pub(super) key: ApiKey,
    pub(super) bearer: HeaderValue,
    pub(super) limit: RateLimit,
    pub(super) aimd: Aimd,
    slot_start: SlotStart,
    slot_lifetime: Duration,
    pub(super) health: Health,
}

/// The health of a key.
pub(super) enum Health {
    Healthy,
    CoolingDown {
        /// Boot time.
        until: Duration,
        reason: String,
        /// The key's rate was lowered for the same reason.
        backed_off: bool,
    },
    /// The API refuses the key, or it cannot be sent at all.
    Rejected {
        reason: String,
    },
}

impl PooledKey {
    pub(super) fn new(
        key: ApiKey,
        cap_per_second: u32,
        aimd: Aimd,
        slot_start: SlotStart,
        slot_lifetime: Duration,
    ) -> Self {
        let (bearer, health) = match bearer(&key) {
            Some(bearer) => (bearer, Health::Healthy),
            None => (
                HeaderValue::from_static(""),
                Health::Rejected { reason: "the token has characters that a header cannot carry".to_owned() },
            ),
        };
        let limit = RateLimit::at_rate(TimerClock::default(), cap_per_second, aimd.rate());
        Self { key, bearer, limit, aimd, slot_start, slot_lifetime, health }
    }

    /// The slot was renewed.
    pub(super) const fn confirm(&mut self, start: SlotStart, lifetime: Duration) {
        (self.slot_start, self.slot_lifetime) = (start, lifetime);
    }

    /// True when a call may use the key now, were the limiter free.
    pub(super) fn is_usable(&self, clock: &dyn Clock) -> bool {
        let is_healthy = match self.health {
            Health::Healthy => true,
            Health::CoolingDown { until, .. } => clock.boot() >= until,
            Health::Rejected { .. } => false,
        };
        // A call begun now must arrive while the slot is ours.
        is_healthy && self.slot_start.elapsed(clock) + SLOT_MARGIN < self.slot_lifetime
    }

    /// Lowers the rate. It does not rise again before the cooldown is over.
    pub(super) fn back_off(&mut self, cause: Cause, cooldown: Duration, now: Timestamp) {
        self.aimd.back_off(cause, cooldown, now);
        self.limit.set_rate(self.aimd.rate());
    }

    /// Raises a lowered rate by a step when it is time.
    pub(super) fn step(&mut self, now: Timestamp) {
        let step = self.aimd.step(now);
        if step == Step::Stay {
            return;
        }
        let (key, rate) = (self.key.fingerprint(), self.aimd.rate());
        match step {
            Step::Back => info!(key.fingerprint = %key, rate, "a key is back at its full rate"),
            Step::Stay | Step::Up => debug!(key.fingerprint = %key, rate, "a key is a step faster"),
        }
        // A new rate empties the governor, which costs a call. A step that only forgets the ceiling must not.
        if rate.to_bits() != self.limit.rate().to_bits() {
            self.limit.set_rate(rate);
        }
    }

    /// Begins a cooldown, or lengthens the present one. A rejected key stays rejected.
    pub(super) fn cool_down(&mut self, until: Duration, reason: &str, backed_off: bool) {
        match &mut self.health {
            Health::Rejected { .. } => {}
            Health::CoolingDown { until: so_far, backed_off: before, .. } if *so_far >= until => *before |= backed_off,
            health => *health = Health::CoolingDown { until, reason: reason.to_owned(), backed_off },
        }
    }
}

fn bearer(key: &ApiKey) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.token().expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}
