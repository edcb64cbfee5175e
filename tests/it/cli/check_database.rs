//! `check` is as strict as a run: what makes every run fail makes `check` fail, on the same database.

use std::time::Duration;

use futures_util::future::join_all;
use refresh_worker::{
    config::{StatsFunction, ViewConfig},
    maintenance::inspect::{self, Finding},
    store::postgres::{Extent, PostgresStore},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Ran, Shell};
use crate::{
    maintenance::modest_role,
    store::{beds::config, migrations::drop_role},
    support,
};

/// What a database has been made into.
struct Case {
    name: &'static str,
    /// `{database}` is its name.
    sql: &'static str,
    /// What `check` says of it, in parts.
    output: &'static [&'static str],
}

const fn case(name: &'static str, sql: &'static str, output: &'static [&'static str]) -> Case {
    Case { name, sql, output }
}

/// No run can do its work with any of these.
const HOPELESS: [Case; 19] = [
    case(
        "no partition for new rows",
        "DROP TABLE player_snapshots;
         CREATE TABLE player_snapshots (
             id bigserial, ts timestamp, player_tag varchar(15), clan_tag varchar(15), name varchar(50), role varchar(20),
             town_hall integer, trophies integer, donations integer, donations_received integer, war_attacks_used integer,
             last_seen timestamp, data json, PRIMARY KEY (id, ts), UNIQUE (player_tag, ts)) PARTITION BY RANGE (ts);
         CREATE TABLE player_snapshots_old PARTITION OF player_snapshots FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
        &["player_snapshots", "partition"],
    ),
    case("a foreign column", "ALTER TABLE players ADD COLUMN theirs integer NOT NULL", &["players.theirs", "default"]),
    case(
        "a sequence at its end",
        "ALTER SEQUENCE clan_snapshots_id_seq MAXVALUE 2; SELECT nextval('clan_snapshots_id_seq'), nextval('clan_snapshots_id_seq')",
        &["clan_snapshots_id_seq has 0 ids left", "ALTER SEQUENCE clan_snapshots_id_seq AS bigint NO MAXVALUE;"],
    ),
    case(
        "ids that end",
        "ALTER TABLE war_snapshots ALTER id TYPE integer; SELECT setval('war_snapshots_id_seq', 2147483647)",
        &["0 ids left for war_snapshots", "ALTER TABLE war_snapshots ALTER COLUMN id TYPE bigint;"],
    ),
    case("a number for a text", "ALTER TABLE players ALTER name TYPE integer USING 1", &["players", "name is integer"]),
    case("narrow tags", "ALTER TABLE clans ALTER tag TYPE varchar(3)", &["clans", "varying(3)"]),
    case(
        "bytes for a document",
        "ALTER TABLE clans DROP COLUMN data; ALTER TABLE clans ADD COLUMN data bytea",
        &["clans", "data is bytea"],
    ),
    case(
        "no key of players",
        "ALTER TABLE players DROP CONSTRAINT players_pkey",
        &["players has no unique key over tag", "CREATE UNIQUE INDEX ON players (tag);"],
    ),
    case(
        "no key of clans",
        "ALTER TABLE clans DROP CONSTRAINT clans_pkey; CREATE UNIQUE INDEX ON clans (tag) WHERE tag > 'P'",
        &["clans has no unique key over tag"],
    ),
    case(
        "a column that is generated",
        "ALTER TABLE players DROP COLUMN deep_link;
         ALTER TABLE players ADD COLUMN deep_link varchar(255) GENERATED ALWAYS AS (tag) STORED",
        &["deep_link", "DROP EXPRESSION"],
    ),
    case(
        "a trigger that refuses",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'frozen by the owner'; END $$;
         CREATE TRIGGER no BEFORE INSERT ON clan_memberships FOR EACH ROW EXECUTE FUNCTION no()",
        &["frozen by the owner"],
    ),
    case(
        "a trigger that refuses at the end",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'frozen by the owner'; END $$;
         CREATE CONSTRAINT TRIGGER no AFTER INSERT OR UPDATE ON refresh_worker.refresh_state DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION no()",
        &["frozen by the owner"],
    ),
    case(
        "a constraint that nothing passes",
        "ALTER TABLE refresh_worker.refresh_state ADD CONSTRAINT nothing CHECK (kind = 'none') NOT VALID",
        &["nothing", "DROP CONSTRAINT nothing;"],
    ),
    case("a rule", "CREATE RULE no AS ON INSERT TO clans DO INSTEAD NOTHING", &["a new clan", "rules"]),
    case(
        "a view in the place of a table",
        "ALTER TABLE clans RENAME TO old_clans; CREATE VIEW clans AS SELECT * FROM old_clans LIMIT 1000",
        &["a new clan"],
    ),
    case("a table of ours is gone", "DROP TABLE refresh_worker.refresh_state CASCADE", &["refresh_worker.refresh_state is gone"]),
    case("a shared table is gone", "DROP TABLE clan_snapshots", &["clan_snapshots is gone"]),
    case(
        "tables in another schema",
        "CREATE SCHEMA stats; ALTER TABLE clans SET SCHEMA stats; ALTER TABLE players SET SCHEMA stats;
         ALTER TABLE clan_snapshots SET SCHEMA stats; ALTER TABLE player_snapshots SET SCHEMA stats;
         ALTER TABLE war_snapshots SET SCHEMA stats; ALTER TABLE clan_memberships SET SCHEMA stats",
        &["in the schema stats", "SET search_path = stats, public;", "?options=-csearch_path%3Dstats"],
    ),
    case(
        "a database that is read-only",
        "ALTER DATABASE {database} SET default_transaction_read_only = on",
        &["read-only", "ALTER DATABASE {database} RESET default_transaction_read_only;"],
    ),
];

