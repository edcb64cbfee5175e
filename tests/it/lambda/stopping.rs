//! Runs that end before the queue is empty: at the deadline, by SIGTERM, by SIGKILL. No request is lost.

use std::time::Duration;

use refresh_worker::sim::{Misbehaviour, Rule, SimConfig};

use sqlx::Connection as _;

use super::{
    database_trouble::lock_history,
    events,
    world::{PLENTY, World, assert_processed},
};

#[tokio::test]
async fn run_at_deadline_stops_and_releases_all() {
    let world = World::with(SimConfig { latency: Duration::from_millis(50), ..SimConfig::default() }).await;
    let players = world.mail_players(400).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "40"), ("DEADLINE_BUFFER_MS", "4000")]).await;

    // The harness kills a process whose deadline has passed.
    let run = worker.invoke(&events::schedule(), Duration::from_secs(8)).await;

    let answer = run.response();
    assert_eq!(answer["stopped_because"], "deadline", "{answer}");
    let calls = world.simulator.total_calls();
    assert!(calls > 0 && calls < players.len() as u64, "{calls}");
    assert_eq!(answer["api_requests"], calls);
    // Every request is either done or back in the queue. (On a slow machine the last calls may have been cut off.)
    let processed = answer["processed_requests"].as_u64().unwrap();
    assert!(processed > 0 && processed <= calls, "{answer}");
    let sizes = world.sizes().await;
    assert_eq!(sizes.leased, 0);
    assert_eq!(sizes.mailbox + sizes.ready + processed, players.len() as u64, "{sizes:?}");

    // Not one call after the stop: the process goes on, answers something else, and has called nobody.
    worker.invoke(&events::get_health(), PLENTY).await.response();
    assert_eq!(world.simulator.total_calls(), calls);
}

/// `cargo lambda watch` sends `lambda-runtime-deadline-ms: 600000` with every event.
#[tokio::test]
async fn deadline_as_time_left_is_understood() {
    let world = World::start().await;
    world.mail_players(3).await;
    let mut worker = world.worker().await;
    worker.send_time_left();
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 3);
    let run = worker.invoke(&events::schedule(), Duration::from_secs(3)).await;
    assert_eq!(run.error()["errorType"], "RefreshFailed.timeout_too_short");
}

/// Three seconds are what Lambda gives to a function that nobody set up.
#[tokio::test]
async fn timeout_within_the_buffer_is_an_error() {
    let world = World::start().await;
    let mut worker = world.worker().await;
    worker.invoke(&events::schedule(), PLENTY).await.response();
    world.mail_players(3).await;
    let run = worker.invoke(&events::schedule(), Duration::from_secs(3)).await;
    assert_eq!(run.error()["errorType"], "RefreshFailed.timeout_too_short");
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("DEADLINE_BUFFER_MS=5000") && message.contains("Raise the timeout"), "{message}");
    assert_eq!(world.simulator.total_calls(), 0);
    assert_eq!(world.sizes().await.leased, 0);
    let runs =
        world.count("SELECT count(*) FROM refresh_worker.refresh_runs WHERE stopped_because = 'timeout_too_short'");
    assert_eq!(runs.await, 1);
}

#[tokio::test]
async fn slow_database_at_deadline_is_not_down() {
    let world = World::start().await;
    let players = world.mail_players(300).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "40"), ("DEADLINE_BUFFER_MS", "4000")]).await;
    worker.invoke(&serde_json::json!({ "max_requests": 1 }), PLENTY).await.response();

    // Six seconds until its end; after four of them every commit waits, for less than the time after which it is down.
    let running = worker.begin(&events::schedule(), Duration::from_secs(10)).await;
    world.wait_for_calls(2).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lock = lock_history(&world).await;
    let run = worker.finish(running).await;
    let answer = run.response();
    assert_eq!(answer["stopped_because"], "deadline", "{answer}");
    assert!(answer["errors"].to_string().contains("no time was left"), "{answer}");
    lock.close().await.unwrap();
    let sizes = world.sizes().await;
    assert_eq!(sizes.leased, 0, "everything was given back");
    let processed = answer["processed_requests"].as_u64().unwrap() + 1;
    assert_eq!(sizes.mailbox + sizes.ready + processed, players.len() as u64, "{sizes:?}, {answer}");
}

