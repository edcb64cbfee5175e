//! The commit: one transaction. When a record is refused, each record gets its own, so that the refusal hurts no other.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    arbiter,
    errors::{hurts_only_the_record, primary_code},
    looks,
    values::{json, table_text},
    writes,
};
use crate::{
    clock::Timestamp,
    model::{Fetched, Kind, ObjectId, Reason, Tag},
    store::{
        Commit, CommitDetails, Committed,
        lessons::{Subjects, Taught},
        plan::{
            self, CLOCK_TOLERANCE, Facts, Replaced, Writes,
            claims::{Claims, Winners},
            memberships::{self, Changes},
            players::{self, Observation},
            refusals::{Blame, Fate, Fault, Refusals},
            snapshots::{self, NewestRows},
            times::{TableTime, utc},
        },
        rows,
    },
};

pub(super) async fn commit(
    pool: &SqlitePool,
    refusals: &Mutex<Refusals>,
    details: CommitDetails,
    now: Timestamp,
    batch: &[Fetched],
    delivered: &[i64],
) -> Result<Commit, sqlx::Error> {
    match whole(pool, details, now, batch, delivered).await {
        Err(error) if hurts_only_the_record(&error) => one_by_one(pool, refusals, details, now, batch, delivered).await,
        Ok(committed) => {
            refusals.lock().judge(now, committed.stored(batch), &[]);
            Ok(committed)
        }
        Err(error) => Err(error),
    }
}

async fn one_by_one(
    pool: &SqlitePool,
    refusals: &Mutex<Refusals>,
    details: CommitDetails,
    now: Timestamp,
    batch: &[Fetched],
    delivered: &[i64],
) -> Result<Commit, sqlx::Error> {
    let mut together = Commit::of_nothing(batch.len());
    let mut refused: Vec<(usize, sqlx::Error)> = Vec::new();
    let newest = rows::newest_answers(batch);
    // In the order of objects, as the whole batch.
    for &place in &newest {
        match whole(pool, details, now, &batch[place..=place], delivered).await {
            Ok(one) => together.add_all(&[place], one),
            Err(error) if hurts_only_the_record(&error) => refused.push((place, error)),
            Err(error) => return Err(error),
        }
    }
    let faults: Vec<(ObjectId, Fault)> =
        refused.iter().map(|(place, error)| (batch[*place].object.clone(), fault(error))).collect();
    let judged = refusals.lock().judge(now, together.stored(batch), &faults);
    for (((place, _), (_, fault)), fate) in refused.iter().zip(&faults).zip(judged.fates) {
        together.committed[*place] = match fate {
            Fate::Poison => Committed::Poison(fault.reason.clone()),
            Fate::Hold => Committed::Held(fault.reason.clone()),
        };
    }
    match judged.trouble {
        // Nothing was stored, so the refusal is the error of the whole commit, as in PostgreSQL.
        Some(at) if refused.len() == newest.len() => Err(refused.swap_remove(at).1),
        trouble => {
            together.trouble =
                trouble.map(|at| format!("store any {}: {}", faults[at].0.kind, faults[at].1.reason.detail));
            Ok(together)
        }
    }
}

fn fault(error: &sqlx::Error) -> Fault {
    let reason = Reason::new("refused_by_database", error.to_string());
    let code = primary_code(error).unwrap_or_default();
    // A constraint on the column checks that a document is JSON.
    let blame = if reason.detail.contains("json_valid") { Blame::Record } else { Blame::Either };
    Fault { blame, signature: code.to_string(), reason }
}

