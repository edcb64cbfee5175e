//! A sandbox that was frozen between two invocations, while its servers lost patience.

use super::{
    events,
    world::{PLENTY, World, assert_processed},
};
use crate::support::redis::PrivateRedis;

#[tokio::test]
async fn after_a_freeze_in_which_the_servers_closed_every_connection_the_next_run_works_at_the_first_try() {
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
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let closed = world.count(terminate).await;
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
