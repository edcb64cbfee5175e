//! The calls of one fetch: each with its permit, within the time, and with a few quick tries among them.

use std::{pin::pin, time::Duration};

use reqwest::header::HeaderValue;
use tokio::time::{Instant, sleep};

use super::{
    body_memory::Reservation,
    budget::{Begun, Connects, KeyPool, NoPermit, Permit},
    endpoint::Endpoint,
    judge::{Accusation, Call, SharedJudge},
    response::{Bad, Classified, Response, TransportError, age, classify, max_age},
    transport::{CALL_TIMEOUT, MIN_CALL_TIME, Transport},
    verdict::{Ending, Obstacle, Verdict},
};
use crate::{
    clock::{ServerTime, Timestamp},
    model::{Answered, Document, EndpointKind, Fetched, ObjectId, WarMemory},
};

/// The longest `max-age` that is believed. A wrong one must not keep an object from being fetched for long.
const MAX_FRESHNESS: Duration = Duration::from_secs(60 * 60);

/// The wait before a quick try, in milliseconds: random, so that the tries of many calls do not come together.
const QUICK_TRY_DELAY_MS: std::ops::RangeInclusive<u64> = 200..=600;

/// An object to fetch, and everything that its calls need.
#[derive(Debug)]
pub struct FetchTask<'a> {
    pub object: &'a ObjectId,
    /// For wars: the memory of the clan's league.
    pub league: Option<&'a WarMemory>,
    /// A permit for the first call, when one was taken already. To be used at once.
    pub first_permit: Option<Permit>,
    pub keys: &'a KeyPool,
    /// Hears about every response.
    pub judge: &'a SharedJudge,
    pub time: &'a ServerTime,
    /// No call lasts beyond this. A call that begins late has less time, and none begins with less than `MIN_CALL_TIME`.
    pub until: Instant,
    /// The further calls that this fetch may spend on responses that may be better at once.
    pub quick_tries: u32,
    /// The accusation of the object, when it is fetched again to find out whose fault it is.
    pub earlier: Option<Accusation>,
}

/// Makes the calls of one fetch, and counts them.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    transport: &'a Transport,
    /// Permit, quick tries and accusation are used up as the fetch goes on.
    task: FetchTask<'a>,
    /// For all bodies of this fetch.
    memory: Reservation<'a>,
    calls: u32,
    slowest_call: Duration,
}

/// The result of a call, and its times.
#[derive(Debug)]
pub(super) struct Reply {
    pub result: CallResult,
    pub times: Times,
}

/// The result of a call.
#[derive(Debug)]
pub(super) enum CallResult {
    Good(Classified),
    /// The call did not bring what it was made for.
    Failed(Verdict),
}

/// The times of a call, by the queue server's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    began: Timestamp,
    copied_at: Timestamp,
    fresh_until: Timestamp,
}

impl Times {
    fn of(began: Timestamp, ended: Timestamp, max_age: Option<Duration>, longest_max_age: Duration) -> Self {
        // The API serves shared copies. A copy lives for `longest_max_age` at most; what is not left of that is its age.
        let left = max_age.unwrap_or_default();
        Self {
            began,
            copied_at: began - longest_max_age.saturating_sub(left),
            fresh_until: ended + left.min(MAX_FRESHNESS),
        }
    }

    /// The earliest moment at which the shared copy may have been made.
    pub const fn copied_at(&self) -> Timestamp {
        self.copied_at
    }

    /// The same times for a call after which the next call requests something else: waiting for another copy gains nothing.
    pub const fn not_worth_waiting_for(self) -> Self {
        Self { fresh_until: self.began, ..self }
    }

    pub fn fetched(self, object: &ObjectId, answered: Answered, league: Option<WarMemory>) -> Verdict {
        let Self { began, copied_at, fresh_until } = self;
        let fetched = Fetched { object: object.clone(), began, copied_at, fresh_until, answered, league, asked: None };
        Verdict::Answered(Box::new(fetched))
    }
}

