//! The SQLite store: the same six tables and the same behaviour as PostgreSQL, in one file and without a server.
//!
//! It serves `refresh-worker demo` and tests, and is written to be read: one connection, a transaction per batch, short
//! statements (`sql/sqlite/*.sql`), and between them the same decisions as in PostgreSQL (`store/plan`). Times are UTC as text
//! (`2026-03-04 05:06:07.089000`), documents are JSON text, so any SQLite tool can read the file.

mod arbiter;
mod commit;
mod errors;
mod looks;
mod migrations;
#[cfg(test)]
mod tests;
mod values;
mod writes;

use std::{collections::HashMap, path::Path, str::FromStr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::{
    errors::store_error,
    values::{from_text, json, to_text},
};
use super::{
    CONTROL_OBJECT_MAX_AGE, Commit, CommitDetails, Freshness, MAX_OUTBOX_ENTRIES, RunRow, Store, StoreError,
    StretchedLongest, plan::refusals::Refusals, rows,
};
use crate::{
    clock::Timestamp,
    columns::from_row,
    model::{Fetched, Kind, ObjectId, OutboxEntry, Tag},
};

/// A statement waits this long for another program that has locked the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows of runs that ended longer ago than this are trimmed.
const RUNS_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Snapshots in one SQLite file, or in memory.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    /// A single connection: SQLite has one writer at a time, and a database in memory lives as long as its connection.
    pool: SqlitePool,
    /// The file's path, for messages.
    server: String,
    details: CommitDetails,
    longest: StretchedLongest,
    refusals: Arc<Mutex<Refusals>>,
}

impl SqliteStore {
    /// Opens the file, and creates it when it is missing. [`Store::migrate`] creates the tables.
    ///
    /// # Errors
    /// When the file cannot be opened or created, or is not a SQLite database.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        Self::connect(file, path.display().to_string()).await
    }

    /// A database of its own in memory, gone when the store is dropped.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub async fn in_memory() -> Result<Self, StoreError> {
        Self::connect(SqliteConnectOptions::new().in_memory(true), "memory".to_owned()).await
    }

    async fn connect(options: SqliteConnectOptions, server: String) -> Result<Self, StoreError> {
        let options = options
            // Readers of the file do not wait for the worker.
            .journal_mode(SqliteJournalMode::Wal)
            // A power failure may lose the last commits of a demo, not the file.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // A database in memory would be gone with its connection.
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|error| store_error(&server, "open the file", &error))?;
        let (details, longest) = (CommitDetails::default(), StretchedLongest::default());
        Ok(Self { pool, server, details, longest, refusals: Arc::default() })
    }

    /// The same store, with commits that gather these details.
    #[must_use]
    pub fn with_details(self, details: CommitDetails) -> Self {
        Self { details, ..self }
    }

    /// The connection, for reading the stored rows.
    #[must_use]
    pub const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Closes the file. Everything is in it then, and SQLite's helper files are gone.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> StoreError + '_ {
        move |error| store_error(&self.server, action, &error)
    }

    /// Stops the work when its time is over. Its transaction is rolled back.
    async fn within<T>(
        &self,
        limit: Duration,
        action: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let out_of_time = || StoreError::OutOfTime { server: self.server.clone(), action };
        if limit.is_zero() {
            return Err(out_of_time());
        }
        let done = tokio::time::timeout(limit, work).await.map_err(|_| out_of_time())?;
        done.map_err(self.failed(action))
    }
}

