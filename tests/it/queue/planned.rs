//! What both queues promise about planned looks, and about the time at which readers asked.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{FollowUp, Priority, Reason, RefreshRequest},
    queue::{
        ClaimRequest, Claimed, DeadFilter, Following, Lease, LeaseRequest, MAX_LAPSES, Queue as _, QueueAdmin as _,
        QueueError, Repaired, Settled, Settlement,
        admin::{Kept, Part, Place, PutBack, Returning},
        record::{QueueLimits, Record, State},
        redis::Timeouts,
    },
};

use super::{
    beds::{Bed, NOW, RedisBed, connect, connect_with, lease_request, names, on_all, tag, value},
    contract::{dead, lapse, receive, settle},
};
use crate::support::{
    proxy::{Mode, Proxy},
    redis::PrivateRedis,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(15);

on_all! {
    claim_leases_objects_without_record
    claim_refuses_objects_with_record
    claim_waits_for_every_request
    every_settlement_of_planned_look_leaves_nothing
    request_during_planned_look_becomes_record
    mail_during_planned_look_is_served_once
    lapsed_planned_look_becomes_low_request
    lapsed_planned_look_keeps_request
    object_that_kills_planned_looks_dies
    claims_of_lost_reply_leave_nothing
    renewed_planned_look_does_not_lapse
    spare_follow_up_skips_planned_object
    circuit_and_holds_leave_planned_looks
    planned_look_counts_as_leased
    planned_look_is_never_exported
    planned_look_in_backup_becomes_low_request
    put_back_request_outlives_planned_look
    put_back_dead_letter_replaces_planned_look
    first_reader_is_remembered_until_done
    only_readers_set_reader_time
    reader_during_lease_belongs_to_next_record
    later_settlement_ends_reader_time
    reader_time_survives_backup_and_redrive
}

fn claim_request(objects: &[&str]) -> ClaimRequest {
    ClaimRequest {
        objects: objects.iter().map(|object| object.parse().unwrap()).collect(),
        duration: LEASE,
        run: "run".to_owned(),
        nonce: "n".to_owned(),
    }
}

async fn claim(bed: &impl Bed, now: Timestamp, objects: &[&str]) -> Claimed {
    bed.queue().claim(now, &claim_request(objects)).await.unwrap()
}

async fn claim_one(bed: &impl Bed, now: Timestamp, object: &str) -> Lease {
    let mut claimed = claim(bed, now, &[object]).await;
    assert_eq!(claimed.leases.len(), 1, "{claimed:?}");
    claimed.leases.remove(0)
}

async fn mail(bed: &impl Bed, object: &str, priority: u8, asked: Timestamp, now: Timestamp) {
    bed.put_mail(object, f64::from(priority), &value(object, priority, asked)).await;
    assert_eq!(bed.admit(now).await.admitted, 1);
}

/// Each kind of settlement.
fn settlements() -> Vec<Settlement> {
    let reason = || Reason::new("timeout", "no answer");
    vec![
        Settlement::Done,
        Settlement::Later { until: NOW + MINUTE },
        Settlement::Failed { until: NOW + MINUTE, reason: reason() },
        Settlement::Release,
        Settlement::Held { reason: reason() },
        dead("bad_request"),
    ]
}

async fn claim_leases_objects_without_record(bed: &impl Bed) {
    let claimed = claim(bed, NOW, &["clan:2PP", "player:2QQ", "clan:2PP"]).await;
    assert!(!claimed.work_waits);
    assert_eq!(claimed.refused, [("clan:2PP".parse().unwrap(), State::Leased)], "named twice");
    let [clan, player] = &claimed.leases[..] else { panic!("{claimed:?}") };
    assert_eq!((clan.object.to_string().as_str(), player.object.to_string().as_str()), ("clan:2PP", "player:2QQ"));
    assert_ne!(clan.token, player.token);
    assert!(clan.token.0.starts_with("run:n-"), "{}", clan.token);
    assert!(clan.planned && clan.asked.is_none());
    assert_eq!((clan.priority, clan.first_requested, clan.last_requested), (Priority::Low, NOW, NOW));
    assert_eq!((clan.merges, clan.attempts, clan.lapses, clan.expires), (0, 0, 0, NOW + LEASE));
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.planned), (State::Leased, true));
    assert!(bed.lease(NOW, &lease_request(5)).await.leases.is_empty(), "nothing is ready");
}

async fn claim_refuses_objects_with_record(bed: &impl Bed) {
    bed.enqueue("clan:2QQ", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, dead("bad_request")).await;
    let later = RefreshRequest { due: NOW + MINUTE, ..RefreshRequest::now(object("war:2LL"), Priority::High, NOW) };
    bed.queue().enqueue(NOW, &[later]).await.unwrap();
    bed.enqueue("player:2PP", Priority::High, NOW).await;
    bed.lease_one(NOW).await;
    let before = bed.dump().await;
    let claimed = claim(bed, NOW, &["clan:2QQ", "war:2LL", "player:2PP"]).await;
    assert!(claimed.leases.is_empty() && !claimed.work_waits, "{claimed:?}");
    let states: Vec<State> = claimed.refused.iter().map(|(_, state)| *state).collect();
    assert_eq!(states, [State::Dead, State::Delayed, State::Leased]);
    assert_eq!(bed.dump().await, before, "a refusal changes nothing");
    assert_eq!(claim(bed, NOW, &["war:2LL", "clan:2PP"]).await.leases.len(), 1, "the rest is claimed");
}

