//! Redis for tests: an empty database each, on one private server that keeps nothing on disk.

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::forwarder::Forwarder;
use super::server::{Recipe, Server, find_folder_with};

/// The key with the number of the last used database, so that several test processes can share a server.
const COUNTER: &str = "refresh-worker-tests:databases";

/// A test waits this long for Redis.
const REDIS_TIMEOUT: Duration = Duration::from_secs(30);

/// The URL of an empty database of its own: `redis://127.0.0.1:PORT/N`, N never 0.
pub async fn fresh() -> String {
    let base = tokio::task::spawn_blocking(shared_url).await.expect("the shared Redis starts");
    let mut connection = connect(&base).await.expect("the shared Redis answers");
    let settings: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg("databases").query_async(&mut connection).await.expect("CONFIG GET");
    let databases: u64 = settings[1].parse().expect("a number of databases");
    let turn: u64 = redis::cmd("INCR").arg(COUNTER).query_async(&mut connection).await.expect("INCR");
    let number = 1 + (turn - 1) % (databases - 1);
    redis::pipe()
        .cmd("SELECT")
        .arg(number)
        .cmd("FLUSHDB")
        .exec_async(&mut connection)
        .await
        .expect("the database is emptied");
    with_database(&base, number)
}

/// A connection that waits for its server as long as a machine busy with tests may make it wait; the client's own patience
/// is half a second.
pub async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(REDIS_TIMEOUT))
        .set_response_timeout(Some(REDIS_TIMEOUT));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&patient).await
}

/// The one cluster that tests share, empty, and the caller's alone until this is dropped: the mailbox's keys have fixed names,
/// so that a namespace for each test would not keep tests apart. Three nodes; ours and the mailbox's two keys lie on one each.
#[derive(Debug)]
pub struct Cluster {
    ports: [u16; 3],
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    pub async fn fresh() -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let ports = tokio::task::spawn_blocking(shared_cluster).await.expect("the shared cluster starts");
        for port in ports {
            let mut node = connect(&format!("redis://127.0.0.1:{port}")).await.expect("the node answers");
            redis::cmd("FLUSHALL").exec_async(&mut node).await.expect("the node is emptied");
            // A test may have made it full.
            let mut command = redis::cmd("CONFIG");
            command.arg("SET").arg("maxmemory").arg("0").exec_async(&mut node).await.expect("CONFIG SET");
        }
        Self { ports, _turn: turn }
    }

    /// The URL of the node that holds our keys, of that of the mailbox's index, and of that of its data.
    pub fn node_url(&self, node: usize) -> String {
        format!("redis://127.0.0.1:{}", self.ports[node])
    }

    /// The URL that an operator gives.
    pub fn url(&self) -> String {
        self.node_url(2)
    }

    pub async fn connection(&self) -> redis::cluster_async::ClusterConnection {
        let client = redis::cluster::ClusterClient::builder([self.url()])
            .connection_timeout(REDIS_TIMEOUT)
            .response_timeout(REDIS_TIMEOUT)
            .build()
            .expect("a Redis URL");
        client.get_async_connection().await.expect("the cluster answers")
    }
}

fn shared_cluster() -> [u16; 3] {
    static SHARED: OnceLock<Result<[Server; 3], String>> = OnceLock::new();
    match SHARED.get_or_init(start_cluster) {
        Ok(nodes) => nodes.each_ref().map(Server::port),
        Err(problem) => panic!("{problem}"),
    }
}

