//! Closes a run: the mailbox of a run that was turned away, the work after the drain, and the report, which both servers keep for health.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::{
    RunOptions, Worker,
    deadline::Deadline,
    halt::Halt,
    mailbox,
    outbox::Outbox,
    public,
    report::{DayReport, QueueReport, RepairReport, RunEnd, RunReport, StopReason, Tally},
    waiting::{ACT_TIMEOUT, no_answer, within},
};
use crate::{
    api::budget::KeyPool,
    clock::{ServerTime, Timestamp},
    maintenance::MaintenanceReport,
    queue::{Queue, RunSummary, SharedState},
    store::{RunRow, Store},
};

/// The closing act of a run.
#[derive(Debug)]
pub struct Closing<'a, Q, S> {
    pub worker: &'a Worker<Q, S>,
    /// `None` when the queue never responded.
    pub time: Option<&'a ServerTime>,
    pub deadline: &'a Deadline,
    pub halt: &'a Halt,
}

impl<Q: Queue + SharedState, S: Store> Closing<'_, Q, S> {
    /// Admits the mailbox in a run that was turned away, so that requests are merged and their age is known all the same.
    pub async fn admit_mailbox(&self, tally: &Mutex<Tally>) {
        let Some(time) = self.time else { return };
        if !self.halt.reason().is_some_and(|(reason, _)| reason.is_turned_away()) {
            return;
        }
        let may_go_on = || Instant::now() < self.deadline.end();
        match within(ACT_TIMEOUT, mailbox::admit_mailbox(self.worker.queue.as_ref(), time, tally, may_go_on)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(error = %error, "could not admit the mailbox; it waits"),
            None => warn!("could not admit the mailbox; it waits: {}", no_answer("Redis", ACT_TIMEOUT)),
        }
    }

    /// Publishes the rest of the outbox, then runs the maintenance that is configured, unless it was done beside the drain. Only the
    /// outbox may go on after the run's time is used up, for at most [`ACT_TIMEOUT`].
    pub async fn publish_and_maintain(
        &self,
        options: &RunOptions,
        outbox: &Outbox<'_>,
        maintained: Option<MaintenanceReport>,
    ) -> MaintenanceReport {
        let Self { worker, deadline, halt, .. } = self;
        let caches = outbox.finish(deadline.end().max(Instant::now() + ACT_TIMEOUT)).await;
        self.delete_delivered(outbox).await;
        let prevented = matches!(
            halt.reason(),
            Some((StopReason::RefreshPaused | StopReason::DatabaseDown | StopReason::Shutdown, _))
        );
        let report = match &worker.after {
            _ if maintained.is_some() => maintained.unwrap_or_default(),
            Some(after) if !prevented && !options.answer_soon => {
                after.run(self.now(), deadline.end(), || worker.stop.asked()).await
            }
            _ => MaintenanceReport::default(),
        };
        MaintenanceReport { caches, ..report }
    }

    /// Deletes delivered entries. An entry that is not deleted now is published once more by a later run.
    async fn delete_delivered(&self, outbox: &Outbox<'_>) {
        let delivered = outbox.delivered();
        if delivered.is_empty() {
            return;
        }
        match within(ACT_TIMEOUT, self.worker.store.delete_from_outbox(&delivered)).await {
            Some(Ok(())) => outbox.deleted(&delivered),
            Some(Err(error)) => {
                warn!(error = %error, "could not delete delivered outbox entries; they will be published once more");
            }
            None => warn!("could not delete delivered outbox entries: {}", no_answer("the database", ACT_TIMEOUT)),
        }
    }

    /// The queue's time; the machine's when the queue never responded.
    fn now(&self) -> Timestamp {
        self.time.map_or_else(|| self.worker.clock.wall(), ServerTime::now)
    }

    /// Completes the report, and leaves it with both servers.
    pub async fn close(&self, began: Instant, keys: &KeyPool, tally: Tally) -> RunReport {
        let Self { worker, halt, .. } = self;
        warn_of_repairs(tally.report.repaired);
        let (stopped_because, failure) = halt.reason().unwrap_or((StopReason::QueueEmpty, None));
        let now = self.now();
        let asks = stopped_because != StopReason::QueueDown && self.time.is_some();
        let stats = if asks { within(ACT_TIMEOUT, worker.queue.stats(now)).await.and_then(Result::ok) } else { None };
        let day = if asks { self.day(now).await } else { None };
        let (keys_held, keys_usable) = (tally.report.keys_held, tally.report.keys_usable);
        let report = tally.finish(RunEnd {
            stopped_because,
            failure,
            runtime: began.elapsed(),
            api_requests: keys.calls_made(),
            calls_allowed: calls_allowed(keys.calling_window(), worker.api.reqs_per_sec, keys_held),
            keys_usable,
            keys_held,
            queue: stats.map(|stats| QueueReport::new(&stats, now)),
            day,
        });
        warn_of_mail_elsewhere(&report);
        // A paused run that only admits the mailbox leaves no trace.
        if stopped_because == StopReason::RefreshPaused && report.enqueued == 0 {
            return report;
        }
        // Redis and the database both keep the result of the run: health can show it while either of them is down.
        let in_queue = async {
            if asks {
                self.summarize(&report, now).await;
            }
        };
        let in_database = async {
            if stopped_because != StopReason::DatabaseDown {
                self.write_row(&report, now).await;
            }
        };
        tokio::join!(in_queue, in_database);
        report
    }

    /// The state of the daily quota, when there is one.
    async fn day(&self, now: Timestamp) -> Option<DayReport> {
        let per_day = self.worker.api.reqs_per_day?;
        let taken = within(ACT_TIMEOUT, self.worker.queue.calls_taken(now.midnight())).await?.ok()?;
        Some(DayReport::new(per_day, taken, now))
    }

    /// Leaves a summary of the run in the queue. A run that was turned away before it did anything leaves none.
    async fn summarize(&self, report: &RunReport, now: Timestamp) {
        let failed = report.stopped_because.is_failure();
        if !failed
            && report.stopped_because.is_turned_away()
            && report.processed_requests == 0
            && report.api_requests == 0
        {
            return;
        }
        let summary = RunSummary {
            run: report.run.clone(),
            started: report.started,
            ended: now,
            stopped_because: report.stopped_because.as_str().to_owned(),
            error: failed.then(|| public::failure(report.stopped_because, report.failure.as_deref())),
            processed: report.processed_requests,
            failed: report.failed_requests,
            api_requests: report.api_requests,
        };
        match within(ACT_TIMEOUT, self.worker.queue.record_run(&summary)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(error = %error, "could not record this run for health"),
            None => warn!("could not record this run for health: {}", no_answer("Redis", ACT_TIMEOUT)),
        }
    }

    async fn write_row(&self, report: &RunReport, now: Timestamp) {
        let row = RunRow {
            run: report.run.clone(),
            started: report.started,
            ended: now,
            stopped_because: report.stopped_because.as_str().to_owned(),
            error: report.failure.clone().or_else(|| {
                let failed = report.stopped_because.is_failure();
                failed.then(|| report.stopped_because.sentence().to_owned())
            }),
            processed: report.processed_requests,
            failed: report.failed_requests,
            api_requests: report.api_requests,
            report: serde_json::to_string(report).unwrap_or_default(),
        };
        failpoint!("run_row.before");
        match within(ACT_TIMEOUT, self.worker.store.record_run(&row)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(error = %error, "could not write the row of this run"),
            None => warn!("could not write the row of this run: {}", no_answer("the database", ACT_TIMEOUT)),
        }
        failpoint!("run_row.after");
    }
}

