//! Finds out whose fault a bad response is: the object's, the endpoint's, the key's, or the API's.
//!
//! A state machine over (object, endpoint, key, response). It knows no clock and touches nothing. [`SharedJudge`] shares it
//! among the calls of a run.
//!
//! A bad response **accuses** every scope that could explain it: the endpoint and the API, or the key. A good response to a
//! call that began later **acquits** the scopes that it came through. Calls are compared by the order in which they began: a
//! slow good response from before an outage acquits nobody.
//!
//! An **object** that failed goes through these states ([`Judge::classify`]):
//!
//! | state | leaves it when | next |
//! |---|---|---|
//! | undecided: its request waits, others are called | others were answered well | [`FailureClass::CallAgain`] |
//! | | a scope that it accuses is convicted | [`FailureClass::Wider`] |
//! | | the run ends | [`FailureClass::Unknown`] |
//! | called again, and failed again | others were answered well, or the run ends | [`FailureClass::Object`] |
//!
//! A **scope** is convicted by different objects that accuse it with no good response in between:
//!
//! | sign | accusers needed |
//! |---|---|
//! | 503 with the API's own `inMaintenance` | 2 |
//! | any other 503 | 3 |
//! | any other failure | 10 |
//! | 401 or 403, against a key | 2 |
//!
//! | scope | state | leaves it when | next |
//! |---|---|---|---|
//! | any | good | the accusers are enough | control call wanted |
//! | any | control call wanted | the control call is answered well | good |
//! | any | control call wanted | it fails, or there is no object for it | convicted ([`Decision::Convicted`]) |
//! | any | convicted | a call that began later is answered well | good ([`Decision::Acquitted`]) |
//!
//! A control call is a call for an object that used to be answered well. The API is convicted only by accusers of two
//! endpoints, or when nothing else could be called.

mod evidence;
mod shared;

use std::collections::{BTreeMap, BTreeSet};

use self::evidence::{Evidence, FULL_WEIGHT};
pub use self::{
    evidence::{Accusation, Call, CallId, Scope, Sign},
    shared::SharedJudge,
};
use crate::model::{EndpointKind, ObjectId, Reason};

/// The weight that convicts at once, without the responses of calls that began in between.
const OVERWHELMING_WEIGHT: u32 = 3 * FULL_WEIGHT;

/// The most evidence that is kept. The oldest is dropped first, which only delays a conviction.
const MAX_EVIDENCE: usize = 256;

/// The class of an object's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// Others were answered well meanwhile: one more call decides.
    CallAgain,
    /// The fault is the object's own.
    Object,
    /// The fault is that of a wider scope.
    Wider(Scope),
    /// The run ended before it was found out.
    Unknown,
}

/// A decision of the judge, to be carried out by the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A scope is at fault. With the last evidence against it.
    Convicted(Scope, Sign, Reason),
    /// A scope that was convicted works again.
    Acquitted(Scope),
}

/// A control call that would decide something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The endpoints of which one has to be called, the best first.
    pub endpoints: Vec<EndpointKind>,
}

/// The knowledge of one run.
#[derive(Debug, Default)]
pub struct Judge {
    calls: Calls,
    good: Good,
    evidence: Vec<Evidence>,
    convictions: Convictions,
    /// Undecided accusations for which requests wait, by their first call.
    waiting: BTreeMap<CallId, EndpointKind>,
    controls: Controls,
    is_over: bool,
    decisions: Vec<Decision>,
}

#[derive(Debug, Default)]
struct Calls {
    begun: u64,
    in_flight: BTreeMap<CallId, Call>,
    /// Bad responses.
    bad: u64,
}

/// The good responses.
#[derive(Debug, Default)]
struct Good {
    count: u64,
    /// The call that began last of those answered well, by scope.
    last: BTreeMap<Scope, CallId>,
    /// Documents that came instead of others, by tag, with the objects that were answered with them.
    echoes: BTreeMap<String, BTreeSet<ObjectId>>,
}

