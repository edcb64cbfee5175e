//! The shared state in this process. Everything ends by boot time.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::MutexGuard;

use super::MemoryQueue;
use crate::{
    clock::Timestamp,
    model::AimdState,
    queue::{
        CALLS_LIFETIME, CIRCUIT_LIFETIME, CallsGranted, Circuit, CircuitScope, Fingerprint, Holder as Shown,
        QueueError, RATE_LIFETIME, SharedState, Slot, SlotView,
    },
};

/// The shared state, each value with the boot time at which it ends.
#[derive(Debug, Default)]
pub(super) struct Shared {
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
    /// The run has released the slot, which is not free yet.
    Released,
    CoolingDown(String),
}

impl MemoryQueue {
    /// The values that have not ended, and boot time.
    fn shared(&self) -> (MutexGuard<'_, Shared>, Duration) {
        let now = self.clock.boot();
        let mut shared = self.shared.lock();
        shared.slots.retain(|_, slot| slot.at_boot > now);
        shared.rates.retain(|_, rate| rate.at_boot > now);
        shared.calls.retain(|_, taken| taken.at_boot > now);
        shared.circuits.retain(|_, circuit| circuit.at_boot > now);
        (shared, now)
    }
}

impl Shared {
    fn slot_of(&mut self, key: &Fingerprint, run: &str) -> Option<&mut Ending<Holder>> {
        self.slots.get_mut(key).filter(|slot| matches!(&slot.value, Holder::Run(holder) if holder == run))
    }
}

impl SharedState for MemoryQueue {
    async fn take_key(&self, key: &Fingerprint, run: &str, lifetime: Duration) -> Result<Slot, QueueError> {
        let (mut shared, now) = self.shared();
        let ours = shared.slot_of(key, run).is_some();
        if let Some(slot) = shared.slots.get(key).filter(|_| !ours) {
            let for_another = slot.at_boot.saturating_sub(now);
            return Ok(match &slot.value {
                Holder::CoolingDown(reason) => Slot::CoolingDown { reason: reason.clone(), for_another },
                Holder::Run(_) | Holder::Released => Slot::Held { for_another },
            });
        }
        let slot = Ending { value: Holder::Run(run.to_owned()), at_boot: now + lifetime };
        shared.slots.insert(key.clone(), slot);
        Ok(Slot::Taken { aimd_state: shared.rates.get(key).map(|rate| rate.value) })
    }

    async fn renew_keys(&self, keys: &[Fingerprint], run: &str, lifetime: Duration) -> Result<Vec<bool>, QueueError> {
        let (mut shared, now) = self.shared();
        let mut renew = |key| {
            let slot = shared.slot_of(key, run);
            slot.map(|slot| slot.at_boot = now + lifetime).is_some()
        };
        Ok(keys.iter().map(&mut renew).collect())
    }

    async fn cool_down_key(
        &self,
        key: &Fingerprint,
        run: &str,
        reason: &str,
        cooldown: Duration,
    ) -> Result<(), QueueError> {
        let (mut shared, now) = self.shared();
        if let Some(slot) = shared.slots.get_mut(key) {
            let may = match &slot.value {
                Holder::Run(holder) => holder == run,
                // A later refusal may lengthen the cooldown, never shorten it.
                Holder::CoolingDown(_) => slot.at_boot < now + cooldown,
                // The run no longer owns the slot.
                Holder::Released => false,
            };
            if may {
                *slot = Ending { value: Holder::CoolingDown(reason.to_owned()), at_boot: now + cooldown };
            }
        }
        Ok(())
    }

    async fn release_key(&self, key: &Fingerprint, run: &str, after_use: Duration) -> Result<(), QueueError> {
        let (mut shared, now) = self.shared();
        if let Some(slot) = shared.slot_of(key, run) {
            *slot = Ending { value: Holder::Released, at_boot: now + after_use };
        }
        Ok(())
    }

    async fn remember_rate(&self, key: &Fingerprint, learned: AimdState) -> Result<(), QueueError> {
        let (mut shared, now) = self.shared();
        shared.rates.insert(key.clone(), Ending { value: learned, at_boot: now + RATE_LIFETIME });
        Ok(())
    }

    async fn look_at_key(&self, key: &Fingerprint) -> Result<SlotView, QueueError> {
        let (shared, now) = self.shared();
        let slot = shared.slots.get(key);
        let holder = match slot.map(|slot| &slot.value) {
            None => Shown::Nobody,
            Some(Holder::Run(run)) => Shown::Run(run.clone()),
            Some(Holder::Released) => Shown::Released,
            Some(Holder::CoolingDown(reason)) => Shown::CoolingDown(reason.clone()),
        };
        let for_another = slot.map_or(Duration::ZERO, |slot| slot.at_boot.saturating_sub(now));
        let aimd_state = shared.rates.get(key).map(|rate| rate.value);
        Ok(SlotView { holder, for_another, aimd_state })
    }

    async fn end_cooldown(&self, key: &Fingerprint) -> Result<bool, QueueError> {
        let (mut shared, _) = self.shared();
        let is_cooling_down = shared.slots.get(key).is_some_and(|slot| matches!(slot.value, Holder::CoolingDown(_)));
        if is_cooling_down {
            shared.slots.remove(key);
        }
        Ok(is_cooling_down)
    }

    async fn take_calls(&self, day: Timestamp, wanted: u64, per_day: u64) -> Result<CallsGranted, QueueError> {
        let (mut shared, now) = self.shared();
        let taken = shared.calls.entry(day).or_insert(Ending { value: 0, at_boot: now });
        let granted = wanted.min(per_day.saturating_sub(taken.value));
        *taken = Ending { value: taken.value + granted, at_boot: now + CALLS_LIFETIME };
        Ok(CallsGranted { granted, taken: taken.value })
    }

    async fn return_calls(&self, day: Timestamp, calls: u64) -> Result<(), QueueError> {
        let (mut shared, _) = self.shared();
        if let Some(taken) = shared.calls.get_mut(&day) {
            taken.value = taken.value.saturating_sub(calls);
        }
        Ok(())
    }

    async fn calls_taken(&self, day: Timestamp) -> Result<u64, QueueError> {
        Ok(self.shared().0.calls.get(&day).map_or(0, |taken| taken.value))
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, QueueError> {
        Ok(self.shared().0.circuits.values().map(|circuit| circuit.value.clone()).collect())
    }

    async fn open_circuit(&self, circuit: &Circuit) -> Result<(), QueueError> {
        let (mut shared, now) = self.shared();
        let mut value = circuit.clone();
        if let Some(Ending { value: earlier, .. }) = shared.circuits.get(&circuit.scope) {
            // The outage began with the first opening.
            value.since = earlier.since;
            value.next_probe = earlier.next_probe.max(circuit.next_probe);
        }
        shared.circuits.insert(circuit.scope, Ending { value, at_boot: now + CIRCUIT_LIFETIME });
        Ok(())
    }

    async fn claim_probe(&self, scope: CircuitScope, seen: Timestamp, next: Timestamp) -> Result<bool, QueueError> {
        let (mut shared, _) = self.shared();
        match shared.circuits.get_mut(&scope) {
            Some(Ending { value, .. }) if value.next_probe == seen => {
                value.next_probe = next;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn close_circuit(&self, scope: CircuitScope) -> Result<(), QueueError> {
        self.shared().0.circuits.remove(&scope);
        Ok(())
    }
}
