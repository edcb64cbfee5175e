//! A sandbox frozen for as long as servers keep idle connections.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use crate::{
    events,
    support::redis::PrivateRedis,
    world::{PLENTY, World},
};

/// The first run after the freeze.
#[derive(Debug)]
pub struct Thawed {
    pub frozen: Duration,
    /// The connections that the servers had closed meanwhile.
    pub closed: u64,
    pub answer: Value,
    /// Lines of the log that are warnings or errors.
    pub complaints: usize,
}

impl Thawed {
    pub fn is_well(&self) -> bool {
        self.answer["processed_requests"] == 3 && self.complaints == 0 && self.closed > 1
    }
}

/// Freezes a sandbox between two runs. Redis closes idle connections after a minute, PostgreSQL when it is set to.
pub async fn freeze(frozen: Duration) -> Option<Thawed> {
    if frozen.is_zero() {
        return None;
    }
    let redis = PrivateRedis::start().await;
    let mut world = World::start().await;
    world.redis_url = redis.url();
    let mut settings = redis::cmd("CONFIG");
    settings.arg("SET").arg("timeout").arg(60).exec_async(&mut world.redis().await).await.expect("CONFIG SET");
    let mut worker = world.worker().await;
    world.mail_players(2).await;
    worker.invoke(&events::schedule(), PLENTY).await.response();

    worker.freeze().await;
    let clients = redis_clients(&world).await;
    sleep(frozen).await;
    let mut closed = clients.saturating_sub(redis_clients(&world).await);
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    closed += u64::try_from(world.count(terminate).await).unwrap_or(0);
    for player in &world.simulator.world().player_tags()[2..5] {
        world.mail("player", player.as_str(), 1).await;
    }
    worker.thaw().await;

    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let complaints = run.logs.logs("WARN").len() + run.logs.logs("ERROR").len();
    Some(Thawed { frozen, closed, answer: run.response().clone(), complaints })
}

/// Connections to Redis, ours for asking not among them.
async fn redis_clients(world: &World) -> u64 {
    let mut connection = world.redis().await;
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.expect("CLIENT LIST");
    list.lines().count().saturating_sub(1) as u64
}
