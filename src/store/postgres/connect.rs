//! The connections to the database: the pool, and the test of its connections.

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
    connections::{ConnectionFault, Connections},
};

/// The wait for a connection, its opening included, while none of ours is in use.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// The wait for a connection while others are in use: the server's limit for a statement of theirs.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The retries on a server without a free connection, when we have none: shorter than the start of a run.
const FULL_TIMEOUT: Duration = Duration::from_millis(900);

/// While a new connection opens, the interval of checks for one that came free.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);

/// A connection that takes longer than this is diagnosed: the pool retries without giving a reason.
const DIAGNOSE_AFTER: Duration = Duration::from_millis(300);

/// The limit of a test of a connection.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// The least age at which a connection is closed, so that a sandbox that lives for hours follows a moved name, even through a
/// proxy.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(8 * 60);

/// A random addition to the lifetime, so that processes that began together do not reconnect together.
const LIFETIME_JITTER: Duration = Duration::from_secs(4 * 60);

/// A setting without a meaning to the server. A session has it only when our startup parameters reached it. A pooler opens
/// its connections itself, so its sessions lack the setting.
const MARK: &str = "refresh_worker.session";

/// Runs without a prepared statement, so that it works through any pooler.
const LOOK: &str = "SELECT pg_is_in_recovery()::text, current_setting('transaction_read_only'), \
                    current_setting('refresh_worker.session', true)";

/// The pool, and the facts needed to test its connections and to name it in messages.
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

/// The value of [`MARK`], and the options without it. `None` when no statements are kept: poolers do no harm then.
type Mark = Option<Arc<Marked>>;

struct Marked {
    value: String,
    unmarked: PgConnectOptions,
}

/// Leaves out the options, which hold the password.
impl fmt::Debug for Marked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Marked").field("value", &self.value).finish_non_exhaustive()
    }
}

/// The number of connections in use, whoever took them. Connections that are being opened do not count. The pool's own size
/// counts them, so a server that is down would seem busy.
#[derive(Clone, Debug, Default)]
struct AtWork(Arc<AtomicU32>);

