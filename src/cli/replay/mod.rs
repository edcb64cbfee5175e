//! `replay`: other strategies and budgets, without a call.

mod stdin;

use std::{fmt::Write as _, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    Exit, Misuse, Shared,
    recorded::Recorded,
    report::{Bracket, Rows},
    text::{self, Align, Style, Table, count, percent},
};
use crate::{
    app,
    clock::{Clock as _, SystemClock},
    config::{DatabaseConfig, WorkerConfig, env::process_var},
    planner::{
        Policy, Reads, Strategy,
        replay::{Budget, World},
    },
    store::{Store as _, StoreError},
};

/// More recorded looks would take minutes, and say the same.
const MAX_RECORDS: usize = 1_000_000;

/// All reports of the period are summed up.
const TIMEOUT: Duration = Duration::from_secs(120);

const STRATEGIES: [Strategy; 3] = [Strategy::Value, Strategy::Tiers, Strategy::Age];

/// Compares strategies and budgets of planned looks offline
///
/// Replays the looks that runs recorded (PLANNED_RECORD): the same objects, readers and changes, under
/// another strategy or budget. The records do not say when an object changed between two looks, nor
/// who read a young copy: that is drawn by a seed. Shows the fresh reads of each strategy with the
/// calls that were made, and of value with twice as many. Calls for readers' requests count. The
/// planner learns in the day before. Wars are left out, since they keep their own clock. Needs
/// DATABASE_URL; calls nothing, and changes nothing.
///
/// With --stdin it reads what happens in a world, a line each, and answers each `plan` line with one
/// line of ids: the objects to call next, the most wanted first. Times are whole seconds, ids are
/// numbers.
///
///   object ID clan|player|war FETCHED   what is stored at the start
///   fetched T ID CHANGED ASKED          a response (CHANGED 0 or 1); ASKED: when a reader requested
///                                       it, 0: nobody did
///   listed T ID ACTIVE                  a member in the list of the clan that was fetched last
///                                       (ACTIVE 0 or 1)
///   plan T MOST                         answer with at most MOST ids, possibly none
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  refresh-worker replay
  refresh-worker replay --strategy tiers --since 3d
  refresh-worker replay --planned 40
  refresh-worker replay --stdin < world.txt"
)]
pub struct ReplayArgs {
    /// Only this strategy: value, tiers or age (with --stdin: value, unless given)
    #[arg(long, value_name = "STRATEGY")]
    strategy: Option<Strategy>,
    /// Planned calls a second, over all objects, beside the calls for readers' requests
    #[arg(long, value_name = "N", conflicts_with = "stdin", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    planned: Option<u32>,
    /// Count reads within this time: 90s, 30m, 12h, 2d, 1w; looks are kept for two weeks
    #[arg(long, value_name = "TIME", value_parser = text::parse_span, default_value = "1d", conflicts_with = "stdin")]
    since: Duration,
    /// Draw with this seed
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "stdin")]
    seed: u64,
    /// Write JSON
    #[arg(long, conflicts_with = "stdin")]
    json: bool,
    /// Read the world from standard input
    #[arg(long)]
    stdin: bool,
}

/// The result, for people and for programs.
#[derive(Debug, Serialize)]
struct Replay {
    counted_from: String,
    counted_until: String,
    is_cut: bool,
    objects: u64,
    looks: u64,
    requests: u64,
    /// The sampled part of all looks; `None` when no report tells their number.
    sampled_share: Option<f64>,
    /// The same looks, as the runs estimate them.
    as_recorded_estimated: Outcome,
    replayed: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    strategy: Option<&'static str>,
    budget: String,
    /// Over all objects; of the sample alone when its share is not known.
    calls_per_second: f64,
    reads: f64,
    fresh: Option<Bracket>,
    flagged_share: Option<f64>,
}

