//! The planned looks of a run in numbers, and what its lessons say about readers. Values only.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::super::report::round;
use crate::{
    clock::Timestamp,
    model::Kind,
    planner::Reads,
    store::{Arm, Lesson, MAX_BUCKET, Teaching},
};

/// The groups of a trial, by which `report --trial` finds out how much chance there is in a difference.
pub const GROUPS: usize = 16;

/// The waiting times are told as numbers of requests that waited at most this many seconds; the last key is `more`.
pub const WAITS: [(&str, f64); 7] =
    [("5", 5.0), ("30", 30.0), ("120", 120.0), ("300", 300.0), ("1800", 1800.0), ("7200", 7200.0), ("28800", 28_800.0)];

/// The planner in a report. Everything but the fields named `unflagged`, `fresh_low` and `fresh_high` is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlannedReport {
    /// Planned calls whose response counted, and those among them that had changed.
    pub looks: u64,
    pub changed: u64,
    /// Planned calls that failed, and looks at objects that a request had already.
    pub failed: u64,
    pub refused: u64,
    /// The seconds by which the earliest planned look was late when the run last looked; 0 when none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lateness_seconds: Option<f64>,
    /// The longest time without a look, when `PLANNED_AT_LEAST_EVERY` had to be stretched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stretched_to_seconds: Option<u64>,
    /// The level of each side of a trial, in stale reads; without a trial there is only `main`.
    pub levels: BTreeMap<&'static str, f64>,
    /// Reads that left a request, because their copy was older than `SNAPSHOT_MAX_AGE`, and those whose copy had indeed changed.
    pub flagged_reads: u64,
    pub flagged_really_stale: u64,
    /// The time within which 99 % of the readers' requests were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail_wait_p99_seconds: Option<f64>,
    /// The readers' requests by the time that they waited, in seconds: see [`WAITS`].
    pub waits: BTreeMap<&'static str, u64>,
    /// By side, kind and group. Without a trial there is one group.
    pub arms: BTreeMap<&'static str, ArmReport>,
}

/// A side of a trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ArmReport {
    pub strategy: &'static str,
    pub kinds: BTreeMap<&'static str, Vec<GroupReport>>,
}

/// The looks at the objects of one group, and the reads between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct GroupReport {
    /// Calls whose response counted, planned or requested.
    pub looks: u64,
    pub planned: u64,
    pub changed: u64,
    pub planned_changed: u64,
    pub flagged: u64,
    pub flagged_really_stale: u64,
    pub unflagged: f64,
    pub fresh_low: f64,
    pub fresh_high: f64,
}

/// Counts while the run goes on.
#[derive(Clone, Debug, Default)]
pub struct PlannedTally {
    report: PlannedReport,
    /// The waits of readers' requests in seconds.
    waits: Vec<f64>,
}

impl PlannedTally {
    /// Counts a response from which the planner has learned.
    pub fn learned(&mut self, kind: Kind, planned: bool, lesson: &Lesson, teaching: &Teaching) {
        let Lesson { before, look, bucket } = lesson;
        let reads = Reads::before(*look, before, kind, teaching.policy);
        let arm = teaching.arm(*bucket);
        let side = self.report.arms.entry(arm.as_str()).or_default();
        side.strategy = teaching.strategy(arm).as_str();
        let groups = side.kinds.entry(kind.as_str()).or_default();
        let (group, count) = if teaching.trial.is_some() { (group_of(*bucket), GROUPS) } else { (0, 1) };
        groups.resize(count.max(groups.len()), GroupReport::default());
        groups[group].add(*look, planned, &reads);
        let [flagged, changed] = [look.asked.is_some(), look.changed].map(u64::from);
        self.report.looks += u64::from(planned);
        self.report.changed += u64::from(planned) * changed;
        self.report.flagged_reads += flagged;
        self.report.flagged_really_stale += flagged * changed;
    }

    /// Counts the wait of a reader's request that was answered.
    pub fn waited(&mut self, asked: Timestamp, answered: Timestamp) {
        self.waits.push(answered.since(asked).as_secs_f64());
    }

    pub const fn failed(&mut self) {
        self.report.failed += 1;
    }

    pub const fn refused(&mut self, count: u64) {
        self.report.refused += count;
    }

    /// Records the longest time without a look, when it had to be stretched.
    pub const fn stretched(&mut self, longest: Duration) {
        self.report.stretched_to_seconds = Some(longest.as_secs());
    }

    /// Records the level of a side, and how late its earliest look is.
    pub fn level(&mut self, arm: Arm, reads: f64, lateness: f64) {
        self.report.levels.insert(arm.as_str(), reads);
        self.report.lateness_seconds = Some(round(lateness.max(0.0), 1));
    }