async fn whole(
    pool: &SqlitePool,
    details: CommitDetails,
    now: Timestamp,
    batch: &[Fetched],
    delivered: &[i64],
) -> Result<Commit, sqlx::Error> {
    // Immediate: a transaction that reads first may be refused the write later, and would have to start over.
    let mut transaction = pool.begin_with("begin immediate").await?;
    let horizon = now + CLOCK_TOLERANCE;
    let claims = Claims::of(batch);
    let winners = arbiter::arbitrate(&mut transaction, &claims, horizon).await?;
    let replaced = match details.events {
        Some(_) => read_replaced(&mut transaction, &claims, &winners).await?,
        None => Vec::new(),
    };
    let mut observations = players::observations(&claims, &winners);
    let newest = read_newest(&mut transaction, &claims, &winners, &observations).await?;
    plan::discard_outdated(&mut observations, &newest, utc(horizon));
    let taught = match details.teaching {
        Some(teaching) => {
            let subjects = Subjects::of(&claims, &winners, &observations, &newest);
            let stored = looks::read_for_lessons(&mut transaction, &subjects).await?;
            subjects.teach(&stored, teaching, now)
        }
        None => Taught::default(),
    };
    let memberships = membership_changes(&mut transaction, &claims, &winners, &observations, utc(horizon)).await?;
    let planned = Writes::of(&claims, &winners, &observations, &newest, utc(horizon));
    writes::clans(&mut transaction, &planned.clans).await?;
    writes::players(&mut transaction, &planned.players).await?;
    writes::wars(&mut transaction, &planned.wars).await?;
    writes::memberships(&mut transaction, &memberships).await?;
    let facts = Facts {
        batch,
        claims: &claims,
        winners: &winners,
        observations: &observations,
        newest: &newest,
        writes: &planned,
        memberships: &memberships,
        replaced,
    };
    let mut commit = facts.into_commit(details);
    commit.add_lessons(&taught);
    looks::write_lessons(&mut transaction, &taught).await?;
    for entry in &commit.outbox {
        writes::outbox_entry(&mut transaction, entry, now).await?;
    }
    writes::delete_from_outbox(&mut transaction, delivered).await?;
    transaction.commit().await?;
    Ok(commit)
}

async fn read_replaced(
    db: &mut SqliteConnection,
    claims: &Claims<'_>,
    winners: &Winners,
) -> Result<Vec<Replaced>, sqlx::Error> {
    let [clans, players, wars] = plan::replaced_rows(claims, winners);
    sqlx::query_as(include_str!("../sql/sqlite/replaced.sql"))
        .bind(json(&clans))
        .bind(json(&players))
        .bind(json(&wars))
        .fetch_all(db)
        .await
}

async fn read_newest(
    db: &mut SqliteConnection,
    claims: &Claims<'_>,
    winners: &Winners,
    observations: &BTreeMap<&Tag, Observation<'_>>,
) -> Result<NewestRows, sqlx::Error> {
    let of_players = observations.iter().map(|(&tag, observation)| (tag, observation.new_row_at())).collect();
    let newest = sqlx::query_as(include_str!("../sql/sqlite/newest.sql"))
        .bind(asked(of_players))
        .bind(asked(plan::documents(claims, winners, Kind::Clan)))
        .bind(asked(plan::documents(claims, winners, Kind::War)))
        .fetch_all(db)
        .await?;
    Ok(snapshots::by_object(newest))
}

/// Tags with the millisecond of a new row, as JSON.
fn asked(objects: Vec<(&Tag, Timestamp)>) -> String {
    // A row of another program may lie anywhere within the millisecond of ours.
    let millisecond = |at| (table_text(at), table_text(at + std::time::Duration::from_millis(1)));
    let rows: Vec<(&str, String, String)> = objects
        .into_iter()
        .map(|(tag, at)| {
            let (from, to) = millisecond(utc(at));
            (tag.as_str(), from, to)
        })
        .collect();
    json(&rows)
}

/// Reads the memberships that the batch can change, and decides their changes.
async fn membership_changes<'a>(
    db: &mut SqliteConnection,
    claims: &Claims<'a>,
    winners: &Winners,
    observations: &BTreeMap<&'a Tag, Observation<'a>>,
    horizon: TableTime,
) -> Result<Changes<'a>, sqlx::Error> {
    let (locations, member_lists) = (plan::locations(observations, horizon), plan::member_lists(claims, winners));
    let Some(earliest) = plan::earliest_observation(&locations, &member_lists) else { return Ok(Changes::default()) };
    let memberships: Vec<memberships::Membership> = sqlx::query_as(include_str!("../sql/sqlite/memberships_read.sql"))
        .bind(json(&locations.keys().collect::<Vec<_>>()))
        .bind(json(&member_lists.keys().collect::<Vec<_>>()))
        .bind(table_text(earliest))
        .fetch_all(db)
        .await?;
    Ok(memberships::decide(&locations, &member_lists, &memberships, horizon))
}
