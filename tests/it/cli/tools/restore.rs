//! `queue restore`: ours and the old worker's files, merged, never doubled, whatever happens in between.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::{Bed, Shell, clans, value};
use crate::support::proxy::{Mode, Proxy};

/// The file of a backup of this bed, by its absolute path.
async fn backed_up(bed: &Bed) -> String {
    let output = bed.json(&["queue", "backup", "--dir", "backups", "--json"]).await;
    bed.shell.folder().join(output["file"].as_str().unwrap()).display().to_string()
}

fn write(shell: &Shell, text: &str) -> String {
    fs::write(shell.folder().join("file"), text).unwrap();
    "file".to_owned()
}

#[tokio::test]
async fn restore_is_complete_and_idempotent() {
    let old = Bed::fresh().await;
    old.fill().await;
    let file = backed_up(&old).await;
    let new = Bed::fresh().await;
    let output = new.shell.run(&["queue", "restore", &file, "--dry-run"]).await.well();
    assert!(output.contains("7 entries can be restored") && output.contains("nothing was written"), "{output}");
    assert!(new.everything().await.is_empty());

    let output = new.json(&["queue", "restore", &file, "--json"]).await;
    assert_eq!((&output["entries"], &output["new"], &output["invalid"]), (&7.into(), &7.into(), &0.into()));
    let mut expected = old.objects().await;
    expected.insert("clan:2YY".to_owned());
    assert_eq!(new.objects().await, expected, "what was mail is a request");
    let stats = new.json(&["queue", "stats", "--json"]).await;
    assert_eq!(
        (&stats["queue_size"], &stats["delayed"], &stats["leased"]),
        (&3.into(), &1.into(), &0.into()),
        "{stats}"
    );
    assert_eq!((&stats["dead_letters"], &stats["mailbox"]), (&2.into(), &0.into()));

    let once = new.everything().await;
    let output = new.json(&["queue", "restore", &file, "--json"]).await;
    assert_eq!((&output["new"], &output["merged"], &output["nothing"]), (&0.into(), &0.into(), &7.into()));
    assert_eq!(new.everything().await, once);
}

#[tokio::test]
async fn restore_overwrites_nothing_newer() {
    let bed = Bed::fresh().await;
    bed.enqueue(&clans(20)).await;
    let file = backed_up(&bed).await;
    bed.enqueue(&clans(10)).await;
    let lease = bed.lease(Duration::from_secs(600)).await;
    let before = bed.everything().await;
    let output = bed.json(&["queue", "restore", &file, "--json"]).await;
    assert_eq!(output["nothing"], 20, "{output}");
    assert_eq!(bed.everything().await, before);
    drop(lease);
}

#[tokio::test]
async fn restore_skips_invalid_entries_only_on_request() {
    let bed = Bed::fresh().await;
    bed.enqueue(&clans(3)).await;
    let text = fs::read_to_string(backed_up(&bed).await).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1] = r#"{"record":{"name":"clan:#ABC","record":{}}}"#;
    lines[2] = "no json";
    let new = Bed::fresh().await;
    let file = write(&new.shell, &(lines.join("\n") + "\n"));
    let ran = new.shell.run(&["queue", "restore", &file]).await;
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    for expected in ["line 2", "line 3", "digest", "nothing was restored", "--skip-invalid"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    assert!(new.everything().await.is_empty(), "not a byte was written");
    let output = new.shell.run(&["queue", "restore", &file, "--skip-invalid"]).await.well();
    assert!(output.starts_with("restored 1 entry"), "{output}");
    assert_eq!(new.objects().await.len(), 1);
}

#[tokio::test]
async fn restore_detects_truncated_backups() {
    let bed = Bed::fresh().await;
    bed.enqueue(&clans(3)).await;
    let text = fs::read_to_string(backed_up(&bed).await).unwrap();
    let new = Bed::fresh().await;
    for cut in [text.len() - 10, text.rfind("{\"end\"").unwrap()] {
        let file = write(&new.shell, &text[..cut]);
        let ran = new.shell.run(&["queue", "restore", &file]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains("truncated after 3 entries"), "{}", ran.stderr);
    }
    let file = write(&new.shell, "{}");
    let output = new.shell.run(&["queue", "restore", &file]).await.badly(1);
    assert!(output.contains("is not a backup"), "{output}");
}

