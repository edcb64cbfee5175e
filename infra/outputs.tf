output "refresh_function_name" {
  description = "Name of the refresh function."
  value       = aws_lambda_function.this["refresh"].function_name
}

output "health_function_name" {
  description = "Name of the health function."
  value       = aws_lambda_function.this["health"].function_name
}

output "alias_arns" {
  description = "ARNs of the aliases that triggers call, by role."
  value       = { for role, alias in aws_lambda_alias.live : role => alias.arn }
}

output "commit_sha" {
  description = "The commit that runs."
  value       = var.commit_sha
}

output "security_group_id" {
  description = "Security group of the functions. PostgreSQL and Redis must allow it."
  value       = aws_security_group.this.id
}

output "egress_ips" {
  description = "Addresses that calls come from. Every key of the Clash of Clans API must list all of them."
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

output "failure_queue_url" {
  description = "URL of the queue of failed events."
  value       = aws_sqs_queue.failures.url
}

output "alarm_topic_arn" {
  description = "SNS topic that alarms are sent to."
  value       = var.create_alarms ? local.alarm_actions[0] : null
}

output "log_group_names" {
  description = "Names of the log groups, by role."
  value       = { for role, group in aws_cloudwatch_log_group.function : role => group.name }
}

output "dashboard_name" {
  description = "Name of the dashboard in CloudWatch."
  value       = var.create_dashboard ? aws_cloudwatch_dashboard.this[0].dashboard_name : null
}
