//! The main job: an event wakes the worker, and what was asked for is in the database.

use serde_json::{Value, json};

use super::{
    events,
    world::{PLENTY, Sizes, World, assert_processed, outcome},
};
use crate::support::redis::PrivateRedis;

#[tokio::test]
async fn a_schedule_event_drains_a_mixed_queue_and_the_rows_are_right() {
    let world = World::start().await;
    let census = world.simulator.world();
    let clan = census.clan_tags()[0].clone();
    let at_war = census.clans_in_war()[0].clone();
    let player = census.clanless_player_tags()[0].clone();
    // One clan in two spellings is one clan.
    world.mail("clan", clan.as_str(), 2).await;
    world.mail("clan", &clan.to_string().to_lowercase(), 0).await;
    world.mail("player", &player.to_string(), 1).await;
    world.mail("war", at_war.as_str(), 0).await;
    world.mail("player", census.unknown_tag().as_str(), 3).await;
    world.mail("village", clan.as_str(), 1).await;
    world.mail_text("broken", 0.0, "{not json").await;

    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let answer = run.response();

    assert_eq!(answer["stopped_because"], "queue_empty", "{answer}");
    assert_eq!(answer["processed_requests"], 4, "{answer}");
    assert_eq!((outcome(answer, "stored"), outcome(answer, "gone")), (3, 1), "{answer}");
    assert_eq!(answer["mail"]["unreadable"], 2, "{answer}");
    assert_eq!(answer["queue_size"], 0, "{answer}");
    assert_eq!(answer["api_requests"], world.simulator.total_calls(), "{answer}");
    assert_eq!(world.sizes().await, Sizes { dead: 2, objects: 2, ..Sizes::EMPTY });

    let calls_of_worker = world.simulator.total_calls();
    let document = world.truth(&format!("/clans/{}", clan.path_segment())).await;
    assert_eq!(
        stored(&world, "SELECT data::text, deep_link FROM clans WHERE tag = $1", clan.as_str()).await,
        [(with_link(&document, "OpenClanProfile", clan.as_str()), link("OpenClanProfile", clan.as_str()))]
    );
    let document = world.truth(&format!("/players/{}", player.path_segment())).await;
    assert_eq!(
        stored(&world, "SELECT data::text, deep_link FROM players WHERE tag = $1", player.as_str()).await,
        [(with_link(&document, "OpenPlayerProfile", player.as_str()), link("OpenPlayerProfile", player.as_str()))]
    );
    let document = world.truth(&format!("/clans/{}/currentwar", at_war.path_segment())).await;
    let war = "SELECT data::text, clan_tag::text FROM war_snapshots WHERE clan_tag = $1";
    let rows = stored(&world, war, at_war.as_str()).await;
    assert_eq!(rows.len(), 1);
    assert!(rows[0].0.starts_with(document.trim_end_matches('}')), "{}", rows[0].0);
    assert_eq!(calls_of_worker, 4, "one call for the two spellings");

    // The readers' question about freshness.
    let fresh = "SELECT count(*) FROM clan_snapshots
        WHERE ts BETWEEN (now() AT TIME ZONE 'UTC') - interval '10 minutes' AND (now() AT TIME ZONE 'UTC')";
    assert_eq!(world.count(fresh).await, 1);
}

