//! What the queue costs as it grows, and how often it asks Redis.
//!
//! A private Redis, filled directly with 1,000 and with 1,000,000 records in the queue and as many requests in the
//! mailbox:
//!
//! ```text
//! cargo bench --bench queue_scale
//! ```
//!
//! Prints the median time of each call at both sizes and their ratio (budget: within 2x), and the round trips of one
//! batch (budget: at most 4, and the renewal).

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use refresh_worker::{
    clock::{SystemClock, Timestamp},
    config::RedisConfig,
    queue::{
        LeaseRequest, LeaseToken, MailLimits, Queue, Settlement,
        redis::{RedisQueue, Timeouts},
    },
};

const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);
const SIZES: [usize; 2] = [1_000, 1_000_000];
const ROUNDS: usize = 200;

/// What 2 s of one key's rate can serve.
const BATCH: usize = 60;

/// Small slices, so that 1,000 entries last for all rounds when each is filled up again.
const SLICE: MailLimits = MailLimits { per_class: 15, scan: 15, bytes: 1024 * 1024 };

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let server = support::redis::PrivateRedis::start().await;
    let mut connection = redis::Client::open(server.url())
        .expect("a Redis URL")
        .get_multiplexed_async_connection_with_config(&redis::AsyncConnectionConfig::new().set_response_timeout(None))
        .await
        .expect("the private Redis answers");
    let queue = connect(&server.url());

    let mut medians: BTreeMap<&str, Vec<u128>> = BTreeMap::new();
    for size in SIZES {
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.expect("FLUSHALL");
        let began = Instant::now();
        fill(&mut connection, size).await;
        println!("filled with {size} records and {size} requests in {:.1} s", began.elapsed().as_secs_f64());
        for (call, median) in measure(&queue, &mut connection, size).await {
            medians.entry(call).or_default().push(median);
        }
    }
    println!(
        "\nmedian of {ROUNDS} in microseconds; {BATCH} leases, slices of about {} requests",
        4 * SLICE.per_class + SLICE.scan
    );
    println!("{:>10} {:>10} {:>10} {:>7}", "call", SIZES[0], SIZES[1], "ratio");
    for (call, medians) in &medians {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of one call")]
        let ratio = medians[1] as f64 / medians[0].max(1) as f64;
        println!("{call:>10} {:>10} {:>10} {ratio:>7.2}", medians[0], medians[1]);
    }
    round_trips(&queue, &mut connection).await;
}

fn connect(url: &str) -> RedisQueue {
    let patience = Duration::from_secs(30);
    let config = RedisConfig { url: url.to_owned().into(), cluster: false, namespace: "refresh".to_owned() };
    RedisQueue::connect(&config, Arc::new(SystemClock)).expect("a Redis URL").with_timeouts(Timeouts {
        connect: patience,
        first_reply: patience,
        response: patience,
    })
}

/// A tag of its own for each number.
fn tag(number: usize) -> String {
    const ALPHABET: &[u8] = b"0289PYLQGRJCUV";
    let mut rest = number;
    let mut tag = String::from("2");
    for _ in 0..6 {
        tag.push(char::from(ALPHABET[rest % ALPHABET.len()]));
        rest /= ALPHABET.len();
    }
    tag
}

/// Records straight in the queue's format, and mail in the producers'.
async fn fill(connection: &mut MultiplexedConnection, size: usize) {
    const CHUNK: usize = 5_000;
    for start in (0..size).step_by(CHUNK) {
        let mut pipe = redis::pipe();
        let (mut objects, mut ready) = (redis::cmd("HSET"), redis::cmd("ZADD"));
        objects.arg("{refresh}:objects");
        ready.arg("{refresh}:ready");
        for number in start..(start + CHUNK).min(size) {
            let (name, class) = (format!("player:{}", tag(number)), number % 4);
            let first = 1_772_600_000_000 + number / 2;
            objects.arg(&name).arg(format!(
                r#"{{"priority":{class},"first":{first},"last":{first},"due":{first},"hold":0,"attempts":0,"lapses":0,"merges":1,"state":"ready"}}"#
            ));
            ready.arg(class * 10_000_000_000_000 + first).arg(&name);
        }
        pipe.add_command(objects).ignore().add_command(ready).ignore();
        pipe.exec_async(connection).await.expect("the queue is filled");
        mail(connection, start..(start + CHUNK).min(size)).await;
    }
}

