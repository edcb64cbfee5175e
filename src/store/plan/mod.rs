//! The plan of a commit: pure decisions between the reads and the writes of every store.
//!
//! 1. [`claims`] turns a batch into claims, and the store's arbiter decides which win.
//! 2. [`players::observations`] collects what the winners say of each player; outdated ones are discarded.
//! 3. [`Writes`] and [`memberships::decide`] compare them with the stored rows and say what to write.
//!
//! The stores differ in their statements only.

pub mod claims;
mod facts;
pub mod memberships;
pub mod players;
pub mod refusals;
pub mod snapshots;
pub mod times;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

pub use self::facts::{Facts, Replaced, replaced_rows};
use self::{
    claims::{Claims, Winners, clan_document, war_document},
    memberships::{Location, MemberList},
    players::{Observation, PlayerWrite, SnapshotWrite},
    snapshots::{NewestRows, Place},
    times::{TableTime, utc},
};
use crate::{
    clock::Timestamp,
    model::{Answered, ClanDocument, Fetched, Kind, Tag, WarDocument},
};

/// A stored time further in the future than this was written by a wrong clock, and counts as older.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The winning responses of a kind with a document, each with the time of its new row.
pub fn documents<'a>(claims: &Claims<'a>, winners: &Winners, kind: Kind) -> Vec<(&'a Tag, Timestamp)> {
    let of_kind = claims.answers.iter().filter(|(_, fetched)| {
        fetched.object.kind == kind
            && matches!(fetched.answered, Answered::Document(_))
            && winners.of_answer(fetched).is_some()
    });
    of_kind.map(|(_, fetched)| (&fetched.object.tag, fetched.began)).collect()
}

/// Discards the observations that a newer row of another program makes outdated.
pub fn discard_outdated(observations: &mut BTreeMap<&Tag, Observation<'_>>, newest: &NewestRows, horizon: TableTime) {
    for (tag, observation) in observations {
        observation.discard_outdated(newest.get(Kind::Player, tag), horizon);
    }
}

/// The clans that players are observed in.
pub fn locations<'a>(
    observations: &BTreeMap<&'a Tag, Observation<'a>>,
    horizon: TableTime,
) -> BTreeMap<&'a Tag, Location<'a>> {
    let place = |(&tag, observation): (&&'a Tag, &Observation<'a>)| {
        let (clan, observed_at, began) = observation.clan(horizon)?;
        Some((tag, Location { clan, observed_at: utc(observed_at), began: utc(began) }))
    };
    observations.iter().filter_map(place).collect()
}

/// The complete member lists that won, by clan. An incomplete list does not show that a player is absent.
pub fn member_lists<'a>(claims: &Claims<'a>, winners: &Winners) -> HashMap<&'a str, MemberList<'a>> {
    let list = |&(_, fetched): &(usize, &'a Fetched)| {
        winners.of_answer(fetched)?;
        let clan = clan_document(fetched).filter(|clan| clan.has_all_members)?;
        let members = clan.members.iter().map(|member| member.tag.as_str()).collect();
        let list = MemberList { members, observed_at: utc(fetched.copied_at), began: utc(fetched.began) };
        Some((fetched.object.tag.as_str(), list))
    };
    claims.answers.iter().filter_map(list).collect()
}

/// The earliest observation of the batch; `None` when it has none about memberships.
pub fn earliest_observation(
    locations: &BTreeMap<&Tag, Location<'_>>,
    member_lists: &HashMap<&str, MemberList<'_>>,
) -> Option<TableTime> {
    locations
        .values()
        .map(|location| location.observed_at)
        .chain(member_lists.values().map(|list| list.observed_at))
        .min()
}

/// Everything that a commit writes, except memberships.
#[derive(Debug, Default)]
pub struct Writes<'a> {
    pub clans: Vec<(&'a Fetched, &'a ClanDocument, Place)>,
    pub players: Vec<PlayerWrite<'a>>,
    pub wars: Vec<(&'a Fetched, &'a WarDocument, Place)>,
}

impl<'w> Writes<'w> {
    pub fn of<'a: 'w>(
        claims: &Claims<'a>,
        winners: &Winners,
        observations: &BTreeMap<&'a Tag, Observation<'a>>,
        newest: &'w NewestRows,
        horizon: TableTime,
    ) -> Self {
        let mut writes = Self::default();
        for &(_, fetched) in &claims.answers {
            let Some(state) = winners.of_answer(fetched) else { continue };
            let object = &fetched.object;
            let place = || Place::of(newest.get(object.kind, &object.tag), state, fetched.began, horizon);
            if let Some(clan) = clan_document(fetched) {
                writes.clans.push((fetched, clan, place()));
            } else if let Some(war) = war_document(fetched) {
                writes.wars.push((fetched, war, place()));
            }
        }
        let of_players = observations
            .iter()
            .filter_map(|(&tag, observation)| observation.write(tag, newest.get(Kind::Player, tag), horizon));
        writes.players = of_players.collect();
        writes
    }

    /// True for each history table that gets new rows, and so needs ids: clans, players, wars.
    pub fn new_rows(&self) -> [bool; 3] {
        let inserts = |place: &Place| matches!(place, Place::Insert { .. });
        let inserts_player =
            |write: &PlayerWrite<'_>| matches!(&write.snapshot, SnapshotWrite::Document(place) if inserts(place));
        [
            self.clans.iter().any(|(.., place)| inserts(place)),
            self.players.iter().any(inserts_player),
            self.wars.iter().any(|(.., place)| inserts(place)),
        ]
    }
}
