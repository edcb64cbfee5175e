//! What both queues promise about requests that are returned with a hold, set aside with their kind, and used as probes.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{Kind, Priority, Reason, RefreshRequest},
    queue::{
        Lease, LeaseRequest, Leased, Queue as _, SetAside, Settlement,
        record::{QueueLimits, State},
    },
};

use super::{
    beds::{Bed, NOW, RedisBed, names, on_all, request, tag, value},
    contract::settle,
};

use crate::support::redis::PrivateRedis;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(15);

on_all! {
    a_hold_doubles_for_the_same_reason
    another_reason_begins_holding_anew
    any_other_end_resets_the_row_of_holds
    held_counts_nothing_and_says_why
    mail_never_shortens_this_hold_either
    lifting_frees_only_what_is_held_for_that
    a_probe_takes_what_is_free_first
    a_probe_waits_while_anything_is_ready
    a_probe_keeps_to_its_classes_and_kinds
    a_probe_that_comes_back_is_held_on
    a_suspect_is_no_probe_beside_others
    a_failing_kind_is_set_aside_uncounted
    so_many_of_a_failing_kind_are_handed_out
    a_named_object_of_a_failing_kind_is_set_aside
    what_was_set_aside_keeps_its_place
    a_call_sets_aside_a_bounded_number
}

fn held(code: &'static str) -> Settlement {
    Settlement::Held { reason: Reason::new(code, "503 from one of them") }
}

async fn hold(bed: &impl Bed, now: Timestamp, lease: &Lease, code: &'static str) {
    settle(bed, now, lease, held(code)).await;
}

/// Leases `object`, which is the next in order, and returns it with a hold.
async fn enqueue_held(bed: &impl Bed, object: &str, now: Timestamp, code: &'static str) {
    bed.enqueue(object, Priority::High, now).await;
    let lease = bed.lease_one(now).await;
    assert_eq!(lease.object.to_string(), object);
    hold(bed, now, &lease, code).await;
}

fn aside(kind: Kind, until: Timestamp, probes: usize) -> LeaseRequest {
    LeaseRequest { set_aside: vec![SetAside { kind, until, probes }], ..request(10) }
}

fn probing() -> LeaseRequest {
    LeaseRequest { probe: true, ..request(10) }
}

async fn a_hold_doubles_for_the_same_reason(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let mut now = NOW;
    for (times, seconds) in [30, 60, 120, 240, 480, 600, 600].into_iter().enumerate() {
        let lease = bed.lease_one(now).await;
        let before = (times > 0).then(|| "maintenance".to_owned());
        assert_eq!((lease.held as usize, lease.held_for.clone()), (times, before));
        hold(bed, now, &lease, "maintenance").await;
        let ends = now + SECOND * seconds;
        assert_eq!(names(&bed.lease(ends - SECOND, &request(1)).await), [""; 0], "after {times}");
        now = ends;
    }
}

async fn another_reason_begins_holding_anew(bed: &impl Bed) {
    enqueue_held(bed, "clan:2PP", NOW, "maintenance").await;
    let lease = bed.lease_one(NOW + MINUTE).await;
    hold(bed, NOW + MINUTE, &lease, "maintenance").await;
    let lease = bed.lease_one(NOW + 5 * MINUTE).await;
    hold(bed, NOW + 5 * MINUTE, &lease, "refused").await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.held, record.hold), (1, NOW + 5 * MINUTE + 30 * SECOND));
    assert_eq!(record.held_for.as_deref(), Some("refused"));
}

async fn any_other_end_resets_the_row_of_holds(bed: &impl Bed) {
    let now = NOW + MINUTE;
    let later = Settlement::Later { until: now };
    let failed = Settlement::Failed { until: now, reason: Reason::new("timeout", "") };
    for (number, ending) in [Settlement::Done, later, failed].into_iter().enumerate() {
        let object = format!("clan:{}", tag(number));
        enqueue_held(bed, &object, NOW, "maintenance").await;
        let lease = bed.lease_one(now).await;
        bed.enqueue(&object, Priority::High, now).await;
        settle(bed, now, &lease, ending).await;
        let lease = bed.lease_one(now).await;
        assert_eq!((lease.held, lease.held_for.as_deref()), (0, None));
        settle(bed, now, &lease, Settlement::Done).await;
    }
    enqueue_held(bed, "clan:2PP", NOW, "maintenance").await;
    let lease = bed.lease_one(now).await;
    settle(bed, now, &lease, Settlement::Release).await;
    assert_eq!(bed.lease_one(now).await.held, 1, "one that was not started is as it was");
}

