//! The ports of a run: [`Queue`], and [`Publisher`] for what other programs read.

use std::future::Future;

use super::{
    Admitted, ClaimRequest, Claimed, Following, Lease, LeaseRequest, LeaseToken, Leased, MailLimits, QueueError,
    QueueStats, Repaired, RunSummaries, RunSummary, Settled, Settlement, mailbox, record,
};
use crate::{
    clock::Timestamp,
    model::{Event, Kind, ObjectId, RefreshRequest},
};

/// Publishes to other programs at the queue's server.
pub trait Publisher: Send + Sync + 'static {
    /// Appends events to a stream that keeps about the newest `most`. Returns how many were appended.
    fn publish_events(
        &self,
        stream: &str,
        most: u64,
        events: &[Event],
    ) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Deletes keys in which readers cache documents that are outdated now. Returns how many existed.
    fn delete_cache_keys(&self, keys: &[String]) -> impl Future<Output = Result<usize, QueueError>> + Send;
}

/// The queue as a run uses it: admit, lease, settle, publish.
pub trait Queue: Publisher {
    /// Returns the queue server's time, which also proves that the server answers.
    fn time(&self) -> impl Future<Output = Result<Timestamp, QueueError>> + Send;

    /// Returns the server's time and proves that the server accepts writes: the first call of a run.
    fn time_to_write(&self) -> impl Future<Output = Result<Timestamp, QueueError>> + Send {
        self.time()
    }

    /// Reads a slice of the mailbox without changing it. Waiting orphans and a step of the data scan are part of it.
    fn read_mail(
        &self,
        now: Timestamp,
        limits: MailLimits,
    ) -> impl Future<Output = Result<mailbox::Mail, QueueError>> + Send;

    /// Merges what was read into the queue and deletes it from the mailbox, unless it changed meanwhile.
    fn admit(&self, now: Timestamp, mail: mailbox::Mail) -> impl Future<Output = Result<Admitted, QueueError>> + Send;

    /// Puts requests into the queue directly, for a handler or an operator.
    fn enqueue(
        &self,
        now: Timestamp,
        requests: &[RefreshRequest],
    ) -> impl Future<Output = Result<Enqueued, QueueError>> + Send;

    /// Takes back leases that ran out, moves what is due to ready, and leases the next objects in order.
    fn lease(&self, now: Timestamp, request: &LeaseRequest) -> impl Future<Output = Result<Leased, QueueError>> + Send;

    /// Leases objects that have no record, for planned looks. Claims nothing while a request is ready or due, in one step with the
    /// claim. Without objects it asks nothing. A server without free memory refuses it.
    fn claim(&self, now: Timestamp, request: &ClaimRequest)
    -> impl Future<Output = Result<Claimed, QueueError>> + Send;

    /// Extends leases to `until`. A renewal confirms that the run received the lease: only then a lapse counts against a suspect.
    /// Returns, in order, whether each lease is still ours.
    fn renew(
        &self,
        now: Timestamp,
        leases: &[(ObjectId, LeaseToken)],
        until: Timestamp,
    ) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Ends leases, all in one step. Returns the results in order. The same batch sent again within a minute, because its reply
    /// was lost, gets the same reply.
    fn settle(
        &self,
        now: Timestamp,
        settlements: &[(Lease, Settlement)],
    ) -> impl Future<Output = Result<Vec<Settled>, QueueError>> + Send {
        async move { Ok(self.settle_and_follow(now, settlements, Following::default()).await?.0) }
    }

    /// [`Self::settle`], and in the same step enqueues the follow-ups. A follow-up merges like a request, but revives no dead
    /// letter. Also returns how many follow-ups were accepted.
    fn settle_and_follow(
        &self,
        now: Timestamp,
        settlements: &[(Lease, Settlement)],
        following: Following<'_>,
    ) -> impl Future<Output = Result<(Vec<Settled>, usize), QueueError>> + Send;

    /// Repairs the next stretch of records, once a run. The cost of one run does not grow with the queue, unless records and
    /// sets visibly differ.
    fn reconcile(&self, now: Timestamp) -> impl Future<Output = Result<Repaired, QueueError>> + Send;

    /// Ends the holds that were put on objects for this reason, since the reason is gone. Returns how many there were.
    fn lift_holds(&self, now: Timestamp, code: &str) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Frees the objects of a kind that were set aside until this time. Returns how many there were.
    fn return_set_aside(
        &self,
        now: Timestamp,
        kind: Kind,
        until: Timestamp,
    ) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Keeps the summary of a run as the newest good or the newest failed one, for [`RUN_SUMMARIES_LIFETIME`].
    ///
    /// [`RUN_SUMMARIES_LIFETIME`]: super::RUN_SUMMARIES_LIFETIME
    fn record_run(&self, _summary: &RunSummary) -> impl Future<Output = Result<(), QueueError>> + Send {
        async { Ok(()) }
    }

    /// Returns the kept summaries. One that cannot be read counts as absent.
    fn run_summaries(&self) -> impl Future<Output = Result<RunSummaries, QueueError>> + Send {
        async { Ok(RunSummaries::default()) }
    }

    fn stats(&self, now: Timestamp) -> impl Future<Output = Result<QueueStats, QueueError>> + Send;
}

/// The result of enqueueing requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enqueued {
    /// Requests that wait now, or waited already.
    pub queued: usize,
    /// Requests for dead letters that no request revives.
    pub dead: Vec<NotQueued>,
}

/// An object that died with its workers (`lapsed`). A request for it is merged, and does not revive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotQueued {
    pub object: ObjectId,
    pub died: Timestamp,
    /// The reason of the dead letter.
    pub reason: String,
}

impl NotQueued {
    /// A sentence that says why the object is not queued, and which command queues it.
    #[must_use]
    pub fn why(&self) -> String {
        format!(
            "it is a dead letter since {} ({}: {}); `refresh-worker enqueue {} --revive` returns it to the queue",
            self.died,
            record::LAPSED,
            self.reason,
            self.object
        )
    }
}
