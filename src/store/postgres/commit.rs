//! The commit of a batch, and its handling of failures: try again, commit in parts, or give up.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    attempt::{Attempt, ID_GAP, IdGap, Mark, OtherPrograms, Timeouts},
    blockers::{self, Blocker, watched},
    connect::{Database, discard, within},
    errors::{self, Trouble},
    limit::Limit,
};
use crate::{
    clock::Timestamp,
    model::{Answered, Fetched, ObjectId, Reason},
    store::{
        ANY_RECORD, Commit, CommitDetails, Committed, StoreError,
        plan::refusals::{Blame, Fate, Fault, Refusals},
        rows,
    },
};

/// The retries of a whole batch after conflicts with other transactions.
const MAX_CONFLICT_RETRIES: u32 = 5;

/// The retries of a whole batch after another program took an id or a time.
const MAX_TAKEN_RETRIES: u32 = 3;

/// The limit of an attempt on our side. The server stops its statements earlier.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// The server's limit for a statement of an attempt. Parts of a batch get half of it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A whole batch waits this long for a lock. Other programs write in short transactions; a longer one was forgotten, or
/// changes a table.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A part of a batch waits this long for a lock, until all parts together have waited [`MAX_PARTS_LOCK_WAIT`] …
const PART_LOCK_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_PARTS_LOCK_WAIT: Duration = Duration::from_secs(3);

/// … and this long from then on: the rest of the batch must not wait for rows that are known to be locked.
const LAST_LOCK_TIMEOUT: Duration = Duration::from_millis(20);

/// After this long with nothing stored, the store is in trouble.
const PARTS_TIMEOUT: Duration = Duration::from_secs(20);

/// After this long with nothing of a kind stored and enough of it refused alike, the rest of the kind is held untried.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);

/// The action in messages.
const STORE: &str = "store a batch";

/// The evidence from earlier commits of this process.
#[derive(Debug, Default)]
pub(super) struct CommitHistory {
    refusals: Mutex<Refusals>,
    /// The last commit whose outcome counts failed as a whole.
    has_failed: AtomicBool,
    other_programs: OtherPrograms,
}

impl CommitHistory {
    pub(super) fn is_doubtful(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed) || self.refusals.lock().is_suspicious()
    }

    /// Records the outcome of a commit. A timeout or an outage says nothing about the next commit.
    fn record(&self, committed: &Result<Commit, StoreError>) {
        let has_failed = match committed {
            Ok(commit) => commit.trouble.is_some(),
            Err(StoreError::Locked { .. } | StoreError::Failed { .. } | StoreError::NotAllowed { .. }) => true,
            Err(StoreError::Unreachable { .. } | StoreError::ReadOnly { .. } | StoreError::OutOfTime { .. }) => return,
        };
        self.has_failed.store(has_failed, Ordering::Relaxed);
    }
}

/// The commit of a batch, with everything it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchCommit<'a> {
    pub(super) database: &'a Database,
    pub(super) history: &'a CommitHistory,
    pub(super) details: CommitDetails,
    pub(super) now: Timestamp,
    pub(super) delivered: &'a [i64],
    pub(super) limit: Limit,
}

/// The reason why a batch, or a part of it, could not be stored.
enum Failure {
    Store(StoreError),
    /// The database refused it, perhaps because of one record.
    Refused(Fault),
    /// Another session holds a lock, and the blocker, as far as it is known.
    Locked(Option<Blocker>, sqlx::Error),
    TooSlow(sqlx::Error),
}

