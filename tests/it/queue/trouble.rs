//! Redis on a bad day: keys, records and index entries deleted or broken by hand, restarts, cut and slow connections, a replica,
//! a server that loads. What still exists anywhere is not lost, and no object is leased by two at once.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{AimdState, Priority, Reason, RefreshRequest},
    queue::{
        ClaimRequest, DeadFilter, Fingerprint, Lease, LeaseRequest, MailLimits, Queue as _, QueueAdmin as _,
        QueueError, Repaired, Settled, Settlement, SharedState as _, Slot,
        record::{CLASS_WIDTH, QueueLimits, State},
        redis::{RedisQueue, Timeouts},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    beds::{Bed, NOW, RedisBed, connect, connect_with, lease_request, names, open_circuit, tag, value},
    contract::dead,
};
use crate::support::{
    proxy::{Mode, Proxy},
    redis::PrivateRedis,
};

const HOUR: Duration = Duration::from_secs(60 * 60);
const NOTHING: Repaired = Repaired { records: 0, places: 0, invalid_entries: 0, counters: 0 };
const IMPATIENT: Timeouts = Timeouts {
    connect: Duration::from_millis(400),
    first_reply: Duration::from_millis(400),
    response: Duration::from_millis(400),
};

/// Makes a test of each function.
macro_rules! on_redis {
    ($($name:ident)*) => {
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::queue::beds::RedisBed::fresh().await).await;
            })*
        }
    };
}

#[tokio::test]
async fn repairs_work_on_cluster() {
    let bed = RedisBed::on_cluster(QueueLimits::default()).await;
    deleting_any_key_loses_no_request(&bed).await;
    unreadable_record_is_rebuilt_from_name(&bed).await;
    invalid_name_becomes_dead_entry(&bed).await;
}

on_redis! {
    deleting_any_key_loses_no_request
    losing_any_shared_key_frees_no_slot
    broken_day_count_is_restored
    broken_counters_are_reset
    repair_reports_mailbox_of_other_type
    ended_copies_are_swept
    record_without_any_field_is_rebuilt
    broken_leased_record_is_not_leased_twice
    unreadable_record_is_rebuilt_from_name
    deleted_record_is_rebuilt_from_sets
    record_in_no_set_is_found
    record_in_wrong_sets_is_moved
    record_deleted_during_lease_is_not_leased_twice
    invalid_name_becomes_dead_entry
    reconcile_covers_everything_in_stretches
    time_years_ahead_is_limited
}

/// One object in each state, an orphan, and unreadable mail.
struct Full {
    leased: Lease,
}

const READY: &str = "clan:2RR";
const DELAYED: &str = "player:2PP";
const LEASED: &str = "war:2LL";
const DEAD: &str = "clan:2QQ";

async fn settle(bed: &RedisBed, now: Timestamp, lease: &Lease, settlement: Settlement) -> Settled {
    bed.queue().settle(now, &[(lease.clone(), settlement)]).await.unwrap()[0]
}

async fn assert_empty(bed: &RedisBed) {
    bed.command::<()>(&[if bed.is_cluster() { "FLUSHALL" } else { "FLUSHDB" }]).await;
}

async fn fill(bed: &RedisBed) -> Full {
    assert_empty(bed).await;
    bed.enqueue(DEAD, Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, dead("bad_request")).await;
    bed.enqueue(DELAYED, Priority::Medium, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, Settlement::Held { reason: Reason::new("maintenance", "no answer") }).await;
    bed.enqueue(LEASED, Priority::Critical, NOW).await;
    let leased = bed.lease_one(NOW).await;
    bed.enqueue(READY, Priority::Low, NOW).await;
    bed.put_mail("junk", 1.0, "junk").await;
    bed.put_index(b"clan:2VV", 1.0).await;
    bed.admit(NOW).await;
    bed.dump().await;
    Full { leased }
}

/// Everything that waits is leased within hours, once.
async fn assert_all_are_served(bed: &RedisBed, expected: &[&str]) {
    let mut served = Vec::new();
    for hour in 1..5 {
        let now = NOW + HOUR * hour;
        for lease in bed.lease(now, &lease_request(10)).await.leases {
            served.push(lease.object.to_string());
            assert_eq!(settle(bed, now, &lease, Settlement::Done).await, Settled::Settled);
        }
    }
    served.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(served, expected);
}

