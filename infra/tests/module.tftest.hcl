# What the module makes of its variables, with a mocked provider: tofu test (or terraform test).

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_eip" {
    defaults = { public_ip = "192.0.2.10" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:mock", version = "7" }
  }
  mock_resource "aws_lambda_alias" {
    defaults = {
      arn        = "arn:aws:lambda:eu-central-1:123456789012:function:mock:live"
      invoke_arn = "arn:aws:apigateway:eu-central-1:lambda:path/2015-03-31/functions/arn:aws:lambda:eu-central-1:123456789012:function:mock:live/invocations"
    }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:123456789012:mock", url = "https://sqs.eu-central-1.amazonaws.com/123456789012/mock" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:mock" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:mock" }
  }
  mock_resource "aws_scheduler_schedule_group" {
    defaults = { arn = "arn:aws:scheduler:eu-central-1:123456789012:schedule-group/mock" }
  }
  mock_resource "aws_api_gateway_rest_api" {
    defaults = { execution_arn = "arn:aws:execute-api:eu-central-1:123456789012:abcdef" }
  }
  mock_resource "aws_api_gateway_stage" {
    defaults = { invoke_url = "https://abcdef.execute-api.eu-central-1.amazonaws.com/live" }
  }
  mock_resource "aws_security_group" {
    defaults = { id = "sg-0c" }
  }
  mock_resource "aws_cloudwatch_dashboard" {
    defaults = { dashboard_arn = "arn:aws:cloudwatch::123456789012:dashboard/mock" }
  }
}

variables {
  commit_sha              = "0123456789abcdef0123456789abcdef01234567"
  lambda_artifacts_bucket = "packages"
  vpc = {
    id                         = "vpc-0a"
    subnet_ids                 = ["subnet-0a", "subnet-0b"]
    database_security_group_id = "sg-0a"
    redis_security_group_id    = "sg-0b"
    nat_eip_allocation_ids     = ["eipalloc-0a"]
  }
  plain_secrets = {
    DATABASE_URL  = "postgresql://worker:password@db/coc"
    REDIS_URL     = "rediss://cache:6379"
    COC_API_TOKEN = "key"
  }
}

run "defaults" {
  command = apply

  assert {
    condition     = [for role in ["refresh", "health"] : aws_lambda_function.this[role].handler] == ["refresh", "health"]
    error_message = "The handler's name is the role."
  }
  assert {
    condition     = alltrue([for f in aws_lambda_function.this : f.s3_key == "refresh-worker-0123456789abcdef0123456789abcdef01234567.zip" && f.runtime == "provided.al2023" && f.publish])
    error_message = "Both functions run the commit's package and publish a version."
  }
  assert {
    condition     = alltrue([for f in aws_lambda_function.this : f.memory_size == 256 && f.architectures == tolist(["arm64"])])
    error_message = "256 MB on arm64 by default."
  }
  assert {
    condition     = aws_lambda_function.this["refresh"].timeout == 300 && aws_lambda_function.this["refresh"].environment[0].variables.MAX_RUNTIME_SECONDS == "230"
    error_message = "A run ends by itself, well before Lambda would end it and before the duration alarm."
  }
  assert {
    condition     = aws_lambda_function.this["refresh"].reserved_concurrent_executions == 4
    error_message = "A run, a manual trigger and a task must not throttle one another."
  }
  assert {
    condition     = alltrue([for f in aws_lambda_function.this : f.logging_config[0].log_format == "JSON" && f.logging_config[0].application_log_level == "INFO"])
    error_message = "Metrics are lines of the log, at INFO."
  }
  assert {
    condition     = !contains(keys(nonsensitive(aws_lambda_function.this["health"].environment[0].variables)), "COC_API_TOKEN")
    error_message = "The health role needs no key of the API."
  }
  assert {
    condition     = aws_scheduler_schedule.this["1"].target[0].arn == aws_lambda_alias.live["refresh"].arn && aws_scheduler_schedule.this["1"].schedule_expression == "rate(2 minutes)"
    error_message = "The schedule starts the alias every two minutes."
  }
  assert {
    condition     = aws_scheduler_schedule.this["1"].target[0].retry_policy[0].maximum_retry_attempts == 0 && aws_lambda_function_event_invoke_config.refresh.maximum_retry_attempts == 0
    error_message = "The next tick is the retry."
  }
  assert {
    condition     = aws_api_gateway_method.refresh["this"].api_key_required && !coalesce(aws_api_gateway_method.health["this"].api_key_required, false)
    error_message = "POST /refresh needs the key, GET /health does not."
  }
  assert {
    condition     = aws_api_gateway_integration.refresh["this"].type == "AWS_PROXY" && length(aws_api_gateway_method_response.accepted) == 0
    error_message = "POST /refresh waits for the report by default."
  }
  assert {
    condition     = aws_sqs_queue.failures.message_retention_seconds == 1209600
    error_message = "Failed events are kept for 14 days."
  }
  assert {
    condition     = output.egress_ips == ["192.0.2.10"]
    error_message = "The addresses for the keys are an output."
  }
  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets) == length(local.graphs)
    error_message = "Every graph is on the dashboard."
  }
  assert {
    condition     = join(" ", keys(aws_scheduler_schedule.this)) == "1"
    error_message = "No schedule for what is not configured."
  }
  assert {
    condition     = length(aws_api_gateway_account.this) == 0
    error_message = "The account's role for logs is not set by default."
  }
}

