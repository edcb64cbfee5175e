//! The keys this run holds: who may call next, and whether a key may still be used.
//!
//! Each key has its limiter, what its rate has learned, its health and the proof of its slot (`held`). Talks to nobody; the
//! worker takes and renews the slots and reports here, the client reports what the API says about a key. Shared by `Arc`,
//! all through `&self`.
//!
//! **Invariants.** No call begins on a key whose slot is not certainly ours, by boot time *and* by the wall clock,
//! since a frozen sandbox stops some clocks. No call begins on a permit older than [`PERMIT_LIFE`], and however late the
//! calls begin, no more of them begin in any second than the cap.

mod held;
mod under_way;

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use reqwest::header::HeaderValue;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{info, warn};

use self::held::{Health, Held, HeldKey};
pub use self::held::{SLOT_MARGIN, SlotStart};
pub(super) use self::under_way::Begun;
use super::{
    allowance::{DailyQuota, Spent},
    key::ApiKey,
    latency::{Finding, LatencyWatch},
    learn::{Cause, Learner},
    limit::{CallNumber, RateLimit},
    verdict::Endpoint,
};
use crate::{
    clock::Clock,
    model::{Fingerprint, AimdState, ObjectId},
};

/// How long a permit may be kept before its call begins.
pub const PERMIT_LIFE: Duration = Duration::from_millis(20);

/// Two keys refused within this time: it is not the keys, it is our address.
pub const ADDRESS_SUSPICION: Duration = Duration::from_secs(10);

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
    #[error("the calls of this day are used up")]
    DailyQuotaExhausted,
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
pub struct KeyPool {
    clock: Arc<dyn Clock>,
    cap_per_second: u32,
    held: Mutex<Held>,
    /// Whoever holds this is next; tokio's mutex is first come, first served.
    turn: tokio::sync::Mutex<()>,
    /// Woken when a key comes, goes or changes its health, so that whoever waits looks again.
    changed: Notify,
    calls: AtomicU64,
    /// Answers 429.
    refusals: AtomicU64,
    latency: Mutex<LatencyWatch>,
    /// Set when the calls of a day are limited.
    allowance: OnceLock<DailyQuota>,
    /// When the first call began, and the last.
    window: Mutex<Option<(Instant, Instant)>>,
}

impl KeyPool {
    /// `cap_per_sec`: calls a second and key.
    pub fn new(clock: Arc<dyn Clock>, cap_per_sec: u32) -> Self {
        Self {
            clock,
            cap_per_second: cap_per_sec.max(1),
            held: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            calls: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            latency: Mutex::default(),
            allowance: OnceLock::new(),
            window: Mutex::default(),
        }
    }

    /// From now on no call begins that the day's limit does not grant.
    pub fn set_daily_quota(&self, allowance: DailyQuota) {
        // Set once a run, before its first call.
        let _ = self.allowance.set(allowance);
    }

    /// The limit of the day, if there is one.
    pub fn allowance(&self) -> Option<&DailyQuota> {
        self.allowance.get()
    }

