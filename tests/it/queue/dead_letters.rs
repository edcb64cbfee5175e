//! What an operator asks of both queues: dead letters, redrive, and the way back to the old worker.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{Kind, Priority, Reason, RefreshRequest},
    queue::{
        DeadFilter, Queue as _, Settled, Settlement,
        admin::{PutBack, QueueAdmin, Returning},
        record::{QueueLimits, Record, State},
    },
};

use super::{
    beds::{Bed, NOW, lease_request, names, on_all, tag, value},
    contract::{dead, lapse, one_held_one_leased_one_ready, receive, settle},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(15);

on_all! {
    (QueueLimits { dead_letters: 3, dead_entries: 2, ..QueueLimits::default() })
    dead_objects_are_never_evicted
    death_without_room_waits
    lapse_without_room_leaves_suspect
    put_back_leaves_out_dead_letters_without_room
    dead_letter_keeps_first_500_bytes
    dead_entries_are_capped_separately
    dead_letters_lists_newest_first_by_filter
    redriven_objects_are_ready_with_reset_counts
    redriven_entry_returns_to_mailbox_unchanged
    redriven_entry_does_not_replace_newer_mail
    clipped_entry_is_not_redriven
    redrive_keeps_to_filter
    export_writes_mailbox_format_and_removes_nothing
    return_to_mailbox_serves_old_worker
    delayed_object_returns_with_future_request_time
    return_to_mailbox_keeps_newer_mail
    returned_mail_is_admitted_again
    orphans_return_to_mailbox
}

/// Dead objects `clan:<tag(0)>`, …, one a second.
async fn bury(bed: &impl Bed, count: usize) {
    for number in 0..count {
        let now = NOW + SECOND * u32::try_from(number).unwrap();
        bed.enqueue(&format!("clan:{}", tag(number)), Priority::Critical, now).await;
        let lease = bed.lease_one(now).await;
        settle(bed, now, &lease, dead("bad_request")).await;
    }
}

async fn listed(bed: &impl Bed, filter: &DeadFilter) -> Vec<String> {
    let letters = bed.queue().dead_letters(filter, 100).await.unwrap();
    letters.into_iter().map(|letter| letter.name).collect()
}

/// Leases the next in order and tries to bury it while there is no room.
async fn bury_in_vain(bed: &impl Bed, now: Timestamp) {
    let lease = bed.lease_one(now).await;
    let settled = bed.queue().settle(now, &[(lease, dead("bad_request"))]).await.unwrap();
    assert_eq!(settled, [Settled::NoRoom]);
}

async fn dead_objects_are_never_evicted(bed: &impl Bed) {
    bury(bed, 3).await;
    for object in ["player:2PP", "player:2QQ"] {
        bed.enqueue(object, Priority::High, NOW).await;
        bury_in_vain(bed, NOW).await;
    }
    let expected: Vec<String> = [2, 1, 0].map(|number| format!("clan:{}", tag(number))).into();
    assert_eq!(listed(bed, &DeadFilter::default()).await, expected);
    let stats = bed.queue().stats(NOW).await.unwrap();
    assert_eq!((stats.dead_letters, stats.dead_letters_evicted, stats.delayed), (3, 0, 2));
}

async fn death_without_room_waits(bed: &impl Bed) {
    bury(bed, 3).await;
    bed.enqueue("player:2PP", Priority::High, NOW).await;
    bury_in_vain(bed, NOW).await;
    let record = bed.record("player:2PP").await.unwrap();
    assert_eq!((record.state, record.hold, record.wanted.attempts), (State::Delayed, NOW + 10 * MINUTE, 0));
    assert_eq!((record.held, record.held_for.as_deref()), (0, Some("dead_letters_full")));
    assert_eq!((record.code.as_deref(), record.died), (Some("bad_request"), None));
    bed.queue()
        .redrive(NOW, &DeadFilter { names: vec![format!("clan:{}", tag(0))], ..DeadFilter::default() })
        .await
        .unwrap();
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, Settlement::Done).await;
    let lease = bed.lease_one(NOW + 10 * MINUTE).await;
    settle(bed, NOW + 10 * MINUTE, &lease, dead("bad_request")).await;
    assert_eq!(bed.record("player:2PP").await.unwrap().state, State::Dead);
}