impl Outcome {
    fn new(strategy: Option<Strategy>, budget: String, calls_per_second: f64, reads: &Reads) -> Self {
        let all = reads.all();
        Self {
            strategy: strategy.map(Strategy::as_str),
            budget,
            calls_per_second,
            reads: all,
            fresh: Bracket::new(reads.fresh_low, reads.fresh_high, all),
            flagged_share: (all > 0.0).then(|| reads.flagged / all),
        }
    }
}

pub async fn run(args: ReplayArgs, shared: &Shared) -> anyhow::Result<Exit> {
    if args.stdin {
        return stdin::run(args.strategy.unwrap_or_default());
    }
    let policy =
        WorkerConfig::read(&process_var)?.planner.map_or_else(Policy::default, |planner| planner.teaching.policy);
    let store = app::store(&DatabaseConfig::read(&process_var)?)?;
    // A ping explains why the database cannot be reached; a failed query would not. A standby can be read.
    match store.ping().await {
        Ok(()) | Err(StoreError::ReadOnly { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let read = async {
        let recorded = Recorded::read(&store, SystemClock.wall(), args.since, MAX_RECORDS).await?;
        let first = recorded.records.iter().map(|record| record.at).min();
        let rows = match first {
            Some(first) => Rows::read(&mut *store.pool().acquire().await?, first.to_utc()).await?,
            None => Rows::default(),
        };
        anyhow::Ok((recorded, rows))
    };
    let read = tokio::time::timeout(TIMEOUT, read).await;
    let read = read.context("cannot read the recorded looks: the database did not answer within two minutes")?;
    let (recorded, rows) =
        read.context("cannot read the recorded looks; if tables are missing, run `refresh-worker migrate`")?;
    let world = match recorded.world(args.seed, policy) {
        Ok(world) => world,
        Err(why) => {
            let output = if args.json {
                serde_json::to_string_pretty(&serde_json::json!({ "not_replayed": why }))? + "\n"
            } else {
                format!("Nothing to replay: {why}.\n")
            };
            text::print(&output)?;
            return Ok(Exit::Failure);
        }
    };
    let looks = rows.replayable_looks();
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let sampled_share = (looks > 0.0).then(|| (world.amount().responses as f64 / looks).min(1.0));
    let replay = replay(&args, &world, recorded.is_cut, sampled_share)?;
    let output =
        if args.json { serde_json::to_string_pretty(&replay)? + "\n" } else { render(&replay, shared.style()) };
    text::print(&output)?;
    Ok(Exit::Success)
}

fn replay(args: &ReplayArgs, world: &World, is_cut: bool, sampled_share: Option<f64>) -> Result<Replay, Misuse> {
    let budget = match (args.planned, sampled_share) {
        (None, _) => (Budget::Times(1.0), "as recorded".to_owned()),
        (Some(planned), Some(share)) => {
            (Budget::Planned(f64::from(planned) * share), format!("requests and {planned} planned a second"))
        }
        (Some(_), None) => {
            return Err(Misuse(
                "--planned is not possible: no report of the runs tells which part of all looks was recorded. Leave it out to replay \
                 with the recorded calls"
                    .to_owned(),
            ));
        }
    };
    let mut plays: Vec<(Strategy, &(Budget, String))> = match args.strategy {
        Some(strategy) => vec![(strategy, &budget)],
        None => STRATEGIES.map(|strategy| (strategy, &budget)).to_vec(),
    };
    let double = (Budget::Times(2.0), "twice as many calls".to_owned());
    if args.planned.is_none() && args.strategy.is_none_or(|strategy| strategy == Strategy::Value) {
        plays.push((Strategy::Value, &double));
    }
    let scale = sampled_share.unwrap_or(1.0);
    let replayed = plays.into_iter().map(|(strategy, (budget, name))| {
        let played = world.play(strategy, *budget);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let calls = played.looks as f64 / world.amount().covered.as_secs_f64().max(1.0) / scale;
        Outcome::new(Some(strategy), name.clone(), calls, &played.reads)
    });
    let (counted_from, counted_until) = world.counted();
    let amount = world.amount();
    Ok(Replay {
        counted_from: counted_from.to_string(),
        counted_until: counted_until.to_string(),
        is_cut,
        objects: amount.objects,
        looks: amount.responses,
        requests: amount.requests,
        sampled_share,
        as_recorded_estimated: Outcome::new(
            None,
            "as it was".to_owned(),
            world.calls_per_second() / scale,
            &world.as_recorded(),
        ),
        replayed: replayed.collect(),
    })
}

fn render(replay: &Replay, style: Style) -> String {
    let title =
        format!("Replay of recorded looks, {} to {}", minute(&replay.counted_from), minute(&replay.counted_until));
    let calls = if replay.sampled_share.is_some() { "calls a second" } else { "calls a second of the sample" };
    let columns = [
        ("strategy", Align::Left),
        ("budget", Align::Left),
        (calls, Align::Right),
        ("fresh reads", Align::Left),
        ("flagged reads", Align::Right),
        ("", Align::Left),
    ];
    let mut table = Table::new(columns);
    let mut row = |outcome: &Outcome, how: &str| {
        table.row([
            outcome.strategy.unwrap_or("runs").to_owned(),
            outcome.budget.clone(),
            format!("{:.2}", outcome.calls_per_second),
            outcome.fresh.map_or_else(|| "no reads".to_owned(), Bracket::text),
            outcome.flagged_share.map_or_else(|| "-".to_owned(), percent),
            how.to_owned(),
        ]);
    };
    row(&replay.as_recorded_estimated, "estimated");
    replay.replayed.iter().for_each(|outcome| row(outcome, "replayed"));
    let mut text = format!("{}\n{}", style.bold(&title), table.render(style));
    let share = replay.sampled_share.map_or_else(String::new, |share| format!(", {} of all looks", percent(share)));
    let _ = writeln!(
        text,
        "  From {} looks at {} objects{share}, {} of them requested by readers. Reads of young copies and the moments\n  of changes are \
         drawn, so compare the rows with each other.",
        count(replay.looks),
        count(replay.objects),
        count(replay.requests)
    );
    if replay.is_cut {
        let _ = writeln!(
            text,
            "  More is recorded: a replay takes about the newest {} records. A shorter --since needs fewer.",
            count(MAX_RECORDS as u64)
        );
    }
    text
}

/// `2026-03-04 05:06 UTC` of `2026-03-04T05:06:07.089Z`.
fn minute(time: &str) -> String {
    match (time.get(..10), time.get(11..16)) {
        (Some(day), Some(clock)) => format!("{day} {clock} UTC"),
        _ => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn replay_is_a_table_of_brackets() {
        let reads = |flagged, fresh_low, fresh_high| Reads {
            flagged,
            flagged_stale: 50.0,
            unflagged: 1000.0 - flagged,
            fresh_low,
            fresh_high,
        };
        let outcome = |strategy, budget: &str, calls, reads: &Reads| {
            Outcome::new(Some(strategy), budget.to_owned(), calls, reads)
        };
        let mut replay = Replay {
            counted_from: Timestamp::from_millis(1_772_600_767_089).to_string(),
            counted_until: Timestamp::from_millis(1_772_687_167_089).to_string(),
            is_cut: true,
            objects: 2040,
            looks: 23_456,
            requests: 1234,
            sampled_share: Some(0.0102),
            as_recorded_estimated: Outcome::new(None, "as it was".to_owned(), 27.13, &reads(100.0, 484.0, 618.0)),
            replayed: vec![
                outcome(Strategy::Value, "as recorded", 27.11, &reads(110.0, 470.0, 630.0)),
                outcome(Strategy::Tiers, "as recorded", 27.12, &reads(300.0, 371.0, 480.0)),
                outcome(Strategy::Value, "twice as many calls", 54.2, &reads(50.0, 560.0, 700.0)),
                outcome(Strategy::Age, "as recorded", 27.1, &Reads::default()),
            ],
        };
        insta::assert_snapshot!(render(&replay, Style::PLAIN));
        replay.sampled_share = None;
        assert!(render(&replay, Style::PLAIN).contains("calls a second of the sample"));
    }
}
