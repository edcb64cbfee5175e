//! A queue to test, with the hands of a producer and the eyes of an operator.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use refresh_worker::{
    clock::{ManualClock, SystemClock, Timestamp},
    config::RedisConfig,
    model::{Priority, RefreshRequest},
    queue::{
        Admitted, Circuit, CircuitReason, CircuitScope, LeaseRequest, Leased, MailLimits, Queue, Slots, mailbox,
        memory::{Contents, MemoryQueue},
        record::{CLASS_WIDTH, Draw, QueueLimits, Record, State},
        redis::{RedisQueue, Timeouts},
    },
};

use crate::support;

/// When tests begin.
pub const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

/// A queue of either kind.
pub trait Bed: Sync {
    type Queue: Queue + Slots;

    fn queue(&self) -> &Self::Queue;

    /// A producer's `ZADD` alone.
    fn put_index(&self, id: &[u8], score: f64) -> impl Future<Output = ()> + Send;

    /// A producer's `HSET` alone.
    fn put_data(&self, id: &[u8], value: &[u8]) -> impl Future<Output = ()> + Send;

    /// A producer's `ZREM` alone.
    fn remove_index(&self, id: &[u8]) -> impl Future<Output = ()> + Send;

    /// A producer's `HDEL` alone.
    fn remove_data(&self, id: &[u8]) -> impl Future<Output = ()> + Send;

    /// Everything the queue holds; in Redis also checked for agreement with itself.
    fn dump(&self) -> impl Future<Output = Contents> + Send;

    /// Lets time pass for what ends by the server's own clock.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// A whole request of a producer.
    async fn put_mail(&self, id: &str, score: f64, value: &str) {
        self.put_index(id.as_bytes(), score).await;
        self.put_data(id.as_bytes(), value.as_bytes()).await;
    }

    /// What every run does first.
    async fn admit(&self, now: Timestamp) -> Admitted {
        let mail = self.queue().read_mail(now, MailLimits::default()).await.unwrap();
        self.queue().admit(now, mail).await.unwrap()
    }

    async fn enqueue(&self, object: &str, priority: Priority, now: Timestamp) {
        let request = RefreshRequest::now(object.parse().unwrap(), priority, now);
        self.queue().enqueue(now, &[request]).await.unwrap();
    }

    async fn lease(&self, now: Timestamp, request: &LeaseRequest) -> Leased {
        self.queue().lease(now, request).await.unwrap()
    }

    /// Leases the one object that is ready.
    async fn lease_one(&self, now: Timestamp) -> refresh_worker::queue::Lease {
        let mut leased = self.lease(now, &request(1)).await;
        assert_eq!(leased.leases.len(), 1, "an object is ready: {leased:?}");
        leased.leases.remove(0)
    }

    async fn record(&self, object: &str) -> Option<Record> {
        self.dump().await.records.remove(object)
    }
}

/// Asks for leases of 15 s, alone, with a seed that draws no floor for the first places.
/// The API in maintenance.
pub fn open_circuit(next_probe: Timestamp) -> Circuit {
    let reason = CircuitReason::new(CircuitReason::MAINTENANCE, "status 503");
    Circuit { scope: CircuitScope::Api, since: NOW, next_probe, reason }
}

pub fn request(max: usize) -> LeaseRequest {
    LeaseRequest {
        max,
        duration: Duration::from_secs(15),
        priorities: Vec::new(),
        alone: true,
        seed: strict_seed(),
        run: "run".to_owned(),
        first: Vec::new(),
        ..LeaseRequest::default()
    }
}

/// A seed whose first 12 draws favour nobody.
fn strict_seed() -> u64 {
    (0..100_000).find(|seed| favours(*seed).all(|favoured| favoured.is_none())).unwrap()
}

/// A seed whose first draw favours this class.
pub fn seed_favouring(class: Priority) -> u64 {
    (0..100_000).find(|seed| favours(*seed).next() == Some(Some(class))).unwrap()
}

