//! Recorded wars, league groups and league wars.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{Answered, ObjectId, Tag},
    store::Committed,
};
use serde_json::{Value, json};

use super::{
    folder::{self, Recording},
    path::{Replay, at, group_path, league_war_path, path_of},
    readers::{self, bare},
};
use crate::store::{Bed, over_every_store, text, time};

over_every_store! {
    two_recordings_of_one_war_are_its_history,
    ; as_received:
    recorded_wars_are_kept_byte_for_byte,
    recorded_league_wars_are_found_through_group,
}

const SOME_CLAN: &str = "2PP";

async fn recorded_wars_are_kept_byte_for_byte(bed: impl Bed) {
    let replay = Replay::start().await;
    for (hours, recording) in (0..).zip(folder::of_kind("currentwar")) {
        // A clan that is not in war is not named in the response.
        let clan = recording.tag("/clan/tag").unwrap_or_else(|| SOME_CLAN.parse().unwrap());
        let object = ObjectId::war(clan);
        let war = recording.value();
        introduce(&replay, &bed, at(2 * hours), &object.tag, &war["clan"]).await;
        replay.serve(&path_of(&object), &recording);
        let (committed, began) = replay.refresh(&bed, at(2 * hours + 1), &object).await;
        assert_eq!(committed, Committed::Stored, "{}", recording.file);
        let row = readers::war(&bed, object.tag.as_str()).await;
        assert_eq!((text(&row["data"]), time(&row["ts"])), (recording.body.clone(), Some(began)), "{}", recording.file);
        assert_attacks(&bed, &object.tag, &war["clan"], &recording.file).await;

        let later = at(2 * hours + 1) + Duration::from_secs(600);
        let (committed, began) = replay.refresh(&bed, later, &object).await;
        assert_eq!(committed, Committed::Unchanged, "{}", recording.file);
        assert_eq!(time(&readers::war(&bed, object.tag.as_str()).await["ts"]), Some(began), "{}", recording.file);
    }
}

/// Stores a side's players, as the clan's own response would.
async fn introduce(replay: &Replay, bed: &impl Bed, at: Timestamp, clan: &Tag, side: &Value) {
    let Some(members) = side["members"].as_array() else { return };
    let list: Vec<Value> =
        members.iter().map(|member| json!({"tag": member["tag"], "name": member["name"], "role": "member"})).collect();
    let body = json!({"tag": clan.to_string(), "name": side["name"], "memberList": list}).to_string();
    let object = ObjectId::clan(clan.clone());
    replay.serve(
        &path_of(&object),
        &Recording {
            file: "made of a war".to_owned(),
            status: 200,
            headers: [("cache-control".to_owned(), "max-age=120".to_owned())].into(),
            body,
        },
    );
    replay.refresh(bed, at, &object).await;
    replay.asked();
}

async fn assert_attacks(bed: &impl Bed, clan: &Tag, side: &Value, file: &str) {
    let Some(members) = side["members"].as_array() else { return };
    let list = readers::member_list(bed, clan.as_str()).await;
    assert_eq!(list.len(), members.len(), "{file}");
    for member in members {
        let row = list.iter().find(|row| row["player_tag"] == bare(&member["tag"])).expect("in the list");
        let used = member["attacks"].as_array().map_or(0, Vec::len);
        assert_eq!(row["war_attacks_used"], used, "{file}, member {}", member["tag"]);
    }
}

async fn recorded_league_wars_are_found_through_group(bed: impl Bed) {
    let replay = Replay::start().await;
    let Some(plain) = folder::named("currentwar", "currentwar/notinwar-2025.json") else { return };
    let group = folder::named("leaguegroup", "leaguegroup/inwar-2023-03-all-rounds.json").expect("a group");
    let newest = newest_round(&group).expect("all rounds are drawn");
    let mut hours = 0;
    for recording in folder::of_kind("cwlwar") {
        for side in ["clan", "opponent"] {
            hours += 2;
            let clan = recording.tag(&format!("/{side}/tag")).expect("a league war names both clans");
            let (object, war) = (ObjectId::war(clan), recording.value());
            introduce(&replay, &bed, at(hours), &object.tag, &war[side]).await;
            replay.serve(&path_of(&object), &plain);
            replay.serve(&group_path(&object.tag), &group);
            // Ours is the last war of the round: the others are not found.
            replay.serve(&league_war_path(newest.last().expect("four wars")), &recording);
            let fetched = replay.fetched(at(hours + 1), &object).await;
            let memory = fetched.league.clone().expect("the war is remembered");
            assert_eq!(memory.war_tag.as_deref(), newest.last().map(|tag| tag.trim_start_matches('#')));
            bed.commit_one(fetched).await;
            let stored = text(&readers::war(&bed, object.tag.as_str()).await["data"]);
            let of = format!("{} as seen from its {side}", recording.file);
            assert_sides(&stored, &recording, side, &of);
            assert_attacks(&bed, &object.tag, &war[side], &of).await;
        }
    }
}

