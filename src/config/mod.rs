//! The configuration: plain structs by concern.
//!
//! [`mod@env`] reads and validates all environment variables, and reports every problem at once. [`variables`] is their table,
//! from which the documents are generated. [`secrets`] reads secrets that are kept elsewhere. No other module reads the
//! environment. Secrets are [`SecretString`]s, which never print their value.

mod accounts;
mod address;
mod after;
pub(crate) mod database_url;
mod effective;
pub mod env;
mod problems;
pub(crate) mod redis_url;
pub mod secrets;
mod span;
pub mod variables;

use std::{net::IpAddr, num::NonZeroU64, path::PathBuf, time::Duration};

use secrecy::SecretString;
use url::Url;

use crate::planner::Teaching;

pub use after::{AfterConfig, InvalidationConfig, StatsConfig, StatsFunction, ViewConfig};
pub use effective::Effective;
pub use env::Role;
pub use problems::{ConfigErrors, Problem};
pub use span::read_span;

pub use variables::{VARIABLES, Variable};

/// Calls per second and key without other settings: the limit of the API for an ordinary key.
pub const DEFAULT_REQS_PER_SEC: u32 = 30;

/// The whole configuration of a run.
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

/// Backups of the queue: `QUEUE_BACKUP_DIR`, `QUEUE_BACKUP_RETENTION_DAYS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupConfig {
    pub folder: Option<PathBuf>,
    /// The next backup deletes older ones.
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

/// The API: `COC_BASE_URL`, `COC_API_TOKEN(S)`, `COC_REQS_PER_SEC`, `COC_MAX_REQS_PER_SEC`,
/// `COC_REQS_PER_DAY`, `KEYS_PER_RUN`.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The address with the version: `https://api.clashofclans.com/v1`.
    pub base_url: Url,
    pub tokens: Vec<SecretString>,
    /// Calls per second and key, already capped.
    pub reqs_per_sec: u32,
    /// The largest number of keys of one run; `None` is all.
    pub keys_per_run: Option<usize>,
    /// Calls per day (UTC) over all keys and runs; `None` is no limit.
    pub reqs_per_day: Option<NonZeroU64>,
    /// The developer portal, which gives further keys.
    pub portal: Option<PortalConfig>,
    /// The largest response that is read, in bytes after decompression: `MAX_BODY_BYTES`.
    pub max_body: usize,
}

/// The developer portal: `COC_EMAIL`, `COC_PASSWORD`, `COC_ACCOUNTS`, `COC_KEY_NAME`, `COC_KEY_COUNT`, `EGRESS_IPS`, `COC_PORTAL_URL`.
#[derive(Clone, Debug)]
pub struct PortalConfig {
    pub url: Url,
    pub accounts: Vec<PortalAccount>,
    /// The name of our keys. Others are never touched.
    pub key_name: String,
    /// Keys in each account, 1 to 10.
    pub key_count: usize,
    /// Our own addresses. Without any, keys are created for the address that the portal sees.
    pub egress_ips: Vec<IpAddr>,
}

/// An account of the portal.
#[derive(Clone, Debug)]
pub struct PortalAccount {
    /// The name in messages, which never show the address: `COC_EMAIL`, `COC_EMAIL_2` …, `COC_ACCOUNTS[1]` …
    pub variable: String,
    pub email: SecretString,
    pub password: SecretString,
}

/// A run: `LEASE_SECONDS`, `MAX_ATTEMPTS`, `DEADLINE_BUFFER_MS`, `MAX_RUNTIME_SECONDS`, `REFRESH_PAUSED`, and what follows its
/// commits.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub lease: Duration,
    pub max_attempts: u32,
    pub deadline_buffer: Duration,
    pub max_runtime: Option<Duration>,
    /// The switch that stops runs at once, if one is set.
    pub paused: Option<Pause>,
    pub follow_ups: FollowUpConfig,
    pub events: Option<EventsConfig>,
    /// `CACHE_KEY_TEMPLATES`: readers' keys that are deleted when they are outdated.
    pub cache_key_templates: Vec<String>,
    /// The freshness planner; `None` while it is off.
    pub planner: Option<PlannerConfig>,
}

/// The freshness planner: `PLANNED_CALLS_PER_SEC`, `SNAPSHOT_MAX_AGE`, `PLANNED_AT_LEAST_EVERY`, `PLANNED_TRIAL`, `PLANNED_RECORD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannerConfig {
    /// Planned calls a second of all runs together, at most: each has its share, by its keys. The rate of the keys limits them, too.
    pub calls_per_second: u32,
    pub teaching: Teaching,
}

impl PlannerConfig {
    /// Connections to the database that a run needs beside planned looks: to read, to commit, and for the plan itself.
    pub const CONNECTIONS: u32 = 3;

    /// The largest number of planned calls a second, which stands for every call that the keys allow.
    pub const EVERY_CALL: u32 = 10_000;
}

impl WorkerConfig {
    /// The same configuration with this planner. Its hints choose the members of a clan better than their age does, so
    /// `FOLLOWUP_PLAYERS_PER_CLAN` is not used while it is on.
    #[must_use]
    pub fn with_planner(mut self, planner: Option<PlannerConfig>) -> Self {
        if planner.is_some() {
            self.follow_ups.players_per_clan = 0;
        }
        self.planner = planner;
        self
    }
}

/// The event stream: `REFRESH_EVENTS_STREAM`, `REFRESH_EVENTS_MAXLEN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// The name of a stream in the queue's Redis.
    pub stream: String,
    /// The approximate number of newest entries that are kept.
    pub max_len: u64,
}

/// Requests that follow a response: `FOLLOWUP_WARS`, `FOLLOWUP_PLAYERS_PER_CLAN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowUpConfig {
    /// Wars are polled until they are over.
    pub wars: bool,
    /// At most this many members of a refreshed clan are queued, if their documents are old. 0 is none, as while the planner is on.
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

/// The switch that stops the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// `REFRESH_PAUSED=true`.
    RefreshPaused,
    /// `DISABLE_AUTO_REFRESH_QUEUE=true`: the switch of the producers, obeyed with a warning.
    DisableAutoRefreshQueue,
}

/// Logs and metrics: `DEPLOYMENT`, `ENVIRONMENT`, `LOG_LEVEL`.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    pub deployment: String,
    pub environment: String,
    /// A level or a filter in `tracing`'s syntax.
    pub log_level: String,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            // The defaults of the table, for the demo and tests.
            lease: Duration::from_secs(15),
            max_attempts: 3,
            deadline_buffer: Duration::from_millis(5000),
            max_runtime: None,
            paused: None,
            follow_ups: FollowUpConfig::default(),
            events: None,
            cache_key_templates: Vec::new(),
            planner: None,
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            deployment: "refresh-worker".to_owned(),
            environment: "development".to_owned(),
            log_level: "info".to_owned(),
        }
    }
}
