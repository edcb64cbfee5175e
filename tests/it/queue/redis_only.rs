//! What only a server can do: be full, be gone, hold something else, be asked by two at once.

use std::{collections::BTreeSet, process::Command, time::Duration};

use refresh_worker::{
    clock::ManualClock,
    clock::Timestamp,
    config::RedisConfig,
    model::{AimdState, Priority, RefreshRequest},
    queue::{
        CallsGranted, Fingerprint, Holder, LeaseRequest, MailLimits, Queue as _, QueueError, Settlement,
        SharedState as _, Slot,
        record::{QueueLimits, State},
        redis::{RedisQueue, Timeouts},
    },
};

use super::{
    beds::{Bed, NOW, RedisBed, connect, connect_with, lease_request, names, open_circuit, tag, value},
    contract::settle,
};
use crate::support::redis::PrivateRedis;

const SECOND: Duration = Duration::from_secs(1);
const IMPATIENT: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    first_reply: Duration::from_millis(500),
    response: Duration::from_millis(500),
};

async fn requests(bed: &RedisBed, count: usize) {
    let requests: Vec<RefreshRequest> = (0..count)
        .map(|number| RefreshRequest::now(format!("clan:{}", tag(number)).parse().unwrap(), Priority::High, NOW))
        .collect();
    bed.queue().enqueue(NOW, &requests).await.unwrap();
}

/// Everything in the database, byte for byte.
async fn everything(bed: &RedisBed) -> Vec<(String, Vec<u8>)> {
    let mut keys: Vec<String> = bed.command(&["KEYS", "*"]).await;
    keys.sort_unstable();
    let mut all = Vec::new();
    for key in keys {
        let value: Vec<u8> = bed.command(&["DUMP", &key]).await;
        all.push((key, value));
    }
    all
}

#[tokio::test]
async fn our_keys_lie_in_two_hash_slots() {
    let bed = RedisBed::fresh().await;
    requests(&bed, 3).await;
    bed.put_mail("x", 1.0, "junk").await;
    bed.put_index(b"y", 1.0).await;
    bed.admit(NOW).await;
    bed.lease_one(NOW).await;
    let key = Fingerprint("f".to_owned());
    bed.queue().take_key(&key, "run", SECOND).await.unwrap();
    bed.queue().remember_rate(&key, AimdState::plain(1.0)).await.unwrap();
    bed.queue().take_calls(NOW.midnight(), 1, 10).await.unwrap();
    let keys: Vec<String> = bed.command(&["KEYS", "*"]).await;
    assert!(keys.len() >= 7, "{keys:?}");
    let ours = keys.iter().filter(|key| !key.starts_with("refresh_"));
    for key in ours {
        assert!(key.starts_with("{refresh}:") || key.starts_with("{coc-api}:"), "{key}");
    }
}

#[tokio::test]
async fn wrong_key_type_is_refused_before_writing() {
    for (key, action) in [("{refresh}:ready", "lease"), ("{refresh}:orphans", "admit"), ("{refresh}:dead", "settle")] {
        let bed = RedisBed::fresh().await;
        requests(&bed, 2).await;
        let lease = bed.lease_one(NOW).await;
        bed.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW)).await;
        let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
        bed.command::<()>(&["SET", key, "something else"]).await;
        let before = everything(&bed).await;
        let error = match action {
            "lease" => bed.queue().lease(NOW, &lease_request(1)).await.unwrap_err(),
            "admit" => bed.queue().admit(NOW, mail).await.unwrap_err(),
            _ => bed.queue().settle(NOW, &[(lease, Settlement::Done)]).await.unwrap_err(),
        };
        assert!(matches!(error, QueueError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(key) && error.to_string().contains("expected a zset"), "{error}");
        assert_eq!(everything(&bed).await, before);
    }
}

