//! The common settings of the HTTP clients of `api` and `derive`. A leaf: it opens no connection by itself.
//!
//! `config::secrets` has a client of its own, for plain HTTP to the secrets extension on localhost.

use std::error::Error as _;

use reqwest::{ClientBuilder, redirect};

use crate::certificates::{self, Trust};

/// A client with our user agent, without redirects and retries.
///
/// # Errors
/// When TLS cannot be prepared.
pub fn client() -> Result<ClientBuilder, rustls::Error> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(Trust::in_force().https()?)
        .user_agent(concat!("coc-refresh-worker/", env!("CARGO_PKG_VERSION")))
        // A redirect would carry the key to another host.
        .redirect(redirect::Policy::none())
        // A hidden retry would be a call that the limiter does not count.
        .retry(reqwest::retry::never());
    Ok(builder)
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
