//! What a database error means for a commit, and how it is told.

use std::borrow::Cow;

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::StoreError;
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
    if code == "53300" {
        detail.extend(["; ", limit_reached(&**database)]);
    }
    if code == "42501" {
        let remedy = "GRANT USAGE ON SCHEMA refresh_worker TO the_role; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL \
                      TABLES IN SCHEMA public, refresh_worker TO the_role; GRANT USAGE, SELECT, UPDATE ON ALL \
                      SEQUENCES IN SCHEMA public TO the_role; (`check` says exactly which)";
        return StoreError::NotAllowed { server, action, detail, remedy: remedy.to_owned() };
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

/// Why a record is refused.
pub(super) fn reason(error: &sqlx::Error) -> Reason {
    let detail = match error {
        sqlx::Error::Database(database) => describe(&**database),
        other => other.to_string(),
    };
    Reason::new("refused_by_database", detail)
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
