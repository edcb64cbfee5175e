//! Runs that are killed, at every failpoint and by what they fetch.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use futures_util::{StreamExt as _, stream};
use refresh_worker::{failpoint, queue::MAX_LAPSES, sim::SimConfig};
use serde_json::Value;

use super::{
    events,
    evidence::{self, Holdings, assert_all_kept},
    world::{PLENTY, World},
};
use crate::support::process::{Invocation, Outcome};

const LEASE: Duration = Duration::from_secs(2);
pub const SHORT_LEASES: (&str, &str) = ("LEASE_SECONDS", "2");

/// The number of worlds at one time.
const AT_ONCE: usize = 8;

/// The process killed itself at the given failpoint.
#[track_caller]
pub fn assert_killed_at(point: &str, run: &Invocation) {
    let killed = matches!(run.outcome, Outcome::Exited(status) if status.signal() == Some(9));
    let reached = run.logs.stderr.contains(&format!("failpoint {point} reached"));
    assert!(killed && reached, "{point} was not reached: {:?}\n{}", run.outcome, run.logs);
}

/// A run may be killed at any point: no request is lost, and nothing is stored twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_run_loses_and_repeats_nothing() {
    // Only planned looks are claimed: `planned`.
    let points = failpoint::ALL.into_iter().filter(|point| !point.starts_with("claim."));
    let kills = stream::iter(points).map(|point| tokio::spawn(killed_at(point)));
    kills.buffer_unordered(AT_ONCE).for_each(|done| async { done.unwrap() }).await;
}

async fn killed_at(point: &'static str) {
    let world = World::with(SimConfig { clans: 16, ..SimConfig::default() }).await;
    let asked = world.mail_of_every_kind(22).await;
    // Slow enough for a renewal of leases on the way.
    let settings = [("FAILPOINT", &*format!("{point}=kill")), SHORT_LEASES, ("COC_REQS_PER_SEC", "20")];
    let mut doomed = world.worker_with(&settings).await;
    let run = doomed.invoke(&events::schedule(), PLENTY).await;
    assert_killed_at(point, &run);

    let left = Holdings::of(&world).await;
    let leased = left.leased().count();
    for (object, record) in left.leased() {
        assert!(record.expires.unwrap() <= left.at + LEASE, "{point}: {object} is not free again after a lease time");
    }

    let mut next = world.worker_with(&[SHORT_LEASES]).await;
    let runs = evidence::drain(&world, &mut next).await;
    let lapsed: u64 = runs.iter().filter_map(|run| run["lapsed"].as_u64()).sum();
    assert_eq!(lapsed, leased as u64, "{point}: what the killed run had leased is leased again");
    let (holdings, stored) = (Holdings::of(&world).await, evidence::stored(&world).await);
    assert_all_kept(point, &asked, (&holdings, &stored, &evidence::doubled(&world).await));
    let calls = usize::try_from(world.simulator.total_calls()).unwrap();
    assert!(calls <= asked.len() + leased, "{point}: {calls} calls for {} requests, {leased} leased", asked.len());
}

/// A request that kills its process ends as a dead letter, and its neighbours are stored.
#[tokio::test]
async fn deadly_request_becomes_dead_letter() {
    let world = World::with(SimConfig { clans: 16, ..SimConfig::default() }).await;
    let mut asked = world.mail_of_every_kind(12).await;
    let killer = asked.remove(3);
    let settings = [("FAILPOINT", &*format!("fetch.answered@{}=kill", killer.tag)), SHORT_LEASES];

    let mut deaths = 0;
    let mut worker = world.worker_with(&settings).await;
    while Holdings::of(&world).await.waiting() > 0 {
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        match run.outcome {
            Outcome::Exited(_) => {
                assert_killed_at("fetch.answered", &run);
                deaths += 1;
                assert!(deaths <= MAX_LAPSES, "a crash loop");
                worker = world.worker_with(&settings).await;
            }
            // Turned away until the slot of the killed run has run out, or done.
            _ => drop::<&Value>(run.response()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let holdings = Holdings::of(&world).await;
    assert_eq!(deaths, MAX_LAPSES);
    assert_eq!(holdings.lapsed().into_iter().collect::<Vec<_>>(), [killer.to_string()]);
    let stored = evidence::stored(&world).await;
    let rest = Holdings {
        records: holdings.records.into_iter().filter(|(name, _)| *name != killer.to_string()).collect(),
        ..holdings
    };
    assert_all_kept("beside a killer", &asked, (&rest, &stored, &evidence::doubled(&world).await));
    assert!(!stored.contains(&killer.to_string()));
}
