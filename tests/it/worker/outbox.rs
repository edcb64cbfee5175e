//! The events that are published, over days of a world that goes on.

use std::{collections::BTreeMap, time::Duration};

use refresh_worker::{
    config::{EventsConfig, FollowUpConfig, WorkerConfig},
    model::{Event, ObjectId, Priority},
    queue::memory::MemoryQueue,
};

use super::followups::{Stage, WARS, stage_with};

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn stage_with_events(follow_ups: FollowUpConfig) -> Stage<MemoryQueue> {
    let events = Some(EventsConfig { stream: "refresh_events".to_owned(), max_len: 1_000_000 });
    stage_with(WorkerConfig { follow_ups, events, ..WorkerConfig::default() }, |clock| MemoryQueue::new(clock)).await
}

fn value(event: &Event, name: &str) -> String {
    event.0.iter().find(|(field, _)| *field == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

/// The number of entries of each kind.
fn count(events: &[Event]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(value(event, "event")).or_default() += 1;
    }
    counts
}

async fn number(stage: &Stage<MemoryQueue>, sql: &'static str) -> usize {
    let number: i64 = sqlx::query_scalar(sql).fetch_one(stage.worker.store.pool()).await.unwrap();
    usize::try_from(number).unwrap()
}

#[tokio::test]
async fn war_has_one_start_and_end_event() {
    let stage = stage_with_events(WARS).await;
    let clan = stage.clan_in_preparation();
    stage.ask(&ObjectId::war(clan.clone()), Priority::High).await;
    loop {
        stage.run().await;
        if !stage.sleep_until_due().await {
            break;
        }
    }
    let events = stage.worker.queue.queue.events();
    let counts = count(&events);
    assert_eq!((counts["war_started"], counts["war_ended"]), (1, 1), "{counts:?}");
    assert_eq!(
        counts["changed"],
        number(&stage, "select count(*) from war_snapshots").await,
        "one for each history row"
    );
    let started = events.iter().find(|event| value(event, "event") == "war_started").unwrap();
    assert_eq!(value(started, "tag"), clan.as_str());
    assert!(value(started, "starts") < value(started, "at") && value(started, "at") < value(started, "ends"));
    let fields: Vec<String> = events.iter().skip(1).map(|event| value(event, "fields")).collect();
    assert!(fields.iter().any(|fields| fields.contains("\"clan\"")), "attacks change a side: {fields:?}");
}

/// The first member list of a clan makes no event.
#[tokio::test]
async fn member_events_follow_the_memberships() {
    let stage = stage_with_events(FollowUpConfig::NONE).await;
    let clans: Vec<ObjectId> = stage.simulator.world().clan_tags().iter().cloned().map(ObjectId::clan).collect();
    let mut first = 0;
    for round in 0..12 {
        for clan in &clans {
            stage.ask(clan, Priority::High).await;
        }
        stage.run().await;
        if round == 0 {
            first = stage.worker.queue.queue.events().len();
            assert_eq!(count(&stage.worker.queue.queue.events()).get("joined"), None);
        }
        stage.clock.advance(2 * HOUR);
    }
    let events = stage.worker.queue.queue.events();
    let counts = count(&events);
    let left = number(&stage, "select count(*) from clan_memberships where left_at is not null").await;
    let opened = number(
        &stage,
        "select count(*) from clan_memberships as m where m.joined_at > (select min(s.ts) from clan_snapshots as s \
         where s.clan_tag = m.clan_tag)",
    )
    .await;
    println!("in a day of 32 clans: {left} left, {opened} joined, {} entries", events.len());
    assert!(left > 10 && opened > 10, "something happens: {left}, {opened}");
    assert_eq!((counts["left"], counts["joined"]), (left, opened));
    assert_eq!(first, clans.len(), "first documents");
    let mut ids: Vec<String> = events.iter().map(|event| value(event, "id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "no entry twice");
}
