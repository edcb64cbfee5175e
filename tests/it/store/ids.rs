//! Ids beside programs that give `max(id) + 1` and never touch the sequence.

use refresh_worker::{
    model::Fetched,
    store::{Committed, Store},
};
use sqlx::{Connection as _, PgConnection, PgPool};

use super::{
    Bed,
    beds::{self, PostgresBed},
    documents::{at, clan, nth_tag, player, war},
};
use crate::support;

/// Inserts a row as other programs do. Returns `false` when another program was quicker.
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

/// Each batch is stored although other programs took the next ids before it, and they can take ids after it.
#[tokio::test]
async fn ids_taken_before_batch_are_skipped() {
    let bed = beds::postgres_of_others().await;
    for began in [0, 300] {
        assert_eq!(bed.commit(&batch(began)).await, vec![Committed::Stored; 6]);
        assert!(take_next_id(&bed.around, began).await);
        assert!(take_next_id(&bed.around, began + 1).await);
    }
}

#[tokio::test]
async fn ids_taken_during_batch_cost_only_retry() {
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

/// As an ORM inserts: it looks for the highest id and takes the next, in one short transaction. Returns how often somebody
/// else had taken it.
async fn insert_as_an_orm(url: &str, rows: i32) -> (i32, i32) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let (mut failed, mut done) = (0, 0);
    while done + failed < rows {
        let mut transaction = connection.begin().await.unwrap();
        let highest: i64 = sqlx::query_scalar("SELECT coalesce(max(id), 0)::bigint FROM clan_snapshots")
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        let inserted = sqlx::query(
            "INSERT INTO clan_snapshots (id, ts, clan_tag) VALUES ($1, timestamp '2020-01-01' + $2 * interval '1 s', 'LLL')",
        )
        .bind(highest + 1)
        .bind(done + failed)
        .execute(&mut *transaction)
        .await;
        if inserted.is_ok() {
            transaction.commit().await.unwrap();
            done += 1;
        } else {
            transaction.rollback().await.unwrap();
            failed += 1;
        }
    }
    (done, failed)
}

async fn assert_no_insert_of_others_fails(url: &str, change: Option<&str>) {
    let bed = PostgresBed::on(url).await;
    if let Some(change) = change {
        bed.exec(change).await;
    }
    let others = insert_as_an_orm(url, 1000);
    let ours = async {
        let mut round = 0;
        loop {
            round += 1;
            assert_eq!(bed.commit(&batch(round * 10)).await, vec![Committed::Stored; 6], "round {round}");
        }
    };
    let (done, failed) = tokio::select! {
        theirs = others => theirs,
        () = ours => unreachable!("commits go on"),
    };
    assert_eq!((done, failed), (1000, 0));
    assert!(bed.count("clan_snapshots WHERE clan_tag <> 'LLL'").await > 50);
}

#[tokio::test]
async fn max_plus_one_inserts_never_fail() {
    assert_no_insert_of_others_fails(&support::postgres::fresh().await, None).await;
}

#[tokio::test]
async fn max_plus_one_never_fails_with_short_ids() {
    let change =
        "ALTER TABLE clan_snapshots ALTER COLUMN id TYPE integer; ALTER SEQUENCE clan_snapshots_id_seq AS integer";
    assert_no_insert_of_others_fails(&support::postgres::fresh().await, Some(change)).await;
}

#[tokio::test]
async fn short_ids_skipped_only_at_first() {
    let bed = beds::postgres().await;
    bed.exec(
        "ALTER TABLE clan_snapshots ALTER COLUMN id TYPE integer; ALTER SEQUENCE clan_snapshots_id_seq AS integer",
    )
    .await;
    for round in 1..=21 {
        bed.commit_one(clan("8GG").level(round).fetched(at(i64::from(round) * 10))).await;
    }
    let last = "SELECT last_value AS n FROM clan_snapshots_id_seq";
    let before = bed.row(last).await["n"].as_i64().unwrap();
    assert_eq!(before, 20 * 201 + 1, "twenty commits with ids left out, and one without");
    bed.exec("SELECT setval('clan_snapshots_id_seq', 2147483000)").await;
    bed.exec("INSERT INTO clan_snapshots (id, ts, clan_tag) VALUES (2147483100, timestamp '2020-01-01', 'LLL')").await;
    for round in 1..=3 {
        assert_eq!(
            bed.commit_one(clan("8GG").level(50 + round).fetched(at(900 + i64::from(round)))).await,
            Committed::Stored
        );
    }
    assert_eq!(bed.row(last).await["n"], 2_147_483_103_i64);
}
