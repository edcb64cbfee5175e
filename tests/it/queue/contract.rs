//! What both queues promise about mail, order, leases and settlements. Each name is a sentence of the design.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{FollowUp, Priority, Reason, RefreshRequest},
    queue::{
        DeadFilter, Following, Lease, LeaseRequest, MAX_LAPSES, MAX_MAIL_BYTES, MailLimits, ORPHAN_TIMEOUT, Oldest,
        Queue as _, QueueAdmin as _, SUSPECT_LAPSES, Settled, Settlement,
        record::{QueueLimits, State},
    },
};

use super::beds::{Bed, NOW, lease_request, names, on_all, seed_favouring, tag, value};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(15);

on_all! {
    admit_moves_mail_into_record
    spellings_of_one_object_share_record
    flood_of_one_priority_blocks_no_other
    slice_is_bounded_in_bytes_per_priority
    oldest_mail_is_read_whatever_its_id
    large_value_becomes_dead_letter
    large_id_becomes_dead_letter
    id_of_any_bytes_is_admitted
    request_replaced_before_admission_stays
    request_with_changed_score_stays
    merge_keeps_best_of_both_requests
    repeated_requests_keep_their_place
    request_during_lease_becomes_next_request
    requests_during_lease_merge_into_one
    done_without_next_request_deletes_record
    release_merges_next_request
    failure_merges_next_request
    lapse_merges_next_request
    next_request_survives_death
    merge_counter_shows_newer_request
    orphan_is_admitted_when_data_comes
    orphan_is_dropped_after_ten_minutes
    new_orphan_survives_drop_of_older_slice
    orphan_queued_again_waits_anew
    scan_admits_data_without_index_entry
    producer_stalled_between_commands_loses_nothing
    request_replaced_during_admission_is_not_lost
    unreadable_mail_becomes_dead_letter_with_reason
    request_with_fresh_data_waits_until_due
    request_in_future_waits
    mail_brings_due_time_forward
    mail_never_shortens_a_hold
    times_are_limited_to_one_day_ahead
    leases_go_by_priority_then_first_request
    floor_goes_to_oldest_of_its_priority
    unused_floor_keeps_strict_order
    due_low_requests_do_not_delay_critical
    lease_keeps_to_its_priorities
    named_objects_are_leased_first
    lease_stops_at_max_and_reports_more
    leased_object_is_not_leased_twice
    renewed_lease_does_not_lapse
    renew_never_shortens_lease
    renew_extends_only_own_leases
    lapsed_object_is_ready_at_once
    suspect_is_leased_alone
    only_killer_among_suspects_dies
    only_killers_among_suspects_die
    suspect_waits_for_leases_in_flight
    fifth_lapse_buries_object
    unreceived_leases_never_end_as_lapsed
    leases_of_lost_reply_are_released
    enqueue_reports_objects_that_stay_dead
    mail_does_not_revive_lapsed_objects
    mail_revives_other_dead_letters
    settle_with_lost_lease_changes_nothing
    repeated_settlement_gets_same_reply
    failed_counts_attempt_and_holds
    later_waits_and_resets_counts
    release_counts_nothing_and_keeps_place
    surviving_worker_clears_lapses
    settle_keeps_order_of_batch
    follow_up_becomes_next_record_of_object
    spare_follow_up_needs_spare_capacity
    follow_up_revives_no_dead_letter
    stats_count_every_state
    oldest_includes_mailbox
    oldest_includes_overdue_objects
    oldest_ignores_mail_in_future
    empty_queue_serves_every_call
}

async fn admit_moves_mail_into_record(bed: &impl Bed) {
    bed.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW)).await;
    let admitted = bed.admit(NOW).await;
    assert_eq!((admitted.admitted, admitted.more), (1, false));
    let contents = bed.dump().await;
    assert!(contents.index.is_empty() && contents.data.is_empty());
    assert_eq!(contents.records["clan:2PP"].state, State::Ready);
}