/// Checks that `clan` is ours, and that nothing but the places of the two sides has changed.
fn assert_sides(stored: &str, recording: &Recording, side: &str, of: &str) {
    if side == "clan" {
        assert_eq!(stored, recording.body, "{of}");
        return;
    }
    let mut expected = recording.value();
    let sides = expected.as_object_mut().expect("an object");
    let (clan, opponent) = (sides["clan"].take(), sides["opponent"].take());
    sides["clan"] = opponent;
    sides["opponent"] = clan;
    assert_eq!(serde_json::from_str::<Value>(stored).expect("JSON"), expected, "{of}");
    let sorted = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.sort_unstable();
        bytes
    };
    assert_eq!(sorted(stored), sorted(&recording.body), "{of}: the same bytes, two of their runs exchanged");
}

async fn two_recordings_of_one_war_are_its_history(bed: impl Bed) {
    let (Some(during), Some(ended)) = (
        folder::named("currentwar", "currentwar/inwar-25v25-2024.json"),
        folder::named("currentwar", "currentwar/warended-25v25-2024.json"),
    ) else {
        return;
    };
    let replay = Replay::start().await;
    let object = ObjectId::war(during.tag("/clan/tag").expect("a war"));
    introduce(&replay, &bed, at(0), &object.tag, &during.value()["clan"]).await;
    let mut began = Vec::new();
    for (recording, hours) in [(&during, 1), (&ended, 24)] {
        replay.serve(&path_of(&object), recording);
        let (committed, at) = replay.refresh(&bed, at(hours), &object).await;
        assert_eq!(committed, Committed::Stored);
        began.push(at);
        assert_attacks(&bed, &object.tag, &recording.value()["clan"], &recording.file).await;
    }
    let history = format!("SELECT ts FROM war_snapshots WHERE clan_tag = '{}' ORDER BY ts", object.tag.as_str());
    let times: Vec<_> = bed.rows(&history).await.iter().map(|row| time(&row["ts"]).unwrap()).collect();
    assert_eq!(times, began);
    // Players who attacked between the two recordings were seen then; the others were not.
    let used = |recording: &Recording| -> Vec<(String, usize)> {
        let war = recording.value();
        let members = war["clan"]["members"].as_array().unwrap().iter();
        members.map(|member| (bare(&member["tag"]), member["attacks"].as_array().map_or(0, Vec::len))).collect()
    };
    let before: std::collections::HashMap<String, usize> = used(&during).into_iter().collect();
    for (player, after) in used(&ended) {
        let seen = time(&bed.newest_player(&player).await["last_seen"]).expect("a time");
        assert_eq!(seen == began[1], before[&player] != after, "{player}");
    }
}

#[tokio::test]
async fn recorded_groups_lead_to_newest_round() {
    let replay = Replay::start().await;
    let Some(plain) = folder::named("currentwar", "currentwar/notinwar-2025.json") else { return };
    for group in folder::of_kind("leaguegroup") {
        let recorded = group.value();
        let object = ObjectId::war(group.tag("/clans/0/tag").expect("a group has clans"));
        replay.serve(&path_of(&object), &plain);
        replay.serve(&group_path(&object.tag), &group);
        let fetched = replay.fetched(at(0), &object).await;
        let Answered::Document(document) = &fetched.answered else { panic!("{}: {fetched:?}", group.file) };
        assert_eq!(document.json(), plain.body, "{}: no war is served, so the plain answer stays", group.file);
        let mut expected = vec![path_of(&object), group_path(&object.tag)];
        if recorded["state"] == "ended" {
            let until = fetched.league.and_then(|league| league.none_until);
            assert!(until.is_some_and(|until| until > at(0)), "{}: a league that is over is remembered", group.file);
        } else {
            let newest = newest_round(&group).expect("a round is drawn");
            expected.extend(newest.iter().map(|tag| league_war_path(tag)));
        }
        assert_eq!(replay.asked(), expected, "{}", group.file);
    }
}

/// The tags of the last round that is drawn.
fn newest_round(group: &Recording) -> Option<Vec<String>> {
    let recorded = group.value();
    let rounds = recorded["rounds"].as_array().expect("rounds").iter();
    let tags = |round: &Value| -> Vec<String> { round["warTags"].as_array().unwrap().iter().map(text).collect() };
    rounds.map(tags).rfind(|tags| tags.iter().all(|tag| tag != "#0"))
}
