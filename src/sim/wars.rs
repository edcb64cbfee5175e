//! Wars: two sides, their attacks, and the part of them that can be seen at a moment.
//!
//! A war is made complete when it begins, attacks included. Time only uncovers it.

use std::time::Duration;

use serde::Serialize;

use super::{
    documents::{self, BadgeUrls, HashTag, Moment, NO_BADGE},
    names::{self, die, pick},
};
use crate::{clock::Timestamp, model::Tag};

/// The state of a war, in the words of the service. A league uses the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum WarState {
    NotInWar,
    Preparation,
    InWar,
    WarEnded,
}

/// A fighter, in the shape of a war's document.
#[derive(Clone, Debug)]
pub(super) struct Fighter {
    pub(super) tag: Tag,
    pub(super) name: String,
    pub(super) town_hall: u32,
    /// 1 = the strongest. In league wars positions have gaps.
    pub(super) position: usize,
}

/// A side of a war.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) tag: Tag,
    pub(super) name: String,
    pub(super) level: u32,
    pub(super) badge: u64,
    /// In no order, as in the service's responses.
    pub(super) fighters: Vec<Fighter>,
}

impl Side {
    /// A clan outside the world: only its name and its people in this war are known.
    pub(super) fn phantom(seed: u64, size: usize) -> Self {
        let mut random = die(seed, 31);
        let strongest = random.u32(6..=18);
        let fighters = (1..=size).map(|position| Fighter {
            tag: names::tag(&mut random),
            name: names::player_name(&mut random),
            town_hall: strongest.saturating_sub(u32::try_from(position / 6).unwrap_or(0)).max(1),
            position,
        });
        let fighters = fighters.collect();
        let (tag, name) = (names::tag(&mut random), names::clan_name(&mut random));
        Self { tag, name, level: random.u32(1..=30), badge: seed | 1, fighters }
    }
}

/// The times of a war.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) preparation: Timestamp,
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

impl Schedule {
    pub(super) fn state(&self, now: Timestamp) -> WarState {
        if now < self.start {
            WarState::Preparation
        } else if now < self.end {
            WarState::InWar
        } else {
            WarState::WarEnded
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Two attacks for each.
    Ordinary,
    /// A single attack for each, and the mark of a friendly war: `attacksPerMember` 1.
    Friendly,
    /// A single attack for each, `warStartTime`, and no `attacksPerMember`.
    League,
}

#[derive(Debug)]
pub(super) struct War {
    pub(super) schedule: Schedule,
    format: Format,
    sides: [Side; 2],
    /// In order of time.
    attacks: Vec<Attack>,
}

#[derive(Clone, Copy, Debug)]
struct Attack {
    at: Timestamp,
    side: usize,
    attacker: usize,
    defender: usize,
    stars: u32,
    destruction: u32,
    duration_seconds: u32,
}

impl War {
    /// Makes a war; both sides have as many fighters.
    pub(super) fn draw_up(seed: u64, format: Format, schedule: Schedule, mut sides: [Side; 2]) -> Self {
        let mut random = die(seed, 41);
        for side in &mut sides {
            // Real responses list members in no order.
            random.shuffle(&mut side.fighters);
        }
        let mut attacks = Vec::new();
        for side in 0..2 {
            for attacker in 0..sides[side].fighters.len() {
                attacks_of(attacker, side, format, schedule, &sides, &mut random, &mut attacks);
            }
        }
        // The number of an attack follows from its time. The rest breaks ties the same way every time.
        attacks.sort_by_key(|attack| (attack.at, attack.side, attack.attacker));
        Self { schedule, format, sides, attacks }
    }

    /// The war as bytes, seen at `now` by the side with this index.
    pub(super) fn document(&self, now: Timestamp, viewer: usize) -> Vec<u8> {
        let shown = self.attacks.partition_point(|attack| attack.at <= now);
        let attacks = &self.attacks[..shown];
        let league = self.format == Format::League;
        documents::bytes(&WarDocument {
            state: self.schedule.state(now),
            team_size: self.sides[0].fighters.len(),
            attacks_per_member: match self.format {
                Format::Ordinary => Some(2),
                Format::Friendly => Some(1),
                Format::League => None,
            },
            battle_modifier: (!league).then_some("none"),
            preparation_start_time: Moment(self.schedule.preparation),
            start_time: Moment(self.schedule.start),
            end_time: Moment(self.schedule.end),
            clan: self.side(viewer, attacks),
            opponent: self.side(1 - viewer, attacks),
            war_start_time: league.then_some(Moment(self.schedule.start)),
        })
    }

    fn side<'a>(&'a self, index: usize, attacks: &[Attack]) -> SideDocument<'a> {
        let side = &self.sides[index];
        let members: Vec<MemberDocument> =
            (0..side.fighters.len()).map(|fighter| self.member(index, fighter, attacks)).collect();
        let hits = self.sides[1 - index].fighters.iter().enumerate();
        // Only the best attack on each village counts for a side.
        let best = hits.filter_map(|(defender, _)| best_hit(attacks, index, defender)).map(|(_, attack)| attack);
        // The percentage of a side is the mean over all villages of the other side.
        let (stars, destruction) = best.fold((0, 0), |sum, hit| (sum.0 + hit.stars, sum.1 + hit.destruction));
        SideDocument {
            tag: HashTag(&side.tag),
            name: &side.name,
            badge_urls: BadgeUrls::of(side.badge),
            clan_level: side.level,
            attacks: attacks.iter().filter(|attack| attack.side == index).count(),
            stars,
            destruction_percentage: f64::from(destruction)
                / f64::from(u32::try_from(side.fighters.len().max(1)).unwrap_or(u32::MAX)),
            members,
        }
    }

