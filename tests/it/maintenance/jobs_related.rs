//! Statistics jobs as the related system knows them: what its guide has people do, and what its readers read.

use std::future::pending;

use refresh_worker::{
    config::{InvalidationConfig, StatsConfig},
    maintenance::{
        invalidate::Invalidator,
        jobs::{ENOUGH_TIME_IN_TASK, Jobs, table::JobTable},
    },
};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    application::Application,
    jobs::{bed, config, enqueue, function, in_a_minute, job, work},
    views::{database, exec, number},
};
use crate::{cli::Shell, support};

/// As its guide prints it.
const BY_HAND: &str = "UPDATE background_job_status SET status = 'queued', retry_count = retry_count + 1";

async fn stored(pool: &PgPool) -> Value {
    let row: String =
        sqlx::query_scalar("SELECT results::text FROM background_job_status").fetch_one(pool).await.unwrap();
    serde_json::from_str(&row).unwrap()
}

#[tokio::test]
async fn job_queued_by_hand_is_taken_next() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let functions = config(&["good", "bad"]);
    work(&pool, &functions).await;
    assert!(work(&pool, &functions).await.jobs.is_empty(), "it waits for its next attempt");
    // While it waits, then when it has failed for good.
    for status in ["queued", "failed"] {
        exec(&pool, &format!("UPDATE background_job_status SET status = '{status}'")).await;
        exec(&pool, BY_HAND).await;
        assert_eq!(work(&pool, &functions).await.jobs.len(), 1, "{status}");
    }
    exec(&pool, "CREATE OR REPLACE FUNCTION bad() RETURNS integer LANGUAGE sql AS 'SELECT 1'").await;
    exec(&pool, BY_HAND).await;
    assert_eq!(work(&pool, &functions).await.completed, 1);
    assert_eq!(job(&pool, &id).await.0, "completed");
}

#[tokio::test]
async fn failed_job_of_old_worker_can_be_requeued() {
    let pool = bed().await;
    for completed in ["now()", "NULL"] {
        exec(
            &pool,
            &format!(
                "TRUNCATE background_job_status; INSERT INTO background_job_status \
                 (job_payload, status, started_at, completed_at, error_message, results, retry_count) VALUES \
                 ('{{}}', 'failed', now(), {completed}, '1 of 2 failed', '{{\"total_functions\": 2, \"function_results\": \
                   [{{\"name\": \"good\", \"success\": true, \"message\": null, \"duration\": 12.5}}]}}', 3)"
            ),
        )
        .await;
        assert!(work(&pool, &config(&["good"])).await.jobs.is_empty());
        exec(&pool, BY_HAND).await;
        assert_eq!(work(&pool, &config(&["good"])).await.completed, 1, "{completed}");
    }
}

#[tokio::test]
async fn results_have_old_workers_form() {
    let pool = bed().await;
    let application = Application::start([]).await;
    let invalidation = InvalidationConfig { url: application.url().parse().unwrap(), key: None };
    enqueue(&pool, 1).await;
    let stats = StatsConfig { functions: vec![function("good", &["tag"]), function("bad", &[])], ..config(&[]) };
    let jobs = Jobs::new(pool.clone(), &stats, Some(Invalidator::new(&invalidation).unwrap()));
    jobs.work(in_a_minute(), ENOUGH_TIME_IN_TASK, pending()).await;
    let results = stored(&pool).await;
    for (name, value) in [
        ("total_functions", json!(2)),
        ("successful_functions", json!(1)),
        ("failed_functions", json!(1)),
        ("cache_invalidation_success", json!(true)),
    ] {
        assert_eq!(results[name], value, "{name}: {results}");
    }
    assert_eq!(results["function_results"][0]["name"], "good");
    assert_eq!(application.came()[0].body["requestId"], "r", "as who asked called it");
}

#[tokio::test]
async fn results_of_old_worker_are_read() {
    let pool = bed().await;
    let one = r#"{"name": "good", "success": true, "message": null, "duration": 12.5, "error": null}"#;
    for results in
        [format!("[{one}]"), format!(r#"{{"failed_functions": 0, "function_results": [{one}, {{"odd": 1}}]}}"#)]
    {
        exec(
            &pool,
            &format!(
                "TRUNCATE background_job_status; INSERT INTO background_job_status (job_payload, status, results) \
                 VALUES ('{{}}', 'completed', '{results}')"
            ),
        )
        .await;
        let rows = JobTable::new(pool.clone()).list(None, None, 1).await.unwrap();
        let read = rows[0].results();
        assert_eq!((read.len(), read[0].name.as_str(), read[0].duration), (1, "good", 13), "{results}");
    }
}

#[tokio::test]
async fn commands_that_read_create_nothing() {
    let url = support::postgres::fresh().await;
    let shell = Shell::new().with("DATABASE_URL", &*url);
    assert_eq!(shell.run(&["jobs", "list"]).await.well(), "no jobs\n");
    shell.run(&["jobs", "list", "--json"]).await.well();
    shell.run(&["jobs", "show", "1"]).await.badly(2);
    shell.run(&["jobs", "retry", "1"]).await.badly(2);
    assert_eq!(shell.run(&["jobs", "purge", "--yes"]).await.well(), "deleted 0 jobs\n");
    shell.run(&["report"]).await.badly(1);
    let ran = shell.run(&["retention", "--days", "30", "--dry-run"]).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let made = "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace) \
                + (SELECT count(*) FROM pg_namespace WHERE nspname = 'refresh_worker')";
    assert_eq!(number(&pool, made).await, 0, "{ran:?}");
}

#[tokio::test]
async fn own_views_install_where_backslashes_escape() {
    let pool = database().await;
    let url = pool.connect_options();
    let name = url.get_database().unwrap().to_owned();
    exec(&pool, &format!("ALTER DATABASE {name} SET standard_conforming_strings = off")).await;
    let server = format!("postgres://postgres@{}:{}/{name}", url.get_host(), url.get_port());
    let shell = Shell::new().with("DATABASE_URL", server);
    shell.run(&["views", "install"]).await.well();
    exec(
        &pool,
        r#"SET standard_conforming_strings = on; INSERT INTO clans (tag) VALUES ('2PP');
           INSERT INTO clan_snapshots (ts, clan_tag, name, data) VALUES (now(), '2PP', 'x', '{"clanPoints": 7, "a": "\u00e9"}');
           REFRESH MATERIALIZED VIEW refresh_worker.clan_leaderboard"#,
    )
    .await;
    assert_eq!(number(&pool, "SELECT points::bigint FROM refresh_worker.clan_leaderboard").await, 7);
}

#[tokio::test]
async fn failing_view_does_not_stop_next() {
    let url = support::postgres::fresh().await;
    let shell = Shell::new().with("DATABASE_URL", &*url);
    shell.run(&["migrate"]).await.well();
    let pool = PgPool::connect(&url).await.unwrap();
    exec(&pool, "CREATE TABLE refresh_worker.clan_leaderboard (a int)").await;
    let ran = shell.run(&["views", "install"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stdout.contains("refresh_worker.refresh_progress") && ran.stderr.contains("clan_leaderboard"),
        "{ran:?}"
    );
}
