//! What follows a commit, with the binary on real servers: follow-ups, events for a consumer group, readers' keys.

use std::{collections::BTreeMap, time::Duration};

use redis::aio::MultiplexedConnection;
use refresh_worker::sim::SimConfig;
use sqlx::AssertSqlSafe;

use super::{
    events,
    world::{PLENTY, World, assert_processed},
};

const STREAM: &str = "refresh_events";

/// Entries that a group hands to one consumer: id in the stream, and fields.
type Entries = Vec<(String, BTreeMap<String, String>)>;

async fn read_group(redis: &mut MultiplexedConnection, consumer: &str, from: &str) -> Entries {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg("push").arg(consumer).arg("COUNT").arg(1000).arg("STREAMS").arg(STREAM).arg(from);
    let answer: Option<Vec<(String, Entries)>> = command.query_async(redis).await.unwrap();
    answer.unwrap_or_default().into_iter().flat_map(|(_, entries)| entries).collect()
}

async fn acknowledge(redis: &mut MultiplexedConnection, entries: &Entries) -> usize {
    let ids: Vec<&str> = entries.iter().map(|(id, _)| id.as_str()).collect();
    redis::cmd("XACK").arg(STREAM).arg("push").arg(&ids).query_async(redis).await.unwrap()
}

#[tokio::test]
async fn a_consumer_group_reads_every_change_once_and_again_after_its_own_crash() {
    let world = World::with(SimConfig { evolve: 3600.0, ..SimConfig::default() }).await;
    let mut redis = world.redis().await;
    let create = redis::cmd("XGROUP").arg("CREATE").arg(STREAM).arg("push").arg("0").arg("MKSTREAM").to_owned();
    create.exec_async(&mut redis).await.unwrap();
    let mut worker = world.worker_with(&[("REFRESH_EVENTS_STREAM", STREAM)]).await;
    let objects = world.mail_of_every_kind(5).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, objects.len());
    assert_eq!(run.response()["events"], objects.len(), "{}", run.response());

    // One consumer reads and dies before it acknowledges; it finds its entries again.
    let read = read_group(&mut redis, "one", ">").await;
    let mut told: Vec<String> = read.iter().map(|(_, entry)| format!("{}:{}", entry["kind"], entry["tag"])).collect();
    let mut expected: Vec<String> = objects.iter().map(ToString::to_string).collect();
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert!(read.iter().all(|(_, entry)| entry["event"] == "changed" && entry["new"].len() == 64));
    assert!(read_group(&mut redis, "two", ">").await.is_empty(), "nobody else gets them");
    let again = read_group(&mut redis, "one", "0").await;
    assert_eq!(again, read);
    assert_eq!(acknowledge(&mut redis, &again).await, read.len());

    // The world goes on: changes name their fields and both hashes, and the hash of before is that of the entry before.
    let before: BTreeMap<String, String> =
        read.iter().map(|(_, entry)| (format!("{}:{}", entry["kind"], entry["tag"]), entry["new"].clone())).collect();
    let clan = objects.iter().find(|object| object.to_string().starts_with("clan:")).unwrap();
    let mut changes = Entries::new();
    for _ in 0..50 {
        world.simulator.expire_copies();
        sqlx::query("UPDATE refresh_worker.refresh_state SET fetched_at = fetched_at - interval '1 hour', fresh_until = fetched_at - interval '1 hour'")
            .execute(&mut world.database().await)
            .await
            .unwrap();
        world.mail("clan", clan.tag.as_str(), 0).await;
        worker.invoke(&events::schedule(), PLENTY).await.response();
        changes = read_group(&mut redis, "one", ">").await;
        changes.retain(|(_, entry)| entry["event"] == "changed");
        if !changes.is_empty() {
            break;
        }
    }
    let (_, change) = &changes[0];
    assert_eq!(change["old"], before[&clan.to_string()], "{change:?}");
    let fields: Vec<String> = serde_json::from_str(&change["fields"]).unwrap();
    assert!(!fields.is_empty() && fields.len() < 20 && !fields.contains(&"tag".to_owned()), "{fields:?}");
}

#[tokio::test]
async fn the_keys_of_readers_are_deleted_when_what_they_hold_is_old() {
    let world = World::start().await;
    let mut redis = world.redis().await;
    let census = world.simulator.world();
    let (clan, player) = (census.clan_tags()[0].clone(), census.player_tags()[0].clone());
    let keys = [
        format!("snapshot:clan:{}", clan.as_str()),
        format!("snapshot:player:{}", player.as_str()),
        format!("snapshot:war:{}", clan.as_str()),
        "snapshot:clan:2PP".to_owned(),
    ];
    for key in &keys {
        redis::cmd("SET").arg(key).arg("old").exec_async(&mut redis).await.unwrap();
    }
    let templates = ("CACHE_KEY_TEMPLATES", "snapshot:clan:{tag},snapshot:player:{tag}");
    let mut worker = world.worker_with(&[templates]).await;
    world.mail("clan", clan.as_str(), 1).await;
    world.mail("player", player.as_str(), 1).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 2);
    let left: Vec<bool> = {
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("EXISTS").arg(key);
        }
        pipe.query_async(&mut redis).await.unwrap()
    };
    assert_eq!(left, [false, false, true, true], "a war of that clan and another clan are not concerned");
    assert_eq!(run.response()["cache_keys_deleted"], 2);
}

