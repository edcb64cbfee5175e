//! The planned looks, as in PostgreSQL: lessons within a commit, and what a run asks of the plan.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{
    SqliteStore, count,
    values::{from_text, json, to_text},
};
use crate::{
    clock::Timestamp,
    columns::from_row,
    model::ObjectId,
    planner::Level,
    store::{
        Arm, Candidate, Looks, MAX_DELETED_LOOKS, NextLooks, RecordedLook, Seen, StoreError, Walked,
        lessons::{self, PlanWrite, Stored, StoredLevel, StoredPlan, Subjects, Taught},
        looks::{PutOff, Unplanned, far_ahead, latest, plan_unplanned},
        plan::CLOCK_TOLERANCE,
    },
};

/// After this long without a step of the level, or of the walk over known objects, the planner was off in between.
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// A finished walk over known objects begins anew after this: a run without the planner may have stored new ones.
const WALK_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

struct PlanRow {
    kind: String,
    tag: String,
    looked_at: Option<String>,
    next_look: String,
    heard_at: Option<String>,
    changes: f64,
    watched: f64,
    mails: f64,
    exposed: f64,
    bucket: i64,
    hinted: i64,
    fresh_until: Option<String>,
}

from_row!(sqlite: PlanRow {
    kind, tag, looked_at, next_look, heard_at, changes, watched, mails, exposed, bucket, hinted, fresh_until,
});

impl From<PlanRow> for StoredPlan {
    fn from(row: PlanRow) -> Self {
        let time = |text: Option<String>| text.as_deref().and_then(from_text);
        Self {
            kind: row.kind,
            tag: row.tag,
            looked_at: time(row.looked_at),
            next_look: from_text(&row.next_look).unwrap_or_default(),
            heard_at: time(row.heard_at),
            changes: row.changes,
            watched: row.watched,
            mails: row.mails,
            exposed: row.exposed,
            bucket: row.bucket,
            hinted: row.hinted != 0,
            fresh_until: time(row.fresh_until),
        }
    }
}

struct WalkedRow {
    kind: String,
    tag: String,
    fetched_at: Option<String>,
    is_planned: bool,
    clan_tag: Option<String>,
}

from_row!(sqlite: WalkedRow { kind, tag, fetched_at, is_planned, clan_tag });

/// Reads what is stored about the objects of a commit.
pub(super) async fn read_for_lessons(
    db: &mut SqliteConnection,
    subjects: &Subjects<'_>,
) -> Result<Stored, sqlx::Error> {
    let names: Vec<_> = subjects.names().collect();
    let rows: Vec<PlanRow> =
        sqlx::query_as(include_str!("../sql/sqlite/plan_read.sql")).bind(json(&names)).fetch_all(&mut *db).await?;
    let levels: Vec<(String, f64, String)> = sqlx::query_as(
        "select arm, cast(ln_level as real), cast(listening_since as text) from refresh_worker_plan_level",
    )
    .fetch_all(db)
    .await?;
    let level = |(arm, logarithm, since): (String, f64, String)| StoredLevel {
        arm,
        logarithm,
        listening_since: from_text(&since).unwrap_or_default(),
    };
    Ok(Stored::new(rows.into_iter().map(Into::into).collect(), levels.into_iter().map(level).collect()))
}

