//! The handlers room: events from AWS, and the responses to them.
//!
//! [`lambda`] reads an event into a command, pure; [`refresh`] lets a run happen and turns its report into a response;
//! [`health`] checks the queue and the database; [`tasks`] does what needs no run; [`runtime`] speaks to the Lambda Runtime API. The
//! handlers know the worker's ports and nothing of how the parts are built: `app` hands them over once per cold start, and each
//! invocation only borrows them.

mod extension;
pub mod health;
pub mod lambda;
pub mod options;
pub mod refresh;
pub mod response;
pub mod runtime;
pub mod tasks;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use serde_json::{Value, json};

use self::{
    lambda::{Caller, Command, Interpreted},
    response::{Failure, Response},
};
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
    pub clock: Arc<dyn Clock>,
    pub settings: Settings,
    /// The work that tasks can be asked to do.
    pub after: Option<Arc<Maintenance>>,
}

/// The configuration of the handlers.
#[derive(Clone, Debug)]
pub struct Settings {
    pub role: Role,
    pub paused: Option<Pause>,
    pub reqs_per_day: Option<NonZeroU64>,
    pub telemetry: TelemetryConfig,
    /// Everything is done this long before the end of the invocation.
    pub deadline_buffer: Duration,
}

/// A call of the function.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub request_id: String,
    /// The end of the sandbox, by the machine's wall clock.
    pub deadline: Timestamp,
}

impl Invocation {
    // Lambda counts from 1970: every deadline since September 2001 is larger. `cargo lambda watch` sends the time left.
    const SMALLEST_POINT_IN_TIME_MS: u64 = 1_000_000_000_000;

    /// An invocation with the deadline of the Runtime API: the milliseconds since 1970, or those left, as emulators send.
    #[must_use]
    pub fn new(request_id: String, deadline_ms: u64, now: Timestamp) -> Self {
        let deadline = if deadline_ms < Self::SMALLEST_POINT_IN_TIME_MS {
            now + Duration::from_millis(deadline_ms)
        } else {
            Timestamp::from_millis(i64::try_from(deadline_ms).unwrap_or(i64::MAX))
        };
        Self { request_id, deadline }
    }
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
        let settings = Settings {
            role,
            paused: config.worker.paused,
            reqs_per_day: config.api.reqs_per_day,
            telemetry: config.telemetry.clone(),
            deadline_buffer: config.worker.deadline_buffer,
        };
        Self { runs, queue, store, stop, clock, settings, after: None }
    }
}

impl<R: Runs, Q: Queue + SharedState, S: Store> Handlers<R, Q, S> {
    /// Handles one event. `print` writes one line to where metrics are read.
    ///
    /// # Errors
    /// When the invocation failed and no HTTP caller waits for a status.
    pub async fn handle(
        &self,
        event: &Value,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Response, Failure> {
        let Interpreted { caller, without_body, command } = lambda::interpret(event, self.settings.role);
        let mut response = match command {
            Ok(Command::Refresh(options)) => self.refresh(options, caller, invocation, print).await,
            Ok(Command::Health) => Ok(self.health(caller).await),
            Ok(Command::Task(task)) => Box::pin(self.task(task, invocation, print)).await,
            Err(refusal) => response::refuse(caller, &refusal),
        };
        if let Ok(response) = &mut response
            && without_body
        {
            response.value["body"] = json!("");
        }
        response
    }

    async fn health(&self, caller: Caller) -> Response {
        let Settings { paused, reqs_per_day, .. } = self.settings;
        let health =
            health::check(self.queue.as_ref(), self.store.as_ref(), paused, reqs_per_day, self.clock.as_ref()).await;
        let status = if health.is_healthy() { 200 } else { 503 };
        Response::new(caller, status, health.body())
    }
}

#[cfg(test)]
#[path = "handlers_tests.rs"]
mod tests;
