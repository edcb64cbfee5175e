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
async fn drain_serves_the_queue_and_reports() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = shell(&simulator).await;
    let world = simulator.world();
    let clan = format!("clan:{}", world.clan_tags()[0]);
    let player = format!("player:{}", world.player_tags()[0]);
    shell.run(&["enqueue", &clan, &player, "--priority", "critical"]).await.well();
    shell.run(&["enqueue", &format!("clan:{}", world.clan_tags()[1]), "--priority", "low"]).await.well();

    let output = shell.run(&["drain", "--priority", "critical"]).await.well();
    assert!(output.starts_with("2 requests done"), "{output}");
    assert!(output.contains("1 waiting"), "{output}");

    let ran = shell.run(&["drain", "--json"]).await;
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["processed_requests"], &report["stopped_because"]), (&1.into(), &"queue_empty".into()));
    assert_eq!(ran.stderr, "", "no log and no progress beside the report");
}

#[tokio::test]
async fn drain_failure_exits_1_with_reason() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = shell(&simulator).await.with("REDIS_URL", "redis://127.0.0.1:1");
    let ran = shell.run(&["drain"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.starts_with("Run failed") && ran.stdout.contains("127.0.0.1:1"), "{}", ran.stdout);
}

#[tokio::test]
async fn drain_while_paused_exits_0() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = shell(&simulator).await.with("REFRESH_PAUSED", "true");
    let output = shell.run(&["drain"]).await.well();
    assert!(output.starts_with("Nothing done:") && output.contains("REFRESH_PAUSED"), "{output}");
    assert_eq!(simulator.total_calls(), 0);
}

#[tokio::test]
async fn ctrl_c_stops_drain_and_loses_nothing() {
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
async fn dead_letter_is_listed_and_redriven() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let tag = simulator.world().clan_tags()[0].clone();
    simulator.misbehave(Rule::new(Misbehaviour::WrongTag).on_tag(tag.as_str()));
    let shell = shell(&simulator).await;
    let clan = format!("clan:{}", tag.as_str());
    // Among others that are answered well: alone it might be somebody else's server that answers.
    let other = format!("clan:{}", simulator.world().clan_tags()[1].as_str());
    shell.run(&["enqueue", &clan, &other]).await.well();
    let output = shell.run(&["drain"]).await.well();
    assert!(output.contains("dead letter"), "{output}");

    let output = shell.run(&["dead", "list"]).await.well();
    assert!(output.contains(&clan) && output.contains("wrong_tag"), "{output}");
    let letter: Value = serde_json::from_str(&shell.run(&["dead", "list", "--json"]).await.well()).unwrap();
    assert_eq!((&letter["name"], &letter["reason_code"]), (&clan.as_str().into(), &"wrong_tag".into()));
    assert!(letter["body"].as_str().is_some_and(|body| body.len() <= 500), "{letter}");
    assert_eq!(shell.run(&["dead", "list", "--kind", "player"]).await.well(), "no dead letters\n");

    let output = shell.run(&["dead", "redrive", "--reason", "wrong_tag"]).await.well();
    assert_eq!(output, "returned 1 dead letter to the queue\n");
    simulator.clear();
    let output = shell.run(&["drain"]).await.well();
    assert!(output.starts_with("1 request done"), "{output}");
}
