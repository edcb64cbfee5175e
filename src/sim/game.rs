//! The things of the game: names, ids and levels, as the recordings of 2025 and 2026 show them. Tables only.

pub(super) use Village::{BuilderBase, ClanCapital, Home};

/// The part of the game that a thing belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Village {
    Home,
    BuilderBase,
    ClanCapital,
}

/// A troop, spell, hero or piece of equipment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    pub(super) max_level: u32,
    pub(super) village: Village,
    /// The town hall that unlocks it; for the builder base, the builder hall.
    pub(super) unlocked_at: u32,
}

const fn unit(name: &'static str, max_level: u32, village: Village, unlocked_at: u32) -> Unit {
    Unit { name, max_level, village, unlocked_at }
}

/// An achievement; its progress is written as `progress` followed by the value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Achievement {
    pub(super) name: &'static str,
    pub(super) target: u64,
    pub(super) info: &'static str,
    pub(super) progress: Option<&'static str>,
    pub(super) village: Village,
}

const fn goal(
    name: &'static str,
    target: u64,
    info: &'static str,
    progress: Option<&'static str>,
    village: Village,
) -> Achievement {
    Achievement { name, target, info, progress, village }
}

/// The highest town hall; the lowest is 1.
pub(super) const HIGHEST_TOWN_HALL: u32 = 18;

#[rustfmt::skip]
pub(super) const TROOPS: &[Unit] = &[
    unit("Barbarian", 12, Home, 1),
    unit("Archer", 14, Home, 2),
    unit("Goblin", 9, Home, 2),
    unit("Giant", 14, Home, 2),
    unit("Wall Breaker", 14, Home, 3),
    unit("Balloon", 12, Home, 4),
    unit("Wizard", 14, Home, 5),
    unit("Healer", 11, Home, 6),
    unit("Dragon", 12, Home, 7),
    unit("P.E.K.K.A", 13, Home, 8),
    unit("Minion", 14, Home, 7),
    unit("Hog Rider", 15, Home, 7),
    unit("Valkyrie", 11, Home, 8),
    unit("Golem", 14, Home, 8),
    unit("Witch", 8, Home, 9),
    unit("Lava Hound", 8, Home, 9),
    unit("Bowler", 10, Home, 10),
    unit("Baby Dragon", 12, Home, 9),
    unit("Miner", 12, Home, 10),
    unit("Super Barbarian", 8, Home, 11),
    unit("Super Archer", 10, Home, 11),
    unit("Super Wall Breaker", 10, Home, 11),
    unit("Super Giant", 10, Home, 11),
    unit("Raged Barbarian", 20, BuilderBase, 2),
    unit("Sneaky Archer", 20, BuilderBase, 2),
    unit("Beta Minion", 20, BuilderBase, 3),
    unit("Boxer Giant", 20, BuilderBase, 4),
    unit("Bomber", 20, BuilderBase, 5),
    unit("Power P.E.K.K.A", 20, BuilderBase, 6),
    unit("Cannon Cart", 20, BuilderBase, 7),
    unit("Drop Ship", 20, BuilderBase, 8),
    unit("Baby Dragon", 20, BuilderBase, 8),
    unit("Night Witch", 20, BuilderBase, 9),
    unit("Wall Wrecker", 6, Home, 12),
    unit("Battle Blimp", 5, Home, 12),
    unit("Yeti", 7, Home, 12),
    unit("Sneaky Goblin", 5, Home, 11),
    unit("Super Miner", 12, Home, 11),
    unit("Rocket Balloon", 8, Home, 11),
    unit("Ice Golem", 9, Home, 11),
    unit("Electro Dragon", 9, Home, 11),
    unit("Stone Slammer", 6, Home, 12),
    unit("Inferno Dragon", 12, Home, 11),
    unit("Super Valkyrie", 11, Home, 11),
    unit("Dragon Rider", 6, Home, 13),
    unit("Super Witch", 8, Home, 11),
    unit("Hog Glider", 20, BuilderBase, 9),
    unit("Siege Barracks", 5, Home, 13),
    unit("Ice Hound", 8, Home, 11),
    unit("Super Bowler", 10, Home, 11),
    unit("Super Dragon", 10, Home, 11),
    unit("Headhunter", 3, Home, 12),
    unit("Super Wizard", 10, Home, 11),
    unit("Super Minion", 11, Home, 11),
    unit("Log Launcher", 5, Home, 13),
    unit("Flame Flinger", 5, Home, 14),
    unit("Battle Drill", 5, Home, 15),
    unit("Electro Titan", 5, Home, 14),
    unit("Apprentice Warden", 4, Home, 13),
    unit("Super Hog Rider", 12, Home, 11),
    unit("Electrofire Wizard", 20, BuilderBase, 10),
    unit("Root Rider", 3, Home, 15),
    unit("Druid", 5, Home, 14),
    unit("Thrower", 4, Home, 16),
    unit("Troop Launcher", 4, Home, 16),
    unit("Super Yeti", 7, Home, 11),
    unit("Furnace", 4, Home, 15),
    unit("Meteor Golem", 3, Home, 17),
    unit("L.A.S.S.I", 15, Home, 14),
    unit("Mighty Yak", 15, Home, 14),
    unit("Electro Owl", 15, Home, 14),
    unit("Unicorn", 15, Home, 14),
    unit("Phoenix", 10, Home, 15),
    unit("Poison Lizard", 15, Home, 15),
    unit("Diggy", 10, Home, 15),
    unit("Frosty", 15, Home, 15),
    unit("Spirit Fox", 10, Home, 16),
    unit("Angry Jelly", 10, Home, 16),
    unit("Sneezy", 10, Home, 17),
];

