//! `untold`: what commits have to tell others. They write it in their last statement.

use sqlx::{FromRow, PgConnection};

use crate::{
    clock::Timestamp,
    model::OutboxEntry,
    store::{
        MAX_OUTBOX_ENTRIES,
        plan::times::{TableTime, from_utc},
        rows,
    },
};

const NOTES_READ: &str = include_str!("../sql/postgres/notes_read.sql");

#[derive(FromRow)]
struct OutboxRow {
    id: i64,
    stored_at: TableTime,
    words: String,
}

pub(super) async fn read(
    connection: &mut PgConnection,
    before: Timestamp,
    keeps: bool,
) -> Result<Vec<OutboxEntry>, sqlx::Error> {
    let notes: Vec<OutboxRow> = sqlx::query_as(NOTES_READ)
        .persistent(keeps)
        .bind(before.to_utc())
        .bind(i64::try_from(MAX_OUTBOX_ENTRIES).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    Ok(notes.into_iter().map(|note| rows::note(note.id, from_utc(note.stored_at), &note.words)).collect())
}

pub(super) async fn forget(connection: &mut PgConnection, ids: &[i64], keeps: bool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM refresh_worker.outbox WHERE note = ANY ($1)")
        .persistent(keeps)
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}
