//! Connections that were good and are no more: the server became a standby or read-only, the name moved, others changed
//! a table or threw prepared statements away, there are as many connections as may be.

use std::time::Duration;

use refresh_worker::{
    config::DatabaseConfig,
    model::ObjectId,
    store::{Commit, Committed, Store, StoreError, UNHURRIED, postgres::PostgresStore},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    beds::config,
    documents::{at, clan, nth_tag, player},
    migrations::{drop_role, modest_role},
    runs::run,
};
use crate::support::{
    self,
    postgres::{PostgresPair, PrivatePostgres},
    proxy::Proxy,
};

/// A store with one connection, as a warm process with little to do has.
fn narrow(url: &str) -> PostgresStore {
    PostgresStore::connect(&DatabaseConfig { max_connections: 1, ..config(url) }).unwrap()
}

fn host(url: &str) -> String {
    let url = url::Url::parse(url).unwrap();
    format!("127.0.0.1:{}", url.port().unwrap())
}

async fn exec(url: &str, statements: &[&str]) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut connection).await.unwrap();
    }
}

/// Commits something new, with a stay in a clan.
async fn commit(store: &PostgresStore, n: usize, second: i64) -> Result<Commit, StoreError> {
    let tag = nth_tag(n);
    let batch = [player(tag.as_str()).of("8GG").fetched(at(second)), clan("8GG").fetched(at(second))];
    store.commit(at(second + 1), &batch).await
}

fn assert_stored(commit: Result<Commit, StoreError>) {
    assert!(matches!(commit.unwrap().committed[0], Committed::Stored));
}

/// Everything that a store does, again and again, so that statements are kept wherever they are.
async fn use_all(store: &PostgresStore, from: usize) {
    for n in from..from + 6 {
        let second = i64::try_from(n).unwrap() * 60;
        assert_stored(commit(store, n, second).await);
        let objects = [ObjectId::player(nth_tag(n))];
        assert_eq!(store.freshness(&objects, UNHURRIED).await.unwrap().len(), 1);
        store.record_run(&run(&format!("run {n}"), at(second))).await.unwrap();
        assert_eq!(store.last_run().await.unwrap().unwrap().run, format!("run {n}"));
        let notes: Vec<i64> = store.outbox(at(second + 9)).await.unwrap().iter().map(|note| note.id).collect();
        store.delete_from_outbox(&notes).await.unwrap();
    }
}

#[tokio::test]
async fn a_standby_is_told_by_ping_and_check() {
    let pair = PostgresPair::start().await;
    narrow(&pair.primary.url()).migrate().await.unwrap();
    pair.wait_until_streamed().await;
    let store = narrow(&pair.standby.url());
    let error = store.ping().await.unwrap_err();
    assert!(matches!(&error, StoreError::ReadOnly { is_standby: true, .. }), "{error:?}");
    let (said, port) = (error.to_string(), pair.standby.port().to_string());
    assert!(said.contains("the server is a standby") && said.contains(&port), "{said}");
    let problems = store.check_rights().await;
    assert!(problems[0].what.contains("standby") && problems[0].is_certain, "{problems:?}");
    // Reading is as good there as elsewhere.
    assert!(store.last_run().await.unwrap().is_none());

    pair.promote().await;
    store.ping().await.unwrap();
    assert_stored(commit(&store, 1, 60).await);
}

#[tokio::test]
async fn connections_left_on_a_standby_are_opened_anew() {
    let pair = PostgresPair::start().await;
    narrow(&pair.primary.url()).migrate().await.unwrap();
    pair.wait_until_streamed().await;
    let (name, url) = Proxy::in_front_of(&pair.standby.url()).await;
    let pinging = PostgresStore::connect(&config(&url)).unwrap();
    let committing = PostgresStore::connect(&config(&url)).unwrap();
    for store in [&pinging, &committing] {
        let (a, b, c) = tokio::join!(store.last_run(), store.last_run(), store.last_run());
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
    }
    name.move_to(&host(&pair.primary.url()));
    pinging.ping().await.unwrap();
    assert_stored(commit(&pinging, 1, 60).await);
    // In the middle of a run.
    assert_stored(commit(&committing, 2, 120).await);
    assert_stored(commit(&committing, 3, 180).await);
}

#[tokio::test]
async fn a_read_only_server_is_told_until_it_is_not() {
    let server = PrivatePostgres::start().await;
    let store = PostgresStore::connect(&config(&server.url())).unwrap();
    store.migrate().await.unwrap();
    use_all(&store, 0).await;
    server.exec(&["ALTER DATABASE postgres SET default_transaction_read_only = on"]).await;
    // Of the database: sessions that are open do not notice.
    assert!(matches!(narrow(&server.url()).ping().await.unwrap_err(), StoreError::ReadOnly { is_standby: false, .. }));
    let off = "SET default_transaction_read_only = off";
    server.exec(&[off, "ALTER DATABASE postgres RESET default_transaction_read_only"]).await;
    server.exec(&["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]).await;
    // Of the server: they do.
    let error = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Err(error) = store.ping().await {
                return error;
            }
        }
    });
    let said = error.await.unwrap().to_string();
    assert!(said.contains("read-only") && said.contains("default_transaction_read_only"), "{said}");
    let problems = store.check_rights().await;
    assert!(problems.iter().any(|problem| problem.what.contains("read-only") && problem.is_certain), "{problems:?}");
    server.exec(&["ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"]).await;
    let writable = async { while store.ping().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), writable).await.unwrap();
    use_all(&store, 10).await;
}

