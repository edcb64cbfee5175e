//! Runs that are killed in the middle of planned looks.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use refresh_worker::{failpoint, sim::SimConfig};
use serde_json::json;

use super::{
    crash::{SHORT_LEASES, assert_killed_at},
    events,
    evidence::{self, Holdings, assert_all_kept},
    world::{PLENTY, World},
};

/// The failpoints from the claim of a look to its settlement.
fn points() -> impl Iterator<Item = &'static str> {
    let from_claim = failpoint::ALL.into_iter().skip_while(|point| *point != "claim.before");
    from_claim.take_while(|point| *point != "slot.before_give_back")
}

/// The number of worlds at one time.
const AT_ONCE: usize = 8;

/// Time of the last look and of the next one, by object.
type Plan = BTreeMap<String, (Option<String>, String)>;

async fn plan(world: &World) -> Plan {
    let query = "SELECT kind || ':' || tag, looked_at::text, next_look::text FROM refresh_worker.plan";
    let rows: Vec<(String, Option<String>, String)> =
        sqlx::query_as(query).fetch_all(&mut world.database().await).await.expect("our table");
    rows.into_iter().map(|(object, looked_at, next_look)| (object, (looked_at, next_look))).collect()
}

/// A run may be killed at any point of a planned look: no request is lost, no record is left, and the next look stays planned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_look_loses_nothing() {
    assert_eq!(points().count(), 20);
    let kills = stream::iter(points()).map(|point| tokio::spawn(killed_at(point)));
    kills.buffer_unordered(AT_ONCE).for_each(|done| async { done.unwrap() }).await;
}

async fn killed_at(point: &'static str) {
    let world = World::with(SimConfig { clans: 16, ..SimConfig::default() }).await;
    let planner = [("PLANNED_CALLS_PER_SEC", "100"), ("AUTO_MIGRATE", "true"), SHORT_LEASES];
    let known = world.mail_players(25).await;
    // A run with a limit plans nothing, and ends with the queue.
    world.worker_with(&planner).await.invoke(&json!({ "max_requests": 1000 }), PLENTY).await.response();
    let earlier = "UPDATE refresh_worker.refresh_state SET fetched_at = fetched_at - interval '1 hour', fresh_until = fresh_until - interval '1 hour'; \
                   UPDATE refresh_worker.plan SET looked_at = looked_at - interval '1 hour', next_look = now() + random() * interval '4 minutes'";
    sqlx::raw_sql(earlier).execute(&mut world.database().await).await.expect("our tables");
    let before = plan(&world).await;
    assert_eq!(before.len(), known.len(), "each has a place in the plan");

    let failpoint = format!("{point}=kill");
    let settings = [&planner[..], &[("FAILPOINT", &*failpoint), ("COC_REQS_PER_SEC", "15")]].concat();
    let mut doomed = world.worker_with(&settings).await;
    let calls_before = world.simulator.total_calls();
    let run = doomed.invoke(&events::schedule(), PLENTY).await;
    assert_killed_at(point, &run);
    let looked_at = plan(&world).await;
    for (object, (last, next)) in &before {
        let (last_now, next_now) = &looked_at[object];
        assert!(last_now != last || next_now == next, "{point}: {object} was not looked at, and its look has moved");
    }
    let left = Holdings::of(&world).await;
    assert!(left.leased().all(|(_, record)| record.planned), "{point}: {:?}", left.records);
    let leased = left.leased().count();

    // A request that comes now is served like the looks that lapsed, which are ordinary requests of the lowest priority.
    world.mail("player", known[0].as_str(), 1).await;
    let asked = [refresh_worker::model::ObjectId::player(known[0].clone())];
    let mut next = world.worker_with(&[SHORT_LEASES]).await;
    evidence::drain(&world, &mut next).await;
    let (holdings, stored) = (Holdings::of(&world).await, evidence::stored(&world).await);
    assert!(holdings.records.is_empty(), "{point}: {:?}", holdings.records);
    assert_all_kept(point, &asked, (&holdings, &stored, &evidence::doubled(&world).await));
    let calls = usize::try_from(world.simulator.total_calls() - calls_before).unwrap();
    assert!(calls <= known.len() + leased + 1, "{point}: {calls} calls for {} looks", known.len());
}
