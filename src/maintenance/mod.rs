//! Maintenance after a run: materialized views, statistics jobs, retention of snapshots, and HTTP invalidation of an
//! application's caches.
//!
//! Knows the model, the configuration and the database; the queue, the API and the store are unknown here. `app` builds
//! [`Maintenance`] over a pool of the database's connections, and the worker runs it within the run's deadline. A part that is
//! not configured is not built, and costs no statement.

mod database;
#[cfg(feature = "cli")]
pub mod inspect;
pub mod invalidate;
pub mod jobs;
pub mod retention;
pub mod views;

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

pub use self::database::Database;
use self::{
    invalidate::{InvalidateError, Invalidated, Invalidator},
    jobs::{ENOUGH_TIME_AFTER_RUN, Jobs, JobsReport, MIN_JOB_TIME},
    retention::{MIN_BATCH_TIME, Retention, Thinned},
    views::{MIN_REFRESH_TIME, Refreshed, Views, When},
};
use crate::{clock::Timestamp, config::AfterConfig};

/// The parts that are configured; at least one.
#[derive(Clone, Debug)]
pub struct Maintenance {
    pub invalidator: Option<Invalidator>,
    pub views: Option<Views>,
    pub jobs: Option<Jobs>,
    pub retention: Option<Retention>,
}

impl Maintenance {
    /// `None` when nothing is configured.
    ///
    /// # Errors
    /// When the settings of the application cannot be used.
    pub fn new(config: &AfterConfig, database: &Database) -> Result<Option<Self>, InvalidateError> {
        if config.is_empty() {
            return Ok(None);
        }
        let invalidator = config.invalidation.as_ref().map(Invalidator::new).transpose()?;
        Ok(Some(Self {
            views: Views::new(database.clone(), &config.views),
            jobs: config.stats.as_ref().map(|stats| Jobs::new(database.clone(), stats, invalidator.clone())),
            retention: config.retention_days.map(|days| Retention::new(database.clone(), days)),
            invalidator,
        }))
    }

    /// Refreshes the views that are due, does the jobs that wait, and thins old snapshots; one after the other, since they share
    /// connections. Done by `until`, or soon after `stopped` returns. A part for which no time is left waits for the next run or
    /// its task, without a statement and without an error.
    pub async fn run<F: Future<Output = ()> + Send>(
        &self,
        now: Timestamp,
        until: Instant,
        stopped: impl Fn() -> F + Send + Sync,
    ) -> MaintenanceReport {
        let mut report = MaintenanceReport::default();
        // Checked before each part: the one before it may have used the time up.
        let has_time = |least: Duration| until.saturating_duration_since(Instant::now()) >= least;
        if let Some(views) = self.views.as_ref().filter(|_| has_time(MIN_REFRESH_TIME)) {
            tokio::select! {
                refreshed = views.refresh(When::Due, now, until) => report.views = Some(refreshed),
                // The shutdown leaves no time for the other parts.
                () = stopped() => return report,
            }
        }
        if let Some(jobs) = self.jobs.as_ref().filter(|_| has_time(MIN_JOB_TIME)) {
            // The jobs get the signal themselves: a job in hand is released for another worker, not dropped.
            report.stats = Some(jobs.work(until, ENOUGH_TIME_AFTER_RUN, stopped()).await);
        }
        if let Some(retention) = self.retention.as_ref().filter(|_| has_time(MIN_BATCH_TIME)) {
            tokio::select! {
                thinned = retention.thin(now, until) => report.retention = Some(thinned),
                // The batch in hand is dropped and so rolled back; a later run continues there.
                () = stopped() => {}
            }
        }
        report
    }
}

/// The report of the maintenance after a run. Parts that are not configured are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MaintenanceReport {
    /// The invalidation of caches by the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<Invalidated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<Vec<Refreshed>>,
    /// Statistics jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<JobsReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Thinned>,
}

impl MaintenanceReport {
    /// All invalidation of caches, by the run and by statistics jobs.
    #[must_use]
    pub fn all_invalidated(&self) -> Option<Invalidated> {
        let by_jobs = self.stats.as_ref().and_then(|stats| stats.caches.clone());
        let mut all = self.caches.clone().or_else(|| by_jobs.as_ref().map(|_| Invalidated::default()))?;
        all.add(by_jobs.unwrap_or_default());
        Some(all)
    }

    /// The number of views that were refreshed, and of those that could not be.
    #[must_use]
    pub fn views_refreshed_and_failed(&self) -> Option<(u64, u64)> {
        let views = self.views.as_ref()?;
        let refreshed = views.iter().filter(|view| view.refresh_type.is_some()).count();
        Some((refreshed as u64, views.iter().filter(|view| !view.success).count() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ViewConfig;

    #[test]
    fn all_invalidated_adds_run_and_jobs() {
        let invalidated = |tags, lost| Some(Invalidated { tags, lost, ..Invalidated::default() });
        let all = |caches, by_jobs| {
            let stats = Some(JobsReport { caches: by_jobs, ..JobsReport::default() });
            MaintenanceReport { caches, stats, ..MaintenanceReport::default() }.all_invalidated()
        };
        assert_eq!(all(None, None), None);
        assert_eq!(all(None, invalidated(0, 2)), invalidated(0, 2));
        assert_eq!(all(invalidated(3, 1), invalidated(0, 2)), invalidated(3, 3));
    }

    #[tokio::test]
    async fn new_builds_only_configured_parts() {
        let database = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap().into();
        assert!(Maintenance::new(&AfterConfig::default(), &database).unwrap().is_none());
        let views = vec![ViewConfig { name: "v".to_owned(), interval: Duration::from_secs(60), statistics: None }];
        let after = Maintenance::new(&AfterConfig { views, ..AfterConfig::default() }, &database).unwrap().unwrap();
        assert!(
            after.views.is_some() && after.jobs.is_none() && after.retention.is_none() && after.invalidator.is_none()
        );
    }
}