    fn member<'a>(&'a self, side: usize, index: usize, attacks: &[Attack]) -> MemberDocument<'a> {
        let fighter = &self.sides[side].fighters[index];
        let numbered = attacks.iter().enumerate();
        let own = numbered.filter(|(_, attack)| attack.side == side && attack.attacker == index);
        let own: Vec<AttackDocument> = own.map(|(number, attack)| self.attack(number, attack)).collect();
        let suffered = attacks.iter().filter(|attack| attack.side != side && attack.defender == index).count();
        let best = best_hit(attacks, 1 - side, index);
        MemberDocument {
            tag: HashTag(&fighter.tag),
            name: &fighter.name,
            townhall_level: fighter.town_hall,
            map_position: fighter.position,
            attacks: (!own.is_empty()).then_some(own),
            opponent_attacks: suffered,
            best_opponent_attack: best.map(|(number, attack)| self.attack(number, attack)),
        }
    }

    fn attack(&self, number: usize, attack: &Attack) -> AttackDocument<'_> {
        AttackDocument {
            attacker_tag: HashTag(&self.sides[attack.side].fighters[attack.attacker].tag),
            defender_tag: HashTag(&self.sides[1 - attack.side].fighters[attack.defender].tag),
            stars: attack.stars,
            destruction_percentage: attack.destruction,
            order: number + 1,
            duration: attack.duration_seconds,
        }
    }
}

/// The best attack that `side` has made on this defender, with its number.
fn best_hit(attacks: &[Attack], side: usize, defender: usize) -> Option<(usize, &Attack)> {
    let hits = attacks.iter().enumerate().filter(|(_, attack)| attack.side == side && attack.defender == defender);
    // Of equal attacks the first counts.
    hits.max_by_key(|(number, attack)| (attack.stars, attack.destruction, std::cmp::Reverse(*number)))
}

/// Most use every attack, some one of two, some none. Nobody attacks the same village twice.
fn attacks_of(
    attacker: usize,
    side: usize,
    format: Format,
    schedule: Schedule,
    sides: &[Side; 2],
    random: &mut fastrand::Rng,
    attacks: &mut Vec<Attack>,
) {
    let allowed = if format == Format::Ordinary { 2 } else { 1 };
    let defenders = sides[1 - side].fighters.len();
    // Four of five allowed attacks are made.
    let used = (0..allowed).filter(|_| random.u8(..10) < 8).count().min(defenders);
    let war_millis = u64::try_from(schedule.end.since(schedule.start).as_millis()).unwrap_or(u64::MAX).max(1);
    let chosen = random.choose_multiple(0..defenders, used);
    for defender in chosen {
        // Most attacks bring two or three stars.
        let stars = pick(random, &[0, 1, 2, 2, 3, 3, 3]);
        let destruction = match stars {
            3 => 100,
            0 => random.u32(5..50),
            _ => random.u32(50..100),
        };
        // Anywhere within the war, so that every moment shows another state of it.
        let at = schedule.start + Duration::from_millis(random.u64(0..war_millis));
        attacks.push(Attack {
            at,
            side,
            attacker,
            defender,
            stars,
            destruction,
            duration_seconds: random.u32(40..=180),
        });
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WarDocument<'a> {
    state: WarState,
    team_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    attacks_per_member: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    battle_modifier: Option<&'static str>,
    preparation_start_time: Moment,
    start_time: Moment,
    end_time: Moment,
    clan: SideDocument<'a>,
    opponent: SideDocument<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    war_start_time: Option<Moment>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SideDocument<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    badge_urls: BadgeUrls,
    clan_level: u32,
    attacks: usize,
    stars: u32,
    destruction_percentage: f64,
    members: Vec<MemberDocument<'a>>,
}

/// `attacks` and `bestOpponentAttack` are absent until there is one, never empty.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberDocument<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    /// Lower-case h, unlike everywhere else.
    #[serde(rename = "townhallLevel")]
    townhall_level: u32,
    map_position: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    attacks: Option<Vec<AttackDocument<'a>>>,
    opponent_attacks: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_opponent_attack: Option<AttackDocument<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttackDocument<'a> {
    attacker_tag: HashTag<'a>,
    defender_tag: HashTag<'a>,
    stars: u32,
    destruction_percentage: u32,
    order: usize,
    duration: u32,
}

