//! A warm process over a failover of PostgreSQL, and over what poolers and other teams do to its connections.

use refresh_worker::sim::SimConfig;
use serde_json::Value;

use super::{
    events,
    world::{PLENTY, Sizes, World, assert_processed},
};
use crate::support::{
    pgbouncer::PgBouncer,
    postgres::{PostgresPair, PrivatePostgres},
    process::{Invocation, WorkerProcess},
    proxy::Proxy,
};

/// A world whose database is reached by this URL.
async fn world_at(url: &str) -> World {
    World { database_url: url.to_owned(), ..World::with(SimConfig::default()).await }
}

fn host(server: &PrivatePostgres) -> String {
    format!("127.0.0.1:{}", server.port())
}

async fn run(worker: &mut WorkerProcess) -> Invocation {
    worker.invoke(&events::schedule(), PLENTY).await
}

fn message(run: &Invocation) -> String {
    run.error()["errorMessage"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn runs_survive_failover_with_open_connections() {
    let pair = PostgresPair::start().await;
    pair.primary.url_with_contract().await;
    let (name, url) = Proxy::in_front_of(&pair.primary.url()).await;
    let world = world_at(&url).await;
    let mut worker = world.worker().await;
    world.mail_players(20).await;
    assert_processed(&run(&mut worker).await, 20);

    // The old primary goes on answering, and takes no writes any more.
    pair.promote().await;
    pair.primary.exec(&["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]).await;
    name.move_to(&host(&pair.standby));
    let before = world.simulator.total_calls();
    world.mail_more_players(20, 20).await;
    assert_processed(&run(&mut worker).await, 20);
    assert_eq!(world.simulator.total_calls(), before + 20, "one call each");
    assert_eq!(world.count("SELECT count(*) FROM player_snapshots").await, 40);
    assert_eq!(world.sizes().await, Sizes::EMPTY);
}

#[tokio::test]
async fn crashed_primary_ends_one_run_at_most() {
    let mut pair = PostgresPair::start().await;
    pair.primary.url_with_contract().await;
    let (name, url) = Proxy::in_front_of(&pair.primary.url()).await;
    let world = world_at(&url).await;
    let mut worker = world.worker().await;
    world.mail_players(20).await;
    assert_processed(&run(&mut worker).await, 20);

    pair.wait_until_streamed().await;
    pair.primary.stop().await;
    let before = world.simulator.total_calls();
    world.mail_more_players(20, 20).await;
    run(&mut worker).await.error();
    assert_eq!(world.simulator.total_calls(), before, "no call for what cannot be kept");
    pair.standby.exec(&["SELECT pg_promote()"]).await;
    name.move_to(&host(&pair.standby));
    assert_processed(&run(&mut worker).await, 20);
    assert_eq!(world.simulator.total_calls(), before + 20);
}

/// Runs go on when the name points to the new primary.
#[tokio::test]
async fn standby_ends_run_without_call() {
    let pair = PostgresPair::start().await;
    pair.primary.url_with_contract().await;
    let (name, url) = Proxy::in_front_of(&pair.primary.url()).await;
    let world = world_at(&url).await;
    world.worker().await.invoke(&serde_json::json!({"task": "migrate"}), PLENTY).await.response();
    pair.wait_until_streamed().await;
    name.move_to(&host(&pair.standby));
    world.mail_players(5).await;
    let mut worker = world.worker().await;
    for _ in 0..2 {
        let failed = run(&mut worker).await;
        assert!(message(&failed).contains("the server is a standby"), "{}", message(&failed));
        assert_eq!(failed.error()["errorType"], "RefreshFailed.database_down");
        assert_eq!(world.simulator.total_calls(), 0);
    }
    let health = worker.invoke(&events::get_health(), PLENTY).await.response().clone();
    let body: Value = serde_json::from_str(health["body"].as_str().unwrap()).unwrap();
    assert_eq!((&health["statusCode"], &body["database"]), (&503.into(), &"standby".into()), "{body}");

    // The connection to the standby stays open, and is not used.
    name.move_to(&host(&pair.primary));
    assert_processed(&run(&mut worker).await, 5);
}

#[tokio::test]
async fn read_only_server_ends_run_without_call() {
    let server = PrivatePostgres::start().await;
    let world = world_at(&server.url_with_contract().await).await;
    let mut worker = world.worker().await;
    world.mail_players(5).await;
    assert_processed(&run(&mut worker).await, 5);

    server.exec(&["ALTER DATABASE postgres SET default_transaction_read_only = on"]).await;
    let mut fresh = world.worker().await;
    world.mail_more_players(5, 5).await;
    let before = world.simulator.total_calls();
    let failed = run(&mut fresh).await;
    assert!(message(&failed).contains("the server is read-only"), "{}", message(&failed));
    assert_eq!(world.simulator.total_calls(), before);
    let off = "SET default_transaction_read_only = off";
    server.exec(&[off, "ALTER DATABASE postgres RESET default_transaction_read_only"]).await;
    assert_processed(&run(&mut fresh).await, 5);
}

#[tokio::test]
async fn widened_columns_cost_warm_process_nothing() {
    let world = World::start().await;
    let mut worker = world.worker_with(&[("DB_POOL_MAX", "1")]).await;
    let clans: Vec<_> = world.simulator.world().clan_tags()[..6].to_vec();
    for _ in 0..3 {
        for clan in &clans {
            world.mail("clan", clan.as_str(), 1).await;
        }
        assert_processed(&run(&mut worker).await, 6);
    }
    let mut others = world.database().await;
    sqlx::raw_sql(
        "ALTER TABLE clan_memberships ALTER COLUMN clan_tag TYPE varchar(100); \
         ALTER TABLE clan_memberships ALTER COLUMN player_tag TYPE varchar(100); \
         ALTER TABLE refresh_worker.refresh_state ALTER COLUMN tag TYPE varchar(100)",
    )
    .execute(&mut others)
    .await
    .unwrap();
    for players in [10, 20] {
        world.mail_more_players(players, 10).await;
        assert_processed(&run(&mut worker).await, 10);
    }
    assert_eq!(world.sizes().await, Sizes::EMPTY);
}

#[tokio::test]
async fn two_processes_share_pgbouncer() {
    let world = World::start().await;
    let Some((bouncer, url)) = PgBouncer::in_front_of(&world.database_url, 3).await else { return };
    let direct = world.database_url.clone();
    let pooled = World { database_url: url, ..world };
    let (mut one, mut other) = (pooled.worker().await, pooled.worker().await);
    let mut total = 0;
    for round in 0..3 {
        pooled.mail_more_players(round * 60, 60).await;
        let (first, second) = tokio::join!(run(&mut one), run(&mut other));
        for run in [&first, &second] {
            // The second may find no key free.
            if let crate::support::process::Outcome::Response(answer) = &run.outcome {
                total += answer["processed_requests"].as_u64().unwrap();
            }
        }
        if round == 0 {
            let said = format!("{}{}", first.logs, second.logs);
            assert!(said.contains("DB_STATEMENT_CACHE=0"), "{said}");
        }
    }
    pooled.drain_with(&mut one).await;
    let world = World { database_url: direct, ..pooled };
    assert_eq!(world.count("SELECT count(*) FROM player_snapshots").await, 180);
    assert_eq!(world.simulator.total_calls(), 180, "{total} processed at once; PgBouncer: {}", bouncer.log());
}
