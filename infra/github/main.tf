# The two roles that the workflows publish and deploy assume, without access keys. Apply it once for each GitHub environment, by
# hand, as somebody who may create roles.
#
# The deploy role covers the example existing-vpc. It may change only resources whose names begin with var.name. Where AWS has no
# name beforehand, or no narrower form, a comment there says so.

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
  account = data.aws_caller_identity.this.account_id
  arn     = "arn:${data.aws_partition.this.partition}"
  issuer  = "token.actions.githubusercontent.com"

  # Who may assume which role.
  subjects = {
    publish = "repo:${var.repository}:ref:refs/heads/main"
    deploy  = "repo:${var.repository}:environment:${var.environment}"
  }
  policies = {
    publish = data.aws_iam_policy_document.publish.json
    deploy  = data.aws_iam_policy_document.deploy.json
  }
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

  name               = "github-${var.name}-${each.key}"
  description        = "GitHub workflow ${each.key} of the CoC refresh worker"
  assume_role_policy = data.aws_iam_policy_document.assume[each.key].json
}

resource "aws_iam_role_policy" "this" {
  for_each = local.policies

  name   = each.key
  role   = aws_iam_role.this[each.key].id
  policy = each.value
}

resource "aws_iam_role_policy_attachment" "deploy" {
  for_each = var.more_deploy_policies

  role       = aws_iam_role.this["deploy"].name
  policy_arn = each.value
}

# Upload a package that does not exist yet, and read one that does.
data "aws_iam_policy_document" "publish" {
  statement {
    sid       = "Packages"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.arn}:s3:::${var.lambda_artifacts_bucket}/refresh-worker-*"]
  }
}

