//! `queue migrate`: to another Redis, under producers who go on writing, under kills, and with leases.

use std::{collections::BTreeSet, fs, time::Duration};

use refresh_worker::{
    model::AimdState,
    queue::{Circuit, CircuitReason, CircuitScope, Fingerprint, Holder, Settlement, SharedState as _},
};
use serde_json::Value;

use super::{Bed, Shell, clan, clans, value};
use crate::support::{
    proxy::{Mode, Proxy},
    redis::PrivateRedis,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A shell that moves from one to the other; the URL of the new one is in the environment.
fn mover(from: &str, to: &str) -> Shell {
    Shell::new().with("REDIS_URL", from).with("MIGRATE_TO_REDIS_URL", to)
}

#[tokio::test]
async fn migrate_moves_everything() {
    let (old, new) = (Bed::fresh().await, Bed::fresh().await);
    old.fill().await;
    // The holder of the lease is dead: it runs out while the move waits for it.
    old.command::<()>(&["ZREM", "{refresh}:orphans", "war:orphan"]).await;
    let lease = old.command::<String>(&["HGET", "{refresh}:objects", "war:2QQ"]).await;
    let soon = old.now().await + Duration::from_secs(1);
    let mut record: Value = serde_json::from_str(&lease).unwrap();
    record["expires"] = soon.as_millis().into();
    old.command::<()>(&["HSET", "{refresh}:objects", "war:2QQ", &record.to_string()]).await;
    old.command::<()>(&["ZADD", "{refresh}:leased", &soon.as_millis().to_string(), "war:2QQ"]).await;

    let mut expected = old.objects().await;
    expected.insert("clan:2YY".to_owned());
    let output = mover(&old.url, &new.url).run(&["queue", "migrate"]).await.well();
    assert!(output.contains("moved 4 requests, 1 dead letter and 1 entry of unreadable mail"), "{output}");
    assert!(output.contains("nothing is left at the old Redis"), "{output}");
    assert_eq!(new.objects().await, expected);
    assert!(old.objects().await.is_empty());
    let stats = new.json(&["queue", "stats", "--json"]).await;
    assert_eq!(
        (&stats["queue_size"], &stats["delayed"], &stats["dead_letters"]),
        (&3.into(), &1.into(), &2.into()),
        "{stats}"
    );
    let war = new.json(&["queue", "explain", "war:2QQ", "--json"]).await;
    assert_eq!((&war["queue"]["lapses"], &war["queue"]["merges"]), (&1.into(), &2.into()), "its lease lapsed: {war}");
}

#[tokio::test]
async fn migrate_empties_a_full_redis() {
    let server = PrivateRedis::start().await;
    let (old, new) = (Bed::at(&server.url()).await, Bed::fresh().await);
    old.enqueue(&clans(3)).await;
    for name in &clans(6)[3..] {
        old.mail(name, &value(name)).await;
    }
    old.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let output = mover(&old.url, &new.url).run(&["queue", "migrate"]).await.well();
    assert!(output.contains("nothing is left at the old Redis"), "{output}");
    assert_eq!(new.objects().await, clans(6).into_iter().collect());
}

#[tokio::test]
async fn migrate_waits_for_leased_requests() {
    let (old, new) = (Bed::fresh().await, Bed::fresh().await);
    old.enqueue(&clans(1)).await;
    let lease = old.lease(Duration::from_secs(3600)).await;
    old.enqueue(&clans(3)).await;
    let mut moving = mover(&old.url, &new.url).start(&["queue", "migrate"]);
    moving.line().await;
    while old.count().await > 1 {}
    assert_eq!(new.count().await, 2);
    assert_eq!(old.objects().await.into_iter().collect::<Vec<_>>(), [clan(0)], "the leased one is still there");
    // Asked for again while it was leased: that is what moves in the end.
    old.settle(lease, Settlement::Done).await;
    moving.end().await.well();
    assert_eq!(new.objects().await, clans(3).into_iter().collect());
}

#[tokio::test]
async fn migrate_copies_the_shared_run_state() {
    let (old, new) = (Bed::fresh().await, Bed::fresh().await);
    let (cooling, learned) = (Fingerprint("0123456789ab".to_owned()), AimdState::plain(17.0));
    let now = old.now().await;
    old.queue.take_key(&cooling, "some-run", MINUTE).await.unwrap();
    old.queue.cool_down_key(&cooling, "some-run", "throttled", 5 * MINUTE).await.unwrap();
    old.queue.remember_rate(&cooling, learned).await.unwrap();
    old.queue.take_calls(now.midnight(), 40, 100).await.unwrap();
    let reason = CircuitReason::new(CircuitReason::MAINTENANCE, "status 503");
    let circuit = Circuit { scope: CircuitScope::Api, since: now, next_probe: now + MINUTE, reason };
    old.queue.open_circuit(&circuit).await.unwrap();
    let lives: Vec<String> =
        ["rate:0123456789ab", "circuit:api"].into_iter().map(|key| format!("{{coc-api}}:{key}")).collect();
    for key in &lives {
        old.command::<()>(&["PEXPIRE", key, "600000"]).await;
    }
    let shell = mover(&old.url, &new.url);
    let output = shell.run(&["queue", "migrate"]).await.well();
    assert!(output.contains("copied 4 entries of the shared run state"), "{output}");
    let seen = new.queue.look_at_key(&cooling).await.unwrap();
    assert_eq!((seen.holder, seen.aimd_state), (Holder::CoolingDown("throttled".to_owned()), Some(learned)));
    assert!(seen.for_another > MINUTE && seen.for_another <= 5 * MINUTE, "{:?}", seen.for_another);
    assert_eq!(new.queue.calls_taken(now.midnight()).await.unwrap(), 40);
    assert_eq!(new.queue.circuits().await.unwrap(), [circuit]);
    for key in &lives {
        let life: u64 = new.command(&["PTTL", key]).await;
        assert!(life > 60_000 && life <= 600_000, "{key}: {life}");
    }
    // The worker has gone on at the new one: there, what says more stays.
    new.queue.take_calls(now.midnight(), 10, 100).await.unwrap();
    new.queue.cool_down_key(&cooling, "a-run", "throttled again", 10 * MINUTE).await.unwrap();
    let output = shell.run(&["queue", "migrate"]).await.well();
    assert!(!output.contains("shared run state"), "{output}");
    assert_eq!(new.queue.calls_taken(now.midnight()).await.unwrap(), 50);
    let seen = new.queue.look_at_key(&cooling).await.unwrap();
    assert_eq!(seen.holder, Holder::CoolingDown("throttled again".to_owned()));
}

#[tokio::test]
async fn migrate_refuses_while_a_run_holds_a_key() {
    let (old, new) = (Bed::fresh().await, Bed::fresh().await);
    old.enqueue(&clans(2)).await;
    let key = Fingerprint("0123456789ab".to_owned());
    old.queue.take_key(&key, "some-run", MINUTE).await.unwrap();
    for follow in [&["queue", "migrate"][..], &["queue", "migrate", "--follow"]] {
        let output = mover(&old.url, &new.url).run(follow).await.badly(1);
        assert!(output.contains("some-run") && output.contains("0123456789ab"), "{output}");
        assert!(output.contains("nothing was moved") && output.contains("stop the worker's schedule"), "{output}");
    }
    assert_eq!((old.count().await, new.count().await), (2, 0));
    old.queue.release_key(&key, "some-run", MINUTE).await.unwrap();
    mover(&old.url, &new.url).run(&["queue", "migrate"]).await.well();
    assert_eq!(new.count().await, 2);
}

#[tokio::test]
async fn migrate_follow_moves_later_mail() {
    const REQUESTS: usize = 3000;
    let (old, new) = (Bed::fresh().await, Bed::fresh().await);
    let (proxy, target) = Proxy::in_front_of(&new.url).await;
    let shell = mover(&old.url, &target);
    let following = shell.start(&["queue", "migrate", "--follow", "--json"]);
    let producers = (0..3).map(|producer| {
        let connection = old.connection.clone();
        tokio::spawn(async move {
            for number in (producer..REQUESTS).step_by(3) {
                produce(connection.clone(), &clan(number)).await;
                // A hot one, again and again.
                produce(connection.clone(), &clan(REQUESTS)).await;
            }
        })
    });
    let producers: Vec<_> = producers.collect();
    // The new Redis goes away for a moment, in the middle of it.
    while new.count().await < REQUESTS / 10 {}
    proxy.set(Mode::Refuse);
    while old.command::<usize>(&["HLEN", "refresh_requests"]).await < REQUESTS / 20 {}
    proxy.set(Mode::Pass);
    for producer in producers {
        producer.await.unwrap();
    }
    let all: BTreeSet<String> = clans(REQUESTS + 1).into_iter().collect();
    // The hot one is asked for to the end: it lies in the mailbox of the old Redis, then in its queue, then it has moved.
    let mailbox = async || old.command::<usize>(&["HLEN", "refresh_requests"]).await;
    let arrived = async { while new.count().await < all.len() || mailbox().await > 0 || old.count().await > 0 {} };
    tokio::time::timeout(Duration::from_secs(240), arrived).await.expect("everything arrives");
    following.interrupt();
    let ran = following.end().await;
    let output: Value = serde_json::from_str(&ran.well()).unwrap();
    assert!(output["requests"].as_u64().unwrap() > REQUESTS as u64, "{output}");
    assert_eq!((&output["left"]["waiting"], &output["left"]["mailbox"]), (&0.into(), &0.into()), "{output}");
    assert_eq!(new.objects().await, all, "none lost, none doubled");
}

/// A producer's five single commands.
async fn produce(mut connection: redis::aio::MultiplexedConnection, id: &str) {
    let known: bool = redis::cmd("HEXISTS").arg("refresh_requests").arg(id).query_async(&mut connection).await.unwrap();
    if known {
        redis::cmd("ZREM").arg("refresh_queue").arg(id).exec_async(&mut connection).await.unwrap();
        redis::cmd("HDEL").arg("refresh_requests").arg(id).exec_async(&mut connection).await.unwrap();
    }
    redis::cmd("ZADD").arg("refresh_queue").arg(1).arg(id).exec_async(&mut connection).await.unwrap();
    redis::cmd("HSET").arg("refresh_requests").arg(id).arg(value(id)).exec_async(&mut connection).await.unwrap();
}

#[tokio::test]
async fn migrate_killed_repeatedly_loses_nothing() {
    const REQUESTS: usize = 4000;
    let (old, new) = (Bed::fresh().await, Bed::fresh().await);
    old.enqueue(&clans(REQUESTS / 2)).await;
    for number in REQUESTS / 2..REQUESTS {
        old.mail(&clan(number), &value(&clan(number))).await;
    }
    let (proxy, slow_target) = Proxy::in_front_of(&new.url).await;
    proxy.set(Mode::Slow(Duration::from_millis(10)));
    let all: BTreeSet<String> = clans(REQUESTS).into_iter().collect();
    let mut kills = 0;
    for _ in 0..4 {
        let before = new.count().await;
        let moving = mover(&old.url, &slow_target).start(&["queue", "migrate"]);
        while new.count().await == before {}
        moving.kill().await;
        kills += 1;
        let mut anywhere: BTreeSet<String> = new.objects().await;
        anywhere.extend(old.objects().await);
        anywhere.extend(old.command::<Vec<String>>(&["HKEYS", "refresh_requests"]).await);
        assert_eq!(anywhere, all, "after kill {kills} each is at one of them, or at both");
    }
    assert!(new.count().await < REQUESTS, "killed in the middle");
    let output = mover(&old.url, &new.url).run(&["queue", "migrate"]).await.well();
    assert!(output.contains("nothing is left"), "{output}");
    assert_eq!(new.objects().await, all);
    assert_eq!(new.json(&["queue", "stats", "--json"]).await["queue_size"], REQUESTS);
}

#[tokio::test]
async fn migrate_refuses_the_same_database() {
    let bed = Bed::fresh().await;
    bed.enqueue(&clans(3)).await;
    for name in [bed.url.clone(), bed.url.replace("127.0.0.1", "localhost")] {
        let output = mover(&bed.url, &name).run(&["queue", "migrate"]).await.badly(2);
        assert!(output.contains("are the same database"), "{output}");
    }
    assert_eq!(bed.objects().await.len(), 3);
}

#[tokio::test]
async fn migrate_url_comes_from_file_or_variable() {
    let (old, new) = (Bed::fresh().await, Bed::fresh().await);
    old.enqueue(&clans(2)).await;
    let shell = Shell::new().with("REDIS_URL", &old.url);
    fs::write(shell.folder().join("url"), format!("{}\n", new.url)).unwrap();
    shell.run(&["queue", "migrate", "--to-file", "url"]).await.well();
    assert_eq!(new.objects().await.len(), 2);

    let ran = shell.run(&["queue", "migrate", "--to", "redis://user:hunter2@127.0.0.1:1"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("127.0.0.1:1") && ran.stderr.contains("list of processes"), "{}", ran.stderr);
    assert!(!(ran.stdout + &ran.stderr).contains("hunter2"));
    let output = shell.run(&["queue", "migrate"]).await.badly(2);
    assert!(output.contains("MIGRATE_TO_REDIS_URL is not set"), "{output}");
}
