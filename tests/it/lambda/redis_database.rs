//! A database number in `REDIS_URL`, while producers write to database 0.

use super::{
    events,
    world::{PLENTY, World},
};
use crate::support::{process::Invocation, redis::PrivateRedis};

fn warnings(run: &Invocation) -> Vec<String> {
    let is_ours = |line: &serde_json::Value| line.to_string().contains("take the database number out of REDIS_URL");
    run.logs.logs("WARN").iter().filter(|line| is_ours(line)).map(ToString::to_string).collect()
}

#[tokio::test]
async fn entries_in_database_0_are_a_warning() {
    let server = PrivateRedis::start().await;
    let mut world = World::start().await;
    world.redis_url = server.url();
    world.mail_players(3).await;
    let database_3 = server.database_url(3);
    let mut worker = world.worker_with(&[("REDIS_URL", database_3.as_str())]).await;
    for _ in 0..2 {
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        assert_eq!(run.response()["mail_in_database_0"], 3, "{:?}", run.outcome);
        assert_eq!(warnings(&run).len(), 1, "{}", run.logs);
        assert!(warnings(&run)[0].contains("3 entries"), "{}", run.logs);
        assert_eq!(run.logs.metrics()[0]["mail_in_database_0"], 3);
    }
    // A run that finds mail where it looks has none to warn about.
    world.redis_url.clone_from(&database_3);
    world.mail_players(1).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response()["processed_requests"], 1);
    assert!(warnings(&run).is_empty(), "{}", run.logs);
}

#[tokio::test]
async fn no_warning_without_entries_elsewhere() {
    let server = PrivateRedis::start().await;
    let mut world = World::start().await;
    world.redis_url = server.database_url(3);
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert!(warnings(&run).is_empty(), "{}", run.logs);
    assert!(run.logs.metrics()[0].get("mail_in_database_0").is_none());
}
