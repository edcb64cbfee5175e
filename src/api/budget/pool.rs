//! The keys that this run holds: which of them may call next, and whether a call may still begin.
//!
//! The worker takes and renews the slots and reports them here. The client reports what the API says about a key. The pool
//! itself talks to nobody, and is shared by `Arc`.
//!
//! **Invariants.** No call begins on a key whose slot is not certainly ours, by boot time *and* by the wall clock. No call
//! begins on a permit older than [`PERMIT_LIFETIME`]. However late calls begin, no more of them begin in any second than
//! the cap allows.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use reqwest::header::HeaderValue;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{info, warn};

use super::{
    aimd::{Aimd, Cause},
    daily_quota::{DailyQuota, Spend},
    departure::Connects,
    latency::{Finding, LatencyWatch},
    limiter::{CallNumber, RateLimit},
    pooled_key::{Health, PooledKey, SlotStart},
};
use crate::{
    api::{endpoint::Endpoint, keys::ApiKey},
    clock::Clock,
    model::{AimdState, Fingerprint, ObjectId},
};

/// A permit that is kept for longer than this is void: the calls behind it would crowd.
const PERMIT_LIFETIME: Duration = Duration::from_millis(20);

/// Two keys throttled within this time point to a limit of our address rather than of the keys.
const ADDRESS_THROTTLE_WINDOW: Duration = Duration::from_secs(10);

/// The right to begin one call, on one key, now.
#[derive(Debug)]
#[must_use = "a permit that is not used at once is a call less"]
pub struct Permit {
    key: Fingerprint,
    granted: Instant,
}

/// The reason for which there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPermit {
    #[error("no call is free before the deadline")]
    Deadline,
    #[error("no key is usable: the run holds none, or all of them are cooling down")]
    NoUsableKey,
    #[error("the calls of this day are used up")]
    DailyQuotaExhausted,
}

/// A key that is cooling down, or rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cooldown {
    pub key: Fingerprint,
    pub reason: String,
    /// The time left; `None` for a rejected key, which this run does not use again.
    pub remaining: Option<Duration>,
}

/// The keys that this run holds.
pub struct KeyPool {
    clock: Arc<dyn Clock>,
    cap_per_second: u32,
    keys: Mutex<Keys>,
    /// Whoever holds this is next. The mutex of `tokio` is first come, first served.
    turn: tokio::sync::Mutex<()>,
    /// Notified when a key comes, goes or changes its health.
    changed: Notify,
    latency: Mutex<LatencyWatch>,
    /// Set when the calls of a day are limited.
    daily_quota: OnceLock<DailyQuota>,
    meter: Mutex<Meter>,
}

#[derive(Default)]
struct Keys {
    all: Vec<PooledKey>,
    /// The search for a free key begins here, so that all are used alike.
    next: usize,
    /// The last object that met a 429, by key; kept while the key is cooling down and is not held.
    throttled: BTreeMap<Fingerprint, ObjectId>,
    /// The last 429, with its boot time.
    last_throttled: Option<(Fingerprint, ObjectId, Duration)>,
}

impl Keys {
    fn get(&mut self, fingerprint: &Fingerprint) -> Option<&mut PooledKey> {
        self.all.iter_mut().find(|key| key.key.fingerprint() == fingerprint)
    }
}

/// The calls of the run so far.
#[derive(Clone, Copy, Default)]
struct Meter {
    calls: u64,
    /// Responses of status 429.
    throttled: u64,
    /// The beginnings of the first call and of the last.
    window: Option<(Instant, Instant)>,
}

impl KeyPool {
    /// An empty pool of keys that allow this many calls a second each.
    pub fn new(clock: Arc<dyn Clock>, cap_per_second: u32) -> Self {
        Self {
            clock,
            cap_per_second: cap_per_second.max(1),
            keys: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            latency: Mutex::default(),
            daily_quota: OnceLock::new(),
            meter: Mutex::default(),
        }
    }

    /// From now on no call begins that the daily quota does not grant.
    pub fn set_daily_quota(&self, quota: DailyQuota) {
        // Set once a run, before its first call.
        let _ = self.daily_quota.set(quota);
    }

    /// The daily quota, if there is one.
    pub fn daily_quota(&self) -> Option<&DailyQuota> {
        self.daily_quota.get()
    }

