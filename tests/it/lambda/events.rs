//! Events as AWS sends them.

use serde_json::{Value, json};

/// A Scheduler schedule with an input of its own, as the infrastructure sets it up.
pub fn schedule() -> Value {
    json!({ "source": "schedule" })
}

/// A Scheduler schedule without an input: its `detail` is text.
pub fn scheduler_default() -> Value {
    json!({
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "123456789012",
        "time": "2026-03-04T05:06:00Z",
        "region": "eu-central-1",
        "resources": ["arn:aws:scheduler:eu-central-1:123456789012:schedule/coc/refresh"],
        "detail": "{}"
    })
}

/// A scheduled `EventBridge` rule.
pub fn rule(detail: &Value) -> Value {
    json!({
        "version": "0",
        "id": "89d1a02d-5ec7-412e-82f5-13505f849b41",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": "2026-03-04T05:06:00Z",
        "region": "eu-central-1",
        "resources": ["arn:aws:events:eu-central-1:123456789012:rule/refresh"],
        "detail": detail
    })
}

/// A REST API call through a Lambda proxy integration.
pub fn http(method: &str, path: &str, body: Option<&str>) -> Value {
    json!({
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": { "Accept": "*/*", "Content-Type": "application/json", "Host": "abc123.execute-api.eu-central-1.amazonaws.com" },
        "multiValueHeaders": { "Accept": ["*/*"], "Content-Type": ["application/json"] },
        "queryStringParameters": null,
        "multiValueQueryStringParameters": null,
        "pathParameters": null,
        "stageVariables": null,
        "requestContext": {
            "resourceId": "2gxmpl",
            "resourcePath": path,
            "httpMethod": method,
            "extendedRequestId": "JJbxmplHYosFVYQ=",
            "requestTime": "04/Mar/2026:05:06:07 +0000",
            "path": format!("/prod{path}"),
            "accountId": "123456789012",
            "protocol": "HTTP/1.1",
            "stage": "prod",
            "domainPrefix": "abc123",
            "requestTimeEpoch": 1_772_600_767_000_u64,
            "requestId": "77375676-xmpl-4b79-853a-f982474efe18",
            "identity": { "sourceIp": "203.0.113.7", "userAgent": "curl/8.0" },
            "domainName": "abc123.execute-api.eu-central-1.amazonaws.com",
            "apiId": "abc123"
        },
        "body": body,
        "isBase64Encoded": false
    })
}

pub fn post_refresh(body: &Value) -> Value {
    http("POST", "/refresh", Some(&body.to_string()))
}

pub fn get_health() -> Value {
    http("GET", "/health", None)
}