data "aws_iam_policy_document" "deploy" {
  statement {
    sid       = "Packages"
    actions   = ["s3:GetObject"]
    resources = ["${local.arn}:s3:::${var.lambda_artifacts_bucket}/refresh-worker-*"]
  }

  statement {
    sid       = "FindState"
    actions   = ["s3:ListBucket"]
    resources = ["${local.arn}:s3:::${var.state_bucket}"]
  }

  statement {
    sid       = "State"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.arn}:s3:::${var.state_bucket}/refresh-worker/${var.environment}.tfstate"]
  }

  statement {
    sid       = "StateLock"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${local.arn}:s3:::${var.state_bucket}/refresh-worker/${var.environment}.tfstate.tflock"]
  }

  statement {
    sid = "Functions"
    actions = [
      "lambda:AddPermission",
      "lambda:CreateAlias",
      "lambda:CreateFunction",
      "lambda:DeleteAlias",
      "lambda:DeleteFunction",
      "lambda:DeleteFunctionConcurrency",
      "lambda:DeleteFunctionEventInvokeConfig",
      "lambda:GetAlias",
      "lambda:GetFunction",
      "lambda:GetFunctionCodeSigningConfig",
      "lambda:GetFunctionConcurrency",
      "lambda:GetFunctionConfiguration",
      "lambda:GetFunctionEventInvokeConfig",
      "lambda:GetPolicy",
      "lambda:InvokeFunction",
      "lambda:ListTags",
      "lambda:ListVersionsByFunction",
      "lambda:PublishVersion",
      "lambda:PutFunctionConcurrency",
      "lambda:PutFunctionEventInvokeConfig",
      "lambda:RemovePermission",
      "lambda:TagResource",
      "lambda:UntagResource",
      "lambda:UpdateAlias",
      "lambda:UpdateFunctionCode",
      "lambda:UpdateFunctionConfiguration",
      "lambda:UpdateFunctionEventInvokeConfig",
    ]
    resources = [
      "${local.arn}:lambda:${var.region}:${local.account}:function:${var.name}-refresh*",
      "${local.arn}:lambda:${var.region}:${local.account}:function:${var.name}-health*",
    ]
  }

  # The layer belongs to another account.
  statement {
    sid       = "ExtensionLayer"
    actions   = ["lambda:GetLayerVersion"]
    resources = ["${local.arn}:lambda:${var.region}:*:layer:AWS-Parameters-and-Secrets-Lambda-Extension*:*"]
  }

  statement {
    sid = "Roles"
    actions = [
      "iam:AttachRolePolicy",
      "iam:CreateRole",
      "iam:DeleteRole",
      "iam:DeleteRolePolicy",
      "iam:DetachRolePolicy",
      "iam:GetRole",
      "iam:GetRolePolicy",
      "iam:ListAttachedRolePolicies",
      "iam:ListInstanceProfilesForRole",
      "iam:ListRolePolicies",
      "iam:PutRolePolicy",
      "iam:TagRole",
      "iam:UntagRole",
      "iam:UpdateAssumeRolePolicy",
      "iam:UpdateRole",
    ]
    resources = [for role in ["refresh", "health", "scheduler", "api-gateway-logs"] : "${local.arn}:iam::${local.account}:role/${var.name}-${role}"]
  }

  statement {
    sid       = "PassRoles"
    actions   = ["iam:PassRole"]
    resources = [for role in ["refresh", "health", "scheduler", "api-gateway-logs"] : "${local.arn}:iam::${local.account}:role/${var.name}-${role}"]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["lambda.amazonaws.com", "scheduler.amazonaws.com", "apigateway.amazonaws.com"]
    }
  }

  statement {
    sid = "Logs"
    actions = [
      "logs:CreateLogGroup",
      "logs:DeleteLogGroup",
      "logs:DeleteRetentionPolicy",
      "logs:ListTagsForResource",
      "logs:PutRetentionPolicy",
      "logs:TagResource",
      "logs:UntagResource",
    ]
    resources = [
      "${local.arn}:logs:${var.region}:${local.account}:log-group:/aws/lambda/${var.name}-*",
      "${local.arn}:logs:${var.region}:${local.account}:log-group:/aws/apigateway/${var.name}*",
    ]
  }

  statement {
    sid = "FailureQueue"
    actions = [
      "sqs:CreateQueue",
      "sqs:DeleteQueue",
      "sqs:GetQueueAttributes",
      "sqs:GetQueueUrl",
      "sqs:ListQueueTags",
      "sqs:SetQueueAttributes",
      "sqs:TagQueue",
      "sqs:UntagQueue",
    ]
    resources = ["${local.arn}:sqs:${var.region}:${local.account}:${var.name}-failures"]
  }

  statement {
    sid = "Schedules"
    actions = [
      "scheduler:CreateSchedule",
      "scheduler:CreateScheduleGroup",
      "scheduler:DeleteSchedule",
      "scheduler:DeleteScheduleGroup",
      "scheduler:GetSchedule",
      "scheduler:GetScheduleGroup",
      "scheduler:ListTagsForResource",
      "scheduler:TagResource",
      "scheduler:UntagResource",
      "scheduler:UpdateSchedule",
    ]
    resources = [
      "${local.arn}:scheduler:${var.region}:${local.account}:schedule-group/${var.name}",
      "${local.arn}:scheduler:${var.region}:${local.account}:schedule/${var.name}/*",
    ]
  }

  # AWS chooses the ids of APIs, keys and plans, so that names cannot narrow this down. /account is the role for logs.
  statement {
    sid     = "Api"
    actions = ["apigateway:DELETE", "apigateway:GET", "apigateway:PATCH", "apigateway:POST", "apigateway:PUT"]
    resources = [
      for path in ["account", "apikeys", "apikeys/*", "restapis", "restapis/*", "tags/*", "usageplans", "usageplans/*"] :
      "${local.arn}:apigateway:${var.region}::/${path}"
    ]
  }

  statement {
    sid = "AlarmsAndDashboard"
    actions = [
      "cloudwatch:DeleteDashboards",
      "cloudwatch:GetDashboard",
      "cloudwatch:ListTagsForResource",
      "cloudwatch:PutDashboard",
      "cloudwatch:PutMetricAlarm",
      "cloudwatch:TagResource",
      "cloudwatch:UntagResource",
    ]
    resources = [
      "${local.arn}:cloudwatch:${var.region}:${local.account}:alarm:${var.name}-*",
      "${local.arn}:cloudwatch::${local.account}:dashboard/${var.name}",
    ]
  }

  statement {
    sid = "AlarmTopic"
    actions = [
      "sns:CreateTopic",
      "sns:DeleteTopic",
      "sns:GetTopicAttributes",
      "sns:ListTagsForResource",
      "sns:SetTopicAttributes",
      "sns:Subscribe",
      "sns:TagResource",
      "sns:UntagResource",
    ]
    resources = ["${local.arn}:sns:${var.region}:${local.account}:${var.name}-alarms*"]
  }

  # Keys have no names: those with the module's tag.
  statement {
    sid       = "MakeAlarmKey"
    actions   = ["kms:CreateKey", "kms:TagResource"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/Service"
      values   = ["refresh-worker"]
    }
  }

  statement {
    sid = "AlarmKey"
    actions = [
      "kms:DescribeKey",
      "kms:EnableKeyRotation",
      "kms:GetKeyPolicy",
      "kms:GetKeyRotationStatus",
      "kms:ListResourceTags",
      "kms:PutKeyPolicy",
      "kms:ScheduleKeyDeletion",
      "kms:TagResource",
      "kms:UntagResource",
      "kms:UpdateKeyDescription",
    ]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/Service"
      values   = ["refresh-worker"]
    }
  }

  # The worker's group, and the rules in the groups of the two servers, whose ids differ with each network.
  statement {
    sid = "SecurityGroups"
    actions = [
      "ec2:AuthorizeSecurityGroupEgress",
      "ec2:AuthorizeSecurityGroupIngress",
      "ec2:CreateSecurityGroup",
      "ec2:CreateTags",
      "ec2:DeleteSecurityGroup",
      "ec2:DeleteTags",
      "ec2:ModifySecurityGroupRules",
      "ec2:RevokeSecurityGroupEgress",
      "ec2:RevokeSecurityGroupIngress",
    ]
    resources = [
      for kind in ["security-group", "security-group-rule", "vpc"] : "${local.arn}:ec2:${var.region}:${local.account}:${kind}/*"
    ]
  }

  # Actions that AWS cannot limit to resources, among them the two of composite alarms.
  statement {
    sid = "Look"
    actions = [
      "cloudwatch:DeleteAlarms",
      "cloudwatch:DescribeAlarms",
      "cloudwatch:PutCompositeAlarm",
      "ec2:DescribeAddresses",
      "ec2:DescribeAddressesAttribute",
      "ec2:DescribeNetworkInterfaces",
      "ec2:DescribeSecurityGroupRules",
      "ec2:DescribeSecurityGroups",
      "ec2:DescribeSubnets",
      "ec2:DescribeVpcs",
      "logs:DescribeLogGroups",
      "sns:GetSubscriptionAttributes",
      "sns:Unsubscribe",
    ]
    resources = ["*"]
  }
}

output "publish_role_arn" {
  description = "Repository variable AWS_PUBLISH_ROLE_ARN."
  value       = aws_iam_role.this["publish"].arn
}

output "deploy_role_arn" {
  description = "Variable AWS_DEPLOY_ROLE_ARN of the GitHub environment."
  value       = aws_iam_role.this["deploy"].arn
}
