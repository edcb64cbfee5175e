//! The commit: one transaction, a constant number of statements, and what is done when it fails.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Connection, PgConnection, Postgres, postgres::PgArguments, query::Query};
use time::OffsetDateTime;

use super::{
    connect::{Database, discard, within},
    errors::{self, Trouble},
};
use crate::{
    clock::Timestamp,
    model::{ClanDocument, Fetched, Kind, Tag, WarDocument},
    store::{
        Committed, StoreError,
        plan::{
            self, CLOCK_TOLERANCE, SUSPICIOUS_FAILURES, Writes,
            claims::{ClaimRow, Claims, StateRow, Winners},
            memberships::{self, Stay},
            players::{self, Newest, NewestRows, Place, PlayerWrite, Word},
            times::{TableTime, utc},
        },
        rows::{self, NAME_WIDTH},
    },
};

/// How often the whole is tried again after a conflict with other transactions.
const CONFLICT_RETRIES: u32 = 5;

/// How often the whole is tried again after somebody else took an id or a time.
const TAKEN_RETRIES: u32 = 3;

/// How far beyond the highest id a retry goes, so that those who go on with `max(id) + 1` meanwhile do not meet it.
const IDS_LEFT_TO_OTHERS: i64 = 200;

/// The longest an attempt may take as seen from here; the server stops its statements earlier.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// Serialises the stepping of sequences: the letters `rfid`.
const IDS_LOCK: i64 = 0x7266_6964;

/// The settings hold for this transaction only. A worker that is frozen in the middle must not hold its locks.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT set_config('statement_timeout', '10s', \
                     true), set_config('idle_in_transaction_session_timeout', '20s', true)";

const ARBITER: &str = include_str!("../sql/postgres/arbiter.sql");
const NEWEST: &str = include_str!("../sql/postgres/newest.sql");
const MEMBERSHIPS_READ: &str = include_str!("../sql/postgres/memberships_read.sql");
const MEMBERSHIPS_WRITE: &str = include_str!("../sql/postgres/memberships_write.sql");
const CLANS: &str = include_str!("../sql/postgres/clans.sql");
const PLAYERS: &str = include_str!("../sql/postgres/players.sql");
const WARS: &str = include_str!("../sql/postgres/wars.sql");
const IDS_BEHIND: &str = include_str!("../sql/postgres/ids_behind.sql");
const IDS_STEP: &str = include_str!("../sql/postgres/ids_step.sql");

pub(super) async fn commit(
    database: &Database,
    now: Timestamp,
    batch: &[Fetched],
) -> Result<Vec<Committed>, StoreError> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    match whole(database, now, batch).await {
        Ok(committed) => Ok(committed),
        Err(Failure::Store(error)) => Err(error),
        Err(Failure::Record(_)) => one_by_one(database, now, batch).await,
    }
}

/// Why a batch could not be stored as a whole.
enum Failure {
    Store(StoreError),
    Record(sqlx::Error),
}

/// The batch in one transaction, again when others were in the way.
async fn whole(database: &Database, now: Timestamp, batch: &[Fetched]) -> Result<Vec<Committed>, Failure> {
    let (mut conflicts, mut taken) = (0, 0);
    loop {
        let mut connection = database.acquire().await.map_err(Failure::Store)?;
        let attempt = Attempt {
            keeps_statements: database.keeps_statements,
            now,
            batch,
            ids_left: IDS_LEFT_TO_OTHERS * i64::from(taken),
        };
        let error = match within(ATTEMPT_TIMEOUT, attempt.run(&mut connection)).await {
            Ok(committed) => return Ok(committed),
            Err(error) => error,
        };
        if errors::is_connection_lost(&error) {
            discard(connection);
        }
        match errors::trouble(&error) {
            Trouble::Conflict if conflicts < CONFLICT_RETRIES => conflicts += 1,
            Trouble::Taken | Trouble::TakenId if taken < TAKEN_RETRIES => taken += 1,
            Trouble::Taken | Trouble::Record => return Err(Failure::Record(error)),
            Trouble::Conflict | Trouble::TakenId | Trouble::Store => {
                return Err(Failure::Store(errors::store_error(&database.server, "store a batch", &error)));
            }
        }
        tracing::debug!(error = %error, conflicts, taken, "others were in the way of a batch; it is tried again");
        let longest = Duration::from_millis(10) * 2_u32.pow(conflicts + taken);
        tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
    }
}

