//! Key slots, learned rates, counts of days and open circuits in this process. They end by boot time.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use super::MemoryQueue;
use crate::{
    clock::Timestamp,
    model::AimdState,
    queue::{
        CALLS_LIFETIME, CallsGranted, Circuit, CircuitScope, Fingerprint, Holder as Shown, PAUSE_LIFETIME, QueueError,
        RATE_LIFETIME, Slot, SlotView, Slots,
    },
};

/// What overlapping runs agree on, each with the boot time at which it ends.
#[derive(Debug, Default)]
pub(super) struct Agreements {
    slots: BTreeMap<Fingerprint, Ending<Holder>>,
    rates: BTreeMap<Fingerprint, Ending<AimdState>>,
    calls: BTreeMap<Timestamp, Ending<u64>>,
    circuits: BTreeMap<CircuitScope, Ending<Circuit>>,
}

#[derive(Debug)]
struct Ending<T> {
    value: T,
    at_boot: Duration,
}

#[derive(Debug, PartialEq)]
enum Holder {
    Run(String),
    /// The run has left; the slot lingers.
    Left,
    Paused(String),
}

impl MemoryQueue {
    /// The agreements that still hold, and boot time.
    fn agreements(&self) -> (MutexGuard<'_, Agreements>, Duration) {
        let now = self.clock.boot();
        let mut agreements = self.agreements.lock().unwrap_or_else(PoisonError::into_inner);
        agreements.slots.retain(|_, slot| slot.at_boot > now);
        agreements.rates.retain(|_, rate| rate.at_boot > now);
        agreements.calls.retain(|_, taken| taken.at_boot > now);
        agreements.circuits.retain(|_, circuit| circuit.at_boot > now);
        (agreements, now)
    }
}

impl Agreements {
    fn slot_of(&mut self, key: &Fingerprint, run: &str) -> Option<&mut Ending<Holder>> {
        self.slots.get_mut(key).filter(|slot| matches!(&slot.value, Holder::Run(holder) if holder == run))
    }
}

impl Slots for MemoryQueue {
    async fn take_key(&self, key: &Fingerprint, run: &str, lifetime: Duration) -> Result<Slot, QueueError> {
        let (mut agreements, now) = self.agreements();
        let ours = agreements.slot_of(key, run).is_some();
        if let Some(slot) = agreements.slots.get(key).filter(|_| !ours) {
            let for_another = slot.at_boot.saturating_sub(now);
            return Ok(match &slot.value {
                Holder::Paused(reason) => Slot::Paused { reason: reason.clone(), for_another },
                Holder::Run(_) | Holder::Left => Slot::Held { for_another },
            });
        }
        let slot = Ending { value: Holder::Run(run.to_owned()), at_boot: now + lifetime };
        agreements.slots.insert(key.clone(), slot);
        Ok(Slot::Taken { aimd_state: agreements.rates.get(key).map(|rate| rate.value) })
    }

    async fn renew_keys(&self, keys: &[Fingerprint], run: &str, lifetime: Duration) -> Result<Vec<bool>, QueueError> {
        let (mut agreements, now) = self.agreements();
        let mut renew = |key| {
            let slot = agreements.slot_of(key, run);
            slot.map(|slot| slot.at_boot = now + lifetime).is_some()
        };
        Ok(keys.iter().map(&mut renew).collect())
    }

    async fn pause_key(&self, key: &Fingerprint, run: &str, reason: &str, rest: Duration) -> Result<(), QueueError> {
        let (mut agreements, now) = self.agreements();
        if let Some(slot) = agreements.slots.get_mut(key) {
            let may = match &slot.value {
                Holder::Run(holder) => holder == run,
                Holder::Paused(_) => slot.at_boot < now + rest,
                Holder::Left => false,
            };
            if may {
                *slot = Ending { value: Holder::Paused(reason.to_owned()), at_boot: now + rest };
            }
        }
        Ok(())
    }

