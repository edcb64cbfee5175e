//! Memberships: the periods of players in clans, a row each.

use refresh_worker::{
    clock::Timestamp,
    model::{ObjectId, Tag},
};

use super::{
    Bed, Membership,
    documents::{at, clan, gone, nth_tag, player},
    membership, over_every_store, sql_time,
};

over_every_store! {
    membership_of_player_who_stayed_is_unchanged,
    membership_of_player_who_left_is_closed,
    player_without_clan_closes_membership,
    player_in_other_clan_moves_membership,
    player_in_same_clan_keeps_membership,
    clan_list_closes_memberships_of_absent_players,
    listed_member_gets_membership_and_loses_other,
    a_closed_row_is_never_opened_again,
    an_empty_member_list_closes_all,
    incomplete_list_places_members_and_closes_nothing,
    an_error_changes_no_membership,
    player_of_two_clans_belongs_to_later_copy,
    player_of_two_clans_of_one_batch,
    late_clan_response_keeps_newer_player_response,
    outdated_player_copy_keeps_newer_list,
    outdated_player_copy_keeps_list_of_same_batch,
    outdated_player_copy_does_not_rejoin_left_clan,
    late_clan_response_respects_later_foreign_changes,
    duplicate_open_rows_of_others_become_one,
    a_double_open_row_keeps_the_newest_stay,
    a_clan_of_fifty_opens_fifty_rows_once,
    player_response_older_than_foreign_move_changes_nothing,
}

async fn opened_by_others(bed: &impl Bed, player: &str, clan: &str, joined: Timestamp, left: Option<Timestamp>) {
    let left = left.map_or_else(|| "NULL".to_owned(), sql_time);
    bed.exec(&format!(
        "INSERT INTO clan_memberships (id, player_tag, clan_tag, joined_at, left_at) \
         SELECT coalesce(max(id), 0) + 1, '{player}', '{clan}', {}, {left} FROM clan_memberships",
        sql_time(joined)
    ))
    .await;
}

async fn membership_of_player_who_stayed_is_unchanged(bed: impl Bed) {
    opened_by_others(&bed, "2PP", "8GG", at(-9000), None).await;
    let home = clan("8GG").with([player("2PP")]);
    for seconds in [0, 300, 600] {
        bed.commit_one(home.fetched(at(seconds))).await;
    }
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(-9000), None)]);
}

async fn membership_of_player_who_left_is_closed(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP"), player("2YY")]).fetched(at(0))).await;
    bed.commit_one(clan("8GG").with([player("2YY")]).fetched(at(300))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), Some(at(300)))]);
    assert_eq!(bed.memberships("2YY").await, [membership("8GG", at(0), None)]);
}

async fn player_without_clan_closes_membership(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(player("2PP").fetched(at(300))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), Some(at(300)))]);
}

async fn player_in_other_clan_moves_membership(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(player("2PP").of("9CC").fetched(at(300))).await;
    assert_eq!(
        bed.memberships("2PP").await,
        [membership("8GG", at(0), Some(at(300))), membership("9CC", at(300), None)]
    );
}

async fn player_in_same_clan_keeps_membership(bed: impl Bed) {
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    bed.commit_one(player("2PP").of("8GG").trophies(3000).fetched(at(300))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), None)]);
}

async fn clan_list_closes_memberships_of_absent_players(bed: impl Bed) {
    opened_by_others(&bed, "2PP", "8GG", at(-9000), None).await;
    opened_by_others(&bed, "2QQ", "9CC", at(-9000), None).await;
    bed.commit_one(clan("8GG").with([player("2YY")]).fetched(at(0))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(-9000), Some(at(0)))]);
    assert_eq!(bed.memberships("2QQ").await, [membership("9CC", at(-9000), None)], "another clan's member");
}

async fn listed_member_gets_membership_and_loses_other(bed: impl Bed) {
    opened_by_others(&bed, "2PP", "9CC", at(-9000), None).await;
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    assert_eq!(
        bed.memberships("2PP").await,
        [membership("9CC", at(-9000), Some(at(0))), membership("8GG", at(0), None)]
    );
}

async fn a_closed_row_is_never_opened_again(bed: impl Bed) {
    let (with, without) = (clan("8GG").with([player("2PP")]), clan("8GG"));
    bed.commit_one(with.fetched(at(0))).await;
    bed.commit_one(without.fetched(at(300))).await;
    bed.commit_one(with.fetched(at(600))).await;
    assert_eq!(
        bed.memberships("2PP").await,
        [membership("8GG", at(0), Some(at(300))), membership("8GG", at(600), None)]
    );
}

