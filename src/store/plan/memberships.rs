//! Who is in which clan since when: a pure decision from what answers say and the rows there are.
//!
//! A row is a stay. One that is open and true is left alone, since loyalty counts from its `joined_at`; a closed one is
//! never opened again. At most one row of a player is open.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::times::{TableTime, from_utc, just_after};
use crate::{
    columns::{Number, from_row},
    model::{Move, Tag},
};

/// A stay as stored, and up to when its player is known from elsewhere.
#[derive(Clone, Debug)]
pub struct Stay {
    pub id: i64,
    pub player_tag: String,
    pub clan_tag: String,
    pub joined_at: TableTime,
    pub left_at: Option<TableTime>,
    pub fetched_at: Option<TableTime>,
    pub member_at: Option<TableTime>,
}

from_row!(both: Stay { id: Number, player_tag, clan_tag, joined_at, left_at, fetched_at, member_at });

impl Stay {
    /// Nothing, and `infinity`, mean the same.
    fn is_open(&self) -> bool {
        self.left_at.is_none_or(|at| at == TableTime::INFINITY)
    }
}

/// An answer's word on where a player is.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// `None`: in no clan.
    pub clan: Option<&'a Tag>,
    /// The moment the answer speaks of.
    pub moment: TableTime,
    /// When the call began: what is written as joined and left.
    pub began: TableTime,
}

/// A clan's complete member list.
#[derive(Clone, Debug)]
pub struct Roll<'a> {
    pub members: HashSet<&'a str>,
    pub moment: TableTime,
    pub began: TableTime,
}

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Id and `left_at`.
    pub closed: Vec<(i64, TableTime)>,
    /// Player, clan and `joined_at`.
    pub opened: Vec<(&'a Tag, &'a Tag, TableTime)>,
    /// Those of the closed stays that mean that somebody left.
    pub departures: Vec<Move>,
}

/// `horizon`: a stored time later than this is wrong and is not waited for.
pub fn decide<'a>(
    placed: &BTreeMap<&'a Tag, Placed<'a>>,
    rolls: &HashMap<&'a str, Roll<'a>>,
    stays: &[Stay],
    horizon: TableTime,
) -> Changes<'a> {
    let mut of_player: HashMap<&str, Vec<&Stay>> = HashMap::new();
    for stay in stays {
        of_player.entry(&stay.player_tag).or_default().push(stay);
    }
    let mut changes = Changes::default();
    for (&player, placed) in placed {
        let stays = of_player.remove(player.as_str()).unwrap_or_default();
        place(player, *placed, rolls, &stays, horizon, &mut changes);
    }
    // Who is left has an open stay in a clan of the batch and is placed nowhere.
    let missing = of_player.into_values().flatten();
    let mut missing: Vec<(&Stay, TableTime)> = missing
        .filter_map(|stay| rolls.get(stay.clan_tag.as_str()).map(|roll| (stay, roll)))
        .filter(|(stay, roll)| has_left(stay, roll, horizon))
        .map(|(stay, roll)| (stay, roll.began))
        .collect();
    missing.sort_unstable_by_key(|(stay, _)| stay.id);
    for (stay, began) in missing {
        changes.close(stay, began);
        changes.departures.extend(departure(stay, began));
    }
    changes.departures.sort_unstable();
    changes.departures.dedup();
    changes
}

impl Changes<'_> {
    fn close(&mut self, stay: &Stay, began: TableTime) {
        // Nobody leaves before joining, unless that was at no time at all.
        let joined_at = Some(stay.joined_at).filter(|at| at.is_in_calendar());
        self.closed.push((stay.id, joined_at.map_or(began, |at| began.max(at))));
    }
}

/// Somebody else's row may name what is no tag.
fn departure(stay: &Stay, seen: TableTime) -> Option<Move> {
    let (player, clan) = (stay.player_tag.parse().ok()?, stay.clan_tag.parse().ok()?);
    Some(Move { player, clan, seen: from_utc(seen), joined: false })
}

