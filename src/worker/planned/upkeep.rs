//! Beside the stages: reads candidates ahead of the lease stage, moves the level, and writes what is put off. Talks to the store.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::looks::{FAR, Page, PlannedLooks};
use crate::{
    config::PlannerConfig,
    planner::lateness,
    queue::{Queue, SharedState},
    store::{Arm, LOOKS_RETENTION, MAX_DELETED_LOOKS, NextLooks, Store, StoreError},
    worker::context::RunContext,
};

/// The level moves after each round, and the candidates are read from the head of the plan again.
const ROUND: Duration = Duration::from_secs(10);

/// Known objects get their places in the plan step by step.
const WALK_INTERVAL: Duration = Duration::from_secs(1);
const WALK_STEP: usize = 2000;

/// The upkeep of a run's planned looks.
#[derive(Debug)]
pub struct Upkeep<'a, Q, S> {
    pub ctx: &'a RunContext<'a, Q, S>,
    pub looks: &'a PlannedLooks,
    pub config: PlannerConfig,
}

impl<Q: Queue + SharedState, S: Store> Upkeep<'_, Q, S> {
    /// Round after round. Never returns.
    pub async fn run(&self) {
        let longest = match self.begin().await {
            Ok(longest) => longest,
            Err(error) => {
                self.failed("begin to plan looks", &error);
                self.config.teaching.policy.longest
            }
        };
        let mut last_round = None;
        let mut walks = true;
        loop {
            let began = Instant::now();
            let round = self.round(last_round.map(|last| began - last)).await;
            if let Err(error) = round {
                self.failed("plan looks", &error);
            }
            last_round = Some(began);
            self.until_end_of_round(began + ROUND, longest, &mut walks).await;
        }
    }

    /// Writes what the last looks have put off.
    pub async fn finish(&self) {
        if let Err(error) = self.write_put_off().await {
            self.failed("put looks off", &error);
        }
    }

    /// Returns the longest time without a look.
    async fn begin(&self) -> Result<Duration, StoreError> {
        let Self { ctx, looks, .. } = self;
        let (store, now) = (&ctx.worker.store, ctx.time.now());
        let longest = self.stretched(store.planned_objects().await?);
        store.stretch_longest(longest);
        looks.stretch_longest(longest);
        // Also when nothing is recorded any more.
        while store.delete_looks(now - LOOKS_RETENTION).await? == MAX_DELETED_LOOKS as u64 {}
        Ok(longest)
    }

    /// The longest time without a look, stretched where it would take more than its share of the calls.
    fn stretched(&self, objects: u64) -> Duration {
        let Self { ctx, config, .. } = self;
        let api = &ctx.worker.api;
        // Of all runs together, and without what a key learned from refusals, which passes.
        #[expect(clippy::cast_precision_loss, reason = "a few keys")]
        let rate = f64::from(config.calls_per_second).min(f64::from(api.reqs_per_sec) * ctx.all_keys() as f64);
        let longest = config.teaching.policy.longest;
        let stretched = config.teaching.policy.stretched(objects, rate).longest;
        if stretched > longest {
            if let Some(tally) = &mut ctx.tally.lock().planned {
                tally.stretched(stretched);
            }
            warn!(
                objects,
                calls_per_second = rate,
                "PLANNED_AT_LEAST_EVERY is stretched to {} h: to look at every object within {} h would take more than a third of the \
                 planned calls. Raise PLANNED_CALLS_PER_SEC, or PLANNED_AT_LEAST_EVERY",
                stretched.as_secs() / 3600,
                longest.as_secs() / 3600
            );
        }
        stretched
    }

    /// Moves the levels, and reads from the head of the plan.
    async fn round(&self, since_last: Option<Duration>) -> Result<(), StoreError> {
        let Self { ctx, looks, .. } = self;
        self.write_put_off().await?;
        let now = ctx.time.now();
        let mut late = 0.0;
        let mut levels = Vec::new();
        for (arm, buckets) in looks.arms() {
            let head = ctx
                .worker
                .store
                .next_looks(NextLooks { now, until: now + FAR, after: None, buckets, limit: 1 })
                .await?;
            let head = head.first().map(|candidate| candidate.next_look);
            let step = looks.begin_round(arm, head, since_last, now);
            let level = ctx.worker.store.move_level(arm, step, now).await?;
            looks.set_level(arm, level);
            // The strategies on the other side of a trial have no price, and are late by design.
            if arm == Arm::Main {
                late = lateness(head, now);
            }
            levels.push((arm, level));
        }
        if let Some(tally) = &mut ctx.tally.lock().planned {
            for (arm, level) in levels {
                tally.level(arm, level.reads(), late);
            }
        }
        self.fill().await
    }

    /// Reads candidates until there are enough.
    async fn fill(&self) -> Result<(), StoreError> {
        let Self { ctx, looks, .. } = self;
        for (arm, buckets) in looks.arms() {
            while let Some(Page { until, after, limit, .. }) = looks.wanted(arm, ctx.time.now()) {
                let ask = NextLooks { now: ctx.time.now(), until, after: after.as_ref(), buckets, limit };
                let candidates = ctx.worker.store.next_looks(ask).await?;
                let is_last = candidates.len() < limit;
                looks.add(arm, candidates, is_last, ctx.time.now());
            }
        }
        Ok(())
    }

    /// Reads more candidates when few are left, and gives known objects their places, until then.
    async fn until_end_of_round(&self, end: Instant, longest: Duration, walks: &mut bool) {
        let mut next_step = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                _ = self.looks.wake.wait_for(|wake| wake.few) => {
                    if let Err(error) = self.fill().await {
                        self.failed("read the next looks", &error);
                        tokio::time::sleep_until(end).await;
                    }
                }
                () = tokio::time::sleep_until(next_step), if *walks => {
                    next_step = Instant::now() + WALK_INTERVAL;
                    *walks = self.walk(longest).await;
                }
            }
        }
    }

    /// A step of the walk over all known objects. False when it is finished, or could not be taken.
    async fn walk(&self, longest: Duration) -> bool {
        let Self { ctx, .. } = self;
        match ctx.worker.store.plan_known_objects(ctx.time.now(), longest, WALK_STEP).await {
            Ok(walked) => !walked.is_finished,
            Err(error) => {
                self.failed("give known objects their looks", &error);
                false
            }
        }
    }

    async fn write_put_off(&self) -> Result<(), StoreError> {
        let put_off = self.looks.take_put_off();
        let written = self.ctx.worker.store.put_off(&put_off).await;
        if written.is_err() {
            self.looks.put_off(put_off);
        }
        written
    }

    /// Planned looks can wait, so no error of theirs ends a run: requests go on, and find out for themselves about the database.
    fn failed(&self, action: &str, error: &StoreError) {
        warn!(error = %error, "could not {action}; requests go on");
        self.ctx.tally.lock().error(format!("could not {action}: {error}"));
        self.looks.pause(Instant::now());
    }
}
