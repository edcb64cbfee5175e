//! The worker room: one run from the first lease to the last settlement. The only room that has seen queue, API and
//! store.
//!
//! [`Worker::run`](Runs::run) opens the run (clocks, database, named requests, key slots, maintenance), lets `drain`
//! do the work, and closes it (slots given back, books closed). What each stage does is in `drain`, `fetch` and
//! `commit`; the decisions are plain functions in [`deadline`] and [`standing`].

mod commit;
pub mod deadline;
mod drain;
mod fetch;
mod flow;
mod halt;
mod keys;
pub mod report;
pub mod standing;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, warn};

pub use self::halt::Stop;
use self::{
    deadline::Deadline,
    drain::{Drain, PROBE_INTERVAL, lock},
    flow::Flow,
    halt::{Force, Halt},
    keys::{KeyRing, Taken},
    report::{QueueReport, RunEnd, RunReport, StopReason, Tally},
};
use crate::{
    api::{client::ApiClient, run_keys::RunKeys, wallet::Wallet},
    clock::{Clock, ServerTime, Timestamp},
    config::{Pause, WorkerConfig},
    model::{Kind, ObjectId, Outcome, Priority, Wish},
    queue::{Queue, QueueError, Slots},
    store::{RunRow, Store},
};

/// How long the opening and closing acts of a run may take each; after a thaw a dead connection must not hang a run.
const FIRST_ACT: Duration = Duration::from_millis(1500);

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

impl std::fmt::Debug for dyn Progress + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
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

/// The parts of a worker, built once per cold start and borrowed by every run.
#[derive(Debug)]
pub struct Worker<Q, S> {
    pub queue: Arc<Q>,
    pub store: Arc<S>,
    pub api: ApiClient,
    pub wallet: Wallet,
    pub clock: Arc<dyn Clock>,
    pub config: WorkerConfig,
    /// Calls a second and key that may never be exceeded.
    pub reqs_per_sec: u32,
    /// How many keys one run may hold; `None` is all.
    pub keys_per_run: Option<usize>,
    pub stop: Stop,
}

impl<Q: Queue + Slots, S: Store> Runs for Worker<Q, S> {
    async fn run(&self, options: RunOptions, progress: &dyn Progress) -> RunReport {
        let began = Instant::now();
        let run = options.run.clone().unwrap_or_else(made_up_name);
        let keys = RunKeys::new(Arc::clone(&self.clock), self.reqs_per_sec);
        let tally = Mutex::new(Tally::new(run.clone(), self.clock.wall()));
        let halt = Halt::default();
        let time = self.open(&options, &halt, &tally).await;
        if let (Some(time), None) = (&time, halt.reason()) {
            self.drain(&options, progress, &Open { run: &run, began, keys: &keys, tally: &tally, halt: &halt, time })
                .await;
        }
        let tally = lock(&tally).clone();
        self.close(began, &keys, tally, &halt, time.as_ref()).await
    }
}

/// What a run has at hand once it is open.
#[derive(Clone, Copy, Debug)]
struct Open<'a> {
    run: &'a str,
    began: Instant,
    keys: &'a RunKeys,
    tally: &'a Mutex<Tally>,
    halt: &'a Halt,
    time: &'a ServerTime,
}

