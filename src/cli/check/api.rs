//! Checks the API keys with one call each, through the client and limiter of a run, while it holds the key's slot.
//! **Invariant: a key is used by one run at a time**, and a check is no exception. In the developer portal it changes nothing:
//! what a run would create and revoke from this machine may be wrong for another one.

use std::{net::IpAddr, num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{super::text::span, findings::Findings};
use crate::{
    api::{
        ApiClient, ApiKey, Fetch, FetchTask, KeyPool, KeyStore, Obstacle, SlotStart, Verdict,
        budget::DailyQuota,
        judge::{SharedJudge, Sign},
        keys::{Account, AccountView, portal::address_in},
    },
    app,
    clock::{Clock, ServerTime, SystemClock},
    config::ApiConfig,
    model::{ObjectId, Reason},
    queue::{Queue, QueueError, SharedState, Slot},
    worker::{cooldown::CooldownReason, daily_quota, keys::KeySlots, login},
};

const API: &str = "API";
const PORTAL: &str = "developer portal";

/// A slot that ends within this time was released by its run, and is worth waiting for.
const MAX_SLOT_WAIT: Duration = Duration::from_secs(2);

/// Enough for one call with its timeouts.
const SLOT_LIFETIME: Duration = Duration::from_secs(15);

/// Longer than the login of another process usually takes.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The object of the test call. It need not exist: a 404 proves the key, too.
const TEST_OBJECT: &str = "player:2PP";

const NEW_KEY: &str =
    "create a key for this machine's address at https://developer.clashofclans.com, and set it as COC_API_TOKEN";

/// Checks every key. Without a queue none can be tested: a run might be using it.
pub async fn check<Q: Queue + SharedState>(findings: &mut Findings, config: &ApiConfig, queue: Option<&Q>) {
    let client = match ApiClient::new(&config.base_url) {
        Ok(client) => client.with_max_body(config.max_body),
        Err(error) => return findings.problem(API, error.to_string(), "set COC_BASE_URL"),
    };
    // A test call with a key in use could exceed its rate.
    let Some(queue) = queue else {
        let why = "no key was tested: only Redis knows whether a run is using it";
        return findings.warning(API, why, "fix Redis first");
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key_store = match app::key_store(config) {
        Ok(key_store) => key_store,
        Err(error) => return findings.problem(API, error.to_string(), "set COC_PORTAL_URL"),
    };
    let run = format!("check-{:012x}", fastrand::u64(..1 << 48));
    let mut keys = key_store.fixed().to_vec();
    for account in key_store.accounts() {
        let found = check_account(findings, queue, account, &run).await;
        // A key may be set by hand and be in an account as well.
        keys.extend(found.into_iter().filter(|key| key_store.fixed().iter().all(|fixed| !fixed.is(key))));
    }
    for key in &keys {
        let ApiConfig { reqs_per_sec, reqs_per_day, .. } = *config;
        let trial = Trial { client: &client, queue, clock: &clock, key, reqs_per_sec, reqs_per_day };
        if let Err(error) = trial.run(findings).await {
            findings.problem(API, error.to_string(), "see Redis above");
        }
    }
}

/// Checks every key, and nothing else.
pub async fn test<Q: Queue + SharedState>(config: &ApiConfig, queue: &Q) -> Findings {
    let mut findings = Findings::default();
    Box::pin(check(&mut findings, config, Some(queue))).await;
    findings
}

/// Checks an account of the portal, and what the login of a run would do there. Returns the keys that a run would keep.
async fn check_account<Q: Queue + SharedState>(
    findings: &mut Findings,
    queue: &Q,
    account: &Account,
    run: &str,
) -> Vec<ApiKey> {
    let until = Instant::now() + LOGIN_TIMEOUT;
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
            report_plan(findings, account, kept.len(), made, revoked);
            kept
        }
        Ok(Err(failure)) => {
            findings.problem(
                PORTAL,
                failure,
                "until then runs have only the other keys; `refresh-worker keys renew` tries again at once",
            );
            Vec::new()
        }
        Err(error) => {
            findings.problem(PORTAL, error.to_string(), "see Redis above");
            Vec::new()
        }
    };
    if let Some(seen) = account.view() {
        report_account(findings, name, &seen, &account.wanted().addresses);
    }
    kept
}