impl AtWork {
    fn begins(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn ends(&self) {
        // The count may have been reset while this connection was in use; it must not fall below zero.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// A connection of the pool, in use.
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

/// The kind of a server: only one of them accepts writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Writable,
    Standby,
    ReadOnly,
}

impl Server {
    /// The problem that prevents writes, and its fix.
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
        // Zero turns the driver's cache off.
        let statement_cache = if keeps_statements { config.statement_cache } else { 0 };
        // The driver sends `extra_float_digits` by default, and poolers such as PgBouncer may refuse it.
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
        // Each callback of the pool needs its own handles.
        let (trusted, looked_at, expected) = (connections.clone(), connections.clone(), mark.clone());
        let at_work = AtWork::default();
        let (taken, opened, returned) = (at_work.clone(), at_work.clone(), at_work.clone());
        // `ping` tests connections at the start of a run. A test at every use would cost a round trip each.
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A frozen sandbox ages its idle connections; `ping` tests them instead.
            .idle_timeout(None)
            .max_lifetime(CONNECTION_LIFETIME + LIFETIME_JITTER.mul_f64(fastrand::f64()))
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
                // A part of opening a connection, so it is not logged among the statements.
                Box::pin(
                    async move {
                        // Before any statement is prepared. A connection that breaks here fails its user later.
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

    /// True while prepared statements are kept. Poolers that share connections between transactions do not support them.
    pub(super) fn keeps_statements(&self) -> bool {
        self.connections.keeps_statements()
    }

    pub(super) async fn acquire(&self) -> Result<InUse, StoreError> {
        // Boxed: opening a connection is a large future.
        Box::pin(self.acquire_by(Instant::now() + BUSY_TIMEOUT)).await
    }

    /// [`Self::acquire`] within a limit.
    pub(super) async fn acquire_within(&self, limit: Limit, action: &'static str) -> Result<InUse, StoreError> {
        let left = limit.left();
        if left.is_zero() {
            return Err(self.out_of_time(action));
        }
        let acquired = Box::pin(self.acquire_by(Instant::now() + left.min(BUSY_TIMEOUT)));
        // The deadline of `acquire_by` ends only its retries; a single opening may take longer.
        tokio::time::timeout(left, acquired).await.unwrap_or_else(|_| Err(self.out_of_time(action)))
    }

    async fn acquire_by(&self, until: Instant) -> Result<InUse, StoreError> {
        let (began, mut is_unmarked) = (Instant::now(), false);
        self.reset_count_if_idle();
        loop {
            let acquired = tokio::select! {
                // A ready connection comes before a diagnosis.
                biased;
                acquired = self.pool.acquire() => acquired,
                error = self.diagnose() => Err(error),
                // The pool keeps opening a new connection even when another comes free, so take the free one.
                () = self.wait_for_idle() => continue,
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
            let give_up_at = match error {
                // Our own connections are in use, and one of them will come free.
                _ if (is_full || matches!(error, sqlx::Error::PoolTimedOut)) && self.at_work.is_any() => until,
                _ if is_full => until.min(began + FULL_TIMEOUT),
                // Another task may have removed the mark meanwhile, but this attempt still had it.
                _ if !is_unmarked && self.unmark(&error) => {
                    is_unmarked = true;
                    until
                }
                // Any other error ends the loop at once, because waiting for a free connection does not help.
                _ => began,
            };
            if Instant::now() >= give_up_at {
                return Err(self.address.explained(errors::store_error(&self.server, "connect", &error)));
            }
            if is_full {
                tokio::time::sleep(ROOM_INTERVAL).await;
            }
        }
    }

    /// Resets the count when no connection is in use: the pool closes expired connections without calling `after_release`.
    fn reset_count_if_idle(&self) {
        if usize::try_from(self.pool.size()).is_ok_and(|all| all == self.pool.num_idle()) {
            self.at_work.reset();
        }
    }

    /// An idle connection, if there is one.
    pub(super) fn try_acquire(&self) -> Option<InUse> {
        let connection = self.pool.try_acquire()?;
        // The pool does not call `before_acquire` here.
        self.at_work.begins();
        Some(self.in_use(connection))
    }

    pub(super) fn in_use(&self, connection: PoolConnection<Postgres>) -> InUse {
        InUse { connection, at_work: self.at_work.clone() }
    }

    /// Returns once there is an idle connection. The pool does not give it to a task that waits for a new one.
    async fn wait_for_idle(&self) {
        loop {
            tokio::time::sleep(ROOM_INTERVAL).await;
            if self.pool.num_idle() > 0 {
                return;
            }
        }
    }

    /// Removes our mark when it may be the reason for a refused connection. Returns `false` when it is not.
    fn unmark(&self, error: &sqlx::Error) -> bool {
        let refuses_startup = errors::code(error).is_some_and(|code| {
            // Servers and poolers give different codes to a startup parameter that they do not know.
            code.starts_with("08") || matches!(code.as_str(), "0A000" | "22023" | "42704" | "XX000")
        });
        let Some(mark) = self.mark.as_deref().filter(|_| refuses_startup) else { return false };
        self.pool.set_connect_options(mark.unmarked.clone());
        self.connections.stop_keeping(format!("it refuses startup parameters: {error}"));
        true
    }

    /// Replaces the error of work whose time is over: the timeout is the reason, whatever it met last.
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

    /// Finds the reason why a connection takes so long. Returns only when there is one.
    async fn diagnose(&self) -> sqlx::Error {
        loop {
            tokio::time::sleep(DIAGNOSE_AFTER).await;
            // While our own connections work, the server is healthy, and one more could exceed its limit.
            if self.at_work.is_any() {
                continue;
            }
            match PgConnection::connect_with(&self.pool.connect_options()).await {
                Err(error) => return error,
                Ok(mut connection) => {
                    let verified = self.address.verify(&mut connection).await;
                    // Only a probe: a failed close changes nothing.
                    let _ = connection.close().await;
                    match verified {
                        Err(error) => return error,
                        // The server is healthy; the pool is busy.
                        Ok(()) => return std::future::pending().await,
                    }
                }
            }
        }
    }

    /// Tests the idle connections. Drops those that do not respond or lead to a server without writes, and opens a new one when
    /// none is left.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        // Read first, so that a fault that is noticed during this ping is left for the next one.
        let are_suspect = self.connections.take_suspects();
        self.reset_count_if_idle();
        // All idle connections at once, so that the tests together take the time of one.
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
        // The name may point to another server by now.
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

    /// Tests the server behind a connection, in one round trip.
    pub(super) async fn look(&self, connection: &mut PgConnection) -> Result<Server, sqlx::Error> {
        within(PING_TIMEOUT, look(connection, &self.connections, &self.mark)).await
    }

    /// True when a pooler is known to be in the way. It is not looked for when the configuration keeps no statements.
    pub(super) fn has_pooler(&self) -> bool {
        self.mark.is_some() && !self.keeps_statements()
    }

    /// Handles an error of a connection. Returns `true` when the work is worth another try on a new connection.
    pub(super) fn notice(&self, connection: InUse, error: &sqlx::Error) -> bool {
        let fault = self.connections.notice(error);
        if fault.is_some() {
            discard(connection);
        }
        fault.is_some_and(ConnectionFault::is_worth_another)
    }
}

/// Runs work on a connection of the pool. When the connection led to the wrong server or to another client's statements, runs
/// it again on a new one. The two names stand for the connection and for whether statements are kept.
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
                // `notice` comes first: a bad connection is closed also when the work is not run again.
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

/// [`on_connection`] for a single statement, through any pooler.
macro_rules! on_single {
    ($database:expr, $acquire:expr, $timeout:expr, $action:expr, |$connection:ident, $keeps:ident| $work:expr) => {
        $crate::store::postgres::connect::on_connection!($database, $acquire, $timeout, $action, |held, $keeps| async {
            let mut single = $crate::store::postgres::connect::Single::begin(held, $keeps).await?;
            let $connection = single.connection();
            let done = $work.await?;
            single.end().await?;
            Ok(done)
        })
    };
    ($database:expr, $action:expr, |$connection:ident, $keeps:ident| $work:expr) => {
        $crate::store::postgres::connect::on_single!(
            $database,
            $database.acquire(),
            $crate::store::postgres::STATEMENT_TIMEOUT,
            $action,
            |$connection, $keeps| $work
        )
    };
}
pub(super) use on_single;

/// The oldest supported PostgreSQL, as a version number of the server.
const OLDEST: u32 = 130_000;

/// The problem with a server of this version, if it is too old.
fn too_old(version: Option<u32>) -> Option<String> {
    let version = version.filter(|version| *version < OLDEST)?;
    // Before version 10 the second number was a part of the major version.
    let name = if version < 100_000 {
        format!("{}.{}", version / 10_000, version / 100 % 100)
    } else {
        (version / 10_000).to_string()
    };
    Some(format!("the server is PostgreSQL {name}, and this program needs 13 or newer: update the server"))
}

/// A connection for a single statement. Through a pooler the statement is in a transaction, since the pooler may prepare it on
/// one server and run it on another. Otherwise a transaction would cost two round trips for nothing.
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

/// Closes a connection. The pool does not call `after_release` then.
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

/// The future's result, or the error of a connection that does not respond in time.
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
            let problem = too_old(Some(version)).expect("too old");
            assert!(problem.contains(name) && problem.contains("13 or newer"), "{problem}");
        }
        for version in [Some(130_000), Some(180_001), None] {
            assert_eq!(too_old(version), None);
        }
    }
}
