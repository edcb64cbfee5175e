//! The keys of one run: slots taken at its start, renewed while it goes on, given back at its end. Talks to the queue's
//! [`Slots`] and to the keys' limiters.
//!
//! **Invariant: a key is used by one run at a time**, and only while its slot is certainly held.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tracing::warn;

use super::login::{self, Told};

use crate::{
    api::{
        ApiKey, Wallet,
        run_keys::{Rest, RunKeys, SlotStart},
    },
    clock::Clock,
    model::{Fingerprint, LearnedRate},
    queue::{QueueError, Slot, Slots},
};

/// How long a slot lasts unless it is renewed, which is done every third of it. Long enough for a server that fails over,
/// short enough that the key of a run that died is soon free.
const SLOT_LIFETIME: Duration = Duration::from_secs(15);

/// `SLOT_LIFETIME`, unless a test wants another.
pub fn slot_lifetime() -> Duration {
    #[cfg(feature = "failpoints")]
    if let Some(lifetime) = crate::failpoint::slot_lifetime() {
        return lifetime;
    }
    SLOT_LIFETIME
}

/// A slot that another run is just leaving is worth this short wait.
const WORTH_WAITING: Duration = Duration::from_millis(120);

/// A key that the API does not accept rests this long before another run tries it: less than the longest hold, so that the
/// requests it was refused with are then still behind the others, should they have been to blame.
const REJECTED_REST: Duration = Duration::from_secs(9 * 60);

/// How long the answer to asking for a rested key's slot is waited for before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Stands before the reason when a key rests because the API does not accept it.
pub const BENCHED: &str = "benched: ";

/// What taking the slots came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// At least one key is ours.
    Some,
    /// All are in use by other runs.
    AllHeld,
    /// All rest after refusals.
    AllPaused,
}

/// A rest that begins, as other runs are told of it.
#[derive(Clone, Debug)]
struct Untold {
    key: Fingerprint,
    reason: String,
    until: Instant,
    learned: Option<LearnedRate>,
}

/// The key slots of one run.
#[derive(Debug)]
pub struct KeyRing<'a, S> {
    slots: &'a S,
    clock: &'a dyn Clock,
    wallet: &'a Wallet,
    keys: &'a RunKeys,
    /// Names this attempt of a run, and no other.
    run: &'a str,
    lifetime: Duration,
    wanted: usize,
    /// Keys that rest, and when to ask for their slots again.
    resting: Mutex<Vec<(ApiKey, Instant)>>,
    /// What other runs have yet to hear of: the queue did not take it so far.
    untold: Mutex<Vec<Untold>>,
    /// Whether a login is due or under way in the middle of the run.
    logging_in: watch::Sender<bool>,
}

impl<'a, S: Slots> KeyRing<'a, S> {
    pub fn new(
        slots: &'a S,
        clock: &'a dyn Clock,
        wallet: &'a Wallet,
        keys: &'a RunKeys,
        run: &'a str,
        lifetime: Duration,
        wanted: Option<usize>,
    ) -> Self {
        let wanted = wanted.unwrap_or(usize::MAX);
        Self {
            slots,
            clock,
            wallet,
            keys,
            run,
            lifetime,
            wanted,
            resting: Mutex::default(),
            untold: Mutex::default(),
            logging_in: watch::Sender::new(false),
        }
    }

