//! The newest snapshot row of an object, and the place of the next document. The same for clans, players and wars.

use std::time::Duration;

use super::{
    claims::{ByObject, StateRow},
    times::{TableTime, from_utc, just_after, utc},
};
use crate::{
    clock::Timestamp,
    columns::{Number, from_row},
};

/// The newest snapshot row of an object. Clans and wars have only the first columns.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    pub kind: String,
    pub tag: String,
    pub id: i64,
    pub ts: Option<TableTime>,
    pub taken: Option<TableTime>,
    pub clan_tag: Option<String>,
    pub name: Option<String>,
    pub role: Option<String>,
    pub town_hall: Option<Number>,
    pub trophies: Option<Number>,
    pub donations: Option<Number>,
    pub donations_received: Option<Number>,
    pub war_attacks_used: Option<Number>,
    pub last_seen: Option<TableTime>,
    pub earlier_attacks: Option<Number>,
}

from_row!(both: Newest {
    kind, tag, id: Number, ts, taken, clan_tag, name, role, town_hall, trophies, donations, donations_received,
    war_attacks_used, last_seen, earlier_attacks,
});

/// A row of another program that is further ahead than this has an impossible time: a wrong time zone is not enough.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(2 * 24 * 3600);

/// The newest rows by object.
pub type NewestRows = ByObject<Newest>;

pub fn by_object(rows: Vec<Newest>) -> NewestRows {
    ByObject::new(rows, |row| (&row.kind, std::mem::take(&mut row.tag)))
}

/// The place of a document among the snapshot rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Insert {
        at: TableTime,
    },
    /// The newest row moves to a new time. It is ours, and gets a new document only when a wrong clock put it ahead. Or it is
    /// another program's with an impossible time, which would hide all later rows from readers; then it becomes ours.
    Move {
        id: i64,
        at: TableTime,
        replaces: bool,
    },
}

impl Place {
    /// Changed content inserts a row. Unchanged content moves our row if it is still the newest, and inserts one otherwise.
    pub fn of(newest: Option<&Newest>, state: &StateRow, began: Timestamp, horizon: TableTime) -> Self {
        let began = utc(began);
        let Some(newest) = newest else { return Self::Insert { at: began } };
        let is_ahead = newest.ts.is_some_and(|at| at > horizon);
        if state.snapshot_id == Some(newest.id) && (is_ahead || !state.has_changed()) {
            let at = newest.taken.map_or(began, just_after);
            return Self::Move { id: newest.id, at, replaces: state.has_changed() };
        }
        // Readers take the newest row, so an impossible time would hide ours.
        if newest.ts.is_some_and(|at| at > horizon + MAX_CLOCK_ERROR) {
            return Self::Move { id: newest.id, at: newest.taken.map_or(began, just_after), replaces: true };
        }
        // Two rows never share a time: after another program's row in this millisecond, ours is the newest.
        let same_millisecond = newest.ts.filter(|&at| from_utc(at) == from_utc(began));
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
