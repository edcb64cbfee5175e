//! The commit stage: answers are stored in groups, then the whole group is settled. Talks to the store and the queue.
//!
//! Store first, then settle: a crash in between leads to a second look, never to a lost request.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, info, warn};

use super::{
    drain::{Drain, PROBE_INTERVAL, lock},
    halt::Force,
    report::StopReason,
    standing::still_wanted_at,
};
use crate::{
    api::verdict::Obstacle,
    clock::Timestamp,
    model::{Fetched, Outcome, Reason},
    queue::{Lease, Maintenance, Queue, QueueError, Settled, Settlement, Slots},
    store::{Committed, Store, StoreError},
};

/// A group is committed when it has so many answers …
const GROUP: usize = 64;

/// … or when its first answer has waited so long.
const GROUP_WAIT: Duration = Duration::from_millis(300);

/// While a commit takes longer than this, no further call begins: its answer might not be kept.
const SLOW_COMMIT: Duration = Duration::from_secs(2);

/// Failures in a row, without one answer between them, that mean the API itself is in trouble.
const CIRCUIT: usize = 20;

/// The first delay after a failure; it doubles with every further attempt.
const FIRST_DELAY: Duration = Duration::from_secs(2 * 60);

/// How long a commit or a settlement is tried again before what hangs on it is given up.
const PATIENCE: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(2)];

/// A lease whose request has come to an end in this run.
#[derive(Debug)]
pub struct Ended {
    pub lease: Lease,
    pub how: How,
}

/// How it came to its end.
#[derive(Debug)]
pub enum How {
    Satisfied,
    Later(Timestamp),
    Answered(Box<Fetched>),
    Dead { reason: Reason, body: Option<String> },
    Failed(Reason),
    Obstacle(Obstacle),
    GivenBack,
}

impl Ended {
    pub const fn satisfied(lease: Lease) -> Self {
        Self { lease, how: How::Satisfied }
    }

    pub const fn later(lease: Lease, until: Timestamp) -> Self {
        Self { lease, how: How::Later(until) }
    }

    pub const fn given_back(lease: Lease) -> Self {
        Self { lease, how: How::GivenBack }
    }
}

/// What is stored and settled together.
#[derive(Debug, Default)]
struct Group {
    answered: Vec<(Lease, Fetched)>,
    settlements: Vec<(Lease, Settlement)>,
    outcomes: Vec<Outcome>,
}

impl Group {
    fn len(&self) -> usize {
        self.answered.len() + self.settlements.len()
    }

    fn settle(&mut self, lease: Lease, settlement: Settlement, outcome: Outcome) {
        self.settlements.push((lease, settlement));
        self.outcomes.push(outcome);
    }
}

/// Failures since the last answer. They are not settled until an answer shows that they were the requests' own
/// failures, or the circuit opens and shows that they were not.
#[derive(Debug, Default)]
struct Streak {
    waiting: Vec<(Lease, Reason)>,
}

