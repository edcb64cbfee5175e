//! A failover of Redis behind an address that moves: a connection that is open stays with the old primary, which is a replica
//! by then and refuses. Nothing is lost that Redis itself did not lose, and nothing is done twice.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    clock::ManualClock,
    config::RedisConfig,
    model::{AimdState, Event, Priority, Reason, RefreshRequest},
    queue::{
        Circuit, CircuitReason, CircuitScope, DeadFilter, Fingerprint, MailLimits, Publisher as _, Queue as _,
        QueueAdmin as _, QueueError, Settled, Settlement, SharedState as _, Slot, record::QueueLimits,
        redis::RedisQueue,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::beds::{Bed as _, NOW, PATIENT, RedisBed, connect, lease_request, value};
use crate::support::{
    forwarder::Forwarder,
    redis::{Pair, PrivateRedis},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A pair, and a queue that has used its connection to the primary.
async fn warm() -> (Pair, RedisQueue) {
    let pair = Pair::start().await;
    let queue = connect(&pair.url());
    queue.time_to_write().await.unwrap();
    (pair, queue)
}

async fn enqueue(queue: &RedisQueue, objects: &[&str]) {
    let requests: Vec<RefreshRequest> =
        objects.iter().map(|object| RefreshRequest::now(object.parse().unwrap(), Priority::High, NOW)).collect();
    queue.enqueue(NOW, &requests).await.unwrap();
}

#[tokio::test]
async fn every_step_of_run_follows_failover() {
    let (mut pair, queue) = warm().await;
    let key = Fingerprint("abc".to_owned());
    pair.fail_over().await;
    queue.time_to_write().await.unwrap();
    pair.fail_over().await;
    let producers = RedisBed::at(&pair.primary().url(), QueueLimits::default()).await;
    producers.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW)).await;
    enqueue(&queue, &["clan:2QQ"]).await;
    pair.fail_over().await;
    let mail = queue.read_mail(NOW, MailLimits::default()).await.unwrap();
    assert_eq!(queue.admit(NOW, mail).await.unwrap().admitted, 1);
    pair.fail_over().await;
    assert_eq!(queue.take_key(&key, "run", MINUTE).await.unwrap(), Slot::Taken { aimd_state: None });
    pair.fail_over().await;
    assert_eq!(queue.take_calls(NOW, 30, 1000).await.unwrap().granted, 30);
    assert_eq!(queue.calls_taken(NOW).await.unwrap(), 30, "taken once");
    pair.fail_over().await;
    let leased = queue.lease(NOW, &lease_request(2)).await.unwrap().leases;
    assert_eq!(leased.len(), 2);
    pair.fail_over().await;
    let held: Vec<_> = leased.iter().map(|lease| (lease.object.clone(), lease.token.clone())).collect();
    assert_eq!(queue.renew(NOW, &held, NOW + MINUTE).await.unwrap(), [true, true]);
    pair.fail_over().await;
    let reason = Reason::new("bad_request", "no");
    let ends = [Settlement::Done, Settlement::Dead { reason, body: None }];
    let batch: Vec<_> = leased.into_iter().zip(ends).collect();
    assert_eq!(queue.settle(NOW, &batch).await.unwrap(), [Settled::Settled, Settled::Settled]);
    pair.fail_over().await;
    assert_eq!(queue.redrive(NOW, &DeadFilter::default()).await.unwrap(), 1);
    assert_eq!(queue.stats(NOW).await.unwrap().ready, 1);
}

#[tokio::test]
async fn shared_state_follows_failover() {
    let (mut pair, queue) = warm().await;
    let key = Fingerprint("abc".to_owned());
    queue.take_key(&key, "run", MINUTE).await.unwrap();
    pair.fail_over().await;
    assert_eq!(queue.renew_keys(std::slice::from_ref(&key), "run", MINUTE).await.unwrap(), [true]);
    pair.fail_over().await;
    queue.remember_rate(&key, AimdState::plain(20.0)).await.unwrap();
    pair.fail_over().await;
    let reason = CircuitReason::new(CircuitReason::MAINTENANCE, "503");
    queue.open_circuit(&Circuit { scope: CircuitScope::Api, since: NOW, next_probe: NOW, reason }).await.unwrap();
    pair.fail_over().await;
    assert!(queue.claim_probe(CircuitScope::Api, NOW, NOW + MINUTE).await.unwrap());
    pair.fail_over().await;
    queue.close_circuit(CircuitScope::Api).await.unwrap();
    assert!(queue.circuits().await.unwrap().is_empty());
    pair.fail_over().await;
    queue.release_key(&key, "run", MINUTE).await.unwrap();
    pair.fail_over().await;
    assert_eq!(queue.publish_events("events", 10, &[Event(vec![("a".into(), "b".to_owned())])]).await.unwrap(), 1);
}