run "alarms" {
  command = plan

  # What each means is tested where the table of causes is computed: tests/it/infra/alarms. This ties those numbers to the plan.
  assert {
    condition = { for key, alarm in local.alarms : key => "${try(alarm.expression, alarm.metric)} ${alarm.period} ${try(alarm.datapoints, alarm.evaluations)}/${alarm.evaluations} ${alarm.comparison} ${alarm.threshold} ${alarm.missing}" } == {
      no-invocations      = "FILL(starts, 0) 600 1/1 LessThanThreshold 1 breaching"
      failing-schedule    = "FILL(errors, 0) 120 3/5 GreaterThanOrEqualToThreshold 1 notBreaching"
      errors              = "Errors 600 1/1 GreaterThanThreshold 5 notBreaching"
      failure-queue       = "FILL(sent, 0) 120 3/5 GreaterThanOrEqualToThreshold 1 notBreaching"
      duration            = "run_duration_ms 900 1/1 GreaterThanThreshold 240000 notBreaching"
      timeouts            = "Duration 1200 1/1 GreaterThanOrEqualToThreshold 300000 notBreaching"
      throttles           = "Throttles 300 3/3 GreaterThanThreshold 0 notBreaching"
      no-usable-key       = "FILL(usable, 1) 300 2/3 LessThanThreshold 1 notBreaching"
      rejected-key        = "IF(usable > 0, rejected, 0) 300 3/3 GreaterThanThreshold 0 notBreaching"
      dead-letters        = "dead_letters_added 3600 1/1 GreaterThanThreshold 0 notBreaching"
      oldest-request      = "oldest_request_age_seconds 300 3/3 GreaterThanThreshold 1800 notBreaching"
      queue-depth         = "queue_size 300 3/3 GreaterThanThreshold 10000 notBreaching"
      held-back           = "held_back 900 1/1 GreaterThanOrEqualToThreshold 1 notBreaching"
      held-back-for-a-day = "held_back 3600 24/24 GreaterThanOrEqualToThreshold 1 notBreaching"
      api-5xx             = "FILL(failed, 0) 300 2/3 GreaterThanThreshold 0 notBreaching"
    }
    error_message = "An alarm changed: change docs/operating.md with it."
  }
  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.this) == keys(local.alarms) && length(aws_cloudwatch_metric_alarm.this["rejected-key"].metric_query) == 3
    error_message = "A rejected key is an alarm of its own only while others work."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["errors"].dimensions == tomap({ FunctionName = "refresh-worker-refresh" }) && aws_cloudwatch_metric_alarm.this["queue-depth"].dimensions == tomap({ Service = "refresh-worker", Deployment = "refresh-worker", Environment = "production" })
    error_message = "Metrics are those of this deployment alone."
  }
  assert {
    condition     = join(" ", sort([for key, alarm in aws_cloudwatch_metric_alarm.this : key if length(try(coalesce(alarm.alarm_actions, []), [])) > 0])) == "dead-letters held-back-for-a-day rejected-key"
    error_message = "One incident, one message: the alarms of a composite alarm notify nobody by themselves."
  }
  assert {
    condition     = aws_cloudwatch_composite_alarm.suppressed["backlog"].alarm_rule == "ALARM(\"refresh-worker-oldest-request\") OR ALARM(\"refresh-worker-queue-depth\")" && aws_cloudwatch_composite_alarm.suppressed["backlog"].actions_suppressor[0].alarm == "refresh-worker-backlog-explained"
    error_message = "A backlog that has a known reason is not reported."
  }
  assert {
    condition     = length(aws_cloudwatch_composite_alarm.this) == 2 && join(" ", keys(aws_cloudwatch_composite_alarm.suppressed)) == "backlog"
    error_message = "No composite alarm of parts that are not configured."
  }
  assert {
    condition     = aws_cloudwatch_composite_alarm.schedule_off[0].alarm_rule == "FALSE" && aws_cloudwatch_composite_alarm.this["worker-unhealthy"].actions_suppressor[0].alarm == "refresh-worker-schedule-off" && aws_cloudwatch_composite_alarm.this["worker-unhealthy"].actions_suppressor[0].extension_period == 720
    error_message = "After the schedule was switched on, the first run has its time."
  }
  assert {
    condition     = aws_cloudwatch_dashboard.this[0].dashboard_name == "refresh-worker-eu-central-1"
    error_message = "Names of dashboards are the account's, over all regions."
  }
}

