# The example can be planned. With a mocked provider.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  commit_sha              = "0123456789abcdef0123456789abcdef01234567"
  lambda_artifacts_bucket = "packages"
  extension_layer_arn     = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
  vpc = {
    id                         = "vpc-0a"
    subnet_ids                 = ["subnet-0a", "subnet-0b"]
    database_security_group_id = "sg-0a"
    redis_security_group_id    = "sg-0b"
    nat_eip_allocation_ids     = ["eipalloc-0a"]
  }
}

run "in_a_network_that_is_there" {
  command = plan
}