#[rustfmt::skip]
pub(super) const HEROES: &[Unit] = &[
    unit("Barbarian King", 105, Home, 7),
    unit("Archer Queen", 105, Home, 8),
    unit("Grand Warden", 80, Home, 11),
    unit("Battle Machine", 35, BuilderBase, 5),
    unit("Royal Champion", 55, Home, 13),
    unit("Battle Copter", 35, BuilderBase, 8),
    unit("Minion Prince", 95, Home, 9),
    unit("Dragon Duke", 25, Home, 18),
];

#[rustfmt::skip]
pub(super) const EQUIPMENT: &[Unit] = &[
    unit("Giant Gauntlet", 27, Home, 9),
    unit("Rocket Spear", 27, Home, 10),
    unit("Spiky Ball", 27, Home, 11),
    unit("Frozen Arrow", 27, Home, 12),
    unit("Heroic Torch", 27, Home, 13),
    unit("Fireball", 27, Home, 14),
    unit("Snake Bracelet", 27, Home, 15),
    unit("Dark Crown", 27, Home, 16),
    unit("Magic Mirror", 27, Home, 17),
    unit("Electro Boots", 27, Home, 9),
    unit("Lavaloon Puppet", 27, Home, 10),
    unit("Action Figure", 27, Home, 11),
    unit("Meteor Staff", 27, Home, 12),
    unit("Frost Flake", 27, Home, 13),
    unit("Stick Horse", 27, Home, 14),
    unit("Barbarian Puppet", 18, Home, 15),
    unit("Rage Vial", 18, Home, 16),
    unit("Archer Puppet", 18, Home, 17),
    unit("Invisibility Vial", 18, Home, 9),
    unit("Eternal Tome", 18, Home, 10),
    unit("Life Gem", 18, Home, 11),
    unit("Seeking Shield", 18, Home, 12),
    unit("Royal Gem", 18, Home, 13),
    unit("Earthquake Boots", 18, Home, 14),
    unit("Hog Rider Puppet", 18, Home, 15),
    unit("Vampstache", 18, Home, 16),
    unit("Haste Vial", 18, Home, 17),
    unit("Giant Arrow", 18, Home, 9),
    unit("Healer Puppet", 18, Home, 10),
    unit("Rage Gem", 18, Home, 11),
    unit("Healing Tome", 18, Home, 12),
    unit("Henchmen Puppet", 18, Home, 13),
    unit("Dark Orb", 18, Home, 14),
    unit("Metal Pants", 18, Home, 15),
    unit("Noble Iron", 18, Home, 16),
    unit("Fire Heart", 18, Home, 17),
    unit("Stun Blaster", 18, Home, 9),
    unit("Flame Blower", 18, Home, 10),
];