/// Some runs go on with these, or harm what others read.
const HARMFUL: [Case; 5] = [
    case("a text for a number", "ALTER TABLE players ALTER town_hall TYPE text", &["town_hall is text"]),
    case("a date for a time", "ALTER TABLE clan_snapshots ALTER ts TYPE date", &["ts is date"]),
    case(
        "few ids",
        "ALTER SEQUENCE clan_memberships_id_seq MAXVALUE 5000",
        &["clan_memberships_id_seq has 5000 ids left"],
    ),
    case(
        "a clan that has to be there first",
        "ALTER TABLE players ADD CONSTRAINT of_clan FOREIGN KEY (clan_tag) REFERENCES clans (tag)",
        &["of_clan"],
    ),
    case(
        "runs that cannot be written down",
        "ALTER TABLE refresh_worker.refresh_runs ADD CONSTRAINT none CHECK (false) NOT VALID",
        &["the row of a run"],
    ),
];

/// Whether these can be stored is output alike by `check` and by a run.
const CHANGED: [Case; 4] = [
    case(
        "jsonb",
        "ALTER TABLE clans ALTER data TYPE jsonb; ALTER TABLE players ALTER data TYPE jsonb;
         ALTER TABLE clan_snapshots ALTER data TYPE jsonb; ALTER TABLE player_snapshots ALTER data TYPE jsonb;
         ALTER TABLE war_snapshots ALTER data TYPE jsonb",
        &[],
    ),
    case(
        "bigint",
        "ALTER TABLE players ALTER town_hall TYPE bigint; ALTER TABLE player_snapshots ALTER trophies TYPE bigint;
         ALTER TABLE clan_snapshots ALTER level TYPE bigint",
        &[],
    ),
    case(
        "timestamptz",
        "ALTER TABLE clans ALTER updated_at TYPE timestamptz; ALTER TABLE player_snapshots ALTER ts TYPE timestamptz;
         ALTER TABLE clan_memberships ALTER joined_at TYPE timestamptz, ALTER left_at TYPE timestamptz",
        &[],
    ),
    case(
        "a wider table of others",
        "ALTER TABLE players ADD COLUMN theirs integer NOT NULL DEFAULT 7; ALTER TABLE clans ALTER tag TYPE text;
         ALTER TABLE war_snapshots ALTER id DROP DEFAULT, ALTER id ADD GENERATED ALWAYS AS IDENTITY",
        &[],
    ),
];

