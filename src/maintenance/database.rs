//! The database connections of the maintenance: transactions that end in time.
//!
//! Uses only settings and advisory locks of a transaction, so that poolers are fine.

use std::{io, time::Duration};

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use tokio::time::Instant;

use crate::{config::database_url, connections::Connections};

/// We wait this much longer for a reply than the server's own limit.
const REPLY_GRACE: Duration = Duration::from_secs(1);

/// The server's clock may end a statement this much earlier than ours.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// The longest limit that we set; the server accepts up to 24 days.
const MAX_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The pool, and the knowledge about its connections.
#[derive(Clone, Debug)]
pub struct Database {
    pub pool: PgPool,
    connections: Connections,
    /// Connections that functions of jobs leave free.
    kept_free: u32,
}

impl Database {
    #[must_use]
    pub const fn new(pool: PgPool, connections: Connections) -> Self {
        // One for the heartbeats of jobs.
        Self { pool, connections, kept_free: 1 }
    }

    /// The same, for maintenance beside a run that needs so many connections itself.
    #[must_use]
    pub fn beside(self, connections: u32) -> Self {
        Self { kept_free: self.kept_free + connections, ..self }
    }

    /// The functions of jobs that may run at a time.
    pub(super) fn functions_at_a_time(&self) -> usize {
        self.pool.options().get_max_connections().saturating_sub(self.kept_free).max(1) as usize
    }

    /// True when frequent statements may be kept prepared: not through a pooler that shares connections between transactions.
    #[must_use]
    pub fn keeps_statements(&self) -> bool {
        self.connections.keeps_statements()
    }

    /// [`within`]; an error that shows that connections cannot be trusted closes them.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        // Boxed: this large future would be a part of the run's future.
        Box::pin(within(limit, work)).await.inspect_err(|error| self.notice(error))
    }

    pub(super) fn notice(&self, error: &sqlx::Error) {
        self.connections.notice(error);
    }
}

/// Assumes a pooler, which is right in any case.
impl From<PgPool> for Database {
    fn from(pool: PgPool) -> Self {
        Self::new(pool, Connections::new("its address".to_owned(), false))
    }
}

/// The limit of a step that may take `longest` and has to be done by `until`.
pub(super) fn limited(longest: Duration, until: Instant) -> Duration {
    longest.min(until.saturating_duration_since(Instant::now()))
}

/// Begins a transaction whose statements the server ends after `limit` each.
pub(super) async fn begin(pool: &PgPool, limit: Duration) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    // 0 would mean no limit.
    let limit_ms = limit.min(MAX_LIMIT).as_millis().max(1);
    let begin =
        format!("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('statement_timeout', '{limit_ms}ms', true)");
    // Boxed, since opening a connection is a large future, and rare.
    Box::pin(pool.begin_with(AssertSqlSafe(begin))).await.map_err(|error| without_user(pool, error))
}

/// Removes the user's name from the error of a failed login: some people put the password in its place.
fn without_user(pool: &PgPool, error: sqlx::Error) -> sqlx::Error {
    let is_login =
        code(&error).is_some_and(|code| code.starts_with("28") || matches!(code.as_str(), "3D000" | "08P01"));
    if !is_login {
        return error;
    }
    let hidden = database_url::without_user(pool.connect_options().get_username(), &describe(&error));
    sqlx::Error::Configuration(hidden.into())
}

/// The work's result, or an error when the server does not reply soon after `limit`. A connection that is dropped then goes back
/// to the pool only if it still works.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    // The server ends the statement itself; this is for a server that does not respond.
    tokio::time::timeout(limit.min(MAX_LIMIT) + REPLY_GRACE, work).await.unwrap_or_else(|_| {
        let detail = format!("no response within {} ms", (limit.min(MAX_LIMIT) + REPLY_GRACE).as_millis());
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, detail)))
    })
}

/// True when our own deadline `until` ended the work. Another session may cancel a statement, too, and a function may have a limit
/// of its own.
pub(super) fn is_out_of_time(error: &sqlx::Error, until: Instant) -> bool {
    let is_cut_off = match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::TimedOut,
        error => code(error).is_some_and(|code| code == "57014"),
    };
    // Work that was cut off before `until` was cut off by somebody else.
    is_cut_off && Instant::now() + CLOCK_TOLERANCE >= until
}

/// The SQLSTATE of the error, such as `42P01` for a missing table.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

pub(super) fn is_missing_table(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "42P01")
}

/// The error in one line: message and code.
pub(super) fn describe(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(database) => match database.code() {
            Some(code) => format!("{} ({code})", database.message()),
            None => database.message().to_owned(),
        },
        None => error.to_string(),
    }
}

/// True when the server could not be reached, or refused the connection.
pub(super) fn is_unreachable(error: &sqlx::Error) -> bool {
    match code(error) {
        Some(code) => {
            code.starts_with("08")
                || code.starts_with("28")
                // Shutdown, crash, startup, and too many connections.
                || matches!(code.as_str(), "57P01" | "57P02" | "57P03" | "53300")
        }
        None => matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Configuration(_)
        ),
    }
}

/// A name quoted for SQL, with or without its schema.
pub(super) fn quoted(name: &str) -> String {
    // Lower case, as SQL does with names without quotation marks.
    let parts: Vec<String> =
        name.split('.').map(|part| format!("\"{}\"", part.to_lowercase().replace('"', "\"\""))).collect();
    parts.join(".")
}