async fn deleting_any_key_loses_no_request(bed: &RedisBed) {
    for (key, seen) in [
        ("objects", true),
        ("ready", true),
        ("delayed:low", false),
        ("delayed:medium", true),
        ("leased", true),
        ("dead", true),
        ("dead_entries", true),
        ("orphans", false),
        ("scan", false),
        ("held", true),
        ("counters", false),
        ("key:0123456789ab", false),
        ("rate:0123456789ab", false),
        ("calls:2026-03-04", false),
        ("circuit:api", false),
    ] {
        let full = fill(bed).await;
        agree(bed).await;
        let prefix = if key.contains(':') && !key.starts_with("delayed") { "{coc-api}" } else { "{refresh}" };
        let deleted: i64 = bed.command(&["DEL", &format!("{prefix}:{key}")]).await;
        assert!(deleted == 1 || ["delayed:low", "scan"].contains(&key), "{key}");
        let repaired = bed.queue().reconcile(NOW).await.unwrap();
        assert_eq!(repaired != NOTHING, seen, "{key}: {repaired:?}");
        assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING, "{key}");
        let contents = bed.dump().await;
        let objects: Vec<&str> = contents.records.keys().map(String::as_str).collect();
        assert_eq!(objects, [DEAD, READY, DELAYED, LEASED], "{key}");
        assert_eq!(contents.records[DEAD].state, State::Dead, "{key}");
        assert_eq!(contents.dead_entries.len(), 1, "{key}");
        // Whoever holds the lease is alone with it until it ends.
        assert_eq!(names(&bed.lease(NOW, &lease_request(10)).await), [READY], "{key}");
        if key != "objects" {
            assert_eq!(settle(bed, NOW, &full.leased, Settlement::Release).await, Settled::Settled, "{key}");
        }
        // The data of the half-written request comes, and is found whether or not somebody still waits for it.
        bed.put_data(b"clan:2VV", value("clan:2VV", 1, NOW).as_bytes()).await;
        bed.admit(NOW).await;
        assert_all_are_served(bed, &[READY, DELAYED, LEASED, "clan:2VV"]).await;
        assert!(bed.queue().redrive(NOW, &DeadFilter::default()).await.unwrap() > 0, "{key}");
    }
}

/// What runs agree on beside the requests.
async fn agree(bed: &RedisBed) {
    let (queue, key) = (bed.queue(), Fingerprint("0123456789ab".to_owned()));
    queue.remember_rate(&key, AimdState::plain(17.0)).await.unwrap();
    queue.take_key(&key, "run", HOUR).await.unwrap();
    queue.take_calls(NOW.midnight(), 40, 100).await.unwrap();
    queue.open_circuit(&open_circuit(NOW + HOUR)).await.unwrap();
    let (resting, left) = (Fingerprint("ba9876543210".to_owned()), Fingerprint("aaaaaaaaaaaa".to_owned()));
    queue.take_key(&resting, "run", HOUR).await.unwrap();
    queue.cool_down_key(&resting, "run", "throttled", HOUR).await.unwrap();
    queue.take_key(&left, "run", HOUR).await.unwrap();
    queue.release_key(&left, "run", HOUR).await.unwrap();
}

/// Whether by its end, by eviction or by hand; and something else may stand there afterwards.
async fn losing_any_shared_key_frees_no_slot(bed: &RedisBed) {
    for lost in [
        "key:0123456789ab",
        "key:ba9876543210",
        "key:aaaaaaaaaaaa",
        "calls:2026-03-04",
        "copies",
        "rate:0123456789ab",
        "circuit:api",
    ] {
        for replaced in [false, true] {
            bed.command::<()>(&["FLUSHDB"]).await;
            agree(bed).await;
            lose(bed, lost, replaced).await;
            assert_nobody_else_gets_anything(bed, lost).await;
            let open = bed.queue().circuits().await.unwrap();
            assert_eq!(open.is_empty(), lost == "circuit:api", "{lost}");

            // Renewed and counted, it is kept twice again: now the other copy may go.
            let used = Fingerprint("0123456789ab".to_owned());
            assert_eq!(bed.queue().renew_keys(&[used], "run", HOUR).await.unwrap(), [true], "{lost}");
            bed.queue().take_calls(NOW.midnight(), 1, 100).await.unwrap();
            bed.queue().return_calls(NOW.midnight(), 1).await.unwrap();
            if lost == "copies" {
                bed.command::<()>(&["DEL", "{coc-api}:key:0123456789ab", "{coc-api}:calls:2026-03-04"]).await;
            } else {
                bed.command::<()>(&["HDEL", "{coc-api}:copies", "key:0123456789ab", "calls:2026-03-04"]).await;
            }
            assert_nobody_else_gets_anything(bed, lost).await;
        }
    }
}

async fn lose(bed: &RedisBed, name: &str, replaced: bool) {
    let key = format!("{{coc-api}}:{name}");
    assert_eq!(bed.command::<i64>(&["DEL", &key]).await, 1, "{name}");
    if replaced {
        bed.command::<()>(&["RPUSH", &key, "x"]).await;
    }
}

