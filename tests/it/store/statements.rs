//! The number of statements of a commit, counted from the driver's log events.

use refresh_worker::store::{RELAXED_TIMEOUT, Store, Teaching};

use super::{
    Bed, beds,
    documents::{at, clan, nth_tag, player, war},
    event_count::EventCount,
    runs::run,
    sql_time,
};
use crate::support::pooler::PoolerWitness;

/// The begin of a transaction (BEGIN and its settings) is one message of two statements, which the driver does not
/// log.
const UNLOGGED: usize = 2;

#[tokio::test]
async fn commit_has_at_most_fourteen_statements() {
    let bed = beds::postgres_of_others().await;
    let statements = EventCount::of("sqlx::query");
    let players = |from: usize, to: usize| (from..to).map(|n| player(nth_tag(n).as_str()).of("8GG"));

    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    let small = statements.take() + UNLOGGED;
    // Everything at once, with ids to be stepped: other programs have gone on.
    bed.exec(&format!(
        "INSERT INTO clan_snapshots (id, ts, clan_tag) SELECT max(id) + 5, {}, 'LLL1' FROM clan_snapshots",
        sql_time(at(1))
    ))
    .await;
    statements.take();
    let mut batch = vec![clan("8GG").with(players(0, 50)).fetched(at(300)), war("8GG", &[("2PP", 1)]).fetched(at(300))];
    batch.extend(players(20, 82).map(|player| player.fetched(at(300))));
    assert_eq!(batch.len(), 64);
    bed.commit(&batch).await;
    let large = statements.take() + UNLOGGED;
    // The same again: nothing new, no ids taken.
    let again: Vec<_> = batch
        .iter()
        .map(|fetched| refresh_worker::model::Fetched { began: at(600), copied_at: at(600), ..fetched.clone() })
        .collect();
    bed.commit(&again).await;
    let unchanged = statements.take() + UNLOGGED;

    println!("statements per commit: small {small}, of everything with ids stepped {large}, unchanged {unchanged}");
    assert!(small <= 14 && large <= 14 && unchanged <= 12, "{small} {large} {unchanged}");
    assert!(large >= 12, "the counter counts: {large}");
}

#[tokio::test]
async fn lessons_add_two_statements_to_a_commit() {
    let off = beds::postgres().await;
    let on = off.with_teaching(Teaching { recorded_percent: 100, ..Teaching::default() });
    let statements = EventCount::of("sqlx::query");
    let batch = |members: usize, began: i64| {
        let members = (0..members).map(|n| player(nth_tag(n).as_str()).donations(i32::try_from(began).unwrap()));
        let mut batch = vec![clan("8GG").with(members).fetched(at(began))];
        batch.extend((100..140).map(|n| player(nth_tag(n).as_str()).fetched(at(began))));
        batch
    };
    for members in [2, 50] {
        let mut counts = Vec::new();
        // With and without, twice each: the first of a size stores what is new.
        for round in 0..4 {
            let began = 1000 * i64::try_from(members).unwrap() + 300 * round;
            statements.take();
            if round % 2 == 0 {
                off.commit(&batch(members, began)).await;
            } else {
                on.commit(at(began + 600), &batch(members, began)).await.unwrap();
            }
            counts.push(statements.take());
        }
        assert_eq!(counts[3], counts[2] + 2, "{members} members: {counts:?}");
    }
}

#[tokio::test]
async fn freshness_is_one_statement() {
    let bed = beds::postgres().await;
    bed.commit_one(clan("8GG").fetched(at(0))).await;
    let statements = EventCount::of("sqlx::query");
    let objects: Vec<_> = (0..100).map(|n| refresh_worker::model::ObjectId::player(nth_tag(n))).collect();
    // The first may go by unheard: another test's thread may just have made its place known.
    bed.store().freshness(&objects, RELAXED_TIMEOUT).await.unwrap();
    statements.take();
    bed.store().freshness(&objects, RELAXED_TIMEOUT).await.unwrap();
    assert_eq!(statements.take(), 1);
}

#[tokio::test]
async fn unkept_statements_run_in_transactions() {
    let url = crate::support::postgres::fresh().await;
    let (witness, url) = PoolerWitness::in_front_of(&url).await;
    let config = refresh_worker::config::DatabaseConfig { statement_cache: 0, ..beds::config(&url) };
    let store =
        refresh_worker::store::postgres::PostgresStore::connect(&config).unwrap().with_details(beds::EVERYTHING);
    store.ping().await.unwrap();
    assert_eq!(store.migrate().await.unwrap().len(), 6);
    let batch = [clan("8GG").with([player("2PP")]).fetched(at(0)), war("8GG", &[("2PP", 1)]).fetched(at(0))];
    let commit = store.commit(at(1), &batch).await.unwrap();
    assert_eq!(commit.committed.len(), 2);
    assert_eq!(store.freshness(&[batch[0].object.clone()], RELAXED_TIMEOUT).await.unwrap().len(), 1);
    assert_eq!(store.outbox(at(9)).await.unwrap().len(), 1);
    store.delete_from_outbox(&[commit.outbox[0].id]).await.unwrap();
    assert_eq!(store.outbox(at(9)).await.unwrap(), []);
    store.record_run(&run("one", at(0))).await.unwrap();
    assert_eq!(store.last_run().await.unwrap().unwrap().run, "one");
    assert_eq!(store.check_rights().await, []);
    let (inside, outside) = witness.take();
    assert!(inside > 20, "the witness sees what is prepared: {inside}");
    assert!(outside.is_empty(), "{outside:#?}");
}
