//! `demo`: the whole job in one process, with nothing to install and nothing to configure.
//!
//! Real worker, real limiter, real HTTP; only the ends are stand-ins: the simulator for the API, the memory queue for
//! Redis, a SQLite file for PostgreSQL.

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

use self::{contents::Contents, plan::Letter};
use super::{
    Ending, Shared, dead,
    interrupt::Interrupts,
    progress::Shown,
    summary,
    text::{self, Style, bytes, count, counted},
};
use crate::{
    app,
    clock::{Clock, SystemClock},
    config::{ApiConfig, FollowUpConfig, WorkerConfig},
    queue::{DeadFilter, Queue, QueueAdmin, memory::MemoryQueue},
    sim::{SimConfig, Simulator},
    store::{Store, sqlite::SqliteStore},
    worker::{
        RunOptions, Runs as _, Worker,
        report::{RunReport, StopReason},
    },
};

/// The one key of the demo's API.
const KEY: &str = "demo-key";

/// The world changes this much faster than in reality, so that a demo of seconds sees something happen.
const WORLD_SPEED: f64 = 60.0;

/// The slot of a key lives on for one interval of the key's rate after a run, up to a second when it was throttled.
const TRIES: u32 = 8;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// How long the simulated API takes to answer.
const LATENCY: Duration = Duration::from_millis(40);

/// Shows the whole job on this machine: no server, no account, nothing to configure
///
/// Starts a simulated Clash of Clans API on a free loopback port, puts a few hundred requests of all kinds and priorities
/// into a mailbox in the producers' format, and drains them into a SQLite file, within the rate that the API allows. A few
/// things go wrong on purpose: an object that does not exist, a private war log, a throttled moment, a broken answer,
/// unreadable mail. Then the same objects are asked for again, to show what is still fresh and what is unchanged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker demo
  refresh-worker demo --requests 2000 --rate 200
  refresh-worker demo --fixtures recorded/       serves and asks for recorded responses

Running it again with the same file is fine: what is still fresh in it is not asked for again.")]
pub struct DemoArgs {
    /// How many requests to put into the mailbox
    #[arg(long, short = 'n', default_value_t = 300, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// Calls a second that the simulated API allows
    #[arg(long, default_value_t = 30, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// The same seed makes the same world and the same requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Serve and ask for the recorded responses of this folder; its manifest.json lists them
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// The SQLite file to drain into; created when missing
    #[arg(long, default_value = "demo.sqlite", value_name = "PATH")]
    database: PathBuf,
}

pub async fn run(args: DemoArgs, shared: &Shared) -> anyhow::Result<Ending> {
    let interrupts = Interrupts::listen()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let simulator = Simulator::start_apart(simulator_config(&args)).context("failed to start the simulator")?;
    // One member of each clan, so that a demo of seconds stays one.
    let follow_ups = FollowUpConfig { wars: true, players_per_clan: 1 };
    let config = WorkerConfig { follow_ups, ..WorkerConfig::default() };
    let store = open(&args.database).await?.telling(app::telling(&config, false));
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
        // A fifth of the requests is for clans, and as many are for wars.
        clans: (args.requests as usize / 3).clamp(16, 5_000),
        tokens: vec![KEY.to_owned()],
        // It only counts: on a busy machine a late answer may let two calls arrive together, and that is shown, not punished.
        rate_limit: None,
        latency: LATENCY,
        fixtures: args.fixtures.clone(),
        evolve: WORLD_SPEED,
        asked_by_others: true,
        ..SimConfig::default()
    }
}

