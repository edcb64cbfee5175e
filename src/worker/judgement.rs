//! Carries out what the judge finds: circuits opened and closed, keys rejected, control calls made. Ends the run or part of
//! it, and lets other runs know through the queue's keys.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    commit::How,
    drain::{Drain, PROBE_INTERVAL, lock},
    flow::Behind,
    halt::Force,
    report::StopReason,
};
use crate::{
    api::{
        client::Ask,
        judge::{Accusation, Judge, News, Ruling, Scope, Sign},
    },
    clock::Timestamp,
    model::{EndpointKind, Fingerprint, FollowUp, Reason},
    queue::{Circuit, CircuitReason, CircuitScope, Lease, Queue, QueueError, SetAside, Slots},
    store::Store,
};

/// How long a request waits for a ruling before a control call is wanted, and then once more before it is returned.
const RULING_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that was held this often in a row for a 429, which no other object met, has an answer of its own.
const THROTTLED_ALONE: u32 = 2;

/// The reason code of a request that is held because its key met a 429.
const THROTTLED: &str = "throttled";

/// How long the next control call waits after one that no key could make.
const UNHEARD_WAIT: Duration = Duration::from_millis(200);

/// What came of a control call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// It was answered, well or badly.
    Heard,
    /// No key could make it, it met a 429, or was cut off.
    Unheard,
    /// There is no object that was answered well.
    NoObject,
}

/// The circuits that are open, with the time of their next probe.
pub type Circuits = BTreeMap<CircuitScope, Timestamp>;

/// The reason code of requests that are held because a scope fails.
const fn hold_code(scope: CircuitScope) -> &'static str {
    match scope {
        CircuitScope::Api => "api_fails",
        CircuitScope::Endpoint(EndpointKind::Clan) => "clan_fails",
        CircuitScope::Endpoint(EndpointKind::Player) => "player_fails",
        CircuitScope::Endpoint(EndpointKind::CurrentWar) => "current_war_fails",
        CircuitScope::Endpoint(EndpointKind::LeagueGroup) => "league_group_fails",
        CircuitScope::Endpoint(EndpointKind::LeagueWar) => "league_war_fails",
    }
}

/// The scope of the judge that a circuit is about.
pub const fn judged(scope: CircuitScope) -> Scope {
    match scope {
        CircuitScope::Api => Scope::Api,
        CircuitScope::Endpoint(kind) => Scope::Endpoint(kind),
    }
}

