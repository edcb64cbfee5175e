//! Many runs at once on one queue: a key is used by one run at a time, and its cap holds over all of them.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use refresh_worker::sim::{Call, SimConfig};
use serde_json::json;

use super::{
    evidence::{self, Holdings, assert_all_kept},
    world::{PLENTY, World},
};

const CAP: usize = 30;

/// Only one run at a time uses a key, and within its cap, whatever the number of runs and keys.
#[tokio::test]
async fn overlapping_runs_never_share_a_key() {
    // The soak tries two, five and ten runs with one, two and five keys each.
    for (runs, keys) in [(2, 1), (5, 2), (10, 5)] {
        overlap(runs, keys).await;
    }
}

/// Runs `runs` workers at once, again and again, each with one key at most, until all is done. Gives the calls made, how
/// often a key went from one worker to another, and the most calls of a key in any second.
pub async fn overlap(runs: usize, keys: usize) -> (usize, usize, usize) {
    let what = format!("{runs} runs, {keys} keys");
    let tokens: Vec<String> = (0..keys).map(|number| format!("key-{number}")).collect();
    let simulator = refresh_worker::sim::Simulator::start_apart(SimConfig {
        clans: 16,
        tokens: tokens.clone(),
        ..SimConfig::default()
    });
    let world = World::around(simulator.unwrap(), tokens.clone()).await;
    let asked = world.mail_of_every_kind(15 * keys).await;
    let mut workers = Vec::new();
    for number in 0..runs {
        let url = world.simulator.base_url().as_str().replace("/v1", &format!("/worker-{number}/v1"));
        let settings = [
            ("COC_REQS_PER_SEC", "30"),
            ("COC_MAX_REQS_PER_SEC", "30"),
            ("KEYS_PER_RUN", "1"),
            ("COC_BASE_URL", &*url),
        ];
        workers.push(world.worker_with(&settings).await);
    }
    let mut runs_with_calls = 0;
    while Holdings::of(&world).await.waiting() > 0 {
        // Short runs, so that keys change hands often.
        let event = json!({ "max_requests": 8 });
        for run in join_all(workers.iter_mut().map(|worker| worker.invoke(&event, PLENTY))).await {
            runs_with_calls += usize::from(run.response()["api_requests"].as_u64().unwrap() > 0);
        }
    }

    let calls = world.simulator.calls();
    assert_eq!(calls.len(), asked.len(), "{what}: nothing is done twice");
    assert_eq!(evidence::calls_over(&calls, CAP), [""; 0], "{what}");
    // Two runs with one key at the same time would take turns more often than there were runs.
    let turns: usize = turns(&calls).values().map(Vec::len).sum();
    assert!(turns <= runs_with_calls, "{what}: {turns} turns of {runs_with_calls} runs: {:?}", self::turns(&calls));
    let (holdings, stored) = (Holdings::of(&world).await, evidence::stored(&world).await);
    assert_all_kept(&what, &asked, (&holdings, &stored, &evidence::doubled(&world).await));
    let busiest = tokens.iter().map(|token| world.simulator.most_in_any_second(token)).max().unwrap_or(0);
    (calls.len(), turns - tokens.len().min(turns), busiest)
}

/// Of each key, which worker used it, in order, and for how many calls on end.
fn turns(calls: &[Call]) -> BTreeMap<&str, Vec<(&str, usize)>> {
    let mut turns: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for call in calls {
        let worker = evidence::caller(call);
        let turns = turns.entry(&call.token).or_default();
        match turns.last_mut() {
            Some((last, calls)) if *last == worker => *calls += 1,
            _ => turns.push((worker, 1)),
        }
    }
    turns
}