#[rustfmt::skip]
pub(super) const SPELLS: &[Unit] = &[
    unit("Lightning Spell", 13, Home, 5),
    unit("Healing Spell", 12, Home, 6),
    unit("Rage Spell", 6, Home, 7),
    unit("Jump Spell", 5, Home, 9),
    unit("Freeze Spell", 7, Home, 9),
    unit("Poison Spell", 12, Home, 8),
    unit("Earthquake Spell", 8, Home, 8),
    unit("Haste Spell", 7, Home, 9),
    unit("Clone Spell", 8, Home, 10),
    unit("Skeleton Spell", 8, Home, 9),
    unit("Bat Spell", 8, Home, 10),
    unit("Invisibility Spell", 4, Home, 11),
    unit("Recall Spell", 6, Home, 13),
    unit("Overgrowth Spell", 4, Home, 12),
    unit("Revive Spell", 5, Home, 15),
    unit("Ice Block Spell", 5, Home, 14),
];

#[rustfmt::skip]
pub(super) const ACHIEVEMENTS: &[Achievement] = &[
    goal("Bigger Coffers", 10, "Upgrade a Gold Storage to level 10", Some("Highest Gold Storage level: "), Home),
    goal("Get those Goblins!", 150, "Win 150 Stars on the Campaign Map", Some("Stars in Campaign Map: "), Home),
    goal("Bigger & Better", 8, "Upgrade Town Hall to level 8", Some("Current Town Hall level: "), Home),
    goal("Nice and Tidy", 500, "Remove 500 obstacles (trees, rocks, bushes)", Some("Total obstacles removed: "), Home),
    goal("Discover New Troops", 1, "Unlock Dragon in the Barracks", None, Home),
    goal("Gold Grab", 100_000_000, "Steal 100000000 Gold", Some("Total Gold looted: "), Home),
    goal("Elixir Escapade", 100_000_000, "Steal 100000000 elixir", Some("Total Elixir looted: "), Home),
    goal("Sweet Victory!", 1_250, "Achieve a total of 1250 trophies in Multiplayer battles", Some("Trophy record: "), Home),
    goal("Empire Builder", 4, "Upgrade Clan Castle to level 4", Some("Current Clan Castle level: "), Home),
    goal("Wall Buster", 2_000, "Destroy 2000 Walls in Multiplayer battles", Some("Total Walls destroyed: "), Home),
    goal("Humiliator", 2_000, "Destroy 2000 Town Halls in Multiplayer battles", Some("Total Town Halls destroyed: "), Home),
    goal("Union Buster", 2_500, "Destroy 2500 Builder's Huts in Multiplayer battles", Some("Total Builder's Huts destroyed: "), Home),
    goal("Conqueror", 5_000, "Win 5000 Multiplayer battles", Some("Total multiplayer battles won: "), Home),
    goal("Unbreakable", 500, "Successfully defend against 500 attacks", Some("Total defenses won: "), Home),
    goal("Friend in Need", 25_000, "Donate 25000 capacity worth of reinforcements to Clanmates", Some("Total capacity donated: "), Home),
    goal("Mortar Mauler", 5_000, "Destroy 5000 Mortars in Multiplayer battles", Some("Total Mortars destroyed: "), Home),
    goal("Heroic Heist", 1_000_000, "Steal 1000000 Dark Elixir", Some("Total Dark Elixir looted: "), Home),
    goal("League All-Star", 1, "Become a Champion!", None, Home),
    goal("X-Bow Exterminator", 2_500, "Destroy 2500 X-Bows in Multiplayer battles", Some("Total X-Bows destroyed: "), Home),
    goal("Firefighter", 5_000, "Destroy 5000 Inferno Towers in Multiplayer battles", Some("Total Inferno Towers destroyed: "), Home),
    goal("War Hero", 1_000, "Score 1000 Stars for your clan in Clan War battles", Some("Total Stars scored for clan in Clan War battles: "), Home),
    goal("Clan War Wealth", 100_000_000, "Collect 100000000 Gold from the Clan Castle", Some("Total Gold collected in Clan War bonuses: "), Home),
    goal("Anti-Artillery", 2_000, "Destroy 2000 Eagle or Inferno Artilleries in Multiplayer battles", Some("Total Eagle or Inferno Artilleries destroyed: "), Home),
    goal("Sharing is caring", 10_000, "Donate 10000 Spell storage capacity worth of Spells", Some("Total Spell capacity donated: "), Home),
    goal("Keep Your Account Safe!", 1, "Protect your Village by connecting to a social network", Some("Completed!"), Home),
    goal("Master Engineering", 8, "Upgrade Builder Hall to level 8", Some("Current Builder Hall level: "), BuilderBase),
    goal("Next Generation Model", 1, "Unlock Power P.E.K.K.A in the Builder Barracks", None, BuilderBase),
    goal("Un-Build It", 2_000, "Destroy 2000 Builder Halls in Builder Battles", Some("Total Builder Halls destroyed: "), BuilderBase),
    goal("Champion Builder", 3_000, "Achieve a total of 3000 trophies in Builder Battles", Some("Builder Trophy record: "), BuilderBase),
    goal("High Gear", 3, "Gear Up 3 buildings using the Master Builder", Some("Total buildings geared up: "), BuilderBase),
    goal("Hidden Treasures", 1, "Rebuild Battle Machine", None, BuilderBase),
    goal("Games Champion", 100_000, "Earn 100000 points in Clan Games", Some("Total Clan Games points: "), Home),
    goal("Dragon Slayer", 1, "Slay the Giant Dragon on the Campaign Map", None, Home),
    goal("War League Legend", 250, "Score 250 Stars for your clan in War League battles", Some("Total Stars scored for clan in War League battles: "), Home),
    goal("Keep Your Account Safe!", 1, "Connect your account to Supercell ID for safe keeping.", Some("Completed!"), Home),
    goal("Well Seasoned", 50_000, "Earn 50000 points in Season Challenges", Some("Total Season Challenges points: "), Home),
    goal("Shattered and Scattered", 4_000, "Destroy 4000 Scattershots in Multiplayer battles", Some("Total Scattershots destroyed: "), Home),
    goal("Not So Easy This Time", 2_000, "Destroy 2000 weaponized Town Halls in Multiplayer battles", Some("Weaponized Town Halls destroyed: "), Home),
    goal("Bust This!", 2_500, "Destroy 2500 weaponized Builder's Huts in Multiplayer battles", Some("Total weaponized Builder's Huts destroyed: "), Home),
    goal("Superb Work", 250, "Boost a Super Troop 250 times", Some("Total times Super Troops boosted: "), Home),
    goal("Siege Sharer", 5_000, "Donate 5000 Siege Machines", Some("Total Siege Machines donated: "), Home),
    goal("Aggressive Capitalism", 1_000_000, "Loot 1000000 Capital Gold during Raid attacks", Some("Total Capital Gold looted: "), ClanCapital),
    goal("Most Valuable Clanmate", 2_000_000, "Contribute 2000000 Capital Gold to upgrades in the Clan Capital", Some("Total Capital Gold contributed: "), ClanCapital),
    goal("Counterspell", 4_000, "Destroy 4000 Spell Towers in Multiplayer Battles", Some("Total Spell Towers Destroyed: "), Home),
    goal("Monolith Masher", 2_000, "Destroy 2000 Monoliths in Multiplayer Battles", Some("Total Monoliths Destroyed: "), Home),
    goal("Ungrateful Child", 1, "Defeat M.O.M.M.A on the Campaign Map", None, Home),
    goal("Supercharger", 75, "Supercharge buildings 75 times", Some("Total Supercharges: "), Home),
    goal("Multi-Archer Tower Terminator", 5_000, "Destroy 5000 Multi-Archer Towers in Multiplayer Battles", Some("Total Multi-Archer Towers Destroyed: "), Home),
    goal("Ricochet Cannon Crusher", 5_000, "Destroy 5000 Ricochet Cannons in Multiplayer Battles", Some("Total Ricochet Cannons Destroyed: "), Home),
    goal("Firespitter Finisher", 4_000, "Destroy 4000 Firespitters in Multiplayer Battles", Some("Total Firespitters Destroyed: "), Home),
    goal("Multi-Gear Tower Trampler", 2_000, "Destroy 2000 Multi-Gear Towers in Multiplayer Battles", Some("Total Multi-Gear Towers Destroyed: "), Home),
    goal("Crafting Connoisseur", 25, "Upgrade Crafted Defenses 25 times", Some("Total Crafted Defense upgrades: "), Home),
    goal("Crafter’s Nightmare", 2_000, "Destroy 2000 Crafted Defenses in Multiplayer Battles", Some("Total Crafted Defenses Destroyed: "), Home),
    goal("League Follower", 12, "Reach League Wizard 12", None, Home),
];

