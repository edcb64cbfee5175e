//! A witness where a pooler in transaction mode would be: between a store and PostgreSQL.
//!
//! Such a pooler gives a client a server connection for one transaction at a time. A statement that is prepared outside a
//! transaction may be run on another connection, which does not know it. The witness passes everything on and notes
//! those statements.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// The server's status outside of a transaction.
const IDLE: u8 = b'I';

#[derive(Debug)]
pub struct PoolerWitness {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// Statements that were prepared.
#[derive(Debug, Default)]
struct Seen {
    inside: usize,
    outside: Vec<String>,
}

impl PoolerWitness {
    /// A witness in front of the server of `url`, and the URL with its place in it.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        Self::start(url, false).await
    }

    /// The same, and command-line options of the client never reach the server, as with most poolers.
    pub async fn that_keeps_options(url: &str) -> (Self, String) {
        Self::start(url, true).await
    }

    async fn start(url: &str, keeps_options: bool) -> (Self, String) {
        let mut url = url::Url::parse(url).expect("a URL");
        let target = format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let port = listener.local_addr().expect("the port just bound").port();
        url.set_port(Some(port)).expect("a URL with a port");
        // What is encrypted cannot be read.
        url.query_pairs_mut().append_pair("sslmode", "disable");
        let seen = Arc::default();
        let task = tokio::spawn(serve(listener, target, keeps_options, Arc::clone(&seen)));
        (Self { seen, task }, url.into())
    }

    /// The number of statements prepared inside transactions, and the texts of the others.
    pub fn take(&self) -> (usize, Vec<String>) {
        let seen = std::mem::take(&mut *self.seen.lock());
        (seen.inside, seen.outside)
    }
}

impl Drop for PoolerWitness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: String, keeps_options: bool, seen: Arc<Mutex<Seen>>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = TcpStream::connect(&target).await.expect("the server answers");
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let status = Arc::new(AtomicU8::new(IDLE));
        tokio::spawn(pass_statements(from_client, to_server, keeps_options, Arc::clone(&status), Arc::clone(&seen)));
        tokio::spawn(pass_answers(from_server, to_client, status));
    }
}

async fn pass_statements(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    keeps_options: bool,
    status: Arc<AtomicU8>,
    seen: Arc<Mutex<Seen>>,
) -> std::io::Result<()> {
    // The first message of a connection has no kind.
    let length = from.read_u32().await?;
    let mut startup = body(&mut from, length).await?;
    if keeps_options {
        startup = without_options(&startup);
    }
    to.write_all(&message(None, &startup)).await?;
    loop {
        let (kind, length) = (from.read_u8().await?, from.read_u32().await?);
        let body = body(&mut from, length).await?;
        if kind == b'P' {
            let statement = body.split(|&byte| byte == 0).nth(1).map(String::from_utf8_lossy).unwrap_or_default();
            let mut seen = seen.lock();
            match status.load(Ordering::SeqCst) {
                IDLE => seen.outside.push(statement.into_owned()),
                _ => seen.inside += 1,
            }
        }
        to.write_all(&message(Some(kind), &body)).await?;
    }
}

/// A startup message without `options`: the protocol's version, then names and values, each ended by a zero.
fn without_options(startup: &[u8]) -> Vec<u8> {
    let (version, rest) = startup.split_at(4);
    let words: Vec<&[u8]> = rest.split(|&byte| byte == 0).collect();
    let pairs = words.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options");
    let ended = |word: &&[u8]| word.iter().copied().chain([0]).collect::<Vec<u8>>();
    version.iter().copied().chain(pairs.flat_map(|pair| pair.iter().flat_map(ended))).chain([0]).collect()
}

async fn pass_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, status: Arc<AtomicU8>) -> std::io::Result<()> {
    loop {
        let (kind, length) = (from.read_u8().await?, from.read_u32().await?);
        let body = body(&mut from, length).await?;
        // Ready for the next one; noted before the client can know and send it.
        if kind == b'Z' {
            status.store(body[0], Ordering::SeqCst);
        }
        to.write_all(&message(Some(kind), &body)).await?;
    }
}

async fn body(from: &mut OwnedReadHalf, length: u32) -> std::io::Result<Vec<u8>> {
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await?;
    Ok(body)
}

fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a message has less than 4 GB");
    kind.into_iter().chain(length.to_be_bytes()).chain(body.iter().copied()).collect()
}
