//! What is SQLite's own: the file, the errors, the savepoints. The behaviour both stores share is in `tests/it/store`.

use sqlx::Row;

use super::super::{Committed, RELAXED_TIMEOUT};
use super::*;
use crate::model::{Answered, ClanDocument, Document, Member, PlayerDocument, WarDocument, WarMember};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// 2026-03-04 05:06:07.089 UTC.
const NOON: Timestamp = Timestamp::from_millis(1_772_600_767_089);

async fn store() -> SqliteStore {
    let store = SqliteStore::in_memory().await.unwrap();
    store.migrate().await.unwrap();
    store
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn fetched(began: Timestamp, object: ObjectId, document: Document) -> Fetched {
    Fetched {
        object,
        began,
        copied_at: began - MINUTE,
        fresh_until: began + MINUTE,
        answered: Answered::Document(document),
        league: None,
        asked: None,
    }
}

fn clan(began: Timestamp, clan: &str, members: &[(&str, i32)]) -> Fetched {
    let members: Vec<Member> = members
        .iter()
        .map(|&(player, donations)| Member {
            tag: tag(player),
            json: format!(r##"{{"tag":"#{player}","donations":{donations}}}"##),
            name: format!("Player {player}"),
            role: Some("member".to_owned()),
            town_hall: Some(14),
            trophies: Some(3000),
            donations: Some(donations),
            donations_received: Some(0),
        })
        .collect();
    let list: Vec<&str> = members.iter().map(|member| member.json.as_str()).collect();
    let document = ClanDocument {
        json: format!(r##"{{"tag":"#{clan}","memberList":[{}]}}"##, list.join(",")).into(),
        name: format!("Clan {clan}"),
        level: Some(7),
        war_wins: Some(3),
        war_losses: None,
        member_count: i32::try_from(members.len()).unwrap(),
        members,
        has_all_members: true,
    };
    fetched(began, ObjectId::clan(tag(clan)), Document::Clan(document))
}

fn player(began: Timestamp, player: &str, clan: Option<&str>) -> Fetched {
    let document = PlayerDocument {
        json: format!(
            r##"{{"tag":"#{player}","clan":{}}}"##,
            clan.map_or("null".to_owned(), |clan| format!("{clan:?}"))
        )
        .into(),
        name: format!("Player {player}"),
        role: clan.map(|_| "leader".to_owned()),
        town_hall: Some(15),
        trophies: Some(3000),
        donations: Some(10),
        donations_received: Some(0),
        clan: clan.map(tag).into(),
    };
    fetched(began, ObjectId::player(tag(player)), Document::Player(document))
}

fn war(began: Timestamp, clan: &str, members: &[(&str, i32)]) -> Fetched {
    let members: Vec<_> =
        members.iter().map(|&(player, attacks_used)| WarMember { tag: tag(player), attacks_used }).collect();
    let document = WarDocument {
        json: r#"{"state":"inWar"}"#.to_owned().into(),
        state: "inWar".to_owned(),
        members,
        opponent: None,
        starts: None,
        ends: None,
        is_whole: true,
    };
    fetched(began, ObjectId::war(tag(clan)), Document::War(document))
}

/// Every row as texts parted by `|`, NULL as `-`.
async fn rows(store: &SqliteStore, statement: &'static str) -> Vec<String> {
    let rows = sqlx::query(statement).fetch_all(store.pool()).await.unwrap();
    let text = |row: &sqlx::sqlite::SqliteRow, column| {
        row.get_unchecked::<Option<String>, _>(column).unwrap_or_else(|| "-".to_owned())
    };
    rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect::<Vec<_>>().join("|")).collect()
}

const OPEN: &str = "select player_tag, clan_tag from clan_memberships where left_at is null order by 1, 2";

#[tokio::test]
async fn clan_response_fills_tables_as_received() {
    let store = store().await;
    let answer = clan(NOON, "2PP", &[("8PP", 5)]);
    assert_eq!(store.commit(NOON, &[answer]).await.unwrap().committed, [Committed::Stored]);

    assert_eq!(
        rows(&store, "select ts, clan_tag, name, member_count, level, war_wins, war_losses, data from clan_snapshots")
            .await,
        [concat!(
            r##"2026-03-04 05:06:07.089000|2PP|Clan 2PP|1|7|3|-|{"tag":"#2PP","memberList":[{"tag":"#8PP","donations":5}],"##,
            r##""deep_link":"https://link.clashofclans.com/en?action=OpenClanProfile&tag=%232PP"}"##
        )]
    );
    assert_eq!(
        rows(&store, "select player_tag, clan_tag, town_hall, trophies, donations, war_attacks_used, last_seen = ts from player_snapshots").await,
        ["8PP|2PP|14|3000|5|-|1"]
    );
    assert_eq!(
        rows(&store, "select tag, clan_tag, data ->> 'donations', data ->> 'deep_link' = deep_link from players").await,
        ["8PP|2PP|5|1"]
    );
    assert_eq!(rows(&store, "select * from clan_memberships").await, ["1|8PP|2PP|2026-03-04 05:06:07.089000|-"]);
}

#[tokio::test]
async fn unchanged_content_moves_row_changed_adds_one() {
    let store = store().await;
    let mut results = Vec::new();
    for (hours, members) in [(0, 5), (1, 5), (2, 6)] {
        let at = NOON + hours * HOUR;
        results.extend(store.commit(at, &[clan(at, "2PP", &[("8PP", members)])]).await.unwrap().committed);
    }
    assert_eq!(results, [Committed::Stored, Committed::Unchanged, Committed::Stored]);
    assert_eq!(rows(&store, "select substr(ts, 12, 5) from clan_snapshots order by ts").await, ["06:06", "07:06"]);
    assert_eq!(
        rows(&store, "select substr(last_seen, 12, 5), substr(ts, 12, 5) from player_snapshots").await,
        ["07:06|05:06"]
    );
}

#[tokio::test]
async fn late_response_superseded_unless_stored_by_wrong_clock() {
    let store = store().await;
    let tomorrow = NOON + 24 * HOUR;
    store.commit(NOON, &[clan(NOON, "2PP", &[])]).await.unwrap();
    assert_eq!(store.commit(NOON, &[clan(NOON - HOUR, "2PP", &[])]).await.unwrap().committed, [Committed::Superseded]);
    store.commit(tomorrow, &[clan(tomorrow, "2PP", &[("8PP", 1)])]).await.unwrap();

    let healed = store.commit(NOON + HOUR, &[clan(NOON + HOUR, "2PP", &[("8PP", 2)])]).await.unwrap().committed;
    assert_eq!(healed, [Committed::Stored]);
    let newest =
        rows(&store, "select ts, data ->> '$.memberList[0].donations' from clan_snapshots order by ts desc limit 1")
            .await;
    assert_eq!(newest, ["2026-03-04 06:06:07.089000|2"]);
}

#[tokio::test]
async fn refused_record_hurts_only_itself() {
    let store = store().await;
    sqlx::query(
        "create trigger no before insert on clans when new.tag = '9PP' begin select raise(abort, 'no nines'); end",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let batch = [clan(NOON, "2PP", &[("8PP", 1)]), clan(NOON, "9PP", &[("2QQ", 1)]), player(NOON, "UPP", Some("2PP"))];
    let committed = store.commit(NOON, &batch).await.unwrap().committed;
    assert_eq!(committed[0], Committed::Stored);
    assert!(matches!(&committed[1], Committed::Poison(reason) if reason.detail.contains("no nines")), "{committed:?}");
    assert_eq!(committed[2], Committed::Stored);
    assert_eq!(
        rows(&store, "select kind, tag from refresh_worker_refresh_state").await,
        ["clan|2PP", "player|8PP", "player|UPP"]
    );
}

#[tokio::test]
async fn all_records_refused_is_store_trouble() {
    let store = store().await;
    sqlx::query("create trigger no before insert on clans begin select raise(abort, 'no clans today'); end")
        .execute(store.pool())
        .await
        .unwrap();
    let batch: Vec<Fetched> = ["2PP", "8PP", "9PP", "UPP", "VPP"].map(|tag| clan(NOON, tag, &[])).into();
    assert!(matches!(store.commit(NOON, &batch[..4]).await.unwrap().committed[..], [Committed::Held(_), ..]));
    let error = store.commit(NOON, &batch).await.unwrap_err().to_string();
    assert!(error.contains("no clans today"), "{error}");
}

#[tokio::test]
async fn invalid_json_refused_as_in_postgresql() {
    let store = store().await;
    let mut answer = player(NOON, "2PP", None);
    if let Answered::Document(Document::Player(document)) = &mut answer.answered {
        document.json = "{".to_owned().into();
    }
    let committed = store.commit(NOON, &[answer]).await.unwrap().committed;
    assert!(matches!(&committed[..], [Committed::Poison(_)]), "{committed:?}");
    assert!(rows(&store, "select * from players").await.is_empty());
}

#[tokio::test]
async fn player_of_two_clans_newest_copy_wins() {
    for newer_first in [true, false] {
        let store = store().await;
        store.commit(NOON, &[clan(NOON, "2PP", &[("8PP", 1)]), clan(NOON, "9PP", &[])]).await.unwrap();
        let at = NOON + HOUR;
        let mut batch = [clan(at, "9PP", &[("8PP", 1)]), clan(at - MINUTE, "2PP", &[("8PP", 1)])];
        if !newer_first {
            batch.reverse();
        }
        store.commit(at, &batch).await.unwrap();
        assert_eq!(rows(&store, OPEN).await, ["8PP|9PP"]);
        assert_eq!(rows(&store, "select clan_tag from players").await, ["9PP"]);
        assert_eq!(rows(&store, "select count(*) from clan_memberships").await, ["2"]);
    }
}

#[tokio::test]
async fn player_moves_between_clans_of_a_batch() {
    for (old, new) in [("2PP", "9PP"), ("9PP", "2PP")] {
        for age in [Duration::ZERO, MINUTE] {
            let store = store().await;
            store.commit(NOON, &[clan(NOON, old, &[("8PP", 1)])]).await.unwrap();
            let at = NOON + HOUR;
            store.commit(at, &[clan(at, old, &[]), clan(at - age, new, &[("8PP", 1)])]).await.unwrap();
            assert_eq!(rows(&store, OPEN).await, [format!("8PP|{new}")]);
        }
    }
}

#[tokio::test]
async fn clan_response_keeps_newer_player_row() {
    let store = store().await;
    store.commit(NOON, &[player(NOON, "8PP", Some("2PP"))]).await.unwrap();
    let at = NOON + HOUR;
    store.commit(at, &[player(at, "8PP", Some("2PP"))]).await.unwrap();
    // Its copy is as old as a minute before the player's own document.
    let mut late = clan(at + MINUTE, "2PP", &[]);
    late.copied_at = at - 2 * MINUTE;
    store.commit(at, &[late]).await.unwrap();
    assert_eq!(rows(&store, OPEN).await, ["8PP|2PP"]);
}

#[tokio::test]
async fn war_fills_known_players_creates_none() {
    let store = store().await;
    store.commit(NOON, &[player(NOON, "8PP", Some("2PP"))]).await.unwrap();
    let at = NOON + HOUR;
    store.commit(at, &[war(at, "2PP", &[("8PP", 0), ("UPP", 2)])]).await.unwrap();
    let seen = "select player_tag, war_attacks_used, substr(last_seen, 12, 5) from player_snapshots";
    assert_eq!(rows(&store, seen).await, ["8PP|0|05:06"]);
    let at = at + HOUR;
    store.commit(at, &[war(at, "2PP", &[("8PP", 1)])]).await.unwrap();
    assert_eq!(rows(&store, seen).await, ["8PP|1|07:06"]);
    assert_eq!(rows(&store, "select data from war_snapshots").await, [r#"{"state":"inWar"}"#]);
}

#[tokio::test]
async fn freshness_knows_only_what_was_fetched() {
    let store = store().await;
    let (known, seen) = (ObjectId::clan(tag("2PP")), ObjectId::player(tag("8PP")));
    store.commit(NOON, &[clan(NOON, "2PP", &[("8PP", 1)])]).await.unwrap();
    let freshness = store.freshness(&[seen, known.clone(), ObjectId::war(tag("2PP"))], RELAXED_TIMEOUT).await.unwrap();
    let expected = Freshness { fetched_at: NOON, fresh_until: NOON + MINUTE, league: None };
    assert_eq!(freshness, HashMap::from([(known, expected)]));
}

#[tokio::test]
async fn file_migrated_once_keeps_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.sqlite");
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(
        store.migrate().await.unwrap(),
        ["0001_shared_tables", "0002_own_tables", "0003_outbox", "0004_planned_looks"]
    );
    store.commit(NOON, &[clan(NOON, "2PP", &[])]).await.unwrap();
    store.close().await;
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["demo.sqlite"], "closing leaves one file");

    let again = SqliteStore::open(&path).await.unwrap();
    assert!(again.migrate().await.unwrap().is_empty());
    assert_eq!(rows(&again, "select tag from clans").await, ["2PP"]);
}

#[tokio::test]
async fn concurrent_migrations_both_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.sqlite");
    let (one, other) = (SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap());
    let (one, other) = tokio::join!(one.migrate(), other.migrate());
    assert_eq!(one.unwrap().len() + other.unwrap().len(), 4);
}

#[tokio::test]
async fn file_of_newer_program_refused() {
    let store = store().await;
    sqlx::query("pragma user_version = 9").execute(store.pool()).await.unwrap();
    let error = store.migrate().await.unwrap_err().to_string();
    assert!(error.contains("the file is of a newer refresh-worker: it has 9 steps"), "{error}");
}

#[tokio::test]
async fn a_path_that_cannot_be_opened_is_named() {
    let error = SqliteStore::open(Path::new("/nowhere/demo.sqlite")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("/nowhere/demo.sqlite"), "{error}");
}

#[tokio::test]
async fn last_run_returned_old_runs_trimmed() {
    let store = store().await;
    let run = |name: &str, started| RunRow {
        run: name.to_owned(),
        started,
        ended: started + MINUTE,
        stopped_because: "queue empty".to_owned(),
        error: None,
        processed: 7,
        failed: 1,
        api_requests: 9,
        report: "{}".to_owned(),
    };
    assert!(store.last_run().await.unwrap().is_none());
    store.record_run(&run("old", NOON)).await.unwrap();
    store.record_run(&run("new", NOON + RUNS_RETENTION + HOUR)).await.unwrap();
    let last = store.last_run().await.unwrap().unwrap();
    assert_eq!((last.run.as_str(), last.started, last.processed), ("new", NOON + RUNS_RETENTION + HOUR, 7));
    assert_eq!(rows(&store, "select run from refresh_worker_refresh_runs").await, ["new"]);
    // Another attempt under the same name has a row of its own, and the same row twice is one.
    let again = run("new", NOON + RUNS_RETENTION + 2 * HOUR);
    for row in [&again, &again, &run("new", NOON + RUNS_RETENTION + HOUR)] {
        store.record_run(row).await.unwrap();
    }
    let names = rows(&store, "select run from refresh_worker_refresh_runs order by started").await;
    assert_eq!(names, ["new", &*again.name_of_attempt()]);
}
