//! The sequence of one run, from the opening to the report.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::{
    Progress, RunOptions, Runs, Worker,
    closing::Closing,
    context::RunContext,
    daily_quota,
    deadline::Deadline,
    drain::drain,
    flow::Flow,
    halt::Halt,
    in_hand::InHand,
    keys::{self, KeySlots},
    opening::Opening,
    outbox::Outbox,
    planned::PlannedLooks,
    preflight::Preflight,
    report::{RunReport, Tally},
};
use crate::{
    api::{budget::DailyQuota, budget::KeyPool},
    clock::ServerTime,
    config::PlannerConfig,
    queue::{Queue, SharedState},
    store::Store,
};

impl<Q: Queue + SharedState, S: Store> Runs for Worker<Q, S> {
    async fn run(&self, options: RunOptions, progress: &dyn Progress) -> RunReport {
        let began = Instant::now();
        let run = Run::new(self, &options, began);
        let opening = Opening { worker: self, deadline: &run.deadline, halt: &run.halt, tally: &run.tally };
        let time = opening.open(&options.named).await;
        failpoint!("run.opened");
        if let (Some(time), None) = (&time, run.halt.reason()) {
            // Boxed, since this large future would otherwise be copied whenever the outer one is moved.
            let drain = Box::pin(run.drain(time, progress));
            tokio::select! {
                () = drain => {}
                // The invalidation ends with the drain; `finish` sends the tags that are left.
                () = run.outbox.keep_invalidating() => {}
            }
        }
        let closing = Closing { worker: self, time: time.as_ref(), deadline: &run.deadline, halt: &run.halt };
        closing.admit_mailbox(&run.tally).await;
        let maintained = run.tally.lock().maintained.take();
        let after = Box::pin(closing.publish_and_maintain(&options, &run.outbox, maintained)).await;
        // Cloned, since the lock may not be held while the run is closed.
        let mut tally = run.tally.lock().clone();
        tally.report.throttled = run.pool.refusals();
        tally.report.after = after;
        Box::pin(closing.close(began, &run.pool, tally)).await
    }
}

/// The values of one run that live from its beginning to its end.
struct Run<'a, Q, S> {
    worker: &'a Worker<Q, S>,
    options: &'a RunOptions,
    name: String,
    deadline: Deadline,
    pool: KeyPool,
    tally: Mutex<Tally>,
    halt: Halt,
    outbox: Outbox<'a>,
}

impl<'a, Q: Queue + SharedState, S: Store> Run<'a, Q, S> {
    fn new(worker: &'a Worker<Q, S>, options: &'a RunOptions, began: Instant) -> Self {
        let name = options.run.clone().unwrap_or_else(|| format!("run-{:012x}", fastrand::u64(..1 << 48)));
        let limits = [options.max_runtime, worker.config.max_runtime];
        Self {
            worker,
            options,
            deadline: Deadline::new(began, options.time_left, worker.config.deadline_buffer, &limits),
            pool: KeyPool::new(Arc::clone(&worker.clock), worker.api.reqs_per_sec),
            tally: Mutex::new(
                Tally::new(name.clone(), worker.clock.wall()).with_planned(worker.config.planner.is_some()),
            ),
            halt: Halt::default(),
            outbox: Outbox::new(worker.after.as_ref().and_then(|after| after.invalidator.as_ref())),
            name,
        }
    }

    /// The planner, in a run that may use calls to spare: one with an end, and without a caller who waits or wants a part of the work.
    fn plans(&self) -> Option<PlannerConfig> {
        let Self { worker, options, .. } = self;
        let limits = [options.time_left, options.max_runtime, worker.config.max_runtime];
        let has_end = limits.iter().any(Option::is_some);
        let takes_all = options.max_requests.is_none() && options.priority_filter.is_empty() && !options.answer_soon;
        worker.config.planner.filter(|_| has_end && takes_all)
    }

    /// Takes keys, drains the queue, and releases the keys.
    async fn drain(&self, time: &ServerTime, progress: &dyn Progress) {
        let Self { worker, options, deadline, pool, tally, halt, .. } = self;
        if let Some(per_day) = worker.api.reqs_per_day {
            // Before any key is taken: no permit may be given without the quota.
            pool.set_daily_quota(DailyQuota::new(per_day, time.clone()));
        }
        // Lambda delivers a request more than once, with one id: two attempts must not be one holder.
        let holder = format!("{}/{:08x}", self.name, fastrand::u32(..));
        let (clock, lifetime) = (worker.clock.as_ref(), keys::slot_lifetime());
        let queue = worker.queue.as_ref();
        let slots =
            KeySlots::new(queue, clock, &worker.api.key_store, pool, &holder, lifetime, worker.api.keys_per_run);
        let preflight = Preflight { worker, slots: &slots, time, deadline, halt, tally };
        let open_circuits = preflight.check().await;
        if halt.reason().is_none() {
            let (flow, in_hand) = (Flow::default(), InHand::default());
            let planned = self.plans().map(PlannedLooks::new);
            let ctx = RunContext { worker, time, deadline, halt, tally, slots: &slots, flow, in_hand, planned };
            drain(&ctx, &self.name, options, &open_circuits, &self.outbox, progress).await;
        }
        {
            let report = &mut tally.lock().report;
            // Before the slots are released, which leaves no key usable.
            report.keys_usable = pool.usable() as u64;
            report.keys_rejected = slots.rejected() as u64;
            report.all_keys_rejected = slots.all_are_rejected();
        }
        failpoint!("slot.before_give_back");
        if let Err(error) = slots.release().await {
            warn!(error = %error, "could not release the key slots; they run out by themselves");
        }
        failpoint!("slot.after_give_back");
        if let Err(error) = daily_quota::return_rest(queue, pool).await {
            warn!(error = %error, "could not return calls of the day; they are lost to it");
        }
    }
}
