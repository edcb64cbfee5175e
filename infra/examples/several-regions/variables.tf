variable "first" {
  description = "The region near the stores: the module's variables of these names, for this region alone."
  type = object({
    region                  = string
    name                    = string
    environment             = string
    lambda_artifacts_bucket = string
    extension_layer_arn     = optional(string)
    extra_layers            = optional(list(string), [])
    secret_arns             = optional(map(string), {})
    kms_key_arn             = optional(string)
    alarm_topic_arn         = optional(string)
    schedule_enabled        = optional(bool, false)
    environment_variables   = optional(map(string), {})
    vpc = optional(object({
      id                         = string
      subnet_ids                 = list(string)
      nat_eip_allocation_ids     = optional(list(string), [])
      database_security_group_id = optional(string)
      database_cidr              = optional(string, "0.0.0.0/0")
      database_port              = optional(number, 5432)
      redis_security_group_id    = optional(string)
      redis_cidr                 = optional(string, "0.0.0.0/0")
      redis_ports                = optional(object({ first = number, last = number }), { first = 6379, last = 6380 })
    }))
  })
}

variable "second" {
  description = "The other region, with a name and an environment of its own."
  type = object({
    region                  = string
    name                    = string
    environment             = string
    lambda_artifacts_bucket = string
    extension_layer_arn     = optional(string)
    extra_layers            = optional(list(string), [])
    secret_arns             = optional(map(string), {})
    kms_key_arn             = optional(string)
    alarm_topic_arn         = optional(string)
    schedule_enabled        = optional(bool, false)
    environment_variables   = optional(map(string), {})
    vpc = optional(object({
      id                         = string
      subnet_ids                 = list(string)
      nat_eip_allocation_ids     = optional(list(string), [])
      database_security_group_id = optional(string)
      database_cidr              = optional(string, "0.0.0.0/0")
      database_port              = optional(number, 5432)
      redis_security_group_id    = optional(string)
      redis_cidr                 = optional(string, "0.0.0.0/0")
      redis_ports                = optional(object({ first = number, last = number }), { first = 6379, last = 6380 })
    }))
  })

  validation {
    condition     = var.second.region != var.first.region
    error_message = "second.region: use another region than first.region. Two workers in one region are two deployments of another example."
  }

  validation {
    condition     = var.second.environment != var.first.environment
    error_message = "second.environment: use another one than first.environment. It names the metrics, and the keys that the worker makes at the developer portal: with one name the two would revoke each other's keys."
  }

  validation {
    condition     = var.second.name != var.first.name
    error_message = "second.name: use another one than first.name, so that alarms and dashboards say which worker they are about."
  }

  validation {
    condition     = var.second.lambda_artifacts_bucket != var.first.lambda_artifacts_bucket
    error_message = "second.lambda_artifacts_bucket: Lambda reads packages from a bucket in its own region. Upload the package to both."
  }
}

variable "secret_parameters" {
  description = "Secrets in the Parameter Store of each region: setting => name of the parameter. The names are the same in both."
  type        = map(string)
  default = {
    DATABASE_URL   = "/refresh-worker/database-url"
    REDIS_URL      = "/refresh-worker/redis-url"
    COC_API_TOKENS = "/refresh-worker/coc-api-tokens"
  }
}
