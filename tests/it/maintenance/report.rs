//! `report` and its views, over what real runs wrote.

use serde_json::{Value, json};
use sqlx::PgPool;

use super::views::number;
use crate::{
    cli::Shell,
    lambda::{
        events,
        world::{PLENTY, World, assert_processed},
    },
};

#[tokio::test]
async fn report_shows_freshness_and_calls() {
    let world = World::start().await;
    let objects = world.mail_of_every_kind(6).await;
    let mut worker = world.worker().await;
    assert_processed(&worker.invoke(&events::schedule(), PLENTY).await, objects.len());
    let pool = PgPool::connect(&world.database_url).await.unwrap();
    let calls = i64::try_from(world.simulator.total_calls()).unwrap();
    assert_eq!(number(&pool, "SELECT sum(calls)::bigint FROM refresh_worker.work").await, calls);
    let changed = "SELECT sum(changed)::bigint FROM refresh_worker.work_by_day WHERE priority = 'high'";
    assert_eq!(number(&pool, changed).await, i64::try_from(objects.len()).unwrap());

    let shell = Shell::new().with("DATABASE_URL", &world.database_url);
    let report: Value = serde_json::from_str(&shell.run(&["report", "--json", "--since", "1d"]).await.well()).unwrap();
    let row = |name: &str, kind: &str| {
        let rows = report[name].as_array().unwrap();
        rows.iter().find(|row| row["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {report:#}")).clone()
    };
    assert_eq!((&report["runs"], &row("work", "player")["changed"]), (&json!(1), &json!(6)));
    assert_eq!(row("work", "clan")["priority"], "high");
    let players = row("freshness", "player");
    assert_eq!(players["fresh_5_min"], 6);
    let known = players["objects"].as_i64().unwrap();
    assert_eq!(players["never_fetched"], known - 6, "members of the clans are known and were never fetched");

    let shown = shell.run(&["report"]).await.well();
    for text in ["How fresh the data is", "What the calls brought: 1 run", "player", "░"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    assert!(shell.run(&["report", "--since", "soon"]).await.badly(2).contains("expected a number and a unit"));
}

#[tokio::test]
async fn report_without_views_names_command() {
    let shell = Shell::new().with("DATABASE_URL", crate::support::postgres::fresh().await);
    let shown = shell.run(&["report"]).await.badly(1);
    assert!(shown.contains("refresh-worker migrate"), "{shown}");
}