#[tokio::test]
async fn a_column_widened_by_others_costs_no_failure() {
    let url = support::postgres::fresh_with_contract().await;
    let store = narrow(&url);
    store.migrate().await.unwrap();
    use_all(&store, 0).await;
    exec(
        &url,
        &[
            "ALTER TABLE clan_memberships ALTER COLUMN clan_tag TYPE varchar(100)",
            "ALTER TABLE clan_memberships ALTER COLUMN player_tag TYPE text",
            "ALTER TABLE player_snapshots ALTER COLUMN name TYPE varchar(300)",
            "ALTER TABLE refresh_worker.refresh_state ALTER COLUMN tag TYPE varchar(100)",
            "ALTER TABLE refresh_worker.outbox ALTER COLUMN words TYPE varchar(100000)",
        ],
    )
    .await;
    use_all(&store, 10).await;
}

#[tokio::test]
async fn statements_thrown_away_by_a_pooler_cost_no_failure() {
    let url = support::postgres::fresh().await;
    let store = narrow(&url);
    store.migrate().await.unwrap();
    for (round, statement) in ["DEALLOCATE ALL", "DISCARD ALL"].into_iter().enumerate() {
        use_all(&store, round * 10).await;
        let mut session = store.pool().acquire().await.unwrap();
        sqlx::raw_sql(statement).execute(&mut *session).await.unwrap();
    }
    assert!(!store.connections().keeps_statements(), "the sign of a pooler is understood");
    use_all(&store, 30).await;
    // None is kept any more.
    let mut session = store.pool().acquire().await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
        .persistent(false)
        .fetch_one(&mut *session)
        .await
        .unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn a_transaction_left_behind_by_another_client_costs_no_failure() {
    let url = support::postgres::fresh().await;
    let store = narrow(&url);
    store.migrate().await.unwrap();
    let mut session = store.pool().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut *session).await.unwrap();
    sqlx::raw_sql("SELECT 1 / 0").execute(&mut *session).await.unwrap_err();
    drop(session);
    use_all(&store, 0).await;
}

#[tokio::test]
async fn a_role_limited_to_the_pool_is_enough() {
    let url = support::postgres::fresh().await;
    narrow(&url).migrate().await.unwrap();
    let (modest, role) = modest_role(&url).await;
    exec(
        &url,
        &[
            &format!("ALTER ROLE {role} CONNECTION LIMIT 2"),
            &format!("GRANT USAGE ON SCHEMA refresh_worker TO {role}"),
            &format!("GRANT ALL ON ALL TABLES IN SCHEMA public, refresh_worker TO {role}"),
            &format!("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"),
        ],
    )
    .await;
    // As large as the limit, and larger.
    for max_connections in [2, 5] {
        let store = PostgresStore::connect(&DatabaseConfig { max_connections, ..config(&modest) }).unwrap();
        store.ping().await.unwrap();
        // Both of them wait longer than it takes to become suspicious.
        let mut others = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE player_snapshots IN ACCESS EXCLUSIVE MODE")
            .execute(&mut others)
            .await
            .unwrap();
        let freeing = async {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            sqlx::raw_sql("COMMIT").execute(&mut others).await.unwrap();
        };
        let tag = usize::try_from(max_connections).unwrap() * 100;
        let second = i64::from(max_connections) * 6000;
        let (one, other, read, again, ()) = tokio::join!(
            commit(&store, tag, second),
            commit(&store, tag + 1, second + 60),
            store.last_run(),
            store.last_run(),
            freeing
        );
        assert_stored(one);
        assert_stored(other);
        assert!(read.is_ok() && again.is_ok(), "{read:?} {again:?}");
        store.pool().close().await;
    }
    // Without any connection of our own it is told whose limit it is.
    exec(&url, &[&format!("ALTER ROLE {role} CONNECTION LIMIT 0")]).await;
    let said = narrow(&modest).ping().await.unwrap_err().to_string();
    assert!(said.contains("too many connections") && said.contains("the limit of the role"), "{said}");
    drop_role(&url, &role).await;
}

#[tokio::test]
async fn a_connection_that_comes_free_on_a_full_server_is_waited_for() {
    let url = support::postgres::fresh().await;
    narrow(&url).migrate().await.unwrap();
    let (modest, role) = modest_role(&url).await;
    exec(&url, &[&format!("ALTER ROLE {role} CONNECTION LIMIT 1")]).await;
    let theirs = PgConnection::connect(&modest).await.unwrap();
    let store = narrow(&modest);
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        theirs.close().await.unwrap();
    };
    let (pinged, ()) = tokio::join!(store.ping(), freeing);
    pinged.unwrap();
    store.pool().close().await;
    drop_role(&url, &role).await;
}

#[tokio::test]
async fn connections_of_a_pool_have_a_bounded_life() {
    let store = narrow("postgres://nobody@127.0.0.1:1/none");
    let life = store.pool().options().get_max_lifetime().unwrap();
    assert!(life >= Duration::from_secs(8 * 60) && life <= Duration::from_secs(12 * 60), "{life:?}");
}