    /// A slot was taken. `held_since`: both clocks read before it was asked for. Adding a held key renews its slot.
    pub fn add(&self, key: ApiKey, known_rate: Option<AimdState>, held_since: SlotStart, lifetime: Duration) {
        if self.held().get(key.fingerprint()).is_some() {
            return self.confirm(key.fingerprint(), held_since, lifetime);
        }
        let learner = Learner::new(self.cap_per_second.into(), known_rate, self.clock.wall());
        let held_key = HeldKey::new(key, self.cap_per_second, learner, held_since, lifetime);
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
            key.confirm(start, lifetime);
        }
        self.changed.notify_waiters();
    }

    /// The slot is not ours any more.
    pub fn lose(&self, fingerprint: &Fingerprint) {
        self.held().keys.retain(|key| key.key.fingerprint() != fingerprint);
        self.changed.notify_waiters();
    }

    /// Not to be used again in this run.
    pub fn bench(&self, fingerprint: &Fingerprint, reason: &str) {
        if let Some(key) = self.held().get(fingerprint) {
            key.health = Health::Benched { reason: reason.to_owned() };
        }
        self.changed.notify_waiters();
    }

    /// The API refused a call of this key (429): it cools down at once. Its rate gives way only when a second object meets
    /// the same, since one may have an answer of its own. Calls that were in flight together are refused together; that
    /// counts once. A second key refused within [`ADDRESS_SUSPICION`], with another object, lets all keys cool down.
    pub fn throttled(&self, fingerprint: &Fingerprint, rest: Duration, object: &ObjectId) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.boot();
        let mut held = self.held();
        let another_just_before =
            held.last_refused.replace((fingerprint.clone(), object.clone(), now)).is_some_and(|(key, other, at)| {
                key != *fingerprint && other != *object && now.saturating_sub(at) < ADDRESS_SUSPICION
            });
        let is_second =
            held.throttled.insert(fingerprint.clone(), object.clone()).is_some_and(|other| other != *object);
        if let Some(key) = held.get(fingerprint) {
            let gave_way_already = matches!(key.health, Health::Resting { until, gave_way: true, .. } if until > now);
            let gives_way = is_second && !gave_way_already;
            if gives_way {
                key.give_way(Cause::Throttled, rest, self.clock.wall());
            }
            key.rest(now + rest, "throttled", gives_way || gave_way_already);
        }
        if another_just_before {
            for key in &mut held.keys {
                key.rest(now + rest, "throttled by address", false);
            }
        }
        drop(held);
        self.changed.notify_waiters();
    }

    /// The API is in maintenance (503): every key comes back gently.
    pub fn maintained(&self) {
        let now = self.clock.wall();
        for key in &mut self.held().keys {
            key.give_way(Cause::Maintenance, Duration::ZERO, now);
        }
    }

    /// A call to this endpoint was answered, or given up, after so long. When answers become slow, all keys give way.
    pub(super) fn took(&self, endpoint: &Endpoint<'_>, took: Duration) {
        let mut latency = self.latency.lock();
        let Some(finding) = latency.took(endpoint.kind(), took, self.clock.boot()) else { return };
        drop(latency);
        let (now, before) = (self.clock.wall(), self.total_rate());
        for key in &mut self.held().keys {
            match finding {
                Finding::Slower { .. } => key.give_way(Cause::SlowAnswers, Duration::ZERO, now),
                Finding::Over => key.learner.settle(),
                Finding::NotUs { .. } => {
                    key.learner.restore(now);
                    key.limit.set_rate(key.learner.rate());
                }
            }
        }
        say(finding, before, self.total_rate());
        self.changed.notify_waiters();
    }

    /// Waits for the key that is free first. First come, first served.
    ///
    /// # Errors
    /// When nothing is free before `until`, as soon as that is known; when no key is usable, at once.
    pub async fn permit(&self, until: Instant) -> Result<Permit, NoPermit> {
        let _turn = timeout_at(until, self.turn.lock()).await.map_err(|_| NoPermit::Deadline)?;
        self.wait_for_the_day(until).await?;
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

    /// Waits until the limit of the day, if there is one, lets a call begin.
    async fn wait_for_the_day(&self, until: Instant) -> Result<(), NoPermit> {
        let Some(allowance) = self.daily_quota() else { return Ok(()) };
        match timeout_at(until, allowance.is_ready()).await {
            Ok(Spend::Exhausted) => Err(NoPermit::DailyQuotaExhausted),
            Ok(_) => Ok(()),
            Err(_) => Err(NoPermit::Deadline),
        }
    }

    /// Turns a permit into the header of a call, and counts the call. `None` when the permit lapsed: kept too long, the
    /// key rests by now, its slot is not certainly ours any more, or the day's limit does not grant it at this moment.
    pub(super) async fn begin(&self, permit: Permit) -> Option<(Begun<'_>, HeaderValue)> {
        if permit.granted.elapsed() > PERMIT_LIFE {
            return None;
        }
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let wait = match self.try_begin(&permit.key)? {
                Ok((number, bearer)) => {
                    let begun = Begun { key: permit.key, keys: self, number };
                    if self.daily_quota().is_some_and(|allowance| allowance.spend() != Spend::Granted) {
                        return None;
                    }
                    self.count_call();
                    return Some((begun, bearer));
                }
                Err(wait) => wait,
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    fn try_begin(&self, fingerprint: &Fingerprint) -> Option<Result<(CallNumber, HeaderValue), Duration>> {
        let mut held = self.held();
        let key = held.get(fingerprint).filter(|key| key.is_usable(&*self.clock))?;
        Some(key.limit.begin().map(|number| (number, key.bearer.clone())))
    }

    fn note(&self, fingerprint: &Fingerprint, of_a_call: impl FnOnce(&mut RateLimit)) {
        if let Some(key) = self.held().get(fingerprint) {
            of_a_call(&mut key.limit);
        }
        self.changed.notify_waiters();
    }

    fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        self.window.lock().get_or_insert((now, now)).1 = now;
    }

    /// How many keys could be called with now, were they free.
    pub fn usable(&self) -> usize {
        self.held().keys.iter().filter(|key| key.is_usable(&*self.clock)).count()
    }

    /// Answers 429 so far, whatever call they came to.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Calls begun so far.
    pub fn calls_made(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// From the beginning of the first call to the beginning of the last.
    pub fn calling_window(&self) -> Duration {
        let window = *self.window.lock();
        window.map_or(Duration::ZERO, |(first, last)| last.duration_since(first))
    }

    /// The rate of each held key.
    pub fn rates(&self) -> Vec<(Fingerprint, f64)> {
        self.held().keys.iter().map(|key| (key.key.fingerprint().clone(), key.limit.rate())).collect()
    }

    /// What the next run has to know about the rate of a held key, if anything.
    pub fn learned(&self, fingerprint: &Fingerprint) -> Option<AimdState> {
        self.held().get(fingerprint).and_then(|key| key.learner.learned())
    }

    /// The caps of the held keys together, in calls a second: what the use of the budget is measured against.
    pub fn cap_per_second(&self) -> f64 {
        self.held().keys.iter().map(|key| key.limit.cap()).sum()
    }

    /// What the usable keys allow now, in calls a second.
    pub fn total_rate(&self) -> f64 {
        self.held().keys.iter().filter(|key| key.is_usable(&*self.clock)).map(|key| key.limit.rate()).sum()
    }

    /// How many calls the usable keys and the day allow from now until then.
    pub fn calls_until(&self, until: Instant) -> usize {
        let time = until.saturating_duration_since(Instant::now());
        let by_rate: usize = self
            .held()
            .keys
            .iter()
            .filter(|key| key.is_usable(&*self.clock))
            .map(|key| key.limit.calls_within(time))
            .sum();
        let by_day = self.daily_quota().map_or(u64::MAX, DailyQuota::left);
        by_rate.min(usize::try_from(by_day).unwrap_or(usize::MAX))
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
                Some(Cooldown { key: key.key.fingerprint().clone(), reason: reason.clone(), remaining: None })
            }
            Health::Well | Health::Resting { .. } => None,
        };
        self.held().keys.iter().filter_map(rest).collect()
    }

    /// How long a slot has to live on, so that the fresh limiter of the key's next holder cannot add a burst to the calls
    /// of this run.
    pub fn linger(&self, fingerprint: &Fingerprint) -> Duration {
        self.held().get(fingerprint).map(|key| key.limit.linger()).unwrap_or_default()
    }

    fn take(&self) -> Taken {
        let wall = self.clock.wall();
        let mut held = self.held();
        let count = held.keys.len();
        let first = held.next;
        let mut soonest: Option<Duration> = None;
        for at in (0..count).map(|step| (first + step) % count) {
            let key = &mut held.keys[at];
            if !key.is_usable(&*self.clock) {
                continue;
            }
            key.step(wall);
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
        self.held.lock()
    }
}

enum Taken {
    Call(Fingerprint),
    Wait(Duration),
    NoUsableKey,
}

/// One line when the answers have become slow, and one when that is over.
fn say(finding: Finding, before: f64, now: f64) {
    match finding {
        Finding::Slower { usual, now: took } => warn!(
            usual_ms = usual.as_millis(),
            now_ms = took.as_millis(),
            "the API's answers take much longer than before: slower, from {before:.1} to {now:.1} calls a second"
        ),
        Finding::Over => {
            info!("the API's answers are as quick as before: the rate of {now:.1} calls a second rises again");
        }
        Finding::NotUs { now: took } => info!(
            now_ms = took.as_millis(),
            "the API's answers are no quicker with fewer calls: back to {now:.1} calls a second"
        ),
    }
}

impl fmt::Debug for KeyPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPool")
            .field("held", &self.fingerprints())
            .field("usable", &self.usable())
            .field("calls_made", &self.calls_made())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
