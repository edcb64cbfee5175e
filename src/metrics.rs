//! The metrics: one line a run in CloudWatch's embedded metric format, written to standard output.
//!
//! Turns a finished report of the worker, or of a task, into text; touches no server. The metrics with their units and meaning are the
//! tables [`METRICS`], [`OUTCOME_METRICS`] and [`AFTER_METRICS`]. **Invariant: a number that nobody could measure is left out, never sent
//! as 0**: the size of a queue that does not respond, the share of a budget that the run never held.

use serde_json::{Map, Value, json};

use crate::{
    clock::Timestamp,
    config::TelemetryConfig,
    maintenance::MaintenanceReport,
    model::Outcome,
    planner::Arm,
    worker::{
        planned::tally::PlannedReport,
        report::{QueueReport, RunReport, StopReason},
    },
};

/// The CloudWatch namespace of every metric.
pub const NAMESPACE: &str = "CoC/RefreshWorker";

/// The value of the dimension `Service`.
pub const SERVICE: &str = "refresh-worker";

/// The dimensions of every metric. With `Deployment`, two deployments of one environment do not blend.
pub const DIMENSIONS: [&str; 3] = ["Service", "Deployment", "Environment"];

/// A metric of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    /// CloudWatch's name of the unit.
    pub unit: &'static str,
    pub help: &'static str,
    value: fn(&RunReport) -> Option<Value>,
}

