//! Checks Redis: it responds, we may write, it loses no requests, producers write where we read, and its clock agrees with
//! ours.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::text::{counted, span},
    findings::Findings,
};
use crate::{
    clock::{Clock as _, ClocksApart, SystemClock, Timestamp},
    config::RedisConfig,
    queue::{
        Queue as _,
        redis::{Inspection, RedisQueue},
    },
    worker::report::QueueReport,
};

const REDIS: &str = "Redis";

/// Checks Redis, and returns the queue if it responds.
pub async fn check(findings: &mut Findings, config: &RedisConfig) -> Option<RedisQueue> {
    let queue = match RedisQueue::connect(config, Arc::new(SystemClock)) {
        Ok(queue) => queue,
        Err(error) => {
            findings.problem(REDIS, error.to_string(), "set REDIS_URL");
            return None;
        }
    };
    // First, since a missing right explains many later errors.
    check_rights(findings, &queue).await;
    // The round trip is the uncertainty of the comparison.
    let asked = Instant::now();
    let server = match queue.time().await {
        Ok(server) => server,
        Err(error) => {
            findings.problem(
                REDIS,
                error.to_string(),
                "check that it runs at this address, and that this machine may connect",
            );
            return None;
        }
    };
    compare_clocks(findings, SystemClock.wall(), server, asked.elapsed());
    match queue.inspect().await {
        Ok(inspection) => report(findings, queue.server(), queue.is_cluster(), &inspection),
        Err(error) => findings.problem(REDIS, error.to_string(), ""),
    }
    check_queue(findings, &queue, server).await;
    check_namespaces(findings, &queue, &config.namespace).await;
    Some(queue)
}

/// Reports every missing right, even one that no run needs today.
async fn check_rights(findings: &mut Findings, queue: &RedisQueue) {
    // The next call reports why Redis does not respond.
    let Ok(missing) = queue.missing_rights().await else { return };
    if missing.is_empty() {
        return;
    }
    let (user, rights) = (queue.user(), missing.keys.iter().chain(&missing.commands));
    let rights = rights.map(String::as_str).collect::<Vec<_>>().join(" ");
    findings.problem(
        REDIS,
        format!("user `{user}` lacks rights (NOPERM): {rights}"),
        format!("ACL SETUSER {user} {rights}\nDEPLOYMENT.md has all that are needed, as one line"),
    );
}

fn report(findings: &mut Findings, server: &str, as_cluster: bool, inspection: &Inspection) {
    let node = if inspection.cluster { ", a node of a cluster" } else { "" };
    findings.fine(REDIS, format!("responds at {server}, version {}{node}", inspection.version));
    // Scripts of one slot would fail later, with a message that names no setting.
    if inspection.cluster && !as_cluster {
        findings.problem(
            REDIS,
            "it belongs to a cluster, where the worker's keys and the mailbox are in different slots",
            "set REDIS_CLUSTER=true",
        );
    }
    if let Err(error) = &inspection.writable {
        findings.problem(REDIS, error.to_string(), "use the primary, and a user with write access");
    }
    if let Some(policy) = inspection.eviction.as_deref().filter(|policy| *policy != "noeviction") {
        // Without maxmemory nothing is evicted, whatever the policy.
        let when = if inspection.bounded { "" } else { " (no effect today, because maxmemory is not set)" };
        // Only keys with an expiry are volatile: slots, cooldowns, rates, counts of days, circuits. Requests have none.
        let risk = if policy.starts_with("volatile") {
            "learned rates (`{coc-api}:rate:*`) and open circuits (`{coc-api}:circuit:*`) may be evicted, so that runs begin at the \
             full rate and call an API in maintenance; requests stay, and key slots and counts of days have a second copy"
        } else {
            "requests and mail may be lost silently (the records of the queue, `refresh_requests`), and both copies of a key slot \
             (`{coc-api}:key:*`, `{coc-api}:copies`), so that two runs use one key"
        };
        findings.warning(
            REDIS,
            format!("maxmemory-policy is `{policy}`: when memory is full, {risk}{when}"),
            "CONFIG SET maxmemory-policy noeviction",
        );
    }
}

