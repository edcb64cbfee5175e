# Everything from nothing: network with one NAT gateway and its fixed address, PostgreSQL, Valkey, and the worker.
# Small and cheap, as a start: one zone for NAT, one instance of each server.

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

  default_tags {
    tags = { Project = var.name }
  }
}

data "aws_availability_zones" "this" {
  #checkov:skip=CKV_AWS_394:Only the first two zones are used.
  state = "available"
}

locals {
  # Database subnet groups require two zones.
  zones = slice(data.aws_availability_zones.this.names, 0, 2)
}

# Network -------------------------------------------------------------------------------------------------------------

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:Flow logs cost more than this network; switch them on where policy asks for it.
  cidr_block           = "10.60.0.0/16"
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-default-unused" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = var.name }
}

resource "aws_subnet" "public" {
  vpc_id            = aws_vpc.this.id
  availability_zone = local.zones[0]
  cidr_block        = "10.60.0.0/24"
  tags              = { Name = "${var.name}-public" }
}

resource "aws_subnet" "private" {
  count = length(local.zones)

  vpc_id            = aws_vpc.this.id
  availability_zone = local.zones[count.index]
  cidr_block        = "10.60.${count.index + 10}.0/24"
  tags              = { Name = "${var.name}-private-${count.index + 1}" }
}

# API keys are bound to this address. Its loss means new keys, so it cannot be deleted by mistake.
resource "aws_eip" "nat" {
  domain = "vpc"
  tags   = { Name = "${var.name}-nat" }

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_nat_gateway" "this" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public.id
  tags          = { Name = var.name }

  depends_on = [aws_internet_gateway.this]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-public" }
}

resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-private" }
}

resource "aws_route" "private" {
  route_table_id         = aws_route_table.private.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this.id
}

resource "aws_route_table_association" "private" {
  count = length(local.zones)

  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private.id
}

# PostgreSQL ----------------------------------------------------------------------------------------------------------
#
# RDS sets the password of the user postgres and changes it every seven days, which would lock the worker out. So the worker
# has a user of its own, which DEPLOYMENT.md creates. Neither password passes through tofu.

resource "aws_security_group" "database" {
  name_prefix = "${var.name}-database-"
  description = "PostgreSQL of the refresh worker"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-database" }

  lifecycle {
    create_before_destroy = true # A group in use cannot be destroyed.
  }
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.database.id
  description                  = "CoC refresh worker"
  referenced_security_group_id = module.refresh_worker.security_group_id
  from_port                    = 5432
  to_port                      = 5432
  ip_protocol                  = "tcp"
}

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = aws_subnet.private[*].id
}

# RDS would create it by itself, without a retention, and leave it behind.
resource "aws_cloudwatch_log_group" "database" {
  #checkov:skip=CKV_AWS_338:The retention of logs is a variable; a year of them costs money for nothing.
  #checkov:skip=CKV_AWS_158:The key is a variable.
  name              = "/aws/rds/instance/${var.name}/postgresql"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_db_instance" "this" {
  #checkov:skip=CKV_AWS_157:One zone is the cheap start; set multi_az for more.
  #checkov:skip=CKV_AWS_118:Enhanced monitoring costs extra.
  #checkov:skip=CKV_AWS_353:Performance insights are not on every small instance.
  #checkov:skip=CKV_AWS_161:The worker signs in with a password.
  #checkov:skip=CKV_AWS_354:No performance insights, no key for them.
  #checkov:skip=CKV2_AWS_30:Statements are not logged; they would be by a parameter group.
  identifier                      = var.name
  engine                          = "postgres"
  engine_version                  = "17"
  instance_class                  = var.database_instance_class
  allocated_storage               = 20
  max_allocated_storage           = 100
  storage_type                    = "gp3"
  storage_encrypted               = true
  db_name                         = "coc"
  username                        = "postgres"
  manage_master_user_password     = true
  db_subnet_group_name            = aws_db_subnet_group.this.name
  vpc_security_group_ids          = [aws_security_group.database.id]
  publicly_accessible             = false
  backup_retention_period         = 7
  auto_minor_version_upgrade      = true
  copy_tags_to_snapshot           = true
  deletion_protection             = true
  delete_automated_backups        = true
  skip_final_snapshot             = false
  final_snapshot_identifier       = "${var.name}-final"
  enabled_cloudwatch_logs_exports = ["postgresql"]

  depends_on = [aws_cloudwatch_log_group.database]
}

