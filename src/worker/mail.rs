//! Takes mail into the queue beside what a run does otherwise: while a flood waits, and in runs that are turned away. Its order is
//! right, its age is known and its requests are merged only once it is in the queue.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::{drain::lock, report::Tally};
use crate::{
    clock::ServerTime,
    queue::{MailLimits, Queue, QueueError},
};

/// At most so many slices at a stretch, and none is begun later than so.
const MOST_SLICES: usize = 20;
const LONGEST: Duration = Duration::from_millis(200);

/// Admits slices one after the other until no more waits, `may_go_on` says no, or the bounds are met.
pub async fn admit_mail(
    queue: &impl Queue,
    time: &ServerTime,
    tally: &Mutex<Tally>,
    may_go_on: impl Fn() -> bool,
) -> Result<(), QueueError> {
    let ends = Instant::now() + LONGEST;
    for _ in 0..MOST_SLICES {
        if Instant::now() >= ends || !may_go_on() {
            break;
        }
        let now = time.now();
        let mail = queue.read_mail(now, MailLimits::default()).await?;
        let admitted = queue.admit(now, mail).await?;
        lock(tally).admitted(&admitted);
        if !admitted.more {
            break;
        }
    }
    Ok(())
}
