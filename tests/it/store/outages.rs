//! PostgreSQL that goes away and comes back.

use refresh_worker::store::{Committed, RELAXED_TIMEOUT, Store, StoreError, postgres::PostgresStore};
use sqlx::PgPool;

use super::{
    beds::config,
    documents::{at, clan, player},
};
use crate::support::postgres::PrivatePostgres;

#[tokio::test]
async fn outage_is_unreachable_and_heals_by_itself() {
    let mut server = PrivatePostgres::start().await;
    let store = PostgresStore::connect(&config(&server.url())).unwrap();
    store.migrate().await.unwrap();
    let batch = [clan("8GG").with([player("2PP")]).fetched(at(0))];
    server.stop().await;
    for _ in 0..2 {
        let error = store.commit(at(1), &batch).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unreachable { .. }), "{error}");
    }
    let error = store.ping().await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable { .. }), "{error}");
    server.start_again().await;
    store.ping().await.unwrap();
    assert_eq!(store.commit(at(1), &batch).await.unwrap().committed, [Committed::Stored]);
}

/// Ends all of the worker's sessions, as an operator may, and returns their number.
async fn cut_all(server: &PrivatePostgres) -> i64 {
    let admin = PgPool::connect(&server.url()).await.unwrap();
    let cut = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'refresh-worker'",
    );
    cut.fetch_one(&admin).await.unwrap()
}

#[tokio::test]
async fn freshness_read_survives_cut_connections() {
    let server = PrivatePostgres::start().await;
    let store = PostgresStore::connect(&config(&server.url())).unwrap();
    store.migrate().await.unwrap();
    let objects = ["player:2PP".parse().unwrap()];
    let (a, b, c) = tokio::join!(
        store.freshness(&objects, RELAXED_TIMEOUT),
        store.freshness(&objects, RELAXED_TIMEOUT),
        store.freshness(&objects, RELAXED_TIMEOUT)
    );
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert!(cut_all(&server).await >= 3);
    assert!(store.freshness(&objects, RELAXED_TIMEOUT).await.unwrap().is_empty());
}

#[tokio::test]
async fn ping_replaces_dead_connections() {
    let server = PrivatePostgres::start().await;
    let store = PostgresStore::connect(&config(&server.url())).unwrap();
    store.migrate().await.unwrap();
    // Several connections, all of them cut, as while a sandbox was frozen.
    let (a, b, c) = tokio::join!(store.last_run(), store.last_run(), store.last_run());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert!(cut_all(&server).await >= 3);
    store.ping().await.unwrap();
    let (a, b, c) = tokio::join!(store.last_run(), store.last_run(), store.last_run());
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "every connection is good: {a:?} {b:?} {c:?}");
}

#[tokio::test]
async fn broken_connection_reported_and_replaced() {
    let server = PrivatePostgres::start().await;
    let store = PostgresStore::connect(&config(&server.url())).unwrap();
    store.migrate().await.unwrap();
    // The pool looks at a connection that comes back, and would notice.
    while store.pool().num_idle() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(cut_all(&server).await >= 1);
    let batch = [player("2PP").fetched(at(0))];
    let error = store.commit(at(1), &batch).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable { .. }), "{error}");
    assert_eq!(store.commit(at(1), &batch).await.unwrap().committed, [Committed::Stored]);
}

#[tokio::test]
async fn messages_name_the_server_and_never_the_password() {
    let store = PostgresStore::connect(&config("postgresql+psycopg://me:hush%2Fhush@127.0.0.1:1/stats")).unwrap();
    let error = store.ping().await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1/stats") && error.contains("refused"), "{error}");
    assert!(!error.contains("hush"), "{error}");
    assert!(!format!("{store:?}").contains("hush"), "nor does Debug");
}
