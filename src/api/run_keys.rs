//! The keys this run holds: who may call next, and whether a key may still be used.
//!
//! Each key has its limiter, its health and the proof of its slot. Talks to nobody; the worker takes and renews the
//! slots and reports here, the client reports what the API says about a key. Shared by `Arc`, all through `&self`.
//!
//! **Invariants.** No call begins on a key whose slot is not certainly ours, by boot time *and* by the wall clock,
//! since a frozen sandbox stops some clocks. No call begins on a permit older than [`PERMIT_LIFE`], and however late the
//! calls begin, no more of them begin in any second than the cap.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    limit::{RateLimit, TimerClock},
    wallet::ApiKey,
};
use crate::{
    clock::{Clock, Timestamp},
    model::Fingerprint,
};

/// A slot counts as ours only until this long before it may end: a call takes time to arrive.
pub const SLOT_MARGIN: Duration = Duration::from_millis(500);

/// How long a permit may be kept before its call begins.
pub const PERMIT_LIFE: Duration = Duration::from_millis(20);

/// What two limiters, the old and the new holder of a key, may have saved up together.
const SAVED_UP: Duration = Duration::from_millis(20);

/// Two keys refused within this time: it is not the keys, it is our address.
pub const ADDRESS_SUSPICION: Duration = Duration::from_secs(10);

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

/// The right to one call, on one key, now.
#[derive(Debug)]
#[must_use = "a permit that is not used at once is a call less"]
pub struct Permit {
    key: Fingerprint,
    granted: Instant,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPermit {
    #[error("no call is free before the deadline")]
    Deadline,
    #[error("no key is usable: none held, or all of them rest")]
    NoUsableKey,
}

/// A key that rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    pub key: Fingerprint,
    pub reason: String,
    /// How much longer; `None` for a benched key, which rests for the run.
    pub remaining: Option<Duration>,
}

/// The keys this run holds, each with its limiter, health and slot.
pub struct RunKeys {
    clock: Arc<dyn Clock>,
    cap_per_second: u32,
    held: Mutex<Held>,
    /// Whoever holds this is next; tokio's mutex is first come, first served.
    turn: tokio::sync::Mutex<()>,
    /// Woken when a key comes, goes or changes its health, so that whoever waits looks again.
    changed: Notify,
    calls: AtomicU64,
    /// When the first call began, and the last.
    window: Mutex<Option<(Instant, Instant)>>,
}

#[derive(Default)]
struct Held {
    keys: Vec<HeldKey>,
    /// Where the search for a free key begins, so that all are used alike.
    next: usize,
    /// The last refusal, by boot time.
    last_refused: Option<(Fingerprint, Duration)>,
}

struct HeldKey {
    key: ApiKey,
    bearer: HeaderValue,
    limit: RateLimit,
    slot_start: SlotStart,
    slot_lifetime: Duration,
    health: Health,
}

enum Health {
    Well,
    /// Until a boot time.
    Resting {
        until: Duration,
        reason: String,
        throttled: bool,
    },
    Benched {
        reason: String,
    },
}

impl RunKeys {
    /// `cap_per_sec`: calls a second and key.
    pub fn new(clock: Arc<dyn Clock>, cap_per_sec: u32) -> Self {
        Self {
            clock,
            cap_per_second: cap_per_sec.max(1),
            held: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            calls: AtomicU64::new(0),
            window: Mutex::default(),
        }
    }

    /// A slot was taken. `held_since`: both clocks read before it was asked for. Adding a held key renews its slot.
    pub fn add(&self, key: ApiKey, learned_rate: Option<f64>, held_since: SlotStart, lifetime: Duration) {
        if self.held().get(key.fingerprint()).is_some() {
            return self.confirm(key.fingerprint(), held_since, lifetime);
        }
        let (bearer, health) = match bearer(&key) {
            Some(bearer) => (bearer, Health::Well),
            None => (
                HeaderValue::from_static(""),
                Health::Benched { reason: "the token has characters that a header cannot carry".to_owned() },
            ),
        };
        let limit = RateLimit::new(TimerClock::default(), self.cap_per_second, learned_rate);
        let held_key = HeldKey { key, bearer, limit, slot_start: held_since, slot_lifetime: lifetime, health };
        self.held().keys.push(held_key);
        self.changed.notify_waiters();
    }

