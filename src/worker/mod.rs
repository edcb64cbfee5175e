//! The worker room: one run from the first lease to the last settlement. The only room that has seen queue, API and
//! store.
//!
//! | part of a run | module |
//! |---|---|
//! | the sequence | `run`: `opening`, `preflight`, `drain`, `closing` |
//! | the three stages | `lease` (with `intake`), `fetch`, `commit` (with `group` and `settle`) |
//! | beside them | `keeper`, `breaker`, `control`, `outbox`, `daily_quota` |
//! | shared by them | `context`: `deadline`, `halt`, `flow`, `in_hand`, `keys` |
//! | calls to spare | `planned` |
//! | decisions | `freshness`, `classify`, `throttled`, `follow_ups` |
//!
//! `drain` shows the life of one request, step by step.

mod breaker;
mod classify;
mod closing;
mod commit;
mod context;
mod control;
pub mod cooldown;
pub mod daily_quota;
pub mod deadline;
mod drain;
mod fetch;
mod flow;
mod follow_ups;
pub mod freshness;
mod group;
mod halt;
mod hand_over;
mod in_hand;
mod intake;
mod keeper;
pub mod keys;
mod lease;
pub mod login;
mod login_right;
mod mailbox;
mod opening;
mod outbox;
pub mod planned;
mod preflight;
pub mod public;
pub mod report;
mod run;
mod settle;
pub mod tables;
mod throttled;
pub mod waiting;

use std::{future::Future, num::NonZeroU64, sync::Arc, time::Duration};

pub use self::halt::Stop;
use self::{report::RunReport, tables::Tables};
use crate::{
    api::{client::ApiClient, keys::KeyStore},
    clock::Clock,
    config::WorkerConfig,
    maintenance::Maintenance,
    model::{Kind, ObjectId, Outcome, Priority},
};

/// The options of one run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Names the run; the Lambda request id when there is one, else made up.
    pub run: Option<String>,
    /// The time until the run's response is due, deadline buffer included. `None`: until the queue is empty.
    pub time_left: Option<Duration>,
    pub max_requests: Option<u64>,
    pub max_runtime: Option<Duration>,
    /// Only these priorities; empty means all.
    pub priority_filter: Vec<Priority>,
    /// Queued as critical before a key is asked for, and served by this run before anything else.
    pub named: Vec<ObjectId>,
    /// A caller waits for the response: views and jobs are left to other runs.
    pub answer_soon: bool,
}

/// Follows a run while it goes on: the progress bar of the command line.
pub trait Progress: Send + Sync {
    /// Reports that one request came to its end in this run.
    fn settled(&self, kind: Kind, outcome: Outcome);
}

impl std::fmt::Debug for dyn Progress + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// The progress of a run that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn settled(&self, _kind: Kind, _outcome: Outcome) {}
}

/// Carries out runs; handlers and commands hold one.
pub trait Runs: Send + Sync {
    /// Drains the queue. Never fails: errors are in the report.
    fn run(&self, options: RunOptions, progress: &dyn Progress) -> impl Future<Output = RunReport> + Send;
}

/// The parts of a worker, built once per cold start and borrowed by every run.
#[derive(Debug)]
pub struct Worker<Q, S> {
    pub queue: Arc<Q>,
    pub store: Arc<S>,
    pub api: ApiAccess,
    pub clock: Arc<dyn Clock>,
    pub config: WorkerConfig,
    pub stop: Stop,
    pub tables: Tables,
    /// The work after the drain, if there is any.
    pub after: Option<Arc<Maintenance>>,
}

/// The API, the keys for it, and the limits of their use.
#[derive(Debug)]
pub struct ApiAccess {
    pub client: ApiClient,
    pub key_store: KeyStore,
    /// Calls a second and key that may never be exceeded.
    pub reqs_per_sec: u32,
    /// Keys that one run may hold; `None` is all.
    pub keys_per_run: Option<usize>,
    /// Calls a day (UTC) over all keys and runs; `None` is no limit.
    pub reqs_per_day: Option<NonZeroU64>,
}
