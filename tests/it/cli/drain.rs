//! `drain`: one run from the command line, with real servers and the simulator as the API.

use refresh_worker::sim::{Misbehaviour, Rule};
use serde_json::Value;

use super::Shell;
use crate::support;

async fn shell(simulator: &refresh_worker::sim::Simulator) -> Shell {
    Shell::new()
        .with("REDIS_URL", support::redis::fresh().await)
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "the.one.key")
        // Nothing follows by itself, so that requests can be counted.
        .with("FOLLOWUP_PLAYERS_PER_CLAN", "0")
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
    assert!(told.starts_with("2 requests done"), "{told}");
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

#[tokio::test]
async fn ctrl_c_stops_a_run_and_nothing_is_lost() {
    let simulator = super::simulator(&["the.one.key"]).await;
    simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    let shell = shell(&simulator).await;
    let clan = format!("clan:{}", simulator.world().clan_tags()[0]);
    shell.run(&["enqueue", &clan]).await.well();
    let drain = shell.start(&["drain"]);
    simulator.wait_until_held(1).await;
    drain.interrupt();
    let ran = drain.end().await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("stopped on request"), "{}", ran.stdout);
    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!((&stats["queue_size"], &stats["leased"], &stats["dead_letters"]), (&1.into(), &0.into(), &0.into()));
}

#[tokio::test]
async fn a_dead_letter_is_listed_with_its_reason_and_can_be_brought_back() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let tag = simulator.world().clan_tags()[0].clone();
    simulator.misbehave(Rule::new(Misbehaviour::WrongTag).on_tag(tag.as_str()));
    let shell = shell(&simulator).await;
    let clan = format!("clan:{}", tag.as_str());
    // Among others that are answered well: alone it might be somebody else's server that answers.
    let other = format!("clan:{}", simulator.world().clan_tags()[1].as_str());
    shell.run(&["enqueue", &clan, &other]).await.well();
    let told = shell.run(&["drain"]).await.well();
    assert!(told.contains("dead letter"), "{told}");

    let told = shell.run(&["dead", "list"]).await.well();
    assert!(told.contains(&clan) && told.contains("wrong_tag"), "{told}");
    let letter: Value = serde_json::from_str(&shell.run(&["dead", "list", "--json"]).await.well()).unwrap();
    assert_eq!((&letter["name"], &letter["reason_code"]), (&clan.as_str().into(), &"wrong_tag".into()));
    assert!(letter["body"].as_str().is_some_and(|body| body.len() <= 500), "{letter}");
    assert_eq!(shell.run(&["dead", "list", "--kind", "player"]).await.well(), "no dead letters\n");

    let told = shell.run(&["dead", "redrive", "--reason", "wrong_tag"]).await.well();
    assert_eq!(told, "returned 1 dead letter to the queue\n");
    simulator.clear();
    let told = shell.run(&["drain"]).await.well();
    assert!(told.starts_with("1 request done"), "{told}");
}
