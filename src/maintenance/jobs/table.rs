//! The table `background_job_status`: taking, keeping and ending jobs, and the statements for operators.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{FunctionResult, JobReport, functions::results_in};
use crate::{
    columns::{Number, TableTime, from_row},
    maintenance::database::{Database, begin, code, describe, is_missing_table, is_unreachable, limited},
};

/// The timeout of one statement about a job.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most jobs that one transaction deletes.
const PURGE_BATCH: i64 = 1000;

/// The wait after the first failure, in seconds; it doubles with each further one.
const FIRST_RETRY_DELAY_SECONDS: f64 = 30.0;

const TABLE: &str = include_str!("../sql/jobs/table.sql");
const IDLE: &str = include_str!("../sql/jobs/idle.sql");
const TAKE: &str = include_str!("../sql/jobs/take.sql");
const GIVE_UP: &str = include_str!("../sql/jobs/give_up.sql");
const BEAT: &str = include_str!("../sql/jobs/beat.sql");
const END: &str = include_str!("../sql/jobs/end.sql");
const INSERT: &str = include_str!("../sql/jobs/insert.sql");
const LIST: &str = include_str!("../sql/jobs/list.sql");
const PURGE: &str = include_str!("../sql/jobs/purge.sql");
const PURGE_COUNT: &str = include_str!("../sql/jobs/purge_count.sql");

/// An error of the table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("cannot {action}: {detail}")]
    Failed { action: &'static str, detail: String, is_unreachable: bool },
    #[error("cannot {action}: {detail}. Fix: {fix}")]
    NotAllowed { action: &'static str, detail: String, fix: &'static str },
}

impl TableError {
    fn new(action: &'static str, error: &sqlx::Error) -> Self {
        let detail = describe(error);
        match code(error).as_deref() {
            Some("42501") => Self::NotAllowed {
                action,
                detail,
                fix: "GRANT SELECT, INSERT, UPDATE, DELETE ON background_job_status TO the_role; with row level security \
                         on also CREATE POLICY refresh_worker ON background_job_status TO the_role USING (true) WITH CHECK \
                         (true); and GRANT CREATE ON SCHEMA public where the table is missing",
            },
            _ => Self::Failed { action, detail, is_unreachable: is_unreachable(error) },
        }
    }

    /// True when the database could not be reached.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Failed { is_unreachable: true, .. })
    }
}

/// A job that is ours.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub id: String,
    /// Attempts that failed before.
    pub retry_count: i32,
    pub max_retries: i32,
    /// The time at which we took it: the token of every later statement about it.
    started_at: OffsetDateTime,
    results: Option<String>,
    /// The id that the requesting program gave to its request.
    request_id: Option<String>,
    /// True when its former worker ended silently.
    pub taken_over: bool,
}

from_row!(postgres: Job {
    id, retry_count: Number, max_retries: Number, started_at: TableTime, results, request_id, taken_over,
});

/// The results of a job in its row, in the form of the related system's worker.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the related system's")]
pub(super) struct Results<'r> {
    total_functions: usize,
    successful_functions: usize,
    failed_functions: usize,
    /// `None` when there was no cache to invalidate.
    cache_invalidation_success: Option<bool>,
    function_results: &'r [FunctionResult],
    /// Marks a failed attempt of ours: the job waits while `retry_count` equals this. A job that was queued again by hand has
    /// another count or no mark, and does not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_as_retry: Option<i32>,
}

impl<'r> Results<'r> {
    pub fn of(job: &Job, ending: &Ending, results: &'r [FunctionResult], was_delivered: Option<bool>) -> Self {
        let successful = results.iter().filter(|result| result.success).count();
        Self {
            total_functions: results.len(),
            successful_functions: successful,
            failed_functions: results.len() - successful,
            cache_invalidation_success: was_delivered,
            function_results: results,
            waits_as_retry: matches!(ending, Ending::Again(_)).then_some(job.retry_count.saturating_add(1)),
        }
    }
}

