//! Everything that follows a run, as one: built by `app`, carried out by the worker within the run's deadline.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::{
    database::Database,
    invalidate::{InvalidateError, Invalidated, Invalidator},
    jobs::{Jobs, JobsReport, LEAST_TIME, TIME_AFTER_A_RUN},
    retention::{Retention, SHORTEST_BATCH, Thinned},
    views::{Refreshed, SHORTEST_REFRESH, Views, When},
};
use crate::{clock::Timestamp, config::AfterConfig};

/// What follows a run. Without any part there is none of these.
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
    /// When the application to be told cannot be used.
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

    /// Refreshes the views that are due, does the jobs that wait, thins old snapshots; one after the other, since they share
    /// the connections with one another. Done by `until`, or soon after `stopped` returns. A part for which no time is left is
    /// left to the next run or its task, without a statement: a run that was busy to its end is nothing to be alarmed about.
    pub async fn run<F: Future<Output = ()> + Send>(
        &self,
        now: Timestamp,
        until: Instant,
        stopped: impl Fn() -> F + Send + Sync,
    ) -> MaintenanceReport {
        let mut report = MaintenanceReport::default();
        let has_time = |least: Duration| until.saturating_duration_since(Instant::now()) >= least;
        if let Some(views) = self.views.as_ref().filter(|_| has_time(SHORTEST_REFRESH)) {
            tokio::select! {
                refreshed = views.refresh(When::Due, now, until) => report.views = Some(refreshed),
                () = stopped() => return report,
            }
        }
        if let Some(jobs) = self.jobs.as_ref().filter(|_| has_time(LEAST_TIME)) {
            report.stats = Some(jobs.work(until, TIME_AFTER_A_RUN, stopped()).await);
        }
        if let Some(retention) = self.retention.as_ref().filter(|_| has_time(SHORTEST_BATCH)) {
            tokio::select! {
                thinned = retention.thin(now, until) => report.retention = Some(thinned),
                () = stopped() => {}
            }
        }
        report
    }
}

/// What followed a run. What is not configured is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MaintenanceReport {
    /// What the caches of readers were told.
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
    /// What the caches of readers were told, by the run and because of statistics jobs.
    #[must_use]
    pub fn all_invalidated(&self) -> Option<Invalidated> {
        let by_jobs = self.stats.as_ref().and_then(|stats| stats.caches.clone());
        let mut all = self.caches.clone().or_else(|| by_jobs.as_ref().map(|_| Invalidated::default()))?;
        all.add(by_jobs.unwrap_or_default());
        Some(all)
    }

    /// Views that were refreshed, and views that could not be.
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
    fn what_jobs_told_caches_counts_with_what_the_run_told() {
        let told = |tags, lost| Some(Invalidated { tags, lost, ..Invalidated::default() });
        let all = |caches, by_jobs| {
            let stats = Some(JobsReport { caches: by_jobs, ..JobsReport::default() });
            MaintenanceReport { caches, stats, ..MaintenanceReport::default() }.all_invalidated()
        };
        assert_eq!(all(None, None), None);
        assert_eq!(all(None, told(0, 2)), told(0, 2));
        assert_eq!(all(told(3, 1), told(0, 2)), told(3, 3));
    }

    #[tokio::test]
    async fn what_is_not_configured_is_not_there() {
        let database = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap().into();
        assert!(Maintenance::new(&AfterConfig::default(), &database).unwrap().is_none());
        let views = vec![ViewConfig { name: "v".to_owned(), interval: Duration::from_secs(60), statistics: None }];
        let after = Maintenance::new(&AfterConfig { views, ..AfterConfig::default() }, &database).unwrap().unwrap();
        assert!(
            after.views.is_some() && after.jobs.is_none() && after.retention.is_none() && after.invalidator.is_none()
        );
    }
}
