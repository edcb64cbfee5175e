//! A server whose responses are scripted byte by byte, so that it can break HTTP, too.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use url::Url;

/// A scripted response.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The bytes to send; true when the connection stays open.
    Send { bytes: Vec<u8>, keep_open: bool },
    /// No byte is ever sent.
    Silence,
    /// The connection is closed at once.
    Close,
}

impl Reply {
    pub fn new(status: u16, headers: &[&str], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n", body.len());
        for header in headers {
            head = head + header + "\r\n";
        }
        Self::Send { bytes: [head.as_bytes(), b"\r\n", body].concat(), keep_open: true }
    }

    pub fn json(body: &str) -> Self {
        Self::new(200, &["content-type: application/json; charset=utf-8"], body)
    }

    pub fn status(status: u16, body: &str) -> Self {
        Self::new(status, &[], body)
    }

    pub fn html(status: u16) -> Self {
        Self::new(status, &["content-type: text/html"], "<html><body>Sorry</body></html>")
    }

    /// Promises more than it sends.
    pub fn cut(self, missing: usize) -> Self {
        match self {
            Self::Send { mut bytes, .. } => {
                bytes.truncate(bytes.len() - missing);
                Self::Send { bytes, keep_open: false }
            }
            other => other,
        }
    }
}

/// A call as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub path: String,
    pub head: String,
}

#[derive(Debug, Default)]
struct State {
    replies: HashMap<String, VecDeque<Reply>>,
    calls: Vec<Call>,
}

/// The running server. Ends when dropped.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl Scripted {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let server = tokio::spawn(async move {
            // Dropping this task drops the connections, which closes them.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, state, server }
    }

    pub fn base_url(&self) -> Url {
        format!("http://{}/v1", self.address).parse().unwrap()
    }

    /// Scripts the responses to calls of this path below the base URL, in order. The last one is repeated.
    pub fn on<const N: usize>(&self, path: &str, replies: [Reply; N]) -> &Self {
        self.state.lock().replies.insert(format!("/v1/{path}"), replies.into());
        self
    }

    pub fn calls(&self) -> Vec<Call> {
        self.state.lock().calls.clone()
    }

    /// The paths of all calls, in order, without the version.
    pub fn paths(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.path.trim_start_matches("/v1/").to_owned()).collect()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Some(head) = read_head(&mut stream).await {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let reply = {
            let mut state = state.lock();
            state.calls.push(Call { path: path.clone(), head });
            match state.replies.get_mut(&path) {
                Some(replies) if replies.len() > 1 => replies.pop_front(),
                Some(replies) => replies.front().cloned(),
                None => None,
            }
        };
        match reply.unwrap_or_else(|| Reply::status(404, r#"{"reason":"notFound"}"#)) {
            Reply::Send { bytes, keep_open } => {
                if stream.write_all(&bytes).await.is_err() || !keep_open {
                    return;
                }
            }
            Reply::Silence => std::future::pending().await,
            Reply::Close => return,
        }
    }
}

/// A request without a body, up to its empty line. `None` when the connection ends.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
