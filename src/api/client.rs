//! HTTP to the API: one pool of connections, bounded bodies, a time limit on everything.
//!
//! Talks to the API and to nothing else. What an answer means is decided in [`super::verdict`]; `calls` spends
//! permits and quick tries. Redirects are not followed and nothing is repeated below us: each would be a call without
//! a permit.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    RequestBuilder,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue},
    redirect,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::time::{Instant, timeout};
use url::Url;

use super::{
    calls::Caller,
    league,
    run_keys::{Permit, RunKeys},
    verdict::{Body, Endpoint, Heard, Silence, Verdict},
};
use crate::{
    clock::{Clock, ServerTime},
    model::{Kind, LeagueMemory, ObjectId},
};

/// The longest a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A call is not begun with less time than this.
pub const SHORTEST_CALL: Duration = Duration::from_millis(100);

/// The largest body that is read, after decompression. A clan of 50 has about 60 KB.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that nobody used for this long are given up.
const IDLE: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("use the API's base URL at {host}: {detail}")]
    BaseUrl { host: String, detail: &'static str },
    #[error("prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("prepare HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// One object to fetch.
#[derive(Debug)]
pub struct Ask<'a> {
    pub object: &'a ObjectId,
    /// For wars: what is remembered about the clan's league.
    pub league: Option<&'a LeagueMemory>,
    /// For the first call, when one was taken already. To be used at once.
    pub first_permit: Option<Permit>,
    pub keys: &'a RunKeys,
    pub time: &'a ServerTime,
    /// No call begins whose timeout would pass this: a call begun late has less time, and none begins with less than
    /// [`SHORTEST_CALL`].
    pub until: Instant,
    /// How many more calls may be spent here on answers that may go better at once.
    pub quick_tries: u32,
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
    base_url: String,
    tls: ClientConfig,
    is_loopback: bool,
    pool: Mutex<Pool>,
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
        let tls = tls()?;
        let is_loopback = match base_url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let pool = Mutex::new(Pool { http: http(&tls, is_loopback)?, last_used: None });
        Ok(Self { base_url: base_url.as_str().trim_end_matches('/').to_owned(), tls, is_loopback, pool })
    }

    /// Asks for one object: a clan or a player with one call, a war with up to ten, quick tries not counted. What the
    /// API says about a key is noted in [`Ask::keys`] before this returns; the key's slot is the caller's business.
    pub async fn fetch(&self, ask: Ask<'_>) -> Fetch {
        let Ask { object, league, first_permit, keys, time, until, quick_tries } = ask;
        let mut caller = Caller::new(self, keys, time, until, quick_tries, first_permit);
        let verdict = match object.kind {
            Kind::Clan => caller.call(&Endpoint::Clan(&object.tag)).await.into_verdict(object),
            Kind::Player => caller.call(&Endpoint::Player(&object.tag)).await.into_verdict(object),
            Kind::War => league::fetch_war(&mut caller, object, league).await,
        };
        let (calls, slowest_call) = caller.cost();
        Fetch { verdict, calls, slowest_call }
    }

    /// One call, within `limit`.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint<'_>,
        bearer: HeaderValue,
        limit: Duration,
        clock: &dyn Clock,
    ) -> Heard {
        let url = format!("{}/{}", self.base_url, endpoint.path());
        let request = self.http(clock).get(url).header(AUTHORIZATION, bearer);
        timeout(limit, exchange(request)).await.unwrap_or(Heard::Nothing(if limit < CALL_TIMEOUT {
            Silence::OutOfTime
        } else {
            Silence::TimedOut(limit)
        }))
    }

    /// The pool; a fresh one when the last was idle for long. The other side has closed those connections by then, and
    /// after a thaw the pool itself does not know that any time has passed.
    fn http(&self, clock: &dyn Clock) -> reqwest::Client {
        let now = clock.boot();
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let was_idle = pool.last_used.replace(now).is_some_and(|last| now.saturating_sub(last) > IDLE);
        if was_idle && let Ok(fresh) = http(&self.tls, self.is_loopback) {
            pool.http = fresh;
        }
        pool.http.clone()
    }
}

/// Sends and reads a bounded body.
async fn exchange(request: RequestBuilder) -> Heard {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Heard::Nothing(Silence::Broken(causes(error))),
    };
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    let expected = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(expected.min(MAX_BODY_BYTES));
    let body = loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > MAX_BODY_BYTES => break Body::TooLarge,
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break Body::Whole(bytes),
            Err(error) => break Body::Cut(causes(error)),
        }
    };
    Heard::Answer { status, headers, body }
}

/// An error with its causes on one line, without the URL.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
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

/// Mozilla's roots, built in: loading the system's costs 3 ms at every cold start.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn http(tls: &ClientConfig, is_loopback: bool) -> Result<reqwest::Client, reqwest::Error> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .user_agent(concat!("coc-refresh-worker/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never());
    if is_loopback {
        // A proxy of the surroundings does not reach our own loopback.
        builder = builder.no_proxy();
    }
    builder.build()
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
