//! Memberships: the periods of players in clans. A pure decision from observations and stored rows.
//!
//! An open membership that is true stays as it is, since loyalty counts from its `joined_at`. A closed one is never opened
//! again. A player has at most one open membership.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::times::{TableTime, from_utc, just_after};
use crate::{
    columns::{Number, from_row},
    model::{Move, Tag},
};

/// A stored membership, and the times of the player's newest response and member list.
#[derive(Clone, Debug)]
pub struct Membership {
    pub id: i64,
    pub player_tag: String,
    pub clan_tag: String,
    pub joined_at: TableTime,
    pub left_at: Option<TableTime>,
    pub fetched_at: Option<TableTime>,
    pub member_at: Option<TableTime>,
}

from_row!(both: Membership { id: Number, player_tag, clan_tag, joined_at, left_at, fetched_at, member_at });

impl Membership {
    /// `NULL` and `infinity` both mean open.
    fn is_open(&self) -> bool {
        self.left_at.is_none_or(|at| at == TableTime::INFINITY)
    }
}

/// An observation of the clan that a player is in.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    /// `None`: in no clan.
    pub clan: Option<&'a Tag>,
    /// The time of the API's copy.
    pub observed_at: TableTime,
    /// The beginning of the call, written as `joined_at` and `left_at`.
    pub began: TableTime,
}

/// A clan's complete member list.
#[derive(Clone, Debug)]
pub struct MemberList<'a> {
    pub members: HashSet<&'a str>,
    pub observed_at: TableTime,
    pub began: TableTime,
}

/// The rows to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Id and `left_at`.
    pub closed: Vec<(i64, TableTime)>,
    /// Player, clan and `joined_at`.
    pub opened: Vec<(&'a Tag, &'a Tag, TableTime)>,
    /// The closed memberships that mean a departure.
    pub departures: Vec<Move>,
}

/// Stored times after `horizon` are wrong and do not count.
pub fn decide<'a>(
    locations: &BTreeMap<&'a Tag, Location<'a>>,
    member_lists: &HashMap<&'a str, MemberList<'a>>,
    memberships: &[Membership],
    horizon: TableTime,
) -> Changes<'a> {
    let mut of_player: HashMap<&str, Vec<&Membership>> = HashMap::new();
    for membership in memberships {
        of_player.entry(&membership.player_tag).or_default().push(membership);
    }
    let mut changes = Changes::default();
    for (&player, location) in locations {
        let memberships = of_player.remove(player.as_str()).unwrap_or_default();
        place(player, *location, member_lists, &memberships, horizon, &mut changes);
    }
    // The rest have an open membership in a clan of the batch, and no observation.
    let missing = of_player.into_values().flatten();
    let mut missing: Vec<(&Membership, TableTime)> = missing
        .filter_map(|membership| member_lists.get(membership.clan_tag.as_str()).map(|list| (membership, list)))
        .filter(|(membership, list)| has_left(membership, list, horizon))
        .map(|(membership, list)| (membership, list.began))
        .collect();
    // The order of a hash map is random; rows are closed in a fixed order.
    missing.sort_unstable_by_key(|(membership, _)| membership.id);
    for (membership, began) in missing {
        changes.close(membership, began);
        changes.departures.extend(departure(membership, began));
    }
    // Duplicate rows of a membership are one departure.
    changes.departures.sort_unstable();
    changes.departures.dedup();
    changes
}

impl Changes<'_> {
    fn close(&mut self, membership: &Membership, began: TableTime) {
        // Nobody leaves before joining. A `joined_at` outside the calendar does not count.
        let joined_at = Some(membership.joined_at).filter(|at| at.is_in_calendar());
        self.closed.push((membership.id, joined_at.map_or(began, |at| began.max(at))));
    }
}

/// `None` when a row of another program names something that is not a tag.
fn departure(membership: &Membership, seen: TableTime) -> Option<Move> {
    let (player, clan) = (membership.player_tag.parse().ok()?, membership.clan_tag.parse().ok()?);
    Some(Move { player, clan, seen: from_utc(seen), joined: false })
}

