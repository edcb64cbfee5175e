variable "region" {
  description = "Region of AWS."
  type        = string
  default     = "us-east-1"
}

variable "secret_parameters" {
  description = "Secrets in the Parameter Store: setting => name of the parameter."
  type        = map(string)
  default = {
    DATABASE_URL = "/refresh-worker/database-url"
    REDIS_URL    = "/refresh-worker/redis-url"
    COC_EMAIL    = "/refresh-worker/coc-email"
    COC_PASSWORD = "/refresh-worker/coc-password"
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
