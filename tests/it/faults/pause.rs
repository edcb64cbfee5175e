//! Runs that are stopped past their leases and key slot, and continued: fenced off from everything.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use refresh_worker::{
    model::Fingerprint,
    queue::record::State,
    sim::{Misbehaviour, Rule, SimConfig},
};
use tokio::time::{sleep, timeout};

use super::{
    events,
    evidence::{self, Holdings},
    world::{PLENTY, TOKEN, World, outcome},
};
use crate::support::process::WorkerProcess;

const SHORT_LEASES: (&str, &str) = ("LEASE_SECONDS", "2");

/// Where a run is stopped; once with its rows locked, which the server undoes after some seconds.
const STOPS: [&str; 9] = [
    "lease.after",
    "freshness.after",
    "permit.after",
    "call.before_send",
    "fetch.answered",
    "commit.before_begin",
    "commit.after_arbiter",
    "settle.before",
    "renew.before",
];

/// Calls that were past the check when the run was stopped, and not on the wire yet.
const PAST_THE_CHECK: usize = 2;

/// Waits until the process wrote this.
async fn wait_until_written(worker: &WorkerProcess, text: &str) {
    let written = async {
        while !worker.output().to_string().contains(text) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PLENTY, written).await.is_ok(), "`{text}` was not written:\n{}", worker.output());
}

#[tokio::test]
async fn a_run_stopped_past_its_leases_and_continued_settles_nothing_overwrites_nothing_and_calls_no_more() {
    stream::iter(STOPS).map(stopped_at).buffer_unordered(4).collect::<()>().await;
}

async fn stopped_at(point: &str) {
    let world = World::with(SimConfig { clans: 16, ..SimConfig::default() }).await;
    let asked = world.mail_of_every_kind(22).await;
    let stop = format!("{point}=stop");
    let settings = [("FAILPOINT", stop.as_str()), SHORT_LEASES, ("COC_REQS_PER_SEC", "20")];
    let mut stopped = world.worker_with(&settings).await;
    let running = stopped.begin(&events::schedule(), PLENTY).await;
    wait_until_written(&stopped, &format!("failpoint {point} reached")).await;
    let held: Vec<_> = Holdings::of(&world).await.leased().map(|(object, _)| object.clone()).collect();
    assert!(!held.is_empty(), "{point}: nothing was leased");

    let mut next = world.worker_with(&[SHORT_LEASES]).await;
    evidence::drain(&world, &mut next).await;
    let stored = evidence::stored(&world).await;
    assert!(asked.iter().all(|object| stored.contains(&object.to_string())), "{point}: {stored:?}");
    // Asked for again, so that there is something to settle wrongly.
    let mail: Vec<_> = asked.iter().filter(|object| held.contains(&object.to_string())).collect();
    for object in &mail {
        world.mail(object.kind.as_str(), object.tag.as_str(), 1).await;
    }
    let (tables, calls) = (evidence::digest(&world).await, world.simulator.total_calls());

    stopped.thaw().await;
    let run = stopped.finish(running).await;
    let answer = run.response();
    let late = usize::try_from(world.simulator.total_calls() - calls).unwrap();
    assert!(late <= PAST_THE_CHECK, "{point}: {late} calls after the slot ran out: {answer}");
    assert!(outcome(answer, "lease_lost") > 0, "{point}: its leases were another's: {answer}");
    assert_eq!(evidence::digest(&world).await, tables, "{point}: newer data is as it was");
}

#[tokio::test]
async fn a_run_that_lost_its_key_calls_no_more_until_the_slot_is_free_and_its_again() {
    let world = World::with(SimConfig { clans: 16, ..SimConfig::default() }).await;
    let prefix = |name: &str| world.simulator.base_url().as_str().replace("/v1", &format!("/{name}/v1"));
    let (first_url, second_url) = (prefix("first"), prefix("second"));
    let players = world.mail_players(5).await;
    // It is stopped when it is about to call for what it leased second. By then five calls were made, the last of which waits
    // for its answer, and none is between the check of the slot and the wire.
    world.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased).after(4));
    let settings = [
        ("FAILPOINT", "freshness.before:2=stop"),
        SHORT_LEASES,
        ("COC_REQS_PER_SEC", "20"),
        ("COC_BASE_URL", &*first_url),
    ];
    let mut first = world.worker_with(&settings).await;
    let first_run = first.begin(&events::schedule(), PLENTY).await;
    world.wait_until_held(1).await;
    let players = [players, world.mail_more_players(5, 55).await].concat();
    wait_until_written(&first, "failpoint freshness.before reached").await;
    let calls_by = |name: &str| world.simulator.calls_to(&format!("/{name}/")).len();

    // The slot of the stopped run ends by itself; then another has it, in the middle of its calls.
    let slot = format!("{{coc-api}}:key:{}", Fingerprint::of(TOKEN).0);
    let mut redis = world.redis().await;
    while redis::cmd("EXISTS").arg(&slot).query_async::<bool>(&mut redis).await.unwrap() {
        sleep(Duration::from_millis(20)).await;
    }
    let before = calls_by("first");
    let mut second = world.worker_with(&[SHORT_LEASES, ("COC_BASE_URL", &second_url)]).await;
    let second_run = second.begin(&events::schedule(), PLENTY).await;
    world.wait_until_held(2).await;

    first.thaw().await;
    wait_until_written(&first, "lost the slot of a key").await;
    assert_eq!(calls_by("first"), before, "another has the key");
    let holder = redis::cmd("GET").arg(&slot).query_async::<String>(&mut redis).await.unwrap();
    assert!(holder.starts_with(second_run.request_id()), "{holder}");
    world.simulator.clear();

    // Both end well: the second with what was left, the first once it had the slot again, or had nothing to do.
    second.finish(second_run).await.response();
    let run = first.finish(first_run).await;
    assert_eq!(run.response()["stopped_because"], "queue_empty", "{}", run.logs);
    let holdings = Holdings::of(&world).await;
    assert!(holdings.records.values().all(|record| record.state == State::Ready), "{holdings:?}");
    let mut third = world.worker_with(&[SHORT_LEASES]).await;
    evidence::drain(&world, &mut third).await;
    assert_eq!(evidence::stored(&world).await.len(), players.len());
    assert_eq!(evidence::doubled(&world).await, [""; 0]);
}

#[tokio::test]
async fn a_run_whose_slot_ran_out_unseen_takes_it_again_and_goes_on() {
    let world = World::with(SimConfig { clans: 16, ..SimConfig::default() }).await;
    let players = world.mail_players(60).await;
    let settings = [("FAILPOINT", "fetch.answered:5=stop"), SHORT_LEASES, ("COC_REQS_PER_SEC", "30")];
    let mut worker = world.worker_with(&settings).await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    wait_until_written(&worker, "failpoint fetch.answered reached").await;
    let slot = format!("{{coc-api}}:key:{}", Fingerprint::of(TOKEN).0);
    let mut redis = world.redis().await;
    while redis::cmd("EXISTS").arg(&slot).query_async::<bool>(&mut redis).await.unwrap() {
        sleep(Duration::from_millis(20)).await;
    }
    worker.thaw().await;

    let run = worker.finish(running).await;
    let answer = run.response();
    assert_eq!(answer["stopped_because"], "queue_empty", "{answer}\n{}", run.logs);
    assert_eq!(Holdings::of(&world).await.records.len(), 0);
    assert_eq!(evidence::stored(&world).await.len(), players.len());
    assert!(world.simulator.most_in_any_second(TOKEN) <= 30);
}
