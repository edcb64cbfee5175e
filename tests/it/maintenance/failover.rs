//! What follows a run uses the run's connections: the same signs close them.

use refresh_worker::{
    config::DatabaseConfig,
    maintenance::{
        Database,
        jobs::{ENOUGH_TIME_IN_TASK, Jobs},
    },
    store::{Store, StoreError, postgres::PostgresStore},
};
use sqlx::PgPool;

use super::jobs::{TABLE, config, enqueue, in_a_minute};
use crate::{
    store::beds,
    support::{self, postgres::PostgresPair, proxy::Proxy},
};

fn narrow(url: &str) -> PostgresStore {
    PostgresStore::connect(&DatabaseConfig { max_connections: 1, ..beds::config(url) }).unwrap()
}

/// How many jobs were done.
async fn work(store: &PostgresStore) -> usize {
    let database = Database::new(store.pool(), store.connections());
    Jobs::new(database, &config(&[]), None)
        .work(in_a_minute(), ENOUGH_TIME_IN_TASK, std::future::pending())
        .await
        .jobs
        .len()
}

#[tokio::test]
async fn changed_job_table_costs_one_try() {
    let url = support::postgres::fresh().await;
    let others = PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&others).await.unwrap();
    let store = narrow(&url);
    for _ in 0..4 {
        enqueue(&others, 0).await;
        assert_eq!(work(&store).await, 1);
    }
    sqlx::raw_sql(
        "ALTER TABLE background_job_status ALTER COLUMN retry_count TYPE smallint; \
                   ALTER TABLE background_job_status ALTER COLUMN retry_count TYPE integer; \
                   ALTER TABLE background_job_status ALTER COLUMN started_at TYPE timestamptz(3)",
    )
    .execute(&others)
    .await
    .unwrap();
    enqueue(&others, 0).await;
    let done = work(&store).await + work(&store).await;
    assert_eq!(done, 1);
    enqueue(&others, 0).await;
    assert_eq!(work(&store).await, 1);
}

#[tokio::test]
async fn standby_leads_to_new_connection() {
    let pair = PostgresPair::start().await;
    let others = PgPool::connect(&pair.primary.url()).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&others).await.unwrap();
    enqueue(&others, 0).await;
    pair.wait_until_streamed().await;
    let (name, url) = Proxy::in_front_of(&pair.standby.url()).await;
    let store = narrow(&url);
    assert_eq!(work(&store).await, 0);
    name.move_to(&format!("127.0.0.1:{}", pair.primary.port()));
    assert_eq!(work(&store).await, 1, "the connection to the standby is not used again");
    assert!(!matches!(store.ping().await, Err(StoreError::ReadOnly { .. })));
}
