use std::fmt::Write;

use serde_json::json;

use super::*;

/// An EventBridge rule's event, as AWS documents it.
fn rule() -> Value {
    json!({
        "version": "0", "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa", "detail-type": "Scheduled Event",
        "source": "aws.events", "account": "123456789012", "time": "2026-03-04T05:06:00Z", "region": "eu-central-1",
        "resources": ["arn:aws:events:eu-central-1:123456789012:rule/refresh"], "detail": {},
    })
}

fn rule_with(detail: &Value) -> Value {
    let mut event = rule();
    event["detail"] = detail.clone();
    event
}

/// The event of a Scheduler schedule without an input of its own.
fn scheduler() -> Value {
    json!({
        "version": "0", "id": "27640f52-2f7f-4fbe-8e4b-0c2f3d4f7c7a", "detail-type": "Scheduled Event",
        "source": "aws.scheduler", "account": "123456789012", "time": "2026-03-04T05:06:00Z", "region": "eu-central-1",
        "resources": ["arn:aws:scheduler:eu-central-1:123456789012:schedule/refresh/refresh"], "detail": "{}",
    })
}

/// API Gateway's REST proxy event.
fn rest(method: &str, path: &str, body: &Value) -> Value {
    json!({
        "resource": path, "path": path, "httpMethod": method,
        "headers": {"Accept": "*/*", "Content-Type": "application/json", "Host": "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com"},
        "multiValueHeaders": {"Accept": ["*/*"]}, "queryStringParameters": null, "multiValueQueryStringParameters": null,
        "pathParameters": null, "stageVariables": null,
        "requestContext": {
            "resourceId": "2gxmpl", "resourcePath": path, "httpMethod": method, "path": format!("/prod{path}"),
            "accountId": "123456789012", "protocol": "HTTP/1.1", "stage": "prod", "apiId": "a1b2c3d4e5",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "requestTimeEpoch": 1_772_600_767_089_i64,
            "identity": {"sourceIp": "198.51.100.7", "userAgent": "curl/8.9.1", "apiKey": "not-shown"},
        },
        "body": body, "isBase64Encoded": false,
    })
}

/// The event of an HTTP API (payload version 2.0) and of function URLs.
fn http_api(method: &str, raw_path: &str, stage: &str, body: Option<&str>) -> Value {
    let mut event = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": raw_path, "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "xyz.lambda-url.eu-central-1.on.aws"},
        "requestContext": {
            "accountId": "anonymous", "apiId": "xyz", "domainName": "xyz.lambda-url.eu-central-1.on.aws",
            "http": {"method": method, "path": raw_path, "protocol": "HTTP/1.1", "sourceIp": "198.51.100.7", "userAgent": "curl"},
            "requestId": "d1e2", "routeKey": "$default", "stage": stage, "time": "04/Mar/2026:05:06:07 +0000",
            "timeEpoch": 1_772_600_767_089_i64,
        },
        "isBase64Encoded": false,
    });
    if let Some(body) = body {
        event["body"] = body.into();
    }
    event
}

fn with(mut event: Value, pointer: &str, value: Value) -> Value {
    *event.pointer_mut(pointer).unwrap() = value;
    event
}

/// The command of an event, on one line.
fn described(event: &Value, role: Role) -> String {
    let Interpreted { caller, command, .. } = interpret(event, role);
    let mut text = format!("{caller:?}: ");
    let _ = match command {
        Ok(Command::Refresh(options)) => {
            let named: Vec<String> = options.named.iter().map(ToString::to_string).collect();
            write!(text, "refresh")
                .and_then(|()| options.max_requests.map_or(Ok(()), |count| write!(text, " max_requests={count}")))
                .and_then(|()| options.max_runtime.map_or(Ok(()), |time| write!(text, " max_runtime={time:?}")))
                .and_then(|()| match options.priority_filter.as_slice() {
                    [] => Ok(()),
                    classes => write!(text, " priority_filter={classes:?}"),
                })
                .and_then(|()| if named.is_empty() { Ok(()) } else { write!(text, " named={named:?}") })
        }
        Ok(Command::Health) => write!(text, "health"),
        Ok(Command::Task(task)) => write!(text, "task {task:?}"),
        Err(refusal) => {
            let allow = refusal.allow.map(|allow| format!(" (Allow: {allow})")).unwrap_or_default();
            write!(text, "{}{allow} {}", refusal.status, refusal.message)
        }
    };
    text
}

fn table(rows: &[(&str, Value)], role: Role) -> String {
    let rows: Vec<String> =
        rows.iter().map(|(name, event)| format!("{name}\n    {}", described(event, role))).collect();
    rows.join("\n")
}