#[derive(Debug, Serialize)]
struct PeaceDocument {
    state: WarState,
    clan: NoSide,
    opponent: NoSide,
}

/// A side of no war: it has a badge and zeros, but neither tag nor name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NoSide {
    badge_urls: BadgeUrls,
    clan_level: u32,
    attacks: u32,
    stars: u32,
    destruction_percentage: f64,
}

/// The document of a clan that is not in war. It is not empty.
pub(super) fn peace() -> Vec<u8> {
    let side = || NoSide {
        badge_urls: BadgeUrls::of(NO_BADGE),
        clan_level: 0,
        attacks: 0,
        stars: 0,
        destruction_percentage: 0.0,
    };
    documents::bytes(&PeaceDocument { state: WarState::NotInWar, clan: side(), opponent: side() })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn war(format: Format) -> War {
        let at = |hours: u64| Timestamp::EPOCH + Duration::from_secs(hours * 3600);
        let schedule = Schedule { preparation: at(1), start: at(24), end: at(48) };
        War::draw_up(5, format, schedule, [Side::phantom(1, 15), Side::phantom(2, 15)])
    }

    fn seen(war: &War, hour: u64, viewer: usize) -> Value {
        serde_json::from_slice(&war.document(Timestamp::EPOCH + Duration::from_secs(hour * 3600), viewer)).unwrap()
    }

    #[test]
    fn war_passes_through_its_states() {
        let war = war(Format::Ordinary);
        let shown = |hour| {
            let seen = seen(&war, hour, 0);
            (seen["state"].as_str().unwrap().to_owned(), seen["clan"]["attacks"].as_u64().unwrap())
        };
        assert_eq!(shown(2), ("preparation".into(), 0));
        let (state, midway) = shown(36);
        assert_eq!(state, "inWar");
        let (state, all) = shown(50);
        assert_eq!(state, "warEnded");
        assert!(0 < midway && midway < all, "{midway} {all}");
    }

    #[test]
    fn both_sides_see_same_war() {
        let war = war(Format::Ordinary);
        let (one, other) = (seen(&war, 40, 0), seen(&war, 40, 1));
        assert_eq!((&one["clan"], &one["opponent"]), (&other["opponent"], &other["clan"]));
    }

    #[test]
    fn attacks_are_absent_before_first() {
        let early = seen(&war(Format::Ordinary), 2, 0);
        for member in early["clan"]["members"].as_array().unwrap() {
            assert!(member.get("attacks").is_none() && member.get("bestOpponentAttack").is_none());
            assert_eq!(member["opponentAttacks"], 0);
        }
    }

    #[test]
    fn sums_match_attacks() {
        let seen = seen(&war(Format::Ordinary), 50, 0);
        let victims = seen["opponent"]["members"].as_array().unwrap();
        let best =
            |key: &str| victims.iter().filter_map(|victim| victim["bestOpponentAttack"][key].as_u64()).sum::<u64>();
        assert_eq!(seen["clan"]["stars"], best("stars"));
        let destruction = seen["clan"]["destructionPercentage"].as_f64().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a small sum")]
        let expected = best("destructionPercentage") as f64 / 15.0;
        assert!((destruction - expected).abs() < 1e-9);
    }

    #[test]
    fn league_wars_have_own_marks() {
        let league = seen(&war(Format::League), 30, 0);
        assert_eq!(league["warStartTime"], league["startTime"]);
        assert!(league.get("attacksPerMember").is_none());
        assert_eq!(seen(&war(Format::Friendly), 30, 0)["attacksPerMember"], 1);
    }

    #[test]
    fn peace_names_no_clan() {
        let peace: Value = serde_json::from_slice(&peace()).unwrap();
        assert_eq!(peace["clan"], peace["opponent"]);
        assert!(peace["clan"].get("tag").is_none());
    }
}
