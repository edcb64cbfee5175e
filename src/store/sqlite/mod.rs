//! The SQLite store: the same six tables and the same behaviour as PostgreSQL, in one file and without a server.
//!
//! Made for `refresh-worker demo` and for tests, so it is written to be read: one connection, a transaction per batch,
//! short statements (`sql/sqlite/*.sql`), and the decisions of every store between them (`store/plan`). Times are
//! UTC as text (`2026-03-04 05:06:07.089000`), documents are JSON text: open the file with any SQLite tool and look.

mod arbiter;
mod commit;
mod migrations;
#[cfg(test)]
mod tests;
mod times;
mod writes;

use std::{
    collections::HashMap,
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::{
    FromRow, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::times::{from_text, to_text};
use super::{
    ANSWERED_WELL_FOR, Commit, Freshness, MAX_OUTBOX_ENTRIES, RunRow, Store, StoreError, Telling,
    plan::refusals::Refusals, rows,
};
use crate::{
    clock::Timestamp,
    model::{Fetched, Kind, ObjectId, OutboxEntry, Tag},
};

/// How long a statement waits for another program that has the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows of `refresh_runs` whose run ended longer ago than this are trimmed.
const RUNS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Snapshots in one SQLite file, or in memory.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    /// One connection: SQLite has one writer at a time, and a database in memory lives as long as its connection.
    pool: SqlitePool,
    /// The file's path, for messages.
    server: String,
    telling: Telling,
    refusals: Arc<Mutex<Refusals>>,
}

impl SqliteStore {
    /// Opens the file and creates it when missing. [`Store::migrate`] makes the tables.
    ///
    /// # Errors
    /// When the file cannot be opened or created, or is no SQLite database.
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
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|error| store_error(&server, "open the file", &error))?;
        Ok(Self { pool, server, telling: Telling::default(), refusals: Arc::default() })
    }

    /// The same, with commits that tell this.
    #[must_use]
    pub fn telling(self, telling: Telling) -> Self {
        Self { telling, ..self }
    }

    /// The one connection, for looking at what is stored.
    #[must_use]
    pub const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Closes the file, so that everything lies in it and none of SQLite's helper files stay beside it.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> StoreError + '_ {
        move |error| store_error(&self.server, action, &error)
    }

    /// Breaks the work off when its time is over; its transaction is rolled back.
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
        commit::lock(&self.refusals).is_suspicious()
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
        let asked = serde_json::to_string(&asked).expect("kinds and tags are plain texts");
        let read = sqlx::query_as(include_str!("../sql/sqlite/freshness.sql")).bind(asked).fetch_all(&self.pool);
        let rows: Vec<FreshnessRow> = self.within(limit, "read how fresh objects are", read).await?;
        Ok(rows.into_iter().filter_map(FreshnessRow::read).collect())
    }

    async fn answered_well(
        &self,
        kind: Kind,
        but: &[String],
        now: Timestamp,
        limit: Duration,
    ) -> Result<Option<ObjectId>, StoreError> {
        let read = sqlx::query_scalar(include_str!("../sql/sqlite/answered_well.sql"))
            .bind(kind.as_str())
            .bind(to_text(now))
            .bind(to_text(now - ANSWERED_WELL_FOR))
            .bind(serde_json::to_string(but).expect("texts are JSON"))
            .fetch_optional(&self.pool);
        let tag: Option<String> = self.within(limit, "find a control object", read).await?;
        Ok(tag.and_then(|tag| Some(ObjectId::new(kind, tag.parse().ok()?))))
    }

    async fn commit_and_delete(
        &self,
        now: Timestamp,
        batch: &[Fetched],
        told: &[i64],
        limit: Duration,
    ) -> Result<Commit, StoreError> {
        let commit = commit::commit(&self.pool, &self.refusals, self.telling, now, batch, told);
        self.within(limit, "store a batch", commit).await
    }

    async fn outbox(&self, before: Timestamp) -> Result<Vec<OutboxEntry>, StoreError> {
        let notes: Vec<(i64, String, String)> = sqlx::query_as(
            "select note, stored_at, words from refresh_worker_outbox where stored_at < ?1 order by stored_at, note limit ?2",
        )
        .bind(to_text(before))
        .bind(count(MAX_OUTBOX_ENTRIES as u64))
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read the outbox"))?;
        let note = |(id, at, words): (i64, String, String)| rows::note(id, from_text(&at).unwrap_or_default(), &words);
        Ok(notes.into_iter().map(note).collect())
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
                .bind(to_text(row.ended - RUNS_KEPT))
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

#[derive(FromRow)]
struct FreshnessRow {
    kind: String,
    tag: String,
    fetched_at: String,
    fresh_until: Option<String>,
    league: Option<String>,
}

impl FreshnessRow {
    /// A row that somebody edited into something unreadable says nothing; the object is then simply fetched again.
    fn read(self) -> Option<(ObjectId, Freshness)> {
        let object = ObjectId::new(Kind::from_str(&self.kind).ok()?, Tag::from_str(&self.tag).ok()?);
        let fetched_at = from_text(&self.fetched_at)?;
        let fresh_until = self.fresh_until.as_deref().and_then(from_text).unwrap_or(fetched_at);
        let league = self.league.and_then(|json| serde_json::from_str(&json).ok());
        Some((object, Freshness { fetched_at, fresh_until, league }))
    }
}

#[derive(FromRow)]
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

/// Primary result codes of SQLite, as <https://sqlite.org/rescode.html> lists them.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const MISMATCH: i32 = 20;
    pub(super) const AUTH: i32 = 23;
}

/// The primary result code, when it was SQLite that refused.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Whether the error lies in the record itself: SQLite refused its values, and would again.
fn hurts_only_the_record(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(code::TOOBIG | code::CONSTRAINT | code::MISMATCH))
}

fn store_error(server: &str, action: &'static str, error: &sqlx::Error) -> StoreError {
    let server = server.to_owned();
    let detail = error.to_string();
    match (primary_code(error), error) {
        (Some(code::PERM | code::READONLY | code::AUTH), _) => StoreError::NotAllowed {
            remedy: format!("make {server} and its folder writable for this user"),
            server,
            action,
            detail,
        },
        (Some(code::BUSY | code::LOCKED | code::CANTOPEN), _)
        | (
            None,
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed,
        ) => StoreError::Unreachable { server, detail },
        _ => StoreError::Failed { server, action, detail },
    }
}