fn invocations() -> Vec<(&'static str, Value)> {
    vec![
        ("direct, empty", json!({})),
        ("direct, null", json!(null)),
        ("direct, options at the top", json!({"max_requests": 10, "priority_filter": "critical"})),
        ("direct, options inside", json!({"options": {"max_runtime": 20, "tags": ["#2PP"]}})),
        ("direct, both, one twice", json!({"max_requests": 1, "options": {"max_requests": 2}})),
        ("direct, unknown option", json!({"max_request": 10})),
        ("direct, no object", json!(["refresh"])),
        ("direct, the event of a queue", json!({"Records": [{"eventSource": "aws:sqs"}]})),
        ("Scheduler, with our input", json!({"source": "schedule"})),
        ("Scheduler, with input and options", json!({"source": "schedule", "max_requests": 5})),
        ("Scheduler, without an input", scheduler()),
        ("rule", rule()),
        (
            "rule, options in detail",
            rule_with(&json!({"max_requests": 7, "requests": [{"type": "war", "tag": "2PP"}]})),
        ),
        ("rule, foreign fields in the detail of AWS", rule_with(&json!({"instance-id": "i-0abc"}))),
        ("rule, a bad option in the detail of AWS", rule_with(&json!({"max_requests": "all"}))),
        ("an application's event", with(rule_with(&json!({"tags": ["2PP"]})), "/source", json!("clan.site"))),
        (
            "an application's event, unknown option",
            with(rule_with(&json!({"tag": "2PP"})), "/source", json!("clan.site")),
        ),
        ("API Gateway's template, no options", json!({"source": "api", "request_id": "c6af", "options": {}})),
        (
            "API Gateway's template, options",
            json!({"source": "api", "request_id": "c6af", "options": {"tags": ["2PP"]}}),
        ),
        ("API Gateway's template, no object", json!({"source": "api", "request_id": "c6af", "options": ["2PP"]})),
        ("task", json!({"task": "migrate"})),
        ("task, views", json!({"task": "refresh-views"})),
        ("task, views that are due", json!({"task": "refresh-views", "due_only": true})),
        ("task, statistics jobs", json!({"task": "stats"})),
        ("task, retention", json!({"task": "retention"})),
        ("the view refresher's test event", json!({"source": "manual-test"})),
        ("the same with options", json!({"source": "manual-test", "max_requests": 1})),
        ("task, unknown", json!({"task": "vacuum"})),
        ("task, no text", json!({"task": {"name": "migrate"}})),
    ]
}

fn requests() -> Vec<(&'static str, Value)> {
    let refresh = |body: Value| rest("POST", "/refresh", &body);
    vec![
        ("REST, no body", refresh(json!(null))),
        ("REST, empty body", refresh(json!(" "))),
        ("REST, null", refresh(json!("null"))),
        ("REST, options", refresh(json!(r##"{"max_requests": 3, "tags": ["#2pp"]}"##))),
        ("REST, base64", with(refresh(json!("eyJtYXhfcmVxdWVzdHMiOiAzfQ==")), "/isBase64Encoded", json!(true))),
        ("REST, not base64", with(refresh(json!("{}")), "/isBase64Encoded", json!(true))),
        ("REST, not JSON", refresh(json!("max_requests=3"))),
        ("REST, no object", refresh(json!("[1]"))),
        ("REST, unknown option", refresh(json!(r#"{"limit": 3}"#))),
        ("REST, a task is no option", refresh(json!(r#"{"task": "migrate"}"#))),
        ("REST, bad tag", refresh(json!(r##"{"requests": [{"type": "clan", "tag": "#HELLO"}]}"##))),
        ("REST, health", rest("GET", "/health", &json!(null))),
        ("REST, through a custom domain", with(refresh(json!(null)), "/path", json!("/coc/refresh"))),
        (
            "REST, catch-all route with the stage",
            with(with(refresh(json!(null)), "/resource", json!("/{proxy+}")), "/path", json!("/prod/refresh/")),
        ),
        ("REST, wrong method", rest("GET", "/refresh", &json!(null))),
        ("REST, wrong method for health", rest("DELETE", "/health", &json!(null))),
        ("REST, elsewhere", rest("POST", "/clans/2PP", &json!(null))),
        ("REST, the root", rest("GET", "/", &json!(null))),
        ("HTTP API, stage in the path", http_api("POST", "/prod/refresh", "prod", Some("{}"))),
        (
            "HTTP API, by route",
            with(http_api("POST", "/x/y/refresh", "$default", None), "/routeKey", json!("POST /refresh")),
        ),
        ("function URL, health", http_api("GET", "/health", "$default", None)),
        ("function URL, elsewhere", http_api("GET", "/favicon.ico", "$default", None)),
    ]
}

#[test]
fn events_that_are_not_http_refresh() {
    insta::assert_snapshot!(table(&invocations(), Role::Refresh));
}

#[test]
fn http_events_are_routed_by_method_and_path() {
    insta::assert_snapshot!(table(&requests(), Role::Refresh));
}

#[test]
fn health_role_routes_to_health_only() {
    let rows = [
        ("direct, empty", json!({})),
        ("schedule", rule()),
        ("task", json!({"task": "migrate"})),
        ("REST, health", rest("GET", "/health", &json!(null))),
        ("REST, refresh", rest("POST", "/refresh", &json!(null))),
        ("REST, wrong method", rest("POST", "/health", &json!(null))),
    ];
    insta::assert_snapshot!(table(&rows, Role::Health));
}
