//! Runs in which the world is well.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    api::client::ApiClient,
    clock::{Clock as _, ManualClock, Timestamp},
    model::{Fingerprint, ObjectId, Priority, Reason, RefreshRequest},
    queue::{Holder, LeaseRequest, Queue, Settlement, Slots as _, memory::MemoryQueue},
    sim::{Misbehaviour, Rule},
    store::{Store, sqlite::SqliteStore},
    worker::{RunOptions, Runs, Unwatched, report::StopReason, tables::Tables},
};

use super::bed::{Bed, outcomes, seconds};
use crate::api::scripted::{Reply, Scripted};

#[tokio::test]
async fn a_mixed_queue_is_drained_and_every_request_has_its_outcome() {
    let bed = Bed::start().await;
    let census = bed.simulator.world();
    bed.ask(bed.players(5)).await;
    bed.ask(bed.clans(5)).await;
    bed.ask([ObjectId::war(census.clans_in_war()[0].clone())]).await;
    bed.ask([ObjectId::war(census.private_war_log()[0].clone())]).await;
    bed.ask([ObjectId::player(census.unknown_tag())]).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
    assert_eq!(outcomes(&report), [("gone", 1), ("private_war_log", 1), ("stored", 11)], "{report:?}");
    assert_eq!((report.processed_requests, report.failed_requests), (13, 0));
    assert_eq!(report.api_requests, bed.simulator.total_calls());
    assert!(report.budget_used > 0.0 && report.budget_used <= 1.0, "{report:?}");
    let left = bed.stats().await;
    assert_eq!((left.ready, left.leased, left.delayed, left.dead_letters), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_clan_with_a_member_that_cannot_be_read_is_stored_and_the_report_says_so() {
    let mut bed = Bed::start().await;
    let api = Scripted::start().await;
    let members = r##"[{"tag":"#8QU8J9LP","name":"a"},{"tag":"#AAA","name":"b"}]"##;
    api.on(
        "clans/%232PP",
        [Reply::json(&format!(r##"{{"tag":"#2PP","name":"x","clanLevel":3,"memberList":{members}}}"##))],
    );
    bed.worker.api = ApiClient::new(&api.base_url()).unwrap();
    bed.ask(["clan:2PP".parse::<ObjectId>().unwrap()]).await;
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("stored", 1)], "{report:?}");
    assert_eq!(
        report.errors,
        ["clan:2PP: an entry of its member list cannot be read; leaves are not recorded until that ends"]
    );
}

#[tokio::test]
async fn an_empty_queue_costs_no_call() {
    let bed = Bed::start().await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::QueueEmpty);
    assert_eq!((report.api_requests, bed.simulator.total_calls()), (0, 0));
    assert!(report.budget_used.abs() < f64::EPSILON);
}

#[tokio::test]
async fn what_is_fresh_enough_is_fresh_without_a_call() {
    let bed = Bed::start().await;
    bed.ask(bed.players(3)).await;
    bed.run().await;
    let calls = bed.simulator.total_calls();
    bed.ask(bed.players(3)).await;
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("fresh", 3)]);
    assert_eq!(bed.simulator.total_calls(), calls);
}

#[tokio::test]
async fn the_same_content_after_max_age_is_unchanged() {
    let bed = Bed::start().await;
    bed.ask(bed.players(2)).await;
    bed.run().await;
    bed.clock.advance(seconds(90));
    bed.ask(bed.players(2)).await;
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("unchanged", 2)], "{report:?}");
}

#[tokio::test]
async fn a_request_for_a_later_time_is_never_answered_early() {
    let bed = Bed::start().await;
    let player = bed.players(1).remove(0);
    let now = bed.now().await;
    let soon = RefreshRequest::now(player.clone(), Priority::High, now);
    let later = RefreshRequest { asked: now + seconds(120), due: now + seconds(120), ..soon.clone() };
    bed.worker.queue.enqueue(now, &[soon, later]).await.unwrap();
    bed.run().await;
    assert_eq!(bed.simulator.total_calls(), 1);
    assert_eq!(bed.stats().await.delayed, 1, "the later request waits");
    bed.clock.advance(seconds(121));
    let report = bed.run().await;
    assert_eq!(bed.simulator.total_calls(), 2, "{report:?}");
    assert_eq!(bed.stats().await.delayed, 0);
}

