//! The writing statements of a commit, each over arrays.

use std::borrow::Cow;

use sqlx::PgConnection;

use super::shape::Shape;
use crate::{
    clock::Timestamp,
    model::{ClanDocument, Fetched, Kind, OutboxEntry, Tag, WarDocument},
    store::{
        plan::{
            Writes,
            memberships::Changes,
            players::PlayerWrite,
            snapshots::Place,
            times::{TableTime, utc},
        },
        rows::{self, NAME_WIDTH},
    },
};

const CLANS: &str = include_str!("../sql/postgres/clans.sql");
const PLAYERS: &str = include_str!("../sql/postgres/players.sql");
const WARS: &str = include_str!("../sql/postgres/wars.sql");
const LAST_WRITES: &str = include_str!("../sql/postgres/last_writes.sql");

/// The writes of a commit beside its documents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last<'a> {
    pub(super) memberships: &'a Changes<'a>,
    /// The outbox entry of this commit, if it has one.
    pub(super) entry: Option<&'a OutboxEntry>,
    pub(super) now: Timestamp,
    /// The ids of outbox entries that are delivered.
    pub(super) delivered: &'a [i64],
}

pub(super) async fn write(
    connection: &mut PgConnection,
    writes: &Writes<'_>,
    last: Last<'_>,
    shape: Option<&Shape>,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    write_clans(connection, &writes.clans, shape, keeps).await?;
    write_players(connection, &writes.players, shape, keeps).await?;
    write_wars(connection, &writes.wars, shape, keeps).await?;
    write_last(connection, last, shape, keeps).await
}

/// The document, made to fit if the column has limits.
fn document<'t>(shape: Option<&Shape>, json: &'t str) -> Cow<'t, str> {
    shape.map_or(Cow::Borrowed(json), |shape| shape.document(json))
}

fn name<'t>(shape: Option<&Shape>, name: &'t str) -> Cow<'t, str> {
    shape.map_or(Cow::Borrowed(name), |shape| shape.name(name))
}

fn role<'t>(shape: Option<&Shape>, role: &'t str) -> Cow<'t, str> {
    shape.map_or(Cow::Borrowed(role), |shape| shape.role(role))
}

