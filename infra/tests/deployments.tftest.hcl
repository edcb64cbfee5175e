# With and without a VPC, roles under rules of an organization, several regions, public endpoints. With a mocked provider.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_eip" {
    defaults = { public_ip = "192.0.2.10" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:mock", version = "7" }
  }
  mock_resource "aws_lambda_alias" {
    defaults = {
      arn        = "arn:aws:lambda:eu-central-1:123456789012:function:mock:live"
      invoke_arn = "arn:aws:apigateway:eu-central-1:lambda:path/2015-03-31/functions/arn:aws:lambda:eu-central-1:123456789012:function:mock:live/invocations"
    }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:123456789012:mock", url = "https://sqs.eu-central-1.amazonaws.com/123456789012/mock" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:mock" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:mock" }
  }
  mock_resource "aws_cloudwatch_dashboard" {
    defaults = { dashboard_arn = "arn:aws:cloudwatch::123456789012:dashboard/mock" }
  }
  mock_resource "aws_scheduler_schedule_group" {
    defaults = { arn = "arn:aws:scheduler:eu-central-1:123456789012:schedule-group/mock" }
  }
  mock_resource "aws_security_group" {
    defaults = { id = "sg-0c" }
  }
  mock_resource "aws_api_gateway_rest_api" {
    defaults = { id = "abcdef", execution_arn = "arn:aws:execute-api:eu-central-1:123456789012:abcdef" }
  }
  mock_resource "aws_api_gateway_stage" {
    defaults = { invoke_url = "https://abcdef.execute-api.eu-central-1.amazonaws.com/live" }
  }
}

variables {
  commit_sha              = "0123456789abcdef0123456789abcdef01234567"
  lambda_artifacts_bucket = "packages"
  package_sha256          = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
  vpc = {
    id                         = "vpc-0a"
    subnet_ids                 = ["subnet-0a", "subnet-0b"]
    database_security_group_id = "sg-0a"
    redis_security_group_id    = "sg-0b"
    nat_eip_allocation_ids     = ["eipalloc-0a"]
  }
  plain_secrets = {
    DATABASE_URL = "postgresql://worker:password@db/coc"
    REDIS_URL    = "rediss://cache:6379"
    COC_EMAIL    = "you@example.com"
    COC_PASSWORD = "password"
  }
}

# Network -------------------------------------------------------------------------------------------------------------

