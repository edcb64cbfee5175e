# The roles that the workflows publish and deploy assume, without access keys, and the boundary of the roles that deploy makes.
# Apply it once for each GitHub environment, by hand, as somebody who may create roles.
#
# The deploy role covers the example existing-vpc. It cannot make itself an administrator: roles that it creates have the
# boundary, and it can change neither the boundary nor itself. infra/checks/escalation.py tries the known ways.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.25"
    }
  }
}

provider "aws" {
  region = var.region
}

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}

locals {
  issuer = "token.actions.githubusercontent.com"

  # Who may assume which role.
  subjects = {
    publish = "repo:${var.repository}:ref:refs/heads/main"
    plan    = "repo:${var.repository}:environment:${var.environment}-plan"
    deploy  = "repo:${var.repository}:environment:${var.environment}"
  }
  deploy_policies = toset(["deploy-1", "deploy-2", "deploy-3", "never"])
}

module "policies" {
  source = "./policies"

  partition                = data.aws_partition.this.partition
  account                  = data.aws_caller_identity.this.account_id
  region                   = var.region
  environment              = var.environment
  name                     = var.name
  role_path                = var.role_path
  vpc_id                   = coalesce(var.vpc_id, "*")
  lambda_artifacts_bucket  = var.lambda_artifacts_bucket
  state_bucket             = var.state_bucket
  secret_names             = var.secret_names
  more_boundary_statements = var.more_boundary_statements
}

# There is one for each account. Where it is missing: aws iam create-open-id-connect-provider, see DEPLOYMENT.md.
data "aws_iam_openid_connect_provider" "github" {
  url = "https://${local.issuer}"
}

data "aws_iam_policy_document" "assume" {
  for_each = local.subjects

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [data.aws_iam_openid_connect_provider.github.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = [each.value]
    }
  }
}

# Not named after var.name first, so that the deploy role cannot change itself.
resource "aws_iam_role" "this" {
  for_each = local.subjects

  name               = "github-${var.name}-${var.region}-${each.key}"
  description        = "GitHub workflow ${each.key} of the CoC refresh worker"
  assume_role_policy = data.aws_iam_policy_document.assume[each.key].json

  lifecycle {
    precondition {
      condition     = length("github-${var.name}-${var.region}-publish") <= 64
      error_message = "The role name github-${var.name}-${var.region}-publish has more than 64 characters. Use a shorter name."
    }
  }
}

# What the functions' roles may have at most. The variable permissions_boundary_arn of the module gets its ARN.
resource "aws_iam_policy" "boundary" {
  name        = module.policies.boundary_name
  description = "The most that roles of the CoC refresh worker may do"
  policy      = module.policies.json["boundary"]
}

resource "aws_iam_role_policy" "this" {
  for_each = toset(["publish", "plan"])

  name   = each.key
  role   = aws_iam_role.this[each.key].id
  policy = module.policies.json[each.key]
}

# Managed policies, since the deploy role's are longer than inline ones may be.
resource "aws_iam_policy" "deploy" {
  for_each = local.deploy_policies

  name        = "github-${var.name}-${var.region}-${each.key}"
  description = "Deploy role of the CoC refresh worker"
  policy      = module.policies.json[each.key]
}

resource "aws_iam_role_policy_attachment" "own" {
  for_each = local.deploy_policies

  role       = aws_iam_role.this["deploy"].name
  policy_arn = aws_iam_policy.deploy[each.key].arn
}

resource "aws_iam_role_policy_attachment" "deploy" {
  for_each = var.more_deploy_policies

  role       = aws_iam_role.this["deploy"].name
  policy_arn = each.value
}

resource "aws_iam_role_policy_attachment" "plan" {
  for_each = var.more_plan_policies

  role       = aws_iam_role.this["plan"].name
  policy_arn = each.value
}

output "publish_role_arn" {
  description = "Repository variable AWS_PUBLISH_ROLE_ARN."
  value       = aws_iam_role.this["publish"].arn
}

output "deploy_role_arn" {
  description = "Variable AWS_DEPLOY_ROLE_ARN of the GitHub environment."
  value       = aws_iam_role.this["deploy"].arn
}

output "plan_role_arn" {
  description = "Variable AWS_PLAN_ROLE_ARN of the GitHub environment whose name ends in -plan."
  value       = aws_iam_role.this["plan"].arn
}

output "permissions_boundary_arn" {
  description = "The module's variable permissions_boundary_arn: put it into TOFU_VARIABLES. Without it the deploy role cannot create the functions' roles."
  value       = aws_iam_policy.boundary.arn
}
