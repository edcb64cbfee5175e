//! One record: the arbiter's word on it, and its rows.
//!
//! The arbiter is `refresh_state`: an answer counts only when the one it has is older.

use std::{borrow::Cow, fmt::Write, time::Duration};

use sqlx::{FromRow, SqliteConnection};

use super::{
    activity::{MemberColumns, NewestRow, Numbers},
    memberships::{self, RecentMoves},
    time_text::to_text,
};
use crate::{
    clock::Timestamp,
    model::{Answered, ClanDocument, Document, Fetched, Kind, Member, PlayerDocument, Tag, WarDocument},
    store::{
        Committed,
        rows::{self, NAME_WIDTH, ROLE_WIDTH, cut},
    },
};

/// A stored time further ahead of now than this was written by a wrong clock and counts as older.
const CLOCK_ERROR: Duration = Duration::from_secs(60);

/// Readers forget the attacks used in a war after a week; they are carried from row to row no longer than that.
const ATTACKS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// One answer with its times as the tables hold them.
pub(super) struct Record<'a> {
    fetched: &'a Fetched,
    pub(super) tag: &'a Tag,
    /// When the call began: `ts` of its rows.
    pub(super) at: String,
    /// When the copy may have been made: what a member list speaks of.
    pub(super) copied_at: String,
    horizon: String,
    pub(super) moves: &'a RecentMoves,
}

impl<'a> Record<'a> {
    pub(super) fn new(fetched: &'a Fetched, now: Timestamp, moves: &'a RecentMoves) -> Self {
        Self {
            fetched,
            tag: &fetched.object.tag,
            at: to_text(fetched.began),
            copied_at: to_text(fetched.copied_at),
            horizon: to_text(now + CLOCK_ERROR),
            moves,
        }
    }

    /// Whether what is stored leaves room for something of the moment `at`.
    fn is_newer_than(&self, stored: Option<&str>, at: &str) -> bool {
        stored.is_none_or(|stored| stored < at || stored > self.horizon.as_str())
    }

    /// Whether a stored copy time is newer than this copy.
    pub(super) fn is_outdated_by(&self, member_at: Option<&str>) -> bool {
        member_at.is_some_and(|stored| stored > self.copied_at.as_str() && stored <= self.horizon.as_str())
    }
}

/// A row of `refresh_state`.
#[derive(Clone, Debug, Default, FromRow)]
struct State {
    fetched_at: Option<String>,
    changed_at: Option<String>,
    content_hash: Option<String>,
    snapshot_id: Option<i64>,
    member_at: Option<String>,
    attacks_at: Option<String>,
}

pub(super) async fn store(db: &mut SqliteConnection, record: &Record<'_>) -> Result<Committed, sqlx::Error> {
    let object = &record.fetched.object;
    let state: Option<State> = sqlx::query_as(include_str!("../sql/sqlite/state_read.sql"))
        .bind(object.kind.as_str())
        .bind(object.tag.as_str())
        .fetch_optional(&mut *db)
        .await?;
    let mut state = state.unwrap_or_default();
    if !record.is_newer_than(state.fetched_at.as_deref(), &record.at) {
        return Ok(Committed::Superseded);
    }
    state.fetched_at = Some(record.at.clone());
    let (committed, outcome) = match &record.fetched.answered {
        Answered::Document(document) => store_document(db, record, &mut state, document).await?,
        Answered::Gone => (Committed::Noted, "gone"),
        Answered::PrivateWarLog => (Committed::Noted, "private_war_log"),
    };
    write_state(db, record, &state, outcome).await?;
    Ok(committed)
}

