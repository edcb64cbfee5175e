//! What follows a run, as it is configured: caches to be told, views to be refreshed, statistics jobs, retention. A part that
//! is not configured is absent here, and costs no statement.

use std::{fmt, time::Duration};

use secrecy::SecretString;
use url::Url;

/// Everything that may follow a run.
#[derive(Clone, Debug, Default)]
pub struct AfterConfig {
    pub invalidation: Option<InvalidationConfig>,
    /// `REFRESH_VIEWS`, in the order given.
    pub views: Vec<ViewConfig>,
    pub stats: Option<StatsConfig>,
    /// `SNAPSHOT_RETENTION_DAYS`: older snapshots are thinned to one a day.
    pub retention_days: Option<u32>,
}

impl AfterConfig {
    /// Whether anything at all follows a run.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.invalidation.is_none() && self.views.is_empty() && self.stats.is_none() && self.retention_days.is_none()
    }
}

/// Whom to tell which cached pages are stale: `CACHE_INVALIDATION_URL` or `NEXT_PUBLIC_APP_URL`, `INTERNAL_API_KEY`.
#[derive(Clone, Debug)]
pub struct InvalidationConfig {
    pub url: Url,
    pub key: Option<SecretString>,
}

/// One materialized view: an entry of `REFRESH_VIEWS`, and of `VIEW_STATISTICS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewConfig {
    /// As written, with or without its schema.
    pub name: String,
    /// Not refreshed again by itself before.
    pub interval: Duration,
    /// The query whose one row tells about the view; `None`: ours.
    pub statistics: Option<String>,
}

/// Statistics jobs: `STATS_FUNCTIONS`, `STATS_LEASE_SECONDS`, `WORKER_ID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsConfig {
    /// At least one.
    pub functions: Vec<StatsFunction>,
    /// A job whose worker was silent for so long is taken up again.
    pub lease: Duration,
    /// Names this worker in logs and results.
    pub worker_id: String,
}

/// One SQL function, and the cache tags of what it makes stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsFunction {
    /// As written, with or without its schema.
    pub name: String,
    pub tags: Vec<String>,
}

/// As it is written in `REFRESH_VIEWS`.
impl fmt::Display for ViewConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}s", self.name, self.interval.as_secs())
    }
}

/// As it is written in `STATS_FUNCTIONS`.
impl fmt::Display for StatsFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if self.tags.is_empty() { Ok(()) } else { write!(f, ":{}", self.tags.join("+")) }
    }
}
