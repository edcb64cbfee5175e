//! Events: every invocation is a command or a refusal that names the accepted ones.

use proptest::{prelude::*, sample::select};
use refresh_worker::{
    config::Role,
    handlers::lambda::{Command, Interpreted, interpret},
};
use serde_json::{Value, json};

use super::json::{any_json, damages, text};

/// The events that AWS and people really send.
fn real_events() -> Vec<Value> {
    vec![
        json!({"source": "schedule"}),
        json!({"max_requests": 5, "max_runtime_seconds": 20, "priority_filter": ["CRITICAL"]}),
        json!({"requests": [{"type": "clan", "tag": "#2PP"}, {"type": "player", "tag": "#8QU8J9LP"}]}),
        json!({"task": "migrate"}),
        json!({"version": "0", "detail-type": "Scheduled Event", "source": "aws.events", "detail": {"max_requests": 5}}),
        json!({"version": "0", "detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": "{\"a\": 1}"}),
        json!({
            "resource": "/refresh", "path": "/refresh", "httpMethod": "POST", "requestContext": {"stage": "prod"},
            "body": "{\"requests\": [{\"type\": \"clan\", \"tag\": \"#2PP\"}]}", "isBase64Encoded": false
        }),
        json!({
            "version": "2.0", "routeKey": "GET /health", "rawPath": "/prod/health",
            "requestContext": {"stage": "prod", "http": {"method": "GET", "path": "/health"}}, "isBase64Encoded": true,
            "body": "e30="
        }),
    ]
}

fn event() -> impl Strategy<Value = Value> {
    let damaged = (select(real_events()), damages()).prop_map(|(mut event, damages)| {
        for damage in damages {
            damage.apply(&mut event);
        }
        event
    });
    prop_oneof![1 => any_json(), 4 => damaged].prop_map(as_lambda_reads_it)
}

/// A text that is not JSON never reaches the function.
fn as_lambda_reads_it(value: Value) -> Value {
    serde_json::from_str(&text(&value)).unwrap_or(value)
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn event_is_command_or_explained_refusal(event in event(), health in any::<bool>()) {
        let role = if health { Role::Health } else { Role::Refresh };
        let Interpreted { command, .. } = interpret(&event, role);
        match command {
            Ok(Command::Refresh(options)) => {
                prop_assert!(options.named.len() <= 10_000, "{} named", options.named.len());
                prop_assert!(!health, "the health role was asked for a run");
            }
            Ok(Command::Health | Command::Task(_)) => {}
            Err(refusal) => {
                prop_assert!((400..500).contains(&refusal.status), "{refusal:?}");
                prop_assert!(!refusal.message.is_empty() && refusal.message.len() < 20_000, "{refusal:?}");
            }
        }
    }
}
