//! The connection to Redis, to one server or to a cluster: opened at first use, replaced when it broke, bounded in time. The
//! URL's password stays in here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo as _, RedisError, ServerErrorKind, TlsCertificates,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
    from_redis_value,
};
use tokio::sync::Mutex;
use tracing::debug;

use super::scripts::Lua;
use crate::{
    certificates::{self, Certificates, Trust},
    clock::Clock,
    config::redis_url::RedisUrl,
    queue::QueueError,
};

/// A connection idle for this long may have been dropped on the way without a word; it is replaced unasked, which costs
/// less than finding out.
const IDLE: Duration = Duration::from_secs(300);

/// No connection lives longer. After a failover a name or a forwarder leads elsewhere, and an open connection stays where it is.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(600);

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
        // From a server that is half a second away: three round trips or four for TCP, TLS and login, then one.
        let two_seconds = Duration::from_secs(2);
        Self { connect: Duration::from_secs(3), first_word: two_seconds, response: two_seconds }
    }
}

/// How often a command is sent again to a cluster whose slots have moved; none of these was carried out.
const REDIRECTIONS: u32 = 3;

/// The waits between tries when a server is busy for a moment and says that it carried nothing out.
const BUSY_WAITS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// One multiplexed connection to one database, or to every node of a cluster.
pub(super) struct Link {
    client: Client,
    /// For TLS, where others than the library's own hold.
    certificates: Option<TlsCertificates>,
    /// Every node of the cluster that the client's server belongs to, and where our keys lie.
    cluster: Option<Home>,
    server: String,
    database: i64,
    timeouts: Timeouts,
    clock: Arc<dyn Clock>,
    open: Mutex<Option<Open>>,
}

/// Numbers connections, over all links.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Where in a cluster our keys lie.
#[derive(Clone, Copy)]
struct Home(Route);

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection, Home),
}

struct Open {
    connection: Connection,
    number: u64,
    used_at_boot: Duration,
    opened_at_boot: Duration,
}

impl Open {
    fn is_idle(&self, now: Duration) -> bool {
        now.saturating_sub(self.used_at_boot) >= IDLE
    }

    fn is_old(&self, now: Duration) -> bool {
        now.saturating_sub(self.opened_at_boot) >= CONNECTION_LIFETIME
    }
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

    /// The cluster that this server belongs to. What has no key of its own is asked of the node that holds `key`.
    pub(super) fn of_cluster(mut self, key: &str) -> Result<Self, QueueError> {
        if self.database != 0 {
            let number = self.database;
            return Err(refused(&format!("it selects database {number}, and a cluster has only database 0")));
        }
        if matches!(self.client.get_connection_info().addr(), ConnectionAddr::Unix(_)) {
            return Err(refused("a cluster is not reached by a socket"));
        }
        self.cluster = Some(Home(Route::with_key(key, SlotAddr::Master)));
        Ok(self)
    }

