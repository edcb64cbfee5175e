//! A TCP forwarder whose target moves, as a name in DNS or a load balancer does in a failover. Connections that are open stay
//! with the server that they were made to.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    target: watch::Sender<String>,
    accepted: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// A forwarder on a free loopback port that leads to `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let address = listener.local_addr().expect("the port just bound");
        let (target, accepted) = (watch::Sender::new(target.to_owned()), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(serve(listener, target.subscribe(), Arc::clone(&accepted)));
        Self { address, target, accepted, task }
    }

    /// A forwarder in front of the server of `url`, and the URL with the forwarder's place in it.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        let mut url = url::Url::parse(url).expect("a URL");
        let target = format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"));
        let forwarder = Self::start(&target).await;
        url.set_host(Some("127.0.0.1")).expect("a URL with a host");
        url.set_port(Some(forwarder.port())).expect("a URL with a port");
        (forwarder, url.into())
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on new connections lead to this server on the loopback.
    pub fn move_to(&self, port: u16) {
        self.target.send_replace(format!("127.0.0.1:{port}"));
    }

    /// The number of connections so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connections end with the task.
async fn serve(listener: TcpListener, target: watch::Receiver<String>, accepted: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::SeqCst);
        let target = target.borrow().clone();
        connections.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(target).await {
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                // Whichever side closes, both are closed.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
