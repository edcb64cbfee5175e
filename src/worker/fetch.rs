//! The fetch stage: calls begin one after the other when the limiter permits, and many are in flight. Talks to the API.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit, mpsc, watch},
    time::{Instant, timeout_at},
};
use tracing::error;

use super::{
    breaker::Breaker,
    classify::{self, classify},
    context::RunContext,
    follow_ups,
    halt::Force,
    hand_over::{Ended, How, Work},
    throttled::{Cooldown, Throttled, until_others_are_called},
};
use crate::{
    api::{
        FetchTask,
        budget::{NoPermit, Permit},
        judge::{Accusation, FailureClass, Scope},
        verdict::{Ending, Obstacle, Verdict},
    },
    model::{EndpointKind, FollowUp, Kind, ObjectId, Reason, WarMemory},
    queue::{Lease, Queue, SharedState},
    store::Store,
};

// A bad response may be a hiccup, so the same call is tried again at once. Each try spends a permit, hence so few.
const MAX_QUICK_TRIES: u32 = 2;

// At least so many calls in flight that retries find a place at a low rate; at most so many that many keys do not exhaust
// connections.
const MIN_IN_FLIGHT: usize = 16;
const MAX_IN_FLIGHT: usize = 600;

/// The second of the three stages.
#[derive(Debug)]
pub struct FetchStage<'a, Q, S> {
    ctx: &'a RunContext<'a, Q, S>,
    breaker: &'a Breaker<'a, Q, S>,
    /// False while the database takes no responses: calls wait.
    store_accepts: watch::Receiver<bool>,
    /// The places of the calls in flight.
    places: Semaphore,
    /// Held by the request that begins next. So the later calls of a fetch that has begun wait for their permits behind one
    /// request, not behind all that are leased.
    next: Mutex<()>,
    throttled: Throttled,
}

/// The result of one call.
#[derive(Debug)]
pub enum Called {
    Ended(How),
    /// A bad response, to be classified.
    Bad(Accusation, Ending),
    Throttled(Cooldown),
}

impl<'a, Q: Queue + SharedState, S: Store> FetchStage<'a, Q, S> {
    pub fn new(
        ctx: &'a RunContext<'a, Q, S>,
        breaker: &'a Breaker<'a, Q, S>,
        store_accepts: watch::Receiver<bool>,
    ) -> Self {
        let places = Semaphore::new(max_in_flight(ctx.pool().cap_per_second()));
        Self { ctx, breaker, store_accepts, places, next: Mutex::default(), throttled: Throttled::default() }
    }

    /// Fetches requests until the lease stage hands over no more.
    pub async fn run(&self, mut to_fetch: mpsc::Receiver<Work>, ended: mpsc::Sender<Ended>) {
        let mut fetches = FuturesUnordered::new();
        let mut more = true;
        while more || !fetches.is_empty() {
            tokio::select! {
                work = to_fetch.recv(), if more => match work {
                    // Not bounded here: each waits in `start`, and the lease stage keeps few ahead.
                    Some(work) => fetches.push(self.fetch(work)),
                    None => more = false,
                },
                Some(done) = fetches.next(), if !fetches.is_empty() => {
                    // The commit stage outlives this one; a closed channel means that the run is being dropped.
                    let _ = ended.send(done).await;
                }
            }
        }
    }