async fn assert_nobody_else_gets_anything(bed: &RedisBed, lost: &str) {
    let queue = bed.queue();
    let take = async |key: &str| queue.take_key(&Fingerprint(key.to_owned()), "another", HOUR).await.unwrap();
    let slot = take("0123456789ab").await;
    assert!(matches!(slot, Slot::Held { for_another } if for_another > HOUR / 2), "{lost}: {slot:?}");
    assert!(matches!(take("ba9876543210").await, Slot::CoolingDown { .. }), "{lost}");
    assert!(matches!(take("aaaaaaaaaaaa").await, Slot::Held { .. }), "{lost}");
    assert_eq!(queue.calls_taken(NOW.midnight()).await.unwrap(), 40, "{lost}");
}

async fn broken_counters_are_reset(bed: &RedisBed) {
    for breakage in [
        &["SET", "{refresh}:counters", "x"][..],
        &["HSET", "{refresh}:counters", "leases", "many"],
        &["HSET", "{refresh}:counters", "leases", "99999999999999999999"],
        &["HSET", "{refresh}:counters", "dead_letters_evicted", "some"],
        &["HSET", "{refresh}:counters", "repair_cursor", "3:99999999999999999999"],
        &["RPUSH", "{refresh}:scan", "x"],
        &["SET", "{refresh}:scan", "99999999999999999999"],
        &["SET", "{refresh}:scan", "x"],
    ] {
        for by_repair in [true, false] {
            let full = fill(bed).await;
            if breakage[0] != "HSET" {
                bed.command::<i64>(&["DEL", breakage[1]]).await;
            }
            bed.command::<()>(breakage).await;
            if by_repair {
                let repaired = bed.queue().repair(NOW).await.unwrap();
                // A cursor that is none begins anew without a word.
                let counters =
                    usize::from(breakage[2] != "repair_cursor" && breakage[..2] != ["SET", "{refresh}:scan"]);
                assert_eq!(repaired, Repaired { counters, ..NOTHING }, "{breakage:?}");
                assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING, "{breakage:?}");
            }
            bed.admit(NOW).await;
            let lease = bed.lease_one(NOW).await;
            assert_ne!(lease.token, full.leased.token, "{breakage:?}");
            assert_eq!(settle(bed, NOW, &lease, Settlement::Done).await, Settled::Settled, "{breakage:?}");
            assert_eq!(settle(bed, NOW, &full.leased, Settlement::Release).await, Settled::Settled, "{breakage:?}");
            bed.queue().stats(NOW).await.unwrap();
            assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING, "{breakage:?}");
        }
    }
}

/// A run fails on them, and they are the producers'.
async fn repair_reports_mailbox_of_other_type(bed: &RedisBed) {
    for key in ["refresh_queue", "refresh_requests"] {
        bed.command::<()>(&["FLUSHDB"]).await;
        bed.command::<()>(&["SET", key, "x"]).await;
        let error = bed.queue().repair(NOW).await.unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("holds a string"), "{error}");
    }
}

/// A count that is not one counts as lost.
async fn broken_day_count_is_restored(bed: &RedisBed) {
    let (queue, day) = (bed.queue(), NOW.midnight());
    queue.take_calls(day, 40, 100).await.unwrap();
    bed.command::<()>(&["SET", "{coc-api}:calls:2026-03-04", "many"]).await;
    assert_eq!(queue.calls_taken(day).await.unwrap(), 40);
    queue.return_calls(day, 10).await.unwrap();
    assert_eq!(bed.command::<String>(&["GET", "{coc-api}:calls:2026-03-04"]).await, "30");
    bed.command::<()>(&["HSET", "{coc-api}:copies", "calls:2026-03-04", "99999999999999 many"]).await;
    bed.command::<()>(&["SET", "{coc-api}:calls:2026-03-04", "many"]).await;
    assert_eq!(queue.take_calls(day, 40, 100).await.unwrap().taken, 40, "with both lost the day begins anew");
}

async fn ended_copies_are_swept(bed: &RedisBed) {
    let queue = bed.queue();
    let key = |number: usize| Fingerprint(format!("{number:012x}"));
    for number in 0..200 {
        queue.take_key(&key(number), "run", HOUR).await.unwrap();
    }
    bed.pass(2 * HOUR).await;
    for number in 200..260 {
        queue.take_key(&key(number), "run", HOUR).await.unwrap();
    }
    let left: usize = bed.command(&["HLEN", "{coc-api}:copies"]).await;
    assert!((60..90).contains(&left), "{left}");
}

async fn record_text(bed: &RedisBed, name: &str) -> serde_json::Value {
    let text: String = bed.command(&["HGET", "{refresh}:objects", name]).await;
    serde_json::from_str(&text).unwrap()
}

async fn write_record(bed: &RedisBed, name: &str, text: &str) {
    bed.command::<i64>(&["HSET", "{refresh}:objects", name, text]).await;
}