    /// Adds a key whose slot was taken. `start`: both clocks, read before the slot was asked for. A key that is held already
    /// only has its slot renewed.
    pub fn add(&self, key: ApiKey, known: Option<AimdState>, start: SlotStart, lifetime: Duration) {
        // A second limiter would add a burst.
        if self.keys().get(key.fingerprint()).is_some() {
            return self.confirm(key.fingerprint(), start, lifetime);
        }
        let aimd = Aimd::new(self.cap_per_second.into(), known, self.clock.wall());
        let key = PooledKey::new(key, self.cap_per_second, aimd, start, lifetime);
        self.keys().all.push(key);
        self.changed.notify_waiters();
    }

    /// All keys whose slots this run holds, whatever their health.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.keys().all.iter().map(|key| key.key.fingerprint().clone()).collect()
    }

    /// The slot was renewed. `start`: both clocks, read before the renewal was sent.
    pub fn confirm(&self, fingerprint: &Fingerprint, start: SlotStart, lifetime: Duration) {
        if let Some(key) = self.keys().get(fingerprint) {
            key.confirm(start, lifetime);
        }
        self.changed.notify_waiters();
    }

    /// The slot is not ours any more.
    pub fn lose(&self, fingerprint: &Fingerprint) {
        self.keys().all.retain(|key| key.key.fingerprint() != fingerprint);
        self.changed.notify_waiters();
    }

    /// The API refuses the key: this run does not use it again.
    pub fn reject(&self, fingerprint: &Fingerprint, reason: &str) {
        if let Some(key) = self.keys().get(fingerprint) {
            key.health = Health::Rejected { reason: reason.to_owned() };
        }
        self.changed.notify_waiters();
    }

    /// The API throttled a call of this key (429): the key cools down at once.
    ///
    /// Its rate is lowered only when a second object meets the same, since one object may have a response of its own. Calls
    /// that were in flight together are throttled together, and count once. When a second key is throttled within
    /// `ADDRESS_THROTTLE_WINDOW`, with another object, all keys cool down.
    pub fn throttled(&self, fingerprint: &Fingerprint, cooldown: Duration, object: &ObjectId) {
        self.meter().throttled += 1;
        let now = self.clock.boot();
        let until = now + cooldown;
        let mut keys = self.keys();
        let last = keys.last_throttled.replace((fingerprint.clone(), object.clone(), now));
        let another_just_before = last.is_some_and(|(key, other, at)| {
            key != *fingerprint && other != *object && now.saturating_sub(at) < ADDRESS_THROTTLE_WINDOW
        });
        let is_second =
            keys.throttled.insert(fingerprint.clone(), object.clone()).is_some_and(|other| other != *object);
        if let Some(key) = keys.get(fingerprint) {
            let did_already = matches!(key.health, Health::CoolingDown { until, backed_off: true, .. } if until > now);
            let backs_off = is_second && !did_already;
            if backs_off {
                key.back_off(Cause::Throttled, cooldown, self.clock.wall());
            }
            key.cool_down(until, "throttled", backs_off || did_already);
        }
        if another_just_before {
            for key in &mut keys.all {
                key.cool_down(until, "throttled by address", false);
            }
        }
        drop(keys);
        self.changed.notify_waiters();
    }

    /// The API is in maintenance (503): every key comes back gently.
    pub fn enter_maintenance(&self) {
        let now = self.clock.wall();
        for key in &mut self.keys().all {
            key.back_off(Cause::Maintenance, Duration::ZERO, now);
        }
    }

    /// Records the time that a call took. When responses have become slow, all keys back off.
    pub(in crate::api) fn record_latency(&self, endpoint: &Endpoint<'_>, took: Duration) {
        let mut latency = self.latency.lock();
        let Some(finding) = latency.record(endpoint.kind(), took, self.clock.boot()) else { return };
        // The keys are locked next: never two locks at once.
        drop(latency);
        let (now, before) = (self.clock.wall(), self.total_rate());
        for key in &mut self.keys().all {
            match finding {
                Finding::Slower { .. } => key.back_off(Cause::SlowResponses, Duration::ZERO, now),
                Finding::Over => key.aimd.keep(),
                Finding::NotUs { .. } => {
                    key.aimd.restore(now);
                    key.limit.set_rate(key.aimd.rate());
                }
            }
        }
        log_finding(finding, before, self.total_rate());
        self.changed.notify_waiters();
    }

    /// Waits for the key that is free first. First come, first served.
    ///
    /// # Errors
    /// When nothing is free before `until`, as soon as that is known; when no key is usable, at once.
    pub async fn permit(&self, until: Instant) -> Result<Permit, NoPermit> {
        let _turn = timeout_at(until, self.turn.lock()).await.map_err(|_| NoPermit::Deadline)?;
        self.wait_for_daily_quota(until).await?;
        loop {
            // Enabled before the keys are inspected: a change in between must not be missed.
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
                    // Another key may be free sooner, or this one may be lost.
                    () = changed => {}
                },
            }
        }
    }

    /// Waits until the daily quota, if there is one, lets a call begin.
    async fn wait_for_daily_quota(&self, until: Instant) -> Result<(), NoPermit> {
        let Some(quota) = self.daily_quota() else { return Ok(()) };
        match timeout_at(until, quota.is_ready()).await {
            Ok(Spend::Exhausted) => Err(NoPermit::DailyQuotaExhausted),
            Ok(_) => Ok(()),
            Err(_) => Err(NoPermit::Deadline),
        }
    }

    /// Turns a permit into the header of a call, and counts the call.
    ///
    /// `None` when the permit is void: it was kept too long, the key is cooling down by now, its slot is not certainly ours
    /// any more, or the daily quota does not grant the call at this moment.
    pub(in crate::api) async fn begin(&self, permit: Permit) -> Option<(Begun<'_>, HeaderValue)> {
        if permit.granted.elapsed() > PERMIT_LIFETIME {
            return None;
        }
        loop {
            // Enabled before the keys are inspected: a change in between must not be missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let wait = match self.try_begin(&permit.key)? {
                Ok((number, bearer)) => {
                    let begun = Begun { key: permit.key, pool: self, number };
                    if self.daily_quota().is_some_and(|quota| quota.spend() != Spend::Granted) {
                        return None;
                    }
                    self.count_call();
                    return Some((begun, bearer));
                }
                Err(wait) => wait,
            };
            tokio::select! {
                () = sleep(wait) => {}
                // An earlier call may have left, which makes room for this one.
                () = changed => {}
            }
        }
    }

    fn try_begin(&self, fingerprint: &Fingerprint) -> Option<Result<(CallNumber, HeaderValue), Duration>> {
        let mut keys = self.keys();
        let key = keys.get(fingerprint).filter(|key| key.is_usable(&*self.clock))?;
        Some(key.limit.begin().map(|number| (number, key.bearer.clone())))
    }

    /// Reports to a key's limiter when one of its calls left.
    fn report_departure(&self, fingerprint: &Fingerprint, report: impl FnOnce(&mut RateLimit)) {
        if let Some(key) = self.keys().get(fingerprint) {
            report(&mut key.limit);
        }
        self.changed.notify_waiters();
    }

    fn count_call(&self) {
        let now = Instant::now();
        let mut meter = self.meter();
        meter.calls += 1;
        meter.window.get_or_insert((now, now)).1 = now;
    }

    /// The number of keys that a call could use now, were they free.
    pub fn usable(&self) -> usize {
        self.keys().all.iter().filter(|key| key.is_usable(&*self.clock)).count()
    }

    /// Responses of status 429 so far, whatever became of their calls.
    pub fn refusals(&self) -> u64 {
        self.meter().throttled
    }

    /// Calls begun so far.
    pub fn calls_made(&self) -> u64 {
        self.meter().calls
    }

    /// The time from the beginning of the first call to the beginning of the last.
    pub fn calling_window(&self) -> Duration {
        self.meter().window.map_or(Duration::ZERO, |(first, last)| last.duration_since(first))
    }

    /// The rate of each held key.
    pub fn rates(&self) -> Vec<(Fingerprint, f64)> {
        self.keys().all.iter().map(|key| (key.key.fingerprint().clone(), key.limit.rate())).collect()
    }

    /// The AIMD state of a held key, as far as the next run has to know it.
    pub fn aimd_state(&self, fingerprint: &Fingerprint) -> Option<AimdState> {
        self.keys().get(fingerprint).and_then(|key| key.aimd.state())
    }

    /// The caps of the held keys together, in calls a second: the use of the budget is measured against this.
    pub fn cap_per_second(&self) -> f64 {
        self.keys().all.iter().map(|key| key.limit.cap()).sum()
    }

    /// The rate of the usable keys together, in calls a second.
    pub fn total_rate(&self) -> f64 {
        self.keys().all.iter().filter(|key| key.is_usable(&*self.clock)).map(|key| key.limit.rate()).sum()
    }

    /// The number of calls that the usable keys and the daily quota allow from now until then.
    pub fn calls_until(&self, until: Instant) -> usize {
        let time = until.saturating_duration_since(Instant::now());
        let by_rate: usize = self
            .keys()
            .all
            .iter()
            .filter(|key| key.is_usable(&*self.clock))
            .map(|key| key.limit.calls_within(time))
            .sum();
        let by_quota = self.daily_quota().map_or(u64::MAX, DailyQuota::left);
        by_rate.min(usize::try_from(by_quota).unwrap_or(usize::MAX))
    }

    /// The keys that are cooling down or rejected, so that their slots can be set aside for other runs too.
    pub fn cooldowns(&self) -> Vec<Cooldown> {
        let now = self.clock.boot();
        let cooldown = |key: &PooledKey| {
            let (reason, remaining) = match &key.health {
                Health::CoolingDown { until, reason, .. } if *until > now => (reason, Some(until.saturating_sub(now))),
                Health::Rejected { reason } => (reason, None),
                Health::Healthy | Health::CoolingDown { .. } => return None,
            };
            Some(Cooldown { key: key.key.fingerprint().clone(), reason: reason.clone(), remaining })
        };
        self.keys().all.iter().filter_map(cooldown).collect()
    }

    /// The time for which a released slot stays taken, so that the fresh limiter of the key's next holder cannot add a burst
    /// to the calls of this run.
    pub fn release_cooldown(&self, fingerprint: &Fingerprint) -> Duration {
        self.keys().get(fingerprint).map(|key| key.limit.release_cooldown()).unwrap_or_default()
    }

    fn take(&self) -> Taken {
        let wall = self.clock.wall();
        let mut keys = self.keys();
        let count = keys.all.len();
        let first = keys.next;
        let mut soonest: Option<Duration> = None;
        for at in (0..count).map(|step| (first + step) % count) {
            let key = &mut keys.all[at];
            if !key.is_usable(&*self.clock) {
                continue;
            }
            // A rate rises when the key is used, so that no timer is needed.
            key.step(wall);
            match key.limit.take() {
                Ok(()) => {
                    let fingerprint = key.key.fingerprint().clone();
                    // The next search begins behind this key.
                    keys.next = at + 1;
                    return Taken::Call(fingerprint);
                }
                Err(wait) => soonest = Some(soonest.map_or(wait, |other| other.min(wait))),
            }
        }
        soonest.map_or(Taken::NoUsableKey, Taken::Wait)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        // A panic while the lock was held leaves plain numbers behind, none of them half-written.
        self.keys.lock()
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock()
    }
}

