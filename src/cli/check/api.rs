//! Looks at the API keys: one call with each, through the same client and limiter as a run, and only while the key's slot
//! is ours. **Invariant: a key is used by one run at a time**; a check is no exception. In an account of the portal it only
//! looks: what a run would make and revoke there from this machine may be right for another one.

use std::{net::IpAddr, num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{super::text::span, findings::Findings};
use crate::{
    api::{
        ApiClient, ApiKey, Ask, Fetch, Obstacle, RunKeys, SlotStart, Verdict, Wallet,
        allowance::Allowance,
        judge::{Bench, Sign},
        portal::address_in,
        wallet::{Account, Seen},
    },
    app,
    clock::{Clock, ServerTime, SystemClock},
    config::ApiConfig,
    model::{Answered, ObjectId, Reason},
    queue::{Queue, QueueError, Slot, Slots},
    worker::{
        allowance,
        keys::{BENCHED, KeyRing},
        login,
    },
};

const API: &str = "API";
const PORTAL: &str = "developer portal";

/// A slot that is free again as soon as this is only waited for. One that a run holds lasts longer.
const LINGER: Duration = Duration::from_secs(2);

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
        Ok(client) => client.with_max_body(config.max_body),
        Err(error) => return findings.problem(API, error.to_string(), "set COC_BASE_URL"),
    };
    let Some(queue) = queue else {
        let why = "no key was tried: only Redis knows whether a run is using it";
        return findings.warning(API, why, "mend Redis first");
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let wallet = match app::wallet(config) {
        Ok(wallet) => wallet,
        Err(error) => return findings.problem(API, error.to_string(), "set COC_PORTAL_URL"),
    };
    let run = format!("check-{:012x}", fastrand::u64(..1 << 48));
    let mut keys = wallet.fixed().to_vec();
    for account in wallet.accounts() {
        let found = look_at_account(findings, queue, account, &run).await;
        keys.extend(found.into_iter().filter(|key| wallet.fixed().iter().all(|fixed| !fixed.is(key))));
    }
    for key in &keys {
        let ApiConfig { reqs_per_sec, reqs_per_day, .. } = *config;
        let trial = Trial { client: &client, queue, clock: &clock, key, reqs_per_sec, reqs_per_day };
        if let Err(error) = trial.look_at(findings).await {
            findings.problem(API, super::redis::told(&error), "see Redis above");
        }
    }
}

/// Tries every key, and looks at nothing else.
pub async fn test<Q: Queue + Slots>(config: &ApiConfig, queue: &Q) -> Findings {
    let mut findings = Findings::default();
    Box::pin(look_at(&mut findings, config, Some(queue))).await;
    findings
}

/// What the portal says about an account, and what a login of a run would do there. Answers the keys that it would keep.
async fn look_at_account<Q: Queue + Slots>(
    findings: &mut Findings,
    queue: &Q,
    account: &Account,
    run: &str,
) -> Vec<ApiKey> {
    let until = Instant::now() + LOGIN_TIME;
    let name = account.name();
    let look = async {
        let visit = account.visit().await?;
        let known = login::known(queue, &visit, run).await?;
        let plan = visit.plan(&known);
        let kept: Vec<ApiKey> = plan.keep.iter().map(|key| ApiKey::new(key.key.clone())).collect();
        let (made, revoked) = (plan.create, plan.revoke.len());
        Ok((kept, made, revoked))
    };
    let kept = match login::look_into(queue, account, until, look).await {
        Ok(Ok((kept, made, revoked))) => {
            judge_plan(findings, account, kept.len(), made, revoked);
            kept
        }
        Ok(Err(failure)) => {
            findings.problem(
                PORTAL,
                format!("failed to {failure}"),
                "until then a run has only the other keys; `refresh-worker keys renew` tries again at once",
            );
            Vec::new()
        }
        Err(error) => {
            findings.problem(PORTAL, super::redis::told(&error), "see Redis above");
            Vec::new()
        }
    };
    if let Some(seen) = account.seen() {
        judge_account(findings, name, &seen, &account.wanted().addresses);
    }
    kept
}

fn judge_plan(findings: &mut Findings, account: &Account, kept: usize, made: usize, revoked: usize) {
    let (name, wanted) = (account.name(), account.wanted().count);
    let would = format!(
        "account {name}: a login of a run from here would keep {kept} of our keys, make {made} and revoke {revoked}; nothing \
         was changed"
    );
    match kept + made {
        0 => findings.problem(
            PORTAL,
            format!("{would}: there is no room for a key"),
            "revoke a key that nobody needs at https://developer.clashofclans.com",
        ),
        fewer if fewer < wanted => findings.warning(
            PORTAL,
            format!("{would}: there is no room for all {wanted}"),
            "fine if that is enough; else revoke keys that nobody needs, or lower COC_KEY_COUNT",
        ),
        _ => findings.fine(PORTAL, would),
    }
}

