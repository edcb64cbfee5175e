//! What a commit comes to, for every store: pure decisions between what is read and what is written.
//!
//! [`claims`] says what a batch claims. The store's arbiter says which claims won, [`players::words`] gathers what they
//! say of each player. With the newest rows and the stays that the store reads, [`Writes`] and
//! [`memberships::decide`] are what it writes. The stores differ in their statements only.

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

/// A stored time later than this after now is a wrong clock's: it counts as older.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The winning answers of a kind that bring a document, each with the time a new row would have.
pub fn documents<'a>(claims: &Claims<'a>, winners: &Winners, kind: Kind) -> Vec<(&'a Tag, Timestamp)> {
    let of_kind = claims.answers.iter().filter(|(_, fetched)| {
        fetched.object.kind == kind
            && matches!(fetched.answered, Answered::Document(_))
            && winners.of_answer(fetched).is_some()
    });
    of_kind.map(|(_, fetched)| (&fetched.object.tag, fetched.began)).collect()
}

/// Drops the words that a newer row of another program makes old news.
pub fn discard_outdated(observations: &mut BTreeMap<&Tag, Observation<'_>>, newest: &NewestRows, horizon: TableTime) {
    for (tag, observation) in observations {
        observation.discard_outdated(newest.get(Kind::Player, tag), horizon);
    }
}

/// Where the words put players.
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

/// The member lists that won, by clan. From one that is not complete nobody's absence can be told.
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

/// The earliest moment that the batch speaks of; `None`: it says nothing about memberships.
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

/// Everything a commit writes, stays apart.
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

    /// Which history tables get new rows, which take ids: of clans, players, wars.
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
