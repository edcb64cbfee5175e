# The environment of the functions. A test compares the lists here with what the binary reads.

locals {
  # The settings that var.environment_variables may hold, and the secrets.
  # Generated from src/config/variables.rs.
  settings = [
    "COC_KEY_NAME",
    "COC_KEY_COUNT",
    "EGRESS_IPS",
    "KEYS_PER_RUN",
    "COC_BASE_URL",
    "COC_PORTAL_URL",
    "COC_REQS_PER_SEC",
    "COC_MAX_REQS_PER_SEC",
    "COC_REQS_PER_DAY",
    "MAX_BODY_BYTES",
    "REDIS_CLUSTER",
    "QUEUE_NAMESPACE",
    "LEASE_SECONDS",
    "MAX_ATTEMPTS",
    "RDS_PROXY_ENDPOINT",
    "RDS_PORT",
    "RDS_DBNAME",
    "RDS_USERNAME",
    "DB_POOL_MAX",
    "DB_STATEMENT_CACHE",
    "AUTO_MIGRATE",
    "SSL_CERT_FILE",
    "DEADLINE_BUFFER_MS",
    "REFRESH_PAUSED",
    "DISABLE_AUTO_REFRESH_QUEUE",
    "FOLLOWUP_WARS",
    "FOLLOWUP_PLAYERS_PER_CLAN",
    "PLANNED_CALLS_PER_SEC",
    "SNAPSHOT_MAX_AGE",
    "PLANNED_AT_LEAST_EVERY",
    "PLANNED_TRIAL",
    "PLANNED_RECORD",
    "REFRESH_EVENTS_STREAM",
    "REFRESH_EVENTS_MAXLEN",
    "CACHE_KEY_TEMPLATES",
    "CACHE_INVALIDATION_URL",
    "NEXT_PUBLIC_APP_URL",
    "REFRESH_VIEWS",
    "VIEW_STATISTICS",
    "STATS_FUNCTIONS",
    "STATS_LEASE_SECONDS",
    "WORKER_ID",
    "SNAPSHOT_RETENTION_DAYS",
  ]

  secrets = [
    "REDIS_URL",
    "DATABASE_URL",
    "COC_API_TOKEN",
    "COC_API_TOKENS",
    "COC_EMAIL",
    "COC_PASSWORD",
    "COC_ACCOUNTS",
    "RDS_PASSWORD",
    "CA_CERTIFICATES",
    "INTERNAL_API_KEY",
  ]
  # End of what is generated.

  # DB_POOL_MAX applies to refresh; the health role has one connection by default.
  refresh_settings = ["DB_POOL_MAX"]

  # The addresses that calls come from, for the keys that the worker creates by itself.
  egress_environment = contains(local.settings, "EGRESS_IPS") && length(data.aws_eip.nat) > 0 ? {
    EGRESS_IPS = join(",", [for eip in data.aws_eip.nat : eip.public_ip])
  } : {}

  function_environment = {
    refresh = merge(
      local.egress_environment,
      var.environment_variables,
      local.secret_environment.refresh,
      { ENVIRONMENT = var.environment, DEPLOYMENT = var.name, MAX_RUNTIME_SECONDS = tostring(var.max_runtime_seconds) },
    )
    health = merge(
      { for name, value in var.environment_variables : name => value if !contains(local.refresh_settings, name) },
      local.secret_environment.health,
      { ENVIRONMENT = var.environment, DEPLOYMENT = var.name },
    )
  }
}