impl BatchCommit<'_> {
    pub(super) async fn run(self, batch: &[Fetched]) -> Result<Commit, StoreError> {
        if batch.is_empty() {
            return Ok(Commit::default());
        }
        let timeouts = Timeouts { statement: STATEMENT_TIMEOUT, lock: LOCK_TIMEOUT };
        // Boxed: these are large futures, awaited in many places.
        let committed = match Box::pin(self.whole(batch, timeouts)).await {
            Ok(committed) => {
                let stored = committed.stored(batch);
                self.history.refusals.lock().judge(self.now, stored, &[]);
                Ok(committed)
            }
            Err(Failure::Store(error)) => Err(error),
            Err(failure) => Box::pin(self.in_parts(batch, failure)).await,
        };
        self.history.record(&committed);
        self.database.in_time(self.limit, STORE, committed)
    }

    /// Stores the batch in one transaction. After a conflict, tries again while there is time.
    async fn whole(&self, batch: &[Fetched], timeouts: Timeouts) -> Result<Commit, Failure> {
        let Self { database, limit, .. } = *self;
        let (mut conflicts, mut taken, mut is_anew) = (0, 0, false);
        loop {
            let mut connection = database.acquire_within(limit, STORE).await.map_err(Failure::Store)?;
            let attempt = Attempt {
                keeps_statements: database.keeps_statements(),
                now: self.now,
                batch,
                details: self.details,
                // Every part of a batch names the same ids; the first part that commits deletes the entries.
                delivered: self.delivered,
                id_gap: IdGap { others: &self.history.other_programs, more: ID_GAP * i64::from(taken) },
                timeouts: Timeouts { statement: timeouts.statement.min(limit.left()), ..timeouts },
                mark: Mark::new(),
            };
            // A panic counts as a refusal, so that halving finds the record that causes the panic.
            let run = AssertUnwindSafe(attempt.run(&mut connection)).catch_unwind();
            let run = within(ATTEMPT_TIMEOUT.min(limit.left()), async { Ok(run.await) });
            // At half the lock timeout the blocker can still be seen, and a short wait costs no query.
            let (run, blocker) = watched(database, timeouts.lock / 2, attempt.mark, run).await;
            let error = match run {
                Ok(Ok(Ok(committed))) => return Ok(committed),
                Ok(Ok(Err(error))) | Err(error) => error,
                Ok(Err(_)) => {
                    // The state of the connection is unknown after a panic.
                    discard(connection);
                    tracing::error!(answers = batch.len(), "a commit panicked; this is a defect of the worker");
                    return Err(Failure::Refused(panicked()));
                }
            };
            // A bad connection is replaced once; the second error of this kind is the database's own.
            if database.notice(connection, &error) && !is_anew {
                is_anew = true;
                continue;
            }
            match errors::trouble(&error) {
                Trouble::Conflict if conflicts < MAX_CONFLICT_RETRIES => conflicts += 1,
                Trouble::Taken | Trouble::TakenId if taken < MAX_TAKEN_RETRIES => taken += 1,
                Trouble::Taken | Trouble::Record => {
                    return Err(Failure::Refused(errors::fault(&error, is_broken(batch))));
                }
                // The server ends a frozen worker of ours within seconds, so the whole batch is worth another try.
                Trouble::Locked
                    if conflicts < MAX_CONFLICT_RETRIES
                        && blocker.as_ref().is_some_and(|blocker| blocker.is_ours == Some(true)) =>
                {
                    // Waiting for a frozen worker takes seconds, so it uses up the retries faster.
                    conflicts += 2;
                }
                Trouble::Locked => return Err(Failure::Locked(blocker, error)),
                Trouble::TooSlow => return Err(Failure::TooSlow(error)),
                Trouble::Conflict | Trouble::TakenId | Trouble::Store => {
                    return Err(Failure::Store(errors::store_error(&database.server, STORE, &error)));
                }
            }
            tracing::debug!(error = %error, conflicts, taken, "others were in the way of a batch; it is tried again");
            // Random, so that colliding commits do not collide again.
            // At most about 5 s: six conflicts and three taken ids or times are nine doublings.
            let longest = Duration::from_millis(10) * 2_u32.pow(conflicts + taken);
            tokio::time::sleep(longest.mul_f64(fastrand::f64()).min(limit.left())).await;
        }
    }

    /// Stores the batch in halves, and failed parts in halves again, down to single records. An obstacle then hurts only the
    /// records it belongs to.
    async fn in_parts(&self, batch: &[Fetched], failure: Failure) -> Result<Commit, StoreError> {
        let mut blocker = match failure {
            Failure::Locked(blocker, error) => {
                let blocker = match blocker {
                    Some(blocker) => Some(blocker),
                    None => blockers::guess(self.database).await,
                };
                // No part of the batch could pass.
                if blocker.as_ref().is_some_and(|blocker| blocker.is_whole_table) {
                    return Err(self.locked(blocker.as_ref(), &error));
                }
                blocker
            }
            _ => None,
        };
        let newest = rows::newest_answers(batch);
        let mut together = Commit::of_nothing(batch.len());
        let (mut refused, mut locked): (Vec<(usize, Fault)>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut stored_any = false;
        let mut slow = Vec::new();
        let (began, mut waited) = (Instant::now(), Duration::ZERO);
        let mut parts = Parts::of(&newest);
        while let Some(part) = parts.next() {
            let answers: Vec<Fetched> = part.iter().map(|&place| batch[place].clone()).collect();
            // While nothing is stored, single records are only a sample of the locked rows.
            let is_sample = !stored_any && part.len() == 1 && newest.len() > 1;
            let is_patient = waited < MAX_PARTS_LOCK_WAIT && !is_sample;
            let lock = if is_patient { PART_LOCK_TIMEOUT } else { LAST_LOCK_TIMEOUT };
            // Half the usual time, because a part is smaller and many parts follow each other.
            let timeouts = Timeouts { statement: STATEMENT_TIMEOUT / 2, lock };
            let asked = Instant::now();
            match self.whole(&answers, timeouts).await {
                Ok(committed) => {
                    stored_any = true;
                    together.add_all(part, committed);
                }
                // Earlier parts are stored for good, so trouble of the store affects only the records that are left.
                Err(Failure::Store(error)) if stored_any => {
                    let rest = part.iter().chain(parts.rest().flatten());
                    hold(&mut together, rest, &Reason::new("database_fails", error.to_string()));
                    // A commit that used up its own time is no sign of trouble with the store.
                    let is_over = self.limit.left().is_zero();
                    together.trouble = (!is_over).then(|| error.to_string());
                    break;
                }
                Err(Failure::Store(error)) => return Err(error),
                Err(failure) if part.len() > 1 => {
                    if let Failure::Locked(seen, error) = &failure {
                        waited += asked.elapsed();
                        blocker = seen.clone().or(blocker);
                        if !stored_any && self.is_hopeless(began, blocker.as_ref()) {
                            return Err(self.locked(blocker.as_ref(), error));
                        }
                    }
                    if let Failure::TooSlow(error) = &failure
                        && !stored_any
                        && began.elapsed() > PARTS_TIMEOUT
                    {
                        return Err(errors::store_error(&self.database.server, STORE, error));
                    }
                    parts.split(part);
                }
                Err(Failure::Refused(fault)) => {
                    let kind = batch[part[0]].object.kind;
                    refused.push((part[0], fault.clone()));
                    let alike = refused.iter().filter(|(place, other)| {
                        batch[*place].object.kind == kind && other.signature == fault.signature
                    });
                    let is_stored = together.stored(batch).any(|object| object.kind == kind);
                    // The database may be at fault, not the records, so the run leases nothing more. The rest of the batch is still tried
                    // for a while: these records may all belong to the broken part of a table.
                    let is_suspicious = !is_stored && alike.count() >= fault.enough();
                    if is_suspicious && !stored_any {
                        self.history.has_failed.store(true, Ordering::Relaxed);
                    }
                    if is_suspicious && began.elapsed() > REFUSED_TIMEOUT {
                        // The untried records were not refused, so their hold ends as soon as the store accepts others.
                        let untried = Reason::new("database_fails", fault.reason.detail.clone());
                        parts.retain(|part| {
                            let is_hopeless = part.iter().all(|&place| batch[place].object.kind == kind);
                            if is_hopeless {
                                hold(&mut together, part.iter(), &untried);
                            }
                            !is_hopeless
                        });
                    }
                }
                Err(Failure::Locked(seen, error)) => {
                    waited += asked.elapsed();
                    blocker = seen.or(blocker);
                    locked.push(part[0]);
                    // By then one of each pair of neighbours was tried.
                    let is_sampled = locked.len() * 2 >= newest.len();
                    if !stored_any && (is_sampled || self.is_hopeless(began, blocker.as_ref())) {
                        return Err(self.locked(blocker.as_ref(), &error));
                    }
                }
                Err(Failure::TooSlow(error)) => {
                    // If nothing was stored, a slow record may mean a slow database. If others were stored, the record itself is too slow.
                    if !stored_any && (newest.len() == 1 || began.elapsed() > PARTS_TIMEOUT) {
                        return Err(errors::store_error(&self.database.server, STORE, &error));
                    }
                    slow.push(part[0]);
                }
            }
        }
        if !locked.is_empty() {
            let detail =
                blocker.as_ref().map_or_else(|| "a row is locked by somebody else".to_owned(), Blocker::describe);
            tracing::warn!(requests = locked.len(), "answers could not be stored: {detail}; they are held");
            hold(&mut together, locked.iter(), &Reason::new("row_locked", detail));
        }
        // 5 s is half of `STATEMENT_TIMEOUT`, the limit of a part.
        hold(&mut together, slow.iter(), &Reason::new("too_slow", "the database did not store this within 5 s"));
        self.judge(batch, together, &refused, stored_any)
    }

    /// True when parts that all meet locks are not worth more time.
    fn is_hopeless(&self, began: Instant, blocker: Option<&Blocker>) -> bool {
        began.elapsed() > PARTS_TIMEOUT
            || self.limit.left().is_zero()
            || blocker.is_some_and(|blocker| blocker.is_whole_table)
    }

    fn locked(&self, blocker: Option<&Blocker>, error: &sqlx::Error) -> StoreError {
        let refusal = errors::described(error);
        let detail = match blocker {
            Some(blocker) => format!("{}: {refusal}", blocker.describe()),
            None => refusal,
        };
        blockers::locked(self.database, STORE, detail)
    }

    /// Decides the fate of the refused records, and whether the store is in trouble.
    fn judge(
        &self,
        batch: &[Fetched],
        mut together: Commit,
        refused: &[(usize, Fault)],
        stored_any: bool,
    ) -> Result<Commit, StoreError> {
        let named: Vec<(ObjectId, Fault)> =
            refused.iter().map(|(place, fault)| (batch[*place].object.clone(), fault.clone())).collect();
        let judged = self.history.refusals.lock().judge(self.now, together.stored(batch), &named);
        for ((place, fault), fate) in refused.iter().zip(judged.fates) {
            together.committed[*place] = match fate {
                Fate::Poison => Committed::Poison(fault.reason.clone()),
                Fate::Hold => Committed::Held(fault.reason.clone()),
            };
        }
        // Trouble with records of one kind does not undo what was stored of other kinds.
        let Some(at) = judged.trouble else { return Ok(together) };
        let detail = refused[at].1.reason.detail.clone();
        if stored_any {
            let trouble =
                format!("store any {} in the database at {}: {detail}", named[at].0.kind, self.database.server);
            together.trouble = Some(trouble);
            return Ok(together);
        }
        Err(StoreError::Failed { server: self.database.server.clone(), action: ANY_RECORD, detail })
    }
}

