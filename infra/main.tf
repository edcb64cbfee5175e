# The two functions (one package in two roles), their logs, and the queue of failed events.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {
  lifecycle {
    postcondition {
      condition     = length("${var.name}-${self.region}-schedule") <= 64
      error_message = "The longest role name, ${var.name}-${self.region}-schedule, has more than 64 characters. Use a shorter name."
    }
  }
}

locals {
  account   = data.aws_caller_identity.this.account_id
  partition = data.aws_partition.this.partition
  region    = data.aws_region.this.region

  tags = merge({ Service = "refresh-worker", Environment = var.environment }, var.tags)

  functions = {
    refresh = { timeout = var.timeout_seconds }
    health  = { timeout = 10 }
  }
  reserved_concurrency = {
    refresh = coalesce(var.reserved_concurrency, max(4, local.least_concurrency))
    health  = coalesce(var.health_reserved_concurrency, var.reserved_concurrency == -1 ? -1 : 5)
  }
  function_names = { for role, _ in local.functions : role => "${var.name}-${role}" }
  # By name, because the roles need them before the functions exist.
  function_arns = {
    for role, name in local.function_names :
    role => "arn:${local.partition}:lambda:${local.region}:${local.account}:function:${name}"
  }
}

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:The retention of logs is a variable; a year of them costs money for nothing.
  for_each = local.functions

  name              = "/aws/lambda/${local.function_names[each.key]}"
  retention_in_days = var.log_retention_days
  log_group_class   = "STANDARD" # Metrics are lines of the log; other classes do not extract them.
  kms_key_id        = var.kms_key_arn
  tags              = local.tags
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_116:Failed events go to the queue of aws_lambda_function_event_invoke_config, with more details.
  #checkov:skip=CKV_AWS_117:A VPC is a variable: hosted servers need none.
  #checkov:skip=CKV_AWS_272:The package is named by its commit and attested when it is published; no signing profile.
  for_each = local.functions

  function_name = local.function_names[each.key]
  description   = "CoC refresh worker, role ${each.key}, commit ${substr(var.commit_sha, 0, 12)}"
  role          = aws_iam_role.function[each.key].arn

  runtime       = "provided.al2023"
  handler       = each.key # The worker's role.
  architectures = [var.architecture]
  s3_bucket     = var.lambda_artifacts_bucket
  s3_key        = "refresh-worker-${var.commit_sha}.zip"
  code_sha256   = var.package_sha256 # Compared with what runs; source_code_hash is compared with the state only.
  publish       = true
  layers        = local.layers

  memory_size                    = var.memory_size
  timeout                        = each.value.timeout
  reserved_concurrent_executions = local.reserved_concurrency[each.key]
  kms_key_arn                    = var.kms_key_arn

  environment {
    variables = local.function_environment[each.key]
  }

  dynamic "vpc_config" {
    for_each = var.vpc == null ? [] : [var.vpc]

    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = aws_security_group.this[*].id
    }
  }

  logging_config {
    log_format            = "JSON"
    application_log_level = var.log_level
    system_log_level      = "INFO"
    log_group             = aws_cloudwatch_log_group.function[each.key].name
  }

  tracing_config {
    mode = var.tracing_mode
  }

  tags = merge(local.tags, { Commit = var.commit_sha })

  depends_on = [aws_iam_role_policy.function, aws_cloudwatch_log_group.function]
}

# Every trigger calls the alias, so that a rollback is one change.
resource "aws_lambda_alias" "live" {
  for_each = local.functions

  name             = "live"
  description      = "The version that triggers call"
  function_name    = aws_lambda_function.this[each.key].function_name
  function_version = aws_lambda_function.this[each.key].version
}

resource "aws_lambda_function_event_invoke_config" "refresh" {
  function_name = aws_lambda_function.this["refresh"].function_name
  qualifier     = aws_lambda_alias.live["refresh"].name

  # The next tick is the retry. Without this, throttled events would be tried again for six hours.
  maximum_event_age_in_seconds = 60
  maximum_retry_attempts       = 0

  destination_config {
    on_failure {
      destination = aws_sqs_queue.failures.arn
    }
  }
}

resource "aws_sqs_queue" "failures" {
  name                      = "${var.name}-failures"
  message_retention_seconds = 1209600 # 14 days
  sqs_managed_sse_enabled   = var.kms_key_arn == null ? true : null
  kms_master_key_id         = var.kms_key_arn
  tags                      = local.tags
}