async fn held_counts_nothing_and_says_why(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    bed.lease_one(NOW).await;
    let lease = bed.lease_one(NOW + LEASE).await;
    hold(bed, NOW + LEASE, &lease, "maintenance").await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.wanted.attempts, record.lapses), (State::Delayed, 0, 1));
    assert_eq!(record.code.as_deref(), Some("maintenance"));
    assert_eq!(record.reason.as_deref(), Some("503 from one of them"));
    assert_eq!(record.wanted.first, NOW, "it keeps its place");
}

async fn mail_never_shortens_this_hold_either(bed: &impl Bed) {
    enqueue_held(bed, "clan:2PP", NOW, "maintenance").await;
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 0, NOW + SECOND)).await;
    bed.admit(NOW + SECOND).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.hold, record.held), (NOW + 30 * SECOND, 1));
    assert_eq!(record.wanted.priority, Priority::Critical);
    assert_eq!(names(&bed.lease(NOW + 29 * SECOND, &request(1)).await), [""; 0]);
}

async fn lifting_frees_only_what_is_held_for_that(bed: &impl Bed) {
    for (object, code) in [("clan:2PP", "maintenance"), ("clan:2QQ", "refused"), ("war:2LL", "maintenance")] {
        enqueue_held(bed, object, NOW, code).await;
    }
    bed.enqueue("clan:2VV", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let until = NOW + 10 * MINUTE;
    settle(bed, NOW, &lease, Settlement::Failed { until, reason: Reason::new("maintenance", "") }).await;
    assert_eq!(bed.queue().lift_holds(NOW + SECOND, "maintenance").await.unwrap(), 2);
    assert_eq!(bed.queue().lift_holds(NOW + SECOND, "maintenance").await.unwrap(), 0);
    let leased = bed.lease(NOW + SECOND, &request(10)).await;
    assert_eq!(names(&leased), ["clan:2PP", "war:2LL"]);
    assert!(leased.leases.iter().all(|lease| lease.held == 0 && lease.held_for.is_none()));
    bed.dump().await;
}

async fn a_probe_takes_what_is_free_first(bed: &impl Bed) {
    enqueue_held(bed, "clan:2PP", NOW + SECOND, "maintenance").await;
    enqueue_held(bed, "player:2QQ", NOW, "maintenance").await;
    let leased = bed.lease(NOW + 2 * SECOND, &request(10)).await;
    assert!(leased.leases.is_empty());
    let leased = bed.lease(NOW + 2 * SECOND, &probing()).await;
    assert_eq!(names(&leased), ["player:2QQ"], "one alone");
    assert_eq!((leased.leases[0].held, leased.leases[0].held_for.as_deref()), (1, Some("maintenance")));
    bed.dump().await;
}

async fn a_probe_waits_while_anything_is_ready(bed: &impl Bed) {
    enqueue_held(bed, "clan:2PP", NOW, "maintenance").await;
    bed.enqueue("player:2QQ", Priority::Low, NOW).await;
    assert_eq!(names(&bed.lease(NOW, &probing()).await), ["player:2QQ"]);
    assert_eq!(names(&bed.lease(NOW, &probing()).await), ["clan:2PP"]);
    assert_eq!(names(&bed.lease(NOW, &probing()).await), [""; 0]);
}

async fn a_probe_keeps_to_its_classes_and_kinds(bed: &impl Bed) {
    enqueue_held(bed, "clan:2PP", NOW, "maintenance").await;
    let low = LeaseRequest { priorities: vec![Priority::Low], ..probing() };
    assert_eq!(names(&bed.lease(NOW, &low).await), [""; 0]);
    let no_clan = LeaseRequest { probe: true, ..aside(Kind::Clan, NOW + MINUTE, 0) };
    assert_eq!(names(&bed.lease(NOW, &no_clan).await), [""; 0]);
    let one_clan = LeaseRequest { probe: true, ..aside(Kind::Clan, NOW + MINUTE, 1) };
    assert_eq!(names(&bed.lease(NOW, &one_clan).await), ["clan:2PP"]);
}

async fn a_probe_that_comes_back_is_held_on(bed: &impl Bed) {
    enqueue_held(bed, "clan:2PP", NOW, "maintenance").await;
    let lease = bed.lease(NOW + SECOND, &probing()).await.leases.remove(0);
    settle(bed, NOW + SECOND, &lease, Settlement::Release).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().hold, NOW + 30 * SECOND, "not started, not changed");
    let lease = bed.lease(NOW + SECOND, &probing()).await.leases.remove(0);
    hold(bed, NOW + 2 * SECOND, &lease, "maintenance").await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.held, record.hold), (2, NOW + 62 * SECOND));
}

