//! `report`: the freshness of the data and the results of the calls, from the views of the schema refresh_worker.

mod capacity;
mod planned;
mod target;
mod trial;

use std::{fmt::Write as _, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use sqlx::PgPool;

pub use self::planned::{Bracket, Rows};
use self::{
    capacity::Capacity,
    planned::Planned,
    target::{Checked, Target},
    trial::Compared,
};
use super::{
    Exit, Shared,
    recorded::Recorded,
    text::{self, Align, Style, Table, count, counted, span},
};
use crate::{
    app,
    clock::{Clock as _, SystemClock, Timestamp},
    columns::from_row,
    config::{DatabaseConfig, PlannerConfig, WorkerConfig, env::process_var},
    planner::Policy,
    store::{Store as _, StoreError},
};

/// The width of a full bar, in characters.
const BAR_WIDTH: usize = 20;

const FRESHNESS: &str = include_str!("sql/report_freshness.sql");
const WORK: &str = include_str!("sql/report_work.sql");
const DAYS: &str = include_str!("sql/report_days.sql");

/// A report over months of runs takes seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The advice on capacity comes from the records of this time, or of less when many were recorded: it must not take minutes.
const REPLAYED: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_REPLAYED: usize = 300_000;

/// Shows how fresh the data is, and what the calls brought
///
/// The first table counts the objects of each kind by age. The ages are the promises of the priorities: 5 minutes for
/// critical, 30 minutes for high, 2 hours for medium, 8 hours for low. The second table counts requests by outcome: new
/// content, unchanged, already fresh (no call), gone, error, returned to the queue. The views freshness, work and
/// work_by_day of the schema refresh_worker have the same numbers. Needs DATABASE_URL.
///
/// With the planner (PLANNED_CALLS_PER_SEC) it shows which part of the reads met a fresh copy, as two ends, since reads of
/// young copies leave no trace; what planned looks brought; and what one more key would bring, from recorded looks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker report
  refresh-worker report --since 24h
  refresh-worker report --since 2w --json
  refresh-worker report --target clan:10m:95 --target player:8h:99
  refresh-worker report --trial")]
pub struct ReportArgs {
    /// Count runs that began within this time: 90s, 30m, 12h, 2d, 1w
    #[arg(long, value_name = "TIME", value_parser = text::parse_span, default_value = "7d")]
    since: Duration,
    /// Compare with a target (kind:age:percent); exits with 1 when one is missed. Judges the reads when the age is
    /// SNAPSHOT_MAX_AGE and the planner was on, else the stored objects as they are now. Repeatable
    #[arg(long, value_name = "TARGET")]
    target: Vec<Target>,
    /// Compare the two sides of a trial (PLANNED_TRIAL)
    #[arg(long)]
    trial: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    since: String,
    runs: i64,
    freshness: Vec<Freshness>,
    work: Vec<Work>,
    days: Vec<Work>,
    /// `None` when no run had the planner.
    planned: Option<Planned>,
    capacity: Option<Capacity>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<Checked>,
    /// Only with `--trial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<Vec<Compared>>,
}

#[derive(Debug, Serialize)]
struct Freshness {
    kind: String,
    objects: i64,
    fresh_5_min: i64,
    fresh_30_min: i64,
    fresh_2_h: i64,
    fresh_8_h: i64,
    older: i64,
    never_fetched: i64,
    median_age_seconds: Option<f64>,
    changed_24_h: i64,
}

from_row!(postgres: Freshness {
    kind, objects, fresh_5_min, fresh_30_min, fresh_2_h, fresh_8_h, older, never_fetched, median_age_seconds,
    changed_24_h,
});

#[derive(Debug, Serialize)]
struct Work {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<String>,
    calls: i64,
    changed: i64,
    unchanged: i64,
    fresh: i64,
    gone: i64,
    error: i64,
    released: i64,
}

from_row!(postgres: Work { day, kind, priority, calls, changed, unchanged, fresh, gone, error, released });

impl Work {
    /// Requests that are finished, successfully or not.
    const fn ended(&self) -> i64 {
        self.changed + self.unchanged + self.fresh + self.gone + self.error
    }
}

pub async fn run(args: ReportArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let store = app::store(&DatabaseConfig::read(&process_var)?)?;
    // A ping explains why the database cannot be reached; a failed query would not.
    match store.ping().await {
        // A standby can be read.
        Ok(()) | Err(StoreError::ReadOnly { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let now = SystemClock.wall();
    // A setting that is wrong for runs does not prevent looking at them.
    let planner = WorkerConfig::read(&process_var).ok().and_then(|worker| worker.planner);
    let report = tokio::time::timeout(TIMEOUT, read(&store.pool(), now - args.since, &args, planner)).await;
    let report = report.context("cannot read the report: the database did not answer within a minute")?;
    let report = report.context("cannot read the report; if tables are missing, run `refresh-worker migrate`")?;
    let (mut report, rows) = report;
    if report.planned.is_some() {
        let recorded = Recorded::read(&store, now, args.since.min(REPLAYED), MAX_REPLAYED);
        let recorded = match tokio::time::timeout(TIMEOUT, recorded).await {
            Ok(recorded) => recorded.map_err(|error| format!("the recorded looks cannot be read ({error})")),
            Err(_) => Err("the recorded looks could not be read within a minute".to_owned()),
        };
        let calls = planner.map(|planner| planner.calls_per_second);
        report.capacity = Some(Capacity::new(&rows, calls, recorded, policy(planner)));
    }
    let output =
        if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { render(&report, shared.style()) };
    text::print(&output)?;
    Ok(if report.targets.iter().any(Checked::is_missed) { Exit::Failure } else { Exit::Success })
}

fn policy(planner: Option<PlannerConfig>) -> Policy {
    planner.map_or_else(Policy::default, |planner| planner.teaching.policy)
}

async fn read(
    pool: &PgPool,
    since: Timestamp,
    args: &ReportArgs,
    settings: Option<PlannerConfig>,
) -> Result<(Report, Rows), sqlx::Error> {
    // One transaction, so that the tables are of one moment.
    let mut transaction = pool.begin().await?;
    let since_utc = since.to_utc();
    // Nothing is kept prepared, since a pooler may be in between.
    let runs = sqlx::query_scalar("SELECT count(*) FROM refresh_worker.refresh_runs WHERE started >= $1")
        .persistent(false)
        .bind(since_utc)
        .fetch_one(&mut *transaction)
        .await?;
    let freshness = sqlx::query_as(FRESHNESS).persistent(false).fetch_all(&mut *transaction).await?;
    let work = sqlx::query_as(WORK).persistent(false).bind(since_utc).fetch_all(&mut *transaction).await?;
    let days = sqlx::query_as(DAYS).persistent(false).bind(since_utc).fetch_all(&mut *transaction).await?;
    let rows = Rows::read(&mut transaction, since_utc).await?;
    let planned = Planned::new(&rows);
    let mut targets = Vec::new();
    for target in &args.target {
        targets.push(target.check(&mut transaction, planned.as_ref(), policy(settings).max_age).await?);
    }
    transaction.commit().await?;
    let trial = args.trial.then(|| trial::compare(&rows.groups));
    let report =
        Report { since: since.to_string(), runs, freshness, work, days, planned, capacity: None, targets, trial };
    Ok((report, rows))
}

fn render(report: &Report, style: Style) -> String {
    let mut text = format!("{}\n{}", style.bold("How fresh the data is"), freshness(&report.freshness, style));
    if !report.targets.is_empty() {
        let _ = writeln!(text, "\n{}", style.bold("Targets"));
        report.targets.iter().for_each(|target| text.push_str(&target.render(style)));
    }
    let runs = counted(unsigned(report.runs), "run", "runs");
    let title = format!("What the calls brought: {runs} since {}", report.since);
    let _ = write!(text, "\n{}\n{}", style.bold(&title), work(&report.work, style));
    // A single day would repeat the table above it.
    if report.days.len() > 1 {
        let _ = write!(text, "\n{}\n{}", style.bold("By day (UTC)"), work(&report.days, style));
    }
    match &report.planned {
        Some(planned) => {
            let _ = write!(text, "\n{}", planned.render(style));
        }
        None => {
            let _ = writeln!(text, "\n{}", planned::OFF);
        }
    }
    if let Some(capacity) = &report.capacity {
        let _ = write!(text, "\n{}\n{}", style.bold("One more key"), capacity.render());
    }
    if let Some(compared) = &report.trial {
        let _ = write!(text, "\n{}", trial::render(compared, style));
    }
    text
}

fn freshness(kinds: &[Freshness], style: Style) -> String {
    if kinds.is_empty() {
        return "  nothing has been refreshed yet\n".to_owned();
    }
    let columns = ["objects", "< 5 min", "< 30 min", "< 2 h", "< 8 h", "older", "never", "median age"];
    let columns = columns.map(|name| (name, Align::Right));
    let mut table = Table::new([("", Align::Left)].into_iter().chain(columns).chain([("within 8 h", Align::Left)]));
    for kind in kinds {
        let ages = [kind.objects, kind.fresh_5_min, kind.fresh_30_min, kind.fresh_2_h, kind.fresh_8_h];
        let numbers = ages.into_iter().chain([kind.older, kind.never_fetched]).map(|number| count(unsigned(number)));
        let median = kind.median_age_seconds.and_then(|age| Duration::try_from_secs_f64(age.max(0.0)).ok()).map(span);
        let rest = [median.unwrap_or_else(|| "-".to_owned()), bar(kind.fresh_8_h, kind.objects)];
        table.row([kind.kind.clone()].into_iter().chain(numbers).chain(rest));
    }
    table.render(style)
}

fn work(rows: &[Work], style: Style) -> String {
    if rows.is_empty() {
        return "  no requests\n".to_owned();
    }
    let columns = ["calls", "changed", "unchanged", "fresh", "gone", "error", "released"];
    let columns = columns.map(|name| (name, Align::Right));
    let names = [("", Align::Left), ("", Align::Left)];
    let mut table = Table::new(names.into_iter().chain(columns).chain([("changed", Align::Left)]));
    for row in rows {
        let name = row.day.as_ref().or(row.kind.as_ref()).cloned().unwrap_or_default();
        let numbers = [row.calls, row.changed, row.unchanged, row.fresh, row.gone, row.error, row.released];
        let numbers = numbers.map(|number| if number == 0 { "-".to_owned() } else { count(unsigned(number)) });
        let names = [name, row.priority.clone().unwrap_or_default()];
        table.row(names.into_iter().chain(numbers).chain([bar(row.changed, row.ended())]));
    }
    table.render(style)
}

/// A share as a bar with its percentage.
fn bar(part: i64, whole: i64) -> String {
    // No requests have no share.
    if whole <= 0 {
        return String::new();
    }
    let (part, whole) = (unsigned(part).min(unsigned(whole)), unsigned(whole));
    let filled = usize::try_from((part * BAR_WIDTH as u64 + whole / 2) / whole).unwrap_or(BAR_WIDTH).min(BAR_WIDTH);
    format!("{}{} {:>3} %", "█".repeat(filled), "░".repeat(BAR_WIDTH - filled), (part * 100 + whole / 2) / whole)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work_of(kind: &str, priority: &str, changed: i64) -> Work {
        Work {
            day: None,
            kind: Some(kind.to_owned()),
            priority: Some(priority.to_owned()),
            calls: 1200,
            changed,
            unchanged: 300,
            fresh: 0,
            gone: 4,
            error: 1,
            released: 0,
        }
    }

    #[test]
    fn report_shows_freshness_and_calls() {
        let report = Report {
            since: "2026-03-04T05:06:07.089Z".to_owned(),
            runs: 1,
            freshness: vec![Freshness {
                kind: "clan".to_owned(),
                objects: 1000,
                fresh_5_min: 10,
                fresh_30_min: 200,
                fresh_2_h: 400,
                fresh_8_h: 750,
                older: 200,
                never_fetched: 50,
                median_age_seconds: Some(7300.0),
                changed_24_h: 12,
            }],
            work: vec![work_of("clan", "critical", 900), work_of("player", "low", 0)],
            ..Report::default()
        };
        insta::assert_snapshot!(render(&report, Style::PLAIN));
        let nothing = Report { since: "2026-03-04T05:06:07.089Z".to_owned(), ..Report::default() };
        assert!(render(&nothing, Style::PLAIN).contains("nothing has been refreshed yet"));
    }

    #[test]
    fn bar_is_never_longer_than_full() {
        assert_eq!(bar(0, 0), "");
        assert!(bar(3, 2).ends_with("100 %") && bar(0, 7).ends_with("  0 %"));
    }
}
