//! A trial commit that is rolled back. The catalogue does not show everything (triggers, checks, partitions, keys, types, rules),
//! so the trial runs the statements of a run. It is one transaction that never commits. The ids that it used stay used.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use time::OffsetDateTime;

use super::{
    FRESHNESS, FreshnessRow, STATEMENT_TIMEOUT,
    attempt::{self, Attempt, IdGap, Mark, OtherPrograms, Timeouts},
    looks, outbox, runs,
    shape::{self, Shape},
    tables::{Extent, SNAPSHOTS},
};
use crate::{
    clock::Timestamp,
    connections::ConnectionFault,
    model::{
        Answered, ClanDocument, Document, Event, Fetched, InClan, Learned, Member, Move, ObjectId, PlayerDocument, Tag,
        WarDocument, WarMember,
    },
    planner::Policy,
    store::{CommitDetails, RunRow, Teaching},
};

/// The trial waits for locks as a commit does.
const TIMEOUTS: Timeouts = Timeouts { statement: STATEMENT_TIMEOUT, lock: Duration::from_secs(2) };

/// The first responses are this much older than the second ones.
const BETWEEN: Duration = Duration::from_secs(20);

/// The longest possible name, in characters of four bytes each.
const NAME: &str = "🏰🏰🏰🏰🏰🏰🏰🏰🏰🏰🏰🏰🏰🏰🏰";

/// All details of a commit, so that every statement runs: those of the planner only while it is on.
fn everything(extent: Extent) -> CommitDetails {
    let teaching = Teaching { recorded_percent: 100, ..Teaching::default() };
    let teaching = extent.planner.then_some(teaching);
    CommitDetails { members: true, events: Some(no_events), renewed: true, changed: true, teaching }
}

fn no_events(_: &[Fetched], _: &[Learned], _: &[Move]) -> Vec<Event> {
    Vec::new()
}

/// A refusal of the database.
pub(super) struct Refused {
    pub(super) what: &'static str,
    pub(super) error: sqlx::Error,
}

/// Stores and changes objects that do not exist in the game, as runs do, and rolls everything back. Returns the refusals.
pub(super) async fn of_run(
    connection: &mut PgConnection,
    extent: Extent,
    keeps: bool,
) -> Result<Vec<Refused>, sqlx::Error> {
    let now = Timestamp::from_utc(OffsetDateTime::now_utc());
    let made_up = MadeUp::new();
    let mut refused = Vec::new();
    let mut transaction = connection.begin_with(AssertSqlSafe(attempt::begin(TIMEOUTS))).await?;
    for (what, batch) in made_up.batches(now) {
        let mut stored = try_storing(&mut transaction, &batch, now, None, extent, keeps).await?;
        if stored.as_ref().is_err_and(shape::may_fit) {
            // A commit also tries once more, with values that fit the tables.
            let shape = Shape::read(&mut transaction).await?;
            stored = try_storing(&mut transaction, &batch, now, Some(&shape), extent, keeps).await?;
        }
        if let Err(error) = stored {
            add(&mut refused, what, error)?;
        }
    }
    let mut savepoint = transaction.begin().await?;
    match end_run(&mut savepoint, now, extent, keeps).await {
        Ok(()) => savepoint.commit().await?,
        Err(error) => {
            savepoint.rollback().await?;
            add(&mut refused, "the row of a run", error)?;
        }
    }
    if extent.retention {
        for table in SNAPSHOTS {
            let mut savepoint = transaction.begin().await?;
            match made_up.thin(&mut savepoint, table, keeps).await {
                Ok(()) => savepoint.commit().await?,
                Err(error) => {
                    savepoint.rollback().await?;
                    add(&mut refused, "that old snapshots go", error)?;
                }
            }
        }
    }
    transaction.rollback().await?;
    Ok(refused)
}

