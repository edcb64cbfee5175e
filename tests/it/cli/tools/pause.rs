//! The two switches that stop the worker, end to end: runs, `queue stats`, `queue explain` and health tell of them.

use serde_json::Value;

use super::{Bed, Shell};
use crate::{
    cli,
    support::{self, process::WorkerProcess},
};

#[tokio::test]
async fn pause_switches_are_shown_everywhere() {
    let simulator = cli::simulator(&["the.one.key"]).await;
    let bed = Bed::fresh().await;
    bed.enqueue(&["clan:2PP".to_owned()]).await;
    let before = bed.everything().await;
    let database = support::postgres::fresh_with_contract().await;
    for switch in ["REFRESH_PAUSED", "DISABLE_AUTO_REFRESH_QUEUE"] {
        let environment = [
            ("REDIS_URL", bed.url.as_str()),
            ("DATABASE_URL", &database),
            ("COC_BASE_URL", simulator.base_url().as_str()),
            ("COC_API_TOKEN", "the.one.key"),
            (switch, "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let shell = environment.iter().fold(Shell::new(), |shell, (name, value)| shell.with(name, value));
        let ran = shell.run(&["drain"]).await;
        assert!(ran.stdout.starts_with("Nothing done:") && ran.stdout.contains(switch), "{}", ran.stdout);
        assert_eq!(ran.stderr.contains("DISABLE_AUTO_REFRESH_QUEUE"), switch.starts_with("DISABLE"), "{}", ran.stderr);

        assert!(shell.run(&["queue", "stats"]).await.well().contains(&format!("paused: {switch} is true")));
        let stats: Value = serde_json::from_str(&shell.run(&["queue", "stats", "--json"]).await.well()).unwrap();
        assert_eq!(stats["paused"]["because"], format!("{switch} is true"));
        assert!(shell.run(&["queue", "explain", "clan:2PP"]).await.well().contains(&format!("But {switch} is true")));

        let mut worker = WorkerProcess::start("refresh", environment).await;
        let budget = std::time::Duration::from_secs(60);
        let event = serde_json::json!({"source": "schedule"});
        let report = worker.invoke(&event, budget).await.response().clone();
        assert_eq!(report["stopped_because"], "refresh_paused", "{report}");
        let get = serde_json::json!({"httpMethod": "GET", "path": "/health", "headers": {}, "requestContext": {}});
        let answer = worker.invoke(&get, budget).await.response().clone();
        let health: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!((&health["status"], &health["paused"]["because"]), (&"healthy".into(), &switch.into()), "{health}");
    }
    assert_eq!((simulator.total_calls(), bed.everything().await), (0, before), "nothing was called or touched");
    let stats = bed.json(&["queue", "stats", "--json"]).await;
    assert_eq!(stats["paused"], Value::Null);
}
