//! The table `background_job_status`: taking, keeping and ending jobs; what operators ask of it.

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
use sqlx::FromRow;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{FunctionResult, JobReport, functions::results_in};
use crate::{
    columns::{Number, TableTime},
    derive::database::{Database, begin, code, is_missing_table, is_unreachable, limited, told},
};

/// How long one statement about a job may take.
const TIME: Duration = Duration::from_secs(5);

/// How many jobs one transaction deletes.
const PURGE_BATCH: i64 = 1000;

/// The wait after the first failure, in seconds; it doubles with every further one.
const FIRST_WAIT_SECONDS: f64 = 30.0;

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

/// What can go wrong between us and the table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("cannot {action}: {detail}")]
    Failed { action: &'static str, detail: String, is_unreachable: bool },
    #[error("cannot {action}: {detail}. Fix: {remedy}")]
    NotAllowed { action: &'static str, detail: String, remedy: &'static str },
}

impl TableError {
    fn new(action: &'static str, error: &sqlx::Error) -> Self {
        let detail = told(error);
        match code(error).as_deref() {
            Some("42501") => Self::NotAllowed {
                action,
                detail,
                remedy: "GRANT SELECT, INSERT, UPDATE, DELETE ON background_job_status TO the_role; with row level security \
                         on also CREATE POLICY refresh_worker ON background_job_status TO the_role USING (true) WITH CHECK \
                         (true); and GRANT CREATE ON SCHEMA public where the table is missing",
            },
            _ => Self::Failed { action, detail, is_unreachable: is_unreachable(error) },
        }
    }

    /// Whether the database could not be asked at all.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Failed { is_unreachable: true, .. })
    }
}

/// A job that is ours.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Job {
    pub id: String,
    /// Attempts that failed before.
    #[sqlx(try_from = "Number")]
    pub retry_count: i32,
    #[sqlx(try_from = "Number")]
    pub max_retries: i32,
    /// When we took it: the token of everything we say about it.
    #[sqlx(try_from = "TableTime")]
    started_at: OffsetDateTime,
    results: Option<String>,
    /// How who asked for it calls the request.
    request_id: Option<String>,
    /// From a worker that ended without a word.
    pub taken_over: bool,
}

/// What a job's row keeps of its functions, in the form of the related system's worker.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the related system's")]
pub(super) struct Results<'r> {
    total_functions: usize,
    successful_functions: usize,
    failed_functions: usize,
    /// Nothing when there was nobody to be told, or nothing to tell.
    cache_invalidation_success: Option<bool>,
    function_results: &'r [FunctionResult],
    /// The mark of a failed attempt of ours: the job waits while `retry_count` is this. Whoever queues it again by hand counts
    /// on, or takes it from its end, and need not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_as_retry: Option<i32>,
}

impl<'r> Results<'r> {
    pub fn of(job: &Job, ending: &Ending, results: &'r [FunctionResult], told_well: Option<bool>) -> Self {
        let successful = results.iter().filter(|result| result.success).count();
        Self {
            total_functions: results.len(),
            successful_functions: successful,
            failed_functions: results.len() - successful,
            cache_invalidation_success: told_well,
            function_results: results,
            waits_as_retry: matches!(ending, Ending::Again(_)).then_some(job.retry_count.saturating_add(1)),
        }
    }
}

/// How a job ends for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Completed,
    Failed(String),
    /// It failed, and is queued for its next attempt.
    Again(String),
    /// We had to stop, or its time was up before it had its chance: queued again, nothing counted.
    GivenBack,
    /// Another worker has it.
    Lost,
}