run "children_that_notify" {
  command = plan

  variables {
    alarm_children_notify = true
    alarm_topic_arn       = "arn:aws:sns:eu-central-1:123456789012:alarms"
  }

  assert {
    condition     = [for key, alarm in aws_cloudwatch_metric_alarm.this : key if length(try(coalesce(alarm.alarm_actions, []), [])) == 0] == ["held-back"]
    error_message = "Every alarm notifies when it is wished; held-back is only a reason."
  }
}

run "asynchronous" {
  command = plan

  variables {
    refresh_mode = "async"
  }

  assert {
    condition     = aws_api_gateway_integration.refresh["this"].type == "AWS" && aws_api_gateway_integration.refresh["this"].request_parameters["integration.request.header.X-Amz-Invocation-Type"] == "'Event'"
    error_message = "The worker is called without waiting."
  }
  assert {
    condition     = aws_api_gateway_method_response.accepted["this"].status_code == "202"
    error_message = "The response is 202."
  }
}

# With this, every resource of the module is planned somewhere: infra/checks/values.py looks at all values.
run "switched_on" {
  command = plan

  variables {
    alarm_emails               = ["somebody@example.com"]
    api_logs_enabled           = true
    kms_key_arn                = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    manage_api_gateway_account = true
    tracing_mode               = "Active"
  }

  assert {
    condition     = length(aws_sns_topic_subscription.email) + length(aws_api_gateway_account.this) == 2
    error_message = "The alarms have a reader, and API Gateway has a role for its logs."
  }
}

