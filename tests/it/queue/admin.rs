//! What operators' tools ask of both queues: reading everything, putting it back, taking it away, purging.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{Priority, Reason, RefreshRequest},
    queue::{
        ClaimRequest, DeadFilter, Queue as _, Settlement,
        admin::{Kept, Part, Place, PutBack, QueueAdmin, Returning},
        record::{QueueLimits, Record, State},
    },
};

use super::{
    beds::{Bed, MemoryBed, NOW, RedisBed, lease_request, names, on_all, tag, value},
    contract::{dead, one_held_one_leased_one_ready, settle},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

on_all! {
    read_slice_reads_every_state
    put_back_fills_empty_queue
    hold_survives_backup
    second_put_back_changes_nothing
    put_back_never_overwrites_newer_records
    put_back_drops_lease
    put_back_mail_equals_admitted_mail
    take_away_leaves_changed_entries
    take_away_deletes_unchanged_entries
    purge_leaves_changed_dead_letters
    dead_letters_are_filtered_by_age
    position_counts_ready_objects_before_it
}

/// Everything by slices.
async fn everything(bed: &impl Bed) -> Vec<Kept> {
    let mut found = Vec::new();
    let mut place = Some(Place::start());
    while let Some(from) = place {
        let slice = bed.queue().read_slice(NOW, &from).await.unwrap();
        found.extend(slice.entries);
        place = slice.next;
    }
    found
}

async fn returning(bed: &impl Bed) -> Vec<Returning> {
    everything(bed).await.into_iter().map(|kept| kept.returning(NOW + MINUTE, 3).unwrap()).collect()
}

async fn assert_empty(bed: &impl Bed) {
    let contents = bed.dump().await;
    assert!(
        contents.records.is_empty() && contents.dead_entries.is_empty() && contents.orphans.is_empty(),
        "{contents:?}"
    );
}

/// One of every state: mail whole, without data and without index; an orphan, an unreadable letter; ready, delayed,
/// leased with a next request, dead.
async fn fill<B: Bed>(bed: &B) {
    bed.put_mail("junk", 1.0, "junk").await;
    bed.put_index(b"war:orphan", 2.0).await;
    bed.admit(NOW).await;
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, dead("wrong_tag")).await;
    one_held_one_leased_one_ready(bed, "clan:2QQ").await;
    bed.put_mail("clan:#2yy", 1.0, &value("clan:#2yy", 1, NOW)).await;
    bed.put_index(b"clan:index only", 3.0).await;
    bed.put_data(b"data only \xff", value("clan:#2gg", 1, NOW).as_bytes()).await;
}

async fn read_slice_reads_every_state(bed: &impl Bed) {
    fill(bed).await;
    let before = bed.dump().await;
    let found = everything(bed).await;
    assert_eq!(bed.dump().await, before, "reading changes nothing");
    let count = |what: fn(&Kept) -> bool| found.iter().filter(|kept| what(kept)).count();
    assert_eq!(count(|kept| matches!(kept, Kept::Mail { score: Some(_), value: Some(_), .. })), 1);
    assert_eq!(count(|kept| matches!(kept, Kept::Mail { score: Some(_), value: None, .. })), 1);
    assert_eq!(count(|kept| matches!(kept, Kept::Mail { score: None, value: Some(_), .. })), 1);
    assert_eq!(count(|kept| matches!(kept, Kept::Orphan { class: Priority::Medium, .. })), 1);
    assert_eq!(count(|kept| matches!(kept, Kept::DeadEntry { .. })), 1);
    for state in [State::Ready, State::Delayed, State::Leased, State::Dead] {
        let of_state = |kept: &&Kept| matches!(kept, Kept::Record { record, .. } if record.state == state);
        assert_eq!(found.iter().filter(of_state).count(), 1, "{state:?}");
    }
    assert_eq!(found.len(), 9, "{found:?}");
}

async fn put_back_fills_empty_queue(bed: &impl Bed) {
    fill(bed).await;
    let before = bed.dump().await;
    let entries = returning(bed).await;
    clear(bed).await;
    let answers = bed.queue().put_back(NOW + MINUTE, &entries).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == PutBack::New), "{answers:?}");
    assert_eq!(bed.queue().has(&entries).await.unwrap(), vec![true; entries.len()]);
    let after = bed.dump().await;
    assert_eq!(after.dead_entries, before.dead_entries);
    for name in ["clan:2PP", "clan:2QQ", "player:2LL"] {
        assert_eq!(after.records[name], before.records[name], "{name}");
    }
    assert_eq!(after.records.len(), 6, "with what was mail: {:?}", after.records.keys());
    assert_eq!(after.orphans.len(), 2, "both index entries await their data");
}

