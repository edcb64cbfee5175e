//! `refresh_runs`: what finished runs leave behind, and for how long.

use refresh_worker::{
    clock::Timestamp,
    store::{RunRow, Store},
};

use super::{
    Bed, beds,
    documents::{DAY, at},
};

pub fn run(name: &str, started: Timestamp) -> RunRow {
    RunRow {
        run: name.to_owned(),
        started,
        ended: started,
        stopped_because: "queue empty".to_owned(),
        error: None,
        processed: 7,
        failed: 1,
        api_requests: 9,
        report: "{}".to_owned(),
    }
}

/// Lambda delivers a request more than once, under one id.
#[tokio::test]
async fn two_attempts_of_one_run_keep_both_rows() {
    let bed = beds::postgres().await;
    let (first, second) = (run("one", at(0)), RunRow { processed: 1, ..run("one", at(300)) });
    for row in [&second, &first, &second, &first] {
        bed.store().record_run(row).await.unwrap();
    }
    let rows = bed.rows("SELECT run, processed::text FROM refresh_worker.refresh_runs ORDER BY started").await;
    let rows: Vec<_> =
        rows.iter().map(|row| [super::text(&row["run"]), super::text(&row["processed"])].join(" ")).collect();
    assert_eq!(rows, [format!("{} 7", first.name_of_attempt()), "one 1".to_owned()]);
}

#[tokio::test]
async fn rows_of_runs_are_trimmed_after_a_month() {
    let bed = beds::postgres().await;
    for (name, day) in [("old", 0), ("month", 1), ("new", 31)] {
        bed.store().record_run(&run(name, at(day * DAY))).await.unwrap();
    }
    let kept = bed.rows("SELECT run FROM refresh_worker.refresh_runs ORDER BY started").await;
    assert_eq!(kept.iter().map(|row| super::text(&row["run"])).collect::<Vec<_>>(), ["month", "new"]);
    assert_eq!(bed.store().last_run().await.unwrap().unwrap().run, "new");
}

#[tokio::test]
async fn oldest_rows_of_runs_are_trimmed() {
    let bed = beds::postgres().await;
    bed.exec(&format!(
        "INSERT INTO refresh_worker.refresh_runs \
             (run, started, ended, stopped_because, processed, failed, api_requests, report) \
         SELECT 'run ' || n, t, t, 'queue empty', 0, 0, 0, '{{}}' \
         FROM generate_series(1, 10005) AS n, LATERAL (SELECT timestamptz '{}' + n * interval '1 s' AS t) AS q",
        at(0)
    ))
    .await;
    bed.store().record_run(&run("new", at(DAY))).await.unwrap();
    // The newest ten thousand there were, and the new one.
    assert_eq!(bed.count("refresh_worker.refresh_runs").await, 10_001);
    let oldest = bed.row("SELECT run FROM refresh_worker.refresh_runs ORDER BY started LIMIT 1").await;
    assert_eq!(oldest["run"], "run 6");
}
