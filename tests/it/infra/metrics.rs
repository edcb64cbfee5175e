//! Alarms and dashboard against the metrics that the binary writes.

use std::collections::BTreeSet;

use refresh_worker::metrics::{AFTER_METRICS, DIMENSIONS, METRICS, NAMESPACE, OUTCOME_METRICS, SERVICE};

use super::{between, quoted, read};

pub(super) fn emitted() -> BTreeSet<String> {
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

/// Alarms and dashboard use the namespace and dimensions that the binary writes, and the module sets them.
#[test]
fn alarms_and_dashboard_use_own_dimensions() {
    assert_eq!(DIMENSIONS, ["Service", "Deployment", "Environment"]);
    let alarms = read("infra/alarms.tf");
    assert!(alarms.contains(&format!("metric_namespace  = \"{NAMESPACE}\"")));
    let dimensions = format!("{{ Service = \"{SERVICE}\", Deployment = var.name, Environment = var.environment }}");
    assert!(alarms.contains(&format!("metric_dimensions = {dimensions}")));
    let dashboard = read("infra/dashboard.tf");
    let dimensions = format!("\"Service\", \"{SERVICE}\", \"Deployment\", var.name, \"Environment\", var.environment]");
    assert!(dashboard.contains(&format!("[local.metric_namespace, {dimensions}")));
    let settings = read("infra/settings.tf");
    let set = settings.matches("{ ENVIRONMENT = var.environment, DEPLOYMENT = var.name").count();
    assert_eq!(set, 2, "both roles label alike");
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
