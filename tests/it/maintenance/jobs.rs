//! Statistics jobs: how one worker does them, on a table that the related system made.

use std::{future::pending, time::Duration};

use refresh_worker::{
    config::{InvalidationConfig, StatsConfig, StatsFunction},
    maintenance::{
        invalidate::Invalidator,
        jobs::{ENOUGH_TIME_AFTER_RUN, ENOUGH_TIME_IN_TASK, Jobs, JobsReport, MIN_JOB_TIME, table::JobTable},
    },
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::Instant;

use super::{
    application::{Application, Does},
    keeping_statements, modest_role,
    views::{database, exec, number},
};
use crate::support;

/// As the related system made it, its trigger included.
pub const TABLE: &str = "
    CREATE TABLE background_job_status (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        job_type text NOT NULL DEFAULT 'stats_update',
        job_payload jsonb NOT NULL,
        status text NOT NULL CHECK (status IN ('queued', 'processing', 'completed', 'failed')),
        started_at timestamptz, completed_at timestamptz, error_message text, results jsonb,
        retry_count integer DEFAULT 0, max_retries integer DEFAULT 3, priority integer DEFAULT 0,
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
    );
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';
    CREATE TRIGGER touch BEFORE UPDATE ON background_job_status FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE TABLE calls (name text, at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION good() RETURNS void LANGUAGE sql AS 'INSERT INTO calls (name) VALUES (''good'')';
    CREATE FUNCTION counted() RETURNS text LANGUAGE sql AS 'INSERT INTO calls (name) VALUES (''counted''); SELECT ''12 players''::text';
    CREATE FUNCTION bad() RETURNS integer LANGUAGE sql AS 'INSERT INTO calls (name) VALUES (''bad''); SELECT 1 / 0';
    CREATE FUNCTION slow() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)';
";

/// A database with the table.
pub async fn bed() -> PgPool {
    let pool = database().await;
    exec(&pool, TABLE).await;
    pool
}

pub fn function(name: &str, tags: &[&str]) -> StatsFunction {
    StatsFunction { name: name.to_owned(), tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }
}

pub fn config(functions: &[&str]) -> StatsConfig {
    StatsConfig {
        functions: functions.iter().map(|name| function(name, &[])).collect(),
        lease: Duration::from_secs(300),
        worker_id: "worker-of-the-test".to_owned(),
    }
}

pub async fn work(pool: &PgPool, config: &StatsConfig) -> JobsReport {
    Jobs::new(keeping_statements(pool), config, None).work(in_a_minute(), ENOUGH_TIME_IN_TASK, pending()).await
}

pub fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub async fn enqueue(pool: &PgPool, priority: i32) -> String {
    let payload = json!({"triggeredBy": "cron", "timestamp": "2026-03-04T05:06:07Z", "requestId": "r"});
    JobTable::new(pool.clone()).enqueue(&payload, priority, 3).await.unwrap()
}

/// Status, failed attempts, error and results of a job's functions.
pub async fn job(pool: &PgPool, id: &str) -> (String, i32, Option<String>, Value) {
    let rows = JobTable::new(pool.clone()).list(Some(id), None, 1).await.unwrap();
    let row = rows.into_iter().next().expect("the job is there");
    let mut results: Value =
        row.results.as_deref().map_or(Value::Null, |results| serde_json::from_str(results).unwrap());
    let results = results.get_mut("function_results").map_or(Value::Null, Value::take);
    (row.status, row.retry_count, row.error_message, results)
}

#[tokio::test]
async fn job_keeps_result_of_every_function() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let report = work(&pool, &config(&["good", "counted"])).await;
    assert_eq!((report.completed, report.failed, report.failure), (1, 0, None));
    let (status, retries, error, results) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries, error), ("completed", 0, None));
    for (index, (name, message)) in [("good", "done"), ("counted", "12 players")].into_iter().enumerate() {
        let result = &results[index];
        assert_eq!(
            (&result["name"], &result["success"], &result["message"]),
            (&json!(name), &json!(true), &json!(message))
        );
        assert!(result["duration"].is_u64() && result["error"].is_null(), "{result}");
        assert_eq!(result["worker"], "worker-of-the-test");
    }
    let times = "SELECT count(*) FROM background_job_status WHERE started_at <= completed_at AND completed_at <= now()";
    assert_eq!(number(&pool, times).await, 1);
}

