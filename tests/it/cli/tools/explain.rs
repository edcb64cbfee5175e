//! `queue explain`: one object, from everywhere.

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::{Bed, Shell, value};
use crate::support;

#[tokio::test]
async fn mail_under_any_spelling_is_found_and_a_tag_alone_means_three_kinds() {
    let bed = Bed::fresh().await;
    bed.mail("clan:#2pp", &value("clan:#2pp")).await;
    bed.mail("war-followup-1f", &value("clan:%232PP")).await;
    bed.command::<()>(&["ZADD", "refresh_queue", "1", "clan:2pp-retry-2"]).await;
    let told = bed.shell.run(&["queue", "explain", "#2pp", "--json"]).await.well();
    let all: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let objects: Vec<&str> = all.iter().map(|known| known["object"].as_str().unwrap()).collect();
    assert_eq!(objects, ["clan:2PP", "player:2PP", "war:2PP"]);
    let ids: Vec<&str> = all[0]["mail"].as_array().unwrap().iter().map(|mail| mail["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["clan:#2pp", "clan:2pp-retry-2", "war-followup-1f"]);
    assert!(all[0]["outlook"].as_str().unwrap().contains("In the mailbox"), "{}", all[0]);
    assert!(all[1]["mail"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn every_state_is_told_with_its_outlook() {
    let bed = Bed::fresh().await;
    bed.fill().await;
    for (object, state, outlook) in [
        ("player:2LL", "ready", "Ready, first in the queue."),
        ("clan:2QQ", "delayed", "the last attempt failed (timeout; 1 of 3 attempts used)"),
        ("war:2QQ", "leased", "Run some-run is refreshing it"),
        ("clan:2PP", "dead", "Dead letter since"),
    ] {
        let known = bed.json(&["queue", "explain", object, "--json"]).await;
        assert_eq!(known["queue"]["state"], state, "{known}");
        assert!(known["outlook"].as_str().unwrap().contains(outlook), "{known}");
        assert_eq!(known["database"]["because"], "DATABASE_URL is not set");
    }
    let told = bed.shell.run(&["queue", "explain", "war:#2qq"]).await.well();
    for expected in ["`war:#2qq` is war #2QQ", "next request", "not read: DATABASE_URL is not set"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

#[tokio::test]
async fn what_the_database_knows_is_told_and_its_absence_too() {
    let bed = Bed::fresh().await;
    let database = support::postgres::fresh_with_contract().await;
    let shell = Shell::new().with("REDIS_URL", &bed.url).with("DATABASE_URL", &database);
    shell.run(&["migrate"]).await.well();
    let mut connection = PgConnection::connect(&database).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO refresh_worker.refresh_state (kind, tag, fetched_at, changed_at, fresh_until, last_outcome)
         VALUES ('clan', '2PP', now() - interval '2 min', now() - interval '1 h', now() - interval '1 min', 'unchanged');
         INSERT INTO refresh_worker.refresh_runs
         (run, started, ended, stopped_because, processed, failed, api_requests, report)
         VALUES ('run-1', now(), now(), 'queue_empty', 0, 1, 1, '{\"errors\": [\"clan:2PP: bad_gateway: 502\", \"clan:2PPP: x\"]}')",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    bed.enqueue(&["clan:2PP".to_owned()]).await;
    let known: Value =
        serde_json::from_str(&shell.run(&["queue", "explain", "clan:2PP", "--json"]).await.well()).unwrap();
    assert_eq!(known["database"]["last_outcome"], "unchanged", "{known}");
    let errors = known["database"]["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["error"]), (1, &"clan:2PP: bad_gateway: 502".into()));
    let told = shell.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(told.contains("last fetched") && told.contains("2 min 0"), "{told}");
    let told = shell.run(&["queue", "explain", "war:2PP"]).await.well();
    assert!(told.contains("Never fetched") && told.contains("Not queued"), "{told}");

    let down =
        Shell::new().with("REDIS_URL", &bed.url).with("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/coc");
    let told = down.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(told.contains("not read: cannot ") && told.contains("Ready, "), "{told}");
    assert!(!told.contains("hunter2"));
}

#[tokio::test]
async fn what_cannot_be_an_object_says_why() {
    let bed = Bed::fresh().await;
    let told = bed.shell.run(&["queue", "explain", "clan:#ABC"]).await.badly(2);
    assert!(told.contains("'A'") && told.contains("clan:TAG"), "{told}");
}
