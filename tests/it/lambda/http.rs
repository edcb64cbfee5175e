//! API Gateway: the routes, their responses, their refusals.

use refresh_worker::sim::{Misbehaviour, Rule};
use serde_json::{Value, json};

use super::{
    events,
    world::{PLENTY, World},
};
use crate::support::process::Invocation;

/// Status and JSON body of a proxy response.
fn http_answer(invocation: &Invocation) -> (u64, Value) {
    let answer = invocation.response();
    assert_eq!(answer["isBase64Encoded"], false, "{answer}");
    assert_eq!(answer["headers"]["content-type"], "application/json", "{answer}");
    let body = answer["body"].as_str().unwrap_or_else(|| panic!("the body is text: {answer}"));
    (answer["statusCode"].as_u64().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn post_refresh_drains_and_reports() {
    let world = World::start().await;
    world.mail_players(3).await;
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::http("POST", "/refresh", None), PLENTY).await;
    let (status, body) = http_answer(&run);
    assert_eq!((status, &body["processed_requests"]), (200, &json!(3)), "{body}");
}

#[tokio::test]
async fn post_refresh_takes_options_from_its_body() {
    let world = World::start().await;
    world.mail_players(3).await;
    let mut worker = world.worker().await;

    let run = worker.invoke(&events::post_refresh(&json!({ "max_requests": 1 })), PLENTY).await;
    assert_eq!(http_answer(&run).1["processed_requests"], 1);

    let mut encoded = events::http("POST", "/refresh", Some("eyJtYXhfcmVxdWVzdHMiOiAxfQ==")); // {"max_requests": 1}
    encoded["isBase64Encoded"] = json!(true);
    let run = worker.invoke(&encoded, PLENTY).await;
    assert_eq!(http_answer(&run).1["processed_requests"], 1);
    assert_eq!(world.sizes().await.ready, 1);
}

#[tokio::test]
async fn unknown_option_is_400_with_known_ones() {
    let world = World::start().await;
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::post_refresh(&json!({ "max_request": 1 })), PLENTY).await;
    let (status, body) = http_answer(&run);
    assert_eq!(status, 400);
    let text = body.to_string();
    for option in ["max_request`", "max_requests", "max_runtime", "priority_filter", "requests", "tags"] {
        assert!(text.contains(option), "{option} is missing in {text}");
    }
}

#[tokio::test]
async fn body_without_json_is_400() {
    let world = World::start().await;
    let mut worker = world.worker().await;
    for body in ["{", "[]", "3", "\"text\""] {
        let run = worker.invoke(&events::http("POST", "/refresh", Some(body)), PLENTY).await;
        assert_eq!(http_answer(&run).0, 400, "{body}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_list_known_ones() {
    let world = World::start().await;
    let mut worker = world.worker().await;

    let run = worker.invoke(&events::http("GET", "/queue", None), PLENTY).await;
    let (status, body) = http_answer(&run);
    assert_eq!(status, 404);
    assert!(body.to_string().contains("/refresh") && body.to_string().contains("/health"), "{body}");

    let run = worker.invoke(&events::http("GET", "/refresh", None), PLENTY).await;
    assert_eq!(http_answer(&run).0, 405);
    assert_eq!(run.response()["headers"]["allow"], "POST");

    let run = worker.invoke(&events::http("DELETE", "/health", None), PLENTY).await;
    assert_eq!(http_answer(&run).0, 405);
    assert_eq!(run.response()["headers"]["allow"], "GET, HEAD");
}

#[tokio::test]
async fn health_has_queue_numbers() {
    let world = World::start().await;
    world.mail_players(4).await;
    let mut worker = world.worker().await;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();

    let run = worker.invoke(&events::get_health(), PLENTY).await;
    let (status, body) = http_answer(&run);
    assert_eq!((status, &body["status"], &body["queue_size"]), (200, &json!("healthy"), &json!(4)), "{body}");
    let timestamp = body["timestamp"].as_f64().unwrap();
    assert!(timestamp >= before.floor() && timestamp < before + 600.0, "{timestamp}");

    worker.invoke(&events::schedule(), PLENTY).await.response();
    let run = worker.invoke(&events::get_health(), PLENTY).await;
    assert_eq!(http_answer(&run).1["queue_size"], 0);
}

#[tokio::test]
async fn health_role_needs_no_api_key() {
    let world = World::start().await;
    world.mail_players(2).await;
    let environment = [("REDIS_URL", &world.redis_url), ("DATABASE_URL", &world.database_url)];
    let mut worker = crate::support::process::WorkerProcess::start("health", environment).await;
    let run = worker.invoke(&json!({}), PLENTY).await;
    assert!(run.response().to_string().contains("queue_size"), "{:?}", run.outcome);
}

#[tokio::test]
async fn refresh_without_free_key_is_202() {
    let world = World::start().await;
    world.mail_players(1).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased).times(1));
    let (mut busy, mut other) = (world.worker().await, world.worker().await);
    let running = busy.begin(&events::schedule(), PLENTY).await;
    world.wait_until_held(1).await;

    let clan = world.simulator.world().clan_tags()[0].clone();
    let body = json!({ "requests": [{ "type": "clan", "tag": clan.as_str() }] });
    let run = other.invoke(&events::post_refresh(&body), PLENTY).await;
    let (status, body) = http_answer(&run);
    assert_eq!((status, &body["stopped_because"], &body["enqueued"]), (202, &json!("already_running"), &json!(1)));

    world.simulator.release();
    busy.finish(running).await.response();
    other.invoke(&events::schedule(), PLENTY).await.response();
    assert_eq!(world.simulator.calls_to(&clan.path_segment()).len(), 1);
}
