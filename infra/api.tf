# POST /refresh with an API key and a usage plan, GET and HEAD /health without. It is a REST API, because HTTP APIs have neither.

locals {
  api   = var.create_api ? { this = true } : {}
  stage = "live"

  # Monitors and load balancers use either method.
  health_methods = var.create_api ? { this = "GET", head = "HEAD" } : {}

  # A deployment is a copy of these: it must be created again when one of them changes.
  api_configuration = sha1(jsonencode([
    var.refresh_mode,
    var.refresh_authorization,
    local.health_methods,
    local.async_request_template,
    local.async_answer_template,
    [for role, alias in aws_lambda_alias.live : alias.invoke_arn],
  ]))

  # The event of an asynchronous call: the source, and the caller's body, if there is one.
  async_request_template = <<-EOT
    {
      "source": "api",
      "request_id": "$context.requestId",
      "options": #if($input.body == "") {} #{else} $input.json('$') #end
    }
  EOT
  async_answer_template  = <<-EOT
    {"status": "accepted", "request_id": "$context.requestId"}
  EOT
}

resource "aws_api_gateway_rest_api" "this" {
  for_each = local.api

  name        = var.name
  description = "CoC refresh worker: manual trigger and health"
  tags        = local.tags

  endpoint_configuration {
    types = ["REGIONAL"]
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_api_gateway_request_validator" "this" {
  for_each = local.api

  name                        = "body-and-parameters"
  rest_api_id                 = aws_api_gateway_rest_api.this[each.key].id
  validate_request_body       = true
  validate_request_parameters = true
}

# POST /refresh -------------------------------------------------------------------------------------------------------

resource "aws_api_gateway_resource" "refresh" {
  for_each = local.api

  rest_api_id = aws_api_gateway_rest_api.this[each.key].id
  parent_id   = aws_api_gateway_rest_api.this[each.key].root_resource_id
  path_part   = "refresh"
}

resource "aws_api_gateway_method" "refresh" {
  for_each = local.api

  rest_api_id          = aws_api_gateway_rest_api.this[each.key].id
  resource_id          = aws_api_gateway_resource.refresh[each.key].id
  http_method          = "POST"
  authorization        = var.refresh_authorization
  api_key_required     = true
  request_validator_id = aws_api_gateway_request_validator.this[each.key].id
}

resource "aws_api_gateway_integration" "refresh" {
  for_each = local.api

  rest_api_id             = aws_api_gateway_rest_api.this[each.key].id
  resource_id             = aws_api_gateway_resource.refresh[each.key].id
  http_method             = aws_api_gateway_method.refresh[each.key].http_method
  type                    = var.refresh_mode == "sync" ? "AWS_PROXY" : "AWS"
  integration_http_method = "POST"
  uri                     = aws_lambda_alias.live["refresh"].invoke_arn

  passthrough_behavior = var.refresh_mode == "sync" ? null : "NEVER"
  # The inner quotes mark a constant.
  request_parameters = var.refresh_mode == "sync" ? null : { "integration.request.header.X-Amz-Invocation-Type" = "'Event'" }
  request_templates  = var.refresh_mode == "sync" ? null : { "application/json" = local.async_request_template }
}

resource "aws_api_gateway_method_response" "accepted" {
  for_each = var.refresh_mode == "async" ? local.api : {}

  rest_api_id     = aws_api_gateway_rest_api.this[each.key].id
  resource_id     = aws_api_gateway_resource.refresh[each.key].id
  http_method     = aws_api_gateway_method.refresh[each.key].http_method
  status_code     = "202"
  response_models = { "application/json" = "Empty" }
}

resource "aws_api_gateway_integration_response" "accepted" {
  for_each = var.refresh_mode == "async" ? local.api : {}

  rest_api_id        = aws_api_gateway_rest_api.this[each.key].id
  resource_id        = aws_api_gateway_resource.refresh[each.key].id
  http_method        = aws_api_gateway_method.refresh[each.key].http_method
  status_code        = aws_api_gateway_method_response.accepted[each.key].status_code
  response_templates = { "application/json" = local.async_answer_template }

  depends_on = [aws_api_gateway_integration.refresh]
}

resource "aws_lambda_permission" "refresh" {
  for_each = local.api

  statement_id  = "api-post-refresh"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this["refresh"].function_name
  qualifier     = aws_lambda_alias.live["refresh"].name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_api_gateway_rest_api.this[each.key].execution_arn}/*/POST/refresh"
}

# GET and HEAD /health ------------------------------------------------------------------------------------------------

resource "aws_api_gateway_resource" "health" {
  for_each = local.api

  rest_api_id = aws_api_gateway_rest_api.this[each.key].id
  parent_id   = aws_api_gateway_rest_api.this[each.key].root_resource_id
  path_part   = "health"
}

resource "aws_api_gateway_method" "health" {
  for_each = local.health_methods

  #checkov:skip=CKV_AWS_59:Monitors have no key. The response holds counts only, and the stage throttles it.
  rest_api_id          = aws_api_gateway_rest_api.this["this"].id
  resource_id          = aws_api_gateway_resource.health["this"].id
  http_method          = each.value
  authorization        = "NONE"
  request_validator_id = aws_api_gateway_request_validator.this["this"].id
}

resource "aws_api_gateway_integration" "health" {
  for_each = local.health_methods

  rest_api_id             = aws_api_gateway_rest_api.this["this"].id
  resource_id             = aws_api_gateway_resource.health["this"].id
  http_method             = aws_api_gateway_method.health[each.key].http_method
  type                    = "AWS_PROXY"
  integration_http_method = "POST"
  uri                     = aws_lambda_alias.live["health"].invoke_arn
}

resource "aws_lambda_permission" "health" {
  for_each = local.health_methods

  statement_id  = "api-${lower(each.value)}-health"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this["health"].function_name
  qualifier     = aws_lambda_alias.live["health"].name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_api_gateway_rest_api.this["this"].execution_arn}/*/${each.value}/health"
}

