//! The generated world: everything is in it, it agrees with itself, and it moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use refresh_worker::{
    clock::{ManualClock, Timestamp},
    sim::SimConfig,
};

use super::*;

fn start() -> Timestamp {
    Timestamp::from_millis(1_772_600_767_000)
}

async fn at_rest(clans: usize) -> Asker {
    Asker::start(SimConfig { clans, clock: ManualClock::at(start()), ..SimConfig::default() }).await
}

#[tokio::test]
async fn sixteen_clans_cover_every_kind() {
    let asker = at_rest(16).await;
    let census = asker.simulator.world();
    for (tags, state) in [
        (census.clans_in_war(), "inWar"),
        (census.preparation(), "preparation"),
        (census.ended(), "warEnded"),
        (census.not_in_war(), "notInWar"),
    ] {
        assert!(!tags.is_empty(), "{state}");
        for tag in tags {
            assert_eq!(asker.json(&current_war(tag)).await["state"], state);
        }
    }
    assert!(!census.private_war_log().is_empty() && !census.clanless_player_tags().is_empty());
    let mut sizes = BTreeSet::new();
    for tag in census.clan_tags() {
        let document = asker.json(&clan(tag)).await;
        sizes.insert(document["memberList"].as_array().unwrap().len());
    }
    assert!(sizes.contains(&0) && sizes.contains(&1) && sizes.contains(&50), "{sizes:?}");
}

#[tokio::test]
async fn world_of_any_size_responds() {
    for clans in [0, 1, 2, 5] {
        let asker = at_rest(clans).await;
        let census = asker.simulator.world();
        assert_eq!(census.clan_tags().len(), clans);
        for tag in census.clan_tags() {
            asker.json(&clan(tag)).await;
            asker.status(&current_war(tag)).await;
        }
        asker.json(&player(&census.clanless_player_tags()[0])).await;
    }
}

#[tokio::test]
async fn players_cover_town_halls_and_scripts() {
    let asker = at_rest(48).await;
    let census = asker.simulator.world();
    let (mut halls, mut foreign) = (BTreeSet::new(), 0);
    for tag in census.clan_tags() {
        for member in asker.json(&clan(tag)).await["memberList"].as_array().unwrap() {
            halls.insert(member["townHallLevel"].as_u64().unwrap());
            foreign += usize::from(!member["name"].as_str().unwrap().is_ascii());
        }
    }
    assert_eq!(halls, (1..=18).collect());
    assert!(foreign > 50);
}

#[tokio::test]
async fn player_agrees_with_member_list() {
    let asker = at_rest(4).await;
    for tag in asker.simulator.world().clan_tags() {
        let clan = asker.json(&clan(tag)).await;
        let list = clan["memberList"].as_array().unwrap();
        assert_eq!(clan["members"], list.len());
        assert_eq!(list.iter().filter(|member| member["role"] == "leader").count(), 1);
        for (rank, member) in (1..).zip(list) {
            let player = asker.json(&player(&tag_of(member))).await;
            for key in [
                "tag",
                "name",
                "role",
                "townHallLevel",
                "expLevel",
                "trophies",
                "donations",
                "donationsReceived",
                "leagueTier",
                "builderBaseTrophies",
            ] {
                assert_eq!(player[key], member[key], "{key}");
            }
            assert_eq!(player.get("playerHouse"), member.get("playerHouse"));
            for key in ["tag", "name", "clanLevel", "badgeUrls"] {
                assert_eq!(player["clan"][key], clan[key], "{key}");
            }
            assert_eq!(member["clanRank"], rank);
        }
    }
}

#[tokio::test]
async fn clanless_player_has_no_clan_or_role() {
    let asker = at_rest(16).await;
    for tag in asker.simulator.world().clanless_player_tags() {
        let player = asker.json(&player(tag)).await;
        assert!(player.get("clan").is_none() && player.get("role").is_none());
    }
}

#[tokio::test]
async fn player_documents_have_real_size() {
    let asker = at_rest(16).await;
    let mut sizes = Vec::new();
    for tag in asker.simulator.world().player_tags().iter().step_by(7) {
        sizes.push(asker.get(&player(tag)).await.bytes().await.unwrap().len());
    }
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((10_000..30_000).contains(&mean), "{mean}");
}

#[tokio::test]
async fn war_is_seen_from_both_sides() {
    let asker = at_rest(16).await;
    let census = asker.simulator.world();
    let ours = census.clans_in_war().first().unwrap();
    let war = asker.json(&current_war(ours)).await;
    let theirs = tag_of(&war["opponent"]);
    let mirror = asker.json(&current_war(&theirs)).await;
    assert_eq!((&war["clan"], &war["opponent"]), (&mirror["opponent"], &mirror["clan"]));
    assert_eq!(tag_of(&war["clan"]), *ours);
}

#[tokio::test]
async fn fighters_are_clan_members() {
    let asker = at_rest(16).await;
    let ours = asker.simulator.world().clans_in_war()[0].clone();
    let members: BTreeSet<String> = asker.json(&clan(&ours)).await["memberList"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["tag"].to_string())
        .collect();
    let war = asker.json(&current_war(&ours)).await;
    let fighters = war["clan"]["members"].as_array().unwrap();
    assert_eq!(war["teamSize"], fighters.len());
    assert!(fighters.iter().all(|fighter| members.contains(&fighter["tag"].to_string())));
}

