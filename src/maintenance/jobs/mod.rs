//! Statistics jobs: taken from `background_job_status` one by one. The SQL functions of a job run side by side, then the caches
//! that they made outdated are invalidated, then the job ends.
//!
//! Talks to the database, and to the application whose caches are invalidated. Other programs share the table, and its times are
//! the database's own (defaults, a trigger), so its statements use the database's clock. A live worker keeps moving `updated_at`;
//! a job whose worker stops doing so is taken over. The time at which a job was taken is the token of every later statement about
//! it, so a worker that lost its job changes nothing.

pub(super) mod functions;
pub mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use self::{
    functions::{FunctionResult, run_all},
    table::{Ending, Job, JobTable, Results, TableError, Taken},
};
use super::{
    database::Database,
    invalidate::{Invalidated, Invalidator},
};
use crate::config::{StatsConfig, StatsFunction};

/// No job begins with less time than this.
pub const MIN_JOB_TIME: Duration = Duration::from_secs(5);

/// Reserved at the end of the time, for the caches and the end of the job …
const CLOSING_TIME: Duration = Duration::from_secs(2);

/// … and of that, for the end of the job alone.
const END_TIME: Duration = Duration::from_secs(1);

/// For [`Jobs::work`] in a task, which has all the time of an invocation: a job will never get more than it gets there.
pub const ENOUGH_TIME_IN_TASK: Duration = Duration::ZERO;

/// For [`Jobs::work`] after a run, which has the time that the requests left, often next to nothing: only a job that had this
/// long has had its chance.
pub const ENOUGH_TIME_AFTER_RUN: Duration = Duration::from_secs(60);

/// A report lists at most this many jobs.
// Each entry has the results of all functions, so a long list would swell the report.
const MAX_REPORTED: usize = 50;

/// The waits before further tries to end a job: without it the work would be done again.
const END_RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// Statistics jobs, as they are configured.
#[derive(Clone, Debug)]
pub struct Jobs {
    database: Database,
    table: JobTable,
    functions: Vec<StatsFunction>,
    worker_id: String,
    lease: Duration,
    invalidator: Option<Invalidator>,
}

/// The result of one job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobReport {
    pub id: String,
    /// `completed`, `failed`, `queued` (to be tried again) or `lost` (another worker has it).
    pub status: &'static str,
    pub attempt: i32,
    pub duration_seconds: f64,
    pub results: Vec<FunctionResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The results of all jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JobsReport {
    pub completed: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// The first of them.
    pub jobs: Vec<JobReport>,
    /// The number of further jobs.
    #[serde(skip_serializing_if = "is_zero")]
    pub jobs_omitted: u64,
    /// The invalidation of caches because of the jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<Invalidated>,
    /// The reason why no more jobs could be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(skip)]
    pub is_unreachable: bool,
}

/// The end of the work at one job.
enum Worked {
    Done(Vec<FunctionResult>),
    Stopped,
    /// Another worker took the job over.
    Lost,
}

impl Jobs {
    #[must_use]
    pub fn new(database: impl Into<Database>, config: &StatsConfig, invalidator: Option<Invalidator>) -> Self {
        let database = database.into();
        Self {
            table: JobTable::new(database.clone()),
            database,
            functions: config.functions.clone(),
            worker_id: config.worker_id.clone(),
            lease: config.lease,
            invalidator,
        }
    }

