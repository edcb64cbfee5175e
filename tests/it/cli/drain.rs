//! `drain`: one run from the command line, with real servers and the simulator as the API.

use serde_json::Value;

use super::Shell;
use crate::support;

async fn shell(simulator: &refresh_worker::sim::Simulator) -> Shell {
    Shell::new()
        .with("REDIS_URL", support::redis::fresh().await)
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "the.one.key")
}

#[tokio::test]
async fn a_drain_answers_what_was_queued_and_sums_it_up() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = shell(&simulator).await;
    let world = simulator.world();
    let clan = format!("clan:{}", world.clan_tags()[0]);
    let player = format!("player:{}", world.player_tags()[0]);
    shell.run(&["enqueue", &clan, &player, "--priority", "critical"]).await.well();
    shell.run(&["enqueue", &format!("clan:{}", world.clan_tags()[1]), "--priority", "low"]).await.well();

    let told = shell.run(&["drain", "--priority", "critical"]).await.well();
    assert!(told.starts_with("2 requests answered"), "{told}");
    assert!(told.contains("1 waiting"), "{told}");

    let ran = shell.run(&["drain", "--json"]).await;
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["processed_requests"], &report["stopped_because"]), (&1.into(), &"queue_empty".into()));
    assert_eq!(ran.stderr, "", "no log and no progress beside the report");
}

#[tokio::test]
async fn a_run_that_fails_ends_with_1_and_says_why() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = shell(&simulator).await.with("REDIS_URL", "redis://127.0.0.1:1");
    let ran = shell.run(&["drain"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.starts_with("Run failed") && ran.stdout.contains("127.0.0.1:1"), "{}", ran.stdout);
}

#[tokio::test]
async fn a_paused_worker_does_nothing_and_that_is_no_failure() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = shell(&simulator).await.with("REFRESH_PAUSED", "true");
    let told = shell.run(&["drain"]).await.well();
    assert!(told.starts_with("Nothing done:") && told.contains("REFRESH_PAUSED"), "{told}");
    assert_eq!(simulator.total_calls(), 0);
}
