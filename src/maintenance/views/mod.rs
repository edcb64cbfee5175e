//! Materialized views: refreshed when they are due or asked for, by one run at a time, within the time there is.
//!
//! Talks to the database only. A refresh, its statistics and its row in `materialized_view_refresh_log` are one
//! transaction: PostgreSQL allows `REFRESH ... CONCURRENTLY` in one, so the lock that keeps a second refresher away can be
//! the transaction's own and poolers are fine. That log is shared with other programs, which write the database's time
//! into it; so its times are the database's here, too.

pub mod own;

use std::{collections::HashMap, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, FromRow, PgConnection};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::own::OWN_VIEWS;
use super::database::{Database, begin, is_unreachable, limited, quoted, told};
use crate::{clock::Timestamp, config::ViewConfig};

/// Our own schema, where a view is looked for second.
const OWN_SCHEMA: &str = "refresh_worker";

/// With less time than this no refresh is begun.
pub const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// Looking at how old all are.
const AGES_TIME: Duration = Duration::from_secs(5);

/// How long a refresh waits for the locks of others.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// A schedule is never exact: a view is due when this part of its interval is over.
const DUE_AFTER: f64 = 0.9;

/// Names the locks among advisory locks: the letters `rfvw`.
const LOCK: i64 = 0x7266_7677;

const NOT_DUE: &str = "not due";

const LOOK: &str = include_str!("../sql/view_look.sql");
const BLOCKER: &str = include_str!("../sql/view_blocker.sql");
const AGES: &str = include_str!("../sql/view_ages.sql");
const LOG: &str = include_str!("../sql/view_log.sql");
const LOG_TABLE: &str = include_str!("../sql/view_log_table.sql");
const STATISTICS_JOB_PROGRESS: &str = include_str!("../sql/view_statistics_job_progress.sql");

/// The views that are configured.
#[derive(Clone, Debug)]
pub struct Views {
    database: Database,
    views: Vec<ViewConfig>,
}

/// When a view is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When its interval is over.
    Due,
    /// In any case.
    Now,
}

/// How a view was refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Readers go on reading meanwhile.
    Concurrent,
    /// Readers wait.
    Regular,
}

impl Serialize for Way {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Concurrent => "concurrent",
            Self::Regular => "regular",
        })
    }
}

/// What became of one view.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refreshed {
    pub view: String,
    pub success: bool,
    pub duration_seconds: f64,
    /// Absent when it was not refreshed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_type: Option<Way>,
    pub timestamp: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub statistics: Value,
    /// Why it was left alone, although nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<&'static str>,
    /// What an operator should know although it went well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What would mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The database could not be asked at all.
    #[serde(skip)]
    pub is_unreachable: bool,
}

/// Why a view was not refreshed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ViewError {
    #[error("Materialized view {view} does not exist")]
    Missing { view: String },
    #[error("{view} is not a materialized view")]
    Another { view: String },
    #[error("no time was left for it")]
    NoTime,
    #[error("{error}: it is locked, probably by {blocker}")]
    Locked { blocker: String, error: String },
    #[error("{0}")]
    Database(#[from] sqlx::Error),
}

/// Who holds a lock on a view, or on a table in its query; as far as the role may see.
async fn blocker(database: &Database, view: &ViewConfig) -> String {
    let asked = async {
        let mut transaction = begin(&database.pool, AGES_TIME).await?;
        let blocker: Option<String> = sqlx::query_scalar(BLOCKER)
            .persistent(false)
            .bind(quoted(&view.name))
            .bind((!view.name.contains('.')).then(|| format!("{OWN_SCHEMA}.{}", quoted(&view.name))))
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(blocker)
    };
    let blocker = database.within(AGES_TIME, asked).await.ok().flatten();
    blocker.unwrap_or_else(|| "another session".to_owned())
}

#[derive(FromRow)]
pub(super) struct Look {
    pub qualified: String,
    is_materialized: bool,
    pub is_populated: bool,
    pub has_key: bool,
    pub is_ours: bool,
    pub role: String,
    has_log: bool,
}

