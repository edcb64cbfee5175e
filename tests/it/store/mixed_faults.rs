//! Faults of the database that meet, and faults of others that look like ours.

use std::time::{Duration, Instant};

use refresh_worker::{
    config::DatabaseConfig,
    model::Fetched,
    store::{Committed, Store, postgres::PostgresStore},
    worker::{public, report::StopReason},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{
    Bed,
    beds::{self, PostgresBed},
    documents::{at, nth_tag, player, war},
};
use crate::support;

fn players(count: usize, began: i64) -> Vec<Fetched> {
    (0..count).map(|n| player(nth_tag(n).as_str()).trophies(i32::try_from(began).unwrap()).fetched(at(began))).collect()
}

async fn session(url: &str, statements: &str) -> PgConnection {
    let mut session = PgConnection::connect(url).await.unwrap();
    session.execute(AssertSqlSafe(statements.to_owned())).await.unwrap();
    session
}

fn stored(committed: &[Committed]) -> usize {
    committed.iter().filter(|one| **one == Committed::Stored).count()
}

/// The locked members of a clan come first.
#[tokio::test]
async fn locked_neighbours_do_not_stop_others() {
    for first in [0, 56, 24] {
        let url = support::postgres::fresh().await;
        let bed = PostgresBed::on(&url).await;
        bed.commit(&players(64, 0)).await;
        let mut tags: Vec<String> = (0..64).map(|n| format!("'{}'", nth_tag(n).as_str())).collect();
        tags.sort();
        let tags = &tags[first..first + 8];
        let _session =
            session(&url, &format!("BEGIN; SELECT FROM players WHERE tag IN ({}) FOR UPDATE", tags.join(","))).await;
        let committed = bed.store().commit(at(900), &players(64, 300)).await;
        let committed = committed.unwrap_or_else(|error| panic!("from {first}, 56 of 64 can be stored: {error}"));
        assert_eq!(stored(&committed.committed), 56);
    }
}

fn refusing(table: &str, tag: &str, code: &str) -> String {
    format!(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = \
         '{code}'; END$$; CREATE TRIGGER no BEFORE INSERT ON {table} FOR EACH ROW WHEN ({tag}) EXECUTE FUNCTION no()"
    )
}

#[tokio::test]
async fn foreign_error_code_affects_only_its_record() {
    let mut bad = Vec::new();
    for code in ["CC001", "42501", "55000", "0A000", "27000", "38000", "F0001"] {
        let bed = beds::postgres().await;
        bed.exec(&refusing("player_snapshots", &format!("NEW.player_tag = '{}'", nth_tag(1).as_str()), code)).await;
        match bed.store().commit(at(600), &players(3, 0)).await {
            Ok(commit) if stored(&commit.committed) == 2 => {}
            other => bad.push(format!("{code}: {:?}", other.map(|commit| commit.committed).map_err(|e| e.to_string()))),
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// A rule of the table gives a wrong text as its reason: the record is as innocent as with any other code.
#[tokio::test]
async fn casting_rule_does_not_poison_all() {
    for code in ["22P02", "22032"] {
        let bed = beds::postgres().await;
        bed.exec(&refusing("player_snapshots", "TRUE", code)).await;
        for n in 0..4 {
            let committed = bed.store().commit(at(600), &[players(9, 0).remove(n)]).await.unwrap().committed;
            assert!(matches!(committed[0], Committed::Held(_)), "{code}: {committed:?}");
        }
    }
}

#[tokio::test]
async fn exhausted_war_sequence_does_not_stop_players() {
    let bed = beds::postgres().await;
    bed.exec("ALTER SEQUENCE war_snapshots_id_seq MAXVALUE 3; SELECT setval('war_snapshots_id_seq', 3)").await;
    let mut batch = players(3, 0);
    batch.push(war("8GG", &[("2PP", 1)]).fetched(at(0)));
    let commit = bed.store().commit(at(600), &batch).await;
    let commit = commit.unwrap_or_else(|error| panic!("three players can be stored: {error}"));
    assert_eq!(stored(&commit.committed[..3]), 3);
}

/// A run that doubts the store works on one request at a time.
#[tokio::test]
async fn refused_war_does_not_slow_players() {
    let bed = beds::postgres().await;
    bed.exec(&refusing("war_snapshots", "NEW.clan_tag = '8GG'", "P0001")).await;
    let refused = bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(0))).await;
    assert!(matches!(refused, Committed::Held(_)), "{refused:?}");
    for began in [0, 300, 600] {
        assert_eq!(stored(&bed.commit(&players(64, began)).await), 64);
    }
    assert!(
        !bed.store().is_doubtful(),
        "192 players were stored since, and every request still waits for the one before"
    );
}

/// The maintenance after a run uses the same pool.
#[tokio::test]
async fn busy_pool_is_not_an_outage() {
    let url = support::postgres::fresh().await;
    let store = PostgresStore::connect(&DatabaseConfig { max_connections: 1, ..beds::config(&url) }).unwrap();
    store.migrate().await.unwrap();
    let busy = store.pool().acquire().await.unwrap();
    let began = Instant::now();
    let (text, ()) = tokio::join!(store.ping(), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(busy);
    });
    assert!(text.is_ok(), "after {:?}: {}", began.elapsed(), text.unwrap_err());
}

/// Another run of ours waits for a view, or a task of ours for any other table.
#[tokio::test]
async fn blocker_of_another_run_is_not_named() {
    let url = support::postgres::fresh().await;
    let bed = PostgresBed::on(&url).await;
    bed.commit(&players(8, 0)).await;
    bed.exec("CREATE TABLE reports (n int)").await;
    let tag = nth_tag(3);
    let _row = session(&url, &format!("BEGIN; SELECT FROM players WHERE tag = '{}' FOR UPDATE", tag.as_str())).await;
    let _reader = session(&url, "BEGIN; SELECT FROM reports").await;
    let mut other_run = session(&url, "SET application_name = 'refresh-worker'; BEGIN").await;
    let waits =
        tokio::spawn(async move { other_run.execute("LOCK TABLE reports IN ACCESS EXCLUSIVE MODE").await.map(drop) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let commit = bed.store().commit(at(900), &players(8, 300)).await;
    waits.abort();
    let commit = commit.unwrap_or_else(|error| panic!("7 of 8 can be stored: {error}"));
    assert_eq!(stored(&commit.committed), 7);
}

#[test]
fn host_name_does_not_affect_diagnosis() {
    for (host, text) in [
        ("pg-standby-1:5432/coc", "Connection refused (os error 111)"),
        ("readonly-proxy:6432/coc", "Connection refused (os error 111)"),
        ("db.certificates.example:5432/coc", "Connection refused (os error 111)"),
    ] {
        let text =
            public::failure(StopReason::DatabaseDown, Some(&format!("cannot reach the database at {host}: {text}")));
        assert_eq!(text, "the database cannot be used: the connection is refused", "{host}");
    }
}

#[tokio::test]
async fn retention_thins_tables_whose_types_others_changed() {
    let url = support::postgres::fresh_with_changed_types().await;
    let bed = PostgresBed::on(&url).await;
    bed.exec(
        "INSERT INTO player_snapshots (id, ts, player_tag, clan_tag, name, role, town_hall, trophies, donations, \
         donations_received, war_attacks_used, last_seen, data) SELECT 1000 + n, '2001-01-01 05:00:00Z'::timestamptz + n * interval '1 minute', \
         '2PP', '', 'n', 'member', 1, n, 0, 0, 0, '2001-01-01 05:00:00Z', '{}' FROM generate_series(1, 5) AS n",
    )
    .await;
    let retention =
        refresh_worker::maintenance::retention::Retention::new(sqlx::PgPool::connect(&url).await.unwrap(), 30);
    let thinned = retention.thin(at(0), tokio::time::Instant::now() + Duration::from_secs(20)).await;
    assert_eq!((thinned.deleted, &thinned.failure), (4, &None));
}

/// Another program used the largest number as an id. The sequences are shared.
#[tokio::test]
async fn largest_id_does_not_exhaust_sequence() {
    let mut bad = Vec::new();
    for (id, narrow, checks) in [
        (i64::MAX, false, false),
        (i64::MAX - 900, false, false),
        (i64::from(i32::MAX), true, false),
        (i64::MAX - 900, false, true),
        (i64::from(i32::MAX), true, true),
    ] {
        let bed = beds::postgres().await;
        if narrow {
            bed.exec(
                "ALTER TABLE player_snapshots ALTER COLUMN id TYPE integer; ALTER SEQUENCE player_snapshots_id_seq AS integer",
            )
            .await;
        }
        bed.commit(&players(3, 0)).await;
        bed.exec(&format!(
            "INSERT INTO player_snapshots (id, ts, player_tag, clan_tag, name, role, data) VALUES ({id}, '2001-01-01', '2PP', '', 'n', '', '{{}}')"
        ))
        .await;
        let what = format!("id {id}, {}", if checks { "check only" } else { "two commits" });
        if checks {
            let problems = bed.store().check_rights().await;
            bad.extend(problems.iter().map(|problem| format!("{what}: {}", problem.what)));
        } else {
            for began in [600, 1200] {
                if let Err(error) = bed.store().commit(at(began + 600), &players(9, began)).await {
                    bad.push(format!("{what}: {error}"));
                }
            }
        }
        let last =
            bed.row("SELECT pg_sequence_last_value('player_snapshots_id_seq') AS n").await["n"].as_i64().unwrap();
        if last > 100_000 {
            bad.push(format!("{what}: the sequence of all writers was set to {last}"));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
