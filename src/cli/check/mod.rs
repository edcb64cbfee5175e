//! `check`: checks the configuration, the servers and the keys, and reports every problem at once.

mod after;
pub(super) mod api;
mod findings;
mod redis;

use std::time::Duration;

use clap::Args;

use self::findings::Findings;
use super::{Exit, Shared, text};
use crate::{
    app,
    config::{
        AfterConfig, ApiConfig, Config, DatabaseConfig, PlannerConfig, RedisConfig, Role, WorkerConfig, env,
        env::process_var,
    },
    store::{Store, postgres::Extent},
    worker::{deadline::MIN_RUN_TIME, report::StopReason},
};

const CONFIGURATION: &str = "configuration";
const DATABASE: &str = "PostgreSQL";

/// Checks the configuration, servers and keys; lists every problem with its fix
///
/// Checks every setting. Checks Redis: connection, rights, version, eviction, database number, clock. Checks PostgreSQL:
/// connection, tables, rights, row level security, and a write that is rolled back. Tests every API key with one call, within
/// its rate and only while no run uses it, and looks into the accounts of the developer portal. Checks, if they are
/// configured, the views, statistics functions, the event stream, and a connection to the application whose caches are
/// invalidated. Refreshes nothing, and creates or revokes no key. The exit code is 1 when there is a problem.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker check
  refresh-worker check --offline        checks only the settings
  refresh-worker check --json")]
pub struct CheckArgs {
    /// Check only the settings; connect to nothing
    #[arg(long)]
    offline: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: CheckArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let mut findings = Findings::default();
    check_settings(&mut findings);
    // Settings first: their problems explain most of the others.
    if !args.offline {
        check_servers(&mut findings).await;
    }
    let output = if args.json {
        serde_json::to_string_pretty(&findings.to_json())? + "\n"
    } else {
        findings.render(shared.style())
    };
    text::print(&output)?;
    Ok(findings.exit())
}

fn check_settings(findings: &mut Findings) {
    match Config::from_process_env(Role::Refresh) {
        Ok(config) => {
            let settings = config.effective().settings();
            let width = settings.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let lines: Vec<String> = settings.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
            findings.fine(CONFIGURATION, format!("every setting is valid:\n{}", lines.join("\n")));
            findings.fine(CONFIGURATION, needed_timeout(config.worker.deadline_buffer));
            if let Some(planner) = config.worker.planner {
                check_planned_rate(findings, planner.calls_per_second, &config.api);
            }
        }
        Err(errors) => {
            for problem in errors.problems {
                findings.problem(CONFIGURATION, problem.to_string(), "");
            }
        }
    }
    for warning in env::warnings(&process_var) {
        findings.warning(CONFIGURATION, warning, "");
    }
    for exposure in env::exposures(&process_var) {
        findings.warning(CONFIGURATION, exposure.what, exposure.fix);
    }
}

/// Compares the planned calls with the rate of all keys. A run has a share of both, by its keys.
fn check_planned_rate(findings: &mut Findings, planned: u32, api: &ApiConfig) {
    let of_accounts = api.portal.as_ref().map_or(0, |portal| portal.accounts.len() * portal.key_count);
    let keys = api.tokens.len() + of_accounts;
    let keys = keys as u64;
    let rate = keys * u64::from(api.reqs_per_sec);
    let keys = text::counted(keys, "key", "keys");
    let planned = match planned {
        // Whoever wants every spare call need not know the rate.
        PlannerConfig::EVERY_CALL => rate,
        planned => u64::from(planned),
    };
    if planned > rate {
        findings.warning(
            CONFIGURATION,
            format!(
                "PLANNED_CALLS_PER_SEC is {planned}, and the rate limits all runs together to {rate} calls a second ({keys}, COC_REQS_PER_SEC={})",
                api.reqs_per_sec
            ),
            format!("set at most {rate}, or {} for every spare call, or add keys", PlannerConfig::EVERY_CALL),
        );
    } else {
        findings.fine(
            CONFIGURATION,
            format!(
                "the planner is on: runs go on until their time is up, with up to {planned} planned calls a second of {rate}, all runs together ({keys})"
            ),
        );
    }
}

/// The shortest timeout of the Lambda function. It is not in the environment, so only a run can compare the two.
fn needed_timeout(buffer: Duration) -> String {
    format!(
        "in AWS Lambda the timeout of the function must be longer than {:.2} s (AWS presets 3 s), since DEADLINE_BUFFER_MS={} \
         of it are kept free",
        (buffer + MIN_RUN_TIME).as_secs_f64(),
        buffer.as_millis()
    )
}

/// Checks each server whose own settings are valid, whatever else is wrong.
async fn check_servers(findings: &mut Findings) {
    let queue = match RedisConfig::read(&process_var) {
        Ok(config) => redis::check(findings, &config).await,
        Err(_) => None,
    };
    // Invalid settings are reported above; the servers are checked without them.
    let after = AfterConfig::read(&process_var).unwrap_or_default();
    let worker = WorkerConfig::read(&process_var).ok();
    if let Ok(config) = DatabaseConfig::read(&process_var) {
        // Retention and the planner need rights that runs without them do not.
        let extent = Extent {
            retention: after.retention_days.is_some(),
            planner: worker.as_ref().is_some_and(|worker| worker.planner.is_some()),
        };
        check_database(findings, &config, &after, extent).await;
    }
    if let Ok(config) = ApiConfig::read(&process_var) {
        api::check(findings, &config, queue.as_ref()).await;
    }
    let events = worker.and_then(|worker| worker.events);
    if let (Some(events), Some(queue)) = (events, &queue) {
        after::check_stream(findings, &events, queue).await;
    }
    after::check_application(findings, &after).await;
}

async fn check_database(findings: &mut Findings, config: &DatabaseConfig, after: &AfterConfig, extent: Extent) {
    let store = match app::store(config) {
        Ok(store) => store,
        Err(error) => return findings.problem(DATABASE, format!("{error:#}"), "set DATABASE_URL"),
    };
    let mut problems = store.check_rights_with(extent).await;
    let is_fit = problems.iter().all(|problem| !problem.is_certain);
    if is_fit {
        findings.fine(DATABASE, format!("responds at {}; tables and rights are complete", store.server()));
    }
    if is_fit {
        check_last_run(findings, &store).await;
        problems.extend(store.far_ids().await.unwrap_or_default());
    }
    for problem in problems {
        // A doubt may be wrong, so it must not fail a deployment.
        if problem.is_certain {
            findings.problem(DATABASE, problem.what, problem.fix);
        } else {
            findings.warning(DATABASE, problem.what, problem.fix);
        }
    }
    after::check_database(findings, after, &store, config.max_connections).await;
}

/// Checks the last run, which is the only place where a timeout that is too short shows.
async fn check_last_run(findings: &mut Findings, store: &impl Store) {
    let Ok(Some(last)) = store.last_run().await else { return };
    if last.stopped_because == StopReason::TimeoutTooShort.as_str() {
        let failure = last.error.unwrap_or_default();
        findings.problem(
            CONFIGURATION,
            format!("the last run ({}) had no time to work: {failure}", last.started),
            "raise the timeout of the Lambda function (300 s is usual), or lower DEADLINE_BUFFER_MS; the next run shows \
             whether that is enough",
        );
    }
}