    pub(super) const fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// The same server, another database.
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
        self.open = Mutex::default();
    }

    /// The user that the URL names.
    #[cfg(feature = "cli")]
    pub(super) fn user(&self) -> &str {
        self.client.get_connection_info().redis_settings().username().unwrap_or("default")
    }

    /// Where Redis is, without user and password.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// A call that changes something: sent once. (Once more only when Redis answers that it did nothing: it does not know the
    /// script, or is the wrong server.)
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

    /// Sends a call, and again when the server says that it carried nothing out for now: no call is too delicate for that.
    async fn send<T: FromRedisValue>(&self, call: Call<'_>, patience: Duration) -> Result<T, RedisError> {
        let mut answer = self.send_once(call, patience).await;
        // The connection is closed by now, and the next one may lead to another server.
        if answer.as_ref().is_err_and(is_wrong_server) {
            answer = self.send_once(call, patience).await;
        }
        for wait in BUSY_WAITS {
            if !answer.as_ref().is_err_and(is_busy) {
                break;
            }
            tokio::time::sleep(wait).await;
            answer = self.send_once(call, patience).await;
        }
        answer
    }

    async fn send_once<T: FromRedisValue>(&self, call: Call<'_>, patience: Duration) -> Result<T, RedisError> {
        let (connection, number) = self.connection().await?;
        let answer = match tokio::time::timeout(patience, call.over(connection)).await {
            Ok(answer) => answer,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        self.forget_when_broken(number, answer.as_ref().err()).await;
        answer
    }

    /// The open connection, or a new one. A connection is known by its number, so that only the broken one is dropped.
    async fn connection(&self) -> Result<(Connection, u64), RedisError> {
        let mut slot = self.open.lock().await;
        let now = self.clock.boot();
        if let Some(open) = &mut *slot
            && !open.is_idle(now)
        {
            open.used_at_boot = now;
            if !open.is_old(now) {
                return Ok((open.connection.clone(), open.number));
            }
        }
        let connection = match (self.open_another().await, &mut *slot) {
            (Ok(connection), _) => connection,
            // The old one may work all the same: a server that takes no more connections must not cost a run.
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

    /// Connects to the server of the URL and to every node that it names. The library is not allowed to send anything twice:
    /// whether a command may be is known to its caller.
    async fn connect_to_cluster(&self) -> Result<ClusterConnection, RedisError> {
        let mut builder = ClusterClientBuilder::new([self.client.get_connection_info().clone()])
            .connection_timeout(self.timeouts.connect)
            .response_timeout(self.longest_response())
            .overall_response_timeout(None)
            .retries(0);
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        let client: ClusterClient = builder.build()?;
        // The first node, then the others; a node that is gone must not keep us from the others for ever.
        match tokio::time::timeout(4 * self.timeouts.connect, client.get_async_connection()).await {
            Ok(connection) => connection,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    fn longest_response(&self) -> Duration {
        self.timeouts.response.max(self.timeouts.first_word)
    }

    async fn forget_when_broken(&self, number: u64, error: Option<&RedisError>) {
        if error.is_some_and(|error| is_broken(error) || is_wrong_server(error)) {
            let mut open = self.open.lock().await;
            if open.as_ref().is_some_and(|open| open.number == number) {
                *open = None;
            }
        }
    }

    fn explain(&self, action: &'static str, error: &RedisError) -> QueueError {
        let (server, mut detail) = (self.server.clone(), describe(error));
        if let Some(hint) = self.hint(error) {
            detail = format!("{detail}; {hint}");
        }
        match error.kind() {
            _ if is_broken(error) => self.unreachable(error),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => QueueError::Unexpected { server, action, detail },
            ErrorKind::AuthenticationFailed => QueueError::Refused { server, action: "login", detail },
            _ => QueueError::Refused { server, action, detail },
        }
    }

    /// What would do, where the server and `REDIS_CLUSTER` do not belong together.
    fn hint(&self, error: &RedisError) -> Option<&'static str> {
        let says = |what: &str| error.to_string().contains(what);
        match (self.is_cluster(), error.kind()) {
            (false, ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::CrossSlot | ServerErrorKind::Ask)) => {
                Some("this server belongs to a cluster: set REDIS_CLUSTER=true")
            }
            (true, _) if says("cluster support disabled") => {
                Some("this server belongs to no cluster: take REDIS_CLUSTER=true away")
            }
            _ if code(error) == Some("READONLY") => {
                Some("this server is a read-only replica: REDIS_URL has to lead to the primary")
            }
            _ => None,
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
    /// A command without a key: in a cluster the node that holds our keys is asked, and no other.
    Here(&'a Cmd),
    /// A command without a key, for the node of a cluster that holds this one.
    #[cfg(feature = "cli")]
    Near(&'a Cmd, &'a str),
    Script(&'a Lua, &'a [String], &'a Arguments),
}

impl Call<'_> {
    async fn over<T: FromRedisValue>(self, connection: Connection) -> Result<T, RedisError> {
        match connection {
            Connection::Server(connection) => self.over_server(connection).await,
            // Boxed, so that whoever needs no cluster does not carry it around.
            Connection::Cluster(connection, home) => Box::pin(self.over_cluster(connection, home)).await,
        }
    }

    async fn over_server<T: FromRedisValue>(self, mut connection: MultiplexedConnection) -> Result<T, RedisError> {
        match self {
            Self::Command(command) | Self::Here(command) => command.query_async(&mut connection).await,
            #[cfg(feature = "cli")]
            Self::Near(command, _) => command.query_async(&mut connection).await,
            Self::Script(lua, keys, arguments) => {
                let mut invocation = lua.script.prepare_invoke();
                invocation.key(keys).arg(&arguments.0);
                invocation.invoke_async(&mut connection).await
            }
        }
    }

    /// Sends it to the node that it belongs to, and again when that node says that it does not belong there any more.
    async fn over_cluster<T: FromRedisValue>(
        self,
        mut connection: ClusterConnection,
        home: Home,
    ) -> Result<T, RedisError> {
        let mut tries = 0;
        loop {
            let answer = match self {
                Self::Command(command) => connection.req_packed_command(command).await,
                Self::Here(command) => connection.route_command(command.clone(), home.routing()).await,
                #[cfg(feature = "cli")]
                Self::Near(command, key) => {
                    let home = Home(Route::with_key(key, SlotAddr::Master));
                    connection.route_command(command.clone(), home.routing()).await
                }
                Self::Script(lua, keys, arguments) => run_on_node(&mut connection, lua, keys, arguments).await,
            };
            match answer.and_then(::redis::Value::extract_error) {
                Err(error) if tries < REDIRECTIONS && was_misdirected(&error) => tries += 1,
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) => {
                    let answer =
                        self.ask_elsewhere(&mut connection, error).await.and_then(::redis::Value::extract_error);
                    return Ok(from_redis_value(answer?)?);
                }
                answer => return Ok(from_redis_value(answer?)?),
            }
        }
    }
}

impl Call<'_> {
    /// A slot is on its way to another node, which serves what has arrived, once, when it is asked so.
    async fn ask_elsewhere(
        self,
        connection: &mut ClusterConnection,
        asked: RedisError,
    ) -> Result<::redis::Value, RedisError> {
        let node = asked.redirect_node().and_then(|(address, _)| address.rsplit_once(':'));
        let Some((host, Ok(port))) = node.map(|(host, port)| (host.to_owned(), port.parse())) else {
            return Err(asked);
        };
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("ASKING");
        match self {
            Self::Command(command) | Self::Here(command) => pipeline.add_command(command.clone()),
            #[cfg(feature = "cli")]
            Self::Near(command, _) => pipeline.add_command(command.clone()),
            // Whole, since that node may not know it.
            Self::Script(lua, keys, arguments) => {
                pipeline.cmd("EVAL").arg(lua.code).arg(keys.len()).arg(keys).arg(&arguments.0)
            }
        };
        let node = SingleNodeRoutingInfo::ByAddress { host, port };
        let mut answers = connection.route_pipeline(pipeline, 1, 1, node).await?;
        answers.pop().ok_or(asked)
    }
}

impl Home {
    const fn routing(self) -> RoutingInfo {
        RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(self.0))
    }
}

/// Runs a script where its first key lies. A node that does not know the script is sent the whole: it alone, since others may
/// be down.
async fn run_on_node(
    connection: &mut ClusterConnection,
    lua: &Lua,
    keys: &[String],
    arguments: &Arguments,
) -> Result<::redis::Value, RedisError> {
    let home = Home(Route::with_key(&keys[0], SlotAddr::Master));
    let command = |name: &str, script: &str| {
        let mut command = ::redis::cmd(name);
        command.arg(script).arg(keys.len()).arg(keys).arg(&arguments.0);
        command
    };
    let by_digest = command("EVALSHA", lua.script.get_hash());
    let answer = connection.route_command(by_digest, home.routing()).await.and_then(::redis::Value::extract_error);
    match answer {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connection.route_command(command("EVAL", lua.code), home.routing()).await
        }
        answer => answer,
    }
}

/// Whether a node refused the command because its slot lies elsewhere now, or no node was known for it: nothing was done.
fn was_misdirected(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Moved) | ErrorKind::ClusterConnectionNotFound)
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

