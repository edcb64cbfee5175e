//! Servers that are down, and a configuration that cannot be used: an error reports them, and no request is lost.

use std::time::Duration;

use serde_json::json;

use super::{
    events,
    world::{PLENTY, Sizes, World, assert_processed},
};
use crate::support::{
    process::{Invocation, Running, WorkerProcess},
    proxy::{Mode, Proxy},
};

/// The one metric line of a run, which a failed run has too.
fn metrics(run: &Invocation) -> serde_json::Value {
    let metrics = run.logs.metrics();
    assert_eq!(metrics.len(), 1, "{}", run.logs);
    metrics[0].clone()
}

#[tokio::test]
async fn run_without_redis_fails_without_call() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.redis_url).await;
    let direct = std::mem::replace(&mut world.redis_url, url);
    proxy.set(Mode::Refuse);
    let mut worker = world.worker().await;

    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("queue") || message.contains("Redis"), "{message}");
    assert_eq!(metrics(&run)["api_requests"], 0);

    let run = worker.invoke(&events::post_refresh(&json!({})), PLENTY).await;
    assert_eq!(run.response()["statusCode"], 503, "{:?}", run.outcome);
    metrics(&run);
    let run = worker.invoke(&events::get_health(), PLENTY).await;
    assert_eq!(run.response()["statusCode"], 503, "never healthy on a dead Redis");

    // The same process works as soon as Redis is back.
    proxy.set(Mode::Pass);
    world.redis_url = direct;
    world.mail_players(2).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 2);
}

#[tokio::test]
async fn run_without_database_fails_without_call() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.database_url).await;
    let direct = std::mem::replace(&mut world.database_url, url);
    proxy.set(Mode::Refuse);
    let players = world.mail_players(3).await;
    let mut worker = world.worker().await;

    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("database"), "{message}");
    metrics(&run);
    let run = worker.invoke(&events::post_refresh(&json!({})), PLENTY).await;
    assert_eq!(run.response()["statusCode"], 503, "{:?}", run.outcome);
    assert_eq!(world.simulator.total_calls(), 0);
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.mailbox + sizes.ready), (0, 3), "{sizes:?}");

    proxy.set(Mode::Pass);
    world.database_url = direct;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    assert_eq!(world.sizes().await, Sizes::EMPTY);
}

#[tokio::test]
async fn database_death_mid_run_loses_nothing() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.database_url).await;
    let direct = std::mem::replace(&mut world.database_url, url);
    let players = world.mail_players(300).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "100")]).await;

    let running = worker.begin(&events::schedule(), PLENTY).await;
    world.wait_for_calls(60).await;
    proxy.set(Mode::Refuse);
    let run = worker.finish(running).await;
    run.error();
    let calls = world.simulator.total_calls();
    assert!(calls < players.len() as u64, "leasing goes on without a database: {calls} calls");
    assert_eq!(world.sizes().await.leased, 0);

    proxy.set(Mode::Pass);
    world.database_url = direct;
    worker.invoke(&events::schedule(), PLENTY).await.response();
    assert_eq!(world.sizes().await, Sizes::EMPTY);
    assert_eq!(world.count("SELECT count(DISTINCT player_tag) FROM player_snapshots").await, 300);
}

#[tokio::test]
async fn unconfirmed_commit_is_stored_once() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.database_url).await;
    let direct = std::mem::replace(&mut world.database_url, url);
    let players = world.mail_players(200).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "100")]).await;
    // The worker's own tables are made here.
    worker.invoke(&json!({ "max_requests": 1 }), PLENTY).await.response();

    // With the end of the text, since "READ COMMITTED" is no commit.
    proxy.set(Mode::LoseAnswerTo("COMMIT\0"));
    let running = worker.begin(&events::schedule(), PLENTY).await;
    world.database_url = direct;
    world.wait_for_rows("SELECT count(*) - 1 FROM player_snapshots").await;
    proxy.set(Mode::Pass);
    worker.finish(running).await;

    world.drain_with(&mut worker).await;
    let rows = world.count("SELECT count(*) FROM player_snapshots").await;
    assert_eq!(usize::try_from(rows).unwrap(), players.len(), "one row a player, and none twice");
}

