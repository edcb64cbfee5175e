//! The cost of a commit to PostgreSQL: statements, and this process's CPU for each refreshed clan and player.
//!
//! ```text
//! cargo bench --bench store_commit
//! ```
//!
//! Documents have real sizes (a clan of 50 members about 45 KB, a player about 30 KB); the server is a private one on
//! loopback. Budgets: at most 14 statements a commit, BEGIN and COMMIT included; of the worker's whole CPU budget, 1.5 ms a
//! clan and 0.7 ms a player, this is the storing part. Teaching the planner may add a tenth of the CPU, and two statements.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/store/documents.rs"]
mod documents;
#[path = "../tests/it/store/event_count.rs"]
mod event_count;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use documents::{at, clan, nth_tag, player, war};
use event_count::EventCount;
use refresh_worker::{
    config::DatabaseConfig,
    model::{Answered, Document, Fetched},
    store::{Arm, CommitDetails, Looks as _, Store, Teaching, postgres::PostgresStore},
};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: i64 = 12;

/// BEGIN and its settings are one message of two statements, which the driver does not log.
const UNCOUNTED: usize = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = support::postgres::fresh().await;
    let config = DatabaseConfig { url: url.into(), max_connections: 2, statement_cache: 100, auto_migrate: true };
    let store = PostgresStore::connect(&config).expect("the address is right");
    store.migrate().await.expect("the migrations run");

    let statements = EventCount::of("sqlx::query");
    let mut most = 0;
    for (round, batch) in [mixed(0, 1), mixed(300, 2), mixed(600, 2)].iter().enumerate() {
        statements.take();
        commit(&store, batch).await;
        most = most.max(statements.take() + UNCOUNTED);
        println!("batch of {} ({}): {most} statements at most so far", batch.len(), ["new", "changed", "same"][round]);
    }
    drop(statements);
    println!("statements per commit       {most}      (budget: <= 14)");

    report(&store, "clan of 50", 8, clans).await;
    report(&store, "player", 32, players).await;
    for size in [1, 8] {
        teaching(&store, size).await;
    }
}

/// The rounds of each which, one by one in turn, so that both meet the same machine.
const TURNS: i64 = 150;

/// Commits of clans of 50, five of whose members were active, with the planner and without.
async fn teaching(store: &PostgresStore, size: usize) {
    let details = CommitDetails {
        teaching: Some(Teaching { recorded_percent: 1, ..Teaching::default() }),
        ..CommitDetails::default()
    };
    let taught = store.clone().with_details(details);
    taught.move_level(Arm::Main, -5.0, at(2_000_000)).await.expect("the level moves");
    let pool = store.pool();
    let (mut here, mut there) = ([Duration::ZERO; 2], [Duration::ZERO; 2]);
    let mut base = 3_000_000 + 1_000_000 * i64::try_from(size).expect("small");
    for turn in 0..TURNS * 2 + 4 {
        let which = usize::from(turn % 2 == 1);
        base += 300;
        let batch: Vec<Fetched> = (0..size).map(|number| lively_clan(number, turn, base)).collect();
        let (cpu, server) = (cpu_time(), server_time(&pool).await);
        commit(if which == 1 { &taught } else { store }, &batch).await;
        let (cpu, server) = (cpu_time().saturating_sub(cpu), server_time(&pool).await.saturating_sub(server));
        // The first turns prepare the statements.
        if turn >= 4 {
            here[which] += cpu;
            there[which] += server;
        }
    }
    let each = |whole: Duration| whole.as_secs_f64() * 1000.0 / f64::from(u32::try_from(size).expect("small")) / 150.0;
    for (what, [off, on]) in [("worker", here), ("server", there)] {
        let more = (on.as_secs_f64() / off.as_secs_f64() - 1.0) * 100.0;
        println!(
            "clan of 50, batches of {size}, CPU of the {what}: planner off {:.3} ms, on {:.3} ms ({more:+.1} %)",
            each(off),
            each(on)
        );
    }
}