fn place<'a>(
    player: &'a Tag,
    location: Location<'a>,
    member_lists: &HashMap<&'a str, MemberList<'a>>,
    memberships: &[&Membership],
    horizon: TableTime,
    changes: &mut Changes<'a>,
) {
    // A later change by another program outweighs ours, unless its clock was wrong.
    let is_later = |at: TableTime| at > location.observed_at && at <= horizon;
    if memberships.iter().any(|membership| is_later(membership.joined_at) || membership.left_at.is_some_and(is_later)) {
        return;
    }
    // A newer list of the same clan in this batch does not have the player.
    let is_missing = |clan: &Tag| {
        member_lists
            .get(clan.as_str())
            .is_some_and(|list| list.observed_at > location.observed_at && !list.members.contains(player.as_str()))
    };
    let target = location.clan.filter(|clan| !is_missing(clan));
    let open = || memberships.iter().filter(|membership| membership.is_open());
    let kept = target.and_then(|clan| {
        open()
            .filter(|membership| membership.clan_tag == clan.as_str())
            // A `joined_at` beyond the horizon is wrong, so any other row is better.
            .max_by_key(|membership| (membership.joined_at <= horizon, membership.joined_at, membership.id))
            .map(|membership| membership.id)
    });
    for membership in open().filter(|membership| Some(membership.id) != kept) {
        changes.close(membership, location.began);
        // Closing a duplicate row of the same membership is not a departure.
        if target.is_none_or(|clan| clan.as_str() != membership.clan_tag) {
            changes.departures.extend(departure(membership, location.began));
        }
    }
    if let (Some(clan), None) = (target, kept) {
        changes.opened.push((player, clan, free_start(clan, location.began, memberships)));
    }
}

/// The first free `joined_at`: a row that began at the same time pushes the new one back by a microsecond.
fn free_start(clan: &Tag, began: TableTime, memberships: &[&Membership]) -> TableTime {
    let is_taken =
        |at| memberships.iter().any(|membership| membership.clan_tag == clan.as_str() && membership.joined_at == at);
    let mut start = began;
    while is_taken(start) {
        start = just_after(start);
    }
    start
}

fn has_left(membership: &Membership, list: &MemberList<'_>, horizon: TableTime) -> bool {
    let is_later = |at: TableTime| at > list.observed_at && at <= horizon;
    let is_listed = list.members.contains(membership.player_tag.as_str());
    // The player's own response, or a list of another clan, may be newer than this list.
    let is_newer_known = [membership.fetched_at, membership.member_at].into_iter().flatten().any(is_later);
    membership.is_open() && !is_listed && !is_newer_known && !is_later(membership.joined_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, store::plan::times::utc};

    fn at(seconds: i64) -> TableTime {
        utc(Timestamp::from_millis(seconds * 1000))
    }

    fn membership(id: i64, clan: &str, joined: i64, left: Option<i64>) -> Membership {
        Membership {
            id,
            player_tag: "2PP".to_owned(),
            clan_tag: clan.to_owned(),
            joined_at: at(joined),
            left_at: left.map(at),
            fetched_at: None,
            member_at: None,
        }
    }

    fn decide_one(
        clan: Option<&str>,
        observed_at: i64,
        memberships: &[Membership],
    ) -> (Vec<(i64, TableTime)>, Vec<TableTime>) {
        let (player, clan): (Tag, Option<Tag>) = ("2PP".parse().unwrap(), clan.map(|clan| clan.parse().unwrap()));
        let location = Location { clan: clan.as_ref(), observed_at: at(observed_at), began: at(observed_at) };
        let changes = decide(&BTreeMap::from([(&player, location)]), &HashMap::new(), memberships, at(1000));
        (changes.closed, changes.opened.into_iter().map(|(.., joined)| joined).collect())
    }

    #[test]
    fn true_open_membership_stays() {
        assert_eq!(decide_one(Some("8GG"), 100, &[membership(1, "8GG", 5, None)]), (vec![], vec![]));
    }

    #[test]
    fn move_closes_one_membership_opens_another() {
        let decided = decide_one(Some("9CC"), 100, &[membership(1, "8GG", 5, None)]);
        assert_eq!(decided, (vec![(1, at(100))], vec![at(100)]));
    }

    #[test]
    fn later_change_stays_unless_beyond_horizon() {
        assert_eq!(decide_one(None, 100, &[membership(1, "8GG", 101, None)]), (vec![], vec![]));
        assert_eq!(decide_one(Some("8GG"), 100, &[membership(1, "8GG", 5, Some(101))]), (vec![], vec![]));
        assert_eq!(decide_one(None, 100, &[membership(1, "8GG", 5000, None)]), (vec![(1, at(5000))], vec![]));
    }

    #[test]
    fn two_memberships_never_begin_together() {
        let decided = decide_one(Some("8GG"), 100, &[membership(1, "8GG", 100, Some(100))]);
        assert_eq!(decided, (vec![], vec![just_after(at(100))]));
    }

    #[test]
    fn duplicate_open_memberships_keep_newest_true_one() {
        let memberships = [membership(1, "8GG", 5, None), membership(2, "9CC", 8, None), membership(3, "8GG", 7, None)];
        assert_eq!(decide_one(Some("8GG"), 100, &memberships), (vec![(1, at(100)), (2, at(100))], vec![]));
    }
}
