//! SQLite's errors as errors of the store.

use crate::store::StoreError;

/// Primary result codes of SQLite, as <https://sqlite.org/rescode.html> lists them.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const MISMATCH: i32 = 20;
    pub(super) const AUTH: i32 = 23;
}

/// The primary result code, when SQLite itself refused.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// True when the error lies in the record itself: SQLite refused its values, and would refuse them again.
pub(super) fn hurts_only_the_record(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(code::TOOBIG | code::CONSTRAINT | code::MISMATCH))
}

pub(super) fn store_error(server: &str, action: &'static str, error: &sqlx::Error) -> StoreError {
    let server = server.to_owned();
    let detail = error.to_string();
    match (primary_code(error), error) {
        (Some(code::PERM | code::READONLY | code::AUTH), _) => StoreError::NotAllowed {
            fix: format!("make {server} and its folder writable for this user"),
            server,
            action,
            detail,
        },
        // Another program has the file; it may be free later.
        (Some(code::BUSY | code::LOCKED | code::CANTOPEN), _)
        | (
            None,
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed,
        ) => StoreError::Unreachable { server, detail },
        _ => StoreError::Failed { server, action, detail },
    }
}