async fn spellings_of_one_object_share_record(bed: &impl Bed) {
    for (id, tag) in [("clan:2PP", "2PP"), ("clan:#2pp", "#2pp"), ("x-retry-1", "%232PP"), ("y", " 2Pp ")] {
        let value = value("clan:TAG", 2, NOW).replace(r#""tag": "TAG""#, &format!(r#""tag": "{tag}""#));
        bed.put_mail(id, 2.0, &value).await;
    }
    assert_eq!(bed.admit(NOW).await.admitted, 4);
    let contents = bed.dump().await;
    assert_eq!(contents.records.len(), 1);
    assert_eq!(contents.records["clan:2PP"].merges, 4);
}

async fn flood_of_one_priority_blocks_no_other(bed: &impl Bed) {
    for number in 0..30 {
        let object = format!("clan:{}", tag(number));
        bed.put_mail(&object, 0.0, &value(&object, 0, NOW)).await;
    }
    bed.put_mail("war:2PP", 3.0, &value("war:2PP", 3, NOW)).await;
    let limits = MailLimits { per_class: 5, scan: 1, ..MailLimits::default() };
    let mail = bed.queue().read_mail(NOW, limits).await.unwrap();
    assert!(mail.entries.len() < 20 && mail.more, "a slice is bounded: {}", mail.entries.len());
    let admitted = bed.queue().admit(NOW, mail).await.unwrap();
    assert!(admitted.more);
    assert!(bed.record("war:2PP").await.is_some());
}

async fn slice_is_bounded_in_bytes_per_priority(bed: &impl Bed) {
    let filler = "x".repeat(60_000);
    for number in 0..8 {
        let object = format!("clan:{}", tag(number));
        let value = value(&object, 0, NOW).replace("\"retry_count\": 0", &format!("\"note\": \"{filler}\""));
        bed.put_mail(&object, 0.0, &value).await;
    }
    bed.put_mail("war:2PP", 3.0, &value("war:2PP", 3, NOW)).await;
    let limits = MailLimits { bytes: 6 * 130_000, ..MailLimits::default() };
    let mail = bed.queue().read_mail(NOW, limits).await.unwrap();
    assert_eq!(
        (mail.entries.len(), mail.more),
        (5, true),
        "two large ones, the one of the other class, two by the scan"
    );
    let limits = MailLimits { bytes: 1, ..limits };
    let mail = bed.queue().read_mail(NOW, limits).await.unwrap();
    assert!((2..=3).contains(&mail.entries.len()), "never so few that nothing moves");
}

async fn oldest_mail_is_read_whatever_its_id(bed: &impl Bed) {
    // The 30 are asked for one second after the other, in an order that has nothing to do with that of their ids.
    let mut expected = Vec::new();
    for number in 0..30 {
        let (object, place) = (format!("{}:{}", ["clan", "player", "war"][number % 3], tag(number)), number * 7 % 30);
        let asked = NOW + SECOND * u32::try_from(place).unwrap();
        bed.put_mail(&object, 1.0, &value(&object, 1, asked)).await;
        if place < 6 {
            expected.push(object);
        }
    }
    for (id, text) in [
        ("player:2GG", r#"{"type":"player","tag":"2GG","requested_at" :  "2026-03-04t05:00:00+00:00"}"#),
        ("player:2JJ", r#"{"requested_at":7,"type":"player","tag":"2JJ","requested_at":"2026-03-04 04:00:00.1"}"#),
        ("player:2VV", r#"{"type":"player","tag":"2VV","requested_at":"2027"}"#),
        ("player:2YY", "junk"),
    ] {
        bed.put_mail(id, 1.0, text).await;
        expected.push(id.to_owned());
    }
    let limits = MailLimits { per_class: 10, scan: 1, ..MailLimits::default() };
    let mail = bed.queue().read_mail(NOW, limits).await.unwrap();
    assert!(mail.entries.len() < 25 && mail.more, "a slice is bounded: {}", mail.entries.len());
    bed.queue().admit(NOW, mail).await.unwrap();
    let left = bed.dump().await.index;
    expected.retain(|id| left.contains_key(id.as_bytes()));
    assert!(expected.is_empty(), "these are still in the mailbox: {expected:?}");
}

/// A value over 64 KiB is not read; the dead letter has its size and start.
async fn large_value_becomes_dead_letter(bed: &impl Bed) {
    bed.put_mail("big", 1.0, &"ä".repeat(MAX_MAIL_BYTES)).await;
    let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
    assert!(format!("{mail:?}").len() < 10_000, "the value was read");
    assert_eq!(bed.queue().admit(NOW, mail).await.unwrap().unreadable, 1);
    let letters = bed.queue().dead_letters(&DeadFilter::default(), 10).await.unwrap();
    assert_eq!((letters[0].name.as_str(), letters[0].reason_code.as_str()), ("mail:big", "too_large"));
    assert_eq!(letters[0].reason, "the value has 131072 bytes");
    assert_eq!(letters[0].body.as_deref(), Some("ä".repeat(250).as_str()));
    let contents = bed.dump().await;
    assert!(contents.index.is_empty() && contents.data.is_empty());
}

async fn large_id_becomes_dead_letter(bed: &impl Bed) {
    let id = "i".repeat(MAX_MAIL_BYTES + 1);
    bed.put_mail(&id, 1.0, &value("clan:2PP", 1, NOW)).await;
    bed.put_data(format!("{id}j").as_bytes(), b"{}").await;
    bed.put_index(format!("{id}k").as_bytes(), 2.0).await;
    let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
    assert!(format!("{mail:?}").len() < 20_000, "the id was read");
    assert_eq!(bed.queue().admit(NOW, mail).await.unwrap().unreadable, 3);
    let contents = bed.dump().await;
    assert!(contents.index.is_empty() && contents.data.is_empty());
    assert_eq!(contents.dead_entries.len(), 3);
    let letters = bed.queue().dead_letters(&DeadFilter::default(), 10).await.unwrap();
    assert!(letters.iter().any(|letter| letter.reason == "the id has 65537 bytes"), "{letters:?}");
}

async fn id_of_any_bytes_is_admitted(bed: &impl Bed) {
    for id in [&b"\xff\xfe\x00"[..], b"", b"with space\n\"quote\"", "ßä".as_bytes()] {
        bed.put_index(id, 1.0).await;
        bed.put_data(id, value("clan:2PP", 1, NOW).as_bytes()).await;
    }
    assert_eq!(bed.admit(NOW).await.admitted, 4);
    let contents = bed.dump().await;
    assert!(contents.index.is_empty() && contents.data.is_empty());
}

async fn request_replaced_before_admission_stays(bed: &impl Bed) {
    bed.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW)).await;
    let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
    bed.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW + SECOND)).await;
    assert_eq!(bed.queue().admit(NOW, mail).await.unwrap().changed, 1);
    let contents = bed.dump().await;
    assert!(contents.records.is_empty());
    assert_eq!((contents.index.len(), contents.data.len()), (1, 1));
    assert_eq!(bed.admit(NOW).await.admitted, 1);
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.last, NOW + SECOND);
}

async fn request_with_changed_score_stays(bed: &impl Bed) {
    bed.put_mail("clan:2PP", 2.0, &value("clan:2PP", 2, NOW)).await;
    let mail = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
    bed.put_index(b"clan:2PP", 0.0).await;
    assert_eq!(bed.queue().admit(NOW, mail).await.unwrap().changed, 1);
    assert_eq!(bed.admit(NOW).await.admitted, 1);
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.priority, Priority::Critical);
}

/// The best priority, the first and the last request, and the highest retry count.
async fn merge_keeps_best_of_both_requests(bed: &impl Bed) {
    bed.put_mail("a", 2.0, &value("clan:2PP", 2, NOW - MINUTE)).await;
    bed.put_mail("b", 1.0, &value("clan:2PP", 1, NOW - 2 * MINUTE).replace("count\": 0", "count\": 2")).await;
    bed.put_mail("c", 3.0, &value("clan:2PP", 3, NOW)).await;
    assert_eq!(bed.admit(NOW).await.admitted, 3);
    let wanted = bed.record("clan:2PP").await.unwrap().wanted;
    assert_eq!((wanted.priority, wanted.first, wanted.last), (Priority::High, NOW - 2 * MINUTE, NOW));
    assert_eq!(wanted.attempts, 2);
}

async fn repeated_requests_keep_their_place(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Medium, NOW).await;
    bed.enqueue("clan:2QQ", Priority::Medium, NOW + SECOND).await;
    for minute in 1..20 {
        let now = NOW + minute * MINUTE;
        bed.put_mail("clan:2PP", 2.0, &value("clan:2PP", 2, now)).await;
        assert_eq!(bed.admit(now).await.admitted, 1);
    }
    let leased = bed.lease(NOW + 20 * MINUTE, &lease_request(2)).await;
    assert_eq!(names(&leased), ["clan:2PP", "clan:2QQ"]);
    assert_eq!((leased.leases[0].first_requested, leased.leases[0].last_requested), (NOW, NOW + 19 * MINUTE));
}

async fn request_during_lease_becomes_next_request(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Medium, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let failed = Settlement::Failed { until: NOW, reason: Reason::new("cut", "cut") };
    settle(bed, NOW, &lease, failed).await;
    let lease = bed.lease_one(NOW).await;
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 0, NOW + SECOND)).await;
    assert_eq!(bed.admit(NOW + SECOND).await.admitted, 1);
    assert_eq!(bed.record("clan:2PP").await.unwrap().state, State::Leased, "the lease is not disturbed");
    settle(bed, NOW + 2 * SECOND, &lease, Settlement::Done).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.next, record.token), (State::Ready, None, None));
    assert_eq!((record.wanted.attempts, record.lapses), (0, 0));
    assert_eq!((record.wanted.priority, record.wanted.first), (Priority::Critical, NOW + SECOND));
}

async fn requests_during_lease_merge_into_one(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Critical, NOW).await;
    let lease = bed.lease_one(NOW).await;
    bed.enqueue("clan:2PP", Priority::Low, NOW + SECOND).await;
    bed.enqueue("clan:2PP", Priority::High, NOW + 2 * SECOND).await;
    settle(bed, NOW + 3 * SECOND, &lease, Settlement::Done).await;
    let wanted = bed.record("clan:2PP").await.unwrap().wanted;
    assert_eq!((wanted.priority, wanted.first, wanted.last), (Priority::High, NOW + SECOND, NOW + 2 * SECOND));
}

async fn done_without_next_request_deletes_record(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Medium, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, Settlement::Done).await;
    assert!(bed.dump().await.records.is_empty());
}

/// A leased object with a better, later request behind it.
async fn leased_with_a_next_request(bed: &impl Bed) -> Lease {
    bed.enqueue("clan:2PP", Priority::Medium, NOW).await;
    let lease = bed.lease_one(NOW).await;
    bed.enqueue("clan:2PP", Priority::High, NOW + SECOND).await;
    lease
}

