//! The classification of bad responses, through whole runs: one bad object, one bad endpoint, one bad key, a bad API, somebody else's
//! server. Each of these stops only what is bad.

use std::sync::Arc;

use refresh_worker::{
    model::{Kind, ObjectId, Priority, RefreshRequest},
    queue::{CircuitScope, Queue, QueueAdmin, SharedState, memory::MemoryQueue, record::QueueLimits},
    sim::{Endpoint, Misbehaviour, Rule},
    worker::{
        RunOptions, Runs, Unwatched,
        report::{RunReport, StopReason},
    },
};

use super::bed::{Bed, outcomes, seconds, time_passes};

/// All bad responses that one object can have for ever, but for its key's rate.
fn bad_answers() -> Vec<Misbehaviour> {
    vec![
        Misbehaviour::Maintenance,
        Misbehaviour::MaintenanceHtml,
        Misbehaviour::Status500,
        Misbehaviour::UnknownException,
        Misbehaviour::Status502,
        Misbehaviour::Status504,
        Misbehaviour::InvalidIp,
        Misbehaviour::InvalidAuthorization,
        Misbehaviour::AddressBan,
        Misbehaviour::OtherForbidden,
        // Of a player it says nothing that a client knows.
        Misbehaviour::PrivateWarLog,
        Misbehaviour::CutBeforeHeaders,
        Misbehaviour::CutMidBody,
        Misbehaviour::Truncated,
        Misbehaviour::NotJson,
        Misbehaviour::WrongTag,
        Misbehaviour::WrongJson,
        foreign(404, "page not found"),
        foreign(401, ""),
        foreign(302, ""),
    ]
}

fn foreign(status: u16, body: &str) -> Misbehaviour {
    Misbehaviour::Foreign { status, body: body.to_owned() }
}

/// Answers with which a server gives itself away that is not the API.
fn wrong_servers() -> Vec<Misbehaviour> {
    vec![
        foreign(404, "page not found"),
        foreign(404, "{}"),
        foreign(404, ""),
        foreign(400, "<html>Bad Request</html>"),
        foreign(200, r#"{"ok":true}"#),
        foreign(200, r##"{"tag":"#2PP","name":"cached","memberList":[],"state":"inWar","clan":{"tag":"#2PP"}}"##),
        foreign(200, "<html>It works!</html>"),
        foreign(301, ""),
        foreign(405, ""),
    ]
}

fn stored(report: &RunReport) -> u64 {
    report.outcomes["stored"]
}

/// The attempts of the requests that wait, all together.
async fn attempts(bed: &Bed) -> u64 {
    let exported = bed.worker.queue.export(bed.now().await).await.unwrap();
    let count = |value: &str| {
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        value["retry_count"].as_u64().unwrap()
    };
    exported.iter().map(|exported| count(&exported.value)).sum()
}

async fn open_circuits(bed: &Bed) -> Vec<CircuitScope> {
    bed.worker.queue.circuits().await.unwrap().into_iter().map(|circuit| circuit.scope).collect()
}

#[tokio::test]
async fn bad_object_stops_nobody_and_dies() {
    for what in bad_answers() {
        let bed = Bed::start().await;
        let players = bed.players(101);
        let bad = players[0].clone();
        bed.simulator.misbehave(Rule::new(what.clone()).on_tag(bad.tag.as_str()));
        bed.ask_as(Priority::Critical, [bad.clone()]).await;
        bed.ask(players[1..].to_vec()).await;
        let report = bed.run().await;
        assert_eq!(stored(&report), 100, "{what:?}: {report:?}");
        assert!(!report.stopped_because.is_failure(), "{what:?}: {report:?}");
        assert!(open_circuits(&bed).await.is_empty(), "{what:?}");
        let mut runs = 1;
        while bed.dead().await.is_empty() {
            assert!(runs < 6, "{what:?}: {:?}", bed.stats().await);
            bed.clock.advance(seconds(15 * 60));
            let report = bed.run().await;
            assert!(report.api_requests <= 6, "{what:?}: {report:?}");
            runs += 1;
        }
        let letter = &bed.dead().await[0];
        assert_eq!(letter.name, bad.to_string(), "{what:?}");
        assert!(runs <= 3 && letter.reason.len() > 10, "{what:?}: {runs} runs, {letter:?}");
    }
}

#[tokio::test]
async fn object_throttled_alone_waits_and_dies() {
    let bed = Bed::start().await;
    let players = bed.players(101);
    bed.simulator
        .misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(1) }).on_tag(players[0].tag.as_str()));
    bed.ask_as(Priority::Critical, [players[0].clone()]).await;
    bed.ask(players[1..].to_vec()).await;
    let passing = time_passes(&bed);
    let options = || RunOptions { time_left: Some(seconds(60)), ..RunOptions::default() };
    let report = bed.run_with(options()).await;
    // Behind all others it is called once more.
    assert_eq!((stored(&report), report.throttled), (100, 2), "{report:?}");
    assert!(!report.stopped_because.is_failure(), "{report:?}");
    for _ in 0..12 {
        bed.clock.advance(seconds(15 * 60));
        bed.run_with(options()).await;
    }
    passing.abort();
    assert_eq!(bed.dead().await.len(), 1, "{:?}", bed.stats().await);
}

