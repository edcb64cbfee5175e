//! Materialized views that somebody else has locked: a refresh does not wait for long, since readers would wait behind it.

use std::time::{Duration, Instant};

use refresh_worker::{
    clock::{Clock as _, SystemClock},
    config::ViewConfig,
    maintenance::views::{Refreshed, Views, When},
};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};

use super::{
    keeping_statements,
    views::{exec, number},
};
use crate::support;

async fn refresh(pool: &PgPool) -> Refreshed {
    let view = ViewConfig { name: "v".to_owned(), interval: Duration::from_secs(60), statistics: None };
    let views = Views::new(keeping_statements(pool), &[view]).unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    views.refresh(When::Due, SystemClock.wall(), until).await.remove(0)
}

#[tokio::test]
async fn refresh_behind_lock_lets_readers_pass() {
    let regular = ("", "SELECT FROM v");
    let concurrent = ("; CREATE UNIQUE INDEX ON v (id)", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    for (key, lock) in [regular, concurrent] {
        let url = support::postgres::fresh().await;
        let pool = PgPool::connect(&url).await.unwrap();
        exec(&pool, &format!("CREATE TABLE t AS SELECT 1 AS id; CREATE MATERIALIZED VIEW v AS SELECT id FROM t{key}"))
            .await;
        let mut session = PgConnection::connect(&url).await.unwrap();
        session.execute("BEGIN; SET application_name = 'forgetful'").await.unwrap();
        session.execute(lock).await.unwrap();
        let began = Instant::now();
        let readers = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            number(&pool, "SELECT count(*) FROM v").await;
            began.elapsed()
        };
        let (refreshed, read) = tokio::join!(refresh(&pool), readers);
        assert!(read < Duration::from_secs(3), "a reader waited {read:?}");
        let error = refreshed.error.unwrap();
        assert!(error.contains("55P03") && error.contains("forgetful"), "{error}");
        assert!(refreshed.message.unwrap().contains("tried again by the next run"));
        session.execute("ROLLBACK").await.unwrap();
        assert!(refresh(&pool).await.refresh_type.is_some(), "{key}");
    }
}
