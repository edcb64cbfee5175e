//! Failovers of Redis and of PostgreSQL under warm processes that go on.

use refresh_worker::sim::SimConfig;
use serde_json::json;

use crate::{
    events,
    support::{
        postgres::PostgresPair,
        process::{Outcome, WorkerProcess},
        proxy::Proxy,
        redis::Pair,
    },
    world::{PLENTY, Sizes, World},
};

/// Players requested before each failover.
const REQUESTS: usize = 60;

/// The result of the failovers.
#[derive(Debug)]
pub struct FailedOver {
    pub failovers: usize,
    pub requests: usize,
    pub stored: usize,
    pub calls: u64,
    pub failed_runs: usize,
    /// Runs of the same processes after the last failover that still failed.
    pub failed_at_the_end: usize,
}

impl FailedOver {
    pub fn is_well(&self) -> bool {
        self.stored == self.requests && self.failed_at_the_end == 0
    }
}

/// Redis fails over in every round, and PostgreSQL in the middle one. Both stay with all that was written, so that whatever is
/// missing afterwards was lost by the worker.
pub async fn fail_over(rounds: usize) -> Option<FailedOver> {
    if rounds == 0 {
        return None;
    }
    let (mut redis, postgres) = (Box::pin(Pair::start()).await, Box::pin(PostgresPair::start()).await);
    postgres.primary.url_with_contract().await;
    let (name, url) = Proxy::in_front_of(&postgres.primary.url()).await;
    let mut world = World::with(SimConfig { clans: rounds * 5, ..SimConfig::default() }).await;
    (world.redis_url, world.database_url) = (redis.url(), url);
    let settings = [("COC_REQS_PER_SEC", "100"), ("COC_MAX_REQS_PER_SEC", "100"), ("LEASE_SECONDS", "5")];
    let mut workers = [world.worker_with(&settings).await, world.worker_with(&settings).await];
    let mut failed_runs = 0;
    for round in 0..rounds {
        world.mail_more_players(round * REQUESTS, REQUESTS).await;
        let worker = &mut workers[round % 2];
        let before = world.simulator.total_calls();
        let running = worker.begin(&events::schedule(), PLENTY).await;
        world.wait_for_calls(before + 10).await;
        redis.fail_over().await;
        if round == rounds / 2 {
            // Nothing is stored there any more that the standby would not get.
            let stop_writing = [
                "ALTER SYSTEM SET default_transaction_read_only = on",
                "SELECT pg_reload_conf()",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
            ];
            postgres.primary.exec(&stop_writing).await;
            postgres.promote().await;
            name.move_to(&format!("127.0.0.1:{}", postgres.standby.port()));
        }
        failed_runs += usize::from(has_failed(&worker.finish(running).await.outcome));
    }
    let mut failed_at_the_end = 0;
    for worker in &mut workers {
        failed_at_the_end += drain(&world, worker).await;
    }
    let stored = world.count("SELECT count(DISTINCT player_tag) FROM player_snapshots WHERE data IS NOT NULL").await;
    Some(FailedOver {
        failovers: rounds + 1,
        requests: rounds * REQUESTS,
        stored: usize::try_from(stored).unwrap_or(0),
        calls: world.simulator.total_calls(),
        failed_runs,
        failed_at_the_end,
    })
}

fn has_failed(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Response(_))
}

/// Runs until nothing waits, leases of the runs before included. Returns how many of them failed.
async fn drain(world: &World, worker: &mut WorkerProcess) -> usize {
    let mut failed = 0;
    for _ in 0..30 {
        let run = worker.invoke(&json!({ "max_requests": 1000 }), PLENTY).await;
        failed += usize::from(has_failed(&run.outcome));
        if world.sizes().await == Sizes::EMPTY {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    failed
}