#[tokio::test]
async fn bad_argument_is_refused_before_writing() {
    let bed = RedisBed::fresh().await;
    let script =
        concat!(include_str!("../../../src/queue/lua/prelude.lua"), include_str!("../../../src/queue/lua/enqueue.lua"));
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(12);
    for key in 0..12 {
        command.arg(format!("key{key}"));
    }
    let mut good_then_bad = command.clone();
    good_then_bad.arg(&["1", "clan:2PP", "0", "1", "1", "0", "clan:2QQ", "0", "1.5", "1", "0"]);
    let url = crate::support::redis::fresh().await;
    let mut connection = crate::support::redis::connect(&url).await.unwrap();
    let error = good_then_bad.query_async::<i64>(&mut connection).await.unwrap_err();
    assert!(error.to_string().contains("argument 9 of 11"), "{error}");
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
    drop(bed);
}

#[tokio::test]
async fn full_redis_can_be_drained() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    requests(&bed, 3).await;
    bed.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW)).await;
    bed.put_mail("junk", 1.0, "junk").await;
    bed.put_index(b"orphan", 1.0).await;
    bed.make_full().await;
    let before = everything(&bed).await;
    let request = RefreshRequest::now("clan:2QQ".parse().unwrap(), Priority::High, NOW);
    let error = bed.queue().enqueue(NOW, &[request]).await.unwrap_err();
    assert!(matches!(&error, QueueError::Refused { detail, .. } if detail.contains("OOM")), "{error}");
    assert_eq!(everything(&bed).await, before);

    // What admission puts into the queue it deletes from the mailbox in the same step.
    let admitted = bed.admit(NOW).await;
    assert_eq!((admitted.admitted, admitted.unreadable, admitted.orphaned), (1, 1, 1), "{admitted:?}");
    let contents = bed.dump().await;
    assert_eq!((contents.index.len(), contents.data.len(), contents.records.len()), (0, 0, 4));

    let lease = bed.lease_one(NOW).await;
    let renewal = [(lease.object.clone(), lease.token.clone())];
    assert_eq!(bed.queue().renew(NOW, &renewal, NOW + 30 * SECOND).await.unwrap(), [true]);
    settle(&bed, NOW, &lease, Settlement::Done).await;
    assert_eq!(bed.dump().await.records.len(), 3, "a full Redis is drained");
}

#[tokio::test]
async fn full_redis_accepts_shared_state() {
    const REST: Duration = Duration::from_secs(60);
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let queue = bed.queue();
    bed.make_full().await;
    let key = Fingerprint("0123456789ab".to_owned());
    let learned = Some(AimdState::plain(17.0));
    assert_eq!(queue.take_key(&key, "a", REST).await.unwrap(), Slot::Taken { aimd_state: None });
    assert_eq!(queue.renew_keys(std::slice::from_ref(&key), "a", REST).await.unwrap(), [true]);
    queue.remember_rate(&key, AimdState::plain(17.0)).await.unwrap();
    queue.cool_down_key(&key, "a", "throttled", REST).await.unwrap();
    let seen = queue.look_at_key(&key).await.unwrap();
    assert_eq!((seen.holder, seen.aimd_state), (Holder::CoolingDown("throttled".to_owned()), learned));
    assert!(queue.end_cooldown(&key).await.unwrap());
    assert_eq!(queue.take_key(&key, "b", REST).await.unwrap(), Slot::Taken { aimd_state: learned });
    queue.release_key(&key, "b", REST).await.unwrap();
    assert!(matches!(queue.take_key(&key, "a", REST).await.unwrap(), Slot::Held { .. }));

    let day = NOW.midnight();
    for taken in [40, 80] {
        assert_eq!(queue.take_calls(day, 40, 100).await.unwrap(), CallsGranted { granted: 40, taken });
    }
    queue.return_calls(day, 30).await.unwrap();
    assert_eq!(queue.calls_taken(day).await.unwrap(), 50);
    let life: i64 = bed.command(&["PTTL", &format!("{{coc-api}}:calls:{}", day.to_utc().date())]).await;
    assert!(life > 0, "it does not live for ever: {life}");

    let circuit = open_circuit(NOW + REST);
    queue.open_circuit(&circuit).await.unwrap();
    assert_eq!(queue.circuits().await.unwrap(), std::slice::from_ref(&circuit));
    assert!(queue.claim_probe(circuit.scope, circuit.next_probe, NOW + 2 * REST).await.unwrap());
    queue.close_circuit(circuit.scope).await.unwrap();
    assert_eq!(queue.circuits().await.unwrap(), []);
}

