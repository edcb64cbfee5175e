//! Migrations: create and remove tables. `refresh_worker.migrations` lists those that ran.
//!
//! All missing migrations run in one transaction under an advisory lock, so several cold starts may race. When nothing is
//! missing, only the list is read, and a role without any right to create is enough.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tracing::info;

use super::{
    attempt::Mark,
    blockers::{self, Blocker, watched},
    connect::{Database, on_connection},
    places,
    problem::Problem,
};
use crate::{columns::from_row, store::StoreError};

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

/// In order. A released migration is never changed.
const MIGRATIONS: [Migration; 6] = [
    migration!(1, "0001_contract_tables"),
    migration!(2, "0002_own_tables"),
    migration!(3, "0003_reports"),
    migration!(4, "0004_outbox"),
    migration!(5, "0005_unfolded_reports"),
    migration!(6, "0006_planned_looks"),
];

/// The migration that creates the missing shared tables.
const CONTRACT: i32 = 1;

/// The key of the advisory lock: the letters `rfmg`.
const MIGRATION_LOCK: i64 = 0x7266_6d67;

const MIGRATION_TIMEOUT: Duration = Duration::from_secs(60);

/// A statement waits this long for the locks of others.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

const MAKE: &str = "create the missing tables";
const UNDO: &str = "remove the worker's tables";

// Less than `MIGRATION_TIMEOUT`, so that a slow statement ends with the server's own error.
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
        on_connection!(database, database.acquire(), MIGRATION_TIMEOUT, MAKE, |connection, keeps| make(
            connection, keeps, mark
        ))
    };
    let (made, blocker) = watched(database, LOCK_TIMEOUT / 2, mark, made).await;
    let made: Result<Made, StoreError> = made;
    match made.map_err(|error| naming(database, MAKE, error, blocker))? {
        Made::Done(names) => Ok(names),
        Made::NotAllowed(rights) => Err(StoreError::NotAllowed {
            server: database.server.clone(),
            action: "create the missing tables",
            detail: format!("role {} lacks CREATE", rights.role),
            fix: rights.fix(),
        }),
        Made::Elsewhere(Problem { what, fix, .. }) => Err(StoreError::NotAllowed {
            server: database.server.clone(),
            action: "create the missing tables",
            detail: what,
            fix,
        }),
    }
}

pub(super) async fn down(database: &Database) -> Result<Vec<String>, StoreError> {
    let mark = Mark::new();
    let undone = async {
        on_connection!(database, database.acquire(), MIGRATION_TIMEOUT, UNDO, |connection, keeps| undo(
            connection, keeps, mark
        ))
    };
    let (undone, blocker) = watched(database, LOCK_TIMEOUT / 2, mark, undone).await;
    undone.map_err(|error| naming(database, UNDO, error, blocker))
}

/// Adds the blocker to the error of a lock that outlasted the wait.
fn naming(database: &Database, action: &'static str, error: StoreError, blocker: Option<Blocker>) -> StoreError {
    match (error, blocker) {
        // 55P03 is lock_not_available; `store_error` keeps the code only in the text.
        (StoreError::Unreachable { detail, .. }, Some(blocker)) if detail.contains("55P03") => blockers::locked(
            database,
            action,
            format!("{}: {detail}; nothing was changed, try again", blocker.describe()),
        ),
        (error, _) => error,
    }
}

enum Made {
    Done(Vec<String>),
    NotAllowed(Rights),
    /// Some of the shared tables are in another schema than the one in which the rest would be created.
    Elsewhere(Problem),
}

async fn make(connection: &mut PgConnection, keeps: bool, mark: Mark) -> Result<Made, sqlx::Error> {
    let mut transaction = connection.begin_with(AssertSqlSafe(BEGIN.to_owned() + &mark.set())).await?;
    // Before the lock, so that the usual start, which has nothing to do, waits for no other migration.
    if missing(applied(&mut transaction, keeps).await?.as_deref()).is_empty() {
        transaction.commit().await?;
        return Ok(Made::Done(Vec::new()));
    }
    lock(&mut transaction, keeps).await?;
    // The lock's previous holder may have run them all.
    let missing = missing(applied(&mut transaction, keeps).await?.as_deref());
    // Creating the missing shared tables beside a set in another schema would split the data.
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
        // Not `IF NOT EXISTS`, which needs the right to create even when the schema is there.
        sqlx::raw_sql("CREATE SCHEMA refresh_worker").execute(&mut *transaction).await?;
    }
    if !missing.is_empty() {
        // A migration may not rely on the list, so it comes first.
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
    // Without a list nothing was changed, so the transaction is just dropped.
    let Some(applied) = applied(&mut transaction, keeps).await? else { return Ok(Vec::new()) };
    let mut undone = Vec::new();
    for migration in MIGRATIONS.iter().rev().filter(|migration| applied.contains(&migration.version)) {
        sqlx::raw_sql(migration.down).execute(&mut *transaction).await?;
        undone.push(migration.name.to_owned());
    }
    // Fails when the schema holds anything that is not ours.
    sqlx::raw_sql("DROP TABLE refresh_worker.migrations; DROP SCHEMA refresh_worker")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(undone)
}

async fn lock(connection: &mut PgConnection, keeps: bool) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .persistent(keeps)
        .bind(MIGRATION_LOCK)
        .execute(&mut *connection)
        .await?;
    // Only after the advisory lock: another migration is worth waiting for, locks of tables are not. Readers of a table queue
    // behind a statement that waits to change it.
    let set = format!("SELECT set_config('lock_timeout', '{}ms', true)", LOCK_TIMEOUT.as_millis());
    sqlx::query(AssertSqlSafe(set)).persistent(keeps).execute(connection).await?;
    Ok(())
}

/// The versions that have run; `None` when there is no list.
async fn applied(connection: &mut PgConnection, keeps: bool) -> Result<Option<Vec<i32>>, sqlx::Error> {
    // Read from the catalogue: a lookup by name (`to_regclass`) may use a cache from before the lock was granted.
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

/// The migrations that have not run. Versions of a newer program are ignored.
fn missing(applied: Option<&[i32]>) -> Vec<&'static Migration> {
    let has_run = |migration: &&Migration| applied.is_some_and(|applied| applied.contains(&migration.version));
    MIGRATIONS.iter().filter(|migration| !has_run(migration)).collect()
}

/// The role's rights to create. Names are quoted for use in a statement.
#[derive(Debug)]
struct Rights {
    role: String,
    database: String,
    /// The schema in which the contract tables would be created.
    contract_schema: Option<String>,
    contract_exists: bool,
    schema_exists: bool,
    may_create_schema: bool,
    may_create_own: bool,
    may_create_contract: bool,
}

from_row!(postgres: Rights {
    role, database, contract_schema, contract_exists, schema_exists, may_create_schema, may_create_own,
    may_create_contract,
});

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

    fn fix(&self) -> String {
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

/// The state of the migrations.
pub(super) enum State {
    Whole,
    Partly,
    /// A newer program ran migrations up to this one.
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

/// The grants that the role lacks to run the migrations.
pub(super) async fn rights_problem(connection: &mut PgConnection, keeps: bool) -> Result<Option<String>, sqlx::Error> {
    let rights: Rights = sqlx::query_as(RIGHTS).persistent(keeps).fetch_one(connection).await?;
    Ok((!rights.suffice()).then(|| rights.fix()))
}
