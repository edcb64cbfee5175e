//! The planner in a report: what its runs measured and estimated, summed up.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::{
    cli::text::{Align, Style, Table, count, counted, percent, span},
    columns::from_row,
    model::Kind,
};

const GROUPS: &str = include_str!("../sql/report_planned.sql");
const RUNS: &str = include_str!("../sql/report_planned_runs.sql");
const WAITS: &str = include_str!("../sql/report_planned_waits.sql");

/// The line instead of the planner's part.
pub const OFF: &str =
    "The planner was off in these runs: spare calls are not used. PLANNED_CALLS_PER_SEC switches it on.";

/// The sums of one group of objects.
#[derive(Clone, Debug)]
pub struct GroupRow {
    pub arm: String,
    /// The strategy that was compared with, in the runs with a trial.
    pub against: Option<String>,
    pub kind: String,
    pub place: i64,
    pub looks: f64,
    pub planned: f64,
    pub planned_changed: f64,
    pub flagged: f64,
    pub flagged_really_stale: f64,
    pub unflagged: f64,
    pub fresh_low: f64,
    pub fresh_high: f64,
}

from_row!(postgres: GroupRow {
    arm, against, kind, place, looks, planned, planned_changed, flagged, flagged_really_stale, unflagged, fresh_low,
    fresh_high,
});

/// The sums over all runs with the planner.
#[derive(Clone, Debug, Default)]
pub struct RunsRow {
    pub runs: i64,
    pub first_began: f64,
    pub last_ended: f64,
    pub calls: f64,
    pub keys: Option<f64>,
    pub level: Option<f64>,
    pub lateness_seconds: Option<f64>,
    pub failed: f64,
    pub refused: f64,
}

from_row!(postgres: RunsRow {
    runs, first_began, last_ended, calls, keys, level, lateness_seconds, failed, refused,
});

struct WaitRow {
    name: String,
    requests: f64,
}

from_row!(postgres: WaitRow { name, requests });

/// Everything that the runs of the period say about the planner.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub groups: Vec<GroupRow>,
    pub runs: RunsRow,
    /// In order of time; `None` is longer than any limit.
    pub waits: Vec<(Option<Duration>, f64)>,
}

impl Rows {
    pub async fn read(connection: &mut PgConnection, since: OffsetDateTime) -> Result<Self, sqlx::Error> {
        let runs: RunsRow = sqlx::query_as(RUNS).persistent(false).bind(since).fetch_one(&mut *connection).await?;
        // Most deployments have no planner, and the other two statements read all reports again.
        if runs.runs == 0 {
            return Ok(Self::default());
        }
        let groups = sqlx::query_as(GROUPS).persistent(false).bind(since).fetch_all(&mut *connection).await?;
        let waits: Vec<WaitRow> =
            sqlx::query_as(WAITS).persistent(false).bind(since).fetch_all(&mut *connection).await?;
        let mut waits: Vec<_> =
            waits.into_iter().map(|row| (row.name.parse().ok().map(Duration::from_secs), row.requests)).collect();
        waits.sort_by_key(|(limit, _)| limit.unwrap_or(Duration::MAX));
        Ok(Self { groups, runs, waits })
    }

    /// The time from the beginning of the first run to the end of the last one.
    fn seconds(&self) -> f64 {
        (self.runs.last_ended - self.runs.first_began).max(1.0)
    }

    /// Calls a second, over the time of all runs.
    pub fn calls_per_second(&self) -> f64 {
        self.runs.calls / self.seconds()
    }

    /// Responses that taught the planner, without those of wars, which are not replayed.
    pub fn replayable_looks(&self) -> f64 {
        let wars = Kind::War.as_str();
        self.groups.iter().filter(|group| group.kind != wars).map(|group| group.looks).sum()
    }

    /// Reads a second, as far as they are known.
    pub fn reads_per_second(&self) -> f64 {
        self.groups.iter().map(|group| group.flagged + group.unflagged).sum::<f64>() / self.seconds()
    }
}

/// A share of reads that lies between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bracket {
    pub low: f64,
    pub high: f64,
}

impl Bracket {
    /// `None` without reads. Sums of others' numbers may be anything, so the ends are put in order.
    pub fn new(low: f64, high: f64, reads: f64) -> Option<Self> {
        let [low, high] = [low, high].map(|fresh| (fresh / reads).clamp(0.0, 1.0));
        (reads > 0.0).then_some(Self { low: low.min(high), high: high.max(low) })
    }

    /// `between 48 and 62 %`. The ends are rounded outwards, so that the truth stays inside.
    pub fn text(self) -> String {
        format!("between {:.0} and {:.0} %", (self.low * 100.0 + 1e-9).floor(), (self.high * 100.0 - 1e-9).ceil())
    }
}

/// The reads and looks of a kind, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summed {
    /// Flagged and unflagged.
    pub reads_estimated: f64,
    pub fresh_estimated: Option<Bracket>,
    pub flagged_measured: f64,
    pub flagged_really_stale_measured: f64,
    pub looks_measured: f64,
    pub planned_measured: f64,
    pub planned_changed_measured: f64,
}