#[derive(Debug, Default)]
struct Convictions {
    convicted: BTreeMap<Scope, CallId>,
    /// The scopes that earlier runs convicted.
    remembered: BTreeSet<Scope>,
    /// Endpoints whose circuit is open, and of which one call may be made all the same.
    probes: BTreeSet<EndpointKind>,
}

impl Convictions {
    fn contains(&self, scope: &Scope) -> bool {
        self.convicted.contains_key(scope)
    }

    fn contains_endpoint(&self, endpoint: EndpointKind) -> bool {
        self.contains(&Scope::Endpoint(endpoint))
    }
}

#[derive(Debug, Default)]
struct Controls {
    wanted: Option<Control>,
    /// The last control call of each endpoint, or the moment at which one was wanted and could not be made.
    done: BTreeMap<EndpointKind, CallId>,
}

impl Judge {
    /// Takes over a conviction of an earlier run.
    pub fn remember(&mut self, scope: Scope) {
        self.convictions.remembered.insert(scope.clone());
        // The conviction is older than every call of this run, so the first good response acquits.
        self.convictions.convicted.insert(scope, CallId::default());
    }

    /// Allows one call of a convicted endpoint, to find out whether it works again.
    pub fn allow_probe(&mut self, endpoint: EndpointKind) {
        self.convictions.probes.insert(endpoint);
    }

    /// The endpoints of which a probe was allowed and not made.
    #[must_use]
    pub fn unused_probes(&self) -> Vec<Scope> {
        self.convictions.probes.iter().map(|endpoint| Scope::Endpoint(*endpoint)).collect()
    }

    /// True when calls of this endpoint would be in vain.
    #[must_use]
    pub fn is_open(&self, endpoint: EndpointKind) -> bool {
        self.convictions.contains_endpoint(endpoint) && !self.convictions.probes.contains(&endpoint)
    }

    /// True when a call of this endpoint may be made. Uses up the probe, if one is allowed.
    pub fn may_call(&mut self, endpoint: EndpointKind) -> bool {
        let may = !self.is_open(endpoint);
        // Used up even when the circuit is closed by now.
        self.convictions.probes.remove(&endpoint);
        may
    }

    /// A call begins.
    pub fn begin(&mut self, call: Call) -> CallId {
        // Earlier calls that were left undecided stay so, but the new call can be classified again.
        self.is_over = false;
        self.calls.begun += 1;
        let id = CallId(self.calls.begun);
        self.calls.in_flight.insert(id, call);
        id
    }

    /// A call was given up, or its response proves nothing about anybody else.
    pub fn forget(&mut self, id: CallId) {
        self.calls.in_flight.remove(&id);
        self.weigh_all();
    }

    /// A call was answered well: the API spoke to us.
    pub fn good(&mut self, id: CallId) {
        let Some(call) = self.calls.in_flight.remove(&id) else { return };
        // A document with which other objects were answered as well proves nothing.
        let others = self.good.echoes.get(&call.tag);
        let is_echo = others.is_some_and(|others| others.iter().any(|other| *other != call.requester));
        if !is_echo {
            self.good.count += 1;
            for scope in call.scopes() {
                let last = self.good.last.entry(scope.clone()).or_default();
                *last = id.max(*last);
                if self.convictions.convicted.get(&scope).is_some_and(|at| *at < id) {
                    self.convictions.convicted.remove(&scope);
                    self.decisions.push(Decision::Acquitted(scope));
                }
            }
            // Evidence counts as long as one of the scopes that it accuses was not good since.
            let good = &self.good.last;
            self.evidence.retain(|evidence| {
                let mut accused = evidence.call.scopes().into_iter().filter(|scope| evidence.sign.weight(scope) > 0);
                accused.any(|scope| good.get(&scope).is_none_or(|last| *last < evidence.at))
            });
        }
        self.weigh_all();
    }