#[tokio::test]
async fn bad_league_group_stops_no_war() {
    for what in [Misbehaviour::MaintenanceHtml, Misbehaviour::Maintenance, Misbehaviour::OtherForbidden] {
        let bed = Bed::start().await;
        let clans = bed.clans(20);
        let wars: Vec<ObjectId> = clans.iter().map(|clan| ObjectId::war(clan.tag.clone())).collect();
        bed.simulator.misbehave(Rule::new(what.clone()).on(Endpoint::LeagueGroup).on_tag(wars[0].tag.as_str()));
        bed.ask_as(Priority::Critical, [wars[0].clone()]).await;
        bed.ask(wars[1..].iter().cloned().chain(clans)).await;
        let report = bed.run().await;
        assert_eq!((report.processed_requests, report.failed_requests), (40, 0), "{what:?}: {report:?}");
        assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{what:?}: {report:?}");
    }
}

#[tokio::test]
async fn every_fiftieth_bad_costs_five_percent() {
    let mut bad = bad_answers();
    bad.retain(|what| !matches!(what, Misbehaviour::CutBeforeHeaders));
    for what in bad {
        let bed = Bed::start().await;
        bed.ask(bed.players(300)).await;
        bed.simulator.misbehave(Rule::new(what.clone()).every(50));
        let report = bed.run().await;
        assert_eq!((stored(&report), report.failed_requests), (300, 0), "{what:?}: {report:?}");
        assert!(report.api_requests <= 315, "{what:?}: {report:?}");
        assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{what:?}: {report:?}");
    }
}

