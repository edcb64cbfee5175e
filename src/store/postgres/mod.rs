//! The PostgreSQL store: the six tables that other programs read and write too, and the schema `refresh_worker`.
//!
//! A commit (`commit.rs`) is one transaction (`attempt.rs`) of a constant number of statements over arrays
//! (`sql/postgres/*.sql`). Between its reads and its writes `store/plan` decides, in Rust, what to write. The first statement
//! is the arbiter. Its sorted row locks make the rest safe among our own writers. Other programs take no such locks, so
//! their changes in between are met by retries.
//!
//! Nothing here depends on a session: settings and advisory locks are those of a transaction. No statement of a commit reads
//! the database's clock.

mod address;
mod attempt;
mod blockers;
mod check;
mod commit;
mod connect;
mod errors;
mod limit;
#[cfg(feature = "cli")]
mod look;
mod looks;
mod migrate;
mod outbox;
mod places;
mod problem;
mod runs;
mod shape;
mod tables;
mod trial;
mod writes;

use std::{collections::HashMap, sync::Arc, time::Duration};

#[cfg(feature = "cli")]
pub use self::look::{Looked, ReportedError};
use self::{
    connect::{Database, on_single},
    limit::Limit,
};
pub use self::{problem::Problem, tables::Extent};
use super::{
    CONTROL_OBJECT_MAX_AGE, Commit, CommitDetails, Freshness, LastRuns, RELAXED_TIMEOUT, RunRow, Store, StoreError,
    StretchedLongest, plan::times::from_utc,
};
use crate::{
    clock::Timestamp,
    columns::{TableTime, from_row},
    config::DatabaseConfig,
    connections::Connections,
    model::{Fetched, Kind, ObjectId, OutboxEntry, Tag},
};

/// The limit, on our side, of a statement outside of commits.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The action in messages.
const READ_FRESHNESS: &str = "read what is fresh";

const CONTROL_OBJECT: &str = include_str!("../sql/postgres/control_object.sql");
const FRESHNESS: &str = include_str!("../sql/postgres/freshness.sql");

/// Snapshots in PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    database: Database,
    details: CommitDetails,
    longest: StretchedLongest,
    history: Arc<commit::CommitHistory>,
}

impl PostgresStore {
    /// Reads the address and prepares the pool; the first use connects. Must be called within a runtime.
    ///
    /// # Errors
    /// When the URL cannot be read. The password is not part of the message.
    pub fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        Ok(Self {
            database: Database::connect(config)?,
            details: CommitDetails::default(),
            longest: StretchedLongest::default(),
            history: Arc::default(),
        })
    }

    /// The same store, with commits that gather these details.
    #[must_use]
    pub fn with_details(self, details: CommitDetails) -> Self {
        Self { details, ..self }
    }

    /// Its connections, for what follows a run.
    #[must_use]
    pub fn pool(&self) -> sqlx::PgPool {
        self.database.pool.clone()
    }

    /// The state of these connections. Users of the pool report their errors there.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.database.connections.clone()
    }

    /// The database's address, without credentials.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.database.server
    }

    /// The problems that would make runs fail on this database, each with its fix. The check tries a commit and rolls it back;
    /// nothing changes.
    pub async fn check_rights(&self) -> Vec<Problem> {
        let extent = Extent { planner: self.details.teaching.is_some(), ..Extent::RUNS };
        self.check_rights_with(extent).await
    }

    /// [`Self::check_rights`] for this extent.
    pub async fn check_rights_with(&self, extent: Extent) -> Vec<Problem> {
        let mut problems = check::problems(&self.database, extent).await;
        if check::is_fit(&problems) {
            problems.extend(self.try_reading().await.err().map(|error| check::unreadable(&error)));
        }
        problems
    }

    /// Rows of other programs with ids at the end of their range. They do not hinder this worker.
    ///
    /// # Errors
    /// When the ids cannot be read.
    pub async fn far_ids(&self) -> Result<Vec<Problem>, StoreError> {
        check::far_ids(&self.database).await
    }

    /// Runs the reads of a run.
    async fn try_reading(&self) -> Result<(), StoreError> {
        let anything = Kind::ALL.map(|kind| ObjectId::new(kind, Tag::somewhere()));
        self.freshness(&anything, RELAXED_TIMEOUT).await?;
        self.control_object(Kind::Clan, &[], Timestamp::EPOCH, RELAXED_TIMEOUT).await?;
        self.outbox(Timestamp::EPOCH).await.map(drop)
    }

    /// Removes our own tables, newest migration first, and returns the names. The contract tables stay.
    ///
    /// # Errors
    /// As [`Store::migrate`].
    pub async fn revert_migrations(&self) -> Result<Vec<String>, StoreError> {
        migrate::down(&self.database).await
    }
}

impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        let database = &self.database;
        let now: Result<TableTime, StoreError> = on_single!(database, "read the time", |connection, keeps| {
            sqlx::query_scalar("SELECT clock_timestamp()").persistent(keeps).fetch_one(connection)
        });
        now.map(|now| Some(from_utc(now)))
    }

    async fn ready(&self, timeout: Duration) -> Result<(), StoreError> {
        blockers::wait_for_tables(&self.database, timeout).await
    }

    fn is_doubtful(&self) -> bool {
        self.history.is_doubtful()
    }

    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        migrate::up(&self.database).await
    }

    async fn freshness(
        &self,
        objects: &[ObjectId],
        limit: Duration,
    ) -> Result<HashMap<ObjectId, Freshness>, StoreError> {
        if objects.is_empty() {
            return Ok(HashMap::new());
        }
        let limit = Limit::from_now(limit);
        let rows = match self.try_freshness(objects, limit).await {
            // A dropped connection need not end a run, and reading twice does no harm. When one connection was dropped, the others
            // mostly were too, so ping them. An interrupted ping leaves connections that the pool tests later.
            Err(StoreError::Unreachable { .. }) => {
                if let Ok(pinged) = tokio::time::timeout(limit.left(), self.database.ping()).await {
                    pinged?;
                }
                self.try_freshness(objects, limit).await?
            }
            answer => answer?,
        };
        Ok(rows.into_iter().filter_map(FreshnessRow::into_entry).collect())
    }

    async fn control_object(
        &self,
        kind: Kind,
        but: &[String],
        now: Timestamp,
        limit: Duration,
    ) -> Result<Option<ObjectId>, StoreError> {
        const ACTION: &str = "find a control object";
        let (database, limit, start) = (&self.database, Limit::from_now(limit), Tag::somewhere());
        let acquire = || database.acquire_within(limit, ACTION);
        let timeout = STATEMENT_TIMEOUT.min(limit.left());
        let tag: Result<Option<String>, StoreError> =
            on_single!(database, acquire(), timeout, ACTION, |connection, keeps| {
                sqlx::query_scalar(CONTROL_OBJECT)
                    .persistent(keeps)
                    .bind(kind.as_str())
                    .bind(start.as_str())
                    .bind(now.to_utc())
                    .bind((now - CONTROL_OBJECT_MAX_AGE).to_utc())
                    .bind(but)
                    .fetch_optional(connection)
            });
        Ok(tag?.and_then(|tag| Some(ObjectId::new(kind, tag.parse().ok()?))))
    }

    async fn commit_and_delete(
        &self,
        now: Timestamp,
        batch: &[Fetched],
        delivered: &[i64],
        limit: Duration,
    ) -> Result<Commit, StoreError> {
        let commit = commit::BatchCommit {
            database: &self.database,
            history: &self.history,
            details: self.longest.apply(self.details),
            now,
            delivered,
            limit: Limit::from_now(limit),
        };
        commit.run(batch).await
    }

    async fn outbox(&self, before: Timestamp) -> Result<Vec<OutboxEntry>, StoreError> {
        let database = &self.database;
        on_single!(database, "read the outbox", |connection, keeps| outbox::read(connection, before, keeps))
    }

    async fn delete_from_outbox(&self, ids: &[i64]) -> Result<(), StoreError> {
        let database = &self.database;
        on_single!(database, "delete delivered outbox entries", |connection, keeps| {
            outbox::delete(connection, ids, keeps)
        })
    }

    async fn record_run(&self, row: &RunRow) -> Result<(), StoreError> {
        let database = &self.database;
        on_single!(database, "record the run", |connection, keeps| runs::record(connection, row, keeps))
    }

    async fn last_run(&self) -> Result<Option<RunRow>, StoreError> {
        let database = &self.database;
        on_single!(database, "read the last run", |connection, keeps| runs::last(connection, keeps))
    }

    async fn last_runs(&self) -> Result<LastRuns, StoreError> {
        let database = &self.database;
        on_single!(database, "read the last runs", |connection, keeps| runs::last_runs(connection, keeps))
    }
}

impl PostgresStore {
    async fn try_freshness(&self, objects: &[ObjectId], limit: Limit) -> Result<Vec<FreshnessRow>, StoreError> {
        let database = &self.database;
        let acquire = || database.acquire_within(limit, READ_FRESHNESS);
        let timeout = STATEMENT_TIMEOUT.min(limit.left());
        let read = on_single!(database, acquire(), timeout, READ_FRESHNESS, |connection, keeps| {
            sqlx::query_as(FRESHNESS)
                .persistent(keeps)
                .bind(objects.iter().map(|object| object.kind.as_str()).collect::<Vec<_>>())
                .bind(objects.iter().map(|object| object.tag.as_str()).collect::<Vec<_>>())
                .fetch_all(connection)
        });
        database.in_time(limit, READ_FRESHNESS, read)
    }
}

struct FreshnessRow {
    kind: String,
    tag: String,
    fetched_at: TableTime,
    fresh_until: Option<TableTime>,
    league: Option<String>,
}

from_row!(postgres: FreshnessRow { kind, tag, fetched_at, fresh_until, league });

impl FreshnessRow {
    fn into_entry(self) -> Option<(ObjectId, Freshness)> {
        let object = ObjectId::new(self.kind.parse().ok()?, self.tag.parse().ok()?);
        let fetched_at = from_utc(self.fetched_at);
        let freshness = Freshness {
            fetched_at,
            fresh_until: self.fresh_until.map_or(fetched_at, from_utc),
            // Unreadable facts count as none.
            league: self.league.and_then(|json| serde_json::from_str(&json).ok()),
        };
        Some((object, freshness))
    }
}
