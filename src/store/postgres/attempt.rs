//! One transaction of a commit: who wins, what is there, what is to be written, and the writing.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;

use super::writes::{self, Last};
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

/// The settings hold for this transaction only. A worker that is frozen in the middle must not hold
/// its locks for so long that the statements of others give up.
pub(super) fn begin(statement_timeout: Duration) -> String {
    // Zero would be no timeout at all.
    let millis = statement_timeout.as_millis().max(1);
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('statement_timeout', '{millis}ms', true), \
         set_config('idle_in_transaction_session_timeout', '4s', true)"
    )
}

const ARBITER: &str = include_str!("../sql/postgres/arbiter.sql");
const NEWEST: &str = include_str!("../sql/postgres/newest.sql");
const MEMBERSHIPS_READ: &str = include_str!("../sql/postgres/memberships_read.sql");
const IDS_BEHIND: &str = include_str!("../sql/postgres/ids_behind.sql");
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
    /// How many ids above the highest are left out.
    pub(super) ids_left: i64,
    /// How long the server lets one statement take.
    pub(super) statement_timeout: Duration,
}

impl<'a> Attempt<'a> {
    pub(super) async fn run(&self, connection: &mut PgConnection) -> Result<Commit, sqlx::Error> {
        failpoint!("commit.before_begin");
        let mut transaction = connection.begin_with(AssertSqlSafe(begin(self.statement_timeout))).await?;
        failpoint!("commit.begun");
        let commit = self.work(&mut transaction).await?;
        failpoint!("commit.before_commit");
        transaction.commit().await?;
        failpoint!("commit.after_commit");
        Ok(commit)
    }

    /// Everything between the beginning and the end of the transaction.
    pub(super) async fn work(&self, connection: &mut PgConnection) -> Result<Commit, sqlx::Error> {
        let claims = Claims::of(self.batch);
        let winners = self.arbitrate(connection, &claims).await?;
        failpoint!("commit.after_arbiter");
        let replaced = self.read_replaced(connection, &claims, &winners).await?;
        let mut words = players::words(&claims, &winners);
        let newest = self.read_newest(connection, &claims, &winners, &words).await?;
        plan::heed(&mut words, &newest, self.horizon());
        let stays = self.stay_changes(connection, &claims, &winners, &words).await?;
        let writes = Writes::of(&claims, &winners, &words, &newest, self.horizon());
        if writes.insert_rows() || !stays.opened.is_empty() {
            self.step_ids(connection).await?;
        }
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
        let last = Last { stays: &stays, note: commit.notes.first(), now: self.now, told: self.told };
        writes::write(connection, &writes, last, self.keeps_statements).await?;
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

    /// Brings the id sequences up to what other programs have taken; they give ids as `max(id) + 1`.
    async fn step_ids(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let behind: i64 = sqlx::query_scalar(IDS_BEHIND)
            .persistent(self.keeps_statements)
            .bind(self.ids_left)
            .fetch_one(&mut *connection)
            .await?;
        if behind > 0 {
            // The lock first and in a statement of its own: the step must see what its last holder did.
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .persistent(self.keeps_statements)
                .bind(IDS_LOCK)
                .execute(&mut *connection)
                .await?;
            sqlx::query(IDS_STEP).persistent(self.keeps_statements).bind(self.ids_left).execute(connection).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_stops_statements_when_we_do() {
        for (timeout, set) in [(10_000, "'10000ms'"), (300, "'300ms'"), (0, "'1ms'")] {
            let begin = begin(Duration::from_millis(timeout));
            assert!(begin.contains(&format!("'statement_timeout', {set}, true")), "{begin}");
        }
    }
}
