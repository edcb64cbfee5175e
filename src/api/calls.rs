//! The calls of one fetch: each with its permit, within the time, and with a few quick tries among them.

use std::{pin::pin, time::Duration};

use reqwest::header::HeaderValue;
use tokio::time::{Instant, sleep};

use super::{
    client::{ApiClient, FetchTask, CALL_TIMEOUT, SHORTEST_CALL},
    connects::Connects,
    judge::{Accusation, Bench, Call},
    room::Room,
    run_keys::{Begun, NoPermit, Permit, KeyPool},
    verdict::{Bad, Classified, Ending, Endpoint, Heard, Obstacle, Silence, Verdict, age, classify, max_age},
};
use crate::{
    clock::{ServerTime, Timestamp},
    model::{Answered, Document, EndpointKind, Fetched, ObjectId, WarMemory},
};

/// The longest that an answer's `max-age` is believed.
pub const LONGEST_FRESHNESS: Duration = Duration::from_secs(60 * 60);

/// The wait before a quick try, in milliseconds.
const QUICK_WAIT_MS: std::ops::RangeInclusive<u64> = 200..=600;

/// Makes the calls of one fetch and keeps count of them.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    client: &'a ApiClient,
    object: &'a ObjectId,
    keys: &'a KeyPool,
    bench: &'a SharedJudge,
    time: &'a ServerTime,
    until: Instant,
    /// What the object is accused of since an earlier fetch.
    earlier: Option<Accusation>,
    /// What is left, for the whole fetch.
    quick_tries: u32,
    permit: Option<Permit>,
    /// For all bodies of this fetch.
    room: Room<'a>,
    calls: u32,
    slowest_call: Duration,
}

/// What one call came to, and the times that go with it.
#[derive(Debug)]
pub(super) struct Reply {
    pub came: Came,
    pub times: Times,
}

/// What one call came to.
#[derive(Debug)]
pub(super) enum Came {
    Well(Classified),
    /// Anything that leaves this call without what it was made for.
    Badly(Verdict),
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
        let left = max_age.unwrap_or_default();
        Self {
            began,
            copied_at: began - longest_max_age.saturating_sub(left),
            fresh_until: ended + left.min(LONGEST_FRESHNESS),
        }
    }

    /// When the copy that came may have been made.
    pub const fn copied_at(&self) -> Timestamp {
        self.copied_at
    }

    /// The same, but the next call would ask for something else: nothing is gained by waiting for another copy.
    pub const fn not_worth_waiting_for(self) -> Self {
        Self { fresh_until: self.began, ..self }
    }

    pub fn fetched(self, object: &ObjectId, answered: Answered, league: Option<WarMemory>) -> Verdict {
        let Self { began, copied_at, fresh_until } = self;
        let fetched = Fetched { object: object.clone(), began, copied_at, fresh_until, answered, league };
        Verdict::Answered(Box::new(fetched))
    }
}

impl Reply {
    /// For objects that one call answers.
    pub fn into_verdict(self, object: &ObjectId) -> Verdict {
        let answered = match self.came {
            Came::Badly(verdict) => return verdict,
            Came::Well(Classified::Clan(clan)) => Answered::Document(Document::Clan(clan)),
            Came::Well(Classified::Player(player)) => Answered::Document(Document::Player(player)),
            Came::Well(Classified::War(war)) => Answered::Document(Document::War(war)),
            Came::Well(Classified::PrivateWarLog) => Answered::PrivateWarLog,
            Came::Well(Classified::UnknownState(state)) => Answered::UnknownState(state),
            // Only a 404 is left: no endpoint of such objects is classified in any other way.
            Came::Well(_) => Answered::Gone,
        };
        self.times.fetched(object, answered, None)
    }
}

impl<'a> Caller<'a> {
    pub fn new(client: &'a ApiClient, ask: FetchTask<'a>) -> Self {
        let FetchTask { object, league: _, first_permit, keys, bench, time, until, quick_tries, earlier } = ask;
        let (permit, calls, slowest_call) = (first_permit, 0, Duration::ZERO);
        let room = client.room();
        Self { client, object, keys, bench, time, until, earlier, quick_tries, permit, room, calls, slowest_call }
    }

    pub fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Calls begun, and the longest of them.
    pub const fn cost(&self) -> (u32, Duration) {
        (self.calls, self.slowest_call)
    }

    /// The answer takes its share of the room with it, until it is stored.
    pub fn leave_room(self, verdict: &mut Verdict) {
        if let Verdict::Answered(fetched) = verdict
            && let Answered::Document(document) = &mut fetched.answered
        {
            let copies = if matches!(document, Document::Clan(_)) { 2 } else { 1 };
            let taken = self.room.keep(document.json().len() * copies);
            document.take_along(taken);
        }
    }

