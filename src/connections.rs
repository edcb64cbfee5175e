//! The trust in PostgreSQL connections: the errors that end a connection, and their meaning for the other ones.
//!
//! The store and the maintenance after a run share one pool. A connection that led to the wrong server, or to another
//! client's statements, is not used again, and neither are those that were open beside it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tracing::{debug, warn};

/// The meaning of an error for the connection that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionFault {
    /// The connection is unusable. Nothing is known about others.
    Lost,
    /// The server ended the connection, and probably others too.
    Cut,
    /// The server has changed since the connection was opened: it became a standby or read-only, or its tables changed. The
    /// statement had no effect, and may work on a new connection.
    Outdated,
    /// A prepared statement is not the one that we prepared: a pooler shares its connections between clients.
    Pooler,
}

impl ConnectionFault {
    /// Classifies an error of a connection. `None` when the connection is still usable.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Database(database) => {
                let error = database.try_downcast_ref::<PgDatabaseError>();
                let is_fatal =
                    error.is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic));
                // A function or a trigger may raise any code, so a raised code says nothing about the connection.
                let is_raised = error.and_then(PgDatabaseError::r#where).is_some_and(|place| place.contains("PL/"));
                let fault = of_code(&database.code().unwrap_or_default(), database.message(), is_fatal);
                let is_of_server =
                    database.message().contains("cached plan") || database.code().as_deref() == Some("25006");
                // The exceptions come from the server itself, even within a trigger.
                fault.filter(|fault| !is_raised || is_fatal || is_of_server || *fault == Self::Lost)
            }
            sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => None,
            // The responses do not match the requests, or the transaction does not begin.
            sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => Some(Self::Outdated),
            // Mostly our own timeout: a slow statement says nothing about other connections.
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => Some(Self::Lost),
            sqlx::Error::Io(_) => Some(Self::Cut),
            _ => Some(Self::Lost),
        }
    }

    /// True when the work is worth one more try on a new connection: the server refused it as a whole.
    #[must_use]
    pub const fn is_worth_another(self) -> bool {
        matches!(self, Self::Outdated | Self::Pooler)
    }
}

fn of_code(code: &str, message: &str, is_fatal: bool) -> Option<ConnectionFault> {
    match code {
        // A prepared statement or portal that is missing or exists already, or parameters that are not those of the statement.
        // PgBouncer gives 08P01 to all of its own errors, which are fatal.
        "26000" | "42P05" | "34000" | "22P03" => Some(ConnectionFault::Pooler),
        "08P01" if !is_fatal || message.contains("prepared statement") => Some(ConnectionFault::Pooler),
        // `cached plan must not change result type` among others; a write on a standby or a read-only server; a transaction
        // that another client left open.
        "0A000" | "25006" | "25P01" | "25P02" if !is_fatal => Some(ConnectionFault::Outdated),
        // These messages are never translated.
        "XX000"
            if ["cache lookup failed", "could not open relation", "could not find"]
                .iter()
                .any(|kin| message.contains(kin)) =>
        {
            Some(ConnectionFault::Outdated)
        }
        // Ended because of this connection alone: it was idle, or exceeded the limit.
        "25P03" | "25P04" | "57P05" | "53300" => Some(ConnectionFault::Lost),
        // Shutdown, crash, starting up, database dropped.
        "57P01" | "57P02" | "57P03" | "57P04" => Some(ConnectionFault::Cut),
        _ if code.starts_with("08") => Some(ConnectionFault::Cut),
        _ if is_fatal => Some(ConnectionFault::Lost),
        _ => None,
    }
}

/// The state of all connections of a pool.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// The server's address, for messages.
    server: String,
    keeps_statements: AtomicBool,
    /// Connections opened before this time are not used any more.
    trusted_since: Mutex<Option<Instant>>,
    /// True until the idle ones among them are closed.
    has_suspects: AtomicBool,
}

impl Connections {
    #[must_use]
    pub fn new(server: String, keeps_statements: bool) -> Self {
        Self(Arc::new(Known {
            server,
            keeps_statements: AtomicBool::new(keeps_statements),
            trusted_since: Mutex::default(),
            has_suspects: AtomicBool::default(),
        }))
    }