/// `leagueTier`s have the ids 105000000 and up; three in a row bear the same name, followed by their number.
#[rustfmt::skip]
pub(super) const LEAGUE_TIERS: [&str; 11] = [
    "Skeleton", "Barbarian", "Archer", "Wizard", "Valkyrie", "Witch", "Golem", "P.E.K.K.A", "Titan", "Dragon", "Electro",
];

/// Old `league`s from 29000001 on, in ranks III, II, I; 29000000 is "Unranked".
#[rustfmt::skip]
pub(super) const LEAGUES: [&str; 7] = ["Bronze", "Silver", "Gold", "Crystal", "Master", "Champion", "Titan"];

/// `builderBaseLeague`s from 44000000 on, with the number of ranks in each.
#[rustfmt::skip]
pub(super) const BUILDER_LEAGUES: [(&str, usize); 9] = [
    ("Wood", 5), ("Clay", 5), ("Stone", 5), ("Copper", 5), ("Brass", 3), ("Iron", 3), ("Steel", 3), ("Titanium", 3),
    ("Platinum", 3),
];

/// Ranks count down.
#[rustfmt::skip]
pub(super) const RANKS: [&str; 5] = ["V", "IV", "III", "II", "I"];

#[rustfmt::skip]
pub(super) const DISTRICTS: [&str; 9] = [
    "Capital Peak", "Barbarian Camp", "Wizard Valley", "Balloon Lagoon", "Builder's Workshop", "Dragon Cliffs",
    "Golem Quarry", "Skeleton Park", "Goblin Mines",
];

