//! A database in trouble while it can be reached: locked, out of connections, its sessions ended by an operator. No call is
//! spent on responses that cannot be stored, and nothing is lost.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::sleep;

use super::{
    super::store::migrations::{drop_role, modest_role},
    events,
    world::{PLENTY, Sizes, World, assert_processed},
};

/// Slow enough that the two seconds after which calls wait are a part of the queue only.
const RATE: [(&str, &str); 1] = [("COC_REQS_PER_SEC", "50")];

/// A session that keeps every commit waiting while `SELECT 1` works.
pub async fn lock_history(world: &World) -> PgConnection {
    let mut session = world.database().await;
    session.execute("BEGIN").await.unwrap();
    session.execute("LOCK TABLE player_snapshots IN ACCESS EXCLUSIVE MODE").await.unwrap();
    session
}

/// Waits until no call has come for a second, and returns their number.
async fn until_calls_rest(world: &World) -> u64 {
    let mut before = 0;
    loop {
        sleep(Duration::from_secs(1)).await;
        let calls = world.simulator.total_calls();
        if calls == before && calls > 0 {
            return calls;
        }
        before = calls;
    }
}

#[tokio::test]
async fn hanging_commits_hold_back_calls() {
    let world = World::start().await;
    let players = world.mail_players(300).await;
    let mut worker = world.worker_with(&RATE).await;
    worker.invoke(&serde_json::json!({ "max_requests": 1 }), PLENTY).await.response();

    let lock = lock_history(&world).await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    let calls = until_calls_rest(&world).await;
    assert!(calls < players.len() as u64, "{calls} calls while nothing could be kept");
    lock.close().await.unwrap();
    let run = worker.finish(running).await;
    assert_processed(&run, players.len() - 1);
    assert_eq!(world.simulator.total_calls(), players.len() as u64, "one call each");
    assert_eq!(world.sizes().await, Sizes::EMPTY);
}

/// The lock outlasts the statement timeout.
#[tokio::test]
async fn long_lock_ends_run_without_loss() {
    let world = World::start().await;
    let players = world.mail_players(300).await;
    let mut worker = world.worker_with(&RATE).await;
    worker.invoke(&serde_json::json!({ "max_requests": 1 }), PLENTY).await.response();

    let lock = lock_history(&world).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("table player_snapshots is locked by pid"), "{message}");
    let calls = world.simulator.total_calls();
    assert!(calls < players.len() as u64, "{calls} calls while nothing could be kept");
    assert_eq!(world.sizes().await.leased, 0, "everything was given back");

    lock.close().await.unwrap();
    world.drain_with(&mut worker).await;
    assert_eq!(world.count("SELECT count(*) FROM player_snapshots").await, 300);
}

#[tokio::test]
async fn response_is_in_time_despite_hanging_commits() {
    let world = World::start().await;
    world.mail_players(300).await;
    let mut worker = world.worker_with(&RATE).await;
    worker.invoke(&serde_json::json!({ "max_requests": 1 }), PLENTY).await.response();

    // Less than the ten seconds for which responses are kept. The harness kills a process whose deadline has passed.
    let running = worker.begin(&events::schedule(), Duration::from_secs(9)).await;
    world.wait_for_calls(2).await;
    let lock = lock_history(&world).await;
    let run = worker.finish(running).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("no time was left"), "{message}");
    assert_eq!(world.sizes().await.leased, 0, "everything was given back");

    lock.close().await.unwrap();
    world.drain_with(&mut worker).await;
    assert_eq!(world.count("SELECT count(*) FROM player_snapshots").await, 300);
}

#[tokio::test]
async fn terminated_sessions_cost_nothing() {
    let world = World::start().await;
    let players = world.mail_players(300).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "100")]).await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    let mut operator = world.database().await;
    for calls in [30, 90, 150, 210] {
        world.wait_for_calls(calls).await;
        operator
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await
            .unwrap();
    }
    let run = worker.finish(running).await;
    assert_processed(&run, players.len());
    assert_eq!(world.simulator.total_calls(), players.len() as u64, "one call each");
    assert_eq!(world.count("SELECT count(*) FROM player_snapshots").await, 300);
}

#[tokio::test]
async fn database_without_free_connection_is_reported() {
    let mut world = World::start().await;
    world.mail_players(3).await;
    let mut owner = world.database().await;
    // Superusers are not limited, so the worker comes as somebody else.
    let role = format!("worker_{}", fastrand::u64(..));
    let make = format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 0");
    owner.execute(sqlx::AssertSqlSafe(make)).await.unwrap();
    let all = std::mem::take(&mut world.database_url);
    world.database_url = all.replace("postgres@", &format!("{role}@"));
    assert_ne!(world.database_url, all);
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("too many connections"), "{message}");
    assert_eq!(world.simulator.total_calls(), 0);
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.mailbox + sizes.ready), (0, 3), "{sizes:?}");
    owner.execute(sqlx::AssertSqlSafe(format!("DROP ROLE {role}"))).await.unwrap();
}

/// Missing tables stay missing and cost no call; the error names what creates them.
#[tokio::test]
async fn missing_tables_without_auto_migrate_are_reported() {
    const TABLES: &str = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'refresh_worker'";
    let world = World::start().await;
    world.mail_players(3).await;
    let mut worker = world.worker_with(&[("AUTO_MIGRATE", "false")]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let text = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(text.contains("refresh_state") && text.contains("refresh-worker migrate"), "{text}");
    assert_eq!((world.count(TABLES).await, world.simulator.total_calls()), (0, 0));
    assert_eq!(world.sizes().await.leased, 0, "everything was given back");

    worker.invoke(&json!({"task": "migrate"}), PLENTY).await.response();
    assert_processed(&worker.invoke(&events::schedule(), PLENTY).await, 3);
}

/// The role may not create tables: one error prints the GRANT, and the named request waits in front.
#[tokio::test]
async fn missing_create_right_prints_the_grant() {
    let world = World::start().await;
    let player = world.simulator.world().player_tags()[0].clone();
    let (modest, role) = modest_role(&world.database_url).await;
    let mut worker = world.worker_with(&[("DATABASE_URL", &modest)]).await;
    let named = json!({"requests": [{"type": "player", "tag": player.to_string()}]});
    let failure = worker.invoke(&named, PLENTY).await;
    let text = failure.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(text.contains("create the missing tables") && text.contains("GRANT CREATE ON DATABASE"), "{text}");
    assert_eq!(failure.error()["errorType"], "RefreshFailed.database_down");
    assert_eq!(world.simulator.total_calls(), 0);
    drop_role(&world.database_url, &role).await;
    let answer = world.worker().await.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&answer, 1);
}
