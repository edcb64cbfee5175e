//! What follows a run, in databases that have grown for years, or that hold what no clock says.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    config::DatabaseConfig,
    maintenance::{jobs::table::JobTable, retention::Retention, views::own::OWN_VIEWS},
    store::{Store as _, postgres::PostgresStore},
};
use sqlx::PgPool;
use time::macros::datetime;
use tokio::time::Instant;

use super::views::{exec, number};
use crate::{cli::Shell, support};

fn now() -> Timestamp {
    Timestamp::from_utc(datetime!(2026-03-20 12:34:56 UTC))
}

async fn bed() -> (String, PgPool) {
    let url = support::postgres::fresh().await;
    let config =
        DatabaseConfig { url: url.as_str().into(), max_connections: 4, statement_cache: 100, auto_migrate: true };
    let store = PostgresStore::connect(&config).unwrap();
    store.migrate().await.unwrap();
    (url, store.pool())
}

/// A row of year 1 is 739,000 days before today.
#[tokio::test]
async fn retention_skips_days_without_rows() {
    let (_, pool) = bed().await;
    exec(
        &pool,
        "INSERT INTO player_snapshots (ts, player_tag) VALUES ('0001-01-01 01:00', 'P'), ('0001-01-01 02:00', 'P'), \
         ('0044-03-15 01:00 BC', 'P'), ('0044-03-15 02:00 BC', 'P'), ('2026-01-01 01:00', 'P'), ('2026-01-01 02:00', 'P')",
    )
    .await;
    let retention = Retention::new(pool.clone(), 10);
    let would_go: u64 = retention.outlook(now()).await.unwrap().iter().map(|table| table.would_go).sum();
    let done = retention.thin(now(), Instant::now() + Duration::from_secs(20)).await;
    assert_eq!((done.deleted, done.more, done.failure), (2, false, None), "years before 1 are no times of the game");
    assert_eq!(would_go, 2);
    assert_eq!(number(&pool, "SELECT count(*) FROM player_snapshots WHERE extract(hour FROM ts) = 2").await, 3);
}

#[tokio::test]
async fn retention_leaves_impossible_times() {
    let (_, pool) = bed().await;
    for table in ["clan_snapshots (ts, clan_tag)", "player_snapshots (ts, player_tag)", "war_snapshots (ts, clan_tag)"]
    {
        exec(
            &pool,
            &format!(
                "INSERT INTO {table} VALUES ('-infinity', 'A'), ('infinity', 'A'), ('294276-12-31 23:00', 'A'), \
                 ('12026-01-01', 'A'), ('2026-01-01 01:00', 'A'), ('2026-01-01 02:00', 'A')"
            ),
        )
        .await;
    }
    let retention = Retention::new(pool.clone(), 10);
    let outlook = retention.outlook(now()).await.unwrap();
    assert!(outlook.iter().all(|table| (table.would_go, table.would_stay) == (1, 1)), "{outlook:?}");
    let done = retention.thin(now(), Instant::now() + Duration::from_secs(20)).await;
    assert_eq!((done.deleted, done.more, done.failure), (3, false, None));
    assert_eq!(number(&pool, "SELECT count(*) FROM player_snapshots").await, 5);
}

/// A table without a single finite time has no day to begin with, so thinning ends at once.
#[tokio::test]
async fn retention_ends_without_finite_times() {
    let (_, pool) = bed().await;
    exec(&pool, "INSERT INTO war_snapshots (ts, clan_tag) VALUES ('-infinity', 'A'), ('infinity', 'A'), (NULL, 'A')")
        .await;
    let done = Retention::new(pool.clone(), 10).thin(now(), Instant::now() + Duration::from_secs(20)).await;
    assert_eq!((done.deleted, done.more, done.failure), (0, false, None));
}

