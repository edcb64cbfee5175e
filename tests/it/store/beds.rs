//! The beds: each store on a database of its own.

use refresh_worker::{
    config::DatabaseConfig,
    follow::events,
    store::{CommitDetails, Store, Teaching, postgres::PostgresStore},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use super::Bed;
use crate::support;

/// All details of a commit, so that every test shows that they do no harm.
pub const EVERYTHING: CommitDetails =
    CommitDetails { members: true, events: Some(events::of_commit), renewed: true, changed: true, teaching: None };

/// PostgreSQL that only this worker writes.
pub async fn postgres() -> PostgresBed {
    PostgresBed::on(&support::postgres::fresh().await).await
}

/// PostgreSQL that other programs created and filled: with their rows, and with ids beyond the sequences.
pub async fn postgres_of_others() -> PostgresBed {
    let url = support::postgres::fresh_with_contract().await;
    let bed = PostgresBed::on(&url).await;
    bed.exec(FILLED_BY_OTHERS).await;
    bed
}

/// PostgreSQL whose tables others have changed in ways that readers do not notice: every type differs.
pub async fn postgres_of_changed_types() -> PostgresBed {
    PostgresBed::on(&support::postgres::fresh_with_changed_types().await).await
}

const FILLED_BY_OTHERS: &str = "
    INSERT INTO clans (tag, data, deep_link) SELECT 'LLL' || n, '{}', 'x' FROM generate_series(1, 40) AS n;
    INSERT INTO players (tag, name, clan_tag, data) SELECT 'JJJ' || n, 'x', 'LLL1', '{}' FROM generate_series(1, 40) AS n;
    INSERT INTO clan_snapshots (id, ts, clan_tag, name, data)
        SELECT n, timestamp '2026-03-01' + n * interval '1 s', 'LLL' || n % 40, 'x', '{}' FROM generate_series(1, 200) AS n;
    INSERT INTO clan_memberships (id, player_tag, clan_tag, joined_at)
        SELECT n, 'JJJ' || n, 'LLL1', timestamp '2026-03-01' FROM generate_series(1, 200) AS n;
    INSERT INTO player_snapshots (ts, player_tag, clan_tag, data)
        SELECT timestamp '2026-03-01' + n * interval '1 s', 'JJJ' || n % 40, 'LLL1', '{}' FROM generate_series(1, 200) AS n;
    INSERT INTO war_snapshots (ts, clan_tag, data)
        SELECT timestamp '2026-03-01' + n * interval '1 s', 'LLL' || n % 40, '{}' FROM generate_series(1, 200) AS n;
";

pub fn config(url: &str) -> DatabaseConfig {
    DatabaseConfig { url: url.into(), max_connections: 4, statement_cache: 100, auto_migrate: true }
}

pub struct PostgresBed {
    store: PostgresStore,
    pub around: PgPool,
}

impl PostgresBed {
    pub async fn on(url: &str) -> Self {
        Self::with_details(url, EVERYTHING).await
    }

    pub async fn with_details(url: &str, details: CommitDetails) -> Self {
        let store = PostgresStore::connect(&config(url)).expect("the address is right").with_details(details);
        store.migrate().await.expect("tables in a new database");
        Self { store, around: PgPool::connect(url).await.expect("the server answers") }
    }
}

impl Bed for PostgresBed {
    type S = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.store
    }

    fn with_teaching(&self, teaching: Teaching) -> PostgresStore {
        self.store.clone().with_details(CommitDetails { teaching: Some(teaching), ..EVERYTHING })
    }

    async fn rows(&self, sql: &str) -> Vec<Value> {
        let as_json = format!("SELECT row_to_json(q)::text FROM ({sql}) AS q");
        let rows = sqlx::query_scalar(AssertSqlSafe(as_json)).fetch_all(&self.around).await;
        let rows: Vec<String> = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.iter().map(|row| serde_json::from_str(row).expect("JSON of a row")).collect()
    }

    async fn exec(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.around).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[cfg(feature = "embedded")]
pub async fn sqlite() -> sqlite::SqliteBed {
    sqlite::SqliteBed::new().await
}

#[cfg(feature = "embedded")]
mod sqlite {
    use refresh_worker::store::{CommitDetails, Store, Teaching, sqlite::SqliteStore};
    use serde_json::{Map, Value};
    use sqlx::{AssertSqlSafe, Column, Row, TypeInfo, ValueRef, sqlite::SqliteRow};

    use crate::store::Bed;

    pub struct SqliteBed {
        store: SqliteStore,
    }

    impl SqliteBed {
        pub async fn new() -> Self {
            let store = SqliteStore::in_memory().await.expect("memory for a database").with_details(super::EVERYTHING);
            store.migrate().await.expect("tables in a new database");
            Self { store }
        }
    }

    impl Bed for SqliteBed {
        type S = SqliteStore;

        fn store(&self) -> &SqliteStore {
            &self.store
        }

        fn with_teaching(&self, teaching: Teaching) -> SqliteStore {
            self.store.clone().with_details(CommitDetails { teaching: Some(teaching), ..super::EVERYTHING })
        }

        fn is_postgres(&self) -> bool {
            false
        }

        async fn rows(&self, sql: &str) -> Vec<Value> {
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(self.store.pool()).await;
            rows.unwrap_or_else(|error| panic!("{sql}: {error}")).iter().map(object).collect()
        }

        async fn exec(&self, sql: &str) {
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(self.store.pool()).await;
            done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    fn object(row: &SqliteRow) -> Value {
        let columns = row.columns().iter().map(|column| (column.name().to_owned(), value(row, column.ordinal())));
        Value::Object(columns.collect::<Map<_, _>>())
    }

    fn value(row: &SqliteRow, column: usize) -> Value {
        let raw = row.try_get_raw(column).expect("a column of the row");
        if raw.is_null() {
            return Value::Null;
        }
        match raw.type_info().name() {
            "INTEGER" => Value::from(row.get::<i64, _>(column)),
            _ => Value::from(row.get::<String, _>(column)),
        }
    }
}
