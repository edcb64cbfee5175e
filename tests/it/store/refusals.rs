//! Refusals of the database: whose fault they are, the record's or the table's.

use refresh_worker::{
    model::{Answered, Document, Fetched},
    store::{Committed, Store},
};

use super::{
    Bed,
    beds::{self, PostgresBed},
    documents::{at, clan, nth_tag, player},
    over_every_store,
};

over_every_store! {
    lone_record_refused_by_rule_is_held,
    rule_refusing_everything_is_store_trouble,
    refused_record_is_poison_once_others_stored,
}

fn one(number: usize, began: i64) -> Fetched {
    player(nth_tag(number).as_str()).fetched(at(began))
}

fn is_held(committed: &Committed) -> bool {
    matches!(committed, Committed::Held(_))
}

/// Refuses players of a tag, or all.
async fn refuse(bed: &impl Bed, tag: Option<&str>) {
    if bed.is_postgres() {
        let only = tag.map_or("TRUE".to_owned(), |tag| format!("NEW.player_tag = '{tag}'"));
        bed.exec(&format!(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no players today'; END$$; \
             CREATE TRIGGER no BEFORE INSERT ON player_snapshots FOR EACH ROW WHEN ({only}) EXECUTE FUNCTION no()"
        ))
        .await;
    } else {
        let only = tag.map_or("1".to_owned(), |tag| format!("new.player_tag = '{tag}'"));
        bed.exec(&format!(
            "create trigger no before insert on player_snapshots when {only} \
             begin select raise(abort, 'no players today'); end"
        ))
        .await;
    }
}

async fn lone_record_refused_by_rule_is_held(bed: impl Bed) {
    refuse(&bed, None).await;
    for round in 0..4 {
        let committed = bed.commit_one(one(1, round * 300)).await;
        assert!(is_held(&committed), "{committed:?}");
    }
    assert!(bed.store().is_doubtful());
}

async fn rule_refusing_everything_is_store_trouble(bed: impl Bed) {
    refuse(&bed, None).await;
    for number in 0..4 {
        assert!(is_held(&bed.commit_one(one(number, 0)).await), "{number}");
    }
    let error = bed.store().commit(at(600), &[one(4, 0)]).await.unwrap_err().to_string();
    assert!(error.contains("no players today"), "{error}");
    // The trouble is reported even when some records are stored.
    let commit = bed.commit_with_details(&[one(5, 0), clan("8GG").fetched(at(0))]).await;
    assert!(is_held(&commit.committed[0]) && commit.committed[1] == Committed::Stored, "{commit:?}");
    assert!(commit.trouble.is_some_and(|trouble| trouble.contains("no players today")));
    bed.exec(if bed.is_postgres() { "DROP TRIGGER no ON player_snapshots" } else { "drop trigger no" }).await;
    assert_eq!(bed.commit_one(one(5, 300)).await, Committed::Stored);
    assert!(!bed.store().is_doubtful());
}

async fn refused_record_is_poison_once_others_stored(bed: impl Bed) {
    refuse(&bed, Some(nth_tag(1).as_str())).await;
    assert!(is_held(&bed.commit_one(one(1, 0)).await));
    assert_eq!(bed.commit_one(one(2, 0)).await, Committed::Stored);
    assert!(matches!(bed.commit_one(one(1, 300)).await, Committed::Poison(_)));
}

/// Commits players one by one into a table with this fault, at most five. Returns how many were held before the store reported
/// trouble, and that error.
async fn held_before_trouble(bed: &PostgresBed, fault: &str) -> (usize, String) {
    bed.exec(fault).await;
    for number in 0..5 {
        match bed.store().commit(at(600), &[one(number, 0)]).await {
            Ok(commit) => {
                let held = is_held(&commit.committed[0]);
                assert!(held, "{fault}: {:?}", commit.committed);
            }
            Err(error) => return (number, error.to_string()),
        }
    }
    panic!("{fault}: the store does not say that it is in trouble");
}

#[tokio::test]
async fn table_faults_name_fix_without_dead_letters() {
    let partitioned = "
        ALTER TABLE player_snapshots RENAME TO whole;
        CREATE TABLE player_snapshots (LIKE whole INCLUDING DEFAULTS) PARTITION BY RANGE (ts);
        CREATE TABLE player_snapshots_2001 PARTITION OF player_snapshots FOR VALUES FROM ('2001-01-01') TO ('2002-01-01')";
    let faults = [
        ("ALTER TABLE player_snapshots ADD COLUMN clan_role text NOT NULL", "clan_role SET DEFAULT", 1),
        (partitioned, "create the missing partition", 1),
        ("ALTER SEQUENCE player_snapshots_id_seq MAXVALUE 3; SELECT setval('player_snapshots_id_seq', 3)", "bigint", 1),
        ("ALTER TABLE player_snapshots ALTER COLUMN trophies TYPE jsonb USING NULL", "refresh-worker check", 0),
        ("ALTER TABLE player_snapshots ADD CHECK (trophies < 0 AND trophies IS NOT NULL)", "is meant", 4),
        ("ALTER TABLE player_snapshots DROP COLUMN trophies", "trophies", 0),
    ];
    for (fault, fix, most_held) in faults {
        let bed = beds::postgres().await;
        let (held, error) = held_before_trouble(&bed, fault).await;
        assert!(error.contains(fix), "{fault}: {error}");
        assert!(held <= most_held, "{fault}: held {held} of them first");
    }
}

#[tokio::test]
async fn record_without_partition_held_beside_others() {
    let bed = beds::postgres().await;
    let of = |tag: &str| format!("FOR VALUES IN ('{tag}')");
    bed.exec(&format!(
        "ALTER TABLE player_snapshots RENAME TO whole; \
         CREATE TABLE player_snapshots (LIKE whole INCLUDING DEFAULTS) PARTITION BY LIST (player_tag); \
         CREATE TABLE one PARTITION OF player_snapshots {}; CREATE TABLE two PARTITION OF player_snapshots {}",
        of(nth_tag(1).as_str()),
        of(nth_tag(2).as_str()),
    ))
    .await;
    let committed = bed.commit(&[one(1, 0), one(2, 0), one(3, 0)]).await;
    assert_eq!(committed[..2], [Committed::Stored, Committed::Stored]);
    assert!(is_held(&committed[2]), "{committed:?}");
}

#[tokio::test]
async fn a_broken_document_is_a_poison_even_alone() {
    let bed = beds::postgres().await;
    let mut broken = one(1, 0);
    let Answered::Document(Document::Player(document)) = &mut broken.answered else { panic!("a player") };
    document.json = r#"{"no end":"#.to_owned().into();
    assert!(matches!(bed.commit_one(broken).await, Committed::Poison(_)));
    assert!(!bed.store().is_doubtful());
}
