//! `queue repair`: repairs the whole queue at once. Runs do the same in small steps.

use clap::Args;

use super::{
    Exit, connect,
    text::{self, counted},
};
use crate::{
    queue::{Queue as _, QueueAdmin as _},
    worker::report::RepairReport,
};

/// Repairs requests whose data was deleted or changed by hand, or lost by Redis
///
/// Rebuilds broken records, and returns every request to its place. Every run does the same for a part of the queue. Safe
/// at any time, even while runs work. A second repair finds nothing. The producers' mailbox is not touched. Needs
/// REDIS_URL.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Write JSON: the fields of `repaired` in the report of a run
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &RepairArgs) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let mut repaired = RepairReport::default();
    repaired.add(queue.repair(now).await?);
    let output = if args.json { serde_json::to_string_pretty(&repaired)? } else { render(&repaired) };
    text::print(&format!("{output}\n"))?;
    Ok(Exit::Success)
}

/// The repairs in one line.
pub fn render(repaired: &RepairReport) -> String {
    if repaired.total() == 0 {
        return "everything is in order".to_owned();
    }
    let mut parts = Vec::new();
    if repaired.records > 0 {
        parts.push(format!("{} rebuilt", counted(repaired.records, "record", "records")));
    }
    if repaired.places > 0 {
        parts.push(format!("{} moved to the right set", counted(repaired.places, "request", "requests")));
    }
    if repaired.invalid_entries > 0 {
        let entries = counted(repaired.invalid_entries, "invalid entry", "invalid entries");
        parts.push(format!("{entries} made dead letters"));
    }
    if repaired.counters > 0 {
        parts.push(format!("{} reset", counted(repaired.counters, "counter", "counters")));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_lists_the_repairs() {
        assert_eq!(render(&RepairReport::default()), "everything is in order");
        let all = RepairReport { records: 1, places: 2, invalid_entries: 1, counters: 1 };
        assert_eq!(
            render(&all),
            "1 record rebuilt, 2 requests moved to the right set, 1 invalid entry made dead letters, 1 counter reset"
        );
    }
}
