# When a person should look. docs/operating.md has a section for each alarm: what it means and what to do.

locals {
  metric_namespace  = "CoC/RefreshWorker"
  metric_dimensions = { Service = "refresh-worker", Environment = var.environment }

  lambda_dimensions = { FunctionName = local.function_names.refresh }

  # The source of numbers about runs. Without tasks it is Lambda's metrics of invocations. Tasks are invocations, too: started
  # every minute, they would hide that no run starts, and they may take all the time there is. With tasks it is the worker's own
  # metric, which every run writes. A run that Lambda had to end writes none, but counts as an error.
  run_source = length(local.tasks) == 0 ? {
    namespace = "AWS/Lambda", dimensions = tomap(local.lambda_dimensions)
    start     = { metric = "Invocations", statistic = "Sum" }
    duration  = "Duration"
    } : {
    namespace = local.metric_namespace, dimensions = tomap(local.metric_dimensions)
    start     = { metric = "run_duration_ms", statistic = "SampleCount" }
    duration  = "run_duration_ms"
  }

  # The seconds within which a schedule must have started something: two and a half ticks, from five minutes to a day, which is
  # the longest period CloudWatch has. A cron expression has no such number and gets the day.
  heard_of_within = {
    for name, expression in { runs = var.schedule_expression, views = var.views_schedule_expression } : name => try(
      min(86400, max(300, ceil(2.5 * regex("^rate\\(([0-9]+) minutes?\\)$", expression)[0]) * 60)),
      min(86400, ceil(2.5 * regex("^rate\\(([0-9]+) hours?\\)$", expression)[0]) * 3600),
      86400,
    )
  }

  alarms = merge({
    errors = {
      description = "Many invocations failed: more than the schedule alone can cause"
      namespace   = "AWS/Lambda", metric = "Errors", dimensions = local.lambda_dimensions
      statistic   = "Sum", period = 600, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.errors, missing = "notBreaching"
    }
    failing-schedule = {
      description = "Scheduled runs fail one after the other"
      namespace   = "AWS/Lambda", metric = "Errors", dimensions = local.lambda_dimensions
      statistic   = "Sum", period = 600, evaluations = 1
      comparison  = "GreaterThanOrEqualToThreshold", threshold = var.alarm_thresholds.failing_schedule, missing = "notBreaching"
    }
    no-invocations = {
      description = "Nothing starts the worker"
      namespace   = local.run_source.namespace, metric = local.run_source.start.metric, dimensions = local.run_source.dimensions
      statistic   = local.run_source.start.statistic, period = local.heard_of_within.runs, evaluations = 1
      comparison  = "LessThanThreshold", threshold = 1, missing = "breaching"
    }
    duration = {
      description = "A run took longer than it may"
      namespace   = local.run_source.namespace, metric = local.run_source.duration, dimensions = local.run_source.dimensions
      statistic   = "Maximum", period = 300, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.duration_ms, missing = "notBreaching"
    }
    throttles = {
      description = "Lambda turned invocations away"
      namespace   = "AWS/Lambda", metric = "Throttles", dimensions = local.lambda_dimensions
      statistic   = "Sum", period = 300, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.throttles, missing = "notBreaching"
    }
    # AsyncEventsDropped has no alarm: without retries it counts every failed run, as errors does, and events that were dropped
    # otherwise had been throttled before. Each such event is in the failure queue.
    failure-queue = {
      description = "There are failed events in the failure queue"
      namespace   = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = aws_sqs_queue.failures.name }
      statistic   = "Maximum", period = 300, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = 0, missing = "notBreaching"
    }
    dead-letters = {
      description = "There are dead letters: requests set aside for a person"
      namespace   = local.metric_namespace, metric = "dead_letters", dimensions = local.metric_dimensions
      statistic   = "Maximum", period = 300, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.dead_letters, missing = "notBreaching"
    }
    oldest-request = {
      description = "A request has waited for too long"
      namespace   = local.metric_namespace, metric = "oldest_request_age_seconds", dimensions = local.metric_dimensions
      statistic   = "Maximum", period = 300, evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.oldest_request_age_seconds, missing = "notBreaching"
    }
    queue-depth = {
      description = "Too many requests wait"
      namespace   = local.metric_namespace, metric = "queue_size", dimensions = local.metric_dimensions
      statistic   = "Maximum", period = 300, evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.queue_size, missing = "notBreaching"
    }
    }, local.refreshes_views ? {
    view-refresh = {
      description = "Many refreshes of materialized views failed"
      namespace   = local.metric_namespace, metric = "view_refresh_failures", dimensions = local.metric_dimensions
      statistic   = "Sum", period = 120, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.view_refresh_failures, missing = "notBreaching"
    }
    # A single view fails two or three times in two minutes: too few for view-refresh, however long it lasts.
    view-stuck = {
      description = "A materialized view fails again and again"
      namespace   = local.metric_namespace, metric = "view_refresh_failures", dimensions = local.metric_dimensions
      statistic   = "Sum", period = local.heard_of_within.views, evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = 0, missing = "notBreaching"
    }
    } : {}, local.has_stats ? {
    stats-jobs = {
      description = "Statistics jobs fail"
      namespace   = local.metric_namespace, metric = "stats_jobs_failed", dimensions = local.metric_dimensions
      statistic   = "Sum", period = 900, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.stats_jobs_failed, missing = "notBreaching"
    }
    } : {}, var.create_api ? {
    api-5xx = {
      description = "API Gateway returned 5xx responses"
      namespace   = "AWS/ApiGateway", metric = "5XXError", dimensions = { ApiName = var.name, Stage = "live" }
      statistic   = "Sum", period = 300, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = var.alarm_thresholds.api_5xx, missing = "notBreaching"
    }
  } : {})

  composite_alarms = {
    worker-unhealthy = {
      description = "The worker is not started, fails, or is too slow"
      rule        = join(" OR ", [for key in ["no-invocations", "errors", "failing-schedule", "duration"] : "ALARM(\"${var.name}-${key}\")"])
    }
    backlog = {
      description = "The worker does not keep up: many requests wait, and for long"
      rule        = join(" AND ", [for key in ["queue-depth", "oldest-request"] : "ALARM(\"${var.name}-${key}\")"])
    }
  }

  create_topic  = var.create_alarms && var.alarm_topic_arn == null
  alarm_actions = var.create_alarms ? [local.create_topic ? aws_sns_topic.alarms[0].arn : var.alarm_topic_arn] : []
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = { for key, alarm in local.alarms : key => alarm if var.create_alarms }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description}. What to do: docs/operating.md, ${each.key}."
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = each.value.period
  evaluation_periods  = each.value.evaluations
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  treat_missing_data  = each.value.missing

  # A schedule that was switched off on purpose raises no alarm.
  actions_enabled = each.key == "no-invocations" ? var.schedule_enabled : true
  alarm_actions   = local.alarm_actions
  ok_actions      = local.alarm_actions
  tags            = local.tags
}

