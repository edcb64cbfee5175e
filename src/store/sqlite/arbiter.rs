//! The arbiter decides which claims of a batch count. A response counts when the stored one is not newer.

use sqlx::SqliteConnection;

use super::values::{json, table_text};
use crate::{
    clock::Timestamp,
    columns::from_row,
    model::text::hex,
    store::plan::{
        claims::{ByObject, ClaimRow, Claims, StateRow, Winners},
        times::{TableTime, from_utc, utc},
    },
};

/// A row of `refresh_state`.
#[derive(Clone, Debug, Default)]
struct State {
    kind: String,
    tag: String,
    fetched_at: Option<TableTime>,
    changed_at: Option<TableTime>,
    content_hash: Option<String>,
    fresh_until: Option<TableTime>,
    last_outcome: Option<String>,
    snapshot_id: Option<i64>,
    member_at: Option<TableTime>,
    attacks_at: Option<TableTime>,
    league: Option<String>,
}

from_row!(sqlite: State {
    kind, tag, fetched_at, changed_at, content_hash, fresh_until, last_outcome, snapshot_id, member_at, attacks_at,
    league,
});

/// Reads the state of all objects that the batch names, and writes the states that some claim changes.
pub(super) async fn arbitrate(
    db: &mut SqliteConnection,
    claims: &Claims<'_>,
    horizon: Timestamp,
) -> Result<Winners, sqlx::Error> {
    let rows = claims.rows();
    let named: Vec<_> = rows.iter().map(|row| (row.kind, row.tag)).collect();
    // The transaction holds the file's write lock, so no other program changes these states before the writes below.
    let states: Vec<State> =
        sqlx::query_as(include_str!("../sql/sqlite/states.sql")).bind(json(&named)).fetch_all(&mut *db).await?;
    let states = ByObject::new(states, |state| (&state.kind, state.tag.clone()));
    let mut winners = Vec::new();
    for row in &rows {
        let Some(state) = decide(row, states.get(row.kind, row.tag), horizon) else { continue };
        write(db, &state).await?;
        winners.push(StateRow {
            kind: state.kind,
            tag: state.tag,
            fetched_at: state.fetched_at,
            member_at: state.member_at,
            attacks_at: state.attacks_at,
            last_outcome: state.last_outcome,
            snapshot_id: state.snapshot_id,
        });
    }
    Ok(Winners::new(winners))
}

/// The state after the claims of this row; `None` when no claim counts.
fn decide(row: &ClaimRow<'_>, stored: Option<&State>, horizon: Timestamp) -> Option<State> {
    // A time beyond the horizon was written by a wrong clock and counts as older.
    let allows = |stored: Option<TableTime>, at: Timestamp| {
        stored.map(from_utc).is_none_or(|stored| stored <= at || stored > horizon)
    };
    let before = stored.cloned().unwrap_or_default();
    let answer = row.answer.filter(|fetched| allows(before.fetched_at, fetched.began));
    // A member's copy counts when it is not older than the stored copy and the player's own response.
    let member_at = row.member_at.filter(|&at| allows(before.member_at, at) && allows(before.fetched_at, at));
    // A war does not create players that are unknown.
    let attacks_at = row.attacks_at.filter(|_| stored.is_some() || answer.is_some() || member_at.is_some());
    if answer.is_none() && member_at.is_none() && attacks_at.is_none() {
        return None;
    }
    let mut state = State { kind: row.kind.as_str().to_owned(), tag: row.tag.as_str().to_owned(), ..before };
    if let Some(fetched) = answer {
        let hash = row.content_hash().map(hex);
        let is_same = hash.is_some() && hash == state.content_hash;
        state.fetched_at = Some(utc(fetched.began));
        state.fresh_until = Some(utc(fetched.fresh_until));
        state.last_outcome = if is_same { Some("unchanged") } else { row.outcome() }.map(str::to_owned);
        if hash.is_some() && !is_same {
            state.changed_at = state.fetched_at;
            state.content_hash = hash;
        }
        state.league = row.league().or(state.league);
    }
    state.member_at = member_at.map(utc).or(state.member_at);
    // Otherwise a time of a wrong clock would be the maximum for ever.
    let attacked_before = state.attacks_at.filter(|at| from_utc(*at) <= horizon);
    state.attacks_at = attacked_before.max(attacks_at.map(utc));
    Some(state)
}

async fn write(db: &mut SqliteConnection, state: &State) -> Result<(), sqlx::Error> {
    let text = |at: Option<TableTime>| at.map(table_text);
    sqlx::query(include_str!("../sql/sqlite/state_write.sql"))
        .bind(&state.kind)
        .bind(&state.tag)
        .bind(text(state.fetched_at))
        .bind(text(state.changed_at))
        .bind(&state.content_hash)
        .bind(text(state.fresh_until))
        .bind(&state.last_outcome)
        .bind(state.snapshot_id)
        .bind(text(state.member_at))
        .bind(text(state.attacks_at))
        .bind(&state.league)
        .execute(db)
        .await?;
    Ok(())
}
