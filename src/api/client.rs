//! HTTP to the API: one pool of connections, bounded bodies, a time limit on everything.
//!
//! Talks to the API and to nothing else. What an answer means is decided in [`super::verdict`]; `calls` spends
//! permits and quick tries. Redirects are not followed and nothing is repeated below us: each would be a call without
//! a permit.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    RequestBuilder,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue},
};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{
    calls::Caller,
    connects::CountConnects,
    judge::{Accusation, Bench},
    league,
    room::{Room, Rooms},
    run_keys::{Permit, RunKeys},
    verdict::{Body, Endpoint, Heard, Silence, Verdict},
};
use crate::{
    clock::{Clock, ServerTime},
    model::{EndpointKind, Kind, ObjectId, WarMemory},
    outbound::{self, causes},
};

/// The longest a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A call is not begun with less time than this.
pub const SHORTEST_CALL: Duration = Duration::from_millis(100);

/// The largest body that is read unless another bound is set, after decompression. A clan of 50 has about 60 KB.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The memory for a body grows in steps of at least this size.
const BODY_STEP: usize = 64 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that nobody used for this long are given up.
const IDLE: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the API's base URL ({host}) cannot be used: {detail}")]
    BaseUrl { host: String, detail: &'static str },
    #[error("cannot prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot prepare HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// One object to fetch.
#[derive(Debug)]
pub struct Ask<'a> {
    pub object: &'a ObjectId,
    /// For wars: what is remembered about the clan's league.
    pub league: Option<&'a WarMemory>,
    /// For the first call, when one was taken already. To be used at once.
    pub first_permit: Option<Permit>,
    pub keys: &'a RunKeys,
    /// Hears every answer.
    pub bench: &'a Bench,
    pub time: &'a ServerTime,
    /// No call begins whose timeout would pass this: a call begun late has less time, and none begins with less than
    /// [`SHORTEST_CALL`].
    pub until: Instant,
    /// How many more calls may be spent here on answers that may go better at once.
    pub quick_tries: u32,
    /// What the object is accused of, when it is fetched again to find out.
    pub earlier: Option<Accusation>,
}

/// What a fetch came to, and what it cost.
#[derive(Debug)]
pub struct Fetch {
    pub verdict: Verdict,
    /// Calls begun, quick tries included.
    pub calls: u32,
    pub slowest_call: Duration,
}

/// The API over HTTP.
#[derive(Debug)]
pub struct ApiClient {
    base_url: Url,
    is_loopback: bool,
    pool: Mutex<Pool>,
    max_body: usize,
    rooms: Rooms,
}

#[derive(Debug)]
struct Pool {
    http: reqwest::Client,
    /// By boot time, which goes on while a sandbox is frozen.
    last_used: Option<Duration>,
}

impl ApiClient {
    /// `base_url` has the version: `https://api.clashofclans.com/v1`. Connects when it is first used.
    pub fn new(base_url: &Url) -> Result<Self, ApiError> {
        check(base_url)?;
        let is_loopback = is_loopback(base_url);
        let pool = Mutex::new(Pool { http: http(is_loopback)?, last_used: None });
        Ok(Self { base_url: base_url.clone(), is_loopback, pool, max_body: MAX_BODY_BYTES, rooms: Rooms::default() })
    }

    /// The same, with another bound for the size of a body.
    #[must_use]
    pub fn with_max_body(self, bytes: usize) -> Self {
        Self { max_body: bytes, ..self }
    }

    /// Returns when there is memory for the answer to a call.
    pub async fn has_room(&self) {
        self.rooms.has_some().await;
    }

    pub(super) const fn room(&self) -> Room<'_> {
        self.rooms.room()
    }

    /// Asks for one object: a clan or a player with one call, a war with up to ten, quick tries not counted. What the
    /// API says about a key's rate is noted in [`Ask::keys`] before this returns, what it says about anything else than the object in
    /// [`Ask::bench`]; what follows from that is the caller's business.
    pub async fn fetch(&self, ask: Ask<'_>) -> Fetch {
        let (object, league) = (ask.object, ask.league);
        let mut caller = Caller::new(self, ask);
        let mut verdict = match object.kind {
            Kind::Clan => caller.call(&Endpoint::Clan(&object.tag)).await.into_verdict(object),
            Kind::Player => caller.call(&Endpoint::Player(&object.tag)).await.into_verdict(object),
            Kind::War => league::fetch_war(&mut caller, object, league).await,
        };
        let (calls, slowest_call) = caller.cost();
        caller.leave_room(&mut verdict);
        Fetch { verdict, calls, slowest_call }
    }

    /// One call of an object that used to be answered well, to find out whether this endpoint works. What came of it the
    /// bench knows. Returns the calls made.
    pub async fn control(&self, ask: Ask<'_>, endpoint: EndpointKind) -> u32 {
        let tag = &ask.object.tag;
        let endpoint = match endpoint {
            EndpointKind::Clan => Endpoint::Clan(tag),
            EndpointKind::Player => Endpoint::Player(tag),
            EndpointKind::LeagueGroup => Endpoint::LeagueGroup(tag),
            EndpointKind::CurrentWar | EndpointKind::LeagueWar => Endpoint::CurrentWar(tag),
        };
        let mut caller = Caller::new(self, ask);
        caller.call(&endpoint).await;
        caller.cost().0
    }

    /// One call, within `limit`; the time for which it waits for memory does not count, but nothing lasts longer than `end`.
    /// Returns that time, too.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint<'_>,
        bearer: HeaderValue,
        limit: Duration,
        end: Instant,
        room: &mut Room<'_>,
        clock: &dyn Clock,
    ) -> (Heard, Duration) {
        // Only the path is read anew: the whole was read when we began.
        let mut url = self.base_url.clone();
        url.set_path(&format!("{}/{}", self.base_url.path().trim_end_matches('/'), endpoint.path()));
        let request = self.http(clock).get(url).header(AUTHORIZATION, bearer);
        // What a clan's list says of each member is kept beside the list.
        let copies = if matches!(endpoint, Endpoint::Clan(_)) { 2 } else { 1 };
        let mut reading = Reading { until: Instant::now() + limit, end, waited: Duration::ZERO, room, copies };
        let heard = reading.exchange(request, self.max_body).await.unwrap_or(Heard::Nothing(
            if limit < CALL_TIMEOUT || Instant::now() >= end { Silence::OutOfTime } else { Silence::TimedOut(limit) },
        ));
        (heard, reading.waited)
    }

    /// The pool; a fresh one when the last was idle for long. The other side has closed those connections by then, and
    /// after a thaw the pool itself does not know that any time has passed.
    fn http(&self, clock: &dyn Clock) -> reqwest::Client {
        let now = clock.boot();
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let was_idle = pool.last_used.replace(now).is_some_and(|last| now.saturating_sub(last) > IDLE);
        if was_idle && let Ok(fresh) = http(self.is_loopback) {
            pool.http = fresh;
        }
        pool.http.clone()
    }
}

