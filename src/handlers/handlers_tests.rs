use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use secrecy::SecretString;

use super::*;
use crate::{
    config::RedisConfig,
    model::{EndpointKind, Fetched, Kind, ObjectId, OutboxEntry, Outcome, Priority, RefreshRequest},
    queue::{Circuit, CircuitReason, CircuitScope, RunSummary, memory::MemoryQueue, redis::RedisQueue},
    store::{Commit, Freshness, LastRuns, Looks, RunRow, StoreError},
    worker::{
        Progress, RunOptions,
        report::{QueueReport, RunEnd, RunReport, StopReason, Tally},
    },
};

const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

#[test]
fn small_deadline_is_time_left() {
    let deadline = |millis| Invocation::new(String::new(), millis, NOW).deadline;
    // `cargo lambda watch` sends 600000 with every event.
    assert_eq!(deadline(600_000), NOW + Duration::from_secs(600));
    assert_eq!(deadline(0), NOW);
    assert_eq!(deadline(999_999_999_999), NOW + Duration::from_millis(999_999_999_999));
    assert_eq!(deadline(1_000_000_000_000), Timestamp::from_millis(1_000_000_000_000));
    assert_eq!(deadline(u64::MAX), Timestamp::from_millis(i64::MAX));
}

/// Returns a given report, and remembers its options.
#[derive(Debug)]
struct StubRuns {
    stopped_because: StopReason,
    failure: Option<&'static str>,
    asked: Mutex<Vec<RunOptions>>,
}

impl Runs for StubRuns {
    async fn run(&self, options: RunOptions, _progress: &dyn Progress) -> RunReport {
        let mut tally = Tally::new(options.run.clone().unwrap_or_default(), NOW);
        if self.stopped_because != StopReason::AlreadyRunning {
            tally.count(Kind::Clan, Priority::High, Outcome::Stored);
        }
        tally.report.enqueued = options.named.len() as u64;
        self.asked.lock().push(options);
        tally.finish(RunEnd {
            stopped_because: self.stopped_because,
            failure: self.failure.map(str::to_owned),
            runtime: Duration::from_millis(1500),
            api_requests: 1,
            calls_allowed: 45.0,
            keys_usable: 1,
            keys_held: 1,
            day: None,
            queue: (self.stopped_because != StopReason::QueueDown).then(QueueReport::default),
        })
    }
}

/// A store of which health asks how it is.
#[derive(Debug, Default)]
struct Database {
    dead: bool,
    last_run: Option<RunRow>,
    failed_run: Option<RunRow>,
    /// The error of every statement.
    refusal: Option<&'static str>,
}

impl Database {
    fn answer<T>(&self, answer: T) -> Result<T, StoreError> {
        if self.dead {
            return Err(StoreError::Unreachable { server: "secret.db:5432".to_owned(), detail: "refused".to_owned() });
        }
        if let Some(detail) = self.refusal {
            let (server, action) = ("secret.db:5432".to_owned(), "ask for a sign of life");
            return Err(StoreError::Failed { server, action, detail: detail.to_owned() });
        }
        Ok(answer)
    }
}

impl Looks for Database {}

impl Store for Database {
    async fn ping(&self) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        self.answer(vec!["0001 contract".to_owned()])
    }

    async fn freshness(&self, _objects: &[ObjectId], _: Duration) -> Result<HashMap<ObjectId, Freshness>, StoreError> {
        self.answer(HashMap::new())
    }

    async fn control_object(
        &self,
        _: Kind,
        _: &[String],
        _: Timestamp,
        _: Duration,
    ) -> Result<Option<ObjectId>, StoreError> {
        self.answer(None)
    }

    async fn commit_and_delete(
        &self,
        _: Timestamp,
        _: &[Fetched],
        _: &[i64],
        _: Duration,
    ) -> Result<Commit, StoreError> {
        self.answer(Commit::default())
    }

    async fn outbox(&self, _before: Timestamp) -> Result<Vec<OutboxEntry>, StoreError> {
        self.answer(Vec::new())
    }

    async fn delete_from_outbox(&self, _ids: &[i64]) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn record_run(&self, _row: &RunRow) -> Result<(), StoreError> {
        self.answer(())
    }

    async fn last_run(&self) -> Result<Option<RunRow>, StoreError> {
        self.answer(self.last_run.clone())
    }

    async fn last_runs(&self) -> Result<LastRuns, StoreError> {
        let good = self.last_run.clone().filter(|run| run.error.is_none());
        self.answer(LastRuns { any: self.last_run.clone(), good, failed: self.failed_run.clone() })
    }
}

