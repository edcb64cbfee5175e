//! One batch: a transaction, and in it a savepoint per record, so that a record SQLite refuses hurts only itself.

use std::cmp::Reverse;

use sqlx::{Acquire, Sqlite, SqlitePool, Transaction};

use super::{
    hurts_only_the_record,
    memberships::RecentMoves,
    records::{self, Record},
};
use crate::{
    clock::Timestamp,
    model::{Fetched, Kind, Reason},
    store::{Committed, rows},
};

/// Stores the newest answer for each object of the batch; older ones in the same batch are superseded.
pub(super) async fn commit(
    pool: &SqlitePool,
    now: Timestamp,
    batch: &[Fetched],
) -> Result<Vec<Committed>, sqlx::Error> {
    let mut committed = vec![Committed::Superseded; batch.len()];
    // Immediate: a transaction that reads first and is refused the write later would have to start over.
    let mut transaction = pool.begin_with("begin immediate").await?;
    let mut moves = RecentMoves::default();
    let places = in_order(batch);
    for (step, &place) in places.iter().enumerate() {
        let is_first_clan =
            kind_of(batch, place) == Kind::Clan && (step == 0 || kind_of(batch, places[step - 1]) != Kind::Clan);
        if is_first_clan {
            // Read once before any clan is stored: a player may leave one clan of the batch for another.
            let oldest_copy = batch.iter().map(|fetched| fetched.copied_at).min().unwrap_or_default();
            moves = RecentMoves::since(oldest_copy, &mut transaction).await?;
        }
        let record = Record::new(&batch[place], now, &moves);
        committed[place] = store_one(&mut transaction, &record).await?;
    }
    transaction.commit().await?;
    Ok(committed)
}

fn kind_of(batch: &[Fetched], place: usize) -> Kind {
    batch[place].object.kind
}

/// Players first, so that a clan's copy meets what their own documents say; the clan with the newest copy before the
/// others, so that it wins a player whom two of them name; wars last, on the rows that are then the newest.
fn in_order(batch: &[Fetched]) -> Vec<usize> {
    let mut places = rows::newest_answers(batch);
    places.sort_by_key(|&place| match batch[place].object.kind {
        Kind::Player => (0, Reverse(Timestamp::EPOCH)),
        Kind::Clan => (1, Reverse(batch[place].copied_at)),
        Kind::War => (2, Reverse(Timestamp::EPOCH)),
    });
    places
}

async fn store_one(
    transaction: &mut Transaction<'static, Sqlite>,
    record: &Record<'_>,
) -> Result<Committed, sqlx::Error> {
    let mut savepoint = transaction.begin().await?;
    match records::store(&mut savepoint, record).await {
        Ok(committed) => {
            savepoint.commit().await?;
            Ok(committed)
        }
        Err(error) if hurts_only_the_record(&error) => {
            savepoint.rollback().await?;
            Ok(Committed::Poison(Reason::new("refused_by_database", error.to_string())))
        }
        Err(error) => Err(error),
    }
}
