//! `queue repair`: brings the whole queue in order at once, which runs do little by little.

use anyhow::Context as _;
use clap::Args;

use super::{
    Ending, connect,
    text::{self, counted},
};
use crate::{queue::Queue as _, worker::report::RepairReport};

/// Rebuilds broken records of the queue, and puts back what stands in no set
///
/// For what was deleted or changed by hand, or lost by Redis. Every run does the same with a part of the queue. Safe at any time, also while runs work, and a second time finds nothing.
/// The producers' mailbox is not touched. Needs REDIS_URL.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Write JSON: the same fields as `repaired` in the answer of a run
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &RepairArgs) -> anyhow::Result<Ending> {
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to repair the queue")?;
    let mut repaired = RepairReport::default();
    repaired.add(queue.repair(now).await.context("failed to repair the queue")?);
    let told = if args.json { serde_json::to_string_pretty(&repaired)? } else { told(&repaired) };
    text::print(&format!("{told}\n"))?;
    Ok(Ending::Well)
}

/// What was mended, in words.
pub fn told(repaired: &RepairReport) -> String {
    if repaired.total() == 0 {
        return "everything is in order".to_owned();
    }
    let mut parts = Vec::new();
    if repaired.records > 0 {
        parts.push(format!("{} rebuilt", counted(repaired.records, "record", "records")));
    }
    if repaired.places > 0 {
        parts.push(format!("{} put where they belong", counted(repaired.places, "object", "objects")));
    }
    if repaired.invalid_entries > 0 {
        let entries = counted(repaired.invalid_entries, "entry that is no object", "entries that are no objects");
        parts.push(format!("{entries} set aside as dead letters"));
    }
    if repaired.counters > 0 {
        parts.push(format!("{} begun anew", counted(repaired.counters, "counter", "counters")));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_what_was_mended_and_when_nothing_was() {
        assert_eq!(told(&RepairReport::default()), "everything is in order");
        let all = RepairReport { records: 1, places: 2, invalid_entries: 1, counters: 1 };
        assert_eq!(
            told(&all),
            "1 record rebuilt, 2 objects put where they belong, 1 entry that is no object set aside as dead letters, \
             1 counter begun anew"
        );
    }
}
