//! `enqueue`, `queue` and `dead` over a real Redis.

use serde_json::Value;

use super::Shell;
use crate::support;

async fn shell() -> Shell {
    Shell::new().with("REDIS_URL", support::redis::fresh().await)
}

#[tokio::test]
async fn what_was_queued_is_counted_and_exported_in_the_mailbox_format() {
    let shell = shell().await;
    let told = shell.run_with_input(&["enqueue", "clan:#2pp", "-", "--priority", "low"], "player:8GQL2\n").await.well();
    assert_eq!(told, "queued 2 requests as low: clan:2PP player:8GQL2\n");

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
async fn a_wrong_name_queues_nothing_and_ends_with_2() {
    let shell = shell().await;
    let told = shell.run(&["enqueue", "clan:#2PP", "clan:#ABC", "clam:#2PP"]).await.badly(2);
    assert!(told.contains("clan:#ABC") && told.contains("clam:#2PP"), "{told}");
    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!(stats["queue_size"], 0);
}

#[tokio::test]
async fn going_back_to_the_old_worker_needs_a_yes() {
    let shell = shell().await;
    shell.run(&["enqueue", "clan:#2PP"]).await.well();
    let told = shell.run(&["queue", "export", "--return"]).await.badly(2);
    assert!(told.contains("--yes") && told.contains("1 request"), "{told}");
    let told = shell.run(&["queue", "export", "--return", "--yes"]).await.well();
    assert!(told.starts_with("returned 1 request to refresh_queue"), "{told}");
    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!((&stats["mailbox"], &stats["queue_size"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn an_empty_list_of_dead_letters_says_so() {
    let shell = shell().await;
    assert_eq!(shell.run(&["dead", "list"]).await.well(), "no dead letters\n");
    assert_eq!(shell.run(&["dead", "redrive", "--all"]).await.well(), "returned 0 dead letters to the queue\n");
    let told = shell.run(&["dead", "redrive", "clan:#2PP"]).await.badly(1);
    assert!(told.contains("no dead letter"), "{told}");
}

#[tokio::test]
async fn a_dead_redis_is_an_error_with_its_name_and_without_its_password() {
    let shell = Shell::new().with("REDIS_URL", "redis://user:hunter2@127.0.0.1:1/0");
    let told = shell.run(&["queue", "stats"]).await.badly(1);
    assert!(told.contains("127.0.0.1:1") && !told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn repair_mends_what_was_deleted_by_hand_tells_it_and_finds_nothing_the_second_time() {
    let url = support::redis::fresh().await;
    let shell = Shell::new().with("REDIS_URL", url.clone());
    shell.run(&["enqueue", "clan:#2PP", "player:8GQL2"]).await.well();
    assert_eq!(shell.run(&["queue", "repair"]).await.well(), "everything is in order\n");

    let mut redis = support::redis::connect(&url).await.unwrap();
    redis::cmd("DEL").arg("{refresh}:ready").exec_async(&mut redis).await.unwrap();
    redis::cmd("HSET").arg("{refresh}:objects").arg("nonsense").arg("?").exec_async(&mut redis).await.unwrap();
    let told = shell.run(&["queue", "repair", "--json"]).await.well();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["places"], &told["invalid_entries"]), (&2.into(), &1.into()), "{told}");

    assert_eq!(shell.run(&["queue", "repair"]).await.well(), "everything is in order\n");
    let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
    assert_eq!((&stats["queue_size"], &stats["dead_letters"]), (&2.into(), &1.into()), "{stats}");
}