    /// A call had a bad response. `earlier` is the accusation of the same object that was given to [`Self::call_again`].
    pub fn bad(&mut self, id: CallId, sign: Sign, reason: Reason, earlier: Option<&Accusation>) -> Option<Accusation> {
        let call = self.calls.in_flight.remove(&id)?;
        self.calls.bad += 1;
        if let Sign::Foreign(Some(tag)) = &sign {
            self.good.echoes.entry(tag.clone()).or_default().insert(call.requester.clone());
        }
        self.evidence.push(Evidence { at: id, call: call.clone(), sign: sign.clone(), reason: reason.clone() });
        // Evidence is in the order of responses, so the first is the oldest.
        if self.evidence.len() > MAX_EVIDENCE {
            self.evidence.remove(0);
        }
        self.weigh_all();
        // Fetching a war takes several calls. An accusation goes on only when the same call fails again.
        let earlier = earlier.filter(|earlier| earlier.call.endpoint == call.endpoint && earlier.call.tag == call.tag);
        let (first, was_called_again) =
            earlier.map_or((id, false), |earlier| (earlier.first, earlier.was_called_again));
        Some(Accusation { first, last: id, call, sign, reason, was_called_again })
    }

    /// The accused object is about to be called again.
    pub fn call_again(&self, accusation: &mut Accusation) {
        accusation.was_called_again |= self.was_good_since(accusation, accusation.first);
    }

    /// True when no other object accuses the same scopes.
    #[must_use]
    pub fn is_alone(&self, accusation: &Accusation) -> bool {
        let is_other = |evidence: &&Evidence| evidence.call.requester != accusation.call.requester;
        accusation.scopes().all(|scope| {
            !self.convictions.contains(&scope) && !self.open_evidence(&scope).any(|evidence| is_other(&evidence))
        })
    }

    /// The class of a failure; `None` while it is undecided.
    #[must_use]
    pub fn classify(&self, accusation: &Accusation) -> Option<FailureClass> {
        if let Some(scope) = accusation.scopes().find(|scope| self.convictions.contains(scope)) {
            return Some(FailureClass::Wider(scope));
        }
        let is_cleared = self.was_good_since(accusation, accusation.last);
        match (accusation.was_called_again, is_cleared, self.is_over) {
            (true, true, _) | (true, _, true) => Some(FailureClass::Object),
            (false, true, false) => Some(FailureClass::CallAgain),
            (false, _, true) => Some(FailureClass::Unknown),
            (_, false, false) => None,
        }
    }

    /// True when every accused scope was good in a call that began after this one.
    fn was_good_since(&self, accusation: &Accusation, call: CallId) -> bool {
        accusation.scopes().all(|scope| self.good.last.get(&scope).is_some_and(|good| *good > call))
    }

    /// A request begins to wait for the class of its failure, or ends that.
    pub fn wait(&mut self, accusation: &Accusation, waits: bool) {
        if waits {
            self.waiting.insert(accusation.first, accusation.call.endpoint);
        } else {
            self.waiting.remove(&accusation.first);
        }
    }

    /// An accusation has waited for long: a control call may decide it, since other calls have not.
    pub fn mark_overdue(&mut self, accusation: &Accusation) {
        self.want_control(accusation.first, vec![accusation.call.endpoint]);
    }

