//! `demo`: the whole job in one process, without any server or configuration.
//!
//! The worker, its limiter and HTTP are real. Only the ends are replaced: the API by the simulator, Redis by the memory
//! queue, PostgreSQL by a SQLite file.

mod contents;
mod plan;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;

use self::{contents::Contents, plan::Entry};
use super::{
    Exit, Shared, dead,
    interrupt::Interrupts,
    progress::Shown,
    summary,
    text::{self, Style, bytes, count, counted},
};
use crate::{
    app,
    clock::{Clock, SystemClock},
    config::{ApiConfig, FollowUpConfig, PlannerConfig, WorkerConfig},
    queue::{DeadFilter, Queue, QueueAdmin, memory::MemoryQueue},
    sim::{SimConfig, Simulator},
    store::{Store, Teaching, sqlite::SqliteStore},
    worker::{
        RunOptions, Runs as _, Worker,
        report::{RunReport, StopReason},
    },
};

/// The one key of the demo's API.
const KEY: &str = "demo-key";

/// The simulated world runs this much faster than real time, so that a demo of seconds shows changes.
const WORLD_SPEED: f64 = 60.0;

/// A key slot outlives its run by one interval of the key's rate, which is up to a second after throttling.
const MAX_TRIES: u32 = 8;
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The time for planned looks at the end. The first of them begin when the last run's slot is free.
const PLANNED_TIME: Duration = Duration::from_secs(4);

/// The response time of the simulated API.
const LATENCY: Duration = Duration::from_millis(40);

/// Shows the whole job on this machine, without any server, account or configuration
///
/// Starts a simulated Clash of Clans API on a free loopback port. Writes a few hundred requests of all kinds and priorities
/// into a mailbox, as the producers do. Then works through them within the rate limit of the API, and stores the results
/// in a SQLite file. A few things go wrong on purpose: an object that does not exist, a private war log, a moment of
/// throttling, a wrong response, unreadable mail. Finally the same objects are requested again, to show which are still
/// fresh and which are unchanged, and spare calls look at players that only member lists have shown so far.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker demo
  refresh-worker demo --requests 2000 --rate 200
  refresh-worker demo --fixtures recorded/       uses recorded responses

You may run it again with the same file. Objects that are still fresh in it are not fetched again.")]
pub struct DemoArgs {
    /// The number of requests to write into the mailbox
    #[arg(long, short = 'n', default_value_t = 300, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// The calls per second that the simulated API allows
    #[arg(long, default_value_t = 30, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// The same seed makes the same world and the same requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Serve the recorded responses of this folder; its manifest.json lists them
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// The SQLite file for the results, created if it is missing
    #[arg(long, default_value = "demo.sqlite", value_name = "PATH")]
    database: PathBuf,
}

pub async fn run(args: DemoArgs, shared: &Shared) -> anyhow::Result<Exit> {
    // Before anything prints, so that an early Ctrl-C ends it cleanly.
    let interrupts = Interrupts::listen()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // In a thread of its own, so that its work does not delay the worker.
    let simulator = Simulator::start_apart(simulator_config(&args)).context("cannot start the simulator")?;
    // One member per clan keeps the demo short.
    let follow_ups = FollowUpConfig { wars: true, players_per_clan: 1 };
    let planner = PlannerConfig { calls_per_second: args.rate, teaching: Teaching::default() };
    let config = WorkerConfig { follow_ups, planner: Some(planner), ..WorkerConfig::default() };
    let store = open(&args.database).await?.with_details(app::commit_details(&config, false));
    let queue = MemoryQueue::new(Arc::clone(&clock));
    let demo = Demo {
        worker: app::worker(Arc::new(queue), Arc::new(store), &api_config(&simulator, args.rate), &config)?,
        simulator,
        clock,
        style: shared.style(),
        args,
    };
    demo.play(interrupts).await
}

