# What to run ---------------------------------------------------------------------------------------------------------

variable "name" {
  description = "Prefix of everything this module creates. Two workers in one account and region need two names. Roles are global in an account, so their names have the region as well."
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
  description = "SHA-256 of the package in base64, as package-lambda.sh prints it. With it, a package that was replaced under the same name is deployed, and code that was changed outside of tofu is a change in the plan. A wrong value is a change in every plan."
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

variable "extra_layers" {
  description = "ARNs of more layers of both functions, each with its version, of the region of the functions. The deploy role of infra/github may read layers of any account in the region."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.extra_layers : can(regex("^arn:[a-z-]+:lambda:[a-z0-9-]+:[0-9]{12}:layer:[A-Za-z0-9_-]+:[0-9]+$", arn))])
    error_message = "Give ARNs of versions of layers: arn:aws:lambda:REGION:ACCOUNT:layer:NAME:VERSION."
  }

  validation {
    condition     = length(var.extra_layers) + (var.extension_layer_arn == null ? 0 : 1) <= 5
    error_message = "A function has at most five layers, extension_layer_arn included."
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
  validation {
    condition     = coalesce(var.reserved_concurrency, -1) != 1 || !contains(keys(var.environment_variables), "PLANNED_CALLS_PER_SEC")
    error_message = "With PLANNED_CALLS_PER_SEC a run takes nearly two ticks, and with a concurrency of 1 every second tick would end in the failure queue: use null, or at least 3."
  }
}

