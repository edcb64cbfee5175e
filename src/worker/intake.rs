//! Takes requests from the queue: admits the mailbox's entries, and leases what is next in order.

use std::time::Duration;

use parking_lot::Mutex;
use tracing::{debug, warn};

use super::{
    RunOptions,
    breaker::Breaker,
    context::{CLOCK_TOLERANCE, RunContext},
    mailbox::admit_mailbox,
};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    queue::{ClaimRequest, Claimed, Lease, LeaseRequest, Leased, MailLimits, Queue, QueueError, SharedState},
    retry::Retries,
    store::Store,
};

// A short failover of Redis must not end a run, so the delays together outlast one.
const LEASE_RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// The result of one lease call.
#[derive(Debug)]
pub struct Batch {
    pub leases: Vec<Lease>,
    pub suspect_waits: bool,
    /// Entries wait in the mailbox, or came with this batch, or not all that is due was looked at: an empty batch does not mean an
    /// empty queue.
    pub more: bool,
    /// More entries wait in the mailbox than came with this batch.
    pub mail_waits: bool,
    /// The error that kept entries from being admitted. They are still in the mailbox.
    pub not_admitted: Option<QueueError>,
}

/// The lease calls of one run.
#[derive(Debug)]
pub struct Intake<'a, Q, S> {
    ctx: &'a RunContext<'a, Q, S>,
    breaker: &'a Breaker<'a, Q, S>,
    run: &'a str,
    options: &'a RunOptions,
    /// The objects that the run was asked for by name and has not leased yet.
    named: Mutex<Vec<ObjectId>>,
    /// Nonces of lease calls without a response, each with the end of the leases it may have made.
    lost_calls: Mutex<Vec<(String, Timestamp)>>,
}

impl<'a, Q: Queue + SharedState, S: Store> Intake<'a, Q, S> {
    pub fn new(
        ctx: &'a RunContext<'a, Q, S>,
        breaker: &'a Breaker<'a, Q, S>,
        run: &'a str,
        options: &'a RunOptions,
    ) -> Self {
        Self { ctx, breaker, run, options, named: Mutex::new(options.named.clone()), lost_calls: Mutex::default() }
    }

    /// [`Self::lease_batch`], again when the queue was away for a moment. The next call frees what a call without a response had
    /// leased.
    pub async fn lease(&self, max: usize, probe: bool) -> Result<Batch, QueueError> {
        let mut retries = Retries::after(&LEASE_RETRY_DELAYS);
        loop {
            let error = match self.lease_batch(max, probe).await {
                Err(error) if error.is_transient() => error,
                result => return result,
            };
            let Some(delay) = retries.next(self.ctx.deadline.leasing_ends()) else { return Err(error) };
            warn!(error = %error, "could not lease; will try again");
            tokio::time::sleep(delay).await;
        }
    }

