//! Values that others put into the tables of jobs, views and snapshots: what follows a run gets over each of them.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    config::{DatabaseConfig, ViewConfig},
    maintenance::{
        jobs::table::JobTable,
        retention::Retention,
        views::{Views, When},
    },
    store::{Store as _, postgres::PostgresStore},
};
use time::macros::datetime;
use tokio::time::Instant;

use super::{
    JOBS_TABLE, jobs, keeping_statements,
    views::{exec, number},
};
use crate::{cli::Shell, support};

/// Of each column of the table of jobs: values that nobody expects.
const ODD: [(&str, &[&str]); 10] = [
    ("created_at", TIMES),
    ("updated_at", TIMES),
    ("started_at", TIMES),
    ("completed_at", TIMES),
    ("retry_count", NUMBERS),
    ("max_retries", NUMBERS),
    ("priority", NUMBERS),
    ("job_payload", DOCUMENTS),
    ("results", DOCUMENTS),
    ("error_message", &["NULL", "''", r"E'\x01\x1b[31m'", "repeat('x', 100000)"]),
];
const TIMES: &[&str] = &["NULL", "'infinity'", "'-infinity'", "'10000-01-01'", "'294276-12-31'", "'4713-01-01 BC'"];
const NUMBERS: &[&str] = &["NULL", "-1", "2147483647", "-2147483648", "0"];
const DOCUMENTS: &[&str] = &[
    "'null'",
    "'5'",
    "'[1]'",
    r#"'{"triggeredBy": 5, "matchId": {"a": 1}}'"#,
    r#"'[{"name": 1}, {"name": "good", "success": true, "message": "x", "duration": -1, "error": null}]'"#,
    "(repeat('[', 3000) || repeat(']', 3000))::jsonb",
];

async fn bed() -> (String, sqlx::PgPool) {
    let url = support::postgres::fresh().await;
    let config =
        DatabaseConfig { url: url.as_str().into(), max_connections: 4, statement_cache: 100, auto_migrate: true };
    let store = PostgresStore::connect(&config).unwrap();
    store.migrate().await.unwrap();
    (url, store.pool())
}

async fn fill(pool: &sqlx::PgPool) -> i64 {
    exec(pool, JOBS_TABLE).await;
    exec(pool, "DROP TRIGGER touch ON background_job_status").await;
    let mut rows = 0;
    for status in ["queued", "processing", "completed", "failed"] {
        for (column, values) in ODD {
            for value in values {
                let payload = if column == "job_payload" { "" } else { "job_payload, " };
                let filled = if column == "job_payload" { "" } else { "'{}', " };
                let insert = format!(
                    "INSERT INTO background_job_status ({payload}status, {column}) VALUES ({filled}'{status}', {value})"
                );
                exec(pool, &insert).await;
                rows += 1;
            }
        }
    }
    rows
}

#[tokio::test]
async fn jobs_tolerate_every_value_of_table() {
    let (url, pool) = bed().await;
    let rows = fill(&pool).await;
    let table = JobTable::new(pool.clone());
    assert_eq!(i64::try_from(table.list(None, None, 10_000).await.unwrap().len()).unwrap(), rows);
    let shell = Shell::new().with("DATABASE_URL", &url);
    shell.run(&["jobs", "list", "--limit", "1000"]).await.well();
    shell.run(&["jobs", "list", "--limit", "1000", "--json"]).await.well();
    let ids: Vec<String> = sqlx::query_scalar("SELECT id::text FROM background_job_status WHERE status = 'completed'")
        .fetch_all(&pool)
        .await
        .unwrap();
    for id in ids.iter().take(60) {
        shell.run(&["jobs", "show", id]).await.well();
    }

    let report = jobs::work(&pool, &jobs::config(&["good"])).await;
    assert_eq!(report.failure, None, "{report:?}");
    assert!(report.jobs.iter().all(|job| job.status == "completed"), "{report:?}");
    let left = "SELECT count(*) FROM background_job_status WHERE status = 'queued'";
    assert_eq!(number(&pool, left).await, 0, "what others queued waits for nothing");
    for only_count in [true, false] {
        table.purge(&["completed", "failed"], Duration::ZERO, only_count).await.unwrap();
    }
}

#[tokio::test]
async fn view_with_impossible_refresh_time_is_due() {
    let (_, pool) = bed().await;
    exec(&pool, "CREATE MATERIALIZED VIEW one AS SELECT 1 AS n; CREATE MATERIALIZED VIEW other AS SELECT 1 AS n").await;
    let views = ["one", "other"].map(|name| ViewConfig {
        name: name.to_owned(),
        interval: Duration::from_secs(3600),
        statistics: None,
    });
    let views = Views::new(keeping_statements(&pool), &views).unwrap();
    let until = || Instant::now() + Duration::from_secs(20);
    let now = Timestamp::from_utc(datetime!(2026-03-20 12:34:56 UTC));
    views.refresh(When::Due, now, until()).await;
    for time in ["infinity", "-infinity", "10000-01-01", "4713-01-01 BC"] {
        let update =
            format!("UPDATE materialized_view_refresh_log SET last_refreshed_at = '{time}' WHERE view_name = 'one'");
        exec(&pool, &update).await;
        let refreshed = views.refresh(When::Due, now, until()).await;
        let shown = format!("{time}: {refreshed:?}");
        assert!(refreshed[0].refresh_type.is_some(), "{shown}");
        assert!(refreshed[1].skipped.is_some(), "{shown}");
    }
}

#[tokio::test]
async fn retention_tolerates_every_time() {
    let (_, pool) = bed().await;
    let now = Timestamp::from_utc(datetime!(2026-03-20 12:34:56 UTC));
    for time in ["infinity", "-infinity", "10000-01-01", "294276-12-31 23:59:59", "4713-01-01 BC", "4714-11-24 BC"] {
        for (table, tag) in
            [("clan_snapshots", "clan_tag"), ("player_snapshots", "player_tag"), ("war_snapshots", "clan_tag")]
        {
            exec(&pool, &format!("INSERT INTO {table} (ts, {tag}) VALUES ('{time}', '2PP'), ('{time}', '2YY')")).await;
        }
    }
    exec(
        &pool,
        "INSERT INTO clan_snapshots (ts, clan_tag) VALUES ('2026-03-01 01:00', '2PP'), ('2026-03-01 02:00', '2PP')",
    )
    .await;
    for noted in ["", "infinity", "-infinity", "4713-01-01 BC", "10000-01-01"] {
        if !noted.is_empty() {
            let note = format!(
                "INSERT INTO refresh_worker.retention_progress VALUES ('clan_snapshots', '{noted}', now()) \
                 ON CONFLICT (snapshot_table) DO UPDATE SET thinned_until = excluded.thinned_until"
            );
            exec(&pool, &note).await;
        }
        let retention = Retention::new(pool.clone(), 10);
        retention.outlook(now).await.unwrap_or_else(|error| panic!("{noted}: {error}"));
        let thinned = retention.thin(now, Instant::now() + Duration::from_secs(20)).await;
        assert_eq!((thinned.failure, thinned.more), (None, false), "{noted}");
    }
    assert_eq!(number(&pool, "SELECT count(*) FROM clan_snapshots").await, 13);
    assert_eq!(number(&pool, "SELECT count(*) FROM war_snapshots").await, 12);
}
