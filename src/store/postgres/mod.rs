//! The PostgreSQL store: the six tables that other programs read and write too, and the schema `refresh_worker`.
//!
//! A commit (`commit.rs`) is one transaction (`attempt.rs`) of a constant number of statements over arrays
//! (`sql/postgres/*.sql`). What is to be written is decided in Rust, between reading and writing (`store/plan`). The
//! first statement is the arbiter, whose sorted row locks make everything after it safe among our own writers. Other
//! programs take no such locks; what they do in between is met by retries.
//!
//! Nothing here depends on a session: only settings and advisory locks of a transaction. No statement takes the time from
//! the database.

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
mod migrate;
mod notes;
mod places;
mod runs;
mod shape;
mod trial;
mod writes;

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::{FromRow, PgConnection};

pub use self::check::{Extent, Problem};
#[cfg(feature = "cli")]
pub use self::look::{Looked, ReportedError};
use self::{
    connect::{Database, Single, on_connection},
    limit::Limit,
};
use super::{
    ANSWERED_WELL_FOR, Commit, Freshness, LastRuns, RunRow, Store, StoreError, Telling, UNHURRIED,
    plan::times::from_utc,
};
use crate::{
    clock::Timestamp,
    columns::TableTime,
    config::DatabaseConfig,
    connections::Connections,
    model::{Fetched, Kind, ObjectId, OutboxEntry, Tag},
};

/// How long a statement that is no commit may take, as seen from here.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What reading freshness is about, for messages.
const READ_FRESHNESS: &str = "read what is fresh";

const ANSWERED_WELL: &str = include_str!("../sql/postgres/answered_well.sql");
const FRESHNESS: &str = include_str!("../sql/postgres/freshness.sql");

/// Snapshots in PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    database: Database,
    telling: Telling,
    experience: Arc<commit::Experience>,
}

impl PostgresStore {
    /// Reads the address and prepares the pool; the first use connects. Must be called within a runtime.
    ///
    /// # Errors
    /// When the URL cannot be read. The password is not part of the message.
    pub fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        Ok(Self { database: Database::connect(config)?, telling: Telling::default(), experience: Arc::default() })
    }

    /// The same, with commits that tell this.
    #[must_use]
    pub fn telling(self, telling: Telling) -> Self {
        Self { telling, ..self }
    }

    /// Its connections, for what follows a run.
    #[must_use]
    pub fn pool(&self) -> sqlx::PgPool {
        self.database.pool.clone()
    }

    /// What is known about these connections. Who uses the pool by itself reports its errors there.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.database.connections.clone()
    }

    /// Where the database is, without user and password.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.database.server
    }

    /// Everything that stands in the way of working with this database, each with what mends it. What a run does is tried and
    /// taken back; nothing is changed.
    pub async fn check_rights(&self) -> Vec<Problem> {
        self.check_rights_with(Extent::Runs).await
    }

    /// The same, for so much.
    pub async fn check_rights_with(&self, extent: Extent) -> Vec<Problem> {
        let mut problems = check::problems(&self.database, extent).await;
        if check::is_fit(&problems) {
            problems.extend(self.try_reading().await.err().map(|error| check::unreadable(&error)));
        }
        problems
    }

    /// Rows of others that nobody need mend for us, and that somebody should know of.
    ///
    /// # Errors
    /// When the ids cannot be read.
    pub async fn far_ids(&self) -> Result<Vec<Problem>, StoreError> {
        check::far_ids(&self.database).await
    }

    /// What a run reads, in the way that it does.
    async fn try_reading(&self) -> Result<(), StoreError> {
        let anything = Kind::ALL.map(|kind| ObjectId::new(kind, Tag::somewhere()));
        self.freshness(&anything, UNHURRIED).await?;
        self.answered_well(Kind::Clan, &[], Timestamp::EPOCH, UNHURRIED).await?;
        self.outbox(Timestamp::EPOCH).await.map(drop)
    }

    /// Takes our own tables away again, newest migration first. The contract tables stay. Answers what it undid.
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
        on_connection!(database, database.acquire(), STATEMENT_TIMEOUT, "read the time", |connection, keeps| async {
            let mut single = Single::begin(connection, keeps).await?;
            let now: TableTime =
                sqlx::query_scalar("SELECT clock_timestamp()").persistent(keeps).fetch_one(single.connection()).await?;
            single.end().await?;
            Ok(Some(from_utc(now)))
        })
    }

    async fn ready(&self, patience: Duration) -> Result<(), StoreError> {
        blockers::wait_for_tables(&self.database, patience).await
    }

    fn is_doubtful(&self) -> bool {
        self.experience.is_doubtful()
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
            // Reading twice harms nobody, and connections that were only dropped need not end a run. Where one was, the
            // others mostly were, too. A ping that is broken off leaves connections that the pool tests and drops.
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

    async fn answered_well(
        &self,
        kind: Kind,
        but: &[String],
        now: Timestamp,
        limit: Duration,
    ) -> Result<Option<ObjectId>, StoreError> {
        const ACTION: &str = "find a control object";
        let (database, limit) = (&self.database, Limit::from_now(limit));
        let acquire = || database.acquire_within(limit, ACTION);
        let timeout = STATEMENT_TIMEOUT.min(limit.left());
        let tag: Result<_, StoreError> =
            on_connection!(database, acquire(), timeout, ACTION, |connection, keeps| async {
                let mut single = Single::begin(connection, keeps).await?;
                let tag: Option<String> = sqlx::query_scalar(ANSWERED_WELL)
                    .persistent(keeps)
                    .bind(kind.as_str())
                    .bind(Tag::somewhere().as_str())
                    .bind(now.to_utc())
                    .bind((now - ANSWERED_WELL_FOR).to_utc())
                    .bind(but)
                    .fetch_optional(single.connection())
                    .await?;
                single.end().await?;
                Ok(tag)
            });
        Ok(tag?.and_then(|tag| Some(ObjectId::new(kind, tag.parse().ok()?))))
    }

    async fn commit_and_delete(
        &self,
        now: Timestamp,
        batch: &[Fetched],
        told: &[i64],
        limit: Duration,
    ) -> Result<Commit, StoreError> {
        let order = commit::Order {
            database: &self.database,
            experience: &self.experience,
            telling: self.telling,
            now,
            told,
            limit: Limit::from_now(limit),
        };
        commit::commit(order, batch).await
    }

    async fn outbox(&self, before: Timestamp) -> Result<Vec<OutboxEntry>, StoreError> {
        let database = &self.database;
        on_connection!(database, database.acquire(), STATEMENT_TIMEOUT, "read the outbox", |connection, keeps| async {
            let mut single = Single::begin(connection, keeps).await?;
            let notes = notes::read(single.connection(), before, keeps).await?;
            single.end().await?;
            Ok(notes)
        })
    }

    async fn delete_from_outbox(&self, ids: &[i64]) -> Result<(), StoreError> {
        let database = &self.database;
        on_connection!(
            database,
            database.acquire(),
            STATEMENT_TIMEOUT,
            "delete delivered outbox entries",
            |connection, keeps| async {
                let mut single = Single::begin(connection, keeps).await?;
                notes::forget(single.connection(), ids, keeps).await?;
                single.end().await
            }
        )
    }

    async fn record_run(&self, row: &RunRow) -> Result<(), StoreError> {
        let database = &self.database;
        on_connection!(database, database.acquire(), STATEMENT_TIMEOUT, "record the run", |connection, keeps| async {
            let mut single = Single::begin(connection, keeps).await?;
            runs::record(single.connection(), row, keeps).await?;
            single.end().await
        })
    }

    async fn last_run(&self) -> Result<Option<RunRow>, StoreError> {
        let database = &self.database;
        on_connection!(
            database,
            database.acquire(),
            STATEMENT_TIMEOUT,
            "read the last run",
            |connection, keeps| async {
                let mut single = Single::begin(connection, keeps).await?;
                let run = runs::last(single.connection(), keeps).await?;
                single.end().await?;
                Ok(run)
            }
        )
    }

    async fn last_runs(&self) -> Result<LastRuns, StoreError> {
        let database = &self.database;
        on_connection!(
            database,
            database.acquire(),
            STATEMENT_TIMEOUT,
            "read the last runs",
            |connection, keeps| async {
                let mut single = Single::begin(connection, keeps).await?;
                let runs = runs::lasts(single.connection(), keeps).await?;
                single.end().await?;
                Ok(runs)
            }
        )
    }
}

