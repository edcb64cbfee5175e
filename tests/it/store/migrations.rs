//! Migrations of PostgreSQL: creating and removing tables.

use refresh_worker::store::{Store, StoreError, postgres::PostgresStore};
use serde_json::Value;
use sqlx::PgPool;
use url::Url;

use super::{
    Bed,
    beds::{PostgresBed, config},
    documents::{at, clan},
};
use crate::support;

/// Columns, defaults, indexes and constraints of everything outside our schema.
const SHAPE: &str = "
    SELECT table_name AS t, column_name AS n, concat_ws(' ', data_type, character_maximum_length, is_nullable, column_default) AS d
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'sequence', sequence_name, data_type FROM information_schema.sequences WHERE sequence_schema = 'public'
    ORDER BY 1, 2, 3";

async fn shape(url: &str) -> Vec<Value> {
    let pool = PgPool::connect(url).await.unwrap();
    let rows: Vec<String> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT row_to_json(q)::text FROM ({SHAPE}) AS q")))
            .fetch_all(&pool)
            .await
            .unwrap();
    rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
}

fn store(url: &str) -> PostgresStore {
    PostgresStore::connect(&config(url)).unwrap()
}

#[tokio::test]
async fn a_fresh_database_gets_the_contract_tables_exactly() {
    let (ours, theirs) = (support::postgres::fresh().await, support::postgres::fresh_with_contract().await);
    assert_eq!(
        store(&ours).migrate().await.unwrap(),
        [
            "0001_contract_tables",
            "0002_own_tables",
            "0003_reports",
            "0004_outbox",
            "0005_unfolded_reports",
            "0006_planned_looks"
        ]
    );
    assert_eq!(shape(&ours).await, shape(&theirs).await);
}

#[tokio::test]
async fn existing_contract_tables_stay_unchanged() {
    let url = support::postgres::fresh_with_contract().await;
    let pool = PgPool::connect(&url).await.unwrap();
    // As far as others have gone on without us.
    sqlx::raw_sql("ALTER TABLE clans ADD COLUMN theirs integer; DROP INDEX ix_players_clan_tag")
        .execute(&pool)
        .await
        .unwrap();
    let before = shape(&url).await;
    store(&url).migrate().await.unwrap();
    assert_eq!(shape(&url).await, before);
    let ours: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'refresh_worker'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(
        ours, 11,
        "state, runs, their work and errors, retention, the outbox, the planner's four and the list of migrations"
    );
}

#[tokio::test]
async fn migrations_run_up_down_and_up() {
    let url = support::postgres::fresh().await;
    let bed = PostgresBed::on(&url).await;
    bed.commit_one(clan("8GG").fetched(at(0))).await;
    assert_eq!(
        bed.store().revert_migrations().await.unwrap(),
        [
            "0006_planned_looks",
            "0005_unfolded_reports",
            "0004_outbox",
            "0003_reports",
            "0002_own_tables",
            "0001_contract_tables"
        ]
    );
    assert_eq!(bed.count("pg_namespace WHERE nspname = 'refresh_worker'").await, 0);
    assert_eq!(bed.count("clans").await, 1, "contract tables are never dropped");
    assert_eq!(bed.store().revert_migrations().await.unwrap(), Vec::<String>::new());
    assert_eq!(bed.store().migrate().await.unwrap().len(), 6);
    bed.commit_one(clan("8GG").level(2).fetched(at(300))).await;
    assert_eq!(bed.count("clan_snapshots").await, 2);
}

#[tokio::test]
async fn several_cold_starts_may_race() {
    let url = support::postgres::fresh().await;
    let stores: Vec<PostgresStore> = (0..6).map(|_| store(&url)).collect();
    let done = futures_util::future::join_all(stores.iter().map(Store::migrate)).await;
    let done: Vec<Vec<String>> = done.into_iter().map(Result::unwrap).collect();
    assert_eq!(done.iter().filter(|names| names.len() == 6).count(), 1, "{done:?}");
    assert_eq!(done.iter().filter(|names| names.is_empty()).count(), 5, "{done:?}");
}

