//! Wars, and the attacks used that readers look for in the player rows.

use refresh_worker::model::{ObjectId, WarMemory};
use refresh_worker::store::{Committed, RELAXED_TIMEOUT, Store};

use super::{
    Bed,
    documents::{DAY, at, clan, no_war, player, private_war_log, tag, war},
    over_every_store, text, time,
};

over_every_store! {
    unchanged_war_moves_time_of_row,
    a_war_never_makes_player_rows,
    attacks_used_go_into_the_newest_player_row,
    attacks_used_are_found_after_a_player_refresh,
    war_of_own_clan_counts_for_player,
    war_of_former_clan_is_ignored,
    attacks_used_expire_after_a_week,
    private_war_log_changes_only_state,
    league_facts_stay_until_newer_ones;
    as_received:
    a_war_document_is_kept_to_the_byte,
    every_war_state_is_stored,
}

async fn every_war_state_is_stored(bed: impl Bed) {
    assert_eq!(bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(0))).await, Committed::Stored);
    assert_eq!(bed.commit_one(no_war("8GG").fetched(at(300))).await, Committed::Stored);
    let rows =
        bed.rows("SELECT ts, CAST(data AS text) AS data FROM war_snapshots WHERE clan_tag = '8GG' ORDER BY ts").await;
    assert_eq!(rows.len(), 2);
    assert_eq!((time(&rows[1]["ts"]), text(&rows[1]["data"])), (Some(at(300)), no_war("8GG").json()));
}

async fn a_war_document_is_kept_to_the_byte(bed: impl Bed) {
    let document = war("8GG", &[("2PP", 1), ("2YY", 0)]);
    bed.commit_one(document.fetched(at(0))).await;
    let row = bed.row("SELECT CAST(data AS text) AS data FROM war_snapshots WHERE clan_tag = '8GG'").await;
    assert_eq!(text(&row["data"]), document.json());
}

async fn unchanged_war_moves_time_of_row(bed: impl Bed) {
    bed.commit_one(no_war("8GG").fetched(at(0))).await;
    assert_eq!(bed.commit_one(no_war("8GG").fetched(at(300))).await, Committed::Unchanged);
    let row = bed.row("SELECT ts FROM war_snapshots WHERE clan_tag = '8GG'").await;
    assert_eq!(time(&row["ts"]), Some(at(300)));
}

async fn a_war_never_makes_player_rows(bed: impl Bed) {
    bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(0))).await;
    assert_eq!(bed.count("players WHERE tag = '2PP'").await, 0);
    assert_eq!(bed.count("player_snapshots WHERE player_tag = '2PP'").await, 0);
    assert_eq!(bed.count("clan_memberships WHERE player_tag = '2PP'").await, 0);
}

async fn attacks_used_go_into_the_newest_player_row(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(player("2PP").of("8GG").trophies(1100).fetched(at(300))).await;
    bed.commit_one(war("8GG", &[("2PP", 2)]).fetched(at(600))).await;
    let rows = bed.rows("SELECT ts, war_attacks_used FROM player_snapshots WHERE player_tag = '2PP' ORDER BY ts").await;
    assert_eq!((rows[0]["war_attacks_used"].as_i64(), rows[1]["war_attacks_used"].as_i64()), (None, Some(2)));
    assert_eq!(time(&rows[1]["ts"]), Some(at(300)), "a war does not make a player look fresh");
}

async fn attacks_used_are_found_after_a_player_refresh(bed: impl Bed) {
    let home = clan("8GG").with([player("2PP").trophies(1200)]);
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(war("8GG", &[("2PP", 2)]).fetched(at(300))).await;
    bed.commit_one(player("2PP").of("8GG").trophies(1100).fetched(at(600))).await;
    bed.commit_one(home.fetched(at(900))).await;
    assert_eq!(bed.newest_player("2PP").await["war_attacks_used"], 2, "where the member list looks");
    bed.commit_one(war("8GG", &[("2PP", 2)]).fetched(at(1200))).await;
    assert_eq!(time(&bed.newest_player("2PP").await["last_seen"]), Some(at(900)), "and they do not count twice");
}

