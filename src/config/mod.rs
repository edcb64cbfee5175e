//! Configuration: plain structs by concern. A leaf.
//!
//! [`mod@env`] reads and validates every environment variable at once, so that an operator sees all problems together;
//! [`variables`] is the table of them that the documents are made from; [`secrets`] reads those secrets that are kept
//! elsewhere. No other module reads the environment. Secrets are [`SecretString`]s and print as nothing.

mod accounts;
mod after;
pub(crate) mod database_url;
mod effective;
pub mod env;
pub(crate) mod redis_url;
pub mod secrets;
mod span;
pub mod variables;

use std::{net::IpAddr, num::NonZeroU64, path::PathBuf, time::Duration};

use secrecy::SecretString;
use url::Url;

pub use after::{AfterConfig, InvalidationConfig, StatsConfig, StatsFunction, ViewConfig};
pub use effective::Effective;
pub use env::{ConfigErrors, Role};
pub use span::read_span;
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
    pub after: AfterConfig,
    pub telemetry: TelemetryConfig,
}

/// The queue's server: `REDIS_URL`, `REDIS_CLUSTER`, `QUEUE_NAMESPACE`.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://`, `rediss://` or `unix://`, with user, password and database number.
    pub url: SecretString,
    /// The server belongs to a cluster.
    pub cluster: bool,
    /// Names our own keys, as in `{refresh}:ready`.
    pub namespace: String,
}

/// Where backups of the queue go: `QUEUE_BACKUP_DIR`, `QUEUE_BACKUP_RETENTION_DAYS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupConfig {
    pub folder: Option<PathBuf>,
    /// Older ones are deleted by the next one.
    pub retention: Duration,
}

/// The store: `DATABASE_URL` (or `RDS_PROXY_ENDPOINT` and its companions), `DB_POOL_MAX`, `DB_STATEMENT_CACHE`, `AUTO_MIGRATE`.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    pub url: SecretString,
    pub max_connections: u32,
    /// Prepared statements kept per connection; 0 for poolers that share connections between transactions.
    pub statement_cache: usize,
    pub auto_migrate: bool,
}

/// The upstream: `COC_BASE_URL`, `COC_API_TOKEN(S)`, `COC_REQS_PER_SEC`, `COC_MAX_REQS_PER_SEC`,
/// `COC_REQS_PER_DAY`, `KEYS_PER_RUN`.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// With the version: `https://api.clashofclans.com/v1`.
    pub base_url: Url,
    pub tokens: Vec<SecretString>,
    /// Calls a second and key, the cap already applied.
    pub reqs_per_sec: u32,
    /// How many keys one run may hold; `None` is all.
    pub keys_per_run: Option<usize>,
    /// Calls a day (UTC) over all keys and runs; `None` is no limit.
    pub reqs_per_day: Option<NonZeroU64>,
    /// Keys come from the developer portal, too.
    pub portal: Option<PortalConfig>,
    /// The largest answer that is read, in bytes and after decompression: `MAX_BODY_BYTES`.
    pub max_body: usize,
}

/// The developer portal: `COC_EMAIL`, `COC_PASSWORD`, `COC_ACCOUNTS`, `COC_KEY_NAME`, `COC_KEY_COUNT`, `EGRESS_IPS`, `COC_PORTAL_URL`.
#[derive(Clone, Debug)]
pub struct PortalConfig {
    pub url: Url,
    pub accounts: Vec<PortalAccount>,
    /// Keys of this name are ours; others are never touched.
    pub key_name: String,
    /// Keys in each account, 1 to 10.
    pub key_count: usize,
    /// Our own addresses; empty when the portal is to say which one it sees.
    pub egress_ips: Vec<IpAddr>,
}

/// One account of the portal.
#[derive(Clone, Debug)]
pub struct PortalAccount {
    /// `COC_EMAIL`, `COC_EMAIL_2` …, `COC_ACCOUNTS[1]` …: how it is called in messages, which never show the address.
    pub variable: String,
    pub email: SecretString,
    pub password: SecretString,
}

/// One run: `LEASE_SECONDS`, `MAX_ATTEMPTS`, `DEADLINE_BUFFER_MS`, `MAX_RUNTIME_SECONDS`, `REFRESH_PAUSED`, and what
/// follows its commits.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub lease: Duration,
    pub max_attempts: u32,
    pub deadline_buffer: Duration,
    pub max_runtime: Option<Duration>,
    /// Runs stop at once and say why.
    pub paused: Option<Pause>,
    pub follow_ups: FollowUpConfig,
    pub events: Option<EventsConfig>,
    /// `CACHE_KEY_TEMPLATES`: the keys of readers that are deleted when what they hold is old.
    pub cache_key_templates: Vec<String>,
}

/// Where changes are told: `REFRESH_EVENTS_STREAM`, `REFRESH_EVENTS_MAXLEN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// The name of a stream in the queue's Redis.
    pub stream: String,
    /// About so many of the newest entries are kept.
    pub most: u64,
}

/// What is asked for because of an answer: `FOLLOWUP_WARS`, `FOLLOWUP_PLAYERS_PER_CLAN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowUpConfig {
    /// Wars are looked at again when there will be news.
    pub wars: bool,
    /// Of a refreshed clan so many members at most, whose documents are old; 0 is none.
    pub players_per_clan: usize,
}

impl FollowUpConfig {
    /// Nothing follows.
    pub const NONE: Self = Self { wars: false, players_per_clan: 0 };
}

impl Default for FollowUpConfig {
    fn default() -> Self {
        Self { wars: true, players_per_clan: 5 }
    }
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
            follow_ups: FollowUpConfig::default(),
            events: None,
            cache_key_templates: Vec::new(),
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { environment: "development".to_owned(), log_level: "info".to_owned() }
    }
}
