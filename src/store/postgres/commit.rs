//! The commit as a whole, and what is done when it fails: again, in parts, or not at all.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{
    attempt::{Attempt, IDS_LEFT_TO_OTHERS, Ids, Mark, Timeouts},
    blockers::{self, Blocker, watched},
    connect::{Database, discard, within},
    errors::{self, Trouble},
    limit::Limit,
};
use crate::{
    clock::Timestamp,
    model::{Answered, Fetched, ObjectId, Reason},
    store::{
        ANY_RECORD, Commit, Committed, StoreError, Telling,
        plan::refusals::{Blame, FailureClass, Fault, Refusals},
        rows,
    },
};

/// How often the whole is tried again after a conflict with other transactions.
const CONFLICT_RETRIES: u32 = 5;

/// How often the whole is tried again after somebody else took an id or a time.
const TAKEN_RETRIES: u32 = 3;

/// The longest an attempt may take as seen from here; the server stops its statements earlier.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest the server lets one statement of an attempt take; of a part of a batch half of that.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest a whole batch waits for one lock. Other programs write in short transactions; one that takes longer was
/// forgotten, or is at work on a table.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for a part of a batch, until parts have waited this long together …
const PART_LOCK_TIMEOUT: Duration = Duration::from_millis(200);
const PART_LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// … and from then on: what is locked was seen to be, and the others are not to wait for it.
const LAST_LOCK_TIMEOUT: Duration = Duration::from_millis(20);

/// With nothing stored, parts are tried no longer than this; then the store is in trouble.
const PARTS_PATIENCE: Duration = Duration::from_secs(20);

/// With nothing of a kind stored, and enough of it refused alike, the rest of it is tried no longer than this.
const REFUSED_PATIENCE: Duration = Duration::from_secs(2);

/// What a commit is about, for messages.
const STORE: &str = "store a batch";

/// What this process has learned from its commits.
#[derive(Debug, Default)]
pub(super) struct Experience {
    refusals: Mutex<Refusals>,
    /// The last commit that came to anything failed as a whole.
    has_failed: AtomicBool,
    ids: Ids,
}

impl Experience {
    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed) || self.refusals().is_suspicious()
    }

    /// Notes what a commit came to. That time was over, or the server away, says nothing about the next one.
    fn note(&self, committed: &Result<Commit, StoreError>) {
        let has_failed = match committed {
            Ok(commit) => commit.trouble.is_some(),
            Err(StoreError::Locked { .. } | StoreError::Failed { .. } | StoreError::NotAllowed { .. }) => true,
            Err(StoreError::Unreachable { .. } | StoreError::ReadOnly { .. } | StoreError::OutOfTime { .. }) => return,
        };
        self.has_failed.store(has_failed, Ordering::Relaxed);
    }
}

/// One call of the store, with everything it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) database: &'a Database,
    pub(super) experience: &'a Experience,
    pub(super) telling: Telling,
    pub(super) now: Timestamp,
    pub(super) told: &'a [i64],
    pub(super) limit: Limit,
}

pub(super) async fn commit(order: Order<'_>, batch: &[Fetched]) -> Result<Commit, StoreError> {
    if batch.is_empty() {
        return Ok(Commit::default());
    }
    let timeouts = Timeouts { statement: STATEMENT_TIMEOUT, lock: LOCK_TIMEOUT };
    // Large futures, and awaited wherever something is stored.
    let committed = match Box::pin(order.whole(batch, timeouts)).await {
        Ok(committed) => {
            let stored = stored(batch, &committed);
            order.experience.refusals().judge(order.now, stored, &[]);
            Ok(committed)
        }
        Err(Failure::Store(error)) => Err(error),
        Err(failure) => Box::pin(order.in_parts(batch, failure)).await,
    };
    order.experience.note(&committed);
    order.database.in_time(order.limit, STORE, committed)
}

/// Those that new rows were written for: they show that the tables take what is inserted.
fn stored<'a>(batch: &'a [Fetched], commit: &'a Commit) -> impl Iterator<Item = &'a ObjectId> {
    let pairs = batch.iter().zip(&commit.committed);
    pairs.filter(|(_, committed)| **committed == Committed::Stored).map(|(fetched, _)| &fetched.object)
}

