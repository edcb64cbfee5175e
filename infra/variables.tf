# What to run ---------------------------------------------------------------------------------------------------------

variable "name" {
  description = "Prefix of everything this module creates. Two workers in one account need two names."
  type        = string
  default     = "refresh-worker"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}[a-z0-9]$", var.name))
    error_message = "Use 3 to 40 lower case letters, digits and hyphens, starting with a letter."
  }
}

variable "environment" {
  description = "Value of ENVIRONMENT: the dimension `Environment` of every metric of the worker, and a tag."
  type        = string
  default     = "production"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{1,50}$", var.environment))
    error_message = "Use 1 to 50 letters, digits, dots, hyphens and underscores."
  }
}

variable "tags" {
  description = "Tags of everything that can have tags."
  type        = map(string)
  default     = {}
}

variable "commit_sha" {
  description = "The commit whose package runs: the object `refresh-worker-<commit_sha>.zip` in the bucket. An older commit rolls back."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{40}$", var.commit_sha))
    error_message = "Give the full commit id: 40 lower case hexadecimal digits (git rev-parse HEAD)."
  }
}

variable "lambda_artifacts_bucket" {
  description = "S3 bucket with the packages, in the region of the functions."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.lambda_artifacts_bucket))
    error_message = "Give the bucket's name alone, without s3:// and without a path."
  }
}

variable "package_sha256" {
  description = "SHA-256 of the package in base64, as package-lambda.sh prints it. With it, a package that was replaced under the same name is deployed, too."
  type        = string
  default     = null

  validation {
    condition     = var.package_sha256 == null || can(regex("^[A-Za-z0-9+/]{43}=$", var.package_sha256))
    error_message = "Give the base64 form, 44 characters: package-lambda.sh prints it."
  }
}

variable "architecture" {
  description = "Architecture of the package: `arm64` (20 % cheaper) or `x86_64`."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "Use arm64 or x86_64."
  }
}

# Size and time -------------------------------------------------------------------------------------------------------

variable "memory_size" {
  description = "Memory of each function in MB. CPU grows with it."
  type        = number
  default     = 256

  validation {
    condition     = var.memory_size >= 128 && var.memory_size <= 10240 && floor(var.memory_size) == var.memory_size
    error_message = "Use a whole number from 128 to 10240."
  }
}

variable "timeout_seconds" {
  description = "Timeout of one refresh in Lambda, in seconds."
  type        = number
  default     = 300

  validation {
    condition     = var.timeout_seconds >= 30 && var.timeout_seconds <= 900
    error_message = "Use 30 to 900 seconds."
  }
}

variable "max_runtime_seconds" {
  description = "Value of MAX_RUNTIME_SECONDS: a run ends by itself after this time. 230 fits two ticks of two minutes and stays below the duration alarm."
  type        = number
  default     = 230

  validation {
    condition     = var.max_runtime_seconds >= 1 && var.max_runtime_seconds <= var.timeout_seconds - 10
    error_message = "Leave at least 10 seconds to timeout_seconds: a run needs them to return its requests to the queue."
  }
}

variable "reserved_concurrency" {
  description = "Concurrency reserved for the refresh function. Null: 4, or parallel_runs + 2 and one for each task (views, statistics) if that is more, so that a run, a manual trigger and tasks never throttle one another. -1 reserves nothing, for new accounts, where 100 must stay unreserved. 1 is possible, but waiting ticks then end in the failure queue."
  type        = number
  default     = null

  validation {
    condition     = contains([-1, 1], coalesce(var.reserved_concurrency, -1)) || coalesce(var.reserved_concurrency, -1) >= local.least_concurrency
    error_message = "Use null, -1 (no reservation), 1, or at least parallel_runs + 2, and one more for each of REFRESH_VIEWS and STATS_FUNCTIONS in environment_variables."
  }
}

# Settings ------------------------------------------------------------------------------------------------------------

variable "environment_variables" {
  description = "More settings of the worker by name (docs/configuration.md). No secrets: these values are in the state."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.environment_variables) : contains(local.settings, name)])
    error_message = "Give only settings that the worker reads, that are not secrets, and that have no variable of their own here: see local.settings in settings.tf."
  }
}

