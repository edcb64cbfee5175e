//! The check of a database: everything that would make every run fail, found without changing anything. First the catalogue,
//! then a trial.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgDatabaseError};

use super::{
    STATEMENT_TIMEOUT,
    connect::{Database, on_connection, on_single},
    errors::{self, Trouble},
    migrate, places,
    problem::Problem,
    tables::{Extent, LIST, holds, key, rights, tables},
    trial,
};
use crate::{columns::from_row, store::StoreError};

const ROW_SECURITY: &str = include_str!("../sql/postgres/row_security.sql");

const CHECK_SERVER: &str = include_str!("../sql/postgres/check_server.sql");
const CHECK_TABLES: &str = include_str!("../sql/postgres/check_tables.sql");
const CHECK_IDS: &str = include_str!("../sql/postgres/check_ids.sql");

/// Fewer ids than a run may use: the next run would fail.
const FEW_IDS: i64 = 100_000;

/// The ids that a busy deployment uses within days.
const SOON_FEW_IDS: i64 = 10_000_000;

/// The limit of the whole check. Each statement has its own.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

struct TableRow {
    name: String,
    is_there: bool,
    role: String,
    missing_columns: Vec<String>,
    other_columns: Vec<String>,
    narrow_columns: Vec<String>,
    missing_rights: Vec<String>,
    lacks_key: bool,
    key: String,
    has_ids: bool,
    sequence: Option<String>,
    missing_sequence_rights: Vec<String>,
}

from_row!(postgres: TableRow {
    name, is_there, role, missing_columns, other_columns, narrow_columns, missing_rights, lacks_key, key, has_ids,
    sequence, missing_sequence_rights,
});

impl TableRow {
    /// The problems of an existing table.
    fn problems(self) -> Vec<Problem> {
        const SHAPE: &str = "bring the table to the shape the other programs use (their migrations)";
        let Self { name, role, key, .. } = self;
        let mut problems = Vec::new();
        if !self.missing_columns.is_empty() {
            let columns = self.missing_columns.join(", ");
            problems.push(Problem::new(format!("table {name} lacks {columns}"), SHAPE));
        }
        if !self.other_columns.is_empty() {
            let columns = self.other_columns.join(", ");
            problems.push(Problem::new(format!("table {name} has columns of another type: {columns}"), SHAPE));
        }
        if !self.narrow_columns.is_empty() {
            let columns = self.narrow_columns.join(", ");
            let what = format!("table {name} has narrow columns, and refuses longer values: {columns}");
            problems.push(Problem::doubt(what, SHAPE));
        }
        if self.lacks_key {
            let fix = format!("CREATE UNIQUE INDEX ON {name} ({key});");
            problems.push(Problem::new(format!("table {name} has no unique key over {key}"), fix));
        }
        if !self.missing_rights.is_empty() {
            let rights = self.missing_rights.join(", ");
            let fix = format!("GRANT {rights} ON {name} TO {role};");
            problems.push(Problem::new(format!("{role} lacks {rights} on {name}"), fix));
        }
        if let (true, None) = (self.has_ids, &self.sequence) {
            let fix = "give the column its default nextval(...) back";
            problems.push(Problem::new(format!("{name}.id has no sequence for its ids"), fix));
        }
        if let (Some(sequence), false) = (&self.sequence, self.missing_sequence_rights.is_empty()) {
            let rights = self.missing_sequence_rights.join(", ");
            let fix = format!("GRANT {rights} ON SEQUENCE {sequence} TO {role};");
            problems.push(Problem::new(format!("{role} lacks {rights} on {sequence}"), fix));
        }
        problems
    }
}

struct ServerRow {
    is_standby: bool,
    is_read_only: bool,
    read_only_by: String,
    encoding: String,
    database: String,
    role: String,
    connections: i32,
    is_by_role: bool,
}

from_row!(postgres: ServerRow {
    is_standby, is_read_only, read_only_by, encoding, database, role, connections, is_by_role,
});