/// Three nodes that know each other. The slots are cut so that each holds one of the keys that differ.
fn start_cluster() -> Result<[Server; 3], String> {
    const SLOTS: u16 = 16384;
    let nodes: Vec<_> = (0..3).map(|_| std::thread::spawn(|| start(NODE))).collect();
    let nodes: Vec<Server> =
        nodes.into_iter().map(|node| node.join().expect("no panic")).collect::<Result<_, String>>()?;
    let nodes: [Server; 3] = nodes.try_into().expect("three were started");
    let failed = |error: redis::RedisError| format!("the cluster does not come together: {error}");
    let connect = |node: &Server| redis::Client::open(format!("redis://127.0.0.1:{}", node.port()))?.get_connection();
    let mut connections = nodes.iter().map(connect).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut first_slots: Vec<(u16, usize)> = Vec::new();
    for (node, key) in ["{refresh}:objects", "refresh_queue", "refresh_requests"].into_iter().enumerate() {
        let slot = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut connections[0]).map_err(failed)?;
        first_slots.push((slot, node));
    }
    first_slots.sort_unstable();
    for (place, (slot, node)) in first_slots.iter().enumerate() {
        let from = if place == 0 { 0 } else { *slot };
        let to = first_slots.get(place + 1).map_or(SLOTS, |(next, _)| *next);
        let slots: Vec<u16> = (from..to).collect();
        let connection = &mut connections[*node];
        redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(node + 1).exec(connection).map_err(failed)?;
        redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots).exec(connection).map_err(failed)?;
    }
    for other in &nodes[1..] {
        let mut meet = redis::cmd("CLUSTER");
        meet.arg("MEET").arg("127.0.0.1").arg(other.port()).exec(&mut connections[0]).map_err(failed)?;
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    for connection in &mut connections {
        loop {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(connection).map_err(failed)?;
            if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("the cluster does not come together:\n{info}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(nodes)
}

/// A private server, for tests of database 0, of settings and of outages.
#[derive(Debug)]
pub struct PrivateRedis {
    server: Option<Server>,
}

impl PrivateRedis {
    pub async fn start() -> Self {
        Self::start_as(PLAIN).await
    }

    /// A durable server: its data survives [`Self::stop`] and [`Self::start_again`].
    pub async fn durable() -> Self {
        Self::start_as(DURABLE).await
    }

    async fn start_as(serve: &'static str) -> Self {
        let server = tokio::task::spawn_blocking(move || start(serve)).await.expect("a private Redis starts");
        Self { server: Some(server.unwrap_or_else(|problem| panic!("{problem}"))) }
    }

    /// The URL of its database 0.
    pub fn url(&self) -> String {
        self.database_url(0)
    }

    pub fn database_url(&self, number: u64) -> String {
        format!("redis://127.0.0.1:{}/{number}", self.port())
    }

    pub fn port(&self) -> u16 {
        self.server.as_ref().expect("a server between orders").port()
    }

    /// Kills the server; what it held is gone, unless it is durable.
    pub async fn stop(&mut self) {
        Server::carry_out(&mut self.server, Server::stop).await;
    }

    /// Starts it again on the same port, empty.
    pub async fn start_again(&mut self) {
        Server::carry_out(&mut self.server, Server::start_again).await;
    }

    /// Connections stay open and nothing is answered, until [`Self::thaw`].
    pub async fn freeze(&mut self) {
        Server::carry_out(&mut self.server, Server::freeze).await;
    }

    pub async fn thaw(&mut self) {
        Server::carry_out(&mut self.server, Server::thaw).await;
    }
}

/// A primary and its replica behind one address, which leads to the primary.
#[derive(Debug)]
pub struct Pair {
    /// The primary first.
    servers: [PrivateRedis; 2],
    pub forwarder: Forwarder,
}

impl Pair {
    pub async fn start() -> Self {
        let (primary, replica) = tokio::join!(PrivateRedis::start(), PrivateRedis::start());
        let pair = Self {
            forwarder: Forwarder::start(&format!("127.0.0.1:{}", primary.port())).await,
            servers: [primary, replica],
        };
        for server in &pair.servers {
            send(server, &["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
        }
        follow(&pair.servers[1], &pair.servers[0]).await;
        pair
    }

    /// The URL of the forwarder.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.forwarder.port())
    }

    /// The server that takes writes.
    pub fn primary(&self) -> &PrivateRedis {
        &self.servers[0]
    }

    /// The server that takes none.
    pub fn replica(&self) -> &PrivateRedis {
        &self.servers[1]
    }

    /// Lets the replica catch up, makes it the primary and the old primary its replica. New connections lead to it; those that
    /// are open stay with the old one.
    pub async fn fail_over(&mut self) {
        let mut primary = connect(&self.primary().url()).await.expect("the primary answers");
        // `WAIT` waits for what its own connection wrote, and for all that was written before.
        let (caught_up,): (u64,) = redis::pipe()
            .cmd("SET")
            .arg("failover-mark")
            .arg("1")
            .ignore()
            .cmd("WAIT")
            .arg(1)
            .arg(30_000)
            .query_async(&mut primary)
            .await
            .expect("WAIT");
        assert_eq!(caught_up, 1, "the replica follows");
        send(self.replica(), &["REPLICAOF", "NO", "ONE"]).await;
        self.servers.swap(0, 1);
        let port = self.primary().port().to_string();
        send(self.replica(), &["REPLICAOF", "127.0.0.1", &port]).await;
        self.forwarder.move_to(self.primary().port());
    }
}

async fn send(server: &PrivateRedis, words: &[&str]) {
    let mut connection = connect(&server.url()).await.expect("the server answers");
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).exec_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

/// Makes a server the replica of another, and waits until it has what the other has.
async fn follow(replica: &PrivateRedis, primary: &PrivateRedis) {
    send(replica, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    let mut connection = connect(&replica.url()).await.expect("the replica answers");
    let deadline = Instant::now() + REDIS_TIMEOUT;
    loop {
        let info: redis::RedisResult<String> = redis::cmd("INFO").arg("replication").query_async(&mut connection).await;
        if info.is_ok_and(|info| info.contains("master_link_status:up")) {
            return;
        }
        assert!(Instant::now() < deadline, "the replica does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn shared_url() -> String {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    if let Ok(url) = env::var("TEST_REDIS_URL") {
        return url;
    }
    match SHARED.get_or_init(|| start(PLAIN)) {
        Ok(server) => format!("redis://127.0.0.1:{}/0", server.port()),
        Err(problem) => panic!("{problem}"),
    }
}

/// `TEST_REDIS_SERVER` names another server to test with, such as a Valkey.
const PLAIN: &str = r#"exec "${TEST_REDIS_SERVER:-$bin/redis-server}" --port "$port" --bind 127.0.0.1 --dir "$folder" \
    --databases 2000 --save '' --appendonly no --maxclients 4000"#;

/// Writes everything to disk before it answers. The command that makes a server load its data again has to be allowed since
/// version 7.
const DURABLE: &str = r#"server="${TEST_REDIS_SERVER:-$bin/redis-server}"
    case $("$server" --version) in *v=[0-6].*) debug= ;; *) debug='--enable-debug-command local' ;; esac
    exec "$server" --port "$port" --bind 127.0.0.1 --dir "$folder" $debug --save '' --appendonly yes \
    --appendfsync always"#;

/// The port of a cluster's own talk is 10000 above, which must exist.
const NODE: &str = r#"[ "$port" -le 55535 ] || { echo "the port above is already in use"; exit 1; }
    exec "${TEST_REDIS_SERVER:-$bin/redis-server}" --port "$port" --bind 127.0.0.1 --dir "$folder" \
    --cluster-enabled yes --cluster-node-timeout 15000 --save '' --appendonly no --maxclients 4000"#;

fn start(serve: &'static str) -> Result<Server, String> {
    let others = ["/opt/homebrew/bin", "/usr/local/bin", "/usr/sbin"].map(PathBuf::from).to_vec();
    let bin = find_folder_with(&["redis-server"], others).ok_or(
        "redis-server is not installed: `sudo apt-get install redis-server` or `brew install redis` \
         (`./test.sh` does it), or set TEST_REDIS_URL to a Redis for tests only",
    )?;
    Server::start(Recipe { name: "redis", bin, prepare: "true", serve, stop_signal: "KILL", folder_of })
}

/// `CONFIG GET dir`, spoken by hand, since it is asked outside any runtime; nothing while the server loads its data.
fn folder_of(port: u16) -> Option<PathBuf> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"PING\r\nCONFIG GET dir\r\nQUIT\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    if !answer.starts_with("+PONG") {
        return None;
    }
    answer.lines().find(|line| line.starts_with('/')).map(PathBuf::from)
}

/// `base` with its database number replaced.
fn with_database(base: &str, number: u64) -> String {
    let mut url = url::Url::parse(base).expect("a Redis URL");
    url.set_path(&number.to_string());
    url.into()
}

#[tokio::test]
async fn fresh_redis_databases_are_separate() {
    let (one, other) = (fresh().await, fresh().await);
    assert_ne!(one, other);
    for url in [one, other] {
        let mut connection = connect(&url).await.unwrap();
        let before: Option<String> = redis::cmd("GET").arg("key").query_async(&mut connection).await.unwrap();
        assert_eq!(before, None);
        redis::cmd("SET").arg("key").arg("value").exec_async(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn private_redis_restarts() {
    let mut server = PrivateRedis::start().await;
    connect(&server.url()).await.unwrap();
    server.stop().await;
    connect(&server.url()).await.expect_err("nobody listens");
    server.start_again().await;
    connect(&server.url()).await.unwrap();
}
