//! Locks of other programs: the records they hold, the records they do not, and the messages about them.

use std::time::{Duration, Instant};

use refresh_worker::{
    model::Fetched,
    store::{Committed, Store, StoreError, postgres::PostgresStore},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{
    Bed,
    beds::{self, PostgresBed},
    documents::{at, clan, nth_tag, player},
};
use crate::support;

/// A session in the middle of a transaction, as somebody forgot it.
async fn forgotten(url: &str, statements: &str) -> PgConnection {
    let mut session = PgConnection::connect(url).await.unwrap();
    session.execute("BEGIN; SET application_name = 'forgetful'").await.unwrap();
    session.execute(AssertSqlSafe(statements)).await.unwrap();
    session
}

async fn bed() -> (PostgresBed, String) {
    let url = support::postgres::fresh().await;
    (PostgresBed::on(&url).await, url)
}

fn players(count: usize, began: i64) -> Vec<Fetched> {
    (0..count).map(|n| player(nth_tag(n).as_str()).trophies(i32::try_from(began).unwrap()).fetched(at(began))).collect()
}

fn held(committed: &Committed) -> String {
    let Committed::Held(reason) = committed else { panic!("held: {committed:?}") };
    reason.to_string()
}

async fn lock_row(url: &str, number: usize) -> PgConnection {
    let tag = nth_tag(number);
    forgotten(url, &format!("UPDATE players SET role = 'x' WHERE tag = '{}'", tag.as_str())).await
}

#[tokio::test]
async fn locked_row_holds_only_its_record() {
    let (bed, url) = bed().await;
    bed.commit(&players(64, 0)).await;
    let mut session = lock_row(&url, 17).await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    let began = Instant::now();
    let committed = bed.commit(&players(64, 300)).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    for (place, committed) in committed.iter().enumerate().filter(|(place, _)| *place != 17) {
        assert_eq!(committed, &Committed::Stored, "{place}");
    }
    let text = held(&committed[17]);
    for part in ["row_locked", "players", &format!("pid {pid}"), "idle in transaction", "forgetful"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    session.execute("ROLLBACK").await.unwrap();
    assert_eq!(bed.commit(&players(64, 600)).await, vec![Committed::Stored; 64]);
}

#[tokio::test]
async fn lock_named_even_with_single_connection() {
    let url = support::postgres::fresh().await;
    let config = refresh_worker::config::DatabaseConfig { max_connections: 1, ..beds::config(&url) };
    let store = PostgresStore::connect(&config).unwrap();
    store.migrate().await.unwrap();
    store.commit(at(1), &players(3, 0)).await.unwrap();
    let _session = lock_row(&url, 1).await;
    let committed = store.commit(at(301), &players(3, 300)).await.unwrap().committed;
    let text = held(&committed[1]);
    assert!(text.contains("probably locked by pid") && text.contains("forgetful"), "{text}");
    assert_eq!((&committed[0], &committed[2]), (&Committed::Stored, &Committed::Stored));
}

#[tokio::test]
async fn many_locked_rows_cost_a_bounded_time() {
    let (bed, url) = bed().await;
    bed.commit(&players(64, 0)).await;
    let locked: Vec<String> = (0..64).step_by(2).map(|n| format!("'{}'", nth_tag(n).as_str())).collect();
    let _session =
        forgotten(&url, &format!("SELECT FROM players WHERE tag IN ({}) FOR UPDATE", locked.join(","))).await;
    let began = Instant::now();
    let committed = bed.commit(&players(64, 300)).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let stored = committed.iter().filter(|one| **one == Committed::Stored).count();
    assert_eq!((stored, committed.iter().filter(|one| matches!(one, Committed::Held(_))).count()), (32, 32));
}

#[tokio::test]
async fn batch_of_locked_rows_is_store_trouble() {
    let (bed, url) = bed().await;
    bed.commit(&players(40, 0)).await;
    let _session = forgotten(&url, "UPDATE players SET role = 'x'").await;
    let error = bed.store().commit(at(301), &players(40, 300)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("forgetful"), "{error}");
    assert!(bed.store().is_doubtful());
}

#[tokio::test]
async fn locked_table_reported_with_blocker() {
    for mode in ["ACCESS EXCLUSIVE", "SHARE"] {
        let (bed, url) = bed().await;
        bed.commit(&players(8, 0)).await;
        let mut session = forgotten(&url, &format!("LOCK TABLE player_snapshots IN {mode} MODE")).await;
        let began = Instant::now();
        let error = bed.store().commit(at(301), &players(8, 300)).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(matches!(&error, StoreError::Locked { .. }), "{error}");
        let text = error.to_string();
        for part in ["table player_snapshots is locked by pid", "idle in transaction", "forgetful", "lock timeout"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let error = bed.store().ready(Duration::from_millis(500)).await.unwrap_err().to_string();
        assert!(error.contains("table player_snapshots is locked by pid"), "{error}");
        session.execute("ROLLBACK").await.unwrap();
        bed.store().ready(Duration::from_millis(500)).await.unwrap();
        assert_eq!(bed.commit(&players(8, 600)).await, vec![Committed::Stored; 8]);
        assert!(!bed.store().is_doubtful());
    }
}

#[tokio::test]
async fn short_lock_of_others_is_awaited() {
    let (bed, url) = bed().await;
    bed.commit(&players(8, 0)).await;
    let mut session = lock_row(&url, 3).await;
    let batch = players(8, 300);
    let (committed, ()) = tokio::join!(bed.commit(&batch), async {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        session.execute("COMMIT").await.unwrap();
    });
    assert_eq!(committed, vec![Committed::Stored; 8]);
}

#[tokio::test]
async fn slow_batch_stored_in_parts() {
    let (bed, _) = bed().await;
    // A trigger that takes half a second a row: 24 rows need more than the ten seconds of a statement.
    bed.exec(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.45); RETURN NEW; END$$; \
         CREATE TRIGGER slow BEFORE INSERT ON player_snapshots FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .await;
    assert_eq!(bed.commit(&players(24, 0)).await, vec![Committed::Stored; 24]);
}

#[tokio::test]
async fn blocked_migration_ends_soon_naming_blocker() {
    let url = support::postgres::fresh_with_contract().await;
    let store = PostgresStore::connect(&beds::config(&url)).unwrap();
    store.migrate().await.unwrap();
    let _session = forgotten(&url, "SELECT FROM refresh_worker.refresh_state").await;
    let began = Instant::now();
    let error = store.revert_migrations().await.unwrap_err().to_string();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(
        error.contains("table refresh_worker.refresh_state is locked by pid") && error.contains("forgetful"),
        "{error}"
    );
}

#[tokio::test]
async fn default_read_only_is_not_overridden() {
    let (bed, url) = bed().await;
    bed.exec("DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END$$")
        .await;
    let store = PostgresStore::connect(&beds::config(&url)).unwrap();
    let batch = [clan("8GG").fetched(at(0))];
    let error = store.commit(at(1), &batch).await.unwrap_err().to_string();
    assert!(error.contains("read-only"), "{error}");
}
