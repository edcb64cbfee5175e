//! Poolers in transaction mode: they give a client another connection to the server for every transaction. With the settings
//! as they are by default.

use refresh_worker::{
    model::ObjectId,
    store::{Committed, RELAXED_TIMEOUT, Store, postgres::PostgresStore},
};

use super::{
    beds::{EVERYTHING, config},
    documents::{at, clan, nth_tag, player},
    runs::run,
};
use crate::support::{self, pgbouncer::PgBouncer, pooler::PoolerWitness};

/// The work of a process in some runs, with its own stores.
async fn work(store: &PostgresStore, from: usize) {
    for n in from..from + 10 {
        let second = i64::try_from(n).unwrap() * 60;
        let (object, name) = (ObjectId::player(nth_tag(n)), format!("run {n}"));
        store.ping().await.unwrap();
        let batch = [player(object.tag.as_str()).of("8GG").fetched(at(second)), clan("8GG").fetched(at(second))];
        let commit = store.commit(at(second + 1), &batch).await.unwrap();
        assert!(matches!(commit.committed[0], Committed::Stored), "{commit:?}");
        let (fresh, answered, last) = tokio::join!(
            store.freshness(std::slice::from_ref(&object), RELAXED_TIMEOUT),
            store.control_object(object.kind, &[], at(second + 2), RELAXED_TIMEOUT),
            store.last_run()
        );
        assert_eq!(fresh.unwrap().into_keys().collect::<Vec<_>>(), [object]);
        assert!(answered.unwrap().is_some());
        last.unwrap();
        store.record_run(&run(&name, at(second))).await.unwrap();
        store.outbox(at(second + 9)).await.unwrap();
        store.delete_from_outbox(&commit.outbox.iter().map(|entry| entry.id).collect::<Vec<_>>()).await.unwrap();
    }
}

#[tokio::test]
async fn pgbouncer_clients_do_not_interfere() {
    let direct = support::postgres::fresh().await;
    let Some((_pooler, url)) = PgBouncer::in_front_of(&direct, 3).await else { return };
    let stores: Vec<_> =
        (0..3).map(|_| PostgresStore::connect(&config(&url)).unwrap().with_details(EVERYTHING)).collect();
    let made = futures_util::future::join_all(stores.iter().map(Store::migrate)).await;
    let made: usize = made.into_iter().map(|made| made.unwrap().len()).sum();
    assert_eq!(made, 6, "each migration runs once");
    tokio::join!(Box::pin(work(&stores[0], 0)), Box::pin(work(&stores[1], 100)), Box::pin(work(&stores[2], 200)));
    for store in &stores {
        assert!(!store.connections().keeps_statements());
        let problems = store.check_rights().await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(!problems[0].is_certain && problems[0].what.contains("pooler"), "{problems:?}");
        assert!(problems[0].fix.contains("DB_STATEMENT_CACHE=0"), "{problems:?}");
    }
    let server = sqlx::PgPool::connect(&direct).await.unwrap();
    let runs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM refresh_worker.refresh_runs").fetch_one(&server).await.unwrap();
    assert_eq!(runs, 30);
}

#[tokio::test]
async fn pooler_dropping_parameters_noticed_in_time() {
    let url = support::postgres::fresh().await;
    let (witness, url) = PoolerWitness::that_keeps_options(&url).await;
    let store = PostgresStore::connect(&config(&url)).unwrap().with_details(EVERYTHING);
    store.migrate().await.unwrap();
    Box::pin(work(&store, 0)).await;
    let (inside, outside) = witness.take();
    assert!(inside > 20 && outside.is_empty(), "{inside} {outside:#?}");
    assert!(store.check_rights().await.iter().any(|problem| problem.what.contains("pooler")));
}

#[tokio::test]
async fn a_server_without_a_pooler_keeps_statements() {
    let store = PostgresStore::connect(&config(&support::postgres::fresh().await)).unwrap();
    store.migrate().await.unwrap();
    Box::pin(work(&store, 0)).await;
    assert!(store.connections().keeps_statements());
    assert_eq!(store.check_rights().await, []);
}
