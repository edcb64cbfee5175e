//! Looks at Redis: does it answer, may we write, would it lose requests, do producers write where we read, and do its clock
//! and ours agree.

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
        Queue as _, QueueError,
        redis::{Inspection, RedisQueue},
    },
    worker::report::QueueReport,
};

const REDIS: &str = "Redis";

/// The queue, when it answers.
pub async fn look_at(findings: &mut Findings, config: &RedisConfig) -> Option<RedisQueue> {
    let queue = match RedisQueue::connect(config, Arc::new(SystemClock)) {
        Ok(queue) => queue,
        Err(error) => {
            findings.problem(REDIS, told(&error), "set REDIS_URL");
            return None;
        }
    };
    look_at_rights(findings, &queue).await;
    let asked = Instant::now();
    let server = match queue.time().await {
        Ok(server) => server,
        Err(error) => {
            findings.problem(REDIS, told(&error), "is it running there, and may this machine connect?");
            return None;
        }
    };
    compare_clocks(findings, SystemClock.wall(), server, asked.elapsed());
    match queue.inspect().await {
        Ok(inspection) => judge(findings, queue.server(), queue.is_cluster(), &inspection),
        Err(error) => findings.problem(REDIS, told(&error), ""),
    }
    look_at_queue(findings, &queue, server).await;
    look_for_namespaces(findings, &queue, &config.namespace).await;
    Some(queue)
}

