//! The drain: three stages that run side by side until the queue is empty or the run has to end.
//!
//! ```text
//! lease ──work──> fetch ──ended──> commit and settle
//!    └─────────────fresh──────────────────┘
//! ```
//!
//! The lease stage keeps at most two seconds' worth of requests ahead of the limiter, the fetch stage makes calls concurrently,
//! and the commit stage stores responses in groups and settles them. Beside them a keeper renews leases and key slots.
//!
//! # The life of one request
//!
//! | step | by | in short |
//! |---|---|---|
//! | admitted | [`Intake::lease_batch`] | mailbox entries are merged into the queue |
//! | leased | [`Intake::lease_batch`] | a token, renewed by [`Keeper::run`] until the request is settled |
//! | fresh? | [`LeaseStage::hand_out`], [`freshness`](super::freshness) | the stored copy may do: no call, on to *settled* |
//! | permitted | [`FetchStage::start`] | a place, a database that takes responses, a permit of the limiter |
//! | fetched | [`FetchStage::call`] | the API's calls, and the verdict on their responses |
//! | classified | [`classify`](super::classify) | a bad response: the object's fault, or a wider one's |
//! | committed | [`CommitStage::finish`] | document and outbox entry in one transaction, with up to 63 others |
//! | settled | [`Settler::settle`] | done, delayed, held, released or dead, in one script with its follow-ups |
//! | published | [`Publisher::publish`] | events appended, readers' keys deleted, tags invalidated; then the entry is deleted |
//!
//! [`Intake::lease_batch`]: super::intake::Intake::lease_batch
//! [`LeaseStage::hand_out`]: super::lease::LeaseStage::hand_out
//! [`FetchStage::start`]: super::fetch::FetchStage::start
//! [`FetchStage::call`]: super::fetch::FetchStage::call
//! [`CommitStage::finish`]: super::commit::CommitStage::finish
//! [`Settler::settle`]: super::settle::Settler::settle
//! [`Publisher::publish`]: super::outbox::Publisher::publish

use std::sync::atomic::AtomicU32;

use tokio::sync::{mpsc, watch};

use super::{
    Progress, RunOptions,
    breaker::Breaker,
    commit::CommitStage,
    context::RunContext,
    control::ControlCalls,
    daily_quota,
    fetch::FetchStage,
    intake::Intake,
    keeper::Keeper,
    lease::LeaseStage,
    outbox::{Outbox, Publisher},
    planned::Upkeep,
    settle::Settler,
    waiting::{ACT_TIMEOUT, within},
};
use crate::{
    api::judge::SharedJudge,
    queue::{Circuit, Queue, SharedState},
    store::Store,
};

// More than the lease stage ever keeps ahead, so that no stage waits because a channel is full.
const CHANNEL_CAPACITY: usize = 1024;

/// Drains until there is a reason to end, which is then in `ctx.halt`.
pub async fn drain<Q: Queue + SharedState, S: Store>(
    ctx: &RunContext<'_, Q, S>,
    run: &str,
    options: &RunOptions,
    circuits: &[Circuit],
    outbox: &Outbox<'_>,
    progress: &dyn Progress,
) {
    let judge = SharedJudge::default();
    let control = ControlCalls { ctx, judge: &judge };
    let breaker = Breaker::new(ctx, control, circuits);
    let intake = Intake::new(ctx, &breaker, run, options);
    let publisher = Publisher { ctx, outbox };
    let settler = Settler { ctx, publisher, progress };
    let (accepts, store_accepts) = watch::channel(true);
    let lease = LeaseStage { ctx, breaker: &breaker, intake, max_requests: options.max_requests };
    let fetch = FetchStage::new(ctx, &breaker, store_accepts);
    let commit = CommitStage { ctx, outbox, settler, accepts, refused_alone: AtomicU32::default() };
    let keeper = Keeper { ctx };
    let upkeep = ctx.planned.as_ref().zip(ctx.worker.config.planner);
    let upkeep = upkeep.map(|(looks, config)| Upkeep { ctx, looks, config });

    publisher.relay().await;
    let (work, to_fetch) = mpsc::channel(CHANNEL_CAPACITY);
    let (ended, to_commit) = mpsc::channel(CHANNEL_CAPACITY);
    let ended_fetches = ended.clone();
    let stages = async {
        let lease = async {
            lease.run(work, ended.clone()).await;
            drop(ended);
            if let Some(looks) = &ctx.planned {
                looks.wake.update(|wake| wake.over = true);
            }
        };
        tokio::join!(lease, fetch.run(to_fetch, ended_fetches), commit.run(to_commit), maintain_meanwhile(ctx));
        if let Some(upkeep) = &upkeep {
            // What is not put off now is looked at once more.
            let _ = within(ACT_TIMEOUT, upkeep.finish()).await;
        }
        breaker.end_if_keys_were_lost();
        // The last responses may have led to a finding that no stage was left to carry out. This belongs into the block, because
        // everything beside it is dropped when the block ends.
        breaker.carry_out().await;
    };
    // Only the stages end by themselves. The background tasks are dropped after the last settlement.
    tokio::select! {
        () = stages => {}
        () = keeper.run() => {}
        () = keeper.replace_rejected_keys() => {}
        () = daily_quota::keep_up(ctx.worker.queue.as_ref(), ctx.pool()) => {}
        () = publisher.keep_relaying() => {}
        () = control.run() => {}
        () = breaker.run() => {}
        () = async {
            match &upkeep {
                Some(upkeep) => upkeep.run().await,
                None => std::future::pending().await,
            }
        } => {}
    }
    ctx.tally.lock().report.circuits = breaker.open_circuits();
}

/// Carries out the maintenance once the queue was empty, beside the planned looks: they last until the end of the run, and would leave no
/// time for it.
async fn maintain_meanwhile<Q: Queue + SharedState, S: Store>(ctx: &RunContext<'_, Q, S>) {
    let (Some(looks), Some(after)) = (&ctx.planned, &ctx.worker.after) else { return };
    let wake = looks.wake.wait_for(|wake| wake.idle || wake.over).await;
    if wake.over || ctx.halt.is_forced() {
        return;
    }
    // The end of the leases ends the maintenance, too: the keys are for the next run, whatever made this one end early.
    let stopped = || async {
        tokio::select! {
            () = ctx.worker.stop.asked() => {}
            _ = looks.wake.wait_for(|wake| wake.over) => {}
        }
    };
    let report = after.run(ctx.time.now(), ctx.deadline.end(), stopped).await;
    ctx.tally.lock().maintained = Some(report);
}