#[tokio::test]
async fn mail_is_read_in_every_form_that_producers_write() {
    let world = World::start().await;
    let tags = world.simulator.world().player_tags().to_vec();
    let mail = [
        (r#""requested_at": "2026-03-04T05:06:07", "last_updated": null"#, 0),
        (r#""requested_at": "2026-03-04T05:06:07.000089", "last_updated": "2026-03-04T04:06:07.000089""#, 1),
        (r#""requested_at": "2026-03-04T05:06:07+00:00", "last_updated": null"#, 2),
        (r#""requested_at": "2026-03-04T05:06:07.000089+00:00", "last_updated": "2026-03-04T04:06:07""#, 3),
        // The old worker's way to say "not before".
        (r#""requested_at": "2999-01-01T00:00:00", "last_updated": null"#, 3),
    ];
    for ((times, priority), tag) in mail.iter().zip(&tags) {
        let id = format!("player:{}-retry-2", tag.as_str());
        let tag = tag.as_str();
        let value = format!(
            r#"{{"id": "{id}", "type": "player", "tag": "{tag}", "priority": {priority}, {times}, "retry_count": 2}}"#
        );
        world.mail_text(&id, f64::from(*priority), &value).await;
    }
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!((&run.response()["processed_requests"], &run.response()["delayed"]), (&json!(4), &json!(1)));
    assert!(world.simulator.calls_to(&tags[4].path_segment()).is_empty());
}

#[tokio::test]
async fn the_first_mail_that_a_new_redis_sees_is_drained_at_once() {
    let redis = PrivateRedis::start().await;
    let mut world = World::start().await;
    world.redis_url = redis.url();
    let mut worker = world.worker().await;
    // An empty run teaches the server some of the queue's scripts and not the others.
    worker.invoke(&events::schedule(), PLENTY).await.response();
    let players = world.mail_players(4).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
}

#[tokio::test]
async fn a_clan_brings_its_members_and_their_memberships() {
    let world = World::start().await;
    let clan = largest_clan(&world).await;
    world.mail("clan", &clan, 1).await;

    let mut worker = world.worker().await;
    worker.invoke(&events::schedule(), PLENTY).await.response();

    let document: Value = serde_json::from_str(&world.truth(&format!("/clans/%23{clan}")).await).unwrap();
    let members = i64::try_from(document["memberList"].as_array().unwrap().len()).unwrap();
    assert!(members > 0);
    assert_eq!(world.count("SELECT count(*) FROM clan_memberships WHERE left_at IS NULL").await, members);
    assert_eq!(world.count("SELECT count(*) FROM players WHERE clan_tag <> ''").await, members);
    assert_eq!(world.count("SELECT member_count::bigint FROM clan_snapshots").await, members);
}

#[tokio::test]
async fn events_of_rules_and_schedules_are_runs() {
    let world = World::start().await;
    let mut worker = world.worker().await;
    let events = [events::scheduler_default(), events::rule(&json!({})), events::rule(&Value::Null), json!({})];
    for (event, player) in events.iter().zip(world.simulator.world().player_tags()) {
        world.mail("player", player.as_str(), 1).await;
        let run = worker.invoke(event, PLENTY).await;
        assert_processed(&run, 1);
    }
}

#[tokio::test]
async fn an_empty_queue_is_an_empty_run_without_a_call() {
    let world = World::start().await;
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let answer = run.response();
    assert_eq!(answer["stopped_because"], "queue_empty", "{answer}");
    assert_eq!((&answer["processed_requests"], &answer["api_requests"]), (&json!(0), &json!(0)));
    assert_eq!(world.simulator.total_calls(), 0);
}

#[tokio::test]
async fn options_of_an_event_and_of_its_detail_bound_the_run() {
    let world = World::start().await;
    world.mail_players(6).await;
    let mut worker = world.worker().await;

    let run = worker.invoke(&json!({ "max_requests": 2 }), PLENTY).await;
    assert_eq!(run.response()["stopped_because"], "max_requests");
    assert_eq!(world.simulator.total_calls(), 2);

    let run = worker.invoke(&events::rule(&json!({ "max_requests": 1 })), PLENTY).await;
    assert_processed(&run, 1);
    assert_eq!(world.simulator.total_calls(), 3);
    assert_eq!(world.sizes().await.ready, 3);
}

#[tokio::test]
async fn a_priority_filter_leaves_the_other_classes_where_they_are() {
    let world = World::start().await;
    let players = world.simulator.world().player_tags().to_vec();
    for (priority, player) in (0..4).zip(&players) {
        world.mail("player", player.as_str(), priority).await;
    }
    let mut worker = world.worker().await;
    let run = worker.invoke(&json!({ "priority_filter": ["critical", "low"] }), PLENTY).await;
    assert_processed(&run, 2);
    assert_eq!(world.simulator.calls_to(&players[0].path_segment()).len(), 1);
    assert_eq!(world.simulator.calls_to(&players[3].path_segment()).len(), 1);
    assert_eq!(world.sizes().await.ready, 2);
}

#[tokio::test]
async fn named_objects_are_refreshed_as_critical() {
    let world = World::start().await;
    world.mail_players(5).await;
    let clan = world.simulator.world().clan_tags()[0].clone();
    let mut worker = world.worker().await;
    let event = json!({ "requests": [{ "type": "clan", "tag": clan.to_string() }], "priority_filter": ["critical"] });
    let run = worker.invoke(&event, PLENTY).await;
    assert_eq!(run.response()["enqueued"], 1);
    assert_eq!(world.simulator.calls_to(&clan.path_segment()).len(), 1);
    assert_eq!(world.simulator.total_calls(), 1);
}

#[tokio::test]
async fn unknown_options_are_refused_with_the_known_ones() {
    let world = World::start().await;
    world.mail_players(1).await;
    let mut worker = world.worker().await;
    let run = worker.invoke(&json!({ "max_request": 1 }), PLENTY).await;
    let told = format!("{:?}", run.outcome);
    for option in ["max_request`", "max_requests", "max_runtime", "priority_filter", "requests", "tags"] {
        assert!(told.contains(option), "{option} is missing in {told}");
    }
    assert_eq!(world.simulator.total_calls(), 0);
}

#[tokio::test]
async fn a_second_run_finds_what_is_fresh_already() {
    let world = World::start().await;
    let players = world.mail_players(3).await;
    let mut worker = world.worker().await;
    worker.invoke(&events::schedule(), PLENTY).await.response();
    for player in &players {
        world.mail("player", player.as_str(), 2).await;
    }
    let again = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(outcome(again.response(), "fresh"), 3);
    assert_eq!(world.simulator.total_calls(), 3);
    assert_eq!(world.sizes().await, Sizes::EMPTY);
}

/// The tag of a clan with members.
async fn largest_clan(world: &World) -> String {
    let mut largest = (0, String::new());
    for clan in world.simulator.world().clan_tags() {
        let document: Value =
            serde_json::from_str(&world.truth(&format!("/clans/{}", clan.path_segment())).await).unwrap();
        largest = largest.max((document["members"].as_u64().unwrap(), clan.to_string()));
    }
    largest.1.trim_start_matches('#').to_owned()
}

async fn stored(world: &World, query: &'static str, tag: &str) -> Vec<(String, String)> {
    sqlx::query_as(query).bind(tag).fetch_all(&mut world.database().await).await.unwrap()
}

/// The document as received, with the one key that readers look for at its end.
fn with_link(document: &str, action: &str, tag: &str) -> String {
    format!(r#"{},"deep_link":"{}"}}"#, document.strip_suffix('}').unwrap(), link(action, tag))
}

fn link(action: &str, tag: &str) -> String {
    format!("https://link.clashofclans.com/en?action={action}&tag=%23{tag}")
}
