//! Recorded players.

use std::time::Duration;

use refresh_worker::{clock::Timestamp, model::ObjectId, store::Committed};

use super::{
    folder::{self, Recording},
    path::{Replay, at, path_of},
    readers::{assert_column, assert_kept, bare},
};
use crate::store::{Bed, over_every_store, time};

over_every_store! {
    ; as_received:
    recorded_players_are_kept_byte_for_byte,
}

async fn recorded_players_are_kept_byte_for_byte(bed: impl Bed) {
    let replay = Replay::start().await;
    for (hours, recording) in (0..).zip(folder::of_kind("player")) {
        let object = ObjectId::player(recording.tag("/tag").expect("a player has a tag"));
        replay.serve(&path_of(&object), &recording);
        let (committed, began) = replay.refresh(&bed, at(hours), &object).await;
        assert_eq!(committed, Committed::Stored, "{}", recording.file);
        assert_player(&bed, &recording, began).await;

        let (committed, again) = replay.refresh(&bed, at(hours) + Duration::from_secs(600), &object).await;
        assert_eq!(committed, Committed::Unchanged, "{}", recording.file);
        assert_player(&bed, &recording, again).await;
    }
}

async fn assert_player(bed: &impl Bed, recording: &Recording, began: Timestamp) {
    let (file, recorded) = (&recording.file, recording.value());
    let tag = bare(&recorded["tag"]);
    let (snapshot, player) = (bed.newest_player(&tag).await, bed.player(&tag).await);
    let link = format!("https://link.clashofclans.com/en?action=OpenPlayerProfile&tag=%23{tag}");
    assert_kept(&snapshot["data"], recording, &link);
    assert_kept(&player["data"], recording, &link);
    assert_eq!(player["deep_link"], link, "{file}");
    assert_eq!(time(&snapshot["ts"]), Some(began), "{file}");
    assert!(time(&snapshot["last_seen"]).is_some_and(|seen| seen <= began), "{file}");
    for (column, key) in [
        ("name", "name"),
        ("role", "role"),
        ("town_hall", "townHallLevel"),
        ("trophies", "trophies"),
        ("donations", "donations"),
        ("donations_received", "donationsReceived"),
    ] {
        assert_column(&snapshot, column, recorded.get(key), file);
    }
    let clan = recorded.pointer("/clan/tag").map(bare);
    assert_eq!(snapshot["clan_tag"], clan.clone().unwrap_or_default(), "{file}: no clan is the empty text");
    for column in ["name", "role", "town_hall", "clan_tag"] {
        assert_eq!(player[column], snapshot[column], "{file}: {column}");
    }
    assert_eq!(bed.open_clans(&tag).await, clan.into_iter().collect::<Vec<_>>(), "{file}");
}