async fn store_document(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    state: &mut State,
    document: &Document,
) -> Result<(Committed, &'static str), sqlx::Error> {
    let hash = hex(&rows::content_hash(document.json()));
    let is_unchanged = state.content_hash.as_ref() == Some(&hash);
    if !is_unchanged {
        state.content_hash = Some(hash);
        state.changed_at = Some(record.at.clone());
    }
    let rewrite = Rewrite { ours: state.snapshot_id, is_unchanged, at: &record.at };
    let snapshot_id = match document {
        Document::Clan(clan) => store_clan(db, record, &rewrite, clan).await?,
        Document::Player(player) => {
            let id = store_player(db, record, &rewrite, state, player).await?;
            if record.is_newer_than(state.member_at.as_deref(), &record.copied_at) {
                state.member_at = Some(record.copied_at.clone());
            }
            id
        }
        Document::War(war) => store_war(db, record, &rewrite, war).await?,
    };
    state.snapshot_id = Some(snapshot_id);
    Ok(if is_unchanged { (Committed::Unchanged, "unchanged") } else { (Committed::Stored, "stored") })
}

async fn write_state(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    state: &State,
    outcome: &str,
) -> Result<(), sqlx::Error> {
    let league = record.fetched.league.as_ref();
    let league = league.map(|league| serde_json::to_string(league).expect("times and texts are plain JSON"));
    sqlx::query(include_str!("../sql/sqlite/state_write.sql"))
        .bind(record.fetched.object.kind.as_str())
        .bind(record.tag.as_str())
        .bind(&state.fetched_at)
        .bind(&state.changed_at)
        .bind(&state.content_hash)
        .bind(to_text(record.fetched.fresh_until))
        .bind(outcome)
        .bind(state.snapshot_id)
        .bind(&state.member_at)
        .bind(league)
        .execute(db)
        .await?;
    Ok(())
}

/// Which row an answer goes into.
struct Rewrite<'a> {
    /// The newest row that we wrote for the object.
    ours: Option<i64>,
    is_unchanged: bool,
    at: &'a str,
}

impl Rewrite<'_> {
    /// The row to write over, `None` for a new one. Only our own row, and only while it is the newest: unchanged content
    /// moves its time on. A row that a wrong clock put ahead would hide every later one, so it is written over as well.
    fn row(&self, newest: Option<(i64, Option<&str>)>) -> Option<i64> {
        let (id, ts) = newest?;
        let is_ahead = ts.is_some_and(|ts| ts > self.at);
        (self.ours == Some(id) && (self.is_unchanged || is_ahead)).then_some(id)
    }
}

async fn store_clan(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    rewrite: &Rewrite<'_>,
    clan: &ClanDocument,
) -> Result<i64, sqlx::Error> {
    let link = rows::deep_link(Kind::Clan, record.tag).unwrap_or_default();
    let data = rows::with_deep_link(&clan.json, &link);
    sqlx::query(include_str!("../sql/sqlite/clan_upsert.sql"))
        .bind(record.tag.as_str())
        .bind(&*data)
        .bind(&record.at)
        .bind(&link)
        .execute(&mut *db)
        .await?;
    let newest: Option<(i64, Option<String>)> = sqlx::query_as(include_str!("../sql/sqlite/clan_snapshot_newest.sql"))
        .bind(record.tag.as_str())
        .fetch_optional(&mut *db)
        .await?;
    let row = rewrite.row(newest.as_ref().map(|(id, ts)| (*id, ts.as_deref())));
    let statement = match row {
        Some(_) => include_str!("../sql/sqlite/clan_snapshot_rewrite.sql"),
        None => include_str!("../sql/sqlite/clan_snapshot_insert.sql"),
    };
    let id = sqlx::query_scalar(statement)
        .bind(&record.at)
        .bind(record.tag.as_str())
        .bind(&*cut(&clan.name, NAME_WIDTH))
        .bind(i32::try_from(clan.members.len()).unwrap_or(i32::MAX))
        .bind(clan.level)
        .bind(clan.war_wins)
        .bind(clan.war_losses)
        .bind(&*data)
        .bind(row)
        .fetch_one(&mut *db)
        .await?;
    for member in memberships::each_once(&clan.members) {
        if claim_member(db, record, &member.tag).await? {
            store_member(db, record, member).await?;
            memberships::settle_member(db, record, &member.tag).await?;
        }
    }
    memberships::close_departed(db, record, &clan.members).await?;
    Ok(id)
}

