output "refresh_function_name" {
  description = "Name of the refresh function."
  value       = aws_lambda_function.this["refresh"].function_name
}

output "health_function_name" {
  description = "Name of the health function."
  value       = aws_lambda_function.this["health"].function_name
}

output "function_arns" {
  description = "ARNs of the functions, by role."
  value       = { for role, function in aws_lambda_function.this : role => function.arn }
}

output "alias_arns" {
  description = "ARNs of the aliases that triggers call, by role."
  value       = { for role, alias in aws_lambda_alias.live : role => alias.arn }
}

output "role_arns" {
  description = "ARNs of the IAM roles: refresh, health, schedule, and api-logs with manage_api_gateway_account."
  value = merge(
    { for role, iam_role in aws_iam_role.function : role => iam_role.arn },
    { schedule = aws_iam_role.scheduler.arn },
    { for iam_role in aws_iam_role.api_gateway : "api-logs" => iam_role.arn },
  )
}

output "commit_sha" {
  description = "The commit that runs."
  value       = var.commit_sha
}

output "security_group_id" {
  description = "Security group of the functions. PostgreSQL and Redis must allow it. Null without a VPC."
  value       = one(aws_security_group.this[*].id)
}

output "egress_ips" {
  description = "Addresses of the NAT gateways in vpc.nat_eip_allocation_ids, which calls come from. Every key of the Clash of Clans API must list all of them. Empty without any."
  value       = [for eip in data.aws_eip.nat : eip.public_ip]
}

output "refresh_url" {
  description = "URL for POST, with the header x-api-key, to start a run by hand."
  value       = var.create_api ? "${aws_api_gateway_stage.live["this"].invoke_url}/refresh" : null
}

output "health_url" {
  description = "URL for GET: 200 when healthy, 503 when not."
  value       = var.create_api ? "${aws_api_gateway_stage.live["this"].invoke_url}/health" : null
}

output "api_key_id" {
  description = "Id of the API key. Its value: aws apigateway get-api-key --include-value --api-key ID."
  value       = var.create_api ? aws_api_gateway_api_key.this["this"].id : null
}

output "api_execution_arn" {
  description = "ARN of the API for policies that allow execute-api:Invoke, without stage and method."
  value       = var.create_api ? aws_api_gateway_rest_api.this["this"].execution_arn : null
}

output "failure_queue_arn" {
  description = "ARN of the queue of failed events."
  value       = aws_sqs_queue.failures.arn
}

output "failure_queue_url" {
  description = "URL of the queue of failed events."
  value       = aws_sqs_queue.failures.url
}

output "alarm_topic_arn" {
  description = "SNS topic that alarms are sent to."
  value       = var.create_alarms ? local.alarm_actions[0] : null
}

output "schedule_group_arn" {
  description = "ARN of the group of the schedules."
  value       = aws_scheduler_schedule_group.this.arn
}

output "log_group_names" {
  description = "Names of the log groups: refresh, health, and those of the API, api and api_execution."
  value       = { for key, group in local.log_groups : key => group.name }
}

output "log_group_arns" {
  description = "ARNs of the log groups, by the same keys."
  value       = { for key, group in local.log_groups : key => group.arn }
}

output "dashboard_arn" {
  description = "ARN of the dashboard in CloudWatch."
  value       = var.create_dashboard ? aws_cloudwatch_dashboard.this[0].dashboard_arn : null
}

output "dashboard_name" {
  description = "Name of the dashboard in CloudWatch."
  value       = var.create_dashboard ? aws_cloudwatch_dashboard.this[0].dashboard_name : null
}

locals {
  log_groups = merge(
    aws_cloudwatch_log_group.function,
    { for group in aws_cloudwatch_log_group.api : "api" => group },
    { for group in aws_cloudwatch_log_group.api_execution : "api_execution" => group },
  )
}
