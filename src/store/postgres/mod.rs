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
mod check;
mod commit;
mod connect;
mod errors;
mod limit;
#[cfg(feature = "cli")]
mod look;
mod migrate;
mod notes;
mod runs;
mod writes;

use std::{collections::HashMap, time::Duration};

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

pub use self::check::Problem;
#[cfg(feature = "cli")]
pub use self::look::{Looked, ReportedError};
use self::{
    connect::{Database, Single, within},
    limit::Limit,
};
use super::{ANSWERED_WELL_FOR, Commit, Freshness, RunRow, Store, StoreError, Telling, plan::times::from_zoned};
use crate::{
    clock::Timestamp,
    config::DatabaseConfig,
    model::{Fetched, Kind, Note, ObjectId, Tag},
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
}

impl PostgresStore {
    /// Reads the address and prepares the pool; the first use connects. Must be called within a runtime.
    ///
    /// # Errors
    /// When the URL cannot be read. The password is not part of the message.
    pub fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        Ok(Self { database: Database::connect(config)?, telling: Telling::default() })
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

    /// Where the database is, without user and password.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.database.server
    }

    /// Everything that stands in the way of working with this database, each with what mends it. Changes nothing.
    pub async fn check_rights(&self) -> Vec<Problem> {
        check::problems(&self.database).await
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
        const ACTION: &str = "look for an object that was answered well";
        let (keeps, limit) = (self.database.keeps_statements, Limit::from_now(limit));
        let mut connection = self.database.acquire_within(limit, ACTION).await?;
        let read = within(STATEMENT_TIMEOUT.min(limit.left()), async {
            let mut single = Single::begin(&mut connection, keeps).await?;
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
        let read = read.await;
        let tag = self.database.give_back(connection, read, ACTION)?;
        Ok(tag.and_then(|tag| Some(ObjectId::new(kind, tag.parse().ok()?))))
    }

    async fn commit_and_forget(
        &self,
        now: Timestamp,
        batch: &[Fetched],
        told: &[i64],
        limit: Duration,
    ) -> Result<Commit, StoreError> {
        commit::commit(&self.database, self.telling, now, batch, told, Limit::from_now(limit)).await
    }

    async fn notes(&self, before: Timestamp) -> Result<Vec<Note>, StoreError> {
        let keeps = self.database.keeps_statements;
        let mut connection = self.database.acquire().await?;
        let read = within(STATEMENT_TIMEOUT, async {
            let mut single = Single::begin(&mut connection, keeps).await?;
            let notes = notes::read(single.connection(), before, keeps).await?;
            single.end().await?;
            Ok(notes)
        });
        let read = read.await;
        self.database.give_back(connection, read, "read what is to be told")
    }

    async fn forget_notes(&self, ids: &[i64]) -> Result<(), StoreError> {
        let keeps = self.database.keeps_statements;
        let mut connection = self.database.acquire().await?;
        let forgotten = within(STATEMENT_TIMEOUT, async {
            let mut single = Single::begin(&mut connection, keeps).await?;
            notes::forget(single.connection(), ids, keeps).await?;
            single.end().await
        });
        let forgotten = forgotten.await;
        self.database.give_back(connection, forgotten, "forget what is told")
    }

    async fn record_run(&self, row: &RunRow) -> Result<(), StoreError> {
        let keeps = self.database.keeps_statements;
        let mut connection = self.database.acquire().await?;
        let recorded = within(STATEMENT_TIMEOUT, async {
            let mut single = Single::begin(&mut connection, keeps).await?;
            runs::record(single.connection(), row, keeps).await?;
            single.end().await
        });
        let recorded = recorded.await;
        self.database.give_back(connection, recorded, "record the run")
    }

    async fn last_run(&self) -> Result<Option<RunRow>, StoreError> {
        let keeps = self.database.keeps_statements;
        let mut connection = self.database.acquire().await?;
        let read = within(STATEMENT_TIMEOUT, async {
            let mut single = Single::begin(&mut connection, keeps).await?;
            let run = runs::last(single.connection(), keeps).await?;
            single.end().await?;
            Ok(run)
        });
        let read = read.await;
        self.database.give_back(connection, read, "read the last run")
    }
}

impl PostgresStore {
    async fn try_freshness(&self, objects: &[ObjectId], limit: Limit) -> Result<Vec<FreshnessRow>, StoreError> {
        let mut connection = self.database.acquire_within(limit, READ_FRESHNESS).await?;
        let timeout = STATEMENT_TIMEOUT.min(limit.left());
        let read = within(timeout, self.read_freshness(&mut connection, objects)).await;
        let read = self.database.give_back(connection, read, READ_FRESHNESS);
        self.database.in_time(limit, READ_FRESHNESS, read)
    }

    async fn read_freshness(
        &self,
        connection: &mut PgConnection,
        objects: &[ObjectId],
    ) -> Result<Vec<FreshnessRow>, sqlx::Error> {
        let keeps = self.database.keeps_statements;
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
}

#[derive(FromRow)]
struct FreshnessRow {
    kind: String,
    tag: String,
    fetched_at: OffsetDateTime,
    fresh_until: Option<OffsetDateTime>,
    league: Option<String>,
}

impl FreshnessRow {
    fn into_entry(self) -> Option<(ObjectId, Freshness)> {
        let object = ObjectId::new(self.kind.parse().ok()?, self.tag.parse().ok()?);
        let fetched_at = from_zoned(self.fetched_at);
        let freshness = Freshness {
            fetched_at,
            fresh_until: self.fresh_until.map_or(fetched_at, from_zoned),
            // A memory that cannot be read is no memory.
            league: self.league.and_then(|json| serde_json::from_str(&json).ok()),
        };
        Some((object, freshness))
    }
}
