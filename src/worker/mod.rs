//! The worker room: one run from the first lease to the last settlement. The only room that has seen queue, API and
//! store.
//!
//! [`Worker::run`](Runs::run) opens the run (clocks, database, named requests, key slots, maintenance), lets `drain`
//! do the work, and closes it (slots given back, books closed). What each stage does is in `drain`, `fetch` and
//! `commit`; the decisions are plain functions in [`deadline`] and [`standing`].

pub mod allowance;
mod caches;
mod commit;
pub mod deadline;
mod drain;
mod fetch;
mod flow;
mod halt;
mod in_hand;
mod judgement;
pub mod keys;
pub mod login;
mod mail;
pub mod public;
pub mod report;
pub mod standing;
pub mod tables;
mod tell;

use std::{
    future::Future,
    num::NonZeroU64,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, warn};

pub use self::halt::Stop;
use self::{
    caches::Caches,
    deadline::Deadline,
    drain::{Drain, PROBE_INTERVAL, lock},
    flow::Flow,
    halt::{Force, Halt},
    in_hand::InHand,
    keys::{KeyRing, Taken},
    report::{DayReport, QueueReport, RepairReport, RunEnd, RunReport, StopReason, Tally},
    tables::Tables,
};
use crate::{
    api::{allowance::Allowance, client::ApiClient, judge::Bench, run_keys::RunKeys, wallet::Wallet},
    clock::{Clock, ClocksApart, ServerTime, Timestamp},
    config::{Pause, WorkerConfig},
    derive::{AfterReport, AfterRun},
    model::{Kind, ObjectId, Outcome, Priority, RefreshRequest},
    queue::{Circuit, CircuitReason, CircuitScope, Queue, QueueError, RunSummary, Slots},
    store::{RunRow, Store},
};

/// How long the opening and closing acts of a run may take each; after a thaw a dead connection must not hang a run.
const FIRST_ACT: Duration = Duration::from_millis(1500);

/// How long a run waits, before its first call, for a lock that keeps every answer from being stored.
const LOCK_PATIENCE: Duration = Duration::from_secs(4);

/// How long the queue's first word may take. Enough to find out that a connection died meanwhile, and to open another to a server
/// that is half a second away; a run that has less time waits no longer than it has.
const FIRST_WORD: Duration = Duration::from_secs(6);

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
    /// Queued as critical before a key is asked for, and served by this run before anything else.
    pub named: Vec<ObjectId>,
    /// Somebody waits for the answer: views and jobs are left to other runs.
    pub answer_soon: bool,
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
    /// Calls a day (UTC) over all keys and runs; `None` is no limit.
    pub reqs_per_day: Option<NonZeroU64>,
    pub stop: Stop,
    pub tables: Tables,
    /// What follows the drain, if anything does.
    pub after: Option<Arc<AfterRun>>,
}

impl<Q: Queue + Slots, S: Store> Runs for Worker<Q, S> {
    async fn run(&self, options: RunOptions, progress: &dyn Progress) -> RunReport {
        let began = Instant::now();
        let run = options.run.clone().unwrap_or_else(made_up_name);
        let keys = RunKeys::new(Arc::clone(&self.clock), self.reqs_per_sec);
        let tally = Mutex::new(Tally::new(run.clone(), self.clock.wall()));
        let halt = Halt::default();
        let limits = [options.max_runtime, self.config.max_runtime];
        let deadline = Deadline::new(began, options.time_left, self.config.deadline_buffer, &limits);
        let caches = Caches::new(self.after.as_ref().and_then(|after| after.invalidator.as_ref()));
        let time = self.open(&options, &deadline, &halt, &tally).await;
        failpoint!("run.opened");
        if let (Some(time), None) = (&time, halt.reason()) {
            let (run, deadline) = (&run, &deadline);
            let open = Open { run, deadline, keys: &keys, tally: &tally, halt: &halt, time, caches: &caches };
            // One allocation a run; as a part of this future it would be moved about with it.
            let drain = Box::pin(self.drain(&options, progress, &open));
            tokio::select! {
                () = drain => {}
                () = caches.keep() => {}
            }
        }
        if let Some(time) = &time {
            self.take_mail_in(time, &deadline, &halt, &tally).await;
        }
        let after = self.follow(&options, &caches, &deadline, &halt, time.as_ref()).await;
        let mut tally = lock(&tally).clone();
        tally.throttled = keys.refusals();
        tally.after = after;
        say_repaired(tally.repaired);
        self.close(began, &keys, tally, &halt, time.as_ref()).await
    }
}