async fn mail(connection: &mut MultiplexedConnection, numbers: std::ops::Range<usize>) {
    let mut pipe = redis::pipe();
    let (mut data, mut index) = (redis::cmd("HSET"), redis::cmd("ZADD"));
    data.arg("refresh_requests");
    index.arg("refresh_queue");
    for number in numbers {
        let (tag, class) = (tag(number), number % 4);
        let id = format!("clan:{tag}");
        let mut value = String::new();
        let _ = write!(
            value,
            r#"{{"id": "{id}", "type": "clan", "tag": "{tag}", "priority": {class}, "requested_at": "2026-03-04T05:06:07.000089", "last_updated": null, "retry_count": 0}}"#
        );
        data.arg(&id).arg(value);
        index.arg(class).arg(&id);
    }
    pipe.add_command(data).ignore().add_command(index).ignore();
    pipe.exec_async(connection).await.expect("the mailbox is filled");
}

async fn timed<T>(times: &mut Vec<u128>, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = work.await;
    times.push(began.elapsed().as_micros());
    answer
}

async fn measure(queue: &RedisQueue, connection: &mut MultiplexedConnection, size: usize) -> Vec<(&'static str, u128)> {
    let [mut reads, mut admits, mut hand_outs, mut settles, mut stats] = [const { Vec::new() }; 5];
    queue.stats(NOW).await.expect("stats");
    let mut next = size;
    for round in 0..ROUNDS {
        let slice = timed(&mut reads, queue.read_mail(NOW, SLICE)).await.expect("mail is read");
        let read = slice.entries.len();
        assert!(read >= 4 * SLICE.per_class, "a full slice");
        timed(&mut admits, queue.admit(NOW, slice)).await.expect("mail is admitted");
        let asked = LeaseRequest {
            max: BATCH,
            duration: Duration::from_secs(15),
            priorities: Vec::new(),
            alone: true,
            seed: round as u64 * 7919,
            run: "bench".to_owned(),
            first: Vec::new(),
            ..LeaseRequest::default()
        };
        let leased = timed(&mut hand_outs, queue.lease(NOW, &asked)).await.expect("objects are leased");
        assert_eq!(leased.leases.len(), BATCH, "a full batch");
        let batch: Vec<_> = leased.leases.into_iter().map(|lease| (lease, Settlement::Done)).collect();
        timed(&mut settles, queue.settle(NOW, &batch)).await.expect("leases are settled");
        timed(&mut stats, queue.stats(NOW)).await.expect("stats");
        mail(connection, next..next + read).await;
        next += read;
    }
    let median = |mut times: Vec<u128>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    [("read_mail", reads), ("admit", admits), ("lease", hand_outs), ("settle", settles), ("stats", stats)]
        .map(|(call, times)| (call, median(times)))
        .into()
}

/// The commands that clients sent; what scripts call does not count.
async fn sent(connection: &mut MultiplexedConnection) -> u64 {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await.expect("INFO");
    let scripts = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    scripts.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

async fn round_trips(queue: &RedisQueue, connection: &mut MultiplexedConnection) {
    println!("\nround trips of one batch of {BATCH}:");
    // The first use of a script loads it.
    let nobody = ("clan:2PP".parse().expect("an object"), LeaseToken("none".to_owned()));
    queue.renew(NOW, &[nobody], NOW).await.expect("nothing is renewed");
    let mut total = 0;
    let mut before = sent(connection).await;
    let mut count = |call: &str, after: u64| {
        println!("{call:>10} {:>3}", after - before);
        total += after - before;
        before = after;
    };
    let slice = queue.read_mail(NOW, SLICE).await.expect("mail is read");
    count("read_mail", sent(connection).await);
    queue.admit(NOW, slice).await.expect("mail is admitted");
    count("admit", sent(connection).await);
    let asked = LeaseRequest {
        max: BATCH,
        duration: Duration::from_secs(15),
        priorities: Vec::new(),
        alone: true,
        seed: 1,
        run: "bench".to_owned(),
        first: Vec::new(),
        ..LeaseRequest::default()
    };
    let leased = queue.lease(NOW, &asked).await.expect("objects are leased");
    count("lease", sent(connection).await);
    let renewals: Vec<_> = leased.leases.iter().map(|lease| (lease.object.clone(), lease.token.clone())).collect();
    queue.renew(NOW, &renewals, NOW + Duration::from_secs(20)).await.expect("leases are renewed");
    count("renew", sent(connection).await);
    let batch: Vec<_> = leased.leases.into_iter().map(|lease| (lease, Settlement::Done)).collect();
    queue.settle(NOW, &batch).await.expect("leases are settled");
    count("settle", sent(connection).await);
    println!("{:>10} {total:>3}", "in all");
}