impl Reply {
    /// Makes the verdict for an object that needs one call.
    pub fn into_verdict(self, object: &ObjectId) -> Verdict {
        let answered = match self.result {
            CallResult::Failed(verdict) => return verdict,
            CallResult::Good(Classified::Clan(clan)) => Answered::Document(Document::Clan(clan)),
            CallResult::Good(Classified::Player(player)) => Answered::Document(Document::Player(player)),
            CallResult::Good(Classified::War(war)) => Answered::Document(Document::War(war)),
            CallResult::Good(Classified::PrivateWarLog) => Answered::PrivateWarLog,
            CallResult::Good(Classified::UnknownState(state)) => Answered::UnknownState(state),
            // Only a 404 is left: the endpoints of such objects are not classified in any other way.
            CallResult::Good(_) => Answered::Gone,
        };
        self.times.fetched(object, answered, None)
    }
}

impl<'a> Caller<'a> {
    pub const fn new(transport: &'a Transport, memory: Reservation<'a>, task: FetchTask<'a>) -> Self {
        Self { transport, task, memory, calls: 0, slowest_call: Duration::ZERO }
    }

    pub fn now(&self) -> Timestamp {
        self.task.time.now()
    }

    /// The calls begun, and the longest of them.
    pub const fn cost(&self) -> (u32, Duration) {
        (self.calls, self.slowest_call)
    }

    /// Hands the memory of the body to the document, which keeps it until it is stored.
    pub fn hand_memory_to(self, verdict: &mut Verdict) {
        if let Verdict::Answered(fetched) = verdict
            && let Answered::Document(document) = &mut fetched.answered
        {
            // A clan's member list is kept beside its document.
            let copies = if matches!(document, Document::Clan(_)) { 2 } else { 1 };
            let share = self.memory.keep(document.json().len() * copies);
            document.take_along(share);
        }
    }

    /// Calls, and calls again while it fails in a way that may be better at once. An obstacle before a later call does not
    /// replace the failure of the first.
    pub async fn call(&mut self, endpoint: &Endpoint<'_>) -> Reply {
        let mut reply = self.call_once(endpoint, self.task.earlier.clone()).await;
        while let CallResult::Failed(Verdict::Bad { accusation, ending: Ending::Attempt }) = &reply.result {
            let wait = Duration::from_millis(fastrand::u64(QUICK_TRY_DELAY_MS));
            let judge = self.task.judge;
            let is_worth_it = || accusation.may_be_a_hiccup() && judge.read(|judge| judge.is_alone(accusation));
            let has_time = Instant::now() + wait + MIN_CALL_TIME <= self.task.until;
            if self.task.quick_tries == 0 || !has_time || !is_worth_it() {
                break;
            }
            sleep(wait).await;
            // Checked again after the wait: if other calls have failed meanwhile, it is more than a hiccup.
            if !is_worth_it() {
                break;
            }
            self.task.quick_tries -= 1;
            let next = self.call_once(endpoint, Some(accusation.clone())).await;
            // The first failure stands when no second call could be made.
            if matches!(next.result, CallResult::Failed(Verdict::Prevented(_))) {
                break;
            }
            reply = next;
        }
        reply
    }

