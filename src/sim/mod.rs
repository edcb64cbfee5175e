//! The simulator: a Clash of Clans API that behaves, and misbehaves, like the real one. Bench, demo and test double.
//!
//! It serves real HTTP on a loopback port and touches nothing else. It generates a seeded world (or replays recorded
//! responses), lets it evolve with a clock, keeps shared copies for their `max-age`, checks tokens, counts calls per
//! token in sliding seconds, and misbehaves on request.
//!
//! ```
//! # use refresh_worker::sim::{Misbehaviour, Rule, SimConfig, Simulator};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let simulator = Simulator::start(SimConfig { seed: 7, ..SimConfig::default() }).await?;
//! let clan = simulator.world().clan_tags()[0].clone();
//! println!("GET {}/clans/{}", simulator.base_url(), clan.path_segment());
//! simulator.misbehave(Rule::new(Misbehaviour::Status502).on_tag(clan.as_str()).times(2));
//! assert_eq!(simulator.total_calls(), 0);
//! # Ok(()) }
//! ```
//!
//! # Control over HTTP
//!
//! A simulator in a process of its own is controlled under `/_sim/`; these calls need no token and are not counted.
//!
//! | call | does |
//! |---|---|
//! | `POST /_sim/misbehave` | adds a [`Rule`], such as `{"matches": {"endpoint": "clan"}, "what": "status_502", "times": 2}`; returns the rules in effect |
//! | `GET /_sim/misbehave` | the rules in effect |
//! | `DELETE /_sim/misbehave` | removes all rules and lets held calls go on |
//! | `POST /_sim/release` | lets held calls go on and removes the rules that hold |
//! | `POST /_sim/maintenance` | `{"on": true}` or `{"on": false}`: every response is 503 |
//! | `GET /_sim/calls` | totals by token and by status, and each token's busiest second |
//! | `GET /_sim/world` | the tags that can be requested, by kind ([`Census`]) |
//! | `GET /_sim/portal` | the developer portal: address of all clients, accounts with their keys, and the requests so far |
//! | `POST /_sim/portal/account` | opens an account: `{"email": "a@x.com", "password": "p"}` |
//! | `POST /_sim/portal/key` | makes a key as a person would: `{"email": "a@x.com", "name": "n", "cidr": "203.0.113.7"}` |
//! | `DELETE /_sim/portal/key` | takes one away: `{"key": "eyJ…"}` |
//! | `POST /_sim/portal/address` | moves all clients: `{"address": "198.51.100.4"}` |
//! | `POST /_sim/portal/trouble` | `{"what": "temporary"}`, `"down"`, `"nonsense"`, `"cannot_create"`, `"cannot_revoke"`, `"stalled"`, or `null` for none |
//!
//! `what` is one of `"invalid_ip"`, `"invalid_authorization"`, `"address_ban"`, `"other_forbidden"`,
//! `"private_war_log"`, `"not_found"`, `"bad_request"`, `"status_500"`, `"unknown_exception"`, `"status_502"`,
//! `"status_504"`, `"maintenance"`, `"maintenance_html"`, `"hold_until_released"`, `"cut_before_headers"`,
//! `"cut_mid_body"`, `"stall_mid_body"`, `"truncated"`, `"wrong_json"`, `"not_json"`, `"wrong_tag"`, `"deep_json"`,
//! `"lying_content_type"`, `{"throttled": {"retry_after": 5}}`, `{"slow_ms": 250}`, `{"huge_body": 1000000}`.
//! `matches` may have `path` (a part of it), `endpoint` (`clan`, `player`, `currentwar`, `leaguegroup`, `leaguewar`,
//! `warlog`, `raidseasons`), `tag` and `token`; `after` spares that many matching calls first. A body is sent with
//! `content-type: application/json`.

mod answer;
mod cache;
mod calls;
mod cast;
mod census;
mod clans;
mod connection;
mod control;
mod damage;
mod documents;
mod evolve;
mod fixtures;
mod game;
mod league;
mod logs;
mod misbehave;
mod names;
mod players;
mod portal;
mod request;
mod server;
mod shared;
mod source;
mod wars;
mod world;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use url::Url;