impl<Q: Queue + Slots, S: Store> Worker<Q, S> {
    /// Asks the queue for the time and the database for a sign of life, and puts the named requests in front. What
    /// stands in the way of a drain ends up in `halt`.
    async fn open(&self, options: &RunOptions, halt: &Halt, tally: &Mutex<Tally>) -> Option<ServerTime> {
        if let Some(pause) = self.config.paused {
            say_paused(pause);
            halt.end(Force::StartNothing, StopReason::RefreshPaused, None);
            if options.named.is_empty() {
                return None;
            }
        }
        let (server, store) = tokio::join!(within(FIRST_ACT, self.queue.time()), within(FIRST_ACT, self.store.ping()));
        let server = match server {
            Some(Ok(server)) => server,
            Some(Err(error)) => {
                halt.end(Force::StartNothing, StopReason::QueueDown, Some(format!("failed to {error}")));
                return None;
            }
            None => {
                halt.end(Force::StartNothing, StopReason::QueueDown, Some(no_answer("Redis")));
                return None;
            }
        };
        let time = ServerTime::new(Arc::clone(&self.clock), server);
        lock(tally).started = server;
        if let Err(error) = self.put_in_front(&options.named, server, tally).await {
            halt.end(Force::StartNothing, StopReason::QueueDown, Some(format!("failed to {error}")));
        }
        match store {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(format!("failed to {error}")));
            }
            None => halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(no_answer("the database"))),
        }
        Some(time)
    }

    /// Named requests go in front before a key slot is asked for, so that they are not lost when none is free.
    async fn put_in_front(&self, named: &[ObjectId], now: Timestamp, tally: &Mutex<Tally>) -> Result<(), QueueError> {
        if named.is_empty() {
            return Ok(());
        }
        let wishes: Vec<Wish> = named.iter().map(|object| Wish::now(object.clone(), Priority::Critical, now)).collect();
        self.queue.enqueue(now, &wishes).await?;
        lock(tally).enqueued = wishes.len() as u64;
        Ok(())
    }

    async fn drain(&self, options: &RunOptions, progress: &dyn Progress, open: &Open<'_>) {
        let Open { run, began, keys, tally, halt, time } = *open;
        let limits = [options.max_runtime, self.config.max_runtime];
        let deadline = Deadline::new(began, options.time_left, self.config.deadline_buffer, &limits);
        let clock = self.clock.as_ref();
        let lifetime = self.config.lease;
        let ring = KeyRing::new(self.queue.as_ref(), clock, &self.wallet, keys, run, lifetime, self.keys_per_run);
        let probing = match self.admission(&ring, time, &deadline, halt).await {
            Ok(probing) => probing,
            Err(error) => {
                halt.end(Force::StartNothing, StopReason::QueueDown, Some(format!("failed to {error}")));
                return;
            }
        };
        lock(tally).keys_held = keys.fingerprints().len() as u64;
        if halt.reason().is_none() {
            let drain = Drain {
                worker: self,
                run,
                time,
                deadline: &deadline,
                keys,
                ring: &ring,
                halt,
                flow: Flow::default(),
                tally,
                progress,
                priorities: &options.priority_filter,
                max_requests: options.max_requests,
                probing,
                api_answered: Mutex::default(),
                in_hand: Mutex::new(HashMap::new()),
                store_answers: tokio::sync::watch::Sender::new(true),
            };
            drain.drain().await;
        }
        lock(tally).keys_usable = keys.usable() as u64;
        if let Err(error) = ring.give_back(f64::from(self.reqs_per_sec)).await {
            warn!(error = %error, "could not give the key slots back; they run out by themselves");
        }
    }

    /// Whether this run may drain: time, a key, and no maintenance. `true`: only as a probe.
    async fn admission(
        &self,
        ring: &KeyRing<'_, Q>,
        time: &ServerTime,
        deadline: &Deadline,
        halt: &Halt,
    ) -> Result<bool, QueueError> {
        if !deadline.may_lease(Instant::now()) {
            halt.end(Force::StartNothing, StopReason::Deadline, None);
            return Ok(false);
        }
        let maintenance = self.queue.maintenance().await?;
        if maintenance.is_some_and(|maintenance| time.now() < maintenance.next_probe) {
            halt.end(Force::StartNothing, StopReason::Maintenance, None);
            return Ok(false);
        }
        match ring.take().await? {
            Taken::Some => {}
            Taken::AllHeld => halt.end(Force::StartNothing, StopReason::AlreadyRunning, None),
            Taken::AllPaused => halt.end(Force::StartNothing, StopReason::KeysPaused, None),
        }
        let Some(maintenance) = maintenance.filter(|_| halt.reason().is_none()) else {
            return Ok(false);
        };
        if !self.queue.claim_probe(maintenance.next_probe, time.now() + PROBE_INTERVAL).await? {
            halt.end(Force::StartNothing, StopReason::Maintenance, None);
            return Ok(false);
        }
        debug!("the API was in maintenance; this run probes it");
        Ok(true)
    }

    /// Closes the books: what the queue holds now, the report, the row of the run.
    async fn close(
        &self,
        began: Instant,
        keys: &RunKeys,
        tally: Tally,
        halt: &Halt,
        time: Option<&ServerTime>,
    ) -> RunReport {
        let (stopped_because, failure) = halt.reason().unwrap_or((StopReason::QueueEmpty, None));
        let now = time.map_or_else(|| self.clock.wall(), ServerTime::now);
        let asks = stopped_because != StopReason::QueueDown && time.is_some();
        let stats = if asks { within(FIRST_ACT, self.queue.stats(now)).await.and_then(Result::ok) } else { None };
        let (keys_held, keys_usable) = (tally.keys_held, tally.keys_usable);
        let calls_allowed = calls_allowed(keys.calling_window(), self.reqs_per_sec, keys_held);
        let report = tally.finish(RunEnd {
            stopped_because,
            failure,
            runtime: began.elapsed(),
            api_requests: keys.calls_made(),
            calls_allowed,
            keys_usable,
            keys_held,
            queue: stats.map(|stats| QueueReport::new(&stats, now)),
        });
        if stopped_because != StopReason::DatabaseDown && time.is_some() {
            self.write_down(&report, now).await;
        }
        report
    }

    async fn write_down(&self, report: &RunReport, now: Timestamp) {
        let row = RunRow {
            run: report.run.clone(),
            started: report.started,
            ended: now,
            stopped_because: report.stopped_because.as_str().to_owned(),
            error: report.failure.clone(),
            processed: report.processed_requests,
            failed: report.failed_requests,
            api_requests: report.api_requests,
            report: serde_json::to_string(report).unwrap_or_default(),
        };
        match within(FIRST_ACT, self.store.record_run(&row)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(error = %error, "could not write the row of this run"),
            None => warn!("could not write the row of this run: {}", no_answer("the database")),
        }
    }
}

/// What the cap of the keys held allowed from the first call until one interval after the last.
#[expect(clippy::cast_precision_loss, reason = "an account has ten keys")]
fn calls_allowed(calling: Duration, reqs_per_sec: u32, keys_held: u64) -> f64 {
    if keys_held == 0 { 0.0 } else { calling.as_secs_f64() * f64::from(reqs_per_sec) * keys_held as f64 + 1.0 }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

fn no_answer(who: &str) -> String {
    format!("{who} did not answer within {} ms", FIRST_ACT.as_millis())
}

fn say_paused(pause: Pause) {
    match pause {
        Pause::RefreshPaused => tracing::info!("REFRESH_PAUSED is set: this run does nothing"),
        Pause::DisableAutoRefreshQueue => warn!(
            "DISABLE_AUTO_REFRESH_QUEUE is set: it is the producers' switch, and this worker obeys it; \
             use REFRESH_PAUSED to pause the worker alone"
        ),
    }
}

fn made_up_name() -> String {
    format!("run-{:012x}", fastrand::u64(..1 << 48))
}
