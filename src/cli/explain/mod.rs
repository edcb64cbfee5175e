//! `queue explain`: everything known about an object, and what will happen to it next.
//!
//! This file gathers the facts. `render` shows them, and `outlook` sums them up in one sentence; both are pure.

mod outlook;
mod plan;
mod render;

use std::{sync::Arc, time::Duration};

use clap::Args;

use self::plan::Plan;
use super::{Exit, Misuse, Shared, connect, text};
use crate::{
    app,
    clock::Timestamp,
    config::{DEFAULT_REQS_PER_SEC, DatabaseConfig, Pause, PlannerConfig, WorkerConfig, env::process_var},
    model::{Kind, ObjectId, Tag},
    queue::{
        Circuit, DeadFilter, DeadLetter, Queue as _, SharedState as _,
        admin::{Kept, Part, Place, Position, QueueAdmin as _, Returning},
        mailbox::escape,
        record::Record,
        redis::RedisQueue,
    },
    store::{
        Looks as _, StoreError, Teaching,
        postgres::{Looked, PostgresStore},
    },
};

/// The database is only half of the answer, so it must not delay the other half for long.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(6);

/// Explains one object: its state, and what will happen to it next
///
/// Shows how the tag was read, the mailbox entries for the object in any spelling, its state in the queue with the reason,
/// its last fetch, what the planner knows of it, and the errors that runs reported. The last line says what will happen next, and when. A tag alone is
/// looked up as clan, player and war. Changes nothing. Reads the whole mailbox, which takes some seconds at a million
/// entries. Needs REDIS_URL, and DATABASE_URL for the last fetch and the errors.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker queue explain clan:#2PP
  refresh-worker queue explain '#2pp'
  refresh-worker queue explain player:8GQL2 --json")]
pub struct ExplainArgs {
    /// clan:TAG, player:TAG, war:TAG, or a tag alone; tags in any spelling
    #[arg(value_name = "OBJECT")]
    object: String,
    /// Write JSON, one object per line
    #[arg(long)]
    json: bool,
}

/// Everything known about one object.
#[derive(Clone, Debug)]
pub(super) struct Known {
    object: ObjectId,
    now: Timestamp,
    position: Position,
    mail: Vec<MailFound>,
    /// Unreadable mail whose id names the object.
    letters: Vec<DeadLetter>,
    /// The facts in the database, or why they could not be read.
    store: Result<Option<Looked>, String>,
    /// The place in the plan of spare calls, if the planner ever was on; or why it could not be read.
    plan: Result<Option<Plan>, String>,
    pause: Option<Pause>,
    /// The widest open circuit that covers the object.
    circuit: Option<Circuit>,
    max_attempts: u32,
}

/// Mail for the object that is not admitted yet.
#[derive(Clone, Debug)]
struct MailFound {
    id: String,
    /// `None`: no index entry points to it.
    score: Option<String>,
    /// `None`: it has no data yet.
    value: Option<String>,
    /// The record that it will become; `None` without data.
    record: Option<Record>,
    /// The time since which it waits for its data.
    set_aside: Option<Timestamp>,
}

pub async fn run(args: ExplainArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let objects = objects(&args.object)?;
    let worker = WorkerConfig::read(&process_var)?;
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let circuits = queue.circuits().await?;
    // One pass for all objects, since a mailbox may have a million entries.
    let mail = find_mail(&queue, now, &objects, worker.max_attempts).await?;
    // Letters of mail have no index by object, so all are read once.
    let letters = queue.dead_letters(&DeadFilter::default(), usize::MAX).await?;
    let store = store();
    let mut all = Vec::new();
    for object in objects {
        let position = queue.position(&object).await?;
        let names_it = |letter: &&DeadLetter| {
            letter.name.strip_prefix("mail:").is_some_and(|id| named_by(id).as_ref() == Some(&object))
        };
        let stored = stored_state(&store, &object).await;
        let plan = match (&store, &stored) {
            (Ok(store), Ok(_)) => planned_look(store, &object, now, worker.planner).await,
            // The reason is shown already.
            _ => Ok(None),
        };
        all.push(Known {
            now,
            position,
            mail: mail.iter().filter(|(of, _)| *of == object).map(|(_, mail)| mail.clone()).collect(),
            letters: letters.iter().filter(names_it).cloned().collect(),
            store: stored,
            plan,
            pause: worker.paused,
            circuit: circuits.iter().find(|circuit| circuit.scope.covers(object.kind)).cloned(),
            max_attempts: worker.max_attempts,
            object,
        });
    }
    let output: Vec<String> = all
        .iter()
        .map(|known| {
            if args.json {
                render::json(known).to_string() + "\n"
            } else {
                render::text(&args.object, known, shared.style())
            }
        })
        .collect();
    text::print(&output.join(if args.json { "" } else { "\n" }))?;
    Ok(Exit::Success)
}

/// The objects that the argument names.
fn objects(text: &str) -> Result<Vec<ObjectId>, Misuse> {
    let misuse = |error: String| Misuse(format!("{error}; expected clan:TAG, player:TAG, war:TAG or a tag alone"));
    // The name comes from `dead list`, whose next step is `dead show`.
    if text.starts_with("mail:") {
        return Err(Misuse(format!(
            "`{}` is unreadable mail: `refresh-worker dead show` shows its details",
            text::short(text, 60)
        )));
    }
    // A full-width colon comes from Asian keyboards.
    if text.contains([':', '\u{ff1a}']) {
        return ObjectId::from_person(text).map(|object| vec![object]).map_err(|error| misuse(format!("{error}")));
    }
    let tag = Tag::from_person(text).map_err(|error| misuse(error.to_string()))?;
    Ok(Kind::ALL.into_iter().map(|kind| ObjectId::new(kind, tag.clone())).collect())
}