async fn assert_merged(bed: &impl Bed) {
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!(record.next, None);
    assert_eq!((record.wanted.priority, record.wanted.first), (Priority::High, NOW));
    assert_eq!(record.wanted.last, NOW + SECOND);
}

async fn release_merges_next_request(bed: &impl Bed) {
    let lease = leased_with_a_next_request(bed).await;
    settle(bed, NOW + SECOND, &lease, Settlement::Release).await;
    assert_merged(bed).await;
}

async fn failure_merges_next_request(bed: &impl Bed) {
    let lease = leased_with_a_next_request(bed).await;
    let until = NOW + MINUTE;
    settle(bed, NOW + SECOND, &lease, Settlement::Failed { until, reason: Reason::new("cut", "cut") }).await;
    assert_merged(bed).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().state, State::Delayed);
}

async fn lapse_merges_next_request(bed: &impl Bed) {
    leased_with_a_next_request(bed).await;
    assert_eq!(bed.lease(NOW + LEASE, &lease_request(0)).await.lapsed, 1);
    assert_merged(bed).await;
}

async fn next_request_survives_death(bed: &impl Bed) {
    let lease = leased_with_a_next_request(bed).await;
    settle(bed, NOW + SECOND, &lease, dead("bad_request")).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.wanted.attempts), (State::Ready, 0));
    assert_eq!((record.wanted.first, record.code), (NOW + SECOND, None));
}

async fn merge_counter_shows_newer_request(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Medium, NOW).await;
    let lease = bed.lease_one(NOW).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().merges, lease.merges);
    // Asked, by the producer's clock, before the first one: times would not show it.
    bed.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW - MINUTE)).await;
    bed.admit(NOW).await;
    assert_ne!(bed.record("clan:2PP").await.unwrap().merges, lease.merges);
    settle(bed, NOW, &lease, Settlement::Done).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.last, NOW - MINUTE);
}

async fn orphan_is_admitted_when_data_comes(bed: &impl Bed) {
    bed.put_index(b"clan:2PP", 1.0).await;
    assert_eq!(bed.admit(NOW).await.orphaned, 1);
    let contents = bed.dump().await;
    assert!(contents.index.is_empty());
    assert_eq!(contents.orphans[&b"clan:2PP"[..]], (NOW, Priority::High));
    assert_eq!(bed.admit(NOW + SECOND).await, refresh_worker::queue::Admitted::default());
    let value = value("clan:2PP", 1, NOW).replace("\"priority\": 1, ", "");
    bed.put_data(b"clan:2PP", value.as_bytes()).await;
    assert_eq!(bed.admit(NOW + 2 * SECOND).await.admitted, 1);
    let contents = bed.dump().await;
    assert!(contents.orphans.is_empty() && contents.data.is_empty());
    assert_eq!(contents.records["clan:2PP"].wanted.priority, Priority::High, "its score is remembered");
}

async fn orphan_is_dropped_after_ten_minutes(bed: &impl Bed) {
    bed.put_index(b"clan:2PP", 1.0).await;
    bed.admit(NOW).await;
    assert_eq!(bed.admit(NOW + ORPHAN_TIMEOUT - SECOND).await.orphans_dropped, 0);
    assert_eq!(bed.admit(NOW + ORPHAN_TIMEOUT).await.orphans_dropped, 1);
    assert!(bed.dump().await.orphans.is_empty());
    // Data that comes even later is found all the same.
    bed.put_data(b"clan:2PP", value("clan:2PP", 1, NOW).as_bytes()).await;
    assert_eq!(bed.admit(NOW + ORPHAN_TIMEOUT).await.found_by_scan, 1);
}

/// An orphan that returned to the index and became one anew is not dropped by a slice that was read before.
async fn new_orphan_survives_drop_of_older_slice(bed: &impl Bed) {
    bed.put_index(b"clan:2PP", 1.0).await;
    bed.admit(NOW).await;
    let older_look = bed.queue().read_mail(NOW, MailLimits::default()).await.unwrap();
    let anew = NOW + SECOND;
    bed.queue().return_to_mailbox(anew).await.unwrap();
    assert_eq!(bed.admit(anew).await.orphaned, 1);
    let admitted = bed.queue().admit(NOW + ORPHAN_TIMEOUT, older_look).await.unwrap();
    assert_eq!(admitted.orphans_dropped, 0);
    assert_eq!(bed.dump().await.orphans[&b"clan:2PP"[..]].0, anew);
}

async fn orphan_queued_again_waits_anew(bed: &impl Bed) {
    bed.put_index(b"clan:2PP", 1.0).await;
    bed.admit(NOW).await;
    let later = NOW + ORPHAN_TIMEOUT;
    bed.put_index(b"clan:2PP", 0.0).await;
    let admitted = bed.admit(later).await;
    assert_eq!((admitted.orphaned, admitted.orphans_dropped), (1, 0));
    assert_eq!(bed.dump().await.orphans[&b"clan:2PP"[..]], (later, Priority::Critical));
}

async fn scan_admits_data_without_index_entry(bed: &impl Bed) {
    bed.put_data(b"clan:2PP", value("clan:2PP", 1, NOW).as_bytes()).await;
    let admitted = bed.admit(NOW).await;
    assert_eq!((admitted.admitted, admitted.found_by_scan), (1, 1));
    assert!(bed.dump().await.data.is_empty());
    assert_eq!(bed.record("clan:2PP").await.unwrap().wanted.priority, Priority::High);
}

/// `HEXISTS`, `ZREM`, `HDEL`, `ZADD`, `HSET`, with a run between any two of them.
async fn producer_stalled_between_commands_loses_nothing(bed: &impl Bed) {
    let (old, new) = (value("clan:2PP", 2, NOW), value("clan:2PP", 1, NOW + MINUTE));
    for run_after in 0..4 {
        bed.put_mail("clan:2PP", 2.0, &old).await;
        for step in 0..4 {
            match step {
                0 => bed.remove_index(b"clan:2PP").await,
                1 => bed.remove_data(b"clan:2PP").await,
                2 => bed.put_index(b"clan:2PP", 1.0).await,
                _ => bed.put_data(b"clan:2PP", new.as_bytes()).await,
            }
            if step == run_after {
                bed.admit(NOW + MINUTE).await;
            }
        }
        bed.admit(NOW + MINUTE).await;
        let contents = bed.dump().await;
        assert_eq!(contents.records["clan:2PP"].wanted.last, NOW + MINUTE, "run after step {run_after}");
        assert!(contents.data.is_empty() && contents.index.is_empty() && contents.orphans.is_empty());
        let lease = bed.lease_one(NOW + MINUTE).await;
        settle(bed, NOW + MINUTE, &lease, Settlement::Done).await;
    }
}

