//! The planned looks: lessons within a commit, and what a run asks of the plan.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    PostgresStore,
    attempt::{self, Timeouts},
    connect::{on_connection, on_single},
};
use crate::{
    clock::Timestamp,
    columns::from_row,
    model::ObjectId,
    planner::Level,
    store::{
        Arm, Candidate, Looks, MAX_DELETED_LOOKS, NextLooks, RecordedLook, Seen, StoreError, Walked,
        lessons::{self, PlanWrite, Record, Stored, StoredLevel, StoredPlan, Subjects, Taught},
        looks::{PutOff, Unplanned, far_ahead, latest, plan_unplanned},
        plan::times::{TableTime, from_utc},
    },
};

const LESSONS_READ: &str = include_str!("../sql/postgres/lessons_read.sql");
const LESSONS_WRITE: &str = include_str!("../sql/postgres/lessons_write.sql");
const NEXT_LOOKS: &str = include_str!("../sql/postgres/next_looks.sql");
const LOOKS_UNPLAN: &str = include_str!("../sql/postgres/looks_unplan.sql");
const PUT_OFF: &str = include_str!("../sql/postgres/put_off.sql");
const LEVEL_MOVE: &str = include_str!("../sql/postgres/level_move.sql");
const WALK_BEGIN: &str = include_str!("../sql/postgres/walk_begin.sql");
const WALK_READ: &str = include_str!("../sql/postgres/walk_read.sql");
const WALK_CORRECT: &str = include_str!("../sql/postgres/walk_correct.sql");
const WALK_STEP: &str = include_str!("../sql/postgres/walk_step.sql");
const LOOKS_READ: &str = include_str!("../sql/postgres/looks_read.sql");
const LOOKS_DELETE: &str = include_str!("../sql/postgres/looks_delete.sql");

/// The kind of the rows that hold a level.
const LEVEL: &str = "level";

/// The limit of a step of the walk: it reads and writes up to some thousand rows.
const WALK_TIMEOUT: Duration = Duration::from_secs(20);

/// A frozen run must not hold its step for long: commits wait for new places in the plan.
const STEP_TIMEOUTS: Timeouts = Timeouts { statement: Duration::from_secs(10), lock: Duration::from_secs(2) };

struct PlanRow {
    kind: String,
    tag: String,
    looked_at: Option<TableTime>,
    next_look: TableTime,
    heard_at: Option<TableTime>,
    changes: f32,
    watched: f32,
    mails: f32,
    exposed: f32,
    bucket: i16,
    hinted: bool,
    fresh_until: Option<TableTime>,
}

from_row!(postgres: PlanRow {
    kind, tag, looked_at, next_look, heard_at, changes, watched, mails, exposed, bucket, hinted, fresh_until,
});

impl From<PlanRow> for StoredPlan {
    fn from(row: PlanRow) -> Self {
        Self {
            kind: row.kind,
            tag: row.tag,
            looked_at: row.looked_at.map(from_utc),
            next_look: from_utc(row.next_look),
            heard_at: row.heard_at.map(from_utc),
            changes: row.changes.into(),
            watched: row.watched.into(),
            mails: row.mails.into(),
            exposed: row.exposed.into(),
            bucket: row.bucket.into(),
            hinted: row.hinted,
            fresh_until: row.fresh_until.map(from_utc),
        }
    }
}

/// A place in the plan, or a level.
struct LessonRow {
    plan: PlanRow,
    ln_level: Option<f64>,
}

impl sqlx::FromRow<'_, sqlx::postgres::PgRow> for LessonRow {
    fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        use sqlx::Row as _;
        Ok(Self { plan: PlanRow::from_row(row)?, ln_level: row.try_get("ln_level")? })
    }
}

struct WalkRow {
    kind: String,
    tag: String,
    is_finished: bool,
}

from_row!(postgres: WalkRow { kind, tag, is_finished });

struct WalkedRow {
    kind: String,
    tag: String,
    fetched_at: Option<TableTime>,
    is_planned: bool,
    clan_tag: Option<String>,
}

from_row!(postgres: WalkedRow { kind, tag, fetched_at, is_planned, clan_tag });

struct LookRow {
    at: TableTime,
    kind: String,
    tag: String,
    changed: Option<bool>,
    asked_at: Option<TableTime>,
}

