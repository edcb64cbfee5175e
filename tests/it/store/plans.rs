//! Plans for any arguments (generic), which PostgreSQL may choose for a statement that was executed five times: none of a
//! commit's statements reads a whole table, or compares each row with thousands of tags.

use refresh_worker::store::{Store as _, postgres::PostgresStore};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::{
    beds::config,
    every_statement::{Cost, STATEMENTS, Size, exec, fill, unlisted},
};
use crate::support;

/// Tables that grow with the game, or with time.
const LARGE: [&str; 14] = [
    "clans",
    "players",
    "clan_snapshots",
    "player_snapshots",
    "war_snapshots",
    "clan_memberships",
    "refresh_state",
    "background_job_status",
    "refresh_runs",
    "run_work",
    "run_errors",
    "outbox",
    "plan",
    "looks",
];

/// All nodes of a plan.
fn nodes<'a>(plan: &'a Value, into: &mut Vec<&'a Value>) {
    into.push(plan);
    for child in plan["Plans"].as_array().into_iter().flatten() {
        nodes(child, into);
    }
}

#[tokio::test]
async fn every_statement_is_looked_at() {
    assert_eq!(unlisted(), Vec::<String>::new(), "list them in tests/it/store/every_statement.rs");
}

/// Looks at all in one database, except those that have to read whole tables: it is made once.
#[tokio::test]
async fn generic_plans_read_no_whole_table() {
    let url = support::postgres::fresh().await;
    PostgresStore::connect(&config(&url)).unwrap().migrate().await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    fill(&mut connection, Size::MODERATE).await;
    exec(&mut connection, "SET plan_cache_mode = force_generic_plan").await;
    let mut wrong = Vec::new();
    for statement in STATEMENTS.iter().filter(|statement| statement.in_commit || statement.cost == Cost::Bounded) {
        let execute = statement.prepare(&mut connection).await;
        let planned = statement.plan(&mut connection, &execute, false).await;
        let mut all = Vec::new();
        nodes(&planned["Plan"], &mut all);
        for node in all {
            let (kind, table) = (node["Node Type"].as_str().unwrap(), node["Relation Name"].as_str().unwrap_or(""));
            if kind == "Seq Scan" && LARGE.contains(&table) {
                wrong.push(format!("{}: reads all of {table}", statement.name()));
            }
            let filters = ["Filter", "Join Filter"].map(|name| node[name].as_str().unwrap_or_default());
            // What else is compared so has two or three elements.
            if statement.in_commit && filters.iter().any(|filter| filter.contains("ANY ($")) {
                wrong.push(format!("{}: compares each row with all of an array: {filters:?}", statement.name()));
            }
        }
        if !statement.in_commit {
            continue;
        }
        // What the plan does, beside what it looks like: few rows are read for nothing, and each page a few times at most.
        let carried_out = statement.plan(&mut connection, &execute, true).await;
        let mut all = Vec::new();
        nodes(&carried_out["Plan"], &mut all);
        let number = |node: &Value, name: &str| node[name].as_f64().unwrap_or(0.0);
        let in_vain = all.iter().map(|node| {
            let each = number(node, "Rows Removed by Filter") + number(node, "Rows Removed by Join Filter");
            each * number(node, "Actual Loops")
        });
        let in_vain: f64 = in_vain.sum();
        // Ended memberships of 64 clans, and as many of their members.
        let allowed = f64::from(64 * 2 * (Size::MODERATE.ended_of_commit + 80) + 3200 * 8);
        if in_vain > allowed {
            wrong.push(format!("{}: {in_vain} rows read for nothing", statement.name()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
