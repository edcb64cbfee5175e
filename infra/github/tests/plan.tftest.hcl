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

run "three_roles" {
  command = plan

  assert {
    condition = local.subjects == {
      publish = "repo:owner/refresh-worker:ref:refs/heads/main"
      plan    = "repo:owner/refresh-worker:environment:production-plan"
      deploy  = "repo:owner/refresh-worker:environment:production"
    }
    error_message = "main publishes, the two environments plan and deploy, and nobody else."
  }
}

run "administrators_refused" {
  command = plan

  variables {
    more_deploy_policies     = ["arn:aws:iam::aws:policy/AdministratorAccess"]
    more_boundary_statements = [{ actions = ["iam:CreateUser"], resources = ["*"] }]
    secret_names             = ["*"]
  }

  expect_failures = [var.more_deploy_policies, var.more_boundary_statements, var.secret_names]
}

run "plan_role_that_writes_refused" {
  command = plan

  variables {
    more_plan_policies = ["arn:aws:iam::aws:policy/AmazonRDSFullAccess"]
  }

  expect_failures = [var.more_plan_policies]
}

run "plan_role_that_reads_everything_refused" {
  command = plan

  variables {
    more_plan_policies = ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
  }

  expect_failures = [var.more_plan_policies]
}