#[tokio::test]
async fn lease_follows_record_where_sets_differ() {
    let bed = RedisBed::fresh().await;
    requests(&bed, 2).await;
    // A score of the critical class: it comes before the two requests, which are high.
    let first_place = NOW.as_millis().to_string();
    // A name in three sets that has no record: it gets one, and is leased.
    for set in ["ready", "leased", "delayed:low"] {
        bed.command::<()>(&["ZADD", &format!("{{refresh}}:{set}"), "1", "clan:2CC"]).await;
    }
    // Now its record is leased, and it also stands among the ready: it must not be leased twice.
    let lease = bed.lease_one(NOW).await;
    assert_eq!(lease.object.to_string(), "clan:2CC");
    bed.command::<()>(&["ZADD", "{refresh}:ready", &first_place, &lease.object.to_string()]).await;
    // A ready record that also stands among the leased and the delayed: it is leased, and has not lapsed.
    let other = format!("clan:{}", tag(1));
    bed.command::<()>(&["ZADD", "{refresh}:leased", "1", &other]).await;
    bed.command::<()>(&["ZADD", "{refresh}:delayed:critical", "1", &other]).await;
    let leased = bed.lease(NOW, &lease_request(5)).await;
    assert_eq!((names(&leased), leased.lapsed), (vec![format!("clan:{}", tag(0)), other], 0));
    let contents = bed.dump().await;
    assert!(contents.records.values().all(|record| record.state == State::Leased));
}

#[tokio::test]
async fn four_workers_never_lease_same_object() {
    let url = crate::support::redis::fresh().await;
    let bed = RedisBed::at(&url, QueueLimits::default()).await;
    requests(&bed, 60).await;
    let queues: Vec<_> = (0..4).map(|_| connect(&url)).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        // One seed draws the same for each, so all four want the same requests.
        let request = LeaseRequest { seed: 7, ..lease_request(4) };
        let [one, two, three, four] = &queues[..] else { unreachable!() };
        let batches = tokio::join!(
            one.lease(NOW, &request),
            two.lease(NOW, &request),
            three.lease(NOW, &request),
            four.lease(NOW, &request)
        );
        for leased in [batches.0, batches.1, batches.2, batches.3] {
            for lease in leased.unwrap().leases {
                assert!(seen.insert((lease.object.to_string(), lease.token.0)));
            }
        }
    }
    let objects: BTreeSet<_> = seen.iter().map(|(object, _)| object).collect();
    let tokens: BTreeSet<_> = seen.iter().map(|(_, token)| token).collect();
    assert_eq!((objects.len(), tokens.len()), (60, 60));
}

#[tokio::test]
async fn two_workers_admit_mail_once() {
    let url = crate::support::redis::fresh().await;
    let bed = RedisBed::at(&url, QueueLimits::default()).await;
    for number in 0..40 {
        let object = format!("clan:{}", tag(number));
        bed.put_mail(&object, 1.0, &value(&object, 1, NOW)).await;
    }
    let (one, two) = (connect(&url), connect(&url));
    let (first, second) = (
        one.read_mail(NOW, MailLimits::default()).await.unwrap(),
        two.read_mail(NOW, MailLimits::default()).await.unwrap(),
    );
    let answers = tokio::join!(one.admit(NOW, first), two.admit(NOW, second));
    let (first, second) = (answers.0.unwrap(), answers.1.unwrap());
    assert_eq!(first.admitted + second.admitted, 40);
    assert_eq!(first.changed + second.changed, 40);
    assert!(bed.dump().await.records.values().all(|record| record.merges == 1));
}

