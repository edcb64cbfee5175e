//! How the database is reached: the URL in every spelling in use, the pool, and the test of its connections.

use std::{io, time::Duration};

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use url::Url;

use super::{StoreError, errors, limit::Limit};
use crate::config::DatabaseConfig;

/// How long a connection may be waited for, its making included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that takes longer than this is looked into: the pool keeps trying without saying why.
const DIAGNOSE_AFTER: Duration = Duration::from_millis(300);

/// How long a `SELECT 1` may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// Parameters of the URL that mean the same here as for other programs. What else they put there is theirs.
const PARAMETERS: [&str; 16] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// The pool and what is needed to speak about it.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    /// `host:port/database`, for messages.
    pub(super) server: String,
    /// Whether prepared statements are kept. Poolers that share connections between transactions want none.
    pub(super) keeps_statements: bool,
}

impl Database {
    pub(super) fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let options = options(config.url.expose_secret()).map_err(|detail| StoreError::Failed {
            server: "DATABASE_URL".to_owned(),
            action: "read the address",
            detail,
        })?;
        let options = options.statement_cache_capacity(config.statement_cache).extra_float_digits(None);
        let server = server(&options);
        // Tested by `ping` at the start of a run: testing at every use would cost a round trip each.
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self { pool, server, keeps_statements: config.statement_cache > 0 })
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        let acquired = tokio::select! {
            biased;
            acquired = self.pool.acquire() => acquired,
            error = self.diagnose() => Err(error),
        };
        let connection = acquired.map_err(|error| errors::store_error(&self.server, "connect", &error))?;
        match too_old(connection.server_version_num()) {
            Some(detail) => Err(StoreError::Failed { server: self.server.clone(), action: "work", detail }),
            None => Ok(connection),
        }
    }

    /// The same, while there is time left.
    pub(super) async fn acquire_within(
        &self,
        limit: Limit,
        action: &'static str,
    ) -> Result<PoolConnection<Postgres>, StoreError> {
        let left = limit.left();
        if left.is_zero() {
            return Err(self.out_of_time(action));
        }
        tokio::time::timeout(left, self.acquire()).await.unwrap_or_else(|_| Err(self.out_of_time(action)))
    }

    /// What failed because its time was over says so, whatever it met last.
    pub(super) fn in_time<T>(
        &self,
        limit: Limit,
        action: &'static str,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        result.map_err(|error| if limit.left().is_zero() { self.out_of_time(action) } else { error })
    }

    fn out_of_time(&self, action: &'static str) -> StoreError {
        StoreError::OutOfTime { server: self.server.clone(), action }
    }

    /// Why a connection takes so long; ends only when there is a reason.
    async fn diagnose(&self) -> sqlx::Error {
        tokio::time::sleep(DIAGNOSE_AFTER).await;
        match PgConnection::connect_with(&self.pool.connect_options()).await {
            Err(error) => error,
            // The server is well, the pool is busy.
            Ok(connection) => {
                let _ = connection.close().await;
                std::future::pending().await
            }
        }
    }

    /// Tests the idle connections and drops those that do not answer; makes one when none is left.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let idle = std::iter::from_fn(|| self.pool.try_acquire());
        let answered = join_all(idle.map(async |mut connection| {
            let answers = select_one(&mut connection).await.is_ok();
            if !answers {
                discard(connection);
            }
            answers
        }));
        if answered.await.contains(&true) {
            return Ok(());
        }
        let mut connection = self.acquire().await?;
        let pinged = select_one(&mut connection).await;
        self.give_back(connection, pinged, "ping")
    }

    /// Ends the use of a connection. One that is in an unknown state does not go back to the pool.
    pub(super) fn give_back<T>(
        &self,
        connection: PoolConnection<Postgres>,
        result: Result<T, sqlx::Error>,
        action: &'static str,
    ) -> Result<T, StoreError> {
        result.map_err(|error| {
            if errors::is_connection_lost(&error) {
                discard(connection);
            }
            errors::store_error(&self.server, action, &error)
        })
    }
}

/// The oldest PostgreSQL that our statements are tested with, as the server tells its version.
const OLDEST: u32 = 130_000;

/// Why a server of this version cannot be used.
fn too_old(version: Option<u32>) -> Option<String> {
    let version = version.filter(|version| *version < OLDEST)?;
    // Before 10 the second number was a part of the name.
    let name = if version < 100_000 {
        format!("{}.{}", version / 10_000, version / 100 % 100)
    } else {
        (version / 10_000).to_string()
    };
    Some(format!("the server is PostgreSQL {name}, and this program needs 13 or newer: update the server"))
}

