//! An application that takes the request, and not every tag in it.

use std::{collections::BTreeSet, time::Duration};

use refresh_worker::{
    config::InvalidationConfig,
    maintenance::invalidate::{Invalidated, Invalidator},
};
use serde_json::json;
use tokio::time::Instant;

use super::application::{Application, Does};
use crate::lambda::{
    events,
    world::{PLENTY, World, assert_processed},
};

async fn invalidate(application: &Application, tags: &[&str]) -> Invalidated {
    let tags: BTreeSet<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    let config = InvalidationConfig { url: application.url().parse().unwrap(), key: None };
    Invalidator::new(&config).unwrap().invalidate(&tags, Instant::now() + Duration::from_secs(20)).await
}

#[tokio::test]
async fn refused_tags_are_retried_alone() {
    let part = Does::Say(207, r#"{"success": false, "failed_tags": ["b"]}"#);
    let application = Application::start([part, part]).await;
    let sum = invalidate(&application, &["a", "b", "c"]).await;
    assert_eq!(sum, Invalidated { tags: 3, requests: 3, lost: 0, failure: None });
    let came: Vec<Vec<String>> = application.came().iter().map(super::application::Came::tags).collect();
    assert_eq!(came, [vec!["a", "b", "c"], vec!["b"], vec!["b"]]);
}

#[tokio::test]
async fn reported_failure_is_lost_after_three_tries() {
    for (body, tags, lost) in [
        (Does::Say(207, ""), 0, 2),
        (Does::Say(200, r#"{"success": false, "error": "no redis"}"#), 0, 2),
        (Does::Say(200, r#"{"success": true, "failed_tags": ["b"]}"#), 1, 1),
    ] {
        let application = Application::start([body; 9]).await;
        let sum = invalidate(&application, &["a", "b"]).await;
        assert_eq!((sum.tags, sum.requests, sum.lost), (tags, 3, lost), "{body:?}");
        assert!(sum.failure.unwrap().contains("3 tries"), "{body:?}");
    }
}

#[tokio::test]
async fn body_names_source_and_request() {
    let application = Application::start([Does::Answer(500)]).await;
    invalidate(&application, &["a"]).await;
    let came = application.came();
    assert_eq!(came[0].body["source"], json!("refresh-worker"));
    assert!(came[0].body["requestId"].as_str().unwrap().len() > 8);
    assert_eq!(came[0].body["requestId"], came[1].body["requestId"], "a try is the same request");
}

#[tokio::test]
async fn run_counts_only_refused_tags_as_lost() {
    let world = World::start().await;
    let players = world.mail_players(5).await;
    let stale: &'static str =
        Box::leak(format!(r#"{{"failed_tags": ["player:{}"]}}"#, players[0].as_str()).into_boxed_str());
    let application = Application::start([Does::Say(207, stale); 200]).await;
    let mut worker = world.worker_with(&[("CACHE_INVALIDATION_URL", &application.url())]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, players.len());
    let caches = &run.response()["caches"];
    assert_eq!((&caches["tags"], &caches["lost"]), (&json!(4), &json!(1)), "{caches}");
}
