//! Who is in which clan since when. A row per stay; at most the newest open row of a player stays open.
//!
//! Two answers can contradict one another, since each may be a copy some minutes old. So an answer changes nothing for
//! a player who came or went after its copy may have been made.

use std::collections::{BTreeMap, HashMap};

use sqlx::SqliteConnection;

use super::{records::Record, time_text::to_text};
use crate::{
    clock::Timestamp,
    model::{Member, Tag},
};

/// Players who came or went lately, each with the moment.
#[derive(Debug, Default)]
pub(super) struct RecentMoves {
    latest: HashMap<String, String>,
}

impl RecentMoves {
    /// Those later than the copy time.
    pub(super) async fn since(oldest_copy: Timestamp, db: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let moves: Vec<(String, String)> = sqlx::query_as(include_str!("../sql/sqlite/memberships_since.sql"))
            .bind(to_text(oldest_copy))
            .fetch_all(db)
            .await?;
        Ok(Self { latest: moves.into_iter().collect() })
    }

    fn is_after(&self, player: &str, copied_at: &str) -> bool {
        self.latest.get(player).is_some_and(|latest| latest.as_str() > copied_at)
    }
}

/// The members in the order of their tags, each once.
pub(super) fn each_once(members: &[Member]) -> impl Iterator<Item = &Member> {
    members.iter().map(|member| (&member.tag, member)).collect::<BTreeMap<_, _>>().into_values()
}

/// A clan's reply names this player.
pub(super) async fn settle_member(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    player: &Tag,
) -> Result<(), sqlx::Error> {
    if record.moves.is_after(player.as_str(), &record.copied_at) {
        return Ok(());
    }
    settle(db, player, Some(record.tag), &record.at).await
}

/// A player's own document names his clan, or none.
pub(super) async fn settle_player(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    clan: Option<&Tag>,
) -> Result<(), sqlx::Error> {
    let latest: Option<String> = sqlx::query_scalar(include_str!("../sql/sqlite/memberships_latest.sql"))
        .bind(record.tag.as_str())
        .fetch_one(&mut *db)
        .await?;
    if latest.is_some_and(|latest| latest > record.copied_at) {
        return Ok(());
    }
    settle(db, record.tag, clan, &record.at).await
}

/// Closes what is open elsewhere and opens a row in the clan unless the player has stayed there.
async fn settle(db: &mut SqliteConnection, player: &Tag, clan: Option<&Tag>, at: &str) -> Result<(), sqlx::Error> {
    let open: Vec<(i64, String)> = sqlx::query_as(include_str!("../sql/sqlite/memberships_open_of_player.sql"))
        .bind(player.as_str())
        .fetch_all(&mut *db)
        .await?;
    let stayed =
        open.first().filter(|(_, open_in)| clan.is_some_and(|clan| clan.as_str() == open_in)).map(|(id, _)| *id);
    for (id, _) in open.iter().filter(|(id, _)| Some(*id) != stayed) {
        close(db, *id, at).await?;
    }
    let Some(clan) = clan.filter(|_| stayed.is_none()) else { return Ok(()) };
    sqlx::query(include_str!("../sql/sqlite/membership_open.sql"))
        .bind(player.as_str())
        .bind(clan.as_str())
        .bind(at)
        .execute(db)
        .await?;
    Ok(())
}

/// Closes the rows of those whom the clan's reply no longer names, unless something newer is known about them.
pub(super) async fn close_departed(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    members: &[Member],
) -> Result<(), sqlx::Error> {
    let open: Vec<(i64, String, Option<String>)> =
        sqlx::query_as(include_str!("../sql/sqlite/memberships_open_in_clan.sql"))
            .bind(record.tag.as_str())
            .fetch_all(&mut *db)
            .await?;
    for (id, player, member_at) in open {
        let is_named = members.iter().any(|member| member.tag.as_str() == player);
        let is_known_better =
            record.moves.is_after(&player, &record.copied_at) || record.is_outdated_by(member_at.as_deref());
        if !is_named && !is_known_better {
            close(db, id, &record.at).await?;
        }
    }
    Ok(())
}

async fn close(db: &mut SqliteConnection, id: i64, at: &str) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("../sql/sqlite/membership_close.sql")).bind(at).bind(id).execute(db).await?;
    Ok(())
}
