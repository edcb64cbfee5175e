# tflint --chdir=infra --recursive --config="$PWD/infra/.tflint.hcl"
config {
  call_module_type = "local"
}

plugin "terraform" {
  enabled = true
  preset  = "recommended"
}