#[tokio::test]
async fn outage_counts_no_attempt() {
    for (waiting, what) in [
        (1, Misbehaviour::CutBeforeHeaders),
        (5, Misbehaviour::Maintenance),
        (19, Misbehaviour::CutBeforeHeaders),
        (19, Misbehaviour::MaintenanceHtml),
        (60, Misbehaviour::Status502),
        (60, Misbehaviour::Maintenance),
        (300, Misbehaviour::Status500),
    ] {
        let bed = Bed::start().await;
        bed.ask(bed.players(waiting)).await;
        bed.simulator.misbehave(Rule::new(what.clone()));
        let is_maintenance = matches!(what, Misbehaviour::Maintenance | Misbehaviour::MaintenanceHtml);
        let stops = if is_maintenance { StopReason::Maintenance } else { StopReason::ApiUnreachable };
        let first = bed.run().await;
        assert_eq!(first.stopped_because, stops, "{waiting}, {what:?}: {first:?}");
        assert_eq!(first.failure.is_some(), !is_maintenance, "{waiting}, {what:?}: {first:?}");
        for probe in 0..60 {
            let turned_away = bed.run().await;
            assert_eq!(turned_away.api_requests, 0, "{waiting}, {what:?}, {probe}: {turned_away:?}");
            assert!(turned_away.stopped_because.is_turned_away(), "{turned_away:?}");
            bed.clock.advance(seconds(30));
            let report = bed.run().await;
            assert_eq!(report.api_requests, 1, "{waiting}, {what:?}, {probe}: {report:?}");
            assert_eq!(report.stopped_because, stops, "{waiting}, {what:?}, {probe}: {report:?}");
        }
        assert_eq!((attempts(&bed).await, bed.dead().await.len()), (0, 0), "{waiting}, {what:?}");
        bed.simulator.clear();
        bed.clock.advance(seconds(30));
        let after = bed.run().await;
        assert_eq!(stored(&after), waiting as u64, "{what:?}: all within 30 s of its end: {after:?}");
        assert!(open_circuits(&bed).await.is_empty(), "{what:?}");
    }
}

#[tokio::test]
async fn wrong_server_costs_no_request() {
    for what in wrong_servers() {
        for waiting in [1, 60] {
            let bed = Bed::start().await;
            let wars: Vec<ObjectId> = bed.clans(10).into_iter().map(|clan| ObjectId::war(clan.tag)).collect();
            bed.ask(bed.players(waiting)).await;
            bed.ask(bed.clans(waiting.min(20))).await;
            bed.ask(wars).await;
            bed.simulator.misbehave(Rule::new(what.clone()));
            for _ in 0..3 {
                let report = bed.run().await;
                assert_eq!(report.stopped_because, StopReason::ApiUnreachable, "{what:?}, {waiting}: {report:?}");
                assert_eq!((report.processed_requests, report.failed_requests), (0, 0), "{what:?}: {report:?}");
                assert!(report.api_requests <= 120, "{what:?}, {waiting}: {report:?}");
                bed.clock.advance(seconds(120));
            }
            assert_eq!((attempts(&bed).await, bed.dead().await.len()), (0, 0), "{what:?}, {waiting}");
        }
    }
}

#[tokio::test]
async fn failing_endpoint_stops_only_its_own() {
    for what in [Misbehaviour::Status500, Misbehaviour::Maintenance, foreign(404, "")] {
        let bed = Bed::start().await;
        let wars: Vec<ObjectId> = bed.clans(20).into_iter().map(|clan| ObjectId::war(clan.tag)).collect();
        bed.ask_as(Priority::Critical, wars.clone()).await;
        bed.ask(bed.players(300)).await;
        bed.simulator.misbehave(Rule::new(what.clone()).on(Endpoint::CurrentWar));
        let report = bed.run().await;
        assert_eq!(stored(&report), 300, "{what:?}: {report:?}");
        assert_eq!(report.stopped_because, StopReason::CircuitOpen, "{what:?}: {report:?}");
        assert_eq!(report.failed_requests, 0, "{what:?}: {report:?}");
        let calls = report.work_by_kind_and_priority["war"]["critical"]["calls"];
        assert!(calls <= 20, "{what:?}: {calls} calls in vain");
        for _ in 0..10 {
            let report = bed.run().await;
            assert_eq!(report.api_requests, 0, "{what:?}: {report:?}");
            bed.clock.advance(seconds(30));
            let report = bed.run().await;
            assert!(report.api_requests <= 1, "{what:?}: one probe: {report:?}");
        }
        assert_eq!((attempts(&bed).await, bed.dead().await.len()), (0, 0), "{what:?}");
        bed.simulator.clear();
        bed.clock.advance(seconds(30));
        let report = bed.run().await;
        assert_eq!(report.processed_requests, 20, "{what:?}: {report:?}");
        assert!(open_circuits(&bed).await.is_empty(), "{what:?}");
    }
}

