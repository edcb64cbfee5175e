//! Alarms and dashboard against the metrics that the binary writes.

use std::collections::BTreeSet;

use refresh_worker::metrics::{AFTER_METRICS, METRICS, NAMESPACE, OUTCOME_METRICS, SERVICE};

use super::{between, quoted, read};

fn emitted() -> BTreeSet<String> {
    let plain = METRICS.iter().map(|metric| metric.name);
    let after = AFTER_METRICS.iter().map(|metric| metric.name);
    plain.chain(OUTCOME_METRICS.iter().map(|(name, _)| *name)).chain(after).map(str::to_owned).collect()
}

/// The dashboard's own metrics: the first of each pair of a metric and a statistic.
fn on_the_dashboard() -> BTreeSet<String> {
    let text = read("infra/dashboard.tf");
    let graphs = between(&text, "own_graphs = {", "\n  }\n");
    let is_statistic = |word: &str| ["Maximum", "Minimum", "Average", "Sum"].contains(&word);
    let words = quoted(graphs);
    let mut names: BTreeSet<String> =
        words.windows(2).filter(|pair| is_statistic(pair[1])).map(|pair| pair[0].to_owned()).collect();
    assert!(names.remove("outcome_${outcome}"), "the outcomes are one expression");
    names.extend(
        quoted(between(graphs, "for outcome in [", "]")).into_iter().map(|outcome| format!("outcome_{outcome}")),
    );
    names
}

/// Alarms and dashboard use the namespace and dimensions that the binary writes.
#[test]
fn alarms_and_dashboard_use_own_dimensions() {
    let alarms = read("infra/alarms.tf");
    assert!(alarms.contains(&format!("metric_namespace  = \"{NAMESPACE}\"")));
    assert!(
        alarms.contains(&format!("metric_dimensions = {{ Service = \"{SERVICE}\", Environment = var.environment }}"))
    );
    let dashboard = read("infra/dashboard.tf");
    let dimensions = format!("[local.metric_namespace, \"Service\", \"{SERVICE}\", \"Environment\", var.environment]");
    assert!(dashboard.contains(&dimensions));
    assert!(
        read("infra/settings.tf").matches("{ ENVIRONMENT = var.environment").count() == 2,
        "both roles label alike"
    );
}

#[test]
fn alarms_watch_existing_metrics() {
    let alarms = read("infra/alarms.tf");
    let own: Vec<&str> = alarms
        .split("namespace   = local.metric_namespace, metric = \"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    let derived = ["view_refresh_failures", "view_refresh_failures", "stats_jobs_failed"];
    assert_eq!(own, [&["dead_letters", "oldest_request_age_seconds", "queue_size"], derived.as_slice()].concat());
    assert!(alarms.contains("start     = { metric = \"run_duration_ms\", statistic = \"SampleCount\" }"));
    assert!(alarms.contains("duration  = \"run_duration_ms\""));
    assert!(own.iter().chain(&["run_duration_ms"]).all(|name| emitted().contains(*name)));
}

#[test]
fn dashboard_shows_exactly_all_metrics() {
    assert_eq!(on_the_dashboard(), emitted());
}

#[test]
fn dashboard_orders_every_graph() {
    let text = read("infra/dashboard.tf");
    let order = quoted(between(&text, "widget_order = [", "]"));
    let graphs = between(&text, "own_graphs = {", "\n  }\n");
    let names = graphs.lines().filter_map(|line| line.split_once(" = { title")?.0.split_whitespace().next());
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 10 && names.iter().all(|name| order.contains(name)), "{names:?} against {order:?}");
}

#[test]
fn runbook_covers_every_alarm() {
    let (alarms, runbook) = (read("infra/alarms.tf"), read("docs/operating.md"));
    let keys: Vec<&str> = alarms
        .lines()
        .filter_map(|line| line.strip_suffix(" = {")?.strip_prefix("    "))
        .filter(|key| {
            key.contains('-') || *key == "errors" || *key == "duration" || *key == "throttles" || *key == "backlog"
        })
        .collect();
    assert_eq!(keys.len(), 15, "{keys:?}");
    for key in keys {
        assert!(runbook.contains(&format!("\n### {key}\n")), "docs/operating.md says nothing about {key}");
    }
}