async fn lapse_without_room_leaves_suspect(bed: &impl Bed) {
    bury(bed, 3).await;
    let mut now = lapse(bed, 4).await;
    for _ in 0..2 {
        let lease = bed.lease_one(now).await;
        receive(bed, now, &lease).await;
        now = now + LEASE;
        let leased = bed.lease(now, &lease_request(1)).await;
        assert_eq!((leased.lapsed, leased.lapsed_dead, leased.leases.len()), (1, 0, 0));
        let record = bed.record("clan:2PP").await.unwrap();
        assert_eq!((record.state, record.lapses, record.hold), (State::Delayed, 4, now + 10 * MINUTE));
        now = now + 10 * MINUTE;
    }
    assert!(bed.lease_one(now).await.is_suspect());
}

/// A dead letter of an object, as a backup has it.
fn letter_of(object: &str) -> Returning {
    let mut record = Record::with_request(None, &RefreshRequest::now(object.parse().unwrap(), Priority::Low, NOW), NOW);
    (record.state, record.died) = (State::Dead, Some(NOW));
    Returning::Record { object: object.parse().unwrap(), record: Box::new(record) }
}

async fn put_back_leaves_out_dead_letters_without_room(bed: &impl Bed) {
    let most = 3;
    let all: Vec<Returning> = (0..=most).map(|number| letter_of(&format!("clan:{}", tag(number)))).collect();
    let answers = bed.queue().put_back(NOW, &all).await.unwrap();
    assert_eq!(answers.iter().filter(|answer| **answer == PutBack::New).count(), most);
    assert_eq!(answers[most], PutBack::NoRoom);
    assert_eq!(bed.queue().put_back(NOW, &all[..1]).await.unwrap(), [PutBack::Nothing]);
    assert_eq!(bed.queue().has(&all[most..]).await.unwrap(), [false]);
}

async fn dead_letter_keeps_first_500_bytes(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let body = Some(format!("x{}", "ä".repeat(5000)));
    let reason = Reason::new("wrong_tag", "r".repeat(5000));
    settle(bed, NOW, &lease, Settlement::Dead { reason, body }).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!(record.body, Some(format!("x{}", "ä".repeat(249))));
    assert_eq!(record.reason.map(|reason| reason.len()), Some(300));
}

async fn dead_entries_are_capped_separately(bed: &impl Bed) {
    bury(bed, 3).await;
    for (number, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        bed.put_mail(id, 1.0, "junk").await;
        assert_eq!(bed.admit(NOW + MINUTE + SECOND * u32::try_from(number).unwrap()).await.unreadable, 1);
    }
    let listed = listed(bed, &DeadFilter::default()).await;
    assert_eq!((listed.len(), &listed[..2]), (5, &["mail:d".to_owned(), "mail:c".to_owned()][..]));
    assert_eq!(bed.queue().stats(NOW).await.unwrap().dead_letters_evicted, 2);
}

async fn dead_letters_lists_newest_first_by_filter(bed: &impl Bed) {
    bury(bed, 2).await;
    bed.put_mail("x", 1.0, "junk").await;
    bed.admit(NOW).await;
    bed.enqueue("war:2PP", Priority::Low, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW + MINUTE, &lease, dead("wrong_tag")).await;
    let clan = |number: usize| format!("clan:{}", tag(number));
    let newest_two = bed.queue().dead_letters(&DeadFilter::default(), 2).await.unwrap();
    assert_eq!(newest_two[0].name, "war:2PP");
    assert_eq!(newest_two[0].body.as_deref(), Some("what came"));
    assert_eq!((newest_two[1].name.as_str(), newest_two[1].died), (clan(1).as_str(), NOW + SECOND));
    let kind = DeadFilter { kind: Some(Kind::Clan), ..DeadFilter::default() };
    assert_eq!(listed(bed, &kind).await, [clan(1), clan(0)]);
    let code = DeadFilter { reason_code: Some("wrong_tag".to_owned()), ..DeadFilter::default() };
    assert_eq!(listed(bed, &code).await, ["war:2PP"]);
    let names = vec![format!("clan:#{}", tag(0).to_lowercase()), "mail:x".to_owned(), "clan:2QQ".to_owned()];
    let by_name = DeadFilter { names, ..DeadFilter::default() };
    assert_eq!(listed(bed, &by_name).await, ["mail:x".to_owned(), clan(0)]);
}

