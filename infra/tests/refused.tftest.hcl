# What the variables refuse.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  commit_sha                 = "0123456789abcdef0123456789abcdef01234567"
  lambda_artifacts_bucket    = "packages"
  vpc_id                     = "vpc-0a"
  private_subnet_ids         = ["subnet-0a", "subnet-0b"]
  database_security_group_id = "sg-0a"
  redis_security_group_id    = "sg-0b"
  nat_eip_allocation_ids     = ["eipalloc-0a"]
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

run "no_subnet" {
  command = plan

  variables {
    private_subnet_ids = []
  }

  expect_failures = [var.private_subnet_ids]
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
