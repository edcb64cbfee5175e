//! What would stand in the way of views and statistics jobs, found without changing anything. Reads the database's catalogue;
//! no view is refreshed, and no function is called.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, FromRow, PgConnection, PgPool, SqlSafeStr as _};

use super::{
    database::{begin, code, is_unreachable, told, within},
    jobs::functions::call_of,
    views::{ViewError, fix, look_at},
};
use crate::config::{StatsFunction, ViewConfig};

/// How long looking may take.
const TIME: Duration = Duration::from_secs(10);

const LOOK_AT_JOBS: &str = include_str!("sql/jobs/look.sql");
const LOOK_AT_LOG: &str = include_str!("sql/view_log_look.sql");
const LOOK_AT_FUNCTION: &str = include_str!("sql/jobs/function_look.sql");

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Fine(String),
    /// Works, but somebody should know.
    Doubt {
        what: String,
        fix: String,
    },
    /// Does not work.
    Problem {
        what: String,
        fix: String,
    },
}

impl Finding {
    fn doubt(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Doubt { what: what.into(), fix: fix.into() }
    }

    fn problem(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Problem { what: what.into(), fix: fix.into() }
    }

    fn failed(what: &str, error: &sqlx::Error) -> Self {
        let fix = if is_unreachable(error) { "see PostgreSQL above" } else { "see the log of the database" };
        Self::problem(format!("{what} cannot be looked at: {}", told(error)), fix)
    }
}

/// Whether each view is there, ours to refresh, and can be refreshed while others read; and its log.
pub async fn views(pool: &PgPool, views: &[ViewConfig]) -> Vec<Finding> {
    let looked = within(TIME, async {
        let mut transaction = begin(pool, TIME).await?;
        let mut sights = Vec::new();
        for view in views {
            sights.push(view_sight(&mut transaction, view).await?);
        }
        sights.extend(temporary_sight(&mut transaction).await?);
        sights.extend(log_sight(&mut transaction).await?);
        transaction.rollback().await?;
        Ok(sights)
    });
    looked.await.unwrap_or_else(|error| vec![Finding::failed("views", &error)])
}

async fn view_sight(transaction: &mut PgConnection, view: &ViewConfig) -> Result<Finding, sqlx::Error> {
    let look = match look_at(transaction, view).await {
        Ok(look) => look,
        Err(ViewError::Database(error)) => return Err(error),
        Err(error) => return Ok(Finding::problem(error.to_string(), fix(view, &error))),
    };
    let (name, role) = (&look.qualified, &look.role);
    Ok(if !look.is_ours {
        Finding::problem(
            format!("{name} does not belong to {role}, and only its owner can refresh it"),
            format!("ALTER MATERIALIZED VIEW {name} OWNER TO {role};"),
        )
    } else if !look.has_key {
        Finding::doubt(
            format!(
                "{name} has no unique index over columns alone and of all rows: readers wait while it is refreshed"
            ),
            format!("CREATE UNIQUE INDEX ON {name} (...);"),
        )
    } else if !look.is_populated {
        Finding::Fine(format!("{name} is ours; readers wait for its first refresh, which fills it"))
    } else {
        Finding::Fine(format!("{name} is ours, and is refreshed while others read"))
    })
}

/// A refresh while others read makes a temporary table.
async fn temporary_sight(transaction: &mut PgConnection) -> Result<Option<Finding>, sqlx::Error> {
    let (may, role, database): (bool, String, String) = sqlx::query_as(
        "SELECT has_database_privilege(current_database(), 'TEMPORARY'), quote_ident(current_user), \
         quote_ident(current_database())",
    )
    .persistent(false)
    .fetch_one(transaction)
    .await?;
    let what = format!("{role} may make no temporary table, and a refresh while others read makes one");
    Ok((!may).then(|| Finding::problem(what, format!("GRANT TEMPORARY ON DATABASE {database} TO {role};"))))
}

#[derive(FromRow)]
struct LogLook {
    is_there: bool,
    may_write: bool,
    role: String,
}

async fn log_sight(transaction: &mut PgConnection) -> Result<Option<Finding>, sqlx::Error> {
    let log: LogLook = sqlx::query_as(LOOK_AT_LOG).persistent(false).fetch_one(transaction).await?;
    if log.may_write {
        return Ok(None);
    }
    let what = "materialized_view_refresh_log cannot be written: views are refreshed with every run, due or not";
    let fix = if log.is_there {
        format!("GRANT SELECT, INSERT, UPDATE ON materialized_view_refresh_log TO {};", log.role)
    } else {
        format!("GRANT CREATE ON SCHEMA public TO {}; (it makes the table)", log.role)
    };
    Ok(Some(Finding::doubt(what, fix)))
}