async fn a_suspect_is_no_probe_beside_others(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    for lapse in 0..2 {
        bed.lease_one(NOW + LEASE * lapse).await;
    }
    let now = NOW + 2 * LEASE;
    let lease = bed.lease_one(now).await;
    hold(bed, now, &lease, "maintenance").await;
    let leased = bed.lease(now, &LeaseRequest { alone: false, ..probing() }).await;
    assert_eq!((leased.leases.len(), leased.suspect_waits), (0, true));
    assert_eq!(names(&bed.lease(now, &probing()).await), ["clan:2PP"]);
}

async fn a_failing_kind_is_set_aside_uncounted(bed: &impl Bed) {
    for number in 0..3 {
        bed.enqueue(&format!("war:{}", tag(number)), Priority::High, NOW).await;
    }
    bed.enqueue("player:2PP", Priority::Low, NOW).await;
    let leased = bed.lease(NOW, &aside(Kind::War, NOW + MINUTE, 0)).await;
    assert_eq!((names(&leased), leased.more), (vec!["player:2PP".to_owned()], false));
    let record = bed.record(&format!("war:{}", tag(0))).await.unwrap();
    assert_eq!((record.state, record.hold, record.held), (State::Delayed, NOW + MINUTE, 0));
    assert_eq!((record.held_for.as_deref(), record.wanted.attempts, record.lapses), (Some("circuit"), 0, 0));
    settle(bed, NOW, &leased.leases[0], Settlement::Done).await;
    assert_eq!(bed.lease(NOW + MINUTE, &request(10)).await.leases.len(), 3);
}

async fn so_many_of_a_failing_kind_are_handed_out(bed: &impl Bed) {
    for number in 0..3 {
        bed.enqueue(&format!("war:{}", tag(number)), Priority::High, NOW + SECOND * u32::try_from(number).unwrap())
            .await;
    }
    bed.enqueue("player:2PP", Priority::Low, NOW).await;
    let leased = bed.lease(NOW + 3 * SECOND, &aside(Kind::War, NOW + MINUTE, 1)).await;
    assert_eq!(names(&leased), [format!("war:{}", tag(0)), "player:2PP".to_owned()]);
}

async fn a_named_object_of_a_failing_kind_is_set_aside(bed: &impl Bed) {
    bed.enqueue("war:2PP", Priority::Low, NOW).await;
    bed.enqueue("player:2PP", Priority::Low, NOW).await;
    let first = vec!["war:2PP".parse().unwrap(), "player:2PP".parse().unwrap()];
    let leased = bed.lease(NOW, &LeaseRequest { first, ..aside(Kind::War, NOW + MINUTE, 0) }).await;
    assert_eq!(names(&leased), ["player:2PP"]);
    assert_eq!(bed.record("war:2PP").await.unwrap().state, State::Delayed);
}

async fn what_was_set_aside_keeps_its_place(bed: &impl Bed) {
    bed.enqueue("war:2PP", Priority::High, NOW).await;
    bed.enqueue("war:2QQ", Priority::High, NOW + SECOND).await;
    bed.lease(NOW + SECOND, &aside(Kind::War, NOW + MINUTE, 0)).await;
    bed.enqueue("war:2LL", Priority::High, NOW + 2 * SECOND).await;
    let leased = bed.lease(NOW + MINUTE, &request(10)).await;
    assert_eq!(names(&leased), ["war:2PP", "war:2QQ", "war:2LL"]);
}

