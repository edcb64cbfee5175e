//! Values and types that others put into the tables, and that readers do not notice.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{Fetched, Kind, ObjectId},
    store::{Committed, RELAXED_TIMEOUT, Store},
};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::{
    Bed,
    beds::{self, PostgresBed},
    documents::{at, clan, nth_tag, player, tag, war},
    membership, over_every_store, sql_time, text, time,
};
use crate::{cli::Shell, support};

over_every_store! {
    row_at_impossible_time_does_not_hide_later,
    foreign_row_hours_ahead_is_unchanged,
    future_last_seen_is_replaced,
}

const TABLES: [(&str, &str, &str); 3] = [
    ("player_snapshots", "player_tag", "2PP"),
    ("clan_snapshots", "clan_tag", "8GG"),
    ("war_snapshots", "clan_tag", "8GG"),
];

fn one_of_each(began: Timestamp) -> [Fetched; 3] {
    [player("2PP").of("8GG").fetched(began), clan("8GG").fetched(began), war("8GG", &[]).fetched(began)]
}

async fn by_others(bed: &impl Bed, ts: &str) {
    for (table, column, tag) in TABLES {
        let insert = format!(
            "INSERT INTO {table} (id, ts, {column}, data) \
             SELECT coalesce(max(id), 0) + 1, {ts}, '{tag}', '{{\"by\":\"another\"}}' FROM {table}"
        );
        bed.exec(&insert).await;
    }
}

async fn newest(bed: &impl Bed, table: &str, column: &str, tag: &str) -> Value {
    let newest =
        format!("SELECT ts, CAST(data AS text) AS data FROM {table} WHERE {column} = '{tag}' ORDER BY ts DESC");
    bed.rows(&format!("{newest} LIMIT 1")).await.remove(0)
}

async fn row_at_impossible_time_does_not_hide_later(bed: impl Bed) {
    bed.commit(&one_of_each(at(0))).await;
    by_others(&bed, "'9999-12-31 00:00:00.000000'").await;
    for (seconds, committed) in [(300, Committed::Unchanged), (600, Committed::Unchanged)] {
        assert_eq!(bed.commit(&one_of_each(at(seconds))).await, [committed.clone(), committed.clone(), committed]);
        for (table, column, tag) in TABLES {
            let row = newest(&bed, table, column, tag).await;
            assert_eq!(time(&row["ts"]), Some(at(seconds)), "{table}");
            assert!(!text(&row["data"]).contains("another"), "{table}: ours is what readers see");
            assert_eq!(bed.count(&format!("{table} WHERE {column} = '{tag}'")).await, 2, "{table} does not grow");
        }
    }
}

async fn foreign_row_hours_ahead_is_unchanged(bed: impl Bed) {
    bed.commit(&one_of_each(at(0))).await;
    by_others(&bed, &sql_time(at(6 * 3600))).await;
    bed.commit(&one_of_each(at(300))).await;
    for (table, column, tag) in TABLES {
        assert!(text(&newest(&bed, table, column, tag).await["data"]).contains("another"), "{table}");
    }
}

async fn future_last_seen_is_replaced(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.exec("UPDATE player_snapshots SET last_seen = '9999-12-31 00:00:00.000000' WHERE player_tag = '2PP'").await;
    bed.commit_one(player("2PP").of("8GG").fetched(at(300))).await;
    assert_eq!(time(&bed.newest_player("2PP").await["last_seen"]), Some(at(300)));
}

#[tokio::test]
async fn rows_at_infinity_give_way_to_ours() {
    let bed = beds::postgres_of_others().await;
    bed.commit(&one_of_each(at(0))).await;
    by_others(&bed, "'infinity'").await;
    by_others(&bed, "'-infinity'").await;
    for seconds in [300, 600] {
        bed.commit(&one_of_each(at(seconds))).await;
        for (table, column, tag) in TABLES {
            assert_eq!(time(&newest(&bed, table, column, tag).await["ts"]), Some(at(seconds)), "{table}");
            assert_eq!(bed.count(&format!("{table} WHERE {column} = '{tag}'")).await, 3, "{table} does not grow");
        }
    }
}

