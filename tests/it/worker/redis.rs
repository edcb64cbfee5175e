//! Runs on a Redis that refuses: full, a replica, loading. All but the queue is the bed's.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use refresh_worker::{
    model::{ObjectId, Priority, RefreshRequest},
    queue::{Queue as _, record::QueueLimits, redis::RedisQueue},
    sim::{Misbehaviour, Rule},
    store::sqlite::SqliteStore,
    worker::{
        RunOptions, Runs as _, Unwatched, Worker,
        report::{RunReport, StopReason},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::bed::{Bed, outcomes};
use crate::{
    queue::beds::{Bed as _, NOW, PATIENT, RedisBed, connect_as, request, value},
    support::{
        proxy::{Mode, Proxy},
        redis::PrivateRedis,
    },
};

fn worker_on(bed: &Bed, redis: &RedisBed) -> Worker<RedisQueue, SqliteStore> {
    bed.another_on(Arc::new(connect_as(&redis.url(), PATIENT, redis.is_cluster())))
}

async fn run(worker: &Worker<RedisQueue, SqliteStore>) -> RunReport {
    worker.run(RunOptions::default(), &Unwatched).await
}

async fn enqueue(redis: &RedisBed, objects: &[ObjectId]) {
    let now = redis.queue().time().await.unwrap();
    let requests: Vec<RefreshRequest> =
        objects.iter().map(|object| RefreshRequest::now(object.clone(), Priority::High, now)).collect();
    redis.queue().enqueue(now, &requests).await.unwrap();
}

async fn mail(redis: &RedisBed, objects: &[ObjectId]) {
    let now = redis.queue().time().await.unwrap();
    for object in objects {
        redis.put_mail(&object.to_string(), 1.0, &value(&object.to_string(), 1, now)).await;
    }
}

#[tokio::test]
async fn a_run_on_a_full_redis_drains_queue_and_mailbox() {
    let (bed, server) = (Bed::start().await, PrivateRedis::start().await);
    let redis = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let players = bed.players(30);
    enqueue(&redis, &players[..10]).await;
    mail(&redis, &players[10..]).await;
    redis.make_full().await;
    let mut worker = worker_on(&bed, &redis);
    worker.reqs_per_day = NonZeroU64::new(1000);
    let report = run(&worker).await;
    assert_eq!(report.stopped_because, StopReason::QueueEmpty, "{report:?}");
    assert_eq!((outcomes(&report), report.errors.len()), (vec![("stored", 30)], 0), "{report:?}");
    let left = redis.dump().await;
    assert_eq!((left.records.len(), left.index.len(), left.data.len()), (0, 0, 0));
}

/// The queue's own keys as they are now, to be put back: a failover that loses what was written since.
async fn snapshot(redis: &RedisBed) -> Vec<(String, Option<Vec<u8>>)> {
    let mut kept = Vec::new();
    for name in ["objects", "ready", "leased", "counters"] {
        let key = format!("{{refresh}}:{name}");
        kept.push((key.clone(), redis.command(&["DUMP", &key]).await));
    }
    kept
}

async fn restore(redis: &RedisBed, kept: &[(String, Option<Vec<u8>>)]) {
    for (key, value) in kept {
        redis.command::<i64>(&["DEL", key]).await;
        if let Some(value) = value {
            redis.bytes::<()>(&[b"RESTORE", key.as_bytes(), b"0", value]).await;
        }
    }
}

#[tokio::test]
async fn after_lost_writes_a_run_calls_nothing_twice() {
    let (bed, server) = (Bed::start().await, PrivateRedis::start().await);
    let redis = RedisBed::at(&server.url(), QueueLimits::default()).await;
    bed.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    enqueue(&redis, &bed.players(3)).await;
    let before = snapshot(&redis).await;
    let worker = worker_on(&bed, &redis);
    let failover = async {
        bed.simulator.wait_until_held(3).await;
        restore(&redis, &before).await;
        while redis.queue().stats(NOW).await.unwrap().leased < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bed.simulator.release();
    };
    let (report, ()) = tokio::join!(run(&worker), failover);
    assert_eq!(outcomes(&report), [("stored", 3)], "{report:?}");
    assert_eq!(bed.simulator.total_calls(), 3);
    assert!(redis.dump().await.records.is_empty());
}

#[tokio::test]
async fn a_run_whose_lease_is_unheard_leases_anew() {
    let (bed, server) = (Bed::start().await, PrivateRedis::start().await);
    let redis = RedisBed::at(&server.url(), QueueLimits::default()).await;
    enqueue(&redis, &bed.players(5)).await;
    let (proxy, url) = Proxy::in_front_of(&redis.url()).await;
    let worker = bed.another_on(Arc::new(connect_as(&url, PATIENT, false)));
    // The server has to know the script, or that is what is not heard.
    redis.lease(NOW, &request(0)).await;
    // The classes, which only a lease names.
    proxy.set(Mode::LoseAnswerTo("\r\n0123\r\n"));
    let repair = async {
        while redis.queue().stats(NOW).await.unwrap().leased == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.set(Mode::Pass);
    };
    let (report, ()) = tokio::join!(run(&worker), repair);
    assert_eq!(outcomes(&report), [("stored", 5)], "{report:?}");
    assert_eq!((report.stopped_because, report.lapsed), (StopReason::QueueEmpty, 0), "{report:?}");
}

#[tokio::test]
async fn a_run_whose_mail_is_refused_does_all_that_is_ready_and_then_says_so() {
    let bed = Bed::start().await;
    // On a cluster the mailbox lies elsewhere: what is admitted makes our server fuller.
    let redis = RedisBed::on_cluster(QueueLimits::default()).await;
    let players = bed.players(15);
    enqueue(&redis, &players[..10]).await;
    mail(&redis, &players[10..]).await;
    redis.make_full().await;
    let report = run(&worker_on(&bed, &redis)).await;
    assert_eq!(outcomes(&report), [("stored", 10)], "{report:?}");
    assert_eq!(report.stopped_because, StopReason::QueueDown, "{report:?}");
    let failure = report.failure.unwrap();
    assert!(failure.contains("admitting mail") && failure.contains("OOM"), "{failure}");
    assert_eq!(report.errors, [failure], "said once");
    let left = redis.dump().await;
    assert_eq!((left.records.len(), left.index.len(), left.data.len()), (0, 5, 5), "the mail waits as it was");
}

#[tokio::test]
async fn in_a_flood_admission_keeps_ahead_of_the_calls() {
    let (bed, server) = (Bed::start().await, PrivateRedis::start().await);
    let redis = RedisBed::at(&server.url(), QueueLimits::default()).await;
    redis.flood(0..20_000).await;
    let mut worker = worker_on(&bed, &redis);
    worker.reqs_per_sec = 30;
    let report = worker.run(RunOptions { max_requests: Some(60), ..RunOptions::default() }, &Unwatched).await;
    assert_eq!((report.stopped_because, report.api_requests), (StopReason::MaxRequests, 60), "{report:?}");
    // Each slice looks at the far end of each of the four classes once. There are one or two batches, each with a slice of its
    // own, and after the first there is time for more.
    let calls: String = redis.command(&["INFO", "commandstats"]).await;
    let looks = calls.lines().find_map(|line| line.strip_prefix("cmdstat_zrevrangebyscore:calls=")?.split(',').next());
    let slices = looks.unwrap().parse::<usize>().unwrap() / 4;
    assert!((2..=2 + 2 * 20).contains(&slices), "{slices} slices: {report:?}");
    assert!(report.mail.admitted > 1_000, "more than one slice holds: {report:?}");
}

#[tokio::test]
async fn a_run_on_a_replica_ends_as_queue_down_and_nothing_is_lost() {
    let (bed, server) = (Bed::start().await, PrivateRedis::start().await);
    let redis = RedisBed::at(&server.url(), QueueLimits::default()).await;
    enqueue(&redis, &bed.players(5)).await;
    let worker = worker_on(&bed, &redis);
    redis.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_queue_down(&run(&worker).await, "READONLY");
    redis.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    let report = run(&worker).await;
    assert_eq!(outcomes(&report), [("stored", 5)], "{report:?}");
}

#[tokio::test]
async fn a_run_on_a_server_that_loads_ends_as_queue_down_and_nothing_is_lost() {
    let (bed, server) = (Bed::start().await, PrivateRedis::durable().await);
    let redis = RedisBed::at(&server.url(), QueueLimits::default()).await;
    enqueue(&redis, &bed.players(5)).await;
    redis.command::<()>(&["DEBUG", "POPULATE", "3000"]).await;
    redis.command::<()>(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]).await;
    redis.command::<()>(&["CONFIG", "SET", "key-load-delay", "300"]).await;
    let worker = worker_on(&bed, &redis);
    // By hand, since it takes longer than a client waits.
    let mut by_hand = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    let reload = async {
        by_hand.write_all(b"DEBUG RELOAD\r\n").await.unwrap();
        let mut answer = [0; 5];
        by_hand.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    };
    // Before it loads, a run leases nothing.
    let options = RunOptions { max_requests: Some(0), ..RunOptions::default() };
    let refused = async {
        loop {
            let report = worker.run(options.clone(), &Unwatched).await;
            if report.failure.as_ref().is_some_and(|failure| failure.contains("LOADING")) {
                return report;
            }
        }
    };
    let ((), report) = tokio::join!(reload, refused);
    assert_queue_down(&report, "LOADING");
    redis.command::<()>(&["DEL", &slot_of(&redis).await]).await;
    let report = run(&worker).await;
    assert_eq!(outcomes(&report), [("stored", 5)], "{report:?}");
}

/// The slot that a run could not give back.
async fn slot_of(redis: &RedisBed) -> String {
    let slots: Vec<String> = redis.command(&["KEYS", "{coc-api}:key:*"]).await;
    slots.into_iter().next().unwrap_or_default()
}

fn assert_queue_down(report: &RunReport, refusal: &str) {
    assert_eq!(report.stopped_because, StopReason::QueueDown, "{report:?}");
    let failure = report.failure.as_deref().unwrap();
    assert!(failure.starts_with("Redis at ") && failure.contains(refusal), "{failure}");
    assert_eq!((report.processed_requests, report.failed_requests), (0, 0), "{report:?}");
}