/// The metrics of a run, without those by outcome.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "processed_requests",
        unit: "Count",
        help: "Requests that are done: stored, unchanged, fresh, gone, private.",
        value: |report| Some(report.processed_requests.into()),
    },
    Metric {
        name: "failed_requests",
        unit: "Count",
        help: "Failed attempts: delayed and dead letters.",
        value: |report| Some(report.failed_requests.into()),
    },
    Metric {
        name: "queue_size",
        unit: "Count",
        help: "Requests that wait to be done now: mailbox and ready.",
        value: |report| queue(report, |queue| queue.queue_size.into()),
    },
    Metric {
        name: "oldest_request_age_seconds",
        unit: "Seconds",
        help: "Age of the oldest waiting request, in the mailbox or ready; 0 when none waits, left out when it is unknown.",
        value: |report| report.queue.as_ref()?.oldest_request_age_seconds.map(Into::into),
    },
    Metric {
        name: "mail_in_database_0",
        unit: "Count",
        help: "Requests in Redis database 0, where producers write, while REDIS_URL selects another. Left out when there are none.",
        value: |report| report.queue.as_ref()?.mail_in_database_0.map(Into::into),
    },
    Metric {
        name: "clocks_apart_seconds",
        unit: "Seconds",
        help: "Difference of the clocks of Redis and of the machine. Left out when they agree within 5 s.",
        value: |report| report.clocks.map(|clocks| clocks.apart_seconds.into()),
    },
    Metric {
        name: "delayed",
        unit: "Count",
        help: "Requests that wait for their time.",
        value: |report| queue(report, |queue| queue.delayed.into()),
    },
    Metric {
        name: "leased",
        unit: "Count",
        help: "Requests that a run holds.",
        value: |report| queue(report, |queue| queue.leased.into()),
    },
    Metric {
        name: "dead_letters",
        unit: "Count",
        help: "Requests that ended as dead letters, for a person to look at.",
        value: |report| queue(report, |queue| queue.dead_letters.into()),
    },
    Metric {
        name: "dead_letters_added",
        unit: "Count",
        help: "Dead letters that the run added: failed for good, lapsed too often, or invalid entries.",
        value: |report| Some(report.dead_letters_added().into()),
    },
    Metric {
        name: "held_back",
        unit: "Count",
        help: "1 when the run ended because of maintenance of the API, the daily quota, or a switch that pauses refreshes; else 0.",
        value: |report| Some(u64::from(report.stopped_because.holds_back()).into()),
    },
    Metric {
        name: "api_requests",
        unit: "Count",
        help: "Calls to the API, quick retries and probes included.",
        value: |report| Some(report.api_requests.into()),
    },
    Metric {
        name: "api_requests_per_second",
        unit: "Count/Second",
        help: "Calls a second over the whole run. Left out when the run held no key.",
        value: |report| held(report, report.api_requests_per_second.into()),
    },
    Metric {
        name: "budget_used",
        unit: "None",
        help: "Calls made / calls that the cap of the held keys allowed, 0 to 1. Left out when the run held no key.",
        value: |report| held(report, report.budget_used.into()),
    },
    Metric {
        name: "followups",
        unit: "Count",
        help: "Follow-ups that were queued: next polls of wars, members whose documents are old.",
        value: |report| Some(report.followups.into()),
    },
    Metric {
        name: "events",
        unit: "Count",
        help: "Entries appended to the stream of events.",
        value: |report| Some(report.events.into()),
    },
    Metric {
        name: "cache_keys_deleted",
        unit: "Count",
        help: "Readers' keys that were deleted because they were outdated.",
        value: |report| Some(report.cache_keys_deleted.into()),
    },
    Metric {
        name: "repaired",
        unit: "Count",
        help: "Faults of the queue that were repaired: deleted, broken or written by hand, or lost by Redis.",
        value: |report| Some(report.repaired.total().into()),
    },
    Metric {
        name: "throttled",
        unit: "Count",
        help: "Responses with status 429.",
        value: |report| Some(report.throttled.into()),
    },
    Metric {
        name: "control_calls",
        unit: "Count",
        help: "Calls of objects with good responses before, made to classify bad responses.",
        value: |report| Some(report.control_calls.into()),
    },
    Metric {
        name: "circuits_open",
        unit: "Count",
        help: "Open circuits: the API or its endpoints, which fail as a whole and are only probed.",
        value: |report| Some(report.circuits.len().into()),
    },
    Metric {
        name: "keys_usable",
        unit: "Count",
        help: "Keys that the run could use when it ended; 0 when there is none that the API accepts. Left out when the run never \
               asked for a key, and while keys only cool down.",
        value: |report| {
            let none_is_accepted = report.all_keys_rejected || report.stopped_because == StopReason::NoUsableKey;
            (report.keys_usable > 0 || none_is_accepted).then(|| report.keys_usable.into())
        },
    },
    Metric {
        name: "keys_rejected",
        unit: "Count",
        help: "Configured keys that the API rejects. Left out when it rejects none and the run held none: it never asked for one, or none was free.",
        value: |report| (report.keys_held + report.keys_rejected > 0).then(|| report.keys_rejected.into()),
    },
    Metric {
        name: "calls_left_today",
        unit: "Count",
        help: "Calls left of COC_REQS_PER_DAY until midnight in UTC. Left out without that limit.",
        value: |report| report.day.map(|day| day.calls_left.into()),
    },
    Metric {
        name: "planned_looks",
        unit: "Count",
        help: "Planned calls whose response counted. Left out, as all planned and flagged numbers, while PLANNED_CALLS_PER_SEC is 0.",
        value: |report| planned(report, |planned| planned.looks.into()),
    },
    Metric {
        name: "planned_changed",
        unit: "Count",
        help: "Planned calls that found a change.",
        value: |report| planned(report, |planned| planned.changed.into()),
    },
    Metric {
        name: "planned_level",
        unit: "None",
        help: "Stale reads that the last planned call still saves: the price of a call, on the main side of a trial.",
        value: |report| report.planned.as_ref()?.levels.get(Arm::Main.as_str()).map(|level| (*level).into()),
    },
    Metric {
        name: "planned_lateness_seconds",
        unit: "Seconds",
        help: "Time by which the earliest planned look was late when the run last looked; 0 when none was. Left out when the run did not look.",
        value: |report| report.planned.as_ref()?.lateness_seconds.map(Into::into),
    },
    Metric {
        name: "flagged_reads",
        unit: "Count",
        help: "Reads of a copy older than SNAPSHOT_MAX_AGE that left a request, and were answered.",
        value: |report| planned(report, |planned| planned.flagged_reads.into()),
    },
    Metric {
        name: "flagged_really_stale",
        unit: "Count",
        help: "Flagged reads whose copy had indeed changed.",
        value: |report| planned(report, |planned| planned.flagged_really_stale.into()),
    },
    Metric {
        name: "mail_wait_p99_seconds",
        unit: "Seconds",
        help: "Time within which 99 of 100 readers' requests were answered. Left out when the run answered none.",
        value: |report| report.planned.as_ref()?.mail_wait_p99_seconds.map(Into::into),
    },
    Metric {
        name: "run_duration_ms",
        unit: "Milliseconds",
        help: "Time from the start of the run to its report.",
        value: |report| Some((report.runtime_seconds * 1000.0).round().into()),
    },
];

/// A metric of the work after a run, or of a task.
#[derive(Clone, Copy, Debug)]
pub struct AfterMetric {
    pub name: &'static str,
    pub help: &'static str,
    value: fn(&MaintenanceReport) -> Option<u64>,
}

