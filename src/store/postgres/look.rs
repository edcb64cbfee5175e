//! What the database knows about one object, for an operator. Only reads.

use sqlx::{Connection as _, FromRow};

use super::{PostgresStore, STATEMENT_TIMEOUT, connect::on_connection};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    store::{
        StoreError,
        plan::times::{TableTime, from_utc},
    },
};

const LOOK_STATE: &str = include_str!("../sql/postgres/look_state.sql");
const LOOK_ERRORS: &str = include_str!("../sql/postgres/look_errors.sql");

/// How many errors are told.
const MOST_ERRORS: i64 = 5;

/// The object's row of `refresh_state`, and what runs reported about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// When the call began whose answer is stored; `None`: never fetched.
    pub fetched_at: Option<Timestamp>,
    /// When an answer last brought other content.
    pub changed_at: Option<Timestamp>,
    /// Until when the API would give the same bytes again.
    pub fresh_until: Option<Timestamp>,
    pub last_outcome: Option<String>,
    /// Players: the newest member list that set the columns.
    pub member_at: Option<Timestamp>,
    /// The newest first.
    pub errors: Vec<ReportedError>,
}

/// An error in the report of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedError {
    pub run: String,
    pub started: Timestamp,
    pub text: String,
}

#[derive(FromRow)]
struct StateRow {
    fetched_at: Option<TableTime>,
    changed_at: Option<TableTime>,
    fresh_until: Option<TableTime>,
    last_outcome: Option<String>,
    member_at: Option<TableTime>,
}

#[derive(FromRow)]
struct ErrorRow {
    run: String,
    started: TableTime,
    text: String,
}

impl PostgresStore {
    /// Everything that is known about an object; `None` when it was never seen and no run reported it.
    ///
    /// # Errors
    /// When the database does not answer, or has no such tables yet.
    pub async fn look(&self, object: &ObjectId) -> Result<Option<Looked>, StoreError> {
        let database = &self.database;
        let read: Result<_, StoreError> = on_connection!(
            database,
            database.acquire(),
            STATEMENT_TIMEOUT,
            "read an object",
            |connection, keeps| async {
                let mut transaction = connection.begin().await?;
                let state: Option<StateRow> = sqlx::query_as(LOOK_STATE)
                    .persistent(keeps)
                    .bind(object.kind.as_str())
                    .bind(object.tag.as_str())
                    .fetch_optional(&mut *transaction)
                    .await?;
                let errors: Vec<ErrorRow> = sqlx::query_as(LOOK_ERRORS)
                    .persistent(keeps)
                    .bind(object.to_string())
                    .bind(MOST_ERRORS)
                    .fetch_all(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                Ok((state, errors))
            }
        );
        let (state, errors) = read?;
        Ok((state.is_some() || !errors.is_empty()).then(|| looked(state, errors)))
    }
}

fn looked(state: Option<StateRow>, errors: Vec<ErrorRow>) -> Looked {
    let errors =
        errors.into_iter().map(|row| ReportedError { run: row.run, started: from_utc(row.started), text: row.text });
    let errors = errors.collect();
    let Some(state) = state else { return Looked { errors, ..Looked::default() } };
    Looked {
        fetched_at: state.fetched_at.map(from_utc),
        changed_at: state.changed_at.map(from_utc),
        fresh_until: state.fresh_until.map(from_utc),
        last_outcome: state.last_outcome,
        member_at: state.member_at.map(from_utc),
        errors,
    }
}
