//! Failures of the API that do not end: every kind of bad response, for all calls of a run.

use std::{collections::BTreeMap, time::Duration};

use refresh_worker::{
    model::Fingerprint,
    queue::{QueueAdmin, SharedState, Slot},
    sim::{Misbehaviour, Rule},
    worker::RunOptions,
};

use super::bed::{Bed, TOKEN, seconds};

/// More than opens the circuit.
const REQUESTS: usize = 30;

/// The allowed outcomes of a request when every response is like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Given back, nothing counted: it was not the request's fault.
    Kept,
    /// It would be the same again.
    Dead,
    /// Answered for good.
    Done,
}

const TABLE: [(Misbehaviour, Fate); 24] = [
    (Misbehaviour::Throttled { retry_after: None }, Fate::Kept),
    (Misbehaviour::Throttled { retry_after: Some(2) }, Fate::Kept),
    (Misbehaviour::InvalidIp, Fate::Kept),
    (Misbehaviour::InvalidAuthorization, Fate::Kept),
    (Misbehaviour::AddressBan, Fate::Kept),
    (Misbehaviour::OtherForbidden, Fate::Kept),
    (Misbehaviour::PrivateWarLog, Fate::Kept),
    (Misbehaviour::NotFound, Fate::Done),
    (Misbehaviour::BadRequest, Fate::Dead),
    (Misbehaviour::Status500, Fate::Kept),
    (Misbehaviour::UnknownException, Fate::Kept),
    (Misbehaviour::Status502, Fate::Kept),
    (Misbehaviour::Status504, Fate::Kept),
    (Misbehaviour::Maintenance, Fate::Kept),
    (Misbehaviour::MaintenanceHtml, Fate::Kept),
    (Misbehaviour::CutBeforeHeaders, Fate::Kept),
    (Misbehaviour::CutMidBody, Fate::Kept),
    (Misbehaviour::Truncated, Fate::Kept),
    (Misbehaviour::WrongJson, Fate::Kept),
    (Misbehaviour::NotJson, Fate::Kept),
    (Misbehaviour::WrongTag, Fate::Kept),
    (Misbehaviour::HugeBody(6 << 20), Fate::Kept),
    (Misbehaviour::DeepJson, Fate::Kept),
    (Misbehaviour::LyingContentType, Fate::Done),
];

/// No request is lost, whatever the responses are, and none is charged for the API's failures.
#[tokio::test]
async fn no_bad_response_loses_a_request() {
    for (what, fate) in TABLE {
        let bed = Bed::start().await;
        bed.ask(bed.players(REQUESTS)).await;
        bed.simulator.misbehave(Rule::new(what.clone()));
        let report = bed.run_with(short()).await;
        let stats = bed.stats().await;
        let held = (stats.ready + stats.delayed, stats.dead_letters, report.processed_requests);
        let all = REQUESTS as u64;
        let expected = match fate {
            Fate::Kept => (all, 0, 0),
            Fate::Dead => (0, all, 0),
            Fate::Done => (0, 0, all),
        };
        assert_eq!(held, expected, "{what:?}: {report:?}");
        assert_eq!(stats.leased, 0, "{what:?}: {report:?}");
        assert_eq!(attempts(&bed).await.into_iter().collect::<Vec<_>>(), kept_uncharged(fate), "{what:?}: {report:?}");
        assert_eq!(bed.simulator.total_calls(), report.api_requests, "{what:?}: every call is counted");

        // The trouble ends, and so do the longest cooldown, hold and circuit: what was kept is stored at the first try.
        bed.simulator.clear();
        bed.clock.advance(seconds(11 * 60));
        let after = bed.run_with(RunOptions::default()).await;
        if fate == Fate::Kept {
            assert_eq!(after.outcomes["stored"], all, "{what:?}: {after:?}");
        }
    }
}

/// No call is made while the key cools down.
#[tokio::test]
async fn storm_of_429_lowers_the_rate() {
    const RATE: u32 = 10;
    const REFUSED: u32 = 3;
    let mut bed = Bed::start().await;
    bed.worker.api.reqs_per_sec = RATE;
    bed.ask(bed.players(5)).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::Throttled { retry_after: Some(1) }).times(REFUSED));
    let clock = bed.clock.clone();
    let time_passes = tokio::spawn(async move {
        let step = Duration::from_millis(10);
        loop {
            tokio::time::sleep(step).await;
            clock.advance(step);
        }
    });
    let report = bed.run_with(RunOptions { time_left: Some(seconds(60)), ..RunOptions::default() }).await;
    assert_eq!((report.outcomes["stored"], report.failed_requests), (5, 0), "{report:?}");
    time_passes.abort();
    assert_eq!(report.throttled, u64::from(REFUSED), "{report:?}");

    // However long this machine stood still before the refusal was heard, at this rate one call at most was due meanwhile.
    let calls = bed.simulator.calls();
    for refused in calls.iter().filter(|call| call.status == Some(429)) {
        let resting = refused.at..refused.at + seconds(1);
        let more = calls.iter().filter(|call| call.at > refused.at && resting.contains(&call.at)).count();
        assert!(more <= 1, "{more} more calls after the refusal at {:?}: {calls:?}", refused.at);
    }
    bed.clock.advance(seconds(1));
    let slot = bed.worker.queue.take_key(&Fingerprint::of(TOKEN), "the next run", seconds(15)).await.unwrap();
    let Slot::Taken { aimd_state: Some(rate) } = slot else { panic!("the next run knows of no rate: {slot:?}") };
    assert!(rate.rate <= f64::from(RATE) / 2.0, "{rate:?}");
}

fn short() -> RunOptions {
    RunOptions { time_left: Some(seconds(15)), ..RunOptions::default() }
}

/// The number of waiting requests by their attempts.
async fn attempts(bed: &Bed) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for exported in bed.worker.queue.export(bed.now().await).await.expect("memory answers") {
        let value: serde_json::Value = serde_json::from_str(&exported.value).expect("the producer's JSON");
        *counts.entry(value["retry_count"].as_u64().expect("a count")).or_default() += 1;
    }
    counts
}

fn kept_uncharged(fate: Fate) -> Vec<(u64, usize)> {
    if fate == Fate::Kept { vec![(0, REQUESTS)] } else { Vec::new() }
}
