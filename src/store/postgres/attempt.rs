//! A transaction of a commit: the arbiter, the reads, the plan, the writes.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    connect::Single,
    looks,
    shape::{self, Shape},
    writes::{self, Last},
};
use crate::{
    clock::Timestamp,
    model::{Fetched, Kind, Tag},
    store::{
        Commit, CommitDetails,
        lessons::{Subjects, Taught},
        plan::{
            self, CLOCK_TOLERANCE, Facts, Replaced, Writes,
            claims::{ClaimRow, Claims, StateRow, Winners},
            memberships::{self, Membership},
            players::{self, Observation},
            snapshots::{self, Newest, NewestRows},
            times::{TableTime, utc},
        },
    },
};

/// Serialises the stepping of sequences: the letters `rfid`.
const IDS_LOCK: i64 = 0x7266_6964;

/// A commit skips this many ids above the highest. Programs that use `max(id) + 1` may insert this many rows during the
/// commit without a conflict.
pub(super) const ID_GAP: i64 = 200;

/// Ids of four bytes run out, so a commit skips them only when it expects other programs: in the first commits of a
/// process, which knows nothing yet …
const CAUTIOUS_COMMITS: u32 = 20;

/// … and this long after it saw rows of other programs.
const OTHERS_LIFETIME: Duration = Duration::from_secs(3600);

/// The limits of a statement: its time, and its wait for each lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) statement: Duration,
    pub(super) lock: Duration,
}

/// The mark of a transaction: an advisory lock that nobody else takes. It shows which session runs the transaction, through any
/// pooler and without a round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(pub(super) [i32; 2]);

impl Mark {
    pub(super) fn new() -> Self {
        // 62 random bits: two transactions hardly ever get the same mark.
        Self([(); 2].map(|()| fastrand::i32(1..)))
    }

    /// SQL that takes the lock. It never waits.
    pub(super) fn set(self) -> String {
        let [high, low] = self.0;
        format!(", pg_try_advisory_xact_lock_shared({high}, {low})")
    }
}

/// The statements that begin a transaction, with settings for this transaction only. A frozen worker must not hold its locks
/// until the statements of others time out. Not `READ WRITE`: it would override `default_transaction_read_only`, with which
/// providers protect a disk that is nearly full.
pub(super) fn begin(timeouts: Timeouts) -> String {
    // Zero would mean no timeout.
    let [statement, lock] = [timeouts.statement, timeouts.lock].map(|timeout| timeout.as_millis().max(1));
    // One text, so that the settings cost no round trip of their own.
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('statement_timeout', '{statement}ms', true), \
         set_config('lock_timeout', '{lock}ms', true), \
         set_config('idle_in_transaction_session_timeout', '4s', true)"
    )
}

const ARBITER: &str = include_str!("../sql/postgres/arbiter.sql");
const NEWEST: &str = include_str!("../sql/postgres/newest.sql");
const MEMBERSHIPS_READ: &str = include_str!("../sql/postgres/memberships_read.sql");
const IDS_LEAVE: &str = include_str!("../sql/postgres/ids_leave.sql");
const REPLACED: &str = include_str!("../sql/postgres/replaced.sql");
const IDS_STEP: &str = include_str!("../sql/postgres/ids_step.sql");

/// The ids that a transaction leaves to other programs.
#[derive(Clone, Copy)]
pub(super) struct IdGap<'a> {
    pub(super) others: &'a OtherPrograms,
    /// Ids to skip beyond the usual gap.
    pub(super) more: i64,
}

/// A transaction of a commit.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) keeps_statements: bool,
    pub(super) now: Timestamp,
    pub(super) batch: &'a [Fetched],
    pub(super) details: CommitDetails,
    /// The ids of outbox entries that are delivered.
    pub(super) delivered: &'a [i64],
    pub(super) id_gap: IdGap<'a>,
    pub(super) timeouts: Timeouts,
    pub(super) mark: Mark,
}

impl<'a> Attempt<'a> {
    /// Runs the transaction. When the database refuses a text, runs it again with texts that fit.
    pub(super) async fn run(&self, connection: &mut PgConnection) -> Result<Commit, sqlx::Error> {
        match self.run_once(connection, None).await {
            Err(error) if shape::may_fit(&error) => {
                // The refused transaction was rolled back, so the second one stores each record once.
                let mut single = Single::begin(connection, self.keeps_statements).await?;
                let shape = Shape::read(single.connection()).await?;
                single.end().await?;
                self.run_once(connection, Some(&shape)).await
            }
            done => done,
        }
    }

    async fn run_once(&self, connection: &mut PgConnection, shape: Option<&Shape>) -> Result<Commit, sqlx::Error> {
        failpoint!("commit.before_begin");
        let mut transaction = connection.begin_with(AssertSqlSafe(begin(self.timeouts) + &self.mark.set())).await?;
        failpoint!("commit.begun");
        #[cfg(feature = "failpoints")]
        for fetched in self.batch {
            failpoint!("commit.answer", fetched.object.tag.as_str());
        }
        let commit = self.work(&mut transaction, shape).await?;
        failpoint!("commit.before_commit");
        transaction.commit().await?;
        failpoint!("commit.after_commit");
        Ok(commit)
    }