impl Ending {
    const fn status(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::Again(_) | Self::GivenBack => "queued",
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
    /// What went well in an earlier attempt and need not be done again.
    pub fn succeeded_before(&self) -> BTreeMap<String, FunctionResult> {
        let results = self.results.as_deref().map(results_in).unwrap_or_default();
        results.into_iter().filter(|result| result.success).map(|result| (result.name.clone(), result)).collect()
    }

    /// How the request is called: by who asked, or by the job's id.
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

/// One row, as operators see it.
#[derive(Clone, Debug, FromRow)]
pub struct JobRow {
    pub id: String,
    pub payload: String,
    pub status: String,
    pub started_at: Option<TableTime>,
    pub completed_at: Option<TableTime>,
    pub error_message: Option<String>,
    pub results: Option<String>,
    #[sqlx(try_from = "Number")]
    pub retry_count: i32,
    #[sqlx(try_from = "Number")]
    pub max_retries: i32,
    #[sqlx(try_from = "Number")]
    pub priority: i32,
    pub created_at: Option<TableTime>,
    pub updated_at: Option<TableTime>,
    /// By the database's clock.
    #[sqlx(try_from = "TableTime")]
    pub now: OffsetDateTime,
}

impl JobRow {
    /// The payload; what is no JSON object is an empty one.
    #[must_use]
    pub fn payload(&self) -> Value {
        serde_json::from_str(&self.payload).unwrap_or_default()
    }

    /// What became of the functions, as far as it can be read.
    #[must_use]
    pub fn results(&self) -> Vec<FunctionResult> {
        self.results.as_deref().map(results_in).unwrap_or_default()
    }
}

/// The table, made when it is missing and that is allowed.
#[derive(Clone, Debug)]
pub struct JobTable {
    database: Database,
    /// Row level security was looked at.
    looked: Arc<AtomicBool>,
}

/// Runs statements in a transaction of their own, done by `until` where one is named; makes the table where it is missing, once.
macro_rules! in_transaction {
    ($self:ident, $action:literal, |$transaction:ident| $statement:expr) => {
        in_transaction!($self, $action, Instant::now() + TIME, |$transaction| $statement)
    };
    ($self:ident, $action:literal, $until:expr, |$transaction:ident| $statement:expr) => {{
        let until: Instant = $until;
        let mut made = false;
        loop {
            let limit = limited(TIME, until);
            let attempt = $self.database.within(limit, async {
                let mut $transaction = begin(&$self.database.pool, limit).await?;
                let answer = $statement.await?;
                $transaction.commit().await?;
                Ok(answer)
            });
            match attempt.await {
                Err(error) if is_missing_table(&error) && !made => {
                    made = true;
                    $self.make(until).await?;
                }
                answer => break answer.map_err(|error| TableError::new($action, &error)),
            }
        }
    }};
}

/// The same for who only reads, or takes away: a table that is missing holds nothing, and is not made.
macro_rules! in_what_is_there {
    ($self:ident, $action:literal, |$transaction:ident| $statement:expr) => {{
        let attempt = $self.database.within(TIME, async {
            let mut $transaction = begin(&$self.database.pool, TIME).await?;
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

/// What taking a job came to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Now ours.
    pub job: Option<Job>,
    /// How many jobs were closed because their worker had ended once too often.
    pub given_up: u64,
}

impl JobTable {
    #[must_use]
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into(), looked: Arc::default() }
    }

    async fn make(&self, until: Instant) -> Result<(), TableError> {
        let limit = limited(TIME, until);
        let made = self.database.within(limit, async {
            let mut transaction = begin(&self.database.pool, limit).await?;
            // Two that make it at once would disturb one another.
            sqlx::query("SELECT pg_advisory_xact_lock(7526477)").persistent(false).execute(&mut *transaction).await?;
            sqlx::raw_sql(TABLE).execute(&mut *transaction).await?;
            transaction.commit().await
        });
        made.await.map_err(|error| TableError::new("make the table background_job_status", &error))?;
        info!("jobs: made the table background_job_status");
        Ok(())
    }

    /// Says once when rows may be hidden from us.
    async fn look_at_security(&self, until: Instant) {
        if self.looked.swap(true, Ordering::Relaxed) {
            return;
        }
        let limit = limited(TIME, until);
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

    /// Whether no job waits and none is worked at, so that there is nothing to take and nobody to give up. Most runs find it so;
    /// asked only where it costs one round trip. `false` when it is not known.
    async fn is_idle(&self, until: Instant) -> bool {
        if !self.database.keeps_statements() {
            return false;
        }
        let asked = self.database.within(limited(TIME, until), async {
            sqlx::query_scalar(IDLE).fetch_one(&mut *self.database.pool.acquire().await?).await
        });
        asked.await.unwrap_or(false)
    }

    /// Takes the next job, and closes those whose worker ended without a word once too often.
    pub(super) async fn take(&self, lease: Duration, until: Instant) -> Result<Taken, TableError> {
        if self.is_idle(until).await {
            self.look_at_security(until).await;
            return Ok(Taken::default());
        }
        let keeps = self.database.keeps_statements();
        let taken = in_transaction!(self, "take a job", until, |transaction| async {
            let given_up =
                sqlx::query(GIVE_UP).persistent(keeps).bind(lease.as_secs_f64()).execute(&mut *transaction).await?;
            let next = sqlx::query_as(TAKE).persistent(keeps).bind(lease.as_secs_f64()).bind(FIRST_WAIT_SECONDS);
            let job = next.fetch_optional(&mut *transaction).await?;
            Ok::<_, sqlx::Error>(Taken { job, given_up: given_up.rows_affected() })
        })?;
        self.look_at_security(until).await;
        Ok(taken)
    }

    /// A sign of life; `false`: the job is not ours any more.
    pub(super) async fn beat(&self, job: &Job) -> Result<bool, TableError> {
        let beaten = in_transaction!(self, "give a sign of life for a job", |transaction| {
            sqlx::query(BEAT).persistent(false).bind(&job.id).bind(job.started_at).execute(&mut *transaction)
        })?;
        Ok(beaten.rows_affected() > 0)
    }

    /// Ends it; `false`: it was not ours any more, and nothing changed.
    pub(super) async fn end(
        &self,
        job: &Job,
        ending: &Ending,
        results: &Results<'_>,
        until: Instant,
    ) -> Result<bool, TableError> {
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

    /// Queues a job and answers its id.
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

    /// The newest jobs, the newest first.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn list(&self, id: Option<&str>, status: Option<&str>, most: i64) -> Result<Vec<JobRow>, TableError> {
        in_what_is_there!(self, "read jobs", |transaction| {
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
            let count: i64 = in_what_is_there!(self, "count jobs", |transaction| {
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
            let (batch, last): (i64, Option<String>) = in_what_is_there!(self, "delete jobs", |transaction| {
                sqlx::query_as(PURGE)
                    .persistent(false)
                    .bind(&statuses)
                    .bind(age.as_secs_f64())
                    .bind(PURGE_BATCH)
                    .bind(&from)
                    .fetch_one(&mut *transaction)
            })?;
            deleted += batch.unsigned_abs();
            if batch < PURGE_BATCH {
                return Ok(deleted);
            }
            from = last;
        }
    }
}
