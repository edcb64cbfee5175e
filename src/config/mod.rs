//! Configuration: plain structs by concern. A leaf.
//!
//! [`mod@env`] reads and validates every environment variable at once, so that an operator sees all problems together;
//! [`variables`] is the table of them that the documents are made from. No other module reads the environment. Secrets are [`SecretString`]s and print as nothing.

mod effective;
pub mod env;
pub mod variables;

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

pub use effective::Effective;
pub use env::{ConfigErrors, Role};
pub use variables::{VARIABLES, Variable};

/// The most keys' calls a second that is ever used without `COC_MAX_REQS_PER_SEC`: the API's own limit for a key.
pub const DEFAULT_REQS_PER_SEC: u32 = 30;

/// Everything a run needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub redis: RedisConfig,
    pub database: DatabaseConfig,
    pub api: ApiConfig,
    pub worker: WorkerConfig,
    pub telemetry: TelemetryConfig,
}

/// The queue's server: `REDIS_URL`, `QUEUE_NAMESPACE`.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://`, `rediss://` or `unix://`, with user, password and database number.
    pub url: SecretString,
    /// Names our own keys, as in `{refresh}:ready`.
    pub namespace: String,
}

/// The store: `DATABASE_URL`, `DB_POOL_MAX`, `DB_STATEMENT_CACHE`, `AUTO_MIGRATE`.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    pub url: SecretString,
    pub max_connections: u32,
    /// Prepared statements kept per connection; 0 for poolers that share connections between transactions.
    pub statement_cache: usize,
    pub auto_migrate: bool,
}

/// The upstream: `COC_BASE_URL`, `COC_API_TOKEN(S)`, `COC_REQS_PER_SEC`, `COC_MAX_REQS_PER_SEC`, `KEYS_PER_RUN`.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// With the version: `https://api.clashofclans.com/v1`.
    pub base_url: Url,
    pub tokens: Vec<SecretString>,
    /// Calls a second and key, the cap already applied.
    pub reqs_per_sec: u32,
    /// How many keys one run may hold; `None` is all.
    pub keys_per_run: Option<usize>,
}

/// One run: `LEASE_SECONDS`, `MAX_ATTEMPTS`, `DEADLINE_BUFFER_MS`, `MAX_RUNTIME_SECONDS`, `REFRESH_PAUSED`.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub lease: Duration,
    pub max_attempts: u32,
    pub deadline_buffer: Duration,
    pub max_runtime: Option<Duration>,
    /// Runs stop at once and say why.
    pub paused: Option<Pause>,
}

/// Which switch stops the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// `REFRESH_PAUSED=true`.
    RefreshPaused,
    /// `DISABLE_AUTO_REFRESH_QUEUE=true`: meant for the producers, obeyed with a warning.
    DisableAutoRefreshQueue,
}

/// Logs and metrics: `ENVIRONMENT`, `LOG_LEVEL`.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    pub environment: String,
    /// A level or a filter in `tracing`'s syntax.
    pub log_level: String,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            max_attempts: 3,
            deadline_buffer: Duration::from_millis(5000),
            max_runtime: None,
            paused: None,
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { environment: "development".to_owned(), log_level: "info".to_owned() }
    }
}
