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

variable "more_deploy_policies" {
  description = "ARNs of more policies of the deploy role, for a root configuration that makes more than the example existing-vpc."
  type        = set(string)
  default     = []
}
