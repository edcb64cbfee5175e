//! A refresh: lets a run happen within the caller's time, and turns its report into the answer, the one metrics line and
//! the one log line.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{Failure, Handlers, Invocation, in_form, lambda::Caller};
use crate::{
    clock::Timestamp,
    metrics,
    model::ObjectId,
    queue::{Queue, Slots},
    store::Store,
    worker::{
        RunOptions, Runs, Unwatched,
        report::{RunReport, StopReason},
    },
};

/// How long a synchronous HTTP caller waits, in all: API Gateway gives up after 29 s.
pub const HTTP_TIME: Duration = Duration::from_secs(25);

impl<R: Runs, Q: Queue + Slots, S: Store> Handlers<R, Q, S> {
    pub(super) async fn refresh(
        &self,
        options: RunOptions,
        caller: Caller,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Value, Failure> {
        let named = options.named.clone();
        let clock = Arc::clone(&self.clock);
        let options = RunOptions {
            run: Some(invocation.request_id.clone()),
            time_left: Some(time_left(caller, invocation.deadline, clock.wall())),
            ..options
        };
        let report = self.runs.run(options, &Unwatched).await;
        print(&metrics::run_line(&report, &self.telemetry, clock.wall()));
        log(&report);
        answer(&report, &named, caller)
    }
}

/// How long the run may take before it must have answered.
fn time_left(caller: Caller, deadline: Timestamp, now: Timestamp) -> Duration {
    let left = deadline.since(now);
    match caller {
        Caller::Lambda => left,
        Caller::Http => left.min(HTTP_TIME),
    }
}

/// What a caller gets to read: how it went, then the whole report.
#[derive(Debug, Serialize)]
struct Told<'a> {
    /// `done`, `accepted` (nothing was done now) or `failed`.
    status: &'static str,
    message: String,
    /// The named objects that wait in front, or were served.
    queued: Vec<String>,
    #[serde(flatten)]
    report: &'a RunReport,
}

/// # Errors
/// When the run failed and the caller is Lambda: its own `Errors` metric is to count it.
fn answer(report: &RunReport, named: &[ObjectId], caller: Caller) -> Result<Value, Failure> {
    let status = status(report.stopped_because);
    let message = message(report);
    if caller == Caller::Lambda && status >= 500 {
        return Err(Failure { kind: format!("RefreshFailed.{}", report.stopped_because.as_str()), message });
    }
    let queued = if report.enqueued > 0 { named.iter().map(ToString::to_string).collect() } else { Vec::new() };
    let word = match status {
        200 => "done",
        202 => "accepted",
        _ => "failed",
    };
    let told = Told { status: word, message, queued, report };
    let body = serde_json::to_value(&told).expect("a report has text keys and finite numbers only");
    Ok(in_form(caller, status, body))
}

/// 202: nothing could be done now, what was named waits in the queue. 503: our own servers are in trouble. 502: the API,
/// or our keys for it, are.
const fn status(stopped_because: StopReason) -> u16 {
    match stopped_because {
        StopReason::QueueEmpty | StopReason::Deadline | StopReason::MaxRequests | StopReason::Shutdown => 200,
        StopReason::RefreshPaused | StopReason::AlreadyRunning | StopReason::KeysPaused | StopReason::Maintenance => {
            202
        }
        StopReason::CircuitOpen | StopReason::NoUsableKey => 502,
        StopReason::QueueDown | StopReason::DatabaseDown => 503,
    }
}