/// The same, with the slice read before one of the commands and admitted after any later one.
async fn request_replaced_during_admission_is_not_lost(bed: &impl Bed) {
    let (old, new) = (value("clan:2PP", 2, NOW), value("clan:2PP", 1, NOW + MINUTE));
    for read_before in 0..4 {
        for admit_after in read_before..4 {
            bed.put_mail("clan:2PP", 2.0, &old).await;
            let mut mail = None;
            for step in 0..4 {
                if step == read_before {
                    mail = Some(bed.queue().read_mail(NOW + MINUTE, MailLimits::default()).await.unwrap());
                }
                match step {
                    0 => bed.remove_index(b"clan:2PP").await,
                    1 => bed.remove_data(b"clan:2PP").await,
                    2 => bed.put_index(b"clan:2PP", 1.0).await,
                    _ => bed.put_data(b"clan:2PP", new.as_bytes()).await,
                }
                if step == admit_after {
                    bed.queue().admit(NOW + MINUTE, mail.take().unwrap()).await.unwrap();
                }
            }
            for _ in 0..2 {
                bed.admit(NOW + MINUTE).await;
            }
            let contents = bed.dump().await;
            let record = &contents.records["clan:2PP"];
            assert_eq!(record.wanted.last, NOW + MINUTE, "read before {read_before}, admitted after {admit_after}");
            assert!(contents.data.is_empty() && contents.index.is_empty() && contents.orphans.is_empty());
            let lease = bed.lease_one(NOW + MINUTE).await;
            settle(bed, NOW + MINUTE, &lease, Settlement::Done).await;
        }
    }
}

async fn unreadable_mail_becomes_dead_letter_with_reason(bed: &impl Bed) {
    bed.put_mail("a", 0.0, "no JSON").await;
    bed.put_mail("b", 1.0, r#"{"type": "clam", "tag": "2PP"}"#).await;
    bed.put_mail("c", 2.0, r#"{"type": "clan", "tag": "2X"}"#).await;
    bed.put_index(b"\xff", 3.0).await;
    bed.put_data(b"\xff", b"\xfe\x00").await;
    bed.put_mail("clan:2PP", 3.0, &value("clan:2PP", 3, NOW)).await;
    let admitted = bed.admit(NOW).await;
    assert_eq!((admitted.admitted, admitted.unreadable), (1, 4), "what stands in front blocks nothing");
    let letters = bed.queue().dead_letters(&DeadFilter::default(), 10).await.unwrap();
    let mut shown: Vec<_> = letters.iter().map(|letter| (letter.name.as_str(), letter.reason_code.as_str())).collect();
    shown.sort_unstable();
    assert_eq!(
        shown,
        [("mail:\\xff", "not_json"), ("mail:a", "not_json"), ("mail:b", "unknown_type"), ("mail:c", "impossible_tag")]
    );
    let of = |name: &str| letters.iter().find(|letter| letter.name == name).unwrap();
    assert!(of("mail:b").reason.contains("clam"), "{:?}", of("mail:b"));
    assert_eq!(of("mail:a").body.as_deref(), Some("no JSON"));
    assert!(bed.dump().await.data.is_empty());
}

async fn request_with_fresh_data_waits_until_due(bed: &impl Bed) {
    let value =
        value("clan:2PP", 1, NOW).replace("\"last_updated\": null", "\"last_updated\": \"2026-03-04T05:00:00\"");
    bed.put_mail("clan:2PP", 1.0, &value).await;
    assert_eq!(bed.admit(NOW).await.admitted, 1);
    let due = Timestamp::from_millis(1_772_602_200_000);
    assert_eq!(due.to_string(), "2026-03-04T05:30:00.000Z");
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.wanted.due), (State::Delayed, due));
    assert!(bed.lease(due - SECOND, &lease_request(1)).await.leases.is_empty());
    assert_eq!(names(&bed.lease(due, &lease_request(1)).await), ["clan:2PP"]);
}

async fn request_in_future_waits(bed: &impl Bed) {
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 0, NOW + 2 * MINUTE)).await;
    bed.put_mail("clan:2QQ", 0.0, &value("clan:2QQ", 0, NOW + 59 * SECOND)).await;
    bed.admit(NOW).await;
    assert_eq!(names(&bed.lease(NOW, &lease_request(5)).await), ["clan:2QQ"], "a clock a little ahead is now");
    assert!(names(&bed.lease(NOW + 2 * MINUTE, &lease_request(5)).await).contains(&"clan:2PP".to_owned()));
}

async fn mail_brings_due_time_forward(bed: &impl Bed) {
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 3, NOW + 5 * MINUTE)).await;
    bed.admit(NOW).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().state, State::Delayed);
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 3, NOW)).await;
    bed.admit(NOW).await;
    assert_eq!(names(&bed.lease(NOW, &lease_request(5)).await), ["clan:2PP"]);
}

async fn mail_never_shortens_a_hold(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Medium, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let until = NOW + 4 * MINUTE;
    settle(bed, NOW, &lease, Settlement::Failed { until, reason: Reason::new("cut", "cut") }).await;
    bed.enqueue("clan:2PP", Priority::Critical, NOW + SECOND).await;
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 0, NOW + SECOND)).await;
    bed.admit(NOW + SECOND).await;
    assert!(bed.lease(until - SECOND, &lease_request(1)).await.leases.is_empty());
    let lease = bed.lease_one(until).await;
    assert_eq!((lease.priority, lease.attempts), (Priority::Critical, 1));
}

async fn times_are_limited_to_one_day_ahead(bed: &impl Bed) {
    let day = 24 * 60 * MINUTE;
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 0, NOW + 900 * day)).await;
    bed.put_mail("clan:2QQ", 0.0, &value("clan:2QQ", 0, NOW).replace("2026-", "0001-")).await;
    bed.admit(NOW).await;
    let contents = bed.dump().await;
    let ahead = &contents.records["clan:2PP"].wanted;
    assert_eq!((ahead.first, ahead.last, ahead.due), (NOW + day, NOW + day, NOW + day));
    let ancient = &contents.records["clan:2QQ"].wanted;
    assert_eq!((ancient.first, ancient.due), (Timestamp::EPOCH, Timestamp::EPOCH));
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, Settlement::Later { until: NOW + 900 * day }).await;
    assert_eq!(bed.record("clan:2QQ").await.unwrap().wanted.due, NOW + day);
    let wild = RefreshRequest { asked: NOW + 900 * day, due: NOW - 90_000 * day, ..request("clan:2VV", Priority::Low) };
    bed.queue().enqueue(NOW, &[wild]).await.unwrap();
    let wanted = bed.record("clan:2VV").await.unwrap().wanted;
    assert_eq!((wanted.first, wanted.due), (NOW + day, Timestamp::EPOCH));
}

fn request(object: &str, priority: Priority) -> RefreshRequest {
    RefreshRequest::now(object.parse().unwrap(), priority, NOW)
}

async fn leases_go_by_priority_then_first_request(bed: &impl Bed) {
    bed.enqueue("clan:2LL", Priority::Low, NOW - 9 * MINUTE).await;
    bed.enqueue("clan:2PP", Priority::High, NOW - MINUTE).await;
    bed.enqueue("war:2PP", Priority::High, NOW - 2 * MINUTE).await;
    bed.enqueue("clan:2QQ", Priority::Critical, NOW).await;
    bed.enqueue("player:2GG", Priority::Medium, NOW - 5 * MINUTE).await;
    let leased = bed.lease(NOW, &lease_request(10)).await;
    assert_eq!(names(&leased), ["clan:2QQ", "war:2PP", "clan:2PP", "player:2GG", "clan:2LL"]);
    assert!(!leased.more && !leased.suspect_waits);
    let mut tokens: Vec<_> = leased.leases.iter().map(|lease| lease.token.0.clone()).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 5);
    assert!(leased.leases.iter().all(|lease| lease.expires == NOW + LEASE));
}

