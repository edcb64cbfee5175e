//! `check` and `migrate` against configurations and servers of every state.

use refresh_worker::sim::{Misbehaviour, Rule};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use super::{Ran, Shell};
use crate::{
    maintenance::{application::Application, modest_role},
    support,
};

#[tokio::test]
async fn check_lists_configuration_problems_without_secrets() {
    let shell = Shell::new()
        .with("REDIS_URL", "http://user:hunter2@cache")
        .with("DATABASE_URL", "mysql://root:hunter2@db/coc")
        .with("COC_REQS_PER_SEC", "0")
        .with("LEASE_SECONDS", "soon");
    let ran = shell.run(&["check", "--offline"]).await;
    assert_eq!(ran.code, 1);
    for name in ["REDIS_URL", "DATABASE_URL", "COC_API_TOKEN", "COC_REQS_PER_SEC", "LEASE_SECONDS"] {
        assert!(ran.stdout.contains(name), "{name}: {}", ran.stdout);
    }
    assert!(ran.stdout.contains("not ready to run: 5 problems"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
}

#[tokio::test]
async fn check_says_what_limits_the_planner() {
    let shell = || {
        Shell::new()
            .with("REDIS_URL", "redis://cache")
            .with("DATABASE_URL", "postgresql://worker@db/coc")
            .with("COC_API_TOKENS", "a.b.c,d.e.f,g.h.i")
    };
    let checked = async |shell: Shell| findings(&shell.run(&["check", "--offline", "--json"]).await, "configuration");
    let of_planner = |found: Vec<String>| -> Vec<String> {
        let is_of_planner = |one: &String| one.starts_with("ok: the planner") || one.contains(": PLANNED_");
        found.into_iter().filter(is_of_planner).collect()
    };
    assert_eq!(of_planner(checked(shell()).await), [""; 0], "it is off");
    for every in ["90", "10000"] {
        let found = checked(shell().with("PLANNED_CALLS_PER_SEC", every)).await;
        let said = "ok: the planner is on: runs go on until their time is up, with up to 90 planned calls a second of 90, all runs together (3 keys)";
        assert_eq!(of_planner(found), [said]);
    }
    let slow_keys = shell().with("KEYS_PER_RUN", "2").with("COC_REQS_PER_SEC", "20");
    let found = checked(slow_keys.with("PLANNED_CALLS_PER_SEC", "61")).await;
    let said = "warning: PLANNED_CALLS_PER_SEC is 61, and the rate limits all runs together to 60 calls a second (3 keys, \
                COC_REQS_PER_SEC=20) -> set at most 60, or 10000 for every spare call, or add keys";
    assert_eq!(of_planner(found), [said]);
}

#[tokio::test]
async fn check_reports_every_unreachable_server() {
    let shell = Shell::new()
        .with("REDIS_URL", "redis://user:hunter2@127.0.0.1:1")
        .with("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/coc")
        .with("COC_API_TOKEN", "a.b.c");
    let ran = shell.run(&["check"]).await;
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    for area in ["Redis\n  PROBLEM", "PostgreSQL\n  PROBLEM", "API\n  warning"] {
        assert!(ran.stdout.contains(area), "{area}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
}

#[tokio::test]
async fn check_reports_missing_tables() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = Shell::new()
        .with("REDIS_URL", support::redis::fresh().await)
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "the.one.key");
    let before: Value = serde_json::from_str(&shell.run(&["check", "--json"]).await.stdout).unwrap();
    assert_eq!(before["ready_to_run"], false, "{before:#}");

    let output = shell.run(&["migrate"]).await.well();
    assert!(output.starts_with("ran "), "{output}");
    assert!(shell.run(&["migrate"]).await.well().starts_with("nothing to do"));

    let output = shell.run(&["check"]).await.well();
    assert!(output.contains("works (test call: ") && output.contains("\nready to run"), "{output}");
    assert!(!output.contains("the.one.key"), "{output}");
}

#[tokio::test]
async fn check_reports_rejected_keys() {
    let simulator = super::simulator(&["another.key"]).await;
    let shell = Shell::new()
        .with("REDIS_URL", support::redis::fresh().await)
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "revoked.key");
    shell.run(&["migrate"]).await.well();
    let ran = shell.run(&["check"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("the API rejects key") && !ran.stdout.contains("revoked.key"), "{}", ran.stdout);
}

/// A shell for servers of its own, with the tables made, and a way around it.
async fn ready(simulator: &refresh_worker::sim::Simulator) -> (Shell, PgPool, String) {
    let (redis, database) = (support::redis::fresh().await, support::postgres::fresh().await);
    let shell = Shell::new()
        .with("REDIS_URL", &redis)
        .with("DATABASE_URL", &database)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "the.one.key");
    shell.run(&["migrate"]).await.well();
    (shell, PgPool::connect(&database).await.unwrap(), redis)
}

async fn exec(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test]
async fn check_reports_a_short_timeout() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let (shell, pool, _) = ready(&simulator).await;
    let output = shell.run(&["check"]).await.well();
    assert!(output.contains("must be longer than 5.75 s"), "{output}");
    let row = |run: &str, reason: &str, error: &str| {
        format!(
            "INSERT INTO refresh_worker.refresh_runs \
             (run, started, ended, stopped_because, error, processed, failed, api_requests, report) \
             VALUES ('{run}', now(), now(), '{reason}', {error}, 0, 0, 0, '{{}}')"
        )
    };
    exec(&pool, &row("one", "timeout_too_short", "'began with 3.0 s left'")).await;
    let ran = shell.run(&["check"]).await;
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(ran.stdout.contains("began with 3.0 s left") && ran.stdout.contains("raise the timeout"), "{}", ran.stdout);
    exec(&pool, &row("two", "queue_empty", "NULL")).await;
    shell.run(&["check"]).await.well();
}