#[tokio::test]
async fn max_requests_ends_a_run_and_leaves_the_rest() {
    let bed = Bed::start().await;
    bed.ask(bed.players(10)).await;
    let report = bed.run_with(RunOptions { max_requests: Some(4), ..RunOptions::default() }).await;
    assert_eq!(report.stopped_because, StopReason::MaxRequests);
    assert_eq!((report.processed_requests, bed.simulator.total_calls()), (4, 4));
    assert_eq!(bed.stats().await.ready, 6);
}

#[tokio::test]
async fn a_priority_filter_leaves_the_other_classes_alone() {
    let bed = Bed::start().await;
    let players = bed.players(6);
    bed.ask_as(Priority::Critical, players[..2].to_vec()).await;
    bed.ask_as(Priority::Low, players[2..].to_vec()).await;
    let options = RunOptions { priority_filter: vec![Priority::Critical], ..RunOptions::default() };
    let report = bed.run_with(options).await;
    assert_eq!(report.processed_requests, 2);
    assert_eq!(bed.stats().await.ready_by_priority[&Priority::Low], 4);
}

#[tokio::test]
async fn named_objects_come_before_everything_that_waits() {
    let bed = Bed::start().await;
    let players = bed.players(20);
    bed.ask_as(Priority::Critical, players[1..].to_vec()).await;
    let named = players[0].clone();
    let options = RunOptions { named: vec![named.clone()], max_requests: Some(1), ..RunOptions::default() };
    let report = bed.run_with(options).await;
    assert_eq!((report.enqueued, report.processed_requests), (1, 1), "{report:?}");
    assert_eq!((bed.simulator.calls_to(named.tag.as_str()).len(), bed.simulator.total_calls()), (1, 1), "{report:?}");
}

#[tokio::test]
async fn a_failure_that_comes_after_the_last_request_was_leased_is_told_and_charged_to_nobody() {
    for (what, expected) in [
        (Misbehaviour::InvalidAuthorization, StopReason::NoUsableKey),
        (Misbehaviour::AddressBan, StopReason::NoUsableKey),
        (Misbehaviour::Status500, StopReason::ApiUnreachable),
        (Misbehaviour::Maintenance, StopReason::Maintenance),
    ] {
        let bed = Bed::start().await;
        bed.ask(bed.players(30)).await;
        bed.simulator.misbehave(Rule::new(what.clone()));
        let report = bed.run_with(RunOptions { max_requests: Some(25), ..RunOptions::default() }).await;
        assert_eq!(report.stopped_because, expected, "{what:?}: {report:?}");
        assert_eq!(report.failure.is_some(), expected.is_failure(), "{what:?}: {report:?}");
        let stats = bed.stats().await;
        assert_eq!((stats.ready + stats.delayed, stats.dead_letters, stats.leased), (30, 0, 0), "{what:?}: {report:?}");
    }
}

#[tokio::test]
async fn a_second_run_with_the_same_key_leaves_at_once_and_keeps_what_was_named() {
    let bed = Bed::start().await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    bed.ask(bed.players(1)).await;
    let other = bed.another();
    let named = bed.players(2).remove(1);
    let second = async {
        bed.simulator.wait_until_held(1).await;
        let options = RunOptions { named: vec![named], ..RunOptions::default() };
        let report = other.run(options, &Unwatched).await;
        bed.simulator.release();
        report
    };
    let (first, second) = tokio::join!(bed.run(), second);
    assert_eq!(second.stopped_because, StopReason::AlreadyRunning, "{second:?}");
    assert_eq!((second.enqueued, second.api_requests), (1, 0));
    assert_eq!(first.processed_requests, 2, "the first run does what the second was asked for: {first:?}");
}

#[tokio::test]
async fn a_named_dead_letter_is_told_and_not_counted_as_queued() {
    let bed = Bed::start().await;
    let named = bed.players(2);
    bed.ask(named[..1].iter().cloned()).await;
    let request = LeaseRequest { max: 1, duration: seconds(60), alone: true, ..LeaseRequest::default() };
    let lease = bed.worker.queue.lease(bed.now().await, &request).await.unwrap().leases.remove(0);
    let dead = Settlement::Dead { reason: Reason::new("lapsed", "it kills its workers"), body: None };
    bed.worker.queue.settle(bed.now().await, &[(lease, dead)]).await.unwrap();

    let report = bed.run_with(RunOptions { named: named.clone(), ..RunOptions::default() }).await;
    assert_eq!((report.enqueued, report.processed_requests), (1, 1), "{report:?}");
    let told = &report.not_queued[0];
    assert_eq!((report.not_queued.len(), &told.object), (1, &named[0].to_string()), "{report:?}");
    assert!(told.reason.contains("it kills its workers") && told.reason.contains("--revive"), "{report:?}");
}