async fn floor_goes_to_oldest_of_its_priority(bed: &impl Bed) {
    for class in [Priority::High, Priority::Medium, Priority::Low] {
        bed.enqueue("clan:2CC", Priority::Critical, NOW).await;
        bed.enqueue("clan:2PP", class, NOW - MINUTE).await;
        bed.enqueue("clan:2QQ", class, NOW - 2 * MINUTE).await;
        let asked = LeaseRequest { seed: seed_favouring(class), ..lease_request(1) };
        let leased = bed.lease(NOW, &asked).await;
        assert_eq!(names(&leased), ["clan:2QQ"], "{class}");
        settle(bed, NOW, &leased.leases[0], Settlement::Done).await;
        for lease in bed.lease(NOW, &lease_request(9)).await.leases {
            settle(bed, NOW, &lease, Settlement::Done).await;
        }
    }
}

async fn unused_floor_keeps_strict_order(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    bed.enqueue("clan:2QQ", Priority::Critical, NOW).await;
    let asked = LeaseRequest { seed: seed_favouring(Priority::Low), ..lease_request(1) };
    assert_eq!(names(&bed.lease(NOW, &asked).await), ["clan:2QQ"]);
}

async fn due_low_requests_do_not_delay_critical(bed: &impl Bed) {
    let due = NOW + MINUTE;
    let low: Vec<RefreshRequest> = (0..1000)
        .map(|number| RefreshRequest { due, ..request(&format!("clan:{}", tag(number)), Priority::Low) })
        .collect();
    bed.queue().enqueue(NOW, &low).await.unwrap();
    let critical = RefreshRequest { due: due + SECOND, ..request("war:2PP", Priority::Critical) };
    bed.queue().enqueue(NOW, &[critical]).await.unwrap();
    let leased = bed.lease(due + SECOND, &lease_request(1)).await;
    assert_eq!(names(&leased), ["war:2PP"]);
    assert!(leased.more);
}

async fn lease_keeps_to_its_priorities(bed: &impl Bed) {
    for (object, class) in ["clan:2PP", "clan:2QQ", "clan:2LL", "clan:2VV"].into_iter().zip(Priority::ALL) {
        bed.enqueue(object, class, NOW).await;
    }
    let asked = LeaseRequest {
        priorities: vec![Priority::Low, Priority::High],
        seed: seed_favouring(Priority::Medium),
        ..lease_request(9)
    };
    assert_eq!(names(&bed.lease(NOW, &asked).await), ["clan:2QQ", "clan:2VV"]);
}

async fn named_objects_are_leased_first(bed: &impl Bed) {
    for (object, class) in ["clan:2PP", "clan:2QQ", "clan:2LL", "clan:2VV"].into_iter().zip(Priority::ALL) {
        bed.enqueue(object, class, NOW).await;
    }
    let first = ["clan:9CC", "clan:2VV", "clan:2VV", "clan:2LL"].map(|object| object.parse().unwrap()).to_vec();
    let named = |max| LeaseRequest { first: first.clone(), priorities: vec![Priority::High], ..lease_request(max) };
    assert_eq!(names(&bed.lease(NOW, &named(1)).await), ["clan:2VV"]);
    assert_eq!(names(&bed.lease(NOW, &named(9)).await), ["clan:2LL", "clan:2QQ"]);
    assert_eq!(names(&bed.lease(NOW, &lease_request(9)).await), ["clan:2PP"]);
}

async fn lease_stops_at_max_and_reports_more(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    bed.enqueue("clan:2QQ", Priority::High, NOW + SECOND).await;
    let leased = bed.lease(NOW + SECOND, &lease_request(1)).await;
    assert_eq!((names(&leased), leased.more), (vec!["clan:2PP".to_owned()], true));
    let leased = bed.lease(NOW + SECOND, &lease_request(1)).await;
    assert_eq!((names(&leased), leased.more), (vec!["clan:2QQ".to_owned()], false));
}

async fn leased_object_is_not_leased_twice(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    bed.lease_one(NOW).await;
    let leased = bed.lease(NOW + LEASE - SECOND, &lease_request(1)).await;
    assert_eq!((leased.leases.len(), leased.lapsed), (0, 0));
}

async fn renewed_lease_does_not_lapse(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let renewal = [(lease.object.clone(), lease.token.clone())];
    let until = NOW + 2 * LEASE;
    assert_eq!(bed.queue().renew(NOW + SECOND, &renewal, until).await.unwrap(), [true]);
    assert_eq!(bed.lease(until - SECOND, &lease_request(1)).await.lapsed, 0);
    assert_eq!(bed.lease(until, &lease_request(1)).await.lapsed, 1);
}

async fn renew_never_shortens_lease(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let renewal = [(lease.object.clone(), lease.token.clone())];
    assert_eq!(bed.queue().renew(NOW, &renewal, NOW + SECOND).await.unwrap(), [true]);
    assert_eq!(bed.record("clan:2PP").await.unwrap().expires, Some(NOW + LEASE));
}

async fn renew_extends_only_own_leases(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let stale = bed.lease_one(NOW).await;
    let lease = bed.lease_one(NOW + LEASE).await;
    assert_ne!(stale.token, lease.token);
    let renewals = [(stale.object, stale.token), (lease.object, lease.token)];
    let answers = bed.queue().renew(NOW + LEASE, &renewals, NOW + 3 * LEASE).await.unwrap();
    assert_eq!(answers, [false, true]);
}

async fn lapsed_object_is_ready_at_once(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    receive(bed, NOW, &lease).await;
    for lapses in 1..MAX_LAPSES {
        let leased = bed.lease(NOW + LEASE * lapses, &lease_request(1)).await;
        receive(bed, NOW + LEASE * lapses, &leased.leases[0]).await;
        assert_eq!((leased.lapsed, leased.leases.len()), (1, 1), "after lapse {lapses}");
        assert_eq!((leased.leases[0].lapses, leased.leases[0].attempts), (lapses, 0), "no attempt counted");
    }
}

/// A run renews its lease, without making it longer: it has received it.
pub async fn receive(bed: &impl Bed, now: Timestamp, lease: &Lease) {
    let renewal = [(lease.object.clone(), lease.token.clone())];
    assert_eq!(bed.queue().renew(now, &renewal, now).await.unwrap(), [true]);
}

/// Lets `clan:2PP` lapse until it has done so `lapses` times. Answers when.
pub async fn lapse(bed: &impl Bed, lapses: u32) -> Timestamp {
    bed.enqueue("clan:2PP", Priority::Critical, NOW).await;
    let mut now = NOW;
    for lapse in 1..=lapses {
        let asked = LeaseRequest { max: 1, ..lease_request(1) };
        let leased = bed.lease(now, &asked).await;
        assert_eq!(names(&leased), ["clan:2PP"], "before lapse {lapse}");
        receive(bed, now, &leased.leases[0]).await;
        now = now + LEASE;
        assert_eq!(bed.lease(now, &lease_request(0)).await.lapsed, 1);
    }
    now
}

async fn suspect_is_leased_alone(bed: &impl Bed) {
    let now = lapse(bed, 2).await;
    bed.enqueue("clan:2QQ", Priority::Critical, now).await;
    let leased = bed.lease(now, &lease_request(10)).await;
    assert_eq!((names(&leased), leased.suspect_waits), (vec!["clan:2PP".to_owned()], false));
    assert!(leased.leases[0].is_suspect());
}