#[tokio::test]
async fn data_scan_continues_at_its_cursor() {
    let bed = RedisBed::fresh().await;
    for number in 0..2000 {
        let object = format!("clan:{}", tag(number));
        bed.put_index(object.as_bytes(), 3.0).await;
        bed.put_data(object.as_bytes(), value(&object, 3, NOW).as_bytes()).await;
    }
    bed.put_data(b"war:2PP", value("war:2PP", 1, NOW).as_bytes()).await;
    let limits = MailLimits { per_class: 1, scan: 100, ..MailLimits::default() };
    let mut found = 0;
    for _ in 0..40 {
        let mail = bed.queue().read_mail(NOW, limits).await.unwrap();
        assert!(mail.entries.len() <= 300, "a slice is bounded");
        found += bed.queue().admit(NOW, mail).await.unwrap().found_by_scan;
    }
    assert_eq!(found, 1);
    assert!(bed.record("war:2PP").await.is_some());
}

#[tokio::test]
async fn flood_of_clans_starves_nothing() {
    let bed = RedisBed::fresh().await;
    bed.flood(0..50_000).await;
    let earlier = Timestamp::from_millis(NOW.as_millis() - 60_000);
    let older: Vec<String> = ["war:2PP", "player:2PP", "clan:2PYLQGR"].map(str::to_owned).into();
    for object in &older {
        bed.put_mail(object, 1.0, &value(object, 1, earlier)).await;
    }
    let mut admitted_after = std::collections::BTreeMap::new();
    let mut next = 50_000;
    for slice in 1..=250 {
        let admitted = bed.admit(NOW).await;
        assert!((250..1500).contains(&admitted.admitted), "a slice is bounded and full: {admitted:?}");
        // The flood goes on: what is taken comes again.
        bed.flood(next..next + admitted.admitted).await;
        next += admitted.admitted;
        for object in &older {
            let known: bool = bed.command(&["HEXISTS", "{refresh}:objects", object]).await;
            if known {
                admitted_after.entry(object.clone()).or_insert(slice);
            }
        }
        if admitted_after.len() == older.len() {
            break;
        }
    }
    assert!(admitted_after["war:2PP"] <= 3 && admitted_after["player:2PP"] <= 3, "{admitted_after:?}");
    // One tour of the scan, of which a step takes about 500.
    assert!(admitted_after["clan:2PYLQGR"] <= 120, "{admitted_after:?}");
}

#[tokio::test]
async fn dropped_connection_is_replaced_silently() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    bed.queue().time().await.unwrap();
    for _ in 0..3 {
        bed.command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        bed.queue().time().await.unwrap();
    }
}

#[tokio::test]
async fn scripts_are_reloaded_after_restart() {
    let mut server = PrivateRedis::start().await;
    let queue = connect(&server.url());
    let request = RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::High, NOW);
    queue.enqueue(NOW, std::slice::from_ref(&request)).await.unwrap();
    server.stop().await;
    server.start_again().await;
    queue.time().await.unwrap();
    queue.enqueue(NOW, &[request]).await.unwrap();
    assert_eq!(names(&queue.lease(NOW, &lease_request(1)).await.unwrap()), ["clan:2PP"]);
}

#[tokio::test]
async fn silent_redis_is_unreachable_in_time() {
    let mut server = PrivateRedis::start().await;
    let queue = connect_with(&server.url(), IMPATIENT);
    queue.time().await.unwrap();
    server.freeze().await;
    let error = queue.time().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("no answer in time"), "{error}");
    server.thaw().await;
    queue.time().await.unwrap();
    server.stop().await;
    let error = queue.lease(NOW, &lease_request(1)).await.unwrap_err();
    assert!(matches!(&error, QueueError::Unreachable { server, .. } if server.contains("127.0.0.1")), "{error}");
}