#[tokio::test]
async fn rejected_key_leaves_run_to_the_other() {
    for what in [
        foreign(403, r#"{"reason":"accessDenied.keyExpired"}"#),
        Misbehaviour::InvalidIp,
        Misbehaviour::AddressBan,
        foreign(401, ""),
    ] {
        let mut bed = Bed::with(|_| {}, &["good-token", "bad-token"]).await;
        // Slow enough that few calls are in flight when the first refusal is heard.
        bed.worker.api.reqs_per_sec = 50;
        bed.ask(bed.players(100)).await;
        bed.simulator.misbehave(Rule::new(what.clone()).on_token("bad-token"));
        let report = bed.run().await;
        assert_eq!((stored(&report), report.failed_requests), (100, 0), "{what:?}: {report:?}");
        assert_eq!((report.keys_held, report.keys_usable, report.keys_rejected), (2, 1, 1), "{what:?}: {report:?}");
        let refused = bed.simulator.calls().iter().filter(|call| call.status != Some(200)).count();
        assert!(refused <= 20, "{what:?}: {refused} calls on a key that is refused");
    }
}

#[tokio::test]
async fn bad_tail_is_classified_by_control_call() {
    let bed = Bed::start().await;
    let players = bed.players(21);
    bed.ask(players[1..].to_vec()).await;
    bed.run().await;
    // The copies grow old, so that the API responds to a control call anew.
    bed.clock.advance(seconds(120));
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(players[0].tag.as_str()));
    bed.ask([players[0].clone()]).await;
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("delayed", 1)], "{report:?}");
    assert_eq!(report.control_calls, 1, "{report:?}");
    assert_eq!(attempts(&bed).await, 1);
}

#[tokio::test]
async fn document_of_another_clan_is_not_ours() {
    let bed = Bed::start().await;
    let wars: Vec<ObjectId> = bed.clans(20).into_iter().map(|clan| ObjectId::war(clan.tag)).collect();
    bed.ask(wars.clone()).await;
    let report = bed.run().await;
    assert_eq!(report.processed_requests, 20, "{report:?}");
    bed.clock.advance(seconds(11 * 60));
    // Whatever war of a league is asked for: the wars of all others have nothing to do with it.
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status502).on(Endpoint::LeagueGroup));
    bed.ask(wars).await;
    let report = bed.run().await;
    assert_eq!((report.processed_requests, report.failed_requests), (20, 0), "{report:?}");
    assert_eq!(report.outcomes_by_kind.keys().copied().collect::<Vec<_>>(), [Kind::War.as_str()]);
}

#[tokio::test]
async fn full_dead_letters_fail_the_run() {
    let bed = Bed::start().await;
    let limits = QueueLimits { dead_letters: 1, ..QueueLimits::default() };
    let worker = bed.another_on(Arc::new(MemoryQueue::new(bed.clock.clone()).with_limits(limits)));
    let players = bed.players(30);
    for player in &players[..3] {
        bed.simulator.misbehave(Rule::new(Misbehaviour::WrongTag).on_tag(player.tag.as_str()));
    }
    let now = bed.now().await;
    let requests: Vec<RefreshRequest> =
        players.iter().map(|player| RefreshRequest::now(player.clone(), Priority::High, now)).collect();
    worker.queue.enqueue(now, &requests).await.unwrap();
    let report = worker.run(RunOptions::default(), &Unwatched).await;
    assert_eq!(report.stopped_because, StopReason::DeadLettersFull, "{report:?}");
    assert_eq!(
        (stored(&report), report.outcomes["dead_letter"], report.outcomes["released"]),
        (27, 1, 2),
        "{report:?}"
    );
    assert!(report.failure.as_deref().unwrap().contains("dead list"), "{report:?}");
    let stats = worker.queue.stats(bed.now().await).await.unwrap();
    assert_eq!((stats.dead_letters, stats.delayed, stats.dead_letters_evicted), (1, 2, 0));
}
