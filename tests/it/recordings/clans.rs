//! Recorded clans.

use std::{collections::HashSet, time::Duration};

use refresh_worker::{clock::Timestamp, model::ObjectId, store::Committed};
use serde_json::Value;

use super::{
    folder::{self, Recording},
    path::{Replay, at, path_of},
    readers::{self, assert_column, assert_kept, bare},
};
use crate::store::{Bed, over_every_store, text, time};

over_every_store! {
    two_recordings_of_one_clan_a_month_apart_show_who_came_and_went,
    ; as_received:
    recorded_clans_are_kept_byte_for_byte,
}

async fn recorded_clans_are_kept_byte_for_byte(bed: impl Bed) {
    let replay = Replay::start().await;
    let mut known = HashSet::new();
    for (hours, recording) in (0..).zip(folder::of_kind("clan")) {
        let object = object(&recording);
        replay.serve(&path_of(&object), &recording);
        let (committed, began) = replay.refresh(&bed, at(hours), &object).await;
        assert_eq!(committed, Committed::Stored, "{}", recording.file);
        assert_clan(&bed, &recording, began).await;
        assert_members(&bed, &recording, began, &mut known).await;

        let (committed, began) = replay.refresh(&bed, at(hours) + Duration::from_secs(600), &object).await;
        assert_eq!(committed, Committed::Unchanged, "{}", recording.file);
        assert_clan(&bed, &recording, began).await;
    }
}

fn object(recording: &Recording) -> ObjectId {
    ObjectId::clan(recording.tag("/tag").expect("a clan has a tag"))
}

async fn assert_clan(bed: &impl Bed, recording: &Recording, began: Timestamp) {
    let (file, recorded) = (&recording.file, recording.value());
    let tag = bare(&recorded["tag"]);
    let (snapshot, document) = readers::clan(bed, &tag).await;
    let link = format!("https://link.clashofclans.com/en?action=OpenClanProfile&tag=%23{tag}");
    assert_kept(&snapshot["data"], recording, &link);
    assert_eq!(document["deep_link"], link, "{file}");
    assert_eq!(time(&snapshot["ts"]), Some(began), "{file}");
    let members = recorded["memberList"].as_array().expect("a list").len();
    assert_eq!(snapshot["member_count"], members, "{file}");
    for (column, key) in
        [("name", "name"), ("level", "clanLevel"), ("war_wins", "warWins"), ("war_losses", "warLosses")]
    {
        assert_column(&snapshot, column, recorded.get(key), file);
    }
}

/// Checks each member in the readers' list: the columns and, for a member not `known` from an earlier recording, the short
/// form.
async fn assert_members(bed: &impl Bed, recording: &Recording, began: Timestamp, known: &mut HashSet<String>) {
    let (file, recorded) = (&recording.file, recording.value());
    let mut members: Vec<&Value> = recorded["memberList"].as_array().expect("a list").iter().collect();
    members.sort_by_key(|member| bare(&member["tag"]));
    let list = readers::member_list(bed, &bare(&recorded["tag"])).await;
    assert_eq!(list.len(), members.len(), "{file}");
    for (row, member) in list.iter().zip(members) {
        let of = format!("{file}, member {}", member["tag"]);
        assert_eq!(row["player_tag"], bare(&member["tag"]), "{of}");
        for (column, key) in [
            ("name", "name"),
            ("role", "role"),
            ("town_hall", "townHallLevel"),
            ("trophies", "trophies"),
            ("donations", "donations"),
            ("donations_received", "donationsReceived"),
        ] {
            assert_column(row, column, member.get(key), &of);
        }
        if !known.insert(bare(&member["tag"])) {
            continue;
        }
        assert_eq!((time(&row["ts"]), time(&row["last_seen"])), (Some(began), Some(began)), "{of}");
        // The short form as received: a part of the clan's own text.
        let data = text(&row["snapshot_data"]);
        let head = data.split(",\"deep_link\":").next().unwrap_or_default();
        assert!(recording.body.contains(head), "{of}: {data}");
        assert_eq!(row["player_data"], row["snapshot_data"], "{of}");
        let data: Value = serde_json::from_str(&data).expect("JSON");
        assert!(text(&data["deep_link"]).contains("action=OpenPlayerProfile"), "{of}");
        assert_eq!(data.get("league"), member.get("league"), "{of}: as it came, or left out");
    }
}

async fn two_recordings_of_one_clan_a_month_apart_show_who_came_and_went(bed: impl Bed) {
    let (Some(september), Some(october)) = (
        folder::named("clan", "clan/heckyeah-2025-09-20members.json"),
        folder::named("clan", "clan/heckyeah-2025-10-19members.json"),
    ) else {
        return;
    };
    let (replay, object) = (Replay::start().await, object(&september));
    let mut began = Vec::new();
    for (recording, hours) in [(&september, 0), (&october, 28 * 24)] {
        replay.serve(&path_of(&object), recording);
        let (committed, at) = replay.refresh(&bed, at(hours), &object).await;
        assert_eq!(committed, Committed::Stored);
        began.push(at);
    }
    assert_eq!(bed.count(&format!("clan_snapshots WHERE clan_tag = '{}'", object.tag.as_str())).await, 2);
    let (before, after) = (tags(&september), tags(&october));
    for player in before.iter().chain(&after) {
        let joined = if before.contains(player) { began[0] } else { began[1] };
        let left = (!after.contains(player)).then_some(began[1]);
        let expected = [(object.tag.as_str().to_owned(), joined, left)];
        assert_eq!(bed.memberships(player).await, expected, "{player}");
    }
    // Who stayed keeps one row, whose document is as old as it is and whose columns are new.
    let listed = |player: &str, recording: &Recording| {
        let recorded = recording.value();
        recorded["memberList"]
            .as_array()
            .unwrap()
            .iter()
            .find(|member| bare(&member["tag"]) == player)
            .cloned()
            .unwrap()
    };
    for player in before.iter().filter(|player| after.contains(player)) {
        let row = bed.newest_player(player).await;
        assert_eq!(time(&row["ts"]), Some(began[0]), "{player}");
        let (old, new) = (listed(player, &september), listed(player, &october));
        assert_column(&row, "donations", new.get("donations"), player);
        assert_column(&row, "trophies", new.get("trophies"), player);
        let rose = new["trophies"].as_i64() > old["trophies"].as_i64();
        let active = rose || ["donations", "donationsReceived"].iter().any(|key| new[key] != old[key]);
        assert_eq!(time(&row["last_seen"]), Some(began[usize::from(active)]), "{player}");
    }
}

fn tags(recording: &Recording) -> Vec<String> {
    let recorded = recording.value();
    recorded["memberList"].as_array().expect("a list").iter().map(|member| bare(&member["tag"])).collect()
}
