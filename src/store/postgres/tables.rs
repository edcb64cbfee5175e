//! The tables that this worker uses: columns, keys and the rights it needs.

/// The extent of a check: the work planned for a database. Runs are always part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Retention of old snapshots.
    pub retention: bool,
    /// The freshness planner. A role without rights on its tables works as long as it is off.
    pub planner: bool,
}

impl Extent {
    pub const RUNS: Self = Self { retention: false, planner: false };
    pub const ALL: Self = Self { retention: true, planner: true };
}

/// The list of migrations that have run.
pub(super) const LIST: &str = "refresh_worker.migrations";

const CONTRACT_RIGHTS: &str = "SELECT,INSERT,UPDATE";

/// The tables in use: name, columns, rights.
const TABLES: [(&str, &str, &str); 12] = [
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

/// The planner's tables.
const PLANNER_TABLES: [(&str, &str, &str); 4] = [
    (
        "refresh_worker.plan",
        "kind tag looked_at next_look heard_at changes watched mails exposed bucket hinted",
        "SELECT,INSERT,UPDATE,DELETE",
    ),
    ("refresh_worker.plan_level", "arm ln_level moved_at listening_since", CONTRACT_RIGHTS),
    ("refresh_worker.plan_walk", "id kind tag finished_at called_at", CONTRACT_RIGHTS),
    ("refresh_worker.looks", "at kind tag changed active asked_at", "SELECT,INSERT,DELETE"),
];

/// The tables that this work needs: name, columns, rights.
pub(super) fn tables(extent: Extent) -> Vec<(&'static str, &'static str, &'static str)> {
    let of_planner: &[_] = if extent.planner { &PLANNER_TABLES } else { &[] };
    TABLES.iter().chain(of_planner).copied().collect()
}

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
        "refresh_worker.refresh_state" | "refresh_worker.plan" => "kind, tag",
        "refresh_worker.plan_level" => "arm",
        "refresh_worker.plan_walk" => "id",
        "refresh_worker.refresh_runs" => "run",
        "refresh_worker.retention_progress" => "snapshot_table",
        _ => "",
    }
}

/// The tables of snapshots, which retention thins.
pub(super) const SNAPSHOTS: [&str; 3] = ["clan_snapshots", "player_snapshots", "war_snapshots"];

pub(super) fn rights(table: &str, rights: &str, extent: Extent) -> String {
    let deletes = extent.retention && SNAPSHOTS.contains(&table);
    if deletes { format!("{rights},DELETE") } else { rights.to_owned() }
}
