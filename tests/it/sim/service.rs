//! The service around the documents: headers, copies, tokens, counting.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    clock::{ManualClock, Timestamp},
    sim::{Misbehaviour, Rule, SimConfig, Simulator},
};

use super::*;

fn moment() -> Timestamp {
    Timestamp::from_millis(1_772_600_767_000)
}

#[tokio::test]
async fn cached_bytes_repeat_while_max_age_falls() {
    let clock = ManualClock::at(moment());
    let config = SimConfig { clock: clock.clone(), evolve: 5000.0, ..SimConfig::default() };
    let asker = Asker::start(config).await;
    let census = asker.simulator.world();
    let full = census.clan_tags()[0].clone();
    for (path, age) in [
        (clan(&full), 120),
        (player(&census.player_tags()[0]), 60),
        (current_war(&census.not_in_war()[0]), 120),
        (league_group(&census.in_league()[0]), 600),
    ] {
        let first = asker.get(&path).await;
        assert_eq!(header(&first, "cache-control"), Some(&*format!("max-age={age}")), "{path}");
        assert_eq!(header(&first, "content-type"), Some("application/json; charset=utf-8"));
        let first = first.bytes().await.unwrap();
        clock.advance(Duration::from_secs(29));
        let second = asker.get(&path).await;
        assert_eq!(header(&second, "cache-control"), Some(&*format!("max-age={}", age - 29)), "{path}");
        assert!(second.bytes().await.unwrap() == first, "{path}");
    }
    let before = asker.json(&clan(&full)).await;
    clock.advance(Duration::from_secs(121));
    let after = asker.json(&clan(&full)).await;
    assert_ne!(before, after, "the copy is over, and much has happened");
}

