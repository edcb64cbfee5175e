variable "region" {
  description = "Region of AWS."
  type        = string
  default     = "us-east-1"
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
