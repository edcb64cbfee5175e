//! What a commit comes to, for every store: pure decisions between what is read and what is written.
//!
//! [`claims`] says what a batch claims. The store's arbiter says which claims won, [`players::words`] gathers what they
//! say of each player. With the newest rows and the stays that the store reads, [`Writes`] and
//! [`memberships::decide`] are what it writes. The stores differ in their statements only.

pub mod claims;
pub mod memberships;
pub mod players;
pub mod refusals;
pub mod snapshots;
pub mod times;
mod told;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

pub use self::told::{Facts, Replaced, replaced_rows};
use self::{
    claims::{Claims, Winners, clan_document, war_document},
    memberships::{Placed, Roll},
    players::{PlayerWrite, SnapshotWrite, Word},
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
pub fn heed(words: &mut BTreeMap<&Tag, Word<'_>>, newest: &NewestRows, horizon: TableTime) {
    for (tag, word) in words {
        word.heed(newest.get(Kind::Player, tag), horizon);
    }
}

/// Where the words put players.
pub fn placed<'a>(words: &BTreeMap<&'a Tag, Word<'a>>, horizon: TableTime) -> BTreeMap<&'a Tag, Placed<'a>> {
    let place = |(&tag, word): (&&'a Tag, &Word<'a>)| {
        let (clan, moment, began) = word.clan(horizon)?;
        Some((tag, Placed { clan, moment: utc(moment), began: utc(began) }))
    };
    words.iter().filter_map(place).collect()
}

/// The member lists that won, by clan. From one that is not complete nobody's absence can be told.
pub fn rolls<'a>(claims: &Claims<'a>, winners: &Winners) -> HashMap<&'a str, Roll<'a>> {
    let roll = |&(_, fetched): &(usize, &'a Fetched)| {
        winners.of_answer(fetched)?;
        let clan = clan_document(fetched).filter(|clan| clan.has_all_members)?;
        let members = clan.members.iter().map(|member| member.tag.as_str()).collect();
        let roll = Roll { members, moment: utc(fetched.copied_at), began: utc(fetched.began) };
        Some((fetched.object.tag.as_str(), roll))
    };
    claims.answers.iter().filter_map(roll).collect()
}

/// The earliest moment that the batch speaks of; `None`: it says nothing about memberships.
pub fn earliest_moment(placed: &BTreeMap<&Tag, Placed<'_>>, rolls: &HashMap<&str, Roll<'_>>) -> Option<TableTime> {
    placed.values().map(|placed| placed.moment).chain(rolls.values().map(|roll| roll.moment)).min()
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
        words: &BTreeMap<&'a Tag, Word<'a>>,
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
        let of_players =
            words.iter().filter_map(|(&tag, word)| word.write(tag, newest.get(Kind::Player, tag), horizon));
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