#[tokio::test]
async fn jobs_are_taken_by_priority_then_age() {
    let pool = bed().await;
    let mut expected = Vec::new();
    for (age, priority) in [(10, 1), (20, 1), (5, 2), (30, 0)] {
        let id = enqueue(&pool, priority).await;
        exec(
            &pool,
            &format!("UPDATE background_job_status SET created_at = now() - interval '{age} s' WHERE id = '{id}'"),
        )
        .await;
        expected.push(id);
    }
    let report = work(&pool, &config(&["good"])).await;
    let done: Vec<&str> = report.jobs.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(done, [&expected[2], &expected[1], &expected[0], &expected[3]]);
}

#[tokio::test]
async fn functions_of_job_run_side_by_side() {
    let pool = bed().await;
    // Each waits until the other runs.
    for (own, other) in [(1, 2), (2, 1)] {
        let body = format!(
            "BEGIN
                PERFORM pg_advisory_xact_lock({own});
                FOR i IN 1 .. 2000 LOOP
                    PERFORM FROM pg_locks WHERE locktype = 'advisory' AND objid = {other} AND granted
                        AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
                    IF FOUND OR EXISTS (SELECT FROM calls WHERE name = '{other}') THEN RETURN; END IF;
                    PERFORM pg_sleep(0.01);
                END LOOP;
                RAISE EXCEPTION 'alone';
             END"
        );
        exec(&pool, &format!("CREATE FUNCTION meet{own}() RETURNS void LANGUAGE plpgsql AS $$ {body} $$")).await;
    }
    // The first to leave takes its lock with it: it stays until the other has seen it.
    exec(
        &pool,
        "CREATE FUNCTION meet_first() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM meet1(); PERFORM pg_sleep(0.2); END';
         CREATE FUNCTION meet_second() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM meet2(); PERFORM pg_sleep(0.2); END'",
    )
    .await;
    enqueue(&pool, 1).await;
    let report = work(&pool, &config(&["meet_first", "meet_second"])).await;
    assert_eq!(report.completed, 1, "{report:?}");
}

#[tokio::test]
async fn failing_function_is_retried_alone() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let functions = config(&["good", "bad", "missing", "counted"]);
    let report = work(&pool, &functions).await;
    assert_eq!((report.completed, report.failed), (0, 1));
    let (status, retries, error, results) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries), ("queued", 1));
    assert!(error.unwrap().starts_with("2 of 4 functions failed, bad: division by zero"));
    let well: Vec<bool> = (0..4).map(|index| results[index]["success"].as_bool().unwrap()).collect();
    assert_eq!(well, [true, false, false, true]);
    assert!(results[2]["error"].as_str().unwrap().contains("does not exist"));

    // Not at once: a failure has a reason that needs time to pass.
    assert!(work(&pool, &functions).await.jobs.is_empty());
    for attempt in 2..=4 {
        exec(
            &pool,
            "ALTER TABLE background_job_status DISABLE TRIGGER ALL; \
             UPDATE background_job_status SET updated_at = now() - interval '1 hour'; \
             ALTER TABLE background_job_status ENABLE TRIGGER ALL",
        )
        .await;
        let report = work(&pool, &functions).await;
        assert_eq!(report.jobs[0].attempt, attempt);
    }
    let (status, retries, _, results) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries), ("failed", 3));
    assert_eq!(results.as_array().unwrap().len(), 4, "results of earlier successes are kept");
    assert_eq!(number(&pool, "SELECT count(*) FROM calls WHERE name IN ('good', 'counted')").await, 2, "once each");
}

