# The secrets of the functions. A secret is in the Parameter Store, in the Secrets Manager, or given as a plain value.

variable "secret_parameters" {
  description = "Secrets in the Parameter Store: setting => name of the parameter, as in { DATABASE_URL = \"/refresh-worker/database-url\" }; `#field` at the end picks a field of a JSON object. Needs extension_layer_arn."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.secret_parameters) : contains(local.secrets, name) || can(regex(local.numbered_secret, name))])
    error_message = "Give only secrets that the functions read: see local.secrets in settings.tf."
  }

  validation {
    condition     = alltrue([for name in keys(var.secret_parameters) : !contains(keys(var.secret_arns), name)])
    error_message = "A secret may be in one place only: not both in secret_parameters and in secret_arns."
  }

  validation {
    condition     = length(var.secret_parameters) + length(var.secret_arns) == 0 || var.extension_layer_arn != null
    error_message = "Secrets in the Parameter Store or the Secrets Manager need extension_layer_arn."
  }
}

variable "secret_arns" {
  description = "Secrets in the Secrets Manager: setting => ARN of the secret; `#field` at the end picks a field of a JSON object. Needs extension_layer_arn."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.secret_arns) : contains(local.secrets, name) || can(regex(local.numbered_secret, name))])
    error_message = "Give only secrets that the functions read: see local.secrets in settings.tf."
  }

  validation {
    condition     = alltrue([for arn in values(var.secret_arns) : can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+$", arn))])
    error_message = "Give the whole ARN of each secret, with the six characters at its end."
  }
}

variable "extension_layer_arn" {
  description = "ARN of the layer \"AWS Parameters and Secrets Lambda Extension\" of this region and architecture, from its page in the AWS documentation. Only with secret_parameters or secret_arns."
  type        = string
  default     = null

  validation {
    condition     = var.extension_layer_arn == null || can(regex("^arn:[a-z-]+:lambda:[a-z0-9-]+:[0-9]{12}:layer:AWS-Parameters-and-Secrets-Lambda-Extension[A-Za-z0-9-]*:[0-9]+$", var.extension_layer_arn))
    error_message = "Give the ARN of a version of that layer: arn:aws:lambda:REGION:ACCOUNT:layer:AWS-Parameters-and-Secrets-Lambda-Extension[-Arm64]:VERSION."
  }

  validation {
    condition     = var.extension_layer_arn == null || (var.architecture == "arm64") == can(regex("-Arm64:", var.extension_layer_arn))
    error_message = "The layer is for the other architecture: its name ends in -Arm64 for arm64 only."
  }
}

variable "plain_secrets" {
  description = "Secrets by their values: setting => value. Lambda keeps them encrypted, but they are in the state, too. For tests only; prefer secret_parameters or secret_arns."
  type        = map(string)
  default     = {}
  sensitive   = true

  validation {
    condition     = alltrue([for name in nonsensitive(keys(var.plain_secrets)) : contains(local.secrets, name) || can(regex(local.numbered_secret, name))])
    error_message = "Give only secrets that the functions read: see local.secrets in settings.tf."
  }

  validation {
    condition     = alltrue([for name in nonsensitive(keys(var.plain_secrets)) : !contains(keys(merge(var.secret_parameters, var.secret_arns)), name)])
    error_message = "A secret may be in one place only: plain_secrets, secret_parameters or secret_arns."
  }
}

locals {
  # Names of further accounts end with a number.
  numbered_secret = "^COC_(EMAIL|PASSWORD)_[0-9]+$"

  # The names of all that are given.
  secret_names = nonsensitive(keys(merge(var.plain_secrets, var.secret_parameters, var.secret_arns)))

  # The refresh role gets all secrets, the health role these.
  secrets_of = {
    refresh = concat(local.secrets, [for name in keys(merge(var.secret_parameters, var.secret_arns)) : name if !contains(local.secrets, name)])
    health  = ["CA_CERTIFICATES", "DATABASE_URL", "RDS_PASSWORD", "REDIS_URL"]
  }

  secret_environment = {
    for role, names in local.secrets_of : role => merge(
      { for name, value in var.plain_secrets : name => value if role == "refresh" || contains(names, name) },
      { for name, parameter in var.secret_parameters : "${name}_PARAMETER" => parameter if contains(names, name) },
      { for name, arn in var.secret_arns : "${name}_SECRET_ARN" => arn if contains(names, name) },
    )
  }

  # The secrets that each role may read, and no others.
  parameter_arns = {
    for role, names in local.secrets_of : role => distinct([
      for name, parameter in var.secret_parameters :
      "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter/${trimprefix(split("#", parameter)[0], "/")}"
      if contains(names, name)
    ])
  }
  secret_arns = {
    for role, names in local.secrets_of : role => distinct([for name, arn in var.secret_arns : split("#", arn)[0] if contains(names, name)])
  }

  layers       = concat(compact([var.extension_layer_arn]), var.extra_layers)
  key_services = ["lambda", "sqs", "ssm", "secretsmanager"]
}