    /// True when something new is in doubt: a request waits for the class of its failure, or nothing at all was answered
    /// well. An endpoint that failed before and still fails does not count.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        let is_remembered = |scope: &Scope| self.convictions.remembered.contains(scope);
        let is_news = |evidence: &Evidence| !evidence.call.scopes().iter().any(is_remembered);
        let is_new_endpoint = |scope: &Scope| matches!(scope, Scope::Endpoint(_)) && !is_remembered(scope);
        let an_endpoint_fails =
            self.convictions.convicted.keys().any(is_new_endpoint) && !self.convictions.contains(&Scope::Api);
        let nothing_is_good =
            self.good.count == 0 || (an_endpoint_fails && self.open_evidence(&Scope::Api).next().is_some());
        !self.is_over && (!self.waiting.is_empty() || (nothing_is_good && self.evidence.iter().any(is_news)))
    }

    /// The tags of everything that accuses somebody: none of them is fit for a control call.
    #[must_use]
    pub fn accused_tags(&self) -> Vec<String> {
        let both = |evidence: &Evidence| [evidence.call.tag.clone(), evidence.call.requester.tag.as_str().to_owned()];
        self.evidence.iter().flat_map(both).collect()
    }

    /// Another run has found that a scope works again.
    pub fn pardon(&mut self, scope: &Scope) {
        self.convictions.convicted.remove(scope);
        self.convictions.remembered.remove(scope);
        self.evidence.retain(|evidence| !evidence.call.scopes().contains(scope));
    }

    /// The wanted control call had no response: its key cools down, or the call was cut off. It may be tried again.
    pub fn control_failed(&mut self) {
        self.controls.wanted = None;
    }

    /// Nothing else is at hand to call. Returns true when a control call is wanted or under way, which may still decide
    /// something. Otherwise the undecided failures stay so.
    pub fn nothing_else_to_call(&mut self) -> bool {
        if self.controls.wanted.is_some() || !self.calls.in_flight.is_empty() {
            return true;
        }
        let uncontrolled = self.waiting.iter().find(|(at, endpoint)| {
            let was_controlled = self.controls.done.get(endpoint).is_some_and(|control| control >= at);
            !self.convictions.contains_endpoint(**endpoint) && !was_controlled
        });
        if let Some((at, endpoint)) = uncontrolled {
            return self.want_control(*at, vec![*endpoint]);
        }
        // When an endpoint fails, or no call had a good response, a control call to another endpoint shows whether the whole API fails.
        let since = self.open_evidence(&Scope::Api).map(|evidence| evidence.at).min();
        let an_endpoint_fails = EndpointKind::ALL.iter().any(|kind| self.convictions.contains_endpoint(*kind));
        if let Some(since) = since.filter(|_| an_endpoint_fails || self.good.count == 0) {
            let mut others = vec![EndpointKind::Player, EndpointKind::Clan, EndpointKind::CurrentWar];
            others.retain(|kind| !self.convictions.contains_endpoint(*kind));
            if self.want_control(since, others) {
                return true;
            }
            if an_endpoint_fails {
                self.convict(&Scope::Api);
            }
        }
        self.finish();
        false
    }

    /// The run ends: undecided failures stay so. A run whose every call failed, without a conviction, has found that nothing
    /// works at all.
    pub fn finish(&mut self) {
        let was_over = std::mem::replace(&mut self.is_over, true);
        let all_failed = self.good.count == 0 && self.calls.bad > 0;
        if was_over || !all_failed || !self.convictions.convicted.is_empty() {
            return;
        }
        let Some(last) = self.evidence.last() else { return };
        let is_about_keys =
            self.evidence.iter().all(|evidence| matches!(evidence.sign, Sign::Forbidden | Sign::Rejected));
        let scope = if is_about_keys { Scope::Key(last.call.key.clone()) } else { Scope::Api };
        self.convict(&scope);
    }

    /// The run ends before everything could be tried: undecided failures stay so.
    pub const fn leave_undecided(&mut self) {
        self.is_over = true;
    }

    /// The control call that is wanted, if one is. Whoever makes it reports with [`Self::control_done`].
    pub fn control(&self) -> Option<Control> {
        self.controls.wanted.clone()
    }

    /// The control call was made and answered, or could not be made.
    pub fn control_done(&mut self) {
        let Some(control) = self.controls.wanted.take() else { return };
        for endpoint in control.endpoints {
            self.controls.done.insert(endpoint, CallId(self.calls.begun));
        }
        self.weigh_all();
    }

    /// Wants a control call of one of the endpoints that had none since then. Returns true when a control call is wanted or
    /// under way now.
    fn want_control(&mut self, since: CallId, mut endpoints: Vec<EndpointKind>) -> bool {
        endpoints.retain(|endpoint| self.controls.done.get(endpoint).is_none_or(|control| *control < since));
        // One control call at a time: each costs a call, and its response may make the next one needless.
        if self.controls.wanted.is_none() && !endpoints.is_empty() && !self.is_over {
            self.controls.wanted = Some(Control { endpoints });
        }
        self.controls.wanted.is_some()
    }

    #[must_use]
    pub const fn has_decisions(&self) -> bool {
        !self.decisions.is_empty()
    }

    /// True when a control call is to show whether calls of this endpoint are in vain.
    #[must_use]
    pub fn is_in_question(&self, endpoint: EndpointKind) -> bool {
        self.controls.wanted.as_ref().is_some_and(|control| control.endpoints.first() == Some(&endpoint))
    }

    /// The number of bad responses so far.
    #[must_use]
    pub const fn bad_count(&self) -> u64 {
        self.calls.bad
    }

    /// Takes the decisions since the last time.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.decisions)
    }

    #[must_use]
    pub fn is_convicted(&self, scope: &Scope) -> bool {
        self.convictions.contains(scope)
    }

    /// The number of responses that proved that the API spoke to us.
    #[must_use]
    pub const fn good_count(&self) -> u64 {
        self.good.count
    }

    /// The evidence against a scope since its last good response.
    fn open_evidence<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Evidence> {
        let last_good = self.good.last.get(scope).copied().unwrap_or_default();
        self.evidence.iter().filter(move |evidence| evidence.at > last_good && evidence.accuses(scope))
    }

    fn weigh_all(&mut self) {
        let mut scopes: BTreeSet<Scope> = self.evidence.iter().flat_map(|evidence| evidence.call.scopes()).collect();
        scopes.retain(|scope| !self.convictions.contains(scope));
        for scope in scopes {
            self.weigh(&scope);
        }
    }

    /// Convicts a scope when the evidence is enough and a control call has failed, or could not be made.
    fn weigh(&mut self, scope: &Scope) {
        let mut open: Vec<&Evidence> = self.open_evidence(scope).collect();
        // The first and last call are searched for, because responses do not come in the order of the calls.
        let ids = || open.iter().map(|evidence| evidence.at);
        let (Some(first), Some(last)) = (ids().min(), ids().max()) else { return };
        let endpoints: BTreeSet<EndpointKind> = open.iter().map(|evidence| evidence.call.endpoint).collect();
        if *scope == Scope::Api && endpoints.len() < 2 {
            return;
        }
        // Sorted by weight, because only the first failure of an object counts, and that must be its heaviest.
        open.sort_by_key(|evidence| std::cmp::Reverse(evidence.sign.weight(scope)));
        let (mut requesters, mut documents, mut total) = (BTreeSet::new(), BTreeSet::new(), 0);
        for evidence in &open {
            let Call { requester, endpoint, tag, .. } = &evidence.call;
            if requesters.insert(requester) & documents.insert((endpoint, tag)) {
                total += evidence.sign.weight(scope);
            }
        }
        if total < FULL_WEIGHT {
            return;
        }
        // A call that began between the first and the last failure may still get a good response.
        let mut between = self.calls.in_flight.range(first..last);
        if total < OVERWHELMING_WEIGHT && between.any(|(_, call)| call.scopes().contains(scope)) {
            return;
        }
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        let was_controlled = |kind: &EndpointKind| self.controls.done.get(kind).is_some_and(|control| *control > first);
        if !endpoints.iter().any(was_controlled) {
            self.want_control(first, endpoints);
            return;
        }
        self.convict(scope);
    }

    fn convict(&mut self, scope: &Scope) {
        let evidence = self.open_evidence(scope).max_by_key(|evidence| evidence.at).or(self.evidence.last());
        let Some(Evidence { at, sign, reason, .. }) = evidence.cloned() else { return };
        self.convictions.convicted.insert(scope.clone(), at);
        self.decisions.push(Decision::Convicted(scope.clone(), sign, reason));
    }
}

#[cfg(test)]
mod tests;
