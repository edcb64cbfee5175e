//! The simulator, called over HTTP as the worker calls it.
#![cfg(feature = "embedded")]

mod control;
mod fidelity;
mod fixtures;
mod misbehaviour;
mod service;
mod world;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Once,
    time::Duration,
};

use refresh_worker::{
    model::Tag,
    sim::{SimConfig, Simulator},
};
use reqwest::{Client, Response, Url};
use serde_json::Value;

/// A simulator and its caller.
struct Asker {
    simulator: Simulator,
    client: Client,
    token: &'static str,
}

impl Asker {
    async fn start(config: SimConfig) -> Self {
        // Another test may have installed it before us.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let roots = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::builder().use_preconfigured_tls(roots).timeout(Duration::from_secs(20)).build().unwrap();
        Self { simulator: Simulator::start(config).await.unwrap(), client, token: "key" }
    }

    async fn default() -> Self {
        Self::start(SimConfig::default()).await
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.simulator.base_url())).unwrap()
    }

    async fn try_get(&self, path: &str) -> reqwest::Result<Response> {
        self.client.get(self.url(path)).bearer_auth(self.token).send().await
    }

    async fn get(&self, path: &str) -> Response {
        self.try_get(path).await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    async fn status(&self, path: &str) -> u16 {
        self.get(path).await.status().as_u16()
    }
}

fn clan(tag: &Tag) -> String {
    format!("/clans/{}", tag.path_segment())
}

fn player(tag: &Tag) -> String {
    format!("/players/{}", tag.path_segment())
}

fn current_war(tag: &Tag) -> String {
    format!("/clans/{}/currentwar", tag.path_segment())
}

fn league_group(tag: &Tag) -> String {
    format!("/clans/{}/currentwar/leaguegroup", tag.path_segment())
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// The tag of a document or of a part of it.
fn tag_of(value: &Value) -> Tag {
    value["tag"].as_str().unwrap().parse().unwrap()
}

/// The folder of recorded responses. Without one it prints a notice once, past the capture of test output.
fn recordings() -> Option<PathBuf> {
    static SAID: Once = Once::new();
    let folder = std::env::var_os("COC_FIXTURES_DIR").map(PathBuf::from);
    if folder.is_none() {
        let line = "COC_FIXTURES_DIR is not set: the simulator is not compared with recorded responses\n";
        SAID.call_once(|| io::stderr().write_all(line.as_bytes()).unwrap());
    }
    folder
}