async fn an_empty_member_list_closes_all(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP"), player("2YY")]).fetched(at(0))).await;
    bed.commit_one(clan("8GG").fetched(at(300))).await;
    assert_eq!(bed.count("clan_memberships WHERE clan_tag = '8GG' AND left_at IS NULL").await, 0);
    assert_eq!(bed.count("clan_memberships WHERE clan_tag = '8GG'").await, 2);
}

async fn incomplete_list_places_members_and_closes_nothing(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP"), player("2YY")]).fetched(at(0))).await;
    bed.commit_one(clan("9CC").with([player("2QQ")]).fetched(at(0))).await;
    bed.commit_one(clan("8GG").with([player("2YY"), player("2QQ")]).incomplete().fetched(at(300))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), None)], "may be one of the others");
    assert_eq!(bed.memberships("2YY").await, [membership("8GG", at(0), None)]);
    assert_eq!(
        bed.memberships("2QQ").await,
        [membership("9CC", at(0), Some(at(300))), membership("8GG", at(300), None)]
    );
    bed.commit_one(clan("8GG").with([player("2YY"), player("2QQ")]).fetched(at(600))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), Some(at(600)))]);
}

async fn an_error_changes_no_membership(bed: impl Bed) {
    let home = clan("8GG").with([player("2PP")]);
    bed.commit_one(home.fetched(at(0))).await;
    bed.commit_one(gone(ObjectId::clan(home.tag.clone()), at(300))).await;
    bed.commit_one(gone(ObjectId::player(player("2PP").tag), at(300))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), None)]);
}

async fn player_of_two_clans_belongs_to_later_copy(bed: impl Bed) {
    let (old, new) = (clan("8GG").with([player("2PP")]), clan("9CC").with([player("2PP").role("admin")]));
    bed.commit_one(old.fetched(at(0))).await;
    bed.commit_one(new.fetched_copy(at(300), at(290))).await;
    bed.commit_one(old.fetched_copy(at(310), at(200))).await;
    assert_eq!(
        bed.memberships("2PP").await,
        [membership("8GG", at(0), Some(at(300))), membership("9CC", at(300), None)]
    );
    let newest = bed.newest_player("2PP").await;
    assert_eq!(
        (&newest["clan_tag"], &newest["role"]),
        (&"9CC".into(), &"admin".into()),
        "columns follow the same copy"
    );
}

async fn player_of_two_clans_of_one_batch(bed: impl Bed) {
    let (old, new) = (clan("8GG").with([player("2PP")]), clan("9CC").with([player("2PP")]));
    for (first, second, seconds) in [(&old, &new, 0), (&new, &old, 1000)] {
        let later = second.fetched_copy(at(seconds + 20), at(seconds + 10));
        let earlier = first.fetched_copy(at(seconds + 30), at(seconds));
        bed.commit(&[later, earlier]).await;
        assert_eq!(bed.open_clans("2PP").await, [second.tag.as_str()]);
        assert_eq!(bed.player("2PP").await["clan_tag"], second.tag.as_str());
    }
}

async fn late_clan_response_keeps_newer_player_response(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    bed.commit_one(player("2PP").of("9CC").role("leader").donations(77).fetched(at(300))).await;
    bed.commit_one(clan("8GG").with([player("2PP").donations(11)]).fetched_copy(at(310), at(250))).await;
    assert_eq!(
        bed.memberships("2PP").await,
        [membership("8GG", at(0), Some(at(300))), membership("9CC", at(300), None)]
    );
    let newest = bed.newest_player("2PP").await;
    assert_eq!((&newest["clan_tag"], &newest["donations"]), (&"9CC".into(), &77.into()));
    bed.commit_one(clan("9CC").fetched_copy(at(320), at(260))).await;
    assert_eq!(bed.open_clans("2PP").await, ["9CC"], "nor does a late list without the player close the row");
}

async fn late_clan_response_respects_later_foreign_changes(bed: impl Bed) {
    opened_by_others(&bed, "2PP", "8GG", at(-9000), Some(at(250))).await;
    opened_by_others(&bed, "2YY", "9CC", at(250), None).await;
    opened_by_others(&bed, "2QQ", "8GG", at(250), None).await;
    let members = [player("2PP"), player("2YY")];
    bed.commit_one(clan("8GG").with(members).fetched_copy(at(300), at(200))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(-9000), Some(at(250)))], "not opened");
    assert_eq!(bed.memberships("2YY").await, [membership("9CC", at(250), None)], "not taken over");
    assert_eq!(bed.memberships("2QQ").await, [membership("8GG", at(250), None)], "not closed");
}

