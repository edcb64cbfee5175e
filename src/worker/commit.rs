//! The commit stage: answers are stored in groups, then the whole group is settled. Talks to the store and the queue; what
//! follows a commit is in `tell`, what stands in its way in `judgement`.
//!
//! Store first, then settle: a crash in between leads to a second look, never to a lost request.

use std::{panic::AssertUnwindSafe, sync::atomic::Ordering, time::Duration};

use futures_util::FutureExt as _;
use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, error, warn};

use super::{
    drain::{Drain, lock},
    halt::Force,
    report::StopReason,
    standing::still_wanted_at,
    tell::Telling,
};
use crate::{
    clock::Timestamp,
    model::{Fetched, FollowUp, OutboxEntry, Outcome, Reason},
    queue::{Following, Lease, Queue, Settled, Settlement, Slots},
    store::{ANY_RECORD, Commit, Committed, Store, StoreError},
};

/// A group is committed when it has so many answers …
const GROUP: usize = 64;

/// … or so many bytes: a commit has each document in memory several times …
const GROUP_BYTES: usize = 2 * 1024 * 1024;

/// … or when its first answer has waited so long.
const GROUP_WAIT: Duration = Duration::from_millis(300);

/// While a commit takes longer than this, no further call begins: its answer might not be kept.
const SLOW_COMMIT: Duration = Duration::from_secs(2);

/// The first delay after a failure; it doubles with every further attempt.
const FIRST_DELAY: Duration = Duration::from_secs(2 * 60);

/// How long a commit or a settlement is tried again before what hangs on it is given up.
const PATIENCE: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(2)];

/// A database that has kept a commit waiting for so long, tries together, is down for this run.
const LONGEST_PATIENCE: Duration = Duration::from_secs(10);

/// How many answers, one after the other, a run lets the store refuse while it is in doubt: they may belong to the one broken
/// part of a table.
const REFUSED_ALONE: u32 = 5;

/// The reason code of requests that are held because nothing could be stored.
const STORE_FAILS: &str = "store_fails";

/// The reason code of requests whose answers were refused by themselves.
const REFUSED: &str = "refused_by_database";

/// A lease whose request has come to an end in this run.
#[derive(Debug)]
pub struct Ended {
    pub lease: Lease,
    pub how: How,
}

/// How it came to its end.
#[derive(Debug)]
pub enum How {
    /// With the next look at a war.
    Fresh(Option<FollowUp>),
    /// With the next look at a war.
    Later(Timestamp, Option<FollowUp>),
    Answered(Box<Fetched>),
    Dead {
        reason: Reason,
        body: Option<String>,
    },
    /// With the next look at a war, should no attempt be left.
    Failed(Reason, Option<FollowUp>),
    /// Not its fault: returned with nothing counted, and held so that others come first.
    Held(Reason),
    GivenBack,
}

impl Ended {
    pub const fn fresh(lease: Lease, next_look: Option<FollowUp>) -> Self {
        Self { lease, how: How::Fresh(next_look) }
    }

    pub const fn later(lease: Lease, until: Timestamp, next_look: Option<FollowUp>) -> Self {
        Self { lease, how: How::Later(until, next_look) }
    }

    pub const fn given_back(lease: Lease) -> Self {
        Self { lease, how: How::GivenBack }
    }
}

/// What is stored and settled together.
#[derive(Debug, Default)]
pub struct Group {
    answered: Vec<(Lease, Fetched)>,
    /// Of all documents in it.
    bytes: usize,
    settlements: Vec<(Lease, Settlement)>,
    outcomes: Vec<Outcome>,
    follow_ups: Vec<FollowUp>,
    /// What is to be told to others.
    pub outbox: Vec<OutboxEntry>,
}

impl Group {
    const fn len(&self) -> usize {
        self.answered.len() + self.settlements.len()
    }

    /// Whether nothing more is to be stored together.
    const fn is_full(&self) -> bool {
        self.len() >= GROUP || self.bytes >= GROUP_BYTES
    }

    fn settle(&mut self, lease: Lease, settlement: Settlement, outcome: Outcome) {
        self.settlements.push((lease, settlement));
        self.outcomes.push(outcome);
    }
}

