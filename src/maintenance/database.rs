//! The database, as what follows a run uses it: transactions that end in time.
//!
//! Only settings and advisory locks of a transaction, so that poolers are fine.

use std::{io, time::Duration};

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use tokio::time::Instant;

use crate::{config::database_url, connections::Connections};

/// How much longer than the server's own limit an answer is waited for.
const GRACE: Duration = Duration::from_secs(1);

/// How much earlier than our own clock the server's may say that the time is up.
const CLOCKS_DIFFER: Duration = Duration::from_millis(50);

/// The server knows no longer limit than 24 days.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The pool, and what is known about its connections.
#[derive(Clone, Debug)]
pub struct Database {
    pub pool: PgPool,
    connections: Connections,
}

impl Database {
    #[must_use]
    pub const fn new(pool: PgPool, connections: Connections) -> Self {
        Self { pool, connections }
    }

    /// True while a statement that is sent again and again may be kept prepared: not through a pooler that shares
    /// connections between transactions.
    #[must_use]
    pub fn keeps_statements(&self) -> bool {
        self.connections.keeps_statements()
    }

    /// [`within`], and an error that ends the trust in the connections does so.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        // Everything that follows a run is a part of the run's future.
        Box::pin(within(limit, work)).await.inspect_err(|error| self.notice(error))
    }

    pub(super) fn notice(&self, error: &sqlx::Error) {
        self.connections.notice(error);
    }
}

/// Right with and without a pooler.
impl From<PgPool> for Database {
    fn from(pool: PgPool) -> Self {
        Self { pool, connections: Connections::new("its address".to_owned(), false) }
    }
}

/// How long something that may take `longest` may take when all has to be done by `until`.
pub(super) fn limited(longest: Duration, until: Instant) -> Duration {
    longest.min(until.saturating_duration_since(Instant::now()))
}

/// Begins a transaction whose statements the server ends after `limit` each.
pub(super) async fn begin(pool: &PgPool, limit: Duration) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let limit_ms = limit.min(LONGEST).as_millis().max(1);
    let begin =
        format!("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('statement_timeout', '{limit_ms}ms', true)");
    // Making a connection is a large future, and rare.
    Box::pin(pool.begin_with(AssertSqlSafe(begin))).await.map_err(|error| without_user(pool, error))
}

/// A login that failed, without the user's name: some put the password in its place.
fn without_user(pool: &PgPool, error: sqlx::Error) -> sqlx::Error {
    let is_login =
        code(&error).is_some_and(|code| code.starts_with("28") || matches!(code.as_str(), "3D000" | "08P01"));
    if !is_login {
        return error;
    }
    let hidden = database_url::without_user(pool.connect_options().get_username(), &told(&error));
    sqlx::Error::Configuration(hidden.into())
}

/// The work's result, or an error when the server stays silent past `limit`, too. What is dropped then goes back to the
/// pool only if it still answers.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit.min(LONGEST) + GRACE, work).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {} ms", (limit.min(LONGEST) + GRACE).as_millis());
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, detail)))
    })
}

/// Whether it was we who ended it, since it is `until`. Somebody else may cancel a statement, too, and a function may have a
/// limit of its own.
pub(super) fn is_out_of_time(error: &sqlx::Error, until: Instant) -> bool {
    let is_cut_off = match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::TimedOut,
        error => code(error).is_some_and(|code| code == "57014"),
    };
    is_cut_off && Instant::now() + CLOCKS_DIFFER >= until
}

/// The code that the server gave, such as `42P01` for a table that is not there.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

pub(super) fn is_missing_table(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "42P01")
}

/// The error in one line: the message, and its code.
pub(super) fn told(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(database) => match database.code() {
            Some(code) => format!("{} ({code})", database.message()),
            None => database.message().to_owned(),
        },
        None => error.to_string(),
    }
}

/// Whether the server could not be asked at all.
pub(super) fn is_unreachable(error: &sqlx::Error) -> bool {
    match code(error) {
        Some(code) => {
            code.starts_with("08")
                || code.starts_with("28")
                || matches!(code.as_str(), "57P01" | "57P02" | "57P03" | "53300")
        }
        None => matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Configuration(_)
        ),
    }
}

/// A name as SQL takes it, with or without its schema.
pub(super) fn quoted(name: &str) -> String {
    // Names are lowered, as SQL does with names that have no quotation marks.
    let parts: Vec<String> =
        name.split('.').map(|part| format!("\"{}\"", part.to_lowercase().replace('"', "\"\""))).collect();
    parts.join(".")
}