    /// Takes and does one job after the other until there is none, or the time is up, or `stopped` returns; an unfinished job is
    /// released. That counts as a failed attempt only for a job that came first and had at least `enough` time: any other job
    /// gets more time when it comes first.
    pub async fn work(&self, until: Instant, enough: Duration, stopped: impl Future<Output = ()> + Send) -> JobsReport {
        let mut stopped = std::pin::pin!(stopped);
        let mut report = JobsReport::default();
        let (mut needed, mut is_first) = (MIN_JOB_TIME, true);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left < needed {
                break;
            }
            let began = Instant::now();
            // Only the first job of a run has the full time for itself.
            let has_its_chance = is_first && left >= enough;
            is_first = false;
            let job = match self.table.take(self.lease, until).await {
                Ok(Taken { job, given_up }) => {
                    report.failed += given_up;
                    job
                }
                Err(error) => {
                    report.fail(&error);
                    break;
                }
            };
            let Some(job) = job else { break };
            let worked = tokio::select! {
                worked = self.attempt(&job, until) => worked,
                // A shutdown: the job is released for another worker.
                () = &mut stopped => Worked::Stopped,
            };
            let is_stopped = matches!(worked, Worked::Stopped);
            let (ended, invalidated) = self.end(&job, worked, has_its_chance, until).await;
            report.add(ended, invalidated);
            if is_stopped {
                break;
            }
            // The next job will hardly be quicker, and would begin in vain.
            needed = needed.max(began.elapsed() + CLOSING_TIME);
        }
        report
    }

    /// Runs the functions of a job, with heartbeats.
    async fn attempt(&self, job: &Job, until: Instant) -> Worked {
        if job.taken_over {
            warn!(job.id, "jobs: took over {}, whose worker had ended", job.id);
        }
        let done_before = job.succeeded_before();
        let wanted: Vec<&StatsFunction> =
            self.functions.iter().filter(|function| !done_before.contains_key(&function.name)).collect();
        let ran = run_all(&self.database, &wanted, until - CLOSING_TIME, &self.worker_id);
        let results = tokio::select! {
            results = ran => results,
            // Ends only when another worker has taken the job over.
            () = self.keep_alive(job) => return Worked::Lost,
        };
        Worked::Done(self.in_order(results, done_before))
    }

    /// The results of this attempt, and of earlier ones for functions that need not run again, in the order of the configuration.
    fn in_order(&self, ran: Vec<FunctionResult>, before: BTreeMap<String, FunctionResult>) -> Vec<FunctionResult> {
        let mut all: BTreeMap<String, FunctionResult> = before;
        all.extend(ran.into_iter().map(|result| (result.name.clone(), result)));
        self.functions.iter().filter_map(|function| all.remove(&function.name)).collect()
    }

    /// Sends heartbeats; returns when the job is no longer ours.
    async fn keep_alive(&self, job: &Job) {
        // Two heartbeats may fail before the lease runs out.
        let mut tick = interval(self.lease / 3);
        // After a freeze one heartbeat is enough.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Taking the job was the first heartbeat.
        tick.reset();
        loop {
            tick.tick().await;
            match self.table.heartbeat(job).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => warn!(job.id, "jobs: {error}; will try again"),
            }
        }
    }

    /// Invalidates the caches, then ends the job.
    async fn end(
        &self,
        job: &Job,
        worked: Worked,
        has_its_chance: bool,
        until: Instant,
    ) -> (JobReport, Option<Invalidated>) {
        let (results, ending) = match worked {
            Worked::Done(results) => {
                let ending = ending(job, &results, has_its_chance);
                (results, ending)
            }
            Worked::Stopped => (Vec::new(), Ending::Released),
            // The new worker runs the functions again, and invalidates their caches.
            Worked::Lost => (Vec::new(), Ending::Lost),
        };
        // First the caches: once the job has ended, nobody would invalidate them again.
        let invalidated = self.invalidate(job, &results, until).await;
        let was_delivered = invalidated.as_ref().map(|sum| sum.failure.is_none());
        let written = Results::of(job, &ending, &results, was_delivered);
        let is_ours = ending != Ending::Lost && self.write_end(job, &ending, &written, until).await;
        let ending = if is_ours { ending } else { Ending::Lost };
        let report = job.report(&ending, results);
        log(&report, &self.worker_id);
        (report, invalidated)
    }

    /// Invalidates the caches of the functions that succeeded in this attempt.
    async fn invalidate(&self, job: &Job, results: &[FunctionResult], until: Instant) -> Option<Invalidated> {
        let before = job.succeeded_before();
        let is_new =
            |name: &str| !before.contains_key(name) && results.iter().any(|one| one.success && one.name == name);
        let functions = self.functions.iter().filter(|function| is_new(&function.name));
        let tags: BTreeSet<String> = functions.flat_map(|function| function.tags.iter().cloned()).collect();
        let invalidator = self.invalidator.as_ref().filter(|_| !tags.is_empty())?;
        let sum = invalidator.deliver(&tags, job.request_id(), until - END_TIME).await.sum;
        if let Some(failure) = &sum.failure {
            warn!(job.id, tags.lost = sum.lost, "jobs: {failure}");
        }
        Some(sum)
    }

    /// Writes the end of a job; true when the job was still ours.
    async fn write_end(&self, job: &Job, ending: &Ending, results: &Results<'_>, until: Instant) -> bool {
        let mut waits = END_RETRY_DELAYS.iter();
        loop {
            match self.table.end(job, ending, results, until).await {
                Ok(is_ours) => return is_ours,
                Err(error) => {
                    warn!(job.id, "jobs: {error}");
                    // Without the row another worker repeats the job after the lease.
                    let Some(wait) = waits.next().filter(|wait| Instant::now() + **wait < until) else {
                        return false;
                    };
                    sleep(*wait).await;
                }
            }
        }
    }
}