enum Taken {
    Call(Fingerprint),
    Wait(Duration),
    NoUsableKey,
}

/// A call under way.
pub(in crate::api) struct Begun<'a> {
    pub(in crate::api) key: Fingerprint,
    pool: &'a KeyPool,
    number: CallNumber,
}

impl Begun<'_> {
    /// Reports to the limiter whenever the call may just have left, for as long as this is awaited.
    pub(in crate::api) async fn watch(&self, connects: &Connects) -> Infallible {
        connects.watch(|| self.pool.report_departure(&self.key, |limit| limit.left(self.number))).await
    }
}

impl Drop for Begun<'_> {
    /// Answered or given up: the call has left by now, or never will.
    fn drop(&mut self) {
        self.pool.report_departure(&self.key, |limit| limit.left_at_the_latest(self.number));
    }
}

/// Logs that responses have become slow, or that this is over.
fn log_finding(finding: Finding, before: f64, now: f64) {
    match finding {
        Finding::Slower { usual, now: took } => warn!(
            usual_ms = usual.as_millis(),
            now_ms = took.as_millis(),
            "the API's responses take much longer than before: slower, from {before:.1} to {now:.1} calls a second"
        ),
        Finding::Over => {
            info!("the API's responses are as quick as before: the rate of {now:.1} calls a second rises again");
        }
        Finding::NotUs { now: took } => info!(
            now_ms = took.as_millis(),
            "the API's responses are not quicker with fewer calls: back to {now:.1} calls a second"
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
