//! Cache invalidation: tells an application by HTTP which of its cached pages are stale.
//!
//! Talks to that application's one address and to nothing else. What is told are tags, in batches. A failure is tried again,
//! then reported; it never fails what was done before.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::ExposeSecret as _;
use serde::Serialize;
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

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum InvalidateError {
    #[error("prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("prepare HTTP: {0}")]
    Http(#[from] reqwest::Error),
    #[error("use INTERNAL_API_KEY: a header cannot carry it")]
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

/// Why one try failed.
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
        let all: Vec<&str> = tags.iter().map(String::as_str).collect();
        let mut told = Invalidated::default();
        for batch in all.chunks(BATCH) {
            match self.tell(batch, until, &mut told.requests).await {
                Ok(()) => told.tags += batch.len() as u64,
                Err(failure) => {
                    told.lost = all.len() as u64 - told.tags;
                    told.failure = Some(format!("tell {} what is stale: {failure}", self.shown()));
                    break;
                }
            }
        }
        told
    }

    /// One batch, with at most three tries.
    async fn tell(&self, tags: &[&str], until: Instant, requests: &mut u64) -> Result<(), String> {
        let mut waits = BACK_OFF.iter();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left < SHORTEST_TRY {
                return Err("no time was left".to_owned());
            }
            *requests += 1;
            let failure = match self.send(tags, left.min(TRY_TIME)).await {
                Ok(()) => return Ok(()),
                Err(Failed::Final(failure)) => return Err(failure),
                Err(Failed::Passing(failure)) => failure,
            };
            let Some(wait) = waits.next() else {
                return Err(format!("{failure}, at the last of {} tries", BACK_OFF.len() + 1));
            };
            debug!(failure, "an application did not take the tags; it is told again");
            let wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            if Instant::now() + wait + SHORTEST_TRY > until {
                return Err(format!("{failure}, and no time was left to try again"));
            }
            sleep(wait).await;
        }
    }

    async fn send(&self, tags: &[&str], limit: Duration) -> Result<(), Failed> {
        let body = serde_json::json!({ "tags": tags }).to_string();
        let request = self.http.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        match timeout(limit, request.send()).await {
            Ok(Ok(response)) => judge(response.status()),
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
    fn what_was_told_adds_up_and_the_last_failure_is_kept() {
        let mut sum = Invalidated { tags: 1, requests: 1, lost: 0, failure: Some("first".to_owned()) };
        sum.add(Invalidated { tags: 2, requests: 3, lost: 4, failure: None });
        assert_eq!((sum.tags, sum.requests, sum.lost, sum.failure.as_deref()), (3, 4, 4, Some("first")));
    }
}
