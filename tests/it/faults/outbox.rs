//! Runs that are killed around their commits: what was stored is published, to the stream, readers' keys and the application,
//! however the run ended.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use redis::aio::MultiplexedConnection;
use refresh_worker::{
    model::{Kind, ObjectId, Tag},
    sim::SimConfig,
};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::timeout;

use super::{
    crash::{SHORT_LEASES, assert_killed_at},
    events,
    evidence::{Holdings, published_events},
    world::{PLENTY, World, assert_processed},
};
use crate::{maintenance::application::Application, support::process::WorkerProcess};

/// The failpoint of the kill. With `true`, the same is requested once more before the next run, which has to call again and
/// finds what is stored already.
const KILLS: [(&str, bool); 6] = [
    ("commit.before_commit", false),
    ("commit.after_commit", false),
    ("commit.after_commit", true),
    ("settle.before", true),
    ("settle.after", false),
    ("slot.before_give_back", false),
];

/// The next run publishes what a killed run had stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbox_of_killed_run_is_relayed() {
    let kills = stream::iter(KILLS).map(|(point, again)| tokio::spawn(killed_and_relayed(point, again)));
    kills.buffer_unordered(KILLS.len()).for_each(|done| async { done.unwrap() }).await;
}

async fn killed_and_relayed(point: &'static str, asked_again: bool) {
    let stage = Stage::set().await;
    let before = stage.published().await;
    stage.ask_again().await;
    let expected = stage.let_things_happen().await;
    stage.fill_caches().await;

    let mut doomed = stage.worker(Some(&format!("{point}=kill"))).await;
    let run = doomed.invoke(&events::schedule(), PLENTY).await;
    assert_killed_at(point, &run);
    if asked_again {
        stage.ask_again().await;
    }
    let mut next = stage.worker(None).await;
    stage.drain(&mut next).await;

    let published = stage.published().await;
    let new: BTreeMap<&String, &BTreeMap<String, String>> =
        published.iter().filter(|(id, _)| !before.contains_key(*id)).collect();
    let names: BTreeSet<String> = new.values().map(|event| format!("{} {}", event["event"], event["tag"])).collect();
    assert_eq!(names, expected, "{point}, asked again {asked_again}");
    assert_eq!(new.len(), expected.len(), "{point}: each under one id: {new:?}");
    let change = new.values().find(|event| event["event"] == "changed").unwrap();
    assert!(change.contains_key("old") && change.contains_key("fields"), "{point}: nothing of it is lost: {change:?}");
    assert_eq!(stage.copies_left().await, 0, "{point}: readers keep no old copies");
    let war = stage.war.to_string();
    let tags = stage.application.tags();
    let changed = tags.iter().filter(|tag| **tag == war).count();
    assert!(changed >= 2, "{point}: the application invalidated both states of the war: {tags:?}");
    assert_eq!(stage.polls().await, [war], "{point}: one next poll of the war");
}

/// A world in which everything was stored and published once.
struct Stage {
    world: World,
    application: Application,
    objects: Vec<ObjectId>,
    clan: Tag,
    war: ObjectId,
}

impl Stage {
    async fn set() -> Self {
        let world = World::with(SimConfig { clans: 16, ..SimConfig::default() }).await;
        let objects = world.mail_of_every_kind(4).await;
        let of_kind = |kind| objects.iter().find(|object| object.kind == kind).unwrap().clone();
        let (clan, war) = (of_kind(Kind::Clan).tag, of_kind(Kind::War));
        let stage = Self { application: Application::start([]).await, world, objects, clan, war };
        let mut worker = stage.worker(None).await;
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        assert_processed(&run, stage.objects.len());
        assert_eq!(stage.published().await.len(), stage.objects.len(), "first documents");
        stage
    }

