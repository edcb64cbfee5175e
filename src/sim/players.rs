//! Players and their documents. A player's document and the lists of the clan are made from the same values, so they agree.

use serde::Serialize;

use super::{
    clans::Clan,
    documents::{self, BadgeUrls, HashTag, Named, Pictured, PlayerHouse},
    game::{self, Unit, Village},
    names::{self, die},
};
use crate::model::Tag;

/// A rank in a clan; `Admin` is what the game shows as elder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Role {
    Leader,
    CoLeader,
    Admin,
    Member,
}

/// A player. Everything that is not kept here follows from the seed.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) tag: Tag,
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) town_hall: u32,
    pub(super) level: u32,
    pub(super) league_tier: u32,
    pub(super) trophies: u32,
    pub(super) attack_wins: u32,
    pub(super) donations: u32,
    pub(super) received: u32,
    pub(super) builder_trophies: u32,
    /// Index of the clan in the world.
    pub(super) clan: Option<usize>,
    pub(super) role: Role,
    /// The place in the clan's list at the last reset; 0 = was not there.
    pub(super) previous_rank: usize,
}

impl Player {
    pub(super) fn generate(seed: u64, tag: Tag, town_hall: u32) -> Self {
        let mut random = die(seed, 1);
        let league_tier = if town_hall < 7 || random.u8(..3) == 0 { 0 } else { random.u32(1..=town_hall * 33 / 18) };
        let trophies = if league_tier == 0 { random.u32(0..=town_hall * 220) } else { random.u32(0..750) };
        let active = random.u8(..4) > 0;
        Self {
            tag,
            name: names::player_name(&mut random),
            seed,
            town_hall,
            level: town_hall * 12 + random.u32(1..25),
            league_tier,
            trophies,
            attack_wins: if active { random.u32(0..40) } else { 0 },
            donations: if active { random.u32(0..2500) } else { 0 },
            received: if active { random.u32(0..1500) } else { 0 },
            // The builder base opens with the fourth town hall.
            builder_trophies: if town_hall < 4 { 0 } else { random.u32(0..=town_hall * 270) },
            clan: None,
            role: Role::Member,
            previous_rank: 0,
        }
    }

    /// The order in a clan's list: better tier first, then more trophies.
    pub(super) fn standing(&self) -> impl Ord + use<> {
        std::cmp::Reverse((self.league_tier, self.trophies, self.seed))
    }

    /// Missing for players who never had a builder base, and for some others.
    pub(super) fn house(&self) -> Option<PlayerHouse> {
        (self.town_hall > 8 && !self.seed.is_multiple_of(9)).then(|| PlayerHouse::of(self.seed))
    }

