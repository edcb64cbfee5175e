//! The circuit breaker of a run: carries out the judge's findings. It opens and closes circuits, rejects keys, ends the run or part
//! of it, and shares all that with other runs through the queue.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::{
    classify::hold_code,
    context::RunContext,
    control::{ControlCalls, Made},
    halt::Force,
    report::StopReason,
};
use crate::{
    api::judge::{Decision, Judge, Scope, SharedJudge, Sign},
    clock::Timestamp,
    model::{EndpointKind, Fingerprint, Reason},
    queue::{Circuit, CircuitReason, CircuitScope, Queue, QueueError, SetAside, SharedState},
    store::Store,
};

/// The interval between two probes of what an open circuit is about, over all runs.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// The judge's scope of a circuit.
const fn judged(scope: CircuitScope) -> Scope {
    match scope {
        CircuitScope::Api => Scope::Api,
        CircuitScope::Endpoint(kind) => Scope::Endpoint(kind),
    }
}

/// The circuits of a run, and the judge that opens and closes them.
#[derive(Debug)]
pub struct Breaker<'a, Q, S> {
    ctx: &'a RunContext<'a, Q, S>,
    control: ControlCalls<'a, Q, S>,
    /// The open circuits, with the time of their next probe.
    circuits: Mutex<BTreeMap<CircuitScope, Timestamp>>,
    /// The API's circuit, if it was open when the run began: nothing but the probe is leased until the probe has its response.
    probing: Option<Circuit>,
    /// The API rejected a key in a way that may be about our address.
    is_forbidden: AtomicBool,
    /// Held by whoever carries out findings.
    turn: tokio::sync::Mutex<()>,
}

impl<'a, Q: Queue + SharedState, S: Store> Breaker<'a, Q, S> {
    /// `open` are the circuits that other runs have left open.
    pub fn new(ctx: &'a RunContext<'a, Q, S>, control: ControlCalls<'a, Q, S>, open: &[Circuit]) -> Self {
        for circuit in open {
            control.judge.update_quietly(|judge| judge.remember(judged(circuit.scope)));
        }
        Self {
            ctx,
            control,
            circuits: Mutex::new(open.iter().map(|circuit| (circuit.scope, circuit.next_probe)).collect()),
            probing: Circuit::of_api(open).cloned(),
            is_forbidden: AtomicBool::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    pub const fn judge(&self) -> &'a SharedJudge {
        self.control.judge
    }

    /// True when the API failed before this run, which may probe it.
    pub const fn is_probing(&self) -> bool {
        self.probing.is_some()
    }

    /// The names of the open circuits.
    pub fn open_circuits(&self) -> Vec<&'static str> {
        self.circuits.lock().keys().map(|scope| scope.as_str()).collect()
    }

    /// The reason for which a run ends when the queue is empty.
    pub fn end_of_work(&self) -> StopReason {
        if self.circuits.lock().is_empty() { StopReason::QueueEmpty } else { StopReason::CircuitOpen }
    }

    /// Probes the API with a control call: the requests that wait may be the very ones that are bad. `None` when there is no
    /// object for it, or no response.
    pub async fn probe_by_control(&self) -> Option<bool> {
        let made = self.control.call(&[EndpointKind::Player, EndpointKind::Clan, EndpointKind::CurrentWar]).await;
        (made == Made::Response).then(|| !self.judge().read(|judge| judge.is_convicted(&Scope::Api)))
    }

    /// Waits for the one request of a probe. A good response closes the circuit, a bad one ends the run; a request that needed no
    /// call shows nothing.
    pub async fn probe_answered(&self) -> bool {
        let flow = &self.ctx.flow;
        loop {
            flow.until(|counts| counts.open == counts.behind).await;
            if flow.counts().behind == 0 {
                break;
            }
            flow.now_those_behind();
            flow.until(|counts| counts.behind == 0).await;
        }
        let (fails, bads) = self.judge().read(|judge| (judge.is_convicted(&Scope::Api), judge.bad_count()));
        if fails && bads > 0 {
            self.probe_failed();
        }
        self.carry_out().await;
        !fails
    }

    /// Returns the probes that this run has claimed and not made, so that another run can make them.
    pub async fn return_unused_probes(&self) {
        let (mut unused, api_is_unused) = self.judge().read(|judge| {
            let no_response = judge.bad_count() + judge.good_count() == 0;
            (judge.unused_probes(), no_response && judge.is_convicted(&Scope::Api))
        });
        unused.extend(self.probing.as_ref().filter(|_| api_is_unused).map(|_| Scope::Api));
        let circuits: Vec<_> = self.circuits.lock().iter().map(|(scope, probe)| (*scope, *probe)).collect();
        for (scope, next_probe) in circuits.into_iter().filter(|(scope, _)| unused.contains(&judged(*scope))) {
            if let Err(error) = self.ctx.worker.queue.claim_probe(scope, next_probe, self.ctx.time.now()).await {
                warn!(error = %error, scope = %scope, "could not return a probe; the next is due in {} s", PROBE_INTERVAL.as_secs());
            }
        }
    }

