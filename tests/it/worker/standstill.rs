//! Runs that something might keep from going on: each once stood still, or told something false.

use refresh_worker::{
    clock::Timestamp,
    model::{EndpointKind, ObjectId, Priority},
    queue::{Circuit, CircuitReason, CircuitScope, Queue, Slots},
    sim::{Endpoint, Misbehaviour, Rule},
    worker::{RunOptions, Unwatched, report::StopReason},
};

use super::bed::{Bed, outcomes, seconds, time_passes};

/// One object that alone meets 429, runs shorter than the rest of the key.
#[tokio::test]
async fn one_throttled_object_starves_no_short_run() {
    let mut bed = Bed::start().await;
    bed.worker.reqs_per_sec = 30;
    let players = bed.players(101);
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: None }).on_tag(players[0].tag.as_str()));
    bed.ask_as(Priority::Critical, [players[0].clone()]).await;
    bed.ask(players[1..].to_vec()).await;
    let mut stored = 0;
    for _ in 0..10 {
        let report = bed.run_with(RunOptions { time_left: Some(seconds(25)), ..RunOptions::default() }).await;
        stored += report.outcomes["stored"];
        bed.clock.advance(seconds(60));
    }
    assert_eq!(stored, 100);
}

/// The probe of the API meets 429; a second key could go on.
#[tokio::test]
async fn a_throttled_probe_hangs_no_run() {
    let bed = Bed::with(|_| {}, &["one", "two"]).await;
    bed.ask(bed.players(50)).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Maintenance));
    bed.run().await;
    bed.simulator.clear();
    bed.clock.advance(seconds(31));
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(5) }).times(1));
    let passing = time_passes(&bed);
    let report = bed.run_with(RunOptions { time_left: Some(seconds(60)), ..RunOptions::default() }).await;
    passing.abort();
    assert!(report.runtime_seconds < 10.0 && report.stopped_because == StopReason::CircuitOpen, "{report:?}");
    bed.clock.advance(seconds(31));
    let report = bed.run().await;
    assert_eq!(report.outcomes["stored"], 50, "{report:?}");
}

/// A run that may lease nothing takes the probe of the API from the one that could make it.
#[tokio::test]
async fn a_filtered_run_leaves_the_probe_to_others() {
    let bed = Bed::start().await;
    bed.ask(bed.players(20)).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Maintenance));
    bed.run().await;
    bed.simulator.clear();
    let mut stored = 0;
    bed.clock.advance(seconds(50));
    for _ in 0..50 {
        let report =
            bed.run_with(RunOptions { priority_filter: vec![Priority::Critical], ..RunOptions::default() }).await;
        assert_eq!(report.api_requests, 0);
        bed.clock.advance(seconds(10));
        let report = bed.run().await;
        stored += report.outcomes["stored"];
        bed.clock.advance(seconds(50));
    }
    assert_eq!(stored, 20, "an hour after the end of a maintenance");
}

/// Two objects side by side that are always forbidden.
#[tokio::test]
async fn two_forbidden_objects_do_not_stop_the_key() {
    for what in [Misbehaviour::OtherForbidden, Misbehaviour::InvalidIp] {
        let mut bed = Bed::start().await;
        bed.worker.reqs_per_sec = 30;
        let players = bed.players(102);
        for bad in &players[..2] {
            bed.simulator.misbehave(Rule::new(what.clone()).on_tag(bad.tag.as_str()));
        }
        bed.ask_as(Priority::Critical, players[..2].to_vec()).await;
        bed.ask(players[2..].to_vec()).await;
        let mut stored = 0;
        for _ in 0..20 {
            let report = bed.run().await;
            stored += report.outcomes["stored"];
            bed.clock.advance(seconds(9 * 60 + 30));
        }
        assert_eq!((stored, bed.dead().await.len()), (100, 2), "{what:?}");
    }
}