#[tokio::test]
async fn member_updated_at_infinity_gets_real_time() {
    let bed = beds::postgres_of_others().await;
    let list = clan("8GG").with([player("2PP")]);
    bed.commit_one(list.fetched(at(0))).await;
    bed.exec("UPDATE players SET updated_at = 'infinity' WHERE tag = '2PP'").await;
    bed.exec("UPDATE player_snapshots SET last_seen = 'infinity' WHERE player_tag = '2PP'").await;
    bed.commit_one(list.fetched(at(300))).await;
    assert_eq!(time(&bed.player("2PP").await["updated_at"]), Some(at(300)));
    assert_eq!(time(&bed.newest_player("2PP").await["last_seen"]), Some(at(300)));
}

#[tokio::test]
async fn left_at_infinity_is_open_membership() {
    let bed = beds::postgres_of_others().await;
    let open = "INSERT INTO clan_memberships (id, player_tag, clan_tag, joined_at, left_at) \
                SELECT max(id) + 1, '{player}', '8GG', '2026-01-01', 'infinity' FROM clan_memberships";
    for player in ["2PP", "2YY", "2QQ", "2LL"] {
        bed.exec(&open.replace("{player}", player)).await;
    }
    let joined = time(&Value::from("2026-01-01 00:00:00")).unwrap();
    // 2PP is still there, 2YY moved, 2QQ is missing from the list, 2LL says so itself.
    let batch = [
        clan("8GG").with([player("2PP")]).fetched(at(0)),
        player("2YY").of("9CC").fetched(at(0)),
        player("2LL").fetched(at(0)),
    ];
    assert_eq!(bed.commit(&batch).await, [Committed::Stored, Committed::Stored, Committed::Stored]);
    assert_eq!(bed.count("clan_memberships WHERE player_tag = '2PP'").await, 1);
    assert_eq!(bed.count("clan_memberships WHERE player_tag = '2PP' AND left_at = 'infinity'").await, 1);
    assert_eq!(bed.memberships("2YY").await, [membership("8GG", joined, Some(at(0))), membership("9CC", at(0), None)]);
    assert_eq!(bed.memberships("2QQ").await, [membership("8GG", joined, Some(at(0)))]);
    assert_eq!(bed.memberships("2LL").await, [membership("8GG", joined, Some(at(0)))]);
}

#[tokio::test]
async fn memberships_without_real_start_are_closed() {
    let bed = beds::postgres_of_others().await;
    for (player, joined) in [("2PP", "infinity"), ("2YY", "-infinity"), ("2QQ", "11111-11-11")] {
        let open = format!(
            "INSERT INTO clan_memberships (id, player_tag, clan_tag, joined_at) \
             SELECT max(id) + 1, '{player}', '8GG', '{joined}' FROM clan_memberships"
        );
        bed.exec(&open).await;
    }
    bed.commit_one(clan("8GG").fetched(at(0))).await;
    let left = format!("clan_memberships WHERE clan_tag = '8GG' AND left_at = {}", sql_time(at(0)));
    assert_eq!(bed.count(&left).await, 3);
}

/// Values of a type that ours cannot hold, or that nobody expects.
const TIMES: [&str; 9] = [
    "NULL",
    "'infinity'",
    "'-infinity'",
    "'10000-01-01'",
    "'294276-12-31 23:59:59.999999'",
    "'4713-01-01 BC'",
    "'4714-11-24 00:00:00 BC'",
    "'0001-01-01'",
    "'2300-01-01'",
];
const NUMBERS: [&str; 5] = ["NULL", "0", "-1", "2147483647", "-2147483648"];
const TEXTS: [&str; 6] = ["NULL", "''", r"E'\x01\x1b[31m\r\n'", "'no tag!'", "'#8gg'", "repeat('é', 15)"];
const DOCUMENTS: [&str; 11] = [
    "NULL",
    "'null'",
    "'5'",
    "'\"x\"'",
    "'[]'",
    "'[1, [2]]'",
    r#"'{"a": "\u0000", "\u0000": 1}'"#,
    r#"'{"a": "\ud800"}'"#,
    "(repeat('[', 4000) || repeat(']', 4000))::json",
    r#"'{"deep_link": 5, "tag": {}, "members": "x", "name": 1e999}'"#,
    r#"'{"errors": "x", "work_by_kind_and_priority": {"clan": {"high": {"calls": "x", "gone": -1}, "low": 5}, "war": []}}'"#,
];