    /// Ends the run when it has lost all keys and released a request. After the last lease nobody else notices that: the lease
    /// stage has stopped waiting for a key.
    pub fn end_if_keys_were_lost(&self) {
        let Self { ctx, .. } = self;
        if ctx.pool().usable() == 0 && !ctx.halt.is_forced() && ctx.tally.lock().released_any() {
            self.end_without_a_key();
        }
    }

    /// Ends the run because no key is usable, and none will be in time.
    pub fn end_without_a_key(&self) {
        if self.ctx.slots.next_recovery().is_some() {
            return self.ctx.halt.end(Force::StartNothing, StopReason::KeysCoolingDown, None);
        }
        let failure =
            "no API key is usable: the API rejected each (see `errors`), or its slot expired before it was renewed";
        let forbidden = "the API forbids every key (see `errors`): is our address banned, or have the keys expired?";
        let failure = if self.is_forbidden.load(Ordering::Relaxed) { forbidden } else { failure };
        self.ctx.halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure.to_owned()));
    }

    /// Carries out the judge's findings as they come. Never returns.
    pub async fn run(&self) {
        loop {
            self.judge().until(|judge| judge.has_decisions().then_some(())).await;
            self.carry_out().await;
        }
    }

    /// Carries out the judge's findings so far. True when requests may have become free by it.
    pub async fn carry_out(&self) -> bool {
        // A second caller may rely on findings that the first is carrying out, so it waits for the first to end.
        let _turn = self.turn.lock().await;
        let mut freed = false;
        for news in self.judge().update_quietly(Judge::take_decisions) {
            let done = match news {
                Decision::Convicted(Scope::Key(key), sign, reason) => self.key_is_rejected(&key, &sign, &reason).await,
                Decision::Convicted(Scope::Endpoint(kind), _, reason) => {
                    self.open_circuit(CircuitScope::Endpoint(kind), "failing", &reason).await
                }
                Decision::Convicted(Scope::Api, sign, reason) => self.api_fails(&sign, &reason).await,
                Decision::Acquitted(Scope::Key(_)) => Ok(()),
                Decision::Acquitted(Scope::Endpoint(kind)) => {
                    freed = true;
                    self.close_circuit(CircuitScope::Endpoint(kind)).await
                }
                Decision::Acquitted(Scope::Api) => {
                    freed = true;
                    self.close_circuit(CircuitScope::Api).await
                }
            };
            if let Err(error) = done {
                warn!(error = %error, "could not share with other runs what the API's responses showed");
            }
        }
        freed
    }

    /// The API rejects a key: this run and others go on without it.
    async fn key_is_rejected(&self, key: &Fingerprint, sign: &Sign, reason: &Reason) -> Result<(), QueueError> {
        if *sign == Sign::Forbidden {
            self.is_forbidden.store(true, Ordering::Relaxed);
        }
        self.ctx.pool().reject(key, &reason.detail);
        if self.ctx.pool().fingerprints().contains(key) {
            warn!(key.fingerprint = %key, detail = reason.detail, "the API rejects this key");
            self.ctx.tally.lock().error(format!("key {key}: {}", reason.detail));
        }
        self.ctx.slots.share_cooldowns().await
    }

    /// The API as a whole fails: the drain ends, and one run in 30 s probes.
    async fn api_fails(&self, sign: &Sign, reason: &Reason) -> Result<(), QueueError> {
        let code = if matches!(sign, Sign::Maintenance | Sign::Unavailable) {
            info!(
                detail = reason.detail,
                "the API is in maintenance; requests are released, and one probe is made every 30 s"
            );
            self.ctx.halt.end(Force::StartNothing, StopReason::Maintenance, None);
            CircuitReason::MAINTENANCE
        } else {
            self.api_is_unreachable(sign, reason);
            CircuitReason::UNREACHABLE
        };
        self.ctx.pool().enter_maintenance();
        self.open_circuit(CircuitScope::Api, code, reason).await
    }

    fn api_is_unreachable(&self, sign: &Sign, reason: &Reason) {
        let what = match sign {
            Sign::Foreign(_) => {
                "responses are not the API's own: is COC_BASE_URL right, and does no proxy respond in its place?"
            }
            _ => "calls get no good response.",
        };
        let failure = format!("{what} The last: {reason}. Nothing was counted against the requests");
        self.ctx.halt.end(Force::StartNothing, StopReason::ApiUnreachable, Some(failure));
    }

    /// Opens a circuit: for a while no calls of this scope are made, in this run and in others.
    async fn open_circuit(&self, scope: CircuitScope, code: &str, reason: &Reason) -> Result<(), QueueError> {
        let now = self.ctx.time.now();
        let next_probe = now + PROBE_INTERVAL;
        // Recorded in this run first, so that it leases no such request even when the queue does not respond.
        self.circuits.lock().insert(scope, next_probe);
        if let CircuitScope::Endpoint(kind) = scope {
            warn!(endpoint = %kind, detail = reason.detail, "calls to this endpoint fail; its requests wait, and one probe is made every 30 s");
            self.ctx.tally.lock().error(format!("endpoint {kind}: {reason}; its requests wait"));
        }
        let reason = CircuitReason::new(code, &reason.detail);
        self.ctx.worker.queue.open_circuit(&Circuit { scope, since: now, next_probe, reason }).await
    }

    /// Closes a circuit: its scope has good responses again, and its requests are free at once.
    async fn close_circuit(&self, scope: CircuitScope) -> Result<(), QueueError> {
        // The queue recognises the requests that were set aside by the time until which they wait.
        let set_aside_until = self.circuits.lock().remove(&scope);
        info!(scope = %scope, "a circuit is closed: calls have good responses again");
        let (queue, now) = (&self.ctx.worker.queue, self.ctx.time.now());
        queue.close_circuit(scope).await?;
        queue.lift_holds(now, hold_code(scope)).await?;
        if let (CircuitScope::Endpoint(endpoint), Some(until)) = (scope, set_aside_until) {
            queue.return_set_aside(now, endpoint.kind(), until).await?;
        }
        Ok(())
    }

    /// Ends the run because the API fails as it did before.
    pub fn probe_failed(&self) {
        let because = self.probing.as_ref().map(|circuit| &circuit.reason);
        match because {
            Some(reason) if reason.code != CircuitReason::MAINTENANCE => {
                let failure = format!("the API is still unreachable: {}", reason.detail);
                self.ctx.halt.end(Force::StartNothing, StopReason::ApiUnreachable, Some(failure));
            }
            _ => self.ctx.halt.end(Force::StartNothing, StopReason::Maintenance, None),
        }
    }

    /// The time of the next probe of a circuit that another run probes. `None`: that run has closed it, and it is closed here, too.
    async fn probe_elsewhere(&self, scope: CircuitScope) -> Result<Option<Timestamp>, QueueError> {
        let circuits = self.ctx.worker.queue.circuits().await?;
        if let Some(circuit) = circuits.iter().find(|circuit| circuit.scope == scope) {
            return Ok(Some(circuit.next_probe));
        }
        self.judge().update(|judge| judge.pardon(&judged(scope)));
        self.close_circuit(scope).await?;
        Ok(None)
    }

    /// The kinds of requests that may not be leased now. When the probe of a circuit is due, one run makes it.
    pub async fn kinds_set_aside(&self, now: Timestamp) -> Result<Vec<SetAside>, QueueError> {
        let open: Vec<_> = self.circuits.lock().iter().map(|(scope, probe)| (*scope, *probe)).collect();
        let mut kinds = Vec::new();
        for (scope, mut next_probe) in open {
            let CircuitScope::Endpoint(endpoint) = scope else { continue };
            let mut probes = 0;
            if now >= next_probe {
                let next = now + PROBE_INTERVAL;
                if self.ctx.worker.queue.claim_probe(scope, next_probe, next).await? {
                    next_probe = next;
                    self.judge().update(|judge| judge.allow_probe(endpoint));
                    // An object with a good response before is the better probe; without one it is a request that waits.
                    if self.control.call(&[endpoint]).await == Made::NoObject {
                        probes = 1;
                    } else if !self.judge().read(|judge| judge.is_convicted(&Scope::Endpoint(endpoint))) {
                        self.carry_out().await;
                        continue;
                    }
                } else if let Some(probe) = self.probe_elsewhere(scope).await? {
                    next_probe = probe;
                } else {
                    continue;
                }
                self.circuits.lock().insert(scope, next_probe);
            }
            // A war needs three endpoints; only the first of a kind sets the kind aside.
            let kind = endpoint.kind();
            if EndpointKind::of(kind) == endpoint {
                kinds.push(SetAside { kind, until: next_probe, probes });
            }
        }
        Ok(kinds)
    }
}
