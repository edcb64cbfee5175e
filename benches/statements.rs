//! The cost of every statement when the tables have grown for years, with plans for these arguments (custom) and for any
//! arguments (generic). PostgreSQL may choose the latter for a prepared statement after five executions.
//!
//! ```text
//! cargo bench --bench statements
//! ```
//!
//! Two databases on a private server: one with the objects of one commit (64 clans, 3,200 players; about a thousand rows a
//! table), one with 207,000 players, 8,000 clans, 1.4 million player snapshots, 1.8 million memberships, a million old jobs
//! and 10,000 runs. Prints a line for each statement: rows it reads or changes, milliseconds in each database, their ratio,
//! pages it touches.
//! A statement that is about a commit or about one object may take at most 4 times as long in the large database, with a
//! generic plan; a millisecond or less counts as one. One that has to read all there is (it says what) may take at most 4
//! times as long with a generic plan as with a custom one. Fails when one does not, or when a statement is not listed.
//! `BENCH_STATEMENT=take` measures only those with this in their name.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/store/every_statement.rs"]
mod every_statement;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use every_statement::{Cost, STATEMENTS, Size, Statement, exec, fill, unlisted};
use refresh_worker::{
    config::DatabaseConfig,
    store::{Store as _, postgres::PostgresStore},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The allowed ratio of times.
const MOST: f64 = 4.0;

/// Shorter times count as this.
const FLOOR: Duration = Duration::from_millis(1);

/// The fastest of several executions counts; a slow one is not repeated often.
const ENOUGH: Duration = Duration::from_secs(2);
const MOST_EXECUTIONS: u32 = 5;

/// The measured cost of a statement in one database.
#[derive(Clone, Copy, Debug)]
struct Taken {
    custom: Duration,
    generic: Duration,
    rows: u64,
    pages: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let unlisted = unlisted();
    assert!(unlisted.is_empty(), "not listed in tests/it/store/every_statement.rs: {unlisted:?}");
    let server = support::postgres::PrivatePostgres::start().await;
    let mut small = database(&server.url(), "small", Size::SMALL).await;
    let mut large = database(&server.url(), "large", Size::LARGE).await;
    println!(
        "{:<42} {:>7}  {:>31}  {:>31}  {:>6}",
        "", "rows", "1 k rows: custom, generic, pages", "1 M rows: custom, generic, pages", "ratio"
    );
    let wanted = std::env::var("BENCH_STATEMENT").unwrap_or_default();
    let mut missed = Vec::new();
    for statement in STATEMENTS.iter().filter(|statement| statement.name().contains(&wanted)) {
        let one = measure(&mut small, statement).await;
        let other = measure(&mut large, statement).await;
        let (ratio, what) = match statement.cost {
            Cost::Bounded => (ratio(other.generic, one.generic), ""),
            Cost::Grows(what) => (ratio(other.generic, other.custom), what),
        };
        let note = match statement.cost {
            Cost::Bounded => String::new(),
            Cost::Grows(what) => format!("  (generic / custom) reads {what}"),
        };
        println!(
            "{:<42} {:>7}  {:>10.2} {:>10.2} {:>9}  {:>10.2} {:>10.2} {:>9}  {ratio:>6.1}{note}",
            statement.name(),
            other.rows,
            millis(one.custom),
            millis(one.generic),
            one.pages,
            millis(other.custom),
            millis(other.generic),
            other.pages,
        );
        if ratio > MOST {
            missed.push(format!(
                "{} ({ratio:.1}{})",
                statement.name(),
                if what.is_empty() { "" } else { " of custom" }
            ));
        }
    }
    small.close().await.expect("a clean end");
    large.close().await.expect("a clean end");
    if !missed.is_empty() {
        eprintln!("more than {MOST} times as long: {}", missed.join(", "));
        drop(server);
        std::process::exit(1);
    }
}

/// A filled database of this name, and a connection to it whose settings are those of a server as it comes.
async fn database(server: &str, name: &str, size: Size) -> PgConnection {
    let began = Instant::now();
    let mut connection = PgConnection::connect(server).await.expect("the private PostgreSQL answers");
    exec(&mut connection, &format!("CREATE DATABASE {name}")).await;
    let mut url = url::Url::parse(server).expect("a database URL");
    url.set_path(name);
    let config =
        DatabaseConfig { url: url.as_str().into(), max_connections: 1, statement_cache: 100, auto_migrate: true };
    let store = PostgresStore::connect(&config).expect("the address is right");
    store.migrate().await.expect("the migrations run");
    let mut connection = PgConnection::connect(url.as_str()).await.expect("the private PostgreSQL answers");
    fill(&mut connection, size).await;
    exec(&mut connection, "SET jit = on; SET work_mem = '4MB'").await;
    println!("{name}: filled in {:.1} s", began.elapsed().as_secs_f64());
    connection
}

async fn measure(connection: &mut PgConnection, statement: &Statement) -> Taken {
    let execute = statement.prepare(connection).await;
    exec(connection, "SET plan_cache_mode = force_custom_plan").await;
    let (custom, _) = fastest(connection, &execute).await;
    exec(connection, "SET plan_cache_mode = force_generic_plan").await;
    let (generic, rows) = fastest(connection, &execute).await;
    let plan = statement.plan(connection, &execute, true).await;
    let pages = |name: &str| plan["Plan"][name].as_u64().unwrap_or(0);
    Taken { custom, generic, rows, pages: pages("Shared Hit Blocks") + pages("Shared Read Blocks") }
}

/// The fastest execution, each undone.
async fn fastest(connection: &mut PgConnection, execute: &str) -> (Duration, u64) {
    let (mut fastest, mut all, mut rows) = (Duration::MAX, Duration::ZERO, 0);
    for _ in 0..MOST_EXECUTIONS {
        exec(connection, "BEGIN").await;
        let began = Instant::now();
        let done = sqlx::raw_sql(AssertSqlSafe(execute)).execute(&mut *connection).await;
        let took = began.elapsed();
        rows = done.unwrap_or_else(|error| panic!("{error}")).rows_affected();
        exec(connection, "ROLLBACK").await;
        fastest = fastest.min(took);
        all += took;
        if all > ENOUGH {
            break;
        }
    }
    (fastest, rows)
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.max(FLOOR).as_secs_f64() / other.max(FLOOR).as_secs_f64()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
