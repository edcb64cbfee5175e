//! What a database error means for a commit, and how it is told.

use std::borrow::Cow;

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::{StoreError, check::TABLES};
use crate::{
    model::Reason,
    store::plan::refusals::{Blame, Fault},
};

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Others were in the way, or we were in theirs: the whole again.
    Conflict,
    /// Somebody else took an id: step the sequence and the whole again, a few times. Never a record's fault.
    TakenId,
    /// Somebody else took something unique, such as a time: look again and the whole again, a few times.
    Taken,
    /// Somebody else holds a lock that did not go in time: in parts, to go past it.
    Locked,
    /// A statement took too long: in smaller parts.
    TooSlow,
    /// The database as a whole cannot store now, whatever the record.
    Store,
    /// It may be one record's fault: in parts, to find it.
    Record,
}

pub(super) fn trouble(error: &sqlx::Error) -> Trouble {
    let Some(code) = code(error) else {
        // A value that cannot be read stands in the rows of some object.
        let is_unreadable = matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
        return if is_unreadable { Trouble::Record } else { Trouble::Store };
    };
    match code.as_str() {
        // 25P03: our process stood still in the middle, and the server did not let it keep its locks.
        "40001" | "40P01" | "25P03" => Trouble::Conflict,
        "23505" if constraint(error).is_some_and(|name| name.ends_with("_pkey")) => Trouble::TakenId,
        "23505" => Trouble::Taken,
        "55P03" => Trouble::Locked,
        "57014" => Trouble::TooSlow,
        // A rule of a table may give any code as its reason.
        _ if routine(error) == Some("exec_stmt_raise") => Trouble::Record,
        // What a policy of row security refuses is a row.
        "42501" if routine(error) == Some("ExecWithCheckOptions") => Trouble::Record,
        _ => match &code[..2.min(code.len())] {
            // A name, type or right that is missing: in our statements for all, in a function of somebody else for some.
            "42" if has_context(error) => Trouble::Record,
            // Connection, transaction state, statements that a pooler lost, rights, names, resources, operator, system.
            "08" | "25" | "26" | "28" | "34" | "3D" | "3F" | "40" | "42" | "53" | "57" | "58" => Trouble::Store,
            // Whatever others thought of.
            _ => Trouble::Record,
        },
    }
}

fn postgres(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// The place in the server's source. Messages are translated, this is not.
fn routine(error: &sqlx::Error) -> Option<&str> {
    postgres(error)?.routine()
}

/// Whether it arose within a function or a rule.
fn has_context(error: &sqlx::Error) -> bool {
    postgres(error).is_some_and(|error| error.r#where().is_some())
}

/// The columns that commits write, of all tables. Any other column is somebody else's.
const OUR_COLUMNS: [&str; 33] = [
    "tag",
    "data",
    "updated_at",
    "deep_link",
    "name",
    "town_hall",
    "role",
    "clan_tag",
    "ts",
    "member_count",
    "level",
    "war_wins",
    "war_losses",
    "player_tag",
    "trophies",
    "donations",
    "donations_received",
    "war_attacks_used",
    "last_seen",
    "joined_at",
    "left_at",
    "kind",
    "fetched_at",
    "changed_at",
    "content_hash",
    "fresh_until",
    "last_outcome",
    "league",
    "member_at",
    "attacks_at",
    "note",
    "stored_at",
    "words",
];

/// Whose fault an error is that one record met alone; `is_broken`: its document is not JSON.
pub(super) fn fault(error: &sqlx::Error, is_broken: bool) -> Fault {
    let reason = reason(error);
    let Some(code) = code(error) else {
        return Fault { blame: Blame::Either, signature: "unreadable".to_owned(), reason };
    };
    let [table, column, constraint] = postgres(error)
        .map_or([None; 3], |error| [error.table(), error.column(), error.constraint()])
        .map(Option::unwrap_or_default);
    let blame = match code.as_str() {
        // Documents are cast to a type, but rules of others cast, too.
        "22P02" | "22032" if is_broken => Blame::Record,
        // A sequence that is used up.
        "2200H" => Blame::Table,
        // No partition for the row, for which there is no constraint to name.
        "23514" if constraint.is_empty() => Blame::Table,
        "23502" if !OUR_COLUMNS.contains(&column) => Blame::Table,
        // Whatever is broken inside the server.
        code if code.starts_with("XX") => Blame::Table,
        _ => Blame::Either,
    };
    Fault { blame, signature: [&code, table, column, constraint].join("/"), reason }
}

/// What would fix the table, when that can be said.
fn remedy(error: &dyn DatabaseError) -> Option<String> {
    let code = error.code()?;
    let postgres = error.try_downcast_ref::<PgDatabaseError>()?;
    let table = postgres.table().unwrap_or("the table");
    match (&*code, postgres.column(), postgres.constraint()) {
        ("23502", Some(column), _) if !OUR_COLUMNS.contains(&column) => {
            Some(format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT ..., or DROP NOT NULL"))
        }
        ("23514", _, None) => Some(format!("create the missing partition of {table}, or a default partition")),
        ("23514", _, Some(constraint)) => Some(format!("see whether the constraint {constraint} of {table} is meant")),
        ("2200H", ..) => {
            Some("the ids of a table are used up: give its id column and its sequence the type bigint".to_owned())
        }
        ("22P05", ..) => Some("the encoding of this database cannot hold the text: use a database in UTF8".to_owned()),
        ("42804" | "42883" | "42846", ..) => {
            Some("a column has a type that this worker does not know: `refresh-worker check` compares them".to_owned())
        }
        ("53100", ..) => Some("make room on the disk of the database".to_owned()),
        ("53200", ..) => Some("give the database more memory, or its sessions less work_mem".to_owned()),
        ("42501", ..) if postgres.routine() == Some("ExecWithCheckOptions") => {
            Some(policy(table_in(postgres.message()).unwrap_or(table), "the_role"))
        }
        ("P0001", ..) => Some("a trigger refuses what is written: see what it raises".to_owned()),
        _ => None,
    }
}

fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// Server codes that mean it is not there, or not now: connection lost, shut down or starting, too many connections, a
/// transaction that stood still for too long. `connections.rs` says what they mean for the connection.
fn is_outage(code: &str) -> bool {
    code.starts_with("08")
        || matches!(code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "53300" | "25P03" | "25P04")
}

/// True when there are as many connections as may be.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "53300")
}

/// Whose limit of connections was reached. Told by the place in the server's source, since messages are translated.
fn limit_reached(error: &dyn DatabaseError) -> &'static str {
    match error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::routine) {
        Some("InitializeSessionUserId") => "the limit of the role: ALTER ROLE ... CONNECTION LIMIT raises it",
        Some("CheckMyDatabase") => "the limit of the database: ALTER DATABASE ... CONNECTION LIMIT raises it",
        _ => "the limit of the server: its setting max_connections, less what it reserves",
    }
}

