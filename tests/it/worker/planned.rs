//! Planned looks in whole runs: what spare calls are used for, and everything that comes before them.

use std::{num::NonZeroU64, time::Duration};

use refresh_worker::{
    config::PlannerConfig,
    model::{ObjectId, Priority, RefreshRequest},
    planner::{Policy, Strategy},
    queue::Queue as _,
    sim::{Misbehaviour, Rule},
    store::{Arm, Looks as _, Teaching, Trial},
    worker::{
        RunOptions, Runs as _, Unwatched,
        planned::{FAILED_FOR, REFUSED_FOR},
        report::{RunReport, StopReason},
    },
};

use super::bed::{Bed, RATE, TOKEN, seconds, time_passes};

const ON: PlannerConfig = PlannerConfig {
    calls_per_second: RATE,
    teaching: Teaching {
        policy: Policy { max_age: Duration::from_secs(600), longest: Duration::from_secs(86_400) },
        trial: None,
        recorded_percent: 0,
    },
};

async fn planning(planner: PlannerConfig) -> Bed {
    Bed::with(|config| config.planner = Some(planner), &[TOKEN]).await
}

/// Stores these objects, and lets so much time pass that the API has news and readers had their chance to be heard.
async fn store(bed: &Bed, objects: &[ObjectId]) {
    bed.ask(objects.iter().cloned()).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.processed_requests), (StopReason::QueueEmpty, objects.len() as u64));
    bed.clock.advance(seconds(1800));
}

async fn run_for(bed: &Bed, time: Duration) -> RunReport {
    let clock = time_passes(bed);
    let report = bed.run_with(RunOptions { max_runtime: Some(time), ..RunOptions::default() }).await;
    clock.abort();
    report
}

fn paths(bed: &Bed, object: &ObjectId) -> usize {
    bed.simulator.calls_to(&format!("%23{}", object.tag.as_str())).len()
}

#[tokio::test]
async fn spare_calls_look_at_known_objects() {
    let bed = planning(ON).await;
    let objects = bed.players(25);
    store(&bed, &objects).await;
    let before = bed.simulator.total_calls();
    let report = run_for(&bed, seconds(2)).await;
    let planned = report.planned.clone().expect("the planner is on");
    assert_eq!((planned.looks, planned.changed), (25, 0), "{planned:?}");
    let calls: Vec<(String, usize)> = objects.iter().map(|object| (object.to_string(), paths(&bed, object))).collect();
    assert!(calls.iter().all(|(_, count)| *count == 2), "each was asked for once more: {calls:?} {report:?}");
    assert_eq!(bed.simulator.total_calls() - before, report.api_requests);
    assert_eq!((report.stopped_because, report.failed_requests), (StopReason::Deadline, 0), "it stays awake");
    assert_eq!(report.processed_requests, 0, "nobody requested these: {report:?}");
    assert_eq!(report.work_by_kind_and_priority["player"]["planned"]["calls"], 25, "{report:?}");
    let stats = bed.stats().await;
    assert_eq!((stats.leased, stats.delayed, stats.dead_letters), (0, 0, 0), "looks leave no record");
}

#[tokio::test]
async fn nothing_is_looked_at_within_max_age() {
    let bed = planning(ON).await;
    let objects = bed.players(10);
    store(&bed, &objects).await;
    for _ in 0..2 {
        run_for(&bed, seconds(2)).await;
    }
    assert!(objects.iter().all(|object| paths(&bed, object) == 2), "the second run finds all of them fresh");
}

#[tokio::test]
async fn runs_without_an_end_plan_nothing() {
    let bed = planning(ON).await;
    store(&bed, &bed.players(5)).await;
    let before = bed.simulator.total_calls();
    let plain = RunOptions::default();
    let hour = RunOptions { max_runtime: Some(seconds(3600)), ..plain.clone() };
    let some = [
        plain,
        RunOptions { answer_soon: true, ..hour.clone() },
        RunOptions { max_requests: Some(9), ..hour.clone() },
        RunOptions { priority_filter: vec![Priority::High], ..hour },
    ];
    for options in some {
        let report = bed.run_with(options).await;
        assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
    }
    assert_eq!(bed.simulator.total_calls(), before);
}

