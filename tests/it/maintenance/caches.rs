//! Cache invalidation over real HTTP, with an endpoint that fails in each way.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use refresh_worker::{
    config::InvalidationConfig,
    maintenance::invalidate::{Invalidated, Invalidator},
};
use tokio::time::Instant;

use super::application::{Application, Does};
use crate::lambda::{
    events,
    world::{PLENTY, World, assert_processed},
};

const KEY: &str = "internal-key-of-the-application";

fn invalidator(url: &str) -> Invalidator {
    Invalidator::new(&InvalidationConfig { url: url.parse().unwrap(), key: Some(KEY.into()) }).unwrap()
}

async fn invalidate(url: &str, tags: &[&str], time: Duration) -> Invalidated {
    let tags: BTreeSet<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    invalidator(url).invalidate(&tags, Instant::now() + time).await
}

const TIME: Duration = Duration::from_secs(20);

#[tokio::test]
async fn tags_are_posted_in_batches_with_key() {
    let application = Application::start([]).await;
    let tags: BTreeSet<String> = (0..250).map(|number| format!("player:{number:03}")).collect();
    let sum = invalidator(&application.url()).invalidate(&tags, Instant::now() + TIME).await;
    assert_eq!(sum, Invalidated { tags: 250, requests: 3, lost: 0, failure: None });
    let came = application.came();
    assert_eq!(came.iter().map(|came| came.tags().len()).collect::<Vec<_>>(), [100, 100, 50]);
    assert_eq!(application.tags(), tags.into_iter().collect::<Vec<_>>());
    for came in came {
        assert_eq!(came.headers["authorization"], format!("Bearer {KEY}"));
        assert_eq!(came.headers["x-api-key"], KEY);
        assert_eq!(came.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn passing_failure_is_retried() {
    // Side by side, since each waits between its tries.
    join_all([500, 503, 404, 429].map(|status| async move {
        let application = Application::start([Does::Answer(status), Does::Answer(status)]).await;
        let sum = invalidate(&application.url(), &["clan:2PP"], TIME).await;
        assert_eq!(sum, Invalidated { tags: 1, requests: 3, lost: 0, failure: None }, "{status}");
    }))
    .await;
}

#[tokio::test]
async fn tags_are_lost_after_three_tries() {
    let application = Application::start([Does::Answer(502); 9]).await;
    let sum = invalidate(&application.url(), &["clan:2PP", "war:2PP"], TIME).await;
    assert_eq!((sum.tags, sum.requests, sum.lost), (0, 3, 2));
    let failure = sum.failure.unwrap();
    assert!(failure.contains("502") && failure.contains("3 tries") && !failure.contains(KEY), "{failure}");
}

#[tokio::test]
async fn final_failure_is_tried_once_with_hint() {
    for (trouble, hint) in [
        (Does::Answer(401), "INTERNAL_API_KEY"),
        (Does::Answer(403), "INTERNAL_API_KEY"),
        (Does::Answer(400), "400"),
        (Does::Redirect, "redirect"),
    ] {
        let application = Application::start([trouble]).await;
        let sum = invalidate(&application.url(), &["clan:2PP"], TIME).await;
        assert_eq!((sum.requests, sum.lost), (1, 1), "{trouble:?}");
        assert!(sum.failure.unwrap().contains(hint), "{trouble:?}");
        assert_eq!(application.came().len(), 1, "a redirect is not followed");
    }
}

#[tokio::test]
async fn silence_and_closed_port_end_in_time() {
    let application = Application::start([Does::Silence; 9]).await;
    let began = Instant::now();
    let sum = invalidate(&application.url(), &["clan:2PP"], Duration::from_millis(400)).await;
    assert_eq!((sum.tags, sum.lost), (0, 1));
    assert!(sum.failure.unwrap().contains("no response"), "silence");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());

    let sum = invalidate("http://127.0.0.1:1/", &["clan:2PP"], TIME).await;
    assert_eq!((sum.requests, sum.lost), (3, 1), "{sum:?}");
    let sum = invalidate("http://127.0.0.1:1/", &["clan:2PP"], Duration::ZERO).await;
    assert_eq!((sum.requests, sum.failure.unwrap().contains("no time")), (0, true));
}

#[tokio::test]
async fn run_invalidates_only_changed_objects() {
    let world = World::start().await;
    let application = Application::start([]).await;
    let url = application.url();
    let objects = world.mail_of_every_kind(4).await;
    let mut worker =
        world.worker_with(&[("NEXT_PUBLIC_APP_URL", &url), ("INTERNAL_API_KEY", KEY), ("LOG_LEVEL", "trace")]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, objects.len());
    let mut expected: Vec<String> = objects.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(application.tags(), expected);
    assert_eq!(application.came()[0].path, "/api/internal/cache/invalidate");
    assert_eq!(run.response()["caches"]["tags"], expected.len());
    assert_eq!(run.logs.metrics()[0]["cache_tags_invalidated"], expected.len());
    assert!(!run.logs.to_string().contains(KEY), "the key is never printed");

    // The same again is unchanged or fresh: nothing is invalidated.
    world.mail_players(4).await;
    worker.invoke(&events::schedule(), PLENTY).await.response();
    assert_eq!(application.tags().len(), expected.len());
}

#[tokio::test]
async fn unreachable_application_fails_no_refresh() {
    let world = World::start().await;
    let players = world.mail_players(5).await;
    let mut worker = world.worker_with(&[("CACHE_INVALIDATION_URL", "http://127.0.0.1:1/tags")]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    assert_eq!(run.response()["caches"]["lost"], players.len());
    assert_eq!(run.logs.metrics()[0]["cache_tags_lost"], players.len());
    assert!(
        run.logs
            .logs("WARN")
            .iter()
            .any(|line| line["message"].as_str().unwrap().contains("caches: cannot invalidate"))
    );
}
