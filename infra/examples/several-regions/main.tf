# One worker in each of two regions. DEPLOYMENT.md, "Several regions", says what a second region brings and what it costs.
#
# Each region has a name, an environment, a bucket of packages, a layer and parameters of its own. The stores are where the secrets
# of each region point: the same ones, or others.

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
  region = var.first.region
}

provider "aws" {
  alias  = "second"
  region = var.second.region
}

module "first" {
  source = "../.."

  name                        = var.first.name
  environment                 = var.first.environment
  tags                        = var.tags
  commit_sha                  = var.commit_sha
  lambda_artifacts_bucket     = var.first.lambda_artifacts_bucket
  package_sha256              = var.package_sha256
  architecture                = var.architecture
  extra_layers                = var.first.extra_layers
  memory_size                 = var.memory_size
  timeout_seconds             = var.timeout_seconds
  max_runtime_seconds         = var.max_runtime_seconds
  reserved_concurrency        = var.reserved_concurrency
  health_reserved_concurrency = var.health_reserved_concurrency
  environment_variables       = merge(var.environment_variables, var.first.environment_variables)
  log_level                   = var.log_level
  log_retention_days          = var.log_retention_days
  tracing_mode                = var.tracing_mode
  kms_key_arn                 = var.first.kms_key_arn
  vpc                         = var.first.vpc
  permissions_boundary_arn    = var.permissions_boundary_arn
  role_path                   = var.role_path
  extra_policy_statements     = var.extra_policy_statements
  schedule_enabled            = var.first.schedule_enabled
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
  alarm_topic_arn             = var.first.alarm_topic_arn
  alarm_emails                = var.alarm_emails
  alarm_thresholds            = var.alarm_thresholds
  alarm_children_notify       = var.alarm_children_notify
  create_dashboard            = var.create_dashboard
  secret_parameters           = var.secret_parameters
  secret_arns                 = var.first.secret_arns
  extension_layer_arn         = var.first.extension_layer_arn
  plain_secrets               = var.plain_secrets
}

module "second" {
  source = "../.."

  providers = { aws = aws.second }

  name                        = var.second.name
  environment                 = var.second.environment
  tags                        = var.tags
  commit_sha                  = var.commit_sha
  lambda_artifacts_bucket     = var.second.lambda_artifacts_bucket
  package_sha256              = var.package_sha256
  architecture                = var.architecture
  extra_layers                = var.second.extra_layers
  memory_size                 = var.memory_size
  timeout_seconds             = var.timeout_seconds
  max_runtime_seconds         = var.max_runtime_seconds
  reserved_concurrency        = var.reserved_concurrency
  health_reserved_concurrency = var.health_reserved_concurrency
  environment_variables       = merge(var.environment_variables, var.second.environment_variables)
  log_level                   = var.log_level
  log_retention_days          = var.log_retention_days
  tracing_mode                = var.tracing_mode
  kms_key_arn                 = var.second.kms_key_arn
  vpc                         = var.second.vpc
  permissions_boundary_arn    = var.permissions_boundary_arn
  role_path                   = var.role_path
  extra_policy_statements     = var.extra_policy_statements
  schedule_enabled            = var.second.schedule_enabled
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
  alarm_topic_arn             = var.second.alarm_topic_arn
  alarm_emails                = var.alarm_emails
  alarm_thresholds            = var.alarm_thresholds
  alarm_children_notify       = var.alarm_children_notify
  create_dashboard            = var.create_dashboard
  secret_parameters           = var.secret_parameters
  secret_arns                 = var.second.secret_arns
  extension_layer_arn         = var.second.extension_layer_arn
  plain_secrets               = var.plain_secrets
}