/// The record's text with one field taken out, made odd, or made nothing.
fn damaged(record: &serde_json::Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for field in record.as_object().unwrap().keys() {
        for odd in [None, Some(serde_json::json!("x")), Some(serde_json::json!(-1.5)), Some(serde_json::Value::Null)] {
            let mut record = record.clone();
            let what = format!("{field} is {odd:?}");
            match odd {
                None => drop(record.as_object_mut().unwrap().remove(field)),
                Some(odd) => record[field] = odd,
            }
            all.push((what, record.to_string()));
        }
    }
    all
}

async fn record_without_any_field_is_rebuilt(bed: &RedisBed) {
    for object in [READY, DELAYED] {
        fill(bed).await;
        for (what, text) in damaged(&record_text(bed, object).await) {
            fill(bed).await;
            write_record(bed, object, &text).await;
            let repaired = bed.queue().reconcile(NOW).await.unwrap();
            // A word that says what the latest failure was may be any text, or be missing; and so may be what it is held for.
            let may_be_missing = ["code", "reason", "held_for", "held is None"];
            if !may_be_missing.iter().any(|field| what.starts_with(field)) {
                assert_eq!(repaired.records, 1, "{object}, {what}: {repaired:?}");
            }
            assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING, "{object}, {what}");
            let record = bed.record(object).await.unwrap();
            assert!(matches!(record.state, State::Ready | State::Delayed), "{object}, {what}: {record:?}");
            assert_all_are_served(bed, &[READY, DELAYED, LEASED]).await;
        }
    }
}

async fn broken_leased_record_is_not_leased_twice(bed: &RedisBed) {
    fill(bed).await;
    for (what, text) in damaged(&record_text(bed, LEASED).await) {
        let full = fill(bed).await;
        write_record(bed, LEASED, &text).await;
        // Mail for it comes before any run has looked.
        bed.put_mail(LEASED, 0.0, &value(LEASED, 0, NOW)).await;
        bed.admit(NOW).await;
        bed.queue().reconcile(NOW).await.unwrap();
        bed.dump().await;
        assert_eq!(names(&bed.lease(NOW, &lease_request(10)).await), [READY], "{what}");
        let before_its_end = Timestamp::from_millis(full.leased.expires.as_millis() - 1);
        assert_eq!(names(&bed.lease(before_its_end, &lease_request(10)).await), [""; 0], "{what}");
        let ours = settle(bed, NOW, &full.leased, Settlement::Done).await;
        let unproven = what.starts_with("token") || what.starts_with("state") || what.starts_with("expires");
        assert_eq!(ours == Settled::LeaseLost, unproven, "{what}");
        assert_all_are_served(bed, &[READY, DELAYED, LEASED]).await;
    }
}

async fn unreadable_record_is_rebuilt_from_name(bed: &RedisBed) {
    for text in ["", "junk", "[]", "7", "null", "{\"state\":\"ready\"}", "{\"state\":\"flying\"}", "{}"] {
        fill(bed).await;
        write_record(bed, READY, text).await;
        // Without looking at anything: whoever comes to it mends it on the way.
        let leased = bed.lease(NOW, &lease_request(10)).await;
        assert_eq!(names(&leased), [READY], "{text}");
        assert_eq!(leased.repaired, Repaired { records: 1, ..NOTHING }, "{text}");
        assert_eq!(leased.leases[0].priority, Priority::Low, "{text}: as its place says");
        assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING, "{text}");
        bed.dump().await;
    }
}

async fn deleted_record_is_rebuilt_from_sets(bed: &RedisBed) {
    for object in [READY, DELAYED, DEAD] {
        fill(bed).await;
        let before = bed.record(object).await.unwrap();
        bed.command::<i64>(&["HDEL", "{refresh}:objects", object]).await;
        assert_eq!(bed.queue().reconcile(NOW).await.unwrap(), Repaired { records: 1, ..NOTHING }, "{object}");
        let after = bed.record(object).await.unwrap();
        assert_eq!(after.state, before.state, "{object}");
        if object != DEAD {
            assert_eq!(after.wanted.priority, before.wanted.priority, "{object}");
            assert_eq!(after.ready_at().max(NOW), before.ready_at().max(NOW), "{object}");
        }
    }
}

async fn record_in_no_set_is_found(bed: &RedisBed) {
    for (object, set) in [(READY, "ready"), (DELAYED, "delayed:medium"), (LEASED, "leased"), (DEAD, "dead")] {
        fill(bed).await;
        let before = bed.dump().await;
        bed.command::<i64>(&["ZREM", &format!("{{refresh}}:{set}"), object]).await;
        assert_eq!(bed.queue().reconcile(NOW).await.unwrap(), Repaired { places: 1, ..NOTHING }, "{object}");
        assert_eq!(bed.dump().await, before, "{object}");
    }
}