/// The end of a job for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Completed,
    Failed(String),
    /// It failed, and is queued for its next attempt.
    Again(String),
    /// We had to stop, or its time was up before it had its chance: queued again, nothing counted.
    Released,
    /// Another worker has it.
    Lost,
}

impl Ending {
    const fn status(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::Again(_) | Self::Released => "queued",
            Self::Lost => "lost",
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(error) | Self::Again(error) => Some(error),
            _ => None,
        }
    }
}

impl Job {
    /// The functions that succeeded in an earlier attempt and need not run again.
    pub fn succeeded_before(&self) -> BTreeMap<String, FunctionResult> {
        let results = self.results.as_deref().map(results_in).unwrap_or_default();
        results.into_iter().filter(|result| result.success).map(|result| (result.name.clone(), result)).collect()
    }

    /// The id of the request: the requesting program's, or the job's.
    pub fn request_id(&self) -> &str {
        self.request_id.as_deref().filter(|id| !id.is_empty()).unwrap_or(&self.id)
    }

    pub fn report(&self, ending: &Ending, results: Vec<FunctionResult>) -> JobReport {
        let took = OffsetDateTime::now_utc() - self.started_at;
        JobReport {
            id: self.id.clone(),
            status: ending.status(),
            attempt: self.retry_count.saturating_add(1),
            duration_seconds: (took.as_seconds_f64().max(0.0) * 1000.0).round() / 1000.0,
            results,
            error: ending.error().map(str::to_owned),
        }
    }

    #[cfg(test)]
    pub fn for_tests(retry_count: i32, max_retries: i32) -> Self {
        let (id, started_at) = (String::new(), OffsetDateTime::UNIX_EPOCH);
        Self { id, retry_count, max_retries, started_at, results: None, request_id: None, taken_over: false }
    }
}

/// A row, for operators.
#[derive(Clone, Debug)]
pub struct JobRow {
    pub id: String,
    pub payload: String,
    pub status: String,
    pub started_at: Option<TableTime>,
    pub completed_at: Option<TableTime>,
    pub error_message: Option<String>,
    pub results: Option<String>,
    pub retry_count: i32,
    pub max_retries: i32,
    pub priority: i32,
    pub created_at: Option<TableTime>,
    pub updated_at: Option<TableTime>,
    /// The database's clock.
    pub now: OffsetDateTime,
}

from_row!(postgres: JobRow {
    id, payload, status, started_at, completed_at, error_message, results, retry_count: Number, max_retries: Number,
    priority: Number, created_at, updated_at, now: TableTime,
});

impl JobRow {
    /// The payload; null when it is not JSON.
    #[must_use]
    pub fn payload(&self) -> Value {
        serde_json::from_str(&self.payload).unwrap_or_default()
    }

    /// The results of the functions, as far as they can be read.
    #[must_use]
    pub fn results(&self) -> Vec<FunctionResult> {
        self.results.as_deref().map(results_in).unwrap_or_default()
    }
}

/// The table, created when it is missing and we may.
#[derive(Clone, Debug)]
pub struct JobTable {
    database: Database,
    /// True after the check for row level security.
    security_checked: Arc<AtomicBool>,
}

/// Runs statements in a transaction of their own, done by `until` where it is given; creates a missing table, once.
macro_rules! in_transaction {
    ($self:ident, $action:literal, |$transaction:ident| $statement:expr) => {
        in_transaction!($self, $action, Instant::now() + STATEMENT_TIMEOUT, |$transaction| $statement)
    };
    ($self:ident, $action:literal, $until:expr, |$transaction:ident| $statement:expr) => {{
        let until: Instant = $until;
        let mut created = false;
        loop {
            let limit = limited(STATEMENT_TIMEOUT, until);
            let attempt = $self.database.within(limit, async {
                let mut $transaction = begin(&$self.database.pool, limit).await?;
                let answer = $statement.await?;
                $transaction.commit().await?;
                Ok(answer)
            });
            match attempt.await {
                Err(error) if is_missing_table(&error) && !created => {
                    created = true;
                    $self.create(until).await?;
                }
                answer => break answer.map_err(|error| TableError::new($action, &error)),
            }
        }
    }};
}

