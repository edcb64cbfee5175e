//! The share of the API's budget that a run uses, and calls beyond it.
//!
//! A full queue on real Redis and PostgreSQL, the simulator at 150 ms answer time, 30 calls a second, 20 s:
//!
//! ```text
//! cargo bench --bench budget
//! ```
//!
//! Prints calls made / calls allowed by the cap within a run (budget: at least 98 %), and the most calls that the
//! simulator saw in any sliding second, over one run and over runs that overlap and take over from one another
//! (budget: 30 a key). The same with five keys, players only: in five runs with `KEYS_PER_RUN=1`, and in one run with all.
//! Fails when a key was called more often than that; how much of the budget was used depends on the machine, and is only
//! shown as PASS or FAIL.
//! `BENCH_WITH=everything` switches on all that can follow a commit and a run: events, readers' keys, follow-ups, a view, a
//! statistics job, and an application whose cached tags are invalidated.
//! `BENCH_SECONDS` makes the runs longer or shorter, `BENCH_PART=one` or `many` leaves the other part out.

#[path = "support/everything.rs"]
mod everything;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{sync::Arc, thread, time::Duration};

use everything::Everything;
use refresh_worker::{
    app,
    clock::{Clock, SystemClock},
    config::{ApiConfig, DatabaseConfig, RedisConfig, WorkerConfig},
    maintenance::{Database, Maintenance},
    model::{ObjectId, Priority, RefreshRequest},
    queue::{Queue, redis::RedisQueue},
    sim::{SimConfig, Simulator},
    store::{Store, postgres::PostgresStore},
    worker::{RunOptions, Runs, Unwatched, Worker, report::RunReport},
};
use tokio::runtime::{self, Runtime};

const TOKEN: &str = "budget";
const KEYS: [&str; 5] = ["key-1", "key-2", "key-3", "key-4", "key-5"];
const CAP: u32 = 30;
const LATENCY: Duration = Duration::from_millis(150);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let part = std::env::var("BENCH_PART").unwrap_or_default();
    let mut most = 0;
    if part != "many" {
        most = most.max(Box::pin(one_key(seconds)).await);
    }
    if part != "one" {
        most = most.max(Box::pin(many_keys(seconds)).await);
    }
    assert!(is_within_cap(most), "{most} calls of one key began within a second, {CAP} are allowed");
}

fn is_within_cap(most: usize) -> bool {
    u32::try_from(most).is_ok_and(|most| most <= CAP)
}

const fn verdict(passes: bool) -> &'static str {
    if passes { "PASS" } else { "FAIL" }
}

/// The share of the allowed calls that was used, against its budget.
fn told_use(share: f64) -> String {
    format!("{:.2} %   (budget: >= 98 %) {}", share * 100.0, verdict(share >= 0.98))
}

/// The most calls in any second, against the cap.
fn told_most(most: usize) -> String {
    format!("{most}   (budget: <= {CAP}) {}", verdict(is_within_cap(most)))
}

/// Answers the most calls in any second.
async fn one_key(seconds: u64) -> usize {
    let simulator = simulator(120, &[TOKEN]);
    let redis = support::redis::fresh().await;
    let postgres = support::postgres::fresh().await;
    let everything = prepared(&postgres).await;
    let worker = worker(&redis, &postgres, &simulator, &[TOKEN], None, everything.as_ref());
    let census = simulator.world();
    let players = census.player_tags().iter().cloned().map(ObjectId::player);
    fill(&worker, players.chain(census.clan_tags().iter().cloned().map(ObjectId::clan))).await;

    let report = Box::pin(run(&worker, seconds)).await;
    let most = simulator.most_in_any_second(TOKEN);
    println!("one run of {seconds} s at {CAP}/s, {} ms answers, queue full:", LATENCY.as_millis());
    println!("  calls made                  {}", report.api_requests);
    println!("  calls made / calls allowed  {}", told_use(report.budget_used));
    println!("  most in any sliding second  {}", told_most(most));
    if let Some(everything) = &everything {
        println!("  {}", everything.published(&redis).await);
        println!("  after the run: {}", serde_json::to_string(&report.after).expect("a report is JSON"));
    }
    println!("  stored {}, stopped because {}", report.outcomes["stored"], report.stopped_because.as_str());

    let before = simulator.total_calls();
    let other = self::worker(&redis, &postgres, &simulator, &[TOKEN], None, everything.as_ref());
    let mut turned_away = 0;
    for _ in 0..10 {
        // Two invocations at once, then the next two at once, without a pause: every handover there is.
        let (one, two) = tokio::join!(run(&worker, 1), run(&other, 1));
        turned_away += [one, two].iter().filter(|report| report.stopped_because.is_turned_away()).count();
    }
    println!("20 overlapping runs of 1 s, one key:");
    println!("  calls made                  {}", simulator.total_calls() - before);
    println!("  turned away                 {turned_away}");
    let most = simulator.most_in_any_second(TOKEN);
    println!("  most in any sliding second  {}", told_most(most));
    most
}

