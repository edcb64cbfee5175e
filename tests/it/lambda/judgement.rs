//! The classification of bad responses, through the real binary: the cases that stopped everything before there was a judge.

use std::net::Ipv4Addr;

use refresh_worker::sim::{Endpoint, Misbehaviour, Rule};
use tokio::net::TcpSocket;

use super::{
    events,
    world::{PLENTY, World},
};

#[tokio::test]
async fn object_with_503_stops_nobody() {
    let world = World::start().await;
    let players = world.mail_players(101).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::MaintenanceHtml).on_tag(players[0].as_str()));
    world.mail("player", players[0].as_str(), 0).await;
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let answer = run.response();
    assert_eq!((&answer["outcomes"]["stored"], &answer["outcomes"]["delayed"]), (&100.into(), &1.into()), "{answer}");
    assert_eq!(answer["stopped_because"], "queue_empty", "{answer}");
}

#[tokio::test]
async fn unreachable_api_counts_no_attempt() {
    // Bound and never listened at, so that no other test gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let world = World::start().await;
    world.mail_players(19).await;
    let nobody = format!("http://127.0.0.1:{port}/v1");
    let mut worker = world.worker_with(&[("COC_BASE_URL", &nobody)]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.error()["errorType"], "RefreshFailed.api_unreachable");
    let health = worker.invoke(&events::get_health(), PLENTY).await;
    assert_eq!(health.response()["statusCode"], 503, "an API that nobody reaches is not healthy");
    for _ in 0..2 {
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        assert_eq!(
            (&run.response()["stopped_because"], &run.response()["api_requests"]),
            (&"circuit_open".into(), &0.into())
        );
    }
    let sizes = world.sizes().await;
    assert_eq!((sizes.mailbox + sizes.objects, sizes.leased, sizes.dead), (19, 0, 0), "{sizes:?}");
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response()["stopped_because"], "circuit_open", "its probe is not due yet");
}

#[tokio::test]
async fn wrong_server_marks_nothing_as_gone() {
    for (status, body) in [(404, "page not found"), (404, "{}"), (400, "<html>"), (200, r#"{"ok":true}"#)] {
        let world = World::start().await;
        world.mail_of_every_kind(40).await;
        world.simulator.misbehave(Rule::new(Misbehaviour::Foreign { status, body: body.to_owned() }));
        let mut worker = world.worker().await;
        let run = worker.invoke(&events::schedule(), PLENTY).await;
        assert_eq!(run.error()["errorType"], "RefreshFailed.api_unreachable", "{body}");
        let sizes = world.sizes().await;
        assert_eq!((sizes.mailbox + sizes.objects, sizes.leased, sizes.dead), (43, 0, 0), "{body}: {sizes:?}");
        assert_eq!(world.count("SELECT count(*) FROM refresh_worker.refresh_state").await, 0, "{body}");
    }
}

#[tokio::test]
async fn failing_wars_leave_run_to_players() {
    let world = World::start().await;
    for clan in world.simulator.world().clan_tags() {
        world.mail("war", clan.as_str(), 0).await;
    }
    world.mail_players(200).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::Status500).on(Endpoint::CurrentWar));
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let answer = run.response();
    assert_eq!((&answer["outcomes"]["stored"], &answer["failed_requests"]), (&200.into(), &0.into()), "{answer}");
    assert_eq!((&answer["stopped_because"], &answer["circuits"][0]), (&"circuit_open".into(), &"current_war".into()));
    let health = worker.invoke(&events::get_health(), PLENTY).await;
    let body = health.response()["body"].as_str().unwrap().to_owned();
    assert!(body.contains("current_war") && health.response()["statusCode"] == 200, "{body}");
}