/// Whether there is a table of jobs or may be made, whether we see all of it, and whether each function can be called.
pub async fn jobs(pool: &PgPool, functions: &[StatsFunction]) -> Vec<Finding> {
    let looked = within(TIME, async {
        let mut transaction = begin(pool, TIME).await?;
        let mut sights = vec![table_sight(&mut transaction).await?];
        for function in functions {
            sights.push(function_sight(&mut transaction, function).await?);
        }
        transaction.rollback().await?;
        Ok(sights)
    });
    looked.await.unwrap_or_else(|error| vec![Finding::failed("statistics jobs", &error)])
}

#[derive(FromRow)]
struct TableLook {
    is_there: bool,
    elsewhere: Option<String>,
    schema: Option<String>,
    may_make: bool,
    missing_columns: Vec<String>,
    missing_rights: Vec<String>,
    hides_rows: bool,
    role: String,
}

async fn table_sight(transaction: &mut PgConnection) -> Result<Finding, sqlx::Error> {
    let table: TableLook = sqlx::query_as(LOOK_AT_JOBS).persistent(false).fetch_one(transaction).await?;
    let TableLook { role, .. } = &table;
    Ok(if let Some(elsewhere) = &table.elsewhere {
        Finding::problem(
            format!(
                "the table background_job_status is in the schema {elsewhere}, which the search path does not reach"
            ),
            format!(
                "ALTER ROLE {role} SET search_path = {elsewhere}, public; or add ?options=-csearch_path%3D{elsewhere} to \
                 DATABASE_URL"
            ),
        )
    } else if !table.is_there && !table.may_make {
        Finding::problem(
            format!("the table background_job_status is missing, and {role} may not make it"),
            format!("GRANT CREATE ON SCHEMA {} TO {role};", table.schema.as_deref().unwrap_or("public")),
        )
    } else if !table.is_there {
        Finding::Fine("the table background_job_status is missing; it is made when it is first used".to_owned())
    } else if !table.missing_columns.is_empty() {
        Finding::problem(
            format!("the table background_job_status lacks {}", table.missing_columns.join(", ")),
            "bring it to the shape that the programs use which enqueue jobs (their migrations)",
        )
    } else if !table.missing_rights.is_empty() {
        let rights = table.missing_rights.join(", ");
        Finding::problem(
            format!("{role} lacks {rights} on background_job_status"),
            format!("GRANT {rights} ON background_job_status TO {role};"),
        )
    } else if table.hides_rows {
        Finding::doubt(
            format!(
                "row level security is on for background_job_status: {role} sees only the jobs that policies allow"
            ),
            format!("CREATE POLICY refresh_worker ON background_job_status TO {role} USING (true) WITH CHECK (true);"),
        )
    } else {
        Finding::Fine("the table background_job_status can be used".to_owned())
    })
}

/// The server reads the very statement that a job sends, and carries nothing out.
async fn function_sight(transaction: &mut PgConnection, function: &StatsFunction) -> Result<Finding, sqlx::Error> {
    let name = &function.name;
    let mut savepoint = transaction.begin().await?;
    let read = savepoint.prepare(AssertSqlSafe(call_of(name)).into_sql_str()).await.map(drop);
    if let Err(error) = read {
        savepoint.rollback().await?;
        return match code(&error).as_deref() {
            Some("42883" | "3F000") => Ok(Finding::problem(
                format!("there is no function {name}() that takes no arguments"),
                "run the migration that creates it, or take it out of STATS_FUNCTIONS",
            )),
            Some(_) => {
                Ok(Finding::problem(format!("{name}() cannot be called: {}", told(&error)), "mend STATS_FUNCTIONS"))
            }
            None => Err(error),
        };
    }
    let (schema, base) = name.split_once('.').map_or((None, name.as_str()), |(schema, base)| (Some(schema), base));
    let (may_call, role): (bool, String) = sqlx::query_as(LOOK_AT_FUNCTION)
        .persistent(false)
        .bind(schema.map(str::to_lowercase))
        .bind(base.to_lowercase())
        .fetch_one(&mut *savepoint)
        .await?;
    savepoint.commit().await?;
    Ok(if may_call {
        Finding::Fine(format!("{name}() can be called"))
    } else {
        Finding::problem(
            format!("{role} may not call {name}()"),
            format!("GRANT EXECUTE ON FUNCTION {name} TO {role};"),
        )
    })
}
