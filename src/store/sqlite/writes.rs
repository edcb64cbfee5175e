//! The writes of a commit, one statement for each row.

use sqlx::SqliteConnection;

use super::values::{json, table_text, to_text};
use crate::{
    clock::Timestamp,
    model::{ClanDocument, Fetched, Kind, OutboxEntry, Tag, WarDocument},
    store::{
        plan::{
            memberships::Changes,
            players::{Claim, PlayerWrite, SnapshotWrite},
            snapshots::Place,
            times::utc,
        },
        rows::{self, NAME_WIDTH},
    },
};

pub(super) async fn clans(
    db: &mut SqliteConnection,
    clans: &[(&Fetched, &ClanDocument, Place)],
) -> Result<(), sqlx::Error> {
    for (fetched, clan, place) in clans {
        let tag = &fetched.object.tag;
        let link = rows::deep_link(Kind::Clan, tag).unwrap_or_default();
        let document = rows::with_deep_link(&clan.json, &link);
        sqlx::query(include_str!("../sql/sqlite/clan_upsert.sql"))
            .bind(tag.as_str())
            .bind(&*document)
            .bind(table_text(utc(fetched.began)))
            .bind(&link)
            .execute(&mut *db)
            .await?;
        let statement = match place {
            Place::Insert { .. } => include_str!("../sql/sqlite/clan_snapshot_insert.sql"),
            Place::Move { .. } => include_str!("../sql/sqlite/clan_snapshot_move.sql"),
        };
        let id = sqlx::query_scalar(statement)
            .bind(table_text(place.at()))
            .bind(tag.as_str())
            .bind(&*rows::cut(&clan.name, NAME_WIDTH))
            .bind(clan.member_count)
            .bind(clan.level)
            .bind(clan.war_wins)
            .bind(clan.war_losses)
            .bind(document_for(*place, &document))
            .bind(place.row())
            .fetch_one(&mut *db)
            .await?;
        remember_row(db, Kind::Clan, tag, id).await?;
    }
    Ok(())
}

pub(super) async fn wars(
    db: &mut SqliteConnection,
    wars: &[(&Fetched, &WarDocument, Place)],
) -> Result<(), sqlx::Error> {
    for (fetched, war, place) in wars {
        let tag = &fetched.object.tag;
        let statement = match place {
            Place::Insert { .. } => include_str!("../sql/sqlite/war_snapshot_insert.sql"),
            Place::Move { .. } => include_str!("../sql/sqlite/war_snapshot_move.sql"),
        };
        let id = sqlx::query_scalar(statement)
            .bind(table_text(place.at()))
            .bind(tag.as_str())
            .bind(document_for(*place, &war.json))
            .bind(place.row())
            .fetch_one(&mut *db)
            .await?;
        remember_row(db, Kind::War, tag, id).await?;
    }
    Ok(())
}

/// The document to write. A row that only moves keeps its document, which is the same.
fn document_for(place: Place, document: &str) -> Option<&str> {
    (matches!(place, Place::Insert { .. }) || place.replaces()).then_some(document)
}

pub(super) async fn players(db: &mut SqliteConnection, players: &[PlayerWrite<'_>]) -> Result<(), sqlx::Error> {
    for write in players {
        upsert_player(db, write).await?;
        match write.snapshot {
            SnapshotWrite::Document(place) => {
                let document = write.document.as_deref().and_then(|document| document_for(place, document));
                let id = snapshot(db, write, document).await?;
                // The next unchanged response moves this row.
                remember_row(db, Kind::Player, write.tag, id).await?;
            }
            SnapshotWrite::Amend { .. } => {
                snapshot(db, write, None).await?;
            }
            SnapshotWrite::Leave { .. } => {}
        }
    }
    Ok(())
}

async fn upsert_player(db: &mut SqliteConnection, write: &PlayerWrite<'_>) -> Result<(), sqlx::Error> {
    let statement = match write.claim {
        Claim::Document => include_str!("../sql/sqlite/player_upsert.sql"),
        Claim::Member => include_str!("../sql/sqlite/player_upsert_member.sql"),
        // `players` has no column of a war.
        Claim::War => return Ok(()),
    };
    sqlx::query(statement)
        .bind(write.tag.as_str())
        .bind(write.columns.name.as_deref())
        .bind(write.columns.town_hall)
        .bind(write.columns.role.as_deref())
        .bind(&*write.columns.clan_tag)
        .bind(table_text(write.updated_at))
        .bind(write.document.as_deref())
        .bind(rows::deep_link(Kind::Player, write.tag))
        .bind(write.snapshot.row())
        .execute(db)
        .await?;
    Ok(())
}

async fn snapshot(
    db: &mut SqliteConnection,
    write: &PlayerWrite<'_>,
    document: Option<&str>,
) -> Result<i64, sqlx::Error> {
    let row = write.snapshot.row();
    let statement = match row {
        None => include_str!("../sql/sqlite/player_snapshot_insert.sql"),
        Some(_) => include_str!("../sql/sqlite/player_snapshot_rewrite.sql"),
    };
    sqlx::query_scalar(statement)
        .bind(write.snapshot.at().map(table_text))
        .bind(write.tag.as_str())
        .bind(&*write.columns.clan_tag)
        .bind(write.columns.name.as_deref())
        .bind(write.columns.role.as_deref())
        .bind(write.columns.town_hall)
        .bind(write.columns.trophies)
        .bind(write.columns.donations)
        .bind(write.columns.donations_received)
        .bind(write.attacks)
        .bind(write.last_seen.map(table_text))
        .bind(document)
        .bind(row)
        .fetch_one(db)
        .await
}

/// Records in the refresh state which snapshot row the worker wrote for this object.
async fn remember_row(db: &mut SqliteConnection, kind: Kind, tag: &Tag, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/sqlite/state_snapshot.sql"))
        .bind(kind.as_str())
        .bind(tag.as_str())
        .bind(id)
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn memberships(db: &mut SqliteConnection, changes: &Changes<'_>) -> Result<(), sqlx::Error> {
    for (id, left_at) in &changes.closed {
        sqlx::query(include_str!("../sql/sqlite/membership_close.sql"))
            .bind(id)
            .bind(table_text(*left_at))
            .execute(&mut *db)
            .await?;
    }
    for (player, clan, joined_at) in &changes.opened {
        sqlx::query(include_str!("../sql/sqlite/membership_open.sql"))
            .bind(player.as_str())
            .bind(clan.as_str())
            .bind(table_text(*joined_at))
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Adds an entry to the outbox.
pub(super) async fn outbox_entry(
    db: &mut SqliteConnection,
    entry: &OutboxEntry,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into refresh_worker_outbox (id, stored_at, payload) values (?1, ?2, ?3)")
        .bind(entry.id)
        .bind(to_text(now))
        .bind(rows::payload(entry))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn delete_from_outbox(db: &mut SqliteConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query("delete from refresh_worker_outbox where id in (select value from json_each(?1))")
        .bind(json(ids))
        .execute(db)
        .await?;
    Ok(())
}