/// The object that an id of mail seems to name, with or without a suffix: `clan:#abc-retry-2`.
fn named_by(id: &str) -> Option<ObjectId> {
    // Producers append the number of a retry to the id.
    let start = id.split_once('-').map_or(id, |(start, _)| start);
    id.parse().or_else(|_| start.parse()).ok()
}

/// The mail for the objects, by its data, or by its id when there is no data.
async fn find_mail(
    queue: &RedisQueue,
    now: Timestamp,
    objects: &[ObjectId],
    max_attempts: u32,
) -> anyhow::Result<Vec<(ObjectId, MailFound)>> {
    let mut found = Vec::new();
    let mut place = Some(Place::start()).filter(|place| place.part() != Part::Objects);
    while let Some(from) = place {
        let slice = queue.read_slice(now, &from).await?;
        found.extend(slice.entries.into_iter().filter_map(|entry| mail_found(entry, now, objects, max_attempts)));
        place = slice.next.filter(|place| place.part() != Part::Objects);
    }
    found.sort_by(|(_, one), (_, other)| one.id.cmp(&other.id));
    // The scan may return an entry twice while the mailbox changes.
    found.dedup_by(|(_, one), (_, other)| one.id == other.id);
    Ok(found)
}

fn mail_found(entry: Kept, now: Timestamp, objects: &[ObjectId], max_attempts: u32) -> Option<(ObjectId, MailFound)> {
    let (id, mail) = match &entry {
        Kept::Mail { id, score, value } => {
            let value = value.as_deref().map(escape);
            (escape(id), MailFound { id: escape(id), score: score.clone(), value, record: None, set_aside: None })
        }
        Kept::Orphan { id, since, .. } => {
            let set_aside = Some(*since);
            (escape(id), MailFound { id: escape(id), score: None, value: None, record: None, set_aside })
        }
        _ => return None,
    };
    let (object, record) = match entry.returning(now, max_attempts) {
        Ok(Returning::Record { object, record }) => (object, Some(*record)),
        _ => (named_by(&id)?, None),
    };
    objects.contains(&object).then_some((object, MailFound { record, ..mail }))
}

/// The database, or why it cannot be read.
fn store() -> Result<Arc<PostgresStore>, String> {
    if process_var("DATABASE_URL").is_none_or(|url| url.trim().is_empty()) {
        return Err("DATABASE_URL is not set".to_owned());
    }
    let config = DatabaseConfig::read(&process_var).map_err(|error| error.to_string())?;
    app::store(&config).map(Arc::new).map_err(|error| super::sentence(&error))
}

/// What the store knows of the object, or one sentence on why it could not be read.
async fn stored_state(store: &Result<Arc<PostgresStore>, String>, object: &ObjectId) -> Result<Option<Looked>, String> {
    let store = store.as_ref().map_err(Clone::clone)?;
    match tokio::time::timeout(DATABASE_TIMEOUT, store.look(object)).await {
        Ok(Ok(looked)) => Ok(looked),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the database at {} did not respond in time", store.server())),
    }
}

/// The object's place in the plan, or one sentence on why it could not be read.
async fn planned_look(
    store: &PostgresStore,
    object: &ObjectId,
    now: Timestamp,
    planner: Option<PlannerConfig>,
) -> Result<Option<Plan>, String> {
    let teaching = planner.map_or_else(Teaching::default, |planner| planner.teaching);
    let read = async {
        let Some(place) = store.plan_of(object, now).await? else { return Ok(None) };
        let arm = teaching.arm(place.bucket);
        let level = store.level(arm).await?.reads();
        // As a run with one key stretches it; the keys are not known here.
        let rate = planner.map_or(0, |planner| planner.calls_per_second).min(DEFAULT_REQS_PER_SEC);
        let policy = teaching.policy.stretched(store.planned_objects().await?, f64::from(rate));
        let strategy = teaching.strategy(arm);
        Ok(Some(Plan { place, level, strategy, policy, is_on: planner.is_some() }))
    };
    let why = match tokio::time::timeout(DATABASE_TIMEOUT, read).await {
        Ok(Ok(plan)) => return Ok(plan),
        Ok(Err(error)) => {
            let error: StoreError = error;
            error.to_string()
        }
        Err(_) => format!("the database at {} did not respond in time", store.server()),
    };
    // Where the planner is off, its tables need not exist, and nobody needs a right to them.
    if planner.is_some() { Err(why) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_alone_means_all_kinds() {
        let names: Vec<String> = objects(" #2pyloq8").unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["clan:2PYL0Q8", "player:2PYL0Q8", "war:2PYL0Q8"]);
        assert_eq!(objects("war:%232pp").unwrap().len(), 1);
    }

    #[test]
    fn wrong_argument_names_the_problem() {
        for (wrong, expected) in [("clam:2PP", "clam"), ("#2PX!", "'X'"), ("mail:x", "dead show")] {
            assert!(objects(wrong).unwrap_err().to_string().contains(expected), "{wrong}");
        }
    }

    #[test]
    fn id_of_mail_names_its_object() {
        for id in ["clan:#2pp", "clan:2PP", "clan:%232PP-retry-2", "clan:2PP-returned-177"] {
            assert_eq!(named_by(id).map(|object| object.to_string()).as_deref(), Some("clan:2PP"), "{id}");
        }
        assert_eq!(named_by("war-followup-1f"), None);
    }
}
