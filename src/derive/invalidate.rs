//! Cache invalidation: tells an application by HTTP which of its cached pages are stale.
//!
//! Talks to that application's one address and to nothing else. What is told are tags, in batches. A failure, of a batch or of
//! some of its tags, is tried again, then reported; it never fails what was done before.

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

/// How many tags one request carries.
pub const BATCH: usize = 100;

/// The waits before the second and the third try.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// How long one try may take.
const TRY_TIME: Duration = Duration::from_secs(3);

/// With less time than this no try is begun.
const SHORTEST_TRY: Duration = Duration::from_millis(50);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const X_API_KEY: &str = "x-api-key";

/// Who tells, in the body.
const SOURCE: &str = "refresh-worker";

/// The most of an answer that is read.
const LONGEST_ANSWER: usize = 256 * 1024;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum InvalidateError {
    #[error("cannot prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot prepare HTTP: {0}")]
    Http(#[from] reqwest::Error),
    #[error("INTERNAL_API_KEY cannot be used: an HTTP header cannot carry it")]
    Key,
}

/// What telling came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Invalidated {
    /// Tags that the application has taken.
    pub tags: u64,
    /// Requests made, tries included.
    pub requests: u64,
    /// Tags that it could not be told.
    pub lost: u64,
    /// Why, of the last failure.
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

/// The application whose caches are told.
#[derive(Clone, Debug)]
pub struct Invalidator {
    url: Url,
    http: reqwest::Client,
}

/// What telling came to, and which tags the application has not taken.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub sum: Invalidated,
    pub lost: BTreeSet<String>,
}

/// Why one try failed.
#[derive(Debug)]
enum Failed {
    /// It may go better.
    Passing(String),
    /// It would fail again.
    Final(String),
}

impl Invalidator {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// When the key or the TLS settings cannot be used.
    pub fn new(config: &InvalidationConfig) -> Result<Self, InvalidateError> {
        Ok(Self { url: config.url.clone(), http: http(config)? })
    }

    /// Tells these tags, each once, and is done by `until`. After a batch that could not be told the rest is not tried.
    pub async fn invalidate(&self, tags: &BTreeSet<String>, until: Instant) -> Invalidated {
        self.tell(tags, &request_id(), until).await.sum
    }

    /// The same, for a request that somebody else has named, and with the tags that were not taken.
    pub async fn tell(&self, tags: &BTreeSet<String>, request_id: &str, until: Instant) -> Told {
        let all: Vec<&str> = tags.iter().map(String::as_str).collect();
        let mut told = Told::default();
        for (index, batch) in all.chunks(BATCH).enumerate() {
            let (lost, failure) = self.tell_batch(batch, request_id, until, &mut told.sum.requests).await;
            let is_all = lost.len() == batch.len();
            told.sum.tags += (batch.len() - lost.len()) as u64;
            told.lost.extend(lost.into_iter().map(str::to_owned));
            if let Some(failure) = failure {
                told.sum.failure = Some(format!("cannot invalidate the caches at {}: {failure}", self.shown()));
            }
            if is_all {
                told.lost.extend(all[index * BATCH..].iter().map(|tag| (*tag).to_owned()));
                break;
            }
        }
        told.sum.lost = told.lost.len() as u64;
        told
    }