async fn war_of_own_clan_counts_for_player(bed: impl Bed) {
    let (ended, running) = (war("8GG", &[("2PP", 2)]), war("9CC", &[("2PP", 0)]));
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(ended.fetched(at(300))).await;
    bed.commit_one(player("2PP").of("9CC").fetched(at(600))).await;
    bed.commit_one(running.fetched(at(900))).await;
    // The ended war's document stays as it is for days. Each is refreshed alone, and both in one batch.
    bed.commit_one(ended.fetched(at(1200))).await;
    bed.commit_one(running.fetched(at(1500))).await;
    bed.commit(&[running.fetched(at(1800)), ended.fetched(at(1801))]).await;
    let newest = bed.newest_player("2PP").await;
    assert_eq!((&newest["war_attacks_used"], time(&newest["last_seen"])), (&0.into(), Some(at(900))));
    bed.commit(&[war("9CC", &[("2PP", 1)]).fetched(at(2100)), ended.fetched(at(2101))]).await;
    let newest = bed.newest_player("2PP").await;
    assert_eq!((&newest["war_attacks_used"], time(&newest["last_seen"])), (&1.into(), Some(at(2100))));
}

async fn war_of_former_clan_is_ignored(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(300))).await;
    bed.commit_one(player("2PP").fetched(at(600))).await;
    bed.commit_one(war("8GG", &[("2PP", 2)]).fetched(at(900))).await;
    assert_eq!(bed.newest_player("2PP").await["war_attacks_used"], 1);
    // Back again, and known to be: by a list of the same batch.
    let back = clan("8GG").with([player("2PP")]);
    bed.commit(&[war("8GG", &[("2PP", 2)]).fetched(at(1200)), back.fetched(at(1200))]).await;
    assert_eq!(bed.newest_player("2PP").await["war_attacks_used"], 2);
}

async fn attacks_used_expire_after_a_week(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(war("8GG", &[("2PP", 2)]).fetched(at(300))).await;
    for day in 1..=9 {
        let trophies = 1000 + i32::try_from(day).unwrap();
        bed.commit_one(player("2PP").of("8GG").trophies(trophies).fetched(at(day * DAY))).await;
    }
    let week_old =
        bed.row("SELECT war_attacks_used FROM player_snapshots WHERE player_tag = '2PP' AND trophies = 1006").await;
    assert_eq!(week_old["war_attacks_used"], 2);
    assert!(bed.newest_player("2PP").await["war_attacks_used"].is_null(), "readers forget them after a week, so do we");
}

async fn private_war_log_changes_only_state(bed: impl Bed) {
    bed.commit_one(war("8GG", &[]).fetched(at(0))).await;
    assert_eq!(bed.commit_one(private_war_log("8GG", at(300))).await, Committed::Noted);
    let row = bed.row("SELECT ts FROM war_snapshots WHERE clan_tag = '8GG'").await;
    assert_eq!(time(&row["ts"]), Some(at(0)));
    let object = ObjectId::war(tag("8GG"));
    let freshness = bed.store().freshness(std::slice::from_ref(&object), RELAXED_TIMEOUT).await.unwrap();
    assert_eq!((freshness[&object].fetched_at, freshness[&object].fresh_until), (at(300), at(360)));
}

async fn league_facts_stay_until_newer_ones(bed: impl Bed) {
    let object = ObjectId::war(tag("8GG"));
    let memory =
        WarMemory { war_tag: Some("#2PPYQ".to_owned()), war_tag_until: Some(at(7200)), ..WarMemory::default() };
    bed.commit_one(no_war("8GG").fetched_with(at(0), memory.clone())).await;
    bed.commit_one(no_war("8GG").fetched(at(300))).await;
    let freshness = bed.store().freshness(std::slice::from_ref(&object), RELAXED_TIMEOUT).await.unwrap();
    assert_eq!(freshness[&object].league.as_ref(), Some(&memory));
    let none = WarMemory { none_until: Some(at(9000)), ..WarMemory::default() };
    bed.commit_one(no_war("8GG").fetched_with(at(600), none.clone())).await;
    let freshness = bed.store().freshness(std::slice::from_ref(&object), RELAXED_TIMEOUT).await.unwrap();
    assert_eq!(freshness[&object].league, Some(none));
}
