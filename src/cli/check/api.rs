//! Looks at the API keys: one call with each, through the same client and limiter as a run, and only while the key's slot
//! is ours. **Invariant: a key is used by one run at a time**; a check is no exception.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{super::text::span, findings::Findings};
use crate::{
    api::{ApiClient, ApiKey, Ask, Fetch, Obstacle, RunKeys, SlotStart, Verdict, Wallet},
    clock::{Clock, ServerTime, SystemClock},
    config::ApiConfig,
    model::{Answered, ObjectId},
    queue::{Queue, QueueError, Slot, Slots},
};

const API: &str = "API";

/// How long a slot is held for one call.
const LIFETIME: Duration = Duration::from_secs(15);

/// What is asked for. Whether it is there does not matter: any answer about it proves the key.
const ASKED: &str = "player:2PP";

const NEW_KEY: &str =
    "make a key for this machine's address at https://developer.clashofclans.com, and set it as COC_API_TOKEN";

/// Looks at every key. Without a queue none can be tried: a run might be using it.
pub async fn look_at<Q: Queue + Slots>(findings: &mut Findings, config: &ApiConfig, queue: Option<&Q>) {
    let client = match ApiClient::new(&config.base_url) {
        Ok(client) => client,
        Err(error) => return findings.problem(API, format!("failed to {error}"), "set COC_BASE_URL"),
    };
    let Some(queue) = queue else {
        let why = "no key was tried: only Redis knows whether a run is using it";
        return findings.warning(API, why, "mend Redis first");
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    for key in Wallet::from_tokens(config.tokens.clone()).keys() {
        let trial = Trial { client: &client, queue, clock: &clock, key, reqs_per_sec: config.reqs_per_sec };
        if let Err(error) = trial.look_at(findings).await {
            findings.problem(API, super::redis::told(&error), "see Redis above");
        }
    }
}

/// One key on trial.
struct Trial<'a, Q> {
    client: &'a ApiClient,
    queue: &'a Q,
    clock: &'a Arc<dyn Clock>,
    key: &'a ApiKey,
    reqs_per_sec: u32,
}

impl<Q: Queue + Slots> Trial<'_, Q> {
    async fn look_at(&self, findings: &mut Findings) -> Result<(), QueueError> {
        let name = self.key.fingerprint();
        let run = format!("check-{:012x}", fastrand::u64(..1 << 48));
        let start = SlotStart::now(self.clock.as_ref());
        match self.queue.take_key(name, &run, LIFETIME).await? {
            Slot::Taken { learned_rate } => {
                let fetch = self.call(learned_rate, start).await;
                let interval = Duration::from_secs_f64(1.0 / f64::from(self.reqs_per_sec.max(1)));
                let fetch = fetch?;
                self.queue.give_back_key(name, &run, interval).await?;
                judge(findings, &format!("key {name}"), &fetch);
            }
            Slot::Held { .. } => findings.fine(API, format!("key {name} is in use by a run at this moment: not tried")),
            Slot::Paused { reason, for_another } => findings.warning(
                API,
                format!("key {name} rests for another {}: {reason}", span(for_another)),
                "wait: the next run after that uses it again",
            ),
        }
        Ok(())
    }

    async fn call(&self, learned_rate: Option<f64>, start: SlotStart) -> Result<Fetch, QueueError> {
        let keys = RunKeys::new(Arc::clone(self.clock), self.reqs_per_sec);
        keys.add(self.key.clone(), learned_rate, start, LIFETIME);
        let time = ServerTime::new(Arc::clone(self.clock), self.queue.time().await?);
        let object: ObjectId = ASKED.parse().expect("a constant that parses");
        let ask = Ask {
            object: &object,
            league: None,
            first_permit: None,
            keys: &keys,
            time: &time,
            until: Instant::now() + LIFETIME / 2,
            quick_tries: 1,
        };
        Ok(self.client.fetch(ask).await)
    }
}

fn judge(findings: &mut Findings, key: &str, fetch: &Fetch) {
    let took = span(fetch.slowest_call);
    match &fetch.verdict {
        Verdict::Answered(fetched) => {
            let answer = match fetched.answered {
                Answered::Document(_) => "with a document",
                Answered::Gone => "that there is no such player, which proves the key too",
                Answered::PrivateWarLog => "that this is private",
            };
            findings.fine(API, format!("{key} is accepted: answered within {took} {answer}"));
        }
        Verdict::DeadLetter { reason, .. } => findings.problem(
            API,
            format!("{key}: the answer cannot be understood: {reason}"),
            "does COC_BASE_URL lead to the API, with its version at the end?",
        ),
        Verdict::Transient { reason } => {
            findings.problem(API, format!("{key}: no good answer: {reason}"), "can this machine reach COC_BASE_URL?");
        }
        Verdict::GivenBack(obstacle) => judge_obstacle(findings, key, obstacle),
    }
}

fn judge_obstacle(findings: &mut Findings, key: &str, obstacle: &Obstacle) {
    match obstacle {
        Obstacle::Throttled { rest, .. } => findings.warning(
            API,
            format!("{key} is accepted, but refused for its rate (429) for {}", span(*rest)),
            "does another program use this key? lower COC_REQS_PER_SEC, or make a key of its own for each",
        ),
        Obstacle::Maintenance { detail } => {
            findings.warning(API, format!("{key}: the API is in maintenance: {detail}"), "wait");
        }
        Obstacle::KeyRejected { detail, .. } => {
            findings.problem(API, format!("{key} is not accepted: {detail}"), NEW_KEY);
        }
        Obstacle::KeyForbidden { detail, .. } => findings.problem(
            API,
            format!("{key} is forbidden: {detail}"),
            "the address of this machine may be banned, or something between it and the API refuses",
        ),
        Obstacle::NoUsableKey => {
            findings.problem(API, format!("{key} cannot be used: it has characters that no key has"), NEW_KEY);
        }
        Obstacle::Deadline => findings.problem(
            API,
            format!("{key}: no answer within {}", span(LIFETIME / 2)),
            "can this machine reach COC_BASE_URL?",
        ),
    }
}