    /// Admits a slice of the mailbox and leases what is next in order, in one round trip.
    pub async fn lease_batch(&self, max: usize, probe: bool) -> Result<Batch, QueueError> {
        let Self { ctx, .. } = self;
        let queue = &ctx.worker.queue;
        if ctx.time.is_doubtful(CLOCK_TOLERANCE) {
            ctx.time.reset(queue.time().await?);
        }
        let now = ctx.time.now();
        failpoint!("mail.before_read");
        let mail = queue.read_mail(now, MailLimits::default()).await?;
        failpoint!("mail.after_read");
        let set_aside = self.breaker.kinds_set_aside(now).await?;
        let duration = ctx.lease_duration();
        let (nonce, lost) = self.announce(now + duration, now);
        let request = LeaseRequest {
            max,
            duration,
            priorities: self.options.priority_filter.clone(),
            alone: ctx.flow.counts().open == 0,
            seed: fastrand::u64(..),
            run: self.run.to_owned(),
            first: self.named.lock().clone(),
            set_aside,
            probe,
            nonce: nonce.clone(),
            lost,
        };
        // Sent one after the other on one connection, so that the lease sees what was admitted.
        let admit = async {
            failpoint!("admit.before");
            let admitted = queue.admit(now, mail).await;
            failpoint!("admit.after");
            admitted
        };
        let lease = async {
            failpoint!("lease.before");
            let leased = queue.lease(now, &request).await;
            failpoint!("lease.after");
            leased
        };
        let (admitted, leased) = tokio::join!(admit, lease);
        if let Ok(admitted) = &admitted {
            ctx.tally.lock().admitted(admitted);
        }
        // A refusal is a response, too: nothing was leased.
        if matches!(leased, Ok(_) | Err(QueueError::Refused { .. })) {
            self.lost_calls.lock().retain(|(lost, _)| *lost != nonce);
        }
        let leased = leased?;
        self.named.lock().retain(|named| leased.leases.iter().all(|lease| lease.object != *named));
        self.count_lapses(&leased);
        let Leased { leases, suspect_waits, more, .. } = leased;
        match admitted {
            // A server that has forgotten only the admit script leases first and admits after. So what was admitted may not be leased yet.
            Ok(admitted) => {
                let more = admitted.more || admitted.admitted > 0 || more;
                Ok(Batch { leases, suspect_waits, more, mail_waits: admitted.more, not_admitted: None })
            }
            Err(error) if leases.is_empty() && error.is_transient() => Err(error),
            // The leases are ours although admitting failed: if they were dropped, they would lapse, and end as dead letters.
            Err(error) => Ok(Batch { leases, suspect_waits, more, mail_waits: false, not_admitted: Some(error) }),
        }
    }

    /// Claims objects for planned looks. The queue refuses those that have a record.
    pub async fn claim(&self, objects: Vec<ObjectId>) -> Result<Claimed, QueueError> {
        let Self { ctx, .. } = self;
        let (now, duration) = (ctx.time.now(), ctx.lease_duration());
        // Should the reply be lost, the next lease call ends these looks.
        let (nonce, _) = self.announce(now + duration, now);
        let request = ClaimRequest { objects, duration, run: self.run.to_owned(), nonce: nonce.clone() };
        failpoint!("claim.before");
        let claimed = ctx.worker.queue.claim(now, &request).await;
        failpoint!("claim.after");
        if matches!(claimed, Ok(_) | Err(QueueError::Refused { .. })) {
            self.lost_calls.lock().retain(|(lost, _)| *lost != nonce);
        }
        if let Ok(claimed) = &claimed {
            ctx.tally.lock().report.repaired.add(claimed.repaired);
        }
        claimed
    }

    /// Admits more entries for as long as `may_go_on` says so.
    pub async fn admit_more(&self, may_go_on: impl Fn() -> bool) {
        let Self { ctx, .. } = self;
        // The next lease call meets the same error and reports it.
        if let Err(error) = admit_mailbox(ctx.worker.queue.as_ref(), ctx.time, ctx.tally, may_go_on).await {
            debug!(error = %error, "could not admit more of the mailbox; it waits");
        }
    }

    fn count_lapses(&self, leased: &Leased) {
        let mut tally = self.ctx.tally.lock();
        tally.report.lapsed += leased.lapsed as u64;
        tally.report.lapsed_dead += leased.lapsed_dead as u64;
        tally.report.repaired.add(leased.repaired);
        drop(tally);
        if leased.lapsed > 0 {
            warn!(
                lapsed = leased.lapsed,
                dead = leased.lapsed_dead,
                "took back leases of a run that ended without settling them"
            );
        }
    }

    /// Returns a nonce for the next lease call, which counts as lost until its response is here, and the nonces of the lost ones.
    /// They are named for as long as their leases may last: a call may be carried out after the one that followed it.
    fn announce(&self, until: Timestamp, now: Timestamp) -> (String, Vec<String>) {
        let mut lost_calls = self.lost_calls.lock();
        lost_calls.retain(|(_, until)| *until > now);
        let lost = lost_calls.iter().map(|(nonce, _)| nonce.clone()).collect();
        let nonce = format!("{:08x}", fastrand::u32(..));
        lost_calls.push((nonce.clone(), until));
        (nonce, lost)
    }
}
