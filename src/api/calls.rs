//! The calls of one fetch: each with its permit, within the time, and with a few quick tries among them.

use std::{pin::pin, time::Duration};

use reqwest::header::HeaderValue;
use tokio::time::{Instant, sleep};

use super::{
    client::{ApiClient, CALL_TIMEOUT, SHORTEST_CALL},
    connects::Connects,
    run_keys::{Begun, NoPermit, Permit, RunKeys},
    verdict::{Endpoint, Heard, Obstacle, Ruling, Silence, Verdict, max_age, rule},
};
use crate::{
    clock::{ServerTime, Timestamp},
    model::{Answered, Document, Fetched, ObjectId, Reason, WarMemory},
};

/// The longest that an answer's `max-age` is believed.
pub const LONGEST_FRESHNESS: Duration = Duration::from_secs(60 * 60);

/// How long a key rests after a 403 that is about us and not about the token.
pub const FORBIDDEN_REST: Duration = Duration::from_secs(10 * 60);

/// The wait before a quick try, in milliseconds.
const QUICK_WAIT_MS: std::ops::RangeInclusive<u64> = 200..=600;

/// Makes the calls of one fetch and keeps count of them.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    client: &'a ApiClient,
    keys: &'a RunKeys,
    time: &'a ServerTime,
    until: Instant,
    /// What is left, for the whole fetch.
    quick_tries: u32,
    permit: Option<Permit>,
    calls: u32,
    slowest_call: Duration,
}

/// What one call came to, and the times that go with it.
#[derive(Debug)]
pub(super) struct Reply {
    pub ruling: Ruling,
    pub times: Times,
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
        let answered = match self.ruling {
            Ruling::Clan(clan) => Answered::Document(Document::Clan(clan)),
            Ruling::Player(player) => Answered::Document(Document::Player(player)),
            Ruling::War(war) => Answered::Document(Document::War(war)),
            Ruling::Gone => Answered::Gone,
            Ruling::PrivateWarLog => Answered::PrivateWarLog,
            Ruling::DeadLetter { reason, body } => return Verdict::DeadLetter { reason, body },
            Ruling::Transient(reason) => return Verdict::Transient { reason },
            Ruling::GivenBack(obstacle) => return Verdict::GivenBack(obstacle),
            // No endpoint of such objects is ruled like this.
            Ruling::OtherWar { .. } | Ruling::Group(_) | Ruling::NotInLeague => {
                return Verdict::Transient {
                    reason: Reason::new("unexpected_answer", "the answer of another endpoint"),
                };
            }
        };
        self.times.fetched(object, answered, None)
    }
}

impl<'a> Caller<'a> {
    pub fn new(
        client: &'a ApiClient,
        keys: &'a RunKeys,
        time: &'a ServerTime,
        until: Instant,
        quick_tries: u32,
        first_permit: Option<Permit>,
    ) -> Self {
        let (calls, slowest_call) = (0, Duration::ZERO);
        Self { client, keys, time, until, quick_tries, permit: first_permit, calls, slowest_call }
    }

    pub fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Calls begun, and the longest of them.
    pub const fn cost(&self) -> (u32, Duration) {
        (self.calls, self.slowest_call)
    }

    /// Calls, and calls again while it fails in a way that may go better at once. When nothing stands in the way of the
    /// first call but of a later one, the failure of the first is the answer.
    pub async fn call(&mut self, endpoint: &Endpoint<'_>) -> Reply {
        let mut reply = self.call_once(endpoint).await;
        while matches!(reply.ruling, Ruling::Transient(_)) && self.quick_tries > 0 {
            let wait = Duration::from_millis(fastrand::u64(QUICK_WAIT_MS));
            if Instant::now() + wait + SHORTEST_CALL > self.until {
                break;
            }
            self.quick_tries -= 1;
            sleep(wait).await;
            let next = self.call_once(endpoint).await;
            if matches!(
                next.ruling,
                Ruling::GivenBack(Obstacle::Deadline | Obstacle::NoUsableKey | Obstacle::DayUsedUp)
            ) {
                break;
            }
            reply = next;
        }
        reply
    }

    async fn call_once(&mut self, endpoint: &Endpoint<'_>) -> Reply {
        let (call, bearer, limit) = match self.begin().await {
            Ok(begun) => begun,
            Err(obstacle) => {
                let times = Times::of(self.now(), self.now(), None, endpoint.longest_max_age());
                return Reply { ruling: Ruling::GivenBack(obstacle), times };
            }
        };
        self.calls += 1;
        let (began, started) = (self.time.now(), Instant::now());
        let connects = Connects::default();
        let mut sent = pin!(connects.of(self.client.send(endpoint, bearer, limit, &**self.time.clock())));
        let heard = tokio::select! {
            biased;
            heard = &mut sent => heard,
            never = call.watch(&connects) => match never {},
        };
        let took = started.elapsed();
        self.slowest_call = self.slowest_call.max(took);
        if tells_how_quick(&heard) {
            self.keys.took(endpoint, took);
        }
        let max_age = match &heard {
            Heard::Answer { headers, .. } => max_age(headers),
            Heard::Nothing(_) => None,
        };
        let times = Times::of(began, self.time.now(), max_age, endpoint.longest_max_age());
        let ruling = rule(endpoint, &call.key, &heard);
        if let Ruling::GivenBack(obstacle) = &ruling {
            self.note(obstacle);
        }
        Reply { ruling, times }
    }

    /// A permit that holds, and the time its call may take.
    async fn begin(&mut self) -> Result<(Begun<'a>, HeaderValue, Duration), Obstacle> {
        let latest = self.until.checked_sub(SHORTEST_CALL).unwrap_or(self.until);
        loop {
            let permit = match self.permit.take() {
                Some(permit) => permit,
                None => self.keys.permit(latest).await.map_err(|no_permit| match no_permit {
                    NoPermit::Deadline => Obstacle::Deadline,
                    NoPermit::NoUsableKey => Obstacle::NoUsableKey,
                    NoPermit::DayUsedUp => Obstacle::DayUsedUp,
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

    /// What the API said about the key holds for every call of this run from now on.
    fn note(&self, obstacle: &Obstacle) {
        match obstacle {
            Obstacle::Throttled { key, rest } => self.keys.throttled(key, *rest),
            Obstacle::KeyRejected { key, detail } => self.keys.bench(key, detail),
            Obstacle::KeyForbidden { key, detail } => self.keys.rest(key, FORBIDDEN_REST, detail),
            Obstacle::Maintenance { .. } => self.keys.maintained(),
            Obstacle::NoUsableKey | Obstacle::DayUsedUp | Obstacle::Deadline => {}
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