async fn hold_survives_backup(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    let lease = bed.lease_one(NOW).await;
    settle(bed, NOW, &lease, Settlement::Held { reason: Reason::new("maintenance", "503") }).await;
    let before = bed.dump().await;
    let kept = everything(bed).await;
    let entries: Vec<_> = kept.into_iter().map(|kept| kept.returning(NOW, 3).unwrap()).collect();
    take_away_by_name(bed, "clan:2PP").await;
    // Into an empty queue, and into one where somebody asked for it meanwhile.
    assert_eq!(bed.queue().put_back(NOW, &entries).await.unwrap(), [PutBack::New]);
    assert_eq!(bed.dump().await.records, before.records);
    take_away_by_name(bed, "clan:2PP").await;
    bed.enqueue("clan:2PP", Priority::High, NOW).await;
    assert_eq!(bed.queue().put_back(NOW, &entries).await.unwrap(), [PutBack::Merged]);
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.held, record.held_for.as_deref()), (1, Some("maintenance")));
}

/// Takes everything of ours away, and the mail.
async fn clear(bed: &impl Bed) {
    for kept in everything(bed).await {
        match kept {
            Kept::Mail { id, .. } => {
                bed.remove_index(&id).await;
                bed.remove_data(&id).await;
            }
            Kept::Record { object, stored, .. } => {
                assert_eq!(bed.queue().take_away(&[(object.to_string(), stored)]).await.unwrap(), [true]);
            }
            Kept::DeadEntry { name, stored, .. } => {
                assert_eq!(bed.queue().take_away(&[(name, stored)]).await.unwrap(), [true]);
            }
            Kept::Orphan { id, .. } => {
                // Its data comes, it is admitted, and taken away.
                bed.put_data(&id, value("clan:2RR", 3, NOW).as_bytes()).await;
                bed.admit(NOW).await;
                take_away_by_name(bed, "clan:2RR").await;
            }
            Kept::Broken { .. } => panic!("nothing is broken"),
        }
    }
    assert_empty(bed).await;
}

async fn take_away_by_name(bed: &impl Bed, name: &str) {
    let objects = bed.queue().read_slice(NOW, &Place::of(Part::Objects)).await.unwrap().entries;
    let stored = objects.into_iter().find_map(|kept| match kept {
        Kept::Record { object, stored, .. } if object.to_string() == name => Some(stored),
        _ => None,
    });
    bed.queue().take_away(&[(name.to_owned(), stored.expect("it is there"))]).await.unwrap();
}

async fn second_put_back_changes_nothing(bed: &impl Bed) {
    fill(bed).await;
    let entries = returning(bed).await;
    bed.queue().put_back(NOW + MINUTE, &entries).await.unwrap();
    let once = bed.dump().await;
    let answers = bed.queue().put_back(NOW + 2 * MINUTE, &entries).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == PutBack::Nothing), "{answers:?}");
    assert_eq!(bed.dump().await, once);
}

async fn put_back_never_overwrites_newer_records(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Low, NOW).await;
    let old = returning(bed).await;
    bed.enqueue("clan:2PP", Priority::Critical, NOW + MINUTE).await;
    assert_eq!(bed.queue().put_back(NOW + MINUTE, &old).await.unwrap(), [PutBack::Nothing]);
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.wanted.priority, record.wanted.last), (Priority::Critical, NOW + MINUTE));

    let lease = bed.lease_one(NOW + MINUTE).await;
    assert_eq!(bed.queue().put_back(NOW + MINUTE, &old).await.unwrap(), [PutBack::Nothing]);
    assert_eq!(bed.record("clan:2PP").await.unwrap().next, None, "its lease answers the older request");
    settle(bed, NOW + MINUTE, &lease, dead("wrong_tag")).await;
    assert_eq!(bed.queue().put_back(NOW + MINUTE, &old).await.unwrap(), [PutBack::Nothing]);
    assert_eq!(bed.record("clan:2PP").await.unwrap().state, State::Dead, "it died of a newer request");
}

async fn put_back_drops_lease(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Low, NOW).await;
    bed.lease_one(NOW).await;
    bed.enqueue("clan:2PP", Priority::High, NOW + SECOND).await;
    let entries = returning(bed).await;
    take_away_by_name(bed, "clan:2PP").await;
    bed.queue().put_back(NOW + MINUTE, &entries).await.unwrap();
    let record = bed.record("clan:2PP").await.unwrap();
    assert_eq!((record.state, record.token, record.next), (State::Ready, None, None));
    assert_eq!((record.wanted.priority, record.wanted.last), (Priority::High, NOW + SECOND));
}