impl PostgresStore {
    async fn try_freshness(&self, objects: &[ObjectId], limit: Limit) -> Result<Vec<FreshnessRow>, StoreError> {
        let database = &self.database;
        let acquire = || database.acquire_within(limit, READ_FRESHNESS);
        let timeout = STATEMENT_TIMEOUT.min(limit.left());
        let read = on_connection!(database, acquire(), timeout, READ_FRESHNESS, |connection, keeps| read_freshness(
            connection, objects, keeps
        ));
        database.in_time(limit, READ_FRESHNESS, read)
    }
}

async fn read_freshness(
    connection: &mut PgConnection,
    objects: &[ObjectId],
    keeps: bool,
) -> Result<Vec<FreshnessRow>, sqlx::Error> {
    let mut single = Single::begin(connection, keeps).await?;
    let rows = sqlx::query_as(FRESHNESS)
        .persistent(keeps)
        .bind(objects.iter().map(|object| object.kind.as_str()).collect::<Vec<_>>())
        .bind(objects.iter().map(|object| object.tag.as_str()).collect::<Vec<_>>())
        .fetch_all(single.connection())
        .await?;
    single.end().await?;
    Ok(rows)
}

#[derive(FromRow)]
struct FreshnessRow {
    kind: String,
    tag: String,
    fetched_at: TableTime,
    fresh_until: Option<TableTime>,
    league: Option<String>,
}

impl FreshnessRow {
    fn into_entry(self) -> Option<(ObjectId, Freshness)> {
        let object = ObjectId::new(self.kind.parse().ok()?, self.tag.parse().ok()?);
        let fetched_at = from_utc(self.fetched_at);
        let freshness = Freshness {
            fetched_at,
            fresh_until: self.fresh_until.map_or(fetched_at, from_utc),
            // A memory that cannot be read is no memory.
            league: self.league.and_then(|json| serde_json::from_str(&json).ok()),
        };
        Some((object, freshness))
    }
}
