//! The commit as a whole, and what is done when it fails: again, one by one, or not at all.

use std::time::Duration;

use super::{
    attempt::Attempt,
    connect::{Database, within},
    errors::{self, Trouble},
    limit::Limit,
};
use crate::{
    clock::Timestamp,
    model::Fetched,
    store::{Commit, Committed, StoreError, Telling, plan::SUSPICIOUS_FAILURES, rows},
};

/// How often the whole is tried again after a conflict with other transactions.
const CONFLICT_RETRIES: u32 = 5;

/// How often the whole is tried again after somebody else took an id or a time.
const TAKEN_RETRIES: u32 = 3;

/// How far beyond the highest id a retry goes, so that those who go on with `max(id) + 1` meanwhile do not meet it.
const IDS_LEFT_TO_OTHERS: i64 = 200;

/// The longest an attempt may take as seen from here; the server stops its statements earlier.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest the server lets one statement of an attempt take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a commit is about, for messages.
const STORE: &str = "store a batch";

pub(super) async fn commit(
    database: &Database,
    telling: Telling,
    now: Timestamp,
    batch: &[Fetched],
    told: &[i64],
    limit: Limit,
) -> Result<Commit, StoreError> {
    if batch.is_empty() {
        return Ok(Commit::default());
    }
    let committed = match whole(database, telling, now, batch, told, limit).await {
        Ok(committed) => Ok(committed),
        Err(Failure::Store(error)) => Err(error),
        Err(Failure::Record(_)) => one_by_one(database, telling, now, batch, told, limit).await,
    };
    database.in_time(limit, STORE, committed)
}

/// Why a batch could not be stored as a whole.
enum Failure {
    Store(StoreError),
    Record(sqlx::Error),
}

/// The batch in one transaction, again when others were in the way and there is time left.
async fn whole(
    database: &Database,
    telling: Telling,
    now: Timestamp,
    batch: &[Fetched],
    told: &[i64],
    limit: Limit,
) -> Result<Commit, Failure> {
    let (mut conflicts, mut taken, mut is_anew) = (0, 0, false);
    loop {
        let mut connection = database.acquire_within(limit, STORE).await.map_err(Failure::Store)?;
        let attempt = Attempt {
            keeps_statements: database.keeps_statements(),
            now,
            batch,
            telling,
            told,
            ids_left: IDS_LEFT_TO_OTHERS * i64::from(taken),
            statement_timeout: STATEMENT_TIMEOUT.min(limit.left()),
        };
        let error = match within(ATTEMPT_TIMEOUT.min(limit.left()), attempt.run(&mut connection)).await {
            Ok(committed) => return Ok(committed),
            Err(error) => error,
        };
        if database.notice(connection, &error) && !is_anew {
            is_anew = true;
            continue;
        }
        match errors::trouble(&error) {
            Trouble::Conflict if conflicts < CONFLICT_RETRIES => conflicts += 1,
            Trouble::Taken | Trouble::TakenId if taken < TAKEN_RETRIES => taken += 1,
            Trouble::Taken | Trouble::Record => return Err(Failure::Record(error)),
            Trouble::Conflict | Trouble::TakenId | Trouble::Store => {
                return Err(Failure::Store(errors::store_error(&database.server, STORE, &error)));
            }
        }
        tracing::debug!(error = %error, conflicts, taken, "others were in the way of a batch; it is tried again");
        let longest = Duration::from_millis(10) * 2_u32.pow(conflicts + taken);
        tokio::time::sleep(longest.mul_f64(fastrand::f64()).min(limit.left())).await;
    }
}

/// Each record in a transaction of its own, so that a bad one hurts only itself.
async fn one_by_one(
    database: &Database,
    telling: Telling,
    now: Timestamp,
    batch: &[Fetched],
    told: &[i64],
    limit: Limit,
) -> Result<Commit, StoreError> {
    let mut together = Commit::of_nothing(batch.len());
    let newest = rows::newest_answers(batch);
    let mut refused: Vec<sqlx::Error> = Vec::new();
    for &place in &newest {
        match whole(database, telling, now, &batch[place..=place], told, limit).await {
            Ok(one) => together.add(place, one),
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Record(error)) => {
                together.committed[place] = Committed::Poison(errors::reason(&error));
                refused.push(error);
            }
        }
    }
    let all_alike = refused.windows(2).all(|pair| errors::code(&pair[0]) == errors::code(&pair[1]));
    match refused.last() {
        Some(error) if refused.len() == newest.len() && refused.len() >= SUSPICIOUS_FAILURES && all_alike => {
            Err(errors::store_error(&database.server, "store any record", error))
        }
        _ => Ok(together),
    }
}
