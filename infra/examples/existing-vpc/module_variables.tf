# The module's variables that are passed on as they are. Generated from infra/, where their rules are:
# UPDATE_DOCS=1 cargo test --locked --features failpoints --test it -- infra::examples

variable "name" {
  description = "Prefix of everything this module creates. Two workers in one account and region need two names. Roles are global in an account, so their names have the region as well."
  type        = string
  default     = "refresh-worker"
}

variable "environment" {
  description = "Value of ENVIRONMENT: the dimension `Environment` of every metric of the worker, and a tag."
  type        = string
  default     = "production"
}

variable "tags" {
  description = "Tags of everything that can have tags."
  type        = map(string)
  default     = {}
}

variable "commit_sha" {
  description = "The commit whose package runs: the object `refresh-worker-<commit_sha>.zip` in the bucket. An older commit rolls back."
  type        = string
}

variable "lambda_artifacts_bucket" {
  description = "S3 bucket with the packages, in the region of the functions."
  type        = string
}

variable "package_sha256" {
  description = "SHA-256 of the package in base64, as package-lambda.sh prints it. With it, a package that was replaced under the same name is deployed, and code that was changed outside of tofu is a change in the plan. A wrong value is a change in every plan."
  type        = string
  default     = null
}

variable "architecture" {
  description = "Architecture of the package: `arm64` (20 % cheaper) or `x86_64`."
  type        = string
  default     = "arm64"
}

variable "extra_layers" {
  description = "ARNs of more layers of both functions, each with its version, of the region of the functions. The deploy role of infra/github may read layers of any account in the region."
  type        = list(string)
  default     = []
}

variable "memory_size" {
  description = "Memory of each function in MB. CPU grows with it."
  type        = number
  default     = 256
}

variable "timeout_seconds" {
  description = "Timeout of one refresh in Lambda, in seconds."
  type        = number
  default     = 300
}

variable "max_runtime_seconds" {
  description = "Value of MAX_RUNTIME_SECONDS: a run ends by itself after this time. 230 fits two ticks of two minutes and stays below the duration alarm."
  type        = number
  default     = 230
}

variable "reserved_concurrency" {
  description = "Concurrency reserved for the refresh function. Null: 4, or parallel_runs + 2 and one for each task (views, statistics) if that is more, so that a run, a manual trigger and tasks never throttle one another. -1 reserves nothing, for new accounts, where 100 must stay unreserved. 1 is possible, but waiting ticks then end in the failure queue."
  type        = number
  default     = null
}

variable "health_reserved_concurrency" {
  description = "Concurrency reserved for the health function, which is also its limit: anybody may call it. Null: 5, or no reservation when reserved_concurrency is -1. -1 reserves nothing and leaves the rate of health_throttle as the only limit."
  type        = number
  default     = null
}

variable "environment_variables" {
  description = "More settings of the worker by name (docs/configuration.md). No secrets: these values are in the state."
  type        = map(string)
  default     = {}
}

variable "log_level" {
  description = "Level of the worker's log. WARN and above drop the metrics, which are lines of the log."
  type        = string
  default     = "INFO"
}

variable "log_retention_days" {
  description = "Retention of logs, in days."
  type        = number
  default     = 30
}

variable "tracing_mode" {
  description = "X-Ray: `PassThrough` or `Active`."
  type        = string
  default     = "PassThrough"
}

variable "kms_key_arn" {
  description = "Customer-managed key for environment variables, logs, the schedule and the failure queue. Its policy must allow the services logs, scheduler and sqs. Null: AWS-owned keys."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "ARN of a policy that becomes the permissions boundary of every role of this module. It must allow what iam.tf and extra_policy_statements allow."
  type        = string
  default     = null
}

variable "role_path" {
  description = "Path of every role of this module, as in `/workers/`."
  type        = string
  default     = "/"
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
}

variable "schedule_expression" {
  description = "Schedule of runs: rate(...) or cron(...) of EventBridge Scheduler, at most once a minute."
  type        = string
  default     = "rate(2 minutes)"
}

variable "views_schedule_expression" {
  description = "Schedule of the task refresh-views, when environment_variables has REFRESH_VIEWS. Each view is refreshed when its own interval is over."
  type        = string
  default     = "rate(1 minute)"
}

variable "stats_schedule_expression" {
  description = "Schedule of the task stats, when environment_variables has STATS_FUNCTIONS."
  type        = string
  default     = "rate(1 minute)"
}

variable "parallel_runs" {
  description = "Runs that start at each tick. More than one is for many API keys, with KEYS_PER_RUN in environment_variables."
  type        = number
  default     = 1
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
}

variable "refresh_authorization" {
  description = "`NONE`: the API key alone. `AWS_IAM`: signed requests in addition, since an API key is not strong authentication."
  type        = string
  default     = "NONE"
}

variable "api_quota_per_day" {
  description = "POST /refresh calls a day that the usage plan allows."
  type        = number
  default     = 1000
}

variable "health_throttle" {
  description = "Calls of GET /health that the API lets through, and as many of HEAD /health: `rate` a second on average, `burst` at once. The endpoint has no key, so this bounds its cost (DEPLOYMENT.md, \"What strangers may cost\")."
  type = object({
    rate  = optional(number, 1)
    burst = optional(number, 5)
  })
  default = {}
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

variable "create_alarms" {
  description = "True: create the alarms."
  type        = bool
  default     = true
}

variable "alarm_topic_arn" {
  description = "SNS topic that alarms are sent to. Null: the module creates one with a key of its own."
  type        = string
  default     = null
}

variable "alarm_emails" {
  description = "Addresses that get the alarms of the module's own topic; each must confirm once."
  type        = list(string)
  default     = []
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
}

variable "create_dashboard" {
  description = "True: create the dashboard."
  type        = bool
  default     = true
}

variable "secret_arns" {
  description = "Secrets in the Secrets Manager: setting => ARN of the secret; `#field` at the end picks a field of a JSON object. Needs extension_layer_arn."
  type        = map(string)
  default     = {}
}

variable "plain_secrets" {
  description = "Secrets by their values: setting => value. Lambda keeps them encrypted, but they are in the state, too. For tests only; prefer secret_parameters or secret_arns."
  type        = map(string)
  default     = {}
  sensitive   = true
}
