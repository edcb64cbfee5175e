//! Statistics jobs with the real binary: in a run, by the task, from the command line, and when a worker is killed.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    application::Application,
    jobs::{TABLE, enqueue, job},
    views::{exec, number},
};
use crate::{
    cli::Shell,
    lambda::{
        events,
        world::{PLENTY, World, assert_processed},
    },
};

const FUNCTIONS: (&str, &str) = ("STATS_FUNCTIONS", "good:season_stats+hall_of_fame,counted");

async fn world() -> (World, PgPool) {
    let world = World::start().await;
    let pool = PgPool::connect(&world.database_url).await.unwrap();
    exec(&pool, TABLE).await;
    (world, pool)
}

#[tokio::test]
async fn run_and_task_do_jobs() {
    let (world, pool) = world().await;
    let application = Application::start([]).await;
    let url = application.url();
    let settings = [FUNCTIONS, ("WORKER_ID", "stats-7"), ("CACHE_INVALIDATION_URL", url.as_str())];
    let mut worker = world.worker_with(&settings).await;
    let players = world.mail_players(3).await;
    let first = enqueue(&pool, 1).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    assert_eq!(run.response()["stats"]["completed"], 1, "{}", run.response());
    assert_eq!(run.logs.metrics()[0]["stats_jobs_completed"], 1);
    assert_eq!(job(&pool, &first).await.3[0]["worker"], "stats-7");
    let tags = application.tags();
    assert!(tags.contains(&"hall_of_fame".to_owned()) && tags.iter().any(|tag| tag.starts_with("player:")), "{tags:?}");

    let second = enqueue(&pool, 2).await;
    let task = worker.invoke(&json!({"task": "stats"}), PLENTY).await;
    let answer = task.response();
    assert_eq!(
        (&answer["task"], &answer["status"], &answer["completed"]),
        (&json!("stats"), &json!("done"), &json!(1))
    );
    assert_eq!(answer["jobs"][0]["id"], second.as_str());
    assert_eq!(task.logs.metrics()[0]["stats_jobs_completed"], 1);
}

#[tokio::test]
async fn unconfigured_task_names_setting() {
    let world = World::start().await;
    let mut worker = world.worker().await;
    for (event, name) in [
        (json!({"task": "stats"}), "STATS_FUNCTIONS"),
        (json!({"task": "refresh-views"}), "REFRESH_VIEWS"),
        (json!({"task": "retention"}), "SNAPSHOT_RETENTION_DAYS"),
    ] {
        let refused = worker.invoke(&event, PLENTY).await;
        let shown = format!("{:?}", refused.outcome);
        assert!(shown.contains(name), "{shown}");
    }
}

