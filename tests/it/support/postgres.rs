//! PostgreSQL for tests: a database each, on one private server whose disk writes are not awaited.
//!
//! The server's time zone is far from UTC on purpose: a statement that takes the session's `now()` for UTC fails here.

use std::{
    cell::RefCell,
    env,
    path::PathBuf,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::server::{Recipe, Server, find_folder_with, folders_like};

const CONTRACT: &str = include_str!("contract.sql");

/// The changes of others to the contract tables over the years: every type differs, and readers do not notice.
const CHANGED_TYPES: &str = "
    DO $$
    DECLARE c record;
    BEGIN
        FOR c IN SELECT table_name AS t, column_name AS n, data_type AS d FROM information_schema.columns
                 WHERE table_schema = 'public'
        LOOP
            EXECUTE format(
                'ALTER TABLE %I ALTER COLUMN %I TYPE %s',
                c.t, c.n,
                CASE c.d
                    WHEN 'json' THEN 'jsonb'
                    WHEN 'bigint' THEN 'integer'
                    WHEN 'integer' THEN CASE c.n WHEN 'town_hall' THEN 'smallint' WHEN 'trophies' THEN 'numeric'
                                                 ELSE 'bigint' END
                    WHEN 'timestamp without time zone' THEN format('timestamptz USING %I AT TIME ZONE ''UTC''', c.n)
                    ELSE CASE c.n WHEN 'name' THEN 'varchar(80)' WHEN 'clan_tag' THEN 'varchar' ELSE 'text' END
                END);
        END LOOP;
    END
    $$";

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

/// The same, after others have changed every type to one that readers do not notice.
pub async fn fresh_with_changed_types() -> String {
    let server = shared_url().await;
    let template = changed_template(&server).await;
    create_database(&server, Some(&template)).await
}

/// The URL of an empty database of its own whose texts are kept in another encoding than ours.
pub async fn fresh_in_encoding(encoding: &str) -> String {
    let template = format!("template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
    create_database(&shared_url().await, Some(&template)).await
}

/// A private server, for tests of outages and of settings.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: Option<Server>,
}

impl PrivatePostgres {
    pub async fn start() -> Self {
        Self::start_as(|| start_as("minimal", INITDB)).await
    }

    async fn start_as(start: impl FnOnce() -> Result<Server, String> + Send + 'static) -> Self {
        let server = tokio::task::spawn_blocking(start).await.expect("a private PostgreSQL starts");
        Self { server: Some(server.unwrap_or_else(|problem| panic!("{problem}"))) }
    }

    /// Carries statements out, one by one.
    pub async fn exec(&self, statements: &[&str]) {
        let mut connection = PgConnection::connect(&self.url()).await.expect("the private PostgreSQL answers");
        for statement in statements {
            let done = sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut connection).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        connection.close().await.expect("a clean end");
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

/// A primary and a real standby of it, which streams.
#[derive(Debug)]
pub struct PostgresPair {
    pub primary: PrivatePostgres,
    pub standby: PrivatePostgres,
}

impl PostgresPair {
    /// Starts both. The standby is a copy of the stopped primary.
    pub async fn start() -> Self {
        let mut primary = PrivatePostgres::start_as(|| start_as("replica", INITDB)).await;
        primary.exec(&["CHECKPOINT"]).await;
        let folder = folder_at(primary.port()).await.expect("the primary reports its folder");
        primary.stop().await;
        let prepare = STANDBY
            .replace("{folder}", folder.to_str().expect("a plain name"))
            .replace("{port}", &primary.port().to_string());
        // A recipe's texts live as long as the process.
        let prepare: &'static str = prepare.leak();
        primary.start_again().await;
        let standby = PrivatePostgres::start_as(move || start_as("replica", prepare)).await;
        let pair = Self { primary, standby };
        pair.wait_until_streamed().await;
        pair
    }

    /// Waits until the standby has all that the primary has written.
    pub async fn wait_until_streamed(&self) {
        let mut primary = PgConnection::connect(&self.primary.url()).await.expect("the primary answers");
        let mut standby = PgConnection::connect(&self.standby.url()).await.expect("the standby answers");
        let written: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text")
            .fetch_one(&mut primary)
            .await
            .expect("the place of the primary");
        let has_all = async {
            loop {
                let has: Option<bool> = sqlx::query_scalar("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn")
                    .bind(&written)
                    .fetch_one(&mut standby)
                    .await
                    .expect("the place of the standby");
                if has == Some(true) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), has_all).await.expect("the standby streams");
    }

    /// Makes the standby a primary, once it has everything. What was the primary goes on.
    pub async fn promote(&self) {
        self.wait_until_streamed().await;
        self.standby.exec(&["SELECT pg_promote()"]).await;
    }
}

async fn shared_url() -> String {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    let started = || match env::var("TEST_DATABASE_URL") {
        Ok(url) => url,
        Err(_) => match SHARED.get_or_init(|| start_as("minimal", INITDB)) {
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
    TEMPLATE.get_or_init(|| template_of(server, CONTRACT)).await.clone()
}

async fn changed_template(server: &str) -> String {
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    let sql = format!("{CONTRACT};{CHANGED_TYPES}");
    TEMPLATE.get_or_init(|| template_of(server, &sql)).await.clone()
}

async fn template_of(server: &str, sql: &str) -> String {
    let url = create_database_unowned(server, None).await;
    let mut connection = PgConnection::connect(&url).await.expect("the template answers");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the contract tables");
    connection.close().await.expect("the template is left, so that it can be copied");
    database_name(&url)
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

/// The databases made on one thread. A test is a thread, so they are dropped when it ends: each takes 8 MB.
struct Databases(Vec<String>);

impl Drop for Databases {
    fn drop(&mut self) {
        LEFT_BEHIND.lock().append(&mut self.0);
    }
}

thread_local! {
    static OF_THIS_TEST: RefCell<Databases> = const { RefCell::new(Databases(Vec::new())) };
}

/// Databases of ended tests; whoever makes the next one drops them.
static LEFT_BEHIND: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn take_left_behind() -> Vec<String> {
    std::mem::take(&mut *LEFT_BEHIND.lock())
}

const INITDB: &str = r#"as=
    if [ "$(id -u)" = 0 ]; then
        chown postgres "$folder"
        as="setpriv --reuid=postgres --regid=postgres --clear-groups"
    fi
    $as "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C --no-sync"#;

const STANDBY: &str = r#"
    if [ "$(id -u)" = 0 ]; then chown postgres "$folder"; fi
    cp -a "{folder}" "$folder/data"
    rm -f "$folder/data/postmaster.pid"
    cp -p "$folder/data/PG_VERSION" "$folder/data/standby.signal"
    echo "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'" >> "$folder/data/postgresql.auto.conf""#;

fn start_as(wal_level: &str, prepare: &'static str) -> Result<Server, String> {
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
        prepare,
        serve: if wal_level == "replica" { REPLICATED } else { ALONE },
        // An immediate shutdown: children and shared memory go too.
        stop_signal: "QUIT",
        folder_of,
    })
}

macro_rules! serve {
    ($settings:literal) => {
        concat!(
            r#"as=
            [ "$(id -u)" != 0 ] || as="setpriv --reuid=postgres --regid=postgres --clear-groups"
            exec $as "$bin/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1 \
                -c unix_socket_directories= -c max_connections=400 -c shared_buffers=64MB -c fsync=off \
                -c full_page_writes=off -c autovacuum=off -c jit=off -c deadlock_timeout=100ms \
                -c timezone=Asia/Kolkata "#,
            $settings
        )
    };
}

const ALONE: &str = serve!("-c wal_level=minimal -c max_wal_senders=0");

const REPLICATED: &str =
    serve!("-c wal_level=replica -c max_wal_senders=4 -c hot_standby=on -c wal_retrieve_retry_interval=50ms");

/// `SHOW data_directory`; asked outside any runtime, so it brings its own.
fn folder_of(port: u16) -> Option<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(folder_at(port))
}

async fn folder_at(port: u16) -> Option<PathBuf> {
    let mut connection = PgConnection::connect(&server_url(port)).await.ok()?;
    let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.ok()?;
    connection.close().await.ok()?;
    Some(PathBuf::from(folder))
}

#[tokio::test]
async fn standby_refuses_writes_until_promoted() {
    let pair = PostgresPair::start().await;
    pair.primary.exec(&["CREATE TABLE streamed ()"]).await;
    pair.wait_until_streamed().await;
    let mut standby = PgConnection::connect(&pair.standby.url()).await.unwrap();
    sqlx::raw_sql("TABLE streamed").execute(&mut standby).await.unwrap();
    sqlx::raw_sql("DROP TABLE streamed").execute(&mut standby).await.expect_err("a standby is read-only");
    pair.promote().await;
    sqlx::raw_sql("DROP TABLE streamed").execute(&mut standby).await.unwrap();
}

#[tokio::test]
async fn fresh_postgres_databases_are_separate() {
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
async fn private_postgres_restarts() {
    let mut server = PrivatePostgres::start().await;
    let url = server.url_with_contract().await;
    server.stop().await;
    PgConnection::connect(&url).await.expect_err("nobody listens");
    server.start_again().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let clans: i64 = sqlx::query_scalar("SELECT count(*) FROM clans").fetch_one(&mut connection).await.unwrap();
    assert_eq!(clans, 0);
}