/// What a run has at hand once it is open.
#[derive(Clone, Copy, Debug)]
struct Open<'a> {
    run: &'a str,
    deadline: &'a Deadline,
    keys: &'a RunKeys,
    tally: &'a Mutex<Tally>,
    halt: &'a Halt,
    time: &'a ServerTime,
    caches: &'a Caches<'a>,
}

impl<Q: Queue + Slots, S: Store> Worker<Q, S> {
    /// Asks the queue for the time and the database for a sign of life, puts the named requests in front, and sees to it
    /// that there are tables. What stands in the way of a drain ends up in `halt`.
    async fn open(
        &self,
        options: &RunOptions,
        deadline: &Deadline,
        halt: &Halt,
        tally: &Mutex<Tally>,
    ) -> Option<ServerTime> {
        if let Some(pause) = self.config.paused {
            say_paused(pause);
            halt.end(Force::StartNothing, StopReason::RefreshPaused, None);
            if options.named.is_empty() {
                return self.time_for_mail(tally).await;
            }
        }
        let until = deadline.end();
        let first_word = FIRST_WORD.min(until.saturating_duration_since(Instant::now())).max(FIRST_ACT);
        let (time, store) =
            tokio::join!(within(first_word, self.server_time()), patiently(until, || self.store.ping()));
        let (time, uncertain) = match time {
            Some(Ok(time)) => time,
            Some(Err(error)) => {
                halt.end(Force::StartNothing, StopReason::QueueDown, Some(error.to_string()));
                return None;
            }
            None => {
                halt.end(Force::StartNothing, StopReason::QueueDown, Some(no_answer("Redis", first_word)));
                return None;
            }
        };
        self.compare_clocks(&time, uncertain, matches!(store, Some(Ok(()))), tally).await;
        lock(tally).started = time.now();
        if let Err(error) = self.put_in_front(&options.named, time.now(), tally).await {
            halt.end(Force::StartNothing, StopReason::QueueDown, Some(error.to_string()));
        }
        if let Some(too_short) = deadline.too_short() {
            halt.end(Force::StartNothing, StopReason::TimeoutTooShort, Some(too_short.to_string()));
        }
        match store {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(error.to_string()));
            }
            None => halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(no_answer("the database", FIRST_ACT))),
        }
        if halt.reason().is_none()
            && let Err(problem) = self.tables.make(self.store.as_ref(), deadline.end()).await
        {
            let failure = (problem.stops() != StopReason::Deadline).then(|| problem.to_string());
            halt.end(Force::StartNothing, problem.stops(), failure);
        }
        if halt.reason().is_none() {
            self.wait_for_the_store(deadline, halt).await;
        }
        Some(time)
    }

    /// The queue's time, from a server that may be written to, and how long its answer took.
    async fn server_time(&self) -> Result<(ServerTime, Duration), QueueError> {
        let asked = Instant::now();
        let server = self.queue.time_to_write().await?;
        Ok((ServerTime::new(Arc::clone(&self.clock), server), asked.elapsed()))
    }

    /// Says when the clocks of Redis and of the machine differ. The database's decides, so that no row and no lease is hours wrong:
    /// where Redis is in the minority, its time is corrected for this run, and every other run does the same.
    async fn compare_clocks(&self, time: &ServerTime, uncertain: Duration, ask_store: bool, tally: &Mutex<Tally>) {
        let Some(mut apart) = ClocksApart::of(time.now(), self.clock.wall(), uncertain) else { return };
        if ask_store {
            match within(FIRST_ACT, self.store.time()).await {
                Some(Ok(database)) => apart.database = database,
                Some(Err(error)) => warn!(error = %error, "could not ask the database for the time"),
                None => warn!("could not ask for the time: {}", no_answer("the database", FIRST_ACT)),
            }
        }
        warn!(
            redis = %apart.server,
            machine = %apart.machine,
            apart_seconds = apart.difference().as_secs_f64(),
            "{apart}; set the clocks by NTP"
        );
        lock(tally).clocks = Some(apart.into());
        time.correct(apart.server, apart.right());
    }

    /// No call is made while a lock keeps every answer from being stored.
    async fn wait_for_the_store(&self, deadline: &Deadline, halt: &Halt) {
        let until = deadline.end();
        let patience = LOCK_PATIENCE.min(until.saturating_duration_since(Instant::now()));
        let Err(error) = self.store.ready(patience).await else { return };
        let cut_short = if patience < LOCK_PATIENCE { "; no time was left to wait longer" } else { "" };
        halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(format!("{error}{cut_short}")));
    }

    /// The queue's time for a paused run, which does nothing but take mail in; without it not even that.
    async fn time_for_mail(&self, tally: &Mutex<Tally>) -> Option<ServerTime> {
        match within(FIRST_ACT, self.server_time()).await {
            Some(Ok((time, uncertain))) => {
                self.compare_clocks(&time, uncertain, false, tally).await;
                return Some(time);
            }
            Some(Err(error)) => warn!(error = %error, "could not take mail in while runs are paused"),
            None => warn!("could not take mail in while runs are paused: {}", no_answer("Redis", FIRST_ACT)),
        }
        None
    }

    /// A run that is turned away takes mail in all the same, so that what waits is merged, aged and explained rightly.
    async fn take_mail_in(&self, time: &ServerTime, deadline: &Deadline, halt: &Halt, tally: &Mutex<Tally>) {
        if !halt.reason().is_some_and(|(reason, _)| reason.is_turned_away()) {
            return;
        }
        let may_go_on = || Instant::now() < deadline.end();
        match within(FIRST_ACT, mail::admit_mail(self.queue.as_ref(), time, tally, may_go_on)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(error = %error, "could not take mail in; it waits"),
            None => warn!("could not take mail in; it waits: {}", no_answer("Redis", FIRST_ACT)),
        }
    }

    /// Named requests go in front before a key slot is asked for, so that they are not lost when none is free.
    async fn put_in_front(&self, named: &[ObjectId], now: Timestamp, tally: &Mutex<Tally>) -> Result<(), QueueError> {
        if named.is_empty() {
            return Ok(());
        }
        let requests: Vec<RefreshRequest> =
            named.iter().map(|object| RefreshRequest::now(object.clone(), Priority::Critical, now)).collect();
        let enqueued = self.queue.enqueue(now, &requests).await?;
        lock(tally).enqueued(enqueued);
        Ok(())
    }

    async fn drain(&self, options: &RunOptions, progress: &dyn Progress, open: &Open<'_>) {
        let Open { run, deadline, keys, tally, halt, time, caches } = *open;
        if let Some(per_day) = self.reqs_per_day {
            keys.limit_the_day(Allowance::new(per_day, time.clone()));
        }
        let clock = self.clock.as_ref();
        // Lambda delivers a request more than once, under one id: two attempts must not be one holder.
        let holder = format!("{run}/{:08x}", fastrand::u32(..));
        let lifetime = keys::slot_lifetime();
        let ring = KeyRing::new(self.queue.as_ref(), clock, &self.wallet, keys, &holder, lifetime, self.keys_per_run);
        let open_circuits = match self.admission(&ring, time, deadline, halt, tally).await {
            Ok(circuits) => circuits,
            Err(error) => {
                halt.end(Force::StartNothing, StopReason::QueueDown, Some(error.to_string()));
                Vec::new()
            }
        };
        lock(tally).keys_held = keys.fingerprints().len() as u64;
        if halt.reason().is_none()
            && let Err(error) = self.reconcile(time, tally).await
        {
            halt.end(Force::StartNothing, StopReason::QueueDown, Some(error.to_string()));
        }
        if halt.reason().is_none() {
            let bench = Bench::default();
            for circuit in &open_circuits {
                bench.note(|judge| judge.remember(judgement::judged(circuit.scope)));
            }
            let drain = Drain {
                worker: self,
                run,
                time,
                deadline,
                caches,
                keys,
                ring: &ring,
                halt,
                flow: Flow::default(),
                tally,
                progress,
                priorities: &options.priority_filter,
                max_requests: options.max_requests,
                named: Mutex::new(options.named.clone()),
                bench,
                circuits: Mutex::new(open_circuits.iter().map(|circuit| (circuit.scope, circuit.next_probe)).collect()),
                probing: Circuit::of_api(&open_circuits).cloned(),
                throttled: Mutex::default(),
                is_forbidden: AtomicBool::default(),
                carrying_out: tokio::sync::Mutex::default(),
                unheard: Mutex::default(),
                in_hand: InHand::default(),
                store_answers: tokio::sync::watch::Sender::new(true),
                refused_alone: AtomicU32::default(),
            };
            drain.drain().await;
        }
        lock(tally).keys_usable = keys.usable() as u64;
        failpoint!("slot.before_give_back");
        if let Err(error) = ring.give_back().await {
            warn!(error = %error, "could not give the key slots back; they run out by themselves");
        }
        failpoint!("slot.after_give_back");
        if let Err(error) = allowance::give_back(self.queue.as_ref(), keys).await {
            warn!(error = %error, "could not give calls of the day back; they are lost to it");
        }
    }

    /// What follows the drain: within the run's time, and with it used up only what must not be put off.
    async fn follow(
        &self,
        options: &RunOptions,
        caches: &Caches<'_>,
        deadline: &Deadline,
        halt: &Halt,
        time: Option<&ServerTime>,
    ) -> AfterReport {
        let last_word = deadline.end().max(Instant::now() + FIRST_ACT);
        let told = caches.finish(last_word).await;
        self.forget_what_is_told(caches).await;
        let prevented = matches!(
            halt.reason(),
            Some((StopReason::RefreshPaused | StopReason::DatabaseDown | StopReason::Shutdown, _))
        );
        let report = match &self.after {
            Some(after) if !prevented && !options.answer_soon => {
                let now = time.map_or_else(|| self.clock.wall(), ServerTime::now);
                after.run(now, deadline.end(), || self.stop.asked()).await
            }
            _ => AfterReport::default(),
        };
        AfterReport { caches: told, ..report }
    }

    /// What is not forgotten now is told once more by a later run.
    async fn forget_what_is_told(&self, caches: &Caches<'_>) {
        let told = caches.told_notes();
        if told.is_empty() {
            return;
        }
        match within(FIRST_ACT, self.store.delete_from_outbox(&told)).await {
            Some(Ok(())) => caches.forgotten(&told),
            Some(Err(error)) => warn!(error = %error, "could not forget what is told; it will be told once more"),
            None => warn!("could not forget what is told: {}", no_answer("the database", FIRST_ACT)),
        }
    }

    /// Looks at a stretch of the queue before anything is leased from it.
    async fn reconcile(&self, time: &ServerTime, tally: &Mutex<Tally>) -> Result<(), QueueError> {
        let repaired = self.queue.reconcile(time.now()).await?;
        lock(tally).repaired.add(repaired);
        Ok(())
    }

    /// Whether this run may drain: time, a key, and no open circuit of the API but one that it may probe. Returns the
    /// circuits that are open.
    async fn admission(
        &self,
        ring: &KeyRing<'_, Q>,
        time: &ServerTime,
        deadline: &Deadline,
        halt: &Halt,
        tally: &Mutex<Tally>,
    ) -> Result<Vec<Circuit>, QueueError> {
        if !deadline.may_lease(Instant::now()) {
            halt.end(Force::StartNothing, StopReason::Deadline, None);
            return Ok(Vec::new());
        }
        let mut circuits = self.queue.circuits().await?;
        let api = Circuit::of_api(&circuits);
        if let Some(circuit) = api.filter(|circuit| time.now() < circuit.next_probe) {
            halt.end(Force::StartNothing, turned_away_by(circuit), None);
            return Ok(Vec::new());
        }
        if !self.has_keys(ring, deadline, halt, tally).await {
            return Ok(Vec::new());
        }
        let mut taken = ring.take().await?;
        if taken != Taken::Some && ring.is_logging_in() {
            // What there is was refused elsewhere, and may be replaced there. With another key at hand that would wait.
            if !self.has_keys(ring, deadline, halt, tally).await {
                return Ok(Vec::new());
            }
            taken = ring.take().await?;
        }
        match taken {
            Taken::Some => self.has_calls_left(ring, halt).await?,
            Taken::AllHeld => halt.end(Force::StartNothing, StopReason::AlreadyRunning, None),
            Taken::AllPaused => halt.end(Force::StartNothing, StopReason::KeysCoolingDown, None),
        }
        if let Some(api) = circuits.iter_mut().find(|circuit| circuit.scope == CircuitScope::Api)
            && halt.reason().is_none()
        {
            let next_probe = time.now() + PROBE_INTERVAL;
            if !self.queue.claim_probe(api.scope, api.next_probe, next_probe).await? {
                halt.end(Force::StartNothing, turned_away_by(api), None);
                return Ok(Vec::new());
            }
            api.next_probe = next_probe;
            debug!(reason = api.reason.code, "no calls to the API were made for a while; this run probes it");
        }
        Ok(circuits)
    }

    /// Without a call left of this day nothing is leased.
    async fn has_calls_left(&self, ring: &KeyRing<'_, Q>, halt: &Halt) -> Result<(), QueueError> {
        let keys = ring.keys();
        let Some(allowance) = keys.allowance() else { return Ok(()) };
        if !allowance::take_block(self.queue.as_ref(), allowance, keys).await? {
            halt.end(Force::StartNothing, StopReason::DayUsedUp, None);
        }
        Ok(())
    }

    /// Whether there is any key at all; logs in when that can give some.
    async fn has_keys(&self, ring: &KeyRing<'_, Q>, deadline: &Deadline, halt: &Halt, tally: &Mutex<Tally>) -> bool {
        let mut failure = None;
        if self.wallet.wants_login() {
            let told = tokio::select! {
                told = ring.log_in(deadline.leasing_ends()) => told,
                () = self.stop.asked() => {
                    halt.end(Force::Abandon, StopReason::Shutdown, None);
                    return false;
                }
            };
            failure = told.failure();
            lock(tally).logged_in(told);
        }
        let has_keys = !self.wallet.keys().is_empty();
        match failure {
            Some(failure) if has_keys => warn!("going on without the keys of every account: {failure}"),
            Some(failure) => halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure)),
            None if !has_keys => {
                let failure = "there is no API key: neither configured nor from the developer portal".to_owned();
                halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure));
            }
            None => {}
        }
        has_keys
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
        let day = if asks { self.day(now).await } else { None };
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
            day,
        });
        say_mail_is_elsewhere(&report);
        // Runs that only take mail in while they are paused leave no trace.
        if stopped_because == StopReason::RefreshPaused && report.enqueued == 0 {
            return report;
        }
        // Each of the two servers keeps the trace for health, so that one that is down is told by the other.
        let in_queue = async {
            if asks {
                self.record_run(&report, now).await;
            }
        };
        let in_database = async {
            if stopped_because != StopReason::DatabaseDown {
                self.write_down(&report, now).await;
            }
        };
        tokio::join!(in_queue, in_database);
        report
    }

    /// How the day's limit stands, when there is one.
    async fn day(&self, now: Timestamp) -> Option<DayReport> {
        let per_day = self.reqs_per_day?;
        let taken = within(FIRST_ACT, self.queue.calls_taken(now.midnight())).await?.ok()?;
        Some(DayReport::new(per_day, taken, now))
    }

    /// Leaves a line about the run in the queue. A run that was turned away before it did anything is none.
    async fn record_run(&self, report: &RunReport, now: Timestamp) {
        let failed = report.stopped_because.is_failure();
        if !failed && report.stopped_because.is_turned_away() && report.processed_requests == 0 {
            return;
        }
        let note = RunSummary {
            run: report.run.clone(),
            started: report.started,
            ended: now,
            stopped_because: report.stopped_because.as_str().to_owned(),
            error: failed.then(|| public::failure(report.stopped_because, report.failure.as_deref())),
            processed: report.processed_requests,
            failed: report.failed_requests,
            api_requests: report.api_requests,
        };
        match within(FIRST_ACT, self.queue.record_run(&note)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(error = %error, "could not note this run for health"),
            None => warn!("could not note this run for health: {}", no_answer("Redis", FIRST_ACT)),
        }
    }

    async fn write_down(&self, report: &RunReport, now: Timestamp) {
        let row = RunRow {
            run: report.run.clone(),
            started: report.started,
            ended: now,
            stopped_because: report.stopped_because.as_str().to_owned(),
            error: report.failure.clone().or_else(|| {
                let failed = report.stopped_because.is_failure();
                failed.then(|| report.stopped_because.sentence().to_owned())
            }),
            processed: report.processed_requests,
            failed: report.failed_requests,
            api_requests: report.api_requests,
            report: serde_json::to_string(report).unwrap_or_default(),
        };
        failpoint!("run_row.before");
        match within(FIRST_ACT, self.store.record_run(&row)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(error = %error, "could not write the row of this run"),
            None => warn!("could not write the row of this run: {}", no_answer("the database", FIRST_ACT)),
        }
        failpoint!("run_row.after");
    }
}