/// Each record in a transaction of its own, so that a bad one hurts only itself.
async fn one_by_one(database: &Database, now: Timestamp, batch: &[Fetched]) -> Result<Vec<Committed>, StoreError> {
    let mut committed = vec![Committed::Superseded; batch.len()];
    let newest = rows::newest_answers(batch);
    let mut refused: Vec<sqlx::Error> = Vec::new();
    for &place in &newest {
        committed[place] = match whole(database, now, &batch[place..=place]).await {
            Ok(mut one) => one.remove(0),
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Record(error)) => {
                let poison = Committed::Poison(errors::reason(&error));
                refused.push(error);
                poison
            }
        };
    }
    let all_alike = refused.windows(2).all(|pair| errors::code(&pair[0]) == errors::code(&pair[1]));
    match refused.last() {
        Some(error) if refused.len() == newest.len() && refused.len() >= SUSPICIOUS_FAILURES && all_alike => {
            Err(errors::store_error(&database.server, "store any record", error))
        }
        _ => Ok(committed),
    }
}

/// One transaction.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    keeps_statements: bool,
    now: Timestamp,
    batch: &'a [Fetched],
    /// How many ids above the highest are left out.
    ids_left: i64,
}

impl<'a> Attempt<'a> {
    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Committed>, sqlx::Error> {
        let mut transaction = connection.begin_with(BEGIN).await?;
        let claims = Claims::of(self.batch);
        let winners = self.arbitrate(&mut transaction, &claims).await?;
        let mut words = players::words(&claims, &winners);
        let newest = self.read_newest(&mut transaction, &claims, &winners, &words).await?;
        plan::heed(&mut words, &newest, self.horizon());
        let stays = self.stay_changes(&mut transaction, &claims, &winners, &words).await?;
        let writes = Writes::of(&claims, &winners, &words, &newest, self.horizon());
        if writes.insert_rows() || !stays.opened.is_empty() {
            self.step_ids(&mut transaction).await?;
        }
        self.write_clans(&mut transaction, &writes.clans).await?;
        self.write_players(&mut transaction, &writes.players).await?;
        self.write_wars(&mut transaction, &writes.wars).await?;
        self.write_stays(&mut transaction, &stays).await?;
        transaction.commit().await?;
        Ok(plan::told(self.batch, &claims, &winners))
    }

    fn horizon(&self) -> TableTime {
        utc(self.now + CLOCK_TOLERANCE)
    }

