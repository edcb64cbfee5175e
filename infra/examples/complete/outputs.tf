output "health_url" {
  description = "URL for GET: 200 when healthy."
  value       = module.refresh_worker.health_url
}

output "refresh_url" {
  description = "URL for POST, with the header x-api-key."
  value       = module.refresh_worker.refresh_url
}

output "api_key_id" {
  description = "Id of the API key."
  value       = module.refresh_worker.api_key_id
}

output "egress_ips" {
  description = "Every key of the Clash of Clans API must list these. Empty without a NAT gateway."
  value       = module.refresh_worker.egress_ips
}

output "security_group_id" {
  description = "Security group of the functions. Null without a VPC."
  value       = module.refresh_worker.security_group_id
}

output "refresh_function_name" {
  description = "Name of the refresh function."
  value       = module.refresh_worker.refresh_function_name
}

output "commit_sha" {
  description = "The commit that runs."
  value       = module.refresh_worker.commit_sha
}

output "failure_queue_url" {
  description = "URL of the queue of failed events."
  value       = module.refresh_worker.failure_queue_url
}

output "database_address" {
  description = "Host of PostgreSQL."
  value       = aws_db_instance.this.address
}