/// Five keys, and work for all of them in both ways. Answers the most calls of one key in any second.
async fn many_keys(seconds: u64) -> usize {
    let mut most_of_all = 0;
    for (runs, keys_per_run) in [(KEYS.len(), Some(1)), (1, None)] {
        // About 25 players a clan, and a third more of them than there are calls.
        let clans = usize::try_from(seconds).unwrap_or(20) * KEYS.len() * 30 / 18;
        let simulator = simulator(clans.max(16), &KEYS);
        let (redis, postgres) = (support::redis::fresh().await, support::postgres::fresh().await);
        let everything = prepared(&postgres).await;
        let one = || worker(&redis, &postgres, &simulator, &KEYS, keys_per_run, everything.as_ref());
        fill(&one(), simulator.world().player_tags().iter().cloned().map(ObjectId::player)).await;
        // A thread each, as each has a sandbox of its own in Lambda.
        let reports: Vec<_> = thread::scope(|threads| {
            let runs: Vec<_> =
                (0..runs).map(|_| threads.spawn(|| runtime().block_on(async { run(&one(), seconds).await }))).collect();
            runs.into_iter().map(|run| run.join().expect("a run never panics")).collect()
        });
        let calls = simulator.calls();
        let window =
            calls.last().zip(calls.first()).map_or(0.0, |(last, first)| last.at.saturating_sub(first.at).as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a bench makes thousands of calls")]
        let rate = calls.len() as f64 / window;
        let allowed = f64::from(CAP) * 5.0;
        println!("{runs} run(s) of {seconds} s, five keys, {keys_per_run:?} a run, players only:");
        println!("  calls made                  {}, {rate:.1} a second of {allowed}", calls.len());
        println!("  calls made / calls allowed  {}", told_use(rate / allowed));
        for key in KEYS {
            let made = calls.iter().filter(|call| call.token == key).count();
            let most = simulator.most_in_any_second(key);
            println!("  {key}                       {made} calls, most in any second {}", told_most(most));
            most_of_all = most_of_all.max(most);
        }
        for report in &reports {
            let (used, held) = (report.budget_used * 100.0, report.keys_held);
            println!("  a run: {held} key(s), {used:.2} % of its budget, {}", report.stopped_because.as_str());
        }
    }
    most_of_all
}

fn simulator(clans: usize, tokens: &[&str]) -> Simulator {
    let tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    let config = SimConfig { clans, tokens, latency: LATENCY, ..SimConfig::default() };
    Simulator::start_apart(config).expect("a loopback port is free")
}

fn worker(
    redis: &str,
    postgres: &str,
    simulator: &Simulator,
    tokens: &[&str],
    keys_per_run: Option<usize>,
    everything: Option<&Everything>,
) -> Worker<RedisQueue, PostgresStore> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let redis = RedisConfig { url: redis.into(), cluster: false, namespace: "refresh".to_owned() };
    let database =
        DatabaseConfig { url: postgres.into(), max_connections: 5, statement_cache: 100, auto_migrate: true };
    let api = ApiConfig {
        base_url: simulator.base_url(),
        tokens: tokens.iter().map(|token| (*token).into()).collect(),
        reqs_per_sec: CAP,
        keys_per_run,
        reqs_per_day: None,
        portal: None,
        max_body: refresh_worker::api::client::MAX_BODY_BYTES,
    };
    let (config, after) = everything.map_or_else(Default::default, Everything::configs);
    let config = WorkerConfig { deadline_buffer: Duration::ZERO, ..config };
    let queue = RedisQueue::connect(&redis, clock).expect("the URL is one");
    let store = PostgresStore::connect(&database).expect("the URL is one");
    let store = store.with_details(app::commit_details(&config, after.invalidation.is_some()));
    let after = Maintenance::new(&after, &Database::new(store.pool(), store.connections()))
        .expect("the settings are right")
        .map(Arc::new);
    let worker = app::worker(Arc::new(queue), Arc::new(store), &api, &config).expect("the parts fit");
    Worker { after, ..worker }
}

/// Makes the tables, and what is needed for everything that can follow.
async fn prepared(postgres: &str) -> Option<Everything> {
    let database =
        DatabaseConfig { url: postgres.into(), max_connections: 1, statement_cache: 100, auto_migrate: true };
    let store = PostgresStore::connect(&database).expect("the URL is one");
    store.migrate().await.expect("the migrations run");
    let everything = Everything::asked_for(postgres).await;
    if let Some(everything) = &everything {
        everything.enqueue_job().await;
    }
    everything
}

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn run(worker: &Worker<RedisQueue, PostgresStore>, seconds: u64) -> RunReport {
    let options = RunOptions { time_left: Some(Duration::from_secs(seconds)), ..RunOptions::default() };
    Box::pin(worker.run(options, &Unwatched)).await
}

async fn fill(worker: &Worker<RedisQueue, PostgresStore>, objects: impl Iterator<Item = ObjectId>) {
    let now = worker.queue.time().await.expect("Redis answers");
    let requests: Vec<RefreshRequest> =
        objects.map(|object| RefreshRequest::now(object, Priority::High, now)).collect();
    worker.queue.enqueue(now, &requests).await.expect("Redis answers");
    println!("{} requests wait", requests.len());
}
