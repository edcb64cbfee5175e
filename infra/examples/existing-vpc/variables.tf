variable "region" {
  description = "Region of AWS."
  type        = string
  default     = "us-east-1"
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
  description = "What the package was built for."
  type        = string
  default     = "arm64"
}

variable "environment" {
  description = "Name of the environment, for metrics and tags."
  type        = string
  default     = "production"
}

variable "vpc_id" {
  description = "The network of Redis and PostgreSQL."
  type        = string
}

variable "private_subnet_ids" {
  description = "Subnets whose way out is a NAT gateway."
  type        = list(string)
}

variable "database_security_group_id" {
  description = "Security group of PostgreSQL."
  type        = string
}

variable "redis_security_group_id" {
  description = "Security group of Redis."
  type        = string
}

variable "nat_eip_allocation_ids" {
  description = "Elastic IPs of the NAT gateways."
  type        = list(string)
  default     = []
}

variable "secret_parameters" {
  description = "Secrets in the Parameter Store: setting => name of the parameter."
  type        = map(string)
  default = {
    DATABASE_URL   = "/refresh-worker/database-url"
    REDIS_URL      = "/refresh-worker/redis-url"
    COC_API_TOKENS = "/refresh-worker/coc-api-tokens"
  }
}

variable "extension_layer_arn" {
  description = "ARN of the layer \"AWS Parameters and Secrets Lambda Extension\" of the region and architecture."
  type        = string
}

variable "schedule_enabled" {
  description = "Whether the schedule starts runs."
  type        = bool
  default     = true
}

variable "manage_api_gateway_account" {
  description = "true once for each account and region whose API Gateway may not write logs yet."
  type        = bool
  default     = false
}

variable "alarm_emails" {
  description = "Who gets the alarms."
  type        = list(string)
  default     = []
}