async fn put_back_mail_equals_admitted_mail(bed: &impl Bed) {
    bed.put_mail("clan:#2pp", 1.0, &value("clan:#2pp", 1, NOW)).await;
    bed.put_mail("junk", 2.0, "junk").await;
    bed.put_mail("large", 2.0, &"x".repeat(70_000)).await;
    let entries = returning(bed).await;
    bed.queue().put_back(NOW + MINUTE, &entries).await.unwrap();
    let put_back = bed.dump().await;
    assert_eq!(put_back.index.len(), 3, "the mailbox is not touched");
    bed.admit(NOW + MINUTE).await;
    let admitted = bed.dump().await;
    assert_eq!((admitted.records.len(), admitted.dead_entries.len()), (1, 2));
    assert_eq!(admitted.records["clan:2PP"].wanted, put_back.records["clan:2PP"].wanted);
    assert_eq!(admitted.dead_entries.keys().collect::<Vec<_>>(), put_back.dead_entries.keys().collect::<Vec<_>>());
    assert_eq!(admitted.dead_entries["mail:large"].code, put_back.dead_entries["mail:large"].code);
}

async fn take_away_leaves_changed_entries(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Low, NOW).await;
    let slice = bed.queue().read_slice(NOW, &Place::of(Part::Objects)).await.unwrap();
    let Some(Kept::Record { stored, .. }) = slice.entries.into_iter().next() else { panic!("a record") };
    bed.enqueue("clan:2PP", Priority::Low, NOW + SECOND).await;
    assert_eq!(bed.queue().take_away(&[("clan:2PP".to_owned(), stored)]).await.unwrap(), [false]);
    assert!(bed.record("clan:2PP").await.is_some());
}

async fn take_away_deletes_unchanged_entries(bed: &impl Bed) {
    fill(bed).await;
    clear(bed).await;
    let stats = bed.queue().stats(NOW).await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.leased, stats.dead_letters), (0, 0, 0, 0));
}

async fn purge_leaves_changed_dead_letters(bed: &impl Bed) {
    for number in 0..3 {
        bed.enqueue(&format!("clan:{}", tag(number)), Priority::Critical, NOW).await;
        let lease = bed.lease_one(NOW).await;
        let reason = if number == 1 { "lapsed" } else { "wrong_tag" };
        settle(bed, NOW, &lease, dead(reason)).await;
    }
    bed.put_mail("junk", 1.0, "junk").await;
    bed.admit(NOW).await;
    let letters = bed.queue().dead_letters(&DeadFilter::default(), 99).await.unwrap();
    // One is revived, one merges a request and stays dead; the other two are as they were.
    bed.enqueue(&format!("clan:{}", tag(0)), Priority::Critical, NOW + SECOND).await;
    bed.enqueue(&format!("clan:{}", tag(1)), Priority::Critical, NOW + SECOND).await;
    assert_eq!(bed.queue().purge(&letters).await.unwrap(), 2);
    let contents = bed.dump().await;
    assert_eq!((contents.records.len(), contents.dead_entries.len()), (2, 0));
    assert_eq!(bed.queue().purge(&letters).await.unwrap(), 0);
}

async fn dead_letters_are_filtered_by_age(bed: &impl Bed) {
    for (number, now) in [(0, NOW), (1, NOW + MINUTE)] {
        bed.enqueue(&format!("clan:{}", tag(number)), Priority::Critical, now).await;
        let lease = bed.lease_one(now).await;
        settle(bed, now, &lease, dead("wrong_tag")).await;
    }
    let filter = DeadFilter { died_before: Some(NOW + SECOND), ..DeadFilter::default() };
    let found = bed.queue().dead_letters(&filter, 99).await.unwrap();
    assert_eq!(found.iter().map(|letter| letter.name.clone()).collect::<Vec<_>>(), [format!("clan:{}", tag(0))]);
    assert_eq!(bed.queue().redrive(NOW + MINUTE, &filter).await.unwrap(), 1);
    assert_eq!(bed.queue().stats(NOW).await.unwrap().dead_letters, 1);
}

async fn position_counts_ready_objects_before_it(bed: &impl Bed) {
    bed.enqueue("clan:2PP", Priority::Low, NOW).await;
    bed.enqueue("clan:2QQ", Priority::High, NOW + SECOND).await;
    let position = bed.queue().position(&"clan:2PP".parse().unwrap()).await.unwrap();
    assert_eq!((position.ahead, position.record), (Some(1), bed.record("clan:2PP").await));
    let unknown = bed.queue().position(&"war:2PP".parse().unwrap()).await.unwrap();
    assert_eq!((unknown.ahead, unknown.record), (None, None));
}

