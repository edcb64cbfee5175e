//! The cost of an invocation: the binary as a process, driven through a Runtime API, with real Redis and PostgreSQL on
//! loopback and the simulator without latency.
//!
//! ```text
//! cargo bench --bench invocation
//! E2E_BINARY=target/lambda/refresh-worker cargo bench --bench invocation     # the packaged build
//! BENCH_WITH=everything cargo bench --bench invocation                       # with all that can follow a commit and a run
//! ```
//!
//! Prints the medians of cold start, warm empty run and health, the worker's processor time per clan and per player at
//! 30 calls a second (no TLS), and its peak memory.

#[path = "support/everything.rs"]
mod everything;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use everything::Everything;
use refresh_worker::{
    model::{ObjectId, Tag},
    sim::{SimConfig, Simulator},
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use support::process::WorkerProcess;

const BUDGET: Duration = Duration::from_secs(300);
const COLD_STARTS: usize = 11;
const WARM_CALLS: usize = 101;

/// The slot of the run before lives on for one interval; a run in that time waits for it.
const SLOT_LINGERS: Duration = Duration::from_millis(120);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let simulator = Simulator::start_apart(SimConfig { clans: 200, ..SimConfig::default() }).expect("a free port");
    let mut environment = vec![
        ("REDIS_URL".to_owned(), support::redis::fresh().await),
        ("DATABASE_URL".to_owned(), support::postgres::fresh().await),
        ("COC_BASE_URL".to_owned(), simulator.base_url().to_string()),
        ("COC_API_TOKEN".to_owned(), "bench".to_owned()),
    ];
    let schedule = json!({"source": "schedule"});

    let mut first = WorkerProcess::start("refresh", environment.clone()).await;
    first.invoke(&schedule, BUDGET).await.response();
    drop(first);
    let everything = Everything::asked_for(&environment[1].1).await;
    if let Some(everything) = &everything {
        environment.extend(everything.settings());
    }
    // Else the figure for clans would be one of players.
    let follow_ups = if everything.is_some() { "1" } else { "0" };
    environment.push(("FOLLOWUP_PLAYERS_PER_CLAN".to_owned(), follow_ups.to_owned()));
    println!("cold start to first answer  {}   (budget: <= 60 ms)", cold_start(&environment, &schedule).await);

    let mut worker = WorkerProcess::start("refresh", environment.clone()).await;
    println!("warm empty run              {}   (budget: <= 5 ms)", warm(&mut worker, &schedule).await);
    let mut health = WorkerProcess::start("health", environment.clone()).await;
    let ask = json!({"httpMethod": "GET", "path": "/health"});
    println!("health                      {}   (budget: <= 10 ms)", warm(&mut health, &ask).await);

    let census = simulator.world();
    let clans: Vec<Tag> = census.clan_tags().to_vec();
    let players: Vec<Tag> = census.player_tags().iter().take(600).cloned().collect();
    drop(worker);
    let players: Vec<ObjectId> = players.into_iter().map(ObjectId::player).collect();
    for (name, objects) in [
        ("player", players.clone()),
        ("clan", clans.into_iter().map(ObjectId::clan).collect()),
        // The documents before are read now and compared, when events or tags are published.
        ("player, once more", players),
    ] {
        make_stale(&environment[1].1, &objects).await;
        simulator.expire_copies();
        let mut worker = WorkerProcess::start("refresh", environment.clone()).await;
        worker.invoke(&json!({"max_requests": 1}), BUDGET).await.response();
        if let Some(everything) = &everything {
            everything.enqueue_job().await;
        }
        let report = cpu_per_object(&mut worker, name, &objects).await;
        println!("  {report}");
    }

    if let Some(everything) = &everything {
        println!("  {}", everything.published(&environment[0].1).await);
    }

    // Last, since the note of it outlives the maintenance until the next probe.
    simulator.maintenance(true);
    let mut worker = WorkerProcess::start("refresh", environment).await;
    let clan = simulator.world().clan_tags()[0].clone();
    worker.invoke(&json!({"requests": [{"type": "clan", "tag": clan.as_str()}]}), BUDGET).await;
    println!("run while in maintenance    {}", warm(&mut worker, &schedule).await);
}

/// As if what is stored of them had other content, long ago.
async fn make_stale(database_url: &str, objects: &[ObjectId]) {
    let mut database = PgConnection::connect(database_url).await.expect("PostgreSQL answers");
    sqlx::query(
        "UPDATE refresh_worker.refresh_state SET content_hash = decode('00', 'hex'), fetched_at = fetched_at - interval '1 h', \
         fresh_until = fetched_at - interval '1 h' WHERE kind || ':' || tag = ANY ($1)",
    )
    .bind(objects.iter().map(ToString::to_string).collect::<Vec<_>>())
    .execute(&mut database)
    .await
    .expect("our table is there");
}

async fn cold_start(environment: &[(String, String)], event: &Value) -> Spread {
    let mut times = Vec::new();
    for _ in 0..COLD_STARTS {
        tokio::time::sleep(SLOT_LINGERS).await;
        let began = Instant::now();
        let mut worker = WorkerProcess::start("refresh", environment.to_vec()).await;
        let running = worker.begin(event, BUDGET).await;
        worker.finish(running).await.response();
        times.push(began.elapsed());
    }
    Spread::of(times)
}

async fn warm(worker: &mut WorkerProcess, event: &Value) -> Spread {
    worker.invoke(event, BUDGET).await.response();
    let mut times = Vec::new();
    for _ in 0..WARM_CALLS {
        tokio::time::sleep(SLOT_LINGERS).await;
        let began = Instant::now();
        worker.invoke(event, BUDGET).await.response();
        times.push(began.elapsed());
    }
    Spread::of(times)
}

/// The processor time of one run over these objects: leasing, calling, parsing, storing, settling.
async fn cpu_per_object(worker: &mut WorkerProcess, name: &str, objects: &[ObjectId]) -> String {
    let requests: Vec<Value> =
        objects.iter().map(|object| json!({"type": object.kind.as_str(), "tag": object.tag.as_str()})).collect();
    let before = worker.cpu_time().unwrap_or_default();
    let invocation = worker.invoke(&json!({"requests": requests}), BUDGET).await;
    let used = worker.cpu_time().unwrap_or_default().saturating_sub(before);
    let report = invocation.response();
    let calls = report["api_requests"].as_u64().unwrap_or_default().max(1);
    let per_call = used.as_secs_f64() * 1000.0 / f64::from(u32::try_from(calls).unwrap_or(u32::MAX));
    let memory = worker.peak_memory_bytes().unwrap_or_default() / (1024 * 1024);
    format!(
        "{name}: {calls} refreshed at {}/s, processor time {per_call:.2} ms each, peak memory {memory} MiB, stored {}, budget used {}",
        report["api_requests_per_second"], report["outcomes"]["stored"], report["budget_used"]
    )
}

/// Smallest, median and largest of some times.
struct Spread(Vec<Duration>);

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |index: usize| self.0[index].as_secs_f64() * 1000.0;
        let last = self.0.len() - 1;
        write!(f, "median {:.1} ms ({:.1} to {:.1})", at(last / 2), at(0), at(last))
    }
}
