//! The generated world: its clans, players, wars and leagues. Everything follows from the seed.
//!
//! `evolve.rs` moves the world through time. This file generates it, counts it and makes its responses.

use std::{collections::HashMap, time::Duration};

use super::{
    Census,
    answer::Answer,
    cast::Part,
    clans::{self, Clan},
    game,
    league::{self, Group, Place},
    logs,
    names::{TagOffice, die},
    players::{self, Player, Role},
    request::{Asked, Endpoint},
    wars::{self, Fighter, Format, Schedule, Side, War, WarState},
};
use crate::{clock::Timestamp, model::Tag};

const HOUR: Duration = Duration::from_secs(3600);

/// The clans of the world in one league group. Clans of no world fill the group up.
const WORLD_CLANS_PER_GROUP: usize = 4;
const CLANS_PER_GROUP: usize = 8;

#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) time: WorldTime,
    pub(super) clans: Vec<Clan>,
    pub(super) players: Vec<Player>,
    pub(super) fronts: Vec<Front>,
    groups: Vec<Group>,
    index: Index,
    /// A tag that is given to nobody.
    unknown: Tag,
}

/// The time of the world.
#[derive(Debug)]
pub(super) struct WorldTime {
    pub(super) pace: Pace,
    pub(super) started: Timestamp,
    pub(super) now: Timestamp,
    /// The steps that the world has made.
    pub(super) ticks: u64,
}

/// The places of clans, players and wars in the lists of the world.
#[derive(Debug, Default)]
struct Index {
    /// Clan -> its front, and the side it has there.
    at_front: HashMap<usize, (usize, usize)>,
    /// Clan -> its league group.
    in_group: HashMap<usize, usize>,
    clan_by_tag: HashMap<Tag, usize>,
    player_by_tag: HashMap<Tag, usize>,
    war_by_tag: HashMap<Tag, (usize, Place)>,
}

/// The speed of the world's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace(pub(super) f64);

impl Pace {
    pub(super) fn is_frozen(self) -> bool {
        self.0 <= 0.0
    }

    /// The time that passes here while this much passes in the game.
    pub(super) fn scaled(self, in_the_game: Duration) -> Duration {
        if self.is_frozen() { in_the_game } else { Duration::from_secs_f64(in_the_game.as_secs_f64() / self.0) }
    }
}

/// The wars of one clan, or of two clans of the world, one after the other.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) clans: [Option<usize>; 2],
    pub(super) format: Format,
    /// The number of wars so far.
    pub(super) wars: u64,
    pub(super) war: Option<War>,
    /// The end of the present war's display, and the beginning of the next one. `None`: nothing changes here any more.
    pub(super) timetable: Option<Timetable>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Timetable {
    pub(super) shown_until: Timestamp,
    pub(super) next: Timestamp,
}

impl World {
    pub(super) fn generate(seed: u64, clans: usize, evolve: f64, now: Timestamp) -> Self {
        let mut office = TagOffice::default();
        // The bound keeps the step of the world above a nanosecond.
        let pace = Pace(if evolve.is_finite() { evolve.clamp(0.0, 1e6) } else { 0.0 });
        let mut world = Self {
            seed,
            time: WorldTime { pace, started: now, now, ticks: 0 },
            clans: Vec::with_capacity(clans),
            players: Vec::new(),
            fronts: Vec::new(),
            groups: Vec::new(),
            index: Index::default(),
            unknown: office.give(&mut die(seed, 9)),
        };
        for clan in 0..clans {
            world.found_clan(clan, &mut office);
        }
        // A few players without a clan, also in the smallest world.
        for _ in 0..clans / 4 + 3 {
            world.add_player(None, &mut office);
        }
        for clan in 0..clans {
            world.open_front(clan);
        }
        world.draw_leagues(&mut office);
        world
    }

