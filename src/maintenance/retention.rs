//! Retention: deletes old snapshots, keeping the newest per object and day.
//!
//! Talks to the database only. Goes day by day from the oldest on, in small batches, each a transaction of its own, so that it may
//! end anywhere and continues there. **Invariant: the newest row of an object, and the row that `refresh_state` names,
//! are never deleted.** Days are whole days of UTC, as the times of the tables are.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};
use time::{Date, PrimitiveDateTime, Time};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::database::{Database, begin, describe, is_missing_table, is_out_of_time, limited};
use crate::{clock::Timestamp, columns::TableTime, model::Kind};

/// The most rows that one transaction deletes: a few tens of milliseconds.
const MAX_BATCH: i64 = 1000;

/// The timeout of one batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of counting, which may read every old row.
const COUNT_TIMEOUT: Duration = Duration::from_secs(600);

/// No batch begins with less time than this.
pub const MIN_BATCH_TIME: Duration = Duration::from_millis(500);

/// Our advisory lock: the letters `rfrt`.
const LOCK: i64 = 0x7266_7274;

const THIN: &str = include_str!("sql/retention_thin.sql");
const COUNT: &str = include_str!("sql/retention_count.sql");
const FROM: &str = include_str!("sql/retention_from.sql");
const NOTE: &str = include_str!("sql/retention_note.sql");

const TABLES: [(Kind, &str, &str); 3] = [
    (Kind::Clan, "clan_snapshots", "clan_tag"),
    (Kind::Player, "player_snapshots", "player_tag"),
    (Kind::War, "war_snapshots", "clan_tag"),
];

/// Thins snapshots older than a number of days.
#[derive(Clone, Debug)]
pub struct Retention {
    database: Database,
    days: u32,
    /// The day up to which each table is known to be thinned; spares later runs in this process the statements.
    known: Arc<Mutex<HashMap<&'static str, Date>>>,
}

/// The result of thinning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Thinned {
    pub deleted: u64,
    /// True when more is left to be thinned.
    pub more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The rows of one table that would be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outlook {
    pub table: &'static str,
    pub would_go: u64,
    /// The rows of the same days that would stay.
    pub would_stay: u64,
}

/// A table that could not be thinned.
#[derive(Debug, thiserror::Error)]
#[error("cannot thin {table}: {detail}")]
pub struct RetentionError {
    table: &'static str,
    detail: String,
}

/// The result of one batch.
enum Batch {
    Deleted { rows: u64, next: Option<Stretch> },
    AnotherRun,
}

/// The rest of a day.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Everything of the day before this time was checked.
    from: PrimitiveDateTime,
    /// The day's end.
    end: PrimitiveDateTime,
}

impl Stretch {
    fn day(day: PrimitiveDateTime) -> Self {
        Self { from: day, end: day + time::Duration::DAY }
    }
}

impl Retention {
    #[must_use]
    pub fn new(database: impl Into<Database>, days: u32) -> Self {
        Self { database: database.into(), days, known: Arc::default() }
    }

    /// Deletes batch after batch until everything is thinned or the time is up.
    pub async fn thin(&self, now: Timestamp, until: Instant) -> Thinned {
        let mut thinned = Thinned::default();
        let end = self.kept_from(now);
        for (kind, table, tag) in TABLES {
            // Thinned already today by this process.
            if self.thinned_until(table).is_some_and(|done| done >= end) {
                continue;
            }
            match self.thin_table(kind, table, tag, now, until, &mut thinned.deleted).await {
                Ok(true) => self.remember_thinned(table, end),
                Ok(false) => thinned.more = true,
                Err(error) => {
                    warn!("retention: {error}");
                    thinned.failure = Some(error.to_string());
                    // The other tables are in the same database.
                    thinned.more = true;
                    break;
                }
            }
        }
        if thinned.deleted > 0 {
            debug!(deleted = thinned.deleted, more = thinned.more, "retention: thinned old snapshots");
        }
        thinned
    }

    /// Counts what [`Self::thin`] would delete; changes nothing.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub async fn outlook(&self, now: Timestamp) -> Result<Vec<Outlook>, RetentionError> {
        let mut outlooks = Vec::new();
        for (kind, table, tag) in TABLES {
            let counted = self.database.within(COUNT_TIMEOUT, async {
                let mut transaction = begin(&self.database.pool, COUNT_TIMEOUT).await?;
                let end = midnight(self.kept_from(now));
                let from = first_day(&mut transaction, table, end).await?.unwrap_or(end);
                let counts: (i64, i64) = sqlx::query_as(AssertSqlSafe(of_table(COUNT, table, tag)))
                    .persistent(false)
                    .bind(from)
                    .bind(end)
                    .bind(kind.as_str())
                    .fetch_one(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                Ok(counts)
            });
            let (goes, stays) = counted.await.map_err(|error| failed(table, &error))?;
            let count = |number: i64| u64::try_from(number).unwrap_or(0);
            outlooks.push(Outlook { table, would_go: count(goes), would_stay: count(stays) });
        }
        Ok(outlooks)
    }

