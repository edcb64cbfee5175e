//! What a database error means for a commit, and how it is told.

use std::borrow::Cow;

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::{StoreError, check::TABLES};
use crate::model::Reason;

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Others were in the way, or we were in theirs: the whole again.
    Conflict,
    /// Somebody else took an id: step the sequence and the whole again, a few times. Never a record's fault.
    TakenId,
    /// Somebody else took something unique, such as a time: look again and the whole again, a few times.
    Taken,
    /// The database as a whole cannot store now, whatever the record.
    Store,
    /// It may be one record's fault: one by one.
    Record,
}

pub(super) fn trouble(error: &sqlx::Error) -> Trouble {
    let Some(code) = code(error) else { return Trouble::Store };
    match code.as_str() {
        // 25P03: our process stood still in the middle, and the server did not let it keep its locks.
        "40001" | "40P01" | "25P03" => Trouble::Conflict,
        "23505" if constraint(error).is_some_and(|name| name.ends_with("_pkey")) => Trouble::TakenId,
        "23505" => Trouble::Taken,
        _ => match &code[..2.min(code.len())] {
            // Data exceptions, other constraints, limits, a trigger's refusal, and whatever we never thought of.
            "22" | "23" | "54" | "P0" | "XX" | "21" | "44" => Trouble::Record,
            // Connection, transaction state, rights, names, resources, operator, system.
            _ => Trouble::Store,
        },
    }
}

fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// Whether the connection is of no more use.
pub(super) fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.code().is_some_and(|code| is_outage(&code)),
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => false,
        _ => true,
    }
}

/// Server codes that mean it is not there, or not now: connection lost, shut down or starting, too many connections, a
/// statement or lock that took too long, a standby.
fn is_outage(code: &str) -> bool {
    (code.starts_with("08") && code != "08P01")
        || matches!(code, "57P01" | "57P02" | "57P03" | "53300" | "25P03" | "25006")
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
    let detail = describe(&**database);
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
    StoreError::Failed { server, action, detail }
}

/// What would give the role the right that it lacks, as far as the error names what it is about.
pub(super) fn grants(error: &sqlx::Error, role: &str) -> String {
    let Some(database) = error.as_database_error() else { return String::new() };
    let words: Vec<&str> = database.message().split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let mentions = |name: &str| words.contains(&name);
    let bare = |table: &'static str| table.rsplit('.').next().unwrap_or(table);
    let table = TABLES.iter().find(|(table, ..)| mentions(bare(table)));
    // The message may be in any language, the routine is not.
    let routine = database.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::routine);
    match table {
        Some((table, ..)) if routine == Some("ExecWithCheckOptions") => policy(table, role),
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

/// The error as it is told.
pub(super) fn told(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => describe(&**database),
        other => other.to_string(),
    }
}

/// Why a record is refused.
pub(super) fn reason(error: &sqlx::Error) -> Reason {
    Reason::new("refused_by_database", told(error))
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