pub use self::{
    calls::{Call, CallSummary, TokenSummary},
    census::Census,
    fixtures::FixturesError,
    misbehave::{Matches, Misbehaviour, Rule},
    portal::{MAX_KEYS, PortalKey, PortalTrouble},
    request::Endpoint,
};
use self::{
    connection::{CuttableListener, Line},
    shared::Shared,
    source::Source,
};
use crate::clock::{Clock, SystemClock};

/// The settings of a simulator.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The same seed makes the same world.
    pub seed: u64,
    /// The number of clans. Every kind of clan and war is there from 16 on; players follow, about 25 a clan.
    pub clans: usize,
    /// The tokens accepted; with none given, any that is not empty.
    pub tokens: Vec<String>,
    /// The hidden limit: a token's call gets a 429 when the second before it, itself included, has seen more
    /// calls of that token than this. `None` only counts.
    pub rate_limit: Option<u32>,
    /// The shortest time of every response.
    pub latency: Duration,
    /// Serves the recorded responses of this folder, which a `manifest.json` describes, instead of a generated world.
    pub fixtures: Option<PathBuf>,
    /// The time of the world and of its cached copies. Delays and the book of calls keep to real time.
    pub clock: Arc<dyn Clock>,
    /// Others ask for the same objects, as in reality: the first copy of each is part of the way through its `max-age`.
    pub asked_by_others: bool,
    /// The speed of the world: 1 = as in reality, 60 = a war of two days in 48 minutes, 0 = frozen.
    pub evolve: f64,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            clans: 48,
            tokens: Vec::new(),
            rate_limit: None,
            latency: Duration::ZERO,
            fixtures: None,
            clock: Arc::new(SystemClock),
            asked_by_others: false,
            evolve: 0.0,
        }
    }
}

/// The reason for which there is no simulator.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error("cannot bind the simulator to {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("cannot start the simulator's thread")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Fixtures(#[from] FixturesError),
}