/// A shell, on servers of its own, with the tables made.
struct Bed {
    shell: Shell,
    pool: PgPool,
    database: String,
    simulator: refresh_worker::sim::Simulator,
    requests: Vec<String>,
}

impl Bed {
    async fn new() -> Self {
        Self::on(&support::postgres::fresh().await).await
    }

    async fn on(url: &str) -> Self {
        let simulator = super::simulator(&["the.one.key"]).await;
        let world = simulator.world();
        let requests = vec![
            format!("clan:{}", world.clan_tags()[0]),
            format!("war:{}", world.clan_tags()[0]),
            format!("player:{}", world.player_tags()[0]),
        ];
        let shell = Shell::new()
            .with("REDIS_URL", support::redis::fresh().await)
            .with("DATABASE_URL", url)
            .with("COC_BASE_URL", simulator.base_url().as_str())
            .with("COC_API_TOKEN", "the.one.key")
            .with("FOLLOWUP_PLAYERS_PER_CLAN", "0")
            .with("FOLLOWUP_WARS", "false");
        shell.run(&["migrate"]).await.well();
        let pool = PgPool::connect(url).await.unwrap();
        let database = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&pool).await.unwrap();
        Self { shell, pool, database, simulator, requests }
    }

    async fn exec(&self, sql: &str) {
        let sql = sql.replace("{database}", &self.database);
        sqlx::raw_sql(AssertSqlSafe(sql.as_str()))
            .execute(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// What `check` says of the database.
    async fn check(&self) -> (Ran, Vec<Value>) {
        let ran = self.shell.run(&["check", "--json"]).await;
        let output: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
        let found = output["findings"].as_array().unwrap().iter();
        let found = found.filter(|finding| finding["area"] == "PostgreSQL" && finding["grade"] != "ok");
        let found = found.cloned().collect();
        (ran, found)
    }

    /// Whether a run answers everything that is asked for.
    async fn runs_well(&self) -> bool {
        let requests: Vec<&str> = self.requests.iter().map(String::as_str).collect();
        let enqueue = [&["enqueue"], requests.as_slice(), &["--priority", "critical"]].concat();
        self.shell.run(&enqueue).await.well();
        let ran = self.shell.run(&["drain", "--json"]).await;
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
        ran.code == 0 && report["processed_requests"] == requests.len()
    }
}

impl Case {
    /// Breaks a database, checks it and says what was not output.
    async fn checked(&self) -> Bed {
        let bed = Bed::new().await;
        bed.exec(self.sql).await;
        let (ran, found) = bed.check().await;
        let output = found.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(ran.code, 1, "{}: {}", self.name, ran.stdout);
        for part in self.output {
            let part = part.replace("{database}", &bed.database);
            assert!(output.contains(&part), "{}: {part}: {output}", self.name);
        }
        for finding in &found {
            assert!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{}: {finding}", self.name);
        }
        bed
    }
}

/// Several at a time, as they mostly wait for processes.
async fn of_each<'c, F: Future<Output = ()>>(cases: &'c [Case], test: impl Fn(&'c Case) -> F) {
    for some in cases.chunks(4) {
        join_all(some.iter().map(&test)).await;
    }
}

#[tokio::test]
async fn check_finds_what_fails_every_run() {
    of_each(&HOPELESS, async |case| {
        let bed = case.checked().await;
        assert!(!bed.runs_well().await, "{}: a run works", case.name);
    })
    .await;
}

#[tokio::test]
async fn check_finds_what_harms_some_records() {
    of_each(&HARMFUL, async |case| drop(case.checked().await)).await;
}

#[tokio::test]
async fn check_accepts_types_that_runs_accept() {
    of_each(&CHANGED, async |case| {
        let bed = Bed::new().await;
        bed.exec(case.sql).await;
        let (ran, found) = bed.check().await;
        let mut runs = bed.runs_well().await;
        // Again, since rows are read from the second time on.
        bed.exec(
            "UPDATE refresh_worker.refresh_state SET fetched_at = fetched_at - interval '1 day',
                 member_at = member_at - interval '1 day', fresh_until = fresh_until - interval '1 day'",
        )
        .await;
        runs &= bed.runs_well().await;
        assert_eq!(ran.code == 0, runs, "{}: {found:?}", case.name);
    })
    .await;
}

#[tokio::test]
async fn check_warns_of_the_largest_id() {
    let bed = Bed::new().await;
    bed.exec("INSERT INTO war_snapshots (id) VALUES (9223372036854775807)").await;
    let (ran, found) = bed.check().await;
    assert_eq!(ran.code, 0, "{found:?}");
    let output = found.iter().map(Value::to_string).collect::<String>();
    assert!(output.contains("war_snapshots has a row with the id 9223372036854775807"), "{output}");
    assert!(bed.runs_well().await);
}

#[tokio::test]
async fn check_leaves_no_row() {
    let bed = Bed::new().await;
    bed.shell.run(&["check"]).await.well();
    for table in [
        "clans",
        "players",
        "clan_snapshots",
        "player_snapshots",
        "war_snapshots",
        "clan_memberships",
        "refresh_worker.refresh_state",
        "refresh_worker.refresh_runs",
        "refresh_worker.outbox",
    ] {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&bed.pool).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn check_warns_of_locks_in_time() {
    let bed = Bed::new().await;
    let mut other = bed.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE clans IN ACCESS EXCLUSIVE MODE").execute(&mut *other).await.unwrap();
    let (ran, found) = bed.check().await;
    assert_eq!(ran.code, 0, "{found:?}");
    let output = found.iter().map(Value::to_string).collect::<String>();
    assert!(output.contains("somebody holds a lock"), "{output}");
}

#[tokio::test]
async fn check_reports_narrow_encodings() {
    let server = support::postgres::fresh().await;
    let around = PgPool::connect(&server).await.unwrap();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let mut url = url::Url::parse(&server).unwrap();
        let name = format!("{}_{}", url.path().trim_start_matches('/'), encoding.to_lowercase());
        let create =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&around).await.unwrap();
        url.set_path(&name);
        let bed = Bed::on(url.as_str()).await;
        let (ran, found) = bed.check().await;
        assert_eq!(ran.code, 1, "{found:?}");
        let output = found.iter().map(Value::to_string).collect::<String>();
        assert!(output.contains(&format!("is {encoding}")) && output.contains("ENCODING 'UTF8'"), "{output}");
        bed.pool.close().await;
        let drop = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&around).await.unwrap();
    }
}