async fn open(path: &Path) -> anyhow::Result<SqliteStore> {
    let store = SqliteStore::open(path).await.context("failed to open the demo's database")?;
    store.migrate().await.context("failed to prepare the demo's database")?;
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

/// Everything on stage.
struct Demo {
    worker: Worker<MemoryQueue, SqliteStore>,
    simulator: Simulator,
    clock: Arc<dyn Clock>,
    style: Style,
    args: DemoArgs,
}

impl Demo {
    async fn play(&self, mut interrupts: Interrupts) -> anyhow::Result<Ending> {
        let world = self.simulator.world();
        let requests = self.args.requests as usize;
        // Recorded answers are shown as they are.
        let trouble = self.args.fixtures.is_none();
        let plan = plan::plan(&world, requests, self.args.seed, trouble, self.clock.wall());
        let before = Contents::count(self.worker.store.pool()).await?;
        text::print(&self.welcome(&plan, &before))?;

        plan.rules.iter().cloned().for_each(|rule| self.simulator.misbehave(rule));
        self.post(&plan.letters);
        let first = self.drain(plan.objects.len(), &mut interrupts).await;
        text::print(&self.told(&first))?;
        let after = Contents::count(self.worker.store.pool()).await?;
        text::print(&self.told_contents(&before, &after))?;
        text::print(&self.told_dead_letters().await?)?;

        let mut failed = first.stopped_because.is_failure();
        if first.stopped_because == StopReason::QueueEmpty {
            self.simulator.clear();
            let again = plan::again(&plan.objects, self.clock.wall());
            text::print(&self.second_act(again.len()))?;
            self.post(&again);
            let second = self.drain(again.len(), &mut interrupts).await;
            text::print(&self.told(&second))?;
            failed |= second.stopped_because.is_failure();
        }
        self.worker.store.close().await;
        text::print(&self.farewell())?;
        Ok(if failed { Ending::Badly } else { Ending::Well })
    }

    /// What a producer does.
    fn post(&self, letters: &[Letter]) {
        for letter in letters {
            self.worker.queue.put_mail(letter.id.as_str(), f64::from(letter.score), letter.value.as_str());
        }
    }

    async fn drain(&self, objects: usize, interrupts: &mut Interrupts) -> RunReport {
        let shown = Shown::new(Arc::clone(&self.clock), Some(objects as u64));
        let mut report;
        let mut tries = 0;
        loop {
            let run = Box::pin(self.worker.run(RunOptions::default(), &shown));
            report = interrupts.until_done(run, || self.worker.stop.ask()).await;
            tries += 1;
            if report.stopped_because != StopReason::AlreadyRunning || tries == TRIES {
                break;
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        shown.finish();
        report
    }

    fn welcome(&self, plan: &plan::Plan, before: &Contents) -> String {
        let style = self.style;
        let letters = counted(plan.letters.len() as u64, "request", "requests");
        let mut text = format!(
            "{}\n  API    simulated, at {}, {} calls a second allowed\n  queue  in memory\n  store  {}{}\n",
            style.bold(&format!("{letters} in the mailbox, for {} objects", count(plan.objects.len() as u64))),
            self.simulator.base_url(),
            self.args.rate,
            self.args.database.display(),
            if before.is_empty() {
                ""
            } else {
                ", with what an earlier demo left: what is fresh is not asked for again"
            },
        );
        if plan.repeated > 0 {
            let _ = writeln!(text, "  {} asked for twice, in two spellings", count(plan.repeated as u64));
        }
        for (number, special) in plan.specials.iter().enumerate() {
            let _ = writeln!(text, "  {}{special}", if number == 0 { "among them, on purpose: " } else { "  " });
        }
        text.push('\n');
        text
    }

    fn told(&self, report: &RunReport) -> String {
        let peak = self.simulator.most_in_any_second(KEY) as u64;
        let mut text = summary::render(report, self.style);
        let _ = writeln!(
            text,
            "  peak    {} in any one second, as the API saw it; it allows {}",
            counted(peak, "call", "calls"),
            self.args.rate
        );
        text
    }

    fn told_contents(&self, before: &Contents, after: &Contents) -> String {
        let title = self.style.bold(&format!("What is in {} now", self.args.database.display()));
        format!("\n{title}\n{}", after.render_since(before, self.style))
    }

    async fn told_dead_letters(&self) -> anyhow::Result<String> {
        let queue = &self.worker.queue;
        let now = queue.time().await?;
        let letters = queue.dead_letters(&DeadFilter::default(), 20).await?;
        if letters.is_empty() {
            return Ok(String::new());
        }
        Ok(format!("\n{}\n{}", self.style.bold("Dead letters"), dead::render(&letters, false, now, self.style)))
    }

    fn second_act(&self, objects: usize) -> String {
        let title = format!("The same {} objects once more, at once", count(objects as u64));
        format!("\n{}\n\n", self.style.bold(&title))
    }

    fn farewell(&self) -> String {
        let database = self.args.database.display();
        let size = std::fs::metadata(&self.args.database).map(|file| bytes(file.len())).unwrap_or_default();
        let command = std::env::args().next().unwrap_or_else(|| "refresh-worker".to_owned());
        format!(
            "\n{} {database} ({size})\n\n{}\n  \
             sqlite3 {database} \"select name, town_hall, trophies from player_snapshots order by trophies desc limit 5\"\n  \
             {command} demo --requests 2000 --rate 200\n  \
             {command} sim\n  \
             {command} check\n\n\
             `sim` is the simulated API as a server; `check` looks at your own servers, once REDIS_URL, DATABASE_URL and\n\
             COC_API_TOKEN are set, and `drain` then does for them what you just saw.\n",
            self.style.bold("The data is in"),
            self.style.bold("Try next"),
        )
    }
}
