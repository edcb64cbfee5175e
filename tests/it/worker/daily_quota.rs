//! The daily quota: never exceeded, over all runs, and reported with its end.

use std::num::NonZeroU64;

use refresh_worker::{
    queue::{SharedState as _, memory::MemoryQueue},
    store::sqlite::SqliteStore,
    worker::{RunOptions, Runs as _, Unwatched, Worker, report::StopReason},
};

use super::bed::{Bed, TOKEN, seconds};

async fn bed(per_day: u64, tokens: &[&str]) -> Bed {
    let mut bed = Bed::with(|_| {}, tokens).await;
    bed.worker.api.reqs_per_day = NonZeroU64::new(per_day);
    // Whatever the time of day is now: an hour after midnight, so that it does not turn by itself.
    let midnight = bed.now().await.midnight();
    let until = midnight + seconds(25 * 3600);
    bed.clock.advance(until.since(bed.now().await));
    bed
}

async fn taken(bed: &Bed) -> u64 {
    bed.worker.queue.calls_taken(bed.now().await.midnight()).await.unwrap()
}

/// The report has the time at which calls are possible again, and no attempt is counted.
#[tokio::test]
async fn run_at_the_quota_stops_uncounted() {
    let bed = bed(25, &[TOKEN]).await;
    bed.ask(bed.players(60)).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::DailyQuotaExhausted, "{report:?}");
    assert_eq!((report.processed_requests, report.failed_requests), (25, 0), "{report:?}");
    assert_eq!((bed.simulator.total_calls(), bed.stats().await.ready), (25, 35));
    let day = report.day.unwrap();
    assert_eq!((day.calls_allowed, day.calls_taken, day.calls_left), (25, 25, 0));
    assert_eq!(day.resets_at, bed.now().await.midnight() + seconds(24 * 3600));

    let again = bed.run().await;
    assert_eq!((again.stopped_because, again.api_requests), (StopReason::DailyQuotaExhausted, 0), "{again:?}");
    bed.clock.advance(seconds(23 * 3600));
    let tomorrow = bed.run().await;
    assert_eq!((tomorrow.processed_requests, bed.simulator.total_calls()), (25, 50), "{tomorrow:?}");
}

#[tokio::test]
async fn parallel_runs_keep_the_daily_quota() {
    let mut bed = bed(40, &["one", "two", "three"]).await;
    bed.worker.api.keys_per_run = Some(1);
    bed.ask(bed.players(150)).await;
    let mut others = [bed.another(), bed.another()];
    for other in &mut others {
        (other.api.keys_per_run, other.api.reqs_per_day) = (Some(1), bed.worker.api.reqs_per_day);
    }
    let run = async |worker: &Worker<MemoryQueue, SqliteStore>| worker.run(RunOptions::default(), &Unwatched).await;
    let reports = tokio::join!(run(&bed.worker), run(&others[0]), run(&others[1]));
    let made = reports.0.api_requests + reports.1.api_requests + reports.2.api_requests;
    assert!(made <= 40, "{reports:?}");
    bed.clock.advance(seconds(1));
    // What one gave back while another stopped is there for the next.
    bed.run().await;
    assert_eq!((bed.simulator.total_calls(), taken(&bed).await), (40, 40));
}

#[tokio::test]
async fn block_of_crashed_run_is_lost() {
    let bed = bed(25, &[TOKEN]).await;
    bed.worker.queue.take_calls(bed.now().await.midnight(), 10, 25).await.unwrap();
    bed.ask(bed.players(60)).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.api_requests), (StopReason::DailyQuotaExhausted, 15), "{report:?}");
    assert_eq!(bed.simulator.total_calls(), 15);
}

#[tokio::test]
async fn unused_calls_are_returned() {
    let bed = bed(10_000, &[TOKEN]).await;
    bed.ask(bed.players(7)).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, 7), "{report:?}");
    assert_eq!((taken(&bed).await, report.day.map(|day| day.calls_left)), (7, Some(9_993)));
}

#[tokio::test]
async fn without_quota_nothing_is_counted() {
    let bed = Bed::start().await;
    bed.ask(bed.players(3)).await;
    assert_eq!((bed.run().await.day, taken(&bed).await), (None, 0));
}
