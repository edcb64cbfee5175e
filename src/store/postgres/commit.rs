//! The commit as a whole, and what is done when it fails: again, in parts, or not at all.

use std::{
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
    attempt::{Attempt, IDS_LEFT_TO_OTHERS, Ids, Timeouts},
    blockers::{self, Blocker, watched},
    connect::{Database, discard, within},
    errors::{self, Trouble},
    limit::Limit,
};
use crate::{
    clock::Timestamp,
    model::{Fetched, ObjectId, Reason},
    store::{
        Commit, Committed, StoreError, Telling,
        plan::refusals::{Blame, Fault, Refusals, Ruling},
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

/// When this many records are locked and nothing is stored, no more are fetched for it.
const MOST_LOCKED_ALONE: usize = 5;

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
            order.experience.refusals().judge(stored, &[]);
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
            };
            let run = AssertUnwindSafe(attempt.run(&mut connection)).catch_unwind();
            let run = within(ATTEMPT_TIMEOUT.min(limit.left()), async { Ok(run.await) });
            let (run, blocker) = watched(database, timeouts.lock / 2, run).await;
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
                Trouble::Taken | Trouble::Record => return Err(Failure::Refused(errors::fault(&error))),
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
        let mut parts = halves(&newest);
        while let Some(part) = parts.pop() {
            let answers: Vec<Fetched> = part.iter().map(|&place| batch[place].clone()).collect();
            let lock = if waited < PART_LOCK_PATIENCE { PART_LOCK_TIMEOUT } else { LAST_LOCK_TIMEOUT };
            let timeouts = Timeouts { statement: STATEMENT_TIMEOUT / 2, lock };
            let asked = Instant::now();
            match self.whole(&answers, timeouts).await {
                Ok(committed) => {
                    stored_any = true;
                    together.add_all(part, committed);
                }
                // What was stored is stored: only what is left meets the store's trouble.
                Err(Failure::Store(error)) if stored_any => {
                    let rest = part.iter().chain(parts.iter().flat_map(|part| part.iter()));
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
                        if !stored_any && self.is_hopeless(began, 0, blocker.as_ref()) {
                            return Err(self.locked(blocker.as_ref(), error));
                        }
                    }
                    if let Failure::TooSlow(error) = &failure
                        && !stored_any
                        && began.elapsed() > PARTS_PATIENCE
                    {
                        return Err(errors::store_error(&self.database.server, STORE, error));
                    }
                    parts.extend(halves(part));
                }
                Err(Failure::Refused(fault)) => {
                    let kind = batch[part[0]].object.kind;
                    refused.push((part[0], fault.clone()));
                    let alike = refused.iter().filter(|(place, other)| {
                        batch[*place].object.kind == kind && other.signature == fault.signature
                    });
                    let is_stored = stored(batch, &together).any(|object| object.kind == kind);
                    // It is not the records' fault: the rest of the kind would only cost time, while calls go on.
                    if !is_stored && alike.count() >= fault.enough() {
                        parts.retain(|part| {
                            let is_hopeless = part.iter().all(|&place| batch[place].object.kind == kind);
                            if is_hopeless {
                                hold(&mut together, part.iter(), &fault.reason);
                            }
                            !is_hopeless
                        });
                    }
                }
                Err(Failure::Locked(seen, error)) => {
                    waited += asked.elapsed();
                    blocker = seen.or(blocker);
                    locked.push(part[0]);
                    if !stored_any && self.is_hopeless(began, locked.len(), blocker.as_ref()) {
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
    fn is_hopeless(&self, began: Instant, locked: usize, blocker: Option<&Blocker>) -> bool {
        locked >= MOST_LOCKED_ALONE
            || began.elapsed() > PARTS_PATIENCE
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
        let judged = self.experience.refusals().judge(stored(batch, &together), &named);
        for ((place, fault), ruling) in refused.iter().zip(judged.rulings) {
            together.committed[*place] = match ruling {
                Ruling::Poison => Committed::Poison(fault.reason.clone()),
                Ruling::Hold => Committed::Held(fault.reason.clone()),
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
        Err(StoreError::Failed { server: self.database.server.clone(), action: "store any record", detail })
    }
}

fn panicked() -> Fault {
    let reason = Reason::new("panicked", "the worker panicked while storing this object");
    Fault { blame: Blame::Either, signature: "panicked".to_owned(), reason }
}

/// The second half first: the last part is tried next.
fn halves(places: &[usize]) -> Vec<&[usize]> {
    let (first, second) = places.split_at(places.len().div_ceil(2));
    [second, first].into_iter().filter(|half| !half.is_empty()).collect()
}

fn hold<'a>(commit: &mut Commit, places: impl Iterator<Item = &'a usize>, reason: &Reason) {
    for &place in places {
        commit.committed[place] = Committed::Held(reason.clone());
    }
}
