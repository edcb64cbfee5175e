//! The worker room: one run from the first lease to the last settlement. The only room that has seen queue, API and
//! store.

pub mod report;

use std::time::Duration;

use crate::{
    model::{Kind, ObjectId, Outcome, Priority},
    worker::report::RunReport,
};

/// What one run is asked to do.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Names the run; the Lambda request id when there is one, else made up.
    pub run: Option<String>,
    /// How long the run may take before it must have answered; the deadline buffer is not yet taken off. `None`: until
    /// the queue is empty.
    pub time_left: Option<Duration>,
    pub max_requests: Option<u64>,
    pub max_runtime: Option<Duration>,
    /// Only these classes; empty means all.
    pub priority_filter: Vec<Priority>,
    /// Put in front as critical before anything else.
    pub named: Vec<ObjectId>,
}

/// Follows a run while it goes on: the progress bar of the command line.
pub trait Progress: Send + Sync {
    /// One request came to its end for this run.
    fn settled(&self, kind: Kind, outcome: Outcome);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn settled(&self, _kind: Kind, _outcome: Outcome) {}
}

/// Anything that can carry out a run; what the handlers and commands hold.
pub trait Runs: Send + Sync {
    /// Drains the queue. Never fails: what went wrong is in the report.
    fn run(&self, options: RunOptions, progress: &dyn Progress) -> impl Future<Output = RunReport> + Send;
}