from_row!(postgres: LookRow { at, kind, tag, changed, asked_at });

impl LookRow {
    fn read(self) -> Option<RecordedLook> {
        let object = ObjectId::new(self.kind.parse().ok()?, self.tag.parse().ok()?);
        let seen = match self.changed {
            Some(changed) => Seen::Response { changed, asked: self.asked_at.map(from_utc) },
            None => Seen::ActiveMember,
        };
        Some(RecordedLook { at: from_utc(self.at), object, seen })
    }
}

/// Reads what is stored about the objects of a commit.
pub(super) async fn read_for_lessons(
    connection: &mut PgConnection,
    subjects: &Subjects<'_>,
    keeps: bool,
) -> Result<Stored, sqlx::Error> {
    let (kinds, tags): (Vec<&str>, Vec<&str>) =
        subjects.names().map(|(kind, tag)| (kind.as_str(), tag.as_str())).unzip();
    let rows: Vec<LessonRow> = sqlx::query_as(LESSONS_READ)
        .persistent(keeps)
        .bind(kinds)
        .bind(tags)
        .bind(subjects.are_members().collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let (levels, plans): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.plan.kind == LEVEL);
    let level = |row: LessonRow| {
        let plan = StoredPlan::from(row.plan);
        let listening_since = plan.looked_at.unwrap_or_default();
        StoredLevel { arm: plan.tag, logarithm: row.ln_level.unwrap_or_default(), listening_since }
    };
    Ok(Stored::new(plans.into_iter().map(|row| row.plan.into()).collect(), levels.into_iter().map(level).collect()))
}