    async fn call_once(&mut self, endpoint: &Endpoint<'_>, earlier: Option<Accusation>) -> Reply {
        let earlier = earlier.map(|mut earlier| {
            self.task.judge.read(|judge| judge.call_again(&mut earlier));
            earlier
        });
        let (call, bearer, limit) = match self.begin(endpoint.kind()).await {
            Ok(begun) => begun,
            Err(obstacle) => {
                let times = Times::of(self.now(), self.now(), None, endpoint.longest_max_age());
                return Reply { result: CallResult::Failed(Verdict::Prevented(obstacle)), times };
            }
        };
        self.calls += 1;
        let pending = self.task.judge.begin(Call {
            requester: self.task.object.clone(),
            endpoint: endpoint.kind(),
            tag: endpoint.tag().as_str().to_owned(),
            key: call.key.clone(),
        });
        let time = self.task.time;
        let (began, started) = (time.now(), Instant::now());
        let connects = Connects::default();
        let clock = time.clock();
        let sending = self.transport.send(endpoint, bearer, limit, self.task.until, &mut self.memory, &**clock);
        let mut sent = pin!(connects.of(sending));
        let (response, waited) = tokio::select! {
            // Polled first, because the call must have its turn before the watch checks whether it has left.
            biased;
            response = &mut sent => response,
            never = call.watch(&connects) => match never {},
        };
        let took = started.elapsed().saturating_sub(waited);
        self.slowest_call = self.slowest_call.max(took);
        if counts_for_latency(&response) {
            self.task.keys.record_latency(endpoint, took);
        }
        let max_age = response
            .as_ref()
            .ok()
            .and_then(|Response { headers, .. }| max_age(headers).map(|left| left.saturating_sub(age(headers))));
        let times = Times::of(began, time.now(), max_age, endpoint.longest_max_age());
        let result = match classify(endpoint, &response) {
            Classified::Bad(Bad { sign, reason, ending }) => {
                CallResult::Failed(match pending.bad(sign, reason, earlier.as_ref()) {
                    Some(accusation) => Verdict::Bad { accusation, ending },
                    None => Verdict::Prevented(Obstacle::Deadline),
                })
            }
            Classified::Throttled(cooldown) => {
                // Every call of this run has to know it at once.
                self.task.keys.throttled(&call.key, cooldown, self.task.object);
                CallResult::Failed(Verdict::Throttled { key: call.key.clone(), cooldown })
            }
            Classified::OutOfTime => CallResult::Failed(Verdict::Prevented(Obstacle::Deadline)),
            Classified::DeadLetter { reason, body } => CallResult::Failed(Verdict::DeadLetter { reason, body }),
            classified => {
                if classified.is_good() {
                    pending.good();
                }
                CallResult::Good(classified)
            }
        };
        Reply { result, times }
    }

    /// Waits for a permit that is still valid, and begins a call with it. Returns the time that the call may take, too.
    async fn begin(&mut self, endpoint: EndpointKind) -> Result<(Begun<'a>, HeaderValue, Duration), Obstacle> {
        if !self.task.judge.update_quietly(|judge| judge.may_call(endpoint)) {
            return Err(Obstacle::CircuitOpen(endpoint));
        }
        // With less time left a permit would be wasted.
        let latest = self.task.until.checked_sub(MIN_CALL_TIME).unwrap_or(self.task.until);
        loop {
            let permit = match self.task.first_permit.take() {
                Some(permit) => permit,
                None => self.task.keys.permit(latest).await.map_err(|no_permit| match no_permit {
                    NoPermit::Deadline => Obstacle::Deadline,
                    NoPermit::NoUsableKey => Obstacle::NoUsableKey,
                    NoPermit::DailyQuotaExhausted => Obstacle::DailyQuotaExhausted,
                })?,
            };
            if Instant::now() > latest {
                return Err(Obstacle::Deadline);
            }
            if let Some((call, bearer)) = self.task.keys.begin(permit).await {
                let limit = self.task.until.saturating_duration_since(Instant::now()).min(CALL_TIMEOUT);
                return Ok((call, bearer, limit));
            }
        }
    }
}

/// True when the time of the call is that of a real response. Errors come sooner or later than those. A call that got no
/// response within its full time is the slowest there is.
const fn counts_for_latency(response: &Result<Response, TransportError>) -> bool {
    matches!(response, Ok(Response { status: 200 | 404, .. }) | Err(TransportError::TimedOut(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_age_is_the_spent_max_age() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let times = |left: Option<u64>| {
            let times = Times::of(at(1000), at(1003), left.map(Duration::from_secs), Duration::from_secs(120));
            (times.copied_at.as_millis() / 1000, times.fresh_until.as_millis() / 1000)
        };
        assert_eq!(times(Some(91)), (971, 1094));
        assert_eq!(times(Some(0)), (880, 1003));
        assert_eq!(times(None), (880, 1003));
        assert_eq!(times(Some(600)), (1000, 1603));
        assert_eq!(times(Some(86_400)), (1000, 4603));
    }
}
