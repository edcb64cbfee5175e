//! What one more key would bring.

use std::fmt::Write as _;

use serde::Serialize;

use super::planned::{Bracket, Rows};
use crate::{
    cli::{recorded::Recorded, text::count},
    config::DEFAULT_REQS_PER_SEC,
    planner::{
        Policy, Strategy,
        replay::{Budget, Played},
    },
};

/// Draws are the same in each report of the same records.
const SEED: u64 = 1;

/// The advice.
#[derive(Clone, Debug, Serialize)]
pub struct Capacity {
    /// Keys that a run held, on average.
    keys_measured: f64,
    calls_per_second_measured: f64,
    one_more_key_calls_per_second: f64,
    /// The setting here, if the planner is on here.
    planned_calls_per_sec: Option<u32>,
    /// The stale reads that one more call saves, at most.
    level: Option<f64>,
    /// The same for all calls of one more key, a second.
    at_most_reads_per_second: Option<f64>,
    reads_per_second_estimated: f64,
    recorded_looks: u64,
    fresh_now_replayed: Option<Bracket>,
    fresh_with_one_more_key_replayed: Option<Bracket>,
    /// The reason for which nothing was replayed.
    not_replayed: Option<String>,
}

impl Capacity {
    /// Replays the recorded looks with the present calls, and with those of one more key.
    pub fn new(rows: &Rows, setting: Option<u32>, recorded: Result<Recorded, String>, policy: Policy) -> Self {
        let keys = rows.runs.keys.unwrap_or(1.0).max(1.0);
        let calls = rows.calls_per_second();
        let world = recorded.and_then(|recorded| recorded.world(SEED, policy));
        let play =
            |factor| world.as_ref().ok().and_then(|world| shares(&world.play(Strategy::Value, Budget::Times(factor))));
        Self {
            keys_measured: keys,
            calls_per_second_measured: calls,
            one_more_key_calls_per_second: calls / keys,
            planned_calls_per_sec: setting,
            level: rows.runs.level,
            at_most_reads_per_second: rows.runs.level.map(|level| level * calls / keys),
            reads_per_second_estimated: rows.reads_per_second(),
            recorded_looks: world.as_ref().map_or(0, |world| world.amount().responses),
            fresh_now_replayed: play(1.0),
            fresh_with_one_more_key_replayed: play((keys + 1.0) / keys),
            not_replayed: world.err(),
        }
    }

    /// The calls a second that the present keys could make beside those that they made, awake for 230 of 240 s.
    fn spare_calls_per_second(&self) -> f64 {
        let allowed = f64::from(DEFAULT_REQS_PER_SEC) * self.keys_measured * 230.0 / 240.0;
        (0.9 * allowed - self.calls_per_second_measured).max(0.0)
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        let (calls, more) = (self.calls_per_second_measured, self.one_more_key_calls_per_second);
        if let (Some(now), Some(then)) = (self.fresh_now_replayed, self.fresh_with_one_more_key_replayed) {
            let (now_text, then_text) = (now.text(), then.text());
            let would = if then.high > now.high {
                format!("would raise fresh reads from {now_text} to {then_text}")
            } else {
                format!("would not raise fresh reads: {now_text} now, {then_text} with it")
            };
            let looks = count(self.recorded_looks);
            let _ = write!(
                text,
                "  One more key {would} (replayed from {looks} recorded looks).\n  That is for {:.1} instead of {calls:.1} calls a \
                     second: what the runs made with {:.1} keys on average (measured), and as\n  many for each further key",
                calls + more,
                self.keys_measured
            );
            let _ = match self.planned_calls_per_sec {
                Some(limit) if self.spare_calls_per_second() >= 1.0 => writeln!(
                    text,
                    ".\n  The present keys have about {:.0} calls a second to spare: raise PLANNED_CALLS_PER_SEC, {limit} here, before you add a \
                     key.",
                    self.spare_calls_per_second()
                ),
                Some(limit) => writeln!(text, ". PLANNED_CALLS_PER_SEC is {limit} here; it has to allow them."),
                None => writeln!(text, ". PLANNED_CALLS_PER_SEC has to allow them."),
            };
        } else {
            let why = self.not_replayed.as_deref().unwrap_or("no reads fall into the recorded time");
            let _ = writeln!(text, "  What one more key would bring is not known: {why}.");
        }
        if let (Some(level), Some(most)) = (self.level, self.at_most_reads_per_second) {
            let _ = writeln!(
                text,
                "  Upper bound: one more call saves at most {} stale reads (the level after the last run, estimated), so {more:.1} more \
                 calls\n  a second save at most {} of {} reads a second (estimated).",
                digits(level),
                digits(most),
                digits(self.reads_per_second_estimated)
            );
        }
        text
    }
}

/// The bracket of a replay.
pub fn shares(played: &Played) -> Option<Bracket> {
    let reads = &played.reads;
    Bracket::new(reads.fresh_low, reads.fresh_high, reads.all())
}

/// Two digits that matter.
fn digits(number: f64) -> String {
    if number >= 10.0 {
        format!("{number:.0}")
    } else if number >= 1.0 {
        format!("{number:.1}")
    } else if number >= 0.01 {
        format!("{number:.3}")
    } else {
        format!("{number:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity {
            keys_measured: 1.0,
            calls_per_second_measured: 27.14,
            one_more_key_calls_per_second: 27.14,
            planned_calls_per_sec: Some(20),
            level: Some(0.0512),
            at_most_reads_per_second: Some(1.389),
            reads_per_second_estimated: 20.3,
            recorded_looks: 23_456,
            fresh_now_replayed: Bracket::new(48.2, 61.9, 100.0),
            fresh_with_one_more_key_replayed: Bracket::new(57.0, 69.4, 100.0),
            not_replayed: None,
        }
    }

    #[test]
    fn advice_says_how_it_was_computed() {
        let unknown = Capacity {
            fresh_with_one_more_key_replayed: None,
            not_replayed: Some("no looks are recorded in this time".to_owned()),
            level: Some(3e-7),
            ..capacity()
        };
        let no_better = Capacity {
            fresh_with_one_more_key_replayed: capacity().fresh_now_replayed,
            planned_calls_per_sec: None,
            level: None,
            ..capacity()
        };
        let limited = Capacity { calls_per_second_measured: 13.2, one_more_key_calls_per_second: 13.2, ..capacity() };
        insta::assert_snapshot!([capacity(), no_better, unknown, limited].map(|advice| advice.render()).join("\n"));
    }
}
