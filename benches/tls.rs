//! The cost of TLS for a call: the figure behind the choice of memory, and with it of processor, for the Lambda function.
//!
//! ```text
//! cargo bench --bench tls
//! ```
//!
//! The same players from the simulator, over plain HTTP and over HTTPS through a TLS front of our own; the processor time is
//! that of the calling thread alone. The client is configured as the worker's is, but trusts the front's certificate.

use std::{net::Ipv4Addr, sync::Arc, thread, time::Duration};

use refresh_worker::sim::{SimConfig, Simulator};
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const CALLS: usize = 600;
const ROUNDS: usize = 5;
const HANDSHAKES: usize = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let simulator = Simulator::start_apart(SimConfig { clans: 20, ..SimConfig::default() }).expect("a free port");
    let players = simulator
        .world()
        .player_tags()
        .iter()
        .map(|tag| format!("v1/players/{}", tag.path_segment()))
        .collect::<Vec<_>>();
    let (port, certificate) = front(simulator.address().port());
    let plain = format!("http://{}", simulator.address());
    let secret = format!("https://localhost:{port}");

    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(per_call(&plain, &players, &certificate).await);
        with.push(per_call(&secret, &players, &certificate).await);
    }
    let (without, with) = (median(without), median(with));
    println!("processor time a call, {CALLS} players, one connection, median of {ROUNDS} rounds:");
    println!("  http   {:.3} ms", without.as_secs_f64() * 1e3);
    println!("  https  {:.3} ms", with.as_secs_f64() * 1e3);
    println!("  TLS    {:.3} ms a call", with.saturating_sub(without).as_secs_f64() * 1e3);
    let handshake = connecting(&secret, &players[0], &certificate).await;
    println!("  a new connection over https, its one call included: {:.3} ms", handshake.as_secs_f64() * 1e3);
}

async fn per_call(base: &str, paths: &[String], certificate: &CertificateDer<'static>) -> Duration {
    let client = client(certificate);
    call(&client, base, &paths[0]).await;
    let before = spent();
    for path in paths.iter().cycle().take(CALLS) {
        call(&client, base, path).await;
    }
    spent().saturating_sub(before) / u32::try_from(CALLS).expect("a few")
}

async fn connecting(base: &str, path: &str, certificate: &CertificateDer<'static>) -> Duration {
    let mut times = Vec::new();
    for _ in 0..HANDSHAKES {
        let client = client(certificate);
        let before = spent();
        call(&client, base, path).await;
        times.push(spent().saturating_sub(before));
    }
    median(times)
}

async fn call(client: &reqwest::Client, base: &str, path: &str) {
    let answer = client.get(format!("{base}/{path}")).bearer_auth("bench").send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(!answer.bytes().await.expect("a body").is_empty());
}

fn client(certificate: &CertificateDer<'static>) -> reqwest::Client {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().expect("a client")
}

/// Speaks TLS for the simulator, on a thread of its own. Answers its port and certificate.
fn front(simulator: u16) -> (u16, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("the key fits");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.set_nonblocking(true).expect("it can");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("it is non-blocking");
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    stream.set_nodelay(true)?;
                    let mut inside = TcpStream::connect((Ipv4Addr::LOCALHOST, simulator)).await?;
                    inside.set_nodelay(true)?;
                    let mut outside = acceptor.accept(stream).await?;
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await
                });
            }
        });
    });
    (port, certificate)
}

/// Processor time of this thread so far.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
