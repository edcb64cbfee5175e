//! Clans and their documents.

use serde::Serialize;

use super::{
    documents::{self, BadgeUrls, HashTag, Named, Pictured, PlayerHouse},
    game,
    names::{self, die, pick},
    players::{Player, Role},
};
use crate::model::Tag;

/// The most members a clan can have.
pub(super) const FULL: usize = 50;

/// A clan. Everything that is not kept here follows from the seed.
#[derive(Debug)]
pub(super) struct Clan {
    pub(super) tag: Tag,
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) level: u32,
    pub(super) war_log_public: bool,
    pub(super) war_wins: u32,
    pub(super) war_win_streak: u32,
    /// Indices of players in the world, in no order.
    pub(super) members: Vec<usize>,
}

impl Clan {
    pub(super) fn generate(seed: u64, tag: Tag, war_log_public: bool) -> Self {
        let mut random = die(seed, 1);
        Self {
            tag,
            name: names::clan_name(&mut random),
            seed,
            level: random.u32(1..=30),
            war_log_public,
            war_wins: random.u32(0..600),
            war_win_streak: random.u32(0..6),
            members: Vec::new(),
        }
    }

    pub(super) fn badge(&self) -> u64 {
        // 0 is the badge of no clan.
        self.seed | 1
    }

    /// The members, best first, as in the list of the clan.
    pub(super) fn ranking<'a>(&self, players: &'a [Player]) -> Vec<&'a Player> {
        let mut ranking: Vec<&Player> = self.members.iter().map(|member| &players[*member]).collect();
        // The list of a clan is sorted when it is shown, since trophies change.
        ranking.sort_by_key(|player| player.standing());
        ranking
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClanDocument<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
    is_family_friendly: bool,
    badge_urls: BadgeUrls,
    clan_level: u32,
    clan_points: u32,
    clan_builder_base_points: u32,
    clan_capital_points: u32,
    capital_league: Named,
    required_trophies: u32,
    war_frequency: &'static str,
    war_win_streak: u32,
    war_wins: u32,
    /// Ties and losses are shown exactly when the war log is public.
    #[serde(skip_serializing_if = "Option::is_none")]
    war_ties: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    war_losses: Option<u32>,
    is_war_log_public: bool,
    war_league: Named,
    members: usize,
    member_list: Vec<MemberDocument<'a>>,
    labels: Vec<Pictured>,
    required_builder_base_trophies: u32,
    required_townhall_level: u32,
    clan_capital: Capital,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_language: Option<ChatLanguage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    id: u32,
    name: &'static str,
    is_country: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    country_code: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ChatLanguage {
    id: u32,
    name: &'static str,
    language_code: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberDocument<'a> {
    tag: HashTag<'a>,
    name: &'a str,
    role: Role,
    town_hall_level: u32,
    exp_level: u32,
    league: Pictured,
    league_tier: Pictured,
    trophies: u32,
    builder_base_trophies: u32,
    clan_rank: usize,
    previous_clan_rank: usize,
    donations: u32,
    donations_received: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    player_house: Option<PlayerHouse>,
    builder_base_league: Named,
}

/// Empty for a clan that has not built one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Capital {
    #[serde(skip_serializing_if = "Option::is_none")]
    capital_hall_level: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    districts: Option<Vec<CapitalDistrict>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CapitalDistrict {
    id: u32,
    name: &'static str,
    district_hall_level: u32,
}

