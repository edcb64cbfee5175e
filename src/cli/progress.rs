//! Shows the progress of a run: a bar on a terminal, a plain line every two seconds elsewhere. Writes to standard error, so
//! that standard output has only the result.

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::text::{count, span};
use crate::{
    clock::Clock,
    model::{Kind, Outcome},
    worker::Progress,
};

const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// The progress of a run on standard error.
#[derive(Debug)]
pub enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
}

impl Shown {
    /// A bar when standard error is a terminal, else lines. `total` is the number of requests in the queue, if it is known.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, total: Option<u64>) -> Self {
        if io::stderr().is_terminal() { Self::Bar(bar(total)) } else { Self::Lines(Lines::new(clock, total)) }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) => "  {bar:40}  {human_pos} of {human_len}   {rate}   {eta} left",
        None => "  {spinner}  {human_pos} done   {rate}   {elapsed}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // A line of progress may fail without harm.
        let _ = write!(out, "{:.1} per second", state.per_sec());
    };
    bar.set_style(style.with_key("rate", rate));
    // Between two responses the elapsed time goes on.
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

impl Progress for Shown {
    fn settled(&self, _kind: Kind, outcome: Outcome) {
        // A released request is in the queue again, so it is not done.
        if outcome == Outcome::Released {
            return;
        }
        match self {
            Self::Bar(bar) => {
                // Follow-ups come on top of the requests that were queued at first.
                if bar.length().is_some_and(|total| bar.position() >= total) {
                    bar.inc_length(1);
                }
                bar.inc(1);
            }
            Self::Lines(lines) => {
                if let Some(line) = lines.settled() {
                    eprintln!("  {line}");
                }
            }
        }
    }
}

/// Progress as plain lines.
#[derive(Debug)]
pub struct Lines {
    clock: Arc<dyn Clock>,
    total: Option<u64>,
    began: Duration,
    done: AtomicU64,
    /// The due time of the next line, in milliseconds after `began`.
    next_ms: AtomicU64,
}

impl Lines {
    fn new(clock: Arc<dyn Clock>, total: Option<u64>) -> Self {
        let began = clock.boot();
        // The first line is due after one interval, since a short run needs none.
        Self { clock, total, began, done: AtomicU64::new(0), next_ms: AtomicU64::new(millis(LINE_INTERVAL)) }
    }

    /// Counts a request, and returns a line when one is due.
    fn settled(&self) -> Option<String> {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let elapsed = self.clock.boot().saturating_sub(self.began);
        if millis(elapsed) < self.next_ms.load(Ordering::Relaxed) {
            return None;
        }
        self.next_ms.store(millis(elapsed + LINE_INTERVAL), Ordering::Relaxed);
        Some(line(done, self.total, elapsed))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn line(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    match total {
        // Beyond the total only follow-ups are done, whose number is unknown.
        Some(total) if done <= total => {
            // A rate of zero would make the time infinite, which panics.
            let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / rate.max(0.001));
            format!("{} of {}, {rate:.1} per second, {} left", count(done), count(total), span(left))
        }
        Some(_) => format!("{} done, follow-ups included, {rate:.1} per second", count(done)),
        None => format!("{} done, {rate:.1} per second", count(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn line_comes_every_two_seconds() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let lines = Lines::new(clock.clone(), Some(100));
        assert_eq!(lines.settled(), None);
        clock.advance(Duration::from_secs(2));
        assert_eq!(lines.settled().unwrap(), "2 of 100, 1.0 per second, 1 min 38 s left");
        assert_eq!(lines.settled(), None);
        clock.advance(Duration::from_secs(2));
        assert_eq!(lines.settled().unwrap(), "4 of 100, 1.0 per second, 1 min 36 s left");
    }

    #[test]
    fn line_without_total_has_no_time_left() {
        assert_eq!(line(90, None, Duration::from_secs(3)), "90 done, 30.0 per second");
    }

    #[test]
    fn line_counts_follow_ups_beyond_total() {
        assert_eq!(line(30, Some(30), Duration::from_secs(3)), "30 of 30, 10.0 per second, 0 ms left");
        assert_eq!(line(33, Some(30), Duration::from_secs(3)), "33 done, follow-ups included, 11.0 per second");
    }
}
