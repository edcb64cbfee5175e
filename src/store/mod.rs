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

use std::{collections::HashMap, future::Future};

use crate::{
    clock::Timestamp,
    model::{Fetched, LeagueMemory, ObjectId, Reason},
};

/// What we know about how fresh an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// When the call began whose answer is stored.
    pub fetched_at: Timestamp,
    /// Until when the API would give the same bytes again.
    pub fresh_until: Timestamp,
    /// For wars: what is known about the clan's league.
    pub league: Option<LeagueMemory>,
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
    /// The database refuses this one record, and would again.
    Poison(Reason),
}

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

/// Where snapshots are kept.
pub trait Store: Send + Sync + 'static {
    /// The proof that it answers.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Creates what is missing, in order. Safe to call while others do. Answers the names of the migrations it ran.
    fn migrate(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// How fresh these objects are, in one statement. Objects never fetched are absent.
    fn freshness(
        &self,
        objects: &[ObjectId],
    ) -> impl Future<Output = Result<HashMap<ObjectId, Freshness>, StoreError>> + Send;

    /// Stores a batch in one transaction, a constant number of statements. Answers in order. An error means that
    /// nothing of it was stored and that the store as a whole is in trouble; a record that hurts only itself is
    /// [`Committed::Poison`].
    fn commit(
        &self,
        now: Timestamp,
        batch: &[Fetched],
    ) -> impl Future<Output = Result<Vec<Committed>, StoreError>> + Send;

    /// Writes the row of a finished run; old rows are trimmed.
    fn record_run(&self, row: &RunRow) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn last_run(&self) -> impl Future<Output = Result<Option<RunRow>, StoreError>> + Send;
}

/// What can go wrong between us and the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke, or it did not answer in time.
    #[error("reach the database at {server}: {detail}")]
    Unreachable { server: String, detail: String },
    /// A right is missing; the detail says which, `remedy` is the statement that grants it.
    #[error("the database at {server} refused {action}: {detail}; to mend it: {remedy}")]
    NotAllowed { server: String, action: &'static str, detail: String, remedy: String },
    /// The database answered with an error.
    #[error("the database at {server} failed to {action}: {detail}")]
    Failed { server: String, action: &'static str, detail: String },
}