/// A refresh that took place, or the reason why it was left.
enum Done {
    Skipped(&'static str),
    Refreshed { way: Way, took: Duration, statistics: Value, notes: Vec<String> },
}

impl Views {
    /// `None` when there is none.
    #[must_use]
    pub fn new(database: impl Into<Database>, views: &[ViewConfig]) -> Option<Self> {
        (!views.is_empty()).then(|| Self { database: database.into(), views: views.to_vec() })
    }

    /// Refreshes them one after the other, the most overdue first, and is done by `until`. Each gets its share of the time that
    /// is left, so that a slow one takes nothing from those after it. Told in the order of the configuration.
    pub async fn refresh(&self, when: When, now: Timestamp, until: Instant) -> Vec<Refreshed> {
        let ages = self.ages(until).await;
        let overdue = |view: &ViewConfig| ages.get(&view.name).map_or(f64::INFINITY, |age| overdue(view, *age));
        let mut waiting: Vec<usize> = (0..self.views.len()).collect();
        waiting.sort_by(|one, other| overdue(&self.views[*other]).total_cmp(&overdue(&self.views[*one])));
        let mut all = Vec::new();
        for (place, index) in waiting.iter().enumerate() {
            let view = &self.views[*index];
            let began = Instant::now();
            let done = if when == When::Due && overdue(view) < 0.0 {
                Ok(Done::Skipped(NOT_DUE))
            } else {
                self.refresh_one(view, when, share(until - began, waiting.len() - place)).await
            };
            all.push((*index, report(view, done, now, began.elapsed())));
        }
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, report)| report).collect()
    }

    /// How long ago each was refreshed, in seconds. Nothing of those that never were; nothing at all when it cannot be read: the
    /// refreshes then tell why.
    async fn ages(&self, until: Instant) -> HashMap<String, f64> {
        let limit = limited(AGES_TIME, until);
        let pool = &self.database.pool;
        let read = self.database.within(limit, async {
            // Every run asks this, and mostly no more than this.
            if self.database.keeps_statements() {
                return ages(&mut *pool.acquire().await?, &self.views, true).await;
            }
            let mut transaction = begin(pool, limit).await?;
            let ages = ages(&mut transaction, &self.views, false).await?;
            transaction.commit().await?;
            Ok(ages)
        });
        read.await.unwrap_or_else(|error| {
            debug!("views: how old they are cannot be read: {}", told(&error));
            HashMap::new()
        })
    }

    async fn refresh_one(&self, view: &ViewConfig, when: When, limit: Duration) -> Result<Done, ViewError> {
        if limit < SHORTEST_REFRESH {
            return Err(ViewError::NoTime);
        }
        let refreshed = async {
            let mut transaction = begin(&self.database.pool, limit).await?;
            let done = attempt(&mut transaction, view, when).await;
            let Err(error) = &done else {
                transaction.commit().await?;
                return Ok(done);
            };
            if let ViewError::Database(error) = error {
                self.database.notice(error);
            }
            transaction.rollback().await?;
            if let ViewError::Database(error) = error
                && super::database::code(error).as_deref() == Some("55P03")
            {
                let blocker = blocker(&self.database, view).await;
                return Ok(Err(ViewError::Locked { blocker, error: told(error) }));
            }
            Ok(done)
        };
        self.database.within(limit, refreshed).await?
    }
}

/// One refresh, within its transaction.
async fn attempt(transaction: &mut PgConnection, view: &ViewConfig, when: When) -> Result<Done, ViewError> {
    if !is_alone(transaction, view).await? {
        return Ok(Done::Skipped("another run refreshes it"));
    }
    let look = look_at(transaction, view).await?;
    if when == When::Due && look.has_log && !is_due(transaction, view).await? {
        return Ok(Done::Skipped(NOT_DUE));
    }
    let mut notes = Vec::new();
    let way = way(&look, &mut notes);
    let began = Instant::now();
    let concurrently = if way == Way::Concurrent { "CONCURRENTLY " } else { "" };
    // A refresh that waits for its lock has every reader wait behind it.
    let wait = format!("SELECT set_config('lock_timeout', '{}ms', true)", LOCK_TIMEOUT.as_millis());
    sqlx::raw_sql(AssertSqlSafe(wait)).execute(&mut *transaction).await?;
    let refresh = format!("REFRESH MATERIALIZED VIEW {concurrently}{}", look.qualified);
    sqlx::raw_sql(AssertSqlSafe(refresh)).execute(&mut *transaction).await?;
    let took = began.elapsed();
    let statistics = statistics(transaction, view, &look.qualified, &mut notes).await?;
    write_down(transaction, view, &look, took, &statistics, &mut notes).await?;
    Ok(Done::Refreshed { way, took, statistics, notes })
}

