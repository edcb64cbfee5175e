//! The configuration in effect, as `check` and the debug log show it: every setting by its name, without secrets.

use std::{fmt, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Config, Pause, PlannerConfig, PortalConfig};

/// A [`Config`] that can be printed.
#[derive(Debug)]
pub struct Effective<'a>(&'a Config);

impl Config {
    /// The configuration for printing, without secrets.
    #[must_use]
    pub const fn effective(&self) -> Effective<'_> {
        Effective(self)
    }
}

impl Effective<'_> {
    /// The name and value of every setting.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let Config { redis, database, api, worker, after, telemetry } = self.0;
        let or = |value: Option<String>, unset: &str| value.unwrap_or_else(|| unset.to_owned());
        let planner = |value: fn(&PlannerConfig) -> String| or(worker.planner.as_ref().map(value), "not used");
        let players_per_clan = worker.planner.is_none().then(|| worker.follow_ups.players_per_clan.to_string());
        vec![
            ("REDIS_URL", server(&redis.url)),
            ("REDIS_CLUSTER", redis.cluster.to_string()),
            ("DATABASE_URL", server(&database.url)),
            ("COC_API_TOKEN(S)", keys(api.tokens.len())),
            ("COC_EMAIL", accounts(api.portal.as_ref().map_or(0, |portal| portal.accounts.len()))),
            ("COC_KEY_NAME", or(api.portal.as_ref().map(|portal| portal.key_name.clone()), "not used")),
            ("COC_KEY_COUNT", or(api.portal.as_ref().map(|portal| portal.key_count.to_string()), "not used")),
            ("EGRESS_IPS", or(api.portal.as_ref().and_then(addresses), "not set")),
            ("COC_PORTAL_URL", or(api.portal.as_ref().map(|portal| portal.url.to_string()), "not used")),
            ("COC_BASE_URL", api.base_url.to_string()),
            ("COC_REQS_PER_SEC", api.reqs_per_sec.to_string()),
            ("COC_REQS_PER_DAY", or(api.reqs_per_day.map(|calls| calls.to_string()), "no limit")),
            ("KEYS_PER_RUN", or(api.keys_per_run.map(|count| count.to_string()), "all")),
            ("MAX_BODY_BYTES", api.max_body.to_string()),
            ("QUEUE_NAMESPACE", redis.namespace.clone()),
            ("LEASE_SECONDS", worker.lease.as_secs().to_string()),
            ("MAX_ATTEMPTS", worker.max_attempts.to_string()),
            ("DEADLINE_BUFFER_MS", worker.deadline_buffer.as_millis().to_string()),
            ("MAX_RUNTIME_SECONDS", or(worker.max_runtime.map(|time| time.as_secs().to_string()), "no limit")),
            ("REFRESH_PAUSED", (worker.paused == Some(Pause::RefreshPaused)).to_string()),
            ("DISABLE_AUTO_REFRESH_QUEUE", (worker.paused == Some(Pause::DisableAutoRefreshQueue)).to_string()),
            ("FOLLOWUP_WARS", worker.follow_ups.wars.to_string()),
            ("FOLLOWUP_PLAYERS_PER_CLAN", or(players_per_clan, "not used")),
            ("PLANNED_CALLS_PER_SEC", worker.planner.map_or(0, |planner| planner.calls_per_second).to_string()),
            ("SNAPSHOT_MAX_AGE", planner(|planner| planner.teaching.policy.max_age.as_secs().to_string())),
            ("PLANNED_AT_LEAST_EVERY", planner(|planner| span(planner.teaching.policy.longest))),
            ("PLANNED_TRIAL", planner(trial)),
            ("PLANNED_RECORD", planner(|planner| planner.teaching.recorded_percent.to_string())),
            ("REFRESH_EVENTS_STREAM", or(worker.events.as_ref().map(|events| events.stream.clone()), "none")),
            ("REFRESH_EVENTS_MAXLEN", or(worker.events.as_ref().map(|events| events.max_len.to_string()), "not used")),
            ("CACHE_KEY_TEMPLATES", or(list(&worker.cache_key_templates), "none")),
            ("DB_POOL_MAX", database.max_connections.to_string()),
            ("DB_STATEMENT_CACHE", database.statement_cache.to_string()),
            ("AUTO_MIGRATE", database.auto_migrate.to_string()),
            ("CACHE_INVALIDATION_URL", or(after.invalidation.as_ref().map(|one| address(&one.url)), "not set")),
            ("REFRESH_VIEWS", or(list(&after.views), "none")),
            ("STATS_FUNCTIONS", or(after.stats.as_ref().and_then(|stats| list(&stats.functions)), "none")),
            ("SNAPSHOT_RETENTION_DAYS", or(after.retention_days.map(|days| days.to_string()), "all are kept")),
            ("DEPLOYMENT", telemetry.deployment.clone()),
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

fn accounts(count: usize) -> String {
    match count {
        0 => "none".to_owned(),
        1 => "1 account (not shown)".to_owned(),
        count => format!("{count} accounts (not shown)"),
    }
}

/// The span as [`super::read_span`] reads it, in the largest unit that is whole.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 24 * 3600), ("h", 3600), ("m", 60)];
    let whole = units.into_iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(name, unit)| format!("{}{name}", seconds / unit))
}

fn trial(planner: &PlannerConfig) -> String {
    let trial = planner.teaching.trial;
    trial.map_or_else(|| "none".to_owned(), |trial| format!("{}:{}", trial.strategy.as_str(), trial.percent))
}

fn addresses(portal: &PortalConfig) -> Option<String> {
    let addresses: Vec<String> = portal.egress_ips.iter().map(ToString::to_string).collect();
    (!addresses.is_empty()).then(|| addresses.join(","))
}

fn list(entries: &[impl fmt::Display]) -> Option<String> {
    let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
    (!entries.is_empty()).then(|| entries.join(","))
}

/// The URL without its query, which may contain a secret.
fn address(url: &Url) -> String {
    let query = if url.query().is_some() { "?***" } else { "" };
    format!("{}{}{query}", url.origin().ascii_serialization(), url.path())
}

fn keys(count: usize) -> String {
    match count {
        0 => "none".to_owned(),
        1 => "1 key (not shown)".to_owned(),
        count => format!("{count} keys (not shown)"),
    }
}

/// The URL of a server without its user part and query. Even the user may be a secret, since some put the password there.
fn server(url: &SecretString) -> String {
    let Ok(url) = Url::parse(url.expose_secret()) else {
        // An unreadable address may be a password.
        return "set (not shown)".to_owned();
    };
    let user = if url.username().is_empty() && url.password().is_none() { "" } else { "***@" };
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let query = if url.query().is_some() { "?***" } else { "" };
    format!("{}://{user}{host}{port}{}{query}", url.scheme(), url.path())
}
