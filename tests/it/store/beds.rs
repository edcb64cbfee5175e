//! The beds: each store on a database of its own.

#[cfg(feature = "embedded")]
pub async fn sqlite() -> sqlite::SqliteBed {
    sqlite::SqliteBed::new().await
}

#[cfg(feature = "embedded")]
mod sqlite {
    use refresh_worker::store::{Store, sqlite::SqliteStore};
    use serde_json::{Map, Value};
    use sqlx::{AssertSqlSafe, Column, Row, TypeInfo, ValueRef, sqlite::SqliteRow};

    use crate::store::Bed;

    pub struct SqliteBed {
        store: SqliteStore,
    }

    impl SqliteBed {
        pub async fn new() -> Self {
            let store = SqliteStore::in_memory().await.expect("memory for a database");
            store.migrate().await.expect("tables in a new database");
            Self { store }
        }
    }

    impl Bed for SqliteBed {
        type S = SqliteStore;

        fn store(&self) -> &SqliteStore {
            &self.store
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
