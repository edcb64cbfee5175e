//! A TCP proxy that misbehaves on request: what stands between the worker and Redis or PostgreSQL on a bad day.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// The proxy's treatment of traffic. A change takes effect at once, for open connections too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Pass,
    /// Each piece of data waits this long first.
    Slow(Duration),
    /// Connections stay open and are accepted; nothing moves until the mode changes.
    Stall,
    /// Whoever sends this word is cut off before the answer, though the word arrives: a `COMMIT` then has happened, and
    /// the client cannot know.
    LoseAnswerTo(&'static str),
    /// Open connections are closed, and new ones as soon as they are accepted.
    Cut,
    /// Open connections are closed, and new ones refused.
    Refuse,
}

impl Mode {
    fn closes(self) -> bool {
        matches!(self, Self::Cut | Self::Refuse)
    }
}

/// The mode, and how often connections were cut: one that saw another number at its start is closed, even when the mode
/// that cut it was over before it looked.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    cuts: u64,
}

#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    target: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy on a free loopback port in front of `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let address = listener.local_addr().expect("the port just bound");
        let state = watch::Sender::new(State { mode: Mode::Pass, cuts: 0 });
        let target = Arc::new(Mutex::new(target.to_owned()));
        let task = tokio::spawn(serve(listener, address, Arc::clone(&target), state.clone()));
        Self { address, state, target, task }
    }

    /// A proxy in front of the server of `url`, and the URL with the proxy's place in it.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        let mut url = url::Url::parse(url).expect("a URL");
        let target = format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"));
        let proxy = Self::start(&target).await;
        url.set_port(Some(proxy.address.port())).expect("a URL with a port");
        (proxy, url.into())
    }

    /// Leads new connections to another server (`host:port`), as a name does that moved. Open ones stay where they are.
    pub fn move_to(&self, target: &str) {
        target.clone_into(&mut self.target.lock());
    }

    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode.closes());
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Mode::Refuse);
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, target: Arc<Mutex<String>>, state: watch::Sender<State>) {
    let mut listener = Some(listener);
    let mut changes = state.subscribe();
    loop {
        let State { mode: now, cuts } = *changes.borrow_and_update();
        if now == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        let Some(open) = &listener else {
            // Refusing, or the port is not free again yet: the latter is tried again.
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(Duration::from_millis(10)), if now != Mode::Refuse => {}
            }
            continue;
        };
        tokio::select! {
            _ = changes.changed() => {}
            Ok((client, _)) = open.accept(), if now != Mode::Refuse => {
                if !now.closes() {
                    let target = target.lock().clone();
                    tokio::spawn(join(client, target, state.subscribe(), cuts));
                }
            }
        }
    }
}

/// Carries one connection until an end closes it or the mode does.
async fn join(client: TcpStream, target: String, mut state: watch::Receiver<State>, cuts: u64) {
    let Ok(server) = TcpStream::connect(&target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = carry(from_client, to_server, state.clone()) => {}
        () = carry(from_server, to_client, state.clone()) => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        let Ok(now) = state.wait_for(|state| state.mode != Mode::Stall).await.map(|state| state.mode) else { return };
        if let Mode::Slow(delay) = now {
            sleep(delay).await;
        }
        if to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
        if let Mode::LoseAnswerTo(word) = now
            && buffer[..size].windows(word.len()).any(|part| part == word.as_bytes())
        {
            return;
        }
    }
}

#[tokio::test]
async fn a_proxy_passes_stalls_cuts_and_refuses() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&echo.local_addr().unwrap().to_string()).await;
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = peer.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let mut letter = [0];

    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"a").await.unwrap();
    client.read_exact(&mut letter).await.unwrap();
    assert_eq!(&letter, b"a");

    proxy.set(Mode::Stall);
    client.write_all(b"b").await.unwrap();
    proxy.set(Mode::Pass);
    client.read_exact(&mut letter).await.unwrap();
    assert_eq!(&letter, b"b");

    proxy.set(Mode::Cut);
    proxy.set(Mode::Pass);
    assert!(client.read_exact(&mut letter).await.is_err(), "a cut that is over already was a cut");

    proxy.set(Mode::Refuse);
    // The listener closes when the proxy's task has seen the change.
    while TcpStream::connect(proxy.address).await.is_ok() {}

    proxy.set(Mode::Pass);
    let mut client = loop {
        if let Ok(client) = TcpStream::connect(proxy.address).await {
            break client;
        }
    };
    client.write_all(b"c").await.unwrap();
    client.read_exact(&mut letter).await.unwrap();
    assert_eq!(&letter, b"c");
}