/// The calls that the cap of the keys held allowed, from the first call until one interval after the last.
#[expect(clippy::cast_precision_loss, reason = "an account has ten keys")]
fn calls_allowed(calling: Duration, reqs_per_sec: u32, keys_held: u64) -> f64 {
    if keys_held == 0 { 0.0 } else { calling.as_secs_f64() * f64::from(reqs_per_sec) * keys_held as f64 + 1.0 }
}

/// Producers know nothing of a database number: their entries may be in a database that no run reads.
fn warn_of_mail_elsewhere(report: &RunReport) {
    let elsewhere = report.queue.as_ref().and_then(|queue| queue.mail_in_database_0).unwrap_or(0);
    if elsewhere > 0 && report.mail.admitted == 0 {
        warn!(
            mail_in_database_0 = elsewhere,
            "REDIS_URL selects a database whose mailbox is empty, and {elsewhere} entries are in database 0, where producers \
             write: take the database number out of REDIS_URL"
        );
    }
}

fn warn_of_repairs(repaired: RepairReport) {
    let RepairReport { records, places, invalid_entries, counters } = repaired;
    if repaired.total() > 0 {
        warn!(
            repaired.records = records,
            repaired.places = places,
            repaired.invalid_entries = invalid_entries,
            repaired.counters = counters,
            "repaired the queue: {records} records were missing or broken and were rebuilt, {places} objects were in no set or \
             in a wrong one, {invalid_entries} entries were not objects and are dead letters now, {counters} counters were reset"
        );
    }
}