    /// How long a slot lasts unless it is renewed.
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The keys of this run.
    pub const fn keys(&self) -> &'a RunKeys {
        self.keys
    }

    /// Takes free slots, starting at a random key so that overlapping runs do not all ask for the same one first.
    pub async fn take(&self) -> Result<Taken, QueueError> {
        let held = self.keys.fingerprints();
        let mut keys = self.wallet.keys();
        // Whose rest is not known elsewhere yet has a slot that is still ours, and would be taken again.
        let untold: Vec<Fingerprint> = self.untold().iter().map(|untold| untold.key.clone()).collect();
        keys.retain(|key| !held.contains(key.fingerprint()) && !untold.contains(key.fingerprint()));
        let first = if keys.is_empty() { 0 } else { fastrand::usize(..keys.len()) };
        let (mut held, mut paused) = (0, 0);
        for key in keys.iter().cycle().skip(first).take(keys.len()) {
            if self.keys.usable() >= self.wanted {
                break;
            }
            match self.take_one(key).await? {
                Slot::Taken { .. } => {}
                Slot::Held { .. } => held += 1,
                Slot::Paused { reason, for_another } => {
                    paused += 1;
                    if !self.was_replaced(key, &reason) {
                        self.rest_until(key.clone(), Instant::now() + for_another);
                    }
                }
            }
        }
        Ok(match (self.keys.usable(), held, paused) {
            (1.., ..) => Taken::Some,
            (0, 0, 1..) => Taken::AllPaused,
            _ => Taken::AllHeld,
        })
    }

    /// A key of the portal that the API refused to another run is replaced, as if it had been refused here: waiting for
    /// the end of its rest would not help, and its replacement may be in the account already.
    fn was_replaced(&self, key: &ApiKey, reason: &str) -> bool {
        let refused = reason.strip_prefix(BENCHED).is_some_and(|detail| self.wallet.refuse(key.fingerprint(), detail));
        if refused {
            self.logging_in.send_replace(true);
        }
        refused
    }

    async fn take_one(&self, key: &ApiKey) -> Result<Slot, QueueError> {
        let mut answer = self.ask_for(key).await?;
        if let Slot::Held { for_another } = answer
            && for_another <= WORTH_WAITING
        {
            tokio::time::sleep(for_another + Duration::from_millis(2)).await;
            answer = self.ask_for(key).await?;
        }
        Ok(answer)
    }

    async fn ask_for(&self, key: &ApiKey) -> Result<Slot, QueueError> {
        let start = SlotStart::now(self.clock);
        failpoint!("slot.before_take");
        let answer = self.slots.take_key(key.fingerprint(), self.run, self.lifetime).await?;
        failpoint!("slot.after_take");
        if let Slot::Taken { learned_rate } = answer {
            self.keys.add(key.clone(), learned_rate, start, self.lifetime);
        }
        Ok(answer)
    }

    /// Renews the slots we hold, and asks again for those whose rest is over.
    pub async fn renew(&self) -> Result<(), QueueError> {
        let told = self.tell().await;
        let held = self.keys.fingerprints();
        if !held.is_empty() {
            let start = SlotStart::now(self.clock);
            let ours = self.slots.renew_keys(&held, self.run, self.lifetime).await?;
            for (key, still_ours) in held.iter().zip(ours) {
                if still_ours {
                    self.keys.confirm(key, start, self.lifetime);
                } else {
                    warn!(key.fingerprint = %key, "lost the slot of a key: another run may have it now");
                    self.keys.lose(key);
                    self.rest_key(key, self.lifetime);
                }
            }
        }
        self.take_rested().await?;
        told
    }

    async fn take_rested(&self) -> Result<(), QueueError> {
        let now = Instant::now();
        for key in self.due(now) {
            if self.keys.usable() >= self.wanted {
                break;
            }
            let answer = self.take_one(&key).await?;
            self.resting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|(other, _)| other.fingerprint() != key.fingerprint());
            match answer {
                Slot::Taken { .. } => {
                    tracing::info!(key.fingerprint = %key.fingerprint(), "a key is back from its rest");
                }
                Slot::Paused { reason, .. } if self.was_replaced(&key, &reason) => {}
                Slot::Held { for_another } | Slot::Paused { for_another, .. } => {
                    self.rest_until(key, now + for_another);
                }
            }
        }
        Ok(())
    }

    /// Keys whose rest is over. They stay in the list, a little later, until their slots are ours: a list that is empty
    /// meanwhile would look like the end of all keys.
    fn due(&self, now: Instant) -> Vec<ApiKey> {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let due = resting.iter_mut().filter(|(_, back)| *back <= now);
        due.map(|(key, back)| {
            *back = now + ASK_AGAIN;
            key.clone()
        })
        .collect()
    }

    fn rest_until(&self, key: ApiKey, back: Instant) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|(other, _)| other.fingerprint() != key.fingerprint());
        resting.push((key, back));
    }

    fn rest_key(&self, key: &Fingerprint, rest: Duration) {
        if let Some(known) = self.wallet.keys().into_iter().find(|known| known.fingerprint() == key) {
            self.rest_until(known, Instant::now() + rest);
        }
    }

    /// When the first resting key comes back, if one does.
    pub fn next_back(&self) -> Option<Instant> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, back)| *back).min()
    }

    /// The API refused calls: what rests in this run rests for other runs too. A key that was throttled comes back
    /// slower; one that is not accepted is of no use to this run any more.
    pub async fn share_rests(&self) -> Result<(), QueueError> {
        let rates = self.keys.rates();
        for Rest { key, reason, remaining } in self.keys.resting() {
            let learned = self.keys.learned(&key);
            let rate = rates.iter().find(|(other, _)| *other == key).map(|(_, rate)| *rate);
            let rest = remaining.unwrap_or(REJECTED_REST);
            warn!(key.fingerprint = %key, reason, rest_seconds = rest.as_secs(), rate, "the API refused a call: the key rests");
            // Ours no more, whether or not Redis hears of it: a paused slot is nobody's.
            self.keys.lose(&key);
            if remaining.is_none() && self.wallet.refuse(&key, &reason) {
                self.logging_in.send_replace(true);
            }
            let until = Instant::now() + rest;
            let untold = if remaining.is_none() {
                Untold { key, reason: format!("{BENCHED}{reason}"), until, learned: None }
            } else {
                self.rest_key(&key, rest);
                Untold { key, reason, until, learned }
            };
            self.untold().push(untold);
        }
        self.tell().await
    }

    /// Tells other runs what they have yet to hear of. The rest goes first: a rate that is not remembered costs less.
    async fn tell(&self) -> Result<(), QueueError> {
        loop {
            let Some(Untold { key, reason, until, learned }) = self.untold().first().cloned() else { return Ok(()) };
            let rest = until.saturating_duration_since(Instant::now());
            if !rest.is_zero() {
                self.slots.pause_key(&key, self.run, &reason, rest).await?;
            }
            if let Some(learned) = learned {
                self.slots.remember_rate(&key, learned).await?;
            }
            self.untold().retain(|other| (&other.key, other.until) != (&key, until));
        }
    }

    fn untold(&self) -> MutexGuard<'_, Vec<Untold>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs in where keys are missing. Then the keys in use are those of the wallet: what was replaced leaves the rotation,
    /// and the slots of what came new are asked for.
    pub async fn log_in(&self, until: Instant) -> Told {
        let in_use = self.keys.fingerprints();
        let mut told = login::log_in(self.slots, self.wallet, self.clock, self.run, until).await;
        if let Err(error) = self.use_what_there_is(&in_use).await {
            told.failures.push(error.to_string());
        }
        self.logging_in.send_replace(false);
        told
    }

    async fn use_what_there_is(&self, in_use: &[Fingerprint]) -> Result<(), QueueError> {
        let there_are = self.wallet.keys();
        for key in in_use.iter().filter(|key| there_are.iter().all(|known| known.fingerprint() != *key)) {
            let linger = self.keys.linger(key);
            self.keys.lose(key);
            self.slots.give_back_key(key, self.run, linger).await?;
        }
        if !in_use.is_empty() || *self.logging_in.borrow() {
            self.take().await?;
        }
        Ok(())
    }

    /// Returns when a key that came from the portal was refused.
    pub async fn login_is_due(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.logging_in.subscribe().wait_for(|due| *due).await;
    }

    pub fn is_logging_in(&self) -> bool {
        *self.logging_in.borrow()
    }

    /// Returns when no login is due or under way any more.
    pub async fn logged_in(&self) {
        let _ = self.logging_in.subscribe().wait_for(|due| !due).await;
    }

    /// A key of the portal was refused a moment ago, and whoever was refused is about to say so.
    pub fn is_about_to_log_in(&self) -> bool {
        let benched = |rest: &Rest| rest.remaining.is_none() && self.wallet.came_from_the_portal(&rest.key);
        self.is_logging_in() || self.keys.resting().iter().any(benched)
    }

    /// Gives the slots back, after the last call has ended. Each lives on for a moment, so that a new
    /// holder's fresh limiter cannot add a burst. With them goes the right to a login that the run's end has cut off.
    pub async fn give_back(&self) -> Result<(), QueueError> {
        let told = self.tell().await;
        login::give_back_right(self.slots, self.wallet, self.run).await?;
        for key in self.keys.fingerprints() {
            let (linger, learned) = (self.keys.linger(&key), self.keys.learned(&key));
            self.keys.lose(&key);
            if let Some(learned) = learned {
                self.slots.remember_rate(&key, learned).await?;
            }
            self.slots.give_back_key(&key, self.run, linger).await?;
        }
        told
    }
}