/// True for a single document that is not JSON.
fn is_broken(batch: &[Fetched]) -> bool {
    let [Fetched { answered: Answered::Document(document), .. }] = batch else { return false };
    serde_json::from_str::<serde::de::IgnoredAny>(document.json()).is_err()
}

fn panicked() -> Fault {
    let reason = Reason::new("panicked", "the worker panicked while storing this object");
    Fault { blame: Blame::Either, signature: "panicked".to_owned(), reason }
}

/// The untried parts of a batch, larger ones first. Neighbours meet the same obstacles, so the next part lies far from the last
/// one.
struct Parts<'a> {
    now: VecDeque<&'a [usize]>,
    /// The first and the second halves of failed parts.
    firsts: VecDeque<&'a [usize]>,
    seconds: VecDeque<&'a [usize]>,
}

impl<'a> Parts<'a> {
    fn of(places: &'a [usize]) -> Self {
        let mut parts = Self { now: VecDeque::new(), firsts: VecDeque::new(), seconds: VecDeque::new() };
        parts.split(places);
        parts
    }

    fn split(&mut self, part: &'a [usize]) {
        let (first, second) = part.split_at(part.len().div_ceil(2));
        self.firsts.push_back(first);
        if !second.is_empty() {
            self.seconds.push_back(second);
        }
    }

    fn next(&mut self) -> Option<&'a [usize]> {
        if self.now.is_empty() {
            self.now.append(&mut self.firsts);
            self.now.append(&mut self.seconds);
        }
        self.now.pop_front()
    }

    fn rest(&self) -> impl Iterator<Item = &'a [usize]> {
        self.now.iter().chain(&self.firsts).chain(&self.seconds).copied()
    }

    fn retain(&mut self, mut is_kept: impl FnMut(&&'a [usize]) -> bool) {
        for parts in [&mut self.now, &mut self.firsts, &mut self.seconds] {
            parts.retain(&mut is_kept);
        }
    }
}

fn hold<'a>(commit: &mut Commit, places: impl Iterator<Item = &'a usize>, reason: &Reason) {
    for &place in places {
        commit.committed[place] = Committed::Held(reason.clone());
    }
}
