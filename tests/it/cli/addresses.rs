//! Addresses and certificates as an operator meets them: what cannot be obeyed is output by name, what is trusted is named.

use refresh_worker::sim::Simulator;

use super::Shell;
use crate::support::{
    self,
    redis::PrivateRedis,
    tls::{Authority, in_url},
};

#[tokio::test]
async fn address_problems_are_reported_together() {
    let shell = Shell::new()
        .with("REDIS_URL", "redis://hunter2@cache?keyPrefix=a")
        .with(
            "DATABASE_URL",
            "postgres://hunter2@db/d?serach_path=stats&channel_binding=require&sslrootcert=/nowhere.pem",
        )
        .with("COC_API_TOKEN", "a.b.c")
        .with("SSL_CERT_FILE", "/not/there.pem")
        .with("CA_CERTIFICATES", "hunter2");
    let ran = shell.run(&["check", "--offline"]).await;
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    for expected in
        ["keyPrefix", "user but no password", "serach_path", "channel_binding", "/not/there.pem", "no certificate"]
    {
        assert!(ran.stdout.contains(expected), "{expected}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
    for command in [&["drain"][..], &["report"], &["jobs", "list"], &["queue", "stats"]] {
        let output = shell.run(command).await.badly(2);
        assert!(!output.contains("hunter2"), "{output}");
    }
    let file = Shell::new().with("DATABASE_URL", "postgres://u:p@db/d?sslrootcert=/nowhere.pem");
    assert!(file.run(&["migrate"]).await.badly(2).contains("/nowhere.pem"));
}

#[tokio::test]
async fn check_warns_of_unencrypted_data() {
    let shell = Shell::new()
        .with("REDIS_URL", "redis://:hunter2@cache.example")
        .with("DATABASE_URL", "postgres://u:hunter2@db.example/d?sslmode=require")
        .with("COC_API_TOKEN", "a.b.c")
        .with("COC_BASE_URL", "http://proxy.example/v1");
    let output = shell.run(&["check", "--offline"]).await.well();
    for (host, fix) in [("cache.example", "rediss://"), ("db.example", "verify-full"), ("proxy.example", "https://")] {
        assert!(output.contains(host) && output.contains(fix), "{host}: {output}");
    }
    assert!(output.contains("3 warnings") && !output.contains("hunter2"), "{output}");
    let safe = shell
        .with("REDIS_URL", "rediss://:hunter2@cache.example")
        .with("DATABASE_URL", "postgres://u:hunter2@db.example/d?sslmode=verify-full")
        .with("COC_BASE_URL", "https://proxy.example/v1");
    assert!(!safe.run(&["check", "--offline"]).await.well().contains("warning"));
}

#[tokio::test]
async fn user_name_with_password_stays_hidden() {
    let redis = support::redis::fresh().await;
    let database = support::postgres::fresh().await.replace("postgres@", "hunter2hunter2@");
    let shell = Shell::new()
        .with("REDIS_URL", redis)
        .with("DATABASE_URL", database)
        .with("COC_API_TOKEN", "a.b.c")
        .with("REFRESH_VIEWS", "clan_leaderboard")
        .with("STATS_FUNCTIONS", "update_a:one");
    for command in [
        &["check"][..],
        &["drain"],
        &["migrate"],
        &["report"],
        &["views", "refresh"],
        &["views", "install"],
        &["jobs", "list"],
        &["jobs", "enqueue"],
        &["retention", "--days", "30"],
        &["queue", "explain", "clan:#2PP"],
    ] {
        let ran = shell.run(command).await;
        let output = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code != 0 || command[0] == "queue", "{command:?}: {output}");
        assert!(!output.contains("hunter2"), "{command:?}: {output}");
    }
}

/// Redis, the database and the API behind TLS, with certificates for `localhost`.
async fn secured(authority: &Authority, simulator: &Simulator) -> (Shell, PrivateRedis) {
    let redis = PrivateRedis::start().await;
    let tls_port = with_tls(&redis, authority).await;
    let api = authority.front(&["localhost"], simulator.address().port()).await;
    let shell = Shell::new()
        .with("REDIS_URL", format!("rediss://localhost:{tls_port}"))
        .with("DATABASE_URL", support::postgres::fresh().await)
        .with("COC_BASE_URL", format!("https://localhost:{api}/v1"))
        .with("COC_API_TOKEN", "the.one.key");
    (shell, redis)
}

/// The port where the server itself speaks TLS; one in front of it, where it was built without.
async fn with_tls(redis: &PrivateRedis, authority: &Authority) -> u16 {
    let (certificate, key) = authority.files_for(&["localhost"]);
    let port = support::server::free_port();
    let mut connection = support::redis::connect(&redis.url()).await.unwrap();
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg("tls-cert-file").arg(certificate.to_str()).arg("tls-key-file").arg(key.to_str());
    command.arg("tls-auth-clients").arg("no").arg("tls-port").arg(port);
    match command.exec_async(&mut connection).await {
        Ok(()) => port,
        Err(error) => {
            eprintln!("this Redis speaks no TLS itself ({error}): something in front of it does");
            authority.front(&["localhost"], redis.port()).await
        }
    }
}

#[tokio::test]
async fn own_authority_applies_to_all_servers() {
    let (right, wrong) = (Authority::new("the right one"), Authority::new("another one"));
    let simulator = super::simulator(&["the.one.key"]).await;
    let (shell, _redis) = secured(&right, &simulator).await;
    let output = shell.run(&["check"]).await;
    assert_eq!(output.code, 1, "{}", output.stdout);
    assert!(output.stdout.contains("authority that is not trusted here"), "{}", output.stdout);

    let file = right.file().to_str().unwrap().to_owned();
    let mut shell = shell.with("AUTO_MIGRATE", "true");
    for (name, value) in [
        ("SSL_CERT_FILE", file.clone()),
        ("CA_CERTIFICATES_FILE", file),
        // As a form with one line makes it.
        ("CA_CERTIFICATES", right.pem().trim().replace('\n', " ")),
    ] {
        shell = shell.with(name, value);
        shell.run(&["migrate"]).await.well();
        let output = shell.run(&["check"]).await.well();
        assert!(output.contains("responds at rediss://") && output.contains("works (test call"), "{name}: {output}");
        shell = shell.with(name, "");
    }
    let wrong = wrong.file().to_str().unwrap().to_owned();
    let ran = shell.with("CA_CERTIFICATES_FILE", wrong).run(&["check"]).await;
    assert!(ran.code == 1 && ran.stdout.contains("authority that is not trusted here"), "{}", ran.stdout);
}

#[tokio::test]
async fn certificate_of_another_host_is_refused() {
    let authority = Authority::new("the right one");
    let simulator = super::simulator(&["the.one.key"]).await;
    let (shell, _redis) = secured(&authority, &simulator).await;
    let redis = shell.variable("REDIS_URL").replace("localhost", "127.0.0.1");
    let ca = in_url(&authority.file());
    let shell = shell.with("REDIS_URL", format!("{redis}?ssl_ca_certs={ca}"));
    let ran = shell.run(&["queue", "stats"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("for another host name"), "{}{}", ran.stdout, ran.stderr);
    let named = redis.replace("127.0.0.1", "localhost");
    let shell = shell.with("REDIS_URL", format!("{named}?ssl_ca_certs={ca}&ssl_cert_reqs=required"));
    shell.run(&["queue", "stats"]).await.well();
}
