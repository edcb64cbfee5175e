//! The commit stage: stores responses in groups, then has the whole group settled. Talks to the store.
//!
//! **Invariant: store first, then settle.** A crash in between leads to a second fetch, never to a lost request.

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::{error, warn};

use super::{
    context::RunContext,
    follow_ups,
    freshness::still_wanted_at,
    group::Group,
    halt::Force,
    hand_over::{Ended, How},
    outbox::Outbox,
    planned::FAILED_FOR,
    report::StopReason,
    settle::Settler,
};
use crate::{
    model::{Answered, Fetched, Outcome, Reason},
    queue::{Lease, Queue, Settlement, SharedState},
    retry::Retries,
    store::{ANY_RECORD, Commit, Committed, Lesson, PutOff, Store, StoreError},
};

// A full group saves commits, but its first response must not wait long to be stored.
const GROUP_WAIT: Duration = Duration::from_millis(300);

// While a commit takes longer than this, no further call begins: its response might not be stored.
const SLOW_COMMIT_THRESHOLD: Duration = Duration::from_secs(2);

// Responses cost calls, so a commit is tried again for a while; the last delays outlast a failover's first seconds.
const COMMIT_RETRY_DELAYS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(2)];

// The database is down for this run when all tries of a commit have taken this long.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

// A broken part of a table may refuse a few responses in a row although the rest is well. After this many the database as a
// whole counts as failing.
const MAX_REFUSED_ALONE: u32 = 5;

// Held with this reason: nothing could be stored, so the response is not at fault.
const STORE_FAILS: &str = "store_fails";

// Held with this reason: the database refused this one response, and may still store others.
const REFUSED: &str = "refused_by_database";

/// The last of the three stages.
#[derive(Debug)]
pub struct CommitStage<'a, Q, S> {
    pub ctx: &'a RunContext<'a, Q, S>,
    pub outbox: &'a Outbox<'a>,
    pub settler: Settler<'a, Q, S>,
    /// False while the database takes no responses: calls wait.
    pub accepts: watch::Sender<bool>,
    /// The responses that the store has refused, each by itself, since it stored one.
    pub refused_alone: AtomicU32,
}

