//! Makes and takes away tables. What was done is listed in `refresh_worker.migrations`, never in the contract's schema.
//!
//! All that is missing runs in one transaction under an advisory lock, so several cold starts may race. When nothing is
//! missing, nothing but the list is read, and a role with no right to create anything will do.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};
use tracing::info;

use super::{
    attempt::Mark,
    blockers::{self, Blocker, watched},
    check::Problem,
    connect::{Database, on_connection},
    places,
};
use crate::store::StoreError;

struct Migration {
    version: i32,
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

macro_rules! migration {
    ($version:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            up: include_str!(concat!("../../../migrations/postgres/", $name, ".up.sql")),
            down: include_str!(concat!("../../../migrations/postgres/", $name, ".down.sql")),
        }
    };
}

/// In order. One that has been released is never changed.
const MIGRATIONS: [Migration; 5] = [
    migration!(1, "0001_contract_tables"),
    migration!(2, "0002_own_tables"),
    migration!(3, "0003_reports"),
    migration!(4, "0004_outbox"),
    migration!(5, "0005_unfolded_reports"),
];

/// The one that makes the shared tables, as far as they are missing.
const CONTRACT: i32 = 1;

/// The letters `rfmg`.
const LOCK: i64 = 0x7266_6d67;

const TIMEOUT: Duration = Duration::from_secs(60);

/// How long a statement waits for the locks of others.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

const MAKE: &str = "create the missing tables";
const UNDO: &str = "remove the worker's tables";

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('statement_timeout', '50s', true)";

const RIGHTS: &str = include_str!("../sql/postgres/migration_rights.sql");

const LIST: &str = "
    CREATE TABLE IF NOT EXISTS refresh_worker.migrations (
        version integer NOT NULL CONSTRAINT migrations_pkey PRIMARY KEY,
        name    text NOT NULL
    );
    COMMENT ON TABLE refresh_worker.migrations IS 'The migrations of refresh-worker that have run.'";

pub(super) async fn up(database: &Database) -> Result<Vec<String>, StoreError> {
    let mark = Mark::new();
    let made = async {
        on_connection!(database, database.acquire(), TIMEOUT, MAKE, |connection, keeps| make(connection, keeps, mark))
    };
    let (made, blocker) = watched(database, LOCK_TIMEOUT / 2, mark, made).await;
    let made: Result<Made, StoreError> = made;
    match made.map_err(|error| naming(database, MAKE, error, blocker))? {
        Made::Done(names) => Ok(names),
        Made::NotAllowed(rights) => Err(StoreError::NotAllowed {
            server: database.server.clone(),
            action: "create the missing tables",
            detail: format!("role {} lacks CREATE", rights.role),
            remedy: rights.remedy(),
        }),
        Made::Elsewhere(Problem { what, remedy, .. }) => Err(StoreError::NotAllowed {
            server: database.server.clone(),
            action: "create the missing tables",
            detail: what,
            remedy,
        }),
    }
}

pub(super) async fn down(database: &Database) -> Result<Vec<String>, StoreError> {
    let mark = Mark::new();
    let undone = async {
        on_connection!(database, database.acquire(), TIMEOUT, UNDO, |connection, keeps| undo(connection, keeps, mark))
    };
    let (undone, blocker) = watched(database, LOCK_TIMEOUT / 2, mark, undone).await;
    undone.map_err(|error| naming(database, UNDO, error, blocker))
}

/// A lock that did not go in time is told with whoever holds it.
fn naming(database: &Database, action: &'static str, error: StoreError, blocker: Option<Blocker>) -> StoreError {
    match (error, blocker) {
        (StoreError::Unreachable { detail, .. }, Some(blocker)) if detail.contains("55P03") => {
            blockers::locked(database, action, format!("{}: {detail}; nothing was changed, try again", blocker.told()))
        }
        (error, _) => error,
    }
}

enum Made {
    Done(Vec<String>),
    NotAllowed(Rights),
    /// Some of the shared tables are in another schema than the one in which the rest would be made.
    Elsewhere(Problem),
}