run "in_a_vpc" {
  command = apply

  assert {
    condition     = alltrue([for f in aws_lambda_function.this : join(" ", f.vpc_config[0].subnet_ids) == "subnet-0a subnet-0b" && join(" ", f.vpc_config[0].security_group_ids) == "sg-0c"])
    error_message = "Both functions are in the private subnets."
  }
  assert {
    condition     = alltrue([for document in data.aws_iam_policy_document.function : length([for statement in document.statement : statement.sid if contains(["MakeNetworkInterfaces", "SeeNetwork", "NoNetworkInterfacesForCode"], statement.sid)]) == 3])
    error_message = "Lambda makes network interfaces, the code does not."
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.database[0].referenced_security_group_id == "sg-0a" && aws_vpc_security_group_egress_rule.redis[0].referenced_security_group_id == "sg-0b"
    error_message = "The worker reaches the two servers by their groups."
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.database[0].cidr_ipv4 == null && aws_vpc_security_group_egress_rule.redis[0].cidr_ipv4 == null
    error_message = "A rule names a group or a range, never both."
  }
  assert {
    condition     = aws_security_group.this[0].name_prefix == "refresh-worker-"
    error_message = "A group that is created before its predecessor is destroyed needs a name of its own."
  }
  assert {
    condition     = alltrue([for f in aws_lambda_function.this : f.code_sha256 == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="])
    error_message = "The hash is compared with the code that runs."
  }
  assert {
    condition     = output.security_group_id == "sg-0c" && output.egress_ips == ["192.0.2.10"]
    error_message = "The servers allow the group, and keys list the addresses."
  }
  assert {
    condition     = join(" ", keys(output.function_arns)) == "health refresh" && join(" ", keys(output.alias_arns)) == "health refresh" && join(" ", keys(output.role_arns)) == "health refresh schedule"
    error_message = "Policies elsewhere need the ARNs of functions, aliases and roles."
  }
  assert {
    condition     = join(" ", keys(output.log_group_arns)) == "api api_execution health refresh" && output.log_group_names["api_execution"] == "API-Gateway-Execution-Logs_abcdef/live"
    error_message = "Every log group is managed, those that API Gateway would make by itself, too."
  }
  assert {
    condition     = alltrue([for arn in [output.failure_queue_arn, output.alarm_topic_arn, output.api_execution_arn, output.schedule_group_arn, output.dashboard_arn] : startswith(arn, "arn:aws:")])
    error_message = "Policies elsewhere need the ARNs of queue, topic, API, schedules and dashboard."
  }
}

run "without_a_vpc" {
  command = apply

  variables {
    vpc = null
  }

  assert {
    condition     = length(aws_security_group.this) + length(aws_vpc_security_group_egress_rule.https) + length(aws_vpc_security_group_egress_rule.database) + length(aws_vpc_security_group_egress_rule.redis) == 0
    error_message = "No security group, no rules."
  }
  assert {
    condition     = alltrue([for f in aws_lambda_function.this : length(f.vpc_config) == 0])
    error_message = "The functions are in no VPC."
  }
  assert {
    condition     = !anytrue(flatten([for document in data.aws_iam_policy_document.function : [for statement in document.statement : [for action in statement.actions : startswith(action, "ec2:")]]]))
    error_message = "No rights to network interfaces."
  }
  assert {
    condition     = output.security_group_id == null && output.egress_ips == [] && !contains(keys(nonsensitive(aws_lambda_function.this["refresh"].environment[0].variables)), "EGRESS_IPS")
    error_message = "The worker finds out its address by itself."
  }
}

run "hosted_servers_from_within_a_vpc" {
  command = plan

  variables {
    vpc = {
      id            = "vpc-0a"
      subnet_ids    = ["subnet-0a"]
      database_port = 6543
      database_cidr = "203.0.113.0/24"
      redis_ports   = { first = 12345, last = 12345 }
    }
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.database[0].cidr_ipv4 == "203.0.113.0/24" && aws_vpc_security_group_egress_rule.database[0].from_port == 6543
    error_message = "A server without a group is reached by its port and range."
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.redis[0].cidr_ipv4 == "0.0.0.0/0" && aws_vpc_security_group_egress_rule.redis[0].to_port == 12345
    error_message = "A server without a group and a range is reached anywhere by its port."
  }
}

run "a_key_without_an_address" {
  command = plan

  variables {
    vpc           = null
    plain_secrets = { COC_API_TOKEN = "key" }
  }

  expect_failures = [check.keys_fit_addresses]
}

run "a_key_for_a_proxy" {
  command = plan

  variables {
    vpc                   = null
    plain_secrets         = { COC_API_TOKEN = "key" }
    environment_variables = { COC_BASE_URL = "https://proxy.example.com/v1" }
  }
}

# Roles ---------------------------------------------------------------------------------------------------------------

run "roles_with_boundary_and_path" {
  command = apply

  variables {
    permissions_boundary_arn   = "arn:aws:iam::123456789012:policy/boundary"
    role_path                  = "/workers/"
    manage_api_gateway_account = true
  }

  assert {
    condition     = alltrue([for iam_role in concat(values(aws_iam_role.function), [aws_iam_role.scheduler], aws_iam_role.api_gateway) : iam_role.permissions_boundary == "arn:aws:iam::123456789012:policy/boundary" && iam_role.path == "/workers/"])
    error_message = "Every role has the boundary and the path."
  }
  assert {
    condition     = join(" ", keys(output.role_arns)) == "api-logs health refresh schedule"
    error_message = "The role for logs of API Gateway is one of them."
  }
}

run "roles_by_default" {
  command = plan

  assert {
    condition     = alltrue([for iam_role in concat(values(aws_iam_role.function), [aws_iam_role.scheduler]) : iam_role.permissions_boundary == null && iam_role.path == "/"])
    error_message = "No boundary and no path by default."
  }
}

run "statements_and_layers" {
  command = plan

  variables {
    extension_layer_arn = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    extra_layers        = ["arn:aws:lambda:eu-central-1:123456789012:layer:tracer:3"]
    extra_policy_statements = [
      { sid = "Both", actions = ["dynamodb:GetItem"], resources = ["arn:aws:dynamodb:eu-central-1:123456789012:table/t"] },
      {
        sid        = "RefreshOnly", effect = "Deny", actions = ["s3:*"], resources = ["*"], functions = ["refresh"]
        conditions = [{ test = "Bool", variable = "aws:SecureTransport", values = ["false"] }]
      },
    ]
  }

  assert {
    condition = { for role, document in data.aws_iam_policy_document.function : role => join(" ", [for statement in document.statement : "${statement.effect == "Deny" ? "Deny" : "Allow"}:${statement.sid}" if contains(["Both", "RefreshOnly"], statement.sid)]) } == {
      refresh = "Allow:Both Deny:RefreshOnly", health = "Allow:Both"
    }
    error_message = "Each role gets the statements that name it."
  }
  assert {
    condition     = alltrue([for f in aws_lambda_function.this : join(" ", [for arn in f.layers : split(":", arn)[6]]) == "AWS-Parameters-and-Secrets-Lambda-Extension-Arm64 tracer"])
    error_message = "The extension comes first, then the other layers."
  }
}

# Regions -------------------------------------------------------------------------------------------------------------

run "one_region" {
  command = plan

  assert {
    condition     = join(" ", [for iam_role in concat(values(aws_iam_role.function), [aws_iam_role.scheduler]) : iam_role.name]) == "refresh-worker-eu-central-1-health refresh-worker-eu-central-1-refresh refresh-worker-eu-central-1-schedule"
    error_message = "Roles are global in an account: their names have the region."
  }
}

run "another_region_with_the_longest_name" {
  command = plan

  variables {
    name                       = "a-name-that-has-all-the-forty-characters"
    manage_api_gateway_account = true
  }

  override_data {
    target = data.aws_region.this
    values = { region = "ap-southeast-1" }
  }

  assert {
    condition     = aws_iam_role.scheduler.name == "a-name-that-has-all-the-forty-characters-ap-southeast-1-schedule" && alltrue([for name in values(local.role_names) : length(name) <= 64])
    error_message = "The longest name fits into the 64 characters of a role's name."
  }
}

# Public endpoints ----------------------------------------------------------------------------------------------------

run "throttled_endpoints" {
  command = plan

  assert {
    condition = { for path, method in aws_api_gateway_method_settings.this : path => "${method.settings[0].throttling_rate_limit} ${method.settings[0].throttling_burst_limit}" } == {
      "health/GET" = "1 5", "health/HEAD" = "1 5", "refresh/POST" = "1 2"
    }
    error_message = "Every method has a limit: DEPLOYMENT.md says what it may cost."
  }
  assert {
    condition     = aws_lambda_function.this["health"].reserved_concurrent_executions == 5
    error_message = "Health has a limit of its own, whatever its calls wait for."
  }
}

run "other_throttles" {
  command = plan

  variables {
    health_throttle             = { rate = 0.2 }
    health_reserved_concurrency = 1
  }

  assert {
    condition     = aws_api_gateway_method_settings.this["health/GET"].settings[0].throttling_rate_limit == 0.2 && aws_api_gateway_method_settings.this["health/GET"].settings[0].throttling_burst_limit == 5
    error_message = "The rate is a variable."
  }
  assert {
    condition     = aws_lambda_function.this["health"].reserved_concurrent_executions == 1
    error_message = "The concurrency is a variable."
  }
}

run "an_account_that_cannot_reserve" {
  command = plan

  variables {
    reserved_concurrency = -1
  }

  assert {
    condition     = alltrue([for f in aws_lambda_function.this : f.reserved_concurrent_executions == -1])
    error_message = "One variable turns off both reservations."
  }
}

run "logs_of_the_api_off" {
  command = plan

  variables {
    api_logs_enabled = false
  }

  assert {
    condition     = length(aws_cloudwatch_log_group.api) + length(aws_cloudwatch_log_group.api_execution) == 0
    error_message = "No groups for logs that nobody writes."
  }
}