    /// Fetches one request: permit, call, verdict, and the classification of a bad response. Ends, or calls once more.
    async fn fetch(&self, work: Work) -> Ended {
        let Self { ctx, breaker, .. } = self;
        let Work { lease, league } = work;
        let (mut earlier, mut again) = (None, false);
        // Set once a second call is needed. If that call cannot begin, the request is held, so that others come first.
        let mut else_held = None;
        loop {
            let Some((place, permit)) = self.start(lease.object.kind, again).await else {
                return Ended::new(lease, else_held.map_or(How::Released, How::Held));
            };
            let called = tokio::select! {
                called = self.call(&lease, league.as_ref(), permit, earlier.take()) => called,
                // After SIGTERM the sandbox is gone before the response could arrive.
                () = ctx.halt.forced(Force::Abandon) => Called::Ended(How::Released),
            };
            // The place is only for calls, and a wait for a classification may be long.
            drop(place);
            again = true;
            let (accusation, ending) = match called {
                Called::Ended(how) => {
                    ctx.flow.answered();
                    return Ended::new(lease, how);
                }
                Called::Throttled(cooldown) => {
                    // Before the request counts as answered: else the run might end while it still waits for its turn.
                    ctx.flow.waits();
                    let behind = ctx.flow.goes_behind();
                    ctx.flow.answered();
                    let is_first = self.throttled.record(ctx, breaker, &lease.object).await;
                    if is_first && until_others_are_called(ctx, &behind).await {
                        else_held = Some(cooldown.reason());
                        ctx.flow.queued();
                        ctx.flow.is_classified();
                        continue;
                    }
                    ctx.flow.is_classified();
                    let next_poll = self.next_poll_after_failures(&lease.object, league.as_ref());
                    return Ended { how: self.throttled.end(&lease, &cooldown, is_first, next_poll), lease };
                }
                Called::Bad(accusation, ending) => (accusation, ending),
            };
            // In this order: at no moment may the request be in no count, or the lease stage takes the run to be done.
            ctx.flow.waits();
            ctx.flow.answered();
            let classified = classify(ctx, breaker.judge(), &accusation).await;
            if classified == FailureClass::CallAgain {
                // The request must always be in some count, so it is queued before it stops waiting.
                ctx.flow.queued();
                ctx.flow.is_classified();
                else_held = Some(Reason::new("undecided", accusation.reason.detail.clone()));
                earlier = Some(accusation);
                continue;
            }
            ctx.flow.is_classified();
            let how = self.end(&lease, league.as_ref(), &classified, accusation, ending).await;
            return Ended::new(lease, how);
        }
    }

    /// Waits for everything that a call needs before it begins; `None` when it cannot begin any more.
    pub async fn start(&self, kind: Kind, again: bool) -> Option<(SemaphorePermit<'_>, Permit)> {
        let Self { ctx, breaker, .. } = self;
        let endpoint = EndpointKind::of(kind);
        let permit = async {
            // While the endpoint is in question, a control call shows whether calling it is of any use.
            breaker.judge().until(|judge| (!judge.is_in_question(endpoint)).then_some(())).await;
            if breaker.judge().read(|judge| judge.is_open(endpoint)) {
                return Err(());
            }
            self.permission(kind, again).await
        };
        let permit = tokio::select! {
            permit = permit => permit,
            // Requests that have not begun are released at once.
            () = ctx.halt.forced(Force::StartNothing) => Err(()),
        };
        if let Ok(permit) = permit {
            ctx.flow.started(again);
            return Some(permit);
        }
        ctx.flow.not_started(again);
        None
    }

    /// A place among the calls in flight, a database that takes responses, and the limiter's permit, in this order;
    /// an error when there is none before the last moment at which such a fetch may begin.
    async fn permission(&self, kind: Kind, again: bool) -> Result<(SemaphorePermit<'_>, Permit), ()> {
        let Self { ctx, .. } = self;
        let place = self.places.acquire().await.map_err(|_| ())?;
        // A second call classifies a bad response, and other requests wait for that. So it does not wait behind them.
        let _next = if again { None } else { Some(self.next.lock().await) };
        // Without room in memory for the response the call would be wasted. Second calls are few, so they need no such wait.
        if !again {
            timeout_at(ctx.deadline.fetches_end(kind), ctx.worker.api.client.has_room()).await.map_err(|_| ())?;
        }
        let mut store = self.store_accepts.clone();
        // The commit stage outlives this one, so only time can end the wait.
        timeout_at(ctx.deadline.fetches_end(kind), store.wait_for(|accepts| *accepts))
            .await
            .map_err(|_| ())?
            .map_err(|_| ())?;
        failpoint!("permit.before");
        let permit = ctx.pool().permit(ctx.deadline.fetches_end(kind)).await.map_err(|none| {
            if none == NoPermit::DailyQuotaExhausted {
                ctx.day_used_up();
            }
        })?;
        failpoint!("permit.after");
        Ok((place, permit))
    }

