//! Redis for tests: an empty database each, on one private server that keeps nothing on disk.

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};

use super::server::{Recipe, Server, find_folder_with};

/// Where the number of the last database handed out is kept, so that several test processes can share a server.
const COUNTER: &str = "refresh-worker-tests:databases";

/// The URL of an empty database of its own: `redis://127.0.0.1:PORT/N`, N never 0.
pub async fn fresh() -> String {
    let base = tokio::task::spawn_blocking(shared_url).await.expect("the shared Redis starts");
    let client = redis::Client::open(base.as_str()).expect("a Redis URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("the shared Redis answers");
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

/// A server of one's own, for tests of database 0, of settings and of outages.
#[derive(Debug)]
pub struct PrivateRedis {
    server: Option<Server>,
}

impl PrivateRedis {
    pub async fn start() -> Self {
        let server = tokio::task::spawn_blocking(start).await.expect("a private Redis starts");
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

    /// Kills the server; what it held is gone.
    pub async fn stop(&mut self) {
        self.blocking(Server::stop).await;
    }

    /// Starts it again on the same port, empty.
    pub async fn start_again(&mut self) {
        self.blocking(Server::start_again).await;
    }

    /// Connections stay open and nothing is answered, until [`Self::thaw`].
    pub async fn freeze(&mut self) {
        self.blocking(Server::freeze).await;
    }

    pub async fn thaw(&mut self) {
        self.blocking(Server::thaw).await;
    }

    /// An order may take a while, and other tasks of the test go on meanwhile.
    async fn blocking(&mut self, order: fn(&mut Server)) {
        let mut server = self.server.take().expect("a server between orders");
        let work = move || {
            order(&mut server);
            server
        };
        self.server = Some(tokio::task::spawn_blocking(work).await.expect("the order is carried out"));
    }
}

fn shared_url() -> String {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    if let Ok(url) = env::var("TEST_REDIS_URL") {
        return url;
    }
    match SHARED.get_or_init(start) {
        Ok(server) => format!("redis://127.0.0.1:{}/0", server.port()),
        Err(problem) => panic!("{problem}"),
    }
}

fn start() -> Result<Server, String> {
    let others = ["/opt/homebrew/bin", "/usr/local/bin", "/usr/sbin"].map(PathBuf::from).to_vec();
    let bin = find_folder_with(&["redis-server"], others).ok_or(
        "redis-server is not installed: `sudo apt-get install redis-server` or `brew install redis` \
         (`./test.sh` does it), or set TEST_REDIS_URL to a Redis for tests only",
    )?;
    Server::start(Recipe {
        name: "redis",
        bin,
        prepare: "true",
        serve: r#"exec "$bin/redis-server" --port "$port" --bind 127.0.0.1 --dir "$folder" --databases 2000 \
            --save '' --appendonly no --maxclients 4000"#,
        stop_signal: "KILL",
        folder_of,
    })
}

/// `CONFIG GET dir`, spoken by hand, since it is asked outside any runtime.
fn folder_of(port: u16) -> Option<PathBuf> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"CONFIG GET dir\r\nQUIT\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().find(|line| line.starts_with('/')).map(PathBuf::from)
}

/// `base` with its database number replaced.
fn with_database(base: &str, number: u64) -> String {
    let mut url = url::Url::parse(base).expect("a Redis URL");
    url.set_path(&number.to_string());
    url.into()
}

#[tokio::test]
async fn every_test_gets_an_empty_redis_database_of_its_own() {
    let (one, other) = (fresh().await, fresh().await);
    assert_ne!(one, other);
    for url in [one, other] {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let before: Option<String> = redis::cmd("GET").arg("key").query_async(&mut connection).await.unwrap();
        assert_eq!(before, None);
        redis::cmd("SET").arg("key").arg("value").exec_async(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn a_private_redis_can_be_stopped_and_started_again() {
    let mut server = PrivateRedis::start().await;
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap();
    server.stop().await;
    client.get_multiplexed_async_connection().await.expect_err("nobody listens");
    server.start_again().await;
    client.get_multiplexed_async_connection().await.unwrap();
}
