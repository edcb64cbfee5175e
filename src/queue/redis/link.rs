//! The connection to Redis, to one server or to a cluster: opened at first use, replaced when it broke, bounded in time.
//!
//! The URL's password stays in here. A call is sent a second time only when that is safe: [`Link::run`] for calls that must not
//! be repeated, [`Link::ask`] for those that may be.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _,
    RedisError, TlsCertificates,
    aio::MultiplexedConnection,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};
use tokio::sync::Mutex;
use tracing::debug;

use super::{
    call::{Call, Connection, Home},
    errors::{describe, hint, is_broken, is_busy, is_wrong_server},
};
use crate::{
    certificates::{Certificates, Trust},
    clock::Clock,
    config::redis_url::RedisUrl,
    queue::QueueError,
};

/// A connection that was idle for this long may have been dropped silently on the way. It is replaced without a try, which costs
/// less than finding out.
const MAX_IDLE: Duration = Duration::from_secs(300);

/// No connection lives longer. After a failover a name or a forwarder leads elsewhere, while an open connection stays.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);

/// The timeouts of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS and login included.
    pub connect: Duration,
    /// For the reply to `TIME`, the first call after a thaw.
    pub first_reply: Duration,
    /// For every other reply.
    pub response: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        // From a server that is half a second away: three round trips or four for TCP, TLS and login, then one.
        let two_seconds = Duration::from_secs(2);
        Self { connect: Duration::from_secs(3), first_reply: two_seconds, response: two_seconds }
    }
}

/// The waits before further tries at a server that is busy for a moment and did nothing.
// One second in all, a small part of the time of a run.
const BUSY_RETRY_DELAYS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// One multiplexed connection to one database, or to every node of a cluster.
pub(super) struct Link {
    client: Client,
    /// For TLS, when others than the library's own apply.
    certificates: Option<TlsCertificates>,
    /// On a cluster: the node that holds our keys.
    cluster: Option<Home>,
    server: String,
    database: i64,
    timeouts: Timeouts,
    clock: Arc<dyn Clock>,
    open: Mutex<Option<Open>>,
}

/// Numbers connections, over all links.
// Never zeroed, so that a late error of an old connection cannot drop the new one.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

struct Open {
    connection: Connection,
    number: u64,
    used_at_boot: Duration,
    opened_at_boot: Duration,
}

impl Open {
    fn is_idle(&self, now: Duration) -> bool {
        now.saturating_sub(self.used_at_boot) >= MAX_IDLE
    }

    fn is_old(&self, now: Duration) -> bool {
        now.saturating_sub(self.opened_at_boot) >= MAX_CONNECTION_AGE
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(url: &str, timeouts: Timeouts, clock: Arc<dyn Clock>) -> Result<Self, QueueError> {
        // Fails when another part has installed a provider before; any provider will serve.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = RedisUrl::read(url).map_err(|problems| refused(&problems.join("; ")))?;
        let certificates = certificates_for(&url).map_err(|problem| refused(&problem))?;
        let info = url.url.into_connection_info().map_err(|error| refused(&describe(&error)))?;
        let (server, database) = (server_name(info.addr(), info.redis_settings().db()), info.redis_settings().db());
        let client = match &certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        };
        let client = client.map_err(|error| refused(&describe(&error)))?;
        Ok(Self { client, certificates, cluster: None, server, database, timeouts, clock, open: Mutex::default() })
    }

    /// The cluster that this server belongs to. Calls without a key go to the node that holds `key`.
    pub(super) fn of_cluster(mut self, key: &str) -> Result<Self, QueueError> {
        if self.database != 0 {
            let number = self.database;
            return Err(refused(&format!("it selects database {number}, and a cluster has only database 0")));
        }
        if matches!(self.client.get_connection_info().addr(), ConnectionAddr::Unix(_)) {
            return Err(refused("a cluster is not reached by a socket"));
        }
        self.cluster = Some(Home::of_key(key));
        Ok(self)
    }

    pub(super) const fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// A link to another database of the same server.
    pub(super) fn to_database(&self, number: i64) -> Result<Self, QueueError> {
        let info = self.client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_db(number);
        let client = Client::open(info.set_redis_settings(settings)).map_err(|error| self.unreachable(&error))?;
        Ok(Self {
            client,
            certificates: self.certificates.clone(),
            cluster: None,
            server: self.server.clone(),
            database: number,
            timeouts: self.timeouts,
            clock: self.clock.clone(),
            open: Mutex::default(),
        })
    }

    pub(super) const fn database(&self) -> i64 {
        self.database
    }