/// Every right that is missing, whether or not a run would need it today.
async fn look_at_rights(findings: &mut Findings, queue: &RedisQueue) {
    // What keeps it from answering is told by the next question.
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

/// The error as a sentence of its own.
pub fn told(error: &QueueError) -> String {
    match error {
        QueueError::Unreachable { server, detail } => format!("no answer from Redis at {server}: {detail}"),
        QueueError::Refused { server, action, detail } => format!("Redis at {server} refused {action}: {detail}"),
        QueueError::Unexpected { server, action, detail } => {
            format!("Redis at {server} answered {action} unexpectedly: {detail}")
        }
    }
}

fn judge(findings: &mut Findings, server: &str, as_cluster: bool, inspection: &Inspection) {
    let node = if inspection.cluster { ", a node of a cluster" } else { "" };
    findings.fine(REDIS, format!("answers at {server}, version {}{node}", inspection.version));
    if inspection.cluster && !as_cluster {
        findings.problem(
            REDIS,
            "it belongs to a cluster, where the worker's keys and the mailbox lie in different slots",
            "set REDIS_CLUSTER=true",
        );
    }
    if let Err(error) = &inspection.writable {
        findings.problem(REDIS, told(error), "use the primary, and a user that may write");
    }
    if let Some(policy) = inspection.eviction.as_deref().filter(|policy| *policy != "noeviction") {
        let when = if inspection.bounded { "" } else { " (no maxmemory is set, so it does not act today)" };
        // What ends by itself: slots and rests of keys, rates, counts of days, circuits. Requests have no end.
        let risk = if policy.starts_with("volatile") {
            "learned rates (`{coc-api}:rate:*`) and open circuits (`{coc-api}:circuit:*`) may vanish, so that runs begin at the \
             full rate and call an API in maintenance; requests stay, and slots of keys and counts of days have a second copy"
        } else {
            "requests and mail may vanish without a word (the records of the queue, `refresh_requests`), and both copies of a key's slot \
             (`{coc-api}:key:*`, `{coc-api}:copies`), so that two runs use one key"
        };
        findings.warning(
            REDIS,
            format!("maxmemory-policy is `{policy}`: when memory is full, {risk}{when}"),
            "CONFIG SET maxmemory-policy noeviction",
        );
    }
}

async fn look_at_queue(findings: &mut Findings, queue: &RedisQueue, now: Timestamp) {
    match queue.stats(now).await {
        Ok(stats) => {
            let waiting = super::super::summary::queue_left(&QueueReport::new(&stats, now));
            findings.fine(REDIS, format!("the queue can be read: {waiting}"));
            if let Some(mail) = stats.mail_in_database_0.filter(|mail| *mail > 0) {
                findings.warning(
                    REDIS,
                    format!(
                        "REDIS_URL selects database {}, but {mail} requests lie in database 0, where producers always write",
                        queue.database()
                    ),
                    "take the database number out of REDIS_URL",
                );
            } else if queue.database() != 0 {
                findings.warning(
                    REDIS,
                    format!("REDIS_URL selects database {}; producers always write to 0", queue.database()),
                    "take the database number out of REDIS_URL, unless this is a test",
                );
            }
        }
        Err(error) => findings.problem(
            REDIS,
            told(&error),
            "is a key of this worker or of the mailbox of another type? QUEUE_NAMESPACE gives it keys of its own",
        ),
    }
}

/// Requests of another namespace are served by nobody, unless another deployment has that name.
async fn look_for_namespaces(findings: &mut Findings, queue: &RedisQueue, ours: &str) {
    match queue.other_namespaces().await {
        Ok(others) => {
            for (name, records) in others {
                let them = if records == 1 { "it" } else { "them" };
                let requests = counted(records, "request", "requests");
                findings.warning(
                    REDIS,
                    format!("namespace `{name}` holds {requests}, and runs of `{ours}` do not serve {them}"),
                    format!(
                        "unless another deployment has that name: `QUEUE_NAMESPACE={name} refresh-worker queue export --return --yes` \
                         returns them to the mailbox"
                    ),
                );
            }
        }
        Err(error) => findings.warning(REDIS, told(&error), ""),
    }
}

fn compare_clocks(findings: &mut Findings, ours: Timestamp, server: Timestamp, uncertain: Duration) {
    let apart = span(ours.since(server).max(server.since(ours)));
    if ClocksApart::of(server, ours, uncertain).is_some() {
        findings.problem(
            REDIS,
            format!("its clock says {server} and this machine's {ours}: they are {apart} apart"),
            "set the clocks by NTP; a run asks the database which is right, but what producers and commands write goes by these",
        );
    } else {
        findings.fine(REDIS, format!("its clock and this machine's are {apart} apart"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::Style;

    fn looked(look: impl FnOnce(&mut Findings)) -> String {
        let mut findings = Findings::default();
        look(&mut findings);
        findings.render(Style::PLAIN)
    }

    #[test]
    fn a_server_that_may_lose_requests_or_refuses_writes_is_told() {
        let refused =
            QueueError::Refused { server: "cache:6379".to_owned(), action: "a write", detail: "READONLY".to_owned() };
        let inspection = Inspection {
            version: "7.0.15".to_owned(),
            cluster: true,
            eviction: Some("allkeys-lru".to_owned()),
            bounded: true,
            writable: Err(refused),
        };
        insta::assert_snapshot!(looked(|findings| judge(findings, "cache:6379", false, &inspection)), @r"
        Redis
          ok       answers at cache:6379, version 7.0.15, a node of a cluster
          PROBLEM  it belongs to a cluster, where the worker's keys and the mailbox lie in different slots
                   -> set REDIS_CLUSTER=true
          PROBLEM  Redis at cache:6379 refused a write: READONLY
                   -> use the primary, and a user that may write
          warning  maxmemory-policy is `allkeys-lru`: when memory is full, requests and mail may vanish without a word (the records of the queue, `refresh_requests`), and both copies of a key's slot (`{coc-api}:key:*`, `{coc-api}:copies`), so that two runs use one key
                   -> CONFIG SET maxmemory-policy noeviction

        not fit to run: 2 problems, 1 warning
        ");
    }

    #[test]
    fn a_volatile_policy_names_what_it_may_drop() {
        let inspection = Inspection {
            version: "7.0.15".to_owned(),
            cluster: false,
            eviction: Some("volatile-ttl".to_owned()),
            bounded: false,
            writable: Ok(()),
        };
        let told = looked(|findings| judge(findings, "cache:6379", false, &inspection));
        assert!(told.contains("`volatile-ttl`: when memory is full, learned rates"), "{told}");
        assert!(told.contains("requests stay") && told.contains("does not act today"), "{told}");
        assert!(told.contains("-> CONFIG SET maxmemory-policy noeviction"), "{told}");
    }

    #[test]
    fn clocks_that_are_far_apart_are_told() {
        let ours = Timestamp::from_millis(100_000);
        let near = looked(|findings| compare_clocks(findings, ours, ours + Duration::from_millis(12), Duration::ZERO));
        assert!(near.ends_with("fit to run\n"), "{near}");
        let far = looked(|findings| compare_clocks(findings, ours, ours + Duration::from_secs(20), Duration::ZERO));
        assert!(far.contains("20.0 s apart") && far.contains("NTP"), "{far}");
    }
}
