//! The configuration of what follows a run: cache invalidation, views, statistics jobs, retention. A part that is not
//! configured is absent, and costs no statement.

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
    /// `SNAPSHOT_RETENTION_DAYS`: of older snapshots only the newest per object and day stays.
    pub retention_days: Option<u32>,
}

impl AfterConfig {
    /// True when nothing follows a run.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.invalidation.is_none() && self.views.is_empty() && self.stats.is_none() && self.retention_days.is_none()
    }
}

/// The application whose cached pages are invalidated: `CACHE_INVALIDATION_URL` or `NEXT_PUBLIC_APP_URL`, `INTERNAL_API_KEY`.
#[derive(Clone, Debug)]
pub struct InvalidationConfig {
    pub url: Url,
    pub key: Option<SecretString>,
}

/// A materialized view: an entry of `REFRESH_VIEWS`, and of `VIEW_STATISTICS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewConfig {
    /// The name as it is set, with or without its schema.
    pub name: String,
    /// The shortest time between two refreshes by runs.
    pub interval: Duration,
    /// The query for the statistics of the view; `None` is the built-in one.
    pub statistics: Option<String>,
}

/// Statistics jobs: `STATS_FUNCTIONS`, `STATS_LEASE_SECONDS`, `WORKER_ID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsConfig {
    /// At least one.
    pub functions: Vec<StatsFunction>,
    /// Another worker takes a job whose lease was not renewed for this long.
    pub lease: Duration,
    /// The name of this worker in logs and results.
    pub worker_id: String,
}

/// An SQL function and the cache tags that it makes outdated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsFunction {
    /// The name as it is set, with or without its schema.
    pub name: String,
    pub tags: Vec<String>,
}

/// The spelling of `REFRESH_VIEWS`.
impl fmt::Display for ViewConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}s", self.name, self.interval.as_secs())
    }
}

/// The spelling of `STATS_FUNCTIONS`.
impl fmt::Display for StatsFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if self.tags.is_empty() { Ok(()) } else { write!(f, ":{}", self.tags.join("+")) }
    }
}