#[tokio::test]
async fn retention_of_full_day_goes_in_batches() {
    let (_, pool) = bed().await;
    exec(
        &pool,
        "INSERT INTO player_snapshots (ts, player_tag)
             SELECT timestamp '2026-01-01' + h * interval '1 hour' + p * interval '1 ms', 'P' || p
             FROM generate_series(1, 700) AS p, generate_series(0, 4) AS h;
         INSERT INTO player_snapshots (ts, player_tag) SELECT timestamp '2026-01-01 12:00' + n * interval '1 s', NULL
             FROM generate_series(1, 50) AS n;
         INSERT INTO refresh_worker.refresh_state (kind, tag, snapshot_id)
             SELECT 'player', player_tag, id FROM player_snapshots WHERE ts < '2026-01-01 00:00:00.010'",
    )
    .await;
    let retention = Retention::new(pool.clone(), 10);
    let outlook = retention.outlook(now()).await.unwrap();
    assert_eq!((outlook[1].would_go, outlook[1].would_stay), (2791, 700 + 50 + 9));
    let done = retention.thin(now(), Instant::now() + Duration::from_secs(30)).await;
    assert_eq!((done.deleted, done.more, done.failure), (2791, false, None));
}

#[tokio::test]
async fn purge_goes_batch_by_batch() {
    let (_, pool) = bed().await;
    let table = JobTable::new(pool.clone());
    table.enqueue(&serde_json::json!({}), 0, 3).await.unwrap();
    exec(
        &pool,
        "INSERT INTO background_job_status (job_payload, status, completed_at) \
         SELECT '{}', CASE n % 2 WHEN 0 THEN 'completed' ELSE 'failed' END, now() - n % 10 * interval '1 day' \
         FROM generate_series(1, 5000) AS n",
    )
    .await;
    let age = Duration::from_secs(5 * 86_400 - 60);
    assert_eq!(table.purge(&["completed"], age, true).await.unwrap(), 1000);
    assert_eq!(table.purge(&["completed"], age, false).await.unwrap(), 1000);
    assert_eq!(table.purge(&["completed", "failed"], age, false).await.unwrap(), 1500);
    assert_eq!(table.purge(&["completed", "failed"], age, false).await.unwrap(), 0);
    assert_eq!(number(&pool, "SELECT count(*) FROM background_job_status").await, 2501);
}

#[tokio::test]
async fn jobs_are_found_by_id_and_by_status() {
    let (_, pool) = bed().await;
    let table = JobTable::new(pool.clone());
    let id = table.enqueue(&serde_json::json!({"a": 1}), 0, 3).await.unwrap();
    let other = table.enqueue(&serde_json::json!({}), 0, 3).await.unwrap();
    exec(&pool, "UPDATE background_job_status SET status = 'failed' WHERE job_payload = '{}'").await;
    let ids = |rows: Vec<refresh_worker::maintenance::jobs::table::JobRow>| {
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(table.list(None, None, 20).await.unwrap()), [other.clone(), id.clone()]);
    assert_eq!(ids(table.list(None, None, 1).await.unwrap()), vec![other.clone()]);
    assert_eq!(ids(table.list(Some(&id), None, 20).await.unwrap()), vec![id.clone()]);
    assert_eq!(ids(table.list(None, Some("failed"), 20).await.unwrap()), [other]);
    assert_eq!(ids(table.list(Some(&id), Some("failed"), 20).await.unwrap()), Vec::<String>::new());
    for none in ["", "7", "not-an-id", "' OR true", &id[..35]] {
        assert!(table.list(Some(none), None, 20).await.unwrap().is_empty(), "{none}");
    }
}