/// Work on 500 objects whose run died twice, of which some kill their worker. Answers how many leasings that took, and who died.
async fn work_off_suspects(bed: &impl Bed, killers: &[usize]) -> (usize, Vec<String>) {
    let name = |number: usize| format!("clan:{}", tag(number));
    let killers: Vec<String> = killers.iter().map(|number| name(*number)).collect();
    let requests: Vec<RefreshRequest> =
        (0..500).map(|number| RefreshRequest::now(name(number).parse().unwrap(), Priority::High, NOW)).collect();
    bed.queue().enqueue(NOW, &requests).await.unwrap();
    let mut now = NOW;
    for _ in 0..2 {
        assert_eq!(bed.lease(now, &lease_request(500)).await.leases.len(), 500);
        now = now + LEASE;
        while bed.lease(now, &lease_request(0)).await.lapsed > 0 {}
    }
    for leasings in 0..1000 {
        let batch = bed.lease(now, &lease_request(60)).await.leases;
        if batch.is_empty() {
            let dead = bed.queue().dead_letters(&DeadFilter::default(), 1000).await.unwrap();
            return (leasings, dead.into_iter().map(|letter| letter.name).collect());
        }
        for lease in &batch {
            receive(bed, now, lease).await;
        }
        if batch.iter().any(|lease| killers.contains(&lease.object.to_string())) {
            now = now + LEASE;
        } else {
            let done: Vec<_> = batch.into_iter().map(|lease| (lease, Settlement::Done)).collect();
            bed.queue().settle(now, &done).await.unwrap();
        }
    }
    panic!("something is leased for ever");
}

async fn only_killer_among_suspects_dies(bed: &impl Bed) {
    let (leasings, dead) = work_off_suspects(bed, &[237]).await;
    assert_eq!(dead, [format!("clan:{}", tag(237))]);
    assert!(leasings <= 45, "{leasings} leasings; alone it would be 502");
}

async fn only_killers_among_suspects_die(bed: &impl Bed) {
    let killers = [0, 1, 250, 499];
    let (leasings, mut dead) = work_off_suspects(bed, &killers).await;
    dead.sort();
    let mut expected = killers.map(|number| format!("clan:{}", tag(number)));
    expected.sort();
    assert_eq!(dead, expected);
    assert!(leasings <= 75, "{leasings} leasings; alone it would be 508");
}

async fn suspect_waits_for_leases_in_flight(bed: &impl Bed) {
    let now = lapse(bed, 2).await;
    bed.enqueue("clan:2QQ", Priority::Critical, NOW - MINUTE).await;
    bed.enqueue("clan:2LL", Priority::Critical, now).await;
    let leased = bed.lease(now, &lease_request(10)).await;
    assert_eq!((names(&leased), leased.suspect_waits), (vec!["clan:2QQ".to_owned()], true), "not behind another");
    let leased = bed.lease(now, &LeaseRequest { alone: false, ..lease_request(10) }).await;
    assert_eq!((leased.leases.len(), leased.suspect_waits), (0, true), "not beside what is in flight");
}

async fn fifth_lapse_buries_object(bed: &impl Bed) {
    let now = lapse(bed, 4).await;
    let lease = bed.lease_one(now).await;
    receive(bed, now, &lease).await;
    let leased = bed.lease(now + LEASE, &lease_request(1)).await;
    assert_eq!((leased.lapsed, leased.lapsed_dead, leased.leases.len()), (1, 1, 0));
    let letters = bed.queue().dead_letters(&DeadFilter::default(), 9).await.unwrap();
    assert_eq!((letters[0].name.as_str(), letters[0].reason_code.as_str()), ("clan:2PP", "lapsed"));
    assert_eq!((letters[0].lapses, letters[0].died), (5, now + LEASE));
}

async fn unreceived_leases_never_end_as_lapsed(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    for lapse in 0..2 * MAX_LAPSES {
        let lease = bed.lease_one(NOW + LEASE * lapse).await;
        assert_eq!(lease.lapses, lapse.min(SUSPECT_LAPSES), "it may become a suspect, and no more");
    }
    // It is renewed, and counts from then on.
    let now = NOW + LEASE * (2 * MAX_LAPSES);
    for lapse in 0..3 {
        let lease = bed.lease_one(now + LEASE * lapse).await;
        receive(bed, now + LEASE * lapse, &lease).await;
    }
    assert_eq!(bed.lease(now + LEASE * 3, &lease_request(1)).await.lapsed_dead, 1);
}

async fn leases_of_lost_reply_are_released(bed: &impl Bed) {
    for number in 0..3 {
        bed.enqueue(&format!("clan:{}", tag(number)), Priority::High, NOW + SECOND * u32::try_from(number).unwrap())
            .await;
    }
    let now = NOW + 3 * SECOND;
    let call = |nonce: &str, lost: &[&str], max| LeaseRequest {
        nonce: nonce.to_owned(),
        lost: lost.iter().map(|nonce| (*nonce).to_owned()).collect(),
        ..lease_request(max)
    };
    let unheard = bed.lease(now, &call("a", &[], 1)).await;
    let heard = bed.lease(now, &call("b", &[], 1)).await;
    // Another run's, of the same nonce, is its own.
    let others = bed.lease(now, &LeaseRequest { run: "other".to_owned(), ..call("a", &[], 1) }).await;
    let anew = bed.lease(now, &call("c", &["a"], 5)).await;
    assert_eq!((names(&anew), anew.lapsed), (names(&unheard), 0));
    assert_ne!(anew.leases[0].token, unheard.leases[0].token);
    assert_eq!(anew.leases[0].lapses, 0);
    assert!(bed.lease(now, &call("d", &["a"], 5)).await.leases.is_empty(), "what was handed out anew is heard of");
    for lease in [&heard, &others, &anew].map(|leased| &leased.leases[0]) {
        settle(bed, now, lease, Settlement::Done).await;
    }
    // However late: it ran out meanwhile.
    bed.enqueue("clan:2PP", Priority::High, now).await;
    bed.lease(now, &call("e", &[], 1)).await;
    let anew = bed.lease(now + LEASE, &call("f", &["e"], 1)).await;
    assert_eq!((anew.lapsed, anew.leases[0].lapses), (0, 0));
}

async fn enqueue_reports_objects_that_stay_dead(bed: &impl Bed) {
    let now = lapse(bed, MAX_LAPSES).await;
    let requests =
        ["clan:2PP", "clan:2QQ"].map(|object| RefreshRequest::now(object.parse().unwrap(), Priority::High, now));
    let enqueued = bed.queue().enqueue(now, &requests).await.unwrap();
    assert_eq!((enqueued.queued, enqueued.dead.len()), (1, 1));
    let dead = &enqueued.dead[0];
    assert_eq!((dead.object.to_string().as_str(), dead.died), ("clan:2PP", now));
    assert_eq!(dead.reason, "5 leases in a row ran out unsettled");

    let filter = DeadFilter { names: vec!["clan:2PP".to_owned()], ..DeadFilter::default() };
    bed.queue().redrive(now, &filter).await.unwrap();
    let enqueued = bed.queue().enqueue(now, &requests).await.unwrap();
    assert_eq!((enqueued.queued, enqueued.dead.len()), (2, 0));
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.lapses, record.wanted.attempts), (State::Ready, 0, 0));
}

