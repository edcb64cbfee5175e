//! `queue explain`: one object, from everywhere.

use std::time::Duration;

use refresh_worker::queue::{ClaimRequest, Queue as _};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::{Bed, Shell, value};
use crate::support;

#[tokio::test]
async fn explain_finds_mail_in_any_spelling() {
    let bed = Bed::fresh().await;
    bed.mail("clan:#2pp", &value("clan:#2pp")).await;
    bed.mail("war-followup-1f", &value("clan:%232PP")).await;
    bed.command::<()>(&["ZADD", "refresh_queue", "1", "clan:2pp-retry-2"]).await;
    let output = bed.shell.run(&["queue", "explain", "#2pp", "--json"]).await.well();
    let all: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let objects: Vec<&str> = all.iter().map(|known| known["object"].as_str().unwrap()).collect();
    assert_eq!(objects, ["clan:2PP", "player:2PP", "war:2PP"]);
    let ids: Vec<&str> = all[0]["mail"].as_array().unwrap().iter().map(|mail| mail["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["clan:#2pp", "clan:2pp-retry-2", "war-followup-1f"]);
    assert!(all[0]["outlook"].as_str().unwrap().contains("In the mailbox"), "{}", all[0]);
    assert!(all[1]["mail"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn explain_shows_state_and_outlook() {
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
    let output = bed.shell.run(&["queue", "explain", "war:#2qq"]).await.well();
    for expected in ["`war:#2qq` is war #2QQ", "next request", "not read: DATABASE_URL is not set"] {
        assert!(output.contains(expected), "{expected}: {output}");
    }
}

#[tokio::test]
async fn explain_shows_planned_look_and_reader() {
    let bed = Bed::fresh().await;
    let objects = vec!["clan:2PP".parse().unwrap()];
    let run = "some-run".to_owned();
    let looks = ClaimRequest { objects, duration: Duration::from_secs(60), run, nonce: "1".to_owned() };
    assert_eq!(bed.queue.claim(bed.now().await, &looks).await.unwrap().leases.len(), 1);
    let known = bed.json(&["queue", "explain", "clan:2PP", "--json"]).await;
    assert_eq!(
        (&known["queue"]["planned"], &known["queue"]["leased_by"]),
        (&true.into(), &"some-run".into()),
        "{known}"
    );
    assert!(known["outlook"].as_str().unwrap().starts_with("A planned look is under way: run some-run"), "{known}");
    let output = bed.shell.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(output.contains("planned look, since") && !output.contains("first requested"), "{output}");

    bed.mail("clan:2PP", &value("clan:2PP")).await;
    bed.mail("clan:2QQ", &value("clan:2QQ")).await;
    bed.admit().await;
    let known = bed.json(&["queue", "explain", "clan:2PP", "--json"]).await;
    assert!(known["queue"]["reader_asked"].is_null(), "{known}");
    assert!(known["queue"]["next_request"]["reader_asked"].is_string(), "{known}");
    let output = bed.shell.run(&["queue", "explain", "clan:2QQ"]).await.well();
    assert!(output.contains("a reader asked"), "{output}");
}

#[tokio::test]
async fn explain_reads_the_database_if_possible() {
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
    let output = shell.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(output.contains("last fetched") && output.contains("2 min 0"), "{output}");
    let output = shell.run(&["queue", "explain", "war:2PP"]).await.well();
    assert!(output.contains("Never fetched") && output.contains("Not queued"), "{output}");

    let down =
        Shell::new().with("REDIS_URL", &bed.url).with("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/coc");
    let output = down.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(output.contains("not read: cannot ") && output.contains("Ready, "), "{output}");
    assert!(!output.contains("hunter2"));
}

#[tokio::test]
async fn explain_shows_place_in_the_plan() {
    let bed = Bed::fresh().await;
    let database = support::postgres::fresh_with_contract().await;
    let shell = Shell::new().with("REDIS_URL", &bed.url).with("DATABASE_URL", &database);
    shell.run(&["migrate"]).await.well();
    let json = async |object: &str| -> Value {
        serde_json::from_str(&shell.run(&["queue", "explain", object, "--json"]).await.well()).unwrap()
    };
    let never_on = json("clan:2PP").await;
    assert!(never_on.get("plan").is_none(), "{never_on}");
    let mut connection = PgConnection::connect(&database).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO refresh_worker.plan (kind, tag, looked_at, next_look, heard_at, changes, watched, mails, exposed, bucket, hinted)
         VALUES ('clan', '2PP', now() - interval '1 min', now() + interval '30 s', now() - interval '1 h', 300, 86400, 50, 36000, 7, true),
                ('clan', '2QQ', 'infinity', '-infinity', '-infinity', 'NaN', 'Infinity', -1, 1e30, -5, false);
         INSERT INTO refresh_worker.plan_level VALUES ('main', ln(0.05), now(), now())",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let known = json("clan:2PP").await;
    assert_eq!((&known["plan"]["why"], &known["plan"]["hinted"]), (&"hinted".into(), &true.into()), "{known}");
    assert!((known["plan"]["level"].as_f64().unwrap() - 0.05).abs() < 1e-9, "{known}");
    let output = shell.run(&["queue", "explain", "clan:2PP"]).await.well();
    for expected in [
        "about every 12 min",
        "learned from 50 requests in 10 h",
        "about every 5 min",
        "next look",
        "Its planned look is at",
    ] {
        assert!(output.contains(expected), "{expected}: {output}");
    }
    assert_eq!(json("clan:2QQ").await["plan"]["why"], "never_looked");

    // An older database, or a role without rights to the planner's tables.
    sqlx::raw_sql("DROP TABLE refresh_worker.plan").execute(&mut connection).await.unwrap();
    let output = shell.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(!output.contains("next look") && !output.contains("not read"), "{output}");
}

#[tokio::test]
async fn explain_refuses_a_wrong_object() {
    let bed = Bed::fresh().await;
    let output = bed.shell.run(&["queue", "explain", "clan:#ABC"]).await.badly(2);
    assert!(output.contains("'A'") && output.contains("clan:TAG"), "{output}");
}