/// Another run closed the circuit.
#[tokio::test]
async fn a_circuit_closed_elsewhere_is_closed_here() {
    let mut bed = Bed::start().await;
    bed.worker.reqs_per_sec = 50;
    let wars: Vec<ObjectId> = bed.clans(5).into_iter().map(|clan| ObjectId::war(clan.tag)).collect();
    bed.ask_as(Priority::Critical, wars.clone()).await;
    bed.ask(bed.players(300)).await;
    let now = bed.now().await;
    let scope = CircuitScope::Endpoint(EndpointKind::CurrentWar);
    let reason = CircuitReason::new("failing", "500");
    bed.worker.queue.open_circuit(&Circuit { scope, since: now, next_probe: now + seconds(4), reason }).await.unwrap();
    let (queue, clock) = (bed.worker.queue.clone(), bed.clock.clone());
    let other = tokio::spawn(async move {
        tokio::time::sleep(seconds(1)).await;
        // What `close_circuit` of another run does.
        let now: Timestamp = queue.time().await.unwrap();
        queue.close_circuit(scope).await.unwrap();
        queue.lift_holds(now, "current_war_fails").await.unwrap();
        clock.advance(seconds(5));
    });
    let report = bed.run().await;
    other.await.unwrap();
    assert_eq!(bed.stats().await.delayed, 0, "wars wait in a run of which no circuit is open: {report:?}");
}

/// The control call meets 429.
#[tokio::test]
async fn a_throttled_league_group_is_told() {
    let bed = Bed::start().await;
    let wars: Vec<ObjectId> = bed.clans(40).into_iter().map(|clan| ObjectId::war(clan.tag)).collect();
    bed.ask(wars).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(20) }).on(Endpoint::LeagueGroup));
    let report = bed.run_with(RunOptions { time_left: Some(seconds(15)), ..RunOptions::default() }).await;
    assert_eq!(report.stopped_because, StopReason::KeysCoolingDown, "{report:?}");
    let _ = Unwatched;
}

/// The control call is made of the accused object itself.
#[tokio::test]
async fn the_accused_is_not_its_own_control() {
    let bed = Bed::start().await;
    let players = bed.players(21);
    bed.ask(players[1..].to_vec()).await;
    bed.run().await;
    bed.clock.advance(seconds(120));
    bed.ask([players[0].clone()]).await;
    bed.run().await;
    bed.clock.advance(seconds(120));
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(players[0].tag.as_str()));
    bed.ask([players[0].clone()]).await;
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("delayed", 1)]);
}

/// The run's last request meets a 429 while Redis takes a moment: nobody gives it its turn.
#[tokio::test]
async fn a_throttled_last_request_ends_with_the_run() {
    use crate::{
        queue::beds::{Bed as _, PATIENT, RedisBed, connect_as},
        support::redis::PrivateRedis,
    };
    use refresh_worker::{model::RefreshRequest, queue::record::QueueLimits, worker::Runs as _};
    let (bed, server) = (Bed::with(|_| {}, &["one", "two"]).await, PrivateRedis::start().await);
    let redis = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let now = redis.queue().time().await.unwrap();
    let requests: Vec<RefreshRequest> =
        bed.players(1).into_iter().map(|object| RefreshRequest::now(object, Priority::High, now)).collect();
    redis.queue().enqueue(now, &requests).await.unwrap();
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(20) }).times(1));
    let worker = bed.another_on(std::sync::Arc::new(connect_as(&redis.url(), PATIENT, redis.is_cluster())));
    let options = RunOptions { time_left: Some(seconds(20)), max_requests: Some(1), ..RunOptions::default() };
    let report = worker.run(options, &Unwatched).await;
    assert!(report.runtime_seconds < 5.0, "{report:?}");
}

