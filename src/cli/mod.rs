//! The command line: one file per command, with its arguments and its help.
//!
//! Parses, dispatches and prints. The work is done by the rooms that the Lambda function uses, too; [`crate::app`] builds
//! them. `text` and `summary` render values, `progress` follows a run.
//!
//! Exit codes: 0 done, 1 the command failed or found a problem, 2 wrong usage or configuration.
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
mod recorded;
mod repair;
mod replay;
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
  refresh-worker demo                       shows the whole job; needs no server
  refresh-worker check                      checks the configuration, servers and keys
  refresh-worker enqueue clan:#2PP          requests a refresh
  refresh-worker drain --max-requests 100   works through the queue once

Settings come from the environment: REDIS_URL, DATABASE_URL, COC_API_TOKEN ... (docs/configuration.md lists all).
Exit codes: 0 done, 1 the command failed or found a problem, 2 wrong usage or configuration.";

/// Keeps Clash of Clans data in PostgreSQL fresh: takes refresh requests from a Redis queue, fetches each object from
/// the API within its rate limit, and stores it.
///
/// As an AWS Lambda function this binary handles events. Anywhere else it is this command line.
#[derive(Debug, Parser)]
#[command(name = "refresh-worker", version, arg_required_else_help = true, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// The options of every command.
#[derive(Clone, Debug, Args)]
struct Shared {
    /// Log to stderr at this level and above [env: LOG_LEVEL]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    log_level: Option<String>,
    /// Write without colours [env: NO_COLOR]
    #[arg(long, global = true, help_heading = "Global options")]
    no_color: bool,
}

impl Shared {
    fn no_colour(&self) -> bool {
        // An empty NO_COLOR means nothing, by the convention of no-color.org.
        let set = |name: &str| process_var(name).filter(|value| !value.is_empty());
        self.no_color || set("NO_COLOR").is_some() || set("TERM").is_some_and(|terminal| terminal == "dumb")
    }

    /// Starts the log if a level is given. Without one there is none: the summary has what matters.
    fn start_log(&self) -> Result<(), ConfigErrors> {
        let level = self.log_level.clone().or_else(|| process_var("LOG_LEVEL"));
        let Some(level) = level.filter(|level| !level.trim().is_empty()) else {
            return Ok(());
        };
        // The option overrides the variable, so the reader gets it under the name of the variable.
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
    Replay(replay::ReplayArgs),
    Jobs(jobs::JobsArgs),
    Views(views::ViewsArgs),
    Retention(retention::RetentionArgs),
    Check(check::CheckArgs),
    #[cfg(feature = "embedded")]
    Sim(sim::SimArgs),
}

impl Command {
    /// True unless the command connects to no server of the user's, as the demo and the simulator.
    const fn needs_secrets(&self) -> bool {
        #[cfg(feature = "embedded")]
        if matches!(self, Self::Demo(_) | Self::Sim(_)) {
            return false;
        }
        true
    }
}

/// The result of a command that ran to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Success,
    /// The command worked, but its result is bad: a failed run, a problem found by `check`.
    Failure,
}

/// A request of the user that cannot be carried out. Nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// Runs the command line with these arguments, of which the first is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed output leaves only the exit code to report with.
            let _ = error.print();
            // clap exits with 0 for --help and 2 for wrong usage.
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let no_colour = cli.shared.no_colour();
    match run(cli) {
        Ok(Exit::Success) => ExitCode::SUCCESS,
        Ok(Exit::Failure) => ExitCode::FAILURE,
        Err(error) => fail(&error, Style::of_stderr(no_colour)),
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    // As in Lambda: one thread, so that commands behave as the function does.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let shared = cli.shared;
    shared.start_log()?;
    // Before any configuration is read, since secrets stand in for variables.
    if cli.command.needs_secrets() && secrets::are_elsewhere(&environment_var) {
        Secrets::read(&environment_var).await.put_in_force();
    }
    // After the secrets, which may contain certificates.
    put_trust_in_force(&process_var);
    match cli.command {
        #[cfg(feature = "embedded")]
        Command::Demo(args) => demo::run(args, &shared).await,
        Command::Drain(args) => drain::run(args, &shared).await,
        Command::Enqueue(args) => enqueue::run(args).await,
        Command::Queue(args) => queue::run(args, &shared).await,
        Command::Dead(args) => dead::run(args, &shared).await,
        Command::Migrate(args) => migrate::run(args).await,
        // Boxed, since its future is large and would be a part of every command.
        Command::Keys(args) => Box::pin(keys::run(args, &shared)).await,
        Command::Report(args) => report::run(args, &shared).await,
        Command::Replay(args) => replay::run(args, &shared).await,
        Command::Jobs(args) => jobs::run(args, &shared).await,
        Command::Views(args) => views::run(args, &shared).await,
        Command::Retention(args) => retention::run(args, &shared).await,
        Command::Check(args) => check::run(args, &shared).await,
        #[cfg(feature = "embedded")]
        Command::Sim(args) => sim::run(args, &shared).await,
    }
}

/// Prints the error with its causes and returns the exit code for it.
fn fail(error: &anyhow::Error, style: Style) -> ExitCode {
    // `queue export | head` closes our output early, which is not an error.
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    text::print_error(&format!("{} {}", style.bad("error:"), sentence(error)));
    // A script can tell a mistake in its call from a failure of a server.
    if error.is::<Misuse>() || error.is::<ConfigErrors>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The error and its causes in one sentence. A cause that the text already contains is left out.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors of libraries repeat their source in their own text.
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn error_names_each_cause_once() {
        let error = anyhow::anyhow!("connection refused").context("cannot read the queue");
        assert_eq!(sentence(&error), "cannot read the queue: connection refused");
        let repeated = anyhow::anyhow!("disk full").context("cannot write: disk full");
        assert_eq!(sentence(&repeated), "cannot write: disk full");
    }
}
