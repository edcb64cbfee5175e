//! One transaction of a commit: who wins, what is there, what is to be written, and the writing.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    connect::Single,
    shape::{self, Shape},
    writes::{self, Last},
};
use crate::{
    clock::Timestamp,
    model::{Fetched, Kind, Tag},
    store::{
        Commit, Telling,
        plan::{
            self, CLOCK_TOLERANCE, Facts, Replaced, Writes,
            claims::{ClaimRow, Claims, StateRow, Winners},
            memberships::{self, Stay},
            players::{self, Word},
            snapshots::{self, Newest, NewestRows},
            times::{TableTime, utc},
        },
    },
};

/// Serialises the stepping of sequences: the letters `rfid`.
const IDS_LOCK: i64 = 0x7266_6964;

/// How many ids above the highest a commit leaves out: those who give `max(id) + 1` may insert this many rows while it is under
/// way, and meet none of its ids.
pub(super) const IDS_LEFT_TO_OTHERS: i64 = 200;

/// Ids of four bytes are left out only where others are expected, since they come to an end: in the first commits of a
/// process, which knows nothing yet …
const COMMITS_OF_DOUBT: u32 = 20;

/// … and this long after rows of others were seen.
const OTHERS_REMEMBERED: Duration = Duration::from_secs(3600);

/// How long one statement may take, and how long it may wait for each lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) statement: Duration,
    pub(super) lock: Duration,
}

/// The mark of one transaction: an advisory lock that nobody else takes. Others see in it which session a transaction has, through
/// any pooler, and at no round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(pub(super) [i32; 2]);

impl Mark {
    pub(super) fn new() -> Self {
        Self([(); 2].map(|()| fastrand::i32(1..)))
    }

    /// Shared, and never waited for.
    pub(super) fn set(self) -> String {
        let [high, low] = self.0;
        format!(", pg_try_advisory_xact_lock_shared({high}, {low})")
    }
}

/// The settings hold for this transaction only. A worker that is frozen in the middle must not hold
/// its locks for so long that the statements of others give up. Not `READ WRITE`: that would override
/// `default_transaction_read_only`, with which providers protect a disk that is nearly full.
pub(super) fn begin(timeouts: Timeouts) -> String {
    // Zero would be no timeout at all.
    let [statement, lock] = [timeouts.statement, timeouts.lock].map(|timeout| timeout.as_millis().max(1));
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

/// One transaction.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) keeps_statements: bool,
    pub(super) now: Timestamp,
    pub(super) batch: &'a [Fetched],
    pub(super) telling: Telling,
    /// Notes to be forgotten.
    pub(super) told: &'a [i64],
    pub(super) ids: &'a Ids,
    /// How many more ids than usual are left out above the highest.
    pub(super) more_ids: i64,
    pub(super) timeouts: Timeouts,
    pub(super) mark: Mark,
}