fn oddities(data_type: &str) -> &'static [&'static str] {
    match data_type {
        "timestamp without time zone" | "timestamp with time zone" => &TIMES,
        "smallint" | "integer" | "bigint" => &NUMBERS,
        "numeric" => &["NULL", "'NaN'", "1e30", "-1e30", "0.5", "123456789.75"],
        "json" | "jsonb" => &DOCUMENTS,
        "boolean" => &["NULL", "true", "false"],
        "real" | "double precision" => &["NULL", "'NaN'", "'Infinity'", "-1", "1e30"],
        "bytea" => &["NULL", "''", r"'\x00ff'"],
        _ => &TEXTS,
    }
}

/// Every column of these tables, with its type. Ids are given out by sequences, and are no place for values.
async fn columns(bed: &PostgresBed, schema: &str) -> Vec<(String, String, String)> {
    sqlx::query_as(
        "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns \
         JOIN pg_tables ON schemaname = table_schema AND tablename = table_name \
         WHERE table_schema = $1 AND column_name <> 'id' AND table_name <> 'migrations' ORDER BY 1, 2",
    )
    .bind(schema)
    .fetch_all(&bed.around)
    .await
    .unwrap()
}

/// True when the table accepts the value.
async fn set(bed: &PostgresBed, sql: String) -> bool {
    match sqlx::raw_sql(AssertSqlSafe(sql.as_str())).execute(&bed.around).await {
        Ok(_) => true,
        Err(error) => {
            let code =
                error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default().into_owned();
            assert!(
                matches!(code.as_str(), "22001" | "22003" | "22P02" | "22P05" | "23502" | "23503" | "23505"),
                "{sql}: {error}"
            );
            false
        }
    }
}

/// The family of one case: a clan, two members, and the clan's war.
struct Family {
    clan: String,
    players: [String; 2],
}

impl Family {
    fn new(number: usize) -> Self {
        let name = |place| nth_tag(100 + 3 * number + place).as_str().to_owned();
        Self { clan: name(0), players: [name(1), name(2)] }
    }

    fn objects(&self) -> [ObjectId; 3] {
        let [clan, player] = [&self.clan, &self.players[0]].map(|name| tag(name));
        [ObjectId::clan(clan.clone()), ObjectId::player(player), ObjectId::war(clan)]
    }

    fn answers(&self, began: Timestamp, level: i32) -> Vec<Fetched> {
        let [one, other] = &self.players;
        let members = [player(one).trophies(1000 + level), player(other)];
        vec![
            clan(&self.clan).level(level).with(members).fetched(began),
            player(one).of(&self.clan).trophies(1000 + level).fetched(began),
            war(&self.clan, &[(one, level)]).fetched(began),
        ]
    }

    /// The condition for its rows in a table.
    fn rows(&self, table: &str) -> String {
        let Self { clan, players: [one, other] } = self;
        match table {
            "clans" => format!("tag = '{clan}'"),
            "players" => format!("tag IN ('{one}', '{other}')"),
            "player_snapshots" | "clan_memberships" => format!("player_tag IN ('{one}', '{other}')"),
            "refresh_state" | "plan" | "looks" => format!("tag IN ('{clan}', '{one}', '{other}')"),
            _ => format!("clan_tag = '{clan}'"),
        }
    }
}

