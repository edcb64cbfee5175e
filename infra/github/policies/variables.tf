variable "partition" {
  description = "Partition of AWS."
  type        = string
  default     = "aws"
}

variable "account" {
  description = "Id of the account."
  type        = string
}

variable "region" {
  description = "Region of AWS."
  type        = string
}

variable "environment" {
  description = "The GitHub environment."
  type        = string
}

variable "name" {
  description = "The name of the deployment."
  type        = string
}

variable "role_path" {
  description = "Path of the functions' roles."
  type        = string
  default     = "/"
}

variable "lambda_artifacts_bucket" {
  description = "S3 bucket with the packages."
  type        = string
}

variable "state_bucket" {
  description = "S3 bucket with the state of tofu."
  type        = string
}

variable "vpc_id" {
  description = "The VPC whose security groups may be changed, or * for any."
  type        = string
}

variable "secret_names" {
  description = "Names of the secrets and parameters that functions may read."
  type        = list(string)
}

variable "more_boundary_statements" {
  description = "What functions may have besides."
  type        = list(object({ actions = list(string), resources = list(string) }))
  default     = []
}