/// The sums of these groups.
pub fn summed<'a>(groups: impl IntoIterator<Item = &'a GroupRow>) -> Summed {
    let (mut sum, mut low, mut high) = (Summed::default(), 0.0, 0.0);
    for group in groups {
        sum.reads_estimated += group.flagged + group.unflagged;
        sum.flagged_measured += group.flagged;
        sum.flagged_really_stale_measured += group.flagged_really_stale;
        sum.looks_measured += group.looks;
        sum.planned_measured += group.planned;
        sum.planned_changed_measured += group.planned_changed;
        low += group.fresh_low;
        high += group.fresh_high;
    }
    sum.fresh_estimated = Bracket::new(low, high, sum.reads_estimated);
    sum
}

/// The planner's part of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    runs: i64,
    calls_per_second_measured: f64,
    reads_per_second_estimated: f64,
    kinds: BTreeMap<&'static str, Summed>,
    all: Summed,
    failed_measured: f64,
    refused_measured: f64,
    waits_measured: Vec<Wait>,
    level: Option<f64>,
    lateness_seconds_measured: Option<f64>,
}

/// Requests that waited at most this long, and longer than the limit before.
#[derive(Clone, Copy, Debug, Serialize)]
struct Wait {
    at_most_seconds: Option<u64>,
    requests: f64,
}

impl Planned {
    /// `None` when no run had the planner.
    pub fn new(rows: &Rows) -> Option<Self> {
        if rows.runs.runs == 0 {
            return None;
        }
        let of = |kind: Kind| summed(rows.groups.iter().filter(|group| group.kind == kind.as_str()));
        let kinds = Kind::ALL.into_iter().map(|kind| (kind.as_str(), of(kind)));
        Some(Self {
            runs: rows.runs.runs,
            calls_per_second_measured: rows.calls_per_second(),
            reads_per_second_estimated: rows.reads_per_second(),
            kinds: kinds.filter(|(_, sum)| sum.looks_measured > 0.0 || sum.reads_estimated > 0.0).collect(),
            all: summed(&rows.groups),
            failed_measured: rows.runs.failed,
            refused_measured: rows.runs.refused,
            waits_measured: rows
                .waits
                .iter()
                .map(|(limit, requests)| Wait {
                    at_most_seconds: limit.map(|limit| limit.as_secs()),
                    requests: *requests,
                })
                .collect(),
            level: rows.runs.level,
            lateness_seconds_measured: rows.runs.lateness_seconds,
        })
    }

    /// The share of the reads of a kind that met a copy younger than the readers' maximum age; estimated.
    pub fn unflagged_share(&self, kind: Kind) -> Option<f64> {
        let sum = self.kinds.get(kind.as_str())?;
        (sum.reads_estimated > 0.0).then(|| 1.0 - sum.flagged_measured / sum.reads_estimated)
    }

    pub fn render(&self, style: Style) -> String {
        let runs = counted(u64::try_from(self.runs).unwrap_or(0), "run", "runs");
        let title = format!("What readers met: {runs} with the planner");
        let mut text = format!("{}\n{}", style.bold(&title), self.reads(style));
        let _ = writeln!(
            text,
            "  A read is flagged when its copy is older than SNAPSHOT_MAX_AGE. Reads of younger copies leave no trace, so they are\n  \
             estimated. The lower end counts every copy as stale that a call found changed. The upper end is some points too high\n  \
             where people read when something happens. Reads of the most read objects are estimated too low, and so the share of\n  \
             flagged reads too high."
        );
        if let Some(line) = self.waits() {
            let _ = writeln!(text, "  {line}");
        }
        let _ = write!(text, "\n{}\n{}", style.bold("What the planned looks brought (measured)"), self.looks(style));
        let _ = writeln!(
            text,
            "  failed {}, refused because a request had the object {}{}",
            whole(self.failed_measured),
            whole(self.refused_measured),
            self.lateness_seconds_measured.map_or_else(String::new, |late| format!(
                ", late by {} at the end of the last run",
                span(Duration::try_from_secs_f64(late).unwrap_or_default())
            ))
        );
        text
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, &Summed)> {
        // A single kind would be told twice.
        let all = (self.kinds.len() != 1).then_some(("all", &self.all));
        self.kinds.iter().map(|(kind, sum)| (*kind, sum)).chain(all)
    }

    fn reads(&self, style: Style) -> String {
        let columns = [
            ("", Align::Left),
            ("reads, estimated", Align::Right),
            ("fresh reads, estimated", Align::Left),
            ("flagged, measured", Align::Right),
            ("of all, estimated", Align::Right),
            ("really stale, measured", Align::Right),
        ];
        let mut table = Table::new(columns);
        for (kind, sum) in self.rows() {
            table.row([
                kind.to_owned(),
                whole(sum.reads_estimated),
                sum.fresh_estimated.map_or_else(|| "-".to_owned(), Bracket::text),
                whole(sum.flagged_measured),
                share(sum.flagged_measured, sum.reads_estimated),
                share(sum.flagged_really_stale_measured, sum.flagged_measured),
            ]);
        }
        table.render(style)
    }

