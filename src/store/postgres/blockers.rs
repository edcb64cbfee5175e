//! Locks of other sessions that block a commit, and their holders, as far as the role may see them.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    attempt::Mark,
    connect::{Database, Single},
};
use crate::{columns::from_row, store::StoreError};

/// The limit for finding a blocker. Nothing waits longer for it.
const ASK_TIMEOUT: Duration = Duration::from_millis(700);

/// The interval of checks while a table is locked.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

const BLOCKED_BY: &str = include_str!("../sql/postgres/blocked_by.sql");
const TABLE_LOCKS: &str = include_str!("../sql/postgres/table_locks.sql");

/// A session whose lock blocks a commit.
#[derive(Clone, Debug)]
pub(super) struct Blocker {
    relation: Option<String>,
    /// The whole table is locked, not a row: no commit can pass.
    pub(super) is_whole_table: bool,
    /// 0 or `None`: a prepared transaction of two-phase commit.
    pid: Option<i32>,
    /// Another worker of the same role. It is slow or frozen, and the server ends it within four seconds.
    pub(super) is_ours: Option<bool>,
    role: Option<String>,
    application: Option<String>,
    /// `None` when this role may not see it.
    state: Option<String>,
    since: Option<String>,
    /// Found among the holders of locks afterwards, not during the wait.
    is_guess: bool,
}

from_row!(postgres: Blocker { relation, is_whole_table, pid, is_ours, role, application, state, since, is_guess });

impl Blocker {
    /// The locked table and the holder, for people.
    pub(super) fn describe(&self) -> String {
        let table = self.relation.as_deref().unwrap_or("one of the tables");
        let what = if self.is_whole_table { format!("table {table}") } else { format!("a row of {table}") };
        let probably = if self.is_guess && !self.is_whole_table { "probably " } else { "" };
        format!("{what} is {probably}locked by {}", self.who())
    }

    fn who(&self) -> String {
        let Some(pid) = self.pid.filter(|pid| *pid > 0) else {
            return "a prepared transaction (see pg_prepared_xacts)".to_owned();
        };
        let mut known = Vec::new();
        match (&self.state, &self.since) {
            (Some(state), Some(since)) => known.push(format!("{state}, its transaction began {since}")),
            (Some(state), None) => known.push(state.clone()),
            _ => {}
        }
        known.extend(self.role.as_ref().map(|role| format!("role {role}")));
        known.extend(self.application.as_ref().map(|application| format!("application {application}")));
        if known.is_empty() { format!("pid {pid}") } else { format!("pid {pid} ({})", known.join("; ")) }
    }
}

/// Runs the work. Returns its result, and the session that blocked it, if the wait was long enough to find one.
pub(super) async fn watched<T>(
    database: &Database,
    after: Duration,
    mark: Mark,
    work: impl Future<Output = T>,
) -> (T, Option<Blocker>) {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        // Finished work needs no blocker.
        biased;
        done = work.as_mut() => (done, None),
        // Boxed: opening a connection is a large future, and rare.
        // The work then goes on: a lock that is released in time does no harm.
        blocker = Box::pin(watch(database, after, mark)) => (work.await, Some(blocker)),
    }
}

/// Looks, from time to time, for the session that blocks the marked transaction, and returns it. It uses an idle connection or
/// opens one, and never takes one that others wait for.
async fn watch(database: &Database, after: Duration, mark: Mark) -> Blocker {
    loop {
        tokio::time::sleep(after).await;
        if let Some(blocker) = find_blocker(database, Question::Blocks(mark)).await {
            return blocker;
        }
    }
}

/// The current holder of a lock that may have been in the way, when none was found during the wait.
pub(super) async fn guess(database: &Database) -> Option<Blocker> {
    find_blocker(database, Question::Locks { rows_too: true }).await
}

/// A question about locks.
#[derive(Clone, Copy, Debug)]
enum Question {
    /// The session that blocks this transaction.
    Blocks(Mark),
    /// The session that holds a table, or rows of it.
    Locks { rows_too: bool },
}

/// Asks the database one question about locks, within [`ASK_TIMEOUT`]. `None` when there is no such session or no response.
async fn find_blocker(database: &Database, question: Question) -> Option<Blocker> {
    let answer = async {
        let pool = &database.pool;
        let mut connection = match database.try_acquire() {
            Some(connection) => connection,
            // A pool of one has a free connection again after the commit, but not during the wait.
            None if matches!(question, Question::Locks { .. })
                || pool.size() < pool.options().get_max_connections() =>
            {
                database.in_use(pool.acquire().await.ok()?)
            }
            None => return None,
        };
        let mut single = Single::begin(&mut connection, database.keeps_statements()).await.ok()?;
        let query = match question {
            Question::Blocks(Mark([high, low])) => sqlx::query_as(BLOCKED_BY).bind(high).bind(low),
            Question::Locks { rows_too } => sqlx::query_as(TABLE_LOCKS).bind(rows_too),
        };
        // A rare question must not take the place of a frequent statement in the cache.
        let query = query.persistent(false);
        // Without the right to read the locks, the blocker stays unknown.
        let blocker = query.fetch_optional(single.connection()).await.ok().flatten();
        single.end().await.ok()?;
        blocker
    };
    timeout(ASK_TIMEOUT, Box::pin(answer)).await.ok().flatten()
}

/// Waits until no table that commits need is locked. A lock that outlasts the wait is an error that names it: the run would
/// spend its calls on responses that cannot be stored.
pub(super) async fn wait_for_tables(database: &Database, timeout: Duration) -> Result<(), StoreError> {
    let began = Instant::now();
    loop {
        // A question that failed counts as no lock: the first commit meets a real lock anyway.
        let Some(blocker) = find_blocker(database, Question::Locks { rows_too: false }).await else { return Ok(()) };
        if began.elapsed() + LOOK_AGAIN >= timeout {
            let waited = began.elapsed().as_secs_f64();
            let detail = format!("{}, still after {waited:.1} s", blocker.describe());
            return Err(locked(database, "use the tables", detail));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub(super) fn locked(database: &Database, action: &'static str, detail: String) -> StoreError {
    StoreError::Locked { server: database.server.clone(), action, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocker() -> Blocker {
        Blocker {
            relation: Some("players".to_owned()),
            is_whole_table: false,
            pid: Some(17),
            is_ours: Some(false),
            role: Some("bob".to_owned()),
            application: None,
            state: Some("idle in transaction".to_owned()),
            since: Some("2026-03-04T05:06:07Z".to_owned()),
            is_guess: false,
        }
    }

    #[test]
    fn description_has_all_that_is_known() {
        let text = blocker().describe();
        assert_eq!(
            text,
            "a row of players is locked by pid 17 (idle in transaction, its transaction began 2026-03-04T05:06:07Z; role bob)"
        );
        let hidden = Blocker { state: None, since: None, role: None, is_whole_table: true, ..blocker() };
        assert_eq!(hidden.describe(), "table players is locked by pid 17");
        let prepared = Blocker { pid: Some(0), relation: None, is_guess: true, ..blocker() };
        assert!(
            prepared.describe().starts_with("a row of one of the tables is probably locked by a prepared transaction")
        );
    }
}
