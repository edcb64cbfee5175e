//! What only a cluster can do: keep the mailbox's keys apart from ours, and let others in between the steps of one admission.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake},
    time::Duration,
};

use refresh_worker::{
    clock::Timestamp,
    model::{Event, Priority, RefreshRequest},
    queue::{
        Fingerprint, MailLimits, ORPHAN_TIMEOUT, Publisher as _, Queue as _, QueueError, SharedState as _,
        record::QueueLimits, redis::SharedEntry,
    },
};

use super::beds::{Bed, NOW, PATIENT, RedisBed, connect_as, lease_request, tag, value};
use crate::support::redis::{Cluster, PrivateRedis};

/// Polls a future this often and no more: what it was about to do next it never does.
async fn poll_times<F: Future + Unpin>(future: &mut F, times: usize) -> Option<F::Output> {
    let mut polls = 0;
    std::future::poll_fn(|context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        pin!(&mut *future).poll(context).map(Some)
    })
    .await
}

/// Counts how often a future was woken: each answer that it waits for wakes it.
#[derive(Default)]
struct Woken {
    times: std::sync::atomic::AtomicU64,
    again: tokio::sync::Notify,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.times.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.again.notify_one();
    }
}

/// Lets a future go on until the moment has come, looking whenever it got an answer and before it acts on it. What it was
/// about to do next it never does.
async fn run_until<F: Future + Unpin>(future: &mut F, mut moment_has_come: impl AsyncFnMut() -> bool) {
    let woken = Arc::new(Woken::default());
    let count = || woken.times.load(std::sync::atomic::Ordering::Relaxed);
    let waker = Arc::clone(&woken).into();
    while pin!(&mut *future).poll(&mut Context::from_waker(&waker)).is_pending() {
        woken.again.notified().await;
        loop {
            let before = count();
            if moment_has_come().await {
                return;
            }
            // An answer that came while we looked may be the one that was looked for.
            if count() == before {
                break;
            }
        }
    }
    panic!("the future ended before the moment came");
}

