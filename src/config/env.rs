//! Reads and checks the environment, and reports every problem at once.
//!
//! [`Config::read`] is a pure function of a lookup, so that a test can pass a map; only [`Config::from_process_env`] reads the
//! process. An empty variable counts as not set. Each concern has a file of its own, over one `reader`.

mod after;
mod api;
mod exposure;
mod planner;
mod reader;
mod role;
mod servers;
mod trust;
mod worker;

use std::time::Duration;

use self::reader::Reader;
pub use self::{
    exposure::{Exposure, exposures},
    role::Role,
    trust::put_trust_in_force,
};
use super::{
    AfterConfig, ApiConfig, BackupConfig, Config, ConfigErrors, DEFAULT_REQS_PER_SEC, DatabaseConfig, Pause,
    RedisConfig, TelemetryConfig, WorkerConfig, variables::Vars,
};

/// A variable of the process, or the secret that was read from elsewhere for it. Bytes that are not UTF-8 become replacement
/// characters, so that a message shows them.
pub fn process_var(name: &str) -> Option<String> {
    // Secrets come first: the variable holds only their place.
    if let Some(secret) = super::secrets::in_force(name) {
        return Some(secret);
    }
    environment_var(name)
}

/// A variable of the process alone.
pub fn environment_var(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

impl Config {
    /// Reads and checks every variable.
    ///
    /// # Errors
    /// Every invalid variable, all together.
    pub fn read(vars: Vars<'_>, role: Role) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        reader.trust();
        let config = Self {
            redis: reader.redis(),
            database: reader.database(role),
            api: reader.api(role),
            worker: reader.worker(),
            // Nothing follows a health check, which must respond at once.
            after: if role == Role::Refresh { reader.after() } else { AfterConfig::default() },
            telemetry: reader.telemetry(),
        };
        reader.connections_beside_looks(&config);
        reader.finish(config)
    }

    pub fn from_process_env(role: Role) -> Result<Self, ConfigErrors> {
        Self::read(&process_var, role)
    }
}

impl RedisConfig {
    /// Reads only these settings, for commands that use no others.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        reader.trust();
        let config = reader.redis();
        reader.finish(config)
    }

    /// Reads the target of `queue migrate`: `MIGRATE_TO_REDIS_URL`, with the namespace of the source.
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
    /// Reads only these settings, for commands that use no others.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        reader.trust();
        let config = reader.database(Role::Refresh);
        reader.finish(config)
    }
}

impl ApiConfig {
    /// Reads only these settings, for commands that use no others.
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

/// Warnings about valid but unusual settings. They are logged once at the start.
pub fn warnings(vars: Vars<'_>) -> Vec<String> {
    let mut reader = Reader::new(vars);
    let mut warnings = Vec::new();
    // The problems of this reader are dropped: `Config::read` reports them.
    let (wanted, cap) = reader.rate_and_cap();
    if wanted > cap {
        warnings.push(format!(
            "COC_REQS_PER_SEC is `{wanted}`: capped at {cap} calls per second; COC_MAX_REQS_PER_SEC raises the cap, for keys \
             with a higher limit"
        ));
    }
    if cap > DEFAULT_REQS_PER_SEC {
        warnings.push(format!(
            "COC_MAX_REQS_PER_SEC is `{cap}`: the API allows an ordinary key {DEFAULT_REQS_PER_SEC} calls per second"
        ));
    }
    if reader.worker().paused == Some(Pause::DisableAutoRefreshQueue) {
        warnings.push(
            "DISABLE_AUTO_REFRESH_QUEUE is true: it is the switch of the producers, but this worker obeys it; its own switch is \
             REFRESH_PAUSED"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
