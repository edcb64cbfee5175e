//! The key slots of one run: taken at its start, renewed while it goes on, released at its end. Talks to the queue's [`SharedState`] and to the
//! run's key pool.
//!
//! **Invariant: a key is used by one run at a time**, and only while its slot is certainly held.

use std::{collections::BTreeSet, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    cooldown::CooldownReason,
    login::{self, Login},
};
use crate::{
    api::{
        ApiKey, KeyStore,
        budget::{Cooldown, KeyPool, SlotStart},
    },
    clock::Clock,
    model::{AimdState, Fingerprint},
    queue::{QueueError, SharedState, Slot},
};

// Long enough that a slot outlasts a failover of Redis without being renewed, short enough that the key of a run that died is
// soon free.
const SLOT_LIFETIME: Duration = Duration::from_secs(15);

/// `SLOT_LIFETIME`, unless a test wants another.
pub fn slot_lifetime() -> Duration {
    #[cfg(feature = "failpoints")]
    if let Some(lifetime) = crate::failpoint::slot_lifetime() {
        return lifetime;
    }
    SLOT_LIFETIME
}

// A run that ends frees its slots within moments, so a slot that expires this soon is worth the wait.
const MAX_SLOT_WAIT: Duration = Duration::from_millis(120);

// Added to the wait for a slot, so that the slot is free by the queue's clock as well.
const SLOT_WAIT_MARGIN: Duration = Duration::from_millis(2);

// The requests with which a key was rejected may be to blame. The cooldown is shorter than the longest hold, so that these
// requests are still behind the others when the key is used again.
const REJECTED_COOLDOWN: Duration = Duration::from_secs(9 * 60);

// When taking the slot of a recovered key has no result, the next try is this much later.
const RECOVERY_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The result of taking slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// At least one key is ours.
    Some,
    /// All are in use by other runs.
    AllHeld,
    /// All cool down.
    AllCoolingDown,
}

/// A cooldown that other runs do not know of yet: the queue did not take it so far.
#[derive(Clone, Debug)]
struct Unshared {
    key: Fingerprint,
    reason: CooldownReason,
    until: Instant,
    learned: Option<AimdState>,
}

/// The terms on which a run holds slots.
#[derive(Clone, Copy, Debug)]
struct Terms<'a> {
    /// Names this attempt of a run, and no other.
    run: &'a str,
    lifetime: Duration,
    max_keys: usize,
}

/// The key slots of one run.
#[derive(Debug)]
pub struct KeySlots<'a, S> {
    slots: &'a S,
    clock: &'a dyn Clock,
    key_store: &'a KeyStore,
    keys: &'a KeyPool,
    terms: Terms<'a>,
    /// Keys that cool down, and when to ask for their slots again.
    cooling: Mutex<Vec<(ApiKey, Instant)>>,
    unshared: Mutex<Vec<Unshared>>,
    /// Keys that the API rejects, as this run or an earlier one saw, and that no login replaces.
    rejected: Mutex<BTreeSet<Fingerprint>>,
    /// True while a login is due or under way in the middle of the run.
    logging_in: watch::Sender<bool>,
}

impl<'a, S: SharedState> KeySlots<'a, S> {
    pub fn new(
        slots: &'a S,
        clock: &'a dyn Clock,
        key_store: &'a KeyStore,
        keys: &'a KeyPool,
        run: &'a str,
        lifetime: Duration,
        max_keys: Option<usize>,
    ) -> Self {
        Self {
            slots,
            clock,
            key_store,
            keys,
            terms: Terms { run, lifetime, max_keys: max_keys.unwrap_or(usize::MAX) },
            cooling: Mutex::default(),
            unshared: Mutex::default(),
            rejected: Mutex::default(),
            logging_in: watch::Sender::new(false),
        }
    }

    /// The lifetime of a slot that is not renewed.
    pub const fn lifetime(&self) -> Duration {
        self.terms.lifetime
    }