/// Only those of the functions that succeeded.
#[tokio::test]
async fn caches_are_invalidated_before_job_ends() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let application = Application::start([Does::Answer(500)]).await;
    let invalidator = |url: &str| {
        Invalidator::new(&InvalidationConfig { url: url.parse().unwrap(), key: Some("key".into()) }).unwrap()
    };
    let functions = vec![
        function("good", &["season_stats", "half_season_stats"]),
        function("bad", &["never"]),
        function("counted", &["season_stats", "hall_of_fame"]),
    ];
    let stats = StatsConfig { functions, ..config(&[]) };
    let jobs = Jobs::new(pool.clone(), &stats, Some(invalidator(&application.url())));
    jobs.work(in_a_minute(), ENOUGH_TIME_IN_TASK, pending()).await;
    assert_eq!(application.tags(), ["half_season_stats", "hall_of_fame", "season_stats"]);
    assert_eq!(job(&pool, &id).await.0, "queued");

    // A dead application fails no job.
    let stats = StatsConfig { functions: vec![function("good", &["tag"])], ..config(&[]) };
    let id = enqueue(&pool, 1).await;
    let jobs = Jobs::new(pool.clone(), &stats, Some(invalidator("http://127.0.0.1:1/")));
    let report = jobs.work(in_a_minute(), ENOUGH_TIME_IN_TASK, pending()).await;
    assert_eq!((report.completed, job(&pool, &id).await.0.as_str()), (1, "completed"));
    let caches = report.caches.expect("lost tags are reported");
    assert_eq!((caches.tags, caches.lost), (0, 1), "{caches:?}");
}

#[tokio::test]
async fn slow_function_fails_alone_with_reason() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let jobs = Jobs::new(pool.clone(), &config(&["slow", "good"]), None);
    jobs.work(Instant::now() + MIN_JOB_TIME + Duration::from_millis(300), ENOUGH_TIME_IN_TASK, pending()).await;
    let (status, retries, error, results) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries, &results[1]["success"]), ("queued", 1, &json!(true)));
    assert!(error.unwrap().contains("slow: not done within"), "{results}");
}

/// Quick in the first job, and slow in the second.
const SLOW_LATER: &str = "CREATE FUNCTION slow_later() RETURNS void LANGUAGE plpgsql AS \
    'BEGIN IF EXISTS (SELECT FROM background_job_status WHERE status = ''completed'') THEN PERFORM pg_sleep(60); END IF; END'";

/// It keeps the results of the functions that were done.
#[tokio::test]
async fn late_job_is_released_uncounted() {
    let pool = bed().await;
    exec(&pool, SLOW_LATER).await;
    let quick = enqueue(&pool, 2).await;
    let late = enqueue(&pool, 1).await;
    let jobs = Jobs::new(pool.clone(), &config(&["good", "slow_later"]), None);
    let report =
        jobs.work(Instant::now() + MIN_JOB_TIME + Duration::from_secs(1), ENOUGH_TIME_IN_TASK, pending()).await;
    assert_eq!((report.completed, report.failed), (1, 0), "{report:?}");
    assert_eq!(job(&pool, &quick).await.0, "completed");
    let (status, retries, error, results) = job(&pool, &late).await;
    assert_eq!((status.as_str(), retries, error), ("queued", 0, None));
    assert_eq!((&results[0]["success"], &results[1]["success"]), (&json!(true), &json!(false)), "{results}");

    // At once it comes first, and what was done is not done again.
    exec(&pool, "CREATE OR REPLACE FUNCTION slow_later() RETURNS void LANGUAGE sql AS ''; TRUNCATE calls").await;
    assert_eq!(work(&pool, &config(&["good", "slow_later"])).await.completed, 1);
    assert_eq!(number(&pool, "SELECT count(*) FROM calls").await, 0);
}