#[tokio::test]
async fn slow_servers_only_slow_the_run() {
    let mut world = World::start().await;
    let players = world.mail_players(20).await;
    let (redis, redis_url) = Proxy::in_front_of(&world.redis_url).await;
    let (database, database_url) = Proxy::in_front_of(&world.database_url).await;
    (world.redis_url, world.database_url) = (redis_url, database_url);
    for proxy in [&redis, &database] {
        proxy.set(Mode::Slow(Duration::from_millis(20)));
    }
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
}

#[tokio::test]
async fn distant_redis_works() {
    let mut world = World::start().await;
    let players = world.mail_players(20).await;
    let (redis, redis_url) = Proxy::in_front_of(&world.redis_url).await;
    world.redis_url = redis_url;
    // In each direction.
    redis.set(Mode::Slow(Duration::from_millis(250)));
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::get_health(), PLENTY).await;
    assert_eq!(run.response()["statusCode"], 200, "{:?}", run.outcome);
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    assert_eq!(run.response()["stopped_because"], "queue_empty", "{}", run.logs);
}

/// The requests of a run that is caught [`in_the_middle`].
const MANY: u64 = 300;

/// A run over [`MANY`] players that has made some of its calls, and the line between it and its Redis.
async fn in_the_middle(world: &World) -> (Proxy, WorkerProcess, Running) {
    let (proxy, url) = Proxy::in_front_of(&world.redis_url).await;
    world.mail_players(usize::try_from(MANY).unwrap()).await;
    let settings = [("COC_REQS_PER_SEC", "100"), ("LEASE_SECONDS", "5"), ("REDIS_URL", url.as_str())];
    let mut worker = world.worker_with(&settings).await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    world.wait_for_calls(60).await;
    (proxy, worker, running)
}

#[tokio::test]
async fn short_redis_stall_costs_nothing() {
    let world = World::start().await;
    let (proxy, mut worker, running) = in_the_middle(&world).await;
    proxy.set(Mode::Stall);
    // Longer than the worker waits for any response.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    proxy.set(Mode::Pass);
    worker.finish(running).await.response();

    // The leases of a lost response are free again after their lease time.
    world.drain_with(&mut worker).await;
    assert_eq!(world.count("SELECT count(*) FROM player_snapshots").await, MANY.cast_signed());
    assert_eq!(world.simulator.total_calls(), MANY);
}

#[tokio::test]
async fn redis_death_mid_run_loses_nothing() {
    let world = World::start().await;
    let (proxy, mut worker, running) = in_the_middle(&world).await;
    proxy.set(Mode::Cut);
    let run = worker.finish(running).await;
    run.error();
    assert!(world.simulator.total_calls() < MANY);

    proxy.set(Mode::Pass);
    // Slot and leases of the broken run end within the lease time.
    world.drain_with(&mut worker).await;
    assert_eq!(world.count("SELECT count(DISTINCT player_tag) FROM player_snapshots").await, MANY.cast_signed());
}

#[tokio::test]
async fn dead_connections_after_thaw_are_replaced() {
    let mut world = World::start().await;
    let (redis, redis_url) = Proxy::in_front_of(&world.redis_url).await;
    let (database, database_url) = Proxy::in_front_of(&world.database_url).await;
    let direct =
        (std::mem::replace(&mut world.redis_url, redis_url), std::mem::replace(&mut world.database_url, database_url));
    let mut worker = world.worker().await;
    worker.invoke(&events::schedule(), PLENTY).await.response();

    worker.freeze().await;
    redis.set(Mode::Cut);
    database.set(Mode::Cut);
    redis.set(Mode::Pass);
    database.set(Mode::Pass);
    (world.redis_url, world.database_url) = direct;
    let players = world.mail_players(3).await;
    worker.thaw().await;

    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    assert_eq!((run.logs.logs("WARN"), run.logs.logs("ERROR")), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn bad_configuration_is_reported_as_a_whole() {
    let settings = [
        ("REDIS_URL", "http://localhost"),
        ("COC_REQS_PER_SEC", "0"),
        ("MAX_ATTEMPTS", "none"),
        ("COC_BASE_URL", "nowhere"),
    ];
    let mut worker = WorkerProcess::start("refresh", settings).await;
    let status = worker.wait().await;
    assert!(!status.success());
    let text = worker.init_error().expect("Lambda shows the init error").to_string();
    for name in ["REDIS_URL", "DATABASE_URL", "COC_API_TOKEN", "COC_REQS_PER_SEC", "MAX_ATTEMPTS", "COC_BASE_URL"] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
}