fn object(name: &str) -> refresh_worker::model::ObjectId {
    name.parse().unwrap()
}

/// A request is ready, its delay is over, or the run that had it is dead.
async fn claim_waits_for_every_request(bed: &impl Bed) {
    let due = RefreshRequest { due: NOW + SECOND, ..RefreshRequest::now(object("war:2LL"), Priority::Low, NOW) };
    bed.queue().enqueue(NOW, &[due]).await.unwrap();
    claim_one(bed, NOW, "clan:2GG").await;
    let assert_waits = async |now: Timestamp| {
        let before = bed.dump().await;
        let claimed = claim(bed, now, &["clan:2PP", "clan:2QQ"]).await;
        assert!(claimed.work_waits && claimed.leases.is_empty() && claimed.refused.is_empty(), "{claimed:?}");
        assert_eq!(bed.dump().await, before);
    };
    assert_waits(NOW + SECOND).await;
    let lease = bed.lease_one(NOW + SECOND).await;
    assert!(!claim(bed, NOW + SECOND, &["war:2LL"]).await.work_waits, "it is under way");
    assert_waits(lease.expires).await;
    settle(bed, NOW + SECOND, &lease, Settlement::Release).await;
    assert_waits(NOW + SECOND).await;
}

async fn every_settlement_of_planned_look_leaves_nothing(bed: &impl Bed) {
    for settlement in settlements() {
        let lease = claim_one(bed, NOW, "clan:2PP").await;
        settle(bed, NOW, &lease, settlement.clone()).await;
        let contents = bed.dump().await;
        assert!(contents.records.is_empty(), "{settlement:?}: {contents:?}");
        let again = bed.queue().settle(NOW + 2 * MINUTE, &[(lease, settlement.clone())]).await.unwrap();
        assert_eq!(again, [Settled::LeaseLost], "{settlement:?}");
    }
}

async fn request_during_planned_look_becomes_record(bed: &impl Bed) {
    for settlement in settlements() {
        let lease = claim_one(bed, NOW, "clan:2PP").await;
        let asked = value("clan:2PP", 1, NOW - MINUTE).replace("count\": 0", "count\": 2");
        bed.put_mail("clan:2PP", 1.0, &asked).await;
        bed.admit(NOW + SECOND).await;
        let record = bed.record("clan:2PP").await.unwrap();
        assert_eq!((record.state, record.planned, record.merges), (State::Leased, true, 1), "{settlement:?}");
        settle(bed, NOW + SECOND, &lease, settlement.clone()).await;
        let record = bed.record("clan:2PP").await.unwrap();
        assert_eq!((record.state, record.planned, record.next.as_ref()), (State::Ready, false, None), "{settlement:?}");
        assert_eq!((record.lapses, record.held, record.code.as_deref()), (0, 0, None), "{settlement:?}");
        let wanted = &record.wanted;
        assert_eq!((wanted.priority, wanted.first, wanted.last), (Priority::High, NOW - MINUTE, NOW - MINUTE));
        assert_eq!(wanted.asked, Some(NOW - MINUTE), "{settlement:?}");
        let unanswered =
            matches!(settlement, Settlement::Failed { .. } | Settlement::Release | Settlement::Held { .. });
        assert_eq!(wanted.attempts, if unanswered { 2 } else { 0 }, "{settlement:?}");
        let lease = bed.lease_one(NOW + SECOND).await;
        assert!(!lease.planned, "{settlement:?}");
        settle(bed, NOW + SECOND, &lease, Settlement::Done).await;
    }
    assert!(bed.dump().await.records.is_empty());
}

async fn mail_during_planned_look_is_served_once(bed: &impl Bed) {
    let look = claim_one(bed, NOW, "clan:2PP").await;
    mail(bed, "clan:2PP", 0, NOW, NOW).await;
    mail(bed, "clan:2PP", 1, NOW + SECOND, NOW + SECOND).await;
    let now = NOW + SECOND;
    assert!(bed.lease(now, &lease_request(5)).await.leases.is_empty(), "nobody calls beside the look");
    settle(bed, now, &look, Settlement::Done).await;
    let lease = bed.lease_one(now).await;
    assert_eq!((lease.planned, lease.priority, lease.asked), (false, Priority::Critical, Some(NOW)));
    settle(bed, now, &lease, Settlement::Done).await;
    assert!(bed.dump().await.records.is_empty());
}

