//! Materialized views: refreshed when they are due or on request, by one run at a time, within the time of the run.
//!
//! Talks to the database only. A refresh, its statistics and its row in `materialized_view_refresh_log` are one transaction:
//! PostgreSQL allows `REFRESH ... CONCURRENTLY` in one. So the lock against a second refresher is the transaction's own, and
//! poolers are fine. Other programs share the log and write the database's time into it, so we do, too.

pub mod own;

use std::{collections::HashMap, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::own::OWN_VIEWS;
use super::database::{Database, begin, describe, is_unreachable, limited, quoted};
use crate::{clock::Timestamp, columns::from_row, config::ViewConfig};

/// Our own schema, searched second for a view without a schema.
const OWN_SCHEMA: &str = "refresh_worker";

/// No refresh begins with less time than this.
pub const MIN_REFRESH_TIME: Duration = Duration::from_secs(1);

/// The timeout for reading the ages of the views.
const AGES_TIMEOUT: Duration = Duration::from_secs(5);

/// A refresh waits this long for the locks of others: all readers of the view wait behind it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// A view is due when this part of its interval has passed, since a schedule is never exact.
const DUE_PART: f64 = 0.9;

/// The namespace of our advisory locks: the letters `rfvw`.
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

/// The condition for a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The interval of the view has passed.
    Due,
    /// Unconditional.
    Now,
}

/// The kind of a refresh.
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

/// The result of one view.
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
    /// The reason why it was skipped without an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<&'static str>,
    /// Notes for an operator about a successful refresh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The fix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// True when the database could not be reached.
    #[serde(skip)]
    pub is_unreachable: bool,
}

/// The reasons why a view was not refreshed.
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

/// The session that holds a lock on a view or on a table of its query, as far as the role may see it.
async fn blocker(database: &Database, view: &ViewConfig) -> String {
    let asked = async {
        let mut transaction = begin(&database.pool, AGES_TIMEOUT).await?;
        let blocker: Option<String> = sqlx::query_scalar(BLOCKER)
            .persistent(false)
            .bind(quoted(&view.name))
            .bind((!view.name.contains('.')).then(|| format!("{OWN_SCHEMA}.{}", quoted(&view.name))))
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(blocker)
    };
    let blocker = database.within(AGES_TIMEOUT, asked).await.ok().flatten();
    blocker.unwrap_or_else(|| "another session".to_owned())
}

/// The state of a view before its refresh.
pub(super) struct Look {
    pub qualified: String,
    is_materialized: bool,
    pub is_populated: bool,
    pub has_key: bool,
    pub is_ours: bool,
    pub role: String,
    has_log: bool,
}

from_row!(postgres: Look { qualified, is_materialized, is_populated, has_key, is_ours, role, has_log });

/// A refresh, or the reason why it was skipped.
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

    /// Refreshes the views one after the other, the most overdue first, and is done by `until`. Each gets its share of the time
    /// that is left, so that a slow one takes nothing from the others. The results are in the order of the configuration.
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
        // Back into the order of the configuration.
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, report)| report).collect()
    }

    /// The ages of the views, in seconds; without those that were never refreshed. Empty when they cannot be read: the refreshes
    /// then report why.
    async fn ages(&self, until: Instant) -> HashMap<String, f64> {
        let limit = limited(AGES_TIMEOUT, until);
        let pool = &self.database.pool;
        let read = self.database.within(limit, async {
            // Every run reads the ages, and most runs then refresh nothing. So the reading takes one round trip, without a
            // transaction, where statements may be kept prepared.
            if self.database.keeps_statements() {
                return ages(&mut *pool.acquire().await?, &self.views, true).await;
            }
            let mut transaction = begin(pool, limit).await?;
            let ages = ages(&mut transaction, &self.views, false).await?;
            transaction.commit().await?;
            Ok(ages)
        });
        read.await.unwrap_or_else(|error| {
            debug!("views: cannot read their ages: {}", describe(&error));
            HashMap::new()
        })
    }

    async fn refresh_one(&self, view: &ViewConfig, when: When, limit: Duration) -> Result<Done, ViewError> {
        if limit < MIN_REFRESH_TIME {
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
                // lock_not_available: only then the blocker is worth a query.
                && super::database::code(error).as_deref() == Some("55P03")
            {
                let blocker = blocker(&self.database, view).await;
                return Ok(Err(ViewError::Locked { blocker, error: describe(error) }));
            }
            Ok(done)
        };
        self.database.within(limit, refreshed).await?
    }
}

/// Makes one refresh within its transaction.
async fn attempt(transaction: &mut PgConnection, view: &ViewConfig, when: When) -> Result<Done, ViewError> {
    // A second refresh would wait for the first and repeat its work.
    if !is_alone(transaction, view).await? {
        return Ok(Done::Skipped("another run refreshes it"));
    }
    let look = look_at(transaction, view).await?;
    // Without the log every run refreshes the view.
    if when == When::Due && look.has_log && !is_due(transaction, view).await? {
        return Ok(Done::Skipped(NOT_DUE));
    }
    let mut notes = Vec::new();
    let way = way(&look, &mut notes);
    let began = Instant::now();
    let concurrently = if way == Way::Concurrent { "CONCURRENTLY " } else { "" };
    // Every reader waits behind a refresh that waits for its lock.
    let wait = format!("SELECT set_config('lock_timeout', '{}ms', true)", LOCK_TIMEOUT.as_millis());
    sqlx::raw_sql(AssertSqlSafe(wait)).execute(&mut *transaction).await?;
    let refresh = format!("REFRESH MATERIALIZED VIEW {concurrently}{}", look.qualified);
    sqlx::raw_sql(AssertSqlSafe(refresh)).execute(&mut *transaction).await?;
    let took = began.elapsed();
    let statistics = statistics(transaction, view, &look.qualified, &mut notes).await?;
    write_log(transaction, view, &look, took, &statistics, &mut notes).await?;
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

/// Checks again behind the lock: another run may just have refreshed the view.
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

/// The seconds for which a view of this age has been due; negative when it is not due.
fn overdue(view: &ViewConfig, age: f64) -> f64 {
    // A refresh more than a minute in the future was written by a wrong clock.
    if age < -60.0 { f64::INFINITY } else { age - view.interval.as_secs_f64() * DUE_PART }
}

/// The share of one of these views in the time that is left.
fn share(left: Duration, views: usize) -> Duration {
    // A fast view leaves its rest to those after it.
    let equal = left / u32::try_from(views).unwrap_or(u32::MAX).max(1);
    equal.max(MIN_REFRESH_TIME).min(left)
}

/// Chooses a concurrent refresh where PostgreSQL can do one, and notes why where it cannot.
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

/// Reads the one row of the view's statistics. A query that fails does not fail the refresh.
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
    // A savepoint, since a failed query would otherwise end the transaction and lose the refresh.
    let mut savepoint = transaction.begin().await?;
    // A configured query may return many rows, and the report holds one.
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
            notes.push(format!("its statistics could not be read: {}", describe(&error)));
            Ok(Value::Null)
        }
    }
}

/// Writes the view's row in the log, which is created when it is missing. A refresh without the right to do so stands.
async fn write_log(
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
            notes.push(format!("materialized_view_refresh_log could not be written: {}", describe(&error)));
            savepoint.rollback().await
        }
    }
}

/// Reports a refresh, and logs it.
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
            debug!(view = view.name, "views: skipped: {why}");
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
                ViewError::Database(error) => describe(error),
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

/// The command or the place that fixes it.
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
