//! How the database is reached: the pool, and the test of its connections.

use std::{io, sync::Arc, time::Duration};

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use sqlx::{
    Connection, Executor, PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection, postgres::PgPoolOptions,
};

use super::{StoreError, address::Address, errors, limit::Limit};
use crate::config::DatabaseConfig;

/// How long a connection may be waited for, its making included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that takes longer than this is looked into: the pool keeps trying without saying why.
const DIAGNOSE_AFTER: Duration = Duration::from_millis(300);

/// How long a `SELECT 1` may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// The pool and what is needed to speak about it.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    /// `host:port/database`, for messages.
    pub(super) server: String,
    /// Whether prepared statements are kept. Poolers that share connections between transactions want none.
    pub(super) keeps_statements: bool,
    address: Arc<Address>,
}

impl Database {
    pub(super) fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let address = Address::read(config.url.expose_secret()).map_err(|detail| StoreError::Failed {
            server: "DATABASE_URL".to_owned(),
            action: "read the address",
            detail,
        })?;
        let keeps_statements = config.statement_cache > 0 && address.keeps_statements;
        let statement_cache = if keeps_statements { config.statement_cache } else { 0 };
        let options = address.options.clone().statement_cache_capacity(statement_cache).extra_float_digits(None);
        let (server, address) = (address.server.clone(), Arc::new(address));
        let of_new = Arc::clone(&address);
        // Tested by `ping` at the start of a run: testing at every use would cost a round trip each.
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let address = Arc::clone(&of_new);
                Box::pin(async move { address.verify(connection).await })
            })
            .connect_lazy_with(options);
        Ok(Self { pool, server, keeps_statements, address })
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        let acquired = tokio::select! {
            biased;
            acquired = self.pool.acquire() => acquired,
            error = self.diagnose() => Err(error),
        };
        acquired.map_err(|error| self.address.explained(errors::store_error(&self.server, "connect", &error)))
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
            Ok(mut connection) => {
                let verified = self.address.verify(&mut connection).await;
                let _ = connection.close().await;
                match verified {
                    Err(error) => error,
                    // The server is well, the pool is busy.
                    Ok(()) => std::future::pending().await,
                }
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
