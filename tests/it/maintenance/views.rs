//! Materialized views against a real server: when, how and by whom they are refreshed, and what is reported.

use std::time::Duration;

use refresh_worker::{
    clock::{Clock as _, SystemClock},
    config::ViewConfig,
    maintenance::views::{Refreshed, Views, Way, When, own::OWN_VIEWS},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::Instant;

use super::{keeping_statements, modest_role};
use crate::{
    lambda::{
        events,
        world::{PLENTY, World},
    },
    support,
};

const TIME: Duration = Duration::from_secs(60);

/// A database of one's own.
pub async fn database() -> PgPool {
    PgPool::connect(&support::postgres::fresh().await).await.unwrap()
}

pub async fn exec(pool: &PgPool, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Advisory locks of this database: others on the same server have theirs.
const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub async fn number(pool: &PgPool, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn view(name: &str) -> ViewConfig {
    ViewConfig { name: name.to_owned(), interval: Duration::from_secs(60), statistics: None }
}

async fn refresh_all(pool: &PgPool, views: &[ViewConfig], when: When, time: Duration) -> Vec<Refreshed> {
    let views = Views::new(keeping_statements(pool), views).unwrap();
    views.refresh(when, SystemClock.wall(), Instant::now() + time).await
}

async fn refresh(pool: &PgPool, config: ViewConfig, when: When) -> Refreshed {
    refresh_all(pool, &[config], when, TIME).await.remove(0)
}

#[tokio::test]
async fn first_refresh_blocks_readers_later_ones_do_not() {
    let pool = database().await;
    exec(&pool, "CREATE TABLE t AS SELECT 1 AS id; CREATE MATERIALIZED VIEW v AS SELECT * FROM t WITH NO DATA; CREATE UNIQUE INDEX ON v (id)").await;
    let first = refresh(&pool, view("v"), When::Now).await;
    assert_eq!((first.success, first.refresh_type), (true, Some(Way::Regular)), "{first:?}");
    assert!(first.notes[0].contains("not filled yet"), "{first:?}");
    exec(&pool, "INSERT INTO t VALUES (2)").await;
    let second = refresh(&pool, view("V"), When::Now).await;
    assert_eq!((second.refresh_type, &second.statistics), (Some(Way::Concurrent), &json!({"rows": 2})), "{second:?}");
    assert!(second.notes.is_empty() && second.duration_seconds >= 0.0);
}

#[tokio::test]
async fn refresh_without_unique_index_blocks_readers() {
    let pool = database().await;
    exec(&pool, "CREATE TABLE t AS SELECT 1 AS id, 'x' AS name").await;
    for (number, index) in [
        "CREATE INDEX ON {v} (id)",
        "CREATE UNIQUE INDEX ON {v} (id) WHERE id > 0",
        "CREATE UNIQUE INDEX ON {v} (lower(name))",
        "SELECT 1",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("v{number}");
        exec(&pool, &format!("CREATE MATERIALIZED VIEW {name} AS SELECT * FROM t; {}", index.replace("{v}", &name)))
            .await;
        let done = refresh(&pool, view(&name), When::Now).await;
        assert_eq!((done.success, done.refresh_type), (true, Some(Way::Regular)), "{index}: {done:?}");
        assert!(done.notes[0].contains("unique index"), "{index}: {done:?}");
    }
    exec(&pool, "CREATE MATERIALIZED VIEW v9 AS SELECT * FROM t; CREATE UNIQUE INDEX ON v9 (id, name)").await;
    assert_eq!(refresh(&pool, view("v9"), When::Now).await.refresh_type, Some(Way::Concurrent));
}

#[tokio::test]
async fn missing_view_error_names_command() {
    let pool = database().await;
    exec(&pool, "CREATE TABLE plain (id int)").await;
    let missing = refresh(&pool, view("job_progress"), When::Now).await;
    assert_eq!(missing.error.as_deref(), Some("Materialized view job_progress does not exist"));
    assert!(missing.message.unwrap().contains("CREATE MATERIALIZED VIEW job_progress"), "the fix");
    let own = refresh(&pool, view("clan_leaderboard"), When::Now).await;
    assert_eq!(own.message.as_deref(), Some("Run: refresh-worker views install clan_leaderboard"));
    let elsewhere = refresh(&pool, view("nowhere.v"), When::Now).await;
    assert_eq!(elsewhere.error.as_deref(), Some("Materialized view nowhere.v does not exist"));
    let another = refresh(&pool, view("plain"), When::Due).await;
    assert!(another.error.unwrap().contains("is not a materialized view"));
}

#[tokio::test]
async fn view_is_refreshed_when_due_or_requested() {
    let pool = database().await;
    exec(&pool, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS id").await;
    assert!(refresh(&pool, view("v"), When::Due).await.refresh_type.is_some(), "never refreshed before");
    assert_eq!(refresh(&pool, view("v"), When::Due).await.skipped, Some("not due"));
    assert!(refresh(&pool, view("v"), When::Now).await.refresh_type.is_some());
    exec(&pool, "UPDATE materialized_view_refresh_log SET last_refreshed_at = now() - interval '55 seconds'").await;
    assert!(refresh(&pool, view("v"), When::Due).await.refresh_type.is_some(), "schedules are not exact");
    exec(&pool, "UPDATE materialized_view_refresh_log SET last_refreshed_at = now() + interval '1 day'").await;
    assert!(refresh(&pool, view("v"), When::Due).await.refresh_type.is_some(), "a wrong clock stops nothing");
}

#[tokio::test]
async fn one_of_two_runs_refreshes_view() {
    let pool = database().await;
    exec(
        &pool,
        "CREATE MATERIALIZED VIEW v AS SELECT pg_sleep(0.7)::text AS slept WITH NO DATA; \
         CREATE MATERIALIZED VIEW w AS SELECT 1 AS id",
    )
    .await;
    let views = [view("v")];
    let one = refresh_all(&pool, &views, When::Now, TIME);
    let other = async {
        while number(&pool, LOCKS).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        refresh_all(&pool, &[view("v"), view("w")], When::Now, TIME).await
    };
    let (one, other) = tokio::join!(one, other);
    assert_eq!(one[0].refresh_type, Some(Way::Regular));
    assert_eq!((other[0].skipped, other[0].success), (Some("another run refreshes it"), true));
    assert!(other[1].refresh_type.is_some(), "another view is in nobody's way");
}

#[tokio::test]
async fn slow_refresh_ends_in_time() {
    let pool = database().await;
    exec(&pool, "CREATE TABLE t AS SELECT 1 AS id; CREATE MATERIALIZED VIEW v AS SELECT id, CASE WHEN (SELECT count(*) FROM t) > 1 THEN pg_sleep(60)::text END AS slept FROM t").await;
    exec(&pool, "INSERT INTO t VALUES (2)").await;
    let done = refresh_all(&pool, &[view("v")], When::Now, Duration::from_millis(1500)).await;
    assert!(done[0].error.as_deref().unwrap().contains("57014"), "{done:?}");
    assert!(done[0].message.as_deref().unwrap().contains("did not end within its share of the time"), "{done:?}");
    assert_eq!(number(&pool, "SELECT count(*) FROM v").await, 1);
    assert_eq!(number(&pool, LOCKS).await, 0);
}

#[tokio::test]
async fn slow_view_leaves_time_for_others() {
    let pool = database().await;
    exec(
        &pool,
        "CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60)::text AS slept WITH NO DATA; \
         CREATE MATERIALIZED VIEW quick AS SELECT 1 AS id",
    )
    .await;
    let views = [view("slow"), view("quick")];
    let done = refresh_all(&pool, &views, When::Now, Duration::from_secs(4)).await;
    assert!(done[0].error.as_deref().unwrap().contains("57014"), "{done:?}");
    assert!(done[1].refresh_type.is_some(), "{done:?}");

    // With time for one only it is the one that was never refreshed; the other is no success.
    let done = refresh_all(&pool, &[view("quick"), view("slow")], When::Now, Duration::from_millis(1500)).await;
    assert!(done[1].error.as_deref().unwrap().contains("57014"), "{done:?}");
    assert_eq!((done[0].success, done[0].error.as_deref()), (false, Some("no time was left for it")), "{done:?}");
    assert!(done[0].message.is_some());
}

#[tokio::test]
async fn unreadable_clan_document_harms_no_other() {
    let world = World::start().await;
    world.mail_of_every_kind(5).await;
    world.worker().await.invoke(&events::schedule(), PLENTY).await.response();
    let pool = PgPool::connect(&world.database_url).await.unwrap();
    OWN_VIEWS.iter().find(|own| own.name == "clan_leaderboard").unwrap().install(&pool).await.unwrap();
    let with_points = "SELECT count(points) FROM refresh_worker.clan_leaderboard";
    let all = number(&pool, with_points).await;
    assert!(all > 1);
    for (text, counts) in [(r"\u0000", all - 1), (r"cut \ud83d", all - 1), (r"\ude00", all - 1), (r"\uD83D\ude00", all)]
    {
        let document = format!(r#"{{"clanPoints": 1, "description": "{text}"}}"#);
        let of_one = "clan_tag = (SELECT min(clan_tag) FROM clan_snapshots)";
        exec(&pool, &format!("UPDATE clan_snapshots SET data = '{document}'::json WHERE {of_one}")).await;
        let done = refresh(&pool, view("clan_leaderboard"), When::Now).await;
        assert!(done.success, "{text}: {done:?}");
        assert_eq!(number(&pool, with_points).await, counts, "{text}");
    }
}

/// The view of the related system, over its two tables.
const JOB_PROGRESS: &str = "
    CREATE TABLE jobs (job_id text PRIMARY KEY);
    CREATE TABLE job_objects (job_id text, status text, findings int);
    CREATE MATERIALIZED VIEW job_progress AS
    SELECT j.job_id, count(o.*) AS total_objects,
           count(*) FILTER (WHERE o.status = 'queued') AS queued_count,
           count(*) FILTER (WHERE o.status = 'processing') AS processing_count,
           count(*) FILTER (WHERE o.status = 'succeeded') AS succeeded_count,
           coalesce(sum(o.findings), 0) AS total_findings
    FROM jobs AS j LEFT JOIN job_objects AS o USING (job_id) GROUP BY j.job_id;
    CREATE UNIQUE INDEX ON job_progress (job_id);
    INSERT INTO jobs VALUES ('a'), ('b'), ('c');
    INSERT INTO job_objects VALUES ('a', 'succeeded', 3), ('a', 'queued', 0), ('b', 'processing', 1), ('c', 'succeeded', 0);
";

#[tokio::test]
async fn job_progress_statistics_match_related_system() {
    let pool = database().await;
    exec(&pool, JOB_PROGRESS).await;
    let done = refresh(&pool, view("job_progress"), When::Now).await;
    let expected = json!({
        "total_jobs": 3, "total_objects": 4, "processed_objects": 2, "total_findings": 4, "active_jobs": 2,
    });
    assert_eq!((&done.statistics, done.refresh_type), (&expected, Some(Way::Concurrent)), "{done:?}");
    refresh(&pool, view("job_progress"), When::Now).await;
    let row: (String, i32, i32, i64, bool) = sqlx::query_as(
        "SELECT view_name, refresh_duration_ms, total_jobs, total_objects, last_refreshed_at > now() - interval '1 minute' \
         FROM materialized_view_refresh_log",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((row.0.as_str(), row.2, row.3, row.4), ("job_progress", 3, 4, true));
    assert!(row.1 >= 0);
}

#[tokio::test]
async fn statistics_query_may_fail() {
    let pool = database().await;
    exec(&pool, "CREATE MATERIALIZED VIEW v AS SELECT generate_series(1, 7) AS id").await;
    let own = ViewConfig { statistics: Some("SELECT max(id) AS largest FROM v;".to_owned()), ..view("v") };
    assert_eq!(refresh(&pool, own, When::Now).await.statistics, json!({"largest": 7}));
    let broken = ViewConfig { statistics: Some("SELECT 1 / 0 AS x".to_owned()), ..view("v") };
    let done = refresh(&pool, broken, When::Now).await;
    assert_eq!((done.success, &done.statistics), (true, &Value::Null));
    assert!(done.notes.iter().any(|note| note.contains("division by zero")), "{done:?}");
    assert_eq!(number(&pool, "SELECT count(*) FROM materialized_view_refresh_log").await, 1);
}

#[tokio::test]
async fn foreign_view_error_names_fix() {
    let url = support::postgres::fresh().await;
    let pool = PgPool::connect(&url).await.unwrap();
    let (modest_url, role) = modest_role(&url).await;
    exec(&pool, "CREATE MATERIALIZED VIEW theirs AS SELECT 1 AS id").await;
    let modest = PgPool::connect(&modest_url).await.unwrap();
    let refused = refresh(&modest, view("theirs"), When::Now).await;
    assert!(refused.message.as_deref().unwrap().contains("OWNER TO"), "{refused:?}");
    exec(&pool, &format!("ALTER MATERIALIZED VIEW theirs OWNER TO {role}; GRANT USAGE ON SCHEMA public TO {role}"))
        .await;
    let done = refresh(&modest, view("theirs"), When::Now).await;
    assert!(done.success, "{done:?}");
    assert!(
        done.notes.iter().any(|note| note.contains("materialized_view_refresh_log could not be written")),
        "{done:?}"
    );
    exec(&pool, &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn own_views_show_refreshed_data() {
    let world = World::start().await;
    let objects = world.mail_of_every_kind(5).await;
    let mut worker =
        world.worker_with(&[("REFRESH_VIEWS", "clan_leaderboard,refresh_worker.refresh_progress:1h")]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let answer = run.response();
    assert_eq!(answer["processed_requests"], objects.len(), "{answer}");
    assert_eq!(
        (&answer["views"][0]["success"], &answer["views"][1]["success"]),
        (&json!(false), &json!(false)),
        "{answer}"
    );
    assert_eq!(run.logs.metrics()[0]["view_refresh_failures"], 2);

    let pool = PgPool::connect(&world.database_url).await.unwrap();
    for view in OWN_VIEWS {
        view.install(&pool).await.unwrap();
        view.install(&pool).await.unwrap();
    }
    assert_eq!(number(&pool, "SELECT count(*) FROM refresh_worker.clan_leaderboard").await, 2);
    exec(&pool, "DELETE FROM clans WHERE tag = (SELECT min(tag) FROM clans)").await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response()["views"][0]["refresh_type"], "concurrent", "{}", run.response());
    assert_eq!(run.logs.metrics()[0]["views_refreshed"], 2);
    assert_eq!(
        number(&pool, "SELECT count(*) FROM refresh_worker.clan_leaderboard WHERE points > 0 AND position = 1").await,
        1
    );
    let fresh = "SELECT fresh FROM refresh_worker.refresh_progress WHERE kind = 'player' AND priority = 'low'";
    assert!(number(&pool, fresh).await >= 5);
    // Not due in the run that follows.
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response()["views"][0]["skipped"], "not due", "{}", run.response());
}

#[tokio::test]
async fn both_events_refresh_views_at_once() {
    let world = World::start().await;
    let pool = PgPool::connect(&world.database_url).await.unwrap();
    let mut worker = world.worker_with(&[("REFRESH_VIEWS", "job_progress")]).await;
    let missing = worker.invoke(&json!({"source": "manual-test"}), PLENTY).await;
    let answer = missing.response();
    let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!((&answer["statusCode"], &body["success"]), (&json!(500), &json!(false)));
    assert_eq!(body["error"], "Materialized view job_progress does not exist");
    assert!(body["message"].is_string());
    assert_eq!(missing.logs.metrics()[0]["view_refresh_failures"], 1);

    exec(&pool, JOB_PROGRESS).await;
    for event in [json!({"task": "refresh-views"}), json!({"source": "manual-test"})] {
        let done = worker.invoke(&event, PLENTY).await;
        let answer = done.response();
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!((&answer["statusCode"], &body["success"]), (&json!(200), &json!(true)), "{body}");
        assert_eq!(
            (&body["refresh_type"], &body["statistics"]["total_jobs"]),
            (&json!("concurrent"), &json!(3)),
            "{body}"
        );
        assert!(body["duration_seconds"].is_number() && body["timestamp"].is_string(), "{body}");
        assert_eq!(done.logs.metrics()[0]["views_refreshed"], 1);
    }
    let not_due = worker.invoke(&json!({"task": "refresh-views", "due_only": true}), PLENTY).await;
    assert!(not_due.response()["body"].as_str().unwrap().contains("not due"), "{}", not_due.response());
    assert_eq!(world.simulator.total_calls(), 0, "no key and no call is needed");
}
