# Starts the runs, and the tasks that have a schedule of their own.

resource "aws_scheduler_schedule_group" "this" {
  name = var.name
  tags = local.tags
}

locals {
  # Named by their numbers: nothing else distinguishes the runs of one tick.
  runs = { for number in range(1, var.parallel_runs + 1) : tostring(number) => {
    description = "Starts a run of the CoC refresh worker"
    expression  = var.schedule_expression
    input       = jsonencode({ source = "schedule" })
  } }

  refreshes_views = contains(keys(var.environment_variables), "REFRESH_VIEWS")
  has_stats       = contains(keys(var.environment_variables), "STATS_FUNCTIONS")

  # Tasks need no API key and do not wait for a run.
  tasks = merge(
    local.refreshes_views ? { refresh-views = { expression = var.views_schedule_expression, input = jsonencode({ task = "refresh-views", due_only = true }) } } : {},
    local.has_stats ? { stats = { expression = var.stats_schedule_expression, input = jsonencode({ task = "stats" }) } } : {},
  )

  # The runs of a tick, one more that finds every key in use, a manual trigger, and the tasks.
  least_concurrency = var.parallel_runs + 2 + length(local.tasks)

  schedules = merge(local.runs, { for name, task in local.tasks : name => {
    description = "Starts the task ${name} of the CoC refresh worker"
    expression  = task.expression
    input       = task.input
  } })
}

resource "aws_scheduler_schedule" "this" {
  for_each = local.schedules

  name                         = "${var.name}-${each.key}"
  description                  = each.value.description
  group_name                   = aws_scheduler_schedule_group.this.name
  state                        = var.schedule_enabled ? "ENABLED" : "DISABLED"
  schedule_expression          = each.value.expression
  schedule_expression_timezone = "UTC"
  kms_key_arn                  = var.kms_key_arn

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_alias.live["refresh"].arn
    role_arn = aws_iam_role.scheduler.arn
    input    = each.value.input

    # The next tick is the retry.
    retry_policy {
      maximum_retry_attempts       = 0
      maximum_event_age_in_seconds = 60
    }

    dead_letter_config {
      arn = aws_sqs_queue.failures.arn
    }
  }
}