/// Of each column: families with every value in it, stored together, twice more.
async fn no_value_keeps_a_commit_from_being_made(bed: PostgresBed, schema: &str) {
    let (mut number, mut wrong) = (0, Vec::new());
    for (table, column, data_type) in columns(&bed, schema).await {
        if matches!(
            table.as_str(),
            "refresh_runs" | "run_errors" | "run_work" | "outbox" | "retention_progress" | "plan_level" | "plan_walk"
        ) {
            continue;
        }
        let cases: Vec<(&str, Family)> =
            oddities(&data_type).iter().zip(number..).map(|(value, number)| (*value, Family::new(number))).collect();
        number += cases.len();
        bed.commit(&cases.iter().flat_map(|(_, family)| family.answers(at(0), 1)).collect::<Vec<_>>()).await;
        let mut taken = Vec::new();
        for (value, family) in &cases {
            let rows = family.rows(&table);
            if set(&bed, format!("UPDATE {schema}.{table} SET {column} = {value} WHERE {rows}")).await {
                taken.push((format!("{table}.{column} = {value}"), family));
            }
        }
        for (seconds, level) in [(300, 1), (600, 2)] {
            let answers = taken.iter().flat_map(|(case, family)| {
                family.answers(at(seconds), level).into_iter().map(move |answer| (case, answer))
            });
            let (cases, batch): (Vec<_>, Vec<_>) = answers.unzip();
            for ((fetched, case), committed) in batch.iter().zip(cases).zip(bed.commit(&batch).await) {
                if !matches!(committed, Committed::Stored | Committed::Unchanged) {
                    wrong.push(format!("{case}, after {seconds} s: {} is {committed:?}", fetched.object));
                }
            }
        }
        for (case, family) in &taken {
            let objects = family.objects();
            let known = bed.store().freshness(&objects, RELAXED_TIMEOUT).await.unwrap();
            if !objects.iter().all(|object| known.get(object).is_some_and(|known| known.fetched_at == at(600))) {
                wrong.push(format!("{case}: {known:?}"));
            }
            bed.store().look(&objects[1]).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            let newest = format!("SELECT max(ts) AS ts FROM clan_snapshots WHERE clan_tag = '{}'", family.clan);
            let newest = bed.row(&newest).await;
            if time(&newest["ts"]) != Some(at(600)) {
                wrong.push(format!("{case}: the newest row is of {}", newest["ts"]));
            }
        }
    }
    assert!(number > 40, "{number} cases");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn no_value_of_shared_tables_blocks_commit() {
    no_value_keeps_a_commit_from_being_made(beds::postgres().await, "public").await;
}

#[tokio::test]
async fn no_value_of_own_tables_blocks_commit() {
    no_value_keeps_a_commit_from_being_made(beds::postgres().await, "refresh_worker").await;
}

#[tokio::test]
async fn no_value_of_changed_tables_blocks_commit() {
    no_value_keeps_a_commit_from_being_made(beds::postgres_of_changed_types().await, "public").await;
}

/// A row of each of our tables for each value of each column; what cannot be written is left out.
async fn our_tables_full_of_oddities(bed: &PostgresBed) {
    const RUN: &str = "INSERT INTO refresh_worker.refresh_runs \
        (run, started, ended, stopped_because, error, processed, failed, api_requests, report) \
        VALUES ('run {n}', '2026-03-04', '2026-03-04', 'x', NULL, 1, 0, 2, \
        '{\"errors\": [\"clan:8GG: it was odd\"], \
          \"work_by_kind_and_priority\": {\"clan\": {\"high\": {\"calls\": 1, \"stored\": 1}}}}')";
    const ENTRY: &str = "INSERT INTO refresh_worker.outbox (id, stored_at, payload) VALUES ({n}, '2026-03-04', '{}')";
    const STATE: &str = "INSERT INTO refresh_worker.refresh_state (kind, tag, fetched_at, last_outcome) \
        VALUES ('clan', 'X{n}', '2026-03-04', 'stored')";
    let mut number = 0;
    for (table, column, data_type) in columns(bed, "refresh_worker").await {
        let (insert, key) = match table.as_str() {
            "refresh_runs" => (RUN, "run = 'run {n}'"),
            "outbox" => (ENTRY, "id = {n}"),
            "refresh_state" => (STATE, "tag = 'X{n}'"),
            _ => continue,
        };
        for value in oddities(&data_type) {
            number += 1;
            bed.exec(&insert.replace("{n}", &number.to_string())).await;
            let key = key.replace("{n}", &number.to_string());
            set(bed, format!("UPDATE refresh_worker.{table} SET {column} = {value} WHERE {key}")).await;
        }
    }
    assert!(number > 60, "{number} rows");
}

#[tokio::test]
async fn reads_of_own_tables_survive_every_value() {
    let bed = beds::postgres().await;
    our_tables_full_of_oddities(&bed).await;
    let last = bed.store().last_run().await.unwrap().expect("a run");
    let lasts = bed.store().last_runs().await.unwrap();
    for last in [Some(last), lasts.any, lasts.good, lasts.failed].map(|last| last.expect("a run of each sort")) {
        assert!(last.started.to_utc().year() < 9999, "a run at no time is not the last one: {last:?}");
    }
    let entries = bed.store().outbox(Timestamp::from_millis(i64::MAX)).await.unwrap();
    assert!(entries.len() > 10);
    for kind in [Kind::Clan, Kind::Player, Kind::War] {
        bed.store().control_object(kind, &[], at(0), Duration::from_secs(5)).await.unwrap();
    }
    let looked = bed.store().look(&ObjectId::clan(tag("8GG"))).await.unwrap().expect("errors were reported");
    assert_eq!(looked.errors.len(), 5);
    bed.commit_one(clan("8GG").fetched(at(0))).await;
    for view in ["work", "work_by_day", "freshness"] {
        bed.rows(&format!("SELECT * FROM refresh_worker.{view}")).await;
    }
    assert!(bed.count("refresh_worker.work WHERE priority = 'high' AND calls = 1").await > 20);
}

#[tokio::test]
async fn commands_that_read_our_tables_survive_every_value() {
    let url = support::postgres::fresh().await;
    let bed = PostgresBed::on(&url).await;
    our_tables_full_of_oddities(&bed).await;
    let shell = Shell::new().with("DATABASE_URL", &url);
    for command in [&["report", "--since", "3000w"][..], &["report", "--json"], &["views", "install"]] {
        shell.run(command).await.well();
    }
}

#[tokio::test]
async fn document_loses_only_impossible_jsonb_characters() {
    let bed = beds::postgres_of_changed_types().await;
    let odd = player("2PP").named("a\0b").of("8GG");
    let batch = [odd.fetched(at(0)), clan("8GG").named("\0").with([player("2YY").named("\0c")]).fetched(at(0))];
    assert_eq!(bed.commit(&batch).await, [Committed::Stored, Committed::Stored]);
    let data: Value = serde_json::from_str(&text(&bed.newest_player("2PP").await["data"])).unwrap();
    assert_eq!((&data["name"], &data["zeta"]), (&"a?b".into(), &1.0.into()));
    assert_eq!(bed.commit_one(odd.fetched(at(300))).await, Committed::Unchanged);
}

#[tokio::test]
async fn latin1_database_holds_names_as_possible() {
    let bed = PostgresBed::on(&support::postgres::fresh_in_encoding("LATIN1").await).await;
    let odd = player("2PP").named("Zoë \u{1F600} Привет").of("8GG");
    let batch = [odd.fetched(at(0)), clan("8GG").named("\u{1F600}é").with([odd.clone()]).fetched(at(0))];
    assert_eq!(bed.commit(&batch).await, [Committed::Stored, Committed::Stored]);
    assert_eq!(text(&bed.newest_player("2PP").await["name"]), "Zoë ? ??????");
    assert_eq!(text(&bed.newest_clan("8GG").await["name"]), "?é");
    let data = text(&bed.newest_player("2PP").await["data"]);
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data["name"], "Zoë \u{1F600} Привет", "the document has it all, in escapes");
    assert_eq!(bed.commit_one(odd.fetched(at(300))).await, Committed::Unchanged);
}

