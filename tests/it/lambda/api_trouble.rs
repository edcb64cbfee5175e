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

/// The memory that DESIGN allows a full run.
const MEMORY_BUDGET: u64 = 64 * 1024 * 1024;

/// Bodies of 100 MB, and JSON that is 100,000 levels deep.
#[tokio::test]
async fn huge_and_deep_bodies_take_bounded_memory() {
    let world = World::start().await;
    let players = world.mail_players(60).await;
    // Every other response is good: many bad ones in a row would be the endpoint's fault.
    for (number, player) in players.iter().enumerate().skip(1).step_by(2) {
        let bad = if number % 10 == 1 { Misbehaviour::DeepJson } else { Misbehaviour::HugeBody(100 << 20) };
        world.simulator.misbehave(Rule::new(bad).on_tag(player.as_str()));
    }
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    let (answer, dead) = (run.response(), world.sizes().await.dead);
    // Not by what the run counted: on a busy machine it hears of a settlement too late, and settles again.
    let stored = world.count("SELECT count(*) FROM player_snapshots").await;
    assert_eq!((dead, stored), (30, 30), "{answer}");
    // Of the 55 to 64 MiB that are seen here 30 are pages of the debug build's own file.
    let peak = worker.peak_memory_of_data_bytes().expect("the kernel reports it");
    assert!(peak < MEMORY_BUDGET, "{} MiB", peak >> 20);
}

/// The server accepts connections and never responds.
#[tokio::test]
async fn silent_server_counts_no_attempt() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base_url = format!("http://{}/v1", silent.local_addr().unwrap());
    let world = World::start().await;
    world.mail_players(30).await;
    let mut worker = world.worker_with(&[("COC_BASE_URL", &base_url)]).await;
    // Less than the three calls of ten seconds that a request may have.
    let run = worker.invoke(&events::schedule(), Duration::from_secs(18)).await;
    let text = format!("{:?}", run.outcome);
    assert!(text.contains("deadline") || text.contains("the API gives no good response"), "{text}");
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.dead, sizes.mailbox + sizes.objects), (0, 0, 30), "{sizes:?}");
}

#[tokio::test]
async fn stalled_response_counts_no_attempt() {
    let world = World::start().await;
    world.mail_players(30).await;
    world.simulator.misbehave(Rule::new(Misbehaviour::StallMidBody));
    let mut worker = world.worker().await;
    let run = worker.invoke(&events::schedule(), Duration::from_secs(18)).await;
    let text = format!("{:?}", run.outcome);
    assert!(text.contains("deadline") || text.contains("the API gives no good response"), "{text}");
    let sizes = world.sizes().await;
    assert_eq!((sizes.leased, sizes.dead, sizes.mailbox + sizes.objects), (0, 0, 30), "{sizes:?}");
}

#[tokio::test]
async fn untrusted_certificate_opens_circuit_and_is_named() {
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