async fn make(connection: &mut PgConnection, keeps: bool, mark: Mark) -> Result<Made, sqlx::Error> {
    let mut transaction = connection.begin_with(AssertSqlSafe(BEGIN.to_owned() + &mark.set())).await?;
    if missing(applied(&mut transaction, keeps).await?.as_deref()).is_empty() {
        transaction.commit().await?;
        return Ok(Made::Done(Vec::new()));
    }
    lock(&mut transaction, keeps).await?;
    // Whoever had the lock before may have done it all.
    let missing = missing(applied(&mut transaction, keeps).await?.as_deref());
    if missing.iter().any(|migration| migration.version == CONTRACT) {
        let places = places::of_contract(&mut transaction, keeps).await?;
        if let Some(problem) = places::elsewhere(&places) {
            transaction.rollback().await?;
            return Ok(Made::Elsewhere(problem));
        }
        let tables = places::missing(&places);
        if !tables.is_empty() {
            info!(tables = tables.join(", "), "of the six shared tables these are missing; they are made now");
        }
    }
    let rights: Rights = sqlx::query_as(RIGHTS).persistent(keeps).fetch_one(&mut *transaction).await?;
    if !missing.is_empty() && !rights.suffice() {
        transaction.rollback().await?;
        return Ok(Made::NotAllowed(rights));
    }
    if !rights.schema_exists {
        sqlx::raw_sql("CREATE SCHEMA refresh_worker").execute(&mut *transaction).await?;
    }
    if !missing.is_empty() {
        sqlx::raw_sql(LIST).execute(&mut *transaction).await?;
    }
    for migration in &missing {
        sqlx::raw_sql(migration.up).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO refresh_worker.migrations (version, name) VALUES ($1, $2)")
            .persistent(keeps)
            .bind(migration.version)
            .bind(migration.name)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(Made::Done(missing.iter().map(|migration| migration.name.to_owned()).collect()))
}

async fn undo(connection: &mut PgConnection, keeps: bool, mark: Mark) -> Result<Vec<String>, sqlx::Error> {
    let mut transaction = connection.begin_with(AssertSqlSafe(BEGIN.to_owned() + &mark.set())).await?;
    lock(&mut transaction, keeps).await?;
    let Some(applied) = applied(&mut transaction, keeps).await? else { return Ok(Vec::new()) };
    let mut undone = Vec::new();
    for migration in MIGRATIONS.iter().rev().filter(|migration| applied.contains(&migration.version)) {
        sqlx::raw_sql(migration.down).execute(&mut *transaction).await?;
        undone.push(migration.name.to_owned());
    }
    sqlx::raw_sql("DROP TABLE refresh_worker.migrations; DROP SCHEMA refresh_worker")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(undone)
}

async fn lock(connection: &mut PgConnection, keeps: bool) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").persistent(keeps).bind(LOCK).execute(&mut *connection).await?;
    // Only now: who makes the tables at the same time is waited for, those in whose way we stand are not. A statement that waits to
    // change a table has every reader of it queue behind.
    let set = format!("SELECT set_config('lock_timeout', '{}ms', true)", LOCK_TIMEOUT.as_millis());
    sqlx::query(AssertSqlSafe(set)).persistent(keeps).execute(connection).await?;
    Ok(())
}

/// The versions that have run; `None`: there is not even a list.
async fn applied(connection: &mut PgConnection, keeps: bool) -> Result<Option<Vec<i32>>, sqlx::Error> {
    // Read from the catalogue itself: a lookup by name (`to_regclass`) may remember from before the lock was granted
    // that there was none.
    let has_list: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'refresh_worker' AND tablename = 'migrations')",
    )
    .persistent(keeps)
    .fetch_one(&mut *connection)
    .await?;
    if !has_list {
        return Ok(None);
    }
    let versions = sqlx::query_scalar("SELECT version FROM refresh_worker.migrations").persistent(keeps);
    Ok(Some(versions.fetch_all(connection).await?))
}

/// Versions that only a newer program knows are left alone.
fn missing(applied: Option<&[i32]>) -> Vec<&'static Migration> {
    let has_run = |migration: &&Migration| applied.is_some_and(|applied| applied.contains(&migration.version));
    MIGRATIONS.iter().filter(|migration| !has_run(migration)).collect()
}

/// What the role may create. Names are quoted for use in a statement.
#[derive(Debug, FromRow)]
struct Rights {
    role: String,
    database: String,
    /// Where the contract tables would be made.
    contract_schema: Option<String>,
    contract_exists: bool,
    schema_exists: bool,
    may_create_schema: bool,
    may_create_own: bool,
    may_create_contract: bool,
}

impl Rights {
    const fn own_suffice(&self) -> bool {
        if self.schema_exists { self.may_create_own } else { self.may_create_schema }
    }

    const fn contract_suffice(&self) -> bool {
        self.contract_exists || self.may_create_contract
    }

    const fn suffice(&self) -> bool {
        self.own_suffice() && self.contract_suffice()
    }

    fn remedy(&self) -> String {
        let mut grants = Vec::new();
        if !self.own_suffice() {
            grants.push(if self.schema_exists {
                format!("GRANT USAGE, CREATE ON SCHEMA refresh_worker TO {};", self.role)
            } else {
                format!("GRANT CREATE ON DATABASE {} TO {};", self.database, self.role)
            });
        }
        if !self.contract_suffice() {
            let schema = self.contract_schema.as_deref().unwrap_or("public");
            grants.push(format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {};", self.role));
        }
        grants.join(" ")
    }
}

/// How far the tables have been made.
pub(super) enum State {
    Whole,
    Partly,
    /// And more than we know, up to this migration.
    ByNewer(i32),
}

pub(super) async fn state(connection: &mut PgConnection, keeps: bool) -> Result<State, sqlx::Error> {
    let applied = applied(connection, keeps).await?;
    if !missing(applied.as_deref()).is_empty() {
        return Ok(State::Partly);
    }
    let newest = applied.unwrap_or_default().into_iter().max().unwrap_or(0);
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    Ok(if newest > known { State::ByNewer(newest) } else { State::Whole })
}

/// What is missing to make it.
pub(super) async fn rights_problem(connection: &mut PgConnection, keeps: bool) -> Result<Option<String>, sqlx::Error> {
    let rights: Rights = sqlx::query_as(RIGHTS).persistent(keeps).fetch_one(connection).await?;
    Ok((!rights.suffice()).then(|| rights.remedy()))
}