/// The seconds can be chosen: `DEADLINE_SECONDS=300 cargo test --test it whatever_time_is_left`.
/// With any time left, the response comes within it, and no call after it.
#[tokio::test]
async fn response_is_in_time_with_any_deadline() {
    let chosen = std::env::var("DEADLINE_SECONDS").unwrap_or_else(|_| "30,6,1".to_owned());
    let seconds = chosen.split(',').map(|text| text.trim().parse().expect("whole seconds with commas between"));
    futures_util::future::join_all(seconds.map(answers_within)).await;
}

async fn answers_within(seconds: u64) {
    let latency = Duration::from_millis(150);
    let world =
        World::with(SimConfig { clans: 40 + usize::try_from(seconds * 2).unwrap(), latency, ..SimConfig::default() })
            .await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "30")]).await;
    let census = world.simulator.world();
    let asked = seconds * 35;
    let players = census.player_tags().get(..usize::try_from(asked).unwrap()).expect("a world of so many players");
    let mut pipe = redis::pipe();
    for player in players {
        let (id, value) = (player.as_str(), format!(r#"{{"type": "player", "tag": "{player}"}}"#));
        pipe.cmd("ZADD").arg("refresh_queue").arg(2).arg(id).ignore();
        pipe.cmd("HSET").arg("refresh_requests").arg(id).arg(value).ignore();
    }
    pipe.exec_async(&mut world.redis().await).await.expect("Redis takes them");

    // The harness kills a process whose deadline has passed.
    let run = worker.invoke(&events::schedule(), Duration::from_secs(seconds)).await;

    if seconds <= 5 {
        // Not more than the buffer.
        assert_eq!(run.error()["errorType"], "RefreshFailed.timeout_too_short");
        return assert_eq!((world.simulator.total_calls(), world.sizes().await.leased), (0, 0));
    }
    let answer = run.response();
    assert_eq!(answer["stopped_because"], "deadline", "{seconds} s left: {answer}");
    let (calls, sizes) = (world.simulator.total_calls(), world.sizes().await);
    let processed = answer["processed_requests"].as_u64().unwrap();
    assert_eq!((answer["api_requests"].as_u64(), sizes.leased), (Some(calls), 0), "{seconds} s left: {answer}");
    assert_eq!(sizes.mailbox + sizes.ready + processed, asked, "{seconds} s left: {sizes:?}, {answer}");
    worker.invoke(&events::get_health(), PLENTY).await.response();
    assert_eq!(world.simulator.total_calls(), calls, "{seconds} s left: called after its answer");
}

#[tokio::test]
async fn sigterm_releases_leases_and_exits_cleanly() {
    let world = World::start().await;
    let players = world.mail_players(10).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    let mut worker = world.worker().await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    world.wait_until_held(1).await;
    assert_eq!(worker.extensions().len(), 1, "without an extension Lambda sends no SIGTERM");

    worker.signal("TERM").await;
    let run = worker.finish(running).await;

    assert_eq!(run.response()["stopped_because"], "shutdown");
    assert!(worker.wait().await.success());
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.mailbox + sizes.ready), (0, players.len() as u64), "{sizes:?}");
    // The key is free for the next run.
    world.simulator.clear();
    let mut next = world.worker().await;
    let run = next.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
}

#[tokio::test]
async fn leases_of_killed_run_are_done_later() {
    let world = World::start().await;
    let players = world.mail_players(10).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    let short_leases = [("LEASE_SECONDS", "5")];
    let mut worker = world.worker_with(&short_leases).await;
    let _running = worker.begin(&events::schedule(), PLENTY).await;
    world.wait_until_held(1).await;
    worker.kill().await;
    assert!(world.sizes().await.leased > 0);
    world.simulator.clear();

    let mut next = world.worker_with(&short_leases).await;
    world.drain_with(&mut next).await;
    let stored = world.count("SELECT count(DISTINCT player_tag) FROM player_snapshots").await;
    assert_eq!(usize::try_from(stored).unwrap(), players.len());
}

#[tokio::test]
async fn frozen_sandbox_works_on_after_thaw() {
    let world = World::start().await;
    let mut worker = world.worker().await;
    worker.invoke(&events::schedule(), PLENTY).await.response();
    worker.freeze().await;
    let players = world.mail_players(3).await;
    worker.thaw().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
}
