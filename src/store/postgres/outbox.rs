//! The outbox: entries that commits have written and nobody has deleted yet. Commits write theirs in their last statement.

use sqlx::PgConnection;

use crate::{
    clock::Timestamp,
    columns::from_row,
    model::OutboxEntry,
    store::{
        MAX_OUTBOX_ENTRIES,
        plan::times::{TableTime, from_utc},
        rows,
    },
};

const OUTBOX_READ: &str = include_str!("../sql/postgres/outbox_read.sql");

struct OutboxRow {
    id: i64,
    stored_at: TableTime,
    payload: String,
}

from_row!(postgres: OutboxRow { id, stored_at, payload });

pub(super) async fn read(
    connection: &mut PgConnection,
    before: Timestamp,
    keeps: bool,
) -> Result<Vec<OutboxEntry>, sqlx::Error> {
    let entries: Vec<OutboxRow> = sqlx::query_as(OUTBOX_READ)
        .persistent(keeps)
        .bind(before.to_utc())
        .bind(i64::try_from(MAX_OUTBOX_ENTRIES).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    Ok(entries.into_iter().map(|entry| rows::entry(entry.id, from_utc(entry.stored_at), &entry.payload)).collect())
}

pub(super) async fn delete(connection: &mut PgConnection, ids: &[i64], keeps: bool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM refresh_worker.outbox WHERE id = ANY ($1)")
        .persistent(keeps)
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}