#[tokio::test]
async fn two_neighbours_in_maintenance_stop_nobody() {
    for what in [Misbehaviour::Maintenance, Misbehaviour::MaintenanceHtml] {
        let mut bed = Bed::start().await;
        bed.worker.reqs_per_sec = 30;
        let players = bed.players(102);
        for bad in &players[..2] {
            bed.simulator.misbehave(Rule::new(what.clone()).on_tag(bad.tag.as_str()));
        }
        bed.ask_as(Priority::Critical, players[..2].to_vec()).await;
        bed.ask(players[2..].to_vec()).await;
        let mut stored = 0;
        for _ in 0..40 {
            let report = bed.run().await;
            stored += report.outcomes["stored"];
            bed.clock.advance(seconds(61));
        }
        assert_eq!((stored, bed.dead().await.len()), (100, 2), "{what:?}");
    }
}

#[tokio::test]
async fn one_bad_object_alone_in_the_queue_dies() {
    let bed = Bed::start().await;
    let players = bed.players(21);
    bed.ask(players[1..].to_vec()).await;
    bed.run().await;
    bed.clock.advance(seconds(120));
    bed.ask([players[0].clone()]).await;
    bed.run().await;
    bed.clock.advance(seconds(120));
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(players[0].tag.as_str()));
    bed.ask([players[0].clone()]).await;
    for _ in 0..40 {
        bed.run().await;
        bed.clock.advance(seconds(10 * 60));
    }
    assert_eq!(bed.dead().await.len(), 1);
}

/// Named by an operator after a passing failure.
#[tokio::test]
async fn a_named_request_is_not_held() {
    let bed = Bed::start().await;
    let players = bed.players(1);
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).times(3));
    let named = || RunOptions { named: players.clone(), ..RunOptions::default() };
    bed.run_with(named()).await;
    bed.clock.advance(seconds(31));
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).times(1));
    bed.run_with(named()).await;
    bed.clock.advance(seconds(31));
    let third = bed.run_with(named()).await;
    assert_eq!(third.outcomes["stored"], 1);
}

/// The day is busy: 60 good ones, then the API fails as a whole in the middle of a run.
#[tokio::test]
async fn an_outage_in_mid_run_is_told() {
    for what in [Misbehaviour::Status500, Misbehaviour::Maintenance] {
        let bed = Bed::start().await;
        bed.ask(bed.players(300)).await;
        bed.simulator.misbehave(Rule::new(what.clone()).after(60));
        let report = bed.run().await;
        assert!(matches!(report.stopped_because, StopReason::ApiUnreachable | StopReason::Maintenance), "{report:?}");
    }
}

/// SIGTERM while a request waits for its ruling and one is behind.
#[tokio::test]
async fn sigterm_ends_what_waits_at_once() {
    let bed = Bed::with(|_| {}, &["one", "two"]).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Maintenance));
    bed.ask(bed.players(3)).await;
    bed.run().await;
    bed.simulator.clear();
    bed.clock.advance(seconds(31));
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(50) }).times(1));
    let stop = bed.worker.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(seconds(1)).await;
        stop.ask();
    });
    let report = bed.run().await;
    assert!(report.runtime_seconds < 3.0);
}

#[tokio::test]
async fn a_throttled_control_call_rests_its_key() {
    let bed = Bed::start().await;
    let players = bed.players(21);
    bed.ask(players[1..].to_vec()).await;
    bed.run().await;
    bed.clock.advance(seconds(120));
    for player in &players[1..] {
        bed.simulator
            .misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(60) }).on_tag(player.tag.as_str()));
    }
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(players[0].tag.as_str()));
    bed.ask([players[0].clone()]).await;
    let report = bed.run_with(RunOptions { time_left: Some(seconds(20)), ..RunOptions::default() }).await;
    assert_eq!((report.throttled, report.stopped_because), (1, StopReason::KeysCoolingDown));
}

#[tokio::test]
async fn a_named_request_waits_for_no_hold() {
    let bed = Bed::start().await;
    let clan = bed.clans(1);
    bed.ask(bed.players(20)).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(clan[0].tag.as_str()).times(3));
    let named = || RunOptions { named: clan.clone(), ..RunOptions::default() };
    bed.run_with(named()).await;
    bed.clock.advance(seconds(5));
    let second = bed.run_with(named()).await;
    assert_eq!(second.outcomes["stored"], 1);
}