async fn lapsed_planned_look_becomes_low_request(bed: &impl Bed) {
    let look = claim_one(bed, NOW, "clan:2PP").await;
    let leased = bed.lease(look.expires, &lease_request(1)).await;
    assert_eq!(leased.lapsed, 1);
    let lease = &leased.leases[0];
    assert_eq!((lease.planned, lease.priority, lease.lapses, lease.first_requested), (false, Priority::Low, 1, NOW));
    assert_eq!(lease.asked, None);
    assert_eq!(
        bed.queue().settle(look.expires, &[(look.clone(), Settlement::Done)]).await.unwrap(),
        [Settled::LeaseLost]
    );
    settle(bed, look.expires, lease, Settlement::Release).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.lapses), (State::Ready, 1), "an ordinary request stays");
}

async fn lapsed_planned_look_keeps_request(bed: &impl Bed) {
    let look = claim_one(bed, NOW, "clan:2PP").await;
    mail(bed, "clan:2PP", 1, NOW + SECOND, NOW + SECOND).await;
    let leased = bed.lease(look.expires, &lease_request(1)).await;
    let lease = &leased.leases[0];
    assert_eq!((lease.planned, lease.priority, lease.lapses), (false, Priority::High, 1));
    assert_eq!((lease.first_requested, lease.asked), (NOW + SECOND, Some(NOW + SECOND)));
}

async fn object_that_kills_planned_looks_dies(bed: &impl Bed) {
    let look = claim_one(bed, NOW, "clan:2PP").await;
    receive(bed, NOW, &look).await;
    let mut now = NOW + LEASE;
    for lapses in 1..MAX_LAPSES {
        assert!(claim(bed, now, &["clan:2PP"]).await.work_waits);
        let lease = bed.lease_one(now).await;
        assert_eq!((lease.lapses, lease.is_suspect()), (lapses, lapses >= 2));
        assert_eq!(claim(bed, now, &["clan:2PP"]).await.refused, [(object("clan:2PP"), State::Leased)]);
        receive(bed, now, &lease).await;
        now = now + LEASE;
    }
    assert_eq!(bed.lease(now, &lease_request(1)).await.lapsed_dead, 1);
    assert_eq!(claim(bed, now, &["clan:2PP"]).await.refused, [(object("clan:2PP"), State::Dead)]);
    // The same, begun by requests.
    assert_eq!(bed.queue().redrive(now, &DeadFilter::default()).await.unwrap(), 1);
    settle(bed, now, &bed.lease_one(now).await, Settlement::Done).await;
    let now = lapse(bed, MAX_LAPSES).await;
    assert_eq!(claim(bed, now, &["clan:2PP"]).await.refused, [(object("clan:2PP"), State::Dead)]);
}

async fn claims_of_lost_reply_leave_nothing(bed: &impl Bed) {
    claim(bed, NOW, &["clan:2PP", "clan:2QQ", "war:2LL"]).await;
    let later_call = ClaimRequest { nonce: "m".to_owned(), ..claim_request(&["clan:2GG"]) };
    let heard = bed.queue().claim(NOW, &later_call).await.unwrap().leases.remove(0);
    mail(bed, "clan:2QQ", 1, NOW, NOW).await;
    let next_call = LeaseRequest { nonce: "o".to_owned(), lost: vec!["n".to_owned()], ..lease_request(5) };
    let other = LeaseRequest { run: "other".to_owned(), ..next_call.clone() };
    assert!(bed.lease(NOW, &other).await.leases.is_empty(), "another run's, of the same nonce, is its own");
    let leased = bed.lease(NOW, &next_call).await;
    assert_eq!((names(&leased), leased.lapsed), (vec!["clan:2QQ".to_owned()], 0));
    assert_eq!((leased.leases[0].planned, leased.leases[0].lapses, leased.leases[0].attempts), (false, 0, 0));
    let contents = bed.dump().await;
    assert_eq!(contents.records.keys().collect::<Vec<_>>(), ["clan:2GG", "clan:2QQ"]);
    settle(bed, NOW, &heard, Settlement::Done).await;
    assert_eq!(claim(bed, NOW, &["clan:2PP", "war:2LL"]).await.leases.len(), 2, "they are free again");
}

async fn renewed_planned_look_does_not_lapse(bed: &impl Bed) {
    let look = claim_one(bed, NOW, "clan:2PP").await;
    let renewal = [(look.object.clone(), look.token.clone())];
    assert_eq!(bed.queue().renew(NOW, &renewal, NOW + MINUTE).await.unwrap(), [true]);
    let leased = bed.lease(look.expires, &lease_request(1)).await;
    assert_eq!((leased.lapsed, leased.leases.len()), (0, 0));
    settle(bed, look.expires, &look, Settlement::Done).await;
    assert!(bed.dump().await.records.is_empty());
}

async fn spare_follow_up_skips_planned_object(bed: &impl Bed) {
    let look = claim_one(bed, NOW, "war:2PP").await;
    let follow_up =
        |is_spare| FollowUp { request: RefreshRequest::now(object("war:2PP"), Priority::Low, NOW + MINUTE), is_spare };
    let spare = [follow_up(true)];
    let following = Following { follow_ups: &spare, most_ready: 10 };
    assert_eq!(bed.queue().settle_and_follow(NOW, &[], following).await.unwrap().1, 0, "it is refreshed anyhow");
    let next_poll = [follow_up(false)];
    let following = Following { follow_ups: &next_poll, most_ready: 10 };
    let settled = bed.queue().settle_and_follow(NOW, &[(look, Settlement::Done)], following).await.unwrap();
    assert_eq!(settled, (vec![Settled::Settled], 1));
    let record = bed.record("war:2PP").await.unwrap();
    assert_eq!((record.state, record.planned, record.wanted.due), (State::Delayed, false, NOW + MINUTE), "{record:?}");
}