impl ServerRow {
    /// `most`: the maximum of connections of a run.
    fn problems(&self, most: u32) -> Vec<Problem> {
        let Self { database, role, .. } = self;
        let mut problems = Vec::new();
        if self.is_standby {
            let fix = "point DATABASE_URL at the primary (the writer endpoint)";
            problems.push(Problem::new("the server is a standby: it takes no writes", fix));
        } else if self.is_read_only {
            let what =
                format!("the database is read-only: default_transaction_read_only is on ({})", self.read_only_by);
            let fix = match self.read_only_by.as_str() {
                "database" => format!("ALTER DATABASE {database} RESET default_transaction_read_only;"),
                "user" => format!("ALTER ROLE {role} RESET default_transaction_read_only;"),
                "database user" => {
                    format!("ALTER ROLE {role} IN DATABASE {database} RESET default_transaction_read_only;")
                }
                "client" => "take default_transaction_read_only out of the options of DATABASE_URL".to_owned(),
                _ => "find out why (a provider sets it when the disk is nearly full), and set it off".to_owned(),
            };
            problems.push(Problem::new(what, fix));
        }
        if self.encoding != "UTF8" {
            problems.push(Problem::new(
                format!(
                    "the encoding of {database} is {}, which cannot hold the names of players and clans",
                    self.encoding
                ),
                "dump it, make the database again with ENCODING 'UTF8' TEMPLATE template0, and restore it there",
            ));
        }
        if u32::try_from(self.connections).is_ok_and(|allowed| allowed < most) {
            let (whose, statement) = if self.is_by_role {
                (role, format!("ALTER ROLE {role} CONNECTION LIMIT -1;"))
            } else {
                (database, format!("ALTER DATABASE {database} CONNECTION LIMIT -1;"))
            };
            let what = format!("{whose} allows {} connections, and a run opens up to {most}", self.connections);
            problems.push(Problem::new(what, format!("{statement} or set DB_POOL_MAX={}", self.connections.max(1))));
        }
        problems
    }
}

struct IdsRow {
    name: String,
    sequence: String,
    ids_left: i64,
    /// An id at the end of the range, far beyond the sequence.
    far_id: Option<i64>,
    is_narrow: bool,
    goes_up: bool,
}

from_row!(postgres: IdsRow { name, sequence, ids_left, far_id, is_narrow, goes_up });

impl IdsRow {
    /// Programs that use `max(id) + 1` soon fail. This worker does not, since it uses the sequence.
    fn far(self) -> Option<Problem> {
        let Self { name, sequence, .. } = self;
        self.far_id.map(|id| {
            let what = format!(
                "{name} has a row with the id {id}, at the end of what its ids can be: programs that use max(id) + 1 soon \
                 cannot insert; {sequence} is left where it is"
            );
            Problem::doubt(what, format!("find out who wrote it, and change the id: SELECT * FROM {name} WHERE id = {id};"))
        })
    }

    fn problem(self) -> Option<Problem> {
        let Self { name, sequence, ids_left, .. } = self;
        if !self.goes_up || ids_left >= SOON_FEW_IDS {
            return None;
        }
        let what = format!("{sequence} has {} ids left for {name}", ids_left.max(0));
        let widen =
            if self.is_narrow { format!("ALTER TABLE {name} ALTER COLUMN id TYPE bigint; ") } else { String::new() };
        let fix = format!("{widen}ALTER SEQUENCE {sequence} AS bigint NO MAXVALUE;");
        Some(if ids_left < FEW_IDS { Problem::new(what, fix) } else { Problem::doubt(what, fix) })
    }
}

pub(super) async fn problems(database: &Database, extent: Extent) -> Vec<Problem> {
    match inspect_tables(database, extent).await {
        Ok(problems) => problems,
        Err(StoreError::NotAllowed { detail, fix, .. }) => vec![Problem::new(detail, fix)],
        Err(error) => vec![Problem::new(
            format!("the database cannot be used: {error}"),
            "check DATABASE_URL, that the server runs, and that it accepts connections from this address",
        )],
    }
}

/// Rows with ids far beyond the sequence. They do not hinder this worker.
pub(super) async fn far_ids(database: &Database) -> Result<Vec<Problem>, StoreError> {
    let rows: Result<Vec<IdsRow>, StoreError> =
        on_single!(database, database.acquire(), CHECK_TIMEOUT, "read the ids", |connection, keeps| {
            sqlx::query_as(CHECK_IDS).persistent(keeps).fetch_all(connection)
        });
    Ok(rows?.into_iter().filter_map(IdsRow::far).collect())
}