/// The metrics of the work after a run; all are counts, and left out where the part is not configured.
pub const AFTER_METRICS: &[AfterMetric] = &[
    AfterMetric {
        name: "cache_tags_invalidated",
        help: "Tags of changed objects that the application's cache has invalidated.",
        value: |after| after.all_invalidated().map(|sum| sum.tags),
    },
    AfterMetric {
        name: "cache_tags_lost",
        help: "Tags that the application did not take.",
        value: |after| after.all_invalidated().map(|sum| sum.lost),
    },
    AfterMetric {
        name: "views_refreshed",
        help: "Materialized views that were refreshed.",
        value: |after| after.views_refreshed_and_failed().map(|(refreshed, _)| refreshed),
    },
    AfterMetric {
        name: "view_refresh_failures",
        help: "Materialized views that could not be refreshed.",
        value: |after| after.views_refreshed_and_failed().map(|(_, failed)| failed),
    },
    AfterMetric {
        name: "stats_jobs_completed",
        help: "Statistics jobs that were done.",
        value: |after| after.stats.as_ref().map(|stats| stats.completed),
    },
    AfterMetric {
        name: "stats_jobs_failed",
        help: "Failed attempts at statistics jobs, and the times that no job could be taken.",
        value: |after| after.stats.as_ref().map(|stats| stats.failed + u64::from(stats.failure.is_some())),
    },
    AfterMetric {
        name: "snapshots_thinned",
        help: "Old snapshots that retention deleted.",
        value: |after| after.retention.as_ref().map(|thinned| thinned.deleted),
    },
    AfterMetric {
        name: "retention_failures",
        help: "Times that retention could not delete old snapshots.",
        value: |after| after.retention.as_ref().map(|thinned| u64::from(thinned.failure.is_some())),
    },
];

/// The metrics of each [`Outcome`]: `outcome_` and its label.
pub const OUTCOME_METRICS: [(&str, Outcome); Outcome::ALL.len()] = [
    ("outcome_stored", Outcome::Stored),
    ("outcome_unchanged", Outcome::Unchanged),
    ("outcome_fresh", Outcome::Fresh),
    ("outcome_gone", Outcome::Gone),
    ("outcome_private_war_log", Outcome::PrivateWarLog),
    ("outcome_delayed", Outcome::Delayed),
    ("outcome_released", Outcome::Released),
    ("outcome_dead_letter", Outcome::DeadLetter),
    ("outcome_lease_lost", Outcome::LeaseLost),
];

fn queue(report: &RunReport, number: fn(&QueueReport) -> Value) -> Option<Value> {
    report.queue.as_ref().map(number)
}

fn planned(report: &RunReport, number: fn(&PlannedReport) -> Value) -> Option<Value> {
    report.planned.as_ref().map(number)
}

fn held(report: &RunReport, number: Value) -> Option<Value> {
    (report.keys_held > 0).then_some(number)
}

/// The metrics of one run as one line of JSON, without the line's end. Every run has one, failed or not.
#[must_use]
pub fn run_line(report: &RunReport, telemetry: &TelemetryConfig, now: Timestamp) -> String {
    let plain = METRICS.iter().map(|metric| (metric.name, metric.unit, (metric.value)(report)));
    let outcomes = OUTCOME_METRICS.iter().map(|(name, outcome)| {
        let count = report.outcomes.get(outcome.as_str()).copied().unwrap_or_default();
        (*name, "Count", Some(count.into()))
    });
    let about = json!({
        "message": "metrics of a run",
        "run": report.run,
        "stopped_because": report.stopped_because.as_str(),
    });
    line(plain.chain(outcomes).chain(after(&report.after)), about, telemetry, now)
}

/// The metrics of a task as one line of JSON.
#[must_use]
pub fn task_line(
    task: &str,
    request_id: &str,
    report: &MaintenanceReport,
    telemetry: &TelemetryConfig,
    now: Timestamp,
) -> String {
    let about = json!({"message": "metrics of a task", "run": request_id, "task": task});
    line(after(report), about, telemetry, now)
}

fn after(report: &MaintenanceReport) -> impl Iterator<Item = (&'static str, &'static str, Option<Value>)> {
    AFTER_METRICS.iter().map(|metric| (metric.name, "Count", (metric.value)(report).map(Value::from)))
}