    /// One batch, with at most three tries; answers the tags that were not taken, and why.
    async fn tell_batch<'t>(
        &self,
        tags: &[&'t str],
        request_id: &str,
        until: Instant,
        requests: &mut u64,
    ) -> (Vec<&'t str>, Option<String>) {
        let mut tags = tags.to_vec();
        let mut waits = BACK_OFF.iter();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left < SHORTEST_TRY {
                return (tags, Some("no time was left".to_owned()));
            }
            *requests += 1;
            let failure = match self.send(&tags, request_id, left.min(TRY_TIME)).await {
                Ok(failed) if failed.is_empty() => return (failed, None),
                Ok(failed) => {
                    let failure = format!("it did not take {} of {} tags", failed.len(), tags.len());
                    tags = failed;
                    failure
                }
                Err(Failed::Final(failure)) => return (tags, Some(failure)),
                Err(Failed::Passing(failure)) => failure,
            };
            let Some(wait) = waits.next() else {
                return (tags, Some(format!("{failure}, at the last of {} tries", BACK_OFF.len() + 1)));
            };
            debug!(failure, "an application did not take the tags; it is told again");
            let wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            if Instant::now() + wait + SHORTEST_TRY > until {
                return (tags, Some(format!("{failure}, and no time was left to try again")));
            }
            sleep(wait).await;
        }
    }

    /// One try; answers the tags that the application says it has not taken.
    async fn send<'t>(&self, tags: &[&'t str], request_id: &str, limit: Duration) -> Result<Vec<&'t str>, Failed> {
        let body = json!({ "tags": tags, "source": SOURCE, "requestId": request_id }).to_string();
        let request = self.http.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let sent = async {
            let mut response = request.send().await?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await?
                && body.len() + chunk.len() <= LONGEST_ANSWER
            {
                body.extend_from_slice(&chunk);
            }
            Ok((status, body))
        };
        match timeout(limit, sent).await {
            Ok(Ok((status, body))) => judge(status).map(|()| not_taken(status, &body, tags)),
            Ok(Err(error)) => Err(Failed::Passing(causes(error))),
            Err(_) => Err(Failed::Passing(format!("no answer within {} ms", limit.as_millis()))),
        }
    }

    /// The address without its query, which may hold a secret.
    fn shown(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

fn judge(status: StatusCode) -> Result<(), Failed> {
    if status.is_success() {
        return Ok(());
    }
    let told = |hint: &str| format!("it answered {}{hint}", status.as_u16());
    Err(match status.as_u16() {
        401 | 403 => Failed::Final(told(": is INTERNAL_API_KEY right?")),
        300..=399 => Failed::Final(told(", a redirect: give the final address")),
        400 | 405 | 413 | 415 | 422 => Failed::Final(told("")),
        // An application that is being deployed may not have its routes for a moment.
        _ => Failed::Passing(told("")),
    })
}

/// A name for a request of our own.
#[must_use]
pub fn request_id() -> String {
    format!("refresh-{:016x}", fastrand::u64(..))
}

/// The tags that an answer of success says were not taken: those that it names, or all, when it says that something failed
/// and not what. A body that is none of JSON says nothing.
fn not_taken<'t>(status: StatusCode, body: &[u8], tags: &[&'t str]) -> Vec<&'t str> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let list = ["failed_tags", "failedTags"].iter().find_map(|name| body.get(name)).filter(|list| !list.is_null());
    let failed: Vec<&'t str> = match list {
        Some(Value::Array(list)) => {
            let name = |one: &Value| Some(one.as_str().or_else(|| one.get("tag")?.as_str())?.to_owned());
            let names: BTreeSet<String> = list.iter().filter_map(name).collect();
            let failed: Vec<&'t str> = tags.iter().copied().filter(|tag| names.contains(*tag)).collect();
            // Names that none of ours has: it is not known which are meant.
            if failed.is_empty() && !list.is_empty() { tags.to_vec() } else { failed }
        }
        // A number of them.
        Some(other) if other.as_u64() == Some(0) => Vec::new(),
        Some(_) => tags.to_vec(),
        None => Vec::new(),
    };
    let says_failed = body.get("success") == Some(&Value::Bool(false));
    let says_part = status == StatusCode::MULTI_STATUS && list.is_none();
    if failed.is_empty() && (says_failed || says_part) { tags.to_vec() } else { failed }
}

fn http(config: &InvalidationConfig) -> Result<reqwest::Client, InvalidateError> {
    let mut headers = HeaderMap::new();
    if let Some(key) = &config.key {
        let header = |text: String| {
            let mut value = HeaderValue::from_str(&text).map_err(|_| InvalidateError::Key)?;
            value.set_sensitive(true);
            Ok::<_, InvalidateError>(value)
        };
        headers.insert(AUTHORIZATION, header(format!("Bearer {}", key.expose_secret()))?);
        headers.insert(X_API_KEY, header(key.expose_secret().to_owned())?);
    }
    Ok(outbound::client()?.default_headers(headers).connect_timeout(CONNECT_TIMEOUT).no_proxy().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fail_again_is_not_tried_again() {
        let is_final = |status: u16| matches!(judge(StatusCode::from_u16(status).unwrap()), Err(Failed::Final(_)));
        for status in [301, 308, 400, 401, 403, 405, 413, 422] {
            assert!(is_final(status), "{status}");
        }
        for status in [404, 408, 429, 500, 502, 503, 504] {
            assert!(!is_final(status), "{status}");
        }
        assert!(judge(StatusCode::NO_CONTENT).is_ok());
    }

    #[test]
    fn an_answer_of_success_may_name_tags_that_were_not_taken() {
        let not_taken = |status: u16, body: &str| {
            not_taken(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &["a", "b"]).join(" ")
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
            assert_eq!(not_taken(status, body), failed, "{status} {body}");
        }
    }

    #[test]
    fn what_was_told_adds_up_and_the_last_failure_is_kept() {
        let mut sum = Invalidated { tags: 1, requests: 1, lost: 0, failure: Some("first".to_owned()) };
        sum.add(Invalidated { tags: 2, requests: 3, lost: 4, failure: None });
        assert_eq!((sum.tags, sum.requests, sum.lost, sum.failure.as_deref()), (3, 4, 4, Some("first")));
    }
}