    /// Calls, and calls again while it fails in a way that may go better at once. When nothing stands in the way of the
    /// first call but of a later one, the failure of the first is the answer.
    pub async fn call(&mut self, endpoint: &Endpoint<'_>) -> Reply {
        let mut reply = self.call_once(endpoint, self.earlier.clone()).await;
        while let Came::Badly(Verdict::Bad { accusation, ending: Ending::Attempt }) = &reply.came {
            let wait = Duration::from_millis(fastrand::u64(QUICK_WAIT_MS));
            let is_worth_it = || accusation.may_be_a_hiccup() && self.bench.read(|judge| judge.is_alone(accusation));
            if self.quick_tries == 0 || Instant::now() + wait + SHORTEST_CALL > self.until || !is_worth_it() {
                break;
            }
            sleep(wait).await;
            // Meanwhile others may have failed, too: then it is no hiccup.
            if !is_worth_it() {
                break;
            }
            self.quick_tries -= 1;
            let next = self.call_once(endpoint, Some(accusation.clone())).await;
            if matches!(next.came, Came::Badly(Verdict::Prevented(_))) {
                break;
            }
            reply = next;
        }
        reply
    }

    async fn call_once(&mut self, endpoint: &Endpoint<'_>, earlier: Option<Accusation>) -> Reply {
        let earlier = earlier.map(|mut earlier| {
            self.bench.read(|judge| judge.call_again(&mut earlier));
            earlier
        });
        let (call, bearer, limit) = match self.begin(endpoint.kind()).await {
            Ok(begun) => begun,
            Err(obstacle) => {
                let times = Times::of(self.now(), self.now(), None, endpoint.longest_max_age());
                return Reply { came: Came::Badly(Verdict::Prevented(obstacle)), times };
            }
        };
        self.calls += 1;
        let pending = self.bench.begin(Call {
            requester: self.object.clone(),
            endpoint: endpoint.kind(),
            tag: endpoint.tag().as_str().to_owned(),
            key: call.key.clone(),
        });
        let (began, started) = (self.time.now(), Instant::now());
        let connects = Connects::default();
        let clock = self.time.clock();
        let sending = self.client.send(endpoint, bearer, limit, self.until, &mut self.room, &**clock);
        let mut sent = pin!(connects.of(sending));
        let (heard, waited) = tokio::select! {
            biased;
            heard = &mut sent => heard,
            never = call.watch(&connects) => match never {},
        };
        let took = started.elapsed().saturating_sub(waited);
        self.slowest_call = self.slowest_call.max(took);
        if tells_how_quick(&heard) {
            self.keys.took(endpoint, took);
        }
        let max_age = match &heard {
            Heard::Answer { headers, .. } => max_age(headers).map(|left| left.saturating_sub(age(headers))),
            Heard::Nothing(_) => None,
        };
        let times = Times::of(began, self.time.now(), max_age, endpoint.longest_max_age());
        let came = match classify(endpoint, &heard) {
            Classified::Bad(Bad { sign, reason, ending }) => match pending.bad(sign, reason, earlier.as_ref()) {
                Some(accusation) => Came::Badly(Verdict::Bad { accusation, ending }),
                None => Came::Badly(Verdict::Prevented(Obstacle::Deadline)),
            },
            Classified::Throttled(rest) => {
                // What the API said about the key holds for every call of this run from now on.
                self.keys.throttled(&call.key, rest, self.object);
                Came::Badly(Verdict::Throttled { key: call.key.clone(), cooldown: rest })
            }
            Classified::OutOfTime => Came::Badly(Verdict::Prevented(Obstacle::Deadline)),
            Classified::DeadLetter { reason, body } => Came::Badly(Verdict::DeadLetter { reason, body }),
            classified => {
                if classified.is_good() {
                    pending.good();
                }
                Came::Well(classified)
            }
        };
        Reply { came, times }
    }

    /// A permit that holds, and the time its call may take.
    async fn begin(&mut self, endpoint: EndpointKind) -> Result<(Begun<'a>, HeaderValue, Duration), Obstacle> {
        if !self.bench.update_quietly(|judge| judge.may_call(endpoint)) {
            return Err(Obstacle::CircuitOpen(endpoint));
        }
        let latest = self.until.checked_sub(SHORTEST_CALL).unwrap_or(self.until);
        loop {
            let permit = match self.permit.take() {
                Some(permit) => permit,
                None => self.keys.permit(latest).await.map_err(|no_permit| match no_permit {
                    NoPermit::Deadline => Obstacle::Deadline,
                    NoPermit::NoUsableKey => Obstacle::NoUsableKey,
                    NoPermit::DailyQuotaExhausted => Obstacle::DailyQuotaExhausted,
                })?,
            };
            if Instant::now() > latest {
                return Err(Obstacle::Deadline);
            }
            if let Some((call, bearer)) = self.keys.begin(permit).await {
                let limit = self.until.saturating_duration_since(Instant::now()).min(CALL_TIMEOUT);
                return Ok((call, bearer, limit));
            }
        }
    }
}

/// Whether the time that this took is that of an answer. Errors come sooner or later than answers; a silence that lasted
/// as long as a call may take is the slowest answer there is.
const fn tells_how_quick(heard: &Heard) -> bool {
    matches!(heard, Heard::Answer { status: 200 | 404, .. } | Heard::Nothing(Silence::TimedOut(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_copy_is_what_max_age_leaves_open() {
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