#[tokio::test]
async fn cluster_node_without_variable_names_fix() {
    let cluster = Cluster::fresh().await;
    for node in 0..3 {
        let queue = connect_as(&cluster.node_url(node), PATIENT, false);
        queue.time().await.unwrap();
        let error = queue.read_mail(NOW, MailLimits::default()).await.unwrap_err();
        assert!(matches!(error, QueueError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("set REDIS_CLUSTER=true"), "{error}");
    }
}

#[tokio::test]
async fn single_server_with_variable_names_fix() {
    let server = PrivateRedis::start().await;
    let error = connect_as(&server.url(), PATIENT, true).time().await.unwrap_err();
    assert!(error.to_string().contains("take REDIS_CLUSTER=true away"), "{error}");
}

/// The time is that of the node that holds our keys.
#[tokio::test]
async fn every_node_leads_to_whole_cluster() {
    let cluster = Cluster::fresh().await;
    for node in 0..3 {
        let queue = connect_as(&cluster.node_url(node), PATIENT, true);
        queue.time().await.unwrap();
        assert_eq!(queue.stats(NOW).await.unwrap().queue_size(), 0);
        let inspection = queue.inspect().await.unwrap();
        assert!(inspection.cluster && inspection.writable.is_ok(), "{inspection:?}");
    }
}

#[tokio::test]
async fn admission_cut_before_deletion_is_merged_twice() {
    let bed = RedisBed::on_cluster(QueueLimits::default()).await;
    let id = "clan:2PP";
    bed.put_mail(id, 1.0, &value(id, 1, NOW)).await;
    let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
    let mut admission = Box::pin(bed.queue().admit(NOW, mail));
    // Not a dump: it compares records and sets, which the admission is writing meanwhile.
    let is_admitted = async || bed.command::<bool>(&["HEXISTS", "{refresh}:objects", id]).await;
    run_until(&mut admission, is_admitted).await;
    drop(admission);
    let contents = bed.dump().await;
    assert_eq!((contents.records[id].merges, contents.data.len(), contents.index.len()), (1, 1, 1), "in both places");

    bed.admit(NOW).await;
    let contents = bed.dump().await;
    assert_eq!(contents.records[id].merges, 2);
    assert!(contents.index.is_empty() && contents.data.is_empty(), "{contents:?}");
}

#[tokio::test]
async fn admission_cut_anywhere_loses_nothing() {
    let bed = RedisBed::on_cluster(QueueLimits::default()).await;
    let (mut finished, mut cut) = (0, 0);
    for polls in 1..40 {
        bed.command::<()>(&["FLUSHALL"]).await;
        for number in 0..3 {
            let object = format!("clan:{}", tag(number));
            bed.put_mail(&object, 1.0, &value(&object, 1, NOW)).await;
        }
        bed.put_index(b"clan:2PP", 1.0).await;
        let orphan = value("clan:2PP", 1, NOW);
        let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
        let mut admission = Box::pin(bed.queue().admit(NOW, mail));
        match poll_times(&mut admission, polls).await {
            Some(admitted) => finished += usize::from(admitted.is_ok()),
            None => cut += 1,
        }
        // What was handed to the connection's tasks goes out before the admission ends.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(admission);
        // The data of the half-written request comes after all.
        bed.put_data(b"clan:2PP", orphan.as_bytes()).await;
        for _ in 0..3 {
            bed.admit(NOW).await;
        }
        let contents = bed.dump().await;
        assert_eq!(contents.records.len(), 4, "after {polls} polls");
        assert!(contents.index.is_empty() && contents.data.is_empty(), "after {polls} polls: {contents:?}");
        // What lost its data and kept its index entry is given up like every half-written request.
        let given_up = bed.admit(NOW + ORPHAN_TIMEOUT).await;
        assert_eq!(given_up.orphans_dropped, contents.orphans.len(), "after {polls} polls");
    }
    assert!(finished > 0 && cut > 3, "{finished} finished, {cut} were cut");
}

#[tokio::test]
async fn producer_between_admission_steps_loses_nothing() {
    let bed = RedisBed::on_cluster(QueueLimits::default()).await;
    let id = "clan:2PP";
    let later = Timestamp::from_millis(NOW.as_millis() + 60_000);
    for polls in 1..24 {
        for first_steps in 0..=4 {
            bed.command::<()>(&["FLUSHALL"]).await;
            bed.put_mail(id, 1.0, &value(id, 1, NOW)).await;
            let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
            let mut admission = Box::pin(bed.queue().admit(later, mail));
            let early = poll_times(&mut admission, polls).await;
            producer(&bed, id, later, 0..first_steps).await;
            match early {
                Some(admitted) => admitted.unwrap(),
                None => admission.as_mut().await.unwrap(),
            };
            producer(&bed, id, later, first_steps..4).await;
            for _ in 0..3 {
                bed.admit(later).await;
            }
            let contents = bed.dump().await;
            let record = &contents.records[id];
            assert_eq!(record.wanted.last, later, "{first_steps} steps after {polls} polls");
            assert!(contents.data.is_empty() && contents.index.is_empty(), "{contents:?}");
        }
    }
}

/// Steps of a producer that queues a request again under an id it knows.
async fn producer(bed: &RedisBed, id: &str, asked: Timestamp, steps: std::ops::Range<usize>) {
    for step in steps {
        match step {
            0 => bed.remove_index(id.as_bytes()).await,
            1 => bed.remove_data(id.as_bytes()).await,
            2 => bed.put_index(id.as_bytes(), 1.0).await,
            _ => bed.put_data(id.as_bytes(), value(id, 1, asked).as_bytes()).await,
        }
    }
}

#[tokio::test]
async fn events_and_cache_keys_lie_on_any_node() {
    let bed = RedisBed::on_cluster(QueueLimits::default()).await;
    let events: Vec<Event> =
        (0..3).map(|number| Event::of(vec![("event", "changed".to_owned()), ("id", number.to_string())])).collect();
    for stream in ["refresh_events", "another", "a_third", "one_more"] {
        assert_eq!(bed.queue().publish_events(stream, 100, &events).await.unwrap(), 3);
        assert_eq!(bed.command::<u64>(&["XLEN", stream]).await, 3);
    }
    let keys: Vec<String> = (0..50).map(|number| format!("snapshot:clan:{}", tag(number))).collect();
    for key in &keys[..40] {
        bed.command::<()>(&["SET", key, "old"]).await;
    }
    assert_eq!(bed.queue().delete_cache_keys(&keys).await.unwrap(), 40, "over all nodes together");
    assert_eq!(bed.queue().delete_cache_keys(&keys).await.unwrap(), 0);
}

#[tokio::test]
async fn shared_state_moves_between_cluster_and_server() {
    let (cluster, server) = (RedisBed::on_cluster(QueueLimits::default()).await, RedisBed::fresh().await);
    let (resting, used) = (Fingerprint("0123456789ab".to_owned()), Fingerprint("ba9876543210".to_owned()));
    let (from, to, rest) = (cluster.queue(), server.queue(), Duration::from_secs(300));
    from.take_key(&resting, "run", rest).await.unwrap();
    from.cool_down_key(&resting, "run", "throttled", rest).await.unwrap();
    from.take_calls(NOW.midnight(), 40, 100).await.unwrap();
    let agreements = from.shared_entries().await.unwrap();
    assert_eq!((agreements.len(), agreements.iter().find_map(SharedEntry::in_use)), (2, None), "{agreements:?}");
    for agreement in &agreements {
        assert!(to.carry_over(agreement).await.unwrap(), "{agreement:?}");
        assert!(!to.carry_over(agreement).await.unwrap(), "the second time it says no more: {agreement:?}");
    }
    assert_eq!(to.calls_taken(NOW.midnight()).await.unwrap(), 40);
    to.take_calls(NOW.midnight(), 10, 100).await.unwrap();
    to.take_key(&used, "run", rest).await.unwrap();
    let mut carried = Vec::new();
    for agreement in to.shared_entries().await.unwrap() {
        match agreement.in_use() {
            Some(in_use) => assert_eq!((in_use.key, in_use.run), (used.0.as_str(), "run")),
            None => carried.push(from.carry_over(&agreement).await.unwrap()),
        }
    }
    assert_eq!(carried.len(), 2);
    assert_eq!(from.calls_taken(NOW.midnight()).await.unwrap(), 50, "the larger count");
}

/// While a slot moves, its node sends on whoever asks for what is at the other (`-ASK`). What needs several keys waits until it
/// has moved (`-TRYAGAIN`), as does a script.
#[tokio::test]
async fn moving_hash_slot_is_followed_or_waited_for() {
    let cluster = Cluster::fresh().await;
    let queue = connect_as(&cluster.url(), PATIENT, true);
    let (source, target) = (Node::of(&cluster, 0).await, Node::of(&cluster, 1).await);
    let (from, to): (String, String) = (source.ask(&["CLUSTER", "MYID"]).await, target.ask(&["CLUSTER", "MYID"]).await);
    let slot: u16 = source.ask(&["CLUSTER", "KEYSLOT", "{refresh}:objects"]).await;
    let move_slot = async |node: &Node, words: &[&str]| {
        let slot = slot.to_string();
        node.ask::<()>(&[&["CLUSTER", "SETSLOT", &slot], words].concat()).await;
    };
    queue.time().await.unwrap();
    move_slot(&target, &["IMPORTING", &from]).await;
    move_slot(&source, &["MIGRATING", &to]).await;
    target.ask::<()>(&["ASKING"]).await;
    target.ask::<()>(&["SET", "{refresh}:copy", "old"]).await;
    let forgotten = queue.delete_cache_keys(&["{refresh}:copy".to_owned()]).await;
    let request = [RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::High, NOW)];
    let refused = queue.enqueue(NOW, &request).await;
    let over = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // It stays where it was, for the other tests.
        move_slot(&source, &["STABLE"]).await;
        move_slot(&target, &["STABLE"]).await;
    };
    let (enqueued, ()) = tokio::join!(queue.enqueue(NOW, &request), over);
    assert_eq!(forgotten.unwrap(), 1);
    let error = refused.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("TRYAGAIN"), "{error}");
    enqueued.unwrap();
    assert_eq!(queue.lease(NOW, &lease_request(1)).await.unwrap().leases.len(), 1);
}

/// One node, asked itself.
struct Node(redis::aio::MultiplexedConnection);

impl Node {
    async fn of(cluster: &Cluster, number: usize) -> Self {
        Self(crate::support::redis::connect(&cluster.node_url(number)).await.unwrap())
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.0.clone()).await.unwrap()
    }
}
