//! Bringing the queue in order: what somebody deleted, changed or wrote by hand, and what a server lost.
//!
//! The rules are `mend` in `lua/prelude.lua`: a record rules over the sets, what is left of a broken record is kept, and a name
//! without a record is evidence enough to refresh its object. Here is only how much is looked at.

use super::{
    RedisQueue,
    link::{Arguments, Call},
    scripts,
};
use crate::{
    clock::Timestamp,
    queue::{QueueError, Repaired, mailbox},
};

/// How many names one script looks at: about three milliseconds of the server.
const STRETCH: usize = 250;

/// How many stretches a run looks at when records and sets differ in number, which is told at once.
const STRETCHES: usize = 40;

/// The beginning, as a cursor.
const BEGINNING: &str = "0:0";

/// What the scripts count: records rebuilt, names moved, set aside.
pub(super) type Counts = (usize, usize, usize);

pub(super) const fn told((records, places, invalid_entries): Counts) -> Repaired {
    Repaired { records, places, invalid_entries, counters: 0 }
}

/// One stretch from where the last run ended; more of them while something is visibly missing.
pub(super) async fn reconcile(queue: &RedisQueue, now: Timestamp) -> Result<Repaired, QueueError> {
    let mut repaired = Repaired::default();
    for _ in 0..STRETCHES {
        let stretch = walk(queue, now, "").await?;
        repaired.add(stretch.repaired);
        if !stretch.uneven {
            break;
        }
    }
    Ok(repaired)
}

pub(super) async fn everything(queue: &RedisQueue, now: Timestamp) -> Result<Repaired, QueueError> {
    // Theirs is not ours to change, and a run cannot do without.
    for (key, expected) in [(mailbox::INDEX, "zset"), (mailbox::DATA, "hash")] {
        let found = queue.type_of(key).await?;
        if found != "none" && found != expected {
            let detail =
                format!("key {key} of the producers holds a {found}, expected a {expected}: rename or delete it");
            return Err(QueueError::Refused {
                server: queue.server().to_owned(),
                action: "putting the queue in order",
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
    ended: String,
    uneven: bool,
    repaired: Repaired,
}

async fn walk(queue: &RedisQueue, now: Timestamp, from: &str) -> Result<Stretch, QueueError> {
    let mut arguments = Arguments::default();
    arguments.number(now.as_millis()).text(from).number(STRETCH);
    arguments.number(queue.limits.unreadable_letters);
    let call = Call::Script(&scripts::REPAIR, queue.keys.queue(), &arguments);
    let (ended, uneven, records, places, invalid_entries, counters) =
        queue.link.ask("putting the queue in order", call).await?;
    Ok(Stretch { ended, uneven, repaired: Repaired { records, places, invalid_entries, counters } })
}
