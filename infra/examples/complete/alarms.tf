# Alarms of the servers, sent to the worker's topic. docs/operating.md has a section for each.

variable "snapshot_retention_days" {
  description = "Value of SNAPSHOT_RETENTION_DAYS: of older snapshots only the newest per object and day stay. At one key's full rate 30 days are about 93 GiB."
  type        = number
  default     = 30

  validation {
    condition     = var.snapshot_retention_days >= 1 && floor(var.snapshot_retention_days) == var.snapshot_retention_days
    error_message = "Use a whole number of days. To keep everything: environment_variables = { SNAPSHOT_RETENTION_DAYS = \"\" }."
  }
}

variable "database_growth_gib_per_day" {
  description = "How fast the database grows, for the alarm database-storage: about 0.5 for a small deployment, 3.1 for one key at its full rate (DEPLOYMENT.md, \"Growth of the database\")."
  type        = number
  default     = 0.5

  validation {
    condition     = var.database_growth_gib_per_day > 0
    error_message = "Use more than 0."
  }
}

variable "database_replicas" {
  description = "Identifiers of read replicas of the database, if you add some: each gets an alarm on its lag."
  type        = list(string)
  default     = []
}

locals {
  cache_nodes = [for number in range(1, aws_elasticache_replication_group.this.num_cache_clusters + 1) : format("%s-%03d", var.name, number)]

  server_alarms = merge({
    # RDS enlarges the disk when a tenth of it is free, until max_allocated_storage. So this goes off when it no longer can, or not fast
    # enough.
    database-storage = {
      description = "The disk of the database is full within three days"
      namespace   = "AWS/RDS", metric = "FreeStorageSpace", dimensions = { DBInstanceIdentifier = aws_db_instance.this.identifier }
      statistic   = "Minimum", period = 300, evaluations = 3
      comparison  = "LessThanThreshold", threshold = 3 * var.database_growth_gib_per_day * 1073741824
    }
    }, { for node in local.cache_nodes : "cache-memory-${node}" => {
      description = "The memory of Valkey is nearly full"
      namespace   = "AWS/ElastiCache", metric = "DatabaseMemoryUsagePercentage", dimensions = { CacheClusterId = node }
      statistic   = "Maximum", period = 300, evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = 80
      } }, { for node in local.cache_nodes : "cache-replication-${node}" => {
      description = "A replica of Valkey is far behind"
      namespace   = "AWS/ElastiCache", metric = "ReplicationLag", dimensions = { CacheClusterId = node }
      statistic   = "Maximum", period = 300, evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = 30
      } if length(local.cache_nodes) > 1 }, { for replica in var.database_replicas : "database-replication-${replica}" => {
      description = "A replica of the database is far behind"
      namespace   = "AWS/RDS", metric = "ReplicaLag", dimensions = { DBInstanceIdentifier = replica }
      statistic   = "Maximum", period = 300, evaluations = 3
      comparison  = "GreaterThanThreshold", threshold = 300
  } })
}

resource "aws_cloudwatch_metric_alarm" "server" {
  for_each = local.server_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description}. What to do: docs/operating.md, Servers."
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = each.value.period
  evaluation_periods  = each.value.evaluations
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  alarm_actions       = compact([module.refresh_worker.alarm_topic_arn])
  ok_actions          = compact([module.refresh_worker.alarm_topic_arn])
}