# The stage -----------------------------------------------------------------------------------------------------------

resource "aws_api_gateway_deployment" "this" {
  for_each = local.api

  rest_api_id = aws_api_gateway_rest_api.this[each.key].id
  triggers    = { configuration = local.api_configuration }

  depends_on = [
    aws_api_gateway_integration.refresh,
    aws_api_gateway_integration.health,
    aws_api_gateway_integration_response.accepted,
  ]

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudwatch_log_group" "api" {
  #checkov:skip=CKV_AWS_338:The retention of logs is a variable; a year of them costs money for nothing.
  for_each = var.api_logs_enabled ? local.api : {}

  name              = "/aws/apigateway/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = local.tags
}

# API Gateway would create it by itself, without a retention, and leave it behind.
resource "aws_cloudwatch_log_group" "api_execution" {
  #checkov:skip=CKV_AWS_338:The retention of logs is a variable; a year of them costs money for nothing.
  for_each = var.api_logs_enabled ? local.api : {}

  name              = "API-Gateway-Execution-Logs_${aws_api_gateway_rest_api.this[each.key].id}/${local.stage}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = local.tags
}

resource "aws_api_gateway_stage" "live" {
  for_each = local.api

  #checkov:skip=CKV_AWS_120:A cache would return outdated responses to a manual trigger or to health.
  #checkov:skip=CKV2_AWS_29:No firewall for a key-protected trigger with a quota; add one where policy asks for it.
  #checkov:skip=CKV2_AWS_51:Client certificates are for back ends over HTTP; this one is a function.
  #checkov:skip=CKV_AWS_73:Tracing is a variable.
  #checkov:skip=CKV2_AWS_4:Errors are logged by the settings of each method, unless api_logs_enabled is false.
  rest_api_id          = aws_api_gateway_rest_api.this[each.key].id
  deployment_id        = aws_api_gateway_deployment.this[each.key].id
  stage_name           = local.stage
  xray_tracing_enabled = var.tracing_mode == "Active"
  tags                 = local.tags

  dynamic "access_log_settings" {
    for_each = aws_cloudwatch_log_group.api

    content {
      destination_arn = access_log_settings.value.arn
      format = jsonencode({
        request_id     = "$context.requestId"
        time           = "$context.requestTime"
        method         = "$context.httpMethod"
        path           = "$context.resourcePath"
        status         = "$context.status"
        latency_ms     = "$context.responseLatency"
        source_ip      = "$context.identity.sourceIp"
        api_key_id     = "$context.identity.apiKeyId"
        error          = "$context.error.messageString"
        function_error = "$context.integration.error"
      })
    }
  }

  # The group outlives the stage, so that the stage's last lines do not create it again.
  depends_on = [aws_api_gateway_account.this, aws_cloudwatch_log_group.api_execution]
}

