//! Creates the tables. SQLite's own `user_version` counts the steps that ran, so no table is needed for it.

use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::errors::store_error;
use crate::store::StoreError;

/// Name and statements of each step, in order. A released step is never changed.
const STEPS: [(&str, &str); 4] = [
    ("0001_shared_tables", include_str!("../../../migrations/sqlite/0001_shared_tables.sql")),
    ("0002_own_tables", include_str!("../../../migrations/sqlite/0002_own_tables.sql")),
    ("0003_outbox", include_str!("../../../migrations/sqlite/0003_outbox.sql")),
    ("0004_planned_looks", include_str!("../../../migrations/sqlite/0004_planned_looks.sql")),
];

/// Runs the missing steps in one transaction, and returns their names.
pub(super) async fn run(pool: &SqlitePool, server: &str) -> Result<Vec<String>, StoreError> {
    let done = match run_missing(pool).await.map_err(|error| store_error(server, "create the tables", &error))? {
        Steps::Run(names) => return Ok(names),
        Steps::FromTheFuture(done) => done,
    };
    Err(StoreError::Failed {
        server: server.to_owned(),
        action: "create the tables",
        detail: format!("the file is of a newer refresh-worker: it has {done} steps, this one knows {}", STEPS.len()),
    })
}

enum Steps {
    Run(Vec<String>),
    FromTheFuture(usize),
}

async fn run_missing(pool: &SqlitePool) -> Result<Steps, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    // Immediate: of two programs that start together, the second waits here, and then finds nothing missing.
    let mut transaction = connection.begin_with("begin immediate").await?;
    let done: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut *transaction).await?;
    let done = usize::try_from(done).unwrap_or(0);
    let Some(missing) = STEPS.get(done..) else { return Ok(Steps::FromTheFuture(done)) };
    for (_, statements) in missing {
        sqlx::raw_sql(*statements).execute(&mut *transaction).await?;
    }
    mark(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Steps::Run(missing.iter().map(|(name, _)| (*name).to_owned()).collect()))
}

/// A pragma takes no parameters, so the number is in the text. The assertion keeps it true.
async fn mark(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const { assert!(STEPS.len() == 4) };
    sqlx::query("pragma user_version = 4").execute(connection).await?;
    Ok(())
}