    /// True while prepared statements may be kept. Once false, it stays false for the life of the process.
    #[must_use]
    pub fn keeps_statements(&self) -> bool {
        self.0.keeps_statements.load(Ordering::Relaxed)
    }

    /// Updates the trust after an error, and returns the fault of the connection, if the error shows one.
    pub fn notice(&self, error: &sqlx::Error) -> Option<ConnectionFault> {
        let fault = ConnectionFault::of(error)?;
        if fault == ConnectionFault::Pooler {
            self.stop_keeping(error);
        }
        if fault != ConnectionFault::Lost {
            debug!(%error, ?fault, "the connections to the database are opened anew");
            self.suspect();
        }
        Some(fault)
    }

    /// Stops keeping statements, since a pooler is in the way.
    pub fn stop_keeping(&self, fault: impl fmt::Display) {
        // One warning per process is enough.
        if !self.0.keeps_statements.swap(false, Ordering::Relaxed) {
            return;
        }
        // The statements of open connections may belong to other clients by now.
        self.suspect();
        warn!(
            server = %self.0.server,
            "the connections to the database at {} may be shared with other clients, as poolers and proxies do ({fault}): this \
             process keeps no prepared statements from now on; set DB_STATEMENT_CACHE=0, or add ?pgbouncer=true to \
             DATABASE_URL, so that it never does",
            self.0.server
        );
    }

    /// True when a connection of this age is trusted.
    #[must_use]
    pub fn trusts(&self, age: Duration) -> bool {
        let since = *self.0.trusted_since.lock();
        since.is_none_or(|since| age < since.elapsed())
    }

    /// True once after connections have become suspect.
    pub(crate) fn take_suspects(&self) -> bool {
        self.0.has_suspects.swap(false, Ordering::Relaxed)
    }

    fn suspect(&self) {
        // The time comes first: a ping that finds the flag must not trust an old connection.
        *self.0.trusted_since.lock() = Some(Instant::now());
        self.0.has_suspects.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_follows_sqlstate() {
        for (code, message, is_fatal, fault) in [
            ("0A000", "cached plan must not change result type", false, Some(ConnectionFault::Outdated)),
            ("25006", "cannot execute INSERT in a read-only transaction", false, Some(ConnectionFault::Outdated)),
            ("25P02", "current transaction is aborted", false, Some(ConnectionFault::Outdated)),
            ("XX000", "cache lookup failed for type 16402", false, Some(ConnectionFault::Outdated)),
            ("XX000", "a trigger says no", false, None),
            ("26000", "prepared statement \"sqlx_s_1\" does not exist", false, Some(ConnectionFault::Pooler)),
            ("42P05", "prepared statement \"sqlx_s_1\" already exists", false, Some(ConnectionFault::Pooler)),
            ("08P01", "bind message supplies 1 parameters, but …", false, Some(ConnectionFault::Pooler)),
            ("08P01", "query_wait_timeout", true, Some(ConnectionFault::Cut)),
            ("57P01", "terminating connection due to administrator command", true, Some(ConnectionFault::Cut)),
            ("57P05", "terminating connection due to idle-session timeout", true, Some(ConnectionFault::Lost)),
            ("53300", "sorry, too many clients already", true, Some(ConnectionFault::Lost)),
            ("40001", "terminating connection due to conflict with recovery", true, Some(ConnectionFault::Lost)),
            ("40001", "could not serialize access", false, None),
            ("23505", "duplicate key", false, None),
            ("57014", "canceling statement due to statement timeout", false, None),
        ] {
            assert_eq!(of_code(code, message, is_fatal), fault, "{code} {message}");
        }
    }

    #[test]
    fn sign_ends_trust_in_older_connections_only() {
        let connections = Connections::new("here".to_owned(), true);
        let hour = Duration::from_secs(3600);
        assert!(connections.trusts(hour));
        connections.notice(&sqlx::Error::PoolTimedOut);
        assert!(connections.trusts(hour), "a busy pool says nothing about its connections");
        connections.notice(&sqlx::Error::BeginFailed);
        std::thread::sleep(Duration::from_millis(2));
        assert!(!connections.trusts(hour) && connections.trusts(Duration::ZERO));
        assert!(connections.keeps_statements() && connections.take_suspects() && !connections.take_suspects());
        connections.stop_keeping("a test");
        assert!(!connections.keeps_statements() && connections.take_suspects());
    }
}
