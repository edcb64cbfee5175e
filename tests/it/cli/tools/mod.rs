//! Operators' tools over real servers: the binary as a person runs it, and what is in Redis before and after.

mod backup;
mod dead;
mod explain;
mod migrate;
mod odd_texts;
mod pause;
mod restore;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use refresh_worker::{
    clock::{SystemClock, Timestamp},
    config::RedisConfig,
    model::{Priority, Reason, RefreshRequest},
    queue::{
        Lease, LeaseRequest, MailLimits, Queue as _, Settlement,
        redis::{RedisQueue, Timeouts},
    },
};
use serde_json::Value;

use super::Shell;
use crate::support;

/// A Redis database of its own, with a command line for it and hands in it.
struct Bed {
    url: String,
    shell: Shell,
    queue: RedisQueue,
    connection: MultiplexedConnection,
}

impl Bed {
    async fn fresh() -> Self {
        Self::at(&support::redis::fresh().await).await
    }

    async fn at(url: &str) -> Self {
        let patience = Duration::from_secs(20);
        let redis = RedisConfig { url: url.to_owned().into(), cluster: false, namespace: "refresh".to_owned() };
        let queue = RedisQueue::connect(&redis, Arc::new(SystemClock)).unwrap();
        let queue = queue.with_timeouts(Timeouts { connect: patience, first_word: patience, response: patience });
        let connection = support::redis::connect(url).await.unwrap();
        Self { url: url.to_owned(), shell: Shell::new().with("REDIS_URL", url), queue, connection }
    }

    async fn now(&self) -> Timestamp {
        self.queue.time().await.unwrap()
    }

    async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection.clone()).await.unwrap()
    }

    /// Queues a request as the Python producer does: `ZADD`, then `HSET`.
    async fn mail(&self, id: &str, value: &str) {
        self.command::<()>(&["ZADD", "refresh_queue", "1", id]).await;
        self.command::<()>(&["HSET", "refresh_requests", id, value]).await;
    }

    async fn enqueue(&self, objects: &[String]) {
        let now = self.now().await;
        let request = |name: &String| RefreshRequest::now(name.parse().unwrap(), Priority::High, now);
        self.queue.enqueue(now, &objects.iter().map(request).collect::<Vec<_>>()).await.unwrap();
    }

    async fn lease(&self, duration: Duration) -> Lease {
        let request = LeaseRequest {
            max: 1,
            duration,
            priorities: Vec::new(),
            alone: true,
            seed: 1,
            run: "some-run".to_owned(),
            first: Vec::new(),
            ..LeaseRequest::default()
        };
        self.queue.lease(self.now().await, &request).await.unwrap().leases.remove(0)
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) {
        self.queue.settle(self.now().await, &[(lease, settlement)]).await.unwrap();
    }

    /// A dead object.
    async fn bury(&self, object: &str, code: &'static str) {
        self.enqueue(&[object.to_owned()]).await;
        let lease = self.lease(Duration::from_secs(60)).await;
        assert_eq!(lease.object.to_string(), object, "nothing else is ready");
        let reason = Reason::new(code, "said so");
        self.settle(lease, Settlement::Dead { reason, body: Some("what came".to_owned()) }).await;
    }

    async fn admit(&self) {
        let mail = self.queue.read_mail(self.now().await, MailLimits::default()).await.unwrap();
        self.queue.admit(self.now().await, mail).await.unwrap();
    }

    /// One of every state: ready, delayed, leased with a next request, dead, unreadable, an orphan, and mail.
    async fn fill(&self) {
        self.mail("junk", "no json").await;
        self.command::<()>(&["ZADD", "refresh_queue", "2", "war:orphan"]).await;
        self.admit().await;
        self.bury("clan:2PP", "wrong_tag").await;
        self.enqueue(&["clan:2QQ".to_owned()]).await;
        let lease = self.lease(Duration::from_secs(60)).await;
        let until = self.now().await + Duration::from_secs(600);
        self.settle(lease, Settlement::Failed { until, reason: Reason::new("timeout", "no answer") }).await;
        self.enqueue(&["war:2QQ".to_owned()]).await;
        self.lease(Duration::from_secs(3600)).await;
        self.enqueue(&["war:2QQ".to_owned(), "player:2LL".to_owned()]).await;
        self.mail("clan:#2yy", &value("clan:#2yy")).await;
    }

    /// Every object that the queue has a record of.
    async fn objects(&self) -> BTreeSet<String> {
        self.command::<Vec<String>>(&["HKEYS", "{refresh}:objects"]).await.into_iter().collect()
    }

    /// How many records the queue has.
    async fn count(&self) -> usize {
        self.command(&["HLEN", "{refresh}:objects"]).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.shell.run(arguments).await.well()).unwrap()
    }

    /// Everything in the database: keys, and the sorted words of their contents.
    async fn everything(&self) -> Vec<(String, Vec<Vec<u8>>)> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort_unstable();
        let mut all = Vec::new();
        for key in keys {
            let kind: String = self.command(&["TYPE", &key]).await;
            let mut words: Vec<Vec<u8>> = match kind.as_str() {
                "hash" => {
                    let fields: Vec<(Vec<u8>, Vec<u8>)> = self.command(&["HGETALL", &key]).await;
                    fields.into_iter().map(|(name, value)| [name, value].join(&b'=')).collect()
                }
                "zset" => {
                    let members: Vec<(Vec<u8>, Vec<u8>)> =
                        self.command(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await;
                    members.into_iter().map(|(name, score)| [name, score].join(&b'=')).collect()
                }
                _ => vec![self.command(&["GET", &key]).await],
            };
            words.sort_unstable();
            all.push((key, words));
        }
        all
    }
}

/// A value as the Python producer writes it.
fn value(id: &str) -> String {
    let (kind, tag) = id.split_once(':').unwrap();
    format!(
        r#"{{"id": "{id}", "type": "{kind}", "tag": "{tag}", "priority": 1, "requested_at": "2026-03-04T05:06:07.000089", "last_updated": null, "retry_count": 0}}"#
    )
}

/// `clan:…`, one of its own for each number.
fn clan(number: usize) -> String {
    let digits: Vec<char> = "0289PYLQGRJCUV".chars().collect();
    let mut rest = number;
    let mut name = "clan:2".to_owned();
    for _ in 0..6 {
        name.push(digits[rest % digits.len()]);
        rest /= digits.len();
    }
    name
}

fn clans(count: usize) -> Vec<String> {
    (0..count).map(clan).collect()
}
