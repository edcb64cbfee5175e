//! A Redis user with exactly the rights that DEPLOYMENT.md prints.

use refresh_worker::queue::record::QueueLimits;
use serde_json::Value;

use super::Shell;
use crate::{
    queue::beds::{Bed as _, NOW, RedisBed, connect, value},
    support::{self, redis::PrivateRedis},
};

/// The words of the documented line.
fn documented() -> Vec<String> {
    let text = include_str!("../../../DEPLOYMENT.md");
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER worker ")).expect("the line is there");
    line.replace("PASSWORD", "hunter2").split(' ').map(str::to_owned).collect()
}

async fn acl(admin: &RedisBed, words: &[&str]) {
    admin.command::<()>(&[&["ACL", "SETUSER", "worker"], words].concat()).await;
}

/// A server with that user, an administrator's hands, and the user's URL.
async fn start() -> (PrivateRedis, RedisBed, String) {
    let server = PrivateRedis::start().await;
    let admin = RedisBed::at(&server.url(), QueueLimits::default()).await;
    let line = documented();
    admin.command::<()>(&line.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let url = format!("redis://worker:hunter2@127.0.0.1:{}/0", server.port());
    (server, admin, url)
}

#[tokio::test]
async fn documented_redis_user_is_sufficient() {
    let (_server, admin, url) = start().await;
    // Of others, which the user may not see.
    admin.command::<()>(&["HSET", "{other}:objects", "clan:2PP", "{}"]).await;
    let simulator = super::simulator(&["the.one.key"]).await;
    let shell = Shell::new()
        .with("REDIS_URL", &url)
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", simulator.base_url().as_str())
        .with("COC_API_TOKEN", "the.one.key")
        .with("FOLLOWUP_WARS", "true");
    shell.run(&["migrate"]).await.well();
    let output: Value = serde_json::from_str(&shell.run(&["check", "--json"]).await.stdout).unwrap();
    assert_eq!(output["ready_to_run"], true, "{output:#}");
    let redis = output["findings"].as_array().unwrap().iter().filter(|finding| finding["area"] == "Redis");
    assert!(redis.clone().all(|finding| finding["grade"] == "ok"), "{output:#}");

    let player = format!("player:{}", simulator.world().player_tags()[0].as_str());
    let clan = format!("clan:{}", simulator.world().clan_tags()[0].as_str());
    for id in [player.as_str(), clan.as_str()] {
        admin.put_mail(id, 1.0, &value(id, 1, NOW)).await;
    }
    admin.put_mail("junk", 1.0, "junk").await;
    let output = shell.run(&["drain"]).await.well();
    assert!(!output.contains("NOPERM"), "{output}");
    for command in [
        &["queue", "stats"][..],
        &["queue", "explain", &player],
        &["queue", "repair"],
        &["queue", "backup", "--dir", "kept"],
        &["dead", "list"],
        &["keys", "list"],
        &["enqueue", &player],
        &["queue", "export"],
        &["queue", "export", "--return", "--yes"],
        &["dead", "redrive", "--all"],
    ] {
        let ran = shell.run(command).await;
        let output = format!("{command:?}: {} {}", ran.stdout, ran.stderr);
        assert!(!output.contains("NOPERM") && !output.contains("can't run this"), "{output}");
        assert!(ran.code == 0 || ran.code == 2, "{output}");
    }
    let log: Vec<redis::Value> = admin.command(&["ACL", "LOG"]).await;
    assert!(log.len() <= 1, "nothing was refused but the other namespace: {log:?}");
}

#[tokio::test]
async fn check_names_missing_redis_rights() {
    let (server, admin, url) = start().await;
    let queue = connect(&url);
    assert!(queue.missing_rights().await.unwrap().is_empty());
    let rights: Vec<String> = documented().into_iter().skip_while(|word| word != "-@all").skip(1).collect();
    for right in &rights {
        let without = right.replacen('+', "-", 1);
        acl(&admin, &[&without]).await;
        let missing = queue.missing_rights().await.unwrap();
        assert_eq!((&missing.commands, missing.keys.len()), (&vec![right.clone()], 0), "without {right}");
        acl(&admin, &[right]).await;
    }
    for pattern in ["~refresh_queue", "~refresh_requests", "~{refresh}:*", "~{coc-api}:*"] {
        let others = documented().into_iter().filter(|word| word.starts_with('~') && word != pattern);
        let words: Vec<String> = std::iter::once("resetkeys".to_owned()).chain(others).collect();
        acl(&admin, &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(queue.missing_rights().await.unwrap().keys, [pattern], "without {pattern}");
    }
    acl(&admin, &["allkeys", "-zadd", "-hget"]).await;
    let ran = Shell::new().with("REDIS_URL", &url).run(&["check"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("(NOPERM): +hget +zadd"), "{}", ran.stdout);
    assert!(ran.stdout.contains("-> ACL SETUSER worker +hget +zadd"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
    drop(server);
}
