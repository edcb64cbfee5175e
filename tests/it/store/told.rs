//! What a commit tells beside what became of each answer, for follow-ups, events and readers' keys.

use refresh_worker::{
    model::{Answered, Before, Document, Fetched, Move, OutboxEntry},
    store::{Commit, Committed, Store as _, Telling, UNHURRIED},
};

use super::{
    Bed, beds,
    documents::{at, clan, gone, player, tag, war},
    over_every_store,
};

over_every_store! {
    members_come_with_the_age_of_their_documents_and_whether_they_are_active,
    who_joins_and_leaves_is_told_but_not_by_a_first_list,
    players_whose_rows_others_changed_are_told,
    an_answer_that_does_not_count_tells_nothing,
    what_is_to_be_told_is_kept_until_it_is_forgotten,
    a_commit_that_could_store_nothing_forgets_nothing;
    as_received:
    a_change_brings_the_document_before_as_it_was_received,
}

async fn tell(bed: &impl Bed, fetched: Fetched) -> Commit {
    bed.commit_and_tell(&[fetched]).await
}

async fn members_come_with_the_age_of_their_documents_and_whether_they_are_active(bed: impl Bed) {
    let (one, two, three) = (player("2PP").of("8GG"), player("2YY").of("8GG"), player("2QQ").of("8GG"));
    tell(&bed, clan("8GG").with([one.clone(), two.clone()]).fetched(at(0))).await;
    tell(&bed, one.fetched(at(100))).await;
    let later = clan("8GG").with([one.clone().donations(11), two.clone(), three.clone()]).fetched(at(1000));
    let told = tell(&bed, later).await;
    let members: Vec<_> = told.learned[0]
        .members
        .iter()
        .map(|member| (member.tag.as_str(), member.fetched_at, member.is_active))
        .collect();
    assert_eq!(members, [("2PP", Some(at(100)), true), ("2QQ", None, false), ("2YY", None, false)]);
}

async fn a_change_brings_the_document_before_as_it_was_received(bed: impl Bed) {
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
        assert_eq!(before(&tell(&bed, first).await), Some(Before::Nothing));
        let told = tell(&bed, second.clone()).await;
        assert_eq!(before(&told), Some(Before::Document(json)));
        let again = tell(&bed, Fetched { began: at(2000), copied_at: at(2000), ..second.clone() }).await;
        assert_eq!(before(&again), None, "the same content is no change");
    }
}

async fn who_joins_and_leaves_is_told_but_not_by_a_first_list(bed: impl Bed) {
    let moved = |player: &str, clan: &str, seconds, joined| Move {
        player: tag(player),
        clan: tag(clan),
        seen: at(seconds),
        joined,
    };
    let first = tell(&bed, clan("8GG").with([player("2PP"), player("2YY")]).fetched(at(0))).await;
    assert_eq!(first.moves, []);
    let second = tell(&bed, clan("8GG").with([player("2PP"), player("2QQ")]).fetched(at(1000))).await;
    assert_eq!(second.moves, [moved("2YY", "8GG", 1000, false), moved("2QQ", "8GG", 1000, true)]);
    tell(&bed, player("2PP").of("8GG").fetched(at(1500))).await;
    let own = tell(&bed, player("2PP").of("9CC").fetched(at(2000))).await;
    assert_eq!(own.moves, [moved("2PP", "8GG", 2000, false), moved("2PP", "9CC", 2000, true)]);
    let same = tell(&bed, player("2PP").of("9CC").trophies(5).fetched(at(3000))).await;
    assert_eq!(same.moves, []);
}

async fn players_whose_rows_others_changed_are_told(bed: impl Bed) {
    let members = [player("2PP").of("8GG"), player("2YY").of("8GG")];
    tell(&bed, clan("8GG").with(members.clone()).fetched(at(0))).await;
    let [one, two] = members;
    let told = tell(&bed, clan("8GG").with([one.donations(99), two]).fetched(at(1000))).await;
    assert_eq!(told.touched, [tag("2PP")]);
    let own = tell(&bed, player("2PP").of("8GG").trophies(3).fetched(at(2000))).await;
    assert_eq!(own.touched, []);
}

