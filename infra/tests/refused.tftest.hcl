# What the variables refuse.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  commit_sha              = "0123456789abcdef0123456789abcdef01234567"
  lambda_artifacts_bucket = "packages"
  vpc = {
    id                         = "vpc-0a"
    subnet_ids                 = ["subnet-0a", "subnet-0b"]
    database_security_group_id = "sg-0a"
    redis_security_group_id    = "sg-0b"
    nat_eip_allocation_ids     = ["eipalloc-0a"]
  }
  plain_secrets = {
    DATABASE_URL  = "postgresql://worker:password@db/coc"
    REDIS_URL     = "rediss://cache:6379"
    COC_API_TOKEN = "key"
  }
}

run "a_short_commit" {
  command = plan

  variables {
    commit_sha = "0123456"
  }

  expect_failures = [var.commit_sha]
}

run "a_bucket_with_its_scheme" {
  command = plan

  variables {
    lambda_artifacts_bucket = "s3://packages"
  }

  expect_failures = [var.lambda_artifacts_bucket]
}

run "an_unknown_architecture" {
  command = plan

  variables {
    architecture = "arm"
  }

  expect_failures = [var.architecture]
}

run "half_a_minute" {
  command = plan

  variables {
    schedule_expression = "rate(30 seconds)"
  }

  expect_failures = [var.schedule_expression]
}

run "a_run_longer_than_its_function" {
  command = plan

  variables {
    max_runtime_seconds = 295
  }

  expect_failures = [var.max_runtime_seconds]
}

run "too_little_concurrency" {
  command = plan

  variables {
    reserved_concurrency = 2
  }

  expect_failures = [var.reserved_concurrency]
}

run "too_little_concurrency_for_tasks" {
  command = plan

  variables {
    reserved_concurrency  = 4
    environment_variables = { REFRESH_VIEWS = "v", STATS_FUNCTIONS = "f" }
  }

  expect_failures = [var.reserved_concurrency]
}

run "a_concurrency_of_1_with_long_runs" {
  command = plan

  variables {
    reserved_concurrency  = 1
    environment_variables = { PLANNED_CALLS_PER_SEC = "10" }
  }

  expect_failures = [var.reserved_concurrency]
}

run "a_level_that_drops_metrics" {
  command = plan

  variables {
    log_level = "WARN"
  }

  expect_failures = [var.log_level]
}

run "a_setting_that_nobody_reads" {
  command = plan

  variables {
    environment_variables = { COC_REQUESTS_PER_SECOND = "30" }
  }

  expect_failures = [var.environment_variables]
}

run "a_secret_among_settings" {
  command = plan

  variables {
    environment_variables = { DATABASE_URL = "postgresql://" }
  }

  expect_failures = [var.environment_variables]
}

run "a_secret_that_nobody_reads" {
  command = plan

  variables {
    plain_secrets = { COC_TOKEN = "key" }
  }

  expect_failures = [var.plain_secrets]
}

run "an_unknown_mode" {
  command = plan

  variables {
    refresh_mode = "later"
  }

  expect_failures = [var.refresh_mode]
}


run "an_odd_retention" {
  command = plan

  variables {
    log_retention_days = 31
  }

  expect_failures = [var.log_retention_days]
}

run "a_name_with_capitals" {
  command = plan

  variables {
    name = "Worker"
  }

  expect_failures = [var.name]
}

run "a_name_of_41_characters" {
  command = plan

  variables {
    name = "a-name-that-is-longer-than-40-characters-"
  }

  expect_failures = [var.name]
}

run "a_parameter_without_the_extension" {
  command = plan

  variables {
    secret_parameters = { COC_API_TOKENS = "keys" }
  }

  expect_failures = [var.secret_parameters]
}

run "a_layer_of_the_other_architecture" {
  command = plan

  variables {
    extension_layer_arn = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension:12"
  }

  expect_failures = [var.extension_layer_arn]
}

run "a_secret_in_two_places" {
  command = plan

  variables {
    secret_arns         = { REDIS_URL = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:redis-AbCdEf" }
    extension_layer_arn = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
  }

  expect_failures = [var.plain_secrets]
}

# Each condition of vpc.

run "a_vpc_without_an_id" {
  command = plan

  variables {
    vpc = { id = "my-vpc", subnet_ids = ["subnet-0a"] }
  }

  expect_failures = [var.vpc]
}

run "no_subnet" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = [] }
  }

  expect_failures = [var.vpc]
}

run "a_subnet_by_its_name" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["private-1"] }
  }

  expect_failures = [var.vpc]
}

run "an_address_in_place_of_its_allocation" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["subnet-0a"], nat_eip_allocation_ids = ["192.0.2.10"] }
  }

  expect_failures = [var.vpc]
}

run "a_database_group_by_its_name" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["subnet-0a"], database_security_group_id = "database" }
  }

  expect_failures = [var.vpc]
}

