//! The folder of recordings.

use std::{
    collections::HashMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Once,
};

use refresh_worker::model::Tag;
use serde_json::Value;

const VARIABLE: &str = "COC_FIXTURES_DIR";

/// The kinds that the worker never requests; the folder has them for other readers.
const NOT_OURS: [&str; 3] = ["warlog", "raidseasons", "portal"];

/// The kinds that the worker requests.
const OURS: [&str; 6] = ["clan", "player", "currentwar", "cwlwar", "leaguegroup", "error"];

#[derive(Clone, Debug)]
pub struct Recording {
    /// Its path in the folder, for messages.
    pub file: String,
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Recording {
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{}: {error}", self.file))
    }

    /// The tag at a JSON pointer of the body.
    pub fn tag(&self, pointer: &str) -> Option<Tag> {
        self.value().pointer(pointer)?.as_str()?.parse().ok()
    }
}

/// All recordings of a kind; none when the folder is not given.
pub fn of_kind(kind: &str) -> Vec<Recording> {
    let Some(folder) = folder() else { return Vec::new() };
    let manifest = fs::read_to_string(folder.join("manifest.json"))
        .unwrap_or_else(|error| panic!("{VARIABLE}: read {}/manifest.json: {error}", folder.display()));
    let entries: Vec<Value> = serde_json::from_str(&manifest).expect("the manifest is a JSON list");
    for entry in &entries {
        let kind = entry["kind"].as_str().unwrap_or_default();
        assert!(OURS.contains(&kind) || NOT_OURS.contains(&kind), "nobody replays recordings of the kind `{kind}`");
    }
    let found: Vec<_> =
        entries.iter().filter(|entry| entry["kind"] == kind).map(|entry| read(&folder, entry)).collect();
    assert!(!found.is_empty(), "{VARIABLE}: no recording of the kind `{kind}` in {}", folder.display());
    found
}

/// One recording by its path in the folder.
pub fn named(kind: &str, file: &str) -> Option<Recording> {
    let all = of_kind(kind);
    let found = all.iter().find(|recording| recording.file == file).cloned();
    assert!(all.is_empty() || found.is_some(), "{VARIABLE}: no recording {file}");
    found
}

fn read(folder: &Path, entry: &Value) -> Recording {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let file = text("file");
    let body = fs::read_to_string(folder.join(&file)).unwrap_or_else(|error| panic!("read {file}: {error}"));
    let headers = entry["headers"].as_object().into_iter().flatten();
    Recording {
        status: entry["http_status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or(200),
        headers: headers.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect(),
        file,
        body,
    }
}

fn folder() -> Option<PathBuf> {
    static SAID: Once = Once::new();
    let folder = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    if folder.is_none() {
        // Not `println!`, which the test harness keeps to itself when a test passes.
        SAID.call_once(|| {
            let _ = writeln!(
                io::stderr(),
                "recordings were NOT replayed: set {VARIABLE} to a folder of recorded API responses with a manifest.json"
            );
        });
    }
    folder
}
