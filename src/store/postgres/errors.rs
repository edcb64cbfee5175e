//! Database errors: their meaning for a commit, and their text.

use std::borrow::Cow;

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::{
    StoreError,
    tables::{Extent, tables},
};
use crate::{
    model::Reason,
    store::plan::refusals::{Blame, Fault},
};

/// The class of a failed attempt, which decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A conflict with other transactions: try the whole batch again.
    Conflict,
    /// Another program took an id: step the sequence and try the whole batch again, a few times. Never a record's fault.
    TakenId,
    /// Another program took a unique value, such as a time: try the whole batch again, a few times.
    Taken,
    /// Another session held a lock for too long: commit in parts, to get past it.
    Locked,
    /// A statement took too long: commit in smaller parts.
    TooSlow,
    /// The database as a whole cannot store anything now.
    Store,
    /// It may be one record's fault: commit in parts, to find it.
    Record,
}

pub(super) fn trouble(error: &sqlx::Error) -> Trouble {
    let Some(code) = code(error) else {
        // Some object's row has a value that cannot be read.
        let is_unreadable = matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
        return if is_unreadable { Trouble::Record } else { Trouble::Store };
    };
    match code.as_str() {
        // 25P03: our process was frozen within the transaction, and the server took its locks away.
        "40001" | "40P01" | "25P03" => Trouble::Conflict,
        // The primary keys of the shared tables are their ids.
        "23505" if constraint(error).is_some_and(|name| name.ends_with("_pkey")) => Trouble::TakenId,
        "23505" => Trouble::Taken,
        "55P03" => Trouble::Locked,
        "57014" => Trouble::TooSlow,
        // A trigger or a rule of a table may raise any code.
        _ if routine(error) == Some("exec_stmt_raise") => Trouble::Record,
        // A policy of row security refuses rows, not statements.
        "42501" if routine(error) == Some("ExecWithCheckOptions") => Trouble::Record,
        _ => match &code[..2.min(code.len())] {
            // A missing name, type or right: in our statements it affects all records, in another program's function only some.
            "42" if has_context(error) => Trouble::Record,
            // Connection, transaction state, statements lost by a pooler, rights, names, resources, operator, system.
            "08" | "25" | "26" | "28" | "34" | "3D" | "3F" | "40" | "42" | "53" | "57" | "58" => Trouble::Store,
            // Codes of other programs.
            _ => Trouble::Record,
        },
    }
}

fn postgres(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// The routine in the server's source. Unlike messages it is never translated.
fn routine(error: &sqlx::Error) -> Option<&str> {
    postgres(error)?.routine()
}

/// True when the error arose within a function or a rule.
fn has_context(error: &sqlx::Error) -> bool {
    postgres(error).is_some_and(|error| error.r#where().is_some())
}

/// The columns that commits write, of all tables. Any other column belongs to another program.
const OUR_COLUMNS: [&str; 32] = [
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
    "stored_at",
    "payload",
];

/// The fault for an error that a single record met. `is_broken`: its document is not JSON.
pub(super) fn fault(error: &sqlx::Error, is_broken: bool) -> Fault {
    let reason = reason(error);
    let Some(code) = code(error) else {
        return Fault { blame: Blame::Either, signature: "unreadable".to_owned(), reason };
    };
    let [table, column, constraint] = postgres(error)
        .map_or([None; 3], |error| [error.table(), error.column(), error.constraint()])
        .map(Option::unwrap_or_default);
    let blame = match code.as_str() {
        // Our statements cast documents, but triggers of others cast too.
        "22P02" | "22032" if is_broken => Blame::Record,
        // The sequence is exhausted.
        "2200H" => Blame::Table,
        // There is no partition for the row; such an error names no constraint.
        "23514" if constraint.is_empty() => Blame::Table,
        // A column of another program that must not be null.
        "23502" if !OUR_COLUMNS.contains(&column) => Blame::Table,
        // Internal errors of the server.
        code if code.starts_with("XX") => Blame::Table,
        _ => Blame::Either,
    };
    Fault { blame, signature: [&code, table, column, constraint].join("/"), reason }
}

/// The fix of the table, when the error shows it.
fn fix(error: &dyn DatabaseError) -> Option<String> {
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

/// True for codes of an outage: connection lost, server shutting down or starting, too many connections, idle transaction.
/// `connections.rs` decides what they mean for the connection.
fn is_outage(code: &str) -> bool {
    code.starts_with("08")
        || matches!(code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "53300" | "25P03" | "25P04")
}

/// True when the limit of connections is reached.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "53300")
}

/// The limit of connections that was reached. The server's routine shows it, since messages are translated.
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
                // 3 s is `ACQUIRE_TIMEOUT` in `connect.rs`.
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
        let fix = format!("{} (`check` says exactly which)", grants(error, "the_role"));
        return StoreError::NotAllowed { server, action, detail, fix };
    }
    // A schema, table, column or function of ours is missing.
    let lacks_function = code == "42883" && detail.contains("refresh_worker.");
    if lacks_function || matches!(&*code, "3F000" | "42P01" | "42703") {
        let detail = format!("{detail}; to make what is missing, run `refresh-worker migrate` or the task `migrate`");
        return StoreError::Failed { server, action, detail };
    }
    // 57014 is a timeout, 55P03 a lock: both pass by themselves, as an outage does.
    if is_outage(&code) || matches!(&*code, "57014" | "55P03") {
        return StoreError::Unreachable { server, detail };
    }
    let detail = match fix(&**database) {
        Some(fix) => format!("{detail}. Fix: {fix}"),
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

/// The table of ours that a message names, if any.
fn table_in(message: &str) -> Option<&'static str> {
    let words = words(message);
    tables(Extent::ALL).into_iter().map(|(table, ..)| table).find(|table| words.contains(&bare(table)))
}

/// The statement that grants the missing right, as far as the error names the object.
pub(super) fn grants(error: &sqlx::Error, role: &str) -> String {
    let Some(database) = error.as_database_error() else { return String::new() };
    let words = words(database.message());
    let mentions = |name: &str| words.contains(&name);
    let table = tables(Extent::ALL).into_iter().find(|(table, ..)| mentions(bare(table)));
    match table {
        Some((table, ..)) if routine(error) == Some("ExecWithCheckOptions") => policy(table, role),
        Some((table, _, rights)) => format!("GRANT {} ON {table} TO {role};", rights.replace(',', ", ")),
        // The arbiter's function, where EXECUTE was taken from PUBLIC.
        None if mentions("wins") => format!("GRANT EXECUTE ON FUNCTION refresh_worker.wins TO {role};"),
        None => match words.iter().find(|word| word.ends_with("_seq")) {
            Some(sequence) => format!("GRANT USAGE, UPDATE ON SEQUENCE {sequence} TO {role};"),
            None if mentions("refresh_worker") => format!("GRANT USAGE ON SCHEMA refresh_worker TO {role};"),
            None => format!("grant {role} what the message names"),
        },
    }
}

/// The policy that lets a role read and write every row of a table.
pub(super) fn policy(table: &str, role: &str) -> String {
    format!("CREATE POLICY refresh_worker ON {table} TO {role} USING (true) WITH CHECK (true);")
}

/// The reason why a record is refused.
fn reason(error: &sqlx::Error) -> Reason {
    let fix = error.as_database_error().and_then(fix).map_or_else(String::new, |fix| format!(". Fix: {fix}"));
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

/// The message with its code, table and constraint. Never the row's values.
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
