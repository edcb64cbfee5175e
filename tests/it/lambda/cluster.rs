//! The whole binary on a real cluster of three nodes, with the mailbox's keys and ours on one node each.

use super::{
    events,
    world::{PLENTY, World, assert_processed},
};
use crate::support::redis::Cluster;

#[tokio::test]
async fn cluster_run_drains_mailbox_into_database() {
    let cluster = Cluster::fresh().await;
    let mut world = World::start().await;
    world.redis_url = cluster.url();
    let mut redis = cluster.connection().await;
    let players = world.simulator.world().player_tags()[..5].to_vec();
    for player in &players {
        let id = format!("player:{}", player.as_str());
        let value = format!(
            r#"{{"id": "{id}", "type": "player", "tag": "{}", "priority": 2, "requested_at": "2026-03-04T05:06:07", "last_updated": null, "retry_count": 0}}"#,
            player.as_str()
        );
        redis::cmd("ZADD").arg("refresh_queue").arg(2).arg(&id).exec_async(&mut redis).await.expect("ZADD");
        redis::cmd("HSET").arg("refresh_requests").arg(&id).arg(&value).exec_async(&mut redis).await.expect("HSET");
    }
    let mut worker = world.worker_with(&[("REDIS_CLUSTER", "true")]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    assert_eq!(run.response()["queue_size"], 0);
    assert_eq!(world.count("SELECT count(*) FROM players").await, 5);
    for key in ["refresh_queue", "refresh_requests", "{refresh}:objects"] {
        let exists: u64 = redis::cmd("EXISTS").arg(key).query_async(&mut redis).await.expect("EXISTS");
        assert_eq!(exists, 0, "{key}");
    }
}

#[tokio::test]
async fn cluster_without_switch_fails_and_names_it() {
    let cluster = Cluster::fresh().await;
    let mut world = World::start().await;
    world.redis_url = cluster.url();
    let mut worker = world.worker_with(&[]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert!(format!("{:?}", run.outcome).contains("REDIS_CLUSTER=true"), "{:?}", run.outcome);
}
