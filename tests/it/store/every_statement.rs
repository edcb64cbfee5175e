//! Every statement that is sent to PostgreSQL, with arguments of real size, and a database of any size to send it to.
//! The tests look at the plans, the bench `statements` at the times.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};

/// The folders whose statements have to be listed here.
const FOLDERS: [&str; 3] = ["src/store/sql/postgres", "src/maintenance/sql", "src/cli/sql"];

/// The allowed dependence of a statement's cost on the size of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// None.
    Bounded,
    /// It has to read a whole table; the text names the reason.
    Grows(&'static str),
}

/// A statement, and what it is called with.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// The file, from the root of the repository.
    pub file: &'static str,
    pub cost: Cost,
    /// SQL expressions, which are evaluated first: an argument is a value.
    pub arguments: &'static [&'static str],
    /// True when it is a part of a commit.
    pub in_commit: bool,
}

const fn bounded(file: &'static str, arguments: &'static [&'static str]) -> Statement {
    Statement { file, cost: Cost::Bounded, arguments, in_commit: false }
}

const fn of_commit(file: &'static str, arguments: &'static [&'static str]) -> Statement {
    Statement { file, cost: Cost::Bounded, arguments, in_commit: true }
}

const fn grows(file: &'static str, what: &'static str, arguments: &'static [&'static str]) -> Statement {
    Statement { file, cost: Cost::Grows(what), arguments, in_commit: false }
}

const CLANS: &str = "(SELECT array_agg(tag ORDER BY tag) FROM bench.clan)";
const PLAYERS: &str = "(SELECT array_agg(tag ORDER BY tag) FROM bench.player)";
const CLAN_ROWS: &str = "(SELECT array_agg(id ORDER BY tag) FROM bench.clan)";
const PLAYER_ROWS: &str = "(SELECT array_agg(id ORDER BY tag) FROM bench.player)";
const WAR_ROWS: &str = "(SELECT array_agg(war ORDER BY tag) FROM bench.clan)";
/// The moment of the commit, after everything that is stored.
const NOW: &str = "timestamp '2026-03-20 12:00'";
const CLANS_NOW: &str = "(SELECT array_agg(timestamp '2026-03-20 12:00') FROM bench.clan)";
const PLAYERS_NOW: &str = "(SELECT array_agg(timestamp '2026-03-20 12:00') FROM bench.player)";
const NONE: &str = "NULL";

/// All of them. The order is that of a run: freshness, a commit, what follows, what operators ask.
pub const STATEMENTS: &[Statement] = &[
    bounded("src/store/sql/postgres/freshness.sql", &["(SELECT array_agg('player'::text) FROM bench.player)", PLAYERS]),
    bounded(
        "src/store/sql/postgres/control_object.sql",
        &["'player'", "'P0001000'", "'2026-03-20 12:00Z'", "'2020-01-01Z'", "'{}'"],
    ),
    of_commit(
        "src/store/sql/postgres/arbiter.sql",
        &[
            "(SELECT array_agg(kind ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(tag ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(CASE WHEN kind = 'clan' THEN timestamptz '2026-03-20 12:00Z' END ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(CASE WHEN kind = 'clan' THEN sha256('other') END ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(CASE WHEN kind = 'clan' THEN timestamptz '2026-03-20 12:02Z' END ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(CASE WHEN kind = 'clan' THEN 'stored' END ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(NULL::text) FROM bench.object)",
            "(SELECT array_agg(CASE WHEN kind = 'player' THEN timestamptz '2026-03-20 12:00Z' END ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(NULL::timestamptz) FROM bench.object)",
            CLANS,
            "'2026-03-20 12:05Z'",
        ],
    ),
    of_commit("src/store/sql/postgres/replaced.sql", &[CLAN_ROWS, PLAYER_ROWS, WAR_ROWS]),
    of_commit(
        "src/store/sql/postgres/newest.sql",
        &[PLAYERS, PLAYERS_NOW, "(SELECT array_agg(true) FROM bench.player)", CLANS, CLANS_NOW, CLANS, CLANS_NOW],
    ),
    Statement {
        cost: Cost::Grows("the ended memberships of these clans, too, which share an index with the open ones"),
        ..of_commit("src/store/sql/postgres/memberships_read.sql", &[PLAYERS, CLANS, NOW])
    },
    // Skips 200 ids of each sequence the first time only.
    of_commit("src/store/sql/postgres/ids_leave.sql", &["true", "true", "true", "true", "200", "200"]),
    of_commit("src/store/sql/postgres/ids_step.sql", &["200"]),
    of_commit(
        "src/store/sql/postgres/clans.sql",
        &[
            CLANS,
            "(SELECT array_agg('a name'::text) FROM bench.clan)",
            "(SELECT array_agg(50) FROM bench.clan)",
            "(SELECT array_agg(11) FROM bench.clan)",
            "(SELECT array_agg(7) FROM bench.clan)",
            "(SELECT array_agg(3) FROM bench.clan)",
            "(SELECT array_agg('{\"name\":\"other\"}'::text) FROM bench.clan)",
            "(SELECT array_agg('clash://x'::text) FROM bench.clan)",
            CLANS_NOW,
            CLANS_NOW,
            "(SELECT array_agg(CASE WHEN n % 2 = 0 THEN id END ORDER BY tag) FROM bench.clan)",
            "(SELECT array_agg(true) FROM bench.clan)",
        ],
    ),
    of_commit(
        "src/store/sql/postgres/players.sql",
        &[
            PLAYERS,
            "(SELECT array_agg('other'::text) FROM bench.player)",
            "(SELECT array_agg('member'::text) FROM bench.player)",
            "(SELECT array_agg(15) FROM bench.player)",
            "(SELECT array_agg(clan ORDER BY tag) FROM bench.player)",
            "(SELECT array_agg(4000) FROM bench.player)",
            "(SELECT array_agg(5) FROM bench.player)",
            "(SELECT array_agg(6) FROM bench.player)",
            "(SELECT array_agg(NULL::int) FROM bench.player)",
            "(SELECT array_agg(NULL::timestamp) FROM bench.player)",
            "(SELECT array_agg(CASE WHEN n % 50 = 0 THEN '{\"name\":\"x\"}' END ORDER BY tag) FROM bench.player)",
            "(SELECT array_agg('clash://x'::text) FROM bench.player)",
            PLAYERS_NOW,
            "(SELECT array_agg(CASE WHEN n % 50 = 0 THEN 'document' ELSE 'member' END ORDER BY tag) FROM bench.player)",
            "(SELECT array_agg(CASE n % 10 WHEN 0 THEN 'insert' WHEN 1 THEN 'leave' ELSE 'rewrite' END ORDER BY tag) FROM bench.player)",
            PLAYERS_NOW,
            PLAYER_ROWS,
            "(SELECT array_agg(false) FROM bench.player)",
        ],
    ),
    of_commit(
        "src/store/sql/postgres/wars.sql",
        &[
            CLANS,
            "(SELECT array_agg('{}'::text) FROM bench.clan)",
            CLANS_NOW,
            "(SELECT array_agg(CASE WHEN n % 2 = 0 THEN war END ORDER BY tag) FROM bench.clan)",
            "(SELECT array_agg(true) FROM bench.clan)",
        ],
    ),
    of_commit(
        "src/store/sql/postgres/last_writes.sql",
        &[
            "(SELECT array_agg(stay ORDER BY tag) FROM bench.player WHERE n % 10 = 0)",
            "(SELECT array_agg(timestamp '2026-03-20 12:00') FROM bench.player WHERE n % 10 = 0)",
            "(SELECT array_agg(tag ORDER BY tag) FROM bench.player WHERE n % 10 = 0)",
            "(SELECT array_agg('C0000001'::text) FROM bench.player WHERE n % 10 = 0)",
            "(SELECT array_agg(timestamp '2026-03-20 12:00') FROM bench.player WHERE n % 10 = 0)",
            "-1",
            "'2026-03-20 12:00Z'",
            "'{}'",
            "(SELECT array_agg(n) FROM generate_series(1000, 1100) AS n)",
        ],
    ),
    of_commit(
        "src/store/sql/postgres/lessons_read.sql",
        &[
            "(SELECT array_agg(kind ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(tag ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(kind = 'player' ORDER BY kind, tag) FROM bench.object)",
        ],
    ),
    of_commit(
        "src/store/sql/postgres/lessons_write.sql",
        &[
            "(SELECT array_agg(kind ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(tag ORDER BY kind, tag) FROM bench.object)",
            "(SELECT array_agg(timestamptz '2026-03-20 12:00Z') FROM bench.object)",
            "(SELECT array_agg(timestamptz '2026-03-20 13:00Z') FROM bench.object)",
            "(SELECT array_agg(NULL::timestamptz) FROM bench.object)",
            "(SELECT array_agg(1::real) FROM bench.object)",
            "(SELECT array_agg(1::real) FROM bench.object)",
            "(SELECT array_agg(1::real) FROM bench.object)",
            "(SELECT array_agg(1::real) FROM bench.object)",
            "(SELECT array_agg(7::smallint) FROM bench.object)",
            "(SELECT array_agg(true) FROM bench.object)",
            "(SELECT array_agg(timestamptz '2026-03-20 12:00Z') FROM bench.clan)",
            "(SELECT array_agg('clan'::text) FROM bench.clan)",
            CLANS,
            "(SELECT array_agg(true) FROM bench.clan)",
            "(SELECT array_agg(NULL::boolean) FROM bench.clan)",
            "(SELECT array_agg(NULL::timestamptz) FROM bench.clan)",
        ],
    ),
    bounded("src/store/sql/postgres/next_looks.sql", &["'2026-03-21Z'", NONE, "''", "''", "0", "9999", "120"]),
    bounded(
        "src/store/sql/postgres/put_off.sql",
        &[
            "(SELECT array_agg('clan'::text) FROM bench.clan)",
            CLANS,
            "(SELECT array_agg(timestamptz '2026-03-21Z') FROM bench.clan)",
            "(SELECT array_agg(true) FROM bench.clan)",
            "(SELECT array_agg(timestamptz '2026-03-20Z') FROM bench.clan)",
            "(SELECT array_agg(false) FROM bench.clan)",
        ],
    ),
    bounded("src/store/sql/postgres/looks_unplan.sql", &["ARRAY['player']", "ARRAY['P0001000']"]),
    bounded("src/store/sql/postgres/level_move.sql", &["'main'", "0.01", "'2026-03-20 12:00Z'"]),
    bounded("src/store/sql/postgres/walk_begin.sql", &["'2026-03-20 12:00Z'"]),
    bounded("src/store/sql/postgres/walk_read.sql", &["'player'", "'P0001000'", "1000"]),
    bounded(
        "src/store/sql/postgres/walk_step.sql",
        &[
            "ARRAY['player']",
            "ARRAY['X0000001']",
            "ARRAY[NULL::timestamptz]",
            "ARRAY[timestamptz '2026-03-21Z']",
            "ARRAY[7::smallint]",
            "'player'",
            "'X0000001'",
            NONE,
        ],
    ),
    bounded("src/store/sql/postgres/walk_correct.sql", &["'2026-03-29Z'", "86400", "'2026-03-20Z'"]),
    bounded("src/store/sql/postgres/looks_read.sql", &["'2026-03-20 11:00Z'", "'2026-03-20 11:10Z'"]),
    bounded("src/store/sql/postgres/looks_delete.sql", &["'2026-03-01 01:00Z'", "1000"]),
    // When the database refused a text.
    of_commit("src/store/sql/postgres/shape.sql", &[]),
    // These two read the locks that are held, whatever the tables hold; before each run, and while one waits.
    bounded("src/store/sql/postgres/table_locks.sql", &["true"]),
    bounded("src/store/sql/postgres/blocked_by.sql", &["1", "2"]),
    bounded("src/store/sql/postgres/outbox_read.sql", &["'2026-03-20 12:00Z'", "100"]),
    grows(
        "src/store/sql/postgres/run_insert.sql",
        "the times of the 10,000 runs that are kept",
        &[
            "'this run'",
            "'2026-03-20 12:00Z'",
            "'2026-03-20 12:01Z'",
            "'queue_empty'",
            NONE,
            "1",
            "1",
            "1",
            "bench.report(1)",
            "'2026-02-18 12:00Z'",
            "10000",
        ],
    ),
    bounded("src/store/sql/postgres/run_last.sql", &[]),
    bounded("src/store/sql/postgres/run_lasts.sql", &[]),
    bounded("src/store/sql/postgres/look_state.sql", &["'player'", "'P0001000'"]),
    bounded("src/store/sql/postgres/look_errors.sql", &["'player:P00777'", "5"]),
    bounded("src/maintenance/sql/view_ages.sql", &["ARRAY['clan_leaderboard', 'refresh_progress']"]),
    bounded("src/maintenance/sql/view_look.sql", &["'clan_leaderboard'", "'refresh_worker.clan_leaderboard'"]),
    bounded("src/maintenance/sql/view_blocker.sql", &["'clan_leaderboard'", "'refresh_worker.clan_leaderboard'"]),
    bounded("src/maintenance/sql/view_log.sql", &["'clan_leaderboard'", "1", NONE, "8000"]),
    bounded("src/maintenance/sql/view_log_look.sql", &[]),
    grows("src/maintenance/sql/own_views/clan_leaderboard.sql", "the newest document of every clan", &[]),
    grows("src/maintenance/sql/own_views/refresh_progress.sql", "every row of refresh_state", &[]),
    bounded("src/maintenance/sql/jobs/idle.sql", &[]),
    bounded("src/maintenance/sql/jobs/give_up.sql", &["300"]),
    bounded("src/maintenance/sql/jobs/take.sql", &["300", "30"]),
    bounded("src/maintenance/sql/jobs/beat.sql", &["(SELECT id FROM bench.job)", "(SELECT started_at FROM bench.job)"]),
    bounded(
        "src/maintenance/sql/jobs/end.sql",
        &["(SELECT id FROM bench.job)", "(SELECT started_at FROM bench.job)", "'completed'", NONE, "'[]'", "false"],
    ),
    bounded("src/maintenance/sql/jobs/insert.sql", &["'{}'", "0", "3"]),
    bounded("src/maintenance/sql/jobs/list.sql", &[NONE, NONE, "20"]),
    bounded("src/maintenance/sql/jobs/list.sql", &["(SELECT id FROM bench.job)", NONE, "20"]),
    bounded("src/maintenance/sql/jobs/list.sql", &[NONE, "'queued'", "20"]),
    bounded("src/maintenance/sql/jobs/list.sql", &[NONE, "'completed'", "20"]),
    grows(
        "src/maintenance/sql/jobs/purge.sql",
        "a thousand jobs, each on a page of its own where there are many",
        &["ARRAY['completed', 'failed']", "3600", "1000", NONE],
    ),
    grows(
        "src/maintenance/sql/jobs/purge_count.sql",
        "every job that ended",
        &["ARRAY['completed', 'failed']", "3600"],
    ),
    bounded("src/maintenance/sql/jobs/look.sql", &[]),
    bounded("src/maintenance/sql/jobs/function_look.sql", &["'public'", "'now'"]),
    bounded("src/maintenance/sql/retention_from.sql", &["'player_snapshots'", "'2026-03-10'"]),
    bounded("src/maintenance/sql/retention_thin.sql", &["'2026-02-01'", "'2026-02-02'", "1000", "'player'"]),
    bounded("src/maintenance/sql/retention_note.sql", &["'player_snapshots'", "'2026-03-10'", "'2026-03-20Z'"]),
    grows(
        "src/maintenance/sql/retention_count.sql",
        "every snapshot of the days that would be thinned",
        &["'2026-01-01'", "'2026-03-10'", "'player'"],
    ),
    bounded("src/store/sql/postgres/check_server.sql", &[]),
    bounded("src/store/sql/postgres/check_ids.sql", &[]),
    bounded(
        "src/store/sql/postgres/places.sql",
        &[
            "ARRAY['clans', 'players', 'clan_snapshots', 'player_snapshots', 'war_snapshots', 'clan_memberships']",
            "ARRAY['tag', 'tag', 'clan_tag', 'player_tag', 'clan_tag', 'player_tag']",
        ],
    ),
    grows("src/cli/sql/report_freshness.sql", "every row of refresh_state", &[]),
    grows("src/cli/sql/report_work.sql", "the numbers of the week's runs", &["'2026-03-13 12:00Z'"]),
    grows("src/cli/sql/report_days.sql", "the numbers of the week's runs", &["'2026-03-13 12:00Z'"]),
    grows("src/cli/sql/report_planned.sql", "the reports of the week's runs", &["'2026-03-13 12:00Z'"]),
    grows("src/cli/sql/report_planned_runs.sql", "the reports of the week's runs", &["'2026-03-13 12:00Z'"]),
    grows("src/cli/sql/report_planned_waits.sql", "the reports of the week's runs", &["'2026-03-13 12:00Z'"]),
    grows("src/cli/sql/report_target.sql", "every row of refresh_state of a kind", &["'player'", "600"]),
];

/// Not measured, each with the reason.
const APART: &[(&str, &str)] = &[
    ("src/store/sql/postgres/migration_rights.sql", "reads the catalogue, before the first run"),
    ("src/store/sql/postgres/row_security.sql", "reads the catalogue, for `check`"),
    ("src/store/sql/postgres/check_tables.sql", "reads the catalogue, for `check`"),
    ("src/maintenance/sql/jobs/table.sql", "makes a table"),
    ("src/maintenance/sql/view_log_table.sql", "makes a table"),
    ("src/maintenance/sql/view_statistics_job_progress.sql", "counts another program's view"),
];

/// Files with statements that are neither listed nor excepted, and listed files that no longer exist.
pub fn unlisted() -> Vec<String> {
    let mut there = BTreeSet::new();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut there);
    }
    let listed = STATEMENTS.iter().map(|statement| statement.file).chain(APART.iter().map(|(file, _)| *file));
    let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
    there.symmetric_difference(&listed).cloned().collect()
}

