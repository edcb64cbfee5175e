//! The details and the outbox entries of commits, for follow-ups, events and readers' cache keys.

use refresh_worker::{
    model::{Answered, Before, Document, Fetched, Move, OutboxEntry},
    store::{Commit, CommitDetails, Committed, RELAXED_TIMEOUT, Store as _},
};

use super::{
    Bed, beds,
    documents::{at, clan, gone, player, tag, war},
    over_every_store,
};

over_every_store! {
    members_come_with_document_age_and_activity,
    moves_are_reported_except_by_first_list,
    players_changed_by_others_are_touched,
    superseded_response_has_no_details,
    outbox_entries_stay_until_deleted,
    a_commit_that_could_store_nothing_forgets_nothing;
    as_received:
    change_has_previous_document_as_received,
}

async fn store(bed: &impl Bed, fetched: Fetched) -> Commit {
    bed.commit_with_details(&[fetched]).await
}

async fn members_come_with_document_age_and_activity(bed: impl Bed) {
    let (one, two, three) = (player("2PP").of("8GG"), player("2YY").of("8GG"), player("2QQ").of("8GG"));
    store(&bed, clan("8GG").with([one.clone(), two.clone()]).fetched(at(0))).await;
    store(&bed, one.fetched(at(100))).await;
    let later = clan("8GG").with([one.clone().donations(11), two.clone(), three.clone()]).fetched(at(1000));
    let commit = store(&bed, later).await;
    let members: Vec<_> = commit.learned[0]
        .members
        .iter()
        .map(|member| (member.tag.as_str(), member.fetched_at, member.is_active))
        .collect();
    assert_eq!(members, [("2PP", Some(at(100)), true), ("2QQ", None, false), ("2YY", None, false)]);
}

async fn change_has_previous_document_as_received(bed: impl Bed) {
    for (first, second) in [
        (clan("8GG").level(1).fetched(at(0)), clan("8GG").level(2).fetched(at(1000))),
        (player("2PP").fetched(at(0)), player("2PP").trophies(7).fetched(at(1000))),
        (war("8GG", &[]).fetched(at(0)), war("8GG", &[("2PP", 1)]).fetched(at(1000))),
    ] {
        let json = match &first.answered {
            Answered::Document(document) => document.json().to_owned(),
            _ => unreachable!("documents only"),
        };
        let before = |commit: &Commit| commit.learned[0].change.clone().map(|change| change.before);
        assert_eq!(before(&store(&bed, first).await), Some(Before::Nothing));
        let commit = store(&bed, second.clone()).await;
        assert_eq!(before(&commit), Some(Before::Document(json)));
        let again = store(&bed, Fetched { began: at(2000), copied_at: at(2000), ..second.clone() }).await;
        assert_eq!(before(&again), None, "the same content is no change");
    }
}

async fn moves_are_reported_except_by_first_list(bed: impl Bed) {
    let moved = |player: &str, clan: &str, seconds, joined| Move {
        player: tag(player),
        clan: tag(clan),
        seen: at(seconds),
        joined,
    };
    let first = store(&bed, clan("8GG").with([player("2PP"), player("2YY")]).fetched(at(0))).await;
    assert_eq!(first.moves, []);
    let second = store(&bed, clan("8GG").with([player("2PP"), player("2QQ")]).fetched(at(1000))).await;
    assert_eq!(second.moves, [moved("2YY", "8GG", 1000, false), moved("2QQ", "8GG", 1000, true)]);
    store(&bed, player("2PP").of("8GG").fetched(at(1500))).await;
    let own = store(&bed, player("2PP").of("9CC").fetched(at(2000))).await;
    assert_eq!(own.moves, [moved("2PP", "8GG", 2000, false), moved("2PP", "9CC", 2000, true)]);
    let same = store(&bed, player("2PP").of("9CC").trophies(5).fetched(at(3000))).await;
    assert_eq!(same.moves, []);
}

async fn players_changed_by_others_are_touched(bed: impl Bed) {
    let members = [player("2PP").of("8GG"), player("2YY").of("8GG")];
    store(&bed, clan("8GG").with(members.clone()).fetched(at(0))).await;
    let [one, two] = members;
    let commit = store(&bed, clan("8GG").with([one.donations(99), two]).fetched(at(1000))).await;
    assert_eq!(commit.touched, [tag("2PP")]);
    let own = store(&bed, player("2PP").of("8GG").trophies(3).fetched(at(2000))).await;
    assert_eq!(own.touched, []);
}

