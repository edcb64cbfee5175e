//! Statistics jobs: taken from `background_job_status` one by one, their SQL functions run side by side, then the caches of
//! what they made stale are told, then the job is done.
//!
//! Talks to the database, and to the application whose caches are told. The table is shared with other programs and its times
//! are the database's own (defaults, a trigger), so its statements use the database's clock. A worker that dies is noticed
//! by its silence: `updated_at` moves on while a job is worked at. Whoever was taken for dead and comes back changes nothing
//! any more: the moment at which a job was taken is the token of every later statement about it.

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

/// With less time than this no job is begun.
pub const LEAST_TIME: Duration = Duration::from_secs(5);

/// Kept of the time there is, for the caches and the job's last row …
const CLOSING: Duration = Duration::from_secs(2);

/// … and of that, for the row alone.
const LAST_ROW: Duration = Duration::from_secs(1);

/// [`Jobs::work`] in a task has all the time of an invocation: whatever a job gets there, it will never get more.
pub const TIME_OF_A_TASK: Duration = Duration::ZERO;

/// [`Jobs::work`] after a run has what the requests left, often next to nothing: only a job that had so long has had its
/// chance.
pub const TIME_AFTER_A_RUN: Duration = Duration::from_secs(60);

/// So many jobs are told one by one.
const MOST_TOLD: usize = 50;

/// How often the last row of a job is tried to be written.
const LAST_WORDS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

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

/// What became of one job.
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

/// What became of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JobsReport {
    pub completed: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// The first of them.
    pub jobs: Vec<JobReport>,
    /// How many more there were.
    #[serde(skip_serializing_if = "is_zero")]
    pub jobs_omitted: u64,
    /// What caches were told because of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<Invalidated>,
    /// Why no more could be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(skip)]
    pub is_unreachable: bool,
}

/// How the work at one job ended.
enum Worked {
    Done(Vec<FunctionResult>),
    Stopped,
    /// It was taken from us.
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

