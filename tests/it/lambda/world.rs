//! Everything that one end-to-end test needs: databases of its own, a simulated API, mail in the producer's words.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use refresh_worker::{
    model::{ObjectId, Tag},
    sim::{SimConfig, Simulator},
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::events;
use crate::support::{
    self,
    process::{Invocation, WorkerProcess},
};

/// An API key as long and odd as real ones; also what must never be printed.
pub const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzUxMiJ9.c2VjcmV0LXRva2Vu.x1Y2-z3_Q4";

/// More than any run needs that is not meant to meet its deadline.
pub const PLENTY: Duration = Duration::from_mins(3);

#[derive(Debug)]
pub struct World {
    pub redis_url: String,
    pub database_url: String,
    pub simulator: Simulator,
    /// The API keys that the simulator accepts and that workers have.
    pub tokens: Vec<String>,
}

impl World {
    pub async fn start() -> Self {
        Self::with(SimConfig::default()).await
    }

    pub async fn with(simulator: SimConfig) -> Self {
        let tokens = if simulator.tokens.is_empty() { vec![TOKEN.to_owned()] } else { simulator.tokens.clone() };
        let simulator = Simulator::start(SimConfig { tokens: tokens.clone(), ..simulator }).await;
        Self::around(simulator.expect("the simulator starts"), tokens).await
    }

    /// The other parts for a simulator that runs already.
    pub async fn around(simulator: Simulator, tokens: Vec<String>) -> Self {
        Self {
            redis_url: support::redis::fresh().await,
            database_url: support::postgres::fresh_with_contract().await,
            simulator,
            tokens,
        }
    }

    /// A worker process for these parts. The rate is above a real key's, so that tests are quick.
    pub async fn worker(&self) -> WorkerProcess {
        self.worker_with(&[]).await
    }

    /// A worker process with some variables otherwise.
    pub async fn worker_with(&self, other: &[(&str, &str)]) -> WorkerProcess {
        let base_url = self.simulator.base_url();
        let tokens = self.tokens.join(",");
        let usual = [
            ("REDIS_URL", self.redis_url.as_str()),
            ("DATABASE_URL", &self.database_url),
            ("COC_API_TOKENS", &tokens),
            ("COC_BASE_URL", base_url.as_str()),
            ("COC_REQS_PER_SEC", "200"),
            ("COC_MAX_REQS_PER_SEC", "200"),
            // Nothing follows by itself unless the test wants it, so that calls can be counted.
            ("FOLLOWUP_WARS", "false"),
            ("FOLLOWUP_PLAYERS_PER_CLAN", "0"),
        ];
        WorkerProcess::start("refresh", usual.iter().chain(other).copied()).await
    }

    pub async fn redis(&self) -> MultiplexedConnection {
        support::redis::connect(&self.redis_url).await.expect("Redis answers")
    }

    pub async fn database(&self) -> PgConnection {
        PgConnection::connect(&self.database_url).await.expect("PostgreSQL answers")
    }

    /// Queues a request as the Python producer does, asked five minutes ago. `tag` in any spelling.
    pub async fn mail(&self, kind: &str, tag: &str, priority: u8) {
        let id = format!("{kind}:{tag}");
        let requested_at = python_time(OffsetDateTime::now_utc() - Duration::from_mins(5));
        let value = format!(
            r#"{{"id": "{id}", "type": "{kind}", "tag": "{tag}", "priority": {priority}, "requested_at": "{requested_at}", "last_updated": null, "retry_count": 0}}"#
        );
        self.mail_text(&id, f64::from(priority), &value).await;
    }

    /// Queues whatever text under an id.
    pub async fn mail_text(&self, id: &str, score: f64, value: &str) {
        let mut redis = self.redis().await;
        redis::cmd("ZADD").arg("refresh_queue").arg(score).arg(id).exec_async(&mut redis).await.expect("ZADD");
        redis::cmd("HSET").arg("refresh_requests").arg(id).arg(value).exec_async(&mut redis).await.expect("HSET");
    }

    /// Queues these players and gives their tags.
    pub async fn mail_players(&self, count: usize) -> Vec<Tag> {
        self.mail_more_players(0, count).await
    }

    /// Queues so many players but for the first ones, and gives their tags.
    pub async fn mail_more_players(&self, but: usize, count: usize) -> Vec<Tag> {
        let players: Vec<Tag> = self.simulator.world().player_tags()[but..][..count].to_vec();
        for player in &players {
            self.mail("player", player.as_str(), 2).await;
        }
        players
    }