/// An answer that is being read.
struct Reading<'r, 'a> {
    until: Instant,
    end: Instant,
    waited: Duration,
    room: &'r mut Room<'a>,
    /// How many times the body is in memory when it is read.
    copies: usize,
}

/// The time of a call is over.
struct TimeIsOver;

impl From<tokio::time::error::Elapsed> for TimeIsOver {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self
    }
}

impl Reading<'_, '_> {
    /// Sends and reads a bounded body.
    async fn exchange(&mut self, request: RequestBuilder, max_body: usize) -> Result<Heard, TimeIsOver> {
        failpoint!("call.before_send");
        let mut response = match timeout_at(self.until, request.send()).await? {
            Ok(response) => response,
            Err(error) => return Ok(Heard::Nothing(Silence::Broken(causes(error)))),
        };
        failpoint!("call.head_received");
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let body = if response.content_length().is_some_and(|length| length > max_body as u64) {
            Body::TooLarge
        } else {
            // The size as sent; what is decompressed has none.
            let size = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            self.body(&mut response, size, max_body).await?
        };
        failpoint!("call.body_received");
        Ok(Heard::Answer { status, headers, body })
    }

    async fn body(
        &mut self,
        response: &mut reqwest::Response,
        size: usize,
        max_body: usize,
    ) -> Result<Body, TimeIsOver> {
        let mut bytes = Vec::new();
        loop {
            let chunk = match timeout_at(self.until, response.chunk()).await? {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) if error.is_decode() => {
                    return Ok(Body::Cut(format!("it cannot be decompressed (gzip): {}", causes(error))));
                }
                Err(error) => return Ok(Body::Cut(causes(error))),
            };
            if bytes.len() + chunk.len() > max_body {
                return Ok(Body::TooLarge);
            }
            if bytes.capacity() - bytes.len() < chunk.len() {
                // At once where the size is known: memory that grows in steps is left in pieces. Never more than is counted.
                let step = chunk.len().max(BODY_STEP).max(bytes.len() / 4).max(size.saturating_sub(bytes.len()));
                self.make_room(step * self.copies).await?;
                bytes.reserve_exact(step);
            }
            bytes.extend_from_slice(&chunk);
        }
        bytes.shrink_to_fit();
        Ok(Body::Whole(bytes))
    }

    /// Waits for memory. The other side and the call are not to blame for that.
    async fn make_room(&mut self, bytes: usize) -> Result<(), TimeIsOver> {
        let began = Instant::now();
        timeout_at(self.end, self.room.grow(bytes)).await?;
        let waited = began.elapsed();
        self.waited += waited;
        self.until = (self.until + waited).min(self.end);
        Ok(())
    }
}

fn check(base_url: &Url) -> Result<(), ApiError> {
    let refuse = |detail| Err(ApiError::BaseUrl { host: base_url.host_str().unwrap_or("no host").to_owned(), detail });
    match base_url {
        url if !matches!(url.scheme(), "http" | "https") => refuse("it has to begin with https:// (or http://)"),
        url if !url.has_host() => refuse("it names no host"),
        url if !url.username().is_empty() || url.password().is_some() => refuse("it must not hold a user or password"),
        url if url.query().is_some() || url.fragment().is_some() => refuse("it must end with its path"),
        _ => Ok(()),
    }
}

fn is_loopback(base_url: &Url) -> bool {
    match base_url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// HTTP to another server of the API's owner, with nothing kept apart for calls.
pub(super) fn plain_http(base_url: &Url) -> Result<reqwest::Client, ApiError> {
    check(base_url)?;
    http(is_loopback(base_url))
}

fn http(is_loopback: bool) -> Result<reqwest::Client, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let mut builder = outbound::client()?
        .connector_layer(CountConnects)
        .default_headers(headers)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE);
    if is_loopback {
        // A proxy of the surroundings does not reach our own loopback.
        builder = builder.no_proxy();
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_that_cannot_work_is_refused_without_printing_its_password() {
        let refused = |url: &str| ApiClient::new(&url.parse().unwrap()).unwrap_err().to_string();
        insta::assert_snapshot!(
            ["ftp://h/v1", "https://user:hidden@h/v1", "https://h/v1?realtime=true", "data:x"].map(refused).join("\n"),
            @r"
        use the API's base URL at h: it has to begin with https:// (or http://)
        use the API's base URL at h: it must not hold a user or password
        use the API's base URL at h: it must end with its path
        use the API's base URL at no host: it has to begin with https:// (or http://)
        "
        );
    }
}
