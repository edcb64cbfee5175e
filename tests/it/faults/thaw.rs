//! A sandbox that was frozen between two invocations, while its servers lost patience.

use serde_json::json;

use super::{
    events,
    world::{PLENTY, World, assert_processed},
};
use crate::support::redis::PrivateRedis;

/// Ends all other connections to this database.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// During the freeze the servers close every connection.
#[tokio::test]
async fn first_run_after_thaw_works() {
    let redis = PrivateRedis::start().await;
    let mut world = World::start().await;
    world.redis_url = redis.url();
    let mut worker = world.worker().await;
    world.mail_players(2).await;
    assert_processed(&worker.invoke(&events::schedule(), PLENTY).await, 2);

    worker.freeze().await;
    let closed: u64 = redis::cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("normal")
        .arg("SKIPME")
        .arg("yes")
        .query_async(&mut world.redis().await)
        .await
        .unwrap();
    assert!(closed > 0, "the worker had a connection to Redis");
    let closed = world.count(TERMINATE).await;
    assert!(closed > 0, "the worker had a connection to PostgreSQL");
    let players = world.simulator.world().player_tags()[2..5].to_vec();
    for player in &players {
        world.mail("player", player.as_str(), 1).await;
    }
    worker.thaw().await;

    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    assert_eq!((run.logs.logs("WARN"), run.logs.logs("ERROR")), (Vec::new(), Vec::new()));
}

/// During the freeze the database closes every connection.
#[tokio::test]
async fn first_task_after_thaw_works() {
    let world = World::start().await;
    world.worker().await.invoke(&json!({"task": "migrate"}), PLENTY).await.response();
    let install = "CREATE MATERIALIZED VIEW v AS SELECT 1 AS id";
    sqlx::raw_sql(install).execute(&mut world.database().await).await.unwrap();
    let settings = [("REFRESH_VIEWS", "v"), ("STATS_FUNCTIONS", "pg_backend_pid"), ("SNAPSHOT_RETENTION_DAYS", "30")];
    let mut worker = world.worker_with(&settings).await;
    let tasks = ["refresh-views", "stats", "retention", "migrate"];
    for task in tasks {
        worker.invoke(&json!({"task": task}), PLENTY).await.response();
        worker.freeze().await;
        assert!(world.count(TERMINATE).await > 0, "the worker had a connection to PostgreSQL");
        worker.thaw().await;
        let again = worker.invoke(&json!({"task": task}), PLENTY).await;
        let answer = again.response();
        assert!(answer["status"] == "done" || answer["statusCode"] == 200, "{task}: {answer}");
        assert_eq!((again.logs.logs("WARN"), again.logs.logs("ERROR")), (Vec::new(), Vec::new()), "{task}");
    }
}