async fn duplicate_open_rows_of_others_become_one(bed: impl Bed) {
    for (player_tag, clans) in [("2PP", ["8GG", "9CC"]), ("2YY", ["9CC", "8GG"]), ("2QQ", ["8GG", "8GG"])] {
        opened_by_others(&bed, player_tag, clans[0], at(-9000), None).await;
        opened_by_others(&bed, player_tag, clans[1], at(-8000), None).await;
    }
    bed.commit_one(clan("8GG").with(["2PP", "2YY", "2QQ"].map(player)).fetched(at(0))).await;
    for player_tag in ["2PP", "2YY", "2QQ"] {
        assert_eq!(bed.open_clans(player_tag).await, ["8GG"], "{player_tag}");
    }
}

async fn a_double_open_row_keeps_the_newest_stay(bed: impl Bed) {
    opened_by_others(&bed, "2PP", "9CC", at(-9000), None).await;
    opened_by_others(&bed, "2PP", "8GG", at(-8000), None).await;
    opened_by_others(&bed, "2PP", "8GG", at(-7000), None).await;
    bed.commit_one(player("2PP").of("8GG").fetched(at(0))).await;
    let open: Vec<Membership> = bed.memberships("2PP").await.into_iter().filter(|(.., left)| left.is_none()).collect();
    assert_eq!(open, [membership("8GG", at(-7000), None)]);
}

async fn a_clan_of_fifty_opens_fifty_rows_once(bed: impl Bed) {
    let tags: Vec<Tag> = (0..50).map(nth_tag).collect();
    let home = clan("8GG").with(tags.iter().map(|tag| player(tag.as_str())));
    bed.commit_one(home.fetched(at(0))).await;
    bed.commit_one(home.fetched(at(300))).await;
    assert_eq!(bed.count("clan_memberships WHERE clan_tag = '8GG' AND left_at IS NULL").await, 50);
    assert_eq!(bed.count("clan_memberships WHERE clan_tag = '8GG'").await, 50);
}

async fn player_response_older_than_foreign_move_changes_nothing(bed: impl Bed) {
    opened_by_others(&bed, "2PP", "9CC", at(250), None).await;
    bed.commit_one(player("2PP").of("8GG").fetched(at(200))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("9CC", at(250), None)]);
}

async fn outdated_player_copy_keeps_newer_list(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    bed.commit_one(clan("9CC").with([player("2PP").role("admin")]).fetched_copy(at(300), at(290))).await;
    bed.commit_one(player("2PP").of("8GG").fetched_copy(at(305), at(250))).await;
    assert_eq!(
        bed.memberships("2PP").await,
        [membership("8GG", at(0), Some(at(300))), membership("9CC", at(300), None)]
    );
    assert_eq!(bed.newest_player("2PP").await["clan_tag"], "9CC");
    let player_row = bed.player("2PP").await;
    assert_eq!((&player_row["clan_tag"], &player_row["role"]), (&"9CC".into(), &"admin".into()));
    // A copy that is newer than the list counts again.
    bed.commit_one(player("2PP").of("8GG").fetched_copy(at(360), at(310))).await;
    assert_eq!(bed.open_clans("2PP").await, ["8GG"]);
    // A copy that is older than another program's change does not count.
    opened_by_others(&bed, "2YY", "9CC", at(250), None).await;
    bed.commit_one(player("2YY").of("8GG").fetched_copy(at(300), at(240))).await;
    assert_eq!(bed.memberships("2YY").await, [membership("9CC", at(250), None)]);
}

async fn outdated_player_copy_keeps_list_of_same_batch(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    let list = clan("9CC").with([player("2PP")]).fetched_copy(at(300), at(290));
    bed.commit(&[list, player("2PP").of("8GG").fetched_copy(at(305), at(250))]).await;
    assert_eq!(
        bed.memberships("2PP").await,
        [membership("8GG", at(0), Some(at(300))), membership("9CC", at(300), None)]
    );
    assert_eq!(bed.player("2PP").await["clan_tag"], "9CC");
    let list = clan("8GG").with([player("2PP")]).fetched_copy(at(900), at(850));
    bed.commit(&[list, player("2PP").of("9CC").fetched_copy(at(890), at(880))]).await;
    assert_eq!(bed.open_clans("2PP").await, ["9CC"], "the later copy counts, whichever call began first");
}

async fn outdated_player_copy_does_not_rejoin_left_clan(bed: impl Bed) {
    bed.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    bed.commit_one(clan("8GG").fetched_copy(at(300), at(290))).await;
    bed.commit_one(player("2PP").of("8GG").fetched_copy(at(305), at(250))).await;
    assert_eq!(bed.memberships("2PP").await, [membership("8GG", at(0), Some(at(300)))]);
}