    async fn give_back_key(&self, key: &Fingerprint, run: &str, linger: Duration) -> Result<(), QueueError> {
        let (mut agreements, now) = self.agreements();
        if let Some(slot) = agreements.slot_of(key, run) {
            *slot = Ending { value: Holder::Left, at_boot: now + linger };
        }
        Ok(())
    }

    async fn remember_rate(&self, key: &Fingerprint, learned: AimdState) -> Result<(), QueueError> {
        let (mut agreements, now) = self.agreements();
        agreements.rates.insert(key.clone(), Ending { value: learned, at_boot: now + RATE_LIFETIME });
        Ok(())
    }

    async fn look_at_key(&self, key: &Fingerprint) -> Result<SlotView, QueueError> {
        let (agreements, now) = self.agreements();
        let slot = agreements.slots.get(key);
        let holder = match slot.map(|slot| &slot.value) {
            None => Shown::Nobody,
            Some(Holder::Run(run)) => Shown::Run(run.clone()),
            Some(Holder::Left) => Shown::Left,
            Some(Holder::Paused(reason)) => Shown::Paused(reason.clone()),
        };
        let for_another = slot.map_or(Duration::ZERO, |slot| slot.at_boot.saturating_sub(now));
        let aimd_state = agreements.rates.get(key).map(|rate| rate.value);
        Ok(SlotView { holder, for_another, aimd_state })
    }

    async fn end_rest(&self, key: &Fingerprint) -> Result<bool, QueueError> {
        let (mut agreements, _) = self.agreements();
        let rests = agreements.slots.get(key).is_some_and(|slot| matches!(slot.value, Holder::Paused(_)));
        if rests {
            agreements.slots.remove(key);
        }
        Ok(rests)
    }

    async fn take_calls(&self, day: Timestamp, wanted: u64, per_day: u64) -> Result<CallsGranted, QueueError> {
        let (mut agreements, now) = self.agreements();
        let taken = agreements.calls.entry(day).or_insert(Ending { value: 0, at_boot: now });
        let granted = wanted.min(per_day.saturating_sub(taken.value));
        *taken = Ending { value: taken.value + granted, at_boot: now + CALLS_LIFETIME };
        Ok(CallsGranted { granted, taken: taken.value })
    }

    async fn give_back_calls(&self, day: Timestamp, calls: u64) -> Result<(), QueueError> {
        let (mut agreements, _) = self.agreements();
        if let Some(taken) = agreements.calls.get_mut(&day) {
            taken.value = taken.value.saturating_sub(calls);
        }
        Ok(())
    }

    async fn calls_taken(&self, day: Timestamp) -> Result<u64, QueueError> {
        Ok(self.agreements().0.calls.get(&day).map_or(0, |taken| taken.value))
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, QueueError> {
        Ok(self.agreements().0.circuits.values().map(|circuit| circuit.value.clone()).collect())
    }

    async fn open_circuit(&self, circuit: &Circuit) -> Result<(), QueueError> {
        let (mut agreements, now) = self.agreements();
        let mut value = circuit.clone();
        if let Some(Ending { value: earlier, .. }) = agreements.circuits.get(&circuit.scope) {
            value.since = earlier.since;
            value.next_probe = earlier.next_probe.max(circuit.next_probe);
        }
        agreements.circuits.insert(circuit.scope, Ending { value, at_boot: now + PAUSE_LIFETIME });
        Ok(())
    }

    async fn claim_probe(&self, scope: CircuitScope, seen: Timestamp, next: Timestamp) -> Result<bool, QueueError> {
        let (mut agreements, _) = self.agreements();
        match agreements.circuits.get_mut(&scope) {
            Some(Ending { value, .. }) if value.next_probe == seen => {
                value.next_probe = next;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn close_circuit(&self, scope: CircuitScope) -> Result<(), QueueError> {
        self.agreements().0.circuits.remove(&scope);
        Ok(())
    }
}
