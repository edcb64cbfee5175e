//! PostgreSQL for tests: a database each, on one private server whose disk writes are not awaited.
//!
//! The server's time zone is far from UTC on purpose: a statement that takes the session's `now()` for UTC fails here.

use std::{
    cell::RefCell,
    env,
    path::PathBuf,
    process,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::server::{Recipe, Server, find_folder_with, folders_like};

const CONTRACT: &str = include_str!("contract.sql");

/// The URL of an empty database of its own.
pub async fn fresh() -> String {
    let server = shared_url().await;
    create_database(&server, None).await
}

/// The URL of a database of its own with the six contract tables, empty, as the old programs made them.
pub async fn fresh_with_contract() -> String {
    let server = shared_url().await;
    let template = contract_template(&server).await;
    create_database(&server, Some(&template)).await
}

/// A server of one's own, for tests of outages and of settings.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: Option<Server>,
}

impl PrivatePostgres {
    pub async fn start() -> Self {
        let server = tokio::task::spawn_blocking(start).await.expect("a private PostgreSQL starts");
        Self { server: Some(server.unwrap_or_else(|problem| panic!("{problem}"))) }
    }

    /// The URL of its database `postgres`, which is empty at first.
    pub fn url(&self) -> String {
        server_url(self.port())
    }

    /// The URL, after the contract tables have been made there.
    pub async fn url_with_contract(&self) -> String {
        let mut connection = PgConnection::connect(&self.url()).await.expect("the private PostgreSQL answers");
        sqlx::raw_sql(CONTRACT).execute(&mut connection).await.expect("the contract tables");
        self.url()
    }

    pub fn port(&self) -> u16 {
        self.server.as_ref().expect("a server between orders").port()
    }

    /// Stops the server at once, as a crash would; committed data is there after [`Self::start_again`].
    pub async fn stop(&mut self) {
        Server::carry_out(&mut self.server, Server::stop).await;
    }

    pub async fn start_again(&mut self) {
        Server::carry_out(&mut self.server, Server::start_again).await;
    }
}

async fn shared_url() -> String {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    let started = || match env::var("TEST_DATABASE_URL") {
        Ok(url) => url,
        Err(_) => match SHARED.get_or_init(start) {
            Ok(server) => server_url(server.port()),
            Err(problem) => panic!("{problem}"),
        },
    };
    tokio::task::spawn_blocking(started).await.expect("the shared PostgreSQL starts")
}

fn server_url(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

/// Makes the template with the contract tables, once a process, and gives its name.
async fn contract_template(server: &str) -> String {
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    let make = async {
        let url = create_database_unowned(server, None).await;
        let mut connection = PgConnection::connect(&url).await.expect("the template answers");
        sqlx::raw_sql(CONTRACT).execute(&mut connection).await.expect("the contract tables");
        connection.close().await.expect("the template is left, so that it can be copied");
        database_name(&url)
    };
    TEMPLATE.get_or_init(|| make).await.clone()
}

async fn create_database(server: &str, template: Option<&str>) -> String {
    let url = create_database_unowned(server, template).await;
    let name = database_name(&url);
    OF_THIS_TEST.with_borrow_mut(|databases| databases.0.push(name));
    url
}

async fn create_database_unowned(server: &str, template: Option<&str>) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("refresh_worker_test_{}_{number}", process::id());
    let mut connection = PgConnection::connect(server).await.expect("the shared PostgreSQL answers");
    for left in take_left_behind() {
        let drop = format!("DROP DATABASE IF EXISTS {left} WITH (FORCE)");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.expect("an ended test's database is dropped");
    }
    let template = template.map_or_else(String::new, |template| format!(" TEMPLATE {template}"));
    let create = format!("CREATE DATABASE {name}{template}");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.expect("a database of the test's own");
    connection.close().await.expect("a clean end");
    let mut url = url::Url::parse(server).expect("a database URL");
    url.set_path(&name);
    url.into()
}