async fn outbox_entries_stay_until_deleted(bed: impl Bed) {
    let one = player("2PP").of("8GG");
    let first = store(&bed, clan("8GG").with([one.clone()]).fetched(at(0))).await;
    let second = store(&bed, clan("8GG").with([one.clone().donations(99)]).level(2).fetched(at(1000))).await;
    let [entry] = &second.outbox[..] else { panic!("one entry a commit: {second:?}") };
    let events: Vec<&str> = entry.events.iter().map(|event| event.0[0].1.as_str()).collect();
    assert_eq!(events, ["changed"]);
    assert_eq!(entry.changed, ["clan:8GG".parse().unwrap()]);
    assert_eq!(entry.renewed, ["clan:8GG".parse().unwrap(), "player:2PP".parse().unwrap()]);

    let kept = bed.store().outbox(at(1601)).await.unwrap();
    assert_eq!(
        kept.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [first.outbox[0].id, entry.id],
        "the oldest first"
    );
    let expected = OutboxEntry { stored_at: at(1600), ..entry.clone() };
    assert_eq!(kept[1], expected, "it comes back as it was");
    assert_eq!(bed.store().outbox(at(1600)).await.unwrap().len(), 1, "those before a time");

    // The same content again renews readers' copies, and is not published otherwise.
    let same = clan("8GG").with([one.donations(99)]).level(2).fetched(at(2000));
    let third = bed.store().commit_and_delete(at(2600), &[same], &[first.outbox[0].id], RELAXED_TIMEOUT).await.unwrap();
    assert_eq!((third.outbox[0].events.len(), third.outbox[0].changed.len()), (0, 0), "{third:?}");
    let kept = |entries: Vec<OutboxEntry>| entries.iter().map(|entry| entry.id).collect::<Vec<_>>();
    assert_eq!(kept(bed.store().outbox(at(9000)).await.unwrap()), [entry.id, third.outbox[0].id]);
    bed.store().delete_from_outbox(&[entry.id, third.outbox[0].id, 7]).await.unwrap();
    assert_eq!(bed.store().outbox(at(9000)).await.unwrap(), []);
}

async fn a_commit_that_could_store_nothing_forgets_nothing(bed: impl Bed) {
    let entry = store(&bed, clan("8GG").fetched(at(0))).await.outbox.remove(0).id;
    let mut bad = player("2PP").fetched(at(100));
    let Answered::Document(Document::Player(broken)) = &mut bad.answered else { panic!("a player") };
    broken.json = r#"{"no end":"#.to_owned().into();
    let nothing = bed.store().commit_and_delete(at(700), &[bad], &[entry], RELAXED_TIMEOUT).await.unwrap();
    assert!(matches!(nothing.committed[..], [Committed::Poison(_)]), "{nothing:?}");
    assert_eq!(bed.store().outbox(at(9000)).await.unwrap().len(), 1, "the worker takes it for not forgotten");
}

async fn superseded_response_has_no_details(bed: impl Bed) {
    store(&bed, clan("8GG").with([player("2PP")]).fetched(at(1000))).await;
    let late = store(&bed, clan("8GG").with([player("2YY")]).fetched(at(500))).await;
    assert_eq!(
        (late.learned[0].clone(), late.moves, late.touched),
        (refresh_worker::model::Learned::default(), vec![], vec![])
    );
    let gone = store(&bed, gone("player:2PP".parse().unwrap(), at(2000))).await;
    assert_eq!(gone.learned[0].change, None);
}

#[tokio::test]
async fn unneeded_details_cost_no_statement() {
    let url = crate::support::postgres::fresh().await;
    let silent = beds::PostgresBed::with_details(&url, CommitDetails::default()).await;
    let statements = super::event_count::EventCount::of("sqlx::query");
    silent.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    statements.take();
    silent.commit_one(clan("8GG").level(2).with([player("2PP")]).fetched(at(1000))).await;
    let quiet = statements.take();
    let publishing = beds::PostgresBed::with_details(&url, beds::EVERYTHING).await;
    publishing.commit_one(clan("8GG").level(3).with([player("2PP")]).fetched(at(2000))).await;
    statements.take();
    publishing.commit_one(clan("8GG").level(4).with([player("2PP")]).fetched(at(3000))).await;
    assert_eq!(statements.take(), quiet + 2, "the replaced documents are read, and the outbox entry is written");
}