impl<Q: Queue + Slots, S: Store> Drain<'_, Q, S> {
    /// Waits until it is known whose fault an answer is, within limits.
    pub async fn ruling(&self, accusation: &Accusation) -> Ruling {
        let ruling = self.bench.ruling(accusation);
        let in_time = async {
            tokio::time::sleep(RULING_TIMEOUT).await;
            self.bench.tell(|judge| judge.is_overdue(accusation));
            tokio::time::sleep(2 * RULING_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            ruling = ruling => ruling,
            () = self.halt.forced(Force::StartNothing) => self.bench.look(|judge| judge.ruling(accusation)).unwrap_or(Ruling::Unknown),
            () = in_time => Ruling::Unknown,
            () = tokio::time::sleep_until(self.deadline.calls_end()) => Ruling::Unknown,
        }
    }

    /// How a request ends that is not at fault itself.
    pub fn returned(ruling: &Ruling, reason: &Reason) -> How {
        let code = match ruling {
            Ruling::Wider(Scope::Api) => hold_code(CircuitScope::Api),
            Ruling::Wider(Scope::Endpoint(kind)) => hold_code(CircuitScope::Endpoint(*kind)),
            Ruling::Wider(Scope::Key(_)) => "key_rejected",
            Ruling::Unknown | Ruling::CallAgain | Ruling::Object => "undecided",
        };
        How::Held(Reason::new(code, reason.detail.clone()))
    }

    /// A request whose endpoint's circuit is open.
    pub fn set_aside(endpoint: EndpointKind) -> How {
        let code = hold_code(CircuitScope::Endpoint(endpoint));
        How::Held(Reason::new(code, format!("calls to the endpoint `{endpoint}` fail")))
    }

    /// Lets other runs know of keys that cool down, whichever call met the 429.
    pub async fn share_cooldowns(&self) {
        if self.keys.resting().is_empty() {
            return;
        }
        if let Err(error) = self.ring.share_rests().await {
            warn!(error = %error, "could not let other runs know that a key cools down");
        }
    }

    /// An object met a 429. Returns whether for the first time in this run. The probe of an API that failed has had its turn.
    pub async fn throttled(&self, lease: &Lease) -> bool {
        self.share_cooldowns().await;
        let is_first = lock(&self.throttled).insert(lease.object.clone());
        is_first && !self.bench.look(|judge| judge.is_convicted(&Scope::Api))
    }

    /// Waits until everything else that this run can call was called, so that an object which alone meets 429 does not keep
    /// the others from their key. False when there is no time for another call.
    pub async fn until_others_are_called(&self, behind: &Behind<'_>) -> bool {
        tokio::select! {
            () = behind.has_its_turn() => true,
            () = self.halt.forced(Force::StartNothing) => false,
            () = tokio::time::sleep_until(self.deadline.leasing_ends()) => false,
        }
    }

    pub fn throttled_because(key: &Fingerprint, rest: Duration) -> Reason {
        Reason::new(THROTTLED, format!("429 on key {key}, which cools down for {} s", rest.as_secs()))
    }

    /// An object met a 429, and is not called again in this run: it is held, so that others come first. When it is the only
    /// one that meets this, twice in each of several runs, it is its own answer.
    pub fn throttled_for_good(
        &self,
        lease: &Lease,
        key: &Fingerprint,
        rest: Duration,
        is_first: bool,
        next_look: Option<FollowUp>,
    ) -> How {
        let reason = Self::throttled_because(key, rest);
        let is_alone = !is_first && lock(&self.throttled).len() == 1;
        let was_before = lease.held_for.as_deref() == Some(THROTTLED) && lease.held >= THROTTLED_ALONE;
        if is_alone && was_before { How::Failed(reason, next_look) } else { How::Held(reason) }
    }

    /// Makes the control calls that the judge wants.
    pub async fn make_control_calls(&self) {
        loop {
            let control = self.bench.until(Judge::control).await;
            let made = tokio::select! {
                made = self.control(&control.endpoints) => made,
                () = self.halt.forced(Force::StartNothing) => Made::Unheard,
            };
            if made == Made::Unheard && self.keys.usable() == 0 {
                self.bench.tell(Judge::control_is_unheard);
                // Whether a key comes back in time is seen to where requests are leased.
                tokio::time::sleep(UNHEARD_WAIT).await;
            } else {
                self.bench.tell(Judge::control_is_done);
            }
        }
    }

    /// One call of an object that used to be answered well, at the first of these endpoints for which there is one.
    async fn control(&self, endpoints: &[EndpointKind]) -> Made {
        for endpoint in endpoints {
            // Which league war could be asked for is not known.
            if *endpoint == EndpointKind::LeagueWar {
                continue;
            }
            let limit = self.deadline.left_for_the_database(Instant::now());
            let but = self.bench.look(Judge::accused);
            let object = match self.worker.store.answered_well(endpoint.kind(), &but, self.time.now(), limit).await {
                Ok(Some(object)) => object,
                Ok(None) => continue,
                Err(error) => {
                    warn!(error = %error, "could not look for an object for a control call");
                    return Made::NoObject;
                }
            };
            let ask = Ask {
                object: &object,
                league: None,
                first_permit: None,
                keys: self.keys,
                bench: &self.bench,
                time: self.time,
                until: self.deadline.calls_end(),
                quick_tries: 0,
                earlier: None,
            };
            let heard = |judge: &Judge| judge.goods() + judge.bads();
            let before = self.bench.look(heard);
            let calls = self.worker.api.control(ask, *endpoint).await;
            lock(self.tally).control_calls += u64::from(calls);
            self.share_cooldowns().await;
            return if self.bench.look(heard) > before { Made::Heard } else { Made::Unheard };
        }
        Made::NoObject
    }

    /// Probes the API with a control call: the requests that wait may be the very ones that are bad. `None` when there is no
    /// object for one, or nothing was heard.
    pub async fn probe_by_control(&self) -> Option<bool> {
        let made = self.control(&[EndpointKind::Player, EndpointKind::Clan, EndpointKind::CurrentWar]).await;
        (made == Made::Heard).then(|| !self.bench.look(|judge| judge.is_convicted(&Scope::Api)))
    }

    /// Carries out what the judge has found, until the run ends.
    pub async fn keep_carrying_out(&self) {
        loop {
            self.bench.until(|judge| judge.has_news().then_some(())).await;
            self.carry_out().await;
        }
    }

    /// Carries out what the judge has found so far. True when requests may have become free by it.
    pub async fn carry_out(&self) -> bool {
        // Whoever comes second waits for the first to be through.
        let _turn = self.carrying_out.lock().await;
        let mut freed = false;
        for news in self.bench.note(Judge::take_news) {
            let done = match news {
                News::Convicted(Scope::Key(key), sign, reason) => self.key_is_rejected(&key, &sign, &reason).await,
                News::Convicted(Scope::Endpoint(kind), _, reason) => {
                    self.open_circuit(CircuitScope::Endpoint(kind), "failing", &reason).await
                }
                News::Convicted(Scope::Api, sign, reason) => self.api_fails(&sign, &reason).await,
                News::Acquitted(Scope::Key(_)) => Ok(()),
                News::Acquitted(Scope::Endpoint(kind)) => {
                    freed = true;
                    self.close_circuit(CircuitScope::Endpoint(kind)).await
                }
                News::Acquitted(Scope::Api) => {
                    freed = true;
                    self.close_circuit(CircuitScope::Api).await
                }
            };
            if let Err(error) = done {
                warn!(error = %error, "could not let other runs know what the API's answers showed");
            }
        }
        freed
    }

    /// The API does not accept a key: this run and others go on without it.
    async fn key_is_rejected(&self, key: &Fingerprint, sign: &Sign, reason: &Reason) -> Result<(), QueueError> {
        if *sign == Sign::Forbidden {
            self.is_forbidden.store(true, Ordering::Relaxed);
        }
        self.keys.bench(key, &reason.detail);
        if self.keys.fingerprints().contains(key) {
            warn!(key.fingerprint = %key, detail = reason.detail, "the API does not accept this key");
            let mut tally = lock(self.tally);
            tally.error(format!("key {key}: {}", reason.detail));
            tally.keys_rejected += u64::from(!self.worker.wallet.came_from_the_portal(key));
        }
        self.ring.share_rests().await
    }

    /// The API as a whole fails: the drain ends, and one run in 30 s probes.
    async fn api_fails(&self, sign: &Sign, reason: &Reason) -> Result<(), QueueError> {
        let code = if matches!(sign, Sign::Maintenance | Sign::Unavailable) {
            info!(
                detail = reason.detail,
                "the API is in maintenance; requests are returned, and one probe is made every 30 s"
            );
            self.halt.end(Force::StartNothing, StopReason::Maintenance, None);
            CircuitReason::MAINTENANCE
        } else {
            self.api_is_unreachable(sign, reason);
            CircuitReason::UNREACHABLE
        };
        self.keys.maintained();
        self.open_circuit(CircuitScope::Api, code, reason).await
    }

    fn api_is_unreachable(&self, sign: &Sign, reason: &Reason) {
        let what = match sign {
            Sign::Foreign(_) => {
                "none of the answers is the API's own: is COC_BASE_URL right, and does no proxy answer in its place?"
            }
            _ => "no call succeeded.",
        };
        let failure = format!("{what} The last: {reason}. Nothing was counted against the requests");
        self.halt.end(Force::StartNothing, StopReason::ApiUnreachable, Some(failure));
    }

    /// Calls of this scope would be in vain for a while, in this run and in others.
    async fn open_circuit(&self, scope: CircuitScope, code: &str, reason: &Reason) -> Result<(), QueueError> {
        let now = self.time.now();
        let next_probe = now + PROBE_INTERVAL;
        lock(&self.circuits).insert(scope, next_probe);
        if let CircuitScope::Endpoint(kind) = scope {
            warn!(endpoint = %kind, detail = reason.detail, "calls to this endpoint fail; its requests wait, and one probe is made every 30 s");
            lock(self.tally).error(format!("endpoint {kind}: {reason}; its requests wait"));
        }
        let reason = CircuitReason::new(code, &reason.detail);
        self.worker.queue.open_circuit(&Circuit { scope, since: now, next_probe, reason }).await
    }

    /// A scope answers well again, and its requests are free at once.
    async fn close_circuit(&self, scope: CircuitScope) -> Result<(), QueueError> {
        let set_aside_until = lock(&self.circuits).remove(&scope);
        info!(scope = %scope, "a circuit is closed: it answers well again");
        let (queue, now) = (&self.worker.queue, self.time.now());
        queue.close_circuit(scope).await?;
        queue.lift_holds(now, hold_code(scope)).await?;
        if let (CircuitScope::Endpoint(endpoint), Some(until)) = (scope, set_aside_until) {
            queue.return_set_aside(now, endpoint.kind(), until).await?;
        }
        Ok(())
    }

    /// The probe of an API that failed was answered badly: nothing has changed.
    pub fn probe_failed(&self) {
        let because = self.probing.as_ref().map(|circuit| &circuit.reason);
        match because {
            Some(reason) if reason.code != CircuitReason::MAINTENANCE => {
                let failure = format!("the API is still unreachable: {}", reason.detail);
                self.halt.end(Force::StartNothing, StopReason::ApiUnreachable, Some(failure));
            }
            _ => self.halt.end(Force::StartNothing, StopReason::Maintenance, None),
        }
    }

    /// When a circuit that another run probes is probed next. `None`: that run has closed it, and here it is closed, too.
    async fn probe_elsewhere(&self, scope: CircuitScope) -> Result<Option<Timestamp>, QueueError> {
        let circuits = self.worker.queue.circuits().await?;
        if let Some(circuit) = circuits.iter().find(|circuit| circuit.scope == scope) {
            return Ok(Some(circuit.next_probe));
        }
        self.bench.tell(|judge| judge.pardon(&judged(scope)));
        self.close_circuit(scope).await?;
        Ok(None)
    }

    /// The kinds of requests that are not to be handed out now. Of a circuit whose probe is due, one run may make it.
    pub async fn kinds_set_aside(&self, now: Timestamp) -> Result<Vec<SetAside>, QueueError> {
        let open: Vec<_> = lock(&self.circuits).iter().map(|(scope, probe)| (*scope, *probe)).collect();
        let mut kinds = Vec::new();
        for (scope, mut next_probe) in open {
            let CircuitScope::Endpoint(endpoint) = scope else { continue };
            let mut probes = 0;
            if now >= next_probe {
                let next = now + PROBE_INTERVAL;
                if self.worker.queue.claim_probe(scope, next_probe, next).await? {
                    next_probe = next;
                    self.bench.tell(|judge| judge.allow_probe(endpoint));
                    // Where there is an object that was answered well, it is the probe.
                    if self.control(&[endpoint]).await == Made::NoObject {
                        probes = 1;
                    } else if !self.bench.look(|judge| judge.is_convicted(&Scope::Endpoint(endpoint))) {
                        self.carry_out().await;
                        continue;
                    }
                } else if let Some(probe) = self.probe_elsewhere(scope).await? {
                    next_probe = probe;
                } else {
                    continue;
                }
                lock(&self.circuits).insert(scope, next_probe);
            }
            let kind = endpoint.kind();
            if EndpointKind::of(kind) == endpoint {
                kinds.push(SetAside { kind, until: next_probe, probes });
            }
        }
        Ok(kinds)
    }
}
