//! `drain`: one run, configured by the environment.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{Exit, Shared, connect, interrupt::Interrupts, progress::Shown, summary, text};
use crate::{
    app,
    config::read_span,
    model::Priority,
    queue::Queue,
    worker::{RunOptions, Runs as _, Unwatched},
};

/// Works through the queue once, as an invocation in AWS Lambda does
///
/// Moves new requests from the mailbox into the queue, leases them by priority, calls the API within its rate limit and
/// stores the responses. It ends when the queue is empty or when a limit given here is reached. Ctrl-C ends it
/// gracefully: unfinished requests return to the queue. Needs REDIS_URL, DATABASE_URL and COC_API_TOKEN. COC_BASE_URL
/// points it at another API, such as `refresh-worker sim`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker drain
  refresh-worker drain --max-requests 100 --priority critical,high
  refresh-worker drain --max-runtime 90s --json

Exit codes: 0 the run succeeded, 1 it failed, 2 wrong usage or configuration.")]
pub struct DrainArgs {
    /// End after this many requests
    #[arg(long, value_name = "COUNT")]
    max_requests: Option<u64>,
    /// End after this time: 90, 90s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = parse_runtime)]
    max_runtime: Option<Duration>,
    /// Only these priorities, separated by commas: critical, high, medium, low
    #[arg(long, short, value_name = "PRIORITY", value_delimiter = ',')]
    priority: Vec<Priority>,
    /// Write the report of the run as JSON, without a summary and progress
    #[arg(long)]
    json: bool,
}

pub async fn run(args: DrainArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let config = connect::config()?;
    // Before the run begins, so that an early Ctrl-C is not lost.
    let mut interrupts = Interrupts::listen()?;
    let worker = app::from_config(&config)?;
    // A program reads standard error, too, so it gets no progress.
    let report = if args.json {
        interrupts.until_done(Box::pin(worker.run(args.options(), &Unwatched)), || worker.stop.ask()).await
    } else {
        let total = args.total(worker.queue.as_ref()).await;
        let shown = Shown::new(Arc::clone(&worker.clock), total);
        let report = interrupts.until_done(Box::pin(worker.run(args.options(), &shown)), || worker.stop.ask()).await;
        shown.finish();
        report
    };
    let output = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        summary::render(&report, shared.style())
    };
    text::print(&output)?;
    Ok(if report.stopped_because.is_failure() { Exit::Failure } else { Exit::Success })
}

impl DrainArgs {
    fn options(&self) -> RunOptions {
        RunOptions {
            max_requests: self.max_requests,
            max_runtime: self.max_runtime,
            priority_filter: self.priority.clone(),
            ..RunOptions::default()
        }
    }

    /// The number of requests to do, if it is known. A queue that does not respond is left to the run to report.
    async fn total(&self, queue: &impl Queue) -> Option<u64> {
        // The server's time decides what is ready, not this machine's.
        let now = queue.time().await.ok()?;
        let stats = queue.stats(now).await.ok()?;
        let waiting = if self.priority.is_empty() {
            stats.queue_size()
        } else {
            // The priority of mail is not known before it is admitted, so any number would be a guess.
            if stats.mailbox > 0 {
                return None;
            }
            self.priority.iter().filter_map(|priority| stats.ready_by_priority.get(priority)).sum()
        };
        Some(self.max_requests.map_or(waiting, |most| most.min(waiting)))
    }
}

/// Reads a time span above zero. A number without a unit is seconds.
fn parse_runtime(text: &str) -> Result<Duration, String> {
    // Plain numbers are what AWS and cron users expect.
    let seconds = text.parse().ok().map(Duration::from_secs);
    let span = seconds.or_else(|| read_span(text)).filter(|span| !span.is_zero());
    span.ok_or_else(|| "expected a time above zero, such as 90, 90s, 5m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_may_lack_a_unit() {
        let read: Vec<u64> = ["90", "90s", "5m", "1h"].map(|text| parse_runtime(text).unwrap().as_secs()).to_vec();
        assert_eq!(read, [90, 90, 300, 3600]);
        for wrong in ["", "s", "0", "0s", "-1", "1y", "99999999999999999999"] {
            assert!(parse_runtime(wrong).is_err(), "{wrong:?}");
        }
    }
}