#[tokio::test]
async fn own_tables_and_columns_have_comments() {
    let bed = PostgresBed::on(&support::postgres::fresh().await).await;
    let silent = bed
        .rows(
            "SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum >= 0 \
             WHERE c.relnamespace = 'refresh_worker'::regnamespace AND c.relkind = 'r' AND c.relname <> 'migrations' \
               AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)",
        )
        .await;
    assert!(silent.is_empty(), "{silent:?}");
}

/// The URL for a new role that may only log in. Roles are the server's, so the name has the database's in it.
pub async fn modest_role(url: &str) -> (String, String) {
    let mut modest = Url::parse(url).unwrap();
    let role = format!("modest_{}", modest.path().trim_start_matches('/'));
    let pool = PgPool::connect(url).await.unwrap();
    // Before 15 everybody may create in `public`.
    let statements =
        format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&pool).await.unwrap();
    modest.set_username(&role).unwrap();
    (modest.into(), role)
}

pub async fn drop_role(bed_url: &str, role: &str) {
    let pool = PgPool::connect(bed_url).await.unwrap();
    let statements = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&pool).await.unwrap();
}

#[tokio::test]
async fn role_without_create_suffices_when_nothing_missing() {
    let url = support::postgres::fresh().await;
    store(&url).migrate().await.unwrap();
    let (modest, role) = modest_role(&url).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let grant =
        format!("GRANT USAGE ON SCHEMA refresh_worker TO {role}; GRANT SELECT ON refresh_worker.migrations TO {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(grant)).execute(&pool).await.unwrap();
    assert_eq!(store(&modest).migrate().await.unwrap(), Vec::<String>::new());
    drop_role(&url, &role).await;
}

#[tokio::test]
async fn missing_rights_error_prints_working_grants() {
    let url = support::postgres::fresh().await;
    let (modest, role) = modest_role(&url).await;
    let error = store(&modest).migrate().await.unwrap_err();
    let StoreError::NotAllowed { fix, .. } = &error else { panic!("{error}") };
    assert!(fix.contains("GRANT CREATE ON DATABASE") && fix.contains("GRANT USAGE, CREATE ON SCHEMA public"), "{fix}");
    assert!(error.to_string().contains(&role), "{error}");
    let pool = PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(fix.clone())).execute(&pool).await.unwrap();
    assert_eq!(store(&modest).migrate().await.unwrap().len(), 6);
    drop_role(&url, &role).await;
}