# Valkey --------------------------------------------------------------------------------------------------------------

resource "aws_security_group" "cache" {
  name_prefix = "${var.name}-cache-"
  description = "Queue of the refresh worker"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-cache" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "cache" {
  security_group_id            = aws_security_group.cache.id
  description                  = "CoC refresh worker"
  referenced_security_group_id = module.refresh_worker.security_group_id
  from_port                    = 6379
  to_port                      = 6379
  ip_protocol                  = "tcp"
}

resource "aws_elasticache_subnet_group" "this" {
  name       = var.name
  subnet_ids = aws_subnet.private[*].id
}

# noeviction: a queue must never lose entries to make room.
resource "aws_elasticache_parameter_group" "this" {
  name        = "${var.name}-valkey8" # The family is in the name, so that another one can be created before this is destroyed.
  family      = "valkey8"
  description = "A queue: nothing is evicted"

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_elasticache_replication_group" "this" {
  #checkov:skip=CKV_AWS_31:Access is by security group, in transit by TLS; a token would be in the state.
  #checkov:skip=CKV_AWS_191:An AWS-owned key is enough for a queue of tags.
  #checkov:skip=CKV2_AWS_50:One node is the cheap start.
  replication_group_id       = var.name
  description                = "Queue of the CoC refresh worker"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = var.cache_node_type
  num_cache_clusters         = 1
  automatic_failover_enabled = false
  parameter_group_name       = aws_elasticache_parameter_group.this.name
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.cache.id]
  at_rest_encryption_enabled = true
  transit_encryption_enabled = true
  snapshot_retention_limit   = 1
}

# The worker ----------------------------------------------------------------------------------------------------------

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

  # The history grows by gigabytes a day; the disk does not.
  environment_variables = merge({ SNAPSHOT_RETENTION_DAYS = tostring(var.snapshot_retention_days) }, var.environment_variables)
  log_level             = var.log_level
  log_retention_days    = var.log_retention_days
  tracing_mode          = var.tracing_mode
  kms_key_arn           = var.kms_key_arn
  vpc = {
    id                         = aws_vpc.this.id
    subnet_ids                 = aws_subnet.private[*].id
    nat_eip_allocation_ids     = [aws_eip.nat.id]
    database_security_group_id = aws_security_group.database.id
    redis_security_group_id    = aws_security_group.cache.id
  }

  permissions_boundary_arn   = var.permissions_boundary_arn
  role_path                  = var.role_path
  extra_policy_statements    = var.extra_policy_statements
  schedule_enabled           = var.schedule_enabled
  schedule_expression        = var.schedule_expression
  views_schedule_expression  = var.views_schedule_expression
  stats_schedule_expression  = var.stats_schedule_expression
  parallel_runs              = var.parallel_runs
  create_api                 = var.create_api
  refresh_mode               = var.refresh_mode
  refresh_authorization      = var.refresh_authorization
  api_quota_per_day          = var.api_quota_per_day
  health_throttle            = var.health_throttle
  api_logs_enabled           = var.api_logs_enabled
  manage_api_gateway_account = var.manage_api_gateway_account
  create_alarms              = var.create_alarms
  alarm_topic_arn            = var.alarm_topic_arn
  alarm_emails               = var.alarm_emails
  alarm_thresholds           = var.alarm_thresholds
  alarm_children_notify      = var.alarm_children_notify
  create_dashboard           = var.create_dashboard
  secret_parameters          = var.secret_parameters
  secret_arns                = var.secret_arns
  extension_layer_arn        = var.extension_layer_arn

  # The queue's address is not a secret and is known here; the other secrets are in the Parameter Store.
  plain_secrets = merge({ REDIS_URL = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:6379" }, var.plain_secrets)
}