/// A backup as the old worker wrote it.
fn old_backup() -> Value {
    json!({
        "timestamp": "2026-03-04T05:06:07.000089",
        "redis_url": "redis://:hunter2@old-redis:6379",
        "queue_items": [
            {"id": "clan:#2pp", "priority": 1.0, "data": value("clan:#2pp")},
            {"id": "clan:2PP", "priority": 0, "data": serde_json::from_str::<Value>(&value("clan:2PP")).unwrap()},
            {"id": "player:2QQ", "priority": 2, "data": value("player:2QQ")},
        ]
    })
}

#[tokio::test]
async fn restore_merges_old_workers_backup() {
    let bed = Bed::fresh().await;
    let file = write(&bed.shell, &old_backup().to_string());
    let ran = bed.shell.run(&["queue", "restore", &file]).await;
    assert!(!(ran.stdout.clone() + &ran.stderr).contains("hunter2"));
    let output = ran.well();
    assert!(output.starts_with("restored 3 entries of a backup of the old worker"), "{output}");
    assert_eq!(bed.objects().await.into_iter().collect::<Vec<_>>(), ["clan:2PP", "player:2QQ"]);
    let explained = bed.json(&["queue", "explain", "clan:2PP", "--json"]).await;
    assert_eq!(explained["queue"]["priority"], "critical", "the better of the two: {explained}");
}

#[tokio::test]
async fn restore_names_invalid_items_by_position() {
    let mut backup = old_backup();
    let items = backup["queue_items"].as_array_mut().unwrap();
    items.extend([
        json!({"id": "clan:#abc", "priority": 1, "data": value("clan:#abc")}),
        json!({"id": "clan:2LL", "priority": "high", "data": value("clan:2LL")}),
        json!({"priority": 1, "data": value("clan:2LL")}),
        json!({"id": "clan:2YY", "priority": 1, "data": null}),
        json!("nonsense"),
    ]);
    let bed = Bed::fresh().await;
    let file = write(&bed.shell, &backup.to_string());
    let ran = bed.shell.run(&["queue", "restore", &file]).await;
    assert_eq!(ran.code, 1);
    for expected in [
        "queue_items[3], `clan:#abc`: impossible_tag",
        "queue_items[4], `clan:2LL`: its `priority` is `\"high\"`: expected 0, 1, 2 or 3",
        "queue_items[5]: its `id` is missing",
        "queue_items[6], `clan:2YY`: it has no data",
        "queue_items[7]: it is not an object",
    ] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    assert!(bed.everything().await.is_empty());
    let output = bed.json(&["queue", "restore", &file, "--skip-invalid", "--json"]).await;
    assert_eq!(
        (&output["entries"], &output["invalid"], &output["new"], &output["merged"]),
        (&3.into(), &5.into(), &2.into(), &1.into())
    );
}

#[tokio::test]
async fn restore_killed_and_repeated_is_exact() {
    let old = Bed::fresh().await;
    old.enqueue(&clans(5000)).await;
    let file = backed_up(&old).await;
    let new = Bed::fresh().await;
    let (proxy, url) = Proxy::in_front_of(&new.url).await;
    proxy.set(Mode::Slow(Duration::from_millis(20)));
    let slow = Shell::new().with("REDIS_URL", url);
    let restore = slow.start(&["queue", "restore", &file]);
    while new.count().await == 0 {}
    restore.kill().await;
    let after_the_kill = new.count().await;
    assert!((1..5000).contains(&after_the_kill), "killed in the middle: {after_the_kill}");
    let output = new.json(&["queue", "restore", &file, "--json"]).await;
    assert!(output["nothing"].as_u64().unwrap() >= after_the_kill as u64, "{output}");
    assert_eq!(new.objects().await, old.objects().await);
}
