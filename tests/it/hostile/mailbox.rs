//! A mailbox full of broken mail, on a real Redis and through the real binary: good entries are done, and the others are accounted for.

use redis::aio::MultiplexedConnection;
use refresh_worker::{
    clock::{Clock as _, SystemClock},
    queue::mailbox::{Content, Decision, Entry, Id, Source},
};

use super::{mail, some};
use crate::lambda::{
    events,
    world::{PLENTY, World},
};

async fn put(redis: &mut MultiplexedConnection, id: &[u8], score: &str, value: &[u8]) {
    redis::cmd("ZADD").arg("refresh_queue").arg(score).arg(id).exec_async(redis).await.expect("a score");
    redis::cmd("HSET").arg("refresh_requests").arg(id).arg(value).exec_async(redis).await.expect("HSET");
}

#[tokio::test]
async fn broken_mail_becomes_dead_letters_good_mail_done() {
    let world = World::start().await;
    let players = world.mail_players(5).await;
    let mut redis = world.redis().await;
    let mut broken = std::collections::BTreeSet::new();
    for (id, score, value) in some(300, &mail::entry()) {
        // Redis itself refuses a score that is not a number.
        let score = if score == "nan" { "inf" } else { score.as_str() };
        // Readable entries request objects that the API does not know: a call each, which another test covers.
        let entry = Entry {
            id: Id::Whole(id.clone()),
            source: Source::Index { score: score.to_owned() },
            content: Content::Value(value.clone()),
        };
        if matches!(entry.decide(SystemClock.wall(), 3), Decision::Refuse(_)) {
            put(&mut redis, &id, score, &value).await;
            broken.insert(id);
        }
    }
    assert!(broken.len() > 50, "{} broken", broken.len());

    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let answer = run.response();
    assert_eq!(answer["outcomes"]["stored"], players.len(), "{answer}");
    assert_eq!(answer["mail"]["unreadable"], broken.len(), "{answer}");
    let sizes = world.sizes().await;
    assert_eq!((sizes.mailbox, sizes.dead), (0, broken.len() as u64), "{sizes:?}");
    assert_eq!(world.simulator.total_calls(), players.len() as u64, "no call for what cannot be read");
}

#[tokio::test]
async fn dataless_entries_do_not_delay_good_mail() {
    let world = World::start().await;
    let mut redis = world.redis().await;
    for chunk in 0..100 {
        let mut pipe = redis::pipe();
        for number in 0..1_000 {
            let id = format!("clan:#GONE{chunk}-{number}");
            pipe.cmd("ZADD").arg("refresh_queue").arg(number % 4).arg(id).ignore();
        }
        pipe.exec_async(&mut redis).await.expect("Redis takes them");
    }
    let players = world.mail_players(20).await;
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let answer = run.response();
    assert_eq!(answer["outcomes"]["stored"], players.len(), "{answer}");
    assert_eq!(answer["orphans"], 100_000, "{answer}");
    let peak = worker.peak_memory_bytes().expect("the kernel reports it");
    assert!(peak < 64 << 20, "{} MiB", peak >> 20);
}
