//! `enqueue`, `queue` and `dead` over a real Redis.

use serde_json::Value;

use super::Shell;
use crate::support;

async fn shell() -> Shell {
    Shell::new().with("REDIS_URL", support::redis::fresh().await)
}

#[tokio::test]
async fn export_has_the_mailbox_format() {
    let shell = shell().await;
    let output =
        shell.run_with_input(&["enqueue", "clan:#2pp", "-", "--priority", "low"], "player:8GQL2\n").await.well();
    assert_eq!(output, "queued 2 requests as low: clan:2PP player:8GQL2\n");

    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!((&stats["queue_size"], &stats["ready_by_priority"]["low"]), (&2.into(), &2.into()));

    let exported = shell.run(&["queue", "export"]).await.well();
    let values: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 2);
    for entry in values {
        assert_eq!(entry["score"], 3);
        let value: Value = serde_json::from_str(entry["value"].as_str().unwrap()).unwrap();
        assert_eq!(value["id"], entry["id"]);
        assert_eq!(value["priority"], 3);
    }
}

#[tokio::test]
async fn enqueue_with_wrong_name_exits_2() {
    let shell = shell().await;
    let output = shell.run(&["enqueue", "clan:#2PP", "clan:#ABC", "clam:#2PP"]).await.badly(2);
    assert!(output.contains("clan:#ABC") && output.contains("clam:#2PP"), "{output}");
    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!(stats["queue_size"], 0);
}

#[tokio::test]
async fn export_return_needs_yes() {
    let shell = shell().await;
    shell.run(&["enqueue", "clan:#2PP"]).await.well();
    let output = shell.run(&["queue", "export", "--return"]).await.badly(2);
    assert!(output.contains("--yes") && output.contains("1 request"), "{output}");
    let output = shell.run(&["queue", "export", "--return", "--yes"]).await.well();
    assert!(output.starts_with("returned 1 request to refresh_queue"), "{output}");
    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!((&stats["mailbox"], &stats["queue_size"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn dead_list_may_be_empty() {
    let shell = shell().await;
    assert_eq!(shell.run(&["dead", "list"]).await.well(), "no dead letters\n");
    assert_eq!(shell.run(&["dead", "redrive", "--all"]).await.well(), "returned 0 dead letters to the queue\n");
    let output = shell.run(&["dead", "redrive", "clan:#2PP"]).await.badly(1);
    assert!(output.contains("no dead letter"), "{output}");
}

#[tokio::test]
async fn unreachable_redis_is_named_without_password() {
    let shell = Shell::new().with("REDIS_URL", "redis://user:hunter2@127.0.0.1:1/0");
    let output = shell.run(&["queue", "stats"]).await.badly(1);
    assert!(output.contains("127.0.0.1:1") && !output.contains("hunter2"), "{output}");
}

#[tokio::test]
async fn repair_fixes_once_and_reports_it() {
    let url = support::redis::fresh().await;
    let shell = Shell::new().with("REDIS_URL", url.clone());
    shell.run(&["enqueue", "clan:#2PP", "player:8GQL2"]).await.well();
    assert_eq!(shell.run(&["queue", "repair"]).await.well(), "everything is in order\n");

    let mut redis = support::redis::connect(&url).await.unwrap();
    redis::cmd("DEL").arg("{refresh}:ready").exec_async(&mut redis).await.unwrap();
    redis::cmd("HSET").arg("{refresh}:objects").arg("nonsense").arg("?").exec_async(&mut redis).await.unwrap();
    let output = shell.run(&["queue", "repair", "--json"]).await.well();
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&output["places"], &output["invalid_entries"]), (&2.into(), &1.into()), "{output}");

    assert_eq!(shell.run(&["queue", "repair"]).await.well(), "everything is in order\n");
    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!((&stats["queue_size"], &stats["dead_letters"]), (&2.into(), &1.into()), "{stats}");
}