/// Whether the server is busy for a moment, and did nothing.
fn is_busy(error: &RedisError) -> bool {
    code(error).is_some_and(|code| ["BUSY", "NOREPLICAS", "ASK", "TRYAGAIN"].contains(&code))
}

/// True when the server did nothing and will not do anything soon, as after a failover: a replica, one that loads its data or lost
/// its replicas or its cluster, one without our user. Each script refuses before its first write, or with it.
fn is_wrong_server(error: &RedisError) -> bool {
    const CODES: [&str; 10] = [
        "READONLY",
        "MASTERDOWN",
        "LOADING",
        "CLUSTERDOWN",
        "MOVED",
        "NOREPLICAS",
        "MISCONF",
        "UNKILLABLE",
        "NOAUTH",
        "WRONGPASS",
    ];
    code(error).is_some_and(|code| CODES.contains(&code))
}

/// The first word of what the server refused with; of a script's error that of the command in it, which servers before version 7
/// put behind words of their own.
fn code(error: &RedisError) -> Option<&str> {
    let code = error.code()?;
    Some(refusal_in_script(code, error.detail().unwrap_or_default()).map_or(code, first_word))
}

/// `READONLY You can't write …` of `ERR Error running script (call to f_…): @user_script:12: -READONLY You can't write …`.
fn refusal_in_script<'a>(code: &str, detail: &'a str) -> Option<&'a str> {
    let (_, refusal) =
        detail.rsplit_once(": -").filter(|_| code == "ERR" && detail.starts_with("Error running script"))?;
    first_word(refusal).chars().all(|letter| letter.is_ascii_uppercase()).then_some(refusal)
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// Whether the connection is of no more use.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || matches!(error.kind(), ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound)
}

