//! The shared state in Redis. Everything ends by Redis's own clock.

use std::time::Duration;

use super::{
    RedisQueue,
    arguments::{Arguments, lifetime_millis},
    call::Call,
    scripts::{self, Keys},
};
use crate::{
    clock::Timestamp,
    model::AimdState,
    queue::{
        CALLS_LIFETIME, CIRCUIT_LIFETIME, CallsGranted, Circuit, CircuitReason, CircuitScope, Fingerprint, Holder,
        QueueError, RATE_LIFETIME, SharedState, Slot, SlotView,
    },
};

/// The prefix of the reason in the slot of a key that cools down.
pub(super) const COOLDOWN: &str = "cooldown:";

/// The prefix of the last run in the slot of a key that was just released.
pub(super) const RELEASED: &str = "released:";

/// A learned rate; `None` for a text that is not a rate above 0.
fn learned(text: &str) -> Option<AimdState> {
    text.parse().ok().filter(|learned: &AimdState| learned.rate.is_finite() && learned.rate > 0.0)
}

impl SharedState for RedisQueue {
    async fn take_key(&self, key: &Fingerprint, run: &str, lifetime: Duration) -> Result<Slot, QueueError> {
        let keys = [Keys::slot(&key.0), Keys::rate(&key.0), Keys::copies()];
        let mut arguments = Arguments::default();
        arguments.text(run).number(lifetime_millis(lifetime));
        let call = Call::Script(&scripts::TAKE_KEY, &keys, &arguments);
        let (taken, holder, left, rate): (bool, String, i64, String) = self.link.ask("taking a key slot", call).await?;
        // A slot taken twice by the same run is the repetition of a lost reply.
        if taken {
            return Ok(Slot::Taken { aimd_state: learned(&rate) });
        }
        let for_another = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        Ok(match holder.strip_prefix(COOLDOWN) {
            Some(reason) => Slot::CoolingDown { reason: reason.to_owned(), for_another },
            None => Slot::Held { for_another },
        })
    }

    async fn renew_keys(&self, keys: &[Fingerprint], run: &str, lifetime: Duration) -> Result<Vec<bool>, QueueError> {
        // The script needs at least one key.
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<String> = keys.iter().map(|key| Keys::slot(&key.0)).chain([Keys::copies()]).collect();
        let mut arguments = Arguments::default();
        arguments.text(run).number(lifetime_millis(lifetime));
        self.link.ask("renewing key slots", Call::Script(&scripts::RENEW_KEYS, &keys, &arguments)).await
    }

