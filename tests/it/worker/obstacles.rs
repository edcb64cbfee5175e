//! Runs that meet trouble: the API's, a key's, the database's.

use std::{num::NonZeroU64, time::Duration};

use refresh_worker::{
    clock::Timestamp,
    config::{Pause, TelemetryConfig},
    metrics,
    model::ObjectId,
    queue::{Circuit, CircuitReason, CircuitScope, Fingerprint, SharedState, Slot},
    sim::{Misbehaviour, Rule},
    worker::{
        RunOptions, Runs, Unwatched,
        report::{RunReport, StopReason},
    },
};

use super::bed::{Bed, TOKEN, outcomes, seconds};
use crate::queue::beds::{tag, value};

/// A metric of the run's line, as CloudWatch gets it.
fn metric(report: &RunReport, name: &str) -> Option<u64> {
    let line = metrics::run_line(report, &TelemetryConfig::default(), Timestamp::EPOCH);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    line.get(name).map(|value| value.as_u64().unwrap())
}

#[tokio::test]
async fn failed_object_is_delayed_and_counted() {
    let bed = Bed::start().await;
    let players = bed.players(5);
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(players[0].tag.as_str()));
    bed.ask(players).await;
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("delayed", 1), ("stored", 4)], "{report:?}");
    assert_eq!(bed.stats().await.delayed, 1);
    assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
}

#[tokio::test]
async fn attempts_are_used_up_with_delays() {
    let bed = Bed::start().await;
    let players = bed.players(30);
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status500).on_tag(players[0].tag.as_str()));
    bed.ask(players).await;
    for (attempt, minutes) in [(1, 2), (2, 4)] {
        let report = bed.run().await;
        assert_eq!(report.outcomes["delayed"], 1, "attempt {attempt}: {report:?}");
        bed.clock.advance(seconds(minutes * 60));
    }
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("dead_letter", 1)], "{report:?}");
    let dead = bed.dead().await;
    assert_eq!(dead[0].reason_code, "attempts_used_up", "{dead:?}");
}

/// A response that would be the same again becomes a dead letter with its first bytes.
#[tokio::test]
async fn permanent_failure_is_dead_letter_with_body() {
    let bed = Bed::start().await;
    let players = bed.players(30);
    bed.simulator.misbehave(Rule::new(Misbehaviour::WrongTag).on_tag(players[0].tag.as_str()));
    bed.simulator.misbehave(Rule::new(Misbehaviour::BadRequest).on_tag(players[1].tag.as_str()));
    bed.ask(players).await;
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("dead_letter", 2), ("stored", 28)], "{report:?}");
    let dead = bed.dead().await;
    assert!(dead.iter().all(|letter| letter.body.is_some() && !letter.reason.is_empty()), "{dead:?}");
}

#[tokio::test]
async fn maintenance_is_probed_every_30_seconds() {
    let bed = Bed::start().await;
    bed.simulator.maintenance(true);
    bed.ask(bed.players(30)).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::Maintenance, "{report:?}");
    assert_eq!((report.processed_requests, report.failed_requests), (0, 0));
    let stats = bed.stats().await;
    assert_eq!((stats.ready + stats.delayed, stats.leased), (30, 0), "all was returned");
    let calls = bed.simulator.total_calls();
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.api_requests), (StopReason::Maintenance, 0));
    bed.clock.advance(seconds(31));
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.api_requests), (StopReason::Maintenance, 1), "one probe");
    assert_eq!(bed.simulator.total_calls(), calls + 1);
    bed.simulator.maintenance(false);
    bed.clock.advance(seconds(31));
    let report = bed.run().await;
    assert_eq!(outcomes(&report), [("stored", 30)], "{report:?}");
    assert_eq!(bed.worker.queue.circuits().await.unwrap(), []);
}

#[tokio::test]
async fn other_failure_does_not_end_maintenance() {
    let bed = Bed::start().await;
    bed.simulator.maintenance(true);
    bed.ask(bed.players(3)).await;
    bed.run().await;
    bed.simulator.maintenance(false);
    bed.simulator.misbehave(Rule::new(Misbehaviour::Status504));
    bed.clock.advance(seconds(31));
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::Maintenance, "{report:?}");
    assert_eq!(report.failed_requests, 0, "{report:?}");
    let circuits = bed.worker.queue.circuits().await.unwrap();
    assert!(Circuit::of_api(&circuits).is_some(), "{circuits:?}");
}

#[tokio::test]
async fn cooldown_holds_for_the_next_run() {
    let bed = Bed::start().await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(60) }).once());
    bed.ask(bed.players(4)).await;
    let options = RunOptions { time_left: Some(seconds(20)), ..RunOptions::default() };
    let report = bed.run_with(options).await;
    assert_eq!(report.stopped_because, StopReason::KeysCoolingDown, "{report:?}");
    assert_eq!((report.throttled, report.failed_requests), (1, 0));
    let calls = bed.simulator.total_calls();
    let report = bed.run().await;
    assert_eq!((report.stopped_because, report.api_requests), (StopReason::KeysCoolingDown, 0), "{report:?}");
    assert_eq!(bed.simulator.total_calls(), calls);
    bed.clock.advance(seconds(61));
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
    assert_eq!(bed.stats().await.ready, 0);
}

