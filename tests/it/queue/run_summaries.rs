//! How the last runs went, kept for health.

use refresh_worker::queue::{Queue as _, RUN_NOTES_LIFETIME, RunSummaries, RunSummary, record::QueueLimits};

use super::beds::{Bed, NOW, RedisBed, on_all};

on_all! {
    the_newest_run_of_each_sort_is_kept
}

fn note(run: &str, error: Option<&str>) -> RunSummary {
    RunSummary {
        run: run.to_owned(),
        started: NOW,
        ended: NOW,
        stopped_because: "queue_empty".to_owned(),
        error: error.map(str::to_owned),
        processed: 3,
        failed: 1,
        api_requests: 4,
    }
}

async fn the_newest_run_of_each_sort_is_kept(bed: &impl Bed) {
    assert_eq!(bed.queue().run_summaries().await.unwrap(), RunSummaries::default());
    let notes = [note("one", None), note("two", Some("the database cannot be used")), note("three", None)];
    for note in &notes {
        bed.queue().record_run(note).await.unwrap();
    }
    let [_, failed, good] = notes;
    assert_eq!(bed.queue().run_summaries().await.unwrap(), RunSummaries { good: Some(good), failed: Some(failed) });
}

#[tokio::test]
async fn notes_of_runs_end_after_a_week_and_fit_a_full_redis() {
    let server = crate::support::redis::PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    bed.make_full().await;
    bed.queue().record_run(&note("one", None)).await.unwrap();
    let left: u64 = bed.command(&["PTTL", "{refresh}:runs"]).await;
    assert!(u128::from(left).abs_diff(RUN_NOTES_LIFETIME.as_millis()) < 60_000, "{left}");
    bed.queue().record_run(&note("two", None)).await.unwrap();
    assert_eq!(bed.queue().run_summaries().await.unwrap().good.unwrap().run, "two");
}

#[tokio::test]
async fn a_note_that_cannot_be_read_is_none() {
    let bed = RedisBed::fresh().await;
    bed.command::<()>(&["HSET", "{refresh}:runs", "good", "text", "failed", "{}"]).await;
    assert_eq!(bed.queue().run_summaries().await.unwrap(), RunSummaries::default());
}
