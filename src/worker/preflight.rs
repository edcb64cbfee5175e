//! The preflight of a drain: time, a key, calls of the day, and no open circuit of the API but one that this run may probe.

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    Worker,
    breaker::PROBE_INTERVAL,
    daily_quota,
    deadline::Deadline,
    halt::{Force, Halt},
    keys::{KeySlots, Taken},
    report::{StopReason, Tally},
};
use crate::{
    clock::ServerTime,
    queue::{Circuit, CircuitReason, CircuitScope, Queue, QueueError, SharedState},
    store::Store,
};

/// The checks before a drain.
#[derive(Debug)]
pub struct Preflight<'a, Q, S> {
    pub worker: &'a Worker<Q, S>,
    pub slots: &'a KeySlots<'a, Q>,
    pub time: &'a ServerTime,
    pub deadline: &'a Deadline,
    pub halt: &'a Halt,
    pub tally: &'a Mutex<Tally>,
}

impl<Q: Queue + SharedState, S: Store> Preflight<'_, Q, S> {
    /// Checks all, and repairs a stretch of the queue before anything is leased from it. Returns the open circuits. Whatever prevents
    /// the drain ends up in `halt`.
    pub async fn check(&self) -> Vec<Circuit> {
        let circuits = self.clear_to_start().await;
        self.tally.lock().report.keys_held = self.slots.keys().fingerprints().len() as u64;
        let circuits = match circuits {
            Ok(circuits) => circuits,
            Err(error) => {
                self.queue_down(&error);
                return Vec::new();
            }
        };
        if self.halt.reason().is_none()
            && let Err(error) = self.reconcile().await
        {
            self.queue_down(&error);
        }
        circuits
    }

    fn queue_down(&self, error: &QueueError) {
        self.halt.end(Force::StartNothing, StopReason::QueueDown, Some(error.to_string()));
    }

    fn turn_away(&self, reason: StopReason) {
        self.halt.end(Force::StartNothing, reason, None);
    }

    async fn reconcile(&self) -> Result<(), QueueError> {
        let repaired = self.worker.queue.reconcile(self.time.now()).await?;
        self.tally.lock().report.repaired.add(repaired);
        Ok(())
    }

    async fn clear_to_start(&self) -> Result<Vec<Circuit>, QueueError> {
        let Self { worker, slots, time, deadline, halt, .. } = self;
        if !deadline.may_lease(Instant::now()) {
            self.turn_away(StopReason::Deadline);
            return Ok(Vec::new());
        }
        // Before any key is taken: a run that may not call needs none.
        let mut circuits = worker.queue.circuits().await?;
        let api = Circuit::of_api(&circuits);
        if let Some(circuit) = api.filter(|circuit| time.now() < circuit.next_probe) {
            self.turn_away(reason_of(circuit));
            return Ok(Vec::new());
        }
        if !self.has_keys().await {
            return Ok(Vec::new());
        }
        let mut taken = slots.take().await?;
        if taken != Taken::Some && slots.is_logging_in() {
            // Another run saw the keys rejected and may have replaced them, so this run waits for a login. With a usable key it would
            // not wait.
            if !self.has_keys().await {
                return Ok(Vec::new());
            }
            taken = slots.take().await?;
        }
        match taken {
            Taken::Some => self.take_calls_of_the_day().await?,
            Taken::AllHeld => self.turn_away(StopReason::AlreadyRunning),
            Taken::AllCoolingDown => self.turn_away(StopReason::KeysCoolingDown),
        }
        if let Some(api) = circuits.iter_mut().find(|circuit| circuit.scope == CircuitScope::Api)
            && halt.reason().is_none()
        {
            let next_probe = time.now() + PROBE_INTERVAL;
            // Only one of the runs that start now wins the probe.
            if !worker.queue.claim_probe(api.scope, api.next_probe, next_probe).await? {
                self.turn_away(reason_of(api));
                return Ok(Vec::new());
            }
            api.next_probe = next_probe;
            debug!(reason = api.reason.code, "no calls to the API were made for a while; this run probes it");
        }
        Ok(circuits)
    }

    /// Takes a first block of calls. Without a call left of this day nothing is leased.
    async fn take_calls_of_the_day(&self) -> Result<(), QueueError> {
        let keys = self.slots.keys();
        let Some(quota) = keys.daily_quota() else { return Ok(()) };
        if !daily_quota::take_block(self.worker.queue.as_ref(), quota, keys).await? {
            self.turn_away(StopReason::DailyQuotaExhausted);
        }
        Ok(())
    }

    /// True when there is any key at all. Logs in when that can give some.
    async fn has_keys(&self) -> bool {
        let Self { worker, slots, deadline, halt, tally, .. } = self;
        let key_store = &worker.api.key_store;
        let mut failure = None;
        if key_store.needs_login() {
            let login = tokio::select! {
                login = slots.log_in(deadline.leasing_ends()) => login,
                // A login may take 40 s: longer than a sandbox has after SIGTERM.
                () = worker.stop.asked() => {
                    halt.end(Force::Abandon, StopReason::Shutdown, None);
                    return false;
                }
            };
            failure = login.failure();
            tally.lock().logged_in(login);
        }
        let has_keys = !key_store.keys().is_empty();
        match failure {
            Some(failure) if has_keys => warn!("going on without the keys of every account: {failure}"),
            Some(failure) => halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure)),
            None if !has_keys => {
                let failure = "there is no API key: neither configured nor from the developer portal".to_owned();
                halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure));
            }
            None => {}
        }
        has_keys
    }
}

/// The reason for which a run is turned away while the API's circuit is open and no probe is due.
fn reason_of(api: &Circuit) -> StopReason {
    if api.reason.code == CircuitReason::MAINTENANCE { StopReason::Maintenance } else { StopReason::CircuitOpen }
}
