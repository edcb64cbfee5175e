//! How the database is reached: the pool, and the test of its connections.

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use sqlx::{
    Connection, Executor, PgConnection, PgPool, Postgres, Row as _, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};

use super::{StoreError, address::Address, errors, limit::Limit};
use crate::{
    config::DatabaseConfig,
    connections::{Connections, Sign},
};

/// How long a connection may be waited for, its making included, while none of ours is at work.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one may be waited for while the others are at work: as long as the server lets a statement of theirs take.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server without a free connection is asked again, when we have none at all: less than a run's first act.
const FULL_TIMEOUT: Duration = Duration::from_millis(900);

/// How often those who wait for a new connection look for one that came free.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);

/// A connection that takes longer than this is looked into: the pool keeps trying without saying why.
const DIAGNOSE_AFTER: Duration = Duration::from_millis(300);

/// How long the look at a server may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// The youngest age at which connections are closed. A sandbox that lives for hours follows a name that moved, whatever
/// stands between it and the server.
const LIFETIME: Duration = Duration::from_secs(8 * 60);

/// Spreads the ends of the connections of processes that began together.
const LIFETIME_JITTER: Duration = Duration::from_secs(4 * 60);

/// A setting without a meaning to the server. It is there only when our startup parameters reached the session, so not
/// behind a pooler, which opens its connections itself.
const MARK: &str = "refresh_worker.session";

/// Without a prepared statement, so that it works through any pooler.
const LOOK: &str = "SELECT pg_is_in_recovery()::text, current_setting('transaction_read_only'), \
                    current_setting('refresh_worker.session', true)";

/// The pool and what is needed to speak about it.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    /// `host:port/database`, for messages.
    pub(super) server: String,
    pub(super) connections: Connections,
    address: Arc<Address>,
    mark: Mark,
    at_work: AtWork,
}

/// What [`MARK`] is set to, and the way to connect without it. `None` where no statement is kept, so that nobody need
/// know about poolers.
type Mark = Option<Arc<Marked>>;

struct Marked {
    value: String,
    unmarked: PgConnectOptions,
}

/// Without the options, which hold the password.
impl fmt::Debug for Marked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Marked").field("value", &self.value).finish_non_exhaustive()
    }
}

/// How many connections of the pool are at work, whoever took them: those that are being opened are not. The pool's own size
/// counts them, and a server that is down would seem to be at work.
#[derive(Clone, Debug, Default)]
struct AtWork(Arc<AtomicU32>);