fn place<'a>(
    player: &'a Tag,
    placed: Placed<'a>,
    rolls: &HashMap<&'a str, Roll<'a>>,
    stays: &[&Stay],
    horizon: TableTime,
    changes: &mut Changes<'a>,
) {
    let is_later = |at: TableTime| at > placed.moment && at <= horizon;
    if stays.iter().any(|stay| is_later(stay.joined_at) || stay.left_at.is_some_and(is_later)) {
        return;
    }
    // Of the same batch, a newer list of that very clan without the player.
    let is_missing = |clan: &Tag| {
        rolls
            .get(clan.as_str())
            .is_some_and(|roll| roll.moment > placed.moment && !roll.members.contains(player.as_str()))
    };
    let target = placed.clan.filter(|clan| !is_missing(clan));
    let open = || stays.iter().filter(|stay| stay.is_open());
    let kept = target.and_then(|clan| {
        open()
            .filter(|stay| stay.clan_tag == clan.as_str())
            .max_by_key(|stay| (stay.joined_at <= horizon, stay.joined_at, stay.id))
            .map(|stay| stay.id)
    });
    for stay in open().filter(|stay| Some(stay.id) != kept) {
        changes.close(stay, placed.began);
        // A second open row of the same stay says nothing new when it is closed.
        if target.is_none_or(|clan| clan.as_str() != stay.clan_tag) {
            changes.departures.extend(departure(stay, placed.began));
        }
    }
    if let (Some(clan), None) = (target, kept) {
        changes.opened.push((player, clan, free_start(clan, placed.began, stays)));
    }
}

/// The same stay cannot begin twice: after one that began in that very moment the next begins a microsecond later.
fn free_start(clan: &Tag, began: TableTime, stays: &[&Stay]) -> TableTime {
    let is_taken = |at| stays.iter().any(|stay| stay.clan_tag == clan.as_str() && stay.joined_at == at);
    let mut start = began;
    while is_taken(start) {
        start = just_after(start);
    }
    start
}

fn has_left(stay: &Stay, roll: &Roll<'_>, horizon: TableTime) -> bool {
    let is_later = |at: TableTime| at > roll.moment && at <= horizon;
    let is_listed = roll.members.contains(stay.player_tag.as_str());
    let is_newer_known = [stay.fetched_at, stay.member_at].into_iter().flatten().any(is_later);
    stay.is_open() && !is_listed && !is_newer_known && !is_later(stay.joined_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, store::plan::times::utc};

    fn at(seconds: i64) -> TableTime {
        utc(Timestamp::from_millis(seconds * 1000))
    }

    fn stay(id: i64, clan: &str, joined: i64, left: Option<i64>) -> Stay {
        Stay {
            id,
            player_tag: "2PP".to_owned(),
            clan_tag: clan.to_owned(),
            joined_at: at(joined),
            left_at: left.map(at),
            fetched_at: None,
            member_at: None,
        }
    }

    fn decide_one(clan: Option<&str>, moment: i64, stays: &[Stay]) -> (Vec<(i64, TableTime)>, Vec<TableTime>) {
        let (player, clan): (Tag, Option<Tag>) = ("2PP".parse().unwrap(), clan.map(|clan| clan.parse().unwrap()));
        let word = Placed { clan: clan.as_ref(), moment: at(moment), began: at(moment) };
        let changes = decide(&BTreeMap::from([(&player, word)]), &HashMap::new(), stays, at(1000));
        (changes.closed, changes.opened.into_iter().map(|(.., joined)| joined).collect())
    }

    #[test]
    fn a_true_open_stay_is_left_alone() {
        assert_eq!(decide_one(Some("8GG"), 100, &[stay(1, "8GG", 5, None)]), (vec![], vec![]));
    }

    #[test]
    fn a_move_closes_one_stay_and_opens_another() {
        let decided = decide_one(Some("9CC"), 100, &[stay(1, "8GG", 5, None)]);
        assert_eq!(decided, (vec![(1, at(100))], vec![at(100)]));
    }

    #[test]
    fn a_later_change_by_others_is_left_alone_unless_it_lies_in_a_wrong_future() {
        assert_eq!(decide_one(None, 100, &[stay(1, "8GG", 101, None)]), (vec![], vec![]));
        assert_eq!(decide_one(Some("8GG"), 100, &[stay(1, "8GG", 5, Some(101))]), (vec![], vec![]));
        assert_eq!(decide_one(None, 100, &[stay(1, "8GG", 5000, None)]), (vec![(1, at(5000))], vec![]));
    }

    #[test]
    fn two_stays_never_begin_in_the_same_moment() {
        let decided = decide_one(Some("8GG"), 100, &[stay(1, "8GG", 100, Some(100))]);
        assert_eq!(decided, (vec![], vec![just_after(at(100))]));
    }

    #[test]
    fn of_double_open_stays_the_newest_true_one_is_kept() {
        let stays = [stay(1, "8GG", 5, None), stay(2, "9CC", 8, None), stay(3, "8GG", 7, None)];
        assert_eq!(decide_one(Some("8GG"), 100, &stays), (vec![(1, at(100)), (2, at(100))], vec![]));
    }
}