#[tokio::test]
async fn planner_that_is_off_plans_nothing() {
    let bed = Bed::start().await;
    store(&bed, &bed.players(5)).await;
    let report = bed.run_with(RunOptions { max_runtime: Some(seconds(3600)), ..RunOptions::default() }).await;
    assert_eq!((report.stopped_because, report.planned, report.api_requests), (StopReason::QueueEmpty, None, 0));
}

#[tokio::test]
async fn planned_calls_keep_their_pace() {
    let bed = planning(PlannerConfig { calls_per_second: 5, ..ON }).await;
    store(&bed, &bed.players(60)).await;
    let report = run_for(&bed, seconds(4)).await;
    assert!((5..=22).contains(&report.api_requests), "5 a second for 4 s: {report:?}");
}

#[tokio::test]
async fn request_goes_before_planned_looks() {
    let mut bed = planning(ON).await;
    bed.worker.api.reqs_per_sec = 20;
    let known = bed.players(200);
    let (wanted, known) = known.split_last().expect("there are players");
    bed.worker.api.reqs_per_sec = RATE;
    store(&bed, known).await;
    bed.worker.api.reqs_per_sec = 20;
    let run = run_for(&bed, seconds(4));
    let ask = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = bed.now().await;
        let request = RefreshRequest::now(wanted.clone(), Priority::Critical, now);
        let asked = tokio::time::Instant::now();
        bed.worker.queue.enqueue(now, &[request]).await.unwrap();
        while paths(&bed, wanted) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        asked.elapsed()
    };
    let (report, wait) = tokio::join!(run, ask);
    // Behind all looks it would wait for ten seconds.
    assert!(wait < Duration::from_secs(2), "it waited {wait:?}");
    assert_eq!(report.processed_requests, 1, "{report:?}");
    assert!(report.planned.unwrap().looks > 20, "the run was busy");
}

#[tokio::test]
async fn failed_look_is_put_off_and_forgotten() {
    let bed = planning(ON).await;
    let objects = bed.players(6);
    store(&bed, &objects).await;
    let wrong = Rule::new(Misbehaviour::WrongTag).on_tag(objects[0].tag.as_str());
    bed.simulator.misbehave(wrong);
    let report = run_for(&bed, seconds(2)).await;
    let planned = report.planned.clone().unwrap();
    assert_eq!((planned.looks, planned.failed), (5, 1), "{report:?}");
    assert_eq!((report.failed_requests, report.dead_letters_added()), (0, 0));
    let stats = bed.stats().await;
    assert_eq!((stats.leased, stats.delayed, stats.dead_letters), (0, 0, 0), "it leaves no record");
    let now = bed.now().await;
    let next = bed.worker.store.plan_of(&objects[0], now).await.unwrap().expect("it is in the plan").next_look;
    assert!(next > now + FAILED_FOR - seconds(5), "{next} is put off");
}

#[tokio::test]
async fn object_with_a_request_is_left_to_it() {
    let bed = planning(ON).await;
    let objects = bed.players(6);
    store(&bed, &objects).await;
    let now = bed.now().await;
    let later =
        RefreshRequest { due: now + seconds(300), ..RefreshRequest::now(objects[0].clone(), Priority::Low, now) };
    bed.worker.queue.enqueue(now, &[later]).await.unwrap();
    let report = run_for(&bed, seconds(2)).await;
    let planned = report.planned.unwrap();
    assert_eq!((planned.looks, planned.refused, paths(&bed, &objects[0])), (5, 1, 1), "{planned:?}");
    assert_eq!(bed.stats().await.delayed, 1);
    let next = bed.worker.store.plan_of(&objects[0], now).await.unwrap().expect("it is in the plan").next_look;
    assert!(next >= now + REFUSED_FOR, "{next} is put off");
}

#[tokio::test]
async fn day_keeps_a_tenth_for_requests() {
    let mut bed = planning(ON).await;
    let objects = bed.players(90);
    store(&bed, &objects).await;
    let now = bed.now().await;
    let hour_after_midnight = seconds(25 * 3600).saturating_sub(now.since(now.midnight()));
    bed.clock.advance(hour_after_midnight);
    // An hour has passed: a 24th of the day's calls, less a tenth, is 18.
    bed.worker.api.reqs_per_day = NonZeroU64::new(480);
    let report = run_for(&bed, seconds(3)).await;
    assert!((9..=18).contains(&report.api_requests), "{report:?}");
    assert_eq!(report.stopped_because, StopReason::Deadline, "it stays awake for requests");
}

