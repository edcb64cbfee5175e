//! The planner in `report`, and `replay`, over reports and records in a real database.

use refresh_worker::store::LOOKS_RETENTION;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use super::views::exec;
use crate::{cli::Shell, support};

/// A database with tables, and a shell for it.
async fn bed() -> (PgPool, Shell) {
    let url = support::postgres::fresh_with_contract().await;
    let shell = Shell::new().with("DATABASE_URL", &url);
    shell.run(&["migrate"]).await.well();
    (PgPool::connect(&url).await.unwrap(), shell)
}

/// A run of four minutes that began so many minutes ago.
async fn run(pool: &PgPool, minutes: i64, report: &str) {
    let sql = "INSERT INTO refresh_worker.refresh_runs (run, started, ended, stopped_because, processed, failed, api_requests, report)
               VALUES ('run-' || gen_random_uuid(), now() - $1 * interval '1 minute', now() - ($1 - 4) * interval '1 minute',
                       'deadline', 1, 0, 6000, $2::json)";
    let done = sqlx::query(sql).bind(minutes).bind(report).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{report}: {error}"));
}

fn group(looks: u64, flagged: u64, fresh_low: f64) -> Value {
    json!({
        "looks": looks, "planned": looks / 2, "changed": 9, "planned_changed": looks / 4, "flagged": flagged,
        "flagged_really_stale": flagged / 2, "unflagged": 90.25, "fresh_low": fresh_low, "fresh_high": fresh_low + 20.0,
    })
}

fn planned(arms: &Value) -> String {
    json!({
        "keys_held": 1,
        "planned": {
            "looks": 40, "changed": 20, "failed": 1, "refused": 2, "lateness_seconds": 3.5, "levels": {"main": 3.1e-2},
            "flagged_reads": 20, "flagged_really_stale": 10, "waits": {"5": 90, "30": 9, "more": 1}, "arms": arms,
        },
    })
    .to_string()
}

async fn json_of(shell: &Shell, arguments: &[&str]) -> Value {
    serde_json::from_str(&shell.run(arguments).await.well()).unwrap()
}

#[tokio::test]
async fn report_without_planner_says_so_in_a_line() {
    let (pool, shell) = bed().await;
    run(&pool, 10, "{}").await;
    let shown = shell.run(&["report", "--trial"]).await.well();
    assert!(shown.contains("The planner was off in these runs") && shown.contains("There was no trial"), "{shown}");
    assert!(shown.contains("PLANNED_CALLS_PER_SEC switches it on") && !shown.contains("One more key"), "{shown}");
    let report = json_of(&shell, &["report", "--json"]).await;
    assert_eq!((&report["planned"], &report["capacity"]), (&Value::Null, &Value::Null), "{report:#}");
}