variable "log_level" {
  description = "Level of the worker's log. WARN and above drop the metrics, which are lines of the log."
  type        = string
  default     = "INFO"

  validation {
    condition     = contains(["TRACE", "DEBUG", "INFO"], var.log_level)
    error_message = "Use TRACE, DEBUG or INFO: anything higher drops the metrics."
  }
}

variable "log_retention_days" {
  description = "Retention of logs, in days."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "Use a number of days that CloudWatch Logs accepts: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, ..."
  }
}

variable "tracing_mode" {
  description = "X-Ray: `PassThrough` or `Active`."
  type        = string
  default     = "PassThrough"

  validation {
    condition     = contains(["PassThrough", "Active"], var.tracing_mode)
    error_message = "Use PassThrough or Active."
  }
}

variable "kms_key_arn" {
  description = "Customer-managed key for environment variables, logs, the schedule and the failure queue. Its policy must allow the services logs, scheduler and sqs. Null: AWS-owned keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "Give the ARN of a key (not of an alias)."
  }
}

# Network -------------------------------------------------------------------------------------------------------------

variable "vpc_id" {
  description = "The VPC of Redis and PostgreSQL."
  type        = string

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "Give the id of a VPC: vpc-..."
  }
}

variable "private_subnet_ids" {
  description = "Subnets that reach the internet through a NAT gateway: functions in public subnets have no internet."
  type        = list(string)

  validation {
    condition     = length(var.private_subnet_ids) > 0 && alltrue([for id in var.private_subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "Give at least one subnet id: subnet-..."
  }
}

variable "database_security_group_id" {
  description = "Security group of PostgreSQL. It must allow the worker: see the output security_group_id."
  type        = string

  validation {
    condition     = can(regex("^sg-[0-9a-f]+$", var.database_security_group_id))
    error_message = "Give the id of a security group: sg-..."
  }
}

variable "database_port" {
  description = "Port of PostgreSQL."
  type        = number
  default     = 5432

  validation {
    condition     = var.database_port >= 1 && var.database_port <= 65535
    error_message = "Use 1 to 65535."
  }
}

variable "redis_security_group_id" {
  description = "Security group of Redis or Valkey. It must allow the worker: see the output security_group_id."
  type        = string

  validation {
    condition     = can(regex("^sg-[0-9a-f]+$", var.redis_security_group_id))
    error_message = "Give the id of a security group: sg-..."
  }
}

variable "redis_ports" {
  description = "First and last port of Redis; 6379 and 6380 serve serverless caches, too."
  type        = object({ first = number, last = number })
  default     = { first = 6379, last = 6380 }

  validation {
    condition     = var.redis_ports.first >= 1 && var.redis_ports.first <= var.redis_ports.last && var.redis_ports.last <= 65535
    error_message = "Use ports from 1 to 65535, the first not above the last."
  }
}

variable "nat_eip_allocation_ids" {
  description = "Elastic IPs of the NAT gateways. Their addresses are the output egress_ips. Every API key must list all of them."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.nat_eip_allocation_ids : can(regex("^eipalloc-[0-9a-f]+$", id))])
    error_message = "Give allocation ids: eipalloc-..."
  }
}

# Triggers ------------------------------------------------------------------------------------------------------------

variable "schedule_enabled" {
  description = "True: the schedule starts runs. False is the switch for maintenance and for the return to the old worker."
  type        = bool
  default     = true
}

variable "schedule_expression" {
  description = "Schedule of runs: rate(...) or cron(...) of EventBridge Scheduler, at most once a minute."
  type        = string
  default     = "rate(2 minutes)"

  validation {
    condition     = can(regex("^(rate\\((1 minute|[2-9] minutes|[1-9][0-9]+ minutes|1 hour|[2-9] hours|[1-9][0-9]+ hours)\\)|cron\\(.+\\))$", var.schedule_expression))
    error_message = "Use rate(1 minute), rate(2 minutes), ... or cron(...). Seconds do not exist there."
  }
}

