//! The lists of past events: the war log and the capital's raid seasons. Small, in the right shape.

use std::time::Duration;

use serde::Serialize;

use super::{
    clans::Clan,
    documents::{self, BadgeUrls, HashTag, Moment, NO_BADGE, Page},
    game,
    names::{self, die},
    players::Player,
    wars::Side,
};
use crate::{clock::Timestamp, model::Tag};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogEntry<'a> {
    /// Null for the summary of a league season.
    result: Option<&'static str>,
    end_time: Moment,
    team_size: usize,
    attacks_per_member: u32,
    battle_modifier: &'static str,
    clan: LogClan<'a>,
    opponent: LogOpponent,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogClan<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    badge_urls: BadgeUrls,
    clan_level: u32,
    attacks: u32,
    stars: u32,
    destruction_percentage: f64,
    exp_earned: u32,
}

/// Without tag and name in league summaries, and when the clan is no more.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogOpponent {
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    badge_urls: BadgeUrls,
    clan_level: u32,
    stars: u32,
    destruction_percentage: f64,
}

/// The response to `/clans/{tag}/warlog`.
pub(super) fn war_log(clan: &Clan, now: Timestamp, limit: Option<usize>) -> Vec<u8> {
    let mut random = die(clan.seed, 61);
    let entries = (0..random.u32(4..20)).map(|index| {
        // A war every three days, the newest first.
        let end = now - DAY * 3 * (index + 1);
        // Now and then a season of a league stands among the wars.
        if index % 7 == 2 { league_summary(clan, end, &mut random) } else { past_war(clan, end, &mut random) }
    });
    documents::bytes(&Page::first(entries.collect(), limit))
}

fn past_war<'a>(clan: &'a Clan, end: Timestamp, random: &mut fastrand::Rng) -> LogEntry<'a> {
    let team_size = random.usize(1..=10) * 5;
    // Three stars for each village.
    let most = u32::try_from(team_size).unwrap_or(50) * 3;
    let (stars, their_stars) = (random.u32(0..=most), random.u32(0..=most));
    let result = match stars.cmp(&their_stars) {
        std::cmp::Ordering::Greater => "win",
        std::cmp::Ordering::Less => "lose",
        std::cmp::Ordering::Equal => "tie",
    };
    // Opponents that were dissolved since have neither tag nor name.
    let is_no_more = random.u8(..10) == 0;
    let percent = |random: &mut fastrand::Rng| f64::from(random.u32(0..=100_000)) / 1000.0;
    LogEntry {
        result: Some(result),
        end_time: Moment(end),
        team_size,
        attacks_per_member: 2,
        battle_modifier: "none",
        clan: LogClan {
            tag: HashTag(&clan.tag),
            name: &clan.name,
            badge_urls: BadgeUrls::of(clan.badge()),
            clan_level: clan.level,
            attacks: random.u32(0..=most * 2 / 3),
            stars,
            destruction_percentage: percent(random),
            exp_earned: random.u32(0..700),
        },
        opponent: LogOpponent {
            tag: (!is_no_more).then(|| names::tag(random).to_string()),
            name: (!is_no_more).then(|| names::clan_name(random)),
            badge_urls: BadgeUrls::of(if is_no_more { NO_BADGE } else { random.u64(..) }),
            clan_level: if is_no_more { 0 } else { random.u32(1..=30) },
            stars: their_stars,
            destruction_percentage: percent(random),
        },
    }
}