/// Puts so many wars before one player of their class: no draw favours it.
async fn many_wars(bed: &impl Bed, count: usize) {
    let requests: Vec<RefreshRequest> = (0..count)
        .map(|number| RefreshRequest::now(format!("war:{}", tag(number)).parse().unwrap(), Priority::High, NOW))
        .collect();
    bed.queue().enqueue(NOW, &requests).await.unwrap();
    bed.enqueue("player:2PP", Priority::High, NOW + SECOND).await;
}

async fn a_call_sets_aside_a_bounded_number(bed: &impl Bed) {
    many_wars(bed, 1500).await;
    let now = NOW + SECOND;
    let leased = bed.lease(now, &aside(Kind::War, NOW + MINUTE, 0)).await;
    assert_eq!((leased.leases.len(), leased.more), (0, true));
    assert_eq!(bed.queue().stats(now).await.unwrap().delayed, 1000);
    let leased = bed.lease(now, &aside(Kind::War, NOW + MINUTE, 0)).await;
    assert_eq!((names(&leased), leased.more), (vec!["player:2PP".to_owned()], false));
}

async fn lease_of(bed: &RedisBed, now: Timestamp) -> Leased {
    bed.lease(now, &aside(Kind::War, NOW + MINUTE, 0)).await
}

#[tokio::test]
async fn each_object_is_set_aside_once() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    many_wars(&bed, 20_000).await;
    bed.command::<()>(&["CONFIG", "RESETSTAT"]).await;
    let mut calls = 1;
    while lease_of(&bed, NOW + SECOND).await.leases.is_empty() {
        calls += 1;
    }
    assert_eq!(calls, 21);
    let stats: String = bed.command(&["INFO", "commandstats"]).await;
    let reads = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hget:calls=")).unwrap();
    let reads: usize = reads.split(',').next().unwrap().parse().unwrap();
    assert!(reads < 20_100, "each record is read once: {reads}");
}

#[tokio::test]
async fn the_list_of_holds_is_bounded() {
    let bed = RedisBed::with_limits(QueueLimits::default()).await;
    let requests: Vec<RefreshRequest> = (0..1010)
        .map(|number| RefreshRequest::now(format!("clan:{}", tag(number)).parse().unwrap(), Priority::High, NOW))
        .collect();
    bed.queue().enqueue(NOW, &requests).await.unwrap();
    let leases = bed.lease(NOW, &request(2000)).await.leases;
    let batch: Vec<_> = leases.into_iter().map(|lease| (lease, held("maintenance"))).collect();
    bed.queue().settle(NOW, &batch).await.unwrap();
    assert_eq!(bed.command::<usize>(&["ZCARD", "{refresh}:held"]).await, 1000);
    assert_eq!(bed.queue().repair(NOW).await.unwrap().total(), 0);
    assert_eq!(bed.queue().lift_holds(NOW, "maintenance").await.unwrap(), 1000);
    assert_eq!(bed.lease(NOW + 30 * SECOND, &request(2000)).await.leases.len(), 1010);
    assert_eq!(bed.command::<usize>(&["ZCARD", "{refresh}:held"]).await, 0);
}

#[tokio::test]
async fn the_list_of_holds_is_mended() {
    let bed = RedisBed::fresh().await;
    enqueue_held(&bed, "clan:2PP", NOW, "maintenance").await;
    let before = bed.dump().await;
    bed.command::<i64>(&["ZADD", "{refresh}:held", "5", "clan:2QQ"]).await;
    bed.command::<i64>(&["ZADD", "{refresh}:held", "5", "no object"]).await;
    bed.command::<i64>(&["ZADD", "{refresh}:held", "5", "clan:2PP"]).await;
    assert_eq!(bed.queue().repair(NOW).await.unwrap().places, 3);
    assert_eq!(bed.dump().await, before);
    bed.command::<i64>(&["DEL", "{refresh}:held"]).await;
    assert_eq!(bed.queue().repair(NOW).await.unwrap().places, 1);
    assert_eq!(bed.dump().await, before);
    assert_eq!(bed.queue().repair(NOW).await.unwrap().total(), 0);
    // Whoever looks for a probe, or lifts, passes over what is not right.
    bed.command::<i64>(&["ZADD", "{refresh}:held", "5", "clan:2QQ"]).await;
    assert_eq!(names(&bed.lease(NOW, &probing()).await), ["clan:2PP"]);
    bed.dump().await;
}