/// What was found in an area, each as `grade: what -> fix`.
fn findings(ran: &Ran, area: &str) -> Vec<String> {
    let output: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
    let of_area = output["findings"].as_array().unwrap().iter().filter(|finding| finding["area"] == area);
    let output = |finding: &Value| {
        let text = |name: &str| finding[name].as_str().unwrap_or("");
        let fix = finding["fix"].as_str().map(|fix| format!(" -> {fix}")).unwrap_or_default();
        format!("{}: {}{fix}", text("grade"), text("what"))
    };
    of_area.map(output).collect()
}

#[tokio::test]
async fn check_reports_problems_after_a_run() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let (shell, pool, redis) = ready(&simulator).await;
    exec(
        &pool,
        "CREATE TABLE t AS SELECT 1 AS id; CREATE TABLE calls (at timestamptz);
         CREATE MATERIALIZED VIEW good AS SELECT * FROM t; CREATE UNIQUE INDEX ON good (id);
         CREATE MATERIALIZED VIEW keyless AS SELECT * FROM t;
         CREATE FUNCTION update_good() RETURNS void LANGUAGE sql AS 'INSERT INTO calls VALUES (now())';
         CREATE FUNCTION update_more(days int DEFAULT 7) RETURNS int LANGUAGE sql AS 'SELECT days';
         CREATE FUNCTION update_one(id int) RETURNS int LANGUAGE sql AS 'SELECT id'",
    )
    .await;
    let mut connection = support::redis::connect(&redis).await.unwrap();
    redis::cmd("SET").arg("output").arg("text").exec_async(&mut connection).await.unwrap();
    let shell = shell
        .with("REFRESH_VIEWS", "good,keyless,t,clan_leaderboard,nowhere.v")
        .with("STATS_FUNCTIONS", "update_good:a,update_more,update_one,nowhere.f")
        .with("REFRESH_EVENTS_STREAM", "output")
        .with("CACHE_INVALIDATION_URL", "http://127.0.0.1:1/invalidate")
        .with("INTERNAL_API_KEY", "hunter2");
    let ran = shell.run(&["check", "--json"]).await;
    assert_eq!(ran.code, 1);
    insta::assert_snapshot!(findings(&ran, "materialized views").join("\n"), @r"
    ok: public.good is ours, and is refreshed while others read
    warning: public.keyless has no unique index over columns alone and of all rows: readers wait while it is refreshed -> CREATE UNIQUE INDEX ON public.keyless (...);
    problem: public.t is not a materialized view -> Name a materialized view in REFRESH_VIEWS
    problem: Materialized view clan_leaderboard does not exist -> Run: refresh-worker views install clan_leaderboard
    problem: Materialized view nowhere.v does not exist -> Run the migration that creates it: CREATE MATERIALIZED VIEW nowhere.v AS SELECT ...; CREATE UNIQUE INDEX ON nowhere.v (...)
    ");
    insta::assert_snapshot!(findings(&ran, "statistics jobs").join("\n"), @r"
    ok: the table background_job_status is missing; the worker creates it at the first use
    ok: update_good() can be called
    ok: update_more() can be called
    problem: there is no function update_one() that takes no arguments -> run the migration that creates it, or take it out of STATS_FUNCTIONS
    problem: there is no function nowhere.f() that takes no arguments -> run the migration that creates it, or take it out of STATS_FUNCTIONS
    ");
    insta::assert_snapshot!(
        findings(&ran, "events").join("\n"),
        @"problem: the key output is a string, not a stream: no event can be published -> set REFRESH_EVENTS_STREAM to an unused name, or delete that key"
    );
    let caches = findings(&ran, "caches").join("\n");
    assert!(
        caches.starts_with("warning: cannot connect to 127.0.0.1:1: ") && caches.contains(" -> check CACHE_INVAL"),
        "{caches}"
    );
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
    let called: i64 = sqlx::query_scalar("SELECT count(*) FROM calls").fetch_one(&pool).await.unwrap();
    assert_eq!(called, 0, "nothing is called");
}

#[tokio::test]
async fn check_accepts_what_follows_a_run() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let (shell, pool, redis) = ready(&simulator).await;
    exec(&pool, "CREATE FUNCTION update_good() RETURNS void LANGUAGE sql AS ''").await;
    shell.run(&["views", "install"]).await.well();
    let mut connection = support::redis::connect(&redis).await.unwrap();
    redis::cmd("XADD").arg("output").arg("*").arg("a").arg("b").exec_async(&mut connection).await.unwrap();
    let application = Application::start([]).await;
    let shell = shell
        .with("REFRESH_VIEWS", "clan_leaderboard")
        .with("STATS_FUNCTIONS", "public.update_good")
        .with("REFRESH_EVENTS_STREAM", "output")
        .with("CACHE_INVALIDATION_URL", application.url())
        .with("INTERNAL_API_KEY", "hunter2");
    let ran = shell.run(&["check", "--json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    for area in ["materialized views", "statistics jobs", "events", "caches"] {
        let found = findings(&ran, area);
        assert!(!found.is_empty() && found.iter().all(|finding| finding.starts_with("ok: ")), "{area}: {found:?}");
    }
    assert!(application.came().is_empty(), "a connection, and no invalidation");
    // The table of jobs is made by whoever uses it first, not by a look.
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE tablename = 'background_job_status'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn check_names_missing_grants() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let (shell, pool, _) = ready(&simulator).await;
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&pool).await.unwrap();
    let url = shell.variable("DATABASE_URL");
    let (modest_url, role) = modest_role(&url).await;
    exec(
        &pool,
        &format!(
            "{}; CREATE MATERIALIZED VIEW theirs AS SELECT 1 AS id; CREATE TABLE materialized_view_refresh_log (view_name text);
             CREATE FUNCTION update_theirs() RETURNS void LANGUAGE sql AS ''; REVOKE EXECUTE ON FUNCTION update_theirs FROM public;
             ALTER TABLE background_job_status ENABLE ROW LEVEL SECURITY;
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
             GRANT USAGE ON SCHEMA refresh_worker TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA refresh_worker TO {role};
             REVOKE INSERT ON materialized_view_refresh_log FROM {role};
             ALTER TABLE clans ENABLE ROW LEVEL SECURITY; ALTER TABLE players ENABLE ROW LEVEL SECURITY;
             CREATE POLICY mine ON players TO {role} USING (tag < 'Q')",
            crate::maintenance::JOBS_TABLE
        ),
    )
    .await;
    let shell =
        shell.with("DATABASE_URL", modest_url).with("REFRESH_VIEWS", "theirs").with("STATS_FUNCTIONS", "update_theirs");
    let ran = shell.run(&["check", "--json"]).await;
    assert_eq!(ran.code, 1);
    let areas = ["PostgreSQL", "materialized views", "statistics jobs"];
    let output =
        areas.map(|area| findings(&ran, area).join("\n")).join("\n").replace(&role, "modest").replace(&database, "coc");
    insta::assert_snapshot!(output, @r"
    problem: row level security is on for clans, and no policy is for modest: it sees no rows -> CREATE POLICY refresh_worker ON clans TO modest USING (true) WITH CHECK (true);
    warning: row level security is on for players: modest sees and writes only what policies allow -> CREATE POLICY refresh_worker ON players TO modest USING (true) WITH CHECK (true);
    problem: public.theirs does not belong to modest, and only its owner can refresh it -> ALTER MATERIALIZED VIEW public.theirs OWNER TO modest;
    warning: materialized_view_refresh_log cannot be written: views are refreshed with every run, due or not -> GRANT SELECT, INSERT, UPDATE ON materialized_view_refresh_log TO modest;
    warning: row level security is on for background_job_status: modest sees only the jobs that policies allow -> CREATE POLICY refresh_worker ON background_job_status TO modest USING (true) WITH CHECK (true);
    problem: modest may not call update_theirs() -> GRANT EXECUTE ON FUNCTION update_theirs TO modest;
    ");
    exec(&pool, &format!("DROP POLICY mine ON players; DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn check_reports_other_namespaces() {
    let shell = Shell::new().with("REDIS_URL", support::redis::fresh().await);
    shell.run(&["enqueue", "clan:2PP"]).await.well();
    let output = shell.run(&["check"]).await.stdout;
    assert!(!output.contains("namespace"), "{output}");
    let output = shell.with("QUEUE_NAMESPACE", "blue").run(&["check"]).await.stdout;
    assert!(output.contains("namespace `refresh` has 1 request, which runs of `blue` do not handle"), "{output}");
    assert!(output.contains("QUEUE_NAMESPACE=refresh refresh-worker queue export --return --yes"), "{output}");
}

#[tokio::test]
async fn check_reports_foreign_responses() {
    for (status, body) in [(404, "page not found"), (404, "{}"), (404, ""), (400, "<html>"), (200, r#"{"ok":true}"#)] {
        let simulator = super::simulator(&["the.one.key"]).await;
        let (shell, _, _) = ready(&simulator).await;
        simulator.misbehave(Rule::new(Misbehaviour::Foreign { status, body: body.to_owned() }));
        let ran = shell.run(&["check"]).await;
        assert_eq!(ran.code, 1, "{status} {body}: {}", ran.stdout);
        assert!(ran.stdout.contains("COC_BASE_URL"), "{status} {body}: {}", ran.stdout);
        let ran = shell.run(&["keys", "test"]).await;
        assert_eq!(ran.code, 1, "{status} {body}: {}", ran.stdout);
    }
}

#[tokio::test]
async fn check_repeats_a_rejected_key() {
    let simulator = super::simulator(&["another.key"]).await;
    let (shell, _, _) = ready(&simulator).await;
    for _ in 0..2 {
        for command in [["check", "--json"], ["keys", "test"]] {
            let ran = shell.run(&command).await;
            assert_eq!(ran.code, 1, "{}", ran.stdout);
            assert!(ran.stdout.contains("create a key") && !ran.stdout.contains("wait: runs use it"), "{}", ran.stdout);
        }
    }
}
