//! `check`: is this configuration fit to run? Everything is looked at, and everything that is wrong is told at once.

mod after;
pub(super) mod api;
mod findings;
mod redis;

use std::time::Duration;

use clap::Args;

use self::findings::Findings;
use super::{Ending, Shared, text};
use crate::{
    app,
    config::{AfterConfig, ApiConfig, Config, DatabaseConfig, RedisConfig, Role, WorkerConfig, env, env::process_var},
    store::{Store, postgres::Extent},
    worker::{deadline::MIN_RUN_TIME, report::StopReason},
};

const CONFIGURATION: &str = "configuration";
const DATABASE: &str = "PostgreSQL";

/// Tells whether this configuration is fit to run, and what would do where it is not
///
/// Looks at every setting, Redis (reachable, writable, version, eviction, database number), PostgreSQL (reachable, tables,
/// rights, row level security, and a write that is taken back), the accounts of the developer portal, every API key (one call
/// each, within its rate, and not while a run uses it), the clocks, and what follows commits and runs: views, statistics
/// functions, the stream of events, a connection to the application whose caches are told. Nothing is refreshed or
/// invalidated, and no key is made or revoked. Everything that is wrong is told at once. Exit code 1 when something is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker check
  refresh-worker check --offline        settings only; nothing is connected
  refresh-worker check --json")]
pub struct CheckArgs {
    /// Look at the settings only; connect to nothing
    #[arg(long)]
    offline: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: CheckArgs, shared: &Shared) -> anyhow::Result<Ending> {
    let mut findings = Findings::default();
    look_at_settings(&mut findings);
    if !args.offline {
        look_at_servers(&mut findings).await;
    }
    let told = if args.json {
        serde_json::to_string_pretty(&findings.to_json())? + "\n"
    } else {
        findings.render(shared.style())
    };
    text::print(&told)?;
    Ok(findings.ending())
}

fn look_at_settings(findings: &mut Findings) {
    match Config::from_process_env(Role::Refresh) {
        Ok(config) => {
            let settings = config.effective().settings();
            let width = settings.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let lines: Vec<String> = settings.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
            findings.fine(CONFIGURATION, format!("every setting can be used:\n{}", lines.join("\n")));
            findings.fine(CONFIGURATION, needed_timeout(config.worker.deadline_buffer));
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
        findings.warning(CONFIGURATION, exposure.what, exposure.remedy);
    }
}

/// The function's timeout is not in its environment, so that nobody but a run can compare the two.
fn needed_timeout(buffer: Duration) -> String {
    format!(
        "in AWS Lambda the timeout of the function has to be longer than {:.2} s (its preset is 3 s): DEADLINE_BUFFER_MS={} \
         of it are kept free",
        (buffer + MIN_RUN_TIME).as_secs_f64(),
        buffer.as_millis()
    )
}

/// Each server whose own settings can be used is looked at, whatever else is wrong.
async fn look_at_servers(findings: &mut Findings) {
    let queue = match RedisConfig::read(&process_var) {
        Ok(config) => redis::look_at(findings, &config).await,
        Err(_) => None,
    };
    let after = AfterConfig::read(&process_var).unwrap_or_default();
    if let Ok(config) = DatabaseConfig::read(&process_var) {
        look_at_database(findings, &config, &after).await;
    }
    if let Ok(config) = ApiConfig::read(&process_var) {
        api::look_at(findings, &config, queue.as_ref()).await;
    }
    let events = WorkerConfig::read(&process_var).ok().and_then(|worker| worker.events);
    if let (Some(events), Some(queue)) = (events, &queue) {
        after::look_at_stream(findings, &events, queue).await;
    }
    after::look_at_application(findings, &after).await;
}

async fn look_at_database(findings: &mut Findings, config: &DatabaseConfig, after: &AfterConfig) {
    let store = match app::store(config) {
        Ok(store) => store,
        Err(error) => return findings.problem(DATABASE, format!("{error:#}"), "set DATABASE_URL"),
    };
    let extent = if after.retention_days.is_some() { Extent::RunsAndRetention } else { Extent::Runs };
    let mut problems = store.check_rights_with(extent).await;
    let is_fit = problems.iter().all(|problem| !problem.is_certain);
    if is_fit {
        findings.fine(DATABASE, format!("answers at {}; tables and rights are in place", store.server()));
    }
    if is_fit {
        look_at_last_run(findings, &store).await;
        problems.extend(store.far_ids().await.unwrap_or_default());
    }
    for problem in problems {
        if problem.is_certain {
            findings.problem(DATABASE, problem.what, problem.remedy);
        } else {
            findings.warning(DATABASE, problem.what, problem.remedy);
        }
    }
    after::look_at_database(findings, after, &store, config.max_connections).await;
}

/// A timeout that is too short shows in the last run only.
async fn look_at_last_run(findings: &mut Findings, store: &impl Store) {
    let Ok(Some(last)) = store.last_run().await else { return };
    if last.stopped_because == StopReason::TimeoutTooShort.as_str() {
        let failure = last.error.unwrap_or_default();
        findings.problem(
            CONFIGURATION,
            format!("the last run ({}) could not do anything: {failure}", last.started),
            "raise the timeout of the Lambda function (300 s is usual), or lower DEADLINE_BUFFER_MS; the next run shows \
             whether it is enough",
        );
    }
}