    fn query(&self, sql: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(sql).persistent(self.keeps_statements)
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
        Ok(players::by_object(newest))
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
            self.query("SELECT pg_advisory_xact_lock($1)").bind(IDS_LOCK).execute(&mut *connection).await?;
            self.query(IDS_STEP).bind(self.ids_left).execute(connection).await?;
        }
        Ok(())
    }

    async fn write_clans(
        &self,
        connection: &mut PgConnection,
        clans: &[(&'a Fetched, &'a ClanDocument, Place)],
    ) -> Result<(), sqlx::Error> {
        if clans.is_empty() {
            return Ok(());
        }
        let tags = || clans.iter().map(|(fetched, ..)| &fetched.object.tag);
        let links: Vec<Option<String>> = tags().map(|tag| rows::deep_link(Kind::Clan, tag)).collect();
        let documents: Vec<_> = clans
            .iter()
            .zip(&links)
            .map(|((_, clan, _), link)| rows::with_deep_link(&clan.json, link.as_deref().unwrap_or_default()))
            .collect();
        let count = |clan: &ClanDocument| i32::try_from(clan.members.len()).unwrap_or(i32::MAX);
        self.query(CLANS)
            .bind(tags().map(Tag::as_str).collect::<Vec<_>>())
            .bind(clans.iter().map(|(_, clan, _)| rows::cut(&clan.name, NAME_WIDTH)).collect::<Vec<_>>())
            .bind(clans.iter().map(|(_, clan, _)| count(clan)).collect::<Vec<_>>())
            .bind(clans.iter().map(|(_, clan, _)| clan.level).collect::<Vec<_>>())
            .bind(clans.iter().map(|(_, clan, _)| clan.war_wins).collect::<Vec<_>>())
            .bind(clans.iter().map(|(_, clan, _)| clan.war_losses).collect::<Vec<_>>())
            .bind(documents)
            .bind(links)
            .bind(clans.iter().map(|(fetched, ..)| utc(fetched.began)).collect::<Vec<_>>())
            .bind(clans.iter().map(|(.., place)| place.at()).collect::<Vec<_>>())
            .bind(clans.iter().map(|(.., place)| place.row()).collect::<Vec<_>>())
            .bind(clans.iter().map(|(.., place)| place.replaces()).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_players(
        &self,
        connection: &mut PgConnection,
        players: &[PlayerWrite<'_>],
    ) -> Result<(), sqlx::Error> {
        if players.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&PlayerWrite<'_>) -> Option<i32>| players.iter().map(of).collect::<Vec<_>>();
        self.query(PLAYERS)
            .bind(players.iter().map(|write| write.tag.as_str()).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.columns.name.as_deref()).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.columns.role.as_deref()).collect::<Vec<_>>())
            .bind(column(|write| write.columns.town_hall))
            .bind(players.iter().map(|write| &*write.columns.clan_tag).collect::<Vec<_>>())
            .bind(column(|write| write.columns.trophies))
            .bind(column(|write| write.columns.donations))
            .bind(column(|write| write.columns.donations_received))
            .bind(column(|write| write.attacks))
            .bind(players.iter().map(|write| write.last_seen).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.document.as_deref()).collect::<Vec<_>>())
            .bind(players.iter().map(|write| rows::deep_link(Kind::Player, write.tag)).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.updated_at).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.claim.as_str()).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.snapshot.as_str()).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.snapshot.at()).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.snapshot.row()).collect::<Vec<_>>())
            .bind(players.iter().map(|write| write.snapshot.replaces()).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_wars(
        &self,
        connection: &mut PgConnection,
        wars: &[(&'a Fetched, &'a WarDocument, Place)],
    ) -> Result<(), sqlx::Error> {
        if wars.is_empty() {
            return Ok(());
        }
        self.query(WARS)
            .bind(wars.iter().map(|(fetched, ..)| fetched.object.tag.as_str()).collect::<Vec<_>>())
            .bind(wars.iter().map(|(_, war, _)| war.json.as_str()).collect::<Vec<_>>())
            .bind(wars.iter().map(|(.., place)| place.at()).collect::<Vec<_>>())
            .bind(wars.iter().map(|(.., place)| place.row()).collect::<Vec<_>>())
            .bind(wars.iter().map(|(.., place)| place.replaces()).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_stays(
        &self,
        connection: &mut PgConnection,
        stays: &memberships::Changes<'_>,
    ) -> Result<(), sqlx::Error> {
        if stays.closed.is_empty() && stays.opened.is_empty() {
            return Ok(());
        }
        let (ids, left): (Vec<i64>, Vec<TableTime>) = stays.closed.iter().copied().unzip();
        self.query(MEMBERSHIPS_WRITE)
            .bind(ids)
            .bind(left)
            .bind(stays.opened.iter().map(|(player, ..)| player.as_str()).collect::<Vec<_>>())
            .bind(stays.opened.iter().map(|(_, clan, _)| clan.as_str()).collect::<Vec<_>>())
            .bind(stays.opened.iter().map(|(.., joined)| *joined).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }
}