async fn circuit_and_holds_leave_planned_looks(bed: &impl Bed) {
    let look = claim_one(bed, NOW, "clan:2PP").await;
    let before = bed.dump().await;
    assert_eq!(bed.queue().lift_holds(NOW, "maintenance").await.unwrap(), 0);
    assert_eq!(bed.queue().return_set_aside(NOW, look.object.kind, look.expires).await.unwrap(), 0);
    assert_eq!(bed.queue().redrive(NOW, &DeadFilter::default()).await.unwrap(), 0);
    assert_eq!(bed.queue().reconcile(NOW).await.unwrap(), Repaired::default());
    let probe = LeaseRequest { probe: true, first: vec![look.object.clone()], ..lease_request(1) };
    assert!(bed.lease(NOW, &probe).await.leases.is_empty(), "it is no probe, named or not");
    assert_eq!(bed.dump().await, before);
}

async fn planned_look_counts_as_leased(bed: &impl Bed) {
    claim(bed, NOW, &["clan:2PP", "war:2LL"]).await;
    let stats = bed.queue().stats(NOW).await.unwrap();
    assert_eq!((stats.leased, stats.queue_size(), stats.delayed, stats.dead_letters), (2, 0, 0, 0));
    assert_eq!(stats.oldest.age(NOW), Some(Duration::ZERO), "nobody waits");
    let position = bed.queue().position(&object("clan:2PP")).await.unwrap();
    assert!(position.record.unwrap().is_only_planned());
}

async fn planned_look_is_never_exported(bed: &impl Bed) {
    let looks = claim(bed, NOW, &["clan:2PP", "war:2LL"]).await.leases;
    mail(bed, "war:2LL", 2, NOW - MINUTE, NOW).await;
    let exported = bed.queue().export(NOW).await.unwrap();
    assert_eq!(exported.len(), 1, "{exported:?}");
    assert_eq!((exported[0].id.as_str(), exported[0].score), ("war:2LL", 2), "the request, not the look");
    assert_eq!(bed.queue().return_to_mailbox(NOW).await.unwrap(), 1);
    let contents = bed.dump().await;
    assert_eq!(contents.records.keys().collect::<Vec<_>>(), ["clan:2PP"]);
    assert_eq!(contents.index.len(), 1);
    settle(bed, NOW, &looks[0], Settlement::Done).await;
    assert!(bed.dump().await.records.is_empty());
}

/// Everything in the queue, as a backup returns it.
async fn backup(bed: &impl Bed, now: Timestamp) -> Vec<Returning> {
    let kept = bed.queue().read_slice(now, &Place::of(Part::Objects)).await.unwrap().entries;
    kept.into_iter().map(|kept| kept.returning(now, 3).unwrap()).collect()
}

async fn clear(bed: &impl Bed) {
    for kept in bed.queue().read_slice(NOW, &Place::of(Part::Objects)).await.unwrap().entries {
        let Kept::Record { object, stored, .. } = kept else { panic!("{kept:?}") };
        assert_eq!(bed.queue().take_away(&[(object.to_string(), stored)]).await.unwrap(), [true]);
    }
    assert!(bed.dump().await.records.is_empty());
}

/// As if its run had died. What came meanwhile replaces it.
async fn planned_look_in_backup_becomes_low_request(bed: &impl Bed) {
    claim(bed, NOW, &["clan:2PP", "war:2LL"]).await;
    mail(bed, "war:2LL", 1, NOW - MINUTE, NOW).await;
    let entries = backup(bed, NOW + SECOND).await;
    assert_eq!(bed.queue().has(&entries).await.unwrap().iter().filter(|has| **has).count(), 1, "a look is no request");
    clear(bed).await;
    assert_eq!(bed.queue().put_back(NOW + SECOND, &entries).await.unwrap(), [PutBack::New, PutBack::New]);
    let contents = bed.dump().await;
    let shown = |name: &str| {
        let record: &Record = &contents.records[name];
        (record.state, record.planned, record.wanted.priority, record.wanted.first, record.wanted.asked)
    };
    assert_eq!(shown("clan:2PP"), (State::Ready, false, Priority::Low, NOW, None));
    assert_eq!(shown("war:2LL"), (State::Ready, false, Priority::High, NOW - MINUTE, Some(NOW - MINUTE)));
}

