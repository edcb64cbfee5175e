//! The SQL functions of a job: side by side, each in a transaction of its own, none of them in the way of another.

use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    config::StatsFunction,
    derive::database::{Database, begin, is_out_of_time, quoted, told},
};

/// The longest text of a function's own result that is kept, in characters.
const TOLD_CHARACTERS: i32 = 200;

/// What became of one function, as it stands in `results`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionResult {
    pub name: String,
    pub success: bool,
    pub message: String,
    /// In milliseconds.
    pub duration: u64,
    pub error: Option<String>,
    /// `WORKER_ID` of who ran it.
    #[serde(default)]
    pub worker: String,
    /// It was cut off because our time was up: nothing is known against it.
    #[serde(skip)]
    pub is_out_of_time: bool,
}

/// Runs them all, as many at a time as there are connections, and is done by `until`.
pub(super) async fn run_all(
    database: &Database,
    functions: &[&StatsFunction],
    until: Instant,
    worker_id: &str,
) -> Vec<FunctionResult> {
    // One connection stays free for the signs of life.
    let at_a_time = database.pool.options().get_max_connections().saturating_sub(1).max(1);
    let places = Semaphore::new(at_a_time as usize);
    join_all(functions.iter().map(|function| run(database, function, until, worker_id, &places))).await
}

async fn run(
    database: &Database,
    function: &StatsFunction,
    until: Instant,
    worker_id: &str,
    places: &Semaphore,
) -> FunctionResult {
    let _place = places.acquire().await;
    let began = Instant::now();
    let limit = until.saturating_duration_since(began);
    let called = if limit.is_zero() {
        Err(("the time was used up before it began".to_owned(), true))
    } else {
        call(database, &function.name, limit).await.map_err(|error| {
            let is_cut_off = is_out_of_time(&error, until);
            let within = format!("not done within {} s, the time that was left", limit.as_secs());
            (if is_cut_off { within } else { told(&error) }, is_cut_off)
        })
    };
    let duration = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (success, message, error, is_out_of_time) = match called {
        Ok(answer) if answer.is_empty() => (true, "done".to_owned(), None, false),
        Ok(answer) => (true, answer, None, false),
        Err((error, is_out_of_time)) => (false, "failed".to_owned(), Some(error), is_out_of_time),
    };
    let (name, worker) = (function.name.clone(), worker_id.to_owned());
    FunctionResult { name, success, message, duration, error, worker, is_out_of_time }
}

/// Calls it, whatever it returns, and answers the beginning of its first row.
async fn call(database: &Database, name: &str, limit: Duration) -> Result<String, sqlx::Error> {
    let query = call_of(name);
    let called = async {
        let mut transaction = begin(&database.pool, limit).await?;
        let answer: Option<String> =
            sqlx::query_scalar(AssertSqlSafe(query)).persistent(false).fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(answer.unwrap_or_default())
    };
    database.within(limit, called).await
}

/// The statement that calls it.
pub(in crate::derive) fn call_of(name: &str) -> String {
    format!("SELECT left(min(r::text), {TOLD_CHARACTERS}) FROM {}() AS r", quoted(name))
}
