//! A run that failed leaves a trace that health shows, whichever server was down; and no answer over HTTP names a server.

use serde_json::{Value, json};

use super::{
    events,
    world::{PLENTY, World, assert_processed},
};
use crate::support::{
    process::{Invocation, WorkerProcess},
    proxy::{Mode, Proxy},
};

fn body(run: &Invocation) -> (u64, Value) {
    let answer = run.response();
    (answer["statusCode"].as_u64().unwrap(), serde_json::from_str(answer["body"].as_str().unwrap()).unwrap())
}

async fn health(worker: &mut WorkerProcess) -> (u64, Value) {
    let run = worker.invoke(&events::get_health(), PLENTY).await;
    body(&run)
}

/// The names that are nobody's business: of the tests' servers and roles.
fn assert_names_nobody(told: &Value, urls: &[&str]) {
    let told = told.to_string();
    for url in urls {
        let url = url::Url::parse(url).unwrap();
        let port = url.port().unwrap().to_string();
        let database = url.path().trim_start_matches('/').to_owned();
        for name in [url.host_str().unwrap(), &port, url.username(), &database] {
            assert!(name.len() < 3 || !told.contains(name), "{name} in {told}");
        }
    }
}

#[tokio::test]
async fn run_without_database_is_in_health() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.database_url).await;
    let direct = std::mem::replace(&mut world.database_url, url.clone());
    world.mail_players(2).await;
    let mut worker = world.worker().await;
    let good = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&good, 2);
    let (status, told) = health(&mut worker).await;
    assert_eq!((status, &told["last_failed_run"]), (200, &Value::Null), "{told}");
    assert_eq!(told["last_good_run"]["run"], good.request_id, "{told}");

    proxy.set(Mode::Refuse);
    let failed = worker.invoke(&events::schedule(), PLENTY).await;
    failed.error();
    let (status, told) = health(&mut worker).await;
    assert_eq!((status, &told["database"]), (503, &json!("not answering")), "{told}");
    assert_eq!(told["last_good_run"]["run"], good.request_id, "{told}");
    let last = &told["last_failed_run"];
    assert_eq!(
        (&last["run"], &last["stopped_because"]),
        (&json!(failed.request_id), &json!("database_down")),
        "{told}"
    );
    assert!(last["error"].as_str().unwrap().starts_with("the database cannot be used"), "{told}");
    assert_names_nobody(&told, &[&url, &direct, &world.redis_url]);

    proxy.set(Mode::Pass);
    let (status, told) = health(&mut worker).await;
    assert_eq!((status, &told["last_failed_run"]["run"]), (200, &json!(failed.request_id)), "{told}");
    assert_eq!(told["last_run"]["run"], good.request_id, "as the database has it: {told}");
}

#[tokio::test]
async fn run_without_redis_is_in_database() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.redis_url).await;
    let direct = std::mem::replace(&mut world.redis_url, url.clone());
    let mut worker = world.worker().await;
    let good = worker.invoke(&events::schedule(), PLENTY).await;
    good.response();
    proxy.set(Mode::Refuse);
    let failed = worker.invoke(&events::schedule(), PLENTY).await;
    failed.error();
    let (status, told) = health(&mut worker).await;
    assert_eq!((status, &told["queue"], &told["queue_size"]), (503, &json!("not answering"), &Value::Null), "{told}");
    assert_eq!(told["last_good_run"]["run"], good.request_id, "{told}");
    assert_eq!(told["last_failed_run"]["run"], failed.request_id, "{told}");
    assert_eq!(told["last_failed_run"]["stopped_because"], "queue_down", "{told}");
    assert_names_nobody(&told, &[&url, &direct, &world.database_url]);
    proxy.set(Mode::Pass);
    assert_eq!(health(&mut worker).await.0, 200);
}

#[tokio::test]
async fn failed_refresh_names_server_in_log_only() {
    let mut world = World::start().await;
    let (database, database_url) = Proxy::in_front_of(&world.database_url).await;
    let (redis, redis_url) = Proxy::in_front_of(&world.redis_url).await;
    let direct = [world.database_url.clone(), world.redis_url.clone()];
    (world.database_url, world.redis_url) = (database_url.clone(), redis_url.clone());
    let mut worker = world.worker().await;
    for (proxy, reason, url) in [(&database, "database_down", &database_url), (&redis, "queue_down", &redis_url)] {
        proxy.set(Mode::Refuse);
        let run = worker.invoke(&events::post_refresh(&json!({ "tags": ["2PP"] })), PLENTY).await;
        let (status, told) = body(&run);
        assert_eq!((status, &told["stopped_because"]), (503, &json!(reason)), "{told}");
        assert_names_nobody(&told, &[&direct[0], &direct[1], &database_url, &redis_url]);
        let request = run.request_id.as_str();
        assert!(told["message"].as_str().unwrap().contains(request), "{told}");
        let port = url::Url::parse(url).unwrap().port().unwrap().to_string();
        let log = run.logs.logs("ERROR");
        assert!(log.iter().any(|line| line["request_id"] == request && line.to_string().contains(&port)), "{log:?}");
        proxy.set(Mode::Pass);
    }
}

#[tokio::test]
async fn head_of_health_has_status_of_get() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.redis_url).await;
    world.redis_url = url;
    let mut worker = world.worker().await;
    for (mode, status) in [(Mode::Pass, 200), (Mode::Refuse, 503)] {
        proxy.set(mode);
        let run = worker.invoke(&events::http("HEAD", "/health", None), PLENTY).await;
        assert_eq!((&run.response()["statusCode"], &run.response()["body"]), (&json!(status), &json!("")));
    }
}