    fn found_clan(&mut self, index: usize, office: &mut TagOffice) {
        let part = Part::of(index);
        // Clans, players, fronts and groups have dice of their own: more clans do not change those before.
        let mut random = die(self.seed, 1_000 + index as u64);
        let clan = Clan::generate(random.u64(..), office.give(&mut random), part.war_log_public());
        self.index.clan_by_tag.insert(clan.tag.clone(), index);
        self.clans.push(clan);
        for _ in 0..part.size(&mut random) {
            let player = self.add_player(Some(index), office);
            self.clans[index].members.push(player);
        }
        self.give_roles(index, &mut random);
    }

    fn add_player(&mut self, clan: Option<usize>, office: &mut TagOffice) -> usize {
        let index = self.players.len();
        let mut random = die(self.seed, 1_000_000 + index as u64);
        // Every town hall occurs, and most are high.
        let town_hall = match u32::try_from(index).unwrap_or(0) {
            spread if spread % 5 == 0 => 1 + spread / 5 % game::HIGHEST_TOWN_HALL,
            _ => random.u32(7..=game::HIGHEST_TOWN_HALL),
        };
        let mut player = Player::generate(random.u64(..), office.give(&mut random), town_hall);
        player.clan = clan;
        self.index.player_by_tag.insert(player.tag.clone(), index);
        self.players.push(player);
        index
    }

    /// The first member is the leader. The previous ranking is nearly that of today.
    fn give_roles(&mut self, clan: usize, random: &mut fastrand::Rng) {
        for (place, member) in self.clans[clan].members.iter().enumerate() {
            self.players[*member].role = match place {
                0 => Role::Leader,
                1..=3 => Role::CoLeader,
                4..=9 => Role::Admin,
                _ => Role::Member,
            };
        }
        let size = self.clans[clan].members.len();
        let ranking: Vec<Tag> =
            self.clans[clan].ranking(&self.players).iter().map(|player| player.tag.clone()).collect();
        for (rank, tag) in ranking.iter().enumerate() {
            // A rank of 0 marks a newcomer. Real lists have some.
            let newcomer = size > 5 && random.u8(..12) == 0;
            let player = self.index.player_by_tag[tag];
            let moved = (rank + random.usize(0..3)).clamp(1, size);
            self.players[player].previous_rank = if newcomer { 0 } else { moved };
        }
    }

    fn open_front(&mut self, clan: usize) {
        let part = Part::of(clan);
        // The age of the war in hours of the game. It decides the state that the clan is here to show.
        let (format, hours_ago) = match part {
            Part::InWar | Part::PrivateWar | Part::Full => (Format::Ordinary, Some(35)),
            Part::Preparation => (Format::Ordinary, Some(9)),
            Part::WarEnded | Part::LeagueAfterWar => (Format::Ordinary, Some(53)),
            Part::FriendlyWar => (Format::Friendly, Some(30)),
            Part::Peace => (Format::Ordinary, None),
            Part::Opponent | Part::Lonely | Part::League | Part::PrivateLeague | Part::Empty => return,
        };
        // The last clan of a world has no next one, and fights a clan outside the world.
        let other = (Part::fights_next(clan) && clan + 1 < self.clans.len()).then_some(clan + 1);
        let front = self.fronts.len();
        self.index.at_front.insert(clan, (front, 0));
        if let Some(other) = other {
            self.index.at_front.insert(other, (front, 1));
        }
        let timetable = Timetable { shown_until: self.time.now, next: self.time.now + self.time.pace.scaled(6 * HOUR) };
        self.fronts.push(Front { clans: [Some(clan), other], format, wars: 0, war: None, timetable: Some(timetable) });
        if let Some(hours_ago) = hours_ago {
            self.declare_war(front, self.time.now - self.time.pace.scaled(hours_ago * HOUR));
        }
        // The old war stays on display during the league.
        if part == Part::LeagueAfterWar {
            self.fronts[front].timetable = None;
        }
    }

