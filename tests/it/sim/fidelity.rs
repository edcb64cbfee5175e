//! The generated documents against the recorded ones: the same keys, the same types. Needs `COC_FIXTURES_DIR`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::*;

/// Path of keys -> JSON types seen there. `[]` stands for the items of a list.
type Shape = BTreeMap<String, BTreeSet<&'static str>>;

fn note(value: &Value, path: &str, shape: &mut Shape) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            for item in items {
                note(item, &format!("{path}[]"), shape);
            }
            "list"
        }
        Value::Object(object) => {
            for (key, value) in object {
                note(value, &format!("{path}.{key}"), shape);
            }
            "object"
        }
    };
    shape.entry(path.to_owned()).or_default().insert(kind);
}

fn shape_of(document: &Value) -> Shape {
    let mut shape = Shape::new();
    note(document, "", &mut shape);
    shape
}

fn recorded(folder: &Path, files: &[&str]) -> Vec<Shape> {
    let read = |file: &&str| fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    files.iter().map(|file| shape_of(&serde_json::from_slice(&read(file)).unwrap())).collect()
}

/// Checks that every generated key was recorded, and that every key of all recordings is generated. `optional`: keys in all of
/// our recordings that are known to be absent at times.
fn compare(kind: &str, generated: &[Value], recorded: &[Shape], optional: &[&str]) {
    let known = recorded.iter().fold(Shape::new(), |mut known, shape| {
        for (path, kinds) in shape {
            known.entry(path.clone()).or_default().extend(kinds);
        }
        known
    });
    let invariable: Vec<&String> =
        recorded[0].keys().filter(|path| recorded.iter().all(|shape| shape.contains_key(*path))).collect();
    let mut ever = Shape::new();
    for document in generated {
        let shape = shape_of(document);
        for (path, kinds) in &shape {
            let seen = known.get(path).unwrap_or_else(|| panic!("{kind}: no recording has `{path}`"));
            assert!(kinds.is_subset(seen), "{kind}: `{path}` is recorded as {seen:?}, not {kinds:?}");
        }
        // Top-level keys of each document only: deeper ones may lie under an empty list.
        let top = invariable.iter().filter(|path| path.matches('.').count() == 1 && !path.contains('['));
        for path in top.filter(|path| !optional.contains(&path.as_str())) {
            assert!(shape.contains_key(*path), "{kind}: every recording has `{path}`");
        }
        ever.extend(shape);
    }
    for path in invariable {
        assert!(ever.contains_key(path), "{kind}: every recording has `{path}`, no generated document has");
    }
}

#[tokio::test]
async fn clans_have_recorded_keys() {
    let Some(folder) = recordings() else { return };
    // The newest; the one of September has no league tiers yet.
    let recorded = recorded(&folder, &["clan/2pp-2025-13members.json", "clan/heckyeah-2025-10-19members.json"]);
    let asker = Asker::default().await;
    let mut generated = Vec::new();
    for tag in asker.simulator.world().clan_tags() {
        generated.push(asker.json(&clan(tag)).await);
    }
    compare("clan", &generated, &recorded, &[".location", ".chatLanguage"]);
}

#[tokio::test]
async fn players_have_recorded_keys() {
    let Some(folder) = recordings() else { return };
    let recorded = recorded(
        &folder,
        &[
            "player/2pp-th8-2025.json",
            "player/andrew-th14-2025.json",
            "player/doubled-th14-2025-10.json",
            "player/example-th18-2026.json",
        ],
    );
    let asker = Asker::default().await;
    let census = asker.simulator.world();
    let mut generated = Vec::new();
    for tag in census.player_tags().iter().step_by(9).chain(census.clanless_player_tags()) {
        generated.push(asker.json(&player(tag)).await);
    }
    compare("player", &generated, &recorded, &[".clan", ".role"]);
}

#[tokio::test]
async fn wars_have_recorded_keys() {
    let Some(folder) = recordings() else { return };
    let asker = Asker::default().await;
    let census = asker.simulator.world();
    let mut generated = Vec::new();
    for tag in census.clans_in_war().iter().chain(census.ended()) {
        generated.push(asker.json(&current_war(tag)).await);
    }
    let under_way = ["currentwar/inwar-25v25-2024.json", "currentwar/warended-25v25-2024.json"];
    compare("war", &generated, &recorded(&folder, &under_way), &[]);
    let peace = asker.json(&current_war(&census.not_in_war()[0])).await;
    compare("peace", &[peace], &recorded(&folder, &["currentwar/notinwar-2025.json"]), &[]);
}

#[tokio::test]
async fn preparing_wars_have_recorded_keys() {
    let Some(folder) = recordings() else { return };
    let asker = Asker::default().await;
    let mut generated = Vec::new();
    for tag in asker.simulator.world().preparation() {
        let mut war = asker.json(&current_war(tag)).await;
        // Newer than the newest recording of a preparation.
        war.as_object_mut().unwrap().remove("battleModifier");
        generated.push(war);
    }
    compare("preparation", &generated, &recorded(&folder, &["currentwar/preparation-50v50-2023.json"]), &[]);
}

#[tokio::test]
async fn leagues_have_recorded_keys() {
    let Some(folder) = recordings() else { return };
    let asker = Asker::default().await;
    let census = asker.simulator.world();
    let mut groups = Vec::new();
    for tag in census.in_league() {
        groups.push(asker.json(&league_group(tag)).await);
    }
    let recorded_groups = recorded(&folder, &["leaguegroup/ended-2025-10.json"]);
    compare("league group", &groups, &recorded_groups, &[]);
    let mut wars = Vec::new();
    for tag in census.league_war_tags() {
        let war = asker.json(&format!("/clanwarleagues/wars/{}", tag.path_segment())).await;
        wars.extend((war["state"] != "preparation").then_some(war));
    }
    let recorded_wars = recorded(&folder, &["cwlwar/warended-15v15-2023.json", "cwlwar/warended-30v30-2021-04.json"]);
    compare("league war", &wars, &recorded_wars, &[]);
}

#[tokio::test]
async fn logs_have_recorded_keys() {
    let Some(folder) = recordings() else { return };
    let asker = Asker::default().await;
    let census = asker.simulator.world();
    let (mut logs, mut raids) = (Vec::new(), Vec::new());
    for tag in census.clan_tags().iter().filter(|tag| !census.private_war_log().contains(tag)) {
        logs.push(asker.json(&format!("{}/warlog?limit=20", clan(tag))).await);
        raids.push(asker.json(&format!("{}/capitalraidseasons?limit=2", clan(tag))).await);
    }
    let recorded_logs = recorded(&folder, &["warlog/140-entries-2025.json", "warlog/50-entries-paged.json"]);
    compare("war log", &logs, &recorded_logs, &[]);
    let files = ["raidseasons/20-seasons-2025-10.json", "raidseasons/2-seasons-paged-2023.json"];
    compare("raid seasons", &raids, &recorded(&folder, &files), &[]);
}