impl JobsReport {
    fn fail(&mut self, error: &TableError) {
        warn!("jobs: {error}");
        self.is_unreachable = error.is_unreachable();
        self.failure = Some(error.to_string());
    }

    fn add(&mut self, job: JobReport, invalidated: Option<Invalidated>) {
        if let Some(sum) = invalidated {
            self.caches.get_or_insert_default().add(sum);
        }
        match job.status {
            // Released and lost jobs count as neither.
            "completed" => self.completed += 1,
            _ if job.error.is_some() => self.failed += 1,
            _ => {}
        }
        if self.jobs.len() < MAX_REPORTED {
            self.jobs.push(job);
        } else {
            self.jobs_omitted += 1;
        }
    }
}

/// A job fails when a function does, and is tried again while it has attempts left. Functions that were only cut off do not fail a
/// job that had no chance.
fn ending(job: &Job, results: &[FunctionResult], had_its_chance: bool) -> Ending {
    let failed: Vec<&FunctionResult> = results.iter().filter(|result| !result.success).collect();
    let Some(first) = failed.first() else { return Ending::Completed };
    // An error other than a timeout counts in any case, because it would come again.
    if !had_its_chance && failed.iter().all(|result| result.is_out_of_time) {
        return Ending::Released;
    }
    let why = first.error.as_deref().unwrap_or_default();
    let error = format!("{} of {} functions failed, {}: {why}", failed.len(), results.len(), first.name);
    if job.retry_count < job.max_retries { Ending::Again(error) } else { Ending::Failed(error) }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn log(report: &JobReport, worker_id: &str) {
    let seconds = report.duration_seconds;
    match &report.error {
        None => info!(job.id = report.id, worker_id, "jobs: {} {} in {seconds} s", report.id, report.status),
        Some(error) => {
            warn!(job.id = report.id, worker_id, "jobs: {} {} after {seconds} s: {error}", report.id, report.status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(retry_count: i32) -> Job {
        Job::for_tests(retry_count, 3)
    }

    fn result(name: &str, error: Option<&str>) -> FunctionResult {
        FunctionResult {
            name: name.to_owned(),
            success: error.is_none(),
            message: String::new(),
            duration: 5,
            error: error.map(str::to_owned),
            worker: "w".to_owned(),
            is_out_of_time: false,
        }
    }

    #[test]
    fn ending_follows_functions_and_attempts_left() {
        let ending = |job: &Job, results: &[FunctionResult]| ending(job, results, true);
        assert!(matches!(ending(&job(0), &[result("a", None)]), Ending::Completed));
        let results = [result("a", None), result("b", Some("division by zero"))];
        let Ending::Again(error) = ending(&job(2), &results) else { panic!("one attempt is left") };
        assert_eq!(error, "1 of 2 functions failed, b: division by zero");
        assert!(matches!(ending(&job(3), &results), Ending::Failed(_)));
    }

    #[test]
    fn cut_off_functions_fail_jobs_with_chance() {
        let cut_off = FunctionResult { is_out_of_time: true, ..result("a", Some("not done within 3 s")) };
        let results = [cut_off, result("b", None)];
        assert_eq!(ending(&job(3), &results, false), Ending::Released);
        assert!(matches!(ending(&job(3), &results, true), Ending::Failed(_)));
        let results = [results[0].clone(), result("b", Some("division by zero"))];
        assert!(matches!(ending(&job(3), &results, false), Ending::Failed(_)), "b would fail again");
    }
}
