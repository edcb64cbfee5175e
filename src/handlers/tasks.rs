//! Tasks: an event can ask for them instead of a refresh. They need no key and no run; the same parts that follow a run do their work.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, info};

use super::{
    Handlers, Invocation,
    lambda::{Caller, Refusal, Task},
    response::{Failure, FailureKind, Response, refuse},
};
use crate::{
    maintenance::{
        MaintenanceReport,
        jobs::ENOUGH_TIME_IN_TASK,
        retention::Thinned,
        views::{Refreshed, When},
    },
    metrics,
    queue::{Queue, SharedState},
    store::Store,
    worker::{Runs, waiting::twice},
};

impl<R: Runs, Q: Queue + SharedState, S: Store> Handlers<R, Q, S> {
    pub(super) async fn task(
        &self,
        task: Task,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Response, Failure> {
        // This finds the connections that died while the sandbox was frozen. The task reports every other error in its own form.
        let _ = twice(self.until(invocation), || self.store.ping()).await;
        match task {
            Task::Migrate => self.migrate().await,
            Task::RefreshViews(when) => self.refresh_views(when, invocation, print).await,
            Task::Stats => self.stats(invocation, print).await,
            Task::Retention => self.retention(invocation, print).await,
        }
    }

    async fn migrate(&self) -> Result<Response, Failure> {
        match self.store.migrate().await {
            Ok(applied) => {
                info!(task = "migrate", migrations = applied.len(), "the database is up to date");
                Ok(Response::new(Caller::Lambda, 200, json!({"task": "migrate", "status": "done", "applied": applied})))
            }
            Err(error) => {
                let failure = Failure::new(FailureKind::Task("migrate"), error.to_string());
                error!(task = "migrate", "{failure}");
                Err(failure)
            }
        }
    }

    /// Refreshes views, and responds in the form of the related system: a status, and a body that is text.
    async fn refresh_views(
        &self,
        when: When,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Response, Failure> {
        let Some(views) = self.after.as_ref().and_then(|after| after.views.as_ref()) else {
            return not_configured("refresh-views", "REFRESH_VIEWS");
        };
        let now = self.clock.wall();
        let refreshed = views.refresh(when, now, self.until(invocation)).await;
        let (status, body) = views_body(&refreshed);
        let report = MaintenanceReport { views: Some(refreshed), ..MaintenanceReport::default() };
        self.log("refresh-views", invocation, &report, print);
        Ok(Response::with_status(status, json!({"statusCode": status, "body": body.to_string()})))
    }

    async fn stats(&self, invocation: &Invocation, print: &(dyn Fn(&str) + Sync)) -> Result<Response, Failure> {
        let Some(jobs) = self.after.as_ref().and_then(|after| after.jobs.as_ref()) else {
            return not_configured("stats", "STATS_FUNCTIONS");
        };
        let done = jobs.work(self.until(invocation), ENOUGH_TIME_IN_TASK, self.stop.asked()).await;
        let mut body = json!(done);
        body["task"] = json!("stats");
        body["status"] = json!("done");
        let (failure, is_unreachable) = (done.failure.clone(), done.is_unreachable);
        let report = MaintenanceReport { stats: Some(done), ..MaintenanceReport::default() };
        self.log("stats", invocation, &report, print);
        match failure {
            None => Ok(Response::new(Caller::Lambda, 200, body)),
            Some(message) => {
                let kind = if is_unreachable { FailureKind::TaskDatabaseDown } else { FailureKind::Task("stats") };
                error!(task = "stats", "{message}");
                Err(Failure::new(kind, message))
            }
        }
    }

    async fn retention(&self, invocation: &Invocation, print: &(dyn Fn(&str) + Sync)) -> Result<Response, Failure> {
        let Some(retention) = self.after.as_ref().and_then(|after| after.retention.as_ref()) else {
            return not_configured("retention", "SNAPSHOT_RETENTION_DAYS");
        };
        let thinned = tokio::select! {
            thinned = retention.thin(self.clock.wall(), self.until(invocation)) => thinned,
            // Each batch is a transaction of its own: the next task goes on.
            () = self.stop.asked() => Thinned { more: true, ..Thinned::default() },
        };
        let body = json!({"task": "retention", "status": "done", "deleted": thinned.deleted, "more": thinned.more});
        let failure = thinned.failure.clone();
        let report = MaintenanceReport { retention: Some(thinned), ..MaintenanceReport::default() };
        self.log("retention", invocation, &report, print);
        match failure {
            None => Ok(Response::new(Caller::Lambda, 200, body)),
            Some(message) => {
                error!(task = "retention", "{message}");
                Err(Failure::new(FailureKind::Task("retention"), message))
            }
        }
    }

    /// The end of a task's time.
    fn until(&self, invocation: &Invocation) -> Instant {
        let left = invocation.deadline.since(self.clock.wall()).saturating_sub(self.settings.deadline_buffer);
        Instant::now() + left.min(Duration::from_secs(24 * 3600))
    }

    /// Writes the line of metrics and the line of the log.
    fn log(&self, task: &str, invocation: &Invocation, report: &MaintenanceReport, print: &(dyn Fn(&str) + Sync)) {
        print(&metrics::task_line(task, &invocation.request_id, report, &self.settings.telemetry, self.clock.wall()));
        let (refreshed, failed) = report.views_refreshed_and_failed().unwrap_or_default();
        info!(
            task,
            views.refreshed = refreshed,
            views.failed = failed,
            jobs.completed = report.stats.as_ref().map(|stats| stats.completed),
            jobs.failed = report.stats.as_ref().map(|stats| stats.failed),
            snapshots.thinned = report.retention.as_ref().map(|thinned| thinned.deleted),
            "task {task}: done"
        );
    }
}

fn not_configured(task: &str, setting: &str) -> Result<Response, Failure> {
    refuse(Caller::Lambda, &Refusal::new(400, format!("the task {task} has nothing to do: set {setting}")))
}

/// Status and body. One view has the related system's form; several are a list, with the first error beside it.
fn views_body(views: &[Refreshed]) -> (u16, Value) {
    let status = match views.iter().find(|view| !view.success) {
        None => 200,
        Some(view) if view.is_unreachable => 503,
        Some(_) => 500,
    };
    if let [view] = views {
        return (status, json!(view));
    }
    let mut body = json!({
        "success": status == 200,
        "duration_seconds": views.iter().map(|view| view.duration_seconds).sum::<f64>(),
        "views": views,
    });
    if let Some(failed) = views.iter().find(|view| !view.success) {
        body["error"] = json!(failed.error);
        body["message"] = json!(failed.message);
    }
    (status, body)
}
