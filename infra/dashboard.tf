# One page: is it working, is it keeping up, is the budget used, are keys healthy, are reads fresh, what fails.

locals {
  own_metric = [local.metric_namespace, "Service", "refresh-worker", "Deployment", var.name, "Environment", var.environment]

  # [title, [[metric, statistic, label]], horizontal line or null]
  own_graphs = {
    keeping_up    = { title = "Is it keeping up? Requests that wait", metrics = [["queue_size", "Maximum"], ["delayed", "Maximum"], ["leased", "Maximum"], ["held_back", "Maximum"]], line = null }
    oldest        = { title = "Is it keeping up? Age of the oldest request (s)", metrics = [["oldest_request_age_seconds", "Maximum"]], line = { label = "alarm", value = local.oldest_request_threshold } }
    work          = { title = "What it does: requests and calls", metrics = [["processed_requests", "Sum"], ["failed_requests", "Sum"], ["api_requests", "Sum"]], line = null }
    rate          = { title = "Calls a second (one key: 30)", metrics = [["api_requests_per_second", "Maximum"], ["api_requests_per_second", "Average"]], line = { label = "one key", value = 30 } }
    budget        = { title = "Is the budget used? (1 = every allowed call)", metrics = [["budget_used", "Average"], ["budget_used", "Maximum"]], line = { label = "all", value = 1 } }
    keys          = { title = "Are keys healthy? Usable and rejected keys, 429 responses", metrics = [["keys_usable", "Minimum"], ["keys_rejected", "Maximum"], ["throttled", "Sum"]], line = null }
    circuits      = { title = "Does the API work? Open circuits, control calls", metrics = [["circuits_open", "Maximum"], ["control_calls", "Sum"]], line = null }
    day           = { title = "Calls left today (only with COC_REQS_PER_DAY)", metrics = [["calls_left_today", "Minimum"]], line = null }
    planned       = { title = "Fresh reads: planned looks, flagged reads (only with PLANNED_CALLS_PER_SEC)", metrics = [["planned_looks", "Sum"], ["planned_changed", "Sum"], ["flagged_reads", "Sum"], ["flagged_really_stale", "Sum"]], line = null }
    lateness      = { title = "Fresh reads: lateness of planned looks, wait of readers' requests (s)", metrics = [["planned_lateness_seconds", "Maximum"], ["mail_wait_p99_seconds", "Maximum"]], line = null }
    level         = { title = "Fresh reads: the level, stale reads that the last planned call saves", metrics = [["planned_level", "Average"]], line = null }
    failures      = { title = "What fails? Attempts and dead letters", metrics = [["outcome_delayed", "Sum"], ["outcome_dead_letter", "Sum"], ["dead_letters", "Maximum"], ["dead_letters_added", "Sum"], ["repaired", "Sum"], ["mail_in_database_0", "Maximum"], ["clocks_apart_seconds", "Maximum"]], line = null }
    outcomes      = { title = "Requests by outcome", metrics = [for outcome in ["stored", "unchanged", "fresh", "gone", "private_war_log", "released", "lease_lost"] : ["outcome_${outcome}", "Sum"]], line = null }
    caches        = { title = "Are caches invalidated? Tags", metrics = [["cache_tags_invalidated", "Sum"], ["cache_tags_lost", "Sum"]], line = null }
    after_runs    = { title = "What followed runs: views, statistics jobs, retention", metrics = [["views_refreshed", "Sum"], ["view_refresh_failures", "Sum"], ["stats_jobs_completed", "Sum"], ["stats_jobs_failed", "Sum"], ["snapshots_thinned", "Sum"], ["retention_failures", "Sum"]], line = null }
    after_commits = { title = "What followed commits: follow-ups, events, cache keys deleted", metrics = [["followups", "Sum"], ["events", "Sum"], ["cache_keys_deleted", "Sum"]], line = null }
    run_duration  = { title = "Length of a run (ms)", metrics = [["run_duration_ms", "Average"], ["run_duration_ms", "Maximum"]], line = { label = "limit of a run", value = var.max_runtime_seconds * 1000 } }
  }

  own_widgets = {
    for key, graph in local.own_graphs : key => {
      title   = graph.title
      metrics = [for metric in graph.metrics : concat([local.own_metric[0], metric[0]], slice(local.own_metric, 1, 7), [{ stat = metric[1], label = "${metric[0]} (${lower(metric[1])})" }])]
      line    = graph.line
    }
  }

  lambda_widgets = {
    invocations = {
      title = "Is it working? Invocations, errors, throttles"
      metrics = [
        for metric in ["Invocations", "Errors", "Throttles"] :
        ["AWS/Lambda", metric, "FunctionName", local.function_names.refresh, { stat = "Sum", label = metric }]
      ]
      line = null
    }
    duration = {
      title = "Duration of invocations (ms)"
      metrics = [
        for stat in ["p50", "p99", "Maximum"] :
        ["AWS/Lambda", "Duration", "FunctionName", local.function_names.refresh, { stat = stat, label = stat }]
      ]
      line = { label = "alarm", value = local.alarms.duration.threshold }
    }
    concurrency = {
      title = "Runs side by side; failed events"
      metrics = [
        ["AWS/Lambda", "ConcurrentExecutions", "FunctionName", local.function_names.refresh, { stat = "Maximum", label = "concurrent runs" }],
        ["AWS/SQS", "NumberOfMessagesSent", "QueueName", aws_sqs_queue.failures.name, { stat = "Sum", label = "failed events" }],
        ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", aws_sqs_queue.failures.name, { stat = "Maximum", label = "failure queue" }],
      ]
      line = null
    }
  }

  graphs       = merge(local.own_widgets, local.lambda_widgets)
  widget_order = ["invocations", "duration", "concurrency", "keeping_up", "oldest", "run_duration", "rate", "budget", "keys", "planned", "lateness", "level", "circuits", "day", "work", "outcomes", "failures", "caches", "after_runs", "after_commits"]

  dashboard = {
    widgets = [
      for index, key in local.widget_order : {
        type   = "metric"
        x      = (index % 3) * 8
        y      = floor(index / 3) * 6
        width  = 8
        height = 6
        properties = {
          title       = "${local.graphs[key].title} · ${var.name}, ${local.region}" # Several may be on one page.
          view        = "timeSeries"
          region      = local.region
          period      = 300
          metrics     = local.graphs[key].metrics
          annotations = { horizontal = local.graphs[key].line == null ? [] : [local.graphs[key].line] }
          yAxis       = { left = { min = 0 } }
        }
      }
    ]
  }
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.create_dashboard ? 1 : 0

  dashboard_name = "${var.name}-${local.region}" # Names are the account's, over all regions.
  dashboard_body = jsonencode(local.dashboard)
}
