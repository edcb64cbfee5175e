# The example can be planned, and refuses what the two regions must not share. With mocked providers.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

mock_provider "aws" {
  alias = "second"

  mock_data "aws_region" {
    defaults = { region = "us-east-1" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  commit_sha = "0123456789abcdef0123456789abcdef01234567"
  first = {
    region                  = "eu-central-1"
    name                    = "refresh-worker-eu"
    environment             = "production-eu"
    lambda_artifacts_bucket = "packages-eu"
    extension_layer_arn     = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    vpc                     = { id = "vpc-0a", subnet_ids = ["subnet-0a"], nat_eip_allocation_ids = ["eipalloc-0a"] }
  }
  second = {
    region                  = "us-east-1"
    name                    = "refresh-worker-us"
    environment             = "production-us"
    lambda_artifacts_bucket = "packages-us"
    extension_layer_arn     = "arn:aws:lambda:us-east-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    vpc                     = { id = "vpc-0b", subnet_ids = ["subnet-0b"], nat_eip_allocation_ids = ["eipalloc-0b"] }
  }
}

run "two_regions" {
  command = plan

  assert {
    condition     = output.first.refresh_function_name == "refresh-worker-eu-refresh" && output.second.refresh_function_name == "refresh-worker-us-refresh"
    error_message = "Each region has functions of its own."
  }
}

run "one_region_twice" {
  command = plan

  variables {
    second = {
      region                  = "eu-central-1"
      name                    = "refresh-worker-us"
      environment             = "production-us"
      lambda_artifacts_bucket = "packages-us"
      vpc                     = { id = "vpc-0b", subnet_ids = ["subnet-0b"], nat_eip_allocation_ids = ["eipalloc-0b"] }
      extension_layer_arn     = "arn:aws:lambda:us-east-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    }
  }

  expect_failures = [var.second]
}

run "one_environment" {
  command = plan

  variables {
    second = {
      region                  = "us-east-1"
      name                    = "refresh-worker-us"
      environment             = "production-eu"
      lambda_artifacts_bucket = "packages-us"
      vpc                     = { id = "vpc-0b", subnet_ids = ["subnet-0b"], nat_eip_allocation_ids = ["eipalloc-0b"] }
      extension_layer_arn     = "arn:aws:lambda:us-east-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    }
  }

  expect_failures = [var.second]
}

run "one_name" {
  command = plan

  variables {
    second = {
      region                  = "us-east-1"
      name                    = "refresh-worker-eu"
      environment             = "production-us"
      lambda_artifacts_bucket = "packages-us"
      vpc                     = { id = "vpc-0b", subnet_ids = ["subnet-0b"], nat_eip_allocation_ids = ["eipalloc-0b"] }
      extension_layer_arn     = "arn:aws:lambda:us-east-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    }
  }

  expect_failures = [var.second]
}

run "one_bucket" {
  command = plan

  variables {
    second = {
      region                  = "us-east-1"
      name                    = "refresh-worker-us"
      environment             = "production-us"
      lambda_artifacts_bucket = "packages-eu"
      vpc                     = { id = "vpc-0b", subnet_ids = ["subnet-0b"], nat_eip_allocation_ids = ["eipalloc-0b"] }
      extension_layer_arn     = "arn:aws:lambda:us-east-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    }
  }

  expect_failures = [var.second]
}