    fn looks(&self, style: Style) -> String {
        let columns = ["planned looks", "changed", "changed per look", "looks on request"];
        let mut table = Table::new([("", Align::Left)].into_iter().chain(columns.map(|name| (name, Align::Right))));
        for (kind, sum) in self.rows() {
            let per_look = if sum.planned_measured > 0.0 {
                format!("{:.2}", sum.planned_changed_measured / sum.planned_measured)
            } else {
                "-".to_owned()
            };
            table.row([
                kind.to_owned(),
                whole(sum.planned_measured),
                whole(sum.planned_changed_measured),
                per_look,
                whole(sum.looks_measured - sum.planned_measured),
            ]);
        }
        table.render(style)
    }

    /// The waits of the readers' requests: how many of them waited at most how long.
    fn waits(&self) -> Option<String> {
        let all: f64 = self.waits_measured.iter().map(|wait| wait.requests).sum();
        if all <= 0.0 {
            return None;
        }
        let mut until = 0.0;
        let mut parts = Vec::new();
        for wait in &self.waits_measured {
            until += wait.requests;
            let Some(limit) = wait.at_most_seconds else { continue };
            parts.push(format!("{} within {}", percent(until / all), limit_text(limit)));
            // All the longer limits would say the same.
            if until >= all {
                break;
            }
        }
        let longer: f64 =
            self.waits_measured.iter().filter(|wait| wait.at_most_seconds.is_none()).map(|wait| wait.requests).sum();
        if longer > 0.0 {
            parts.push(format!("{} later", whole(longer)));
        }
        Some(format!("Readers' requests were answered (measured): {}", parts.join(", ")))
    }
}

/// `30 s`, `5 min`, `8 h`.
fn limit_text(seconds: u64) -> String {
    match seconds {
        3600.. if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        60.. if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

/// A sum of whole numbers, with separators.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited before")]
pub fn whole(number: f64) -> String {
    count(number.round().clamp(0.0, 1e18) as u64)
}

fn share(part: f64, of: f64) -> String {
    if of > 0.0 { percent((part / of).clamp(0.0, 1.0)) } else { "-".to_owned() }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A group of clans with 100 reads.
    pub fn group(arm: &str, kind: &str, place: i64) -> GroupRow {
        GroupRow {
            arm: arm.to_owned(),
            against: None,
            kind: kind.to_owned(),
            place,
            looks: 30.0,
            planned: 20.0,
            planned_changed: 13.0,
            flagged: 10.0,
            flagged_really_stale: 8.0,
            unflagged: 90.0,
            fresh_low: 48.4,
            fresh_high: 61.2,
        }
    }

    fn rows() -> Rows {
        let mut players = group("main", "player", 1);
        (players.unflagged, players.fresh_low, players.fresh_high) = (12_345.6, 9000.0, 10_000.5);
        let runs = RunsRow {
            runs: 2,
            first_began: 1_772_600_000.0,
            last_ended: 1_772_600_480.0,
            calls: 13_000.0,
            keys: Some(1.0),
            level: Some(0.05),
            lateness_seconds: Some(12.0),
            failed: 3.0,
            refused: 41.0,
        };
        let waits = [(Some(5), 900.0), (Some(30), 80.0), (Some(7200), 18.0), (None, 2.0)];
        let waits = waits.map(|(limit, requests)| (limit.map(Duration::from_secs), requests)).to_vec();
        Rows { groups: vec![group("main", "clan", 1), players], runs, waits }
    }

    #[test]
    fn every_number_is_measured_or_estimated() {
        let planned = Planned::new(&rows()).unwrap();
        insta::assert_snapshot!(planned.render(Style::PLAIN));
        assert_eq!(planned.unflagged_share(Kind::Clan), Some(0.9));
        assert_eq!(planned.unflagged_share(Kind::War), None);
        insta::assert_snapshot!("planned_json", serde_json::to_string_pretty(&planned).unwrap());
    }

    #[test]
    fn without_planner_there_is_nothing() {
        assert!(Planned::new(&Rows::default()).is_none());
    }

    #[test]
    fn bracket_is_rounded_outwards() {
        assert_eq!(Bracket::new(48.4, 61.2, 100.0).unwrap().text(), "between 48 and 62 %");
        assert_eq!(Bracket::new(0.0, 100.0, 100.0).unwrap().text(), "between 0 and 100 %");
        assert_eq!(Bracket::new(50.0, 50.0, 100.0).unwrap().text(), "between 50 and 50 %");
        // Numbers that others wrote.
        assert_eq!(Bracket::new(9.0, 3.0, 6.0), Some(Bracket { low: 0.5, high: 1.0 }));
        assert_eq!(Bracket::new(1.0, 1.0, 0.0), None);
    }
}
