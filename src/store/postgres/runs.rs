//! `refresh_runs`: one row a run.

use std::time::Duration;

use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};

use crate::{
    columns::{Number, from_row},
    store::{
        LastRuns, RunRow,
        plan::times::{TableTime, from_utc},
    },
};

/// Rows of runs that started longer ago are trimmed.
const RUNS_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// More rows than these are trimmed, the oldest first.
// With a run each minute these are a week, long before `RUNS_RETENTION` is over.
const MAX_RUN_ROWS: i64 = 10_000;

const RUN_INSERT: &str = include_str!("../sql/postgres/run_insert.sql");
const RUN_LASTS: &str = include_str!("../sql/postgres/run_lasts.sql");
const RUN_LAST: &str = include_str!("../sql/postgres/run_last.sql");

struct StoredRun {
    run: String,
    started: TableTime,
    ended: TableTime,
    stopped_because: String,
    error: Option<String>,
    processed: i64,
    failed: i64,
    api_requests: i64,
    report: String,
}

from_row!(postgres: StoredRun {
    run, started, ended, stopped_because, error, processed: Number, failed: Number, api_requests: Number, report,
});

struct SortedRun {
    sort: String,
    run: StoredRun,
}

impl FromRow<'_, PgRow> for SortedRun {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { sort: row.try_get("sort")?, run: StoredRun::from_row(row)? })
    }
}

impl StoredRun {
    fn read(self) -> RunRow {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        RunRow {
            run: self.run,
            started: from_utc(self.started),
            ended: from_utc(self.ended),
            stopped_because: self.stopped_because,
            error: self.error,
            processed: count(self.processed),
            failed: count(self.failed),
            api_requests: count(self.api_requests),
            report: self.report,
        }
    }
}

pub(super) async fn record(connection: &mut PgConnection, row: &RunRow, keeps: bool) -> Result<(), sqlx::Error> {
    if !record_as(connection, &row.run, row, keeps).await? {
        record_as(connection, &row.name_of_attempt(), row, keeps).await?;
    }
    Ok(())
}

/// Returns `false` when another attempt has this name.
async fn record_as(connection: &mut PgConnection, name: &str, row: &RunRow, keeps: bool) -> Result<bool, sqlx::Error> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let done = sqlx::query(RUN_INSERT)
        .persistent(keeps)
        .bind(name)
        .bind(row.started.to_utc())
        .bind(row.ended.to_utc())
        .bind(&row.stopped_because)
        .bind(&row.error)
        .bind(number(row.processed))
        .bind(number(row.failed))
        .bind(number(row.api_requests))
        .bind(&row.report)
        .bind((row.started - RUNS_RETENTION).to_utc())
        .bind(MAX_RUN_ROWS)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn last(connection: &mut PgConnection, keeps: bool) -> Result<Option<RunRow>, sqlx::Error> {
    let stored: Option<StoredRun> = sqlx::query_as(RUN_LAST).persistent(keeps).fetch_optional(connection).await?;
    Ok(stored.map(StoredRun::read))
}

pub(super) async fn last_runs(connection: &mut PgConnection, keeps: bool) -> Result<LastRuns, sqlx::Error> {
    let mut runs = LastRuns::default();
    let rows: Vec<SortedRun> = sqlx::query_as(RUN_LASTS).persistent(keeps).fetch_all(connection).await?;
    for SortedRun { sort, run } in rows {
        let place = match sort.as_str() {
            "any" => &mut runs.any,
            "good" => &mut runs.good,
            _ => &mut runs.failed,
        };
        *place = Some(run.read());
    }
    Ok(runs)
}
