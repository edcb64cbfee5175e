//! A refresh: lets a run happen within the caller's time, and turns its report into the response, the one metrics line and
//! the one log line.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Handlers, Invocation,
    lambda::Caller,
    response::{Access, Failure, FailureKind, Response},
};
use crate::{
    metrics,
    model::ObjectId,
    queue::{Queue, SharedState},
    store::Store,
    worker::{
        RunOptions, Runs, Unwatched, public,
        report::{RunReport, StopReason},
    },
};

/// The time of a run for a synchronous HTTP caller: API Gateway gives up after 29 s.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(25);

impl<R: Runs, Q: Queue + SharedState, S: Store> Handlers<R, Q, S> {
    pub(super) async fn refresh(
        &self,
        options: RunOptions,
        caller: Caller,
        invocation: &Invocation,
        print: &(dyn Fn(&str) + Sync),
    ) -> Result<Response, Failure> {
        let named = options.named.clone();
        let clock = Arc::clone(&self.clock);
        let options = RunOptions {
            run: Some(invocation.request_id.clone()),
            time_left: Some(invocation.deadline.since(clock.wall())),
            max_runtime: budget(caller, options.max_runtime),
            answer_soon: caller == Caller::Http,
            ..options
        };
        let report = self.runs.run(options, &Unwatched).await;
        print(&metrics::run_line(&report, &self.settings.telemetry, clock.wall()));
        log(&report);
        respond(report, &named, caller)
    }
}

/// The limit of the run besides the invocation's deadline.
fn budget(caller: Caller, asked: Option<Duration>) -> Option<Duration> {
    match caller {
        Caller::Lambda => asked,
        Caller::Http => Some(asked.map_or(HTTP_TIMEOUT, |asked| asked.min(HTTP_TIMEOUT))),
    }
}

/// The response's body: the result in short, then the whole report.
#[derive(Debug, Serialize)]
struct Body<'a> {
    /// `done`, `accepted` (queued, and not done by this run) or `failed`.
    status: &'static str,
    message: String,
    /// The named objects that were queued: they wait in front, or are done.
    queued: Vec<String>,
    #[serde(flatten)]
    report: &'a RunReport,
}

/// # Errors
/// When the run failed and the caller is Lambda: its own `Errors` metric counts it.
fn respond(report: RunReport, named: &[ObjectId], caller: Caller) -> Result<Response, Failure> {
    let report = if caller == Caller::Http { for_clients(report) } else { report };
    let status = match status(report.stopped_because) {
        // The run was turned away only after it had done some work.
        202 if report.processed_requests > 0 => 200,
        status => status,
    };
    let message = message(&report);
    if caller == Caller::Lambda && status >= 500 {
        return Err(Failure::new(FailureKind::Refresh(report.stopped_because), message));
    }
    let is_queued = |name: &String| report.enqueued > 0 && report.not_queued.iter().all(|other| other.object != *name);
    let queued = named.iter().map(ToString::to_string).filter(is_queued).collect();
    let word = match status {
        200 => "done",
        202 => "accepted",
        _ => "failed",
    };
    let body = Body { status: word, message, queued, report: &report };
    let body = serde_json::to_value(&body).expect("a report has text keys and finite numbers only");
    let mut response = Response::new(caller, status, body);
    if response.access == Access::Granted && report.keys_rejected + report.logins_failed > 0 {
        response.access = Access::SomeKeysRejected;
    }
    Ok(response)
}

/// The report without the texts of servers: an HTTP caller is not the operator, and an error names hosts and roles.
fn for_clients(report: RunReport) -> RunReport {
    let see_log = format!("the log of request {} says more", report.run);
    let failure = report.stopped_because.is_failure().then(|| {
        let failure = public::failure(report.stopped_because, report.failure.as_deref());
        let kind = failure.strip_prefix(report.stopped_because.sentence()).unwrap_or_default();
        let kind = kind.trim_start_matches([':', ' ']);
        if kind.is_empty() { see_log.clone() } else { format!("{kind}; {see_log}") }
    });
    let all = report.errors.len();
    let errors: Vec<String> = report.errors.iter().filter_map(|error| public::error_of_object(error)).collect();
    let errors_omitted = report.errors_omitted + (all - errors.len()) as u64;
    let mut after = report.after;
    if let Some(failure) = after.caches.as_mut().and_then(|caches| caches.failure.as_mut()) {
        failure.clone_from(&see_log);
    }
    // No other work follows a run with an HTTP caller.
    (after.views, after.stats, after.retention) = (None, None, None);
    RunReport { failure, errors, errors_omitted, after, ..report }
}

