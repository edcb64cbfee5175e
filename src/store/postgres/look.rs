//! What the database knows about one object, for an operator. Only reads.

use sqlx::{Connection as _, FromRow};
use time::OffsetDateTime;

use super::{PostgresStore, STATEMENT_TIMEOUT, connect::within};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    store::{StoreError, plan::times::from_zoned},
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
    fetched_at: Option<OffsetDateTime>,
    changed_at: Option<OffsetDateTime>,
    fresh_until: Option<OffsetDateTime>,
    last_outcome: Option<String>,
    member_at: Option<OffsetDateTime>,
}

#[derive(FromRow)]
struct ErrorRow {
    run: String,
    started: OffsetDateTime,
    text: String,
}

impl PostgresStore {
    /// Everything that is known about an object; `None` when it was never seen and no run reported it.
    ///
    /// # Errors
    /// When the database does not answer, or has no such tables yet.
    pub async fn look(&self, object: &ObjectId) -> Result<Option<Looked>, StoreError> {
        let keeps = self.database.keeps_statements;
        let mut connection = self.database.acquire().await?;
        let read = within(STATEMENT_TIMEOUT, async {
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
        });
        let read = read.await;
        let (state, errors) = self.database.give_back(connection, read, "look an object up")?;
        Ok((state.is_some() || !errors.is_empty()).then(|| looked(state, errors)))
    }
}

fn looked(state: Option<StateRow>, errors: Vec<ErrorRow>) -> Looked {
    let errors =
        errors.into_iter().map(|row| ReportedError { run: row.run, started: from_zoned(row.started), text: row.text });
    let errors = errors.collect();
    let Some(state) = state else { return Looked { errors, ..Looked::default() } };
    Looked {
        fetched_at: state.fetched_at.map(from_zoned),
        changed_at: state.changed_at.map(from_zoned),
        fresh_until: state.fresh_until.map(from_zoned),
        last_outcome: state.last_outcome,
        member_at: state.member_at.map(from_zoned),
        errors,
    }
}