    /// The first day that is kept whole.
    fn kept_from(&self, now: Timestamp) -> Date {
        let today = now.to_utc().date();
        // An absurd number of days keeps everything.
        today.checked_sub(time::Duration::days(i64::from(self.days))).unwrap_or(Date::MIN)
    }

    /// Thins one table; true when it came to the end.
    async fn thin_table(
        &self,
        kind: Kind,
        table: &'static str,
        tag: &'static str,
        now: Timestamp,
        until: Instant,
        deleted: &mut u64,
    ) -> Result<bool, RetentionError> {
        let end = midnight(self.kept_from(now));
        let mut stretch = None;
        loop {
            let limit = limited(BATCH_TIMEOUT, until);
            // A shorter batch would probably be cut off for nothing.
            if limit < MIN_BATCH_TIME {
                return Ok(false);
            }
            let step = async {
                match stretch {
                    None => Ok(Batch::Deleted { rows: 0, next: self.first(table, end, limit).await? }),
                    Some(stretch) => self.batch(kind, table, tag, stretch, (now, end), limit).await,
                }
            };
            match self.database.within(limit, step).await {
                Ok(Batch::AnotherRun) => return Ok(false),
                Ok(Batch::Deleted { rows, next }) => {
                    *deleted += rows;
                    if next.is_none() {
                        return Ok(true);
                    }
                    stretch = next;
                }
                // The batch ran out of the run's time and was rolled back. A later run goes on, so this is not a failure.
                Err(error) if is_out_of_time(&error, until) => return Ok(false),
                Err(error) => return Err(failed(table, &error)),
            }
        }
    }

    /// Finds the first day before `end` that is not thinned and has a row.
    async fn first(
        &self,
        table: &'static str,
        end: PrimitiveDateTime,
        limit: Duration,
    ) -> Result<Option<Stretch>, sqlx::Error> {
        let mut transaction = begin(&self.database.pool, limit).await?;
        let day = first_day(&mut transaction, table, end).await?;
        transaction.commit().await?;
        Ok(day.map(Stretch::day))
    }

    /// Deletes one batch of a day. When the batch is not full, the day is done: that is written down, and the next day with a row
    /// follows.
    async fn batch(
        &self,
        kind: Kind,
        table: &'static str,
        tag: &'static str,
        stretch: Stretch,
        (now, end): (Timestamp, PrimitiveDateTime),
        limit: Duration,
    ) -> Result<Batch, sqlx::Error> {
        let mut transaction = begin(&self.database.pool, limit).await?;
        let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .persistent(false)
            .bind(LOCK)
            .fetch_one(&mut *transaction)
            .await?;
        // Another run thins this table; two would only wait for each other's rows.
        if !alone {
            transaction.rollback().await?;
            return Ok(Batch::AnotherRun);
        }
        let (rows, last): (i64, Option<TableTime>) = sqlx::query_as(AssertSqlSafe(of_table(THIN, table, tag)))
            .persistent(false)
            .bind(stretch.from)
            .bind(stretch.end)
            .bind(MAX_BATCH)
            .bind(kind.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        let next = match last {
            // The rows before the last deleted one were checked, and stay.
            Some(last) if rows >= MAX_BATCH => Some(Stretch { from: last.into(), ..stretch }),
            _ => {
                note(&mut transaction, table, stretch.end, now).await?;
                let next = first_day(&mut transaction, table, end).await?;
                if next.is_none() {
                    // No old row is left, so later runs of any process need not search the days up to `end`.
                    note(&mut transaction, table, end, now).await?;
                }
                next.map(Stretch::day)
            }
        };
        transaction.commit().await?;
        Ok(Batch::Deleted { rows: rows.unsigned_abs(), next })
    }

    fn thinned_until(&self, table: &'static str) -> Option<Date> {
        self.known.lock().get(table).copied()
    }

    fn remember_thinned(&self, table: &'static str, day: Date) {
        self.known.lock().insert(table, day);
    }
}

async fn first_day(
    connection: &mut PgConnection,
    table: &'static str,
    end: PrimitiveDateTime,
) -> Result<Option<PrimitiveDateTime>, sqlx::Error> {
    let day: Option<TableTime> = sqlx::query_scalar(AssertSqlSafe(of_table(FROM, table, "")))
        .persistent(false)
        .bind(table)
        .bind(end)
        .fetch_one(connection)
        .await?;
    Ok(day.map(Into::into))
}

/// Writes down that everything before that day is thinned.
async fn note(
    connection: &mut PgConnection,
    table: &'static str,
    until: PrimitiveDateTime,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let noted = sqlx::query(NOTE).persistent(false).bind(table).bind(until).bind(now.to_utc());
    noted.execute(connection).await.map(drop)
}

/// The statement for one of [`TABLES`].
fn of_table(sql: &str, table: &str, tag: &str) -> String {
    sql.replace("{table}", table).replace("{tag}", tag)
}

const fn midnight(day: Date) -> PrimitiveDateTime {
    PrimitiveDateTime::new(day, Time::MIDNIGHT)
}

fn failed(table: &'static str, error: &sqlx::Error) -> RetentionError {
    let hint = if is_missing_table(error) { "; run: refresh-worker migrate" } else { "" };
    RetentionError { table, detail: format!("{}{hint}", describe(error)) }
}