#[tokio::test]
async fn short_time_after_run_fails_no_job() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let jobs = Jobs::new(pool.clone(), &config(&["slow"]), None);
    jobs.work(Instant::now() + MIN_JOB_TIME + Duration::from_millis(300), ENOUGH_TIME_AFTER_RUN, pending()).await;
    let (status, retries, ..) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries), ("queued", 0));
}

#[tokio::test]
async fn job_needs_time_of_last_job_to_begin() {
    let pool = bed().await;
    exec(&pool, "CREATE FUNCTION nap() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(4)'").await;
    enqueue(&pool, 2).await;
    let second = enqueue(&pool, 1).await;
    let jobs = Jobs::new(pool.clone(), &config(&["nap"]), None);
    let report = jobs.work(Instant::now() + 2 * MIN_JOB_TIME, ENOUGH_TIME_IN_TASK, pending()).await;
    assert_eq!((report.completed, report.jobs.len()), (1, 1), "{report:?}");
    assert_eq!(job(&pool, &second).await.0, "queued");
}

#[tokio::test]
async fn report_lists_fifty_jobs_and_counts_rest() {
    let pool = bed().await;
    for _ in 0..53 {
        enqueue(&pool, 1).await;
    }
    let report = work(&pool, &config(&["good"])).await;
    assert_eq!((report.completed, report.jobs.len(), report.jobs_omitted), (53, 50, 3));
}

/// Even without a time in its row.
#[tokio::test]
async fn job_queued_by_hand_runs_all_functions() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    work(&pool, &config(&["good"])).await;
    exec(
        &pool,
        "ALTER TABLE background_job_status DISABLE TRIGGER ALL; \
         UPDATE background_job_status SET status = 'queued', retry_count = 1, updated_at = NULL, started_at = NULL, \
                                          created_at = NULL; \
         ALTER TABLE background_job_status ENABLE TRIGGER ALL",
    )
    .await;
    work(&pool, &config(&["good"])).await;
    assert_eq!(job(&pool, &id).await.0, "completed");
    assert_eq!(number(&pool, "SELECT count(*) FROM calls").await, 2, "both times");
}

#[tokio::test]
async fn purge_deletes_more_than_one_batch() {
    let pool = bed().await;
    exec(
        &pool,
        "INSERT INTO background_job_status (job_payload, status, completed_at) \
         SELECT '{}', 'completed', now() - interval '8 days' FROM generate_series(1, 2500); \
         INSERT INTO background_job_status (job_payload, status, completed_at) VALUES ('{}', 'completed', now())",
    )
    .await;
    let (table, week) = (JobTable::new(pool.clone()), Duration::from_secs(7 * 24 * 3600));
    assert_eq!(table.purge(&["completed"], week, true).await.unwrap(), 2500);
    assert_eq!(table.purge(&["completed"], week, false).await.unwrap(), 2500);
    assert_eq!(number(&pool, "SELECT count(*) FROM background_job_status").await, 1);
}

#[tokio::test]
async fn stopped_worker_releases_job_uncounted() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let watched = pool.clone();
    let stopped = async move {
        while number(&watched, "SELECT count(*) FROM background_job_status WHERE status = 'processing'").await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    Jobs::new(pool.clone(), &config(&["slow"]), None).work(in_a_minute(), ENOUGH_TIME_IN_TASK, stopped).await;
    let (status, retries, error, _) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries, error), ("queued", 0, None));
}

#[tokio::test]
async fn worker_that_lost_job_changes_nothing() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    let lease = StatsConfig { lease: Duration::from_millis(300), ..config(&["slow"]) };
    let jobs = Jobs::new(pool.clone(), &lease, None);
    let watched = pool.clone();
    let another_takes_it = async {
        while number(&watched, "SELECT count(*) FROM background_job_status WHERE status = 'processing'").await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        exec(&watched, "UPDATE background_job_status SET started_at = now() + interval '1 ms', retry_count = 1, error_message = 'theirs'").await;
    };
    let (report, ()) = tokio::join!(jobs.work(in_a_minute(), ENOUGH_TIME_IN_TASK, pending()), another_takes_it);
    assert_eq!(report.jobs[0].status, "lost");
    let (status, retries, error, _) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries, error.as_deref()), ("processing", 1, Some("theirs")));
}

