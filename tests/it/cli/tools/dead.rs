//! `dead list|show|redrive|purge`.

use serde_json::Value;

use super::Bed;

async fn bed() -> Bed {
    let bed = Bed::fresh().await;
    bed.bury("clan:2PP", "wrong_tag").await;
    bed.bury("player:2QQ", "attempts_used_up").await;
    bed.mail("clan:#abc", "no json").await;
    bed.admit().await;
    bed
}

#[tokio::test]
async fn enqueue_revives_lapsed_only_on_request() {
    let bed = Bed::fresh().await;
    bed.bury("clan:2PP", "lapsed").await;
    let output = bed.shell.run(&["enqueue", "clan:2PP"]).await.badly(1);
    assert!(output.contains("clan:2PP was not queued: it is a dead letter since"), "{output}");
    assert!(output.contains("lapsed: said so") && output.contains("enqueue clan:2PP --revive"), "{output}");
    let output = bed.shell.run(&["enqueue", "clan:2PP", "clan:2QQ"]).await.well();
    assert_eq!(output, "queued 1 request as high: clan:2QQ\n");
    let output = bed.shell.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(output.contains("New requests do not revive it"), "{output}");

    let output = bed.shell.run(&["enqueue", "clan:2PP", "--revive"]).await.well();
    assert_eq!(output, "queued 1 request as high: clan:2PP\n");
    assert_eq!(bed.shell.run(&["dead", "list"]).await.well(), "no dead letters\n");
}

#[tokio::test]
async fn dead_show_has_all_details() {
    let bed = bed().await;
    let output = bed.shell.run(&["dead", "show", "clan:#2pp"]).await.well();
    for expected in ["clan:2PP", "wrong_tag: said so", "what came", "high", "first requested", "attempts"] {
        assert!(output.contains(expected), "{expected}: {output}");
    }
    let letter = bed.json(&["dead", "show", "mail:clan:#abc", "--json"]).await;
    assert_eq!(
        (&letter["reason_code"], &letter["body"], &letter["score"]),
        (&"not_json".into(), &"no json".into(), &"1".into())
    );
    assert_eq!(letter["can_be_redriven"], true);
    let output = bed.shell.run(&["dead", "show", "clan:2PP", "war:2PP"]).await.badly(1);
    assert!(output.contains("only 1 of 2 names match a dead letter"), "{output}");
}

#[tokio::test]
async fn dead_filters_work_on_every_command() {
    let bed = bed().await;
    for command in ["list", "show"] {
        for (filter, name) in [
            (&["--kind", "player"][..], "player:2QQ"),
            (&["--reason", "wrong_tag"], "clan:2PP"),
            (&["--kind", "clan", "--reason", "wrong_tag"], "clan:2PP"),
        ] {
            let output = bed.shell.run(&[&["dead", command, "--json"], filter].concat()).await.well();
            let names: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(names.len(), 1, "{command} {filter:?}: {output}");
            assert_eq!(names[0]["name"], name);
        }
    }
    for command in [&["dead", "list"][..], &["dead", "show"]] {
        assert_eq!(bed.shell.run(&[command, &["--older-than", "2d"]].concat()).await.well(), "no dead letters\n");
    }
    let redriven = bed.json(&["dead", "redrive", "--older-than", "2d", "--json"]).await;
    assert_eq!(redriven["redriven"], 0);
    let purged = bed.json(&["dead", "purge", "--older-than", "2d", "--json"]).await;
    assert_eq!(purged["purged"], 0);
    let output = bed.shell.run(&["dead", "list", "--older-than", "soon"]).await.badly(2);
    assert!(output.contains("90s, 30m, 12h, 2d"), "{output}");
}

#[tokio::test]
async fn dead_purge_needs_yes() {
    let bed = bed().await;
    let output = bed.shell.run(&["dead", "purge", "--all"]).await.badly(2);
    assert!(output.contains("3 dead letters") && output.contains("--yes"), "{output}");
    assert_eq!(bed.objects().await.len(), 3, "nothing was deleted");
    bed.shell.run(&["dead", "purge"]).await.badly(2);

    let output = bed.shell.run(&["dead", "purge", "--reason", "wrong_tag", "--yes"]).await.well();
    assert_eq!(output, "deleted 1 dead letter\n");
    assert_eq!(bed.shell.run(&["dead", "purge", "--all", "--yes"]).await.well(), "deleted 2 dead letters\n");
    assert!(bed.objects().await.is_empty());
    assert_eq!(bed.json(&["queue", "stats", "--json"]).await["dead_letters"], 0);
}
