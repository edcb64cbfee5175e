//! The SQL functions of a job, run side by side, each in a transaction of its own, so that none affects another.

use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    config::StatsFunction,
    maintenance::database::{Database, begin, describe, is_out_of_time, quoted},
};

/// The longest text of a function's own result that is kept, in characters.
const MAX_RESULT_CHARACTERS: i32 = 200;

/// The result of one function, as it stands in `results`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionResult {
    #[serde(alias = "function", alias = "function_name")]
    pub name: String,
    pub success: bool,
    #[serde(default, deserialize_with = "text_or_none")]
    pub message: String,
    /// In milliseconds.
    #[serde(default, deserialize_with = "whole")]
    pub duration: u64,
    #[serde(default)]
    pub error: Option<String>,
    /// The `WORKER_ID` of the worker that ran it.
    #[serde(default)]
    pub worker: String,
    /// True when it was cut off because our time was up; it may be fine.
    #[serde(skip)]
    pub is_out_of_time: bool,
}

fn text_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a number that another program may have written with a fraction.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number: Option<f64> = Option::deserialize(deserializer)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast keeps to the range")]
    Ok(number.unwrap_or_default().round() as u64)
}

/// Reads the results of a job's functions: from the object that we and the related system's worker write, or from a list alone.
/// Results that cannot be read are left out.
pub(super) fn results_in(json: &str) -> Vec<FunctionResult> {
    let list = match serde_json::from_str(json) {
        Ok(Value::Object(mut whole)) => whole.remove("function_results").unwrap_or_default(),
        Ok(list) => list,
        // Others write this column, too.
        Err(_) => Value::Null,
    };
    let Value::Array(list) = list else { return Vec::new() };
    list.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect()
}

/// Runs all functions, as many at a time as there are connections, and is done by `until`.
pub(super) async fn run_all(
    database: &Database,
    functions: &[&StatsFunction],
    until: Instant,
    worker_id: &str,
) -> Vec<FunctionResult> {
    let places = Semaphore::new(database.functions_at_a_time());
    join_all(functions.iter().map(|function| run(database, function, until, worker_id, &places))).await
}

async fn run(
    database: &Database,
    function: &StatsFunction,
    until: Instant,
    worker_id: &str,
    places: &Semaphore,
) -> FunctionResult {
    // Held until the function has ended; the semaphore is never closed.
    let _place = places.acquire().await;
    let began = Instant::now();
    // After the semaphore: waiting for a place used up time, too.
    let limit = until.saturating_duration_since(began);
    let called = if limit.is_zero() {
        Err(("the time was used up before it began".to_owned(), true))
    } else {
        call(database, &function.name, limit).await.map_err(|error| {
            let is_cut_off = is_out_of_time(&error, until);
            let within = format!("not done within {} s, the time that was left", limit.as_secs());
            (if is_cut_off { within } else { describe(&error) }, is_cut_off)
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

/// Calls a function, whatever it returns, and returns the beginning of its first row.
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

/// The statement that calls a function.
pub(in crate::maintenance) fn call_of(name: &str) -> String {
    format!("SELECT left(min(r::text), {MAX_RESULT_CHARACTERS}) FROM {}() AS r", quoted(name))
}