/// Seven wars in one row: the percentage goes far beyond 100.
fn league_summary<'a>(clan: &'a Clan, end: Timestamp, random: &mut fastrand::Rng) -> LogEntry<'a> {
    let mut entry = past_war(clan, end, random);
    // A summary has no opponent and no result.
    entry.result = None;
    entry.team_size = 15;
    entry.attacks_per_member = 1;
    entry.clan.destruction_percentage += 500.0;
    entry.clan.exp_earned = 0;
    entry.opponent =
        LogOpponent { tag: None, name: None, badge_urls: BadgeUrls::of(NO_BADGE), clan_level: 0, ..entry.opponent };
    entry
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RaidSeason<'a> {
    state: &'static str,
    start_time: Moment,
    end_time: Moment,
    capital_total_loot: u32,
    raids_completed: u32,
    total_attacks: u32,
    enemy_districts_destroyed: u32,
    offensive_reward: u32,
    defensive_reward: u32,
    /// On the newest season only.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<Raider<'a>>>,
    attack_log: Vec<Raid>,
    defense_log: Vec<Raid>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Raider<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    attacks: u32,
    attack_limit: u32,
    bonus_attack_limit: u32,
    capital_resources_looted: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Raid {
    #[serde(skip_serializing_if = "Option::is_none")]
    defender: Option<RaidClan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attacker: Option<RaidClan>,
    attack_count: u32,
    district_count: usize,
    districts_destroyed: usize,
    districts: Vec<RaidDistrict>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RaidClan {
    tag: String,
    name: String,
    level: u32,
    badge_urls: BadgeUrls,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RaidDistrict {
    id: u32,
    name: &'static str,
    district_hall_level: u32,
    destruction_percent: u32,
    stars: u32,
    attack_count: u32,
    total_looted: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    attacks: Option<Vec<RaidAttack>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RaidAttack {
    attacker: RaidAttacker,
    destruction_percent: u32,
    stars: u32,
}

#[derive(Debug, Serialize)]
struct RaidAttacker {
    tag: String,
    name: String,
}

/// The response to `/clans/{tag}/capitalraidseasons`: three weekends, the newest first.
pub(super) fn raid_seasons(clan: &Clan, ranking: &[&Player], now: Timestamp, limit: Option<usize>) -> Vec<u8> {
    let mut random = die(clan.seed, 62);
    let seasons = (0..3).map(|weeks| season(now - DAY * 7 * weeks, weeks == 0, ranking, &mut random));
    documents::bytes(&Page::first(seasons.collect(), limit))
}

fn season<'a>(near: Timestamp, newest: bool, ranking: &[&'a Player], random: &mut fastrand::Rng) -> RaidSeason<'a> {
    // Friday seven o'clock to Monday seven o'clock; the epoch was a Thursday.
    let week = 7 * 24 * 3600 * 1000;
    let friday = (24 + 7) * 3600 * 1000;
    let start = Timestamp::from_millis((near.as_millis() - friday).div_euclid(week) * week + friday);
    let end = start + DAY * 3;
    let raider = |player: &&'a Player| Raider {
        tag: HashTag(&player.tag),
        name: &player.name,
        attacks: 6,
        attack_limit: 5,
        bonus_attack_limit: 1,
        capital_resources_looted: 20_000 + player.level,
    };
    let people: Vec<(Tag, String)> =
        ranking.iter().take(5).map(|player| (player.tag.clone(), player.name.clone())).collect();
    RaidSeason {
        state: if newest && near < end { "ongoing" } else { "ended" },
        start_time: Moment(start),
        end_time: Moment(end),
        capital_total_loot: random.u32(10_000..900_000),
        // The numbers need not agree with the raids below: readers use them as they are.
        raids_completed: random.u32(0..7),
        total_attacks: random.u32(0..300),
        enemy_districts_destroyed: random.u32(0..60),
        offensive_reward: random.u32(0..1700),
        defensive_reward: random.u32(0..400),
        // Real seasons list their members only while they are the newest.
        members: newest.then(|| ranking.iter().take(20).map(raider).collect()),
        attack_log: vec![raid(true, &people, random)],
        defense_log: vec![raid(false, &[], random)],
    }
}

fn raid(ours: bool, people: &[(Tag, String)], random: &mut fastrand::Rng) -> Raid {
    let stranger = Side::phantom(random.u64(..), 5);
    let strangers: Vec<(Tag, String)> =
        stranger.fighters.iter().map(|fighter| (fighter.tag.clone(), fighter.name.clone())).collect();
    // The people of an empty clan cannot attack.
    let attackers = if ours && !people.is_empty() { people } else { &strangers[..] };
    let districts: Vec<RaidDistrict> =
        (70_000_000..).zip(game::DISTRICTS).map(|(id, name)| district(id, name, attackers, random)).collect();
    let clan = RaidClan {
        tag: stranger.tag.to_string(),
        name: stranger.name,
        level: stranger.level,
        badge_urls: BadgeUrls::of(stranger.badge),
    };
    let (defender, attacker) = if ours { (Some(clan), None) } else { (None, Some(clan)) };
    Raid {
        defender,
        attacker,
        attack_count: districts.iter().map(|district| district.attack_count).sum(),
        district_count: districts.len(),
        districts_destroyed: districts.iter().filter(|district| district.stars == 3).count(),
        districts,
    }
}

fn district(id: u32, name: &'static str, attackers: &[(Tag, String)], random: &mut fastrand::Rng) -> RaidDistrict {
    let attack_count = random.u32(0..4);
    let attacks: Vec<RaidAttack> = (0..attack_count)
        .map(|number| {
            let (tag, name) = &attackers[random.usize(..attackers.len())];
            // The last attack finishes the district.
            let last = number + 1 == attack_count;
            RaidAttack {
                attacker: RaidAttacker { tag: tag.to_string(), name: name.clone() },
                destruction_percent: if last { 100 } else { random.u32(20..100) },
                stars: if last { 3 } else { random.u32(0..3) },
            }
        })
        .collect();
    let destroyed = attack_count > 0;
    RaidDistrict {
        id,
        name,
        district_hall_level: if id == 70_000_000 { random.u32(5..=10) } else { random.u32(1..=5) },
        destruction_percent: if destroyed { 100 } else { 0 },
        stars: if destroyed { 3 } else { 0 },
        attack_count,
        total_looted: attack_count * random.u32(800..4000),
        attacks: destroyed.then_some(attacks),
    }
}