#[tokio::test]
async fn check_warns_of_newer_tables() {
    let bed = Bed::new().await;
    bed.exec("INSERT INTO refresh_worker.migrations (version, name) VALUES (9999, '9999_later')").await;
    let (ran, found) = bed.check().await;
    assert_eq!(ran.code, 0, "{found:?}");
    assert!(found.iter().any(|finding| finding["what"].as_str().unwrap().contains("newer version")), "{found:?}");
    assert!(bed.runs_well().await, "migrations only add");
}

#[tokio::test]
async fn check_reports_too_few_connections() {
    let bed = Bed::new().await;
    let (modest, role) = modest_role(bed.shell.variable("DATABASE_URL").as_str()).await;
    let rights = documented(&role, &bed.database);
    let of_runs: Vec<&str> =
        rights.iter().map(String::as_str).take_while(|grant| !grant.starts_with("GRANT DELETE ")).collect();
    bed.exec(&of_runs.join(";\n")).await;
    let shell = Bed { shell: bed.shell.with("DATABASE_URL", modest).with("DB_POOL_MAX", "3"), ..bed };
    let (ran, found) = shell.check().await;
    assert_eq!(ran.code, 0, "{found:?}");
    for (limit, output) in [("0", "cannot be used"), ("2", "allows 2 connections")] {
        shell.exec(&format!("ALTER ROLE {role} CONNECTION LIMIT {limit}")).await;
        let (ran, found) = shell.check().await;
        assert_eq!(ran.code, 1, "{found:?}");
        assert!(found.iter().any(|finding| finding["what"].as_str().unwrap().contains(output)), "{limit}: {found:?}");
    }
    drop_role(&shell.url_of_owner(), &role).await;
}

