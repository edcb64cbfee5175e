//! Tasks: what an event can ask for besides a refresh, with no key and no run. Views are refreshed and statistics jobs are
//! done by the same parts that follow a run, old snapshots are thinned likewise.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, info};

use super::{
    Failure, Handlers, Invocation,
    lambda::{Caller, Refusal, Task},
    refuse,
};
use crate::{
    derive::{
        AfterReport,
        jobs::TIME_OF_A_TASK,
        retention::Thinned,
        views::{Refreshed, When},
    },
    metrics,
    queue::{Queue, Slots},
    store::Store,
    worker::{Runs, patiently},
};

impl<R: Runs, Q: Queue + Slots, S: Store> Handlers<R, Q, S> {
    pub(super) async fn task(
        &self,
        task: Task,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Value, Failure> {
        // Connections that died while the sandbox was frozen are noticed here. What else is wrong with the database the task
        // tells in its own form.
        let _ = patiently(self.until(invocation), || self.store.ping()).await;
        match task {
            Task::Migrate => self.migrate().await,
            Task::RefreshViews(when) => self.refresh_views(when, invocation, print).await,
            Task::Stats => self.stats(invocation, print).await,
            Task::Retention => self.retention(invocation, print).await,
        }
    }

    async fn migrate(&self) -> Result<Value, Failure> {
        match self.store.migrate().await {
            Ok(applied) => {
                info!(task = "migrate", migrations = applied.len(), "the database is up to date");
                Ok(json!({"task": "migrate", "status": "done", "applied": applied}))
            }
            Err(error) => {
                let failure = Failure { kind: "TaskFailed.migrate".to_owned(), message: error.to_string() };
                error!(task = "migrate", "{failure}");
                Err(failure)
            }
        }
    }

    /// Answers in the form of the related system: a status, and a body that is text.
    async fn refresh_views(
        &self,
        when: When,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Value, Failure> {
        let Some(views) = self.after.as_ref().and_then(|after| after.views.as_ref()) else {
            return not_configured("refresh-views", "REFRESH_VIEWS");
        };
        let now = self.clock.wall();
        let refreshed = views.refresh(when, now, self.until(invocation)).await;
        let (status, body) = views_answer(&refreshed);
        let report = AfterReport { views: Some(refreshed), ..AfterReport::default() };
        self.tell("refresh-views", invocation, &report, print);
        Ok(json!({"statusCode": status, "body": body.to_string()}))
    }

    async fn stats(&self, invocation: &Invocation, print: &(dyn Fn(&str) + Sync)) -> Result<Value, Failure> {
        let Some(jobs) = self.after.as_ref().and_then(|after| after.jobs.as_ref()) else {
            return not_configured("stats", "STATS_FUNCTIONS");
        };
        let done = jobs.work(self.until(invocation), TIME_OF_A_TASK, self.stop.asked()).await;
        let mut answer = json!(done);
        answer["task"] = json!("stats");
        answer["status"] = json!("done");
        let (failure, is_unreachable) = (done.failure.clone(), done.is_unreachable);
        let report = AfterReport { stats: Some(done), ..AfterReport::default() };
        self.tell("stats", invocation, &report, print);
        match failure {
            None => Ok(answer),
            Some(message) => {
                let kind = if is_unreachable { "TaskFailed.database_down" } else { "TaskFailed.stats" };
                error!(task = "stats", "{message}");
                Err(Failure { kind: kind.to_owned(), message })
            }
        }
    }

    async fn retention(&self, invocation: &Invocation, print: &(dyn Fn(&str) + Sync)) -> Result<Value, Failure> {
        let Some(retention) = self.after.as_ref().and_then(|after| after.retention.as_ref()) else {
            return not_configured("retention", "SNAPSHOT_RETENTION_DAYS");
        };
        let thinned = tokio::select! {
            thinned = retention.thin(self.clock.wall(), self.until(invocation)) => thinned,
            () = self.stop.asked() => Thinned { more: true, ..Thinned::default() },
        };
        let answer = json!({"task": "retention", "status": "done", "deleted": thinned.deleted, "more": thinned.more});
        let failure = thinned.failure.clone();
        let report = AfterReport { retention: Some(thinned), ..AfterReport::default() };
        self.tell("retention", invocation, &report, print);
        match failure {
            None => Ok(answer),
            Some(message) => {
                error!(task = "retention", "{message}");
                Err(Failure { kind: "TaskFailed.retention".to_owned(), message })
            }
        }
    }

    /// When a task has to be done.
    fn until(&self, invocation: &Invocation) -> Instant {
        let left = invocation.deadline.since(self.clock.wall()).saturating_sub(self.deadline_buffer);
        Instant::now() + left.min(Duration::from_secs(24 * 3600))
    }

    /// The line of metrics and the line of the log.
    fn tell(&self, task: &str, invocation: &Invocation, report: &AfterReport, print: &(dyn Fn(&str) + Sync)) {
        print(&metrics::task_line(task, &invocation.request_id, report, &self.telemetry, self.clock.wall()));
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

fn not_configured(task: &str, setting: &str) -> Result<Value, Failure> {
    refuse(Caller::Lambda, &Refusal::new(400, format!("the task {task} has nothing to do: set {setting}")))
}

/// Status and body. One view is told as the related system tells its own; several are a list, with what is wrong first.
fn views_answer(views: &[Refreshed]) -> (u16, Value) {
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