impl Store for SqliteStore {
    fn is_doubtful(&self) -> bool {
        self.refusals.lock().is_suspicious()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.pool).await.map_err(self.failed("answer"))?;
        Ok(())
    }

    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        migrations::run(&self.pool, &self.server).await
    }

    async fn freshness(
        &self,
        objects: &[ObjectId],
        limit: Duration,
    ) -> Result<HashMap<ObjectId, Freshness>, StoreError> {
        let asked: Vec<_> = objects.iter().map(|object| (object.kind, &object.tag)).collect();
        let read = sqlx::query_as(include_str!("../sql/sqlite/freshness.sql")).bind(json(&asked)).fetch_all(&self.pool);
        let rows: Vec<FreshnessRow> = self.within(limit, "read how fresh objects are", read).await?;
        Ok(rows.into_iter().filter_map(FreshnessRow::read).collect())
    }

    async fn control_object(
        &self,
        kind: Kind,
        but: &[String],
        now: Timestamp,
        limit: Duration,
    ) -> Result<Option<ObjectId>, StoreError> {
        let read = sqlx::query_scalar(include_str!("../sql/sqlite/control_object.sql"))
            .bind(kind.as_str())
            .bind(to_text(now))
            .bind(to_text(now - CONTROL_OBJECT_MAX_AGE))
            .bind(json(but))
            .fetch_optional(&self.pool);
        let tag: Option<String> = self.within(limit, "find a control object", read).await?;
        Ok(tag.and_then(|tag| Some(ObjectId::new(kind, tag.parse().ok()?))))
    }

    async fn commit_and_delete(
        &self,
        now: Timestamp,
        batch: &[Fetched],
        delivered: &[i64],
        limit: Duration,
    ) -> Result<Commit, StoreError> {
        let commit =
            commit::commit(&self.pool, &self.refusals, self.longest.apply(self.details), now, batch, delivered);
        self.within(limit, "store a batch", commit).await
    }

    async fn outbox(&self, before: Timestamp) -> Result<Vec<OutboxEntry>, StoreError> {
        let entries: Vec<(i64, String, String)> = sqlx::query_as(
            "select id, stored_at, payload from refresh_worker_outbox where stored_at < ?1 order by stored_at, id limit ?2",
        )
        .bind(to_text(before))
        .bind(count(MAX_OUTBOX_ENTRIES as u64))
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read the outbox"))?;
        let entry =
            // An unreadable time becomes the epoch: the payload is worth a delivery all the same.
            |(id, at, payload): (i64, String, String)| rows::entry(id, from_text(&at).unwrap_or_default(), &payload);
        Ok(entries.into_iter().map(entry).collect())
    }

    async fn delete_from_outbox(&self, ids: &[i64]) -> Result<(), StoreError> {
        let forgotten = async { writes::delete_from_outbox(&mut *self.pool.acquire().await?, ids).await };
        forgotten.await.map_err(self.failed("delete delivered outbox entries"))
    }

    async fn record_run(&self, row: &RunRow) -> Result<(), StoreError> {
        let write = async {
            let mut transaction = self.pool.begin_with("begin immediate").await?;
            for name in [row.run.clone(), row.name_of_attempt()] {
                let done = sqlx::query(include_str!("../sql/sqlite/run_insert.sql"))
                    .bind(name)
                    .bind(to_text(row.started))
                    .bind(to_text(row.ended))
                    .bind(&row.stopped_because)
                    .bind(&row.error)
                    .bind(count(row.processed))
                    .bind(count(row.failed))
                    .bind(count(row.api_requests))
                    .bind(&row.report)
                    .execute(&mut *transaction)
                    .await?;
                if done.rows_affected() > 0 {
                    break;
                }
            }
            sqlx::query(include_str!("../sql/sqlite/run_trim.sql"))
                .bind(to_text(row.ended - RUNS_RETENTION))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        write.await.map_err(self.failed("record the run"))
    }

    async fn last_run(&self) -> Result<Option<RunRow>, StoreError> {
        let row: Option<StoredRun> = sqlx::query_as(include_str!("../sql/sqlite/run_last.sql"))
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the last run"))?;
        Ok(row.map(StoredRun::read))
    }
}

struct FreshnessRow {
    kind: String,
    tag: String,
    fetched_at: String,
    fresh_until: Option<String>,
    league: Option<String>,
}

from_row!(sqlite: FreshnessRow { kind, tag, fetched_at, fresh_until, league });

impl FreshnessRow {
    /// `None` for a row that somebody edited into something unreadable. The object is then fetched again.
    fn read(self) -> Option<(ObjectId, Freshness)> {
        let object = ObjectId::new(Kind::from_str(&self.kind).ok()?, Tag::from_str(&self.tag).ok()?);
        let fetched_at = from_text(&self.fetched_at)?;
        let fresh_until = self.fresh_until.as_deref().and_then(from_text).unwrap_or(fetched_at);
        let league = self.league.and_then(|json| serde_json::from_str(&json).ok());
        Some((object, Freshness { fetched_at, fresh_until, league }))
    }
}

struct StoredRun {
    run: String,
    started: String,
    ended: String,
    stopped_because: String,
    error: Option<String>,
    processed: i64,
    failed: i64,
    api_requests: i64,
    report: String,
}

from_row!(sqlite: StoredRun { run, started, ended, stopped_because, error, processed, failed, api_requests, report });

impl StoredRun {
    fn read(self) -> RunRow {
        RunRow {
            run: self.run,
            started: from_text(&self.started).unwrap_or_default(),
            ended: from_text(&self.ended).unwrap_or_default(),
            stopped_because: self.stopped_because,
            error: self.error,
            processed: self.processed.try_into().unwrap_or(0),
            failed: self.failed.try_into().unwrap_or(0),
            api_requests: self.api_requests.try_into().unwrap_or(0),
            report: self.report,
        }
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
