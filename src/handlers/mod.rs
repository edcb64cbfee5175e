//! The handlers room: what AWS sends us, and what it gets back.
//!
//! [`lambda`] reads an event into a command, pure; [`refresh`] lets a run happen and turns its report into an answer;
//! [`health`] asks the queue and the database how they are; [`tasks`] does what needs no run; [`runtime`] speaks to the Lambda Runtime API. The handlers
//! know the worker's ports and nothing of how the parts are built: `app` hands them over once per cold start, and each
//! invocation only borrows them.

pub mod health;
pub mod lambda;
pub mod options;
pub mod refresh;
pub mod runtime;
pub mod tasks;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tracing::warn;

use self::lambda::{Caller, Command, Interpreted, Refusal};
use crate::{
    clock::{Clock, Timestamp},
    config::{Config, Pause, Role, TelemetryConfig},
    maintenance::Maintenance,
    queue::{Queue, SharedState},
    store::Store,
    worker::{Runs, Stop},
};

/// The parts, built once per cold start and borrowed by every invocation.
#[derive(Debug)]
pub struct Handlers<R, Q, S> {
    pub runs: R,
    pub queue: Arc<Q>,
    pub store: Arc<S>,
    /// Ends the run that goes on when the sandbox is taken away.
    pub stop: Stop,
    pub role: Role,
    pub paused: Option<Pause>,
    pub reqs_per_day: Option<NonZeroU64>,
    pub telemetry: TelemetryConfig,
    pub clock: Arc<dyn Clock>,
    /// How long before the end of the invocation everything is done.
    pub deadline_buffer: Duration,
    /// What tasks can be asked to do.
    pub after: Option<Arc<Maintenance>>,
}

/// One call of the function.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub request_id: String,
    /// When Lambda ends the sandbox, by the machine's wall clock.
    pub deadline: Timestamp,
}

/// An invocation that failed: what AWS counts under `Errors`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For searching, such as `RefreshFailed.queue_down`.
    pub kind: String,
    pub message: String,
}

impl<R, Q, S> Handlers<R, Q, S> {
    pub fn new(
        runs: R,
        queue: Arc<Q>,
        store: Arc<S>,
        stop: Stop,
        clock: Arc<dyn Clock>,
        config: &Config,
        role: Role,
    ) -> Self {
        Self {
            runs,
            queue,
            store,
            stop,
            role,
            paused: config.worker.paused,
            reqs_per_day: config.api.reqs_per_day,
            telemetry: config.telemetry.clone(),
            clock,
            deadline_buffer: config.worker.deadline_buffer,
            after: None,
        }
    }
}

impl<R: Runs, Q: Queue + SharedState, S: Store> Handlers<R, Q, S> {
    /// Answers one event. `print` writes one line to where metrics are read.
    ///
    /// # Errors
    /// When the invocation failed and nobody behind HTTP waits to be told.
    pub async fn answer(
        &self,
        event: &Value,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Value, Failure> {
        let Interpreted { caller, without_body, command } = lambda::interpret(event, self.role);
        let mut answer = match command {
            Ok(Command::Refresh(options)) => self.refresh(options, caller, invocation, print).await,
            Ok(Command::Health) => Ok(self.health(caller).await),
            Ok(Command::Task(task)) => Box::pin(self.task(task, invocation, print)).await,
            Err(refusal) => refuse(caller, &refusal),
        };
        if let Ok(answer) = &mut answer
            && without_body
        {
            answer["body"] = json!("");
        }
        answer
    }

    async fn health(&self, caller: Caller) -> Value {
        let (paused, reqs_per_day) = (self.paused, self.reqs_per_day);
        let health =
            health::check(self.queue.as_ref(), self.store.as_ref(), paused, reqs_per_day, self.clock.as_ref()).await;
        let status = if health.is_healthy() { 200 } else { 503 };
        in_form(caller, status, health.body())
    }
}

/// Tells the caller what cannot be done. The caller's mistake, so a warning and no metric.
fn refuse(caller: Caller, refusal: &Refusal) -> Result<Value, Failure> {
    let Refusal { status, message, problems, allow } = refusal;
    warn!(status, "refused an event: {message}");
    match caller {
        Caller::Lambda => Err(Failure { kind: "BadEvent".to_owned(), message: message.clone() }),
        Caller::Http => {
            let mut body = json!({"error": message});
            if !problems.is_empty() {
                body["problems"] = json!(problems);
            }
            let mut answer = in_form(caller, *status, body);
            if let Some(allow) = allow {
                answer["headers"]["allow"] = json!(allow);
            }
            Ok(answer)
        }
    }
}

/// An answer in the form that its caller reads: with a status for HTTP, as it is otherwise.
fn in_form(caller: Caller, status: u16, body: Value) -> Value {
    match caller {
        Caller::Lambda => body,
        Caller::Http => json!({
            "statusCode": status,
            "headers": {"content-type": "application/json", "cache-control": "no-store"},
            "body": body.to_string(),
            "isBase64Encoded": false,
        }),
    }
}

#[cfg(test)]
#[path = "handlers_tests.rs"]
mod tests;