/// Why a batch, or a part of it, could not be stored.
enum Failure {
    Store(StoreError),
    /// Refused, perhaps because of one record.
    Refused(Fault),
    /// Somebody else's lock, and whose, as far as it is known.
    Locked(Option<Blocker>, sqlx::Error),
    TooSlow(sqlx::Error),
}

impl Order<'_> {
    /// The batch in one transaction, again when others were in the way and there is time left.
    async fn whole(&self, batch: &[Fetched], timeouts: Timeouts) -> Result<Commit, Failure> {
        let Self { database, limit, .. } = *self;
        let (mut conflicts, mut taken, mut is_anew) = (0, 0, false);
        loop {
            let mut connection = database.acquire_within(limit, STORE).await.map_err(Failure::Store)?;
            let attempt = Attempt {
                keeps_statements: database.keeps_statements(),
                now: self.now,
                batch,
                telling: self.telling,
                told: self.told,
                ids: &self.experience.ids,
                more_ids: IDS_LEFT_TO_OTHERS * i64::from(taken),
                timeouts: Timeouts { statement: timeouts.statement.min(limit.left()), ..timeouts },
                mark: Mark::new(),
            };
            let run = AssertUnwindSafe(attempt.run(&mut connection)).catch_unwind();
            let run = within(ATTEMPT_TIMEOUT.min(limit.left()), async { Ok(run.await) });
            let (run, blocker) = watched(database, timeouts.lock / 2, attempt.mark, run).await;
            let error = match run {
                Ok(Ok(Ok(committed))) => return Ok(committed),
                Ok(Ok(Err(error))) | Err(error) => error,
                Ok(Err(_)) => {
                    // Where the conversation with the server stood is not known.
                    discard(connection);
                    tracing::error!(answers = batch.len(), "a commit panicked; this is a defect of the worker");
                    return Err(Failure::Refused(panicked()));
                }
            };
            if database.notice(connection, &error) && !is_anew {
                is_anew = true;
                continue;
            }
            match errors::trouble(&error) {
                Trouble::Conflict if conflicts < CONFLICT_RETRIES => conflicts += 1,
                Trouble::Taken | Trouble::TakenId if taken < TAKEN_RETRIES => taken += 1,
                Trouble::Taken | Trouble::Record => {
                    return Err(Failure::Refused(errors::fault(&error, is_broken(batch))));
                }
                // Another run of ours, whose locks end by themselves: as in any conflict, the whole again.
                Trouble::Locked
                    if conflicts < CONFLICT_RETRIES
                        && blocker.as_ref().is_some_and(|blocker| blocker.is_ours == Some(true)) =>
                {
                    conflicts += 2;
                }
                Trouble::Locked => return Err(Failure::Locked(blocker, error)),
                Trouble::TooSlow => return Err(Failure::TooSlow(error)),
                Trouble::Conflict | Trouble::TakenId | Trouble::Store => {
                    return Err(Failure::Store(errors::store_error(&database.server, STORE, &error)));
                }
            }
            tracing::debug!(error = %error, conflicts, taken, "others were in the way of a batch; it is tried again");
            let longest = Duration::from_millis(10) * 2_u32.pow(conflicts + taken);
            tokio::time::sleep(longest.mul_f64(fastrand::f64()).min(limit.left())).await;
        }
    }

    /// Halves of the batch, and halves of those that fail, down to single records: what stands in the way hurts nobody else.
    async fn in_parts(&self, batch: &[Fetched], failure: Failure) -> Result<Commit, StoreError> {
        let mut blocker = match failure {
            Failure::Locked(blocker, error) => {
                let blocker = match blocker {
                    Some(blocker) => Some(blocker),
                    None => blockers::guess(self.database).await,
                };
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
            // With nothing stored, single records are only a sample of what is locked.
            let is_sample = !stored_any && part.len() == 1 && newest.len() > 1;
            let is_patient = waited < PART_LOCK_PATIENCE && !is_sample;
            let lock = if is_patient { PART_LOCK_TIMEOUT } else { LAST_LOCK_TIMEOUT };
            let timeouts = Timeouts { statement: STATEMENT_TIMEOUT / 2, lock };
            let asked = Instant::now();
            match self.whole(&answers, timeouts).await {
                Ok(committed) => {
                    stored_any = true;
                    together.add_all(part, committed);
                }
                // What was stored is stored: only what is left meets the store's trouble.
                Err(Failure::Store(error)) if stored_any => {
                    let rest = part.iter().chain(parts.rest().flatten());
                    hold(&mut together, rest, &Reason::new("database_fails", error.to_string()));
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
                        && began.elapsed() > PARTS_PATIENCE
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
                    let is_stored = stored(batch, &together).any(|object| object.kind == kind);
                    // It may not be the records' fault, so nothing more is leased; but what was called for is tried, if that
                    // does not take long: all of these may belong to the one broken part of a table.
                    let is_suspicious = !is_stored && alike.count() >= fault.enough();
                    if is_suspicious && !stored_any {
                        self.experience.has_failed.store(true, Ordering::Relaxed);
                    }
                    if is_suspicious && began.elapsed() > REFUSED_PATIENCE {
                        // They were not refused, so they need not wait once the store takes others.
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
                    // One of each pair of neighbours was tried by then.
                    let is_sampled = locked.len() * 2 >= newest.len();
                    if !stored_any && (is_sampled || self.is_hopeless(began, blocker.as_ref())) {
                        return Err(self.locked(blocker.as_ref(), &error));
                    }
                }
                Err(Failure::TooSlow(error)) => {
                    if !stored_any && (newest.len() == 1 || began.elapsed() > PARTS_PATIENCE) {
                        return Err(errors::store_error(&self.database.server, STORE, &error));
                    }
                    slow.push(part[0]);
                }
            }
        }
        if !locked.is_empty() {
            let detail = blocker.as_ref().map_or_else(|| "a row is locked by somebody else".to_owned(), Blocker::told);
            tracing::warn!(requests = locked.len(), "answers could not be stored: {detail}; they are held");
            hold(&mut together, locked.iter(), &Reason::new("row_locked", detail));
        }
        hold(&mut together, slow.iter(), &Reason::new("too_slow", "the database did not store this within 5 s"));
        self.judge(batch, together, &refused, stored_any)
    }

    /// True when parts that all meet locks are not worth more time.
    fn is_hopeless(&self, began: Instant, blocker: Option<&Blocker>) -> bool {
        began.elapsed() > PARTS_PATIENCE
            || self.limit.left().is_zero()
            || blocker.is_some_and(|blocker| blocker.is_whole_table)
    }

    fn locked(&self, blocker: Option<&Blocker>, error: &sqlx::Error) -> StoreError {
        let refusal = errors::described(error);
        let detail = match blocker {
            Some(blocker) => format!("{}: {refusal}", blocker.told()),
            None => refusal,
        };
        blockers::locked(self.database, STORE, detail)
    }

    /// Decides what becomes of the refused, and whether it is the store's trouble.
    fn judge(
        &self,
        batch: &[Fetched],
        mut together: Commit,
        refused: &[(usize, Fault)],
        stored_any: bool,
    ) -> Result<Commit, StoreError> {
        let named: Vec<(ObjectId, Fault)> =
            refused.iter().map(|(place, fault)| (batch[*place].object.clone(), fault.clone())).collect();
        let judged = self.experience.refusals().judge(self.now, stored(batch, &together), &named);
        for ((place, fault), ruling) in refused.iter().zip(judged.rulings) {
            together.committed[*place] = match ruling {
                FailureClass::Poison => Committed::Poison(fault.reason.clone()),
                FailureClass::Hold => Committed::Held(fault.reason.clone()),
            };
        }
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

/// Whether it is one document that is no JSON.
fn is_broken(batch: &[Fetched]) -> bool {
    let [Fetched { answered: Answered::Document(document), .. }] = batch else { return false };
    serde_json::from_str::<serde::de::IgnoredAny>(document.json()).is_err()
}

fn panicked() -> Fault {
    let reason = Reason::new("panicked", "the worker panicked while storing this object");
    Fault { blame: Blame::Either, signature: "panicked".to_owned(), reason }
}

/// The parts of a batch that are still to be tried, the larger ones first: neighbours meet the same obstacles, so what is tried
/// next lies far from what was tried last.
struct Parts<'a> {
    now: VecDeque<&'a [usize]>,
    /// First halves of what failed, and second halves.
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
