//! Secrets that are kept elsewhere: files, and a double of the AWS Parameters and Secrets extension over HTTP.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use parking_lot::Mutex;
use refresh_worker::sim::SimConfig;
use serde_json::{Value, json};

use crate::{
    lambda::world::World,
    support::{self, process::WorkerProcess},
};

const SESSION: &str = "session-token-of-the-function";

/// Holds values, answers as the extension does, and remembers what it was asked for.
#[derive(Debug, Default)]
struct Held {
    parameters: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    asked: Vec<String>,
}

#[derive(Clone, Debug)]
struct Extension {
    held: Arc<Mutex<Held>>,
    port: u16,
}

type Answer = (StatusCode, String);

impl Extension {
    async fn start() -> Self {
        let held = Arc::new(Mutex::new(Held::default()));
        let router = Router::new()
            .route("/systemsmanager/parameters/get", get(parameter))
            .route("/secretsmanager/get", get(secret))
            .with_state(Arc::clone(&held));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { held, port }
    }

    fn parameter(&self, name: &str, value: &str) {
        self.held.lock().parameters.insert(name.to_owned(), value.to_owned());
    }

    fn secret(&self, name: &str, value: &str) {
        self.held.lock().secrets.insert(name.to_owned(), value.to_owned());
    }

    fn asked(&self) -> Vec<String> {
        self.held.lock().asked.clone()
    }
}

fn may(headers: &HeaderMap) -> bool {
    headers.get("X-Aws-Parameters-Secrets-Token").is_some_and(|token| token == SESSION)
}

