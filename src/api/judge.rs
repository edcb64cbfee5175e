//! Whose fault a bad answer is: the object's, the endpoint's, the key's, or the API's. A state machine over
//! (object, endpoint, key, answer); it knows no clock and touches nothing. [`Bench`] shares it among the calls of a run.
//!
//! A bad answer *accuses* every scope that could explain it: the endpoint and the API, or the key. A good answer of a call
//! that began later *acquits* the scopes it came through. From this follow the rulings:
//!
//! - An object is **at fault itself** when it failed, others were answered well, it was called once more, and failed again.
//! - A scope is **convicted** when enough different objects accuse it with no good answer in between: two with the API's own
//!   `inMaintenance`, three with any other 503, ten with anything else; a key with two that are refused. The API needs
//!   accusers of two endpoints, or nothing else that could be called. A control call of an object that used to be
//!   answered well has the last word, where there is such an object.
//!
//! Until one of the two is certain the answer is undecided, and its request waits while other objects are called. Calls are
//! compared by the order in which they began: a slow good answer from before an outage acquits nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::model::{EndpointKind, Fingerprint, ObjectId, Reason};

/// The weight of evidence that convicts.
const FULL: u32 = 30;

/// This much convicts at once, without waiting for the answers of calls that began in between.
const OVERWHELMING: u32 = 3 * FULL;

/// Older evidence is dropped: that only delays a conviction.
const MAX_EVIDENCE: usize = 256;

/// The place of a call in the order in which calls begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(u64);

/// What a bad answer says about more than its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// 503 with the API's own `inMaintenance`.
    Maintenance,
    /// Any other 503.
    Unavailable,
    /// Another 5xx, a timeout, a broken connection, a cut body.
    Failed,
    /// An answer that is not the API's, or about something else; with the tag of the document that came instead, if one did.
    Foreign(Option<String>),
    /// 401, or a 403 that is neither a private war log nor certainly about the key.
    Forbidden,
    /// A 403 that says that the key is not accepted.
    Rejected,
}

impl Sign {
    /// What one object's word weighs against this scope; 0 when it does not accuse it.
    const fn weight(&self, scope: &Scope) -> u32 {
        match (self, scope) {
            (Self::Forbidden | Self::Rejected, Scope::Key(_))
            | (Self::Maintenance, Scope::Api | Scope::Endpoint(_)) => FULL / 2,
            (Self::Unavailable, Scope::Api | Scope::Endpoint(_)) => FULL / 3,
            (Self::Failed | Self::Foreign(_) | Self::Forbidden, Scope::Api | Scope::Endpoint(_)) => FULL / 10,
            _ => 0,
        }
    }
}

/// What can be at fault beside an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Api,
    Endpoint(EndpointKind),
    Key(Fingerprint),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("the API"),
            Self::Endpoint(kind) => write!(f, "the endpoint `{kind}`"),
            Self::Key(key) => write!(f, "key {key}"),
        }
    }
}

/// A call: the request it is made for, what it asks for, and on which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub requester: ObjectId,
    pub endpoint: EndpointKind,
    /// The tag in the path: not always the requester's.
    pub tag: String,
    pub key: Fingerprint,
}

impl Call {
    fn scopes(&self) -> [Scope; 3] {
        [Scope::Api, Scope::Endpoint(self.endpoint), Scope::Key(self.key.clone())]
    }
}

/// A bad answer, for which a ruling is sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The first call of the object that failed, and the last.
    first: CallId,
    last: CallId,
    call: Call,
    sign: Sign,
    /// The API's last words.
    pub reason: Reason,
    /// Others were answered well between the first failure and the last call.
    was_called_again: bool,
}

impl Accusation {
    fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.call.scopes().into_iter().filter(|scope| self.sign.weight(scope) > 0)
    }

    #[must_use]
    pub const fn call(&self) -> &Call {
        &self.call
    }

    #[must_use]
    pub const fn sign(&self) -> &Sign {
        &self.sign
    }

    /// Whether it may go better at once.
    #[must_use]
    pub const fn may_be_a_hiccup(&self) -> bool {
        matches!(self.sign, Sign::Failed | Sign::Foreign(_))
    }
}

/// Whose fault an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// Others were answered well meanwhile: one more call decides.
    CallAgain,
    /// The object's own.
    Object,
    /// Not the object's but this one's.
    Wider(Scope),
    /// It could not be found out.
    Unknown,
}