#[tokio::test]
async fn credentials_are_used_and_never_shown() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    bed.command::<()>(&["ACL", "SETUSER", "worker", "on", ">s3cret", "~*", "+@all"]).await;
    bed.command::<()>(&["CONFIG", "SET", "requirepass", "s3cret"]).await;
    let address = format!("127.0.0.1:{}/3", server.port());
    for user in ["worker:s3cret@", ":s3cret@"] {
        let queue = connect(&format!("redis://{user}{address}"));
        queue.time().await.unwrap();
        assert_eq!(queue.server(), format!("redis://{address}"));
        assert!(!format!("{queue:?}").contains("s3cret"));
    }
    for user in ["worker:s3cr3t@", ""] {
        let error = connect(&format!("redis://{user}{address}")).time().await.unwrap_err();
        assert!(matches!(error, QueueError::Refused { .. }), "{error}");
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }
}

#[tokio::test]
async fn tls_and_plain_servers_are_distinguished() {
    let server = PrivateRedis::start().await;
    let error = connect_with(&server.url().replace("redis:", "rediss:"), IMPATIENT).time().await.unwrap_err();
    assert!(matches!(error, QueueError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn unix_socket_works_like_port() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let mut server = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--dir"])
        .arg(folder.path())
        .arg("--unixsocket")
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("redis-server is installed: `sudo apt-get install redis-server`");
    let queue = connect(&format!("unix://{}?db=2", socket.display()));
    let mut answer = queue.time().await;
    for _ in 0..500 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        answer = queue.time().await;
    }
    let database = queue.database();
    server.kill().unwrap();
    server.wait().unwrap();
    answer.unwrap();
    assert_eq!(database, 2);
}

#[tokio::test]
async fn stats_report_mail_in_database_0() {
    let server = PrivateRedis::start().await;
    let producers = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let elsewhere = connect(&server.database_url(5));
    assert_eq!(elsewhere.stats(NOW).await.unwrap().mail_in_database_0, None);
    producers.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW)).await;
    let stats = elsewhere.stats(NOW).await.unwrap();
    assert_eq!((stats.mail_in_database_0, stats.mailbox), (Some(1), 0));
    let stats = producers.queue().stats(NOW).await.unwrap();
    assert_eq!((stats.mail_in_database_0, stats.mailbox), (None, 1));
}

#[tokio::test]
async fn floors_serve_every_priority() {
    let bed = RedisBed::fresh().await;
    let mut requests = Vec::new();
    for number in 0..1600 {
        let class = Priority::ALL[number % 4];
        requests.push(RefreshRequest::now(format!("clan:{}", tag(number)).parse().unwrap(), class, NOW));
    }
    bed.queue().enqueue(NOW, &requests).await.unwrap();
    let mut served = std::collections::BTreeMap::new();
    for seed in 0..20 {
        let asked = LeaseRequest { seed: seed * 7919, duration: Duration::from_secs(600), ..lease_request(20) };
        for lease in bed.lease(NOW, &asked).await.leases {
            *served.entry(lease.priority).or_insert(0) += 1;
        }
    }
    // Of 400 places about 5 % LOW, 5 % MEDIUM, 10 % HIGH, and the rest CRITICAL.
    assert!((8..40).contains(&served[&Priority::Low]), "{served:?}");
    assert!((8..40).contains(&served[&Priority::Medium]), "{served:?}");
    assert!((20..70).contains(&served[&Priority::High]), "{served:?}");
    assert!(served[&Priority::Critical] > 280, "{served:?}");
}