#[tokio::test]
async fn report_sums_the_planned_looks_of_runs() {
    let (pool, shell) = bed().await;
    let arms =
        json!({"main": {"strategy": "value", "kinds": {"clan": [group(40, 10, 45.0)], "player": [group(8, 0, 60.0)]}}});
    run(&pool, 10, &planned(&arms)).await;
    run(&pool, 5, &planned(&arms)).await;
    // Before the period.
    run(&pool, 60 * 24 * 9, &planned(&arms)).await;
    let report = json_of(&shell, &["report", "--json"]).await;
    let clans = &report["planned"]["kinds"]["clan"];
    assert_eq!((&report["planned"]["runs"], &clans["looks_measured"]), (&json!(2), &json!(80.0)), "{report:#}");
    assert_eq!(clans["reads_estimated"], 200.5);
    let bracket = |end: &str| clans["fresh_estimated"][end].as_f64().unwrap();
    assert!((bracket("low") - 90.0 / 200.5).abs() < 1e-9 && (bracket("high") - 130.0 / 200.5).abs() < 1e-9, "{clans}");
    assert_eq!(report["planned"]["waits_measured"].as_array().unwrap().len(), 3);
    // 12,000 calls in the nine minutes from the first run's begin to the last one's end.
    let calls = report["capacity"]["calls_per_second_measured"].as_f64().unwrap();
    assert!((calls - 12_000.0 / 540.0).abs() < 0.1, "{calls}");

    let shown = shell.run(&["report"]).await.well();
    for text in [
        "What readers met: 2 runs with the planner",
        "between 44 and 65 %",
        "90.0 % within 5 s, 99.0 % within 30 s, 2 later",
        "changed per look",
        "What one more key would bring is not known: no looks are recorded",
        "at most 0.031 stale reads",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[tokio::test]
async fn trial_compares_groups_of_the_same_runs() {
    let (pool, shell) = bed().await;
    let side = |strategy: &str, base: f64| {
        let groups: Vec<Value> = (0..16_u32).map(|place| group(10, 5, base + f64::from(place % 4))).collect();
        json!({"strategy": strategy, "kinds": {"clan": groups}})
    };
    let trial = json!({"main": side("value", 50.0), "trial": side("tiers", 30.0)});
    run(&pool, 10, &planned(&trial)).await;
    // A run without the trial is left out of the comparison, and counts for the rest.
    run(&pool, 5, &planned(&json!({"main": {"strategy": "value", "kinds": {"clan": [group(10, 5, 0.0)]}}}))).await;
    let report = json_of(&shell, &["report", "--trial", "--json"]).await;
    let clans = &report["trial"][0];
    assert_eq!((&clans["strategy"], &clans["verdict"]), (&json!("tiers"), &json!("trial_lower")), "{report:#}");
    assert!((clans["main"].as_f64().unwrap() - 71.5 / 95.25).abs() < 1e-9, "{clans}");
    assert_eq!(report["planned"]["kinds"]["clan"]["looks_measured"], 330.0);
    let shown = shell.run(&["report", "--trial"]).await.well();
    assert!(shown.contains("Trial: value against tiers") && shown.contains("tiers is lower"), "{shown}");
    assert!(shown.contains("no difference seen"), "as many reads are flagged on both sides: {shown}");
}

/// Reports of old versions, and of whoever else writes here.
#[tokio::test]
async fn odd_reports_fail_nothing() {
    let (pool, shell) = bed().await;
    let odd = [
        r#""planned""#,
        "5",
        "null",
        r#"["planned"]"#,
        r#"{"planned": null}"#,
        r#"{"planned": "planned"}"#,
        r#"{"planned": []}"#,
        r#"{"planned": {}}"#,
        r#"{"planned": {"looks": "many", "failed": -1, "refused": 1e400, "levels": 5, "waits": [1], "arms": [1, 2]}}"#,
        r#"{"planned": {"levels": {"main": "NaN"}, "lateness_seconds": -3, "waits": {"5": "x", "6": {}, "y": 7}, "arms": {"main": 1}}}"#,
        r#"{"keys_held": "x", "planned": {"arms": {"main": {"strategy": 5, "kinds": []}, "trial": {"strategy": {}, "kinds": {"clan": {}}}}}}"#,
        r#"{"keys_held": 1e9, "planned": {"arms": {"third": {"kinds": {"clan": [{}]}}, "main": {"kinds": {"clam": [{}], "clan": [1, null, "x"]}}}}}"#,
        r#"{"planned": {"arms": {"trial": {"strategy": "a\u0000b", "kinds": {"clan": [{"looks": 1e999, "flagged": "\ud800", "unflagged": -5}]}}}}}"#,
        r#"{"a\u0000": 1, "planned": {"arms": {"main": {"kinds": {"clan": [{"looks": 999999999999, "fresh_low": 7, "fresh_high": 3}]}}}}}"#,
        r#"{"planned": {"arms": {"main": {"kinds": {"clan": [{"looks": 1e999999, "flagged": 3}]}}}}}"#,
        r#"{"planned": {"arms": {"main": {"kinds": {"clan": [{"looks": 1e300, "flagged": 3}, {"flagged": -3, "unflagged": 9}]}}}}}"#,
        r#"{"planned": {"waits": {"5": 1, "5": 2, "999999": 3}, "arms": {"main": {"kinds": {"war": [{"flagged": 1.5, "unflagged": 0.1}]}}}}}"#,
    ];
    for report in odd {
        run(&pool, 10, report).await;
    }
    exec(
        &pool,
        r#"INSERT INTO refresh_worker.refresh_runs (run, started, ended, stopped_because, processed, failed, api_requests, report)
           VALUES ('a', 'infinity', '-infinity', '', 0, 0, 9223372036854775807, '{"planned": {}}'),
                  ('b', now(), 'infinity', '', 0, 0, -9223372036854775808, '{"planned": {"levels": {"main": 1e99}}}'),
                  ('c', now(), '-infinity', '', 0, 0, 9223372036854775807, '{"planned": {"levels": {"main": 5e-7}}}')"#,
    )
    .await;
    let good = json!({"main": {"strategy": "value", "kinds": {"clan": [group(40, 10, 45.0)]}}});
    run(&pool, 10, &planned(&good)).await;
    let report = json_of(&shell, &["report", "--json", "--trial", "--since", "30d"]).await;
    let kinds = &report["planned"]["kinds"];
    assert_eq!(kinds["clan"]["flagged_measured"], 10.0, "{report:#}");
    assert_eq!(kinds["war"]["flagged_measured"], 1.5, "{report:#}");
    shell.run(&["report", "--trial", "--target", "war:10m:0"]).await.well();
}

#[tokio::test]
async fn target_decides_the_exit_code() {
    let (pool, shell) = bed().await;
    exec(
        &pool,
        "INSERT INTO refresh_worker.refresh_state (kind, tag, fetched_at)
         SELECT 'clan', 'C' || n, now() - n * interval '1 minute' FROM generate_series(1, 20) AS n;
         INSERT INTO refresh_worker.refresh_state (kind, tag, fetched_at)
         VALUES ('clan', 'NEVER', NULL), ('war', 'AHEAD', 'infinity'), ('war', 'OLD', '-infinity')",
    )
    .await;
    let shown = shell.run(&["report", "--target", "clan:30m:100", "--target", "player:1h:99"]).await.well();
    assert!(shown.contains("met: 100.0 % of the stored objects now (measured)"), "{shown}");
    assert!(shown.contains("not known: no object is stored"), "{shown}");
    let ran = shell.run(&["report", "--target", "clan:30m:50", "--target", "clan:10m:95"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("missed: 4") || ran.stdout.contains("missed: 5"), "{}", ran.stdout);
    assert_eq!(shell.run(&["report", "--target", "war:100w:1"]).await.code, 1);
    assert!(shell.run(&["report", "--target", "clan:10m"]).await.badly(2).contains("clan:10m:95"));

    // While the planner is on, what readers met decides.
    let arms = json!({"main": {"strategy": "value", "kinds": {"clan": [group(40, 1, 45.0)]}}});
    run(&pool, 10, &planned(&arms)).await;
    let shown = shell.run(&["report", "--target", "clan:10m:95"]).await.well();
    assert!(shown.contains("met: 98.9 % of the reads (estimated)"), "{shown}");
}

/// Records of two days: clans that are read and change, each fetched every twenty minutes, with a list that shows its members.
async fn record(pool: &PgPool) {
    let tags = "(ARRAY['2PP','2QQ','2LL','2YY','2RR','2CC','2JJ','2UU','2VV','2GG'])[n % 10 + 1]";
    let at = "now() - (1440 - n) * interval '2 minutes'";
    let sql = format!(
        "INSERT INTO refresh_worker.looks (at, kind, tag, changed, active, asked_at)
         SELECT {at}, 'clan', {tags}, n % 3 = 0, NULL, CASE WHEN n % 20 < 5 THEN {at} - interval '3 s' END
         FROM generate_series(1, 1439) AS n;
         INSERT INTO refresh_worker.looks (at, kind, tag, changed, active)
         SELECT {at}, 'player', {tags}, NULL, true FROM generate_series(1, 1439, 3) AS n;
         INSERT INTO refresh_worker.looks (at, kind, tag, changed)
         SELECT {at} + interval '20 s', 'player', {tags}, n % 2 = 0 FROM generate_series(1, 1439, 7) AS n;
         INSERT INTO refresh_worker.looks (at, kind, tag, changed, asked_at)
         VALUES (now(), 'clam', '2PP', true, NULL), ('-infinity', 'clan', '2PP', true, NULL), ('infinity', 'clan', '2PP', true, now()),
                (now() - interval '1 h', 'clan', '', true, 'infinity'), (now() - interval '1 h', 'clan', '2PP', NULL, '-infinity')"
    );
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn replay_compares_strategies_and_budgets() {
    let (pool, shell) = bed().await;
    record(&pool).await;
    let shown = shell.run(&["replay"]).await.well();
    for text in
        ["Replay of recorded looks", "as it was", "estimated", "tiers", "age", "twice as many calls", "replayed"]
    {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let replay = json_of(&shell, &["replay", "--json", "--strategy", "tiers", "--seed", "7"]).await;
    assert_eq!(
        (replay["replayed"].as_array().unwrap().len(), &replay["sampled_share"]),
        (1, &Value::Null),
        "{replay:#}"
    );
    let reads = replay["replayed"][0]["reads"].as_f64().unwrap();
    assert!((100.0..3000.0).contains(&reads), "{replay:#}");
    let ran = shell.run(&["replay", "--planned", "5"]).await.badly(2);
    assert!(ran.contains("--planned is not possible"), "{ran}");

    // The reports tell that the sample is a tenth of all looks.
    let looks: i64 =
        sqlx::query_scalar("SELECT count(*) FROM refresh_worker.looks WHERE changed IS NOT NULL AND kind <> 'clam'")
            .fetch_one(&pool)
            .await
            .unwrap();
    let arms = json!({"main": {"strategy": "value", "kinds": {"clan": [group(looks.unsigned_abs() * 10, 10, 45.0)]}}});
    run(&pool, 10, &planned(&arms)).await;
    let replay = json_of(&shell, &["replay", "--json", "--planned", "1"]).await;
    assert_eq!(replay["replayed"].as_array().unwrap().len(), 3, "{replay:#}");
    let share = replay["sampled_share"].as_f64().unwrap();
    assert!((share - 0.1).abs() < 0.001, "{share}");
    let shown = shell.run(&["report"]).await.well();
    assert!(shown.contains("(replayed from") && shown.contains("fresh reads from between"), "{shown}");
}

#[tokio::test]
async fn replay_of_too_little_says_what_is_missing() {
    let (pool, shell) = bed().await;
    let ran = shell.run(&["replay"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("no looks are recorded") && ran.stdout.contains("PLANNED_RECORD"), "{}", ran.stdout);
    record(&pool).await;
    exec(&pool, "DELETE FROM refresh_worker.looks WHERE at < now() - interval '2 hours'").await;
    let ran = shell.run(&["replay", "--json", "--since", "2w"]).await;
    let why: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(ran.code == 1 && why["not_replayed"].as_str().unwrap().contains("Wait another 4 h 0"), "{why}");
    assert_eq!(LOOKS_RETENTION.as_secs(), 14 * 86_400, "the help says two weeks");
}

#[tokio::test]
async fn replay_by_protocol_needs_no_database() {
    let world = "object 1 clan 1000\nobject 2 player 1000\nfetched 2000 1 1 1990\nlisted 2000 2 1\nplan 100000 2\n";
    let shell = Shell::new();
    for strategy in [&["replay", "--stdin"][..], &["replay", "--stdin", "--strategy", "age"]] {
        let shown = shell.run_with_input(strategy, world).await.well();
        let mut ids: Vec<&str> = shown.split_whitespace().collect();
        ids.sort_unstable();
        assert_eq!(ids, ["1", "2"], "{shown}");
    }
    let ran = shell.run_with_input(&["replay", "--stdin"], "plan x 2\n").await.badly(2);
    assert!(ran.contains("line 1"), "{ran}");
    assert!(shell.run(&["replay"]).await.badly(2).contains("DATABASE_URL"));
    shell.run(&["replay", "--stdin", "--planned", "5"]).await.badly(2);
}