async fn parameter(
    State(held): State<Arc<Mutex<Held>>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Answer {
    let mut held = held.lock();
    let name = query.get("name").cloned().unwrap_or_default();
    held.asked.push(name.clone());
    match held.parameters.get(&name) {
        _ if !may(&headers) => (StatusCode::UNAUTHORIZED, "unauthorized".to_owned()),
        Some(value) if query.get("withDecryption").is_some_and(|yes| yes == "true") => {
            (StatusCode::OK, json!({"Parameter": {"Name": name, "Type": "SecureString", "Value": value}}).to_string())
        }
        _ => (
            StatusCode::BAD_REQUEST,
            "an unexpected error occurred while executing request: ParameterNotFound".to_owned(),
        ),
    }
}

async fn secret(
    State(held): State<Arc<Mutex<Held>>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Answer {
    let mut held = held.lock();
    let name = query.get("secretId").cloned().unwrap_or_default();
    held.asked.push(name.clone());
    match held.secrets.get(&name) {
        _ if !may(&headers) => (StatusCode::UNAUTHORIZED, "unauthorized".to_owned()),
        Some(value) => (StatusCode::OK, json!({"ARN": name, "SecretString": value}).to_string()),
        None => {
            (StatusCode::BAD_REQUEST, "ResourceNotFoundException: Secrets Manager can't find the secret".to_owned())
        }
    }
}

fn schedule() -> Value {
    json!({"source": "schedule"})
}

const BUDGET: Duration = Duration::from_secs(60);

#[tokio::test]
async fn secrets_are_read_at_first_invocation() {
    let extension = Extension::start().await;
    let (redis, database) = (support::redis::fresh().await, support::postgres::fresh().await);
    extension.parameter("/coc/redis", &redis);
    let token = "the.hidden.key";
    extension.secret("prod/coc", &json!({"database": database, "tokens": [], "api": {"token": token}}).to_string());
    let port = extension.port.to_string();
    let environment = [
        ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", port.as_str()),
        ("AWS_SESSION_TOKEN", SESSION),
        ("REDIS_URL_PARAMETER", "/coc/redis"),
        ("DATABASE_URL_SECRET_ARN", "prod/coc#database"),
        ("COC_API_TOKEN_SECRET_ARN", "prod/coc#api.token"),
        ("LOG_LEVEL", "trace"),
    ];
    let mut worker = WorkerProcess::start("refresh", environment).await;
    worker.wait_until_idle().await;
    assert_eq!(extension.asked(), Vec::<String>::new(), "the extension answers only during invocations");
    for _ in 0..2 {
        let run = worker.invoke(&schedule(), BUDGET).await;
        assert_eq!(run.response()["stopped_because"], "queue_empty", "{}", run.logs);
    }
    assert_eq!(extension.asked(), ["prod/coc", "/coc/redis"].map(str::to_owned).into_iter().rev().collect::<Vec<_>>());
    let output = worker.output();
    for hidden in [redis.as_str(), database.as_str(), token, SESSION] {
        assert!(!output.stdout.contains(hidden) && !output.stderr.contains(hidden), "{hidden} is in {output}");
    }
}

#[tokio::test]
async fn refused_secret_is_read_again() {
    let extension = Extension::start().await;
    let (redis, database) = (support::redis::fresh().await, support::postgres::fresh().await);
    extension.secret("redis", "redis://:old-password@127.0.0.1:1");
    let port = extension.port.to_string();
    let environment = [
        ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", port.as_str()),
        ("AWS_SESSION_TOKEN", SESSION),
        ("REDIS_URL_SECRET_ARN", "redis"),
        ("DATABASE_URL", &database),
        ("COC_API_TOKEN", "a.b.c"),
    ];
    let mut worker = WorkerProcess::start("refresh", environment).await;
    let run = worker.invoke(&schedule(), BUDGET).await;
    assert_eq!(run.error()["errorType"], "RefreshFailed.queue_down", "{}", run.logs);
    assert_eq!(extension.asked().len(), 2, "read once, and once again after the refusal");
    extension.secret("redis", &redis);
    let run = worker.invoke(&schedule(), BUDGET).await;
    assert_eq!(run.response()["stopped_because"], "queue_empty", "{}", run.logs);
    assert_eq!(extension.asked().len(), 3);
    let output = worker.output();
    assert!(!format!("{}{}", output.stdout, output.stderr).contains("old-password"), "{output}");
}

#[tokio::test]
async fn rejected_key_reloads_all_keys() {
    let world =
        World::with(SimConfig { tokens: vec!["kept".to_owned(), "new".to_owned()], ..SimConfig::default() }).await;
    let extension = Extension::start().await;
    extension.secret("tokens", "kept,old");
    let port = extension.port.to_string();
    let environment = [
        ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", port.as_str()),
        ("AWS_SESSION_TOKEN", SESSION),
        ("COC_API_TOKENS", ""),
        ("COC_API_TOKENS_SECRET_ARN", "tokens"),
    ];
    let mut worker = world.worker_with(&environment).await;
    worker.invoke(&schedule(), BUDGET).await;
    // Rotated while the sandbox is warm: `old` is not accepted any more.
    extension.secret("tokens", "kept,new");
    world.mail_players(12).await;
    let run = worker.invoke(&schedule(), BUDGET).await;
    assert_eq!(
        (&run.response()["keys_held"], &run.response()["keys_rejected"]),
        (&2.into(), &1.into()),
        "{}",
        run.logs
    );
    assert_eq!(extension.asked().len(), 2, "read again");
    world.mail_of_every_kind(20).await;
    let run = worker.invoke(&schedule(), BUDGET).await;
    assert_eq!(
        (&run.response()["keys_held"], &run.response()["keys_rejected"]),
        (&2.into(), &0.into()),
        "{}",
        run.logs
    );
    assert!(world.simulator.calls().iter().any(|call| call.token == "new"), "{}", run.logs);
    assert_eq!(extension.asked().len(), 3, "the new parts are built of what is read for them");
}

#[tokio::test]
async fn rotated_portal_password_is_tried_at_once() {
    let world = World::with(SimConfig { tokens: vec!["kept".to_owned()], ..SimConfig::default() }).await;
    let (extension, portal) = (Extension::start().await, world.simulator.portal_url());
    extension.secret("password", "the-old-one");
    world.simulator.open_account("somebody@example.com", "the-new-one");
    let port = extension.port.to_string();
    let mut environment = vec![
        ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", port.as_str()),
        ("AWS_SESSION_TOKEN", SESSION),
        ("COC_API_TOKENS", ""),
        ("COC_EMAIL", "somebody@example.com"),
        ("COC_PASSWORD_SECRET_ARN", "password"),
        ("COC_PORTAL_URL", portal.as_str()),
    ];
    let mut worker = world.worker_with(&environment).await;
    let run = worker.invoke(&schedule(), BUDGET).await;
    assert_eq!(run.error()["errorType"], "RefreshFailed.no_usable_key", "{}", run.logs);
    // With another key the run goes on, and says why there are not more.
    environment.push(("COC_API_TOKEN", "kept"));
    let mut other = world.worker_with(&environment).await;
    let run = other.invoke(&schedule(), BUDGET).await;
    assert_eq!(
        (&run.response()["keys_held"], &run.response()["logins_failed"]),
        (&1.into(), &1.into()),
        "{}",
        run.logs
    );
    let errors = run.response()["errors"].to_string();
    assert!(errors.contains("wrong e-mail or password"), "{errors}");

    extension.secret("password", "the-new-one");
    let run = worker.invoke(&schedule(), BUDGET).await;
    assert_eq!(run.response()["keys_held"], 1, "this very invocation: {}", run.logs);
    other.invoke(&schedule(), BUDGET).await;
    let run = other.invoke(&schedule(), BUDGET).await;
    assert_eq!(
        (&run.response()["keys_held"], &run.response()["logins_failed"]),
        (&2.into(), &0.into()),
        "{}",
        run.logs
    );
}

#[tokio::test]
async fn missing_secret_is_named_and_retried() {
    let extension = Extension::start().await;
    let (redis, database) = (support::redis::fresh().await, support::postgres::fresh().await);
    extension.secret("tokens", r#"{"other": "hunter2"}"#);
    let port = extension.port.to_string();
    let environment = [
        ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", port.as_str()),
        ("AWS_SESSION_TOKEN", SESSION),
        ("REDIS_URL", redis.as_str()),
        ("DATABASE_URL_PARAMETER", "/no/such"),
        ("COC_API_TOKEN_SECRET_ARN", "tokens#token"),
    ];
    let mut worker = WorkerProcess::start("refresh", environment).await;
    let run = worker.invoke(&schedule(), BUDGET).await;
    let message = run.error()["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("DATABASE_URL cannot be had from DATABASE_URL_PARAMETER: the AWS Parameters and Secrets extension answered 400 for `/no/such`"), "{message}");
    assert!(
        message.contains("COC_API_TOKEN cannot be had from COC_API_TOKEN_SECRET_ARN: it has no field `token`"),
        "{message}"
    );
    assert!(!format!("{}", worker.output()).contains("hunter2"), "{message}");
    extension.parameter("/no/such", &database);
    extension.secret("tokens", r#"{"token": "a.b.c"}"#);
    let run = worker.invoke(&schedule(), BUDGET).await;
    assert_eq!(run.response()["stopped_because"], "queue_empty", "{}", run.logs);
}

#[tokio::test]
async fn missing_extension_is_named() {
    let environment = [
        ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", "1"),
        ("AWS_SESSION_TOKEN", SESSION),
        ("REDIS_URL_PARAMETER", "/redis"),
        ("DATABASE_URL", "postgresql://w:p@127.0.0.1:1/coc"),
        ("COC_API_TOKEN", "a.b.c"),
    ];
    let mut worker = WorkerProcess::start("refresh", environment).await;
    let run = worker.invoke(&schedule(), BUDGET).await;
    let message = run.error()["errorMessage"].to_string();
    assert!(message.contains("REDIS_URL cannot be had from REDIS_URL_PARAMETER"), "{message}");
    assert!(message.contains("is its layer attached to the function?"), "{message}");
}

#[tokio::test]
async fn command_line_reads_secrets_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redis");
    std::fs::write(&file, format!("{}\n", support::redis::fresh().await)).unwrap();
    let run = |redis: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_refresh-worker"));
        command.args(["queue", "stats", "--json"]).env_clear().env("REDIS_URL_FILE", redis);
        command
    };
    let output = run(file.to_str().unwrap()).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = run("/no/such/file").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("REDIS_URL cannot be had from REDIS_URL_FILE: the file `/no/such/file` cannot be read"),
        "{text}"
    );
}
