output "first" {
  description = "The outputs of the worker in the first region: tofu output -json first."
  value       = module.first
}

output "second" {
  description = "The outputs of the worker in the second region: tofu output -json second."
  value       = module.second
}