/// A look may end without a response, so it serves no request.
async fn put_back_request_outlives_planned_look(bed: &impl Bed) {
    mail(bed, "clan:2PP", 1, NOW - MINUTE, NOW).await;
    let entries = backup(bed, NOW).await;
    clear(bed).await;
    let look = claim_one(bed, NOW, "clan:2PP").await;
    assert_eq!(bed.queue().has(&entries).await.unwrap(), [false]);
    assert_eq!(bed.queue().put_back(NOW, &entries).await.unwrap(), [PutBack::Merged]);
    assert_eq!(bed.queue().has(&entries).await.unwrap(), [true]);
    assert_eq!(bed.queue().put_back(NOW, &entries).await.unwrap(), [PutBack::Nothing]);
    settle(bed, NOW, &look, Settlement::Release).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!(
        (record.state, record.wanted.priority, record.wanted.asked),
        (State::Ready, Priority::High, Some(NOW - MINUTE))
    );
}

async fn put_back_dead_letter_replaces_planned_look(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    settle(bed, NOW, &bed.lease_one(NOW).await, dead("bad_request")).await;
    let entries = backup(bed, NOW).await;
    clear(bed).await;
    let look = claim_one(bed, NOW, "clan:2PP").await;
    assert_eq!(bed.queue().has(&entries).await.unwrap(), [false]);
    assert_eq!(bed.queue().put_back(NOW, &entries).await.unwrap(), [PutBack::Merged]);
    assert_eq!(bed.queue().has(&entries).await.unwrap(), [true]);
    assert_eq!(bed.record("clan:2PP").await.unwrap().state, State::Dead);
    assert_eq!(bed.queue().settle(NOW, &[(look, Settlement::Done)]).await.unwrap(), [Settled::LeaseLost]);
}

async fn first_reader_is_remembered_until_done(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Low, NOW - 5 * MINUTE).await;
    mail(bed, "clan:2PP", 2, NOW - MINUTE, NOW).await;
    mail(bed, "clan:2PP", 2, NOW - 2 * MINUTE, NOW).await;
    mail(bed, "clan:2PP", 1, NOW, NOW).await;
    let asked = Some(NOW - 2 * MINUTE);
    let mut now = NOW;
    for settlement in settlements().into_iter().skip(2).take(3) {
        let lease = bed.lease_one(now).await;
        assert_eq!((lease.asked, lease.first_requested), (asked, NOW - 5 * MINUTE));
        settle(bed, now, &lease, settlement).await;
        now = now + 2 * MINUTE;
    }
    let lapsing = bed.lease_one(now).await;
    let lease = bed.lease_one(lapsing.expires).await;
    assert_eq!((lease.asked, lease.lapses), (asked, 1));
    settle(bed, lapsing.expires, &lease, Settlement::Done).await;
    bed.enqueue("clan:2PP", Priority::Low, now).await;
    assert_eq!(bed.lease_one(now).await.asked, None);
}

async fn only_readers_set_reader_time(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Low, NOW).await;
    let follow_up =
        [FollowUp { request: RefreshRequest::now(object("clan:2PP"), Priority::Low, NOW), is_spare: false }];
    let following = Following { follow_ups: &follow_up, most_ready: 10 };
    assert_eq!(bed.queue().settle_and_follow(NOW, &[], following).await.unwrap().1, 1);
    assert_eq!(bed.lease_one(NOW).await.asked, None);
    // A producer that knows of fresh data asks now, and is served when the data is old.
    let fresh = value("war:2LL", 1, NOW - MINUTE).replace(
        "\"last_updated\": null",
        &format!("\"last_updated\": \"{}\"", (NOW - MINUTE).to_string().trim_end_matches('Z')),
    );
    bed.put_mail("war:2LL", 1.0, &fresh).await;
    bed.admit(NOW).await;
    let record = bed.record("war:2LL").await.unwrap();
    assert_eq!((record.state, record.wanted.asked), (State::Delayed, Some(NOW - MINUTE)));
    // A wrong clock.
    mail(bed, "player:2QQ", 1, NOW + 100_000 * MINUTE, NOW).await;
    assert_eq!(bed.record("player:2QQ").await.unwrap().wanted.asked, Some(NOW));
}

async fn reader_during_lease_belongs_to_next_record(bed: &impl Bed) {
    mail(bed, "clan:2PP", 1, NOW - MINUTE, NOW).await;
    let lease = bed.lease_one(NOW).await;
    mail(bed, "clan:2PP", 1, NOW + 2 * SECOND, NOW + 2 * SECOND).await;
    mail(bed, "clan:2PP", 1, NOW + SECOND, NOW + 2 * SECOND).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!(record.wanted.asked, Some(NOW - MINUTE));
    settle(bed, NOW + 2 * SECOND, &lease, Settlement::Done).await;
    let lease = bed.lease_one(NOW + 2 * SECOND).await;
    assert_eq!(lease.asked, Some(NOW + SECOND));
    // With a failure it joins the request that failed.
    mail(bed, "clan:2PP", 1, NOW, NOW + 2 * SECOND).await;
    settle(bed, NOW + 2 * SECOND, &lease, Settlement::Release).await;
    assert_eq!(bed.lease_one(NOW + 2 * SECOND).await.asked, Some(NOW));
}

async fn later_settlement_ends_reader_time(bed: &impl Bed) {
    mail(bed, "clan:2PP", 1, NOW, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, Settlement::Later { until: NOW + MINUTE }).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.asked, None, "it has its response");
    let lease = bed.lease_one(NOW + MINUTE).await;
    mail(bed, "clan:2PP", 1, NOW + SECOND, NOW + MINUTE).await;
    settle(bed, NOW + MINUTE, &lease, Settlement::Later { until: NOW + 2 * MINUTE }).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.asked, Some(NOW + SECOND));
}

