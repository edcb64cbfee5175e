//! The common settings of our HTTP clients, whatever server they talk to. A leaf: it opens no connection by itself.

use std::{error::Error as _, sync::Arc};

use reqwest::{ClientBuilder, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::certificates::{self, Trust};

/// Builds a client for servers of others, with the certificates in force.
///
/// # Errors
/// When TLS cannot be prepared.
pub fn client() -> Result<ClientBuilder, rustls::Error> {
    Ok(with_tls(Trust::in_force().https()?))
}

/// Builds a client for this machine's own loopback. It trusts no certificate and uses no proxy, so that it works before any
/// configuration is in force.
///
/// # Errors
/// When TLS cannot be prepared.
pub fn local_client() -> Result<ClientBuilder, rustls::Error> {
    // Nothing here is TLS, but without a provider the builder would look for one of the process.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    Ok(with_tls(tls).no_proxy())
}

/// A client with our user agent, without redirects and retries.
fn with_tls(tls: ClientConfig) -> ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("coc-refresh-worker/", env!("CARGO_PKG_VERSION")))
        // A redirect would carry the key to another host.
        .redirect(redirect::Policy::none())
        // A hidden retry would be a call that the limiter does not count.
        .retry(reqwest::retry::never())
}

/// An error with its causes on one line, without the URL.
#[must_use]
pub fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    match certificates::advice(&text) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}
