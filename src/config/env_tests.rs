use std::collections::HashMap;

use secrecy::ExposeSecret;

use super::*;
use crate::{
    config::{PlannerConfig, VARIABLES},
    planner::{Policy, Strategy, Teaching, Trial},
};

const REQUIRED: [(&str, &str); 3] = [
    ("REDIS_URL", "redis://localhost:6379"),
    ("DATABASE_URL", "postgres://worker:pw@localhost/coc"),
    ("COC_API_TOKEN", "first.key"),
];

fn lookup<'a>(pairs: &[(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + use<'a> {
    let map: HashMap<&str, &str> = pairs.iter().copied().collect();
    move |name| map.get(name).map(|value| (*value).to_owned())
}

/// The required variables with some others on top.
fn with(pairs: &[(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> + use<> {
    lookup(&[&REQUIRED[..], pairs].concat())
}

fn read(pairs: &[(&'static str, &'static str)]) -> Result<Config, ConfigErrors> {
    Config::read(&with(pairs), Role::Refresh)
}

/// The one problem that these settings have.
fn problem(pairs: &[(&'static str, &'static str)]) -> String {
    let errors = read(pairs).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    errors.problems[0].to_string()
}

#[test]
fn defaults_of_the_table_apply() {
    let config = read(&[]).unwrap();
    let defaults = WorkerConfig::default();
    assert_eq!(config.worker.lease, defaults.lease);
    assert_eq!(config.worker.max_attempts, defaults.max_attempts);
    assert_eq!(config.worker.deadline_buffer, defaults.deadline_buffer);
    assert_eq!((config.worker.max_runtime, config.worker.paused), (defaults.max_runtime, defaults.paused));
    assert_eq!(config.worker.follow_ups, defaults.follow_ups);
    assert_eq!(config.telemetry.log_level, TelemetryConfig::default().log_level);
    assert_eq!(config.telemetry.environment, TelemetryConfig::default().environment);
    assert_eq!((config.database.max_connections, config.database.statement_cache), (5, 100));
    assert!(config.database.auto_migrate);
    assert_eq!((config.api.reqs_per_sec, config.api.keys_per_run), (30, None));
    assert_eq!(config.api.base_url.as_str(), "https://api.clashofclans.com/v1");
    assert_eq!(config.redis.namespace, "refresh");
}

#[test]
fn empty_variable_counts_as_not_set() {
    let empty: Vec<(&str, &str)> = VARIABLES.iter().filter(|v| v.unset != "required").map(|v| (v.name, " ")).collect();
    let config = Config::read(&lookup(&[&empty[..], &REQUIRED[..]].concat()), Role::Refresh).unwrap();
    assert_eq!(config.api.reqs_per_sec, 30);
    assert_eq!(config.worker.lease, Duration::from_secs(15));
}

#[test]
fn every_setting_is_read() {
    let config = read(&[
        ("QUEUE_NAMESPACE", "blue"),
        ("DB_POOL_MAX", "9"),
        ("DB_STATEMENT_CACHE", "0"),
        ("AUTO_MIGRATE", "No"),
        ("COC_BASE_URL", "http://127.0.0.1:8080/v1/"),
        ("COC_API_TOKENS", "second.key, first.key ,,third.key"),
        ("COC_REQS_PER_SEC", "12"),
        ("KEYS_PER_RUN", "2"),
        ("LEASE_SECONDS", "60"),
        ("MAX_ATTEMPTS", "1"),
        ("DEADLINE_BUFFER_MS", "250"),
        ("MAX_RUNTIME_SECONDS", "230"),
        ("REFRESH_PAUSED", "ON"),
        ("ENVIRONMENT", "production"),
        ("LOG_LEVEL", "WARNING"),
    ])
    .unwrap();
    assert_eq!(config.redis.namespace, "blue");
    assert_eq!((config.database.max_connections, config.database.statement_cache), (9, 0));
    assert!(!config.database.auto_migrate);
    assert_eq!(config.api.base_url.as_str(), "http://127.0.0.1:8080/v1");
    let tokens: Vec<&str> = config.api.tokens.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(tokens, ["first.key", "second.key", "third.key"]);
    assert_eq!((config.api.reqs_per_sec, config.api.keys_per_run), (12, Some(2)));
    assert_eq!((config.worker.lease, config.worker.max_attempts), (Duration::from_secs(60), 1));
    assert_eq!(config.worker.deadline_buffer, Duration::from_millis(250));
    assert_eq!(config.worker.max_runtime, Some(Duration::from_secs(230)));
    assert_eq!(config.worker.paused, Some(Pause::RefreshPaused));
    assert_eq!(config.telemetry.environment, "production");
    assert_eq!(config.telemetry.log_level, "warn");
}

#[test]
fn database_url_spellings_become_one() {
    for scheme in ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"] {
        let url = format!("{scheme}://worker:p%40w@db:5433/coc?sslmode=require");
        let vars = move |name: &str| match name {
            "DATABASE_URL" => Some(url.clone()),
            other => with(&[])(other),
        };
        let config = DatabaseConfig::read(&vars).unwrap();
        assert_eq!(config.url.expose_secret(), "postgresql://worker:p%40w@db:5433/coc?sslmode=require");
    }
}

#[test]
fn cluster_needs_host_and_database_0() {
    for url in ["redis://h", "rediss://u:p@h:6380/0", "redis://h/"] {
        assert!(read(&[("REDIS_URL", url), ("REDIS_CLUSTER", "true")]).unwrap().redis.cluster);
    }
    for url in ["redis://h/3", "unix:///run/redis.sock"] {
        let errors = read(&[("REDIS_URL", url), ("REDIS_CLUSTER", "true")]).unwrap_err().to_string();
        assert!(errors.contains("REDIS_URL") && errors.contains("REDIS_CLUSTER=true"), "{errors}");
    }
}

#[test]
fn redis_url_may_use_tcp_tls_or_socket() {
    for url in ["redis://h", "rediss://u:p@h:6380/3", "redis://:p@h/0", "unix:///run/redis.sock?db=2", "redis://h/"] {
        assert_eq!(read(&[("REDIS_URL", url)]).unwrap().redis.url.expose_secret(), url);
    }
}

#[test]
fn rate_above_the_cap_is_capped_with_warning() {
    let vars = [("COC_REQS_PER_SEC", "200")];
    assert_eq!(read(&vars).unwrap().api.reqs_per_sec, 30);
    assert!(warnings(&with(&vars))[0].contains("capped at 30"));
    let vars = [("COC_REQS_PER_SEC", "200"), ("COC_MAX_REQS_PER_SEC", "500")];
    assert_eq!(read(&vars).unwrap().api.reqs_per_sec, 200);
    assert_eq!(read(&[("COC_MAX_REQS_PER_SEC", "10")]).unwrap().api.reqs_per_sec, 10);
    assert_eq!(read(&[("COC_MAX_REQS_PER_SEC", "500")]).unwrap().api.reqs_per_sec, 30);
}

#[test]
fn producers_switch_pauses_with_warning() {
    let vars = [("DISABLE_AUTO_REFRESH_QUEUE", "TRUE")];
    assert_eq!(read(&vars).unwrap().worker.paused, Some(Pause::DisableAutoRefreshQueue));
    assert_eq!(warnings(&with(&vars)).len(), 1);
    assert!(warnings(&with(&[])).is_empty());
}

#[test]
fn health_role_needs_no_key_and_one_connection() {
    let vars = lookup(&REQUIRED[..2]);
    let config = Config::read(&vars, Role::Health).unwrap();
    assert_eq!((config.database.max_connections, config.api.tokens.len()), (1, 0));
    let config = Config::read(&with(&[("DB_POOL_MAX", "3")]), Role::Health).unwrap();
    assert_eq!(config.database.max_connections, 3);
}

#[test]
fn role_follows_handler_then_variable() {
    let role = |pairs: &[(&'static str, &'static str)]| Role::read(&lookup(pairs));
    assert_eq!(role(&[("_HANDLER", "health"), ("WORKER_ROLE", "refresh")]), Ok(Role::Health));
    assert_eq!(role(&[("_HANDLER", "refresh"), ("WORKER_ROLE", "health")]), Ok(Role::Refresh));
    assert_eq!(role(&[("_HANDLER", "bootstrap"), ("WORKER_ROLE", "Health")]), Ok(Role::Health));
    assert_eq!(role(&[("_HANDLER", "bootstrap")]), Ok(Role::Refresh));
    let error = role(&[("WORKER_ROLE", "healthy")]).unwrap_err();
    assert_eq!(error.problems[0].to_string(), "WORKER_ROLE is `healthy`: expected refresh or health");
}

#[test]
fn log_level_of_lambda_is_the_fallback() {
    let log_level = |pairs| read(pairs).unwrap().telemetry.log_level;
    assert_eq!(log_level(&[("AWS_LAMBDA_LOG_LEVEL", "DEBUG")]), "debug");
    assert_eq!(log_level(&[("AWS_LAMBDA_LOG_LEVEL", "DEBUG"), ("LOG_LEVEL", "Error")]), "error");
    assert_eq!(log_level(&[("AWS_LAMBDA_LOG_LEVEL", "noise")]), "info");
    assert_eq!(log_level(&[("LOG_LEVEL", "info,refresh_worker=debug")]), "info,refresh_worker=debug");
}

#[test]
fn problem_names_variable_value_and_fix() {
    assert_eq!(problem(&[("COC_REQS_PER_SEC", "0")]), "COC_REQS_PER_SEC is `0`: expected a whole number from 1 to 30");
    insta::assert_snapshot!(
        [
            problem(&[("LEASE_SECONDS", "1")]),
            problem(&[("MAX_ATTEMPTS", "three")]),
            problem(&[("AUTO_MIGRATE", "maybe")]),
            problem(&[("QUEUE_NAMESPACE", "{refresh}")]),
            problem(&[("COC_BASE_URL", "https://api.clashofclans.com")]),
            problem(&[("COC_BASE_URL", "https://user:hunter2@proxy/v1")]),
            problem(&[("REDIS_URL", "http://cache:6379")]),
            problem(&[("REDIS_URL", "redis://cache/main")]),
            problem(&[("REDIS_URL", "\"redis://cache\"")]),
            problem(&[("DATABASE_URL", "mysql://db/coc")]),
            problem(&[("DATABASE_URL", "postgres://worker:hunter#2@db/coc")]),
            problem(&[("COC_API_TOKENS", "one.key, Bearer two.key")]),
            problem(&[("LOG_LEVEL", "loud")]),
            problem(&[("COC_EMAIL", "me@example.org")]),
        ]
        .join("\n")
    );
}

#[test]
fn all_problems_are_reported_together() {
    let vars = lookup(&[
        ("DATABASE_URL", "postgres:///"),
        ("COC_REQS_PER_SEC", "fast"),
        ("LEASE_SECONDS", "-1"),
        ("DEPLOYMENT", "zwölf"),
        ("ENVIRONMENT", "prödüktion"),
        ("KEYS_PER_RUN", "0"),
    ]);
    insta::assert_snapshot!(Config::read(&vars, Role::Refresh).unwrap_err());
}

#[test]
fn effective_configuration_lists_every_setting() {
    let config = read(&[
        ("REDIS_URL", "rediss://default:hunter2@cache.example.org:6380/2"),
        ("DATABASE_URL", "postgresql+psycopg://worker:hunter2@db.example.org/coc?sslmode=verify-full"),
        ("COC_API_TOKENS", "second.key"),
        ("MAX_RUNTIME_SECONDS", "230"),
    ])
    .unwrap();
    insta::assert_snapshot!(config.effective());
}

/// A secret in every place where one could be, right or wrong; no rendering may repeat it.
#[test]
fn configuration_never_shows_a_secret() {
    const SECRET: &str = "hunter2hunter2";
    let good = [
        ("REDIS_URL", "redis://hunter2hunter2:hunter2hunter2@cache/0?pass=hunter2hunter2"),
        ("DATABASE_URL", "postgres://hunter2hunter2:hunter2hunter2@db/coc?password=hunter2hunter2"),
        ("COC_API_TOKEN", "hunter2hunter2.a"),
        ("COC_API_TOKENS", "hunter2hunter2.b,hunter2hunter2.c"),
    ];
    let config = Config::read(&lookup(&good), Role::Refresh).unwrap();
    let renderings = [config.effective().to_string(), format!("{config:?}"), format!("{:?}", config.effective())];
    for rendering in renderings {
        assert!(!rendering.contains(SECRET), "{rendering}");
    }
    let bad: [&[(&str, &str)]; 5] = [
        &[("REDIS_URL", SECRET), ("DATABASE_URL", SECRET), ("COC_API_TOKEN", "Bearer hunter2hunter2")],
        &[("REDIS_URL", "hunter2hunter2://x"), ("DATABASE_URL", "hunter2hunter2://x"), ("COC_PASSWORD", SECRET)],
        &[("REDIS_URL", "redis://:hunter2hunter2#@h"), ("DATABASE_URL", "postgres://a:hunter2hunter2#@h/d")],
        &[("REDIS_URL", "redis://h/hunter2hunter2"), ("COC_BASE_URL", "http://a:hunter2hunter2@h/v1")],
        &[("COC_BASE_URL", "a:hunter2hunter2@h"), ("COC_API_TOKENS", "\u{e4}hunter2hunter2")],
    ];
    for pairs in bad {
        let errors = Config::read(&lookup(pairs), Role::Refresh).unwrap_err();
        for rendering in [errors.to_string(), format!("{errors:?}"), warnings(&lookup(pairs)).join("\n")] {
            assert!(!rendering.contains(SECRET), "{rendering}");
        }
    }
}

#[test]
fn planner_is_off_by_default() {
    let worker = read(&[("SNAPSHOT_MAX_AGE", "300"), ("PLANNED_TRIAL", "tiers:50")]).unwrap().worker;
    assert_eq!((worker.planner, worker.follow_ups.players_per_clan), (None, 5));
    assert_eq!(read(&[("PLANNED_CALLS_PER_SEC", "0")]).unwrap().worker.planner, None);
    // As long as nothing is planned by it, readers may accept any age.
    assert!(read(&[("SNAPSHOT_MAX_AGE", "86400"), ("PLANNED_AT_LEAST_EVERY", "1h")]).is_ok());
}

#[test]
fn planner_defaults_are_those_of_the_rules() {
    let planner = read(&[("PLANNED_CALLS_PER_SEC", "10")]).unwrap().worker.planner.unwrap();
    let teaching = Teaching { recorded_percent: 1, ..Teaching::default() };
    assert_eq!(planner, PlannerConfig { calls_per_second: 10, teaching });
}

#[test]
fn every_planner_setting_is_read() {
    let worker = read(&[
        ("PLANNED_CALLS_PER_SEC", "10000"),
        ("SNAPSHOT_MAX_AGE", "300"),
        ("PLANNED_AT_LEAST_EVERY", "36 h"),
        ("PLANNED_TRIAL", " age : 20 "),
        ("PLANNED_RECORD", "0"),
        ("FOLLOWUP_PLAYERS_PER_CLAN", "7"),
    ])
    .unwrap()
    .worker;
    let policy = Policy { max_age: Duration::from_secs(300), longest: Duration::from_secs(36 * 3600) };
    let trial = Some(Trial { strategy: Strategy::Age, percent: 20 });
    let teaching = Teaching { policy, trial, recorded_percent: 0 };
    assert_eq!(worker.planner, Some(PlannerConfig { calls_per_second: 10_000, teaching }));
    assert_eq!(worker.follow_ups.players_per_clan, 0, "the planner chooses members");
}

#[test]
fn planner_problems_are_found_while_off() {
    insta::assert_snapshot!(
        [
            problem(&[("PLANNED_CALLS_PER_SEC", "all")]),
            problem(&[("PLANNED_CALLS_PER_SEC", "10001")]),
            problem(&[("SNAPSHOT_MAX_AGE", "10m")]),
            problem(&[("SNAPSHOT_MAX_AGE", "0")]),
            problem(&[("PLANNED_AT_LEAST_EVERY", "59m")]),
            problem(&[("PLANNED_AT_LEAST_EVERY", "31d")]),
            problem(&[("PLANNED_AT_LEAST_EVERY", "daily")]),
            problem(&[("PLANNED_TRIAL", "tiers")]),
            problem(&[("PLANNED_TRIAL", "tiers:0")]),
            problem(&[("PLANNED_TRIAL", "tiers:100")]),
            problem(&[("PLANNED_TRIAL", "best:50")]),
            problem(&[("PLANNED_RECORD", "101")]),
            problem(&[("PLANNED_CALLS_PER_SEC", "1"), ("SNAPSHOT_MAX_AGE", "3600"), ("PLANNED_AT_LEAST_EVERY", "1h")]),
            problem(&[("FOLLOWUP_PLAYERS_PER_CLAN", "51"), ("PLANNED_CALLS_PER_SEC", "1")]),
        ]
        .join("\n"),
        @r"
    PLANNED_CALLS_PER_SEC is `all`: expected a whole number from 0 to 10000
    PLANNED_CALLS_PER_SEC is `10001`: expected a whole number from 0 to 10000
    SNAPSHOT_MAX_AGE is `10m`: expected a whole number from 60 to 86400
    SNAPSHOT_MAX_AGE is `0`: expected a whole number from 60 to 86400
    PLANNED_AT_LEAST_EVERY is `59m`: expected a time from 1h to 30d, such as 12h or 1d
    PLANNED_AT_LEAST_EVERY is `31d`: expected a time from 1h to 30d, such as 12h or 1d
    PLANNED_AT_LEAST_EVERY is `daily`: expected a time from 1h to 30d, such as 12h or 1d
    PLANNED_TRIAL is `tiers`: expected a strategy (tiers, age or value) and its share of the clans in per cent (1 to 99), as in tiers:50
    PLANNED_TRIAL is `tiers:0`: expected a strategy (tiers, age or value) and its share of the clans in per cent (1 to 99), as in tiers:50
    PLANNED_TRIAL is `tiers:100`: expected a strategy (tiers, age or value) and its share of the clans in per cent (1 to 99), as in tiers:50
    PLANNED_TRIAL is `best:50`: expected a strategy (tiers, age or value) and its share of the clans in per cent (1 to 99), as in tiers:50
    PLANNED_RECORD is `101`: expected a whole number from 0 to 100
    PLANNED_AT_LEAST_EVERY is `1h`: expected a time longer than SNAPSHOT_MAX_AGE (3600 s)
    FOLLOWUP_PLAYERS_PER_CLAN is `51`: expected a whole number from 0 to 50
    "
    );
}

#[test]
fn effective_configuration_shows_the_planner() {
    let config = read(&[
        ("PLANNED_CALLS_PER_SEC", "10"),
        ("PLANNED_AT_LEAST_EVERY", "90m"),
        ("PLANNED_TRIAL", "tiers:50"),
        ("FOLLOWUP_PLAYERS_PER_CLAN", "7"),
    ]);
    let shown = config.unwrap().effective().to_string();
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains("PLAN") || line.contains("_PER_CLAN")).collect();
    assert_eq!(
        lines,
        [
            "FOLLOWUP_PLAYERS_PER_CLAN = not used",
            "PLANNED_CALLS_PER_SEC = 10",
            "PLANNED_AT_LEAST_EVERY = 90m",
            "PLANNED_TRIAL = tiers:50",
            "PLANNED_RECORD = 1",
        ]
    );
}

#[test]
fn event_stream_needs_a_key_of_its_own() {
    let events = read(&[("REFRESH_EVENTS_STREAM", "refresh_events")]).unwrap().worker.events.unwrap();
    assert_eq!((events.stream.as_str(), events.max_len), ("refresh_events", 100_000));
    assert_eq!(read(&[]).unwrap().worker.events, None);
    for name in ["refresh_queue", "{refresh}:ready", "two words"] {
        assert!(problem(&[("REFRESH_EVENTS_STREAM", name)]).contains("a key of its own"), "{name}");
    }
}

#[test]
fn cache_key_template_needs_the_tag() {
    let templates = |text| read(&[("CACHE_KEY_TEMPLATES", text)]).unwrap().worker.cache_key_templates;
    assert_eq!(templates(" a:{tag} , b/{kind}/{tag},"), ["a:{tag}", "b/{kind}/{tag}"]);
    for text in ["snapshot:clan", "a:{tag},snapshot:{clan}", "{x}:{tag}", "a {tag}"] {
        assert!(problem(&[("CACHE_KEY_TEMPLATES", text)]).contains("each with {tag}"), "{text}");
    }
}

/// Two deployments, two environments or two regions that share an account of the portal never touch each other's keys.
#[test]
fn key_name_is_of_one_deployment() {
    let account = [("COC_EMAIL", "one@example.com"), ("COC_PASSWORD", "secret")];
    let name = |more: &[(&'static str, &'static str)]| {
        let config = read(&[&account, more].concat())?;
        Ok::<_, ConfigErrors>(config.api.portal.unwrap().key_name)
    };
    assert_eq!(name(&[]).unwrap(), "refresh-worker-development");
    let all = [("DEPLOYMENT", "second"), ("ENVIRONMENT", "staging"), ("AWS_REGION", "eu-west-1")];
    assert_eq!(name(&all).unwrap(), "second-staging-eu-west-1");
    assert_eq!(name(&[("AWS_REGION", "eu-west-1"), ("COC_KEY_NAME", "mine")]).unwrap(), "mine");
    let long = "x".repeat(60).leak();
    assert!(name(&[("DEPLOYMENT", long)]).unwrap_err().to_string().contains("COC_KEY_NAME"));
    assert!(read(&[("DEPLOYMENT", long)]).is_ok(), "no account, no name");
}

#[test]
fn planner_beside_maintenance_needs_connections() {
    let on = ("PLANNED_CALLS_PER_SEC", "10");
    for beside in [("REFRESH_VIEWS", "v"), ("STATS_FUNCTIONS", "f"), ("SNAPSHOT_RETENTION_DAYS", "30")] {
        let problem = read(&[on, beside, ("DB_POOL_MAX", "3")]).unwrap_err().to_string();
        assert!(problem.contains("DB_POOL_MAX") && problem.contains("at least 4"), "{problem}");
        assert!(read(&[on, beside, ("DB_POOL_MAX", "4")]).is_ok());
        assert!(read(&[beside, ("DB_POOL_MAX", "3")]).is_ok(), "the planner is off");
    }
    assert!(read(&[on, ("DB_POOL_MAX", "1")]).is_ok(), "nothing goes on beside the looks");
}
