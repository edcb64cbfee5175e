//! All objects of the simulated API, fetched by the real client.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    api::{ApiClient, FetchTask, KeyPool, SlotStart, judge::SharedJudge},
    clock::{Clock, ServerTime, SystemClock},
    model::{Document, ObjectId, Tag},
    sim::{Census, SimConfig, Simulator},
};
use tokio::time::Instant;

use super::rig::{answered, document, key, outcome};

struct Bed {
    simulator: Simulator,
    client: ApiClient,
    keys: KeyPool,
    time: ServerTime,
}

impl Bed {
    async fn new() -> Self {
        let simulator = Simulator::start(SimConfig { clans: 24, ..SimConfig::default() }).await.unwrap();
        let keys = KeyPool::new(Arc::new(SystemClock), 5_000);
        keys.add(key("token"), None, SlotStart::now(&SystemClock), Duration::from_secs(600));
        let time = ServerTime::new(Arc::new(SystemClock), SystemClock.wall());
        Self { client: ApiClient::new(&simulator.base_url()).unwrap(), simulator, keys, time }
    }

    fn world(&self) -> Census {
        self.simulator.world()
    }

    async fn fetch(&self, object: ObjectId) -> refresh_worker::api::Fetch {
        let ask = FetchTask {
            object: &object,
            league: None,
            first_permit: None,
            keys: &self.keys,
            judge: &SharedJudge::default(),
            time: &self.time,
            until: Instant::now() + Duration::from_secs(30),
            quick_tries: 0,
            earlier: None,
        };
        self.client.fetch(ask).await
    }

    async fn outcomes(&self, tags: &[Tag], object: fn(Tag) -> ObjectId) -> Vec<String> {
        let mut outcomes = Vec::new();
        for tag in tags {
            outcomes.push(outcome(&self.fetch(object(tag.clone())).await));
        }
        outcomes.sort();
        outcomes.dedup();
        outcomes
    }
}

#[tokio::test]
async fn simulated_clans_and_players_are_read() {
    let bed = Bed::new().await;
    let world = bed.world();
    assert_eq!(bed.outcomes(world.clan_tags(), ObjectId::clan).await, ["a clan"]);
    let players: Vec<_> = world.player_tags().iter().take(100).chain(world.clanless_player_tags()).cloned().collect();
    assert_eq!(bed.outcomes(&players, ObjectId::player).await, ["a player"]);
    assert_eq!(bed.outcomes(&[world.unknown_tag()], ObjectId::player).await, ["gone"]);
}

#[tokio::test]
async fn simulated_wars_are_read_our_side_first() {
    let bed = Bed::new().await;
    let world = bed.world();
    for outcome in bed.outcomes(world.clan_tags(), ObjectId::war).await {
        assert!(["a war", "private"].contains(&outcome.as_str()), "{outcome}");
    }
    assert!(!world.in_league().is_empty());
    for tag in world.in_league() {
        let fetched = answered(bed.fetch(ObjectId::war(tag.clone())).await);
        let remembered = fetched.league.clone().and_then(|memory| memory.war_tag);
        let Document::War(war) = document(fetched) else { panic!("not a war") };
        if remembered.is_none() {
            continue; // In an ordinary war too, which comes first.
        }
        assert!(["inWar", "preparation"].contains(&war.state.as_str()), "{}", war.state);
        let json: serde_json::Value = serde_json::from_str(&war.json).unwrap();
        assert_eq!(json["clan"]["tag"], tag.to_string());
        assert_eq!(war.members.len(), json["clan"]["members"].as_array().unwrap().len());
    }
}
