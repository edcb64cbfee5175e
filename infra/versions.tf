terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.27, < 7.0" # The first whose aws_lambda_function takes code_sha256.
    }
  }
}
