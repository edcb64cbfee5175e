//! Planned looks beside requests: how long a request waits for them, and how much of the budget two runs use together.
//!
//! Real Redis and PostgreSQL, the simulator at 150 ms answer time, 30 calls a second and key:
//!
//! ```text
//! cargo bench --bench planned
//! ```
//!
//! `wait`: 200 urgent entries, one after the other, into the mailbox of a run that is busy with planned looks. Prints the time from
//! `ZADD` to the arrival of the call (budget: 99 % within 0.75 s).
//! `overlap`: two runs with a key each and nothing requested. Prints the share of the budget that they use (budget: at least 97 %), and
//! the objects that were called for twice within the API's `max-age` (budget: none).
//! Fails when an object was called for twice, or a key more often than 30 times in any second; times depend on the machine, and are
//! only shown as PASS or FAIL.
//! `BENCH_SECONDS` sets the time of the second part (60), `BENCH_PART=wait` or `overlap` leaves the other part out.

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use refresh_worker::{
    app,
    clock::{Clock, SystemClock},
    config::{ApiConfig, DatabaseConfig, FollowUpConfig, PlannerConfig, RedisConfig, WorkerConfig},
    model::Tag,
    queue::redis::RedisQueue,
    sim::{SimConfig, Simulator},
    store::{Store, Teaching, postgres::PostgresStore},
    worker::{RunOptions, Runs, Unwatched, Worker, report::RunReport},
};
use sqlx::Connection as _;
use tokio::{runtime, time::Instant};

const CAP: u32 = 30;
const LATENCY: Duration = Duration::from_millis(150);

/// The shortest `max-age` of the simulator, that of players, less the time that a call may take.
const MAX_AGE: Duration = Duration::from_secs(55);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let part = std::env::var("BENCH_PART").unwrap_or_default();
    if part != "overlap" {
        Box::pin(wait(200)).await;
    }
    if part != "wait" {
        Box::pin(overlap(seconds)).await;
    }
}

const fn verdict(passes: bool) -> &'static str {
    if passes { "PASS" } else { "FAIL" }
}

