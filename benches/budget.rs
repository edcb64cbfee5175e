//! How much of the API's budget a run uses, and whether it is ever exceeded.
//!
//! A full queue on real Redis and PostgreSQL, the simulator at 150 ms answer time, 30 calls a second, 20 s:
//!
//! ```text
//! cargo bench --bench budget
//! ```
//!
//! Prints calls made / calls allowed by the cap within a run (budget: at least 98 %), and the most calls that the
//! simulator saw in any sliding second, over one run and over runs that overlap and take over from one another
//! (budget: 30).

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    app,
    clock::{Clock, SystemClock},
    config::{ApiConfig, DatabaseConfig, RedisConfig, WorkerConfig},
    model::{ObjectId, Priority, Wish},
    queue::{Queue, redis::RedisQueue},
    sim::{SimConfig, Simulator},
    store::{Store, postgres::PostgresStore},
    worker::{RunOptions, Runs, Unwatched, Worker, report::RunReport},
};

const TOKEN: &str = "budget";
const CAP: u32 = 30;
const LATENCY: Duration = Duration::from_millis(150);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let simulator = simulator().await;
    let redis = support::redis::fresh().await;
    let postgres = support::postgres::fresh().await;
    let worker = worker(&redis, &postgres, &simulator);
    worker.store.migrate().await.expect("the migrations run");
    fill(&worker, &simulator).await;

    let report = Box::pin(run(&worker, seconds)).await;
    let most = simulator.most_in_any_second(TOKEN);
    println!("one run of {seconds} s at {CAP}/s, {} ms answers, queue full:", LATENCY.as_millis());
    println!("  calls made                  {}", report.api_requests);
    println!("  calls made / calls allowed  {:.2} %   (budget: >= 98 %)", report.budget_used * 100.0);
    println!("  most in any sliding second  {most}        (budget: <= {CAP})");
    println!("  stored {}, stopped because {}", report.outcomes["stored"], report.stopped_because.as_str());

    let before = simulator.total_calls();
    let other = self::worker(&redis, &postgres, &simulator);
    let mut turned_away = 0;
    for _ in 0..10 {
        // Two invocations at once, then the next two at once, without a pause: every handover there is.
        let (one, two) = tokio::join!(run(&worker, 1), run(&other, 1));
        turned_away += [one, two].iter().filter(|report| report.stopped_because.is_turned_away()).count();
    }
    println!("20 overlapping runs of 1 s, one key:");
    println!("  calls made                  {}", simulator.total_calls() - before);
    println!("  turned away                 {turned_away}");
    println!("  most in any sliding second  {}        (budget: <= {CAP})", simulator.most_in_any_second(TOKEN));
}

async fn simulator() -> Simulator {
    let config = SimConfig { clans: 120, tokens: vec![TOKEN.to_owned()], latency: LATENCY, ..SimConfig::default() };
    Simulator::start(config).await.expect("a loopback port is free")
}

fn worker(redis: &str, postgres: &str, simulator: &Simulator) -> Worker<RedisQueue, PostgresStore> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let redis = RedisConfig { url: redis.into(), namespace: "refresh".to_owned() };
    let database =
        DatabaseConfig { url: postgres.into(), max_connections: 5, statement_cache: 100, auto_migrate: true };
    let api =
        ApiConfig { base_url: simulator.base_url(), tokens: vec![TOKEN.into()], reqs_per_sec: CAP, keys_per_run: None };
    let config = WorkerConfig { deadline_buffer: Duration::ZERO, ..WorkerConfig::default() };
    let queue = RedisQueue::connect(&redis, clock).expect("the URL is one");
    let store = PostgresStore::connect(&database).expect("the URL is one");
    app::worker(Arc::new(queue), Arc::new(store), &api, &config).expect("the parts fit")
}

async fn run(worker: &Worker<RedisQueue, PostgresStore>, seconds: u64) -> RunReport {
    let options = RunOptions { time_left: Some(Duration::from_secs(seconds)), ..RunOptions::default() };
    Box::pin(worker.run(options, &Unwatched)).await
}

async fn fill(worker: &Worker<RedisQueue, PostgresStore>, simulator: &Simulator) {
    let now = worker.queue.time().await.expect("Redis answers");
    let census = simulator.world();
    let players = census.player_tags().iter().cloned().map(ObjectId::player);
    let clans = census.clan_tags().iter().cloned().map(ObjectId::clan);
    let wishes: Vec<Wish> = players.chain(clans).map(|object| Wish::now(object, Priority::High, now)).collect();
    worker.queue.enqueue(now, &wishes).await.expect("Redis answers");
    println!("{} requests wait", wishes.len());
}
