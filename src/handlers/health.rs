//! Health: the state of the queue and the database, and the contents of the queue.
//!
//! Only reads, changes nothing that lasts. `GET /health` needs no API key, so the response names no server and repeats no error text;
//! those are in the log. Both servers keep the last runs, so that the one shows them when the other is down.

use std::{fmt, future::Future, num::NonZeroU64, time::Duration};

use serde_json::{Value, json};
use tracing::warn;

use crate::{
    clock::{Clock, Timestamp},
    config::Pause,
    queue::{Circuit, CircuitReason, Queue, QueueError, QueueStats, RunSummaries, RunSummary, SharedState},
    store::{LastRuns, RunRow, Store, StoreError},
    worker::{
        public,
        report::{DayReport, QueueReport, StopReason},
    },
};

// The limit of all questions to one server: a Redis half a second away needs seven round trips when the connection is new.
const SERVER_TIMEOUT: Duration = Duration::from_secs(4);

// A rejected key is tried again after 9 minutes, and the requests that wait for it within 10. Until then a run that had nothing to
// do proves nothing about the keys.
const KEYS_DOUBT: Duration = Duration::from_secs(12 * 60);

/// The health of the worker.
#[derive(Clone, Debug)]
pub struct Health {
    now: Timestamp,
    /// An error when Redis does not respond or cannot be used. **Invariant: never healthy on a dead Redis, and no number is made
    /// up for it.**
    queue: Result<QueueState, Trouble>,
    /// An error when the database does not respond or cannot be used.
    database: Result<LastRuns, Trouble>,
    paused: Option<Pause>,
}

#[derive(Clone, Debug)]
struct QueueState {
    report: QueueReport,
    circuits: Vec<Circuit>,
    day: Option<DayReport>,
    runs: RunSummaries,
}

/// The trouble with a server, as far as anybody may know.
#[derive(Clone, Copy, Debug)]
struct Trouble(Option<&'static str>);

impl Trouble {
    /// The name of the state: servers that respond and take no writes have names of their own.
    fn state(self) -> &'static str {
        match self.0 {
            Some("a read-only replica") => "read-only replica",
            Some("read-only") => "read-only",
            Some("a standby, which takes no writes") => "standby",
            _ => "not answering",
        }
    }

    fn sentence(self, what: &str) -> String {
        match self.0 {
            Some(kind) => format!("the {what} cannot be used: {kind}"),
            None => format!("the {what} cannot be used; the log says why"),
        }
    }
}

/// Checks queue and database at the same time, each within `SERVER_TIMEOUT`.
pub async fn check<Q: Queue + SharedState, S: Store>(
    queue: &Q,
    store: &S,
    paused: Option<Pause>,
    reqs_per_day: Option<NonZeroU64>,
    clock: &dyn Clock,
) -> Health {
    let (queue, database) =
        tokio::join!(bounded("queue", queue_state(queue, reqs_per_day)), bounded("database", store_state(store)));
    Health { now: clock.wall(), queue, database, paused }
}

async fn queue_state<Q: Queue + SharedState>(
    queue: &Q,
    reqs_per_day: Option<NonZeroU64>,
) -> Result<QueueState, QueueError> {
    let now = queue.time_to_write().await?;
    let (stats, circuits, runs): (QueueStats, _, _) =
        tokio::try_join!(queue.stats(now), queue.circuits(), async { Ok(queue.run_summaries().await) })?;
    let runs = runs.unwrap_or_else(|error| {
        warn!(error = &error as &dyn std::error::Error, "health: failed to read how the last runs went");
        RunSummaries::default()
    });
    let day = match reqs_per_day {
        Some(per_day) => Some(DayReport::new(per_day, queue.calls_taken(now.midnight()).await?, now)),
        None => None,
    };
    Ok(QueueState { report: QueueReport::new(&stats, now), circuits, day, runs })
}

/// A database that responds but has no tables yet is healthy: the first refresh creates them.
async fn store_state<S: Store>(store: &S) -> Result<LastRuns, StoreError> {
    store.ping().await?;
    Ok(store.last_runs().await.unwrap_or_else(|error| {
        warn!(error = &error as &dyn std::error::Error, "health: failed to read the last runs");
        LastRuns::default()
    }))
}

/// The result, unless it is an error or late; then the reason is logged.
async fn bounded<T, E: fmt::Display>(what: &str, answer: impl Future<Output = Result<T, E>>) -> Result<T, Trouble> {
    let text = match tokio::time::timeout(SERVER_TIMEOUT, answer).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the {what} did not answer within {SERVER_TIMEOUT:?}"),
    };
    warn!(unhealthy = what, "health: {text}");
    Err(Trouble(public::kind_of_trouble(&text)))
}

impl Health {
    /// True when nothing needs a person. An API in maintenance is not ours to fix; one that nobody reaches may be: a wrong address, a
    /// proxy, a route.
    pub fn is_healthy(&self) -> bool {
        self.database.is_ok()
            && self.queue.as_ref().is_ok_and(|queue| !is_unreachable(&queue.circuits))
            && !self.has_no_usable_key()
    }

    /// True when the newest run that needed a key found none that the API accepts. The runs after it are turned away while the keys
    /// cool down; they are neither good nor failed, and do not change the finding.
    fn has_no_usable_key(&self) -> bool {
        let runs = self.runs();
        let Some(failed) = runs.failed.filter(|run| run.stopped_because == StopReason::NoUsableKey.as_str()) else {
            return false;
        };
        runs.good.is_none_or(|good| {
            let proves_nothing =
                good.processed == 0 && good.api_requests == 0 && self.now.since(failed.ended) < KEYS_DOUBT;
            good.ended <= failed.ended || proves_nothing
        })
    }