/// Urgent entries into a busy run.
async fn wait(entries: usize) {
    let part = Part::new(400, &["key-1"]).await;
    let tags = part.simulator.world().player_tags().to_vec();
    let (wanted, known) = tags.split_at(entries);
    part.know(known).await;
    let worker = part.worker(None);
    let time = Duration::from_secs(20) + Duration::from_secs(1) * u32::try_from(entries).expect("a few hundred");
    let runs = thread::spawn(move || runtime().block_on(run(&worker, time)));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut redis = support::redis::connect(&part.redis).await.expect("Redis answers");
    let mut waits = Vec::new();
    for tag in wanted {
        // At times that have nothing to do with the worker's.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..450))).await;
        let id = format!("player:{tag}");
        let now = SystemClock.wall();
        let value = format!(r#"{{"id":"{id}","type":"player","tag":"{tag}","priority":1,"requested_at":"{now}"}}"#);
        let asked = Instant::now();
        let mut entry = redis::pipe();
        entry.cmd("HSET").arg("refresh_requests").arg(&id).arg(value);
        entry.cmd("ZADD").arg("refresh_queue").arg(1).arg(&id);
        entry.exec_async(&mut redis).await.expect("Redis answers");
        while part.simulator.calls_to(tag.as_str()).is_empty() {
            assert!(asked.elapsed() < Duration::from_secs(60), "no call was made for {tag}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        waits.push(asked.elapsed().as_secs_f64());
    }
    let report = runs.join().expect("a run never panics");
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits[(waits.len() * share / 100).min(waits.len() - 1)];
    let planned = report.planned.expect("the planner is on");
    println!(
        "{entries} urgent entries into a run busy with planned looks ({} in {:.0} s):",
        planned.looks, report.runtime_seconds
    );
    println!("  from ZADD to the call       median {:.3} s, 99 % {:.3} s, most {:.3} s", at(50), at(99), at(100));
    println!("                              (budget: 99 % within 0.75 s) {}", verdict(at(99) <= 0.75));
    println!("  told by the report          99 % within {:?} s, to the commit", planned.mail_wait_p99_seconds);
}

/// Two runs with a key each.
async fn overlap(seconds: u64) {
    let keys = ["key-1", "key-2"];
    // An object whose readers are not known is looked at every 15 minutes at most, so that they can be heard: 60 a second for that time.
    let part = Part::new(2600, &keys).await;
    let objects = part.simulator.world().player_tags().to_vec();
    part.know(&objects).await;
    let reports: Vec<RunReport> = thread::scope(|threads| {
        let time = Duration::from_secs(seconds);
        let runs: Vec<_> = (0..2)
            .map(|_| {
                let worker = part.worker(Some(1));
                threads.spawn(move || runtime().block_on(async { run(&worker, time).await }))
            })
            .collect();
        runs.into_iter().map(|run| run.join().expect("a run never panics")).collect()
    });
    let calls = part.simulator.calls();
    let mut last = HashMap::new();
    let mut twice = 0;
    for call in &calls {
        let before = last.insert(call.path.clone(), call.at);
        twice += usize::from(before.is_some_and(|before| call.at.saturating_sub(before) < MAX_AGE));
    }
    let most = keys.map(|key| part.simulator.most_in_any_second(key));
    println!("two runs of {seconds} s, a key each, {} known objects, nothing requested:", objects.len());
    for report in &reports {
        let planned = report.planned.as_ref().expect("the planner is on");
        println!(
            "  a run: {} calls, {:.2} % of its budget (budget: >= 97 %) {}; {} looks, {} claims refused, level {:.2e}",
            report.api_requests,
            report.budget_used * 100.0,
            verdict(report.budget_used >= 0.97),
            planned.looks,
            planned.refused,
            planned.levels["main"]
        );
        println!("  its errors: {:?}", report.errors);
    }
    println!("  called twice within max-age {twice} of {} calls {}", calls.len(), verdict(twice == 0));
    println!(
        "  most in any sliding second  {most:?} (budget: <= {CAP}) {}",
        verdict(most.iter().all(|most| *most <= CAP as usize))
    );
    assert_eq!(twice, 0, "an object was called for twice within max-age");
    assert!(most.iter().all(|most| *most <= CAP as usize), "a key was called too often");
}

/// The servers of a part, and the simulator.
struct Part {
    redis: String,
    postgres: String,
    simulator: Simulator,
    keys: Vec<String>,
}

impl Part {
    async fn new(clans: usize, keys: &[&str]) -> Self {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let config = SimConfig { clans, tokens: keys.clone(), latency: LATENCY, ..SimConfig::default() };
        let simulator = Simulator::start_apart(config).expect("a loopback port is free");
        let (redis, postgres) = (support::redis::fresh().await, support::postgres::fresh().await);
        Self { redis, postgres, simulator, keys }
    }

    /// These players were fetched an hour ago.
    async fn know(&self, players: &[Tag]) {
        self.store().migrate().await.expect("the migrations run");
        let mut database = sqlx::PgConnection::connect(&self.postgres).await.expect("PostgreSQL answers");
        let tags: Vec<&str> = players.iter().map(Tag::as_str).collect();
        let insert = "INSERT INTO refresh_worker.refresh_state (kind, tag, fetched_at, fresh_until) \
                      SELECT 'player', tag, now() - interval '1 hour', now() - interval '59 minutes' FROM unnest($1::text[]) AS tag";
        sqlx::query(insert).bind(&tags).execute(&mut database).await.expect("our table");
        let spread = "INSERT INTO refresh_worker.plan (kind, tag, looked_at, next_look) \
                      SELECT 'player', tag, now() - interval '1 hour', now() + random() * interval '1 day' FROM unnest($1::text[]) AS tag";
        sqlx::query(spread).bind(&tags).execute(&mut database).await.expect("our table");
        sqlx::query("ANALYZE").execute(&mut database).await.expect("PostgreSQL answers");
    }

    fn store(&self) -> PostgresStore {
        let database = DatabaseConfig {
            url: self.postgres.as_str().into(),
            max_connections: 5,
            statement_cache: 100,
            auto_migrate: true,
        };
        PostgresStore::connect(&database).expect("the URL is one")
    }

    fn worker(&self, keys_per_run: Option<usize>) -> Worker<RedisQueue, PostgresStore> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let redis = RedisConfig { url: self.redis.as_str().into(), cluster: false, namespace: "refresh".to_owned() };
        let api = ApiConfig {
            base_url: self.simulator.base_url(),
            tokens: self.keys.iter().map(|key| key.as_str().into()).collect(),
            reqs_per_sec: CAP,
            keys_per_run,
            reqs_per_day: None,
            portal: None,
            max_body: refresh_worker::api::client::MAX_BODY_BYTES,
        };
        let planner = PlannerConfig { calls_per_second: 1000, teaching: Teaching::default() };
        let config = WorkerConfig {
            deadline_buffer: Duration::ZERO,
            follow_ups: FollowUpConfig::NONE,
            planner: Some(planner),
            ..WorkerConfig::default()
        };
        let queue = RedisQueue::connect(&redis, clock).expect("the URL is one");
        let store = self.store().with_details(app::commit_details(&config, false));
        app::worker(Arc::new(queue), Arc::new(store), &api, &config).expect("the parts fit")
    }
}

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn run(worker: &Worker<RedisQueue, PostgresStore>, time: Duration) -> RunReport {
    let options = RunOptions { time_left: Some(time), ..RunOptions::default() };
    Box::pin(worker.run(options, &Unwatched)).await
}
