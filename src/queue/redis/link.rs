//! The connection to Redis: opened at first use, replaced when it broke, bounded in time. The URL's password stays in
//! here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError,
    Script, aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

use crate::{clock::Clock, queue::QueueError};

/// A connection idle for this long may have been dropped on the way without a word; it is replaced unasked, which costs
/// less than finding out.
const IDLE: Duration = Duration::from_secs(300);

/// How long Redis may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands, TLS and login included.
    pub connect: Duration,
    /// For the answer to `TIME`, the first word after a thaw.
    pub first_word: Duration,
    /// For the answer to everything else.
    pub response: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let half_a_second = Duration::from_millis(500);
        Self { connect: half_a_second, first_word: half_a_second, response: Duration::from_secs(1) }
    }
}

/// One multiplexed connection to one database.
pub(super) struct Link {
    client: Client,
    server: String,
    database: i64,
    timeouts: Timeouts,
    clock: Arc<dyn Clock>,
    open: Mutex<Option<Open>>,
}

/// Numbers connections, over all links.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

struct Open {
    connection: MultiplexedConnection,
    number: u64,
    used_at_boot: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(url: &str, timeouts: Timeouts, clock: Arc<dyn Clock>) -> Result<Self, QueueError> {
        // Somebody else may have installed it before; one is as good as another.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let refused = |error: RedisError| QueueError::Unreachable {
            server: "REDIS_URL".to_owned(),
            detail: format!("the URL cannot be used: {}", describe(&error)),
        };
        let info = url.into_connection_info().map_err(refused)?;
        let (server, database) = (server_name(info.addr(), info.redis_settings().db()), info.redis_settings().db());
        let client = Client::open(info).map_err(refused)?;
        Ok(Self { client, server, database, timeouts, clock, open: Mutex::default() })
    }

    /// The same server, another database.
    pub(super) fn to_database(&self, number: i64) -> Result<Self, QueueError> {
        let info = self.client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_db(number);
        let client = Client::open(info.set_redis_settings(settings)).map_err(|error| self.unreachable(&error))?;
        Ok(Self {
            client,
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
        self.open = Mutex::default();
    }

    /// Where Redis is, without user and password.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// A call that changes something: sent once. (Once more only when Redis answers that it does not know the script.)
    pub(super) async fn run<T: FromRedisValue>(&self, action: &'static str, call: Call<'_>) -> Result<T, QueueError> {
        self.send(call, self.timeouts.response).await.map_err(|error| self.explain(action, &error))
    }

    /// A call that may be made twice: a broken connection is replaced once, silently.
    pub(super) async fn ask<T: FromRedisValue>(&self, action: &'static str, call: Call<'_>) -> Result<T, QueueError> {
        self.send_again(call, self.timeouts.response).await.map_err(|error| self.explain(action, &error))
    }

    /// [`Self::ask`] with the shorter patience for the first word after a thaw.
    pub(super) async fn greet<T: FromRedisValue>(&self, action: &'static str, call: Call<'_>) -> Result<T, QueueError> {
        self.send_again(call, self.timeouts.first_word).await.map_err(|error| self.explain(action, &error))
    }

    async fn send_again<T: FromRedisValue>(&self, call: Call<'_>, patience: Duration) -> Result<T, RedisError> {
        match self.send(call, patience).await {
            Err(error) if is_broken(&error) => self.send(call, patience).await,
            answer => answer,
        }
    }

    async fn send<T: FromRedisValue>(&self, call: Call<'_>, patience: Duration) -> Result<T, RedisError> {
        let (connection, number) = self.connection().await?;
        let answer = match tokio::time::timeout(patience, call.over(connection)).await {
            Ok(answer) => answer,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        self.forget_when_broken(number, answer.as_ref().err()).await;
        answer
    }

    /// The open connection, or a new one. A connection is known by its number, so that only the broken one is dropped.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let mut slot = self.open.lock().await;
        let now = self.clock.boot();
        if let Some(open) = &mut *slot
            && now.saturating_sub(open.used_at_boot) < IDLE
        {
            open.used_at_boot = now;
            return Ok((open.connection.clone(), open.number));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            .set_response_timeout(Some(self.timeouts.response.max(self.timeouts.first_word)));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        *slot = Some(Open { connection: connection.clone(), number, used_at_boot: now });
        Ok((connection, number))
    }

    async fn forget_when_broken(&self, number: u64, error: Option<&RedisError>) {
        if error.is_some_and(is_broken) {
            let mut open = self.open.lock().await;
            if open.as_ref().is_some_and(|open| open.number == number) {
                *open = None;
            }
        }
    }

    fn explain(&self, action: &'static str, error: &RedisError) -> QueueError {
        let (server, detail) = (self.server.clone(), describe(error));
        match error.kind() {
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

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    Command(&'a Cmd),
    Script(&'a Script, &'a [String], &'a Arguments),
}

impl Call<'_> {
    async fn over<T: FromRedisValue>(self, mut connection: MultiplexedConnection) -> Result<T, RedisError> {
        match self {
            Self::Command(command) => command.query_async(&mut connection).await,
            Self::Script(script, keys, arguments) => {
                let mut invocation = script.prepare_invoke();
                invocation.key(keys).arg(&arguments.0);
                invocation.invoke_async(&mut connection).await
            }
        }
    }
}

/// A script's arguments: bytes, in order.
#[derive(Default)]
pub(super) struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.push(bytes.to_vec());
        self
    }

    pub(super) fn number(&mut self, number: impl fmt::Display) -> &mut Self {
        self.0.push(number.to_string().into_bytes());
        self
    }
}

/// Whether the connection is of no more use.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || matches!(error.kind(), ErrorKind::Parse)
}

fn describe(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(300));
    text
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
    fn every_form_of_url_is_understood_and_none_shows_its_password() {
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
    fn a_url_that_cannot_be_used_is_refused_without_being_shown() {
        for url in ["redis://:s3cret@host/five", "postgres://u:s3cret@host", "s3cret"] {
            let message = link(url).unwrap_err().to_string();
            assert!(message.contains("REDIS_URL") && !message.contains("s3cret"), "{message}");
        }
    }
}
