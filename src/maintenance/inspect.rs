//! Checks of views and statistics jobs for `check`. Only reads the database's catalogue: no view is refreshed, and no function is
//! called.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, SqlSafeStr as _};

use super::{
    database::{begin, code, describe, is_unreachable, within},
    jobs::functions::call_of,
    views::{ViewError, fix, look_at},
};
use crate::{
    columns::from_row,
    config::{StatsFunction, ViewConfig},
};

/// The timeout of all checks of one kind.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

const LOOK_AT_JOBS: &str = include_str!("sql/jobs/look.sql");
const LOOK_AT_LOG: &str = include_str!("sql/view_log_look.sql");
const LOOK_AT_FUNCTION: &str = include_str!("sql/jobs/function_look.sql");

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Fine(String),
    /// It works, but an operator should know.
    Doubt {
        what: String,
        fix: String,
    },
    /// It does not work.
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
        Self::problem(format!("{what} cannot be checked: {}", describe(error)), fix)
    }
}

/// Checks that each view exists, is ours, and can be refreshed while others read; and the log of views.
pub async fn views(pool: &PgPool, views: &[ViewConfig]) -> Vec<Finding> {
    let checked = within(CHECK_TIMEOUT, async {
        let mut transaction = begin(pool, CHECK_TIMEOUT).await?;
        let mut findings = Vec::new();
        for view in views {
            findings.push(check_view(&mut transaction, view).await?);
        }
        findings.extend(check_temporary_tables(&mut transaction).await?);
        findings.extend(check_log(&mut transaction).await?);
        // Nothing was changed; a commit would suggest otherwise.
        transaction.rollback().await?;
        Ok(findings)
    });
    checked.await.unwrap_or_else(|error| vec![Finding::failed("views", &error)])
}

async fn check_view(transaction: &mut PgConnection, view: &ViewConfig) -> Result<Finding, sqlx::Error> {
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

/// Checks the right for the temporary table that a concurrent refresh creates.
async fn check_temporary_tables(transaction: &mut PgConnection) -> Result<Option<Finding>, sqlx::Error> {
    let (may, role, database): (bool, String, String) = sqlx::query_as(
        "SELECT has_database_privilege(current_database(), 'TEMPORARY'), quote_ident(current_user), \
         quote_ident(current_database())",
    )
    .persistent(false)
    .fetch_one(transaction)
    .await?;
    let what = format!("{role} may not create temporary tables, and a refresh while others read creates one");
    Ok((!may).then(|| Finding::problem(what, format!("GRANT TEMPORARY ON DATABASE {database} TO {role};"))))
}

struct LogLook {
    is_there: bool,
    may_write: bool,
    role: String,
}

from_row!(postgres: LogLook { is_there, may_write, role });

async fn check_log(transaction: &mut PgConnection) -> Result<Option<Finding>, sqlx::Error> {
    let log: LogLook = sqlx::query_as(LOOK_AT_LOG).persistent(false).fetch_one(transaction).await?;
    if log.may_write {
        return Ok(None);
    }
    let what = "materialized_view_refresh_log cannot be written: views are refreshed with every run, due or not";
    let fix = if log.is_there {
        format!("GRANT SELECT, INSERT, UPDATE ON materialized_view_refresh_log TO {};", log.role)
    } else {
        format!("GRANT CREATE ON SCHEMA public TO {}; (the worker then creates the table)", log.role)
    };
    Ok(Some(Finding::doubt(what, fix)))
}

/// Checks that the table of jobs exists or may be created, that we see all of it, and that each function can be called.
pub async fn jobs(pool: &PgPool, functions: &[StatsFunction]) -> Vec<Finding> {
    let checked = within(CHECK_TIMEOUT, async {
        let mut transaction = begin(pool, CHECK_TIMEOUT).await?;
        let mut findings = vec![check_table(&mut transaction).await?];
        for function in functions {
            findings.push(check_function(&mut transaction, function).await?);
        }
        transaction.rollback().await?;
        Ok(findings)
    });
    checked.await.unwrap_or_else(|error| vec![Finding::failed("statistics jobs", &error)])
}

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

from_row!(postgres: TableLook {
    is_there, elsewhere, schema, may_make, missing_columns, missing_rights, hides_rows, role,
});

async fn check_table(transaction: &mut PgConnection) -> Result<Finding, sqlx::Error> {
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
            format!("the table background_job_status is missing, and {role} may not create it"),
            format!("GRANT CREATE ON SCHEMA {} TO {role};", table.schema.as_deref().unwrap_or("public")),
        )
    } else if !table.is_there {
        Finding::Fine("the table background_job_status is missing; the worker creates it at the first use".to_owned())
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

/// Prepares the statement of a job without executing it.
async fn check_function(transaction: &mut PgConnection, function: &StatsFunction) -> Result<Finding, sqlx::Error> {
    let name = &function.name;
    // A failed prepare would end the whole transaction.
    let mut savepoint = transaction.begin().await?;
    let read = savepoint.prepare(AssertSqlSafe(call_of(name)).into_sql_str()).await.map(drop);
    if let Err(error) = read {
        savepoint.rollback().await?;
        return match code(&error).as_deref() {
            // undefined_function, invalid_schema_name.
            Some("42883" | "3F000") => Ok(Finding::problem(
                format!("there is no function {name}() that takes no arguments"),
                "run the migration that creates it, or take it out of STATS_FUNCTIONS",
            )),
            Some(_) => Ok(Finding::problem(
                format!("{name}() cannot be called: {}", describe(&error)),
                "correct STATS_FUNCTIONS",
            )),
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
