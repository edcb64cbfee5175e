//! Clan war leagues: groups in which every clan meets every other, with one round a day. The rounds are drawn one by one.

use std::time::Duration;

use serde::Serialize;

use super::{
    documents::{self, BadgeUrls, HashTag},
    names::{TagOffice, die},
    wars::{Fighter, Format, Schedule, Side, War},
};
use crate::{clock::Timestamp, model::Tag};

/// The tag of an undrawn war. It must never be requested.
const NOT_DRAWN: &str = "#0";

/// The fewest people of a side in a league war.
pub(super) const TEAM: usize = 15;

/// A group: its clans with the people they signed up, and its rounds.
#[derive(Debug)]
pub(super) struct Group {
    seed: u64,
    /// Preparation of the first round begins.
    start: Timestamp,
    /// The time from the beginning of a round to that of the next.
    day: Duration,
    clans: Vec<Side>,
    /// By round, then by match.
    war_tags: Vec<Vec<Tag>>,
}

/// The place of a war in its group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    round: usize,
    game: usize,
}

impl Group {
    /// An even number of clans.
    pub(super) fn draw(seed: u64, start: Timestamp, day: Duration, clans: Vec<Side>, office: &mut TagOffice) -> Self {
        let mut random = die(seed, 51);
        let games = clans.len() / 2;
        let rounds = clans.len().saturating_sub(1);
        let war_tags = (0..rounds).map(|_| (0..games).map(|_| office.give(&mut random)).collect()).collect();
        Self { seed, start, day, clans, war_tags }
    }

    pub(super) fn wars(&self) -> impl Iterator<Item = (Tag, Place)> {
        let rounds = self.war_tags.iter().enumerate();
        rounds.flat_map(|(round, tags)| {
            tags.iter().enumerate().map(move |(game, tag)| (tag.clone(), Place { round, game }))
        })
    }

    /// True when the round is drawn, which happens when its preparation begins.
    pub(super) fn is_drawn(&self, place: Place, now: Timestamp) -> bool {
        now >= self.schedule(place.round).preparation
    }

    fn schedule(&self, round: usize) -> Schedule {
        let day = |days: usize| self.start + self.day * u32::try_from(days).unwrap_or(u32::MAX);
        // The next round is in preparation while this one is fought.
        Schedule { preparation: day(round), start: day(round + 1), end: day(round + 2) }
    }

    /// Pairs the clans of a round. The first clan stays; the others move on by one place a round.
    fn pairing(&self, place: Place) -> [usize; 2] {
        // The circle method of round-robin tournaments.
        let moving = self.clans.len() - 1;
        let seat = |seat: usize| if seat == 0 { 0 } else { 1 + (seat - 1 + place.round) % moving };
        let pair = [seat(place.game), seat(self.clans.len() - 1 - place.game)];
        // In the real documents either clan may be `clan`.
        if (place.round + place.game).is_multiple_of(2) { pair } else { [pair[1], pair[0]] }
    }

    pub(super) fn war(&self, place: Place) -> War {
        let seed = self.seed ^ (place.round * 10 + place.game + 1) as u64;
        let sides = self.pairing(place).map(|clan| line_up(&self.clans[clan], die(seed, clan as u64)));
        War::draw_up(seed, Format::League, self.schedule(place.round), sides)
    }

    /// The response to `/clans/{tag}/currentwar/leaguegroup`.
    pub(super) fn document(&self, now: Timestamp) -> Vec<u8> {
        // The state is that of the whole season, not of a round.
        let last = self.schedule(self.war_tags.len().saturating_sub(1));
        let state = if now < self.start + self.day {
            "preparation"
        } else if now < last.end {
            "inWar"
        } else {
            "ended"
        };
        let utc = self.start.to_utc();
        documents::bytes(&GroupDocument {
            state,
            season: format!("{:04}-{:02}", utc.year(), u8::from(utc.month())),
            clans: self.clans.iter().map(clan_document).collect(),
            rounds: (0..self.war_tags.len()).map(|round| self.round(round, now)).collect(),
        })
    }