impl<Q: Queue + SharedState, S: Store> CommitStage<'_, Q, S> {
    /// Stores and settles requests until the other stages hand over no more.
    pub async fn run(&self, mut to_commit: mpsc::Receiver<Ended>) {
        while let Some(first) = to_commit.recv().await {
            let mut group = Group::default();
            self.add(first, &mut group);
            self.gather(&mut to_commit, &mut group).await;
            self.finish(group).await;
        }
    }

    /// Adds to the group until it is full, has waited long enough, or nothing more is on its way.
    async fn gather(&self, to_commit: &mut mpsc::Receiver<Ended>, group: &mut Group) {
        let flow = &self.ctx.flow;
        let full_at = Instant::now() + GROUP_WAIT;
        while !group.is_full() {
            let next = tokio::select! {
                // A request that has arrived goes into this group even when the wait of the group is over.
                biased;
                next = to_commit.recv() => next,
                // No fetch is under way or to come, so waiting would only delay the end of the run.
                () = flow.until(|counts| counts.unstarted == 0 && counts.in_flight == 0) => to_commit.try_recv().ok(),
                // A few responses are not held up for a full group.
                () = tokio::time::sleep_until(full_at) => None,
            };
            match next {
                Some(ended) => self.add(ended, group),
                None => return,
            }
        }
    }

    fn add(&self, ended: Ended, group: &mut Group) {
        if let How::Dead { reason, .. } | How::Failed(reason, _) = &ended.how {
            self.ctx.request_failed(&ended.lease, reason);
        }
        if matches!(ended.how, How::Dead { .. } | How::Failed(..)) {
            self.put_off_failed(&ended.lease);
        }
        group.add(ended, self.ctx.worker.config.max_attempts, self.ctx.time.now());
    }

    /// Stores the responses of a group, then settles all of it.
    pub async fn finish(&self, mut group: Group) {
        if group.len() == 0 {
            return;
        }
        self.store(&mut group).await;
        // Last: an object that was leased anew during the commit has a newer token.
        self.ctx.in_hand.bring_tokens(&mut group.settlements);
        self.settler.settle(&group).await;
    }

    /// Stores the responses of a group, and decides about the settlement of each.
    async fn store(&self, group: &mut Group) {
        let Self { ctx, .. } = self;
        if group.answered.is_empty() {
            return;
        }
        let (leases, fetched): (Vec<Lease>, Vec<Fetched>) = std::mem::take(&mut group.answered).into_iter().unzip();
        let began = Instant::now();
        // An earlier group has waited out the timeout for all: were each group to wait, the run would last a multiple of it.
        let is_down = matches!(ctx.halt.reason(), Some((StopReason::DatabaseDown, _)));
        let error = if is_down {
            None
        } else {
            match self.commit(&fetched).await {
                Ok(commit) => return self.committed(commit, leases, &fetched, group),
                Err(error) => Some(error),
            }
        };
        let hold = error.and_then(|error| self.hold_after(&error, &leases, began));
        for lease in leases {
            let returned = match &hold {
                Some(reason) => Settlement::Held { reason: reason.clone() },
                None => Settlement::Release,
            };
            group.settle(lease, returned, Outcome::Released);
        }
    }

    fn committed(&self, commit: Commit, leases: Vec<Lease>, fetched: &[Fetched], group: &mut Group) {
        let Self { ctx, .. } = self;
        let Commit { committed, learned, lessons, outbox, trouble, .. } = commit;
        if let Some(trouble) = trouble {
            ctx.halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(trouble.clone()));
        }
        // The table takes rows, so earlier refusals were about single responses. The next ones are counted anew.
        if committed.contains(&Committed::Stored) {
            self.refused_alone.store(0, Ordering::Relaxed);
        }
        group.entries = outbox;
        self.count_lessons(&leases, &lessons);
        let config = ctx.worker.config.follow_ups;
        for (((lease, fetched), committed), learned) in leases.into_iter().zip(fetched).zip(committed).zip(&learned) {
            group.follow_ups.extend(follow_ups::of_commit(config, fetched, &committed, learned, ctx.time.now()));
            let (settlement, outcome) = self.after_commit(&lease, fetched, committed);
            group.settle(lease, settlement, outcome);
        }
    }

    /// Counts what the planner has learned.
    fn count_lessons(&self, leases: &[Lease], lessons: &[Option<Lesson>]) {
        let Self { ctx, .. } = self;
        let Some(teaching) = ctx.worker.config.planner.map(|planner| planner.teaching) else { return };
        let mut tally = ctx.tally.lock();
        let Some(planned) = &mut tally.planned else { return };
        for (lease, lesson) in leases.iter().zip(lessons) {
            let Some(lesson) = lesson else { continue };
            planned.learned(lease.object.kind, lease.planned, lesson, &teaching);
            if let Some(looks) = ctx.planned.as_ref().filter(|_| !lease.planned) {
                looks.requested_call(lesson.bucket);
            }
        }
    }

    /// A planned look that failed is put off, so that no failing object holds the head of the plan.
    fn put_off_failed(&self, lease: &Lease) {
        let Some(looks) = self.ctx.planned.as_ref().filter(|_| lease.planned) else { return };
        looks.put_off([PutOff::anyway(lease.object.clone(), self.ctx.time.now() + FAILED_FOR)]);
        if let Some(tally) = &mut self.ctx.tally.lock().planned {
            tally.failed();
        }
    }

    /// The reason with which requests are held whose commit failed; `None` when they are released, or the run's end alone kept them
    /// from being stored.
    fn hold_after(&self, error: &StoreError, leases: &[Lease], began: Instant) -> Option<Reason> {
        if is_refusal_of_all(error)
            && let [lease] = leases
            && self.refused_alone.fetch_add(1, Ordering::Relaxed) < MAX_REFUSED_ALONE
        {
            let reason = Reason::new(REFUSED, error.to_string());
            self.ctx.request_failed(lease, &reason);
            return Some(reason);
        }
        if self.ctx.store_failed(error, began) { hold_of(error) } else { None }
    }

    /// Commits, and holds back further calls while the database does not respond: no call is spent on a result that
    /// cannot be stored.
    async fn commit(&self, fetched: &[Fetched]) -> Result<Commit, StoreError> {
        let Self { ctx, .. } = self;
        let mut retries = Retries::after(&COMMIT_RETRY_DELAYS);
        let first_began = Instant::now();
        let was_doubtful = ctx.worker.store.is_doubtful();
        loop {
            let began = Instant::now();
            // Deleted in the same transaction, which costs no round trip.
            let delivered = self.outbox.delivered();
            let error = match self.commit_once(fetched, &delivered).await {
                Ok(commit) => {
                    // A commit of which nothing could be stored has deleted no entry either.
                    if commit.committed.iter().any(|one| !matches!(one, Committed::Poison(_) | Committed::Held(_))) {
                        self.outbox.deleted(&delivered);
                    }
                    // A wait for the locks of others says nothing about the next commit.
                    if !commit.committed.iter().any(|one| matches!(one, Committed::Held(_))) {
                        ctx.deadline.saw_commit(began.elapsed());
                    }
                    self.accepts.send_replace(true);
                    if was_doubtful && !ctx.worker.store.is_doubtful() {
                        self.lift_holds().await;
                    }
                    return Ok(commit);
                }
                Err(error) => error,
            };
            warn!(error = %error, answers = fetched.len(), "could not store responses");
            if is_refusal_of_all(&error) {
                // Each was tried by itself: another try would not help, and the database does respond.
                self.accepts.send_replace(true);
                return Err(error);
            }
            // No further call begins until a commit succeeds.
            self.accepts.send_replace(false);
            if !retries.wait(ctx.deadline.end().min(first_began + COMMIT_TIMEOUT)).await {
                return Err(error);
            }
        }
    }

    /// Commits once. While that takes long, no further call begins.
    async fn commit_once(&self, fetched: &[Fetched], delivered: &[i64]) -> Result<Commit, StoreError> {
        let Self { ctx, .. } = self;
        let limit = ctx.deadline.left_for_the_database(Instant::now());
        // A panic about one response must not end the process, and with it the leases of all.
        let commit = AssertUnwindSafe(ctx.worker.store.commit_and_delete(ctx.time.now(), fetched, delivered, limit));
        let commit = commit.catch_unwind().map(|committed| {
            committed.unwrap_or_else(|_| {
                error!(answers = fetched.len(), "a commit panicked; this is a defect of the worker");
                let [server, detail] = ["the worker", "it panicked, which is a defect"].map(str::to_owned);
                Err(StoreError::Failed { server, action: "store a batch", detail })
            })
        });
        let mut commit = std::pin::pin!(commit);
        if let Ok(result) = tokio::time::timeout(SLOW_COMMIT_THRESHOLD, commit.as_mut()).await {
            return result;
        }
        self.accepts.send_replace(false);
        commit.await
    }

    /// The store takes responses again: what was held for it need not wait any longer. A response that was refused by itself waits on:
    /// another one that was stored says nothing about it.
    async fn lift_holds(&self) {
        // The store itself holds single records, with the second code.
        for code in [STORE_FAILS, "database_fails"] {
            if let Err(error) = self.ctx.worker.queue.lift_holds(self.ctx.time.now(), code).await {
                warn!(error = %error, "could not lift the holds of requests; they end by themselves");
            }
        }
    }

    fn after_commit(&self, lease: &Lease, fetched: &Fetched, committed: Committed) -> (Settlement, Outcome) {
        let done = match still_wanted_at(lease, fetched.began, fetched.fresh_until) {
            Some(until) => Settlement::Later { until },
            None => Settlement::Done,
        };
        match committed {
            Committed::Stored => {
                self.outbox.invalidation.add(&lease.object);
                (done, Outcome::Stored)
            }
            Committed::Unchanged => (done, Outcome::Unchanged),
            // A later call of another run was stored first.
            Committed::Superseded => (done, Outcome::Fresh),
            Committed::Noted => match fetched.answered {
                Answered::PrivateWarLog => (done, Outcome::PrivateWarLog),
                Answered::UnknownState(_) => (done, Outcome::Unchanged),
                _ => (done, Outcome::Gone),
            },
            Committed::Poison(reason) | Committed::Held(reason) if lease.planned => {
                self.ctx.request_failed(lease, &reason);
                self.put_off_failed(lease);
                (Settlement::Release, Outcome::Released)
            }
            Committed::Poison(reason) => {
                self.ctx.request_failed(lease, &reason);
                (Settlement::Dead { reason, body: None }, Outcome::DeadLetter)
            }
            Committed::Held(reason) => {
                self.ctx.request_failed(lease, &reason);
                (Settlement::Held { reason }, Outcome::Released)
            }
        }
    }
}

/// True when the store has refused each of the responses.
fn is_refusal_of_all(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed { action, .. } if *action == ANY_RECORD)
}

/// The reason of a hold while the store refuses everything, or is locked: so the next run begins with others, and what this one
/// has called for is not called for at once again. An outage passes, and holds nothing.
fn hold_of(error: &StoreError) -> Option<Reason> {
    match error {
        StoreError::Locked { .. } | StoreError::Failed { .. } | StoreError::NotAllowed { .. } => {
            Some(Reason::new(STORE_FAILS, error.to_string()))
        }
        StoreError::Unreachable { .. } | StoreError::ReadOnly { .. } | StoreError::OutOfTime { .. } => None,
    }
}
