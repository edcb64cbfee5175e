//! Follows a run: a bar on a terminal, a plain line now and then elsewhere. Writes to standard error only, so that
//! standard output stays the command's answer.

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

/// How often a plain line is written.
const EVERY: Duration = Duration::from_secs(2);

/// Shows how far a run is.
#[derive(Debug)]
pub enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
}

impl Shown {
    /// A bar when standard error is a terminal, lines when not. `total`: how many requests wait, when that is known.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, total: Option<u64>) -> Self {
        if io::stderr().is_terminal() { Self::Bar(bar(total)) } else { Self::Lines(Lines::new(clock, total)) }
    }

    /// Takes the bar away.
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
        let _ = write!(out, "{:.1} a second", state.per_sec());
    };
    bar.set_style(style.with_key("rate", rate));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

impl Progress for Shown {
    fn settled(&self, _kind: Kind, outcome: Outcome) {
        // What is given back comes again.
        if outcome == Outcome::Released {
            return;
        }
        match self {
            Self::Bar(bar) => {
                // Follow-ups come on top of what waited at first.
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

/// Progress without a terminal.
#[derive(Debug)]
pub struct Lines {
    clock: Arc<dyn Clock>,
    total: Option<u64>,
    began: Duration,
    done: AtomicU64,
    /// When the next line is due, in milliseconds after `began`.
    next_ms: AtomicU64,
}

impl Lines {
    fn new(clock: Arc<dyn Clock>, total: Option<u64>) -> Self {
        let began = clock.boot();
        Self { clock, total, began, done: AtomicU64::new(0), next_ms: AtomicU64::new(millis(EVERY)) }
    }

    /// Counts one more; the line to write, when it is time for one.
    fn settled(&self) -> Option<String> {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let elapsed = self.clock.boot().saturating_sub(self.began);
        if millis(elapsed) < self.next_ms.load(Ordering::Relaxed) {
            return None;
        }
        self.next_ms.store(millis(elapsed + EVERY), Ordering::Relaxed);
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
        Some(total) if done <= total => {
            let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / rate.max(0.001));
            format!("{} of {}, {rate:.1} a second, {} left", count(done), count(total), span(left))
        }
        Some(_) => format!("{} done with what followed, {rate:.1} a second", count(done)),
        None => format!("{} done, {rate:.1} a second", count(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn a_plain_line_comes_every_two_seconds_and_tells_rate_and_time_left() {
        let clock = ManualClock::at(Timestamp::EPOCH);
        let lines = Lines::new(clock.clone(), Some(100));
        assert_eq!(lines.settled(), None);
        clock.advance(Duration::from_secs(2));
        assert_eq!(lines.settled().unwrap(), "2 of 100, 1.0 a second, 1 min 38 s left");
        assert_eq!(lines.settled(), None);
        clock.advance(Duration::from_secs(2));
        assert_eq!(lines.settled().unwrap(), "4 of 100, 1.0 a second, 1 min 36 s left");
    }

    #[test]
    fn without_a_total_a_line_promises_no_end() {
        assert_eq!(line(90, None, Duration::from_secs(3)), "90 done, 30.0 a second");
    }

    #[test]
    fn what_follows_is_not_told_as_a_part_of_what_waited() {
        assert_eq!(line(30, Some(30), Duration::from_secs(3)), "30 of 30, 10.0 a second, 0 ms left");
        assert_eq!(line(33, Some(30), Duration::from_secs(3)), "33 done with what followed, 11.0 a second");
    }
}