run "switched_off" {
  command = plan

  variables {
    schedule_enabled = false
    create_api       = false
    create_dashboard = false
  }

  assert {
    condition     = aws_scheduler_schedule.this["1"].state == "DISABLED" && aws_cloudwatch_metric_alarm.this["no-invocations"].threshold == 0
    error_message = "A schedule that is off on purpose raises no alarm."
  }
  assert {
    condition     = aws_cloudwatch_composite_alarm.schedule_off[0].alarm_rule == "NOT (${aws_cloudwatch_composite_alarm.this["worker-unhealthy"].alarm_rule})" && aws_cloudwatch_composite_alarm.this["backlog-explained"].alarm_rule == "TRUE" && strcontains(aws_cloudwatch_composite_alarm.this["worker-unhealthy"].alarm_rule, "timeouts") && coalesce(aws_cloudwatch_composite_alarm.this["worker-unhealthy"].actions_enabled, true)
    error_message = "A schedule that is off silences nothing else."
  }
  assert {
    condition     = length(aws_api_gateway_rest_api.this) + length(aws_cloudwatch_dashboard.this) == 0 && !contains(keys(aws_cloudwatch_metric_alarm.this), "api-5xx")
    error_message = "Parts that are switched off are not created."
  }
}

run "many_keys" {
  command = plan

  variables {
    parallel_runs         = 3
    environment_variables = { KEYS_PER_RUN = "2" }
  }

  assert {
    condition     = join(" ", keys(aws_scheduler_schedule.this)) == "1 2 3" && nonsensitive(aws_lambda_function.this["refresh"].environment[0].variables.KEYS_PER_RUN) == "2"
    error_message = "Three runs start at each tick, with two keys each."
  }
  assert {
    condition     = aws_lambda_function.this["refresh"].reserved_concurrent_executions == 5
    error_message = "A run, a manual trigger and a task must not throttle one another."
  }
}

run "views_and_statistics" {
  command = plan

  variables {
    environment_variables = { REFRESH_VIEWS = "clan_leaderboard:5m", STATS_FUNCTIONS = "update_power_ratings:player_power_rating" }
  }

  assert {
    condition     = { for name, task in aws_scheduler_schedule.this : name => "${task.schedule_expression} ${task.target[0].input}" if name != "1" } == { refresh-views = "rate(1 minute) {\"due_only\":true,\"task\":\"refresh-views\"}", stats = "rate(1 minute) {\"task\":\"stats\"}" }
    error_message = "Views and statistics jobs have schedules of their own."
  }
  assert {
    condition     = aws_lambda_function.this["refresh"].reserved_concurrent_executions == 5
    error_message = "Each task has reserved concurrency beside runs."
  }
  assert {
    condition = { for key in ["duration", "timeouts", "errors", "view-refresh", "view-stuck", "stats-jobs"] : key => "${aws_cloudwatch_metric_alarm.this[key].metric_name} ${aws_cloudwatch_metric_alarm.this[key].statistic} ${aws_cloudwatch_metric_alarm.this[key].period}x${aws_cloudwatch_metric_alarm.this[key].evaluation_periods} ${aws_cloudwatch_metric_alarm.this[key].threshold}" } == {
      duration     = "run_duration_ms Maximum 900x1 240000"
      timeouts     = "Duration Maximum 1200x1 300000"
      errors       = "Errors Sum 600x1 25"
      view-refresh = "view_refresh_failures Sum 120x1 5"
      view-stuck   = "view_refresh_failures Sum 300x3 0"
      stats-jobs   = "stats_jobs_failed Sum 900x1 3"
    }
    error_message = "The failures of tasks raise alarms."
  }
  assert {
    condition     = join(" ", flatten([for query in aws_cloudwatch_metric_alarm.this["no-invocations"].metric_query : [for metric in query.metric : "${metric.metric_name} ${metric.stat} ${metric.period}"]])) == "run_duration_ms SampleCount 600"
    error_message = "Tasks must not hide that no run starts."
  }
  assert {
    condition     = aws_cloudwatch_composite_alarm.suppressed["after-runs"].actions_suppressor[0].alarm == "refresh-worker-worker-unhealthy" && aws_cloudwatch_composite_alarm.suppressed["after-runs"].actions_suppressor[0].wait_period == 660
    error_message = "What an outage of the worker causes is part of its message."
  }
}