/// Writes the lessons of a commit.
pub(super) async fn write_lessons(
    connection: &mut PgConnection,
    taught: &Taught<'_>,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    if taught.is_empty() {
        return Ok(());
    }
    let Taught { rows, recorded, .. } = taught;
    let counts: Vec<[f32; 4]> = rows.iter().map(PlanWrite::counts).collect();
    let count = |which: usize| counts.iter().map(|counts| counts[which]).collect::<Vec<f32>>();
    let changed = |record: &Record<'_>| match record.seen {
        Seen::Response { changed, .. } => Some(changed),
        Seen::ActiveMember => None,
    };
    let asked = |record: &Record<'_>| match record.seen {
        Seen::Response { asked, .. } => asked.map(Timestamp::to_utc),
        Seen::ActiveMember => None,
    };
    sqlx::query(LESSONS_WRITE)
        .persistent(keeps)
        .bind(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.tag.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.known.looked_at.map(Timestamp::to_utc)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.next_look.to_utc()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.known.heard_at.map(Timestamp::to_utc)).collect::<Vec<_>>())
        .bind(count(0))
        .bind(count(1))
        .bind(count(2))
        .bind(count(3))
        .bind(rows.iter().map(|row| column(row.bucket)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.known.hinted).collect::<Vec<_>>())
        .bind(recorded.iter().map(|record| record.at.to_utc()).collect::<Vec<_>>())
        .bind(recorded.iter().map(|record| record.kind.as_str()).collect::<Vec<_>>())
        .bind(recorded.iter().map(|record| record.tag.as_str()).collect::<Vec<_>>())
        .bind(recorded.iter().map(changed).collect::<Vec<_>>())
        .bind(recorded.iter().map(|record| (record.seen == Seen::ActiveMember).then_some(true)).collect::<Vec<_>>())
        .bind(recorded.iter().map(asked).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// A bucket as its column holds it.
fn column(bucket: u16) -> i16 {
    i16::try_from(bucket).unwrap_or(i16::MAX)
}

/// A step of the walk over all known objects.
pub(super) async fn walk(
    connection: &mut PgConnection,
    now: Timestamp,
    longest: Duration,
    limit: usize,
    keeps: bool,
) -> Result<Walked, sqlx::Error> {
    const DONE: Walked = Walked { planned: 0, is_finished: true };
    // The row's lock makes runs that overlap walk one after the other.
    let at: Option<WalkRow> =
        sqlx::query_as(WALK_BEGIN).persistent(keeps).bind(now.to_utc()).fetch_optional(&mut *connection).await?;
    let Some(at) = at.filter(|at| !at.is_finished) else { return Ok(DONE) };
    let rows: Vec<WalkedRow> = sqlx::query_as(WALK_READ)
        .persistent(keeps)
        .bind(&at.kind)
        .bind(&at.tag)
        .bind(count(limit))
        .fetch_all(&mut *connection)
        .await?;
    let is_finished = rows.len() < limit;
    let (kind, tag) = rows.last().map_or((at.kind, at.tag), |last| (last.kind.clone(), last.tag.clone()));
    let unplanned: Vec<Unplanned> = rows
        .into_iter()
        .filter(|row| !row.is_planned)
        .filter_map(|row| Unplanned::read(&row.kind, &row.tag, row.fetched_at.map(from_utc), row.clan_tag.as_deref()))
        .collect();
    let rows = plan_unplanned(&unplanned, now, longest);
    sqlx::query(WALK_STEP)
        .persistent(keeps)
        .bind(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.tag.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.known.looked_at.map(Timestamp::to_utc)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.next_look.to_utc()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| column(row.bucket)).collect::<Vec<_>>())
        .bind(kind)
        .bind(tag)
        .bind(is_finished.then(|| now.to_utc()))
        .execute(&mut *connection)
        .await?;
    sqlx::query(WALK_CORRECT)
        .persistent(keeps)
        .bind(far_ahead(now, longest).to_utc())
        .bind(longest.as_secs_f64())
        .bind(now.to_utc())
        .execute(connection)
        .await?;
    Ok(Walked { planned: rows.len(), is_finished })
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Looks for PostgresStore {
    async fn next_looks(&self, ask: NextLooks<'_>) -> Result<Vec<Candidate>, StoreError> {
        let database = &self.database;
        let (first, last) = ask.buckets;
        let after = ask.after.map(|after| (after.next_look, &after.object));
        let rows: Result<Vec<PlanRow>, StoreError> =
            on_single!(database, "read the next looks", |connection, keeps| {
                sqlx::query_as(NEXT_LOOKS)
                    .persistent(keeps)
                    .bind(ask.until.to_utc())
                    .bind(after.map(|(at, _)| at.to_utc()))
                    .bind(after.map_or("", |(_, object)| object.kind.as_str()))
                    .bind(after.map_or("", |(_, object)| object.tag.as_str()))
                    .bind(i32::from(first))
                    .bind(i32::from(last))
                    .bind(count(ask.limit))
                    .fetch_all(connection)
            });
        let (mut candidates, mut odd) = (Vec::new(), Vec::new());
        for row in rows? {
            let row = StoredPlan::from(row);
            let name = (row.kind.clone(), row.tag.clone());
            match row.into_candidate(ask.now) {
                Some(candidate) => candidates.push(candidate),
                None => odd.push(name),
            }
        }
        if !odd.is_empty() {
            // Nothing could ever be done for them, and they would stand at the head of the plan for good.
            let (kinds, tags): (Vec<String>, Vec<String>) = odd.into_iter().unzip();
            let deleted: Result<_, StoreError> =
                on_single!(database, "delete looks at nothing", |connection, keeps| {
                    sqlx::query(LOOKS_UNPLAN).persistent(keeps).bind(&kinds).bind(&tags).execute(connection)
                });
            deleted?;
        }
        Ok(candidates)
    }

    async fn put_off(&self, looks: &[PutOff]) -> Result<(), StoreError> {
        if looks.is_empty() {
            return Ok(());
        }
        let database = &self.database;
        let looks = latest(looks);
        let done: Result<_, StoreError> = on_single!(database, "put looks off", |connection, keeps| {
            sqlx::query(PUT_OFF)
                .persistent(keeps)
                .bind(looks.iter().map(|look| look.object.kind.as_str()).collect::<Vec<_>>())
                .bind(looks.iter().map(|look| look.object.tag.as_str()).collect::<Vec<_>>())
                .bind(looks.iter().map(|look| look.until.to_utc()).collect::<Vec<_>>())
                .bind(looks.iter().map(|look| look.seen.is_some()).collect::<Vec<_>>())
                .bind(
                    looks
                        .iter()
                        .map(|look| look.seen.and_then(|(at, _)| at).map(Timestamp::to_utc))
                        .collect::<Vec<_>>(),
                )
                .bind(looks.iter().map(|look| look.seen.is_some_and(|(_, hinted)| hinted)).collect::<Vec<_>>())
                .execute(connection)
        });
        done.map(drop)
    }

    async fn level(&self, arm: Arm) -> Result<Level, StoreError> {
        let database = &self.database;
        let logarithm: Result<Option<f64>, StoreError> = on_single!(database, "read the level", |connection, keeps| {
            sqlx::query_scalar("SELECT ln_level FROM refresh_worker.plan_level WHERE arm = $1")
                .persistent(keeps)
                .bind(arm.as_str())
                .fetch_optional(connection)
        });
        Ok(logarithm?.map_or_else(Level::default, lessons::level))
    }

    async fn move_level(&self, arm: Arm, step: f64, now: Timestamp) -> Result<Level, StoreError> {
        let database = &self.database;
        let step = if step.is_finite() { step } else { 0.0 };
        let logarithm: Result<f64, StoreError> = on_single!(database, "move the level", |connection, keeps| {
            sqlx::query_scalar(LEVEL_MOVE)
                .persistent(keeps)
                .bind(arm.as_str())
                .bind(step)
                .bind(now.to_utc())
                .fetch_one(connection)
        });
        logarithm.map(lessons::level)
    }

    async fn plan_known_objects(&self, now: Timestamp, longest: Duration, limit: usize) -> Result<Walked, StoreError> {
        let database = &self.database;
        on_connection!(
            database,
            database.acquire(),
            WALK_TIMEOUT,
            "plan looks at known objects",
            |connection, keeps| {
                async {
                    let mut transaction = connection.begin_with(AssertSqlSafe(attempt::begin(STEP_TIMEOUTS))).await?;
                    let walked = walk(&mut transaction, now, longest, limit, keeps).await?;
                    transaction.commit().await?;
                    Ok(walked)
                }
            }
        )
    }

    async fn planned_objects(&self) -> Result<u64, StoreError> {
        let database = &self.database;
        // An estimate of the server's: a count would read a million rows. It is negative until the table was analyzed.
        let about: Result<Option<f32>, StoreError> =
            on_single!(database, "count the planned looks", |connection, keeps| {
                sqlx::query_scalar(
                    "SELECT reltuples FROM pg_catalog.pg_class WHERE oid = 'refresh_worker.plan'::regclass",
                )
                .persistent(keeps)
                .fetch_optional(connection)
            });
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of rows, or negative")]
        about.map(|about| about.unwrap_or_default() as u64)
    }

    fn stretch_longest(&self, longest: Duration) {
        self.longest.set(longest);
    }

    async fn plan_of(&self, object: &ObjectId, now: Timestamp) -> Result<Option<Candidate>, StoreError> {
        let database = &self.database;
        let rows: Result<Vec<PlanRow>, StoreError> =
            on_single!(database, "read the plan of an object", |connection, keeps| {
                sqlx::query_as(LESSONS_READ)
                    .persistent(keeps)
                    .bind(vec![object.kind.as_str()])
                    .bind(vec![object.tag.as_str()])
                    .bind(vec![true])
                    .fetch_all(connection)
            });
        let row = rows?.into_iter().find(|row| row.kind != LEVEL);
        Ok(row.and_then(|row| StoredPlan::from(row).into_candidate(now)))
    }

    async fn looks(&self, from: Timestamp, until: Timestamp) -> Result<Vec<RecordedLook>, StoreError> {
        let database = &self.database;
        let rows: Result<Vec<LookRow>, StoreError> =
            on_single!(database, database.acquire(), WALK_TIMEOUT, "read the recorded looks", |connection, keeps| {
                sqlx::query_as(LOOKS_READ)
                    .persistent(keeps)
                    .bind(from.to_utc())
                    .bind(until.to_utc())
                    .fetch_all(connection)
            });
        Ok(rows?.into_iter().filter_map(LookRow::read).collect())
    }

    async fn delete_looks(&self, before: Timestamp) -> Result<u64, StoreError> {
        let database = &self.database;
        let deleted: Result<_, StoreError> =
            on_single!(database, "delete old records of looks", |connection, keeps| {
                sqlx::query(LOOKS_DELETE)
                    .persistent(keeps)
                    .bind(before.to_utc())
                    .bind(count(MAX_DELETED_LOOKS))
                    .execute(connection)
            });
        deleted.map(|deleted| deleted.rows_affected())
    }
}
