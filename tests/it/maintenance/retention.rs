//! Thinning old snapshots: what goes, what stays, and what is never touched.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    config::DatabaseConfig,
    maintenance::retention::{Retention, Thinned},
    store::{Store as _, postgres::PostgresStore},
};
use sqlx::PgPool;
use time::macros::datetime;
use tokio::time::Instant;

use super::views::{exec, number};
use crate::{cli::Shell, support};

/// 20 March 2026, in the middle of the day.
fn now() -> Timestamp {
    Timestamp::from_utc(datetime!(2026-03-20 12:34:56 UTC))
}

/// 30 days of a clan (every 6 hours) and of 40 players (every 8 hours), a war, and a clan that was refreshed once.
const HISTORY: &str = "
    INSERT INTO clan_snapshots (ts, clan_tag)
        SELECT timestamp '2026-02-19 01:00' + n * interval '6 hours', 'AAA' FROM generate_series(0, 119) AS n;
    INSERT INTO player_snapshots (ts, player_tag)
        SELECT timestamp '2026-02-19 02:00' + n * interval '8 hours', 'P' || p
        FROM generate_series(0, 89) AS n, generate_series(1, 40) AS p;
    INSERT INTO war_snapshots (ts, clan_tag) VALUES ('2026-02-01 01:00', 'AAA'), ('2026-02-01 05:00', 'AAA');
    INSERT INTO clan_snapshots (ts, clan_tag) VALUES ('2025-06-01 10:00', 'OLD'), ('2025-06-01 11:00', 'OLD');
    INSERT INTO clan_snapshots (ts, clan_tag) VALUES (NULL, 'AAA'), ('2025-06-01 09:00', NULL);
    INSERT INTO refresh_worker.refresh_state (kind, tag, snapshot_id)
        SELECT 'clan', 'AAA', id FROM clan_snapshots WHERE clan_tag = 'AAA' AND ts = '2026-02-20 01:00';
";

async fn bed() -> (String, PgPool) {
    let url = support::postgres::fresh().await;
    let config =
        DatabaseConfig { url: url.as_str().into(), max_connections: 4, statement_cache: 100, auto_migrate: true };
    let store = PostgresStore::connect(&config).unwrap();
    store.migrate().await.unwrap();
    exec(&store.pool(), HISTORY).await;
    (url, store.pool())
}

async fn thin(pool: &PgPool, days: u32, time: Duration) -> Thinned {
    Retention::new(pool.clone(), days).thin(now(), Instant::now() + time).await
}

const TIME: Duration = Duration::from_secs(60);

#[tokio::test]
async fn thinning_keeps_newest_snapshot_of_old_days() {
    let (_, pool) = bed().await;
    let before = number(&pool, "SELECT count(*) FROM clan_snapshots WHERE ts >= '2026-03-10'").await;
    let outlook = Retention::new(pool.clone(), 10).outlook(now()).await.unwrap();
    let done = thin(&pool, 10, TIME).await;
    let would_go: u64 = outlook.iter().map(|table| table.would_go).sum();
    assert_eq!((done.deleted, done.more, done.failure), (would_go, false, None));

    // 19 days of 40 players keep 1 of 3; the days from 10 March on keep all.
    assert_eq!(number(&pool, "SELECT count(*) FROM player_snapshots WHERE ts < '2026-03-10'").await, 19 * 40);
    assert_eq!(number(&pool, "SELECT count(*) FROM clan_snapshots WHERE ts >= '2026-03-10'").await, before);
    let newest = "SELECT count(*) FROM player_snapshots WHERE ts < '2026-03-10' AND extract(hour FROM ts) <> 18";
    assert_eq!(number(&pool, newest).await, 0, "the newest of each day is at 18:00");
    // The row that our state names, and the newest row of every object.
    assert_eq!(number(&pool, "SELECT count(*) FROM clan_snapshots WHERE ts = '2026-02-20 01:00'").await, 1);
    assert_eq!(
        number(&pool, "SELECT count(*) FROM clan_snapshots WHERE clan_tag = 'OLD' AND ts = '2025-06-01 11:00'").await,
        1
    );
    assert_eq!(number(&pool, "SELECT count(*) FROM war_snapshots").await, 1);
    assert_eq!(number(&pool, "SELECT count(*) FROM clan_snapshots WHERE ts IS NULL OR clan_tag IS NULL").await, 2);

    assert_eq!(thin(&pool, 10, TIME).await, Thinned::default(), "a second time finds nothing");
}

#[tokio::test]
async fn thinning_continues_where_it_ended() {
    let (_, pool) = bed().await;
    let nothing = thin(&pool, 10, Duration::ZERO).await;
    assert_eq!((nothing.deleted, nothing.more), (0, true));
    // A batch that is being done by another run is left to it.
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(1919316596)").execute(&mut *other).await.unwrap();
    let left = thin(&pool, 10, TIME).await;
    assert_eq!((left.deleted, left.more), (0, true));
    other.rollback().await.unwrap();
    let done = thin(&pool, 10, TIME).await;
    assert!(done.deleted > 1500 && !done.more, "{done:?}");
    assert_eq!(
        number(&pool, "SELECT count(*) FROM refresh_worker.retention_progress WHERE thinned_until = '2026-03-10'")
            .await,
        3
    );
    // Days that have become old meanwhile.
    let more = Retention::new(pool.clone(), 5).thin(now(), Instant::now() + TIME).await;
    assert_eq!(more.deleted, 5 * 40 * 2 + 5 * 3);
}

#[tokio::test]
async fn batch_cut_off_by_deadline_is_not_failure() {
    let (_, pool) = bed().await;
    // Somebody else holds the table for longer than the time that is left.
    let mut other = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE clan_snapshots IN ACCESS EXCLUSIVE MODE").execute(&mut *other).await.unwrap();
    let left = thin(&pool, 10, Duration::from_secs(1)).await;
    assert_eq!(left, Thinned { more: true, ..Thinned::default() });
    other.rollback().await.unwrap();
    assert!(!thin(&pool, 10, TIME).await.more);
}

#[tokio::test]
async fn retention_command_counts_before_deleting() {
    let (url, pool) = bed().await;
    let shell = Shell::new().with("DATABASE_URL", &url);
    shell.run(&["retention", "--dry-run"]).await.badly(2);
    let all = "SELECT (SELECT count(*) FROM clan_snapshots) + (SELECT count(*) FROM player_snapshots)";
    let before = number(&pool, all).await;
    let shown = shell.run(&["retention", "--days", "1", "--dry-run"]).await.well();
    assert!(shown.contains("player_snapshots") && shown.contains("would be deleted"), "{shown}");
    let asked = shell.run(&["retention", "--days", "1"]).await.badly(2);
    assert!(asked.contains("add --yes"), "{asked}");
    assert_eq!(number(&pool, all).await, before);
    let done = shell.with("SNAPSHOT_RETENTION_DAYS", "1").run(&["retention", "--yes"]).await.well();
    assert!(done.starts_with("deleted ") && number(&pool, all).await < before, "{done}");
}