impl<'a> Attempt<'a> {
    /// Once more with texts that fit when the database refuses those that there are.
    pub(super) async fn run(&self, connection: &mut PgConnection) -> Result<Commit, sqlx::Error> {
        match self.run_once(connection, None).await {
            Err(error) if shape::may_fit(&error) => {
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
        let claims = Claims::of(self.batch);
        let winners = self.arbitrate(connection, &claims).await?;
        failpoint!("commit.after_arbiter");
        let replaced = self.read_replaced(connection, &claims, &winners).await?;
        let mut words = players::words(&claims, &winners);
        let newest = self.read_newest(connection, &claims, &winners, &words).await?;
        plan::heed(&mut words, &newest, self.horizon());
        let stays = self.stay_changes(connection, &claims, &winners, &words).await?;
        let writes = Writes::of(&claims, &winners, &words, &newest, self.horizon());
        self.leave_ids(connection, writes.new_rows(), !stays.opened.is_empty()).await?;
        let facts = Facts {
            batch: self.batch,
            claims: &claims,
            winners: &winners,
            words: &words,
            newest: &newest,
            writes: &writes,
            stays: &stays,
            replaced,
        };
        let commit = facts.told(self.telling);
        let last = Last { stays: &stays, note: commit.outbox.first(), now: self.now, told: self.told };
        writes::write(connection, &writes, last, shape, self.keeps_statements).await?;
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
            .bind((self.now + CLOCK_TOLERANCE).to_utc())
            .fetch_all(connection)
            .await?;
        Ok(Winners::new(winners))
    }

    /// The documents that will be replaced, when somebody wants to know what changed in them.
    async fn read_replaced(
        &self,
        connection: &mut PgConnection,
        claims: &Claims<'a>,
        winners: &Winners,
    ) -> Result<Vec<Replaced>, sqlx::Error> {
        let [clans, players, wars] = plan::replaced_rows(claims, winners);
        if self.telling.events.is_none() || (clans.is_empty() && players.is_empty() && wars.is_empty()) {
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
        words: &BTreeMap<&'a Tag, Word<'a>>,
    ) -> Result<NewestRows, sqlx::Error> {
        let documents = |kind: Kind| -> (Vec<&str>, Vec<TableTime>) {
            let documents = plan::documents(claims, winners, kind).into_iter();
            documents.map(|(tag, began)| (tag.as_str(), utc(began))).unzip()
        };
        let (clans, clans_at) = documents(Kind::Clan);
        let (wars, wars_at) = documents(Kind::War);
        let newest: Vec<Newest> = sqlx::query_as(NEWEST)
            .persistent(self.keeps_statements)
            .bind(words.keys().map(|tag| tag.as_str()).collect::<Vec<_>>())
            .bind(words.values().map(|word| utc(word.new_row_at())).collect::<Vec<_>>())
            .bind(words.values().map(Word::is_in_war).collect::<Vec<_>>())
            .bind(clans)
            .bind(clans_at)
            .bind(wars)
            .bind(wars_at)
            .fetch_all(connection)
            .await?;
        Ok(snapshots::by_object(newest))
    }

    /// Reads the stays that the batch can change and decides.
    async fn stay_changes(
        &self,
        connection: &mut PgConnection,
        claims: &Claims<'a>,
        winners: &Winners,
        words: &BTreeMap<&'a Tag, Word<'a>>,
    ) -> Result<memberships::Changes<'a>, sqlx::Error> {
        let (placed, rolls) = (plan::placed(words, self.horizon()), plan::rolls(claims, winners));
        let Some(earliest) = plan::earliest_moment(&placed, &rolls) else {
            return Ok(memberships::Changes::default());
        };
        let stays: Vec<Stay> = sqlx::query_as(MEMBERSHIPS_READ)
            .persistent(self.keeps_statements)
            .bind(placed.keys().map(|tag| tag.as_str()).collect::<Vec<_>>())
            .bind(rolls.keys().copied().collect::<Vec<_>>())
            .bind(earliest)
            .fetch_all(connection)
            .await?;
        Ok(memberships::decide(&placed, &rolls, &stays, self.horizon()))
    }

    /// Leaves ids to other programs, which give them as `max(id) + 1`: what they insert while this transaction is open must not
    /// meet its ids. Where they have gone beyond a sequence, it is brought up to them.
    async fn leave_ids(
        &self,
        connection: &mut PgConnection,
        [clans, players, wars]: [bool; 3],
        stays: bool,
    ) -> Result<(), sqlx::Error> {
        if ![clans, players, wars, stays].contains(&true) {
            return Ok(());
        }
        let left = IDS_LEFT_TO_OTHERS + self.more_ids;
        let (behind, _): (i64, i64) = sqlx::query_as(IDS_LEAVE)
            .persistent(self.keeps_statements)
            .bind(clans)
            .bind(players)
            .bind(wars)
            .bind(stays)
            .bind(left)
            .bind(if self.ids.are_wanted_by_others() { left } else { self.more_ids })
            .fetch_one(&mut *connection)
            .await?;
        if behind > 0 {
            self.ids.others_were_seen();
            // The lock first and in a statement of its own: the step must see what its last holder did.
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

/// Whether other programs insert rows with ids of their own, as this process has seen.
#[derive(Debug, Default)]
pub(super) struct Ids {
    commits: AtomicU32,
    seen: Mutex<Option<Instant>>,
}

impl Ids {
    /// True for the first commits of a process, and for a while after others were seen. Asked once a commit.
    fn are_wanted_by_others(&self) -> bool {
        let is_new = self.commits.fetch_add(1, Ordering::Relaxed) < COMMITS_OF_DOUBT;
        is_new || self.seen().is_some_and(|seen| seen.elapsed() < OTHERS_REMEMBERED)
    }

    fn others_were_seen(&self) {
        *self.seen() = Some(Instant::now());
    }

    fn seen(&self) -> MutexGuard<'_, Option<Instant>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn others_are_expected_at_first_and_after_they_were_seen() {
        let ids = Ids::default();
        for _ in 0..COMMITS_OF_DOUBT {
            assert!(ids.are_wanted_by_others());
        }
        assert!(!ids.are_wanted_by_others());
        ids.others_were_seen();
        assert!(ids.are_wanted_by_others());
    }
}
