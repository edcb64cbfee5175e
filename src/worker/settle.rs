//! Settles a group in one script, and publishes the outbox entries of its commit in the same round trip. Talks to the queue.

use std::time::Duration;

use tracing::warn;

use super::{
    Progress,
    context::RunContext,
    follow_ups,
    group::Group,
    halt::Force,
    outbox::{Publisher, Unpublished},
    report::StopReason,
};
use crate::{
    model::Outcome,
    queue::{Following, Lease, Queue, Settled, Settlement, SharedState},
    retry::Retries,
    store::Store,
};

// A settlement that is given up costs the requests a lapse, so it is tried again through a failover of the queue.
const SETTLE_RETRY_DELAYS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(2)];

/// Settles requests, and counts their outcomes.
#[derive(Debug)]
pub struct Settler<'a, Q, S> {
    pub ctx: &'a RunContext<'a, Q, S>,
    pub publisher: Publisher<'a, Q, S>,
    pub progress: &'a dyn Progress,
}

impl<Q: Queue + SharedState, S: Store> Settler<'_, Q, S> {
    /// Settles a group. When the queue does not respond, the leases lapse; the stored copies are then fresh, and no second call is made
    /// for them.
    pub async fn settle(&self, group: &Group) {
        let Self { ctx, publisher, .. } = self;
        let (follow_ups, most_ready) = follow_ups::within_budget(&group.follow_ups, ctx.pool(), ctx.tally);
        let following = Following { follow_ups: &follow_ups, most_ready };
        let mut unpublished = publisher.of(&group.entries);
        failpoint!("settle.before");
        let mut settled = self.settle_and_publish(group, following, &mut unpublished).await;
        failpoint!("settle.after");
        // Must come before the entries are closed and the outcomes counted, because it may turn a lost lease into a settled one.
        self.settle_leased_anew(&group.settlements, &mut settled).await;
        publisher.close(&group.entries, &unpublished);
        for (((lease, _), outcome), settled) in group.settlements.iter().zip(&group.outcomes).zip(settled) {
            let outcome = match settled {
                Settled::Settled => *outcome,
                Settled::LeaseLost => Outcome::LeaseLost,
                Settled::NoRoom => {
                    self.no_room_for_dead_letters();
                    Outcome::Released
                }
            };
            self.count(lease, outcome);
        }
        ctx.flow.closed(group.settlements.len());
    }

    async fn settle_and_publish(
        &self,
        group: &Group,
        following: Following<'_>,
        unpublished: &mut Unpublished,
    ) -> Vec<Settled> {
        let Self { ctx, publisher, .. } = self;
        let mut retries = Retries::after(&SETTLE_RETRY_DELAYS);
        loop {
            let settling = ctx.worker.queue.settle_and_follow(ctx.time.now(), &group.settlements, following);
            // Sent one after the other on one connection: one round trip.
            let ((), settled) = tokio::join!(publisher.publish(unpublished), settling);
            let error = match settled {
                Ok((settled, queued)) => {
                    ctx.tally.lock().report.followups += queued as u64;
                    return settled;
                }
                Err(error) => error,
            };
            warn!(error = %error, requests = group.settlements.len(), "could not settle requests");
            if !retries.wait(ctx.deadline.end()).await {
                ctx.queue_down(&error);
                return vec![Settled::LeaseLost; group.settlements.len()];
            }
        }
    }

    /// Lets go of what was settled, and ends the leases that arrived for it meanwhile.
    async fn settle_leased_anew(&self, settlements: &[(Lease, Settlement)], settled: &mut [Settled]) {
        let Self { ctx, .. } = self;
        let (places, batch): (Vec<usize>, Vec<_>) = ctx.in_hand.let_go(settlements, settled).into_iter().unzip();
        if batch.is_empty() {
            return;
        }
        match ctx.worker.queue.settle(ctx.time.now(), &batch).await {
            Ok(results) => {
                for (place, result) in places.into_iter().zip(results) {
                    if settled[place] == Settled::LeaseLost {
                        settled[place] = result;
                    }
                }
            }
            Err(error) => {
                warn!(error = %error, requests = batch.len(), "could not settle requests that were leased anew");
            }
        }
    }

    /// Ends the run: what would become a dead letter waits, so that no dead letter is lost for it.
    fn no_room_for_dead_letters(&self) {
        let failure = "the room for dead letters is full. See why they died (`refresh-worker dead list`), then redrive or purge them";
        self.ctx.halt.end(Force::None, StopReason::DeadLettersFull, Some(failure.to_owned()));
    }

    fn count(&self, lease: &Lease, outcome: Outcome) {
        let mut tally = self.ctx.tally.lock();
        tally.count(lease.object.kind, lease.requested_as(), outcome);
        if let (Some(planned), Some(asked), true) = (&mut tally.planned, lease.asked, outcome.is_processed()) {
            planned.waited(asked, self.ctx.time.now());
        }
        drop(tally);
        if !lease.planned {
            self.progress.settled(lease.object.kind, outcome);
        }
    }
}
