//! A current war in an unknown state: the known war stays, and the league is searched.

use std::time::Duration;

use refresh_worker::model::{Answered, KnownWar, WarMemory};

use super::{
    rig::{NOW, Rig, answered, outcome},
    scripted::Reply,
};

const CURRENT: &str = "clans/%232PP/currentwar";
const GROUP: &str = "clans/%232PP/currentwar/leaguegroup";
const UNKNOWN: [&str; 5] = [
    r#"{"state":"accessDenied"}"#,
    r#"{"state":"inMatchmaking","clan":{},"opponent":{}}"#,
    r##"{"state":"enterWar","clan":{"tag":"#2PP"},"opponent":{}}"##,
    r#"{"state":null,"clan":{},"opponent":{}}"#,
    r#"{"clan":{},"opponent":{}}"#,
];

fn known() -> WarMemory {
    let war = KnownWar {
        state: "inWar".to_owned(),
        starts: NOW - Duration::from_secs(3600),
        ends: NOW + Duration::from_secs(3600),
        opponent: Some("8Q8".parse().unwrap()),
        is_final: false,
    };
    WarMemory { war: Some(Box::new(war)), ..WarMemory::default() }
}

fn war(state: &str, times: [&str; 2], opponent: &str, team_size: usize) -> String {
    let [starts, ends] = times;
    let side = |tag: &str| format!(r##"{{"tag":"#{tag}","members":[{{"tag":"#{tag}Y","attacks":[{{}}]}}]}}"##);
    format!(
        r#"{{"state":"{state}","teamSize":{team_size},"startTime":"{starts}","endTime":"{ends}","clan":{},"opponent":{}}}"#,
        side("2PP"),
        side(opponent)
    )
}

const RUNNING: [&str; 2] = ["20260304T040000.000Z", "20260304T060000.000Z"];
const LONG_OVER: [&str; 2] = ["20260301T040000.000Z", "20260302T040000.000Z"];

#[tokio::test]
async fn unknown_state_keeps_known_war() {
    for body in UNKNOWN {
        let rig = Rig::new().await;
        rig.server.on(CURRENT, [Reply::new(200, &["cache-control: max-age=60"], body)]);
        let fetch = rig.fetch_war("2PP", Some(&known())).await;
        assert!(outcome(&fetch).starts_with("unknown state"), "{body}: {}", outcome(&fetch));
        assert_eq!(rig.server.paths(), [CURRENT, GROUP], "{body}");
        let fetched = answered(fetch);
        assert_eq!(fetched.fresh_until, NOW + Duration::from_secs(60), "it is not asked again at once");
        assert_eq!(fetched.league.unwrap().war, known().war, "{body}");
    }
}

#[tokio::test]
async fn league_war_replaces_unknown_state() {
    let rig = Rig::new().await;
    rig.server
        .on(CURRENT, [Reply::json(UNKNOWN[0])])
        .on(GROUP, [Reply::json(r##"{"state":"inWar","season":"2026-03","rounds":[{"warTags":["#9Q9"]}]}"##)])
        .on("clanwarleagues/wars/%239Q9", [Reply::json(&war("inWar", RUNNING, "9CC", 1))]);
    let fetch = rig.fetch_war("2PP", Some(&known())).await;
    assert_eq!(outcome(&fetch), "a war");
    assert_eq!(answered(fetch).league.unwrap().war.unwrap().opponent, Some("9CC".parse().unwrap()));
}

#[tokio::test]
async fn old_league_war_replaces_nothing() {
    let rig = Rig::new().await;
    rig.server
        .on(CURRENT, [Reply::json(UNKNOWN[0])])
        .on(GROUP, [Reply::json(r##"{"state":"inWar","season":"2026-03","rounds":[{"warTags":["#9Q9"]}]}"##)])
        .on("clanwarleagues/wars/%239Q9", [Reply::json(&war("warEnded", LONG_OVER, "9CC", 1))]);
    let fetched = answered(rig.fetch_war("2PP", Some(&known())).await);
    assert!(matches!(fetched.answered, Answered::UnknownState(_)), "{fetched:?}");
    assert_eq!(fetched.league.unwrap().war, known().war);
}

#[tokio::test]
async fn unknown_league_state_is_not_replaced() {
    let rig = Rig::new().await;
    rig.server
        .on(CURRENT, [Reply::json(r#"{"state":"notInWar","clan":{},"opponent":{}}"#)])
        .on(GROUP, [Reply::json(r##"{"state":"inWar","season":"2026-03","rounds":[{"warTags":["#9Q9"]}]}"##)])
        .on("clanwarleagues/wars/%239Q9", [Reply::json(&war("frozen", RUNNING, "9CC", 1))]);
    let fetched = answered(rig.fetch_war("2PP", Some(&known())).await);
    assert!(matches!(&fetched.answered, Answered::UnknownState(state) if state == "frozen"), "{fetched:?}");
    assert_eq!(fetched.league.unwrap().war, known().war);
}

#[tokio::test]
async fn incomplete_war_is_never_final() {
    let (whole, odd) = (war("warEnded", LONG_OVER, "8Q8", 1), war("warEnded", LONG_OVER, "8Q8", 15));
    for (body, is_final) in [(&whole, true), (&odd, false), (&whole.replace("\"#8Q8\"", "\"?\""), false)] {
        let rig = Rig::new().await;
        rig.server.on(CURRENT, [Reply::json(body)]);
        let memory = answered(rig.fetch_war("2PP", None).await).league.unwrap();
        assert_eq!(memory.war.unwrap().is_final, is_final, "{body}");
    }
}

#[tokio::test]
async fn running_war_keeps_missing_parts() {
    let body = war("inWar", RUNNING, "8Q8", 1);
    for odd in [body.replace("startTime", "begins"), body.replace("\"#8Q8\"", "\"?\"")] {
        let rig = Rig::new().await;
        rig.server.on(CURRENT, [Reply::json(&odd)]);
        let war = answered(rig.fetch_war("2PP", Some(&known())).await).league.unwrap().war.unwrap();
        assert_eq!((war.opponent, war.is_final), (Some("8Q8".parse().unwrap()), false), "{odd}");
    }
}
