//! HTTP to the API: one pool of connections, bounded bodies, a time limit on everything.
//!
//! Redirects are not followed and nothing is repeated here: each would be a call without a permit.

use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{
    RequestBuilder,
    header::{AUTHORIZATION, HeaderValue},
};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{
    body_memory::Reservation,
    budget::CountConnects,
    endpoint::Endpoint,
    http::{self, ApiError, POOL_IDLE_TIMEOUT},
    response::{Body, Response, TransportError},
};
use crate::{clock::Clock, outbound::causes};

/// The longest time that a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// No call begins with less time left than this: it would hardly get a response.
pub const MIN_CALL_TIME: Duration = Duration::from_millis(100);

/// The largest body that is read unless another bound is set, after decompression. A clan of 50 has about 60 KB.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The memory for a body grows by at least this much, so that it is not left in small pieces.
const MIN_BODY_GROWTH: usize = 64 * 1024;

/// The API's server over HTTP.
#[derive(Debug)]
pub(super) struct Transport {
    base_url: Url,
    pool: Mutex<Pool>,
    pub(super) max_body: usize,
}

#[derive(Debug)]
struct Pool {
    http: reqwest::Client,
    /// Boot time, which goes on while a sandbox is frozen.
    last_used: Option<Duration>,
}

impl Transport {
    /// `base_url` has the version: `https://api.clashofclans.com/v1`. Connects nowhere yet.
    pub fn new(base_url: &Url) -> Result<Self, ApiError> {
        let pool = Mutex::new(Pool { http: http(base_url)?, last_used: None });
        Ok(Self { base_url: base_url.clone(), pool, max_body: MAX_BODY_BYTES })
    }

    /// Makes one call within `limit`. The time for which it waits for memory does not count, but nothing lasts longer than
    /// `end`. Returns the time waited, too.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint<'_>,
        bearer: HeaderValue,
        limit: Duration,
        end: Instant,
        memory: &mut Reservation<'_>,
        clock: &dyn Clock,
    ) -> (Result<Response, TransportError>, Duration) {
        // Only the path is parsed: the rest of the URL was parsed once.
        let mut url = self.base_url.clone();
        url.set_path(&format!("{}/{}", self.base_url.path().trim_end_matches('/'), endpoint.path()));
        let request = self.http(clock).get(url).header(AUTHORIZATION, bearer);
        // The data of each member is kept beside the clan's list, so the body is in memory twice.
        let copies = if matches!(endpoint, Endpoint::Clan(_)) { 2 } else { 1 };
        let mut reading = Reading { until: Instant::now() + limit, end, waited: Duration::ZERO, memory, copies };
        let result = reading.exchange(request, self.max_body).await.unwrap_or_else(|TimeIsOver| {
            // With less than the full time, a slow API and a late call look alike.
            let is_cut_short = limit < CALL_TIMEOUT || Instant::now() >= end;
            Err(if is_cut_short { TransportError::OutOfTime } else { TransportError::TimedOut(limit) })
        });
        (result, reading.waited)
    }

    /// Returns the pool of connections; a fresh one when the last was idle for long. The other side has closed those
    /// connections by then, and after a thaw the pool itself does not know that any time has passed.
    fn http(&self, clock: &dyn Clock) -> reqwest::Client {
        let now = clock.boot();
        let mut pool = self.pool.lock();
        let was_idle = pool.last_used.replace(now).is_some_and(|last| now.saturating_sub(last) > POOL_IDLE_TIMEOUT);
        // If no new client can be built, the old one may still work.
        if was_idle && let Ok(fresh) = http(&self.base_url) {
            pool.http = fresh;
        }
        pool.http.clone()
    }
}

/// A response that is being read.
struct Reading<'r, 'a> {
    until: Instant,
    end: Instant,
    waited: Duration,
    memory: &'r mut Reservation<'a>,
    /// The number of times that the body is in memory once it is parsed.
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
    /// Sends the request, and reads the response with a bounded body.
    async fn exchange(
        &mut self,
        request: RequestBuilder,
        max_body: usize,
    ) -> Result<Result<Response, TransportError>, TimeIsOver> {
        failpoint!("call.before_send");
        let mut response = match timeout_at(self.until, request.send()).await? {
            Ok(response) => response,
            Err(error) => return Ok(Err(TransportError::Broken(causes(error)))),
        };
        failpoint!("call.head_received");
        let status = response.status().as_u16();
        // The response lives on while its body is read, so its headers are moved out.
        let headers = std::mem::take(response.headers_mut());
        let body = if response.content_length().is_some_and(|length| length > max_body as u64) {
            Body::TooLarge
        } else {
            // The size as sent. A compressed body does not have one.
            let size = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            self.body(&mut response, size, max_body).await?
        };
        failpoint!("call.body_received");
        Ok(Ok(Response { status, headers, body }))
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
            // Checked before the chunk is kept: the length header may be missing or wrong.
            if bytes.len() + chunk.len() > max_body {
                return Ok(Body::TooLarge);
            }
            if bytes.capacity() - bytes.len() < chunk.len() {
                // At once where the size is known, since memory that grows in steps is left in pieces. Never more than is
                // reserved.
                let step = chunk.len().max(MIN_BODY_GROWTH).max(bytes.len() / 4).max(size.saturating_sub(bytes.len()));
                self.reserve(step * self.copies).await?;
                bytes.reserve_exact(step);
            }
            bytes.extend_from_slice(&chunk);
        }
        // The document lives until it is stored; the reserve must not.
        bytes.shrink_to_fit();
        Ok(Body::Whole(bytes))
    }

    /// Waits for memory. The time of the call stands still meanwhile: neither side is to blame for the wait.
    async fn reserve(&mut self, bytes: usize) -> Result<(), TimeIsOver> {
        let began = Instant::now();
        timeout_at(self.end, self.memory.grow(bytes)).await?;
        let waited = began.elapsed();
        self.waited += waited;
        self.until = (self.until + waited).min(self.end);
        Ok(())
    }
}

fn http(base_url: &Url) -> Result<reqwest::Client, ApiError> {
    Ok(http::builder(base_url)?.connector_layer(CountConnects).build()?)
}