    pub(super) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
        // The connection has the old timeouts.
        self.open = Mutex::default();
    }

    /// The user that the URL names.
    #[cfg(feature = "cli")]
    pub(super) fn user(&self) -> &str {
        self.client.get_connection_info().redis_settings().username().unwrap_or("default")
    }

    /// The server's address, without user and password.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Makes a call that must not be repeated. (It is sent once more only when Redis says that it did nothing: it does not know
    /// the script, or is the wrong server.)
    pub(super) async fn run<T: FromRedisValue>(&self, action: &'static str, call: Call<'_>) -> Result<T, QueueError> {
        self.send(call, self.timeouts.response).await.map_err(|error| self.explain(action, &error))
    }

    /// Makes a call that may be made twice: a broken connection is replaced once, silently.
    pub(super) async fn ask<T: FromRedisValue>(&self, action: &'static str, call: Call<'_>) -> Result<T, QueueError> {
        self.send_again(call, self.timeouts.response).await.map_err(|error| self.explain(action, &error))
    }

    /// [`Self::ask`] with the timeout of the first call after a thaw.
    pub(super) async fn greet<T: FromRedisValue>(&self, action: &'static str, call: Call<'_>) -> Result<T, QueueError> {
        self.send_again(call, self.timeouts.first_reply).await.map_err(|error| self.explain(action, &error))
    }

    async fn send_again<T: FromRedisValue>(&self, call: Call<'_>, limit: Duration) -> Result<T, RedisError> {
        match self.send(call, limit).await {
            // Once: when a new connection breaks as well, its age was not the reason.
            Err(error) if is_broken(&error) => self.send(call, limit).await,
            reply => reply,
        }
    }

    /// Sends a call, and again when the server says that it did nothing: that is safe for every call.
    async fn send<T: FromRedisValue>(&self, call: Call<'_>, limit: Duration) -> Result<T, RedisError> {
        let mut reply = self.send_once(call, limit).await;
        // The connection was dropped above, and the next one may lead to another server.
        if reply.as_ref().is_err_and(is_wrong_server) {
            reply = self.send_once(call, limit).await;
        }
        for wait in BUSY_RETRY_DELAYS {
            if !reply.as_ref().is_err_and(is_busy) {
                break;
            }
            tokio::time::sleep(wait).await;
            reply = self.send_once(call, limit).await;
        }
        reply
    }

    async fn send_once<T: FromRedisValue>(&self, call: Call<'_>, limit: Duration) -> Result<T, RedisError> {
        let (connection, number) = self.connection().await?;
        let reply = match tokio::time::timeout(limit, call.over(connection)).await {
            Ok(reply) => reply,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        self.forget_when_broken(number, reply.as_ref().err()).await;
        reply
    }

    /// The open connection, or a new one. A connection is known by its number, so that only the broken one is dropped.
    async fn connection(&self) -> Result<(Connection, u64), RedisError> {
        // Held while connecting: calls that come meanwhile share the new connection.
        let mut slot = self.open.lock().await;
        let now = self.clock.boot();
        if let Some(open) = &mut *slot
            && !open.is_idle(now)
        {
            // Boot time: a frozen sandbox counts as idle.
            open.used_at_boot = now;
            if !open.is_old(now) {
                return Ok((open.connection.clone(), open.number));
            }
        }
        let connection = match (self.open_another().await, &mut *slot) {
            (Ok(connection), _) => connection,
            // A server may take no new connection while the old one still works, so the old one is kept.
            (Err(error), Some(open)) if !open.is_idle(now) => {
                debug!(error = %describe(&error), "could not replace a Redis connection that is old; it is kept");
                open.opened_at_boot = now;
                return Ok((open.connection.clone(), open.number));
            }
            (Err(error), _) => return Err(error),
        };
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        *slot = Some(Open { connection: connection.clone(), number, used_at_boot: now, opened_at_boot: now });
        Ok((connection, number))
    }

    async fn open_another(&self) -> Result<Connection, RedisError> {
        Ok(match self.cluster {
            None => Connection::Server(self.connect_to_server().await?),
            Some(home) => Connection::Cluster(Box::pin(self.connect_to_cluster()).await?, home),
        })
    }

    async fn connect_to_server(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            .set_response_timeout(Some(self.longest_response()));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Connects to the server of the URL and to every node that it names. The library may not send anything twice, since only
    /// the caller knows whether that is safe.
    async fn connect_to_cluster(&self) -> Result<ClusterConnection, RedisError> {
        let mut builder = ClusterClientBuilder::new([self.client.get_connection_info().clone()])
            .connection_timeout(self.timeouts.connect)
            .response_timeout(self.longest_response())
            // Our own timeout bounds the call.
            .overall_response_timeout(None)
            .retries(0);
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        let client: ClusterClient = builder.build()?;
        // The first node, then the others: a dead node must not keep us from the others for ever.
        match tokio::time::timeout(4 * self.timeouts.connect, client.get_async_connection()).await {
            Ok(connection) => connection,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    fn longest_response(&self) -> Duration {
        self.timeouts.response.max(self.timeouts.first_reply)
    }

    async fn forget_when_broken(&self, number: u64, error: Option<&RedisError>) {
        if error.is_some_and(|error| is_broken(error) || is_wrong_server(error)) {
            let mut open = self.open.lock().await;
            // Another call may have replaced it already.
            if open.as_ref().is_some_and(|open| open.number == number) {
                *open = None;
            }
        }
    }

    fn explain(&self, action: &'static str, error: &RedisError) -> QueueError {
        let (server, mut detail) = (self.server.clone(), describe(error));
        if let Some(hint) = hint(error, self.is_cluster()) {
            detail = format!("{detail}; {hint}");
        }
        match error.kind() {
            // Comes first, because the error of a broken connection may be of any kind.
            _ if is_broken(error) => self.unreachable(error),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => QueueError::Unexpected { server, action, detail },
            ErrorKind::AuthenticationFailed => QueueError::Refused { server, action: "login", detail },
            _ => QueueError::Refused { server, action, detail },
        }
    }

    pub(super) fn unexpected(&self, action: &'static str, detail: impl Into<String>) -> QueueError {
        QueueError::Unexpected { server: self.server.clone(), action, detail: detail.into() }
    }

    fn unreachable(&self, error: &RedisError) -> QueueError {
        QueueError::Unreachable { server: self.server.clone(), detail: describe(error) }
    }
}

/// The certificates for TLS, when others than the library's own apply.
fn certificates_for(url: &RedisUrl) -> Result<Option<TlsCertificates>, String> {
    if !matches!(url.url.scheme(), "rediss" | "valkeys") {
        return Ok(None);
    }
    let roots = match &url.roots {
        Some(roots) => Some(Certificates::from_pem_or_file(roots)?.pem()),
        None => Trust::in_force().whole_pem(),
    };
    let read = |path: &str| std::fs::read(path).map_err(|error| format!("the file `{path}` cannot be read: {error}"));
    let client_tls = match &url.client {
        Some((certificate, key)) => Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? }),
        None => None,
    };
    let is_named = roots.is_some() || client_tls.is_some();
    Ok(is_named.then(|| TlsCertificates { client_tls, root_cert: roots.map(String::into_bytes) }))
}

fn refused(why: &str) -> QueueError {
    QueueError::Url { detail: why.to_owned() }
}

fn server_name(address: &ConnectionAddr, database: i64) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}/{database}"),
        ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{host}:{port}/{database}"),
        ConnectionAddr::Unix(path) => format!("unix://{}?db={database}", path.display()),
        _ => format!("an unknown address, database {database}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn link(url: &str) -> Result<Link, QueueError> {
        Link::new(url, Timeouts::default(), Arc::new(SystemClock))
    }

    #[test]
    fn new_link_reads_every_url_and_hides_password() {
        for (url, server) in [
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://user:s3cret@cache:7000/5", "redis://cache:7000/5"),
            ("rediss://:s3cret@cache", "rediss://cache:6379/0"),
            ("unix:///run/redis.sock?db=2&user=u&pass=s3cret", "unix:///run/redis.sock?db=2"),
        ] {
            let link = link(url).unwrap();
            assert_eq!(link.server(), server);
            assert!(!format!("{link:?}").contains("s3cret"));
        }
    }

    #[test]
    fn of_cluster_refuses_other_databases_and_sockets() {
        for (url, why) in [("redis://:s3cret@cache/5", "only database 0"), ("unix:///run/redis.sock", "socket")] {
            let message = link(url).unwrap().of_cluster("{refresh}:objects").unwrap_err().to_string();
            assert!(message.contains("REDIS_URL") && message.contains(why), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        assert!(link("rediss://:s3cret@cache/0").unwrap().of_cluster("{refresh}:objects").unwrap().is_cluster());
    }

    #[test]
    fn new_link_refuses_bad_url_without_showing_it() {
        for url in ["redis://:s3cret@host/five", "postgres://u:s3cret@host", "s3cret"] {
            let message = link(url).unwrap_err().to_string();
            assert!(message.contains("REDIS_URL") && !message.contains("s3cret"), "{message}");
        }
    }
}