fn collect(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry of a folder").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            into.insert(path.strip_prefix(root()).expect("a file of the repository").display().to_string());
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

impl Statement {
    /// Its name, with the arguments where a file is listed more than once.
    pub fn name(&self) -> String {
        let name = self.file.trim_start_matches("src/").replace("sql/", "").replace("postgres/", "");
        if self.file.ends_with("list.sql") {
            let which = |place: usize| if self.arguments[place] == NONE { "-" } else { self.arguments[place] };
            return format!("{name} {} {}", if which(0) == "-" { "-" } else { "id" }, which(1));
        }
        name
    }

    /// As it is sent; of a view its query.
    fn sql(&self) -> String {
        let text = fs::read_to_string(root().join(self.file)).expect("a statement");
        let text = text.replace("{table}", "player_snapshots").replace("{tag}", "player_tag");
        if !self.file.contains("own_views") {
            return text;
        }
        let (_, query) = text.split_once(" AS\n").expect("CREATE MATERIALIZED VIEW ... AS");
        query.split_once(";\n").expect("the end of the view").0.to_owned()
    }

    /// Prepares it as `s`. Gives what executes it.
    pub async fn prepare(&self, connection: &mut PgConnection) -> String {
        exec(connection, "DEALLOCATE ALL").await;
        exec(connection, &format!("PREPARE s AS {}", self.sql())).await;
        let types: Vec<String> =
            sqlx::query_scalar("SELECT unnest(parameter_types)::text FROM pg_prepared_statements WHERE name = 's'")
                .persistent(false)
                .fetch_all(&mut *connection)
                .await
                .expect("what was prepared");
        assert!(types.len() <= self.arguments.len(), "{}: takes {types:?}", self.file);
        let mut values = Vec::new();
        for argument in &self.arguments[..types.len()] {
            let value = format!("SELECT quote_nullable(({argument})::text)");
            let value: String = sqlx::query_scalar(AssertSqlSafe(value.clone()))
                .persistent(false)
                .fetch_one(&mut *connection)
                .await
                .unwrap_or_else(|error| panic!("{value}: {error}"));
            values.push(value);
        }
        if values.is_empty() { "EXECUTE s".to_owned() } else { format!("EXECUTE s({})", values.join(", ")) }
    }

    /// The plan; after it was carried out, and undone, when `analyzed`.
    pub async fn plan(&self, connection: &mut PgConnection, execute: &str, analyzed: bool) -> Value {
        let analyze = if analyzed { "ANALYZE, BUFFERS, TIMING OFF, " } else { "" };
        exec(connection, "BEGIN").await;
        let explain = format!("EXPLAIN ({analyze}FORMAT JSON) {execute}");
        let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(explain))).await;
        let row = row.unwrap_or_else(|error| panic!("{}: {error}", self.file));
        let plan: String = row.try_get_unchecked(0).expect("a plan");
        exec(connection, "ROLLBACK").await;
        serde_json::from_str::<Value>(&plan).expect("a plan is JSON")[0].take()
    }
}

