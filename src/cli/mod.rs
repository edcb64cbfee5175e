//! The command line: one file a command, each with its arguments and what it does.
//!
//! Parses, dispatches, prints. The work itself is done by the rooms that the Lambda function uses too; [`crate::app`]
//! builds them. `text` and `summary` make text out of values, `progress` follows a run.
//!
//! Exit codes: 0 done, 1 the command failed or found something wrong, 2 wrong usage or configuration.
#![expect(clippy::doc_markdown, reason = "the comments on arguments are the help, read in a terminal without Markdown")]

mod archive;
mod backup;
mod check;
mod connect;
mod dead;
#[cfg(feature = "embedded")]
mod demo;
mod drain;
mod enqueue;
mod explain;
mod interrupt;
mod jobs;
mod keys;
mod migrate;
mod progress;
mod queue;
mod repair;
mod report;
mod restore;
mod retention;
#[cfg(feature = "embedded")]
mod sim;
mod summary;
mod text;
mod transfer;
mod views;

use std::{ffi::OsString, io, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use self::text::Style;
use crate::{
    config::{
        ConfigErrors, TelemetryConfig,
        env::{environment_var, process_var, put_trust_in_force},
        secrets::{self, Secrets},
    },
    telemetry,
};

const EXAMPLES: &str = "\
Start here:
  refresh-worker demo                       watch the whole job, without any server
  refresh-worker check                      is this configuration fit to run?
  refresh-worker enqueue clan:#2PP --priority high
  refresh-worker drain --max-requests 100

Settings come from the environment: REDIS_URL, DATABASE_URL, COC_API_TOKEN ... (README.md lists all).
Exit codes: 0 done, 1 the command failed or found something wrong, 2 wrong usage or configuration.";

/// Drains a Redis queue of refresh requests, asks the Clash of Clans API within its rate limit, and keeps PostgreSQL
/// fresh.
///
/// In AWS Lambda this binary answers events. Anywhere else it is this command line.
#[derive(Debug, Parser)]
#[command(name = "refresh-worker", version, arg_required_else_help = true, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
struct Shared {
    /// Also write the worker's log to standard error, from this level on; LOG_LEVEL does the same
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Everywhere")]
    log_level: Option<String>,
    /// Write without colours; NO_COLOR does the same
    #[arg(long, global = true, help_heading = "Everywhere")]
    no_color: bool,
}

impl Shared {
    fn no_colour(&self) -> bool {
        let set = |name: &str| process_var(name).filter(|value| !value.is_empty());
        self.no_color || set("NO_COLOR").is_some() || set("TERM").is_some_and(|terminal| terminal == "dumb")
    }

    /// People at a terminal see the log only when they ask for it: what matters of it is in the summary.
    fn start_log(&self) -> Result<(), ConfigErrors> {
        let asked = self.log_level.clone().or_else(|| process_var("LOG_LEVEL"));
        let Some(level) = asked.filter(|level| !level.trim().is_empty()) else {
            return Ok(());
        };
        let vars = |name: &str| if name == "LOG_LEVEL" { Some(level.clone()) } else { process_var(name) };
        telemetry::init_command_line(&TelemetryConfig::read(&vars)?);
        Ok(())
    }

    fn style(&self) -> Style {
        Style::of_stdout(self.no_colour())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "embedded")]
    Demo(demo::DemoArgs),
    Drain(drain::DrainArgs),
    Enqueue(enqueue::EnqueueArgs),
    Queue(queue::QueueArgs),
    Dead(dead::DeadArgs),
    Migrate(migrate::MigrateArgs),
    Keys(keys::KeysArgs),
    Report(report::ReportArgs),
    Jobs(jobs::JobsArgs),
    Views(views::ViewsArgs),
    Retention(retention::RetentionArgs),
    Check(check::CheckArgs),
    #[cfg(feature = "embedded")]
    Sim(sim::SimArgs),
}

impl Command {
    /// The demo and the simulator talk to nobody.
    const fn needs_secrets(&self) -> bool {
        #[cfg(feature = "embedded")]
        if matches!(self, Self::Demo(_) | Self::Sim(_)) {
            return false;
        }
        true
    }
}

/// How a command ended that did what it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Well,
    /// It worked, and what it found or did is not well: a failed run, a problem found by `check`.
    Badly,
}

/// The user asked for something that cannot be; nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// Runs the command line with these arguments (the first is the program's name).
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let no_colour = cli.shared.no_colour();
    match run(cli) {
        Ok(Ending::Well) => ExitCode::SUCCESS,
        Ok(Ending::Badly) => ExitCode::FAILURE,
        Err(error) => fail(&error, Style::of_stderr(no_colour)),
    }
}

fn run(cli: Cli) -> anyhow::Result<Ending> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> anyhow::Result<Ending> {
    let shared = cli.shared;
    shared.start_log()?;
    if cli.command.needs_secrets() && secrets::are_elsewhere(&environment_var) {
        Secrets::read(&environment_var).await.put_in_force();
    }
    put_trust_in_force(&process_var);
    match cli.command {
        #[cfg(feature = "embedded")]
        Command::Demo(args) => demo::run(args, &shared).await,
        Command::Drain(args) => drain::run(args, &shared).await,
        Command::Enqueue(args) => enqueue::run(args).await,
        Command::Queue(args) => queue::run(args, &shared).await,
        Command::Dead(args) => dead::run(args, &shared).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Keys(args) => Box::pin(keys::run(args, &shared)).await,
        Command::Report(args) => report::run(args, &shared).await,
        Command::Jobs(args) => jobs::run(args, &shared).await,
        Command::Views(args) => views::run(args, &shared).await,
        Command::Retention(args) => retention::run(args, &shared).await,
        Command::Check(args) => check::run(args, &shared).await,
        #[cfg(feature = "embedded")]
        Command::Sim(args) => sim::run(args, &shared).await,
    }
}

/// Says what went wrong on standard error, each cause once.
fn fail(error: &anyhow::Error, style: Style) -> ExitCode {
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    text::print_error(&format!("{} {}", style.bad("error:"), told(error)));
    if error.is::<Misuse>() || error.is::<ConfigErrors>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The chain of causes as one sentence; a cause that its parent's text repeats already is left out.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.contains(&cause) {
            continue;
        }
        if !told.is_empty() {
            told.push_str(": ");
        }
        told.push_str(&cause);
    }
    told
}

/// `queue export | head` closes our output early, and that is fine.
fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_told_with_each_cause_once() {
        let error = anyhow::anyhow!("connection refused").context("failed to read the queue");
        assert_eq!(told(&error), "failed to read the queue: connection refused");
        let repeated = anyhow::anyhow!("disk full").context("failed to write: disk full");
        assert_eq!(told(&repeated), "failed to write: disk full");
    }
}
