//! The store room: the port, and the values that cross it.
//!
//! [`postgres`] keeps snapshots in the six tables that other programs read (`clans`, `players`, `clan_snapshots`,
//! `player_snapshots`, `war_snapshots`, `clan_memberships`) and our own facts in the schema `refresh_worker`.
//! [`sqlite`] behaves the same in one file. The statements are in `sql/`. The store knows the model; it does not know
//! the queue or the API.

mod lessons;
mod looks;
mod plan;
pub mod postgres;
mod rows;
#[cfg(feature = "embedded")]
pub mod sqlite;

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use self::{
    lessons::bucket,
    looks::{
        Candidate, LOOKS_RETENTION, Lesson, Looks, MAX_DELETED_LOOKS, NextLooks, PutOff, RecordedLook, Seen, Walked,
    },
};
pub use crate::planner::{Arm, MAX_BUCKET, Teaching, Trial};
use crate::{
    clock::Timestamp,
    model::{Event, Fetched, Kind, Learned, Move, ObjectId, OutboxEntry, Reason, Tag, WarMemory},
};

/// The stored freshness of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// The beginning of the call whose response is stored.
    pub fetched_at: Timestamp,
    /// The API gives the same bytes again until then.
    pub fresh_until: Timestamp,
    /// Wars: the stored facts of the war and of the clan's league.
    pub league: Option<WarMemory>,
}

/// The outcome of committing one response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// New content: a new history row.
    Stored,
    /// The same content: the newest row's time moved on.
    Unchanged,
    /// The object's state was stored (gone, private); there is no document.
    Noted,
    /// A newer response was stored before; nothing was written.
    Superseded,
    /// The database refuses this record, and would refuse it again, while it stores others.
    Poison(Reason),
    /// It could not be stored now: another session holds a lock, or the refusal may be the table's fault. The request has
    /// not failed.
    Held(Reason),
}

/// Makes events from a commit: its responses, the details of each, and the moves of players.
pub type EventsOf = fn(&[Fetched], &[Learned], &[Move]) -> Vec<Event>;

/// The details that a commit gathers beside the outcome of each response. Details that nobody needs cost no statement.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitDetails {
    /// The age of the full documents of a clan's members.
    pub members: bool,
    /// The replaced documents, the moves of players, and the events made from them.
    pub events: Option<EventsOf>,
    /// All objects whose state was stored, and the players whose rows another object's response changed.
    pub renewed: bool,
    /// The objects with new content.
    pub changed: bool,
    /// Set while the freshness planner is on: commits teach it.
    pub teaching: Option<Teaching>,
}

/// The time to which [`Looks::stretch_longest`] has stretched the longest time without a look, for all clones of a store.
#[derive(Clone, Debug, Default)]
struct StretchedLongest(Arc<AtomicU64>);

impl StretchedLongest {
    fn set(&self, longest: Duration) {
        self.0.store(longest.as_secs(), Ordering::Relaxed);
    }

    fn apply(&self, mut details: CommitDetails) -> CommitDetails {
        if let Some(teaching) = &mut details.teaching {
            let stretched = Duration::from_secs(self.0.load(Ordering::Relaxed));
            teaching.policy.longest = teaching.policy.longest.max(stretched);
        }
        details
    }
}

impl CommitDetails {
    /// True when commits write outbox entries.
    #[must_use]
    pub const fn fills_outbox(&self) -> bool {
        self.events.is_some() || self.renewed || self.changed
    }
}

/// The result of a commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// The outcome of each response, in the order of the batch.
    pub committed: Vec<Committed>,
    /// The details of each response, as far as [`CommitDetails`] asks for them.
    pub learned: Vec<Learned>,
    pub moves: Vec<Move>,
    pub touched: Vec<Tag>,
    /// The entries to publish, stored with the commit until [`Store::delete_from_outbox`].
    pub outbox: Vec<OutboxEntry>,
    /// What each response taught the planner. Only with [`CommitDetails::teaching`], and only stored or unchanged documents.
    pub lessons: Vec<Option<Lesson>>,
    /// Set when the store as a whole is in trouble although it stored a part of the batch: later responses could not be
    /// stored.
    pub trouble: Option<String>,
}

impl Commit {
    /// A commit of this many responses, none of which counted.
    fn of_nothing(answers: usize) -> Self {
        Self {
            committed: vec![Committed::Superseded; answers],
            learned: vec![Learned::default(); answers],
            lessons: vec![None; answers],
            ..Self::default()
        }
    }

    fn add_lessons(&mut self, taught: &lessons::Taught<'_>) {
        for (place, lesson) in &taught.lessons {
            self.lessons[*place] = Some(*lesson);
        }
    }

    /// The objects of the batch with new rows: evidence that the tables accept inserts.
    fn stored<'a>(&self, batch: &'a [Fetched]) -> impl Iterator<Item = &'a ObjectId> {
        let pairs = batch.iter().zip(&self.committed);
        pairs.filter(|(_, committed)| **committed == Committed::Stored).map(|(fetched, _)| &fetched.object)
    }

    /// Adds the result for the responses at these places.
    fn add_all(&mut self, places: &[usize], part: Self) {
        for ((&place, committed), learned) in places.iter().zip(part.committed).zip(part.learned) {
            self.committed[place] = committed;
            self.learned[place] = learned;
        }
        for (&place, lesson) in places.iter().zip(part.lessons) {
            self.lessons[place] = lesson;
        }
        self.moves.extend(part.moves);
        self.touched.extend(part.touched);
        self.outbox.extend(part.outbox);
    }
}