fn favours(seed: u64) -> impl Iterator<Item = Option<Priority>> {
    let mut draw = Draw::from_seed(seed);
    (0..12).map(move |_| draw.favoured())
}

pub fn names(leased: &Leased) -> Vec<String> {
    leased.leases.iter().map(|lease| lease.object.to_string()).collect()
}

/// A tag of its own for each number.
pub fn tag(number: usize) -> String {
    let digits: Vec<char> = "0289PYLQGRJCUV".chars().collect();
    let mut rest = number;
    let mut tag = "2".to_owned();
    for _ in 0..5 {
        tag.push(digits[rest % digits.len()]);
        rest /= digits.len();
    }
    tag
}

/// A value as the Python producer writes it, asked at `asked`.
pub fn value(object: &str, priority: u8, asked: Timestamp) -> String {
    let (kind, tag) = object.split_once(':').unwrap();
    let asked = asked.to_string();
    let asked = asked.trim_end_matches('Z');
    format!(
        r#"{{"id": "{object}", "type": "{kind}", "tag": "{tag}", "priority": {priority}, "requested_at": "{asked}000", "last_updated": null, "retry_count": 0}}"#
    )
}

pub struct MemoryBed {
    queue: MemoryQueue,
    clock: Arc<ManualClock>,
}

impl MemoryBed {
    pub fn with_limits(limits: QueueLimits) -> Self {
        let clock = ManualClock::at(NOW);
        Self { queue: MemoryQueue::new(clock.clone()).with_limits(limits), clock }
    }
}

impl Bed for MemoryBed {
    type Queue = MemoryQueue;

    fn queue(&self) -> &MemoryQueue {
        &self.queue
    }

    async fn put_index(&self, id: &[u8], score: f64) {
        self.queue.put_index(id, score);
    }

    async fn put_data(&self, id: &[u8], value: &[u8]) {
        self.queue.put_data(id, value);
    }

    async fn remove_index(&self, id: &[u8]) {
        self.queue.remove_index(id);
    }

    async fn remove_data(&self, id: &[u8]) {
        self.queue.remove_data(id);
    }