async fn is_alone(transaction: &mut PgConnection, view: &ViewConfig) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended($1, $2))")
        .persistent(false)
        .bind(&view.name)
        .bind(LOCK)
        .fetch_one(transaction)
        .await
}

pub(super) async fn look_at(transaction: &mut PgConnection, view: &ViewConfig) -> Result<Look, ViewError> {
    let name = quoted(&view.name);
    let look: Option<Look> = sqlx::query_as(LOOK)
        .persistent(false)
        .bind(&name)
        .bind((!view.name.contains('.')).then(|| format!("{OWN_SCHEMA}.{name}")))
        .fetch_optional(transaction)
        .await?;
    match look {
        None => Err(ViewError::Missing { view: view.name.clone() }),
        Some(look) if !look.is_materialized => Err(ViewError::Another { view: look.qualified }),
        Some(look) => Ok(look),
    }
}

/// Once more behind the lock: another run may just have done it.
async fn is_due(transaction: &mut PgConnection, view: &ViewConfig) -> Result<bool, sqlx::Error> {
    let ages = ages(transaction, std::slice::from_ref(view), false).await?;
    Ok(ages.get(&view.name).is_none_or(|age| overdue(view, *age) >= 0.0))
}

async fn ages(
    connection: &mut PgConnection,
    views: &[ViewConfig],
    keeps: bool,
) -> Result<HashMap<String, f64>, sqlx::Error> {
    let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
    let ages: Vec<(String, f64)> = sqlx::query_as(AGES).persistent(keeps).bind(&names).fetch_all(connection).await?;
    Ok(ages.into_iter().collect())
}

/// For how many seconds a view of this age has been due; less than none: it is not.
fn overdue(view: &ViewConfig, age: f64) -> f64 {
    // A refresh in the future was written by a clock that was wrong.
    if age < -60.0 { f64::INFINITY } else { age - view.interval.as_secs_f64() * DUE_AFTER }
}

/// What one of so many views may take of the time that is left.
fn share(left: Duration, views: usize) -> Duration {
    let equal = left / u32::try_from(views).unwrap_or(u32::MAX).max(1);
    equal.max(SHORTEST_REFRESH).min(left)
}

/// Concurrently where PostgreSQL can; where not, that is said.
fn way(look: &Look, notes: &mut Vec<String>) -> Way {
    if !look.is_ours {
        notes.push(format!("{} does not belong to {}, who may not be able to refresh it", look.qualified, look.role));
    }
    let why = match (look.has_key, look.is_populated) {
        (true, true) => return Way::Concurrent,
        (true, false) => "it was not filled yet",
        (false, _) => "it has no unique index over columns alone and of all rows",
    };
    notes.push(format!("refreshed while readers wait, since {why}"));
    Way::Regular
}

/// The one row of the view's statistics. A query that fails costs the refresh nothing.
async fn statistics(
    transaction: &mut PgConnection,
    view: &ViewConfig,
    qualified: &str,
    notes: &mut Vec<String>,
) -> Result<Value, sqlx::Error> {
    let is_job_progress = view.name.rsplit('.').next() == Some("job_progress");
    let query = match &view.statistics {
        Some(query) => query.trim().trim_end_matches(';').to_owned(),
        None if is_job_progress => format!("{STATISTICS_JOB_PROGRESS} FROM {qualified}"),
        None => format!("SELECT count(*) AS rows FROM {qualified}"),
    };
    let mut savepoint = transaction.begin().await?;
    let query = format!("SELECT row_to_json(q)::text FROM ({query}) AS q LIMIT 1");
    let row: Result<Option<String>, _> =
        sqlx::query_scalar(AssertSqlSafe(query)).persistent(false).fetch_optional(&mut *savepoint).await;
    match row {
        Ok(row) => {
            savepoint.commit().await?;
            Ok(row.and_then(|row| serde_json::from_str(&row).ok()).unwrap_or_default())
        }
        Err(error) => {
            savepoint.rollback().await?;
            notes.push(format!("its statistics could not be read: {}", told(&error)));
            Ok(Value::Null)
        }
    }
}