async fn record_in_wrong_sets_is_moved(bed: &RedisBed) {
    fill(bed).await;
    let before = bed.dump().await;
    for set in ["ready", "delayed:critical", "leased", "dead"] {
        bed.command::<i64>(&["ZADD", &format!("{{refresh}}:{set}"), "17", DELAYED]).await;
    }
    bed.command::<i64>(&["ZADD", "{refresh}:ready", "17", READY]).await;
    assert_eq!(bed.queue().repair(NOW).await.unwrap(), Repaired { places: 2, ..NOTHING });
    assert_eq!(bed.dump().await, before);
    assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING);
}

async fn record_deleted_during_lease_is_not_leased_twice(bed: &RedisBed) {
    let full = fill(bed).await;
    bed.command::<i64>(&["HDEL", "{refresh}:objects", LEASED]).await;
    bed.put_mail(LEASED, 0.0, &value(LEASED, 0, NOW)).await;
    let admitted = bed.admit(NOW).await;
    assert_eq!((admitted.admitted, admitted.repaired.records), (1, 1), "{admitted:?}");
    assert_eq!(names(&bed.lease(NOW, &lease_request(10)).await), [READY]);
    assert_eq!(settle(bed, NOW, &full.leased, Settlement::Done).await, Settled::LeaseLost);
    assert_eq!(names(&bed.lease(full.leased.expires, &lease_request(1)).await), [LEASED]);
}

async fn invalid_name_becomes_dead_entry(bed: &RedisBed) {
    fill(bed).await;
    for name in [&b"village:2PP"[..], b"clan:2X", b"clan:022222222222222222", b"\xff\x00", b"", b"mail:a \xff"] {
        bed.bytes::<i64>(&[b"HSET", b"{refresh}:objects", name, b"{\"a\": \"\xff\xc3\xa4\\\"}"]).await;
        bed.bytes::<i64>(&[b"ZADD", b"{refresh}:ready", b"5", name]).await;
    }
    bed.bytes::<i64>(&[b"ZADD", b"{refresh}:ready", b"4", b"only in the index"]).await;
    assert_eq!(names(&bed.lease(NOW, &lease_request(10)).await), [READY], "none of them stands in the way");
    bed.queue().repair(NOW).await.unwrap();
    assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING);
    let letters = bed.queue().dead_letters(&DeadFilter::default(), 100).await.unwrap();
    let invalid_entries: Vec<_> = letters.iter().filter(|letter| letter.reason_code == "broken_record").collect();
    assert_eq!(invalid_entries.len(), 7, "{letters:?}");
    for name in ["mail:village:2PP", r"mail:\xff\x00", "mail:", r"mail:a \xff", "mail:only in the index"] {
        assert!(invalid_entries.iter().any(|letter| letter.name == name), "{name} in {invalid_entries:?}");
    }
    assert_eq!(
        invalid_entries.iter().filter(|letter| letter.body.as_deref() == Some(r#"{"a": "\xff\xc3\xa4\\"}"#)).count(),
        6
    );
    bed.dump().await;
}

async fn reconcile_covers_everything_in_stretches(bed: &RedisBed) {
    let requests: Vec<RefreshRequest> = (0..2000)
        .map(|number| RefreshRequest::now(format!("clan:{}", tag(number)).parse().unwrap(), Priority::High, NOW))
        .collect();
    bed.queue().enqueue(NOW, &requests).await.unwrap();
    // One entry is missing and one is too many, so that the numbers say nothing.
    let (missing, doubled) = (format!("clan:{}", tag(77)), format!("clan:{}", tag(1900)));
    bed.command::<i64>(&["ZREM", "{refresh}:ready", &missing]).await;
    bed.command::<i64>(&["ZADD", "{refresh}:dead", "5", &doubled]).await;
    let mut repaired = NOTHING;
    let mut runs = 0;
    while repaired.places < 2 {
        repaired.add(bed.queue().reconcile(NOW).await.unwrap());
        runs += 1;
        assert!(runs < 40, "{repaired:?}");
    }
    assert_eq!(bed.dump().await.records.len(), 2000);
    // When the numbers differ one run is enough.
    bed.command::<i64>(&["DEL", "{refresh}:ready"]).await;
    assert_eq!(bed.queue().reconcile(NOW).await.unwrap().places, 2000);
    bed.dump().await;
}

async fn time_years_ahead_is_limited(bed: &RedisBed) {
    const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    let (day, longest_lease) = (HOUR * 24, HOUR + Duration::from_secs(120));
    let far = (NOW + YEARS).as_millis();
    for (object, set, field, latest) in [
        (DELAYED, "delayed:medium", "hold", day),
        (DELAYED, "delayed:medium", "due", day),
        (DELAYED, "delayed:medium", "last", day),
        (READY, "ready", "first", day),
        (LEASED, "leased", "expires", longest_lease),
    ] {
        for at_once in [false, true] {
            let full = fill(bed).await;
            let mut record = record_text(bed, object).await;
            record[field] = far.into();
            write_record(bed, object, &record.to_string()).await;
            let score = if object == READY { 3 * CLASS_WIDTH + far } else { far };
            if field != "last" {
                bed.command::<i64>(&["ZADD", &format!("{{refresh}}:{set}"), &score.to_string(), object]).await;
            }
            let repaired = if at_once { bed.queue().repair(NOW).await } else { bed.queue().reconcile(NOW).await };
            assert_eq!(repaired.unwrap(), Repaired { records: 1, ..NOTHING }, "{object}, {field}");
            assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING, "{object}, {field}");
            let record = record_text(bed, object).await;
            assert_eq!(record[field], (NOW + latest).as_millis(), "{object}, {field}");
            bed.dump().await;
            // Whoever holds the lease still does, and what waits is served in the end.
            let settled = settle(bed, NOW, &full.leased, Settlement::Release).await;
            assert_eq!(settled, Settled::Settled, "{object}, {field}");
            let mut served = names(&bed.lease(NOW + day, &lease_request(10)).await);
            served.sort_unstable();
            assert_eq!(served, [READY, DELAYED, LEASED], "{object}, {field}");
        }
    }
}

