//! Cache invalidation: sends an application, by HTTP, the tags of cached pages that are outdated.
//!
//! Calls that application's one address and nothing else. Tags are sent in batches. A batch that failed, as a whole or for some of
//! its tags, is sent again, then reported; a failure never undoes the work that was done before.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;
use url::Url;

use crate::{
    config::InvalidationConfig,
    outbound::{self, causes},
};

/// The most tags of one request.
pub const MAX_BATCH: usize = 100;

/// The waits before the second and the third try.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// The timeout of one try.
const TRY_TIMEOUT: Duration = Duration::from_secs(3);

/// No try begins with less time than this.
const MIN_TRY_TIME: Duration = Duration::from_millis(50);

// Less than `TRY_TIMEOUT`, so that the failure says that no connection was made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const X_API_KEY: &str = "x-api-key";

/// The sender, in the body of a request.
const SOURCE: &str = "refresh-worker";

/// At most this many bytes of a response are read.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

/// The reasons why no client can be built.
#[derive(Debug, thiserror::Error)]
pub enum InvalidateError {
    #[error("cannot prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot prepare HTTP: {0}")]
    Http(#[from] reqwest::Error),
    #[error("INTERNAL_API_KEY cannot be used: an HTTP header cannot carry it")]
    Key,
}

/// The sum of an invalidation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Invalidated {
    /// Tags that the application accepted.
    pub tags: u64,
    /// Requests, retries included.
    pub requests: u64,
    /// Tags that were not delivered.
    pub lost: u64,
    /// The last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Invalidated {
    pub fn add(&mut self, other: Self) {
        self.tags += other.tags;
        self.requests += other.requests;
        self.lost += other.lost;
        self.failure = other.failure.or(self.failure.take());
    }
}

/// The application whose caches are invalidated.
#[derive(Clone, Debug)]
pub struct Invalidator {
    url: Url,
    http: reqwest::Client,
}

/// The result of a delivery: the sum, and the tags that the application did not accept.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    pub sum: Invalidated,
    pub lost: BTreeSet<String>,
}

/// The failure of one try.
#[derive(Debug)]
enum Failed {
    /// Another try may succeed.
    Passing(String),
    /// Another try would fail, too.
    Final(String),
}

impl Invalidator {
    /// Prepares the client, which connects when it is first used.
    ///
    /// # Errors
    /// When the key or the TLS settings cannot be used.
    pub fn new(config: &InvalidationConfig) -> Result<Self, InvalidateError> {
        Ok(Self { url: config.url.clone(), http: http(config)? })
    }

    /// Sends these tags, each once, and is done by `until`. After a batch that failed as a whole the rest is not tried.
    pub async fn invalidate(&self, tags: &BTreeSet<String>, until: Instant) -> Invalidated {
        self.deliver(tags, &request_id(), until).await.sum
    }

    /// [`Self::invalidate`] under a given request id; also returns the tags that were not accepted.
    pub async fn deliver(&self, tags: &BTreeSet<String>, request_id: &str, until: Instant) -> Delivery {
        let all: Vec<&str> = tags.iter().map(String::as_str).collect();
        let mut delivery = Delivery::default();
        for (index, batch) in all.chunks(MAX_BATCH).enumerate() {
            let (lost, failure) = self.deliver_batch(batch, request_id, until, &mut delivery.sum.requests).await;
            let is_all = lost.len() == batch.len();
            delivery.sum.tags += (batch.len() - lost.len()) as u64;
            delivery.lost.extend(lost.into_iter().map(str::to_owned));
            if let Some(failure) = failure {
                delivery.sum.failure = Some(format!("cannot invalidate the caches at {}: {failure}", self.shown()));
            }
            // The application is down or refuses: the other batches would only cost time.
            if is_all {
                delivery.lost.extend(all[index * MAX_BATCH..].iter().map(|tag| (*tag).to_owned()));
                break;
            }
        }
        delivery.sum.lost = delivery.lost.len() as u64;
        delivery
    }