#[tokio::test]
async fn urgent_requests_are_served_until_midnight() {
    let mut bed = planning(ON).await;
    let objects = bed.players(140);
    let (known, asked) = objects.split_at(120);
    store(&bed, known).await;
    let now = bed.now().await;
    let quarter = seconds(6 * 3600);
    bed.clock.advance((4 * quarter).saturating_sub(now.since(now.midnight())));
    bed.worker.api.reqs_per_day = NonZeroU64::new(400);
    let mut planned = 0;
    for _ in 0..4 {
        bed.clock.advance(seconds(6 * 3600 - 60));
        planned += run_for(&bed, seconds(2)).await.api_requests;
        bed.clock.advance(seconds(50));
    }
    assert!((200..=360).contains(&planned), "nine tenths of the day's calls, on a quick machine: {planned}");
    bed.ask_as(Priority::Critical, asked.iter().cloned()).await;
    let report = run_for(&bed, seconds(2)).await;
    assert_eq!(report.processed_requests, 20, "{report:?}");
    let day = report.day.expect("there is a daily quota");
    assert!(day.calls_taken <= 400, "{day:?}");
}

#[tokio::test]
async fn sides_of_a_trial_get_calls_by_size() {
    let trial = Some(Trial { strategy: Strategy::Tiers, percent: 50 });
    let teaching = Teaching { trial, ..ON.teaching };
    let bed = planning(PlannerConfig { calls_per_second: 30, teaching }).await;
    let objects = bed.players(300);
    store(&bed, &objects).await;
    bed.clock.advance(seconds(9 * 3600));
    let report = run_for(&bed, seconds(4)).await;
    let planned = report.planned.unwrap();
    let looks =
        |arm: Arm| -> u64 { planned.arms[arm.as_str()].kinds.values().flatten().map(|group| group.planned).sum() };
    let (main, side) = (looks(Arm::Main), looks(Arm::Trial));
    assert!(main + side >= 40 && main.abs_diff(side) <= 16, "{main} and {side}");
    assert_eq!((planned.arms["main"].strategy, planned.arms["trial"].strategy), ("value", "tiers"));
}

#[tokio::test]
async fn overlapping_runs_never_look_twice() {
    let bed = Bed::with(|config| config.planner = Some(ON), &["one", "two"]).await;
    let objects = bed.players(80);
    store(&bed, &objects).await;
    let mut first = bed.another();
    first.api.keys_per_run = Some(1);
    let mut second = bed.another();
    second.api.keys_per_run = Some(1);
    let clock = time_passes(&bed);
    let options = RunOptions { max_runtime: Some(seconds(6)), ..RunOptions::default() };
    let (one, other) = tokio::join!(first.run(options.clone(), &Unwatched), second.run(options, &Unwatched));
    clock.abort();
    let work = [&one, &other]
        .map(|report| (report.work_by_kind_and_priority.clone(), report.errors.clone(), report.runtime_seconds));
    let [one, other] = [one, other].map(|report| report.planned.unwrap());
    assert_eq!(one.looks + other.looks, 80, "{one:?} {other:?} {work:?}");
    assert!(one.looks > 0 && other.looks > 0, "both take part");
    assert!(objects.iter().all(|object| paths(&bed, object) == 2));
}

#[tokio::test]
async fn reads_that_were_flagged_are_reported() {
    let bed = planning(ON).await;
    let objects = bed.players(4);
    store(&bed, &objects).await;
    let now = bed.now().await;
    for object in &objects {
        let value =
            format!(r#"{{"id":"{object}","type":"player","tag":"{}","requested_at":"{now}"}}"#, object.tag.as_str());
        bed.worker.queue.put_mail(object.to_string(), 1.0, value);
    }
    let report = run_for(&bed, seconds(1)).await;
    let planned = report.planned.clone().unwrap();
    assert_eq!((planned.flagged_reads, planned.looks), (4, 0), "{report:?}");
    assert_eq!(planned.waits.values().sum::<u64>(), 4);
    assert!(planned.mail_wait_p99_seconds.is_some_and(|wait| wait < 5.0), "{planned:?}");
}