async fn write_clans(
    connection: &mut PgConnection,
    clans: &[(&Fetched, &ClanDocument, Place)],
    shape: Option<&Shape>,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    if clans.is_empty() {
        return Ok(());
    }
    let tags = || clans.iter().map(|(fetched, ..)| &fetched.object.tag);
    let links: Vec<Option<String>> = tags().map(|tag| rows::deep_link(Kind::Clan, tag)).collect();
    let documents: Vec<_> = clans
        .iter()
        .zip(&links)
        .map(|((_, clan, _), link)| rows::with_deep_link(&clan.json, link.as_deref().unwrap_or_default()))
        .collect();
    let names: Vec<_> = clans.iter().map(|(_, clan, _)| rows::cut(&clan.name, NAME_WIDTH)).collect();
    sqlx::query(CLANS)
        .persistent(keeps)
        .bind(tags().map(Tag::as_str).collect::<Vec<_>>())
        .bind(names.iter().map(|of_clan| name(shape, of_clan)).collect::<Vec<_>>())
        .bind(clans.iter().map(|(_, clan, _)| clan.member_count).collect::<Vec<_>>())
        .bind(clans.iter().map(|(_, clan, _)| clan.level).collect::<Vec<_>>())
        .bind(clans.iter().map(|(_, clan, _)| clan.war_wins).collect::<Vec<_>>())
        .bind(clans.iter().map(|(_, clan, _)| clan.war_losses).collect::<Vec<_>>())
        .bind(documents.iter().map(|json| document(shape, json)).collect::<Vec<_>>())
        .bind(links)
        .bind(clans.iter().map(|(fetched, ..)| utc(fetched.began)).collect::<Vec<_>>())
        .bind(clans.iter().map(|(.., place)| place.at()).collect::<Vec<_>>())
        .bind(clans.iter().map(|(.., place)| place.row()).collect::<Vec<_>>())
        .bind(clans.iter().map(|(.., place)| place.replaces()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_players(
    connection: &mut PgConnection,
    players: &[PlayerWrite<'_>],
    shape: Option<&Shape>,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    if players.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&PlayerWrite<'_>) -> Option<i64>| players.iter().map(of).collect::<Vec<_>>();
    sqlx::query(PLAYERS)
        .persistent(keeps)
        .bind(players.iter().map(|write| write.tag.as_str()).collect::<Vec<_>>())
        .bind(
            players.iter().map(|write| write.columns.name.as_deref().map(|text| name(shape, text))).collect::<Vec<_>>(),
        )
        .bind(
            players.iter().map(|write| write.columns.role.as_deref().map(|text| role(shape, text))).collect::<Vec<_>>(),
        )
        .bind(column(|write| write.columns.town_hall))
        .bind(players.iter().map(|write| &*write.columns.clan_tag).collect::<Vec<_>>())
        .bind(column(|write| write.columns.trophies))
        .bind(column(|write| write.columns.donations))
        .bind(column(|write| write.columns.donations_received))
        .bind(column(|write| write.attacks))
        .bind(players.iter().map(|write| write.last_seen).collect::<Vec<_>>())
        .bind(
            players.iter().map(|write| write.document.as_deref().map(|json| document(shape, json))).collect::<Vec<_>>(),
        )
        .bind(players.iter().map(|write| rows::deep_link(Kind::Player, write.tag)).collect::<Vec<_>>())
        .bind(players.iter().map(|write| write.updated_at).collect::<Vec<_>>())
        .bind(players.iter().map(|write| write.claim.as_str()).collect::<Vec<_>>())
        .bind(players.iter().map(|write| write.snapshot.as_str()).collect::<Vec<_>>())
        .bind(players.iter().map(|write| write.snapshot.at()).collect::<Vec<_>>())
        .bind(players.iter().map(|write| write.snapshot.row()).collect::<Vec<_>>())
        .bind(players.iter().map(|write| write.snapshot.replaces()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_wars(
    connection: &mut PgConnection,
    wars: &[(&Fetched, &WarDocument, Place)],
    shape: Option<&Shape>,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    if wars.is_empty() {
        return Ok(());
    }
    sqlx::query(WARS)
        .persistent(keeps)
        .bind(wars.iter().map(|(fetched, ..)| fetched.object.tag.as_str()).collect::<Vec<_>>())
        .bind(wars.iter().map(|(_, war, _)| document(shape, war.json.as_str())).collect::<Vec<_>>())
        .bind(wars.iter().map(|(.., place)| place.at()).collect::<Vec<_>>())
        .bind(wars.iter().map(|(.., place)| place.row()).collect::<Vec<_>>())
        .bind(wars.iter().map(|(.., place)| place.replaces()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_last(
    connection: &mut PgConnection,
    last: Last<'_>,
    shape: Option<&Shape>,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    let Last { memberships, entry, now, delivered } = last;
    // Most batches of unchanged objects need no such statement.
    if memberships.closed.is_empty() && memberships.opened.is_empty() && entry.is_none() && delivered.is_empty() {
        return Ok(());
    }
    let payload = entry.map(rows::payload);
    let (ids, left): (Vec<i64>, Vec<TableTime>) = memberships.closed.iter().copied().unzip();
    sqlx::query(LAST_WRITES)
        .persistent(keeps)
        .bind(ids)
        .bind(left)
        .bind(memberships.opened.iter().map(|(player, ..)| player.as_str()).collect::<Vec<_>>())
        .bind(memberships.opened.iter().map(|(_, clan, _)| clan.as_str()).collect::<Vec<_>>())
        .bind(memberships.opened.iter().map(|(.., joined)| *joined).collect::<Vec<_>>())
        .bind(entry.map(|entry| entry.id))
        .bind(now.to_utc())
        .bind(payload.as_deref().map(|payload| document(shape, payload)))
        .bind(delivered)
        .execute(connection)
        .await?;
    Ok(())
}