    /// Queues so many players, two clans and a war, and gives them all.
    pub async fn mail_of_every_kind(&self, players: usize) -> Vec<ObjectId> {
        let census = self.simulator.world();
        let players = census.player_tags()[..players].iter().cloned().map(ObjectId::player);
        let clans = census.clan_tags()[..2].iter().cloned().map(ObjectId::clan);
        let war = census.clans_in_war()[..1].iter().cloned().map(ObjectId::war);
        let objects: Vec<ObjectId> = players.chain(clans).chain(war).collect();
        for object in &objects {
            self.mail(object.kind.as_str(), object.tag.as_str(), 1).await;
        }
        objects
    }

    /// The number of entries in mailbox and queue.
    pub async fn sizes(&self) -> Sizes {
        let mut redis = self.redis().await;
        let mut pipe = redis::pipe();
        for key in ["refresh_queue", "{refresh}:ready", "{refresh}:leased", "{refresh}:dead", "{refresh}:dead_entries"]
        {
            pipe.cmd("ZCARD").arg(key);
        }
        for key in ["refresh_requests", "{refresh}:objects"] {
            pipe.cmd("HLEN").arg(key);
        }
        let [mailbox, ready, leased, dead, unreadable, mailbox_data, objects]: [u64; 7] =
            pipe.query_async(&mut redis).await.expect("Redis answers");
        assert_eq!(mailbox, mailbox_data, "mailbox index and data");
        Sizes { mailbox, ready, leased, dead: dead + unreadable, objects }
    }

    /// Waits until the simulator has seen this many calls.
    pub async fn wait_for_calls(&self, count: u64) {
        let waited = timeout(PLENTY, self.simulator.wait_for_calls(count)).await;
        assert!(waited.is_ok(), "{count} calls were expected, {} came", self.simulator.total_calls());
    }

    /// Waits until this query counts something.
    pub async fn wait_for_rows(&self, query: &'static str) {
        let counted = async {
            while self.count(query).await == 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(PLENTY, counted).await.is_ok(), "nothing is counted by {query}");
    }

    /// Waits until so many calls stand at the simulator's barrier.
    pub async fn wait_until_held(&self, calls: usize) {
        let held = timeout(PLENTY, self.simulator.wait_until_held(calls)).await;
        assert!(held.is_ok(), "{} of {calls} calls came", self.simulator.held());
    }

    /// Lets runs happen until mailbox and queue are empty. What broke before may turn some of them away at first.
    pub async fn drain_with(&self, worker: &mut WorkerProcess) {
        let drained = async {
            while self.sizes().await != Sizes::EMPTY {
                worker.invoke(&events::schedule(), PLENTY).await;
            }
        };
        let drained = timeout(PLENTY, drained).await.is_ok();
        assert!(drained, "still {:?}; the worker wrote:\n{}", self.sizes().await, worker.output());
    }

    /// The number that a query gives.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.database().await).await.expect("the query works")
    }

    /// The simulator's present response to a path below its base URL, apart from the worker's calls.
    pub async fn truth(&self, path: &str) -> String {
        let address = self.simulator.address();
        let mut stream = TcpStream::connect(address).await.expect("the simulator listens");
        let request = format!(
            "GET /v1{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("the simulator reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the simulator answers in UTF-8");
        answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub mailbox: u64,
    pub ready: u64,
    pub leased: u64,
    /// Dead letters of both kinds.
    pub dead: u64,
    pub objects: u64,
}

impl Sizes {
    pub const EMPTY: Self = Self { mailbox: 0, ready: 0, leased: 0, dead: 0, objects: 0 };
}

/// As Python's `datetime.utcnow().isoformat()` writes it.
pub fn python_time(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");
    PrimitiveDateTime::new(time.date(), time.time()).format(format).expect("a time of this century")
}

/// The outcome's count in a response.
pub fn outcome(answer: &Value, name: &str) -> u64 {
    answer["outcomes"][name].as_u64().unwrap_or_else(|| panic!("no outcome {name} in {answer}"))
}

/// Asserts that a run has done this many requests; otherwise prints everything that is known about it.
#[track_caller]
pub fn assert_processed(run: &Invocation, expected: usize) {
    let answer = run.response();
    assert_eq!(answer["processed_requests"], expected, "{answer}\nThe worker wrote:\n{}", run.logs);
}