/// 202: the run could do nothing, named requests wait in the queue. 503: our own servers fail. 502: the API, or our keys for it,
/// fail. 500: the function is set up wrongly.
const fn status(stopped_because: StopReason) -> u16 {
    match stopped_because {
        StopReason::QueueEmpty | StopReason::Deadline | StopReason::MaxRequests | StopReason::Shutdown => 200,
        StopReason::RefreshPaused
        | StopReason::AlreadyRunning
        | StopReason::KeysCoolingDown
        | StopReason::DailyQuotaExhausted
        | StopReason::Maintenance
        | StopReason::CircuitOpen => 202,
        StopReason::TimeoutTooShort => 500,
        StopReason::ApiUnreachable | StopReason::NoUsableKey => 502,
        StopReason::DeadLettersFull | StopReason::QueueDown | StopReason::DatabaseDown => 503,
    }
}

// The objects that a message names which were not queued; the report has all.
const MAX_NAMED_IN_MESSAGE: usize = 3;

/// The result of a run, in one sentence.
fn message(report: &RunReport) -> String {
    let RunReport { processed_requests: processed, failed_requests: failed, .. } = report;
    let counts = format!("{processed} processed, {failed} failed");
    let reason = match report.stopped_because {
        // "Cooling down" would sound as if it passed.
        StopReason::KeysCoolingDown if report.all_keys_rejected => {
            "the API rejects every key; each is tried again 9 minutes after it was rejected"
        }
        reason => reason.sentence(),
    };
    let until = report.day.filter(|_| report.stopped_because == StopReason::DailyQuotaExhausted);
    let until = until.map(|day| format!(" until {}", day.resets_at)).unwrap_or_default();
    let failure = report.failure.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
    let mut not_queued = String::new();
    for other in report.not_queued.iter().take(MAX_NAMED_IN_MESSAGE) {
        // Writing to a text cannot fail.
        let _ = write!(not_queued, "; {} was not queued: {}", other.object, other.reason);
    }
    if let more @ 1.. = report.not_queued.len().saturating_sub(MAX_NAMED_IN_MESSAGE) {
        let _ = write!(not_queued, "; {more} more were not queued");
    }
    format!("{counts}; {reason}{until}{failure}{not_queued}")
}

