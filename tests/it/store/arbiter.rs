//! The arbiter: of two responses the later begun counts, in any order of commits. Also records that cannot be stored.

use std::time::Duration;

use refresh_worker::{
    model::{Answered, Document, Fetched, ObjectId},
    store::{Committed, RunRow, Store},
};

use super::{
    Bed,
    documents::{at, clan, gone, nth_tag, player, tag, war},
    over_every_store, text, time,
};

over_every_store! {
    late_older_response_is_superseded,
    the_same_answer_twice_is_one_row,
    duplicates_in_batch_keep_newest,
    stored_time_beyond_horizon_counts_as_older,
    stored_time_within_horizon_counts,
    late_player_response_keeps_newer_clan_columns,
    older_clan_copy_does_not_overwrite_newer,
    gone_after_a_newer_answer_is_superseded,
    a_poison_record_hurts_only_itself,
    a_batch_of_nothing_is_nothing,
    last_run_reads_back_as_written,
    last_run_is_latest_started,
    migrating_again_runs_nothing,
    the_store_answers_a_ping,
}

async fn late_older_response_is_superseded(bed: impl Bed) {
    bed.commit_one(player("2PP").trophies(2000).of("9CC").fetched(at(300))).await;
    let late = player("2PP").trophies(1000).of("8GG").fetched(at(100));
    assert_eq!(bed.commit_one(late).await, Committed::Superseded);
    let row = bed.newest_player("2PP").await;
    assert_eq!((&row["trophies"], time(&row["ts"])), (&2000.into(), Some(at(300))));
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2PP'").await, 1);
    assert_eq!(bed.open_clans("2PP").await, ["9CC"]);

    bed.commit_one(clan("8GG").level(2).fetched(at(300))).await;
    assert_eq!(
        bed.commit_one(clan("8GG").level(1).with([player("2YY")]).fetched(at(100))).await,
        Committed::Superseded
    );
    assert_eq!(bed.newest_clan("8GG").await["level"], 2);
    assert_eq!(bed.count("players WHERE tag = '2YY'").await, 0, "its members neither");
    bed.commit_one(war("8GG", &[]).fetched(at(300))).await;
    assert_eq!(bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(100))).await, Committed::Superseded);
    assert!(bed.newest_player("2PP").await["war_attacks_used"].is_null());
}

async fn the_same_answer_twice_is_one_row(bed: impl Bed) {
    let fetched = [clan("8GG").with([player("2PP")]).fetched(at(0)), player("2YY").of("8GG").fetched(at(0))];
    bed.commit(&fetched).await;
    // As after a commit whose response was lost: it happened, and the worker repeats it.
    bed.commit(&fetched).await;
    assert_eq!(bed.count("clan_snapshots WHERE clan_tag = '8GG'").await, 1);
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2YY'").await, 1);
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2PP'").await, 1);
    assert_eq!(bed.count("clan_memberships WHERE player_tag = '2PP'").await, 1);
    assert_eq!(time(&bed.newest_clan("8GG").await["ts"]), Some(at(0)));
}

async fn duplicates_in_batch_keep_newest(bed: impl Bed) {
    let batch = [
        clan("8GG").level(1).fetched(at(0)),
        clan("8GG").level(3).fetched(at(20)),
        clan("8GG").level(2).fetched(at(10)),
    ];
    let expected = [Committed::Superseded, Committed::Stored, Committed::Superseded];
    assert_eq!(bed.commit(&batch).await, expected);
    assert_eq!(bed.newest_clan("8GG").await["level"], 3);
    assert_eq!(bed.count("clan_snapshots WHERE clan_tag = '8GG'").await, 1);
}

async fn stored_time_beyond_horizon_counts_as_older(bed: impl Bed) {
    let ahead = clan("8GG").level(1).with([player("2PP").role("leader")]).fetched(at(100_000));
    bed.store().commit(at(100_000), &[ahead]).await.unwrap();
    let right = clan("8GG").level(2).with([player("2PP").role("member")]).fetched(at(0));
    assert_eq!(bed.commit_one(right).await, Committed::Stored);
    let row = bed.newest_clan("8GG").await;
    assert_eq!(
        (&row["level"], time(&row["ts"])),
        (&2.into(), Some(at(0))),
        "our own wrong time does not stay the newest"
    );
    assert_eq!(bed.newest_player("2PP").await["role"], "member");
}

async fn stored_time_within_horizon_counts(bed: impl Bed) {
    let now = at(0);
    bed.store().commit(now, &[clan("8GG").level(2).fetched(now + Duration::from_secs(50))]).await.unwrap();
    let late = clan("8GG").level(1).fetched(now);
    assert_eq!(bed.store().commit(now, &[late]).await.unwrap().committed, [Committed::Superseded]);
    assert_eq!(bed.newest_clan("8GG").await["level"], 2);
}