    async fn dump(&self) -> Contents {
        self.queue.dump()
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

/// The queue on one server, or on a cluster.
pub struct RedisBed {
    queue: RedisQueue,
    connection: Connection,
    url: String,
    /// Nobody else uses the cluster meanwhile.
    cluster_of_ours: Option<support::redis::Cluster>,
}

#[derive(Clone)]
enum Connection {
    Server(redis::aio::MultiplexedConnection),
    Cluster(redis::cluster_async::ClusterConnection),
}

impl RedisBed {
    pub async fn fresh() -> Self {
        Self::at(&support::redis::fresh().await, QueueLimits::default()).await
    }

    pub async fn with_limits(limits: QueueLimits) -> Self {
        Self::at(&support::redis::fresh().await, limits).await
    }

    pub async fn at(url: &str, limits: QueueLimits) -> Self {
        let connection = Connection::Server(support::redis::connect(url).await.unwrap());
        Self { queue: connect(url).with_limits(limits), connection, url: url.to_owned(), cluster_of_ours: None }
    }

    pub async fn on_cluster(limits: QueueLimits) -> Self {
        let cluster = support::redis::Cluster::fresh().await;
        let connection = Connection::Cluster(cluster.connection().await);
        let queue = connect_as(&cluster.url(), PATIENT, true).with_limits(limits);
        Self { queue, connection, url: cluster.url(), cluster_of_ours: Some(cluster) }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub const fn is_cluster(&self) -> bool {
        self.cluster_of_ours.is_some()
    }

    /// Any command, as somebody else sends it.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.bytes(&words).await
    }

    pub async fn bytes<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = redis::cmd(std::str::from_utf8(words[0]).unwrap());
        command.arg(&words[1..]);
        match self.connection.clone() {
            Connection::Server(mut connection) => command.query_async(&mut connection).await.unwrap(),
            Connection::Cluster(mut connection) => command.query_async(&mut connection).await.unwrap(),
        }
    }

    /// Clans of the class HIGH in the mailbox, as a producer writes them.
    pub async fn flood(&self, numbers: std::ops::Range<usize>) {
        let all: Vec<String> = numbers.map(|number| format!("clan:{}", tag(number))).collect();
        for objects in all.chunks(1000) {
            let (mut data, mut index) = (vec!["HSET".to_owned(), mailbox::DATA.to_owned()], vec!["ZADD".to_owned()]);
            index.push(mailbox::INDEX.to_owned());
            for object in objects {
                data.extend([object.clone(), value(object, 1, NOW)]);
                index.extend(["1".to_owned(), object.clone()]);
            }
            for command in [data, index] {
                self.command::<()>(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
            }
        }
    }

    /// From now on the server that holds our keys is over its `maxmemory`, whatever is deleted.
    pub async fn make_full(&self) {
        let url = self.cluster_of_ours.as_ref().map_or_else(|| self.url(), |cluster| cluster.node_url(0));
        let mut server = support::redis::connect(&url).await.unwrap();
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg("1");
        command.exec_async(&mut server).await.unwrap();
    }

    async fn set(&self, key: &str) -> Vec<(Vec<u8>, f64)> {
        self.command(&["ZRANGE", key, "0", "-1", "WITHSCORES"]).await
    }

    /// Every record stands in the set of its state with its score, and nothing else does.
    async fn check_sets(&self, contents: &Contents) {
        let mut expected: BTreeMap<String, Vec<(Vec<u8>, f64)>> = BTreeMap::new();
        for (name, record) in &contents.records {
            let set = match record.state {
                State::Ready => "ready".to_owned(),
                State::Delayed => format!("delayed:{}", record.wanted.priority),
                State::Leased => "leased".to_owned(),
                State::Dead => "dead".to_owned(),
            };
            assert!(record.wanted.first.as_millis() < CLASS_WIDTH);
            expected.entry(set).or_default().push((name.clone().into_bytes(), score(record.score())));
            if record.is_held() {
                let held = expected.entry("held".to_owned()).or_default();
                held.push((name.clone().into_bytes(), score(record.hold.as_millis())));
            }
        }
        let letters = contents.letters.iter();
        let letters = letters.map(|(name, letter)| (name.clone().into_bytes(), score(letter.died.as_millis())));
        expected.entry("unreadable".to_owned()).or_default().extend(letters);
        let delayed = Priority::ALL.map(|class| format!("delayed:{class}"));
        for set in
            ["ready", "leased", "dead", "unreadable", "held"].into_iter().chain(delayed.iter().map(String::as_str))
        {
            let mut found = self.set(&format!("{{refresh}}:{set}")).await;
            let mut expected = expected.remove(set).unwrap_or_default();
            found.sort_by(|one, other| one.0.cmp(&other.0));
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            assert_eq!(found, expected, "the set {set} agrees with the records");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "scores stay below 2^53")]
fn score(number: i64) -> f64 {
    number as f64
}

/// A queue of its own, patient with a busy machine.
pub fn connect(url: &str) -> RedisQueue {
    connect_with(url, PATIENT)
}

const PATIENCE: Duration = Duration::from_secs(20);
pub const PATIENT: Timeouts = Timeouts { connect: PATIENCE, first_word: PATIENCE, response: PATIENCE };

pub fn connect_with(url: &str, timeouts: Timeouts) -> RedisQueue {
    connect_as(url, timeouts, false)
}

pub fn connect_as(url: &str, timeouts: Timeouts, cluster: bool) -> RedisQueue {
    let config = RedisConfig { url: url.to_owned().into(), cluster, namespace: "refresh".to_owned() };
    RedisQueue::connect(&config, Arc::new(SystemClock)).unwrap().with_timeouts(timeouts)
}

impl Bed for RedisBed {
    type Queue = RedisQueue;

    fn queue(&self) -> &RedisQueue {
        &self.queue
    }

    async fn put_index(&self, id: &[u8], score: f64) {
        self.bytes::<()>(&[b"ZADD", b"refresh_queue", score.to_string().as_bytes(), id]).await;
    }

    async fn put_data(&self, id: &[u8], value: &[u8]) {
        self.bytes::<()>(&[b"HSET", b"refresh_requests", id, value]).await;
    }

    async fn remove_index(&self, id: &[u8]) {
        self.bytes::<()>(&[b"ZREM", b"refresh_queue", id]).await;
    }

    async fn remove_data(&self, id: &[u8]) {
        self.bytes::<()>(&[b"HDEL", b"refresh_requests", id]).await;
    }

    async fn dump(&self) -> Contents {
        let objects: BTreeMap<String, Vec<u8>> = self.command(&["HGETALL", "{refresh}:objects"]).await;
        let mut contents = Contents {
            index: self.set(mailbox::INDEX).await.into_iter().collect(),
            data: self.command(&["HGETALL", mailbox::DATA]).await,
            ..Contents::default()
        };
        for (name, json) in objects {
            if name.starts_with("mail:") {
                contents.letters.insert(name, serde_json::from_slice(&json).unwrap());
            } else {
                contents.records.insert(name, serde_json::from_slice(&json).unwrap());
            }
        }
        for (id, score) in self.set("{refresh}:orphans").await {
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds and a class")]
            let (since, class) = (score.trunc() as i64, (score.fract() * 4.0) as i64);
            contents.orphans.insert(id, (Timestamp::from_millis(since), Priority::nearest(class)));
        }
        let (leases, evicted): (Option<u64>, Option<u64>) =
            self.command(&["HMGET", "{refresh}:counters", "leases", "dead_letters_evicted"]).await;
        (contents.leases, contents.dead_letters_evicted) = (leases.unwrap_or(0), evicted.unwrap_or(0));
        self.check_sets(&contents).await;
        contents
    }

    /// Redis's clock cannot be moved, so what is left of each life is shortened.
    async fn pass(&self, time: Duration) {
        let mut keys: Vec<String> = self.command(&["KEYS", "{refresh}:*"]).await;
        keys.extend(self.command::<Vec<String>>(&["KEYS", "{coc-api}:*"]).await);
        for key in keys {
            let left: i64 = self.command(&["PTTL", &key]).await;
            if left >= 0 {
                let left = left - i64::try_from(time.as_millis()).unwrap();
                self.command::<()>(&["PEXPIRE", &key, &left.to_string()]).await;
            }
        }
        let copies: Vec<(String, String)> = self.command(&["HGETALL", "{coc-api}:copies"]).await;
        for (name, copy) in copies {
            let (ends, value) = copy.split_once(' ').unwrap();
            let ends = ends.parse::<u128>().unwrap() - time.as_millis();
            self.command::<()>(&["HSET", "{coc-api}:copies", &name, &format!("{ends} {value}")]).await;
        }
    }
}

/// Makes a test of each function, over memory, over one Redis and over a cluster.
macro_rules! on_all {
    ($($name:ident)*) => { on_all! { (QueueLimits::default()) $($name)* } };
    (($limits:expr) $($name:ident)*) => {
        mod memory {
            #[allow(unused_imports, reason = "the limits of the suite")]
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::queue::beds::MemoryBed::with_limits($limits)).await;
            })*
        }
        mod redis {
            #[allow(unused_imports, reason = "the limits of the suite")]
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::queue::beds::RedisBed::with_limits($limits).await).await;
            })*
        }
        mod cluster {
            #[allow(unused_imports, reason = "the limits of the suite")]
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::queue::beds::RedisBed::on_cluster($limits).await).await;
            })*
        }
    };
}
pub(super) use on_all;