impl AtWork {
    fn begins(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn ends(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    fn are_none(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// A connection of the pool, at work.
#[derive(Debug)]
pub(super) struct InUse {
    connection: PoolConnection<Postgres>,
    at_work: AtWork,
}

impl Deref for InUse {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for InUse {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// What a server is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Writable,
    Standby,
    ReadOnly,
}

impl Server {
    /// What keeps it from being written to, and what to do.
    pub(super) const fn problem(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Writable => None,
            Self::Standby => Some((
                "the server is a standby: it takes no writes",
                "point DATABASE_URL at the primary (the writer endpoint)",
            )),
            Self::ReadOnly => Some((
                "the server is read-only (default_transaction_read_only is on)",
                "providers set it when the disk is nearly full: free space, then set default_transaction_read_only back",
            )),
        }
    }
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
        let connections = Connections::new(server.clone(), keeps_statements);
        let mark: Mark = keeps_statements.then(|| {
            let value = format!("{:016x}", fastrand::u64(..));
            Arc::new(Marked { value, unmarked: options.clone() })
        });
        let marked = match &mark {
            Some(mark) => options.options([(MARK, &mark.value)]),
            None => options,
        };
        let (trusted, looked_at, expected) = (connections.clone(), connections.clone(), mark.clone());
        let at_work = AtWork::default();
        let (taken, opened, returned) = (at_work.clone(), at_work.clone(), at_work.clone());
        // Tested by `ping` at the start of a run: testing at every use would cost a round trip each.
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(LIFETIME + LIFETIME_JITTER.mul_f64(fastrand::f64()))
            .test_before_acquire(false)
            .before_acquire(move |_, connection| {
                let is_good = trusted.trusts(connection.age);
                if is_good {
                    taken.begins();
                }
                Box::pin(std::future::ready(Ok(is_good)))
            })
            .after_release(move |_, _| {
                returned.ends();
                Box::pin(std::future::ready(Ok(true)))
            })
            .after_connect(move |connection, _| {
                let (connections, mark, address) = (looked_at.clone(), expected.clone(), Arc::clone(&of_new));
                let at_work = opened.clone();
                // It belongs to opening, so it is not logged among the statements.
                Box::pin(
                    async move {
                        // Before the first statement is prepared. A connection that broke meanwhile is met by its user.
                        if connections.keeps_statements()
                            && let Err(error @ sqlx::Error::Database(_)) = look(connection, &connections, &mark).await
                        {
                            connections.stop_keeping(error);
                        }
                        address.verify(connection).await?;
                        at_work.begins();
                        Ok(())
                    }
                    .with_subscriber(NoSubscriber::new()),
                )
            })
            .connect_lazy_with(marked);
        Ok(Self { pool, server, connections, address, mark, at_work })
    }

    /// True while prepared statements are kept. Poolers that share connections between transactions want none.
    pub(super) fn keeps_statements(&self) -> bool {
        self.connections.keeps_statements()
    }

    pub(super) async fn acquire(&self) -> Result<InUse, StoreError> {
        // Making a connection is a large future.
        Box::pin(self.acquire_by(Instant::now() + BUSY_TIMEOUT)).await
    }

    /// The same, while there is time left.
    pub(super) async fn acquire_within(&self, limit: Limit, action: &'static str) -> Result<InUse, StoreError> {
        let left = limit.left();
        if left.is_zero() {
            return Err(self.out_of_time(action));
        }
        let acquired = Box::pin(self.acquire_by(Instant::now() + left.min(BUSY_TIMEOUT)));
        tokio::time::timeout(left, acquired).await.unwrap_or_else(|_| Err(self.out_of_time(action)))
    }

    async fn acquire_by(&self, until: Instant) -> Result<InUse, StoreError> {
        let (began, mut is_unmarked) = (Instant::now(), false);
        self.recount();
        loop {
            let acquired = tokio::select! {
                biased;
                acquired = self.pool.acquire() => acquired,
                error = self.diagnose() => Err(error),
                // The pool goes on with opening a new one even when another comes free.
                () = self.room() => continue,
            };
            let error = match acquired {
                Ok(connection) => {
                    return match too_old(connection.server_version_num()) {
                        Some(detail) => Err(StoreError::Failed { server: self.server.clone(), action: "work", detail }),
                        None => Ok(self.in_use(connection)),
                    };
                }
                Err(error) => error,
            };
            let is_full = errors::is_full(&error);
            let patience = match error {
                // Our own connections are at work, and one of them will come free.
                _ if (is_full || matches!(error, sqlx::Error::PoolTimedOut)) && self.at_work.is_any() => until,
                _ if is_full => until.min(began + FULL_TIMEOUT),
                // Another may have left it out meanwhile; this attempt still had it.
                _ if !is_unmarked && self.unmark(&error) => {
                    is_unmarked = true;
                    until
                }
                _ => began,
            };
            if Instant::now() >= patience {
                return Err(self.address.explained(errors::store_error(&self.server, "connect", &error)));
            }
            if is_full {
                tokio::time::sleep(ROOM_INTERVAL).await;
            }
        }
    }

    /// Forgets those at work when there are none: the pool closes one that is past its lifetime without a word to us.
    fn recount(&self) {
        if usize::try_from(self.pool.size()).is_ok_and(|all| all == self.pool.num_idle()) {
            self.at_work.are_none();
        }
    }

    /// A connection that is idle.
    pub(super) fn try_acquire(&self) -> Option<InUse> {
        let connection = self.pool.try_acquire()?;
        // The pool asks nobody whether this one may be taken.
        self.at_work.begins();
        Some(self.in_use(connection))
    }

    pub(super) fn in_use(&self, connection: PoolConnection<Postgres>) -> InUse {
        InUse { connection, at_work: self.at_work.clone() }
    }

    /// Returns when an idle connection is there, which whoever waits for a new one does not see.
    async fn room(&self) {
        loop {
            tokio::time::sleep(ROOM_INTERVAL).await;
            if self.pool.num_idle() > 0 {
                return;
            }
        }
    }

    /// Leaves our mark out when it may be what a new connection was refused for; `false` when it was not.
    fn unmark(&self, error: &sqlx::Error) -> bool {
        let refuses_startup = errors::code(error).is_some_and(|code| {
            code.starts_with("08") || matches!(code.as_str(), "0A000" | "22023" | "42704" | "XX000")
        });
        let Some(mark) = self.mark.as_deref().filter(|_| refuses_startup) else { return false };
        self.pool.set_connect_options(mark.unmarked.clone());
        self.connections.stop_keeping(format!("it refuses startup parameters: {error}"));
        true
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
        loop {
            tokio::time::sleep(DIAGNOSE_AFTER).await;
            // While our own connections work, the server is well, and one more could be one too many.
            if self.at_work.is_any() {
                continue;
            }
            match PgConnection::connect_with(&self.pool.connect_options()).await {
                Err(error) => return error,
                Ok(mut connection) => {
                    let verified = self.address.verify(&mut connection).await;
                    let _ = connection.close().await;
                    match verified {
                        Err(error) => return error,
                        // The server is well, the pool is busy.
                        Ok(()) => return std::future::pending().await,
                    }
                }
            }
        }
    }

    /// Tests the idle connections and drops those that do not answer or lead to a server that cannot be written to;
    /// makes one when none is left.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let are_suspect = self.connections.take_suspects();
        self.recount();
        let idle = std::iter::from_fn(|| self.try_acquire());
        let looks = join_all(idle.map(async |mut connection| {
            let is_good = !are_suspect && matches!(self.look(&mut connection).await, Ok(Server::Writable));
            if !is_good {
                discard(connection);
            }
            is_good
        }));
        if looks.await.contains(&true) {
            return Ok(());
        }
        // The name may lead to another server by now.
        let mut connection = self.acquire().await?;
        let looked = self.look(&mut connection).await;
        if !matches!(looked, Ok(Server::Writable)) {
            discard(connection);
        }
        match looked {
            Ok(server) => match server.problem() {
                None => Ok(()),
                Some((problem, fix)) => Err(StoreError::ReadOnly {
                    server: self.server.clone(),
                    is_standby: server == Server::Standby,
                    detail: format!("{problem}; {fix}"),
                }),
            },
            Err(error) => Err(errors::store_error(&self.server, "ping", &error)),
        }
    }

    /// Looks at the server behind a connection, in one round trip.
    pub(super) async fn look(&self, connection: &mut PgConnection) -> Result<Server, sqlx::Error> {
        within(PING_TIMEOUT, look(connection, &self.connections, &self.mark)).await
    }

    /// True when a pooler stands between us and the server, as far as we had to find out: where no statement is kept by
    /// the configuration, nobody need know.
    pub(super) fn has_pooler(&self) -> bool {
        self.mark.is_some() && !self.keeps_statements()
    }

    /// Ends the use of a connection by an error; `true` when the same is worth another try on a new connection.
    pub(super) fn notice(&self, connection: InUse, error: &sqlx::Error) -> bool {
        let sign = self.connections.notice(error);
        if sign.is_some() {
            discard(connection);
        }
        sign.is_some_and(Sign::is_worth_another)
    }
}

/// Does something on a connection of the pool, and once more on a new one when the first led to the wrong server or to
/// statements that are not ours. Within the work the connection and whether it keeps statements have the given names.
macro_rules! on_connection {
    ($database:expr, $acquire:expr, $timeout:expr, $action:expr, |$connection:ident, $keeps:ident| $work:expr) => {{
        let mut is_again = false;
        loop {
            let mut held = $acquire.await?;
            let $keeps = $database.keeps_statements();
            let done = {
                let $connection: &mut sqlx::PgConnection = &mut held;
                $crate::store::postgres::connect::within($timeout, $work).await
            };
            match done {
                Err(error) if $database.notice(held, &error) && !is_again => is_again = true,
                Err(error) => {
                    break Err($crate::store::postgres::errors::store_error(&$database.server, $action, &error));
                }
                Ok(answer) => break Ok(answer),
            }
        }
    }};
}
pub(super) use on_connection;

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

/// Closes a connection. The pool does so without a word to `after_release`.
pub(super) fn discard(mut held: InUse) {
    held.connection.close_on_drop();
    held.at_work.ends();
}

async fn look(connection: &mut PgConnection, connections: &Connections, mark: &Mark) -> Result<Server, sqlx::Error> {
    let row = connection.fetch_one(sqlx::raw_sql(LOOK)).await?;
    let (in_recovery, read_only): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let session: Option<String> = row.try_get(2)?;
    if mark.as_ref().is_some_and(|mark| session.as_ref() != Some(&mark.value)) {
        connections.stop_keeping("its sessions are not those that were opened");
    }
    Ok(match (in_recovery.as_str(), read_only.as_str()) {
        ("true", _) => Server::Standby,
        (_, "on") => Server::ReadOnly,
        _ => Server::Writable,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
