variable "region" {
  description = "Region of AWS."
  type        = string
  default     = "us-east-1"
}

variable "repository" {
  description = "OWNER/NAME on GitHub."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", var.repository))
    error_message = "Give OWNER/NAME."
  }
}

variable "environment" {
  description = "The GitHub environment that may deploy. Protect it with reviewers: whoever deploys decides what runs."
  type        = string
  default     = "production"
}

variable "name" {
  description = "The name of the deployment, as in the example that is applied."
  type        = string
  default     = "refresh-worker"
}

variable "lambda_artifacts_bucket" {
  description = "S3 bucket with the packages."
  type        = string
}

variable "state_bucket" {
  description = "S3 bucket with the state of tofu."
  type        = string
}

variable "role_path" {
  description = "Path of the functions' roles, as the module's variable."
  type        = string
  default     = "/"

  validation {
    condition     = can(regex("^/([A-Za-z0-9_.-]+/)*$", var.role_path))
    error_message = "Begin and end the path with a slash, as in /teams/clash/."
  }
}

variable "vpc_id" {
  description = "The VPC of the worker: only its security groups may be changed. Null: those of any VPC in the account and region."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_id == null || can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "Give the id of a VPC: vpc-..."
  }
}

variable "secret_names" {
  description = "Names of the parameters and secrets that the functions may read, with * as wildcard. Whoever deploys decides what the functions do with them."
  type        = list(string)
  default     = ["refresh-worker/*"]

  validation {
    condition     = length(var.secret_names) > 0 && alltrue([for name in var.secret_names : can(regex("^[A-Za-z0-9_.-]+[A-Za-z0-9_./*-]*$", name))])
    error_message = "Give names without a slash in front and not * alone, as in refresh-worker/*."
  }
}

variable "more_boundary_statements" {
  description = "What the functions may have besides, where the module's roles get statements of your own."
  type        = list(object({ actions = list(string), resources = list(string) }))
  default     = []

  validation {
    condition = alltrue([
      for statement in var.more_boundary_statements : alltrue([for action in statement.actions : can(regex("^[a-z0-9-]+:[A-Za-z0-9]+$", action)) && !can(regex("^(iam|sts|organizations):", action))])
    ])
    error_message = "Give whole actions without *, and none of iam, sts and organizations: they would let a function make an administrator."
  }
}

variable "more_deploy_policies" {
  description = "ARNs of more policies of the deploy role, for a root configuration that makes more than the example existing-vpc."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.more_deploy_policies : can(regex("^arn:[a-z-]+:iam::([0-9]{12}|aws):policy/.+$", arn)) && !can(regex("/(AdministratorAccess.*|PowerUserAccess|IAMFullAccess)$", arn))])
    error_message = "Give ARNs of policies, and none that makes the deploy role an administrator: AdministratorAccess, PowerUserAccess, IAMFullAccess."
  }
}

variable "more_plan_policies" {
  description = "ARNs of more policies of the plan role, for the same configuration: what reads the things that more_deploy_policies makes."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.more_plan_policies : can(regex("^arn:[a-z-]+:iam::([0-9]{12}|aws):policy/.+$", arn)) && !can(regex("/(AdministratorAccess[^/]*|PowerUserAccess|ReadOnlyAccess|[^/]*FullAccess(V2|_v2)?)$", arn))])
    error_message = "Give ARNs of policies that only read: no FullAccess, AdministratorAccess or PowerUserAccess. ReadOnlyAccess reads secrets and buckets, too: give the services' own, as AmazonRDSReadOnlyAccess."
  }
}