/// The response to `/clans/{tag}`.
pub(super) fn document(clan: &Clan, players: &[Player]) -> Vec<u8> {
    let mut random = die(clan.seed, 2);
    let ranking = clan.ranking(players);
    let public = clan.war_log_public;
    documents::bytes(&ClanDocument {
        tag: HashTag(&clan.tag),
        name: &clan.name,
        kind: pick(&mut random, &["open", "inviteOnly", "closed"]),
        description: names::description(&mut random),
        // One clan of ten has none, as in reality.
        location: (random.u8(..10) > 0).then(|| location(&mut random)),
        is_family_friendly: random.bool(),
        badge_urls: BadgeUrls::of(clan.badge()),
        clan_level: clan.level,
        clan_points: points(ranking.iter().map(|player| player.trophies).collect()),
        clan_builder_base_points: points(ranking.iter().map(|player| player.builder_trophies).collect()),
        clan_capital_points: random.u32(0..4000),
        capital_league: documents::trio_league(85_000_000, random.u32(0..=18)),
        required_trophies: random.u32(0..=15) * 200,
        war_frequency: pick(
            &mut random,
            &["always", "moreThanOncePerWeek", "oncePerWeek", "lessThanOncePerWeek", "never", "unknown"],
        ),
        war_win_streak: clan.war_win_streak,
        war_wins: clan.war_wins,
        war_ties: public.then(|| random.u32(0..10)),
        war_losses: public.then(|| random.u32(0..300)),
        is_war_log_public: public,
        war_league: documents::trio_league(48_000_000, random.u32(0..=18)),
        members: ranking.len(),
        member_list: ranking.iter().enumerate().map(|(index, player)| member(index + 1, player)).collect(),
        labels: labels(&mut random),
        required_builder_base_trophies: random.u32(0..=10) * 200,
        required_townhall_level: random.u32(1..=12),
        clan_capital: capital(clan.level, &mut random),
        chat_language: (random.u8(..8) > 0).then(|| language(&mut random)),
    })
}

fn member(rank: usize, player: &Player) -> MemberDocument<'_> {
    MemberDocument {
        tag: HashTag(&player.tag),
        name: &player.name,
        role: player.role,
        town_hall_level: player.town_hall,
        exp_level: player.level,
        league: player.old_league(),
        league_tier: documents::league_tier(player.league_tier),
        trophies: player.trophies,
        builder_base_trophies: player.builder_trophies,
        clan_rank: rank,
        previous_clan_rank: player.previous_rank,
        donations: player.donations,
        donations_received: player.received,
        player_house: player.house(),
        builder_base_league: documents::builder_league(player.builder_trophies),
    }
}

/// The game's weighted sum: the best ten count half, the next ten a quarter, and so on.
fn points(mut trophies: Vec<u32>) -> u32 {
    trophies.sort_unstable_by(|a, b| b.cmp(a));
    // In percent, for the first to the fifth ten.
    let weights = [50, 25, 12, 10, 3];
    trophies.chunks(10).zip(weights).map(|(ten, weight)| ten.iter().sum::<u32>() * weight / 100).sum()
}

fn location(random: &mut fastrand::Rng) -> Location {
    let (id, name, country_code) = pick(random, &game::LOCATIONS);
    Location { id, name, is_country: country_code.is_some(), country_code }
}

fn language(random: &mut fastrand::Rng) -> ChatLanguage {
    let (id, name, language_code) = pick(random, &game::LANGUAGES);
    ChatLanguage { id, name, language_code }
}

fn labels(random: &mut fastrand::Rng) -> Vec<Pictured> {
    let count = random.usize(0..=3);
    random.choose_multiple(game::CLAN_LABELS, count).into_iter().map(documents::label).collect()
}

fn capital(clan_level: u32, random: &mut fastrand::Rng) -> Capital {
    // Young clans have not built a capital.
    if clan_level < 3 {
        return Capital { capital_hall_level: None, districts: None };
    }
    let hall = (clan_level / 2).clamp(1, 10);
    let open = usize::try_from(hall).unwrap_or(1).min(game::DISTRICTS.len());
    let districts = (70_000_000..).zip(&game::DISTRICTS[..open]).map(|(id, name)| CapitalDistrict {
        id,
        name,
        // The first district is the capital peak, whose hall leads the others.
        district_hall_level: if id == 70_000_000 { hall } else { random.u32(1..=hall.div_ceil(2)) },
    });
    Capital { capital_hall_level: Some(hall), districts: Some(districts.collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_weigh_best_members_most() {
        assert_eq!(points(vec![1000; 50]), 10_000);
        assert_eq!(points(vec![10, 1000]), 505);
        assert_eq!(points(Vec::new()), 0);
    }
}
