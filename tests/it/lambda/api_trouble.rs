//! An API that misbehaves in ways only a real process shows: memory, silence, certificates.

use std::{net::Ipv4Addr, sync::Arc};

use refresh_worker::sim::{Misbehaviour, Rule};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{net::TcpListener, time::Duration};
use tokio_rustls::TlsAcceptor;

use super::{
    events,
    world::{PLENTY, World},
};

/// What DESIGN allows a full run.
const MEMORY_BUDGET: u64 = 64 * 1024 * 1024;

#[tokio::test]
async fn bodies_of_100_mb_and_json_100_000_deep_take_bounded_memory() {
    let world = World::start().await;
    let players = world.mail_players(60).await;
    let (huge, deep) = players.split_at(40);
    for player in huge {
        world.simulator.misbehave(Rule::new(Misbehaviour::HugeBody(100 << 20)).on_tag(player.as_str()));
    }
    for player in &deep[..10] {
        world.simulator.misbehave(Rule::new(Misbehaviour::DeepJson).on_tag(player.as_str()));
    }
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let (answer, dead) = (run.response(), world.sizes().await.dead);
    // Not by what the run counted: on a busy machine it hears of a settlement too late, and settles again.
    let stored = world.count("SELECT count(*) FROM player_snapshots").await;
    assert_eq!((dead, stored), (50, 10), "{answer}");
    // Of the 55 to 64 MiB that are seen here 30 are pages of the debug build's own file.
    let peak = worker.peak_memory_of_data_bytes().expect("the kernel tells");
    assert!(peak < MEMORY_BUDGET, "{} MiB", peak >> 20);
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_costs_no_request_an_attempt() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base_url = format!("http://{}/v1", silent.local_addr().unwrap());
    let world = World::start().await;
    world.mail_players(30).await;
    let mut worker = world.worker_with(&[("COC_BASE_URL", &base_url)]).await;
    // Less than the three calls of ten seconds that a request may have.
    let run = worker.invoke(&events::schedule(), Duration::from_secs(18)).await;
    let told = format!("{:?}", run.outcome);
    assert!(told.contains("deadline") || told.contains("no call succeeded"), "{told}");
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.dead, sizes.mailbox + sizes.objects), (0, 0, 30), "{sizes:?}");
}

#[tokio::test]
async fn an_answer_that_stalls_half_way_costs_no_request_an_attempt() {
    let world = World::start().await;
    world.mail_players(30).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::StallMidBody));
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), Duration::from_secs(18)).await;
    let told = format!("{:?}", run.outcome);
    assert!(told.contains("deadline") || told.contains("no call succeeded"), "{told}");
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.dead, sizes.mailbox + sizes.objects), (0, 0, 30), "{sizes:?}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_opens_the_circuit_and_is_named() {
    let base_url = serve_with_own_certificate().await;
    let world = World::start().await;
    world.mail_players(30).await;
    let mut worker = world.worker_with(&[("COC_BASE_URL", &base_url)]).await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("certificate"), "{message}");
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.dead, sizes.mailbox + sizes.objects), (0, 0, 30), "{sizes:?}");
}

/// A server whose certificate is its own authority. Answers the address to call.
async fn serve_with_own_certificate() -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The client leaves in the middle of the handshake.
            let _ = acceptor.accept(stream).await;
        }
    });
    format!("https://localhost:{port}/v1")
}