async fn reader_time_survives_backup_and_redrive(bed: &impl Bed) {
    mail(bed, "clan:2PP", 1, NOW - MINUTE, NOW).await;
    settle(bed, NOW, &bed.lease_one(NOW).await, dead("bad_request")).await;
    let entries = backup(bed, NOW).await;
    clear(bed).await;
    bed.queue().put_back(NOW, &entries).await.unwrap();
    assert_eq!(bed.queue().redrive(NOW, &DeadFilter::default()).await.unwrap(), 1);
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.asked, Some(NOW - MINUTE));
    // An earlier reader is news, and the same one is not.
    let entries = backup(bed, NOW).await;
    clear(bed).await;
    mail(bed, "clan:2PP", 1, NOW - SECOND, NOW).await;
    assert_eq!(bed.queue().put_back(NOW, &entries).await.unwrap(), [PutBack::Merged]);
    assert_eq!(bed.queue().put_back(NOW, &entries).await.unwrap(), [PutBack::Nothing]);
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.asked, Some(NOW - MINUTE));
}

async fn record_text(bed: &RedisBed, name: &str) -> serde_json::Value {
    let text: String = bed.command(&["HGET", "{refresh}:objects", name]).await;
    serde_json::from_str(&text).unwrap()
}

async fn write_record(bed: &RedisBed, name: &str, record: &serde_json::Value) {
    bed.command::<i64>(&["HSET", "{refresh}:objects", name, &record.to_string()]).await;
}

/// What an earlier version wrote is read, and a run without a planner writes one key more.
#[tokio::test]
async fn reader_time_is_one_optional_key() {
    let bed = RedisBed::fresh().await;
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    mail(&bed, "clan:2QQ", 1, NOW, NOW).await;
    let (enqueued, mut mailed) = (record_text(&bed, "clan:2PP").await, record_text(&bed, "clan:2QQ").await);
    assert_eq!(mailed.as_object_mut().unwrap().remove("asked"), Some(NOW.as_millis().into()));
    assert_eq!(enqueued, mailed);
    write_record(&bed, "clan:2QQ", &mailed).await;
    assert_eq!(bed.queue().repair(NOW).await.unwrap(), Repaired::default());
    let leased = bed.lease(NOW, &lease_request(2)).await;
    assert!(leased.leases.iter().all(|lease| lease.asked.is_none() && !lease.planned), "{leased:?}");
}

#[tokio::test]
async fn damaged_reader_time_is_dropped() {
    let bed = RedisBed::fresh().await;
    for odd in [
        serde_json::json!("x"),
        serde_json::json!(-1),
        serde_json::json!(1.5),
        serde_json::json!([]),
        serde_json::Value::Null,
    ] {
        mail(&bed, "clan:2PP", 1, NOW, NOW).await;
        let mut record = record_text(&bed, "clan:2PP").await;
        record["asked"] = odd.clone();
        write_record(&bed, "clan:2PP", &record).await;
        let lease = bed.lease_one(NOW).await;
        assert_eq!((lease.asked, lease.priority, lease.last_requested), (None, Priority::High, NOW), "{odd}");
        settle(&bed, NOW, &lease, Settlement::Done).await;
    }
    mail(&bed, "clan:2PP", 1, NOW, NOW).await;
    let mut record = record_text(&bed, "clan:2PP").await;
    record["asked"] = (NOW + 100_000 * MINUTE).as_millis().into();
    write_record(&bed, "clan:2PP", &record).await;
    assert_eq!(bed.queue().repair(NOW).await.unwrap(), Repaired { records: 1, ..Repaired::default() });
    assert_eq!(bed.lease_one(NOW).await.asked, Some(NOW + 24 * 60 * MINUTE));
}

/// However the record of a look is damaged, it is not called twice at once, and a request for it is served.
#[tokio::test]
async fn damaged_planned_look_loses_no_request() {
    let bed = RedisBed::fresh().await;
    let fields: Vec<String> = {
        claim_one(&bed, NOW, "clan:2PP").await;
        mail(&bed, "clan:2PP", 1, NOW, NOW).await;
        record_text(&bed, "clan:2PP").await.as_object().unwrap().keys().cloned().collect()
    };
    assert!(fields.iter().any(|field| field == "planned"));
    for field in &fields {
        for odd in [None, Some(serde_json::json!("x")), Some(serde_json::json!(-1.5)), Some(serde_json::Value::Null)] {
            bed.command::<()>(&["FLUSHDB"]).await;
            let look = claim_one(&bed, NOW, "clan:2PP").await;
            mail(&bed, "clan:2PP", 1, NOW, NOW).await;
            let mut record = record_text(&bed, "clan:2PP").await;
            let what = format!("{field} is {odd:?}");
            match odd {
                None => drop(record.as_object_mut().unwrap().remove(field)),
                Some(odd) => record[field] = odd,
            }
            write_record(&bed, "clan:2PP", &record).await;
            bed.queue().reconcile(NOW).await.unwrap();
            assert_eq!(bed.queue().repair(NOW).await.unwrap(), Repaired::default(), "{what}");
            bed.dump().await;
            assert!(claim(&bed, NOW, &["clan:2PP"]).await.leases.is_empty(), "{what}");
            let before_its_end = Timestamp::from_millis(look.expires.as_millis() - 1);
            assert!(bed.lease(before_its_end, &lease_request(1)).await.leases.is_empty(), "{what}");
            let _ = bed.queue().settle(NOW, &[(look.clone(), Settlement::Done)]).await.unwrap();
            let leased = bed.lease(look.expires, &lease_request(1)).await;
            if field != "next" {
                assert_eq!(names(&leased), ["clan:2PP"], "{what}");
                assert!(!leased.leases[0].planned, "{what}");
            }
            for lease in &leased.leases {
                settle(&bed, look.expires, lease, Settlement::Done).await;
            }
            assert!(bed.dump().await.records.is_empty(), "{what}");
        }
    }
}

