# The example can be planned, without a VPC and with one. With a mocked provider.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  commit_sha              = "0123456789abcdef0123456789abcdef01234567"
  lambda_artifacts_bucket = "packages"
  extension_layer_arn     = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
}

run "without_a_network" {
  command = plan

  assert {
    condition     = output.security_group_id == null && output.egress_ips == []
    error_message = "No VPC, no group, no addresses."
  }
}

run "with_an_address_that_stays" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["subnet-0a"], nat_eip_allocation_ids = ["eipalloc-0a"] }
  }
}