async fn late_player_response_keeps_newer_clan_columns(bed: impl Bed) {
    bed.commit_one(player("2PP").of("9CC").fetched(at(0))).await;
    bed.commit_one(clan("8GG").with([player("2PP").role("admin").trophies(1500)]).fetched(at(300))).await;
    let late = player("2PP").of("9CC").trophies(1400).role("member").fetched(at(200));
    assert_eq!(bed.commit_one(late.clone()).await, Committed::Stored, "it is the newest document all the same");
    let row = bed.newest_player("2PP").await;
    assert_eq!((&row["clan_tag"], &row["role"], &row["trophies"]), (&"8GG".into(), &"admin".into(), &1500.into()));
    assert_eq!((time(&row["ts"]), time(&row["last_seen"])), (Some(at(200)), Some(at(300))));
    assert_eq!(bed.player("2PP").await["clan_tag"], "8GG");
    assert_eq!(bed.open_clans("2PP").await, ["8GG"]);
}

async fn older_clan_copy_does_not_overwrite_newer(bed: impl Bed) {
    bed.commit_one(clan("9CC").with([player("2PP").donations(50)]).fetched_copy(at(300), at(250))).await;
    bed.commit_one(clan("8GG").with([player("2PP").donations(40)]).fetched_copy(at(310), at(240))).await;
    let row = bed.newest_player("2PP").await;
    assert_eq!((&row["donations"], &row["clan_tag"]), (&50.into(), &"9CC".into()));
}

async fn gone_after_a_newer_answer_is_superseded(bed: impl Bed) {
    bed.commit_one(clan("8GG").fetched(at(300))).await;
    assert_eq!(bed.commit_one(gone(ObjectId::clan(tag("8GG")), at(100))).await, Committed::Superseded);
}

async fn a_poison_record_hurts_only_itself(bed: impl Bed) {
    let mut batch: Vec<Fetched> = (0..6).map(|n| player(nth_tag(n).as_str()).of("8GG").fetched(at(0))).collect();
    batch.push(clan("8GG").with((0..6).map(|n| player(nth_tag(n).as_str()))).fetched(at(0)));
    let Answered::Document(Document::Player(broken)) = &mut batch[2].answered else { panic!("a player") };
    broken.json = r#"{"no end":"#.to_owned().into();
    let results = bed.commit(&batch).await;
    assert!(matches!(&results[2], Committed::Poison(reason) if !reason.detail.is_empty()), "{:?}", results[2]);
    for (place, result) in results.iter().enumerate().filter(|(place, _)| *place != 2) {
        assert_eq!(result, &Committed::Stored, "{place}");
    }
    assert_eq!(bed.open_clans(nth_tag(5).as_str()).await, ["8GG"]);
    let healthy = player(nth_tag(2).as_str()).of("8GG").fetched(at(300));
    assert_eq!(bed.commit_one(healthy).await, Committed::Stored, "and the object is not marked for ever");
}

async fn a_batch_of_nothing_is_nothing(bed: impl Bed) {
    assert_eq!(bed.store().commit(at(0), &[]).await.unwrap().committed, []);
}

fn run(name: &str, started: i64) -> RunRow {
    RunRow {
        run: name.to_owned(),
        started: at(started),
        ended: at(started + 60),
        stopped_because: "queue_empty".to_owned(),
        error: Some("it \"broke\"".to_owned()),
        processed: 12,
        failed: 3,
        api_requests: u64::from(u32::MAX) + 1,
        report: r#"{"b": 1.0, "a": null}"#.to_owned(),
    }
}

async fn last_run_reads_back_as_written(bed: impl Bed) {
    assert!(bed.store().last_run().await.unwrap().is_none());
    bed.store().record_run(&run("one", 0)).await.unwrap();
    let read = bed.store().last_run().await.unwrap().expect("a run");
    assert_eq!(format!("{read:?}"), format!("{:?}", run("one", 0)));
    bed.store().record_run(&run("one", 0)).await.expect("the same row again, as after a lost answer");
}

async fn last_run_is_latest_started(bed: impl Bed) {
    for (name, started) in [("one", 0), ("three", 300), ("two", 200)] {
        bed.store().record_run(&run(name, started)).await.unwrap();
    }
    assert_eq!(bed.store().last_run().await.unwrap().expect("a run").run, "three");
    // A month later the old rows are trimmed.
    bed.store().record_run(&run("month", 40 * super::documents::DAY)).await.unwrap();
    assert_eq!(bed.store().last_run().await.unwrap().expect("a run").run, "month");
}

async fn migrating_again_runs_nothing(bed: impl Bed) {
    bed.commit_one(clan("8GG").fetched(at(0))).await;
    assert_eq!(bed.store().migrate().await.unwrap(), Vec::<String>::new());
    assert_eq!(text(&bed.newest_clan("8GG").await["name"]), "clan 8GG");
}

async fn the_store_answers_a_ping(bed: impl Bed) {
    bed.store().ping().await.unwrap();
}