fn report_plan(findings: &mut Findings, account: &Account, kept: usize, made: usize, revoked: usize) {
    let (name, wanted) = (account.name(), account.wanted().count);
    let would = format!(
        "account {name}: a run on this machine would keep {kept} of our keys, create {made} and revoke {revoked} (nothing was \
         changed)"
    );
    match kept + made {
        0 => findings.problem(
            PORTAL,
            format!("{would}; the account has no room for a key"),
            "revoke an unused key at https://developer.clashofclans.com",
        ),
        fewer if fewer < wanted => findings.warning(
            PORTAL,
            format!("{would}; the account has no room for all {wanted}"),
            "ignore this if it is enough; else revoke unused keys, or lower COC_KEY_COUNT",
        ),
        _ => findings.fine(PORTAL, would),
    }
}

fn report_account(findings: &mut Findings, name: &str, seen: &AccountView, egress_ips: &[IpAddr]) {
    let AccountView { address, good, for_foreign_addresses: elsewhere, of_other_names, .. } = *seen;
    let view = address.map_or_else(|| "does not show our address".to_owned(), |ip| format!("sees us at {ip}"));
    findings.fine(
        PORTAL,
        format!(
            "account {name}: the portal {view}; it has {good} of our keys for this address, {elsewhere} for other addresses, and \
             {of_other_names} of other names"
        ),
    );
    // Without EGRESS_IPS keys are created for whatever address the portal sees.
    if let Some(address) = address.filter(|address| !egress_ips.is_empty() && !egress_ips.contains(address)) {
        findings.warning(
            PORTAL,
            format!("EGRESS_IPS does not contain {address}, the address of this machine as the portal sees it"),
            "ignore this if the worker runs on another machine; else add the address",
        );
    }
    if elsewhere > 0 {
        let addresses: Vec<&str> = seen.foreign_addresses.iter().map(String::as_str).collect();
        let addresses = addresses.join(", ");
        findings.warning(
            PORTAL,
            format!("account {name}: {elsewhere} of our keys are bound to other addresses ({addresses})"),
            "if no other machine needs them, `refresh-worker keys prune` lists and revokes them",
        );
    }
}

/// The test of one key.
struct Trial<'a, Q> {
    client: &'a ApiClient,
    queue: &'a Q,
    clock: &'a Arc<dyn Clock>,
    key: &'a ApiKey,
    reqs_per_sec: u32,
    reqs_per_day: Option<NonZeroU64>,
}

impl<Q: Queue + SharedState> Trial<'_, Q> {
    async fn run(&self, findings: &mut Findings) -> Result<(), QueueError> {
        let name = self.key.fingerprint();
        let run = format!("check-{:012x}", fastrand::u64(..1 << 48));
        let mut start = SlotStart::now(self.clock.as_ref());
        let mut slot = self.queue.take_key(name, &run, SLOT_LIFETIME).await?;
        if let Slot::Held { for_another } = slot
            && for_another <= MAX_SLOT_WAIT
        {
            // Its holder has just ended, perhaps a command like this one.
            tokio::time::sleep(for_another).await;
            start = SlotStart::now(self.clock.as_ref());
            slot = self.queue.take_key(name, &run, SLOT_LIFETIME).await?;
        }
        match slot {
            Slot::Taken { aimd_state } => {
                let keys = KeyPool::new(Arc::clone(self.clock), self.reqs_per_sec);
                keys.add(self.key.clone(), aimd_state, start, SLOT_LIFETIME);
                let key_store = KeyStore::default();
                let ring = KeySlots::new(self.queue, self.clock.as_ref(), &key_store, &keys, &run, SLOT_LIFETIME, None);
                let fetch = self.call(&keys).await?;
                // Runs need not find out by themselves.
                if let Some(detail) = rejected_for_runs(&fetch) {
                    keys.reject(name, detail);
                }
                ring.share_cooldowns().await?;
                ring.release().await?;
                report(findings, &format!("key {name}"), &fetch);
            }
            Slot::Held { .. } => findings.fine(API, format!("key {name} was not tested: a run is using it")),
            Slot::CoolingDown { reason, for_another } => match CooldownReason::parse(&reason) {
                // The API rejected it a moment ago, and another call would not change that.
                CooldownReason::Rejected(reason) => {
                    findings.problem(API, format!("the API rejects key {name}: {reason}"), NEW_KEY);
                }
                CooldownReason::Other(reason) => findings.warning(
                    API,
                    format!("key {name} is cooling down for another {}: {reason}", span(for_another)),
                    "wait: runs use it again after that",
                ),
            },
        }
        Ok(())
    }

    async fn call(&self, keys: &KeyPool) -> Result<Fetch, QueueError> {
        let time = ServerTime::new(Arc::clone(self.clock), self.queue.time().await?);
        // A test call counts against the day, as every call does.
        if let Some(per_day) = self.reqs_per_day {
            let quota = DailyQuota::new(per_day, time.clone());
            let day = quota.today();
            quota.grant(day, self.queue.take_calls(day, 1, per_day.get()).await?.granted);
            keys.set_daily_quota(quota);
        }
        let object: ObjectId = TEST_OBJECT.parse().expect("a constant that parses");
        let ask = FetchTask {
            object: &object,
            league: None,
            first_permit: None,
            keys,
            judge: &SharedJudge::default(),
            time: &time,
            until: Instant::now() + SLOT_LIFETIME / 2,
            // A retry would hide a flaky connection.
            quick_tries: 0,
            earlier: None,
        };
        let fetch = self.client.fetch(ask).await;
        daily_quota::return_rest(self.queue, keys).await?;
        Ok(fetch)
    }
}

