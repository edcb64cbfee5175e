//! The newest snapshot row of an object, and where the next document goes: the same for clans, players and wars.

use sqlx::FromRow;

use super::{
    claims::{ByObject, StateRow},
    times::{TableTime, from_utc, just_after, utc},
};
use crate::clock::Timestamp;

/// The newest snapshot row of an object. Of clans and wars only the first columns.
#[derive(Clone, Debug, Default, FromRow)]
pub struct Newest {
    pub kind: String,
    pub tag: String,
    pub id: i64,
    #[sqlx(rename = "ts")]
    pub at: Option<TableTime>,
    pub taken: Option<TableTime>,
    pub clan_tag: Option<String>,
    pub name: Option<String>,
    pub role: Option<String>,
    pub town_hall: Option<i32>,
    pub trophies: Option<i32>,
    pub donations: Option<i32>,
    pub donations_received: Option<i32>,
    pub war_attacks_used: Option<i32>,
    pub last_seen: Option<TableTime>,
    pub earlier_attacks: Option<i32>,
}

/// The newest rows by object.
pub type NewestRows = ByObject<Newest>;

pub fn by_object(rows: Vec<Newest>) -> NewestRows {
    ByObject::new(rows, |row| (&row.kind, std::mem::take(&mut row.tag)))
}

/// Where a document goes among the snapshot rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Insert {
        at: TableTime,
    },
    /// Our newest row moves on; with another document only when a wrong clock put it ahead.
    Move {
        id: i64,
        at: TableTime,
        replaces: bool,
    },
}

impl Place {
    /// Changed content inserts; unchanged content moves our row on if it still is the newest, else inserts.
    pub fn of(newest: Option<&Newest>, state: &StateRow, began: Timestamp, horizon: TableTime) -> Self {
        let began = utc(began);
        let Some(newest) = newest else { return Self::Insert { at: began } };
        let is_ahead = newest.at.is_some_and(|at| at > horizon);
        if state.snapshot_id == Some(newest.id) && (is_ahead || !state.has_changed()) {
            let at = newest.taken.map_or(began, just_after);
            return Self::Move { id: newest.id, at, replaces: state.has_changed() };
        }
        // Two rows never share a time: after another program's row in this millisecond, ours is the newest.
        let same_millisecond = newest.at.filter(|&at| from_utc(at) == from_utc(began));
        Self::Insert { at: same_millisecond.max(newest.taken).map_or(began, just_after) }
    }
}

impl Place {
    pub const fn at(&self) -> TableTime {
        match self {
            Self::Insert { at } | Self::Move { at, .. } => *at,
        }
    }

    pub const fn row(&self) -> Option<i64> {
        match self {
            Self::Insert { .. } => None,
            Self::Move { id, .. } => Some(*id),
        }
    }

    pub const fn replaces(&self) -> bool {
        matches!(self, Self::Move { replaces: true, .. })
    }
}