    /// Sends one batch, with at most three tries. Returns the tags that were not accepted, and the failure.
    async fn deliver_batch<'t>(
        &self,
        tags: &[&'t str],
        request_id: &str,
        until: Instant,
        requests: &mut u64,
    ) -> (Vec<&'t str>, Option<String>) {
        let mut tags = tags.to_vec();
        let mut waits = RETRY_DELAYS.iter();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A shorter try could only time out.
            if left < MIN_TRY_TIME {
                return (tags, Some("no time was left".to_owned()));
            }
            *requests += 1;
            let failure = match self.send(&tags, request_id, left.min(TRY_TIMEOUT)).await {
                Ok(failed) if failed.is_empty() => return (failed, None),
                Ok(failed) => {
                    let failure = format!("it did not accept {} of {} tags", failed.len(), tags.len());
                    // Only the rest is sent again.
                    tags = failed;
                    failure
                }
                Err(Failed::Final(failure)) => return (tags, Some(failure)),
                Err(Failed::Passing(failure)) => failure,
            };
            let Some(wait) = waits.next() else {
                return (tags, Some(format!("{failure}, at the last of {} tries", RETRY_DELAYS.len() + 1)));
            };
            debug!(failure, "an application did not accept the tags; trying again");
            // Jitter of a quarter, so that overlapping runs do not retry together.
            let wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            if Instant::now() + wait + MIN_TRY_TIME > until {
                return (tags, Some(format!("{failure}, and no time was left to try again")));
            }
            sleep(wait).await;
        }
    }

    /// Makes one try. Returns the tags that the application reports as not accepted.
    async fn send<'t>(&self, tags: &[&'t str], request_id: &str, limit: Duration) -> Result<Vec<&'t str>, Failed> {
        let body = json!({ "tags": tags, "source": SOURCE, "requestId": request_id }).to_string();
        let request = self.http.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let sent = async {
            let mut response = request.send().await?;
            let status = response.status();
            let mut body = Vec::new();
            // A longer body is cut and then is no JSON, so that only the status counts.
            while let Some(chunk) = response.chunk().await?
                && body.len() + chunk.len() <= MAX_RESPONSE_BYTES
            {
                body.extend_from_slice(&chunk);
            }
            Ok((status, body))
        };
        match timeout(limit, sent).await {
            Ok(Ok((status, body))) => check(status).map(|()| not_accepted(status, &body, tags)),
            Ok(Err(error)) => Err(Failed::Passing(causes(error))),
            Err(_) => Err(Failed::Passing(format!("no response within {} ms", limit.as_millis()))),
        }
    }

    /// The address without its query, which may hold a secret.
    fn shown(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

fn check(status: StatusCode) -> Result<(), Failed> {
    if status.is_success() {
        return Ok(());
    }
    let failure = |hint: &str| format!("it responded with status {}{hint}", status.as_u16());
    Err(match status.as_u16() {
        // A retry would not find another key.
        401 | 403 => Failed::Final(failure(": is INTERNAL_API_KEY right?")),
        300..=399 => Failed::Final(failure(", a redirect: set the final address")),
        400 | 405 | 413 | 415 | 422 => Failed::Final(failure("")),
        // An application that is being deployed may not have its routes for a moment.
        _ => Failed::Passing(failure("")),
    })
}

/// A name for a request of our own.
#[must_use]
pub fn request_id() -> String {
    format!("refresh-{:016x}", fastrand::u64(..))
}

/// The tags that a response of success reports as not accepted: those that it names, or all, when it reports a failure without
/// names. A body that is not JSON reports nothing.
fn not_accepted<'t>(status: StatusCode, body: &[u8], tags: &[&'t str]) -> Vec<&'t str> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let list = ["failed_tags", "failedTags"].iter().find_map(|name| body.get(name)).filter(|list| !list.is_null());
    let failed: Vec<&'t str> = match list {
        Some(Value::Array(list)) => {
            let name = |one: &Value| Some(one.as_str().or_else(|| one.get("tag")?.as_str())?.to_owned());
            let names: BTreeSet<String> = list.iter().filter_map(name).collect();
            let failed: Vec<&'t str> = tags.iter().copied().filter(|tag| names.contains(*tag)).collect();
            // None of the names is ours: any of our tags may be meant.
            if failed.is_empty() && !list.is_empty() { tags.to_vec() } else { failed }
        }
        // The number of failed tags.
        Some(other) if other.as_u64() == Some(0) => Vec::new(),
        Some(_) => tags.to_vec(),
        None => Vec::new(),
    };
    let says_failed = body.get("success") == Some(&Value::Bool(false));
    // 207 without a list: some tags failed, and it is unknown which.
    let says_part = status == StatusCode::MULTI_STATUS && list.is_none();
    if failed.is_empty() && (says_failed || says_part) { tags.to_vec() } else { failed }
}