async fn mail_does_not_revive_lapsed_objects(bed: &impl Bed) {
    let now = lapse(bed, 5).await;
    bed.put_mail("clan:2PP", 0.0, &value("clan:2PP", 0, now)).await;
    assert_eq!(bed.admit(now).await.admitted, 1);
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.wanted.last), (State::Dead, now), "the request is kept with it");
    assert!(bed.lease(now, &lease_request(1)).await.leases.is_empty());
    assert_eq!(bed.queue().redrive(now, &DeadFilter::default()).await.unwrap(), 1);
    let lease = bed.lease_one(now).await;
    assert_eq!((lease.lapses, lease.attempts, lease.last_requested), (0, 0, now));
}

async fn mail_revives_other_dead_letters(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Medium, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, dead("wrong_tag")).await;
    let mail = value("clan:2PP", 1, NOW + MINUTE).replace("count\": 0", "count\": 2");
    bed.put_mail("clan:2PP", 1.0, &mail).await;
    bed.admit(NOW + MINUTE).await;
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.wanted.attempts, record.code), (State::Ready, 0, None));
    assert_eq!(record.wanted.first, NOW + MINUTE);
}

async fn settle_with_lost_lease_changes_nothing(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let stale = bed.lease_one(NOW).await;
    let lease = bed.lease_one(NOW + LEASE).await;
    let before = bed.dump().await;
    for settlement in [Settlement::Done, Settlement::Release, dead("x"), Settlement::Later { until: NOW }] {
        let settled = bed.queue().settle(NOW + LEASE, &[(stale.clone(), settlement)]).await.unwrap();
        assert_eq!(settled, [Settled::LeaseLost]);
    }
    assert_eq!(bed.dump().await, before);
    settle(bed, NOW + LEASE, &lease, Settlement::Done).await;
    let settled = bed.queue().settle(NOW + LEASE, &[(lease, Settlement::Release)]).await.unwrap();
    assert_eq!(settled, [Settled::LeaseLost], "the record is gone");
}

async fn repeated_settlement_gets_same_reply(bed: &impl Bed) {
    for number in 0..2 {
        bed.enqueue(&format!("clan:{}", tag(number)), Priority::High, NOW).await;
    }
    let mut leases = bed.lease(NOW, &lease_request(2)).await.leases;
    leases[1].token.0.push('x');
    let follow_ups = [follow_up("war:2PP", NOW + MINUTE, false), follow_up("player:2PP", NOW, true)];
    let following = Following { follow_ups: &follow_ups, most_ready: 10 };
    let batch: Vec<_> = leases.into_iter().map(|lease| (lease, Settlement::Done)).collect();
    let first = bed.queue().settle_and_follow(NOW, &batch, following).await.unwrap();
    assert_eq!(first, (vec![Settled::Settled, Settled::LeaseLost], 2));
    let before = bed.dump().await;
    assert_eq!(bed.queue().settle_and_follow(NOW + MINUTE, &batch, following).await.unwrap(), first);
    assert_eq!(bed.dump().await, before, "and nothing is changed again");
    let settled = bed.queue().settle(NOW + MINUTE + SECOND, &batch).await.unwrap();
    assert_eq!(settled, [Settled::LeaseLost, Settled::LeaseLost], "forgotten");
}

async fn failed_counts_attempt_and_holds(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let until = NOW + 2 * MINUTE;
    settle(bed, NOW, &lease, Settlement::Failed { until, reason: Reason::new("timeout", "no answer") }).await;
    assert!(bed.lease(until - SECOND, &lease_request(1)).await.leases.is_empty());
    let lease = bed.lease_one(until).await;
    assert_eq!((lease.attempts, lease.first_requested), (1, NOW));
}

async fn later_waits_and_resets_counts(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, Settlement::Failed { until: NOW, reason: Reason::new("timeout", "") }).await;
    let lease = bed.lease_one(NOW).await;
    let until = NOW + MINUTE;
    settle(bed, NOW, &lease, Settlement::Later { until }).await;
    assert!(bed.lease(until - SECOND, &lease_request(1)).await.leases.is_empty());
    let lease = bed.lease_one(until).await;
    assert_eq!((lease.attempts, lease.lapses), (0, 0));
}

async fn release_counts_nothing_and_keeps_place(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    bed.enqueue("clan:2QQ", Priority::High, NOW + SECOND).await;
    let before = bed.dump().await.records;
    let lease = bed.lease_one(NOW + SECOND).await;
    settle(bed, NOW + MINUTE, &lease, Settlement::Release).await;
    assert_eq!(bed.dump().await.records, before);
    assert_eq!(bed.lease_one(NOW + MINUTE).await.object.to_string(), "clan:2PP");
}

async fn surviving_worker_clears_lapses(bed: &impl Bed) {
    let now = lapse(bed, 1).await;
    let lease = bed.lease_one(now).await;
    settle(bed, now, &lease, Settlement::Release).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().lapses, 1, "it was not started");
    let lease = bed.lease_one(now).await;
    settle(bed, now, &lease, Settlement::Failed { until: now, reason: Reason::new("timeout", "") }).await;
    assert_eq!(bed.record("clan:2PP").await.unwrap().lapses, 0);
}

async fn settle_keeps_order_of_batch(bed: &impl Bed) {
    for number in 0..5 {
        bed.enqueue(&format!("clan:{}", tag(number)), Priority::High, NOW).await;
    }
    let mut leases = bed.lease(NOW, &lease_request(5)).await.leases;
    leases[2].token.0.push('x');
    let reason = Reason::new("timeout", "");
    let endings = [
        Settlement::Done,
        Settlement::Release,
        Settlement::Done,
        dead("bad_request"),
        Settlement::Failed { until: NOW + MINUTE, reason },
    ];
    let batch: Vec<_> = leases.into_iter().zip(endings).collect();
    let settled = bed.queue().settle(NOW, &batch).await.unwrap();
    let (ours, stale) = (Settled::Settled, Settled::LeaseLost);
    assert_eq!(settled, [ours, ours, stale, ours, ours]);
    let states: Vec<State> = bed.dump().await.records.values().map(|record| record.state).collect();
    assert_eq!(states.len(), 4);
    for state in [State::Ready, State::Leased, State::Dead, State::Delayed] {
        assert!(states.contains(&state), "{state:?}");
    }
}

async fn stats_count_every_state(bed: &impl Bed) {
    bed.put_index(b"clan:2PP", 1.0).await;
    bed.admit(NOW).await;
    bed.put_mail("x", 1.0, "no JSON").await;
    bed.admit(NOW).await;
    bed.put_mail("clan:2QQ", 1.0, &value("clan:2QQ", 1, NOW)).await;
    bed.enqueue("clan:2CC", Priority::Critical, NOW).await;
    bed.enqueue("clan:2LL", Priority::Low, NOW - MINUTE).await;
    bed.enqueue("clan:2GG", Priority::Low, NOW).await;
    let later = RefreshRequest { due: NOW + MINUTE, ..request("clan:2VV", Priority::High) };
    bed.queue().enqueue(NOW, &[later]).await.unwrap();
    bed.lease_one(NOW).await;
    let stats = bed.queue().stats(NOW).await.unwrap();
    assert_eq!((stats.mailbox, stats.ready, stats.delayed, stats.leased), (1, 2, 1, 1));
    assert_eq!((stats.dead_letters, stats.orphans, stats.queue_size()), (1, 1, 3));
    assert_eq!(stats.ready_by_priority.values().copied().collect::<Vec<_>>(), [0, 0, 0, 2]);
    assert_eq!((stats.oldest, stats.next_due), (Oldest::Since(NOW - MINUTE), Some(NOW + MINUTE)));
    assert_eq!((stats.dead_letters_evicted, stats.mail_in_database_0), (0, None));
}