#[tokio::test]
async fn prepared_schema_needs_no_database_right() {
    let url = support::postgres::fresh_with_contract().await;
    let (modest, role) = modest_role(&url).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let make = format!("CREATE SCHEMA refresh_worker AUTHORIZATION {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(&pool).await.unwrap();
    assert_eq!(store(&modest).migrate().await.unwrap().len(), 6);
    drop_role(&url, &role).await;
}

/// The six tables, moved into a schema that no search path names.
const MOVED: &str = "
    CREATE SCHEMA stats; ALTER TABLE clans SET SCHEMA stats; ALTER TABLE players SET SCHEMA stats;
    ALTER TABLE clan_snapshots SET SCHEMA stats; ALTER TABLE player_snapshots SET SCHEMA stats;
    ALTER TABLE war_snapshots SET SCHEMA stats; ALTER TABLE clan_memberships SET SCHEMA stats";

async fn exec(url: &str, sql: &str) {
    let pool = PgPool::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The error of a migration that creates nothing.
async fn refused(url: &str) -> String {
    let error = store(url).migrate().await.unwrap_err().to_string();
    let pool = PgPool::connect(url).await.unwrap();
    let ours: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname = 'refresh_worker'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(ours, 0, "nothing is made: {error}");
    error
}

#[tokio::test]
async fn tables_in_another_schema_get_no_second_set() {
    let url = support::postgres::fresh_with_contract().await;
    exec(&url, MOVED).await;
    let error = refused(&url).await;
    assert!(error.contains("in the schema stats") && error.contains("search_path = stats, public"), "{error}");
    assert!(!error.contains("lacks CREATE"), "{error}");
    // The statements of the message are run as printed.
    assert_eq!(store(&format!("{url}?options=-csearch_path%3Dstats")).migrate().await.unwrap().len(), 6);
    assert_eq!(shape(&url).await, Vec::<Value>::new(), "nothing in public");
}

#[tokio::test]
async fn tables_partly_elsewhere_are_not_completed() {
    for moved in ["clans", "player_snapshots", "clan_memberships"] {
        let url = support::postgres::fresh_with_contract().await;
        exec(&url, &format!("CREATE SCHEMA \"Our stats\"; ALTER TABLE {moved} SET SCHEMA \"Our stats\"")).await;
        let error = refused(&url).await;
        assert!(error.contains(&format!("tables {moved} are in the schema \"Our stats\"")), "{error}");
    }
}

#[tokio::test]
async fn tables_behind_first_schema_are_not_completed() {
    let url = support::postgres::fresh_with_contract().await;
    exec(&url, &format!("{MOVED}; DROP TABLE stats.war_snapshots, stats.clans")).await;
    let error = refused(&format!("{url}?options=-csearch_path%3Dpublic%2Cstats")).await;
    assert!(error.contains("clans, war_snapshots cannot be seen"), "{error}");
    let done = store(&format!("{url}?options=-csearch_path%3Dstats%2Cpublic")).migrate().await.unwrap();
    assert_eq!(done.len(), 6);
    assert_eq!(shape(&url).await, Vec::<Value>::new(), "nothing in public");
}

#[tokio::test]
async fn tables_in_closed_schema_not_duplicated() {
    let url = support::postgres::fresh_with_contract().await;
    let (modest, role) = modest_role(&url).await;
    exec(&url, &format!("CREATE SCHEMA {role} AUTHORIZATION {role}; REVOKE ALL ON SCHEMA public FROM public")).await;
    let error = refused(&modest).await;
    assert!(error.contains(&format!("GRANT USAGE ON SCHEMA public TO {role};")), "{error}");
    drop_role(&url, &role).await;
}

#[tokio::test]
async fn missing_tables_created_in_first_schema() {
    let (url, whole) = (support::postgres::fresh_with_contract().await, support::postgres::fresh_with_contract().await);
    // A stranger of the same name is none of the six.
    exec(&url, "DROP TABLE clans, war_snapshots; CREATE SCHEMA game; CREATE TABLE game.clans (id bigint, title text)")
        .await;
    assert_eq!(store(&url).migrate().await.unwrap().len(), 6);
    assert_eq!(shape(&url).await, shape(&whole).await);
}

const JOBS_TABLE: &str = include_str!("../../../src/maintenance/sql/jobs/table.sql");

#[tokio::test]
async fn table_of_jobs_elsewhere_not_duplicated() {
    let url = support::postgres::fresh().await;
    exec(&url, &format!("{JOBS_TABLE}; CREATE SCHEMA stats; ALTER TABLE background_job_status SET SCHEMA stats")).await;
    let pool = PgPool::connect(&url).await.unwrap();
    let error = sqlx::raw_sql(JOBS_TABLE).execute(&pool).await.unwrap_err().to_string();
    assert!(error.contains("in the schema stats") && error.contains("search_path = stats, public"), "{error}");
    let there: bool =
        sqlx::query_scalar("SELECT to_regclass('background_job_status') IS NOT NULL").fetch_one(&pool).await.unwrap();
    assert!(!there);
    // Where it is reached nothing happens, however often.
    let pool = PgPool::connect(&format!("{url}?options=-csearch_path%3Dpublic%2Cstats")).await.unwrap();
    for _ in 0..2 {
        sqlx::raw_sql(JOBS_TABLE).execute(&pool).await.unwrap();
    }
}