async fn inspect_tables(database: &Database, extent: Extent) -> Result<Vec<Problem>, StoreError> {
    let looked: Result<_, StoreError> =
        on_connection!(database, database.acquire(), CHECK_TIMEOUT, "inspect the tables", |connection, keeps| async {
            look_around(connection, database, extent, keeps).await
        });
    let mut problems = looked?;
    if database.has_pooler() {
        let what = "a pooler or proxy shares the connections to the server among its clients: prepared statements are \
                    not kept, and every start has to detect that again";
        problems.push(Problem::doubt(what, "DB_STATEMENT_CACHE=0, or ?pgbouncer=true in DATABASE_URL"));
    }
    Ok(problems)
}

async fn look_around(
    connection: &mut PgConnection,
    database: &Database,
    extent: Extent,
    keeps: bool,
) -> Result<Vec<Problem>, sqlx::Error> {
    let mut transaction = connection.begin_with(AssertSqlSafe(begin())).await?;
    let server: ServerRow = sqlx::query_as(CHECK_SERVER).persistent(keeps).fetch_one(&mut *transaction).await?;
    let mut problems = server.problems(database.pool.options().get_max_connections());
    let schema = schema_problem(&mut transaction, keeps).await?;
    if let Some(problem) = schema {
        problems.push(problem);
        transaction.rollback().await?;
        return Ok(problems);
    }
    let (there, mut missing): (Vec<_>, Vec<_>) =
        read_tables(&mut transaction, extent, keeps).await?.into_iter().partition(|row| row.is_there);
    let places = places::of_contract(&mut transaction, keeps).await?;
    if let Some(elsewhere) = places::elsewhere(&places) {
        // A table in another schema is not missing, and must not be created again.
        missing.retain(|row| row.name.contains('.'));
        problems.push(elsewhere);
    }
    problems.extend(places::second_set(&places));
    let may_read_list = there.iter().all(|row| row.name != LIST || row.missing_rights.is_empty());
    let made = if may_read_list { migrate::state(&mut transaction, keeps).await? } else { migrate::State::Whole };
    match made {
        migrate::State::Partly => {
            problems.push(unmade(&missing, migrate::rights_problem(&mut transaction, keeps).await?));
        }
        migrate::State::Whole => problems.extend(missing.iter().map(dropped)),
        migrate::State::ByNewer(version) => {
            problems.extend(missing.iter().map(dropped));
            problems.push(Problem::doubt(
                format!("the tables were created by a newer version of this program (migration {version})"),
                "update this program; migrations only add, so it keeps working meanwhile",
            ));
        }
    }
    problems.extend(there.into_iter().flat_map(TableRow::problems));
    problems.extend(hidden_rows(&mut transaction, extent, keeps).await?);
    if is_fit(&problems) {
        let ids: Vec<IdsRow> = sqlx::query_as(CHECK_IDS).persistent(keeps).fetch_all(&mut *transaction).await?;
        problems.extend(ids.into_iter().filter_map(IdsRow::problem));
    }
    transaction.commit().await?;
    // The trial would fail for the same reason, and say so less clearly.
    if is_fit(&problems) {
        let refused = trial::of_run(connection, extent, keeps).await?;
        problems.extend(refused.iter().map(|refused| refusal(refused, &server.role)));
    }
    Ok(problems)
}

fn begin() -> String {
    format!("BEGIN; SELECT set_config('statement_timeout', '{}ms', true)", STATEMENT_TIMEOUT.as_millis())
}

pub(super) fn is_fit(problems: &[Problem]) -> bool {
    problems.iter().all(|problem| !problem.is_certain)
}

/// The problem when a run could not read its tables.
pub(super) fn unreadable(error: &StoreError) -> Problem {
    let fix = match error {
        StoreError::NotAllowed { fix, .. } => fix.clone(),
        _ => "see that role and database have no settings in the way (statement_timeout, lock_timeout, row_security)"
            .to_owned(),
    };
    Problem::new(format!("a run would fail: {error}"), fix)
}