#[tokio::test]
async fn drawn_group_wars_can_be_fetched() {
    let asker = at_rest(48).await;
    let census = asker.simulator.world();
    let (mut states, mut our_sides) = (BTreeMap::<String, usize>::new(), BTreeSet::new());
    for ours in census.in_league() {
        let group = asker.json(&league_group(ours)).await;
        let clans: Vec<Tag> = group["clans"].as_array().unwrap().iter().map(tag_of).collect();
        assert_eq!((clans.len(), group["rounds"].as_array().unwrap().len()), (8, 7));
        assert!(clans.contains(ours));
        *states.entry(group["state"].to_string()).or_default() += 1;
        for round in group["rounds"].as_array().unwrap() {
            for war_tag in round["warTags"].as_array().unwrap() {
                if war_tag == "#0" {
                    continue;
                }
                let war_tag: Tag = war_tag.as_str().unwrap().parse().unwrap();
                let war = asker.json(&format!("/clanwarleagues/wars/{}", war_tag.path_segment())).await;
                let sides = [tag_of(&war["clan"]), tag_of(&war["opponent"])];
                assert!(clans.contains(&sides[0]) && clans.contains(&sides[1]));
                our_sides.extend(sides.iter().position(|side| side == ours));
            }
        }
    }
    assert_eq!(states.len(), 3, "preparation, inWar, ended: {states:?}");
    assert_eq!(our_sides.len(), 2, "sometimes we are the opponent");
}

#[tokio::test]
async fn league_clans_are_at_peace_otherwise() {
    let asker = at_rest(48).await;
    let census = asker.simulator.world();
    let mut seen = BTreeSet::new();
    for tag in census.in_league() {
        if !census.private_war_log().contains(tag) {
            seen.insert(asker.json(&current_war(tag)).await["state"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["notInWar", "warEnded"]);
}

#[tokio::test]
async fn frozen_world_does_not_change() {
    let clock = ManualClock::at(start());
    let asker = Asker::start(SimConfig { clock: clock.clone(), ..SimConfig::default() }).await;
    let before = asker.simulator.world();
    let path = clan(&before.clan_tags()[0]);
    let document = asker.json(&path).await;
    clock.advance(Duration::from_secs(90 * 24 * 3600));
    assert_eq!(asker.simulator.world(), before);
    assert_eq!(asker.json(&path).await, document);
}

#[tokio::test]
async fn same_moment_is_same_world() {
    let clock = || ManualClock::at(start());
    let (hasty, patient) = (clock(), clock());
    let config = |clock| SimConfig { clock, evolve: 300.0, ..SimConfig::default() };
    let (one, other) = (Asker::start(config(hasty.clone())).await, Asker::start(config(patient.clone())).await);
    hasty.advance(Duration::from_secs(600));
    for _ in 0..60 {
        patient.advance(Duration::from_secs(10));
        other.simulator.world();
    }
    assert_eq!(one.simulator.world(), other.simulator.world());
    for tag in one.simulator.world().clan_tags() {
        assert_eq!(one.json(&clan(tag)).await, other.json(&clan(tag)).await);
    }
}

#[tokio::test]
async fn people_move_and_fight_over_time() {
    let clock = ManualClock::at(start());
    let asker = Asker::start(SimConfig { clock: clock.clone(), evolve: 60.0, ..SimConfig::default() }).await;
    let census = asker.simulator.world();
    let mut before = Vec::new();
    for tag in census.clan_tags() {
        before.push(asker.json(&clan(tag)).await);
    }
    clock.advance(Duration::from_secs(24 * 60));
    let (mut moved, mut fought) = (0, 0);
    for old in before {
        let new = asker.json(&clan(&tag_of(&old))).await;
        let people = |clan: &Value| -> BTreeMap<String, Value> {
            let list = clan["memberList"].as_array().unwrap().iter();
            list.map(|member| (member["tag"].to_string(), member["trophies"].clone())).collect()
        };
        let (old, new) = (people(&old), people(&new));
        moved += old.keys().filter(|tag| !new.contains_key(*tag)).count();
        fought += old.iter().filter(|(tag, trophies)| new.get(*tag).is_some_and(|now| now != *trophies)).count();
    }
    assert!(moved > 10 && fought > 100, "a day has passed: {moved} moved, {fought} fought");
}

#[tokio::test]
async fn wars_progress_and_new_ones_start() {
    let clock = ManualClock::at(start());
    // An hour of the game each second.
    let asker = Asker::start(SimConfig { clock: clock.clone(), evolve: 3600.0, ..SimConfig::default() }).await;
    let ours = asker.simulator.world().preparation()[0].clone();
    let mut states = Vec::new();
    for _ in 0..135 {
        asker.simulator.expire_copies();
        let war = asker.json(&current_war(&ours)).await;
        let state = war["state"].as_str().unwrap().to_owned();
        if states.last() != Some(&state) {
            states.push(state);
        }
        clock.advance(Duration::from_secs(1));
    }
    let expected = ["preparation", "inWar", "warEnded", "notInWar", "preparation", "inWar", "warEnded"];
    assert_eq!(states, expected);
}

#[tokio::test]
async fn world_catches_up_after_a_year() {
    let clock = ManualClock::at(start());
    let asker = Asker::start(SimConfig { clock: clock.clone(), evolve: 10.0, ..SimConfig::default() }).await;
    clock.advance(Duration::from_secs(365 * 24 * 3600));
    let census = asker.simulator.world();
    assert_eq!(census.clan_tags().len(), 48);
    asker.json(&clan(&census.clan_tags()[0])).await;
}