fn database_name(url: &str) -> String {
    url::Url::parse(url).expect("a database URL").path().trim_start_matches('/').to_owned()
}

/// The databases made on one thread. A test is a thread, so they can go when it ends: a few hundred databases of 8 MB
/// would be felt.
struct Databases(Vec<String>);

impl Drop for Databases {
    fn drop(&mut self) {
        LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.0);
    }
}

thread_local! {
    static OF_THIS_TEST: RefCell<Databases> = const { RefCell::new(Databases(Vec::new())) };
}

/// Databases of ended tests; whoever makes the next one drops them.
static LEFT_BEHIND: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn take_left_behind() -> Vec<String> {
    std::mem::take(&mut *LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner))
}

fn start() -> Result<Server, String> {
    let others = [
        folders_like("/usr/lib/postgresql", "", "bin"),
        folders_like("/usr", "pgsql-", "bin"),
        folders_like("/opt/homebrew/opt", "postgresql", "bin"),
        folders_like("/usr/local/opt", "postgresql", "bin"),
        folders_like("/opt/homebrew/opt", "postgresql", "libexec/bin"),
        folders_like("/usr/local/opt", "postgresql", "libexec/bin"),
        folders_like("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ];
    // Another version than the machine's.
    let chosen = env::var_os("TEST_POSTGRES_BIN").map(PathBuf::from);
    let bin = chosen.or_else(|| find_folder_with(&["initdb", "postgres"], others.concat())).ok_or(
        "PostgreSQL is not installed: `sudo apt-get install postgresql` or `brew install postgresql@17` \
         (`./test.sh` does it), or set TEST_POSTGRES_BIN to the folder of its programs, or TEST_DATABASE_URL to a \
         PostgreSQL for tests only",
    )?;
    Server::start(Recipe {
        name: "postgres",
        bin,
        // PostgreSQL refuses to run as root.
        prepare: r#"as=
            if [ "$(id -u)" = 0 ]; then
                chown postgres "$folder"
                as="setpriv --reuid=postgres --regid=postgres --clear-groups"
            fi
            $as "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C --no-sync"#,
        serve: r#"as=
            [ "$(id -u)" != 0 ] || as="setpriv --reuid=postgres --regid=postgres --clear-groups"
            exec $as "$bin/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1 \
                -c unix_socket_directories= -c max_connections=400 -c shared_buffers=64MB -c fsync=off \
                -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 \
                -c autovacuum=off -c jit=off -c deadlock_timeout=100ms -c timezone=Asia/Kolkata"#,
        // An immediate shutdown: children and shared memory go too.
        stop_signal: "QUIT",
        folder_of,
    })
}

/// `SHOW data_directory`; asked outside any runtime, so it brings its own.
fn folder_of(port: u16) -> Option<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = PgConnection::connect(&server_url(port)).await.ok()?;
        let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.ok()?;
        connection.close().await.ok()?;
        Some(PathBuf::from(folder))
    })
}

#[tokio::test]
async fn every_test_gets_a_postgres_database_of_its_own() {
    let (one, other) = (fresh().await, fresh().await);
    assert_ne!(one, other);
    for url in [one, other] {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("CREATE TABLE clans ()").execute(&mut connection).await.expect("the database is empty");
    }
}

#[tokio::test]
async fn the_contract_database_has_the_six_tables() {
    let mut connection = PgConnection::connect(&fresh_with_contract().await).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(tables, ["clan_memberships", "clan_snapshots", "clans", "player_snapshots", "players", "war_snapshots"]);
}

#[tokio::test]
async fn a_private_postgres_can_be_stopped_and_started_again() {
    let mut server = PrivatePostgres::start().await;
    let url = server.url_with_contract().await;
    server.stop().await;
    PgConnection::connect(&url).await.expect_err("nobody listens");
    server.start_again().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let clans: i64 = sqlx::query_scalar("SELECT count(*) FROM clans").fetch_one(&mut connection).await.unwrap();
    assert_eq!(clans, 0);
}