#[tokio::test]
async fn planned_look_in_wrong_set_is_moved() {
    let bed = RedisBed::fresh().await;
    for set in ["ready", "delayed:low", "dead"] {
        let look = claim_one(&bed, NOW, "clan:2PP").await;
        bed.command::<i64>(&["ZADD", &format!("{{refresh}}:{set}"), "17", "clan:2PP"]).await;
        bed.command::<i64>(&["ZREM", "{refresh}:leased", "clan:2PP"]).await;
        assert_eq!(bed.queue().reconcile(NOW).await.unwrap().places, 1, "{set}");
        assert_eq!(bed.queue().repair(NOW).await.unwrap(), Repaired::default(), "{set}");
        bed.dump().await;
        settle(&bed, NOW, &look, Settlement::Done).await;
        assert!(bed.dump().await.records.is_empty(), "{set}");
    }
    // A name without a record is evidence of a request, and a lease may still be held.
    claim_one(&bed, NOW, "clan:2PP").await;
    bed.command::<i64>(&["HDEL", "{refresh}:objects", "clan:2PP"]).await;
    let claimed = claim(&bed, NOW, &["clan:2PP", "clan:2QQ"]).await;
    assert_eq!((claimed.leases.len(), claimed.repaired.records), (1, 1), "{claimed:?}");
    assert_eq!(claimed.refused, [(object("clan:2PP"), State::Delayed)]);
    // An earlier version of the program has moved the record on, and knows nothing of planned looks.
    let mut record = record_text(&bed, "clan:2PP").await;
    record["planned"] = true.into();
    write_record(&bed, "clan:2PP", &record).await;
    let lease = bed.lease_one(NOW + MINUTE).await;
    assert!(!lease.planned);
    settle(&bed, NOW + MINUTE, &lease, Settlement::Release).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().state, State::Ready, "an ordinary request stays");
}

const IMPATIENT: Timeouts = Timeouts {
    connect: Duration::from_millis(400),
    first_reply: Duration::from_millis(400),
    response: Duration::from_millis(400),
};

#[tokio::test]
async fn claim_with_lost_reply_or_cut_leaves_nothing() {
    let bed = RedisBed::fresh().await;
    let (proxy, url) = Proxy::in_front_of(&bed.url()).await;
    let queue = connect_with(&url, IMPATIENT);
    for (mode, is_carried_out) in [(Mode::LoseAnswerTo("EVALSHA"), true), (Mode::Cut, false), (Mode::Stall, false)] {
        // The server knows the script.
        settle(&bed, NOW, &claim_one(&bed, NOW, "war:2LL").await, Settlement::Release).await;
        queue.time().await.unwrap();
        proxy.set(mode);
        let error = queue.claim(NOW, &claim_request(&["clan:2PP", "clan:2QQ"])).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        proxy.set(Mode::Cut);
        proxy.set(Mode::Pass);
        assert!(!is_carried_out || bed.queue().stats(NOW).await.unwrap().leased == 2);
        let next_call = LeaseRequest { nonce: "o".to_owned(), lost: vec!["n".to_owned()], ..lease_request(5) };
        assert!(queue.lease(NOW, &next_call).await.unwrap().leases.is_empty());
        assert!(bed.dump().await.records.is_empty());
    }
}

#[tokio::test]
async fn planned_settlement_with_lost_reply_is_settled() {
    let bed = RedisBed::fresh().await;
    let (proxy, url) = Proxy::in_front_of(&bed.url()).await;
    let queue = connect_with(&url, IMPATIENT);
    for settlement in settlements() {
        for is_requested in [false, true] {
            let look = claim_one(&bed, NOW, "clan:2PP").await;
            if is_requested {
                mail(&bed, "clan:2PP", 1, NOW, NOW).await;
            }
            let batch = [(look, settlement.clone())];
            queue.time().await.unwrap();
            proxy.set(Mode::LoseAnswerTo("EVALSHA"));
            let error = queue.settle(NOW, &batch).await.unwrap_err();
            assert!(error.is_transient(), "{error}");
            proxy.set(Mode::Pass);
            let before = bed.dump().await;
            assert_eq!(before.records.len(), usize::from(is_requested), "{batch:?}");
            assert_eq!(queue.settle(NOW, &batch).await.unwrap(), [Settled::Settled], "{batch:?}");
            assert_eq!(bed.dump().await, before, "{batch:?}");
            bed.command::<()>(&["FLUSHDB"]).await;
        }
    }
}