    /// The league of before the ranked era, as clan lists still show it.
    pub(super) fn old_league(&self) -> Pictured {
        documents::league(if self.league_tier == 0 { 0 } else { (self.town_hall + 2).min(22) })
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlayerDocument<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    town_hall_level: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    town_hall_weapon_level: Option<u32>,
    exp_level: u32,
    trophies: u32,
    best_trophies: u32,
    war_stars: u32,
    attack_wins: u32,
    defense_wins: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    builder_hall_level: Option<u32>,
    builder_base_trophies: u32,
    best_builder_base_trophies: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    war_preference: &'static str,
    donations: u32,
    donations_received: u32,
    clan_capital_contributions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    clan: Option<PlayersClan<'a>>,
    league_tier: Pictured,
    #[serde(skip_serializing_if = "Option::is_none")]
    builder_base_league: Option<Named>,
    #[serde(flatten)]
    group: Option<LeagueGroups>,
    achievements: Vec<AchievementDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    player_house: Option<PlayerHouse>,
    labels: Vec<Pictured>,
    troops: Vec<UnitDocument>,
    heroes: Vec<HeroDocument>,
    hero_equipment: Vec<UnitDocument>,
    spells: Vec<UnitDocument>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlayersClan<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    clan_level: u32,
    badge_urls: BadgeUrls,
}

/// Of ranked players, since early 2026.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LeagueGroups {
    current_league_group_tag: String,
    current_league_season_id: u64,
    previous_league_group_tag: String,
    previous_league_season_id: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AchievementDocument {
    name: &'static str,
    stars: u32,
    value: u64,
    target: u64,
    info: &'static str,
    completion_info: Option<String>,
    village: Village,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UnitDocument {
    name: &'static str,
    level: u32,
    max_level: u32,
    village: Village,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeroDocument {
    name: &'static str,
    level: u32,
    max_level: u32,
    /// Absent for heroes of the builder base.
    #[serde(skip_serializing_if = "Option::is_none")]
    equipment: Option<Vec<UnitDocument>>,
    village: Village,
}

/// The response to `/players/{tag}`. `clan` is the clan that the player is in.
pub(super) fn document(player: &Player, clan: Option<&Clan>) -> Vec<u8> {
    let mut random = die(player.seed, 2);
    // Beginners have no builder base yet.
    let builder_hall = (player.town_hall > 8).then(|| (player.town_hall / 2 + 1).min(10));
    let equipment = units(game::EQUIPMENT, player.town_hall, builder_hall, &mut random);
    documents::bytes(&PlayerDocument {
        tag: HashTag(&player.tag),
        name: &player.name,
        town_hall_level: player.town_hall,
        // Only these town halls have a weapon.
        town_hall_weapon_level: (12..=16).contains(&player.town_hall).then(|| random.u32(1..=5)),
        exp_level: player.level,
        trophies: player.trophies,
        best_trophies: player.trophies.max(player.town_hall * 250) + random.u32(0..400),
        war_stars: player.town_hall * random.u32(0..150),
        attack_wins: player.attack_wins,
        defense_wins: random.u32(0..10),
        builder_hall_level: builder_hall,
        builder_base_trophies: player.builder_trophies,
        best_builder_base_trophies: player.builder_trophies + random.u32(0..200),
        role: clan.map(|_| player.role),
        war_preference: if random.bool() { "in" } else { "out" },
        donations: player.donations,
        donations_received: player.received,
        clan_capital_contributions: player.town_hall * random.u32(0..150_000),
        clan: clan.map(|clan| PlayersClan {
            tag: HashTag(&clan.tag),
            name: &clan.name,
            clan_level: clan.level,
            badge_urls: BadgeUrls::of(clan.badge()),
        }),
        league_tier: documents::league_tier(player.league_tier),
        builder_base_league: builder_hall.map(|_| documents::builder_league(player.builder_trophies)),
        // Only players in the upper town halls play ranked.
        group: (player.league_tier > 0 && player.town_hall > 14).then(|| league_groups(&mut random)),
        achievements: achievements(player, &mut random),
        player_house: player.house(),
        labels: labels(&mut random),
        troops: units(game::TROOPS, player.town_hall, builder_hall, &mut random),
        heroes: heroes(player.town_hall, builder_hall, &equipment, &mut random),
        hero_equipment: equipment,
        spells: units(game::SPELLS, player.town_hall, builder_hall, &mut random),
    })
}

fn league_groups(random: &mut fastrand::Rng) -> LeagueGroups {
    // A Monday in March 2026, as recorded.
    let previous = 1_772_427_600;
    LeagueGroups {
        current_league_group_tag: names::tag(random).to_string(),
        current_league_season_id: previous + 7 * 24 * 3600,
        previous_league_group_tag: names::tag(random).to_string(),
        previous_league_season_id: previous,
    }
}

fn achievements(player: &Player, random: &mut fastrand::Rng) -> Vec<AchievementDocument> {
    let made = game::ACHIEVEMENTS.iter().map(|goal| {
        // The higher the town hall, the farther beyond the last target.
        let value = goal.target * u64::from(random.u32(0..=player.town_hall * 20)) / 100;
        // A star for each third, as in the game.
        let stars = (value * 3 / goal.target).min(3);
        AchievementDocument {
            name: goal.name,
            stars: u32::try_from(stars).unwrap_or(3),
            value,
            target: goal.target,
            info: goal.info,
            completion_info: goal.progress.map(|progress| progress_text(progress, value)),
            village: goal.village,
        }
    });
    made.collect()
}

fn progress_text(progress: &str, value: u64) -> String {
    if progress.ends_with(' ') { format!("{progress}{value}") } else { progress.to_owned() }
}

fn labels(random: &mut fastrand::Rng) -> Vec<Pictured> {
    let count = random.usize(0..=3);
    random.choose_multiple(game::PLAYER_LABELS, count).into_iter().map(documents::label).collect()
}

fn units(table: &[Unit], town_hall: u32, builder_hall: Option<u32>, random: &mut fastrand::Rng) -> Vec<UnitDocument> {
    let hall = |unit: &Unit| if unit.village == Village::Home { town_hall } else { builder_hall.unwrap_or(0) };
    let unlocked = table.iter().filter(|unit| unit.unlocked_at <= hall(unit));
    unlocked.map(|unit| trained(unit, hall(unit), random)).collect()
}

fn trained(unit: &Unit, hall: u32, random: &mut fastrand::Rng) -> UnitDocument {
    // Builder halls end at 10.
    let highest_hall = if unit.village == Village::Home { game::HIGHEST_TOWN_HALL } else { 10 };
    // Levels grow with the hall.
    let reachable = (unit.max_level * hall / highest_hall).clamp(1, unit.max_level);
    let level = random.u32(reachable.div_ceil(2)..=reachable);
    UnitDocument { name: unit.name, level, max_level: unit.max_level, village: unit.village }
}

fn heroes(
    town_hall: u32,
    builder_hall: Option<u32>,
    equipment: &[UnitDocument],
    random: &mut fastrand::Rng,
) -> Vec<HeroDocument> {
    let heroes = units(game::HEROES, town_hall, builder_hall, random).into_iter();
    let equipped = heroes.map(|hero| HeroDocument {
        name: hero.name,
        level: hero.level,
        max_level: hero.max_level,
        // Two pieces each: the first one is owned by every player.
        equipment: (hero.village == Village::Home && equipment.len() > 1)
            .then(|| vec![equipment[0].clone(), equipment[random.usize(1..equipment.len())].clone()]),
        village: hero.village,
    });
    equipped.collect()
}
