//! `drain`: one run, by the environment.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{Ending, Shared, connect, interrupt::Interrupts, progress::Shown, summary, text};
use crate::{
    app,
    model::Priority,
    queue::Queue,
    worker::{RunOptions, Runs as _, Unwatched},
};

/// Drains the queue once, as an invocation in Lambda does
///
/// Admits the mailbox, leases requests by priority, calls the API within its rate, stores the answers, and ends when
/// the queue is empty or at the first limit given here. Ctrl-C ends it gracefully: what was not
/// done goes back into the queue.
/// Needs REDIS_URL, DATABASE_URL and COC_API_TOKEN; COC_BASE_URL points it at another server, such as
/// `refresh-worker sim`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker drain
  refresh-worker drain --max-requests 100 --priority critical,high
  refresh-worker drain --max-runtime 90s --json

Exit codes: 0 the run went well, 1 it failed, 2 wrong usage or configuration.")]
pub struct DrainArgs {
    /// End after this many requests
    #[arg(long, value_name = "COUNT")]
    max_requests: Option<u64>,
    /// End after this time: 90, 90s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    max_runtime: Option<Duration>,
    /// Only these classes, separated by commas: critical, high, medium, low
    #[arg(long, short, value_name = "CLASS", value_delimiter = ',')]
    priority: Vec<Priority>,
    /// Write the report of the run as JSON instead of a summary, and no progress
    #[arg(long)]
    json: bool,
}

pub async fn run(args: DrainArgs, shared: &Shared) -> anyhow::Result<Ending> {
    let config = connect::config()?;
    let mut interrupts = Interrupts::listen()?;
    let worker = app::from_config(&config)?;
    let report = if args.json {
        interrupts.until_done(Box::pin(worker.run(args.options(), &Unwatched)), || worker.stop.ask()).await
    } else {
        let total = args.total(worker.queue.as_ref()).await;
        let shown = Shown::new(Arc::clone(&worker.clock), total);
        let report = interrupts.until_done(Box::pin(worker.run(args.options(), &shown)), || worker.stop.ask()).await;
        shown.finish();
        report
    };
    let told = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        summary::render(&report, shared.style())
    };
    text::print(&told)?;
    Ok(if report.stopped_because.is_failure() { Ending::Badly } else { Ending::Well })
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

    /// How much there is to do, as far as that can be told. A queue that does not answer is the run's to report.
    async fn total(&self, queue: &impl Queue) -> Option<u64> {
        let now = queue.time().await.ok()?;
        let stats = queue.stats(now).await.ok()?;
        let waiting = if self.priority.is_empty() {
            stats.queue_size()
        } else {
            // Mail of which the class is not known yet makes any number a guess.
            if stats.mailbox > 0 {
                return None;
            }
            self.priority.iter().filter_map(|class| stats.ready_by_priority.get(class)).sum()
        };
        Some(self.max_requests.map_or(waiting, |most| most.min(waiting)))
    }
}

/// `90`, `90s`, `5m`, `1h` as a time span above zero.
fn parse_span(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is no time span above zero: expected such as 90, 90s, 5m or 1h");
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let scale = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let seconds = number.checked_mul(scale).filter(|seconds| *seconds > 0).ok_or_else(expected)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_read_with_and_without_a_unit() {
        let read: Vec<u64> = ["90", "90s", "5m", "1h"].map(|text| parse_span(text).unwrap().as_secs()).to_vec();
        assert_eq!(read, [90, 90, 300, 3600]);
        for wrong in ["", "s", "0", "-1", "5 m", "1d", "99999999999999999999"] {
            assert!(parse_span(wrong).is_err(), "{wrong:?}");
        }
    }
}