    /// Begins a war at `found`, with the present members of the clans.
    pub(super) fn declare_war(&mut self, front: usize, found: Timestamp) {
        let Front { clans, format, wars: earlier, .. } = self.fronts[front];
        // The number of earlier wars is part of the seed, so that a front never repeats a war.
        let seed = die(self.seed, 2_000_000 + front as u64).u64(..) ^ earlier;
        let strength = |clan: Option<usize>| clan.map_or(usize::MAX, |clan| self.clans[clan].members.len());
        // A side without a clan of the world is as strong as needed.
        let most = strength(clans[0]).min(strength(clans[1])).min(50);
        // The game has wars of 5, 10, 15 … players a side.
        let size = if most < 5 { most } else { die(seed, 1).usize((most / 10).max(1)..=most / 5) * 5 };
        let party =
            |clan: Option<usize>| clan.map_or_else(|| Side::phantom(seed ^ 0xFF, size), |clan| self.side(clan, size));
        let after = |hours: u32| found + self.time.pace.scaled(hours * HOUR);
        // 23 hours of preparation, a day of war, and a day on display, as in the game.
        let schedule = Schedule { preparation: found, start: after(23), end: after(47) };
        let war = War::draw_up(seed, format, schedule, clans.map(party));
        let front = &mut self.fronts[front];
        front.war = Some(war);
        front.wars += 1;
        front.timetable = Some(Timetable { shown_until: after(71), next: after(77) });
    }

    /// The clan as one side of a war: its best, in order of strength.
    fn side(&self, clan: usize, size: usize) -> Side {
        let clan = &self.clans[clan];
        let mut fighters: Vec<&Player> = clan.members.iter().map(|member| &self.players[*member]).collect();
        fighters.sort_by_key(|player| std::cmp::Reverse((player.town_hall, player.level, player.seed)));
        let fighters = fighters.into_iter().take(size).zip(1..).map(|(player, position)| Fighter {
            tag: player.tag.clone(),
            name: player.name.clone(),
            town_hall: player.town_hall,
            position,
        });
        let fighters = fighters.collect();
        Side { tag: clan.tag.clone(), name: clan.name.clone(), level: clan.level, badge: clan.badge(), fighters }
    }

    fn draw_leagues(&mut self, office: &mut TagOffice) {
        let day = self.time.pace.scaled(24 * HOUR);
        let signed_up: Vec<usize> = (0..self.clans.len()).filter(|clan| Part::of(*clan).in_league()).collect();
        for (index, ours) in signed_up.chunks(WORLD_CLANS_PER_GROUP).enumerate() {
            let seed = die(self.seed, 3_000_000 + index as u64).u64(..);
            let strangers = (ours.len()..CLANS_PER_GROUP).map(|stranger| league::phantom(seed ^ stranger as u64));
            let clans = ours.iter().map(|clan| self.side(*clan, 50)).chain(strangers).collect();
            // In hours: two rounds are fought, the first is in preparation, or all are over.
            let hours_ago = [60, 12, 12 * 24][index % 3];
            let start = self.time.now - self.time.pace.scaled(hours_ago * HOUR);
            let group = Group::draw(seed, start, day, clans, office);
            self.index.war_by_tag.extend(group.wars().map(|(tag, place)| (tag, (index, place))));
            self.index.in_group.extend(ours.iter().map(|clan| (*clan, index)));
            self.groups.push(group);
        }
    }

    pub(super) fn war_state(&self, clan: usize) -> WarState {
        let Some((front, _)) = self.index.at_front.get(&clan) else { return WarState::NotInWar };
        let front = &self.fronts[*front];
        let over = front.timetable.is_some_and(|timetable| timetable.shown_until <= self.time.now);
        match &front.war {
            // After its display `currentwar` shows no war at all.
            Some(war) if !over => war.schedule.state(self.time.now),
            _ => WarState::NotInWar,
        }
    }