pub(super) fn store_error(server: &str, action: &'static str, error: &sqlx::Error) -> StoreError {
    let server = server.to_owned();
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                StoreError::Failed { server, action, detail: error.to_string() }
            }
            sqlx::Error::PoolTimedOut => {
                StoreError::Unreachable { server, detail: "all connections of the pool were busy for 3 s".to_owned() }
            }
            _ => StoreError::Unreachable { server, detail: error.to_string() },
        };
    };
    let code = database.code().unwrap_or_default();
    let mut detail = describe(&**database);
    if code == "25006" {
        let detail = format!("{detail}; the server is a standby or read-only");
        return StoreError::ReadOnly { server, is_standby: false, detail };
    }
    if code == "28P01" {
        // PostgreSQL says this of an unknown user, too.
        let detail = "wrong user name or password (28P01)".to_owned();
        return StoreError::Failed { server, action, detail };
    }
    if code == "53300" {
        detail.extend(["; ", limit_reached(&**database)]);
    }
    if code == "42501" {
        let remedy = format!("{} (`check` says exactly which)", grants(error, "the_role"));
        return StoreError::NotAllowed { server, action, detail, remedy };
    }
    // A schema, table or column that is not there.
    if matches!(&*code, "3F000" | "42P01" | "42703") {
        let detail = format!("{detail}; to make what is missing, run `refresh-worker migrate` or the task `migrate`");
        return StoreError::Failed { server, action, detail };
    }
    if is_outage(&code) || matches!(&*code, "57014" | "55P03") {
        return StoreError::Unreachable { server, detail };
    }
    let detail = match remedy(&**database) {
        Some(remedy) => format!("{detail}. Fix: {remedy}"),
        None => detail,
    };
    StoreError::Failed { server, action, detail }
}

fn words(message: &str) -> Vec<&str> {
    message.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect()
}

fn bare(table: &'static str) -> &'static str {
    table.rsplit('.').next().unwrap_or(table)
}

/// The table of ours that a message names.
fn table_in(message: &str) -> Option<&'static str> {
    let words = words(message);
    TABLES.iter().map(|(table, ..)| *table).find(|table| words.contains(&bare(table)))
}

/// What would give the role the right that it lacks, as far as the error names what it is about.
pub(super) fn grants(error: &sqlx::Error, role: &str) -> String {
    let Some(database) = error.as_database_error() else { return String::new() };
    let words = words(database.message());
    let mentions = |name: &str| words.contains(&name);
    let table = TABLES.iter().find(|(table, ..)| mentions(bare(table)));
    match table {
        Some((table, ..)) if routine(error) == Some("ExecWithCheckOptions") => policy(table, role),
        Some((table, _, rights)) => format!("GRANT {} ON {table} TO {role};", rights.replace(',', ", ")),
        None => match words.iter().find(|word| word.ends_with("_seq")) {
            Some(sequence) => format!("GRANT USAGE, UPDATE ON SEQUENCE {sequence} TO {role};"),
            None if mentions("refresh_worker") => format!("GRANT USAGE ON SCHEMA refresh_worker TO {role};"),
            None => format!("grant {role} what the message names"),
        },
    }
}

/// The policy with which a role sees and writes every row of a table.
pub(super) fn policy(table: &str, role: &str) -> String {
    format!("CREATE POLICY refresh_worker ON {table} TO {role} USING (true) WITH CHECK (true);")
}

/// Why a record is refused.
fn reason(error: &sqlx::Error) -> Reason {
    let fix = error.as_database_error().and_then(remedy).map_or_else(String::new, |fix| format!(". Fix: {fix}"));
    Reason::new("refused_by_database", described(error) + &fix)
}

pub(super) fn described(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => describe(&**database),
        other => other.to_string(),
    }
}

pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Cow::into_owned)
}

/// The message with its code and the table and constraint it is about. Never the row's values.
fn describe(error: &dyn DatabaseError) -> String {
    let code = error.code().unwrap_or_default();
    let mut text = format!("{} ({code}", error.message());
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        for (what, name) in [("table", error.table()), ("constraint", error.constraint()), ("column", error.column())] {
            if let Some(name) = name {
                text.extend([", ", what, " ", name]);
            }
        }
    }
    text.push(')');
    text
}