async fn redriven_objects_are_ready_with_reset_counts(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let failed = Settlement::Failed { until: NOW, reason: Reason::new("timeout", "") };
    settle(bed, NOW, &lease, failed).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, dead("timeout")).await;
    assert_eq!(bed.queue().redrive(NOW + MINUTE, &DeadFilter::default()).await.unwrap(), 1);
    let lease = bed.lease_one(NOW + MINUTE).await;
    assert_eq!((lease.attempts, lease.lapses, lease.first_requested), (0, 0, NOW));
    let contents = bed.dump().await;
    assert_eq!((contents.records["clan:2PP"].body.clone(), contents.records.len()), (None, 1));
}

async fn redriven_entry_returns_to_mailbox_unchanged(bed: &impl Bed) {
    bed.put_index(b"mail:\xff", 2.0).await;
    bed.put_data(b"mail:\xff", b"\x00 \xfe \\x00 {").await;
    let before = bed.dump().await;
    assert_eq!(bed.admit(NOW).await.unreadable, 1);
    assert_eq!(bed.queue().redrive(NOW, &DeadFilter::default()).await.unwrap(), 1);
    assert_eq!(bed.dump().await, before);
}

async fn redriven_entry_does_not_replace_newer_mail(bed: &impl Bed) {
    bed.put_mail("x", 1.0, "junk").await;
    bed.admit(NOW).await;
    bed.put_mail("x", 1.0, &value("clan:2PP", 1, NOW)).await;
    assert_eq!(bed.queue().redrive(NOW, &DeadFilter::default()).await.unwrap(), 0);
    assert_eq!(bed.admit(NOW).await.admitted, 1);
    assert_eq!(listed(bed, &DeadFilter::default()).await, ["mail:x"]);
}

async fn clipped_entry_is_not_redriven(bed: &impl Bed) {
    bed.put_mail("x", 1.0, &"junk".repeat(2000)).await;
    bed.admit(NOW).await;
    assert_eq!(bed.queue().redrive(NOW, &DeadFilter::default()).await.unwrap(), 0);
    let letters = bed.queue().dead_letters(&DeadFilter::default(), 9).await.unwrap();
    assert_eq!(letters[0].body.as_ref().map(String::len), Some(500));
}

async fn redrive_keeps_to_filter(bed: &impl Bed) {
    bury(bed, 3).await;
    let filter = DeadFilter { names: vec![format!("clan:{}", tag(1))], ..DeadFilter::default() };
    assert_eq!(bed.queue().redrive(NOW + MINUTE, &filter).await.unwrap(), 1);
    assert_eq!(listed(bed, &DeadFilter::default()).await.len(), 2);
    assert_eq!(names(&bed.lease(NOW + MINUTE, &lease_request(9)).await), filter.names);
}

/// One ready, one held, one leased with a next request, one dead.
async fn fill(bed: &impl Bed) {
    bury(bed, 1).await;
    one_held_one_leased_one_ready(bed, "clan:2PP").await;
}

