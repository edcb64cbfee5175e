# The roles can be planned. With a provider that is only pretended.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  repository              = "owner/refresh-worker"
  lambda_artifacts_bucket = "packages"
  state_bucket            = "state"
}

run "both_roles" {
  command = plan

  assert {
    condition     = local.subjects == { publish = "repo:owner/refresh-worker:ref:refs/heads/main", deploy = "repo:owner/refresh-worker:environment:production" }
    error_message = "main publishes, the environment deploys, and nobody else."
  }
}