    /// The body of the response. `status`, `queue_size` and `timestamp` are what monitors rely on; `queue_size` is null when unknown.
    #[must_use]
    pub fn body(&self) -> Value {
        let runs = self.runs();
        let mut body = json!({
            "status": if self.is_healthy() { "healthy" } else { "unhealthy" },
            "queue_size": null,
            "timestamp": self.now.as_seconds_f64(),
            "queue": self.queue.as_ref().err().map_or("ok", |trouble| trouble.state()),
            "database": self.database.as_ref().err().map_or("ok", |trouble| trouble.state()),
            "keys": if self.has_no_usable_key() { "all rejected" } else { "ok" },
            "problems": self.problems(),
            "paused": self.paused(),
            "worker_active": null,
            "last_run": self.database.as_ref().ok().and_then(|runs| runs.any.as_ref()).map(|row| last_run(&note_of(row))),
            "last_good_run": runs.good.as_ref().map(last_run),
            "last_failed_run": runs.failed.as_ref().map(|note| {
                let mut run = last_run(note);
                run["error"] = json!(note.error);
                run
            }),
        });
        if let Ok(queue) = &self.queue {
            body["worker_active"] = json!(queue.report.leased > 0);
            body["circuits"] = queue.circuits.iter().map(circuit).collect();
            if let Some(day) = queue.day {
                body["day"] = json!(day);
            }
            // A report has text keys and numbers only, so it always becomes an object.
            if let (Value::Object(body), Ok(Value::Object(mut numbers))) =
                (&mut body, serde_json::to_value(&queue.report))
            {
                body.append(&mut numbers);
            }
        }
        body
    }

    /// All problems, one sentence each.
    fn problems(&self) -> Vec<String> {
        let troubles = [("queue", self.queue.as_ref().err()), ("database", self.database.as_ref().err())];
        let mut problems: Vec<String> =
            troubles.into_iter().filter_map(|(what, trouble)| Some(trouble?.sentence(what))).collect();
        if self.queue.as_ref().is_ok_and(|queue| is_unreachable(&queue.circuits)) {
            problems.push("the API cannot be reached".to_owned());
        }
        if self.has_no_usable_key() {
            problems.push("the API accepts no key: requests wait until a key is replaced".to_owned());
        }
        problems
    }

    /// The newest run of each sort that either server knows.
    fn runs(&self) -> RunSummaries {
        let noted = self.queue.as_ref().map(|queue| queue.runs.clone()).unwrap_or_default();
        let rows = self.database.as_ref().map(|runs| (runs.good.as_ref(), runs.failed.as_ref())).unwrap_or_default();
        let newest = |note: Option<RunSummary>, row: Option<&RunRow>| {
            note.into_iter().chain(row.map(note_of)).max_by_key(|note| note.ended)
        };
        RunSummaries { good: newest(noted.good, rows.0), failed: newest(noted.failed, rows.1) }
    }

    /// The reason for which the worker does not work although everything is well.
    fn paused(&self) -> Value {
        let api = self.queue.as_ref().ok().and_then(|queue| Circuit::of_api(&queue.circuits));
        let used_up = self.queue.as_ref().ok().and_then(|queue| queue.day).filter(|day| day.calls_left == 0);
        match (self.paused, api) {
            (Some(Pause::RefreshPaused), _) => json!({"because": "REFRESH_PAUSED"}),
            (Some(Pause::DisableAutoRefreshQueue), _) => json!({"because": "DISABLE_AUTO_REFRESH_QUEUE"}),
            (None, Some(Circuit { since, next_probe, reason, .. })) => json!({
                "because": reason.code,
                "since": since.to_string(),
                "next_probe": next_probe.to_string(),
            }),
            (None, None) => {
                used_up.map_or(Value::Null, |day| json!({"because": "daily_quota", "until": day.resets_at.to_string()}))
            }
        }
    }
}

fn is_unreachable(circuits: &[Circuit]) -> bool {
    Circuit::of_api(circuits).is_some_and(|circuit| circuit.reason.code == CircuitReason::UNREACHABLE)
}

/// A circuit without the detail of its reason, which may repeat a server's text.
fn circuit(circuit: &Circuit) -> Value {
    json!({
        "scope": circuit.scope.as_str(),
        "since": circuit.since.to_string(),
        "next_probe": circuit.next_probe.to_string(),
        "because": circuit.reason.code,
    })
}

/// The summary of a row. A row's error is for the operator; here it has only its kind.
fn note_of(row: &RunRow) -> RunSummary {
    let kind = |error: &str| match StopReason::parse(&row.stopped_because) {
        Some(reason) => public::failure(reason, Some(error)),
        None => "the log says why".to_owned(),
    };
    RunSummary {
        run: row.run.clone(),
        started: row.started,
        ended: row.ended,
        stopped_because: row.stopped_because.clone(),
        error: row.error.as_deref().map(kind),
        processed: row.processed,
        failed: row.failed,
        api_requests: row.api_requests,
    }
}

fn last_run(note: &RunSummary) -> Value {
    json!({
        "run": note.run,
        "started": note.started.to_string(),
        "ended": note.ended.to_string(),
        "stopped_because": note.stopped_because,
        "failed": note.error.is_some(),
        "processed_requests": note.processed,
        "failed_requests": note.failed,
        "api_requests": note.api_requests,
    })
}
