# When a person should look. docs/operating.md has a section for each alarm, and the table of causes, alarms and minutes, which a test
# computes from these definitions. Alarms of a composite alarm notify nobody by themselves: one incident is one message.

locals {
  metric_namespace  = "CoC/RefreshWorker"
  metric_dimensions = { Service = "refresh-worker", Deployment = var.name, Environment = var.environment }

  lambda_dimensions = { FunctionName = local.function_names.refresh }

  # Seconds between two ticks of each schedule. A cron expression has no such number: it counts as daily.
  expressions = { runs = var.schedule_expression, views = var.views_schedule_expression, stats = var.stats_schedule_expression }
  rates       = { for name, expression in local.expressions : name => regexall("^rate\\(([0-9]+) (minute|hour|day)s?\\)$", expression) }
  units       = { minute = 60, hour = 3600, day = 86400 }
  ticks       = { for name, rate in local.rates : name => length(rate) == 0 ? 86400 : tonumber(rate[0][0]) * local.units[rate[0][1]] }

  tick    = local.ticks.runs
  is_cron = length(local.rates.runs) == 0

  # The seconds within which a schedule must have started something: two and a half ticks, from five minutes to a day, which is
  # the longest period that CloudWatch has.
  heard_of_within = { for name, tick in local.ticks : name => min(86400, max(300, ceil(tick / 24) * 60)) }

  # One failure may happen; what lasts is 3 ticks of 5, or 2 where ticks are rare. A period holds one tick, however many runs start at
  # it. A cron expression may be frequent or daily: failures in two hours of two days.
  lasting = (
    local.is_cron ? { period = 3600, evaluations = 48, datapoints = 2 } :
    local.tick < 900 ? { period = max(120, local.tick), evaluations = 5, datapoints = 3 } :
    { period = min(86400, local.tick), evaluations = max(3, min(7, ceil(local.tick / 34560))), datapoints = 2 }
  )

  # Numbers that every run reports, over three ticks.
  sampled = local.tick < 3600 ? { period = max(300, local.tick), evaluations = 3 } : { period = min(86400, local.tick), evaluations = 1 }
  # What is known at once and must not flicker: a window in which the next run falls, too.
  window = max(900, local.heard_of_within.runs)

  # Failed invocations that the schedules alone can cause in 10 minutes, tasks included. A cron expression may tick every minute.
  scheduled_errors = sum(concat(
    [var.parallel_runs * ceil(600 / (local.is_cron ? 60 : local.tick))],
    [for name in keys(local.tasks) : ceil(600 / (name == "stats" ? local.ticks.stats : local.ticks.views))],
  ))

  # Tasks are invocations, too: started every minute, they would hide that no run starts. With tasks the worker's own metric tells,
  # which every run writes that reaches its end.
  run_start = length(local.tasks) == 0 ? {
    namespace = "AWS/Lambda", metric = "Invocations", statistic = "Sum", dimensions = tomap(local.lambda_dimensions)
    } : {
    namespace = local.metric_namespace, metric = "run_duration_ms", statistic = "SampleCount", dimensions = tomap(local.metric_dimensions)
  }

  # A number of a run has the time of its start and appears only at its end. Often another run beside it is turned away at once and shows
  # that the schedule is on, but not where every run of a tick has keys of its own (KEYS_PER_RUN). With a concurrency of one a tick is
  # lost as well.
  run_unseen = var.timeout_seconds + (coalesce(var.reserved_concurrency, 0) == 1 ? local.tick : 0)

  alarms = merge({
    # FILL makes silence a number. Without it CloudWatch looks at older numbers first: it would need three times as long here, and alarms
    # of several periods would flicker at the end of a trouble, while the newest number is not there yet.
    # A daily run leaves the window of a day before the next one is seen: two days for a cron expression. No number is less than 0: a
    # schedule that was switched off on purpose raises no alarm; everything else still does.
    no-invocations = {
      description = "Nothing starts the worker"
      expression  = "FILL(starts, 0)"
      metrics     = { starts = local.run_start }
      period      = min(86400, local.heard_of_within.runs + ceil(local.run_unseen / 60) * 60)
      evaluations = local.is_cron ? 2 : min(7, ceil(local.tick / 34560))
      comparison  = "LessThanThreshold", threshold = var.schedule_enabled ? 1 : 0, missing = "breaching"
    }
    failing-schedule = {
      description = "Scheduled runs fail one after the other"
      expression  = "FILL(errors, 0)"
      metrics     = { errors = { namespace = "AWS/Lambda", metric = "Errors", statistic = "Sum", dimensions = local.lambda_dimensions } }
      period      = local.lasting.period
      evaluations = max(local.lasting.evaluations, coalesce(var.alarm_thresholds.failing_schedule, 1))
      datapoints  = coalesce(var.alarm_thresholds.failing_schedule, local.lasting.datapoints)
      comparison  = "GreaterThanOrEqualToThreshold", threshold = 1, missing = "notBreaching"
    }
    errors = {
      description = "Many invocations failed: more than the schedules alone can cause"
      namespace   = "AWS/Lambda", metric = "Errors", dimensions = local.lambda_dimensions
      statistic   = "Sum", period = 600, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.errors, local.scheduled_errors), missing = "notBreaching"
    }
    # Messages sent, since those that lie there would keep the alarm on for ever. Each failed event is one.
    # AsyncEventsDropped has no alarm: without retries it counts the same events.
    failure-queue = {
      description = "Events fail one after the other"
      expression  = "FILL(sent, 0)"
      metrics     = { sent = { namespace = "AWS/SQS", metric = "NumberOfMessagesSent", statistic = "Sum", dimensions = { QueueName = aws_sqs_queue.failures.name } } }
      period      = local.lasting.period, evaluations = local.lasting.evaluations, datapoints = local.lasting.datapoints
      comparison  = "GreaterThanOrEqualToThreshold", threshold = 1, missing = "notBreaching"
    }
    duration = {
      description = "A run took longer than it may"
      namespace   = local.metric_namespace, metric = "run_duration_ms", dimensions = local.metric_dimensions
      statistic   = "Maximum", period = local.window, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.duration_ms, 240000), missing = "notBreaching"
    }
    # A run or task that Lambda ends writes no metric of its own. Lambda records the duration at the start of the invocation, and only
    # once it is over: the period reaches back so far.
    timeouts = {
      description = "Lambda ended an invocation at its timeout"
      namespace   = "AWS/Lambda", metric = "Duration", dimensions = local.lambda_dimensions
      statistic   = "Maximum", period = min(86400, local.window + ceil(var.timeout_seconds / 60) * 60), evaluations = 1
      comparison  = "GreaterThanOrEqualToThreshold", threshold = var.timeout_seconds * 1000, missing = "notBreaching"
    }
    throttles = {
      description = "Lambda turns invocations away"
      namespace   = "AWS/Lambda", metric = "Throttles", dimensions = local.lambda_dimensions
      statistic   = "Sum", period = 300, evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.throttles, 0), missing = "notBreaching"
    }
    # Rejected keys cool down for 9 minutes: the runs in between are turned away, fail nothing, and report 0 usable keys.
    no-usable-key = {
      description = "The API rejects every key"
      expression  = "FILL(usable, 1)"
      metrics     = { usable = { namespace = local.metric_namespace, metric = "keys_usable", statistic = "Minimum", dimensions = local.metric_dimensions } }
      period      = local.tick < 900 ? max(300, local.tick) : local.lasting.period
      evaluations = local.tick < 900 ? 3 : local.lasting.evaluations, datapoints = 2
      comparison  = "LessThanThreshold", threshold = 1, missing = "notBreaching"
    }
    rejected-key = {
      description = "The API rejects a key; the others work"
      expression  = "IF(usable > 0, rejected, 0)"
      metrics = {
        usable   = { namespace = local.metric_namespace, metric = "keys_usable", statistic = "Minimum", dimensions = local.metric_dimensions }
        rejected = { namespace = local.metric_namespace, metric = "keys_rejected", statistic = "Maximum", dimensions = local.metric_dimensions }
      }
      period      = local.tick < 900 ? max(300, local.tick) : local.lasting.period
      evaluations = local.tick < 900 ? 3 : local.lasting.evaluations, datapoints = local.tick < 900 ? 3 : 2
      comparison  = "GreaterThanThreshold", threshold = 0, missing = "notBreaching"
    }
    dead-letters = {
      description = "Requests became dead letters: set aside for a person"
      namespace   = local.metric_namespace, metric = "dead_letters_added", dimensions = local.metric_dimensions
      statistic   = "Sum", period = 3600, evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.dead_letters, 0), missing = "notBreaching"
    }
    oldest-request = {
      description = "A request has waited for too long"
      namespace   = local.metric_namespace, metric = "oldest_request_age_seconds", dimensions = local.metric_dimensions
      statistic   = "Maximum", period = local.sampled.period, evaluations = local.sampled.evaluations
      comparison  = "GreaterThanThreshold", threshold = local.oldest_request_threshold, missing = "notBreaching"
    }
    queue-depth = {
      description = "Too many requests wait"
      namespace   = local.metric_namespace, metric = "queue_size", dimensions = local.metric_dimensions
      statistic   = "Maximum", period = local.sampled.period, evaluations = local.sampled.evaluations
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.queue_size, 10000), missing = "notBreaching"
    }
    # Says why requests wait; notifies nobody.
    held-back = {
      description = "Requests wait for maintenance of the API, the daily quota, or a pause"
      namespace   = local.metric_namespace, metric = "held_back", dimensions = local.metric_dimensions
      statistic   = "Maximum", period = local.window, evaluations = 1
      comparison  = "GreaterThanOrEqualToThreshold", threshold = 1, missing = "notBreaching"
    }
    # A pause that was forgotten, or maintenance that is none.
    held-back-for-a-day = {
      description = "No run has worked for a day: maintenance of the API, the daily quota, or a pause"
      namespace   = local.metric_namespace, metric = "held_back", dimensions = local.metric_dimensions
      statistic   = "Minimum", period = min(86400, max(3600, local.tick)), evaluations = ceil(86400 / min(86400, max(3600, local.tick)))
      comparison  = "GreaterThanOrEqualToThreshold", threshold = 1, missing = "notBreaching"
    }
    }, contains(keys(var.environment_variables), "PLANNED_CALLS_PER_SEC") ? {
    # The level keeps lateness within minutes, and works off what an outage left within an hour or two. What is late for hours is what is
    # due by PLANNED_AT_LEAST_EVERY alone: more objects than calls. The least lateness of each hour, since one late run is nothing.
    planned-lateness = {
      description = "Planned looks are late for hours: more objects than spare calls"
      namespace   = local.metric_namespace, metric = "planned_lateness_seconds", dimensions = local.metric_dimensions
      statistic   = "Minimum", period = min(86400, max(3600, local.tick)), evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.planned_lateness_seconds, max(3600, 3 * local.tick)), missing = "notBreaching"
    }
    } : {}, local.refreshes_views ? {
    view-refresh = {
      description = "Many refreshes of materialized views failed"
      namespace   = local.metric_namespace, metric = "view_refresh_failures", dimensions = local.metric_dimensions
      statistic   = "Sum", period = min(86400, max(120, 2 * local.ticks.views)), evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.view_refresh_failures, 5), missing = "notBreaching"
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
      statistic   = "Sum", period = min(86400, max(900, 5 * local.ticks.stats)), evaluations = 1
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.stats_jobs_failed, 3), missing = "notBreaching"
    }
    } : {}, contains(keys(var.environment_variables), "SNAPSHOT_RETENTION_DAYS") ? {
    retention = {
      description = "Old snapshots cannot be deleted"
      namespace   = local.metric_namespace, metric = "retention_failures", dimensions = local.metric_dimensions
      statistic   = "Sum", period = min(86400, max(3600, local.tick)), evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = 0, missing = "notBreaching"
    }
    } : {}, var.create_api ? {
    api-5xx = {
      description = "API Gateway returns 5xx responses"
      expression  = "FILL(failed, 0)"
      metrics     = { failed = { namespace = "AWS/ApiGateway", metric = "5XXError", statistic = "Sum", dimensions = { ApiName = var.name, Stage = "live" } } }
      period      = 300, evaluations = 3, datapoints = 2
      comparison  = "GreaterThanThreshold", threshold = coalesce(var.alarm_thresholds.api_5xx, 0), missing = "notBreaching"
    }
  } : {})

  oldest_request_threshold = coalesce(var.alarm_thresholds.oldest_request_age_seconds, max(1800, 3 * local.tick))

  # The alarms of each composite alarm.
  members = {
    worker-unhealthy = concat(
      ["no-invocations", "failing-schedule", "errors", "failure-queue", "duration", "timeouts", "throttles", "no-usable-key"],
      var.create_api ? ["api-5xx"] : [],
    )
    backlog    = concat(["oldest-request", "queue-depth"], [for key in ["planned-lateness"] : key if contains(keys(local.alarms), key)])
    after-runs = [for key in ["view-refresh", "view-stuck", "stats-jobs", "retention"] : key if contains(keys(local.alarms), key)]
  }
  # A schedule that was just switched on has started nothing yet, and no-invocations cannot know why. Only a suppressor remembers:
  # worker-unhealthy waits for the first run, two hours at most. While the schedule is off, everything else still notifies, as late.
  schedule_off = {
    description = "The schedule is switched off, and nothing else is wrong"
    rule        = var.schedule_enabled ? "FALSE" : "NOT (${local.any_of.worker-unhealthy})"
    notifies    = false
  }
  first_run = min(7200, local.tick + var.timeout_seconds + 300)

  any_of = { for name, members in local.members : name => join(" OR ", [for key in members : "ALARM(\"${var.name}-${key}\")"]) }

  composite_alarms = {
    worker-unhealthy = {
      description = "The worker is not started, fails, or is too slow"
      rule        = local.any_of.worker-unhealthy
      notifies    = true
      suppressor  = "schedule-off"
      wait        = 60
      extension   = local.first_run
    }
    backlog-explained = {
      description = "Requests wait for a reason that is known: they are held back, the schedule is off, or the worker is unhealthy"
      rule        = var.schedule_enabled ? "ALARM(\"${var.name}-held-back\") OR ${local.any_of.worker-unhealthy}" : "TRUE"
      notifies    = false
    }
  }

  # An outage delays everything that depends on the worker. These wait for the alarm that names the cause, and stay quiet while it is on.
  suppressed_alarms = merge({
    backlog = {
      description = "The worker does not keep up: requests wait for long, too many wait, or planned looks are late"
      rule        = local.any_of.backlog
      suppressor  = "backlog-explained"
      wait        = 300
      # What has piled up must be worked off first: 4 hours, or 12 ticks. A cron expression gets a day.
      extension = local.is_cron ? 86400 : max(14400, 12 * local.tick)
    }
    }, length(local.members.after-runs) == 0 ? {} : {
    after-runs = {
      description = "The work after runs fails: views, statistics jobs, or retention"
      rule        = local.any_of.after-runs
      suppressor  = "worker-unhealthy"
      wait        = min(7200, local.lasting.period * local.lasting.datapoints + 300)
      extension   = 900
    }
  })

  # These notify by themselves.
  single_alarms = [for key in keys(local.alarms) : key if key != "held-back" && !contains(concat(values(local.members)...), key)]

  create_topic  = var.create_alarms && var.alarm_topic_arn == null
  alarm_actions = var.create_alarms ? [local.create_topic ? aws_sns_topic.alarms[0].arn : var.alarm_topic_arn] : []
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = { for key, alarm in local.alarms : key => alarm if var.create_alarms }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description}. What to do: docs/operating.md, ${each.key}."
  namespace           = try(each.value.namespace, null)
  metric_name         = try(each.value.metric, null)
  dimensions          = try(each.value.dimensions, null)
  statistic           = try(each.value.statistic, null)
  period              = can(each.value.expression) ? null : each.value.period
  evaluation_periods  = each.value.evaluations
  datapoints_to_alarm = try(each.value.datapoints, each.value.evaluations)
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  treat_missing_data  = each.value.missing

  dynamic "metric_query" {
    for_each = try(each.value.metrics, {})

    content {
      id = metric_query.key

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.metric
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.statistic
        period      = each.value.period
      }
    }
  }

  dynamic "metric_query" {
    for_each = can(each.value.expression) ? [each.value.expression] : []

    content {
      id          = "result"
      expression  = metric_query.value
      label       = each.value.description
      return_data = true
    }
  }

  alarm_actions = contains(local.single_alarms, each.key) || (var.alarm_children_notify && each.key != "held-back") ? local.alarm_actions : []
  ok_actions    = contains(local.single_alarms, each.key) || (var.alarm_children_notify && each.key != "held-back") ? local.alarm_actions : []
  tags          = local.tags

  lifecycle {
    precondition {
      condition     = each.value.period * each.value.evaluations <= (each.value.period < 3600 ? 86400 : 604800)
      error_message = "CloudWatch looks back one day at most (seven days if ticks are an hour or rarer), and ${each.key} would look back ${each.value.period * each.value.evaluations} s: use fewer ticks in alarm_thresholds.failing_schedule."
    }
    precondition {
      condition     = local.tick <= 172800
      error_message = "CloudWatch looks back seven days at most: with alarms, let schedule_expression tick every 48 hours or more often, or set create_alarms = false."
    }
  }
}

