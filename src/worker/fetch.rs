//! The fetch stage: one call after another begins when the limiter permits, many are in flight. Talks to the API.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit, mpsc},
    time::{Instant, timeout_at},
};
use tracing::error;

use super::{
    commit::{Ended, How},
    drain::{Drain, lock},
    halt::Force,
};
use crate::{
    api::{
        FetchTask,
        budget::{NoPermit, Permit},
        judge::{Accusation, FailureClass, Scope},
        verdict::{Ending, Obstacle, Verdict},
    },
    model::{EndpointKind, Fingerprint, Kind, Reason, WarMemory},
    queue::{Lease, Queue, Slots},
    store::Store,
};

/// Extra tries within one request for an answer that may be a hiccup; each spends a permit.
const QUICK_TRIES: u32 = 2;

/// A leased request that needs a call.
#[derive(Debug)]
pub struct Work {
    pub lease: Lease,
    pub league: Option<WarMemory>,
}

/// What a request has to pass before its first call.
#[derive(Debug)]
struct Gate {
    /// For the calls in flight.
    places: Semaphore,
    /// Held by the request that begins next. So the later calls of a fetch that has begun wait for their permits behind one
    /// request, not behind all that are leased.
    next: Mutex<()>,
}

impl<Q: Queue + Slots, S: Store> Drain<'_, Q, S> {
    /// Fetches what comes in until nothing more does.
    pub async fn fetch_stage(&self, mut to_fetch: mpsc::Receiver<Work>, ended: mpsc::Sender<Ended>) {
        let places = Semaphore::new(most_in_flight(self.keys.cap_per_second()));
        let gate = Gate { places, next: Mutex::default() };
        let mut fetches = FuturesUnordered::new();
        let mut more = true;
        while more || !fetches.is_empty() {
            tokio::select! {
                work = to_fetch.recv(), if more => match work {
                    Some(work) => fetches.push(self.fetch(work, &gate)),
                    None => more = false,
                },
                Some(done) = fetches.next(), if !fetches.is_empty() => {
                    // The commit stage outlives this one; a closed channel means that the run is being dropped.
                    let _ = ended.send(done).await;
                }
            }
        }
    }

    /// One request, from its permit to its verdict, and on to the ruling whose fault a bad answer is.
    async fn fetch(&self, work: Work, gate: &Gate) -> Ended {
        let Work { lease, league } = work;
        let (mut earlier, mut again) = (None, false);
        // How it ends when it should be called again and cannot be any more: held, so that others come first.
        let mut else_held = None;
        loop {
            let Some((place, permit)) = self.start(lease.object.kind, gate, again).await else {
                return Ended { lease, how: else_held.map_or(How::GivenBack, How::Held) };
            };
            let called = tokio::select! {
                called = self.call(&lease, league.as_ref(), permit, earlier.take()) => called,
                () = self.halt.forced(Force::Abandon) => Called::Ended(How::GivenBack),
            };
            drop(place);
            again = true;
            let (accusation, ending) = match called {
                Called::Ended(how) => {
                    self.flow.answered();
                    return Ended { lease, how };
                }
                Called::Throttled(key, rest) => {
                    // Before it counts as answered: else the run might end with nobody left to give it its turn.
                    self.flow.waits();
                    let behind = self.flow.goes_behind();
                    self.flow.answered();
                    let is_first = self.throttled(&lease).await;
                    if is_first && self.until_others_are_called(&behind).await {
                        else_held = Some(Self::throttled_because(&key, rest));
                        self.flow.queued();
                        self.flow.is_ruled();
                        continue;
                    }
                    self.flow.is_ruled();
                    let next_look = self.next_look_after_failures(&lease.object, league.as_ref());
                    return Ended { how: self.throttled_for_good(&lease, &key, rest, is_first, next_look), lease };
                }
                Called::Badly(accusation, ending) => (accusation, ending),
            };
            self.flow.waits();
            self.flow.answered();
            let ruling = self.ruling(&accusation).await;
            if ruling == FailureClass::CallAgain {
                self.flow.queued();
                self.flow.is_ruled();
                else_held = Some(Reason::new("undecided", accusation.reason.detail.clone()));
                earlier = Some(accusation);
                continue;
            }
            self.flow.is_ruled();
            let how = self.ended(&lease, league.as_ref(), &ruling, accusation, ending).await;
            return Ended { lease, how };
        }
    }

    /// Everything that a call needs before it begins; nothing when it cannot begin any more.
    async fn start<'g>(&self, kind: Kind, gate: &'g Gate, again: bool) -> Option<(SemaphorePermit<'g>, Permit)> {
        let endpoint = EndpointKind::of(kind);
        let permit = async {
            // A control call is to show whether this one would be in vain.
            self.bench.until(|judge| (!judge.is_in_question(endpoint)).then_some(())).await;
            if self.bench.read(|judge| judge.is_open(endpoint)) {
                return Err(());
            }
            self.permission(gate, kind, again).await
        };
        let permit = tokio::select! {
            permit = permit => permit,
            () = self.halt.forced(Force::StartNothing) => Err(()),
        };
        if let Ok(permit) = permit {
            self.flow.started(again);
            return Some(permit);
        }
        self.flow.not_started(again);
        None
    }

    /// How a request ends whose bad answer was ruled on.
    async fn ended(
        &self,
        lease: &Lease,
        league: Option<&WarMemory>,
        ruling: &FailureClass,
        accusation: Accusation,
        ending: Ending,
    ) -> How {
        match (ruling, ending) {
            (FailureClass::Object, Ending::Attempt) => {
                How::Failed(accusation.reason, self.next_look_after_failures(&lease.object, league))
            }
            (FailureClass::Object, Ending::DeadLetter { body }) => How::Dead { reason: accusation.reason, body },
            (FailureClass::Wider(Scope::Key(_)), _) => {
                self.carry_out().await;
                // Another key, or the one that a login gives, can serve it at once.
                if self.keys.usable() > 0 || self.ring.is_about_to_log_in() {
                    How::GivenBack
                } else {
                    Self::returned(ruling, &accusation.reason)
                }
            }
            _ => Self::returned(ruling, &accusation.reason),
        }
    }

    /// A place among the calls in flight, a database that can keep the answer, and the limiter's permit, in this order;
    /// an error when there is none before the last moment at which such a fetch may begin.
    async fn permission<'g>(
        &self,
        gate: &'g Gate,
        kind: Kind,
        again: bool,
    ) -> Result<(SemaphorePermit<'g>, Permit), ()> {
        let place = gate.places.acquire().await.map_err(|_| ())?;
        // A call that decides something does not wait behind all that are leased.
        let _next = if again { None } else { Some(gate.next.lock().await) };
        // An answer that nothing can take would be a call in vain. What decides something is one of few.
        if !again {
            timeout_at(self.deadline.fetches_end(kind), self.worker.api.has_room()).await.map_err(|_| ())?;
        }
        let mut store = self.store_answers.subscribe();
        // The sender lives in `self`, so only time can end the waiting.
        timeout_at(self.deadline.fetches_end(kind), store.wait_for(|answers| *answers))
            .await
            .map_err(|_| ())?
            .map_err(|_| ())?;
        failpoint!("permit.before");
        let permit = self.keys.permit(self.deadline.fetches_end(kind)).await.map_err(|none| {
            if none == NoPermit::DailyQuotaExhausted {
                self.day_used_up();
            }
        })?;
        failpoint!("permit.after");
        Ok((place, permit))
    }

    async fn call(
        &self,
        lease: &Lease,
        league: Option<&WarMemory>,
        permit: Permit,
        earlier: Option<Accusation>,
    ) -> Called {
        // What was called again because of a ruling shows at once what it is.
        let quick_tries = if earlier.is_some() { 0 } else { QUICK_TRIES };
        let ask = FetchTask {
            object: &lease.object,
            league,
            first_permit: Some(permit),
            keys: self.keys,
            judge: &self.bench,
            time: self.time,
            until: self.deadline.calls_end(),
            quick_tries,
            earlier,
        };
        let began = Instant::now();
        // A panic in one request is that request's failure, not the end of all that are in flight.
        let Ok(fetch) = AssertUnwindSafe(self.worker.api.fetch(ask)).catch_unwind().await else {
            error!(object = %lease.object, "a request panicked while it was fetched; this is a defect of the worker");
            let reason = Reason::new("panicked", "the worker panicked while fetching this object");
            return Called::Ended(How::Failed(reason, self.next_look_after_failures(&lease.object, league)));
        };
        failpoint!("fetch.answered", lease.object.tag.as_str());
        self.share_cooldowns().await;
        lock(self.tally).count_calls(lease.object.kind, lease.priority, u64::from(fetch.calls));
        // What failed tells nothing about how long an answer takes.
        if matches!(fetch.verdict, Verdict::Answered(_)) {
            self.deadline.saw_fetch(lease.object.kind, began.elapsed());
        }
        match fetch.verdict {
            Verdict::Answered(fetched) => {
                if let Some(doubt) = fetched.doubt() {
                    // Not a line each: after an update of the game it may be every object.
                    lock(self.tally).error(format!("{}: {doubt}", lease.object));
                }
                Called::Ended(How::Answered(fetched))
            }
            Verdict::DeadLetter { reason, body } => Called::Ended(How::Dead { reason, body }),
            Verdict::Bad { accusation, ending } => Called::Badly(accusation, ending),
            Verdict::Throttled { key, cooldown: rest } => Called::Throttled(key, rest),
            Verdict::Prevented(Obstacle::CircuitOpen(endpoint)) => Called::Ended(Self::set_aside(endpoint)),
            Verdict::Prevented(Obstacle::DailyQuotaExhausted) => {
                self.day_used_up();
                Called::Ended(How::GivenBack)
            }
            Verdict::Prevented(Obstacle::NoUsableKey | Obstacle::Deadline) => Called::Ended(How::GivenBack),
        }
    }
}

/// What a call came to.
enum Called {
    Ended(How),
    Badly(Accusation, Ending),
    /// The key is over its rate, and cools down for this long.
    Throttled(Fingerprint, Duration),
}

/// Enough for every permit of the longest call, within reason.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
fn most_in_flight(rate: f64) -> usize {
    ((rate * super::deadline::LONGEST_CALL.as_secs_f64()) as usize).clamp(16, 600)
}
