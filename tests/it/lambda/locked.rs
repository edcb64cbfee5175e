//! Locks and faults in the database of others, through the binary: what is not concerned goes on, no call is burnt on what
//! cannot be kept, and the operator reads whose lock or which column it is.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{
    events,
    world::{PLENTY, World, assert_processed, outcome},
};

async fn forgotten(world: &World, statements: &str) -> PgConnection {
    let mut session = world.database().await;
    session.execute("BEGIN; SET application_name = 'forgetful'").await.unwrap();
    session.execute(AssertSqlSafe(statements)).await.unwrap();
    session
}

#[tokio::test]
async fn locked_row_costs_one_request() {
    let world = World::start().await;
    let players = world.mail_players(60).await;
    let mut worker = world.worker().await;
    assert_processed(&worker.invoke(&events::schedule(), PLENTY).await, 60);
    // The copies are old by now, for whoever looks.
    let mut others = world.database().await;
    others
        .execute(
            "UPDATE refresh_worker.refresh_state SET fetched_at = fetched_at - interval '2 days', fresh_until = NULL",
        )
        .await
        .unwrap();
    let lock = format!("UPDATE players SET role = 'x' WHERE tag = '{}'", players[7].as_str());
    let session = forgotten(&world, &lock).await;

    world.mail_players(60).await;
    let before = world.simulator.total_calls();
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 59);
    let answer = run.response();
    assert_eq!((outcome(answer, "released"), outcome(answer, "dead_letter")), (1, 0), "{answer}");
    let text = answer["errors"].to_string();
    assert!(text.contains("row_locked") && text.contains("forgetful"), "{text}");
    assert_eq!(world.simulator.total_calls() - before, 60);

    let again = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&again, 0);
    assert_eq!(world.simulator.total_calls() - before, 60, "what is locked is held, and not called for again at once");
    session.close().await.unwrap();
    assert_eq!(world.sizes().await.objects, 1, "it is not lost");
}

#[tokio::test]
async fn locked_table_ends_run_before_first_call() {
    let world = World::start().await;
    world.mail_players(60).await;
    let mut worker = world.worker().await;
    worker.invoke(&serde_json::json!({ "max_requests": 1 }), PLENTY).await.response();
    let session = forgotten(&world, "LOCK TABLE player_snapshots IN ACCESS EXCLUSIVE MODE").await;

    let began = Instant::now();
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let text = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(text.contains("table player_snapshots is locked by pid") && text.contains("forgetful"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(world.simulator.total_calls(), 1);
    assert_eq!(world.sizes().await.leased, 0);

    session.close().await.unwrap();
    assert_processed(&worker.invoke(&events::schedule(), PLENTY).await, 59);
}

#[tokio::test]
async fn table_locked_mid_run_loses_nothing() {
    let world = World::start().await;
    world.mail_players(300).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "20")]).await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    world.wait_for_calls(5).await;
    let session = forgotten(&world, "LOCK TABLE player_snapshots IN ACCESS EXCLUSIVE MODE").await;
    let run = worker.finish(running).await;
    let text = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(text.contains("table player_snapshots is locked by pid"), "{text}");
    assert!(world.simulator.total_calls() < 200, "{}", world.simulator.total_calls());
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.dead), (0, 0), "{sizes:?}");
    session.close().await.unwrap();
}

/// A table that refuses every row costs a few calls a run.
#[tokio::test]
async fn refusing_table_makes_no_dead_letter() {
    let world = World::start().await;
    world.mail_players(200).await;
    let mut worker = world.worker_with(&[("COC_REQS_PER_SEC", "50")]).await;
    worker.invoke(&serde_json::json!({ "max_requests": 1 }), PLENTY).await.response();
    let mut others = world.database().await;
    others.execute("ALTER TABLE player_snapshots ADD COLUMN clan_role text NOT NULL DEFAULT 'x'").await.unwrap();
    others.execute("ALTER TABLE player_snapshots ALTER COLUMN clan_role DROP DEFAULT").await.unwrap();
    let mut calls = Vec::new();
    for _ in 0..3 {
        let before = world.simulator.total_calls();
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        let text = run.error()["errorMessage"].as_str().unwrap().to_owned();
        assert!(text.contains("clan_role") && text.contains("SET DEFAULT"), "{text}");
        calls.push(world.simulator.total_calls() - before);
    }
    assert!(calls[0] < 199 && calls[1..].iter().all(|calls| *calls <= 6), "{calls:?}");
    assert_eq!(world.sizes().await.dead, 0);

    others.execute("ALTER TABLE player_snapshots ALTER COLUMN clan_role SET DEFAULT 'x'").await.unwrap();
    world.drain_with(&mut worker).await;
    assert_eq!(world.count("SELECT count(DISTINCT player_tag) FROM player_snapshots").await, 200);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn panicking_record_hurts_only_itself() {
    let world = World::start().await;
    let players = world.mail_players(40).await;
    let order = format!("commit.answer@{}=panic", players[9]);
    let mut worker = world.worker_with(&[("FAILPOINT", &order)]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 39);
    let text = run.response()["errors"].to_string();
    assert!(text.contains("the worker panicked while storing this object"), "{text}");
    assert_eq!(world.count("SELECT count(DISTINCT player_tag) FROM player_snapshots").await, 39);
    assert_eq!(world.sizes().await.leased, 0);
}
