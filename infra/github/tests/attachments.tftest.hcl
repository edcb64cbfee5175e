# The deploy and plan roles with more policies, so that every resource is planned by some test. With a provider that is only pretended.

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
  more_deploy_policies    = ["arn:aws:iam::aws:policy/AmazonVPCFullAccess"]
  more_plan_policies      = ["arn:aws:iam::aws:policy/AmazonVPCReadOnlyAccess", "arn:aws:iam::aws:policy/AmazonRDSReadOnlyAccess", "arn:aws:iam::123456789012:policy/read"]
}

run "more_policies" {
  command = plan

  assert {
    condition     = length(aws_iam_role_policy_attachment.deploy) == 1
    error_message = "Each policy is attached to the deploy role."
  }

  assert {
    condition     = length(aws_iam_role_policy_attachment.plan) == 3 && alltrue([for one in aws_iam_role_policy_attachment.plan : endswith(one.role, "-plan")])
    error_message = "Each policy that reads is attached to the plan role."
  }
}