    async fn worker(&self, failpoint: Option<&str>) -> WorkerProcess {
        let url = self.application.url();
        let settings = [
            ("REFRESH_EVENTS_STREAM", "refresh_events"),
            ("CACHE_KEY_TEMPLATES", "snapshot:{kind}:{tag}"),
            ("CACHE_INVALIDATION_URL", url.as_str()),
            ("FOLLOWUP_WARS", "true"),
            SHORT_LEASES,
        ];
        let failpoint = failpoint.map(|order| ("FAILPOINT", order));
        self.world.worker_with(&settings.into_iter().chain(failpoint).collect::<Vec<_>>()).await
    }

    /// Requests everything once more, after the stored copies have become too old for it.
    async fn ask_again(&self) {
        self.sql(
            "UPDATE refresh_worker.refresh_state SET fetched_at = fetched_at - interval '1 hour', \
             fresh_until = fetched_at - interval '1 hour', member_at = member_at - interval '1 hour'",
        )
        .await;
        self.world.simulator.expire_copies();
        for object in &self.objects {
            self.world.mail(object.kind.as_str(), object.tag.as_str(), 1).await;
        }
    }

    /// As if a member had come, another had left, and the war had begun since the last poll. Returns the events to be published.
    async fn let_things_happen(&self) -> BTreeSet<String> {
        let clan = self.clan.as_str();
        let query =
            format!("SELECT player_tag FROM clan_memberships WHERE clan_tag = '{clan}' AND left_at IS NULL LIMIT 1");
        let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut self.world.database().await).await.unwrap();
        let (came, left): (String, &str) = (row.get(0), "2PPQQ");
        self.sql(&format!("DELETE FROM clan_memberships WHERE player_tag = '{came}'")).await;
        self.sql(&format!(
            "INSERT INTO clan_memberships (player_tag, clan_tag, joined_at) VALUES ('{left}', '{clan}', '2020-01-01')"
        ))
        .await;
        let war = self.war.tag.as_str();
        self.sql(&format!(
            "UPDATE war_snapshots SET data = replace(data::text, '\"inWar\"', '\"preparation\"')::json WHERE clan_tag = '{war}'"
        ))
        .await;
        self.sql("UPDATE refresh_worker.refresh_state SET content_hash = '\\x00' WHERE kind = 'war'").await;
        let published =
            [format!("joined {came}"), format!("left {left}"), format!("changed {war}"), format!("war_started {war}")];
        published.into()
    }

    async fn fill_caches(&self) {
        let mut redis = self.world.redis().await;
        for key in self.copies() {
            redis::cmd("SET").arg(key).arg("old").exec_async(&mut redis).await.unwrap();
        }
    }

    fn copies(&self) -> impl Iterator<Item = String> {
        self.objects.iter().map(|object| format!("snapshot:{object}"))
    }

    async fn copies_left(&self) -> usize {
        let mut command = redis::cmd("EXISTS");
        for key in self.copies() {
            command.arg(key);
        }
        command.query_async(&mut self.redis().await).await.unwrap()
    }

    /// Runs until nothing waits but the next poll of the war, and the outbox is empty.
    async fn drain(&self, worker: &mut WorkerProcess) {
        let drained = async {
            loop {
                worker.invoke(&events::schedule(), PLENTY).await.response();
                let unpublished = self.world.count("SELECT count(*) FROM refresh_worker.outbox").await;
                if unpublished == 0 && Holdings::of(&self.world).await.waiting() == 0 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        assert!(timeout(PLENTY, drained).await.is_ok(), "still {:?}", Holdings::of(&self.world).await);
    }

    async fn published(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        published_events(&mut self.redis().await).await
    }

    async fn polls(&self) -> Vec<String> {
        let mut polls = Vec::new();
        for class in ["critical", "high"] {
            let mut command = redis::cmd("ZRANGE");
            command.arg(format!("{{refresh}}:delayed:{class}")).arg(0).arg(-1);
            polls.extend(command.query_async::<Vec<String>>(&mut self.redis().await).await.unwrap());
        }
        polls
    }

    async fn redis(&self) -> MultiplexedConnection {
        self.world.redis().await
    }

    async fn sql(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.world.database().await).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}