    /// All keys whose slots this run has, whatever their health.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.held().keys.iter().map(|key| key.key.fingerprint().clone()).collect()
    }

    /// The slot was renewed. `start`: both clocks read before the renewal was sent.
    pub fn confirm(&self, fingerprint: &Fingerprint, start: SlotStart, lifetime: Duration) {
        if let Some(key) = self.held().get(fingerprint) {
            key.slot_start = start;
            key.slot_lifetime = lifetime;
        }
        self.changed.notify_waiters();
    }

    /// The slot is not ours any more.
    pub fn lose(&self, fingerprint: &Fingerprint) {
        self.held().keys.retain(|key| key.key.fingerprint() != fingerprint);
        self.changed.notify_waiters();
    }

    /// Lets a key rest; a rest under way is only ever lengthened.
    pub fn rest(&self, fingerprint: &Fingerprint, duration: Duration, reason: &str) {
        let until = self.clock.boot() + duration;
        if let Some(key) = self.held().get(fingerprint) {
            key.rest(until, reason, false);
        }
        self.changed.notify_waiters();
    }

    /// Not to be used again in this run.
    pub fn bench(&self, fingerprint: &Fingerprint, reason: &str) {
        if let Some(key) = self.held().get(fingerprint) {
            key.health = Health::Benched { reason: reason.to_owned() };
        }
        self.changed.notify_waiters();
    }

    /// The API refused a call of this key (429): it rests and its rate is halved. Calls that were in flight together are
    /// refused together; that halves once. A second key refused within [`ADDRESS_SUSPICION`] lets all keys rest.
    pub fn throttled(&self, fingerprint: &Fingerprint, rest: Duration) {
        let now = self.clock.boot();
        let mut held = self.held();
        let another_just_before = held
            .last_refused
            .replace((fingerprint.clone(), now))
            .is_some_and(|(key, at)| key != *fingerprint && now.saturating_sub(at) < ADDRESS_SUSPICION);
        if let Some(key) = held.get(fingerprint) {
            let already = matches!(key.health, Health::Resting { until, throttled: true, .. } if until > now);
            if !already {
                key.limit.refused(rest);
            }
            key.rest(now + rest, "throttled", true);
        }
        if another_just_before {
            for key in &mut held.keys {
                key.rest(now + rest, "throttled by address", false);
            }
        }
        drop(held);
        self.changed.notify_waiters();
    }

    /// Waits for the key that is free first. First come, first served.
    ///
    /// # Errors
    /// When nothing is free before `until`, as soon as that is known; when no key is usable, at once.
    pub async fn permit(&self, until: Instant) -> Result<Permit, NoPermit> {
        let _turn = timeout_at(until, self.turn.lock()).await.map_err(|_| NoPermit::Deadline)?;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = Instant::now();
            if now > until {
                return Err(NoPermit::Deadline);
            }
            match self.take() {
                Taken::Call(key) => return Ok(Permit { key, granted: now }),
                Taken::NoUsableKey => return Err(NoPermit::NoUsableKey),
                Taken::Wait(wait) if now + wait > until => return Err(NoPermit::Deadline),
                Taken::Wait(wait) => tokio::select! {
                    () = sleep_until(now + wait) => {}
                    () = changed => {}
                },
            }
        }
    }

    /// Turns a permit into the header of a call, and counts the call. `None` when the permit lapsed: kept too long, the
    /// key rests by now, or its slot is not certainly ours any more.
    pub(super) async fn begin(&self, permit: Permit) -> Option<(Fingerprint, HeaderValue)> {
        if permit.granted.elapsed() > PERMIT_LIFE {
            return None;
        }
        loop {
            let wait = match self.try_begin(&permit.key)? {
                Ok(bearer) => {
                    self.count_call();
                    return Some((permit.key, bearer));
                }
                Err(wait) => wait,
            };
            sleep(wait).await;
        }
    }

    fn try_begin(&self, fingerprint: &Fingerprint) -> Option<Result<HeaderValue, Duration>> {
        let mut held = self.held();
        let key = held.get(fingerprint).filter(|key| key.is_usable(&*self.clock))?;
        Some(key.limit.begin().map(|()| key.bearer.clone()))
    }

    fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        self.window.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((now, now)).1 = now;
    }

    /// How many keys could be called with now, were they free.
    pub fn usable(&self) -> usize {
        self.held().keys.iter().filter(|key| key.is_usable(&*self.clock)).count()
    }

    /// Calls begun so far.
    pub fn calls_made(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// From the beginning of the first call to the beginning of the last.
    pub fn calling_window(&self) -> Duration {
        let window = *self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.map_or(Duration::ZERO, |(first, last)| last.duration_since(first))
    }

    /// The rate of each held key, for the next run to begin with.
    pub fn rates(&self) -> Vec<(Fingerprint, f64)> {
        self.held().keys.iter().map(|key| (key.key.fingerprint().clone(), key.limit.rate())).collect()
    }

    /// The caps of the held keys together, in calls a second: what the use of the budget is measured against.
    pub fn cap_per_second(&self) -> f64 {
        self.held().keys.iter().map(|key| key.limit.cap()).sum()
    }

    /// What the usable keys allow now, in calls a second.
    pub fn total_rate(&self) -> f64 {
        self.held().keys.iter().filter(|key| key.is_usable(&*self.clock)).map(|key| key.limit.rate()).sum()
    }

    /// The keys that rest and why, so that their slots can be paused for other runs too.
    pub fn resting(&self) -> Vec<Rest> {
        let now = self.clock.boot();
        let rest = |key: &HeldKey| match &key.health {
            Health::Resting { until, reason, .. } if *until > now => Some(Rest {
                key: key.key.fingerprint().clone(),
                reason: reason.clone(),
                remaining: Some(until.saturating_sub(now)),
            }),
            Health::Benched { reason } => {
                Some(Rest { key: key.key.fingerprint().clone(), reason: reason.clone(), remaining: None })
            }
            Health::Well | Health::Resting { .. } => None,
        };
        self.held().keys.iter().filter_map(rest).collect()
    }

    /// How long a slot has to live on after the last call ended, so that the fresh limiter of the key's next holder
    /// cannot add a burst: one interval of the slowest key, and what a limiter may have saved up.
    pub fn linger(&self) -> Duration {
        let slowest = self.held().keys.iter().map(|key| key.limit.interval()).max().unwrap_or_default();
        slowest + SAVED_UP + PERMIT_LIFE
    }

    fn take(&self) -> Taken {
        let mut held = self.held();
        let count = held.keys.len();
        let first = held.next;
        let mut soonest: Option<Duration> = None;
        for at in (0..count).map(|step| (first + step) % count) {
            let key = &mut held.keys[at];
            if !key.is_usable(&*self.clock) {
                continue;
            }
            match key.limit.take() {
                Ok(()) => {
                    let fingerprint = key.key.fingerprint().clone();
                    held.next = at + 1;
                    return Taken::Call(fingerprint);
                }
                Err(wait) => soonest = Some(soonest.map_or(wait, |other| other.min(wait))),
            }
        }
        soonest.map_or(Taken::NoUsableKey, Taken::Wait)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic while it was held leaves plain numbers behind, none of them half-written.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    Call(Fingerprint),
    Wait(Duration),
    NoUsableKey,
}

impl Held {
    fn get(&mut self, fingerprint: &Fingerprint) -> Option<&mut HeldKey> {
        self.keys.iter_mut().find(|key| key.key.fingerprint() == fingerprint)
    }
}

impl HeldKey {
    fn is_usable(&self, clock: &dyn Clock) -> bool {
        let well = match self.health {
            Health::Well => true,
            Health::Resting { until, .. } => clock.boot() >= until,
            Health::Benched { .. } => false,
        };
        well && self.slot_start.elapsed(clock) + SLOT_MARGIN < self.slot_lifetime
    }

    fn rest(&mut self, until: Duration, reason: &str, throttled: bool) {
        match &mut self.health {
            Health::Benched { .. } => {}
            Health::Resting { until: so_far, throttled: was, .. } if *so_far >= until => *was |= throttled,
            health => *health = Health::Resting { until, reason: reason.to_owned(), throttled },
        }
    }
}

fn bearer(key: &ApiKey) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.token().expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for RunKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunKeys")
            .field("held", &self.fingerprints())
            .field("usable", &self.usable())
            .field("calls_made", &self.calls_made())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