    /// Takes and does one job after the other until there is none, or the time is up, or `stopped` returns; then what was
    /// not done is given back. Only for a job that came first and had at least `enough` time is it a failed attempt that it
    /// was not done: any other gets more time when it comes first.
    pub async fn work(&self, until: Instant, enough: Duration, stopped: impl Future<Output = ()> + Send) -> JobsReport {
        let mut stopped = std::pin::pin!(stopped);
        let mut report = JobsReport::default();
        let (mut needed, mut is_first) = (LEAST_TIME, true);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left < needed {
                break;
            }
            let began = Instant::now();
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
                () = &mut stopped => Worked::Stopped,
            };
            let is_stopped = matches!(worked, Worked::Stopped);
            let (ended, told) = self.end(&job, worked, has_its_chance, until).await;
            report.add(ended, told);
            if is_stopped {
                break;
            }
            // The next one will hardly be quicker: it would be begun in vain.
            needed = needed.max(began.elapsed() + CLOSING);
        }
        report
    }

    /// Runs the functions of a job, giving signs of life.
    async fn attempt(&self, job: &Job, until: Instant) -> Worked {
        if job.taken_over {
            warn!(job.id, "jobs: {} was left by a worker that ended; taken up again", job.id);
        }
        let done_before = job.succeeded_before();
        let wanted: Vec<&StatsFunction> =
            self.functions.iter().filter(|function| !done_before.contains_key(&function.name)).collect();
        let ran = run_all(&self.database, &wanted, until - CLOSING, &self.worker_id);
        let results = tokio::select! {
            results = ran => results,
            () = self.signs_of_life(job) => return Worked::Lost,
        };
        Worked::Done(self.in_order(results, done_before))
    }

    /// Results of this attempt, and of earlier ones for what need not be run again, in the order of the configuration.
    fn in_order(&self, ran: Vec<FunctionResult>, before: BTreeMap<String, FunctionResult>) -> Vec<FunctionResult> {
        let mut all: BTreeMap<String, FunctionResult> = before;
        all.extend(ran.into_iter().map(|result| (result.name.clone(), result)));
        self.functions.iter().filter_map(|function| all.remove(&function.name)).collect()
    }

    /// Returns only when the job is not ours any more.
    async fn signs_of_life(&self, job: &Job) {
        let mut tick = interval(self.lease / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        loop {
            tick.tick().await;
            match self.table.beat(job).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => warn!(job.id, "jobs: {error}; will try again"),
            }
        }
    }

    /// Tells the caches, then closes the job.
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
            Worked::Stopped => (Vec::new(), Ending::GivenBack),
            Worked::Lost => (Vec::new(), Ending::Lost),
        };
        let told = self.tell_caches(job, &results, until).await;
        let told_well = told.as_ref().map(|told| told.failure.is_none());
        let written = Results::of(job, &ending, &results, told_well);
        let is_ours = ending != Ending::Lost && self.write_end(job, &ending, &written, until).await;
        let ending = if is_ours { ending } else { Ending::Lost };
        let report = job.report(&ending, results);
        say(&report, &self.worker_id);
        (report, told)
    }

    /// Tells which caches are stale: those of the functions that went well in this attempt.
    async fn tell_caches(&self, job: &Job, results: &[FunctionResult], until: Instant) -> Option<Invalidated> {
        let before = job.succeeded_before();
        let is_new =
            |name: &str| !before.contains_key(name) && results.iter().any(|one| one.success && one.name == name);
        let functions = self.functions.iter().filter(|function| is_new(&function.name));
        let tags: BTreeSet<String> = functions.flat_map(|function| function.tags.iter().cloned()).collect();
        let invalidator = self.invalidator.as_ref().filter(|_| !tags.is_empty())?;
        let told = invalidator.tell(&tags, job.request_id(), until - LAST_ROW).await.sum;
        if let Some(failure) = &told.failure {
            warn!(job.id, tags.lost = told.lost, "jobs: {failure}");
        }
        Some(told)
    }

    /// Whether the job was still ours.
    async fn write_end(&self, job: &Job, ending: &Ending, results: &Results<'_>, until: Instant) -> bool {
        let mut waits = LAST_WORDS.iter();
        loop {
            match self.table.end(job, ending, results, until).await {
                Ok(is_ours) => return is_ours,
                Err(error) => {
                    warn!(job.id, "jobs: {error}");
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

    fn add(&mut self, job: JobReport, told: Option<Invalidated>) {
        if let Some(told) = told {
            self.caches.get_or_insert_default().add(told);
        }
        match job.status {
            "completed" => self.completed += 1,
            _ if job.error.is_some() => self.failed += 1,
            _ => {}
        }
        if self.jobs.len() < MOST_TOLD {
            self.jobs.push(job);
        } else {
            self.jobs_omitted += 1;
        }
    }
}

/// Failed when a function did; to be tried again as long as there are attempts. What was only cut off is no failure of a job
/// that had no chance.
fn ending(job: &Job, results: &[FunctionResult], had_its_chance: bool) -> Ending {
    let failed: Vec<&FunctionResult> = results.iter().filter(|result| !result.success).collect();
    let Some(first) = failed.first() else { return Ending::Completed };
    if !had_its_chance && failed.iter().all(|result| result.is_out_of_time) {
        return Ending::GivenBack;
    }
    let why = first.error.as_deref().unwrap_or_default();
    let error = format!("{} of {} functions failed, {}: {why}", failed.len(), results.len(), first.name);
    if job.retry_count < job.max_retries { Ending::Again(error) } else { Ending::Failed(error) }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn say(report: &JobReport, worker_id: &str) {
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
    fn a_job_is_done_when_every_function_is_and_tried_again_while_it_may_be() {
        let ending = |job: &Job, results: &[FunctionResult]| ending(job, results, true);
        assert!(matches!(ending(&job(0), &[result("a", None)]), Ending::Completed));
        let results = [result("a", None), result("b", Some("division by zero"))];
        let Ending::Again(error) = ending(&job(2), &results) else { panic!("one attempt is left") };
        assert_eq!(error, "1 of 2 functions failed, b: division by zero");
        assert!(matches!(ending(&job(3), &results), Ending::Failed(_)));
    }

    #[test]
    fn what_was_cut_off_is_a_failure_only_of_a_job_that_had_its_chance() {
        let cut_off = FunctionResult { is_out_of_time: true, ..result("a", Some("not done within 3 s")) };
        let results = [cut_off, result("b", None)];
        assert_eq!(ending(&job(3), &results, false), Ending::GivenBack);
        assert!(matches!(ending(&job(3), &results, true), Ending::Failed(_)));
        let results = [results[0].clone(), result("b", Some("division by zero"))];
        assert!(matches!(ending(&job(3), &results, false), Ending::Failed(_)), "b would fail again");
    }
}