impl<Q: Queue + Slots, S: Store> Drain<'_, Q, S> {
    /// Stores and settles what comes in until nothing more does.
    pub async fn commit_stage(&self, mut to_commit: mpsc::Receiver<Ended>) {
        while let Some(first) = to_commit.recv().await {
            let mut group = Group::default();
            self.sort_in(first, &mut group);
            self.gather(&mut to_commit, &mut group).await;
            self.finish(group).await;
        }
        // The last key was lost after the last request was leased: nobody waits for it any more.
        if self.keys.usable() == 0 && !self.halt.is_forced() && lock(self.tally).gave_back() {
            self.end_without_a_key();
        }
    }

    /// Adds to the group until it is full, has waited long enough, or nothing more is on its way.
    async fn gather(&self, to_commit: &mut mpsc::Receiver<Ended>, group: &mut Group) {
        let full_at = Instant::now() + GROUP_WAIT;
        while !group.is_full() {
            let next = tokio::select! {
                biased;
                next = to_commit.recv() => next,
                () = self.flow.until(|counts| counts.unstarted == 0 && counts.in_flight == 0) => to_commit.try_recv().ok(),
                () = tokio::time::sleep_until(full_at) => None,
            };
            match next {
                Some(ended) => self.sort_in(ended, group),
                None => return,
            }
        }
    }

    /// Decides what becomes of one request.
    fn sort_in(&self, ended: Ended, group: &mut Group) {
        let Ended { lease, how } = ended;
        match how {
            How::Fresh(next_look) => {
                group.follow_ups.extend(next_look);
                group.settle(lease, Settlement::Done, Outcome::Fresh);
            }
            How::Later(until, next_look) => {
                group.follow_ups.extend(next_look);
                group.settle(lease, Settlement::Later { until }, Outcome::Fresh);
            }
            How::Answered(fetched) => {
                group.bytes += fetched.bytes();
                group.answered.push((lease, *fetched));
            }
            How::Dead { reason, body } => {
                self.note_error(&lease, &reason);
                group.settle(lease, Settlement::Dead { reason, body }, Outcome::DeadLetter);
            }
            How::Failed(reason, next_look) => {
                self.note_error(&lease, &reason);
                let (settlement, outcome, next_look) = self.after_failure(&lease, reason, next_look);
                group.follow_ups.extend(next_look);
                group.settle(lease, settlement, outcome);
            }
            How::Held(reason) => {
                debug!(object = %lease.object, reason = %reason, "a request is returned, and held");
                group.settle(lease, Settlement::Held { reason }, Outcome::Released);
            }
            How::GivenBack => group.settle(lease, Settlement::Release, Outcome::Released),
        }
    }

    /// What becomes of it, and the next look at a war that goes on whatever failed: a dead letter would stop its clock, and
    /// nobody would see how it ends.
    fn after_failure(
        &self,
        lease: &Lease,
        reason: Reason,
        next_look: Option<FollowUp>,
    ) -> (Settlement, Outcome, Option<FollowUp>) {
        let attempts = lease.attempts + 1;
        if attempts >= self.worker.config.max_attempts {
            if let Some(next_look) = next_look {
                return (Settlement::Later { until: next_look.request.due }, Outcome::Delayed, Some(next_look));
            }
            let detail = format!("{attempts} attempts failed, the last with {reason}");
            let reason = Reason::new("attempts_used_up", detail);
            return (Settlement::Dead { reason, body: None }, Outcome::DeadLetter, None);
        }
        let until = self.time.now() + delay_after(lease.attempts, fastrand::f64());
        (Settlement::Failed { until, reason }, Outcome::Delayed, None)
    }

    fn note_error(&self, lease: &Lease, reason: &Reason) {
        debug!(object = %lease.object, attempts = lease.attempts, reason = %reason, "a request failed");
        lock(self.tally).error(format!("{}: {reason}", lease.object));
    }

    /// Stores the answers of a group, then settles all of it.
    async fn finish(&self, mut group: Group) {
        if group.len() == 0 {
            return;
        }
        let answered = std::mem::take(&mut group.answered);
        if !answered.is_empty() {
            let (leases, fetched): (Vec<Lease>, Vec<Fetched>) = answered.into_iter().unzip();
            let began = Instant::now();
            // One group was patient for all: with the next ones the run would last a multiple of that.
            let is_down = matches!(self.halt.reason(), Some((StopReason::DatabaseDown, _)));
            let committed = if is_down { None } else { Some(self.commit(&fetched).await) };
            match committed {
                Some(Ok(Commit { committed, learned, outbox, trouble, .. })) => {
                    if let Some(trouble) = trouble {
                        self.halt.end(Force::StartNothing, StopReason::DatabaseDown, Some(trouble.clone()));
                    }
                    if committed.contains(&Committed::Stored) {
                        self.refused_alone.store(0, Ordering::Relaxed);
                    }
                    group.outbox = outbox;
                    for (((lease, fetched), committed), learned) in
                        leases.into_iter().zip(&fetched).zip(committed).zip(&learned)
                    {
                        group.follow_ups.extend(self.follow_ups(fetched, &committed, learned));
                        let (settlement, outcome) = self.after_commit(&lease, fetched, committed);
                        group.settle(lease, settlement, outcome);
                    }
                }
                failed => {
                    let mut hold = None;
                    if let Some(Err(error)) = &failed
                        && is_refusal_of_all(error)
                        && fetched.len() == 1
                        && self.refused_alone.fetch_add(1, Ordering::Relaxed) < REFUSED_ALONE
                    {
                        let reason = Reason::new(REFUSED, error.to_string());
                        self.note_error(&leases[0], &reason);
                        hold = Some(reason);
                    } else if let Some(Err(error)) = failed {
                        // What only the end of the run kept from being stored is for the next run.
                        hold = if self.store_failed(&error, began) { hold_after(&error) } else { None };
                    }
                    for lease in leases {
                        let returned = match &hold {
                            Some(reason) => Settlement::Held { reason: reason.clone() },
                            None => Settlement::Release,
                        };
                        group.settle(lease, returned, Outcome::Released);
                    }
                }
            }
        }
        self.in_hand.bring_tokens(&mut group.settlements);
        self.settle(&group).await;
    }

    /// Commits, and holds back further calls while the database does not answer: no call is spent on a result that
    /// cannot be kept. What was fetched already is worth some patience.
    async fn commit(&self, fetched: &[Fetched]) -> Result<Commit, StoreError> {
        let mut patience = PATIENCE.iter();
        let first_began = Instant::now();
        let was_doubtful = self.worker.store.is_doubtful();
        loop {
            let began = Instant::now();
            let told = self.caches.told_notes();
            let error = match self.commit_once(fetched, &told).await {
                Ok(committed) => {
                    // A commit of which nothing could be stored has forgotten nothing either.
                    if committed.committed.iter().any(|one| !matches!(one, Committed::Poison(_) | Committed::Held(_))) {
                        self.caches.forgotten(&told);
                    }
                    // What waited for the locks of others says nothing about the next commit.
                    if !committed.committed.iter().any(|one| matches!(one, Committed::Held(_))) {
                        self.deadline.saw_commit(began.elapsed());
                    }
                    self.store_answers.send_replace(true);
                    if was_doubtful && !self.worker.store.is_doubtful() {
                        self.lift_holds_of_the_store().await;
                    }
                    return Ok(committed);
                }
                Err(error) => error,
            };
            warn!(error = %error, answers = fetched.len(), "could not store answers");
            if is_refusal_of_all(&error) {
                // Each was tried by itself: it is not for a moment, and the store does answer.
                self.store_answers.send_replace(true);
                return Err(error);
            }
            self.store_answers.send_replace(false);
            match patience.next() {
                Some(wait) if Instant::now() + *wait < self.deadline.end().min(first_began + LONGEST_PATIENCE) => {
                    tokio::time::sleep(*wait).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// One try. A database that stays silent is not waited for with more calls.
    async fn commit_once(&self, fetched: &[Fetched], told: &[i64]) -> Result<Commit, StoreError> {
        let limit = self.deadline.left_for_the_database(Instant::now());
        // What is wrong with one answer must not end the process, and with it the leases of all.
        let commit = AssertUnwindSafe(self.worker.store.commit_and_delete(self.time.now(), fetched, told, limit));
        let commit = commit.catch_unwind().map(|committed| {
            committed.unwrap_or_else(|_| {
                error!(answers = fetched.len(), "a commit panicked; this is a defect of the worker");
                let [server, detail] = ["the worker", "it panicked, which is a defect"].map(str::to_owned);
                Err(StoreError::Failed { server, action: "store a batch", detail })
            })
        });
        let mut commit = std::pin::pin!(commit);
        if let Ok(answer) = tokio::time::timeout(SLOW_COMMIT, commit.as_mut()).await {
            return answer;
        }
        self.store_answers.send_replace(false);
        commit.await
    }

    /// The store takes answers again: what was held for it need not wait any longer. What was refused by itself waits on: that
    /// another was stored says nothing about it.
    async fn lift_holds_of_the_store(&self) {
        for code in [STORE_FAILS, "database_fails"] {
            if let Err(error) = self.worker.queue.lift_holds(self.time.now(), code).await {
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
                self.caches.changed(&lease.object);
                (done, Outcome::Stored)
            }
            Committed::Unchanged => (done, Outcome::Unchanged),
            Committed::Superseded => (done, Outcome::Fresh),
            Committed::Noted => match fetched.answered {
                crate::model::Answered::PrivateWarLog => (done, Outcome::PrivateWarLog),
                crate::model::Answered::UnknownState(_) => (done, Outcome::Unchanged),
                _ => (done, Outcome::Gone),
            },
            Committed::Poison(reason) => {
                self.note_error(lease, &reason);
                (Settlement::Dead { reason, body: None }, Outcome::DeadLetter)
            }
            Committed::Held(reason) => {
                self.note_error(lease, &reason);
                (Settlement::Held { reason }, Outcome::Released)
            }
        }
    }

    /// Settles a group in one step. When the queue does not answer, the leases lapse: what was stored is then found to be
    /// fresh, and not called for again.
    async fn settle(&self, group: &Group) {
        let (follow_ups, most_ready) = self.follow_ups_that_fit(&group.follow_ups);
        let following = Following { follow_ups: &follow_ups, most_ready };
        let mut telling = Telling::of(&group.outbox, &self.worker.config.cache_key_templates);
        failpoint!("settle.before");
        let mut patience = PATIENCE.iter();
        let mut settled = loop {
            let settling = self.worker.queue.settle_and_follow(self.time.now(), &group.settlements, following);
            // Sent one after the other on one connection: one round trip.
            let ((), settled) = tokio::join!(self.tell(&mut telling), settling);
            let error = match settled {
                Ok((settled, taken)) => {
                    lock(self.tally).followups += taken as u64;
                    break settled;
                }
                Err(error) => error,
            };
            warn!(error = %error, requests = group.settlements.len(), "could not settle requests");
            match patience.next() {
                Some(wait) if Instant::now() + *wait < self.deadline.end() => tokio::time::sleep(*wait).await,
                _ => {
                    self.queue_down(&error);
                    break vec![Settled::LeaseLost; group.settlements.len()];
                }
            }
        };
        failpoint!("settle.after");
        self.settle_anew(&group.settlements, &mut settled).await;
        self.close_notes(&group.outbox, &telling);
        for (((lease, _), outcome), settled) in group.settlements.iter().zip(&group.outcomes).zip(settled) {
            let outcome = match settled {
                Settled::Settled => *outcome,
                Settled::LeaseLost => Outcome::LeaseLost,
                Settled::NoRoom => {
                    self.no_room_for_dead_letters();
                    Outcome::Released
                }
            };
            self.count(lease, outcome);
        }
        self.flow.closed(group.settlements.len());
    }

    /// Lets go of what was settled, and ends the leases that came for it meanwhile.
    async fn settle_anew(&self, settlements: &[(Lease, Settlement)], settled: &mut [Settled]) {
        let (places, batch): (Vec<usize>, Vec<_>) = self.in_hand.let_go(settlements, settled).into_iter().unzip();
        if batch.is_empty() {
            return;
        }
        match self.worker.queue.settle(self.time.now(), &batch).await {
            Ok(answers) => {
                for (place, answer) in places.into_iter().zip(answers) {
                    if settled[place] == Settled::LeaseLost {
                        settled[place] = answer;
                    }
                }
            }
            Err(error) => {
                warn!(error = %error, requests = batch.len(), "could not settle requests that were leased anew");
            }
        }
    }
}

/// Whether the store has refused each of the answers.
fn is_refusal_of_all(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed { action, .. } if *action == ANY_RECORD)
}

/// The reason of a hold while the store refuses everything, or is locked: so the next run begins with others, and what this one
/// has called for is not called for at once again. An outage passes, and holds nothing.
fn hold_after(error: &StoreError) -> Option<Reason> {
    match error {
        StoreError::Locked { .. } | StoreError::Failed { .. } | StoreError::NotAllowed { .. } => {
            Some(Reason::new(STORE_FAILS, error.to_string()))
        }
        StoreError::Unreachable { .. } | StoreError::ReadOnly { .. } | StoreError::OutOfTime { .. } => None,
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