resource "aws_cloudwatch_composite_alarm" "schedule_off" {
  count = var.create_alarms ? 1 : 0

  alarm_name        = "${var.name}-schedule-off"
  alarm_description = "${local.schedule_off.description}. What to do: docs/operating.md, schedule-off."
  alarm_rule        = local.schedule_off.rule
  tags              = local.tags

  depends_on = [aws_cloudwatch_metric_alarm.this]
}

resource "aws_cloudwatch_composite_alarm" "this" {
  for_each = { for key, alarm in local.composite_alarms : key => alarm if var.create_alarms }

  alarm_name        = "${var.name}-${each.key}"
  alarm_description = "${each.value.description}. What to do: docs/operating.md, ${each.key}."
  alarm_rule        = each.value.rule
  alarm_actions     = each.value.notifies ? local.alarm_actions : []
  ok_actions        = each.value.notifies ? local.alarm_actions : []
  tags              = local.tags

  dynamic "actions_suppressor" {
    for_each = can(each.value.suppressor) ? [each.value] : []

    content {
      alarm            = aws_cloudwatch_composite_alarm.schedule_off[0].alarm_name
      wait_period      = actions_suppressor.value.wait
      extension_period = actions_suppressor.value.extension
    }
  }

  depends_on = [aws_cloudwatch_metric_alarm.this]
}

resource "aws_cloudwatch_composite_alarm" "suppressed" {
  for_each = { for key, alarm in local.suppressed_alarms : key => alarm if var.create_alarms }

  alarm_name        = "${var.name}-${each.key}"
  alarm_description = "${each.value.description}. What to do: docs/operating.md, ${each.key}."
  alarm_rule        = each.value.rule
  alarm_actions     = local.alarm_actions
  ok_actions        = local.alarm_actions
  tags              = local.tags

  actions_suppressor {
    alarm            = aws_cloudwatch_composite_alarm.this[each.value.suppressor].alarm_name
    wait_period      = each.value.wait
    extension_period = each.value.extension
  }

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