    /// Everything between the beginning and the end of the transaction.
    pub(super) async fn work(
        &self,
        connection: &mut PgConnection,
        shape: Option<&Shape>,
    ) -> Result<Commit, sqlx::Error> {
        // Reads come before writes: the plan needs them all, and other programs wait less for our locks.
        let claims = Claims::of(self.batch);
        // First, since it locks the rows that the other statements rely on.
        let winners = self.arbitrate(connection, &claims).await?;
        failpoint!("commit.after_arbiter");
        let replaced = self.read_replaced(connection, &claims, &winners).await?;
        let mut observations = players::observations(&claims, &winners);
        let newest = self.read_newest(connection, &claims, &winners, &observations).await?;
        plan::discard_outdated(&mut observations, &newest, self.horizon());
        let taught = self.lessons(connection, &claims, &winners, &observations, &newest).await?;
        let memberships = self.membership_changes(connection, &claims, &winners, &observations).await?;
        let writes = Writes::of(&claims, &winners, &observations, &newest, self.horizon());
        // Just before the inserts, so that others have little time to take the ids.
        self.leave_ids(connection, writes.new_rows(), !memberships.opened.is_empty()).await?;
        let facts = Facts {
            batch: self.batch,
            claims: &claims,
            winners: &winners,
            observations: &observations,
            newest: &newest,
            writes: &writes,
            memberships: &memberships,
            replaced,
        };
        let mut commit = facts.into_commit(self.details);
        commit.add_lessons(&taught);
        let last =
            Last { memberships: &memberships, entry: commit.outbox.first(), now: self.now, delivered: self.delivered };
        writes::write(connection, &writes, last, shape, self.keeps_statements).await?;
        looks::write_lessons(connection, &taught, self.keeps_statements).await?;
        Ok(commit)
    }

    fn horizon(&self) -> TableTime {
        utc(self.now + CLOCK_TOLERANCE)
    }

