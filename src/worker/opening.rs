//! Opens a run: the queue's time, a sign of life from the database, the named requests, the tables.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Worker,
    deadline::Deadline,
    halt::{Force, Halt},
    report::{StopReason, Tally},
    waiting::{ACT_TIMEOUT, no_answer, twice, within},
};
use crate::{
    clock::{ClocksApart, ServerTime, Timestamp},
    config::Pause,
    model::{ObjectId, Priority, RefreshRequest},
    queue::{Queue, QueueError, SharedState},
    store::Store,
};

// Enough to find that a kept connection has died, and to open another one to a server that is half a second away.
const FIRST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(6);

// A locked table keeps every response from being stored, so a run waits for the lock before it spends calls. A lock
// that lasts longer is left to the next run.
const LOCK_TIMEOUT: Duration = Duration::from_secs(4);

/// The opening act of a run.
#[derive(Debug)]
pub struct Opening<'a, Q, S> {
    pub worker: &'a Worker<Q, S>,
    pub deadline: &'a Deadline,
    pub halt: &'a Halt,
    pub tally: &'a Mutex<Tally>,
}

impl<Q: Queue + SharedState, S: Store> Opening<'_, Q, S> {
    /// Opens the run, and returns the queue's time. Whatever prevents a drain ends up in `halt`.
    pub async fn open(&self, named: &[ObjectId]) -> Option<ServerTime> {
        let Self { worker, deadline, halt, tally } = self;
        if let Some(pause) = worker.config.paused {
            log_pause(pause);
            halt.end(Force::StartNothing, StopReason::RefreshPaused, None);
            // Named requests are queued even while runs are paused.
            if named.is_empty() {
                return self.time_for_mailbox().await;
            }
        }
        let until = deadline.end();
        let limit = FIRST_RESPONSE_TIMEOUT.min(until.saturating_duration_since(Instant::now())).max(ACT_TIMEOUT);
        let (time, store) = tokio::join!(within(limit, self.server_time()), twice(until, || worker.store.ping()));
        let (time, uncertain) = match time {
            Some(Ok(time)) => time,
            Some(Err(error)) => {
                self.queue_down(error.to_string());
                return None;
            }
            None => {
                self.queue_down(no_answer("Redis", limit));
                return None;
            }
        };
        self.compare_clocks(&time, uncertain, matches!(store, Some(Ok(())))).await;
        tally.lock().report.started = time.now();
        if let Err(error) = self.enqueue_named(named, time.now()).await {
            self.queue_down(error.to_string());
        }
        if let Some(too_short) = deadline.too_short() {
            halt.end(Force::StartNothing, StopReason::TimeoutTooShort, Some(too_short.to_string()));
        }
        match store {
            Some(Ok(())) => {}
            Some(Err(error)) => self.database_down(error.to_string()),
            None => self.database_down(no_answer("the database", ACT_TIMEOUT)),
        }
        if halt.reason().is_none()
            && let Err(problem) = worker.tables.create(worker.store.as_ref(), deadline.end()).await
        {
            let failure = (problem.stops() != StopReason::Deadline).then(|| problem.to_string());
            halt.end(Force::StartNothing, problem.stops(), failure);
        }
        if halt.reason().is_none() {
            self.wait_for_locks().await;
        }
        Some(time)
    }

    fn queue_down(&self, failure: String) {
        self.halt.end(Force::StartNothing, StopReason::QueueDown, Some(failure));
    }

    fn database_down(&self, failure: String) {
        self.halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(failure));
    }

    /// The time of a queue server that takes writes, and the duration of its response.
    async fn server_time(&self) -> Result<(ServerTime, Duration), QueueError> {
        let asked = Instant::now();
        let server = self.worker.queue.time_to_write().await?;
        Ok((ServerTime::new(Arc::clone(&self.worker.clock), server), asked.elapsed()))
    }

    /// Warns when the clocks of Redis and of the machine differ. The database's clock decides, so that no row and no lease is hours
    /// wrong: where Redis is in the minority, its time is corrected for this run, and every other run does the same.
    async fn compare_clocks(&self, time: &ServerTime, uncertain: Duration, ask_store: bool) {
        let Self { worker, tally, .. } = self;
        let Some(mut apart) = ClocksApart::of(time.now(), worker.clock.wall(), uncertain) else { return };
        if ask_store {
            match within(ACT_TIMEOUT, worker.store.time()).await {
                Some(Ok(database)) => apart.database = database,
                Some(Err(error)) => warn!(error = %error, "could not ask the database for the time"),
                None => warn!("could not ask for the time: {}", no_answer("the database", ACT_TIMEOUT)),
            }
        }
        warn!(
            redis = %apart.server,
            machine = %apart.machine,
            apart_seconds = apart.difference().as_secs_f64(),
            "{apart}; set the clocks by NTP"
        );
        tally.lock().report.clocks = Some(apart.into());
        time.correct(apart.server, apart.right());
    }

    /// Waits for a lock that keeps every response from being stored, so that no call is made in vain.
    async fn wait_for_locks(&self) {
        let left = self.deadline.end().saturating_duration_since(Instant::now());
        let limit = LOCK_TIMEOUT.min(left);
        let Err(error) = self.worker.store.ready(limit).await else { return };
        let cut_short = if limit < LOCK_TIMEOUT { "; no time was left to wait longer" } else { "" };
        self.database_down(format!("{error}{cut_short}"));
    }

    /// The queue's time for a paused run, which only admits the mailbox; without the time not even that.
    async fn time_for_mailbox(&self) -> Option<ServerTime> {
        match within(ACT_TIMEOUT, self.server_time()).await {
            Some(Ok((time, uncertain))) => {
                self.compare_clocks(&time, uncertain, false).await;
                return Some(time);
            }
            Some(Err(error)) => warn!(error = %error, "could not admit the mailbox while runs are paused"),
            None => warn!("could not admit the mailbox while runs are paused: {}", no_answer("Redis", ACT_TIMEOUT)),
        }
        None
    }

    /// Queues the named requests before a key slot is asked for, so that they are not lost when none is free.
    async fn enqueue_named(&self, named: &[ObjectId], now: Timestamp) -> Result<(), QueueError> {
        if named.is_empty() {
            return Ok(());
        }
        let requests: Vec<RefreshRequest> =
            named.iter().map(|object| RefreshRequest::now(object.clone(), Priority::Critical, now)).collect();
        let enqueued = self.worker.queue.enqueue(now, &requests).await?;
        self.tally.lock().enqueued(enqueued);
        Ok(())
    }
}

fn log_pause(pause: Pause) {
    match pause {
        Pause::RefreshPaused => info!("REFRESH_PAUSED is set: this run only admits the mailbox"),
        Pause::DisableAutoRefreshQueue => warn!(
            "DISABLE_AUTO_REFRESH_QUEUE is set: it is the producers' switch, and this worker obeys it; \
             use REFRESH_PAUSED to pause the worker alone"
        ),
    }
}