#[tokio::test]
async fn other_key_goes_on_during_cooldown() {
    let bed = Bed::with(|_| {}, &["first", "second"]).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(60) }).on_token("first").once());
    bed.ask(bed.players(20)).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
    assert_eq!((report.processed_requests, report.throttled), (20, 1));
    assert_eq!((report.keys_held, report.keys_usable), (2, 1));
}

#[tokio::test]
async fn rejected_key_fails_run_uncounted() {
    let bed = Bed::start().await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::InvalidAuthorization));
    bed.ask(bed.players(10)).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
    assert_eq!(report.failed_requests, 0);
    let stats = bed.stats().await;
    assert_eq!((stats.ready + stats.delayed, stats.leased), (10, 0));
    assert!(report.errors.iter().any(|error| error.contains("key")), "{:?}", report.errors);
    assert!(!format!("{report:?}").contains(TOKEN), "no token in a report");
}

/// Long after the failed run, the runs that are turned away still say that no key is usable; a cooldown never says it.
#[tokio::test]
async fn rejected_keys_show_in_every_run() {
    let bed = Bed::with(|_| {}, &["first", "second"]).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::InvalidAuthorization));
    bed.ask(bed.players(10)).await;
    let report = bed.run().await;
    assert_eq!(
        (report.stopped_because, metric(&report, "keys_usable")),
        (StopReason::NoUsableKey, Some(0)),
        "{report:?}"
    );
    for _ in 0..4 {
        bed.clock.advance(seconds(120));
        let report = bed.run().await;
        assert_eq!((report.stopped_because, report.api_requests), (StopReason::KeysCoolingDown, 0), "{report:?}");
        let shown = (metric(&report, "keys_usable"), metric(&report, "keys_rejected"));
        assert_eq!(shown, (Some(0), Some(2)), "{report:?}");
    }
    bed.clock.advance(seconds(120));
    let report = bed.run().await;
    assert_eq!(
        (report.stopped_because, metric(&report, "keys_usable")),
        (StopReason::NoUsableKey, Some(0)),
        "{report:?}"
    );
}

#[tokio::test]
async fn one_rejected_key_shows_beside_good_one() {
    let bed = Bed::with(|_| {}, &["first", "second"]).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::InvalidAuthorization).on_token("first"));
    for _ in 0..3 {
        bed.ask(bed.players(20)).await;
        let report = bed.run().await;
        assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
        let shown = (metric(&report, "keys_usable"), metric(&report, "keys_rejected"));
        assert_eq!(shown, (Some(1), Some(1)), "{report:?}");
        bed.clock.advance(seconds(120));
    }
}

#[tokio::test]
async fn cooldown_never_counts_as_no_key() {
    let bed = Bed::start().await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(60) }).once());
    bed.ask(bed.players(4)).await;
    let options = RunOptions { time_left: Some(seconds(20)), ..RunOptions::default() };
    for report in [bed.run_with(options).await, bed.run().await] {
        assert_eq!(report.stopped_because, StopReason::KeysCoolingDown, "{report:?}");
        assert_eq!(metric(&report, "keys_usable"), None, "{report:?}");
    }
}

#[tokio::test]
async fn address_ban_fails_the_run() {
    let bed = Bed::start().await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::AddressBan));
    bed.ask(bed.players(3)).await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::NoUsableKey, "{report:?}");
    assert!(report.failure.as_deref().unwrap_or_default().contains("address"), "{report:?}");
    let stats = bed.stats().await;
    assert_eq!((stats.ready + stats.delayed, stats.leased), (3, 0));
}

#[tokio::test]
async fn no_call_is_made_without_database() {
    let bed = Bed::start().await;
    bed.ask(bed.players(3)).await;
    bed.worker.store.close().await;
    let report = bed.run().await;
    assert_eq!(report.stopped_because, StopReason::DatabaseDown, "{report:?}");
    assert_eq!(bed.simulator.total_calls(), 0);
    assert_eq!(bed.stats().await.ready, 3);
}

#[tokio::test]
async fn lost_database_stops_leasing_and_releases() {
    let bed = Bed::start().await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    bed.ask(bed.players(3)).await;
    let go_away = async {
        bed.simulator.wait_until_held(3).await;
        bed.worker.store.close().await;
        bed.ask(bed.clans(20)).await;
        bed.simulator.release();
    };
    let (report, ()) = tokio::join!(bed.run(), go_away);
    assert_eq!(report.stopped_because, StopReason::DatabaseDown, "{report:?}");
    assert_eq!(report.processed_requests, 0);
    assert_eq!(bed.simulator.total_calls(), 3, "{report:?}");
    assert_eq!(bed.stats().await.ready, 23);
}

