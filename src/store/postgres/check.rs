//! What stands in the way of working with a database, found without changing anything.

use sqlx::{Connection, FromRow, PgConnection};

use super::{
    STATEMENT_TIMEOUT,
    connect::{Database, on_connection},
    migrate,
};
use crate::store::StoreError;

/// Something that has to be mended, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    /// A statement to run, or a sentence.
    pub remedy: String,
    /// Whether it stands in the way in any case; else somebody has to judge.
    pub is_certain: bool,
}

impl Problem {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), is_certain: true }
    }
}

const ROW_SECURITY: &str = include_str!("../sql/postgres/row_security.sql");

const CHECK_TABLES: &str = include_str!("../sql/postgres/check_tables.sql");

/// The list of migrations that have run.
const LIST: &str = "refresh_worker.migrations";

const CONTRACT_RIGHTS: &str = "SELECT,INSERT,UPDATE";

/// Every table we use: name, columns, rights.
const TABLES: [(&str, &str, &str); 12] = [
    ("clans", "tag data updated_at deep_link", CONTRACT_RIGHTS),
    ("players", "tag name town_hall role clan_tag updated_at data deep_link", CONTRACT_RIGHTS),
    ("clan_snapshots", "id ts clan_tag name member_count level war_wins war_losses data", CONTRACT_RIGHTS),
    (
        "player_snapshots",
        "id ts player_tag clan_tag name role town_hall trophies donations donations_received war_attacks_used \
         last_seen data",
        CONTRACT_RIGHTS,
    ),
    ("war_snapshots", "id ts clan_tag data", CONTRACT_RIGHTS),
    ("clan_memberships", "id player_tag clan_tag joined_at left_at", CONTRACT_RIGHTS),
    (LIST, "version name", "SELECT"),
    (
        "refresh_worker.refresh_state",
        "kind tag fetched_at changed_at content_hash fresh_until last_outcome snapshot_id member_at attacks_at league",
        CONTRACT_RIGHTS,
    ),
    (
        "refresh_worker.refresh_runs",
        "run started ended stopped_because error processed failed api_requests report",
        "SELECT,INSERT,UPDATE,DELETE",
    ),
    ("refresh_worker.run_errors", "run place object started text", "SELECT"),
    ("refresh_worker.retention_progress", "snapshot_table thinned_until noted_at", CONTRACT_RIGHTS),
    ("refresh_worker.untold", "note stored_at words", "SELECT,INSERT,DELETE"),
];

#[derive(FromRow)]
struct TableRow {
    name: String,
    is_there: bool,
    role: String,
    missing_columns: Vec<String>,
    missing_rights: Vec<String>,
    has_ids: bool,
    sequence: Option<String>,
    missing_sequence_rights: Vec<String>,
}

impl TableRow {
    /// Of a table that is there.
    fn problems(self) -> Vec<Problem> {
        let Self { name, role, .. } = self;
        let mut problems = Vec::new();
        if !self.missing_columns.is_empty() {
            let columns = self.missing_columns.join(", ");
            let remedy = "bring the table to the shape the other programs use (their migrations)";
            problems.push(Problem::new(format!("table {name} lacks {columns}"), remedy));
        }
        if !self.missing_rights.is_empty() {
            let rights = self.missing_rights.join(", ");
            let remedy = format!("GRANT {rights} ON {name} TO {role};");
            problems.push(Problem::new(format!("{role} lacks {rights} on {name}"), remedy));
        }
        if let (true, None) = (self.has_ids, &self.sequence) {
            let remedy = "give the column its default nextval(...) back";
            problems.push(Problem::new(format!("{name}.id takes its ids from no sequence"), remedy));
        }
        if let (Some(sequence), false) = (&self.sequence, self.missing_sequence_rights.is_empty()) {
            let rights = self.missing_sequence_rights.join(", ");
            let remedy = format!("GRANT {rights} ON SEQUENCE {sequence} TO {role};");
            problems.push(Problem::new(format!("{role} lacks {rights} on {sequence}"), remedy));
        }
        problems
    }
}

pub(super) async fn problems(database: &Database) -> Vec<Problem> {
    match look(database).await {
        Ok(problems) => problems,
        Err(StoreError::NotAllowed { detail, remedy, .. }) => vec![Problem::new(detail, remedy)],
        Err(error) => vec![Problem::new(
            format!("the database cannot be used: {error}"),
            "see that DATABASE_URL is right and that the server runs and lets this address in",
        )],
    }
}