#[tokio::test]
async fn at_the_deadline_nothing_leased_is_lost_and_no_call_follows() {
    let bed = Bed::with(|config| config.deadline_buffer = Duration::ZERO, &[super::bed::TOKEN]).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased).after(10));
    bed.ask(bed.players(60)).await;
    let report = bed.run_with(RunOptions { time_left: Some(seconds(2)), ..RunOptions::default() }).await;
    let calls = bed.simulator.total_calls();
    assert_eq!(report.stopped_because, StopReason::Deadline, "{report:?}");
    assert!(report.runtime_seconds < 3.0, "{report:?}");
    let left = bed.stats().await;
    assert_eq!(report.processed_requests + left.ready + left.delayed, 60, "{report:?} {left:?}");
    assert_eq!(left.leased, 0);
    bed.simulator.release();
    assert_eq!(bed.simulator.total_calls(), calls);
}

#[tokio::test]
async fn asked_to_stop_a_run_gives_everything_back_uncounted() {
    let bed = Bed::start().await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    bed.ask(bed.players(8)).await;
    let stop = async {
        bed.simulator.wait_until_held(3).await;
        bed.worker.stop.ask();
    };
    let (report, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(report.stopped_because, StopReason::Shutdown);
    assert_eq!(outcomes(&report), [("released", 8)], "{report:?}");
    assert_eq!(bed.stats().await.ready, 8);
}

/// Lambda delivers a request a second time while the first attempt stands still: its slot has ended, and the second has it.
#[tokio::test]
async fn one_request_id_delivered_twice_is_two_holders() {
    let bed = Bed::start().await;
    let options = RunOptions { run: Some("request-1".to_owned()), ..RunOptions::default() };
    let key = Fingerprint::of(super::bed::TOKEN);
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    bed.ask(bed.players(3)).await;
    let holder = async || match bed.worker.queue.look_at_key(&key).await.unwrap().holder {
        Holder::Run(holder) => holder,
        other => panic!("{other:?}"),
    };
    let again = bed.another();
    let second = async {
        bed.simulator.wait_until_held(3).await;
        let first = holder().await;
        bed.clock.advance(seconds(16));
        bed.ask(bed.players(4)[3..].to_vec()).await;
        let options = RunOptions { max_requests: Some(1), ..options.clone() };
        let report = async {
            let report = again.run(options, &Unwatched).await;
            bed.clock.advance(seconds(1));
            report
        };
        let look = async {
            bed.simulator.wait_until_held(4).await;
            let second = holder().await;
            assert!(first.starts_with("request-1/") && second.starts_with("request-1/") && first != second);
            let renewed = bed.worker.queue.renew_keys(std::slice::from_ref(&key), &first, seconds(15)).await.unwrap();
            assert_eq!(renewed, [false], "the first attempt has lost it");
            bed.simulator.release();
        };
        tokio::join!(report, look).0
    };
    let (first, second) = tokio::join!(bed.worker.run(options.clone(), &Unwatched), second);
    assert_eq!(second.processed_requests, 1, "{second:?}");
    assert_eq!((first.run.as_str(), second.run.as_str()), ("request-1", "request-1"));
    let rows: i64 = sqlx::query_scalar("select count(*) from refresh_worker_refresh_runs")
        .fetch_one(bed.worker.store.pool())
        .await
        .unwrap();
    assert_eq!(rows, 2, "{first:?}");
}

#[tokio::test]
async fn leases_are_renewed_while_their_calls_are_in_flight() {
    let bed = Bed::with(|config| config.lease = Duration::from_millis(600), &[super::bed::TOKEN]).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    bed.ask(bed.players(1)).await;
    let thief = async {
        bed.simulator.wait_until_held(1).await;
        // Ten times the lease passes by the queue's clock, in steps shorter than the lease.
        for _ in 0..30 {
            bed.clock.advance(Duration::from_millis(200));
            tokio::time::sleep(Duration::from_millis(220)).await;
        }
        let request = LeaseRequest {
            max: 1,
            duration: seconds(1),
            priorities: Vec::new(),
            alone: true,
            seed: 1,
            run: "thief".to_owned(),
            first: Vec::new(),
            ..LeaseRequest::default()
        };
        let stolen = bed.worker.queue.lease(bed.now().await, &request).await.unwrap();
        bed.simulator.release();
        stolen.leases.len()
    };
    let (report, stolen) = tokio::join!(bed.run(), thief);
    assert_eq!(stolen, 0);
    assert_eq!(outcomes(&report), [("stored", 1)], "{report:?}");
}

#[tokio::test]
async fn a_suspect_is_fetched_with_nothing_else_in_flight() {
    let bed = Bed::start().await;
    let players = bed.players(6);
    bed.ask(players[..1].to_vec()).await;
    for _ in 0..2 {
        let request = LeaseRequest {
            max: 1,
            duration: seconds(1),
            priorities: Vec::new(),
            alone: true,
            seed: 1,
            run: "crashed".to_owned(),
            first: Vec::new(),
            ..LeaseRequest::default()
        };
        assert_eq!(bed.worker.queue.lease(bed.now().await, &request).await.unwrap().leases.len(), 1);
        bed.clock.advance(seconds(2));
    }
    bed.ask(players[1..].to_vec()).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased).on_tag(players[0].tag.as_str()));
    let look = async {
        bed.simulator.wait_until_held(1).await;
        let calls = bed.simulator.total_calls();
        let leased = bed.stats().await.leased;
        bed.simulator.release();
        (calls, leased)
    };
    let (report, (calls, leased)) = tokio::join!(bed.run(), look);
    assert_eq!((calls, leased), (1, 1), "alone: {report:?}");
    assert_eq!((report.lapsed, report.processed_requests), (1, 6), "{report:?}");
}