#[tokio::test]
async fn job_of_killed_worker_is_taken_over() {
    let (world, pool) = world().await;
    exec(&pool, "CREATE FUNCTION once_slow() RETURNS void LANGUAGE plpgsql AS 'BEGIN IF NOT EXISTS (SELECT FROM calls) THEN PERFORM pg_sleep(60); END IF; END'").await;
    let settings = [("STATS_FUNCTIONS", "once_slow"), ("STATS_LEASE_SECONDS", "2")];
    let mut first = world.worker_with(&settings).await;
    let id = enqueue(&pool, 1).await;
    let running = first.begin(&json!({"task": "stats"}), PLENTY).await;
    world.wait_for_rows("SELECT count(*) FROM background_job_status WHERE status = 'processing'").await;
    // It gives signs of life for longer than its lease, so nobody else takes the job.
    world
        .wait_for_rows("SELECT count(*) FROM background_job_status WHERE updated_at > started_at + interval '2500 ms'")
        .await;
    let mut second = world.worker_with(&settings).await;
    let idle = second.invoke(&json!({"task": "stats"}), PLENTY).await;
    assert_eq!(idle.response()["jobs"], json!([]), "{}", idle.response());

    first.kill().await;
    drop(running);
    exec(&pool, "INSERT INTO calls (name) VALUES ('the reason is gone')").await;
    let done = loop {
        let task = second.invoke(&json!({"task": "stats"}), PLENTY).await;
        if task.response()["completed"] == 1 {
            break task;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((&done.response()["jobs"][0]["attempt"], job(&pool, &id).await.0.as_str()), (&json!(2), "completed"));
    assert!(done.logs.logs("WARN").iter().any(|line| line["message"].as_str().unwrap().contains("jobs: took over")));
}

#[tokio::test]
async fn sigterm_releases_job() {
    let (world, pool) = world().await;
    let mut worker = world.worker_with(&[("STATS_FUNCTIONS", "slow")]).await;
    let id = enqueue(&pool, 1).await;
    let running = worker.begin(&json!({"task": "stats"}), PLENTY).await;
    world.wait_for_rows("SELECT count(*) FROM background_job_status WHERE status = 'processing'").await;
    worker.signal("TERM").await;
    worker.finish(running).await;
    let (status, retries, ..) = job(&pool, &id).await;
    assert_eq!((status.as_str(), retries), ("queued", 0));
}

#[tokio::test]
async fn jobs_commands_queue_show_retry_and_clean_up() {
    let (world, pool) = world().await;
    let shell = Shell::new().with("DATABASE_URL", &world.database_url);
    let id = shell.run(&["jobs", "enqueue", "--triggered-by", "post-match", "--match-id", "4711"]).await.well();
    let id = id.trim();
    let line: Value = serde_json::from_str(&shell.run(&["jobs", "list", "--json"]).await.well()).unwrap();
    assert_eq!((&line["id"], &line["status"], &line["priority"]), (&json!(id), &json!("queued"), &json!(2)));
    assert_eq!((&line["payload"]["triggeredBy"], &line["payload"]["matchId"]), (&json!("post-match"), &json!(4711)));
    assert!(line["payload"]["requestId"].is_string() && line["payload"]["timestamp"].is_string(), "{line}");

    shell.run(&["jobs", "retry", id]).await.badly(2);
    exec(&pool, "UPDATE background_job_status SET status = 'failed', completed_at = now() - interval '8 days'").await;
    let again = shell.run(&["jobs", "retry", id]).await.well();
    let shown = shell.run(&["jobs", "show", again.trim()]).await.well();
    assert!(shown.contains(&format!("\"retryOf\": \"{id}\"")) && shown.contains("post-match 4711"), "{shown}");
    let listed = shell.run(&["jobs", "list", "--status", "failed"]).await.well();
    assert!(listed.contains(id) && !listed.contains(again.trim()), "{listed}");
    shell.run(&["jobs", "show", "nonsense"]).await.badly(2);

    assert_eq!(shell.run(&["jobs", "purge", "--yes"]).await.well(), "deleted 0 jobs\n");
    let shown = shell.run(&["jobs", "purge", "--failed"]).await.badly(2);
    assert!(shown.contains("would delete 1 job"), "{shown}");
    assert_eq!(shell.run(&["jobs", "purge", "--failed", "--yes"]).await.well(), "deleted 1 job\n");
    assert_eq!(number(&pool, "SELECT count(*) FROM background_job_status").await, 1);

    // Completed ones go after seven days, and only when asked.
    exec(
        &pool,
        "INSERT INTO background_job_status (job_payload, status, completed_at)
         SELECT '{}', 'completed', now() - days * interval '1 day' FROM unnest(ARRAY[6, 8, 9]) AS days",
    )
    .await;
    assert!(shell.run(&["jobs", "purge"]).await.badly(2).contains("would delete 2 jobs"));
    assert_eq!(shell.run(&["jobs", "purge", "--yes"]).await.well(), "deleted 2 jobs\n");
    let completed = "SELECT count(*) FROM background_job_status WHERE status = 'completed'";
    assert_eq!(number(&pool, completed).await, 1);
}

#[test]
fn shipped_example_lists_ten_functions() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stats-functions.env")).unwrap();
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    let stats = refresh_worker::config::AfterConfig::read(&value).unwrap().stats.unwrap();
    assert_eq!(stats.functions.len(), 10);
    assert_eq!(stats.functions.iter().map(|function| function.tags.len()).sum::<usize>(), 11);
    assert_eq!(stats.functions[0].tags, ["season_stats", "half_season_stats"]);
}