/// How it went, in one sentence.
fn message(report: &RunReport) -> String {
    let RunReport { processed_requests: processed, failed_requests: failed, .. } = report;
    let counts = format!("{processed} processed, {failed} failed");
    let reason = match report.stopped_because {
        StopReason::QueueEmpty => "nothing is ready any more",
        StopReason::Deadline => "the time is used up; the rest follows with the next run",
        StopReason::MaxRequests => "the number of requests asked for is reached",
        StopReason::Shutdown => "the sandbox was shut down; the rest follows with the next run",
        StopReason::RefreshPaused => "refreshing is switched off (REFRESH_PAUSED or DISABLE_AUTO_REFRESH_QUEUE)",
        StopReason::AlreadyRunning => "another run uses every key and serves what is queued",
        StopReason::KeysPaused => "every key rests after a refusal; what is queued waits",
        StopReason::Maintenance => "the API is in maintenance; what is queued waits",
        StopReason::CircuitOpen => "many calls in a row failed",
        StopReason::NoUsableKey => "no key is accepted any more",
        StopReason::QueueDown => "the queue does not answer",
        StopReason::DatabaseDown => "the database does not answer",
    };
    let failure = report.failure.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
    format!("{counts}; {reason}{failure}")
}

/// The one line of a run: `info`, or `error` when somebody should look.
fn log(report: &RunReport) {
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                run.id = report.run,
                stopped_because = report.stopped_because.as_str(),
                failure = report.failure,
                processed_requests = report.processed_requests,
                failed_requests = report.failed_requests,
                outcome.stored = report.outcomes.get("stored"),
                outcome.unchanged = report.outcomes.get("unchanged"),
                outcome.satisfied = report.outcomes.get("satisfied"),
                outcome.gone = report.outcomes.get("gone"),
                outcome.private_war_log = report.outcomes.get("private_war_log"),
                outcome.delayed = report.outcomes.get("delayed"),
                outcome.released = report.outcomes.get("released"),
                outcome.dead_letter = report.outcomes.get("dead_letter"),
                outcome.stale = report.outcomes.get("stale"),
                errors = (!report.errors.is_empty()).then(|| report.errors.join(" | ")),
                errors_omitted = report.errors_omitted,
                queue_size = report.queue.as_ref().map(|queue| queue.queue_size),
                dead_letters = report.queue.as_ref().map(|queue| queue.dead_letters),
                oldest_request_age_seconds = report.queue.as_ref().map(|queue| queue.oldest_request_age_seconds),
                runtime_seconds = report.runtime_seconds,
                api_requests = report.api_requests,
                api_requests_per_second = report.api_requests_per_second,
                budget_used = report.budget_used,
                throttled = report.throttled,
                enqueued = report.enqueued,
                mail.admitted = report.mail.admitted,
                mail.unreadable = report.mail.unreadable,
                "refresh: {}",
                message(report)
            )
        };
    }
    if report.stopped_because.is_failure() {
        line!(tracing::Level::ERROR);
    } else {
        line!(tracing::Level::INFO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_caller_never_waits_longer_than_api_gateway_does() {
        let now = Timestamp::from_millis(1_000_000);
        let in_five_minutes = now + Duration::from_secs(300);
        assert_eq!(time_left(Caller::Lambda, in_five_minutes, now), Duration::from_secs(300));
        assert_eq!(time_left(Caller::Http, in_five_minutes, now), Duration::from_secs(25));
        assert_eq!(time_left(Caller::Http, now + Duration::from_secs(9), now), Duration::from_secs(9));
        assert_eq!(time_left(Caller::Lambda, now, in_five_minutes), Duration::ZERO);
    }

    #[test]
    fn a_run_that_failed_gets_a_5xx_and_one_that_was_turned_away_a_202() {
        use StopReason::{
            AlreadyRunning, CircuitOpen, DatabaseDown, Deadline, KeysPaused, Maintenance, MaxRequests, NoUsableKey,
            QueueDown, QueueEmpty, RefreshPaused, Shutdown,
        };
        for reason in [
            QueueEmpty,
            Deadline,
            MaxRequests,
            Shutdown,
            RefreshPaused,
            AlreadyRunning,
            KeysPaused,
            Maintenance,
            CircuitOpen,
            NoUsableKey,
            QueueDown,
            DatabaseDown,
        ] {
            assert_eq!(status(reason) >= 500, reason.is_failure(), "{reason:?}");
            assert_eq!(status(reason) == 202, reason.is_turned_away(), "{reason:?}");
        }
    }
}
