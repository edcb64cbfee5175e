//! The war of a clan, with and without its league.

use std::time::Duration;

use refresh_worker::model::{Document, WarMemory};

use super::{
    rig::{NOW, Rig, answered, document, outcome},
    scripted::Reply,
};

const CURRENT: &str = "clans/%232PP/currentwar";
const GROUP: &str = "clans/%232PP/currentwar/leaguegroup";
const NOT_IN_WAR: &str = r#"{"state":"notInWar","clan":{"stars":0},"opponent":{"stars":0}}"#;

/// A day after [`NOW`], and the moment until which a round that ends then is remembered.
const TOMORROW: &str = "20260305T050000.000Z";
const AFTER_TOMORROWS_LAST_LOOK: &str = "2026-03-05T05:15:00.000Z";
const YESTERDAY: &str = "20260303T050000.000Z";

fn war(state: &str, ends: &str, clan: &str, opponent: &str) -> Reply {
    Reply::json(&war_json(state, ends, clan, opponent))
}

fn war_json(state: &str, ends: &str, clan: &str, opponent: &str) -> String {
    let side = |tag: &str| format!(r##"{{"tag":"#{tag}","members":[{{"tag":"#{tag}Y","attacks":[{{}}]}}]}}"##);
    format!(r#"{{"state":"{state}","endTime":"{ends}","clan":{},"opponent":{}}}"#, side(clan), side(opponent))
}

fn group(state: &str, rounds: &[&[&str]]) -> Reply {
    let round = |tags: &&[&str]| {
        let tags: Vec<_> = tags.iter().map(|tag| format!(r##""#{tag}""##)).collect();
        format!(r#"{{"warTags":[{}]}}"#, tags.join(","))
    };
    let rounds: Vec<_> = rounds.iter().map(round).collect();
    Reply::json(&format!(r#"{{"state":"{state}","season":"2026-03","rounds":[{}]}}"#, rounds.join(",")))
}

fn league_path(war: &str) -> String {
    format!("clanwarleagues/wars/%23{war}")
}

/// Round 1 is over, round 2 is fought and round 3 is in preparation. Our wars are 8Q8, 9Q9 and YQ9.
async fn in_the_middle_of_a_league() -> Rig {
    let rig = Rig::new().await;
    rig.server
        .on(CURRENT, [Reply::json(NOT_IN_WAR)])
        .on(GROUP, [group("inWar", &[&["8Q9", "8Q8"], &["9Q8", "9Q9"], &["YQ8", "YQ9"], &["0", "0"]])])
        .on(&league_path("9Q8"), [war("inWar", TOMORROW, "CCC", "VVV")])
        .on(&league_path("9Q9"), [war("inWar", TOMORROW, "GGG", "2PP")])
        .on(&league_path("YQ8"), [war("preparation", TOMORROW, "CCC", "GGG")])
        .on(&league_path("YQ9"), [war("preparation", TOMORROW, "2PP", "VVV")]);
    rig
}

fn state(rig_answer: Document) -> String {
    match rig_answer {
        Document::War(war) => war.state,
        other => panic!("not a war: {other:?}"),
    }
}

#[tokio::test]
async fn ordinary_war_costs_one_call() {
    for in_war in ["inWar", "preparation"] {
        let rig = Rig::new().await;
        rig.server.on(CURRENT, [war(in_war, TOMORROW, "2PP", "GGG")]);
        let memory = WarMemory { none_until: Some(NOW), ..WarMemory::default() };
        let fetch = rig.fetch_war("2PP", Some(&memory)).await;
        assert_eq!(fetch.calls, 1);
        let fetched = answered(fetch);
        assert_eq!(fetched.league.as_ref(), Some(&memory));
        assert_eq!(state(document(fetched)), in_war);
    }
}

#[tokio::test]
async fn no_league_is_not_requested_again() {
    for group in [
        Reply::status(404, r#"{"reason":"notFound"}"#),
        Reply::html(504),
        Reply::json(r#"{"state":"notInWar"}"#),
        Reply::json(r##"{"state":"ended","season":"2026-02","rounds":[{"warTags":["#8Q8"]}]}"##),
    ] {
        let rig = Rig::new().await;
        rig.server.on(CURRENT, [Reply::json(NOT_IN_WAR)]).on(GROUP, [group.clone()]);
        let fetch = rig.fetch_war("2PP", None).await;
        assert_eq!(fetch.calls, 2, "{group:?}");
        let fetched = answered(fetch);
        let memory = fetched.league.clone().unwrap();
        assert_eq!(memory.none_until, Some(NOW + Duration::from_secs(600)));
        assert_eq!(document(fetched).json(), NOT_IN_WAR);
        assert_eq!(rig.fetch_war("2PP", Some(&memory)).await.calls, 1);
        rig.clock.advance(Duration::from_secs(600));
        rig.keys.confirm(
            &super::rig::name("token-one"),
            refresh_worker::api::SlotStart::now(&*rig.clock),
            super::rig::SLOT_LIFETIME,
        );
        assert_eq!(rig.fetch_war("2PP", Some(&memory)).await.calls, 2);
    }
}

#[tokio::test]
async fn fought_round_is_found_with_our_side_first() {
    let rig = in_the_middle_of_a_league().await;
    let fetched = answered(rig.fetch_war("2PP", None).await);
    let memory = fetched.league.clone().unwrap();
    let Document::War(war) = document(fetched) else { panic!("not a war") };
    assert_eq!(war.json.as_str(), war_json("inWar", TOMORROW, "2PP", "GGG"));
    let members: Vec<_> = war.members.iter().map(|member| (member.tag.as_str(), member.attacks_used)).collect();
    assert_eq!(members, [("2PPY", 1)]);
    assert_eq!(memory.war_tag.as_deref(), Some("9Q9"));
    assert_eq!(memory.war_tag_until.unwrap().to_string(), AFTER_TOMORROWS_LAST_LOOK);
    let expected = [CURRENT, GROUP, &league_path("YQ8"), &league_path("9Q8"), &league_path("9Q9")];
    assert_eq!(rig.server.paths(), expected, "one look at the newest round says that the one before is fought");
}

#[tokio::test]
async fn remembered_round_costs_one_call() {
    let rig = in_the_middle_of_a_league().await;
    let memory = answered(rig.fetch_war("2PP", None).await).league.unwrap();
    let before = rig.server.calls().len();
    let fetched = answered(rig.fetch_war("2PP", Some(&memory)).await);
    assert_eq!(rig.server.paths()[before..], [CURRENT, &league_path("9Q9")]);
    assert_eq!(fetched.league, Some(memory));
    assert_eq!(state(document(fetched)), "inWar");
}

#[tokio::test]
async fn outdated_league_war_is_searched_again() {
    let over = WarMemory { war_tag: Some("YV8".into()), war_tag_until: Some(NOW), ..WarMemory::default() };
    let gone = WarMemory { war_tag_until: Some(NOW + Duration::from_secs(60)), ..over.clone() };
    for (memory, calls) in [(over, 5), (gone, 6)] {
        let rig = in_the_middle_of_a_league().await;
        let fetch = rig.fetch_war("2PP", Some(&memory)).await;
        assert_eq!(fetch.calls, calls);
        assert_eq!(answered(fetch).league.unwrap().war_tag.as_deref(), Some("9Q9"));
    }
}

#[tokio::test]
async fn first_preparation_is_the_war() {
    let rig = Rig::new().await;
    rig.server
        .on(CURRENT, [Reply::json(NOT_IN_WAR)])
        .on(GROUP, [group("preparation", &[&["YQ8", "YQ9"], &["0", "0"]])])
        .on(&league_path("YQ8"), [war("preparation", TOMORROW, "CCC", "GGG")])
        .on(&league_path("YQ9"), [war("preparation", TOMORROW, "2PP", "VVV")]);
    let fetched = answered(rig.fetch_war("2PP", None).await);
    assert_eq!(fetched.league.as_ref().unwrap().war_tag.as_deref(), Some("YQ9"));
    assert_eq!(state(document(fetched)), "preparation");
}

#[tokio::test]
async fn preparation_between_rounds_is_the_war() {
    let rig = in_the_middle_of_a_league().await;
    rig.server
        .on(&league_path("9Q8"), [war("warEnded", YESTERDAY, "CCC", "VVV")])
        .on(&league_path("9Q9"), [war("warEnded", YESTERDAY, "GGG", "2PP")]);
    let fetched = answered(rig.fetch_war("2PP", None).await);
    assert_eq!(fetched.league.as_ref().unwrap().war_tag.as_deref(), Some("YQ9"));
    assert_eq!(state(document(fetched)), "preparation");
}

#[tokio::test]
async fn last_round_is_war_of_last_day() {
    let rig = Rig::new().await;
    rig.server
        .on(CURRENT, [Reply::json(NOT_IN_WAR)])
        .on(GROUP, [group("inWar", &[&["9Q8", "9Q9"], &["YQ8", "YQ9"]])])
        .on(&league_path("YQ8"), [war("inWar", TOMORROW, "CCC", "GGG")])
        .on(&league_path("YQ9"), [war("inWar", TOMORROW, "2PP", "VVV")]);
    let fetch = rig.fetch_war("2PP", None).await;
    assert_eq!(fetch.calls, 4);
    assert_eq!(answered(fetch).league.unwrap().war_tag.as_deref(), Some("YQ9"));
}

#[tokio::test]
async fn undrawn_group_is_requested_again_soon() {
    let rig = Rig::new().await;
    rig.server.on(CURRENT, [Reply::json(NOT_IN_WAR)]).on(GROUP, [group("preparation", &[&["0", "0"]])]);
    let fetched = answered(rig.fetch_war("2PP", None).await);
    assert_eq!(fetched.league.unwrap().none_until, Some(NOW + Duration::from_secs(600)));
    assert_eq!(rig.server.paths(), [CURRENT, GROUP]);
}

#[tokio::test]
async fn private_war_log_keeps_league_war() {
    let rig = in_the_middle_of_a_league().await;
    rig.server.on(CURRENT, [Reply::status(403, r#"{"reason":"accessDenied"}"#)]);
    assert_eq!(state(document(answered(rig.fetch_war("2PP", None).await))), "inWar");
    rig.server.on(GROUP, [Reply::status(404, r#"{"reason":"notFound"}"#)]);
    let fetch = rig.fetch_war("2PP", None).await;
    assert_eq!(outcome(&fetch), "private");
    assert!(answered(fetch).league.unwrap().none_until.is_some());
}

#[tokio::test]
async fn later_of_two_ended_wars_is_shown() {
    for (plain_ends, league_ends, shown) in
        [(YESTERDAY, "20260302T050000.000Z", "GGG"), ("20260225T050000.000Z", YESTERDAY, "VVV")]
    {
        let rig = Rig::new().await;
        rig.server
            .on(CURRENT, [war("warEnded", plain_ends, "2PP", "GGG")])
            .on(GROUP, [Reply::status(404, r#"{"reason":"notFound"}"#)]);
        let plain = war_json("warEnded", plain_ends, "2PP", "GGG");
        assert_eq!(document(answered(rig.fetch_war("2PP", None).await)).json(), plain);
        rig.server
            .on(GROUP, [group("inWar", &[&["8Q8"]])])
            .on(&league_path("8Q8"), [war("warEnded", league_ends, "VVV", "2PP")]);
        let document = document(answered(rig.fetch_war("2PP", None).await));
        assert!(document.json().contains(&format!(r##""opponent":{{"tag":"#{shown}""##)), "{}", document.json());
    }
}

#[tokio::test]
async fn unreadable_group_keeps_plain_war_and_memory() {
    for group in [Reply::html(500), Reply::Close, Reply::json(r#"{"season":"2026-03"}"#)] {
        let rig = Rig::new().await;
        rig.server.on(CURRENT, [Reply::json(NOT_IN_WAR)]).on(GROUP, [group]);
        let memory = WarMemory { none_until: Some(NOW), ..WarMemory::default() };
        let fetched = answered(rig.fetch_war("2PP", Some(&memory)).await);
        assert_eq!(fetched.league, Some(memory));
        assert_eq!(document(fetched).json(), NOT_IN_WAR);
    }
}

#[tokio::test]
async fn unreadable_league_war_is_not_replaced() {
    let rig = in_the_middle_of_a_league().await;
    rig.server.on(&league_path("9Q9"), [Reply::html(500)]);
    assert_eq!(outcome(&rig.fetch_war("2PP", None).await), "transient: server_error");
}

#[tokio::test]
async fn bad_group_keeps_plain_war() {
    for reply in [
        Reply::html(503),
        Reply::status(429, ""),
        Reply::status(403, r#"{"message":"Invalid authorization"}"#),
        Reply::status(404, "page not found"),
    ] {
        let rig = in_the_middle_of_a_league().await;
        rig.server.on(GROUP, [reply.clone()]);
        let fetch = rig.fetch_war("2PP", None).await;
        assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("a war", 2), "{reply:?}");
        assert_eq!(answered(fetch).league.unwrap().none_until, None, "nobody said that there is none");
    }
}

#[tokio::test]
async fn bad_league_war_of_others_is_skipped() {
    for reply in [Reply::html(503), Reply::html(500), Reply::status(404, "page not found")] {
        let rig = in_the_middle_of_a_league().await;
        rig.server.on(&league_path("9Q8"), [reply.clone()]);
        assert_eq!(state(document(answered(rig.fetch_war("2PP", None).await))), "inWar", "{reply:?}");
    }
}

#[tokio::test]
async fn gone_clan_has_no_league() {
    let rig = Rig::new().await;
    let fetch = rig.fetch_war("2PP", None).await;
    assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("gone", 1));
}

/// A war with both its times, as the game writes them.
fn timed(state: &str, starts: &str, ends: &str, clan: &str, opponent: &str) -> String {
    war_json(state, ends, clan, opponent).replacen('{', &format!(r#"{{"startTime":"{starts}","#), 1)
}

#[tokio::test]
async fn newly_private_war_is_seen_from_opponent() {
    let rig = Rig::new().await;
    let other_side = "clans/%23GGG/currentwar";
    rig.server
        .on(
            CURRENT,
            [
                Reply::json(&timed("inWar", YESTERDAY, TOMORROW, "2PP", "GGG")),
                Reply::status(403, r#"{"reason":"accessDenied"}"#),
            ],
        )
        .on(GROUP, [Reply::status(404, r#"{"reason":"notFound"}"#)])
        .on(
            other_side,
            [
                Reply::json(&timed("inWar", YESTERDAY, TOMORROW, "GGG", "2PP")),
                Reply::json(&timed("inWar", YESTERDAY, TOMORROW, "GGG", "VVV")),
            ],
        );
    let open = answered(rig.fetch_war("2PP", None).await).league.unwrap();
    assert_eq!(open.war.as_ref().unwrap().opponent.as_ref().unwrap().as_str(), "GGG");
    let fetch = rig.fetch_war("2PP", Some(&open)).await;
    assert_eq!(fetch.calls, 2);
    let fetched = answered(fetch);
    let memory = fetched.league.clone().unwrap();
    assert_eq!(memory.war, open.war, "the clock goes on");
    assert_eq!(document(fetched).json(), timed("inWar", YESTERDAY, TOMORROW, "2PP", "GGG"), "our side is put first");
    // The other clan is in another war now. It shows nothing more of ours, and is not requested again.
    let fetched = answered(rig.fetch_war("2PP", Some(&memory)).await);
    assert!(matches!(fetched.answered, refresh_worker::model::Answered::PrivateWarLog));
    let forgotten = fetched.league.unwrap();
    assert_eq!(forgotten.war, None);
    rig.fetch_war("2PP", Some(&forgotten)).await;
    assert_eq!(rig.server.paths().iter().filter(|path| *path == other_side).count(), 2);
}

#[tokio::test]
async fn round_is_seen_to_end_before_next() {
    let rig = Rig::new().await;
    let starts = "20260303T050000.000Z";
    let round = |state: &str| Reply::json(&timed(state, starts, "20260304T050500.000Z", "2PP", "GGG"));
    let next = Reply::json(&timed("inWar", "20260304T050500.000Z", TOMORROW, "2PP", "VVV"));
    rig.server
        .on(CURRENT, [Reply::json(NOT_IN_WAR)])
        .on(GROUP, [group("inWar", &[&["9Q9"]]), group("inWar", &[&["9Q9"], &["YQ9"]])])
        .on(&league_path("9Q9"), [round("inWar"), round("warEnded")])
        .on(&league_path("YQ9"), [next]);
    let fought = answered(rig.fetch_war("2PP", None).await).league.unwrap();
    // [`NOW`] is 05:06:07, just after the end; its last attacks are in when the copy is three minutes younger.
    rig.clock.advance(Duration::from_secs(20 * 60));
    let memory = WarMemory { war_tag_until: Some(NOW + Duration::from_secs(30 * 60)), ..fought };
    rig.keys.confirm(
        &super::rig::name("token-one"),
        refresh_worker::api::SlotStart::now(&*rig.clock),
        super::rig::SLOT_LIFETIME,
    );
    let last = answered(rig.fetch_war("2PP", Some(&memory)).await);
    let seen = last.league.clone().unwrap();
    assert!(seen.seeks_next_round && seen.war.as_ref().unwrap().is_final && seen.war_tag.is_none(), "{seen:?}");
    assert!(last.fresh_until <= last.began, "nothing is gained by waiting for another copy");
    assert_eq!(state(document(last)), "warEnded");
    let next = answered(rig.fetch_war("2PP", Some(&seen)).await);
    let memory = next.league.clone().unwrap();
    assert_eq!((memory.war_tag.as_deref(), memory.seeks_next_round), (Some("YQ9"), false));
    assert_eq!(state(document(next)), "inWar");
}
