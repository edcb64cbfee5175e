variable "region" {
  description = "Region of AWS."
  type        = string
  default     = "us-east-1"
}

variable "name" {
  description = "Prefix of everything."
  type        = string
  default     = "refresh-worker"
}

variable "environment" {
  description = "Name of the environment, for metrics and tags."
  type        = string
  default     = "production"
}

variable "commit_sha" {
  description = "The commit whose package runs."
  type        = string
}

variable "lambda_artifacts_bucket" {
  description = "S3 bucket with the packages."
  type        = string
}

variable "architecture" {
  description = "Architecture of the package."
  type        = string
  default     = "arm64"
}

variable "package_sha256" {
  description = "SHA-256 of the package in base64. The workflow deploy sets it; by hand it may be left out."
  type        = string
  default     = null
}

variable "memory_size" {
  description = "Memory of each function in MB."
  type        = number
  default     = 256
}

variable "environment_variables" {
  description = "More settings of the worker by name (docs/configuration.md). No secrets."
  type        = map(string)
  default     = {}
}

variable "parallel_runs" {
  description = "Runs that start at each tick."
  type        = number
  default     = 1
}

variable "reserved_concurrency" {
  description = "Concurrency reserved for the refresh function. Null: as much as runs, a manual trigger and tasks need. -1 reserves nothing, for new accounts."
  type        = number
  default     = null
}

variable "refresh_mode" {
  description = "`sync`: POST /refresh returns the report of the run. `async`: it returns 202 at once."
  type        = string
  default     = "sync"
}

variable "secret_parameters" {
  description = "Secrets in the Parameter Store: setting => name of the parameter."
  type        = map(string)
  default = {
    DATABASE_URL   = "/refresh-worker/database-url"
    COC_API_TOKENS = "/refresh-worker/coc-api-tokens"
  }
}

variable "extension_layer_arn" {
  description = "ARN of the layer \"AWS Parameters and Secrets Lambda Extension\" of the region and architecture."
  type        = string
}

variable "schedule_enabled" {
  description = "True: the schedule starts runs. Off at first, since the keys need the address that the first apply creates."
  type        = bool
  default     = false
}

variable "manage_api_gateway_account" {
  description = "True: set the account-wide role that API Gateway logs with. False if another configuration does."
  type        = bool
  default     = true
}

variable "alarm_emails" {
  description = "E-mail addresses that get the alarms."
  type        = list(string)
  default     = []
}

variable "database_instance_class" {
  description = "Size of PostgreSQL."
  type        = string
  default     = "db.t4g.micro"
}

variable "cache_node_type" {
  description = "Size of Valkey."
  type        = string
  default     = "cache.t4g.micro"
}