variable "health_reserved_concurrency" {
  description = "Concurrency reserved for the health function, which is also its limit: anybody may call it. Null: 5, or no reservation when reserved_concurrency is -1. -1 reserves nothing and leaves the rate of health_throttle as the only limit."
  type        = number
  default     = null

  validation {
    condition     = var.health_reserved_concurrency == null ? true : var.health_reserved_concurrency == -1 || var.health_reserved_concurrency >= 1 && floor(var.health_reserved_concurrency) == var.health_reserved_concurrency
    error_message = "Use null, -1 (no reservation), or a whole number from 1."
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

variable "vpc" {
  description = "The network of PostgreSQL and Redis. `subnet_ids` must reach the internet through a NAT gateway: functions in public subnets have no internet. `nat_eip_allocation_ids` are the Elastic IPs of the NAT gateways; their addresses are the output egress_ips, and every API key must list all of them. The security groups of the two servers must allow the worker's: see the output security_group_id. A server without a security group, such as a hosted one, is reached by its port at `database_cidr` or `redis_cidr`. `redis_ports` 6379 to 6380 serve serverless caches, too. Null: no VPC, for hosted servers only. The functions' addresses then change, so API keys must come from the developer portal (COC_EMAIL and COC_PASSWORD)."
  type = object({
    id                         = string
    subnet_ids                 = list(string)
    nat_eip_allocation_ids     = optional(list(string), [])
    database_security_group_id = optional(string)
    database_cidr              = optional(string, "0.0.0.0/0")
    database_port              = optional(number, 5432)
    redis_security_group_id    = optional(string)
    redis_cidr                 = optional(string, "0.0.0.0/0")
    redis_ports                = optional(object({ first = number, last = number }), { first = 6379, last = 6380 })
  })
  default = null

  validation {
    condition     = var.vpc == null ? true : can(regex("^vpc-[0-9a-f]+$", var.vpc.id))
    error_message = "vpc.id: give the id of a VPC: vpc-..."
  }

  validation {
    condition     = var.vpc == null ? true : length(var.vpc.subnet_ids) > 0 && alltrue([for id in var.vpc.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "vpc.subnet_ids: give at least one subnet id: subnet-..."
  }

  validation {
    condition     = var.vpc == null ? true : alltrue([for id in var.vpc.nat_eip_allocation_ids : can(regex("^eipalloc-[0-9a-f]+$", id))])
    error_message = "vpc.nat_eip_allocation_ids: give allocation ids: eipalloc-..."
  }

  validation {
    condition     = var.vpc == null ? true : var.vpc.database_security_group_id == null || can(regex("^sg-[0-9a-f]+$", var.vpc.database_security_group_id))
    error_message = "vpc.database_security_group_id: give the id of a security group, sg-..., or leave it out for a hosted server."
  }

  validation {
    condition     = var.vpc == null ? true : var.vpc.redis_security_group_id == null || can(regex("^sg-[0-9a-f]+$", var.vpc.redis_security_group_id))
    error_message = "vpc.redis_security_group_id: give the id of a security group, sg-..., or leave it out for a hosted server."
  }

  validation {
    condition     = var.vpc == null ? true : can(cidrnetmask(var.vpc.database_cidr)) && can(cidrnetmask(var.vpc.redis_cidr))
    error_message = "vpc.database_cidr, vpc.redis_cidr: give a range of IPv4 addresses, as in 203.0.113.0/24."
  }

  validation {
    condition     = var.vpc == null ? true : var.vpc.database_port >= 1 && var.vpc.database_port <= 65535
    error_message = "vpc.database_port: use 1 to 65535."
  }

  validation {
    condition     = var.vpc == null ? true : var.vpc.redis_ports.first >= 1 && var.vpc.redis_ports.first <= var.vpc.redis_ports.last && var.vpc.redis_ports.last <= 65535
    error_message = "vpc.redis_ports: use ports from 1 to 65535, the first not above the last."
  }
}

# Roles ---------------------------------------------------------------------------------------------------------------

variable "permissions_boundary_arn" {
  description = "ARN of a policy that becomes the permissions boundary of every role of this module. It must allow what iam.tf and extra_policy_statements allow."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:[a-z-]+:iam::([0-9]{12}|aws):policy/.+$", var.permissions_boundary_arn))
    error_message = "Give the ARN of a policy: arn:aws:iam::ACCOUNT:policy/NAME."
  }
}

variable "role_path" {
  description = "Path of every role of this module, as in `/workers/`."
  type        = string
  default     = "/"

  validation {
    condition     = can(regex("^/([!-.0-~]+/)*$", var.role_path)) && length(var.role_path) <= 512
    error_message = "Use a path that begins and ends with a slash, of at most 512 characters: / or /workers/."
  }
}

variable "extra_policy_statements" {
  description = "More statements of the functions' roles, for an own secret store for example. `functions` names the roles that get a statement: `refresh`, `health`, or both, which is the default."
  type = list(object({
    sid        = optional(string)
    effect     = optional(string, "Allow")
    actions    = list(string)
    resources  = list(string)
    conditions = optional(list(object({ test = string, variable = string, values = list(string) })), [])
    functions  = optional(list(string), ["refresh", "health"])
  }))
  default = []

  validation {
    condition     = alltrue([for statement in var.extra_policy_statements : contains(["Allow", "Deny"], statement.effect)])
    error_message = "effect: use Allow or Deny."
  }

  validation {
    condition     = alltrue([for statement in var.extra_policy_statements : length(statement.actions) > 0 && alltrue([for action in statement.actions : can(regex("^[a-z0-9-]+:[A-Za-z0-9*]+$", action))])])
    error_message = "actions: give at least one action, each with its service: dynamodb:GetItem."
  }

  validation {
    condition     = alltrue([for statement in var.extra_policy_statements : length(statement.resources) > 0 && alltrue([for resource in statement.resources : resource == "*" || startswith(resource, "arn:")])])
    error_message = "resources: give at least one ARN, or * where an action has no narrower form."
  }

  validation {
    condition     = alltrue([for statement in var.extra_policy_statements : length(statement.functions) > 0 && alltrue([for role in statement.functions : contains(["refresh", "health"], role)])])
    error_message = "functions: use refresh, health, or both."
  }

  validation {
    condition     = alltrue([for statement in var.extra_policy_statements : statement.sid == null || can(regex("^[A-Za-z0-9]+$", statement.sid))])
    error_message = "sid: use letters and digits only."
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

variable "health_throttle" {
  description = "Calls of GET /health that the API lets through, and as many of HEAD /health: `rate` a second on average, `burst` at once. The endpoint has no key, so this bounds its cost (DEPLOYMENT.md, \"What strangers may cost\")."
  type = object({
    rate  = optional(number, 1)
    burst = optional(number, 5)
  })
  default = {}

  validation {
    condition     = var.health_throttle.rate > 0 && var.health_throttle.burst >= 1 && floor(var.health_throttle.burst) == var.health_throttle.burst
    error_message = "Use a rate above 0 and a whole burst from 1."
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
    planned_lateness_seconds   = optional(number)
  })
  default = {}

  validation {
    condition     = alltrue([for threshold in values(var.alarm_thresholds) : coalesce(threshold, 0) >= 0])
    error_message = "A threshold is negative: use 0 or more."
  }
  validation {
    condition     = contains(range(1, 101), coalesce(var.alarm_thresholds.failing_schedule, 1))
    error_message = "failing_schedule is a number of ticks: use a whole number from 1 to 100."
  }
}

variable "create_dashboard" {
  description = "True: create the dashboard."
  type        = bool
  default     = true
}