impl Bed {
    /// Checks with the planner off and on. Off must find nothing.
    async fn check_with_planner(self) -> (Self, String) {
        let bed = Self { shell: self.shell.with("PLANNED_CALLS_PER_SEC", "0"), ..self };
        let (ran, found) = bed.check().await;
        assert_eq!(ran.code, 0, "the planner is off: {found:?}");
        let bed = Self { shell: bed.shell.with("PLANNED_CALLS_PER_SEC", "10"), ..bed };
        let (ran, found) = bed.check().await;
        let output = found.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(ran.code == 0, output.is_empty(), "{}", ran.stdout);
        (bed, output)
    }
}

const PLANNER_TABLES: [&str; 4] = ["plan", "plan_level", "plan_walk", "looks"];

#[tokio::test]
async fn missing_planner_tables_are_found_only_while_on() {
    let (mut bed, output) = Bed::new().await.check_with_planner().await;
    assert_eq!(output, "");
    for table in PLANNER_TABLES {
        bed.exec(&format!("ALTER TABLE refresh_worker.{table} RENAME TO gone")).await;
        let (again, output) = bed.check_with_planner().await;
        bed = again;
        assert!(output.contains(&format!("refresh_worker.{table} is gone")), "{table}: {output}");
        bed.exec(&format!("ALTER TABLE refresh_worker.gone RENAME TO {table}")).await;
    }
}

#[tokio::test]
async fn missing_planner_rights_are_found_only_while_on() {
    let bed = Bed::new().await;
    let (modest, role) = modest_role(bed.shell.variable("DATABASE_URL").as_str()).await;
    let rights = documented(&role, &bed.database);
    let of_runs = rights.iter().map(String::as_str).take_while(|grant| !grant.starts_with("GRANT DELETE "));
    let (of_planner, of_runs): (Vec<_>, Vec<_>) = of_runs
        .partition(|grant| PLANNER_TABLES.iter().any(|table| grant.contains(&format!("refresh_worker.{table}"))));
    bed.exec(&of_runs.join(";\n")).await;
    let bed = Bed { shell: bed.shell.with("DATABASE_URL", modest).with("AUTO_MIGRATE", "false"), ..bed };
    let (bed, output) = bed.check_with_planner().await;
    for table in PLANNER_TABLES {
        assert!(output.contains(&format!(" ON refresh_worker.{table} TO {role};")), "{table}: {output}");
    }
    bed.exec(&of_planner.join(";\n")).await;
    let (bed, output) = bed.check_with_planner().await;
    assert_eq!(output, "");
    drop_role(&bed.url_of_owner(), &role).await;
}

impl Bed {
    fn url_of_owner(&self) -> String {
        let mut url = url::Url::parse(&self.shell.variable("DATABASE_URL")).unwrap();
        url.set_username("postgres").unwrap();
        url.into()
    }
}

