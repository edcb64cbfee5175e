//! Texts from outside that break readers: what is stored already is skipped, and what is shown is visible.

use sqlx::{Connection as _, PgConnection};

use super::Bed;
use crate::support;

#[tokio::test]
async fn explain_skips_unreadable_reports() {
    let (bed, database) = (Bed::fresh().await, support::postgres::fresh().await);
    let shell = bed.shell.with("DATABASE_URL", database.as_str());
    shell.run(&["migrate"]).await.well();
    let mut db = PgConnection::connect(&database).await.unwrap();
    for (run, text) in [("bad", r"a\u0000b"), ("good", "fine"), ("fine", r"a\\u0000b")] {
        let report = format!(
            r#"{{"errors":["clan:2PP: {text}"],"work_by_kind_and_priority":{{"clan":{{"high":{{"calls":1,"stored":1}}}}}}}}"#
        );
        sqlx::query(
            "INSERT INTO refresh_worker.refresh_runs \
             (run, started, ended, stopped_because, processed, failed, api_requests, report) \
             VALUES ($1, now(), now(), 'queue_empty', 1, 0, 1, $2::json)",
        )
        .bind(run)
        .bind(report)
        .execute(&mut db)
        .await
        .unwrap();
    }
    for view in ["work", "work_by_day"] {
        let sql = format!("SELECT sum(calls)::bigint FROM refresh_worker.{view}");
        let calls: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut db).await.unwrap();
        assert_eq!(calls, 2, "{view}");
    }
    shell.run(&["report"]).await.well();
    sqlx::query("INSERT INTO refresh_worker.refresh_state (kind, tag, fetched_at) VALUES ('clan', '2PP', now())")
        .execute(&mut db)
        .await
        .unwrap();
    let output = shell.run(&["queue", "explain", "clan:2PP"]).await.well();
    assert!(output.contains("run good: clan:2PP: fine") && !output.contains("not read"), "{output}");
}

#[tokio::test]
async fn control_characters_are_escaped() {
    let bed = Bed::fresh().await;
    bed.mail("junk\u{1b}[2J\u{202e}x\u{2066}", "no json \u{1b}]0;x\u{7} \u{200b}").await;
    bed.admit().await;
    for arguments in [&["dead", "list"][..], &["dead", "list", "--json"], &["queue", "export"], &["queue", "stats"]] {
        let output = bed.shell.run(arguments).await.well();
        let odd = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{200b}".contains(c));
        assert!(!output.contains(odd), "{arguments:?}: {output:?}");
    }
}