run "planner" {
  command = plan

  variables {
    environment_variables = { PLANNED_CALLS_PER_SEC = "10" }
  }

  assert {
    condition     = "${local.alarms.planned-lateness.metric} ${local.alarms.planned-lateness.statistic} ${local.alarms.planned-lateness.period}x${local.alarms.planned-lateness.evaluations} ${local.alarms.planned-lateness.threshold} ${local.alarms.planned-lateness.missing}" == "planned_lateness_seconds Minimum 3600x3 3600 notBreaching"
    error_message = "Looks that are late for hours raise an alarm."
  }
  assert {
    condition     = endswith(aws_cloudwatch_composite_alarm.suppressed["backlog"].alarm_rule, " OR ALARM(\"refresh-worker-planned-lateness\")") && length(try(coalesce(aws_cloudwatch_metric_alarm.this["planned-lateness"].alarm_actions, []), [])) == 0
    error_message = "It is a part of backlog: too little capacity is one incident."
  }
}

run "a_slow_schedule" {
  command = plan

  variables {
    schedule_expression = "rate(15 minutes)"
  }

  assert {
    condition     = local.alarms.no-invocations.period == 2580
    error_message = "Two and a half ticks, in whole minutes, and the timeout."
  }
  assert {
    condition     = "${local.alarms.failing-schedule.period} ${aws_cloudwatch_metric_alarm.this["failing-schedule"].datapoints_to_alarm}/${aws_cloudwatch_metric_alarm.this["failing-schedule"].evaluation_periods} ${aws_cloudwatch_metric_alarm.this["errors"].threshold}" == "900 2/3 1"
    error_message = "Two failed ticks of three, and more errors than one tick makes."
  }
}

run "a_schedule_by_the_clock" {
  command = plan

  variables {
    schedule_expression = "cron(0 6 * * ? *)"
  }

  assert {
    condition     = local.alarms.no-invocations.period == 86400 && local.alarms.no-invocations.evaluations == 2
    error_message = "Once a day is often enough, and yesterday's run counts until today's is seen."
  }
}

run "without_reservation_and_alarms" {
  command = plan

  variables {
    reserved_concurrency = -1
    create_alarms        = false
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) + length(aws_sns_topic.alarms) + length(aws_kms_key.alarms) == 0
    error_message = "No alarms, no topic, no key."
  }
}

run "secrets_elsewhere" {
  command = plan

  variables {
    plain_secrets       = {}
    secret_parameters   = { DATABASE_URL = "/refresh-worker/stores#database", COC_API_TOKENS = "keys" }
    secret_arns         = { REDIS_URL = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:redis-AbCdEf" }
    extension_layer_arn = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
  }

  assert {
    condition = nonsensitive(aws_lambda_function.this["refresh"].environment[0].variables) == tomap({
      DEPLOYMENT               = "refresh-worker"
      ENVIRONMENT              = "production"
      MAX_RUNTIME_SECONDS      = "230"
      EGRESS_IPS               = "192.0.2.10"
      DATABASE_URL_PARAMETER   = "/refresh-worker/stores#database"
      COC_API_TOKENS_PARAMETER = "keys"
      REDIS_URL_SECRET_ARN     = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:redis-AbCdEf"
    })
    error_message = "The environment says where secrets are, never their values."
  }
  assert {
    condition     = length(aws_lambda_function.this["refresh"].layers) == 1
    error_message = "The extension reads them."
  }
  assert {
    condition     = join(" ", local.parameter_arns.refresh) == join(" ", ["arn:aws:ssm:eu-central-1:123456789012:parameter/keys", "arn:aws:ssm:eu-central-1:123456789012:parameter/refresh-worker/stores"])
    error_message = "The refresh role may read its parameters and no others."
  }
  assert {
    condition     = join(" ", local.parameter_arns.health) == "arn:aws:ssm:eu-central-1:123456789012:parameter/refresh-worker/stores"
    error_message = "The health role may read what it needs and no others."
  }
}