impl<Q: Queue + Slots, S: Store> Drain<'_, Q, S> {
    /// Stores and settles what comes in until nothing more does.
    pub async fn commit_stage(&self, mut to_commit: mpsc::Receiver<Ended>) {
        let mut streak = Streak::default();
        while let Some(first) = to_commit.recv().await {
            let mut group = Group::default();
            self.sort_in(first, &mut group, &mut streak).await;
            self.gather(&mut to_commit, &mut group, &mut streak).await;
            self.finish(group).await;
        }
        let mut rest = Group::default();
        let fair_end = matches!(self.halt.reason(), Some((StopReason::QueueEmpty | StopReason::MaxRequests, _)) | None);
        self.end_streak(&mut streak, &mut rest, fair_end);
        self.finish(rest).await;
    }

    /// Adds to the group until it is full, has waited long enough, or nothing more is on its way.
    async fn gather(&self, to_commit: &mut mpsc::Receiver<Ended>, group: &mut Group, streak: &mut Streak) {
        let full_at = Instant::now() + GROUP_WAIT;
        while group.len() < GROUP {
            let next = tokio::select! {
                biased;
                next = to_commit.recv() => next,
                () = self.flow.until(|counts| counts.unstarted == 0 && counts.in_flight == 0) => to_commit.try_recv().ok(),
                () = tokio::time::sleep_until(full_at) => None,
            };
            match next {
                Some(ended) => self.sort_in(ended, group, streak).await,
                None => return,
            }
        }
    }

    /// Decides what becomes of one request.
    async fn sort_in(&self, ended: Ended, group: &mut Group, streak: &mut Streak) {
        let Ended { lease, how } = ended;
        match how {
            How::Satisfied => group.settle(lease, Settlement::Done, Outcome::Satisfied),
            How::Later(until) => group.settle(lease, Settlement::Later { until }, Outcome::Satisfied),
            How::Answered(fetched) => {
                self.heard(true);
                self.end_streak(streak, group, true);
                group.answered.push((lease, *fetched));
            }
            How::Dead { reason, body } => {
                self.heard(true);
                self.end_streak(streak, group, true);
                self.note_error(&lease, &reason);
                group.settle(lease, Settlement::Dead { reason, body }, Outcome::DeadLetter);
            }
            How::Failed(reason) => {
                self.heard(false);
                self.note_error(&lease, &reason);
                streak.waiting.push((lease, reason));
                self.flow.closed(1);
                if streak.waiting.len() >= CIRCUIT {
                    let failure = format!(
                        "{CIRCUIT} calls in a row failed, the last with {}; everything was given back uncounted",
                        streak.waiting.last().map_or_else(String::new, |(_, reason)| reason.to_string())
                    );
                    self.halt.end(Force::StartNothing, StopReason::CircuitOpen, Some(failure));
                    self.end_streak(streak, group, false);
                }
            }
            How::Obstacle(obstacle) => {
                self.meet(obstacle).await;
                group.settle(lease, Settlement::Release, Outcome::Released);
            }
            How::GivenBack => group.settle(lease, Settlement::Release, Outcome::Released),
        }
    }

    /// Ends a streak of failures: they count, or they were not the requests' fault and are given back.
    fn end_streak(&self, streak: &mut Streak, group: &mut Group, counted: bool) {
        // They were taken off the count when they were set aside.
        self.flow.leased(streak.waiting.len());
        for (lease, reason) in streak.waiting.drain(..) {
            if counted {
                let (settlement, outcome) = self.after_failure(&lease, reason);
                group.settle(lease, settlement, outcome);
            } else {
                group.settle(lease, Settlement::Release, Outcome::Released);
            }
        }
    }

    fn heard(&self, answer: bool) {
        *lock(&self.api_answered) = Some(answer);
    }

    fn after_failure(&self, lease: &Lease, reason: Reason) -> (Settlement, Outcome) {
        let attempts = lease.attempts + 1;
        if attempts >= self.worker.config.max_attempts {
            let detail = format!("{attempts} attempts failed, the last with {reason}");
            let reason = Reason::new("attempts_used_up", detail);
            return (Settlement::Dead { reason, body: None }, Outcome::DeadLetter);
        }
        let until = self.time.now() + delay_after(lease.attempts, fastrand::f64());
        (Settlement::Failed { until, reason }, Outcome::Delayed)
    }

    fn note_error(&self, lease: &Lease, reason: &Reason) {
        debug!(object = %lease.object, attempts = lease.attempts, reason = %reason, "a request failed");
        lock(self.tally).error(format!("{}: {reason}", lease.object));
    }

    /// Something that is not the request's fault stood in the way.
    async fn meet(&self, obstacle: Obstacle) {
        let met = match obstacle {
            Obstacle::Throttled { .. } => {
                lock(self.tally).throttled += 1;
                self.ring.share_rests().await
            }
            Obstacle::Maintenance { detail } => self.maintenance(&detail).await,
            Obstacle::KeyRejected { key, detail } => {
                self.refused_key(&key, &detail);
                self.ring.share_rests().await
            }
            Obstacle::KeyForbidden { key, detail } => {
                self.refused_key(&key, &detail);
                let failure = format!("the API forbids key {key} altogether ({detail}): is our address banned?");
                self.halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure));
                self.ring.share_rests().await
            }
            Obstacle::NoUsableKey | Obstacle::Deadline => Ok(()),
        };
        if let Err(error) = met {
            warn!(error = %error, "could not tell other runs what the API said");
        }
    }

    fn refused_key(&self, key: &crate::model::Fingerprint, detail: &str) {
        if self.keys.fingerprints().contains(key) {
            warn!(key.fingerprint = %key, detail, "the API does not accept this key");
            lock(self.tally).error(format!("key {key}: {detail}"));
        }
    }

    /// The API is in maintenance: the drain ends, and one run in 30 s probes.
    async fn maintenance(&self, detail: &str) -> Result<(), QueueError> {
        if self.halt.is_forced() {
            return Ok(());
        }
        info!(detail, "the API is in maintenance; everything is given back and one probe is made every 30 s");
        self.halt.end(Force::StartNothing, StopReason::Maintenance, None);
        let now = self.time.now();
        self.worker.queue.begin_maintenance(Maintenance { since: now, next_probe: now + PROBE_INTERVAL }).await
    }

    /// Stores the answers of a group, then settles all of it.
    async fn finish(&self, mut group: Group) {
        if group.len() == 0 {
            return;
        }
        let answered = std::mem::take(&mut group.answered);
        if !answered.is_empty() {
            let (leases, fetched): (Vec<Lease>, Vec<Fetched>) = answered.into_iter().unzip();
            match self.commit(&fetched).await {
                Ok(committed) => {
                    for ((lease, fetched), committed) in leases.into_iter().zip(&fetched).zip(committed) {
                        let (settlement, outcome) = self.after_commit(&lease, fetched, committed);
                        group.settle(lease, settlement, outcome);
                    }
                }
                Err(error) => {
                    self.database_down(&error);
                    for lease in leases {
                        group.settle(lease, Settlement::Release, Outcome::Released);
                    }
                }
            }
        }
        self.settle(&group).await;
    }

    /// Commits, and holds back further calls while the database does not answer: no call is spent on a result that
    /// cannot be kept. What was fetched already is worth some patience.
    async fn commit(&self, fetched: &[Fetched]) -> Result<Vec<Committed>, StoreError> {
        let mut patience = PATIENCE.iter();
        loop {
            let began = Instant::now();
            let error = match self.commit_once(fetched).await {
                Ok(committed) => {
                    self.deadline.saw_commit(began.elapsed());
                    self.store_answers.send_replace(true);
                    return Ok(committed);
                }
                Err(error) => error,
            };
            self.store_answers.send_replace(false);
            warn!(error = %error, answers = fetched.len(), "could not store answers");
            match patience.next() {
                Some(wait) if Instant::now() + *wait < self.deadline.end() => tokio::time::sleep(*wait).await,
                _ => return Err(error),
            }
        }
    }

    /// One try. A database that stays silent is not waited for with more calls.
    async fn commit_once(&self, fetched: &[Fetched]) -> Result<Vec<Committed>, StoreError> {
        let mut commit = std::pin::pin!(self.worker.store.commit(self.time.now(), fetched));
        if let Ok(answer) = tokio::time::timeout(SLOW_COMMIT, commit.as_mut()).await {
            return answer;
        }
        self.store_answers.send_replace(false);
        commit.await
    }

    fn after_commit(&self, lease: &Lease, fetched: &Fetched, committed: Committed) -> (Settlement, Outcome) {
        let done = match still_wanted_at(lease, fetched.began, fetched.fresh_until) {
            Some(until) => Settlement::Later { until },
            None => Settlement::Done,
        };
        match committed {
            Committed::Stored => (done, Outcome::Stored),
            Committed::Unchanged => (done, Outcome::Unchanged),
            Committed::Superseded => (done, Outcome::Satisfied),
            Committed::Noted => match fetched.answered {
                crate::model::Answered::PrivateWarLog => (done, Outcome::PrivateWarLog),
                _ => (done, Outcome::Gone),
            },
            Committed::Poison(reason) => {
                self.note_error(lease, &reason);
                (Settlement::Dead { reason, body: None }, Outcome::DeadLetter)
            }
        }
    }

    /// Settles a group in one step. When the queue does not answer, the leases lapse: what was stored is then found to be
    /// fresh, and not called for again.
    async fn settle(&self, group: &Group) {
        let mut patience = PATIENCE.iter();
        let settled = loop {
            let error = match self.worker.queue.settle(self.time.now(), &group.settlements).await {
                Ok(settled) => break settled,
                Err(error) => error,
            };
            warn!(error = %error, requests = group.settlements.len(), "could not settle requests");
            match patience.next() {
                Some(wait) if Instant::now() + *wait < self.deadline.end() => tokio::time::sleep(*wait).await,
                _ => {
                    self.queue_down(&error);
                    break vec![Settled::Stale; group.settlements.len()];
                }
            }
        };
        for (((lease, _), outcome), settled) in group.settlements.iter().zip(&group.outcomes).zip(settled) {
            lock(&self.in_hand).remove(&lease.token);
            let outcome = if settled == Settled::Stale { Outcome::Stale } else { *outcome };
            self.count(&lease.object, outcome);
        }
        self.flow.closed(group.settlements.len());
    }
}

/// The delay after the attempt that follows `attempts` earlier failures: 2, 4, 8 … minutes, at most a day; `draw` from
/// [0, 1) picks a point in its second half.
fn delay_after(attempts: u32, draw: f64) -> Duration {
    let full = FIRST_DELAY.saturating_mul(1 << attempts.min(10)).min(Duration::from_secs(24 * 60 * 60));
    full.mul_f64(0.5 + draw / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_are_drawn_from_their_second_half() {
        assert_eq!(delay_after(0, 0.0), Duration::from_secs(60));
        assert_eq!(delay_after(0, 0.999_999).as_secs(), 119);
        assert_eq!(delay_after(1, 0.0), Duration::from_secs(120));
        assert_eq!(delay_after(2, 0.0), Duration::from_secs(240));
        assert!(delay_after(4_000_000, 0.5) <= Duration::from_secs(24 * 60 * 60));
    }
}