/// What the judge tells whoever carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// With the evidence that tipped the scales.
    Convicted(Scope, Sign, Reason),
    /// A scope that was convicted answers well again.
    Acquitted(Scope),
}

/// A control call that would decide something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The endpoints of which one has to be called, the best first.
    pub endpoints: Vec<EndpointKind>,
}

#[derive(Clone, Debug)]
struct Evidence {
    at: CallId,
    call: Call,
    sign: Sign,
    reason: Reason,
}

/// The state of one run.
#[derive(Debug, Default)]
pub struct Judge {
    begun: u64,
    in_flight: BTreeMap<CallId, Call>,
    /// Of every scope, the call that began last of those answered well.
    good: BTreeMap<Scope, CallId>,
    goods: u64,
    bads: u64,
    evidence: Vec<Evidence>,
    convicted: BTreeMap<Scope, CallId>,
    /// What earlier runs convicted.
    remembered: BTreeSet<Scope>,
    /// Documents that came instead of others, by their tags: who was answered with them.
    echoes: BTreeMap<String, BTreeSet<ObjectId>>,
    /// Undecided accusations that requests wait for, by their first call.
    waiting: BTreeMap<CallId, EndpointKind>,
    /// Endpoints whose circuit is open, of which one call may be made all the same.
    probes: BTreeSet<EndpointKind>,
    wanted: Option<Control>,
    /// For every endpoint, the last control call, or when one was wanted and could not be made.
    controlled: BTreeMap<EndpointKind, CallId>,
    is_over: bool,
    news: Vec<News>,
}

impl Judge {
    /// Takes over what an earlier run found out.
    pub fn remember(&mut self, scope: Scope) {
        self.remembered.insert(scope.clone());
        self.convicted.insert(scope, CallId::default());
    }

    /// One call of a convicted endpoint may be made, to see whether it works again.
    pub fn allow_probe(&mut self, endpoint: EndpointKind) {
        self.probes.insert(endpoint);
    }

    /// The endpoints of which a probe was allowed and not made.
    #[must_use]
    pub fn unused_probes(&self) -> Vec<Scope> {
        self.probes.iter().map(|endpoint| Scope::Endpoint(*endpoint)).collect()
    }

    /// Whether calls of this endpoint would be in vain.
    #[must_use]
    pub fn is_open(&self, endpoint: EndpointKind) -> bool {
        self.convicted.contains_key(&Scope::Endpoint(endpoint)) && !self.probes.contains(&endpoint)
    }

    /// Whether this call may be made. A probe is made once.
    pub fn may_call(&mut self, endpoint: EndpointKind) -> bool {
        let may = !self.is_open(endpoint);
        self.probes.remove(&endpoint);
        may
    }

    /// A call begins.
    pub fn begin(&mut self, call: Call) -> CallId {
        // What was left undecided before is decided; what comes now may be found out.
        self.is_over = false;
        self.begun += 1;
        let id = CallId(self.begun);
        self.in_flight.insert(id, call);
        id
    }

    /// A call was given up, or its answer says nothing about anybody else.
    pub fn forget(&mut self, id: CallId) {
        self.in_flight.remove(&id);
        self.weigh_all();
    }

    /// A call was answered well: the API spoke to us.
    pub fn good(&mut self, id: CallId) {
        let Some(call) = self.in_flight.remove(&id) else { return };
        // A document that others were answered with as well proves nothing.
        let is_echo = self.echoes.get(&call.tag).is_some_and(|others| others.iter().any(|one| *one != call.requester));
        if !is_echo {
            self.goods += 1;
            for scope in call.scopes() {
                let last = self.good.entry(scope.clone()).or_default();
                *last = id.max(*last);
                if self.convicted.get(&scope).is_some_and(|at| *at < id) {
                    self.convicted.remove(&scope);
                    self.news.push(Decision::Acquitted(scope));
                }
            }
            let good = &self.good;
            self.evidence.retain(|evidence| {
                let accused = evidence.call.scopes().into_iter().filter(|scope| evidence.sign.weight(scope) > 0);
                accused.into_iter().any(|scope| good.get(&scope).is_none_or(|last| *last < evidence.at))
            });
        }
        self.weigh_all();
    }

