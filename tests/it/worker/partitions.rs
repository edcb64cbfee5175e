//! A run whose table lacks a partition.

use std::sync::Arc;

use refresh_worker::{
    api::client::ApiClient,
    model::ObjectId,
    store::{Store, postgres::PostgresStore},
    worker::{ApiAccess, RunOptions, Runs, Stop, Unwatched, Worker, tables::Tables},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::bed::{Bed, RATE, outcomes, seconds};
use crate::{store::beds, support};

/// Forty players belong into a partition that is missing; others are stored all the time.
#[tokio::test]
async fn missing_partition_costs_no_repeated_calls() {
    let bed = Bed::start().await;
    let url = support::postgres::fresh().await;
    let store = PostgresStore::connect(&beds::config(&url)).unwrap();
    store.migrate().await.unwrap();
    let players = bed.players(100);
    let (bad, good) = players.split_at(40);
    let tags: Vec<String> = good.iter().map(|one| format!("'{}'", one.tag.as_str())).collect();
    let mut session = PgConnection::connect(&url).await.unwrap();
    session
        .execute(AssertSqlSafe(format!(
            "ALTER TABLE player_snapshots RENAME TO whole; \
             CREATE TABLE player_snapshots (LIKE whole INCLUDING DEFAULTS) PARTITION BY LIST (player_tag); \
             CREATE TABLE one PARTITION OF player_snapshots FOR VALUES IN ({})",
            tags.join(",")
        )))
        .await
        .unwrap();
    let worker = Worker {
        queue: Arc::clone(&bed.worker.queue),
        store: Arc::new(store),
        api: ApiAccess {
            client: ApiClient::new(&bed.simulator.base_url()).unwrap(),
            key_store: bed.worker.api.key_store.clone(),
            reqs_per_sec: RATE,
            keys_per_run: None,
            reqs_per_day: None,
        },
        clock: bed.clock.clone(),
        config: bed.worker.config.clone(),
        stop: Stop::default(),
        tables: Tables::given(),
        after: None,
    };
    bed.ask(bad.to_vec()).await;
    let mut lines = Vec::new();
    for round in 0..8 {
        let some: Vec<ObjectId> = good[round * 5..round * 5 + 5].to_vec();
        bed.ask(some).await;
        let options = RunOptions { time_left: Some(seconds(40)), ..RunOptions::default() };
        let report = worker.run(options, &Unwatched).await;
        lines.push(format!("{} calls, {:?}, {:?}", report.api_requests, report.stopped_because, outcomes(&report)));
        bed.clock.advance(seconds(2));
    }
    let calls = bed.simulator.total_calls();
    assert!(
        calls <= 40 + 40 + 20,
        "{calls} calls in 16 s for 40 that are held and 40 that are stored:\n{}",
        lines.join("\n")
    );
}