#[tokio::test]
async fn bodies_are_compact_and_compressed() {
    let asker = Asker::default().await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    let decoded = asker.get(&path).await.bytes().await.unwrap();
    assert!(decoded.starts_with(br#"{"tag":"#));
    // A client of its own, since one that accepts gzip also decodes it.
    let client = Client::builder().no_gzip().use_preconfigured_tls(no_roots()).build().unwrap();
    let ask = |encoding: &'static str| {
        client.get(asker.url(&path)).bearer_auth("key").header("accept-encoding", encoding).send()
    };
    let plain = ask("identity").await.unwrap();
    assert_eq!(header(&plain, "content-encoding"), None);
    assert_eq!(plain.bytes().await.unwrap(), decoded);
    let packed = ask("gzip, deflate").await.unwrap();
    assert_eq!(header(&packed, "content-encoding"), Some("gzip"));
    assert!(packed.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
}

fn no_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

#[tokio::test]
async fn missing_object_is_not_found() {
    let asker = Asker::default().await;
    let census = asker.simulator.world();
    let unknown = census.unknown_tag();
    let outside = census.clan_tags().iter().find(|tag| !census.in_league().contains(tag)).unwrap();
    let bare = r#"{"reason":"notFound"}"#.to_owned();
    let with_message = format!(r#"{{"reason":"notFound","message":"Not found with tag {}"}}"#, unknown.as_str());
    for (path, body) in [
        (player(&unknown), with_message),
        (clan(&unknown), bare.clone()),
        (current_war(&unknown), bare.clone()),
        (league_group(outside), bare.clone()),
        (format!("/clanwarleagues/wars/{}", unknown.path_segment()), bare.clone()),
        (format!("/clans/{}", census.clan_tags()[0].as_str()), bare.clone()),
        ("/clanwarleagues/wars/%230".to_owned(), bare.clone()),
    ] {
        let response = asker.get(&path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(header(&response, "cache-control"), Some("public max-age=600"));
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(response.text().await.unwrap(), body);
    }
}

#[tokio::test]
async fn private_war_log_is_refused_without_message() {
    let asker = Asker::default().await;
    let private = asker.simulator.world().private_war_log()[0].clone();
    let war = asker.get(&current_war(&private)).await;
    assert_eq!((war.status().as_u16(), header(&war, "cache-control")), (403, Some("max-age=120")));
    assert_eq!(war.text().await.unwrap(), r#"{"reason":"accessDenied"}"#);
    let log = asker.get(&format!("{}/warlog", clan(&private))).await;
    assert_eq!((log.status().as_u16(), header(&log, "cache-control")), (403, Some("max-age=600")));
    assert_eq!(asker.json(&clan(&private)).await["isWarLogPublic"], false);
}

#[tokio::test]
async fn only_known_tokens_are_accepted() {
    let config = SimConfig { tokens: vec!["good".into(), "better".into()], ..SimConfig::default() };
    let mut asker = Asker::start(config).await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    for (token, status) in [("good", 200), ("better", 200), ("bad", 403), ("", 403)] {
        asker.token = token;
        assert_eq!(asker.status(&path).await, status, "{token:?}");
    }
    let without = asker.client.get(asker.url(&path)).send().await.unwrap();
    assert_eq!(without.text().await.unwrap(), r#"{"reason":"accessDenied","message":"Invalid authorization"}"#);
}

#[tokio::test]
async fn any_token_is_accepted_by_default() {
    let mut asker = Asker::default().await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    assert_eq!(asker.status(&path).await, 200);
    asker.token = "";
    assert_eq!(asker.status(&path).await, 403);
}

#[tokio::test]
async fn calls_are_recorded_in_order() {
    let mut asker = Asker::default().await;
    let census = asker.simulator.world();
    let (known, unknown) = (clan(&census.clan_tags()[0]), player(&census.unknown_tag()));
    asker.status(&known).await;
    asker.token = "other";
    asker.status(&unknown).await;
    asker.simulator.wait_for_calls(2).await;
    let calls = asker.simulator.calls();
    let recorded: Vec<_> = calls.iter().map(|call| (call.token.as_str(), call.path.as_str(), call.status)).collect();
    let (known, unknown) = (format!("/v1{known}"), format!("/v1{unknown}"));
    assert_eq!(recorded, [("key", known.as_str(), Some(200)), ("other", unknown.as_str(), Some(404))]);
    assert!(calls[0].at < calls[1].at);
    assert_eq!(asker.simulator.calls_to("/players/").len(), 1);
    assert_eq!((asker.simulator.total_calls(), asker.simulator.most_in_any_second("other")), (2, 1));
}

#[tokio::test]
async fn hidden_rate_throttles_per_token() {
    let config = SimConfig { rate_limit: Some(3), ..SimConfig::default() };
    let mut asker = Asker::start(config).await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    // At the same time, however slow the machine: all have arrived before the first response.
    asker.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    let calls = futures_util::future::join_all((0..5).map(|_| asker.status(&path)));
    let release = async {
        asker.simulator.wait_until_held(5).await;
        asker.simulator.release();
    };
    tokio::join!(calls, release);
    let calls = asker.simulator.calls();
    for (index, call) in calls.iter().enumerate() {
        let second = calls[..=index].iter().filter(|earlier| earlier.at + Duration::from_secs(1) > call.at).count();
        assert_eq!(call.status, Some(if second > 3 { 429 } else { 200 }), "call {index}: {calls:?}");
    }
    asker.token = "another";
    assert_eq!(asker.status(&path).await, 200);
}

#[tokio::test]
async fn maintenance_refuses_every_call() {
    let asker = Asker::default().await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    asker.simulator.maintenance(true);
    let refused = asker.get(&path).await;
    assert_eq!(refused.status(), 503);
    let body = r#"{"reason":"inMaintenance","message":"API is currently in maintenance, please come back later"}"#;
    assert_eq!(refused.text().await.unwrap(), body);
    asker.simulator.maintenance(false);
    assert_eq!(asker.status(&path).await, 200);
}

#[tokio::test]
async fn stopped_simulator_closes_port() {
    let asker = Asker::default().await;
    let address = asker.simulator.address();
    // An idle connection is left open by this.
    asker.status(&clan(&asker.simulator.world().unknown_tag())).await;
    asker.simulator.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn same_seed_serves_same_bytes() {
    let config = || SimConfig { seed: 42, clock: ManualClock::at(moment()), ..SimConfig::default() };
    let (one, other) = (Asker::start(config()).await, Asker::start(config()).await);
    let census = one.simulator.world();
    assert_eq!(census, other.simulator.world());
    let mut paths: Vec<String> = census.player_tags().iter().step_by(40).map(player).collect();
    paths.extend(census.clan_tags().iter().take(16).flat_map(|tag| [clan(tag), current_war(tag), league_group(tag)]));
    for path in paths {
        let (one, other) = (one.get(&path).await, other.get(&path).await);
        assert_eq!(one.status(), other.status());
        assert!(one.bytes().await.unwrap() == other.bytes().await.unwrap(), "{path}");
    }
    let stranger = Simulator::start(SimConfig { seed: 43, ..config() }).await.unwrap();
    assert_ne!(stranger.world(), census);
}

#[tokio::test]
async fn slow_service_responds_late() {
    let latency = Duration::from_millis(30);
    let asker = Asker::start(SimConfig { latency, ..SimConfig::default() }).await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    let began = std::time::Instant::now();
    asker.status(&path).await;
    assert!(began.elapsed() >= latency);
}

#[tokio::test]
async fn simulator_clock_is_free() {
    let clock: Arc<ManualClock> = ManualClock::at(Timestamp::EPOCH);
    let asker = Asker::start(SimConfig { clock, evolve: 1.0, ..SimConfig::default() }).await;
    let census = asker.simulator.world();
    assert_eq!(asker.status(&current_war(&census.clans_in_war()[0])).await, 200);
}
