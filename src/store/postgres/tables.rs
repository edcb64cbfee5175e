//! The tables that this worker uses: columns, keys and the rights it needs.

/// The extent of a check: the work planned for a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Runs,
    /// Runs, and retention of old snapshots.
    RunsAndRetention,
}

/// The list of migrations that have run.
pub(super) const LIST: &str = "refresh_worker.migrations";

const CONTRACT_RIGHTS: &str = "SELECT,INSERT,UPDATE";

/// The tables in use: name, columns, rights.
pub(super) const TABLES: [(&str, &str, &str); 12] = [
    ("clans", "tag data updated_at deep_link", CONTRACT_RIGHTS),
    ("players", "tag name town_hall role clan_tag updated_at data deep_link", CONTRACT_RIGHTS),
    ("clan_snapshots", "id ts clan_tag name member_count level war_wins war_losses data", CONTRACT_RIGHTS),
    (
        "player_snapshots",
        "id ts player_tag clan_tag name role town_hall trophies donations donations_received war_attacks_used \
         last_seen data",
        CONTRACT_RIGHTS,
    ),
    ("war_snapshots", "id ts clan_tag data", CONTRACT_RIGHTS),
    ("clan_memberships", "id player_tag clan_tag joined_at left_at", CONTRACT_RIGHTS),
    (LIST, "version name", "SELECT"),
    (
        "refresh_worker.refresh_state",
        "kind tag fetched_at changed_at content_hash fresh_until last_outcome snapshot_id member_at attacks_at league",
        CONTRACT_RIGHTS,
    ),
    (
        "refresh_worker.refresh_runs",
        "run started ended stopped_because error processed failed api_requests report",
        "SELECT,INSERT,UPDATE,DELETE",
    ),
    ("refresh_worker.run_errors", "run place object started text", "SELECT"),
    ("refresh_worker.retention_progress", "snapshot_table thinned_until noted_at", CONTRACT_RIGHTS),
    ("refresh_worker.outbox", "id stored_at payload", "SELECT,INSERT,DELETE"),
];

/// The type that a column needs, in the words of `check_tables.sql`. Our own tables need no check.
pub(super) fn holds(table: &str, column: &str) -> &'static str {
    if table.contains('.') {
        return "";
    }
    match column {
        "id" => "id",
        "data" => "document",
        "ts" | "updated_at" | "last_seen" | "joined_at" | "left_at" => "time",
        "tag" | "clan_tag" | "player_tag" => "15",
        "name" => "50",
        "role" => "20",
        "deep_link" => "255",
        _ => "number",
    }
}

/// The columns by which a statement finds the row that it updates.
pub(super) fn key(table: &str) -> &'static str {
    match table {
        "clans" | "players" => "tag",
        "refresh_worker.refresh_state" => "kind, tag",
        "refresh_worker.refresh_runs" => "run",
        "refresh_worker.retention_progress" => "snapshot_table",
        _ => "",
    }
}

/// The tables of snapshots, which retention thins.
pub(super) const SNAPSHOTS: [&str; 3] = ["clan_snapshots", "player_snapshots", "war_snapshots"];

pub(super) fn rights(table: &str, rights: &str, extent: Extent) -> String {
    let deletes = extent == Extent::RunsAndRetention && SNAPSHOTS.contains(&table);
    if deletes { format!("{rights},DELETE") } else { rights.to_owned() }
}