#[tokio::test]
async fn lease_expiry_is_limited_to_longest_lease() {
    let bed = RedisBed::fresh().await;
    bed.enqueue(READY, Priority::High, NOW).await;
    bed.lease(NOW, &LeaseRequest { duration: HOUR * 100_000, ..lease_request(1) }).await;
    assert_eq!(bed.queue().reconcile(NOW).await.unwrap(), Repaired { records: 1, ..NOTHING });
    let later = NOW + HOUR;
    assert_eq!(bed.queue().reconcile(later).await.unwrap(), NOTHING, "it is not put off by looking at it");
    assert_eq!(names(&bed.lease(later, &lease_request(1)).await), [""; 0]);
    let leased = bed.lease(later + Duration::from_secs(120), &lease_request(1)).await;
    assert_eq!((names(&leased), leased.lapsed), (vec![READY.to_owned()], 1));
}

fn request(object: &str) -> RefreshRequest {
    RefreshRequest::now(object.parse().unwrap(), Priority::High, NOW)
}

#[tokio::test]
async fn restart_with_data_continues() {
    let mut server = PrivateRedis::durable().await;
    let queue = connect(&server.url());
    queue.enqueue(NOW, &[request("clan:2PP"), request("clan:2QQ")]).await.unwrap();
    let mut leased = queue.lease(NOW, &lease_request(1)).await.unwrap();
    let lease = leased.leases.remove(0);
    server.stop().await;
    let error = queue.settle(NOW, &[(lease.clone(), Settlement::Done)]).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    server.start_again().await;
    assert_eq!(queue.settle(NOW, &[(lease, Settlement::Done)]).await.unwrap(), [Settled::Settled]);
    assert_eq!(queue.reconcile(NOW).await.unwrap(), NOTHING);
    assert_eq!(names(&queue.lease(NOW, &lease_request(2)).await.unwrap()), ["clan:2QQ"]);
}

#[tokio::test]
async fn restart_without_data_leaves_working_queue() {
    let mut server = PrivateRedis::start().await;
    let queue = connect(&server.url());
    queue.enqueue(NOW, &[request("clan:2PP")]).await.unwrap();
    let lease = queue.lease(NOW, &lease_request(1)).await.unwrap().leases.remove(0);
    server.stop().await;
    server.start_again().await;
    queue.time().await.unwrap();
    assert_eq!(queue.settle(NOW, &[(lease.clone(), Settlement::Done)]).await.unwrap(), [Settled::LeaseLost]);
    let renewed = queue.renew(NOW, &[(lease.object, lease.token)], NOW + HOUR).await.unwrap();
    assert_eq!((renewed, queue.reconcile(NOW).await.unwrap()), (vec![false], NOTHING));
    queue.enqueue(NOW, &[request("clan:2PP")]).await.unwrap();
    assert_eq!(names(&queue.lease(NOW, &lease_request(1)).await.unwrap()), ["clan:2PP"]);
}

