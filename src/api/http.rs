//! The common part of the HTTP clients for the API and for the developer portal. Opens no connection.

use std::time::Duration;

use reqwest::{
    ClientBuilder,
    header::{ACCEPT, HeaderMap, HeaderValue},
};
use url::Url;

use crate::outbound;

/// Half of the time of a call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that nobody used for this long are closed: the other side closes them by then, too.
pub(super) const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason for which there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the API's base URL ({host}) cannot be used: {detail}")]
    BaseUrl { host: String, detail: &'static str },
    #[error("cannot prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot prepare HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// Checks the base URL, and builds a client for it.
pub(super) fn builder(base_url: &Url) -> Result<ClientBuilder, ApiError> {
    check(base_url)?;
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let builder = outbound::client()?
        .default_headers(headers)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT);
    // A proxy from the environment does not reach our own loopback.
    Ok(if is_loopback(base_url) { builder.no_proxy() } else { builder })
}

fn check(base_url: &Url) -> Result<(), ApiError> {
    let refuse = |detail| Err(ApiError::BaseUrl { host: base_url.host_str().unwrap_or("no host").to_owned(), detail });
    match base_url {
        url if !matches!(url.scheme(), "http" | "https") => refuse("it has to begin with https:// or http://"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_base_url_hides_its_password() {
        let refused = |url: &str| builder(&url.parse().unwrap()).unwrap_err().to_string();
        insta::assert_snapshot!(
            ["ftp://h/v1", "https://user:hidden@h/v1", "https://h/v1?realtime=true", "data:x"].map(refused).join("\n"),
            @r"
        the API's base URL (h) cannot be used: it has to begin with https:// or http://
        the API's base URL (h) cannot be used: it must not hold a user or password
        the API's base URL (h) cannot be used: it must end with its path
        the API's base URL (no host) cannot be used: it has to begin with https:// or http://
        "
        );
    }
}