/// The same for statements that only read or delete: a missing table holds nothing, and is not created.
macro_rules! in_existing_table {
    ($self:ident, $action:literal, |$transaction:ident| $statement:expr) => {{
        let attempt = $self.database.within(STATEMENT_TIMEOUT, async {
            let mut $transaction = begin(&$self.database.pool, STATEMENT_TIMEOUT).await?;
            let answer = $statement.await?;
            $transaction.commit().await?;
            Ok(answer)
        });
        match attempt.await {
            Err(error) if is_missing_table(&error) => Ok(Default::default()),
            answer => answer.map_err(|error| TableError::new($action, &error)),
        }
    }};
}

/// The result of taking a job.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The job that is ours now.
    pub job: Option<Job>,
    /// The number of jobs that were failed because their worker had ended once too often.
    pub given_up: u64,
}

impl JobTable {
    #[must_use]
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into(), security_checked: Arc::default() }
    }

    async fn create(&self, until: Instant) -> Result<(), TableError> {
        let limit = limited(STATEMENT_TIMEOUT, until);
        let created = self.database.within(limit, async {
            let mut transaction = begin(&self.database.pool, limit).await?;
            // Two workers that create it at once would fail each other.
            sqlx::query("SELECT pg_advisory_xact_lock(7526477)").persistent(false).execute(&mut *transaction).await?;
            sqlx::raw_sql(TABLE).execute(&mut *transaction).await?;
            transaction.commit().await
        });
        created.await.map_err(|error| TableError::new("create the table background_job_status", &error))?;
        info!("jobs: created the table background_job_status");
        Ok(())
    }

    /// Warns once when rows may be hidden from us.
    async fn check_security(&self, until: Instant) {
        // Once a process is enough for a warning.
        if self.security_checked.swap(true, Ordering::Relaxed) {
            return;
        }
        let limit = limited(STATEMENT_TIMEOUT, until);
        let active = self.database.within(limit, async {
            let mut transaction = begin(&self.database.pool, limit).await?;
            let active: bool = sqlx::query_scalar("SELECT row_security_active('background_job_status')")
                .persistent(false)
                .fetch_one(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(active)
        });
        if let Ok(true) = active.await {
            warn!(
                "jobs: row level security is on for background_job_status, and this role sees only what its policies \
                 allow; to see every job: CREATE POLICY refresh_worker ON background_job_status TO the_role USING (true) \
                 WITH CHECK (true)"
            );
        }
    }

    /// True when no job waits and none is in progress, so that there is nothing to take and nothing to fail, as in most runs. Only
    /// checked where it costs one round trip; false when it is unknown.
    async fn is_idle(&self, until: Instant) -> bool {
        // Through a pooler it would cost as much as taking a job.
        if !self.database.keeps_statements() {
            return false;
        }
        let idle = self.database.within(limited(STATEMENT_TIMEOUT, until), async {
            sqlx::query_scalar(IDLE).fetch_one(&mut *self.database.pool.acquire().await?).await
        });
        idle.await.unwrap_or(false)
    }

    /// Takes the next job, and fails those whose worker ended silently once too often.
    pub(super) async fn take(&self, lease: Duration, until: Instant) -> Result<Taken, TableError> {
        if self.is_idle(until).await {
            self.check_security(until).await;
            return Ok(Taken::default());
        }
        let keeps = self.database.keeps_statements();
        let taken = in_transaction!(self, "take a job", until, |transaction| async {
            let given_up =
                sqlx::query(GIVE_UP).persistent(keeps).bind(lease.as_secs_f64()).execute(&mut *transaction).await?;
            let next = sqlx::query_as(TAKE).persistent(keeps).bind(lease.as_secs_f64()).bind(FIRST_RETRY_DELAY_SECONDS);
            let job = next.fetch_optional(&mut *transaction).await?;
            Ok::<_, sqlx::Error>(Taken { job, given_up: given_up.rows_affected() })
        })?;
        self.check_security(until).await;
        Ok(taken)
    }

    /// Sends a heartbeat; false when the job is no longer ours.
    pub(super) async fn heartbeat(&self, job: &Job) -> Result<bool, TableError> {
        let updated = in_transaction!(self, "send the heartbeat of a job", |transaction| {
            sqlx::query(BEAT).persistent(false).bind(&job.id).bind(job.started_at).execute(&mut *transaction)
        })?;
        Ok(updated.rows_affected() > 0)
    }

    /// Ends a job; false when it was no longer ours, and nothing changed.
    pub(super) async fn end(
        &self,
        job: &Job,
        ending: &Ending,
        results: &Results<'_>,
        until: Instant,
    ) -> Result<bool, TableError> {
        // Without new results the earlier ones stay in the row.
        let has_some = !results.function_results.is_empty();
        let results = has_some.then(|| serde_json::to_string(results).unwrap_or_default());
        let ended = in_transaction!(self, "end a job", until, |transaction| {
            sqlx::query(END)
                .persistent(false)
                .bind(&job.id)
                .bind(job.started_at)
                .bind(ending.status())
                .bind(ending.error())
                .bind(&results)
                .bind(matches!(ending, Ending::Again(_)))
                .execute(&mut *transaction)
        })?;
        Ok(ended.rows_affected() > 0)
    }

    /// Queues a job and returns its id.
    ///
    /// # Errors
    /// When the database refuses it.
    pub async fn enqueue(&self, payload: &Value, priority: i32, max_retries: i32) -> Result<String, TableError> {
        let payload = payload.to_string();
        in_transaction!(self, "queue a job", |transaction| {
            sqlx::query_scalar(INSERT)
                .persistent(false)
                .bind(&payload)
                .bind(priority)
                .bind(max_retries)
                .fetch_one(&mut *transaction)
        })
    }

    /// Lists the newest jobs, the newest first.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn list(&self, id: Option<&str>, status: Option<&str>, most: i64) -> Result<Vec<JobRow>, TableError> {
        in_existing_table!(self, "read jobs", |transaction| {
            sqlx::query_as(LIST).persistent(false).bind(id).bind(status).bind(most).fetch_all(&mut *transaction)
        })
    }

    /// Deletes jobs with one of these statuses that ended longer ago than `age`, in small batches, or only counts them.
    ///
    /// # Errors
    /// When the database refuses it.
    pub async fn purge(&self, statuses: &[&str], age: Duration, only_count: bool) -> Result<u64, TableError> {
        let statuses: Vec<String> = statuses.iter().map(|status| (*status).to_owned()).collect();
        if only_count {
            let count: i64 = in_existing_table!(self, "count jobs", |transaction| {
                sqlx::query_scalar(PURGE_COUNT)
                    .persistent(false)
                    .bind(&statuses)
                    .bind(age.as_secs_f64())
                    .fetch_one(&mut *transaction)
            })?;
            return Ok(u64::try_from(count).unwrap_or(0));
        }
        let (mut deleted, mut from) = (0, None);
        loop {
            let (batch, last): (i64, Option<String>) = in_existing_table!(self, "delete jobs", |transaction| {
                sqlx::query_as(PURGE)
                    .persistent(false)
                    .bind(&statuses)
                    .bind(age.as_secs_f64())
                    .bind(PURGE_BATCH)
                    .bind(&from)
                    .fetch_one(&mut *transaction)
            })?;
            deleted += batch.unsigned_abs();
            // A batch that is not full is the last one.
            if batch < PURGE_BATCH {
                return Ok(deleted);
            }
            from = last;
        }
    }
}