/// The view's row in the log, which is made where it is missing. Without the right to do so the refresh stands.
async fn write_down(
    transaction: &mut PgConnection,
    view: &ViewConfig,
    look: &Look,
    took: Duration,
    statistics: &Value,
    notes: &mut Vec<String>,
) -> Result<(), sqlx::Error> {
    let mut savepoint = transaction.begin().await?;
    let written = async {
        if !look.has_log {
            sqlx::raw_sql(LOG_TABLE).execute(&mut *savepoint).await?;
        }
        let number = |name: &str| statistics.get(name).and_then(Value::as_i64);
        sqlx::query(LOG)
            .persistent(false)
            .bind(&view.name)
            .bind(i32::try_from(took.as_millis()).unwrap_or(i32::MAX))
            .bind(number("total_jobs").map(|jobs| i32::try_from(jobs).unwrap_or(i32::MAX)))
            .bind(number("total_objects").or_else(|| number("rows")))
            .execute(&mut *savepoint)
            .await
    };
    match written.await {
        Ok(_) => savepoint.commit().await,
        Err(error) => {
            notes.push(format!("materialized_view_refresh_log could not be written: {}", told(&error)));
            savepoint.rollback().await
        }
    }
}

/// What is told of it, and the line of the log.
fn report(view: &ViewConfig, done: Result<Done, ViewError>, now: Timestamp, spent: Duration) -> Refreshed {
    let mut report = Refreshed {
        view: view.name.clone(),
        success: done.is_ok(),
        duration_seconds: rounded(spent),
        refresh_type: None,
        timestamp: now.to_string(),
        statistics: Value::Null,
        skipped: None,
        notes: Vec::new(),
        error: None,
        message: None,
        is_unreachable: false,
    };
    match done {
        Ok(Done::Skipped(why)) => {
            debug!(view = view.name, "views: left alone: {why}");
            report.skipped = Some(why);
        }
        Ok(Done::Refreshed { way, took, statistics, notes }) => {
            let note = notes.join("; ");
            info!(view = view.name, duration_ms = took.as_millis(), way = ?way, note, "views: refreshed");
            report.duration_seconds = rounded(took);
            (report.refresh_type, report.statistics, report.notes) = (Some(way), statistics, notes);
        }
        Err(error) => {
            report.message = Some(fix(view, &error));
            report.is_unreachable = matches!(&error, ViewError::Database(error) if is_unreachable(error));
            report.error = Some(match &error {
                ViewError::Database(error) => told(error),
                other => other.to_string(),
            });
            warn!(
                view = view.name,
                "views: failed to refresh {}: {}",
                view.name,
                report.error.as_deref().unwrap_or("")
            );
        }
    }
    report
}

/// What to run, or where to look.
pub(super) fn fix(view: &ViewConfig, error: &ViewError) -> String {
    let base = view.name.rsplit('.').next().unwrap_or_default();
    let is_own = OWN_VIEWS.iter().any(|own| own.name == base);
    match error {
        ViewError::Missing { .. } if is_own => format!("Run: refresh-worker views install {base}"),
        ViewError::Missing { view } => format!(
            "Run the migration that creates it: CREATE MATERIALIZED VIEW {view} AS SELECT ...; CREATE UNIQUE INDEX ON {view} (...)"
        ),
        ViewError::NoTime => {
            "Give refresh-views more time, or the views before it longer intervals".to_owned()
        }
        ViewError::Locked { .. } => "It is tried again by the next run. End the transaction that holds the lock".to_owned(),
        ViewError::Another { .. } => "Name a materialized view in REFRESH_VIEWS".to_owned(),
        ViewError::Database(error) => match super::database::code(error).as_deref() {
            Some("42501") => format!("The role of the worker has to own it: ALTER MATERIALIZED VIEW {} OWNER TO ...", view.name),
            Some("57014") => "It did not end within its share of the time: let the schedule of refresh-views do it, or ask for less in \
                              its query"
                .to_owned(),
            Some("23505" | "21000") => "Its rows are not distinct in the columns of its unique index".to_owned(),
            _ => "See the log of the database".to_owned(),
        },
    }
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
