# The worker without a network of its own, with hosted PostgreSQL and Redis that are reached over the internet with TLS.
#
# Lambda's addresses change, so the worker creates its API keys by itself: the secrets COC_EMAIL and COC_PASSWORD. Servers that
# allow certain addresses only, and keys made by hand, need a VPC with a NAT gateway: set vpc.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.27"
    }
  }
}

provider "aws" {
  region = var.region
}

module "refresh_worker" {
  source = "../.."

  name                        = var.name
  environment                 = var.environment
  tags                        = var.tags
  commit_sha                  = var.commit_sha
  lambda_artifacts_bucket     = var.lambda_artifacts_bucket
  package_sha256              = var.package_sha256
  architecture                = var.architecture
  extra_layers                = var.extra_layers
  memory_size                 = var.memory_size
  timeout_seconds             = var.timeout_seconds
  max_runtime_seconds         = var.max_runtime_seconds
  reserved_concurrency        = var.reserved_concurrency
  health_reserved_concurrency = var.health_reserved_concurrency
  environment_variables       = var.environment_variables
  log_level                   = var.log_level
  log_retention_days          = var.log_retention_days
  tracing_mode                = var.tracing_mode
  kms_key_arn                 = var.kms_key_arn
  vpc                         = var.vpc
  permissions_boundary_arn    = var.permissions_boundary_arn
  role_path                   = var.role_path
  extra_policy_statements     = var.extra_policy_statements
  schedule_enabled            = var.schedule_enabled
  schedule_expression         = var.schedule_expression
  views_schedule_expression   = var.views_schedule_expression
  stats_schedule_expression   = var.stats_schedule_expression
  parallel_runs               = var.parallel_runs
  create_api                  = var.create_api
  refresh_mode                = var.refresh_mode
  refresh_authorization       = var.refresh_authorization
  api_quota_per_day           = var.api_quota_per_day
  health_throttle             = var.health_throttle
  api_logs_enabled            = var.api_logs_enabled
  manage_api_gateway_account  = var.manage_api_gateway_account
  create_alarms               = var.create_alarms
  alarm_topic_arn             = var.alarm_topic_arn
  alarm_emails                = var.alarm_emails
  alarm_thresholds            = var.alarm_thresholds
  alarm_children_notify       = var.alarm_children_notify
  create_dashboard            = var.create_dashboard
  secret_parameters           = var.secret_parameters
  secret_arns                 = var.secret_arns
  extension_layer_arn         = var.extension_layer_arn
  plain_secrets               = var.plain_secrets
}