fn handlers_with<Q: Queue + SharedState>(queue: Q, store: Database) -> Handlers<StubRuns, Q, Database> {
    let config = config();
    let runs = StubRuns { stopped_because: StopReason::QueueEmpty, failure: None, asked: Mutex::default() };
    Handlers::new(runs, Arc::new(queue), Arc::new(store), Stop::default(), clock(), &config, Role::Refresh)
}

fn config() -> Config {
    let vars = |name: &str| match name {
        "REDIS_URL" => Some("redis://localhost".to_owned()),
        "DATABASE_URL" => Some("postgres://localhost/coc".to_owned()),
        "COC_API_TOKEN" => Some("a.key".to_owned()),
        _ => None,
    };
    Config::read(&vars, Role::Refresh).unwrap()
}

fn clock() -> Arc<crate::clock::ManualClock> {
    crate::clock::ManualClock::at(NOW)
}

fn handlers() -> Handlers<StubRuns, MemoryQueue, Database> {
    handlers_with(MemoryQueue::new(clock()), Database::default())
}

fn ending(stopped_because: StopReason, failure: Option<&'static str>) -> Handlers<StubRuns, MemoryQueue, Database> {
    let mut handlers = handlers();
    handlers.runs = StubRuns { stopped_because, failure, asked: Mutex::default() };
    handlers
}

fn post(body: &str) -> Value {
    json!({"httpMethod": "POST", "resource": "/refresh", "path": "/refresh", "body": body, "requestContext": {"stage": "prod"}})
}

fn get_health() -> Value {
    json!({"httpMethod": "GET", "resource": "/health", "path": "/health", "body": null, "requestContext": {"stage": "prod"}})
}

/// The answer, and the lines that were printed.
async fn ask<Q: Queue + SharedState>(
    handlers: &Handlers<StubRuns, Q, Database>,
    event: Value,
) -> (Result<Value, Failure>, Vec<String>) {
    let printed = Mutex::new(Vec::new());
    let invocation = Invocation { request_id: "8f507cfc".to_owned(), deadline: NOW + Duration::from_secs(300) };
    let print = |line: &str| printed.lock().push(line.to_owned());
    let answer = handlers.handle(&event, &invocation, &print).await.map(|response| response.value);
    (answer, printed.into_inner())
}

/// Status and body of an HTTP answer.
fn http(answer: Result<Value, Failure>) -> (u64, Value) {
    let answer = answer.unwrap();
    assert_eq!(answer["headers"]["content-type"], "application/json");
    assert_eq!(answer["headers"]["cache-control"], "no-store");
    assert_eq!(answer["isBase64Encoded"], false);
    let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    (answer["statusCode"].as_u64().unwrap(), body)
}

#[tokio::test]
async fn schedule_gets_report_and_metrics() {
    let handlers = handlers();
    let (answer, printed) = ask(&handlers, json!({"source": "schedule"})).await;
    insta::assert_json_snapshot!(answer.unwrap());
    assert_eq!(printed.len(), 1);
    let asked = handlers.runs.asked.lock();
    assert_eq!(asked[0].run.as_deref(), Some("8f507cfc"));
    assert_eq!(asked[0].time_left, Some(Duration::from_secs(300)));
}