    async fn arbitrate(&self, connection: &mut PgConnection, claims: &Claims<'a>) -> Result<Winners, sqlx::Error> {
        let rows = claims.rows();
        let when = |at: fn(&ClaimRow<'a>) -> Option<Timestamp>| -> Vec<Option<OffsetDateTime>> {
            rows.iter().map(|row| at(row).map(Timestamp::to_utc)).collect()
        };
        let winners: Vec<StateRow> = sqlx::query_as(ARBITER)
            .persistent(self.keeps_statements)
            .bind(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.tag.as_str()).collect::<Vec<_>>())
            .bind(when(|row| row.answer.map(|fetched| fetched.began)))
            .bind(rows.iter().map(ClaimRow::content_hash).collect::<Vec<_>>())
            .bind(when(|row| row.answer.map(|fetched| fetched.fresh_until)))
            .bind(rows.iter().map(ClaimRow::outcome).collect::<Vec<_>>())
            .bind(rows.iter().map(ClaimRow::league).collect::<Vec<_>>())
            .bind(when(|row| row.member_at))
            .bind(when(|row| row.attacks_at))
            .bind(claims.clans())
            // A parameter instead of `now()`, so that a test with a clock of its own gets the same decisions.
            .bind((self.now + CLOCK_TOLERANCE).to_utc())
            .fetch_all(connection)
            .await?;
        Ok(Winners::new(winners))
    }

    /// What the commit teaches the planner, while that is on.
    async fn lessons(
        &self,
        connection: &mut PgConnection,
        claims: &Claims<'a>,
        winners: &Winners,
        observations: &BTreeMap<&'a Tag, Observation<'a>>,
        newest: &NewestRows,
    ) -> Result<Taught<'a>, sqlx::Error> {
        let Some(teaching) = self.details.teaching else { return Ok(Taught::default()) };
        let subjects = Subjects::of(claims, winners, observations, newest);
        if subjects.is_empty() {
            return Ok(Taught::default());
        }
        let stored = looks::read_for_lessons(connection, &subjects, self.keeps_statements).await?;
        Ok(subjects.teach(&stored, teaching, self.now))
    }

    /// The documents that will be replaced, when events need them.
    async fn read_replaced(
        &self,
        connection: &mut PgConnection,
        claims: &Claims<'a>,
        winners: &Winners,
    ) -> Result<Vec<Replaced>, sqlx::Error> {
        let [clans, players, wars] = plan::replaced_rows(claims, winners);
        if self.details.events.is_none() || (clans.is_empty() && players.is_empty() && wars.is_empty()) {
            return Ok(Vec::new());
        }
        let replaced = sqlx::query_as(REPLACED).persistent(self.keeps_statements).bind(clans).bind(players).bind(wars);
        replaced.fetch_all(connection).await
    }

    async fn read_newest(
        &self,
        connection: &mut PgConnection,
        claims: &Claims<'a>,
        winners: &Winners,
        observations: &BTreeMap<&'a Tag, Observation<'a>>,
    ) -> Result<NewestRows, sqlx::Error> {
        let documents = |kind: Kind| -> (Vec<&str>, Vec<TableTime>) {
            let documents = plan::documents(claims, winners, kind).into_iter();
            documents.map(|(tag, began)| (tag.as_str(), utc(began))).unzip()
        };
        let (clans, clans_at) = documents(Kind::Clan);
        let (wars, wars_at) = documents(Kind::War);
        let newest: Vec<Newest> = sqlx::query_as(NEWEST)
            .persistent(self.keeps_statements)
            .bind(observations.keys().map(|tag| tag.as_str()).collect::<Vec<_>>())
            .bind(observations.values().map(|observation| utc(observation.new_row_at())).collect::<Vec<_>>())
            .bind(observations.values().map(Observation::is_in_war).collect::<Vec<_>>())
            .bind(clans)
            .bind(clans_at)
            .bind(wars)
            .bind(wars_at)
            .fetch_all(connection)
            .await?;
        Ok(snapshots::by_object(newest))
    }

    /// Reads the memberships that the batch can change, and decides their changes.
    async fn membership_changes(
        &self,
        connection: &mut PgConnection,
        claims: &Claims<'a>,
        winners: &Winners,
        observations: &BTreeMap<&'a Tag, Observation<'a>>,
    ) -> Result<memberships::Changes<'a>, sqlx::Error> {
        let (locations, member_lists) =
            (plan::locations(observations, self.horizon()), plan::member_lists(claims, winners));
        let Some(earliest) = plan::earliest_observation(&locations, &member_lists) else {
            return Ok(memberships::Changes::default());
        };
        let memberships: Vec<Membership> = sqlx::query_as(MEMBERSHIPS_READ)
            .persistent(self.keeps_statements)
            .bind(locations.keys().map(|tag| tag.as_str()).collect::<Vec<_>>())
            .bind(member_lists.keys().copied().collect::<Vec<_>>())
            .bind(earliest)
            .fetch_all(connection)
            .await?;
        Ok(memberships::decide(&locations, &member_lists, &memberships, self.horizon()))
    }

    /// Skips ids for other programs that use `max(id) + 1`: their inserts during this transaction must not conflict with it. A
    /// sequence that is behind their ids is moved past them.
    async fn leave_ids(
        &self,
        connection: &mut PgConnection,
        [clans, players, wars]: [bool; 3],
        memberships: bool,
    ) -> Result<(), sqlx::Error> {
        if ![clans, players, wars, memberships].contains(&true) {
            return Ok(());
        }
        // Each retry after a taken id skips more.
        let IdGap { others, more } = self.id_gap;
        let left = ID_GAP + more;
        let (behind, _): (i64, i64) = sqlx::query_as(IDS_LEAVE)
            .persistent(self.keeps_statements)
            .bind(clans)
            .bind(players)
            .bind(wars)
            .bind(memberships)
            .bind(left)
            // Ids of four bytes: after a taken id they get the gap of the retry even when no other program is expected.
            .bind(if others.are_expected() { left } else { more })
            .fetch_one(&mut *connection)
            .await?;
        if behind > 0 {
            others.were_seen();
            // The lock comes first, in its own statement: the step must see the last holder's change.
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .persistent(self.keeps_statements)
                .bind(IDS_LOCK)
                .execute(&mut *connection)
                .await?;
            sqlx::query(IDS_STEP).persistent(self.keeps_statements).bind(left).execute(connection).await?;
        }
        Ok(())
    }
}

/// Evidence that other programs insert rows with their own ids.
#[derive(Debug, Default)]
pub(super) struct OtherPrograms {
    commits: AtomicU32,
    seen: Mutex<Option<Instant>>,
}

impl OtherPrograms {
    /// True for the first commits of a process, and for a while after rows of others were seen. Call it once per commit.
    fn are_expected(&self) -> bool {
        let is_new = self.commits.fetch_add(1, Ordering::Relaxed) < CAUTIOUS_COMMITS;
        is_new || self.seen.lock().is_some_and(|seen| seen.elapsed() < OTHERS_LIFETIME)
    }

    fn were_seen(&self) {
        *self.seen.lock() = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_stops_statements_when_we_do() {
        for (timeout, set) in [(10_000, "'10000ms'"), (300, "'300ms'"), (0, "'1ms'")] {
            let timeout = Duration::from_millis(timeout);
            let begin = begin(Timeouts { statement: timeout, lock: timeout });
            assert!(begin.contains(&format!("'statement_timeout', {set}, true")), "{begin}");
            assert!(begin.contains(&format!("'lock_timeout', {set}, true")), "{begin}");
            assert!(!begin.contains("READ WRITE"), "{begin}");
        }
    }

    #[test]
    fn others_expected_at_first_and_once_seen() {
        let others = OtherPrograms::default();
        for _ in 0..CAUTIOUS_COMMITS {
            assert!(others.are_expected());
        }
        assert!(!others.are_expected());
        others.were_seen();
        assert!(others.are_expected());
    }
}