/// The one log line of a run: `info`, or `error` when a person should look.
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
                outcome.fresh = report.outcomes.get("fresh"),
                outcome.gone = report.outcomes.get("gone"),
                outcome.private_war_log = report.outcomes.get("private_war_log"),
                outcome.delayed = report.outcomes.get("delayed"),
                outcome.released = report.outcomes.get("released"),
                outcome.dead_letter = report.outcomes.get("dead_letter"),
                outcome.lease_lost = report.outcomes.get("lease_lost"),
                errors = (!report.errors.is_empty()).then(|| report.errors.join(" | ")),
                errors_omitted = report.errors_omitted,
                queue_size = report.queue.as_ref().map(|queue| queue.queue_size),
                dead_letters = report.queue.as_ref().map(|queue| queue.dead_letters),
                oldest_request_age_seconds = report.queue.as_ref().and_then(|queue| queue.oldest_request_age_seconds),
                runtime_seconds = report.runtime_seconds,
                api_requests = report.api_requests,
                api_requests_per_second = report.api_requests_per_second,
                budget_used = report.budget_used,
                throttled = report.throttled,
                calls_left_today = report.day.map(|day| day.calls_left),
                enqueued = report.enqueued,
                not_queued = (!report.not_queued.is_empty()).then_some(report.not_queued.len()),
                mail.admitted = report.mail.admitted,
                mail.unreadable = report.mail.unreadable,
                repaired = report.repaired.total(),
                caches.invalidated = report.after.caches.as_ref().map(|caches| caches.tags),
                caches.lost = report.after.caches.as_ref().map(|caches| caches.lost),
                views.refreshed = report.after.views_refreshed_and_failed().map(|(refreshed, _)| refreshed),
                views.failed = report.after.views_refreshed_and_failed().map(|(_, failed)| failed),
                jobs.completed = report.after.stats.as_ref().map(|stats| stats.completed),
                jobs.failed = report.after.stats.as_ref().map(|stats| stats.failed),
                snapshots.thinned = report.after.retention.as_ref().map(|thinned| thinned.deleted),
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
    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt;

    use serde_json::Value;

    use super::*;
    use crate::{
        clock::{ManualClock, Timestamp},
        queue::{Enqueued, NotQueued},
        telemetry::JsonLines,
        worker::report::{RunEnd, Tally},
    };

    fn end(stopped_because: StopReason) -> RunEnd {
        RunEnd {
            stopped_because,
            failure: None,
            runtime: Duration::from_secs(1),
            api_requests: 0,
            calls_allowed: 0.0,
            keys_usable: 0,
            keys_held: 0,
            queue: None,
            day: None,
        }
    }

    /// The log lines of a run's report.
    fn logged(stopped_because: StopReason) -> Vec<Value> {
        let mut tally = Tally::new("8f507cfc".to_owned(), Timestamp::EPOCH);
        tally.error("first");
        tally.error("second");
        let report = tally.finish(end(stopped_because));
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&written);
        let lines = JsonLines::new(move || Written(Arc::clone(&writer)), ManualClock::at(Timestamp::EPOCH));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || log(&report));
        let written = written.lock();
        String::from_utf8_lossy(&written).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn named_dead_letter_is_reported_as_not_queued() {
        let named: [ObjectId; 2] = ["clan:2PP", "clan:2QQ"].map(|object| object.parse().unwrap());
        let dead = NotQueued { object: named[0].clone(), died: Timestamp::EPOCH, reason: "it kills".to_owned() };
        let mut tally = Tally::new("8f507cfc".to_owned(), Timestamp::EPOCH);
        tally.enqueued(Enqueued { queued: 1, dead: vec![dead] });
        let report = tally.finish(end(StopReason::AlreadyRunning));
        let answer = respond(report, &named, Caller::Lambda).unwrap().value;
        assert_eq!((&answer["queued"], &answer["enqueued"]), (&serde_json::json!(["clan:2QQ"]), &1.into()));
        assert_eq!(answer["not_queued"][0]["object"], "clan:2PP");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("clan:2PP was not queued: it is a dead letter since 1970-01-01"), "{message}");
        assert!(
            message.ends_with("(lapsed: it kills); `refresh-worker enqueue clan:2PP --revive` returns it to the queue")
        );
    }

    #[test]
    fn run_is_one_log_line() {
        let lines = logged(StopReason::QueueEmpty);
        assert_eq!((lines.len(), &lines[0]["level"]), (1, &"INFO".into()));
        assert_eq!((&lines[0]["run.id"], &lines[0]["errors"]), (&"8f507cfc".into(), &"first | second".into()));
        assert_eq!((&lines[0]["outcome.stored"], lines[0].get("queue_size")), (&0.into(), None));
        let lines = logged(StopReason::NoUsableKey);
        assert_eq!((lines.len(), &lines[0]["level"]), (1, &"ERROR".into()));
    }

    #[test]
    fn http_caller_waits_25_seconds_at_most() {
        let asked = Some(Duration::from_secs(60));
        assert_eq!(budget(Caller::Lambda, None), None);
        assert_eq!(budget(Caller::Lambda, asked), asked);
        assert_eq!(budget(Caller::Http, None), Some(HTTP_TIMEOUT));
        assert_eq!(budget(Caller::Http, asked), Some(HTTP_TIMEOUT));
        assert_eq!(budget(Caller::Http, Some(Duration::from_secs(9))), Some(Duration::from_secs(9)));
    }

    #[test]
    fn status_of_failed_and_turned_away_runs() {
        for reason in StopReason::ALL {
            assert_eq!(status(reason) >= 500, reason.is_failure(), "{reason:?}");
            assert_eq!(status(reason) == 202, reason.is_turned_away(), "{reason:?}");
        }
    }
}