    /// Completes the report.
    pub fn finish(mut self) -> PlannedReport {
        self.waits.sort_by(f64::total_cmp);
        for (name, seconds) in WAITS.into_iter().chain([("more", f64::INFINITY)]) {
            let until = self.waits.partition_point(|wait| *wait <= seconds) as u64;
            let below: u64 = self.report.waits.values().sum();
            if until > below {
                self.report.waits.insert(name, until - below);
            }
        }
        // The smallest wait that is not exceeded by more than one of a hundred.
        let place = self.waits.len().saturating_sub(1) - self.waits.len() / 100;
        self.report.mail_wait_p99_seconds = self.waits.get(place).map(|wait| round(*wait, 2));
        for group in self.report.arms.values_mut().flat_map(|side| side.kinds.values_mut()).flatten() {
            for number in [&mut group.unflagged, &mut group.fresh_low, &mut group.fresh_high] {
                *number = round(*number, 2);
            }
        }
        self.report
    }
}

impl GroupReport {
    fn add(&mut self, look: crate::planner::Look, planned: bool, reads: &Reads) {
        let [planned, changed, flagged] = [planned, look.changed, look.asked.is_some()].map(u64::from);
        self.looks += 1;
        self.planned += planned;
        self.changed += changed;
        self.planned_changed += planned * changed;
        self.flagged += flagged;
        self.flagged_really_stale += flagged * changed;
        self.unflagged += reads.unflagged;
        self.fresh_low += reads.fresh_low;
        self.fresh_high += reads.fresh_high;
    }
}

/// The group of a bucket. The sides of a trial are ranges of buckets, so the groups run across them.
fn group_of(bucket: u16) -> usize {
    usize::from(bucket.min(MAX_BUCKET)) % GROUPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        planner::{Knowledge, Look, Strategy},
        store::Trial,
    };

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    fn lesson(bucket: u16, changed: bool, asked: bool) -> Lesson {
        let look = Look { at: NOW, changed, asked: asked.then_some(NOW) };
        let before = Knowledge {
            looked_at: Some(NOW - Duration::from_secs(600)),
            mails: 9.0,
            exposed: 840.0,
            ..Knowledge::default()
        };
        Lesson { before, look, bucket }
    }

    #[test]
    fn lessons_are_counted_by_side_and_group() {
        let trial = Some(Trial { strategy: Strategy::Tiers, percent: 50 });
        let teaching = Teaching { trial, ..Teaching::default() };
        let mut tally = PlannedTally::default();
        tally.learned(Kind::Clan, true, &lesson(5000, false, false), &teaching);
        tally.learned(Kind::Clan, false, &lesson(5016, true, true), &teaching);
        tally.learned(Kind::Player, true, &lesson(1, true, false), &teaching);
        let report = tally.finish();
        let [clans, players] = [&report.arms["main"].kinds["clan"], &report.arms["trial"].kinds["player"]];
        assert_eq!((clans.len(), players.len()), (GROUPS, GROUPS));
        let group = clans[5000 % GROUPS];
        assert_eq!(
            (group.looks, group.planned, group.changed, group.flagged, group.flagged_really_stale),
            (2, 1, 1, 1, 1)
        );
        assert!((group.unflagged - 12.0).abs() < 1e-9 && (group.fresh_low - 6.0).abs() < 1e-9, "{group:?}");
        assert_eq!((report.arms["main"].strategy, report.arms["trial"].strategy), ("value", "tiers"));
        assert_eq!((report.looks, report.changed, report.flagged_reads, report.flagged_really_stale), (2, 1, 1, 1));
    }

    #[test]
    fn without_trial_there_is_one_group() {
        let mut tally = PlannedTally::default();
        tally.learned(Kind::War, true, &lesson(9999, false, false), &Teaching::default());
        assert_eq!(tally.finish().arms["main"].kinds["war"].len(), 1);
    }

    #[test]
    fn waits_are_told_in_steps() {
        let mut tally = PlannedTally::default();
        for wait in (0..99).map(|_| 1).chain([40_000]) {
            tally.waited(NOW - Duration::from_secs(wait), NOW);
        }
        tally.waited(NOW + Duration::from_secs(5), NOW);
        let report = tally.finish();
        assert_eq!(report.waits, BTreeMap::from([("5", 100), ("more", 1)]));
        assert_eq!(report.mail_wait_p99_seconds, Some(1.0));
        assert_eq!(PlannedTally::default().finish().mail_wait_p99_seconds, None);
    }
}