/// Writes the lessons of a commit.
pub(super) async fn write_lessons(db: &mut SqliteConnection, taught: &Taught<'_>) -> Result<(), sqlx::Error> {
    for row in &taught.rows {
        write_plan(db, row).await?;
    }
    for record in &taught.recorded {
        let (changed, asked) = match record.seen {
            Seen::Response { changed, asked } => (Some(changed), asked),
            Seen::ActiveMember => (None, None),
        };
        sqlx::query(
            "insert into refresh_worker_looks (at, kind, tag, changed, active, asked_at) values (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(to_text(record.at))
        .bind(record.kind.as_str())
        .bind(record.tag.as_str())
        .bind(changed)
        .bind((record.seen == Seen::ActiveMember).then_some(true))
        .bind(asked.map(to_text))
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

async fn write_plan(db: &mut SqliteConnection, row: &PlanWrite<'_>) -> Result<(), sqlx::Error> {
    // As many digits as PostgreSQL keeps, so that both stores plan alike.
    let [changes, watched, mails, exposed] = row.counts().map(f64::from);
    sqlx::query(include_str!("../sql/sqlite/plan_write.sql"))
        .bind(row.kind.as_str())
        .bind(row.tag.as_str())
        .bind(row.known.looked_at.map(to_text))
        .bind(to_text(row.next_look))
        .bind(row.known.heard_at.map(to_text))
        .bind(changes)
        .bind(watched)
        .bind(mails)
        .bind(exposed)
        .bind(i64::from(row.bucket))
        .bind(row.known.hinted)
        .execute(db)
        .await?;
    Ok(())
}

impl SqliteStore {
    async fn walk(&self, now: Timestamp, longest: Duration, limit: usize) -> Result<Walked, sqlx::Error> {
        const DONE: Walked = Walked { planned: 0, is_finished: true };
        let mut transaction = self.pool.begin_with("begin immediate").await?;
        let at: Option<(String, String, Option<String>, String)> =
            sqlx::query_as("select kind, tag, finished_at, called_at from refresh_worker_plan_walk where id = 1")
                .fetch_optional(&mut *transaction)
                .await?;
        let within = |text: &str, limit: Duration| {
            from_text(text).is_some_and(|at| now.since(at) <= limit && at <= now + CLOCK_TOLERANCE)
        };
        let under_way = at.filter(|(_, _, finished_at, called_at)| {
            within(called_at, PAUSE) && finished_at.as_deref().is_none_or(|at| within(at, WALK_INTERVAL))
        });
        let (kind, tag, has_finished) =
            under_way.map_or_else(Default::default, |(kind, tag, finished_at, _)| (kind, tag, finished_at.is_some()));
        if has_finished {
            sqlx::query("update refresh_worker_plan_walk set called_at = ?1")
                .bind(to_text(now))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            return Ok(DONE);
        }
        let rows: Vec<WalkedRow> = sqlx::query_as(include_str!("../sql/sqlite/walk_read.sql"))
            .bind(&kind)
            .bind(&tag)
            .bind(count(limit as u64))
            .fetch_all(&mut *transaction)
            .await?;
        let is_finished = rows.len() < limit;
        let (kind, tag) = rows.last().map_or((kind, tag), |last| (last.kind.clone(), last.tag.clone()));
        let unplanned: Vec<Unplanned> = rows
            .into_iter()
            .filter(|row| !row.is_planned)
            .filter_map(|row| {
                let fetched_at = row.fetched_at.as_deref().and_then(from_text);
                Unplanned::read(&row.kind, &row.tag, fetched_at, row.clan_tag.as_deref())
            })
            .collect();
        for row in &plan_unplanned(&unplanned, now, longest) {
            write_plan(&mut transaction, row).await?;
        }
        // Planned by a wrong clock, or not a time at all.
        let far = to_text(far_ahead(now, longest));
        sqlx::query("update refresh_worker_plan set next_look = ?1 where next_look > ?2")
            .bind(to_text(now + longest))
            .bind(far)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "insert or replace into refresh_worker_plan_walk (id, kind, tag, finished_at, called_at) values (1, ?1, ?2, ?3, ?4)",
        )
        .bind(kind)
        .bind(tag)
        .bind(is_finished.then(|| to_text(now)))
        .bind(to_text(now))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Walked { planned: unplanned.len(), is_finished })
    }
}

/// Time, kind, tag, whether it had changed, and when a reader asked.
type LookRow = (String, String, String, Option<bool>, Option<String>);

impl Looks for SqliteStore {
    async fn next_looks(&self, ask: NextLooks<'_>) -> Result<Vec<Candidate>, StoreError> {
        let after = ask.after.map(|after| (after.next_look, &after.object));
        let read = sqlx::query_as(include_str!("../sql/sqlite/next_looks.sql"))
            .bind(to_text(ask.until))
            .bind(after.map_or_else(String::new, |(at, _)| to_text(at)))
            .bind(after.map_or("", |(_, object)| object.kind.as_str()))
            .bind(after.map_or("", |(_, object)| object.tag.as_str()))
            .bind(i64::from(ask.buckets.0))
            .bind(i64::from(ask.buckets.1))
            .bind(count(ask.limit as u64))
            .fetch_all(&self.pool);
        let rows: Vec<PlanRow> = read.await.map_err(self.failed("read the next looks"))?;
        let (mut candidates, mut odd) = (Vec::new(), Vec::new());
        for row in rows {
            let row = StoredPlan::from(row);
            let name = (row.kind.clone(), row.tag.clone());
            match row.into_candidate(ask.now) {
                Some(candidate) => candidates.push(candidate),
                None => odd.push(name),
            }
        }
        // They would stand at the head of the plan for good.
        for (kind, tag) in odd {
            sqlx::query("delete from refresh_worker_plan where kind = ?1 and tag = ?2")
                .bind(kind)
                .bind(tag)
                .execute(&self.pool)
                .await
                .map_err(self.failed("delete looks at nothing"))?;
        }
        Ok(candidates)
    }

    async fn put_off(&self, looks: &[PutOff]) -> Result<(), StoreError> {
        let row = |look: &PutOff| {
            let PutOff { object, until, seen } = look;
            let (looked_at, hinted) = seen.map(|(at, hinted)| (at.map(to_text), hinted)).unwrap_or_default();
            serde_json::json!([
                object.kind.as_str(),
                object.tag.as_str(),
                to_text(*until),
                seen.is_some(),
                looked_at,
                hinted
            ])
        };
        let looks: Vec<_> = latest(looks).into_iter().map(row).collect();
        sqlx::query(
            "update refresh_worker_plan as p set next_look = max(p.next_look, a.value ->> 2) from json_each(?1) as a \
             where p.kind = a.value ->> 0 and p.tag = a.value ->> 1 \
             and (not a.value ->> 3 or (p.hinted = a.value ->> 5 and p.looked_at is a.value ->> 4))",
        )
        .bind(json(&looks))
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(self.failed("put looks off"))
    }

    async fn level(&self, arm: Arm) -> Result<Level, StoreError> {
        let logarithm: Option<f64> =
            sqlx::query_scalar("select cast(ln_level as real) from refresh_worker_plan_level where arm = ?1")
                .bind(arm.as_str())
                .fetch_optional(&self.pool)
                .await
                .map_err(self.failed("read the level"))?;
        Ok(logarithm.map_or_else(Level::default, lessons::level))
    }

    async fn move_level(&self, arm: Arm, step: f64, now: Timestamp) -> Result<Level, StoreError> {
        sqlx::query_scalar(include_str!("../sql/sqlite/level_move.sql"))
            .bind(arm.as_str())
            .bind(if step.is_finite() { step } else { 0.0 })
            .bind(to_text(now))
            .bind(to_text(now - PAUSE))
            .fetch_one(&self.pool)
            .await
            .map(lessons::level)
            .map_err(self.failed("move the level"))
    }

    async fn plan_known_objects(&self, now: Timestamp, longest: Duration, limit: usize) -> Result<Walked, StoreError> {
        self.walk(now, longest, limit).await.map_err(self.failed("plan looks at known objects"))
    }

    async fn planned_objects(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("select count(*) from refresh_worker_plan")
            .fetch_one(&self.pool)
            .await
            .map_err(self.failed("count the planned looks"))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    fn stretch_longest(&self, longest: Duration) {
        self.longest.set(longest);
    }

    async fn plan_of(&self, object: &ObjectId, now: Timestamp) -> Result<Option<Candidate>, StoreError> {
        let row: Option<PlanRow> = sqlx::query_as(include_str!("../sql/sqlite/plan_read.sql"))
            .bind(json(&[(object.kind, &object.tag)]))
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the plan of an object"))?;
        Ok(row.and_then(|row| StoredPlan::from(row).into_candidate(now)))
    }

    async fn looks(&self, from: Timestamp, until: Timestamp) -> Result<Vec<RecordedLook>, StoreError> {
        let rows: Vec<LookRow> = sqlx::query_as(
            "select at, kind, tag, changed, asked_at from refresh_worker_looks where at >= ?1 and at < ?2 \
             order by at, kind, tag",
        )
        .bind(to_text(from))
        .bind(to_text(until))
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read the recorded looks"))?;
        let read = |(at, kind, tag, changed, asked): LookRow| {
            let object = ObjectId::new(kind.parse().ok()?, tag.parse().ok()?);
            let seen = match changed {
                Some(changed) => Seen::Response { changed, asked: asked.as_deref().and_then(from_text) },
                None => Seen::ActiveMember,
            };
            Some(RecordedLook { at: from_text(&at)?, object, seen })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    async fn delete_looks(&self, before: Timestamp) -> Result<u64, StoreError> {
        sqlx::query(
            "delete from refresh_worker_looks where rowid in \
             (select rowid from refresh_worker_looks where at < ?1 order by at limit ?2)",
        )
        .bind(to_text(before))
        .bind(count(MAX_DELETED_LOOKS as u64))
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(self.failed("delete old records of looks"))
    }
}