/// The scan finds the data of the orphans beyond it.
#[tokio::test]
async fn slice_of_orphans_is_bounded() {
    let bed = RedisBed::fresh().await;
    for number in 0..300 {
        bed.put_index(format!("clan:{}", tag(number)).as_bytes(), 2.0).await;
    }
    let all = MailLimits { per_class: 1000, ..MailLimits::default() };
    let mail = bed.queue().read_mail(NOW, all).await.unwrap();
    assert_eq!(bed.queue().admit(NOW, mail).await.unwrap().orphaned, 300);
    assert_eq!(bed.queue().read_mail(NOW, all).await.unwrap().entries.len(), 200);
    for number in 0..300 {
        let object = format!("clan:{}", tag(number));
        bed.put_data(object.as_bytes(), value(&object, 2, NOW).as_bytes()).await;
    }
    let mut admitted = 0;
    for _ in 0..10 {
        admitted += bed.admit(NOW).await.admitted;
    }
    assert_eq!(admitted, 300);
    let contents = bed.dump().await;
    assert!(contents.orphans.is_empty() && contents.data.is_empty());
}

#[tokio::test]
async fn idle_connection_is_replaced() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let clock = ManualClock::at(NOW);
    let config = RedisConfig { url: server.url().into(), cluster: false, namespace: "refresh".to_owned() };
    let queue = RedisQueue::connect(&config, clock.clone()).unwrap();
    let mut connections = Vec::new();
    for idle in [0, 200, 200, 301] {
        clock.advance(idle * SECOND);
        queue.time().await.unwrap();
        let stats: String = bed.command(&["INFO", "stats"]).await;
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
        connections.push(count.trim().parse::<u64>().unwrap());
    }
    let [first, second, third, fourth] = connections[..] else { unreachable!() };
    assert_eq!((second, third, fourth), (first, first, first + 1));
}

#[tokio::test]
async fn namespace_names_our_keys() {
    let url = crate::support::redis::fresh().await;
    let bed = RedisBed::at(&url, QueueLimits::default()).await;
    let config = RedisConfig { url: url.into(), cluster: false, namespace: "other".to_owned() };
    let other = RedisQueue::connect(&config, ManualClock::at(NOW)).unwrap();
    requests(&bed, 1).await;
    assert_eq!(other.stats(NOW).await.unwrap().ready, 0);
    let request = RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::High, NOW);
    other.enqueue(NOW, &[request]).await.unwrap();
    assert_eq!(bed.command::<i64>(&["EXISTS", "{other}:objects"]).await, 1);
    assert_eq!(bed.queue().stats(NOW).await.unwrap().ready, 1);
    assert_eq!(bed.queue().other_namespaces().await.unwrap(), [("other".to_owned(), 1)].into());
    assert_eq!(other.other_namespaces().await.unwrap(), [("refresh".to_owned(), 1)].into());
}

#[tokio::test]
async fn namespaces_share_keys_days_and_circuits() {
    let url = crate::support::redis::fresh().await;
    let bed = RedisBed::at(&url, QueueLimits::default()).await;
    let config = RedisConfig { url: url.into(), cluster: false, namespace: "other".to_owned() };
    let (ours, other) = (bed.queue(), RedisQueue::connect(&config, ManualClock::at(NOW)).unwrap());
    let (key, learned, day) = (Fingerprint("f".to_owned()), AimdState::plain(7.0), NOW.midnight());
    ours.remember_rate(&key, learned).await.unwrap();
    ours.take_key(&key, "a", SECOND).await.unwrap();
    assert!(matches!(other.take_key(&key, "b", SECOND).await.unwrap(), Slot::Held { .. }));
    assert_eq!(other.look_at_key(&key).await.unwrap().aimd_state, Some(learned));
    ours.take_calls(day, 60, 100).await.unwrap();
    assert_eq!(other.take_calls(day, 60, 100).await.unwrap(), CallsGranted { granted: 40, taken: 100 });
    ours.open_circuit(&open_circuit(NOW)).await.unwrap();
    assert_eq!(other.circuits().await.unwrap(), [open_circuit(NOW)]);
}
