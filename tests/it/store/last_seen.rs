//! The `last_seen` column: the last activity of a player.

use refresh_worker::clock::Timestamp;

use super::{
    Bed,
    documents::{Player, at, clan, player, war},
    over_every_store, sql_time, time,
};

over_every_store! {
    the_first_snapshot_is_seen_at_the_refresh,
    last_seen_moves_when_trophies_rose,
    last_seen_stays_when_trophies_fell,
    last_seen_moves_when_donations_differ,
    last_seen_moves_when_donations_received_differ,
    last_seen_is_carried_over_when_nothing_changed,
    last_seen_moves_with_war_attacks,
    attacks_from_unknown_to_zero_are_not_activity,
    last_seen_never_goes_back,
    null_last_seen_is_set_to_refresh,
    clan_response_moves_last_seen_only_with_activity,
}

async fn seen(bed: &impl Bed) -> Option<Timestamp> {
    time(&bed.newest_player("2PP").await["last_seen"])
}

async fn seen_after(bed: &impl Bed, first: &Player, second: &Player) -> Option<Timestamp> {
    bed.commit_one(first.fetched(at(0))).await;
    bed.commit_one(second.fetched(at(300))).await;
    seen(bed).await
}

async fn the_first_snapshot_is_seen_at_the_refresh(bed: impl Bed) {
    bed.commit_one(player("2PP").fetched(at(0))).await;
    assert_eq!(seen(&bed).await, Some(at(0)));
}

async fn last_seen_moves_when_trophies_rose(bed: impl Bed) {
    assert_eq!(seen_after(&bed, &player("2PP"), &player("2PP").trophies(1001)).await, Some(at(300)));
}

async fn last_seen_stays_when_trophies_fell(bed: impl Bed) {
    assert_eq!(seen_after(&bed, &player("2PP"), &player("2PP").trophies(900)).await, Some(at(0)));
}

async fn last_seen_moves_when_donations_differ(bed: impl Bed) {
    assert_eq!(seen_after(&bed, &player("2PP"), &player("2PP").donations(0)).await, Some(at(300)));
}

async fn last_seen_moves_when_donations_received_differ(bed: impl Bed) {
    assert_eq!(seen_after(&bed, &player("2PP"), &player("2PP").donations_received(21)).await, Some(at(300)));
}

async fn last_seen_is_carried_over_when_nothing_changed(bed: impl Bed) {
    assert_eq!(seen_after(&bed, &player("2PP"), &player("2PP").named("renamed")).await, Some(at(0)));
    bed.commit_one(player("2PP").named("renamed").fetched(at(600))).await;
    assert_eq!(seen(&bed).await, Some(at(0)), "also when the whole document is the same");
}

async fn last_seen_moves_with_war_attacks(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(300))).await;
    assert_eq!(seen(&bed).await, Some(at(300)));
    bed.commit_one(war("8GG", &[("2PP", 1)]).fetched(at(600))).await;
    assert_eq!(seen(&bed).await, Some(at(300)), "the same attacks again");
    bed.commit_one(war("8GG", &[("2PP", 2)]).fetched(at(900))).await;
    assert_eq!(seen(&bed).await, Some(at(900)));
}

async fn attacks_from_unknown_to_zero_are_not_activity(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(war("8GG", &[("2PP", 0)]).fetched(at(300))).await;
    let newest = bed.newest_player("2PP").await;
    assert_eq!((time(&newest["last_seen"]), &newest["war_attacks_used"]), (Some(at(0)), &0.into()));
}

async fn last_seen_never_goes_back(bed: impl Bed) {
    bed.commit_one(player("2PP").fetched(at(0))).await;
    bed.exec(&format!("UPDATE player_snapshots SET last_seen = {} WHERE player_tag = '2PP'", sql_time(at(900)))).await;
    bed.commit_one(player("2PP").trophies(2000).fetched(at(300))).await;
    assert_eq!(seen(&bed).await, Some(at(900)));
}

async fn null_last_seen_is_set_to_refresh(bed: impl Bed) {
    bed.commit_one(player("2PP").fetched(at(0))).await;
    bed.exec("UPDATE player_snapshots SET last_seen = NULL WHERE player_tag = '2PP'").await;
    bed.commit_one(player("2PP").fetched(at(300))).await;
    assert_eq!(seen(&bed).await, Some(at(300)));
    bed.exec("UPDATE player_snapshots SET last_seen = NULL WHERE player_tag = '2PP'").await;
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(600))).await;
    assert_eq!(seen(&bed).await, Some(at(600)), "a clan reply does it too");
}

async fn clan_response_moves_last_seen_only_with_activity(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(clan("8GG").with([player("2PP").role("leader").trophies(990)]).fetched(at(300))).await;
    assert_eq!(seen(&bed).await, Some(at(0)));
    bed.commit_one(clan("8GG").with([player("2PP").role("leader").trophies(995)]).fetched(at(600))).await;
    assert_eq!(seen(&bed).await, Some(at(600)));
}
