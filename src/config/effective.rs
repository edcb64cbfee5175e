//! The configuration as `check` and the debug log show it: every setting by the name of its variable, no secret.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Config, Pause};

/// A [`Config`] that can be printed.
#[derive(Debug)]
pub struct Effective<'a>(&'a Config);

impl Config {
    /// For printing, redacted: one line `NAME = value` for each setting.
    #[must_use]
    pub const fn effective(&self) -> Effective<'_> {
        Effective(self)
    }
}

impl Effective<'_> {
    /// Name and value of every setting.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let Config { redis, database, api, worker, telemetry } = self.0;
        let or = |value: Option<String>, unset: &str| value.unwrap_or_else(|| unset.to_owned());
        vec![
            ("REDIS_URL", server(&redis.url)),
            ("DATABASE_URL", server(&database.url)),
            ("COC_API_TOKEN(S)", keys(api.tokens.len())),
            ("COC_BASE_URL", api.base_url.to_string()),
            ("COC_REQS_PER_SEC", api.reqs_per_sec.to_string()),
            ("KEYS_PER_RUN", or(api.keys_per_run.map(|count| count.to_string()), "all")),
            ("QUEUE_NAMESPACE", redis.namespace.clone()),
            ("LEASE_SECONDS", worker.lease.as_secs().to_string()),
            ("MAX_ATTEMPTS", worker.max_attempts.to_string()),
            ("DEADLINE_BUFFER_MS", worker.deadline_buffer.as_millis().to_string()),
            ("MAX_RUNTIME_SECONDS", or(worker.max_runtime.map(|time| time.as_secs().to_string()), "no limit")),
            ("REFRESH_PAUSED", (worker.paused == Some(Pause::RefreshPaused)).to_string()),
            ("DISABLE_AUTO_REFRESH_QUEUE", (worker.paused == Some(Pause::DisableAutoRefreshQueue)).to_string()),
            ("DB_POOL_MAX", database.max_connections.to_string()),
            ("DB_STATEMENT_CACHE", database.statement_cache.to_string()),
            ("AUTO_MIGRATE", database.auto_migrate.to_string()),
            ("ENVIRONMENT", telemetry.environment.clone()),
            ("LOG_LEVEL", telemetry.log_level.clone()),
        ]
    }
}

impl fmt::Display for Effective<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings().iter().try_for_each(|(name, value)| writeln!(f, "{name} = {value}"))
    }
}

fn keys(count: usize) -> String {
    match count {
        0 => "none".to_owned(),
        1 => "1 key (not shown)".to_owned(),
        count => format!("{count} keys (not shown)"),
    }
}

/// A server's URL without what may be secret: the user part (a password put in the user's place is common) and the query.
fn server(url: &SecretString) -> String {
    let Ok(url) = Url::parse(url.expose_secret()) else {
        return "set (not shown)".to_owned();
    };
    let user = if url.username().is_empty() && url.password().is_none() { "" } else { "***@" };
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let query = if url.query().is_some() { "?***" } else { "" };
    format!("{}://{user}{host}{port}{}{query}", url.scheme(), url.path())
}