#[tokio::test]
async fn a_stream_that_cannot_be_written_fails_no_request_and_is_told_later() {
    let world = World::start().await;
    let mut redis = world.redis().await;
    redis::cmd("SET").arg(STREAM).arg("not a stream").exec_async(&mut redis).await.unwrap();
    let mut worker = world.worker_with(&[("REFRESH_EVENTS_STREAM", STREAM), ("LEASE_SECONDS", "2")]).await;
    world.mail_players(3).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 3);
    assert_eq!(run.response()["events"], 0);
    assert!(run.response()["errors"].to_string().contains("could not be told"), "{}", run.response());

    redis::cmd("DEL").arg(STREAM).exec_async(&mut redis).await.unwrap();
    while world.count("SELECT count(*) FROM refresh_worker.outbox").await > 0 {
        // Not before it is older than a lease, as it might be another run's that is under way.
        worker.invoke(&events::schedule(), PLENTY).await.response();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let entries: u64 = redis::cmd("XLEN").arg(STREAM).query_async(&mut redis).await.unwrap();
    assert_eq!((entries, world.simulator.total_calls()), (3, 3), "each change, and no call is made again");
}

#[tokio::test]
async fn what_the_stream_refuses_is_given_up_after_a_day_and_not_before() {
    let world = World::start().await;
    let mut redis = world.redis().await;
    redis::cmd("SET").arg(STREAM).arg("not a stream").exec_async(&mut redis).await.unwrap();
    let mut worker = world.worker_with(&[("REFRESH_EVENTS_STREAM", STREAM)]).await;
    world.mail_players(3).await;
    assert_processed(&worker.invoke(&events::schedule(), PLENTY).await, 3);
    let untold = "SELECT count(*) FROM refresh_worker.outbox";
    let notes = world.count(untold).await;
    assert!(notes > 0);
    for (hours, left) in [(2, notes), (23, 0)] {
        let older = format!("UPDATE refresh_worker.outbox SET stored_at = stored_at - interval '{hours} hours'");
        sqlx::query(AssertSqlSafe(older)).execute(&mut world.database().await).await.unwrap();
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        assert_eq!(world.count(untold).await, left, "{hours} hours later: {}", run.response());
        let errors = run.response()["errors"].to_string();
        assert_eq!(errors.contains("is given up"), left == 0, "{errors}");
    }
}

#[tokio::test]
async fn a_stream_is_trimmed() {
    let world = World::start().await;
    let mut redis = world.redis().await;
    let settings = [("REFRESH_EVENTS_STREAM", STREAM), ("REFRESH_EVENTS_MAXLEN", "100")];
    let mut worker = world.worker_with(&settings).await;
    world.mail_players(400).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response()["events"], 400);
    let length: u64 = redis::cmd("XLEN").arg(STREAM).query_async(&mut redis).await.unwrap();
    assert!((100..=250).contains(&length), "about a hundred are kept: {length}");
}

#[tokio::test]
async fn a_clan_and_a_war_lead_to_what_is_worth_asking_for_next() {
    let world = World::start().await;
    let mut worker = world.worker_with(&[("FOLLOWUP_WARS", "true"), ("FOLLOWUP_PLAYERS_PER_CLAN", "3")]).await;
    let census = world.simulator.world();
    let clan = census.clan_tags()[0].clone();
    let war = census.preparation()[0].clone();
    world.mail("clan", clan.as_str(), 1).await;
    world.mail("war", war.as_str(), 1).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&run, 5);
    assert_eq!(run.response()["followups"], 4, "three members and one look: {}", run.response());
    let mut redis = world.redis().await;
    let waiting: Vec<String> =
        redis::cmd("ZRANGE").arg("{refresh}:delayed:critical").arg(0).arg(-1).query_async(&mut redis).await.unwrap();
    assert_eq!(waiting, [format!("war:{}", war.as_str())]);
    // Nothing is due: the next run has nothing to do, and the look is still one.
    let idle = worker.invoke(&events::schedule(), PLENTY).await;
    assert_processed(&idle, 0);
    assert_eq!(run.response()["queue_size"], 0);
}
