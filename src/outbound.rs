//! What our HTTP clients have in common, whoever they talk to: TLS, which is prepared once, and manners. A leaf: knows none
//! of the rooms, and opens no connection by itself.

use std::{
    error::Error as _,
    sync::{Arc, OnceLock},
};

use reqwest::{ClientBuilder, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// A client that names us, follows no redirect (it would carry a key elsewhere) and repeats nothing by itself (each would be
/// a call that nobody counts).
///
/// # Errors
/// When TLS cannot be prepared.
pub fn client() -> Result<ClientBuilder, rustls::Error> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .user_agent(concat!("coc-refresh-worker/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never());
    Ok(builder)
}

/// Mozilla's roots, built in: loading the system's costs 3 ms at every cold start. A copy shares them.
fn tls() -> Result<ClientConfig, rustls::Error> {
    static TLS: OnceLock<ClientConfig> = OnceLock::new();
    if let Some(config) = TLS.get() {
        return Ok(config.clone());
    }
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TLS.get_or_init(|| config).clone())
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
    text
}