fn simulator_config(args: &DemoArgs) -> SimConfig {
    SimConfig {
        seed: args.seed,
        // Enough clans for the requests, of which about a fifth are for clans and a fifth for wars.
        clans: (args.requests as usize / 3).clamp(16, 5_000),
        tokens: vec![KEY.to_owned()],
        // The simulator only counts. On a busy machine a delay may let calls arrive together, which the summary shows.
        rate_limit: None,
        latency: LATENCY,
        fixtures: args.fixtures.clone(),
        evolve: WORLD_SPEED,
        asked_by_others: true,
        ..SimConfig::default()
    }
}

async fn open(path: &Path) -> anyhow::Result<SqliteStore> {
    let store = SqliteStore::open(path).await.context("cannot open the demo's database")?;
    store.migrate().await?;
    Ok(store)
}

fn api_config(simulator: &Simulator, rate: u32) -> ApiConfig {
    ApiConfig {
        base_url: simulator.base_url(),
        tokens: vec![SecretString::from(KEY)],
        reqs_per_sec: rate,
        keys_per_run: None,
        reqs_per_day: None,
        portal: None,
        max_body: crate::api::client::MAX_BODY_BYTES,
    }
}

/// The running demo.
struct Demo {
    worker: Worker<MemoryQueue, SqliteStore>,
    simulator: Simulator,
    clock: Arc<dyn Clock>,
    style: Style,
    args: DemoArgs,
}

impl Demo {
    async fn play(&self, mut interrupts: Interrupts) -> anyhow::Result<Exit> {
        let world = self.simulator.world();
        let requests = self.args.requests as usize;
        // Recorded responses are not disturbed.
        let trouble = self.args.fixtures.is_none();
        let plan = plan::plan(&world, requests, self.args.seed, trouble, self.clock.wall());
        let before = Contents::count(self.worker.store.pool()).await?;
        text::print(&self.welcome(&plan, &before))?;

        plan.rules.iter().cloned().for_each(|rule| self.simulator.misbehave(rule));
        self.post(&plan.entries);
        let first = self.drain(plan.objects.len(), &mut interrupts).await;
        text::print(&self.summary(&first))?;
        let after = Contents::count(self.worker.store.pool()).await?;
        text::print(&self.contents(&before, &after))?;
        text::print(&self.dead_letters().await?)?;

        let mut failed = first.stopped_because.is_failure();
        // Whoever pressed Ctrl-C does not expect a second part.
        if first.stopped_because == StopReason::QueueEmpty {
            // The second part shows freshness, not faults.
            self.simulator.clear();
            let again = plan::again(&plan.objects, self.clock.wall());
            text::print(&self.second_title(again.len()))?;
            self.post(&again);
            let second = self.drain(again.len(), &mut interrupts).await;
            text::print(&self.summary(&second))?;
            failed |= second.stopped_because.is_failure();
            if second.stopped_because == StopReason::QueueEmpty {
                text::print(&self.third_title())?;
                let third = self.look(&mut interrupts).await;
                text::print(&self.summary(&third))?;
                failed |= third.stopped_because.is_failure();
            }
        }
        // SQLite writes its log into the file only when it is closed.
        self.worker.store.close().await;
        text::print(&self.next_steps())?;
        Ok(if failed { Exit::Failure } else { Exit::Success })
    }

    /// Writes requests into the mailbox, as a producer does.
    fn post(&self, entries: &[Entry]) {
        for entry in entries {
            self.worker.queue.put_mail(entry.id.as_str(), f64::from(entry.score), entry.value.as_str());
        }
    }

    /// The planner looks at known objects for a while: only a run with an end does that.
    async fn look(&self, interrupts: &mut Interrupts) -> RunReport {
        let options = RunOptions { max_runtime: Some(PLANNED_TIME), ..RunOptions::default() };
        self.run(options, None, interrupts).await
    }

    async fn drain(&self, objects: usize, interrupts: &mut Interrupts) -> RunReport {
        self.run(RunOptions::default(), Some(objects as u64), interrupts).await
    }

