//! The response to an event, as its caller reads it, and what it shows about this process's access to servers and API.

use std::fmt;

use serde_json::{Value, json};
use tracing::warn;

use super::lambda::{Caller, Refusal};
use crate::worker::report::StopReason;

/// The response to an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub value: Value,
    pub access: Access,
}

/// The access to Redis, the database and the API that the secrets at hand gave an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Granted,
    /// The API rejected a configured key, or an account gave none; the run went on with others.
    SomeKeysRejected,
    /// The invocation failed in a way that other secrets may fix.
    MayBeDenied,
}

impl Response {
    /// A response in its caller's form: with a status for HTTP, the plain body otherwise.
    pub fn new(caller: Caller, status: u16, body: Value) -> Self {
        match caller {
            Caller::Lambda => Self { value: body, access: Access::Granted },
            Caller::Http => {
                let value = json!({
                    "statusCode": status,
                    "headers": {"content-type": "application/json", "cache-control": "no-store"},
                    "body": body.to_string(),
                    "isBase64Encoded": false,
                });
                Self::with_status(status, value)
            }
        }
    }

    /// A response whose value has a status already.
    pub const fn with_status(status: u16, value: Value) -> Self {
        // A server or the API cannot be used, and a refused login may be the reason.
        let access = if matches!(status, 502 | 503) { Access::MayBeDenied } else { Access::Granted };
        Self { value, access }
    }
}

/// A failed invocation: AWS counts it under `Errors`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

/// The kind of a failure. AWS shows its text, such as `RefreshFailed.queue_down`, as the type of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    BadEvent,
    BadConfig,
    Refresh(StopReason),
    /// A task that met a database without a response.
    TaskDatabaseDown,
    Task(&'static str),
}

/// The type of a failed start. AWS knows no other for a wrong configuration.
pub const INIT_ERROR_TYPE: &str = "Runtime.ConfigInvalid";

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadEvent => f.write_str("BadEvent"),
            Self::BadConfig => f.write_str(INIT_ERROR_TYPE),
            Self::Refresh(reason) => write!(f, "RefreshFailed.{}", reason.as_str()),
            Self::TaskDatabaseDown => write!(f, "TaskFailed.{}", StopReason::DatabaseDown.as_str()),
            Self::Task(task) => write!(f, "TaskFailed.{task}"),
        }
    }
}

impl Failure {
    pub const fn new(kind: FailureKind, message: String) -> Self {
        Self { kind, message }
    }

    /// The access that a failure shows: a login that is refused looks like a server that is down.
    pub fn access(&self) -> Access {
        match self.kind {
            FailureKind::Refresh(StopReason::QueueDown | StopReason::DatabaseDown | StopReason::NoUsableKey)
            | FailureKind::TaskDatabaseDown
            | FailureKind::Task("migrate") => Access::MayBeDenied,
            FailureKind::BadEvent | FailureKind::BadConfig | FailureKind::Refresh(_) | FailureKind::Task(_) => {
                Access::Granted
            }
        }
    }
}

/// Responds to an event that cannot be carried out. The caller's mistake, so a warning and no metric.
pub fn refuse(caller: Caller, refusal: &Refusal) -> Result<Response, Failure> {
    let Refusal { status, message, problems, allow } = refusal;
    warn!(status, "refused an event: {message}");
    match caller {
        Caller::Lambda => Err(Failure::new(FailureKind::BadEvent, message.clone())),
        Caller::Http => {
            let mut body = json!({"error": message});
            if !problems.is_empty() {
                body["problems"] = json!(problems);
            }
            let mut response = Response::new(caller, *status, body);
            if let Some(allow) = allow {
                response.value["headers"]["allow"] = json!(allow);
            }
            Ok(response)
        }
    }
}
