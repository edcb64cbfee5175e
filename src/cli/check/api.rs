//! Looks at the API keys: one call with each, through the same client and limiter as a run, and only while the key's slot
//! is ours. **Invariant: a key is used by one run at a time**; a check is no exception.

use std::{net::IpAddr, num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::text::{counted, span},
    findings::Findings,
};
use crate::{
    api::{
        ApiClient, ApiKey, Ask, Fetch, Obstacle, RunKeys, SlotStart, Verdict, Wallet,
        allowance::Allowance,
        wallet::{Account, Seen},
    },
    app,
    clock::{Clock, ServerTime, SystemClock},
    config::ApiConfig,
    model::{Answered, LearnedRate, ObjectId},
    queue::{Queue, QueueError, Slot, Slots},
    worker::{allowance, login},
};

const API: &str = "API";
const PORTAL: &str = "developer portal";

/// How long a slot is held for one call.
const LIFETIME: Duration = Duration::from_secs(15);

/// How long another process's login is waited for.
const LOGIN_TIME: Duration = Duration::from_secs(20);

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
    let wallet = match app::wallet(config) {
        Ok(wallet) => wallet,
        Err(error) => return findings.problem(API, format!("failed to {error}"), "set COC_PORTAL_URL"),
    };
    let run = format!("check-{:012x}", fastrand::u64(..1 << 48));
    for account in wallet.accounts() {
        look_at_account(findings, queue, account, &run, clock.as_ref()).await;
    }
    try_all(findings, &client, queue, &clock, &wallet, config).await;
}

/// Tries every key, and looks at nothing else.
pub async fn test<Q: Queue + Slots>(config: &ApiConfig, queue: &Q) -> Findings {
    let mut findings = Findings::default();
    Box::pin(look_at(&mut findings, config, Some(queue))).await;
    findings
}

/// What the portal says about an account, with the keys that it gave.
async fn look_at_account<Q: Queue + Slots>(
    findings: &mut Findings,
    queue: &Q,
    account: &Account,
    run: &str,
    clock: &dyn Clock,
) {
    let until = Instant::now() + LOGIN_TIME;
    let name = account.name();
    match login::with_right(queue, account, run, until, login::renew(queue, account, clock)).await {
        Ok(Ok(given)) => {
            let keys = counted(given.keys.len() as u64, "key", "keys");
            let (made, revoked) = (given.made, given.revoked);
            findings.fine(PORTAL, format!("account {name}: {keys} to use ({made} made, {revoked} revoked just now)"));
        }
        Ok(Err(failure)) => {
            findings.problem(
                PORTAL,
                format!("failed to {failure}"),
                "until then a run has only the other keys; `refresh-worker keys renew` tries again at once",
            );
        }
        Err(error) => findings.problem(PORTAL, super::redis::told(&error), "see Redis above"),
    }
    if let Some(seen) = account.seen() {
        judge_account(findings, name, seen, &account.wish().addresses);
    }
}

fn judge_account(findings: &mut Findings, name: &str, seen: Seen, egress_ips: &[IpAddr]) {
    let Seen { address, good, stale, foreign } = seen;
    let view = address.map_or_else(|| "does not say which address it sees".to_owned(), |ip| format!("sees us at {ip}"));
    findings.fine(
        PORTAL,
        format!(
            "account {name}: the portal {view}; there were {good} of our keys for here, {stale} for other addresses, {foreign} of \
             other names"
        ),
    );
    if let Some(address) = address.filter(|address| !egress_ips.is_empty() && !egress_ips.contains(address)) {
        findings.warning(
            PORTAL,
            format!("EGRESS_IPS does not have {address}, where the portal sees this machine"),
            "fine when this is not the machine that the worker runs on; else add it",
        );
    }
    if stale > 0 {
        findings.warning(
            PORTAL,
            format!("account {name}: {stale} of our keys are bound to other addresses"),
            "`refresh-worker keys prune` says which and revokes them, if no other machine needs them",
        );
    }
}

async fn try_all<Q: Queue + Slots>(
    findings: &mut Findings,
    client: &ApiClient,
    queue: &Q,
    clock: &Arc<dyn Clock>,
    wallet: &Wallet,
    config: &ApiConfig,
) {
    for key in wallet.keys() {
        let ApiConfig { reqs_per_sec, reqs_per_day, .. } = *config;
        let trial = Trial { client, queue, clock, key: &key, reqs_per_sec, reqs_per_day };
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
    reqs_per_day: Option<NonZeroU64>,
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

    async fn call(&self, learned_rate: Option<LearnedRate>, start: SlotStart) -> Result<Fetch, QueueError> {
        let keys = RunKeys::new(Arc::clone(self.clock), self.reqs_per_sec);
        keys.add(self.key.clone(), learned_rate, start, LIFETIME);
        let time = ServerTime::new(Arc::clone(self.clock), self.queue.time().await?);
        if let Some(per_day) = self.reqs_per_day {
            let allowance = Allowance::new(per_day, time.clone());
            let day = allowance.today();
            allowance.grant(day, self.queue.take_calls(day, 1, per_day.get()).await?.granted);
            keys.limit_the_day(allowance);
        }
        let object: ObjectId = ASKED.parse().expect("a constant that parses");
        let ask = Ask {
            object: &object,
            league: None,
            first_permit: None,
            keys: &keys,
            time: &time,
            until: Instant::now() + LIFETIME / 2,
            quick_tries: 0,
        };
        let fetch = self.client.fetch(ask).await;
        allowance::give_back(self.queue, &keys).await?;
        Ok(fetch)
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
        Obstacle::DayUsedUp => {
            findings.warning(
                API,
                format!("{key} was not tried: the calls of this day are used up"),
                "wait until midnight in UTC",
            );
        }
        Obstacle::Deadline => findings.problem(
            API,
            format!("{key}: no answer within {}", span(LIFETIME / 2)),
            "can this machine reach COC_BASE_URL?",
        ),
    }
}