#[tokio::test]
async fn paused_run_only_queues_named_requests() {
    let bed = Bed::with(|config| config.paused = Some(Pause::RefreshPaused), &[TOKEN]).await;
    bed.ask(bed.players(2)).await;
    let named = vec![ObjectId::clan(bed.simulator.world().clan_tags()[0].clone())];
    let report = bed.run_with(RunOptions { named, ..RunOptions::default() }).await;
    assert_eq!((report.stopped_because, report.enqueued), (StopReason::RefreshPaused, 1));
    assert_eq!(bed.simulator.total_calls(), 0);
    assert_eq!(bed.stats().await.ready, 3);
}

/// Mail that a producer wrote a moment ago.
async fn mail(bed: &Bed, objects: &[ObjectId]) {
    let now = bed.now().await;
    for object in objects {
        let object = object.to_string();
        bed.worker.queue.put_mail(object.as_str(), 1.0, value(&object, 1, now));
    }
}

fn assert_admitted(report: &RunReport, reason: StopReason, mail: u64) {
    assert_eq!((report.stopped_because, report.api_requests), (reason, 0), "{report:?}");
    assert_eq!(report.mail.admitted, mail, "{report:?}");
    let queue = report.queue.as_ref().expect("the queue answers");
    assert_eq!((queue.mailbox, queue.ready_by_priority["high"]), (0, mail), "{report:?}");
}

#[tokio::test]
async fn turned_away_runs_admit_the_mailbox() {
    for pause in [Pause::RefreshPaused, Pause::DisableAutoRefreshQueue] {
        let bed = Bed::with(|config| config.paused = Some(pause), &[TOKEN]).await;
        mail(&bed, &bed.players(3)).await;
        assert_admitted(&bed.run().await, StopReason::RefreshPaused, 3);
    }

    let bed = Bed::start().await;
    let now = bed.now().await;
    let reason = CircuitReason::new(CircuitReason::MAINTENANCE, "as the API says");
    let circuit = Circuit { scope: CircuitScope::Api, since: now, next_probe: now + seconds(30), reason };
    bed.worker.queue.open_circuit(&circuit).await.unwrap();
    mail(&bed, &bed.players(3)).await;
    assert_admitted(&bed.run().await, StopReason::Maintenance, 3);

    let bed = Bed::start().await;
    let key = Fingerprint::of(TOKEN);
    let slot = bed.worker.queue.take_key(&key, "another run", seconds(60)).await.unwrap();
    assert!(matches!(slot, Slot::Taken { .. }));
    mail(&bed, &bed.players(3)).await;
    let began = std::time::Instant::now();
    assert_admitted(&bed.run().await, StopReason::AlreadyRunning, 3);
    assert!(began.elapsed() < seconds(1));

    let bed = Bed::start().await;
    bed.worker.queue.take_key(&key, "another run", seconds(60)).await.unwrap();
    bed.worker.queue.cool_down_key(&key, "another run", "throttled", seconds(60)).await.unwrap();
    mail(&bed, &bed.players(3)).await;
    assert_admitted(&bed.run().await, StopReason::KeysCoolingDown, 3);

    let mut bed = Bed::start().await;
    bed.worker.api.reqs_per_day = NonZeroU64::new(1);
    bed.worker.queue.take_calls(now.midnight(), 1, 1).await.unwrap();
    mail(&bed, &bed.players(3)).await;
    assert_admitted(&bed.run().await, StopReason::DailyQuotaExhausted, 3);
}

#[tokio::test]
async fn turned_away_runs_admit_floods_in_parts() {
    let bed = Bed::with(|config| config.paused = Some(Pause::RefreshPaused), &[TOKEN]).await;
    let objects: Vec<ObjectId> = (0..3000).map(|number| format!("clan:{}", tag(number)).parse().unwrap()).collect();
    mail(&bed, &objects).await;
    let began = std::time::Instant::now();
    let report = bed.run().await;
    assert!(report.mail.admitted >= 1000 && began.elapsed() < seconds(3), "{report:?}");
}

#[tokio::test]
async fn slot_outlives_run_by_one_interval() {
    let mut bed = Bed::start().await;
    bed.worker.api.reqs_per_sec = 1;
    let mut lingered = false;
    // On a machine that stalls at the end of a run the interval may be over by then.
    for _ in 0..10 {
        bed.ask(bed.players(1)).await;
        bed.worker.run(RunOptions::default(), &Unwatched).await;
        let early = bed.another().run(RunOptions::default(), &Unwatched).await;
        lingered = early.stopped_because == StopReason::AlreadyRunning;
        bed.clock.advance(Duration::from_millis(1018));
        if lingered {
            break;
        }
    }
    assert!(lingered, "a fresh limiter could have called at once");
    bed.ask(bed.clans(1)).await;
    let report = bed.another().run(RunOptions::default(), &Unwatched).await;
    assert_eq!(outcomes(&report), [("stored", 1)], "{report:?}");
}
