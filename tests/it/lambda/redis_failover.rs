//! A failover of Redis under a warm process: the address leads to the new primary, and the connection of the process to the old
//! one, which is a replica now.

use super::{
    events,
    world::{PLENTY, World, assert_processed},
};
use crate::support::redis::Pair;

/// A world whose Redis is a pair.
async fn start() -> (World, Pair) {
    let (mut world, pair) = (Box::pin(World::start()).await, Box::pin(Pair::start()).await);
    world.redis_url = pair.url();
    (world, pair)
}

#[tokio::test]
async fn warm_process_works_after_every_failover() {
    let (world, mut pair) = start().await;
    let mut worker = world.worker().await;
    for number in 0..3 {
        world.mail_more_players(number * 5, 5).await;
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        assert_processed(&run, 5);
        pair.fail_over().await;
        let run = worker.invoke(&events::get_health(), PLENTY).await;
        assert_eq!(run.response()["statusCode"], 200, "{:?}", run.outcome);
    }
    assert_eq!(world.simulator.total_calls(), 15, "one call each");
}

#[tokio::test]
async fn failover_mid_run_loses_nothing() {
    const MANY: u64 = 300;
    let (world, mut pair) = start().await;
    world.mail_players(usize::try_from(MANY).unwrap()).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "100"), ("LEASE_SECONDS", "5")]).await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    world.wait_for_calls(60).await;
    pair.fail_over().await;
    worker.finish(running).await;
    world.drain_with(&mut worker).await;
    assert_eq!(world.count("SELECT count(DISTINCT player_tag) FROM player_snapshots").await, MANY.cast_signed());
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response()["stopped_because"], "queue_empty", "{}", run.logs);
}

#[tokio::test]
async fn replica_is_reported_until_primary_returns() {
    let (world, mut pair) = start().await;
    world.mail_players(2).await;
    let mut worker = world.worker().await;
    pair.forwarder.move_to(pair.replica().port());
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("READONLY") && message.contains("read-only replica"), "{message}");
    let run = worker.invoke(&events::get_health(), PLENTY).await;
    let answer = run.response();
    let body = answer["body"].as_str().unwrap();
    assert_eq!(answer["statusCode"], 503, "{body}");
    assert!(body.contains("read-only replica"), "{body}");
    assert_eq!(world.simulator.total_calls(), 0);
    pair.fail_over().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 2);
}
