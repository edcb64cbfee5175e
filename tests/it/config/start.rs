//! A process that cannot start says why, where operators look.

use crate::support::process::WorkerProcess;

#[tokio::test]
async fn bad_configuration_is_an_init_error() {
    let mut worker = WorkerProcess::start(
        "refresh",
        [
            ("REDIS_URL", "redis://:hunter2hunter2@cache/x"),
            ("COC_REQS_PER_SEC", "0"),
            ("COC_PASSWORD", "hunter2hunter2"),
        ],
    )
    .await;
    let status = worker.wait().await;
    assert!(!status.success());
    let error = worker.init_error().expect("an init error was reported");
    let message = error["errorMessage"].as_str().unwrap();
    assert_eq!(error["errorType"], "Runtime.ConfigInvalid");
    assert!(message.contains("COC_REQS_PER_SEC is `0`: expected a whole number from 1 to 30"), "{message}");
    let output = worker.output();
    let lines = output.logs("ERROR");
    for variable in ["REDIS_URL", "DATABASE_URL", "COC_REQS_PER_SEC", "COC_API_TOKEN"] {
        assert!(message.contains(variable), "{variable}: {message}");
        assert_eq!(lines.iter().filter(|line| line["variable"] == variable).count(), 1, "{variable}: {lines:?}");
    }
    assert!(!format!("{message}{}{}", output.stdout, output.stderr).contains("hunter2hunter2"));
}

#[tokio::test]
async fn health_function_starts_without_api_key() {
    let environment = [("REDIS_URL", "redis://127.0.0.1:1"), ("DATABASE_URL", "postgres://w:p@127.0.0.1:1/coc")];
    let mut worker = WorkerProcess::start("health", environment).await;
    worker.wait_until_idle().await;
    assert_eq!(worker.init_error(), None);
}

#[tokio::test]
async fn partial_lambda_environment_is_explained() {
    let environment = [
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("DATABASE_URL", "postgres://w:p@127.0.0.1:1/coc"),
        ("AWS_LAMBDA_FUNCTION_NAME", ""),
    ];
    let mut worker = WorkerProcess::start("health", environment).await;
    assert!(!worker.wait().await.success());
    let message = worker.init_error().expect("an init error was reported")["errorMessage"].to_string();
    assert!(message.contains("AWS_LAMBDA_FUNCTION_NAME is not set"), "{message}");
}