    /// A call was answered badly. `earlier` is the accusation of the same object from which [`Self::call_again`] came.
    pub fn bad(&mut self, id: CallId, sign: Sign, reason: Reason, earlier: Option<&Accusation>) -> Option<Accusation> {
        let call = self.in_flight.remove(&id)?;
        self.bads += 1;
        if let Sign::Foreign(Some(tag)) = &sign {
            self.echoes.entry(tag.clone()).or_default().insert(call.requester.clone());
        }
        self.evidence.push(Evidence { at: id, call: call.clone(), sign: sign.clone(), reason: reason.clone() });
        if self.evidence.len() > MAX_EVIDENCE {
            self.evidence.remove(0);
        }
        self.weigh_all();
        let earlier = earlier.filter(|earlier| earlier.call.endpoint == call.endpoint && earlier.call.tag == call.tag);
        let (first, was_called_again) =
            earlier.map_or((id, false), |earlier| (earlier.first, earlier.was_called_again));
        Some(Accusation { first, last: id, call, sign, reason, was_called_again })
    }

    /// The accused object is about to be called again.
    pub fn call_again(&self, accusation: &mut Accusation) {
        accusation.was_called_again |= self.was_good_since(accusation, accusation.first);
    }

    /// Whether nobody else accuses what this one accuses.
    #[must_use]
    pub fn is_alone(&self, accusation: &Accusation) -> bool {
        let is_other = |evidence: &&Evidence| evidence.call.requester != accusation.call.requester;
        accusation.scopes().all(|scope| {
            !self.convicted.contains_key(&scope) && !self.open_evidence(&scope).any(|evidence| is_other(&evidence))
        })
    }

