//! The queries of the other programs, in SQL for both databases, and assertions about their results.

use serde_json::Value;

use super::folder::Recording;
use crate::store::{Bed, text};

/// `get_clan`: the newest snapshot's document, and the link from `clans`.
pub async fn clan(bed: &impl Bed, tag: &str) -> (Value, Value) {
    let snapshot = bed.newest_clan(tag).await;
    let document =
        bed.row(&format!("SELECT deep_link, CAST(data AS text) AS data FROM clans WHERE tag = '{tag}'")).await;
    assert_eq!(document["data"], snapshot["data"], "{tag}: both places hold the same document");
    (snapshot, document)
}

/// The member list: open memberships, each with the player's newest snapshot row and document.
pub async fn member_list(bed: &impl Bed, clan: &str) -> Vec<Value> {
    bed.rows(&format!(
        "SELECT m.player_tag, s.name, s.role, s.town_hall, s.trophies, s.donations, s.donations_received, \
         s.war_attacks_used, s.last_seen, s.ts, CAST(s.data AS text) AS snapshot_data, CAST(p.data AS text) AS player_data \
         FROM clan_memberships m \
         JOIN player_snapshots s ON s.player_tag = m.player_tag \
          AND s.ts = (SELECT max(n.ts) FROM player_snapshots n WHERE n.player_tag = m.player_tag) \
         JOIN players p ON p.tag = m.player_tag \
         WHERE m.clan_tag = '{clan}' AND m.left_at IS NULL \
         ORDER BY m.player_tag"
    ))
    .await
}

/// `current_war_snapshot`.
pub async fn war(bed: &impl Bed, clan: &str) -> Value {
    bed.row(&format!(
        "SELECT ts, CAST(data AS text) AS data FROM war_snapshots WHERE clan_tag = '{clan}' ORDER BY ts DESC LIMIT 1"
    ))
    .await
}

/// The stored text is the recorded body, byte for byte, but for one key at its end.
pub fn assert_kept(stored: &Value, recording: &Recording, link: &str) {
    let stored = text(stored);
    if recording.value().get("deep_link").is_some() {
        assert_eq!(stored, recording.body, "{}: has the key already", recording.file);
        return;
    }
    let spliced = format!(",\"deep_link\":\"{link}\"");
    let place = stored.rfind(&spliced).unwrap_or_else(|| panic!("{}: no link in {stored:.200}", recording.file));
    let without = format!("{}{}", &stored[..place], &stored[place + spliced.len()..]);
    assert_eq!(without, recording.body, "{}", recording.file);
    let parsed: Value = serde_json::from_str(&stored).expect("still JSON");
    assert_eq!(parsed["deep_link"], link, "{}: at the top level", recording.file);
}

/// Checks that a column holds the document's value of the key, or null when the key is missing.
pub fn assert_column(row: &Value, column: &str, recorded: Option<&Value>, of: &str) {
    assert_eq!(&row[column], recorded.unwrap_or(&Value::Null), "{of}: {column}");
}

/// A tag as the tables hold it.
pub fn bare(tag: &Value) -> String {
    text(tag).trim_start_matches('#').to_owned()
}
