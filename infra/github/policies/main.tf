# The policies of the roles, as JSON. No provider: infra/checks/escalation.py evaluates them offline and tries the known ways of
# a deploy role to become an administrator.
#
# Resources are limited by name. Where AWS has no name beforehand, or no narrower form, a comment says so.

terraform {
  required_version = ">= 1.9"
}

locals {
  arn     = "arn:${var.partition}"
  lambda  = "${local.arn}:lambda:${var.region}:${var.account}:function"
  service = { refresh = "lambda", health = "lambda", schedule = "scheduler", api-logs = "apigateway" }

  # Whole names, as infra/iam.tf makes them, not a prefix: a role NAME-anything of somebody else is not ours.
  role_arns = { for part, _ in local.service : part => "${local.arn}:iam::${var.account}:role${var.role_path}${var.name}-${var.region}-${part}" }
  roles     = values(local.role_arns)

  # Not named after var.name first, as the roles of the workflows.
  boundary_name = "github-${var.name}-${var.region}-boundary"
  boundary      = "${local.arn}:iam::${var.account}:policy/${local.boundary_name}"

  state   = "${local.arn}:s3:::${var.state_bucket}/refresh-worker/${var.environment}"
  package = "${local.arn}:s3:::${var.lambda_artifacts_bucket}/refresh-worker-*"
  secrets = flatten([
    for name in var.secret_names : [
      "${local.arn}:ssm:${var.region}:${var.account}:parameter/${name}",
      "${local.arn}:secretsmanager:${var.region}:${var.account}:secret:${name}",
    ]
  ])

  # What the worker's roles may have at most, whatever a policy on them says ------------------------------------------

  boundary_statements = concat([
    {
      Sid      = "Logs"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${local.arn}:logs:${var.region}:${var.account}:log-group:/aws/lambda/${var.name}-*"]
    },
    {
      # Lambda attaches functions to a VPC with the function's role. AWS has no narrower form.
      Sid = "NetworkInterfaces"
      Action = [
        "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
      ]
      Resource = ["*"]
    },
    {
      Sid      = "Secrets"
      Action   = ["secretsmanager:GetSecretValue", "ssm:GetParameter"]
      Resource = local.secrets
    },
    {
      Sid      = "KeysThroughServices"
      Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource = ["${local.arn}:kms:${var.region}:${var.account}:key/*"]
      Condition = { StringEquals = { "kms:ViaService" = [
        for service in ["lambda", "scheduler", "secretsmanager", "sqs", "ssm"] : "${service}.${var.region}.amazonaws.com"
      ] } }
    },
    {
      Sid      = "FailedEvents"
      Action   = ["sqs:SendMessage"]
      Resource = ["${local.arn}:sqs:${var.region}:${var.account}:${var.name}-failures"]
    },
    {
      Sid      = "Runs"
      Action   = ["lambda:InvokeFunction"]
      Resource = ["${local.lambda}:${var.name}-refresh", "${local.lambda}:${var.name}-refresh:*"]
    },
    {
      # X-Ray's actions cannot be limited to resources.
      Sid      = "Traces"
      Action   = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"]
      Resource = ["*"]
    },
    {
      # AmazonAPIGatewayPushToCloudWatchLogs. Only the role of API Gateway may have it, since it reads every log of the account.
      Sid = "LogsOfApiGateway"
      Action = [
        "logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogGroups", "logs:DescribeLogStreams",
        "logs:FilterLogEvents", "logs:GetLogEvents", "logs:PutLogEvents",
      ]
      Resource  = ["*"]
      Condition = { ArnEquals = { "aws:PrincipalArn" = local.role_arns["api-logs"] } }
    },
    ], [
    for index, statement in var.more_boundary_statements : {
      Sid      = "More${index}"
      Action   = statement.actions
      Resource = statement.resources
    }
  ])

  # What the deploy role may do ---------------------------------------------------------------------------------------
  #
  # Reads is what a plan needs, Writes is what an apply needs as well.

  deploy = [
    {
      Sid      = "Packages"
      Reads    = ["s3:GetObject"]
      Writes   = []
      Resource = [local.package]
    },
    {
      Sid      = "FindState"
      Reads    = ["s3:ListBucket"]
      Writes   = []
      Resource = ["${local.arn}:s3:::${var.state_bucket}"]
    },
    {
      Sid      = "State"
      Reads    = ["s3:GetObject"]
      Writes   = ["s3:PutObject"]
      Resource = ["${local.state}.tfstate"]
    },
    {
      Sid      = "StateLock"
      Reads    = []
      Writes   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      Resource = ["${local.state}.tfstate.tflock"]
    },
    {
      Sid   = "Functions"
      Reads = ["lambda:GetAlias", "lambda:GetFunction*", "lambda:GetPolicy", "lambda:GetProvisionedConcurrencyConfig", "lambda:ListTags", "lambda:ListVersionsByFunction"]
      Writes = [
        "lambda:CreateAlias", "lambda:CreateFunction", "lambda:DeleteAlias", "lambda:DeleteFunction",
        "lambda:DeleteFunctionConcurrency", "lambda:DeleteFunctionEventInvokeConfig", "lambda:InvokeFunction",
        "lambda:PublishVersion", "lambda:PutFunctionConcurrency", "lambda:PutFunctionEventInvokeConfig", "lambda:RemovePermission",
        "lambda:TagResource", "lambda:UntagResource", "lambda:UpdateAlias", "lambda:UpdateFunctionCode",
        "lambda:UpdateFunctionConfiguration", "lambda:UpdateFunctionEventInvokeConfig",
      ]
      Resource = local.functions
    },
    {
      Sid       = "ApiMayInvoke"
      Reads     = []
      Writes    = ["lambda:AddPermission"]
      Resource  = local.functions
      Condition = { StringEquals = { "lambda:Principal" = "apigateway.amazonaws.com" } }
    },
    {
      # The layer belongs to another account.
      Sid      = "Layers"
      Reads    = ["lambda:GetLayerVersion"]
      Writes   = []
      Resource = ["${local.arn}:lambda:${var.region}:*:layer:*:*"]
    },
    {
      # Of DeleteRole and UpdateRole (its description) AWS does not document the boundary as a condition.
      Sid      = "Roles"
      Reads    = ["iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole", "iam:ListRolePolicies"]
      Writes   = ["iam:DeleteRole", "iam:TagRole", "iam:UntagRole", "iam:UpdateRole"]
      Resource = local.roles
    },
    {
      # Only roles with the boundary: one without it is nothing that this role may create, change or fill.
      Sid   = "RolesWithBoundary"
      Reads = []
      Writes = [
        "iam:CreateRole", "iam:DeleteRolePolicy", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy",
      ]
      Resource  = local.roles
      Condition = { StringEquals = { "iam:PermissionsBoundary" = local.boundary } }
    },
    {
      Sid      = "PolicyOfApiGateway"
      Reads    = []
      Writes   = ["iam:AttachRolePolicy", "iam:DetachRolePolicy"]
      Resource = [local.role_arns["api-logs"]]
      Condition = {
        StringEquals = { "iam:PermissionsBoundary" = local.boundary }
        ArnEquals    = { "iam:PolicyARN" = "${local.arn}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs" }
      }
    },
    {
      Sid       = "PassToLambda"
      Reads     = []
      Writes    = ["iam:PassRole"]
      Resource  = [local.role_arns["refresh"], local.role_arns["health"]]
      Condition = { StringEquals = { "iam:PassedToService" = "lambda.amazonaws.com" } }
    },
    {
      Sid       = "PassToScheduler"
      Reads     = []
      Writes    = ["iam:PassRole"]
      Resource  = [local.role_arns["schedule"]]
      Condition = { StringEquals = { "iam:PassedToService" = "scheduler.amazonaws.com" } }
    },
    {
      Sid       = "PassToApiGateway"
      Reads     = []
      Writes    = ["iam:PassRole"]
      Resource  = [local.role_arns["api-logs"]]
      Condition = { StringEquals = { "iam:PassedToService" = "apigateway.amazonaws.com" } }
    },
    {
      Sid   = "Logs"
      Reads = ["logs:ListTagsForResource"]
      Writes = [
        "logs:AssociateKmsKey", "logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:DeleteRetentionPolicy", "logs:DisassociateKmsKey",
        "logs:PutRetentionPolicy", "logs:TagResource", "logs:UntagResource",
      ]
      Resource = [
        "${local.arn}:logs:${var.region}:${var.account}:log-group:/aws/lambda/${var.name}-*",
        "${local.arn}:logs:${var.region}:${var.account}:log-group:/aws/apigateway/${var.name}*",
        # The example complete.
        "${local.arn}:logs:${var.region}:${var.account}:log-group:/aws/rds/instance/${var.name}/*",
        # Named after the id of the API.
        "${local.arn}:logs:${var.region}:${var.account}:log-group:API-Gateway-Execution-Logs_*",
      ]
    },
    {
      Sid      = "FailureQueue"
      Reads    = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ListQueueTags"]
      Writes   = ["sqs:CreateQueue", "sqs:DeleteQueue", "sqs:SetQueueAttributes", "sqs:TagQueue", "sqs:UntagQueue"]
      Resource = ["${local.arn}:sqs:${var.region}:${var.account}:${var.name}-failures"]
    },
    {
      Sid   = "Schedules"
      Reads = ["scheduler:GetSchedule", "scheduler:GetScheduleGroup", "scheduler:ListTagsForResource"]
      Writes = [
        "scheduler:CreateSchedule", "scheduler:CreateScheduleGroup", "scheduler:DeleteSchedule", "scheduler:DeleteScheduleGroup",
        "scheduler:TagResource", "scheduler:UntagResource", "scheduler:UpdateSchedule",
      ]
      Resource = [
        "${local.arn}:scheduler:${var.region}:${var.account}:schedule-group/${var.name}",
        "${local.arn}:scheduler:${var.region}:${var.account}:schedule/${var.name}/*",
      ]
    },
    {
      # AWS chooses the ids of APIs, keys and plans, so that names cannot narrow this down. /account is the role for logs.
      Sid    = "Api"
      Reads  = ["apigateway:GET"]
      Writes = ["apigateway:DELETE", "apigateway:PATCH", "apigateway:POST", "apigateway:PUT"]
      Resource = [
        for path in ["account", "apikeys", "apikeys/*", "restapis", "restapis/*", "tags/*", "usageplans", "usageplans/*"] :
        "${local.arn}:apigateway:${var.region}::/${path}"
      ]
    },
    {
      Sid    = "AlarmsAndDashboard"
      Reads  = ["cloudwatch:GetDashboard", "cloudwatch:ListTagsForResource"]
      Writes = ["cloudwatch:DeleteDashboards", "cloudwatch:PutDashboard", "cloudwatch:PutMetricAlarm", "cloudwatch:TagResource", "cloudwatch:UntagResource"]
      Resource = [
        "${local.arn}:cloudwatch:${var.region}:${var.account}:alarm:${var.name}-*",
        "${local.arn}:cloudwatch::${var.account}:dashboard/${var.name}*",
      ]
    },
    {
      Sid      = "AlarmTopic"
      Reads    = ["sns:GetTopicAttributes", "sns:ListTagsForResource"]
      Writes   = ["sns:CreateTopic", "sns:DeleteTopic", "sns:SetTopicAttributes", "sns:Subscribe", "sns:TagResource", "sns:UntagResource"]
      Resource = ["${local.arn}:sns:${var.region}:${var.account}:${var.name}-alarms*"]
    },
    {
      # A key has no name before it exists, so this allows the tag on every key. That is why nothing that the tag opens below may
      # change who uses a key: no PutKeyPolicy, no CreateGrant, no ScheduleKeyDeletion.
      Sid       = "MakeAlarmKey"
      Reads     = []
      Writes    = ["kms:CreateKey", "kms:TagResource"]
      Resource  = ["*"]
      Condition = { StringEquals = { "aws:RequestTag/Service" = "refresh-worker" } }
    },
    {
      Sid       = "AlarmKey"
      Reads     = ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListResourceTags"]
      Writes    = ["kms:EnableKeyRotation", "kms:UpdateKeyDescription"]
      Resource  = ["*"]
      Condition = { StringEquals = { "aws:ResourceTag/Service" = "refresh-worker" } }
    },
    {
      # The worker's group, and the rules in the groups of the two servers, whose ids differ with each network.
      Sid   = "SecurityGroups"
      Reads = []
      Writes = [
        "ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateSecurityGroup", "ec2:CreateTags",
        "ec2:DeleteSecurityGroup", "ec2:DeleteTags", "ec2:ModifySecurityGroupRules", "ec2:RevokeSecurityGroupEgress",
        "ec2:RevokeSecurityGroupIngress",
      ]
      Resource  = [for kind in ["security-group/*", "security-group-rule/*", "vpc/${var.vpc_id}"] : "${local.arn}:ec2:${var.region}:${var.account}:${kind}"]
      Condition = { ArnLikeIfExists = { "ec2:Vpc" = "${local.arn}:ec2:${var.region}:${var.account}:vpc/${var.vpc_id}" } }
    },
    {
      # Actions that AWS cannot limit to resources, and the two of composite alarms, which it allows on all alarms or not at all.
      Sid = "Look"
      Reads = [
        "cloudwatch:DescribeAlarms", "ec2:DescribeAddresses", "ec2:DescribeAddressesAttribute", "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroupRules", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs", "logs:DescribeLogGroups",
        "sns:GetSubscriptionAttributes",
      ]
      Writes   = ["cloudwatch:DeleteAlarms", "cloudwatch:PutCompositeAlarm", "sns:Unsubscribe"]
      Resource = ["*"]
    },
  ]
  functions = flatten([for part in ["refresh", "health"] : ["${local.lambda}:${var.name}-${part}", "${local.lambda}:${var.name}-${part}:*"]])

  # What the deploy role may never do, also with more_deploy_policies: a Deny outweighs every Allow -------------------------

  never = [
    {
      Sid = "NoRolesOfOthers"
      Action = [
        "iam:AttachRolePolicy", "iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy",
        "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy", "iam:UpdateRole*",
      ]
      NotResource = local.roles
    },
    {
      # True also for a role that has no boundary.
      Sid = "NoRolesWithoutBoundary"
      Action = [
        "iam:AttachRolePolicy", "iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy",
      ]
      Resource  = ["*"]
      Condition = { StringNotEquals = { "iam:PermissionsBoundary" = local.boundary } }
    },
    {
      # Users, groups, keys and policies, the boundary among them; who may assume a role; and the ways into roles of others.
      Sid = "NoOtherIdentities"
      Action = [
        "iam:Add*", "iam:AttachGroupPolicy", "iam:AttachUserPolicy", "iam:CreateAccessKey", "iam:CreateGroup", "iam:CreateInstanceProfile",
        "iam:CreateLoginProfile", "iam:CreateOpenIDConnectProvider", "iam:CreatePolicy*", "iam:CreateSAMLProvider",
        "iam:CreateServiceSpecificCredential", "iam:CreateUser", "iam:Deactivate*", "iam:DeletePolicy*",
        "iam:DeleteRolePermissionsBoundary", "iam:DeleteUserPermissionsBoundary", "iam:EnableMFADevice", "iam:PutGroupPolicy",
        "iam:PutUser*", "iam:ResetServiceSpecificCredential", "iam:SetDefaultPolicyVersion", "iam:UpdateAccessKey",
        "iam:UpdateAssumeRolePolicy", "iam:UpdateLoginProfile", "iam:UpdateOpenIDConnectProviderThumbprint", "iam:UpdateSAMLProvider",
        "iam:Upload*", "sts:AssumeRole", "kms:PutKeyPolicy",
      ]
      Resource = ["*"]
    },
    {
      # A grant gives a key to others. The services take grants for what they encrypt: RDS for a disk, Lambda for variables.
      Sid       = "NoGrants"
      Action    = ["kms:CreateGrant"]
      Resource  = ["*"]
      Condition = { BoolIfExists = { "kms:GrantIsForAWSResource" = "false" } }
    },
    {
      Sid         = "PassOnlyOwnRoles"
      Action      = ["iam:PassRole"]
      NotResource = concat(local.roles, ["${local.arn}:iam::${var.account}:role/aws-service-role/*"])
    },
  ]

  # In the bucket of the state and not an artifact of the workflow: a plan has what the state has, the API key among it.
  plan_file = "${local.state}.tfplan"

  allowed = {
    for kind in ["plan", "deploy"] : kind => concat([
      for statement in local.deploy : merge(
        { for key, value in statement : key => value if !contains(["Reads", "Writes"], key) },
        { Effect = "Allow", Action = kind == "plan" ? statement.Reads : concat(statement.Reads, statement.Writes) },
      ) if kind == "deploy" || length(statement.Reads) > 0
      ], [
      { Effect = "Allow", Sid = "Plan", Action = kind == "plan" ? ["s3:PutObject"] : ["s3:DeleteObject", "s3:GetObject"], Resource = [local.plan_file] },
    ])
  }
  # A managed policy has 6,144 characters at most, and a role 10,240 in all its inline ones.
  deploy_parts = {
    for part in range(3) : "deploy-${part + 1}" => [for index, statement in local.allowed.deploy : statement if index % 3 == part]
  }

  documents = merge({
    boundary = [for statement in local.boundary_statements : merge({ Effect = "Allow" }, statement)]
    never    = [for statement in local.never : merge({ Effect = "Deny" }, statement)]
    plan     = local.allowed.plan
    publish = [
      { Effect = "Allow", Sid = "ReadPackages", Action = ["s3:GetObject"], Resource = [local.package] },
      # An upload never replaces a package that is there.
      merge(
        { Effect = "Allow", Sid = "AddPackages", Action = ["s3:PutObject"], Resource = [local.package] },
        { Condition = { Null = { "s3:if-none-match" = "false" } } },
      ),
    ]
  }, local.deploy_parts)
}

output "json" {
  description = "The policies by name, as JSON."
  value       = { for name, statements in local.documents : name => jsonencode({ Version = "2012-10-17", Statement = statements }) }
}

output "boundary_name" {
  description = "Name of the policy that is the boundary."
  value       = local.boundary_name
}