async fn look(database: &Database) -> Result<Vec<Problem>, StoreError> {
    let looked: Result<_, StoreError> =
        on_connection!(database, database.acquire(), STATEMENT_TIMEOUT, "look around", |connection, keeps| async {
            let server = database.look(connection).await?;
            Ok((server, look_around(connection, keeps).await?))
        });
    let (server, mut problems) = looked?;
    if let Some((what, remedy)) = server.problem() {
        problems.insert(0, Problem::new(what, remedy));
    }
    if database.has_pooler() {
        let what = "a pooler or proxy shares the connections to the server among its clients: prepared statements are \
                    not kept, and every start finds that out anew";
        let remedy = "DB_STATEMENT_CACHE=0, or ?pgbouncer=true in DATABASE_URL";
        problems.push(Problem { is_certain: false, ..Problem::new(what, remedy) });
    }
    Ok(problems)
}

async fn look_around(connection: &mut PgConnection, keeps: bool) -> Result<Vec<Problem>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut problems = Vec::new();
    let schema = schema_problem(&mut transaction, keeps).await?;
    if let Some(problem) = schema {
        problems.push(problem);
        transaction.rollback().await?;
        return Ok(problems);
    }
    let (there, missing): (Vec<_>, Vec<_>) =
        read_tables(&mut transaction, keeps).await?.into_iter().partition(|row| row.is_there);
    let may_read_list = there.iter().all(|row| row.name != LIST || row.missing_rights.is_empty());
    if may_read_list && !migrate::is_done(&mut transaction, keeps).await? {
        problems.push(unmade(&missing, migrate::rights_problem(&mut transaction, keeps).await?));
    } else {
        problems.extend(missing.iter().map(dropped));
    }
    problems.extend(there.into_iter().flat_map(TableRow::problems));
    problems.extend(hidden_rows(&mut transaction, keeps).await?);
    transaction.commit().await?;
    Ok(problems)
}

/// Tables whose rows are hidden from us, all or some, without a word.
async fn hidden_rows(connection: &mut PgConnection, keeps: bool) -> Result<Vec<Problem>, sqlx::Error> {
    let hidden: Vec<(String, bool, String)> = sqlx::query_as(ROW_SECURITY)
        .persistent(keeps)
        .bind(TABLES.iter().map(|(table, ..)| *table).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let problem = |(table, has_policy, role): (String, bool, String)| {
        let what = if has_policy {
            format!("row level security is on for {table}: {role} sees and writes only what policies allow")
        } else {
            format!("row level security is on for {table}, and no policy is for {role}: every row is hidden from it")
        };
        Problem { is_certain: !has_policy, ..Problem::new(what, format!("ALTER ROLE {role} BYPASSRLS;")) }
    };
    Ok(hidden.into_iter().map(problem).collect())
}

fn unmade(missing: &[TableRow], grants: Option<String>) -> Problem {
    let names: Vec<&str> = missing.iter().map(|row| row.name.as_str()).collect();
    let what = format!("not all of its tables have been made ({} missing)", names.join(", "));
    let remedy = match grants {
        None => "refresh-worker migrate".to_owned(),
        Some(grants) => format!("{grants} then: refresh-worker migrate"),
    };
    Problem::new(what, remedy)
}

fn dropped(row: &TableRow) -> Problem {
    let remedy = "restore it: it was made once, and migrate makes nothing twice";
    Problem::new(format!("table {} is gone", row.name), remedy)
}

/// Without the right to look into our schema nothing more can be found out.
async fn schema_problem(connection: &mut PgConnection, keeps: bool) -> Result<Option<Problem>, sqlx::Error> {
    let grant: Option<String> = sqlx::query_scalar(
        "SELECT format('GRANT USAGE ON SCHEMA refresh_worker TO %I;', current_user) FROM pg_namespace \
         WHERE nspname = 'refresh_worker' AND NOT has_schema_privilege(oid, 'USAGE')",
    )
    .persistent(keeps)
    .fetch_optional(connection)
    .await?;
    Ok(grant.map(|grant| Problem::new("the role may not look into the schema refresh_worker", grant)))
}

async fn read_tables(connection: &mut PgConnection, keeps: bool) -> Result<Vec<TableRow>, sqlx::Error> {
    let columns =
        || TABLES.iter().flat_map(|(table, columns, _)| columns.split(' ').map(move |column| (*table, column)));
    let (of, names): (Vec<&str>, Vec<&str>) = columns().unzip();
    sqlx::query_as(CHECK_TABLES)
        .persistent(keeps)
        .bind(of)
        .bind(names)
        .bind(TABLES.iter().map(|(table, ..)| *table).collect::<Vec<_>>())
        .bind(TABLES.iter().map(|(.., rights)| *rights).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}
