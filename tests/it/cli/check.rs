//! `check` and `migrate` against configurations and servers of every state.

use serde_json::Value;

use super::Shell;
use crate::support;

#[tokio::test]
async fn a_broken_configuration_is_told_whole_and_without_secrets() {
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
    assert!(ran.stdout.contains("not fit to run: 5 problems"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
}

#[tokio::test]
async fn servers_that_do_not_answer_are_told_beside_each_other() {
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
async fn missing_tables_are_a_problem_until_they_are_migrated() {
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = Shell::new()
        .with("REDIS_URL", support::redis::fresh().await)
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "the.one.key");
    let before: Value = serde_json::from_str(&shell.run(&["check", "--json"]).await.stdout).unwrap();
    assert_eq!(before["fit_to_run"], false, "{before:#}");

    let told = shell.run(&["migrate"]).await.well();
    assert!(told.starts_with("ran "), "{told}");
    assert!(shell.run(&["migrate"]).await.well().starts_with("nothing to do"));

    let told = shell.run(&["check"]).await.well();
    assert!(told.contains("is accepted") && told.contains("fit to run"), "{told}");
    assert!(!told.contains("the.one.key"), "{told}");
}

#[tokio::test]
async fn a_key_that_the_api_does_not_accept_is_a_problem() {
    let simulator = super::simulator(&["another.key"]).await;
    let shell = Shell::new()
        .with("REDIS_URL", support::redis::fresh().await)
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "revoked.key");
    shell.run(&["migrate"]).await.well();
    let ran = shell.run(&["check"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("is not accepted") && !ran.stdout.contains("revoked.key"), "{}", ran.stdout);
}