async fn what_is_to_be_told_is_kept_until_it_is_forgotten(bed: impl Bed) {
    let one = player("2PP").of("8GG");
    let first = tell(&bed, clan("8GG").with([one.clone()]).fetched(at(0))).await;
    let second = tell(&bed, clan("8GG").with([one.clone().donations(99)]).level(2).fetched(at(1000))).await;
    let [note] = &second.outbox[..] else { panic!("one note a commit: {second:?}") };
    let events: Vec<&str> = note.events.iter().map(|event| event.0[0].1.as_str()).collect();
    assert_eq!(events, ["changed"]);
    assert_eq!(note.changed, ["clan:8GG".parse().unwrap()]);
    assert_eq!(note.renewed, ["clan:8GG".parse().unwrap(), "player:2PP".parse().unwrap()]);

    let kept = bed.store().outbox(at(1601)).await.unwrap();
    assert_eq!(kept.iter().map(|note| note.id).collect::<Vec<_>>(), [first.outbox[0].id, note.id], "the oldest first");
    let expected = OutboxEntry { stored_at: at(1600), ..note.clone() };
    assert_eq!(kept[1], expected, "it comes back as it was");
    assert_eq!(bed.store().outbox(at(1600)).await.unwrap().len(), 1, "those before a time");

    // The same content again renews what readers hold, and is told to nobody else.
    let same = clan("8GG").with([one.donations(99)]).level(2).fetched(at(2000));
    let third = bed.store().commit_and_delete(at(2600), &[same], &[first.outbox[0].id], UNHURRIED).await.unwrap();
    assert_eq!((third.outbox[0].events.len(), third.outbox[0].changed.len()), (0, 0), "{third:?}");
    let kept = |notes: Vec<OutboxEntry>| notes.iter().map(|note| note.id).collect::<Vec<_>>();
    assert_eq!(kept(bed.store().outbox(at(9000)).await.unwrap()), [note.id, third.outbox[0].id]);
    bed.store().delete_from_outbox(&[note.id, third.outbox[0].id, 7]).await.unwrap();
    assert_eq!(bed.store().outbox(at(9000)).await.unwrap(), []);
}

async fn a_commit_that_could_store_nothing_forgets_nothing(bed: impl Bed) {
    let note = tell(&bed, clan("8GG").fetched(at(0))).await.outbox.remove(0).id;
    let mut bad = player("2PP").fetched(at(100));
    let Answered::Document(Document::Player(broken)) = &mut bad.answered else { panic!("a player") };
    broken.json = r#"{"no end":"#.to_owned().into();
    let nothing = bed.store().commit_and_delete(at(700), &[bad], &[note], UNHURRIED).await.unwrap();
    assert!(matches!(nothing.committed[..], [Committed::Poison(_)]), "{nothing:?}");
    assert_eq!(bed.store().outbox(at(9000)).await.unwrap().len(), 1, "the worker takes it for not forgotten");
}

async fn an_answer_that_does_not_count_tells_nothing(bed: impl Bed) {
    tell(&bed, clan("8GG").with([player("2PP")]).fetched(at(1000))).await;
    let late = tell(&bed, clan("8GG").with([player("2YY")]).fetched(at(500))).await;
    assert_eq!(
        (late.learned[0].clone(), late.moves, late.touched),
        (refresh_worker::model::Learned::default(), vec![], vec![])
    );
    let gone = tell(&bed, gone("player:2PP".parse().unwrap(), at(2000))).await;
    assert_eq!(gone.learned[0].change, None);
}

#[tokio::test]
async fn what_nobody_wants_to_know_costs_no_statement() {
    let url = crate::support::postgres::fresh().await;
    let silent = beds::PostgresBed::telling(&url, Telling::default()).await;
    let statements = super::event_count::EventCount::of("sqlx::query");
    silent.commit_one(clan("8GG").with([player("2PP")]).fetched(at(0))).await;
    statements.take();
    silent.commit_one(clan("8GG").level(2).with([player("2PP")]).fetched(at(1000))).await;
    let quiet = statements.take();
    let telling = beds::PostgresBed::telling(&url, beds::EVERYTHING).await;
    telling.commit_one(clan("8GG").level(3).with([player("2PP")]).fetched(at(2000))).await;
    statements.take();
    telling.commit_one(clan("8GG").level(4).with([player("2PP")]).fetched(at(3000))).await;
    assert_eq!(statements.take(), quiet + 2, "what was there before is read, and what is to be told is kept");
}
