//! Numbers about the queue and its runs, for health, metrics and reports.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::mailbox::{Decision, Entry};
use crate::{
    clock::Timestamp,
    model::{Priority, RefreshRequest},
};

/// Summaries of runs are kept for a week after the last one.
pub const RUN_SUMMARIES_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The state of the queue, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Entries in the mailbox.
    pub mailbox: u64,
    pub ready: u64,
    pub ready_by_priority: BTreeMap<Priority, u64>,
    pub delayed: u64,
    pub leased: u64,
    pub dead_letters: u64,
    /// Unreadable mail among the dead letters that was ever evicted by newer mail. Objects are never evicted.
    pub dead_letters_evicted: u64,
    pub orphans: u64,
    pub oldest: Oldest,
    /// The time at which the next delayed object is due.
    pub next_due: Option<Timestamp>,
    /// Mail in database 0, where producers always write, when our Redis database is another one.
    pub mail_in_database_0: Option<u64>,
}

impl QueueStats {
    /// The contract's `queue_size`: what waits to be done now.
    #[must_use]
    pub const fn queue_size(&self) -> u64 {
        self.mailbox + self.ready
    }
}

/// The time of the longest waiting request of all that wait to be done now: the ready ones, those that are due and not yet moved,
/// and, from a bounded sample at the head of each priority, the mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oldest {
    #[default]
    NothingWaits,
    Since(Timestamp),
    /// Mail waits, and nothing in the sample says since when.
    Unknown,
}

impl Oldest {
    /// Combines the times of the queue's records with a sample of the `in_mailbox` entries of the mailbox.
    pub(super) fn of(
        records: impl Iterator<Item = Timestamp>,
        sample: &[Entry],
        in_mailbox: u64,
        now: Timestamp,
    ) -> Self {
        let requests: Vec<RefreshRequest> = sample
            .iter()
            // Invalid and incomplete mail has no reliable time.
            .filter_map(|entry| match entry.decide(now, 1) {
                Decision::Admit(request) => Some(request),
                _ => None,
            })
            .collect();
        let is_complete = requests.len() as u64 >= in_mailbox;
        // What is due later waits for its time, not for us.
        let waiting = requests.into_iter().filter(|request| request.due <= now).map(|request| request.asked.min(now));
        match records.chain(waiting).min() {
            Some(since) => Self::Since(since),
            // Every entry of the mailbox was in the sample, and none waits for us.
            None if is_complete => Self::NothingWaits,
            None => Self::Unknown,
        }
    }

    /// The age; zero when nothing waits, `None` when it is unknown.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        match self {
            Self::NothingWaits => Some(Duration::ZERO),
            Self::Since(since) => Some(now.since(*since)),
            Self::Unknown => None,
        }
    }
}

/// The summary of one run, for health: without server, role or path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    pub run: String,
    pub started: Timestamp,
    pub ended: Timestamp,
    pub stopped_because: String,
    /// Why it failed, in one line; `None` when it did not.
    pub error: Option<String>,
    pub processed: u64,
    pub failed: u64,
    pub api_requests: u64,
}

/// The newest good and the newest failed run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSummaries {
    pub good: Option<RunSummary>,
    pub failed: Option<RunSummary>,
}
