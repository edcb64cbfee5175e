//! The fetch stage: one call after another begins when the limiter permits, many are in flight. Talks to the API.

use std::panic::AssertUnwindSafe;

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
        client::Ask,
        run_keys::{NoPermit, Permit},
        verdict::Verdict,
    },
    model::{Kind, Reason, WarMemory},
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

    /// One request, from its permit to its verdict.
    async fn fetch(&self, work: Work, gate: &Gate) -> Ended {
        let Work { lease, league } = work;
        let permit = tokio::select! {
            permit = self.permission(gate, lease.object.kind) => permit,
            () = self.halt.forced(Force::StartNothing) => Err(()),
        };
        let Ok((_place, permit)) = permit else {
            self.flow.not_started();
            return Ended::given_back(lease);
        };
        self.flow.started();
        let how = tokio::select! {
            how = self.call(&lease, league.as_ref(), permit) => how,
            () = self.halt.forced(Force::Abandon) => How::GivenBack,
        };
        self.flow.answered();
        Ended { lease, how }
    }

    /// A place among the calls in flight, a database that can keep the answer, and the limiter's permit, in this order;
    /// an error when there is none before the last moment at which such a fetch may begin.
    async fn permission<'g>(&self, gate: &'g Gate, kind: Kind) -> Result<(SemaphorePermit<'g>, Permit), ()> {
        let place = gate.places.acquire().await.map_err(|_| ())?;
        let _next = gate.next.lock().await;
        let mut store = self.store_answers.subscribe();
        // The sender lives in `self`, so only time can end the waiting.
        timeout_at(self.deadline.fetches_end(kind), store.wait_for(|answers| *answers))
            .await
            .map_err(|_| ())?
            .map_err(|_| ())?;
        failpoint!("permit.before");
        let permit = self.keys.permit(self.deadline.fetches_end(kind)).await.map_err(|none| {
            if none == NoPermit::DayUsedUp {
                self.day_used_up();
            }
        })?;
        failpoint!("permit.after");
        Ok((place, permit))
    }

    async fn call(&self, lease: &Lease, league: Option<&WarMemory>, permit: Permit) -> How {
        let ask = Ask {
            object: &lease.object,
            league,
            first_permit: Some(permit),
            keys: self.keys,
            time: self.time,
            until: self.deadline.calls_end(),
            quick_tries: QUICK_TRIES,
        };
        let began = Instant::now();
        // A panic in one request is that request's failure, not the end of all that are in flight.
        let Ok(fetch) = AssertUnwindSafe(self.worker.api.fetch(ask)).catch_unwind().await else {
            error!(object = %lease.object, "a request panicked while it was fetched; this is a defect of the worker");
            let reason = Reason::new("panicked", "the worker panicked while fetching this object");
            return How::Failed(reason, self.next_look_after_failures(&lease.object, league));
        };
        failpoint!("fetch.answered", lease.object.tag.as_str());
        lock(self.tally).count_calls(lease.object.kind, lease.priority, u64::from(fetch.calls));
        // What failed tells nothing about how long an answer takes.
        if matches!(fetch.verdict, Verdict::Answered(_)) {
            self.deadline.saw_fetch(lease.object.kind, began.elapsed());
        }
        match fetch.verdict {
            Verdict::Answered(fetched) => {
                if fetched.lacks_members() {
                    // Not a line each: after an update of the game it may be every clan.
                    lock(self.tally).error(format!(
                        "{}: an entry of its member list cannot be read; who leaves the clan is not seen while it is there",
                        lease.object
                    ));
                }
                How::Answered(fetched)
            }
            Verdict::DeadLetter { reason, body } => How::Dead { reason, body },
            Verdict::Transient { reason } => How::Failed(reason, self.next_look_after_failures(&lease.object, league)),
            Verdict::GivenBack(obstacle) => How::Obstacle(obstacle),
        }
    }
}

/// Enough for every permit of the longest call, within reason.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
fn most_in_flight(rate: f64) -> usize {
    ((rate * super::deadline::LONGEST_CALL.as_secs_f64()) as usize).clamp(16, 600)
}