/// The statements that DEPLOYMENT.md gives for a role which makes nothing, for this role.
fn documented(role: &str, database: &str) -> Vec<String> {
    let manual = include_str!("../../../DEPLOYMENT.md");
    let (_, after) = manual.split_once("### The rights of the database role").expect("the section");
    let (_, block) = after.split_once("```sql\n").expect("the block");
    let (block, _) = block.split_once("```").expect("its end");
    let lines: Vec<&str> = block.lines().map(|line| line.split("--").next().unwrap_or("")).collect();
    let statements = lines
        .join("\n")
        .replace("worker;", &format!("{role};"))
        .replace("DATABASE coc", &format!("DATABASE {database}"));
    statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

/// Whether anything stands in the way of runs, retention, a view and a job: what `check` asks, without the time of a process.
async fn has_complaints(url: &str) -> bool {
    let store = PostgresStore::connect(&config(url)).unwrap();
    let pool = store.pool();
    let view = ViewConfig { name: "clan_leaderboard".to_owned(), interval: Duration::from_secs(60), statistics: None };
    let function = StatsFunction { name: "update_power_ratings".to_owned(), tags: Vec::new() };
    let mut sights = inspect::views(&pool, &[view]).await;
    sights.extend(inspect::jobs(&pool, &[function]).await);
    let complains = !store.check_rights_with(Extent::ALL).await.is_empty()
        || sights.iter().any(|sight| !matches!(sight, Finding::Fine(_)));
    pool.close().await;
    complains
}

/// One right on one thing: `REVOKE right ON thing FROM role`, and how it comes back.
fn single_rights(statements: &[String]) -> Vec<(String, String)> {
    let mut single = Vec::new();
    for statement in statements.iter().filter(|statement| statement.starts_with("GRANT ")) {
        let (rights, rest) = statement["GRANT ".len()..].split_once(" ON ").expect("a grant ON something");
        let (things, role) = rest.rsplit_once(" TO ").expect("a grant TO a role");
        let (what, things) = ["SEQUENCE ", "SCHEMA ", "DATABASE ", "FUNCTION "]
            .iter()
            .find_map(|what| things.strip_prefix(*what).map(|things| (*what, things)))
            .unwrap_or(("", things));
        for thing in things.split(',').map(str::trim) {
            for right in rights.split(',').map(str::trim) {
                single.push((
                    format!("REVOKE {right} ON {what}{thing} FROM {role}"),
                    format!("GRANT {right} ON {what}{thing} TO {role}"),
                ));
            }
        }
    }
    single
}

#[tokio::test]
async fn documented_role_passes_check() {
    let bed = Bed::new().await;
    bed.exec(include_str!("../../../src/maintenance/sql/jobs/table.sql")).await;
    bed.shell.run(&["views", "install"]).await.well();
    bed.exec(
        "CREATE TABLE IF NOT EXISTS materialized_view_refresh_log (
             view_name text PRIMARY KEY, last_refreshed_at timestamptz NOT NULL DEFAULT now(),
             refresh_duration_ms integer, total_jobs integer, total_objects bigint);
         CREATE FUNCTION update_power_ratings() RETURNS void LANGUAGE sql AS '';
         REVOKE ALL ON DATABASE {database} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;
         REVOKE ALL ON FUNCTION update_power_ratings() FROM PUBLIC",
    )
    .await;
    let (modest, role) = modest_role(&bed.shell.variable("DATABASE_URL")).await;
    let statements = documented(&role, &bed.database);
    bed.exec(&statements.join(";\n")).await;
    let shell = bed
        .shell
        .with("DATABASE_URL", modest)
        .with("AUTO_MIGRATE", "false")
        .with("SNAPSHOT_RETENTION_DAYS", "90")
        .with("STATS_FUNCTIONS", "update_power_ratings")
        .with("REFRESH_VIEWS", "clan_leaderboard");
    let bed = Bed { shell, ..bed };
    let ran = bed.shell.run(&["check"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    assert!(!ran.stdout.contains("PROBLEM"), "{}", ran.stdout);

    bed.exec(
        "INSERT INTO clan_snapshots (ts, clan_tag) SELECT date_trunc('day', now()) - interval '95 days' + n * interval '1 hour', '2PP' FROM generate_series(0, 9) AS n",
    )
    .await;
    bed.shell.run(&["jobs", "enqueue"]).await.well();
    assert!(bed.runs_well().await, "a run works");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM clan_snapshots WHERE clan_tag = '2PP'")
        .fetch_one(&bed.pool)
        .await
        .unwrap();
    assert_eq!(left, 1, "retention works");
    let done: String =
        sqlx::query_scalar("SELECT status FROM background_job_status").fetch_one(&bed.pool).await.unwrap();
    assert_eq!(done, "completed", "a job works");
    let views: i64 =
        sqlx::query_scalar("SELECT count(*) FROM materialized_view_refresh_log WHERE view_name = 'clan_leaderboard'")
            .fetch_one(&bed.pool)
            .await
            .unwrap();
    assert_eq!(views, 1, "a view works");

    let url = bed.shell.variable("DATABASE_URL");
    for (revoke, grant) in single_rights(&statements) {
        bed.exec(&revoke).await;
        assert!(has_complaints(&url).await, "{revoke}");
        bed.exec(&grant).await;
    }
    assert!(!has_complaints(&url).await, "everything is given back");
    let url = bed.url_of_owner();
    drop_role(&url, &role).await;
}

#[tokio::test]
async fn fixes_of_check_work_when_pasted() {
    let bed = Bed::new().await;
    let (modest, role) = modest_role(&bed.shell.variable("DATABASE_URL")).await;
    bed.exec("ALTER TABLE clans ENABLE ROW LEVEL SECURITY; ALTER TABLE clan_snapshots ENABLE ROW LEVEL SECURITY").await;
    let shell =
        bed.shell.with("DATABASE_URL", modest).with("AUTO_MIGRATE", "false").with("SNAPSHOT_RETENTION_DAYS", "9");
    let bed = Bed { shell, ..bed };
    let mut rounds = 0;
    loop {
        let (_, found) = bed.check().await;
        if found.is_empty() {
            break;
        }
        rounds += 1;
        assert!(rounds < 5, "the fixes help: {found:?}");
        for finding in found {
            let fix = finding["fix"].as_str().unwrap();
            assert!(fix.starts_with("GRANT ") || fix.starts_with("CREATE POLICY "), "{finding}");
            assert!(!fix.contains("ALL TABLES") && !fix.contains("BYPASSRLS"), "{finding}");
            bed.exec(fix).await;
        }
    }
    assert!(bed.runs_well().await, "a run works");
    let url = bed.url_of_owner();
    drop_role(&url, &role).await;
}

/// A way to a server that calls itself PostgreSQL 12.
async fn as_version_12(url: &str) -> String {
    const NAME: &[u8] = b"server_version\0";
    let mut url = url::Url::parse(url).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut piece = vec![0; 65_536];
                while let Ok(length @ 1..) = from_server.read(&mut piece).await {
                    let answer = &mut piece[..length];
                    if let Some(place) = answer.windows(NAME.len()).position(|bytes| bytes == NAME) {
                        answer[place + NAME.len()..][..2].copy_from_slice(b"12");
                    }
                    if to_client.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    url.into()
}

#[tokio::test]
async fn server_before_13_is_refused() {
    let bed = Bed::new().await;
    let url = as_version_12(&bed.shell.variable("DATABASE_URL")).await;
    let bed = Bed { shell: bed.shell.with("DATABASE_URL", url), ..bed };
    let (ran, found) = bed.check().await;
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    let output = "the server is PostgreSQL 12, and this program needs 13 or newer";
    assert!(found.iter().any(|finding| finding["what"].as_str().unwrap().contains(output)), "{found:?}");
    let ran = bed.shell.run(&["drain"]).await;
    assert!(ran.code == 1 && ran.stdout.contains(output), "{}", ran.stdout);
    let bed = Bed { shell: bed.shell.with("AUTO_MIGRATE", "false"), ..bed };
    let ran = bed.shell.run(&["drain"]).await;
    assert!(ran.code == 1 && ran.stdout.contains(output), "{}", ran.stdout);
    assert_eq!(bed.simulator.total_calls(), 1, "check's own call with the key");
}