run "a_redis_group_by_its_name" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["subnet-0a"], redis_security_group_id = "cache" }
  }

  expect_failures = [var.vpc]
}

run "a_range_without_a_mask" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["subnet-0a"], database_cidr = "203.0.113.7" }
  }

  expect_failures = [var.vpc]
}

run "a_database_port_that_does_not_exist" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["subnet-0a"], database_port = 65536 }
  }

  expect_failures = [var.vpc]
}

run "redis_ports_in_the_wrong_order" {
  command = plan

  variables {
    vpc = { id = "vpc-0a", subnet_ids = ["subnet-0a"], redis_ports = { first = 6380, last = 6379 } }
  }

  expect_failures = [var.vpc]
}

# Roles and layers.

run "a_boundary_by_its_name" {
  command = plan

  variables {
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [var.permissions_boundary_arn]
}

run "a_path_without_slashes" {
  command = plan

  variables {
    role_path = "workers"
  }

  expect_failures = [var.role_path]
}

run "a_path_without_its_last_slash" {
  command = plan

  variables {
    role_path = "/workers"
  }

  expect_failures = [var.role_path]
}

run "a_statement_of_an_unknown_effect" {
  command = plan

  variables {
    extra_policy_statements = [{ effect = "allow", actions = ["s3:GetObject"], resources = ["*"] }]
  }

  expect_failures = [var.extra_policy_statements]
}

run "a_statement_with_an_action_of_no_service" {
  command = plan

  variables {
    extra_policy_statements = [{ actions = ["*"], resources = ["*"] }]
  }

  expect_failures = [var.extra_policy_statements]
}

run "a_statement_without_actions" {
  command = plan

  variables {
    extra_policy_statements = [{ actions = [], resources = ["*"] }]
  }

  expect_failures = [var.extra_policy_statements]
}

run "a_statement_with_a_name_for_a_resource" {
  command = plan

  variables {
    extra_policy_statements = [{ actions = ["s3:GetObject"], resources = ["bucket"] }]
  }

  expect_failures = [var.extra_policy_statements]
}

run "a_statement_for_an_unknown_function" {
  command = plan

  variables {
    extra_policy_statements = [{ actions = ["s3:GetObject"], resources = ["*"], functions = ["drain"] }]
  }

  expect_failures = [var.extra_policy_statements]
}

run "a_statement_with_an_odd_sid" {
  command = plan

  variables {
    extra_policy_statements = [{ sid = "read-bucket", actions = ["s3:GetObject"], resources = ["*"] }]
  }

  expect_failures = [var.extra_policy_statements]
}

run "a_layer_without_its_version" {
  command = plan

  variables {
    extra_layers = ["arn:aws:lambda:eu-central-1:123456789012:layer:tracer"]
  }

  expect_failures = [var.extra_layers]
}

run "six_layers" {
  command = plan

  variables {
    extension_layer_arn = "arn:aws:lambda:eu-central-1:123456789012:layer:AWS-Parameters-and-Secrets-Lambda-Extension-Arm64:12"
    extra_layers        = [for number in range(5) : "arn:aws:lambda:eu-central-1:123456789012:layer:layer-${number}:1"]
  }

  expect_failures = [var.extra_layers]
}

# Public endpoints.

run "a_health_rate_of_zero" {
  command = plan

  variables {
    health_throttle = { rate = 0 }
  }

  expect_failures = [var.health_throttle]
}

run "a_burst_of_zero" {
  command = plan

  variables {
    health_throttle = { burst = 0 }
  }

  expect_failures = [var.health_throttle]
}

run "no_concurrency_for_health" {
  command = plan

  variables {
    health_reserved_concurrency = 0
  }

  expect_failures = [var.health_reserved_concurrency]
}

# Thresholds of alarms.

run "a_negative_threshold" {
  command = plan

  variables {
    alarm_thresholds = { throttles = -1 }
  }

  expect_failures = [var.alarm_thresholds]
}

run "no_failing_tick" {
  command = plan

  variables {
    alarm_thresholds = { failing_schedule = 0 }
  }

  expect_failures = [var.alarm_thresholds]
}

run "half_a_failing_tick" {
  command = plan

  variables {
    alarm_thresholds = { failing_schedule = 2.5 }
  }

  expect_failures = [var.alarm_thresholds]
}

run "too_many_failing_ticks" {
  command = plan

  variables {
    alarm_thresholds = { failing_schedule = 101 }
  }

  expect_failures = [var.alarm_thresholds]
}

run "failing_ticks_of_more_than_a_day" {
  command = plan

  variables {
    schedule_expression = "rate(30 minutes)"
    alarm_thresholds    = { failing_schedule = 49 }
  }

  expect_failures = [aws_cloudwatch_metric_alarm.this]
}