async fn oldest_includes_mailbox(bed: &impl Bed) {
    assert_eq!(bed.queue().stats(NOW).await.unwrap().oldest, Oldest::NothingWaits);
    bed.put_mail("junk", 0.0, "junk").await;
    assert_eq!(bed.queue().stats(NOW).await.unwrap().oldest, Oldest::Unknown);
    bed.put_mail("clan:2PP", 3.0, &value("clan:2PP", 3, NOW - 5 * MINUTE)).await;
    bed.put_mail("war:2PP", 3.0, &value("war:2PP", 3, NOW - 9 * MINUTE)).await;
    bed.enqueue("player:2PP", Priority::High, NOW - MINUTE).await;
    assert_eq!(bed.queue().stats(NOW).await.unwrap().oldest, Oldest::Since(NOW - 9 * MINUTE));
    bed.put_mail("clan:2QQ", 3.0, &"x".repeat(5000)).await;
    bed.remove_data(b"war:2PP").await;
    assert_eq!(bed.queue().stats(NOW).await.unwrap().oldest, Oldest::Since(NOW - 5 * MINUTE));
}

async fn oldest_includes_overdue_objects(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let reason = Reason::new("timeout", "");
    settle(bed, NOW, &lease, Settlement::Failed { until: NOW + MINUTE, reason }).await;
    assert_eq!(bed.queue().stats(NOW + SECOND).await.unwrap().oldest, Oldest::NothingWaits, "it waits for its time");
    assert_eq!(bed.queue().stats(NOW + MINUTE).await.unwrap().oldest, Oldest::Since(NOW));
}

async fn oldest_ignores_mail_in_future(bed: &impl Bed) {
    bed.put_mail("clan:2PP", 1.0, &value("clan:2PP", 1, NOW + 5 * MINUTE)).await;
    assert_eq!(bed.queue().stats(NOW).await.unwrap().oldest, Oldest::NothingWaits);
}

async fn empty_queue_serves_every_call(bed: &impl Bed) {
    assert_eq!(bed.admit(NOW).await, refresh_worker::queue::Admitted::default());
    let leased = bed.lease(NOW, &lease_request(5)).await;
    assert!(leased.leases.is_empty() && !leased.more && !leased.suspect_waits);
    assert!(bed.queue().settle(NOW, &[]).await.unwrap().is_empty());
    assert!(bed.queue().renew(NOW, &[], NOW).await.unwrap().is_empty());
    assert_eq!(bed.queue().stats(NOW).await.unwrap().queue_size(), 0);
    assert_eq!(bed.queue().redrive(NOW, &DeadFilter::default()).await.unwrap(), 0);
    assert!(bed.queue().export(NOW).await.unwrap().is_empty());
    bed.queue().enqueue(NOW, &[]).await.unwrap();
    assert!(bed.queue().time().await.unwrap() > Timestamp::EPOCH);
}

pub async fn settle(bed: &impl Bed, now: Timestamp, lease: &Lease, settlement: Settlement) {
    let settled = bed.queue().settle(now, &[(lease.clone(), settlement)]).await.unwrap();
    assert_eq!(settled, [Settled::Settled]);
}

/// Three objects: `held` waits after a failure, a war is leased and has a next request, a player is ready.
pub async fn one_held_one_leased_one_ready(bed: &impl Bed, held: &str) {
    bed.enqueue(held, Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let until = NOW + 10 * MINUTE;
    settle(bed, NOW, &lease, Settlement::Failed { until, reason: Reason::new("timeout", "") }).await;
    bed.enqueue("war:2QQ", Priority::Medium, NOW).await;
    bed.lease_one(NOW).await;
    bed.enqueue("war:2QQ", Priority::Critical, NOW + SECOND).await;
    bed.enqueue("player:2LL", Priority::Low, NOW - MINUTE).await;
}

pub fn dead(code: &'static str) -> Settlement {
    Settlement::Dead { reason: Reason::new(code, "because"), body: Some("what came".to_owned()) }
}

fn follow_up(object: &str, due: Timestamp, is_spare: bool) -> FollowUp {
    let class = if is_spare { Priority::Low } else { Priority::Critical };
    FollowUp { request: RefreshRequest::now(object.parse().unwrap(), class, due), is_spare }
}

async fn follow(
    bed: &impl Bed,
    settlements: &[(Lease, Settlement)],
    follow_ups: &[FollowUp],
    most_ready: usize,
) -> usize {
    let following = Following { follow_ups, most_ready };
    let (settled, taken) = bed.queue().settle_and_follow(NOW, settlements, following).await.unwrap();
    assert_eq!(settled, vec![Settled::Settled; settlements.len()]);
    taken
}

async fn follow_up_becomes_next_record_of_object(bed: &impl Bed) {
    bed.enqueue("war:2PP", Priority::Low, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let poll = follow_up("war:2PP", NOW + 5 * MINUTE, false);
    assert_eq!(follow(bed, &[(lease, Settlement::Done)], &[poll.clone(), poll.clone()], 10).await, 2);
    let record = bed.record("war:2PP").await.unwrap();
    assert_eq!((record.state, record.wanted.priority, record.lapses), (State::Delayed, Priority::Critical, 0));
    assert_eq!((record.wanted.due, record.wanted.last), (NOW + 5 * MINUTE, NOW + 5 * MINUTE));
    // Another run holds it meanwhile: the same poll is its next request, once.
    let lease = bed.lease_one(NOW + 5 * MINUTE).await;
    follow(bed, &[], std::slice::from_ref(&poll), 10).await;
    follow(bed, &[], &[poll], 10).await;
    assert_eq!(bed.record("war:2PP").await.unwrap().next.unwrap().due, NOW + 5 * MINUTE);
    assert_eq!(follow(bed, &[(lease, Settlement::Done)], &[], 10).await, 0);
    assert_eq!(bed.dump().await.records.len(), 1);
}

/// It is left out when its object waits already, and when too much is ready.
async fn spare_follow_up_needs_spare_capacity(bed: &impl Bed) {
    let spare = ["player:2PP", "player:2QQ", "player:2YY"].map(|object| follow_up(object, NOW, true));
    bed.enqueue("player:2PP", Priority::Medium, NOW).await;
    let before = bed.record("player:2PP").await;
    assert_eq!(follow(bed, &[], &spare, 2).await, 1, "one waits, one fits, one is too much");
    assert_eq!(bed.record("player:2PP").await, before, "and what waits is left as it is");
    assert_eq!(bed.dump().await.records.len(), 2);
    assert_eq!(follow(bed, &[], &[follow_up("war:2PP", NOW, false)], 0).await, 1, "a poll is never left out");
}

async fn follow_up_revives_no_dead_letter(bed: &impl Bed) {
    bed.enqueue("player:2PP", Priority::Low, NOW).await;
    let lease = bed.lease_one(NOW).await;
    let dead = Settlement::Dead { reason: Reason::new("bad_request", "400"), body: None };
    let follow_ups = [follow_up("player:2PP", NOW, true), follow_up("player:2PP", NOW, false)];
    assert_eq!(follow(bed, &[(lease, dead)], &follow_ups, 10).await, 0);
    assert_eq!(bed.record("player:2PP").await.unwrap().state, State::Dead);
}