/// Any record that a backup may hold for an object.
fn any_record(random: &mut fastrand::Rng) -> Record {
    let time = |random: &mut fastrand::Rng| NOW + SECOND * random.u32(0..100);
    let class = Priority::nearest(random.i64(0..4));
    let asked = time(random);
    let request = RefreshRequest {
        due: time(random),
        attempts: random.u32(0..3),
        reader_asked: random.bool().then(|| time(random)),
        ..RefreshRequest::now("clan:2PP".parse().unwrap(), class, asked)
    };
    let mut record = Record::with_request(None, &request, NOW);
    if random.bool() {
        record = Record::with_request(Some(record), &RefreshRequest::now(request.object, class, time(random)), NOW);
    }
    (record.hold, record.lapses) = (time(random), random.u32(0..5));
    match random.u32(0..4) {
        0 => {
            let code = if random.bool() { "lapsed" } else { "wrong_tag" };
            (record.state, record.died, record.code) = (State::Dead, Some(time(random)), Some(code.to_owned()));
        }
        1 => {
            if random.bool() {
                record = Record::planned(NOW);
            }
            record.lease("clan:2PP".parse().unwrap(), "run:1".to_owned(), time(random));
            record.next = random.bool().then(|| Record::with_request(None, &request_at(time(random)), NOW).wanted);
        }
        _ => record.place(NOW),
    }
    record
}

fn request_at(asked: Timestamp) -> RefreshRequest {
    RefreshRequest::now("clan:2PP".parse().unwrap(), Priority::Critical, asked)
}

/// The rules of putting back are written twice, in Rust and in Lua.
#[tokio::test]
async fn both_queues_put_back_any_records_alike() {
    const OBJECTS: usize = 600;
    let mut random = fastrand::Rng::with_seed(3);
    let (memory, redis) = (MemoryBed::with_limits(QueueLimits::default()), RedisBed::fresh().await);
    for round in 0..4 {
        let now = NOW + 20 * SECOND * round;
        let entries: Vec<Returning> = (0..OBJECTS)
            .map(|number| {
                let record = Box::new(any_record(&mut random));
                let object = format!("clan:{}", tag(number)).parse().unwrap();
                Kept::Record { object, record, stored: Vec::new() }.returning(now, 3).unwrap()
            })
            .collect();
        let answers = memory.queue().put_back(now, &entries).await.unwrap();
        assert_eq!(redis.queue().put_back(now, &entries).await.unwrap(), answers, "round {round}");
        assert_eq!(redis.dump().await, memory.dump().await, "round {round}");
        assert_eq!(redis.queue().has(&entries).await.unwrap(), vec![true; OBJECTS], "round {round}");
        assert_eq!(memory.queue().has(&entries).await.unwrap(), vec![true; OBJECTS], "round {round}");
        let again = redis.queue().put_back(now, &entries).await.unwrap();
        assert!(again.iter().all(|answer| *answer == PutBack::Nothing), "round {round}");
        // Some are leased meanwhile, and some of those asked for again.
        let leased = memory.lease(now, &lease_request(150)).await;
        assert_eq!(names(&redis.lease(now, &lease_request(150)).await), names(&leased));
        for lease in leased.leases.iter().take(40) {
            for_both(&memory, &redis, &lease.object.to_string(), now).await;
        }
        // Some are looked at meanwhile.
        let _ = (memory.queue().return_to_mailbox(now).await, redis.queue().return_to_mailbox(now).await);
        let objects = (0..60).map(|number| format!("clan:{}", tag(number)).parse().unwrap()).collect();
        let looks = ClaimRequest { objects, duration: 100 * SECOND, run: "run".to_owned(), nonce: String::new() };
        let claimed = memory.queue().claim(now, &looks).await.unwrap();
        assert!(claimed.leases.len() > 20, "{claimed:?}");
        assert_eq!(format!("{:?}", redis.queue().claim(now, &looks).await.unwrap()), format!("{claimed:?}"));
        for lease in claimed.leases.iter().take(10) {
            for_both(&memory, &redis, &lease.object.to_string(), now).await;
        }
    }
}

async fn for_both(memory: &MemoryBed, redis: &RedisBed, object: &str, now: Timestamp) {
    memory.enqueue(object, Priority::Low, now).await;
    redis.enqueue(object, Priority::Low, now).await;
}
