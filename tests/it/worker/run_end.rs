//! The end of a run: no request is leased that cannot be called any more, and no call begins whose response could not be stored.

use std::{num::NonZeroU64, time::Duration};

use refresh_worker::{
    model::{AimdState, Fingerprint, ObjectId},
    queue::SharedState as _,
    sim::{Misbehaviour, Rule},
    worker::{
        RunOptions,
        report::{RunReport, StopReason},
    },
};

use super::bed::{Bed, TOKEN, seconds};

const BUFFER: Duration = Duration::from_secs(5);

/// A bed with this rate of calls, and this duration of responses.
async fn bed(tokens: &[&str], rate: u32, answers: Duration) -> Bed {
    let mut bed = Bed::with(|config| config.deadline_buffer = BUFFER, tokens).await;
    bed.worker.api.reqs_per_sec = rate;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Slow(answers)));
    bed
}

async fn run_for(bed: &Bed, time: Duration) -> RunReport {
    bed.run_with(RunOptions { time_left: Some(time + BUFFER), ..RunOptions::default() }).await
}

/// Nothing comes back but what was leased ahead, once; next to nothing when the machine kept pace with the rate.
fn assert_nothing_was_leased_in_vain(report: &RunReport, ahead: u64) {
    let (given_back, stored) = (report.outcomes["released"], report.processed_requests);
    assert!(given_back <= ahead, "{given_back} leases given back: {report:?}");
    let kept_pace = report.budget_used >= 0.95;
    assert!(!kept_pace || given_back * 4 <= stored, "{given_back} leases given back: {report:?}");
}

#[tokio::test]
async fn nothing_is_leased_that_cannot_be_called() {
    for tokens in [&[TOKEN][..], &["one", "two"]] {
        let bed = bed(tokens, 50, Duration::from_millis(100)).await;
        bed.ask(bed.players(500)).await;
        let report = run_for(&bed, seconds(2)).await;
        assert_eq!(report.stopped_because, StopReason::Deadline, "{report:?}");
        assert_nothing_was_leased_in_vain(&report, 100 * tokens.len() as u64);
        assert_eq!(bed.stats().await.leased, 0);
    }
}

#[tokio::test]
async fn low_rate_leases_only_callable_requests() {
    let bed = bed(&[TOKEN], 30, Duration::from_millis(50)).await;
    bed.ask(bed.players(100)).await;
    bed.worker.queue.remember_rate(&Fingerprint::of(TOKEN), AimdState::plain(2.0)).await.unwrap();
    let report = run_for(&bed, seconds(3)).await;
    assert_eq!(report.stopped_because, StopReason::Deadline, "{report:?}");
    assert!((2..=8).contains(&report.processed_requests), "{report:?}");
    assert!(report.outcomes["released"] <= 1, "{report:?}");
}

#[tokio::test]
async fn rest_of_quota_limits_leases() {
    let mut bed = bed(&[TOKEN], 200, Duration::from_millis(20)).await;
    bed.worker.api.reqs_per_day = NonZeroU64::new(1000);
    let midnight = bed.now().await.midnight();
    bed.clock.advance((midnight + seconds(25 * 3600)).since(bed.now().await));
    bed.worker.queue.take_calls(bed.now().await.midnight(), 993, 1000).await.unwrap();
    bed.ask(bed.players(300)).await;
    let report = run_for(&bed, seconds(10)).await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::DailyQuotaExhausted, 7), "{report:?}");
    assert_eq!(report.outcomes["released"], 0, "{report:?}");
}

#[tokio::test]
async fn no_call_begins_that_cannot_be_stored() {
    for answers in [500, 1000].map(Duration::from_millis) {
        let bed = bed(&[TOKEN], 30, answers).await;
        bed.ask(bed.players(400)).await;
        let report = run_for(&bed, seconds(5)).await;
        let (calls, stored) = (bed.simulator.total_calls(), report.processed_requests);
        let in_vain = calls - stored;
        // Before, all that began in the time of an answer were.
        let allowed = if report.budget_used >= 0.95 { 1 } else { 5 };
        assert!(in_vain <= allowed, "{in_vain} of {calls} calls in vain at {answers:?}: {report:?}");
        assert_nothing_was_leased_in_vain(&report, 60);
    }
}

#[tokio::test]
async fn war_begins_only_with_time_for_all_calls() {
    let bed = bed(&[TOKEN], 60, Duration::from_millis(150)).await;
    let census = bed.simulator.world();
    let wars: Vec<ObjectId> = census.clan_tags().iter().cloned().map(ObjectId::war).collect();
    // One war for every five players, all over the queue.
    for (place, players) in bed.players(500).chunks(5).enumerate() {
        bed.ask(players.iter().cloned().chain(wars.get(place).cloned())).await;
        bed.clock.advance(Duration::from_millis(1));
    }
    let report = run_for(&bed, seconds(4)).await;
    assert_eq!(report.stopped_because, StopReason::Deadline, "{report:?}");
    assert!(report.outcomes_by_kind.contains_key("war"), "{report:?}");
    assert_nothing_was_leased_in_vain(&report, 120);
}

#[tokio::test]
async fn max_requests_counts_begun_requests() {
    let bed = bed(&[TOKEN], 20, Duration::from_millis(20)).await;
    bed.ask(bed.players(60)).await;
    bed.simulator.clear();
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(1) }).after(4).once());
    let run = bed.run_with(RunOptions { max_requests: Some(20), ..RunOptions::default() });
    // The key cools down by the clock of the bed.
    let clock = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            bed.clock.advance(Duration::from_millis(50));
        }
    };
    let report = tokio::select! {
        report = run => report,
        () = clock => unreachable!("a clock never stops"),
    };
    assert_eq!(report.stopped_because, StopReason::MaxRequests, "{report:?}");
    assert!((18..=20).contains(&report.processed_requests), "{report:?}");
}

#[tokio::test]
async fn timeout_within_the_buffer_fails_the_run() {
    let bed = Bed::start().await;
    bed.ask(bed.players(3)).await;
    for milliseconds in [0, 3000, 5000] {
        let time_left = Some(Duration::from_millis(milliseconds));
        let report = bed.run_with(RunOptions { time_left, ..RunOptions::default() }).await;
        assert_eq!(report.stopped_because, StopReason::TimeoutTooShort, "{report:?}");
        let failure = report.failure.unwrap();
        assert!(failure.contains("DEADLINE_BUFFER_MS=5000") && failure.contains("Lambda"), "{failure}");
        assert_eq!(report.api_requests, 0);
    }
    // A limit that the run was given is no fault of the timeout.
    let limited = RunOptions { max_runtime: Some(Duration::ZERO), ..RunOptions::default() };
    assert_eq!(bed.run_with(limited).await.stopped_because, StopReason::Deadline);
    assert_eq!(bed.stats().await.ready, 3);
}
