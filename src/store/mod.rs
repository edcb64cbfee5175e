//! The store room: the port, and the values that cross it.
//!
//! [`postgres`] keeps snapshots in the six tables that other programs read (`clans`, `players`, `clan_snapshots`,
//! `player_snapshots`, `war_snapshots`, `clan_memberships`) and our own facts in the schema `refresh_worker`.
//! [`sqlite`] behaves the same in one file. The statements are in `sql/`. The store knows the model; it does not know
//! the queue or the API.

mod plan;
pub mod postgres;
mod rows;
#[cfg(feature = "embedded")]
pub mod sqlite;

use std::{collections::HashMap, future::Future, time::Duration};

use crate::{
    clock::Timestamp,
    model::{Event, Fetched, Kind, Learned, Move, ObjectId, OutboxEntry, Reason, Tag, WarMemory},
};

/// What we know about how fresh an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// When the call began whose answer is stored.
    pub fetched_at: Timestamp,
    /// Until when the API would give the same bytes again.
    pub fresh_until: Timestamp,
    /// For wars: what is remembered of the war and of the clan's league.
    pub league: Option<WarMemory>,
}

/// What committing one answer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// New content: a new history row.
    Stored,
    /// The same content: the newest row's time moved on.
    Unchanged,
    /// The object's state was noted (gone, private); there is no document.
    Noted,
    /// A newer answer was there already; nothing was written.
    Superseded,
    /// The database refuses this one record, and would again, while it stores others.
    Poison(Reason),
    /// It could not be stored now, for a reason that is not known to be its own: the lock of somebody else, or a refusal that
    /// may be the table's fault. Not a failure of the request.
    Held(Reason),
}

/// Makes entries of what a commit brought to light: the answers, what each taught, and who joined and left.
pub type EventsOf = fn(&[Fetched], &[Learned], &[Move]) -> Vec<Event>;

/// What a commit is to tell beside what became of each answer. What nobody wants to know costs no statement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Telling {
    /// How old the full documents of a clan's members are.
    pub members: bool,
    /// The documents that were replaced, who joined and left, and the entries that are made of it.
    pub events: Option<EventsOf>,
    /// Whatever was stored or noted, and the players whose rows were written because of somebody else's answer.
    pub renewed: bool,
    /// What has new content.
    pub changed: bool,
}

impl Telling {
    /// Whether commits have anything to tell to others than this worker.
    #[must_use]
    pub const fn makes_notes(&self) -> bool {
        self.events.is_some() || self.renewed || self.changed
    }
}

/// What a commit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Of each answer, in the order of the batch.
    pub committed: Vec<Committed>,
    /// The same, as far as [`Telling`] asked for it.
    pub learned: Vec<Learned>,
    pub moves: Vec<Move>,
    pub touched: Vec<Tag>,
    /// What is to be told to others: stored with the commit until [`Store::delete_from_outbox`].
    pub outbox: Vec<OutboxEntry>,
    /// The store as a whole is in trouble, although some of the batch was stored: what is fetched next could not be kept.
    pub trouble: Option<String>,
}

impl Commit {
    /// Of so many answers, none of which counted.
    fn of_nothing(answers: usize) -> Self {
        Self {
            committed: vec![Committed::Superseded; answers],
            learned: vec![Learned::default(); answers],
            ..Self::default()
        }
    }

    /// Adds what the answers at these places came to.
    fn add_all(&mut self, places: &[usize], part: Self) {
        for ((&place, committed), learned) in places.iter().zip(part.committed).zip(part.learned) {
            self.committed[place] = committed;
            self.learned[place] = learned;
        }
        self.moves.extend(part.moves);
        self.touched.extend(part.touched);
        self.outbox.extend(part.outbox);
    }
}

/// How many notes are read at once. One has a few KB.
pub const MAX_OUTBOX_ENTRIES: usize = 100;

/// How long a good answer makes an object fit for a control call.
pub const ANSWERED_WELL_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Enough for every try of a call whose caller is in no hurry.
pub const UNHURRIED: Duration = Duration::from_secs(60);

/// One row of `refresh_runs`.
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
    /// The name of its row when another attempt has that of the run: Lambda delivers a request more than once, under one id.
    #[must_use]
    pub fn name_of_attempt(&self) -> String {
        format!("{}/{}", self.run, self.started)
    }
}

/// The newest runs, each without its report.
#[derive(Clone, Debug, Default)]
pub struct LastRuns {
    pub any: Option<RunRow>,
    /// The newest that went well, those left out that were turned away before they did anything.
    pub good: Option<RunRow>,
    pub failed: Option<RunRow>,
}

/// What a store could not do when it refused each record of a batch by itself.
pub const ANY_RECORD: &str = "store any record";