#[tokio::test]
async fn http_caller_gets_report_within_25_seconds() {
    let handlers = handlers();
    let (answer, printed) = ask(&handlers, post(r#"{"tags": ["2PP"], "max_requests": 5}"#)).await;
    let (status, body) = http(answer);
    assert_eq!((status, printed.len()), (200, 1));
    assert_eq!((&body["status"], &body["queued"]), (&json!("done"), &json!(["clan:2PP"])));
    assert_eq!(body["processed_requests"], 1);
    let asked = handlers.runs.asked.lock();
    assert_eq!((asked[0].max_runtime, asked[0].max_requests), (Some(Duration::from_secs(25)), Some(5)));
}

#[tokio::test]
async fn run_turned_away_is_202_with_queued() {
    let (answer, printed) = ask(&ending(StopReason::AlreadyRunning, None), post(r#"{"tags": "2PP"}"#)).await;
    let (status, body) = http(answer);
    assert_eq!((status, printed.len()), (202, 1));
    assert_eq!((&body["status"], &body["queued"]), (&json!("accepted"), &json!(["clan:2PP"])));
    let (answer, _) = ask(&ending(StopReason::Maintenance, None), json!({})).await;
    assert_eq!(answer.unwrap()["stopped_because"], "maintenance");
}

#[tokio::test]
async fn run_stopped_after_some_work_is_200() {
    let (answer, _) = ask(&ending(StopReason::Maintenance, None), post("{}")).await;
    let (status, body) = http(answer);
    assert_eq!((status, &body["status"]), (200, &json!("done")), "{body}");
}

#[tokio::test]
async fn failed_run_is_function_error_with_metrics() {
    let handlers = ending(StopReason::QueueDown, Some("reach Redis at cache:6379: refused"));
    let (answer, printed) = ask(&handlers, json!({})).await;
    let failure = answer.unwrap_err();
    assert_eq!(failure.kind.to_string(), "RefreshFailed.queue_down");
    assert_eq!(failure.message, "1 processed, 0 failed; the queue cannot be used: reach Redis at cache:6379: refused");
    assert_eq!(printed.len(), 1);
    assert!(printed[0].contains(r#""stopped_because":"queue_down""#), "{}", printed[0]);
}

#[tokio::test]
async fn failed_run_is_5xx_for_http() {
    for (reason, expected) in [
        (StopReason::QueueDown, 503),
        (StopReason::DatabaseDown, 503),
        (StopReason::ApiUnreachable, 502),
        (StopReason::DeadLettersFull, 503),
        (StopReason::NoUsableKey, 502),
    ] {
        let (answer, printed) = ask(&ending(reason, Some("why")), post("")).await;
        let (status, body) = http(answer);
        assert_eq!((status, printed.len()), (expected, 1), "{reason:?}");
        assert_eq!(body["status"], "failed");
        assert_eq!(body["failure"], "the log of request 8f507cfc says more");
    }
}

#[tokio::test]
async fn error_body_names_no_server() {
    let failures = [
        (
            StopReason::DatabaseDown,
            "cannot reach the database at db.internal:5432/coc: password authentication failed for user \"worker\" (28P01)",
        ),
        (StopReason::DatabaseDown, "cannot reach the database at /run/postgresql/.s.PGSQL.5432: no such file"),
        (
            StopReason::DatabaseDown,
            "failed to store in the database at db.internal: permission denied for table players. Fix: GRANT INSERT ON players TO worker (42501)",
        ),
        (StopReason::QueueDown, "cannot reach Redis at rediss://cache.internal:6380/0: no answer in time"),
        (StopReason::ApiUnreachable, "http://proxy.internal:8080/v1: connection refused"),
        (StopReason::NoUsableKey, "login of worker@internal failed"),
        (StopReason::TimeoutTooShort, "3 s"),
    ];
    for (reason, failure) in failures {
        let (answer, _) = ask(&ending(reason, Some(failure)), post("")).await;
        let answer = answer.unwrap();
        let text = answer["body"].as_str().unwrap();
        for secret in ["internal", "5432", "6380", "worker", "/run", "players", "8080"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("the log of request 8f507cfc says more"), "{text}");
        let for_operator = ask(&ending(reason, Some(failure)), json!({})).await.0.unwrap_err();
        // Who invokes directly is the operator.
        assert!(for_operator.message.contains(failure), "{for_operator}");
    }
    let locked_out = ask(&ending(StopReason::DatabaseDown, Some(failures[0].1)), post("")).await.0;
    let message = http(locked_out).1["message"].as_str().unwrap().to_owned();
    assert!(message.contains("the login is refused (28P01)"), "{message}");
}

#[tokio::test]
async fn bad_event_starts_no_run() {
    let handlers = handlers();
    let (answer, printed) = ask(&handlers, post(r#"{"tags": "HELLO", "limit": 3}"#)).await;
    let (status, body) = http(answer);
    assert_eq!((status, body["problems"].as_array().unwrap().len()), (400, 2));
    let (answer, _) = ask(&handlers, json!({"limit": 3})).await;
    assert_eq!(answer.unwrap_err().kind.to_string(), "BadEvent");
    let (answer, _) = ask(&handlers, json!({"httpMethod": "GET", "resource": "/refresh", "path": "/refresh"})).await;
    assert_eq!(answer.as_ref().unwrap()["headers"]["allow"], "POST");
    assert_eq!(http(answer).0, 405);
    assert!(printed.is_empty() && handlers.runs.asked.lock().is_empty());
}

#[tokio::test]
async fn migrate_task_lists_migrations() {
    let (answer, printed) = ask(&handlers(), json!({"task": "migrate"})).await;
    assert_eq!(answer.unwrap(), json!({"task": "migrate", "status": "done", "applied": ["0001 contract"]}));
    assert!(printed.is_empty());
    let dead = handlers_with(MemoryQueue::new(clock()), Database { dead: true, ..Database::default() });
    let failure = ask(&dead, json!({"task": "migrate"})).await.0.unwrap_err();
    assert_eq!(failure.kind.to_string(), "TaskFailed.migrate");
}

#[tokio::test]
async fn health_has_contract_fields_and_more() {
    let last_run = RunRow {
        run: "8f507cfb".to_owned(),
        started: NOW - Duration::from_secs(120),
        ended: NOW - Duration::from_secs(110),
        stopped_because: "queue_empty".to_owned(),
        error: None,
        processed: 9,
        failed: 1,
        api_requests: 10,
        report: "{}".to_owned(),
    };
    let queue = MemoryQueue::new(clock());
    let request = RefreshRequest::now(ObjectId::clan("2PP".parse().unwrap()), Priority::High, NOW);
    queue.enqueue(NOW, &[request]).await.unwrap();
    let healthy = handlers_with(queue, Database { last_run: Some(last_run), ..Database::default() });
    let (status, body) = http(ask(&healthy, get_health()).await.0);
    assert_eq!(status, 200);
    insta::assert_json_snapshot!(body);
}

#[tokio::test]
async fn health_shows_circuits_and_pause() {
    let mut handlers = handlers();
    for (scope, code) in
        [(CircuitScope::Endpoint(EndpointKind::Player), "failing"), (CircuitScope::Api, CircuitReason::MAINTENANCE)]
    {
        let reason = CircuitReason::new(code, "<html>from a server</html>");
        handlers.queue.open_circuit(&Circuit { scope, since: NOW, next_probe: NOW, reason }).await.unwrap();
    }
    let (status, body) = http(ask(&handlers, get_health()).await.0);
    assert_eq!((status, &body["paused"]["because"]), (200, &json!("maintenance")));
    let circuit = |at: usize| (&body["circuits"][at]["scope"], &body["circuits"][at]["because"]);
    assert_eq!(circuit(0), (&json!("api"), &json!("maintenance")));
    assert_eq!(circuit(1), (&json!("player"), &json!("failing")));
    assert!(!body.to_string().contains("html"), "{body}");
    handlers.settings.paused = Some(Pause::RefreshPaused);
    let (_, body) = http(ask(&handlers, get_health()).await.0);
    assert_eq!(body["paused"]["because"], "REFRESH_PAUSED");
}

#[tokio::test]
async fn health_without_redis_is_unhealthy_without_numbers() {
    // Nothing listens on port 1.
    let config = RedisConfig {
        url: SecretString::from("redis://:hunter2@127.0.0.1:1"),
        cluster: false,
        namespace: "refresh".to_owned(),
    };
    let handlers = handlers_with(RedisQueue::connect(&config, clock()).unwrap(), Database::default());
    let (status, body) = http(Box::pin(ask(&handlers, get_health())).await.0);
    assert_eq!((status, &body["status"], &body["queue_size"]), (503, &json!("unhealthy"), &Value::Null));
    assert_eq!((&body["queue"], &body["database"]), (&json!("not answering"), &json!("ok")));
    assert!(body["timestamp"].is_f64() && body.get("dead_letters").is_none());
    assert!(!body.to_string().contains("127.0.0.1") && !body.to_string().contains("hunter2"), "{body}");
}

#[tokio::test]
async fn health_without_database_is_unhealthy() {
    let handlers = handlers_with(MemoryQueue::new(clock()), Database { dead: true, ..Database::default() });
    let (status, body) = http(ask(&handlers, get_health()).await.0);
    assert_eq!((status, &body["database"], &body["queue_size"]), (503, &json!("not answering"), &json!(0)));
    assert!(!body.to_string().contains("secret.db"), "{body}");
}

fn failed_run(ended: Timestamp) -> RunRow {
    RunRow {
        run: "8f507cfa".to_owned(),
        started: ended - Duration::from_secs(1),
        ended,
        stopped_because: "queue_down".to_owned(),
        error: Some("cannot reach Redis at redis://secret.cache:6379/0: no answer in time".to_owned()),
        processed: 0,
        failed: 0,
        api_requests: 0,
        report: String::new(),
    }
}

#[tokio::test]
async fn health_shows_last_failed_run_from_database() {
    let failed_run = Some(failed_run(NOW - Duration::from_secs(60)));
    let handlers = handlers_with(MemoryQueue::new(clock()), Database { failed_run, ..Database::default() });
    let (_, body) = http(ask(&handlers, get_health()).await.0);
    let failed = &body["last_failed_run"];
    assert_eq!((&failed["run"], &failed["stopped_because"]), (&json!("8f507cfa"), &json!("queue_down")));
    assert_eq!(failed["error"], "the queue cannot be used: no answer in time");
    assert!(!body.to_string().contains("secret.cache"), "{body}");
}

/// The runs after it are turned away, which changes nothing; one that had nothing to do proves nothing for a while.
#[tokio::test]
async fn health_without_usable_key_is_unhealthy() {
    let minutes = |minutes: u64| NOW - Duration::from_secs(minutes * 60);
    let no_key = |ended| RunRow { stopped_because: "no_usable_key".to_owned(), ..failed_run(ended) };
    let good = |ended, processed| {
        let stopped_because = "queue_empty".to_owned();
        Some(RunRow { stopped_because, error: None, processed, ..failed_run(ended) })
    };
    for (failed, last_run, is_healthy) in [
        (no_key(minutes(60)), None, false),
        (no_key(minutes(60)), good(minutes(61), 9), false),
        (no_key(minutes(5)), good(minutes(4), 0), false),
        (no_key(minutes(5)), good(minutes(4), 1), true),
        (no_key(minutes(60)), good(minutes(50), 0), true),
        (failed_run(minutes(5)), None, true),
    ] {
        let database = Database { failed_run: Some(failed.clone()), last_run: last_run.clone(), ..Database::default() };
        let (status, body) = http(ask(&handlers_with(MemoryQueue::new(clock()), database), get_health()).await.0);
        let expected = if is_healthy { (200, "ok") } else { (503, "all rejected") };
        assert_eq!((status, body["keys"].as_str().unwrap()), expected, "{failed:?} {last_run:?}");
        assert_eq!(body["problems"].as_array().unwrap().is_empty(), is_healthy, "{body}");
    }
}

#[tokio::test]
async fn health_shows_last_runs_without_database() {
    let queue = MemoryQueue::new(clock());
    for (run, error) in [("one", None), ("two", Some("the database cannot be used (57P03)".to_owned()))] {
        let (stopped_because, ended) = ("database_down".to_owned(), NOW);
        let (run, started) = (run.to_owned(), NOW);
        let note = RunSummary { run, started, ended, stopped_because, error, processed: 1, failed: 0, api_requests: 1 };
        queue.record_run(&note).await.unwrap();
    }
    let handlers = handlers_with(queue, Database { dead: true, ..Database::default() });
    let (status, body) = http(ask(&handlers, get_health()).await.0);
    assert_eq!((status, &body["last_run"]), (503, &Value::Null));
    assert_eq!(body["last_good_run"]["run"], "one");
    let failed = &body["last_failed_run"];
    assert_eq!((&failed["run"], &failed["error"]), (&json!("two"), &json!("the database cannot be used (57P03)")));
}

#[tokio::test]
async fn health_distinguishes_standby_from_dead_database() {
    for (refusal, state, problem) in [
        ("it is a standby, which takes no writes", "standby", "a standby"),
        ("cannot execute INSERT in a read-only transaction (25006)", "read-only", "read-only"),
        ("something of secret.db (57P03)", "not answering", "the log says why"),
    ] {
        let database = Database { refusal: Some(refusal), ..Database::default() };
        let (status, body) = http(ask(&handlers_with(MemoryQueue::new(clock()), database), get_health()).await.0);
        assert_eq!((status, &body["database"], &body["queue"]), (503, &json!(state), &json!("ok")), "{refusal}");
        let text = body["problems"][0].as_str().unwrap();
        assert!(text.contains(problem) && !body.to_string().contains("secret.db"), "{body}");
    }
}

#[tokio::test]
async fn head_is_get_without_body() {
    let elb = json!({"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/a/b"}});
    let events = |method: &str| {
        [
            json!({"httpMethod": method, "resource": "/health", "path": "/health", "requestContext": {"stage": "prod"}}),
            json!({"httpMethod": method, "path": "/health", "requestContext": elb}),
            json!({"rawPath": "/health", "requestContext": {"http": {"method": method, "path": "/health"}}}),
            json!({"httpMethod": method, "path": "/elsewhere", "requestContext": {"stage": "prod"}}),
        ]
    };
    for database in [Database::default(), Database { dead: true, ..Database::default() }] {
        let handlers = handlers_with(MemoryQueue::new(clock()), database);
        for (get, head) in events("GET").into_iter().zip(events("HEAD")) {
            let (mut get, head) = (ask(&handlers, get).await.0.unwrap(), ask(&handlers, head).await.0.unwrap());
            assert_ne!(get["body"], "");
            get["body"] = json!("");
            assert_eq!(head, get);
        }
    }
    let head = json!({"httpMethod": "HEAD", "resource": "/refresh", "path": "/refresh"});
    let refused = ask(&handlers(), head).await.0.unwrap();
    assert_eq!((&refused["statusCode"], &refused["body"]), (&json!(405), &json!("")));
}

#[tokio::test]
async fn health_role_responds_with_health_only() {
    let mut handlers = handlers();
    handlers.settings.role = Role::Health;
    let (answer, printed) = ask(&handlers, json!({"source": "schedule"})).await;
    assert_eq!(answer.unwrap()["status"], "healthy");
    assert!(printed.is_empty() && handlers.runs.asked.lock().is_empty());
}