/// Adds a refusal, unless another object had the same.
fn add(refused: &mut Vec<Refused>, what: &'static str, error: sqlx::Error) -> Result<(), sqlx::Error> {
    // The server itself refuses, so it would refuse runs too.
    if ConnectionFault::of(&error).is_some_and(|fault| fault != ConnectionFault::Outdated) {
        return Err(error);
    }
    // One cause often refuses every object; it is one problem.
    if refused.iter().all(|known| known.error.to_string() != error.to_string()) {
        refused.push(Refused { what, error });
    }
    Ok(())
}

/// Runs the work in a savepoint. The inner error is the database's refusal.
async fn try_storing(
    transaction: &mut PgConnection,
    batch: &[Fetched],
    now: Timestamp,
    shape: Option<&Shape>,
    extent: Extent,
    keeps: bool,
) -> Result<Result<(), sqlx::Error>, sqlx::Error> {
    let mut savepoint = transaction.begin().await?;
    let stored = run_statements(&mut savepoint, batch, now, shape, extent, keeps).await;
    match stored {
        Ok(()) => savepoint.commit().await?,
        Err(_) => savepoint.rollback().await?,
    }
    Ok(stored)
}

/// Runs what a run sends for a batch: the commit, the deletion of its outbox entries, and the freshness query of a later run.
async fn run_statements(
    connection: &mut PgConnection,
    batch: &[Fetched],
    now: Timestamp,
    shape: Option<&Shape>,
    extent: Extent,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    let attempt = Attempt {
        keeps_statements: keeps,
        now,
        batch,
        details: everything(extent),
        delivered: &[],
        id_gap: IdGap { others: &OtherPrograms::default(), more: 0 },
        timeouts: TIMEOUTS,
        mark: Mark::new(),
    };
    let commit = attempt.work(connection, shape).await?;
    let ids: Vec<i64> = commit.outbox.iter().map(|entry| entry.id).collect();
    outbox::delete(connection, &ids, keeps).await?;
    // Deferred constraints would be checked only at the commit.
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *connection).await?;
    let _: Vec<FreshnessRow> = sqlx::query_as(FRESHNESS)
        .persistent(keeps)
        .bind(batch.iter().map(|fetched| fetched.object.kind.as_str()).collect::<Vec<_>>())
        .bind(batch.iter().map(|fetched| fetched.object.tag.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(())
}

async fn end_run(
    connection: &mut PgConnection,
    now: Timestamp,
    extent: Extent,
    keeps: bool,
) -> Result<(), sqlx::Error> {
    if extent.planner {
        looks::walk(connection, now, Policy::default().longest, 1, keeps).await?;
    }
    outbox::read(connection, now, keeps).await?;
    let row = RunRow {
        run: format!("check-{}", now.as_millis()),
        started: now,
        ended: now,
        stopped_because: "queue_empty".to_owned(),
        error: None,
        processed: 0,
        failed: 0,
        api_requests: 0,
        report: "{}".to_owned(),
    };
    runs::record(connection, &row, keeps).await?;
    runs::last(connection, keeps).await.map(drop)
}

/// Objects that do not exist in the game: its tags never begin with 0.
struct MadeUp {
    clan: Tag,
    unknown_clan: Tag,
    player: Tag,
    member: Tag,
    stranger: Tag,
}

impl MadeUp {
    fn new() -> Self {
        let tag = || {
            let digits = format!("0{}{}", Tag::somewhere().as_str(), Tag::somewhere().as_str());
            digits[..10].parse().expect("a tag's characters")
        };
        Self { clan: tag(), unknown_clan: tag(), player: tag(), member: tag(), stranger: tag() }
    }

    /// New objects, the same ones again, and a changed one: new rows, rows that move, and the end of a membership.
    fn batches(&self, now: Timestamp) -> [(&'static str, Vec<Fetched>); 6] {
        let before = now - BETWEEN;
        [
            ("a new clan", vec![self.clan(before)]),
            ("a new player", vec![self.player(before), self.stranger(before, true)]),
            ("a new war", vec![self.war(before)]),
            ("a clan that is known", vec![self.clan(now)]),
            ("a player that is known", vec![self.player(now), self.stranger(now, false)]),
            ("a war that is known", vec![self.war(now)]),
        ]
    }

    async fn thin(&self, connection: &mut PgConnection, table: &str, keeps: bool) -> Result<(), sqlx::Error> {
        let tag = if table == "player_snapshots" { "player_tag" } else { "clan_tag" };
        let delete = format!("DELETE FROM {table} WHERE {tag} = ANY ($1)");
        let tags = [&self.clan, &self.player, &self.member, &self.stranger].map(Tag::as_str);
        sqlx::query(AssertSqlSafe(delete)).persistent(keeps).bind(&tags[..]).execute(&mut *connection).await?;
        sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(connection).await.map(drop)
    }

    fn clan(&self, began: Timestamp) -> Fetched {
        let json = format!(
            r##"{{"tag":"#{}","name":"{NAME}","memberList":[{{"tag":"#{}"}}]}}"##,
            self.clan.as_str(),
            self.member.as_str()
        );
        let member = Member {
            tag: self.member.clone(),
            json: format!(r##"{{"tag":"#{}","name":"{NAME}"}}"##, self.member.as_str()),
            name: NAME.to_owned(),
            role: Some("coLeader".to_owned()),
            town_hall: Some(17),
            trophies: Some(6_000),
            donations: Some(100_000),
            donations_received: Some(100_000),
        };
        let clan = ClanDocument {
            json: json.into(),
            name: NAME.to_owned(),
            level: Some(30),
            war_wins: Some(1_000),
            war_losses: Some(1_000),
            member_count: 1,
            members: vec![member],
            has_all_members: true,
        };
        fetched(ObjectId::clan(self.clan.clone()), began, Document::Clan(clan))
    }

    fn player(&self, began: Timestamp) -> Fetched {
        player(&self.player, Some(&self.clan), began)
    }

    /// A player of a clan that is not stored: responses come in any order.
    fn stranger(&self, began: Timestamp, is_in_clan: bool) -> Fetched {
        player(&self.stranger, Some(&self.unknown_clan).filter(|_| is_in_clan), began)
    }

    fn war(&self, began: Timestamp) -> Fetched {
        let war = WarDocument {
            json: format!(r##"{{"state":"inWar","clan":{{"tag":"#{}","name":"{NAME}"}}}}"##, self.clan.as_str()).into(),
            state: "inWar".to_owned(),
            members: vec![WarMember { tag: self.player.clone(), attacks_used: 2 }],
            opponent: None,
            starts: None,
            ends: None,
            is_whole: true,
        };
        fetched(ObjectId::war(self.clan.clone()), began, Document::War(war))
    }
}

fn player(tag: &Tag, clan: Option<&Tag>, began: Timestamp) -> Fetched {
    let of_clan = clan.map_or_else(String::new, |clan| format!(r##","clan":{{"tag":"#{}"}}"##, clan.as_str()));
    let player = PlayerDocument {
        json: format!(r##"{{"tag":"#{}","name":"{NAME}"{of_clan}}}"##, tag.as_str()).into(),
        name: NAME.to_owned(),
        role: clan.map(|_| "coLeader".to_owned()),
        town_hall: Some(17),
        trophies: Some(6_000),
        donations: Some(100_000),
        donations_received: Some(100_000),
        clan: clan.cloned().map_or(InClan::None, InClan::Known),
    };
    fetched(ObjectId::player(tag.clone()), began, Document::Player(player))
}

fn fetched(object: ObjectId, began: Timestamp, document: Document) -> Fetched {
    Fetched {
        object,
        began,
        copied_at: began,
        fresh_until: began,
        answered: Answered::Document(document),
        league: None,
        asked: None,
    }
}