/// The certificates for TLS, where others hold than the library's own.
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

fn describe(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    // As Redis says it: `READONLY You can't write against a read only replica.`
    let mut text = match (error.kind(), error.code(), error.detail()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code), Some(detail)) => {
            refusal_in_script(code, detail).map_or_else(|| format!("{code} {detail}"), str::to_owned)
        }
        _ => error.to_string(),
    };
    text.truncate(text.floor_char_boundary(300));
    match certificates::advice(&text) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
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
    fn refusals_in_scripts_of_old_servers_are_read() {
        let old =
            "Error running script (call to f_0a1b): @user_script:12: @user_script: 12: -READONLY You can't write.";
        assert_eq!(refusal_in_script("ERR", old), Some("READONLY You can't write."));
        for (code, detail) in [
            ("READONLY", "You can't write against a read only replica. script: 0a1b, on @user_script:12."),
            ("ERR", "Error running script (call to f_0a1b): @user_script:12: attempt to index a nil value"),
            ("ERR", "wrong number of arguments: -READONLY"),
        ] {
            assert_eq!(refusal_in_script(code, detail), None, "{code} {detail}");
        }
    }

    #[test]
    fn a_cluster_has_database_0_only_and_no_socket() {
        for (url, why) in [("redis://:s3cret@cache/5", "only database 0"), ("unix:///run/redis.sock", "socket")] {
            let message = link(url).unwrap().of_cluster("{refresh}:objects").unwrap_err().to_string();
            assert!(message.contains("REDIS_URL") && message.contains(why), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        assert!(link("rediss://:s3cret@cache/0").unwrap().of_cluster("{refresh}:objects").unwrap().is_cluster());
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_being_shown() {
        for url in ["redis://:s3cret@host/five", "postgres://u:s3cret@host", "s3cret"] {
            let message = link(url).unwrap_err().to_string();
            assert!(message.contains("REDIS_URL") && !message.contains("s3cret"), "{message}");
        }
    }
}