/// Where snapshots are kept.
pub trait Store: Send + Sync + 'static {
    /// The proof that it answers.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The store's own clock, when it is another machine's: what decides between two clocks that differ.
    fn time(&self) -> impl Future<Output = Result<Option<Timestamp>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// Waits, no longer than `patience`, until nothing is in the way of every commit, such as the lock of a table.
    fn ready(&self, patience: Duration) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = patience;
        std::future::ready(Ok(()))
    }

    /// True while the last commits were refused in a way that may be the store's fault. Answers are then fetched one at a
    /// time, until one is stored.
    fn is_doubtful(&self) -> bool {
        false
    }

    /// Creates what is missing, in order. Safe to call while others do. Answers the names of the migrations it ran.
    fn migrate(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// How fresh these objects are, in one statement. Objects never fetched are absent. After `limit` it is given up.
    fn freshness(
        &self,
        objects: &[ObjectId],
        limit: Duration,
    ) -> impl Future<Output = Result<HashMap<ObjectId, Freshness>, StoreError>> + Send;

    /// An object of this kind that was answered well in the week before `now`, none of these tags, and one whose copy is old if
    /// there is one: what a control call asks for.
    fn answered_well(
        &self,
        kind: Kind,
        but: &[String],
        now: Timestamp,
        limit: Duration,
    ) -> impl Future<Output = Result<Option<ObjectId>, StoreError>> + Send;

    /// Stores a batch in one transaction, a constant number of statements. Answers in order. An error means that
    /// nothing of it was stored and that the store as a whole is in trouble; a record that hurts only itself is
    /// [`Committed::Poison`], and one that may be stored later [`Committed::Held`].
    fn commit(&self, now: Timestamp, batch: &[Fetched]) -> impl Future<Output = Result<Commit, StoreError>> + Send {
        self.commit_and_delete(now, batch, &[], UNHURRIED)
    }

    /// [`Self::commit`], and in the same transaction the notes of these ids are forgotten: they are told. All tries
    /// together take no longer than `limit`; after [`StoreError::OutOfTime`] the batch may be stored or not, as after a
    /// connection that broke.
    fn commit_and_delete(
        &self,
        now: Timestamp,
        batch: &[Fetched],
        told: &[i64],
        limit: Duration,
    ) -> impl Future<Output = Result<Commit, StoreError>> + Send;

    /// The oldest notes of commits before this time that nobody has forgotten, at most [`MAX_OUTBOX_ENTRIES`].
    fn outbox(&self, before: Timestamp) -> impl Future<Output = Result<Vec<OutboxEntry>, StoreError>> + Send;

    /// Notes that are told, or given up.
    fn delete_from_outbox(&self, ids: &[i64]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Writes the row of a finished run; old rows are trimmed.
    fn record_run(&self, row: &RunRow) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn last_run(&self) -> impl Future<Output = Result<Option<RunRow>, StoreError>> + Send;

    /// The newest run of each sort, in one statement where there is more than one.
    fn last_runs(&self) -> impl Future<Output = Result<LastRuns, StoreError>> + Send {
        async { Ok(LastRuns { any: self.last_run().await?, ..LastRuns::default() }) }
    }
}

/// A failure of the database. Each variant is a whole sentence.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke, or it did not answer in time.
    #[error("cannot reach the database at {server}: {detail}")]
    Unreachable { server: String, detail: String },
    /// The caller's limit came before an answer did.
    #[error("{}: no time was left", cannot(action, server))]
    OutOfTime { server: String, action: &'static str },
    /// The server answers and takes no writes.
    #[error("cannot write to the database at {server}: {detail}")]
    ReadOnly { server: String, is_standby: bool, detail: String },
    /// A right is missing; the detail says which, `remedy` is the statement that grants it.
    #[error("{}: {detail}. Fix: {remedy}", cannot(action, server))]
    NotAllowed { server: String, action: &'static str, detail: String, remedy: String },
    /// Somebody else holds a lock that no commit can go past; the detail says who, as far as it is known.
    #[error("{}: {detail}", cannot(action, server))]
    Locked { server: String, action: &'static str, detail: String },
    /// The database answered with an error.
    #[error("{}: {detail}", cannot(action, server))]
    Failed { server: String, action: &'static str, detail: String },
}

/// The beginning of an error's sentence. Verbs that do not take "in the database" have their own.
fn cannot(action: &str, server: &str) -> String {
    match action {
        "connect" | "ping" => format!("cannot connect to the database at {server}"),
        "work" => format!("cannot work with the database at {server}"),
        "read the address" => format!("{server} cannot be used"),
        action => format!("cannot {action} in the database at {server}"),
    }
}