/// Why runs will be rejected with this key, too. `None` when the reason is the address, since a run may have another one.
fn rejected_for_runs(fetch: &Fetch) -> Option<&str> {
    match &fetch.verdict {
        Verdict::Bad { accusation, .. } if *accusation.sign() == Sign::Rejected => {
            Some(accusation.reason.detail.as_str()).filter(|detail| address_in(detail).is_none())
        }
        _ => None,
    }
}

fn report(findings: &mut Findings, key: &str, fetch: &Fetch) {
    let took = span(fetch.slowest_call);
    match &fetch.verdict {
        Verdict::Answered(_) => findings.fine(API, format!("{key} works (test call: {took})")),
        // Not a player: a proxy or a wrong address may have responded.
        Verdict::DeadLetter { reason, .. } => findings.problem(
            API,
            format!("{key}: the response cannot be read: {reason}"),
            "check that COC_BASE_URL is the address of the API, with the version at its end",
        ),
        Verdict::Bad { accusation, .. } => report_bad(findings, key, accusation.sign(), &accusation.reason),
        Verdict::Throttled { cooldown, .. } => findings.warning(
            API,
            format!("{key} is accepted, but throttled (429) for {}", span(*cooldown)),
            "if another program uses this key, create a key for each; else lower COC_REQS_PER_SEC",
        ),
        Verdict::Prevented(obstacle) => report_obstacle(findings, key, *obstacle),
    }
}

fn report_bad(findings: &mut Findings, key: &str, sign: &Sign, reason: &Reason) {
    match sign {
        Sign::Maintenance | Sign::Unavailable => {
            findings.warning(API, format!("{key} was not tested: the API is in maintenance: {}", reason.detail), "wait");
        }
        Sign::Rejected => findings.problem(API, format!("the API rejects {key}: {}", reason.detail), NEW_KEY),
        Sign::Forbidden => findings.problem(
            API,
            format!("the API forbids calls with {key}: {}", reason.detail),
            "create a new key, if it may have expired; else see whether this machine's address is banned, or a proxy refuses the call",
        ),
        Sign::Foreign(_) => findings.problem(
            API,
            format!("{key}: the response is not from the API: {reason}"),
            "check that COC_BASE_URL is the address of the API, with the version at its end, and that no proxy responds instead",
        ),
        Sign::Failed => {
            findings.problem(API, format!("{key}: the test call failed: {reason}"), "check that this machine can reach COC_BASE_URL");
        }
    }
}

fn report_obstacle(findings: &mut Findings, key: &str, obstacle: Obstacle) {
    match obstacle {
        Obstacle::NoUsableKey => {
            findings.problem(API, format!("{key} cannot be used: it has characters that no key can have"), NEW_KEY);
        }
        Obstacle::DailyQuotaExhausted => {
            findings.warning(
                API,
                format!("{key} was not tested: the calls of the day are used up"),
                "wait until midnight UTC",
            );
        }
        Obstacle::Deadline | Obstacle::CircuitOpen(_) => findings.problem(
            API,
            format!("{key}: no response within {}", span(SLOT_LIFETIME / 2)),
            "check that this machine can reach COC_BASE_URL",
        ),
    }
}