async fn check_queue(findings: &mut Findings, queue: &RedisQueue, now: Timestamp) {
    match queue.stats(now).await {
        Ok(stats) => {
            let waiting = super::super::summary::queue_left(&QueueReport::new(&stats, now));
            findings.fine(REDIS, format!("queue: {waiting}"));
            if let Some(mail) = stats.mail_in_database_0.filter(|mail| *mail > 0) {
                findings.warning(
                    REDIS,
                    format!(
                        "REDIS_URL names database {}, but {mail} requests are in database 0, where producers always write",
                        queue.database()
                    ),
                    "remove the database number from REDIS_URL",
                );
            // A test may use another database on purpose.
            } else if queue.database() != 0 {
                findings.warning(
                    REDIS,
                    format!("REDIS_URL names database {}, but producers always write to database 0", queue.database()),
                    "remove the database number from REDIS_URL, unless this is a test",
                );
            }
        }
        Err(error) => findings.problem(
            REDIS,
            error.to_string(),
            "if a key of the queue or the mailbox has another type, another program uses its name: set QUEUE_NAMESPACE",
        ),
    }
}

/// Reports requests of other namespaces. No run handles them, unless another deployment has that namespace.
async fn check_namespaces(findings: &mut Findings, queue: &RedisQueue, ours: &str) {
    match queue.other_namespaces().await {
        Ok(others) => {
            for (name, records) in others {
                let requests = counted(records, "request", "requests");
                findings.warning(
                    REDIS,
                    format!("namespace `{name}` has {requests}, which runs of `{ours}` do not handle"),
                    format!(
                        "ignore this if another deployment has that namespace; else return them to the mailbox: \
                         `QUEUE_NAMESPACE={name} refresh-worker queue export --return --yes`"
                    ),
                );
            }
        }
        Err(error) => findings.warning(REDIS, error.to_string(), ""),
    }
}

fn compare_clocks(findings: &mut Findings, ours: Timestamp, server: Timestamp, uncertain: Duration) {
    let apart = span(ours.since(server).max(server.since(ours)));
    if ClocksApart::of(server, ours, uncertain).is_some() {
        findings.problem(
            REDIS,
            format!("its clock shows {server} and this machine's {ours}: {apart} apart"),
            "synchronise both clocks (NTP); a run uses the clock that the database agrees with, but producers and commands use these",
        );
    } else {
        findings.fine(REDIS, format!("its clock and this machine's are {apart} apart"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::Style;

    fn checked(check: impl FnOnce(&mut Findings)) -> String {
        let mut findings = Findings::default();
        check(&mut findings);
        findings.render(Style::PLAIN)
    }

    #[test]
    fn eviction_and_refused_writes_are_reported() {
        let refused = crate::queue::QueueError::Refused {
            server: "cache:6379".to_owned(),
            action: "a write",
            detail: "READONLY".to_owned(),
        };
        let inspection = Inspection {
            version: "7.0.15".to_owned(),
            cluster: true,
            eviction: Some("allkeys-lru".to_owned()),
            bounded: true,
            writable: Err(refused),
        };
        insta::assert_snapshot!(checked(|findings| report(findings, "cache:6379", false, &inspection)), @r"
        Redis
          ok       responds at cache:6379, version 7.0.15, a node of a cluster
          PROBLEM  it belongs to a cluster, where the worker's keys and the mailbox are in different slots
                   -> set REDIS_CLUSTER=true
          PROBLEM  Redis at cache:6379 refused a write: READONLY
                   -> use the primary, and a user with write access
          warning  maxmemory-policy is `allkeys-lru`: when memory is full, requests and mail may be lost silently (the records of the queue, `refresh_requests`), and both copies of a key slot (`{coc-api}:key:*`, `{coc-api}:copies`), so that two runs use one key
                   -> CONFIG SET maxmemory-policy noeviction

        not ready to run: 2 problems, 1 warning
        ");
    }

    #[test]
    fn volatile_policy_names_the_risk() {
        let inspection = Inspection {
            version: "7.0.15".to_owned(),
            cluster: false,
            eviction: Some("volatile-ttl".to_owned()),
            bounded: false,
            writable: Ok(()),
        };
        let text = checked(|findings| report(findings, "cache:6379", false, &inspection));
        assert!(text.contains("`volatile-ttl`: when memory is full, learned rates"), "{text}");
        assert!(text.contains("requests stay") && text.contains("no effect today"), "{text}");
        assert!(text.contains("-> CONFIG SET maxmemory-policy noeviction"), "{text}");
    }

    #[test]
    fn distant_clocks_are_a_problem() {
        let ours = Timestamp::from_millis(100_000);
        let near = checked(|findings| compare_clocks(findings, ours, ours + Duration::from_millis(12), Duration::ZERO));
        assert!(near.ends_with("ready to run\n"), "{near}");
        let far = checked(|findings| compare_clocks(findings, ours, ours + Duration::from_secs(20), Duration::ZERO));
        assert!(far.contains("20.0 s apart") && far.contains("NTP"), "{far}");
    }
}