fn http(config: &InvalidationConfig) -> Result<reqwest::Client, InvalidateError> {
    let mut headers = HeaderMap::new();
    if let Some(key) = &config.key {
        let header = |text: String| {
            let mut value = HeaderValue::from_str(&text).map_err(|_| InvalidateError::Key)?;
            // Keeps the key out of debug output.
            value.set_sensitive(true);
            Ok::<_, InvalidateError>(value)
        };
        headers.insert(AUTHORIZATION, header(format!("Bearer {}", key.expose_secret()))?);
        headers.insert(X_API_KEY, header(key.expose_secret().to_owned())?);
    }
    // No proxy: the address is usually an internal one.
    Ok(outbound::client()?.default_headers(headers).connect_timeout(CONNECT_TIMEOUT).no_proxy().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_retries_only_passing_failures() {
        let is_final = |status: u16| matches!(check(StatusCode::from_u16(status).unwrap()), Err(Failed::Final(_)));
        for status in [301, 308, 400, 401, 403, 405, 413, 422] {
            assert!(is_final(status), "{status}");
        }
        for status in [404, 408, 429, 500, 502, 503, 504] {
            assert!(!is_final(status), "{status}");
        }
        assert!(check(StatusCode::NO_CONTENT).is_ok());
    }

    #[test]
    fn not_accepted_reads_tags_of_response() {
        let not_accepted = |status: u16, body: &str| {
            not_accepted(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &["a", "b"]).join(" ")
        };
        for (status, body, failed) in [
            (200, "", ""),
            (200, "revalidated", ""),
            (200, r#"{"success": true}"#, ""),
            (200, r#"{"success": true, "failed_tags": []}"#, ""),
            (207, r#"{"success": true, "failed_tags": []}"#, ""),
            (200, r#"{"success": false}"#, "a b"),
            (200, r#"{"success": false, "failed_tags": []}"#, "a b"),
            (207, "", "a b"),
            (207, r#"{"success": true}"#, "a b"),
            (207, r#"{"success": false, "failed_tags": ["b"]}"#, "b"),
            (200, r#"{"failedTags": [{"tag": "a", "error": "no"}]}"#, "a"),
            (200, r#"{"success": true, "failed_tags": ["other"]}"#, "a b"),
            (200, r#"{"failed_tags": 1}"#, "a b"),
        ] {
            assert_eq!(not_accepted(status, body), failed, "{status} {body}");
        }
    }

    #[test]
    fn add_sums_up_and_keeps_last_failure() {
        let mut sum = Invalidated { tags: 1, requests: 1, lost: 0, failure: Some("first".to_owned()) };
        sum.add(Invalidated { tags: 2, requests: 3, lost: 4, failure: None });
        assert_eq!((sum.tags, sum.requests, sum.lost, sum.failure.as_deref()), (3, 4, 4, Some("first")));
    }
}