/// A running simulator. Dropping it closes the port; responses under way are finished.
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    server: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound or the recorded responses cannot be read.
    pub async fn start(config: SimConfig) -> Result<Self, SimError> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), config).await
    }

    /// Starts on a thread of its own, as the real API is a machine of its own: what it sees of our rate does not depend on
    /// what we are busy with. The thread lives as long as the process.
    ///
    /// # Errors
    /// As [`Simulator::start`], and when no thread can be started.
    pub fn start_apart(config: SimConfig) -> Result<Self, SimError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    // Nobody receives any more when the starting thread has ended already.
                    let _ = sender.send(Self::start(config).await);
                    // The simulator lives on this runtime, so the runtime must not end.
                    std::future::pending::<()>().await;
                }),
                Err(error) => drop(sender.send(Err(SimError::Thread(error)))),
            }
        };
        std::thread::Builder::new().name("simulator".to_owned()).spawn(serve).map_err(SimError::Thread)?;
        receiver.recv().map_err(|error| SimError::Thread(io::Error::other(error)))?
    }

    /// Starts on an address of your choice, on the current tokio runtime.
    ///
    /// # Errors
    /// As [`Simulator::start`].
    pub async fn start_on(address: SocketAddr, config: SimConfig) -> Result<Self, SimError> {
        // The source first: a folder that cannot be read must not leave a port bound.
        let source = Source::open(&config)?;
        let bound = TcpListener::bind(address).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| SimError::Bind { address, source })?;
        let shared = Arc::new(Shared::new(config, source));
        let (stop, mut stopped) = watch::channel(false);
        let service = server::router(shared.clone()).into_make_service_with_connect_info::<Line>();
        let server = axum::serve(CuttableListener(listener), service).with_graceful_shutdown(async move {
            // An error means that the simulator was dropped, which is the same order.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        let server = tokio::spawn(async move {
            // `axum::serve` never ends in an error.
            let _ = server.await;
        });
        Ok(Self { shared, address, stop, server: Some(server) })
    }

    /// `http://127.0.0.1:PORT/v1`
    ///
    /// # Panics
    /// Never: an address and a path make a URL.
    pub fn base_url(&self) -> Url {
        Url::parse(&format!("http://{}/v1", self.address)).expect("an address and a path make a URL")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The tags that can be requested, in the present state of the world.
    pub fn world(&self) -> Census {
        self.shared.content().source.census()
    }

    /// With recorded responses: where there are several of one object, serves the next, as if time had passed. False
    /// when there was none.
    pub fn turn_page(&self) -> bool {
        let mut content = self.shared.content();
        // A shared copy would hide the new page.
        content.copies.clear();
        content.source.turn_page()
    }

    /// Forgets all shared copies, as if every `max-age` were over.
    pub fn expire_copies(&self) {
        self.shared.content().copies.clear();
    }

    /// The address of the developer portal: `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// Never: an address makes a URL.
    pub fn portal_url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).expect("an address makes a URL")
    }

    /// Opens an account of the portal. From the first one on the API accepts the keys of accounts, and those of
    /// [`SimConfig::tokens`].
    pub fn open_account(&self, email: &str, password: &str) {
        self.shared.portal.open_account(email, password);
    }

    /// Makes a key in an account, as a person would do in a browser.
    pub fn put_key(&self, email: &str, name: &str, cidr: &str) -> PortalKey {
        self.shared.portal.put_key(email, name, cidr)
    }

    /// Takes a key away, as a person would do in a browser.
    pub fn revoke_by_hand(&self, token: &str) {
        self.shared.portal.revoke_by_hand(token);
    }

    /// The keys of an account.
    pub fn portal_keys(&self, email: &str) -> Vec<PortalKey> {
        self.shared.portal.keys(email)
    }

    /// From now on every client comes from this address: keys of the portal that are bound to another one are refused.
    pub fn move_to(&self, address: &str) {
        self.shared.portal.move_to(address);
    }

    pub fn portal_trouble(&self, trouble: Option<PortalTrouble>) {
        self.shared.portal.trouble(trouble);
    }

    /// Waits until this many logins were left without a response (`PortalTrouble::Stalled`).
    pub async fn wait_until_portal_stalls(&self, count: usize) {
        self.shared.portal.wait_until_stalled(count).await;
    }

    /// The requests to the portal, in order: `login`, `list`, `create NAME`, `revoke NAME`.
    pub fn portal_acts(&self) -> Vec<String> {
        self.shared.portal.acts()
    }

    /// Everything of the portal that nobody may print: passwords, keys, sessions, temporary tokens.
    pub fn portal_secrets(&self) -> Vec<String> {
        self.shared.portal.secrets()
    }

    pub fn misbehave(&self, rule: Rule) {
        self.shared.rules.add(rule);
    }

    /// Removes every rule and lets held calls go on.
    pub fn clear(&self) {
        self.shared.rules.clear();
    }

    /// While on, every response is 503.
    pub fn maintenance(&self, on: bool) {
        self.shared.set_maintenance(on);
    }

    /// The number of calls at the barrier ([`Misbehaviour::HoldUntilReleased`]) now.
    pub fn held(&self) -> usize {
        self.shared.rules.held()
    }

    /// Waits until `count` calls stand at the barrier at once.
    pub async fn wait_until_held(&self, count: usize) {
        self.shared.rules.wait_until_held(count).await;
    }

    /// Waits until no call stands at the barrier; clients that give up leave it.
    pub async fn wait_until_none_is_held(&self) {
        self.shared.rules.wait_until_none_is_held().await;
    }

    /// Opens the barrier: held calls get their responses, and later ones are not held.
    pub fn release(&self) {
        self.shared.rules.release();
    }

    /// All calls in the order in which they were read (at least the last million).
    pub fn calls(&self) -> Vec<Call> {
        self.shared.book.all()
    }

    /// The calls with this in their path, such as `/players/` or `%232PP/currentwar`.
    pub fn calls_to(&self, path_part: &str) -> Vec<Call> {
        self.shared.book.to(path_part)
    }

    pub fn total_calls(&self) -> u64 {
        self.shared.book.total()
    }

    pub fn call_summary(&self) -> CallSummary {
        self.shared.book.summary()
    }

    /// Waits until `count` calls have arrived since the start.
    pub async fn wait_for_calls(&self, count: u64) {
        self.shared.book.wait_for(count).await;
    }

    /// The most calls of this token within any window `[t, t + 1 s)`, exact over their arrivals.
    pub fn most_in_any_second(&self, token: &str) -> usize {
        self.shared.book.most_in_any_second(token)
    }

    /// Closes the port and waits until the responses under way, held ones included, are finished.
    pub async fn stop(mut self) {
        self.shared.rules.clear();
        self.stop.send_replace(true);
        if let Some(server) = self.server.take() {
            // The port is closing either way, so an error of the server changes nothing.
            let _ = server.await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.rules.clear();
        self.stop.send_replace(true);
    }
}