/// Why a run does nothing while the API's circuit is open and no probe is due.
fn turned_away_by(api: &Circuit) -> StopReason {
    if api.reason.code == CircuitReason::MAINTENANCE { StopReason::Maintenance } else { StopReason::CircuitOpen }
}

/// What the cap of the keys held allowed from the first call until one interval after the last.
#[expect(clippy::cast_precision_loss, reason = "an account has ten keys")]
fn calls_allowed(calling: Duration, reqs_per_sec: u32, keys_held: u64) -> f64 {
    if keys_held == 0 { 0.0 } else { calling.as_secs_f64() * f64::from(reqs_per_sec) * keys_held as f64 + 1.0 }
}

/// A server that stands still for a moment is asked a second time, while the run has time.
pub async fn patiently<T, W: Future<Output = T>>(until: Instant, ask: impl Fn() -> W) -> Option<T> {
    match within(FIRST_ACT, ask()).await {
        None if Instant::now() < until => within(FIRST_ACT, ask()).await,
        answer => answer,
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

fn no_answer(who: &str, within: Duration) -> String {
    format!("{who} did not answer within {} ms", within.as_millis())
}

fn say_paused(pause: Pause) {
    match pause {
        Pause::RefreshPaused => tracing::info!("REFRESH_PAUSED is set: this run takes mail in and does nothing else"),
        Pause::DisableAutoRefreshQueue => warn!(
            "DISABLE_AUTO_REFRESH_QUEUE is set: it is the producers' switch, and this worker obeys it; \
             use REFRESH_PAUSED to pause the worker alone"
        ),
    }
}

/// Producers know nothing of a database number: what they write lies where nobody looks.
fn say_mail_is_elsewhere(report: &RunReport) {
    let elsewhere = report.queue.as_ref().and_then(|queue| queue.mail_in_database_0).unwrap_or(0);
    if elsewhere > 0 && report.mail.admitted == 0 {
        warn!(
            mail_in_database_0 = elsewhere,
            "REDIS_URL selects a database where no mail arrives, and {elsewhere} requests lie in database 0, where producers \
             write: take the database number out of REDIS_URL"
        );
    }
}

fn say_repaired(repaired: RepairReport) {
    if repaired.total() > 0 {
        warn!(
            repaired.records,
            repaired.places,
            repaired.invalid_entries,
            repaired.counters,
            "mended the queue: {} records were gone or broken and were rebuilt, {} objects stood in no set or in a wrong one, \
             {} entries were no objects and are dead letters now, {} counters began anew",
            repaired.records,
            repaired.places,
            repaired.invalid_entries,
            repaired.counters
        );
    }
}

fn made_up_name() -> String {
    format!("run-{:012x}", fastrand::u64(..1 << 48))
}