#[tokio::test]
async fn a_run_leaves_its_row_in_the_store() {
    let bed = Bed::start().await;
    bed.ask(bed.players(2)).await;
    let report = bed.run_with(RunOptions { run: Some("request-1".to_owned()), ..RunOptions::default() }).await;
    let row = bed.worker.store.last_run().await.unwrap().expect("a run was written down");
    assert_eq!((row.run.as_str(), row.processed), ("request-1", 2));
    assert_eq!(row.api_requests, report.api_requests);
    let told: serde_json::Value = serde_json::from_str(&row.report).unwrap();
    assert_eq!(told["stopped_because"], "queue_empty");
}

#[tokio::test]
async fn a_wall_clock_that_jumps_in_a_run_costs_no_request_and_no_call() {
    for jump in [-3600_i64, -20, 20, 3600] {
        let mut bed = Bed::start().await;
        // The clock of the queue's server is another.
        bed.worker.queue = Arc::new(MemoryQueue::new(ManualClock::at(bed.clock.wall())));
        bed.ask(bed.players(60)).await;
        let jumps = async {
            bed.simulator.wait_for_calls(20).await;
            let wall = bed.clock.wall().as_millis();
            bed.clock.set_wall(Timestamp::from_millis(wall + jump * 1000));
        };
        let (report, ()) = tokio::join!(bed.run(), jumps);
        // What was leased ahead may have been given back and leased again.
        assert_eq!((report.outcomes["stored"], report.failed_requests), (60, 0), "by {jump} s: {report:?}");
        assert_eq!((bed.simulator.total_calls(), bed.stats().await.leased), (60, 0), "by {jump} s");
    }
}

#[tokio::test]
async fn the_first_run_of_a_cold_start_makes_the_tables_when_they_are_ours_to_make() {
    let mut bed = Bed::start().await;
    bed.worker.store = Arc::new(SqliteStore::in_memory().await.unwrap());
    bed.ask(bed.players(2)).await;
    let report = bed.run().await;
    assert_eq!((report.stopped_because, bed.simulator.total_calls()), (StopReason::DatabaseDown, 0), "{report:?}");
    bed.worker.tables = Tables::to_make();
    for (processed, request) in [(2, 0), (1, 1)] {
        bed.ask(bed.players(request)).await;
        let report = bed.run().await;
        assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
        assert_eq!(report.processed_requests, processed, "{report:?}");
    }
}
