variable "region" {
  description = "Region of AWS."
  type        = string
  default     = "us-east-1"
}

variable "vpc" {
  description = "The network of PostgreSQL and Redis, with private subnets behind a NAT gateway: see the module's variable."
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
  nullable = false
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
  description = "True: the schedule starts runs. Off at first, since the secrets must exist before."
  type        = bool
  default     = false
}