/// Id, name, country code (none: not a country).
#[rustfmt::skip]
pub(super) const LOCATIONS: [(u32, &str, Option<&str>); 8] = [
    (32_000_006, "International", None),
    (32_000_047, "Canada", Some("CA")),
    (32_000_094, "Germany", Some("DE")),
    (32_000_113, "India", Some("IN")),
    (32_000_122, "Japan", Some("JP")),
    (32_000_249, "United States", Some("US")),
    (32_000_218, "Spain", Some("ES")),
    (32_000_000, "Europe", None),
];

#[rustfmt::skip]
pub(super) const LANGUAGES: [(u32, &str, &str); 4] = [
    (75_000_000, "English", "EN"),
    (75_000_003, "Español", "ES"),
    (75_000_002, "Deutsch", "DE"),
    (75_000_008, "日本語", "JA"),
];

#[rustfmt::skip]
pub(super) const CLAN_LABELS: [(u32, &str); 9] = [
    (56_000_000, "Clan Wars"), (56_000_001, "Clan War League"), (56_000_003, "Friendly Wars"),
    (56_000_004, "Clan Games"), (56_000_007, "International"), (56_000_009, "Donations"), (56_000_013, "Relaxed"),
    (56_000_014, "Competitive"), (56_000_016, "Clan Capital"),
];

#[rustfmt::skip]
pub(super) const PLAYER_LABELS: [(u32, &str); 11] = [
    (57_000_000, "Clan Wars"), (57_000_001, "Clan War League"), (57_000_004, "Clan Games"),
    (57_000_006, "Base Designing"), (57_000_007, "Farming"), (57_000_008, "Active Donator"),
    (57_000_009, "Active Daily"), (57_000_014, "Competitive"), (57_000_015, "Veteran"), (57_000_016, "Newbie"),
    (57_000_017, "Amateur Attacker"),
];