/// At most this many outbox entries are read at once. An entry has a few KB.
pub const MAX_OUTBOX_ENTRIES: usize = 100;

/// A control call needs an object with a good response that is at most this old.
pub const CONTROL_OBJECT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Enough for every try of a call that nobody waits for.
pub const RELAXED_TIMEOUT: Duration = Duration::from_secs(60);

/// A row of `refresh_runs`.
#[derive(Clone, Debug)]
pub struct RunRow {
    pub run: String,
    pub started: Timestamp,
    pub ended: Timestamp,
    pub stopped_because: String,
    pub error: Option<String>,
    pub processed: u64,
    pub failed: u64,
    pub api_requests: u64,
    /// The whole report as JSON.
    pub report: String,
}

impl RunRow {
    /// The name of the row when another attempt has the run's name: Lambda may deliver a request twice, under one id.
    #[must_use]
    pub fn name_of_attempt(&self) -> String {
        format!("{}/{}", self.run, self.started)
    }
}

/// The newest runs, each without its report.
#[derive(Clone, Debug, Default)]
pub struct LastRuns {
    pub any: Option<RunRow>,
    /// The newest run that succeeded and did some work.
    pub good: Option<RunRow>,
    pub failed: Option<RunRow>,
}

/// The action that failed when the store refused each record of a batch by itself.
pub const ANY_RECORD: &str = "store any record";

/// A store of snapshots.
pub trait Store: Looks + Send + Sync + 'static {
    /// Checks that the store responds.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The store's clock, when the store is on another machine. It decides between two clocks that differ.
    fn time(&self) -> impl Future<Output = Result<Option<Timestamp>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// Waits at most `timeout` until nothing blocks all commits, such as the lock of a table.
    fn ready(&self, timeout: Duration) -> impl Future<Output = Result<(), StoreError>> + Send {
        // A store without locks of others is always ready.
        let _ = timeout;
        std::future::ready(Ok(()))
    }

    /// True while the last commits were refused in a way that may be the store's fault. Until one is stored, the run fetches
    /// one object at a time.
    fn is_doubtful(&self) -> bool {
        false
    }

    /// Creates the missing tables, in order, and returns the names of the migrations that ran. Safe to call concurrently.
    fn migrate(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Reads the freshness of these objects in one statement, within `limit`. Objects that were never fetched are absent.
    fn freshness(
        &self,
        objects: &[ObjectId],
        limit: Duration,
    ) -> impl Future<Output = Result<HashMap<ObjectId, Freshness>, StoreError>> + Send;

    /// An object for a control call: of this kind, with a good response in the week before `now`, and none of these tags. An
    /// object with an old copy is preferred.
    fn control_object(
        &self,
        kind: Kind,
        but: &[String],
        now: Timestamp,
        limit: Duration,
    ) -> impl Future<Output = Result<Option<ObjectId>, StoreError>> + Send;

    /// Stores a batch in one transaction, with a constant number of statements. An error means that nothing was stored and
    /// that the store as a whole is in trouble.
    fn commit(&self, now: Timestamp, batch: &[Fetched]) -> impl Future<Output = Result<Commit, StoreError>> + Send {
        self.commit_and_delete(now, batch, &[], RELAXED_TIMEOUT)
    }

    /// [`Self::commit`], which also deletes these delivered entries of the outbox. All tries together take at most `limit`.
    /// After [`StoreError::OutOfTime`] the batch may be stored or not, as after a broken connection.
    fn commit_and_delete(
        &self,
        now: Timestamp,
        batch: &[Fetched],
        delivered: &[i64],
        limit: Duration,
    ) -> impl Future<Output = Result<Commit, StoreError>> + Send;

    /// The oldest outbox entries of commits before this time, at most [`MAX_OUTBOX_ENTRIES`].
    fn outbox(&self, before: Timestamp) -> impl Future<Output = Result<Vec<OutboxEntry>, StoreError>> + Send;

    /// Deletes entries that are delivered or given up.
    fn delete_from_outbox(&self, ids: &[i64]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Writes the row of a finished run and trims old rows.
    fn record_run(&self, row: &RunRow) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn last_run(&self) -> impl Future<Output = Result<Option<RunRow>, StoreError>> + Send;

    /// The newest runs: any, the last good one, the last failed one.
    fn last_runs(&self) -> impl Future<Output = Result<LastRuns, StoreError>> + Send {
        async { Ok(LastRuns { any: self.last_run().await?, ..LastRuns::default() }) }
    }
}

/// An error of the store. Each is a whole sentence.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no connection, it broke, or the server did not respond in time.
    #[error("cannot reach the database at {server}: {detail}")]
    Unreachable { server: String, detail: String },
    /// The caller's limit was over before the server responded.
    #[error("cannot {action} in the database at {server}: no time was left")]
    OutOfTime { server: String, action: &'static str },
    /// The server responds and takes no writes.
    #[error("cannot write to the database at {server}: {detail}")]
    ReadOnly { server: String, is_standby: bool, detail: String },
    /// A right is missing. `detail` names it, and `fix` is the statement that grants it.
    #[error("cannot {action} in the database at {server}: {detail}. Fix: {fix}")]
    NotAllowed { server: String, action: &'static str, detail: String, fix: String },
    /// Another session holds a lock that blocks all commits. `detail` names the session, as far as it is known.
    #[error("cannot {action} in the database at {server}: {detail}")]
    Locked { server: String, action: &'static str, detail: String },
    /// The database returned an error.
    #[error("cannot {action} in the database at {server}: {detail}")]
    Failed { server: String, action: &'static str, detail: String },
}