#[tokio::test]
async fn install_replaces_older_view_and_keeps_grants() {
    let (url, pool) = bed().await;
    let role = format!("reader_{}", url.rsplit('/').next().unwrap());
    exec(
        &pool,
        &format!(
            "INSERT INTO clans (tag) VALUES ('A');
             INSERT INTO clan_snapshots (ts, clan_tag, data) VALUES (now(), 'A', '{{\"clanPoints\": 7}}');
             CREATE MATERIALIZED VIEW refresh_worker.clan_leaderboard AS SELECT tag AS clan_tag FROM clans;
             CREATE UNIQUE INDEX clan_leaderboard_key ON refresh_worker.clan_leaderboard (clan_tag);
             CREATE ROLE {role}; GRANT SELECT ON refresh_worker.clan_leaderboard TO {role}, PUBLIC"
        ),
    )
    .await;
    let oid = "SELECT 'refresh_worker.clan_leaderboard'::regclass::oid::bigint";
    let before = number(&pool, oid).await;
    OWN_VIEWS[0].install(&pool).await.unwrap();
    assert_eq!(number(&pool, "SELECT points::bigint FROM refresh_worker.clan_leaderboard").await, 7);
    let may = format!("SELECT has_table_privilege('{role}', 'refresh_worker.clan_leaderboard', 'SELECT')::int::bigint");
    assert_eq!(number(&pool, &may).await, 1);
    let keys =
        "SELECT count(*) FROM pg_indexes WHERE indexname IN ('clan_leaderboard_key', 'ix_clan_leaderboard_position')";
    assert_eq!(number(&pool, keys).await, 2);
    let after = number(&pool, oid).await;
    assert_ne!(before, after);
    // Of this definition it stays.
    OWN_VIEWS[0].install(&pool).await.unwrap();
    assert_eq!(number(&pool, oid).await, after);
    exec(&pool, "REFRESH MATERIALIZED VIEW CONCURRENTLY refresh_worker.clan_leaderboard").await;
    exec(&pool, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn leaderboard_reads_any_document() {
    let (_, pool) = bed().await;
    let documents = [
        "NULL",
        "'null'",
        "'[]'",
        "'7'",
        "'{}'",
        r#"'{"clanPoints": 70, "name": "\u0000"}'"#,
        r#"'{"clanPoints": 71, "name": "\ud83d\ude00"}'"#,
        r#"'{"clanPoints": "72"}'"#,
        "'{\"clanPoints\": {\"a\": 1}}'",
        "'{\"clanPoints\": 1e999999}'",
        "'{\"clanPoints\": 7.3e1}'",
    ];
    for (number, document) in documents.iter().enumerate() {
        exec(
            &pool,
            &format!(
                "INSERT INTO clans (tag) VALUES ('C{number}'); \
                 INSERT INTO clan_snapshots (ts, clan_tag, data) VALUES (now(), 'C{number}', {document})"
            ),
        )
        .await;
    }
    OWN_VIEWS[0].install(&pool).await.unwrap();
    assert_eq!(number(&pool, "SELECT count(*) FROM refresh_worker.clan_leaderboard").await, 11);
    let points = "SELECT sum(points)::bigint * 10 + count(points) FROM refresh_worker.clan_leaderboard";
    assert_eq!(number(&pool, points).await, (71 + 73) * 10 + 2);
}

/// A report that PostgreSQL takes and cannot read costs the others nothing.
#[tokio::test]
async fn unreadable_report_hides_no_other() {
    let (url, pool) = bed().await;
    let row = |run: &str, error: &str| {
        format!(
            "INSERT INTO refresh_worker.refresh_runs \
             (run, started, ended, stopped_because, processed, failed, api_requests, report) VALUES ('{run}', now(), now(), 'x', 0, 0, 0, \
             '{{\"errors\": [\"clan:2PP: {error}\"], \"work_by_kind_and_priority\": {{\"clan\": {{\"high\": {{\"calls\": 3}}}}}}}}')"
        )
    };
    exec(&pool, &row("good", "fine")).await;
    exec(&pool, &row("bad", r"zero \u0000 here")).await;
    exec(
        &pool,
        "INSERT INTO refresh_worker.refresh_runs VALUES ('odd', now(), now(), 'x', NULL, 0, 0, 0, '{\"errors\": 7}')",
    )
    .await;
    let shell = Shell::new().with("DATABASE_URL", &url);
    let report: serde_json::Value = serde_json::from_str(&shell.run(&["report", "--json"]).await.well()).unwrap();
    assert_eq!((&report["runs"], &report["work"][0]["calls"]), (&3.into(), &3.into()), "{report:#}");
    assert_eq!(number(&pool, "SELECT count(*) FROM refresh_worker.run_errors WHERE object = 'clan:2PP'").await, 1);
    // What is written again is counted once, and what is trimmed is gone.
    exec(&pool, "UPDATE refresh_worker.refresh_runs SET report = report WHERE run = 'good'").await;
    assert_eq!(number(&pool, "SELECT sum(calls)::bigint FROM refresh_worker.work_by_day").await, 3);
    exec(&pool, "DELETE FROM refresh_worker.refresh_runs").await;
    assert_eq!(number(&pool, "SELECT count(*) FROM refresh_worker.run_work").await, 0);
}
