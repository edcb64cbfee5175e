# The worker in an existing network, with PostgreSQL, Redis and a NAT gateway.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.25"
    }
  }
}

provider "aws" {
  region = var.region
}

module "refresh_worker" {
  source = "../.."

  name                    = var.name
  environment             = var.environment
  commit_sha              = var.commit_sha
  lambda_artifacts_bucket = var.lambda_artifacts_bucket
  package_sha256          = var.package_sha256
  architecture            = var.architecture

  vpc_id                     = var.vpc_id
  private_subnet_ids         = var.private_subnet_ids
  database_security_group_id = var.database_security_group_id
  redis_security_group_id    = var.redis_security_group_id
  nat_eip_allocation_ids     = var.nat_eip_allocation_ids

  secret_parameters   = var.secret_parameters
  extension_layer_arn = var.extension_layer_arn

  memory_size                = var.memory_size
  environment_variables      = var.environment_variables
  parallel_runs              = var.parallel_runs
  reserved_concurrency       = var.reserved_concurrency
  refresh_mode               = var.refresh_mode
  schedule_enabled           = var.schedule_enabled
  manage_api_gateway_account = var.manage_api_gateway_account
  alarm_emails               = var.alarm_emails
}

# The two servers allow the worker.
resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = var.database_security_group_id
  description                  = "CoC refresh worker"
  referenced_security_group_id = module.refresh_worker.security_group_id
  from_port                    = 5432
  to_port                      = 5432
  ip_protocol                  = "tcp"
}

resource "aws_vpc_security_group_ingress_rule" "redis" {
  security_group_id            = var.redis_security_group_id
  description                  = "CoC refresh worker"
  referenced_security_group_id = module.refresh_worker.security_group_id
  from_port                    = 6379
  to_port                      = 6380
  ip_protocol                  = "tcp"
}