/// The problems that the trial met.
fn refusal(refused: &trial::Refused, role: &str) -> Problem {
    let error = &refused.error;
    let what = format!("the database refuses {}: {}", refused.what, errors::described(error));
    let code = errors::code(error).unwrap_or_default();
    let is_in_the_way = matches!(errors::trouble(error), Trouble::Conflict | Trouble::TakenId);
    if is_in_the_way || matches!(code.as_str(), "55P03" | "57014") {
        return Problem::doubt(
            what,
            "somebody holds a lock, or wrote at the same moment: check again, and see pg_stat_activity",
        );
    }
    let of = |name: fn(&PgDatabaseError) -> Option<&str>| {
        let database = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
        database.and_then(name).map(str::to_owned)
    };
    let (table, column, constraint) =
        (of(PgDatabaseError::table), of(PgDatabaseError::column), of(PgDatabaseError::constraint));
    let fix = match (code.as_str(), table, column, constraint) {
        ("23502", Some(table), Some(column), _) => {
            format!("give {table}.{column} a default, or: ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL;")
        }
        ("23514", Some(table), _, None) => {
            format!("create the partition for new rows, or: CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT;")
        }
        ("23503" | "23514" | "23505" | "23P01", Some(table), _, Some(constraint)) => format!(
            "change what {constraint} of {table} asks for, or: ALTER TABLE {table} DROP CONSTRAINT {constraint};"
        ),
        // Before version 14 this error had the code of a wrong statement.
        ("428C9" | "42601", ..) => {
            "make it an ordinary column: ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION;".to_owned()
        }
        ("42501", ..) => errors::grants(error, role),
        _ => "fix what the message names (a trigger, a rule, a type, a view in the place of a table)".to_owned(),
    };
    Problem::new(what, fix)
}

/// Tables that silently hide rows from this role (row security).
async fn hidden_rows(connection: &mut PgConnection, extent: Extent, keeps: bool) -> Result<Vec<Problem>, sqlx::Error> {
    let hidden: Vec<(String, bool, String)> = sqlx::query_as(ROW_SECURITY)
        .persistent(keeps)
        .bind(tables(extent).iter().map(|(table, ..)| *table).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let problem = |(table, has_policy, role): (String, bool, String)| {
        let what = if has_policy {
            format!("row level security is on for {table}: {role} sees and writes only what policies allow")
        } else {
            format!("row level security is on for {table}, and no policy is for {role}: it sees no rows")
        };
        Problem { is_certain: !has_policy, ..Problem::new(what, errors::policy(&table, &role)) }
    };
    Ok(hidden.into_iter().map(problem).collect())
}

fn unmade(missing: &[TableRow], grants: Option<String>) -> Problem {
    let what = if missing.is_empty() {
        "not every migration has run".to_owned()
    } else {
        let names: Vec<&str> = missing.iter().map(|row| row.name.as_str()).collect();
        format!("some of its tables are missing ({} missing)", names.join(", "))
    };
    let fix = match grants {
        None => "refresh-worker migrate".to_owned(),
        Some(grants) => format!("{grants} then: refresh-worker migrate"),
    };
    Problem::new(what, fix)
}

fn dropped(row: &TableRow) -> Problem {
    let fix = "restore it from a backup: migrate creates each table only once";
    Problem::new(format!("table {} is gone", row.name), fix)
}

/// The problem of a role that may not use our schema. Nothing more can be checked then.
async fn schema_problem(connection: &mut PgConnection, keeps: bool) -> Result<Option<Problem>, sqlx::Error> {
    let grant: Option<String> = sqlx::query_scalar(
        "SELECT format('GRANT USAGE ON SCHEMA refresh_worker TO %I;', current_user) FROM pg_namespace \
         WHERE nspname = 'refresh_worker' AND NOT has_schema_privilege(oid, 'USAGE')",
    )
    .persistent(keeps)
    .fetch_optional(connection)
    .await?;
    Ok(grant.map(|grant| Problem::new("the role may not use the schema refresh_worker", grant)))
}

async fn read_tables(connection: &mut PgConnection, extent: Extent, keeps: bool) -> Result<Vec<TableRow>, sqlx::Error> {
    let tables = tables(extent);
    let columns =
        || tables.iter().flat_map(|(table, columns, _)| columns.split(' ').map(move |column| (*table, column)));
    let (of, names): (Vec<&str>, Vec<&str>) = columns().unzip();
    sqlx::query_as(CHECK_TABLES)
        .persistent(keeps)
        .bind(&of)
        .bind(&names)
        .bind(of.iter().zip(&names).map(|(table, column)| holds(table, column)).collect::<Vec<_>>())
        .bind(tables.iter().map(|(table, ..)| *table).collect::<Vec<_>>())
        .bind(tables.iter().map(|(table, _, of_runs)| rights(table, of_runs, extent)).collect::<Vec<_>>())
        .bind(tables.iter().map(|(table, ..)| key(table)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}
