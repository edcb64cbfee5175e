//! A run that failed leaves a trace that health shows, whichever server was down; and no response over HTTP names a server.

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
fn assert_names_nobody(shown: &Value, urls: &[&str]) {
    let shown = shown.to_string();
    for url in urls {
        let url = url::Url::parse(url).unwrap();
        let port = url.port().unwrap().to_string();
        let database = url.path().trim_start_matches('/').to_owned();
        for name in [url.host_str().unwrap(), &port, url.username(), &database] {
            assert!(name.len() < 3 || !shown.contains(name), "{name} in {shown}");
        }
    }
}

/// While the database is down, and afterwards.
#[tokio::test]
async fn run_without_database_is_in_health() {
    let mut world = World::start().await;
    let (proxy, url) = Proxy::in_front_of(&world.database_url).await;
    let direct = std::mem::replace(&mut world.database_url, url.clone());
    world.mail_players(2).await;
    let mut worker = world.worker().await;
    let good = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&good, 2);
    let (status, shown) = health(&mut worker).await;
    assert_eq!((status, &shown["last_failed_run"]), (200, &Value::Null), "{shown}");
    assert_eq!(shown["last_good_run"]["run"], good.request_id, "{shown}");

    proxy.set(Mode::Refuse);
    let failed = worker.invoke(&events::schedule(), PLENTY).await;
    failed.error();
    let (status, shown) = health(&mut worker).await;
    assert_eq!((status, &shown["database"]), (503, &json!("not answering")), "{shown}");
    assert_eq!(shown["last_good_run"]["run"], good.request_id, "{shown}");
    let last = &shown["last_failed_run"];
    assert_eq!(
        (&last["run"], &last["stopped_because"]),
        (&json!(failed.request_id), &json!("database_down")),
        "{shown}"
    );
    assert!(last["error"].as_str().unwrap().starts_with("the database cannot be used"), "{shown}");
    assert_names_nobody(&shown, &[&url, &direct, &world.redis_url]);

    proxy.set(Mode::Pass);
    let (status, shown) = health(&mut worker).await;
    assert_eq!((status, &shown["last_failed_run"]["run"]), (200, &json!(failed.request_id)), "{shown}");
    assert_eq!(shown["last_run"]["run"], good.request_id, "as the database has it: {shown}");
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
    let (status, shown) = health(&mut worker).await;
    assert_eq!(
        (status, &shown["queue"], &shown["queue_size"]),
        (503, &json!("not answering"), &Value::Null),
        "{shown}"
    );
    assert_eq!(shown["last_good_run"]["run"], good.request_id, "{shown}");
    assert_eq!(shown["last_failed_run"]["run"], failed.request_id, "{shown}");
    assert_eq!(shown["last_failed_run"]["stopped_because"], "queue_down", "{shown}");
    assert_names_nobody(&shown, &[&url, &direct, &world.database_url]);
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
        let (status, shown) = body(&run);
        assert_eq!((status, &shown["stopped_because"]), (503, &json!(reason)), "{shown}");
        assert_names_nobody(&shown, &[&direct[0], &direct[1], &database_url, &redis_url]);
        let request = run.request_id.as_str();
        assert!(shown["message"].as_str().unwrap().contains(request), "{shown}");
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
