//! Responses before they become HTTP: status, body, and the lifetime of a copy. The error bodies are as recorded.

use std::{io::Write, sync::OnceLock, time::Duration};

use axum::body::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::request::{Asked, Endpoint};

pub(super) const JSON_UTF8: &str = "application/json; charset=utf-8";
/// Errors come without a charset.
pub(super) const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html";

/// `Cache-Control`, in the two spellings that the service uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheControl {
    None,
    /// `max-age=N`
    MaxAge(Duration),
    /// `public max-age=N`, without a comma.
    Public(Duration),
}

impl CacheControl {
    pub(super) fn duration(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::MaxAge(age) | Self::Public(age) => Some(age),
        }
    }

    /// The header when only `left` of the age is left. A fraction of a second counts as a whole one.
    pub(super) fn header(self, left: Duration) -> Option<String> {
        let seconds = left.as_millis().div_ceil(1000);
        match self {
            Self::None => None,
            Self::MaxAge(_) => Some(format!("max-age={seconds}")),
            Self::Public(_) => Some(format!("public max-age={seconds}")),
        }
    }
}

/// A response of the service.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) cache_control: CacheControl,
    pub(super) retry_after: Option<u32>,
    pub(super) body: Bytes,
    gzipped: OnceLock<Bytes>,
}

impl Answer {
    pub(super) fn new(
        status: u16,
        content_type: &'static str,
        cache_control: CacheControl,
        body: impl Into<Bytes>,
    ) -> Self {
        Self { status, content_type, cache_control, retry_after: None, body: body.into(), gzipped: OnceLock::new() }
    }

    /// 200 with a document.
    pub(super) fn found(body: Vec<u8>, max_age_seconds: u64) -> Self {
        Self::new(200, JSON_UTF8, CacheControl::MaxAge(Duration::from_secs(max_age_seconds)), body)
    }

    fn uncached_error(status: u16, body: &'static str) -> Self {
        Self::new(status, JSON, CacheControl::None, body)
    }

    pub(super) fn bad_request() -> Self {
        let body = r#"{"reason":"badRequest","message":"Unknown value for parameter tag"}"#;
        Self::new(400, JSON, CacheControl::Public(Duration::from_secs(600)), body)
    }

    /// The private war log. It has no message, which distinguishes it from a bad token.
    pub(super) fn private_war_log(asked: &Asked) -> Self {
        let max_age_seconds = if asked.endpoint == Endpoint::WarLog { 600 } else { 120 };
        let cache_control = CacheControl::MaxAge(Duration::from_secs(max_age_seconds));
        Self::new(403, JSON, cache_control, r#"{"reason":"accessDenied"}"#)
    }

    pub(super) fn invalid_authorization() -> Self {
        Self::uncached_error(403, r#"{"reason":"accessDenied","message":"Invalid authorization"}"#)
    }

    pub(super) fn invalid_ip(address: &str) -> Self {
        let body = format!(
            r#"{{"reason":"accessDenied.invalidIp","message":"Invalid authorization: API key does not allow access from IP {address}"}}"#
        );
        Self::new(403, JSON, CacheControl::None, body)
    }

    pub(super) fn other_forbidden() -> Self {
        Self::uncached_error(403, r#"{"reason":"accessDenied.unforeseen","message":"Access denied"}"#)
    }

    pub(super) fn address_ban() -> Self {
        Self::new(403, HTML, CacheControl::None, html("403 Forbidden"))
    }

    /// Not found: with a message for players, without one for everything else.
    pub(super) fn not_found(asked: &Asked) -> Self {
        let body = match asked.tag.as_ref().filter(|_| asked.endpoint == Endpoint::Player) {
            Some(tag) => format!(r#"{{"reason":"notFound","message":"Not found with tag {}"}}"#, tag.as_str()),
            None => r#"{"reason":"notFound"}"#.to_owned(),
        };
        Self::new(404, JSON, CacheControl::Public(Duration::from_secs(600)), body)
    }

    pub(super) fn throttled(retry_after: Option<u32>) -> Self {
        let body = r#"{"reason":"requestThrottled","message":"Request was throttled because amount of requests was above the threshold defined for the used API token."}"#;
        Self { retry_after, ..Self::uncached_error(429, body) }
    }

    pub(super) fn unknown_exception() -> Self {
        Self::uncached_error(
            500,
            r#"{"reason":"unknownException","message":"Unknown error happened when handling the request."}"#,
        )
    }

    pub(super) fn maintenance() -> Self {
        let body = r#"{"reason":"inMaintenance","message":"API is currently in maintenance, please come back later"}"#;
        Self::uncached_error(503, body)
    }

    pub(super) fn html_page(status: u16) -> Self {
        let title = match status {
            500 => "500 Internal Server Error",
            502 => "502 Bad Gateway",
            503 => "503 Service Temporarily Unavailable",
            _ => "504 Gateway Time-out",
        };
        Self::new(status, HTML, CacheControl::None, html(title))
    }

    /// The body as gzip, compressed once.
    pub(super) fn gzipped(&self) -> Bytes {
        self.gzipped.get_or_init(|| gzip(&self.body)).clone()
    }
}

pub(super) fn html(title: &str) -> String {
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    )
}

fn gzip(body: &[u8]) -> Bytes {
    // The simulator shares the machine with the program it tests. Without optimisation the compressor would be the most
    // expensive part of a test, so debug builds only wrap.
    let level = if cfg!(debug_assertions) { Compression::none() } else { Compression::fast() };
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), level);
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    Bytes::from(written.expect("writing to memory does not fail"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_counts_down_in_both_spellings() {
        let left = Duration::from_millis(90_100);
        assert_eq!(CacheControl::MaxAge(Duration::from_secs(120)).header(left).unwrap(), "max-age=91");
        assert_eq!(CacheControl::Public(Duration::from_secs(600)).header(left).unwrap(), "public max-age=91");
        assert_eq!(CacheControl::None.header(left), None);
    }
}
