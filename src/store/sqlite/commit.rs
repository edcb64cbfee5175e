//! The commit: one transaction; when a record is refused, each record in one of its own, so that it hurts only itself.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sqlx::{SqliteConnection, SqlitePool};

use super::{arbiter, hurts_only_the_record, primary_code, times::table_text, writes};
use crate::{
    clock::Timestamp,
    model::{Fetched, Kind, ObjectId, Reason, Tag},
    store::{
        Commit, Committed, Telling,
        plan::{
            self, CLOCK_TOLERANCE, Facts, Replaced, Writes,
            claims::{Claims, Winners},
            memberships::{self, Changes},
            players::{self, Word},
            refusals::{Blame, Fault, Refusals, Ruling},
            snapshots::{self, NewestRows},
            times::{TableTime, utc},
        },
        rows,
    },
};

pub(super) async fn commit(
    pool: &SqlitePool,
    refusals: &Mutex<Refusals>,
    telling: Telling,
    now: Timestamp,
    batch: &[Fetched],
    told: &[i64],
) -> Result<Commit, sqlx::Error> {
    match whole(pool, telling, now, batch, told).await {
        Err(error) if hurts_only_the_record(&error) => one_by_one(pool, refusals, telling, now, batch, told).await,
        Ok(committed) => {
            lock(refusals).judge(now, stored(batch, &committed), &[]);
            Ok(committed)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn lock(refusals: &Mutex<Refusals>) -> MutexGuard<'_, Refusals> {
    refusals.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stored<'a>(batch: &'a [Fetched], commit: &'a Commit) -> impl Iterator<Item = &'a ObjectId> {
    let pairs = batch.iter().zip(&commit.committed);
    pairs.filter(|(_, committed)| **committed == Committed::Stored).map(|(fetched, _)| &fetched.object)
}

async fn one_by_one(
    pool: &SqlitePool,
    refusals: &Mutex<Refusals>,
    telling: Telling,
    now: Timestamp,
    batch: &[Fetched],
    told: &[i64],
) -> Result<Commit, sqlx::Error> {
    let mut together = Commit::of_nothing(batch.len());
    let mut refused: Vec<(usize, sqlx::Error)> = Vec::new();
    let newest = rows::newest_answers(batch);
    for &place in &newest {
        match whole(pool, telling, now, &batch[place..=place], told).await {
            Ok(one) => together.add_all(&[place], one),
            Err(error) if hurts_only_the_record(&error) => refused.push((place, error)),
            Err(error) => return Err(error),
        }
    }
    let faults: Vec<(ObjectId, Fault)> =
        refused.iter().map(|(place, error)| (batch[*place].object.clone(), fault(error))).collect();
    let judged = lock(refusals).judge(now, stored(batch, &together), &faults);
    for (((place, _), (_, fault)), ruling) in refused.iter().zip(&faults).zip(judged.rulings) {
        together.committed[*place] = match ruling {
            Ruling::Poison => Committed::Poison(fault.reason.clone()),
            Ruling::Hold => Committed::Held(fault.reason.clone()),
        };
    }
    match judged.trouble {
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
    // That a document is JSON is a constraint here, which names its column.
    let blame = if reason.detail.contains("json_valid") { Blame::Record } else { Blame::Either };
    Fault { blame, signature: code.to_string(), reason }
}

async fn whole(
    pool: &SqlitePool,
    telling: Telling,
    now: Timestamp,
    batch: &[Fetched],
    told: &[i64],
) -> Result<Commit, sqlx::Error> {
    // Immediate: a transaction that reads first and is refused the write later would have to start over.
    let mut transaction = pool.begin_with("begin immediate").await?;
    let horizon = now + CLOCK_TOLERANCE;
    let claims = Claims::of(batch);
    let winners = arbiter::arbitrate(&mut transaction, &claims, horizon).await?;
    let replaced = match telling.events {
        Some(_) => read_replaced(&mut transaction, &claims, &winners).await?,
        None => Vec::new(),
    };
    let mut words = players::words(&claims, &winners);
    let newest = read_newest(&mut transaction, &claims, &winners, &words).await?;
    plan::heed(&mut words, &newest, utc(horizon));
    let stays = stay_changes(&mut transaction, &claims, &winners, &words, utc(horizon)).await?;
    let planned = Writes::of(&claims, &winners, &words, &newest, utc(horizon));
    writes::clans(&mut transaction, &planned.clans).await?;
    writes::players(&mut transaction, &planned.players).await?;
    writes::wars(&mut transaction, &planned.wars).await?;
    writes::stays(&mut transaction, &stays).await?;
    let facts = Facts {
        batch,
        claims: &claims,
        winners: &winners,
        words: &words,
        newest: &newest,
        writes: &planned,
        stays: &stays,
        replaced,
    };
    let commit = facts.told(telling);
    for note in &commit.outbox {
        writes::note(&mut transaction, note, now).await?;
    }
    writes::delete_from_outbox(&mut transaction, told).await?;
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
    words: &BTreeMap<&Tag, Word<'_>>,
) -> Result<NewestRows, sqlx::Error> {
    let of_players = words.iter().map(|(&tag, word)| (tag, word.new_row_at())).collect();
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

/// Reads the stays that the batch can change and decides.
async fn stay_changes<'a>(
    db: &mut SqliteConnection,
    claims: &Claims<'a>,
    winners: &Winners,
    words: &BTreeMap<&'a Tag, Word<'a>>,
    horizon: TableTime,
) -> Result<Changes<'a>, sqlx::Error> {
    let (placed, rolls) = (plan::placed(words, horizon), plan::rolls(claims, winners));
    let Some(earliest) = plan::earliest_moment(&placed, &rolls) else { return Ok(Changes::default()) };
    let stays: Vec<memberships::Stay> = sqlx::query_as(include_str!("../sql/sqlite/memberships_read.sql"))
        .bind(json(&placed.keys().collect::<Vec<_>>()))
        .bind(json(&rolls.keys().collect::<Vec<_>>()))
        .bind(table_text(earliest))
        .fetch_all(db)
        .await?;
    Ok(memberships::decide(&placed, &rolls, &stays, horizon))
}

pub(super) fn json(values: &impl serde::Serialize) -> String {
    serde_json::to_string(values).expect("texts and their arrays are JSON")
}
