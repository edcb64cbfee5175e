//! Repairs: entries that somebody deleted, changed or wrote by hand, or that a server lost.
//!
//! The rules are `repair` in `lua/prelude.lua`: a record overrules the sets, the rest of a broken record is kept, and a name
//! without a record is evidence enough to refresh its object. This file only bounds how much is looked at.

use super::{RedisQueue, arguments::Arguments, call::Call, rows::RepairCounts, scripts};
use crate::{
    clock::Timestamp,
    queue::{QueueError, Repaired},
};

/// The names that one script looks at: about three milliseconds of the server.
const STRETCH: usize = 250;

/// A run looks at most at this many stretches, when records and sets differ in number, which every stretch reports.
// 10,000 names, so about an eighth of a second of the server in all.
const MAX_STRETCHES: usize = 40;

/// The beginning, as a cursor.
#[cfg(feature = "cli")]
const BEGINNING: &str = "0:0";

pub(super) const fn repaired(counts: &RepairCounts) -> Repaired {
    let RepairCounts { records, places, invalid_entries } = *counts;
    Repaired { records, places, invalid_entries, counters: 0 }
}

/// Repairs one stretch from where the last run ended, and more of them while something is visibly missing.
pub(super) async fn reconcile(queue: &RedisQueue, now: Timestamp) -> Result<Repaired, QueueError> {
    let mut repaired = Repaired::default();
    for _ in 0..MAX_STRETCHES {
        let stretch = walk(queue, now, "").await?;
        repaired.add(stretch.repaired);
        // There are as many records as set members, so nothing is visibly missing.
        if !stretch.uneven {
            break;
        }
    }
    Ok(repaired)
}

/// Repairs all records and sets.
#[cfg(feature = "cli")]
pub(super) async fn everything(queue: &RedisQueue, now: Timestamp) -> Result<Repaired, QueueError> {
    // The producers' keys are not ours to change, and a run cannot work without them.
    for (key, expected) in [(crate::queue::mailbox::INDEX, "zset"), (crate::queue::mailbox::DATA, "hash")] {
        let found = queue.type_of(key).await?;
        if found != "none" && found != expected {
            let detail =
                format!("key {key} of the producers holds a {found}, expected a {expected}: rename or delete it");
            return Err(QueueError::Refused {
                server: queue.server().to_owned(),
                action: "repairing the queue",
                detail,
            });
        }
    }
    let mut repaired = Repaired::default();
    let mut cursor = BEGINNING.to_owned();
    loop {
        let stretch = walk(queue, now, &cursor).await?;
        repaired.add(stretch.repaired);
        if stretch.ended == BEGINNING {
            return Ok(repaired);
        }
        cursor = stretch.ended;
    }
}

struct Stretch {
    /// The cursor at which it ended; only an operator's repair continues there itself.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "only commands repair everything"))]
    ended: String,
    uneven: bool,
    repaired: Repaired,
}

async fn walk(queue: &RedisQueue, now: Timestamp, from: &str) -> Result<Stretch, QueueError> {
    let mut arguments = Arguments::default();
    arguments.number(now.as_millis()).text(from).number(STRETCH);
    arguments.number(queue.limits.dead_entries);
    let call = Call::Script(&scripts::REPAIR, queue.keys.queue(), &arguments);
    let (ended, uneven, records, places, invalid_entries, counters) =
        queue.link.ask("repairing the queue", call).await?;
    Ok(Stretch { ended, uneven, repaired: Repaired { records, places, invalid_entries, counters } })
}