/// Whether this copy is the newest word on the columns that a clan reply brings.
async fn claim_member(db: &mut SqliteConnection, record: &Record<'_>, player: &Tag) -> Result<bool, sqlx::Error> {
    let claimed = sqlx::query(include_str!("../sql/sqlite/state_claim_member.sql"))
        .bind(player.as_str())
        .bind(&record.copied_at)
        .bind(&record.horizon)
        .execute(db)
        .await?;
    Ok(claimed.rows_affected() == 1)
}

/// Refreshes a member's columns in place; one not known yet gets his rows in the short form.
async fn store_member(db: &mut SqliteConnection, record: &Record<'_>, member: &Member) -> Result<(), sqlx::Error> {
    let columns = MemberColumns {
        clan_tag: Some(record.tag.as_str().to_owned()),
        name: Some(cut(&member.name, NAME_WIDTH).into_owned()),
        role: member.role.as_deref().map(|role| cut(role, ROLE_WIDTH).into_owned()),
        town_hall: member.town_hall,
        numbers: Numbers {
            trophies: member.trophies,
            donations: member.donations,
            donations_received: member.donations_received,
        },
    };
    let upsert = include_str!("../sql/sqlite/player_upsert_member.sql");
    let data = upsert_player(db, upsert, record, &member.tag, &columns, &member.json).await?;
    let Some(newest) = newest_player_row(db, &member.tag).await? else {
        let row = PlayerRow {
            player: &member.tag,
            columns: &columns,
            war_attacks_used: None,
            last_seen: &record.at,
            data: &data,
        };
        write_player_row(db, record, None, &row).await?;
        return Ok(());
    };
    sqlx::query(include_str!("../sql/sqlite/player_snapshot_member.sql"))
        .bind(&columns.clan_tag)
        .bind(&columns.name)
        .bind(&columns.role)
        .bind(columns.town_hall)
        .bind(columns.numbers.trophies)
        .bind(columns.numbers.donations)
        .bind(columns.numbers.donations_received)
        .bind(newest.last_seen_after(columns.numbers, &record.at))
        .bind(newest.id)
        .execute(db)
        .await?;
    Ok(())
}

async fn store_player(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    rewrite: &Rewrite<'_>,
    state: &State,
    player: &PlayerDocument,
) -> Result<i64, sqlx::Error> {
    let newest = newest_player_row(db, record.tag).await?;
    let knows_better = newest.as_ref().filter(|_| record.is_outdated_by(state.member_at.as_deref()));
    let columns = match knows_better {
        // A clan's copy is newer than this document: what it said stays, the rest of the document is still the newest.
        Some(row) => row.columns.clone(),
        None => columns_of(player),
    };
    let upsert = include_str!("../sql/sqlite/player_upsert.sql");
    let data = upsert_player(db, upsert, record, record.tag, &columns, &player.json).await?;
    let last_seen =
        newest.as_ref().map_or_else(|| record.at.clone(), |row| row.last_seen_after(columns.numbers, &record.at));
    let oldest_counting = to_text(record.fetched.began - ATTACKS_KEPT);
    let attacks_count = state.attacks_at.as_deref().is_some_and(|told| told >= oldest_counting.as_str());
    let row = PlayerRow {
        player: record.tag,
        columns: &columns,
        // Only a war knows it, so what the last one said stays on the row that readers look at, while it counts.
        war_attacks_used: newest.as_ref().and_then(|row| row.war_attacks_used).filter(|_| attacks_count),
        last_seen: &last_seen,
        data: &data,
    };
    let over = rewrite.row(newest.as_ref().map(|row| (row.id, row.ts.as_deref())));
    let id = write_player_row(db, record, over, &row).await?;
    if knows_better.is_none() {
        memberships::settle_player(db, record, player.clan.as_ref()).await?;
    }
    Ok(id)
}

fn columns_of(player: &PlayerDocument) -> MemberColumns {
    MemberColumns {
        // Readers take the empty text for "in no clan".
        clan_tag: Some(player.clan.as_ref().map_or("", Tag::as_str).to_owned()),
        name: Some(cut(&player.name, NAME_WIDTH).into_owned()),
        role: player.role.as_deref().map(|role| cut(role, ROLE_WIDTH).into_owned()),
        town_hall: player.town_hall,
        numbers: Numbers {
            trophies: player.trophies,
            donations: player.donations,
            donations_received: player.donations_received,
        },
    }
}