    /// The keys of this run.
    pub const fn keys(&self) -> &'a KeyPool {
        self.keys
    }

    /// Takes free slots, starting at a random key so that overlapping runs do not all ask for the same one first.
    pub async fn take(&self) -> Result<Taken, QueueError> {
        let held = self.keys.fingerprints();
        let mut keys = self.key_store.keys();
        // Until its cooldown is shared, the slot of a key is still ours, and would be taken again.
        let unshared: Vec<Fingerprint> = self.unshared.lock().iter().map(|unshared| unshared.key.clone()).collect();
        keys.retain(|key| !held.contains(key.fingerprint()) && !unshared.contains(key.fingerprint()));
        let first = if keys.is_empty() { 0 } else { fastrand::usize(..keys.len()) };
        let (mut held, mut cooling) = (0, 0);
        for key in keys.iter().cycle().skip(first).take(keys.len()) {
            if self.keys.usable() >= self.terms.max_keys {
                break;
            }
            match self.take_one(key).await? {
                Slot::Taken { .. } => {}
                Slot::Held { .. } => held += 1,
                Slot::CoolingDown { reason, for_another } => {
                    cooling += 1;
                    if !self.was_replaced(key, &reason) {
                        self.cool_until(key.clone(), Instant::now() + for_another);
                    }
                }
            }
        }
        Ok(match (self.keys.usable(), held, cooling) {
            (1.., ..) => Taken::Some,
            (0, 0, 1..) => Taken::AllCoolingDown,
            _ => Taken::AllHeld,
        })
    }

    /// A key of the portal that the API rejected in another run is replaced, as if it had been rejected here: waiting for
    /// the end of its cooldown would not help, and its replacement may be in the account already.
    fn was_replaced(&self, key: &ApiKey, reason: &str) -> bool {
        let CooldownReason::Rejected(detail) = CooldownReason::parse(reason) else { return false };
        self.reject(key.fingerprint(), &detail)
    }

    /// Records that the API rejects a key. True when a login replaces it.
    fn reject(&self, key: &Fingerprint, detail: &str) -> bool {
        let is_replaced = self.key_store.refuse(key, detail);
        if is_replaced {
            self.logging_in.send_replace(true);
        } else {
            self.rejected.lock().insert(key.clone());
        }
        is_replaced
    }

    /// The number of keys that the API rejects and that only a person can replace.
    pub fn rejected(&self) -> usize {
        self.rejected.lock().len()
    }

    /// True when the API rejects every key that there is: waiting brings none back.
    pub fn all_are_rejected(&self) -> bool {
        let (keys, rejected) = (self.key_store.keys(), self.rejected.lock());
        !keys.is_empty() && keys.iter().all(|key| rejected.contains(key.fingerprint()))
    }

    async fn take_one(&self, key: &ApiKey) -> Result<Slot, QueueError> {
        let mut slot = self.ask_for(key).await?;
        if let Slot::Held { for_another } = slot
            && for_another <= MAX_SLOT_WAIT
        {
            tokio::time::sleep(for_another + SLOT_WAIT_MARGIN).await;
            slot = self.ask_for(key).await?;
        }
        Ok(slot)
    }

    async fn ask_for(&self, key: &ApiKey) -> Result<Slot, QueueError> {
        let start = SlotStart::now(self.clock);
        failpoint!("slot.before_take");
        let slot = self.slots.take_key(key.fingerprint(), self.terms.run, self.terms.lifetime).await?;
        failpoint!("slot.after_take");
        if let Slot::Taken { aimd_state } = slot {
            self.keys.add(key.clone(), aimd_state, start, self.terms.lifetime);
            self.rejected.lock().remove(key.fingerprint());
        }
        Ok(slot)
    }

    /// Renews the slots we hold, and asks for those of recovered keys again.
    pub async fn renew(&self) -> Result<(), QueueError> {
        let shared = self.share().await;
        let held = self.keys.fingerprints();
        if !held.is_empty() {
            let start = SlotStart::now(self.clock);
            let ours = self.slots.renew_keys(&held, self.terms.run, self.terms.lifetime).await?;
            for (key, still_ours) in held.iter().zip(ours) {
                if still_ours {
                    self.keys.confirm(key, start, self.terms.lifetime);
                } else {
                    warn!(key.fingerprint = %key, "lost the slot of a key: another run may have it now");
                    self.keys.lose(key);
                    self.cool_key(key, self.terms.lifetime);
                }
            }
        }
        self.take_recovered().await?;
        shared
    }

    async fn take_recovered(&self) -> Result<(), QueueError> {
        let now = Instant::now();
        for key in self.recovered(now) {
            if self.keys.usable() >= self.terms.max_keys {
                break;
            }
            let slot = self.take_one(&key).await?;
            self.cooling.lock().retain(|(other, _)| other.fingerprint() != key.fingerprint());
            match slot {
                Slot::Taken { .. } => info!(key.fingerprint = %key.fingerprint(), "a key has cooled down"),
                Slot::CoolingDown { reason, .. } if self.was_replaced(&key, &reason) => {}
                Slot::Held { for_another } | Slot::CoolingDown { for_another, .. } => {
                    self.cool_until(key, now + for_another);
                }
            }
        }
        Ok(())
    }

    /// The keys whose cooldown is over. They stay in the list, a little later, until their slots are ours: a list that is empty
    /// meanwhile would look like the end of all keys.
    fn recovered(&self, now: Instant) -> Vec<ApiKey> {
        let mut cooling = self.cooling.lock();
        let recovered = cooling.iter_mut().filter(|(_, until)| *until <= now);
        recovered
            .map(|(key, until)| {
                *until = now + RECOVERY_RETRY_DELAY;
                key.clone()
            })
            .collect()
    }

    fn cool_until(&self, key: ApiKey, until: Instant) {
        let mut cooling = self.cooling.lock();
        cooling.retain(|(other, _)| other.fingerprint() != key.fingerprint());
        cooling.push((key, until));
    }

    fn cool_key(&self, key: &Fingerprint, cooldown: Duration) {
        if let Some(known) = self.key_store.keys().into_iter().find(|known| known.fingerprint() == key) {
            self.cool_until(known, Instant::now() + cooldown);
        }
    }

    /// The end of the first cooldown, if there is one.
    pub fn next_recovery(&self) -> Option<Instant> {
        self.cooling.lock().iter().map(|(_, until)| *until).min()
    }

    /// True when a key is neither lost nor rejected, or is about to be replaced.
    pub fn some_key_may_recover(&self) -> bool {
        let rejected = self.keys.cooldowns().iter().filter(|rest| rest.remaining.is_none()).count();
        self.keys.fingerprints().len() > rejected || self.is_about_to_log_in()
    }

    /// Shares the cooldowns of this run with other runs. A throttled key recovers at a lower rate; a rejected one is of no use to this run
    /// any more.
    pub async fn share_cooldowns(&self) -> Result<(), QueueError> {
        let rates = self.keys.rates();
        for Cooldown { key, reason, remaining } in self.keys.cooldowns() {
            let learned = self.keys.aimd_state(&key);
            let rate = rates.iter().find(|(other, _)| *other == key).map(|(_, rate)| *rate);
            let cooldown = remaining.unwrap_or(REJECTED_COOLDOWN);
            warn!(key.fingerprint = %key, reason, cooldown_seconds = cooldown.as_secs(), rate, "a key cools down");
            // Not ours any more, even if Redis does not take the cooldown: the slot of a key that cools down belongs to nobody.
            self.keys.lose(&key);
            if remaining.is_none() {
                self.reject(&key, &reason);
            }
            let until = Instant::now() + cooldown;
            let unshared = if remaining.is_none() {
                Unshared { key, reason: CooldownReason::Rejected(reason), until, learned: None }
            } else {
                self.cool_key(&key, cooldown);
                Unshared { key, reason: CooldownReason::Other(reason), until, learned }
            };
            self.unshared.lock().push(unshared);
        }
        self.share().await
    }

    /// Shares what other runs do not know yet. The cooldown goes first: a rate that is not remembered costs less.
    async fn share(&self) -> Result<(), QueueError> {
        loop {
            // Cloned, since no lock may be held while the queue is asked.
            let unshared = self.unshared.lock().first().cloned();
            let Some(Unshared { key, reason, until, learned }) = unshared else { return Ok(()) };
            let cooldown = until.saturating_duration_since(Instant::now());
            if !cooldown.is_zero() {
                self.slots.cool_down_key(&key, self.terms.run, &reason.to_string(), cooldown).await?;
            }
            if let Some(learned) = learned {
                self.slots.remember_rate(&key, learned).await?;
            }
            self.unshared.lock().retain(|other| (&other.key, other.until) != (&key, until));
        }
    }

    /// Logs in where keys are missing. Then the keys in use are those of the key store: replaced keys leave the rotation,
    /// and the slots of new ones are asked for.
    pub async fn log_in(&self, until: Instant) -> Login {
        let in_use = self.keys.fingerprints();
        let mut login = login::log_in(self.slots, self.key_store, self.clock, self.terms.run, until).await;
        if let Err(error) = self.use_stored_keys(&in_use).await {
            login.failures.push(error.to_string());
        }
        self.logging_in.send_replace(false);
        login
    }

    async fn use_stored_keys(&self, in_use: &[Fingerprint]) -> Result<(), QueueError> {
        let stored = self.key_store.keys();
        for key in in_use.iter().filter(|key| stored.iter().all(|known| known.fingerprint() != *key)) {
            let cooldown = self.keys.release_cooldown(key);
            self.keys.lose(key);
            self.slots.release_key(key, self.terms.run, cooldown).await?;
        }
        if !in_use.is_empty() || *self.logging_in.borrow() {
            self.take().await?;
        }
        Ok(())
    }

    /// Returns when a key that came from the portal was rejected.
    pub async fn login_is_due(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.logging_in.subscribe().wait_for(|due| *due).await;
    }

    pub fn is_logging_in(&self) -> bool {
        *self.logging_in.borrow()
    }

    /// Returns when no login is due or under way.
    pub async fn logged_in(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.logging_in.subscribe().wait_for(|due| !due).await;
    }

    /// True when a login goes on, or will: a key of the portal was rejected a moment ago, and its cooldown is about to be shared.
    pub fn is_about_to_log_in(&self) -> bool {
        let rejected =
            |cooldown: &Cooldown| cooldown.remaining.is_none() && self.key_store.is_from_portal(&cooldown.key);
        self.is_logging_in() || self.keys.cooldowns().iter().any(rejected)
    }

    /// Releases the slots, after the last call has ended. Each lives on for a moment, so that the fresh limiter of its next holder
    /// cannot add a burst. The right to a login that the run's end has cut off is released, too.
    pub async fn release(&self) -> Result<(), QueueError> {
        let shared = self.share().await;
        login::release_rights(self.slots, self.key_store, self.terms.run).await?;
        for key in self.keys.fingerprints() {
            let (cooldown, learned) = (self.keys.release_cooldown(&key), self.keys.aimd_state(&key));
            self.keys.lose(&key);
            if let Some(learned) = learned {
                self.slots.remember_rate(&key, learned).await?;
            }
            self.slots.release_key(&key, self.terms.run, cooldown).await?;
        }
        shared
    }
}
