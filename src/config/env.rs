//! Reads the environment: everything at once, checked whole, all problems told together.
//!
//! [`Config::read`] is a pure function over a lookup, so a test hands it a map; only [`Config::from_process_env`] sees the
//! process. A variable that is empty counts as not set. The variables of each concern are read in a file of their own, over
//! one `reader`.

mod after;
mod api;
mod exposure;
mod reader;
mod servers;
mod trust;
mod worker;

use std::{fmt, time::Duration};

use self::reader::Reader;
pub use self::{
    exposure::{Exposure, exposures},
    trust::put_trust_in_force,
};
pub use super::variables::Vars;
use super::{
    AfterConfig, ApiConfig, BackupConfig, Config, DEFAULT_REQS_PER_SEC, DatabaseConfig, Pause, RedisConfig,
    TelemetryConfig, WorkerConfig,
};

/// What the process is there for; the health role needs no API key and few connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Refresh,
    Health,
}

/// One variable that will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub variable: &'static str,
    /// What is wrong and what would do; never a secret.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.text)
    }
}

/// Everything that is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "read the configuration: {count} {}", if count == 1 { "problem" } else { "problems" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n- {problem}"))
    }
}

/// The process's own environment, and before it the secrets that were read from elsewhere. Bytes that are not UTF-8 are
/// kept as replacement characters, so that they are seen.
pub fn process_var(name: &str) -> Option<String> {
    if let Some(secret) = super::secrets::in_force(name) {
        return Some(secret);
    }
    environment_var(name)
}

/// The process's own environment alone.
pub fn environment_var(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

impl Role {
    /// `_HANDLER` (what the function's handler is called) or `WORKER_ROLE`.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        match vars("_HANDLER").as_deref().map(str::trim) {
            Some("refresh") => return Ok(Self::Refresh),
            Some("health") => return Ok(Self::Health),
            _ => {}
        }
        let mut reader = Reader::new(vars);
        let role = match reader.text("WORKER_ROLE").map(|role| role.to_ascii_lowercase()).as_deref() {
            None | Some("refresh") => Self::Refresh,
            Some("health") => Self::Health,
            Some(_) => reader.refuse("WORKER_ROLE", "expected refresh or health"),
        };
        reader.finish(role)
    }
}

impl Config {
    /// Reads and checks every variable.
    ///
    /// # Errors
    /// Every variable that will not do, all together.
    pub fn read(vars: Vars<'_>, role: Role) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        reader.trust();
        let config = Self {
            redis: reader.redis(),
            database: reader.database(role),
            api: reader.api(role),
            worker: reader.worker(),
            // Health answers at once: nothing follows.
            after: if role == Role::Refresh { reader.after() } else { AfterConfig::default() },
            telemetry: reader.telemetry(),
        };
        reader.finish(config)
    }

    pub fn from_process_env(role: Role) -> Result<Self, ConfigErrors> {
        Self::read(&process_var, role)
    }
}

impl RedisConfig {
    /// Only what the queue needs, for commands that touch nothing else.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        reader.trust();
        let config = reader.redis();
        reader.finish(config)
    }
}

impl RedisConfig {
    /// Where `queue migrate` moves everything to: `MIGRATE_TO_REDIS_URL`, with the same namespace.
    pub fn read_migration_target(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = Self {
            url: reader.redis_url_of("MIGRATE_TO_REDIS_URL", false),
            cluster: false,
            namespace: reader.namespace(),
        };
        reader.finish(config)
    }
}

impl BackupConfig {
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = Self {
            folder: reader.text("QUEUE_BACKUP_DIR").map(Into::into),
            retention: Duration::from_secs(
                reader.number::<u64>("QUEUE_BACKUP_RETENTION_DAYS", 1..=3650) * 24 * 60 * 60,
            ),
        };
        reader.finish(config)
    }
}

impl DatabaseConfig {
    /// Only what the store needs, for commands that touch nothing else.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        reader.trust();
        let config = reader.database(Role::Refresh);
        reader.finish(config)
    }
}

impl ApiConfig {
    /// Only what the API needs, for commands that look at it alone.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        reader.trust();
        let config = reader.api(Role::Refresh);
        reader.finish(config)
    }
}

impl WorkerConfig {
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = reader.worker();
        reader.finish(config)
    }
}

impl TelemetryConfig {
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = reader.telemetry();
        reader.finish(config)
    }
}

/// What is allowed but should be known; logged once at the start.
pub fn warnings(vars: Vars<'_>) -> Vec<String> {
    let mut reader = Reader::new(vars);
    let mut warnings = Vec::new();
    let (wanted, cap) = reader.rate_and_cap();
    if wanted > cap {
        warnings.push(format!(
            "COC_REQS_PER_SEC is `{wanted}`: capped at {cap} calls a second; COC_MAX_REQS_PER_SEC raises the cap, for keys \
             that are allowed more"
        ));
    }
    if cap > DEFAULT_REQS_PER_SEC {
        warnings.push(format!(
            "COC_MAX_REQS_PER_SEC is `{cap}`: the API allows an ordinary key {DEFAULT_REQS_PER_SEC} calls a second"
        ));
    }
    if reader.worker().paused == Some(Pause::DisableAutoRefreshQueue) {
        warnings.push(
            "DISABLE_AUTO_REFRESH_QUEUE is true: meant for the producers, obeyed by this worker; REFRESH_PAUSED is its own \
             switch"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
