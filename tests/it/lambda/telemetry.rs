//! The logs and metrics that an operator sees, and the secrets that nobody may see.

use refresh_worker::sim::{Misbehaviour, Rule};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    events,
    world::{PLENTY, TOKEN, World},
};
use crate::support::proxy::{Mode, Proxy};

const METRICS: [&str; 13] = [
    "processed_requests",
    "failed_requests",
    "queue_size",
    "oldest_request_age_seconds",
    "delayed",
    "leased",
    "dead_letters",
    "api_requests",
    "api_requests_per_second",
    "budget_used",
    "throttled",
    "keys_usable",
    "run_duration_ms",
];

#[tokio::test]
async fn run_writes_one_log_and_metric_line() {
    let world = World::start().await;
    world.mail_players(5).await;
    let mut worker = world.worker_with(&[("DEPLOYMENT", "second"), ("ENVIRONMENT", "staging")]).await;
    worker.wait_until_idle().await;
    let run = worker.invoke(&events::schedule(), PLENTY).await;
    run.response();

    let infos = run.logs.logs("INFO");
    assert_eq!(infos.len(), 1, "{}", run.logs);
    assert_eq!(infos[0]["stopped_because"], "queue_empty", "{}", infos[0]);
    for line in run.logs.json_lines().iter().filter(|line| line.get("_aws").is_none()) {
        let timestamp = line["timestamp"].as_str().unwrap_or_else(|| panic!("no timestamp in {line}"));
        OffsetDateTime::parse(timestamp, &Rfc3339).expect("RFC 3339");
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    assert!(infos[0].to_string().contains(&run.request_id), "{}", infos[0]);

    let metrics = run.logs.metrics();
    assert_eq!(metrics.len(), 1, "{}", run.logs);
    let line = &metrics[0];
    assert_eq!(line["level"], "INFO");
    assert!(line["_aws"]["Timestamp"].is_u64(), "{line}");
    let directive = &line["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(directive["Namespace"], "CoC/RefreshWorker");
    assert_eq!(directive["Dimensions"], json!([["Service", "Deployment", "Environment"]]));
    assert_eq!((&line["Deployment"], &line["Environment"]), (&json!("second"), &json!("staging")));
    assert!(line["Service"].is_string(), "{line}");
    let declared = directive["Metrics"].as_array().unwrap();
    for name in METRICS {
        assert!(line[name].is_number(), "{name} is no number in {line}");
        assert!(declared.iter().any(|metric| metric["Name"] == name), "{name} is not declared in {line}");
    }
    for metric in declared {
        assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric} has no value in {line}");
    }
    assert_eq!(line["processed_requests"], 5);
}

#[tokio::test]
async fn no_secret_is_ever_printed() {
    const REDIS_PASSWORD: &str = "redis-Pa55word-no-one-sees";
    const DATABASE_PASSWORD: &str = "database-Pa55word-no-one-sees";
    let mut world = World::start().await;
    world.mail_players(2).await;
    let user = format!("worker-{}", world.redis_url.rsplit_once('/').unwrap().1);
    let allow = ["ACL", "SETUSER", &user, "on", &format!(">{REDIS_PASSWORD}"), "~*", "&*", "+@all"].join(" ");
    let mut allow = allow.split(' ');
    let mut command = redis::cmd(allow.next().unwrap());
    allow.for_each(|word| {
        command.arg(word);
    });
    command.exec_async(&mut world.redis().await).await.unwrap();
    let (redis, redis_url) = Proxy::in_front_of(&world.redis_url).await;
    let (database, database_url) = Proxy::in_front_of(&world.database_url).await;
    world.redis_url = redis_url.replace("redis://", &format!("redis://{user}:{REDIS_PASSWORD}@"));
    world.database_url = database_url.replace("postgres@", &format!("postgres:{DATABASE_PASSWORD}@"));
    let mut worker = world.worker_with(&[("LOG_LEVEL", "trace")]).await;
    let mut said = Vec::new();

    said.push(format!("{:?}", worker.invoke(&events::schedule(), PLENTY).await));
    world.simulator.misbehave(Rule::new(Misbehaviour::InvalidAuthorization));
    let named = json!({ "requests": [{ "type": "player", "tag": "#2PP" }] });
    said.push(format!("{:?}", worker.invoke(&events::post_refresh(&named), PLENTY).await));
    said.push(format!("{:?}", worker.invoke(&events::get_health(), PLENTY).await));
    database.set(Mode::Cut);
    said.push(format!("{:?}", worker.invoke(&events::schedule(), PLENTY).await));
    redis.set(Mode::Cut);
    said.push(format!("{:?}", worker.invoke(&events::schedule(), PLENTY).await));
    said.push(worker.output().to_string());

    // A configuration that cannot be used is reported without its secrets, too.
    let broken = [
        ("REDIS_URL", format!("http://{REDIS_PASSWORD}@localhost")),
        ("DATABASE_URL", format!("mysql://user:{DATABASE_PASSWORD}@localhost/x")),
        ("COC_API_TOKEN", format!("{TOKEN} with spaces")),
    ];
    let mut broken = crate::support::process::WorkerProcess::start("refresh", broken).await;
    broken.wait().await;
    said.push(broken.output().to_string());
    said.push(format!("{:?}", broken.init_error()));

    for text in said {
        for secret in [REDIS_PASSWORD, DATABASE_PASSWORD, TOKEN] {
            assert!(!text.contains(secret), "{secret} was printed: {text}");
        }
    }
}