    fn round(&self, round: usize, now: Timestamp) -> RoundDocument {
        let tags = self.war_tags[round].iter().enumerate();
        let shown =
            tags.map(
                |(game, tag)| {
                    if self.is_drawn(Place { round, game }, now) { tag.to_string() } else { NOT_DRAWN.to_owned() }
                },
            );
        RoundDocument { war_tags: shown.collect() }
    }
}

/// The people of one war, out of those signed up. Their positions are those of the whole list, so there are gaps.
fn line_up(clan: &Side, mut random: fastrand::Rng) -> Side {
    let fighters = random.choose_multiple(clan.fighters.iter().cloned(), TEAM);
    Side { fighters, ..clan.clone() }
}

#[derive(Debug, Serialize)]
struct GroupDocument<'a> {
    state: &'static str,
    season: String,
    clans: Vec<GroupClan<'a>>,
    rounds: Vec<RoundDocument>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupClan<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    clan_level: u32,
    badge_urls: BadgeUrls,
    members: Vec<GroupMember<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupMember<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    town_hall_level: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RoundDocument {
    war_tags: Vec<String>,
}

fn clan_document(clan: &Side) -> GroupClan<'_> {
    GroupClan {
        tag: HashTag(&clan.tag),
        name: &clan.name,
        clan_level: clan.level,
        badge_urls: BadgeUrls::of(clan.badge),
        members: clan.fighters.iter().map(group_member).collect(),
    }
}

fn group_member(fighter: &Fighter) -> GroupMember<'_> {
    GroupMember { tag: HashTag(&fighter.tag), name: &fighter.name, town_hall_level: fighter.town_hall }
}

/// A clan outside the world, signed up with a few more people than a war needs.
pub(super) fn phantom(seed: u64) -> Side {
    Side::phantom(seed, TEAM + die(seed, 52).usize(0..12))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn group() -> Group {
        Group::draw(9, Timestamp::EPOCH, DAY, (1..=8).map(phantom).collect(), &mut TagOffice::default())
    }

    fn seen(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn every_clan_meets_every_other_once() {
        let group = group();
        let mut met = HashSet::new();
        for (_, place) in group.wars() {
            let mut pair = group.pairing(place);
            pair.sort_unstable();
            assert!(pair[0] < pair[1] && met.insert(pair), "{pair:?}");
        }
        assert_eq!(met.len(), 28);
    }

    #[test]
    fn clan_is_opponent_sometimes() {
        let group = group();
        let sides: HashSet<usize> =
            group.wars().filter_map(|(_, place)| group.pairing(place).iter().position(|clan| *clan == 3)).collect();
        assert_eq!(sides.len(), 2);
    }

    #[test]
    fn rounds_are_drawn_one_by_one() {
        let group = group();
        let shown = |half_days: u32| {
            let group = seen(&group.document(Timestamp::EPOCH + DAY / 2 * half_days));
            let rounds = group["rounds"].as_array().unwrap();
            let drawn = rounds.iter().filter(|round| round["warTags"][0] != NOT_DRAWN).count();
            (group["state"].as_str().unwrap().to_owned(), drawn)
        };
        assert_eq!(shown(1), ("preparation".into(), 1));
        assert_eq!(shown(3), ("inWar".into(), 2));
        assert_eq!(shown(13), ("inWar".into(), 7));
        assert_eq!(shown(16), ("ended".into(), 7));
    }

    #[test]
    fn league_war_positions_have_gaps() {
        let group = group();
        let positions: Vec<u64> = group
            .wars()
            .flat_map(|(_, place)| {
                let war = seen(&group.war(place).document(Timestamp::EPOCH, 0));
                assert_eq!(war["teamSize"], TEAM);
                let members = war["clan"]["members"].as_array().unwrap().clone();
                members.into_iter().map(|member| member["mapPosition"].as_u64().unwrap()).collect::<Vec<_>>()
            })
            .collect();
        assert!(positions.iter().any(|position| *position > TEAM as u64));
    }
}
