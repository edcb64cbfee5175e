//! Keys of the developer portal, with the real binary and everything shared through Redis.

use refresh_worker::sim::{Misbehaviour, PortalTrouble, Rule, SimConfig};
use serde_json::Value;

use super::{
    events,
    world::{PLENTY, World, assert_processed, outcome},
};
use crate::{
    cli::Shell,
    support::{process::WorkerProcess, redis::PrivateRedis},
};

const EMAIL: &str = "somebody@example.com";
const PASSWORD: &str = "correct-horse-battery-staple";
const NAME: &str = "refresh-worker-e2e";

async fn world() -> World {
    let world = World::with(SimConfig { tokens: vec!["of-nobody".to_owned()], ..SimConfig::default() }).await;
    world.simulator.open_account(EMAIL, PASSWORD);
    world
}

/// The settings of a worker whose only keys are the portal's.
fn settings(world: &World) -> Vec<(String, String)> {
    let portal = world.simulator.portal_url();
    [
        ("COC_API_TOKENS", ""),
        ("COC_EMAIL", EMAIL),
        ("COC_PASSWORD", PASSWORD),
        ("COC_KEY_NAME", NAME),
        ("COC_PORTAL_URL", portal.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

async fn worker(world: &World) -> WorkerProcess {
    let settings = settings(world);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
    world.worker_with(&settings).await
}

fn acts(world: &World, act: &str) -> usize {
    world.simulator.portal_acts().iter().filter(|done| done.starts_with(act)).count()
}

#[tokio::test]
async fn changed_address_costs_one_login() {
    let world = world().await;
    world.simulator.misbehave(Rule::new(Misbehaviour::HoldUntilReleased));
    world.mail_players(40).await;
    let mut worker = worker(&world).await;
    let running = worker.begin(&events::schedule(), PLENTY).await;
    assert!(tokio::time::timeout(PLENTY, world.simulator.wait_until_held(15)).await.is_ok(), "15 calls are under way");
    world.simulator.move_to("198.51.100.4");
    world.simulator.release();
    let run = worker.finish(running).await;
    assert_processed(&run, 40);
    let answer = run.response();
    assert_eq!(
        (&answer["failed_requests"], &answer["stopped_because"]),
        (&0.into(), &"queue_empty".into()),
        "{answer}"
    );
    assert!(outcome(answer, "released") >= 15, "{answer}");
    assert_eq!((acts(&world, "login"), acts(&world, "create")), (2, 2), "{:?}", world.simulator.portal_acts());

    // Another sandbox finds the new key in the account, and leaves the old one alone.
    world.mail("clan", world.simulator.world().clan_tags()[0].as_str(), 1).await;
    let mut cold = self::worker(&world).await;
    world.drain_with(&mut cold).await;
    assert_eq!((acts(&world, "login"), acts(&world, "create"), acts(&world, "revoke")), (3, 2, 0));
}

#[tokio::test]
async fn concurrent_sandboxes_log_in_one_by_one() {
    let world = world().await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(worker(&world).await);
    }
    let schedule = events::schedule();
    let runs = workers.iter_mut().map(|worker| worker.invoke(&schedule, PLENTY));
    for run in futures_util::future::join_all(runs).await {
        let why = run.response()["stopped_because"].as_str().unwrap().to_owned();
        assert!(["queue_empty", "already_running"].contains(&&*why), "{why}: {}", run.logs);
    }
    // The portal refuses a login beside another one, and nobody would have come after that.
    assert_eq!((acts(&world, "login"), acts(&world, "create")), (4, 1), "{:?}", world.simulator.portal_acts());
}

#[tokio::test]
async fn daily_quota_holds_over_processes() {
    let world = World::start().await;
    world.mail_players(20).await;
    let cap = [("COC_REQS_PER_DAY", "12")];
    let (mut one, mut other) = (world.worker_with(&cap).await, world.worker_with(&cap).await);
    let run = one.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(run.response()["stopped_because"], "daily_quota", "{}", run.logs);
    assert_eq!(run.logs.metrics()[0]["calls_left_today"], 0, "{}", run.logs);
    let message = run.response()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("COC_REQS_PER_DAY") && message.contains("until 2"), "{message}");
    let run = other.invoke(&events::schedule(), PLENTY).await;
    assert_eq!(
        (&run.response()["stopped_because"], &run.response()["api_requests"]),
        (&"daily_quota".into(), &0.into())
    );
    assert_eq!(world.simulator.total_calls(), 12);
    let health = other.invoke(&events::http("GET", "/health", None), PLENTY).await;
    let body: Value = serde_json::from_str(health.response()["body"].as_str().unwrap()).unwrap();
    assert_eq!((&body["day"]["calls_left"], &body["paused"]["because"]), (&0.into(), &"daily_quota".into()), "{body}");
}

/// Runs, failures, renewals and every command that has to do with keys, with everything printed that can be.
#[tokio::test]
async fn no_secret_is_printed_at_any_level() {
    const REDIS_PASSWORD: &str = "redis-hunter2";
    const DATABASE_PASSWORD: &str = "database-hunter2";
    let mut world = world().await;
    let server = PrivateRedis::start().await;
    world.redis_url = server.url();
    redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", REDIS_PASSWORD])
        .exec_async(&mut world.redis().await)
        .await
        .unwrap();
    world.redis_url = server.url().replacen("redis://", &format!("redis://:{REDIS_PASSWORD}@"), 1);
    world.database_url = with_password(&world.database_url, DATABASE_PASSWORD);
    let mut printed = String::new();
    let mut trace = settings(&world);
    trace.push(("LOG_LEVEL".to_owned(), "TRACE".to_owned()));
    let trace: Vec<(&str, &str)> = trace.iter().map(|(name, value)| (&**name, &**value)).collect();

    let mut worker = world.worker_with(&trace).await;
    world.mail_players(5).await;
    assert_processed(&worker.invoke(&events::schedule(), PLENTY).await, 5);
    // A key that was revoked, a portal in every trouble, and a login that helps.
    world.simulator.revoke_by_hand(&world.simulator.portal_keys(EMAIL)[0].token);
    world.mail_of_every_kind(8).await;
    world.drain_with(&mut worker).await;
    world.simulator.move_to("198.51.100.4");
    world.mail("clan", world.simulator.world().clan_tags()[5].as_str(), 1).await;
    for trouble in [PortalTrouble::Temporary, PortalTrouble::Nonsense, PortalTrouble::CannotCreate] {
        world.simulator.portal_trouble(Some(trouble));
        empty(&world).await;
        world.mail("clan", world.simulator.world().clan_tags()[5].as_str(), 1).await;
        worker.invoke(&events::schedule(), PLENTY).await;
        let mut cold = world.worker_with(&trace).await;
        cold.invoke(&events::schedule(), PLENTY).await;
        printed.push_str(&cold.output().to_string());
    }
    world.simulator.portal_trouble(None);
    printed.push_str(&worker.output().to_string());
    let wrong = [("COC_PASSWORD", "wrong-hunter2"), ("COC_ACCOUNTS", "other@example.com:other-hunter2")];
    let mut locked_out = world.worker_with(&[&trace[..], &wrong].concat()).await;
    empty(&world).await;
    locked_out.invoke(&events::schedule(), PLENTY).await;
    printed.push_str(&locked_out.output().to_string());

    empty(&world).await;
    let mut shell = Shell::new()
        .with("REDIS_URL", &world.redis_url)
        .with("DATABASE_URL", &world.database_url)
        .with("COC_BASE_URL", world.simulator.base_url().as_str());
    for (name, value) in &trace {
        shell = shell.with(name, *value);
    }
    let commands: [&[&str]; 10] = [
        &["check"],
        &["check", "--json"],
        &["keys", "list"],
        &["keys", "list", "--json"],
        &["keys", "test"],
        &["keys", "renew"],
        &["keys", "renew", "--json"],
        &["keys", "prune"],
        &["keys", "prune", "--yes", "--json"],
        &["drain", "--json"],
    ];
    for arguments in commands {
        let ran = shell.run(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        printed.extend([ran.stdout, ran.stderr]);
    }
    let shell = shell.with("COC_PASSWORD", "wrong-hunter2");
    for arguments in [["keys", "renew"], ["keys", "list"]] {
        let ran = shell.run(&arguments).await;
        assert_eq!(ran.code, 1, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        printed.extend([ran.stdout, ran.stderr]);
    }

    assert!(printed.contains("DEBUG") && printed.len() > 100_000, "{} bytes were printed", printed.len());
    let mut secrets = world.simulator.portal_secrets();
    assert!(secrets.len() > 20, "{secrets:?}");
    secrets.extend([EMAIL, "other@example.com", REDIS_PASSWORD, DATABASE_PASSWORD, "hunter2"].map(str::to_owned));
    for secret in secrets {
        let found = printed.find(&secret).map(|at| printed.get(at.saturating_sub(300)..at + secret.len()));
        assert_eq!(found, None, "{secret}");
    }
}

async fn empty(world: &World) {
    redis::cmd("FLUSHDB").exec_async(&mut world.redis().await).await.expect("Redis answers");
}

/// The same database with a password, which a server that trusts does not ask for.
fn with_password(url: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (user, rest) = rest.split_once('@').expect("a user");
    let user = user.split(':').next().unwrap_or(user);
    format!("{scheme}://{user}:{password}@{rest}")
}