variable "views_schedule_expression" {
  description = "Schedule of the task refresh-views, when environment_variables has REFRESH_VIEWS. Each view is refreshed when its own interval is over."
  type        = string
  default     = "rate(1 minute)"

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.views_schedule_expression))
    error_message = "Use rate(1 minute), rate(5 minutes), ... or cron(...)."
  }
}

variable "stats_schedule_expression" {
  description = "Schedule of the task stats, when environment_variables has STATS_FUNCTIONS."
  type        = string
  default     = "rate(1 minute)"

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.stats_schedule_expression))
    error_message = "Use rate(1 minute), rate(5 minutes), ... or cron(...)."
  }
}

variable "parallel_runs" {
  description = "Runs that start at each tick. More than one is for many API keys, with KEYS_PER_RUN in environment_variables."
  type        = number
  default     = 1

  validation {
    condition     = var.parallel_runs >= 1 && var.parallel_runs <= 10 && floor(var.parallel_runs) == var.parallel_runs
    error_message = "Use 1 to 10."
  }
}

variable "create_api" {
  description = "True: create the REST API with POST /refresh and GET /health."
  type        = bool
  default     = true
}

variable "refresh_mode" {
  description = "`sync`: POST /refresh runs for at most 25 s and returns the report. `async`: it returns 202 at once, and the run has all its time."
  type        = string
  default     = "sync"

  validation {
    condition     = contains(["sync", "async"], var.refresh_mode)
    error_message = "Use sync or async."
  }
}

variable "refresh_authorization" {
  description = "`NONE`: the API key alone. `AWS_IAM`: signed requests in addition, since an API key is not strong authentication."
  type        = string
  default     = "NONE"

  validation {
    condition     = contains(["NONE", "AWS_IAM"], var.refresh_authorization)
    error_message = "Use NONE or AWS_IAM."
  }
}

variable "api_quota_per_day" {
  description = "POST /refresh calls a day that the usage plan allows."
  type        = number
  default     = 1000

  validation {
    condition     = var.api_quota_per_day >= 1
    error_message = "Use 1 or more."
  }
}

variable "api_logs_enabled" {
  description = "Access and error logs of the API. They need an account-wide role. If the account has none, set manage_api_gateway_account; otherwise the stage cannot be created."
  type        = bool
  default     = true
}

variable "manage_api_gateway_account" {
  description = "True: this module sets the account-wide role that API Gateway logs with. There is one for each account and region, so set it in one place only."
  type        = bool
  default     = false
}

# Alarms and dashboard ------------------------------------------------------------------------------------------------

variable "create_alarms" {
  description = "True: create the alarms."
  type        = bool
  default     = true
}

variable "alarm_topic_arn" {
  description = "SNS topic that alarms are sent to. Null: the module creates one with a key of its own."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_topic_arn == null || can(regex("^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:.+$", var.alarm_topic_arn))
    error_message = "Give the ARN of an SNS topic."
  }
}

variable "alarm_emails" {
  description = "Addresses that get the alarms of the module's own topic; each must confirm once."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "Give e-mail addresses."
  }
}

variable "alarm_children_notify" {
  description = "True: the alarms of a composite alarm notify, too. One incident is then several messages."
  type        = bool
  default     = false
}

variable "alarm_thresholds" {
  description = "Where alarms go off. Null: computed, from the schedules where they matter. Metric, period and formula of each are in alarms.tf. failing_schedule is a number of ticks."
  type = object({
    errors                     = optional(number)
    failing_schedule           = optional(number)
    duration_ms                = optional(number)
    throttles                  = optional(number)
    dead_letters               = optional(number)
    oldest_request_age_seconds = optional(number)
    queue_size                 = optional(number)
    api_5xx                    = optional(number)
    view_refresh_failures      = optional(number)
    stats_jobs_failed          = optional(number)
  })
  default = {}
}

variable "create_dashboard" {
  description = "True: create the dashboard."
  type        = bool
  default     = true
}