/// Every operation once, by its name.
async fn operate(queue: &RedisQueue, operation: &str, lease: &Lease) -> Result<(), QueueError> {
    let key = Fingerprint("f".to_owned());
    match operation {
        "time" => queue.time().await.map(drop),
        "read_mail" => queue.read_mail(NOW, MailLimits::default()).await.map(drop),
        "enqueue" => queue.enqueue(NOW, &[request("clan:2GG")]).await.map(drop),
        "lease" => queue.lease(NOW, &lease_request(10)).await.map(drop),
        "claim" => {
            let objects = vec!["clan:2GG".parse().unwrap()];
            queue.claim(NOW, &ClaimRequest { objects, duration: HOUR, ..ClaimRequest::default() }).await.map(drop)
        }
        "renew" => queue.renew(NOW, &[(lease.object.clone(), lease.token.clone())], NOW + HOUR / 60).await.map(drop),
        "settle" => queue.settle(NOW, &[(lease.clone(), Settlement::Release)]).await.map(drop),
        "stats" => queue.stats(NOW).await.map(drop),
        "dead_letters" => queue.dead_letters(&DeadFilter::default(), 10).await.map(drop),
        "redrive" => queue.redrive(NOW, &DeadFilter::default()).await.map(drop),
        "export" => queue.export(NOW).await.map(drop),
        "reconcile" => queue.reconcile(NOW).await.map(drop),
        "repair" => queue.repair(NOW).await.map(drop),
        "take_key" => queue.take_key(&key, "run", HOUR).await.map(drop),
        "renew_keys" => queue.renew_keys(&[key], "run", HOUR).await.map(drop),
        "release_key" => queue.release_key(&key, "run", HOUR).await,
        "open_circuit" => queue.open_circuit(&open_circuit(NOW)).await,
        "circuits" => queue.circuits().await.map(drop),
        other => panic!("no operation {other}"),
    }
}

const OPERATIONS: [&str; 18] = [
    "time",
    "read_mail",
    "enqueue",
    "lease",
    "claim",
    "renew",
    "settle",
    "stats",
    "dead_letters",
    "redrive",
    "export",
    "reconcile",
    "repair",
    "take_key",
    "renew_keys",
    "release_key",
    "open_circuit",
    "circuits",
];

/// Lets every operation meet this, and the same operation work at the first try when it is over.
async fn every_one_meets(mode: Mode, operations: &[&str]) {
    let bed = RedisBed::fresh().await;
    let (proxy, url) = Proxy::in_front_of(&bed.url()).await;
    let queue = connect_with(&url, IMPATIENT);
    for operation in operations {
        let full = fill(&bed).await;
        queue.time().await.unwrap();
        proxy.set(mode);
        if let Err(error) = operate(&queue, operation, &full.leased).await {
            assert!(error.is_transient(), "{operation}: {error}");
        } else {
            assert!(matches!(mode, Mode::LoseAnswerTo(_)), "{operation} should have failed");
        }
        // What is still on its way would come in the middle of the look below.
        proxy.set(Mode::Cut);
        proxy.set(Mode::Pass);
        operate(&connect(&url), operation, &full.leased).await.unwrap();
        assert_eq!(bed.queue().repair(NOW).await.unwrap(), NOTHING, "{operation}");
        let mut contents = bed.dump().await;
        contents.records.remove("clan:2GG");
        let objects: Vec<&str> = contents.records.keys().map(String::as_str).collect();
        assert_eq!(objects, [DEAD, READY, DELAYED, LEASED], "{operation}");
    }
}

#[tokio::test]
async fn connection_cut_anywhere_loses_nothing() {
    every_one_meets(Mode::Cut, &OPERATIONS).await;
}

#[tokio::test]
async fn lost_reply_loses_nothing() {
    every_one_meets(Mode::LoseAnswerTo("EVALSHA"), &OPERATIONS).await;
}

#[tokio::test]
async fn settlement_with_lost_reply_is_settled() {
    let limits = QueueLimits { dead_letters: 1, ..QueueLimits::default() };
    let bed = RedisBed::with_limits(limits).await;
    let (proxy, url) = Proxy::in_front_of(&bed.url()).await;
    let reason = || Reason::new("timeout", "no answer");
    let until = NOW + HOUR;
    for (ending, expected) in [
        (Settlement::Done, Settled::Settled),
        (Settlement::Later { until }, Settled::Settled),
        (Settlement::Failed { until, reason: reason() }, Settled::Settled),
        (Settlement::Release, Settled::Settled),
        (Settlement::Held { reason: reason() }, Settled::Settled),
        (Settlement::Dead { reason: reason(), body: None }, Settled::Settled),
        (Settlement::Dead { reason: reason(), body: None }, Settled::NoRoom),
    ] {
        let queue = connect_with(&url, IMPATIENT).with_limits(limits);
        assert_empty(&bed).await;
        if expected == Settled::NoRoom {
            bed.enqueue(DEAD, Priority::High, NOW).await;
            let lease = bed.lease_one(NOW).await;
            settle(&bed, NOW, &lease, dead("bad_request")).await;
        }
        bed.enqueue("war:2PP", Priority::High, NOW).await;
        let batch = [(bed.lease_one(NOW).await, ending)];
        queue.time().await.unwrap();
        proxy.set(Mode::LoseAnswerTo("EVALSHA"));
        let error = queue.settle(NOW, &batch).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        proxy.set(Mode::Pass);
        let before = bed.dump().await;
        assert_eq!(queue.settle(NOW, &batch).await.unwrap(), [expected], "{batch:?}");
        assert_eq!(bed.dump().await, before, "{batch:?}");
    }
}