/// Writes the row of `players` and answers the document as it is stored.
async fn upsert_player<'a>(
    db: &mut SqliteConnection,
    statement: &'static str,
    record: &Record<'_>,
    player: &Tag,
    columns: &MemberColumns,
    json: &'a str,
) -> Result<Cow<'a, str>, sqlx::Error> {
    let link = rows::deep_link(Kind::Player, player).unwrap_or_default();
    let data = rows::with_deep_link(json, &link);
    sqlx::query(statement)
        .bind(player.as_str())
        .bind(&columns.name)
        .bind(columns.town_hall)
        .bind(&columns.role)
        .bind(&columns.clan_tag)
        .bind(&record.at)
        .bind(&*data)
        .bind(&link)
        .execute(db)
        .await?;
    Ok(data)
}

async fn newest_player_row(db: &mut SqliteConnection, player: &Tag) -> Result<Option<NewestRow>, sqlx::Error> {
    sqlx::query_as(include_str!("../sql/sqlite/player_snapshot_newest.sql"))
        .bind(player.as_str())
        .fetch_optional(db)
        .await
}

/// What a row of `player_snapshots` holds, but for its time.
struct PlayerRow<'a> {
    player: &'a Tag,
    columns: &'a MemberColumns,
    war_attacks_used: Option<i32>,
    last_seen: &'a str,
    data: &'a str,
}

async fn write_player_row(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    over: Option<i64>,
    row: &PlayerRow<'_>,
) -> Result<i64, sqlx::Error> {
    let statement = match over {
        Some(_) => include_str!("../sql/sqlite/player_snapshot_rewrite.sql"),
        None => include_str!("../sql/sqlite/player_snapshot_insert.sql"),
    };
    sqlx::query_scalar(statement)
        .bind(&record.at)
        .bind(row.player.as_str())
        .bind(&row.columns.clan_tag)
        .bind(&row.columns.name)
        .bind(&row.columns.role)
        .bind(row.columns.town_hall)
        .bind(row.columns.numbers.trophies)
        .bind(row.columns.numbers.donations)
        .bind(row.columns.numbers.donations_received)
        .bind(row.war_attacks_used)
        .bind(row.last_seen)
        .bind(row.data)
        .bind(over)
        .fetch_one(db)
        .await
}

async fn store_war(
    db: &mut SqliteConnection,
    record: &Record<'_>,
    rewrite: &Rewrite<'_>,
    war: &WarDocument,
) -> Result<i64, sqlx::Error> {
    let newest: Option<(i64, Option<String>)> = sqlx::query_as(include_str!("../sql/sqlite/war_snapshot_newest.sql"))
        .bind(record.tag.as_str())
        .fetch_optional(&mut *db)
        .await?;
    let row = rewrite.row(newest.as_ref().map(|(id, ts)| (*id, ts.as_deref())));
    let statement = match row {
        Some(_) => include_str!("../sql/sqlite/war_snapshot_rewrite.sql"),
        None => include_str!("../sql/sqlite/war_snapshot_insert.sql"),
    };
    let id = sqlx::query_scalar(statement)
        .bind(&record.at)
        .bind(record.tag.as_str())
        .bind(&war.json)
        .bind(row)
        .fetch_one(&mut *db)
        .await?;
    for member in &war.members {
        // A war never makes player rows: it knows too little of them.
        let Some(newest) = newest_player_row(db, &member.tag).await? else { continue };
        sqlx::query(include_str!("../sql/sqlite/player_snapshot_war.sql"))
            .bind(member.attacks_used)
            .bind(newest.last_seen_after_war(member.attacks_used, &record.at))
            .bind(newest.id)
            .execute(&mut *db)
            .await?;
        sqlx::query(include_str!("../sql/sqlite/state_attacks.sql"))
            .bind(member.tag.as_str())
            .bind(&record.at)
            .execute(&mut *db)
            .await?;
    }
    Ok(id)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