#[tokio::test]
async fn job_fails_after_repeated_silent_ends() {
    let pool = bed().await;
    let id = enqueue(&pool, 1).await;
    exec(
        &pool,
        "ALTER TABLE background_job_status DISABLE TRIGGER ALL; \
         UPDATE background_job_status SET status = 'processing', started_at = now() - interval '1 day', retry_count = 3, \
                                          updated_at = now() - interval '1 day'",
    )
    .await;
    assert!(work(&pool, &config(&["good"])).await.jobs.is_empty());
    let (status, _, error, _) = job(&pool, &id).await;
    assert_eq!((status.as_str(), error.as_deref()), ("failed", Some("its worker ended silently, 4 times")));
}

#[tokio::test]
async fn two_workers_do_each_job_once() {
    let pool = bed().await;
    for _ in 0..20 {
        enqueue(&pool, 1).await;
    }
    let another = PgPool::connect_with((*pool.connect_options()).clone()).await.unwrap();
    let functions = config(&["good"]);
    let (one, other) = tokio::join!(work(&pool, &functions), work(&another, &functions));
    assert_eq!(one.completed + other.completed, 20);
    assert!(one.completed > 0 && other.completed > 0, "{} and {}", one.completed, other.completed);
    assert_eq!(number(&pool, "SELECT count(*) FROM calls").await, 20);
}

#[tokio::test]
async fn missing_job_table_is_created_where_allowed() {
    let pool = database().await;
    exec(&pool, "CREATE FUNCTION good() RETURNS void LANGUAGE sql AS ''").await;
    assert_eq!(work(&pool, &config(&["good"])).await, JobsReport::default());
    let id = enqueue(&pool, 2).await;
    assert_eq!(work(&pool, &config(&["good"])).await.completed, 1);
    assert_eq!(job(&pool, &id).await.0, "completed");
    let touched = "SELECT count(*) FROM background_job_status WHERE updated_at > created_at";
    assert_eq!(number(&pool, touched).await, 1, "its trigger works");
}

#[tokio::test]
async fn missing_right_error_prints_grant() {
    let url = support::postgres::fresh().await;
    let pool = PgPool::connect(&url).await.unwrap();
    exec(&pool, TABLE).await;
    let (modest_url, role) = modest_role(&url).await;
    let modest = PgPool::connect(&modest_url).await.unwrap();
    let failure = work(&modest, &config(&["good"])).await.failure.unwrap();
    assert!(failure.contains("permission denied") && failure.contains("GRANT SELECT"), "{failure}");
    exec(&pool, &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn row_level_security_hides_jobs_from_other_roles() {
    let url = support::postgres::fresh().await;
    let pool = PgPool::connect(&url).await.unwrap();
    exec(&pool, TABLE).await;
    exec(&pool, "ALTER TABLE background_job_status ENABLE ROW LEVEL SECURITY").await;
    let (modest_url, role) = modest_role(&url).await;
    exec(&pool, &format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")).await;
    let id = enqueue(&pool, 1).await;
    let modest = PgPool::connect(&modest_url).await.unwrap();
    assert_eq!(work(&modest, &config(&["good"])).await, JobsReport::default(), "hidden rows are not taken");
    exec(&pool, &format!("ALTER ROLE {role} BYPASSRLS")).await;
    let modest = PgPool::connect(&modest_url).await.unwrap();
    assert_eq!(work(&modest, &config(&["good"])).await.completed, 1);
    assert_eq!(job(&pool, &id).await.0, "completed");
    exec(&pool, &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}