    pub(super) fn census(&self) -> Census {
        let tag = |clan: &usize| self.clans[*clan].tag.clone();
        let all = 0..self.clans.len();
        let public: Vec<usize> = all.clone().filter(|clan| self.clans[*clan].war_log_public).collect();
        let in_state =
            |state| public.iter().filter(|clan| self.war_state(**clan) == state).map(tag).collect::<Vec<Tag>>();
        let players = || self.players.iter();
        let drawn = self.groups.iter().flat_map(|group| {
            group.wars().filter(|(_, place)| group.is_drawn(*place, self.time.now)).map(|(tag, _)| tag)
        });
        Census {
            clans: all.clone().map(|clan| tag(&clan)).collect(),
            players: players().map(|player| player.tag.clone()).collect(),
            clanless_players: players()
                .filter(|player| player.clan.is_none())
                .map(|player| player.tag.clone())
                .collect(),
            in_war: in_state(WarState::InWar),
            preparation: in_state(WarState::Preparation),
            war_ended: in_state(WarState::WarEnded),
            not_in_war: in_state(WarState::NotInWar),
            private_war_log: all
                .clone()
                .filter(|clan| !self.clans[*clan].war_log_public)
                .map(|clan| tag(&clan))
                .collect(),
            in_league: all.filter(|clan| self.index.in_group.contains_key(clan)).map(|clan| tag(&clan)).collect(),
            league_wars: drawn.collect(),
            unknown: Some(self.unknown.clone()),
        }
    }

    pub(super) fn answer(&self, asked: &Asked) -> Answer {
        let body = match asked.endpoint {
            Endpoint::Clan => self.clan(asked).map(|clan| clans::document(&self.clans[clan], &self.players)),
            Endpoint::Player => self.player(asked),
            Endpoint::LeagueGroup => self.league_group(asked),
            Endpoint::LeagueWar => self.league_war(asked),
            Endpoint::RaidSeasons => self.raid_seasons(asked),
            Endpoint::CurrentWar | Endpoint::WarLog => match self.clan(asked) {
                Some(clan) if !self.clans[clan].war_log_public => return Answer::private_war_log(asked),
                Some(clan) if asked.endpoint == Endpoint::CurrentWar => Some(self.current_war(clan)),
                Some(clan) => Some(logs::war_log(&self.clans[clan], self.time.now, asked.limit)),
                None => None,
            },
            Endpoint::Unknown => None,
        };
        match body {
            Some(body) => Answer::found(body, asked.endpoint.max_age_seconds()),
            None => Answer::not_found(asked),
        }
    }

    fn clan(&self, asked: &Asked) -> Option<usize> {
        self.index.clan_by_tag.get(asked.tag.as_ref()?).copied()
    }

    fn player(&self, asked: &Asked) -> Option<Vec<u8>> {
        let player = &self.players[*self.index.player_by_tag.get(asked.tag.as_ref()?)?];
        Some(players::document(player, player.clan.map(|clan| &self.clans[clan])))
    }

    fn current_war(&self, clan: usize) -> Vec<u8> {
        let shown = self.index.at_front.get(&clan).filter(|_| self.war_state(clan) != WarState::NotInWar);
        let war = shown.and_then(|(front, side)| Some((self.fronts[*front].war.as_ref()?, *side)));
        war.map_or_else(wars::peace, |(war, side)| war.document(self.time.now, side))
    }

    fn league_group(&self, asked: &Asked) -> Option<Vec<u8>> {
        let group = self.index.in_group.get(&self.clan(asked)?)?;
        Some(self.groups[*group].document(self.time.now))
    }

    fn league_war(&self, asked: &Asked) -> Option<Vec<u8>> {
        let (group, place) = self.index.war_by_tag.get(asked.tag.as_ref()?)?;
        let group = &self.groups[*group];
        group.is_drawn(*place, self.time.now).then(|| group.war(*place).document(self.time.now, 0))
    }

    fn raid_seasons(&self, asked: &Asked) -> Option<Vec<u8>> {
        let clan = &self.clans[self.clan(asked)?];
        Some(logs::raid_seasons(clan, &clan.ranking(&self.players), self.time.now, asked.limit))
    }
}