pub async fn exec(connection: &mut PgConnection, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    done.unwrap_or_else(|error| panic!("{}: {error}", sql.chars().take(300).collect::<String>()));
}

/// The contents of a database.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub clans: u32,
    pub players: u32,
    /// Snapshots of each player.
    pub snapshots: u32,
    /// Closed memberships in each clan of a commit.
    pub ended_of_commit: u32,
    /// Closed memberships in total.
    pub ended: u32,
    pub jobs: u32,
    pub runs: u32,
    /// The bytes of a clan's document.
    pub document: u32,
}

#[allow(dead_code, reason = "the bench uses all sizes, the tests one")]
impl Size {
    /// The objects of a single commit, and nothing else.
    pub const SMALL: Self = Self {
        clans: 64,
        players: 3200,
        snapshots: 1,
        ended_of_commit: 0,
        ended: 0,
        jobs: 1000,
        runs: 100,
        document: 40_000,
    };

    /// Years of a large installation.
    pub const LARGE: Self = Self {
        clans: 8000,
        players: 207_000,
        snapshots: 7,
        ended_of_commit: 1240,
        ended: 1_400_000,
        jobs: 1_000_000,
        runs: 10_000,
        document: 40_000,
    };

    /// Enough for the planner to prefer indexes, and made in a second or two.
    pub const MODERATE: Self = Self {
        clans: 1000,
        players: 12_000,
        snapshots: 5,
        ended_of_commit: 100,
        ended: 60_000,
        jobs: 60_000,
        runs: 1000,
        document: 1000,
    };
}