# How many calls of each method get through, whoever makes them. API Gateway charges nothing for the others.
locals {
  throttles = merge(
    { for method in values(local.health_methods) : "health/${method}" => var.health_throttle },
    { for path in keys(local.api) : "refresh/POST" => local.refresh_throttle },
  )
  refresh_throttle = { rate = 1, burst = 2 }
}

resource "aws_api_gateway_method_settings" "this" {
  for_each = local.throttles

  rest_api_id = aws_api_gateway_rest_api.this["this"].id
  stage_name  = aws_api_gateway_stage.live["this"].stage_name
  method_path = each.key

  #checkov:skip=CKV_AWS_225:A cache would return outdated responses.
  #checkov:skip=CKV_AWS_308:There is no cache to encrypt.
  settings {
    # Metrics of each method cost extra. Those of the stage, which the alarm watches, do not.
    metrics_enabled        = false
    logging_level          = var.api_logs_enabled ? "ERROR" : "OFF"
    data_trace_enabled     = false
    throttling_rate_limit  = each.value.rate
    throttling_burst_limit = each.value.burst
  }
}

resource "aws_api_gateway_api_key" "this" {
  for_each = local.api

  name        = var.name
  description = "Manual trigger of the CoC refresh worker"
  tags        = local.tags
}

resource "aws_api_gateway_usage_plan" "this" {
  for_each = local.api

  name        = var.name
  description = "Manual trigger of the CoC refresh worker"
  tags        = local.tags

  api_stages {
    api_id = aws_api_gateway_rest_api.this[each.key].id
    stage  = aws_api_gateway_stage.live[each.key].stage_name
  }

  throttle_settings {
    rate_limit  = local.refresh_throttle.rate
    burst_limit = local.refresh_throttle.burst
  }

  quota_settings {
    limit  = var.api_quota_per_day
    period = "DAY"
  }
}

resource "aws_api_gateway_usage_plan_key" "this" {
  for_each = local.api

  key_id        = aws_api_gateway_api_key.this[each.key].id
  key_type      = "API_KEY"
  usage_plan_id = aws_api_gateway_usage_plan.this[each.key].id
}

# The account's role for logs of API Gateway: one for each account and region ----------------------------------------

data "aws_iam_policy_document" "assume_api_gateway" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["apigateway.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "api_gateway" {
  count = var.create_api && var.manage_api_gateway_account ? 1 : 0

  name                 = local.role_names["api-logs"]
  path                 = var.role_path
  description          = "Lets API Gateway write logs in this account and region"
  assume_role_policy   = data.aws_iam_policy_document.assume_api_gateway.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags
}

resource "aws_iam_role_policy_attachment" "api_gateway" {
  count = var.create_api && var.manage_api_gateway_account ? 1 : 0

  role       = aws_iam_role.api_gateway[0].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
}

resource "aws_api_gateway_account" "this" {
  count = var.create_api && var.manage_api_gateway_account ? 1 : 0

  cloudwatch_role_arn = aws_iam_role.api_gateway[0].arn

  depends_on = [aws_iam_role_policy_attachment.api_gateway]
}