fn line(
    metrics: impl Iterator<Item = (&'static str, &'static str, Option<Value>)>,
    about: Value,
    telemetry: &TelemetryConfig,
    now: Timestamp,
) -> String {
    let mut definitions = Vec::new();
    let mut values = Map::new();
    for (name, unit, value) in metrics {
        // JSON has no infinity, and CloudWatch refuses a line with a metric that is not a number.
        if let Some(value) = value.filter(Value::is_number) {
            definitions.push(json!({"Name": name, "Unit": unit}));
            values.insert(name.to_owned(), value);
        }
    }
    let mut line = json!({
        "_aws": {
            "Timestamp": now.as_millis(),
            "CloudWatchMetrics": [
                {"Namespace": NAMESPACE, "Dimensions": [DIMENSIONS], "Metrics": definitions}
            ],
        },
        "level": "INFO",
        "timestamp": now.to_string(),
        "Service": SERVICE,
        "Deployment": telemetry.deployment,
        "Environment": telemetry.environment,
    });
    if let (Value::Object(line), Value::Object(mut about)) = (&mut line, about) {
        line.append(&mut about);
        line.append(&mut values);
    }
    line.to_string()
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::Duration};

    use super::*;
    use crate::{
        clock::ClocksApart,
        maintenance::{invalidate::Invalidated, jobs::JobsReport, retention::Thinned},
        model::{Kind, Priority},
        worker::report::{DayReport, RunEnd, Tally},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    fn report(stopped_because: StopReason, keys_held: u64, queue: Option<QueueReport>) -> RunReport {
        let mut tally = Tally::new("c6af9ac6-7b61-11e6-9a41-93e8deadbeef".to_owned(), NOW - Duration::from_secs(2));
        tally.count(Kind::Clan, Priority::High, Outcome::Stored);
        tally.count(Kind::Player, Priority::High, Outcome::Gone);
        tally.count(Kind::War, Priority::High, Outcome::Delayed);
        let per_day = NonZeroU64::new(1000).unwrap();
        let day = queue.is_some().then(|| DayReport::new(per_day, 958, NOW));
        tally.finish(RunEnd {
            stopped_because,
            failure: None,
            runtime: Duration::from_millis(2345),
            api_requests: 58,
            calls_allowed: 60.0,
            keys_usable: keys_held,
            keys_held,
            queue,
            day,
        })
    }

    fn line(report: &RunReport) -> Value {
        let text = run_line(report, &TelemetryConfig::default(), NOW);
        assert!(!text.contains('\n'));
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_list_of_metrics() {
        let rows = METRICS.iter().map(|metric| format!("{} [{}] {}", metric.name, metric.unit, metric.help));
        let outcomes =
            OUTCOME_METRICS.iter().map(|(name, _)| format!("{name} [Count] Requests of the run with this outcome."));
        let after = AFTER_METRICS.iter().map(|metric| format!("{} [Count] {}", metric.name, metric.help));
        insta::assert_snapshot!(rows.chain(outcomes).chain(after).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn one_line_of_a_run() {
        let queue = QueueReport {
            queue_size: 7,
            dead_letters: 1,
            oldest_request_age_seconds: Some(12.5),
            ..QueueReport::default()
        };
        insta::assert_json_snapshot!(line(&report(StopReason::QueueEmpty, 1, Some(queue))));
    }

    #[test]
    fn task_line_has_only_its_metrics() {
        let report = MaintenanceReport { views: Some(Vec::new()), ..MaintenanceReport::default() };
        let text = task_line("refresh-views", "c6af9ac6", &report, &TelemetryConfig::default(), NOW);
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["task"], &line["views_refreshed"]), (&json!("refresh-views"), &json!(0)));
        assert_eq!((line.get("stats_jobs_completed"), line.get("processed_requests")), (None, None));
    }

    #[test]
    fn every_outcome_has_a_metric() {
        for (outcome, (name, metric)) in Outcome::ALL.iter().zip(OUTCOME_METRICS) {
            assert_eq!((*outcome, format!("outcome_{outcome}").as_str()), (metric, name));
        }
    }

    #[test]
    fn silent_queue_leaves_its_numbers_out() {
        let line = line(&report(StopReason::QueueDown, 0, None));
        for name in ["queue_size", "oldest_request_age_seconds", "delayed", "leased", "dead_letters"] {
            assert_eq!(line.get(name), None, "{name}");
            assert!(!line["_aws"].to_string().contains(&format!("\"{name}\"")), "{name}");
        }
        assert_eq!(line["processed_requests"], 2);
    }

    #[test]
    fn unknown_age_is_left_out() {
        let queue = QueueReport { oldest_request_age_seconds: None, ..QueueReport::default() };
        let line = line(&report(StopReason::QueueEmpty, 1, Some(queue)));
        assert_eq!((line.get("oldest_request_age_seconds"), &line["queue_size"]), (None, &json!(0)));
        assert!(!line["_aws"].to_string().contains("oldest_request_age_seconds"));
    }

    #[test]
    fn run_without_key_has_no_budget() {
        let turned_away = line(&report(StopReason::AlreadyRunning, 0, None));
        for name in ["budget_used", "api_requests_per_second", "keys_usable"] {
            assert_eq!(turned_away.get(name), None, "{name}");
        }
        assert_eq!(line(&report(StopReason::NoUsableKey, 0, None))["keys_usable"], 0);
    }

    #[test]
    fn keys_usable_is_zero_while_all_are_rejected() {
        let mut turned_away = report(StopReason::KeysCoolingDown, 0, None);
        assert_eq!(line(&turned_away).get("keys_usable"), None, "they only cool down");
        (turned_away.keys_rejected, turned_away.all_keys_rejected) = (2, true);
        let rejected = line(&turned_away);
        assert_eq!((&rejected["keys_usable"], &rejected["keys_rejected"]), (&json!(0), &json!(2)));
    }

    #[test]
    fn dead_letters_are_counted_in_every_way() {
        let mut report = report(StopReason::QueueEmpty, 1, None);
        assert_eq!(line(&report)["dead_letters_added"], 0);
        report.outcomes.insert("dead_letter", 1);
        (report.lapsed_dead, report.mail.unreadable, report.repaired.invalid_entries) = (2, 4, 8);
        assert_eq!(line(&report)["dead_letters_added"], 15);
    }

    #[test]
    fn held_back_names_only_what_passes() {
        let held = |reason| line(&report(reason, 0, None))["held_back"] == 1;
        let reasons: Vec<&str> =
            StopReason::ALL.into_iter().filter(|reason| held(*reason)).map(StopReason::as_str).collect();
        assert_eq!(reasons, ["refresh_paused", "daily_quota", "maintenance"]);
    }

    #[test]
    fn planner_that_is_off_leaves_its_numbers_out() {
        let line = line(&report(StopReason::QueueEmpty, 1, None));
        for name in ["planned", "flagged", "mail_wait"] {
            assert!(!line.to_string().contains(name), "{name}");
        }
    }

    #[test]
    fn unknown_numbers_of_the_planner_are_left_out() {
        let mut report = report(StopReason::AlreadyRunning, 0, None);
        report.planned = Some(PlannedReport { looks: 3, levels: [("trial", 0.5)].into(), ..PlannedReport::default() });
        let line = line(&report);
        for name in ["planned_level", "planned_lateness_seconds", "mail_wait_p99_seconds"] {
            assert_eq!(line.get(name), None, "{name}");
        }
        let counts = ["planned_looks", "planned_changed", "flagged_reads", "flagged_really_stale"];
        assert_eq!(counts.map(|name| line[name].as_u64()), [Some(3), Some(0), Some(0), Some(0)]);
    }

    #[test]
    fn level_is_that_of_the_main_side() {
        let mut report = report(StopReason::Deadline, 1, None);
        let levels = [("main", 0.25), ("trial", 0.5)].into();
        report.planned = Some(PlannedReport { levels, lateness_seconds: Some(7.5), ..PlannedReport::default() });
        let line = line(&report);
        assert_eq!((&line["planned_level"], &line["planned_lateness_seconds"]), (&json!(0.25), &json!(7.5)));
    }

    #[test]
    fn every_metric_has_number_in_line() {
        let queue = QueueReport { mail_in_database_0: Some(3), ..QueueReport::default() };
        let mut report = report(StopReason::QueueEmpty, 1, Some(queue));
        let apart = ClocksApart { server: NOW, machine: Timestamp::EPOCH, database: None };
        report.clocks = Some(apart.into());
        report.planned = Some(PlannedReport {
            levels: [("main", 0.25)].into(),
            lateness_seconds: Some(0.0),
            mail_wait_p99_seconds: Some(1.5),
            ..PlannedReport::default()
        });
        report.after = MaintenanceReport {
            caches: Some(Invalidated::default()),
            views: Some(Vec::new()),
            stats: Some(JobsReport::default()),
            retention: Some(Thinned::default()),
        };
        let line = line(&report);
        let definitions = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap().clone();
        assert_eq!(definitions.len(), METRICS.len() + OUTCOME_METRICS.len() + AFTER_METRICS.len());
        for definition in definitions {
            assert!(line[definition["Name"].as_str().unwrap()].is_number(), "{definition}");
        }
    }
}