resource "aws_cloudwatch_composite_alarm" "this" {
  for_each = { for key, alarm in local.composite_alarms : key => alarm if var.create_alarms }

  alarm_name        = "${var.name}-${each.key}"
  alarm_description = "${each.value.description}. What to do: docs/operating.md, ${each.key}."
  alarm_rule        = each.value.rule
  actions_enabled   = var.schedule_enabled
  alarm_actions     = local.alarm_actions
  ok_actions        = local.alarm_actions
  tags              = local.tags

  depends_on = [aws_cloudwatch_metric_alarm.this]
}

data "aws_iam_policy_document" "alarm_key" {
  #checkov:skip=CKV_AWS_109:In a key's policy `*` is the key itself.
  #checkov:skip=CKV_AWS_111:In a key's policy `*` is the key itself.
  #checkov:skip=CKV_AWS_356:In a key's policy `*` is the key itself.
  statement {
    sid       = "Administration"
    actions   = ["kms:*"] # AWS requires this of every key: without it nobody could change the policy.
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }

  statement {
    sid       = "AlarmsPublish"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_kms_key" "alarms" {
  count = local.create_topic ? 1 : 0

  description             = "${var.name}: messages of alarms"
  enable_key_rotation     = true
  deletion_window_in_days = 7
  policy                  = data.aws_iam_policy_document.alarm_key.json
  tags                    = local.tags
}

resource "aws_sns_topic" "alarms" {
  count = local.create_topic ? 1 : 0

  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.alarms[0].arn
  tags              = local.tags
}

resource "aws_sns_topic_subscription" "email" {
  for_each = local.create_topic ? toset(var.alarm_emails) : toset([])

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = each.value
}