    /// Calls the API for one request, and sorts the verdict.
    pub async fn call(
        &self,
        lease: &Lease,
        league: Option<&WarMemory>,
        permit: Permit,
        earlier: Option<Accusation>,
    ) -> Called {
        let Self { ctx, .. } = self;
        // A second call for a classification shows at once what it is.
        let quick_tries = if earlier.is_some() { 0 } else { MAX_QUICK_TRIES };
        let ask = FetchTask {
            object: &lease.object,
            league,
            first_permit: Some(permit),
            keys: ctx.pool(),
            judge: self.breaker.judge(),
            time: ctx.time,
            until: ctx.deadline.calls_end(),
            quick_tries,
            earlier,
        };
        let began = Instant::now();
        // A panic in one request is that request's failure, not the end of all that are in flight.
        let Ok(fetch) = AssertUnwindSafe(ctx.worker.api.client.fetch(ask)).catch_unwind().await else {
            error!(object = %lease.object, "a request panicked while it was fetched; this is a defect of the worker");
            let reason = Reason::new("panicked", "the worker panicked while fetching this object");
            return Called::Ended(How::Failed(reason, self.next_poll_after_failures(&lease.object, league)));
        };
        failpoint!("fetch.answered", lease.object.tag.as_str());
        ctx.share_cooldowns().await;
        ctx.tally.lock().count_calls(lease.object.kind, lease.requested_as(), u64::from(fetch.calls));
        if let Some(looks) = ctx.planned.as_ref().filter(|_| lease.planned) {
            looks.further_calls(fetch.calls.saturating_sub(1));
        }
        // A failure says nothing about how long a good response takes.
        if matches!(fetch.verdict, Verdict::Answered(_)) {
            ctx.deadline.saw_fetch(lease.object.kind, began.elapsed());
        }
        match fetch.verdict {
            Verdict::Answered(fetched) => {
                if let Some(doubt) = fetched.doubt() {
                    // Not a log line each: after an update of the game it may be every object.
                    ctx.tally.lock().error(format!("{}: {doubt}", lease.object));
                }
                Called::Ended(How::Answered(fetched))
            }
            Verdict::DeadLetter { reason, body } => Called::Ended(How::Dead { reason, body }),
            Verdict::Bad { accusation, ending } => Called::Bad(accusation, ending),
            Verdict::Throttled { key, cooldown } => Called::Throttled(Cooldown { key, lasts: cooldown }),
            Verdict::Prevented(Obstacle::CircuitOpen(endpoint)) => Called::Ended(classify::set_aside(endpoint)),
            Verdict::Prevented(Obstacle::DailyQuotaExhausted) => {
                ctx.day_used_up();
                Called::Ended(How::Released)
            }
            // No call was made, so nothing is known about the object. A run with a key and enough time will fetch it.
            Verdict::Prevented(Obstacle::NoUsableKey | Obstacle::Deadline) => Called::Ended(How::Released),
        }
    }

    /// The end of a request whose bad response was classified.
    async fn end(
        &self,
        lease: &Lease,
        league: Option<&WarMemory>,
        classified: &FailureClass,
        accusation: Accusation,
        ending: Ending,
    ) -> How {
        match (classified, ending) {
            (FailureClass::Object, Ending::Attempt) => {
                How::Failed(accusation.reason, self.next_poll_after_failures(&lease.object, league))
            }
            (FailureClass::Object, Ending::DeadLetter { body }) => How::Dead { reason: accusation.reason, body },
            (FailureClass::Wider(Scope::Key(_)), _) => {
                self.breaker.carry_out().await;
                // Another key, or the one that a login gives, can serve it at once.
                if self.ctx.pool().usable() > 0 || self.ctx.slots.is_about_to_log_in() {
                    How::Released
                } else {
                    classify::held(classified, &accusation.reason)
                }
            }
            _ => classify::held(classified, &accusation.reason),
        }
    }

    fn next_poll_after_failures(&self, object: &ObjectId, memory: Option<&WarMemory>) -> Option<FollowUp> {
        let Self { ctx, .. } = self;
        follow_ups::next_poll_after_failures(ctx.worker.config.follow_ups, object, memory, ctx.time.now())
    }
}

/// Enough for every permit of the longest call, within bounds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
fn max_in_flight(rate: f64) -> usize {
    ((rate * super::deadline::MAX_CALL_DURATION.as_secs_f64()) as usize).clamp(MIN_IN_FLIGHT, MAX_IN_FLIGHT)
}