    async fn run(&self, options: RunOptions, objects: Option<u64>, interrupts: &mut Interrupts) -> RunReport {
        let shown = Shown::new(Arc::clone(&self.clock), objects);
        let mut report;
        let mut tries = 0;
        loop {
            let run = Box::pin(self.worker.run(options.clone(), &shown));
            report = interrupts.until_done(run, || self.worker.stop.ask()).await;
            tries += 1;
            if report.stopped_because != StopReason::AlreadyRunning || tries == MAX_TRIES {
                break;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
        shown.finish();
        report
    }

    fn welcome(&self, plan: &plan::Plan, before: &Contents) -> String {
        let style = self.style;
        let requests = counted(plan.entries.len() as u64, "request", "requests");
        let mut text = format!(
            "{}\n  API    simulated, at {}, at most {} calls per second\n  queue  in memory\n  store  {}{}\n",
            style.bold(&format!("{requests} in the mailbox, for {} objects", count(plan.objects.len() as u64))),
            self.simulator.base_url(),
            self.args.rate,
            self.args.database.display(),
            if before.is_empty() {
                ""
            } else {
                ", with the data of an earlier demo: fresh objects are not fetched again"
            },
        );
        if plan.repeated > 0 {
            let _ = writeln!(text, "  {} requested twice, in two spellings", count(plan.repeated as u64));
        }
        for (number, special) in plan.specials.iter().enumerate() {
            let _ = writeln!(text, "  {}{special}", if number == 0 { "on purpose: " } else { "            " });
        }
        text.push('\n');
        text
    }

    fn summary(&self, report: &RunReport) -> String {
        let peak = self.simulator.most_in_any_second(KEY) as u64;
        let mut text = summary::render(report, self.style);
        let _ = writeln!(
            text,
            "  peak        {} in one second, counted by the API, which allows {}",
            counted(peak, "call", "calls"),
            self.args.rate
        );
        text
    }

    fn contents(&self, before: &Contents, after: &Contents) -> String {
        let title = self.style.bold(&format!("What is in {} now", self.args.database.display()));
        format!("\n{title}\n{}", after.render_since(before, self.style))
    }

    async fn dead_letters(&self) -> anyhow::Result<String> {
        let queue = &self.worker.queue;
        let now = queue.time().await?;
        let letters = queue.dead_letters(&DeadFilter::default(), 20).await?;
        if letters.is_empty() {
            return Ok(String::new());
        }
        Ok(format!("\n{}\n{}", self.style.bold("Dead letters"), dead::render(&letters, false, now, self.style)))
    }

    fn second_title(&self, objects: usize) -> String {
        let title = format!("The same {} objects, requested again at once", count(objects as u64));
        format!("\n{}\n\n", self.style.bold(&title))
    }

    fn third_title(&self) -> String {
        let title = format!("Nothing is requested: {} of planned looks", text::span(PLANNED_TIME));
        format!("\n{}\n\n", self.style.bold(&title))
    }

    fn next_steps(&self) -> String {
        let database = self.args.database.display();
        let size = std::fs::metadata(&self.args.database).map(|file| bytes(file.len())).unwrap_or_default();
        // With `cargo run` the path differs from the installed name.
        let command = std::env::args().next().unwrap_or_else(|| "refresh-worker".to_owned());
        format!(
            "\n{} {database} ({size})\n\n{}\n  \
             sqlite3 {database} \"select name, town_hall, trophies from player_snapshots order by trophies desc limit 5\"\n  \
             {command} demo --requests 2000 --rate 200\n  \
             {command} sim\n  \
             {command} check\n\n\
             `sim` serves the simulated API. With REDIS_URL, DATABASE_URL and COC_API_TOKEN set, `check` checks your own\n\
             servers, and `drain` does there what you just saw.\n",
            self.style.bold("The data is in"),
            self.style.bold("Try next"),
        )
    }
}