fn judge_account(findings: &mut Findings, name: &str, seen: &Seen, egress_ips: &[IpAddr]) {
    let Seen { address, good, stale, foreign, .. } = *seen;
    let view = address.map_or_else(|| "does not say which address it sees".to_owned(), |ip| format!("sees us at {ip}"));
    findings.fine(
        PORTAL,
        format!(
            "account {name}: the portal {view}; there are {good} of our keys for here, {stale} for other addresses, {foreign} of \
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
        let addresses: Vec<&str> = seen.stale_addresses.iter().map(String::as_str).collect();
        let addresses = addresses.join(", ");
        findings.warning(
            PORTAL,
            format!("account {name}: {stale} of our keys are bound to other addresses ({addresses})"),
            "`refresh-worker keys prune` says which and revokes them, if no other machine needs them",
        );
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
        let mut start = SlotStart::now(self.clock.as_ref());
        let mut slot = self.queue.take_key(name, &run, LIFETIME).await?;
        if let Slot::Held { for_another } = slot
            && for_another <= LINGER
        {
            // Whoever had it has just stopped, perhaps a command like this one.
            tokio::time::sleep(for_another).await;
            start = SlotStart::now(self.clock.as_ref());
            slot = self.queue.take_key(name, &run, LIFETIME).await?;
        }
        match slot {
            Slot::Taken { learned_rate } => {
                let keys = RunKeys::new(Arc::clone(self.clock), self.reqs_per_sec);
                keys.add(self.key.clone(), learned_rate, start, LIFETIME);
                let wallet = Wallet::default();
                let ring = KeyRing::new(self.queue, self.clock.as_ref(), &wallet, &keys, &run, LIFETIME, None);
                let fetch = self.call(&keys).await?;
                if let Some(detail) = rejected_for_runs(&fetch) {
                    keys.bench(name, detail);
                }
                ring.share_rests().await?;
                ring.give_back().await?;
                judge(findings, &format!("key {name}"), &fetch);
            }
            Slot::Held { .. } => findings.fine(API, format!("key {name} is in use by a run at this moment: not tried")),
            Slot::Paused { reason, for_another } => match reason.strip_prefix(BENCHED) {
                // It was refused a moment ago: that it is not asked again now makes it no better.
                Some(reason) => {
                    findings.problem(API, format!("key {name} was not accepted by the API: {reason}"), NEW_KEY);
                }
                None => findings.warning(
                    API,
                    format!("key {name} cools down for another {}: {reason}", span(for_another)),
                    "wait: the next run after that uses it again",
                ),
            },
        }
        Ok(())
    }

    async fn call(&self, keys: &RunKeys) -> Result<Fetch, QueueError> {
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
            keys,
            bench: &Bench::default(),
            time: &time,
            until: Instant::now() + LIFETIME / 2,
            quick_tries: 0,
            earlier: None,
        };
        let fetch = self.client.fetch(ask).await;
        allowance::give_back(self.queue, keys).await?;
        Ok(fetch)
    }
}

/// Why runs will not be accepted with this key either. One that comes from another address may well be.
fn rejected_for_runs(fetch: &Fetch) -> Option<&str> {
    match &fetch.verdict {
        Verdict::Bad { accusation, .. } if *accusation.sign() == Sign::Rejected => {
            Some(accusation.reason.detail.as_str()).filter(|detail| address_in(detail).is_none())
        }
        _ => None,
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
                Answered::UnknownState(_) => "in a state that is not known",
            };
            findings.fine(API, format!("{key} is accepted: answered within {took} {answer}"));
        }
        Verdict::DeadLetter { reason, .. } => findings.problem(
            API,
            format!("{key}: the answer cannot be understood: {reason}"),
            "does COC_BASE_URL lead to the API, with its version at the end?",
        ),
        Verdict::Bad { accusation, .. } => judge_bad(findings, key, accusation.sign(), &accusation.reason),
        Verdict::Throttled { rest, .. } => findings.warning(
            API,
            format!("{key} is accepted, but refused for its rate (429) for {}", span(*rest)),
            "does another program use this key? lower COC_REQS_PER_SEC, or make a key of its own for each",
        ),
        Verdict::Prevented(obstacle) => judge_obstacle(findings, key, *obstacle),
    }
}

fn judge_bad(findings: &mut Findings, key: &str, sign: &Sign, reason: &Reason) {
    match sign {
        Sign::Maintenance | Sign::Unavailable => {
            findings.warning(API, format!("{key}: the API is in maintenance: {}", reason.detail), "wait");
        }
        Sign::Rejected => findings.problem(API, format!("{key} is not accepted: {}", reason.detail), NEW_KEY),
        Sign::Forbidden => findings.problem(
            API,
            format!("{key} is forbidden: {}", reason.detail),
            "the key may have expired: make a new one; or the address of this machine is banned, or something between it and the \
             API refuses",
        ),
        Sign::Foreign(_) => findings.problem(
            API,
            format!("{key}: the answer is not the API's: {reason}"),
            "does COC_BASE_URL lead to the API, with its version at the end, and does no proxy answer in its place?",
        ),
        Sign::Failed => {
            findings.problem(API, format!("{key}: no good answer: {reason}"), "can this machine reach COC_BASE_URL?");
        }
    }
}

fn judge_obstacle(findings: &mut Findings, key: &str, obstacle: Obstacle) {
    match obstacle {
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
        Obstacle::Deadline | Obstacle::CircuitOpen(_) => findings.problem(
            API,
            format!("{key}: no answer within {}", span(LIFETIME / 2)),
            "can this machine reach COC_BASE_URL?",
        ),
    }
}