/// A connection for one statement. Through a pooler, which may prepare it on one server and run it on another, the statement is
/// in a transaction; else that would be two round trips for nothing.
pub(super) enum Single<'c> {
    Alone(&'c mut PgConnection),
    InTransaction(Transaction<'c, Postgres>),
}

impl<'c> Single<'c> {
    pub(super) async fn begin(connection: &'c mut PgConnection, keeps_statements: bool) -> Result<Self, sqlx::Error> {
        if keeps_statements {
            return Ok(Self::Alone(connection));
        }
        connection.begin().await.map(Self::InTransaction)
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Alone(connection) => connection,
            Self::InTransaction(transaction) => transaction,
        }
    }

    pub(super) async fn end(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Alone(_) => Ok(()),
            Self::InTransaction(transaction) => transaction.commit().await,
        }
    }
}

pub(super) fn discard(mut connection: PoolConnection<Postgres>) {
    connection.close_on_drop();
}

async fn select_one(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // As text without a prepared statement: right through any pooler.
    within(PING_TIMEOUT, connection.execute(sqlx::raw_sql("SELECT 1"))).await.map(drop)
}

/// The future's result, or the error of a connection that does not answer.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {} ms", limit.as_millis());
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, detail)))
    })
}

/// Reads `postgres://`, `postgresql://` and `postgresql+driver://`, as Python programs write it.
fn options(url: &str) -> Result<PgConnectOptions, String> {
    let (scheme, rest) =
        url.trim().split_once("://").ok_or("no `://` in it: expected postgres://user@host/database")?;
    let base = scheme.split('+').next().unwrap_or_default();
    if !matches!(base, "postgres" | "postgresql") {
        return Err("its scheme is unknown: expected postgres://, postgresql:// or postgresql+driver://".to_owned());
    }
    let mut url = Url::parse(&format!("postgres://{rest}")).map_err(|error| error.to_string())?;
    if url.path().contains('@') || url.fragment().is_some() {
        return Err(
            "a special character of the user or password is not percent-encoded (`/` is %2F, `#` %23)".to_owned()
        );
    }
    let known: Vec<(String, String)> = url.query_pairs().filter_map(|(key, value)| parameter(&key, &value)).collect();
    url.set_query(None);
    if !known.is_empty() {
        url.query_pairs_mut().extend_pairs(known);
    }
    let options = PgConnectOptions::from_url(&url).map_err(|error| error.to_string())?;
    let named = options.get_application_name().is_some();
    Ok(if named { options } else { options.application_name("refresh-worker") })
}

fn parameter(key: &str, value: &str) -> Option<(String, String)> {
    // What asyncpg calls sslmode.
    if key == "ssl" {
        let mode = match value {
            "true" | "1" => "require",
            "false" | "0" => "disable",
            other => other,
        };
        return Some(("sslmode".to_owned(), mode.to_owned()));
    }
    (PARAMETERS.contains(&key) || key.starts_with("options[")).then(|| (key.to_owned(), value.to_owned()))
}

/// Where it is, without user and password.
fn server(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    match options.get_socket() {
        Some(socket) => format!("{}/{database}", socket.display()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    #[test]
    fn every_spelling_of_the_url_reads_alike() {
        for scheme in ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"] {
            let options = options(&format!("{scheme}://me:p%40ss@db.example:6432/stats?sslmode=require&x=1")).unwrap();
            assert_eq!(server(&options), "db.example:6432/stats", "{scheme}");
            assert_eq!(options.get_username(), "me");
            assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
        }
    }

    #[test]
    fn servers_before_13_are_refused_by_name() {
        for (version, name) in [(120_022, "PostgreSQL 12,"), (90_624, "PostgreSQL 9.6,")] {
            let told = too_old(Some(version)).expect("too old");
            assert!(told.contains(name) && told.contains("13 or newer"), "{told}");
        }
        for version in [Some(130_000), Some(180_001), None] {
            assert_eq!(too_old(version), None);
        }
    }

    #[test]
    fn the_parameter_ssl_of_asyncpg_is_understood() {
        let read = options("postgresql+asyncpg://me@h/d?ssl=true&prepared_statement_cache_size=0").unwrap();
        assert!(matches!(read.get_ssl_mode(), PgSslMode::Require));
    }

    #[test]
    fn a_url_that_cannot_be_read_is_refused_without_showing_the_password() {
        for url in [
            "mysql://me:hush@h/d",
            "me:hush@h/d",
            "postgres://me:hush/hush@h/d",
            "postgres://me:hush#hush@h/d",
            "postgres://me:hush@h:hush/d",
            "postgres://me:hush@h/d?sslmode=sometimes",
        ] {
            let message = options(url).unwrap_err();
            assert!(!message.contains("hush") && !message.is_empty(), "{url}: {message}");
        }
    }
}
