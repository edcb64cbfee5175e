//! Ids beside programs that give `max(id) + 1` and never touch the sequence.

use refresh_worker::{
    model::Fetched,
    store::{Committed, Store},
};
use sqlx::PgPool;

use super::{
    Bed,
    beds::{self, PostgresBed},
    documents::{at, clan, nth_tag, player, war},
};

/// One row as the other programs insert it; `false` when somebody else was quicker.
async fn take_next_id(pool: &PgPool, number: i64) -> bool {
    sqlx::query(
        "INSERT INTO clan_snapshots (id, ts, clan_tag) \
         SELECT coalesce(max(id), 0) + 1, timestamp '2020-01-01' + $1 * interval '1 s', 'LLL' FROM clan_snapshots",
    )
    .bind(i32::try_from(number).unwrap())
    .execute(pool)
    .await
    .is_ok()
}

fn batch(began: i64) -> Vec<Fetched> {
    let level = i32::try_from(began % 1000).unwrap();
    let mut batch: Vec<Fetched> = (0..5)
        .map(|n| clan(nth_tag(n).as_str()).level(level).with([player(nth_tag(100 + n).as_str())]).fetched(at(began)))
        .collect();
    batch.push(war("8GG", &[("2PP", level)]).fetched(at(began)));
    batch
}

#[tokio::test]
async fn ids_that_others_took_before_our_batch_are_stepped_over() {
    let bed = beds::postgres_of_others().await;
    for began in [0, 300] {
        assert_eq!(bed.commit(&batch(began)).await, vec![Committed::Stored; 6]);
        assert!(take_next_id(&bed.around, began).await);
        assert!(take_next_id(&bed.around, began + 1).await);
    }
}

#[tokio::test]
async fn ids_that_others_take_during_our_batches_cost_a_retry_and_no_record() {
    let bed = beds::postgres_of_others().await;
    let others = async {
        let mut taken = 0;
        for number in 0..400 {
            taken += usize::from(take_next_id(&bed.around, number).await);
        }
        taken
    };
    let ours = async {
        for round in 0..25 {
            assert_eq!(bed.commit(&batch(round * 10)).await, vec![Committed::Stored; 6], "round {round}");
        }
    };
    let (taken, ()) = tokio::join!(others, ours);
    assert!(taken > 0);
    assert_eq!(bed.count("clan_snapshots WHERE clan_tag LIKE 'P%Y'").await, 125);
}

#[tokio::test]
async fn a_sequence_never_goes_back() {
    let bed = beds::postgres_of_others().await;
    bed.exec("SELECT setval('clan_snapshots_id_seq', 50000)").await;
    bed.commit(&batch(0)).await;
    assert_eq!(bed.count("clan_snapshots WHERE id > 50000").await, 5);
    assert_eq!(bed.row("SELECT last_value AS n FROM clan_snapshots_id_seq").await["n"], 50005);
}

#[tokio::test]
async fn a_sequence_by_another_name_is_stepped_too() {
    let bed = beds::postgres_of_others().await;
    bed.exec(
        "CREATE SEQUENCE ids_of_clans; \
         ALTER TABLE clan_snapshots ALTER COLUMN id SET DEFAULT nextval('ids_of_clans'); \
         DROP SEQUENCE clan_snapshots_id_seq; \
         ALTER SEQUENCE clan_memberships_id_seq RENAME TO stays",
    )
    .await;
    assert_stored(&bed).await;
}

#[tokio::test]
async fn an_identity_column_is_stepped_too() {
    let bed = beds::postgres_of_others().await;
    for table in ["clan_snapshots", "clan_memberships"] {
        bed.exec(&format!(
            "ALTER TABLE {table} ALTER COLUMN id DROP DEFAULT; DROP SEQUENCE {table}_id_seq; \
             ALTER TABLE {table} ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY"
        ))
        .await;
    }
    assert_stored(&bed).await;
}

async fn assert_stored(bed: &PostgresBed) {
    assert_eq!(bed.commit(&batch(0)).await, vec![Committed::Stored; 6]);
    assert_eq!(bed.count("clan_snapshots WHERE id > 200").await, 5);
    assert_eq!(bed.store().commit(at(700), &batch(600)).await.unwrap().committed, vec![Committed::Stored; 6]);
}