#[tokio::test]
async fn narrow_columns_get_what_fits() {
    let bed = beds::postgres_of_others().await;
    bed.exec(
        "ALTER TABLE clan_snapshots ALTER name TYPE varchar(10); ALTER TABLE players ALTER role TYPE varchar(4); \
         ALTER TABLE player_snapshots ALTER name TYPE char(12)",
    )
    .await;
    let long = player("2PP").named("a name of twenty and more").role("leader").of("8GG");
    let batch = [long.fetched(at(0)), clan("8GG").named("longer than ten").with([long.clone()]).fetched(at(0))];
    assert_eq!(bed.commit(&batch).await, [Committed::Stored, Committed::Stored]);
    assert_eq!(text(&bed.newest_clan("8GG").await["name"]), "longer tha");
    assert_eq!(bed.player("2PP").await["role"], "lead");
}

#[tokio::test]
async fn tags_in_columns_of_fixed_width_are_found() {
    let bed = beds::postgres_of_others().await;
    bed.exec(
        "ALTER TABLE clan_memberships ALTER player_tag TYPE char(15), ALTER clan_tag TYPE char(15); \
         ALTER TABLE player_snapshots ALTER player_tag TYPE char(15), ALTER clan_tag TYPE char(15); \
         ALTER TABLE clan_snapshots ALTER clan_tag TYPE char(15); ALTER TABLE players ALTER tag TYPE char(15)",
    )
    .await;
    bed.commit(&one_of_each(at(0))).await;
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(300))).await;
    let again = bed.commit(&one_of_each(at(600))).await;
    assert_eq!(again[0], Committed::Unchanged);
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2PP'").await, 1);
    assert_eq!(bed.count("clan_memberships WHERE player_tag = '2PP'").await, 1);
    bed.commit_one(clan("8GG").fetched(at(900))).await;
    assert_eq!(bed.count("clan_memberships WHERE player_tag = '2PP' AND left_at IS NULL").await, 0);
}
