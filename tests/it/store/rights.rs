//! The findings of `check` about a database, and the error of a commit without a right.

use refresh_worker::store::{
    Arm, CommitDetails, Looks as _, PutOff, Store, StoreError, Teaching, postgres::PostgresStore,
};
use sqlx::PgPool;

use super::{
    beds::config,
    documents::{at, clan},
    migrations::modest_role,
};
use crate::support;

async fn run(url: &str, statements: &str) {
    let pool = PgPool::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&pool).await.unwrap();
}

fn store(url: &str) -> PostgresStore {
    PostgresStore::connect(&config(url)).unwrap()
}

#[tokio::test]
async fn a_database_that_is_ready_has_no_problems() {
    let url = support::postgres::fresh().await;
    store(&url).migrate().await.unwrap();
    assert_eq!(store(&url).check_rights().await, []);
}

#[tokio::test]
async fn missing_tables_are_a_problem() {
    let url = support::postgres::fresh_with_contract().await;
    let problems = store(&url).check_rights().await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].what.contains("refresh_worker.refresh_state"), "{problems:?}");
    assert!(!problems[0].what.contains("clans"), "{problems:?}");
    assert_eq!(problems[0].fix, "refresh-worker migrate");
}

#[tokio::test]
async fn a_table_that_was_dropped_is_a_problem() {
    let url = support::postgres::fresh().await;
    store(&url).migrate().await.unwrap();
    run(&url, "DROP TABLE war_snapshots").await;
    let problems = store(&url).check_rights().await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].what, "table war_snapshots is gone");
}

#[tokio::test]
async fn a_table_of_another_shape_is_a_problem() {
    let url = support::postgres::fresh().await;
    store(&url).migrate().await.unwrap();
    run(
        &url,
        "ALTER TABLE players DROP COLUMN deep_link; ALTER TABLE war_snapshots ALTER COLUMN id DROP DEFAULT; \
               DROP SEQUENCE war_snapshots_id_seq",
    )
    .await;
    let problems = store(&url).check_rights().await;
    let whats: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(whats, ["table players lacks deep_link", "war_snapshots.id has no sequence for its ids"]);
}

#[tokio::test]
async fn missing_right_reported_with_its_grant() {
    let url = support::postgres::fresh().await;
    store(&url).migrate().await.unwrap();
    let (modest, role) = modest_role(&url).await;
    let mut rounds = 0;
    loop {
        let problems = store(&modest).check_rights().await;
        if problems.is_empty() {
            break;
        }
        rounds += 1;
        assert!(rounds <= 3, "the grants help: {problems:?}");
        for problem in problems {
            assert!(problem.fix.starts_with("GRANT "), "{problem:?}");
            run(&url, &problem.fix).await;
        }
    }
    // With exactly these rights it works, sequences behind their tables included.
    run(&url, "INSERT INTO clan_snapshots (id, ts, clan_tag) VALUES (7, '2020-01-01', 'LLL')").await;
    store(&modest).commit(at(1), &[clan("8GG").fetched(at(0))]).await.unwrap();
    run(&url, &format!("REVOKE UPDATE ON SEQUENCE clan_snapshots_id_seq FROM {role}")).await;
    let problems = store(&modest).check_rights().await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].fix, format!("GRANT UPDATE ON SEQUENCE clan_snapshots_id_seq TO {role};"));

    run(&url, &format!("REVOKE INSERT ON clans FROM {role}")).await;
    let error = store(&modest).commit(at(301), &[clan("8GG").level(2).fetched(at(300))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::NotAllowed { fix, .. } if fix.contains("GRANT")), "{error}");
    run(&url, &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn planner_rights_are_needed_while_on() {
    let url = support::postgres::fresh().await;
    store(&url).migrate().await.unwrap();
    let (modest, role) = modest_role(&url).await;
    let details = CommitDetails { teaching: Some(Teaching::default()), ..CommitDetails::default() };
    let (off, on) = (store(&modest), store(&modest).with_details(details));
    for _ in 0..3 {
        for problem in off.check_rights().await {
            assert!(!problem.fix.contains("refresh_worker.plan") && !problem.fix.contains("looks"), "{problem:?}");
            run(&url, &problem.fix).await;
        }
    }
    assert_eq!(off.check_rights().await, []);
    off.commit(at(1), &[clan("8GG").fetched(at(0))]).await.unwrap();

    let error = on.commit(at(301), &[clan("8GG").fetched(at(300))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::NotAllowed { fix, .. } if fix.contains("ON refresh_worker.plan")), "{error}");
    let problems = on.check_rights().await;
    assert_eq!(problems.len(), 4, "{problems:?}");
    for problem in problems {
        run(&url, &problem.fix).await;
    }
    assert_eq!(on.check_rights().await, []);
    // With exactly these rights everything works.
    on.commit(at(301), &[clan("8GG").fetched(at(300))]).await.unwrap();
    on.plan_known_objects(at(302), std::time::Duration::from_secs(86_400), 100).await.unwrap();
    on.move_level(Arm::Main, 0.1, at(302)).await.unwrap();
    on.put_off(&[PutOff::anyway("clan:8GG".parse().unwrap(), at(900))]).await.unwrap();
    on.delete_looks(at(900)).await.unwrap();
    run(&url, "INSERT INTO refresh_worker.plan (kind, tag, next_look) VALUES ('x', 'y', '2020-01-01')").await;
    let ask = refresh_worker::store::NextLooks {
        now: at(302),
        until: at(900_000),
        after: None,
        buckets: (0, 9999),
        limit: 9,
    };
    assert_eq!(on.next_looks(ask).await.unwrap().len(), 1);
    run(&url, &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn unreachable_database_is_one_problem_without_password() {
    let problems = store("postgresql+psycopg://me:hush@127.0.0.1:1/stats").check_rights().await;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].what.contains("127.0.0.1:1/stats"), "{problems:?}");
    assert!(!format!("{problems:?}").contains("hush"));
}