/// A look is worth less than the memory that requests need.
#[tokio::test]
async fn full_redis_refuses_claims_and_ends_looks() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let looks = claim(&bed, NOW, &["clan:2PP", "clan:2QQ"]).await.leases;
    mail(&bed, "clan:2QQ", 1, NOW, NOW).await;
    bed.make_full().await;
    let before = bed.dump().await;
    let error = bed.queue().claim(NOW, &claim_request(&["war:2LL"])).await.unwrap_err();
    assert!(matches!(&error, QueueError::Refused { detail, .. } if detail.contains("OOM")), "{error}");
    assert_eq!(bed.dump().await, before);
    for look in &looks {
        settle(&bed, NOW, look, Settlement::Done).await;
    }
    assert_eq!(bed.dump().await.records.keys().collect::<Vec<_>>(), ["clan:2QQ"]);
}

#[tokio::test]
async fn overlapping_runs_claim_each_object_once() {
    let bed = RedisBed::fresh().await;
    let objects: Vec<String> = (0..700).map(|number| format!("player:{}", tag(number))).collect();
    let request = |run: &str| ClaimRequest {
        objects: objects.iter().map(|object| object.parse().unwrap()).collect(),
        run: run.to_owned(),
        ..claim_request(&[])
    };
    let (one, other) = (connect(&bed.url()), connect(&bed.url()));
    let (ours, theirs) = (request("a"), request("b"));
    let (ours, theirs) = tokio::join!(one.claim(NOW, &ours), other.claim(NOW, &theirs));
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_eq!(ours.leases.len() + theirs.leases.len(), 700);
    assert_eq!(ours.refused.len() + theirs.refused.len(), 700);
    let mut tokens: Vec<&str> = ours.leases.iter().chain(&theirs.leases).map(|lease| lease.token.0.as_str()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 700);
}

/// The calls of scripts since the last reset, and the microseconds that each took in Redis.
async fn script_calls(bed: &RedisBed) -> (u64, f64) {
    let stats: String = bed.command(&["INFO", "commandstats"]).await;
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).expect("scripts were called");
    let field = |name: &str| line.split(',').find_map(|field| field.strip_prefix(name)?.parse::<f64>().ok()).unwrap();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    (field("calls=") as u64, field("usec_per_call="))
}

/// Four seconds' worth of one key, the largest claim of a run. The figures are printed with `--nocapture`.
#[tokio::test]
async fn claim_of_120_objects_is_one_call() {
    const ROUNDS: u64 = 20;
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let objects: Vec<String> = (0..120).map(|number| format!("player:{}", tag(number))).collect();
    let names: Vec<&str> = objects.iter().map(String::as_str).collect();
    let (mut claims, mut refusals, mut settlements, mut waits) = (0.0, 0.0, 0.0, 0.0);
    for round in 0..=ROUNDS {
        // The first round only loads the scripts.
        let count = |total: &mut f64, cost: f64| *total += if round > 0 { cost } else { 0.0 };
        let measured = async |total: &mut f64| {
            let (calls, cost) = script_calls(&bed).await;
            assert!(round == 0 || calls == 1, "{calls} calls");
            count(total, cost);
        };
        bed.command::<()>(&["CONFIG", "RESETSTAT"]).await;
        let claimed = claim(&bed, NOW, &names).await;
        assert_eq!(claimed.leases.len(), 120);
        measured(&mut claims).await;

        bed.command::<()>(&["CONFIG", "RESETSTAT"]).await;
        assert_eq!(claim(&bed, NOW, &names).await.refused.len(), 120);
        measured(&mut refusals).await;

        let batch: Vec<(Lease, Settlement)> = claimed.leases.into_iter().map(|look| (look, Settlement::Done)).collect();
        bed.command::<()>(&["CONFIG", "RESETSTAT"]).await;
        assert_eq!(bed.queue().settle(NOW, &batch).await.unwrap(), [Settled::Settled; 120]);
        measured(&mut settlements).await;

        bed.enqueue("clan:2PP", Priority::Low, NOW).await;
        bed.command::<()>(&["CONFIG", "RESETSTAT"]).await;
        assert!(claim(&bed, NOW, &names).await.work_waits);
        measured(&mut waits).await;
        settle(&bed, NOW, &bed.lease_one(NOW).await, Settlement::Done).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let each = |total: f64| total / ROUNDS as f64;
    println!(
        "120 objects, microseconds in Redis: claim {:.0}, all refused {:.0}, settle {:.0}, a request waits {:.0}",
        each(claims),
        each(refusals),
        each(settlements),
        each(waits)
    );
    assert!(each(claims) < 20_000.0, "even on a busy machine");
    assert!(bed.dump().await.records.is_empty());
}