/// A clan with new content, of whose members each is active in one of ten turns.
fn lively_clan(number: usize, turn: i64, began: i64) -> Fetched {
    let members = (0..50).map(|n| {
        let active = (turn + i64::try_from(n).expect("small")) / 10;
        player(nth_tag(number * 50 + n).as_str()).donations(i32::try_from(active).expect("few turns"))
    });
    let level = i32::try_from(turn).expect("few turns");
    padded(clan(nth_tag(9000 + number).as_str()).level(level).with(members).fetched(at(began)), 36_000)
}

/// The CPU time of the sessions of this program.
async fn server_time(pool: &sqlx::PgPool) -> Duration {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'",
    )
    .fetch_all(pool)
    .await
    .expect("the sessions");
    let nanos = pids.iter().filter_map(|pid| {
        let times = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Makes a batch that began then, in this version.
type Batch = fn(i64, i32) -> Vec<Fetched>;

async fn report(store: &PostgresStore, name: &str, size: usize, make: Batch) {
    for changes in [true, false] {
        let cost = measure(store, size, changes, make).await;
        let what = if changes { "changed" } else { "unchanged" };
        println!(
            "{name:<10} {what:<9}  CPU {:.3} ms   wall {:.3} ms each, in batches of {size}",
            cost.cpu.as_secs_f64() * 1000.0,
            cost.wall.as_secs_f64() * 1000.0
        );
    }
}

struct Cost {
    cpu: Duration,
    wall: Duration,
}

async fn measure(store: &PostgresStore, size: usize, changes: bool, make: Batch) -> Cost {
    let base = if changes { 10_000 } else { 1_000_000 };
    let version = |round: i64| if changes { i32::try_from(round).expect("few rounds") } else { 99 };
    // Rows and statements are there before the clock runs.
    for round in 0..2 {
        commit(store, &make(base + round * 300, version(round))).await;
    }
    let batches: Vec<Vec<Fetched>> = (2..2 + ROUNDS).map(|round| make(base + round * 300, version(round))).collect();
    let (cpu, wall) = (cpu_time(), Instant::now());
    for batch in &batches {
        commit(store, batch).await;
    }
    let each = |whole: Duration| whole / u32::try_from(size).expect("small") / u32::try_from(ROUNDS).expect("few");
    Cost { cpu: each(cpu_time().saturating_sub(cpu)), wall: each(wall.elapsed()) }
}

async fn commit(store: &PostgresStore, batch: &[Fetched]) {
    let last = batch.iter().map(|fetched| fetched.began).max().expect("a batch");
    store.commit(last, batch).await.expect("the batch is stored");
}

fn clans(began: i64, version: i32) -> Vec<Fetched> {
    let of = |number: usize| {
        let members = (0..50).map(|n| player(nth_tag(number * 50 + n).as_str()).donations(version));
        padded(clan(nth_tag(9000 + number).as_str()).level(version).with(members).fetched(at(began)), 36_000)
    };
    (0..8).map(of).collect()
}

fn players(began: i64, version: i32) -> Vec<Fetched> {
    let of = |number: usize| {
        let player = player(nth_tag(number).as_str()).of(nth_tag(9000 + number / 50).as_str());
        padded(player.trophies(version).fetched(at(began)), 30_000)
    };
    (0..32).map(of).collect()
}

fn mixed(began: i64, version: i32) -> Vec<Fetched> {
    let mut batch = clans(began, version);
    batch.extend(players(began, version));
    batch.extend((0..24).map(|number| {
        let (clan, member) = (nth_tag(9000 + number), nth_tag(number));
        war(clan.as_str(), &[(member.as_str(), version)]).fetched(at(began))
    }));
    batch
}

/// Fills the document up to a real size with what real documents are made of.
fn padded(mut fetched: Fetched, bytes: usize) -> Fetched {
    let unit = r#"{"name":"Barbarian King","level":61,"maxLevel":95,"village":"home"},"#;
    let filling = unit.repeat(bytes / unit.len());
    let json = match &mut fetched.answered {
        Answered::Document(Document::Clan(clan)) => &mut clan.json,
        Answered::Document(Document::Player(player)) => &mut player.json,
        _ => return fetched,
    };
    let start = json.strip_suffix('}').expect("an object");
    *json = format!("{start},\"filling\":[{}]}}", filling.trim_end_matches(',')).into();
    fetched
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
