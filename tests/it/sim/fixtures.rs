//! Recorded responses served in place of a world. Needs `COC_FIXTURES_DIR`, except for the folder that a test makes.

use std::{collections::BTreeSet, fs};

use refresh_worker::sim::{SimConfig, SimError, Simulator};

use super::*;

async fn replaying() -> Option<(Asker, PathBuf)> {
    let folder = recordings()?;
    let asker = Asker::start(SimConfig { fixtures: Some(folder.clone()), ..SimConfig::default() }).await;
    Some((asker, folder))
}

#[tokio::test]
async fn recordings_are_served_byte_for_byte() {
    let Some((asker, folder)) = replaying().await else { return };
    let manifest: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let mut waiting: Vec<&Value> =
        manifest.iter().filter(|entry| ["clan", "player"].contains(&entry["kind"].as_str().unwrap())).collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        for entry in std::mem::take(&mut waiting) {
            let tag = tag_of(entry);
            let path = if entry["kind"] == "clan" { clan(&tag) } else { player(&tag) };
            let response = asker.get(&path).await;
            let age = header(&response, "cache-control").unwrap().to_owned();
            let body = response.bytes().await.unwrap();
            if body != fs::read(folder.join(entry["file"].as_str().unwrap())).unwrap() {
                waiting.push(entry);
            } else if let Some(recorded) = entry["headers"]["cache-control"].as_str() {
                assert_eq!(age, recorded, "{}", entry["file"]);
            }
        }
        assert!(asker.simulator.turn_page() || waiting.is_empty(), "never served: {waiting:?}");
        assert!(waiting.len() < before);
    }
}

#[tokio::test]
async fn recorded_wars_belong_to_their_clans() {
    let Some((asker, _)) = replaying().await else { return };
    let mut seen = BTreeSet::new();
    loop {
        let census = asker.simulator.world();
        for (tags, state) in [
            (census.clans_in_war(), "inWar"),
            (census.preparation(), "preparation"),
            (census.ended(), "warEnded"),
            (census.not_in_war(), "notInWar"),
        ] {
            for tag in tags {
                let war = asker.json(&current_war(tag)).await;
                assert_eq!(war["state"], state);
                assert!(state == "notInWar" || tag_of(&war["clan"]) == *tag);
                seen.insert(state);
            }
        }
        if !asker.simulator.turn_page() {
            break;
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    let census = asker.simulator.world();
    assert!(!census.private_war_log().is_empty());
    for tag in census.private_war_log() {
        assert_eq!(asker.status(&current_war(tag)).await, 403);
        assert_eq!(asker.json(&clan(tag)).await["isWarLogPublic"], false);
    }
}

#[tokio::test]
async fn recorded_group_leads_to_its_war() {
    let Some((asker, _)) = replaying().await else { return };
    let census = asker.simulator.world();
    let mut walked = 0;
    for ours in census.in_league() {
        let group = asker.json(&league_group(ours)).await;
        let rounds = group["rounds"].as_array().unwrap().iter();
        for tag in rounds.flat_map(|round| round["warTags"].as_array().unwrap()).filter(|tag| *tag != "#0") {
            let tag: Tag = tag.as_str().unwrap().parse().unwrap();
            if census.league_war_tags().contains(&tag) {
                let war = asker.json(&format!("/clanwarleagues/wars/{}", tag.path_segment())).await;
                walked += usize::from([tag_of(&war["clan"]), tag_of(&war["opponent"])].contains(ours));
            }
        }
    }
    assert!(walked >= 2, "both clans of one war at least");
}

#[tokio::test]
async fn unrecorded_path_is_refused() {
    let Some((asker, folder)) = replaying().await else { return };
    let unknown = asker.simulator.world().unknown_tag();
    for (path, file) in
        [(player(&unknown), "error/404-player.json"), (league_group(&unknown), "error/404-leaguegroup.json")]
    {
        let response = asker.get(&path).await;
        assert_eq!((response.status().as_u16(), header(&response, "cache-control")), (404, Some("public max-age=600")));
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert!(response.bytes().await.unwrap() == fs::read(folder.join(file)).unwrap());
    }
    assert_eq!(asker.status(&clan(&unknown)).await, 404);
}

#[tokio::test]
async fn recordings_of_one_object_follow_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("old.json", r##"{"tag": "#2PP", "trophies": 1}"##);
    write("new.json", r##"{"tag": "#2PP", "trophies": 2}"##);
    let entry = |file: &str| format!(r##"{{"file": "{file}", "kind": "player", "http_status": 200, "tag": "#2PP"}}"##);
    write("manifest.json", &format!("[{}, {}]", entry("old.json"), entry("new.json")));
    let fixtures = Some(folder.path().to_owned());
    let asker = Asker::start(SimConfig { fixtures, ..SimConfig::default() }).await;
    assert_eq!(asker.json("/players/%232PP").await["trophies"], 1);
    assert!(asker.simulator.turn_page());
    assert_eq!(asker.json("/players/%232PP").await["trophies"], 2);
    assert!(!asker.simulator.turn_page());
    assert_eq!(asker.json("/players/%232PP").await["trophies"], 2);
}

#[tokio::test]
async fn missing_manifest_error_names_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = SimConfig { fixtures: Some(folder.path().to_owned()), ..SimConfig::default() };
    let error = Simulator::start(config).await.unwrap_err();
    assert!(matches!(error, SimError::Fixtures(_)));
    assert!(error.to_string().contains("manifest.json"), "{error}");
}
