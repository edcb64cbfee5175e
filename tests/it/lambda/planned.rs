//! Planned looks in the real binary, over real servers.

use std::time::Duration;

use serde_json::json;

use super::{
    events,
    world::{PLENTY, World},
};
use crate::support::redis::PrivateRedis;

const PLANNER: [(&str, &str); 2] = [("PLANNED_CALLS_PER_SEC", "100"), ("AUTO_MIGRATE", "true")];

/// Stores so many players, as if that had been an hour ago.
async fn known_players(world: &World, count: usize) {
    world.mail_players(count).await;
    // A run with a limit plans nothing, and ends with the queue.
    world.worker_with(&PLANNER).await.invoke(&json!({ "max_requests": 1000 }), PLENTY).await.response();
    let earlier = "UPDATE refresh_worker.refresh_state SET fetched_at = fetched_at - interval '1 hour', \
                   fresh_until = fresh_until - interval '1 hour'; \
                   UPDATE refresh_worker.plan SET looked_at = looked_at - interval '1 hour', next_look = now()";
    sqlx::raw_sql(earlier).execute(&mut world.database().await).await.expect("our tables");
}

/// Planned looks last until the end of a run, so what follows a run goes beside them.
#[tokio::test]
async fn maintenance_is_done_beside_planned_looks() {
    let world = World::start().await;
    known_players(&world, 12).await;
    let view =
        "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS players FROM players; CREATE UNIQUE INDEX ON v (players)";
    sqlx::raw_sql(view).execute(&mut world.database().await).await.expect("a view");
    let settings = [&PLANNER[..], &[("REFRESH_VIEWS", "v"), ("DEADLINE_BUFFER_MS", "2000")]].concat();
    let mut worker = world.worker_with(&settings).await;
    let run = worker.invoke(&events::schedule(), Duration::from_secs(7)).await;
    let report = run.response();
    assert_eq!((&report["stopped_because"], &report["planned"]["looks"]), (&json!("deadline"), &json!(12)), "{report}");
    assert_eq!(
        (report["views"][0]["success"].as_bool(), report["views"].as_array().map(Vec::len)),
        (Some(true), Some(1)),
        "{report}"
    );
}

/// A slow pace leaves Redis alone in between.
#[tokio::test]
async fn slow_pace_asks_the_queue_rarely() {
    // A server of its own, since its scripts are counted.
    let server = PrivateRedis::start().await;
    let world = World { redis_url: server.url(), ..World::start().await };
    known_players(&world, 40).await;
    let settings = [("PLANNED_CALLS_PER_SEC", "5"), ("AUTO_MIGRATE", "true"), ("DEADLINE_BUFFER_MS", "1000")];
    let mut worker = world.worker_with(&settings).await;
    let before = scripts_called(&world).await;
    let run = worker.invoke(&events::schedule(), Duration::from_secs(5)).await;
    let looks = run.response()["planned"]["looks"].as_u64().unwrap();
    let scripts = scripts_called(&world).await - before;
    // Four times a second: the mailbox, a lease, a claim, a settlement.
    assert!((10..=25).contains(&looks) && scripts <= 90, "{scripts} scripts for {looks} looks in 4 s");
}

/// The scripts that Redis has run so far.
async fn scripts_called(world: &World) -> u64 {
    let text: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut world.redis().await).await.expect("Redis answers");
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

/// The caller waits for the objects that it named, so nothing else is looked at.
#[tokio::test]
async fn api_gateway_request_plans_nothing() {
    let world = World::start().await;
    known_players(&world, 5).await;
    let before = world.simulator.total_calls();
    let mut worker = world.worker_with(&PLANNER).await;
    let run = worker.invoke(&events::post_refresh(&json!({})), PLENTY).await;
    let body = run.response()["body"].as_str().expect("a body").to_owned();
    let report: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&report["stopped_because"], world.simulator.total_calls()),
        (&json!("queue_empty"), before),
        "{report}"
    );
}

/// Off means off: no statement names a table of the planner.
#[tokio::test]
async fn planner_that_is_off_needs_no_tables() {
    let world = World::start().await;
    known_players(&world, 3).await;
    let drop =
        "DROP TABLE refresh_worker.plan, refresh_worker.plan_level, refresh_worker.plan_walk, refresh_worker.looks";
    sqlx::raw_sql(drop).execute(&mut world.database().await).await.expect("our tables");
    world.mail_more_players(3, 2).await;
    world.mail("clan", world.simulator.world().clan_tags()[0].as_str(), 1).await;
    let run = world.worker().await.invoke(&events::schedule(), PLENTY).await;
    let report = run.response();
    assert_eq!(
        (&report["processed_requests"], &report["stopped_because"]),
        (&json!(3), &json!("queue_empty")),
        "{report}"
    );
    assert_eq!((&report["planned"], &report["errors"]), (&json!(null), &json!([])), "{report}");
}
