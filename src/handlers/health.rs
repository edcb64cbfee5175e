//! Health: whether the queue and the database answer, and what the queue holds.
//!
//! Only asks, changes nothing. `GET /health` needs no API key, so the answer names no server and repeats no error text;
//! those are in the log.

use std::{fmt, future::Future, num::NonZeroU64, time::Duration};

use serde_json::{Value, json};
use tracing::warn;

use crate::{
    clock::{Clock, Timestamp},
    config::Pause,
    queue::{Circuit, CircuitReason, Queue, QueueError, QueueStats, Slots},
    store::{RunRow, Store, StoreError},
    worker::report::{DayReport, QueueReport},
};

/// How long each of the two servers may take to answer everything: a Redis half a second away needs seven round trips when the
/// connection is new.
const PATIENCE: Duration = Duration::from_secs(4);

/// What was found.
#[derive(Clone, Debug)]
pub struct Health {
    now: Timestamp,
    /// `None` when Redis does not answer. **Invariant: never healthy on a dead Redis, and no number is made up for it.**
    queue: Option<QueueState>,
    /// `None` when the database does not answer.
    database: Option<StoreState>,
    paused: Option<Pause>,
}

#[derive(Clone, Debug)]
struct QueueState {
    report: QueueReport,
    circuits: Vec<Circuit>,
    day: Option<DayReport>,
}

#[derive(Clone, Debug)]
struct StoreState {
    /// Why it takes no writes, in a word.
    read_only: Option<&'static str>,
    last_run: Option<RunRow>,
}

/// Asks queue and database at the same time, each within `PATIENCE`.
pub async fn check<Q: Queue + Slots, S: Store>(
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

async fn queue_state<Q: Queue + Slots>(queue: &Q, reqs_per_day: Option<NonZeroU64>) -> Result<QueueState, QueueError> {
    let now = queue.time().await?;
    let (stats, circuits): (QueueStats, _) = tokio::try_join!(queue.stats(now), queue.circuits())?;
    let day = match reqs_per_day {
        Some(per_day) => Some(DayReport::new(per_day, queue.calls_taken(now.midnight()).await?, now)),
        None => None,
    };
    Ok(QueueState { report: QueueReport::new(&stats, now), circuits, day })
}

/// A database that answers but has no tables yet is healthy: the first refresh makes them.
async fn store_state<S: Store>(store: &S) -> Result<StoreState, StoreError> {
    let read_only = match store.ping().await {
        Ok(()) => None,
        Err(error @ StoreError::ReadOnly { is_standby, .. }) => {
            warn!(unhealthy = "database", "health: failed to {error}");
            Some(if is_standby { "standby" } else { "read-only" })
        }
        Err(error) => return Err(error),
    };
    let last_run = store.last_run().await.unwrap_or_else(|error| {
        warn!(error = &error as &dyn std::error::Error, "health: failed to read the last run");
        None
    });
    Ok(StoreState { read_only, last_run })
}

/// The answer, unless it is an error or late; then the reason is logged.
async fn bounded<T, E: fmt::Display>(what: &str, answer: impl Future<Output = Result<T, E>>) -> Option<T> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            warn!(unhealthy = what, "health: failed to {error}");
            None
        }
        Err(_) => {
            warn!(unhealthy = what, "health: the {what} did not answer within {PATIENCE:?}");
            None
        }
    }
}

impl Health {
    /// An API in maintenance is not ours to mend; one that nobody reaches may be: a wrong address, a proxy, a route.
    pub fn is_healthy(&self) -> bool {
        self.database.as_ref().is_some_and(|database| database.read_only.is_none())
            && self.queue.as_ref().is_some_and(|queue| !is_unreachable(&queue.circuits))
    }

    /// The answer. `status`, `queue_size` and `timestamp` are what monitors rely on; `queue_size` is null when unknown.
    #[must_use]
    pub fn body(&self) -> Value {
        let answers = |answers: bool| if answers { "ok" } else { "not answering" };
        let mut body = json!({
            "status": if self.is_healthy() { "healthy" } else { "unhealthy" },
            "queue_size": null,
            "timestamp": self.now.as_seconds_f64(),
            "queue": answers(self.queue.is_some()),
            "database": self.database.as_ref().and_then(|database| database.read_only).unwrap_or(answers(self.database.is_some())),
            "paused": self.paused(),
            "worker_active": null,
            "last_run": self.database.as_ref().and_then(|database| database.last_run.as_ref()).map(last_run),
        });
        if let Some(queue) = &self.queue {
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

    /// What keeps the worker from working although everything is well.
    fn paused(&self) -> Value {
        let api = self.queue.as_ref().and_then(|queue| Circuit::of_api(&queue.circuits));
        let used_up = self.queue.as_ref().and_then(|queue| queue.day).filter(|day| day.calls_left == 0);
        match (self.paused, api) {
            (Some(Pause::RefreshPaused), _) => json!({"because": "REFRESH_PAUSED"}),
            (Some(Pause::DisableAutoRefreshQueue), _) => json!({"because": "DISABLE_AUTO_REFRESH_QUEUE"}),
            (None, Some(Circuit { since, next_probe, reason, .. })) => json!({
                "because": reason.code,
                "since": since.to_string(),
                "next_probe": next_probe.to_string(),
            }),
            (None, None) => {
                used_up.map_or(Value::Null, |day| json!({"because": "daily_cap", "until": day.resets_at.to_string()}))
            }
        }
    }
}

fn is_unreachable(circuits: &[Circuit]) -> bool {
    Circuit::of_api(circuits).is_some_and(|circuit| circuit.reason.code == CircuitReason::UNREACHABLE)
}

/// The detail of the reason stays away: it may repeat what a server said.
fn circuit(circuit: &Circuit) -> Value {
    json!({
        "scope": circuit.scope.as_str(),
        "since": circuit.since.to_string(),
        "next_probe": circuit.next_probe.to_string(),
        "because": circuit.reason.code,
    })
}

fn last_run(row: &RunRow) -> Value {
    json!({
        "run": row.run,
        "started": row.started.to_string(),
        "ended": row.ended.to_string(),
        "stopped_because": row.stopped_because,
        "failed": row.error.is_some(),
        "processed_requests": row.processed,
        "failed_requests": row.failed,
        "api_requests": row.api_requests,
    })
}