#[tokio::test]
async fn leases_with_lost_reply_are_leased_anew() {
    let bed = RedisBed::fresh().await;
    let (proxy, url) = Proxy::in_front_of(&bed.url()).await;
    let queue = connect_with(&url, IMPATIENT);
    bed.queue().enqueue(NOW, &[request("clan:2PP"), request("clan:2QQ")]).await.unwrap();
    queue.time().await.unwrap();
    proxy.set(Mode::LoseAnswerTo("EVALSHA"));
    let call = |nonce: &str, lost: Vec<String>| LeaseRequest { nonce: nonce.to_owned(), lost, ..lease_request(10) };
    let error = queue.lease(NOW, &call("a", Vec::new())).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(bed.queue().stats(NOW).await.unwrap().leased, 2, "though it was carried out");
    proxy.set(Mode::Pass);
    let leased = queue.lease(NOW, &call("b", vec!["a".to_owned()])).await.unwrap();
    assert_eq!((names(&leased), leased.lapsed), (vec!["clan:2PP".to_owned(), "clan:2QQ".to_owned()], 0));
    assert!(leased.leases.iter().all(|lease| lease.lapses == 0 && lease.token.0.starts_with("run:b-")));
}

#[tokio::test]
async fn slow_reply_times_out_and_loses_nothing() {
    every_one_meets(
        Mode::Slow(Duration::from_millis(900)),
        &["read_mail", "enqueue", "lease", "claim", "settle", "reconcile"],
    )
    .await;
}

#[tokio::test]
async fn replica_refuses_work_with_reason() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let full = fill(&bed).await;
    bed.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    for operation in ["enqueue", "lease", "renew", "settle", "reconcile"] {
        let error = operate(bed.queue(), operation, &full.leased).await.unwrap_err();
        assert!(matches!(error, QueueError::Refused { .. }), "{operation}: {error}");
        let text = error.to_string();
        assert!(text.starts_with("Redis at ") && text.contains("READONLY"), "{operation}: {text}");
    }
    bed.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(settle(&bed, NOW, &full.leased, Settlement::Release).await, Settled::Settled);
    bed.dump().await;
}

#[tokio::test]
async fn loading_server_refuses_work_with_reason() {
    let server = PrivateRedis::durable().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let full = fill(&bed).await;
    bed.command::<()>(&["DEBUG", "POPULATE", "3000"]).await;
    bed.command::<()>(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]).await;
    bed.command::<()>(&["CONFIG", "SET", "key-load-delay", "300"]).await;
    let queue = connect(&server.url());
    queue.time().await.unwrap();
    // By hand, since it takes longer than a client waits.
    let mut by_hand = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    let reload = async {
        by_hand.write_all(b"DEBUG RELOAD\r\n").await.unwrap();
        let mut answer = [0; 5];
        by_hand.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    };
    let refused = async {
        loop {
            match queue.lease(NOW, &lease_request(10)).await {
                Err(error) if error.to_string().contains("LOADING") => return error,
                Err(error) => panic!("{error}"),
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let ((), error) = tokio::join!(reload, refused);
    assert!(matches!(error, QueueError::Refused { .. }) && error.is_transient(), "{error}");
    assert_eq!(settle(&bed, NOW, &full.leased, Settlement::Release).await, Settled::Settled);
    bed.dump().await;
}

/// Nothing was carried out, so the same call is sent again.
#[tokio::test]
async fn server_without_replicas_is_retried() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let full = fill(&bed).await;
    bed.command::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let error = operate(bed.queue(), "lease", &full.leased).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("NOREPLICAS"), "{error}");
    for operation in ["enqueue", "lease", "take_key", "settle"] {
        bed.command::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
        let over = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            bed.command::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
        };
        let (done, ()) = tokio::join!(operate(bed.queue(), operation, &full.leased), over);
        done.unwrap_or_else(|error| panic!("{operation}: {error}"));
    }
}

#[tokio::test]
async fn busy_server_is_retried() {
    let server = PrivateRedis::start().await;
    let bed = RedisBed::at(&server.url(), QueueLimits::default()).await;
    bed.queue().enqueue(NOW, &[request("clan:2PP")]).await.unwrap();
    bed.command::<()>(&["CONFIG", "SET", "busy-reply-threshold", "10"]).await;
    let mut by_hand = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    by_hand.write_all(b"EVAL \"while true do end\" 0\r\n").await.unwrap();
    let error = loop {
        match bed.queue().stats(NOW).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_transient() && error.to_string().contains("BUSY "), "{error}");
    let over = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bed.command::<()>(&["SCRIPT", "KILL"]).await;
    };
    let one = lease_request(1);
    let (leased, ()) = tokio::join!(bed.queue().lease(NOW, &one), over);
    assert_eq!(names(&leased.unwrap()), ["clan:2PP"]);
}