#[tokio::test]
async fn concurrent_calls_follow_failover() {
    let (mut pair, queue) = warm().await;
    enqueue(&queue, &["clan:2QQ"]).await;
    pair.fail_over().await;
    let before = pair.forwarder.accepted();
    let request = [RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::High, NOW)];
    let lease_request = lease_request(1);
    let (enqueued, leased) = tokio::join!(queue.enqueue(NOW, &request), queue.lease(NOW, &lease_request));
    assert_eq!((enqueued.unwrap().queued, leased.unwrap().leases.len()), (1, 1));
    assert_eq!(pair.forwarder.accepted() - before, 1, "one new connection for both");
}

#[tokio::test]
async fn time_to_write_refuses_replica() {
    let pair = Pair::start().await;
    let queue = connect(&pair.replica().url());
    queue.time().await.expect("reading is possible");
    let error = queue.time_to_write().await.unwrap_err();
    assert!(error.is_read_only(), "{error}");
    assert!(error.to_string().contains("read-only replica: REDIS_URL has to lead to the primary"), "{error}");
    let replica = RedisBed::at(&pair.replica().url(), QueueLimits::default()).await;
    replica.command::<()>(&["CONFIG", "SET", "replica-read-only", "no"]).await;
    let error = queue.time_to_write().await.unwrap_err();
    assert!(error.is_read_only() && error.to_string().contains("loses them"), "{error}");
    let inspection = queue.inspect().await.unwrap();
    assert!(inspection.writable.is_err_and(|error| error.is_read_only()));
}

#[tokio::test]
async fn time_to_write_accepts_full_server() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    bed.make_full().await;
    bed.queue().time_to_write().await.unwrap();
}

/// A server that refuses every command with this, and its port.
async fn refusing(refusal: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = vec![0; 65536];
                while let Ok(read @ 1..) = client.read(&mut bytes).await {
                    let commands = bytes[..read].windows(2).filter(|pair| pair == b"\n*").count() + 1;
                    let answers = format!("-{refusal}\r\n").repeat(commands);
                    if client.write_all(answers.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn connection_to_wrong_server_is_dropped() {
    let server = PrivateRedis::start().await;
    for refusal in [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "LOADING Redis is loading the dataset in memory",
        "CLUSTERDOWN The cluster is down",
        "MOVED 866 :0",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "UNKILLABLE Sorry the script already executed write commands against the dataset.",
        "ERR Error running script (call to f_0a): @user_script:1: @user_script: 1: -READONLY You can't write.",
    ] {
        let forwarder = Forwarder::start(&format!("127.0.0.1:{}", refusing(refusal).await)).await;
        let queue = connect(&format!("redis://127.0.0.1:{}", forwarder.port()));
        let error = queue.lease(NOW, &lease_request(1)).await.unwrap_err();
        assert!(matches!(error, QueueError::Refused { .. }), "{refusal}: {error}");
        forwarder.move_to(server.port());
        let result = queue.lease(NOW, &lease_request(1)).await.map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(result, Ok(()), "{refusal}");
    }
}

#[tokio::test]
async fn refusal_by_our_fault_keeps_connection() {
    let bed = RedisBed::fresh().await;
    let (forwarder, url) = Forwarder::in_front_of(&bed.url()).await;
    let queue = connect(&url);
    bed.command::<()>(&["SET", "{refresh}:ready", "text"]).await;
    for _ in 0..3 {
        queue.lease(NOW, &lease_request(1)).await.unwrap_err();
    }
    assert_eq!(forwarder.accepted(), 1);
}

fn with_clock(url: &str, clock: Arc<ManualClock>) -> RedisQueue {
    let config = RedisConfig { url: url.to_owned().into(), cluster: false, namespace: "refresh".to_owned() };
    RedisQueue::connect(&config, clock).unwrap().with_timeouts(PATIENT)
}

#[tokio::test]
async fn connection_in_use_lives_ten_minutes() {
    let bed = RedisBed::fresh().await;
    let (forwarder, url) = Forwarder::in_front_of(&bed.url()).await;
    let clock = ManualClock::at(NOW);
    let queue = with_clock(&url, clock.clone());
    for minute in 0..25 {
        queue.time().await.unwrap();
        assert_eq!(forwarder.accepted(), 1 + minute / 10, "in minute {minute}");
        clock.advance(MINUTE);
    }
}

#[tokio::test]
async fn old_connection_is_kept_without_new_one() {
    let bed = RedisBed::fresh().await;
    let (forwarder, url) = Forwarder::in_front_of(&bed.url()).await;
    let clock = ManualClock::at(NOW);
    let queue = with_clock(&url, clock.clone());
    queue.time().await.unwrap();
    // Nobody listens there.
    forwarder.move_to(1);
    for _ in 0..3 {
        clock.advance(4 * MINUTE);
        queue.time().await.unwrap();
    }
    assert_eq!(forwarder.accepted(), 2, "one attempt in ten minutes");
}