    async fn cool_down_key(
        &self,
        key: &Fingerprint,
        run: &str,
        reason: &str,
        cooldown: Duration,
    ) -> Result<(), QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(run).text(&format!("{COOLDOWN}{reason}")).number(lifetime_millis(cooldown));
        let keys = [Keys::slot(&key.0), Keys::copies()];
        let _: i64 =
            self.link.ask("setting a key's cooldown", Call::Script(&scripts::COOL_DOWN_KEY, &keys, &arguments)).await?;
        Ok(())
    }

    async fn release_key(&self, key: &Fingerprint, run: &str, after_use: Duration) -> Result<(), QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(run).text(&format!("{RELEASED}{run}")).number(lifetime_millis(after_use));
        let keys = [Keys::slot(&key.0), Keys::copies()];
        let call = Call::Script(&scripts::RELEASE_KEY, &keys, &arguments);
        let _: i64 = self.link.ask("releasing a key slot", call).await?;
        Ok(())
    }

    async fn remember_rate(&self, key: &Fingerprint, learned: AimdState) -> Result<(), QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(&learned.to_string()).number(lifetime_millis(RATE_LIFETIME));
        let keys = [Keys::rate(&key.0)];
        let call = Call::Script(&scripts::REMEMBER_RATE, &keys, &arguments);
        let _: i64 = self.link.ask("keeping a rate", call).await?;
        Ok(())
    }

    async fn look_at_key(&self, key: &Fingerprint) -> Result<SlotView, QueueError> {
        let keys = [Keys::slot(&key.0), Keys::rate(&key.0), Keys::copies()];
        let call = Call::Script(&scripts::LOOK_AT_KEY, &keys, &Arguments::default());
        let (holder, left, rate): (String, i64, String) = self.link.ask("reading a key slot", call).await?;
        let holder = match (holder.as_str(), holder.strip_prefix(COOLDOWN)) {
            ("", _) => Holder::Nobody,
            (_, Some(reason)) => Holder::CoolingDown(reason.to_owned()),
            (holder, None) if holder.starts_with(RELEASED) => Holder::Released,
            (holder, None) => Holder::Run(holder.to_owned()),
        };
        let for_another = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        Ok(SlotView { holder, for_another, aimd_state: learned(&rate) })
    }

    async fn end_cooldown(&self, key: &Fingerprint) -> Result<bool, QueueError> {
        let keys = [Keys::slot(&key.0), Keys::copies()];
        self.link.ask("ending a cooldown", Call::Script(&scripts::END_COOLDOWN, &keys, &Arguments::default())).await
    }

    async fn take_calls(&self, day: Timestamp, wanted: u64, per_day: u64) -> Result<CallsGranted, QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(&per_day.to_string()).text(&wanted.to_string()).number(lifetime_millis(CALLS_LIFETIME));
        let keys = [Keys::calls(day), Keys::copies()];
        // Not repeated: the block of a first try whose reply was lost would be lost to the day.
        let (granted, taken) =
            self.link.run("taking calls of the day", Call::Script(&scripts::TAKE_CALLS, &keys, &arguments)).await?;
        Ok(CallsGranted { granted, taken })
    }

    async fn return_calls(&self, day: Timestamp, calls: u64) -> Result<(), QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(&calls.to_string());
        let keys = [Keys::calls(day), Keys::copies()];
        let call = Call::Script(&scripts::RETURN_CALLS, &keys, &arguments);
        // Not repeated: a second return would give the day calls that were already made.
        let _: i64 = self.link.run("returning calls of the day", call).await?;
        Ok(())
    }

    async fn calls_taken(&self, day: Timestamp) -> Result<u64, QueueError> {
        let keys = [Keys::calls(day), Keys::copies()];
        let call = Call::Script(&scripts::CALLS_TAKEN, &keys, &Arguments::default());
        self.link.ask("reading the calls of the day", call).await
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, QueueError> {
        let keys = CircuitScope::ALL.map(Keys::circuit);
        let call = Call::Script(&scripts::CIRCUITS, &keys, &Arguments::default());
        let rows: Vec<(usize, i64, i64, String, String)> = self.link.ask("reading the circuits", call).await?;
        let circuit = |(at, since, next_probe, code, detail): (usize, _, _, _, _)| {
            let scope = *CircuitScope::ALL.get(at.checked_sub(1)?)?;
            let (since, next_probe) = (Timestamp::from_millis(since), Timestamp::from_millis(next_probe));
            Some(Circuit { scope, since, next_probe, reason: CircuitReason { code, detail } })
        };
        Ok(rows.into_iter().filter_map(circuit).collect())
    }

    async fn open_circuit(&self, circuit: &Circuit) -> Result<(), QueueError> {
        let mut arguments = Arguments::default();
        arguments.number(circuit.since.as_millis()).number(circuit.next_probe.as_millis());
        arguments.number(lifetime_millis(CIRCUIT_LIFETIME)).text(&circuit.reason.code).text(&circuit.reason.detail);
        let keys = [Keys::circuit(circuit.scope)];
        let call = Call::Script(&scripts::OPEN_CIRCUIT, &keys, &arguments);
        let _: i64 = self.link.ask("opening a circuit", call).await?;
        Ok(())
    }

    async fn claim_probe(&self, scope: CircuitScope, seen: Timestamp, next: Timestamp) -> Result<bool, QueueError> {
        let mut arguments = Arguments::default();
        arguments.number(seen.as_millis()).number(next.as_millis()).number(lifetime_millis(CIRCUIT_LIFETIME));
        let keys = [Keys::circuit(scope)];
        // Not repeated: a second try would find the probe claimed by the first.
        self.link.run("claiming the probe", Call::Script(&scripts::CLAIM_PROBE, &keys, &arguments)).await
    }

    async fn close_circuit(&self, scope: CircuitScope) -> Result<(), QueueError> {
        let mut command = ::redis::cmd("DEL");
        command.arg(Keys::circuit(scope));
        let _: i64 = self.link.ask("closing a circuit", Call::Command(&command)).await?;
        Ok(())
    }
}