    /// What can be said of an accusation by now; `None` while it is undecided.
    #[must_use]
    pub fn ruling(&self, accusation: &Accusation) -> Option<FailureClass> {
        if let Some(scope) = accusation.scopes().find(|scope| self.convicted.contains_key(scope)) {
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

    /// Whether every scope that is accused was good in a call that began after this one.
    fn was_good_since(&self, accusation: &Accusation, call: CallId) -> bool {
        accusation.scopes().all(|scope| self.good.get(&scope).is_some_and(|good| *good > call))
    }

    /// A request waits for the ruling on its accusation, or waits no more.
    pub fn wait(&mut self, accusation: &Accusation, waits: bool) {
        if waits {
            self.waiting.insert(accusation.first, accusation.call.endpoint);
        } else {
            self.waiting.remove(&accusation.first);
        }
    }

    /// An accusation has waited for long: a control call may decide what other calls have not.
    pub fn is_overdue(&mut self, accusation: &Accusation) {
        self.want_control(accusation.first, vec![accusation.call.endpoint]);
    }

    /// Whether something is in doubt: a ruling is waited for, or nothing at all was answered well. That an endpoint still
    /// fails which failed before is no news.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        let is_news = |one: &Evidence| !one.call.scopes().iter().any(|scope| self.remembered.contains(scope));
        let is_new = |scope: &Scope| matches!(scope, Scope::Endpoint(_)) && !self.remembered.contains(scope);
        let an_endpoint_fails = self.convicted.keys().any(is_new) && !self.convicted.contains_key(&Scope::Api);
        let nothing_is_good =
            self.goods == 0 || (an_endpoint_fails && self.open_evidence(&Scope::Api).next().is_some());
        !self.is_over && (!self.waiting.is_empty() || (nothing_is_good && self.evidence.iter().any(is_news)))
    }

    /// The tags of whatever accuses somebody: none of them is fit for a control call.
    #[must_use]
    pub fn accused(&self) -> Vec<String> {
        let both = |evidence: &Evidence| [evidence.call.tag.clone(), evidence.call.requester.tag.as_str().to_owned()];
        self.evidence.iter().flat_map(both).collect()
    }

    /// A scope works again, as another run has found.
    pub fn pardon(&mut self, scope: &Scope) {
        self.convicted.remove(scope);
        self.remembered.remove(scope);
        self.evidence.retain(|evidence| !evidence.call.scopes().contains(scope));
    }

    /// The control call that was wanted could not be heard: its key cools down, or it was cut off. It may be tried again.
    pub fn control_is_unheard(&mut self) {
        self.wanted = None;
    }

    /// Nothing else is at hand to call. Returns whether something is still to be learned: then a control call is wanted or
    /// under way. If not, what is undecided stays so.
    pub fn nothing_else(&mut self) -> bool {
        if self.wanted.is_some() || !self.in_flight.is_empty() {
            return true;
        }
        let uncontrolled = self.waiting.iter().find(|(at, endpoint)| {
            let is_convicted = self.convicted.contains_key(&Scope::Endpoint(**endpoint));
            !is_convicted && self.controlled.get(endpoint).is_none_or(|control| control < at)
        });
        if let Some((at, endpoint)) = uncontrolled {
            return self.want_control(*at, vec![*endpoint]);
        }
        // An endpoint fails, or nothing was answered well at all. Whether that is all, another endpoint shows.
        let since = self.open_evidence(&Scope::Api).map(|evidence| evidence.at).min();
        let is_convicted = |kind: &EndpointKind| self.convicted.contains_key(&Scope::Endpoint(*kind));
        let an_endpoint_fails = EndpointKind::ALL.iter().any(is_convicted);
        if let Some(since) = since.filter(|_| an_endpoint_fails || self.goods == 0) {
            let others = [EndpointKind::Player, EndpointKind::Clan, EndpointKind::CurrentWar];
            let others: Vec<_> = others.into_iter().filter(|kind| !is_convicted(kind)).collect();
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

    /// The run ends: what is undecided stays so. A run that heard nothing good and failed with everything has found that
    /// nothing works at all.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.is_over, true) || self.goods > 0 || self.bads == 0 {
            return;
        }
        if !self.convicted.is_empty() {
            return;
        }
        let Some(last) = self.evidence.last() else { return };
        let is_about_keys =
            self.evidence.iter().all(|evidence| matches!(evidence.sign, Sign::Forbidden | Sign::Rejected));
        if is_about_keys {
            self.convict(&Scope::Key(last.call.key.clone()));
        } else {
            self.convict(&Scope::Api);
        }
    }

    /// The run ends before everything could be tried: what is undecided stays so.
    pub const fn leave_undecided(&mut self) {
        self.is_over = true;
    }

    /// The control call that is wanted, if one is. Whoever takes it makes it, and then says so with
    /// [`Self::control_is_done`].
    pub fn control(&self) -> Option<Control> {
        self.wanted.clone()
    }

    /// The control call was made and answered, or could not be made.
    pub fn control_is_done(&mut self) {
        let Some(control) = self.wanted.take() else { return };
        for endpoint in control.endpoints {
            self.controlled.insert(endpoint, CallId(self.begun));
        }
        self.weigh_all();
    }

    /// Whether a control call is wanted or under way now.
    fn want_control(&mut self, since: CallId, mut endpoints: Vec<EndpointKind>) -> bool {
        endpoints.retain(|endpoint| self.controlled.get(endpoint).is_none_or(|control| *control < since));
        if self.wanted.is_none() && !endpoints.is_empty() && !self.is_over {
            self.wanted = Some(Control { endpoints });
        }
        self.wanted.is_some()
    }

    #[must_use]
    pub const fn has_decisions(&self) -> bool {
        !self.news.is_empty()
    }

    /// Whether a control call is to show whether calls of this endpoint are in vain.
    #[must_use]
    pub fn is_in_question(&self, endpoint: EndpointKind) -> bool {
        self.wanted.as_ref().is_some_and(|control| control.endpoints.first() == Some(&endpoint))
    }

    /// Bad answers so far.
    #[must_use]
    pub const fn bads(&self) -> u64 {
        self.bads
    }

    /// What happened since it was last asked.
    pub fn take_decisions(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    #[must_use]
    pub fn is_convicted(&self, scope: &Scope) -> bool {
        self.convicted.contains_key(scope)
    }

    /// Answers that proved that the API spoke to us.
    #[must_use]
    pub const fn goods(&self) -> u64 {
        self.goods
    }

    fn open_evidence<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Evidence> {
        let last_good = self.good.get(scope).copied().unwrap_or_default();
        self.evidence.iter().filter(move |evidence| {
            evidence.at > last_good && evidence.sign.weight(scope) > 0 && evidence.call.scopes().contains(scope)
        })
    }

    fn weigh_all(&mut self) {
        let mut scopes: BTreeSet<Scope> = self.evidence.iter().flat_map(|evidence| evidence.call.scopes()).collect();
        scopes.retain(|scope| !self.convicted.contains_key(scope));
        for scope in scopes {
            self.weigh(&scope);
        }
    }

    /// Convicts a scope when the evidence is full.
    fn weigh(&mut self, scope: &Scope) {
        let mut open: Vec<&Evidence> = self.open_evidence(scope).collect();
        // Answers do not come in the order of their calls.
        let ids = || open.iter().map(|evidence| evidence.at);
        let (Some(first), Some(last)) = (ids().min(), ids().max()) else { return };
        let endpoints: BTreeSet<EndpointKind> = open.iter().map(|evidence| evidence.call.endpoint).collect();
        if *scope == Scope::Api && endpoints.len() < 2 {
            return;
        }
        open.sort_by_key(|evidence| std::cmp::Reverse(evidence.sign.weight(scope)));
        let (mut requesters, mut documents, mut total) = (BTreeSet::new(), BTreeSet::new(), 0);
        for evidence in &open {
            let Call { requester, endpoint, tag, .. } = &evidence.call;
            if requesters.insert(requester) & documents.insert((endpoint, tag)) {
                total += evidence.sign.weight(scope);
            }
        }
        if total < FULL {
            return;
        }
        let mut between = self.in_flight.range(first..last);
        if total < OVERWHELMING && between.any(|(_, call)| call.scopes().contains(scope)) {
            return;
        }
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        let was_controlled = |kind: &EndpointKind| self.controlled.get(kind).is_some_and(|control| *control > first);
        if !endpoints.iter().any(was_controlled) {
            self.want_control(first, endpoints);
            return;
        }
        self.convict(scope);
    }

    fn convict(&mut self, scope: &Scope) {
        let evidence = self.open_evidence(scope).max_by_key(|evidence| evidence.at).or(self.evidence.last());
        let Some(Evidence { at, sign, reason, .. }) = evidence.cloned() else { return };
        self.convicted.insert(scope.clone(), at);
        self.news.push(Decision::Convicted(scope.clone(), sign, reason));
    }
}

/// The judge of a run, shared by its calls.
#[derive(Debug, Default)]
pub struct Bench {
    judge: Mutex<Judge>,
    /// Counts changes, so that whoever waits for a ruling looks again.
    changes: watch::Sender<u64>,
}

impl Bench {
    fn judge(&self) -> MutexGuard<'_, Judge> {
        // A panic while it was held leaves plain values behind.
        self.judge.lock()
    }

    /// Looks at the judge's state.
    pub fn look<T>(&self, look: impl FnOnce(&Judge) -> T) -> T {
        look(&self.judge())
    }

    /// Tells the judge something, and everybody who waits for it.
    pub fn tell<T>(&self, tell: impl FnOnce(&mut Judge) -> T) -> T {
        let told = tell(&mut self.judge());
        self.changes.send_modify(|changes| *changes += 1);
        told
    }

    /// The same, of what nobody waits for.
    pub fn note<T>(&self, note: impl FnOnce(&mut Judge) -> T) -> T {
        note(&mut self.judge())
    }

    /// A call begins, and is forgotten when it is dropped without an answer.
    pub(super) fn begin(&self, call: Call) -> Pending<'_> {
        Pending { bench: self, id: Some(self.update_quietly(|judge| judge.begin(call))) }
    }