/// Fills the tables, which have to be there and empty. Indexes are made afterwards, as a copy of a database has them.
pub async fn fill(connection: &mut PgConnection, size: Size) {
    exec(connection, "SET maintenance_work_mem = '256MB'; SET synchronous_commit = off").await;
    exec(connection, include_str!("../../../src/maintenance/sql/jobs/table.sql")).await;
    exec(connection, include_str!("../../../src/maintenance/sql/view_log_table.sql")).await;
    exec(connection, WITHOUT_INDEXES).await;
    let Size { clans, players, snapshots, ended_of_commit, ended, jobs, runs, document } = size;
    exec(
        connection,
        &format!(
            "CREATE FUNCTION bench.of(letter text, n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
                 $$ SELECT letter || lpad(n::text, 7, '0') $$;
             -- The first 3,200 players are those of the 64 clans of a commit.
             CREATE FUNCTION bench.home(n bigint, clans bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
                 $$ SELECT bench.of('C', CASE WHEN n <= 3200 THEN (n - 1) % 64 ELSE n % (clans - 64) + 64 END + 1) $$;
             INSERT INTO clans (tag, data, updated_at, deep_link)
                 SELECT bench.of('C', n), '{{\"name\":\"x\"}}', {NOW}, 'clash://x' FROM generate_series(1, {clans}) AS n;
             INSERT INTO players (tag, name, town_hall, role, clan_tag, updated_at, data, deep_link)
                 SELECT bench.of('P', n), 'somebody', 14, 'member', bench.home(n, {clans}), {NOW},
                        '{{\"name\":\"x\"}}', 'clash://x'
                 FROM generate_series(1, {players}) AS n;
             INSERT INTO clan_snapshots (ts, clan_tag, name, member_count, level, war_wins, war_losses, data)
                 SELECT timestamp '2026-03-01' + r * interval '1 day' + n * interval '1 ms', bench.of('C', n), 'x', 50, 9, 8, 7,
                        CASE WHEN r = {snapshots} THEN bench.document(n, {document}) ELSE '{{}}' END
                 FROM generate_series(1, {snapshots}) AS r, generate_series(1, {clans}) AS n;
             INSERT INTO war_snapshots (ts, clan_tag, data)
                 SELECT timestamp '2026-03-01' + r * interval '1 day' + n * interval '1 ms', bench.of('C', n), '{{}}'
                 FROM generate_series(1, {snapshots}) AS r, generate_series(1, {clans}) AS n;
             INSERT INTO player_snapshots (ts, player_tag, clan_tag, name, role, town_hall, trophies, donations,
                                           donations_received, war_attacks_used, last_seen, data)
                 SELECT timestamp '2026-02-01' + ((r - 1) / 2) * interval '1 day' + ((r - 1) % 2) * interval '6 hours'
                            + n * interval '1 ms',
                        bench.of('P', n), bench.home(n, {clans}), 'somebody', 'member', 14, n % 5000, n % 100, n % 90,
                        CASE WHEN r = 2 THEN 2 END, timestamp '2026-02-01', '{{\"name\":\"x\"}}'
                 FROM generate_series(1, {snapshots}) AS r, generate_series(1, {players}) AS n;
             INSERT INTO clan_memberships (player_tag, clan_tag, joined_at, left_at)
                 SELECT bench.of('P', n % {players} + 1), bench.of('C', (n - 1) % {clans} + 1),
                        timestamp '2024-01-01' + n * interval '1 s', timestamp '2024-02-01' + n * interval '1 s'
                 FROM generate_series(1, {ended}) AS n
                 -- The last clan is a very large one: a tenth of all.
                 UNION ALL
                 SELECT bench.of('P', n % {players} + 1), bench.of('C', {clans}),
                        timestamp '2023-01-01' + n * interval '1 s', timestamp '2023-02-01' + n * interval '1 s'
                 FROM generate_series(1, {ended} / 10) AS n
                 UNION ALL
                 SELECT bench.of('P', (n * 31) % {players} + 1), bench.of('C', c),
                        timestamp '2025-01-01' + n * interval '1 s', timestamp '2025-02-01' + n * interval '1 s'
                 FROM generate_series(1, {ended_of_commit}) AS n, generate_series(1, 64) AS c;
             INSERT INTO clan_memberships (player_tag, clan_tag, joined_at)
                 SELECT bench.of('P', n), bench.home(n, {clans}), timestamp '2025-06-01'
                 FROM generate_series(1, {players}) AS n;
             INSERT INTO refresh_worker.refresh_state (kind, tag, fetched_at, changed_at, content_hash, fresh_until,
                                                       last_outcome, snapshot_id, member_at)
                 SELECT 'player', player_tag, ts AT TIME ZONE 'UTC', ts AT TIME ZONE 'UTC', sha256(player_tag::bytea),
                        ts AT TIME ZONE 'UTC', 'stored', max(id), ts AT TIME ZONE 'UTC'
                 FROM player_snapshots
                 WHERE id > (SELECT max(id) FROM player_snapshots) - {players} GROUP BY player_tag, ts
                 UNION ALL
                 SELECT 'clan', clan_tag, ts AT TIME ZONE 'UTC', ts AT TIME ZONE 'UTC', sha256(clan_tag::bytea),
                        ts AT TIME ZONE 'UTC', 'stored', id, NULL
                 FROM clan_snapshots WHERE id > (SELECT max(id) FROM clan_snapshots) - {clans}
                 UNION ALL
                 SELECT 'war', clan_tag, ts AT TIME ZONE 'UTC', ts AT TIME ZONE 'UTC', sha256(clan_tag::bytea),
                        ts AT TIME ZONE 'UTC', 'stored', id, NULL
                 FROM war_snapshots WHERE id > (SELECT max(id) FROM war_snapshots) - {clans};
             INSERT INTO refresh_worker.plan (kind, tag, looked_at, next_look, bucket)
                 SELECT kind, tag, fetched_at,
                        timestamptz '2026-03-20Z' + (row_number() OVER (ORDER BY md5(tag))) * interval '1 s', 7
                 FROM refresh_worker.refresh_state;
             INSERT INTO refresh_worker.plan_level (arm, ln_level, moved_at, listening_since)
                 VALUES ('main', 0, timestamptz '2026-03-20Z', timestamptz '2026-03-01Z');
             INSERT INTO refresh_worker.looks (at, kind, tag, changed)
                 SELECT timestamptz '2026-03-01Z' + n * interval '30 s', 'player', bench.of('P', n), true
                 FROM generate_series(1, {players}) AS n;
             INSERT INTO refresh_worker.outbox (id, stored_at, payload)
                 SELECT n, timestamptz '2026-03-19Z' + n * interval '1 s', repeat('x', 500) FROM generate_series(1, {runs}) AS n;
             INSERT INTO background_job_status (job_payload, status, started_at, completed_at, retry_count, created_at,
                                                updated_at, priority)
                 SELECT '{{}}', CASE n % 100 WHEN 0 THEN 'failed' ELSE 'completed' END, t, t, 0, t, t, n % 7
                 FROM generate_series(1, {jobs}) AS n,
                      LATERAL (SELECT timestamptz '2024-01-01Z' + n * interval '1 min' AS t) AS q;
             INSERT INTO background_job_status (job_payload, status, started_at, created_at, updated_at, priority)
                 SELECT '{{}}', CASE n % 10 WHEN 0 THEN 'processing' ELSE 'queued' END, t, t, t, n % 7
                 FROM generate_series(1, 50) AS n,
                      LATERAL (SELECT timestamptz '2026-03-01Z' + n * interval '1 min' AS t) AS q;"
        ),
    )
    .await;
    exec(connection, WITH_INDEXES).await;
    exec(connection, "ANALYZE").await;
    exec(
        connection,
        &format!(
            // What a trigger does row by row is done at once.
            "ALTER TABLE refresh_worker.refresh_runs DISABLE TRIGGER unfold_report;
             INSERT INTO refresh_worker.refresh_runs
                 (run, started, ended, stopped_because, processed, failed, api_requests, report)
                 -- The newer half was paused: the newest run that went well is far back, and none failed.
                 SELECT 'run ' || n, t, t + interval '100 s', w, CASE w WHEN 'refresh_paused' THEN 0 ELSE 3000 END, 3, 3000,
                        bench.report(n)::json
                 FROM generate_series(1, {runs}) AS n,
                      LATERAL (SELECT timestamptz '2026-03-20 12:00Z' - n * interval '2 min' AS t,
                                      CASE WHEN n <= {runs} / 2 THEN 'refresh_paused' ELSE 'queue_empty' END AS w) AS q;
             ALTER TABLE refresh_worker.refresh_runs ENABLE TRIGGER unfold_report;
             INSERT INTO refresh_worker.run_work
                 SELECT run, kind, priority, started, 10, 5, 3, 1, 1, 0, 2
                 FROM refresh_worker.refresh_runs, unnest(ARRAY['clan', 'player', 'war']) AS kind,
                      unnest(ARRAY['critical', 'high', 'medium', 'low']) AS priority;
             INSERT INTO refresh_worker.run_errors
                 SELECT run, e, 'player:P' || lpad(e::text, 3, '0') || substr(run, 5), started, 'bad_gateway: 502, tried thrice'
                 FROM refresh_worker.refresh_runs, generate_series(1, 20) AS e;
             INSERT INTO materialized_view_refresh_log (view_name) VALUES ('clan_leaderboard');
             CREATE TABLE bench.clan AS
                 SELECT c.tag, n, (SELECT id FROM clan_snapshots AS s WHERE s.clan_tag = c.tag ORDER BY ts DESC LIMIT 1) AS id,
                        (SELECT id FROM war_snapshots AS s WHERE s.clan_tag = c.tag ORDER BY ts DESC LIMIT 1) AS war
                 FROM generate_series(1, 64) AS n JOIN clans AS c ON c.tag = bench.of('C', n);
             CREATE TABLE bench.player AS
                 SELECT p.tag, p.clan_tag AS clan, row_number() OVER () AS n,
                        (SELECT id FROM player_snapshots AS s WHERE s.player_tag = p.tag ORDER BY ts DESC LIMIT 1) AS id,
                        (SELECT id FROM clan_memberships AS s WHERE s.player_tag = p.tag AND s.left_at IS NULL) AS stay
                 FROM players AS p WHERE p.clan_tag IN (SELECT tag FROM bench.clan) ORDER BY p.tag LIMIT 3200;
             CREATE TABLE bench.object AS
                 SELECT 'clan' AS kind, tag FROM bench.clan UNION ALL SELECT 'player', tag FROM bench.player;
             CREATE TABLE bench.job AS
                 SELECT id, started_at FROM background_job_status WHERE status = 'processing' LIMIT 1;
"
        ),
    )
    .await;
    exec(connection, "VACUUM ANALYZE").await;
}

/// The functions of the bed; takes the indexes away, keeps how they are made, and writes no log.
const WITHOUT_INDEXES: &str = r#"
CREATE SCHEMA bench;
CREATE TABLE bench.report_of_a_run AS SELECT json_build_object(
    'run', 'run @',
    'errors', (SELECT json_agg('player:P' || lpad(e::text, 3, '0') || '@: bad_gateway: 502, tried thrice')
               FROM generate_series(1, 20) AS e),
    'work_by_kind_and_priority', (
        SELECT json_object_agg(k, (
            SELECT json_object_agg(c, '{"calls":10,"stored":5,"unchanged":3,"fresh":1,"gone":1,"released":2}'::json)
            FROM unnest(ARRAY['critical', 'high', 'medium', 'low']) AS c))
        FROM unnest(ARRAY['clan', 'player', 'war']) AS k),
    'rates', (SELECT json_agg(json_build_object('key', md5(e::text), 'rate', 29.5, 'called', 1234, 'rejected', false))
              FROM generate_series(1, 40) AS e))::text AS text;
CREATE FUNCTION bench.report(n bigint) RETURNS text LANGUAGE sql AS $$
    SELECT replace(text, '@', n::text) FROM bench.report_of_a_run
$$;
CREATE FUNCTION bench.document(n bigint, bytes integer) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT ('{"tag":"C","clanPoints":' || n || ',"memberList":['
            || repeat('{"name":"somebody","trophies":' || n || ',"role":"member","donations":17},', bytes / 64 + 1)
            || '{}],"clanCapitalPoints":' || n || ',"warWinStreak":3}')::json
$$;
CREATE TABLE bench.made_later AS
    SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS of, pg_get_indexdef(i.indexrelid) AS made,
           quote_ident(c.conname) AS constraint_name, pg_get_constraintdef(c.oid) AS constraint_made
    FROM pg_index AS i
    JOIN pg_class AS t ON t.oid = i.indrelid AND t.relkind = 'r'
    LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
    WHERE t.relname IN ('clans', 'players', 'clan_snapshots', 'player_snapshots', 'war_snapshots', 'clan_memberships',
                        'refresh_state', 'plan', 'looks', 'background_job_status');
DO $$
DECLARE one record;
BEGIN
    FOR one IN SELECT * FROM bench.made_later LOOP
        IF one.constraint_name IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %s', one.of, one.constraint_name);
        ELSE
            EXECUTE format('DROP INDEX %s', one.name);
        END IF;
    END LOOP;
    FOR one IN SELECT DISTINCT of FROM bench.made_later LOOP
        EXECUTE format('ALTER TABLE %s SET UNLOGGED', one.of);
    END LOOP;
END
$$;
"#;

const WITH_INDEXES: &str = r"
DO $$
DECLARE one record;
BEGIN
    FOR one IN SELECT * FROM bench.made_later LOOP
        IF one.constraint_name IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %s %s', one.of, one.constraint_name, one.constraint_made);
        ELSE
            EXECUTE one.made;
        END IF;
    END LOOP;
END
$$;
";
