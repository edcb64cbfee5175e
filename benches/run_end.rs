//! The waste at the end of a run: leases that are released unused, and calls that are made in vain, by how long the API
//! takes to answer.
//!
//! Real Redis and PostgreSQL, one key at 30 calls a second, a queue fuller than the run can do, and runs of 8 s:
//!
//! ```text
//! cargo bench --bench run_end
//! ```
//!
//! Prints a line for each answer time. Leases are counted by Redis (the counter that names lease tokens), calls by the
//! simulator; a call is in vain when its answer was not stored. *Of the run* is calls made / calls that the cap allows in
//! the whole run: what ending cleanly costs.
//! Goals: nothing is given back at the deadline but what a hiccup of the machine left over (at most 2 % of what was
//! stored); with answers of 300 ms and less no call is in vain, with answers of 1 s at most 1 %; and of a run whose answers
//! take 150 ms at least 98 % of the budget is used. Fails when one is missed.
//! `BENCH_SECONDS` makes the runs longer or shorter, `BENCH_ANSWERS_MS=300,1000` chooses the answer times.

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    app,
    clock::{Clock, SystemClock},
    config::{ApiConfig, DatabaseConfig, FollowUpConfig, RedisConfig, WorkerConfig},
    model::{ObjectId, Priority, RefreshRequest},
    queue::{Queue, redis::RedisQueue},
    sim::{SimConfig, Simulator},
    store::{Store, postgres::PostgresStore},
    worker::{RunOptions, Runs, Unwatched, Worker, report::RunReport},
};

const TOKEN: &str = "run-end";
const CAP: u32 = 30;
const ANSWERS_MS: [u64; 7] = [10, 30, 100, 150, 300, 1000, 2000];

/// The result of one run.
#[derive(Debug)]
struct Ending {
    answers: Duration,
    leases: u64,
    calls: u64,
    seconds: u64,
    report: RunReport,
}

impl Ending {
    fn stored(&self) -> u64 {
        self.report.outcomes["stored"]
    }

    fn released(&self) -> u64 {
        self.report.outcomes["released"] + self.report.outcomes["lease_lost"]
    }

    const fn in_vain(&self) -> u64 {
        self.calls.saturating_sub(self.report.processed_requests)
    }

    fn in_vain_share(&self) -> f64 {
        ratio(self.in_vain(), self.calls)
    }

    fn print(&self) {
        println!(
            "{:>7}  {:>6}  {:>6}  {:>10}  {:>12.3}  {:>5}  {:>7}  {:>6.2} %  {:>11.2} %  {:>10.2} %",
            self.answers.as_millis(),
            self.stored(),
            self.leases,
            self.released(),
            ratio(self.leases, self.stored()),
            self.calls,
            self.in_vain(),
            self.in_vain_share() * 100.0,
            self.report.budget_used * 100.0,
            ratio(self.calls, self.seconds * u64::from(CAP)) * 100.0,
        );
    }

    /// The goals that it misses.
    fn missed(&self) -> Vec<String> {
        let answers = self.answers.as_millis();
        let mut missed = Vec::new();
        let mut goal = |holds: bool, what: String| {
            if !holds {
                missed.push(format!("{what} with answers of {answers} ms"));
            }
        };
        let (stored, released) = (self.stored(), self.released());
        goal(released * 50 <= stored, format!("{released} leases released for {stored} requests stored"));
        let in_vain = self.in_vain();
        goal(answers > 300 || in_vain == 0, format!("{in_vain} calls in vain"));
        goal(answers > 1000 || self.in_vain_share() <= 0.01, format!("{in_vain} calls in vain of {}", self.calls));
        let used = self.report.budget_used;
        goal(answers != 150 || used >= 0.98, format!("{:.2} % of the budget used", used * 100.0));
        let why = self.report.stopped_because.as_str();
        goal(why == "deadline", format!("ended because of {why}"));
        missed
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bench makes hundreds of calls")]
fn ratio(count: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { count as f64 / whole as f64 }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let chosen = std::env::var("BENCH_ANSWERS_MS").ok();
    let answers: Vec<u64> = chosen.map_or(ANSWERS_MS.to_vec(), |chosen| {
        chosen.split(',').map(|text| text.trim().parse().expect("milliseconds with commas between")).collect()
    });
    println!("one run of {seconds} s at {CAP}/s for each answer time, players only, queue full:");
    println!("answers  stored  leases  given back  leases/store  calls  in vain  in vain    budget used  of the run");
    let mut missed = Vec::new();
    for answers in answers {
        let ending = Box::pin(one_run(Duration::from_millis(answers), seconds)).await;
        ending.print();
        missed.extend(ending.missed());
    }
    assert!(missed.is_empty(), "missed: {}", missed.join("; "));
}

async fn one_run(answers: Duration, seconds: u64) -> Ending {
    // About 25 players a clan, and three times more of them than there are calls.
    let clans = usize::try_from(seconds * u64::from(CAP) / 8).unwrap_or(30).max(16);
    let config = SimConfig { clans, tokens: vec![TOKEN.to_owned()], latency: answers, ..SimConfig::default() };
    let simulator = Simulator::start_apart(config).expect("a loopback port is free");
    let (redis, postgres) = (support::redis::fresh().await, support::postgres::fresh().await);
    let worker = worker(&redis, &postgres, &simulator);
    worker.store.migrate().await.expect("the migrations run");
    fill(&worker, simulator.world().player_tags().iter().cloned().map(ObjectId::player)).await;

    let time_left = Some(Duration::from_secs(seconds) + worker.config.deadline_buffer);
    let options = RunOptions { time_left, ..RunOptions::default() };
    let report = Box::pin(worker.run(options, &Unwatched)).await;
    Ending { answers, leases: leases_made(&redis).await, calls: simulator.total_calls(), seconds, report }
}

/// The number of leases to which Redis has given a token.
async fn leases_made(url: &str) -> u64 {
    let mut connection = support::redis::connect(url).await.expect("Redis answers");
    let made: Option<u64> = redis::cmd("HGET")
        .arg("{refresh}:counters")
        .arg("leases")
        .query_async(&mut connection)
        .await
        .expect("a count of leases");
    made.unwrap_or(0)
}

fn worker(redis: &str, postgres: &str, simulator: &Simulator) -> Worker<RedisQueue, PostgresStore> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let redis = RedisConfig { url: redis.into(), cluster: false, namespace: "refresh".to_owned() };
    let database =
        DatabaseConfig { url: postgres.into(), max_connections: 5, statement_cache: 100, auto_migrate: true };
    let api = ApiConfig {
        base_url: simulator.base_url(),
        tokens: vec![TOKEN.into()],
        reqs_per_sec: CAP,
        keys_per_run: None,
        reqs_per_day: None,
        portal: None,
        max_body: refresh_worker::api::client::MAX_BODY_BYTES,
    };
    let config = WorkerConfig { follow_ups: FollowUpConfig::NONE, ..WorkerConfig::default() };
    let queue = RedisQueue::connect(&redis, clock).expect("the URL is one");
    let store = PostgresStore::connect(&database).expect("the URL is one");
    let store = store.with_details(app::commit_details(&config, false));
    app::worker(Arc::new(queue), Arc::new(store), &api, &config).expect("the parts fit")
}

async fn fill(worker: &Worker<RedisQueue, PostgresStore>, objects: impl Iterator<Item = ObjectId>) {
    let now = worker.queue.time().await.expect("Redis answers");
    let requests: Vec<RefreshRequest> =
        objects.map(|object| RefreshRequest::now(object, Priority::High, now)).collect();
    worker.queue.enqueue(now, &requests).await.expect("Redis answers");
}