    /// Returns once this is there to be had.
    pub async fn until<T>(&self, mut look: impl FnMut(&Judge) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(found) = look(&self.judge()) {
                return found;
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Waits for the ruling on an accusation.
    pub async fn ruling(&self, accusation: &Accusation) -> FailureClass {
        let _waiting = Waiting::new(self, accusation);
        self.until(|judge| judge.classify(accusation)).await
    }
}

/// A call under way, as the judge knows it.
pub(super) struct Pending<'a> {
    bench: &'a SharedJudge,
    id: Option<CallId>,
}

impl Pending<'_> {
    pub(super) fn good(mut self) {
        if let Some(id) = self.id.take() {
            self.bench.update(|judge| judge.good(id));
        }
    }

    pub(super) fn bad(mut self, sign: Sign, reason: Reason, earlier: Option<&Accusation>) -> Option<Accusation> {
        let id = self.id.take()?;
        self.bench.update(|judge| judge.bad(id, sign, reason, earlier))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.bench.update(|judge| judge.forget(id));
        }
    }
}

/// Tells the judge that a request waits, until it is dropped.
struct Waiting<'a> {
    bench: &'a SharedJudge,
    accusation: &'a Accusation,
}

impl<'a> Waiting<'a> {
    fn new(bench: &'a SharedJudge, accusation: &'a Accusation) -> Self {
        bench.update(|judge| judge.wait(accusation, true));
        Self { bench, accusation }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.bench.update(|judge| judge.wait(self.accusation, false));
    }
}

#[cfg(test)]
mod tests;
