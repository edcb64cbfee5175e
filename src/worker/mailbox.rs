//! Admits the mailbox's entries into the queue beside the work of a run: during a flood, and in runs that are turned away. Only in the
//! queue are requests merged and in their right order, with their age known.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::report::Tally;
use crate::{
    clock::ServerTime,
    queue::{MailLimits, Queue, QueueError},
};

// Leasing waits for neither more slices in a row than this nor longer than `ADMIT_TIMEOUT`, however full the mailbox is.
const MAX_SLICES: usize = 20;

const ADMIT_TIMEOUT: Duration = Duration::from_millis(200);

/// Admits slices until no entry waits, `may_go_on` returns false, or a limit is met.
pub async fn admit_mailbox(
    queue: &impl Queue,
    time: &ServerTime,
    tally: &Mutex<Tally>,
    may_go_on: impl Fn() -> bool,
) -> Result<(), QueueError> {
    let ends = Instant::now() + ADMIT_TIMEOUT;
    for _ in 0..MAX_SLICES {
        if Instant::now() >= ends || !may_go_on() {
            break;
        }
        let now = time.now();
        let mail = queue.read_mail(now, MailLimits::default()).await?;
        let admitted = queue.admit(now, mail).await?;
        tally.lock().admitted(&admitted);
        if !admitted.more {
            break;
        }
    }
    Ok(())
}
