//! Many keys, in one run and spread over several: each within its own cap, all of them used.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use refresh_worker::{
    api::client::ApiClient,
    sim::{SimConfig, Simulator},
    worker::{RunOptions, Runs as _, Unwatched, report::StopReason},
};

use super::bed::Bed;

const CAP: u32 = 10;
const KEYS: [&str; 5] = ["key-1", "key-2", "key-3", "key-4", "key-5"];
const PLAYERS: usize = 150;

/// A simulator of its own thread, so that what it sees of the rate does not depend on what we are busy with.
async fn bed() -> Bed {
    let mut bed = Bed::with(|_| {}, &KEYS).await;
    let tokens = KEYS.map(str::to_owned).to_vec();
    bed.simulator = Simulator::start_apart(SimConfig { tokens, ..SimConfig::default() }).unwrap();
    bed.worker.api.client = ApiClient::new(&bed.simulator.base_url()).unwrap();
    bed.worker.api.reqs_per_sec = CAP;
    bed.ask(bed.players(PLAYERS)).await;
    bed
}

/// Each key was used for its share and never beyond its cap.
fn assert_spread(bed: &Bed) {
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for call in bed.simulator.calls() {
        *calls.entry(call.token).or_default() += 1;
    }
    for key in KEYS {
        let most = bed.simulator.most_in_any_second(key);
        assert!(most <= CAP as usize, "{key}: {most} calls in one second");
        let share = calls.get(key).copied().unwrap_or_default();
        assert!((PLAYERS / 10..=PLAYERS / 3).contains(&share), "{key} has {share} of {PLAYERS} calls: {calls:?}");
    }
}

#[tokio::test]
async fn five_runs_share_five_keys() {
    let mut bed = bed().await;
    bed.worker.api.keys_per_run = Some(1);
    let mut workers = vec![bed.another(), bed.another(), bed.another(), bed.another()];
    for worker in &mut workers {
        (worker.api.keys_per_run, worker.api.reqs_per_sec) = (Some(1), CAP);
    }
    let runs = workers.iter().chain([&bed.worker]).map(|worker| worker.run(RunOptions::default(), &Unwatched));
    let reports = join_all(runs).await;
    assert!(reports.iter().all(|report| report.keys_held == 1), "{reports:?}");
    assert!(reports.iter().all(|report| report.stopped_because == StopReason::QueueEmpty), "{reports:?}");
    assert_eq!(reports.iter().map(|report| report.processed_requests).sum::<u64>(), PLAYERS as u64, "{reports:?}");
    assert_spread(&bed);
}

#[tokio::test]
async fn one_run_uses_five_keys() {
    let bed = bed().await;
    let report = bed.run().await;
    assert_eq!((report.keys_held, report.processed_requests), (5, PLAYERS as u64), "{report:?}");
    assert_spread(&bed);
}