async fn export_writes_mailbox_format_and_removes_nothing(bed: &impl Bed) {
    fill(bed).await;
    let before = bed.dump().await;
    let exported = bed.queue().export(NOW + SECOND).await.unwrap();
    assert_eq!(bed.dump().await, before);
    let shown: Vec<_> = exported.iter().map(|entry| (entry.id.as_str(), entry.score)).collect();
    assert_eq!(shown, [("war:2QQ", 0), ("clan:2PP", 1), ("player:2LL", 3)]);
    assert_eq!(
        exported[2].value,
        r#"{"id": "player:2LL", "type": "player", "tag": "2LL", "priority": 3, "requested_at": "2026-03-04T05:05:07.089000", "last_updated": null, "retry_count": 0}"#
    );
}

async fn return_to_mailbox_serves_old_worker(bed: &impl Bed) {
    fill(bed).await;
    let exported = bed.queue().export(NOW + SECOND).await.unwrap();
    assert_eq!(bed.queue().return_to_mailbox(NOW + SECOND).await.unwrap(), 3);
    let contents = bed.dump().await;
    assert_eq!((contents.index.len(), contents.data.len()), (3, 3));
    for entry in exported {
        assert!((contents.index[entry.id.as_bytes()] - f64::from(entry.score)).abs() < f64::EPSILON);
        assert_eq!(contents.data[entry.id.as_bytes()], entry.value.as_bytes());
    }
    assert!(contents.records.values().all(|record| record.state == State::Dead), "dead letters are not part of it");
    assert_eq!(contents.records.len(), 1);
}

async fn delayed_object_returns_with_future_request_time(bed: &impl Bed) {
    fill(bed).await;
    let exported = bed.queue().export(NOW + SECOND).await.unwrap();
    let held = exported.iter().find(|entry| entry.id == "clan:2PP").unwrap();
    assert!(held.value.contains(r#""requested_at": "2026-03-04T05:16:07.089000""#), "{}", held.value);
    assert!(held.value.contains(r#""retry_count": 1"#), "{}", held.value);
}

async fn return_to_mailbox_keeps_newer_mail(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Low, NOW).await;
    let newer = value("clan:2PP", 1, NOW + SECOND);
    bed.put_mail("clan:2PP", 1.0, &newer).await;
    assert_eq!(bed.queue().return_to_mailbox(NOW + SECOND).await.unwrap(), 1);
    let contents = bed.dump().await;
    assert_eq!(contents.data[&b"clan:2PP"[..]], newer.as_bytes());
    assert_eq!((contents.index.len(), contents.data.len()), (2, 2));
    let (id, second) = contents.data.iter().find(|(id, _)| *id != b"clan:2PP").unwrap();
    let second: serde_json::Value = serde_json::from_slice(second).unwrap();
    assert_eq!(second["id"].as_str().unwrap().as_bytes(), id);
}

async fn returned_mail_is_admitted_again(bed: &impl Bed) {
    let requests: Vec<RefreshRequest> = (0..1200)
        .map(|number| RefreshRequest::now(format!("clan:{}", tag(number)).parse().unwrap(), Priority::Medium, NOW))
        .collect();
    bed.queue().enqueue(NOW, &requests).await.unwrap();
    let mut before = bed.dump().await.records;
    // The mailbox has no word for who asked, and readers write to it.
    for record in before.values_mut() {
        record.wanted.asked = Some(NOW);
    }
    assert_eq!(bed.queue().export(NOW).await.unwrap().len(), 1200);
    assert_eq!(bed.queue().return_to_mailbox(NOW).await.unwrap(), 1200);
    assert!(bed.dump().await.records.is_empty());
    while bed.admit(NOW).await.more {}
    assert_eq!(bed.dump().await.records, before);
}

async fn orphans_return_to_mailbox(bed: &impl Bed) {
    bed.put_index(b"clan:2PP", 1.0).await;
    bed.admit(NOW).await;
    bed.put_index(b"clan:2QQ", 3.0).await;
    bed.admit(NOW).await;
    bed.put_index(b"clan:2QQ", 0.0).await;
    bed.queue().return_to_mailbox(NOW).await.unwrap();
    let contents = bed.dump().await;
    assert!(contents.orphans.is_empty());
    let scores: Vec<_> = contents.index.into_values().collect();
    assert_eq!(scores, [1.0, 0.0], "what is there again keeps its class");
}
